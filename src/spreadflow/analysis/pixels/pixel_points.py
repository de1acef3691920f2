"""Points of the detector over which pixels of shoeboxes are averaged."""

from typing import NamedTuple

import numpy as np

from spreadflow.models import Shoeboxes, pixel_places


class PixelPoints(NamedTuple):
    """Which of the valid pixels each point is of, points as `layout.within` has them."""

    pixel: np.ndarray
    """(point,) row of the valid pixels; their number where the point is of none"""
    n_pixels: int
    """valid pixels"""
    n_each: int
    """points of a pixel"""

    def means(self, of_points: np.ndarray) -> np.ndarray:
        """Return the means (pixel,) over the points of each valid pixel."""
        return self.means_of_sums(np.bincount(self.pixel, of_points, self.n_pixels))

    def means_of_sums(self, sums: np.ndarray) -> np.ndarray:
        """Return the means (pixel, ...) from sums over points by `pixel`."""
        return sums[: self.n_pixels] / self.n_each


def of_boxes(boxes: Shoeboxes, oversample: int) -> PixelPoints:
    """Return the points of shoeboxes, `oversample` along each edge of a pixel."""
    valid = np.asarray(boxes.valid)
    n_pixels = int(valid.sum())
    pixel = np.where(valid, np.cumsum(valid) - 1, n_pixels)
    if oversample == 1:
        return PixelPoints(pixel, n_pixels, 1)

    # points of a box follow each other row by row, each row `oversample` times as long and as often
    box, slow, fast = pixel_places(boxes.bbox)
    fast0, fast1, slow0, _ = np.asarray(boxes.bbox, dtype=np.int64)[box].T
    row_length = oversample * (fast1 - fast0)
    corner = oversample**2 * boxes.start[box]
    corner += oversample * ((slow - slow0) * row_length + fast - fast0)
    of_point = np.empty(oversample**2 * len(pixel), dtype=np.int64)
    for i in range(oversample):
        for j in range(oversample):
            of_point[corner + i * row_length + j] = pixel
    return PixelPoints(of_point, n_pixels, oversample**2)
