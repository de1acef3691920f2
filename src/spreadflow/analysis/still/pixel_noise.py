"""The noise of pixels in which a background is expected."""

from typing import NamedTuple

import numpy as np

ANSCOMBE = 0.375
"""Photons added to counts under the root of Anscombe's transform."""


class PixelNoise(NamedTuple):
    """The sources of a pixel's variance, V = b + σ_r² + (ε b)²."""

    readout: float
    """σ_r, photons"""
    calibration: float
    """ε"""

    def variance(self, level: np.ndarray) -> np.ndarray:
        """Return the variance of pixels that expect a level of photons."""
        level = np.maximum(level, 0.0)
        return level + self.readout**2 + (self.calibration * level) ** 2

    def deviation(self, counts: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Return how many standard deviations counts are from a level: above it by Anscombe's
        transform, for the long tail of few counts; below it as they are, for there is none.
        """
        level = np.maximum(level, 0.0)
        offset = ANSCOMBE + self.readout**2
        root = np.sqrt(level + offset)

        root_of_counts = np.sqrt(np.maximum(counts, level) + offset)
        above = 2.0 * (root_of_counts - root)
        below = np.minimum(counts - level, 0.0) / root

        from_gains = np.sqrt(1.0 + self.calibration**2 * level)
        return (above + below) / from_gains
