"""Datasets of an open file by the schema, and columns in memory: checked, written, read, joined."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import h5py
import hdf5plugin
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io import checksums, mapped
from spreadflow.products import Column, Product, Wanted

P = TypeVar("P", bound=Product)

SMALLEST_COMPRESSED = 4096
"""Bytes up to which a dataset is stored as it is: compression needs about as many for itself."""

CHUNK_BYTES = 2**18
"""Bytes that are compressed at a time: the library spends as long on a chunk of a few kB, which it
would choose, as it takes to unpack it.
"""

COMPRESSION: Mapping[str, Any] = hdf5plugin.Bitshuffle(cname="lz4")
"""How larger datasets are stored, as images are: as small as gzip has them, ten times faster."""

SEE_FILES = "See docs/files.md."
"""What to do about datasets that are not the schema's."""

NOT_FINITE = (
    "Nothing was written. Look at the log and at what the stage read; if both are sound, this is a "
    "defect: report it."
)
"""What to do about a product that would hold numbers that are not finite."""


def fill(group: h5py.Group, product: Product, where: object = "columns") -> None:
    """Create the datasets of a product in an open group. Raises FileError unless they are all of
    those that its schema has.
    """
    described = product.described()
    columns = product.datasets()
    _check(product, columns, where)
    for path, column in described.items():
        data = _cast(np.asarray(columns[path]), column.dtype, f"{where}: {path}")
        _check_finite(data, column, f"{where}: {path}")
        put_described(group, product.kind, column, data)


def put_described(group: h5py.Group, kind: str, column: Column, data: np.ndarray) -> None:
    """Create the dataset of a column, of its type, with what the schema says of it."""
    is_compressed = data.nbytes > SMALLEST_COMPRESSED and kind not in mapped.KINDS
    item = put(group, column.path, data, _compression(data) if is_compressed else {})
    item.attrs["units"] = column.unit
    item.attrs["meaning"] = column.whole_meaning


def _compression(data: np.ndarray) -> dict[str, Any]:
    """Return how a dataset is compressed, in chunks of whole rows."""
    row_bytes = data.nbytes // len(data)
    n_rows = min(len(data), max(1, CHUNK_BYTES // row_bytes))
    return {**COMPRESSION, "chunks": (n_rows, *data.shape[1:])}


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


def _check_finite(data: np.ndarray, column: Column, where: object) -> None:
    """Raise FileError where numbers are not finite that have to be."""
    if column.not_finite or data.dtype.kind != "f":
        return
    n_lost = data.size - int(np.isfinite(data).sum())
    if n_lost:
        found = f"{n_lost} of {data.size} that are not"
        raise FileError(where, "finite numbers", found, NOT_FINITE)


def _check(product: Product, columns: Mapping[str, np.ndarray], where: object) -> None:
    """Raise FileError unless the columns are exactly the schema's datasets, and a dimension has the
    same size in all of them.
    """
    described = product.described()
    missing = sorted(described.keys() - columns.keys())
    if missing:
        expected = f"the datasets of schema '{product.kind}'"
        raise FileError(where, expected, f"none of the names {missing}", SEE_FILES)

    sizes: dict[str, int] = {}
    for path, column in described.items():
        shape = np.shape(columns[path])
        required = tuple(
            sizes.setdefault(dim, size) if isinstance(dim, str) else dim
            for dim, size in zip(column.dims, shape, strict=False)
        )
        if len(shape) != len(column.dims) or shape != required:
            expected = f"shape {required} ({column.dims})"
            raise FileError(f"{where}: {path}", expected, shape, SEE_FILES)


def content(
    path: Path, kind: str, name: str, f: h5py.File, out: np.ndarray | None = None
) -> np.ndarray:
    """Return a dataset of an open file. Raises FileError where it is not what was written.

    out: array to read it into, of its shape and type, which is returned.
    """
    # h5py's upper layer takes as long on a dataset of a part as HDF5 takes to read it
    dataset = h5py.h5d.open(f.id, name.encode())
    expected = checksums.of_dataset(dataset)
    if kind in mapped.KINDS:
        data = mapped.content(h5py.Dataset(dataset))
        mapped.check(path, name, data, expected)
    else:
        data = _read(f"{path}: {name}", dataset, out)
        checksums.check(path, name, data, expected)
    return data


def _read(where: str, dataset: h5py.h5d.DatasetID, out: np.ndarray | None) -> np.ndarray:
    """Return what a dataset holds, in `out` where that is an array. Raises FileError where it is of
    another shape; numbers of another type have another checksum.
    """
    shape = dataset.shape
    if out is None:
        out = np.empty(shape, dataset.dtype)
    elif out.shape != shape:
        raise FileError(where, f"shape {out.shape}", shape, checksums.REPAIR)
    if out.size:
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, out)
    return out


def product_in(group: h5py.Group, product: type[P], wanted: Wanted = None) -> P:
    """Return a product, or columns and tables of it, from an open group that has all of its
    datasets.
    """
    return product.from_columns({path: group[path][()] for path in select(product, wanted)})


def select(product: type[Product], wanted: Wanted) -> list[str]:
    """Return the names in a file of the datasets that are wanted, as in `store.read`."""
    if wanted is None:
        return list(product.described())
    paths = []
    for item in wanted:
        columns = [item] if isinstance(item, Column) else item.described().values()
        paths += [column.path for column in columns]

    foreign = [path for path in paths if path not in product.described()]
    if foreign:
        raise KeyError(f"product {product.kind} has no {', '.join(foreign)}")
    return paths
