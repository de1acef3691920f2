"""Whether a file is of the configured crystal."""

import numpy as np

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
