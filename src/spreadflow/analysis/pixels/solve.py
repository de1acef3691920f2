"""Fitting a lattice's unknowns and a background plane for each shoebox, by Fisher scoring with the
planes eliminated exactly.

The model of a pixel is Bragg(unknowns) + plane of its shoebox. A shoebox's plane meets the unknowns
in one block of the normal equations; its Schur complement leaves equations in the unknowns alone,
and the planes follow from these. For comparison there is L-BFGS on the same function.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Literal, NamedTuple

import numpy as np
import scipy

from spreadflow.analysis import least_squares
from spreadflow.analysis.least_squares import RIDGE, Damping, Ending, Fit, Limits
from spreadflow.analysis.pixels.likelihood import Target, pixelwise
from spreadflow.models import Noise

SCALE_PX = 10.0
"""Unit of the slopes of a plane, px: its coefficients are then all in photons."""

SMALLEST_FALL = 0.01
"""A step that promises less of −ln L ends the fit."""

DAMPING = Damping(first=1e-3, least=1e-7, least_after_rise=1e-2, largest=1e6)
"""How steps are damped."""

PLANE_TOLERANCE = 1e-5
"""Planes are at rest when they promise less than this of −ln L."""

N_ROUNDS = 20
"""Rounds that bring planes to rest, at most."""

LBFGS_REACH = 5.0
"""How far from its start L-BFGS may look, in largest steps: spots as broad as a panel would fill
the memory.
"""


class Data(NamedTuple):
    """The pixels of a lattice's shoeboxes that count, ordered by shoebox."""

    photons: np.ndarray
    """(pixel,)"""
    plane: np.ndarray
    """(pixel, 3): 1, (fast − middle)/10 px, (slow − middle)/10 px"""
    start: np.ndarray
    """(box + 1,) first pixel of each shoebox, and the number of pixels"""


class Restraint(NamedTuple):
    """Normal restraints of the unknowns."""

    centre: np.ndarray
    """(unknown,)"""
    precision: np.ndarray
    """(unknown,) 1/variance; 0 where an unknown is free"""

    def loss(self, unknowns: np.ndarray | float) -> float:
        """Return the restraint's share of −ln L."""
        return float(0.5 * self.precision @ (unknowns - self.centre) ** 2)


Bragg = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Unknowns → Bragg photons (pixel,) and their derivatives (pixel, unknown)."""


class Objective(NamedTuple):
    """What a fit minimises: −ln L of the pixels with that of the restraints, as a function of the
    unknowns and the planes.
    """

    bragg: Bragg
    data: Data
    noise: Noise
    restraint: Restraint
    target: Target = "normal"


class Point(NamedTuple):
    """The objective at one set of unknowns and planes, and its normal equations."""

    unknowns: np.ndarray
    """(unknown,)"""
    planes: np.ndarray
    """(box, 3) photons"""
    bragg: np.ndarray
    """(pixel,) photons"""
    model: np.ndarray
    """(pixel,) photons, planes included"""
    loss: float
    """−ln L, restraints included"""
    hessian: np.ndarray
    """(unknown, unknown) information, planes eliminated, restraints included"""
    gradient: np.ndarray
    """(unknown,) of the loss, planes eliminated, restraints included"""
    scores: np.ndarray
    """(box, unknown) each shoebox's share of the gradient, without restraints"""
    informations: np.ndarray
    """(box, unknown, unknown) each shoebox's share of the information, without restraints"""
    plane_coupling: np.ndarray
    """(box, 3, unknown) planes move by −plane_coupling·step − plane_step"""
    plane_step: np.ndarray
    """(box, 3) what the planes alone promise to move by, with the sign reversed"""
    nuisance_gain: float
    """fall of the loss that the planes alone promise"""
    precision: np.ndarray
    """(unknown,) information of the restraints"""


def evaluate(objective: Objective, unknowns: np.ndarray, planes: np.ndarray) -> Point:
    """Return the loss at `unknowns` (n,) and `planes` (box, 3), and the normal equations with the
    planes eliminated.
    """
    data = objective.data
    restraint = objective.restraint
    bragg, jacobian = objective.bragg(unknowns)
    model = bragg + backgrounds(planes, data)
    by_pixel = pixelwise(data.photons, model, objective.noise, objective.target)

    # information and slope of each shoebox, in the unknowns and its plane
    n = len(unknowns)
    columns = np.concatenate([jacobian, data.plane], axis=1)
    blocks = by_box(columns * by_pixel.information[:, None], columns, data.start)
    slopes = by_box(columns, by_pixel.score[:, None], data.start)

    without_planes = least_squares.eliminate(blocks, slopes, n, RIDGE)
    informations = without_planes.information
    scores = without_planes.right[:, :, 0]
    plane_step = without_planes.own[:, :, 0]
    precision = restraint.precision
    return Point(
        unknowns=unknowns,
        planes=planes,
        bragg=bragg,
        model=model,
        loss=float(by_pixel.loss.sum()) + restraint.loss(unknowns),
        hessian=informations.sum(axis=0) + np.diag(precision),
        gradient=scores.sum(axis=0) + precision * (unknowns - restraint.centre),
        scores=scores,
        informations=informations,
        plane_coupling=without_planes.coupling,
        plane_step=plane_step,
        nuisance_gain=0.5 * float((slopes[:, n:, 0] * plane_step).sum()),
        precision=precision,
    )


def backgrounds(planes: np.ndarray, data: Data) -> np.ndarray:
    """Return the photons (pixel,) of planes (box, 3)."""
    return of_pixels(data.plane, planes[:, :, None], data.start)[:, 0]


def of_pixels(left: np.ndarray, right: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return left right (pixel, j), each pixel's row times the matrix of its box; left: (pixel, i),
    right: (box, i, j), start: (box + 1,) first pixel of each box.
    """
    out = np.empty((len(left), right.shape[2]))
    for box, matrix in enumerate(right):
        pixels = slice(start[box], start[box + 1])
        np.matmul(left[pixels], matrix, out=out[pixels])
    return out


def by_box(left: np.ndarray, right: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return leftᵀ right (box, i, j) over the pixels of each box; left: (pixel, i), right: (pixel,
    j), start: (box + 1,) first pixel of each box.
    """
    n_boxes = len(start) - 1
    out = np.empty((n_boxes, left.shape[1], right.shape[1]))
    for box in range(n_boxes):
        pixels = slice(start[box], start[box + 1])
        np.matmul(left[pixels].T, right[pixels], out=out[box])
    return out


def fit(
    objective: Objective,
    unknowns: np.ndarray,
    planes: np.ndarray,
    *,
    largest_step: np.ndarray | None = None,
    smallest_step: np.ndarray | None = None,
    smallest_fall: float = SMALLEST_FALL,
    n_iterations: int = 30,
) -> Fit[Point]:
    """Minimise an objective from `unknowns` (n,) and `planes` (box, 3).

    largest_step: (n,) bounds of one step. The fit ends when a step promises less than
    `smallest_fall` of −ln L, or is below `smallest_step` (n,) in every unknown, or after
    `n_iterations` evaluations. Raises Unsolvable.
    """

    def moved(point: Point, step: np.ndarray, damping: float) -> Point:
        planes = point.planes - point.plane_coupling @ step - point.plane_step / (1.0 + damping)
        return evaluate(objective, point.unknowns + step, planes)

    limits = Limits(
        n_evaluations=n_iterations,
        smallest_promise=smallest_fall,
        largest_step=largest_step,
        smallest_step=smallest_step,
    )
    start = evaluate(objective, unknowns, planes)
    return least_squares.levenberg_marquardt(start, moved, DAMPING, limits)


def descend(
    objective: Objective,
    unknowns: np.ndarray,
    planes: np.ndarray,
    *,
    largest_step: np.ndarray | None = None,
    smallest_fall: float = SMALLEST_FALL,
    n_iterations: int = 30,
) -> Fit[Point]:
    """Minimise an objective by L-BFGS (Liu & Nocedal 1989; with bounds, Byrd et al. 1995), for
    comparison with `fit`.

    With planes at rest −ln L is a function of the unknowns alone, whose gradient `evaluate` has.
    Unknowns are in units of Fisher's σ at the start, and stay within `LBFGS_REACH` of
    `largest_step`. It ends where `fit` would, before a Newton step that promises less than
    `smallest_fall`, or after `n_iterations` evaluations.
    """
    start = best = last = _at_rest(objective, unknowns, planes)
    unit = least_squares.unit(start.hessian)
    n_evaluations = 1

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best, last, n_evaluations
        if x.any():
            if n_evaluations == n_iterations:
                raise StopIteration
            last = _at_rest(objective, unknowns + x * unit, last.planes)
            n_evaluations = n_evaluations + 1
        best = last if last.loss < best.loss else best
        if least_squares.damped_step(best, 0.0)[1] < smallest_fall:
            raise StopIteration
        return last.loss, last.gradient * unit

    bounds = None
    if largest_step is not None:
        bounds = np.outer(LBFGS_REACH * largest_step / unit, [-1.0, 1.0])
    unbounded = {"maxfun": n_iterations + 1, "maxiter": n_iterations + 1, "ftol": 0.0, "gtol": 0.0}
    x = np.zeros(len(unit))
    with suppress(StopIteration):
        if len(x):
            scipy.optimize.minimize(
                loss, x, jac=True, method="L-BFGS-B", bounds=bounds, options=unbounded
            )
    is_at_rest = least_squares.damped_step(best, 0.0)[1] < smallest_fall
    return Fit(best, n_evaluations, Ending.CONVERGED if is_at_rest else Ending.TOO_MANY)


def _at_rest(objective: Objective, unknowns: np.ndarray, planes: np.ndarray) -> Point:
    """Return the point whose planes suit the unknowns best, looked for from `planes` (box, 3)."""
    bragg = objective.bragg(unknowns)
    of_planes = objective._replace(bragg=lambda _: bragg)
    for _ in range(N_ROUNDS):
        point = evaluate(of_planes, unknowns, planes)
        if point.nuisance_gain < PLANE_TOLERANCE:
            break
        planes = point.planes - point.plane_step
    return point


Minimizer = Literal["levenberg", "lbfgs"]
MINIMIZERS = {"levenberg": fit, "lbfgs": descend}
