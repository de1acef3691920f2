"""Rays of nodes by JAX, the reference of the compiled loops: one expression over all nodes,
quadrature points and channels, and its derivatives by JAX.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.analysis.still.prediction import NODES, WEIGHTS
from spreadflow.models import Array
from spreadflow.units import HC_EV_ANGSTROM


class Spot(NamedTuple):
    """The rays of a node in its scattering plane, each (n,)."""

    along: Array
    """component of the mean ray along the beam, not normalized"""
    across: Array
    """component of the mean ray across the beam"""
    energy_ev: Array
    """mean over the diffracted photons"""
    log_density: Array
    """ln Σ_E f_E pdf_n, ln Å"""
    variance_radial: Array
    """of the rays' angle in the plane, rad²"""
    variance_transverse: Array
    """of the rays' angle across the plane, rad²"""


def spot(x, y, eta, sigma_q, energies, photons) -> Spot:
    """Return the rays of nodes at (x, y) (n,), as sums over channels and quadrature points.

    Intermediate arrays are (n, quadrature point, channel): long rows vectorize.
    """
    x = x[:, None, None]
    y = y[:, None, None]
    fraction = (photons / photons.sum()) * WEIGHTS[:, None]

    k = energies / HC_EV_ANGSTROM
    tilt = (eta * NODES[:, None]) ** 2
    g2 = x**2 + y**2
    cut = _cut(x, y, k, tilt, sigma_q)
    density, top = _density(fraction, cut.excess, cut.variance)
    total = density.sum(axis=(1, 2))

    def mean(value):
        return (density * value).sum(axis=(1, 2)) / total

    ray_x, ray_y = _rays_of_cut(x, y, k, tilt, sigma_q, cut)
    mean_x = mean(ray_x)
    mean_y = mean(ray_y)

    # between the cuts, in the plane; and within each cut, in the plane and across it
    between = (mean_x[:, None, None] * ray_y - mean_y[:, None, None] * ray_x) ** 2
    across_plane = tilt * g2 + sigma_q**2
    within = sigma_q**2 * across_plane / cut.variance / k**2
    return Spot(
        along=mean_x,
        across=mean_y,
        energy_ev=mean(energies),
        log_density=jnp.log(total) + top[:, 0, 0],
        variance_radial=mean(between + within),
        variance_transverse=mean(across_plane / k**2),
    )


class _Cut(NamedTuple):
    """The cuts of Ewald spheres with the clouds of nodes; each field broadcasts to (n, quadrature
    point, channel).
    """

    normal_x: Array
    """normal of the sphere at the node, along the beam"""
    normal_y: Array
    """and across it"""
    excess: Array
    """ε, distance of the node from the sphere, > 0 outside, Å⁻¹"""
    along_normal: Array
    """component of q, Å⁻¹"""
    variance: Array
    """of the cloud along the normal, Å⁻²"""


def _cut(x, y, k, tilt, sigma_q) -> _Cut:
    """Return the cuts of spheres of radius k (channel,) with nodes at (x, y), each (n, 1, 1).

    tilt: (quadrature point, 1) variance of the domains' rotation about an axis, rad².
    """
    length = jnp.sqrt((k + x) ** 2 + y**2)
    normal_x = (k + x) / length
    normal_y = y / length
    along_normal = normal_x * x + normal_y * y
    g2 = x**2 + y**2
    return _Cut(
        normal_x=normal_x,
        normal_y=normal_y,
        excess=length - k,
        along_normal=along_normal,
        variance=sigma_q**2 + tilt * (g2 - along_normal**2),
    )


def _rays_of_cut(x, y, k, tilt, sigma_q, cut: _Cut) -> tuple[Array, Array]:
    """Return the rays to the mean of the cloud where the sphere cuts it, δq = −Σ n ε/σ_n² from the
    node, in units of k: along the beam and across it. Arguments are those of `_cut`.
    """
    g2 = x**2 + y**2
    step = -cut.excess / cut.variance
    turned_x = tilt * (g2 * cut.normal_x - x * cut.along_normal)
    turned_y = tilt * (g2 * cut.normal_y - y * cut.along_normal)
    shift_x = step * (sigma_q**2 * cut.normal_x + turned_x)
    shift_y = step * (sigma_q**2 * cut.normal_y + turned_y)
    return (k + x + shift_x) / k, (y + shift_y) / k


def _density(fraction, excess, variance):
    """Return f_E w pdf_n(ε), divided by e^t, and t, the largest exponent of each node (n, 1, 1).

    fraction: (quadrature point, channel) of the photons, times the weight; excess: ε; variance: of
    the cloud along the normal. Dividing keeps nodes far from the sphere from vanishing.
    """
    exponent = -0.5 * excess**2 / variance
    with_photons = jnp.where(fraction > 0, exponent, -jnp.inf)
    largest = with_photons.max(axis=(1, 2), keepdims=True)
    top = jax.lax.stop_gradient(largest)

    relative = jnp.maximum(exponent - top, -200.0)
    gaussian = jnp.exp(relative)
    norm = jnp.sqrt(2 * jnp.pi * variance)
    return fraction * gaussian / norm, top
