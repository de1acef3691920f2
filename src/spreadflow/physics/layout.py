"""Which pixels a lattice can reach, and which of its clouds and channels matter in each of them.

A cloud is followed out to `REACH` standard deviations, and farther where a node shows but tails or
in dim channels: what is left out of a reflection is P(χ²₃ > REACH²) of it, 1e-10.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Array, Crystal, Detector, Mosaic, Parameters, Pixels, Spectrum
from spreadflow.physics import geometry, rotation
from spreadflow.physics.mosaic import SIZE_SIGMA, Clouds, dot, inverse, times
from spreadflow.physics.pair_tables import (
    BLOCK,
    WINDOW,
    Pairs,
    Rays,
    averaged,
    compiled_rays,
    exponents,
)
from spreadflow.units import HC_EV_ANGSTROM

REACH = 7.0
"""Standard deviations out to which a cloud is followed."""

NEGLIGIBLE_SHARE = 1e-9
"""Fraction of the expected photons that nodes left out may hold together."""

DARK_SHARE = 1e-12
"""Fraction of the photons of a pulse beyond which a channel counts as dark, at either end."""

SHARPNESS = 0.8
"""Points to each standard deviation of the sharpest cloud, where `oversample` is left open."""

FINEST = 8
"""Points along each edge of a pixel, at most, where `oversample` is left open."""

CANDIDATES = 1 << 21
"""Pairs looked at together, of which those that matter are kept: bounds the memory."""

SAMPLES = 7
"""Energies at which the course of a cloud over the detector is followed."""

SLACK_PX = 0.2
"""Width by which boxes of clouds are widened, px: their course is followed at few energies."""

SLACK_SIGMA = 1.05
"""Factor by which the reach of clouds is widened, for the same reason."""

MAX_TICKS = 4096
"""Marks of the grid of energies, at most."""

SMALLEST_TABLE = 1 << 14
"""Points that tables are padded to, at least: few sizes, few compiled programs."""

SMALLEST_MEETINGS = 2048
"""Meetings of clouds and panels that tables are padded to, at least."""


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
        """(footprint,) points of each"""
        return self.width * self.height * self.oversample**2

    @property
    def first_point(self) -> np.ndarray:
        """(footprint,) row of the first point of each, where all follow each other"""
        return np.cumsum(self.n_points) - self.n_points


def lit(spectrum: Spectrum) -> tuple[int, int]:
    """Return the first channel with light, and one past the last.

    Raises ValueError where energies do not ascend.
    """
    if not (np.diff(spectrum.energies_ev) > 0).all():
        raise ValueError("spectrum.energies_ev: channels in ascending order")
    sums = np.cumsum(spectrum.photons)
    edges = [DARK_SHARE * sums[-1], (1.0 - DARK_SHARE) * sums[-1]]
    low, high = np.searchsorted(sums, edges)
    return int(low), min(int(high) + 1, len(sums))


def reached(crystal: Crystal, mosaic: Mosaic, hkl: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """Return rows of the nodes hkl (n, 3) some cloud of which may touch a lit Ewald sphere."""
    q = hkl @ crystal.A.T
    length = np.linalg.norm(q, axis=1)
    domain_sigma = SIZE_SIGMA * np.linalg.norm(crystal.A / crystal.n_cells, ord=2)
    tilt = rotation.angle(mosaic.rotations).max() * length
    sigma = np.hypot(domain_sigma, crystal.eta_rad * mosaic.width.max() * length)
    first, last = lit(spectrum)
    smallest = spectrum.energies_ev[first] / HC_EV_ANGSTROM
    largest = spectrum.energies_ev[last - 1] / HC_EV_ANGSTROM
    outside_smallest = np.linalg.norm(q + smallest * geometry.S0, axis=1) - smallest
    outside_largest = np.linalg.norm(q + largest * geometry.S0, axis=1) - largest
    distance = REACH * sigma + tilt
    return np.flatnonzero((outside_largest <= distance) & (outside_smallest >= -distance))


def lay_out(parameters: Parameters, oversample: int | None = 1) -> tuple[Footprints, Pixels, Pairs]:
    """Return the footprints of all reflections, their points, and the pairs that matter.

    Points go box after box, row by row in each. oversample: points along each edge of a pixel;
    None = as many as the sharpest cloud of a reflection needs.
    """
    followed = _follow(parameters)
    boxes = _boxes(followed, parameters.detector)
    footprints, footprint_of = _footprints(boxes, len(parameters.mosaic.share), oversample)
    pixels = points(footprints)
    pieces = _pieces(boxes, footprints, footprint_of)
    return footprints, pixels, _select(followed, parameters, pixels, pieces)


def within(
    parameters: Parameters,
    panel: np.ndarray,
    bbox: np.ndarray,
    reach: float = REACH,
    oversample: int = 1,
) -> tuple[Pixels, Pairs]:
    """Return the pixels of rectangles, one after another, and the pairs that matter.

    bbox: (n, 4) fast0 fast1 slow0 slow1, half open. Pairs are of all nodes: a rectangle also gets
    what other reflections put there. Pixels are in the order of shoeboxes. reach: standard
    deviations out to which clouds are followed. oversample: points along each edge of a pixel;
    those of a rectangle go row by row, through all of its pixels.
    """
    followed = _follow(parameters, reach)
    boxes = _boxes(followed, parameters.detector)
    footprints = rectangles(panel, bbox, oversample)
    pixels = points(footprints)
    first_point = footprints.first_point
    fast0, fast1, slow0, slow1 = np.asarray(bbox, dtype=np.int64).T
    n = oversample
    overlaps = []
    for i in range(len(panel)):
        low_fast = np.maximum(boxes.fast0, fast0[i])
        low_slow = np.maximum(boxes.slow0, slow0[i])
        width = np.minimum(boxes.fast0 + boxes.width, fast1[i]) - low_fast
        height = np.minimum(boxes.slow0 + boxes.height, slow1[i]) - low_slow
        is_met = (boxes.panel == panel[i]) & (width > 0) & (height > 0)
        met = np.flatnonzero(is_met)
        stride = np.full(len(met), n * (fast1[i] - fast0[i]))
        row = n * (low_slow[met] - slow0[i])
        column = n * (low_fast[met] - fast0[i])
        corner = first_point[i] + row * stride + column
        piece = [corner, stride, n * width[met], n * height[met], boxes.cloud[met]]
        overlaps.append(np.stack(piece))
    nothing = np.empty((5, 0), dtype=np.int64)
    pieces = _Pieces(*np.concatenate([nothing, *overlaps], axis=1))
    return pixels, _select(followed, parameters, pixels, pieces)


def rectangles(panel: np.ndarray, bbox: np.ndarray, oversample: int = 1) -> Footprints:
    """Return rectangles (n, 4) fast0 fast1 slow0 slow1, half open, as footprints of no node."""
    fast0, fast1, slow0, slow1 = np.asarray(bbox, dtype=np.int64).T
    one = np.ones(len(panel), dtype=np.int64)
    return Footprints(
        node=one,
        panel=np.asarray(panel),
        fast0=fast0,
        slow0=slow0,
        width=fast1 - fast0,
        height=slow1 - slow0,
        oversample=oversample * one,
    )


def meets(parameters: Parameters, panel: np.ndarray, bbox: np.ndarray) -> np.ndarray:
    """Return which nodes put photons into any of the rectangles of `within`, (node,) bool."""
    boxes = _boxes(_follow(parameters), parameters.detector)
    node = boxes.cloud // len(parameters.mosaic.share)
    is_met = np.zeros(len(parameters.hkl), dtype=bool)
    for number, (fast0, fast1, slow0, slow1) in zip(panel, bbox, strict=True):
        is_apart = (boxes.fast0 >= fast1) | (boxes.fast0 + boxes.width <= fast0)
        is_apart |= (boxes.slow0 >= slow1) | (boxes.slow0 + boxes.height <= slow0)
        is_met[node[(boxes.panel == number) & ~is_apart]] = True
    return is_met


def points(footprints: Footprints) -> Pixels:
    """Return all points of footprints, one after another, row by row; coordinates in px."""
    n_points = footprints.n_points
    box = np.repeat(np.arange(len(footprints.node)), n_points)
    i = _counted(n_points)
    n = footprints.oversample[box]
    width = footprints.width[box] * n
    fast = footprints.fast0[box] + (i % width + 0.5) / n
    slow = footprints.slow0[box] + (i // width + 0.5) / n
    return Pixels(footprints.panel[box].astype(np.int32), fast, slow)


def _counted(counts: np.ndarray) -> np.ndarray:
    """Return 0 … count − 1 for each of the counts, one after another."""
    ends = np.cumsum(counts)
    total = ends[-1] if len(ends) else 0
    return np.arange(total) - np.repeat(ends - counts, counts)


def filled(tree: Any, least: int = 64) -> Any:
    """Return the arrays (n, ...) of a tuple with zeros up to 2ᵏ or 1.5·2ᵏ rows.

    Few shapes make few compiled programs. least: rows, at least.
    """

    def grown(column: np.ndarray) -> np.ndarray:
        n = len(column)
        top = max(least, 1 << max(n - 1, 0).bit_length())
        three_quarters = 3 * top // 4
        size = three_quarters if least <= three_quarters >= n else top
        nothing = ((0, 0),) * (np.ndim(column) - 1)
        return np.pad(column, ((0, size - n), *nothing))

    return jax.tree.map(grown, tree)


# ---------------------------------------------------------------- clouds and the light on them


class _Followed(NamedTuple):
    """Clouds of a lattice and how far they matter. Shapes (cloud,)."""

    cloud: Clouds
    covariance: tuple
    """Σ: xx yy zz yz xz xy"""
    low: np.ndarray
    """lowest energy of a lit sphere that cuts the cloud, eV"""
    high: np.ndarray
    """highest energy of a lit sphere that cuts the cloud, eV"""
    cut: np.ndarray
    """largest exponent that matters; 0 where the cloud does not matter at all"""


def _follow(parameters: Parameters, reach: float = REACH) -> _Followed:
    """Return what matters of the clouds of all nodes: nodes with next to no light are left out."""
    spectrum = parameters.spectrum
    first, last = lit(spectrum)
    energies = np.asarray(spectrum.energies_ev)
    lights = np.asarray(spectrum.photons * parameters.f_squared)
    cloud = averaged(parameters)
    covariance, *numbers = _light(cloud, energies, lights)
    centre, width, dimmest, light = map(np.asarray, numbers)
    order = np.argsort(light)
    is_kept = np.zeros(len(light), dtype=bool)
    is_kept[order[np.cumsum(light[order]) > NEGLIGIBLE_SHARE * light.sum()]] = True
    n_components = len(centre) // len(light)
    cut = np.where(is_kept, 0.5 * reach**2 + dimmest, 0.0).repeat(n_components)
    half = width * np.sqrt(2 * cut)
    low = np.maximum(centre - half, energies[first])
    high = np.minimum(centre + half, energies[last - 1])
    return _Followed(cloud, covariance, low, high, np.where(low <= high, cut, 0.0))


@jax.jit
def _light(cloud: Clouds, energies: Array, lights: Array):
    """Return what spheres of energies (channel,) with lights (node, channel) cut out of clouds.

    That is: covariance of the clouds; energy (cloud,) of the sphere through the middle and the
    standard deviation of energies; per node, of all its clouds and channels, the least exponent +
    ln(brightest light/light); photons (node,), relative: those of the flat cut of a Gaussian,
    2π √(det Σ / n·Σn)/k² · exp(−½ excess²/n·Σn).
    """
    cofactors, determinant = inverse(cloud.precision)
    covariance = tuple(c / determinant for c in cofactors)
    along = cloud.q[2]
    bragg = jnp.where(
        along > 1e-9,
        0.5 * HC_EV_ANGSTROM * dot(cloud.q, cloud.q) / jnp.maximum(along, 1e-9),
        jnp.inf,
    )
    nearest = jnp.clip(bragg, energies[0], energies[-1])
    _, normal, _, variance, excess = _cut(cloud.q, covariance, nearest)
    slope = -jnp.maximum(normal[2] + 1.0, 1e-12) / HC_EV_ANGSTROM
    centre = nearest - excess / slope
    width = jnp.sqrt(variance) / jnp.abs(slope)

    def by_node(column: Array) -> Array:
        return column.reshape(len(lights), -1, 1).astype(jnp.float32)

    distance = (energies - nearest[0]).astype(jnp.float32) - by_node(centre - nearest[0])
    exponent = 0.5 * (distance / by_node(width)) ** 2
    lights = lights.astype(jnp.float32)
    brightest = lights.max(axis=1, keepdims=True)
    floor = jnp.maximum(lights, 1e-30 * brightest + 1e-37)
    dimmed = jnp.log(jnp.maximum(brightest, 1e-30) / floor)
    dimmest = (exponent + dimmed[:, None]).min(axis=(1, 2))
    area = by_node(cloud.amplitude / jnp.sqrt(determinant * variance))
    photons = (area * lights[:, None] * jnp.exp(-exponent)).sum(axis=(1, 2))
    return covariance, centre, width, dimmest.astype(jnp.float64), photons


def _cut(q, covariance, energy):
    """Return how clouds are cut by the Ewald sphere of an energy, taken as flat over a cloud.

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
    middle = [r - t * (excess / variance) for r, t in zip(ray, toward, strict=True)]
    return middle, normal, toward, variance, excess


# ---------------------------------------------------------------- pixels that clouds reach


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
    """Return the boxes of clouds on panels, clipped to the panels."""
    cloud, panel = _meetings(followed, detector)
    padded_cloud, padded_panel = filled((cloud, panel), SMALLEST_MEETINGS)

    def of_clouds(tree: Any) -> Any:
        return jax.tree.map(lambda column: np.asarray(column)[padded_cloud], tree)

    def of_panels(vectors: Array) -> tuple:
        return tuple(np.asarray(vectors)[padded_panel].T)

    ahead, sigma, low, high = _extent(
        of_clouds(followed.cloud.q),
        of_clouds(followed.covariance),
        of_clouds(followed.low),
        of_clouds(followed.high),
        of_clouds(followed.cut),
        of_panels(detector.origin_mm),
        of_panels(detector.fast),
        of_panels(detector.slow),
        of_panels(geometry.normals(detector)),
        detector.pixel_mm,
    )
    n = len(cloud)
    low = np.stack(low)[:, :n]
    high = np.stack(high)[:, :n]
    slack = SLACK_PX + _sagitta(low, high, geometry.beam_center(detector), panel)
    size = np.array(detector.shape[::-1])[:, None]
    first = np.clip(np.floor(low - slack), 0, size).astype(np.int64)
    last = np.clip(np.ceil(high + slack), 0, size).astype(np.int64)
    is_met = np.asarray(ahead)[:n] & (last > first).all(axis=0)
    met = np.flatnonzero(is_met)
    fast0, slow0 = first[:, met]
    width, height = (last - first)[:, met]
    return _Boxes(
        cloud=cloud[met],
        panel=panel[met],
        fast0=fast0,
        slow0=slow0,
        width=width,
        height=height,
        sigma_px=np.asarray(sigma)[met],
    )


def _meetings(followed: _Followed, detector: Detector) -> tuple[np.ndarray, np.ndarray]:
    """Return clouds that matter and panels that they may meet, (n,) each."""
    live = np.flatnonzero(followed.cut > 0)
    n_panels = detector.n_panels
    if n_panels == 1:
        return live, np.zeros(len(live), dtype=np.int64)
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * detector.shape[::-1]
    of_corners = np.arange(n_panels).repeat(4)
    fast, slow = np.tile(corners, (n_panels, 1)).T
    rays = geometry.direction(detector, of_corners, fast, slow).reshape(-1, 4, 3)
    middle = rays.mean(axis=1)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    cosines = (rays * middle[:, None]).sum(axis=-1)
    half_angle = np.arccos(np.clip(cosines.min(axis=1), -1.0, 1.0))
    q = np.stack(followed.cloud.q, axis=1)[live]
    k = np.stack([followed.low, followed.high])[:, live] / HC_EV_ANGSTROM
    ends = q + k[..., None] * geometry.S0
    ends /= np.linalg.norm(ends, axis=-1, keepdims=True)
    size = np.sqrt(sum(np.asarray(c)[live] for c in followed.covariance[:3]))
    streak = np.linalg.norm(ends[1] - ends[0], axis=1)
    reach = np.sqrt(2 * followed.cut[live]) * size / k[0] + streak
    cosine = np.cos(reach)
    sine = np.sin(reach)
    met = []
    for axis, angle in zip(middle, half_angle, strict=True):  # one row of clouds at a time
        limit = np.cos(angle) * cosine - np.sin(angle) * sine
        is_near = (ends[0] @ axis >= limit) | (angle + reach >= np.pi)
        met.append(np.flatnonzero(is_near))
    n_met = [len(rows) for rows in met]
    return live[np.concatenate(met)], np.arange(n_panels).repeat(n_met)


@jax.jit
def _extent(q, covariance, low, high, cut, origin, fast, slow, normal, pixel_mm):
    """Return where clouds fall on panels.

    That is: whether they lie ahead, their smallest σ (px), the lowest and the highest (fast, slow)
    that they reach, px.
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
        variances = []
        for i, axis in enumerate((fast, slow)):
            position = (scale * dot(ray, axis) - dot(origin, axis)) / pixel_mm
            tilted = dot(ray, axis) / along
            gradient = [
                scale * (a - m * tilted) / pixel_mm for a, m in zip(axis, normal, strict=True)
            ]
            own = dot(gradient, times(covariance, gradient))
            on_panel = own - dot(toward, gradient) ** 2 / variance
            half = SLACK_SIGMA * reach * jnp.sqrt(jnp.maximum(on_panel, 0.0))
            lows[i] = jnp.minimum(lows[i], position - half)
            highs[i] = jnp.maximum(highs[i], position + half)
            gradients.append(gradient)
            variances.append(on_panel)
        f, s = gradients
        ff, ss = variances
        fs = dot(f, times(covariance, s)) - dot(toward, f) * dot(toward, s) / variance
        least = 0.5 * (ff + ss) - jnp.sqrt(0.25 * (ff - ss) ** 2 + fs**2)
        sigma = jnp.minimum(sigma, jnp.sqrt(jnp.maximum(least, 0.0)))
    return ahead, sigma, lows, highs


def _sagitta(
    low: np.ndarray, high: np.ndarray, centre: tuple[np.ndarray, np.ndarray], panel: np.ndarray
) -> np.ndarray:
    """Return by how many px a streak across the radius bends away from a straight line, (n,).

    low, high: (2, n) ends of the streak; centre: of the beam on each panel, fast and slow.
    """
    half = 0.5 * (high - low).max(axis=0)
    from_centre = 0.5 * (low + high) - np.stack([c[panel] for c in centre])
    radius = np.hypot(*from_centre)
    return half**2 / (2 * np.maximum(radius, half))


def _footprints(
    boxes: _Boxes, n_components: int, oversample: int | None
) -> tuple[Footprints, np.ndarray]:
    """Return footprints around the boxes of a node on a panel, and the footprint of each box."""
    node = boxes.cloud // n_components
    n_panels = int(boxes.panel.max(initial=0)) + 1
    key, footprint_of = np.unique(node * n_panels + boxes.panel, return_inverse=True)

    def smallest(column: np.ndarray) -> np.ndarray:
        out = np.full(len(key), np.inf)
        np.minimum.at(out, footprint_of, column)
        return out

    fast0 = smallest(boxes.fast0)
    slow0 = smallest(boxes.slow0)
    n = np.full(len(key), oversample or 1)
    if oversample is None:
        sigma_px = np.maximum(smallest(boxes.sigma_px), 1e-3)
        n = np.clip(np.ceil(SHARPNESS / sigma_px), 1, FINEST)
    columns = {
        "node": key // n_panels,
        "panel": key % n_panels,
        "fast0": fast0,
        "slow0": slow0,
        "width": -smallest(-boxes.fast0 - boxes.width) - fast0,
        "height": -smallest(-boxes.slow0 - boxes.height) - slow0,
        "oversample": n,
    }
    whole = {name: np.asarray(column).astype(np.int64) for name, column in columns.items()}
    return Footprints(**whole), footprint_of


class _Pieces(NamedTuple):
    """Rectangles of points, and the cloud that may reach them. Shape (piece,)."""

    corner: np.ndarray
    """row of the first point"""
    stride: np.ndarray
    """from one row of the rectangle to the next"""
    width: np.ndarray
    height: np.ndarray
    cloud: np.ndarray


def _pieces(boxes: _Boxes, footprints: Footprints, footprint_of: np.ndarray) -> _Pieces:
    """Return all boxes as points of their footprints."""
    n = footprints.oversample[footprint_of]
    stride = (footprints.width * footprints.oversample)[footprint_of]
    row = (boxes.slow0 - footprints.slow0[footprint_of]) * n
    column = (boxes.fast0 - footprints.fast0[footprint_of]) * n
    corner = footprints.first_point[footprint_of] + row * stride + column
    return _Pieces(corner, stride, boxes.width * n, boxes.height * n, boxes.cloud)


def _candidates(pieces: _Pieces) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows of the points and clouds of all pieces, about `CANDIDATES` at a time."""
    n_points = pieces.width * pieces.height
    group = np.cumsum(n_points) // CANDIDATES
    groups = np.split(np.arange(len(n_points)), np.flatnonzero(np.diff(group)) + 1)
    for of_group in groups:
        piece = of_group.repeat(n_points[of_group])
        i = _counted(n_points[of_group])
        width = pieces.width[piece]
        point = pieces.corner[piece] + i // width * pieces.stride[piece] + i % width
        yield point, pieces.cloud[piece]


# ---------------------------------------------------------------- channels that matter


def _select(followed: _Followed, parameters: Parameters, pixels: Pixels, pieces: _Pieces) -> Pairs:
    """Return the pairs among the points and clouds of the pieces that can hold signal."""
    padded = filled(pixels, SMALLEST_TABLE)
    ray = compiled_rays(parameters.detector, parameters.polarization, padded)
    first, last = lit(parameters.spectrum)
    energies = np.asarray(parameters.spectrum.energies_ev, dtype=np.float64)
    middle = 0.5 * (energies[0] + energies[-1])
    ticks = _ticks(energies, first, last)
    selected = [np.empty((3, 0), dtype=np.int32)]
    for point, cloud in _candidates(pieces):
        for start in range(0, len(point), BLOCK):
            points_of_block = _padded_block(point, start)
            clouds_of_block = _padded_block(cloud, start)
            channel, n_windows = _windows(
                ray, followed.cloud, followed.cut, middle, points_of_block, clouds_of_block, ticks
            )
            n = min(BLOCK, len(point) - start)
            n_windows = np.asarray(n_windows)[:n]
            pair = np.repeat(np.arange(n), n_windows)
            channels = np.asarray(channel)[pair] + WINDOW * _counted(n_windows)
            block = np.stack([points_of_block[pair], clouds_of_block[pair], channels])
            selected.append(block.astype(np.int32))
    return Pairs(*np.concatenate(selected, axis=1))


def _padded_block(column: np.ndarray, start: int) -> np.ndarray:
    """Return `BLOCK` entries of a column from `start` on, with zeros beyond its end."""
    block = column[start : start + BLOCK].astype(np.int32)
    return np.pad(block, (0, BLOCK - len(block)))


class _Ticks(NamedTuple):
    """The lit channel that follows each mark of an even grid of energies."""

    start: float
    step: float
    channel: np.ndarray
    """first lit … one past the last"""


def _ticks(energies: np.ndarray, first: int, last: int) -> _Ticks:
    """Return marks no farther apart than the channels (at most 4096 of them).

    They are exact, or on the safe side. first, last: of `lit`. There are as many marks whatever is
    lit: pulses share one compiled program.
    """
    span = float(energies[-1] - energies[0])
    step = 1.0
    if len(energies) > 1:
        step = max(float(np.diff(energies).min(initial=np.inf)), span / MAX_TICKS)
    marks = energies[0] + step * np.arange(-1, int(np.ceil(span / step)) + 3)
    channel = np.clip(np.searchsorted(energies, marks), first, last)
    return _Ticks(float(marks[0]), step, channel.astype(np.int32))


@jax.jit
def _windows(ray: Rays, cloud: Clouds, cut, middle, point, cloud_row, ticks: _Ticks):
    """Return the first lit channel and the number of windows (0 = none) of pairs."""
    parabola = exponents(ray, cloud, middle, point, cloud_row)
    centre = parabola.centre
    left = cut[cloud_row] - parabola.floor
    half = jnp.sqrt(jnp.maximum(2.0 * left / parabola.a2, 0.0))
    top = len(ticks.channel) - 1

    def mark(energy: Array) -> Array:
        return jnp.clip((energy + middle - ticks.start) / ticks.step, 0, top)

    first = ticks.channel[jnp.floor(mark(centre - half)).astype(jnp.int32)]
    last = ticks.channel[jnp.ceil(mark(centre + half)).astype(jnp.int32)]
    n_windows = (last - first + WINDOW - 1) // WINDOW
    return first, jnp.where(left > 0, n_windows, 0)
