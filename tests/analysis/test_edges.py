"""E0 of sites: exact where there is no noise, unbiased and with honest σ where there is, whatever the restraints."""

import numpy as np
import pytest

from spreadflow.analysis import dispersion
from spreadflow.analysis.edges import edges
from spreadflow.physics import anomalous

ENERGIES = np.arange(100) + 7070.5
NODES = np.arange(7070.0, 7171.0, 2.0)
FINE = np.arange(7040.0, 7200.0, 0.25)
SHAPE = (FINE, anomalous.site("Fe", "reduced", FINE))


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


@pytest.mark.parametrize("name", PARAMETRISATIONS)
@pytest.mark.parametrize("shifts", [(2.0, 0.0), (0.3, -1.7), (-4.0, 9.0)])
def test_edges_without_noise(curve_pixels, name, shifts):
    p = PARAMETRISATIONS[name]
    offset = 0.3 if name == "kramers_kronig" else 0.3 - 0.2j
    found = edges(p, *curve_pixels.refined(p, curve_pixels.said(truth(*shifts, offset=offset))), SHAPE)
    np.testing.assert_allclose(found.shift_ev, shifts, atol=0.02)
    assert found.difference_ev[0, 1] == pytest.approx(shifts[0] - shifts[1], abs=0.02)
    np.testing.assert_allclose(found.energy_ev, 7116.0 + np.array(shifts), atol=0.15)
    np.testing.assert_allclose(found.offset_e, np.tile([offset.real, np.imag(offset)], (2, 1)), atol=0.05)
    assert found.chi2 < 0.02 * found.n_degrees


@pytest.mark.parametrize("name", ["free", "kramers_kronig", "toward"])
def test_differences_have_no_bias_and_an_honest_sigma(curve_pixels, name):
    """40 draws; also where restraints pull both sites to the same wrong curve."""
    p, rng, pulls, chi2 = PARAMETRISATIONS[name], np.random.default_rng(5), [], []
    for _ in range(40):
        found = edges(p, *curve_pixels.refined(p, curve_pixels.said(truth(2.0, 0.0), rng)), SHAPE)
        pulls.append((found.difference_ev[0, 1] - 2.0) / found.difference_sigma_ev[0, 1])
        chi2.append(found.chi2 / found.n_degrees)
    assert 0.05 < found.difference_sigma_ev[0, 1] < 0.25
    assert abs(np.mean(pulls)) < 3.5 / np.sqrt(40)
    assert np.std(pulls) == pytest.approx(1.0, abs=3.5 / np.sqrt(80))
    assert np.mean(chi2) == pytest.approx(1.0, abs=0.08)


def test_the_scatter_brings_its_own_errors(curve_pixels):
    """Lattices that scatter three times as much as they should."""
    p = PARAMETRISATIONS["free"]
    theta, pixels = curve_pixels.refined(p, curve_pixels.said(truth(2.0, 0.0), np.random.default_rng(6)))
    plain = edges(p, theta, pixels, SHAPE)
    same, wide = (edges(p, theta, pixels, SHAPE, noise=f * pixels) for f in (1.0, 9.0))
    np.testing.assert_allclose(same.covariance, plain.covariance, rtol=1e-6)
    np.testing.assert_allclose(wide.difference_sigma_ev[0, 1], 3.0 * plain.difference_sigma_ev[0, 1], rtol=0.05)
    np.testing.assert_array_equal(wide.shift_ev, plain.shift_ev)


@pytest.mark.parametrize("build", [dispersion.free, dispersion.kramers_kronig])
def test_what_is_outside_the_window_does_not_count(curve_pixels, build):
    """One site has a line 25 eV above its edge that the shape has not; f' is its pair where the fit takes it to be."""
    p = build(REFERENCE, ENERGIES, NODES)
    line = 2.0 * np.exp(-0.5 * ((NODES - 7142.0) / 3.0) ** 2)
    strange, own = truth(2.0, 0.0), dispersion.hats(ENERGIES, NODES) @ line
    real = own if build is dispersion.free else dispersion.dispersion(ENERGIES, NODES) @ line
    strange[0] += np.stack([real, own])
    refined = curve_pixels.refined(p, curve_pixels.said(strange))
    whole, part = (edges(p, *refined, SHAPE, window_ev=window) for window in ((7000.0, 7200.0), (7000.0, 7131.0)))
    assert abs(part.difference_ev[0, 1] - 2.0) < 0.05 < abs(whole.difference_ev[0, 1] - 2.0)
    assert part.chi2 < 0.1 * whole.chi2


def test_a_smoothed_fit_is_refused():
    p = dispersion.smooth(PARAMETRISATIONS["free"])
    n = len(p.names)
    with pytest.raises(ValueError, match="smoothness"):
        edges(p, np.zeros(n), np.eye(n), SHAPE)
