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
