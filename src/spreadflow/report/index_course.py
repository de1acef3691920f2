"""Figures of `index` and `reindex` over the shots as they were taken, over the panels of the
detector, and over the resolution of spots.
"""

from typing import Any

import numpy as np

from spreadflow.errors import Outcome
from spreadflow.products import Index
from spreadflow.recipes import advice
from spreadflow.recipes.advice import HITS, SpotCounts
from spreadflow.report.figures import outcome_counts
from spreadflow.report.index_sums import Counted, Sums
from spreadflow.report.indexed_run import IndexedRun, concatenated

MOST_BINS = 40
"""Bins of consecutive shots, at most."""


def figures_over_shots(runs: list[IndexedRun]) -> dict[str, Any]:
    """Return rates, spots and energy over bins of consecutive shots, run after run."""
    outcome = concatenated(runs, Index.shots.outcome)
    n_spots = concatenated(runs, Index.shots.n_spots)
    energy = concatenated(runs, Index.shots.mean_energy_ev)
    is_read = np.isfinite(energy)
    n_shots = len(outcome)
    n_hits = int(np.isin(outcome, HITS).sum())
    bins = np.array_split(np.arange(n_shots), min(MOST_BINS, n_shots)) if n_shots else []
    return {
        "hit_rate": n_hits / n_shots if n_shots else None,
        "energy_mean_ev": float(energy[is_read].mean()) if is_read.any() else None,
        "energy_sd_ev": float(energy[is_read].std()) if is_read.any() else None,
        "by_shot": [
            {
                "first": int(rows[0]),
                "last": int(rows[-1]),
                "n_shots": len(rows),
                "n_hits": int(np.isin(outcome[rows], HITS).sum()),
                "n_indexed": int((outcome[rows] == Outcome.INDEXED).sum()),
                "n_spots_median": float(np.median(n_spots[rows])),
                "energy_mean_ev": float(energy[rows][is_read[rows]].mean())
                if is_read[rows].any()
                else None,
            }
            for rows in bins
        ],
    }


def figures_by_panel(sums: Sums) -> list[dict[str, Any]]:
    """Return spots and r.m.s.d. of strong reflections for each panel of the detector."""
    panels = []
    for number, n in enumerate(sums.n_strong):
        radial, transverse = np.sqrt(sums.squares[number] / n) if n else (None, None)
        panels.append(
            {
                "panel": number,
                "n_spots": int(sums.of_panel[number]),
                "n_rmsd": int(n),
                "radial_rmsd_px": radial,
                "transverse_rmsd_px": transverse,
            }
        )
    return panels


def figures_by_resolution(counted: Counted) -> list[dict[str, Any]]:
    """Return how many spots there are in shells of resolution, and how many there would be if they
    were spread as pixels are; empty where no energy is known.
    """
    edges = counted.bins.inverse_square_d
    n_spots = counted.sums.of_shell
    n_pixels = counted.bins.n_pixels
    by_area = n_pixels * (n_spots.sum() / max(n_pixels.sum(), 1))
    return [
        {"d_max": low**-0.5, "d_min": high**-0.5, "n_spots": int(n), "n_by_area": float(by_area[i])}
        for i, (low, high, n) in enumerate(zip(edges[:-1], edges[1:], n_spots, strict=True))
    ]


def advice_in_words(stage: str, runs: list[IndexedRun], counted: Counted) -> list[str]:
    """Return what would help, a sentence each, where shots fail rather than are indexed."""
    section = runs[0].section
    counts = outcome_counts(concatenated(runs, Index.shots.outcome), Outcome)
    n, n_smallest, n_outer, n_at_edges = counted.sums.of_failed.tolist()
    spots = SpotCounts(n, n_smallest, n_outer, n_at_edges, counted.bins.d_middle)
    sentences = []
    for outcome in advice.prevailing(counts):
        name = outcome.name.lower().replace("_", " ")
        sentences.append(f"{name}: {advice.todo(outcome, section, stage)}")
        if outcome == Outcome.NO_LATTICE:
            sentences += advice.of_spots(spots, section, stage)
    return sentences
