"""Water and air: the published tables and magnitudes."""

import numpy as np
import pytest

from spreadflow.physics.background import AIR, WATER, background, factor, molecules_per_area


@pytest.mark.parametrize("material", [WATER, AIR])
def test_factor_meets_the_table_and_is_a_cubic_between(material):
    x, y = np.array(material.stol), np.array(material.factor)
    np.testing.assert_allclose(factor(material, x), y, atol=1e-12)
    np.testing.assert_allclose(factor(material, np.array([0.6, 1.0])), y[-1])
    inner = np.linspace(x[1], x[2], 9)[1:-1]
    # the two points on either side of the second interval
    through = np.polynomial.Polynomial.fit(x[:4], y[:4], 3)
    np.testing.assert_allclose(factor(material, inner), through(inner), rtol=1e-9)


def test_published_magnitudes_at_the_beam_centre():
    """10.2 photons per pixel of 0.088 mm at 141.7 mm from 0.1 mm of water, 0.79 from 10 mm of air,
    before F².
    """
    solid_angle = np.array([(0.088 / 141.7) ** 2])
    for material, thickness, published in ((WATER, 0.1, 10.2), (AIR, 10.0, 0.79)):
        alone = [thickness if material is m else 0.0 for m in (WATER, AIR)]
        photons = background(np.zeros(1), solid_angle, np.float64(1.74), 1e12, *alone)[0]
        per_f_squared = photons / material.factor[0] ** 2
        assert per_f_squared == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 1e-5), (np.float64, 1e-6)])
def test_pixels_follow_the_cubics(dtype, bound):
    """F² looked up for an image is F² of the cubics, also next to the points of the table and
    beyond its end.
    """
    wavelength = 1.7413
    points = np.array(sorted({*WATER.stol, *AIR.stol}))
    stol = np.concatenate([np.linspace(0, 0.57, 200_001), points, points[1:] - 1e-6, points + 1e-6])
    sine = (stol * wavelength).astype(dtype)
    pixel = np.full(stol.shape, 4e-7, dtype)
    photons = background(sine, pixel, np.float64(wavelength), 1e12, 0.1, 10.0)
    parts = [
        molecules_per_area(m, mm) * factor(m, sine.astype(float) / wavelength) ** 2
        for m, mm in ((WATER, 0.1), (AIR, 10.0))
    ]
    expected = 7.94079248e-30 * 1e12 * pixel.astype(float) * sum(parts)
    assert photons.dtype == dtype
    np.testing.assert_allclose(photons, expected, rtol=bound)


def test_water_molecules():
    assert molecules_per_area(WATER, 1.0) == pytest.approx(3.345e25, rel=1e-3)  # 55.5 mol per litre
