"""From how many delays on are Fourier transforms faster, and what does the engine of JAX take?

Exact sums of a buffer of 2000 shots with gaps, for 20 to 1000 delays that are evenly spaced up to
1000: formed at an update by loops and by Fourier transforms, in nanoseconds a pixel and shot; by
turns, in processor seconds of the best turn, on one thread. Then blocks of 256 shots of the
accumulating sums for 100 delays by both engines, in seconds of the best block, after compiling:
that of JAX on the device that it has.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from spreadflow.trial.threads import THREAD_CAPS

os.environ |= dict.fromkeys(THREAD_CAPS, "1")  # before NumPy starts

import jax
import numpy as np

import recorded
from spreadflow.analysis.correlation.calculators import (
    ARRIVING,
    Accumulating,
    AtEnd,
    Buffered,
    Fourier,
    NewEngine,
)
from spreadflow.analysis.correlation.delays import spaced
from spreadflow.analysis.correlation.engine import Limits
from spreadflow.analysis.correlation.jax_engine import JaxEngine
from spreadflow.analysis.correlation.numba_engine import NumbaEngine

BUFFER, LONGEST = 2000, 1000
"""Shots, and the longest delay."""

N_DELAYS = (20, 50, 100, 200, 500, 1000)
"""Delays that sums are formed for."""

MISSING = 0.1
"""Share of the shots that are missing."""


def seconds(clock: Callable[[], float], work: Callable[[], object]) -> float:
    """Return the seconds of some work."""
    start = clock()
    work()
    return clock() - start


def filled(kind: type[Buffered], delays: np.ndarray, n_pixels: int) -> Any:
    """Return a calculator that has its shots."""
    rng = np.random.default_rng(1)
    times = np.flatnonzero(rng.random(2 * BUFFER) >= MISSING)[:BUFFER]
    calculator = kind(n_pixels, delays, BUFFER, Limits())
    images = rng.poisson(3.0, (BUFFER, n_pixels)).astype(np.float32)
    calculator.add(times, images)
    return calculator


def by_number(n_turns: int, n_pixels: int) -> dict[str, dict[str, float]]:
    """Return nanoseconds a pixel and shot by number of delays, of loops and transforms."""
    found = {}
    for number in N_DELAYS:
        delays = spaced(1, LONGEST, number, is_logarithmic=False)
        both = {kind.__name__: filled(kind, delays, n_pixels) for kind in (AtEnd, Fourier)}
        spent: dict[str, list[float]] = {name: [] for name in both}
        for _ in range(n_turns):
            for name, calculator in both.items():
                spent[name].append(seconds(time.process_time, calculator.result))
        scale = 1e9 / (n_pixels * BUFFER)
        found[str(number)] = {name: scale * min(values) for name, values in spent.items()}
    return found


def by_engine(n_turns: int, n_pixels: int) -> dict[str, float]:
    """Return nanoseconds a pixel and shot of the accumulating sums, by engine."""
    delays = spaced(1, BUFFER - 1, 100, is_logarithmic=True)
    images = np.random.default_rng(2).poisson(3.0, (ARRIVING, n_pixels)).astype(np.float32)
    device = jax.devices()[0].platform
    engines: dict[str, NewEngine] = {"Numba": NumbaEngine, f"JAX on {device}": JaxEngine}
    n_filled = BUFFER // ARRIVING + 1
    found = {}
    for name, engine in engines.items():
        calculator = Accumulating(n_pixels, delays, BUFFER, Limits(), engine)
        spent = []
        for turn in range(n_filled + n_turns):
            times = turn * ARRIVING + np.arange(ARRIVING)
            spent.append(seconds(time.perf_counter, partial(added, calculator, times, images)))
        found[name] = 1e9 * min(spent[n_filled:]) / images.size
    return found


def added(calculator: Accumulating, times: np.ndarray, images: np.ndarray) -> None:
    """Add a block and wait until it is added."""
    calculator.add(times, images)
    jax.block_until_ready(calculator._sums)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--pixels", type=int, default=4096)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    numbers = by_number(arguments.turns, arguments.pixels)
    for number, spent in numbers.items():
        print(f"{number} delays, ns a pixel and shot: {spent}")
    engines = by_engine(arguments.turns, arguments.pixels)
    print(f"accumulating, 100 delays, ns a pixel and shot: {engines}")
    if arguments.json:
        figures = {"at_end_and_fft_ns": numbers, "engines_ns": engines}
        recorded.save(arguments.json, "correlate_engines", figures)


if __name__ == "__main__":
    main()
