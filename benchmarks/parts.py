"""What does a stage cost before its first lattice, when there are many shots in many parts?

Products of `reindex` and `annulus` are written with parts of few shots, one lattice each, whose
cells scatter about a mean; tables that no start reads are short. Then, each in a process of its
own: `cells`, whole; `annulus` until it knows its blocks; `stage1` until it knows its lattices and
the light of their pulses. Prints processor time, and how far the memory of the process grew.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spreadflow.trial.threads import THREAD_CAPS

os.environ |= dict.fromkeys(THREAD_CAPS, "1")  # before NumPy and XLA start

import numpy as np

import recorded
from spreadflow.config import CellsConfig, IndexSection
from spreadflow.io import shoebox_blocks, store
from spreadflow.models import Detector
from spreadflow.parallel import World
from spreadflow.physics import unit_cell
from spreadflow.products import Annulus, Reindex
from spreadflow.products.core import T
from spreadflow.stages import annulus, cells

MEAN = np.array([67.2, 59.8, 47.2, 90.0, 110.3, 90.0])
"""Cell, Å and degrees."""

SIGMA = np.array([0.05, 0.04, 0.03, 0.0, 0.05, 0.0])
"""Scatter of the lattices' cells about it."""

SPACE_GROUP = "C 1 2 1"
"""Space group of the lattices."""

N_CHANNELS = 100
"""Channels of a pulse."""

N_SPOTS = 20
"""Spots of a shot."""

BLOCK_LATTICES = 16
"""Lattices of a block of stage 1."""

LONGEST_S = {"cells": 5.0, "annulus": 2.0, "stage1": 2.0}
"""Bars, s."""

MB = 1024.0
"""kB in a MB."""


def filled(table: type[T], n_rows: int, **planted: Any) -> T:
    """Return rows of a table: the columns planted, zeros elsewhere."""
    columns = {}
    for name, column in table.described().items():
        zeros = np.zeros((n_rows, *column.empty().shape[1:]))
        columns[name] = np.asarray(planted.get(name, zeros), dtype=column.dtype)
    return table(**columns)


def write_reindex(path: Path, blocks: list[range]) -> None:
    """Write a product of `reindex` with a lattice in each shot. blocks: shot ids of each part."""
    rng = np.random.default_rng(1)
    parts = store.Parts(path, Reindex, "benchmark", blocks)
    for number, block in enumerate(blocks):
        n = len(block)
        own_cells = MEAN + rng.standard_normal((n, 6)) * SIGMA
        radians = np.array([unit_cell.radians(cell) for cell in own_cells])
        shots = filled(
            Reindex.shots,
            n,
            shot_id=block,
            n_lattices=np.ones(n),
            mean_energy_ev=np.full(n, 7120.0),
        )
        lattices = filled(
            Reindex.lattices,
            n,
            shot=np.arange(n),
            shot_id=block,
            cell=radians,
            A=[unit_cell.reciprocal(cell) for cell in radians],
        )
        spots = filled(
            Reindex.spots,
            n * N_SPOTS,
            shot=np.repeat(np.arange(n), N_SPOTS),
            lattice=np.repeat(np.arange(n), N_SPOTS),
            hkl=rng.integers(1, 20, (n * N_SPOTS, 3)),
            used=np.ones(n * N_SPOTS),
            fast=rng.uniform(0, 1920, n * N_SPOTS),
            slow=rng.uniform(0, 1920, n * N_SPOTS),
        )
        parts.write(number, Reindex(shots=shots, lattices=lattices, spots=spots))
    config = IndexSection(cell=MEAN.tolist(), space_group=SPACE_GROUP).model_dump(mode="json")
    detector = Detector(
        origin_mm=[[-170.0, 170.0, -141.7]],
        fast=[[1.0, 0.0, 0.0]],
        slow=[[0.0, -1.0, 0.0]],
        pixel_mm=0.177,
        shape=(1920, 1920),
    )
    parts.finish(World(), run="r", config=config, detector=detector._asdict())


def write_annulus(path: Path, blocks: list[range]) -> None:
    """Write a product of `annulus` of the same lattices."""
    rng = np.random.default_rng(2)
    energies_ev = 7070.5 + np.arange(N_CHANNELS)
    parts = store.Parts(path, Annulus, "benchmark", blocks)
    for number, block in enumerate(blocks):
        n = len(block)
        lattices = filled(
            Annulus.lattices,
            n,
            shot_id=block,
            A=rng.random((n, 3, 3)),
            spectrum=np.arange(n),
        )
        spectra = filled(
            Annulus.spectra,
            n,
            shot_id=block,
            energies_ev=np.tile(energies_ev, (n, 1)),
            photons=rng.random((n, N_CHANNELS)),
        )
        parts.write(number, Annulus(lattices=lattices, spectra=spectra))
    parts.finish(World(), runs=["r"], **shoebox_blocks.recorded(parts, World()))


def start_of_cells(folder: Path) -> None:
    """Run the stage `cells`."""
    config = CellsConfig.model_validate({"cells": {}})
    reindex = [folder / "reindex.h5"]
    cells.run(config, reindex=reindex, out=folder / "cells.h5", world=World())


def start_of_annulus(folder: Path) -> None:
    """List the blocks of the stage `annulus`."""
    assert annulus._blocks(0, folder / "reindex.h5", folder / "cells.h5")


def start_of_stage1(folder: Path) -> None:
    """List the lattices of the stage `stage1`, and read what is known of their pulses."""
    path = folder / "annulus.h5"
    assert shoebox_blocks.blocks_of(path, "annulus", BLOCK_LATTICES)
    shoebox_blocks.read_recording(path, "annulus")


STARTS = {"cells": start_of_cells, "annulus": start_of_annulus, "stage1": start_of_stage1}
"""What is measured."""


def measured(start: Callable[[Path], None], folder: Path) -> dict[str, float]:
    """Return processor time of a start in this process, s, and by how many MB memory grew."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = time.process_time()
    start(folder)
    seconds = time.process_time() - seconds
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    return {"seconds": seconds, "grown_mb": grown / MB}


def measure(n_shots: int, size: int, folder: Path) -> dict[str, Any]:
    """Return what each start costs. size: shots of a part."""
    firsts = range(1, n_shots + 1, size)
    blocks = [range(first, min(first + size, n_shots + 1)) for first in firsts]
    fresh = multiprocessing.get_context("spawn")
    for write in (write_reindex, write_annulus):
        word = write.__name__.removeprefix("write_")
        if not (folder / f"{word}.h5").exists():
            write(folder / f"{word}.h5", blocks)
    costs = {}
    for word, start in STARTS.items():
        with fresh.Pool(1) as pool:
            costs[word] = pool.apply(measured, (start, folder))
    return {"n_shots": n_shots, "n_parts": len(blocks), "starts": costs}


def main() -> None:
    """Measure, print, and say whether the bars are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shots", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=8, help="shots of a part")
    parser.add_argument("--folder", type=Path, help="where products are kept")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(args.shots, args.size, args.folder or Path(temporary))
    print(f"{figures['n_shots']} shots in {figures['n_parts']} parts")
    for word, cost in figures["starts"].items():
        bar = LONGEST_S[word]
        verdict = "" if cost["seconds"] <= bar else f": more than {bar:g}"
        words = f"{cost['seconds']:.2f} s, memory grew by {cost['grown_mb']:.0f} MB"
        print(f"{word:8s} {words}{verdict}")
    if args.json:
        recorded.save(args.json, "parts", figures)


if __name__ == "__main__":
    main()
