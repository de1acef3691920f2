"""The exponential of compiled loops: a polynomial, so that they run in vector registers."""

import numpy as np

from spreadflow.physics.compiling import inlined_in_order

LOG2_E = 1.4426950408889634
LN_2_HIGH = 0.6931471803691238
LN_2_LOW = 1.9082149292705877e-10
"""ln 2 in two parts, the first with so few digits that its multiples are exact."""

ROUNDER = 6755399441055744.0
"""1.5 · 2⁵²: added to a number, it leaves its nearest integer in the lowest bits."""

LOWEST_EXPONENT = -708.0
"""exp of less is no normal number any more, and counts as 0."""


@inlined_in_order
def exp(y):
    """Return exp(y) within 1e-14, 0 below `LOWEST_EXPONENT`, NaN of NaN; y < 709."""
    shifted = y * LOG2_E + ROUNDER
    n = shifted - ROUNDER
    r = (y - n * LN_2_HIGH) - n * LN_2_LOW
    series = 1.0 / 39916800.0
    series = series * r + 1.0 / 3628800.0
    series = series * r + 1.0 / 362880.0
    series = series * r + 1.0 / 40320.0
    series = series * r + 1.0 / 5040.0
    series = series * r + 1.0 / 720.0
    series = series * r + 1.0 / 120.0
    series = series * r + 1.0 / 24.0
    series = series * r + 1.0 / 6.0
    series = series * r + 0.5
    series = series * r + 1.0
    series = series * r + 1.0
    bits = (np.float64(shifted).view(np.int64) + 1023) << 52
    power = np.int64(bits).view(np.float64)
    return 0.0 if y < LOWEST_EXPONENT else series * power
