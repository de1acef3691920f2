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


TRANSFORMED = 1 << 19
"""Values that are transformed together: as many pixels as this holds, at least one. Memory has 80
bytes for each.
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
        n_together = max(TRANSFORMED // axis.n_points, 1)
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
    """

    def _update(self) -> None:
        super()._update()
        self._follow(self.history.leaving(self.delays), -1)


CALCULATORS: dict[str, type[AtEnd] | type[Fourier] | type[Accumulating]] = {
    "at_end": AtEnd,
    "fft": Fourier,
    "accumulating": Accumulating,
    "windowed": Windowed,
}
"""The exact calculators by name."""
