"""Sums by Fourier transforms against a plain double loop, and how far they may be from it."""

import numpy as np
import pytest

from spreadflow.analysis.correlation import fourier
from spreadflow.analysis.correlation.double_loop import double_loop

DELAYS = np.array([1, 2, 3, 5, 8, 13, 20])

EPSILON = np.finfo(float).eps


def shots(n: int, unit: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return ascending times with gaps, and values (pixel, shot)."""
    rng = np.random.default_rng(4)
    times = unit * np.flatnonzero(rng.random(n) < 0.6) - 5
    return times, rng.gamma(2.0, 3.0, (6, len(times)))


@pytest.mark.parametrize("shortest", [16, 64, 4096])
@pytest.mark.parametrize(("unit", "delay_unit"), [(1, 1), (91, 91), (6, 4)])
def test_sums_equal_the_double_loop_in_any_number_of_segments(
    monkeypatch, shortest, unit, delay_unit
):
    monkeypatch.setattr(fourier, "SHORTEST", shortest)
    times, values = shots(500, unit)
    delays = DELAYS * delay_unit
    axis = fourier.axis_of(times, delays)
    assert (axis.stride < axis.places[-1]) == (shortest < 4096)
    counts, (g2, past, future) = fourier.sums(axis, values)
    expected = double_loop(times, values.T, delays)
    np.testing.assert_array_equal(counts, expected.counts)
    assert (counts > 0).sum() == (7 if unit == delay_unit else 1)
    size = np.sum(values**2, axis=1)
    for own, other in ((g2, expected.g2), (past, expected.past), (future, expected.future)):
        assert np.all(np.abs(own - other) <= 4 * EPSILON * np.log2(axis.n_points) * size)


def test_the_error_is_relative_to_the_largest_values_of_a_pixel():
    """Sums of a pixel that was bright once have fewer digits; others, and later ones, have all."""
    times, values = shots(4000)
    values[0] = 1.0
    values[0, 100] = 1e6
    axis = fourier.axis_of(times, DELAYS)
    _, (g2, _, _) = fourier.sums(axis, values)
    expected = double_loop(times[-600:], values.T[-600:], DELAYS)
    last = fourier.axis_of(times[-600:], DELAYS)
    _, (last_g2, _, _) = fourier.sums(last, values[:, -600:])
    np.testing.assert_allclose(last_g2, expected.g2, rtol=1e-12)
    counts, _ = fourier.sums(axis, values)
    bright = np.isin(times[100] + np.stack([DELAYS, -DELAYS]), times).sum(axis=0)
    error = np.abs(g2[:, 0] - (counts + bright * (1e6 - 1)))
    assert np.all(error <= 4 * EPSILON * np.log2(axis.n_points) * np.sum(values[0] ** 2))


def test_a_shot_far_away_costs_no_memory():
    times = np.array([0, 1, 2, 4, 1_000_000_000_000])
    axis = fourier.axis_of(times, DELAYS)
    assert axis.n_points <= 2 * fourier.SHORTEST
    counts, (g2, _, _) = fourier.sums(axis, np.arange(1.0, 6.0)[None])
    np.testing.assert_array_equal(counts, [2, 2, 1, 0, 0, 0, 0])
    np.testing.assert_allclose(g2[:3, 0], [1 * 2 + 2 * 3, 1 * 3 + 3 * 4, 2 * 4])


@pytest.mark.parametrize("times", [[], [7]])
def test_without_partners_there_are_no_sums(times):
    axis = fourier.axis_of(np.array(times, np.int64), DELAYS)
    counts, sums = fourier.sums(axis, np.ones((2, len(times))))
    assert not counts.any()
    assert sums.shape == (3, 7, 2)
    assert not sums.any()
