"""The engine on the processor: loops over tiles of pixels, compiled by Numba."""

import numpy as np

from spreadflow.analysis.correlation import lag_loops
from spreadflow.analysis.correlation.engine import Limits
from spreadflow.analysis.correlation.history import Partners
from spreadflow.analysis.correlation.terms import Terms, n_filled, terms
from spreadflow.analysis.correlation.tiles import by_pixel, empty_sums, n_tiles
from spreadflow.physics.lanes import LANES


class NumbaEngine:
    """An `Engine` whose sums are by tile, as those of `lag_loops.add_up`."""

    def __init__(self, n_pixels: int, n_delays: int, n_rows: int, limits: Limits):
        self.is_bad = np.zeros(n_pixels, np.int8)
        self._n_delays = n_delays
        self._n_rows = n_rows
        self._limits = limits.single()
        self._lines = np.zeros((n_tiles(n_pixels), n_rows * LANES), np.float32)

    def keep(self, images: np.ndarray, shots: np.ndarray, rows: np.ndarray) -> None:
        """Keep images, as `Engine`."""
        lag_loops.keep(images, shots, rows, self._limits, self._lines, self.is_bad)

    def values(self, pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the values (pixel, row) of some pixels in some rows."""
        lines = self._lines.reshape(len(self._lines), self._n_rows, LANES)
        tile, lane = np.divmod(pixels[:, None], LANES)
        return lines[tile, rows, lane].astype(np.float64)

    def empty(self) -> np.ndarray:
        """Return sums of nothing."""
        return empty_sums(len(self.is_bad), n_filled(self._n_delays))

    def add_up(self, partners: Partners, sign: float, sums: np.ndarray) -> np.ndarray:
        """Return sums with those over partners added, as `Engine`."""
        rows, summed = tile_terms(partners, self._n_rows)
        if len(rows):
            lag_loops.add_up(self._lines, rows, summed, sign, sums)
        return sums

    def replaced(self, sums: np.ndarray, others: np.ndarray, is_replaced: np.ndarray) -> np.ndarray:
        """Return sums with those of some pixels from others, as `Engine`."""
        lanes = np.zeros((len(sums), 1, LANES), bool)
        lanes.ravel()[: len(is_replaced)] = is_replaced
        own, new = (one.reshape(len(one), -1, LANES) for one in (sums, others))
        np.copyto(own, new, where=lanes)
        return sums

    def by_pixel(self, sums: np.ndarray) -> np.ndarray:
        """Return sums (3, delay, pixel), as `Engine`."""
        return by_pixel(sums, np.arange(self._n_delays), len(self.is_bad))


def tile_terms(partners: Partners, n_rows: int) -> tuple[np.ndarray, Terms]:
    """Return the rows (row,) int64 of a buffer of `n_rows` that have a part in sums over partners,
    and what is summed over the tile that they become, one behind the other.
    """
    is_there = partners.others >= 0
    has_part = np.zeros(n_rows, bool)
    has_part[partners.others[is_there]] = True
    has_part[partners.shots[is_there.any(axis=0)]] = True
    rows = np.flatnonzero(has_part)
    nothing = len(rows)
    row_of_tile = np.full(n_rows, nothing)
    row_of_tile[rows] = np.arange(nothing)
    others = np.where(is_there, row_of_tile[partners.others], nothing)
    return rows, terms(row_of_tile[partners.shots], others, partners.step, nothing)
