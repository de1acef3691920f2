"""Curves and X refined together: steps of Gauss and Newton, none further than the parabola of a
reflection is good for.

A step solves for curves and X at once, by conjugate gradients with the blocks of reflections, and
the curves without these, as preconditioner. Reflections near |F| = 0 are no parabolas: what their
own second derivatives have beyond Gauss and Newton is in their blocks, and one that still goes too
far is damped, alone. These are second derivatives by F, which curves move, too: where they are
positive, curves share them.
"""

from typing import NamedTuple

import numpy as np
import scipy

from spreadflow.analysis.curves import objective
from spreadflow.analysis.curves import rest as rests
from spreadflow.analysis.curves import scatter as scatters
from spreadflow.analysis.curves.curvature import Curvature, curvature
from spreadflow.analysis.curves.objective import Point, Problem
from spreadflow.analysis.curves.rest import Prior

LEAST_MODULUS = 0.3
"""|F| falls to no less than this share of itself in a step."""

LARGEST_TURN = 0.7
"""Turn of the phase of F in a step, rad, at most."""

SMALLEST_MODULUS = 1e-9
"""|F|, electrons, below which it has no phase."""

STEP_TOLERANCE = 1e-4
"""Residual, relative to the right-hand side, that ends the solve of a step."""

SIGMA_TOLERANCE = 1e-5
"""The same of the matrix that σ are from."""

MAX_ITERATIONS = 300
"""Iterations of a solve, at most."""

OVERSHOT = 0.5
"""A reflection has gone too far where its slope along its step has turned round, to more than this
share of what B + P make of a step like that.
"""

FAR = 0.25
"""Square of a step, in units of P, beyond which a reflection may have left its parabola."""

NO_SLOPE = 1e-3
"""Slopes along a step below this are none."""

LEAST_DAMPING = 0.5
"""Damping of a reflection that has gone too far, relative to its own B + P."""

NO_DAMPING = 0.05
"""Damping below which there is none."""

EASING = 0.25
"""Factor by which damping falls after a step in which a reflection did not go too far."""

MAX_EASE = 0.7
"""Share of P, at most, by which second derivatives of a reflection fall below B + P: they stay
definite.
"""

SMALLEST_FALL = 0.05
"""A step that promises less of Φ, and moves no node by `SMALLEST_MOVE`, is the last. A single
reflection that creeps along its arc is not waited for.
"""

FURTHEST = 1.0
"""Square of the distance from rest of a reflection that is not waited for, in units of C."""

SMALLEST_MOVE = 0.01
"""Move of a node that no longer counts, in the σ that it has where X is held."""

MAX_STEPS = 60
"""Steps at most."""

SMALLEST_SHARE = 0.05
"""A refinement from wrong input ends where a step promises less than this share of its rise."""

MAX_TRIES = 6
"""Tries of a step at most."""

LEAST_GAIN = 0.25
"""A try is good enough that gains this share of what its slope alone would: a parabola gains half.
"""

ROUNDING = 1e-6
"""Changes of Φ below this may be rounding."""

SHORTEST = 0.2
"""A try is no shorter than this share of the one before."""


class Priors(NamedTuple):
    """What is found from the data of how wrong models are."""

    variance: np.ndarray
    """(shell,) S"""
    scatter: float = 0.0
    """of the reflections of a lattice about their models"""


class Start(NamedTuple):
    """Where a refinement begins."""

    theta: np.ndarray
    """(parameter,)"""
    x: np.ndarray
    """(reflection, 2) a and b"""
    priors: Priors


class How(NamedTuple):
    """How curves and X are refined."""

    learns_priors: bool = True
    """priors are found from the data"""
    n_alone: int = 0
    """steps in which X moves alone, at first"""
    moves_curves: bool = True
    max_steps: int = MAX_STEPS
    right_value: float | None = None
    """Φ of the right input, where it is the rise from there that is asked for; None = it is not"""


class AtRest(NamedTuple):
    """Curves and X where they rest."""

    point: Point
    problem: Problem
    """with lattices whose reflections scatter"""
    prior: Prior
    priors: Priors
    steps: list[float]
    """largest change of the curves at each step, electrons"""
    has_converged: bool


def refine(problem: Problem, start: Start, how: How) -> AtRest:
    """Return curves and X at rest. Collective."""
    rest = problem.rest
    priors = start.priors
    prior = rests.prior(rest, priors.variance)
    scattered = _scattered(problem, priors)
    damping = np.zeros(rest.n)
    steps: list[float] = []
    asked: rests.Asked | None = None
    here = objective.point(scattered, start.theta, start.x, prior)
    has_converged = False
    for number in range(how.max_steps):
        is_alone = number < how.n_alone or not how.moves_curves
        matrix = curvature(scattered, here, prior)
        step = _step(scattered, matrix, here, prior, damping, is_alone)
        there = step.point
        damping = step.damping
        steps.append(float(np.abs(problem.p.basis @ (there.theta - here.theta)).max(initial=0.0)))
        is_first = how.moves_curves and is_alone
        is_settled = True
        if how.learns_priors:
            before = priors
            likelier = _likelier(scattered, there, prior, before, learns_scatter=not is_first)
            now = rests.Asked(before.variance, likelier.variance)
            priors = likelier._replace(variance=rests.anticipated(rest, now, asked))
            asked = now
            n_determined = rests.n_determined(rest, there.covariance, prior, there.is_seen)
            is_settled = _are_settled(priors, before, n_determined)
            prior = rests.prior(rest, priors.variance)
            del scattered  # as large as what takes its place
            scattered = _scattered(problem, priors)
        here = objective.point(scattered, there.theta, there.x, prior)
        if not is_first and _is_as_high(how, here.value, step.promise):
            break
        away = np.max(here.by_x**2 * here.covariance[:, [0, 2]], initial=0.0)
        is_still = step.promise < SMALLEST_FALL and step.move < SMALLEST_MOVE and away < FURTHEST
        if is_still and is_settled and not is_first:
            has_converged = True
            break
    return AtRest(here, scattered, prior, priors, steps, has_converged)


def _is_as_high(how: How, value: float, promise: float) -> bool:
    """Whether Φ of wrong input, its value, is as far above that of the right one as it will be:
    what a step promises counts no longer.
    """
    if how.right_value is None:
        return False
    return promise < SMALLEST_SHARE * (value - how.right_value)


def _scattered(problem: Problem, priors: Priors) -> Problem:
    """Return the problem of lattices whose reflections scatter."""
    return problem._replace(columns=scatters.scattered(problem.columns, priors.scatter))


def _likelier(
    problem: Problem, point: Point, prior: Prior, before: Priors, *, learns_scatter: bool
) -> Priors:
    """Return what the data make likelier than the priors before. Collective."""
    variance = rests.next_variance(problem.rest, point.x, point.covariance, prior, point.is_seen)
    scatter = before.scatter
    if learns_scatter:
        scatter = scatters.likelier(problem, point, scatter)
    return Priors(variance, scatter)


def _are_settled(priors: Priors, before: Priors, n_determined: np.ndarray) -> bool:
    """Whether priors are so nearly those before that the difference no longer counts: S of no shell
    makes the data likelier by `SMALLEST_FALL`.

    n_determined: (shell,) unknowns of X that the data determine.
    """
    change = np.log(priors.variance / before.variance)
    fall = 0.5 * n_determined * change**2
    moved = abs(priors.scatter - before.scatter)
    return bool(fall.max(initial=0.0) < SMALLEST_FALL and moved < scatters.SMALLEST_CHANGE)


class _Step(NamedTuple):
    """Where a step ends."""

    point: Point
    damping: np.ndarray
    """(reflection,) of the next one"""
    promise: float
    """fall of Φ if it were a parabola"""
    move: float
    """largest move of a node that was wanted, in the σ that it has where X is held"""


def _step(
    problem: Problem,
    matrix: Curvature,
    here: Point,
    prior: Prior,
    damping: np.ndarray,
    is_alone: bool,
) -> _Step:
    """Return where a step ends; is_alone: X moves alone.

    Reflections that went too far are damped in the next try, and the next try is as long as the
    parabola through this one says.
    """
    promise = 0.0
    move = 0.0
    share = 1.0
    best = here
    for number in range(MAX_TRIES):
        d_theta, d_x = _newton(problem, matrix, here, damping, is_alone)
        slope = -float(here.by_theta @ d_theta + np.sum(here.by_x * d_x))
        if number == 0:
            promise = 0.5 * slope
            sigma = problem.p.sigma(np.linalg.inv(matrix.curves + problem.p.restraints))
            wanted = np.abs(problem.p.at_nodes @ d_theta) / sigma.ravel()
            move = float(wanted.max(initial=0.0))
        theta = here.theta + share * d_theta
        x = _mapped(problem, here, share * d_theta, share * d_x)
        there = objective.point(problem, theta, x, prior, here.held)
        fall = here.value - there.value
        moved = x - here.x
        expected = np.einsum("hi,hij,hj->h", moved, matrix.blocks, moved)
        slope_after = np.sum(there.by_x * moved, axis=1)
        slope_before = -np.sum(here.by_x * moved, axis=1)
        is_far = np.sum(prior.precision * moved**2, axis=1) > FAR
        expected = np.where(is_far, np.clip(slope_before, 0.0, expected), expected)
        has_overshot = slope_after > OVERSHOT * expected + NO_SLOPE
        stronger = np.maximum(4.0 * damping, LEAST_DAMPING)
        if there.value < best.value:
            best = there
        if fall > LEAST_GAIN * share * slope - ROUNDING:
            weaker = np.where(damping > NO_DAMPING, EASING * damping, 0.0)
            return _Step(there, np.where(has_overshot, stronger, weaker), promise, move)
        damping = np.where(has_overshot, stronger, damping)
        likely = 0.5 * share * slope / (share * slope - fall)
        share *= float(np.clip(likely, SHORTEST, 1.0))
    return _Step(best, damping, promise, move)


def _newton(
    problem: Problem, matrix: Curvature, here: Point, damping: np.ndarray, is_alone: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps of θ (parameter,) and of X (reflection, 2). Collective."""
    n_theta = len(here.theta)
    of_path, rising = _beyond(problem, here, matrix)
    beyond = of_path + damping[:, None, None] * matrix.blocks
    follows = _by_reflection(rising, matrix.follows)
    H = matrix.curves + problem.p.restraints + matrix.follows.T @ follows
    K = matrix.mixed + follows
    inverse = np.linalg.inv(matrix.blocks + beyond)
    follow = _by_reflection(inverse, K)
    of_curves = np.linalg.inv(H - K.T @ follow)
    hold_theta = np.zeros(n_theta)
    hold_x = np.zeros(len(K))
    if np.isfinite(problem.scale_sigma):
        hold_theta, hold_x = _hold(problem, here)

    def times(v: np.ndarray) -> np.ndarray:
        theta = v[:n_theta]
        x = v[n_theta:]
        by_x = matrix.of_x(x) + _by_reflection(beyond, x)
        if is_alone:
            return np.concatenate([theta, by_x + hold_x * (hold_x @ x)])
        held = hold_theta @ theta + hold_x @ x
        by_theta = H @ theta + K.T @ x + hold_theta * held
        return np.concatenate([by_theta, K @ theta + by_x + hold_x * held])

    def precondition(v: np.ndarray) -> np.ndarray:
        theta = v[:n_theta]
        x = _by_reflection(inverse, v[n_theta:])
        if is_alone:
            return np.concatenate([theta, x])
        theta = of_curves @ (theta - K.T @ x)
        return np.concatenate([theta, x - follow @ theta])

    by_theta = np.zeros(n_theta) if is_alone else here.by_theta
    right = -np.concatenate([by_theta, here.by_x.ravel()])
    size = (len(right), len(right))
    solution, _ = scipy.sparse.linalg.cg(
        scipy.sparse.linalg.LinearOperator(size, matvec=times, dtype=np.float64),
        right,
        rtol=STEP_TOLERANCE,
        maxiter=MAX_ITERATIONS,
        M=scipy.sparse.linalg.LinearOperator(size, matvec=precondition, dtype=np.float64),
    )
    return solution[:n_theta], solution[n_theta:].reshape(-1, 2)


def _by_reflection(tensors: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return tensors (reflection, 2, 2) applied to v (2·reflection, …)."""
    pairs = v.reshape(len(tensors), 2, -1)
    return (tensors @ pairs).reshape(v.shape)


def _beyond(problem: Problem, here: Point, matrix: Curvature) -> list[np.ndarray]:
    """Return second derivatives of reflections beyond B + P (reflection, 2, 2) on the path that a
    step takes (`_mapped`), none below −`MAX_EASE`·P, and those of them that are positive.

    A path that bends inwards by d²/2|F| meets the slope along F, too.
    """
    rest = problem.rest
    F = objective.mean_factors(problem, here.theta, here.x)
    outwards = np.conj(rest.along) * F
    slope = here.by_x[:, 0] * outwards.real + here.by_x[:, 1] * outwards.imag
    of_path = slope / np.maximum(np.abs(F) ** 2, SMALLEST_MODULUS)
    of_path = np.where(rest.freedom > 1, of_path, 0.0)
    beyond = here.bend - of_path[:, None, None] * np.eye(2)
    root = np.sqrt(matrix.precision.reshape(-1, 2))
    scale = root[:, :, None] * root[:, None, :]
    values, vectors = np.linalg.eigh(beyond / scale)
    limited = [np.maximum(values, least) for least in (-MAX_EASE, 0.0)]
    return [scale * ((vectors * kept[:, None, :]) @ vectors.transpose(0, 2, 1)) for kept in limited]


def _hold(problem: Problem, here: Point) -> tuple[np.ndarray, np.ndarray]:
    """Return the derivatives of ln Σ|F|², over the σ that it is held with, by θ (parameter,) and X
    (2·reflection,).
    """
    F = objective.mean_factors(problem, here.theta, here.x)
    F = np.where(here.is_seen, F, 0.0)
    pull = 2.0 * F / np.sum(np.abs(F) ** 2) / problem.scale_sigma
    by_theta, by_x = objective.pulled(problem, here.theta, pull, pull)
    return by_theta, by_x.ravel()


def _mapped(
    problem: Problem, here: Point, step_theta: np.ndarray, step_x: np.ndarray
) -> np.ndarray:
    """Return X (reflection, 2) after a step of θ (parameter,) and X (reflection, 2), such that |F|²
    becomes what the parabola promises, and the phase turns.

    What bends is the path of F: where X and curves move it against one another, they stay straight.
    """
    rest = problem.rest
    F = objective.mean_factors(problem, here.theta, here.x)
    with_curves = objective.mean_factors(problem, here.theta + step_theta, here.x)
    modulus = np.maximum(np.abs(F), SMALLEST_MODULUS)
    unit = F / modulus
    straight = with_curves - F + rest.along * (step_x[:, 0] + 1j * step_x[:, 1])
    change = straight * np.conj(unit)
    least = LEAST_MODULUS * modulus
    length = np.sqrt(np.maximum(modulus**2 + 2.0 * modulus * change.real, least**2))
    turn = np.arctan2(change.imag, np.maximum(modulus + change.real, least))
    turn = np.clip(turn, -LARGEST_TURN, LARGEST_TURN)
    moved = np.conj(rest.along) * (unit * length * np.exp(1j * turn) - with_curves)
    curved = here.x + np.stack([moved.real, moved.imag], axis=1)
    return np.where(rest.freedom[:, None] > 1, curved, here.x + step_x)


class WithoutX(NamedTuple):
    """What the pixels say about curves, X integrated out."""

    information: np.ndarray
    """(parameter, parameter) restraints left out"""
    follow: np.ndarray
    """(2·reflection, parameter) how far X falls as a parameter rises"""


def without_x(matrix: Curvature) -> WithoutX:
    """Return what the pixels say about curves, X integrated out. Collective.

    All columns of X's share are solved for at once, by conjugate gradients with the blocks of
    reflections as preconditioner.
    """
    K = matrix.mixed
    inverse = np.linalg.inv(matrix.blocks)
    solution = _by_reflection(inverse, K)
    first = np.einsum("it,it->t", K, solution)
    left = K - matrix.of_x(solution)
    toward = _by_reflection(inverse, left)
    direction = toward.copy()
    size = np.einsum("it,it->t", left, toward)
    for _ in range(MAX_ITERATIONS):
        if np.all(size <= SIGMA_TOLERANCE**2 * first):
            break
        turned = matrix.of_x(direction)
        below = np.einsum("it,it->t", direction, turned)
        share = size / np.maximum(below, 1e-300)
        solution += share * direction
        left -= share * turned
        toward = _by_reflection(inverse, left)
        size_before = size
        size = np.einsum("it,it->t", left, toward)
        direction = toward + size / np.maximum(size_before, 1e-300) * direction
    information = matrix.curves - K.T @ solution
    return WithoutX(0.5 * (information + information.T), solution)
