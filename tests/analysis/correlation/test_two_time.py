"""Correlation of each two shots: against loops, exact g2, and a sample that ages as is known."""

import numpy as np
import pytest

from spreadflow.analysis.correlation.calculators import CALCULATORS
from spreadflow.analysis.correlation.curves import curves
from spreadflow.analysis.correlation.engine import Limits
from spreadflow.analysis.correlation.two_time import (
    TwoTimeShots,
    TwoTimeSums,
    g2_by_age,
    labels_of,
    two_time,
)

COLOURS = np.array([1, 1, 3, 3, 3, 1, 0, 3, 7])
FINE = np.array([5, 5, 5, 6, 6, 6, 5, 6, 8])
"""The pixel without a colour has a part in the mean of its fine colour."""

LIMITS = Limits(not_zero=1e-5, saturated=1e3)
DELAYS = np.array([1, 2, 5, 9])


@pytest.fixture(scope="module")
def stream() -> tuple[np.ndarray, np.ndarray]:
    """Times with gaps, duplicates and disorder, and images (shot, pixel); the pixel before the last
    one is bad, and so is the last one, the only one of its colour.
    """
    rng = np.random.default_rng(3)
    times = np.flatnonzero(rng.random(200) < 0.7) + 1000
    times = np.concatenate([times, rng.choice(times, 15)])
    times = times[np.argsort(times + rng.integers(0, 6, len(times)), kind="stable")]
    images = rng.gamma(2.0, 3.0, (len(times), len(COLOURS))).astype(np.float32)
    images[20, -2:] = 1e4
    return times, images


def sums_of(stream, pixels: slice = slice(None), n_shots: int = 60) -> TwoTimeSums:
    """Return the sums of some of the pixels."""
    times, images = stream
    labels = labels_of(COLOURS, FINE)
    calculator = TwoTimeShots(labels.of_pixel[pixels], len(labels.colours), n_shots, LIMITS)
    for first in range(0, len(times), 50):
        block = slice(first, first + 50)
        calculator.add(times[block], np.ascontiguousarray(images[block, pixels]))
    return calculator.result()


def test_c_is_the_mean_of_ratios_with_means_over_fine_colours(stream):
    times, images = stream
    result = two_time(sums_of(stream), labels_of(COLOURS, FINE))
    held = np.unique(times)[-60:]
    np.testing.assert_array_equal(result.times, held)
    np.testing.assert_array_equal(result.colours, [1, 3, 7])
    values = np.array([images[times.tolist().index(time)] for time in held], float)[:, :-2]
    means = np.empty_like(values)
    for fine in (5, 6):
        means[:, FINE[:-2] == fine] = values[:, FINE[:-2] == fine].mean(axis=1, keepdims=True)
    for i, colour in enumerate((1, 3)):
        own = (values / means)[:, COLOURS[:-2] == colour]
        expected = [[np.mean(a * b) for b in own] for a in own]
        np.testing.assert_allclose(result.correlation[i], expected, rtol=1e-12)
    assert np.isnan(result.correlation[2]).all()


def test_shards_of_pixels_add_up(stream):
    whole = sums_of(stream)
    first, second = (sums_of(stream, pixels) for pixels in (slice(3), slice(3, None)))
    np.testing.assert_array_equal(first.times, whole.times)
    for name in ("n_pixels", "values", "products"):
        both = getattr(first, name) + getattr(second, name)
        np.testing.assert_allclose(both, getattr(whole, name), rtol=1e-13)


def test_with_one_age_g2_is_that_of_the_exact_sums(stream):
    calculator = CALCULATORS["at_end"](len(COLOURS), DELAYS, 60, LIMITS)
    calculator.add(*stream)
    exact = calculator.result()
    labels = labels_of(COLOURS, FINE)
    result = g2_by_age(sums_of(stream), labels, DELAYS, n_ages=1)
    np.testing.assert_array_equal(result.counts[0], exact.counts)
    expected = curves(exact, COLOURS, FINE)
    assert [curve.colour for curve in expected] == [1, 3]
    for i, curve in enumerate(expected):
        np.testing.assert_allclose(result.g2[i, 0], curve.g2, rtol=1e-12)
    assert np.isnan(result.g2[2]).all()


def test_each_partner_has_one_age(stream):
    sums, labels = sums_of(stream), labels_of(COLOURS, FINE)
    whole, parts = (g2_by_age(sums, labels, DELAYS, n) for n in (1, 7))
    np.testing.assert_array_equal(parts.counts.sum(axis=0), whole.counts[0])
    first, last = sums.times[[0, -1]]
    np.testing.assert_allclose(
        parts.ages[[0, -1]], [first + (last - first) / 14, last - (last - first) / 14]
    )
    assert np.isnan(g2_by_age(sums, labels, np.array([500]), 2).g2).all()


N_RUNS, N_PIXELS, N_SHOTS = 40, 64, 400
RATE = 0.04
"""Γ at the beginning; it has doubled at the end."""


def ageing_speckle() -> np.ndarray:
    """Return intensities (shot, pixel) of one mode whose Γ grows linearly with time."""
    rng = np.random.default_rng(12)
    rate = RATE * (1 + np.arange(N_SHOTS) / N_SHOTS)
    kept = np.exp(-(rate[:-1] + rate[1:]) / 2)
    field = rng.standard_normal((2, N_RUNS * N_PIXELS))
    images = [np.sum(field**2, axis=0)]
    for k in kept:
        field = k * field + np.sqrt(1 - k**2) * rng.standard_normal(field.shape)
        images.append(np.sum(field**2, axis=0))
    return np.array(images, np.float32)


def test_a_sample_that_ages_has_the_known_rate_at_each_age():
    """Of a linear Γ(t), g2 − 1 of partners is exp(−2 Γ(age) · delay) exactly."""
    runs = np.repeat(np.arange(N_RUNS) + 1, N_PIXELS)
    labels = labels_of(runs, runs)
    calculator = TwoTimeShots(labels.of_pixel, N_RUNS, N_SHOTS, LIMITS)
    calculator.add(np.arange(N_SHOTS), ageing_speckle())
    delays, n_ages = np.array([1, 3, 6, 10]), 4
    result = g2_by_age(calculator.result(), labels, delays, n_ages)
    expected = np.empty((n_ages, len(delays)))
    for i, delay in enumerate(delays):
        middle = np.arange(N_SHOTS - delay) + delay / 2
        decayed = np.exp(-2 * delay * RATE * (1 + middle / N_SHOTS))
        age = (middle * n_ages / (N_SHOTS - 1)).astype(int)
        expected[:, i] = 1 + np.bincount(age, decayed) / np.bincount(age)
    sigma = result.g2.std(axis=0, ddof=1) / np.sqrt(N_RUNS)
    pulls = (result.g2.mean(axis=0) - expected) / sigma
    assert np.abs(pulls).max() < 4
    assert np.sqrt(np.mean(pulls**2)) < 2
    difference = (expected[0] - expected[-1]) / sigma[0]  # it would be seen if it did not age
    assert difference[2] > 8
