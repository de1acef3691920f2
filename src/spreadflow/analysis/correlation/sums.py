"""What is summed over partners, for each delay and pixel; sums of shards or runs add up."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Sums(NamedTuple):
    """Sums over all partners, not divided by their number."""

    delays: np.ndarray
    """(delay,) int64, in units of the shot id"""
    counts: np.ndarray
    """(delay,) int64 partners, the same for all pixels"""
    g2: np.ndarray
    """(delay, pixel) float64 products of the earlier and the later value"""
    past: np.ndarray
    """(delay, pixel) float64 earlier values"""
    future: np.ndarray
    """(delay, pixel) float64 later values"""
    is_bad: np.ndarray
    """(pixel,) int8, 1 = saturated, or no finite number, in at least one shot"""


PER_PIXEL = ("g2", "past", "future", "is_bad")
"""Sums that each pixel has, in the last dimension."""


def side_by_side(shards: Sequence[Sums]) -> Sums:
    """Return the sums of all pixels from those of neighbouring shards. All have the same delays and
    counts.
    """
    first = shards[0]
    if len(shards) == 1:
        return first
    joined = {
        name: np.concatenate([getattr(shard, name) for shard in shards], axis=-1)
        for name in PER_PIXEL
    }
    return first._replace(**joined)


def added(runs: Sequence[Sums]) -> Sums:
    """Return the sums of all runs. All are of the same pixels and delays. A pixel that is bad in
    one of them is bad.
    """
    total = {
        name: np.sum([getattr(run, name) for run in runs], axis=0)
        for name in ("counts", "g2", "past", "future")
    }
    return runs[0]._replace(**total, is_bad=np.max([run.is_bad for run in runs], axis=0))
