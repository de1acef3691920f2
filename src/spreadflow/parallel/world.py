"""The ranks of one stage, and what they do together.

How many there are is said by whoever starts a program, and not by what the environment holds:
`World(1)` is a world of one that needs no MPI at all. Sums are formed per fixed block and added in
block order: the same answer on any number of ranks.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np

from spreadflow.errors import RanksError
from spreadflow.parallel.shares import Shares, deal
from spreadflow.trial import launchers

ATTENTION_S = 0.005
"""Seconds after which the first rank looks again for others that wait for a block: short beside the
work on a block, long beside the look.
"""

MANY_RANKS = 64
"""Ranks from which on the first one hands out blocks and works on none: the others ask more often
than it could look up from its own, and one in so many is missed less than what they would wait.
"""


def comm_world(ranks: int | None) -> Any:
    """Return COMM_WORLD where there may be several ranks, else None: importing mpi4py.MPI starts
    MPI. Raises RanksError where it can't be started.

    ranks: as of `World`.
    """
    if ranks == 1 or (ranks is None and not launchers.left_behind(os.environ)):
        return None
    try:
        from mpi4py import MPI
    except (ImportError, OSError, RuntimeError) as error:  # of mpi4py, of its library
        expected = "mpi4py with an MPI library, which more than one rank needs"
        todo = "`spreadflow doctor` says what is missing. --ranks 1 needs neither."
        raise RanksError("MPI", expected, error, todo) from None
    return MPI.COMM_WORLD


class World:
    """All ranks of a stage. ranks: as many as the launcher was asked for; None = as many as it
    started. Raises RanksError where there is another number.
    """

    def __init__(self, ranks: int | None = 1):
        self._comm = comm_world(ranks)
        self.rank = self._comm.rank if self._comm else 0
        self.size = self._comm.size if self._comm else 1
        self._items = Counter[str]()
        self._waited_s = 0.0
        """processor time that MPI took, most of which is waiting"""
        if ranks == 1:
            _check_alone()
        elif ranks is not None and self.size != ranks:
            expected = f"{ranks} MPI ranks (--ranks)"
            found = f"a communicator of {self.size}"
            todo = (
                "The launcher and the MPI library do not belong together, or there was no "
                "launcher: take both from one MPI (resource `mpi` of the profile), or pass the "
                "right --ranks. `spreadflow doctor` says which belong together."
            )
            raise RanksError("the launcher", expected, found, todo)

    @property
    def communicator(self) -> Any:
        """The communicator of all ranks, for this package alone; None in a world of one without
        MPI.
        """
        return self._comm

    def rank_on_node(self) -> int:
        """Return the number of this rank among those of its node, which share its memory, from 0.
        Collective.
        """
        if self._comm is None:
            return 0
        from mpi4py import MPI

        node = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        rank = node.rank
        node.Free()
        return rank

    def deal(self, costs: Sequence[float], is_early: Sequence[bool] | None = None) -> list[int]:
        """Return the blocks that this rank shall hold, ascending: for work that comes back to them
        again and again. costs, is_early: as of `deal`, the same on all ranks.
        """
        return deal(costs, self.size, is_early)[self.rank]

    def share(self, n_blocks: int) -> Iterator[int]:
        """Yield the blocks that this rank shall do; they are handed out first come, first served:
        for work that is done once. Collective.
        """
        if self._comm is None or self.size == 1:
            yield from range(n_blocks)
            return
        from mpi4py import MPI

        item_size = np.dtype(np.int64).itemsize
        size = item_size if self.rank == 0 else 0  # the first rank holds the counter
        with self._waiting():
            window = MPI.Win.Allocate(size, item_size, comm=self._comm)
            # nobody excludes others: drawing is one atomic operation
            window.Lock_all(MPI.MODE_NOCHECK)
            if self.rank == 0:
                counter = np.frombuffer(window.tomemory(), dtype=np.int64)  # type: ignore[call-overload]
                counter[:] = 0
                window.Sync()
            self._comm.Barrier()

        increment = np.ones(1, np.int64)
        ticket = np.zeros(1, np.int64)
        with self._attentive():
            while self.rank > 0 or self.size < MANY_RANKS:
                with self._waiting():
                    window.Fetch_and_op(increment, ticket, 0)
                    window.Flush(0)
                if ticket[0] >= n_blocks:
                    break
                yield int(ticket[0])
            self.barrier()
        window.Unlock_all()
        window.Free()

    @contextmanager
    def _attentive(self) -> Iterator[None]:
        """Let the first rank, which holds the counter, answer the others while it works on a block
        of its own.

        Without this they would wait for the end of its block each time: MPI moves only while a rank
        is inside a call.
        """
        from mpi4py import MPI

        if self.rank != 0 or MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            yield
            return
        is_over = threading.Event()

        def listen() -> None:
            while not is_over.wait(ATTENTION_S):
                self._comm.Iprobe()

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            yield
        finally:
            is_over.set()
            listener.join()

    def sum(self, partials: Mapping[int, np.ndarray]) -> np.ndarray:
        """Return the sum over blocks, in block order, of float64 arrays of equal shape, each of
        which is held by the rank that did the block. Collective.

        partials: block → array. The sum is the same on every rank, whatever their number.
        """
        return self.add_up(sorted(partials.items()), self.max_shape(partials))

    def add_up(
        self, blocks: Iterable[tuple[int, np.ndarray]], shape: tuple[int, ...]
    ) -> np.ndarray:
        """Return the sum over blocks, in block order, as `sum`. Collective.

        blocks: number and array of this rank's blocks, ascending; each array may be in the memory
        of the last. Every rank adds its share of the elements, so that none holds the arrays of all
        blocks.
        """
        total = np.zeros(shape)
        if self._comm is None or self.size == 1:
            for _, array in blocks:
                total += array
            return total
        from mpi4py import MPI

        own = [(block, np.array(array, dtype=np.float64).ravel()) for block, array in blocks]
        numbers = self.gather([block for block, _ in own])
        bounds = total.size * np.arange(self.size + 1) // self.size
        widths = np.diff(bounds)
        pieces = [array[first:last] for first, last in pairwise(bounds) for _, array in own]
        sent = np.concatenate([np.empty(0), *pieces])
        order = np.argsort([block for of_rank in numbers for block in of_rank])
        received = np.empty((len(order), widths[self.rank]))
        n_received = [len(of_rank) * widths[self.rank] for of_rank in numbers]
        with self._waiting():
            self._comm.Alltoallv(
                [sent, (widths * len(own)).tolist(), MPI.DOUBLE], [received, n_received, MPI.DOUBLE]
            )
        own_total = np.zeros(widths[self.rank])
        for row in order:
            own_total += received[row]
        with self._waiting():
            self._comm.Allgatherv(own_total, [total, widths.tolist(), MPI.DOUBLE])
        return total

    def total(self, array: np.ndarray) -> np.ndarray:
        """Return the sum of a float64 array over all ranks, the same on each of them; it depends on
        their number by rounding. Collective.
        """
        if self._comm is None or self.size == 1:
            return array
        from mpi4py import MPI

        out = np.array(array, dtype=np.float64)
        with self._waiting():
            self._comm.Allreduce(MPI.IN_PLACE, out, MPI.SUM)
        return out

    def max_shape(self, partials: Mapping[int, np.ndarray]) -> tuple[int, ...]:
        """Return the shape of the blocks' arrays, also to ranks that hold none; () where no rank
        holds any. Collective.
        """
        own_shapes = [np.shape(value) for value in partials.values()]
        shapes = [shape for part in self.gather(own_shapes[:1]) for shape in part]
        return shapes[0] if shapes else ()

    def gather(self, value: Any) -> list:
        """Return the values of all ranks, in rank order, on every rank: small objects only.
        Collective.
        """
        with self._waiting():
            return [value] if self._comm is None else self._comm.allgather(value)

    def gather_blocks(self, own: Mapping[int, Any]) -> list:
        """Return the objects of all blocks, in block order, on every rank: small ones only. own:
        block → object, of this rank. Collective.
        """
        objects: dict[int, Any] = {}
        for part in self.gather(dict(own)):
            objects |= part
        return [objects[block] for block in sorted(objects)]

    def collect_blocks(self, own: Mapping[int, Any]) -> list:
        """Return the objects of all blocks, in block order, on the first rank, and none on the
        others. own: as in `gather_blocks`. Collective.
        """
        with self._waiting():
            ranks = [dict(own)] if self._comm is None else self._comm.gather(dict(own)) or []
        objects = {block: value for of_rank in ranks for block, value in of_rank.items()}
        return [objects[block] for block in sorted(objects)]

    def once(self, work: Callable[[], Any]) -> None:
        """Do `work`, such as writing the product, on one rank while the others wait. Collective."""
        if self.rank == 0:
            work()
        self.barrier()

    def barrier(self) -> None:
        """Wait for all ranks. Collective."""
        if self._comm is not None:
            with self._waiting():
                self._comm.Barrier()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Count the processor time of this block as waiting: MPI looks for messages all the time,
        so that a rank that waits for others is as busy as one that works.
        """
        start_s = time.process_time()
        try:
            yield
        finally:
            self._waited_s += time.process_time() - start_s

    def count(self, units: str, n: int) -> None:
        """Add to what this rank has worked on. units: what is counted, such as `shots`."""
        self._items[units] += n

    @property
    def busy_s(self) -> float:
        """Processor time that this process has taken, but for that in which it waited for other
        ranks, s.
        """
        return time.process_time() - self._waited_s

    def shares(self, since_s: float) -> Shares:
        """Return what each rank has worked on. since_s: `busy_s` when it began. Collective."""
        of_ranks = self.gather((dict(self._items), self.busy_s - since_s))
        units = dict.fromkeys(name for items, _ in of_ranks for name in items)
        return Shares(
            items={name: [items.get(name, 0) for items, _ in of_ranks] for name in units},
            seconds=[seconds for _, seconds in of_ranks],
        )


def _check_alone() -> None:
    """Raise RanksError where a launcher started this process as one of several: each of them would
    do all the work.
    """
    place = launchers.place(os.environ)
    if place is None or place.size == 1:
        return
    rank, size = place.variables
    expected = "a process of its own for --ranks 1"
    found = f"rank {place.rank} of {place.size} ({rank}, {size})"
    todo = (
        f"A stage takes --ranks {place.size}; other words are started without a launcher. Where "
        f"there was none, one left these variables behind: `unset {rank} {size}`."
    )
    raise RanksError("the launcher", expected, found, todo)
