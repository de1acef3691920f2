"""SPREAD on lattices made directly as shoeboxes: are f′(E), f″(E) of both sites found, how well,
and at what cost?

Lattices of config/config.yaml, all predicted reflections; counting, readout and 1 % gains are
noise. The recipes of `stage1` and `spread` refine them. Curves start at the mean of the two true
ones, for both sites: that is what stage 1 and the weights know of them. Figures are r.m.s. over the
nodes of 7100-7140 eV; the truth is looked at to score, and for orientation, cell, N and η where a
row says so. Rows take minutes each: --rows chooses some, --json adds them to those that a file has.
"""

import lattices  # first: it sets threads before NumPy and XLA start  # isort: skip

import argparse
import json
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lattices import D_MAX_ANNULUS, D_MAX_WIDEST, D_MIN, FREE, NO_POINT_SPREAD, Data
from spreadflow.analysis.curves import dispersion, edges, expand, gram
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.expand import LatticeTerms, Normal, RefinedCurves
from spreadflow.analysis.pixels import lattice_fit, mosaic_learning
from spreadflow.models import Mosaic
from spreadflow.physics import anomalous
from spreadflow.physics.mosaic import continuous
from spreadflow.recipes import curves
from spreadflow.recipes.gram import expand_fit, lattice_terms
from spreadflow.recipes.lattice import (
    LatticeFit,
    PackedLattice,
    Start,
    problem_of,
    refine_lattice,
    start_after,
)
from spreadflow.recipes.lattice_sums import LatticeSums, sums_here
from spreadflow.recipes.patch import Patch, packed_lattice, patch

D_MAX_WIDE = 4.0
"""Low-resolution edge of what `spread` reads by default, Å."""

BAND_EV = 7100.0, 7140.0
"""First and last node that is scored, eV."""

STEP_EV = 2.0
"""Distance of the nodes, eV."""

N_TEACHERS = 30
"""Lattices that the shared domains are learned from."""

FIRST_TEACHER = 100_000
"""Number of the first of these; no other lattice has such a number."""

MAX_WAITING = 32
"""Lattices that may wait to be taken."""

VALENCES = "oxidized", "reduced"
"""The true states of the two sites."""

ELEMENT = "Fe"
"""The element of both sites."""


class Row(NamedTuple):
    """A row of the table: data, model, lattices."""

    data: str = "domains"
    model: str = "domains"
    """continuous; domains, those of the truth; learned, from other lattices; alone, from each
    lattice's own pixels
    """
    is_refined: bool = True
    """by stage 1, from starts as of benchmarks/stage1.py; otherwise orientation, cell, N and η are
    true
    """
    factors: str = "right"
    model_error: float | None = None
    """of a pixel, relative to its Bragg photons; None = from residuals where a lattice is refined,
    else none
    """
    d_max: float = D_MAX_ANNULUS
    psf: tuple[str, float] = NO_POINT_SPREAD
    """point spread of the detector and its width, mm; it is undone first, and the model has none"""
    n: int = 200
    """lattices of a set, refined together"""
    n_sets: int = 1
    f0_sigma: float | None = None
    """relative, with which |F| of each unique reflection is refined with the curves; None = it is
    not
    """
    bound: str | None = None
    """row whose Fisher matrix is the Cramér-Rao bound, where the model is not that of the data"""

    @property
    def simulated(self) -> tuple[Data, float]:
        """How the row's lattices are made, and to which d_max: rows that agree in it share them."""
        is_alone = self.data == "per_shot"
        return Data(self.data, psf=self.psf), D_MAX_WIDEST if is_alone else self.d_max


ROWS = {
    "continuous": Row("continuous", "continuous", False, n_sets=5),
    "continuous, stage 1": Row("continuous", "continuous", n_sets=5, bound="continuous"),
    "given": Row(is_refined=False, n_sets=5),
    "given, stage 1": Row(n_sets=5, bound="given"),
    "learned": Row(model="learned", n=400, bound="given"),
    "published": Row(model="continuous", n=400, bound="given"),
    "published, no model error": Row(model="continuous", model_error=0.0, n=400, bound="given"),
    "given, fibre 0.08 mm": Row(is_refined=False, psf=("fiber", 0.08), n_sets=2, bound="given"),
    "given, Gaussian 0.13 mm": Row(is_refined=False, psf=("gauss", 0.13), n_sets=2, bound="given"),
    "per shot, given": Row("per_shot", is_refined=False, n=60),
    "per shot, learned": Row("per_shot", "alone", n=60, bound="per shot, given"),
    "per shot, continuous": Row("per_shot", "continuous", n=60, bound="per shot, given"),
    "given, 2.1-4 Å": Row(is_refined=False, d_max=D_MAX_WIDE, n_sets=16),
    "given, stage 1, 2.1-4 Å": Row(d_max=D_MAX_WIDE, n_sets=2, bound="given, 2.1-4 Å"),
    "learned, 2.1-4 Å": Row(model="learned", d_max=D_MAX_WIDE, n=400, bound="given, 2.1-4 Å"),
    "published, 2.1-4 Å": Row(model="continuous", d_max=D_MAX_WIDE, n=400, bound="given, 2.1-4 Å"),
    "perturbed F": Row(factors="perturbed", n=400, bound="given"),
    "perturbed F, joint": Row(factors="perturbed", n=400, f0_sigma=0.2, bound="given"),
    "perturbed F, 2.1-4 Å": Row(
        factors="perturbed", d_max=D_MAX_WIDE, n=400, bound="given, 2.1-4 Å"
    ),
    "perturbed F, joint, 2.1-4 Å": Row(
        factors="perturbed", d_max=D_MAX_WIDE, n=400, f0_sigma=0.2, bound="given, 2.1-4 Å"
    ),
    "merged F, 1 % wrong": Row(factors="merged", n=400, bound="given"),
    "merged F, 1 % wrong, joint": Row(factors="merged", n=400, f0_sigma=0.01, bound="given"),
    "merged F, 2 % wrong": Row(factors="merged, 4 %", n=400, bound="given"),
    "merged F, 2 % wrong, joint": Row(factors="merged, 4 %", n=400, f0_sigma=0.02, bound="given"),
}
"""Name of a row → how it is made."""

SIZES = {"given": (400, 1000), "given, 2.1-4 Å": (400, 1000, 3000)}
"""Numbers of lattices of larger sets, put together from those refined."""


# ---------------------------------------------------------------- one lattice


class Built(NamedTuple):
    """A lattice ready for curves."""

    terms: LatticeTerms
    photons: np.ndarray
    """(channel,) of its pulse"""
    seconds: float
    """user CPU of the Gram matrices"""


def build(row: Row, made: Patch, number: int, domains: Mosaic | None) -> Built:
    """Model a lattice as the row says, and reduce it to its Gram matrices.

    domains: those that were learned from other lattices. Raises ValueError where stage 1 loses it.
    """
    data, _ = row.simulated
    model = lattices.run_model(data, row.factors, with_true_curves=False)
    pixels = lattices.pixels_section(data)
    packed = packed_lattice(made, row.d_max)
    if row.is_refined and row.model != "alone":
        fit = refined(row, packed, made, number, domains)
        start_time = lattices.user_cpu()
        expanded = expand_fit(fit, packed, model, pixels, row.model_error)
        if expanded.gram is None:
            raise ValueError(f"lattice {number} is lost: {expanded.why}")
        own = expanded.gram
    else:
        mosaic = made.parameters.mosaic
        start = lattices.true_start(made.parameters)
        if row.model == "alone":
            mosaic, start = learned_alone(row, made, number)
        problem = problem_of(packed, mosaic, model, pixels, start)
        at_start = lattice_fit.Model(problem, FREE)
        bragg = at_start.photons(np.zeros(at_start.n_unknowns))
        planes = lattice_fit.planes_and_scale(bragg, problem.data, problem.noise)[1]
        start_time = lattices.user_cpu()
        own = gram.gram(at_start, planes, model_error=row.model_error or 0.0)
    terms = lattice_terms(own, model.factors)
    photons = made.parameters.spectrum.photons
    return Built(terms, photons, lattices.user_cpu() - start_time)


def refined(
    row: Row, packed: PackedLattice, made: Patch, number: int, domains: Mosaic | None = None
) -> LatticeFit:
    """Return a lattice refined by stage 1 from a start that is off, then with learned domains."""
    data, _ = row.simulated
    model = lattices.run_model(data, row.factors, with_true_curves=False)
    pixels = lattices.pixels_section(data)
    off = lattices.off_start(packed, number)
    mosaic = lattices.mosaic_of("domains" if row.model == "domains" else "continuous", made)
    fit = refine_lattice(off, mosaic, model, pixels)
    if row.model != "learned":
        return fit
    assert domains is not None and domains.eta_rad is not None
    start = start_after(fit)._replace(eta_rad=domains.eta_rad)  # the unit of their widths
    return refine_lattice(off, domains, model, pixels, start)


def learned_alone(row: Row, made: Patch, number: int) -> tuple[Mosaic, Start]:
    """Return the domains of a lattice learned from all its pixels, and where it then ends.

    Where held-out spots say so, it is the continuous distribution.
    """
    fit = refined(row, packed_lattice(made), made, number)
    assert fit.problem is not None and fit.refined is not None
    start = start_after(fit)
    learned = mosaic_learning.learn(
        [lattice_fit.moved(fit.problem, fit.refined.parameters)],
        eta_rad=float(start.eta_rad),
        seeds=[(0, number)],
        fine=lattices.FINEST_ALONE,
    )
    if not learned.is_better:
        return continuous(), start
    again = lattice_fit.refine(learned.problems[0], mosaic_learning.FREE, is_rough=False)
    return again.parameters.mosaic, start_after(fit._replace(refined=again))


def work(rows: list[Row], number: int, domains: Mosaic | None) -> list[Built]:
    """Return a lattice built for each row. Rows have their data in common, and some differ only in
    what is made of them later.
    """
    data, d_max = rows[0].simulated
    made = patch(lattices.simulator(data), number, d_min=D_MIN, d_max=d_max)
    alike = [row._replace(n=0, n_sets=0, f0_sigma=None, bound=None) for row in rows]
    built = {row: build(row, made, number, domains) for row in dict.fromkeys(alike)}
    return [built[row] for row in alike]


def teach(path: Path | None) -> Mosaic:
    """Return domains that lattices share, learned in the annulus from others.

    path: of the file that they are kept in; None = they are not.
    """
    if path is not None and path.exists():
        return Mosaic(**np.load(path))
    row = Row(model="continuous")
    data, d_max = row.simulated
    problems = []
    for number in range(FIRST_TEACHER, FIRST_TEACHER + N_TEACHERS):
        made = patch(lattices.simulator(data), number, d_min=D_MIN, d_max=d_max)
        fit = refined(row, packed_lattice(made), made, number)
        assert fit.problem is not None and fit.refined is not None
        problems.append(lattice_fit.moved(fit.problem, fit.refined.parameters))
    eta_rad = float(np.median([problem.start.crystal.eta_rad for problem in problems]))
    mosaic = mosaic_learning.learn(problems, eta_rad=eta_rad).mosaic
    if path is not None:
        np.savez(path, **mosaic._asdict())
    return mosaic


# ---------------------------------------------------------------- curves


def parametrisation(step_ev: float = STEP_EV, make: Callable = dispersion.free) -> Parametrisation:
    """Return deviations from the start at nodes so far apart, each on a channel."""
    energies = lattices.simulator(lattices.PLAIN).energies
    start = curves.start_curves(lattices.model_factors("right", with_true_curves=False))
    return make(start, energies, energies[:: round(step_ev / (energies[1] - energies[0]))])


def sums_of(row: Row, built: list[Built]) -> LatticeSums:
    """Return the sums over lattices, from which curves are refined, and |F| where the row says."""
    simulator = lattices.simulator(lattices.PLAIN)
    photons = np.array([lattice.photons for lattice in built])
    sums = sums_here([lattice.terms for lattice in built], photons, simulator.energies)
    if row.f0_sigma is not None:
        sums.refine_amplitudes(simulator.crystal.space_group, row.f0_sigma)
    return sums


class Set(NamedTuple):
    """A set of lattices: a parabola in the curves about those refined, from which the curves of any
    parametrisation follow.
    """

    curves: np.ndarray
    """(site, 2, channel)"""
    normal: Normal
    """in the values of all channels"""
    cycles: int
    seconds_build: float
    seconds_cycle: float
    """of a lattice"""


def reduced(row: Row, built: list[Built]) -> Set:
    """Refine the curves of some lattices, free at nodes 2 eV apart."""
    p = parametrisation()
    channels = parametrisation(1.0)
    sums = sums_of(row, built)
    start_time = lattices.user_cpu()
    best = expand.refine(sums.evaluator(p), p, np.zeros(len(p.names)))
    cycles = len(best.steps) + 1
    seconds = (lattices.user_cpu() - start_time) / len(built) / cycles
    found = p.curves(best.theta)
    return Set(
        curves=found,
        normal=sums.evaluator(channels)((found - channels.reference).ravel()),
        cycles=cycles,
        seconds_build=float(np.median([lattice.seconds for lattice in built])),
        seconds_cycle=seconds,
    )


def solved(sets: list[Set], p: Parametrisation) -> RefinedCurves:
    """Return the curves of all sets in a parametrisation, to second order in how far they are from
    those refined.
    """
    hessian = p.basis.T @ np.sum([one.normal.hessian for one in sets], axis=0) @ p.basis
    offsets = [(one.curves - p.reference).ravel() for one in sets]
    pull = sum(
        one.normal.hessian @ offset - one.normal.scores.sum(axis=0)
        for one, offset in zip(sets, offsets, strict=True)
    )
    rhs = p.basis.T @ pull + p.rows.T @ (p.precision * p.target)
    theta = np.linalg.solve(hessian + p.restraints, rhs)
    scores = []
    for one, offset in zip(sets, offsets, strict=True):
        moved = one.normal.hessian @ (p.basis @ theta - offset) / len(one.normal.scores)
        scores.append((one.normal.scores + moved) @ p.basis)
    return RefinedCurves(
        theta=theta,
        losses=np.concatenate([one.normal.losses for one in sets]),
        hessian=hessian + p.restraints,
        of_pixels=hessian,
        scores=np.concatenate(scores),
        steps=[],
    )


class Scored(NamedTuple):
    """Errors and their σ over the nodes of the band, (site, 2, node) e."""

    error: np.ndarray
    fisher: np.ndarray
    sandwich: np.ndarray


def scored(p: Parametrisation, found: RefinedCurves) -> Scored:
    """Compare curves with the truth."""
    band = (p.nodes_ev >= BAND_EV[0]) & (p.nodes_ev <= BAND_EV[1])
    true = p._replace(reference=lattices.true_curves()).reference_at_nodes
    error = (p.at_nodes @ found.theta).reshape(true.shape) + p.reference_at_nodes - true
    fisher, sandwich = (p.sigma(covariance) for covariance in (found.fisher, found.sandwich))
    return Scored(error[..., band], fisher[..., band], sandwich[..., band])


def rms(values: np.ndarray) -> dict[str, float]:
    """Return the root mean square of f′ and of f″ over (…, site, 2, node)."""
    squares = np.square(np.moveaxis(values, -2, 0)).reshape(2, -1)
    return dict(zip(("fp", "fdp"), np.sqrt(squares.mean(axis=1)).tolist(), strict=True))


def figures(p: Parametrisation, fits: list[RefinedCurves]) -> dict:
    """Return the figures of fits to equal numbers of lattices, pooled. Pairs are f′, f″."""
    scores = [scored(p, fit) for fit in fits]
    error, fisher, sandwich = (np.array(values) for values in zip(*scores, strict=True))
    out: dict = {"n_lattices": len(fits[0].losses), "n_sets": len(fits)}
    out |= {f"rms_{kind}": value for kind, value in rms(error).items()}
    out |= {f"crlb_{kind}": value for kind, value in rms(fisher).items()}
    for name, sigma in (("fisher", fisher), ("sandwich", sandwich)):
        pulls = np.moveaxis(error / sigma, -2, 0).reshape(2, -1)
        out[f"pull_sd_{name}"] = pulls.std(axis=1).tolist()
        out[f"pull_mean_{name}"] = pulls.mean(axis=1).tolist()
    return out | {"sigma_sandwich": list(rms(sandwich).values())}


def edge(p: Parametrisation, fits: list[RefinedCurves]) -> dict:
    """Return E0(oxidized) − E0(reduced) of several fits; the shape is that of the metal."""
    shapes = edges.metals([ELEMENT] * len(VALENCES), p.energies_ev)
    values = []
    sigmas = []
    for fit in fits:
        of_noise = [
            edges.edges(p, fit.theta, fit.of_pixels, shapes, noise=noise)
            for noise in (None, fit.scatter)
        ]
        values.append(of_noise[0].difference_ev[0, 1])
        sigmas.append([one.difference_sigma_ev[0, 1] for one in of_noise])
    sigma, scatter = np.transpose(sigmas)
    states = anomalous.VALENCE[VALENCES[0]] - anomalous.VALENCE[VALENCES[1]]
    errors = np.array(values) - states * anomalous.EDGE_SHIFT_EV
    return {
        "error_ev": errors.tolist(),
        "sigma_ev": float(sigma.mean()),
        "sigma_sandwich_ev": float(scatter.mean()),
        "bias_ev": float(errors.mean()),
        "bias_sigma_ev": float(sigma.mean() / np.sqrt(len(errors))),
        "worst_pull": float(np.abs(errors / sigma).max()),
    }


def interpolation(sets: list[Set], p: Parametrisation) -> dict:
    """Return the r.m.s. error of linear pieces at the nodes, were there no noise: part of the
    errors above.
    """
    true = lattices.true_curves()
    noiseless = [
        one._replace(curves=true, normal=one.normal._replace(scores=0 * one.normal.scores))
        for one in sets
    ]
    error = scored(p, solved(noiseless, p)).error
    return {f"interpolation_{kind}": value for kind, value in rms(error).items()}


def summed(groups: list[list[Set]], p: Parametrisation) -> dict:
    """Return all figures of groups of sets in a parametrisation."""
    fits = [solved(group, p) for group in groups]
    return figures(p, fits) | interpolation(groups[0], p) | {"edge": edge(p, fits)}


def together(sets: list[Set], n_lattices: int) -> list[list[Set]]:
    """Return groups of sets, each of so many lattices."""
    size = n_lattices // len(sets[0].normal.losses)
    return [sets[first : first + size] for first in range(0, len(sets) - size + 1, size)]


def table(name: str, sets: list[Set]) -> dict:
    """Return the figures of a row."""
    p = parametrisation()
    kramers_kronig = parametrisation(make=dispersion.kramers_kronig)
    coarse = parametrisation(2 * STEP_EV)
    alone = [[one] for one in sets]
    out = summed(alone, p)
    related = summed(alone, kramers_kronig)
    for key in ("cycles", "seconds_build", "seconds_cycle"):
        out[key] = float(np.median([getattr(one, key) for one in sets]))
    out["Kramers-Kronig"] = related
    out["gain_kramers_kronig"] = out["crlb_fp"] / related["crlb_fp"]
    out["4 eV"] = summed(alone, coarse)
    for n in SIZES.get(name, ()):
        groups = together(sets, n)
        if groups:
            out[f"of {n}"] = summed(groups, p)
            out[f"of {n}, 4 eV"] = summed(groups, coarse)
            out[f"of {n}, Kramers-Kronig"] = summed(groups, kramers_kronig)
    return out


def controls(row: Row, built: list[Built]) -> dict:
    """Return the verdicts of the controls."""
    p = parametrisation()
    sums = sums_of(row, built)
    best = expand.refine(sums.evaluator(p), p, np.zeros(len(p.names)))
    fits = {"free": curves.quoted_fit(p, best, "fisher")}
    model = lattices.model_factors(row.factors, with_true_curves=False)
    more_starts = {"true": lattices.true_curves()}
    verdicts = curves.verdicts(fits, sums, model, [ELEMENT] * len(VALENCES), more_starts)
    return {
        verdict.name: {
            "passed": bool(verdict.passed),
            "figure": verdict.figure,
            "bar": verdict.bar,
        }
        for verdict in verdicts
    }


# ---------------------------------------------------------------- the table


def measure(rows: dict[str, Row], n_processes: int, path: Path | None) -> dict:
    """Return the figures of each row, and those of the controls. path: of the shared domains."""
    sets: dict[str, list[Set]] = {name: [] for name in rows}
    waiting: dict[str, list[Built]] = {name: [] for name in rows}
    out = {}
    with ProcessPoolExecutor(n_processes, multiprocessing.get_context("spawn")) as pool:
        needs_domains = any(row.model == "learned" for row in rows.values())
        domains = pool.submit(teach, path).result() if needs_domains else None
        for kind in dict.fromkeys(row.simulated for row in rows.values()):
            chosen = {name: row for name, row in rows.items() if row.simulated == kind}
            for name, lattice in _stream(pool, chosen, domains):
                waiting[name].append(lattice)
                if len(waiting[name]) == rows[name].n:
                    sets[name].append(reduced(rows[name], waiting[name]))
                    if name == "given" and len(sets[name]) == 1:
                        out["controls"] = controls(rows[name], waiting[name])
                    waiting[name] = []
    return {name: table(name, of_row) for name, of_row in sets.items()} | out


def _stream(
    pool: Executor, rows: dict[str, Row], domains: Mosaic | None
) -> Iterator[tuple[str, Built]]:
    """Yield lattice after lattice for each row, a few made ahead of what is asked for."""
    ahead: deque = deque()
    for number in range(max(row.n * row.n_sets for row in rows.values())):
        names = [name for name, row in rows.items() if number < row.n * row.n_sets]
        future = pool.submit(work, [rows[name] for name in names], number, domains)
        ahead.append((names, future))
        if len(ahead) > MAX_WAITING:
            names, future = ahead.popleft()
            yield from zip(names, future.result(), strict=True)
    for names, future in ahead:
        yield from zip(names, future.result(), strict=True)


def ratio(rows: dict[str, dict], name: str) -> list[float] | None:
    """Return the r.m.s. error over the Cramér-Rao bound of f′, f″; None where the row that has the
    bound is missing.
    """
    row = rows[name]
    bound = rows.get(ROWS[name].bound or name)
    if bound is None:
        return None
    scale = np.sqrt(bound["n_lattices"] / row["n_lattices"])
    return [row[f"rms_{kind}"] / (scale * bound[f"crlb_{kind}"]) for kind in ("fp", "fdp")]


def line(label: str, row: dict, bound: list[float] | None) -> str:
    """Return a line of the table. bound: r.m.s. over the bound; None = that of the row itself."""
    rms_errors = [row[f"rms_{kind}"] for kind in ("fp", "fdp")]
    sigmas = [row[f"crlb_{kind}"] for kind in ("fp", "fdp")]
    ratios = bound or np.divide(rms_errors, sigmas)
    pairs = [rms_errors, sigmas, ratios, row["pull_sd_fisher"], row["pull_sd_sandwich"]]
    shown = "".join(f"{f'{first:.3g}/{second:.3g}':>14}" for first, second in pairs)
    e0 = (
        "{sigma_ev:.3f} ({sigma_sandwich_ev:.3f}), {bias_ev:+.3f} ± {bias_sigma_ev:.3f}, "
        "{worst_pull:.1f}"
    ).format(**row["edge"])
    n_lattices = f"{row['n_sets']} x {row['n_lattices']}"
    return f"{label:<36}{n_lattices:>10}{shown}   {e0}"


def report(rows: dict[str, dict]) -> None:
    """Print the table, and what there is of edges and controls."""
    names = ("r.m.s.", "formal σ", "/ bound", "pulls", "sandwich")
    columns = f"{'lattices':>10}" + "".join(f"{name:>14}" for name in names)
    print(f"{'e: f′/f″':<36}{columns}   E0 difference, eV: σ (sandwich), bias, worst/σ")
    for name in filter(rows.get, ROWS):
        row = rows[name]
        print(line(name, row, ratio(rows, name)))
        for label, inner in row.items():
            if isinstance(inner, dict) and "rms_fp" in inner:
                print(line(f"  {label}", inner, None))
        costs = (
            "s per lattice: Gram matrices {seconds_build:.3f}, cycle {seconds_cycle:.4f} (of "
            "{cycles:g} cycles); Kramers-Kronig: σ(f′) {gain_kramers_kronig:.2f} x smaller"
        )
        print(f"    {costs.format(**row)}")
    for name, verdict in rows.get("controls", {}).items():
        print(f"{name:<28}{verdict}")


def main() -> None:
    """Measure the rows that are asked for, and print all that there are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), metavar="ROW", help="only these")
    parser.add_argument("--quick", type=int, default=1, help="so many times fewer lattices")
    parser.add_argument("--processes", type=int, default=2)
    help_of_domains = "where shared domains are kept from run to run (.npz)"
    parser.add_argument("--domains", type=Path, help=help_of_domains)
    parser.add_argument("--json", type=Path, help="rows are added to those that it has")
    args = parser.parse_args()
    chosen = {name: ROWS[name] for name in args.rows or ROWS}
    chosen = {name: row._replace(n=max(2, row.n // args.quick)) for name, row in chosen.items()}
    rows = {}
    if args.json and args.json.exists():
        rows = json.loads(args.json.read_text())["rows"]
    rows |= measure(chosen, args.processes, args.domains)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows}, indent=2))
    report(rows)


if __name__ == "__main__":
    main()
