"""From how many delays on are Fourier transforms faster, and how many shots a second does a core,
or a device of JAX, correlate?

Exact sums of a buffer of 2000 shots with gaps, for 20 to 1000 delays that are evenly spaced up to
1000: formed at an update by loops and by Fourier transforms, in nanoseconds a pixel and shot; by
turns, in processor seconds of the best turn, on one thread.

Then shots a second of detectors with 0.1, 1 and 2.3 million pixels, which all are correlated: sums
of the run for 100 delays by either engine, those of the buffer by Fourier transforms at an update
for each buffer, and multi-tau. Blocks of 256 shots, the best one, after compiling, in processor
seconds; that of JAX on the device that it has, in seconds where this is no processor. Of a
detector, as many pixels are worked on as `--pixels` says, and more take as many times as long: so
it is on a core. A device should have all: `--pixels 2300000`.
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
    Calculator,
    Fourier,
)
from spreadflow.analysis.correlation.delays import spaced
from spreadflow.analysis.correlation.engine import Limits
from spreadflow.analysis.correlation.jax_engine import JaxEngine
from spreadflow.analysis.correlation.multi_tau import MultiTau

BUFFER, LONGEST = 2000, 1000
"""Shots, and the longest delay."""

N_DELAYS = (20, 50, 100, 200, 500, 1000)
"""Delays that sums are formed for."""

MISSING = 0.1
"""Share of the shots that are missing."""

SIZES = (100_000, 1_000_000, 2_300_000)
"""Pixels of detectors."""

N_AT_ONCE = 8192
"""Pixels that a core has of them: their buffer is far larger than a cache."""

N_TRANSFORMED = 4096
"""Pixels for which loops and transforms are compared."""

N_LEVELS, N_LAGS = 8, 8
"""Of multi-tau."""

BARS = {"2300000 pixels on a device": 60, "116441 pixels on 16 cores": 120}
"""Shots a second."""


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


def seconds_a_shot(n_turns: int, n_pixels: int) -> dict[str, float]:
    """Return seconds that a shot of so many pixels takes, by what correlates it."""
    delays = spaced(1, BUFFER - 1, 100, is_logarithmic=True)
    images = np.random.default_rng(2).poisson(3.0, (ARRIVING, n_pixels)).astype(np.float32)
    device = jax.devices()[0].platform
    limits = Limits()
    works: dict[str, Callable[[], Calculator]] = {
        "run, Numba": lambda: Accumulating(n_pixels, delays, BUFFER, limits),
        f"run, JAX on {device}": lambda: Accumulating(n_pixels, delays, BUFFER, limits, JaxEngine),
        "buffer, Fourier transforms": lambda: Fourier(n_pixels, delays, BUFFER, limits),
        "multi-tau": lambda: MultiTau(n_pixels, N_LEVELS, N_LAGS, limits),
    }
    n_filled = BUFFER // ARRIVING + 1
    found = {}
    for name, new in works.items():
        is_elsewhere = "JAX" in name and device != "cpu"
        clock = time.perf_counter if is_elsewhere else time.process_time
        calculator = new()
        spent = []
        for turn in range(n_filled + n_turns):
            times = turn * ARRIVING + np.arange(ARRIVING)
            spent.append(seconds(clock, partial(added, calculator, times, images)))
        found[name] = min(spent[n_filled:]) / ARRIVING
        if isinstance(calculator, Fourier):
            found[name] += seconds(clock, calculator.result) / BUFFER
    return found


def by_size(n_turns: int, n_at_once: int) -> dict[str, dict[str, float]]:
    """Return shots a second by the pixels of a detector and what correlates them. n_at_once: pixels
    that are worked on; those of a larger detector take as many times as long.
    """
    found = {}
    spent: dict[int, dict[str, float]] = {}
    for size in SIZES:
        n = min(size, n_at_once)
        if n not in spent:
            spent[n] = seconds_a_shot(n_turns, n)
        found[str(size)] = {name: n / size / s for name, s in spent[n].items()}
    return found


def added(calculator: Calculator, times: np.ndarray, images: np.ndarray) -> None:
    """Add a block and wait until it is added."""
    calculator.add(times, images)
    if isinstance(calculator, Accumulating):
        jax.block_until_ready(calculator._sums)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--pixels", type=int, default=N_AT_ONCE)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    numbers = by_number(arguments.turns, N_TRANSFORMED)
    for number, spent in numbers.items():
        print(f"{number} delays, ns a pixel and shot: {spent}")
    sizes = by_size(arguments.turns, arguments.pixels)
    for size, rates in sizes.items():
        print(f"{size} pixels, shots a second: {rates}")
    print(f"measured on {arguments.pixels} pixels or all that a detector has; bars: {BARS}")
    if arguments.json:
        figures = {"at_end_and_fft_ns": numbers, "shots_per_second": sizes}
        recorded.save(arguments.json, "correlate_engines", figures)


if __name__ == "__main__":
    main()
