"""Stage 1: one lattice against the pixels of its shoeboxes.

The unknowns are ln scale, rotation (3, rad), strains of the cell (1-6, the space group's), ln N (1
or 3), ln η (1 or 3), and instead of the cell the distance (mm) or the relative wavelength. Pixels
depend on them through `physics.forward`.
"""

from collections.abc import Callable
from copy import copy
from typing import NamedTuple

import jax
import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.analysis import least_squares
from spreadflow.analysis.least_squares import Fit
from spreadflow.analysis.orientation_matrix import (
    CrystalFrame,
    crystal_frame,
    matrix,
    recentred,
    turn,
)
from spreadflow.analysis.pixels import pixel_points, plane_loops, restraints, solve
from spreadflow.analysis.pixels.likelihood import Target, dark, pixelwise, variance
from spreadflow.analysis.pixels.pixel_points import PixelPoints
from spreadflow.analysis.pixels.plane_loops import NoiseTerms, PixelColumns
from spreadflow.analysis.pixels.restraints import Restraints, Unknown
from spreadflow.models import Crystal, Mosaic, Noise, Parameters, Pixels, Shoeboxes, pixel_places
from spreadflow.physics import forward, geometry, layout
from spreadflow.physics.lattice_factor import GAUSS
from spreadflow.physics.mosaic import continuous
from spreadflow.physics.padding import to_few_sizes
from spreadflow.physics.pair_tables import Pairs, rays_by_point
from spreadflow.units import DEG

LARGEST_STEPS = {
    "scale": 3.0,
    "rotation": 1e-3,
    "cell": 3e-3,
    "n_cells": 0.4,
    "eta": 0.4,
    "distance": 0.3,
    "wavelength": 3e-3,
}
"""Largest change of each kind of unknown in one step: ln, rad, strain, ln, ln, mm, relative."""

DISTANCE_STEP_MM = 2e-4
"""Half the shift of the detector over which derivatives by the distance are differences, mm."""

BROAD_ETA = 0.15 * DEG
"""η of the first pass, in which spots are broad enough to be found from 0.1° away, rad."""

BROAD_N = 40.0
"""Cells along each axis of a domain in the first pass, at most."""

BROAD_ITERATIONS = 10
"""Evaluations of the first pass, at most."""

BROAD_SMALLEST_STEPS = {"scale": np.inf, "rotation": 0.02 * DEG}
"""Step that ends the first pass, by kind of unknown: ln, rad."""

BROAD_WIDTHS = 3
"""Gaussians of the mosaicity of the first pass."""

BROAD_REACH = 3.5
"""Standard deviations out to which clouds are followed in the first pass."""

REACH = 5.7
"""Standard deviations out to which clouds are followed: 1e-7 of a reflection is left out."""

STALE_SIGMA = 0.5
"""Pairs are laid out anew when nodes have moved by so many of their standard deviations."""

STALE_LOG = 0.1
"""Pairs are laid out anew when N or η has changed by such a factor, in ln."""

STALE_PX = 0.1
"""Pairs are laid out anew when the detector has moved a spot by so much, px."""


class Problem(NamedTuple):
    """A lattice and its pixels."""

    start: Parameters
    """where the unknowns are zero, but for A, which `frame` holds"""
    frame: CrystalFrame
    """from which rotation and strains are counted"""
    boxes: Shoeboxes
    data: solve.Data
    """the valid pixels"""
    noise: Noise
    oversample: int = 1
    """points along each edge of a pixel that the model is averaged over"""
    restraints: Restraints | None = None
    """what is known beside the pixels; None = nothing"""


def reachable(start: Parameters, boxes: Shoeboxes) -> np.ndarray:
    """Return the rows of the nodes of `start` that may put photons into the shoeboxes, even where
    the orientation is 0.1° wrong.

    start: with any f_squared (node, channel) > 0, such as ones.
    """
    crystal = start.crystal._replace(eta_rad=_broad_eta(start.crystal))
    wide = start._replace(crystal=crystal, mosaic=continuous(), edge_px=1.0)
    hkl = np.asarray(start.hkl)
    f_squared = np.asarray(start.f_squared)
    rows = layout.reached(crystal, wide.mosaic, hkl, start.spectrum)
    hkl, f_squared = to_few_sizes((hkl[rows], f_squared[rows]))
    nodes = wide._replace(hkl=hkl, f_squared=f_squared)
    is_met = layout.meets(nodes, boxes.panel, boxes.bbox)[: len(rows)]
    return rows[is_met]


def _broad_eta(crystal: Crystal) -> np.float64:
    """Return the η with which spots are broad: one for all axes, at least `BROAD_ETA`, rad."""
    return np.float64(max(float(np.max(crystal.eta_rad)), BROAD_ETA))


def problem(
    start: Parameters, space_group: str, boxes: Shoeboxes, noise: Noise, oversample: int = 1
) -> Problem:
    """Return the problem of the valid pixels of the shoeboxes, which starts at `start`, its A
    brought to what the space group allows.

    oversample: the model of a pixel is the mean over so many points along each edge, each averaged
    over its square.
    """
    cell = crystal_frame(np.asarray(start.crystal.A), space_group)
    hkl, f_squared = to_few_sizes((np.asarray(start.hkl), np.asarray(start.f_squared)))
    start = start._replace(hkl=hkl, f_squared=f_squared, edge_px=1.0 / oversample)

    box = pixel_places(boxes.bbox)[0]
    middle = 0.5 * (boxes.bbox[:, ::2] + boxes.bbox[:, 1::2])
    slopes = (boxes.middles - middle[box]) / solve.SCALE_PX
    plane = np.column_stack([np.ones(len(box)), slopes])

    n_valid = np.bincount(box[boxes.valid], minlength=len(boxes.panel))
    data = solve.Data(
        photons=boxes.photons[boxes.valid].astype(np.float64),
        plane=plane[boxes.valid],
        start=np.concatenate([[0], np.cumsum(n_valid)]),
    )
    return Problem(start, cell, boxes, data, noise, oversample)


def moved(problem: Problem, parameters: Parameters) -> Problem:
    """Return the problem that starts at other parameters."""
    frame = recentred(problem.frame, parameters.crystal.A)
    return problem._replace(start=parameters, frame=frame)


def points(boxes: Shoeboxes, oversample: int = 1) -> Pixels:
    """Return all pixels of the shoeboxes, in their order; with more than one point a pixel, the
    points as `layout.within` has them.
    """
    return layout.points(layout.rectangles(boxes.panel, boxes.bbox, oversample))


def unknowns(
    free: tuple[Unknown, ...], mosaic: Mosaic, n_strains: int, n_axes: int, n_eta_axes: int = 1
) -> dict[Unknown, int]:
    """Return how many unknowns there are of each free kind. n_axes, n_eta_axes: of N and η, 1 or 3.

    η is none where the mosaicity consists of single domains, or was learned.
    """
    sizes = {"rotation": 3, "cell": n_strains, "n_cells": n_axes, "eta": n_eta_axes}
    return {name: sizes.get(name, 1) for name in free if name != "eta" or mosaic.has_eta}


def names(sizes: dict[Unknown, int]) -> list[str]:
    """Return one name per unknown: rotation_1, cell_1 ... where there are several of a kind."""
    return [name if n == 1 else f"{name}_{i + 1}" for name, n in sizes.items() for i in range(n)]


class LaidOut(NamedTuple):
    """The pairs of points and clouds from which photons are summed."""

    parameters: Parameters
    rays: np.ndarray
    """(point, 4) as of `pair_tables.rays_by_point`"""
    pairs: Pairs
    points: PixelPoints


class Model:
    """Bragg photons of a problem's valid pixels and their derivatives, as a function of the free
    unknowns.

    n_axes: unknowns of N, 1 or 3 (η has one for each value that it starts with); reach: standard
    deviations out to which clouds are followed.
    """

    def __init__(
        self,
        problem: Problem,
        free: tuple[Unknown, ...],
        n_axes: int = 1,
        reach: float = REACH,
    ):
        n_strains = len(problem.frame.strains)
        n_eta_axes = np.size(problem.start.crystal.eta_rad)
        sizes = unknowns(free, problem.start.mosaic, n_strains, n_axes, n_eta_axes)
        ends = np.cumsum([0, *sizes.values()])
        bounds = zip(sizes, ends, ends[1:], strict=False)
        self.problem = problem
        self.free = tuple(sizes)
        self.reach = reach
        self.slices = {name: slice(first, last) for name, first, last in bounds}
        self.n_unknowns = int(ends[-1])
        self.n_layouts = 0
        self._points = pixel_points.of_boxes(problem.boxes, problem.oversample)
        self._rays: np.ndarray | None = None
        self._laid_out: Parameters | None = None

    def names(self) -> list[str]:
        """Return one name per unknown."""
        return names({name: columns.stop - columns.start for name, columns in self.slices.items()})

    def filled(self, by_name: dict[Unknown, float]) -> np.ndarray:
        """Return an array (unknown,) with a number for each kind of unknown."""
        return np.concatenate(
            [
                np.empty(0),
                *(
                    np.full(columns.stop - columns.start, by_name[name])
                    for name, columns in self.slices.items()
                ),
            ]
        )

    def restraint(self) -> solve.Restraint:
        """Return the problem's restraints of the unknowns, and weak ones about the start of the
        others.
        """
        problem = self.problem
        return restraints.restraint(self.slices, problem.start, problem.frame, problem.restraints)

    def unknown(self, u: np.ndarray, name: Unknown, n: int) -> np.ndarray:
        """Return the unknowns of a kind, or n zeros where they are not free."""
        return u[self.slices[name]] if name in self.slices else np.zeros(n)

    def parameters(self, u: np.ndarray) -> Parameters:
        """Return the parameters that the unknowns (unknown,) stand for."""
        start = self.problem.start
        A = np.asarray(_A(self.problem.frame, self._coordinates(u)))
        eta_rad = start.crystal.eta_rad
        ln_ratio = self.unknown(u, "eta", np.size(eta_rad)).reshape(np.shape(eta_rad))
        crystal = start.crystal._replace(
            A=A / (1.0 + self.unknown(u, "wavelength", 1)[0]),
            n_cells=start.crystal.n_cells * np.exp(self.unknown(u, "n_cells", 1)),
            eta_rad=eta_rad * np.exp(ln_ratio),
        )
        detector = start.detector
        if "distance" in self.free:
            distance_mm = self.unknown(u, "distance", 1)[0]
            detector = geometry.shifted(detector, 0.0, 0.0, distance_mm)
        scale = start.scale * np.exp(self.unknown(u, "scale", 1)[0])
        return start._replace(crystal=crystal, scale=scale, detector=detector)

    def _coordinates(self, u: np.ndarray) -> np.ndarray:
        """Return what `orientation_matrix.matrix` makes A of: rotation (3) and strains."""
        n_strains = len(self.problem.frame.strains)
        return np.concatenate([self.unknown(u, "rotation", 3), self.unknown(u, "cell", n_strains)])

    def __call__(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return photons (pixel,) of the valid pixels, and their derivatives (pixel, unknown)."""
        p = self.parameters(u)
        rays = self._lay_out(p)
        directions = np.zeros((12 + np.size(p.crystal.eta_rad), self.n_unknowns))
        for name, columns in self.slices.items():
            rows, of_kind = self._directions(name, u, p)
            directions[rows, columns] = of_kind
        sums = forward.by_crystal(p, rays, self._pairs, directions, self._points.pixel)
        photons, derivatives = (self._points.means_of_sums(column) for column in sums)
        if "scale" in self.slices:
            derivatives[:, self.slices["scale"]] = photons[:, None]
        if "distance" in self.slices:
            derivatives[:, self.slices["distance"]] = self._by_distance(p)
        return photons, derivatives

    def photons(self, u: np.ndarray) -> np.ndarray:
        """Return photons (pixel,) of the valid pixels, without derivatives."""
        p = self.parameters(u)
        return self._photons(p, self._lay_out(p))

    def laid_out(self, u: np.ndarray) -> "LaidOut":
        """Return what photons of single nodes are summed from."""
        p = self.parameters(u)
        rays = self._lay_out(p)
        return LaidOut(p, rays, self._pairs, self._points)

    def scaled(self, factor: float) -> "Model":
        """Return the model with its start brighter by a factor."""
        out = copy(self)
        start = self.problem.start
        brighter = start._replace(scale=start.scale * factor)
        out.problem = self.problem._replace(start=brighter)
        return out

    def at(self, problem: Problem) -> "Model":
        """Return the model of a problem of the same pixels and detector that starts elsewhere."""
        out = copy(self)
        out.problem = problem
        out._laid_out = None
        return out

    def _photons(self, p: Parameters, rays: np.ndarray) -> np.ndarray:
        """Return photons (pixel,) of the valid pixels."""
        of_points, *_ = forward.sums(p, rays, self._pairs)
        return self._points.means(of_points)

    def _directions(
        self, name: Unknown, u: np.ndarray, p: Parameters
    ) -> tuple[slice, np.ndarray | float]:
        """Return how the parameters of the crystal, in the order of `clouds.cloud_changes`, change
        with the unknowns of a kind: which do, and (parameter, n) by how much.
        """
        of_A = slice(0, 9)
        if name in ("rotation", "cell"):
            dA = np.asarray(_dA(self.problem.frame, self._coordinates(u))).reshape(9, -1)
            return of_A, dA[:, :3] if name == "rotation" else dA[:, 3:]
        if name == "n_cells":
            columns = self.slices[name]
            has_each_axis = columns.stop - columns.start == 3
            n_cells = p.crystal.n_cells
            return slice(9, 12), np.diag(n_cells) if has_each_axis else n_cells[:, None]
        if name == "eta":
            return slice(12, None), np.diag(np.ravel(p.crystal.eta_rad))
        if name == "wavelength":
            return of_A, -np.reshape(p.crystal.A, (9, 1))
        return of_A, 0.0

    def _by_distance(self, p: Parameters) -> np.ndarray:
        """Return the derivatives (pixel, 1) by the distance, mm, as differences."""

        def photons(distance_mm: float) -> np.ndarray:
            detector = geometry.shifted(p.detector, 0.0, 0.0, distance_mm)
            shifted = p._replace(detector=detector)
            return self._photons(shifted, self._new_rays(shifted))

        difference = photons(DISTANCE_STEP_MM) - photons(-DISTANCE_STEP_MM)
        return (difference / (2 * DISTANCE_STEP_MM))[:, None]

    def _lay_out(self, p: Parameters) -> np.ndarray:
        """Return the rays (point, 4) to the points. Lay out pairs for these parameters, unless
        those laid out before still serve.
        """
        if self._rays is None or "distance" in self.free:
            self._rays = self._new_rays(p)
        if self._laid_out is not None and not _is_stale(self._laid_out, p):
            return self._rays
        boxes = self.problem.boxes
        oversample = self.problem.oversample
        places = layout.rectangles(boxes.panel, boxes.bbox, oversample)
        self._pairs = layout.pairs_within(p, places, self._rays, self.reach)
        self._laid_out = p
        self.n_layouts += 1
        return self._rays

    def _new_rays(self, p: Parameters) -> np.ndarray:
        """Return the rays (point, 4) to all points."""
        of_points = points(self.problem.boxes, self.problem.oversample)
        return rays_by_point(p.detector, p.polarization, of_points)


_A = jax.jit(matrix)
_dA = jax.jit(jax.jacfwd(matrix, argnums=1))


def _is_stale(laid_out: Parameters, p: Parameters) -> bool:
    """Whether pairs laid out for some parameters no longer serve for others."""
    old = laid_out.crystal
    new = p.crystal

    strain = np.linalg.solve(old.A, new.A) - np.eye(3)
    shift_hkl = strain @ np.asarray(p.hkl).T
    shift_of_cloud = new.n_cells[:, None] * shift_hkl
    square = (shift_of_cloud**2).sum(axis=0)
    farthest_sigma = np.sqrt(4 / GAUSS * square).max(initial=0.0)

    ratios = np.append(new.n_cells / old.n_cells, new.eta_rad / np.maximum(old.eta_rad, 1e-9))
    largest_log = np.abs(np.log(ratios)).max()

    shift_mm = p.detector.origin_mm - laid_out.detector.origin_mm
    shift_px = np.linalg.norm(shift_mm, axis=-1).max() / p.detector.pixel_mm
    return bool(farthest_sigma > STALE_SIGMA or largest_log > STALE_LOG or shift_px > STALE_PX)


# ---------------------------------------------------------------- the fit


class RefinedLattice(NamedTuple):
    """A lattice after its fit."""

    parameters: Parameters
    names: list[str]
    """of the unknowns"""
    fit: Fit[solve.Point]
    loss_before: float
    """−ln L of the start, with the scale and the planes that suit it best, restraints included"""
    fisher: np.ndarray
    """(unknown, unknown) covariance"""
    sandwich: np.ndarray
    """(unknown, unknown) covariance over shoeboxes, see `least_squares.covariances`"""
    n_evaluations: int
    """of all passes"""
    frame: CrystalFrame
    """from which rotation and strains are counted"""


def planes_and_scale(
    bragg: np.ndarray,
    data: solve.Data,
    noise: Noise,
    n_rounds: int = 4,
    counted: np.ndarray | float = 1.0,
) -> tuple[float, np.ndarray]:
    """Return the factor of the Bragg photons (pixel,) and the planes (box, 3) that suit the data
    best, by reweighted least squares.

    counted: (pixel,) 0 where a pixel does not count for the factor.
    """
    pixels = PixelColumns(
        photons=data.photons,
        bragg=np.asarray(bragg, dtype=np.float64),
        plane=np.ascontiguousarray(data.plane),
        counted=np.ones(len(bragg)) * counted,
        start=data.start,
    )
    terms = NoiseTerms(
        readout_variance=float(noise.readout_photons) ** 2,
        calibration_variance=float(noise.calibration_error) ** 2,
        dark=float(dark(noise)),
    )
    return plane_loops.planes_and_scale(pixels, terms, least_squares.RIDGE, n_rounds)


def refine(
    problem: Problem,
    free: tuple[Unknown, ...],
    *,
    n_axes: int = 1,
    target: Target = "normal",
    minimizer: solve.Minimizer = "levenberg",
    is_rough: bool = True,
    n_iterations: int = 30,
    reach: float = REACH,
) -> RefinedLattice:
    """Refine the free unknowns and all planes.

    is_rough: with broad spots first, which find an orientation from 0.1° away. The fit then begins
    where that pass ended (it is always Levenberg's), or at the start if the pixels are likelier
    there. reach: standard deviations out to which clouds are followed.
    """
    before = best = _scaled(Model(problem, free, n_axes, reach), target)
    n_evaluations = 1
    if is_rough and "rotation" in free:
        turned, n_broad = _broad(problem, target)
        found = _scaled(before.model.at(turned), target)
        n_evaluations += n_broad + 1
        best = found if found.loss < before.loss else before
    fit = _fit(best.model, best.planes, target, n_iterations, solve.MINIMIZERS[minimizer])
    fisher, sandwich = least_squares.covariances(fit.point)
    return RefinedLattice(
        parameters=best.model.parameters(fit.point.unknowns),
        names=best.model.names(),
        fit=fit,
        loss_before=before.loss,
        fisher=fisher,
        sandwich=sandwich,
        n_evaluations=n_evaluations + fit.n_evaluations,
        frame=best.model.problem.frame,
    )


def _fit(
    model: Model,
    planes: np.ndarray,
    target: Target,
    n_iterations: int,
    minimize: Callable[..., Fit[solve.Point]] = solve.fit,
    **limits: np.ndarray,
) -> Fit[solve.Point]:
    """Return the fit of all unknowns of a model from zero; limits: more arguments of `minimize`."""
    problem = model.problem
    objective = solve.Objective(model, problem.data, problem.noise, model.restraint(), target)
    return minimize(
        objective,
        np.zeros(model.n_unknowns),
        planes,
        largest_step=model.filled(LARGEST_STEPS),
        n_iterations=n_iterations,
        **limits,
    )


def sigma_z(point: solve.Point, data: solve.Data, noise: Noise) -> float:
    """Return the standard deviation of (data − model)/√variance over the pixels: 1 where the model
    is right.
    """
    sigma = np.sqrt(variance(point.model, noise))
    return float(np.std((data.photons - point.model) / sigma))


class _ScaledModel(NamedTuple):
    """A model whose start has the scale that suits the data best, and planes that do."""

    model: Model
    planes: np.ndarray
    """(box, 3) photons"""
    loss: float
    """−ln L of the start, restraints included"""


def _scaled(model: Model, target: Target) -> _ScaledModel:
    """Return the model at the scale, and with the planes, that suit its start best."""
    data = model.problem.data
    noise = model.problem.noise
    bragg = model.photons(np.zeros(model.n_unknowns))
    factor, planes = planes_and_scale(bragg, data, noise)
    expected = factor * bragg + solve.backgrounds(planes, data)
    model = model.scaled(factor)
    by_pixel = pixelwise(data.photons, expected, noise, target)
    loss = by_pixel.loss.sum() + model.restraint().loss(0.0)
    return _ScaledModel(model, planes, float(loss))


def _broad(problem: Problem, target: Target) -> tuple[Problem, int]:
    """Return the problem turned to where broad spots fit best, and how many evaluations that
    took.
    """
    crystal = problem.start.crystal
    n_cells = np.minimum(crystal.n_cells, BROAD_N)
    wide = crystal._replace(n_cells=n_cells, eta_rad=_broad_eta(crystal))
    start = problem.start._replace(crystal=wide, mosaic=continuous(BROAD_WIDTHS), edge_px=1.0)
    # a restraint of the scale does not hold here, for with other N the scale is another
    about_rotation = problem.restraints and problem.restraints.only("rotation")
    broad = problem._replace(start=start, oversample=1, restraints=about_rotation)
    scaled = _scaled(Model(broad, ("scale", "rotation"), 1, BROAD_REACH), target)
    fit = _fit(
        scaled.model,
        scaled.planes,
        target,
        BROAD_ITERATIONS,
        smallest_step=scaled.model.filled(BROAD_SMALLEST_STEPS),
    )
    U = np.asarray(turn(fit.point.unknowns[1:4])) @ problem.frame.U
    turned = problem._replace(frame=problem.frame._replace(U=U))
    return turned, 1 + fit.n_evaluations
