"""From stills with a wrong header to merged intensities: what is found, and are the σ true?

Each set has 9 shots with one lattice, 2 with two and 3 blanks, of its own seed, crystal and
orientations (bed.yaml): P 41 21 2, 40 channels at another edge, header off by (0.26, −0.17) mm and
0.2 mm in distance; with and without a fibre-optic point spread. Products are kept in a folder:
another run measures them again, `--from STAGE` after making them anew from a stage on. Or the
stills of another simulator (--nanobragg).
"""

import bed_chain  # first: it sets threads before NumPy and XLA start  # isort: skip

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import bed_truth
import recorded
from bed_chain import CHAIN, POINT_SPREADS_MM, Course, Trial
from bed_truth import Truth

D_MIN = 0.0
"""Resolution to which the merges of the bed are compared, Å: all there is."""

D_MIN_NANOBRAGG = 2.1
"""The same of the other simulator's stills: that of the figures of other programs."""

AXES = ("fast", "slow", "distance")
"""What level0 refines."""

N_CLASSES = 10
"""Classes of I/σ, with as many merged intensities in each."""

MULTIPLICITIES = (1, 2, 3, 5, 9)
"""Lower ends of the classes of multiplicity."""

WORST = 99.0
"""Percentile of |pull| that is quoted."""

COUNTS = (
    "n_right",
    "n_false",
    "n_blanks_with_lattice",
    "n_rmsd",
    "n_pulls",
    "sum_pulls",
    "square_pulls",
)
"""What is added over the sets."""

PULL_SD = (0.85, 1.2)
"""Bar of the standard deviation of the pulls of each class."""

LARGEST_PULL = 6.0
"""Bar of that percentile."""


class Bar(NamedTuple):
    """Between what a figure should lie."""

    low: float = -np.inf
    high: float = np.inf

    def __str__(self) -> str:
        if np.isinf(self.low):
            return f"<= {self.high:g}"
        return f">= {self.low:g}" if np.isinf(self.high) else f"{self.low:g} to {self.high:g}"


BARS = {
    "index: lattices found, %": Bar(low=99.0),
    "index: false lattices": Bar(high=0),
    "index: misset, 95 %, deg": Bar(high=0.25),
    "index: blanks with a lattice": Bar(high=0),
    "reindex: lattices found, %": Bar(low=99.0),
    "reindex: false lattices": Bar(high=0),
    "reindex: blanks with a lattice": Bar(high=0),
    **{f"level0: {axis}, mean pull": Bar(-0.5, 0.5) for axis in AXES},
    **{f"level0: {axis}, sd of pulls": Bar(0.8, 1.2) for axis in AXES},
    "reindex: photons, mean pull": Bar(-0.1, 0.1),
    "merge: R_iso, mean of sets": Bar(high=0.18),
    "merge: R_iso twice - all": Bar(high=0.0),
    "failed sets": Bar(high=0),
}
"""Bars of the bed, by name of the figure."""

BARS_NANOBRAGG = {
    "reindex: misset, median, deg": Bar(high=0.002),
    "reindex: lattices found, %": Bar(low=99.0),
    "reindex: false lattices": Bar(high=0),
    **{f"level0: {axis}, mean pull": Bar(-2.0, 2.0) for axis in AXES},
    "merge: Spearman, mean of sets": Bar(low=0.975),
    "merge: CC of logs, mean of sets": Bar(low=0.975),
    "merge: R_iso, mean of sets": Bar(high=0.28),
}
"""Bars of the other simulator's stills, which are one set."""


class Pulls(NamedTuple):
    """(I − I_true)/σ of merged intensities, Friedel mates apart, (row,)."""

    pull: np.ndarray
    strength: np.ndarray
    """I/σ"""
    n: np.ndarray
    """observations"""


NO_PULLS = Pulls(*np.empty((3, 0)))
"""Those of a set without a merge."""


class Measured(NamedTuple):
    """A set beside its truth."""

    figures: dict
    """by stage, of those that did not fail"""
    pulls: Pulls


# ---------------------------------------------------------------- one set


def measure(trial: Trial, course: Course, truth: Truth, d_min: float) -> Measured:
    """Return the figures of the products that there are."""
    n_true = len(truth.run.lattices)
    figures: dict = {"failed": course.failed, "seconds": course.seconds, "n_true": n_true}
    for word in ("index", "reindex"):
        if trial.product(word).exists():
            figures[word] = bed_truth.indexed(trial.product(word), word, truth)
    if trial.product("level0").exists():
        figures["level0"] = bed_truth.placed(trial.product("level0"), truth)
    product = trial.product("merge")
    if not product.exists():
        return Measured(figures, NO_PULLS)
    rows = bed_truth.merged(product, truth, d_min)
    together = bed_truth.mates_together(rows)
    is_twice = together.n >= 2
    twice = bed_truth.Merged(*(column[is_twice] for column in together))
    figures["merge"] = {
        "all": bed_truth.agreement(together),
        "twice": bed_truth.agreement(twice),
        **bed_truth.scaled(product),
    }
    return Measured(figures, Pulls(bed_truth.pulls(rows), rows.intensity / rows.sigma, rows.n))


# ---------------------------------------------------------------- figures of all sets


def pooled(sets: Sequence[dict]) -> dict[str, float]:
    """Return the figures over some sets, by name."""
    figures: dict[str, float] = {}
    for word in ("index", "reindex"):
        of_word = [one[word] for one in sets if word in one]
        figures |= _of_lattices(word, of_word, sum(one["n_true"] for one in sets))
    figures |= _of_detectors([one["level0"] for one in sets if "level0" in one])
    figures |= _of_merges([one["merge"] for one in sets if "merge" in one])
    figures["failed sets"] = sum(one["failed"] is not None for one in sets)
    seconds = [sum(one["seconds"].values()) for one in sets]
    return figures | {"CPU seconds of a set, median": float(np.median(seconds))}


def _of_lattices(word: str, sets: Sequence[dict], n_true: int) -> dict[str, float]:
    """Return the figures of the lattices of `index` or `reindex`. n_true: lattices of all sets,
    those in which the stage failed among them.
    """
    total = {name: sum(one[name] for one in sets) for name in COUNTS}
    misset = np.concatenate([np.empty(0), *(one["misset_deg"] for one in sets)])
    median, most = np.percentile(misset, [50, 95]) if len(misset) else (np.nan, np.nan)
    figures = {
        "lattices found, %": 100 * total["n_right"] / n_true,
        "false lattices": total["n_false"],
        "blanks with a lattice": total["n_blanks_with_lattice"],
        "misset, median, deg": median,
        "misset, 95 %, deg": most,
        "misset, largest, deg": misset.max(initial=0.0),
    }
    for axis in ("radial", "transverse"):
        square = sum(one[f"{axis}_mm2"] for one in sets) / max(total["n_rmsd"], 1)
        figures[f"r.m.s.d. {axis}, mm"] = np.sqrt(square)
    figures["longest shot, CPU seconds"] = max((one["longest_s"] for one in sets), default=np.nan)
    if total["n_pulls"]:
        mean = total["sum_pulls"] / total["n_pulls"]
        variance = total["square_pulls"] / total["n_pulls"] - mean**2
        figures |= {"photons, mean pull": mean, "photons, sd of pulls": np.sqrt(variance)}
    return {f"{word}: {name}": float(value) for name, value in figures.items()}


def _of_detectors(sets: Sequence[dict]) -> dict[str, float]:
    """Return the figures of level0."""
    figures: dict[str, float] = {}
    for number, axis in enumerate(AXES):
        pull = np.array([one["pull"][number] for one in sets])
        error_um = 1e3 * np.array([one["error_mm"][number] for one in sets])
        figures |= {
            f"level0: {axis}, mean pull": pull.mean(),
            f"level0: {axis}, sd of pulls": pull.std(ddof=1) if len(pull) > 1 else np.nan,
            f"level0: {axis}, mean error, µm": error_um.mean(),
            f"level0: {axis}, r.m.s. error, µm": np.sqrt((error_um**2).mean()),
        }
    return {name: float(value) for name, value in figures.items()}


def _of_merges(sets: Sequence[dict]) -> dict[str, float]:
    """Return the figures of the merged intensities."""
    names = {"r_iso": "R_iso", "spearman": "Spearman", "cc_log": "CC of logs"}
    figures: dict[str, float] = {}
    for which, words in (("all", ""), ("twice", ", seen twice")):
        for key, name in names.items():
            values = np.array([one[which][key] for one in sets])
            worst = values.max() if key == "r_iso" else values.min()
            figures |= {
                f"merge{words}: {name}, mean of sets": values.mean(),
                f"merge{words}: {name}, median of sets": np.median(values),
                f"merge{words}: {name}, worst set": worst,
            }
        n = [one[which]["n"] for one in sets]
        figures[f"merge{words}: reflections of a set"] = np.mean(n)
    difference = [one["twice"]["r_iso"] - one["all"]["r_iso"] for one in sets]
    figures["merge: R_iso twice - all"] = np.mean(difference)
    figures["merge: sets with a warning"] = sum(bool(one["warnings"]) for one in sets)
    return {name: float(value) for name, value in figures.items()}


def joined(pulls: Sequence[Pulls]) -> Pulls:
    """Return the pulls of several sets as one."""
    return Pulls(*(np.concatenate(columns) for columns in zip(*pulls, strict=True)))


def classes(pulls: Pulls) -> list[dict]:
    """Return the figures of pulls of each class of I/σ and of multiplicity."""
    order = np.argsort(pulls.strength, kind="stable")
    found = []
    for rows in np.array_split(order, N_CLASSES):
        low, high = pulls.strength[rows[[0, -1]]]
        found.append(_class(f"I/sigma {low:.1f} to {high:.1f}", pulls.pull[rows]))
    for low, end in zip(MULTIPLICITIES, (*MULTIPLICITIES[1:], np.inf), strict=True):
        rows = np.flatnonzero((pulls.n >= low) & (pulls.n < end))
        if len(rows):
            name = f"seen {low}" if end == low + 1 else f"seen {low} or more, below {end:g}"
            found.append(_class(name, pulls.pull[rows]))
    return found


def _class(name: str, pull: np.ndarray) -> dict:
    """Return the figures of the pulls (row,) of a class."""
    size = np.abs(pull)
    return {
        "name": name,
        "n": len(pull),
        "mean": float(pull.mean()),
        "sd": float(pull.std()),
        "worst": float(np.percentile(size, WORST)),
        "largest": float(size.max()),
    }


# ---------------------------------------------------------------- tables


def _marked(value: float, bar: Bar | None) -> str:
    """Return a figure, with a star where it misses its bar."""
    is_met = bar is None or np.isnan(value) or bar.low <= value <= bar.high
    return f"{value:.4g}{' ' if is_met else '*'}"


def show_figures(columns: dict[str, dict[str, float]], bars: dict[str, Bar]) -> None:
    """Print a row for each figure, a column for each kind of set, and the bar beside."""
    print(f"{'* = misses its bar':48}" + "".join(f"{name:>12}" for name in columns) + "   bar")
    for key in next(iter(columns.values())):
        bar = bars.get(key)
        cells = "".join(f"{_marked(figures[key], bar):>12}" for figures in columns.values())
        print(f"{key:48}{cells}   {bar or ''}")


def show_pulls(name: str, rows: list[dict]) -> None:
    """Print the pulls of each class."""
    print(f"\npulls of merged intensities, {name}")
    print(f"{'':32}{'n':>8}{'mean':>9}{'sd':>9}{f'{WORST:g} %':>9}{'largest':>9}")
    for row in rows:
        spread = _marked(row["sd"], Bar(*PULL_SD))
        worst = _marked(row["worst"], Bar(high=LARGEST_PULL))
        shown = f"{row['n']:>8}{row['mean']:>9.2f}{spread:>9}{worst:>9}{row['largest']:>9.1f}"
        print(f"{row['name']:32}{shown}")
    print(f"{'bar':32}{'':>17}{Bar(*PULL_SD)!s:>12}{Bar(high=LARGEST_PULL)!s:>8}")


# ---------------------------------------------------------------- runs


def of_bed(args: argparse.Namespace, point_spread: str) -> list[Measured]:
    """Return the simulated sets with one point spread beside their truth."""
    results = args.results or args.folder
    found = []
    for seed in range(1, args.sets + 1):
        trial = bed_chain.simulated(args.folder, results, seed, point_spread, args.lattices)
        course = _course(trial, args.first)
        truth = bed_truth.of_simulation(*trial, trial.manifest)
        found.append(measure(trial, course, truth, D_MIN))
    return found


def of_nanobragg(args: argparse.Namespace) -> list[Measured]:
    """Return the stills of another simulator beside their truth."""
    trial = bed_chain.nanobragg(args.nanobragg, args.results or args.folder)
    course = _course(trial, args.first)
    truth = bed_truth.of_nanobragg(args.nanobragg, trial.manifest)
    return [measure(trial, course, truth, D_MIN_NANOBRAGG)]


def _course(trial: Trial, first: str | None) -> Course:
    """Finish a trial, its products from the stage `first` on made anew."""
    if first in trial.words:
        bed_chain.forget(trial, first)
    return bed_chain.finish(trial)


def main() -> None:
    """Make the sets that are not there, run the stages, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="of the images; they are kept")
    parser.add_argument("--results", type=Path, help="folder of the products (default: --folder)")
    parser.add_argument("--sets", type=int, default=20)
    parser.add_argument("--lattices", type=int, default=13, help="of a set")
    parser.add_argument("--psf", choices=("both", *POINT_SPREADS_MM), default="both")
    parser.add_argument("--from", dest="first", choices=CHAIN, help="the stage to start from")
    parser.add_argument("--nanobragg", type=Path, help="folder of its stills, in place of the sets")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.nanobragg:
        kinds = {"nanobragg": of_nanobragg(args)}
    else:
        names = POINT_SPREADS_MM if args.psf == "both" else (args.psf,)
        kinds = {name: of_bed(args, name) for name in names}
    columns = {name: pooled([one.figures for one in sets]) for name, sets in kinds.items()}
    pulls = {name: classes(joined([one.pulls for one in sets])) for name, sets in kinds.items()}
    show_figures(columns, BARS_NANOBRAGG if args.nanobragg else BARS)
    for name, rows in pulls.items():
        show_pulls(name, rows)
    if args.json:
        sets = {name: [one.figures for one in of_kind] for name, of_kind in kinds.items()}
        name = "bed_nanobragg" if args.nanobragg else "bed"
        recorded.save(args.json, name, {"figures": columns, "pulls": pulls, "sets": sets})


if __name__ == "__main__":
    main()
