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
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from curve_lattices import Built, LatticeKind, teach, work
from curve_sets import ELEMENTS, Set, parametrisation, table
from spreadflow.analysis.curves import expand
from spreadflow.analysis.curves.expand import RefinedCurves
from spreadflow.models import Mosaic
from spreadflow.recipes import curves
from spreadflow.recipes.lattice_sums import LatticeSums, sums_here

MAX_WAITING = 32
"""Lattices that may wait to be taken."""

KINDS = ("fp", "fdp")
"""Names of f′ and f″ in keys of figures."""

E0 = (
    "{sigma_ev:.3f} ({sigma_sandwich_ev:.3f}), {bias_ev:+.3f} ± {bias_sigma_ev:.3f}, "
    "{worst_pull:.1f}"
)
"""How the difference of E0 is shown."""

COSTS = (
    "    s per lattice: Gram matrices {seconds_build:.3f}, cycle {seconds_cycle:.4f} (of "
    "{cycles:g} cycles); Kramers-Kronig: σ(f′) {gain_kramers_kronig:.2f} x smaller"
)
"""How costs are shown."""


D_MAX_WIDE = 4.0
"""Low-resolution edge of what `spread` reads by default, Å."""


class Row(NamedTuple):
    """A row of the table: sets of lattices."""

    kind: LatticeKind = LatticeKind()
    n: int = 200
    """lattices of a set, refined together"""
    n_sets: int = 1
    f0_sigma: float | None = None
    """relative, with which |F| of each unique reflection is refined with the curves; None = it is
    not
    """
    bound: str | None = None
    """row whose Fisher matrix is the Cramér-Rao bound, where the model is not that of the data"""


def wide(kind: LatticeKind) -> LatticeKind:
    """Return the same lattices with the pixels that `spread` reads by default."""
    return kind._replace(d_max=D_MAX_WIDE)


GIVEN = LatticeKind(is_refined=False)
GIVEN_STAGE_1 = LatticeKind()
LEARNED = LatticeKind(model="learned")
PUBLISHED = LatticeKind(model="continuous")
PERTURBED = LatticeKind(factors="perturbed")
MERGED = LatticeKind(factors="merged")
MERGED_WORSE = LatticeKind(factors="merged, 4 %")
PER_SHOT = "per shot, given"
GIVEN_WIDE = "given, 2.1-4 Å"

ROWS = {
    "continuous": Row(LatticeKind("continuous", "continuous", False), n_sets=5),
    "continuous, stage 1": Row(
        LatticeKind("continuous", "continuous"), n_sets=5, bound="continuous"
    ),
    "given": Row(GIVEN, n_sets=5),
    "given, stage 1": Row(GIVEN_STAGE_1, n_sets=5, bound="given"),
    "learned": Row(LEARNED, 400, bound="given"),
    "published": Row(PUBLISHED, 400, bound="given"),
    "published, no model error": Row(PUBLISHED._replace(model_error=0.0), 400, bound="given"),
    "given, fibre 0.08 mm": Row(GIVEN._replace(psf=("fiber", 0.08)), n_sets=2, bound="given"),
    "given, Gaussian 0.13 mm": Row(GIVEN._replace(psf=("gauss", 0.13)), n_sets=2, bound="given"),
    PER_SHOT: Row(LatticeKind("per_shot", is_refined=False), 60),
    "per shot, learned": Row(LatticeKind("per_shot", "alone"), 60, bound=PER_SHOT),
    "per shot, continuous": Row(LatticeKind("per_shot", "continuous"), 60, bound=PER_SHOT),
    GIVEN_WIDE: Row(wide(GIVEN), n_sets=16),
    "given, stage 1, 2.1-4 Å": Row(wide(GIVEN_STAGE_1), n_sets=2, bound=GIVEN_WIDE),
    "learned, 2.1-4 Å": Row(wide(LEARNED), 400, bound=GIVEN_WIDE),
    "published, 2.1-4 Å": Row(wide(PUBLISHED), 400, bound=GIVEN_WIDE),
    "perturbed F": Row(PERTURBED, 400, bound="given"),
    "perturbed F, joint": Row(PERTURBED, 400, f0_sigma=0.2, bound="given"),
    "perturbed F, 2.1-4 Å": Row(wide(PERTURBED), 400, bound=GIVEN_WIDE),
    "perturbed F, joint, 2.1-4 Å": Row(wide(PERTURBED), 400, f0_sigma=0.2, bound=GIVEN_WIDE),
    "merged F, 1 % wrong": Row(MERGED, 400, bound="given"),
    "merged F, 1 % wrong, joint": Row(MERGED, 400, f0_sigma=0.01, bound="given"),
    "merged F, 2 % wrong": Row(MERGED_WORSE, 400, bound="given"),
    "merged F, 2 % wrong, joint": Row(MERGED_WORSE, 400, f0_sigma=0.02, bound="given"),
}
"""Name of a row → how it is made."""

SIZES = {"given": (400, 1000), "given, 2.1-4 Å": (400, 1000, 3000)}
"""Numbers of lattices of larger sets, put together from those refined."""


# ---------------------------------------------------------------- sets of lattices


class Reduced(NamedTuple):
    """A set of lattices after its curves were refined, and what that cost."""

    of_lattices: Set
    costs: dict[str, float]
    """cycles; seconds of user CPU a lattice, of the Gram matrices and of a cycle"""


def sums_of(row: Row, built: list[Built]) -> LatticeSums:
    """Return the sums over lattices, from which curves are refined, and |F| where the row says."""
    simulator = lattices.simulator(lattices.PLAIN)
    photons = np.array([lattice.photons for lattice in built])
    sums = sums_here([lattice.terms for lattice in built], photons, simulator.energies)
    if row.f0_sigma is not None:
        sums.refine_amplitudes(simulator.crystal.space_group, row.f0_sigma)
    return sums


def refined_curves(sums: LatticeSums) -> RefinedCurves:
    """Return the curves of some lattices, free at nodes 2 eV apart, from the start."""
    p = parametrisation()
    return expand.refine(sums.evaluator(p), p, np.zeros(len(p.names)))


def reduced(row: Row, built: list[Built]) -> Reduced:
    """Refine the curves of some lattices, and keep what these say about the curves of all
    channels.
    """
    channels = parametrisation(1.0)
    sums = sums_of(row, built)
    start_time = lattices.user_cpu()
    best = refined_curves(sums)
    seconds = (lattices.user_cpu() - start_time) / len(built)
    cycles = len(best.steps) + 1
    of_set = parametrisation().curves(best.theta)
    deviation = (of_set - channels.reference).ravel()
    costs = {
        "cycles": cycles,
        "seconds_build": float(np.median([lattice.seconds for lattice in built])),
        "seconds_cycle": seconds / cycles,
    }
    return Reduced(Set(of_set, sums.evaluator(channels)(deviation)), costs)


def controls(row: Row, built: list[Built]) -> dict:
    """Return the verdicts of the controls."""
    sums = sums_of(row, built)
    fits = {"free": curves.quoted_fit(parametrisation(), refined_curves(sums), "fisher")}
    model = lattices.model_factors(row.kind.factors, with_true_curves=False)
    more_starts = {"true": lattices.true_curves()}
    verdicts = curves.verdicts(fits, sums, model, ELEMENTS, more_starts)
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
    sets: dict[str, list[Reduced]] = {name: [] for name in rows}
    waiting: dict[str, list[Built]] = {name: [] for name in rows}
    out = {}
    with ProcessPoolExecutor(n_processes, multiprocessing.get_context("spawn")) as pool:
        needs_domains = any(row.kind.model == "learned" for row in rows.values())
        domains = pool.submit(teach, path).result() if needs_domains else None
        for simulated in dict.fromkeys(row.kind.simulated for row in rows.values()):
            alike = {name: row for name, row in rows.items() if row.kind.simulated == simulated}
            for name, lattice in _stream(pool, alike, domains):
                waiting[name].append(lattice)
                if len(waiting[name]) == rows[name].n:
                    sets[name].append(reduced(rows[name], waiting[name]))
                    if name == "given" and len(sets[name]) == 1:
                        out["controls"] = controls(rows[name], waiting[name])
                    waiting[name] = []
    return {name: figures_of(name, of_row) for name, of_row in sets.items()} | out


def _stream(
    pool: Executor, rows: dict[str, Row], domains: Mosaic | None
) -> Iterator[tuple[str, Built]]:
    """Yield lattice after lattice for each row, a few made ahead of what is asked for."""
    ahead: deque = deque()
    for number in range(max(row.n * row.n_sets for row in rows.values())):
        names = [name for name, row in rows.items() if number < row.n * row.n_sets]
        future = pool.submit(work, [rows[name].kind for name in names], number, domains)
        ahead.append((names, future))
        if len(ahead) > MAX_WAITING:
            names, future = ahead.popleft()
            yield from zip(names, future.result(), strict=True)
    for names, future in ahead:
        yield from zip(names, future.result(), strict=True)


def figures_of(name: str, sets: list[Reduced]) -> dict:
    """Return the figures of a row."""
    out = table([one.of_lattices for one in sets], SIZES.get(name, ()))
    costs = {key: float(np.median([one.costs[key] for one in sets])) for key in sets[0].costs}
    return out | costs


def over_bound(rows: dict[str, dict], name: str) -> list[float] | None:
    """Return the r.m.s. error over the Cramér-Rao bound of f′, f″; None where the row that has the
    bound is missing.
    """
    row = rows[name]
    bound = rows.get(ROWS[name].bound or name)
    if bound is None:
        return None
    scale = np.sqrt(bound["n_lattices"] / row["n_lattices"])
    return [row[f"rms_{kind}"] / (scale * bound[f"crlb_{kind}"]) for kind in KINDS]


def line(label: str, row: dict, ratios: list[float] | None) -> str:
    """Return a line of the table. ratios: r.m.s. over the bound; None = over that of the row."""
    errors = [row[f"rms_{kind}"] for kind in KINDS]
    sigmas = [row[f"crlb_{kind}"] for kind in KINDS]
    ratios = ratios or np.divide(errors, sigmas)
    pairs = [errors, sigmas, ratios, row["pull_sd_fisher"], row["pull_sd_sandwich"]]
    cells = [f"{fp:.3g}/{fdp:.3g}" for fp, fdp in pairs]
    columns = "".join(f"{cell:>14}" for cell in cells)
    n_lattices = f"{row['n_sets']} x {row['n_lattices']}"
    return f"{label:<36}{n_lattices:>10}{columns}   {E0.format(**row['edge'])}"


def report(rows: dict[str, dict]) -> None:
    """Print the table, and what there is of edges and controls."""
    names = ("r.m.s.", "formal σ", "/ bound", "pulls", "sandwich")
    columns = "".join(f"{name:>14}" for name in names)
    e0 = "E0 difference, eV: σ (sandwich), bias, worst/σ"
    print(f"{'e: f′/f″':<36}{'lattices':>10}{columns}   {e0}")
    for name in filter(rows.get, ROWS):
        row = rows[name]
        print(line(name, row, over_bound(rows, name)))
        for label, inner in row.items():
            if isinstance(inner, dict) and "rms_fp" in inner:
                print(line(f"  {label}", inner, None))
        print(COSTS.format(**row))
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
    chosen = {}
    for name in args.rows or ROWS:
        row = ROWS[name]
        chosen[name] = row._replace(n=max(2, row.n // args.quick))
    rows = {}
    if args.json and args.json.exists():
        rows = json.loads(args.json.read_text())["rows"]
    rows |= measure(chosen, args.processes, args.domains)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows}, indent=2))
    report(rows)


if __name__ == "__main__":
    main()
