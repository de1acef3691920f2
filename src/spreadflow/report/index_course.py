"""Figures of `index` and `reindex` over the shots as they were taken, over the panels of the
detector, and over the resolution of spots.
"""

from typing import Any

import numpy as np

from spreadflow.errors import Outcome
from spreadflow.models import Detector
from spreadflow.physics import geometry
from spreadflow.products import Index
from spreadflow.recipes import advice
from spreadflow.recipes.advice import HITS, SpotCounts
from spreadflow.report.figures import outcome_counts, root_mean_square
from spreadflow.report.indexed_run import IndexedRun, concatenated, resolution

MOST_BINS = 40
"""Bins of consecutive shots, at most."""

N_SHELLS = 12
"""Shells of resolution in which spots are counted, of equal width in 1/d²."""

EVERY_PX = 8
"""Every such pixel along each edge stands for those around it where pixels are counted."""


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


def figures_by_panel(runs: list[IndexedRun]) -> list[dict[str, Any]]:
    """Return spots and r.m.s.d. of strong reflections for each panel of the detector."""
    pairs = [run.differences_px() for run in runs]
    difference = np.concatenate([of_run for of_run, _ in pairs])
    panel = np.concatenate([of_run for _, of_run in pairs])
    n_panels = max(run.detector.n_panels for run in runs)
    n_spots = np.bincount(concatenated(runs, Index.spots.panel), minlength=n_panels)
    panels = []
    for number in range(n_panels):
        radial, transverse = difference[panel == number].T
        panels.append(
            {
                "panel": number,
                "n_spots": int(n_spots[number]),
                "n_rmsd": len(radial),
                "radial_rmsd_px": root_mean_square(radial),
                "transverse_rmsd_px": root_mean_square(transverse),
            }
        )
    return panels


def figures_by_resolution(runs: list[IndexedRun]) -> list[dict[str, Any]]:
    """Return how many spots there are in shells of resolution, and how many there would be if they
    were spread as pixels are; empty where no energy is known.
    """
    if not np.isfinite(concatenated(runs, Index.shots.mean_energy_ev)).any():
        return []
    of_pixels = np.concatenate([_pixel_resolutions(run) for run in runs]) ** -2.0
    of_spots = np.concatenate([run.spot_resolutions() for run in runs]) ** -2.0
    edges = np.linspace(of_pixels.min(), of_pixels.max(), N_SHELLS + 1)
    n_spots, _ = np.histogram(np.clip(of_spots, edges[0], edges[-1]), edges)
    n_pixels, _ = np.histogram(of_pixels, edges)
    by_area = n_pixels * (n_spots.sum() / max(n_pixels.sum(), 1))
    return [
        {"d_max": low**-0.5, "d_min": high**-0.5, "n_spots": int(n), "n_by_area": float(by_area[i])}
        for i, (low, high, n) in enumerate(zip(edges[:-1], edges[1:], n_spots, strict=True))
    ]


def advice_in_words(stage: str, runs: list[IndexedRun]) -> list[str]:
    """Return what would help, a sentence each, where shots fail rather than are indexed."""
    section = runs[0].section
    counts = outcome_counts(concatenated(runs, Index.shots.outcome), Outcome)
    sentences = []
    for outcome in advice.prevailing(counts):
        name = outcome.name.lower().replace("_", " ")
        sentences.append(f"{name}: {advice.todo(outcome, section, stage)}")
        if outcome == Outcome.NO_LATTICE:
            sentences += advice.of_spots(_without_lattice(runs), section, stage)
    return sentences


def _without_lattice(runs: list[IndexedRun]) -> SpotCounts:
    """Return what the spots of shots without a lattice are like."""
    middle = float(np.median(np.concatenate([_pixel_resolutions(run) for run in runs])))
    totals = np.zeros(4, dtype=int)
    for run in runs:
        product = run.product
        rows = product.shots.outcome[product.spots.shot] == Outcome.NO_LATTICE
        spots = product.spots[rows]
        n_slow, n_fast = run.detector.shape
        rim = np.minimum.reduce([spots.fast, n_fast - spots.fast, spots.slow, n_slow - spots.slow])
        totals += [
            len(rim),
            np.count_nonzero(spots.n_pixels <= run.section.spots.min_pixels),
            np.count_nonzero(run.spot_resolutions()[rows] < middle),
            np.count_nonzero(rim < advice.EDGE_PX),
        ]
    n, n_smallest, n_outer, n_at_edges = totals.tolist()
    return SpotCounts(n, n_smallest, n_outer, n_at_edges, middle)


def _pixel_resolutions(run: IndexedRun) -> np.ndarray:
    """Return d, Å, of a sample of the pixels at the mean energy of a run, within the limits of its
    spots; empty where no energy is known.
    """
    energy = run.product.shots.mean_energy_ev
    is_read = np.isfinite(energy)
    if not is_read.any():
        return np.empty(0)
    d = resolution(_pixel_positions_mm(run.detector), float(energy[is_read].mean()))
    limits = run.section.spots
    inside = (d >= (limits.d_min or 0.0)) & (d <= (limits.d_max or np.inf))
    return d[inside]


def _pixel_positions_mm(detector: Detector) -> np.ndarray:
    """Return (n, 3) where a sample of the pixels is in the lab, mm."""
    n_slow, n_fast = detector.shape
    grid = np.meshgrid(
        np.arange(detector.n_panels),
        np.arange(0.5 * min(EVERY_PX, n_slow), n_slow, EVERY_PX),
        np.arange(0.5 * min(EVERY_PX, n_fast), n_fast, EVERY_PX),
        indexing="ij",
    )
    panel, slow, fast = (values.ravel() for values in grid)
    return geometry.position(detector, panel, fast, slow)
