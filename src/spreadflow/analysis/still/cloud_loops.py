"""Compiled loops over the clouds of nodes: the rays that a pulse diffracts from each, and how these
follow the node, the mosaic spread and the size of the domains (`prediction`).

A node lies at (x, y) in its scattering plane, Å⁻¹: x along the beam, y across it. A loop takes one
node after the other, and of it each channel of the pulse with each quadrature point of the rotation
of domains. Points whose density is below e^−`NEGLIGIBLE` of the node's highest are left out.
"""

import spreadflow.physics.compiling  # noqa: F401  (before Numba)  # isort: skip

import math
from typing import NamedTuple

import numba
import numpy as np

_compiled = numba.njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
"""Compiles a function. Infinities and NaN stay what they are."""

NEGLIGIBLE = 60.0
"""Logarithm of how much less dense than the densest a point of a cloud is that does not count:
below rounding, whatever its photons.
"""

N_UNKNOWNS = 4
"""Of a cloud: x, y, ln η and ln σ_q."""

COARSEST_COSINE = 0.1
"""Least cosine that says how deep a node is in rotation from the sphere."""


class Pulse(NamedTuple):
    """The live channels of a pulse, and the quadrature of the rotation of domains."""

    k: np.ndarray
    """(channel,) 1/λ, Å⁻¹"""
    energy_ev: np.ndarray
    """(channel,)"""
    fraction: np.ndarray
    """(channel,) of the photons"""
    nodes: np.ndarray
    """(quadrature point,) w, rotations over η"""
    weights: np.ndarray
    """(quadrature point,) that sum to 1"""


class Clouds(NamedTuple):
    """The rays of nodes, each (node,); along and across as means of the rays in units of k, not
    normalized.
    """

    along: np.ndarray
    """component of the mean ray along the beam"""
    across: np.ndarray
    """component of the mean ray across the beam"""
    energy_ev: np.ndarray
    """mean over the diffracted photons"""
    log_density: np.ndarray
    """ln Σ_E f_E pdf_n, ln Å"""
    variance_radial: np.ndarray
    """of the rays' angle in the plane, rad²"""
    variance_transverse: np.ndarray
    """of the rays' angle across the plane, rad²"""


@_compiled
def _sphere(x, y, k):
    """Return what the Ewald sphere of radius k is to a node: its normal there, along the beam and
    across it; ε, the distance of the node from it; and q along the normal, Å⁻¹.
    """
    length = math.sqrt((k + x) ** 2 + y**2)
    normal_x = (k + x) / length
    normal_y = y / length
    return normal_x, normal_y, length - k, normal_x * x + normal_y * y


@_compiled
def _fill_exponents(x, y, tilts, size, pulse, exponents):
    """Fill the exponents −ε²/2σ_n² (channel, quadrature point) of the densities of a cloud, and
    return the highest. tilts: (quadrature point,) rad²; size: σ_q², Å⁻².
    """
    top = -np.inf
    g2 = x**2 + y**2
    for channel in range(len(pulse.k)):
        _, _, excess, along = _sphere(x, y, pulse.k[channel])
        half = -0.5 * excess**2
        lever = g2 - along**2
        for point in range(len(tilts)):
            exponent = half / (size + tilts[point] * lever)
            exponents[channel, point] = exponent
            top = max(top, exponent)
    return top


@_compiled
def clouds(x, y, eta, sigma_q, pulse):
    """Return `Clouds` of nodes at x, y (node,). eta: rad; sigma_q: Å⁻¹.

    Where a sphere cuts a cloud, rays go to the mean of the cloud on the sphere, δq = −Σ n ε/σ_n²
    from the node. Second moments are summed about the first ray that counts.
    """
    out = np.empty((6, len(x)))
    tilts = (eta * pulse.nodes) ** 2
    size = sigma_q**2
    exponents = np.empty((len(pulse.k), len(tilts)))
    for i in range(len(x)):
        g2 = x[i] ** 2 + y[i] ** 2
        top = _fill_exponents(x[i], y[i], tilts, size, pulse, exponents)
        total, sum_x, sum_y, sum_xx, sum_xy, sum_yy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        energy, within, transverse, first_x, first_y = 0.0, 0.0, 0.0, 0.0, 0.0
        for channel in range(len(pulse.k)):
            k = pulse.k[channel]
            normal_x, normal_y, excess, of_q = _sphere(x[i], y[i], k)
            lever_x = g2 * normal_x - x[i] * of_q
            lever_y = g2 * normal_y - y[i] * of_q
            for point in range(len(tilts)):
                relative = exponents[channel, point] - top
                if relative < -NEGLIGIBLE:
                    continue
                tilt = tilts[point]
                variance = size + tilt * (g2 - of_q**2)
                weight = pulse.fraction[channel] * pulse.weights[point] * math.exp(relative)
                weight /= math.sqrt(2.0 * math.pi * variance)
                step = -excess / variance
                ray_x = (k + x[i] + step * (size * normal_x + tilt * lever_x)) / k
                ray_y = (y[i] + step * (size * normal_y + tilt * lever_y)) / k
                if total == 0.0:
                    first_x = ray_x
                    first_y = ray_y
                from_x = ray_x - first_x
                from_y = ray_y - first_y
                total += weight
                sum_x += weight * from_x
                sum_y += weight * from_y
                sum_xx += weight * from_x**2
                sum_xy += weight * from_x * from_y
                sum_yy += weight * from_y**2
                energy += weight * pulse.energy_ev[channel]
                across_plane = weight * (tilt * g2 + size) / k**2
                transverse += across_plane
                within += across_plane * size / variance
        mean_x = sum_x / total
        mean_y = sum_y / total
        along = first_x + mean_x
        across = first_y + mean_y
        of_x = sum_xx / total - mean_x**2
        of_both = sum_xy / total - mean_x * mean_y
        of_y = sum_yy / total - mean_y**2
        between = along**2 * of_y - 2.0 * along * across * of_both + across**2 * of_x
        out[0, i] = along
        out[1, i] = across
        out[2, i] = energy / total
        out[3, i] = math.log(total) + top
        out[4, i] = max(between, 0.0) + within / total
        out[5, i] = transverse / total
    return Clouds(out[0], out[1], out[2], out[3], out[4], out[5])


class Slopes(NamedTuple):
    """The mean rays of nodes and the densities of these, with their derivatives by x, y, ln η and
    ln σ_q.
    """

    along: np.ndarray
    """(node,) as in `Clouds`"""
    across: np.ndarray
    """(node,)"""
    along_by: np.ndarray
    """(node, 4)"""
    across_by: np.ndarray
    """(node, 4)"""
    log_density_by: np.ndarray
    """(node, 4)"""


@_compiled
def slopes(x, y, eta, sigma_q, pulse):
    """Return `Slopes` of nodes at x, y (node,). eta: rad; sigma_q: Å⁻¹.

    With w the density of a point and r its ray, the derivatives of the mean ray Σ w r/Σ w are
    Σ w (r' + (r − r̄) (ln w)')/Σ w.
    """
    n = len(x)
    along, across = np.empty(n), np.empty(n)
    along_by, across_by, log_by = np.empty((n, 4)), np.empty((n, 4)), np.empty((n, 4))
    tilts = (eta * pulse.nodes) ** 2
    size = sigma_q**2
    exponents = np.empty((len(pulse.k), len(tilts)))
    sums = np.empty((3, 1 + N_UNKNOWNS))
    for i in range(n):
        top = _fill_exponents(x[i], y[i], tilts, size, pulse, exponents)
        sums[:] = 0.0
        for channel in range(len(pulse.k)):
            _add_channel(x[i], y[i], tilts, size, pulse, channel, exponents, top, sums)
        total = sums[0, 0]
        along[i] = sums[1, 0] / total
        across[i] = sums[2, 0] / total
        for by in range(N_UNKNOWNS):
            log_by[i, by] = sums[0, 1 + by] / total
            along_by[i, by] = sums[1, 1 + by] / total - along[i] * log_by[i, by]
            across_by[i, by] = sums[2, 1 + by] / total - across[i] * log_by[i, by]
    return Slopes(along, across, along_by, across_by, log_by)


@_compiled
def _levers(x, y, k):
    """Return what a sphere of radius k is to a node: ε; the normal and its three derivatives; half
    of the lever of rotations, |q|² less the square along the normal, and its derivatives by x and
    y; the components of the lever, |q|² n − q (q·n), and their derivatives by x and y.
    """
    nx, ny, excess, of_q = _sphere(x, y, k)
    length = k + excess
    nx_x, nx_y, ny_y = ny**2 / length, -nx * ny / length, nx**2 / length
    of_q_x = nx + x * nx_x + y * nx_y
    of_q_y = ny + x * nx_y + y * ny_y
    g2 = x**2 + y**2
    half = (0.5 * (g2 - of_q**2), x - of_q * of_q_x, y - of_q * of_q_y)
    to_x = (
        g2 * nx - x * of_q,
        2.0 * x * nx + g2 * nx_x - of_q - x * of_q_x,
        2.0 * y * nx + g2 * nx_y - x * of_q_y,
    )
    to_y = (
        g2 * ny - y * of_q,
        2.0 * x * ny + g2 * nx_y - y * of_q_x,
        2.0 * y * ny + g2 * ny_y - of_q - y * of_q_y,
    )
    return excess, (nx, ny, nx_x, nx_y, ny_y), half, to_x, to_y


@_compiled
def _add_channel(x, y, tilts, size, pulse, channel, exponents, top, sums):
    """Add to sums (3, 1 + 4) what a channel brings: rows w, w·r along and across the beam; columns
    themselves and their derivatives by the unknowns.
    """
    k = pulse.k[channel]
    excess, (nx, ny, nx_x, nx_y, ny_y), half, to_x, to_y = _levers(x, y, k)
    for point in range(len(tilts)):
        relative = exponents[channel, point] - top
        if relative < -NEGLIGIBLE:
            continue
        tilt = tilts[point]
        inverse = 1.0 / (size + 2.0 * tilt * half[0])
        weight = pulse.fraction[channel] * pulse.weights[point] * math.exp(relative)
        weight *= math.sqrt(inverse / (2.0 * math.pi))

        # half of the derivatives of ln σ_n²; those of ln w and of the ray follow
        by_x = tilt * half[1] * inverse
        by_y = tilt * half[2] * inverse
        by_eta = 2.0 * tilt * half[0] * inverse
        by_size = size * inverse
        step = -excess * inverse
        steep = excess**2 * inverse - 1.0
        log_by = step * nx + steep * by_x, step * ny + steep * by_y, steep * by_eta, steep * by_size

        twice = 2.0 * step
        moved = size * nx + tilt * to_x[0]
        step_x = -nx * inverse - twice * by_x
        step_y = -ny * inverse - twice * by_y
        along_by = (
            1.0 + step_x * moved + step * (size * nx_x + tilt * to_x[1]),
            step_y * moved + step * (size * nx_y + tilt * to_x[2]),
            twice * (tilt * to_x[0] - by_eta * moved),
            twice * (size * nx - by_size * moved),
        )
        along = k + x + step * moved
        moved = size * ny + tilt * to_y[0]
        across_by = (
            step_x * moved + step * (size * nx_y + tilt * to_y[1]),
            1.0 + step_y * moved + step * (size * ny_y + tilt * to_y[2]),
            twice * (tilt * to_y[0] - by_eta * moved),
            twice * (size * ny - by_size * moved),
        )
        across = y + step * moved
        sums[0, 0] += weight
        sums[1, 0] += weight * along / k
        sums[2, 0] += weight * across / k
        for by in range(N_UNKNOWNS):
            sums[0, 1 + by] += weight * log_by[by]
            sums[1, 1 + by] += weight * (along_by[by] + along * log_by[by]) / k
            sums[2, 1 + by] += weight * (across_by[by] + across * log_by[by]) / k


class Reach(NamedTuple):
    """How far from the Ewald spheres of a pulse nodes are still reached."""

    half_shortest: float
    """half of the shortest wavelength, Å"""
    half_longest: float
    """half of the longest wavelength, Å"""
    eta: float
    """mosaic spread, rad"""
    sigma_q: float
    """standard deviation of a node by size, Å⁻¹"""
    n_sigma: float
    """standard deviations of a node within which a sphere must come"""
    longest_q: float
    """largest |q|, Å⁻¹"""


@_compiled
def _is_reached(g, along, reach):
    """Return whether the cloud of a node comes within reach of the spheres: g, its distance from
    the origin, and `along`, its component against the beam, Å⁻¹.
    """
    lowest = math.asin(min(g * reach.half_shortest, 1.0))
    highest = math.asin(min(g * reach.half_longest, 1.0))
    depth = g * max(math.cos(highest), COARSEST_COSINE)
    width = reach.n_sigma * math.hypot(reach.eta, reach.sigma_q / depth)
    angle = math.asin(max(-1.0, min(along / g, 1.0)))
    return lowest - width < angle < highest + width


@_compiled
def reached(A, limits, reach):
    """Return the Miller indices (n, 3) int32, ordered, of the nodes whose clouds come within reach
    of the spheres of a pulse. limits: (3,) largest |h|, |k| and |l|.

    Most nodes are far from all spheres, which q_z alone tells: sin(a + b) ≤ sin a + b, b > 0.
    """
    out = np.empty((1024, 3), np.int32)
    n = 0
    largest = reach.longest_q**2
    margin = reach.n_sigma * (reach.eta * reach.longest_q + reach.sigma_q / COARSEST_COSINE)
    for h in range(-limits[0], limits[0] + 1):
        for k in range(-limits[1], limits[1] + 1):
            row_x = A[0, 0] * h + A[0, 1] * k
            row_y = A[1, 0] * h + A[1, 1] * k
            row_z = A[2, 0] * h + A[2, 1] * k
            for l in range(-limits[2], limits[2] + 1):
                along = row_z + A[2, 2] * l
                g2 = (row_x + A[0, 2] * l) ** 2 + (row_y + A[1, 2] * l) ** 2 + along**2
                if g2 > largest or g2 == 0.0:
                    continue
                low = g2 * reach.half_shortest
                if along > g2 * reach.half_longest + margin:
                    continue
                if along < low - margin and low * reach.half_shortest < 1.0:
                    continue
                if not _is_reached(math.sqrt(g2), along, reach):
                    continue
                if n == len(out):
                    out = np.concatenate((out, np.empty_like(out)))
                out[n, 0] = h
                out[n, 1] = k
                out[n, 2] = l
                n += 1
    return out[:n]
