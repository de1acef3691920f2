"""The regression series on the pixels of a lattice: each rung is the same machinery with another
set of unknowns.

The series follows the tests of the published SPREAD work, from reading the pixels to scale and
rotation in polychromatic light.
"""

import time
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.pixels import lattice_fit, solve, spot_positions
from spreadflow.analysis.pixels.likelihood import variance
from spreadflow.analysis.pixels.rungs import MODELLED, RUNGS, Rung
from spreadflow.models import Detector, Noise, Parameters, ReflectionFlag, Shoeboxes, Spectrum
from spreadflow.physics import exact, geometry, layout

STRONG = 2.0
"""I/σ from which shoeboxes are flagged."""

FAINT = 1e-6
"""Pixels fainter than this share of the brightest are not compared, and tell nothing of where a
spot is.
"""

POINTS = 2
"""Points along each edge of a pixel, on the rungs that compare with brute force."""

SMALLEST_FALL = 1e-11
"""Fall of −ln L that ends a fit of the rungs whose planes are compared."""

N_ITERATIONS = 60
"""Evaluations of such a fit, at most."""

PICTURED = ("2", "3B", "4")
"""Rungs whose models are shown."""


class Step(NamedTuple):
    """A lattice on a rung. Pixels are the valid ones."""

    bragg: np.ndarray
    """(pixel,) photons"""
    shape: np.ndarray
    """(pixel,) Bragg photons up to a factor for each shoebox, never negative"""
    model: np.ndarray
    """(pixel,) photons, planes included"""
    planes: np.ndarray
    """(box, 3) photons"""
    n_evaluations: int
    seconds: float = 0.0
    """of the processor"""


def plain_count(
    d: np.ndarray, i_over_sigma: np.ndarray, flags: np.ndarray, d_min: float, d_max: float
) -> int:
    """Return how many reflections `shoeboxes.chosen` has to flag, counted one by one.

    d: (n,) Å; i_over_sigma: (n,); flags: (n,) bits of `models.ReflectionFlag`.
    """
    failures = (ReflectionFlag.MASKED, ReflectionFlag.SATURATED, ReflectionFlag.BACKGROUND)
    n = 0
    for resolution, strength, bits in zip(
        d.tolist(), i_over_sigma.tolist(), flags.tolist(), strict=True
    ):
        if resolution < d_min or resolution >= d_max or strength < STRONG:
            continue
        if not any(bits & failure for failure in failures):
            n += 1
    return n


def run_rungs(
    start: Parameters, space_group: str, boxes: Shoeboxes, noise: Noise
) -> tuple[solve.Data, dict[str, Step]]:
    """Return the pixels of one lattice, and its step on each rung that has a model.

    start: with discrete mosaic domains.
    """
    pulse = lattice_fit.problem(start, space_group, boxes, noise)
    mean = lattice_fit.problem(monochromatic(start), space_group, boxes, noise)
    problems = {"pulse": pulse, "mean": mean, "none": mean}
    steps = {}
    for name in MODELLED:
        rung = RUNGS[name]
        start_time = time.process_time()
        step = _step(rung, problems[rung.spectrum or "none"])
        steps[name] = step._replace(seconds=time.process_time() - start_time)
    return pulse.data, steps


def monochromatic(p: Parameters) -> Parameters:
    """Return the parameters in light of the pulse's mean energy, with |F|² of the channel next to
    it.
    """
    pulse = p.spectrum
    energy_ev = pulse.mean_energy_ev
    photons = np.sum(pulse.photons)
    spectrum = Spectrum(np.array([energy_ev]), np.array([photons]))
    away_ev = np.abs(np.asarray(pulse.energies_ev) - energy_ev)
    channel = int(away_ev.argmin())
    f_squared = np.asarray(p.f_squared)[:, [channel]]
    return p._replace(spectrum=spectrum, f_squared=f_squared)


def _step(rung: Rung, problem: lattice_fit.Problem) -> Step:
    """Return a problem's step on a rung, without the time it took."""
    data = problem.data
    if rung.spectrum == "none":
        return _planes(data, problem.noise)
    if rung.free == ("spots",):
        at_start = lattice_fit.Model(problem, (), 1, layout.REACH)
        shape, _ = at_start(np.zeros(0))
        if rung.is_by_spot:
            return _by_spot(shape, problem)
        return _spots(shape, data, problem.noise)
    return _fitted(ENGINES[rung.engine](problem, rung.free, 1, layout.REACH))


class _Points(lattice_fit.Model):
    """The mean over points of a pixel, as brute force has it, which knows no squares."""

    def __init__(self, problem: lattice_fit.Problem, *settings):
        start = problem.start._replace(edge_px=0.0)
        super().__init__(problem._replace(start=start, oversample=POINTS), *settings)


class _Exact(_Points):
    """The mean over points by brute force; nothing but the scale may be free."""

    def __call__(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        photons = self._at_start * np.exp(u[0])
        return photons, photons[:, None]

    @cached_property
    def _at_start(self) -> np.ndarray:
        """Photons (pixel,) at the start."""
        p = self.parameters(np.zeros(self.n_unknowns))
        boxes = self.problem.boxes
        points = lattice_fit.points(boxes, POINTS)
        return self._points.means(exact.gauss_photons(p, points))


ENGINES = {"sparse": lattice_fit.Model, "points": _Points, "exact": _Exact}


def _fitted(model: lattice_fit.Model) -> Step:
    """Return the fit of a model's unknowns, its scale among them, and of the planes, from the scale
    and the planes that suit its start best.
    """
    data = model.problem.data
    noise = model.problem.noise
    u = np.zeros(model.n_unknowns)
    bragg, _ = model(u)
    factor, planes = lattice_fit.planes_and_scale(bragg, data, noise)
    u[model.slices["scale"]] = np.log(factor)
    weak = model.restraint()._replace(centre=u)
    objective = solve.Objective(model, data, noise, weak)
    largest_step = model.filled(lattice_fit.LARGEST_STEPS)
    fit = solve.fit(objective, u, planes, largest_step=largest_step)
    point = fit.point
    # tails have no place
    shape = np.where(point.bragg > FAINT * point.bragg.max(initial=0.0), point.bragg, 0.0)
    return Step(point.bragg, shape, point.model, point.planes, 1 + fit.n_evaluations)


def _planes(data: solve.Data, noise: Noise) -> Step:
    """Return the fit of the planes alone, by Poisson's −ln L."""
    nothing = np.zeros(len(data.photons))

    def bragg(_: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return nothing, np.zeros((len(nothing), 0))

    return _fit_by_poisson(bragg, 0, nothing, data, noise)


def _spots(shape: np.ndarray, data: solve.Data, noise: Noise) -> Step:
    """Return the fit of a scale for each shoebox, which may be negative as an intensity may, and of
    its plane, all in one solve.

    shape: (pixel,) photons ≥ 0 up to a factor of each shoebox. It minimises Poisson's −ln L, as
    published, and because that is convex: with the model's variance, −ln L of a model that has the
    spot in the wrong place has many minima.
    """
    n = len(data.start) - 1
    box = np.repeat(np.arange(n), np.diff(data.start))
    tops = np.array([shape[first:last].max(initial=0.0) for first, last in pairwise(data.start)])
    columns = np.zeros((len(shape), n))
    columns[np.arange(len(shape)), box] = shape / np.where(tops > 0, tops, 1.0)[box]

    def bragg(scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return columns @ scales, columns

    return _fit_by_poisson(bragg, n, shape, data, noise)


def _fit_by_poisson(
    bragg: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    n_scales: int,
    shape: np.ndarray,
    data: solve.Data,
    noise: Noise,
) -> Step:
    """Return the fit of scales, from zero, and of all planes; bragg: photons (pixel,) and their
    derivatives (pixel, scale) as a function of the scales.
    """
    free = solve.Restraint(np.zeros(n_scales), np.zeros(n_scales))
    _, planes = lattice_fit.planes_and_scale(np.zeros(len(shape)), data, noise)
    fit = solve.fit(
        solve.Objective(bragg, data, noise, free, "poisson"),
        np.zeros(n_scales),
        planes,
        smallest_fall=SMALLEST_FALL,
        n_iterations=N_ITERATIONS,
    )
    point = fit.point
    return Step(point.bragg, shape, point.model, point.planes, fit.n_evaluations)


def _by_spot(shape: np.ndarray, problem: lattice_fit.Problem) -> Step:
    """Return the step with a solve for each shoebox."""
    boxes = [slice(first, last) for first, last in pairwise(problem.data.start)]
    steps = [_spots(shape[box], spot(problem.data, box), problem.noise) for box in boxes]
    return Step(
        bragg=np.concatenate([step.bragg for step in steps]),
        shape=shape,
        model=np.concatenate([step.model for step in steps]),
        planes=np.concatenate([step.planes for step in steps]),
        n_evaluations=sum(step.n_evaluations for step in steps),
    )


def spot(data: solve.Data, box: slice) -> solve.Data:
    """Return the data of one shoebox; box: its pixels."""
    return solve.Data(data.photons[box], data.plane[box], np.array([0, box.stop - box.start]))


# ---------------------------------------------------------------- what is compared


def away_mm(
    predicted: np.ndarray, observed: np.ndarray, panel: np.ndarray, detector: Detector
) -> np.ndarray:
    """Return observed − predicted centroid (box, 2) along and across the radius, mm; predicted,
    observed: (box, 2) fast, slow, px.
    """
    axes = geometry.radial_axes(detector, panel, *predicted.T)
    return float(detector.pixel_mm) * np.einsum("bkc,bc->bk", axes, observed - predicted)


def centroids(step: Step, data: solve.Data, boxes: Shoeboxes) -> np.ndarray:
    """Return the centre of mass (box, 2) of the Bragg photons, px; the middle of the shoebox where
    the model has none. data: of the valid pixels.
    """
    middle = 0.5 * (boxes.bbox[:, ::2] + boxes.bbox[:, 1::2])
    of_model = spot_positions.centroids(step.shape, boxes.middles[boxes.valid], data.start)
    return np.where(np.isfinite(of_model), of_model, middle)


def deviations(step: Step, data: solve.Data, noise: Noise) -> tuple[np.ndarray, np.ndarray]:
    """Return model − data (pixel,) in standard deviations of the model, and as published, in those
    of the data.
    """
    away = step.model - data.photons
    sigma_of_model = np.sqrt(variance(step.model, noise))
    counted = np.maximum(np.abs(data.photons), 1.0)
    return away / sigma_of_model, away / np.sqrt(counted)


def falls(before: Step, after: Step, data: solve.Data, noise: Noise) -> np.ndarray:
    """Return whether σ_Z of each shoebox becomes smaller, (box,) bool; False where no pixel
    counts.
    """
    z_before, _ = deviations(before, data, noise)
    z_after, _ = deviations(after, data, noise)
    return _sigma(z_after, data.start) < _sigma(z_before, data.start)


def _sigma(z: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the standard deviation (box,) of z (pixel,)."""
    sizes = np.diff(start)
    n = np.maximum(sizes, 1)
    mean = spot_positions.sums(z, start) / n
    squares = (z - mean.repeat(sizes)) ** 2
    return np.sqrt(spot_positions.sums(squares, start) / n)


def planes_apart(planes: np.ndarray, others: np.ndarray) -> float:
    """Return the largest difference of the coefficients of planes (box, 3), relative to the
    background, which counts as a photon at least.
    """
    background = np.maximum(np.abs(others[:, :1]), 1.0)
    apart = np.abs(planes - others) / background
    return float(apart.max(initial=0.0))


def pixels_apart(photons: np.ndarray, others: np.ndarray) -> float:
    """Return the largest relative difference of photons (pixel,), of pixels that are brighter than
    `FAINT` of the brightest.
    """
    is_bright = others > FAINT * others.max(initial=0.0)
    ratio = photons[is_bright] / others[is_bright]
    return float(np.abs(ratio - 1.0).max(initial=0.0))
