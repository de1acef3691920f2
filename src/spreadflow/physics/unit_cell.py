"""Unit cells and reciprocal lattices. Cells are (6,) a b c (Å) α β γ (rad); A has columns a*, b*,
c* (Å⁻¹).
"""

import numpy as np


def orthogonalization(cell: np.ndarray) -> np.ndarray:
    """Return (3, 3) matrix with columns a, b, c in the PDB convention (a along x, b in the xy
    plane), Å.
    """
    a, b, c, alpha, beta, gamma = cell
    cos_a = np.cos(alpha)
    cos_b = np.cos(beta)
    cos_g = np.cos(gamma)
    sin_g = np.sin(gamma)
    cy = (cos_a - cos_b * cos_g) / sin_g
    cz = np.sqrt(1.0 - cos_b**2 - cy**2)
    return np.array([[a, b * cos_g, c * cos_b], [0.0, b * sin_g, c * cy], [0.0, 0.0, c * cz]])


def reciprocal(cell: np.ndarray) -> np.ndarray:
    """Return (3, 3) matrix B with columns a*, b*, c* of the unrotated cell, Å⁻¹; A = U B."""
    return np.linalg.inv(orthogonalization(cell)).T


def cell_of(A: np.ndarray) -> np.ndarray:
    """Return (6,) cell of a reciprocal matrix A (3, 3)."""
    return cell_of_basis(np.linalg.inv(A).T)


def cell_of_basis(basis: np.ndarray) -> np.ndarray:
    """Return (6,) cell of a direct basis (3, 3) with columns a, b, c."""
    lengths = np.linalg.norm(basis, axis=0)
    unit = basis / lengths
    cosines = np.array([unit[:, 1] @ unit[:, 2], unit[:, 0] @ unit[:, 2], unit[:, 0] @ unit[:, 1]])
    return np.concatenate([lengths, np.arccos(np.clip(cosines, -1.0, 1.0))])


def radians(cell) -> np.ndarray:
    """Return cell with angles in degrees → (6,) with angles in rad."""
    cell = np.asarray(cell, dtype=np.float64)
    return np.concatenate([cell[:3], np.deg2rad(cell[3:])])


def degrees(cell) -> np.ndarray:
    """Return (6,) or (n, 6) cells with angles in rad → the same with angles in degrees."""
    cell = np.array(cell, dtype=np.float64)
    cell[..., 3:] = np.rad2deg(cell[..., 3:])
    return cell


def volume(cell: np.ndarray) -> float:
    """Return volume of the cell, Å³."""
    return float(np.linalg.det(orthogonalization(cell)))


def spacing(A: np.ndarray, hkl: np.ndarray) -> np.ndarray:
    """Return d of Miller indices (..., 3), Å; infinite for 0 0 0."""
    with np.errstate(divide="ignore"):
        return 1.0 / np.linalg.norm(hkl @ A.T, axis=-1)


def all_indices(A: np.ndarray, d_min: float) -> np.ndarray:
    """Return (n, 3) int32: every Miller index but 0 0 0 with spacing ≥ d_min (lattice absences not
    removed).
    """
    limits = np.floor(np.linalg.norm(np.linalg.inv(A).T, axis=0) / d_min).astype(int)
    axes = [np.arange(-n, n + 1) for n in limits]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    keep = (spacing(A, hkl) >= d_min) & hkl.any(axis=1)
    return hkl[keep].astype(np.int32)
