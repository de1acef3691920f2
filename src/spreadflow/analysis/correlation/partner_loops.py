"""The loops that find which shots are partners, compiled. They are the same for all pixels.

Partners are two shots a delay apart. Nothing assumes that none is missing: who has no partner at a
delay, or has one that was not held when either came, is left out, and ends what is consecutive.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.physics.compiling import compiled, inlined

WIDE = 8
"""Neighbouring delays that a shot is multiplied for at once, with sums of each in registers: the
shot's own values are then loaded once for all of them.
"""

SHOTS_AT_ONCE = 256
"""Shots that go through all delays together: they, and what they are multiplied with for some
delays, fit into the first cache.
"""

SHORTEST_RUN = 8
"""Products of consecutive shots that are worth a loop of their own."""


class Held(NamedTuple):
    """The shots of a buffer. Arrays of shots by time, and of rows."""

    times: np.ndarray
    """(shot,) int64 of all shots that have a row, ascending, each once"""
    rows: np.ndarray
    """(shot,) int64 row of each of them"""
    arrival: np.ndarray
    """(row,) int64 number of the arrival that brought the shot of the row"""
    removal: np.ndarray
    """(row,) int64 number of the arrival that removed it; larger than any as long as it is held"""


@inlined
def _place_of(times, time, guess):
    """Return the place of a time in ascending times, or −1. guess: a place to look at first."""
    n = len(times)
    if guess < n and times[guess] == time:
        return guess
    if n == 0 or time < times[0] or time > times[n - 1]:
        return -1
    low = 0
    high = n
    while low < high:
        middle = (low + high) // 2
        if times[middle] < time:
            low = middle + 1
        else:
            high = middle
    return low if low < n and times[low] == time else -1


@compiled
def partners(delays, times, moments, step, held):
    """Return the rows of the partners of some shots, (delay, shot) int64; −1 = there is none.

    times, moments: (shot,) int64 their times, and the number of an arrival at which their partners
    have to be held. step: −1 for earlier partners, 1 for later ones.
    """
    rows = np.empty((len(delays), len(times)), np.int64)
    for delay in range(len(delays)):
        place = -1
        for i in range(len(times)):
            rows[delay, i] = -1
            place = _place_of(held.times, times[i] + step * delays[delay], place + 1)
            if place >= 0:
                row = held.rows[place]
                if held.arrival[row] < moments[i] and held.removal[row] > moments[i]:
                    rows[delay, i] = row
    return rows


@compiled
def products(shots, rows, nothing, n_values):
    """Return what is multiplied: (product, 1 + WIDE) uint32 first value of the row of a shot, and
    of those of its partners at the delays of a group; (piece + 1,) int64 first product of each
    piece. Those of all groups follow each other for some shots, then for the next ones. What lies
    behind the last product is anything.

    shots: (shot,) int64 rows of shots; rows: (delay, shot) int64 of their partners, where `nothing`
    is that of zeros. The number of delays is a multiple of `WIDE`. n_values: of a row.
    """
    n_delays, n_shots = rows.shape
    n_groups = n_delays // WIDE
    found = np.empty((n_groups * n_shots + 1, 1 + WIDE), np.uint32)
    bounds = np.zeros(n_groups * (-(-n_shots // SHOTS_AT_ONCE)) + 1, np.int64)
    n = 0
    piece = 0
    for first in range(0, n_shots, SHOTS_AT_ONCE):
        for group in range(n_groups):
            for i in range(first, min(first + SHOTS_AT_ONCE, n_shots)):
                has_partner = False
                for j in range(WIDE):
                    row = rows[group * WIDE + j, i]
                    has_partner |= row != nothing
                    found[n, 1 + j] = row * n_values
                if has_partner:
                    found[n, 0] = shots[i] * n_values
                    n += 1
            piece += 1
            bounds[piece] = n
    return found, bounds


@inlined
def _run_from(found, first, end, n_values):
    """Return the number of products from one on of which each is a row behind the one before."""
    n = 1
    while first + n < end:
        for j in range(1 + WIDE):
            if found[first + n, j] != found[first + n - 1, j] + n_values:
                return n
        n += 1
    return n


@compiled
def runs_and_others(found, bounds, n_values):
    """Return products as runs of consecutive rows, (run, 2 + WIDE) uint32 the first product and
    their number; and those in no run that is worth it, as they are; with bounds (piece + 1,) int64
    of each. found, bounds: as of `products`.
    """
    n_all = bounds[len(bounds) - 1]
    runs = np.empty((n_all // SHORTEST_RUN, 2 + WIDE), np.uint32)
    others = np.empty((n_all, 1 + WIDE), np.uint32)
    run_bounds = np.zeros(len(bounds), np.int64)
    other_bounds = np.zeros(len(bounds), np.int64)
    n_runs = 0
    n_others = 0
    for piece in range(len(bounds) - 1):
        first = bounds[piece]
        while first < bounds[piece + 1]:
            n = _run_from(found, first, bounds[piece + 1], n_values)
            if n >= SHORTEST_RUN:
                for j in range(1 + WIDE):
                    runs[n_runs, j] = found[first, j]
                runs[n_runs, 1 + WIDE] = n
                n_runs += 1
            else:
                for i in range(n):
                    for j in range(1 + WIDE):
                        others[n_others + i, j] = found[first + i, j]
                n_others += n
            first += n
        run_bounds[piece + 1] = n_runs
        other_bounds[piece + 1] = n_others
    return runs, run_bounds, others, other_bounds


@compiled
def ranges(rows, nothing):
    """Return rows that are added up for each delay, (delay, n) int64, as ranges of consecutive
    ones: (range, 2) int64 first row and number, and (delay + 1,) first range of each delay. What
    lies behind the last range is anything. nothing: a row that does not count.
    """
    n_delays, n_rows = rows.shape
    found = np.empty((n_delays * n_rows, 2), np.int64)
    bounds = np.zeros(n_delays + 1, np.int64)
    n = 0
    for delay in range(n_delays):
        for i in range(n_rows):
            row = rows[delay, i]
            if row == nothing:
                continue
            if n > bounds[delay] and row == found[n - 1, 0] + found[n - 1, 1]:
                found[n - 1, 1] += 1
            else:
                found[n, 0] = row
                found[n, 1] = 1
                n += 1
        bounds[delay + 1] = n
    return found, bounds
