"""Compiled loops over the pixels of rectangles that see each component of a mosaicity by itself.

Where the components of a node are equally wide, the sum over channels depends on little more than
the energy at which the Ewald sphere passes a cloud. It is tabulated for each node.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.physics.compiling import compiled, inlined
from spreadflow.physics.exponential_loops import exp
from spreadflow.physics.pair_loops import (
    HALF_WINDOW,
    LoopTables,
    Ticks,
    channels_within,
    parabola,
    times,
)

STEPS_PER_SIGMA = 4.0
"""Entries of a table to each standard deviation of a parabola: with two derivatives at each, what
is between them is good to 4e-4 of the largest.
"""

MARGIN_SIGMA = 5.0
"""Standard deviations by which a table goes on beyond the channels."""

LARGEST_TABLE = 2048
"""Entries of a node, at most; sharper parabolas are summed over their channels one by one."""

LARGEST_CHANGE = 0.06
"""Relative change of a₂ from that of the table, at most: its square is neglected."""


class PixelBoxes(NamedTuple):
    """Rectangles of pixels on panels, half open. Shape (box,)."""

    panel: np.ndarray
    fast0: np.ndarray
    fast1: np.ndarray
    slow0: np.ndarray
    slow1: np.ndarray


class Reaches(NamedTuple):
    """How far clouds matter."""

    cut: np.ndarray
    """(cloud,) largest exponent that matters"""
    cloud: np.ndarray
    """(box,) row of the cloud that reaches the pixels of `boxes`"""
    boxes: PixelBoxes


class ChannelSums(NamedTuple):
    """Sums of strength·exp(−½a₂(x − centre)²) over the channels, tabulated by the centre."""

    first: np.ndarray
    """(node + 1,) the first entry of each node, and their number"""
    start: np.ndarray
    """(node,) centre of the first entry, eV"""
    step: np.ndarray
    """(node,) eV"""
    a2: np.ndarray
    """(node,) eV⁻²"""
    series: np.ndarray
    """(entry, 4): the sum, its first and half its second derivative by the centre, and its
    derivative by a₂
    """


@inlined
def _moments(tables: LoopTables, ticks: Ticks, node, centre, left, a2):
    """Return Σ strength·exp(−½a₂u²)·uⁿ, u = x − centre, over the channels whose exponent is below
    `left`, for n = 0, 1, 2.
    """
    m0 = 0.0
    m1 = 0.0
    m2 = 0.0
    first, last = channels_within(centre, left, a2, ticks, tables.middle)
    for start in range(first, last, HALF_WINDOW):
        for j in range(start, start + HALF_WINDOW):
            u = tables.x[j] - centre
            photons = tables.strength[node, j] * exp(-0.5 * a2 * u * u)
            m0 += photons
            m1 += photons * u
            m2 += photons * u * u
    return m0, m1, m2


@compiled
def channel_sums(tables: LoopTables, ticks: Ticks, n_channels):
    """Return the table of all nodes, at the a₂ of a ray through the middle of each node's first
    cloud.
    """
    n_nodes = len(tables.strength)
    first = np.zeros(n_nodes + 1, dtype=np.int64)
    start = np.zeros(n_nodes)
    step = np.ones(n_nodes)
    a2 = np.zeros(n_nodes)
    for node in range(n_nodes):
        k = node * tables.n_components
        cloud = tables.cloud[k]
        q = (cloud[0], cloud[1], cloud[2])
        v = times((cloud[3], cloud[4], cloud[5], cloud[6], cloud[7], cloud[8]), q)
        along = v[0] * q[0] + v[1] * q[1] + v[2] * q[2]
        a2[node] = along / tables.middle**2
        sigma = 1.0 / np.sqrt(a2[node]) if a2[node] > 0.0 else 0.0
        step[node] = sigma / STEPS_PER_SIGMA
        start[node] = tables.x[0] - MARGIN_SIGMA * sigma
        span = tables.x[n_channels - 1] + MARGIN_SIGMA * sigma - start[node]
        n = 0
        if step[node] * LARGEST_TABLE > span:
            n = int(span / step[node]) + 2
        first[node + 1] = first[node] + n

    series = np.empty((first[n_nodes], 4))
    largest_exponent = 0.5 * (MARGIN_SIGMA + 1.0) ** 2
    for node in range(n_nodes):
        a = a2[node]
        for entry in range(first[node], first[node + 1]):
            centre = start[node] + (entry - first[node]) * step[node]
            m0, m1, m2 = _moments(tables, ticks, node, centre, largest_exponent, a)
            series[entry, 0] = m0
            series[entry, 1] = a * m1
            series[entry, 2] = 0.5 * (a * a * m2 - a * m0)
            series[entry, 3] = -0.5 * m2
    return ChannelSums(first, start, step, a2, series)


@inlined
def _twice_as_long(column):
    """Return an array that begins with a column."""
    out = np.empty(2 * len(column), dtype=column.dtype)
    out[: len(column)] = column
    return out


class PixelGrid(NamedTuple):
    """Pixels and points of rectangles, one after another, row by row."""

    boxes: PixelBoxes
    is_valid: np.ndarray
    """(pixel,) bool"""
    n_edge: int
    """points along each edge of a pixel; those of a box go row by row, through all its pixels"""


@inlined
def _add_cloud(tables, ticks, sums, grid, cloud, overlap, place, total, is_lit):
    """Add the photons of a cloud to those of the valid pixels of a box, (pixel, component), and
    mark the pixels that are lit: in one function, as an array handed on for each point is counted.

    cloud: its row and the largest exponent that matters; overlap: the pixels, of the box, that it
    reaches; place: the first pixel of the box and its width.
    """
    k, cut = cloud
    low_fast, high_fast, low_slow, high_slow = overlap
    first_pixel, width = place
    middle = tables.middle
    n_edge = grid.n_edge
    share = tables.cloud[k, 9] / (n_edge * n_edge)
    node = k // tables.n_components
    component = k % tables.n_components
    q = (tables.cloud[k, 0], tables.cloud[k, 1], tables.cloud[k, 2])
    M = (
        tables.cloud[k, 3],
        tables.cloud[k, 4],
        tables.cloud[k, 5],
        tables.cloud[k, 6],
        tables.cloud[k, 7],
        tables.cloud[k, 8],
    )
    first_entry = sums.first[node]
    last_entry = sums.first[node + 1] - 1 - first_entry
    start = sums.start[node]
    step = sums.step[node]
    tabulated_a2 = sums.a2[node]
    for slow in range(low_slow, high_slow):
        for fast in range(low_fast, high_fast):
            pixel = slow * width + fast
            if not grid.is_valid[first_pixel + pixel]:
                continue
            corner = n_edge * (n_edge * (first_pixel + slow * width) + fast)
            photons = 0.0
            for i in range(n_edge):
                for j in range(n_edge):
                    point = corner + i * n_edge * width + j
                    t = (tables.ray[point, 0], tables.ray[point, 1], tables.ray[point, 2])
                    d = (t[0] * middle - q[0], t[1] * middle - q[1], t[2] * middle - q[2])
                    a2, centre, floor = parabola(t, d, M)
                    if not floor < cut:
                        continue
                    height = tables.ray[point, 3] * exp(-floor)
                    place_of_centre = (centre - start) / step
                    change = a2 - tabulated_a2
                    is_within = place_of_centre >= 0.0 and place_of_centre < last_entry
                    if is_within and abs(change) < LARGEST_CHANGE * a2:
                        nearest = int(place_of_centre + 0.5)
                        off = (place_of_centre - nearest) * step
                        entry = first_entry + nearest
                        value = sums.series[entry, 0] + sums.series[entry, 3] * change
                        value += (sums.series[entry, 1] + sums.series[entry, 2] * off) * off
                        photons += height * max(value, 0.0)
                    else:
                        value, _, _ = _moments(tables, ticks, node, centre, cut - floor, a2)
                        photons += height * value
            if photons > 0.0:
                total[pixel, component] += share * photons
                is_lit[pixel] = True


@compiled
def by_component(
    tables: LoopTables, ticks: Ticks, sums: ChannelSums, reaches: Reaches, grid: PixelGrid
):
    """Return the mean photons of each component in each valid pixel, as a sparse matrix (valid
    pixel, component): values float32, components and ends of rows int32.
    """
    n_components = tables.n_components
    boxes = grid.boxes
    sizes = (boxes.fast1 - boxes.fast0) * (boxes.slow1 - boxes.slow0)
    total = np.zeros((sizes.max(), n_components), dtype=np.float32)
    is_lit = np.zeros(len(total), dtype=np.bool_)
    values = np.empty(1 << 16, dtype=np.float32)
    components = np.empty(1 << 16, dtype=np.int32)
    ends = np.zeros(grid.is_valid.sum() + 1, dtype=np.int32)
    n = 0
    row = 0
    first_pixel = 0
    for box in range(len(sizes)):
        fast0 = boxes.fast0[box]
        slow0 = boxes.slow0[box]
        place = (first_pixel, boxes.fast1[box] - fast0)
        for m in range(len(reaches.cloud)):
            low_fast = max(reaches.boxes.fast0[m], fast0)
            high_fast = min(reaches.boxes.fast1[m], boxes.fast1[box])
            low_slow = max(reaches.boxes.slow0[m], slow0)
            high_slow = min(reaches.boxes.slow1[m], boxes.slow1[box])
            is_apart = low_fast >= high_fast or low_slow >= high_slow
            if is_apart or reaches.boxes.panel[m] != boxes.panel[box]:
                continue
            k = reaches.cloud[m]
            cloud = (k, reaches.cut[k])
            overlap = (low_fast - fast0, high_fast - fast0, low_slow - slow0, high_slow - slow0)
            _add_cloud(tables, ticks, sums, grid, cloud, overlap, place, total, is_lit)
        for pixel in range(sizes[box]):
            if not grid.is_valid[first_pixel + pixel]:
                continue
            if is_lit[pixel]:
                is_lit[pixel] = False
                if n + n_components > len(values):
                    values = _twice_as_long(values)
                    components = _twice_as_long(components)
                for component in range(n_components):
                    if total[pixel, component] > 0.0:
                        values[n] = total[pixel, component]
                        components[n] = component
                        n += 1
                        total[pixel, component] = 0.0
            row += 1
            ends[row] = n
        first_pixel += sizes[box]
    return values[:n], components[:n], ends
