"""The loops of the correlation in time, compiled: partners of shots, and sums over them.

Partners are two shots a delay apart. A stretch is a row of partners whose earlier shots lie in
consecutive rows of the buffer, as their later ones do: over it, a sum of products of a pixel is that
of two pieces of its line. Where no shot is missing, a delay has one stretch in a block of shots; a
gap ends a stretch, and so no sum has to assume that there are none.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.physics.compiling import compiled, inlined

ROOM = 256
"""Stretches that there is room for at first."""

TILE = 32
"""Pixels that are turned from images into lines together: two lines of the processor's cache."""


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


class Levels(NamedTuple):
    """How a block of frames passes through the levels of multi-tau, the same for all pixels. A line
    is the frames of a level: those kept of earlier blocks, then the new ones.
    """

    n_kept: np.ndarray
    """(level,) int64 frames at the beginning of a line"""
    n_line: np.ndarray
    """(level,) int64 frames of a line"""
    n_kept_next: np.ndarray
    """(level,) int64 frames at its end that the next block begins with"""
    first_lag: np.ndarray
    """(level + 1,) int64 first of the lags of each level, in the sums"""
    stretches: np.ndarray
    """(stretch, 3) int64, as of `partners`; places in a line in place of rows"""
    bounds: np.ndarray
    """(lag + 1,) int64 first stretch of each lag"""
    pieces: np.ndarray
    """(piece, 2) int64 of a line whose frames are averaged two and two: first place, and means"""
    first_piece: np.ndarray
    """(level + 1,) int64 first of these of each level"""


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
def partners(delays, shots, times, moments, step, held):
    """Return the stretches of partners of some shots: (stretch, 3) int64 row of the first earlier
    shot, row of the first later one, length; (delay + 1,) first stretch of each delay; (delay,)
    number of partners.

    shots, times, moments: (n,) int64 rows of the shots, their times, and the number of an arrival
    at which their partners have to be held. step: −1 for earlier partners, 1 for later ones.
    """
    stretches = np.empty((ROOM, 3), np.int64)
    bounds = np.zeros(len(delays) + 1, np.int64)
    counts = np.zeros(len(delays), np.int64)
    n = 0
    for number in range(len(delays)):
        delay = delays[number]
        bounds[number] = n
        place = -1
        for i in range(len(shots)):
            place = _place_of(held.times, times[i] + step * delay, place + 1)
            if place < 0:
                continue
            partner = held.rows[place]
            moment = moments[i]
            if held.arrival[partner] >= moment or held.removal[partner] <= moment:
                continue
            earlier = partner if step < 0 else shots[i]
            later = shots[i] if step < 0 else partner
            counts[number] += 1
            if n > bounds[number]:
                length = stretches[n - 1, 2]
                is_next = earlier == stretches[n - 1, 0] + length
                if is_next and later == stretches[n - 1, 1] + length:
                    stretches[n - 1, 2] = length + 1
                    continue
            if n == len(stretches):
                longer = np.empty((2 * n, 3), np.int64)
                longer[:n] = stretches
                stretches = longer
            stretches[n, 0] = earlier
            stretches[n, 1] = later
            stretches[n, 2] = 1
            n += 1
    bounds[len(delays)] = n
    return stretches[:n].copy(), bounds, counts


@inlined
def _sums_over(line, stretches, first, end):
    """Return the sums over stretches of the products of partners, of the earlier ones and of the
    later ones. line: of a pixel.
    """
    products = 0.0
    earlier = 0.0
    later = 0.0
    for s in range(first, end):
        length = stretches[s, 2]
        a = line[stretches[s, 0] : stretches[s, 0] + length]
        b = line[stretches[s, 1] : stretches[s, 1] + length]
        for k in range(length):
            x = np.float64(a[k])
            y = np.float64(b[k])
            products += x * y
            earlier += x
            later += y
    return products, earlier, later


@inlined
def _clean(values, not_zero, saturated, cleaned, is_bad):
    """Set the values of some pixels in a shot as they are correlated, and mark those that are bad.
    See `store`.
    """
    for p in range(len(values)):
        value = values[p]
        is_number = np.isfinite(value)
        is_bad[p] |= np.int8(not is_number or value >= saturated)
        cleaned[p] = value if is_number and value > not_zero else not_zero


@compiled
def store(images, rows, not_zero, saturated, lines, is_bad):
    """Store images as lines of pixels. images: (shot, pixel) float32. rows: (shot,) int64 row of
    each, −1 = not stored. lines: (pixel, row) float32.

    Values below `not_zero` become `not_zero`. `is_bad`, (pixel,) int8, is set to 1 where a value is
    at least `saturated`, or no finite number; the latter becomes `not_zero`, too.
    """
    n_pixels = images.shape[1]
    cleaned = np.empty(TILE, np.float32)
    for first in range(0, n_pixels, TILE):
        n = min(TILE, n_pixels - first)
        own = is_bad[first : first + n]
        for shot in range(len(rows)):
            row = rows[shot]
            if row < 0:
                continue
            _clean(images[shot, first : first + n], not_zero, saturated, cleaned[:n], own)
            for p in range(n):
                lines[first + p, row] = cleaned[p]


@compiled
def add(lines, stretches, bounds, sign, sums):
    """Add sums over stretches to those of each delay. lines: (pixel, row). sign: 1, or −1 to take
    them away. sums: (pixel, delay, 3) float64 of products, earlier and later values.
    """
    for p in range(len(lines)):
        line = lines[p]
        for delay in range(len(bounds) - 1):
            first = bounds[delay]
            end = bounds[delay + 1]
            if first == end:
                continue
            products, earlier, later = _sums_over(line, stretches, first, end)
            sums[p, delay, 0] += sign * products
            sums[p, delay, 1] += sign * earlier
            sums[p, delay, 2] += sign * later


@inlined
def _average(line, pieces, averaged):
    """Set the means of neighbouring frames, two and two. pieces: (piece, 2) int64 first place in
    the line and number of means.
    """
    n = 0
    for piece in range(len(pieces)):
        first = pieces[piece, 0]
        n_means = pieces[piece, 1]
        frames = line[first : first + 2 * n_means]
        means = averaged[n : n + n_means]
        for i in range(n_means):
            means[i] = 0.5 * (frames[2 * i] + frames[2 * i + 1])
        n += n_means


@inlined
def _pass_levels(line, other, levels, kept, sums):
    """Take the line of a pixel through all levels. line: of the first one; other: of equal length;
    both are overwritten. kept: (level, frame) of earlier blocks, and for the next one. sums: (lag,
    3).
    """
    for level in range(len(levels.n_kept)):
        for lag in range(levels.first_lag[level], levels.first_lag[level + 1]):
            first = levels.bounds[lag]
            end = levels.bounds[lag + 1]
            if first < end:
                products, earlier, later = _sums_over(line, levels.stretches, first, end)
                sums[lag, 0] += products
                sums[lag, 1] += earlier
                sums[lag, 2] += later
        n_next = levels.n_kept_next[level]
        start = levels.n_line[level] - n_next
        for i in range(n_next):
            kept[level, i] = line[start + i]
        if level + 1 < len(levels.n_kept):
            n_before = levels.n_kept[level + 1]
            for i in range(n_before):
                other[i] = kept[level + 1, i]
            pieces = levels.pieces[levels.first_piece[level] : levels.first_piece[level + 1]]
            _average(line, pieces, other[n_before:])
            line, other = other, line


@compiled
def multi_tau(images, order, limits, levels, kept, is_bad, sums):
    """Add a block of frames to the sums of multi-tau. images: (shot, pixel) float32. order: (frame,)
    int64 shots by time. limits: lowest value and that of saturation, as in `store`. kept: (pixel,
    level, frame) float64 of earlier blocks. sums: (pixel, lag, 3) float64.
    """
    not_zero, saturated = limits
    n_pixels = images.shape[1]
    n_before = levels.n_kept[0]
    longest = n_before + len(order) + kept.shape[2]
    lines = np.empty((TILE, longest), np.float64)
    other = np.empty(longest, np.float64)
    cleaned = np.empty(TILE, np.float32)
    for first in range(0, n_pixels, TILE):
        n = min(TILE, n_pixels - first)
        own = is_bad[first : first + n]
        for i in range(len(order)):
            shot = order[i]
            _clean(images[shot, first : first + n], not_zero, saturated, cleaned[:n], own)
            for p in range(n):
                lines[p, n_before + i] = cleaned[p]
        for p in range(n):
            for i in range(n_before):
                lines[p, i] = kept[first + p, 0, i]
            _pass_levels(lines[p], other, levels, kept[first + p], sums[first + p])
