"""Figures and picture of `stage2`: its intensities beside those of the merge."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spreadflow.analysis.factors.agreement import agreement
from spreadflow.analysis.merging.merging import Unique
from spreadflow.analysis.merging.statistics import correlation
from spreadflow.errors import SpreadOutcome
from spreadflow.io import store
from spreadflow.io.truth import true_intensities
from spreadflow.products import Stage2
from spreadflow.products.stage2 import Cycles, Merged, Sites
from spreadflow.report import stage2_picture
from spreadflow.report.checks import Check, Summaries, one_outcome_each
from spreadflow.report.figures import median, outcome_counts
from spreadflow.report.runs import manifest_of
from spreadflow.report.style import percent, say

ATTRIBUTES = (
    "converged",
    "mosaicity",
    "sigma_kind",
    "reduced_bytes",
    "n_reductions",
    "warnings",
)
"""Attributes of the product that are figures."""


def make(_stage: str, products: list[Path], manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all runs, and the picture."""
    stage2 = store.read(products[0], Stage2)
    attributes = store.attributes(products[0], Stage2)
    figures = _counts(stage2) | _statistics(stage2) | _cycles(stage2.cycles)
    figures |= {name: attributes[name] for name in ATTRIBUTES if name in attributes}
    figures["sites"] = _sites(stage2.sites, attributes["sites"])
    figures |= _against_truth(stage2.merged, attributes, manifests)
    return figures, stage2_picture.draw(stage2, figures)


def headline(figures: dict[str, Any]) -> list[str]:
    """Return what to know of the figures, one fact a line."""
    lines = [
        f"{say(figures['n_reflections'])} intensities from {say(figures['n_lattices'])} lattices "
        f"in {figures['cycles']} cycles",
        f"CC½ {say(figures['cc_half'])} (merge {say(figures['cc_half_merge'])}), CC ano "
        f"{say(figures['cc_half_ano'])} (merge {say(figures['cc_half_ano_merge'])}), "
        f"⟨I/σ⟩ {say(figures['i_over_sigma'])} (merge {say(figures['i_over_sigma_merge'])})",
    ]
    peaks = [
        f"{site} {say(heights['height'])} σ (merge {say(heights['height_merge'])})"
        for site, heights in figures["sites"].items()
    ]
    if peaks:
        lines.append(f"anomalous peaks: {', '.join(peaks)}")
    if figures["r_f"] is not None:
        lines.append(
            f"against the truth: R(F) {percent(_rounded(figures['r_f']))} (merge "
            f"{percent(_rounded(figures['r_f_merge']))}), anomalous differences CC "
            f"{say(figures['cc_ano'])} (merge {say(figures['cc_ano_merge'])}); sd of pulls "
            f"{say(figures['pull_sd'])}"
        )
    lines.append(f"{say(figures['seconds_per_lattice'])} s per lattice, cycle and core")
    if not figures["converged"]:
        lines.append(f"not converged: the last cycle moved I by {say(figures['change'])} σ")
    return lines


def checks(summaries: Summaries) -> list[Check]:
    """Return the counts that must agree."""
    if "stage2" not in summaries:
        return []
    figures = summaries["stage2"]
    of_stage = [one_outcome_each("lattice of stage2", figures, "n_lattices_in")]
    if "pack" in summaries:
        n_packed = summaries["pack"]["n_lattices"]
        statement = "each packed lattice reaches stage2"
        of_stage.append(Check(statement, n_packed, figures["n_lattices_in"]))
    return of_stage


def _rounded(share: float) -> float:
    """Return a share to a hundredth of a per cent."""
    return round(share, 4)


def _counts(stage2: Stage2) -> dict[str, Any]:
    """Return the numbers of lattices and reflections."""
    outcome = stage2.lattices.outcome
    used = stage2.lattices[outcome == SpreadOutcome.USED]
    n = stage2.merged.n
    return {
        "n_lattices_in": len(outcome),
        "n_lattices": len(used),
        "outcomes": outcome_counts(outcome, SpreadOutcome),
        "n_reflections": len(n),
        "n_undetermined": int(stage2.cycles.n_undetermined[-1]),
        "multiplicity": float(n.mean()) if len(n) else None,
        "seconds_per_lattice": median(used.seconds),
        "model_error": median(used.model_error),
        "sigma_z": median(used.sigma_z),
    }


def _statistics(stage2: Stage2) -> dict[str, Any]:
    """Return how well half sets agree, and how strong intensities are, beside the merge."""
    half = stage2.merged.half
    both = np.isfinite(half).all(axis=1)
    figures: dict[str, Any] = {
        "cc_half": _finite(correlation(*half[both].T)),
        "n_pairs": int(both.sum()),
    }
    of_merge = stage2.merge_bins
    for suffix, bins in (("", stage2.bins), ("_merge", of_merge)):
        n = bins.n_measured
        strength = np.nan_to_num(bins.i_over_sigma)
        figures[f"i_over_sigma{suffix}"] = float(n @ strength / n.sum()) if n.sum() else None
        figures[f"cc_half_ano{suffix}"] = _mean(bins.cc_ano, bins.n_pairs_ano)
        figures[f"n_measured{suffix}"] = int(n.sum())
    figures["cc_half_merge"] = _mean(of_merge.cc_half, of_merge.n_pairs)
    return figures


def _mean(values: np.ndarray, n_pairs: np.ndarray) -> float | None:
    """Return the mean of a column of bins by its number of pairs; None where there are none."""
    n = np.where(np.isfinite(values), n_pairs, 0)
    return float(n @ np.nan_to_num(values) / n.sum()) if n.sum() else None


def _finite(value: float) -> float | None:
    """Return a number, or None in place of NaN."""
    return value if np.isfinite(value) else None


def _cycles(cycles: Cycles) -> dict[str, Any]:
    """Return the figures of the last cycle, and those of all."""
    names = (
        "change",
        "spread",
        "scatter",
        "held_out",
        "held_out_before",
        "n_cells",
        "eta_deg",
        "log_factor",
        "seconds",
    )
    columns = cycles.as_dict()
    rows = [
        {name: _finite(float(columns[name][row])) for name in names} for row in range(len(cycles))
    ]
    kept = ("change", "spread", "scatter", "n_cells", "eta_deg", "log_factor")
    last = {name: rows[-1][name] for name in kept}
    n_lattices = cycles.n_lattices[-1]
    seconds = rows[-1]["seconds"]
    return {
        "cycles": len(rows),
        "of_cycles": rows,
        **last,
        "seconds_solve_per_lattice": None if seconds is None else seconds / n_lattices,
    }


def _sites(sites: Sites, names: list[str]) -> dict[str, dict]:
    """Return the heights of the anomalous map at each site, by name."""
    return {
        name: {column: _finite(float(rows[row])) for column, rows in sites.as_dict().items()}
        for row, name in enumerate(names[: len(sites)])
    }


NO_TRUTH = dict.fromkeys(("r_f", "r_f_merge", "cc_ano", "cc_ano_merge", "n_true", "pull_sd"))
"""Figures of runs that were not simulated."""


def _against_truth(
    merged: Merged, attributes: dict[str, Any], manifests: list[Path]
) -> dict[str, Any]:
    """Return how near the intensities, and those of the merge, are to the true ones, on the
    reflections that both have; None where runs were not simulated.
    """
    manifest = manifest_of(attributes["runs"][0], manifests)
    true = true_intensities(manifest) if manifest else None
    if true is None or not len(true.hkl):
        return dict(NO_TRUTH)
    unique = Unique(np.array(attributes["cell"]), attributes["space_group"], attributes["d_min"])
    reference = _placed(unique, true.hkl, true.f_squared)
    sign = np.where(merged.friedel < 0, -1, 1)[:, None]
    hkl = sign * merged.hkl
    intensity, sigma, merge, merge_sigma = (
        _placed(unique, hkl, column)
        for column in (merged.intensity, merged.sigma, merged.merge, merged.merge_sigma)
    )
    is_common = np.isfinite([intensity, sigma, merge, merge_sigma]).all(axis=0)
    is_common &= np.isfinite(reference)
    if is_common.sum() < 3:
        return dict(NO_TRUTH)

    ours = agreement(unique, intensity, sigma, reference, is_common)
    of_merge = agreement(unique, merge, merge_sigma, reference, is_common)
    return {
        "r_f": ours.r_f,
        "r_f_merge": of_merge.r_f,
        "cc_ano": _finite(ours.cc_ano),
        "cc_ano_merge": _finite(of_merge.cc_ano),
        "n_true": ours.n,
        "pull_sd": float(np.sqrt(np.mean(np.square(ours.pull_sd)))),
    }


def _placed(unique: Unique, hkl: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return a column (n,) of indices (n, 3) in the rows of `unique`, NaN in the others."""
    values = np.full(len(unique), np.nan)
    row = unique.rows(hkl.astype(np.int32))
    is_unique = row >= 0
    values[row[is_unique]] = column[is_unique]
    return values
