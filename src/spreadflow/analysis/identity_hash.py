"""Numbers that are drawn by chance and yet follow from an identity alone: not from ranks, nor from
the order of the work.
"""

import numpy as np

SPLITMIX64 = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
"""Increment and multipliers of the hash of that name (Steele, Lea & Flood 2014)."""

UNIFORM_BITS = 53
"""Bits of a uniform number: as many as the mantissa of a float64 holds."""


def hashed(start: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Return SplitMix64's output `number` (n,), an integer, of streams that begin at `start` (n,):
    (n,) uint64.
    """
    increment, first, second = (np.uint64(word) for word in SPLITMIX64)
    with np.errstate(over="ignore"):
        steps = np.asarray(number).astype(np.uint64) + np.uint64(1)
        x = np.asarray(start).astype(np.uint64) + increment * steps

        x = x ^ (x >> np.uint64(30))
        x = x * first
        x = x ^ (x >> np.uint64(27))
        x = x * second
        x = x ^ (x >> np.uint64(31))
    return x


def half_sets(shot_id: np.ndarray) -> np.ndarray:
    """Return the half set (n,), 0 or 1, of what comes of each shot: the last bit of a hash.

    The lattices of a shot are together: what they share, pulse and background, would pass for
    agreement of the halves.
    """
    first = np.zeros(len(shot_id), dtype=np.uint64)
    return (hashed(shot_id, first) & np.uint64(1)).astype(np.int8)


def uniform(seed: int, *identity: np.ndarray) -> np.ndarray:
    """Return a number (n,), uniform on [0, 1), for each identity: columns (n,) of integers, of
    which any may be negative.
    """
    x = np.array(seed, dtype=np.uint64)
    for column in identity:
        x = hashed(x, column)
    mantissa = x >> np.uint64(64 - UNIFORM_BITS)
    return mantissa.astype(np.float64) / 2.0**UNIFORM_BITS
