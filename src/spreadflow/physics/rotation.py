"""Rotations as (3, 3) matrices acting on column vectors from the left. Angles in rad."""

import numpy as np
import scipy


def from_vector(vector: np.ndarray) -> np.ndarray:
    """Return the rotations (..., 3, 3) of rotation vectors (..., 3), rad."""
    vector = np.asarray(vector, dtype=np.float64)
    matrices = scipy.spatial.transform.Rotation.from_rotvec(vector.reshape(-1, 3)).as_matrix()
    return matrices.reshape(*vector.shape[:-1], 3, 3)


def vector(rotation: np.ndarray) -> np.ndarray:
    """Return the rotation vectors (..., 3), rad, of rotations (..., 3, 3)."""
    vectors = scipy.spatial.transform.Rotation.from_matrix(rotation.reshape(-1, 3, 3)).as_rotvec()
    return vectors.reshape(rotation.shape[:-1])


def random(rng: np.random.Generator) -> np.ndarray:
    """Return a rotation (3, 3) drawn uniformly from SO(3) (Shoemake 1992)."""
    return scipy.spatial.transform.Rotation.random(rng=rng).as_matrix()


def mean(rotations: np.ndarray) -> np.ndarray:
    """Return the mean (3, 3) of rotations (n, 3, 3) in the chordal sense."""
    return scipy.spatial.transform.Rotation.from_matrix(rotations).mean().as_matrix()


def angle(rotation: np.ndarray) -> np.ndarray:
    """Return the angles (...) of rotations (..., 3, 3), rad; accurate for small angles."""
    skew = rotation - np.swapaxes(rotation, -1, -2)
    xy = skew[..., 0, 1]
    xz = skew[..., 0, 2]
    yz = skew[..., 1, 2]
    sine = 0.5 * np.sqrt(xy**2 + xz**2 + yz**2)
    trace = np.trace(rotation, axis1=-2, axis2=-1)
    cosine = 0.5 * (trace - 1.0)
    return np.arctan2(sine, cosine)


def nearest(matrix: np.ndarray) -> np.ndarray:
    """Return the rotation part of matrices (..., 3, 3), by polar decomposition."""
    u, _, vt = np.linalg.svd(matrix)
    u[..., :, -1] *= np.linalg.det(u @ vt)[..., None]
    return u @ vt
