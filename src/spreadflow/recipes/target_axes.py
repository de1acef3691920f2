"""Lattices of other programs on the axes of the configured cell, whichever they were indexed on."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.analysis.still.setting import on_target_axes
from spreadflow.config import IndexSection
from spreadflow.errors import AdoptOutcome
from spreadflow.physics import symmetry, unit_cell
from spreadflow.recipes.shot import is_near_target, target_of_section


class OnTarget(NamedTuple):
    """A lattice on the configured axes, or why it can't be brought there."""

    outcome: AdoptOutcome
    A: np.ndarray
    """(3, 3) Å⁻¹; as stated where it can't"""
    axes: np.ndarray | None = None
    """(3, 3) configured axes as columns in those that were stated; None = they are the same"""
    why: str = ""


def on_target(
    A: np.ndarray, operations: gemmi.GroupOps, section: IndexSection, *, is_class_known: bool = True
) -> OnTarget:
    """Return a lattice on the axes of the configured cell.

    A: (3, 3) as stated, and operations, of its group on these axes. A still knows nothing of screw
    axes, and programs may state the Laue group alone: the Laue class and the centring must be the
    configured ones, in some setting; where the class is not known, the metric alone decides.
    """
    rotations = symmetry.laue_rotations(operations) if is_class_known else None
    centring = symmetry.centring(operations)
    ours = symmetry.group(section.space_group).operations()
    is_same = np.array_equal(centring, symmetry.centring(ours))
    if rotations is not None:
        is_same &= np.array_equal(rotations, symmetry.point_group(section.space_group))
    axes = None
    if not (is_same and is_near_target(unit_cell.cell_of(A), section)):
        axes = on_target_axes(A, rotations, centring, target_of_section(section))
        if axes is None and not is_same:
            return OnTarget(AdoptOutcome.OTHER_GROUP, A)
        if axes is not None:
            A = np.linalg.inv(np.linalg.inv(A).T @ axes).T
    cell = unit_cell.cell_of(A)
    if not is_near_target(cell, section):
        why = " ".join(f"{x:.2f}" for x in unit_cell.degrees(cell))
        return OnTarget(AdoptOutcome.OTHER_CELL, A, axes, why)
    return OnTarget(AdoptOutcome.ADOPTED, A, axes)


def as_indices(axes: np.ndarray | None) -> str:
    """Return Miller indices on axes (3, 3), such as `l,k,-h-l`, in those on the axes that they are
    columns in; nothing where they are the same.
    """
    if axes is None:
        return ""
    operator = gemmi.Op("h,k,l")
    operator.rot = (axes * gemmi.Op.DEN).round().astype(int).tolist()
    return operator.triplet()


def in_words(indices: Iterable[str], space_group: str) -> Iterator[str]:
    """Yield how many lattices were brought to other axes, by each change of indices."""
    for change, n in Counter(change for change in indices if change).items():
        yield f"{n} lattices are brought to {space_group}: indices {change}"
