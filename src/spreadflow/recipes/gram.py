"""One lattice on its way to the curves: refined once more, and reduced to its Gram matrices."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.curves.columns import directions
from spreadflow.analysis.curves.expand import FittedRest
from spreadflow.analysis.curves.gram import Gram, gram, model_error
from spreadflow.analysis.pixels import lattice_fit, solve
from spreadflow.analysis.pixels.likelihood import variance
from spreadflow.config import SpreadSection, Stage1Section
from spreadflow.errors import RefinedOutcome, SpreadOutcome
from spreadflow.models import Mosaic
from spreadflow.physics import miller, symmetry
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.products.gram import Boxes
from spreadflow.recipes.lattice import (
    LatticeFit,
    PackedLattice,
    RunModel,
    Start,
    refine_lattice,
    start_after,
)


class ExpandedLattice(NamedTuple):
    """What became of a lattice: its Gram matrices, or why there are none."""

    outcome: SpreadOutcome
    why: str = ""
    """a few words, where the lattice is not used; all below is None or NaN then"""
    gram: Gram | None = None
    """its channels are counted among all channels of the run"""
    unknowns: tuple[str, ...] = ()
    """names of the lattice's own unknowns, those of the Gram matrices"""
    start: Start | None = None
    """where the lattice ended, and its next refinement starts"""
    photons: np.ndarray | None = None
    """(channel,) of its pulse, in all channels of the run"""
    model_error: float = np.nan
    """standard deviation of a modelled pixel, relative to its Bragg photons"""
    sigma_z: float = np.nan
    """standard deviation of (data − model)/√variance over the pixels"""
    boxes: Boxes | None = None
    """d, n_pixels and sigma_z of each shoebox"""


def box_figures(fit: LatticeFit, lattice: PackedLattice) -> Boxes:
    """Return the resolution of each shoebox of a lattice that was fitted, the pixels that were, and
    the r.m.s. of their (data − model)/√variance.
    """
    assert fit.problem is not None and fit.refined is not None, "only of lattices that were fitted"
    data = fit.problem.data
    point = fit.refined.fit.point
    z = (data.photons - point.model) / np.sqrt(variance(point.model, fit.problem.noise))
    n_pixels = np.diff(data.start)
    box = np.repeat(np.arange(len(n_pixels)), n_pixels)
    squares = np.bincount(box, z**2, len(n_pixels))
    with np.errstate(invalid="ignore"):
        sigma_z = np.sqrt(squares / n_pixels)
    return Boxes(d=lattice.reflections.d, n_pixels=n_pixels, sigma_z=sigma_z)


def with_curves(factors: StructureFactors, curves: np.ndarray) -> StructureFactors:
    """Return structure factors with other f′, f″ (site, 2, channel) of their sites."""
    others = factors.anomalous[factors.n_sites :]
    sites = curves[:, 0] + 1j * curves[:, 1]
    return factors._replace(anomalous=np.concatenate([sites, others]))


def with_rest(
    factors: StructureFactors, rest: FittedRest | None, space_group: str
) -> StructureFactors:
    """Return structure factors with X of reflections as refined with curves; others keep the
    model's.
    """
    if rest is None:
        return factors
    asu, friedel = symmetry.to_asu(np.asarray(factors.hkl), space_group)
    row = miller.rows(rest.hkl, asu)
    base = np.asarray(factors.rest)
    e = directions(factors, np.arange(len(base)))
    across = np.where(friedel < 0, -1j, 1j)
    change = e * (rest.x[row, 0] + across * rest.x[row, 1])
    return factors._replace(rest=base + np.where(row < 0, 0.0, change))


def expand_lattice(
    lattice: PackedLattice,
    mosaic: Mosaic,
    model: RunModel,
    pixels: Stage1Section,
    section: SpreadSection,
    start: Start,
) -> ExpandedLattice:
    """Refine a lattice from where it ended last, and reduce it to its Gram matrices.

    pixels: how lattices are modelled.
    """
    fit = refine_lattice(lattice, mosaic, model, pixels, start)
    return expand_fit(fit, lattice, model, pixels, section.model_error)


def expand_fit(
    fit: LatticeFit,
    lattice: PackedLattice,
    model: RunModel,
    pixels: Stage1Section,
    error: float | None,
) -> ExpandedLattice:
    """Reduce a lattice that was fitted to its Gram matrices.

    pixels: how lattices are modelled; error: standard deviation of a modelled pixel relative to its
    Bragg photons, None to take it from the residuals.
    """

    def reduce(refined_model: lattice_fit.Model, point: solve.Point) -> tuple[Gram, float]:
        problem = refined_model.problem
        own_error = error
        if own_error is None:
            photons = problem.data.photons
            own_error = model_error(point.model, point.bragg, photons, problem.noise)
        own = gram(refined_model, point.planes, model_error=own_error)
        channels = model.channels(lattice.spectrum)
        return own._replace(channel=channels[own.channel]), own_error

    return reduced(fit, lattice, model, pixels, reduce)


Reduce = Callable[[lattice_fit.Model, solve.Point], tuple[Gram, float]]
"""A model that starts where a lattice's fit ended, and that fit → Gram matrices, and the standard
deviation of a modelled pixel relative to its Bragg photons.
"""


def reduced(
    fit: LatticeFit,
    lattice: PackedLattice,
    model: RunModel,
    pixels: Stage1Section,
    reduce: Reduce,
) -> ExpandedLattice:
    """Return a lattice that was fitted as its Gram matrices, made by `reduce`; their unknowns are
    those that `pixels` refines.
    """
    if fit.problem is None or fit.refined is None or fit.outcome == RefinedOutcome.LOST:
        return ExpandedLattice(SpreadOutcome.LOST, fit.why)
    problem = fit.problem
    point = fit.refined.fit.point
    refined_model = lattice_fit.Model(
        lattice_fit.moved(problem, fit.refined.parameters),
        tuple(pixels.refine),
        pixels.n_cells_axes,
    )
    own, error = reduce(refined_model, point)
    photons = np.zeros(len(model.energies_ev))
    photons[model.channels(lattice.spectrum)] = lattice.spectrum.photons
    return ExpandedLattice(
        outcome=SpreadOutcome.USED,
        gram=own,
        unknowns=tuple(refined_model.names()),
        start=start_after(fit),
        photons=photons,
        model_error=error,
        sigma_z=lattice_fit.sigma_z(point, problem.data, problem.noise),
        boxes=box_figures(fit, lattice),
    )
