"""What all lattices share beside intensities: a common factor of N and of η.

Spots of lumpy crystals are broader than their domains are turned, and a smooth model of them finds
too large an η from their shapes. How strong the reflections of different lattices then come out is
a better witness: with the right N and η they agree. Shapes are not asked
(`equations.without_shapes`).
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.factors.equations import Batch, Parabolas
from spreadflow.analysis.factors.solution import Add, Marginal


class SharedSums(NamedTuple):
    """What lattices say about shared unknowns v, their own eliminated. Sums over batches and ranks
    add up.
    """

    across: np.ndarray
    """(shared, reflection) information that v and intensities share"""
    information: np.ndarray
    """(shared, shared)"""
    slope: np.ndarray
    """(shared,) fall of −ln L by v"""


def shared_sums(
    batch: Batch,
    of_lattices: Parabolas,
    is_shared: np.ndarray,
    value: np.ndarray,
    marginal_held: np.ndarray,
    unknowns: np.ndarray,
    change: np.ndarray,
) -> SharedSums:
    """Return what the lattices of a batch say about shared unknowns at their `value` (shared,).

    of_lattices: parabolas of the batch without shapes; is_shared: (unknown,) bool; marginal_held:
    (lattice, own, own) covariance of the lattices' own unknowns; unknowns: (lattice, own) these;
    change: (reflection,) of intensities from those expanded about.
    """
    own = ~is_shared
    n = len(change)
    nuisance = of_lattices.nuisance
    mixed = nuisance[:, own][:, :, is_shared]
    both = nuisance[:, is_shared][:, :, is_shared]
    follow = marginal_held @ mixed
    cross = of_lattices.cross[:, is_shared]
    by_own = np.einsum("ci,cis->cs", of_lattices.cross[:, own], follow[batch.lattice])
    slope = of_lattices.score[:, is_shared].sum(axis=0) - both.sum(axis=0) @ value
    slope -= cross.T @ change[batch.unique] + np.einsum("lis,li->s", mixed, unknowns)
    return SharedSums(
        across=np.array([np.bincount(batch.unique, row, n) for row in (cross - by_own).T]),
        information=(both - mixed.transpose(0, 2, 1) @ follow).sum(axis=0),
        slope=slope,
    )


def shared_step(marginal: Marginal, sums: SharedSums, precision: float) -> np.ndarray:
    """Return the step (shared,) of the shared unknowns that makes the pixels likeliest,
    intensities and lattices eliminated. Collective.

    sums: of all ranks; precision: of a weak restraint of each step.
    """
    across = np.where(marginal.is_seen, sums.across, 0.0)
    solved = np.array([marginal.solved(row)[0] for row in across]).reshape(across.shape)
    information = sums.information - across @ solved.T
    regular = 0.5 * (information + information.T) + precision * np.eye(len(sums.slope))
    return np.linalg.solve(regular, sums.slope)


def added(sums: SharedSums, add: Add) -> SharedSums:
    """Return the sums over all ranks. Collective."""
    return SharedSums(*(add(np.ascontiguousarray(part)) for part in sums))
