"""What is true of a set of the test bed, and how far the products of its stages are from it."""

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np
from scipy.stats import spearmanr

from spreadflow import config, products
from spreadflow.analysis.merging.merging import Unique
from spreadflow.io import factor_files, store
from spreadflow.io.images import Source
from spreadflow.io.truth import read_truth
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.products import Index, Merge, Reindex
from spreadflow.recipes.still import Simulator
from spreadflow.report import truth as report

D_MIN = 1.8
"""Resolution of the true intensities, Å: beyond that of a merge with the default settings."""

ROUNDS = 20
"""Rounds of a scale that leaves wild reflections out: it is at rest after a few."""

WILD = 4.0
"""σ beyond which a merged intensity does not count for the scale of pulls."""


SEEN = 3.0
"""σ above which merged intensities give the first estimate of that scale."""


class Truth(NamedTuple):
    """What is true of a set."""

    run: products.Truth
    """its shots and lattices; its reflections, where it was simulated here"""
    moved_mm: np.ndarray
    """(3,) the true detector minus that of the headers: fast, slow, distance"""
    distance_mm: float
    """the true one"""
    unique: Unique
    intensity: np.ndarray
    """(unique,) |F|² over the mean spectrum of the pulses; NaN = not known"""


def of_simulation(settings: config.Config, run: str, manifest: Path) -> Truth:
    """Return the truth of a set that was simulated."""
    section = config.for_stage(config.section(settings, "simulate", run), "simulate")
    simulated = read_truth(manifest)
    assert simulated is not None
    crystal = section.crystal
    unique = Unique(np.array(crystal.cell), crystal.space_group, D_MIN)
    is_hit = simulated.shots.kind != report.BLANK
    source = Source(manifest)
    spectra = [source.spectrum(int(row)) for row in np.flatnonzero(is_hit)]
    photons = np.sum([one.photons for one in spectra if one is not None], axis=0)
    true = _factors(section.model_dump_json())
    rows = unique.rows(true.hkl)
    present, nodes = np.unique(rows, return_index=True)
    intensity = np.full(len(unique), np.nan)
    is_unique = present >= 0
    squared = true.squared(nodes[is_unique])
    intensity[present[is_unique]] = squared @ photons / photons.sum()
    return Truth(
        simulated,
        np.array(section.detector.header_error_mm),
        section.detector.distance_mm,
        unique,
        intensity,
    )


@cache
def _factors(section: str) -> StructureFactors:
    """Return F of the crystals of a set. section: of `simulate`, JSON."""
    settings = config.for_stage(section, "simulate")
    return Simulator(settings, factor_files.read(settings.structure_factors)).factors


def of_nanobragg(folder: Path, manifest: Path) -> Truth:
    """Return the truth of the stills of another simulator: one lattice on each. folder: of
    truth.json and truth_F.mtz.
    """
    tree = json.loads((folder / "truth.json").read_text())
    shot_ids = Source(manifest).shots["shot_id"]
    images = sorted(tree["images"], key=lambda image: image["index_in_file"])
    n = len(shot_ids)
    run = products.Truth(
        shots=products.Truth.shots(shot_id=shot_ids, kind=np.full(n, report.SINGLE)),
        lattices=products.Truth.lattices(
            shot=np.arange(n), A=[image["lattices"][0]["A"] for image in images]
        ),
    )
    # the panel's axes: x along fast, y against slow
    moved = np.subtract(tree["true_panel_origin_mm"], tree["metadata_panel_origin_mm"])
    unique = Unique(np.array(tree["cell"]), tree["space_group"], D_MIN)
    return Truth(
        run,
        moved * np.array([1.0, -1.0, -1.0]),
        tree["true_distance_mm"],
        unique,
        _squares(folder / "truth_F.mtz", unique),
    )


def _squares(path: Path, unique: Unique) -> np.ndarray:
    """Return (unique,) squares of the amplitudes F(+), F(−) of a file."""
    table = gemmi.read_mtz_file(str(path))
    hkl = table.make_miller_array()
    intensity = np.full(len(unique), np.nan)
    for sign, label in ((-1, "F(-)"), (1, "F(+)")):
        amplitude = np.array(table.column_with_label(label).array, dtype=np.float64)
        rows = unique.rows(sign * hkl)
        counts = (rows >= 0) & np.isfinite(amplitude)
        intensity[rows[counts]] = amplitude[counts] ** 2
    return intensity


# ---------------------------------------------------------------- figures of one set


def indexed(product: Path, stage: str, truth: Truth) -> dict:
    """Return the figures of the lattices of `index` or `reindex`."""
    kind = {"index": Index, "reindex": Reindex}[stage]
    found = store.read(product, kind)
    space_group = store.attributes(product, kind)["config"]["space_group"]
    run = report.MatchedRun(found, truth.run, report.match(found, truth.run, space_group))
    counts = report.counts(run)
    is_right = run.match.right
    right = found.lattices[is_right]
    radial_mm, transverse_mm = map(np.nan_to_num, (right.rmsd_radial_mm, right.rmsd_transverse_mm))
    pull = report.pulls(run) if len(truth.run.reflections) else np.empty(0)
    return {
        "n_right": int(is_right.sum()),
        "n_false": counts["n_lattices_wrong"],
        "n_blanks": counts["n_blanks"],
        "n_blanks_with_lattice": counts["n_blanks_with_lattice"],
        "misset_deg": np.rad2deg(run.match.angle[is_right]).tolist(),
        "n_rmsd": int(right.n_rmsd.sum()),
        "radial_mm2": float((right.n_rmsd * radial_mm**2).sum()),
        "transverse_mm2": float((right.n_rmsd * transverse_mm**2).sum()),
        "n_pulls": len(pull),
        "sum_pulls": float(pull.sum()),
        "square_pulls": float(pull @ pull),
        "longest_s": float(found.shots.seconds.max()),
    }


def placed(product: Path, truth: Truth) -> dict:
    """Return the errors and pulls (3,) of shift along fast and slow and of distance, of level0."""
    fit = json.loads(product.with_suffix(".fit.json").read_text())
    found = np.array([*fit["shift_mm"], fit["distance_mm"]])
    sigma = np.array([*fit["shift_sigma_mm"], fit["distance_sigma_mm"]])
    error = found - np.array([*truth.moved_mm[:2], truth.distance_mm])
    return {"error_mm": error.tolist(), "pull": (error / sigma).tolist()}


class Merged(NamedTuple):
    """Merged intensities beside the true ones, rows as in the product."""

    hkl: np.ndarray
    d: np.ndarray
    n: np.ndarray
    intensity: np.ndarray
    sigma: np.ndarray
    true: np.ndarray
    """those of the same mate"""
    true_mean: np.ndarray
    """the mean of both mates"""


def merged(product: Path, truth: Truth, d_min: float) -> Merged:
    """Return the merged intensities, d ≥ d_min (Å), of which the truth is known."""
    table = store.read(product, Merge, [Merge.merged]).merged
    hkl = table.hkl
    unique = truth.unique
    sign = np.where(table.friedel < 0, -1, 1)
    row = unique.rows(sign[:, None] * hkl)
    d = unique.spacing(hkl)
    true = truth.intensity[row]
    mate = np.where(unique.mate[row] >= 0, unique.mate[row], row)
    counts = (row >= 0) & (d >= d_min) & np.isfinite(true)
    columns = Merged(
        hkl,
        d,
        table.n,
        table.intensity,
        table.sigma,
        true,
        0.5 * (true + truth.intensity[mate]),
    )
    return Merged(*(column[counts] for column in columns))


def mates_together(rows: Merged) -> Merged:
    """Return the means of Friedel mates, weighted by σ⁻²."""
    _, first, number = np.unique(rows.hkl, axis=0, return_index=True, return_inverse=True)
    number = number.ravel()
    weight = rows.sigma**-2.0
    sums = np.bincount(number, weight)
    intensity = np.bincount(number, weight * rows.intensity) / sums
    n = np.bincount(number, rows.n).astype(int)
    true = rows.true_mean[first]
    return Merged(rows.hkl[first], rows.d[first], n, intensity, sums**-0.5, true, true)


def agreement(rows: Merged) -> dict:
    """Return how well merged intensities agree with the true ones, as `agreement_of`."""
    return agreement_of(rows.intensity, rows.true)


def agreement_of(found: np.ndarray, true: np.ndarray) -> dict:
    """Return how well intensities (n,) agree with the true ones: R_iso with the least-squares
    scale, rank correlation, and correlation of the logarithms of those above zero.
    """
    scale = (found @ true) / (found @ found)
    is_positive = found > 0
    logarithms = np.log(found[is_positive]), np.log(true[is_positive])
    return {
        "n": len(found),
        "r_iso": float(np.abs(scale * found - true).sum() / true.sum()),
        "spearman": float(spearmanr(found, true)[0]),
        "cc_log": float(np.corrcoef(*logarithms)[0, 1]),
    }


def pulls(rows: Merged) -> np.ndarray:
    """Return (row,) (I − I_true)/σ after the weighted least-squares scale, for which wild
    intensities do not count.
    """
    found, true, sigma = rows.intensity, rows.true, rows.sigma
    is_seen = found > SEEN * sigma
    scale = np.median((found / true)[is_seen])
    for _ in range(ROUNDS):
        pull = (found - scale * true) / sigma
        weight = np.where(np.abs(pull) < WILD, sigma**-2.0, 0.0)
        scale = (weight * true * found).sum() / (weight * true**2).sum()
    return (found - scale * true) / sigma


def scaled(product: Path) -> dict:
    """Return what `merge` says of itself."""
    attributes = store.attributes(product, Merge)
    return {
        "n_cycles": int(attributes["n_cycles"]),
        "last_change": float(attributes["last_change"]),
        "warnings": [warning["what"] for warning in attributes.get("warnings", [])],
    }
