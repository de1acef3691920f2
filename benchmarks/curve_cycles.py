"""Curves refined with X unknown: lattices and curves in turns, as the stages do it.

Lattices are those of `kept_lattices`. Stage 1 refines each with the F of the cycle before, X and
curves, and reduces it to its Gram matrices; curves and X are then refined together.
"""

import pickle
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import curve_sets
import lattices
import stage2
from curve_sets import ELEMENTS
from kept_lattices import Simulation, make
from lattices import D_MAX_ANNULUS, user_cpu
from spreadflow.analysis.curves import controls, dispersion, objective
from spreadflow.analysis.curves import rest as rests
from spreadflow.analysis.curves.controls import Trial
from spreadflow.analysis.curves.curvature import curvature
from spreadflow.analysis.curves.dispersion import LIMIT_E, Parametrisation
from spreadflow.analysis.curves.expand import RefinedCurves
from spreadflow.io.merged_intensities import Measured
from spreadflow.models import Mosaic
from spreadflow.physics import anomalous
from spreadflow.physics.mosaic import continuous
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.recipes import curves, patch
from spreadflow.recipes.gram import ExpandedLattice, expand_fit, with_curves, with_rest
from spreadflow.recipes.lattice import RunModel, Start, refine_lattice, start_after
from spreadflow.recipes.lattice_sums import SCALE, LatticeSums, Unknown

LINE_E = 0.15
"""How well tables know the line of f′ in the dispersion relation, e."""

REAL_SIGMA = 0.2
"""Relative standard deviation of |X| where it is real."""

MERGED = "merged"
"""Model whose |F| are merged from the lattices of a set, with the phases of the perturbed one."""


class Row(NamedTuple):
    """A row of the table: sets of lattices with X unknown."""

    n: int
    """lattices of a set, refined together"""
    n_sets: int = 5
    model: str = "perturbed"
    """of `lattices.model_factors`, or `MERGED`"""
    start: str = "mean"
    """of the curves of both sites: mean, of the true ones; metallic; swapped, the true ones"""
    mosaicity: str = "given"
    """of the model: given, the domains of the truth; learned, from other lattices; continuous"""
    d_max: float = D_MAX_ANNULUS
    unknown: str = "complex"
    """what of X is: complex, real, none"""
    n_cycles: int = 3
    against: str | None = None
    """row whose errors of the shape those of this row are compared with: σ where X is known there;
    None = 1 e
    """
    bar: float = 1.4
    """errors of the shape over these, at most"""

    @property
    def simulation(self) -> Simulation:
        """How the lattices are simulated."""
        return Simulation(d_max=self.d_max)


class Place(NamedTuple):
    """Where sets of lattices are refined."""

    folder: Path
    """of kept lattices"""
    workers: Executor
    domains: Mosaic | None
    """those that lattices share, where a row learns them"""


class Fits(NamedTuple):
    """The parametrisations of a row."""

    free: Parametrisation
    kramers_kronig: Parametrisation
    """the line is known to `LINE_E`"""


class Cycle(NamedTuple):
    """Curves and X of a set after a cycle, and what they cost."""

    sums: LatticeSums
    free: RefinedCurves
    kramers_kronig: RefinedCurves
    costs: dict[str, Any]
    """user-CPU seconds a lattice, and counts"""


# ---------------------------------------------------------------- starts


def start_curves(name: str) -> np.ndarray:
    """Return the curves (site, 2, channel) that a row starts from."""
    true = lattices.true_curves()
    if name == "mean":
        return np.repeat(true.mean(axis=0)[None], len(true), axis=0)
    if name == "swapped":
        return true[::-1].copy()
    energies = lattices.simulator(lattices.PLAIN).energies
    metal = np.array([anomalous.site(element, name, energies) for element in ELEMENTS])
    return np.stack([metal.real, metal.imag], axis=1)


def fits_of(row: Row) -> Fits:
    """Return the parametrisations of a row, about the curves that it starts from."""
    start = start_curves(row.start)
    with_line = partial(dispersion.kramers_kronig, line_e=LINE_E)
    return Fits(
        free=curve_sets.parametrisation(start=start),
        kramers_kronig=curve_sets.parametrisation(make=with_line, start=start),
    )


def start_factors(row: Row, folder: Path, numbers: range) -> StructureFactors:
    """Return F that a row starts with. numbers: of the lattices of the set."""
    if row.model == MERGED:
        factors = lattices.with_amplitudes(merged(row, folder, numbers))
    else:
        factors = lattices.model_factors(row.model, with_true_curves=False)
    return with_curves(factors, start_curves(row.start))


def merged(row: Row, folder: Path, numbers: range) -> Measured:
    """Return the merge of lattices, Friedel mates apart, as the stage would do it."""
    made = [make(row.simulation, folder, number) for number in numbers]
    of_all = stage2.merged(made, refine_b=True)
    unique = stage2.reflections_of("perturbed").unique
    sign = np.where(unique.friedel < 0, -1, 1)[:, None]
    return Measured(sign * unique.hkl, of_all.intensity, of_all.sigma)


# ---------------------------------------------------------------- lattices


class Expanded(NamedTuple):
    """A lattice refined by stage 1 and reduced to its Gram matrices."""

    lattice: ExpandedLattice
    seconds_fit: float
    """user CPU of stage 1"""
    seconds_gram: float


@lru_cache(1)
def model_in(path: Path) -> RunModel:
    """Return the model of a cycle."""
    return pickle.loads(path.read_bytes())


def expanded(
    row: Row, folder: Path, path: Path, domains: Mosaic | None, number: int, start: Start | None
) -> Expanded:
    """Refine a lattice with the model of a cycle, and reduce it.

    path: of the model; start: where the lattice ended in the cycle before.
    """
    made = make(row.simulation, folder, number)
    model = model_in(path)
    pixels = lattices.pixels_section(row.simulation.data)
    mosaic = {"given": made.mosaic, "learned": domains, "continuous": continuous()}[row.mosaicity]
    assert mosaic is not None
    first_time = user_cpu()
    if start is None and row.mosaicity == "learned":
        smooth = refine_lattice(made.packed, continuous(), model, pixels)
        if smooth.refined is not None:
            unit_of_widths = np.full(3, mosaic.eta_rad)
            start = start_after(smooth)._replace(eta_axes_rad=unit_of_widths)
    fit = refine_lattice(made.packed, mosaic, model, pixels, start)
    second_time = user_cpu()
    lattice = expand_fit(fit, made.packed, model, pixels, None)
    return Expanded(
        lattice=lattice._replace(boxes=None),
        seconds_fit=second_time - first_time,
        seconds_gram=user_cpu() - second_time,
    )


# ---------------------------------------------------------------- cycles


def cycles(row: Row, set_number: int, place: Place) -> Iterator[Cycle]:
    """Yield the cycles of a set of lattices."""
    numbers = range(set_number * row.n, (set_number + 1) * row.n)
    factors = start_factors(row, place.folder, numbers)
    fits = fits_of(row)
    about = factors
    starts: list[Start | None] = [None] * row.n
    free = None
    with tempfile.TemporaryDirectory() as scratch:
        for cycle in range(row.n_cycles):
            path = Path(scratch) / f"{cycle}.pickle"
            simulator = lattices.simulator(row.simulation.data)
            path.write_bytes(pickle.dumps(patch.run_model(simulator, about)))
            expand = partial(expanded, row, place.folder, path, place.domains)
            all_expanded = list(place.workers.map(expand, numbers, starts, chunksize=4))
            starts = [
                one.lattice.start or before
                for one, before in zip(all_expanded, starts, strict=True)
            ]
            costs = costs_of_lattices(all_expanded)
            sums = sums_of(row, all_expanded, factors)
            del all_expanded
            reduced = refined(sums, fits, free, costs)
            free = reduced.free
            yield reduced
            del sums, reduced  # before the next are made: both would not fit
            about = with_curves(factors, fits.free.curves(free.theta))
            about = with_rest(about, free.rest, simulator.crystal.space_group)


def costs_of_lattices(all_expanded: list[Expanded]) -> dict[str, Any]:
    """Return what stage 1 and the Gram matrices cost, and how many lattices were lost."""
    used = [one for one in all_expanded if one.lattice.gram is not None]
    return {
        "n_lost": len(all_expanded) - len(used),
        "seconds_fit": float(np.mean([one.seconds_fit for one in used])),
        "seconds_gram": float(np.mean([one.seconds_gram for one in used])),
        "model_error": float(np.median([one.lattice.model_error for one in used])),
    }


def sums_of(row: Row, all_expanded: list[Expanded], factors: StructureFactors) -> LatticeSums:
    """Return the sums over the lattices that are used, with X unknown as the row says."""
    simulator = lattices.simulator(row.simulation.data)
    used = [one.lattice for one in all_expanded if one.lattice.gram is not None]
    unknown = Unknown(
        kind=row.unknown,
        cell=simulator.cell,
        space_group=simulator.crystal.space_group,
        sigma=REAL_SIGMA,
    )
    return LatticeSums(
        [one.gram for one in used if one.gram is not None],
        factors,
        np.array([one.photons for one in used]),
        simulator.energies,
        unknowns=used[0].unknowns,
        unknown=unknown,
    )


def refined(
    sums: LatticeSums, fits: Fits, before: RefinedCurves | None, costs: dict[str, Any]
) -> Cycle:
    """Refine curves and X, and curves that obey the dispersion relation.

    before: those of the cycle before; costs: of the lattices.
    """
    first_time = user_cpu()
    free, change = curves.refine(sums, fits.free, before, LIMIT_E)
    second_time = user_cpu()
    near = controls.nearest(fits.kramers_kronig, fits.free.curves(free.theta))
    kramers_kronig = sums.refine(fits.kramers_kronig, Trial(near), free.rest)
    n = sums.n
    seconds = (second_time - first_time) / n
    costs = costs | {
        "seconds_refine": seconds,
        "seconds_evaluation": seconds_of_evaluation(sums, fits.free, free),
        "seconds": costs["seconds_fit"] + costs["seconds_gram"] + seconds,
        "n_steps": len(free.steps),
        "has_converged": free.rest is None or free.rest.has_converged,
        "change_sigma": change,
        "bytes_reduced": bytes_reduced(sums, fits.free),
    }
    return Cycle(sums, free, kramers_kronig, costs)


def seconds_of_evaluation(sums: LatticeSums, p: Parametrisation, fit: RefinedCurves) -> float:
    """Return the user CPU a lattice of Φ with its gradient, and of its second derivatives; 0 where
    X is known.
    """
    if sums.rest is None or fit.rest is None:
        return 0.0
    problem = objective.Problem(
        columns=sums.columns,
        rest=sums.rest,
        p=p,
        scale=lattices.FREE.index(SCALE),
        is_integrated=True,
        start_square=1.0,
        site_origin=sums.unknown.sites.origin,
        scale_sigma=np.inf,
        add=lambda array: array,
    )
    prior = rests.prior(sums.rest, fit.rest.variance)
    start_time = user_cpu()
    here = objective.point(problem, fit.theta, fit.rest.x, prior)
    curvature(problem, here, prior)
    return (user_cpu() - start_time) / sums.n


def bytes_reduced(sums: LatticeSums, p: Parametrisation) -> int:
    """Return the size of the largest array that ranks sum."""
    n_theta = len(p.names)
    n_reflections = 0 if sums.rest is None else sums.rest.n
    return 8 * n_theta * max(2 * n_reflections, n_theta)
