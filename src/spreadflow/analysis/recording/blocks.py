"""The level and the scatter of the pixels around each one: medians over squares of an image."""

import numpy as np

from spreadflow.units import MAD_TO_SIGMA

EDGE = 16
"""Pixels along an edge of a block."""

N_SAMPLED = 20_000
"""Pixels of which it is seen whether they hold whole numbers that were scaled."""

SHARE_DIFFERENT = 0.5
"""Of them that hold different numbers, less than which these are steps."""

TRIMMED = 0.1
"""Share of the pixels of a block, the largest, that a trimmed mean leaves out."""


def levels(image: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the median of the block around each pixel (panel, slow, fast), and the standard
    deviation of its pixels around it, as of most of them. Blocks without usable pixels have 0.
    """
    blocks = _blocks(image, usable)
    level = _median(blocks)
    scatter = MAD_TO_SIGMA * _median(np.abs(blocks - level[..., None]))
    return _of_pixels(level, usable.shape), _of_pixels(scatter, usable.shape)


def trimmed_means(values: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Return the mean of the block around each pixel (panel, slow, fast), without the largest of
    its values; 0 where none is usable.
    """
    ordered = np.sort(_blocks(values, usable), axis=-1)  # NaN are last
    n = np.count_nonzero(np.isfinite(ordered), axis=-1, keepdims=True)
    n_kept = np.ceil((1.0 - TRIMMED) * n)
    is_kept = np.arange(ordered.shape[-1]) < n_kept
    total = np.where(is_kept, ordered, 0.0).sum(axis=-1)
    return _of_pixels(total / np.maximum(n_kept[..., 0], 1), usable.shape)


def step(image: np.ndarray, usable: np.ndarray, scatter: np.ndarray) -> float:
    """Return the smallest difference that two pixels of an image can be taken to have: 1 of whole
    numbers, that of whole numbers which were scaled, else a typical scatter. usable: (panel, slow,
    fast) bool; scatter: of `levels`.
    """
    if image.dtype.kind in "iu":
        return 1.0
    values = image[usable]
    values = values[:: max(1, len(values) // N_SAMPLED)]
    different = np.unique(values)
    if 1 < len(different) < SHARE_DIFFERENT * len(values):
        return float(np.median(np.diff(different)))
    return float(np.median(scatter)) or 1.0


def _blocks(image: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Return an image as blocks (panel, row, column, pixel), float32, NaN where not usable; what is
    missing of the last ones is mirrored.
    """
    n_panels, n_slow, n_fast = image.shape
    missing = ((0, 0), (0, -n_slow % EDGE), (0, -n_fast % EDGE))
    values = np.pad(np.where(usable, image, np.nan).astype(np.float32), missing, mode="symmetric")
    rows, columns = values.shape[1] // EDGE, values.shape[2] // EDGE
    blocks = values.reshape(n_panels, rows, EDGE, columns, EDGE).transpose(0, 1, 3, 2, 4)
    return blocks.reshape(n_panels, rows, columns, EDGE**2)


def _of_pixels(of_blocks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a value for each block (panel, row, column) as one for each pixel of this shape."""
    _, n_slow, n_fast = shape
    values = np.repeat(np.repeat(of_blocks, EDGE, axis=1), EDGE, axis=2)
    return values[:, :n_slow, :n_fast]


def _median(x: np.ndarray) -> np.ndarray:
    """Return the median along the last axis of those that are numbers; 0 of none."""
    ordered = np.sort(x, axis=-1)  # NaN are last
    n = np.count_nonzero(np.isfinite(x), axis=-1, keepdims=True)
    middle = np.take_along_axis(ordered, np.maximum(n // 2, 0).clip(max=x.shape[-1] - 1), axis=-1)
    return np.where(n > 0, middle, 0.0)[..., 0]
