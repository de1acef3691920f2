"""Weights of the components of a mosaicity, learned from the pixels of lattices that share it.

A pixel is expected to hold factor · Σ weight·template + plane. Expectation-maximization solves for
the weights without ever going negative (Richardson 1972, Lucy 1974; Shepp & Vardi 1982); it goes in
strides, each an extrapolation (Varadhan & Roland 2008). Pixels that are held out of everything
judge.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy

from spreadflow.analysis.pixels import lattice_fit, solve, weight_loops
from spreadflow.analysis.pixels.lattice_fit import Problem
from spreadflow.analysis.pixels.likelihood import FLOOR, Target, pixelwise, variance
from spreadflow.analysis.pixels.weight_loops import LitPixels
from spreadflow.models import Mosaic
from spreadflow.physics.components import by_component

TEMPLATE_REACH = 3.5
"""Standard deviations out to which templates are followed: 0.2 % of their photons lie farther."""

LONGEST_STRIDE = 16.0
"""Iterations that a stride extrapolates over, at most."""

LARGEST_CHANGE = 3.0
"""Change of ln of a weight by which a stride may lengthen iterations, at most."""

SMALLEST_WEIGHT = 1e-12
"""Weight of a node that counts as none."""

PLANE_ROUNDS = 2
"""Rounds of reweighting in which planes are fitted."""

ITERATIONS_OF_STRIDE = 3
"""Iterations that a stride takes."""

Add = Callable[[list[np.ndarray]], np.ndarray]
"""Sums equal arrays, one of each lattice, over the lattices of all ranks; every rank calls it
equally often.
"""


def sum_up(arrays: list[np.ndarray]) -> np.ndarray:
    """Return the sum of arrays where one rank has all lattices."""
    return np.sum(arrays, axis=0)


class Split(NamedTuple):
    """Which shoeboxes of a lattice teach; the others are held out."""

    box: np.ndarray
    """(box,) bool"""
    pixel: np.ndarray
    """(valid pixel,) bool"""


def fitted_background(
    bragg: np.ndarray, problem: Problem, split: Split
) -> tuple[float, np.ndarray]:
    """Return the factor of the Bragg photons, from the shoeboxes that teach, and the photons (valid
    pixel,) of all planes.
    """
    factor, planes = lattice_fit.planes_and_scale(
        bragg, problem.data, problem.noise, PLANE_ROUNDS, split.pixel
    )
    return factor, solve.backgrounds(planes, problem.data)


def selected_loss(
    problem: Problem, model: np.ndarray, selected: np.ndarray, target: Target
) -> np.ndarray:
    """Return −ln L (1,) of selected pixels under a model; model, selected: (valid pixel,)."""
    photons = problem.data.photons[selected]
    by_pixel = pixelwise(photons, model[selected], problem.noise, target)
    return by_pixel.loss.sum(keepdims=True)


# ---------------------------------------------------------------- templates


def templates(problem: Problem, mosaic: Mosaic) -> "scipy.sparse.csr_matrix":
    """Return the Bragg photons (valid pixel, component) of the problem's start if one component had
    all domains.
    """
    start = problem.start._replace(mosaic=mosaic)
    return by_component(start, problem.boxes, problem.oversample, TEMPLATE_REACH)


class TemplatedLattice(NamedTuple):
    """A lattice with its templates, from which weights are learned."""

    problem: Problem
    split: Split
    lit_pixels: np.ndarray
    """valid pixels that teach and are lit by any node"""
    lit: "scipy.sparse.csr_matrix"
    """their templates"""
    held_out: "scipy.sparse.csr_matrix"
    """templates of the pixels held out"""

    def bragg(self, weight: np.ndarray) -> np.ndarray:
        """Return the Bragg photons (valid pixel,) of weights (node,)."""
        photons = np.zeros(len(self.problem.data.photons))
        single = weight.astype(np.float32)
        photons[self.lit_pixels] = self.lit @ single
        photons[~self.split.pixel] = self.held_out @ single
        return photons


def _templated(problem: Problem, split: Split, mosaic: Mosaic) -> TemplatedLattice:
    """Return a lattice with its templates of the components of a distribution."""
    of_pixels = templates(problem, mosaic)
    lit_pixels = np.flatnonzero((np.diff(of_pixels.indptr) > 0) & split.pixel)
    return TemplatedLattice(
        problem, split, lit_pixels, of_pixels[lit_pixels], of_pixels[~split.pixel]
    )


def all_templated(
    fits: Sequence[Problem], splits: Sequence[Split], mosaic: Mosaic
) -> list[TemplatedLattice]:
    """Return lattices with their templates of the components of a distribution."""
    return [_templated(problem, split, mosaic) for problem, split in zip(fits, splits, strict=True)]


class Expectation(NamedTuple):
    """What a lattice says about the weights while its planes and scale are fixed; pixels are the
    lit ones.
    """

    lit: LitPixels
    factor: float
    expected: np.ndarray
    """(node,) Σ factor·counting_share·template"""


def expectations(
    lattices: Sequence[TemplatedLattice], weight: np.ndarray, target: Target, add: Add
) -> tuple[list[Expectation], float]:
    """Return what each lattice says about the weights, with planes and scale that suit `weight`
    (node,), and −ln L of the held-out pixels. Collective.
    """
    of_lattices = []
    losses = []
    for lattice in lattices:
        bragg = lattice.bragg(weight)
        factor, background = fitted_background(bragg, lattice.problem, lattice.split)
        model = factor * bragg + background
        losses.append(selected_loss(lattice.problem, model, ~lattice.split.pixel, target))
        lit_pixels = lattice.lit_pixels
        of_lattices.append(_expectation(lattice, factor, background[lit_pixels], model[lit_pixels]))
    return of_lattices, float(add(losses)[0])


def _expectation(
    lattice: TemplatedLattice, factor: float, background: np.ndarray, model: np.ndarray
) -> Expectation:
    """Return what a lattice says whose lit pixels have a background and a model (pixel,)."""
    noise = lattice.problem.noise
    readout = noise.readout_photons**2
    counting_share = (np.maximum(model, FLOOR) + readout) / variance(model, noise)
    counted = np.maximum(lattice.problem.data.photons[lattice.lit_pixels] + readout, 0.0)
    background = np.maximum(background, FLOOR) + readout
    lit = LitPixels(
        ends=lattice.lit.indptr,
        node=lattice.lit.indices,
        template=lattice.lit.data,
        counted=counted,
        background=background,
        counting_share=counting_share,
    )
    return Expectation(lit, factor, expected=factor * (lattice.lit.T @ counting_share))


def after_stride(weight: np.ndarray, expectations: Sequence[Expectation], add: Add) -> np.ndarray:
    """Return the weights (node,) after two iterations, an extrapolation and a third: squared
    extrapolation (Varadhan & Roland 2008) of ln weight, which stays finite. Collective.
    """
    once = iterated(weight, expectations, add)
    twice = iterated(once, expectations, add)
    logs = [np.log(np.maximum(one, SMALLEST_WEIGHT)) for one in (weight, once, twice)]
    first_step = logs[1] - logs[0]
    bend = (logs[2] - logs[1]) - first_step
    length_square = (weight * first_step**2).sum()
    bend_square = (weight * bend**2).sum()
    length = LONGEST_STRIDE
    if length_square < LONGEST_STRIDE**2 * bend_square:
        length = max(float(np.sqrt(length_square / bend_square)), 1.0)
    change = 2.0 * length * first_step + length**2 * bend
    lengthened = np.clip(change - (logs[2] - logs[0]), -LARGEST_CHANGE, LARGEST_CHANGE)
    extrapolated = twice * np.exp(lengthened)
    return iterated(extrapolated / extrapolated.sum(), expectations, add)


def iterated(weight: np.ndarray, expectations: Sequence[Expectation], add: Add) -> np.ndarray:
    """Return the weights (node,), which sum to 1, after one step: weight·Σ
    template·counting_share·counted/model / Σ template·counting_share. Collective.
    """
    sums = []
    for of_lattice in expectations:
        observed = weight_loops.observed(of_lattice.lit, of_lattice.factor, weight)
        sums.append(np.stack([observed, of_lattice.expected]))
    observed, expected = add(sums)
    ratio = np.divide(observed, expected, out=np.zeros_like(observed), where=expected > 0)
    moved = weight * ratio
    return moved / moved.sum()
