"""Figures of `stage1`: how well the pixels of each lattice are explained, and what became of it."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spreadflow.analysis.pixels.centroid_distances import CentroidDistances, centroid_distances
from spreadflow.errors import RefinedOutcome
from spreadflow.io import store
from spreadflow.models import Detector
from spreadflow.products import Stage1
from spreadflow.products.stage1 import Lattices
from spreadflow.report import stage1_picture, style, truth_of_fits
from spreadflow.report.checks import Check, Summaries, one_outcome_each
from spreadflow.report.drawn import are_drawn, of_drawn
from spreadflow.report.figures import median, outcome_counts
from spreadflow.report.runs import truth_of
from spreadflow.report.style import say
from spreadflow.units import DEG

OF_LATTICES = (
    Stage1.lattices.run,
    Stage1.lattices.shot_id,
    Stage1.lattices.k,
    Stage1.lattices.outcome,
    Stage1.lattices.A,
    Stage1.lattices.cell,
    Stage1.lattices.cell_sigma,
    Stage1.lattices.misset_rad,
    Stage1.lattices.n_cells,
    Stage1.lattices.eta_rad,
    Stage1.lattices.eta_axes_rad,
    Stage1.lattices.scale,
    Stage1.lattices.sigma_fisher,
    Stage1.lattices.sigma_sandwich,
    Stage1.lattices.loss_before,
    Stage1.lattices.loss_after,
    Stage1.lattices.held_out_gain,
    Stage1.lattices.sigma_z,
    Stage1.lattices.n_evaluations,
    Stage1.lattices.n_pixels,
    Stage1.lattices.seconds,
)
"""Columns of all lattices."""

DISTANCES = ("after", "before", "floor")
"""Distances between centroids, as `CentroidDistances` has them."""

DIRECTIONS = ("radial", "transverse")
"""Axes along which they are."""

UNITS = ("mm", "px")
"""Units in which they are."""


def make(stage: str, products: list[Path], manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all runs, and the picture."""
    path = products[0]
    attributes = store.attributes(path, Stage1)
    detectors = [Detector.from_json(detector) for detector in attributes["detectors"]]
    stage1 = store.read(path, Stage1, OF_LATTICES)
    squares, drawn = _reflections(path, stage1.lattices, detectors)
    distances = centroid_distances(drawn, detectors)
    truths = [truth_of(run, manifests) for run in attributes["runs"]]
    against = truth_of_fits.refinement(stage1, attributes, truths)
    figures = _figures(stage1, attributes) | _residuals(squares, distances)
    figures |= _against_truth(against, attributes)
    shown = stage1_picture.Shown(
        lattices=stage1.lattices,
        reflections=drawn.reflections,
        distances=distances,
        samples=stage1_picture.read_samples(path),
    )
    return figures, stage1_picture.draw(stage, shown, against, figures)


def headline(figures: dict[str, Any]) -> list[str]:
    """Return what to know of the figures, one fact a line."""
    lines = [
        f"{say(figures['n_lattices'])} lattices: {style.outcomes(figures)} "
        f"({figures['mosaicity']} mosaicity)",
        f"radial r.m.s.d. {say(figures['radial_rmsd_mm'])} mm "
        f"({say(figures['radial_rmsd_px'])} px) over {say(figures['n_rmsd'])} reflections, "
        f"{say(figures['radial_floor_mm'])} mm were the model true, "
        f"{say(figures['radial_rmsd_mm_before'])} mm by spots; "
        f"transverse {say(figures['transverse_rmsd_mm'])} mm",
        f"orientation and cell of the pixels in {say(figures['n_of_pixels'])} of "
        f"{say(figures['n_compared'])} lattices, where held-out shoeboxes are likelier, by "
        f"{say(figures['held_out_gain_median'])} in ln L in the median; of the spots in the others",
        f"σ_Z {say(figures['sigma_z_median'])}; σ quoted: {figures['uncertainty']}",
        f"{say(figures['seconds_per_lattice_per_core'], 2)} s per lattice and core",
    ]
    if figures["misorientation_deg_median"] is not None:
        pulls = ", ".join(
            f"{name.replace('_', ' ')} {say(sd, 2)}" for name, sd in figures["pull_sd"].items()
        )
        misorientation = say(figures["misorientation_deg_median"], 2)
        before = say(figures["misorientation_deg_before_median"], 2)
        lines.append(
            f"misorientation {misorientation}° in the median, {before}° by spots; "
            f"sd of pulls: {pulls}"
        )
    return lines


def checks(summaries: Summaries) -> list[Check]:
    """Return the counts that must agree."""
    if "stage1" not in summaries:
        return []
    figures = summaries["stage1"]
    equalities = [one_outcome_each("lattice of stage1", figures, "n_lattices")]
    if "annulus" in summaries:
        n_lattices = summaries["annulus"]["n_lattices"]
        statement = "each lattice of annulus reaches stage1"
        equalities.append(Check(statement, n_lattices, figures["n_lattices"]))
    return equalities


def _figures(stage1: Stage1, attributes: dict) -> dict[str, Any]:
    """Return figures over all lattices; medians are over the refined ones."""
    lattices = stage1.lattices
    outcome = lattices.outcome
    is_refined = outcome == RefinedOutcome.REFINED
    is_fitted = is_refined | (outcome == RefinedOutcome.NOT_CONVERGED)
    is_better = lattices.loss_after <= lattices.loss_before
    seconds = lattices.seconds
    refined = lattices[is_refined]
    is_compared = np.isfinite(refined.held_out_gain)
    has_refined = is_refined.any()
    eta = float(np.median(refined.eta_rad) / DEG) if has_refined else None
    turn = np.linalg.norm(refined.misset_rad, axis=1)
    misset = float(np.median(turn) / DEG) if has_refined else None
    return {
        "n_lattices": len(outcome),
        "n_refined": int(is_refined.sum()),
        "outcomes": outcome_counts(outcome, RefinedOutcome),
        "n_worse": int((is_fitted & ~is_better).sum()),
        "mosaicity": attributes["config"]["mosaicity"],
        "uncertainty": attributes["config"]["uncertainty"],
        "n_reflections": len(stage1.reflections),
        "n_pixels": int(lattices.n_pixels.sum()),
        "sigma_z_median": median(refined.sigma_z),
        "n_evaluations_median": median(refined.n_evaluations),
        "n_compared": int(is_compared.sum()),
        "n_of_pixels": int((refined.held_out_gain > 0).sum()),
        "held_out_gain_median": median(refined.held_out_gain[is_compared]),
        "loss_fall_median": median(refined.loss_before - refined.loss_after),
        "n_cells_median": _median_by_axis(refined.n_cells),
        "eta_deg_median": eta,
        "eta_axes_deg_median": _median_by_axis(refined.eta_axes_rad / DEG),
        "misset_deg_median": misset,
        "seconds_per_lattice_per_core": median(seconds),
        "seconds_mean": float(seconds.mean()) if len(seconds) else None,
    }


def _median_by_axis(values: np.ndarray) -> list[float] | None:
    """Return the medians of values (lattice, 3), None where there is no lattice."""
    return np.median(values, axis=0).tolist() if len(values) else None


def _reflections(
    path: Path, lattices: Lattices, detectors: list[Detector]
) -> tuple[np.ndarray, Stage1]:
    """Return sums over the centroids' distances of all lattices, (distance, direction, 1 + unit):
    how many are known, and the sums of their squares; and outcome, run and reflections of the
    drawn lattices. No two parts are in memory together.
    """
    drawn = are_drawn(lattices.shot_id, lattices.k)
    squares = np.zeros((len(DISTANCES), len(DIRECTIONS), 1 + len(UNITS)))
    parts = []
    for part in store.parts_of(path, Stage1):
        tables = part.read([Stage1.lattices.outcome, Stage1.lattices.run, Stage1.reflections])
        squares += _squares(centroid_distances(tables, detectors))
        parts.append(of_drawn(tables, drawn[part.rows("lattices")]))
    return squares, Stage1.joined(parts)


def _squares(distances: CentroidDistances) -> np.ndarray:
    """Return sums over distances, (distance, direction, 1 + unit), as `_reflections`."""
    sums = []
    for name in DISTANCES:
        px = distances.px[name]
        mm = px * distances.pixel_mm[:, None]
        is_known = np.isfinite(px)
        sums.append([is_known.sum(axis=0), *(np.nansum(values**2, axis=0) for values in (mm, px))])
    return np.swapaxes(sums, 1, 2)


def _residuals(squares: np.ndarray, distances: CentroidDistances) -> dict[str, Any]:
    """Return root mean squares of the centroids' distances, in mm and px.

    squares: as `_reflections` returns them. distances: of drawn lattices.
    """
    figures: dict[str, Any] = {}
    for axis, direction in enumerate(DIRECTIONS):
        for unit_number, unit in enumerate(UNITS):
            keys = (f"{direction}_rmsd_{unit}", f"{direction}_rmsd_{unit}_before")
            for number, key in enumerate((*keys, f"{direction}_floor_{unit}")):
                n, total = squares[number, axis, [0, 1 + unit_number]]
                figures[key] = float(np.sqrt(total / n)) if n else None
    radial_px = distances.px["after"][:, 0]
    absolute = np.abs(radial_px * distances.pixel_mm)
    return figures | {"n_rmsd": int(squares[0, 0, 0]), "radial_median_mm": median(absolute)}


def _against_truth(against: truth_of_fits.Refinement | None, attributes: dict) -> dict[str, Any]:
    """Return what only a simulation can tell."""
    if against is None or not len(against.angle):
        return {"misorientation_deg_median": None, "pull_sd": None}
    pulls = against.pulls[attributes["config"]["uncertainty"]]
    figures = {
        "misorientation_deg_median": float(np.median(against.angle) / DEG),
        "misorientation_deg_before_median": float(np.median(against.angle_before) / DEG),
        "n_truth": len(against.angle),
        "pull_sd": _standard_deviations(pulls),
        "pull_mean": _means(pulls),
        "pull_sd_fisher": _standard_deviations(against.pulls["fisher"]),
    }
    for name in pulls:
        if name in against.ratios:
            figures[f"{name}_over_true_median"] = float(np.median(against.ratios[name]))
    return figures


def _means(pulls: dict[str, np.ndarray]) -> dict[str, float | None]:
    """Return the mean of each kind of pull, None where there is none."""
    return {name: float(pull.mean()) if len(pull) else None for name, pull in pulls.items()}


def _standard_deviations(pulls: dict[str, np.ndarray]) -> dict[str, float | None]:
    """Return the standard deviation of each kind of pull, None where there are too few."""
    return {name: float(pull.std()) if len(pull) > 1 else None for name, pull in pulls.items()}
