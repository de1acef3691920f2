"""Calculators: shots in, sums over partners out, each over other partners.

All have one protocol, `Calculator`. Times are shot ids; a delay is a difference of them. Whatever
the order of arrival, a time counts once.
"""

from typing import NamedTuple, Protocol

import numpy as np

from spreadflow.analysis.correlation import lag_loops
from spreadflow.analysis.correlation.history import Counts, History, Partners
from spreadflow.analysis.correlation.sums import Sums
from spreadflow.analysis.correlation.terms import n_filled
from spreadflow.analysis.correlation.tiles import by_pixel, empty_sums, n_tiles
from spreadflow.physics.lanes import LANES

ARRIVING = 256
"""Shots that are worked on at once: sums and values of a tile are then read from memory once in as
many shots, and 2000 shots of a tile fit into the processor's second cache.
"""


class Limits(NamedTuple):
    """Which values are replaced or mark a pixel."""

    not_zero: float = 1e-5
    """smaller ones, and negative ones, become this"""
    saturated: float = float(1 << 15)
    """a pixel that reaches it once is bad"""

    def single(self) -> tuple[np.float32, np.float32]:
        """Return both in single precision, as values are."""
        return np.float32(self.not_zero), np.float32(self.saturated)


class Calculator(Protocol):
    """What the sums of some pixels are formed by."""

    @property
    def counts(self) -> Counts:
        """What became of the shots."""

    def add(self, times: np.ndarray, images: np.ndarray) -> None:
        """Take in a block of shots. times: (shot,) int64. images: (shot, pixel) float32."""

    def result(self) -> Sums:
        """Return the sums as they are now; may be asked for again later."""


class _Buffered:
    """A calculator with the last `n_shots` shots at hand. delays: (delay,) int64, positive."""

    def __init__(self, n_pixels: int, delays: np.ndarray, n_shots: int, limits: Limits):
        self.delays = np.asarray(delays, np.int64)
        self.history = History(n_shots, min(ARRIVING, n_shots))
        self.limits = limits
        self.lines = np.zeros((n_tiles(n_pixels), self.history.n_rows * LANES), np.float32)
        self.is_bad = np.zeros(n_pixels, np.int8)

    @property
    def counts(self) -> Counts:
        return self.history.counts

    def add(self, times: np.ndarray, images: np.ndarray) -> None:
        step = self.history.n_arriving
        for first in range(0, len(times), step):
            rows = self.history.insert(times[first : first + step])
            shots = np.flatnonzero(rows >= 0)
            limits = self.limits.single()
            lag_loops.keep(images, first + shots, rows[shots], limits, self.lines, self.is_bad)
            self._update()

    def _update(self) -> None:
        """Follow the block that was inserted."""

    def _empty(self) -> np.ndarray:
        """Return sums of nothing, as of `lag_loops.add_up`."""
        return empty_sums(len(self.is_bad), n_filled(len(self.delays)))

    def _add(self, partners: Partners, sign: float, sums: np.ndarray) -> np.ndarray:
        """Add what partners contribute to sums. Return their numbers by delay, with the sign."""
        if len(partners.rows):
            lag_loops.add_up(self.lines, partners.rows, partners.terms, sign, sums)
        return int(sign) * partners.counts

    def _result(self, n_partners: np.ndarray, sums: np.ndarray) -> Sums:
        """Return sums as the protocol has them."""
        places = np.arange(len(self.delays))
        g2, past, future = by_pixel(sums, places, len(self.is_bad))
        return Sums(self.delays, n_partners.copy(), g2, past, future, self.is_bad.copy())


class AtEnd(_Buffered):
    """Sums over all partners among the last `n_shots` shots, formed when they are asked for."""

    def result(self) -> Sums:
        sums = self._empty()
        n_partners = self._add(self.history.standing(self.delays), 1.0, sums)
        return self._result(n_partners, sums)


class Accumulating(_Buffered):
    """Sums over the whole run: a shot counts with those that are held when it arrives. A delay is
    complete where the buffer reaches as far back.
    """

    def __init__(self, n_pixels: int, delays: np.ndarray, n_shots: int, limits: Limits):
        super().__init__(n_pixels, delays, n_shots, limits)
        self._sums = self._empty()
        self._n_partners = np.zeros(len(self.delays), np.int64)

    def _update(self) -> None:
        for partners in self.history.entering(self.delays):
            self._n_partners += self._add(partners, 1.0, self._sums)

    def result(self) -> Sums:
        return self._result(self._n_partners, self._sums)


class Windowed(Accumulating):
    """Sums over all partners among the last `n_shots` shots, kept up as shots come and go."""

    def _update(self) -> None:
        super()._update()
        leaving = self.history.leaving(self.delays)
        self._n_partners += self._add(leaving, -1.0, self._sums)


CALCULATORS: dict[str, type[AtEnd] | type[Accumulating]] = {
    "at_end": AtEnd,
    "accumulating": Accumulating,
    "windowed": Windowed,
}
"""The exact calculators by name."""
