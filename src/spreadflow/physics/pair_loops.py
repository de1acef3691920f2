"""Compiled loops over pairs of a point and a cloud: which of them matter, and the sums of their
photons.

All is float64. The exponential is a polynomial, so that a window of channels runs in vector
registers. Nothing is kept of a pair but what it adds to its point, in the order of the pairs.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.physics.clouds import Clouds
from spreadflow.physics.compiling import compiled, inlined
from spreadflow.physics.exponential_loops import exp
from spreadflow.physics.pair_tables import WINDOW, Pairs

HALF_WINDOW = WINDOW // 2
"""Channels of a component that are summed at a time: near its middle fewer matter."""


class LoopTables(NamedTuple):
    """`Tables` with what belongs to one point or cloud side by side."""

    ray: np.ndarray
    """(point, 4) as of `pair_tables.rays_by_point`"""
    cloud: np.ndarray
    """(cloud, 10) q, M and amplitude"""
    x: np.ndarray
    """(channel + WINDOW,) eV"""
    strength: np.ndarray
    """(node, channel + WINDOW)"""
    middle: float
    """eV"""
    n_components: int
    """clouds of a node"""


class Pieces(NamedTuple):
    """Rectangles of points, and the cloud that may reach them. Shape (piece,)."""

    corner: np.ndarray
    """row of the first point"""
    stride: np.ndarray
    """from one row of the rectangle to the next"""
    width: np.ndarray
    height: np.ndarray
    cloud: np.ndarray


class Ticks(NamedTuple):
    """The lit channel that follows each mark of an even grid of energies."""

    start: float
    step: float
    channel: np.ndarray
    """first lit … one past the last"""


def rows_of_clouds(cloud: Clouds) -> np.ndarray:
    """Return clouds as (cloud, 10)."""
    columns = [*cloud.q, *cloud.precision, cloud.amplitude]
    return np.stack([np.asarray(column) for column in columns], axis=1)


# ---------------------------------------------------------------- one pair


@inlined
def _dot(u, v):
    """Return u·v."""
    return u[0] * v[0] + u[1] * v[1] + u[2] * v[2]


@inlined
def times(s, v):
    """Return the product of a symmetric matrix xx yy zz yz xz xy and a vector."""
    return (
        s[0] * v[0] + s[5] * v[1] + s[4] * v[2],
        s[5] * v[0] + s[1] * v[1] + s[3] * v[2],
        s[4] * v[0] + s[3] * v[1] + s[2] * v[2],
    )


@inlined
def _offset(ray, cloud, middle, i, k):
    """Return turn t, d = t·middle − q and M of a pair, as `pair_tables.pair_geometry`."""
    t = (ray[i, 0], ray[i, 1], ray[i, 2])
    d = (
        t[0] * middle - cloud[k, 0],
        t[1] * middle - cloud[k, 1],
        t[2] * middle - cloud[k, 2],
    )
    M = (cloud[k, 3], cloud[k, 4], cloud[k, 5], cloud[k, 6], cloud[k, 7], cloud[k, 8])
    return t, d, M


@inlined
def _vertex(a2, a1, a0):
    """Return centre and floor of the parabola of a pair, as `pair_tables.Parabola`."""
    centre = -a1 / a2
    return centre, 0.5 * (a0 + a1 * centre)


@inlined
def parabola(t, d, M):
    """Return a₂, centre and floor of the parabola of turn t, d = t·middle − q and M."""
    v = times(M, t)
    a2 = _dot(v, t)
    centre, floor = _vertex(a2, _dot(v, d), _dot(times(M, d), d))
    return a2, centre, floor


@inlined
def _parabola_of_pair(ray, cloud, middle, i, k):
    """Return a₂, centre and floor of the parabola of a pair."""
    t, d, M = _offset(ray, cloud, middle, i, k)
    return parabola(t, d, M)


@inlined
def _moments(x, strength, node, channel, centre, a2):
    """Return Σ strength·exp(−½a₂u²)·uⁿ over a window, u = x − centre, for n = 0, 1, 2."""
    m0 = 0.0
    m1 = 0.0
    m2 = 0.0
    for j in range(channel, channel + WINDOW):
        u = x[j] - centre
        photons = strength[node, j] * exp(-0.5 * a2 * u * u)
        m0 += photons
        m1 += photons * u
        m2 += photons * u * u
    return m0, m1, m2


# ---------------------------------------------------------------- sums


@compiled
def add_photons(tables: LoopTables, pairs: Pairs, total):
    """Add the photons of pairs, and photons times x, to those of their points (point, 2)."""
    for n in range(len(pairs.point)):
        i = pairs.point[n]
        k = pairs.cloud[n]
        a2, centre, floor = _parabola_of_pair(tables.ray, tables.cloud, tables.middle, i, k)
        node = k // tables.n_components
        m0, m1, _ = _moments(tables.x, tables.strength, node, pairs.channel[n], centre, a2)
        height = tables.ray[i, 3] * tables.cloud[k, 9] * exp(-floor)
        total[i, 0] += height * m0
        total[i, 1] += height * (m1 + centre * m0)


@compiled
def photons_of_each(tables: LoopTables, pairs: Pairs):
    """Return the photons (pair,) of every pair."""
    out = np.empty(len(pairs.point))
    for n in range(len(pairs.point)):
        i = pairs.point[n]
        k = pairs.cloud[n]
        a2, centre, floor = _parabola_of_pair(tables.ray, tables.cloud, tables.middle, i, k)
        node = k // tables.n_components
        m0, _, _ = _moments(tables.x, tables.strength, node, pairs.channel[n], centre, a2)
        out[n] = tables.ray[i, 3] * tables.cloud[k, 9] * exp(-floor) * m0
    return out


@compiled
def add_channels(tables: LoopTables, pairs: Pairs, row, total):
    """Add the photons of each channel of pairs to their rows (row, channel + WINDOW)."""
    for n in range(len(pairs.point)):
        i = pairs.point[n]
        k = pairs.cloud[n]
        a2, centre, floor = _parabola_of_pair(tables.ray, tables.cloud, tables.middle, i, k)
        node = k // tables.n_components
        height = tables.ray[i, 3] * tables.cloud[k, 9] * exp(-floor)
        first = pairs.channel[n]
        for j in range(first, first + WINDOW):
            u = tables.x[j] - centre
            photons = height * tables.strength[node, j] * exp(-0.5 * a2 * u * u)
            total[row[n], j] += photons


# ---------------------------------------------------------------- derivatives by the crystal


@inlined
def _by_cloud(tables: LoopTables, i, k, channel):
    """Return the derivatives of the photons of a pair by its cloud: photons, Y and Q.

    d photons = photons · d ln height + Y·dq + ½ tr(Q dΣ). Y = Σ M(p − q) and Q = Σ (M(p − q)(p −
    q)ᵀM − M) are sums over channels weighted by their photons, where M(p − q) = y + u v: y is that
    at the centre of the parabola, v = Mt.
    """
    t, d, M = _offset(tables.ray, tables.cloud, tables.middle, i, k)
    v = times(M, t)
    Md = times(M, d)
    a2 = _dot(v, t)
    centre, floor = _vertex(a2, _dot(v, d), _dot(Md, d))
    node = k // tables.n_components
    m0, m1, m2 = _moments(tables.x, tables.strength, node, channel, centre, a2)
    height = tables.ray[i, 3] * tables.cloud[k, 9] * exp(-floor)
    m0 *= height
    m1 *= height
    m2 *= height

    y = (Md[0] + centre * v[0], Md[1] + centre * v[1], Md[2] + centre * v[2])
    Y = (m0 * y[0] + m1 * v[0], m0 * y[1] + m1 * v[1], m0 * y[2] + m1 * v[2])
    Z = (m1 * y[0] + m2 * v[0], m1 * y[1] + m2 * v[1], m1 * y[2] + m2 * v[2])
    Q = (
        Y[0] * y[0] + Z[0] * v[0] - m0 * M[0],
        Y[1] * y[1] + Z[1] * v[1] - m0 * M[1],
        Y[2] * y[2] + Z[2] * v[2] - m0 * M[2],
        Y[1] * y[2] + Z[1] * v[2] - m0 * M[3],
        Y[0] * y[2] + Z[0] * v[2] - m0 * M[4],
        Y[0] * y[1] + Z[0] * v[1] - m0 * M[5],
    )
    return m0, Y, Q


@compiled
def add_derivatives(tables: LoopTables, changes, pairs: Pairs, row, total):
    """Add what the photons of pairs change by to the rows (row, column) of their points.

    changes: (cloud, 10, column) of ln height, q and Σ, as of `clouds.cloud_changes`; row: (point,).
    """
    n_columns = changes.shape[2]
    for n in range(len(pairs.point)):
        i = pairs.point[n]
        k = pairs.cloud[n]
        m0, Y, Q = _by_cloud(tables, i, k, pairs.channel[n])
        r = row[i]
        for j in range(n_columns):
            total[r, j] += (
                m0 * changes[k, 0, j]
                + Y[0] * changes[k, 1, j]
                + Y[1] * changes[k, 2, j]
                + Y[2] * changes[k, 3, j]
                + Q[0] * changes[k, 4, j]
                + Q[1] * changes[k, 5, j]
                + Q[2] * changes[k, 6, j]
                + Q[3] * changes[k, 7, j]
                + Q[4] * changes[k, 8, j]
                + Q[5] * changes[k, 9, j]
            )


# ---------------------------------------------------------------- pairs that matter


@inlined
def _twice_as_long(rows):
    """Return an array that begins with these rows (n, 3)."""
    out = np.empty((2 * len(rows), 3), dtype=np.int32)
    for n in range(len(rows)):
        for j in range(3):
            out[n, j] = rows[n, j]
    return out


@inlined
def channels_within(centre, left, a2, ticks: Ticks, middle):
    """Return the first channel, and one past the last, where the exponent exceeds that of the
    centre by less than `left` > 0.
    """
    half_width = np.sqrt(2.0 * left / a2)
    from_start = centre + middle - ticks.start
    low = np.floor((from_start - half_width) / ticks.step)
    high = np.ceil((from_start + half_width) / ticks.step)
    last_tick = len(ticks.channel) - 1
    first = ticks.channel[int(min(max(low, 0.0), last_tick))]
    last = ticks.channel[int(min(max(high, 0.0), last_tick))]
    return first, last


@compiled
def matching(ray, cloud, cut, middle, pieces: Pieces, ticks: Ticks):
    """Return the pairs (n, 3) int32 of the points and clouds of pieces that can hold signal, one
    for each window of channels, as the first n rows of an array. cut: (cloud,) largest exponent
    that matters.
    """
    out = np.empty((4096, 3), dtype=np.int32)
    n = 0
    for piece in range(len(pieces.cloud)):
        k = pieces.cloud[piece]
        for j in range(pieces.height[piece]):
            first_point = pieces.corner[piece] + j * pieces.stride[piece]
            for i in range(first_point, first_point + pieces.width[piece]):
                a2, centre, floor = _parabola_of_pair(ray, cloud, middle, i, k)
                left = cut[k] - floor
                if not left > 0.0:
                    continue
                first, last = channels_within(centre, left, a2, ticks, middle)
                for channel in range(first, last, WINDOW):
                    if n == len(out):
                        out = _twice_as_long(out)
                    out[n, 0] = i
                    out[n, 1] = k
                    out[n, 2] = channel
                    n += 1
    return out, n
