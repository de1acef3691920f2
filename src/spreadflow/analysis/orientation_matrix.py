"""The orientation matrix A = U B of a lattice by few unknowns: rotation and strains from a start.

Unknowns p: rotation vector (3, rad) from the left, and the strains of the reciprocal basis that the
space group's lattice symmetry leaves free (1-6). Centroids, the detector's position and pixels are
all fitted in these.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Array
from spreadflow.physics import rotation, symmetry, unit_cell


class CrystalFrame(NamedTuple):
    """What the unknowns of a lattice are counted from."""

    U: Array
    """(3, 3) rotation"""
    metric: Array
    """(3, 3) reciprocal metric G* = BᵀB, Å⁻²"""
    strains: Array
    """(strain, 3, 3) changes of G* for unit strain, Å⁻²"""


def crystal_frame(A: np.ndarray, space_group: str) -> CrystalFrame:
    """Return the frame of A (3, 3), Å⁻¹: its rotation, and the nearest cell that the space group
    allows. Strains are orthonormal.
    """
    cell = symmetry.constrain_cell(unit_cell.cell_of(A), space_group)
    B = unit_cell.reciprocal(cell)
    metric = B.T @ B
    lower = np.linalg.cholesky(metric)
    inverse = np.linalg.inv(lower)

    changes = symmetry.reciprocal_metric_basis(space_group)
    relative = np.array([inverse @ change @ inverse.T for change in changes])
    rows = relative.reshape(len(changes), 9)
    *_, orthonormal = np.linalg.svd(rows, full_matrices=False)
    basis = orthonormal.reshape(-1, 3, 3)
    return CrystalFrame(
        U=rotation.nearest(A @ np.linalg.inv(lower.T)),
        metric=metric,
        strains=np.array([2.0 * lower @ strain @ lower.T for strain in basis]),
    )


def matrix(frame: CrystalFrame, p) -> Array:
    """Return A (3, 3) for unknowns p that begin with rotation vector and strains. The rotation is
    exact, and B upper triangular.
    """
    n_strains = len(frame.strains)
    strains = p[3 : 3 + n_strains, None, None]
    change = (frame.strains * strains).sum(axis=0)
    metric = frame.metric + change
    return turn(p[:3]) @ (frame.U @ _upper(metric))


def at_start(frame: CrystalFrame) -> np.ndarray:
    """Return A (3, 3), Å⁻¹, where all unknowns are zero."""
    return np.asarray(matrix(frame, np.zeros(3 + len(frame.strains))))


def recentred(frame: CrystalFrame, A: np.ndarray) -> CrystalFrame:
    """Return the frame from which unknowns are counted so that they are zero at A (3, 3), Å⁻¹, a
    lattice with the symmetry of the frame's; strains stay as they are.
    """
    metric = A.T @ A
    upper = np.linalg.cholesky(metric).T
    return frame._replace(U=rotation.nearest(A @ np.linalg.inv(upper)), metric=metric)


def coordinates(frame: CrystalFrame, A: np.ndarray) -> np.ndarray:
    """Return the unknowns (3 + strains,) of which `matrix` makes A (3, 3), a lattice with the
    symmetry of the frame's.
    """
    n_strains = len(frame.strains)
    lower = np.linalg.cholesky(frame.metric)
    inverse = np.linalg.inv(lower)
    basis = np.array([inverse @ strain @ inverse.T for strain in frame.strains])
    difference = A.T @ A - frame.metric
    change = inverse @ difference @ inverse.T

    design = basis.reshape(n_strains, 9).T
    strains = np.linalg.lstsq(design, change.reshape(9), rcond=None)[0]

    without_turn = np.concatenate([np.zeros(3), strains])
    unturned = np.asarray(matrix(frame, without_turn))
    rotated = rotation.nearest(A @ np.linalg.inv(unturned))
    return np.concatenate([rotation.vector(rotated), strains])


def turn(v) -> Array:
    """Return the rotation matrix (3, 3) of the rotation vector v (3,), rad, by Rodrigues' formula;
    smooth at 0.
    """
    t2 = (v * v).sum()
    is_small = t2 < 1e-8
    t = jnp.sqrt(jnp.where(is_small, 1.0, t2))

    # sin t / t and (1 − cos t)/t², by their series where t is small
    sine = jnp.where(is_small, 1.0 - t2 / 6.0, jnp.sin(t) / t)
    versine = jnp.where(is_small, 0.5 - t2 / 24.0, (1.0 - jnp.cos(t)) / t**2)

    zero = jnp.zeros_like(t2)
    rows = [
        jnp.stack([zero, -v[2], v[1]]),
        jnp.stack([v[2], zero, -v[0]]),
        jnp.stack([-v[1], v[0], zero]),
    ]
    K = jnp.stack(rows)
    return jnp.eye(3) + sine * K + versine * (K @ K)


def _upper(G) -> Array:
    """Return the upper triangular B with BᵀB = G (3, 3), element by element."""
    b00 = jnp.sqrt(G[0, 0])
    b01 = G[0, 1] / b00
    b02 = G[0, 2] / b00
    b11 = jnp.sqrt(G[1, 1] - b01**2)
    b12 = (G[1, 2] - b01 * b02) / b11
    b22 = jnp.sqrt(G[2, 2] - b02**2 - b12**2)

    zero = jnp.zeros_like(b00)
    rows = [
        jnp.stack([b00, b01, b02]),
        jnp.stack([zero, b11, b12]),
        jnp.stack([zero, zero, b22]),
    ]
    return jnp.stack(rows)
