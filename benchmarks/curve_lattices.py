"""Lattices made and modelled in several ways, and reduced to the Gram matrices that curves need.

Curves of the models are the mean of the two true ones, for both sites.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

import lattices
from lattices import D_MAX_ANNULUS, D_MAX_WIDEST, FREE, NO_POINT_SPREAD, Data
from spreadflow.analysis.curves import gram
from spreadflow.analysis.curves.gram import Gram
from spreadflow.analysis.pixels import lattice_fit, mosaic_learning
from spreadflow.models import Mosaic
from spreadflow.physics.mosaic import continuous
from spreadflow.recipes.gram import expand_fit
from spreadflow.recipes.lattice import (
    LatticeFit,
    PackedLattice,
    Start,
    problem_of,
    refine_lattice,
    start_after,
)
from spreadflow.recipes.patch import Patch, packed_lattice

N_TEACHERS = 30
"""Lattices that the shared domains are learned from."""

FIRST_TEACHER = 100_000
"""Number of the first of these; no other lattice has such a number."""


class LatticeKind(NamedTuple):
    """How lattices are made and modelled."""

    mosaicity: str = "domains"
    """of the data, see `lattices.Data`"""
    model: str = "domains"
    """continuous; domains, those of the truth; learned, from other lattices; alone, from each
    lattice's own pixels
    """
    is_refined: bool = True
    """by stage 1, from starts that are off; otherwise orientation, cell, N and η are true"""
    factors: str = "right"
    """see `lattices.model_factors`"""
    model_error: float | None = None
    """of a pixel, relative to its Bragg photons; None = from residuals where a lattice is refined,
    else none
    """
    d_max: float = D_MAX_ANNULUS
    """low-resolution edge, Å"""
    psf: tuple[str, float] = NO_POINT_SPREAD
    """point spread of the detector and its width, mm; it is undone first, and the model has none"""

    @property
    def simulated(self) -> tuple[Data, float]:
        """How the lattices are simulated, and to which d_max: kinds that agree in it share them."""
        is_alone = self.mosaicity == "per_shot"
        data = Data(self.mosaicity, psf=self.psf)
        return data, D_MAX_WIDEST if is_alone else self.d_max


class Built(NamedTuple):
    """A lattice ready for curves."""

    gram: Gram
    photons: np.ndarray
    """(channel,) of its pulse"""
    seconds: float
    """user CPU of the Gram matrices"""


def build(kind: LatticeKind, patch: Patch, number: int, domains: Mosaic | None) -> Built:
    """Model a lattice as its kind says, and reduce it to its Gram matrices.

    domains: those that were learned from other lattices. Raises ValueError where stage 1 loses it.
    """
    data, _ = kind.simulated
    model = lattices.run_model(data, kind.factors, with_true_curves=False)
    pixels = lattices.pixels_section(data)
    packed = packed_lattice(patch, kind.d_max)
    if kind.is_refined and kind.model != "alone":
        fit = refined(kind, packed, patch, number, domains)
        start_time = lattices.user_cpu()
        expanded = expand_fit(fit, packed, model, pixels, kind.model_error)
        if expanded.gram is None:
            raise ValueError(f"lattice {number} is lost: {expanded.why}")
        of_lattice = expanded.gram
    else:
        mosaic = patch.parameters.mosaic
        start = lattices.true_start(patch.parameters)
        if kind.model == "alone":
            mosaic, start = learned_alone(kind, patch, number)
        problem = problem_of(packed, mosaic, model, pixels, start)
        at_start = lattice_fit.Model(problem, FREE)
        bragg = at_start.photons(np.zeros(at_start.n_unknowns))
        _, planes = lattice_fit.planes_and_scale(bragg, problem.data, problem.noise)
        start_time = lattices.user_cpu()
        of_lattice = gram.gram(at_start, planes, model_error=kind.model_error or 0.0)
    photons = patch.parameters.spectrum.photons
    return Built(of_lattice, photons, lattices.user_cpu() - start_time)


def refined(
    kind: LatticeKind,
    packed: PackedLattice,
    patch: Patch,
    number: int,
    domains: Mosaic | None = None,
) -> LatticeFit:
    """Return a lattice refined by stage 1 from a start that is off, then with learned domains."""
    data, _ = kind.simulated
    model = lattices.run_model(data, kind.factors, with_true_curves=False)
    pixels = lattices.pixels_section(data)
    off = lattices.off_start(packed, number)
    mosaic = lattices.mosaic_of("domains" if kind.model == "domains" else "continuous", patch)
    fit = refine_lattice(off, mosaic, model, pixels)
    if kind.model != "learned":
        return fit
    assert domains is not None and domains.eta_rad is not None
    unit_of_widths = np.full(3, domains.eta_rad)
    start = start_after(fit)._replace(eta_axes_rad=unit_of_widths)
    return refine_lattice(off, domains, model, pixels, start)


def where_it_ended(fit: LatticeFit) -> lattice_fit.Problem:
    """Return the problem that starts where a fit ended."""
    assert fit.problem is not None and fit.refined is not None
    return lattice_fit.moved(fit.problem, fit.refined.parameters)


def learned_alone(kind: LatticeKind, patch: Patch, number: int) -> tuple[Mosaic, Start]:
    """Return the domains of a lattice learned from all its pixels, and where it then ends.

    Where held-out spots say so, it is the continuous distribution.
    """
    fit = refined(kind, packed_lattice(patch), patch, number)
    learned = lattices.learn_alone(where_it_ended(fit), number)
    if not learned.is_better:
        return continuous(), start_after(fit)
    again = lattice_fit.refine(learned.problems[0], mosaic_learning.FREE, is_rough=False)
    return again.parameters.mosaic, start_after(fit._replace(refined=again))


def teach(path: Path | None) -> Mosaic:
    """Return domains that lattices share, learned in the annulus from others.

    path: of the file that they are kept in; None = they are not.
    """
    if path is not None and path.exists():
        return Mosaic(**np.load(path))
    kind = LatticeKind(model="continuous")
    data, d_max = kind.simulated
    problems = []
    for number in range(FIRST_TEACHER, FIRST_TEACHER + N_TEACHERS):
        patch = lattices.simulated(data, number, d_max=d_max)
        problems.append(where_it_ended(refined(kind, packed_lattice(patch), patch, number)))
    mosaic = lattices.learn_together(problems).mosaic
    if path is not None:
        np.savez(path, **mosaic._asdict())
    return mosaic


def work(kinds: list[LatticeKind], number: int, domains: Mosaic | None) -> list[Built]:
    """Return a lattice built for each kind; kinds have their data in common."""
    data, d_max = kinds[0].simulated
    patch = lattices.simulated(data, number, d_max=d_max)
    built = {kind: build(kind, patch, number, domains) for kind in dict.fromkeys(kinds)}
    return [built[kind] for kind in kinds]
