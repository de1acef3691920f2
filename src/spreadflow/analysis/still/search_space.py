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

N_RING = 8192
"""Trial vectors for the second axis."""

N_BOX = 2048
"""Trial vectors for the third axis."""

PHASE = 0.45
"""Cycles; the largest |q| that a grid resolves, times its step."""

SLACK = np.deg2rad(1.5)
"""Rad; how wrong the direction of an axis may be when the next one is looked for."""

LENGTH_MARGIN = 0.02
"""Beyond the tolerance, relative: vectors this much longer or shorter may still be conventional
axes.
"""

N_REDUCED = 2
"""Largest coefficient by which a step of the reduction combines basis vectors."""

CYCLIC_ORDERS = ([0, 1, 2], [1, 2, 0], [2, 0, 1])
"""Which of the reduced axes leads the search, and which follow."""


class Grid(NamedTuple):
    """Trial vectors, evenly spread."""

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
    """The expected lattice: its cell, how far the true one may be away, and where to search."""

    cell: np.ndarray
    """(6,) conventional, Å and rad"""
    space_group: str
    length_tolerance: float
    """relative"""
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


def target_of(
    cell: np.ndarray,
    space_group: str,
    *,
    length_tolerance: float = 0.05,
    angle_tolerance: float = np.deg2rad(5.0),
    n_directions: int = 32768,
) -> Target:
    """Return the search space of an expected lattice.

    cell: (6,) conventional, Å and rad. length_tolerance (relative), angle_tolerance (rad): how far
    the true cell may be away. n_directions: trial vectors for the axis that leads the search. The
    last few search spaces are remembered, as all shots of a run have the same.
    """
    parameters = tuple(map(float, cell))
    return _target(parameters, space_group, length_tolerance, angle_tolerance, n_directions)


@lru_cache(maxsize=8)
def _target(
    cell: tuple[float, ...],
    space_group: str,
    length_tolerance: float,
    angle_tolerance: float,
    n_directions: int,
) -> Target:
    """Return the search space that `target_of` describes."""
    corners = _corner_cells(np.array(cell), space_group, length_tolerance, angle_tolerance)
    bases = np.array([unit_cell.orthogonalization(c) for c in corners])
    primitive = symmetry.primitive(space_group)
    to_reduced = primitive @ _reduce(bases[0] @ primitive)
    bases = bases @ to_reduced

    # coefficients, in the reduced basis, of every vector that may be a conventional axis
    largest = int(np.abs(np.linalg.inv(to_reduced)).max().round()) + 2
    steps = integers(largest)
    lengths = np.linalg.norm(np.einsum("kij,nj->nki", bases, steps), axis=2)
    shortest = lengths.min(axis=1)[:, None]
    longest = lengths.max(axis=1)[:, None]
    margin = length_tolerance + LENGTH_MARGIN
    is_long_enough = longest > np.array(cell[:3]) * (1 - margin)
    is_short_enough = shortest < np.array(cell[:3]) * (1 + margin)
    is_possible = (is_long_enough & is_short_enough).any(axis=1)

    return Target(
        cell=np.array(cell),
        space_group=space_group,
        length_tolerance=length_tolerance,
        angle_tolerance=angle_tolerance,
        point_group=symmetry.point_group(space_group),
        strains=symmetry.reciprocal_metric_basis(space_group),
        primitive=primitive,
        steps=steps[is_possible],
        plans=tuple(_plan(bases[:, :, order], n_directions) for order in CYCLIC_ORDERS),
    )


def _plan(bases: np.ndarray, n_directions: int) -> Plan:
    """Return where to look for the axes of lattices whose right-handed reduced bases lie among
    those given, (k, 3, 3), widened by the errors of the axes found before.
    """
    one, two, three = np.moveaxis(bases, 2, 0)
    length = np.linalg.norm(one, axis=1)
    shortest = length.min() * 0.99
    longest = length.max() * 1.01

    along = (one * two).sum(axis=1) / length
    across = two - along[:, None] * one / length[:, None]
    distance = np.linalg.norm(across, axis=1)
    slack = SLACK * np.linalg.norm(two[0])
    ring = _ring(
        (along.min() - slack, along.max() + slack),
        (distance.min() * 0.99, distance.max() * 1.01),
        N_RING,
    )

    axes = zip(one, two, three, strict=True)
    in_frame = np.array([axes_frame(first, second).T @ third for first, second, third in axes])
    slack = SLACK * np.linalg.norm(three[0])
    return Plan(
        lengths=(shortest, longest),
        shell=_half_shell(shortest, longest, n_directions),
        ring=ring,
        box=_box(in_frame.min(axis=0) - slack, in_frame.max(axis=0) + slack, N_BOX),
    )


def _corner_cells(
    cell: np.ndarray, space_group: str, length_tolerance: float, angle_tolerance: float
) -> np.ndarray:
    """Return cells (k, 6): the target itself, then the corners of its box of tolerances, as far as
    symmetry allows them.
    """
    of_lengths = np.append(cell[:3] * length_tolerance, [0.0] * 3)
    of_angles = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]) * angle_tolerance
    steps = of_angles + of_lengths
    cells = [symmetry.constrain_cell(cell, space_group)]
    for signs in product((-1.0, 1.0), repeat=6):
        corner = symmetry.constrain_cell(cell + steps * signs, space_group)
        if np.isfinite(corner).all():
            cells.append(corner)
    return np.array(cells)


def _reduce(basis: np.ndarray) -> np.ndarray:
    """Return the integers T (3, 3), |det T| = 1, with which the columns of basis · T are the
    shortest independent lattice vectors, right handed.
    """
    steps = integers(N_REDUCED)
    transform = np.eye(3)
    while True:
        reduced = basis @ transform
        step = _first_independent(steps[_by_length(reduced @ steps.T)])
        if np.linalg.norm(reduced @ step) >= np.linalg.norm(reduced) * (1 - 1e-9):
            break
        transform = transform @ step

    transform = transform[:, _by_length(basis @ transform)]
    handedness = np.sign(np.linalg.det(transform)) * np.sign(np.linalg.det(basis))
    transform[:, 2] *= handedness
    return transform.round()


def reduced_basis(basis: np.ndarray, centring: np.ndarray) -> np.ndarray:
    """Return the shortest primitive basis (3, 3), right handed, of the lattice of a conventional
    one. centring: (n, 3) its translations, in axes of the basis.
    """
    steps = integers(1)
    fractions = np.concatenate([steps, *(steps + shift for shift in centring), centring])
    fractions = fractions[fractions.any(axis=1)]
    primitive = basis @ _first_independent(fractions[_by_length(basis @ fractions.T)])
    return primitive @ _reduce(primitive)


def _first_independent(rows: np.ndarray) -> np.ndarray:
    """Return, as columns (3, 3), the first three linearly independent rows of (n, 3)."""
    chosen: list[np.ndarray] = []
    for row in rows:
        if np.linalg.matrix_rank(np.array([*chosen, row])) > len(chosen):
            chosen.append(row)
        if len(chosen) == 3:
            break
    return np.array(chosen).T


def _by_length(vectors: np.ndarray) -> np.ndarray:
    """Return the order of the columns of (3, n) by length; lengths that differ by rounding alone
    keep their order.
    """
    length = np.linalg.norm(vectors, axis=0)
    relative = np.round(length / length.min(), 6)
    return np.argsort(relative, kind="stable")


def integers(limit: int) -> np.ndarray:
    """Return all integer triples (n, 3) up to ±limit, but 0 0 0."""
    values = range(-limit, limit + 1)
    triples = np.array(list(product(values, repeat=3)), dtype=np.float64)
    is_vector = triples.any(axis=1)
    return triples[is_vector]


def axes_frame(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the right-handed orthonormal axes, as columns (3, 3), of two vectors: along the first,
    in their plane towards the second, normal to both.
    """
    e1 = first / np.linalg.norm(first)
    normal = np.cross(first, second)
    e3 = normal / np.linalg.norm(normal)
    e2 = np.cross(e3, e1)
    return np.array([e1, e2, e3]).T


def _half_shell(inner: float, outer: float, n: int) -> Grid:
    """Return about n vectors with lengths from inner to outer, on a cubic grid in the half space
    z ≥ 0: a lattice has both v and −v.
    """
    volume = 2.0 / 3.0 * np.pi * (outer**3 - inner**3)
    step = (volume / n) ** (1.0 / 3.0)

    n_steps = np.ceil(outer / step)
    axis = np.arange(-n_steps, n_steps + 1) * step
    half_axis = axis[axis > -0.5 * step]
    vectors = _mesh(axis, axis, half_axis)

    x, y, z = vectors
    length = np.sqrt(x * x + y * y + z * z)
    is_inside = (length >= inner) & (length <= outer)
    return _grid(vectors[:, is_inside], step)


def _ring(along: tuple[float, float], distance: tuple[float, float], n: int) -> Grid:
    """Return about n vectors in a ring around the first axis: between two heights along it and
    between two distances from it.
    """
    nearest, farthest = distance
    area = np.pi * (farthest**2 - nearest**2)
    height = along[1] - along[0]
    step = (area * height / n) ** (1.0 / 3.0)

    heights = _middles(*along, step)
    radii = _middles(*distance, step)
    angles = np.arange(0.0, 2.0 * np.pi, step / farthest)
    x, r, phi = _mesh(heights, radii, angles)

    y = r * np.cos(phi)
    z = r * np.sin(phi)
    return _grid(np.array([x, y, z]), step)


def _box(low: np.ndarray, high: np.ndarray, n: int) -> Grid:
    """Return about n vectors in the box between two corners."""
    volume = np.prod(high - low)
    step = (volume / n) ** (1.0 / 3.0)
    axes = [_middles(*ends, step) for ends in zip(low, high, strict=True)]
    return _grid(_mesh(*axes), step)


def _mesh(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return all combinations of three coordinates, (3, m)."""
    meshes = np.meshgrid(x, y, z, indexing="ij")
    return np.array(meshes).reshape(3, -1)


def _grid(vectors: np.ndarray, step: float) -> Grid:
    """Return trial vectors (3, m) that are a step, Å, apart."""
    return Grid(np.ascontiguousarray(vectors, dtype=np.float32), PHASE / step)


def _middles(low: float, high: float, step: float) -> np.ndarray:
    """Return the middles of the fewest equal intervals no longer than step."""
    length = high - low
    n = int(np.ceil(length / step))
    numbers = np.arange(n) + 0.5
    return low + numbers * length / n
