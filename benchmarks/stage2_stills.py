"""Stage 2 against the merge on the stills of another simulator: how near are intensities to the
truth?

The stages from images to `stage2` in one process (`bed_chain`), with the model that the stills were
made with for the refinement of lattices: coordinates alone, no intensities. The truth is |F|² at
7120 eV; both are compared with it on the reflections of the merge to 2.1 Å that stage 2 has, too:
rank correlation and R_iso of the means of mates as for the merge of bed.py, and R(F), anomalous
differences and pulls with mates apart. Rows differ in the mosaicity of the model, in the
intensities that stage 2 starts from, and in the model.
"""

import bed_chain  # first: it sets threads before NumPy and XLA start  # isort: skip

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import gemmi
import numpy as np

import bed_truth
import recorded
from bed_chain import Trial
from bed_truth import Merged, Truth
from spreadflow import config
from spreadflow.analysis.factors.agreement import N_OF_R, agreement
from spreadflow.io import store
from spreadflow.products import Merge, Stage2

D_MIN = 2.1
"""Resolution to which they are compared, Å: that of the figures of other programs."""

SPEARMAN = 0.985
"""Bar of the rank correlation, at least."""

R_ISO = 0.20
"""Bar of R_iso, at most."""

SHARED = ("index", "level0", "reindex", "cells", "merge", "annulus")
"""Stages that rows share, in their order."""

OWN = ("mosaic", "stage1", "predict", "pack", "stage2")
"""Stages of a row, in their order."""


class Row(NamedTuple):
    """A way to run stage 1 and stage 2."""

    mosaicity: str = "continuous"
    start: str = "merge"
    perturb: bool = False
    """the model is wrong"""


ROWS = {
    "default": Row(),
    "learned": Row(mosaicity="learned"),
    "from the model": Row(start="model"),
    "wrong model": Row(perturb=True),
    "from a wrong model": Row(start="model", perturb=True),
}
"""Name of a row → how it is run."""


# ---------------------------------------------------------------- the chain


def trial_of(row: Row, name: str, shared: Trial, stills: Path) -> Trial:
    """Return the trial of a row, with the products that rows share in its folder."""
    base = shared.config.results / shared.config.trial
    model = {
        "model": str(stills / "model.pdb"),
        "k_sol": 0.0,
        "perturb": row.perturb,
    }
    changes = {
        "trial": name.replace(" ", "_"),
        "results": str(shared.config.results),
        "runs": {shared.run: {"images": str(shared.manifest)}},
        "structure_factors": model,
        "stage1": {"mosaicity": row.mosaicity},
        "stage2": {"start": row.start},
    }
    trial = Trial(config.load(bed_chain.NANOBRAGG, changes=changes), shared.run)
    folder = trial.config.results / trial.config.trial
    folder.mkdir(parents=True, exist_ok=True)
    names = [shared.run, "cells.h5", "merge.h5", "annulus.h5", "annulus.parts"]
    for path in (base / name for name in names):
        link = folder / path.name
        if path.exists() and not link.exists():
            link.symlink_to(path.resolve())
    return trial


def finished(trial: Trial, words: tuple[str, ...]) -> None:
    """Run the stages whose products are not there. Raises SystemExit where one fails."""
    course = bed_chain.finish(trial, words)
    if course.failed:
        raise SystemExit(f"{course.failed} failed: see what it printed")


# ---------------------------------------------------------------- figures


class Found(NamedTuple):
    """Intensities of the unique reflections of the truth; NaN = none."""

    intensity: np.ndarray
    sigma: np.ndarray


def of_merge(product: Path, truth: Truth) -> Found:
    """Return the intensities of a product of `merge`."""
    merged = store.read(product, Merge, [Merge.merged]).merged
    sign = np.where(merged.friedel < 0, -1, 1)[:, None]
    row = truth.unique.rows(sign * merged.hkl)
    return Found(*(_placed(row, column, truth) for column in (merged.intensity, merged.sigma)))


def of_mtz(path: Path, truth: Truth) -> Found:
    """Return the intensities of an MTZ file that `stage2` has written."""
    file = gemmi.read_mtz_file(str(path))
    hkl = file.make_miller_array()
    both = []
    for sign, label in ((1, "I(+)"), (-1, "I(-)")):
        row = truth.unique.rows(sign * hkl)
        names = (label, f"SIG{label}")
        columns = [np.array(file.column_with_label(name), dtype=np.float64) for name in names]
        known = np.isfinite(columns[0])
        both.append([_placed(row[known], column[known], truth) for column in columns])
    plus, minus = both
    return Found(*(np.where(np.isfinite(a), a, b) for a, b in zip(plus, minus, strict=True)))


def _placed(row: np.ndarray, values: np.ndarray, truth: Truth) -> np.ndarray:
    """Return values in the rows of the truth that they belong to."""
    placed = np.full(len(truth.unique), np.nan)
    placed[row[row >= 0]] = values[row >= 0]
    return placed


def scored(found: Found, truth: Truth, is_chosen: np.ndarray) -> dict[str, Any]:
    """Return how near intensities are to the truth on chosen reflections."""
    unique = truth.unique
    rows = np.flatnonzero(is_chosen)
    of_mate = truth.intensity[np.where(unique.mate[rows] >= 0, unique.mate[rows], rows)]
    apart = Merged(
        hkl=unique.hkl[rows],
        d=unique.d[rows],
        n=np.ones(len(rows), dtype=int),
        intensity=found.intensity[rows],
        sigma=found.sigma[rows],
        true=truth.intensity[rows],
        true_mean=0.5 * (truth.intensity[rows] + of_mate),
    )
    together = bed_truth.mates_together(apart)
    figures = {
        "together": bed_truth.agreement(together),
        "apart": bed_truth.agreement(apart),
        **agreement(unique, *found, truth.intensity, is_chosen)._asdict(),
    }
    by_resolution = np.array_split(np.argsort(together.d), N_OF_R)
    figures["shells"] = [
        {"d": [float(together.d[part[0]]), float(together.d[part[-1]])]}
        | bed_truth.agreement_of(together.intensity[part], together.true[part])
        for part in by_resolution
    ]
    return figures


def measure(trial: Trial, truth: Truth) -> dict[str, Any]:
    """Return the figures of a row whose stages have run."""
    merge = of_merge(trial.product("merge"), truth)
    product = trial.product("stage2")
    cycles = sorted(product.with_suffix(".cycles").glob("*.mtz"), key=lambda path: int(path.stem))
    found = [of_mtz(path, truth) for path in cycles]
    is_merged = np.isfinite(merge.intensity) & np.isfinite(truth.intensity)
    is_merged &= truth.unique.d >= D_MIN
    is_both = is_merged & np.all([np.isfinite(of_cycle.sigma) for of_cycle in found], axis=0)
    of_cycles = store.read(product, Stage2, [Stage2.cycles]).cycles.as_dict()
    return {
        "commit": recorded.commit(),
        "n_merged": int(is_merged.sum()),
        "n": int(is_both.sum()),
        "merge": scored(merge, truth, is_both),
        "cycles": [scored(of_cycle, truth, is_both) for of_cycle in found],
        "of_stage2": {name: column.tolist() for name, column in of_cycles.items()},
    }


def report(name: str, figures: dict[str, Any]) -> None:
    """Print a row beside its bars; a star marks a miss."""
    missing = figures["n_merged"] - figures["n"]
    print(
        f"\n{name} [{figures['commit']}]: {figures['n']} reflections of the merge, mates apart; "
        f"{missing} that stage 2 has not"
    )
    _print("merge", figures["merge"])
    for number, of_cycle in enumerate(figures["cycles"], 1):
        _print(f"cycle {number}", of_cycle)
    print(f"  bars         Spearman >= {SPEARMAN:g}, R_iso <= {R_ISO:g}")


def _print(name: str, figures: dict[str, Any]) -> None:
    """Print the figures of some intensities."""
    together = figures["together"]
    stars = [
        "*" if missed else " "
        for missed in (together["spearman"] < SPEARMAN, together["r_iso"] > R_ISO)
    ]
    print(
        f"  {name:12} Spearman {together['spearman']:.4f}{stars[0]} R_iso "
        f"{together['r_iso']:.4f}{stars[1]} CC of logs {together['cc_log']:.4f} of "
        f"{together['n']}; R(F) {figures['r_f']:.4f}, CC ano {figures['cc_ano']:.3f} of "
        f"{figures['n_pairs']}, pulls {' '.join(f'{sd:.2f}' for sd in figures['pull_sd'])}"
    )
    shells = [
        f"{shell['d'][0]:.2f}-{shell['d'][1]:.2f} {shell['spearman']:.4f} {shell['r_iso']:.3f}"
        for shell in figures["shells"]
    ]
    print(f"{'':15}by resolution, Å: {'; '.join(shells)}")


# ---------------------------------------------------------------- runs


def main() -> None:
    """Run the stages that are not there, and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stills", type=Path, required=True, help="folder of .nxs and its truth")
    parser.add_argument("--results", type=Path, required=True, help="folder; products are kept")
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=["default"], metavar="ROW")
    parser.add_argument("--json", type=Path, help="rows are added to those that it has")
    args = parser.parse_args()
    rows = recorded.rows(args.json)
    shared = bed_chain.nanobragg(args.stills, args.results)
    finished(shared, SHARED)
    truth = bed_truth.of_nanobragg(args.stills, shared.manifest)
    for name in args.rows:
        row = ROWS[name]
        trial = trial_of(row, name, shared, args.stills)
        finished(trial, OWN if row.mosaicity == "learned" else OWN[1:])
        rows[name] = measure(trial, truth)
        report(name, rows[name])
        if args.json:
            recorded.save(args.json, "stage2_stills", rows)


if __name__ == "__main__":
    main()
