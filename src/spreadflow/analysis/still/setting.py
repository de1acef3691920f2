"""The conventional setting of a lattice: which of its vectors are the axes of the expected cell."""

import numpy as np

from spreadflow.analysis.still.search_space import Target, integers, reduced_basis
from spreadflow.physics import rotation

ASYMMETRY = 0.01
"""Relative violation of the symmetry by a metric that costs a conventional setting as much as a
difference of `OFF_TARGET` from the target.
"""

OFF_TARGET = 0.05
"""Difference from the target cell, relative and rad, that costs as much as `ASYMMETRY`."""

LENGTH_MARGIN = 0.01
"""Beyond the tolerance, relative: an axis of a lattice not yet constrained may be this much off."""

ANGLE_MARGIN = np.deg2rad(1.0)
"""Rad; beyond the tolerance: an angle of a lattice not yet constrained may be this much off."""


LARGEST_STEP = 3
"""Largest coefficient of a conventional axis in a reduced basis of no known order and signs."""

DENOMINATOR = 24
"""Translations of centrings, and axes of other settings, are multiples of one over it."""


def conventional(basis: np.ndarray, target: Target) -> np.ndarray | None:
    """Return the conventional basis (3, 3) of the lattice `basis` (3, 3) that is nearest to the
    target and to a symmetric metric, or None.

    All settings within the tolerances are compared: a C lattice has several with nearly the same
    cell, and a wrong target angle may prefer the wrong one, which then violates the symmetry.
    """
    triples, angles = _axes_near_target(target.steps @ basis.T, target)
    coefficients = np.swapaxes(target.steps[triples], 1, 2)
    is_setting = _is_setting(coefficients @ target.primitive, basis)
    if not is_setting.any():
        return None

    bases = basis @ coefficients[is_setting]
    lengths = np.linalg.norm(bases, axis=1)
    length_error = lengths / target.cell[:3] - 1.0
    angle_error = angles[is_setting] - target.cell[3:]
    off_target = np.linalg.norm(length_error, axis=1) + np.linalg.norm(angle_error, axis=1)

    cost = _asymmetry(bases, target) / ASYMMETRY + off_target / OFF_TARGET
    return bases[np.argmin(cost)]


def on_target_axes(
    A: np.ndarray, rotations: np.ndarray | None, centring: np.ndarray, target: Target
) -> np.ndarray | None:
    """Return the axes of the target in those of another setting of the same lattice: C (3, 3), with
    direct basis of the target = direct basis of A · C and Miller indices hkl · C. None where the
    lattice is not the target's, or has other symmetry on these axes.

    rotations: (g, 3, 3) of its Laue class, None = not known; centring: (n, 3) its translations, on
    the axes of A.
    """
    basis = np.linalg.inv(A).T
    any_basis = target._replace(steps=integers(LARGEST_STEP))
    axes = conventional(reduced_basis(basis, centring), any_basis)
    if axes is None:
        return None
    coefficients = (np.linalg.inv(basis) @ axes * DENOMINATOR).round() / DENOMINATOR
    if rotations is None:
        return coefficients
    turned = np.linalg.inv(coefficients) @ rotations @ coefficients
    is_same = np.array_equal(np.unique(turned.round(6) + 0.0, axis=0), target.point_group)
    return coefficients if is_same else None


def _axes_near_target(vectors: np.ndarray, target: Target) -> tuple[np.ndarray, np.ndarray]:
    """Return the triples of vectors (n, 3) whose lengths and angles are near the target cell's:
    their indices (m, 3) and the angles between them α, β, γ (m, 3), rad.
    """
    size = np.linalg.norm(vectors, axis=1)
    tolerance = target.length_tolerance + LENGTH_MARGIN
    axes = []
    for length in target.cell[:3]:
        difference = np.abs(size / length - 1.0)
        axes.append(np.flatnonzero(difference < tolerance))
    grids = np.meshgrid(*axes, indexing="ij")
    i, j, k = (grid.ravel() for grid in grids)

    cosines = []
    for one, other in ((j, k), (i, k), (i, j)):
        products = (vectors[one] * vectors[other]).sum(axis=1)
        sizes = size[one] * size[other]
        cosines.append(products / sizes)
    cosine = np.clip(np.array(cosines).T, -1.0, 1.0)
    angles = np.arccos(cosine)

    difference = np.abs(angles - target.cell[3:])
    tolerance = target.angle_tolerance + ANGLE_MARGIN
    is_near = (difference < tolerance).all(axis=1)
    triples = np.stack([i, j, k], axis=1)
    return triples[is_near], angles[is_near]


def _is_setting(to_primitive: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Return which axes are right-handed conventional axes of a lattice, (n,) bool.

    basis: (3, 3) of the lattice. to_primitive: (n, 3, 3) coefficients, in that basis, of the
    primitive vectors that the axes and the centring make: they must be integers and span the whole
    lattice.
    """
    off_integer = np.abs(to_primitive - to_primitive.round())
    is_whole = (off_integer < 1e-6).all(axis=(1, 2))

    handedness = np.sign(np.linalg.det(basis))
    off_one = np.abs(np.linalg.det(to_primitive) * handedness - 1.0)
    return is_whole & (off_one < 1e-6)


def _asymmetry(bases: np.ndarray, target: Target) -> np.ndarray:
    """Return how far, relative, the metrics of bases (n, 3, 3) are from the point group's symmetry;
    (n,).
    """
    rotations = target.point_group
    metric = np.swapaxes(bases, 1, 2) @ bases
    total = np.einsum("gji,njk,gkl->nil", rotations, metric, rotations)
    symmetric = total / len(rotations)

    difference = np.linalg.norm(metric - symmetric, axis=(1, 2))
    return difference / np.linalg.norm(metric, axis=(1, 2))


def constrain(A: np.ndarray, target: Target) -> np.ndarray:
    """Return the A (3, 3) of symmetric metric that is rotated least from A."""
    rotations = target.point_group
    direct = np.linalg.inv(A).T
    metric = direct.T @ direct
    total = np.einsum("gji,jk,gkl->il", rotations, metric, rotations)
    symmetric = total / len(rotations)

    B = np.linalg.inv(np.linalg.cholesky(symmetric))
    return rotation.nearest(A @ np.linalg.inv(B)) @ B
