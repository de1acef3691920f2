"""Posterior means against their integrals, and in the limits of strong and unknown intensities."""

import numpy as np
import pytest
from scipy.integrate import quad

from spreadflow.analysis.factors import french_wilson


@pytest.mark.parametrize("is_centric", [False, True])
@pytest.mark.parametrize("intensity, sigma", [(-3.0, 1.0), (0.0, 2.0), (1.5, 1.0), (30.0, 4.0)])
def test_means_are_their_integrals(intensity, sigma, is_centric):
    mean = 5.0

    def density(F):
        of_error = np.exp(-0.5 * ((intensity - F**2) / sigma) ** 2)
        wilson = np.exp(-0.5 * F**2 / mean) if is_centric else F * np.exp(-(F**2) / mean)
        return of_error * wilson

    total = quad(density, 0, 12, limit=200)[0]
    F = quad(lambda F: F * density(F), 0, 12, limit=200)[0] / total
    I = quad(lambda F: F**2 * density(F), 0, 12, limit=200)[0] / total
    found = french_wilson.posterior(
        np.array([intensity]), np.array([sigma]), np.array([mean]), np.array([is_centric])
    )
    assert found.amplitude[0] == pytest.approx(F, rel=2e-3)
    assert found.intensity[0] == pytest.approx(I, rel=2e-3)
    assert found.amplitude_sigma[0] == pytest.approx(np.sqrt(I - F**2), rel=1e-2)


def test_strong_intensities_are_their_squares_and_unknown_ones_the_prior():
    centric = np.array([False, True, False, True])
    found = french_wilson.posterior(
        np.array([1e4, 1e4, 3.0, 3.0]), np.array([1.0, 1.0, 1e6, 1e6]), np.full(4, 100.0), centric
    )
    np.testing.assert_allclose(found.amplitude[:2], 100.0, rtol=1e-4)
    np.testing.assert_allclose(found.amplitude_sigma[:2], 0.005, rtol=1e-2)
    np.testing.assert_allclose(found.intensity[2:], 100.0, rtol=2e-3)
    expected = [np.sqrt(np.pi / 4 * 100), np.sqrt(2 / np.pi * 100)]
    np.testing.assert_allclose(found.amplitude[2:], expected, rtol=2e-3)


def test_chunks_are_one_after_the_other():
    rng = np.random.default_rng(0)
    n = 2 * french_wilson.CHUNK + 3
    intensity = rng.exponential(size=n)
    sigma = np.full(n, 0.3)
    mean = np.ones(n)
    centric = rng.random(n) < 0.2
    whole = french_wilson.posterior(intensity, sigma, mean, centric)
    part = french_wilson.posterior(intensity[-5:], sigma[-5:], mean[-5:], centric[-5:])
    np.testing.assert_array_equal(whole.amplitude[-5:], part.amplitude)
    assert not len(french_wilson.posterior(*np.empty((3, 0)), np.empty(0, bool)).intensity)


def test_a_shell_without_intensities_has_the_mean_of_the_nearest():
    means = french_wilson.shell_means(
        np.array([4.0, 2.0, -9.0]), np.array([True, True, True]), np.array([1, 1, 3]), 5
    )
    np.testing.assert_allclose(means, 3.0)
