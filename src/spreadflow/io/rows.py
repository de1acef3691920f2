"""Rows of the tables of products, and columns made of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spreadflow.io import schema


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
