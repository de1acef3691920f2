"""Datasets of an open file by the schema, and columns in memory: checked, written, read, joined."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io import checksums, mapped, schema

Columns = Mapping[str, np.ndarray]
"""The datasets of a file, or some of them, by path."""

SMALLEST_COMPRESSED = 4096
"""Bytes up to which a dataset is stored as it is: compression needs about as many for itself."""

COMPRESSION: Mapping[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
"""How larger datasets are stored: the fastest that all readers of HDF5 understand."""

SEE_FILES = "See docs/files.md."
"""What to do about datasets that are not the schema's."""

NOT_FINITE = (
    "Nothing was written. Look at the log and at what the stage read; if both are sound, this is a "
    "defect: report it."
)
"""What to do about a product that would hold numbers that are not finite."""


def fill(group: h5py.Group, kind: str, columns: Columns, where: object = "columns") -> None:
    """Create the datasets of `kind` in an open group. Raises FileError unless the columns are the
    schema's.
    """
    _check(kind, columns, where)
    for name, dataset in schema.FILES[kind].items():
        column = np.asarray(columns[name])
        data = _cast(column, dataset.dtype, f"{where}: {name}")
        _check_finite(data, dataset, f"{where}: {name}")
        put_described(group, kind, name, data)


def put_described(group: h5py.Group, kind: str, name: str, data: np.ndarray) -> None:
    """Create a dataset of `kind`, of its type, with what the schema says of it."""
    dataset = schema.FILES[kind][name]
    is_compressed = data.nbytes > SMALLEST_COMPRESSED and kind not in mapped.KINDS
    item = put(group, name, data, COMPRESSION if is_compressed else {})
    item.attrs["units"] = dataset.unit
    item.attrs["meaning"] = dataset.whole_meaning


def put(
    group: h5py.Group, name: str, data: np.ndarray, storage: Mapping[str, Any] | None = None
) -> h5py.Dataset:
    """Create a dataset that carries its checksum. storage: how it is stored, arguments of h5py."""
    item = group.create_dataset(name, data=data, **(storage or {}))
    item.attrs[checksums.CHECKSUM] = checksums.checksum(data)
    return item


def _cast(data: np.ndarray, dtype: str, where: object) -> np.ndarray:
    """Return the data in the schema's type. Raises FileError for integers that it can't hold."""
    stored = data.astype(dtype)
    are_integers = data.dtype.kind in "iu" and stored.dtype.kind in "iu"
    if are_integers and not np.array_equal(stored, data):
        found = f"{data.min()} to {data.max()}"
        raise FileError(where, f"values that fit {dtype}", found, "This is a defect: report it.")
    return stored


def _check_finite(data: np.ndarray, dataset: schema.Dataset, where: object) -> None:
    """Raise FileError where numbers are not finite that have to be."""
    if dataset.not_finite or data.dtype.kind != "f":
        return
    n_lost = data.size - int(np.isfinite(data).sum())
    if n_lost:
        found = f"{n_lost} of {data.size} that are not"
        raise FileError(where, "finite numbers", found, NOT_FINITE)


def _check(kind: str, columns: Columns, where: object) -> None:
    """Raise FileError unless the columns are exactly the schema's datasets, and a dimension has the
    same size in all of them.
    """
    datasets = schema.FILES[kind]
    different = sorted(columns.keys() ^ datasets.keys())
    if different:
        expected = f"the datasets of schema '{kind}'"
        raise FileError(where, expected, f"a difference in {different}", SEE_FILES)

    sizes: dict[str, int] = {}
    for name, dataset in datasets.items():
        shape = np.shape(columns[name])
        required = tuple(
            sizes.setdefault(dim, size) if isinstance(dim, str) else dim
            for dim, size in zip(dataset.dims, shape, strict=False)
        )
        if len(shape) != len(dataset.dims) or shape != required:
            expected = f"shape {required} ({dataset.dims})"
            raise FileError(f"{where}: {name}", expected, shape, SEE_FILES)


def content(path: Path, kind: str, name: str, dataset: h5py.Dataset) -> np.ndarray:
    """Return a dataset of an open file. Raises FileError where it is not what was written."""
    expected = checksums.of_dataset(dataset)
    if kind in mapped.KINDS:
        data = mapped.content(dataset)
        mapped.check(path, name, data, expected)
    else:
        data = dataset[()]
        checksums.check(path, name, data, expected)
    return data


def tables(group: h5py.Group, kind: str, names: Iterable[str] | None = None) -> dict:
    """Return datasets of `kind` in an open group by name, and under "" the number of rows of each
    table: one piece for `joined`.
    """
    columns = {name: group[name][()] for name in select(kind, names)}
    return {"": n_rows(group)} | columns


def n_rows(group: h5py.Group) -> dict[str, int]:
    """Return the number of rows of each table in an open group."""
    return {name: len(next(iter(table.values()))) for name, table in group.items()}


def n_rows_of(kind: str, columns: Columns) -> dict[str, int]:
    """Return the number of rows of each table of columns of `kind`."""
    return {table: len(columns[first]) for table, first in schema.tables(kind).items()}


def select(kind: str, names: Iterable[str] | None) -> list[str]:
    """Return the datasets of `kind` that names ask for, as in `read`."""
    datasets = schema.FILES[kind]
    if names is None:
        return list(datasets)
    selected = []
    for name in names:
        if name.endswith("/"):
            matches = [path for path in datasets if path.startswith(name)]
        else:
            matches = [path for path in datasets if path == name]
        if not matches:
            raise KeyError(f"'{name}' is no dataset or table of schema '{kind}'")
        selected += matches
    return selected


def piece(kind: str, tables: Mapping[str, Mapping[str, np.ndarray]]) -> dict:
    """Return columns of some tables of `kind`, table → name → rows, as one piece for `joined`; the
    other tables are empty.
    """
    columns: dict = {}
    n_rows = {}
    for path, dataset in schema.FILES[kind].items():
        table, name = path.split("/")
        column = tables[table][name] if table in tables else empty(dataset)
        columns[path] = column
        n_rows[table] = len(column)
    return {"": n_rows} | columns


def empty(dataset: schema.Dataset) -> np.ndarray:
    """Return a dataset without rows."""
    shape = [0 if isinstance(dim, str) else dim for dim in dataset.dims]
    return np.empty(shape, dataset.dtype)


def joined(kind: str, wanted: Iterable[str], parts: Sequence[dict]) -> dict[str, np.ndarray]:
    """Return the wanted datasets of parts, each as `tables` or `piece` returns it, concatenated;
    row numbers are shifted by the rows of the parts before. Raises FileError where the parts
    differ in a dimension other than their rows.
    """
    columns = {}
    for name in wanted:
        dataset = schema.FILES[kind][name]
        if dataset.refers:
            pieces = _shifted(parts, name, dataset)
        else:
            pieces = [part[name] for part in parts]

        shapes = {piece.shape[1:] for piece in pieces}
        if len(shapes) > 1:
            expected = f"parts with the same {dataset.dims[1:]}"
            raise FileError(name, expected, sorted(shapes), "Read these parts one by one.")
        columns[name] = np.concatenate(pieces) if pieces else empty(dataset)
    return columns


def _shifted(parts: Sequence[dict], name: str, dataset: schema.Dataset) -> list[np.ndarray]:
    """Return a column of row numbers of each part, counted over all parts; −1 stays −1."""
    pieces = []
    n_before = 0
    for part in parts:
        rows = part[name]
        pieces.append(np.where(rows < 0, rows, rows + n_before).astype(dataset.dtype))
        n_before += part[""][dataset.refers]
    return pieces
