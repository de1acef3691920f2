"""Which pixels a lattice can reach, and which of its clouds and channels matter in each of them.

A cloud is followed out to `REACH` standard deviations, and farther where a node shows but tails or
in dim channels: what is left out of a reflection is P(χ²₃ > REACH²) of it, 1e-10.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Crystal, Detector, Mosaic, Parameters, Pixels, Spectrum
from spreadflow.physics import geometry, rotation
from spreadflow.physics.forward import (
    BLOCK,
    WINDOW,
    Pairs,
    Rays,
    averaged,
    compiled_rays,
    exponents,
)
from spreadflow.physics.mosaic import GAUSS, Clouds, dot, inverse, times
from spreadflow.units import HC_EV_ANGSTROM

REACH = 7.0
"""standard deviations"""
LOST = 1e-9
"""fraction of the expected photons that nodes left out may hold together"""
DARK = 1e-12
"""fraction of the photons of a pulse beyond which a channel counts as dark, at either end"""
SHARPNESS, FINEST = 0.8, 8
"""points to each standard deviation of the sharpest cloud where `oversample` is left open, and no
more to a pixel
"""
CANDIDATES = 1 << 21
"""pairs looked at together, of which those that matter are kept: bounds the memory"""
SAMPLES = 7
"""energies at which the course of a cloud over the detector is followed"""


class Footprints(NamedTuple):
    """Rectangles of pixels that hold a reflection on a panel. Shape (footprint,)."""

    node: np.ndarray
    """row of `Parameters.hkl`"""
    panel: np.ndarray
    fast0: np.ndarray
    slow0: np.ndarray
    width: np.ndarray
    height: np.ndarray
    oversample: np.ndarray
    """points along each edge of a pixel"""

    @property
    def n_points(self) -> np.ndarray:
        return self.width * self.height * self.oversample**2


def lit(spectrum: Spectrum) -> tuple[int, int]:
    """First channel with light, and one past the last. Raises ValueError where energies do not
    ascend.
    """
    if not (np.diff(spectrum.energies_ev) > 0).all():
        raise ValueError("spectrum.energies_ev: channels in ascending order")
    sums = np.cumsum(spectrum.photons)
    low, high = np.searchsorted(sums, [DARK * sums[-1], (1.0 - DARK) * sums[-1]])
    return int(low), min(int(high) + 1, len(sums))


def reached(crystal: Crystal, mosaic: Mosaic, hkl: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """Rows of the nodes hkl (n, 3) some cloud of which may touch a lit Ewald sphere."""
    q = hkl @ crystal.A.T
    length = np.linalg.norm(q, axis=1)
    size = np.sqrt(GAUSS / 4) * np.linalg.norm(crystal.A / crystal.n_cells, ord=2)
    tilt = rotation.angle(mosaic.rotations).max() * length
    spread = np.hypot(size, crystal.eta_rad * mosaic.width.max() * length)
    first, last = lit(spectrum)
    k = (
        spectrum.energies_ev[first] / HC_EV_ANGSTROM,
        spectrum.energies_ev[last - 1] / HC_EV_ANGSTROM,
    )
    outside = [np.linalg.norm(q + radius * geometry.S0, axis=1) - radius for radius in k]
    distance = REACH * spread + tilt
    return np.flatnonzero((outside[1] <= distance) & (outside[0] >= -distance))


def lay_out(parameters: Parameters, oversample: int | None = 1) -> tuple[Footprints, Pixels, Pairs]:
    """Footprints of all reflections, their points box after box (row by row in each), and the pairs
    that matter.

    oversample: points along each edge of a pixel; None = as many as the sharpest cloud of a
    reflection needs.
    """
    followed = _follow(parameters)
    boxes = _boxes(followed, parameters.detector)
    footprints, box_of = _footprints(boxes, len(parameters.mosaic.share), oversample)
    pixels = points(footprints)
    return (
        footprints,
        pixels,
        _select(followed, parameters, pixels, _pieces(boxes, footprints, box_of)),
    )


def within(
    parameters: Parameters,
    panel: np.ndarray,
    bbox: np.ndarray,
    reach: float = REACH,
    oversample: int = 1,
) -> tuple[Pixels, Pairs]:
    """Pixels of rectangles (n, 4) fast0 fast1 slow0 slow1, half open, one after another, and the
    pairs that matter.

    Of all nodes: a rectangle also gets what other reflections put there. Pixels in the order of
    shoeboxes. reach: standard deviations out to which clouds are followed. oversample: points along
    each edge of a pixel; those of a rectangle go row by row, through all of its pixels.
    """
    followed = _follow(parameters, reach)
    boxes = _boxes(followed, parameters.detector)
    fast0, fast1, slow0, slow1 = np.asarray(bbox, dtype=np.int64).T
    footprints = rectangles(panel, bbox, oversample)
    pixels = points(footprints)
    n = oversample
    start = np.cumsum(footprints.n_points) - footprints.n_points
    found = []
    for i in range(len(panel)):
        low_f = np.maximum(boxes.fast0, fast0[i])
        low_s = np.maximum(boxes.slow0, slow0[i])
        width = np.minimum(boxes.fast0 + boxes.width, fast1[i]) - low_f
        height = np.minimum(boxes.slow0 + boxes.height, slow1[i]) - low_s
        met = np.flatnonzero((boxes.panel == panel[i]) & (width > 0) & (height > 0))
        stride = np.full(len(met), n * (fast1[i] - fast0[i]))
        corner = start[i] + n * (low_s[met] - slow0[i]) * stride + n * (low_f[met] - fast0[i])
        found.append(np.stack([corner, stride, n * width[met], n * height[met], boxes.cloud[met]]))
    pieces = _Pieces(*np.concatenate([np.empty((5, 0), dtype=np.int64), *found], axis=1))
    return pixels, _select(followed, parameters, pixels, pieces)


def rectangles(panel: np.ndarray, bbox: np.ndarray, oversample: int = 1) -> Footprints:
    """Given rectangles (n, 4) fast0 fast1 slow0 slow1, half open, as footprints of no node in
    particular.
    """
    fast0, fast1, slow0, slow1 = np.asarray(bbox, dtype=np.int64).T
    one = np.ones(len(panel), dtype=np.int64)
    return Footprints(
        one, np.asarray(panel), fast0, slow0, fast1 - fast0, slow1 - slow0, oversample * one
    )


def meets(parameters: Parameters, panel: np.ndarray, bbox: np.ndarray) -> np.ndarray:
    """(node,) bool: nodes that put photons into any of the rectangles of `within`."""
    boxes = _boxes(_follow(parameters), parameters.detector)
    node = boxes.cloud // len(parameters.mosaic.share)
    out = np.zeros(len(parameters.hkl), dtype=bool)
    for p, (fast0, fast1, slow0, slow1) in zip(panel, bbox, strict=True):
        apart = (boxes.fast0 >= fast1) | (boxes.fast0 + boxes.width <= fast0)
        apart |= (boxes.slow0 >= slow1) | (boxes.slow0 + boxes.height <= slow0)
        out[node[(boxes.panel == p) & ~apart]] = True
    return out


def points(footprints: Footprints) -> Pixels:
    """All points of footprints, one after another, row by row; coordinates in px."""
    box = np.repeat(np.arange(len(footprints.node)), footprints.n_points)
    i = _counted(footprints.n_points)
    n = footprints.oversample[box]
    width = footprints.width[box] * n
    fast, slow = (
        footprints.fast0[box] + (i % width + 0.5) / n,
        footprints.slow0[box] + (i // width + 0.5) / n,
    )
    return Pixels(footprints.panel[box].astype(np.int32), fast, slow)


def _counted(counts: np.ndarray) -> np.ndarray:
    """0 … count − 1 for each of the counts, one after another."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def filled(tree, least: int = 64):
    """Arrays (n, ...) of a tuple with zeros up to 2ᵏ or 1.5·2ᵏ rows: few shapes, few compiled
    programs.
    """

    def grown(a):
        top = max(least, 1 << max(len(a) - 1, 0).bit_length())
        size = 3 * top // 4 if least <= 3 * top // 4 >= len(a) else top
        return np.pad(a, ((0, size - len(a)), *((0, 0),) * (np.ndim(a) - 1)))

    return jax.tree.map(grown, tree)


# ---------------------------------------------------------------- clouds and the light that reaches
# them


class _Followed(NamedTuple):
    """Clouds of a lattice and how far they matter. Shapes (cloud,)."""

    cloud: Clouds
    covariance: tuple
    """Σ: xx yy zz yz xz xy"""
    low: np.ndarray
    """lowest energy of a lit sphere that cuts the cloud, eV"""
    high: np.ndarray
    cut: np.ndarray
    """largest exponent that matters; 0 where the cloud does not matter at all"""


def _follow(parameters: Parameters, reach: float = REACH) -> _Followed:
    """What matters of the clouds of all nodes: nodes with next to no light are left out."""
    first, last = lit(parameters.spectrum)
    energies = np.asarray(parameters.spectrum.energies_ev)
    lights = np.asarray(parameters.spectrum.photons * parameters.f_squared)
    cloud = averaged(parameters)
    covariance, *found = _light(cloud, energies, lights)
    centre, width, dimmest, light = map(np.asarray, found)
    order = np.argsort(light)
    kept = np.zeros(len(light), dtype=bool)
    kept[order[np.cumsum(light[order]) > LOST * light.sum()]] = True
    cut = np.where(kept, 0.5 * reach**2 + dimmest, 0.0).repeat(len(centre) // len(light))
    half = width * np.sqrt(2 * cut)
    low, high = (
        np.maximum(centre - half, energies[first]),
        np.minimum(centre + half, energies[last - 1]),
    )
    return _Followed(cloud, covariance, low, high, np.where(low <= high, cut, 0.0))


@jax.jit
def _light(cloud: Clouds, energies, lights):
    """What spheres of energies (channel,) with lights (node, channel) cut out of clouds.

    Covariance of the clouds; energy (cloud,) of the sphere through the middle and the standard
    deviation of energies; per node, of all its clouds and channels, the least exponent +
    ln(brightest light/light); photons (node,), relative: those of the flat cut of a Gaussian, 2π
    √(det Σ / n·Σn)/k² · exp(−½ excess²/n·Σn).
    """
    cofactors, determinant = inverse(cloud.precision)
    covariance = tuple(c / determinant for c in cofactors)
    along = cloud.q[2]
    bragg = jnp.where(
        along > 1e-9,
        0.5 * HC_EV_ANGSTROM * dot(cloud.q, cloud.q) / jnp.maximum(along, 1e-9),
        jnp.inf,
    )
    near = jnp.clip(bragg, energies[0], energies[-1])
    _, normal, _, variance, excess = _cut(cloud.q, covariance, near)
    slope = -jnp.maximum(normal[2] + 1.0, 1e-12) / HC_EV_ANGSTROM
    centre = near - excess / slope
    width = jnp.sqrt(variance) / jnp.abs(slope)

    def rows(a):
        return a.reshape(len(lights), -1, 1).astype(jnp.float32)

    exponent = (
        0.5
        * (((energies - near[0]).astype(jnp.float32) - rows(centre - near[0])) / rows(width)) ** 2
    )
    lights = lights.astype(jnp.float32)
    top = lights.max(axis=1, keepdims=True)
    dimmed = jnp.log(jnp.maximum(top, 1e-30) / jnp.maximum(lights, 1e-30 * top + 1e-37))
    dimmest = (exponent + dimmed[:, None]).min(axis=(1, 2))
    area = rows(cloud.amplitude / jnp.sqrt(determinant * variance))
    photons = (area * lights[:, None] * jnp.exp(-exponent)).sum(axis=(1, 2))
    return covariance, centre, width, dimmest.astype(jnp.float64), photons


def _cut(q, covariance, energy):
    """Clouds cut by the Ewald sphere of an energy, taken as flat over a cloud.

    Returns the ray to the middle of the cut, the unit normal, Σ·normal, the variance along the
    normal and the distance of the cloud's centre from the sphere; Å⁻¹.
    """
    k = energy / HC_EV_ANGSTROM
    ray = [q[0], q[1], q[2] - k]
    length = jnp.sqrt(dot(ray, ray))
    normal = [c / length for c in ray]
    toward = times(covariance, normal)
    variance = dot(normal, toward)
    excess = length - k
    return (
        [r - t * (excess / variance) for r, t in zip(ray, toward, strict=True)],
        normal,
        toward,
        variance,
        excess,
    )


# ---------------------------------------------------------------- pixels they reach


class _Boxes(NamedTuple):
    """Pixels of a panel to which a cloud reaches. Shape (box,)."""

    cloud: np.ndarray
    panel: np.ndarray
    fast0: np.ndarray
    slow0: np.ndarray
    width: np.ndarray
    height: np.ndarray
    sigma_px: np.ndarray
    """smallest standard deviation of the cloud on the panel, px"""


def _boxes(followed: _Followed, detector: Detector) -> _Boxes:
    """The boxes of clouds on panels, clipped to the panels."""
    cloud, panel = _meetings(followed, detector)
    some, on = filled((cloud, panel), 2048)

    def pick(tree):
        return jax.tree.map(lambda column: np.asarray(column)[some], tree)

    axes = (detector.origin_mm, detector.fast, detector.slow, geometry.normals(detector))
    ahead, sigma, low, high = _extent(
        *map(
            pick, (followed.cloud.q, followed.covariance, followed.low, followed.high, followed.cut)
        ),
        *(tuple(np.asarray(a)[on].T) for a in axes),
        detector.pixel_mm,
    )
    of = slice(len(cloud))
    low, high = np.stack(low)[:, of], np.stack(high)[:, of]
    slack = 0.2 + _sagitta(low, high, geometry.beam_center(detector), panel)
    size = np.array(detector.shape[::-1])[:, None]
    first = np.clip(np.floor(low - slack), 0, size).astype(np.int64)
    last = np.clip(np.ceil(high + slack), 0, size).astype(np.int64)
    met = np.flatnonzero(np.asarray(ahead)[of] & (last > first).all(axis=0))
    fast0, slow0 = first[:, met]
    width, height = (last - first)[:, met]
    return _Boxes(cloud[met], panel[met], fast0, slow0, width, height, np.asarray(sigma)[met])


def _meetings(followed: _Followed, detector: Detector) -> tuple[np.ndarray, np.ndarray]:
    """Clouds that matter and panels they may meet: (n,) each."""
    live = np.flatnonzero(followed.cut > 0)
    if detector.n_panels == 1:
        return live, np.zeros(len(live), dtype=np.int64)
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * detector.shape[::-1]
    panels = np.arange(detector.n_panels).repeat(4)
    rays = geometry.direction(
        detector, panels, *np.tile(corners, (detector.n_panels, 1)).T
    ).reshape(-1, 4, 3)
    middle = rays.mean(axis=1)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    wide = np.arccos(np.clip((rays * middle[:, None]).sum(axis=-1).min(axis=1), -1.0, 1.0))
    q = np.stack(followed.cloud.q, axis=1)[live]
    k = np.stack([followed.low, followed.high])[:, live] / HC_EV_ANGSTROM
    ends = q + k[..., None] * geometry.S0
    ends /= np.linalg.norm(ends, axis=-1, keepdims=True)
    size = np.sqrt(sum(np.asarray(c)[live] for c in followed.covariance[:3]))
    reach = np.sqrt(2 * followed.cut[live]) * size / k[0] + np.linalg.norm(
        ends[1] - ends[0], axis=1
    )
    cosine = np.cos(reach)
    sine = np.sin(reach)
    near = [
        np.flatnonzero(
            (ends[0] @ m >= np.cos(w) * cosine - np.sin(w) * sine) | (w + reach >= np.pi)
        )
        for m, w in zip(middle, wide, strict=True)  # panel by panel: one row of clouds at a time
    ]
    return live[np.concatenate(near)], np.arange(detector.n_panels).repeat(
        [len(rows) for rows in near]
    )


@jax.jit
def _extent(q, covariance, low, high, cut, origin, fast, slow, normal, pixel_mm):
    """Where clouds fall on panels: whether ahead, smallest σ (px), lowest and highest (fast, slow)
    they reach, px.
    """
    none = jnp.full_like(cut, jnp.inf)
    ahead = none > 0
    sigma = none
    lows = [none, none]
    highs = [-none, -none]
    for part in np.linspace(0.0, 1.0, SAMPLES):
        ray, _, toward, variance, excess = _cut(q, covariance, low + part * (high - low))
        along = dot(ray, normal)
        scale = dot(origin, normal) / along
        ahead &= scale > 0
        reach = jnp.sqrt(jnp.maximum(2 * cut - excess**2 / variance, 0.0))
        gradients = []
        for i, axis in enumerate((fast, slow)):
            at = (scale * dot(ray, axis) - dot(origin, axis)) / pixel_mm
            tilted = dot(ray, axis) / along
            gradient = [
                scale * (a - m * tilted) / pixel_mm for a, m in zip(axis, normal, strict=True)
            ]
            spread = (
                dot(gradient, times(covariance, gradient)) - dot(toward, gradient) ** 2 / variance
            )
            half = 1.05 * reach * jnp.sqrt(jnp.maximum(spread, 0.0))
            lows[i], highs[i] = jnp.minimum(lows[i], at - half), jnp.maximum(highs[i], at + half)
            gradients.append((gradient, spread))
        (f, ff), (s, ss) = gradients
        fs = dot(f, times(covariance, s)) - dot(toward, f) * dot(toward, s) / variance
        least = 0.5 * (ff + ss) - jnp.sqrt(0.25 * (ff - ss) ** 2 + fs**2)
        sigma = jnp.minimum(sigma, jnp.sqrt(jnp.maximum(least, 0.0)))
    return ahead, sigma, lows, highs


def _sagitta(
    low: np.ndarray, high: np.ndarray, centre: tuple[np.ndarray, np.ndarray], panel: np.ndarray
) -> np.ndarray:
    """(n,) px by which a streak across the radius bends away from the straight line assumed. low,
    high: (2, n).
    """
    half = 0.5 * (high - low).max(axis=0)
    radius = np.hypot(*(0.5 * (low + high) - np.stack([c[panel] for c in centre])))
    return half**2 / (2 * np.maximum(radius, half))


def _footprints(
    boxes: _Boxes, n_components: int, oversample: int | None
) -> tuple[Footprints, np.ndarray]:
    """Footprints around the boxes of a node on a panel, and the footprint of each box."""
    node = boxes.cloud // n_components
    n_panels = int(boxes.panel.max(initial=0)) + 1
    key, box_of = np.unique(node * n_panels + boxes.panel, return_inverse=True)

    def least(column):
        return _least(column, box_of, len(key))

    fast0 = least(boxes.fast0)
    slow0 = least(boxes.slow0)
    width = -least(-boxes.fast0 - boxes.width) - fast0
    height = -least(-boxes.slow0 - boxes.height) - slow0
    n = np.full(len(key), oversample or 1)
    if oversample is None:
        n = np.clip(np.ceil(SHARPNESS / np.maximum(least(boxes.sigma_px), 1e-3)), 1, FINEST)
    columns = (key // n_panels, key % n_panels, fast0, slow0, width, height, n)
    return Footprints(*(np.asarray(c).astype(np.int64) for c in columns)), box_of


def _least(column: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """(n_groups,) smallest entry of each group."""
    out = np.full(n_groups, np.inf)
    np.minimum.at(out, group, column)
    return out


class _Pieces(NamedTuple):
    """Rectangles of points, and the cloud that may reach them. Shape (piece,)."""

    corner: np.ndarray
    """row of the first point"""
    stride: np.ndarray
    """from one row of the rectangle to the next"""
    width: np.ndarray
    height: np.ndarray
    cloud: np.ndarray


def _pieces(boxes: _Boxes, footprints: Footprints, box_of: np.ndarray) -> _Pieces:
    """All boxes as points of their footprints."""
    n = footprints.oversample[box_of]
    stride = (footprints.width * footprints.oversample)[box_of]
    start = np.cumsum(footprints.n_points) - footprints.n_points
    corner = start[box_of] + (boxes.slow0 - footprints.slow0[box_of]) * n * stride
    corner += (boxes.fast0 - footprints.fast0[box_of]) * n
    return _Pieces(corner, stride, boxes.width * n, boxes.height * n, boxes.cloud)


def _candidates(pieces: _Pieces) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of the points and clouds of all pieces, about `CANDIDATES` at a time."""
    count = pieces.width * pieces.height
    group = np.cumsum(count) // CANDIDATES
    for some in np.split(np.arange(len(count)), np.flatnonzero(np.diff(group)) + 1):
        row = some.repeat(count[some])
        i = _counted(count[some])
        width = pieces.width[row]
        yield pieces.corner[row] + i // width * pieces.stride[row] + i % width, pieces.cloud[row]


# ---------------------------------------------------------------- channels that matter


def _select(followed: _Followed, parameters: Parameters, pixels: Pixels, pieces: _Pieces) -> Pairs:
    """The pairs among the points and clouds of the pieces."""
    ray = compiled_rays(parameters.detector, parameters.polarization, filled(pixels, 1 << 14))
    first, last = lit(parameters.spectrum)
    energies = np.asarray(parameters.spectrum.energies_ev, dtype=np.float64)
    middle = 0.5 * (energies[0] + energies[-1])
    ticks = _ticks(energies, first, last)
    found = [np.empty((3, 0), dtype=np.int32)]
    for point, cloud in _candidates(pieces):
        for start in range(0, len(point), BLOCK):
            some = slice(start, start + BLOCK)
            n = len(point[some])
            block = [
                np.pad(column[some].astype(np.int32), (0, BLOCK - n)) for column in (point, cloud)
            ]
            channel, n_windows = _windows(ray, followed.cloud, followed.cut, middle, *block, ticks)
            n_windows = np.asarray(n_windows)[:n]
            row = np.repeat(np.arange(n), n_windows)
            at = np.asarray(channel)[row] + WINDOW * _counted(n_windows)
            found.append(np.stack([block[0][row], block[1][row], at]).astype(np.int32))
    return Pairs(*np.concatenate(found, axis=1))


class _Ticks(NamedTuple):
    """The lit channel that follows each mark of an even grid of energies."""

    start: float
    step: float
    channel: np.ndarray
    """first lit … one past the last"""


def _ticks(energies: np.ndarray, first: int, last: int) -> _Ticks:
    """Marks no farther apart than the channels (at most 4096 of them): exact, or on the safe side.

    first, last: of `lit`. As many marks whatever is lit: pulses share one compiled program.
    """
    span = float(energies[-1] - energies[0])
    step = (
        max(float(np.diff(energies).min(initial=np.inf)), span / 4096) if len(energies) > 1 else 1.0
    )
    marks = energies[0] + step * np.arange(-1, int(np.ceil(span / step)) + 3)
    count = np.clip(np.searchsorted(energies, marks), first, last)
    return _Ticks(float(marks[0]), step, count.astype(np.int32))


@jax.jit
def _windows(ray: Rays, cloud: Clouds, cut, middle, point, of_cloud, ticks: _Ticks):
    """First lit channel and number of windows (0 = none) of pairs."""
    a2, a1, a0 = exponents(ray, cloud, middle, point, of_cloud)
    centre = -a1 / a2
    left = cut[of_cloud] - 0.5 * (a0 + a1 * centre)
    half = jnp.sqrt(jnp.maximum(2.0 * left / a2, 0.0))
    top = len(ticks.channel) - 1

    def mark(energy):
        return jnp.clip((energy + middle - ticks.start) / ticks.step, 0, top)

    first = ticks.channel[jnp.floor(mark(centre - half)).astype(jnp.int32)]
    last = ticks.channel[jnp.ceil(mark(centre + half)).astype(jnp.int32)]
    return first, jnp.where(left > 0, (last - first + WINDOW - 1) // WINDOW, 0)
