"""Figures and picture of `index` and `reindex`: what became of the shots, and how well the spots
fit.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spreadflow.errors import Outcome
from spreadflow.products import Index
from spreadflow.recipes.advice import HITS, MOST_REASONS
from spreadflow.report import index_course, index_picture, index_sums, style, truth
from spreadflow.report.checks import Check, Summaries, one_outcome_each
from spreadflow.report.figures import outcome_counts
from spreadflow.report.index_sums import Counted
from spreadflow.report.indexed_run import IndexedRun, concatenated, pixels_mm
from spreadflow.report.style import percent, say

MOST_SHOWN = 5
"""Reasons for which shots were not indexed that the headline tells."""


def make(stage: str, products: list[Path], manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all runs, with a block for each run, and the picture."""
    runs = [IndexedRun(stage, path, manifests) for path in products]
    of_runs = index_sums.counted(runs)
    counted = index_sums.together(of_runs)
    figures = _figures(runs, counted) | {
        **index_course.figures_over_shots(runs),
        "by_panel": index_course.figures_by_panel(counted.sums),
        "by_resolution": index_course.figures_by_resolution(counted),
        "advice": index_course.advice_in_words(stage, runs, counted),
        "runs": {
            run.name: _figures([run], of_run) for run, of_run in zip(runs, of_runs, strict=True)
        },
    }
    return figures, index_picture.draw(stage, runs, counted, figures)


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


def _figures(runs: list[IndexedRun], counted: Counted) -> dict[str, Any]:
    """Return figures over some runs; those that need the truth are None without it. counted: spots
    and reflections of these runs.
    """
    outcome = concatenated(runs, Index.shots.outcome)
    seconds = concatenated(runs, Index.shots.seconds)
    k = concatenated(runs, Index.lattices.k)
    shift_mm = concatenated(runs, Index.lattices.shift_mm)
    domain_ang = concatenated(runs, Index.lattices.domain_estimated_ang)
    share_signal = concatenated(runs, Index.lattices.share_signal)
    significance = concatenated(runs, Index.lattices.significance)
    resolution = concatenated(runs, Index.lattices.d_min)
    psf_fwhm_mm = concatenated(runs, Index.shots.psf_fwhm_mm)[outcome == Outcome.INDEXED]
    n_shots = len(outcome)
    n_hits = int(np.isin(outcome, HITS).sum())
    n_indexed = int((outcome == Outcome.INDEXED).sum())
    figures = {
        "n_shots": n_shots,
        "n_hits": n_hits,
        "n_indexed": n_indexed,
        "index_rate": n_indexed / n_hits if n_hits else None,
        "outcomes": outcome_counts(outcome, Outcome),
        "reasons": _reasons(counted),
        "n_lattices": len(k),
        "n_lattices_second": int((k > 0).sum()),
        "n_lattices_refused": int(concatenated(runs, Index.shots.n_refused).sum()),
        "significance_p5": float(np.percentile(significance, 5)) if len(k) else None,
        "share_signal_p5": float(np.percentile(share_signal, 5)) if len(k) else None,
        "resolution_median_ang": float(np.median(resolution)) if len(k) else None,
        "n_spots": int(concatenated(runs, Index.shots.n_spots).sum()),
        "n_reflections": sum(run.n_reflections for run in runs),
        "n_beyond": int(counted.sums.n_beyond),
        "seconds_per_shot_per_core": float(seconds.sum() / n_shots) if n_shots else None,
        "domain_estimated_ang": float(np.median(domain_ang)) if len(k) else None,
        "psf_fwhm_mm": float(np.median(psf_fwhm_mm)) if len(psf_fwhm_mm) else None,
        "shift_mm": np.median(shift_mm, axis=0) if len(shift_mm) else None,
        "bandwidth": next((run.bandwidth for run in runs if run.bandwidth), None),
    }
    return figures | _residuals(runs) | _against_truth(counted)


def _reasons(counted: Counted) -> list[dict[str, Any]]:
    """Return why shots were not indexed, the most frequent reasons first."""
    return [
        {"outcome": Outcome(outcome).name.lower(), "reason": reason, "n_shots": n_shots}
        for (outcome, reason), n_shots in counted.reasons.most_common(MOST_REASONS)
    ]


def _residuals(runs: list[IndexedRun]) -> dict[str, Any]:
    """Return root mean squares over the reflections of all lattices."""
    n = concatenated(runs, Index.lattices.n_rmsd)
    pixel_mm = pixels_mm(runs)
    figures: dict[str, Any] = {}
    for axis, column in (
        ("radial", Index.lattices.rmsd_radial_mm),
        ("transverse", Index.lattices.rmsd_transverse_mm),
    ):
        square = concatenated(runs, column) ** 2
        counts = (n > 0) & np.isfinite(square)
        for unit, scale in (("mm", 1.0), ("px", pixel_mm[counts])):
            rmsd = None
            if counts.any():
                sum_of_squares = (n[counts] * square[counts] / scale**2).sum()
                rmsd = float(np.sqrt(sum_of_squares / n[counts].sum()))
            figures[f"{axis}_rmsd_{unit}"] = rmsd
    return figures | {"n_rmsd": int(n.sum())}


def _against_truth(counted: Counted) -> dict[str, Any]:
    """Return what only a simulation can tell, pooled over the simulated runs."""
    compared = counted.compared
    if not compared:
        return {"misorientation_deg_median": None}
    figures = truth.orientations([part.match for part in compared])

    counts = [part.counts for part in compared]
    figures |= {name: sum(count[name] for count in counts) for name in counts[0]}
    indices = [part.indices for part in compared]
    figures |= _pooled(indices, "miller_right", "n_spots_indexed")
    recalls = [part.recall for part in compared]
    figures |= _pooled(recalls, "prediction_recall", "n_strong_true")

    n_pulls, total, squares = counted.sums.pulls
    has_pulls = n_pulls > 1
    mean = total / max(n_pulls, 1.0)
    figures["n_pulls"] = int(n_pulls)
    figures["pull_mean"] = float(mean) if has_pulls else None
    figures["pull_sd"] = float(np.sqrt(squares / n_pulls - mean**2)) if has_pulls else None
    return figures


def _pooled(parts: list[dict], share: str, n: str) -> dict[str, Any]:
    """Return the shares of several parts as one, each weighted by its denominator.

    share, n: keys of the share and of its denominator.
    """
    total = sum(part[n] for part in parts)
    counted = sum((part[share] or 0) * part[n] for part in parts)
    return {n: total, share: counted / total if total else None}
