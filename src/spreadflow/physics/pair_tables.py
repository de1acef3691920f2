"""Pairs of a point on the detector and a cloud in reciprocal space, and the tables that they are
looked up in: rays to the points, clouds of the nodes, channels of the pulse.

For one pair the exponent ½(p − q)ᵀM(p − q) of the cloud at p = (ŝ − ŝ0)·E/hc is a parabola in the
energy, ½(a₂x² + 2a₁x + a₀) with x = E − middle: three numbers, in float64.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Array, Detector, Parameters, Pixels
from spreadflow.physics import geometry
from spreadflow.physics.clouds import Clouds, clouds, dot, symmetric, times
from spreadflow.physics.parallax import deepened
from spreadflow.physics.response import depth, efficiency
from spreadflow.units import HC_EV_ANGSTROM, R_E_SQUARED_M2

WINDOW = 32
"""Channels summed at a time, from the first that matters on."""


RAYS = 1 << 14
"""Rays computed at a time."""


class Pairs(NamedTuple):
    """Which cloud may put photons of which channels on which point. All int32 of shape (pair,).

    A pair stands for `WINDOW` channels; where more matter there are more pairs. To fill up to a
    static shape: a channel equal to the number of channels, beyond which nothing shines.
    """

    point: Array
    """row of the points"""
    cloud: Array
    """row of the node · number of components + component"""
    channel: Array
    """the first channel"""


class Rays(NamedTuple):
    """Rays from the sample to points. Arrays of shape (point,)."""

    turn: tuple[Array, ...]
    """(ŝ − ŝ0)/hc, so that p = turn·E, Å⁻¹/eV"""
    efficiency: Array
    """solid angle × captured fraction × polarization"""


class Channels(NamedTuple):
    """The spectrum times |F|², with empty channels behind the last so that a window never reaches
    beyond the end.
    """

    middle: Array
    """() eV; x = E − middle"""
    x: Array
    """(channel + WINDOW,) eV"""
    strength: Array
    """(node · (channel + WINDOW),) photons per unit of the cloud"""


class Tables(NamedTuple):
    """What pairs are looked up in."""

    ray: Rays
    """of the points"""
    cloud: Clouds
    """of the nodes and components of the mosaicity"""
    channels: Channels
    """of the pulse"""


class Parabola(NamedTuple):
    """The exponent ½(a₂x² + 2a₁x + a₀) of pairs, x = E − middle in eV. Arrays of shape (pair,)."""

    a2: Array
    """tᵀMt, eV⁻²"""
    a1: Array
    """tᵀMd, eV⁻¹"""
    a0: Array
    """dᵀMd"""

    @property
    def centre(self) -> Array:
        """x of the least exponent, eV."""
        return -self.a1 / self.a2

    @property
    def floor(self) -> Array:
        """The least exponent."""
        return 0.5 * (self.a0 + self.a1 * self.centre)


def rays(detector: Detector, polarization: Array, pixels: Pixels) -> Rays:
    """Return the rays from the sample that are recorded at points of the detector."""

    def by_point(vectors: Array) -> list[Array]:
        return [vectors[:, j][pixels.panel] for j in range(3)]

    origin = by_point(jnp.asarray(detector.origin_mm))
    fast_axis = by_point(jnp.asarray(detector.fast))
    slow_axis = by_point(jnp.asarray(detector.slow))
    normal = by_point(jnp.asarray(geometry.normals(detector)))
    fast_mm = pixels.fast * detector.pixel_mm
    slow_mm = pixels.slow * detector.pixel_mm
    axes = zip(origin, fast_axis, slow_axis, strict=True)
    surface = [corner + fast * fast_mm + slow * slow_mm for corner, fast, slow in axes]
    along_normal = [corner * n for corner, n in zip(origin, normal, strict=True)]
    position, height = deepened(detector, surface, normal, sum(along_normal))
    distance = jnp.sqrt(position[0] ** 2 + position[1] ** 2 + position[2] ** 2)
    direction = [component / distance for component in position]
    photons_per_flux = efficiency(
        direction,
        distance,
        normal,
        detector.pixel_mm,
        closest_mm=abs(height),
        depth=depth(detector),
        polarization=polarization,
    )

    # the component of ŝ − ŝ0 along the beam, without cancellation where the ray goes on
    x, y, z = direction
    forward = (x * x + y * y) / (1.0 - z)
    z_change = jnp.where(z < 0, forward, 1.0 + z)
    turn = tuple(change / HC_EV_ANGSTROM for change in (x, y, z_change))
    return Rays(turn, photons_per_flux)


def rays_by_point(detector: Detector, polarization: Array, pixels: Pixels) -> np.ndarray:
    """Return `rays` as (point, 4): turn and efficiency. They are computed in blocks of one size: by
    one compiled program.
    """
    n_points = len(pixels.fast)
    out = np.empty((n_points, 4))
    for start in range(0, n_points, RAYS):
        block = slice(start, start + RAYS)
        rows = out[block]
        missing = (0, RAYS - len(rows))
        padded = Pixels(*(np.pad(column[block], missing) for column in pixels))
        ray = _compiled_rays(detector, polarization, padded)
        for j, column in enumerate((*ray.turn, ray.efficiency)):
            rows[:, j] = np.asarray(column)[: len(rows)]
    return out


_compiled_rays = jax.jit(rays)


def averaged(parameters: Parameters) -> Clouds:
    """Return the clouds of all nodes as squares of `edge_px` see them: blurred by what lies within
    a square.

    The mean of a Gaussian over a square is nearly that with a Gaussian of its second moments,
    edge²/12 along each axis of the panel; the cut of a cloud is blurred by it when the cloud is.
    Steps on a panel are steps of p = (ŝ − ŝ0)/λ, here at the middle of the spectrum, at the mean
    over domains, and on the panel whose centre is nearest to the ray.
    """
    energies = parameters.spectrum.energies_ev
    return _averaged(
        parameters.crystal,
        parameters.mosaic,
        parameters.detector,
        parameters.hkl,
        parameters.edge_px,
        (energies[0], energies[-1]),
    )


@jax.jit
def _averaged(crystal, mosaic, detector, hkl, edge_px, ends_ev) -> Clouds:
    """Return `averaged` from what it depends on alone. ends_ev: first and last channel."""
    k = 0.5 * (ends_ev[0] + ends_ev[1]) / HC_EV_ANGSTROM  # wave number, Å⁻¹
    hkl = jnp.asarray(hkl)
    share = mosaic.share / jnp.sum(mosaic.share)
    mean_rotation = jnp.einsum("c,cij->ij", share, mosaic.rotations)
    q = hkl @ (mean_rotation @ jnp.asarray(crystal.A)).T
    ray = q + k * geometry.S0
    ray = ray / jnp.linalg.norm(ray, axis=1, keepdims=True)

    panel = _nearest_panel(detector, ray)
    normals = geometry.normals(detector)
    distance = (jnp.asarray(detector.origin_mm) * normals).sum(axis=1)[panel]
    normal = jnp.asarray(normals)[panel]
    cosine = (ray * normal).sum(axis=1)
    step = edge_px * detector.pixel_mm * k * cosine / distance

    # edge²/12 Σ_axes g gᵀ = step²/12 (P − P n (P n)ᵀ), P = 1 − ŝŝᵀ
    Pn = (normal - cosine[:, None] * ray).T
    s = ray.T

    def second_moment(i: int, j: int) -> Array:
        projector = (i == j) - s[i] * s[j]
        return step**2 / 12 * (projector - Pn[i] * Pn[j])

    return clouds(crystal, mosaic, hkl, symmetric(second_moment))


def _nearest_panel(detector: Detector, ray: Array) -> Array:
    """Return (node,) the panel whose centre is nearest to each ray (node, 3)."""
    n_slow, n_fast = detector.shape
    panel = jnp.arange(len(detector.origin_mm))
    fast = 0.5 * n_fast + 0.0 * panel
    slow = 0.5 * n_slow
    centres = geometry.direction(jax.tree.map(jnp.asarray, detector), panel, fast, slow)
    return jnp.argmax(ray @ centres.T, axis=1)


def channels_of(parameters: Parameters) -> Channels:
    """Return the channels of a lattice in its pulse."""
    spectrum = parameters.spectrum
    energies = jnp.asarray(spectrum.energies_ev, dtype=jnp.float64)
    photons = jnp.asarray(spectrum.photons, dtype=jnp.float64)
    middle = jax.lax.stop_gradient(0.5 * (energies[0] + energies[-1]))
    beam_area = (parameters.beam_mm * 1e-3) ** 2
    fluence = R_E_SQUARED_M2 * parameters.scale / beam_area * photons
    strength = jnp.pad(fluence * parameters.f_squared, ((0, 0), (0, WINDOW)))
    x = jnp.pad(energies - middle, (0, WINDOW))
    return Channels(middle, x, strength.reshape(-1))


compiled_channels = jax.jit(channels_of)


def tables_of(parameters: Parameters, pixels: Pixels) -> Tables:
    """Return the tables that pairs of points and the clouds of a lattice are looked up in.

    They are three programs and not one: each is compiled for its own few sizes, not for all their
    combinations.
    """
    return Tables(
        ray=_compiled_rays(parameters.detector, parameters.polarization, pixels),
        cloud=averaged(parameters),
        channels=compiled_channels(parameters),
    )


def window_start(tables: Tables, pairs: Pairs) -> Array:
    """Return where the window of each pair starts in `Channels.strength`, (pair,)."""
    n_channels = len(tables.channels.x)
    n_nodes = len(tables.channels.strength) // n_channels
    n_components = len(tables.cloud.amplitude) // n_nodes
    return pairs.cloud // n_components * n_channels + pairs.channel


def pair_geometry(
    ray: Rays, cloud: Clouds, middle: Array, point: Array, cloud_row: Array
) -> tuple[list[Array], list[Array], list[Array]]:
    """Return turn t, d = t·middle − q, and M of pairs, each by component (pair,).

    point, cloud_row: (pair,) rows of the points and of the clouds.
    """
    turn = [component[point] for component in ray.turn]
    d = [t * middle - q[cloud_row] for t, q in zip(turn, cloud.q, strict=True)]
    return turn, d, [entry[cloud_row] for entry in cloud.precision]


def exponents(ray: Rays, cloud: Clouds, middle: Array, point: Array, cloud_row: Array) -> Parabola:
    """Return the parabolas ½(p − q)ᵀM(p − q) = ½(a₂x² + 2a₁x + a₀) of pairs, p = turn·(middle + x).

    point, cloud_row: (pair,) rows of the points and of the clouds.
    """
    t, d, M = pair_geometry(ray, cloud, middle, point, cloud_row)
    Mt = times(M, t)
    a2 = dot(Mt, t)
    a1 = dot(Mt, d)
    a0 = dot(times(M, d), d)
    return Parabola(a2, a1, a0)
