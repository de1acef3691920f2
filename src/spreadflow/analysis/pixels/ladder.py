"""The regression series on the pixels of a lattice: each rung is the same machinery with another
set of unknowns.

After the tests of the published SPREAD work, from reading the pixels to scale and rotation in
polychromatic light.
"""

import time
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from spreadflow.analysis.pixels import lattice_fit, solve, spot_positions
from spreadflow.analysis.pixels.likelihood import Noise, variance
from spreadflow.models import Detector, Parameters, ReflectionFlag, Shoeboxes, Spectrum
from spreadflow.physics import exact, geometry, layout

STRONG = 2.0
"""I/σ of flagged shoeboxes."""

LEAST = 1e-6
"""Of the brightest pixel: fainter ones are not compared, and tell nothing of where a spot is."""

POINTS = 2
"""Along each edge of a pixel, of the rungs that compare with brute force."""

SMALLEST_FALL = 1e-11
"""Fall of −ln L that ends a fit of the rungs whose planes are compared."""

N_ITERATIONS = 60
"""Evaluations of such a fit, at most."""


Figures = dict[str, dict[str, Any]]
"""Of rungs by name, as `ladder.json` has them."""


class Rung(NamedTuple):
    """What a rung does, and when it passes."""

    says: str
    passes: str
    test: Callable[[Figures], bool]
    """`passes`, of the figures of all rungs"""
    spectrum: Literal["none", "mean", "pulse"] | None = None
    """no Bragg photons, one channel at the pulse's mean energy, or all; None = no model at all"""
    engine: Literal["sparse", "points", "exact"] = "sparse"
    """averages over pixels, or means over `POINTS` × `POINTS` points of them"""
    free: tuple[str, ...] = ()
    """unknowns besides the planes; `spots` = a scale for each shoebox"""
    is_by_spot: bool = False
    """a solve for each shoebox, not one for the lattice"""


def _is_read(f: Figures) -> bool:
    of = f["00"]
    return of["n_read"] == of["n_accepted"] and of["n_others"] == 0 and of["growth_percent"] <= 5.0


def _below(one: str, other: str) -> Callable[[Figures], bool]:
    def test(f: Figures) -> bool:
        mine = f[one]["radial_rmsd_mm"]
        theirs = f[other]["radial_rmsd_mm"]
        return mine is not None and mine < theirs

    return test


RUNGS: dict[str, Rung] = {
    "00": Rung(
        "read spectrum and pixels of every lattice",
        "these are the accepted list, and memory is flat within 5 %",
        _is_read,
    ),
    "1": Rung(
        "flag shoeboxes; planes alone",
        "as many as a plain count finds",
        lambda f: f["1"]["n_flagged"] == f["1"]["n_counted"],
        "none",
    ),
    "2": Rung(
        "mean energy, spot by spot",
        "σ_Z below the plane's alone in 90 % of the flagged shoeboxes",
        lambda f: f["2"]["share_fell"] is not None and f["2"]["share_fell"] >= 0.9,
        "mean",
        "sparse",
        ("spots",),
        is_by_spot=True,
    ),
    "3": Rung(
        "the same in one solve for the lattice",
        "planes are rung 2's to 1e-6",
        lambda f: f["3"]["planes_apart"] <= 1e-6,
        "mean",
        "sparse",
        ("spots",),
    ),
    "3A": Rung(
        "pulse and one scale, 2 × 2 points, exact engine",
        "radial r.m.s.d. below rung 2's",
        _below("3A", "2"),
        "pulse",
        "exact",
        ("scale",),
    ),
    "3B": Rung(
        "the same, sparse engine",
        "pixels are rung 3A's to 1e-3",
        lambda f: f["3B"]["pixels_apart"] <= 1e-3,
        "pulse",
        "points",
        ("scale",),
    ),
    "4": Rung(
        "scale and rotation, averages over pixels",
        "radial r.m.s.d. below rung 3B's",
        _below("4", "3B"),
        "pulse",
        "sparse",
        ("scale", "rotation"),
    ),
}
MODELLED = tuple(name for name, rung in RUNGS.items() if rung.spectrum)
PICTURED = ("2", "3B", "4")
"""Rungs whose models are shown."""


class Step(NamedTuple):
    """A lattice on a rung. Pixels are the valid ones."""

    bragg: np.ndarray
    """(pixel,) photons"""
    shape: np.ndarray
    """(pixel,) the same up to a factor for each shoebox, never negative"""
    model: np.ndarray
    """(pixel,) photons, planes included"""
    planes: np.ndarray
    """(box, 3) photons"""
    n_evaluations: int
    seconds: float
    """of the processor"""


def plain_count(
    d: np.ndarray, i_over_sigma: np.ndarray, flags: np.ndarray, d_min: float, d_max: float
) -> int:
    """Return reflections that `shoeboxes.chosen` has to flag, counted one by one. All arrays
    (n,).
    """
    n = 0
    for resolution, strength, bits in zip(
        d.tolist(), i_over_sigma.tolist(), flags.tolist(), strict=True
    ):
        if resolution < d_min or resolution >= d_max or strength < STRONG:
            continue
        if not any(
            bits & bit
            for bit in (ReflectionFlag.MASKED, ReflectionFlag.SATURATED, ReflectionFlag.BACKGROUND)
        ):
            n += 1
    return n


def run_rungs(
    start: Parameters, space_group: str, boxes: Shoeboxes, noise: Noise
) -> tuple[solve.Data, dict[str, Step]]:
    """Return all rungs with a model, for one lattice. start: with discrete mosaic domains."""
    of: dict[str | None, lattice_fit.Problem] = {
        "pulse": lattice_fit.problem(start, space_group, boxes, noise)
    }
    of["mean"] = of["none"] = lattice_fit.problem(monochromatic(start), space_group, boxes, noise)
    steps = {}
    for name in MODELLED:
        begun = time.process_time()
        step = _step(RUNGS[name], of[RUNGS[name].spectrum])
        steps[name] = step._replace(seconds=time.process_time() - begun)
    return of["pulse"].data, steps


def monochromatic(p: Parameters) -> Parameters:
    """Return the parameters in light of the pulse's mean energy, with |F|² of the channel next to
    it.
    """
    energy = p.spectrum.mean_energy_ev
    channel = int(np.abs(np.asarray(p.spectrum.energies_ev) - energy).argmin())
    spectrum = Spectrum(np.array([energy]), np.array([np.sum(p.spectrum.photons)]))
    return p._replace(spectrum=spectrum, f_squared=np.asarray(p.f_squared)[:, [channel]])


def _step(rung: Rung, of: lattice_fit.Problem) -> Step:
    """Return a problem on a rung; seconds are left 0."""
    if rung.spectrum == "none":
        return _spots(np.zeros(len(of.data.photons)), of.data, of.noise)
    if rung.free == ("spots",):
        shape = lattice_fit.Model(of, (), 1, "float64", layout.REACH)(np.zeros(0))[0]
        return _by_spot(shape, of) if rung.is_by_spot else _spots(shape, of.data, of.noise)
    return _fitted(ENGINES[rung.engine](of, rung.free, 1, "float64", layout.REACH))


class _Points(lattice_fit.Model):
    """The mean over points of a pixel, as brute force has it, which knows no squares."""

    def __init__(self, of: lattice_fit.Problem, *how):
        super().__init__(of._replace(start=of.start._replace(edge_px=0.0), oversample=POINTS), *how)


class _Exact(_Points):
    """The same by brute force; nothing but the scale may be free."""

    def __call__(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        now = self._at_start * np.exp(u[0])
        return now, now[:, None]

    @cached_property
    def _at_start(self) -> np.ndarray:
        p = self.parameters(np.zeros(self.n_unknowns))
        boxes = self.of.boxes
        points = lattice_fit.points(boxes, POINTS)
        return lattice_fit.means(boxes, POINTS, len(points.fast)) @ np.asarray(
            exact.photons(p, points)
        )


ENGINES = {"sparse": lattice_fit.Model, "points": _Points, "exact": _Exact}


def _fitted(model: lattice_fit.Model) -> Step:
    """Return the unknowns of a model, its scale among them, and the planes; from the scale and
    planes that suit its start.
    """
    data = model.of.data
    noise = model.of.noise
    u = np.zeros(model.n_unknowns)
    factor, planes = lattice_fit.planes_and_scale(model(u)[0], data, noise)
    u[model.slices["scale"]] = np.log(factor)
    weak = model.restraint()._replace(centre=u)
    fit = solve.fit(model, u, planes, data, noise, weak, largest=model.filled(lattice_fit.LARGEST))
    point = fit.point
    shape = np.where(
        point.bragg > LEAST * point.bragg.max(initial=0.0), point.bragg, 0.0
    )  # tails have no place
    return Step(point.bragg, shape, point.model, point.planes, 1 + fit.n_evaluations, 0.0)


def _spots(shape: np.ndarray, data: solve.Data, noise: Noise) -> Step:
    """Return a scale for each shoebox, which may be negative as an intensity may, and its plane;
    all in one solve.

    shape: (pixel,) photons ≥ 0 up to a factor of each shoebox. Poisson's −ln L, as published, and
    because it is convex: with the model's variance, one that has the spot in the wrong place has
    many minima.
    """
    n = len(data.start) - 1
    sizes = np.diff(data.start)
    box = np.repeat(np.arange(n), sizes)
    tops = np.array(
        [shape[a:b].max(initial=0.0) for a, b in zip(data.start, data.start[1:], strict=False)]
    )
    columns = np.zeros((len(shape), n))
    columns[np.arange(len(shape)), box] = shape / np.where(tops > 0, tops, 1.0)[box]
    free = solve.Restraint(np.zeros(n), np.zeros(n))
    planes = lattice_fit.planes_and_scale(np.zeros(len(shape)), data, noise)[1]
    how: dict[str, Any] = {
        "target": "poisson",
        "enough": SMALLEST_FALL,
        "n_iterations": N_ITERATIONS,
    }
    fit = solve.fit(lambda u: (columns @ u, columns), np.zeros(n), planes, data, noise, free, **how)
    return Step(fit.point.bragg, shape, fit.point.model, fit.point.planes, fit.n_evaluations, 0.0)


def _by_spot(shape: np.ndarray, of: lattice_fit.Problem) -> Step:
    """Return the step with a solve for each shoebox."""
    some = [slice(a, b) for a, b in zip(of.data.start, of.data.start[1:], strict=False)]
    steps = [_spots(shape[s], spot(of.data, s), of.noise) for s in some]
    bragg, model, planes = (
        np.concatenate([getattr(s, name) for s in steps]) for name in ("bragg", "model", "planes")
    )
    return Step(bragg, shape, model, planes, sum(step.n_evaluations for step in steps), 0.0)


def spot(data: solve.Data, some: slice) -> solve.Data:
    """Return one shoebox of the data."""
    return solve.Data(data.photons[some], data.plane[some], np.array([0, some.stop - some.start]))


# ---------------------------------------------------------------- what is compared


def away_mm(
    at: np.ndarray, observed: np.ndarray, panel: np.ndarray, detector: Detector
) -> np.ndarray:
    """Return (box, 2) observed − model centroid along and across the radius, mm. Centroids (box, 2)
    fast, slow in px.
    """
    axes = geometry.radial_axes(detector, panel, *at.T)
    return float(detector.pixel_mm) * np.einsum("bkc,bc->bk", axes, observed - at)


def centroids(step: Step, data: solve.Data, bbox: np.ndarray) -> np.ndarray:
    """Return (box, 2) centre of mass of the Bragg photons, px; of a model that has none there, the
    middle of the shoebox.
    """
    middle = 0.5 * (bbox[:, ::2] + bbox[:, 1::2])
    place = data.plane[:, 1:] * solve.SCALE_PX + middle.repeat(np.diff(data.start), axis=0)
    at = spot_positions.centroids(step.shape, place, data.start)
    return np.where(np.isfinite(at), at, middle)


def deviations(step: Step, data: solve.Data, noise: Noise) -> tuple[np.ndarray, np.ndarray]:
    """Return (pixel,) model − data in standard deviations of the model, and as published, in those
    of the data.
    """
    away = step.model - data.photons
    return away / np.sqrt(variance(step.model, noise)), away / np.sqrt(
        np.maximum(np.abs(data.photons), 1.0)
    )


def falls(before: Step, after: Step, data: solve.Data, noise: Noise) -> np.ndarray:
    """Return (box,) bool: whether σ_Z of a shoebox becomes smaller; False where no pixel counts."""
    old, new = (_spread(deviations(step, data, noise)[0], data.start) for step in (before, after))
    return new < old


def _spread(z: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return (box,) standard deviation of z (pixel,)."""
    n = np.maximum(np.diff(start), 1)
    mean = spot_positions.sums(z, start) / n
    return np.sqrt(spot_positions.sums((z - mean.repeat(np.diff(start))) ** 2, start) / n)


def planes_apart(one: np.ndarray, other: np.ndarray) -> float:
    """Return largest difference of the coefficients of planes (box, 3), relative to the background,
    at least a photon.
    """
    return float((np.abs(one - other) / np.maximum(np.abs(other[:, :1]), 1.0)).max(initial=0.0))


def pixels_apart(one: np.ndarray, other: np.ndarray) -> float:
    """Return largest relative difference of photons (pixel,) where there are more than `LEAST` of
    the brightest pixel.
    """
    some = other > LEAST * other.max(initial=0.0)
    return float(np.abs(one[some] / other[some] - 1.0).max(initial=0.0))
