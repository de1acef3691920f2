"""What an indexer has to search: where the axes of a roughly known reduced cell may point and end.

The tolerances of the cell are followed through symmetry, centring and reduction by moving the
corners of their box, so that an axis like a + c gets the range of lengths that a wrong β allows it,
and one fixed by symmetry gets none.
"""

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from spreadflow.physics import symmetry, unit_cell

N_RING = 8192  # trial vectors for the second axis
N_BOX = 2048  # trial vectors for the third axis
PHASE = 0.45  # cycles: |q| times the step of a trial grid
SLACK = np.deg2rad(1.5)  # error of an axis that was found, rad


class Grid(NamedTuple):
    """Trial vectors."""

    vectors: np.ndarray
    """(3, m) float32, Å"""
    q_max: float
    """largest |q| whose phase the grid resolves, Å⁻¹"""


class Plan(NamedTuple):
    """Where to look for the axes of the reduced cell, in one of the three cyclic orders."""

    lengths: tuple[float, float]
    """least and greatest length of the leading axis, Å"""
    shell: Grid
    """leading axis, lab frame"""
    ring: Grid
    """second axis, in a frame whose first vector is along the leading axis"""
    box: Grid
    """third axis, in the frame of the first two (`axes_frame`)"""


class Target(NamedTuple):
    """What is known of the lattice: the expected cell and how far the true one may be away."""

    cell: np.ndarray
    """(6,) conventional, Å and rad"""
    length_tolerance: float
    angle_tolerance: float
    """rad"""
    point_group: np.ndarray
    """(g, 3, 3) rotations on direct coordinates"""
    strains: np.ndarray
    """(f, 3, 3) symmetric: what the reciprocal metric may change by"""
    primitive: np.ndarray
    """(3, 3) primitive basis = conventional basis · primitive"""
    steps: np.ndarray
    """(n, 3) integers: the lattice vectors, in the reduced basis, that may be conventional axes"""
    plans: tuple[Plan, ...]


@lru_cache(maxsize=8)
def target_of(
    cell: tuple[float, ...],
    space_group: str,
    length_tolerance: float,
    angle_tolerance: float,
    n_directions: int,
) -> Target:
    """Return the search space that a cell with tolerances spans."""
    corners = _corner_cells(np.array(cell), space_group, length_tolerance, angle_tolerance)
    bases = np.array([unit_cell.orthogonalization(c) for c in corners])
    primitive = symmetry.primitive(space_group)
    to_reduced = primitive @ _reduce(bases[0] @ primitive)
    bases = bases @ to_reduced
    plans = tuple(
        _plan(bases[:, :, order], n_directions) for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1])
    )
    steps = _integers(int(np.abs(np.linalg.inv(to_reduced)).max().round()) + 2)
    sizes = np.linalg.norm(np.einsum("kij,nj->nki", bases, steps), axis=2)
    shortest = sizes.min(axis=1)[:, None]
    longest = sizes.max(axis=1)[:, None]
    margin = length_tolerance + 0.02
    possible = (longest > np.array(cell[:3]) * (1 - margin)) & (
        shortest < np.array(cell[:3]) * (1 + margin)
    )
    group = symmetry.point_group(space_group)
    strains = symmetry.reciprocal_metric_basis(space_group)
    tolerances = length_tolerance, angle_tolerance
    return Target(
        np.array(cell), *tolerances, group, strains, primitive, steps[possible.any(axis=1)], plans
    )


def _plan(bases: np.ndarray, n: int) -> Plan:
    """Return the search space spanned by right-handed reduced bases (k, 3, 3): what they and errors
    span.
    """
    one, two, three = np.moveaxis(bases, 2, 0)
    size = np.linalg.norm(one, axis=1)
    lengths = size.min() * 0.99, size.max() * 1.01
    along = (one * two).sum(axis=1) / size
    away = np.linalg.norm(two - along[:, None] * one / size[:, None], axis=1)
    noise = SLACK * np.linalg.norm(two[0])
    ring = _ring(
        (along.min() - noise, along.max() + noise), (away.min() * 0.99, away.max() * 1.01), N_RING
    )
    third = np.array([axes_frame(v, w).T @ x for v, w, x in zip(one, two, three, strict=True)])
    noise = SLACK * np.linalg.norm(three[0])
    return Plan(
        lengths,
        _half_shell(*lengths, n),
        ring,
        _box(third.min(axis=0) - noise, third.max(axis=0) + noise, N_BOX),
    )


def _corner_cells(cell: np.ndarray, space_group: str, length: float, angle: float) -> np.ndarray:
    """Return (k, 6): the target itself, then the corners of its tolerance box, as far as symmetry
    allows them.
    """
    steps = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]) * angle + np.append(
        cell[:3] * length, [0.0] * 3
    )
    cells = [symmetry.constrain_cell(cell, space_group)]
    for signs in product((-1.0, 1.0), repeat=6):
        corner = symmetry.constrain_cell(cell + steps * signs, space_group)
        if np.isfinite(corner).all():
            cells.append(corner)
    return np.array(cells)


def _reduce(basis: np.ndarray) -> np.ndarray:
    """Return (3, 3) integer T of determinant 1: the columns of basis · T are the shortest
    independent lattice vectors.
    """
    transform = np.eye(3)
    while True:
        steps = _integers(2)
        order = _by_length(basis @ transform @ steps.T)
        chosen: list[np.ndarray] = []
        for step in steps[order]:
            if np.linalg.matrix_rank(np.array([*chosen, step])) > len(chosen):
                chosen.append(step)
            if len(chosen) == 3:
                break
        step = np.array(chosen).T
        if np.linalg.norm(basis @ transform @ step) >= np.linalg.norm(basis @ transform) * (
            1 - 1e-9
        ):
            break
        transform = transform @ step
    transform = transform[:, _by_length(basis @ transform)]
    transform[:, 2] *= np.sign(np.linalg.det(transform)) * np.sign(np.linalg.det(basis))
    return transform.round()


def _by_length(vectors: np.ndarray) -> np.ndarray:
    """Order of the columns of (3, n); lengths that differ by rounding only keep their order."""
    length = np.linalg.norm(vectors, axis=0)
    return np.argsort(np.round(length / length.min(), 6), kind="stable")


def _integers(limit: int) -> np.ndarray:
    """Return (n, 3) all integer triples up to ±limit but 0 0 0."""
    triples = np.array(list(product(range(-limit, limit + 1), repeat=3)), dtype=np.float64)
    return triples[triples.any(axis=1)]


def axes_frame(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return (3, 3) with columns: along the first vector, in the plane towards the second, normal
    (right handed).
    """
    e1 = first / np.linalg.norm(first)
    e3 = np.cross(first, second)
    e3 = e3 / np.linalg.norm(e3)
    return np.array([e1, np.cross(e3, e1), e3]).T


def _half_shell(inner: float, outer: float, n: int) -> Grid:
    """Return about n vectors on a cubic grid in the half shell z ≥ 0."""
    step = (2.0 / 3.0 * np.pi * (outer**3 - inner**3) / n) ** (1.0 / 3.0)
    axis = np.arange(-np.ceil(outer / step), np.ceil(outer / step) + 1) * step
    x, y, z = np.meshgrid(axis, axis, axis[axis > -0.5 * step], indexing="ij")
    r = np.sqrt(x * x + y * y + z * z)
    inside = (r >= inner) & (r <= outer)
    return Grid(np.stack([x[inside], y[inside], z[inside]]).astype(np.float32), PHASE / step)


def _ring(along: tuple[float, float], away: tuple[float, float], n: int) -> Grid:
    """Return about n vectors in the ring around the first axis: given range along it and of
    distance from it.
    """
    step = (np.pi * (away[1] ** 2 - away[0] ** 2) * (along[1] - along[0]) / n) ** (1.0 / 3.0)
    phi = np.arange(0.0, 2.0 * np.pi, step / away[1])
    x, r, phi = np.meshgrid(_middles(*along, step), _middles(*away, step), phi, indexing="ij")
    return Grid(
        np.array([x, r * np.cos(phi), r * np.sin(phi)]).reshape(3, -1).astype(np.float32),
        PHASE / step,
    )


def _box(low: np.ndarray, high: np.ndarray, n: int) -> Grid:
    """Return about n vectors between two corners."""
    step = (np.prod(high - low) / n) ** (1.0 / 3.0)
    axes = [_middles(a, b, step) for a, b in zip(low, high, strict=True)]
    return Grid(
        np.array(np.meshgrid(*axes, indexing="ij")).reshape(3, -1).astype(np.float32), PHASE / step
    )


def _middles(low: float, high: float, step: float) -> np.ndarray:
    """Return middles of the fewest equal intervals no longer than step."""
    n = int(np.ceil((high - low) / step))
    return low + (np.arange(n) + 0.5) * (high - low) / n
