"""SPREAD on lattices made directly as shoeboxes: are f'(E), f''(E) of both sites found, how well,
and at what cost?

Lattices of config/config.yaml, all predicted reflections; counting, readout and 1 % gains are
noise. Curves start at the mean of the two true ones, for both sites: that is what stage 1 and the
weights know of them. Figures are r.m.s. over the nodes of 7100-7140 eV; the truth is looked at to
score, and for orientation, cell, N and η where a row says so. Rows take minutes each: --rows
chooses some, --json adds them to those that a file has.
"""

import stage1  # first: it sets threads before NumPy and XLA start  # isort: skip

import argparse
import json
import multiprocessing
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.curves import controls, dispersion, edges, expand, gram, joint
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.pixels import lattice_fit, mosaic_learning, point_spread, solve
from spreadflow.analysis.pixels.likelihood import Noise
from spreadflow.models import Mosaic, Parameters, Shoeboxes
from spreadflow.physics import anomalous, symmetry
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.recipes import factors
from spreadflow.recipes import patch as patches
from spreadflow.recipes.still import PERTURBATION

D_MIN, ANNULUS, WIDE, WIDEST = 2.1, 2.5, 4.0, 20.0
"""Å: of all lattices; the annulus, the default of `spread`, and what a lattice learns its own
domains from
"""
BAND_EV = 7100.0, 7140.0
STEP_EV = 2.0
N_TEACHERS, FIRST_TEACHER = 30, 100_000
"""lattices that the shared domains are learned from; no others have these numbers"""
ALONE = 1.0
"""step of the last grid where a lattice learns alone, in angular widths of a domain"""
AHEAD = 32
"""lattices that may wait to be taken"""
SITES = "oxidized", "reduced"
ELEMENT = "Fe"


class Row(NamedTuple):
    """A row of the table: data, model, lattices."""

    data: str = "domains"
    model: str = "domains"
    """continuous; domains, as given; learned, from other lattices; alone, from each lattice's own
    pixels
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
    d_max: float = ANNULUS
    psf: tuple[str, float] = ("fiber", 0.0)
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
    "given, 2.1-4 Å": Row(is_refined=False, d_max=WIDE, n_sets=16),
    "given, stage 1, 2.1-4 Å": Row(d_max=WIDE, n_sets=2, bound="given, 2.1-4 Å"),
    "learned, 2.1-4 Å": Row(model="learned", d_max=WIDE, n=400, bound="given, 2.1-4 Å"),
    "published, 2.1-4 Å": Row(model="continuous", d_max=WIDE, n=400, bound="given, 2.1-4 Å"),
    "perturbed F": Row(factors="perturbed", n=400, bound="given"),
    "perturbed F, joint": Row(factors="perturbed", n=400, f0_sigma=0.2, bound="given"),
    "perturbed F, 2.1-4 Å": Row(factors="perturbed", d_max=WIDE, n=400, bound="given, 2.1-4 Å"),
    "perturbed F, joint, 2.1-4 Å": Row(
        factors="perturbed", d_max=WIDE, n=400, f0_sigma=0.2, bound="given, 2.1-4 Å"
    ),
    "merged F, 1 % wrong": Row(factors="merged", n=400, bound="given"),
    "merged F, 1 % wrong, joint": Row(factors="merged", n=400, f0_sigma=0.01, bound="given"),
    "merged F, 2 % wrong": Row(factors="merged, 4 %", n=400, bound="given"),
    "merged F, 2 % wrong, joint": Row(factors="merged, 4 %", n=400, f0_sigma=0.02, bound="given"),
}
SIZES = {"given": (400, 1000), "given, 2.1-4 Å": (400, 1000, 3000)}
"""lattices of larger sets, put together from those refined"""


# ---------------------------------------------------------------- one lattice


@cache
def guess(kind: str) -> StructureFactors:
    """F of the model as `spread` makes it, where both sites start with the mean of the true
    curves.
    """
    made = stage1.simulator("continuous", "coarse", factors=kind)
    mean = true_curves().mean(axis=0)
    path = Path(tempfile.mkdtemp()) / "mean.txt"
    np.savetxt(path, np.column_stack([made.energies, *mean]))
    section = made.config.structure_factors
    sites = [site.model_copy(update={"curve": str(path)}) for site in section.sites]
    started = section.model_copy(update={"sites": sites})
    return factors.factors(started, made.energies, made.beam.energy_ev, made.rng(PERTURBATION))


def true_curves() -> np.ndarray:
    """(site, 2, channel) e."""
    made = stage1.simulator("continuous", "coarse").factors
    return _parts(made.anomalous[: made.n_sites])


def _parts(curves: np.ndarray) -> np.ndarray:
    return np.stack([curves.real, curves.imag], axis=1)


def narrowed(made: patches.Patch, d_max: float) -> Shoeboxes:
    """Those of reflections below d_max."""
    boxes = made.shoeboxes
    some = made.predicted.d < d_max
    pixel = np.repeat(some, boxes.n_pixels)
    return Shoeboxes(
        boxes.hkl[some],
        boxes.panel[some],
        boxes.bbox[some],
        boxes.photons[pixel],
        boxes.valid[pixel],
    )


def problem(row: Row, made: patches.Patch, at: Parameters, boxes: Shoeboxes) -> lattice_fit.Problem:
    """Of the model at some unknowns, with the curves that the refinement starts from."""
    start = stage1.model(
        stage1.Task("", row.data, "domains", row.factors), made._replace(shoeboxes=boxes)
    )
    guessed = guess(row.factors)
    start = start._replace(f_squared=guessed.squared(expand.rows(guessed, np.asarray(start.hkl))))
    start = start._replace(
        crystal=at.crystal, mosaic=at.mosaic, scale=at.scale, spectrum=at.spectrum
    )
    space_group = stage1.simulator(row.data, "coarse").crystal.space_group
    return lattice_fit.problem(start, space_group, boxes, noise(row))


def noise(row: Row) -> Noise:
    """That of the shoeboxes a lattice is modelled in."""
    kernel = stage1.simulator(row.data, "coarse", psf=row.psf).kernel
    growth = 1.0 if kernel is None else point_spread.growth(kernel)
    return stage1.NOISE._replace(readout_photons=growth * stage1.NOISE.readout_photons)


def first(row: Row, made: patches.Patch, number: int) -> Parameters:
    """Where stage 1 starts."""
    kind = "domains" if row.model == "domains" else "continuous"
    at = stage1.model(stage1.Task("", row.data, kind, row.factors), made)
    return stage1.start(stage1.Task(""), at, number)


def learned(row: Row, made: patches.Patch, number: int) -> Parameters:
    """A lattice with domains learned from all its pixels; the continuous fit where held-out spots
    say so.
    """
    of = problem(row, made, first(row, made, number), made.shoeboxes)
    fit = lattice_fit.refine(of, stage1.FREE)
    eta = float(fit.parameters.crystal.eta_rad)
    found = mosaic_learning.learn(
        [lattice_fit.moved(of, fit.parameters)], eta_rad=eta, seeds=[(0, number)], fine=ALONE
    )
    if not found.is_better:
        return fit.parameters
    return lattice_fit.refine(found.problems[0], mosaic_learning.FREE, is_rough=False).parameters


def modelled(
    row: Row, made: patches.Patch, number: int, domains: Mosaic | None
) -> tuple[lattice_fit.Model, np.ndarray]:
    """The model that templates are of, and planes."""
    boxes = narrowed(made, row.d_max)
    if row.is_refined and row.model != "alone":
        of = problem(row, made, first(row, made, number), boxes)
        fit = lattice_fit.refine(of, stage1.FREE)
        if row.model == "learned" and domains is not None:
            crystal = fit.parameters.crystal._replace(
                eta_rad=np.float64(domains.eta_rad)
            )  # the unit of their widths
            of = lattice_fit.moved(of, fit.parameters._replace(mosaic=domains, crystal=crystal))
            fit = lattice_fit.refine(of, stage1.FREE, is_rough=False)
        return lattice_fit.Model(
            lattice_fit.moved(of, fit.parameters), stage1.FREE
        ), fit.fit.point.planes
    at = learned(row, made, number) if row.model == "alone" else made.parameters
    of = problem(row, made, at, boxes)
    model = lattice_fit.Model(of, stage1.FREE)
    return model, lattice_fit.planes_and_scale(
        model.photons(np.zeros(model.n_unknowns)), of.data, of.noise
    )[1]


def weighted(row: Row, model: lattice_fit.Model, planes: np.ndarray) -> float:
    """The model error that weights are lowered by."""
    if row.model_error is not None or not row.is_refined:
        return row.model_error or 0.0
    of = model.of
    bragg = model.photons(np.zeros(model.n_unknowns))
    return gram.model_error(
        bragg + solve.backgrounds(planes, of.data), bragg, of.data.photons, of.noise
    )


class Built(NamedTuple):
    """A lattice ready for curves."""

    lattice: expand.LatticeTerms
    photons: np.ndarray
    """(channel,) of its pulse"""
    seconds: float
    """user CPU of the Gram matrices"""


def build(row: Row, made: patches.Patch, number: int, domains: Mosaic | None) -> Built:
    model, planes = modelled(row, made, number, domains)
    begun = stage1.user_cpu()
    guessed = guess(row.factors)
    found = gram.gram(model, planes, model_error=weighted(row, model, planes))
    lattice = expand.lattice(found, guessed, expand.rows(guessed, found.hkl))
    return Built(lattice, made.parameters.spectrum.photons, stage1.user_cpu() - begun)


def work(rows: list[Row], number: int, domains: Mosaic | None) -> list[Built]:
    """All rows of one lattice; they have their data in common, and some differ in what is made of
    them later.
    """
    data, d_max, psf = _range(rows[0])
    simulator = stage1.simulator(data, "coarse", psf=psf)
    made = patches.patch(simulator, number, d_min=D_MIN, d_max=d_max)
    if simulator.kernel is not None:
        boxes = made.shoeboxes
        made = made._replace(shoeboxes=point_spread.undone(boxes, boxes.valid, simulator.kernel))
    alike = [row._replace(n=0, n_sets=0, f0_sigma=None, bound=None) for row in rows]
    built = {row: build(row, made, number, domains) for row in dict.fromkeys(alike)}
    return [built[row] for row in alike]


def _range(row: Row) -> tuple[str, float, tuple[str, float]]:
    """What lattices are made as: rows that agree in it share them."""
    return row.data, WIDEST if row.data == "per_shot" else row.d_max, row.psf


def teach(n: int, path: Path | None) -> Mosaic:
    """Domains that n other lattices share, learned in the annulus; of the file if there is one,
    else it is made.
    """
    if path is not None and path.exists():
        return Mosaic(**np.load(path))
    row = Row(model="continuous")
    fits = []
    for number in range(FIRST_TEACHER, FIRST_TEACHER + n):
        made = patches.patch(
            stage1.simulator(row.data, "coarse"), number, d_min=D_MIN, d_max=ANNULUS
        )
        of = problem(row, made, first(row, made, number), made.shoeboxes)
        fits.append(lattice_fit.moved(of, lattice_fit.refine(of, stage1.FREE).parameters))
    eta = float(np.median([of.start.crystal.eta_rad for of in fits]))
    found = mosaic_learning.learn(fits, eta_rad=eta).mosaic
    if path is not None:
        np.savez(path, **found._asdict())
    return found


# ---------------------------------------------------------------- curves


def parametrisation(step_ev: float = STEP_EV, make=dispersion.free) -> Parametrisation:
    """Deviations from the start at nodes so far apart, each on a channel."""
    energies = stage1.simulator("continuous", "coarse").energies
    reference = _parts(guess("right").anomalous[: guess("right").n_sites])
    return make(reference, energies, energies[:: round(step_ev / (energies[1] - energies[0]))])


class Set(NamedTuple):
    """A set of lattices, a parabola in the curves about those refined: any parametrisation is found
    from it.
    """

    curves: np.ndarray
    """(site, 2, channel)"""
    made: expand.Normal
    """in the values of all channels"""
    cycles: int
    seconds_build: float
    seconds_cycle: float
    """of a lattice"""


def evaluator(row: Row, lattices: list[expand.LatticeTerms], p: Parametrisation) -> expand.Evaluate:
    """What refines curves, and |F| with them where the row says so."""
    if row.f0_sigma is None:
        return lambda theta: expand.normal(lattices, p, theta)
    hkl = np.concatenate([one.gram.hkl for one in lattices])
    unique = symmetry.to_asu(hkl, stage1.simulator(row.data, "coarse").crystal.space_group)[0]
    every, number = np.unique(unique, axis=0, return_inverse=True)
    ends = np.cumsum([len(one.gram.hkl) for one in lattices])[:-1]
    pairs = list(zip(lattices, np.split(number.ravel(), ends), strict=True))
    return joint.evaluator(
        lambda theta, u: joint.coupled(pairs, p, theta, u), len(every), row.f0_sigma
    )


def reduced(row: Row, built: list[Built]) -> Set:
    """Refine the curves of some lattices, free at nodes 2 eV apart."""
    p = parametrisation()
    channels = parametrisation(1.0)
    lattices = [one.lattice for one in built]
    begun = stage1.user_cpu()
    best = expand.refine(evaluator(row, lattices, p), p, np.zeros(len(p.names)))
    cycles = len(best.steps) + 1
    seconds = (stage1.user_cpu() - begun) / len(built) / cycles
    curves = p.curves(best.theta)
    made = evaluator(row, lattices, channels)((curves - channels.reference).ravel())
    return Set(curves, made, cycles, float(np.median([one.seconds for one in built])), seconds)


def solved(sets: list[Set], p: Parametrisation) -> expand.RefinedCurves:
    """The curves of all sets in a parametrisation, to second order in how far they are from those
    refined.
    """
    H = p.basis.T @ np.sum([s.made.hessian for s in sets], axis=0) @ p.basis
    off = [(s.curves - p.reference).ravel() for s in sets]
    pull = sum(
        s.made.hessian @ x - s.made.scores.sum(axis=0) for s, x in zip(sets, off, strict=True)
    )
    theta = np.linalg.solve(
        H + p.restraints, p.basis.T @ pull + p.rows.T @ (p.precision * p.target)
    )
    scores = []
    for s, x in zip(sets, off, strict=True):
        moved = s.made.hessian @ (p.basis @ theta - x) / len(s.made.scores)
        scores.append((s.made.scores + moved) @ p.basis)
    losses = np.concatenate([s.made.losses for s in sets])
    return expand.RefinedCurves(theta, losses, H + p.restraints, H, np.concatenate(scores), [])


class Scored(NamedTuple):
    """Errors and their σ over the nodes of the band, (site, 2, node) e."""

    error: np.ndarray
    fisher: np.ndarray
    sandwich: np.ndarray


def scored(p: Parametrisation, found: expand.RefinedCurves) -> Scored:
    band = (p.nodes_ev >= BAND_EV[0]) & (p.nodes_ev <= BAND_EV[1])
    true = p._replace(reference=true_curves()).reference_at_nodes
    error = (p.at_nodes @ found.theta).reshape(true.shape) + p.reference_at_nodes - true
    return Scored(
        error[..., band], *(p.sigma(c)[..., band] for c in (found.fisher, found.sandwich))
    )


def rms(values) -> list[float]:
    """Of f' and of f'': root mean square of (…, site, 2, node)."""
    return np.sqrt(
        np.square(values).mean(
            axis=tuple(i for i in range(np.ndim(values)) if i != np.ndim(values) - 2)
        )
    ).tolist()


def figures(p: Parametrisation, found: list[expand.RefinedCurves]) -> dict:
    """Of refinements of equal numbers of lattices, pooled. Pairs are f', f''."""
    each = [scored(p, f) for f in found]
    error, fisher, sandwich = (
        np.array([getattr(s, name) for s in each]) for name in Scored._fields
    )
    out = {"n_lattices": len(found[0].losses), "n_sets": len(found)}
    out |= {f"rms_{kind}": value for kind, value in zip(("fp", "fdp"), rms(error), strict=True)}
    out |= {f"crlb_{kind}": value for kind, value in zip(("fp", "fdp"), rms(fisher), strict=True)}
    for name, sigma in (("fisher", fisher), ("sandwich", sandwich)):
        pulls = np.moveaxis(error / sigma, -2, 0).reshape(2, -1)
        out |= {
            f"pull_sd_{name}": pulls.std(axis=1).tolist(),
            f"pull_mean_{name}": pulls.mean(axis=1).tolist(),
        }
    return out | {"sigma_sandwich": rms(sandwich)}


def edge(p: Parametrisation, found: list[expand.RefinedCurves]) -> dict:
    """E0(oxidized) − E0(reduced) of several refinements; the shape is that of the metal."""
    shapes = edges.metals([ELEMENT] * len(SITES), p.energies_ev)
    both = [
        [edges.edges(p, f.theta, f.of_pixels, shapes, noise=c) for c in (None, f.scatter)]
        for f in found
    ]
    value = np.array([of.difference_ev[0, 1] for of, _ in both])
    sigma, scatter = np.array([[of.difference_sigma_ev[0, 1] for of in pair] for pair in both]).T
    off = (
        value
        - (anomalous.VALENCE[SITES[0]] - anomalous.VALENCE[SITES[1]]) * anomalous.EDGE_SHIFT_EV
    )
    return {
        "error_ev": off.tolist(),
        "sigma_ev": float(sigma.mean()),
        "sigma_sandwich_ev": float(scatter.mean()),
        "bias_ev": float(off.mean()),
        "bias_sigma_ev": float(sigma.mean() / np.sqrt(len(off))),
        "worst_pull": float(np.abs(off / sigma).max()),
    }


def interpolation(sets: list[Set], p: Parametrisation) -> dict:
    """r.m.s. of what linear pieces make of curves at the nodes, were there no noise: part of the
    errors above.
    """
    true = true_curves()
    zero = [s._replace(curves=true, made=s.made._replace(scores=0 * s.made.scores)) for s in sets]
    error = rms(scored(p, solved(zero, p)).error)
    return {
        f"interpolation_{kind}": value for kind, value in zip(("fp", "fdp"), error, strict=True)
    }


def summed(groups: list[list[Set]], p: Parametrisation) -> dict:
    """All figures of sets in a parametrisation."""
    found = [solved(group, p) for group in groups]
    return figures(p, found) | interpolation(groups[0], p) | {"edge": edge(p, found)}


def together(sets: list[Set], n: int) -> list[list[Set]]:
    """Sets of so many lattices."""
    of = n // len(sets[0].made.losses)
    return [sets[i : i + of] for i in range(0, len(sets) - of + 1, of)]


def table(name: str, sets: list[Set]) -> dict:
    """Figures of a row."""
    p = parametrisation()
    kk = parametrisation(make=dispersion.kramers_kronig)
    coarse = parametrisation(2 * STEP_EV)
    alone = [[s] for s in sets]
    out = summed(alone, p)
    related = summed(alone, kk)
    for key in ("cycles", "seconds_build", "seconds_cycle"):
        out[key] = float(np.median([getattr(s, key) for s in sets]))
    out |= {"Kramers-Kronig": related, "gain_kramers_kronig": out["crlb_fp"] / related["crlb_fp"]}
    out["4 eV"] = summed(alone, coarse)
    for n in SIZES.get(name, ()):
        if groups := together(sets, n):
            some = {f"of {n}": p, f"of {n}, 4 eV": coarse, f"of {n}, Kramers-Kronig": kk}
            out |= {label: summed(groups, q) for label, q in some.items()}
    return out


# ---------------------------------------------------------------- controls


def checks(built: list[Built]) -> dict:
    """Verdicts of the controls, how curves from other starts differ, and finite differences."""
    p = parametrisation()
    true = true_curves()
    lattices = [one.lattice for one in built]
    energies = p.energies_ev
    best = expand.refine(lambda theta: expand.normal(lattices, p, theta), p, np.zeros(len(p.names)))

    def changed(change, some):
        chosen = [
            one if change is None else change(i, one)
            for i, one in enumerate(lattices)
            if some is None or some(i)
        ]
        return lambda theta: expand.normal(chosen, p, theta)

    def next_spectrum(i: int, one: expand.LatticeTerms) -> expand.LatticeTerms:
        return controls.other_spectrum(one, built[i].photons, built[(i + 1) % len(built)].photons)

    metal = _parts(anomalous.site(ELEMENT, "metallic", energies)[None])
    starts = {
        "metallic": np.concatenate([metal] * 2),
        "swapped": true[::-1],
        "identical": true[[0, 0]],
        "true": true,
    }
    band = (p.nodes_ev >= BAND_EV[0]) & (p.nodes_ev <= BAND_EV[1])
    found = controls.verdicts(
        changed,
        p,
        best,
        starts=starts,
        index=lambda _, one: controls.wrong_index(one, guess("right")),
        spectrum=next_spectrum,
        band=band,
        sigma=p.sigma(best.fisher).ravel(),
    )
    return {v.name: {"passed": bool(v.passed), "figure": v.figure, "bar": v.bar} for v in found} | {
        "finite differences": differences(lattices[:10], p)
    }


def differences(lattices: list[expand.LatticeTerms], p: Parametrisation) -> dict:
    """Largest error of gradient and normal matrix against central differences, relative to their
    largest element.

    The normal matrix is that of Gauss-Newton: the gradient's derivative where nothing is left over,
    so the data are put on the model.
    """
    exact = [
        one._replace(gram=one.gram._replace(slope=0 * one.gram.slope, score=0 * one.gram.score))
        for one in lattices
    ]
    zero = np.zeros(len(p.names))
    step = 1e-3
    rng = np.random.default_rng(4)

    def of(theta):
        return expand.normal(lattices, p, theta)

    def ideal(theta):
        return expand.normal(exact, p, theta)

    gradient = of(zero).scores.sum(axis=0)
    hessian = ideal(zero).hessian
    errors = []
    for k in rng.choice(
        np.flatnonzero(np.diag(hessian) > 0.1 * np.diag(hessian).max()), 5, replace=False
    ):
        ahead = step * np.eye(len(zero))[k]
        slope = (of(ahead).losses.sum() - of(-ahead).losses.sum()) / (2 * step)
        row = (ideal(ahead).scores - ideal(-ahead).scores).sum(axis=0) / (2 * step)
        errors.append(
            (
                abs(slope - gradient[k]) / np.abs(gradient).max(),
                np.abs(row - hessian[k]).max() / hessian.max(),
            )
        )
    return dict(zip(("gradient", "normal"), map(float, np.max(errors, axis=0)), strict=True))


# ---------------------------------------------------------------- the table


def measure(rows: dict[str, Row], n_processes: int, path: Path | None) -> dict:
    """Figures of each row, and those of the controls. path: of the shared domains."""
    sets: dict[str, list[Set]] = {name: [] for name in rows}
    out = {}
    waiting = {name: list[Built]() for name in rows}
    with ProcessPoolExecutor(n_processes, multiprocessing.get_context("spawn")) as pool:
        needs = any(row.model == "learned" for row in rows.values())
        domains = pool.submit(teach, N_TEACHERS, path).result() if needs else None
        for kind in dict.fromkeys(map(_range, rows.values())):
            chosen = {name: row for name, row in rows.items() if _range(row) == kind}
            for built in _stream(pool, chosen, domains):
                for name, one in built.items():
                    waiting[name].append(one)
                    if len(waiting[name]) == rows[name].n:
                        sets[name].append(reduced(rows[name], waiting[name]))
                        if name == "given" and len(sets[name]) == 1:
                            out["controls"] = checks(waiting[name])
                        waiting[name] = []
    return {name: table(name, found) for name, found in sets.items()} | out


def _stream(pool, rows: dict[str, Row], domains: Mosaic | None) -> Iterator[dict[str, Built]]:
    """Lattice after lattice, a few ahead of what is asked for."""
    ahead = deque()
    for number in range(max(row.n * row.n_sets for row in rows.values())):
        some = [name for name, row in rows.items() if number < row.n * row.n_sets]
        ahead.append((some, pool.submit(work, [rows[name] for name in some], number, domains)))
        if len(ahead) > AHEAD:
            names, future = ahead.popleft()
            yield dict(zip(names, future.result(), strict=True))
    for names, future in ahead:
        yield dict(zip(names, future.result(), strict=True))


def ratio(rows: dict[str, dict], name: str) -> list[float] | None:
    """r.m.s. error over the Cramér-Rao bound of f', f''; None where the row that has the bound is
    missing.
    """
    of = rows[name]
    bound = rows.get(ROWS[name].bound or name)
    if bound is None:
        return None
    scale = np.sqrt(bound["n_lattices"] / of["n_lattices"])
    return [of[f"rms_{kind}"] / (scale * bound[f"crlb_{kind}"]) for kind in ("fp", "fdp")]


def report(rows: dict[str, dict]) -> None:
    """Print the table, and what there is of edges and controls."""

    def pair(values):
        return "/".join(f"{v:.3g}" for v in values)

    columns = (
        f"{'lattices':>10}{'rms':>14}{'formal σ':>14}{'/ bound':>12}{'pulls':>12}{'sandwich':>12}"
    )
    print(f"{'e: f′/f″':<36}{columns}   E0 difference, eV: σ (sandwich), bias, worst/σ")
    for name in filter(rows.get, ROWS):
        inner = {key: r for key, r in rows[name].items() if isinstance(r, dict) and "rms_fp" in r}
        for label, r in {name: rows[name], **{f"  {key}": r for key, r in inner.items()}}.items():
            lattices = f"{r['n_sets']} x {r['n_lattices']}"
            bound = (label == name and ratio(rows, name)) or [
                r[f"rms_{k}"] / r[f"crlb_{k}"] for k in ("fp", "fdp")
            ]
            shown = "".join(
                f"{pair([r[f'{what}_{k}'] for k in ('fp', 'fdp')]):>14}" for what in ("rms", "crlb")
            )
            pulls = "".join(f"{pair(r[f'pull_sd_{way}']):>12}" for way in ("fisher", "sandwich"))
            told = (
                "{sigma_ev:.3f} ({sigma_sandwich_ev:.3f}), {bias_ev:+.3f} ± "
                "{bias_sigma_ev:.3f}, {worst_pull:.1f}"
            )
            print(
                f"{label:<36}{lattices:>10}{shown}{pair(bound):>12}{pulls}   "
                f"{told.format(**r['edge'])}"
            )
        costs = (
            "s per lattice: Gram matrices {seconds_build:.3f}, cycle {seconds_cycle:.4f} (of "
            "{cycles:g} cycles)"
        )
        print(
            f"    {costs.format(**rows[name])}; Kramers-Kronig: σ(f′) "
            f"{rows[name]['gain_kramers_kronig']:.2f} x smaller"
        )
    for name, verdict in rows.get("controls", {}).items():
        print(f"{name:<28}{verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", nargs="*", choices=list(ROWS), metavar="ROW", help="only these rows"
    )
    parser.add_argument("--quick", type=int, default=1, help="so many times fewer lattices")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--domains", type=Path, help="where shared domains are kept from run to run (.npz)"
    )
    parser.add_argument("--json", type=Path, help="rows are added to those that it has")
    args = parser.parse_args()
    chosen = {name: ROWS[name] for name in args.rows or ROWS}
    chosen = {name: row._replace(n=max(2, row.n // args.quick)) for name, row in chosen.items()}
    out = {
        "rows": json.loads(args.json.read_text())["rows"]
        if args.json and args.json.exists()
        else {}
    }
    out["rows"] |= measure(chosen, args.processes, args.domains)
    if args.json:
        args.json.write_text(json.dumps(out, indent=2))
    report(out["rows"])


if __name__ == "__main__":
    main()
