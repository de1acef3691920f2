"""Rows of the tables of products, and columns made of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spreadflow.errors import FileError
from spreadflow.io import schema

IS_IT_TWICE = (
    "Look whether an image file, or a run, is listed twice; then rerun the stages from there on."
)
"""What to do about a shot that is there twice."""


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return the columns, by name, of rows of one table; there must be at least one row."""
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def blank(kind: str, table: str, **sizes: int) -> dict[str, np.ndarray]:
    """Return a row of a table in which nothing is known: NaN, or 0 for what is no float64.

    sizes: those of the dimensions that the schema names, such as unknown=14.
    """
    row = {}
    for path, dataset in schema.FILES[kind].items():
        own_table, name = path.split("/")
        if own_table == table:
            dims = dataset.dims[1:]
            shape = [sizes[dim] if isinstance(dim, str) else dim for dim in dims]
            fill = np.nan if dataset.dtype == "float64" else 0
            row[name] = np.full(shape, fill)
    return row


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
