"""Strong pixels and the moments of their windows by operations on whole arrays: what the compiled
loops of `strong_loops` are compared with.
"""

import numpy as np

from spreadflow.analysis.still.strong_loops import LEAST_VARIANCE
from spreadflow.analysis.still.strong_pixels import DispersionThreshold

_BAND = 90_000
"""Pixels in one box sum."""

CHUNK = 8192
"""Windows that are gathered at a time."""


class PaddedPanels:
    """All panels in one flat array with a margin around each, so that the pixels of a window are at
    constant offsets from its centre.
    """

    def __init__(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        threshold: DispersionThreshold,
        relative_gain: np.ndarray | None = None,
    ):
        self.threshold = threshold
        self.kernel = tuple(threshold.kernel)

        n_panels, n_slow, n_fast = image.shape
        k_slow, k_fast = self.kernel
        self.shape = (n_panels, n_slow + 2 * k_slow, n_fast + 2 * k_fast)
        inside = np.s_[:, k_slow : k_slow + n_slow, k_fast : k_fast + n_fast]

        self.padded = np.zeros(self.shape, dtype=np.float32)
        np.copyto(self.padded[inside], image, where=mask)
        valid = np.zeros(self.shape, dtype=bool)
        valid[inside] = mask
        self.pixels = self.padded.ravel()
        self.valid = valid.ravel()

        self._readout_variance: np.ndarray | None = None
        """(panel, slow, fast) with margins, photons²; None = that of the threshold"""
        if relative_gain is not None:
            self._readout_variance = np.ones(self.shape, dtype=np.float32)
            self._readout_variance[inside] = (threshold.readout_photons / relative_gain) ** 2

        self.row_length = self.shape[2]
        self.window = self.offsets(k_slow, k_fast)
        self.ring = self.offsets(1, 1)

    def offsets(self, half_slow: int, half_fast: int) -> np.ndarray:
        """Return the offsets, in the flat array, of a box's pixels from its centre."""
        rows = slice(-half_slow, half_slow + 1)
        columns = slice(-half_fast, half_fast + 1)
        slow, fast = np.mgrid[rows, columns]
        offsets = slow * self.row_length + fast
        return offsets.ravel()

    def coordinates(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return panel, fast and slow (px) of the centres of the pixels at flat positions."""
        k_slow, k_fast = self.kernel
        panel, row, column = np.unravel_index(positions, self.shape)
        fast = column - k_fast + 0.5
        slow = row - k_slow + 0.5
        return panel.astype(np.int32), fast, slow

    def grow(self, positions: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Return the sorted positions of the valid pixels in boxes around some positions."""
        boxes = positions[:, None] + offsets
        grown = np.unique(boxes.ravel())
        is_inside = (grown >= 0) & (grown < self.valid.size)
        grown = grown[is_inside]
        return grown[self.valid[grown]]

    def readout_variance(self, positions: np.ndarray) -> np.ndarray | float:
        """Return the variance of the readout of the pixels at flat positions, photons²."""
        if self._readout_variance is None:
            return self.threshold.readout_photons**2
        return self._readout_variance.ravel()[positions].astype(np.float64)

    def readout_variance_of_rows(self, rows: slice):
        """Return `readout_variance` of rows of all panels on top of each other, without the margins
        of columns, float32: () where it is the same everywhere, else (row, column).
        """
        if self._readout_variance is None:
            return np.float32(self.threshold.readout_photons**2)
        k_fast = self.kernel[1]
        stack = self._readout_variance.reshape(-1, self.row_length)
        return stack[rows, k_fast : self.row_length - k_fast]

    def noise(self, mean: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return the variance of the pixels at flat positions that expect `mean` photons."""
        shot_noise = self.threshold.gain * np.maximum(mean, 0.0)
        return np.maximum(shot_noise + self.readout_variance(positions), LEAST_VARIANCE)

    def statistics(
        self, positions: np.ndarray, use: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return number, mean and variance of the pixels marked in `use` in the windows around some
        positions; each (position,) float64.
        """
        number, mean, variance = np.zeros((3, len(positions)))
        for start in range(0, len(positions), CHUNK):
            rows = slice(start, start + CHUNK)
            index = positions[rows, None] + self.window
            is_used = use[index]
            values = self.pixels[index].astype(np.float64)
            n = is_used.sum(axis=1)

            total = np.where(is_used, values, 0.0).sum(axis=1)
            mean[rows] = total / np.maximum(n, 1)

            deviation = np.where(is_used, values - mean[rows, None], 0.0)
            squares = (deviation * deviation).sum(axis=1)
            variance[rows] = squares / np.maximum(n - 1, 1)

            number[rows] = n
        return number, mean, variance


def find(panels: PaddedPanels) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted flat positions of the strong pixels of a shot, and (position,) bool, which
    pixels are background: valid, not strong and not beside a strong one.
    """
    strong = _strong(panels, _candidates(panels), panels.valid)
    is_background = panels.valid.copy()
    is_background[panels.grow(strong, panels.ring)] = False

    around = panels.grow(strong, panels.window)
    strong = np.union1d(strong, _strong(panels, around, is_background))
    is_background[panels.grow(strong, panels.ring)] = False
    return strong, is_background


def _box_sum(values: np.ndarray, half: int, axis: int) -> np.ndarray:
    """Return sums of 2·half + 1 neighbours along an axis, which becomes shorter by 2·half.

    Sums of 1, 2, 4, ... neighbours are added, as the width has them in binary. There are only
    additions: nothing cancels, and no bright pixel leaks out of its windows.
    """
    width = 2 * half + 1
    length = values.shape[axis] - width + 1

    def cut(array: np.ndarray, start: int, size: int) -> np.ndarray:
        return array[start : start + size] if axis == 0 else array[:, start : start + size]

    total = cut(values, 0, length).copy()
    partial = values
    n_added = 1  # the width is odd
    step = 1
    while 2 * step <= width:
        size = partial.shape[axis] - step
        partial = cut(partial, 0, size) + cut(partial, step, size)
        step *= 2
        if width & step:
            total += cut(partial, n_added, length)
            n_added += step
    return total


def _in_reach(n: int, half: int) -> np.ndarray:
    """Return how many of n pixels in a row are at most `half` away from each, (n,) float32."""
    before = np.arange(n)
    after = before[::-1]
    in_reach = np.minimum(before, half) + np.minimum(after, half) + 1
    return in_reach.astype(np.float32)


def _candidates(panels: PaddedPanels) -> np.ndarray:
    """Return the flat positions of all pixels that can be strong. Panels are taken on top of each
    other, as their margins keep them apart.

    Masked pixels count as zeros in the window's part on the panel, so that its mean comes out too
    small, never too large.
    """
    n_panels, n_rows, n_columns = panels.shape
    k_slow, k_fast = panels.kernel
    stack = panels.padded.reshape(n_panels * n_rows, n_columns)
    in_reach_slow = np.pad(_in_reach(n_rows - 2 * k_slow, k_slow), k_slow, constant_values=1)
    in_reach_slow = np.tile(in_reach_slow, n_panels)
    in_reach_fast = _in_reach(n_columns - 2 * k_fast, k_fast)

    n_band = max(1, _BAND // n_columns)
    parts = []
    for top in range(k_slow, len(stack) - k_slow, n_band):
        rows = slice(top, min(top + n_band, len(stack) - k_slow))
        band = stack[rows.start - k_slow : rows.stop + k_slow]
        in_window = in_reach_slow[rows, None] * in_reach_fast
        readout = panels.readout_variance_of_rows(rows)
        slow, fast = _above_mean(panels, band, in_window, readout)
        parts.append((rows.start + slow) * panels.row_length + k_fast + fast)

    positions = np.concatenate(parts)
    return positions[panels.valid[positions]]


def _above_mean(
    panels: PaddedPanels, band: np.ndarray, in_window: np.ndarray, readout_variance
) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column, within a band less its margins, of the pixels that exceed the mean of
    their windows by σ_s √V.

    band: (row, column) photons with margins; in_window: (row, column) pixels of the panel in each
    window; readout_variance: photons², of all or of each of them. Arrays are overwritten where
    possible, as this is done for every pixel of a shot.
    """
    k_slow, k_fast = panels.kernel
    n_rows, n_columns = in_window.shape

    mean = _box_sum(_box_sum(band, k_slow, 0), k_fast, 1)
    mean /= in_window
    np.maximum(mean, 0.0, out=mean)

    limit = mean * np.float32(panels.threshold.gain)
    limit += readout_variance
    np.sqrt(limit, out=limit)
    limit *= np.float32(panels.threshold.sigma_strong)
    limit += mean
    np.maximum(limit, np.float32(panels.threshold.global_threshold), out=limit)

    middle = band[k_slow : k_slow + n_rows, k_fast : k_fast + n_columns]
    return np.divmod(np.flatnonzero(middle > limit), n_columns)


def _strong(panels: PaddedPanels, positions: np.ndarray, use: np.ndarray) -> np.ndarray:
    """Return the positions that are strong against the pixels marked in `use`.

    Pixels that are themselves not in `use` (strong already, or beside a strong one) need not pass
    the dispersion test.
    """
    threshold = panels.threshold
    is_above = panels.pixels[positions] > threshold.global_threshold
    positions = positions[is_above]
    n, mean, variance = panels.statistics(positions, use)
    noise = panels.noise(mean, positions)

    # the relative variance of a sample's variance
    gaussian = 2.0 / np.maximum(n - 1, 1)
    shot_noise = noise - panels.readout_variance(positions)
    n_noise2 = np.maximum(n, 1) * noise**2
    kurtosis = threshold.gain**2 * shot_noise / n_noise2
    relative_sigma = np.sqrt(gaussian + kurtosis)

    variance_limit = noise * (1.0 + threshold.sigma_background * relative_sigma)
    is_dispersed = (variance > variance_limit) | ~use[positions]

    limit = np.maximum(mean, 0.0) + threshold.sigma_strong * np.sqrt(noise)
    is_bright = panels.pixels[positions] > limit

    return positions[is_dispersed & (n > 1) & is_bright]


def window_moments(
    panels: PaddedPanels, strong: np.ndarray, is_background: np.ndarray
) -> np.ndarray:
    """Return the moments (pixel, 9) of the background pixels in the window around each strong
    pixel, counted from that pixel.
    """
    k_slow, k_fast = panels.kernel
    window = np.mgrid[-k_slow : k_slow + 1, -k_fast : k_fast + 1]
    slow, fast = (offset.ravel().astype(np.float64) for offset in window)

    linear = [np.ones(len(fast)), fast, slow]
    quadratic = [fast * fast, fast * slow, slow * slow]
    of_photons = np.stack(linear, axis=1)
    of_number = np.stack([*linear, *quadratic], axis=1)

    sums = np.zeros((len(strong), 9))
    for start in range(0, len(strong), CHUNK):
        rows = slice(start, start + CHUNK)
        index = strong[rows, None] + panels.window
        weight = is_background[index].astype(np.float64)
        photons = weight * panels.pixels[index]

        sums[rows, :6] = weight @ of_number
        sums[rows, 6:] = photons @ of_photons

    return sums


def place(panels: PaddedPanels, positions: np.ndarray) -> np.ndarray:
    """Return panel, slow and fast (pixel, 3) of positions."""
    panel, slow, fast = np.unravel_index(positions, panels.shape)
    return np.stack([panel, slow - panels.kernel[0], fast - panels.kernel[1]], axis=1)


def on_panels(panels: PaddedPanels, values: np.ndarray) -> np.ndarray:
    """Return the values (position,) of the pixels, (panel, slow, fast)."""
    k_slow, k_fast = panels.kernel
    _, n_rows, n_columns = panels.shape
    return values.reshape(panels.shape)[:, k_slow : n_rows - k_slow, k_fast : n_columns - k_fast]
