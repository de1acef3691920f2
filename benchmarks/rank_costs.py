"""What the stages of a small trial cost, measured on the real program by `rank_clock.py`, and the
costs that `rank_model.py` takes, from there.

What a rank does on its own is a + b/ranks: a is done by every rank, b is shared without being
dealt out. One rank and two tell these apart.
"""

import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import h5py
import numpy as np

from rank_model import Costs, Dealt
from spreadflow.config import Config
from spreadflow.trial import BY_WORD, commands, files
from spreadflow.trial.threads import THREAD_CAPS

CLOCK = Path(__file__).with_name("rank_clock.py")
LAUNCHER = Path(sys.prefix) / "bin" / "mpiexec"

YIELDING = {"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"}
"""Variable of MPICH: ranks that wait leave a core that they share to the others."""

Row = dict[str, Any]
"""What was measured of a stage on some number of ranks."""


class Way(NamedTuple):
    """How a stage shares its work."""

    largest: int = 0
    """items of a block that is dealt out, at most; 0 = nothing is dealt out"""
    is_cut: bool = False
    """whether blocks are smaller where ranks would be idle"""
    is_joined: bool = False
    """whether a second loop joins blocks to parts"""
    share_items: int = 1
    """items that stay together on a rank, where work is not dealt out"""
    reads: tuple[str, ...] = ()
    """what it reads of each item: images, or the parts of these products"""
    writes: str = ""
    """product whose parts it writes"""
    most_items: int | None = None
    """of a stage that takes a sample: of config/paper.yaml, or the default"""


WAYS = {
    "simulate": Way(largest=10, writes="images"),
    "index": Way(largest=8, is_cut=True, is_joined=True, reads=("images",), writes="index"),
    "level0": Way(share_items=4, reads=("index",)),
    "reindex": Way(largest=8, is_cut=True, is_joined=True, reads=("images",), writes="reindex"),
    "merge": Way(share_items=256, reads=("reindex",)),
    "annulus": Way(largest=8, is_cut=True, reads=("images", "reindex"), writes="annulus"),
    "wide": Way(largest=8, is_cut=True, reads=("images", "reindex"), writes="wide"),
    "ladder": Way(largest=1, most_items=1000, reads=("annulus",), writes="ladder"),
    "mosaic": Way(largest=1, most_items=30, reads=("annulus",)),
    "stage1": Way(largest=8, is_cut=True, is_joined=True, reads=("annulus",), writes="stage1"),
    "predict": Way(
        largest=8, is_cut=True, is_joined=True, reads=("images", "stage1"), writes="predict"
    ),
    "pack": Way(largest=8, is_cut=True, is_joined=True, reads=("images", "predict"), writes="pack"),
    "stage2": Way(largest=8, is_cut=True, share_items=8, reads=("pack",), writes="stage2.gram"),
    "spread": Way(largest=8, is_cut=True, share_items=8, reads=("wide",), writes="spread.gram"),
}
"""The stages on many ranks but `adopt`, which stands in place of `index`."""

PART_ITEMS = 256
"""Items of a part that is joined from pieces."""

N_CYCLES = 3
"""Cycles of `stage2` and `spread` in the demo."""

MOSAIC_S = 2.3
"""Processor time of a lattice of `mosaic`, of four that share a set (docs/performance.md)."""

CURVES_S = (33.0 + 14.7) / 100
"""Processor time of a lattice of `spread` outside its expansions: curves and X in all cycles, and
controls, of 100 lattices on one rank (docs/performance.md).
"""

CURVES_SUMS = (300, 3e5)
"""Sums over ranks of `spread`, and bytes of each: assumed."""

RECORDED = ("ladder", "mosaic", "stage2", "spread")
"""Stages that take minutes: what their lattices cost is read from a trial that has run."""

SHARE_S = {"merge": 6.4 / 40_000}
"""Stage → seconds of a lattice that stays with its rank, where a small trial has too few to tell:
of 40 000 lattices, docs/performance.md (1f79df4).
"""


def measure(config: Config, word: str, n_ranks: int, folder: Path) -> Row:
    """Run a stage of the trial in a folder on so many ranks, and return what it cost. The first
    time its product stays, for the stages that read it.
    """
    run = next(iter(config.runs)) if BY_WORD[word].runs is not None else None
    place = Path(files.outputs(config, word, run)[0])
    scratch = folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    is_first = not (folder / place).exists()
    if is_first:
        shutil.rmtree((folder / place).with_suffix(".parts"), ignore_errors=True)
    out = place if is_first else Path("scratch") / place.name
    resources = SimpleNamespace(mpi=LAUNCHER, tasks=n_ranks, get=lambda name, default: default)
    of_run = {} if run is None else {"run": run}
    inputs = files.inputs(config, word, run)
    line = shlex.split(commands.command(config, word, of_run, inputs, str(out), resources))
    program = line.index("spreadflow")
    line[program : program + 1] = [sys.executable, str(CLOCK), "scratch/clock"]
    row = _timed(line, folder)
    clocks = [json.loads(path.read_text()) for path in (scratch / "clock").glob("*.json")]
    if len(clocks) != n_ranks:
        sys.exit(f"{word}: expected the clocks of {n_ranks} ranks; found {len(clocks)}")
    return row | _together(clocks)


def _timed(line: list[str], folder: Path) -> Row:
    """Run a command, and return its processor time and what elapsed, s."""
    environment = os.environ | dict.fromkeys(THREAD_CAPS, "1") | YIELDING
    start = time.perf_counter()
    process = subprocess.Popen(line, cwd=folder, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {shlex.join(line)}")
    elapsed = time.perf_counter() - start
    return {"elapsed_s": elapsed, "processor_s": usage.ru_utime + usage.ru_stime}


def _together(clocks: list[dict[str, Any]]) -> Row:
    """Return what the clocks of all ranks say together."""
    seconds = {what: [clock["seconds"][what] for clock in clocks] for what in clocks[0]["seconds"]}
    n_loops = len(clocks[0]["loops"])
    return {
        "seconds": seconds,
        "loops": [
            [block for clock in clocks for block in clock["loops"][loop]] for loop in range(n_loops)
        ],
        "sums": clocks[0]["sums"],
        "gathered": clocks[0]["gathered"],
    }


def sizes(config: Config, folder: Path) -> dict[str, float]:
    """Return the bytes of the parts of each product, of all cycles, and of the images."""
    trial = folder / config.results / config.trial
    run = next(iter(config.runs))
    found = {"images": _bytes(folder / config.data / run / "images")}
    for word in ("index", "reindex"):
        found[word] = _bytes(trial / run / f"{word}.parts")
    for word in ("annulus", "wide", "ladder", "stage1", "predict", "pack"):
        found[word] = _bytes(trial / f"{word}.parts")
    for word in ("stage2.gram", "spread.gram"):
        cycles = [_bytes(parts) for parts in sorted((trial / word).glob("*.parts"))]
        found[word] = statistics.mean(cycles) if cycles else 0.0
    return found


def _bytes(folder: Path) -> float:
    """Return the bytes of all files below a folder."""
    return float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


# ---------------------------------------------------------------- from a trial that has run


def read(trial: Path, smaller: Path) -> Row:
    """Return what two finished trials on two ranks recorded of the stages that take minutes."""
    ladder = _column(trial / "ladder.parts", "rungs/seconds")
    n_rungs = len(ladder) // json.loads((trial / "ladder.json").read_text())["n_modelled"]
    rows: Row = {"ladder": ladder.reshape(-1, n_rungs).sum(axis=1).tolist()}
    for word in ("stage2", "spread"):
        last = trial / f"{word}.gram" / f"{N_CYCLES}.parts"
        rows[word] = _column(last, "lattices/seconds").tolist()
        n_bytes = _bytes(last)
        rows[f"{word} bytes"] = n_bytes / len(rows[word])
    rows["solves"] = [_solves(path) for path in (trial, smaller)]
    return rows


def _column(parts: Path, name: str) -> np.ndarray:
    """Return a column of all parts."""
    columns = []
    for path in sorted(parts.glob("[0-9]*.h5")):
        with h5py.File(path) as file:
            columns.append(file[name][:])
    return np.concatenate(columns)


def _solves(trial: Path) -> dict[str, float]:
    """Return lattices of a rank, sums over ranks, bytes of each and seconds of the first rank, of
    the solves of `stage2`.
    """
    figures = json.loads((trial / "stage2.json").read_text())
    with h5py.File(trial / "stage2.h5") as file:
        seconds = float(file["cycles/seconds"][:].sum())
    n_sums = figures["n_reductions"]
    return {
        "n_lattices": figures["n_lattices"] / 2,
        "n_sums": n_sums,
        "bytes": figures["reduced_bytes"] / n_sums,
        "seconds": seconds,
    }


def recorded_costs(word: str, rows: Row, like: Costs, of_sizes: dict[str, float]) -> Costs:
    """Return the costs of a stage that a trial recorded. rows: of `read`; like: those of `stage1`,
    which imports and loads the same; of_sizes: bytes of an item that is read.
    """
    way = WAYS[word]
    item_s = np.array(rows.get(word, [MOSAIC_S]))
    n_bytes = sum(of_sizes[name] for name in way.reads) + rows.get(f"{word} bytes", 0.0)
    is_repeated = word in ("stage2", "spread")
    dealt = Dealt(
        item_s=item_s,
        largest=way.largest,
        is_cut=way.is_cut,
        bytes_per_item=n_bytes,
        n_times=N_CYCLES if is_repeated else 1,
    )
    costs = like._replace(
        word=word, dealt=(dealt,), share_s=0.0, sums=(0, 0.0), most_items=way.most_items
    )
    if word == "spread":
        costs = costs._replace(share_s=CURVES_S, sums=CURVES_SUMS)
    if word == "stage2":
        larger, smaller = rows["solves"]
        of_sum = [row["seconds"] / row["n_sums"] for row in (larger, smaller)]
        slope = (of_sum[0] - of_sum[1]) / (larger["n_lattices"] - smaller["n_lattices"])
        rest = of_sum[1] - slope * smaller["n_lattices"]
        costs = costs._replace(
            share_s=slope * larger["n_sums"],
            own_s=like.own_s + rest * larger["n_sums"],
            sums=(larger["n_sums"], larger["bytes"]),
        )
    return costs._replace(share_items=way.share_items)


# ---------------------------------------------------------------- from what was measured


class Law(NamedTuple):
    """What the ranks of a stage do, in a trial that was measured; s of processor time."""

    start_s: float
    repeated_s: float
    """that every rank does"""
    first_s: float
    """more of a rank's first block than of others: compiled programs are loaded"""
    shared_s: float
    """of all ranks together, shared without being dealt out"""
    dealt_s: float
    """of all ranks together, in blocks; the first ones as the others"""
    once_s: float
    """that the first rank does"""

    def of_rank(self, n_ranks: int, n_blocks: int) -> float:
        """Return the mean time of a rank at work."""
        with_blocks = min(n_ranks, n_blocks) / n_ranks
        every = self.start_s + self.repeated_s + self.first_s * with_blocks
        return every + (self.shared_s + self.dealt_s + self.once_s) / n_ranks


def law(of_ranks: dict[str, Row]) -> Law:
    """Return what one rank and two say."""
    one, two = of_ranks["1"], of_ranks["2"]
    own = statistics.mean(one["seconds"]["own"])
    of_two = statistics.mean(two["seconds"]["own"])
    shared = min(max(2.0 * (own - of_two), 0.0), own)
    first = first_block(one["loops"])
    return Law(
        start_s=statistics.mean(one["seconds"]["start"]),
        repeated_s=own - shared,
        first_s=first,
        shared_s=shared,
        dealt_s=sum(map(sum, one["loops"])) - first,
        once_s=one["seconds"]["once"][0],
    )


def first_block(loops: list[list[float]]) -> float:
    """Return how much longer the first block of the first loop takes than the others do, s."""
    first = next((loop for loop in loops if loop), [])
    if len(first) < 2:
        return 0.0
    return max(first[0] - statistics.median(first[1:]), 0.0)


def at_work(row: Row) -> float:
    """Return the mean processor time of a rank without what it waited, s."""
    working = ("start", "own", "blocks", "once")
    return sum(statistics.mean(row["seconds"][what]) for what in working)


def costs(word: str, measured: dict[str, Any], of_sizes: dict[str, float], n_opened: int) -> Costs:
    """Return what the simulation needs to know of a stage. measured: its row, with the number of
    items.
    """
    way = WAYS[word]
    n = measured["n_items"]
    of_ranks = measured["of_ranks"]
    one = of_ranks["1"]
    of_stage = law(of_ranks)
    n_bytes = sum(of_sizes[name] for name in way.reads)
    n_bytes += of_sizes.get(way.writes, 0.0) * (3 if way.is_joined else 1)  # read and written again
    share = SHARE_S.get(word, of_stage.shared_s / n)
    n_sums, sum_bytes = one["sums"]
    n_told, told_bytes = one["gathered"]
    return Costs(
        word=word,
        start_s=of_stage.start_s,
        n_opened=n_opened,
        own_s=of_stage.repeated_s + of_stage.first_s,
        once_s=of_stage.once_s,
        dealt=_dealt(way, one["loops"], of_stage.first_s, n, n_bytes / n),
        share_s=share,
        share_items=way.share_items,
        sums=(n_sums, sum_bytes / max(n_sums, 1)),
        told=(n_told, told_bytes / max(n_told, 1) / n),
        most_items=way.most_items,
    )


def _dealt(
    way: Way, loops: list[list[float]], first_s: float, n: int, bytes_per_item: float
) -> tuple[Dealt, ...]:
    """Return the loops over blocks, of which all but those that join pieces go through all items.

    first_s: of the very first block, more than of others.
    """
    if not way.largest:
        return ()
    all_dealt = []
    is_first = True
    for loop in loops:
        if not loop:
            continue
        block_s = np.array(loop)
        if is_first:
            block_s[0] -= first_s
        is_join = way.is_joined and not is_first
        per_item = block_s * len(block_s) / n
        all_dealt.append(
            Dealt(
                item_s=per_item,
                largest=PART_ITEMS if is_join else way.largest,
                is_cut=way.is_cut and not is_join,
                bytes_per_item=0.0 if is_join else bytes_per_item,
            )
        )
        is_first = False
    return tuple(all_dealt)
