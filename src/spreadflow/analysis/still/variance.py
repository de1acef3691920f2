"""The variance of an integrated intensity: what its own photons bring, and the rest."""

import numpy as np


def own_variance(intensity: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Return the variance that the signal's own photons add to `rest`: I for strong spots, nothing
    for spots that are not there.

    I itself, counted, would make what fluctuates down look better known, and pull empty spots below
    zero.
    """
    signal = np.maximum(intensity, 0.0)
    return signal**3 / (signal**2 + 4.0 * rest)


def rest_variance(intensity: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return the variance of an integrated intensity without what `own_variance` added to it (its
    inverse).
    """
    signal = np.maximum(intensity, 0.0).astype(np.float64)

    # the larger root of 4 r² + (I² − 4 v) r − I² (v − I) = 0
    half = 0.125 * (4.0 * variance - signal**2)
    product = signal**2 * (variance - signal)
    product = np.maximum(product, -4.0 * half**2)
    return half + np.sqrt(half**2 + 0.25 * product)
