"""Second derivatives of Φ by curves and X, from which steps and σ are solved for."""

from typing import NamedTuple

import numpy as np
import scipy

from spreadflow.analysis.curves import loops, objective
from spreadflow.analysis.curves.expand import complex_curves, symmetric
from spreadflow.analysis.curves.objective import Point, Problem
from spreadflow.analysis.curves.rest import Add, Prior


class Curvature(NamedTuple):
    """Second derivatives of Φ by curves and X: those of −ln L by Gauss and Newton, and of priors.
    Lattices are eliminated.
    """

    curves: np.ndarray
    """(parameter, parameter) of −ln L"""
    mixed: np.ndarray
    """(2·reflection, parameter)"""
    shoeboxes: "scipy.sparse.csr_matrix"
    """(2·reflection, 2·reflection) of this rank's lattices, these held"""
    cross: "scipy.sparse.csr_matrix"
    """(lattice·unknown, 2·reflection) that X shares with lattices, times the root of their
    covariance
    """
    follows: np.ndarray
    """(2·reflection, parameter) how far curves move F in the mean light, along e and across"""
    blocks: np.ndarray
    """(reflection, 2, 2) B + P of each reflection, lattices and all others held"""
    precision: np.ndarray
    """(2·reflection,) P"""
    add: Add

    def of_x(self, v: np.ndarray) -> np.ndarray:
        """Return the second derivatives by X (2·reflection, …) times v, lattices eliminated.
        Collective.
        """
        own = self.shoeboxes @ v - self.cross.T @ (self.cross @ v)
        weighted = self.precision.reshape(-1, *(1,) * (v.ndim - 1)) * v
        return self.add(own) + weighted

    def with_prior(self, prior: Prior) -> "Curvature":
        """Return the second derivatives with another prior of X."""
        stronger = prior.precision - self.precision.reshape(-1, 2)
        return self._replace(
            blocks=self.blocks + stronger[:, :, None] * np.eye(2),
            precision=prior.precision.ravel(),
        )


class _Held(NamedTuple):
    """Second derivatives of −ln L of this rank's lattices, what stage 1 refines of these held."""

    curves: np.ndarray
    """(parameter, parameter)"""
    mixed: np.ndarray
    """(2·reflection, parameter)"""
    shoeboxes: "scipy.sparse.csr_matrix"
    """(2·reflection, 2·reflection)"""
    curves_with_lattices: np.ndarray
    """(lattice, unknown, parameter)"""
    runs: np.ndarray
    """(run, 2) lattice and reflection"""
    runs_with_lattices: np.ndarray
    """(run, 2, unknown)"""


def curvature(problem: Problem, here: Point, prior: Prior) -> Curvature:
    """Return the second derivatives at curves and X. Collective."""
    held = _held(problem, here)
    n_lattices, n_unknowns, n_parameters = held.curves_with_lattices.shape
    root = np.linalg.cholesky(problem.columns.held)
    cross = _cross_of_runs(held, root, problem.rest.n)
    rooted = np.einsum("luv,lut->lvt", root, held.curves_with_lattices)
    rooted = rooted.reshape(n_lattices * n_unknowns, n_parameters)
    return Curvature(
        curves=problem.add(held.curves - rooted.T @ rooted),
        mixed=problem.add(held.mixed - cross.T @ rooted),
        shoeboxes=held.shoeboxes,
        cross=cross,
        follows=_moved_by_curves(problem, here.theta),
        blocks=_blocks(here.information, prior.precision),
        precision=prior.precision.ravel(),
        add=problem.add,
    )


def _held(problem: Problem, here: Point) -> _Held:
    """Return the second derivatives of this rank's lattices, these held."""
    theta = here.theta
    x = here.x
    columns = problem.columns
    n = problem.rest.n
    f = complex_curves(problem.p.curves(theta))
    sites = problem.of_sites(theta)
    basis = _by_channel(problem.p.basis, len(f))
    n_values = len(basis)
    halves, of_lattices = loops.by_curves(columns, f, x, sites)
    mixed, pairs, pair_blocks, runs, run_cross = loops.by_rest(columns, f, x, sites, n)
    curves = symmetric(halves).reshape(n_values, n_values)
    H = basis.T @ curves @ basis
    K = mixed.reshape(2 * n, n_values) @ basis
    shared = of_lattices.reshape(*columns.score.shape, n_values) @ basis
    if len(sites):
        own, with_curves, with_rest, with_lattices = loops.by_sites(columns, f, x, sites, n)
        of_sites = slice(len(theta) - len(sites), len(theta))
        by_curve = with_curves.reshape(len(sites), n_values) @ basis
        H[of_sites] += by_curve
        H[:, of_sites] += by_curve.T
        H[of_sites, of_sites] += own
        K[:, of_sites] += with_rest.reshape(2 * n, -1)
        shared[:, :, of_sites] += with_lattices
    return _Held(H, K, _sparse(pairs, pair_blocks, n), shared, runs, run_cross)


def _cross_of_runs(held: _Held, root: np.ndarray, n: int) -> "scipy.sparse.csr_matrix":
    """Return what X of n reflections shares with lattices (lattice·unknown, 2·n), times root.

    root: (lattice, unknown, unknown) lower root of the covariance of what stage 1 refines.
    """
    n_lattices, n_unknowns, _ = root.shape
    lattice = held.runs[:, 0]
    reflection = held.runs[:, 1]
    values = np.einsum("luv,lku->lkv", root[lattice], held.runs_with_lattices)
    row = (lattice[:, None, None] * n_unknowns + np.arange(n_unknowns)).repeat(2, axis=1)
    column = np.broadcast_to((2 * reflection[:, None] + np.arange(2))[:, :, None], row.shape)
    places = (row.ravel(), column.ravel())
    return scipy.sparse.csr_matrix((values.ravel(), places), shape=(n_lattices * n_unknowns, 2 * n))


def _blocks(information: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Return B + P (reflection, 2, 2).

    information: (reflection, 6), of which B is the first three; precision: (reflection, 2) P.
    """
    blocks = information[:, [0, 1, 1, 2]].reshape(-1, 2, 2)
    blocks[:, [0, 1], [0, 1]] += precision
    return blocks


def _moved_by_curves(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Return how far the curves move F of reflections in the mean light (2·reflection, parameter),
    along e and across, where a and b are unknown.
    """
    rest = problem.rest
    e = np.conj(rest.along)
    parts = np.stack(
        [objective.mean_slopes(problem, theta, factor) for factor in (e, -1j * e)], axis=1
    )
    return np.where(rest.is_unknown[:, :, None], parts, 0.0).reshape(2 * rest.n, -1)


def _by_channel(basis: np.ndarray, n_sites: int) -> np.ndarray:
    """Return the rows of a basis (site·2·channel, parameter) in the order channel, site, f′ f″."""
    n_parameters = basis.shape[1]
    by_curve = basis.reshape(2 * n_sites, -1, n_parameters)
    return by_curve.transpose(1, 0, 2).reshape(-1, n_parameters)


def _sparse(pairs: np.ndarray, blocks: np.ndarray, n: int) -> "scipy.sparse.csr_matrix":
    """Return the sum of blocks (pair, 2, 2) at pairs of reflections (pair, 2), (2·n, 2·n)."""
    row = 2 * pairs[:, 0, None, None] + np.arange(2)[:, None]
    column = 2 * pairs[:, 1, None, None] + np.arange(2)
    row, column = np.broadcast_arrays(row, column)
    return scipy.sparse.csr_matrix(
        (blocks.ravel(), (row.ravel(), column.ravel())), shape=(2 * n, 2 * n)
    )
