"""What a dataset of a file is, and how tables are described."""

from collections.abc import Mapping
from typing import NamedTuple


class Dataset(NamedTuple):
    """A dataset of a file."""

    dims: tuple[str | int, ...]
    """names of ragged or shared dimensions, numbers of fixed ones"""
    dtype: str
    unit: str
    meaning: str
    refers: str = ""
    """the table whose row numbers this column holds"""
    not_finite: str = ""
    """what numbers mean that are not finite: NaN = none; empty where all have to be finite"""
    in_manifest: bool = False
    """whether the manifest of a product in parts has it too, of all parts"""

    @property
    def whole_meaning(self) -> str:
        """The meaning, with that of numbers that are not finite."""
        return "; ".join(filter(None, (self.meaning, self.not_finite)))


class Column(NamedTuple):
    """A column of a table: a dataset whose first dimension is the table's rows."""

    dtype: str
    unit: str
    meaning: str
    shape: tuple[str | int, ...] = ()
    """the dimensions of one row, as in `Dataset`"""
    refers: str = ""
    """as in `Dataset`"""
    not_finite: str = ""
    """as in `Dataset`"""
    in_manifest: bool = False
    """as in `Dataset`"""


def table(name: str, columns: Mapping[str, Column]) -> dict[str, Dataset]:
    """Return the datasets of a table, path → description. columns: by name."""
    return {
        f"{name}/{column_name}": Dataset(
            dims=(name, *column.shape),
            dtype=column.dtype,
            unit=column.unit,
            meaning=column.meaning,
            refers=column.refers,
            not_finite=column.not_finite,
            in_manifest=column.in_manifest,
        )
        for column_name, column in columns.items()
    }


def lattice_identity(product: str) -> dict[str, Column]:
    """Return the columns that say which lattice of which run a row is. product: an earlier stage
    whose product names the lattice alike.
    """
    return {
        "run": Column("int32", "", "row of attribute `runs`", in_manifest=True),
        "shot_id": Column("uint64", "", f"as in {product}", in_manifest=True),
        "k": Column("int32", "", f"as in {product}", in_manifest=True),
    }


NOT_USED = "NaN = not used"
"""What numbers of a lattice are that took no part."""

PIXEL_DEVIATIONS = {
    "model_error": Column(
        "float64",
        "",
        "standard deviation of the model of a pixel relative to its Bragg photons",
        not_finite=NOT_USED,
    ),
    "sigma_z": Column(
        "float64",
        "",
        "standard deviation of (data − model)/√variance over the pixels",
        not_finite=NOT_USED,
    ),
}
"""Columns that say how far the pixels of a lattice are from their model."""
