"""Which clouds of a lattice matter in a pulse, and to which pixels of the panels each reaches.

An Ewald sphere is taken as flat over a cloud. A cloud is followed out to a number of standard
deviations, and farther where its node shows but tails or in dim channels.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Array, Detector, Parameters
from spreadflow.physics import geometry
from spreadflow.physics.clouds import Clouds, dot, inverse, times
from spreadflow.physics.padding import to_few_sizes
from spreadflow.physics.pair_tables import averaged
from spreadflow.physics.parallax import reached
from spreadflow.physics.spectrum import lit
from spreadflow.units import HC_EV_ANGSTROM

NEGLIGIBLE_SHARE = 1e-9
"""Fraction of the expected photons that nodes left out may hold together."""

SAMPLES = 7
"""Energies at which the course of a cloud over the detector is followed."""

SLACK_PX = 0.2
"""Width by which boxes of clouds are widened, px: their course is followed at few energies."""

SLACK_SIGMA = 1.05
"""Factor by which the reach of clouds is widened, for the same reason."""

SMALLEST_MEETINGS = 2048
"""Meetings of clouds and panels that tables are padded to, at least."""


# ---------------------------------------------------------------- clouds and the light on them


class FollowedClouds(NamedTuple):
    """Clouds of a lattice and how far they matter. Shapes (cloud,)."""

    cloud: Clouds
    covariance: tuple[Array, ...]
    """Σ: xx yy zz yz xz xy, Å⁻²"""
    low: np.ndarray
    """lowest energy of a lit sphere that cuts the cloud, eV"""
    high: np.ndarray
    """highest energy of a lit sphere that cuts the cloud, eV"""
    cut: np.ndarray
    """largest exponent that matters; 0 where the cloud does not matter at all"""


def follow(parameters: Parameters, reach: float) -> FollowedClouds:
    """Return the clouds of all nodes, and how far each matters: nodes with next to no light are
    left out. reach: standard deviations out to which clouds are followed.
    """
    spectrum = parameters.spectrum
    first, last = lit(spectrum)
    energies = np.asarray(spectrum.energies_ev)
    cloud = averaged(parameters)
    light = _light(cloud, energies, np.asarray(spectrum.photons * parameters.f_squared))

    photons = np.asarray(light.photons)
    faintest_first = np.argsort(photons)
    is_followed = np.zeros(len(photons), dtype=bool)
    held = np.cumsum(photons[faintest_first])
    is_followed[faintest_first[held > NEGLIGIBLE_SHARE * photons.sum()]] = True

    largest_exponent = 0.5 * reach**2 + np.asarray(light.dimmest)
    n_components = len(light.energy) // len(photons)
    cut = np.where(is_followed, largest_exponent, 0.0).repeat(n_components)
    half_width = np.asarray(light.width) * np.sqrt(2 * cut)
    low = np.maximum(np.asarray(light.energy) - half_width, energies[first])
    high = np.minimum(np.asarray(light.energy) + half_width, energies[last - 1])
    return FollowedClouds(
        cloud=cloud,
        covariance=light.covariance,
        low=low,
        high=high,
        cut=np.where(low <= high, cut, 0.0),
    )


class _Light(NamedTuple):
    """What the spheres of a pulse cut out of clouds."""

    covariance: tuple[Array, ...]
    """Σ of the clouds (cloud,): xx yy zz yz xz xy, Å⁻²"""
    energy: Array
    """(cloud,) of the sphere through the middle of the cloud, eV"""
    width: Array
    """(cloud,) standard deviation, along the energy, of what spheres cut out of the cloud, eV"""
    dimmest: Array
    """(node,) the least exponent + ln(brightest light/light) over its clouds and channels"""
    photons: Array
    """(node,) relative: those of the flat cut of a Gaussian, 2π √(det Σ / n·Σn)/k² · exp(−½
    excess²/n·Σn), summed over its clouds and channels
    """


@jax.jit
def _light(cloud: Clouds, energies: Array, lights: Array) -> _Light:
    """Return what spheres of energies (channel,) with lights (node, channel) cut out of clouds."""
    cofactors, determinant = inverse(cloud.precision)
    covariance = tuple(cofactor / determinant for cofactor in cofactors)

    # from the nearest energy of the pulse on, the distance of the sphere is linear in the energy
    nearest = jnp.clip(_bragg_energy(cloud.q), energies[0], energies[-1])
    cut = _cut(cloud.q, covariance, nearest)
    slope = -jnp.maximum(cut.normal[2] + 1.0, 1e-12) / HC_EV_ANGSTROM
    energy = nearest - cut.excess / slope
    width = jnp.sqrt(cut.variance) / jnp.abs(slope)

    def by_node(column: Array) -> Array:
        """Return a column (cloud,) as (node, component, 1)."""
        return column.reshape(len(lights), -1, 1).astype(jnp.float32)

    # float32 from here on: energies count from the first cloud's, so that nothing cancels
    origin = nearest[0]
    distance = (energies - origin).astype(jnp.float32) - by_node(energy - origin)
    exponent = 0.5 * (distance / by_node(width)) ** 2
    lights = lights.astype(jnp.float32)
    brightest = lights.max(axis=1, keepdims=True)
    least = jnp.maximum(lights, 1e-30 * brightest + 1e-37)
    dimming = jnp.log(jnp.maximum(brightest, 1e-30) / least)
    dimmest = (exponent + dimming[:, None]).min(axis=(1, 2))
    area = by_node(cloud.amplitude / jnp.sqrt(determinant * cut.variance))
    photons = (area * lights[:, None] * jnp.exp(-exponent)).sum(axis=(1, 2))
    return _Light(
        covariance=covariance,
        energy=energy,
        width=width,
        dimmest=dimmest.astype(jnp.float64),
        photons=photons,
    )


def _bragg_energy(q) -> Array:
    """Return the energy (cloud,) of the Ewald sphere through q, eV; infinite if there is none."""
    along = q[2]
    energy = 0.5 * HC_EV_ANGSTROM * dot(q, q) / jnp.maximum(along, 1e-9)
    return jnp.where(along > 1e-9, energy, jnp.inf)


class _Cut(NamedTuple):
    """How the Ewald sphere of an energy, taken as flat over a cloud, cuts clouds; Å⁻¹.

    Vectors are sequences of components, all of the shape of the clouds.
    """

    middle: list[Array]
    """the ray to the middle of the cut"""
    normal: list[Array]
    """n, the sphere's unit normal at the cloud's centre"""
    sigma_n: list[Array]
    """Σ n"""
    variance: Array
    """nᵀΣn, the variance of the cloud along the normal"""
    excess: Array
    """the distance of the cloud's centre from the sphere, positive outside"""


def _cut(q, covariance, energy) -> _Cut:
    """Return how clouds of centre q and covariance Σ are cut by the spheres of energies, eV."""
    k = energy / HC_EV_ANGSTROM
    ray = [q[0], q[1], q[2] - k]
    length = jnp.sqrt(dot(ray, ray))
    normal = [component / length for component in ray]
    sigma_n = times(covariance, normal)
    variance = dot(normal, sigma_n)
    excess = length - k
    return _Cut(
        middle=[r - t * (excess / variance) for r, t in zip(ray, sigma_n, strict=True)],
        normal=normal,
        sigma_n=sigma_n,
        variance=variance,
        excess=excess,
    )


# ---------------------------------------------------------------- pixels that clouds reach


class CloudBoxes(NamedTuple):
    """Pixels of a panel to which a cloud reaches. Shape (box,)."""

    cloud: np.ndarray
    """row of the clouds"""
    panel: np.ndarray
    fast0: np.ndarray
    slow0: np.ndarray
    width: np.ndarray
    height: np.ndarray
    sigma_px: np.ndarray
    """smallest standard deviation of the cloud on the panel, px"""

    @property
    def fast1(self) -> np.ndarray:
        """(box,) one past the last column"""
        return self.fast0 + self.width

    @property
    def slow1(self) -> np.ndarray:
        """(box,) one past the last row"""
        return self.slow0 + self.height


class _Meetings(NamedTuple):
    """Clouds and the panels that they may meet, components side by side. Shapes (meeting,)."""

    q: tuple[Array, ...]
    """centre of the cloud, Å⁻¹"""
    covariance: tuple[Array, ...]
    """of the cloud: xx yy zz yz xz xy, Å⁻²"""
    low: Array
    """lowest energy of a lit sphere that cuts the cloud, eV"""
    high: Array
    """highest energy of a lit sphere that cuts the cloud, eV"""
    cut: Array
    """largest exponent that matters"""
    origin: tuple[Array, ...]
    """of the panel, mm"""
    fast: tuple[Array, ...]
    slow: tuple[Array, ...]
    normal: tuple[Array, ...]


class _Extent(NamedTuple):
    """Where clouds fall on panels. Shapes (meeting,)."""

    is_ahead: Array
    """whether all of the cloud's rays run towards the panel's plane"""
    sigma_px: Array
    """smallest standard deviation of the cloud on the panel, px"""
    lowest: list[Array]
    """the lowest fast and slow coordinates that the cloud reaches, px"""
    highest: list[Array]
    """the highest fast and slow coordinates that the cloud reaches, px"""


def boxes_of(followed: FollowedClouds, detector: Detector) -> CloudBoxes:
    """Return the boxes of clouds on panels, clipped to the panels."""
    cloud, panel = _meeting_rows(followed, detector)
    meetings = _meetings(followed, detector, cloud, panel)
    no_panels: dict[str, Any] = {"origin_mm": (), "fast": (), "slow": (), "shape": ()}
    extent = _extent(meetings, detector._replace(**no_panels))
    n = len(cloud)
    low = np.stack(extent.lowest)[:, :n]
    high = np.stack(extent.highest)[:, :n]
    slack = SLACK_PX + _sagitta(low, high, geometry.beam_center(detector), panel)
    shape = np.array(detector.shape[::-1])[:, None]
    first = np.clip(np.floor(low - slack), 0, shape).astype(np.int64)
    last = np.clip(np.ceil(high + slack), 0, shape).astype(np.int64)
    is_met = np.asarray(extent.is_ahead)[:n] & (last > first).all(axis=0)
    met = np.flatnonzero(is_met)
    fast0, slow0 = first[:, met]
    width, height = (last - first)[:, met]
    return CloudBoxes(
        cloud=cloud[met],
        panel=panel[met],
        fast0=fast0,
        slow0=slow0,
        width=width,
        height=height,
        sigma_px=np.asarray(extent.sigma_px)[met],
    )


def _meeting_rows(followed: FollowedClouds, detector: Detector) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of clouds that matter and the panels that they may meet, (meeting,) each."""
    live = np.flatnonzero(followed.cut > 0)
    n_panels = detector.n_panels
    if n_panels == 1:
        return live, np.zeros(len(live), dtype=np.int64)
    axes, half_angles = _cones(detector)
    direction, reach = _bundles(followed, live)
    cosine = np.cos(reach)
    sine = np.sin(reach)
    met = []
    for axis, angle in zip(axes, half_angles, strict=True):  # one row of clouds at a time
        limit = np.cos(angle) * cosine - np.sin(angle) * sine
        is_near = (direction @ axis >= limit) | (angle + reach >= np.pi)
        met.append(np.flatnonzero(is_near))
    n_met = [len(rows) for rows in met]
    return live[np.concatenate(met)], np.arange(n_panels).repeat(n_met)


def _cones(detector: Detector) -> tuple[np.ndarray, np.ndarray]:
    """Return the axes (panel, 3) and half angles (panel,), rad, of cones that hold the panels."""
    n_panels = detector.n_panels
    n_slow, n_fast = detector.shape
    fast = np.tile([0, n_fast, 0, n_fast], n_panels)
    slow = np.tile([0, 0, n_slow, n_slow], n_panels)
    panel = np.arange(n_panels).repeat(4)
    rays = geometry.direction(detector, panel, fast, slow).reshape(-1, 4, 3)
    axes = rays.mean(axis=1)
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    cosines = (rays * axes[:, None]).sum(axis=-1)
    least = np.clip(cosines.min(axis=1), -1.0, 1.0)
    return axes, np.arccos(least)


def _bundles(followed: FollowedClouds, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a direction (row, 3) of the rays that some clouds scatter, and the angle (row,) from
    it within which all of them lie, rad.
    """
    q = np.stack(followed.cloud.q, axis=1)[rows]
    k = np.stack([followed.low, followed.high])[:, rows] / HC_EV_ANGSTROM
    ends = q + k[..., None] * geometry.S0
    ends /= np.linalg.norm(ends, axis=-1, keepdims=True)
    first, last = ends
    streak = np.linalg.norm(last - first, axis=1)
    variances = followed.covariance[:3]
    size = np.sqrt(sum(np.asarray(variance)[rows] for variance in variances))
    n_sigma = np.sqrt(2 * followed.cut[rows])
    return first, n_sigma * size / k[0] + streak


def _meetings(
    followed: FollowedClouds, detector: Detector, cloud: np.ndarray, panel: np.ndarray
) -> _Meetings:
    """Return the clouds and panels of some rows, padded so that few sizes are compiled."""
    padded_cloud, padded_panel = to_few_sizes((cloud, panel), SMALLEST_MEETINGS)

    def of_clouds(columns: Any) -> Any:
        return jax.tree.map(lambda column: np.asarray(column)[padded_cloud], columns)

    def of_panels(vectors: Array) -> tuple[np.ndarray, ...]:
        return tuple(np.asarray(vectors)[padded_panel].T)

    return _Meetings(
        q=of_clouds(followed.cloud.q),
        covariance=of_clouds(followed.covariance),
        low=of_clouds(followed.low),
        high=of_clouds(followed.high),
        cut=of_clouds(followed.cut),
        origin=of_panels(detector.origin_mm),
        fast=of_panels(detector.fast),
        slow=of_panels(detector.slow),
        normal=of_panels(geometry.normals(detector)),
    )


@jax.jit
def _extent(meetings: _Meetings, shared: Detector) -> _Extent:
    """Return where clouds fall on panels: the course of the cut over the energies of the pulse.

    shared: the detector without its panels, of any number.
    """
    pixel_mm = shared.pixel_mm
    range_ev = meetings.high - meetings.low
    none = jnp.full_like(meetings.cut, jnp.inf)
    is_ahead = none > 0
    sigma = none
    lowest = [none, none]
    highest = [-none, -none]
    for part in np.linspace(0.0, 1.0, SAMPLES):
        energy = meetings.low + part * range_ev
        cut = _cut(meetings.q, meetings.covariance, energy)
        along = dot(cut.middle, meetings.normal)
        height = dot(meetings.origin, meetings.normal)
        scale = reached(shared, height, along, _root(dot(cut.middle, cut.middle))) / along
        is_ahead &= scale > 0
        reach = _root(2 * meetings.cut - cut.excess**2 / cut.variance)
        gradients = []
        variances = []
        for i, axis in enumerate((meetings.fast, meetings.slow)):
            across = dot(cut.middle, axis)
            position = (scale * across - dot(meetings.origin, axis)) / pixel_mm
            gradient = _gradient(axis, meetings.normal, across / along, scale, pixel_mm)
            variance = _covariance_within(cut, meetings.covariance, gradient, gradient)
            half_width = SLACK_SIGMA * reach * _root(variance)
            lowest[i] = jnp.minimum(lowest[i], position - half_width)
            highest[i] = jnp.maximum(highest[i], position + half_width)
            gradients.append(gradient)
            variances.append(variance)
        fast_slow = _covariance_within(cut, meetings.covariance, *gradients)
        of_fast, of_slow = variances
        sharpest = _root(_smaller_eigenvalue(of_fast, of_slow, fast_slow))
        sigma = jnp.minimum(sigma, sharpest)
    return _Extent(is_ahead=is_ahead, sigma_px=sigma, lowest=lowest, highest=highest)


def _root(square: Array) -> Array:
    """Return the square root, 0 where rounding has made the square negative."""
    return jnp.sqrt(jnp.maximum(square, 0.0))


def _gradient(axis, normal, tilt, scale, pixel_mm) -> list[Array]:
    """Return how a coordinate on the panel changes with the ray, px Å. tilt: the ray's component
    along the axis over that along the normal; scale: mm of the panel per Å⁻¹ of the ray.
    """
    return [scale * (a - m * tilt) / pixel_mm for a, m in zip(axis, normal, strict=True)]


def _covariance_within(cut: _Cut, covariance, f, g) -> Array:
    """Return the covariance, within the cut, of two linear functions with gradients f and g: that
    of the cloud, fᵀΣg, less what it has along the normal, fᵀΣn gᵀΣn/nᵀΣn.
    """
    along_normal = dot(cut.sigma_n, f) * dot(cut.sigma_n, g) / cut.variance
    return dot(f, times(covariance, g)) - along_normal


def _smaller_eigenvalue(xx, yy, xy) -> Array:
    """Return the smaller eigenvalue of symmetric 2 × 2 matrices."""
    return 0.5 * (xx + yy) - jnp.sqrt(0.25 * (xx - yy) ** 2 + xy**2)


def _sagitta(
    low: np.ndarray, high: np.ndarray, centre: tuple[np.ndarray, np.ndarray], panel: np.ndarray
) -> np.ndarray:
    """Return by how many px a streak across the radius bends away from a straight line, (n,).

    low, high: (2, n) ends of the streak; centre: of the beam on each panel, fast and slow.
    """
    half_length = 0.5 * (high - low).max(axis=0)
    beam = np.stack([coordinate[panel] for coordinate in centre])
    radius = np.hypot(*(0.5 * (low + high) - beam))
    return half_length**2 / (2 * np.maximum(radius, half_length))
