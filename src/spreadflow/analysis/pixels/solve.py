"""Fitting a lattice's unknowns and a background plane for each shoebox: Fisher scoring, planes
eliminated exactly.

The model of a pixel is Bragg(unknowns) + plane of its shoebox. A shoebox's plane meets the unknowns
in one block of the normal equations; its Schur complement leaves equations in the unknowns alone,
and the planes follow from these. Steps are damped after Levenberg and Marquardt. For comparison
there is L-BFGS on the same function.
"""

from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from scipy.optimize import minimize

from spreadflow.analysis.pixels.likelihood import Noise, Target, pixelwise

SCALE_PX = 10.0
"""Unit of the slopes of a plane: its coefficients are all in photons."""

SMALLEST_FALL = 0.01
"""A step that promises less of −ln L ends the fit."""

RIDGE = 1e-6
"""Of the planes' equations, relative to their diagonal: a shoebox may have too few pixels for a
plane.
"""

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


class Data(NamedTuple):
    """Pixels of a lattice's shoeboxes that count, ordered by shoebox."""

    photons: np.ndarray
    """(pixel,)"""
    plane: np.ndarray
    """(pixel, 3): 1, (fast − middle)/10 px, (slow − middle)/10 px"""
    start: np.ndarray
    """(box + 1,) first pixel of each shoebox, and the number of pixels"""


class Restraint(NamedTuple):
    """Normal restraints of the unknowns: centre and 1/variance, each (unknown,); precision 0 =
    free.
    """

    centre: np.ndarray
    precision: np.ndarray

    def loss(self, unknowns: np.ndarray | float) -> float:
        """Return its share of −ln L."""
        return float(0.5 * self.precision @ (unknowns - self.centre) ** 2)


class Point(NamedTuple):
    """The fit at one set of unknowns."""

    unknowns: np.ndarray
    planes: np.ndarray
    """(box, 3) photons"""
    bragg: np.ndarray
    """(pixel,)"""
    model: np.ndarray
    """(pixel,)"""
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
    """(box, 3, unknown) planes move by −coupling·step − lag"""
    plane_step: np.ndarray
    """(box, 3)"""
    plane_gain: float
    """fall of the loss that the planes alone promise"""
    precision: np.ndarray
    """(unknown,) information of the restraints"""


class Fit(NamedTuple):
    point: Point
    n_evaluations: int
    is_converged: bool


Bragg = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Unknowns → Bragg photons (pixel,) and their derivatives (pixel, unknown)."""


def evaluate(
    bragg: Bragg,
    unknowns: np.ndarray,
    planes: np.ndarray,
    data: Data,
    noise: Noise,
    restraint: Restraint,
    target: Target,
) -> Point:
    """Return loss and reduced normal equations."""
    values, jacobian = bragg(unknowns)
    model = values + backgrounds(planes, data)
    of = pixelwise(data.photons, model, noise, target)
    n = len(unknowns)
    columns = np.concatenate([jacobian, data.plane], axis=1)
    blocks = by_box(columns * of.information[:, None], columns, data.start)
    slopes = by_box(columns, of.score[:, None], data.start)
    own = blocks[:, n:, n:]
    cross = blocks[:, n:, :n]
    right = slopes[:, n:]
    ridge = RIDGE * (np.einsum("bii->bi", own) + 1e-12)
    solved = np.linalg.solve(
        own + ridge[:, :, None] * np.eye(3), np.concatenate([cross, right], axis=2)
    )
    plane_coupling = solved[:, :, :n]
    plane_step = solved[:, :, n]
    across = cross.transpose(0, 2, 1)
    informations = blocks[:, :n, :n] - across @ plane_coupling
    scores = slopes[:, :n, 0] - (across @ plane_step[:, :, None])[:, :, 0]
    plane_gain = 0.5 * float((right[:, :, 0] * plane_step).sum())
    precision = restraint.precision
    gradient = scores.sum(axis=0) + precision * (unknowns - restraint.centre)
    loss = float(of.loss.sum()) + restraint.loss(unknowns)
    hessian = informations.sum(axis=0) + np.diag(precision)
    shares = (scores, informations)
    return Point(
        unknowns,
        planes,
        values,
        model,
        loss,
        hessian,
        gradient,
        *shares,
        plane_coupling,
        plane_step,
        plane_gain,
        precision,
    )


def backgrounds(planes: np.ndarray, data: Data) -> np.ndarray:
    """Return (pixel,) photons of the planes (box, 3)."""
    return np.einsum("pi,pi->p", data.plane, planes.repeat(np.diff(data.start), axis=0))


def by_box(left: np.ndarray, right: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return (box, i, j) leftᵀ right of the pixels of each box; left (pixel, i), right (pixel,
    j).
    """
    out = np.empty((len(start) - 1, left.shape[1], right.shape[1]))
    for box, (a, b) in enumerate(pairwise(start)):
        np.matmul(left[a:b].T, right[a:b], out=out[box])
    return out


def fit(
    bragg: Bragg,
    unknowns: np.ndarray,
    planes: np.ndarray,
    data: Data,
    noise: Noise,
    restraint: Restraint,
    *,
    target: Target = "normal",
    largest: np.ndarray | None = None,
    n_iterations: int = 30,
    enough: float = SMALLEST_FALL,
    least: np.ndarray | None = None,
) -> Fit:
    """Minimise −ln L from `unknowns` (n,) and `planes` (box, 3). largest: (n,) bounds of one step.

    Ends when a step promises less than `enough`, or is below `least` (n,) in every unknown. A rise
    of −ln L is never accepted.
    """
    best = evaluate(bragg, unknowns, planes, data, noise, restraint, target)
    damping, n_evaluations = 1e-3, 1
    while n_evaluations < n_iterations:
        step, promise = _step(best, damping)
        if largest is not None:
            step = step * min(1.0, float((largest / np.maximum(np.abs(step), 1e-30)).min()))
        if promise < enough or (least is not None and (np.abs(step) < least).all()):
            return Fit(best, n_evaluations, True)
        moved = best.planes - best.plane_coupling @ step - best.plane_step / (1.0 + damping)
        new = evaluate(bragg, best.unknowns + step, moved, data, noise, restraint, target)
        n_evaluations += 1
        if new.loss < best.loss:
            best = new
            damping = max(damping * 0.1, 1e-7)
        else:
            damping = max(10.0 * damping, 1e-2)
            if (
                damping > 1e6
                # with no readout noise a plane may rest on the edge of zero, where −ln L has no
                # slope
            ):
                return Fit(best, n_evaluations, _step(best, 1e-7)[1] - best.plane_gain < enough)
    return Fit(best, n_evaluations, False)


def _step(point: Point, damping: float) -> tuple[np.ndarray, float]:
    """Return damped step, and the fall of the loss it promises, planes included."""
    diagonal = np.maximum(np.diag(point.hessian), 1e-30)
    scale = 1.0 / np.sqrt(diagonal)
    scaled = point.hessian * np.outer(scale, scale) + damping * np.eye(len(scale))
    step = -scale * np.linalg.solve(scaled, scale * point.gradient)
    return step, point.plane_gain + float(
        -point.gradient @ step - 0.5 * step @ point.hessian @ step
    )


def descend(
    bragg: Bragg,
    unknowns: np.ndarray,
    planes: np.ndarray,
    data: Data,
    noise: Noise,
    restraint: Restraint,
    *,
    target: Target = "normal",
    largest: np.ndarray | None = None,
    n_iterations: int = 30,
    enough: float = SMALLEST_FALL,
) -> Fit:
    """Fit by L-BFGS (Liu & Nocedal 1989; with bounds, Byrd et al. 1995), for comparison.

    −ln L with planes at rest, a function of the unknowns alone, has the gradient that `evaluate`
    tells. Unknowns are in units of Fisher's σ at the start, and stay within `FARTHEST` of
    `largest`. Ends where `fit` would, before a Newton step that promises less than `enough`, or
    after `n_iterations` evaluations.
    """

    def at(u, planes):
        return _at_rest(bragg, u, planes, data, noise, restraint, target)

    start = best = last = at(unknowns, planes)
    unit = 1.0 / np.sqrt(np.maximum(np.diag(start.hessian), 1e-30))
    n_evaluations = 1

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best, last, n_evaluations
        if x.any():
            if n_evaluations == n_iterations:
                raise StopIteration
            last = at(unknowns + x * unit, last.planes)
            n_evaluations = n_evaluations + 1
        best = last if last.loss < best.loss else best
        if _step(best, 0.0)[1] < enough:
            raise StopIteration
        return last.loss, last.gradient * unit

    bounds = None if largest is None else np.outer(LBFGS_REACH * largest / unit, [-1.0, 1.0])
    unbounded = {"maxfun": n_iterations + 1, "maxiter": n_iterations + 1, "ftol": 0.0, "gtol": 0.0}
    with suppress(StopIteration):
        minimize(
            loss, np.zeros(len(unit)), jac=True, method="L-BFGS-B", bounds=bounds, options=unbounded
        )
    return Fit(best, n_evaluations, _step(best, 0.0)[1] < enough)


def _at_rest(bragg: Bragg, unknowns: np.ndarray, planes: np.ndarray, *of) -> Point:
    """Return the point whose planes suit the unknowns best."""
    made = bragg(unknowns)
    for _ in range(N_ROUNDS):
        point = evaluate(lambda _: made, unknowns, planes, *of)
        if point.plane_gain < PLANE_TOLERANCE:
            break
        planes = point.planes - point.plane_step
    return point


Minimizer = Literal["levenberg", "lbfgs"]
MINIMIZERS = {"levenberg": fit, "lbfgs": descend}


def covariances(point: Point) -> tuple[np.ndarray, np.ndarray]:
    """Return covariance of the unknowns (unknown, unknown): of Fisher, and the sandwich over
    shoeboxes.

    The sandwich is honest also where the model is wrong, as long as it is wrong in each shoebox by
    itself. With g the score of a shoebox and h its information it is (n − 1)/n Σ d dᵀ, d = (H −
    h)⁻¹g: how far the unknowns move when the shoebox is left out (jackknife; CV₃ of MacKinnon,
    Nielsen & Webb 2023). H⁻¹(Σ g gᵀ)H⁻¹ would be too small where few shoeboxes hold most of the
    information, for these draw the fit to themselves. A restraint of precision P is taken at its
    word, as a measurement that no shoebox holds: + H⁻¹PH⁻¹. Where the model is right, both are H⁻¹.
    """
    scale = 1.0 / np.sqrt(np.maximum(np.diag(point.hessian), 1e-30))
    values, vectors = np.linalg.eigh(point.hessian * np.outer(scale, scale))
    known = values > 1e-12 * values.max()
    root = scale[:, None] * vectors[:, known] / np.sqrt(values[known])
    shares, axes = np.linalg.eigh(root.T @ point.informations @ root)
    along = np.einsum("bij,bi->bj", axes, point.scores @ root) / (
        1.0 - np.minimum(shares, LEVERAGE)
    )
    moved = np.einsum("bij,bj->bi", axes, along)
    n = len(moved)
    scatter = moved.T @ moved * ((n - 1) / n) + root.T @ (point.precision[:, None] * root)
    return root @ root.T, root @ scatter @ root.T
