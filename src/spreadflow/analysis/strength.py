"""How strong reflections are, and how strong pixels and spots have to be for an observed position,
wherever positions are compared: in integration, in the r.m.s.d. of centroids, and in the pictures
of fitted pixels.
"""

import numpy as np

SMALLEST_SIGMA = 1e-9
"""Floor of σ(I), photons, where I/σ is formed."""

STRONG_PIXEL = 2.0
"""Standard deviations above the background from which a pixel belongs to an observed spot."""

STRONG_SPOT = 5.0
"""I/σ from which a spot has an observed position, and counts in the r.m.s.d."""


def i_over_sigma(intensity: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return I/σ of reflections (n,), finite where σ is 0."""
    return intensity / np.maximum(sigma, SMALLEST_SIGMA)
