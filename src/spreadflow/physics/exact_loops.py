"""Compiled loop over every point × mosaic domain × channel, for brute force.

Between two channels at which the nearest node changes, |F|² is that of one node, and r² a
polynomial of second degree in the energy: there the channels run in vector registers, a few at a
time. Only what adds nothing is left out: channels whose exponentials are all 0 in float64, and
nodes that are not in the list.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.physics.compiling import compiled, inlined
from spreadflow.physics.exponential_loops import LOWEST_EXPONENT, exp
from spreadflow.physics.lattice_factor import GAUSS

CHANNELS = 16
"""Channels that are summed at a time."""


class ExactTables(NamedTuple):
    """Points, domains, channels and nodes of a lattice."""

    ray: np.ndarray
    """(point, 4) as of `pair_tables.rays_by_point`"""
    inverse: np.ndarray
    """(domain, 3, 3) (R A)⁻¹, Å"""
    share: np.ndarray
    """(domain,)"""
    n_cells: np.ndarray
    """(3,)"""
    energies_ev: np.ndarray
    """(channel,) ascending"""
    from_first_ev: np.ndarray
    """(channel + CHANNELS,) energies − the first one; of any value behind the last channel"""
    strength: np.ndarray
    """(node, channel + CHANNELS) photons of the channel times |F|²; of any value behind the last"""
    row: np.ndarray
    """(h, k, l) row of the node in a box of all indices; −1 = not in the list"""
    low: np.ndarray
    """(3,) first indices of the box"""


@inlined
def _last_energy(slope, nearest):
    """Return the energy, eV, at which an index slope·E leaves the nearest integer, > 0."""
    if slope > 0.0:
        return (nearest + 0.5) / slope
    if slope < 0.0:
        return (nearest - 0.5) / slope
    return np.inf


@inlined
def _row_of_node(tables: ExactTables, h, k, l):
    """Return the row of a node, −1 if it is not in the list."""
    i = int(h) - tables.low[0]
    j = int(k) - tables.low[1]
    m = int(l) - tables.low[2]
    n_h, n_k, n_l = tables.row.shape
    is_outside = i < 0 or j < 0 or m < 0 or i >= n_h or j >= n_k or m >= n_l
    return -1 if is_outside else tables.row[i, j, m]


@inlined
def _of_domain(tables: ExactTables, u, v, w):
    """Return Σ strength·exp(−2r²/0.63) over the channels, where h = (u, v, w)·E."""
    energies = tables.energies_ev
    n_a, n_b, n_c = tables.n_cells
    a1 = n_a * u
    b1 = n_b * v
    c1 = n_c * w
    x = tables.from_first_ev
    total = 0.0
    first = 0
    while first < len(energies):
        h = np.ceil(u * energies[first] - 0.5)
        k = np.ceil(v * energies[first] - 0.5)
        l = np.ceil(w * energies[first] - 0.5)
        last = min(_last_energy(u, h), _last_energy(v, k), _last_energy(w, l))
        end = max(np.searchsorted(energies, last, "right"), first + 1)
        row = _row_of_node(tables, h, k, l)
        if row >= 0:
            # N(h − h0) = a₀ + a₁x and so on, r² the sum of their squares
            a0 = n_a * (u * energies[0] - h)
            b0 = n_b * (v * energies[0] - k)
            c0 = n_c * (w * energies[0] - l)
            y0 = -2.0 / GAUSS * (a0 * a0 + b0 * b0 + c0 * c0)
            y1 = -4.0 / GAUSS * (a0 * a1 + b0 * b1 + c0 * c1)
            y2 = -2.0 / GAUSS * (a1 * a1 + b1 * b1 + c1 * c1)
            top = -0.5 * y1 / y2
            for start in range(first, end, CHANNELS):
                low = x[start]
                high = x[min(start + CHANNELS, end) - 1]
                y = max(y0 + (y1 + y2 * low) * low, y0 + (y1 + y2 * high) * high)
                if y < LOWEST_EXPONENT and (top < low or top > high):
                    continue
                for j in range(start, start + CHANNELS):
                    strength = tables.strength[row, j] if j < end else 0.0
                    y = min(y0 + (y1 + y2 * x[j]) * x[j], 0.0)
                    total += strength * exp(y)
        first = end
    return total


@compiled
def photons(tables: ExactTables):
    """Return Σ share·strength·exp(−2r²/0.63) (point,) over domains and channels, times the
    efficiency of the point; r² = Σ N²(h − h0)².
    """
    out = np.zeros(len(tables.ray))
    for i in range(len(tables.ray)):
        x, y, z, efficiency = tables.ray[i]
        total = 0.0
        for m in range(len(tables.inverse)):
            of_domain = tables.inverse[m]
            u = of_domain[0, 0] * x + of_domain[0, 1] * y + of_domain[0, 2] * z
            v = of_domain[1, 0] * x + of_domain[1, 1] * y + of_domain[1, 2] * z
            w = of_domain[2, 0] * x + of_domain[2, 1] * y + of_domain[2, 2] * z
            total += tables.share[m] * _of_domain(tables, u, v, w)
        out[i] = efficiency * total
    return out
