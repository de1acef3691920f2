"""Where the photons of shoeboxes are: those of a model, and those observed."""

import numpy as np
from scipy.ndimage import label

STRONG_PIXEL = 2.0
"""Standard deviations above the background from which a pixel is part of the observed spot, as in
integration.
"""

STRONG_SPOT = 5.0
"""I/σ from which a spot has an observed centroid, as in integration."""


def centroids(photons: np.ndarray, place: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the centre of mass (box, 2), px, of photons (pixel,) at places (pixel, 2), px; NaN
    where a box has none.

    start: (box + 1,) first pixel of each box.
    """
    sums = _summed(np.column_stack([photons, photons[:, None] * place]), start)
    total = np.where(sums[:, :1] > 0, sums[:, :1], np.nan)
    return sums[:, 1:] / total


def sums(values: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the sums (box,) of values (pixel,); start: (box + 1,) first pixel of each box."""
    return _summed(values[:, None], start)[:, 0]


def _summed(columns: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the sums (box, n) of columns (pixel, n)."""
    none = np.zeros((1, columns.shape[1]))
    running = np.concatenate([none, np.cumsum(columns, axis=0)])
    return running[start[1:]] - running[start[:-1]]


def observed(above: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return the observed centroid (2,) fast, slow, px from the corner: the centre of mass of the
    pixels above 2 σ that are connected with the highest one.

    above: (slow, fast) photons above the background, NaN where a pixel is not usable; sigma:
    (slow, fast) of the background. NaN where these pixels together are below 5 σ: such a spot does
    not count as observed.
    """
    height = np.nan_to_num(above / sigma, nan=-np.inf)
    strong = height > STRONG_PIXEL
    if not strong.any():
        return np.full(2, np.nan)
    regions, _ = label(strong)
    slow, fast = np.nonzero(regions == regions.flat[np.argmax(height)])
    photons = above[slow, fast]
    variance = (sigma[slow, fast] ** 2 + photons).sum()
    if photons.sum() < STRONG_SPOT * np.sqrt(variance):
        return np.full(2, np.nan)
    return photons @ np.stack([fast, slow], axis=1) / photons.sum() + 0.5
