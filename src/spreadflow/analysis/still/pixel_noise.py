"""The noise of pixels in which a background is expected, and what holds the planes of these."""

import numpy as np

from spreadflow.models import Noise

ANSCOMBE = 0.375
"""Photons added to counts under the root of Anscombe's transform."""


PLANE_RIDGE = 1e-8
"""Restraint of the plane of a background, which matters only where the pixels do not determine one
(slope 0 ± 10⁴ photons/px).
"""


def variance(level: np.ndarray, noise: Noise) -> np.ndarray:
    """Return the variance V = b + σ_r² + (ε b)² of pixels that expect a level b of photons."""
    level = np.maximum(level, 0.0)
    return level + noise.readout_photons**2 + (noise.calibration_error * level) ** 2


def deviation(counts: np.ndarray, level: np.ndarray, noise: Noise) -> np.ndarray:
    """Return how many standard deviations counts are from a level: above it by Anscombe's
    transform, for the long tail of few counts; below it as they are, for there is none.
    """
    level = np.maximum(level, 0.0)
    offset = ANSCOMBE + noise.readout_photons**2
    root = np.sqrt(level + offset)

    root_of_counts = np.sqrt(np.maximum(counts, level) + offset)
    above = 2.0 * (root_of_counts - root)
    below = np.minimum(counts - level, 0.0) / root

    from_gains = np.sqrt(1.0 + noise.calibration_error**2 * level)
    return (above + below) / from_gains
