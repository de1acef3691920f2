"""Strong pixels: brighter and more dispersed than the noise of their neighbourhood.

The dispersion test of DIALS (Winter et al. 2018, Acta Cryst. D74, 85) with a readout term, applied
twice: the second time with the pixels found first left out of the window sums, so that a strong
spot shadows neither its own flanks nor a weak neighbour (the idea of DIALS' `dispersion_extended`).

In the window of (2k+1)² pixels around a pixel, with n valid pixels of mean μ ≥ 0 and variance v,
the noise is V = gain·μ + readout², with the readout noise in photons of each pixel's own gain. The
pixel with c photons is strong where

    v > V (1 + σ_b √(2/(n−1) + gain³μ/(nV²)))   and   c > μ + σ_s √V   and   c > global_threshold.

The second term under the root is the kurtosis of a Poisson distribution: without it a background of
0.1 photons makes spots of its own.

A cheap bound on μ, from the box sum of all pixels, leaves few pixels to test; those are tested one
by one in float64 with two-pass variances, so no sum of squares overflows and nothing leaks out of a
window. The loops are in `strong_loops`.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.still import strong_loops
from spreadflow.analysis.still.strong_loops import LEAST_VARIANCE, Frame, Settings


class DispersionThreshold(NamedTuple):
    """The settings of the dispersion test, under the names that DIALS gives them."""

    gain: float = 1.0
    """variance over mean of the photons"""
    readout_photons: float = 1.0
    """σ_r, r.m.s. readout noise of a pixel"""
    kernel: tuple[int, int] = (4, 4)
    """half sizes (slow, fast) of the window, px"""
    sigma_background: float = 6.0
    """σ_b, threshold of the window's variance"""
    sigma_strong: float = 3.0
    """σ_s, threshold of the pixel above the window's mean"""
    global_threshold: float = 0.0
    """photons that every strong pixel exceeds"""


DEFAULT_THRESHOLD = DispersionThreshold()
"""The thresholds are those of DIALS; the window has 9 × 9 pixels."""


class Panels:
    """The pixels of a shot, by position: a flat index into panels with a margin of one pixel around
    each, which no array holds, so that the eight neighbours of any pixel are at constant offsets.
    """

    def __init__(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        threshold: DispersionThreshold,
        relative_gain: np.ndarray | None = None,
    ):
        n_panels, n_slow, n_fast = image.shape
        self.shape = (n_panels, n_slow + 2, n_fast + 2)
        """(panel, slow, fast) with margins"""
        self.size = int(np.prod(self.shape))
        """positions"""
        self.row_length = n_fast + 2
        slow, fast = np.mgrid[-1:2, -1:2]
        self.ring = (slow * self.row_length + fast).ravel()
        """(9,) offsets of a pixel and its neighbours from its position"""
        no_gain = np.zeros((0, 0, 0), np.float32)
        gain = no_gain if relative_gain is None else relative_gain
        self.frame = Frame(
            np.ascontiguousarray(image, np.float32),
            np.ascontiguousarray(mask, bool),
            np.ascontiguousarray(gain, np.float32),
        )
        self.settings = Settings(
            float(threshold.gain),
            float(threshold.readout_photons),
            int(threshold.kernel[0]),
            int(threshold.kernel[1]),
            float(threshold.sigma_background),
            float(threshold.sigma_strong),
            float(threshold.global_threshold),
        )

    def _place(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return panel, slow and fast of the pixels at some positions; −1 or beyond the panel where
        these are in a margin.
        """
        panel, slow, fast = np.unravel_index(positions, self.shape)
        return panel, slow - 1, fast - 1

    def coordinates(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return panel, fast and slow (px) of the centres of the pixels at some positions."""
        panel, slow, fast = self._place(positions)
        return panel.astype(np.int32), fast + 0.5, slow + 0.5

    def photons(self, positions: np.ndarray) -> np.ndarray:
        """Return the photons of valid pixels at some positions, float64."""
        return self.frame.image[self._place(positions)].astype(np.float64)

    def is_valid(self, positions: np.ndarray) -> np.ndarray:
        """Return which positions are of valid pixels, bool."""
        panel, slow, fast = self._place(positions)
        _, n_slow, n_fast = self.frame.mask.shape
        is_inside = (slow >= 0) & (slow < n_slow) & (fast >= 0) & (fast < n_fast)
        return is_inside & self.frame.mask[panel, slow % n_slow, fast % n_fast]

    def noise(self, mean: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return the variance of the valid pixels at some positions that expect `mean` photons."""
        shot_noise = self.settings.gain * np.maximum(mean, 0.0)
        readout = self.settings.readout_photons
        if self.frame.relative_gain.size:
            readout = np.float32(readout) / self.frame.relative_gain[self._place(positions)]
        readout_variance = np.square(readout).astype(np.float64)
        return np.maximum(shot_noise + readout_variance, LEAST_VARIANCE)


def find(panels: Panels) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted positions of the strong pixels of a shot, and the roles (panel, slow, fast)
    uint8 of all pixels, in bits of `strong_loops`.
    """
    frame, settings = panels.frame, panels.settings
    role = np.empty(frame.mask.shape, np.uint8)
    strong = strong_loops.strong_once(frame, settings, role)
    strong_loops.mark(strong, role)
    more = strong_loops.strong_around(frame, settings, role, strong)
    strong_loops.mark(more, role)
    return np.sort(np.concatenate([strong, more])), role
