"""Where the photons of shoeboxes are: those of a model, and those observed."""

import numpy as np
import scipy

from spreadflow.analysis.strength import STRONG_PIXEL, STRONG_SPOT


def centroids(photons: np.ndarray, place: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the centre of mass (box, 2), px, of photons (pixel,) at places (pixel, 2), px; NaN
    where a box has none.

    start: (box + 1,) first pixel of each box.
    """
    moments = photons[:, None] * place
    sums = _summed(np.column_stack([photons, moments]), start)
    total = sums[:, :1]
    return sums[:, 1:] / np.where(total > 0, total, np.nan)


def sums(values: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the sums (box,) of values (pixel,); start: (box + 1,) first pixel of each box."""
    return _summed(values[:, None], start)[:, 0]


def _summed(columns: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the sums (box, n) of columns (pixel, n)."""
    none = np.zeros((1, columns.shape[1]))
    running = np.concatenate([none, np.cumsum(columns, axis=0)])
    return np.diff(running[start], axis=0)


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
    regions, _ = scipy.ndimage.label(strong)
    region_of_highest = regions.flat[np.argmax(height)]
    slow, fast = np.nonzero(regions == region_of_highest)

    photons = above[slow, fast]
    variance = sigma[slow, fast] ** 2 + photons
    if photons.sum() < STRONG_SPOT * np.sqrt(variance.sum()):
        return np.full(2, np.nan)
    position = np.stack([fast, slow], axis=1)
    return photons @ position / photons.sum() + 0.5
