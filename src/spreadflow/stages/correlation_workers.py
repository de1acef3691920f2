"""Workers of `correlate`: G2 by a calculator, in blocks, or the user's calculation shot by shot."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spreadflow.analysis.correlation.calculators import Calculator
from spreadflow.analysis.correlation.history import Counts, History
from spreadflow.analysis.correlation.sums import Sums, side_by_side
from spreadflow.analysis.correlation.two_time import TwoTimeShots, TwoTimeSums
from spreadflow.parallel.roles import Result
from spreadflow.stages.correlation_callbacks import Callbacks, is_early_form

STORED, REMOVED = 1, -1
"""Modes of `workerAdjustTerms`."""

N_COUNTS = len(Counts._fields)
"""Counts of shots that follow those of partners among the numbers of a result."""


class G2Worker:
    """A worker that has a calculator form the sums. two_time: has those of each two shots formed;
    None = they are not.
    """

    def __init__(
        self, calculator: Calculator, callbacks: Callbacks, two_time: TwoTimeShots | None = None
    ):
        self._calculator = calculator
        self._two_time = two_time
        self._callbacks = callbacks
        self._adjusts = callbacks.get("workerAdjustData") is not None

    def take(self, shot_ids: np.ndarray, pixels: np.ndarray) -> None:
        """Take in a block of shots."""
        if self._adjusts:
            for values in pixels:
                self._callbacks.adjust(values)
        self._calculator.add(shot_ids, pixels)
        if self._two_time is not None:
            self._two_time.add(shot_ids, pixels)

    def result(self) -> Result:
        """Return the sums, G2, IF, IP. A pixel is bad for both, whichever of them held the shot."""
        sums = self._calculator.result()
        is_bad = sums.is_bad
        if self._two_time is not None:
            is_bad = is_bad | self._two_time.engine.is_bad
        numbers = np.array([*sums.counts, *self._calculator.counts], np.int64)
        result = Result(np.stack([sums.g2, sums.future, sums.past]), numbers, is_bad)
        if self._two_time is None:
            return result
        two_time = self._two_time.result(is_bad)
        return _with_two_time(result, two_time, self._two_time.history.n_shots)


def two_time_sizes(n_labels: int, n_shots: int) -> tuple[int, int]:
    """Return how many numbers and totals two-time correlation adds to a result."""
    return 1 + n_shots, n_labels * (1 + n_shots + n_shots**2)


def _with_two_time(result: Result, sums: TwoTimeSums, n_shots: int) -> Result:
    """Return a result with two-time sums, filled up to those of `n_shots` shots."""
    n = len(sums.times)
    times = np.zeros(1 + n_shots, np.int64)
    times[0] = n
    times[1 : 1 + n] = sums.times
    totals = np.zeros(two_time_sizes(len(sums.n_pixels), n_shots)[1])
    flat = np.concatenate([part.ravel() for part in sums[1:]])
    totals[: len(flat)] = flat
    return result._replace(numbers=np.concatenate([result.numbers, times]), totals=totals)


def two_time_of(results: Sequence[Result], n_delays: int, n_labels: int) -> TwoTimeSums:
    """Return the two-time sums of all pixels from the results of workers."""
    n, *times = results[0].numbers[n_delays + N_COUNTS :].tolist()
    totals = np.sum([result.totals for result in results], axis=0)
    bounds = np.cumsum([n_labels, n_labels * n, n_labels * n * n])
    n_pixels, values, products, _ = np.split(totals, bounds)
    return TwoTimeSums(
        times=np.array(times[:n], np.int64),
        n_pixels=n_pixels,
        values=values.reshape(n_labels, n),
        products=products.reshape(n_labels, n, n),
    )


def counts_of(result: Result, n_delays: int) -> Counts:
    """Return what became of the shots."""
    return Counts(*result.numbers[n_delays : n_delays + N_COUNTS].tolist())


def sums_of(results: Sequence[Result], delays: np.ndarray) -> Sums:
    """Return the sums of all pixels from the results of workers that have a calculator."""
    shards = []
    for result in results:
        g2, future, past = result.values
        counts = result.numbers[: len(delays)]
        shards.append(Sums(delays, counts, g2, past, future, result.flags))
    return side_by_side(shards)


class WorkerData:
    """The shots that a user's calculation has at hand: `X` (row, pixel), and where each time is."""

    def __init__(self, n_shots: int, n_pixels: int):
        self._history = History(n_shots, 0)
        self.X = np.zeros((self._history.n_rows, n_pixels), np.float32)
        self.T = np.zeros(self._history.n_rows, np.int64)

    @property
    def history(self) -> History:
        """Which shots are held."""
        return self._history

    @property
    def numOutOfOrder(self) -> int:
        """Shots that came after newer ones."""
        return self._history.counts.n_disordered

    @property
    def numDupTimes(self) -> int:
        """Shots of a time that was held already."""
        return self._history.counts.n_duplicates

    def timesForStoredData(self) -> list[int]:
        """Return the times that are held, ascending."""
        return self._history.times.tolist()

    def timesDataIndexes(self) -> Iterator[tuple[int, int]]:
        """Yield the times that are held, ascending, with their rows."""
        for time in self.timesForStoredData():
            row = self._history.row_of(time)
            assert row is not None
            yield time, row

    def tm2idx(self, tm: int) -> int | None:
        """Return the row of a time, or None where it is not held."""
        return self._history.row_of(int(tm))

    def empty(self) -> bool:
        """Whether no shot is held."""
        return not self._history.n_held

    def filledX(self) -> bool:
        """Whether the next new shot removes one."""
        return self._history.n_held == self._history.n_shots

    def minTimeForStoredData(self) -> int:
        """Return the oldest time that is held."""
        return self._history.oldest

    def maxTimeForStoredData(self) -> int:
        """Return the newest time that is held."""
        return self._history.newest


class UserWorker:
    """A worker that hands each shot to the user's class. n_delays: that its arrays have."""

    def __init__(self, callbacks: Callbacks, n_shots: int, n_pixels: int, n_delays: int):
        self._callbacks = callbacks
        self._n_pixels = n_pixels
        self._n_delays = n_delays
        self._data = WorkerData(n_shots, n_pixels)

    def take(self, shot_ids: np.ndarray, pixels: np.ndarray) -> None:
        """Take in a block of shots, one after the other."""
        for shot_id, values in zip(shot_ids.tolist(), pixels, strict=True):
            self._take_one(shot_id, values)

    def _take_one(self, shot_id: int, values: np.ndarray) -> None:
        """Take in a shot."""
        history = self._data.history
        is_stored, oldest = history.fate(shot_id)
        if oldest is not None:
            self._tell("workerBeforeDataRemove", REMOVED, oldest, history.row_of(oldest))
        (row,) = history.insert(np.array([shot_id])).tolist()
        if not is_stored:
            return
        self._callbacks.adjust(values)
        self._data.X[row] = values
        self._data.T[row] = shot_id
        self._tell("workerAfterDataInsert", STORED, shot_id, row)

    def _tell(self, name: str, mode: int, time: int, row: int | None) -> None:
        """Call the method for a shot that was stored, or is about to be removed, by either name."""
        self._callbacks.call(name, time, row, self._data)
        early = self._callbacks.get("workerAdjustTerms")
        if early is not None:
            pivot = self._data.tm2idx(self._data.minTimeForStoredData())
            early(mode, row, pivot, self._data.history.n_held, self._data.T, self._data.X)

    def result(self) -> Result:
        """Return what the user's class calculates. Raises ConfigError where it is of another shape
        than agreed, or not finite.
        """
        values, counts, flags = self._callbacks.calculated(
            self._calculated(), self._n_delays, self._n_pixels
        )
        return Result(values, np.array([*counts, *self._data.history.counts], np.int64), flags)

    def _calculated(self) -> Any:
        """Return what `workerCalc` returns, by either form."""
        method = self._callbacks.get("workerCalc")
        assert method is not None
        if not is_early_form(method):
            return method(self._data)
        rows = [row for _, row in self._data.timesDataIndexes()]
        return method(self._data.T[rows], len(rows), self._data.X[rows])
