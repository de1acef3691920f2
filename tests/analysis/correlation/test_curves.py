"""Curves of colours from sums, and what is fitted to them."""

import numpy as np
import pytest

from spreadflow.analysis.correlation.calculators import CALCULATORS
from spreadflow.analysis.correlation.curves import curves, fit_decay
from spreadflow.analysis.correlation.delays import spaced
from spreadflow.analysis.correlation.engine import Limits
from spreadflow.analysis.correlation.multi_tau import MultiTau
from spreadflow.analysis.correlation.sums import Sums
from spreadflow.stream.speckle import SimulatedShots, Speckle


def test_a_curve_is_the_mean_of_ratios_with_means_over_fine_colours():
    rng = np.random.default_rng(1)
    g2, past, future = rng.uniform(1, 2, (3, 2, 5))
    sums = Sums(np.array([1, 4]), np.array([3, 0]), g2, past, future, np.array([0, 0, 0, 0, 1]))
    colours = np.array([1, 1, 1, 2, 2])
    fine = np.array([1, 1, 2, 3, 3])
    first, second = curves(sums, colours, fine)

    p, f = past[0] / 3, future[0] / 3
    mean_p = np.array([p[:2].mean(), p[:2].mean(), p[2], p[3]])
    mean_f = np.array([f[:2].mean(), f[:2].mean(), f[2], f[3]])
    ratios = g2[0, :4] / 3 / (mean_p * mean_f)
    np.testing.assert_allclose(first.g2, [ratios[:3].mean()])
    excess = p[:4] / mean_p + f[:4] / mean_f - 2
    share = np.array([ratios[:2].mean(), ratios[:2].mean(), ratios[2]])
    scatter = ratios[:3] - share * excess[:3]
    np.testing.assert_allclose(first.sigma, [scatter.std(ddof=1) / np.sqrt(3)])
    np.testing.assert_allclose(second.g2, [ratios[3]])  # the bad pixel is gone
    np.testing.assert_array_equal(first.delays, [1])  # without partners there is no g2
    assert (first.n_pixels, second.n_pixels) == (3, 1)


def test_pixels_without_a_colour_count_in_the_mean_and_in_the_scatter():
    """As many trials scatter as σ says, to 1/√(2 · 600) = 3 %, and over few pixels some more."""
    rng = np.random.default_rng(3)
    colours, fine = np.repeat([1, 0, 0], [20, 10, 5]), np.repeat([4, 4, 9], [20, 10, 5])
    found = []
    for _ in range(600):
        past, future = rng.gamma(25.0, 1.0, (2, 1, 35))
        g2 = 1.2 * past * future
        sums = Sums(np.array([1]), np.array([1]), g2, past, future, np.zeros(35, np.int8))
        (curve,) = curves(sums, colours, fine)
        assert curve.n_pixels == 20
        means = past[0, :30].mean() * future[0, :30].mean()
        np.testing.assert_allclose(curve.g2, [g2[0, :20].mean() / means])
        found.append((curve.g2[0], curve.sigma[0]))
    g2_of_trials, sigmas = np.transpose(found)
    assert np.sqrt(np.mean(sigmas**2)) == pytest.approx(g2_of_trials.std(ddof=1), rel=0.1)


def test_a_colour_whose_pixels_are_all_bad_has_no_curve():
    ones = np.ones((1, 2))
    sums = Sums(np.array([1]), np.array([1]), ones, ones, ones, np.array([1, 0], np.int8))
    assert [curve.colour for curve in curves(sums, np.array([1, 2]), np.array([1, 2]))] == [2]


@pytest.mark.parametrize("number", [5, 30, 100])
def test_delays_are_distinct_and_as_many_as_asked_for(number):
    delays = spaced(1, 1000, number, is_logarithmic=True)
    assert (delays[0], delays[-1]) == (1, 1000)
    assert (np.diff(delays) > 0).all()
    assert number - 1 <= len(delays) <= number
    np.testing.assert_array_equal(spaced(1, 7, 3, is_logarithmic=False), [1, 4, 7])
    np.testing.assert_array_equal(spaced(1, 3, 100, is_logarithmic=True), [1, 2, 3])


N_RUNS = 80
"""Groups of pixels of simulated speckle: as many runs, with the same shots."""


def speckle_sums(calculator_for, n_pixels: int, seed: int = 1) -> Sums:
    """Return the sums that a calculator forms of speckle with gaps: contrast 1/2, Γ = 0.05."""
    speckle = Speckle(
        n_shots=1500,
        shape=(n_pixels,),
        mean_photons=2.0,
        decay=0.05,
        n_modes=2,
        stretch=1.0,
        noise="poisson",
        noise_photons=0.0,
        missing=0.1,
        duplicate=0.0,
        disordered=0.1,
        disorder_shots=5,
        late=0.0,
        late_shots=1,
        n_dead=0,
        n_saturated=0,
        saturated=1e6,
        seed=seed,
    )
    calculator = calculator_for(n_pixels)
    for block in SimulatedShots(speckle, 256).blocks(0, 1, lambda _event: True):
        calculator.add(block.shot_ids, block.images)
    return calculator.result()


def exact(n_pixels: int):
    """Return the calculator of the whole run."""
    delays = spaced(1, 100, 20, is_logarithmic=True)
    return CALCULATORS["accumulating"](n_pixels, delays, 400, Limits(1e-5, 1e6))


@pytest.mark.stage
def test_contrast_and_rate_of_speckle_come_back_within_their_sigmas():
    """The standard deviation of as many pulls scatters by 1/√(2 · 80) = 0.08."""
    n_pixels = 64
    sums = speckle_sums(exact, N_RUNS * n_pixels)
    run_of_pixel = np.repeat(np.arange(N_RUNS) + 1, n_pixels)
    fits = [fit_decay(curve) for curve in curves(sums, run_of_pixel, run_of_pixel)]
    assert len(fits) == N_RUNS
    for name, true, k in (("contrast", 0.5, 1), ("rate", 0.05, 2)):
        pulls = np.array([(getattr(fit, name) - true) / fit.sigmas[k] for fit in fits])
        assert abs(np.mean(pulls)) < 3 / np.sqrt(N_RUNS)
        assert 0.8 < np.std(pulls) < 1.2


@pytest.mark.stage
def test_multi_tau_agrees_within_its_bias():
    ones = np.ones(256, int)
    of_exact, of_multi_tau = (
        fit_decay(curves(speckle_sums(calculator_for, 256, seed=7), ones, ones)[0])
        for calculator_for in (exact, lambda n: MultiTau(n, 5, 8, Limits(1e-5, 1e6)))
    )
    assert of_multi_tau.rate == pytest.approx(of_exact.rate, abs=3 * of_exact.sigmas[2])
    assert of_multi_tau.contrast == pytest.approx(of_exact.contrast, abs=3 * of_exact.sigmas[1])
