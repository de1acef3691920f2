"""How fast are pixels correlated in time, and how far from what memory allows?

Multi-tau of 1000 shots of 51429 pixels, 7 levels of 8 lags, beside the same by levels in NumPy,
and scikit-beam's where it is installed; and exact sums for 100 delays on a logarithmic axis with a
buffer of 2000 shots. All on one thread, by turns, in processor seconds of the best turn. The floor
of the exact sums is the time that memory takes for the bytes that have to pass, as fast as it
copies a large array: of each block of shots, the lines of all pixels once, and the sums there and
back.
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

import numpy as np

import recorded
from spreadflow.analysis.correlation import calculators
from spreadflow.analysis.correlation.calculators import Accumulating
from spreadflow.analysis.correlation.delays import spaced
from spreadflow.analysis.correlation.double_loop import double_loop
from spreadflow.analysis.correlation.engine import Limits
from spreadflow.analysis.correlation.multi_tau import MultiTau, lags_of

N_SHOTS, N_PIXELS, N_LEVELS, N_LAGS = 1000, 51_429, 7, 8
"""Of multi-tau."""

N_DELAYS, BUFFER = 100, 2000
"""Of the exact sums."""

BARS = {"pixel_frames_per_second": 2e8, "bytes_floor_fraction": 0.4}
"""Least figures."""


def seconds(work: Callable[[], object]) -> float:
    """Return the processor seconds of some work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def ours(times: np.ndarray, images: np.ndarray) -> MultiTau:
    """Correlate by multi-tau."""
    calculator = MultiTau(images.shape[1], N_LEVELS, N_LAGS, Limits())
    calculator.add(times, images)
    return calculator


def by_levels(images: np.ndarray) -> list[np.ndarray]:
    """Return sums of products, earlier and later values by level in NumPy, of all shots at once and
    without a gap.
    """
    found = []
    frames = images
    for level in range(N_LEVELS):
        for lag in lags_of(level, N_LAGS).tolist():
            if lag < len(frames):
                earlier, later = frames[:-lag], frames[lag:]
                products = np.einsum("tp,tp->p", earlier, later)
                found.append(np.stack([products, earlier.sum(axis=0), later.sum(axis=0)]))
        n = len(frames) // 2
        frames = 0.5 * (frames[: 2 * n : 2] + frames[1 : 2 * n : 2])
    return found


def scikit_beam(images: np.ndarray) -> Callable[[], object] | None:
    """Return what correlates by scikit-beam; None where it is not installed."""
    try:
        from skbeam.core.correlation import multi_tau_auto_corr
    except ImportError:
        return None
    stack = images.reshape(len(images), 1, -1)
    labels = np.ones(stack.shape[1:], int)
    return lambda: multi_tau_auto_corr(N_LEVELS, N_LAGS, labels, stack)


def multi_tau(n_turns: int, n_pixels: int) -> dict[str, Any]:
    """Return pixels times shots per second of each, by turns."""
    images = np.random.default_rng(1).poisson(3.0, (N_SHOTS, n_pixels)).astype(np.float32)
    times = np.arange(N_SHOTS)
    works: dict[str, Callable[[], object]] = {
        "spreadflow": lambda: ours(times, images),
        "NumPy": lambda: by_levels(images),
    }
    peer = scikit_beam(images)
    if peer is not None:
        works["scikit-beam"] = peer
    ours(times, images)  # compiled, or read from the cache
    spent = {name: min(seconds(work) for _ in range(n_turns)) for name, work in works.items()}
    return {name: images.size / s for name, s in spent.items()}


def exact(n_turns: int, n_pixels: int) -> dict[str, float]:
    """Return seconds per pixel and shot of the exact sums, and of the floor, by turns."""
    rng = np.random.default_rng(2)
    delays = spaced(1, BUFFER - 1, N_DELAYS, is_logarithmic=True)
    block = calculators.ARRIVING
    calculator = Accumulating(n_pixels, delays, BUFFER, Limits())
    images = rng.poisson(3.0, (block, n_pixels)).astype(np.float32)
    n_filled = -(-BUFFER // block) * block
    for first in range(0, n_filled, block):
        calculator.add(np.arange(first, first + block), images)
    source = np.ones(1 << 25)
    target = np.zeros_like(source)
    spent = []
    copied = []
    for turn in range(n_turns):
        times = n_filled + turn * block + np.arange(block)
        spent.append(seconds(partial(calculator.add, times, images)))
        copied.append(seconds(partial(np.copyto, target, source)))
    n_bytes = 4 + 2 * 4 + 4 * BUFFER / block + 2 * 24 * len(delays) / block
    return {
        "seconds": min(spent) / images.size,
        "floor_seconds": n_bytes * min(copied) / (2 * source.nbytes),
        "floor_bytes": n_bytes,
        "copied_bytes_per_second": 2 * source.nbytes / min(copied),
        "n_delays": len(delays),
    }


def largest_error() -> float:
    """Return the largest relative difference of exact sums from those of the double loop."""
    rng = np.random.default_rng(3)
    times = rng.permutation(np.flatnonzero(rng.random(400) < 0.8))
    images = rng.gamma(2.0, 3.0, (len(times), 40)).astype(np.float32)
    delays = spaced(1, 300, 40, is_logarithmic=True)
    calculator = Accumulating(40, delays, 1000, Limits())
    calculator.add(times, images)
    sums = calculator.result()
    expected = double_loop(times, images, delays)
    assert np.array_equal(sums.counts, expected.counts)
    pairs = [(getattr(sums, name), getattr(expected, name)) for name in ("g2", "past", "future")]
    return max(float(np.max(np.abs(a - b) / np.maximum(b, 1e-30))) for a, b in pairs)


def main() -> None:
    """Print rates, ratios and fractions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--pixels", type=int, default=N_PIXELS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rates = multi_tau(arguments.turns, arguments.pixels)
    sums = exact(arguments.turns, arguments.pixels)
    fraction = sums["floor_seconds"] / sums["seconds"]
    figures = {
        "pixel_frames_per_second": rates["spreadflow"],
        "ratio_to_numpy": rates["spreadflow"] / rates["NumPy"],
        "ratio_to_scikit_beam": None,
        "bytes_floor_fraction": fraction,
        "exact_seconds_per_pixel_shot": sums["seconds"],
        "floor_bytes_per_pixel_shot": sums["floor_bytes"],
        "passed_bytes_per_second": sums["floor_bytes"] / sums["seconds"],
        "copied_bytes_per_second": sums["copied_bytes_per_second"],
        "max_relative_error_vs_loop": largest_error(),
    }
    if "scikit-beam" in rates:
        figures["ratio_to_scikit_beam"] = rates["spreadflow"] / rates["scikit-beam"]
    for name, rate in rates.items():
        print(f"multi-tau, {name}: {rate:.3g} pixels times shots a second")
    print(
        f"exact, {sums['n_delays']} delays: {1e9 * sums['seconds']:.1f} ns a pixel and shot; "
        f"memory allows {1e9 * sums['floor_seconds']:.1f} ns: {fraction:.0%} of it"
    )
    print(
        f"{figures['passed_bytes_per_second'] / 1e9:.1f} GB/s pass; memory copies at "
        f"{figures['copied_bytes_per_second'] / 1e9:.1f} GB/s"
    )
    print(f"largest relative error: {figures['max_relative_error_vs_loop']:.1g}")
    for name, bar in BARS.items():
        print(f"{name}: {figures[name]:.3g} (bar {bar:g})")
    if arguments.json:
        recorded.save(arguments.json, "correlate", figures)


if __name__ == "__main__":
    main()
