"""Curves of colours from sums, and what is fitted to them."""

import numpy as np
import pytest

from spreadflow.analysis.correlation.calculators import CALCULATORS, Limits
from spreadflow.analysis.correlation.curves import curves, fit_decay
from spreadflow.analysis.correlation.delays import spaced
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


def simulated(seed: int, n_shots: int = 1500, n_pixels: int = 256) -> SimulatedShots:
    """Return speckle with gaps: contrast 1/2, Γ = 0.05."""
    speckle = Speckle(
        n_shots=n_shots,
        shape=(n_pixels,),
        mean_photons=2.0,
        decay=0.05,
        n_modes=2,
        is_poisson=True,
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
    return SimulatedShots(speckle, 256)


def fitted(calculator, seed: int):
    """Return the decay fitted to what a calculator makes of simulated speckle."""
    source = simulated(seed)
    for block in source.blocks(0, 1, lambda _event: True):
        calculator.add(block.shot_ids, block.images)
    sums = calculator.result()
    ones = np.ones(sums.g2.shape[1], int)
    (curve,) = curves(sums, ones, ones)
    return fit_decay(curve)


@pytest.mark.stage
def test_contrast_and_rate_of_speckle_come_back_within_their_sigmas():
    delays = spaced(1, 100, 20, is_logarithmic=True)
    fits = [
        fitted(CALCULATORS["accumulating"](256, delays, 400, Limits(1e-5, 1e6)), seed)
        for seed in range(20)
    ]
    for name, true, k in (("contrast", 0.5, 1), ("rate", 0.05, 2)):
        pulls = np.array([(getattr(fit, name) - true) / fit.sigmas[k] for fit in fits])
        print(name, np.mean(pulls), np.std(pulls))
        assert abs(np.mean(pulls)) < 3 / np.sqrt(20)
        assert 0.6 < np.std(pulls) < 1.5  # 0.8-1.2 within the scatter of 20


@pytest.mark.stage
def test_multi_tau_agrees_within_its_bias():
    exact = fitted(
        CALCULATORS["accumulating"](
            256, spaced(1, 100, 20, is_logarithmic=True), 400, Limits(1e-5, 1e6)
        ),
        7,
    )
    averaged = fitted(MultiTau(256, 5, 8, Limits(1e-5, 1e6)), 7)
    assert averaged.rate == pytest.approx(exact.rate, abs=3 * exact.sigmas[2])
    assert averaged.contrast == pytest.approx(exact.contrast, abs=3 * exact.sigmas[1])
