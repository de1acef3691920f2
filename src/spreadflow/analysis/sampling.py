"""From the points at which photons are expected to the pixels that count: means over a pixel, and the point spread."""

from functools import reduce
from typing import NamedTuple

import numpy as np
from scipy.signal import fftconvolve
from scipy.sparse import csr_matrix

from spreadflow.models import Shoeboxes


class Means(NamedTuple):
    """What valid pixels expect of points: means over the points of a pixel, spread over the pixels around."""

    matrices: tuple[csr_matrix, ...]
    """to be applied one after another"""

    def __matmul__(self, of_points):
        """(valid pixel, ...) of an array or a sparse matrix (point, ...)."""
        return reduce(lambda made, matrix: matrix @ made, self.matrices, of_points)


def means(
    boxes: Shoeboxes,
    oversample: int,
    n_points: int,
    kernel: np.ndarray | None = None,
    lit: np.ndarray | None = None,
    dtype: type = np.float64,
) -> Means:
    """Of points as `layout.within` has them. kernel: point spread, of light within the same shoebox.

    lit: points that may have photons; None = all. Light spread beyond its shoebox is lost.
    """
    if kernel is None:
        return Means((_means(boxes, oversample, n_points).astype(dtype, copy=False),))
    every = boxes._replace(valid=np.ones(len(boxes.valid), dtype=bool))
    mean = _means(every, oversample, n_points)
    from_pixels = np.arange(len(boxes.valid))
    if lit is not None:
        of_points = np.zeros(n_points)
        of_points[lit] = 1.0
        from_pixels = np.flatnonzero(mean @ of_points)
    return Means((mean.astype(dtype, copy=False), _spread(boxes, kernel, from_pixels).astype(dtype, copy=False)))


def _means(boxes: Shoeboxes, oversample: int, n_points: int) -> csr_matrix:
    """(valid pixel, point) that takes the mean over the points of a pixel."""
    width = np.asarray(boxes.bbox[:, 1] - boxes.bbox[:, 0], dtype=np.int64)
    first = np.cumsum(boxes.n_pixels) - boxes.n_pixels
    box = np.repeat(np.arange(len(width)), boxes.n_pixels)[boxes.valid]
    slow, fast = np.divmod(np.flatnonzero(boxes.valid) - first[box], width[box])
    corner = oversample**2 * first[box] + oversample * (oversample * slow * width[box] + fast)
    i, j = np.divmod(np.arange(oversample**2), oversample)
    column = corner[:, None] + i * oversample * width[box][:, None] + j
    row = np.arange(len(box)).repeat(oversample**2)
    share = np.full(column.size, oversample**-2.0)
    return csr_matrix((share, (row, column.ravel())), shape=(len(box), n_points))


def _spread(boxes: Shoeboxes, kernel: np.ndarray, lit: np.ndarray) -> csr_matrix:
    """(valid pixel, pixel) that spreads the photons of the lit pixels over the shoebox each is in."""
    width, height = (np.asarray(boxes.bbox[:, i + 1] - boxes.bbox[:, i]) for i in (0, 2))
    first, n = np.cumsum(boxes.n_pixels) - boxes.n_pixels, len(boxes.valid)
    box = np.repeat(np.arange(len(width)), boxes.n_pixels)[lit]
    slow, fast = np.divmod(lit - first[box], width[box])
    around = np.argwhere(kernel) - len(kernel) // 2
    to_slow, to_fast = slow[:, None] + around[:, 0], fast[:, None] + around[:, 1]
    inside = (to_slow >= 0) & (to_slow < height[box][:, None]) & (to_fast >= 0) & (to_fast < width[box][:, None])
    row = (first[box][:, None] + to_slow * width[box][:, None] + to_fast)[inside]
    column = np.broadcast_to(lit[:, None], inside.shape)[inside]
    share = np.broadcast_to(kernel[kernel != 0], inside.shape)[inside]
    return csr_matrix((share, (row, column)), shape=(n, n))[boxes.valid]


def spread(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """An image (slow, fast) after a point spread, dark beyond its edges."""
    return fftconvolve(image, kernel, mode="same")
