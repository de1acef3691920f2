"""Curves of metal sites together with |F| of everything else, which no model knows to the percent
that curves need.

Each unique reflection has one unknown u: its F without the sites' f′ and f″ is (1 + u) times the
model's, u normal about zero. Reflections meet curves in all lattices that recorded them; they are
eliminated from the sums over lattices.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from spreadflow.analysis.curves import expand
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.expand import Evaluate, LatticeTerms, Normal

MAX_REFLECTIONS = 12000
"""Reflections at most: their equations are a full matrix, 1.2 GB then."""

SMALLEST_FALL = 1e-7
"""A step of u that promises less of −ln L is the last: well below what ends a fit of curves."""

MAX_STEPS = 25
"""Steps of u, at most."""


class Coupled(NamedTuple):
    """Normal equations of lattices in curves and reflections."""

    curves: Normal
    slopes: np.ndarray
    """(lattice, reflection) gradients by u"""
    across: np.ndarray
    """(reflection, parameter)"""
    hessian: np.ndarray
    """(reflection, reflection)"""


def scaled(of: LatticeTerms, reflection: np.ndarray, u: np.ndarray) -> LatticeTerms:
    """Return the lattice with u (reflection,) applied. reflection: (column,) the unique one of each
    column.
    """
    return of._replace(fixed=of.fixed * (1.0 + u[reflection]))


def coupled(
    lattices: Iterable[tuple[LatticeTerms, np.ndarray]],
    p: Parametrisation,
    theta: np.ndarray,
    u: np.ndarray,
) -> Coupled:
    """Return the normal equations of lattices about θ and u.

    Each lattice comes with the unique reflection (column,) of each of its columns."""
    curves = p.curves(theta)
    n = len(u)
    normals = []
    slopes = [np.empty((0, n))]
    across = np.zeros((n, len(theta)))
    hessian = np.zeros((n, n))
    for of, reflection in lattices:
        now = scaled(of, reflection, u)
        normals.append(expand.normal([now], p, theta))
        own, back = np.unique(reflection, return_inverse=True)
        slope, mixed, square = _moduli(now, of, back, len(own), curves)
        slopes.append(np.zeros((1, n)))
        slopes[-1][0, own] = slope
        across[own] += mixed @ p.basis
        hessian[np.ix_(own, own)] += square
    empty = expand.normal([], p, theta)
    return Coupled(expand.joined([empty, *normals]), np.concatenate(slopes), across, hessian)


def _moduli(
    now: LatticeTerms, model: LatticeTerms, reflection: np.ndarray, n: int, curves: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, of one lattice, the gradient (n,) by u, its derivatives by the curves' values (n,
    value) and by u (n, n).
    """
    gram = now.gram
    F, D = expand.derivatives(now, curves)
    v = 2.0 * (np.conj(F) * model.fixed).real
    y = np.abs(F) ** 2 - gram.intensity
    n_channels = curves.shape[2]
    done = 0
    slope = np.zeros(n)
    square = np.zeros((n, n))
    mixed = np.zeros((n, len(D), n_channels))
    cross = np.zeros((n, gram.cross.shape[1]))
    for a, b in pairwise(gram.start):
        G = expand.square(gram.normal[done : (done := done + (b - a) * (b - a + 1) // 2)], b - a)
        own = reflection[a:b]
        part = np.zeros((b - a, n))
        part[np.arange(b - a), own] = v[a:b]
        pulled = G @ part[:, np.unique(own)]
        slope += part.T @ (G @ y[a:b] - gram.slope[a:b])
        cross += part.T @ gram.cross[a:b]
        square[:, np.unique(own)] += part.T @ pulled
        sums = expand.by_channel(gram.channel[a:b], n_channels)
        for column, r in zip(pulled.T, np.unique(own), strict=True):
            mixed[r] += (sums @ (D[:, a:b] * column).T).T
    left = gram.score - y @ gram.cross
    held = np.linalg.solve(gram.nuisance, cross.T)
    across = expand.shared(gram, D, n_channels)
    return slope + held.T @ left, mixed.reshape(n, -1) - held.T @ across.T, square - cross @ held


def evaluator(sums: Callable[[np.ndarray, np.ndarray], Coupled], n: int, sigma: float) -> Evaluate:
    """Return θ → normal equations of the curves alone, reflections where they are likeliest. sums:
    (θ, u) → all lattices.

    −ln L holds ½u²/σ², a like share in each lattice. u of one call is looked for from that of the
    call before.
    """
    u = np.zeros(n)

    def evaluate(theta: np.ndarray) -> Normal:
        nonlocal u
        u, made, factor = _at_rest(lambda at: _restrained(sums(theta, at), at, sigma), u)
        moved = cho_solve(factor, made.across)
        scores = made.curves.scores - made.slopes @ moved
        hessian = made.curves.hessian - made.across.T @ moved
        return Normal(made.curves.losses, scores, hessian)

    return evaluate


def _restrained(made: Coupled, u: np.ndarray, sigma: float) -> Coupled:
    """Return the equations with the restraint of u, an equal share of it in each lattice."""
    n = max(len(made.slopes), 1)
    curves = made.curves._replace(losses=made.curves.losses + 0.5 * u @ u / sigma**2 / n)
    hessian = made.hessian + np.eye(len(u)) / sigma**2
    return made._replace(curves=curves, slopes=made.slopes + u / sigma**2 / n, hessian=hessian)


def _at_rest(
    at: Callable[[np.ndarray], Coupled], u: np.ndarray
) -> tuple[np.ndarray, Coupled, tuple[np.ndarray, bool]]:
    """Return u (reflection,) of the least −ln L by Gauss-Newton, steps halved where they go too
    far; what there is there, and the factor of its normal matrix. |F|² is quadratic in u: more than
    a few steps are rare.
    """
    made = at(u)
    share = 1.0
    factor = cho_factor(made.hessian)
    for _ in range(MAX_STEPS):
        slope = made.slopes.sum(axis=0)
        step = cho_solve(factor, slope)
        if 0.5 * slope @ step < SMALLEST_FALL:
            break
        trial = at(u - share * step)
        if trial.curves.losses.sum() > made.curves.losses.sum():
            share *= 0.5
            continue
        u = u - share * step
        made = trial
        share = 1.0
        factor = cho_factor(made.hessian)
    return u, made, factor
