"""Figures and picture of `index` and `reindex`: what became of the shots, and how well the spots
fit.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spreadflow.errors import Outcome
from spreadflow.io import images as io_images
from spreadflow.io import store
from spreadflow.models import Detector
from spreadflow.physics import geometry
from spreadflow.report import style, truth

HITS = (Outcome.INDEXED, Outcome.NO_LATTICE, Outcome.OVERFLOW)
"""Enough spots for a crystal."""


def make(stage: str, products: list[Path], manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all runs, a block for each run, and the page."""
    runs = [Run(stage, path, manifests) for path in products]
    told = figures(runs) | {"runs": {run.name: figures([run]) for run in runs}}
    return told, picture(stage, runs, told)


class Run:
    """One product of the stage with, where it was simulated, its truth."""

    def __init__(self, stage: str, product: Path, manifests: list[Path]):
        self.table, self.told = store.read(product, stage), store.attributes(product, stage)
        self.name, self.space_group = str(self.told["run"]), str(self.told["config"]["space_group"])
        self.detector = Detector.from_json(self.told["detector"])
        self.manifest = of_run(self.name, manifests)
        simulated = io_images.truth(self.manifest) if self.manifest else None
        self.pair: truth.Pair | None = None
        if simulated is not None:
            match = truth.match(self.table, simulated, self.space_group)
            self.pair = truth.Pair(self.table, simulated, match)


def of_run(name: str, manifests: list[Path]) -> Path | None:
    """Return the manifest of a run among those given."""
    return next((path for path in manifests if io_images.read_manifest(path).run == name), None)


def figures(runs: list[Run]) -> dict[str, Any]:
    """Return figures over some runs; those that need truth are None without it."""
    outcome = np.concatenate([run.table["shots/outcome"] for run in runs])
    seconds = np.concatenate([run.table["shots/seconds"] for run in runs])
    k = np.concatenate([run.table["lattices/k"] for run in runs])
    n_shots = len(outcome)
    n_hits = int(np.isin(outcome, HITS).sum())
    n_indexed = int((outcome == Outcome.INDEXED).sum())
    out = {
        "n_shots": n_shots,
        "n_hits": n_hits,
        "n_indexed": n_indexed,
        "index_rate": n_indexed / n_hits if n_hits else None,
        "outcomes": {end.name.lower(): int((outcome == end).sum()) for end in Outcome},
        "n_lattices": len(k),
        "n_lattices_second": int((k > 0).sum()),
        "n_spots": int(sum(run.table["shots/n_spots"].sum() for run in runs)),
        "n_reflections": int(sum(len(run.table["reflections/d"]) for run in runs)),
        "seconds_per_shot_per_core": float(seconds.sum() / n_shots) if n_shots else None,
    }
    return out | _residuals(runs) | _against_truth(runs)


def _residuals(runs: list[Run]) -> dict[str, Any]:
    """Return root mean squares over the reflections of all lattices."""
    n = np.concatenate([run.table["lattices/n_rmsd"] for run in runs])
    pixel = np.concatenate(
        [np.full(len(run.table["lattices/k"]), run.detector.pixel_mm) for run in runs]
    )
    out: dict[str, Any] = {}
    for axis in ("radial", "transverse"):
        square = np.concatenate([run.table[f"lattices/rmsd_{axis}_mm"] for run in runs]) ** 2
        counts = (n > 0) & np.isfinite(square)
        for unit, scale in (("mm", 1.0), ("px", pixel[counts])):
            sum_of_squares = (n[counts] * square[counts] / scale**2).sum()
            out[f"{axis}_rmsd_{unit}"] = (
                float(np.sqrt(sum_of_squares / n[counts].sum())) if counts.any() else None
            )
    return out | {"n_rmsd": int(n.sum())}


def _against_truth(runs: list[Run]) -> dict[str, Any]:
    """Return what only a simulation can tell, pooled over the simulated runs."""
    known = [(run, run.pair) for run in runs if run.pair is not None]
    if not known:
        return {"misorientation_deg_median": None}
    match = truth.Match(
        *(
            np.concatenate([getattr(pair.match, f) for _, pair in known])
            for f in truth.Match._fields
        )
    )
    per_run = [truth.counts(pair) for _, pair in known]
    out = truth.orientations(match) | {
        name: sum(counts[name] for counts in per_run) for name in per_run[0]
    }
    out |= _pooled([truth.indices(pair) for _, pair in known], "miller_right", "n_spots_indexed")
    recalls = [
        truth.recall(pair, float(run.told["config"]["d_min"]), run.detector.shape)
        for run, pair in known
    ]
    out |= _pooled(recalls, "prediction_recall", "n_strong_true")
    pulls = np.concatenate([truth.pulls(pair) for _, pair in known])
    some = len(pulls) > 1
    out["n_pulls"] = len(pulls)
    out["pull_mean"], out["pull_sd"] = (
        (float(pulls.mean()), float(pulls.std())) if some else (None, None)
    )
    return out


def _pooled(parts: list[dict], share: str, n: str) -> dict[str, Any]:
    """Return shares of several runs as one, each weighted by its denominator."""
    total = sum(part[n] for part in parts)
    return {
        n: total,
        share: sum((part[share] or 0) * part[n] for part in parts) / total if total else None,
    }


# ---------------------------------------------------------------- the page


def picture(stage: str, runs: list[Run], told: dict) -> Figure:
    """Return one still with its predictions; outcomes, residuals, misorientation or mosaic
    spread.
    """
    px = (
        f"{style.say(told['radial_rmsd_px'], 2)} px radial, "
        f"{style.say(told['transverse_rmsd_px'], 2)} px transverse"
    )
    subtitle = (
        f"{style.say(told['n_indexed'])} of {style.say(told['n_hits'])} hits indexed · "
        f"{style.say(told['n_lattices'])} lattices · r.m.s.d. {px} over "
        f"{style.say(told['n_rmsd'])} reflections · "
        f"{style.say(told['seconds_per_shot_per_core'])} s per shot and core"
    )
    page = style.page(f"{stage}: from spots to lattices", subtitle, 14.5)
    axes = page.subplot_mosaic(
        [["still", "still", "outcomes", "scatter"], ["still", "still", "rmsd", "truth"]],
        width_ratios=[1, 1, 0.9, 0.9],
    )
    _still(axes["still"], runs)
    ends = {name: n for name, n in told["outcomes"].items() if n}
    colors = [
        style.GREEN if name == "indexed" else style.ORANGE if name == "no_lattice" else style.GREY
        for name in ends
    ]
    style.bars(
        axes["outcomes"], [name.replace("_", " ") for name in ends], list(ends.values()), colors
    )
    axes["outcomes"].set_title(f"how {style.say(told['n_shots'])} shots ended")
    _scatter(axes["scatter"], runs)
    _rmsd(axes["rmsd"], runs)
    _truth(axes["truth"], runs)
    return page


def _still(axes: Any, runs: list[Run]) -> None:
    """Draw the shot whose first lattice explains most spots, predictions of all its lattices as
    rings.
    """
    best = max(runs, key=lambda run: run.table["lattices/n_indexed"].max(initial=0))
    t = best.table
    if best.manifest is None or not len(t["lattices/k"]):
        style.empty(axes, "no lattice" if best.manifest else "images not given")
        return
    row = int(t["lattices/shot"][t["lattices/n_indexed"].argmax()])
    shot = io_images.Source(best.manifest).read(row)
    if isinstance(shot, Outcome):
        style.empty(axes, f"shot {row}: {shot.name.lower()}")
        return
    style.still(axes, shot, best.detector)
    rings(axes, best, row)
    axes.legend(
        loc="lower right",
        fontsize=7.5,
        frameon=True,
        framealpha=0.8,
        edgecolor="none",
        title="predicted",
    )
    axes.set_title(f"run {best.name}, shot {row}: photons and predictions")


def rings(axes: Any, run: Run, row: int, size: float = 22.0) -> None:
    """Draw predicted reflections of all lattices of a shot around where they are expected, mm; weak
    ones smaller.
    """
    t = run.table
    for n, lattice in enumerate(np.flatnonzero(t["lattices/shot"] == row)):
        mine = t["reflections/lattice"] == lattice
        strong = t["reflections/intensity"][mine] > 3 * t["reflections/sigma"][mine]
        columns = (t[f"reflections/{name}"][mine] for name in ("panel", "fast", "slow"))
        x, y, _ = geometry.position(run.detector, *columns).T
        look: dict[str, Any] = {
            "facecolors": "none",
            "edgecolors": (style.RED, style.PURPLE, style.ORANGE)[n % 3],
        }
        axes.scatter(x[strong], y[strong], s=size, linewidths=0.8, label="I > 3 σ", **look)
        axes.scatter(x[~strong], y[~strong], s=0.36 * size, linewidths=0.3, label="weaker", **look)


def _differences(run: Run) -> np.ndarray:
    """Return (n, 2) observed − predicted of strong reflections, radial and transverse, px."""
    t = run.table
    seen = np.isfinite(t["reflections/fast_obs"]) & (t["reflections/flags"] == 0)
    panel, fast, slow = (t[f"reflections/{name}"][seen] for name in ("panel", "fast", "slow"))
    moved = np.stack(
        [t["reflections/fast_obs"][seen] - fast, t["reflections/slow_obs"][seen] - slow], axis=1
    )
    return np.einsum("nij,nj->ni", geometry.radial_axes(run.detector, panel, fast, slow), moved)


def _scatter(axes: Any, runs: list[Run]) -> None:
    axes.set_title("observed − predicted, px")
    difference = np.concatenate([_differences(run) for run in runs])
    if not len(difference):
        style.empty(axes, "no reflection with I ≥ 5 σ")
        return
    limit = max(1.0, float(np.percentile(np.abs(difference), 98)))
    axes.axhline(0, color=style.PALE, lw=0.8)
    axes.axvline(0, color=style.PALE, lw=0.8)
    axes.plot(
        *difference.T,
        ".",
        ms=2.5,
        alpha=max(0.08, min(0.5, 800 / len(difference))),
        color=style.BLUE,
        mew=0,
    )
    axes.plot(*np.median(difference, axis=0), "+", ms=12, mew=2, color=style.RED, label="median")
    axes.set(
        xlim=(-limit, limit),
        ylim=(-limit, limit),
        aspect="equal",
        xlabel="radial",
        ylabel="transverse",
    )
    axes.legend(loc="upper right")


def _rmsd(axes: Any, runs: list[Run]) -> None:
    for axis, color in (("radial", style.ORANGE), ("transverse", style.BLUE)):
        values = [run.table[f"lattices/rmsd_{axis}_mm"] / run.detector.pixel_mm for run in runs]
        style.histogram(axes, np.concatenate(values), axis, color)
    axes.set(title="r.m.s.d. of each lattice", xlabel="px", ylabel="lattices")
    axes.legend(loc="upper right")


def _truth(axes: Any, runs: list[Run]) -> None:
    """Draw misorientation where truth is known, else the mosaic spread."""
    matches = [run.pair.match for run in runs if run.pair is not None]
    if matches:
        style.histogram(
            axes,
            np.rad2deg(np.concatenate([m.angle for m in matches])),
            "misorientation",
            style.GREEN,
        )
        axes.set(title="misorientation from truth", xlabel="degrees", ylabel="lattices")
        return
    eta = np.rad2deg(np.concatenate([run.table["lattices/eta_rad"] for run in runs]))
    style.histogram(axes, eta, "mosaic spread", style.GREEN)
    axes.set(title="mosaic spread η of each lattice", xlabel="degrees", ylabel="lattices")
