"""What all engines offer: the values of shots by row, and sums over partners of them."""

from typing import Any, NamedTuple, Protocol

import numpy as np

from spreadflow.analysis.correlation.history import Partners


class Limits(NamedTuple):
    """Which values are replaced or mark a pixel."""

    not_zero: float = 1e-5
    """smaller ones, and negative ones, become this"""
    saturated: float = float(1 << 15)
    """a pixel that reaches it once is bad"""

    def single(self) -> tuple[np.float32, np.float32]:
        """Return both in single precision, as values are."""
        return np.float32(self.not_zero), np.float32(self.saturated)


class Engine(Protocol):
    """Keeps the values of shots in rows of a buffer, and adds up their products. What its sums are
    is its own business.
    """

    def __init__(self, n_pixels: int, n_delays: int, n_rows: int, limits: Limits):
        """Prepare rows of zeros."""

    @property
    def is_bad(self) -> np.ndarray:
        """(pixel,) int8, as of `Sums`."""

    def keep(self, images: np.ndarray, shots: np.ndarray, rows: np.ndarray) -> None:
        """Keep images (shot, pixel) float32 within the limits. shots: (n,) int64 of those that are
        kept; rows: (n,) int64 of each, no two the same.
        """

    def values(self, pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the values (pixel, row) float64 of some pixels in some rows."""

    def empty(self) -> Any:
        """Return sums of nothing."""

    def add_up(self, partners: Partners, sign: float, sums: Any) -> Any:
        """Return sums with those over partners added; the old ones are used up. sign: 1, or −1 to
        take them away.
        """

    def replaced(self, sums: Any, others: Any, is_replaced: np.ndarray) -> Any:
        """Return sums with those of some pixels, (pixel,) bool, from others; the old ones are used
        up.
        """

    def by_pixel(self, sums: Any) -> np.ndarray:
        """Return sums (3, delay, pixel) float64 of products, earlier and later values."""
