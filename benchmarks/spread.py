"""SPREAD on lattices made directly as shoeboxes: are f′(E), f″(E) of both sites found, how well,
and at what cost?

Lattices of config/config.yaml, all predicted reflections; counting, readout and 1 % gains are
noise. The recipes of `stage1` and `spread` refine them. Curves start at the mean of the two true
ones, for both sites, unless a row says otherwise. Figures are r.m.s. over the nodes of 7100-7140
eV; the truth is looked at to score, for domains where a row is given them, and for orientation,
cell, N and η where a row says so.

Rows with X known refine curves alone, once. Rows with X unknown have a wrong model and alternate
with stage 1; each figure stands beside its bar. --closing runs those of a release, 2 sets each,
within an hour of two processes, --full all of them; --rows chooses some of all there are. --json
adds rows to those that a file has, each with its commit.
"""

import lattices  # first: it sets threads before NumPy and XLA start  # isort: skip

import argparse
import multiprocessing
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import curve_cycles
import curve_scores
import recorded
from curve_cycles import Place
from curve_lattices import Built, LatticeKind, teach, work
from curve_sets import ELEMENTS, Set, parametrisation, table
from spreadflow.analysis import identity_hash
from spreadflow.analysis.curves import expand
from spreadflow.analysis.curves.controls import Trial
from spreadflow.analysis.curves.expand import RefinedCurves
from spreadflow.models import Mosaic
from spreadflow.recipes import curves
from spreadflow.recipes.lattice_sums import LatticeSums

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
    """A row of the table: sets of lattices with X known."""

    kind: LatticeKind = LatticeKind()
    n: int = 200
    """lattices of a set, refined together"""
    n_sets: int = 1
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
    "perturbed F, 2.1-4 Å": Row(wide(PERTURBED), 400, bound=GIVEN_WIDE),
    "merged F, 1 % wrong": Row(MERGED, 400, bound="given"),
    "merged F, 2 % wrong": Row(MERGED_WORSE, 400, bound="given"),
}
"""Name of a row with X known → how it is made."""

UNKNOWN = {
    "100, X known": curve_cycles.Row(100, 5, "right", unknown="none", n_cycles=1),
    "200, X known": curve_cycles.Row(200, 8, "right", unknown="none", n_cycles=1),
    "400, X known": curve_cycles.Row(400, 5, "right", unknown="none", n_cycles=1),
    "100": curve_cycles.Row(100, against="100, X known"),
    "200": curve_cycles.Row(200, 8, against="200, X known"),
    "400": curve_cycles.Row(400, against="400, X known"),
    "200, right model": curve_cycles.Row(200, model="right", against="200, X known"),
    "200, real X": curve_cycles.Row(200, unknown="real", against="200, X known"),
    "200, twice as wrong": curve_cycles.Row(200, model="twice as wrong", against="200", bar=1.25),
    "200, 20 % missing": curve_cycles.Row(200, model="20 % missing", against="200", bar=1.25),
    "200, metallic": curve_cycles.Row(200, start="metallic", against="200", bar=1.25),
    "200, swapped": curve_cycles.Row(200, start="swapped", against="200", bar=1.25),
    "200, merged F": curve_cycles.Row(200, model="merged", against="200", bar=1.25),
    "200, learned": curve_cycles.Row(200, mosaicity="learned", against="200", bar=1.3),
    "200, continuous": curve_cycles.Row(200, mosaicity="continuous", against="200", bar=1.3),
    "1000, 2.1-4 Å": curve_cycles.Row(1000, 3, d_max=D_MAX_WIDE, bar=0.25),
    "2000, 2.1-4 Å": curve_cycles.Row(2000, 1, d_max=D_MAX_WIDE, bar=0.15),
    "3000, 2.1-4 Å": curve_cycles.Row(3000, 1, d_max=D_MAX_WIDE, bar=0.15),
}
"""Name of a row with X unknown, or of what it is compared with → how it is made."""

CLOSING = ("100, X known", "200, X known", "100", "200")
"""Rows of a release."""

CLOSING_SETS = 2
"""Sets of each of these."""

SIZES = {"given": (400, 1000), "given, 2.1-4 Å": (400, 1000, 3000)}
"""Numbers of lattices of larger sets, put together from those refined."""


# ---------------------------------------------------------------- sets of lattices


class Reduced(NamedTuple):
    """A set of lattices after its curves were refined, and what that cost."""

    of_lattices: Set
    costs: dict[str, float]
    """cycles; seconds of user CPU a lattice, of the Gram matrices and of a cycle"""


def sums_of(row: Row, built: list[Built]) -> LatticeSums:
    """Return the sums over lattices, from which curves are refined."""
    return LatticeSums(
        [lattice.gram for lattice in built],
        lattices.model_factors(row.kind.factors, with_true_curves=False),
        np.array([lattice.photons for lattice in built]),
        lattices.simulator(lattices.PLAIN).energies,
    )


def refined_curves(sums: LatticeSums) -> RefinedCurves:
    """Return the curves of some lattices, free at nodes 2 eV apart, from the start."""
    p = parametrisation()
    return sums.refine(p, Trial(np.zeros(len(p.names))))


def reduced(row: Row, built: list[Built]) -> Reduced:
    """Refine the curves of some lattices, and keep what these say about the curves of all
    channels.
    """
    sums = sums_of(row, built)
    start_time = lattices.user_cpu()
    best = refined_curves(sums)
    seconds = (lattices.user_cpu() - start_time) / len(built)
    cycles = len(best.steps) + 1
    of_set = parametrisation().curves(best.theta)
    costs = {
        "cycles": cycles,
        "seconds_build": float(np.median([lattice.seconds for lattice in built])),
        "seconds_cycle": seconds / cycles,
    }
    return Reduced(Set(of_set, expand.expand(sums.columns, of_set)), costs)


def controls(row: Row, built: list[Built]) -> dict:
    """Return the verdicts of the controls."""
    sums = sums_of(row, built)
    fits = {"free": curves.quoted_fit(parametrisation(), refined_curves(sums), "fisher")}
    more_starts = {"true": lattices.true_curves()}
    half = identity_hash.half_sets(np.arange(sums.n))
    verdicts = curves.verdicts(fits, sums, sums.factors, ELEMENTS, half, more_starts)
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
    """Return the figures of each row with X known, and those of the controls. path: of the shared
    domains.
    """
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
    return out | costs | {"commit": recorded.commit()}


def measure_unknown(row: curve_cycles.Row, place: Place) -> Iterator[dict[str, Any]]:
    """Yield the figures of a row with X unknown after each of its sets."""
    fits = curve_cycles.fits_of(row)
    sets = []
    last = []
    for number in range(row.n_sets):
        scored = []
        for cycle in curve_cycles.cycles(row, number, place):
            scored.append(curve_scores.scored(fits, cycle))
            free = cycle.free
            del cycle
        sets.append(scored)
        last.append(free)
        figures = curve_scores.figures_of_row(row, fits, sets, last)
        yield figures | {"commit": recorded.commit()}


def needs_domains(row: curve_cycles.Row) -> bool:
    """Whether a row has domains that lattices share."""
    return row.mosaicity == "learned"


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
    ratios = ratios or np.divide(errors, sigmas).tolist()
    pairs = [errors, sigmas, ratios, row["pull_sd_fisher"], row["pull_sd_sandwich"]]
    cells = [f"{fp:.3g}/{fdp:.3g}" for fp, fdp in pairs]
    columns = "".join(f"{cell:>14}" for cell in cells)
    n_lattices = f"{row['n_sets']} x {row['n_lattices']}"
    return f"{label:<36}{n_lattices:>10}{columns}   {E0.format(**row['edge'])}"


def report(rows: dict[str, dict]) -> None:
    """Print the table of rows with X known, and what there is of edges and controls."""
    if not any(name in rows for name in ROWS):
        return
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


def chosen_rows(
    args: argparse.Namespace,
) -> tuple[dict[str, Row], dict[str, curve_cycles.Row]]:
    """Return the rows that are asked for, with X known and with X unknown."""
    names = list(UNKNOWN) if args.full else args.rows or CLOSING
    n_sets = args.sets or (None if args.full or args.rows else CLOSING_SETS)
    known = {}
    unknown = {}
    for name in names:
        row = ROWS.get(name) or UNKNOWN[name]
        row = row._replace(n=max(2, row.n // args.quick), n_sets=n_sets or row.n_sets)
        if isinstance(row, Row):
            known[name] = row
        else:
            unknown[name] = row
    return known, unknown


def main() -> None:
    """Measure the rows that are asked for, and print all that there are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*UNKNOWN, *ROWS]
    parser.add_argument("--rows", nargs="*", choices=names, metavar="ROW", help="only these")
    parser.add_argument("--closing", action="store_true", help="the rows of a release (default)")
    parser.add_argument("--full", action="store_true", help="all rows with X unknown")
    parser.add_argument("--sets", type=int, help="sets of lattices of each row")
    parser.add_argument("--quick", type=int, default=1, help="so many times fewer lattices")
    parser.add_argument("--processes", type=int, default=2)
    help_of_folder = "where lattices and shared domains are kept from run to run"
    parser.add_argument("--folder", type=Path, help=help_of_folder)
    parser.add_argument("--json", type=Path, help="rows are added to those that it has")
    help_of_score = "add the rows of this file to those of --json, and measure nothing"
    parser.add_argument("--score", type=Path, metavar="FILE", help=help_of_score)
    args = parser.parse_args()
    known, unknown = chosen_rows(args)
    rows = recorded.rows(args.json) | recorded.rows(args.score)

    def keep() -> None:
        for name in filter(rows.get, UNKNOWN):
            rows[name]["short"] = curve_scores.in_short(UNKNOWN[name], rows[name], rows)
        if args.json:
            recorded.save(args.json, "spread", rows)

    if args.score:
        keep()
        show(rows)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "domains.npz"
        if known:
            rows |= measure(known, args.processes, path)
            keep()
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(args.processes, context) as pool:
            for name, row in unknown.items():
                domains = pool.submit(teach, path).result() if needs_domains(row) else None
                for rows[name] in measure_unknown(row, Place(folder, pool, domains)):
                    keep()
                    shape = curve_scores.spoken(rows[name]["cycles"][-1]["free"]["shape_rms"])
                    print(f"{name}: {rows[name]['n_sets']} sets, shape {shape} e", flush=True)
                curve_scores.report(name, row, rows[name], rows)
    show(rows)


def show(rows: dict[str, dict]) -> None:
    """Print all rows that there are."""
    print("\n--- all rows")
    report(rows)
    for name in filter(rows.get, UNKNOWN):
        curve_scores.report(name, UNKNOWN[name], rows[name], rows)


if __name__ == "__main__":
    main()
