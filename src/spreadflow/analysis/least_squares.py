"""Least squares: nuisances eliminated, damped steps and the loop that takes them, covariances, and
the one exception that says that there is no solution.

A *point* is what is evaluated at some unknowns: the loss (−ln L), its gradient, and the information
(the hessian of the loss, after Gauss, Newton and Fisher).
"""

from collections.abc import Callable
from enum import Enum
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np

SMALLEST_DIAGONAL = 1e-30
"""Floor of the diagonal of an information and of steps, where either is divided by."""

RIDGE = 1e-6
"""What is added to the diagonal of an information that may be singular, relative to it: a shoebox
may have too few pixels for a plane, and two reflections may light the same pixels alike.
"""

LEVERAGE = 0.999
"""The largest share of the information about an unknown that one group is taken to hold."""

UNDETERMINED = 1e-12
"""Eigenvalue of a scaled information, relative to the largest, below which nothing is known along
its axis.
"""


class Unsolvable(ArithmeticError):
    """Normal equations are singular, or not finite: what is fitted has no solution.

    Solvers alone raise it. Whoever fits many lattices catches it, and nothing else: any other
    error is one of the program.
    """


class Point(Protocol):
    """The normal equations at some unknowns, those of nuisances eliminated."""

    @property
    def loss(self) -> float:
        """−ln L, restraints included"""

    @property
    def hessian(self) -> np.ndarray:
        """(unknown, unknown) information, restraints included"""

    @property
    def gradient(self) -> np.ndarray:
        """(unknown,) of the loss"""

    @property
    def nuisance_gain(self) -> float:
        """fall of the loss that the nuisances alone promise; 0 where there are none"""


P = TypeVar("P", bound=Point)


class Damping(NamedTuple):
    """How steps are damped, relative to the diagonal of the information."""

    first: float
    """of the first step"""
    least: float
    """damping falls tenfold after each fall of the loss, down to this"""
    least_after_rise: float
    """damping grows tenfold after each rise of the loss, to this at least"""
    largest: float
    """above it a fit ends, for no step makes the loss fall"""


class Limits(NamedTuple):
    """Where a fit ends, and how far a step may go."""

    n_evaluations: int
    """at most, the start among them"""
    smallest_promise: float = -np.inf
    """a step that promises less of the loss is not taken"""
    smallest_fall: float = 0.0
    """a step after which the loss has fallen by less is the last"""
    largest_step: np.ndarray | None = None
    """(unknown,) bounds of one step"""
    smallest_step: np.ndarray | None = None
    """(unknown,) a step that is below this in every unknown is not taken"""


class Ending(Enum):
    """Why a fit ended, in words."""

    CONVERGED = "a further step would change little"
    NO_FALL = "no step makes −ln L fall"
    TOO_MANY = "as many evaluations as are allowed"


class Fit(NamedTuple, Generic[P]):
    """Where a fit ended."""

    point: P
    n_evaluations: int
    ending: Ending

    @property
    def is_converged(self) -> bool:
        """Whether the fit rests."""
        return self.ending == Ending.CONVERGED


def solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return matrix⁻¹ right of square matrices (..., n, n) and right sides (..., n, k) or (n,).

    What is not finite leads to what is not finite (see `check_finite`). Raises Unsolvable where a
    matrix is singular.
    """
    n_rows, n_columns = matrix.shape[-2:]
    if n_rows != n_columns:
        raise ValueError(f"a square matrix is needed; found {n_rows} × {n_columns}")
    try:
        return np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError as error:
        raise Unsolvable("the normal equations are singular") from error


def check_finite(hessian: np.ndarray, gradient: np.ndarray) -> None:
    """Raise Unsolvable unless normal equations are finite."""
    if not (np.isfinite(hessian).all() and np.isfinite(gradient).all()):
        raise Unsolvable("the normal equations are not finite")


class Elimination(NamedTuple):
    """Normal equations of n unknowns, from which m nuisances are eliminated."""

    information: np.ndarray
    """(..., n, n) the Schur complement"""
    right: np.ndarray
    """(..., n, k) right sides, such as the gradient"""
    coupling: np.ndarray
    """(..., m, n) nuisances fall by coupling · step beside what they do by themselves"""
    own: np.ndarray
    """(..., m, k) what the right sides make of nuisances by themselves"""


def regular(information: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """Return informations (..., m, m) with a ridge on their diagonal, relative to it."""
    diagonal = np.einsum("...ii->...i", information)
    added = ridge * np.maximum(diagonal, SMALLEST_DIAGONAL)
    return information + added[..., None] * np.eye(information.shape[-1])


def eliminate(
    information: np.ndarray, right: np.ndarray, n: int, ridge: float = 0.0
) -> Elimination:
    """Return normal equations without the unknowns after the first n.

    information: (..., n + m, n + m); right: (..., n + m, k); ridge: of the nuisances, see
    `regular`. Raises Unsolvable where the nuisances are not determined.
    """
    nuisance = regular(information[..., n:, n:], ridge)
    coupled = np.concatenate([information[..., n:, :n], right[..., n:, :]], axis=-1)
    solved = solve(nuisance, coupled)
    coupling = solved[..., :n]
    own = solved[..., n:]
    across = information[..., :n, n:]
    return Elimination(
        information=information[..., :n, :n] - across @ coupling,
        right=right[..., :n, :] - across @ own,
        coupling=coupling,
        own=own,
    )


def unit(hessian: np.ndarray) -> np.ndarray:
    """Return the units (unknown,) in which the diagonal of an information is 1."""
    return 1.0 / np.sqrt(np.maximum(np.diag(hessian), SMALLEST_DIAGONAL))


def damped_step(point: Point, damping: float) -> tuple[np.ndarray, float]:
    """Return a step (unknown,) damped after Levenberg and Marquardt, and the fall of the loss that
    it promises, nuisances included. Raises Unsolvable.
    """
    gradient = point.gradient
    hessian = point.hessian
    check_finite(hessian, gradient)
    scale = unit(hessian)
    scaled = hessian * np.outer(scale, scale)
    damped = scaled + damping * np.eye(len(scale))
    step = -scale * solve(damped, scale * gradient)
    promise = -gradient @ step - 0.5 * step @ hessian @ step
    return step, point.nuisance_gain + float(promise)


def _shortened(step: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Return a step (n,) in the same direction, nowhere above `largest` (n,)."""
    ratios = largest / np.maximum(np.abs(step), SMALLEST_DIAGONAL)
    return step * float(ratios.min(initial=1.0))


def levenberg_marquardt(
    start: P, evaluate: Callable[[P, np.ndarray, float], P], damping: Damping, limits: Limits
) -> Fit[P]:
    """Return the fit that damped steps lead to from `start` (Levenberg 1944, Marquardt 1963).

    evaluate: point, step (unknown,) and damping → the point where the step leads. A rise of the
    loss is never accepted. Raises Unsolvable where the equations of a point that is accepted have
    no solution.
    """
    best = start
    now = damping.first
    n_evaluations = 1
    while n_evaluations < limits.n_evaluations:
        step, promise = damped_step(best, now)
        if limits.largest_step is not None:
            step = _shortened(step, limits.largest_step)
        is_short = limits.smallest_step is not None and (np.abs(step) < limits.smallest_step).all()
        if promise < limits.smallest_promise or is_short:
            return Fit(best, n_evaluations, Ending.CONVERGED)

        trial = evaluate(best, step, now)
        n_evaluations += 1
        fall = best.loss - trial.loss
        if fall > 0.0:
            best = trial
        if 0.0 <= fall < limits.smallest_fall:
            return Fit(best, n_evaluations, Ending.CONVERGED)
        if fall > 0.0:
            now = max(0.1 * now, damping.least)
            continue

        now = max(10.0 * now, damping.least_after_rise)
        if now > damping.largest:
            # Without readout noise a plane may rest on the edge of zero, where −ln L has no slope:
            # what nuisances promise is then no sign of a fit that has not converged.
            promise = damped_step(best, damping.least)[1] - best.nuisance_gain
            is_at_rest = promise < limits.smallest_promise
            return Fit(best, n_evaluations, Ending.CONVERGED if is_at_rest else Ending.NO_FALL)
    return Fit(best, n_evaluations, Ending.TOO_MANY)


# ---------------------------------------------------------------- covariances


class GroupedPoint(Protocol):
    """Normal equations that are sums over groups of data, such as shoeboxes."""

    @property
    def hessian(self) -> np.ndarray:
        """(unknown, unknown) information, restraints included"""

    @property
    def scores(self) -> np.ndarray:
        """(group, unknown) each group's share of the gradient, without restraints"""

    @property
    def informations(self) -> np.ndarray:
        """(group, unknown, unknown) each group's share of the information, without restraints"""

    @property
    def precision(self) -> np.ndarray:
        """(unknown,) information of the restraints"""


class Covariances(NamedTuple):
    """How well unknowns are known."""

    fisher: np.ndarray
    """(unknown, unknown) if the model is right"""
    sandwich: np.ndarray
    """(unknown, unknown) from the scatter of groups"""


def covariances(point: GroupedPoint) -> Covariances:
    """Return two covariances of the unknowns: Fisher's, and the sandwich over groups.

    The sandwich is honest also where the model is wrong, as long as it is wrong in each group by
    itself. With g the score of a group and h its information it is (n − 1)/n Σ d dᵀ, d = (H −
    h)⁻¹g: how far the unknowns move when the group is left out (jackknife; CV₃ of MacKinnon,
    Nielsen & Webb 2023). H⁻¹(Σ g gᵀ)H⁻¹ would be too small where few groups hold most of the
    information, for these draw the fit to themselves. A restraint of precision P is taken at its
    word, as a measurement that no group holds: + H⁻¹PH⁻¹. Where the model is right, both are H⁻¹.
    Raises Unsolvable where the information is not finite.
    """
    check_finite(point.hessian, point.scores)
    scale = unit(point.hessian)
    scaled = point.hessian * np.outer(scale, scale)
    values, vectors = np.linalg.eigh(scaled)
    determined = values > UNDETERMINED * values.max(initial=0.0)
    root = scale[:, None] * vectors[:, determined] / np.sqrt(values[determined])

    # along an axis of which it holds the share s, a group left out moves a fit by score/(1 − s)
    shares, axes = np.linalg.eigh(root.T @ point.informations @ root)
    scores = np.einsum("bij,bi->bj", axes, point.scores @ root)
    others = 1.0 - np.minimum(shares, LEVERAGE)
    moves = np.einsum("bij,bj->bi", axes, scores / others)

    n = len(moves)
    of_restraints = root.T @ (point.precision[:, None] * root)
    scatter = moves.T @ moves * ((n - 1) / n) + of_restraints
    return Covariances(fisher=root @ root.T, sandwich=root @ scatter @ root.T)
