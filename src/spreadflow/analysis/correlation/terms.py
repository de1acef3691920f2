"""What is multiplied and added for each delay, the same for all pixels: from the partners of shots.

Values are in the rows of a tile, one behind the other, and a row has those of `LANES` pixels. The
last row is 0: a shot without a partner at a delay is multiplied by it, so that the loop over shots
has no exceptions. Sums of earlier and later values are over ranges of consecutive rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.correlation.partner_loops import WIDE, products, ranges, runs_and_others
from spreadflow.physics.lanes import LANES


class Terms(NamedTuple):
    """What is multiplied and added. The number of delays is a multiple of `WIDE`: those that fill
    it up have nothing.
    """

    runs: np.ndarray
    """(run, 2 + WIDE) uint32 first value of the row of a shot, and of the rows of its partners at
    the delays of a group; number of shots in consecutive rows that have partners in consecutive
    rows
    """
    run_bounds: np.ndarray
    """(piece + 1,) int64 first run of each piece"""
    others: np.ndarray
    """(product, 1 + WIDE) uint32 the same of shots that are in no run"""
    other_bounds: np.ndarray
    """(piece + 1,) int64 first of them of each piece"""
    groups: np.ndarray
    """(piece,) int64 group of `WIDE` delays that a piece belongs to"""
    earlier: np.ndarray
    """(range, 2) int64 first row and number of consecutive rows of earlier values"""
    earlier_bounds: np.ndarray
    """(delay + 1,) int64 first range of each delay"""
    later: np.ndarray
    """(range, 2) int64 the same of later values"""
    later_bounds: np.ndarray
    """(delay + 1,) int64"""


def n_filled(n_delays: int) -> int:
    """Return the number of delays, filled up to whole groups."""
    return -(-n_delays // WIDE) * WIDE


def terms(shots: np.ndarray, partners: np.ndarray, step: int, nothing: int) -> Terms:
    """Return the terms of shots and their partners. shots: (shot,) int64 rows of the tile;
    partners: (delay, shot) int64 rows, or `nothing`, the row of zeros, where there is none. step:
    −1 where partners are the earlier ones, 1 where they are the later ones.
    """
    rows = np.full((n_filled(len(partners)), len(shots)), nothing)
    rows[: len(partners)] = partners
    own = _ranges(np.where(rows == nothing, nothing, shots), nothing)
    theirs = _ranges(rows, nothing)
    earlier, later = (theirs, own) if step < 0 else (own, theirs)
    found, bounds = products(shots, rows, nothing, LANES)
    runs, run_bounds, others, other_bounds = runs_and_others(found, bounds, LANES)
    n_groups = len(rows) // WIDE
    return Terms(
        runs=runs[: run_bounds[-1]],
        run_bounds=run_bounds,
        others=others[: other_bounds[-1]],
        other_bounds=other_bounds,
        groups=np.tile(np.arange(n_groups), (len(bounds) - 1) // n_groups),
        earlier=earlier[0],
        earlier_bounds=earlier[1],
        later=later[0],
        later_bounds=later[1],
    )


def _ranges(rows: np.ndarray, nothing: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ranges and their bounds, as `partner_loops.ranges`."""
    found, bounds = ranges(rows, nothing)
    return found[: bounds[-1]], bounds


def joined(parts: Sequence[Terms]) -> Terms:
    """Return the terms of several lists of delays, one list after the other, in the same tile."""
    n_delays = [len(part.earlier_bounds) - 1 for part in parts]
    first_groups = np.cumsum([0, *n_delays]) // WIDE
    groups = [part.groups + first for part, first in zip(parts, first_groups, strict=False)]
    return Terms(
        runs=np.concatenate([part.runs for part in parts]),
        run_bounds=_one_after_the_other([part.run_bounds for part in parts]),
        others=np.concatenate([part.others for part in parts]),
        other_bounds=_one_after_the_other([part.other_bounds for part in parts]),
        groups=np.concatenate(groups),
        earlier=np.concatenate([part.earlier for part in parts]),
        earlier_bounds=_one_after_the_other([part.earlier_bounds for part in parts]),
        later=np.concatenate([part.later for part in parts]),
        later_bounds=_one_after_the_other([part.later_bounds for part in parts]),
    )


def _one_after_the_other(bounds: Sequence[np.ndarray]) -> np.ndarray:
    """Return the bounds of what lies one after the other."""
    return np.cumsum([0, *np.concatenate([np.diff(one) for one in bounds])])
