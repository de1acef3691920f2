"""How strong pixels and spots have to be for an observed position, wherever positions are compared:
in integration, in the r.m.s.d. of centroids, and in the pictures of fitted pixels.
"""

STRONG_PIXEL = 2.0
"""Standard deviations above the background from which a pixel belongs to an observed spot."""

STRONG_SPOT = 5.0
"""I/σ from which a spot has an observed position, and counts in the r.m.s.d."""
