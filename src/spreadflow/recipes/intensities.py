"""Stage 2 between its lattices and its equations: unique reflections, where they start, lattices
expanded about them, and what is written of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spreadflow import products
from spreadflow.analysis.curves.gram import Gram, gram, shape_error
from spreadflow.analysis.factors import french_wilson
from spreadflow.analysis.factors.equations import Batch
from spreadflow.analysis.merging.merging import N_SHELLS, Unique
from spreadflow.analysis.pixels import lattice_fit, solve
from spreadflow.config import Stage1Section
from spreadflow.errors import SpreadOutcome
from spreadflow.models import Mosaic
from spreadflow.physics import unit_cell
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.recipes.gram import ExpandedLattice, reduced
from spreadflow.recipes.lattice import (
    PackedLattice,
    RunModel,
    Start,
    refine_lattice,
)
from spreadflow.units import MAD_TO_SIGMA

DIMMEST = 1e-3
"""Intensity, relative to the mean at its resolution, that lattices are modelled with at least: a
node without photons has no template.
"""

SMALLEST_SCATTER = 1e-6
"""The same, of the scatter of a reflection."""

SHARED = ("n_cells", "eta")
"""Kinds of unknowns of stage 1 that lattices have a common factor of, in place of their own."""

NODES_AT_A_TIME = 4096
"""Nodes whose |F|² of all channels are formed together: bounds the memory."""


class Reflections(NamedTuple):
    """The unique reflections of stage 2, Friedel mates apart, and where they start."""

    unique: Unique
    row_of_node: np.ndarray
    """(node,) row of `unique` of each node of the structure factors; −1 = absent"""
    intensity: np.ndarray
    """(reflection,) where the refinement starts"""
    is_measured: np.ndarray
    """(reflection,) bool: the start was measured, or is a model's"""
    typical: np.ndarray
    """(reflection,) mean intensity at its resolution"""
    scatter: np.ndarray
    """(reflection,) standard deviation of |F|² over the channels, as the model has it, in units of
    the intensities
    """

    @property
    def is_centric(self) -> np.ndarray:
        """(reflection,) bool"""
        return self.unique.friedel == 0


def from_model(
    factors: StructureFactors, cell: np.ndarray, space_group: str, channel_weight: np.ndarray
) -> Reflections:
    """Return the unique reflections, which start at a model's |F|², the mean over the channels.

    cell: (6,) Å, degrees; channel_weight: (channel,) photons of the mean pulse; the factors' d_min
    is theirs.
    """
    weight = channel_weight / channel_weight.sum()
    hkl = np.asarray(factors.hkl)
    d = unit_cell.spacing(unit_cell.reciprocal(unit_cell.radians(cell)), hkl)
    nearly_all = float(d.min()) * (1.0 - 1e-9)  # the last node, too
    everything = Unique(cell, space_group, nearly_all)
    row = everything.rows(hkl)
    is_present = row >= 0
    mean = np.zeros(len(everything))
    scatter = np.zeros(len(everything))
    rows = np.flatnonzero(is_present)
    _, first = np.unique(row[rows], return_index=True)
    for node in np.array_split(rows[first], 1 + len(first) // NODES_AT_A_TIME):
        squared = factors.squared(node)
        own_mean = squared @ weight
        mean[row[node]] = own_mean
        scatter[row[node]] = np.sqrt((squared - own_mean[:, None]) ** 2 @ weight)
    means = french_wilson.shell_means(mean, np.ones(len(mean), bool), everything.shell, N_SHELLS)
    return Reflections(
        unique=everything,
        row_of_node=row,
        intensity=mean,
        is_measured=np.ones(len(mean), dtype=bool),
        typical=means[everything.shell],
        scatter=scatter,
    )


class Merged(NamedTuple):
    """Merged intensities of unique reflections, Friedel mates apart."""

    hkl: np.ndarray
    """(n, 3) the mate of an acentric reflection has the negative index"""
    intensity: np.ndarray
    """(n,)"""
    sigma: np.ndarray
    """(n,)"""


def from_merge(of_model: Reflections, merged: Merged) -> Reflections:
    """Return the unique reflections of a model, which start at merged intensities.

    They are what French & Wilson expect of these; a reflection that was not merged has the
    intensity of its mate, else the mean of its resolution. Raises ValueError where none was merged.
    """
    unique = of_model.unique
    n = len(unique)
    row = unique.rows(merged.hkl)
    is_known = (row >= 0) & np.isfinite(merged.intensity) & (merged.sigma > 0)
    if not is_known.any():
        raise ValueError(f"{len(merged.hkl)} merged intensities, none of the model's reflections")
    row = row[is_known]
    values = merged.intensity[is_known]
    sigma = merged.sigma[is_known]
    shell = unique.shell[row]
    means = french_wilson.shell_means(values, np.ones(len(row), dtype=bool), shell, N_SHELLS)
    expected = french_wilson.posterior(values, sigma, means[shell], of_model.is_centric[row])

    intensity = np.full(n, np.nan)
    intensity[row] = expected.intensity
    is_measured = np.isfinite(intensity)
    takes_mates = ~is_measured & (unique.mate >= 0)
    intensity[takes_mates] = intensity[unique.mate[takes_mates]]
    typical = means[unique.shell]
    of_shells = french_wilson.shell_means(
        of_model.intensity[row], np.ones(len(row), dtype=bool), shell, N_SHELLS
    )
    return of_model._replace(
        intensity=np.where(np.isfinite(intensity), intensity, typical),
        is_measured=is_measured,
        typical=typical,
        scatter=of_model.scatter * (means / of_shells)[unique.shell],
    )


def modelled(reflections: Reflections, intensity: np.ndarray) -> np.ndarray:
    """Return the intensities (reflection,) with which lattices are modelled: none is dark."""
    return np.maximum(intensity, DIMMEST * reflections.typical)


def scatter_of(reflections: Reflections, intensity: np.ndarray, fraction: float) -> np.ndarray:
    """Return the scatter (reflection,) of what lattices show about intensities (reflection,): that
    of the model's |F|² over the channels, and a fraction of the intensity.
    """
    both = np.hypot(reflections.scatter, fraction * modelled(reflections, intensity))
    return both + SMALLEST_SCATTER * reflections.typical


def flat_factors(
    factors: StructureFactors, reflections: Reflections, intensity: np.ndarray
) -> StructureFactors:
    """Return structure factors without phases, the same in all channels, with such intensities
    (reflection,); absent nodes are nearly dark.
    """
    row = reflections.row_of_node
    of_nodes = modelled(reflections, intensity)[row]
    faintest = DIMMEST * float(reflections.typical.min())
    f_squared = np.where(row >= 0, of_nodes, faintest)
    n_channels = factors.anomalous.shape[1]
    return StructureFactors(
        hkl=factors.hkl,
        rest=np.sqrt(f_squared).astype(np.complex128),
        groups=np.empty((0, len(row)), dtype=np.complex128),
        anomalous=np.empty((0, n_channels), dtype=np.complex128),
    )


def expand_flat(
    lattice: PackedLattice,
    mosaic: Mosaic,
    model: RunModel,
    reflections: Reflections,
    pixels: Stage1Section,
    start: Start | None,
) -> ExpandedLattice:
    """Refine a lattice from where it ended last, N and η held, and reduce it to Gram matrices whose
    columns are reflections, flat in energy.

    model: with `flat_factors`; pixels: how lattices are modelled; N and η are among the unknowns of
    the matrices where it refines them.
    """
    own_kinds = [name for name in pixels.refine if name not in SHARED]
    held = pixels.model_copy(update={"refine": own_kinds})
    fit = refine_lattice(lattice, mosaic, model, held, start)

    def reduce(refined_model: lattice_fit.Model, point: solve.Point) -> tuple[Gram, float]:
        problem = refined_model.problem
        error = shape_error(point, problem)
        row = reflections.unique.rows(np.asarray(problem.start.hkl))
        typical = np.where(row >= 0, reflections.typical[row], 0.0)
        return gram(refined_model, point.planes, model_error=error, typical=typical), error

    return reduced(fit, lattice, model, pixels, reduce)


def is_shared(unknowns: Sequence[str]) -> np.ndarray:
    """Return which unknowns of lattices, of which these are the names, have a common factor,
    (unknown,) bool.
    """
    return np.array([name.rstrip("_123") in SHARED for name in unknowns], dtype=bool)


def volume_direction(unknowns: Sequence[str]) -> np.ndarray:
    """Return the change (own unknown,) of ln of the unit cells that a lattice has in the beam by
    the unknowns that are its own: ln scale among them. unknowns: names of all.
    """
    own = [name for name, shared in zip(unknowns, is_shared(unknowns), strict=True) if not shared]
    return np.array([float(name == "scale") for name in own])


def with_factors(start: Start, unknowns: Sequence[str], shared: np.ndarray) -> Start:
    """Return the start of a lattice with N and η multiplied by common factors.

    unknowns: names of all; shared: (shared,) ln of the factors.
    """
    names = [name for name, own in zip(unknowns, is_shared(unknowns), strict=True) if own]
    factor = {"n_cells": np.ones(3), "eta": np.ones(3)}
    for name, value in zip(names, shared, strict=True):
        kind = name.rstrip("_123")
        axis = slice(None) if name == kind else int(name[-1]) - 1
        factor[kind][axis] = np.exp(value)
    return start._replace(
        n_cells=start.n_cells * factor["n_cells"],
        eta_axes_rad=start.eta_axes_rad * factor["eta"],
    )


def moves_together(
    unknowns: Sequence[str], n_cells: np.ndarray, eta_axes_rad: np.ndarray, sigma: np.ndarray
) -> np.ndarray:
    """Return ln of the factors (lattice, shared) that draw N and η of lattices to the common ones.

    unknowns: names of all; n_cells, eta_axes_rad: (lattice, 3); sigma: (lattice, unknown) of the
    sandwich.
    """
    columns = [np.empty((len(n_cells), 0))]
    for number, name in enumerate(unknowns):
        kind = name.rstrip("_123")
        if kind not in SHARED:
            continue
        values = n_cells if kind == "n_cells" else eta_axes_rad
        axis = 0 if name == kind else int(name[-1]) - 1
        log_values = np.log(values[:, axis])
        moved = drawn_together(log_values, sigma[:, number]) - log_values
        columns.append(moved[:, None])
    return np.concatenate(columns, axis=1)


def drawn_together(log_values: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return ln N or ln η of lattices (lattice,), each drawn to the common one as far as their σ
    explain how they scatter; NaN stays.

    sigma: (lattice,) honest ones (of the sandwich); where NaN, a value stays as it is.
    """
    is_known = np.isfinite(log_values) & np.isfinite(sigma)
    if is_known.sum() < 3:
        return log_values
    known = log_values[is_known]
    centre = float(np.median(known))
    scatter = MAD_TO_SIGMA * float(np.median(np.abs(known - centre)))
    spread2 = max(scatter**2 - float(np.median(sigma[is_known])) ** 2, 0.0)
    keep = spread2 / (spread2 + sigma**2)
    return np.where(is_known, centre + keep * (log_values - centre), log_values)


def batch_of(part: products.Gram, unique: Unique) -> Batch:
    """Return the lattices of a part of `gram` that are used, in their order."""
    used = np.flatnonzero(part.lattices.outcome == SpreadOutcome.USED)
    lattices = part.lattices[used]
    columns = part.columns
    return Batch(
        lattice=np.searchsorted(used, columns.lattice),
        unique=unique.rows(columns.hkl.astype(np.int32)),
        sizes=part.boxes.n_columns.astype(np.int64),
        intensity=columns.intensity,
        slope=columns.slope,
        cross=columns.cross,
        normal=part.triangles.value.astype(np.float64),
        nuisance=lattices.nuisance,
        score=lattices.score,
        loss=lattices.loss,
        log_volume=np.log(lattices.scale) + np.log(lattices.n_cells).sum(axis=1),
    )
