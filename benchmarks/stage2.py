"""Stage 2 against the merge of the same lattices: how near are the structure factors to the truth,
and at what cost?

Lattices of config/config.yaml, made directly as shoeboxes, with the orientation that reindex leaves
(0.003° off about each axis), N within 20 % and η within 35 %. The merge integrates the same pixels
with the same orientation, the true mosaic spread and size of domains; it is run with and without B
of lattices, and the better one counts. Both start and end without the truth, which is |F|² over the
mean pulse, Friedel mates apart, and scores: R = Σ|F − F_true|/ΣF_true on a common scale, CC of the
anomalous differences, both over the reflections that the merge has, F after French & Wilson for
both; pulls of I in tenths of the true I/σ. Shells are five of equal numbers of reflections.
--closing runs the rows of a release, --full all; --json adds rows to those that a file has, each
with its commit.
"""

import lattices  # first: it sets threads before NumPy and XLA start  # isort: skip

import argparse
import json
import multiprocessing
import resource
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import recorded
from curve_lattices import teach
from kept_lattices import Made, Simulation, make
from lattices import user_cpu
from spreadflow.analysis import identity_hash
from spreadflow.analysis.factors.agreement import Agreement, agreement
from spreadflow.analysis.factors.equations import Batch
from spreadflow.analysis.merging import merging, scaling, selection
from spreadflow.models import Mosaic
from spreadflow.physics.mosaic import continuous
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.products import Reindex
from spreadflow.recipes import intensities, stage2
from spreadflow.recipes.intensities import Merged, Reflections
from spreadflow.recipes.lattice import RunModel, Start, refine_lattice, start_after
from spreadflow.units import DEG

N_PULSES = 200
"""Pulses whose mean is the spectrum of the truth."""

N_REPLICATED = 10_000
"""Lattices whose equations have to fit into the memory of a rank."""

BATCH = 16
"""Lattices in a batch."""


class Row(NamedTuple):
    """A row of the table."""

    n: int
    """lattices"""
    model: str = "domains"
    """mosaicity of the model: domains, those of the truth; learned, from others; continuous"""
    start: str = "merged"
    """intensities that stage 2 starts from: merged, or those of a model, perturbed"""
    d_min: float = lattices.D_MIN
    d_max: float = lattices.D_MAX_ANNULUS
    photons: float = 1.0
    """in a pulse, relative to the configured number"""
    n_cycles: int = 2
    bar_r: float = 0.6
    """R over that of the merge, at most; for a wrong model, over that of the start that was merged
    """

    @property
    def simulation(self) -> Simulation:
        """How the lattices are simulated."""
        return Simulation(self.d_min, self.d_max, self.photons)


ROWS = {
    "50": Row(50),
    "100": Row(100),
    "200": Row(200),
    "400": Row(400),
    "100, learned": Row(100, "learned", bar_r=0.65),
    "400, learned": Row(400, "learned", bar_r=0.65),
    "100, continuous": Row(100, "continuous", bar_r=0.85),
    "400, continuous": Row(400, "continuous", bar_r=0.85),
    "200, 2.1-10 Å": Row(200, d_max=10.0, bar_r=0.8),
    "200, continuous, 2.1-10 Å": Row(200, "continuous", d_max=10.0, bar_r=0.85),
    "1600, 3-10 Å": Row(1600, d_min=3.0, d_max=10.0, bar_r=0.8),
    "100, wrong model": Row(100, start="perturbed", n_cycles=3, bar_r=1.15),
    "400, wrong model": Row(400, start="perturbed", n_cycles=3, bar_r=1.15),
    "80, weak": Row(80, photons=0.05, bar_r=0.65),
}
"""Name of a row → how it is made."""

CLOSING = ("50", "100", "400", "100, learned", "100, continuous", "100, wrong model", "80, weak")
"""Rows of a release."""


# ---------------------------------------------------------------- truth


@cache
def mean_pulse() -> np.ndarray:
    """Return the photons (channel,) of the mean pulse."""
    simulator = lattices.simulator(lattices.PLAIN)
    pulses = [simulator.pulse(number, number).photons for number in range(N_PULSES)]
    return np.mean(pulses, axis=0)


@cache
def reflections_of(kind: str) -> Reflections:
    """Return the unique reflections with the |F|² of a kind of model (`lattices.model_factors`);
    curves are the mean of the true ones, but those of the truth, `true`.
    """
    crystal = lattices.simulator(lattices.PLAIN).crystal
    is_true = kind == "true"
    factors = lattices.model_factors("right" if is_true else kind, with_true_curves=is_true)
    return intensities.from_model(
        factors, np.array(crystal.cell), crystal.space_group, mean_pulse()
    )


# ---------------------------------------------------------------- merge


def merged(made: Sequence[Made], refine_b: bool) -> merging.Merged:
    """Return the merge of lattices, as the stage would do it."""
    unique = reflections_of("perturbed").unique
    n_lattices = len(made)
    n_groups = min(n_lattices, 64)
    group = np.arange(n_lattices) * n_groups // n_lattices
    photons = np.array([lattice.pulse_photons for lattice in made])
    alone = Reindex.lattices.unread(1)
    of_lattices = [Reindex(lattices=alone, reflections=lattice.reflections) for lattice in made]
    numbers = np.arange(n_lattices, dtype=np.uint64)
    observations, _, _ = selection.select(
        Reindex.joined(of_lattices).reflections,
        selection.Lattices(
            group=group,
            half=identity_hash.half_sets(numbers),
            pulse=photons / photons.mean(),
        ),
        unique,
        partiality_min=0.05,
        min_reflections=5,
    )
    sums = merging.Sums(observations, len(unique))
    scales = scaling.scale(observations, sums, unique, refine_b=refine_b)
    of_all = merging.merge(observations, scales.intensity, scales.sigma, sums)
    return merging.with_scatter(of_all, unique)


# ---------------------------------------------------------------- scores


def score(intensity: np.ndarray, sigma: np.ndarray, is_chosen: np.ndarray) -> Agreement:
    """Compare intensities and σ (reflection,) with the truth on chosen reflections."""
    true = reflections_of("true")
    return agreement(true.unique, intensity, sigma, true.intensity, is_chosen)


# ---------------------------------------------------------------- stage 2


class Expanded(NamedTuple):
    """A lattice after its fit in a cycle."""

    gram: Any
    log_volume: float
    start: Start
    unknowns: tuple[str, ...]
    seconds: float
    """user CPU of the fit and the Gram matrices"""
    model_error: float


_worker: dict[str, Any] = {}
"""What a worker process keeps for a cycle: models, reflections, domains."""


def begin(reflections: Reflections, about: np.ndarray, domains: Mosaic | None) -> None:
    """Prepare a worker process for a cycle."""
    base = lattices.run_model(lattices.PLAIN, "perturbed", with_true_curves=False)
    flat: StructureFactors = intensities.flat_factors(base.factors, reflections, about)
    model: RunModel = base._replace(factors=flat)
    _worker.update(reflections=reflections, model=model, domains=domains)


class Refined(NamedTuple):
    """Where stage 1 left a lattice."""

    start: Start
    unknowns: tuple[str, ...]
    sigma: np.ndarray
    """(unknown,) of the sandwich"""


def stage1(row: Row, folder: Path, number: int) -> Refined | None:
    """Return a lattice as stage 1 leaves it, with the intensities that stage 2 starts from."""
    made = make(row.simulation, folder, number)
    pixels = lattices.pixels_section(row.simulation.data)
    model = _worker["model"]
    smooth = row.model in ("learned", "continuous")
    fit = refine_lattice(made.packed, continuous() if smooth else made.mosaic, model, pixels)
    if fit.refined is None:
        return None
    refined = fit.refined
    start = start_after(fit)
    if row.model == "learned":
        unit_of_widths = np.full(3, _worker["domains"].eta_rad)
        start = start._replace(eta_axes_rad=unit_of_widths)
        fit = refine_lattice(made.packed, _worker["domains"], model, pixels, start)
        if fit.refined is None:
            return None
        refined = fit.refined
        start = start_after(fit)
    sigma = np.sqrt(np.diag(refined.sandwich))
    return Refined(start, tuple(refined.names), sigma)


def drawn(refined: Sequence[Refined | None]) -> list[Start | None]:
    """Return the starts of lattices, with N and η drawn to the common ones."""
    good = [lattice for lattice in refined if lattice is not None]
    unknowns = good[0].unknowns
    moves = intensities.moves_together(
        unknowns,
        np.array([lattice.start.n_cells for lattice in good]),
        np.array([lattice.start.eta_axes_rad for lattice in good]),
        np.array([lattice.sigma for lattice in good]),
    )
    rows = iter(moves)
    return [
        None if lattice is None else intensities.with_factors(lattice.start, unknowns, next(rows))
        for lattice in refined
    ]


def expand(row: Row, folder: Path, number: int, start: Start | None) -> Expanded | None:
    """Return a lattice refined and expanded with the intensities of the cycle."""
    if start is None:
        return None
    made = make(row.simulation, folder, number)
    pixels = lattices.pixels_section(row.simulation.data)
    domains = _worker["domains"]
    mosaic = {"domains": made.mosaic, "learned": domains, "continuous": continuous()}[row.model]
    start_time = user_cpu()
    expanded = intensities.expand_flat(
        made.packed, mosaic, _worker["model"], _worker["reflections"], pixels, start
    )
    if expanded.gram is None or expanded.start is None:
        return None
    end = expanded.start
    return Expanded(
        gram=expanded.gram,
        log_volume=float(np.log(end.scale) + np.log(end.n_cells).sum()),
        start=end,
        unknowns=expanded.unknowns,
        seconds=user_cpu() - start_time,
        model_error=expanded.model_error,
    )


def batch_of(expanded: Sequence[Expanded], reflections: Reflections) -> Batch:
    """Return lattices as a batch."""
    grams = [lattice.gram for lattice in expanded]
    n_columns = [len(gram.slope) for gram in grams]
    return Batch(
        lattice=np.repeat(np.arange(len(grams)), n_columns),
        unique=reflections.unique.rows(np.concatenate([gram.hkl for gram in grams])),
        sizes=np.concatenate([np.diff(gram.start) for gram in grams]),
        log_volume=np.array([lattice.log_volume for lattice in expanded]),
        **{
            name: np.concatenate([getattr(gram, name) for gram in grams])
            for name in ("intensity", "slope", "cross", "normal")
        },
        **{
            name: np.array([getattr(gram, name) for gram in grams])
            for name in ("nuisance", "score", "loss")
        },
    )


def batches_of(expanded: Sequence[Expanded], reflections: Reflections) -> stage2.Batches:
    """Return the function that yields lattices in batches."""
    numbers = np.arange(len(expanded), dtype=np.uint64)
    half = identity_hash.half_sets(numbers)
    own = [
        stage2.OwnBatch(
            first,
            batch_of(expanded[first : first + BATCH], reflections),
            half[first : first + BATCH],
        )
        for first in range(0, len(expanded), BATCH)
    ]
    return lambda: iter(own)


def cycles(
    row: Row, folder: Path, reflections: Reflections, domains: Mosaic | None, n_processes: int
) -> Iterator[tuple[stage2.Intensities, dict[str, float]]]:
    """Yield the intensities of each cycle, and what they cost."""
    about = intensities.modelled(reflections, reflections.intensity)
    with pool(n_processes, begin, (reflections, about, domains)) as workers:
        refined = list(workers.map(partial(stage1, row, folder), range(row.n), chunksize=4))
    starts = drawn(refined)
    before = None
    for _ in range(row.n_cycles):
        with pool(n_processes, begin, (reflections, about, domains)) as workers:
            work = partial(expand, row, folder)
            all_expanded = list(workers.map(work, range(row.n), starts, chunksize=4))
        used = [lattice for lattice in all_expanded if lattice is not None]
        problem = problem_of(used, reflections)
        start_time = user_cpu()
        before = stage2.refine(problem, batches_of(used, reflections), about, before)
        costs = {
            "seconds_fit": float(np.median([lattice.seconds for lattice in used])),
            "seconds_solve": (user_cpu() - start_time) / len(used),
            "model_error": float(np.median([lattice.model_error for lattice in used])),
            "n_lost": row.n - len(used),
            "n_cells": float(np.median([lattice.start.n_cells[0] for lattice in used])),
            "eta_deg": float(np.median([lattice.start.eta_axes_rad[0] for lattice in used]) / DEG),
            "shared": before.shared.tolist(),
        }
        yield before, costs
        about = intensities.modelled(reflections, before.intensity)
        starts = [
            None
            if lattice is None
            else intensities.with_factors(lattice.start, lattice.unknowns, before.shared)
            for lattice in all_expanded
        ]


def problem_of(expanded: Sequence[Expanded], reflections: Reflections) -> stage2.Problem:
    """Return what the cycles share, on one rank."""
    return stage2.Problem(
        reflections=reflections,
        is_shared=intensities.is_shared(expanded[0].unknowns),
        direction=intensities.volume_direction(expanded[0].unknowns),
        restraint=None,
        seed=0,
        add=lambda array: array,
    )


def pool(n_processes: int, initializer: Any = None, arguments: tuple = ()) -> Executor:
    """Return worker processes that do not share this one's threads."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(n_processes, context, initializer, arguments)


# ---------------------------------------------------------------- the table


def measure(row: Row, folder: Path, n_processes: int) -> dict[str, Any]:
    """Return the figures of a row."""
    with pool(n_processes) as workers:
        made = list(workers.map(partial(make, row.simulation, folder), range(row.n), chunksize=4))
        learned = workers.submit(teach, folder / "domains.npz") if row.model == "learned" else None
        domains = learned.result() if learned else None
    both = {refine_b: merged(made, refine_b) for refine_b in (True, False)}
    del made
    has_merge = np.isfinite(both[True].intensity) & np.isfinite(both[False].intensity)
    of_merge = {
        refine_b: score(one.intensity, one.sigma, has_merge) for refine_b, one in both.items()
    }
    refine_b = min(of_merge, key=lambda key: of_merge[key].r_f)
    best = both[refine_b]
    model = reflections_of("perturbed")
    sign = np.where(model.unique.friedel < 0, -1, 1)[:, None]
    start = model
    if row.start == "merged":
        start = intensities.from_merge(
            model, Merged(sign * model.unique.hkl, best.intensity, best.sigma)
        )
    figures: dict[str, Any] = {
        "commit": recorded.commit(),
        "n_lattices": row.n,
        "multiplicity": float(best.n.sum() / has_merge.sum()),
        "merge": of_merge[refine_b]._asdict() | {"refine_b": refine_b},
        "merge_other": of_merge[not refine_b]._asdict(),
        "cycles": [],
    }
    for found, costs in cycles(row, folder, start, domains, n_processes):
        is_both = has_merge & np.isfinite(found.sigma)
        of_cycle = score(found.intensity, found.sigma, is_both)._asdict()
        of_cycle |= costs
        of_cycle |= {
            name: getattr(found, name)
            for name in ("spread", "fraction", "n_iterations", "held_out", "held_out_before")
        }
        figures["cycles"].append(of_cycle)
    return figures


def memory(folder: Path, n_processes: int) -> dict[str, Any]:
    """Return what one rank needs for the equations of `N_REPLICATED` lattices, read batch by batch:
    those of 64 again and again, each time with other reflections.
    """
    row = Row(64, d_max=10.0)
    reflections = reflections_of("perturbed")
    about = intensities.modelled(reflections, reflections.intensity)
    with pool(n_processes, begin, (reflections, about, None)) as workers:
        starts = drawn(list(workers.map(partial(stage1, row, folder), range(row.n), chunksize=4)))
        expanded = list(workers.map(partial(expand, row, folder), range(row.n), starts))
    used = [lattice for lattice in expanded if lattice is not None]
    own = list(batches_of(used, reflections)())
    n = len(reflections.intensity)
    n_lattices = sum(len(one.batch.loss) for one in own)
    n_times = N_REPLICATED // n_lattices

    def replicated() -> Iterator[stage2.OwnBatch]:
        for turn in range(n_times):
            for one in own:
                unique = (one.batch.unique + 7919 * turn) % n
                batch = one.batch._replace(unique=unique, intensity=about[unique])
                yield one._replace(number=len(own) * turn + one.number, batch=batch)

    problem = problem_of(used, reflections)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start_time = user_cpu()
    stage2.refine(problem, replicated, about, None)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "commit": recorded.commit(),
        "n_lattices": n_times * n_lattices,
        "n_reflections": n,
        "peak_gb": after / 2**20,
        "peak_before_gb": before / 2**20,
        "seconds_solve": (user_cpu() - start_time) / (n_times * n_lattices),
    }


def over_yardstick(row: Row, figures: dict[str, Any], reference: dict[str, dict]) -> list[float]:
    """Return R of each cycle over that of the merge, or of stage 2 started from the merge where the
    row starts from a model. reference: all rows.
    """
    yardstick = figures["merge"]["r_f"]
    if row.start != "merged":
        merged_start = reference.get(str(row.n))
        yardstick = merged_start["cycles"][-1]["r_f"] if merged_start else np.nan
    return [float(cycle["r_f"] / yardstick) for cycle in figures["cycles"]]


def report(name: str, row: Row, figures: dict[str, Any], reference: dict[str, dict]) -> None:
    """Print a row; reference: all rows, for those it is compared with."""
    merge = figures["merge"]
    print(
        f"\n{name} [{figures['commit']}]: {figures['n_lattices']} lattices, multiplicity "
        f"{figures['multiplicity']:.2f}"
    )
    print(
        f"  merge        R {merge['r_f']:.4f}, CC ano {merge['cc_ano']:.3f} of {merge['n_pairs']}, "
        f"pulls {spoken(merge['pull_sd'])}"
    )
    ratios = over_yardstick(row, figures, reference)
    for number, (cycle, ratio) in enumerate(zip(figures["cycles"], ratios, strict=True), 1):
        worse = [
            shell
            for shell, (ours, theirs) in enumerate(
                zip(cycle["r_of_shells"], merge["r_of_shells"], strict=True)
            )
            if ours > theirs
        ]
        print(
            f"  cycle {number}      R {cycle['r_f']:.4f}, x {ratio:.2f} (bar "
            f"{row.bar_r:g}), CC ano {cycle['cc_ano']:.3f}, pulls {spoken(cycle['pull_sd'])}; "
            f"shells worse: {worse or 'none'}; s a lattice: fit and Gram "
            f"{cycle['seconds_fit']:.3f}, solve {cycle['seconds_solve']:.4f}; "
            f"e {cycle['model_error']:.3f}, scatter {cycle['fraction']:.3f}, "
            f"spread {cycle['spread']:.3f}, held out {cycle['held_out_before']:.4g} -> "
            f"{cycle['held_out']:.4g}"
        )
    four_times = reference.get(str(4 * row.n))
    if four_times and name == str(row.n):
        print(
            f"  CC ano {figures['cycles'][-1]['cc_ano']:.3f} against that of the merge of "
            f"{4 * row.n}: {four_times['merge']['cc_ano']:.3f}"
        )


def spoken(values: Sequence[float]) -> str:
    """Return numbers in short."""
    return " ".join(f"{value:.2f}" for value in values)


def main() -> None:
    """Measure the rows that are asked for, and print all that there are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), metavar="ROW", help="only these")
    parser.add_argument("--closing", action="store_true", help="the rows of a release")
    parser.add_argument("--full", action="store_true", help="all rows")
    parser.add_argument("--memory", action="store_true", help="the memory of a rank alone")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where lattices are kept from run to run")
    parser.add_argument("--json", type=Path, help="rows are added to those that it has")
    args = parser.parse_args()
    names = list(ROWS) if args.full else args.rows or list(CLOSING)
    rows = recorded.rows(args.json)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if args.memory:
            print(json.dumps(memory(folder, args.processes), indent=1))
            return
        for name in names:
            rows[name] = measure(ROWS[name], folder, args.processes)
            for other in filter(rows.get, ROWS):
                rows[other]["r_over"] = over_yardstick(ROWS[other], rows[other], rows)
            report(name, ROWS[name], rows[name], rows)
            if args.json:
                recorded.save(args.json, "stage2", rows)
    print("\n--- all rows")
    for name in filter(rows.get, ROWS):
        report(name, ROWS[name], rows[name], rows)


if __name__ == "__main__":
    main()
