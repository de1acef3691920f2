"""Rings about the beam: pixels that get alike much light, but for its polarization."""

from typing import NamedTuple

import numpy as np

from spreadflow.models import Detector
from spreadflow.physics import geometry, response

WIDTH_PX = 4.0
"""Width of a ring, px."""

LEAST_FACTOR = 0.05
"""Least factor of polarization by which light is divided."""

LEAST_FORWARD = 1e-3
"""Least cosine of the angle to the beam: rays across it are in the last ring."""


class Rings(NamedTuple):
    """Where pixels are about the beam; arrays (panel, slow, fast)."""

    number: np.ndarray
    """int32, of the ring, from 0 at the beam"""
    factor: np.ndarray
    """of the light of the ring, which polarization leaves the pixel"""

    def means(self, values: np.ndarray, usable: np.ndarray) -> np.ndarray:
        """Return the mean (ring,) of the usable pixels of each ring; 0 where none is usable.
        values: (panel, slow, fast).
        """
        n_rings = self.number.max() + 1
        n = np.bincount(self.number[usable], minlength=n_rings)
        total = np.bincount(self.number[usable], values[usable], n_rings)
        return total / np.maximum(n, 1)

    def quantiles(self, values: np.ndarray, usable: np.ndarray, share: float) -> np.ndarray:
        """Return for each ring (ring,) what this share of its usable pixels have at most; NaN where
        none is usable. values: (panel, slow, fast).
        """
        ring = self.number[usable]
        value = values[usable]
        order = np.lexsort((value, ring))
        n = np.bincount(ring, minlength=self.number.max() + 1)
        first = np.cumsum(n) - n
        place = first + (share * np.maximum(n - 1, 0)).astype(int)
        is_lit = n > 0
        quantiles = np.full(len(n), np.nan)
        quantiles[is_lit] = value[order][place[is_lit]]
        return quantiles


def rings_of(detector: Detector, polarization: float) -> Rings:
    """Return the rings of a detector's pixels. polarization: Kahn's K along the lab x axis."""
    slow, fast = (np.arange(size) + 0.5 for size in detector.shape)
    place = np.broadcast_arrays(fast, slow[:, None])
    scale = float(np.median(geometry.distances_mm(detector)) / detector.pixel_mm / WIDTH_PX)
    numbers = []
    factors = []
    for panel in range(detector.n_panels):
        s1 = geometry.direction(detector, np.full(detector.shape, panel), *place)
        x, y, z = np.moveaxis(s1, -1, 0)
        tangent = np.hypot(x, y) / np.maximum(-z, LEAST_FORWARD)
        numbers.append((scale * tangent).astype(np.int32))
        factors.append(response.kahn((x, y, z), polarization).astype(np.float32))
    return Rings(np.array(numbers), np.maximum(np.array(factors), np.float32(LEAST_FACTOR)))
