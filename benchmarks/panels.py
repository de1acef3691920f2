"""User-CPU seconds per shot of spot finding, indexing and integration where the same pixels are on
1, 64 and 256 panels, over those of one panel.

The shots are stills as in config/demo.yaml, simulated into a temporary folder on one panel, or
those of `--manifest`; they are cut into equal panels that lie where the pixels did. One thread; the
first pass over the shots compiles, the others take the numbers of panels in turns, so that what
else the machine does falls on all of them alike, and the fastest pass counts.
"""

import index as whole  # first: it sets threads before NumPy and XLA start  # isort: skip

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import recorded
from spreadflow import config
from spreadflow.errors import Outcome
from spreadflow.io.images import Source
from spreadflow.models import Detector, Shot
from spreadflow.recipes import shot

RECORDING = config.NoiseSection()
"""How the demo's shots are recorded: as by default."""

EDGES = (1, 8, 16)
"""Panels along an edge of the detector."""
BAR = 1.3


def cut(image: np.ndarray, n: int) -> np.ndarray:
    """An image (1, slow, fast) as n × n panels."""
    _, n_slow, n_fast = image.shape
    tiles = image.reshape(n, n_slow // n, n, n_fast // n).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(tiles.reshape(n * n, n_slow // n, n_fast // n))


def in_panels(detector: Detector, n: int) -> Detector:
    """A detector of one panel as n × n panels in the same place."""
    n_slow, n_fast = (size // n for size in detector.shape)
    row, column = np.divmod(np.arange(n * n), n)
    along_fast = (column * n_fast * detector.pixel_mm)[:, None] * detector.fast
    along_slow = (row * n_slow * detector.pixel_mm)[:, None] * detector.slow
    return detector._replace(
        origin_mm=detector.origin_mm + along_fast + along_slow,
        fast=np.repeat(detector.fast, n * n, axis=0),
        slow=np.repeat(detector.slow, n * n, axis=0),
        shape=(n_slow, n_fast),
    )


def read(source: Source, n_most: int) -> list[Shot]:
    """The first readable shots of a run."""
    shots = (source.read(i) for i in range(source.n_shots))
    return [one for one in shots if isinstance(one, Shot)][:n_most]


def measure(
    shots: list[Shot], section: config.IndexSection, detector: Detector, polarization: float
) -> tuple[dict[str, float], int]:
    """User-CPU seconds per shot by step, and how many shots were indexed."""
    watch = whole.Stopwatch()
    n_indexed = 0
    with ExitStack() as stack:
        for name, (module, function) in whole.STEPS.items():
            timed = watch.timed(name, getattr(module, function))
            stack.enter_context(patch.object(module, function, timed))
        work = watch.timed("total", shot.index)
        for one in shots:
            result = work(one, section, RECORDING, detector, polarization)
            n_indexed += result.outcome == Outcome.INDEXED
    steps = ("total", *whole.STEPS)
    return {name: watch.seconds[name] / len(shots) for name in steps}, n_indexed


def compare(
    shots: list[Shot], section: config.IndexSection, source: Source, n_passes: int
) -> list[dict]:
    """A row for each number of panels."""
    cases = []
    for n in EDGES:
        panels = [one._replace(image=cut(one.image, n), mask=cut(one.mask, n)) for one in shots]
        cases.append((panels, section, in_panels(source.detector, n), source.polarization))
    passes = [[measure(*case) for case in cases] for _ in range(n_passes + 1)][1:]
    rows: list[dict[str, Any]] = []
    for number, n in enumerate(EDGES):
        seconds, n_indexed = min((one[number] for one in passes), key=lambda row: row[0]["total"])
        rows.append({"n_panels": n * n, "n_indexed": n_indexed, "seconds": seconds})
    for row in rows:
        first = rows[0]["seconds"]
        row["ratios"] = {name: s / first[name] for name, s in row["seconds"].items()}
    return rows


def report(rows: list[dict], n_shots: int) -> None:
    print(f"{n_shots} shots; user-CPU seconds per shot, and over those of one panel")
    for row in rows:
        steps = [
            f"{name} {s:.3f} ({row['ratios'][name]:.2f})" for name, s in row["seconds"].items()
        ]
        print(f"{row['n_panels']:4} panels, {row['n_indexed']} indexed: {', '.join(steps)}")
    print(f"bar: at most {BAR} times the total of one panel")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shots", type=int, default=12)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--manifest", type=Path, help="of images that are there already")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    demo = config.load(whole.CONFIG / "config.yaml", whole.CONFIG / "demo.yaml")
    with tempfile.TemporaryDirectory() as folder:
        manifest = args.manifest or whole.simulated(demo, args.shots, Path(folder))
        source = Source(manifest)
        shots = read(source, args.shots)
        rows = compare(shots, demo.index, source, args.passes)
    report(rows, len(shots))
    if args.json:
        figures = {"n_shots": len(shots), "panels": rows}
        recorded.save(args.json, "panels", figures)


if __name__ == "__main__":
    main()
