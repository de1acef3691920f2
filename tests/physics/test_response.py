"""What a detector makes of photons: known integrals, moments and limits."""

import numpy as np
import pytest

from spreadflow.models import Detector
from spreadflow.physics import response, rotation

FLAT = Detector(
    np.array([[-30.0, 20.0, -50.0]]), np.array([[1.0, 0, 0]]), np.array([[0, -1.0, 0]]), 0.25, (160, 240), 0.032, 0.017
)
READ = {"kernel": None, "readout_adu": 0.0, "offset_adu": 0.0, "saturation_adu": 10**9}


def test_solid_angle_of_a_rectangle():
    """4 atan(ab / (d √(a² + b² + d²))) for half edges a, b at distance d, whatever way the panel is turned."""
    exact = 4 * np.arctan(30.0 * 20.0 / (50.0 * np.sqrt(30.0**2 + 20.0**2 + 50.0**2)))
    turn = rotation.from_vector(np.array([0.4, -0.3, 0.2]))
    for panel in (FLAT, FLAT._replace(origin_mm=FLAT.origin_mm @ turn, fast=FLAT.fast @ turn, slow=FLAT.slow @ turn)):
        seen = panel._replace(thickness_mm=0.0)
        polarized, _ = response.pixel_map(seen, 0.0)
        direction = 1.0 - 2.0 * response.pixel_map(seen, 0.0)[1] ** 2  # cos 2θ
        assert (polarized / (0.5 * (1 + direction**2))).sum() == pytest.approx(exact, rel=1e-5)


def test_capture_and_polarization():
    thick, sine = response.pixel_map(FLAT, 1.0)
    thin, _ = response.pixel_map(FLAT._replace(thickness_mm=0.0), 1.0)
    centre = np.unravel_index(sine.argmin(), sine.shape)
    assert (thick / thin)[centre] == pytest.approx(0.848, abs=1e-3)  # published, on the axis
    assert (thick / thin).argmin() == np.ravel_multi_index(centre, sine.shape), "oblique rays stay longer"
    unpolarized, _ = response.pixel_map(FLAT, 0.0)
    factor = thick / unpolarized
    assert factor[0, 80, 0] < 0.9 < 1.0 < factor[0, 0, 120]  # along the polarization less is scattered
    np.testing.assert_allclose(factor + response.pixel_map(FLAT, -1.0)[0] / unpolarized, 2.0)


def test_captured_fraction():
    """The published sensor head on and at 60°; everything where thickness or attenuation is not known."""
    rays, normal = np.array([[0.0, 0, -1.0], [np.sqrt(0.75), 0, -0.5]]).T, np.array([0.0, 0.0, 1.0])
    fraction = response.captured(rays, normal, response.depth(FLAT))
    np.testing.assert_allclose(fraction, [1 - np.exp(-32 / 17), 1 - np.exp(-64 / 17)])
    for one in ("thickness_mm", "attenuation_mm"):
        assert (response.captured(rays, normal, response.depth(FLAT._replace(**{one: 0.0}))) == 1).all()


def test_polarization_limits():
    """Nothing at 90° along a complete polarization, everything across it; the mean of both without any."""
    s1 = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, -1.0]])
    np.testing.assert_allclose(response.kahn(s1.T, 1.0), [0, 1, 1])
    np.testing.assert_allclose(response.kahn(s1.T, 0.0), [0.5, 0.5, 1])


def test_poisson_moments_and_readout():
    expected = np.full((1, 300, 300), 37.0)
    gain = np.ones(expected.shape, dtype=np.float32)
    frame = response.read_out(np.random.default_rng(0), expected, gain, **READ)
    assert frame.dtype == np.int32
    assert frame.mean() == pytest.approx(37.0, rel=0.005) and frame.var() == pytest.approx(37.0, rel=0.02)
    noisy = response.read_out(
        np.random.default_rng(0), expected, gain, **(READ | {"readout_adu": 4.0, "offset_adu": 10})
    )
    assert noisy.mean() == pytest.approx(47.0, rel=0.005) and noisy.var() == pytest.approx(37 + 16, rel=0.02)
    again = response.read_out(np.random.default_rng(0), expected, gain, **READ)
    np.testing.assert_array_equal(frame, again)


def test_gain_map():
    gain = response.gain_map(np.random.default_rng(1), (2, 200, 200), 0.01)
    assert gain.mean() == pytest.approx(1.0, abs=2e-4) and gain.std() == pytest.approx(0.01, rel=0.02)
    bright = np.full(gain.shape, 1e8)
    frame = response.read_out(np.random.default_rng(0), bright, gain, **READ)
    np.testing.assert_allclose(frame / 1e8, gain, atol=1e-3)


def test_beyond_saturation_a_pixel_reads_one_more():
    expected = np.array([[[10.0, 1e6, 1e12]]])
    how = READ | {"saturation_adu": 5000}
    frame = response.read_out(np.random.default_rng(0), expected, np.ones((1, 1, 3), np.float32), **how)
    assert frame[0, 0, 0] < 100 and list(frame[0, 0, 1:]) == [5001, 5001]


def test_point_spread_is_the_published_one():
    kernel = response.fibre_kernel(0.08, 0.088, 10)
    g = 0.65238 * 0.08 / 0.088
    assert kernel[10, 10] == pytest.approx(by_pixel_at(g, 0, 0), rel=1e-4)
    assert kernel[10, 12] == pytest.approx(by_pixel_at(g, 0, 2), rel=1e-4)
    assert kernel[13, 14] == pytest.approx(by_pixel_at(g, 3, 4), rel=1e-4)
    assert kernel.sum() == pytest.approx(1 - g / np.hypot(g, 10.0), abs=2e-3)  # the tail beyond the disc
    assert kernel[0, 0] == 0


def by_pixel_at(g: float, i: int, j: int) -> float:
    """The point spread integrated over the pixel (i, j) by a fine midpoint rule."""
    step = (np.arange(400) + 0.5) / 400 - 0.5
    return float((g / (2 * np.pi) * (g * g + (i + step[:, None]) ** 2 + (j + step) ** 2) ** -1.5).mean())


def test_point_spread_keeps_the_flux():
    image = np.zeros((2, 101, 101))
    image[0, 50, 50], image[1, 40, 60] = 1000.0, 50.0
    kernel = response.fibre_kernel(0.1, 0.1, 10)
    spread = response.spread_out(image, kernel)
    np.testing.assert_allclose(spread.sum(axis=(1, 2)), image.sum(axis=(1, 2)), rtol=1e-9)
    assert spread[0, 50, 50] == spread[0].max() and spread[0, 50, 53] == pytest.approx(spread[0, 53, 50])
