"""Multi-tau: few lags on each of several levels, whose frames last twice as long as those before.

A frame of a level is the mean of two neighbouring ones of the level below, where both are there: no
frame is made up across a gap. On level l, lags are multiples of 2^l; averaging widens a delay to a
triangle of ±2^l about it, which is the bias against the exact sums.
"""

import numpy as np

from spreadflow.analysis.correlation import lag_loops
from spreadflow.analysis.correlation.engine import Limits
from spreadflow.analysis.correlation.history import STILL_HELD, Counts
from spreadflow.analysis.correlation.lag_loops import Levels
from spreadflow.analysis.correlation.partner_loops import Held, partners
from spreadflow.analysis.correlation.sums import Sums
from spreadflow.analysis.correlation.terms import Terms, joined, n_filled, terms
from spreadflow.analysis.correlation.tiles import by_pixel, empty_sums, n_tiles
from spreadflow.physics.lanes import LANES

AT_ONCE = 512
"""Shots that are worked on at once, so that frames of the middle levels still come in runs, and
those of all levels fit into the processor's second cache.
"""


def lags_of(level: int, n_lags: int) -> np.ndarray:
    """Return the lags of a level in units of its frames: those that no lower level has."""
    return np.arange(1 if level == 0 else n_lags // 2 + 1, n_lags + 1)


def delays_of(n_levels: int, n_lags: int) -> np.ndarray:
    """Return the delays of all levels, ascending, in units of the shot id."""
    return np.concatenate([lags_of(level, n_lags) << level for level in range(n_levels)])


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
        numbers = [len(lags_of(level, n_lags)) for level in range(n_levels)]
        *first_lags, n_all = np.cumsum([0, *map(n_filled, numbers)]).tolist()
        lags = [np.arange(n) for n in numbers]
        self._places = np.concatenate([a + b for a, b in zip(first_lags, lags, strict=True)])
        """(lag,) where its sums are"""
        self.delays = delays_of(n_levels, n_lags)
        self._n_partners = np.zeros(len(self.delays), np.int64)
        self._sums = empty_sums(n_pixels, n_all)
        self._kept = np.zeros((n_tiles(n_pixels), n_levels, n_lags * LANES))
        self._kept_times = [np.zeros(0, np.int64) for _ in numbers]
        self.is_bad = np.zeros(n_pixels, np.int8)

    def add(self, times: np.ndarray, images: np.ndarray) -> None:
        """Take in a block of shots, as `Calculator`."""
        for first in range(0, len(times), AT_ONCE):
            block = slice(first, first + AT_ONCE)
            order = self._accepted(times[block])
            if not len(order):
                continue
            levels, summed = self._levels(times[block][order])
            limits = self.limits.single()
            lag_loops.multi_tau(
                images[block], order, limits, levels, summed, self._kept, self.is_bad, self._sums
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

    def _levels(self, times: np.ndarray) -> tuple[Levels, Terms]:
        """Return how frames at new, ascending times pass through the levels, and what is summed;
        keep the times of the frames that the next block begins with.
        """
        lines = []
        n_kept = []
        means = []
        first_rows = [0]
        for kept in self._kept_times:
            line = np.concatenate([kept, times])
            is_left = (line[:-1] % 2 == 0) & (np.diff(line) == 1)
            places = np.flatnonzero(is_left)
            places = places[places + 1 >= len(kept)]
            lines.append(line)
            n_kept.append(len(kept))
            means.append(first_rows[-1] + places)
            first_rows.append(first_rows[-1] + len(line))
            times = line[places] >> 1
        self._kept_times = [line[line > line[-1:] - self.n_lags] for line in lines]
        parts = []
        for level, line in enumerate(lines):
            parts.append(self._terms(level, line, n_kept[level], first_rows[level], first_rows[-1]))
        levels = Levels(
            first_row=np.array(first_rows),
            n_kept=np.array(n_kept),
            n_kept_next=np.array([len(kept) for kept in self._kept_times]),
            means=np.concatenate(means),
            first_mean=np.cumsum([0, *map(len, means)]),
        )
        self._n_partners += np.concatenate([counts for _, counts in parts])
        return levels, joined([of_level for of_level, _ in parts])

    def _terms(
        self, level: int, line: np.ndarray, n_kept: int, first_row: int, nothing: int
    ) -> tuple[Terms, np.ndarray]:
        """Return what is summed over the partners that the new frames of a level have, and their
        number by lag. line: times of its frames, kept ones first; first_row, nothing: in the tile.
        """
        places = np.arange(len(line))
        held = Held(line, places, places, np.full(len(line), STILL_HELD))
        new = places[n_kept:]
        others = partners(lags_of(level, self.n_lags), line[n_kept:], new, -1, held)
        is_there = others >= 0
        rows = np.where(is_there, first_row + others, nothing)
        return terms(first_row + new, rows, -1, nothing), np.count_nonzero(is_there, axis=1)

    def result(self) -> Sums:
        """Return the sums as they are now."""
        g2, past, future = by_pixel(self._sums, self._places, len(self.is_bad))
        n_partners = self._n_partners.copy()
        return Sums(self.delays, n_partners, g2, past, future, self.is_bad.copy())
