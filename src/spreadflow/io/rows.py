"""Rows that may stand in a table only once."""

import numpy as np

from spreadflow.errors import FileError

IS_IT_TWICE = (
    "Look whether an image file, or a run, is listed twice; then rerun the stages from there on."
)
"""What to do about a shot that is there twice."""


def refuse_doubles(where: object, shot_id: np.ndarray, k: np.ndarray | None = None) -> None:
    """Raise FileError where two rows are of the same shot, or of the same lattice of a shot.

    where: what the rows are of; shot_id: (row,); k: (row,) number of the lattice in its shot.
    """
    columns = [shot_id] if k is None else [shot_id, k]
    identities = np.stack([column.astype(np.uint64) for column in columns], axis=1)
    different, n_rows = np.unique(identities, axis=0, return_counts=True)
    if len(different) < len(identities):
        is_double = n_rows > 1
        what = "shot" if k is None else "lattice of shot"
        found = f"{is_double.sum()} more often, the first {what} {different[is_double][0, 0]:016x}"
        raise FileError(where, "each shot once", found, IS_IT_TWICE)
