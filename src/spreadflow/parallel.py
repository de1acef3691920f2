"""The ranks of one stage, behind one door. The only module that knows MPI.

`World()` without MPI is a world of one, so every stage runs without MPI. Sums are formed per fixed
block and added in block order: the same answer on any number of ranks.
"""

import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from spreadflow.errors import RanksError

ATTENTION_S = 0.005
"""How often the first rank looks for others that wait for a block."""


def _communicator():
    """Return COMM_WORLD when a launcher started this process, else None (importing mpi4py.MPI
    starts MPI).
    """
    launched = any(
        k in os.environ for k in ("PMI_SIZE", "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_SIZE")
    )
    if not launched and "SLURM_PROCID" not in os.environ:
        return None
    from mpi4py import MPI

    return MPI.COMM_WORLD


class World:
    """All ranks of a stage. `ranks` is what the launcher was asked for; a different communicator
    aborts.
    """

    def __init__(self, ranks: int = 1):
        self._comm = _communicator()
        self.rank = self._comm.rank if self._comm else 0
        self.size = self._comm.size if self._comm else 1
        if self.size != ranks:
            raise RanksError(
                "the launcher",
                f"{ranks} MPI ranks (--ranks)",
                f"a communicator of {self.size}",
                "The launcher and the MPI library do not belong together: take both from one MPI "
                "(resource `mpi` of the profile), or pass the right --ranks.",
            )

    def share(self, n_blocks: int) -> Iterator[int]:
        """Yield the blocks this rank shall do, handed out first come, first served. Collective."""
        if self._comm is None or self.size == 1:
            yield from range(n_blocks)
            return
        from mpi4py import MPI

        window = MPI.Win.Allocate(8 if self.rank == 0 else 0, 8, comm=self._comm)
        if self.rank == 0:
            np.frombuffer(window.tomemory(), dtype=np.int64)[:] = 0  # type: ignore[call-overload]
        self._comm.Barrier()
        one = np.ones(1, np.int64)
        ticket = np.zeros(1, np.int64)
        with self._attentive():
            while True:
                window.Lock(0)
                window.Fetch_and_op(one, ticket, 0)
                window.Unlock(0)
                if ticket[0] >= n_blocks:
                    break
                yield int(ticket[0])
            self._comm.Barrier()
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
        over = threading.Event()

        def listen() -> None:
            while not over.wait(ATTENTION_S):
                self._comm.Iprobe()

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            yield
        finally:
            over.set()
            listener.join()

    def sum(self, partials: Mapping[int, np.ndarray], n_blocks: int) -> np.ndarray:
        """Sum over blocks, in block order, of equally shaped float64 arrays held by whichever rank
        did the block.

        partials: block → array. Returns the same array on every rank, whatever their number.
        Collective.
        """
        shape = self.max_shape(partials)
        rows = np.zeros((n_blocks, int(np.prod(shape, dtype=np.int64))))
        for block, value in partials.items():
            rows[block] = np.asarray(value, dtype=np.float64).ravel()
        if self._comm is not None and self.size > 1:
            from mpi4py import MPI

            self._comm.Allreduce(
                MPI.IN_PLACE, rows, MPI.SUM
            )  # exact: each row is non-zero on one rank only
        total = np.zeros(rows.shape[1])
        for row in rows:
            total += row
        return total.reshape(shape)

    def max_shape(self, partials: Mapping[int, np.ndarray]) -> tuple[int, ...]:
        """Return the shape the blocks' arrays have, known to ranks that hold none."""
        mine = next((np.shape(v) for v in partials.values()), None)
        shapes = [s for s in self.gather(mine) if s is not None]
        return shapes[0] if shapes else ()

    def gather(self, value: Any) -> list:
        """Return `value` of every rank, in rank order, on every rank (small objects only).
        Collective.
        """
        return [value] if self._comm is None else self._comm.allgather(value)

    def gather_blocks(self, mine: Mapping[int, Any]) -> list:
        """Return small per-block objects of all ranks, in block order, on every rank.
        Collective.
        """
        everything = {k: v for part in self.gather(dict(mine)) for k, v in part.items()}
        return [everything[k] for k in sorted(everything)]

    def once(self, work: Callable[[], Any]) -> None:
        """Do `work` on one rank while the others wait (writing the product). Collective."""
        if self.rank == 0:
            work()
        self.barrier()

    def barrier(self) -> None:
        if self._comm is not None:
            self._comm.Barrier()

    def abort(self, code: int) -> None:
        """End all ranks at once."""
        sys.stdout.flush()
        sys.stderr.flush()
        if self._comm is not None and self.size > 1:
            self._comm.Abort(code)
        sys.exit(code)

    def report(self, error: BaseException) -> None:
        """Print an unexpected exception with its rank."""
        print(f"rank {self.rank} of {self.size} failed:", file=sys.stderr)
        traceback.print_exception(error, file=sys.stderr)
