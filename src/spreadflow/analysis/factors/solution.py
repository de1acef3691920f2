"""The intensities that make the pixels of all lattices likeliest, from their normal equations.

One linear solve by preconditioned conjugate gradients (Hestenes & Stiefel 1952); each of its
iterations adds up one number for each reflection over the ranks. Scales of lattices that have few
reflections in common are soft. Crystals are alike, and so ln of the number of unit cells that a
lattice has in the beam is normal about a common mean, with a spread that is found from the data. A
prior on the intensities would harm: soft scales would follow it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy

from spreadflow.analysis.factors.equations import Equations

TOLERANCE = 1e-9
"""Residual, relative to the right-hand side, that ends a solve."""

MAX_ITERATIONS = 500
"""Iterations of a solve, at most."""

FIRST_SPREAD = 0.5
"""Spread of ln volume among lattices that the search begins with."""

SMALLEST_SPREAD = 0.01
"""Spread of ln volume among lattices below which none is believed: no two crystals are alike."""

LATTICES_AT_A_TIME = 512
"""Lattices whose share of the diagonal of M is formed together: bounds the memory."""

N_ROUNDS = 6
"""Rounds in which the spread and the lattices are found in turns (expectation maximisation)."""

Add = Callable[[np.ndarray], np.ndarray]
"""Array of this rank → the sum over all ranks."""


class VolumePrior(NamedTuple):
    """What is known of the volume of lattices before their pixels are looked at."""

    direction: np.ndarray
    """(unknown,) change of ln volume by what stage 1 refines"""
    centre: float
    """mean of ln volume: it also holds the common scale, which no pixel knows"""
    spread: float
    """standard deviation of ln volume among lattices"""


class Restraint(NamedTuple):
    """Normal restraints of intensities."""

    target: np.ndarray
    """(reflection,)"""
    precision: np.ndarray
    """(reflection,) 1/variance; 0 where an intensity is free"""


class Solution(NamedTuple):
    """The likeliest intensities, and what they mean for lattices."""

    intensity: np.ndarray
    """(reflection,) as expanded where no lattice recorded it"""
    unknowns: np.ndarray
    """(lattice, unknown) change of what stage 1 refines"""
    prior: VolumePrior
    n_iterations: int


class Marginal:
    """The matrix M of intensities, lattices eliminated, as an operator. Collective."""

    def __init__(
        self,
        equations: Equations,
        prior: VolumePrior,
        add: Add,
        restraint: Restraint | None = None,
    ):
        a = prior.direction
        away = (prior.centre - equations.log_volume) / prior.spread**2
        self.equations = equations
        self.add = add
        self.held = np.linalg.inv(equations.nuisance + np.outer(a, a) / prior.spread**2)
        """(lattice, unknown, unknown) covariance of lattices, intensities held"""
        self.score = equations.score + away[:, None] * a
        """(lattice, unknown) fall of −ln L, prior included"""
        self.of_lattices = add(equations.normal.diagonal())
        """(reflection,) information about I that lattices hold, they themselves held"""
        n = len(equations.intensity)
        self.restraint = restraint or Restraint(np.zeros(n), np.zeros(n))
        self.diagonal = self.of_lattices + self.restraint.precision
        """(reflection,) information about I, lattices held"""

    @property
    def is_seen(self) -> np.ndarray:
        """(reflection,) whether any lattice says something about it"""
        return self.of_lattices > 0.0

    def __call__(self, v: np.ndarray) -> np.ndarray:
        """Return M v (reflection,); v: (reflection,)."""
        equations = self.equations
        of_lattices = self._turned(equations.cross @ v)
        own = equations.normal @ v - equations.cross.T @ of_lattices.ravel()
        restrained = self.restraint.precision * v
        return np.where(self.is_seen, self.add(own) + restrained, v)

    def information(self) -> np.ndarray:
        """Return the diagonal of M, (reflection,): what is known of I where all others are held.
        Collective.
        """
        equations = self.equations
        n_lattices, n_unknowns = self.score.shape
        own = equations.normal.diagonal()
        for first in range(0, n_lattices, LATTICES_AT_A_TIME):
            held = self.held[first : first + LATTICES_AT_A_TIME]
            rows = np.arange(len(held) + 1)
            size = len(held) * n_unknowns
            of_chunk = scipy.sparse.bsr_matrix((held, rows[:-1], rows), shape=(size, size))
            cross = equations.cross[first * n_unknowns : first * n_unknowns + size]
            explained = cross.multiply(of_chunk @ cross).sum(axis=0)
            own = own - np.asarray(explained).ravel()
        return self.add(own) + self.restraint.precision

    def slope(self) -> np.ndarray:
        """Return the fall of −ln L by I at the expansion, (reflection,)."""
        equations = self.equations
        of_lattices = self._turned(self.score.ravel())
        own = equations.slope - equations.cross.T @ of_lattices.ravel()
        away = self.restraint.target - equations.intensity
        return np.where(self.is_seen, self.add(own) + self.restraint.precision * away, 0.0)

    def unknowns(self, change: np.ndarray) -> np.ndarray:
        """Return what lattices do (lattice, unknown) where intensities change (reflection,)."""
        left = self.score - (self.equations.cross @ change).reshape(self.score.shape)
        return self._turned(left.ravel())

    def solved(self, right: np.ndarray, start: np.ndarray | None = None) -> tuple[np.ndarray, int]:
        """Return M⁻¹ `right` (reflection,), and the iterations it took, from `start`."""
        n_iterations = 0

        def count(_: np.ndarray) -> None:
            nonlocal n_iterations
            n_iterations += 1

        n = len(right)
        scale = np.where(self.is_seen, self.diagonal, 1.0)
        solution, _ = scipy.sparse.linalg.cg(
            scipy.sparse.linalg.LinearOperator((n, n), matvec=self, dtype=np.float64),
            right,
            start,
            rtol=TOLERANCE,
            maxiter=MAX_ITERATIONS,
            M=scipy.sparse.linalg.LinearOperator(
                (n, n), matvec=lambda v: v / scale, dtype=np.float64
            ),
            callback=count,
        )
        return solution, n_iterations

    def _turned(self, rows: np.ndarray) -> np.ndarray:
        """Return N⁻¹ applied to rows (lattice · unknown,): (lattice, unknown)."""
        return np.einsum("lij,lj->li", self.held, rows.reshape(self.score.shape))


def solve(
    equations: Equations,
    direction: np.ndarray,
    add: Add,
    *,
    spread: float = FIRST_SPREAD,
    restraint: Restraint | None = None,
    n_rounds: int = N_ROUNDS,
) -> Solution:
    """Return the likeliest intensities, and the spread of ln volume that suits them, looked for
    from `spread` in so many rounds. Collective.

    direction: as in `VolumePrior`.
    """
    log_volume = equations.log_volume
    n_lattices = add(np.array([len(log_volume)], dtype=np.float64))[0]
    centre = float(add(np.array([log_volume.sum()]))[0] / n_lattices)
    prior = VolumePrior(direction, centre, spread)
    change = None
    total = 0
    for number in range(n_rounds):
        marginal = Marginal(equations, prior, add, restraint)
        change, n_iterations = marginal.solved(marginal.slope(), change)
        total += n_iterations
        unknowns = marginal.unknowns(change)
        if number < n_rounds - 1:
            away = log_volume + unknowns @ direction - centre
            own = np.einsum("i,lij,j->l", direction, marginal.held, direction)
            variance = add(np.array([(away**2 + own).sum()]))[0] / n_lattices
            spread = max(float(np.sqrt(variance)), SMALLEST_SPREAD)
            prior = prior._replace(spread=spread)
    return Solution(equations.intensity + change, unknowns, prior, total)


def loss(marginal: Marginal, intensity: np.ndarray) -> float:
    """Return −ln L of all lattices at intensities (reflection,), each lattice where these suit it
    best, priors included. Collective.
    """
    equations = marginal.equations
    away = intensity - equations.intensity
    pulled = equations.normal @ away
    left = marginal.score - (equations.cross @ away).reshape(marginal.score.shape)
    of_lattices = np.einsum("li,lij,lj->", left, marginal.held, left)
    own = equations.loss.sum() + (0.5 * pulled - equations.slope) @ away - 0.5 * of_lattices
    return float(marginal.add(np.array([own]))[0])
