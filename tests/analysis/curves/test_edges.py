"""E0 of sites: exact where there is no noise, unbiased and with honest σ where there is, whatever
the restraints.
"""

import numpy as np
import pytest

from spreadflow.analysis.curves import dispersion
from spreadflow.analysis.curves.edges import edges
from spreadflow.physics import anomalous

ENERGIES = np.arange(100) + 7070.5
NODES = np.arange(7070.0, 7171.0, 2.0)
FINE = np.arange(7040.0, 7200.0, 0.25)
REDUCED = anomalous.site("Fe", "reduced", FINE)
SHAPES = (FINE, np.array([REDUCED, REDUCED]))


def truth(*shifts: float, offset: complex = 0.0) -> np.ndarray:
    """(site, 2, channel) sites with edges shifted from the reduced one's."""
    curves = [anomalous.shifted("Fe", 4.0 + shift, ENERGIES) + offset for shift in shifts]
    return np.stack([np.real(curves), np.imag(curves)], axis=1)


REFERENCE = truth(1.0, 1.0)
PARAMETRISATIONS = {
    "free": dispersion.free(REFERENCE, ENERGIES, NODES),
    "kramers_kronig": dispersion.kramers_kronig(REFERENCE, ENERGIES, NODES),
    "penalty": dispersion.toward_kramers_kronig(dispersion.free(REFERENCE, ENERGIES, NODES)),
    "toward": dispersion.toward(dispersion.free(REFERENCE, ENERGIES, NODES), truth(1.0, 1.0), 0.3),
}


@pytest.mark.stage
@pytest.mark.parametrize("name", PARAMETRISATIONS)
@pytest.mark.parametrize("shifts", [(2.0, 0.0), (0.3, -1.7), (-4.0, 9.0)])
def test_edges_without_noise(curve_pixels, name, shifts):
    p = PARAMETRISATIONS[name]
    offset = 0.3 if name == "kramers_kronig" else 0.3 - 0.2j
    slope = curve_pixels.slope(truth(*shifts, offset=offset))
    found = edges(p, *curve_pixels.refined(p, slope), SHAPES)
    np.testing.assert_allclose(found.shift_ev, shifts, atol=0.02)
    assert found.difference_ev[0, 1] == pytest.approx(shifts[0] - shifts[1], abs=0.02)
    np.testing.assert_allclose(found.energy_ev, 7116.0 + np.array(shifts), atol=0.15)
    offsets = np.tile([offset.real, np.imag(offset)], (2, 1))
    np.testing.assert_allclose(found.offset_e, offsets, atol=0.05)


@pytest.mark.stage
@pytest.mark.parametrize("name", ["free", "kramers_kronig", "toward"])
def test_differences_have_no_bias_and_an_honest_sigma(curve_pixels, name):
    """40 draws; also where restraints pull both sites to the same wrong curve."""
    p = PARAMETRISATIONS[name]
    rng = np.random.default_rng(5)
    pulls = []
    for _ in range(40):
        slope = curve_pixels.slope(truth(2.0, 0.0), rng)
        found = edges(p, *curve_pixels.refined(p, slope), SHAPES)
        sigma = found.difference_sigma_ev[0, 1]
        pulls.append((found.difference_ev[0, 1] - 2.0) / sigma)
    assert 0.05 < sigma < 0.25
    assert abs(np.mean(pulls)) < 3.5 / np.sqrt(40)
    assert np.std(pulls) == pytest.approx(1.0, abs=3.5 / np.sqrt(80))


def test_the_scatter_brings_its_own_errors(curve_pixels):
    """Lattices that scatter three times as much as they should."""
    p = PARAMETRISATIONS["free"]
    slope = curve_pixels.slope(truth(2.0, 0.0), np.random.default_rng(6))
    theta, pixels = curve_pixels.refined(p, slope)
    plain = edges(p, theta, pixels, SHAPES)
    same, wide = (edges(p, theta, pixels, SHAPES, noise=f * pixels) for f in (1.0, 9.0))
    np.testing.assert_allclose(same.covariance, plain.covariance, rtol=1e-6)
    expected = 3.0 * plain.difference_sigma_ev[0, 1]
    np.testing.assert_allclose(wide.difference_sigma_ev[0, 1], expected, rtol=0.05)
    np.testing.assert_array_equal(wide.shift_ev, plain.shift_ev)


def test_each_site_has_a_shape_of_its_own(curve_pixels):
    """The second is of an element whose edge is 9 eV lower and half as high."""
    other = 0.5 * anomalous.shifted("Fe", 4.0 - 9.0, FINE)
    p = PARAMETRISATIONS["free"]
    moved = np.interp(ENERGIES - 1.0, FINE, other)
    curves = np.concatenate([truth(2.0), [[moved.real, moved.imag]]])
    shapes = (FINE, np.array([REDUCED, other]))
    found = edges(p, *curve_pixels.refined(p, curve_pixels.slope(curves)), shapes)
    np.testing.assert_allclose(found.shift_ev, [2.0, 1.0], atol=0.02)
    np.testing.assert_allclose(found.energy_ev, [7118.0, 7108.0], atol=0.15)


def test_a_site_without_an_edge_has_none(curve_pixels):
    """Its f'' falls where a metal's would rise; that of the other is found all the same."""
    p = PARAMETRISATIONS["free"]
    curves = truth(2.0, 0.0)
    curves[1] = 2.0 * curves[1].mean(axis=1, keepdims=True) - curves[1]
    found = edges(p, *curve_pixels.refined(p, curve_pixels.slope(curves)), SHAPES)
    assert np.isnan([found.shift_ev[1], found.energy_ev[1], found.covariance[1, 1]]).all()
    assert np.isnan(found.difference_ev[0, 1])
    assert found.shift_ev[0] == pytest.approx(2.0, abs=0.1) and 0.0 < found.covariance[0, 0] < 0.1


def test_a_smoothed_fit_is_refused():
    p = dispersion.smooth(PARAMETRISATIONS["free"])
    n = len(p.names)
    with pytest.raises(ValueError, match="smoothness"):
        edges(p, np.zeros(n), np.eye(n), SHAPES)
