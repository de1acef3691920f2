"""Calculators: shots in, sums over partners out, each over other partners.

All have one protocol, `Calculator`. Times are shot ids; a delay is a difference of them. Whatever
the order of arrival, a time counts once.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from spreadflow.analysis.correlation import fourier
from spreadflow.analysis.correlation.engine import Engine, Limits
from spreadflow.analysis.correlation.history import Counts, History, Partners
from spreadflow.analysis.correlation.numba_engine import NumbaEngine
from spreadflow.analysis.correlation.sums import Sums

ARRIVING = 256
"""Shots that are worked on at once: sums and values of a tile are then read from memory once in as
many shots, and 2000 shots of a tile fit into the processor's second cache.
"""


TOGETHER = 1 << 19
"""Values that are looked at together: as many pixels as this holds, at least one. Where they are
transformed, memory has 80 bytes for each.
"""


MOST_LOST = 1e-7
"""Error of a sum, relative to a pixel's mean product, that a window may have by what left it: a
tenth of what two calculations may differ in.
"""

NewEngine = Callable[[int, int, int, Limits], Engine]
"""What makes an engine for some pixels, delays and rows."""


class Calculator(Protocol):
    """What the sums of some pixels are formed by."""

    @property
    def counts(self) -> Counts:
        """What became of the shots."""

    def add(self, times: np.ndarray, images: np.ndarray) -> None:
        """Take in a block of shots. times: (shot,) int64. images: (shot, pixel) float32."""

    def result(self) -> Sums:
        """Return the sums as they are now; may be asked for again later."""


class Buffered:
    """A calculator with the last `n_shots` shots at hand. delays: (delay,) int64, positive."""

    def __init__(
        self,
        n_pixels: int,
        delays: np.ndarray,
        n_shots: int,
        limits: Limits,
        engine: NewEngine = NumbaEngine,
    ):
        self.delays = np.asarray(delays, np.int64)
        self.history = History(n_shots, min(ARRIVING, n_shots))
        self.engine = engine(n_pixels, len(self.delays), self.history.n_rows, limits)
        self._begin()

    @property
    def counts(self) -> Counts:
        return self.history.counts

    def add(self, times: np.ndarray, images: np.ndarray) -> None:
        step = self.history.n_arriving
        for first in range(0, len(times), step):
            rows = self.history.insert(times[first : first + step])
            shots = np.flatnonzero(rows >= 0)
            self.engine.keep(images, first + shots, rows[shots])
            self._update()

    def _begin(self) -> None:
        """Prepare what follows the blocks."""

    def _update(self) -> None:
        """Follow the block that was inserted."""

    def _result(self, n_partners: np.ndarray, sums: Any) -> Sums:
        """Return sums as the protocol has them."""
        g2, past, future = self.engine.by_pixel(sums)
        return Sums(self.delays, n_partners.copy(), g2, past, future, self.engine.is_bad.copy())


class AtEnd(Buffered):
    """Sums over all partners among the last `n_shots` shots, formed when they are asked for."""

    def result(self) -> Sums:
        partners = self.history.standing(self.delays)
        sums = self.engine.add_up(partners, 1.0, self.engine.empty())
        return self._result(partners.counts, sums)


class Fourier(Buffered):
    """The same sums by Fourier transforms (`fourier.sums`): many delays cost little more than few,
    and the error of a sum is relative to the largest values of its pixel.
    """

    def result(self) -> Sums:
        axis = fourier.axis_of(self.history.times, self.delays)
        rows = self.history.rows
        is_bad = self.engine.is_bad.copy()
        g2, past, future = total = np.zeros((3, len(self.delays), len(is_bad)))
        n_together = max(TOGETHER // axis.n_points, 1)
        for first in range(0, len(is_bad), n_together):
            pixels = np.arange(first, min(first + n_together, len(is_bad)))
            n_partners, part = fourier.sums(axis, self.engine.values(pixels, rows))
            total[:, :, pixels] = part
        return Sums(self.delays, n_partners, g2, past, future, is_bad)


class Accumulating(Buffered):
    """Sums over the whole run: a shot counts with those that are held when it arrives. A delay is
    complete where the buffer reaches as far back.
    """

    def _begin(self) -> None:
        self._sums = self.engine.empty()
        self._n_partners = np.zeros(len(self.delays), np.int64)

    def _update(self) -> None:
        for partners in self.history.entering(self.delays):
            self._follow(partners, 1)

    def _follow(self, partners: Partners, sign: int) -> None:
        """Add partners that have come, or take those away that have gone."""
        self._n_partners += sign * partners.counts
        self._sums = self.engine.add_up(partners, float(sign), self._sums)

    def result(self) -> Sums:
        return self._result(self._n_partners, self._sums)


class Windowed(Accumulating):
    """Sums over all partners among the last `n_shots` shots, a window that rolls along with them:
    what comes is added, and what falls out of the buffer is taken away.

    What is taken away leaves its rounding behind. It is too large where a pixel was far brighter
    before: sums of such a pixel are formed anew when they are asked for.
    """

    def _begin(self) -> None:
        super()._begin()
        self._squares = np.zeros(len(self.engine.is_bad))
        """(pixel,) sum of the squares of all values that came since its sums were formed anew"""

    def add(self, times: np.ndarray, images: np.ndarray) -> None:
        super().add(times, images)
        self._squares += np.einsum("sp,sp->p", images, images)

    def _update(self) -> None:
        super()._update()
        self._follow(self.history.leaving(self.delays), -1)

    def result(self) -> Sums:
        sums = super().result()
        is_lost = self._is_lost(sums)
        if is_lost.any():
            anew = self.engine.add_up(self.history.standing(self.delays), 1.0, self.engine.empty())
            self._sums = self.engine.replaced(self._sums, anew, is_lost)
            self._squares[is_lost] = self._held_squares(np.flatnonzero(is_lost))
            sums = super().result()
        for part in (sums.g2, sums.past, sums.future):
            part[sums.counts == 0] = 0
        return sums

    def _is_lost(self, sums: Sums) -> np.ndarray:
        """Return which pixels (pixel,) bool may have lost too much. The error of a product's sum
        over as many partners as there are shots is that of adding up the squares.
        """
        n_partners = sums.counts.sum()
        means = sums.g2.sum(axis=0) / max(n_partners, 1)
        errors = np.finfo(np.float64).eps * self._squares / self.history.n_shots
        return (sums.is_bad == 0) & (errors > MOST_LOST * means) & (n_partners > 0)

    def _held_squares(self, pixels: np.ndarray) -> np.ndarray:
        """Return the sums of the squares of all values that are held of some pixels."""
        rows = self.history.rows
        n_together = max(TOGETHER // max(len(rows), 1), 1)
        parts = np.split(pixels, np.arange(n_together, len(pixels), n_together))
        return np.concatenate([(self.engine.values(part, rows) ** 2).sum(axis=1) for part in parts])


CALCULATORS: dict[str, type[AtEnd] | type[Fourier] | type[Accumulating]] = {
    "at_end": AtEnd,
    "fft": Fourier,
    "accumulating": Accumulating,
    "windowed": Windowed,
}
"""The exact calculators by name."""
