"""Merged intensities of the same observations by this project, by careless and by a plain mean, and
how far they are from the truth.

Single lattices of the demo's crystal are simulated and reindexed with a geometry that other stills
gave. Those of the first N stills are merged by `merge`; what it takes is also written as an
unmerged MTZ file, which careless (Dalton, Greisman & Hekstra 2022) merges with the settings of its
own example for stills and with variations of them. Its program comes from an environment of its own
(--careless); nothing of it is imported. Products are kept in the folder.
"""

import bed_chain  # first: it sets threads before NumPy and XLA start  # isort: skip

import argparse
import os
import resource
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np

import bed_truth
import recorded
from bed_chain import Trial
from bed_truth import Truth
from spreadflow import cli, config
from spreadflow.analysis.merging import merging, selection
from spreadflow.errors import LatticeOutcome
from spreadflow.io import store
from spreadflow.io.accepted import accepted_lattices, brought
from spreadflow.models import ReflectionFlag
from spreadflow.products import Cells, Merge, Reindex
from spreadflow.units import wavelength

DEMO = Path(__file__).parents[1] / "config" / "demo.yaml"
"""Crystal, beam and detector of the stills."""

RUN = "demo"
"""The run of that configuration."""

N_GEOMETRY = 100
"""Lattices of the other stills, from which `level0` refines the geometry."""

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}
"""Environment that holds TensorFlow to one thread of the processor."""

TYPES = {
    "I": "J",
    "SigI": "Q",
    "BATCH": "B",
    "xobs": "R",
    "yobs": "R",
    "ewald_offset": "R",
    "ln_partiality": "R",
}
"""Label → type of the columns that careless reads, after the indices."""

METADATA = "dHKL,xobs,yobs,ewald_offset"
"""Columns from which its own example for stills has careless learn scales."""

N_SIGMAS = 6.0
"""How far from a measured intensity the true one may be, σ."""

QUADRATURE = (np.arange(256) + 0.5) / 256
"""(point,) where the distribution of an intensity is summed, between its ends."""

ITERATIONS = 3000
"""Steps of careless, which is for 10 000 by default,"""

LEARNING_RATE = 0.003
"""and how far one goes: three times its default, so that all of them go as far."""

SHARED = ("--anomalous", "--mlp-layers=10")
"""Options of that example: Friedel mates apart; layers that all images share."""

OF_EACH_IMAGE = "--image-layers=2"
"""Option of that example: layers of each image. Without it an image has a scale of its own."""

STUDENT = "--studentt-likelihood-dof=16"
"""Option of its example for anomalous differences, with which wild observations count less."""

ERROR_MODEL = "--refine-uncertainties"
"""Option that refines an error model (Evans 2011) with the scales."""

KNOWING = f"{METADATA},ln_partiality"
"""The columns with the partiality that this project predicts with the spectrum of the pulse."""


class Recipe(NamedTuple):
    """A way to run careless."""

    metadata: str
    """columns that scales are learned from"""
    options: tuple[str, ...]
    is_corrected: bool
    """intensities are divided by the expectation of this project: polarization, capture, Lorentz
    factor and partiality
    """


RECIPES = {
    "example": Recipe(METADATA, (*SHARED, OF_EACH_IMAGE), is_corrected=False),
    "image scales": Recipe(METADATA, (*SHARED, STUDENT), is_corrected=False),
    "partiality": Recipe(KNOWING, (*SHARED, STUDENT), is_corrected=False),
    "corrected": Recipe(KNOWING, (*SHARED, STUDENT), is_corrected=True),
    "error model": Recipe(KNOWING, (*SHARED, STUDENT, ERROR_MODEL), is_corrected=True),
}
"""Name → how careless is run: as its example for stills of an XFEL has it, with fewer parameters of
each image, with what this project knows of partialities, and with an error model.
"""


class Program(NamedTuple):
    """careless, and how it is run."""

    path: Path
    iterations: int
    learning_rate: float
    recipes: list[str]
    """keys of RECIPES"""


class Observed(NamedTuple):
    """The observations that `merge` takes."""

    hkl: np.ndarray
    """(observation, 3) on the axes that all lattices share"""
    lattice: np.ndarray
    """(observation,) number"""
    intensity: np.ndarray
    sigma: np.ndarray
    factor: np.ndarray
    """(observation,) polarization · capture · Lorentz factor · partiality"""
    partiality: np.ndarray
    place: np.ndarray
    """(observation, 2) predicted, px"""
    offset: np.ndarray
    """(observation,) from the Ewald sphere of the pulse's mean energy, Å⁻¹"""


class Result(NamedTuple):
    """Merged intensities of one program."""

    intensity: np.ndarray
    """(unique,) NaN = not measured"""
    amplitude: np.ndarray
    """(unique,) expected |F|"""
    seconds: float
    """user CPU"""


# ---------------------------------------------------------------- the stills


def stills(folder: Path, n_lattices: int, seed: int) -> Trial:
    """Return the trial of stills whose lattices are reindexed. Raises SystemExit where a stage
    fails.
    """
    other = _trial(folder / "geometry", N_GEOMETRY, seed + 1, None)
    _finish(other, ("simulate", "index", "level0"))
    trial = _trial(folder / "stills", n_lattices, seed, other.product("level0"))
    _finish(trial, ("simulate", "reindex", "cells"))
    return trial


def _trial(folder: Path, n_shots: int, seed: int, geometry: Path | None) -> Trial:
    """Return a trial on single lattices. geometry: product of `level0` of another trial."""
    shots = {"n_single": n_shots, "n_blank": 0, "n_double": 0}
    changes = {
        "seed": seed,
        "data": str(folder / "data"),
        "results": str(folder / "results"),
        "runs": {RUN: {"simulate": shots | {"n_saturated": 0, "n_unreadable": 0}}},
        "level0": {"from": None if geometry is None else str(geometry)},
    }
    return Trial(config.load(DEMO, changes=changes), RUN)


def _finish(trial: Trial, words: Sequence[str]) -> None:
    """Run stages whose product is not there. Raises SystemExit where one fails."""
    course = bed_chain.finish(trial, words)
    if course.failed is not None:
        raise SystemExit(f"{course.failed} failed: {trial.product(course.failed)}")


def of_first_stills(trial: Trial, n: int, out: Path) -> Path:
    """Write the product of `cells` with the accepted lattices of the first n stills alone, and
    return its path. Raises SystemExit where there are fewer stills.
    """
    product = trial.product("reindex")
    shot_id = store.read(product, Reindex, [Reindex.shots.shot_id]).shots.shot_id
    if len(shot_id) < n:
        raise SystemExit(f"{product}: {len(shot_id)} stills of {n}; give another --folder")
    accepted = store.read(trial.product("cells"), Cells)
    lattices = accepted.lattices
    is_among = np.isin(lattices.shot_id, shot_id[:n])
    lattices.outcome = np.where(is_among, lattices.outcome, LatticeOutcome.OTHER_CLUSTER)
    attributes = store.attributes(trial.product("cells"), Cells)
    for name in ("kind", "schema", "software", "time"):
        del attributes[name]
    key = store.digest(attributes.pop("key"), n)
    store.write(out, accepted, key=key, **attributes)
    return out


def observed(trial: Trial, cells: Path) -> Observed:
    """Return the observations that `merge` takes of the accepted lattices."""
    section = trial.config.merge
    unique = _unique(trial)
    product = trial.product("reindex")
    reindex = store.read(
        product, Reindex, [Reindex.shots.mean_energy_ev, Reindex.lattices, Reindex.reflections]
    )
    accepted = accepted_lattices(cells, product)
    lattice = reindex.reflections.lattice
    hkl = brought(reindex.reflections.hkl, accepted.setting, lattice)
    to_merge = reindex.reflections[:]
    to_merge.hkl = hkl
    to_merge.flags = np.where(accepted.is_accepted[lattice], to_merge.flags, ReflectionFlag.FAILED)
    n_lattices = len(accepted.is_accepted)
    _, _, fate = selection.select(
        to_merge,
        selection.Lattices(
            group=np.zeros(n_lattices, dtype=int),
            half=np.zeros(n_lattices, dtype=int),
            pulse=np.ones(n_lattices),
        ),
        unique,
        partiality_min=section.partiality_min,
        min_reflections=section.min_reflections,
    )
    rows = np.flatnonzero(fate == selection.Fate.USED)
    own = reindex.reflections[rows]
    polarization = own.polarization.astype(np.float64)
    partiality = own.partiality.astype(np.float64)
    return Observed(
        hkl=hkl[rows],
        lattice=own.lattice,
        intensity=own.intensity.astype(np.float64),
        sigma=own.sigma.astype(np.float64),
        factor=polarization * own.capture * own.lorentz * partiality,
        partiality=partiality,
        place=np.stack([own.fast, own.slow], axis=1),
        offset=_offsets(reindex, rows),
    )


def _unique(trial: Trial) -> merging.Unique:
    """Return the unique reflections to the resolution of `merge`."""
    crystal = trial.config.crystal
    return merging.Unique(np.array(crystal.cell), crystal.space_group, trial.config.merge.d_min)


def _offsets(reindex: Reindex, rows: np.ndarray) -> np.ndarray:
    """Return how far outside the Ewald sphere of the mean energy reflections are, (row,), Å⁻¹."""
    own = reindex.reflections[rows]
    energy_ev = reindex.shots.mean_energy_ev[reindex.lattices.shot[own.lattice]]
    node = np.einsum("nij,nj->ni", reindex.lattices.A[own.lattice], own.hkl)
    radius = 1.0 / wavelength(energy_ev)
    scattered = node - radius[:, None] * np.array([0.0, 0.0, 1.0])
    return np.linalg.norm(scattered, axis=1) - radius


# ---------------------------------------------------------------- the programs


def merged_here(trial: Trial, cells: Path, out: Path, truth: Truth) -> tuple[Result, Result]:
    """Return what `merge` makes of the accepted lattices: intensities as measured, and those that
    are expected; both with the same expected |F|.
    """
    if not out.exists():
        section = config.section(trial.config, "merge", trial.run)
        files = ["--reindex", str(trial.product("reindex")), "--cells", str(cells)]
        before = _user_seconds()
        cli.main(["merge", "--config", section, *files, "--out", str(out)])
        _note(out, _user_seconds() - before)
    merged = store.read(out, Merge, [Merge.merged]).merged
    hkl = np.where(merged.friedel < 0, -1, 1)[:, None] * merged.hkl
    d = truth.unique.spacing(hkl)
    expected = expectations(merged.intensity, merged.sigma, d, merged.friedel == 0)
    columns = (merged.intensity, *expected)
    measured, squares, amplitude = (_by_unique(truth, hkl, column) for column in columns)
    seconds = _noted(out)
    return Result(measured, amplitude, seconds), Result(squares, amplitude, seconds)


def expectations(
    intensity: np.ndarray, sigma: np.ndarray, d: np.ndarray, is_centric: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the |F|² and |F| that are expected of intensities with their σ and Wilson's
    distribution in shells (French & Wilson 1978), all (n,). d: Å.
    """
    shell = merging.shells(d, d.min())
    mean = np.bincount(shell, intensity) / np.maximum(np.bincount(shell), 1)
    mean = mean[shell][:, None]
    low = np.maximum(intensity - N_SIGMAS * sigma, 0.0)
    width = np.maximum(intensity, 0.0) + N_SIGMAS * sigma - low
    true = low[:, None] + width[:, None] * QUADRATURE
    deviation = (intensity[:, None] - true) / sigma[:, None]
    wilson = np.where(is_centric[:, None], 0.5 * (true / mean + np.log(true)), true / mean)
    logarithm = -wilson - 0.5 * deviation**2
    weight = np.exp(logarithm - logarithm.max(axis=1, keepdims=True))
    weight = weight / weight.sum(axis=1, keepdims=True)
    return (weight * true).sum(axis=1), (weight * np.sqrt(true)).sum(axis=1)


def merged_by_careless(
    program: Program, recipe: Recipe, table: Observed, out: Path, truth: Truth
) -> Result:
    """Return what careless makes of the observations. out: a folder. Raises CalledProcessError
    where it fails.
    """
    product = out / "merged_0.mtz"
    if not product.exists():
        _run(program, recipe, table, out, truth)
    merged = gemmi.read_mtz_file(str(product))
    hkl = merged.make_miller_array()
    hkl = np.concatenate([hkl, -hkl])

    def column(kind: str) -> np.ndarray:
        both = [np.array(merged.column_with_label(f"{kind}({sign})")) for sign in "+-"]
        return _by_unique(truth, hkl, np.concatenate(both))

    return Result(column("I"), column("F"), _noted(product))


def _run(program: Program, recipe: Recipe, table: Observed, out: Path, truth: Truth) -> None:
    """Have careless merge the observations into a folder. Raises CalledProcessError."""
    out.mkdir(parents=True, exist_ok=True)
    unmerged = out / "unmerged.mtz"
    _write_unmerged(unmerged, table, recipe, truth.unique)
    command = [
        *(str(program.path), "mono", "--disable-progress-bar"),
        f"--iterations={program.iterations}",
        f"--learning-rate={program.learning_rate}",
        *recipe.options,
        *(recipe.metadata, str(unmerged), str(out / "merged")),
    ]
    before = _user_seconds(resource.RUSAGE_CHILDREN)
    with open(out / "log.txt", "w") as log:
        subprocess.run(command, env=os.environ | ONE_THREAD, stdout=log, stderr=log, check=True)
    _note(out / "merged_0.mtz", _user_seconds(resource.RUSAGE_CHILDREN) - before)


def _write_unmerged(path: Path, table: Observed, recipe: Recipe, unique: merging.Unique) -> None:
    """Write the observations as careless reads them."""
    file = gemmi.Mtz(with_base=True)
    file.spacegroup = unique.space_group
    file.set_cell_for_all(unique.cell)
    file.add_dataset("unmerged")
    for label, kind in TYPES.items():
        file.add_column(label, kind)
    unit = table.factor / table.factor.mean() if recipe.is_corrected else 1.0
    columns = [
        table.hkl,
        table.intensity / unit,
        table.sigma / unit,
        table.lattice,
        table.place,
        table.offset,
        np.log(table.partiality),
    ]
    file.set_data(np.column_stack(columns).astype(np.float32))
    file.write_to_file(str(path))


def plain_mean(table: Observed, truth: Truth) -> Result:
    """Return the means of the observations as recorded."""
    before = _user_seconds()
    row = truth.unique.rows(table.hkl)
    n = np.bincount(row, minlength=len(truth.unique))
    total = np.bincount(row, table.intensity, minlength=len(truth.unique))
    with np.errstate(invalid="ignore"):
        mean = total / n
    return Result(mean, np.sqrt(np.maximum(mean, 0.0)), _user_seconds() - before)


def _by_unique(truth: Truth, hkl: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return values (n,) of Miller indices (n, 3), those of I(−) negative, by unique reflection."""
    row = truth.unique.rows(hkl)
    is_known = (row >= 0) & np.isfinite(values)
    out = np.full(len(truth.unique), np.nan)
    out[row[is_known]] = values[is_known]
    return out


def _user_seconds(who: int = resource.RUSAGE_SELF) -> float:
    """Return the user CPU time of this process, or of its children."""
    return resource.getrusage(who).ru_utime


def _note(product: Path, seconds: float) -> None:
    """Write down what a product took."""
    product.with_suffix(".seconds").write_text(f"{seconds:.1f}\n")


def _noted(product: Path) -> float:
    """Return what a product took, user CPU seconds."""
    return float(product.with_suffix(".seconds").read_text())


# ---------------------------------------------------------------- against the truth


def figures(result: Result, truth: Truth, is_judged: np.ndarray) -> dict:
    """Return how well the intensities of the reflections that are judged (unique,) agree with the
    truth.
    """
    unique = truth.unique
    rows = np.flatnonzero(is_judged)
    found = result.intensity[rows]
    true = truth.intensity[rows]
    plus = np.flatnonzero((unique.friedel > 0) & is_judged)
    plus = plus[is_judged[unique.mate[plus]]]
    minus = unique.mate[plus]
    pairs = (
        (result.intensity, truth.intensity),
        (result.amplitude, np.sqrt(truth.intensity)),
    )
    anomalous = [
        np.corrcoef(*(values[plus] - values[minus] for values in pair))[0, 1] for pair in pairs
    ]
    return {
        **bed_truth.agreement_of(found, true),
        "cc": float(np.corrcoef(found, true)[0, 1]),
        "n_anomalous": len(plus),
        "cc_anomalous": float(anomalous[0]),
        "cc_anomalous_f": float(anomalous[1]),
        "user_cpu_s": result.seconds,
    }


COLUMNS = {
    "n": "n",
    "cc": "CC",
    "cc_log": "CC of logs",
    "spearman": "Spearman",
    "r_iso": "R_iso",
    "cc_anomalous": "CC_anom",
    "cc_anomalous_f": "of |F|",
    "user_cpu_s": "CPU, s",
}
"""Figure → heading of its column."""


def report(rows: list[dict]) -> None:
    """Print the tables: common reflections, and each program's own."""
    for which in ("common", "own"):
        print(f"\n{which} reflections")
        print(f"{'lattices':>8} {'program':26}" + "".join(f"{h:>11}" for h in COLUMNS.values()))
        for row in rows:
            values = "".join(f"{row[which][name]:>11.4g}" for name in COLUMNS)
            print(f"{row['n_lattices']:>8} {row['program']:26}{values}")


def compared(
    trial: Trial, truth: Truth, n_lattices: int, program: Program, folder: Path
) -> list[dict]:
    """Return the figures of all programs on the first lattices."""
    folder = folder / f"{n_lattices}"
    cells = of_first_stills(trial, n_lattices, folder / "cells.h5")
    table = observed(trial, cells)
    measured, expected = merged_here(trial, cells, folder / "merge.h5", truth)
    results = {
        "merge": measured,
        "merge, expected": expected,
        "plain mean": plain_mean(table, truth),
    }
    for name in program.recipes:
        out = folder / f"{name}-{program.iterations}-{program.learning_rate}"
        results[f"careless: {name}"] = merged_by_careless(program, RECIPES[name], table, out, truth)
    is_known = np.isfinite(truth.intensity)
    are_measured = {name: is_known & np.isfinite(r.intensity) for name, r in results.items()}
    is_common = np.all(list(are_measured.values()), axis=0)
    return [
        {
            "n_lattices": n_lattices,
            "n_observations": len(table.hkl),
            "program": name,
            "common": figures(result, truth, is_common),
            "own": figures(result, truth, are_measured[name]),
        }
        for name, result in results.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--careless", type=Path, required=True, help="its program")
    parser.add_argument("--folder", type=Path, required=True, help="of stills and products")
    parser.add_argument("--lattices", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    trial = stills(args.folder, max(args.lattices), args.seed)
    truth = bed_truth.of_simulation(trial.config, trial.run, trial.manifest)
    program = Program(args.careless, args.iterations, args.learning_rate, args.recipes)
    rows = []
    for n_lattices in args.lattices:
        rows += compared(trial, truth, n_lattices, program, args.folder)
    report(rows)
    if args.json:
        recorded.save(args.json, "careless", rows)


if __name__ == "__main__":
    main()
