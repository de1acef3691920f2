"""Which pixels a lattice can reach, and which of its clouds and channels matter in each of them.

A cloud is followed out to `REACH` standard deviations, and farther where a node shows but tails or
in dim channels: what is left out of a reflection is P(χ²₃ > REACH²) of it, 1e-10.
"""

from typing import NamedTuple

import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Crystal, Mosaic, Parameters, Pixels, Spectrum
from spreadflow.physics import geometry, pair_loops, rotation
from spreadflow.physics.cloud_boxes import CloudBoxes, FollowedClouds, boxes_of, follow
from spreadflow.physics.lattice_factor import SIZE_SIGMA
from spreadflow.physics.pair_loops import Pieces, Ticks
from spreadflow.physics.pair_tables import Pairs, rays_by_point
from spreadflow.physics.spectrum import lit
from spreadflow.units import HC_EV_ANGSTROM

REACH = 7.0
"""Standard deviations out to which a cloud is followed."""

SHARPNESS = 0.8
"""Points to each standard deviation of the sharpest cloud, where `oversample` is left open."""

FINEST = 8
"""Points along each edge of a pixel, at most, where `oversample` is left open."""

MAX_TICKS = 4096
"""Marks of the grid of energies, at most."""


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


def reached(crystal: Crystal, mosaic: Mosaic, hkl: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """Return rows of the nodes hkl (n, 3) some cloud of which may touch a lit Ewald sphere."""
    q = hkl @ crystal.A.T
    length = np.linalg.norm(q, axis=1)
    domain_sigma = SIZE_SIGMA * np.linalg.norm(crystal.A / crystal.n_cells, ord=2)
    tilt_sigma = np.max(crystal.eta_rad) * mosaic.width.max() * length
    largest_tilt = rotation.angle(mosaic.rotations).max() * length
    distance = REACH * np.hypot(domain_sigma, tilt_sigma) + largest_tilt

    first, last = lit(spectrum)
    smallest_k = spectrum.energies_ev[first] / HC_EV_ANGSTROM
    largest_k = spectrum.energies_ev[last - 1] / HC_EV_ANGSTROM
    outside_smallest = np.linalg.norm(q + smallest_k * geometry.S0, axis=1) - smallest_k
    outside_largest = np.linalg.norm(q + largest_k * geometry.S0, axis=1) - largest_k
    is_reached = (outside_largest <= distance) & (outside_smallest >= -distance)
    return np.flatnonzero(is_reached)


class LaidOut(NamedTuple):
    """What photons are summed from."""

    footprints: Footprints
    pixels: Pixels
    """all points"""
    rays: np.ndarray
    """(point, 4) as of `pair_tables.rays_by_point`"""
    pairs: Pairs


def lay_out(parameters: Parameters, oversample: int | None = 1) -> LaidOut:
    """Return the footprints of all reflections, their points, and the pairs that matter.

    Points go box after box, row by row in each. oversample: points along each edge of a pixel;
    None = as many as the sharpest cloud of a reflection needs.
    """
    followed = follow(parameters, REACH)
    boxes = boxes_of(followed, parameters.detector)
    footprints, footprint_of = _footprints(boxes, len(parameters.mosaic.share), oversample)
    pixels = points(footprints)
    rays = rays_by_point(parameters.detector, parameters.polarization, pixels)
    pieces = _pieces(boxes, footprints, footprint_of)
    pairs = _select(followed, parameters.spectrum, rays, pieces)
    return LaidOut(footprints, pixels, rays, pairs)


def within(
    parameters: Parameters,
    panel: np.ndarray,
    bbox: np.ndarray,
    reach: float = REACH,
    oversample: int = 1,
) -> tuple[np.ndarray, Pairs]:
    """Return the rays (point, 4) to the points of rectangles, one after another, and the pairs that
    matter.

    bbox: (n, 4) fast0 fast1 slow0 slow1, half open. Points are in the order of shoeboxes.
    oversample: points along each edge of a pixel; those of a rectangle go row by row, through all
    of its pixels. reach: see `pairs_within`.
    """
    places = rectangles(panel, bbox, oversample)
    rays = rays_by_point(parameters.detector, parameters.polarization, points(places))
    return rays, pairs_within(parameters, places, rays, reach)


def pairs_within(
    parameters: Parameters, places: Footprints, rays: np.ndarray, reach: float = REACH
) -> Pairs:
    """Return the pairs of the points of rectangles that matter, of all nodes: a rectangle also gets
    what other reflections put there.

    rays: (point, 4) to the points. reach: standard deviations out to which clouds are followed.
    """
    followed = follow(parameters, reach)
    boxes = boxes_of(followed, parameters.detector)
    overlaps = [_overlap(boxes, places, row) for row in range(len(places.node))]
    nothing = np.empty((5, 0), dtype=np.int64)
    pieces = Pieces(*np.concatenate([nothing, *overlaps], axis=1))
    return _select(followed, parameters.spectrum, rays, pieces)


def _overlap(boxes: CloudBoxes, footprints: Footprints, row: int) -> np.ndarray:
    """Return the pieces (5, piece) of one footprint that clouds reach, with the fields of
    `Pieces` as rows.
    """
    fast0 = footprints.fast0[row]
    slow0 = footprints.slow0[row]
    fast1 = fast0 + footprints.width[row]
    slow1 = slow0 + footprints.height[row]
    low_fast = np.maximum(boxes.fast0, fast0)
    low_slow = np.maximum(boxes.slow0, slow0)
    width = np.minimum(boxes.fast1, fast1) - low_fast
    height = np.minimum(boxes.slow1, slow1) - low_slow
    is_on_panel = boxes.panel == footprints.panel[row]
    met = np.flatnonzero(is_on_panel & (width > 0) & (height > 0))

    n = footprints.oversample[row]
    stride = np.full(len(met), n * footprints.width[row])
    point_row = n * (low_slow[met] - slow0)
    point_column = n * (low_fast[met] - fast0)
    corner = footprints.first_point[row] + point_row * stride + point_column
    return np.stack([corner, stride, n * width[met], n * height[met], boxes.cloud[met]])


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
    boxes = boxes_of(follow(parameters, REACH), parameters.detector)
    node = boxes.cloud // len(parameters.mosaic.share)
    is_met = np.zeros(len(parameters.hkl), dtype=bool)
    for number, (fast0, fast1, slow0, slow1) in zip(panel, bbox, strict=True):
        is_apart = (boxes.fast0 >= fast1) | (boxes.fast1 <= fast0)
        is_apart |= (boxes.slow0 >= slow1) | (boxes.slow1 <= slow0)
        rows = (boxes.panel == number) & ~is_apart
        is_met[node[rows]] = True
    return is_met


# ---------------------------------------------------------------- points


def points(footprints: Footprints) -> Pixels:
    """Return all points of footprints, one after another, row by row; coordinates in px."""
    n_points = footprints.n_points
    footprint = np.repeat(np.arange(len(footprints.node)), n_points)
    number = _counted(n_points)
    n = footprints.oversample[footprint]
    points_per_row = footprints.width[footprint] * n
    column = number % points_per_row
    row = number // points_per_row
    return Pixels(
        panel=footprints.panel[footprint].astype(np.int32),
        fast=footprints.fast0[footprint] + (column + 0.5) / n,
        slow=footprints.slow0[footprint] + (row + 0.5) / n,
    )


def _counted(counts: np.ndarray) -> np.ndarray:
    """Return 0 … count − 1 for each of the counts, one after another."""
    ends = np.cumsum(counts)
    total = ends[-1] if len(ends) else 0
    return np.arange(total) - np.repeat(ends - counts, counts)


def _footprints(
    boxes: CloudBoxes, n_components: int, oversample: int | None
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
    fast1 = -smallest(-boxes.fast1)
    slow1 = -smallest(-boxes.slow1)
    n = np.full(len(key), oversample or 1)
    if oversample is None:
        sigma_px = np.maximum(smallest(boxes.sigma_px), 1e-3)
        n = np.clip(np.ceil(SHARPNESS / sigma_px), 1, FINEST)
    columns = {
        "node": key // n_panels,
        "panel": key % n_panels,
        "fast0": fast0,
        "slow0": slow0,
        "width": fast1 - fast0,
        "height": slow1 - slow0,
        "oversample": n,
    }
    whole = {name: np.asarray(column).astype(np.int64) for name, column in columns.items()}
    return Footprints(**whole), footprint_of


def _pieces(boxes: CloudBoxes, footprints: Footprints, footprint_of: np.ndarray) -> Pieces:
    """Return all boxes as points of their footprints."""
    n = footprints.oversample[footprint_of]
    stride = (footprints.width * footprints.oversample)[footprint_of]
    row = (boxes.slow0 - footprints.slow0[footprint_of]) * n
    column = (boxes.fast0 - footprints.fast0[footprint_of]) * n
    return Pieces(
        corner=footprints.first_point[footprint_of] + row * stride + column,
        stride=stride,
        width=boxes.width * n,
        height=boxes.height * n,
        cloud=boxes.cloud,
    )


# ---------------------------------------------------------------- channels that matter


def _select(
    followed: FollowedClouds, spectrum: Spectrum, rays: np.ndarray, pieces: Pieces
) -> Pairs:
    """Return the pairs among the points and clouds of the pieces that can hold signal."""
    energies = np.asarray(spectrum.energies_ev, dtype=np.float64)
    middle = 0.5 * (energies[0] + energies[-1])
    ticks = ticks_of(spectrum)
    clouds = pair_loops.rows_of_clouds(followed.cloud)
    rows, n = pair_loops.matching(rays, clouds, followed.cut, middle, pieces, ticks)
    return Pairs(*np.ascontiguousarray(rows[:n].T))


def ticks_of(spectrum: Spectrum) -> Ticks:
    """Return the marks of a pulse."""
    energies = np.asarray(spectrum.energies_ev, dtype=np.float64)
    return _ticks(energies, *lit(spectrum))


def _ticks(energies: np.ndarray, first: int, last: int) -> Ticks:
    """Return marks no farther apart than the channels (at most 4096 of them).

    They are exact, or on the safe side. first, last: of `lit`. There are as many marks whatever is
    lit: pulses share one compiled program.
    """
    span = float(energies[-1] - energies[0])
    step = 1.0
    if len(energies) > 1:
        narrowest = float(np.diff(energies).min(initial=np.inf))
        step = max(narrowest, span / MAX_TICKS)
    n_steps = int(np.ceil(span / step))
    marks = energies[0] + step * np.arange(-1, n_steps + 3)
    channel = np.clip(np.searchsorted(energies, marks), first, last)
    return Ticks(float(marks[0]), step, channel.astype(np.int32))
