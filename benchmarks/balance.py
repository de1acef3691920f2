"""Do all ranks have as much to do? Stand-in work of known size, dealt as the stages deal theirs.

400 shots cost between 10 and 100 units, evenly in the logarithm. Work that is done once is shared
in pieces, first come, first served, by ranks that do not know what a shot costs; work that comes
back in every iteration is dealt once by what it is known to cost. Beside each is what was done
before: blocks of eight shots that were shared whole, or that ranks took by turns.

A unit is a fixed number of steps that take processor time, so that more ranks than the machine has
cores tell the same: what counts is the processor time of each rank, of which that is left out in
which it waits for others within MPI. Beside it are the units of each rank: on a machine with other
work the same steps do not always take the same time.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from spreadflow.trial.threads import THREAD_CAPS

os.environ |= dict.fromkeys(THREAD_CAPS, "1")  # before NumPy starts

import numpy as np

import recorded
from spreadflow.io import pieces
from spreadflow.io.pieces import Piece
from spreadflow.parallel import World

N_SHOTS = 400
BLOCK = 8
"""Shots of a block."""

N_ITERATIONS = 5
"""Of the work that comes back."""

STEPS = 5000
"""Of a unit, in all iterations together."""

LARGEST = 1.10
"""Processor time of the slowest rank over the mean of all: the bar."""

SEED = 1
"""Of the costs."""


def work(n_steps: int) -> None:
    """Take processor time."""
    number = 1
    for _ in range(n_steps):
        number = (1_103_515_245 * number + 12_345) % 2_147_483_648


def in_pieces(world: World, costs: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the costs of this rank's shots, as stages share them in pieces."""
    alike = [np.ones(len(costs))]
    shared = pieces.cut([Piece(0, 0, len(costs))], alike, world.size, BLOCK)
    for number in world.share(len(shared)):
        yield costs[shared[number].first : shared[number].end]


def in_blocks(world: World, costs: np.ndarray) -> Iterator[np.ndarray]:
    """Yield them as they were: blocks of eight shots, first come, first served."""
    of_blocks = costs.reshape(-1, BLOCK)
    for number in world.share(len(of_blocks)):
        yield of_blocks[number]


def dealt(world: World, costs: np.ndarray) -> Iterator[np.ndarray]:
    """Yield them in iterations, of blocks that are dealt once by what they cost."""
    of_blocks = costs.reshape(-1, BLOCK)
    own = world.deal(of_blocks.sum(axis=1).tolist())
    yield from again_and_again(world, of_blocks[own])


def by_turns(world: World, costs: np.ndarray) -> Iterator[np.ndarray]:
    """Yield them in iterations, of blocks that ranks took by turns."""
    yield from again_and_again(world, costs.reshape(-1, BLOCK)[world.rank :: world.size])


def again_and_again(world: World, of_blocks: np.ndarray) -> Iterator[np.ndarray]:
    """Yield costs of blocks (block, shot) in iterations, between which all ranks add up."""
    for _ in range(N_ITERATIONS):
        yield from of_blocks
        world.total(np.ones(3))


ITERATIONS = {in_pieces: 1, in_blocks: 1, dealt: N_ITERATIONS, by_turns: N_ITERATIONS}
WAYS = {way.__name__: way for way in ITERATIONS}


def play(name: str) -> None:
    """Work as one of the ranks; the first prints what each had."""
    way = WAYS[name]
    world = World(None)
    costs = np.rint(10.0 ** np.random.default_rng(SEED).uniform(1.0, 2.0, N_SHOTS)).astype(int)
    n_steps = STEPS // ITERATIONS[way]
    world.barrier()
    start_s = world.busy_s
    for of_shots in way(world, costs):
        for units in of_shots.tolist():
            work(units * n_steps)
        world.count("shots", len(of_shots))
        world.count("units", int(of_shots.sum()))
    shares = world.shares(start_s)
    world.once(lambda: print(json.dumps(shares.figures())))


def measured(way: str, n_ranks: int) -> dict:
    """Return the figures of one run on some ranks."""
    launcher = shutil.which("mpiexec", path=Path(sys.prefix, "bin")) or "mpiexec"
    command = [launcher, "-n", str(n_ranks), sys.executable, __file__, "--way", way]
    completed = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(completed.stdout)


def main() -> int:
    """Print a row for each way; 1 where those of the stages miss the bar."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        play(arguments.way)
        return 0
    rows = {}
    for way in WAYS:
        figures = measured(way, arguments.ranks)
        shots, units = (figures["items"][name] for name in ("shots", "units"))
        seconds = figures["seconds"]
        of_seconds, of_units = (each["max"] / each["mean"] for each in (seconds, units))
        rows[way] = {"seconds_over_mean": of_seconds, "units_over_mean": of_units, **figures}
        print(
            f"{way:10} slowest over mean {of_seconds:.3f} by processor time, {of_units:.3f} by "
            f"units; shots {shots['min']} to {shots['max']}, seconds {seconds['min']:.2f} to "
            f"{seconds['max']:.2f}, mean {seconds['mean']:.2f}"
        )
    if arguments.json:
        recorded.save(arguments.json, "balance", rows)
    return int(any(rows[way]["seconds_over_mean"] > LARGEST for way in ("in_pieces", "dealt")))


if __name__ == "__main__":
    sys.exit(main())
