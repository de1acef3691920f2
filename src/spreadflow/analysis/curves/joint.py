"""Curves of metal sites together with |F| of everything else, which no model knows to the percent
that curves need.

Each unique reflection has one unknown u: its F without the sites' f′ and f″ is (1 + u) times the
model's, and u is normal about zero. Curves and reflections meet in all lattices that recorded them;
reflections are eliminated from the sums over lattices.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_matrix

from spreadflow.analysis.curves import expand
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.expand import Evaluate, LatticeTerms, Normal
from spreadflow.analysis.curves.gram import Gram

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


def scaled(terms: LatticeTerms, reflection: np.ndarray, u: np.ndarray) -> LatticeTerms:
    """Return a lattice with u (reflection,) applied; reflection: (column,) the unique one of each
    column.
    """
    return terms._replace(fixed=terms.fixed * (1.0 + u[reflection]))


def coupled(
    lattices: Iterable[tuple[LatticeTerms, np.ndarray]],
    p: Parametrisation,
    theta: np.ndarray,
    u: np.ndarray,
) -> Coupled:
    """Return the normal equations of lattices about θ and u.

    Each lattice comes with the unique reflection (column,) of each of its columns.
    """
    curves = p.curves(theta)
    n = len(u)
    normals = [expand.normal([], p, theta)]
    slopes = [np.empty((0, n))]
    across = np.zeros((n, len(theta)))
    hessian = np.zeros((n, n))
    for terms, reflection in lattices:
        applied = scaled(terms, reflection, u)
        normals.append(expand.normal([applied], p, theta))
        recorded, back = np.unique(reflection, return_inverse=True)
        blocks = _moduli(applied, terms, back, len(recorded), curves)
        slope = np.zeros((1, n))
        slope[0, recorded] = blocks.slope
        slopes.append(slope)
        across[recorded] += blocks.mixed @ p.basis
        hessian[np.ix_(recorded, recorded)] += blocks.square
    return Coupled(expand.joined(normals), np.concatenate(slopes), across, hessian)


class _Moduli(NamedTuple):
    """−ln L of one lattice as a function of the u of its own reflections."""

    slope: np.ndarray
    """(n,) gradient by u"""
    mixed: np.ndarray
    """(n, value) derivatives by u and the curves' values"""
    square: np.ndarray
    """(n, n) by u twice"""


def _moduli(
    applied: LatticeTerms,
    terms: LatticeTerms,
    reflection: np.ndarray,
    n: int,
    curves: np.ndarray,
) -> _Moduli:
    """Return the blocks of one lattice with n reflections, without what stage 1 refines.

    applied: the lattice with u applied; terms: without; reflection: (column,).
    """
    gram = applied.gram
    n_channels = curves.shape[2]
    F, D = expand.derivatives(applied, curves)
    by_u = 2.0 * (np.conj(F) * terms.fixed).real
    y = np.abs(F) ** 2 - gram.intensity
    slope = np.zeros(n)
    square = np.zeros((n, n))
    mixed = np.zeros((n, len(D), n_channels))
    cross = np.zeros((n, len(gram.score)))
    for columns, G in gram.matrices():
        part = _spread_out(by_u[columns], reflection[columns], n)
        in_box = np.unique(reflection[columns])
        pulled = G @ part[:, in_box]
        slope += part.T @ (G @ y[columns] - gram.slope[columns])
        cross += part.T @ gram.cross[columns]
        square[:, in_box] += part.T @ pulled
        sums = expand.by_channel(gram.channel[columns], n_channels)
        for row, column in zip(in_box, pulled.T, strict=True):
            mixed[row] += _by_curves(D[:, columns] * column, sums)

    blocks = _Moduli(slope, mixed.reshape(n, -1), square)
    across = expand.shared(gram, D, n_channels)
    return _eliminated(blocks, gram, cross, across, gram.score - y @ gram.cross)


def _eliminated(
    blocks: _Moduli, gram: Gram, cross: np.ndarray, across: np.ndarray, score: np.ndarray
) -> _Moduli:
    """Return the blocks without what stage 1 refines.

    cross: (n, unknown) what the reflections share with it, across: (value, unknown) what the curves
    share with it; score: (unknown,).
    """
    held = np.linalg.solve(gram.nuisance, cross.T)
    return _Moduli(
        slope=blocks.slope + held.T @ score,
        mixed=blocks.mixed - held.T @ across.T,
        square=blocks.square - cross @ held,
    )


def _by_curves(products: np.ndarray, sums: csr_matrix) -> np.ndarray:
    """Return the sums (curve, channel) of products (curve, column) over the columns of a channel;
    sums: (channel, column).
    """
    return (sums @ products.T).T


def _spread_out(values: np.ndarray, column: np.ndarray, n: int) -> np.ndarray:
    """Return a matrix (row, n) with one value in each row; values, column: (row,)."""
    n_rows = len(values)
    out = np.zeros((n_rows, n))
    out[np.arange(n_rows), column] = values
    return out


Sums = Callable[[np.ndarray, np.ndarray], Coupled]
"""(θ, u) → `coupled` of all lattices."""


class Likeliest(NamedTuple):
    """The reflections where they are likeliest for given curves."""

    u: np.ndarray
    """(reflection,)"""
    follows: np.ndarray
    """(reflection, parameter) how far each u falls as a parameter rises"""
    equations: Coupled
    """there, with the restraint of u"""


def likeliest(sums: Sums, theta: np.ndarray, u: np.ndarray, sigma: float) -> Likeliest:
    """Return the reflections where they are likeliest for θ, looked for from u (reflection,).

    sigma: of u. −ln L holds ½u²/σ², an equal share of it in each lattice.
    """

    def equations_at(trial: np.ndarray) -> Coupled:
        return _restrained(sums(theta, trial), trial, sigma)

    u, equations, factor = _at_rest(equations_at, u)
    return Likeliest(u, cho_solve(factor, equations.across), equations)


def evaluator(sums: Sums, n: int, sigma: float) -> Evaluate:
    """Return θ → normal equations of the curves alone, with the n reflections where they are
    likeliest. sigma: of u.

    u of one call is looked for from that of the call before.
    """
    u = np.zeros(n)

    def evaluate(theta: np.ndarray) -> Normal:
        nonlocal u
        u, follows, equations = likeliest(sums, theta, u, sigma)
        curves = equations.curves
        return Normal(
            losses=curves.losses,
            scores=curves.scores - equations.slopes @ follows,
            hessian=curves.hessian - equations.across.T @ follows,
        )

    return evaluate


def information(
    terms: LatticeTerms,
    reflection: np.ndarray,
    reflections: Likeliest,
    p: Parametrisation,
    theta: np.ndarray,
) -> np.ndarray:
    """Return what one lattice says about θ (parameter, parameter) where reflections follow the
    curves. reflection: (column,) the unique one of each column.
    """
    applied = scaled(terms, reflection, reflections.u)
    recorded, back = np.unique(reflection, return_inverse=True)
    blocks = _moduli(applied, terms, back, len(recorded), p.curves(theta))
    follows = reflections.follows[recorded]
    mixed = follows.T @ (blocks.mixed @ p.basis)
    of_curves = expand.normal([applied], p, theta).hessian
    return of_curves - mixed - mixed.T + follows.T @ blocks.square @ follows


def _restrained(equations: Coupled, u: np.ndarray, sigma: float) -> Coupled:
    """Return the equations with the restraint of u, an equal share of it in each lattice."""
    n_lattices = max(len(equations.slopes), 1)
    losses = equations.curves.losses + 0.5 * u @ u / sigma**2 / n_lattices
    return equations._replace(
        curves=equations.curves._replace(losses=losses),
        slopes=equations.slopes + u / sigma**2 / n_lattices,
        hessian=equations.hessian + np.eye(len(u)) / sigma**2,
    )


def _at_rest(
    equations_at: Callable[[np.ndarray], Coupled], u: np.ndarray
) -> tuple[np.ndarray, Coupled, tuple[np.ndarray, bool]]:
    """Return u (reflection,) of the least −ln L, the equations there, and the factor of their
    normal matrix.

    Gauss-Newton steps are halved where they go too far. |F|² is quadratic in u: more than a few
    steps are rare.
    """
    best = equations_at(u)
    share = 1.0
    factor = cho_factor(best.hessian)
    for _ in range(MAX_STEPS):
        slope = best.slopes.sum(axis=0)
        step = cho_solve(factor, slope)
        if 0.5 * slope @ step < SMALLEST_FALL:
            break
        trial = equations_at(u - share * step)
        if trial.curves.losses.sum() > best.curves.losses.sum():
            share *= 0.5
            continue
        u = u - share * step
        best = trial
        share = 1.0
        factor = cho_factor(best.hessian)
    return u, best, factor
