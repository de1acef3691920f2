"""The reference of all exact calculators: plain loops over shots, and over all two of a list."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.correlation.history import Counts
from spreadflow.analysis.correlation.sums import Sums


class Loop(NamedTuple):
    """What came of shots that passed through a buffer one by one."""

    sums: Sums
    counts: Counts
    stored: list[int]
    """numbers of the shots that were stored, in the order of their arrival"""
    held: list[int]
    """numbers of those that the buffer holds in the end"""


def double_loop(times: np.ndarray, values: np.ndarray, delays: np.ndarray) -> Sums:
    """Return the sums over all partners among some shots. times: (shot,) distinct int64. values:
    (shot, pixel), as they are correlated. None of the pixels is marked as bad.
    """
    shots = np.argsort(times).tolist()
    pairs = ((one, other) for place, one in enumerate(shots) for other in shots[place + 1 :])
    return _sums(pairs, times, values, delays)


def buffer_loop(
    times: np.ndarray, values: np.ndarray, delays: np.ndarray, n_shots: int, is_window: bool
) -> Loop:
    """Return the sums over partners that a buffer of `n_shots` holds together, of shots in the
    order of their arrival: when the later one of both arrives, or, of a window, in the end. As
    `double_loop`, but times may come twice and in any order.
    """
    held: list[int] = []
    stored: list[int] = []
    pairs: list[tuple[int, int]] = []
    wanted = set(delays.tolist())
    n_duplicates = n_late = n_disordered = 0
    for shot, time in enumerate(times.tolist()):
        if any(times[other] == time for other in held):
            n_duplicates += 1
            continue
        if len(held) == n_shots:
            oldest = min(held, key=lambda other: times[other])
            if time < times[oldest]:
                n_late += 1
                continue
            held.remove(oldest)
        n_disordered += any(times[other] > time for other in stored)
        pairs += [(other, shot) for other in held if abs(time - times[other]) in wanted]
        held.append(shot)
        stored.append(shot)
    if is_window:
        sums = double_loop(times[held], values[held], delays)
    else:
        sums = _sums(pairs, times, values, delays)
    counts = Counts(len(times), n_duplicates, n_late, n_disordered)
    return Loop(sums, counts, stored, held)


def _sums(
    pairs: Iterable[tuple[int, int]], times: np.ndarray, values: np.ndarray, delays: np.ndarray
) -> Sums:
    """Return the sums over those of some pairs of shots that are partners."""
    number_of = {int(delay): i for i, delay in enumerate(delays)}
    counts = np.zeros(len(delays), np.int64)
    g2, past, future = np.zeros((3, len(delays), values.shape[1]))
    for pair in pairs:
        first, second = sorted(pair, key=lambda shot: times[shot])
        i = number_of.get(int(times[second]) - int(times[first]))
        if i is None:
            continue
        earlier = values[first].astype(np.float64)
        later = values[second].astype(np.float64)
        counts[i] += 1
        g2[i] += earlier * later
        past[i] += earlier
        future[i] += later
    is_bad = np.zeros(values.shape[1], np.int8)
    return Sums(np.asarray(delays, np.int64), counts, g2, past, future, is_bad)
