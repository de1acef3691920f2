"""Compiled loops over the clouds of nodes: the rays that a pulse diffracts from each, and how these
follow the node, the mosaic spread and the size of the domains (`prediction`).

A node lies at (x, y) in its scattering plane, Å⁻¹: x along the beam, y across it. A loop takes one
node after the other, of it each quadrature point of the rotation of domains, and then all channels
of the pulse, in vector registers. Exponentials are NumPy's, of all points at once, which are
vectorized where Numba's are not.
"""

import math
from typing import NamedTuple

import numpy as np

from spreadflow.physics.compiling import compiled, inlined

NEGLIGIBLE = 200.0
"""Logarithm of how much less dense than the densest a point of a cloud is that does not count."""

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


def densities(x, y, eta, sigma_q, pulse):
    """Return f_E w pdf_n √(2π σ_n²) (node, quadrature point, channel) of clouds, divided by e^t,
    and t (node,), the largest exponent of each node. Dividing keeps nodes far from the sphere from
    vanishing.
    """
    out, top = _exponents(x, y, eta, sigma_q, pulse)
    np.exp(out, out=out)
    out *= pulse.weights[:, None] * pulse.fraction
    return out, top


@compiled
def _exponents(x, y, eta, sigma_q, pulse):
    """Return the exponents −ε²/2σ_n² (node, quadrature point, channel) of the densities of clouds
    less the highest of the node, and that, (node,).
    """
    k = pulse.k
    n_channels = len(k)
    out = np.empty((len(x), len(pulse.nodes), n_channels))
    top = np.empty(len(x))
    for i in range(len(x)):
        at_x = x[i]
        at_y = y[i]
        g2 = at_x**2 + at_y**2
        highest = -np.inf
        for point in range(len(pulse.nodes)):
            tilt = (eta * pulse.nodes[point]) ** 2
            row = out[i, point]
            for channel in range(n_channels):
                along = k[channel] + at_x
                length = math.sqrt(along**2 + at_y**2)
                of_q = (along * at_x + at_y**2) / length
                excess = length - k[channel]
                row[channel] = -0.5 * excess**2 / (sigma_q**2 + tilt * (g2 - of_q**2))
            for channel in range(n_channels):
                highest = max(highest, row[channel])
        for point in range(len(pulse.nodes)):
            row = out[i, point]
            for channel in range(n_channels):
                row[channel] = max(row[channel] - highest, -NEGLIGIBLE)
        top[i] = highest
    return out, top


def clouds(x, y, eta, sigma_q, pulse):
    """Return `Clouds` of nodes at x, y (node,). eta: rad; sigma_q: Å⁻¹.

    Where a sphere cuts a cloud, rays go to the mean of the cloud on the sphere, δq = −Σ n ε/σ_n²
    from the node.
    """
    density, top = densities(x, y, eta, sigma_q, pulse)
    return _clouds(x, y, eta, sigma_q, pulse, density, top)


@compiled
def _clouds(x, y, eta, sigma_q, pulse, density, top):
    """Return `Clouds` from `densities`. Second moments are summed about the ray of the middle
    channel to the node itself.
    """
    out = np.empty((6, len(x)))
    middle = pulse.k[len(pulse.k) // 2]
    sums = np.empty(9)
    for i in range(len(x)):
        about_x = 1.0 + x[i] / middle
        about_y = y[i] / middle
        sums[:] = 0.0
        for point in range(len(pulse.nodes)):
            tilt = (eta * pulse.nodes[point]) ** 2
            _add_moments(
                x[i], y[i], about_x, about_y, tilt, sigma_q**2, pulse, density[i, point], sums
            )
        total = sums[0]
        mean_x = sums[1] / total
        mean_y = sums[2] / total
        along = about_x + mean_x
        across = about_y + mean_y
        of_x = sums[3] / total - mean_x**2
        of_both = sums[4] / total - mean_x * mean_y
        of_y = sums[5] / total - mean_y**2
        between = along**2 * of_y - 2.0 * along * across * of_both + across**2 * of_x
        out[0, i] = along
        out[1, i] = across
        out[2, i] = sums[6] / total
        out[3, i] = math.log(total / math.sqrt(2.0 * math.pi)) + top[i]
        out[4, i] = max(between, 0.0) + sums[7] / total
        out[5, i] = sums[8] / total
    return Clouds(out[0], out[1], out[2], out[3], out[4], out[5])


@inlined
def _add_moments(x, y, about_x, about_y, tilt, size, pulse, density, sums):
    """Add to sums (9,) what the channels bring at a quadrature point: weight; first and second
    moments of the ray about (about_x, about_y); energy; variances within the cuts, in the plane and
    across it.
    """
    ks = pulse.k
    energies = pulse.energy_ev
    s, sx, sy, sxx, sxy, syy, of_energy, in_plane, transverse = (0.0,) * 9
    g2 = x**2 + y**2
    for channel in range(len(ks)):
        k = ks[channel]
        length = math.sqrt((k + x) ** 2 + y**2)
        nx = (k + x) / length
        ny = y / length
        of_q = nx * x + ny * y
        inverse = 1.0 / (size + tilt * (g2 - of_q**2))
        weight = density[channel] * math.sqrt(inverse)
        step = (k - length) * inverse
        ray_x = (k + x + step * (size * nx + tilt * (g2 * nx - x * of_q))) / k - about_x
        ray_y = (y + step * (size * ny + tilt * (g2 * ny - y * of_q))) / k - about_y
        across_plane = weight * (tilt * g2 + size) / k**2
        s += weight
        sx += weight * ray_x
        sy += weight * ray_y
        sxx += weight * ray_x**2
        sxy += weight * ray_x * ray_y
        syy += weight * ray_y**2
        of_energy += weight * energies[channel]
        in_plane += across_plane * size * inverse
        transverse += across_plane
    for number, value in enumerate((s, sx, sy, sxx, sxy, syy, of_energy, in_plane, transverse)):
        sums[number] += value


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


def slopes(x, y, eta, sigma_q, pulse):
    """Return `Slopes` of nodes at x, y (node,). eta: rad; sigma_q: Å⁻¹.

    With w the density of a point and r its ray, the derivatives of the mean ray Σ w r/Σ w are
    Σ w (r' + (r − r̄) (ln w)')/Σ w.
    """
    density, _ = densities(x, y, eta, sigma_q, pulse)
    sums = _slope_sums(x, y, eta, sigma_q, pulse, density)
    mean = sums / sums[:, :1, :1]
    by_log = mean[:, 0, 1:]
    along, across = mean[:, 1, 0], mean[:, 2, 0]
    along_by = mean[:, 1, 1:] - along[:, None] * by_log
    across_by = mean[:, 2, 1:] - across[:, None] * by_log
    return Slopes(along, across, along_by, across_by, by_log)


@compiled
def _slope_sums(x, y, eta, sigma_q, pulse, density):
    """Return sums (node, 3, 1 + 4) over the points of clouds: rows w, w·r along and across the
    beam; columns themselves and their derivatives by the unknowns.
    """
    sums = np.zeros((len(x), 3, 1 + N_UNKNOWNS))
    levers = np.empty((15, len(pulse.k)))
    for i in range(len(x)):
        _fill_levers(x[i], y[i], pulse.k, levers)
        for point in range(len(pulse.nodes)):
            tilt = (eta * pulse.nodes[point]) ** 2
            _add_slopes(x[i], y[i], tilt, sigma_q**2, pulse.k, density[i, point], levers, sums[i])
    return sums


@inlined
def _fill_levers(x, y, ks, out):
    """Fill out (15, channel) with what spheres of radius k are to a node: ε; the normal, two rows,
    and its derivatives by x and y, three; the lever of rotations, |q|² less the square along the
    normal, and half of its derivatives; each component of |q|² n − q (q·n), and its derivatives.
    """
    g2 = x**2 + y**2
    for channel in range(len(ks)):
        k = ks[channel]
        length = math.sqrt((k + x) ** 2 + y**2)
        nx, ny = (k + x) / length, y / length
        nx_x, nx_y, ny_y = ny**2 / length, -nx * ny / length, nx**2 / length
        of_q = nx * x + ny * y
        of_q_x = nx + x * nx_x + y * nx_y
        of_q_y = ny + x * nx_y + y * ny_y
        out[0, channel] = length - k
        out[1, channel] = nx
        out[2, channel] = ny
        out[3, channel] = nx_x
        out[4, channel] = nx_y
        out[5, channel] = ny_y
        out[6, channel] = g2 - of_q**2
        out[7, channel] = x - of_q * of_q_x
        out[8, channel] = y - of_q * of_q_y
        out[9, channel] = g2 * nx - x * of_q
        out[10, channel] = 2.0 * x * nx + g2 * nx_x - of_q - x * of_q_x
        out[11, channel] = 2.0 * y * nx + g2 * nx_y - x * of_q_y
        out[12, channel] = g2 * ny - y * of_q
        out[13, channel] = 2.0 * x * ny + g2 * nx_y - y * of_q_x
        out[14, channel] = 2.0 * y * ny + g2 * ny_y - of_q - y * of_q_y


@inlined
def _add_slopes(x, y, tilt, size, ks, density, levers, sums):
    """Add to sums (3, 1 + 4), as from `_slope_sums`, what the channels bring at a quadrature point.
    Derivatives by ln η and ln σ_q are those by the parts of the variance.
    """
    excesses, nxs, nys, nxs_x, nxs_y, nys_y = (
        levers[0],
        levers[1],
        levers[2],
        levers[3],
        levers[4],
        levers[5],
    )
    turns, turns_x, turns_y = levers[6], levers[7], levers[8]
    to_xs, to_xs_x, to_xs_y = levers[9], levers[10], levers[11]
    to_ys, to_ys_x, to_ys_y = levers[12], levers[13], levers[14]
    s, s_x, s_y, s_eta, s_size = 0.0, 0.0, 0.0, 0.0, 0.0
    a, a_x, a_y, a_eta, a_size = 0.0, 0.0, 0.0, 0.0, 0.0
    b, b_x, b_y, b_eta, b_size = 0.0, 0.0, 0.0, 0.0, 0.0
    for c in range(len(ks)):
        k, excess, nx, ny = ks[c], excesses[c], nxs[c], nys[c]
        inverse = 1.0 / (size + tilt * turns[c])
        step = -excess * inverse
        twice = 2.0 * step
        steep = excess**2 * inverse - 1.0

        # half of the derivatives of ln σ_n²; those of ln w and of the step from the node
        by_x = tilt * turns_x[c] * inverse
        by_y = tilt * turns_y[c] * inverse
        by_eta = tilt * turns[c] * inverse
        by_size = size * inverse
        log_x = step * nx + steep * by_x
        log_y = step * ny + steep * by_y
        log_eta = steep * by_eta
        log_size = steep * by_size
        step_x = -nx * inverse - twice * by_x
        step_y = -ny * inverse - twice * by_y
        w = density[c] * math.sqrt(inverse)
        s += w
        s_x += w * log_x
        s_y += w * log_y
        s_eta += w * log_eta
        s_size += w * log_size

        f = w / k
        moved = size * nx + tilt * to_xs[c]
        ray = k + x + step * moved
        by = 1.0 + step_x * moved + step * (size * nxs_x[c] + tilt * to_xs_x[c])
        a += f * ray
        a_x += f * (by + ray * log_x)
        a_y += f * (step_y * moved + step * (size * nxs_y[c] + tilt * to_xs_y[c]) + ray * log_y)
        a_eta += f * (twice * (tilt * to_xs[c] - by_eta * moved) + ray * log_eta)
        a_size += f * (twice * (size * nx - by_size * moved) + ray * log_size)

        moved = size * ny + tilt * to_ys[c]
        ray = y + step * moved
        by = 1.0 + step_y * moved + step * (size * nys_y[c] + tilt * to_ys_y[c])
        b += f * ray
        b_x += f * (step_x * moved + step * (size * nxs_y[c] + tilt * to_ys_x[c]) + ray * log_x)
        b_y += f * (by + ray * log_y)
        b_eta += f * (twice * (tilt * to_ys[c] - by_eta * moved) + ray * log_eta)
        b_size += f * (twice * (size * ny - by_size * moved) + ray * log_size)
    of_density, of_along, of_across = sums[0], sums[1], sums[2]
    for j, value in enumerate((s, s_x, s_y, s_eta, s_size)):
        of_density[j] += value
    for j, value in enumerate((a, a_x, a_y, a_eta, a_size)):
        of_along[j] += value
    for j, value in enumerate((b, b_x, b_y, b_eta, b_size)):
        of_across[j] += value


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


@inlined
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


@compiled
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
