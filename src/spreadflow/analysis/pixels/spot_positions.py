"""Where the photons of shoeboxes are: of a model, and as observed."""

import numpy as np
from scipy.ndimage import label

STRONG_PIXEL = 2.0
"""Standard deviations above the background from which a pixel is part of the observed spot, as in
integration.
"""

STRONG_SPOT = 5.0
"""I/σ from which a spot has an observed centroid, as in integration."""


def centroids(photons: np.ndarray, place: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return (box, 2) centre of mass of photons (pixel,) at places (pixel, 2), px; NaN where a box
    has none.

    start: (box + 1,) first pixel of each box.
    """
    sums = _summed(np.column_stack([photons, photons[:, None] * place]), start)
    total = np.where(sums[:, :1] > 0, sums[:, :1], np.nan)
    return sums[:, 1:] / total


def sums(values: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return (box,) sums of values (pixel,)."""
    return _summed(values[:, None], start)[:, 0]


def _summed(columns: np.ndarray, start: np.ndarray) -> np.ndarray:
    ends = np.concatenate([np.zeros((1, columns.shape[1])), np.cumsum(columns, axis=0)])
    return ends[start[1:]] - ends[start[:-1]]


def observed(above: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return (2,) fast, slow, px from the corner: centre of mass of the pixels > 2 σ connected with
    the highest one.

    above: (slow, fast) photons above the background, NaN = not usable; sigma: of the background.
    NaN where these pixels together are less than 5 σ: no such spot counts as observed.
    """
    height = np.nan_to_num(above / sigma, nan=-np.inf)
    strong = height > STRONG_PIXEL
    if not strong.any():
        return np.full(2, np.nan)
    regions, _ = label(strong)
    slow, fast = np.nonzero(regions == regions.flat[np.argmax(height)])
    if above[slow, fast].sum() < STRONG_SPOT * np.sqrt(
        (sigma[slow, fast] ** 2 + above[slow, fast]).sum()
    ):
        return np.full(2, np.nan)
    return above[slow, fast] @ np.stack([fast, slow], axis=1) / above[slow, fast].sum() + 0.5
