"""Do the spots contradict the lattice symmetry under which cells were refined?

A strain e (symmetric, in the axes of the crystal) turns a node U B h into U (1 − e) B h. Lattices
are refined with those strains alone that the space group allows: a and b of a tetragonal cell stay
equal, and its angles right. Here each lattice is given the others too, in a linear step, from where
its spots lie around the beam: azimuths, which neither the spectrum nor the distance of the detector
moves. A still sees but the strains in its own plane; lattices in all orientations see all.

The operations of the point group turn a forbidden strain into others, and which of these a lattice
has is left to chance when it is indexed: over many lattices forbidden strains average to nothing,
however large they are. So one strain is sought that lattices have in common but for an operation.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy

from spreadflow.physics import geometry, rotation, symmetry, unit_cell

FREEDOM = 4.0
"""Degrees of freedom of Student's t, for spots and for lattices: a few wild ones do not count."""

UNKNOWN = 0.3
"""Standard deviation of the prior of rotations (rad) and forbidden strains: as good as none."""

TINY = 1e-30
"""Å⁻²; keeps a perfect fit from dividing by zero."""

ROUNDS = 10
"""Rounds of reweighting spots."""

LEAST_SURPLUS = 5
"""A lattice says nothing unless it has so many spots more than unknowns."""

SIZES = (1.0, 10.0)
"""Sizes of the strains from which the common one is sought, in σ of the strain that a lattice knows
best.
"""

N_STARTS = 3
"""Directions from which it is sought, of each size."""

LEAST_STRAIN = 3e-4
"""Relative change of a length below which a strain does no harm: at the edge of a detector it moves
spots by a fraction of a pixel.
"""

LEAST_GAIN = 15.0
"""Gain of the log likelihood from which a strain is believed. Without one, twice the gain is about
χ² of at most five degrees of freedom.
"""

LEAST_OVER_SCATTER = 1.8
"""Size of a strain in common, over the scatter of lattices around it, from which it is believed:
what scatters by as much may have any distribution.
"""


class Bases(NamedTuple):
    """Orthonormal strains, in the axes of the crystal."""

    allowed: np.ndarray
    """(k, 3, 3) by the lattice symmetry"""
    forbidden: np.ndarray
    """(f, 3, 3); k + f = 6"""
    actions: np.ndarray
    """(operation, f, f) what operations make of the forbidden ones"""


class CommonStrain(NamedTuple):
    """What the spots of all lattices say of the strains that the space group forbids."""

    strain: np.ndarray
    """(3, 3) that lattices have in common but for an operation"""
    sigma: float
    """standard deviation of one of its components"""
    scatter: float
    """of lattices around it, standard deviation of a component"""
    gain: float
    """of the log likelihood, over no strain in common"""

    @property
    def size(self) -> float:
        """Largest relative change of a length."""
        return float(np.abs(np.linalg.eigvalsh(self.strain)).max())

    @property
    def contradicts(self) -> bool:
        """Whether the lattice has not the symmetry of the space group."""
        least = max(LEAST_STRAIN, LEAST_OVER_SCATTER * self.scatter)
        return self.gain > LEAST_GAIN and self.size > least

    def cell(self, cell: np.ndarray) -> np.ndarray:
        """Return a cell (6,), Å and rad, with the strain."""
        basis = unit_cell.orthogonalization(cell)
        return unit_cell.cell_of_basis((np.eye(3) + self.strain) @ basis)


def strains(cell: np.ndarray, space_group: str) -> Bases:
    """Return the strains of a cell (6,), Å and rad, by what the space group says of them."""
    units = np.zeros((6, 3, 3))
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    for unit, (i, j) in zip(units, pairs, strict=True):
        unit[i, j] = unit[j, i] = 1.0 if i == j else np.sqrt(0.5)

    basis = unit_cell.orthogonalization(cell)
    turns = basis @ symmetry.point_group(space_group) @ np.linalg.inv(basis)
    turned = np.einsum("gki,nkl,glj->gnij", turns, units, turns)
    actions = np.einsum("mij,gnij->gmn", units, turned)
    values, vectors = np.linalg.eigh(actions.mean(axis=0))
    is_allowed = values > 0.5
    allowed = vectors[:, is_allowed].T
    forbidden = vectors[:, ~is_allowed].T
    return Bases(
        allowed=np.tensordot(allowed, units, 1),
        forbidden=np.tensordot(forbidden, units, 1),
        actions=forbidden @ actions @ forbidden.T,
    )


def strains_of_lattice(
    A: np.ndarray,
    hkl: np.ndarray,
    s1: np.ndarray,
    *,
    cell: np.ndarray,
    bases: Bases,
    scatter: float,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the forbidden strains (f,) of a lattice and their covariance (f, f); None where it has
    too few spots.

    A: (3, 3), Å⁻¹; hkl: (n, 3) of its spots; s1: (n, 3) unit vectors to them; cell: (6,) that the
    lattices have in common, Å and rad; scatter: of allowed strains between lattices.
    """
    n_allowed = 3 + len(bases.allowed)
    n_unknowns = n_allowed + len(bases.forbidden)
    if len(hkl) < n_unknowns + LEAST_SURPLUS:
        return None
    B = unit_cell.reciprocal(cell)
    U = rotation.nearest(A @ np.linalg.inv(B))
    residual, design = _azimuths(U, hkl @ B.T, s1, np.concatenate([bases.allowed, bases.forbidden]))
    deviation = np.full(n_unknowns, UNKNOWN)
    deviation[3:n_allowed] = scatter
    prior = np.diag(deviation**-2)

    weight = np.ones(len(hkl))
    variance = float(np.median(residual**2)) + TINY
    for _ in range(ROUNDS):
        normal = design.T @ (design * weight[:, None]) / variance
        covariance = np.linalg.inv(normal + prior)
        p = covariance @ (design.T @ (weight * residual)) / variance
        rest = residual - design @ p
        variance = float((weight * rest**2).sum()) / (len(hkl) - n_unknowns) + TINY
        weight = (FREEDOM + 1) / (FREEDOM + rest**2 / variance)
    return p[n_allowed:], covariance[n_allowed:, n_allowed:]


def _azimuths(
    U: np.ndarray, nodes: np.ndarray, s1: np.ndarray, strains: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how far spots (n,) lie from their nodes around the beam, Å⁻¹, and the derivatives (n,
    3 + s) by rotations about x, y, z and by strains (s, 3, 3).

    nodes: (n, 3) B h, which U (3, 3) turns into the laboratory.
    """
    q = nodes @ U.T
    radius = np.hypot(q[:, 0], q[:, 1])
    across = np.stack([-q[:, 1], q[:, 0], np.zeros(len(q))], axis=1) / radius[:, None]
    to_spot = (s1 - geometry.S0)[:, :2]
    to_spot = to_spot / np.linalg.norm(to_spot, axis=1, keepdims=True)
    residual = radius * (across[:, :2] * to_spot).sum(axis=1)

    by_rotation = np.cross(np.eye(3), q[:, None, :])
    by_strain = -np.einsum("ij,sjk,nk->nsi", U, strains, nodes)
    moves = np.concatenate([by_rotation, by_strain], axis=1)
    return residual, np.einsum("nsi,ni->ns", moves, across)


def common_strain(values: np.ndarray, covariances: np.ndarray, bases: Bases) -> CommonStrain:
    """Return the forbidden strain that lattices have in common but for an operation.

    values: (lattice, f) and covariances: (lattice, f, f), as of `strains_of_lattice`. Lattices
    scatter by more than their σ, by as much as makes them likeliest.
    """
    n_strains = values.shape[1]
    variances, axes = np.linalg.eigh(covariances)
    along = np.einsum("lij,li->lj", axes, values)
    turned = np.einsum("lij,gik->lgjk", axes, bases.actions)
    typical = float(np.sqrt(np.median(variances[:, 0])))
    loss = _loss(along, variances, turned)

    without = [loss(np.append(log, np.zeros(n_strains))) for log in np.log(typical) + _LOG_SCATTERS]
    start_scatter = np.log(typical) + _LOG_SCATTERS[int(np.argmin(without))]
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((N_STARTS, n_strains))
    fits = [
        scipy.optimize.minimize(
            loss, np.append(start_scatter, size * typical * direction), method="BFGS"
        )
        for size in SIZES
        for direction in directions
    ]
    best = min(fits, key=lambda fit: fit.fun)

    precision = 1.0 / (variances + np.exp(2 * best.x[0]))
    information = np.einsum("lij,lj,lkj->ik", axes, precision, axes)
    return CommonStrain(
        strain=np.tensordot(best.x[1:], bases.forbidden, 1),
        sigma=float(np.sqrt(np.trace(np.linalg.inv(information)) / n_strains)),
        scatter=float(np.exp(best.x[0])),
        gain=float(min(without) - best.fun),
    )


_LOG_SCATTERS = np.linspace(-3.0, 7.0, 41)
"""Scatters between lattices that are tried without a strain, ln of multiples of a typical σ."""


def _loss(
    along: np.ndarray, variances: np.ndarray, turned: np.ndarray
) -> Callable[[np.ndarray], float]:
    """Return the function −log likelihood of (ln scatter, strain (f,)).

    along: (lattice, f) strains on the axes on which their errors are independent; variances:
    (lattice, f); turned: (lattice, operation, f, f) brings a common strain there.
    """
    n_strains = along.shape[1]

    def loss(unknowns: np.ndarray) -> float:
        total = variances + np.exp(2 * unknowns[0])
        distance = along[:, None, :] - turned @ unknowns[1:]
        z2 = (distance**2 / total[:, None, :]).sum(axis=-1)
        log = -0.5 * (FREEDOM + n_strains) * np.log1p(z2 / FREEDOM)
        of_lattices = scipy.special.logsumexp(log, axis=1) - np.log(turned.shape[1])
        return float(0.5 * np.log(total).sum() - of_lattices.sum())

    return loss
