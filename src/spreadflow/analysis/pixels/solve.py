"""Fitting a lattice's unknowns and a background plane for each shoebox, by Fisher scoring with the
planes eliminated exactly.

The model of a pixel is Bragg(unknowns) + plane of its shoebox. A shoebox's plane meets the unknowns
in one block of the normal equations; its Schur complement leaves equations in the unknowns alone,
and the planes follow from these. Steps are damped after Levenberg and Marquardt. For comparison
there is L-BFGS on the same function.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Literal, NamedTuple

import numpy as np
from scipy.optimize import minimize

from spreadflow.analysis import least_squares
from spreadflow.analysis.pixels.likelihood import Noise, Target, pixelwise

SCALE_PX = 10.0
"""Unit of the slopes of a plane, px: its coefficients are then all in photons."""

SMALLEST_FALL = 0.01
"""A step that promises less of −ln L ends the fit."""

RIDGE = 1e-6
"""What is added to the diagonal of the planes' equations, relative to it: a shoebox may have too
few pixels for a plane.
"""

FIRST_DAMPING = 1e-3
"""Damping of the first step, relative to the diagonal of the information."""

LEAST_DAMPING = 1e-7
"""Damping falls tenfold after each fall of −ln L, down to this."""

LEAST_DAMPING_AFTER_RISE = 1e-2
"""Damping grows tenfold after each rise of −ln L, to this at least."""

MAX_DAMPING = 1e6
"""Damping above which a fit ends, for no step makes −ln L fall."""

PLANE_TOLERANCE = 1e-5
"""Planes are at rest when they promise less than this of −ln L."""

N_ROUNDS = 20
"""Rounds that bring planes to rest, at most."""

LBFGS_REACH = 5.0
"""How far from its start L-BFGS may look, in largest steps: spots as broad as a panel would fill
the memory.
"""

LEVERAGE = 0.999
"""The largest share of the information about an unknown that one shoebox is taken to hold."""

SMALLEST_DIAGONAL = 1e-30
"""Floor of the diagonal of an information and of steps, where either is divided by."""


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
    plane_gain: float
    """fall of the loss that the planes alone promise"""
    precision: np.ndarray
    """(unknown,) information of the restraints"""


class Fit(NamedTuple):
    """Where a fit ended."""

    point: Point
    n_evaluations: int
    is_converged: bool


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

    plane_coupling, plane_step = _solved_planes(blocks[:, n:, :], slopes[:, n:])
    # Schur complement
    across = blocks[:, n:, :n].transpose(0, 2, 1)
    informations = blocks[:, :n, :n] - across @ plane_coupling
    scores = slopes[:, :n, 0] - (across @ plane_step[:, :, None])[:, :, 0]

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
        plane_coupling=plane_coupling,
        plane_step=plane_step,
        plane_gain=0.5 * float((slopes[:, n:, 0] * plane_step).sum()),
        precision=precision,
    )


def _solved_planes(rows: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `Point.plane_coupling` and `Point.plane_step` from the planes' rows of each shoebox's
    information (box, 3, unknown + 3) and their slopes (box, 3, 1).
    """
    cross = rows[:, :, :-3]
    information = rows[:, :, -3:]
    diagonal = np.einsum("bii->bi", information)
    ridge = RIDGE * (diagonal + 1e-12)
    regular = information + ridge[:, :, None] * np.eye(3)
    right = np.concatenate([cross, slopes], axis=2)
    solved = least_squares.solve(regular, right)
    return solved[:, :, :-1], solved[:, :, -1]


def backgrounds(planes: np.ndarray, data: Data) -> np.ndarray:
    """Return the photons (pixel,) of planes (box, 3)."""
    of_pixel = planes.repeat(np.diff(data.start), axis=0)
    return np.einsum("pi,pi->p", data.plane, of_pixel)


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
) -> Fit:
    """Minimise an objective from `unknowns` (n,) and `planes` (box, 3).

    largest_step: (n,) bounds of one step. The fit ends when a step promises less than
    `smallest_fall` of −ln L, or is below `smallest_step` (n,) in every unknown, or after
    `n_iterations` evaluations. A rise of −ln L is never accepted. Raises Unsolvable where the
    normal equations are not finite.
    """
    best = evaluate(objective, unknowns, planes)
    damping = FIRST_DAMPING
    n_evaluations = 1
    while n_evaluations < n_iterations:
        step, promise = _step(best, damping)
        if largest_step is not None:
            step = _shortened(step, largest_step)
        is_short = smallest_step is not None and (np.abs(step) < smallest_step).all()
        if promise < smallest_fall or is_short:
            return Fit(best, n_evaluations, is_converged=True)

        moved = best.planes - best.plane_coupling @ step - best.plane_step / (1.0 + damping)
        trial = evaluate(objective, best.unknowns + step, moved)
        n_evaluations += 1
        if trial.loss < best.loss:
            best = trial
            damping = max(damping * 0.1, LEAST_DAMPING)
            continue

        damping = max(10.0 * damping, LEAST_DAMPING_AFTER_RISE)
        if damping > MAX_DAMPING:
            # Without readout noise a plane may rest on the edge of zero, where −ln L has no slope:
            # what the planes promise is then no sign of a fit that has not converged.
            promise = _step(best, LEAST_DAMPING)[1] - best.plane_gain
            return Fit(best, n_evaluations, promise < smallest_fall)
    return Fit(best, n_evaluations, is_converged=False)


def _step(point: Point, damping: float) -> tuple[np.ndarray, float]:
    """Return a damped step, and the fall of the loss that it promises, planes included. Raises
    Unsolvable.
    """
    gradient = point.gradient
    hessian = point.hessian
    least_squares.check_finite(hessian, gradient)
    scale = _scale(hessian)
    scaled = hessian * np.outer(scale, scale)
    damped = scaled + damping * np.eye(len(scale))
    step = -scale * least_squares.solve(damped, scale * gradient)
    promise = -gradient @ step - 0.5 * step @ hessian @ step
    return step, point.plane_gain + float(promise)


def _scale(hessian: np.ndarray) -> np.ndarray:
    """Return the units (unknown,) in which the diagonal of an information is 1."""
    return 1.0 / np.sqrt(np.maximum(np.diag(hessian), SMALLEST_DIAGONAL))


def _shortened(step: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Return a step (n,) in the same direction, nowhere above `largest` (n,)."""
    ratios = largest / np.maximum(np.abs(step), SMALLEST_DIAGONAL)
    return step * float(ratios.min(initial=1.0))


def descend(
    objective: Objective,
    unknowns: np.ndarray,
    planes: np.ndarray,
    *,
    largest_step: np.ndarray | None = None,
    smallest_fall: float = SMALLEST_FALL,
    n_iterations: int = 30,
) -> Fit:
    """Minimise an objective by L-BFGS (Liu & Nocedal 1989; with bounds, Byrd et al. 1995), for
    comparison with `fit`.

    With planes at rest −ln L is a function of the unknowns alone, whose gradient `evaluate` has.
    Unknowns are in units of Fisher's σ at the start, and stay within `LBFGS_REACH` of
    `largest_step`. It ends where `fit` would, before a Newton step that promises less than
    `smallest_fall`, or after `n_iterations` evaluations.
    """
    start = best = last = _at_rest(objective, unknowns, planes)
    unit = _scale(start.hessian)
    n_evaluations = 1

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best, last, n_evaluations
        if x.any():
            if n_evaluations == n_iterations:
                raise StopIteration
            last = _at_rest(objective, unknowns + x * unit, last.planes)
            n_evaluations = n_evaluations + 1
        best = last if last.loss < best.loss else best
        if _step(best, 0.0)[1] < smallest_fall:
            raise StopIteration
        return last.loss, last.gradient * unit

    bounds = None
    if largest_step is not None:
        bounds = np.outer(LBFGS_REACH * largest_step / unit, [-1.0, 1.0])
    unbounded = {"maxfun": n_iterations + 1, "maxiter": n_iterations + 1, "ftol": 0.0, "gtol": 0.0}
    x = np.zeros(len(unit))
    with suppress(StopIteration):
        if len(x):
            minimize(loss, x, jac=True, method="L-BFGS-B", bounds=bounds, options=unbounded)
    return Fit(best, n_evaluations, _step(best, 0.0)[1] < smallest_fall)


def _at_rest(objective: Objective, unknowns: np.ndarray, planes: np.ndarray) -> Point:
    """Return the point whose planes suit the unknowns best, looked for from `planes` (box, 3)."""
    bragg = objective.bragg(unknowns)
    of_planes = objective._replace(bragg=lambda _: bragg)
    for _ in range(N_ROUNDS):
        point = evaluate(of_planes, unknowns, planes)
        if point.plane_gain < PLANE_TOLERANCE:
            break
        planes = point.planes - point.plane_step
    return point


Minimizer = Literal["levenberg", "lbfgs"]
MINIMIZERS = {"levenberg": fit, "lbfgs": descend}


def covariances(point: Point) -> tuple[np.ndarray, np.ndarray]:
    """Return two covariances of the unknowns (unknown, unknown): Fisher's, and the sandwich over
    shoeboxes.

    The sandwich is honest also where the model is wrong, as long as it is wrong in each shoebox by
    itself. With g the score of a shoebox and h its information it is (n − 1)/n Σ d dᵀ, d = (H −
    h)⁻¹g: how far the unknowns move when the shoebox is left out (jackknife; CV₃ of MacKinnon,
    Nielsen & Webb 2023). H⁻¹(Σ g gᵀ)H⁻¹ would be too small where few shoeboxes hold most of the
    information, for these draw the fit to themselves. A restraint of precision P is taken at its
    word, as a measurement that no shoebox holds: + H⁻¹PH⁻¹. Where the model is right, both are H⁻¹.
    Raises Unsolvable where the information is not finite.
    """
    least_squares.check_finite(point.hessian, point.scores)
    scale = _scale(point.hessian)
    scaled = point.hessian * np.outer(scale, scale)
    values, vectors = np.linalg.eigh(scaled)
    determined = values > 1e-12 * values.max(initial=0.0)
    root = scale[:, None] * vectors[:, determined] / np.sqrt(values[determined])

    # along an axis of which it holds the share s, a shoebox left out moves a fit by score/(1 − s)
    shares, axes = np.linalg.eigh(root.T @ point.informations @ root)
    scores = np.einsum("bij,bi->bj", axes, point.scores @ root)
    others = 1.0 - np.minimum(shares, LEVERAGE)
    moves = np.einsum("bij,bj->bi", axes, scores / others)

    n = len(moves)
    of_restraints = root.T @ (point.precision[:, None] * root)
    scatter = moves.T @ moves * ((n - 1) / n) + of_restraints
    return root @ root.T, root @ scatter @ root.T
