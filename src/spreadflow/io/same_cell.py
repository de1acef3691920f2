"""Whether a file is of the configured crystal."""

from pathlib import Path

import gemmi
import numpy as np

from spreadflow.errors import FileError
from spreadflow.physics import symmetry

CELL_TOLERANCE = 0.01
"""Relative difference of cell edges up to which a file's cell is taken for the configured one."""

ANGLE_TOLERANCE_DEG = 1.0
"""Difference of cell angles up to which a file's cell is taken for the configured one, degrees."""


def is_same_cell(own: np.ndarray, configured: np.ndarray) -> bool:
    """Whether a file's own cell is taken for the configured one; both (6,) Å, degrees."""
    difference = np.abs(own - configured)
    edges_agree = difference[:3] <= CELL_TOLERANCE * configured[:3]
    angles_agree = difference[3:] <= ANGLE_TOLERANCE_DEG
    return bool(edges_agree.all() and angles_agree.all())


def check_crystal(
    path: Path | str,
    own_group: gemmi.SpaceGroup | None,
    own_cell: np.ndarray,
    cell: np.ndarray,
    space_group: str,
) -> None:
    """Raise FileError where a file of intensities is of another cell than the configured one,
    another Laue group, other axes of it or another centring. Cells: (6,) Å, degrees.
    """
    todo = "Make them agree, or bring the file to the configured setting."
    if own_group is None or not _has_same_laue_group(own_group, symmetry.group(space_group)):
        expected = f"the Laue group and centring of '{space_group}', on the same axes"
        found = "none" if own_group is None else f"'{own_group.xhm()}'"
        raise FileError(path, expected, found, todo)
    if not is_same_cell(own_cell, cell):
        expected = f"cell {np.round(cell, 2).tolist()} to 1 % and 1°"
        raise FileError(path, expected, np.round(own_cell, 2).tolist(), todo)


def _has_same_laue_group(own: gemmi.SpaceGroup, configured: gemmi.SpaceGroup) -> bool:
    """Whether two groups have the same rotations but for inversion, and the same centring."""
    of_both = (own.operations(), configured.operations())
    own_rotations, rotations = map(symmetry.laue_rotations, of_both)
    own_centring, centring = map(symmetry.centring, of_both)
    return np.array_equal(own_rotations, rotations) and np.array_equal(own_centring, centring)
