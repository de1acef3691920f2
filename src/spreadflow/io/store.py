"""Products on disk: HDF5 files written by the schema, whole or in parts of fixed blocks of shots.

Every file is written under another name and renamed into place, so a file that exists is complete.
A part carries the key of its config, inputs and shots, and a checksum of each dataset; a rerun
keeps parts whose key still holds and that are sound, on any number of ranks, and a reader refuses a
part that is missing, foreign or damaged.
"""

import csv
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spreadflow import __version__
from spreadflow.errors import FileError
from spreadflow.io import checksums, mapped, schema
from spreadflow.parallel import World

Columns = Mapping[str, np.ndarray]
"""The datasets of a file, or some of them, by path."""

N_DIGITS = 16
"""Hexadecimal digits of a key: enough that no two of all that are ever made are equal."""

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

RERUN = "Rerun the stage that makes it."
"""What to do about a product that can't be read."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`: it becomes `path` when the block ends well, and is
    removed when it does not. Raises FileError where there can be no such folder.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        todo = "Check --out and permissions."
        raise FileError(path, "a folder to write to", error, todo) from None
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def digest(*parts: object) -> str:
    """Return sixteen hex digits that change when any of the parts (JSON-able or bytes) does."""
    total = hashlib.sha256()
    for part in parts:
        total.update(_serialized(part))
        total.update(b"\0")
    return total.hexdigest()[:N_DIGITS]


def _serialized(part: object) -> bytes:
    """Return what a digest is made from: bytes as they are, everything else as JSON."""
    if isinstance(part, bytes):
        return part
    return json.dumps(part, sort_keys=True, default=_jsonable).encode()


def identity(path: Path | str) -> str:
    """Return what tells the content of a file from any other, for the key of what is made from it:
    its own key, which our HDF5 products have, or its checksum. Raises FileError.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise FileError(path, "an existing file", found, "Run the stage that makes it.")
    if h5py.is_hdf5(path):
        with checksums.refusing_damage(path), h5py.File(path, "r", locking=False) as f:
            if "key" in f.attrs:
                return str(f.attrs["key"])
    return checksum(path)[:N_DIGITS]


def checksum(path: Path | str) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


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


def write(path: Path | str, kind: str, columns: Columns, *, key: str, **attributes: object) -> None:
    """Write one file of the given kind. Attributes that are not numbers or strings are stored as
    JSON.
    """
    with replacing(Path(path)) as temporary, _new(temporary) as f:
        fill(f, kind, columns, where=path)
        stamp(f, kind, key, attributes)


def _new(path: Path) -> h5py.File:
    """Return a new file, open for writing."""
    return h5py.File(path, "w", libver=checksums.FORMAT, locking=False)


def write_csv(path: Path, columns: Mapping[str, Iterable[object]]) -> None:
    """Write columns of equal length as a table of text, their names in the first line."""
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def fill(group: h5py.Group, kind: str, columns: Columns, where: object = "columns") -> None:
    """Create the datasets of `kind` in an open group. Raises FileError unless the columns are the
    schema's.
    """
    _check(kind, columns, where)
    for name, dataset in schema.FILES[kind].items():
        column = np.asarray(columns[name])
        data = _cast(column, dataset.dtype, f"{where}: {name}")
        _check_finite(data, dataset, f"{where}: {name}")
        is_mapped = kind in mapped.KINDS
        is_compressed = data.nbytes > SMALLEST_COMPRESSED and not is_mapped
        item = group.create_dataset(name, data=data, **(COMPRESSION if is_compressed else {}))
        item.attrs[checksums.CHECKSUM] = checksums.checksum(data)
        item.attrs["units"] = dataset.unit
        item.attrs["meaning"] = dataset.whole_meaning


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


def check_figures(figures: object, where: object) -> None:
    """Raise FileError where a number among figures, lists and mappings of them, is not finite. What
    is not known is None; warnings may hold any number.
    """
    if isinstance(figures, Mapping):
        for name, figure in figures.items():
            if name != "warnings":
                check_figures(figure, f"{where}: {name}")
    elif isinstance(figures, list | tuple | np.ndarray):
        for figure in figures:
            check_figures(figure, where)
    elif isinstance(figures, float | np.floating) and not np.isfinite(figures):
        raise FileError(where, "a finite number", figures, NOT_FINITE)


def stamp(f: h5py.File, kind: str, key: str, attributes: Mapping[str, object]) -> None:
    """Set the root attributes that every product carries. Raises FileError where a figure is not
    finite.
    """
    check_figures(attributes, kind)
    software = f"spreadflow {__version__}"
    f.attrs.update(kind=kind, key=key, schema=schema.VERSION, software=software)
    f.attrs["time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    put_attributes(f, attributes)


def put_attributes(group: h5py.Group, attributes: Mapping[str, object]) -> None:
    """Set attributes; those that are not numbers or strings are stored as JSON."""
    for name, value in attributes.items():
        if isinstance(value, str | int | float | np.number):
            group.attrs[name] = value
        else:
            group.attrs[name] = json.dumps(value, default=_jsonable)


def _jsonable(value: object) -> object:
    """Return what JSON has for a value that it does not know: lists of arrays, else the text."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[h5py.File]:
    """Yield a file of the given kind, open for reading. Raises FileError where it is none, is of
    another version of the schema, or can't be read to the end of the block.
    """
    try:
        f = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise FileError(path, f"a '{kind}' HDF5 file", error, RERUN) from None

    with f, checksums.refusing_damage(path):
        own_kind = f.attrs.get("kind")
        own_version = f.attrs.get("schema")
        if own_kind != kind or own_version != schema.VERSION:
            expected = f"kind '{kind}', schema {schema.VERSION}"
            raise FileError(path, expected, f"kind {own_kind}, schema {own_version}", RERUN)
        yield f


def attributes(path: Path | str, kind: str) -> dict:
    """Return the root attributes of a product. Lists, mappings and None come back from JSON; a
    string that reads 42 stays one.
    """
    with _opened(Path(path), kind) as f:
        stored = dict(f.attrs)
    return {name: _decoded(value) for name, value in stored.items()}


def warnings_of(products: Iterable[Path]) -> list[dict]:
    """Return the warnings that stages left in their products (`errors.StageWarning`), in order."""
    warnings: list[dict] = []
    for path in products:
        if h5py.is_hdf5(path):
            with checksums.refusing_damage(path), h5py.File(path, "r", locking=False) as f:
                warnings += json.loads(f.attrs.get("warnings", "[]"))
    return warnings


def _decoded(value: object) -> object:
    """Return an attribute as it was before `put_attributes` stored it."""
    if isinstance(value, str) and (value == "null" or value[:1] in ("[", "{")):
        return json.loads(value)
    return value


def read(path: Path | str, kind: str, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Return datasets of a product by name, its parts joined. names: None = all; a name that ends
    in `/` takes a whole table. Raises FileError.
    """
    path = Path(path)
    wanted = _select(kind, names)
    with _opened(path, kind) as f:
        if "parts/key" not in f:
            return {name: _content(path, kind, name, f[name]) for name in wanted}
        keys = _part_keys(f)
    parts = [read_part(path, kind, block, key, wanted) for block, key in enumerate(keys)]
    return joined(kind, wanted, parts)


def _content(path: Path, kind: str, name: str, dataset: h5py.Dataset) -> np.ndarray:
    """Return a dataset of an open file. Raises FileError where it is not what was written."""
    expected = checksums.of_dataset(dataset)
    if kind in mapped.KINDS:
        data = mapped.content(dataset)
        mapped.check(path, name, data, expected)
    else:
        data = dataset[()]
        checksums.check(path, name, data, expected)
    return data


def read_part(
    path: Path | str, kind: str, block: int, key: str, names: Iterable[str] | None = None
) -> dict:
    """Return one block of a product in parts, as `tables`; the product need not be finished. Raises
    FileError when the part is missing, damaged, or of another config.
    """
    part = part_path(Path(path), block)
    wanted = _select(kind, names)
    if not part.exists():
        todo = f"Rerun the stage that makes {path}."
        raise FileError(part, "a finished part", "nothing", todo)
    with _opened(part, kind) as f:
        if f.attrs["key"] != key:
            found = f"key {f.attrs['key']} (another config or other inputs)"
            todo = f"Rerun the stage that makes {path}."
            raise FileError(part, f"key {key}", found, todo)
        columns = {name: _content(part, kind, name, f[name]) for name in wanted}
        return {"": _n_rows(f)} | columns


def tables(group: h5py.Group, kind: str, names: Iterable[str] | None = None) -> dict:
    """Return datasets of `kind` in an open group by name, and under "" the number of rows of each
    table: one piece for `joined`.
    """
    columns = {name: group[name][()] for name in _select(kind, names)}
    return {"": _n_rows(group)} | columns


def _n_rows(group: h5py.Group) -> dict[str, int]:
    """Return the number of rows of each table in an open group."""
    n_rows = {}
    for name, table in group.items():
        first_column = next(iter(table.values()))
        n_rows[name] = len(first_column)
    return n_rows


def part_keys(path: Path | str, kind: str) -> list[str]:
    """Return the keys of the parts of a product, in block order."""
    with _opened(Path(path), kind) as f:
        return _part_keys(f)


def _part_keys(f: h5py.File) -> list[str]:
    """Return the keys in an open manifest."""
    keys = f["parts/key"][()]
    path = Path(f.filename)
    checksums.check(path, "parts/key", keys, checksums.of_dataset(f["parts/key"]))
    return [key.decode() for key in keys]


def part_path(product: Path, block: int) -> Path:
    """Return the path of a part of a product."""
    return Path(product).with_suffix(".parts") / f"{block:06d}.h5"


def _select(kind: str, names: Iterable[str] | None) -> list[str]:
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
        column = tables[table][name] if table in tables else _empty(dataset)
        columns[path] = column
        n_rows[table] = len(column)
    return {"": n_rows} | columns


def _empty(dataset: schema.Dataset) -> np.ndarray:
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
        columns[name] = np.concatenate(pieces) if pieces else _empty(dataset)
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


class Parts:
    """A product written block by block by all ranks; a killed stage resumes it.

    product: path of the manifest (`index.h5`); the parts lie in `index.parts/`. base: digest of
    what every part depends on, sections and inputs. blocks: the numbers that each is made of, such
    as the identities of its shots.
    """

    def __init__(self, product: Path | str, kind: str, base: str, blocks: Sequence[Sequence[int]]):
        self.product = Path(product)
        self.kind = kind
        self.keys = [
            digest(schema.VERSION, __version__, kind, base, [int(number) for number in block])
            for block in blocks
        ]
        """the key of each part"""
        self._sound: dict[int, tuple[int, int]] = {}
        """block → size and time of the file that was read to its end"""

    def done(self, block: int) -> bool:
        """Whether a sound part of this key is there already. Each is read once, as long as its file
        stays the same.
        """
        try:
            status = part_path(self.product, block).stat()
        except OSError:
            return False
        file = (status.st_size, status.st_mtime_ns)
        if self._sound.get(block) != file:
            try:
                self.read(block)
            except FileError:
                return False
            self._sound[block] = file
        return True

    def are_done(self) -> bool:
        """Whether every part is there already."""
        return all(map(self.done, range(len(self.keys))))

    def write(self, block: int, columns: Columns) -> None:
        """Write a part."""
        write(part_path(self.product, block), self.kind, columns, key=self.keys[block])

    def read(self, block: int, names: Iterable[str] | None = None) -> dict:
        """Return a part, as `read_part`."""
        return read_part(self.product, self.kind, block, self.keys[block], names)

    def each(self, world: World, make: Callable[[int], Columns]) -> None:
        """Make every block that is not done yet, shared among the ranks. Collective."""
        for block in world.share(len(self.keys)):
            if not self.done(block):
                self.write(block, make(block))
        world.barrier()

    def finish(self, world: World, **attributes: object) -> None:
        """Write the manifest: the product is complete. Collective.

        Parts beyond it, of an older, longer run, and what a killed run was writing are removed.
        """
        world.once(lambda: self._finish(attributes))

    def _finish(self, attributes: Mapping[str, object]) -> None:
        """Clear the folder of the parts, and write the manifest."""
        folder = self.product.with_suffix(".parts")
        for part in folder.glob("*.h5"):
            if part.stem.isdigit() and int(part.stem) >= len(self.keys):
                part.unlink()
        for unfinished in folder.glob(".*.tmp"):
            unfinished.unlink()

        with replacing(self.product) as temporary, _new(temporary) as f:
            keys = np.array(self.keys, dtype=f"S{N_DIGITS}")
            item = f.create_dataset("parts/key", data=keys)
            item.attrs[checksums.CHECKSUM] = checksums.checksum(keys)
            stamp(f, self.kind, digest(self.keys), attributes)
