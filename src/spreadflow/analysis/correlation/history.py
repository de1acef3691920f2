"""Which shots a rolling buffer holds, and since when.

Shots arrive in any order and are numbered as they arrive. A buffer of n shots that is full gives up
its oldest one for a newer one. What was removed keeps its row until the next block of shots
arrives, so that a block can be worked on as a whole with the outcome of shot by shot.
"""

import heapq
from collections import deque
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.correlation.partner_loops import Held, partners

STILL_HELD = np.iinfo(np.int64).max
"""Removal of a shot that is held."""


class Partners(NamedTuple):
    """Some shots and their partners."""

    shots: np.ndarray
    """(shot,) int64 rows of the buffer"""
    others: np.ndarray
    """(delay, shot) int64 rows of their partners; −1 = there is none"""
    step: int
    """−1 where the partners are the earlier ones, 1 where they are the later ones"""

    @property
    def counts(self) -> np.ndarray:
        """The number of partners (delay,) int64."""
        return np.count_nonzero(self.others >= 0, axis=1)


class Counts(NamedTuple):
    """What became of shots. Each of them is stored, a duplicate or late."""

    n_shots: int
    """that arrived"""
    n_duplicates: int
    """of a time that is held already; dropped"""
    n_late: int
    """not newer than the oldest one that a full buffer holds, or than what multi-tau has passed;
    dropped
    """
    n_disordered: int
    """stored, but older than one that was stored before"""


class History:
    """The shots in a buffer of `n_shots`, of which up to `n_arriving` arrive at once; 0 = they come
    one by one, each into the row of the one that it removes.
    """

    def __init__(self, n_shots: int, n_arriving: int):
        self.n_shots = n_shots
        self.n_arriving = n_arriving
        self.n_rows = n_shots + n_arriving
        self.counts = Counts(0, 0, 0, 0)
        self._time_of_row = np.zeros(self.n_rows, np.int64)
        self._arrival = np.zeros(self.n_rows, np.int64)
        self._removal = np.zeros(self.n_rows, np.int64)
        self._free = deque(range(self.n_rows))
        self._row_of_time: dict[int, int] = {}
        self._oldest_first: list[int] = []
        """a heap of times"""
        self._newest: int | None = None
        self._new: list[int] = []
        """rows of the shots of the last block, in the order of their arrival"""
        self._removed: list[int] = []
        """rows of the shots that it removed, in the order of their removal"""

    @property
    def n_held(self) -> int:
        """The number of shots that are held."""
        return len(self._row_of_time)

    @property
    def oldest(self) -> int:
        """The oldest time that is held. Raises IndexError where there is none."""
        return self._oldest_first[0]

    @property
    def newest(self) -> int:
        """The newest time that is held, the newest ever stored. Raises IndexError as `oldest`."""
        if self._newest is None:
            raise IndexError("no shot is held")
        return self._newest

    @property
    def times(self) -> np.ndarray:
        """The times of the shots that are held, ascending."""
        return np.array(sorted(self._row_of_time), np.int64)

    @property
    def rows(self) -> np.ndarray:
        """The rows of the shots that are held, in the order of their times."""
        return np.array([self._row_of_time[time] for time in sorted(self._row_of_time)], np.int64)

    def row_of(self, time: int) -> int | None:
        """Return the row of a shot that is held, else None."""
        return self._row_of_time.get(time)

    def fate(self, time: int) -> tuple[bool, int | None]:
        """Return whether a shot of this time would be stored, and the time of the shot that it
        would remove.
        """
        if self.n_held < self.n_shots:
            return time not in self._row_of_time, None
        oldest = self._oldest_first[0]
        if time <= oldest or time in self._row_of_time:
            return False, None
        return True, oldest

    def insert(self, times: np.ndarray) -> np.ndarray:
        """Take in up to `n_arriving` shots. Return the (shot,) int64 row of each; −1 = dropped."""
        self._free.extend(self._removed)
        self._new = []
        self._removed = []
        return np.array([self._insert_one(int(time)) for time in times], np.int64)

    def _insert_one(self, time: int) -> int:
        """Take in one shot. Return its row, or −1."""
        counts = self.counts
        number = counts.n_shots
        is_stored, oldest = self.fate(time)
        is_duplicate = not is_stored and time in self._row_of_time
        is_disordered = self._newest is not None and time < self._newest
        self.counts = Counts(
            n_shots=number + 1,
            n_duplicates=counts.n_duplicates + is_duplicate,
            n_late=counts.n_late + (not is_stored and not is_duplicate),
            n_disordered=counts.n_disordered + (is_stored and is_disordered),
        )
        if not is_stored:
            return -1
        if oldest is not None:
            removed = self._row_of_time.pop(heapq.heappop(self._oldest_first))
            self._removal[removed] = number
            self._removed.append(removed)
        row = self._free.popleft() if self._free else self._removed.pop()
        self._row_of_time[time] = row
        heapq.heappush(self._oldest_first, time)
        self._newest = time if self._newest is None else max(time, self._newest)
        self._time_of_row[row] = time
        self._arrival[row] = number
        self._removal[row] = STILL_HELD
        self._new.append(row)
        return row

    def entering(self, delays: np.ndarray) -> tuple[Partners, Partners]:
        """Return the partners that the shots of the last block found as they arrived: earlier ones,
        and later ones, which had arrived before.
        """
        rows = np.array(self._new, np.int64)
        moments = self._arrival[rows]
        held = self._held(self._removed)
        return (
            self._partners(delays, rows, moments, -1, held),
            self._partners(delays, rows, moments, 1, held),
        )

    def leaving(self, delays: np.ndarray) -> Partners:
        """Return the partners that the shots which the last block removed had when they were: all
        of them later ones, as the oldest is removed.
        """
        rows = np.array(self._removed, np.int64)
        held = self._held(self._removed)
        return self._partners(delays, rows, self._removal[rows], 1, held)

    def standing(self, delays: np.ndarray) -> Partners:
        """Return all partners among the shots that are held."""
        held = self._held([])
        now = np.full(len(held.rows), self.counts.n_shots)
        return self._partners(delays, held.rows, now, 1, held)

    def _held(self, also: list[int]) -> Held:
        """Return the shots that are held, and those of the rows `also`."""
        rows = np.array([*self._row_of_time.values(), *also], np.int64)
        rows = rows[np.argsort(self._time_of_row[rows], kind="stable")]
        return Held(self._time_of_row[rows], rows, self._arrival, self._removal)

    def _partners(
        self, delays: np.ndarray, shots: np.ndarray, moments: np.ndarray, step: int, held: Held
    ) -> Partners:
        """Return the partners of the shots in some rows at some moments."""
        others = partners(delays, self._time_of_row[shots], moments, step, held)
        return Partners(shots, others, step)
