"""Lattices of `stage1` and `mosaic`, which were fitted to pixels, beside those that were
simulated.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spreadflow import models
from spreadflow.errors import LearnedOutcome, RefinedOutcome
from spreadflow.physics import mosaic, rotation, unit_cell
from spreadflow.products import Children, Mosaic, Stage1, Truth
from spreadflow.products.stage1 import Lattices
from spreadflow.products.truth import Lattices as TrueLattices
from spreadflow.report.truth import match_lattices
from spreadflow.units import DEG

SMALLEST_CELL_SIGMA = 1e-9
"""A cell parameter whose σ is below this (Å or rad) is fixed by symmetry and has no pull."""


class Refinement(NamedTuple):
    """Refined lattices of stage 1 against the simulated ones that they are."""

    angle: np.ndarray
    """(lattice,) misorientation, rad"""
    angle_before: np.ndarray
    """(lattice,) misorientation of the orientation that the fit started from, rad"""
    ratios: dict[str, np.ndarray]
    """scale, n_cells, eta → (lattice,) refined over true"""
    pulls: dict[str, dict[str, np.ndarray]]
    """sandwich, fisher → kind of unknown → (n,) (refined − true)/σ"""
    true_mosaicity: np.ndarray
    """(different, 2) N and η (degrees) that were simulated"""


def refinement(
    stage1: Stage1, attributes: dict, truths: Sequence[Truth | None]
) -> Refinement | None:
    """Return refined lattices against the truth, or None where no run has any.

    attributes: of the product. truths: the truth of each of its runs.
    """
    is_refined = stage1.lattices.outcome == RefinedOutcome.REFINED
    parts = [
        _refinement_of_run(
            stage1.lattices[is_refined & (stage1.lattices.run == run)], attributes, truth
        )
        for run, truth in enumerate(truths)
        if truth is not None
    ]
    if not parts:
        return None
    true_mosaicity = np.concatenate([part.true_mosaicity for part in parts])
    return Refinement(
        angle=np.concatenate([part.angle for part in parts]),
        angle_before=np.concatenate([part.angle_before for part in parts]),
        ratios=_concatenated([part.ratios for part in parts]),
        pulls={
            kind: _concatenated([part.pulls[kind] for part in parts]) for kind in parts[0].pulls
        },
        true_mosaicity=np.unique(true_mosaicity, axis=0),
    )


def _concatenated(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the arrays of each name end to end, from all parts that have it: a run need not have
    every kind of unknown.
    """
    arrays: dict[str, list[np.ndarray]] = {}
    for part in parts:
        for name, values in part.items():
            arrays.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in arrays.items()}


def _refinement_of_run(lattices: Lattices, attributes: dict, truth: Truth) -> Refinement:
    """Return the refined lattices of one run against its truth."""
    matched = match_lattices(lattices.shot_id, lattices.A, truth, attributes["space_group"])
    lattices = lattices[matched.right]
    row = matched.row[matched.right]
    true_A = truth.lattices.A[row] @ matched.to_truth[matched.right]
    true_n_cells = truth.lattices.n_cells[row].mean(axis=1)
    true_eta = truth.lattices.eta_rad[row]

    turn = _turns(lattices.A, true_A)
    start = rotation.from_vector(-lattices.misset_rad) @ lattices.A
    turn_before = rotation.nearest(start @ np.linalg.inv(true_A))
    ratios = {
        "n_cells": lattices.n_cells.mean(axis=1) / true_n_cells,
        "eta": lattices.eta_rad / true_eta,
        "scale": lattices.scale / truth.lattices.scale[row],
    }
    deviations = {
        "scale": np.log(ratios["scale"])[:, None],
        "rotation": turn,
        # simulated domains turn as much about each axis, and have as many cells along each
        "eta": np.log(lattices.eta_axes_rad / true_eta[:, None]),
        "n_cells": np.log(lattices.n_cells / true_n_cells[:, None]),
    }
    pulls = {
        "sandwich": _pulls(deviations, lattices.sigma_sandwich, attributes["unknowns"]),
        "fisher": _pulls(deviations, lattices.sigma_fisher, attributes["unknowns"]),
    }
    cell_pulls = _cell_pulls(lattices.cell, lattices.cell_sigma, true_A)
    if len(cell_pulls):
        pulls[attributes["config"]["uncertainty"]]["cell"] = cell_pulls
    return Refinement(
        angle=np.linalg.norm(turn, axis=1),
        angle_before=rotation.angle(turn_before),
        ratios=ratios,
        pulls=pulls,
        true_mosaicity=np.stack([true_n_cells, true_eta / DEG], axis=1),
    )


def _turns(A: np.ndarray, true_A: np.ndarray) -> np.ndarray:
    """Return (lattice, 3) the rotation vectors from true to refined lattices, rad."""
    turns = []
    for refined, true in zip(A, true_A, strict=True):
        turn = rotation.nearest(refined @ np.linalg.inv(true))
        turns.append(rotation.vector(turn))
    return np.array(turns).reshape(-1, 3)


def _pulls(
    deviations: dict[str, np.ndarray], sigma: np.ndarray, unknowns: list[str]
) -> dict[str, np.ndarray]:
    """Return kind of unknown → (n,) deviations over their σ, of all lattices.

    deviations: kind → (lattice, of the kind). sigma: (lattice, unknown).
    """
    kinds = [name if name in deviations else name.rpartition("_")[0] for name in unknowns]
    pulls = {}
    for name, deviation in deviations.items():
        numbers = [number for number, kind in enumerate(kinds) if kind == name]
        if numbers:
            pulls[name] = _finite(deviation[:, : len(numbers)] / sigma[:, numbers])
    return pulls


def _cell_pulls(cell: np.ndarray, sigma: np.ndarray, true_A: np.ndarray) -> np.ndarray:
    """Return (n,) deviations of the cells' parameters over their σ.

    cell, sigma: (lattice, 6) Å, rad.
    """
    true_cell = np.array([unit_cell.cell_of(a) for a in true_A]).reshape(-1, 6)
    quoted = np.where(sigma > SMALLEST_CELL_SIGMA, sigma, np.nan)
    return _finite((cell - true_cell) / quoted)


def _finite(values: np.ndarray) -> np.ndarray:
    """Return (n,) values without those of unknowns that a lattice does not have."""
    values = values.ravel()
    return values[np.isfinite(values)]


class TrueMosaic(NamedTuple):
    """The simulated mosaicity of the lattices that taught a set."""

    mosaic: models.Mosaic
    """their mean distribution"""
    domain_rad: float
    """angular standard deviation of one domain at the highest resolution"""


def mosaics(
    product: Mosaic, attributes: dict, truths: Sequence[Truth | None]
) -> dict[int, TrueMosaic]:
    """Return the true mosaicity of the learned sets, by their numbers.

    attributes: of the product. truths: the truth of each of its runs.
    """
    is_learned = product.lattices.outcome == LearnedOutcome.LEARNED
    mosaics_of_set: dict[int, list[TrueMosaic]] = {}
    for run, truth in enumerate(truths):
        lattices = product.lattices[(product.lattices.run == run) & is_learned]
        if truth is None or not len(lattices):
            continue
        matched = match_lattices(lattices.shot_id, lattices.A, truth, attributes["space_group"])
        domains_of = Children(truth.domains.lattice)
        numbers = lattices.set[matched.right].tolist()
        for number, row in zip(numbers, matched.row[matched.right].tolist(), strict=True):
            rotations = truth.domains.rotation[domains_of[row]]
            true = _true_mosaic(truth.lattices, row, rotations, attributes["d_min"])
            mosaics_of_set.setdefault(number, []).append(true)
    return {number: _mean(mosaics) for number, mosaics in mosaics_of_set.items()}


def _true_mosaic(
    lattices: TrueLattices, row: int, rotations: np.ndarray, d_min: float
) -> TrueMosaic:
    """Return the true mosaicity of one lattice. rotations: of its domains, (domain, 3, 3)."""
    mosaicity = mosaic.domains(rotations) if len(rotations) else mosaic.continuous()
    axes = unit_cell.cell_of(lattices.A[row])[:3]
    edge_ang = np.mean(lattices.n_cells[row] * axes)
    return TrueMosaic(
        mosaic=mosaicity._replace(eta_rad=lattices.eta_rad[row]),
        domain_rad=float(mosaic.SIZE_SIGMA * d_min / edge_ang),
    )


def _mean(mosaics: list[TrueMosaic]) -> TrueMosaic:
    """Return the mean of distributions: one of them, where all are the same."""
    first = mosaics[0]
    rotations = [true.mosaic.rotations for true in mosaics]
    if all(np.array_equal(other, rotations[0]) for other in rotations):
        return first
    share = np.concatenate([true.mosaic.share for true in mosaics])
    mean = models.Mosaic(
        rotations=np.concatenate(rotations),
        width=np.concatenate([true.mosaic.width for true in mosaics]),
        share=share / len(mosaics),
        eta_rad=first.mosaic.eta_rad,
    )
    return first._replace(mosaic=mean)
