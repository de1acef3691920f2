"""The engine of JAX against that of Numba: the same sums, counts and bad pixels."""

import numpy as np
import pytest

from spreadflow.analysis.correlation.calculators import CALCULATORS
from spreadflow.analysis.correlation.engine import Limits
from spreadflow.analysis.correlation.jax_engine import AT_ONCE, JaxEngine
from spreadflow.analysis.correlation.numba_engine import NumbaEngine

DELAYS = np.array([1, 2, 3, 5, 8, 13, 21, 40, 100])


@pytest.mark.parametrize("kind", ["accumulating", "windowed", "at_end"])
def test_both_engines_form_the_same_sums(kind):
    """The buffer has more shots than a call of JAX, and fewer than come."""
    n_shots = AT_ONCE + 44
    rng = np.random.default_rng(2)
    times = np.flatnonzero(rng.random(800) < 0.7)
    times = np.concatenate([times, rng.choice(times, 40)])  # twice
    times = times[np.argsort(times + rng.integers(0, 9, len(times)), kind="stable")]
    images = rng.gamma(2.0, 3.0, (len(times), 13)).astype(np.float32)
    images[5, 0] = np.nan
    images[6, 1] = np.inf
    images[7, 2] = 1e5
    images[8, 3] = -np.inf
    images[9, 4] = -3.0
    both = [
        CALCULATORS[kind](13, DELAYS, n_shots, Limits(), engine)
        for engine in (NumbaEngine, JaxEngine)
    ]
    for first in range(0, len(times), 150):
        for calculator in both:
            calculator.add(times[first : first + 150], images[first : first + 150])
        expected, sums = (calculator.result() for calculator in both)
        np.testing.assert_array_equal(sums.counts, expected.counts)
        np.testing.assert_array_equal(sums.is_bad, expected.is_bad)
        for name in ("g2", "past", "future"):
            own, other = getattr(sums, name), getattr(expected, name)
            np.testing.assert_allclose(
                own, other, rtol=1e-12, atol=1e-4 if kind == "windowed" else 0
            )
    assert both[0].counts == both[1].counts
    np.testing.assert_array_equal(expected.is_bad[:5], [1, 1, 1, 0, 0])
    pixels, rows = np.array([12, 0, 4]), both[0].history.rows
    np.testing.assert_array_equal(*(one.engine.values(pixels, rows) for one in both))


@pytest.mark.parametrize("engine", [NumbaEngine, JaxEngine])
def test_sums_of_some_pixels_are_replaced(engine):
    both = []
    for seed in (1, 2):
        images = np.random.default_rng(seed).poisson(3.0, (40, 13)).astype(np.float32)
        calculator = CALCULATORS["at_end"](13, DELAYS, 40, Limits(), engine)
        calculator.add(np.arange(40), images)
        one, partners = calculator.engine, calculator.history.standing(DELAYS)
        both.append(one.add_up(partners, 1.0, one.empty()))
    own, other = (one.by_pixel(sums).copy() for sums in both)
    is_replaced = np.arange(13) % 3 == 1
    sums = one.by_pixel(one.replaced(*both, is_replaced))
    np.testing.assert_array_equal(sums, np.where(is_replaced, other, own))
    assert (own != other).any()
