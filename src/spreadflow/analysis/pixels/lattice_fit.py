"""Stage 1: one lattice against the pixels of its shoeboxes.

Unknowns: ln scale, rotation (3, rad), strains of the cell (1-6, the space group's), ln N (1 or 3),
ln η, and instead of the cell the distance (mm) or the relative wavelength. The pixels know them
through `physics.forward`.
"""

from copy import copy
from typing import NamedTuple

import jax
import numpy as np
from scipy.sparse import csr_matrix

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.analysis.pixels import restraints, solve
from spreadflow.analysis.pixels.likelihood import Noise, Target, pixelwise, variance
from spreadflow.analysis.pixels.restraints import Restraints, Unknown
from spreadflow.analysis.still.refinement import Frame, frame, matrix, turn
from spreadflow.models import Mosaic, Parameters, Pixels, Shoeboxes
from spreadflow.physics import forward, geometry, layout, rotation
from spreadflow.physics.mosaic import GAUSS, continuous
from spreadflow.physics.padding import to_few_sizes
from spreadflow.units import DEG

LARGEST = {
    "scale": 3.0,
    "rotation": 1e-3,
    "cell": 3e-3,
    "n_cells": 0.4,
    "eta": 0.4,
    "distance": 0.3,
    "wavelength": 3e-3,
}
"""Of one step."""

BROAD_ETA = 0.15 * DEG
"""η of the first pass, in which spots are broad enough to be found from 0.1° away, rad."""

BROAD_N = 40.0
"""Cells along each axis of a domain in the first pass."""

BROAD_ITERATIONS = 10
"""Evaluations of the first pass, at most."""

BROAD_LEAST = {"scale": np.inf, "rotation": 0.02 * DEG}
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
    """where the unknowns are zero, but for A"""
    frame: Frame
    """what A is made of"""
    boxes: Shoeboxes
    data: solve.Data
    """of the valid pixels"""
    noise: Noise
    oversample: int = 1
    """points along each edge of a pixel that the model is averaged over"""
    known: Restraints | None = None
    """beside the pixels; None = nothing"""


def reachable(start: Parameters, boxes: Shoeboxes) -> np.ndarray:
    """Return rows of the nodes of `start` that may put photons into the shoeboxes, even where the
    orientation is 0.1° wrong.

    start: with any f_squared (node, channel) > 0, such as ones.
    """
    crystal = start.crystal._replace(
        eta_rad=np.float64(max(float(start.crystal.eta_rad), BROAD_ETA))
    )
    wide = start._replace(crystal=crystal, mosaic=continuous(), edge_px=1.0)
    rows = layout.reached(crystal, wide.mosaic, np.asarray(start.hkl), start.spectrum)
    hkl, f_squared = to_few_sizes((np.asarray(start.hkl)[rows], np.asarray(start.f_squared)[rows]))
    return rows[
        layout.meets(wide._replace(hkl=hkl, f_squared=f_squared), boxes.panel, boxes.bbox)[
            : len(rows)
        ]
    ]


def problem(
    start: Parameters, space_group: str, boxes: Shoeboxes, noise: Noise, oversample: int = 1
) -> Problem:
    """Return the problem of `start`, whose A is brought to what the space group allows, and the
    valid pixels of the shoeboxes.

    oversample: the model of a pixel is the mean over so many points along each edge, each averaged
    over its square.
    """
    cell = frame(np.asarray(start.crystal.A), space_group)
    hkl, f_squared = to_few_sizes((np.asarray(start.hkl), np.asarray(start.f_squared)))
    start = start._replace(hkl=hkl, f_squared=f_squared, edge_px=1.0 / oversample)
    pixels = points(boxes)
    box = np.repeat(np.arange(len(boxes.panel)), boxes.n_pixels)
    middle = 0.5 * (boxes.bbox[:, ::2] + boxes.bbox[:, 1::2])
    slopes = (np.stack([pixels.fast, pixels.slow], axis=1) - middle[box]) / solve.SCALE_PX
    plane = np.column_stack([np.ones(len(box)), slopes])[boxes.valid]
    start_of = np.concatenate(
        [[0], np.cumsum(np.bincount(box[boxes.valid], minlength=len(boxes.panel)))]
    )
    data = solve.Data(boxes.photons[boxes.valid].astype(np.float64), plane, start_of)
    return Problem(start, cell, boxes, data, noise, oversample)


def moved(of: Problem, to: Parameters) -> Problem:
    """Return the problem that starts at parameters."""
    metric = to.crystal.A.T @ to.crystal.A
    U = rotation.nearest(to.crystal.A @ np.linalg.inv(np.linalg.cholesky(metric).T))
    return of._replace(start=to, frame=of.frame._replace(U=U, metric=metric))


def points(boxes: Shoeboxes, oversample: int = 1) -> Pixels:
    """Return all pixels of the shoeboxes, in their order; of more points a pixel, as
    `layout.within` has them.
    """
    return layout.points(layout.rectangles(boxes.panel, boxes.bbox, oversample))


def unknowns(
    free: tuple[Unknown, ...], mosaic: Mosaic, n_strains: int, n_axes: int
) -> dict[Unknown, int]:
    """Return how many there are of each kind. η is none where the mosaic spread is of single
    domains, or was learned.
    """
    sizes = {"rotation": 3, "cell": n_strains, "n_cells": n_axes}
    has_eta = mosaic.eta_rad is None and np.any(mosaic.width)
    return {name: sizes.get(name, 1) for name in free if name != "eta" or has_eta}


def names(sizes: dict[Unknown, int]) -> list[str]:
    """Return one name per unknown: rotation_1, cell_1 ... where there are several."""
    return [name if n == 1 else f"{name}_{i + 1}" for name, n in sizes.items() for i in range(n)]


class Model:
    """Bragg photons of a problem's valid pixels and their derivatives, as a function of the free
    unknowns.

    dtype: of the sums over channels; reach: standard deviations out to which clouds are followed.
    """

    def __init__(
        self,
        of: Problem,
        free: tuple[Unknown, ...],
        n_axes: int = 1,
        dtype: str = "float32",
        reach: float = REACH,
    ):
        sizes = unknowns(free, of.start.mosaic, len(of.frame.strains), n_axes)
        ends = np.cumsum([0, *sizes.values()])
        self.of, self.free, self.dtype, self.reach = of, tuple(sizes), dtype, reach
        self.slices = {name: slice(a, b) for name, a, b in zip(sizes, ends, ends[1:], strict=False)}
        self.n_unknowns, self.n_layouts = int(ends[-1]), 0
        self._laid: Parameters | None = None

    def names(self) -> list[str]:
        """Return one name per unknown."""
        return names({name: s.stop - s.start for name, s in self.slices.items()})

    def filled(self, by_name: dict[Unknown, float]) -> np.ndarray:
        """Return (unknown,) a number for each kind of unknown."""
        return np.concatenate(
            [np.full(s.stop - s.start, by_name[name]) for name, s in self.slices.items()]
        )

    def restraint(self) -> solve.Restraint:
        """Return what is known of the unknowns, and weak restraints about the start of the
        others.
        """
        return restraints.restraint(self.slices, self.of.start, self.of.frame, self.of.known)

    def unknown(self, u: np.ndarray, name: Unknown, n: int) -> np.ndarray:
        """Return the unknowns of a kind; zeros where they are not free."""
        return u[self.slices[name]] if name in self.slices else np.zeros(n)

    def parameters(self, u: np.ndarray) -> Parameters:
        """Return what the unknowns stand for."""
        start = self.of.start
        strains = len(self.of.frame.strains)
        p = np.concatenate([self.unknown(u, "rotation", 3), self.unknown(u, "cell", strains)])
        A = np.asarray(_A(self.of.frame, p)) / (1.0 + self.unknown(u, "wavelength", 1)[0])
        crystal = start.crystal._replace(
            A=A,
            n_cells=start.crystal.n_cells * np.exp(self.unknown(u, "n_cells", 1)),
            eta_rad=start.crystal.eta_rad * np.exp(self.unknown(u, "eta", 1)[0]),
        )
        scale = start.scale * np.exp(self.unknown(u, "scale", 1)[0])
        return start._replace(
            crystal=crystal, scale=scale, detector=self._detector(self.unknown(u, "distance", 1)[0])
        )

    def _detector(self, distance_mm):
        return (
            geometry.shifted(self.of.start.detector, 0.0, 0.0, distance_mm)
            if "distance" in self.free
            else self.of.start.detector
        )

    def __call__(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return photons (pixel,) and derivatives (pixel, unknown) of the valid pixels."""
        p = self.parameters(u)
        self._lay_out(p)
        of_points = forward.by_crystal(p, self._pixels, self._pairs, self.dtype)
        by = forward.ByCrystal(*map(self._of_pixels, of_points))
        out = np.empty((len(by.photons), self.n_unknowns))
        for name, some in self.slices.items():
            out[:, some] = self._column(name, u, p, by)
        return by.photons, out

    def photons(self, u: np.ndarray) -> np.ndarray:
        """Return (pixel,) the same without derivatives."""
        p = self.parameters(u)
        self._lay_out(p)
        return self._of_pixels(forward.sums(p, self._pixels, self._pairs, self.dtype)[0])

    def templates(self, u: np.ndarray) -> csr_matrix:
        """Return (valid pixel, node · channel) photons of each channel per electron² of |F|²."""
        p = self.parameters(u)
        oversample = self.of.oversample
        self._lay_out(p)
        n = len(p.spectrum.photons)
        n_nodes = len(p.hkl)
        n_pixels = len(self.of.data.photons)
        of_point = np.full(len(self._pixels.fast), n_pixels)
        pixel, point = means(self.of.boxes, oversample, len(of_point)).nonzero()
        of_point[point] = pixel
        key = of_point[self._pairs.point] * n_nodes + self._pairs.cloud // len(p.mosaic.share)
        rows, row = np.unique(key, return_inverse=True)
        photons = (
            forward.by_channel(p, self._pixels, self._pairs, row, len(rows), self.dtype)
            / oversample**2
        )
        pixel, node = np.divmod(rows, n_nodes)
        lit = (photons > 0) & (pixel < n_pixels)[:, None]
        counts = np.bincount(pixel, lit.sum(axis=1), n_pixels)[:n_pixels].astype(np.int64)
        column = (node[:, None] * n + np.arange(n))[lit]
        start = np.concatenate([[0], np.cumsum(counts)])
        return csr_matrix((photons[lit], column, start), shape=(n_pixels, n * n_nodes))

    def scaled(self, factor: float) -> "Model":
        """Return the model with its start brighter by a factor."""
        out = copy(self)
        out.of = self.of._replace(start=self.of.start._replace(scale=self.of.start.scale * factor))
        return out

    def _of_pixels(self, of_points: np.ndarray) -> np.ndarray:
        """Return (pixel, ...) of the valid pixels: means over their points."""
        return (
            self._mean @ of_points
            if self.of.oversample > 1
            else of_points[np.flatnonzero(self.of.boxes.valid)]
        )

    def _column(self, name, u, p: Parameters, by: forward.ByCrystal) -> np.ndarray:
        """Return derivatives (pixel, unknowns of a kind)."""
        if name in ("rotation", "cell"):
            strains = len(self.of.frame.strains)
            at = np.concatenate([self.unknown(u, "rotation", 3), self.unknown(u, "cell", strains)])
            dA = np.asarray(_dA(self.of.frame, at)).reshape(9, -1)
            return by.A @ (dA[:, :3] if name == "rotation" else dA[:, 3:])
        if name == "scale":
            return by.photons[:, None]
        if name == "n_cells":
            each = by.n_cells * p.crystal.n_cells
            return (
                each
                if self.slices[name].stop - self.slices[name].start == 3
                else each.sum(axis=1, keepdims=True)
            )
        if name == "eta":
            return by.eta_rad * p.crystal.eta_rad
        if name == "wavelength":
            return -by.A @ p.crystal.A.reshape(9, 1)
        step = 2e-4  # mm
        ends = [
            forward.sums(
                p._replace(detector=geometry.shifted(p.detector, 0.0, 0.0, d)),
                self._pixels,
                self._pairs,
                "float64",
            )
            for d in (step, -step)
        ]
        return self._of_pixels((ends[0][0] - ends[1][0]) / (2 * step))[:, None]

    def _lay_out(self, p: Parameters) -> None:
        """Lay out pairs for these parameters, unless those laid out before still serve."""
        if self._laid is not None and not _is_stale(self._laid, p):
            return
        boxes = self.of.boxes
        pixels, self._pairs = layout.within(
            p, boxes.panel, boxes.bbox, self.reach, self.of.oversample
        )
        self._pixels: Pixels = to_few_sizes(pixels, 1 << 14)
        if self._laid is None and self.of.oversample > 1:
            self._mean = means(boxes, self.of.oversample, len(self._pixels.fast))
        self._laid, self.n_layouts = p, self.n_layouts + 1


def means(boxes: Shoeboxes, oversample: int, n_points: int) -> csr_matrix:
    """Return (valid pixel, point) that takes the mean over the points of a pixel; points as
    `layout.within` has them.
    """
    width = np.asarray(boxes.bbox[:, 1] - boxes.bbox[:, 0], dtype=np.int64)
    first = np.cumsum(boxes.n_pixels) - boxes.n_pixels
    box = np.repeat(np.arange(len(width)), boxes.n_pixels)[boxes.valid]
    slow, fast = np.divmod(np.flatnonzero(boxes.valid) - first[box], width[box])
    corner = oversample**2 * first[box] + oversample * (oversample * slow * width[box] + fast)
    i, j = np.divmod(np.arange(oversample**2), oversample)
    column = corner[:, None] + i * oversample * width[box][:, None] + j
    row = np.arange(len(box)).repeat(oversample**2)
    share = np.full(column.size, oversample**-2.0)
    return csr_matrix((share, (row, column.ravel())), shape=(len(box), n_points))


_A = jax.jit(matrix)
_dA = jax.jit(jax.jacfwd(matrix, argnums=1))


def _is_stale(laid: Parameters, p: Parameters) -> bool:
    moved = (np.linalg.solve(laid.crystal.A, p.crystal.A) - np.eye(3)) @ np.asarray(p.hkl).T
    far = np.sqrt(4 / GAUSS * ((p.crystal.n_cells[:, None] * moved) ** 2).sum(axis=0)).max(
        initial=0.0
    )
    ratio = np.log(
        np.append(
            p.crystal.n_cells / laid.crystal.n_cells,
            p.crystal.eta_rad / max(laid.crystal.eta_rad, 1e-9),
        )
    )
    shift = (
        np.linalg.norm(p.detector.origin_mm - laid.detector.origin_mm, axis=-1).max()
        / p.detector.pixel_mm
    )
    return bool(far > STALE_SIGMA or np.abs(ratio).max() > STALE_LOG or shift > STALE_PX)


# ---------------------------------------------------------------- the fit


class RefinedLattice(NamedTuple):
    """A lattice after its fit."""

    parameters: Parameters
    names: list[str]
    """of the unknowns"""
    fit: solve.Fit
    loss_before: float
    """−ln L of the start, with the scale and the planes that suit it best, restraints included"""
    fisher: np.ndarray
    """(unknown, unknown) covariance"""
    sandwich: np.ndarray
    n_evaluations: int
    """of all passes"""
    frame: Frame
    """from which rotation and strains are counted"""


def planes_and_scale(
    bragg: np.ndarray,
    data: solve.Data,
    noise: Noise,
    n_rounds: int = 4,
    says: np.ndarray | float = 1.0,
) -> tuple[float, np.ndarray]:
    """Return factor of the Bragg photons (pixel,) and planes (box, 3) that suit the data best:
    reweighted least squares.

    says: (pixel,) 0 where a pixel has no say in the factor.
    """
    factor = 1.0
    model = np.maximum(data.photons, 1.0)
    sizes = np.diff(data.start)
    both = np.stack([data.photons, bragg], axis=1)
    for _ in range(n_rounds):
        weighted = data.plane / variance(model, noise)[:, None]
        normal = solve.by_box(weighted, data.plane, data.start)
        normal += solve.RIDGE * np.einsum(
            "bi,ij->bij", np.einsum("bii->bi", normal), np.eye(3)
        ) + 1e-12 * np.eye(3)
        own = np.linalg.solve(normal, solve.by_box(weighted, both, data.start))
        left = both - np.einsum("pi,pij->pj", data.plane, own.repeat(sizes, axis=0))
        counts = says * weighted[:, 0]
        top = counts @ (left[:, 0] * left[:, 1])
        bottom = counts @ left[:, 1] ** 2
        factor = max(top / bottom, 1e-3) if bottom > 0 else 1.0
        planes = own[:, :, 0] - factor * own[:, :, 1]
        model = factor * bragg + solve.backgrounds(planes, data)
    return factor, planes


def refine(
    of: Problem,
    free: tuple[Unknown, ...],
    *,
    n_axes: int = 1,
    target: Target = "normal",
    minimizer: solve.Minimizer = "levenberg",
    is_rough: bool = True,
    n_iterations: int = 30,
    dtype: str = "float32",
) -> RefinedLattice:
    """Refine the free unknowns and all planes. is_rough: look for the orientation with broad spots
    first, 0.1° away.

    The fit begins at the start, or where the broad pass, always Levenberg's, ended if the pixels
    are likelier there.
    """
    before = best = _scaled(Model(of, free, n_axes, dtype), target)
    n_evaluations = 1
    if is_rough and "rotation" in free:
        turned, n = _broad(of, target, dtype)
        found = _scaled(Model(turned, free, n_axes, dtype), target)
        n_evaluations += n + 1
        best = found if found.loss < before.loss else before
    fit = _fit(best.model, best.planes, target, n_iterations, minimize=solve.MINIMIZERS[minimizer])
    parameters = best.model.parameters(fit.point.unknowns)
    covariances = solve.covariances(fit.point)
    n_evaluations += fit.n_evaluations
    names = best.model.names()
    return RefinedLattice(
        parameters, names, fit, before.loss, *covariances, n_evaluations, best.model.of.frame
    )


def _fit(
    model: Model, planes: np.ndarray, target: Target, n_iterations: int, minimize=solve.fit, **how
) -> solve.Fit:
    """Return all unknowns of a model from zero."""
    u = np.zeros(model.n_unknowns)
    of = (model.of.data, model.of.noise, model.restraint())
    how |= {"target": target, "largest": model.filled(LARGEST), "n_iterations": n_iterations}
    return minimize(model, u, planes, *of, **how)


def sigma_z(point: solve.Point, data: solve.Data, noise: Noise) -> float:
    """Return standard deviation of (data − model)/√variance over the pixels: 1 where the model is
    right.
    """
    return float(np.std((data.photons - point.model) / np.sqrt(variance(point.model, noise))))


class _Scaled(NamedTuple):
    model: Model
    planes: np.ndarray
    loss: float


def _scaled(model: Model, target: Target) -> _Scaled:
    """Return the model at the scale, and with the planes, that suit its start best."""
    data = model.of.data
    noise = model.of.noise
    bragg = model.photons(np.zeros(model.n_unknowns))
    factor, planes = planes_and_scale(bragg, data, noise)
    expected = factor * bragg + solve.backgrounds(planes, data)
    model = model.scaled(factor)
    loss = pixelwise(data.photons, expected, noise, target).loss.sum() + model.restraint().loss(0.0)
    return _Scaled(model, planes, float(loss))


def _broad(of: Problem, target: Target, dtype: str) -> tuple[Problem, int]:
    """Return the problem turned to where broad spots fit best, and how many evaluations that
    took.
    """
    crystal = of.start.crystal
    eta = max(float(crystal.eta_rad), BROAD_ETA)
    n_cells = np.minimum(crystal.n_cells, BROAD_N)
    wide = crystal._replace(n_cells=n_cells, eta_rad=np.float64(eta))
    start = of.start._replace(crystal=wide, mosaic=continuous(BROAD_WIDTHS), edge_px=1.0)
    known = of.known and of.known.only("rotation")  # the scale is another with other N
    model = Model(
        of._replace(start=start, oversample=1, known=known),
        ("scale", "rotation"),
        1,
        dtype,
        BROAD_REACH,
    )
    scaled = _scaled(model, target)
    fit = _fit(
        scaled.model,
        scaled.planes,
        target,
        BROAD_ITERATIONS,
        least=scaled.model.filled(BROAD_LEAST),
    )
    U = np.asarray(turn(fit.point.unknowns[1:4])) @ of.frame.U
    return of._replace(frame=of.frame._replace(U=U)), 1 + fit.n_evaluations
