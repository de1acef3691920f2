"""The likelihood of pixels beside scipy's distributions, its derivatives beside differences and
draws.
"""

import numpy as np
import pytest
from scipy import stats

from spreadflow.analysis.pixels.likelihood import FLOOR, dark, pixelwise, variance
from spreadflow.models import Noise

MODEL = np.array([0.02, 0.7, 3.0, 40.0, 900.0, 2e4])
NOISE = Noise(1.5, 0.02)


def test_the_normal_loss_is_minus_the_logarithm_of_the_density():
    model = MODEL[dark(NOISE) < MODEL]
    data = model + np.array([-0.6, 2.0, -9.0, 60.0, 500.0])
    sigma = np.sqrt(model + 1.5**2 + (0.02 * model) ** 2)
    expected = -stats.norm.logpdf(data, model, sigma)
    np.testing.assert_allclose(pixelwise(data, model, NOISE).loss, expected, rtol=1e-12)
    np.testing.assert_allclose(variance(model, NOISE), sigma**2, rtol=1e-14)


def test_the_poisson_loss_differs_from_model_to_model_as_the_probabilities_do():
    data = np.array([0.0, 1.0, 2.0, 44.0, 870.0, 20100.0])
    quiet = Noise(0.0, 0.0)
    brighter, model = (
        pixelwise(data, factor * MODEL, quiet, "poisson").loss for factor in (1.1, 1.0)
    )
    expected = stats.poisson.logpmf(data, MODEL) - stats.poisson.logpmf(data, 1.1 * MODEL)
    np.testing.assert_allclose(brighter - model, expected, rtol=1e-9)


@pytest.mark.parametrize("target", ["normal", "poisson"])
def test_the_score_is_the_slope_of_the_loss(target):
    data = MODEL + np.array([2.0, -0.5, 2.0, 30.0, -80.0, 900.0])
    step = 1e-5 * MODEL
    up, down = (pixelwise(data, MODEL + d, NOISE, target).loss for d in (step, -step))
    score = pixelwise(data, MODEL, NOISE, target).score
    np.testing.assert_allclose(score, (up - down) / (2 * step), rtol=1e-5)


@pytest.mark.parametrize("target", ["normal", "poisson"])
@pytest.mark.parametrize("readout", [0.0, 1.5])
def test_below_zero_the_loss_has_a_slope_that_leads_to_the_data(target, readout):
    """A plane may be below zero where there is no background."""
    model = np.array([0.3, -0.3, -1.2, -5.0, -2.0])
    noise = Noise(readout, 0.02)
    for data in (np.zeros(5), np.array([0.0, 2.0, -1.0, 1.0, 0.0])):
        up, here, down = (pixelwise(data, model + d, noise, target) for d in (1e-6, 0.0, -1e-6))
        np.testing.assert_allclose(here.score, (up.loss - down.loss) / 2e-6, rtol=1e-5)
    assert (here.score[2:] < 0).all()
    above, below = (
        pixelwise(data, np.full(5, dark(noise) + d), noise, target) for d in (1e-9, -1e-9)
    )
    np.testing.assert_allclose(above.score, below.score, rtol=1e-3)


@pytest.mark.parametrize("target", ["normal", "poisson"])
def test_the_information_is_the_mean_square_of_the_score(target):
    """For data drawn from the model; the mean score is zero."""
    n = 200_000
    rng = np.random.default_rng(1)
    noise = NOISE if target == "normal" else Noise(0.0, 0.0)
    for m in MODEL[1:]:
        sigma = np.sqrt(variance(np.array([m]), noise))
        data = rng.normal(m, sigma, n) if target == "normal" else rng.poisson(m, n).astype(float)
        _, score, information = pixelwise(data, np.full(n, m), noise, target)
        assert (score**2).mean() == pytest.approx(information[0], rel=0.03)
        assert abs(score.mean()) < 5 * np.sqrt(information[0] / n)


def test_a_model_without_photons_is_finite():
    quiet = Noise(0.0, 0.0)
    data = np.array([0.0, 3.0, -2.0])
    by_pixel = pixelwise(data, np.array([0.0, -5.0, 0.0]), quiet, "poisson")
    assert all(np.isfinite(column).all() for column in by_pixel)
    with_readout = variance(np.array([0.3, 0.25, 0.0, -9.0]), Noise(1.0, 0.0))
    np.testing.assert_allclose(with_readout, [1.3, 1.25, 1.125, 1 + 1 / 152])
    assert variance(np.array([0.0]), quiet) == pytest.approx(FLOOR / 2)
