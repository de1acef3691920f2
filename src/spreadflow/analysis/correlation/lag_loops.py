"""The loops over the pixels of the correlation in time, compiled.

They work on tiles of `LANES` pixels: the rows of a tile are shots, and a row has the values of its
pixels one after the other, so that one instruction does the same for several pixels. Inner loops
index by unsigned numbers: for signed ones Numba asks each time whether they count from the end.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.correlation.partner_loops import WIDE
from spreadflow.physics.compiling import compiled, inlined
from spreadflow.physics.lanes import LANES, add, add_product, load, scale, store, zeros

CLEANED = 32 * LANES
"""Pixels that are taken from images together: each shot is on a page of memory of its own, which
takes long to find.
"""

CHUNK = 16
"""Rows whose sum is formed beforehand; longer ranges are added up from such sums."""

ALIGNED = 8
"""Float64 in a line of the cache."""


class Levels(NamedTuple):
    """How a block of frames passes through the levels of multi-tau, the same for all pixels. The
    lines of all levels lie in one tile. A line is the frames of a level: those kept of earlier
    blocks, then the new ones.
    """

    first_row: np.ndarray
    """(level + 1,) int64 first row of each line"""
    n_kept: np.ndarray
    """(level,) int64 frames at the beginning of a line"""
    n_kept_next: np.ndarray
    """(level,) int64 frames at its end that the next block begins with"""
    means: np.ndarray
    """(mean,) int64 rows that are averaged with the row behind, for the next level"""
    first_mean: np.ndarray
    """(level + 1,) int64 first of these of each level"""


@inlined
def _first_value(row):
    """Return the place of the first value of a row."""
    return np.uint64(row) * np.uint64(LANES)


@inlined
def _empty_rows(n_rows):
    """Return an array with room for so many rows, at the beginning of a line of the cache."""
    values = np.empty(n_rows * LANES + ALIGNED, np.float64)
    skipped = (-(values.ctypes.data // 8)) % ALIGNED
    return values[skipped : skipped + n_rows * LANES]


@inlined
def _sum_rows(rows, first, end):
    """Return the sum of some rows."""
    total = zeros()
    for row in range(first, end):
        total = add(total, load(rows, _first_value(row)))
    return total


@inlined
def _sum_chunk(tile, chunk, chunks):
    """Set the sum of a chunk of rows."""
    total = _sum_rows(tile, chunk * CHUNK, (chunk + 1) * CHUNK)
    store(chunks, _first_value(chunk), total)


@inlined
def _add_to(sums, place, sign, total):
    """Add what was summed to the sum at a place, with a sign."""
    store(sums, place, add(load(sums, place), scale(total, sign)))


@inlined
def _add_ranges(tile, chunks, ranges, bounds, sign, sums, first_sum):
    """Add the sums over ranges of rows to those of all delays. first_sum: of the first delay."""
    for delay in range(len(bounds) - 1):
        if bounds[delay] == bounds[delay + 1]:
            continue
        total = zeros()
        for i in range(bounds[delay], bounds[delay + 1]):
            row = ranges[i, 0]
            end = row + ranges[i, 1]
            first_chunk = -(-row // CHUNK)
            last_chunk = end // CHUNK
            if first_chunk < last_chunk:
                head = _sum_rows(tile, row, first_chunk * CHUNK)
                whole = _sum_rows(chunks, first_chunk, last_chunk)
                tail = _sum_rows(tile, last_chunk * CHUNK, end)
                total = add(total, add(add(head, whole), tail))
            else:
                total = add(total, _sum_rows(tile, row, end))
        _add_to(sums, _first_value(first_sum + delay), sign, total)


@inlined
def _add_products(tile, terms, piece, sign, sums):
    """Add the products of a piece to the sums of its `WIDE` delays."""
    sum_0 = zeros()
    sum_1 = zeros()
    sum_2 = zeros()
    sum_3 = zeros()
    sum_4 = zeros()
    sum_5 = zeros()
    sum_6 = zeros()
    sum_7 = zeros()
    for i in range(terms.run_bounds[piece], terms.run_bounds[piece + 1]):
        row = np.uint64(terms.runs[i, 0])
        row_0 = np.uint64(terms.runs[i, 1])
        row_1 = np.uint64(terms.runs[i, 2])
        row_2 = np.uint64(terms.runs[i, 3])
        row_3 = np.uint64(terms.runs[i, 4])
        row_4 = np.uint64(terms.runs[i, 5])
        row_5 = np.uint64(terms.runs[i, 6])
        row_6 = np.uint64(terms.runs[i, 7])
        row_7 = np.uint64(terms.runs[i, 8])
        for k in range(np.uint64(0), _first_value(terms.runs[i, 1 + WIDE]), np.uint64(LANES)):
            value = load(tile, row + k)
            sum_0 = add_product(sum_0, value, load(tile, row_0 + k))
            sum_1 = add_product(sum_1, value, load(tile, row_1 + k))
            sum_2 = add_product(sum_2, value, load(tile, row_2 + k))
            sum_3 = add_product(sum_3, value, load(tile, row_3 + k))
            sum_4 = add_product(sum_4, value, load(tile, row_4 + k))
            sum_5 = add_product(sum_5, value, load(tile, row_5 + k))
            sum_6 = add_product(sum_6, value, load(tile, row_6 + k))
            sum_7 = add_product(sum_7, value, load(tile, row_7 + k))
    for i in range(np.uint64(terms.other_bounds[piece]), np.uint64(terms.other_bounds[piece + 1])):
        value = load(tile, terms.others[i, np.uint64(0)])
        sum_0 = add_product(sum_0, value, load(tile, terms.others[i, np.uint64(1)]))
        sum_1 = add_product(sum_1, value, load(tile, terms.others[i, np.uint64(2)]))
        sum_2 = add_product(sum_2, value, load(tile, terms.others[i, np.uint64(3)]))
        sum_3 = add_product(sum_3, value, load(tile, terms.others[i, np.uint64(4)]))
        sum_4 = add_product(sum_4, value, load(tile, terms.others[i, np.uint64(5)]))
        sum_5 = add_product(sum_5, value, load(tile, terms.others[i, np.uint64(6)]))
        sum_6 = add_product(sum_6, value, load(tile, terms.others[i, np.uint64(7)]))
        sum_7 = add_product(sum_7, value, load(tile, terms.others[i, np.uint64(8)]))
    place = _first_value(terms.groups[piece] * WIDE)
    _add_to(sums, place + np.uint64(0 * LANES), sign, sum_0)
    _add_to(sums, place + np.uint64(1 * LANES), sign, sum_1)
    _add_to(sums, place + np.uint64(2 * LANES), sign, sum_2)
    _add_to(sums, place + np.uint64(3 * LANES), sign, sum_3)
    _add_to(sums, place + np.uint64(4 * LANES), sign, sum_4)
    _add_to(sums, place + np.uint64(5 * LANES), sign, sum_5)
    _add_to(sums, place + np.uint64(6 * LANES), sign, sum_6)
    _add_to(sums, place + np.uint64(7 * LANES), sign, sum_7)


@inlined
def _add_terms(tile, chunks, terms, sign, sums):
    """Add all terms to sums. sums: (3 · delay · lane,) of products, earlier and later values."""
    for piece in range(len(terms.groups)):
        _add_products(tile, terms, piece, sign, sums)
    n_delays = len(terms.earlier_bounds) - 1
    _add_ranges(tile, chunks, terms.earlier, terms.earlier_bounds, sign, sums, n_delays)
    _add_ranges(tile, chunks, terms.later, terms.later_bounds, sign, sums, 2 * n_delays)


@inlined
def _clean(images, shots, first, limits, cleaned, is_bad):
    """Set `cleaned`, (shot, pixel) float32, to some pixels of some shots as they are correlated;
    mark those that are bad. See `keep`. Return the number of pixels.
    """
    not_zero, saturated = limits
    n = min(CLEANED, images.shape[1] - first)
    is_bad_here = np.zeros(CLEANED, np.bool_)
    start = np.uint64(first)
    for i in range(len(shots)):
        shot = np.uint64(shots[i])
        row = np.uint64(i)
        for p in range(np.uint64(0), np.uint64(n)):
            value = images[shot, start + p]
            is_low = value < saturated  # False also of what is no number
            is_number = is_low | (value - value == 0)
            is_bad_here[p] |= not is_low
            cleaned[row, p] = value if is_number & (value > not_zero) else not_zero
    for p in range(np.uint64(0), np.uint64(n)):
        is_bad[start + p] |= is_bad_here[p]
    return n


@compiled
def keep(images, shots, rows, limits, lines, is_bad):
    """Keep images as rows of tiles. images: (shot, pixel) float32. shots: (n,) int64 of those that
    are kept; rows: (n,) int64 row of each. limits: float32 lowest value, and that of saturation.
    lines: (tile, row · lane) float32.

    Lower values become the lowest one. `is_bad`, (pixel,) int8, is set to 1 where a value reaches
    saturation, or is no finite number; the latter becomes the lowest value, too.
    """
    cleaned = np.zeros((len(shots), CLEANED), np.float32)
    for first in range(0, images.shape[1], CLEANED):
        n = _clean(images, shots, first, limits, cleaned, is_bad)
        for column in range(0, n, LANES):
            line = lines[(first + column) // LANES]
            for i in range(len(shots)):
                place = _first_value(rows[i])
                for p in range(np.uint64(0), np.uint64(LANES)):
                    line[place + p] = cleaned[np.uint64(i), np.uint64(column) + p]


@compiled
def add_up(lines, rows, terms, sign, sums):
    """Add terms to the sums of all pixels. lines: (tile, row · lane) float32. rows: (row,) int64
    those of a line that become the tile of the terms. sign: 1, or −1 to take them away. sums:
    (tile, 3 · delay · lane) float64 of products, earlier and later values.
    """
    n_rows = len(rows)
    tile = _empty_rows(n_rows + 1)
    chunks = _empty_rows(n_rows // CHUNK)
    store(tile, _first_value(n_rows), zeros())
    for t in range(len(lines)):
        line = lines[t]
        for i in range(n_rows):
            store(tile, _first_value(i), load(line, _first_value(rows[i])))
            if i % CHUNK == CHUNK - 1:
                _sum_chunk(tile, i // CHUNK, chunks)
        _add_terms(tile, chunks, terms, sign, sums[t])


@inlined
def _fill_levels(tile, levels, kept):
    """Set the lines of all levels but for the new frames of the first one. kept: (level, frame ·
    lane).
    """
    n_levels = len(levels.n_kept)
    for level in range(n_levels):
        row = levels.first_row[level]
        for i in range(levels.n_kept[level]):
            store(tile, _first_value(row), load(kept[level], _first_value(i)))
            row += 1
        if level == 0:
            continue
        for i in range(levels.first_mean[level - 1], levels.first_mean[level]):
            source = levels.means[i]
            both = add(load(tile, _first_value(source)), load(tile, _first_value(source + 1)))
            store(tile, _first_value(row), scale(both, 0.5))
            row += 1


@inlined
def _keep_levels(tile, levels, kept):
    """Set what is kept to the last frames of each line."""
    for level in range(len(levels.n_kept)):
        n = levels.n_kept_next[level]
        row = levels.first_row[level + 1] - n
        for i in range(n):
            store(kept[level], _first_value(i), load(tile, _first_value(row + i)))


@compiled
def multi_tau(images, order, limits, levels, terms, kept, is_bad, sums):
    """Add a block of frames to the sums of multi-tau. images: (shot, pixel) float32. order:
    (frame,) int64 shots by time. limits: lowest value and that of saturation, as in `keep`. kept:
    (tile, level, frame · lane) float64 of earlier blocks. sums: as of `add_up`, by lag.
    """
    n_rows = levels.first_row[len(levels.n_kept)]
    tile = _empty_rows(n_rows + 1)
    chunks = _empty_rows(n_rows // CHUNK)
    store(tile, _first_value(n_rows), zeros())
    cleaned = np.zeros((len(order), CLEANED), np.float32)
    for first in range(0, images.shape[1], CLEANED):
        n = _clean(images, order, first, limits, cleaned, is_bad)
        for column in range(0, n, LANES):
            t = (first + column) // LANES
            for i in range(len(order)):
                values = load(cleaned[np.uint64(i)], np.uint64(column))
                store(tile, _first_value(levels.n_kept[0] + i), values)
            _fill_levels(tile, levels, kept[t])
            for chunk in range(n_rows // CHUNK):
                _sum_chunk(tile, chunk, chunks)
            _add_terms(tile, chunks, terms, 1.0, sums[t])
            _keep_levels(tile, levels, kept[t])
