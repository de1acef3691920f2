"""Multi-tau: few lags on each of several levels, whose frames last twice as long as those before.

A frame of a level is the mean of two neighbouring ones of the level below, where both are there: no
frame is made up across a gap. On level l, lags are multiples of 2^l; averaging widens a delay to a
triangle of ±2^l about it, which is the bias against the exact sums.
"""

import numpy as np

from spreadflow.analysis.correlation import lag_loops
from spreadflow.analysis.correlation.calculators import Limits
from spreadflow.analysis.correlation.history import STILL_HELD, Counts
from spreadflow.analysis.correlation.lag_loops import Held, Levels, partners
from spreadflow.analysis.correlation.sums import Sums

AT_ONCE = 512
"""Shots that are worked on at once, so that frames of the middle levels still come in stretches."""


def lags_of(level: int, n_lags: int) -> np.ndarray:
    """Return the lags of a level in units of its frames: those that no lower level has."""
    return np.arange(1 if level == 0 else n_lags // 2 + 1, n_lags + 1)


def delays_of(n_levels: int, n_lags: int) -> np.ndarray:
    """Return the delays of all levels, ascending, in units of the shot id."""
    return np.concatenate([lags_of(level, n_lags) << level for level in range(n_levels)])


def _pieces(places: np.ndarray) -> np.ndarray:
    """Return frames that are averaged with the next one as pieces of a line: (piece, 2) int64 first
    place and number of means. places: of these frames, ascending.
    """
    is_start = np.ones(len(places), bool)
    is_start[1:] = np.diff(places) != 2
    starts = np.flatnonzero(is_start)
    n_means = np.diff(np.append(starts, len(places)))
    return np.stack([places[starts], n_means], axis=1)


class MultiTau:
    """A calculator whose memory does not grow with the delays. n_lags: of the first level, even;
    the others have half as many. Shots of a block may come in any order; those that are not newer
    than the block before are late.
    """

    def __init__(self, n_pixels: int, n_levels: int, n_lags: int, limits: Limits):
        self.n_levels = n_levels
        self.n_lags = n_lags
        self.limits = limits
        self.counts = Counts(0, 0, 0, 0)
        lags = [lags_of(level, n_lags) for level in range(n_levels)]
        self._first_lag = np.cumsum([0, *map(len, lags)])
        self.delays = delays_of(n_levels, n_lags)
        self._n_partners = np.zeros(len(self.delays), np.int64)
        self._sums = np.zeros((n_pixels, len(self.delays), 3))
        self._kept = np.zeros((n_pixels, n_levels, n_lags))
        self._kept_times = [np.zeros(0, np.int64) for _ in lags]
        self.is_bad = np.zeros(n_pixels, np.int8)

    def add(self, times: np.ndarray, images: np.ndarray) -> None:
        """Take in a block of shots, as `Calculator`."""
        for first in range(0, len(times), AT_ONCE):
            block = slice(first, first + AT_ONCE)
            order = self._accepted(times[block])
            if not len(order):
                continue
            levels = self._levels(times[block][order])
            limits = self.limits.single()
            lag_loops.multi_tau(
                images[block], order, limits, levels, self._kept, self.is_bad, self._sums
            )

    def _accepted(self, times: np.ndarray) -> np.ndarray:
        """Return which shots of a block are taken in, by time; count the others."""
        _, order = np.unique(times, return_index=True)
        passed = self._kept_times[0]
        is_new = np.ones(len(times), bool) if not len(passed) else times > passed[-1]
        accepted = order[is_new[order]]
        n_late = int(np.count_nonzero(~is_new))
        disordered = np.maximum.accumulate(times) > times
        self.counts = Counts(
            n_shots=self.counts.n_shots + len(times),
            n_duplicates=self.counts.n_duplicates + len(times) - n_late - len(accepted),
            n_late=self.counts.n_late + n_late,
            n_disordered=self.counts.n_disordered + int(np.count_nonzero(disordered[accepted])),
        )
        return accepted

    def _levels(self, times: np.ndarray) -> Levels:
        """Return how frames at new, ascending times pass through the levels; keep the times of the
        frames that the next block begins with.
        """
        columns: dict[str, list] = {name: [] for name in ("kept", "line", "next", "pieces")}
        stretches = []
        numbers = []
        pieces = []
        for level in range(self.n_levels):
            kept = self._kept_times[level]
            line = np.concatenate([kept, times])
            first, last = self._first_lag[level : level + 2]
            rows, bounds, n_partners = self._partners(line, len(kept), level)
            self._n_partners[first:last] += n_partners
            stretches.append(rows)
            numbers.append(np.diff(bounds))
            is_left = (line[:-1] % 2 == 0) & (np.diff(line) == 1)
            places = np.flatnonzero(is_left)
            places = places[places + 1 >= len(kept)]
            self._kept_times[level] = line[line > line[-1] - self.n_lags] if len(line) else line
            pieces.append(_pieces(places))
            columns["kept"].append(len(kept))
            columns["line"].append(len(line))
            columns["next"].append(len(self._kept_times[level]))
            columns["pieces"].append(len(pieces[-1]))
            times = line[places] >> 1
        return Levels(
            n_kept=np.array(columns["kept"]),
            n_line=np.array(columns["line"]),
            n_kept_next=np.array(columns["next"]),
            first_lag=self._first_lag,
            stretches=np.concatenate(stretches),
            bounds=np.cumsum([0, *np.concatenate(numbers)]),
            pieces=np.concatenate(pieces),
            first_piece=np.cumsum([0, *columns["pieces"]]),
        )

    def _partners(self, line: np.ndarray, n_kept: int, level: int) -> tuple[np.ndarray, ...]:
        """Return the partners that new frames of a level have, with places in its line for rows."""
        places = np.arange(len(line))
        held = Held(line, places, places, np.full(len(line), STILL_HELD))
        new = places[n_kept:]
        return partners(lags_of(level, self.n_lags), new, line[n_kept:], new, -1, held)

    def result(self) -> Sums:
        """Return the sums as they are now."""
        g2, past, future = (np.ascontiguousarray(self._sums[:, :, i].T) for i in range(3))
        n_partners = self._n_partners.copy()
        return Sums(self.delays, n_partners, g2, past, future, self.is_bad.copy())
