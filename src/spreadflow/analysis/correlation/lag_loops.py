"""The loops of the correlation in time, compiled: partners of shots, and sums over them.

Partners are two shots a delay apart. A stretch is a row of partners whose earlier shots lie in
consecutive rows of the buffer, as their later ones do: over it, a sum of products of a pixel is
that of two pieces of its line. Where no shot is missing, a delay has one stretch in a block of
shots; a gap ends a stretch, and so no sum has to assume that there are none.

Inner loops index by unsigned numbers: for signed ones Numba asks each time whether they count from
the end, and a slice costs as much as the sum over some dozens of shots.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.physics.compiling import compiled, inlined

ROOM = 256
"""Stretches that there is room for at first."""

TILE = 128
"""Pixels that are turned from images into lines together: each shot is on a page of memory of its
own, which takes long to find.
"""

ROOM_BETWEEN = 16
"""Values between the rows of a tile: the values of a pixel then lie in different sets of the cache.
"""


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
        a = np.uint64(stretches[s, 0])
        b = np.uint64(stretches[s, 1])
        for k in range(np.uint64(0), np.uint64(stretches[s, 2])):
            x = np.float64(line[a + k])
            y = np.float64(line[b + k])
            products += x * y
            earlier += x
            later += y
    return products, earlier, later


@inlined
def _clean(images, shots, first, n, limits, tile, is_bad):
    """Set a tile (shot, pixel) to n pixels of some shots as they are correlated; mark those that
    are bad. See `store`.

    Only then is the tile turned into lines: storing along lines while images are read makes each
    wait for the other.
    """
    not_zero, saturated = limits
    is_bad[:] = False
    start = np.uint64(first)
    for i in range(len(shots)):
        shot = np.uint64(shots[i])
        row = np.uint64(i)
        for p in range(np.uint64(0), np.uint64(n)):
            value = images[shot, start + p]
            is_low = value < saturated  # False also of what is no number
            is_number = is_low | (value - value == 0)
            is_bad[p] |= not is_low
            tile[row, p] = value if is_number & (value > not_zero) else not_zero


@compiled
def store(images, shots, rows, limits, lines, is_bad):
    """Store images as lines of pixels. images: (shot, pixel) float32. shots: (n,) int64 of those
    that are stored; rows: (n,) int64 row of each. limits: float32 lowest value, and that of
    saturation. lines: (pixel, row) float32.

    Lower values become the lowest one. `is_bad`, (pixel,) int8, is set to 1 where a value reaches
    saturation, or is no finite number; the latter becomes the lowest value, too.
    """
    n_pixels = images.shape[1]
    tile = np.empty((len(shots), TILE + ROOM_BETWEEN), np.float32)
    is_bad_there = np.empty(TILE, np.bool_)
    for first in range(0, n_pixels, TILE):
        n = min(TILE, n_pixels - first)
        _clean(images, shots, first, n, limits, tile, is_bad_there)
        for p in range(np.uint64(0), np.uint64(n)):
            pixel = np.uint64(first) + p
            is_bad[pixel] |= is_bad_there[p]
            for i in range(np.uint64(0), np.uint64(len(shots))):
                lines[pixel, np.uint64(rows[i])] = tile[i, p]


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
def _average(line, pieces, first_piece, end_piece, averaged, n_before):
    """Set the means of neighbouring frames, two and two, behind the first `n_before`. pieces: as of
    `Levels`.
    """
    place = np.uint64(n_before)
    for piece in range(first_piece, end_piece):
        source = np.uint64(pieces[piece, 0])
        n_means = np.uint64(pieces[piece, 1])
        for i in range(np.uint64(0), n_means):
            averaged[place + i] = 0.5 * (line[source + 2 * i] + line[source + 2 * i + np.uint64(1)])
        place += n_means


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
            first = levels.first_piece[level]
            end = levels.first_piece[level + 1]
            _average(line, levels.pieces, first, end, other, n_before)
            line, other = other, line


@compiled
def multi_tau(images, order, limits, levels, kept, is_bad, sums):
    """Add a block of frames to the sums of multi-tau. images: (shot, pixel) float32. order:
    (frame,) int64 shots by time. limits: lowest value and that of saturation, as in `store`. kept:
    (pixel, level, frame) float64 of earlier blocks. sums: (pixel, lag, 3) float64.
    """
    n_pixels = images.shape[1]
    n_before = levels.n_kept[0]
    n_new = len(order)
    tile = np.empty((n_new, TILE + ROOM_BETWEEN), np.float32)
    line = np.empty(n_before + n_new + kept.shape[2], np.float64)
    other = np.empty(len(line), np.float64)
    is_bad_there = np.empty(TILE, np.bool_)
    for first in range(0, n_pixels, TILE):
        n = min(TILE, n_pixels - first)
        _clean(images, order, first, n, limits, tile, is_bad_there)
        for p in range(np.uint64(0), np.uint64(n)):
            pixel = np.uint64(first) + p
            is_bad[pixel] |= is_bad_there[p]
            for i in range(n_before):
                line[i] = kept[pixel, 0, i]
            start = np.uint64(n_before)
            for i in range(np.uint64(0), np.uint64(n_new)):
                line[start + i] = tile[i, p]
            _pass_levels(line, other, levels, kept[pixel], sums[pixel])
