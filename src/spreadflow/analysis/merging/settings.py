"""One setting of the cell for all lattices of a crystal.

Each lattice was brought to the setting nearest to the target cell. Where two settings are about as
near (β and 180° − β near a right angle, a and c of a monoclinic cell, the angles of a triclinic
one), errors of the cell decide, and lattices of one crystal come out in both. Here all lattices are
at hand: each takes the setting that is nearest to the cell that they have in common.

Metrics are direct, aᵢ·aⱼ. A change of basis P turns a basis (columns a, b, c) into basis · P, a
metric M into PᵀMP, Miller indices h into Pᵀh and A into A P⁻ᵀ.
"""

from itertools import product
from typing import NamedTuple

import numpy as np

from spreadflow.physics import symmetry, unit_cell

ALIKE_LENGTH = 0.1
"""Relative difference of lengths up to which a change of basis gives a similar cell: indexing takes
two lattices of which each is half of this from its target.
"""

ALIKE_ANGLE = np.deg2rad(10.0)
"""The same of angles, rad."""

LARGEST_DISTANCE = 0.03
"""Relative distance of metrics up to which two lattices may be of one crystal: several times what
cells scatter by.
"""

SAME = 1e-6
"""Relative distance of metrics below which they are the same by symmetry."""

LARGEST = 2
"""Largest coefficient of an axis in terms of the axes of another setting."""

N_TYPICAL = 200
"""Lattices among which the most typical one is sought."""

MAX_CYCLES = 10
"""Cycles of choosing settings and averaging metrics, at most; two or three are enough."""

SEPARATION = 4.0
"""Two settings are told apart where their metrics differ by so many times what lattices scatter."""

LEAST_SEPARATION = 1.0
"""Settings that differ by less, in the same unit, are left as they are: choosing between them is
drawing lots, and biases the mean cell.
"""


class Settings(NamedTuple):
    """The settings that bring lattices to a common cell."""

    changes: np.ndarray
    """(lattice, 3, 3) int, P: the identity where a lattice stays as it is"""
    is_changed: np.ndarray
    """(lattice,) bool"""
    scatter: float
    """median distance of a lattice's metric from the common one, relative"""
    separation: float
    """distance of the common metric from the most similar one of another setting, relative;
    infinite where there is none
    """

    @property
    def is_ambiguous(self) -> bool:
        """Whether lattices scatter so much that settings are not told apart."""
        return self.separation < SEPARATION * self.scatter


def changes(cell: np.ndarray, space_group: str) -> np.ndarray:
    """Return the changes of basis (k, 3, 3) int that turn a cell (6,), Å and rad, into a similar
    one which the space group describes as well, the identity first.

    They keep handedness, centring and point group. Of those that differ by an operation of the
    point group there is one, that nearest to the identity.
    """
    metric = unit_cell.metric_of(cell)
    triples = _similar_axes(metric)
    primitive = symmetry.primitive(space_group)
    of_primitive = np.linalg.inv(primitive) @ triples @ primitive
    keeps_centring = np.abs(of_primitive - of_primitive.round()).max(axis=(1, 2)) < SAME
    operations = symmetry.point_group(space_group)
    candidates = [P for P in triples[keeps_centring] if _normalizes(P, operations)]
    candidates.sort(key=lambda P: (np.abs(P - np.eye(3)).sum(), P.tolist()))

    kept: list[np.ndarray] = []
    for P in candidates:
        equivalents = P @ operations
        is_known = any((equivalents == other).all(axis=(1, 2)).any() for other in kept)
        if not is_known:
            kept.append(P)
    return np.array(kept).round().astype(int)


def _similar_axes(metric: np.ndarray) -> np.ndarray:
    """Return the right-handed triples of lattice vectors (k, 3, 3), as columns, whose lengths and
    angles are similar to those of the axes.
    """
    values = range(-LARGEST, LARGEST + 1)
    vectors = np.array(list(product(values, repeat=3)), dtype=np.float64)
    length = np.sqrt(np.einsum("ni,ij,nj->n", vectors, metric, vectors))
    sizes = np.sqrt(np.diag(metric))
    axes = [vectors[np.abs(length / size - 1.0) < ALIKE_LENGTH] for size in sizes]
    rows = np.array(list(product(*axes)))
    triples = np.swapaxes(rows, 1, 2)
    is_right_handed = np.linalg.det(triples).round() == 1

    triples = triples[is_right_handed]
    cells = np.array([unit_cell.cell_of_metric(P.T @ metric @ P) for P in triples])
    angles = unit_cell.cell_of_metric(metric)[3:]
    is_similar = np.abs(cells[:, 3:] - angles).max(axis=1) < ALIKE_ANGLE
    return triples[is_similar]


def _normalizes(P: np.ndarray, operations: np.ndarray) -> bool:
    """Whether operations (g, 3, 3) on the new axes are the same set as on the old ones."""
    turned = (np.linalg.inv(P) @ operations @ P).round()
    return all((operations == operation).all(axis=(1, 2)).any() for operation in turned)


def common(cells: np.ndarray, space_group: str, reference: np.ndarray | None = None) -> Settings:
    """Return the settings that bring the lattices with cells (n, 6), Å and rad, to one.

    reference: (6,) the cell whose setting is taken; None = that which most lattices have. Lattices
    further than `LARGEST_DISTANCE` from the common cell in every setting stay as they are.
    """
    metrics = np.array([unit_cell.metric_of(cell) for cell in cells])
    middle = np.median(metrics, axis=0) if reference is None else unit_cell.metric_of(reference)
    possible = changes(unit_cell.cell_of_metric(middle), space_group)
    if reference is None:
        middle = _common_metric(metrics, possible)
        middle = _most_frequent(metrics, possible, middle)

    distance = _distances(metrics, possible, middle)
    scatter = float(np.median(distance.min(axis=1)))
    others = _distances(middle[None], possible, middle)[0]
    is_told = (others < SAME) | (others > LEAST_SEPARATION * scatter)
    choice = _nearest(np.where(is_told, distance, np.inf))
    choice[distance.min(axis=1) > LARGEST_DISTANCE] = 0
    return Settings(
        changes=possible[choice],
        is_changed=choice > 0,
        scatter=scatter,
        separation=float(others[others > SAME].min(initial=np.inf)),
    )


def _common_metric(metrics: np.ndarray, possible: np.ndarray) -> np.ndarray:
    """Return the metric (3, 3) that most of metrics (n, 3, 3) have in one of the possible settings:
    from the most typical lattice on, by medians.
    """
    every = -(-len(metrics) // N_TYPICAL)
    few = metrics[::every]
    lack = [
        np.minimum(_distances(few, possible, one).min(axis=1), LARGEST_DISTANCE).sum()
        for one in few
    ]
    middle = few[int(np.argmin(lack))]
    for _ in range(MAX_CYCLES):
        distance = _distances(metrics, possible, middle)
        choice = _nearest(distance)
        is_near = distance.min(axis=1) < LARGEST_DISTANCE
        P = possible[choice[is_near]]
        in_setting = np.swapaxes(P, 1, 2) @ metrics[is_near] @ P
        median = np.median(in_setting, axis=0)
        if np.allclose(median, middle, rtol=SAME):
            break
        middle = median
    return middle


def _most_frequent(metrics: np.ndarray, possible: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Return the common metric in the setting that most lattices have already."""
    in_settings = _in_settings(middle, possible)
    n_kept = [(_nearest(_distances(metrics, possible, one)) == 0).sum() for one in in_settings]
    return in_settings[int(np.argmax(n_kept))]


def _in_settings(metric: np.ndarray, possible: np.ndarray) -> np.ndarray:
    """Return a metric (3, 3) in the possible settings, (k, 3, 3)."""
    return np.swapaxes(possible, 1, 2) @ metric @ possible


def _distances(metrics: np.ndarray, possible: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Return how far metrics (n, 3, 3), in each of the possible settings, are from one (3, 3),
    relative: (n, k).
    """
    columns = []
    for P in possible:
        difference = np.linalg.norm(P.T @ metrics @ P - middle, axis=(1, 2))
        columns.append(difference / np.linalg.norm(middle))
    return np.array(columns).T


def _nearest(distance: np.ndarray) -> np.ndarray:
    """Return the setting (n,) of the least distance (n, k); the first of those that are the same by
    symmetry.
    """
    in_order = SAME * np.arange(distance.shape[1])
    return np.argmin(distance + in_order, axis=1)


def in_setting(cell: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Return a cell (6,), Å and rad, after a change of basis (3, 3)."""
    return unit_cell.cell_of_metric(change.T @ unit_cell.metric_of(cell) @ change)
