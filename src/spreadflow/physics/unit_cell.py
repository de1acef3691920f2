"""Unit cells and reciprocal lattices. Cells are (6,) a b c (Å) α β γ (rad); A has columns a*, b*,
c* (Å⁻¹).
"""

import numpy as np

NAMES = ("a", "b", "c", "alpha", "beta", "gamma")
"""Names of the parameters of a cell."""


def orthogonalization(cell: np.ndarray) -> np.ndarray:
    """Return the matrix (3, 3) with columns a, b, c in the PDB convention (a along x, b in the xy
    plane), Å.
    """
    a, b, c, alpha, beta, gamma = cell
    cos_a = np.cos(alpha)
    cos_b = np.cos(beta)
    cos_g = np.cos(gamma)
    sin_g = np.sin(gamma)
    cy = (cos_a - cos_b * cos_g) / sin_g
    cz = np.sqrt(1.0 - cos_b**2 - cy**2)
    return np.array(
        [
            [a, b * cos_g, c * cos_b],
            [0.0, b * sin_g, c * cy],
            [0.0, 0.0, c * cz],
        ]
    )


def reciprocal(cell: np.ndarray) -> np.ndarray:
    """Return the matrix B (3, 3) with columns a*, b*, c* of the unrotated cell, Å⁻¹; A = U B."""
    return np.linalg.inv(orthogonalization(cell)).T


def cell_of(A: np.ndarray) -> np.ndarray:
    """Return the cell (6,) of a reciprocal matrix A (3, 3)."""
    return cell_of_basis(np.linalg.inv(A).T)


def cell_of_basis(basis: np.ndarray) -> np.ndarray:
    """Return the cell (6,) of a direct basis (3, 3) with columns a, b, c."""
    lengths = np.linalg.norm(basis, axis=0)
    a, b, c = (basis / lengths).T
    cosines = np.array([b @ c, a @ c, a @ b])
    angles = np.arccos(np.clip(cosines, -1.0, 1.0))
    return np.concatenate([lengths, angles])


def metric_of(cell: np.ndarray) -> np.ndarray:
    """Return the direct metric (3, 3), Å², of a cell (6,)."""
    basis = orthogonalization(cell)
    return basis.T @ basis


def cell_of_metric(metric: np.ndarray) -> np.ndarray:
    """Return the cell (6,) of a direct metric (3, 3), Å²."""
    return cell_of_basis(np.linalg.cholesky(metric).T)


def radians(cell) -> np.ndarray:
    """Return a cell (6,) with its angles, given in degrees, in rad."""
    cell = np.asarray(cell, dtype=np.float64)
    return np.concatenate([cell[:3], np.deg2rad(cell[3:])])


def degrees(cell) -> np.ndarray:
    """Return cells (6,) or (n, 6) with their angles, given in rad, in degrees."""
    cell = np.array(cell, dtype=np.float64)
    cell[..., 3:] = np.rad2deg(cell[..., 3:])
    return cell


def volume(cell: np.ndarray) -> float:
    """Return the volume of the cell, Å³."""
    return float(np.linalg.det(orthogonalization(cell)))


def spacing(A: np.ndarray, hkl: np.ndarray) -> np.ndarray:
    """Return the spacing d (...) of Miller indices (..., 3), Å; infinite for 0 0 0."""
    with np.errstate(divide="ignore"):
        return 1.0 / np.linalg.norm(hkl @ A.T, axis=-1)


def largest_indices(A: np.ndarray, d_min: float) -> np.ndarray:
    """Return the largest |h|, |k| and |l| (3,) of Miller indices with spacing ≥ d_min, Å."""
    lengths = np.linalg.norm(np.linalg.inv(A).T, axis=0)
    return np.floor(lengths / d_min).astype(int)


def all_indices(A: np.ndarray, d_min: float) -> np.ndarray:
    """Return every Miller index (n, 3), int32, but 0 0 0 with spacing ≥ d_min, Å (lattice absences
    not removed).
    """
    axes = [np.arange(-n, n + 1) for n in largest_indices(A, d_min)]
    grid = np.meshgrid(*axes, indexing="ij")
    hkl = np.stack(grid, axis=-1).reshape(-1, 3)
    is_within = (spacing(A, hkl) >= d_min) & hkl.any(axis=1)
    return hkl[is_within].astype(np.int32)
