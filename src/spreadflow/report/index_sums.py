"""Sums over the spots and reflections of `index` and `reindex`. They are formed part by part: the
parts of a run are never in memory together.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from spreadflow.errors import Outcome
from spreadflow.models import Detector, ReflectionFlag
from spreadflow.physics import geometry
from spreadflow.products import Index
from spreadflow.products.index import Reflections, Spots
from spreadflow.recipes import advice
from spreadflow.report import laboratory, truth
from spreadflow.report.drawn import are_drawn
from spreadflow.report.indexed_run import IndexedRun, resolution
from spreadflow.report.runs import whole_truth

N_SHELLS = 12
"""Shells of resolution in which spots are counted, of equal width in 1/d²."""

N_ACROSS = 120
"""Bins along the longer edge of the detector in which spots are counted."""

EVERY_PX = 8
"""Every such pixel along each edge stands for those around it where pixels are counted."""

COUNTED = (
    Index.shots.outcome,
    Index.shots.reason,
    Index.shots.mean_energy_ev,
    Index.spots.shot,
    Index.spots.panel,
    Index.spots.fast,
    Index.spots.slow,
    Index.spots.n_pixels,
    Index.reflections.lattice,
    Index.reflections.panel,
    Index.reflections.fast,
    Index.reflections.slow,
    Index.reflections.fast_obs,
    Index.reflections.slow_obs,
    Index.reflections.flags,
)
"""Columns that sums are formed of."""


class Bins(NamedTuple):
    """Bins of spots that are the same for all runs."""

    n_panels: int
    """of the detector with most"""
    inverse_square_d: np.ndarray
    """(`N_SHELLS` + 1,) edges of the shells, 1/Å²; empty where no energy is known"""
    n_pixels: np.ndarray
    """(shell,) of a sample of the pixels of all runs"""
    d_middle: float
    """resolution that half of these pixels are beyond, Å; NaN where no energy is known"""
    x_mm: np.ndarray
    """edges of bins across the detector of the last run, mm"""
    y_mm: np.ndarray
    """the same upwards"""


class Sums(NamedTuple):
    """Sums over the spots and strong reflections of some parts."""

    of_panel: np.ndarray
    """(panel,) spots"""
    of_shell: np.ndarray
    """(shell,) spots"""
    of_place: np.ndarray
    """(x, y) spots"""
    of_failed: np.ndarray
    """(4,) spots of shots without a lattice: all, smallest, outer, at edges, as `SpotCounts`"""
    n_strong: np.ndarray
    """(panel,) strong reflections without flags"""
    squares: np.ndarray
    """(panel, 2) Σ (observed − predicted)² of these, radial and transverse, px²"""
    n_beyond: np.integer
    """reflections beyond the resolution of their lattice"""
    pulls: np.ndarray
    """(3,) number, sum and sum of squares of pulls; 0 without truth"""


class Compared(NamedTuple):
    """What only a simulation tells of a part, as functions of `report.truth` return it."""

    match: truth.Match
    counts: dict[str, int]
    indices: dict[str, Any]
    recall: dict[str, Any]


class Counted(NamedTuple):
    """All that is known of the spots and reflections of some runs."""

    bins: Bins
    sums: Sums
    reasons: Counter[tuple[int, str]]
    """(outcome, reason) → shots"""
    differences: np.ndarray
    """(n, 2) observed − predicted of strong reflections of drawn lattices, radial and transverse,
    px
    """
    compared: list[Compared]
    """of the parts of simulated runs"""


def counted(runs: Sequence[IndexedRun]) -> list[Counted]:
    """Return what is known of the spots and reflections of each run."""
    bins = _bins(runs)
    return [_of_run(run, bins) for run in runs]


def together(of_runs: Sequence[Counted]) -> Counted:
    """Return runs as one."""
    reasons = Counter[tuple[int, str]]()
    for run in of_runs:
        reasons.update(run.reasons)
    return Counted(
        bins=of_runs[0].bins,
        sums=_added([run.sums for run in of_runs]),
        reasons=reasons,
        differences=np.concatenate([run.differences for run in of_runs]),
        compared=[part for run in of_runs for part in run.compared],
    )


def _added(sums: Sequence[Sums]) -> Sums:
    """Return the sums over all parts or runs."""
    return Sums(*(np.sum(arrays, axis=0) for arrays in zip(*sums, strict=True)))


def _of_run(run: IndexedRun, bins: Bins) -> Counted:
    """Return what is known of the spots and reflections of a run."""
    wanted = None if run.is_simulated else COUNTED
    drawn = are_drawn(run.lattices.shot_id, run.lattices.k)
    total = _nothing(bins)
    reasons = Counter[tuple[int, str]]()
    differences = [np.empty((0, 2))]
    compared = []
    for part in run.parts:
        tables = part.read(wanted)
        reasons.update(advice.reasons_of(tables.shots.outcome, tables.shots.reason))
        strong = _strong(tables.reflections)
        difference = _differences_px(run.detector, strong)
        differences.append(difference[drawn[part.rows("lattices")][strong.lattice]])
        pulls = np.zeros(3)
        if run.is_simulated:
            matched = _matched(run, tables)
            compared.append(_compared(run, matched))
            values = truth.pulls(matched)
            pulls[:] = len(values), values.sum(), (values**2).sum()
        of_part = _of_spots(run, tables, bins)._replace(
            n_strong=np.bincount(strong.panel, minlength=bins.n_panels),
            squares=_by_panel(strong.panel, difference**2, bins.n_panels),
            n_beyond=(tables.reflections.flags & ReflectionFlag.BEYOND > 0).sum(),
            pulls=pulls,
        )
        total = _added([total, of_part])
    return Counted(bins, total, reasons, np.concatenate(differences), compared)


def _nothing(bins: Bins) -> Sums:
    """Return the sums over no part."""
    return Sums(
        of_panel=np.zeros(bins.n_panels, dtype=int),
        of_shell=np.zeros(len(bins.n_pixels), dtype=int),
        of_place=np.zeros((len(bins.x_mm) - 1, len(bins.y_mm) - 1), dtype=int),
        of_failed=np.zeros(len(advice.SpotCounts._fields) - 1, dtype=int),
        n_strong=np.zeros(bins.n_panels, dtype=int),
        squares=np.zeros((bins.n_panels, 2)),
        n_beyond=np.int64(0),
        pulls=np.zeros(3),
    )


# ---------------------------------------------------------------- spots


def _bins(runs: Sequence[IndexedRun]) -> Bins:
    """Return the bins into which spots of all runs are counted."""
    d = np.concatenate([_pixel_resolutions(run) for run in runs])
    inverse = d**-2.0
    edges = np.empty(0)
    n_pixels = np.empty(0, dtype=int)
    if len(d):
        edges = np.linspace(inverse.min(), inverse.max(), N_SHELLS + 1)
        n_pixels, _ = np.histogram(inverse, edges)
    (left, right), (bottom, top) = laboratory.extent_mm(runs[-1].detector)
    step = max(right - left, top - bottom) / N_ACROSS
    return Bins(
        n_panels=max(run.detector.n_panels for run in runs),
        inverse_square_d=edges,
        n_pixels=n_pixels,
        d_middle=float(np.median(d)) if len(d) else np.nan,
        x_mm=np.arange(left, right + step, step),
        y_mm=np.arange(bottom, top + step, step),
    )


def _pixel_resolutions(run: IndexedRun) -> np.ndarray:
    """Return d, Å, of a sample of the pixels at the mean energy of a run, within the limits of its
    spots; empty where no energy is known.
    """
    energy = run.shots.mean_energy_ev
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


def _of_spots(run: IndexedRun, tables: Index, bins: Bins) -> Sums:
    """Return the sums over the spots of a part; those of reflections are 0."""
    spots = tables.spots
    places_mm = run.positions_mm(spots)
    d = resolution(places_mm, tables.shots.mean_energy_ev[spots.shot])
    of_place, _ = np.histogramdd(places_mm[:, :2], [bins.x_mm, bins.y_mm])
    of_shell = np.zeros(len(bins.n_pixels), dtype=int)
    if len(of_shell):
        edges = bins.inverse_square_d
        of_shell, _ = np.histogram(np.clip(d**-2.0, edges[0], edges[-1]), edges)
    is_failed = tables.shots.outcome[spots.shot] == Outcome.NO_LATTICE
    return _nothing(bins)._replace(
        of_panel=np.bincount(spots.panel, minlength=bins.n_panels),
        of_shell=of_shell,
        of_place=of_place.astype(int),
        of_failed=_of_failed(run, spots[is_failed], d[is_failed], bins.d_middle),
    )


def _of_failed(run: IndexedRun, spots: Spots, d: np.ndarray, d_middle: float) -> np.ndarray:
    """Return what spots of shots without a lattice are like, (4,). d: (spot,) Å."""
    n_slow, n_fast = run.detector.shape
    rim = np.minimum.reduce([spots.fast, n_fast - spots.fast, spots.slow, n_slow - spots.slow])
    return np.array(
        [
            len(rim),
            np.count_nonzero(spots.n_pixels <= run.section.spots.min_pixels),
            np.count_nonzero(d < d_middle),
            np.count_nonzero(rim < advice.EDGE_PX),
        ]
    )


# ---------------------------------------------------------------- reflections


def _strong(reflections: Reflections) -> Reflections:
    """Return the reflections with an observed centroid and without flags."""
    return reflections[np.isfinite(reflections.fast_obs) & (reflections.flags == 0)]


def _differences_px(detector: Detector, strong: Reflections) -> np.ndarray:
    """Return (n, 2) observed − predicted of strong reflections, radial and transverse, px."""
    fast_difference = strong.fast_obs - strong.fast
    slow_difference = strong.slow_obs - strong.slow
    difference = np.stack([fast_difference, slow_difference], axis=1)
    axes = geometry.radial_axes(detector, strong.panel, strong.fast, strong.slow)
    return np.einsum("nij,nj->ni", axes, difference)


def _by_panel(panel: np.ndarray, values: np.ndarray, n_panels: int) -> np.ndarray:
    """Return the sums of values (n, 2) over each panel, (panel, 2). panel: (n,)."""
    return np.stack([np.bincount(panel, column, n_panels) for column in values.T], axis=1)


# ---------------------------------------------------------------- the truth


def _matched(run: IndexedRun, tables: Index) -> truth.MatchedRun:
    """Return a part of a simulated run with the truth of its shots."""
    assert run.manifest is not None, "of a simulated run"
    files = tuple(np.unique(tables.shots.file).tolist())
    simulated = whole_truth(run.manifest, files)
    match = truth.match(tables, simulated, run.section.space_group)
    return truth.MatchedRun(tables, simulated, match)


def _compared(run: IndexedRun, matched: truth.MatchedRun) -> Compared:
    """Return what only a simulation tells of a part."""
    return Compared(
        match=matched.match,
        counts=truth.counts(matched),
        indices=truth.indices(matched),
        recall=truth.recall(matched, run.section.d_min, run.detector.shape),
    )
