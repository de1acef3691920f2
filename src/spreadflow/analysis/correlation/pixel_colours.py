"""Colours of pixels: which share a curve, and which a mean intensity. By the intensity, or by rings
about the beam; 0 = none.
"""

import numpy as np

TESTED_QUANTILE = 0.95
"""Of the intensity at which the pixels of a test mask begin: bright ones, none of them the
brightest.
"""


def by_quantiles(values: np.ndarray, usable: np.ndarray, number: int) -> np.ndarray:
    """Return int32 colours from 1 in the order of values, of as many pixels each as can be; fewer
    colours where there are fewer pixels. usable: bool, as values: the pixels that have a colour.
    """
    colours = np.zeros(values.shape, np.int32)
    order = np.argsort(values[usable], kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    colours[usable] = 1 + rank * min(number, len(order)) // max(len(order), 1)
    return colours


def by_rings(
    q: np.ndarray, usable: np.ndarray, number: int, limits: tuple[float, float]
) -> np.ndarray:
    """Return int32 colours from 1 of rings of equal width in q between two limits, both of which
    are within. A pixel whose q is no number has none.
    """
    low, high = limits
    with np.errstate(invalid="ignore"):
        is_within = usable & (q >= low) & (q <= high)
    colours = np.zeros(q.shape, np.int32)
    ring = ((q[is_within] - low) / (high - low) * number).astype(np.int64)
    colours[is_within] = 1 + np.minimum(ring, number - 1)
    return colours


def tested(values: np.ndarray, usable: np.ndarray, number: int) -> np.ndarray:
    """Return a mask, int8, of pixels that follow each other in the order of values, from a high
    quantile on; the last ones where these are too few.
    """
    mask = np.zeros(values.shape, np.int8)
    places = np.flatnonzero(usable)
    order = places[np.argsort(values.ravel()[places], kind="stable")]
    first = min(int(TESTED_QUANTILE * len(order)), max(len(order) - number, 0))
    mask.ravel()[order[first : first + number]] = 1
    return mask
