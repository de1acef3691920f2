"""The orientation matrix A = U B of a lattice by few unknowns: rotation and strains from a start.

Unknowns p: rotation vector (3, rad) from the left, and the strains of the reciprocal basis that the
space group's lattice symmetry leaves free (1-6). Centroids, the detector's position and pixels are
all fitted in these.
"""

import math
from typing import NamedTuple

import numpy as np

from spreadflow.models import Array
from spreadflow.physics import rotation, symmetry, unit_cell

GENERATORS = np.cross(np.eye(3)[:, None], np.eye(3)).swapaxes(1, 2)
"""(3, 3, 3) [e]× of the three axes."""

HALF_UPPER = np.triu(np.ones((3, 3))) - 0.5 * np.eye(3)
"""What takes the upper triangle of a matrix, its diagonal halved."""


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
    exact, and B upper triangular. NumPy and JAX arrays alike.
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


def linearized(frame: CrystalFrame, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `matrix` and its derivatives by rotation vector and strains, (3 + strains, 3, 3), the
    first axis that of the unknowns (NumPy).

    A turn by v + dv is the turn by v, then one by J dv, J = Σ Kⁿ/(n + 1)! with K = [v]×; and BᵀB =
    G follows dG with the upper triangle of B⁻ᵀ dG B⁻¹, its diagonal halved, times B.
    """
    n_strains = len(frame.strains)
    metric = frame.metric + np.tensordot(p[3 : 3 + n_strains], frame.strains, axes=1)
    upper = np.linalg.cholesky(metric).T
    turned, follows = _turn_and_follows(np.asarray(p[:3]))
    rotated = turned @ frame.U
    A = rotated @ upper

    by_turn = np.tensordot(follows.T, GENERATORS, axes=1) @ A
    inverse = np.linalg.inv(upper)
    by_strain = rotated @ (inverse.T @ frame.strains @ inverse * HALF_UPPER) @ upper
    return A, np.concatenate([by_turn, by_strain])


def _turn_and_follows(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rotation matrix Σ Kⁿ/n! (3, 3) of a rotation vector v (3,), rad, and
    Σ Kⁿ/(n + 1)!, by their series where v is small.
    """
    t2 = float(v @ v)
    if t2 < 1e-4:
        sine = 1.0 - t2 / 6.0 + t2**2 / 120.0
        versine = 0.5 - t2 / 24.0 + t2**2 / 720.0
        rest = 1.0 / 6.0 - t2 / 120.0 + t2**2 / 5040.0
    else:
        t = math.sqrt(t2)
        sine = math.sin(t) / t
        versine = (1.0 - math.cos(t)) / t2
        rest = (1.0 - sine) / t2
    K = np.tensordot(v, GENERATORS, axes=1)
    square = K @ K
    one = np.eye(3)
    return one + sine * K + versine * square, one + versine * K + rest * square


def turn(v) -> Array:
    """Return the rotation matrix (3, 3) of the rotation vector v (3,), rad, by Rodrigues' formula;
    smooth at 0.
    """
    numpy_or_jax = v.__array_namespace__()
    t2 = (v * v).sum()
    is_small = t2 < 1e-8
    t = numpy_or_jax.sqrt(numpy_or_jax.where(is_small, 1.0, t2))

    # sin t / t and (1 − cos t)/t², by their series where t is small
    sine = numpy_or_jax.where(is_small, 1.0 - t2 / 6.0, numpy_or_jax.sin(t) / t)
    versine = numpy_or_jax.where(is_small, 0.5 - t2 / 24.0, (1.0 - numpy_or_jax.cos(t)) / t**2)

    zero = numpy_or_jax.zeros_like(t2)
    rows = [
        numpy_or_jax.stack([zero, -v[2], v[1]]),
        numpy_or_jax.stack([v[2], zero, -v[0]]),
        numpy_or_jax.stack([-v[1], v[0], zero]),
    ]
    K = numpy_or_jax.stack(rows)
    return numpy_or_jax.eye(3) + sine * K + versine * (K @ K)


def _upper(G) -> Array:
    """Return the upper triangular B with BᵀB = G (3, 3), element by element."""
    numpy_or_jax = G.__array_namespace__()
    b00 = numpy_or_jax.sqrt(G[0, 0])
    b01 = G[0, 1] / b00
    b02 = G[0, 2] / b00
    b11 = numpy_or_jax.sqrt(G[1, 1] - b01**2)
    b12 = (G[1, 2] - b01 * b02) / b11
    b22 = numpy_or_jax.sqrt(G[2, 2] - b02**2 - b12**2)

    zero = numpy_or_jax.zeros_like(b00)
    rows = [
        numpy_or_jax.stack([b00, b01, b02]),
        numpy_or_jax.stack([zero, b11, b12]),
        numpy_or_jax.stack([zero, zero, b22]),
    ]
    return numpy_or_jax.stack(rows)
