"""Figures and picture of `index` and `reindex`: what became of the shots, and how well the spots
fit.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spreadflow.errors import Outcome
from spreadflow.io import images, store
from spreadflow.io.truth import read_truth
from spreadflow.models import Detector, ReflectionFlag
from spreadflow.physics import geometry
from spreadflow.recipes.shot import MOST_REASONS, reasons_of
from spreadflow.report import style, truth
from spreadflow.report.checks import Check, Summaries, one_outcome_each
from spreadflow.report.figures import columns, outcome_counts
from spreadflow.report.runs import manifest_of
from spreadflow.report.style import percent, say

HITS = (Outcome.INDEXED, Outcome.NO_LATTICE, Outcome.OVERFLOW)
"""Outcomes of shots with enough spots for a crystal."""

MOST_SHOWN = 5
"""Reasons for which shots were not indexed that the headline tells."""


def make(stage: str, products: list[Path], manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all runs, with a block for each run, and the picture."""
    runs = [IndexedRun(stage, path, manifests) for path in products]
    figures = _figures(runs) | {"runs": {run.name: _figures([run]) for run in runs}}
    return figures, _picture(stage, runs, figures)


def headline(figures: dict[str, Any]) -> list[str]:
    """Return what to know of the figures, one fact a line."""
    radial = f"{say(figures['radial_rmsd_px'], 2)} px radial"
    transverse = f"{say(figures['transverse_rmsd_px'], 2)} px transverse"
    lines = [
        f"{say(figures['n_shots'])} shots: {style.outcomes(figures)}",
        f"{say(figures['n_lattices'])} lattices, of which {say(figures['n_lattices_second'])} "
        f"second or third in their shot; {say(figures['n_lattices_refused'])} refused, without "
        "signal where they predict it",
        f"r.m.s.d. {radial}, {transverse} over {say(figures['n_rmsd'])} reflections",
        f"{say(figures['seconds_per_shot_per_core'])} s per shot and core",
        *(
            f"{say(cause['n_shots'])} {cause['outcome'].replace('_', ' ')}: {cause['reason']}"
            for cause in figures["reasons"][:MOST_SHOWN]
        ),
    ]
    if figures["misorientation_deg_median"] is None:
        return lines
    return [
        *lines,
        f"misorientation {say(figures['misorientation_deg_median'], 2)}° in the median, "
        f"{say(figures['misorientation_deg_p95'], 2)}° at 95 %; "
        f"{percent(figures['miller_right'])} of the Miller indices right",
        f"{figures['n_singles_indexed']} of {figures['n_singles']} single hits right, "
        f"both lattices in {figures['n_doubles_both']} of {figures['n_doubles']} double hits, "
        f"a lattice on {figures['n_blanks_with_lattice']} of {figures['n_blanks']} blanks",
        f"pulls of the photons {say(figures['pull_mean'], 2)} ± {say(figures['pull_sd'], 3)}; "
        f"{percent(figures['prediction_recall'])} of the reflections above 3 σ predicted",
    ]


def checks(summaries: Summaries) -> list[Check]:
    """Return the counts that must agree."""
    return [
        one_outcome_each(f"shot of {stage}", summaries[stage], "n_shots")
        for stage in ("index", "reindex")
        if stage in summaries
    ]


class IndexedRun:
    """The product of one run and, where it was simulated, its truth."""

    def __init__(self, stage: str, product: Path, manifests: list[Path]):
        self.table = store.read(product, stage)
        attributes = store.attributes(product, stage)
        self.name = str(attributes["run"])
        self.d_min = float(attributes["config"]["d_min"])
        self.bandwidth = attributes.get("bandwidth")
        self.detector = Detector.from_json(attributes["detector"])
        self.manifest = manifest_of(self.name, manifests)
        simulated = read_truth(self.manifest) if self.manifest else None
        self.matched: truth.MatchedRun | None = None
        if simulated is not None:
            match = truth.match(self.table, simulated, str(attributes["config"]["space_group"]))
            self.matched = truth.MatchedRun(self.table, simulated, match)


def _figures(runs: list[IndexedRun]) -> dict[str, Any]:
    """Return figures over some runs; those that need the truth are None without it."""
    outcome = _concatenated(runs, "shots/outcome")
    seconds = _concatenated(runs, "shots/seconds")
    k = _concatenated(runs, "lattices/k")
    shift_mm = _concatenated(runs, "lattices/shift_mm")
    domain_ang = _concatenated(runs, "lattices/domain_estimated_ang")
    share_signal = _concatenated(runs, "lattices/share_signal")
    significance = _concatenated(runs, "lattices/significance")
    resolution = _concatenated(runs, "lattices/d_min")
    flags = _concatenated(runs, "reflections/flags")
    psf_fwhm_mm = _concatenated(runs, "shots/psf_fwhm_mm")[outcome == Outcome.INDEXED]
    n_shots = len(outcome)
    n_hits = int(np.isin(outcome, HITS).sum())
    n_indexed = int((outcome == Outcome.INDEXED).sum())
    figures = {
        "n_shots": n_shots,
        "n_hits": n_hits,
        "n_indexed": n_indexed,
        "index_rate": n_indexed / n_hits if n_hits else None,
        "outcomes": outcome_counts(outcome, Outcome),
        "reasons": _reasons(runs),
        "n_lattices": len(k),
        "n_lattices_second": int((k > 0).sum()),
        "n_lattices_refused": int(_concatenated(runs, "shots/n_refused").sum()),
        "significance_p5": float(np.percentile(significance, 5)) if len(k) else None,
        "share_signal_p5": float(np.percentile(share_signal, 5)) if len(k) else None,
        "resolution_median_ang": float(np.median(resolution)) if len(k) else None,
        "n_spots": int(sum(run.table["shots/n_spots"].sum() for run in runs)),
        "n_reflections": len(flags),
        "n_beyond": int((flags & ReflectionFlag.BEYOND != 0).sum()),
        "seconds_per_shot_per_core": float(seconds.sum() / n_shots) if n_shots else None,
        "domain_estimated_ang": float(np.median(domain_ang)) if len(k) else None,
        "psf_fwhm_mm": float(np.median(psf_fwhm_mm)) if len(psf_fwhm_mm) else None,
        "shift_mm": np.median(shift_mm, axis=0) if len(shift_mm) else None,
        "bandwidth": next((run.bandwidth for run in runs if run.bandwidth), None),
    }
    return figures | _residuals(runs) | _against_truth(runs)


def _reasons(runs: list[IndexedRun]) -> list[dict[str, Any]]:
    """Return why shots were not indexed, the most frequent reasons first."""
    reasons = reasons_of(
        _concatenated(runs, "shots/outcome"), _concatenated(runs, "shots/reason")
    ).most_common(MOST_REASONS)
    return [
        {"outcome": Outcome(outcome).name.lower(), "reason": reason, "n_shots": n_shots}
        for (outcome, reason), n_shots in reasons
    ]


def _concatenated(runs: list[IndexedRun], column: str) -> np.ndarray:
    """Return a column of all runs, one after another."""
    return np.concatenate([run.table[column] for run in runs])


def _residuals(runs: list[IndexedRun]) -> dict[str, Any]:
    """Return root mean squares over the reflections of all lattices."""
    n = _concatenated(runs, "lattices/n_rmsd")
    pixel_mm = np.concatenate(
        [np.full(len(run.table["lattices/k"]), run.detector.pixel_mm) for run in runs]
    )
    figures: dict[str, Any] = {}
    for axis in ("radial", "transverse"):
        square = _concatenated(runs, f"lattices/rmsd_{axis}_mm") ** 2
        counts = (n > 0) & np.isfinite(square)
        for unit, scale in (("mm", 1.0), ("px", pixel_mm[counts])):
            rmsd = None
            if counts.any():
                sum_of_squares = (n[counts] * square[counts] / scale**2).sum()
                rmsd = float(np.sqrt(sum_of_squares / n[counts].sum()))
            figures[f"{axis}_rmsd_{unit}"] = rmsd
    return figures | {"n_rmsd": int(n.sum())}


def _against_truth(runs: list[IndexedRun]) -> dict[str, Any]:
    """Return what only a simulation can tell, pooled over the simulated runs."""
    simulated = [(run, run.matched) for run in runs if run.matched is not None]
    if not simulated:
        return {"misorientation_deg_median": None}
    matched_runs = [matched for _, matched in simulated]
    figures = truth.orientations([matched.match for matched in matched_runs])

    counts = [truth.counts(matched) for matched in matched_runs]
    figures |= {name: sum(count[name] for count in counts) for name in counts[0]}
    indices = [truth.indices(matched) for matched in matched_runs]
    figures |= _pooled(indices, "miller_right", "n_spots_indexed")
    recalls = [truth.recall(matched, run.d_min, run.detector.shape) for run, matched in simulated]
    figures |= _pooled(recalls, "prediction_recall", "n_strong_true")

    pulls = np.concatenate([truth.pulls(matched) for matched in matched_runs])
    has_pulls = len(pulls) > 1
    figures["n_pulls"] = len(pulls)
    figures["pull_mean"] = float(pulls.mean()) if has_pulls else None
    figures["pull_sd"] = float(pulls.std()) if has_pulls else None
    return figures


def _pooled(parts: list[dict], share: str, n: str) -> dict[str, Any]:
    """Return the shares of several runs as one, each weighted by its denominator.

    share, n: keys of the share and of its denominator.
    """
    total = sum(part[n] for part in parts)
    counted = sum((part[share] or 0) * part[n] for part in parts)
    return {n: total, share: counted / total if total else None}


# ---------------------------------------------------------------- the picture


def _picture(stage: str, runs: list[IndexedRun], figures: dict) -> Figure:
    """Draw one still with its predictions; outcomes, residuals, misorientation or mosaicity."""
    page = style.page(
        f"{stage}: from spots to lattices",
        f"{say(figures['n_indexed'])} of {say(figures['n_hits'])} hits indexed · "
        f"{say(figures['n_lattices'])} lattices · "
        f"r.m.s.d. {say(figures['radial_rmsd_px'], 2)} px radial, "
        f"{say(figures['transverse_rmsd_px'], 2)} px transverse over "
        f"{say(figures['n_rmsd'])} reflections · "
        f"{say(figures['seconds_per_shot_per_core'])} s per shot and core",
        14.5,
    )
    axes = page.subplot_mosaic(
        [["still", "still", "outcomes", "scatter"], ["still", "still", "rmsd", "truth"]],
        width_ratios=[1, 1, 0.9, 0.9],
    )
    _still(axes["still"], runs)
    _outcomes(axes["outcomes"], figures)
    _scatter(axes["scatter"], runs)
    _rmsd(axes["rmsd"], runs)
    _truth(axes["truth"], runs)
    return page


def _outcomes(axes: Any, figures: dict) -> None:
    """Draw how often each outcome happened."""
    counts = {name: n for name, n in figures["outcomes"].items() if n}
    special = {"indexed": style.GREEN, "no_lattice": style.ORANGE}
    colors = [special.get(name, style.GREY) for name in counts]
    names = [name.replace("_", " ") for name in counts]
    style.bars(axes, names, list(counts.values()), colors)
    axes.set_title(f"how {say(figures['n_shots'])} shots ended")


def _still(axes: Any, runs: list[IndexedRun]) -> None:
    """Draw the shot whose first lattice explains most spots, with the predictions of all its
    lattices as rings.
    """
    best = max(runs, key=lambda run: run.table["lattices/n_indexed"].max(initial=0))
    table = best.table
    if best.manifest is None:
        style.empty(axes, "images not given")
        return
    if not len(table["lattices/k"]):
        style.empty(axes, "no lattice")
        return
    row = int(table["lattices/shot"][table["lattices/n_indexed"].argmax()])
    shot = images.Source(best.manifest).read(row)
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


def rings(axes: Any, run: IndexedRun, row: int, size: float = 22.0) -> None:
    """Draw a ring around each predicted reflection of all lattices of a shot; weak ones are
    smaller.

    axes: in mm. row: of the shot. size: of a ring, square points.
    """
    table = run.table
    colors = (style.RED, style.PURPLE, style.ORANGE)
    for number, lattice in enumerate(np.flatnonzero(table["lattices/shot"] == row)):
        in_lattice = table["reflections/lattice"] == lattice
        intensity = table["reflections/intensity"][in_lattice]
        strong = intensity > 3 * table["reflections/sigma"][in_lattice]
        panel = table["reflections/panel"][in_lattice]
        fast = table["reflections/fast"][in_lattice]
        slow = table["reflections/slow"][in_lattice]
        x, y, _ = geometry.position(run.detector, panel, fast, slow).T
        color = colors[number % len(colors)]
        look: dict[str, Any] = {"facecolors": "none", "edgecolors": color}
        axes.scatter(x[strong], y[strong], s=size, linewidths=0.8, label="I > 3 σ", **look)
        axes.scatter(x[~strong], y[~strong], s=0.36 * size, linewidths=0.3, label="weaker", **look)


def _differences(run: IndexedRun) -> np.ndarray:
    """Return (n, 2) observed − predicted of strong reflections, radial and transverse, px."""
    table = run.table
    is_observed = np.isfinite(table["reflections/fast_obs"]) & (table["reflections/flags"] == 0)
    reflections = columns(table, "reflections", is_observed)
    fast = reflections["fast"]
    slow = reflections["slow"]
    fast_difference = reflections["fast_obs"] - fast
    slow_difference = reflections["slow_obs"] - slow
    difference = np.stack([fast_difference, slow_difference], axis=1)
    axes = geometry.radial_axes(run.detector, reflections["panel"], fast, slow)
    return np.einsum("nij,nj->ni", axes, difference)


def _scatter(axes: Any, runs: list[IndexedRun]) -> None:
    """Draw the distances of observed from predicted centroids, and their median."""
    axes.set_title("observed − predicted, px")
    difference = np.concatenate([_differences(run) for run in runs])
    if not len(difference):
        style.empty(axes, "no reflection with I ≥ 5 σ")
        return
    limit = max(1.0, float(np.percentile(np.abs(difference), 98)))
    opacity = max(0.08, min(0.5, 800 / len(difference)))
    axes.axhline(0, color=style.PALE, lw=0.8)
    axes.axvline(0, color=style.PALE, lw=0.8)
    axes.plot(*difference.T, ".", ms=2.5, alpha=opacity, color=style.BLUE, mew=0)
    axes.plot(*np.median(difference, axis=0), "+", ms=12, mew=2, color=style.RED, label="median")
    axes.set(
        xlim=(-limit, limit),
        ylim=(-limit, limit),
        aspect="equal",
        xlabel="radial",
        ylabel="transverse",
    )
    axes.legend(loc="upper right")


def _rmsd(axes: Any, runs: list[IndexedRun]) -> None:
    """Draw histograms of the lattices' r.m.s.d."""
    for axis, color in (("radial", style.ORANGE), ("transverse", style.BLUE)):
        values = [run.table[f"lattices/rmsd_{axis}_mm"] / run.detector.pixel_mm for run in runs]
        style.histogram(axes, np.concatenate(values), axis, color)
    axes.set(title="r.m.s.d. of each lattice", xlabel="px", ylabel="lattices")
    axes.legend(loc="upper right")


def _truth(axes: Any, runs: list[IndexedRun]) -> None:
    """Draw the misorientation where the truth is known, else the mosaicity."""
    matches = [run.matched.match for run in runs if run.matched is not None]
    if matches:
        angle = np.rad2deg(np.concatenate([match.angle for match in matches]))
        style.histogram(axes, angle, "misorientation", style.GREEN)
        axes.set(title="misorientation from truth", xlabel="degrees", ylabel="lattices")
        return
    eta = np.rad2deg(_concatenated(runs, "lattices/eta_rad"))
    style.histogram(axes, eta, "mosaic spread", style.GREEN)
    axes.set(title="mosaic spread η of each lattice", xlabel="degrees", ylabel="lattices")
