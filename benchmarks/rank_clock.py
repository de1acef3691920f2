"""Runs the command of a stage, and writes what the processor time of each rank went into.

    mpiexec -n 4 python benchmarks/rank_clock.py FOLDER STAGE ARGUMENTS...

FOLDER/<rank>.json has what `Clock` counts. The stage is the program as it is: `World`, through
which ranks do everything together, is watched from outside. In place of a stage, `tickets 4` lets
four ranks draw blocks that take no time, while the first one works, and `tickets 4 served` while it
hands out alone.
"""

import json
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from spreadflow.parallel import World
from spreadflow.parallel import world as world_module

FIRST_BLOCK_S = 0.05
"""Processor time of a block of the first rank, where tickets are measured."""

N_TICKETS = 400
"""Blocks that are drawn then."""


class Clock:
    """Processor time of this process, s, by what it went into."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("start", "own", "blocks", "waiting", "once"), 0.0)
        """start: before ranks first do anything together; blocks: work that is dealt out; once: of
        the first rank alone; waiting: for the others, or for a ticket; own: all else
        """
        self.loops: list[list[float]] = []
        """of each loop over blocks, those of this rank, s each"""
        self.sums = [0, 0]
        """how many there were, and their bytes"""
        self.gathered = [0, 0]
        """the same of objects that ranks told each other"""
        self.ticket_s: list[float] = []
        """elapsed time of each ticket"""
        self._now = ["start"]
        self._since = 0.0

    def enter(self, what: str) -> None:
        """Count from here on as something else, until `leave`."""
        self._count()
        if self._now == ["start"]:
            self._now = ["own"]
        self._now.append(what)

    def leave(self) -> None:
        """Count as before."""
        self._count()
        self._now.pop()

    def _count(self) -> None:
        """Add the time since the last change."""
        now = time.process_time()
        self.seconds[self._now[-1]] += now - self._since
        self._since = now

    @contextmanager
    def counting(self, what: str) -> Iterator[None]:
        """Count this block as something."""
        self.enter(what)
        try:
            yield
        finally:
            self.leave()

    def end(self, path: Path) -> None:
        """Write what was counted."""
        self._count()
        names = ("seconds", "loops", "sums", "gathered", "ticket_s")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({name: getattr(self, name) for name in names}))


def watch(clock: Clock) -> None:
    """Let a clock count what goes through `World` in this process."""
    world: Any = World  # whose methods are replaced
    share = world.share
    once = world.once

    def shared(self: World, n_blocks: int) -> Iterator[int]:
        own: list[float] = []
        clock.loops.append(own)
        blocks = share(self, n_blocks)
        while True:
            elapsed = time.perf_counter()
            with clock.counting("waiting"):
                block = next(blocks, None)
            clock.ticket_s.append(time.perf_counter() - elapsed)
            if block is None:
                clock.ticket_s.pop()  # it waited for the last block of the others
                return
            before = time.process_time()
            with clock.counting("blocks"):
                yield block
            own.append(time.process_time() - before)

    def done_once(self: World, work: Callable[[], Any]) -> None:
        def timed() -> None:
            with clock.counting("once"):
                work()

        with clock.counting("waiting"):
            once(self, timed)

    world.share = shared
    world.once = done_once
    for name in ("total", "add_up"):
        setattr(world, name, _counted(clock, getattr(world, name), clock.sums))
    for name in ("gather", "collect_blocks"):
        setattr(world, name, _counted(clock, getattr(world, name), clock.gathered))
    world.barrier = _counted(clock, world.barrier, [0, 0])


def _counted(clock: Clock, method: Callable, count: list[int]) -> Callable:
    """Return a method of `World` during which a clock counts waiting. count: how often it was
    called, and bytes.
    """

    def counted(self: World, *arguments: Any) -> Any:
        with clock.counting("waiting"):
            count[0] += 1
            count[1] += _n_bytes(arguments)
            return method(self, *arguments)

    return counted


def _n_bytes(arguments: tuple) -> int:
    """Return the bytes of what a rank hands to a method: an array, the shape of a sum, or an
    object.
    """
    match arguments:
        case (np.ndarray() as array,):
            return array.nbytes
        case (_, tuple() as shape):
            return int(8 * np.prod(shape))
        case (value,):
            return len(pickle.dumps(value))
    return 0


def draw_tickets(n_ranks: int, is_served: bool) -> None:
    """Share blocks that take no time but on the first rank. is_served: that works on none."""
    world = World(n_ranks)
    if is_served:
        world_module.MANY_RANKS = n_ranks
    for _ in world.share(N_TICKETS):
        ends = time.process_time() + FIRST_BLOCK_S
        while world.rank == 0 and time.process_time() < ends:
            pass


def main() -> int:
    """Run a stage, or draw tickets, and return the exit status."""
    folder, word, *arguments = sys.argv[1:]
    clock = Clock()
    watch(clock)
    status = 0
    if word == "tickets":
        draw_tickets(int(arguments[0]), arguments[1:] == ["served"])
    else:
        from spreadflow import cli

        status = cli.main([word, *arguments])
    clock.end(Path(folder) / f"{World(None).rank}.json")
    return status


if __name__ == "__main__":
    sys.exit(main())
