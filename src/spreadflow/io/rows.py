"""Rows of the tables of products, and columns made of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spreadflow.io import schema


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return rows of one table, at least one, as columns by name."""
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def blank(kind: str, table: str, **sizes: int) -> dict[str, np.ndarray]:
    """Return a row of a table in which nothing is known: NaN, or 0 for integers.

    sizes: of the dimensions that the schema names, such as unknown=14.
    """
    row = {}
    for path, dataset in schema.FILES[kind].items():
        group, name = path.split("/")
        if group == table:
            shape = [sizes[size] if isinstance(size, str) else size for size in dataset.dims[1:]]
            row[name] = np.full(shape, np.nan if dataset.dtype == "float64" else 0)
    return row
