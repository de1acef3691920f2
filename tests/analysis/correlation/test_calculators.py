"""Calculators against a plain double loop, and against the rules of a buffer shot by shot."""

import numpy as np
import pytest

from spreadflow.analysis.correlation import calculators, multi_tau
from spreadflow.analysis.correlation.calculators import CALCULATORS
from spreadflow.analysis.correlation.delays import spaced
from spreadflow.analysis.correlation.double_loop import double_loop
from spreadflow.analysis.correlation.engine import Limits
from spreadflow.analysis.correlation.multi_tau import MultiTau
from spreadflow.analysis.correlation.numba_engine import tile_terms

DELAYS = np.array([1, 2, 3, 5, 8, 13, 21, 40])
LIMITS = Limits(not_zero=1e-5, saturated=1e6)


def shots(n: int, seed: int, n_pixels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return times with gaps, duplicates, disorder and late shots, and images."""
    rng = np.random.default_rng(seed)
    times = np.flatnonzero(rng.random(2 * n) < 0.5)[:n].astype(np.int64) - 7
    times = np.concatenate([times, rng.choice(times, n // 10)])  # twice
    key = times + np.where(rng.random(len(times)) < 0.2, rng.integers(0, 9, len(times)), 0)
    key += np.where(rng.random(len(times)) < 0.05, 60, 0)  # late
    times = times[np.argsort(key, kind="stable")]
    images = rng.gamma(2.0, 3.0, (len(times), n_pixels)).astype(np.float32)
    images[rng.random(images.shape) < 0.05] = -1.0
    return times, images


def shot_by_shot(kind: str, times, images, n_shots: int):
    """Return counts and products by the rules of a buffer, and what was dropped."""
    held: dict[int, np.ndarray] = {}
    counts = np.zeros(len(DELAYS), np.int64)
    g2 = np.zeros((len(DELAYS), images.shape[1]))
    n_late = n_duplicates = 0

    def change(time, value, sign):
        for i, delay in enumerate(DELAYS):
            for other in (time - delay, time + delay):
                if other in held:
                    counts[i] += sign
                    g2[i] += sign * value * held[other]

    for time, image in zip(times.tolist(), images, strict=True):
        if time in held:
            n_duplicates += 1
            continue
        if len(held) == n_shots and time <= min(held):
            n_late += 1
            continue
        if len(held) == n_shots:
            oldest = min(held)
            value = held.pop(oldest)
            if kind == "windowed":
                change(oldest, value, -1)
        value = np.maximum(image, np.float32(LIMITS.not_zero)).astype(float)
        change(time, value, 1)
        held[time] = value
    return counts, g2, (n_duplicates, n_late), held


@pytest.mark.parametrize("kind", ["accumulating", "windowed"])
@pytest.mark.parametrize("n_shots", [10, 64, 1000])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_buffer_follows_its_rules_in_any_order_and_block(kind, n_shots, seed):
    times, images = shots(300, seed)
    expected = shot_by_shot(kind, times, images, n_shots)
    for block in (1, 7, 500):
        calculator = CALCULATORS[kind](images.shape[1], DELAYS, n_shots, LIMITS)
        for first in range(0, len(times), block):
            calculator.add(times[first : first + block], images[first : first + block])
        sums = calculator.result()
        np.testing.assert_array_equal(sums.counts, expected[0])
        np.testing.assert_allclose(sums.g2, expected[1], rtol=1e-9, atol=1e-9)
        assert (calculator.counts.n_duplicates, calculator.counts.n_late) == expected[2]
        assert calculator.counts.n_shots == len(times)


@pytest.mark.parametrize("kind", sorted(CALCULATORS))
def test_calculators_equal_the_double_loop_at_every_update(kind):
    times, images = shots(260, 3)
    values = np.maximum(images, np.float32(LIMITS.not_zero))
    n_shots = 1000 if kind == "accumulating" else 50
    calculator = CALCULATORS[kind](images.shape[1], DELAYS, n_shots, LIMITS)
    for end in range(60, len(times), 50):
        first = end - 60 if end == 60 else end - 50
        calculator.add(times[first:end], images[first:end])
        *_, held = shot_by_shot(kind, times[:end], values[:end], n_shots)
        stored = np.array(sorted(held))
        expected = double_loop(stored, np.array([held[time] for time in stored]), DELAYS)
        for sums in (calculator.result(), calculator.result()):  # asked for twice: the same
            np.testing.assert_array_equal(sums.counts, expected.counts)
            for name in ("g2", "past", "future"):
                np.testing.assert_allclose(
                    getattr(sums, name), getattr(expected, name), rtol=1e-9, atol=1e-9
                )


@pytest.mark.parametrize("n_missing", [0, 5])
def test_long_runs_equal_the_double_loop(n_missing):
    """Consecutive shots have loops of their own, and sums that were formed beforehand."""
    rng = np.random.default_rng(8)
    missing = rng.choice(600, n_missing, replace=False)
    times = np.delete(np.arange(600), missing)
    images = rng.gamma(2.0, 3.0, (len(times), 11)).astype(np.float32)
    delays = spaced(1, 400, 21, is_logarithmic=True)
    calculator = CALCULATORS["accumulating"](11, delays, 600, LIMITS)
    for first in range(0, len(times), 250):
        calculator.add(times[first : first + 250], images[first : first + 250])
    _, terms = tile_terms(calculator.history.standing(delays), calculator.history.n_rows)
    assert len(terms.runs) > 3
    assert len(terms.others) > 3
    sums = calculator.result()
    expected = double_loop(times, images, delays)
    np.testing.assert_array_equal(sums.counts, expected.counts)
    for name in ("g2", "past", "future"):
        np.testing.assert_allclose(getattr(sums, name), getattr(expected, name), rtol=1e-12)


def test_nothing_is_lost_beside_large_values():
    """What a pixel has in one shot costs no digits of its sums over other shots."""
    values = np.full((60, 2), 1e-4, np.float32)
    values[10] = 3e5
    calculator = CALCULATORS["at_end"](2, np.array([40]), 60, LIMITS)
    calculator.add(np.arange(60), values)
    sums = calculator.result()
    np.testing.assert_allclose(sums.future[0], 20 * np.float64(np.float32(1e-4)), rtol=1e-14)


def after_a_burst(n_pixels: int) -> np.ndarray:
    """Return images of shots of which the first 200 are bright, in all pixels but the last; the
    others have few photons, and the first pixel none.
    """
    rng = np.random.default_rng(6)
    images = rng.poisson(0.02, (700, n_pixels)).astype(np.float32)
    images[:, 0] = 0
    images[:200, :-1] = rng.gamma(2.0, 1e4, (200, n_pixels - 1))
    return images


def test_what_has_left_a_window_leaves_nothing_behind():
    images = after_a_burst(11)
    window, at_end = (
        CALCULATORS[kind](11, np.array([1, 5, 99, 120]), 100, LIMITS)
        for kind in ("windowed", "at_end")
    )
    for first in range(0, len(images), 50):
        for calculator in (window, at_end):
            calculator.add(np.arange(first, first + 50), images[first : first + 50])
        sums, expected = window.result(), at_end.result()
        np.testing.assert_array_equal(sums.counts, expected.counts)
        means = expected.g2.sum(axis=0) / expected.counts.sum()
        for name in ("g2", "past", "future"):
            own, exact = (getattr(one, name) for one in (sums, expected))
            np.testing.assert_allclose(own.sum(axis=0), exact.sum(axis=0), rtol=1e-7)
        errors = np.abs(sums.g2 - expected.g2).max(axis=0)
        assert (errors <= 1e-7 * 100 * means).all()
        assert not sums.g2[3].any()  # of a delay that has no partners


def test_what_is_summed_anew_does_not_depend_on_other_pixels():
    images = after_a_burst(37)
    whole = CALCULATORS["windowed"](37, DELAYS, 100, LIMITS)
    whole.add(np.arange(len(images)), images)
    for first, end in ((0, 1), (1, 20), (20, 37)):
        shard = CALCULATORS["windowed"](end - first, DELAYS, 100, LIMITS)
        shard.add(np.arange(len(images)), np.ascontiguousarray(images[:, first:end]))
        for name in ("g2", "past", "future"):
            own = getattr(whole.result(), name)[:, first:end]
            np.testing.assert_array_equal(getattr(shard.result(), name), own)


def test_pixels_do_not_depend_on_their_neighbours():
    times, images = shots(300, 4, n_pixels=37)
    whole = CALCULATORS["windowed"](37, DELAYS, 80, LIMITS)
    whole.add(times, images)
    for first, end in ((0, 1), (1, 20), (20, 37)):
        shard = CALCULATORS["windowed"](end - first, DELAYS, 80, LIMITS)
        shard.add(times, np.ascontiguousarray(images[:, first:end]))
        for name in ("g2", "past", "future"):
            own = getattr(whole.result(), name)[:, first:end]
            np.testing.assert_array_equal(getattr(shard.result(), name), own)


def test_saturated_and_broken_pixels_are_marked_for_ever_and_poison_nothing():
    calculator = CALCULATORS["accumulating"](4, np.array([1]), 5, Limits(0.5, 100.0))
    images = np.ones((8, 4), np.float32)
    images[2, 1] = 100.0
    images[3, 2] = np.nan
    images[4, 3] = 0.1
    calculator.add(np.arange(8), images)
    sums = calculator.result()
    np.testing.assert_array_equal(sums.is_bad, [0, 1, 1, 0])
    np.testing.assert_array_equal(sums.g2[0], [7.0, 205.0, 6.0, 6.0])


def coarsened(times, values):
    """Return the frames of the next level: means of neighbours that are both there."""
    at = dict(zip(times.tolist(), values, strict=True))
    left = [time for time in at if time % 2 == 0 and time + 1 in at]
    return np.array(left, np.int64) >> 1, np.array([(at[t] + at[t + 1]) / 2 for t in left])


@pytest.mark.parametrize("first_time", [-3, 0])
@pytest.mark.parametrize("at_once", [16, 100, 512])
def test_multi_tau_equals_the_double_loop_on_averaged_frames(monkeypatch, at_once, first_time):
    monkeypatch.setattr(multi_tau, "AT_ONCE", at_once)
    rng = np.random.default_rng(5)
    is_there = rng.random(400) < 0.9
    is_there[:4] = True
    times = np.flatnonzero(is_there) + first_time
    images = rng.gamma(2.0, 3.0, (len(times), 19)).astype(np.float32)
    calculator = MultiTau(19, 4, 8, LIMITS)
    for first in range(0, len(times), 130):
        block = rng.permutation(times[first : first + 130]) if at_once == 512 else None
        block = times[first : first + 130] if block is None else block
        calculator.add(block, images[np.searchsorted(times, block)])
    sums = calculator.result()

    values = images.astype(float)
    n = 0
    for level in range(4):
        lags = multi_tau.lags_of(level, 8)
        expected = double_loop(times, values, lags)
        own = slice(n, n + len(lags))
        np.testing.assert_array_equal(sums.delays[own], lags << level)
        np.testing.assert_array_equal(sums.counts[own], expected.counts)
        for name in ("g2", "past", "future"):
            level_sums = getattr(sums, name)[own]
            np.testing.assert_allclose(level_sums, getattr(expected, name), rtol=1e-12)
        times, values = coarsened(times, values)
        n += len(lags)


def test_multi_tau_drops_what_comes_twice_or_late_and_counts_it():
    calculator = MultiTau(1, 2, 4, LIMITS)
    calculator.add(np.array([0, 2, 1, 2]), np.ones((4, 1), np.float32))
    calculator.add(np.array([2, 3]), np.ones((2, 1), np.float32))
    counts = calculator.counts
    assert (counts.n_shots, counts.n_duplicates, counts.n_late, counts.n_disordered) == (6, 1, 1, 1)
    np.testing.assert_array_equal(calculator.result().counts, [3, 2, 1, 0, 0, 0])


def test_blocks_hold_whole_windows():
    assert calculators.ARRIVING <= multi_tau.AT_ONCE
