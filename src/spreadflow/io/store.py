"""Products on disk: HDF5 files written by the schema, whole or in parts of fixed blocks of shots.

Every file is written under another name and renamed into place, so a file that exists is complete.
A part carries the key of its config, inputs and shots; a rerun keeps parts whose key still holds,
on any number of ranks, and a reader refuses a part that is missing or foreign.
"""

import csv
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from spreadflow import __version__
from spreadflow.errors import FileError
from spreadflow.io import schema
from spreadflow.parallel import World

Columns = Mapping[str, np.ndarray]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; renamed to `path` when the block ends well, removed
    when it does not.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            path, "a folder to write to", error, "Check --out and permissions."
        ) from None
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def digest(*parts: object) -> str:
    """Return sixteen hex digits that change when any of the parts (JSON-able or bytes) does."""
    h = hashlib.sha256()
    for part in parts:
        h.update(
            part
            if isinstance(part, bytes)
            else json.dumps(part, sort_keys=True, default=_jsonable).encode()
        )
        h.update(b"\0")
    return h.hexdigest()[:16]


def identity(path: Path | str) -> str:
    """Return what a file is, for the key of what is made from it: its own key (our HDF5 products)
    or its checksum.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise FileError(path, "an existing file", found, "Run the stage that makes it.")
    if h5py.is_hdf5(path):
        with h5py.File(path, "r") as f:
            if "key" in f.attrs:
                return str(f.attrs["key"])
    return checksum(path)[:16]


def checksum(path: Path | str) -> str:
    """Return SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _check(kind: str, columns: Columns, where: object) -> None:
    """Raise unless the columns are exactly the schema's datasets, with consistent dimensions."""
    datasets = schema.FILES[kind]
    if columns.keys() != datasets.keys():
        odd = sorted(columns.keys() ^ datasets.keys())
        raise FileError(
            where,
            f"the datasets of schema '{kind}'",
            f"a difference in {odd}",
            "See docs/files.md.",
        )
    sizes: dict[str, int] = {}
    for name, dataset in datasets.items():
        shape = np.shape(columns[name])
        want = tuple(
            sizes.setdefault(d, n) if isinstance(d, str) else d
            for d, n in zip(dataset.dims, shape, strict=False)
        )
        if len(shape) != len(dataset.dims) or shape != want:
            raise FileError(
                f"{where}: {name}", f"shape {want} ({dataset.dims})", shape, "See docs/files.md."
            )


def write(path: Path | str, kind: str, columns: Columns, *, key: str, **attributes: object) -> None:
    """Write one file of the given kind. Attributes that are not numbers or strings are stored as
    JSON.
    """
    with replacing(Path(path)) as temporary, h5py.File(temporary, "w") as f:
        fill(f, kind, columns, where=path)
        stamp(f, kind, key, attributes)


def write_csv(path: Path, columns: Mapping[str, Iterable[object]]) -> None:
    """Write columns of equal length as a table with a head."""
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
        data = _cast(np.asarray(columns[name]), dataset.dtype, f"{where}: {name}")
        packed = (
            {"compression": "gzip", "compression_opts": 1, "shuffle": True}
            if data.nbytes > 4096
            else {}
        )
        item = group.create_dataset(name, data=data, **packed)
        item.attrs["units"], item.attrs["meaning"] = dataset.unit, dataset.meaning


def _cast(data: np.ndarray, dtype: str, where: object) -> np.ndarray:
    """Return the data in the schema's type. Raises FileError for integers that it can't hold."""
    out = data.astype(dtype)
    if data.dtype.kind in "iu" and out.dtype.kind in "iu" and not np.array_equal(out, data):
        raise FileError(
            where,
            f"values that fit {dtype}",
            f"{data.min()} to {data.max()}",
            "This is a defect: report it.",
        )
    return out


def stamp(f: h5py.File, kind: str, key: str, attributes: Mapping[str, object]) -> None:
    """Set the root attributes that every product carries."""
    f.attrs.update(kind=kind, key=key, schema=schema.VERSION, software=f"spreadflow {__version__}")
    f.attrs["time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    put_attributes(f, attributes)


def put_attributes(group: h5py.Group, attributes: Mapping[str, object]) -> None:
    """Set attributes; those that are not numbers or strings are stored as JSON."""
    for name, value in attributes.items():
        plain = isinstance(value, str | int | float | np.number)
        group.attrs[name] = value if plain else json.dumps(value, default=_jsonable)


def _jsonable(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[h5py.File]:
    try:
        f = h5py.File(path, "r")
    except OSError as error:
        raise FileError(
            path, f"a '{kind}' HDF5 file", error, "Rerun the stage that makes it."
        ) from None
    with f:
        if f.attrs.get("kind") != kind or f.attrs.get("schema") != schema.VERSION:
            found = f"kind {f.attrs.get('kind')}, schema {f.attrs.get('schema')}"
            raise FileError(
                path,
                f"kind '{kind}', schema {schema.VERSION}",
                found,
                "Rerun the stage that makes it.",
            )
        yield f


def attributes(path: Path | str, kind: str) -> dict:
    """Return root attributes of a product; lists, mappings and None come back from JSON, a string
    that reads 42 stays one.
    """
    with _opened(Path(path), kind) as f:
        return {name: _decoded(value) for name, value in f.attrs.items()}


def _decoded(value: object) -> object:
    if isinstance(value, str) and (value == "null" or value[:1] in ("[", "{")):
        return json.loads(value)
    return value


def read(path: Path | str, kind: str, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Return datasets of a product (all, or those named; a name ending in `/` takes a whole table),
    parts joined.
    """
    path = Path(path)
    wanted = _select(kind, names)
    with _opened(path, kind) as f:
        if "parts/key" not in f:
            return {name: f[name][()] for name in wanted}
        keys = [k.decode() for k in f["parts/key"][()]]
    return joined(
        kind, wanted, [read_part(path, kind, i, key, wanted) for i, key in enumerate(keys)]
    )


def read_part(
    path: Path | str, kind: str, block: int, key: str, names: Iterable[str] | None = None
) -> dict:
    """Return one block of a product in parts. Raises FileError when the part is missing or of
    another config.
    """
    part = part_path(Path(path), block)
    if not part.exists():
        raise FileError(part, "a finished part", "nothing", f"Rerun the stage that makes {path}.")
    with _opened(part, kind) as f:
        if f.attrs["key"] != key:
            found = f"key {f.attrs['key']} (another config or other inputs)"
            raise FileError(part, f"key {key}", found, f"Rerun the stage that makes {path}.")
        return tables(f, kind, names)


def tables(group: h5py.Group, kind: str, names: Iterable[str] | None = None) -> dict:
    """Return datasets of `kind` in an open group, and under "" the rows of each table: one piece
    for `joined`.
    """
    rows = {table: group[table][next(iter(group[table]))].shape[0] for table in group}
    return {"": rows} | {name: group[name][()] for name in _select(kind, names)}


def part_keys(path: Path | str, kind: str) -> list[str]:
    """Return keys of the parts of a product, in block order."""
    with _opened(Path(path), kind) as f:
        return [k.decode() for k in f["parts/key"][()]]


def part_path(product: Path, block: int) -> Path:
    return Path(product).with_suffix(".parts") / f"{block:06d}.h5"


def _select(kind: str, names: Iterable[str] | None) -> list[str]:
    datasets = schema.FILES[kind]
    if names is None:
        return list(datasets)
    wanted = []
    for name in names:
        found = [d for d in datasets if d == name or (name.endswith("/") and d.startswith(name))]
        if not found:
            raise KeyError(f"'{name}' is no dataset or table of schema '{kind}'")
        wanted += found
    return wanted


def piece(kind: str, tables: Mapping[str, Mapping[str, np.ndarray]]) -> dict:
    """Return columns of some tables of `kind`, table → name → rows, as one piece for `joined`; the
    other tables are empty.
    """
    out: dict = {"": {}}
    for path, dataset in schema.FILES[kind].items():
        table, name = path.split("/")
        empty = np.empty([0 if isinstance(n, str) else n for n in dataset.dims], dataset.dtype)
        out[path] = tables[table][name] if table in tables else empty
        out[""][table] = len(out[path])
    return out


def joined(kind: str, wanted: Iterable[str], parts: Sequence[dict]) -> dict[str, np.ndarray]:
    """Return concatenate parts; row numbers are shifted by the rows of the parts before."""
    out = {}
    for name in wanted:
        dataset = schema.FILES[kind][name]
        pieces = []
        start = 0
        for part in parts:
            rows = part[name]
            pieces.append(
                np.where(rows < 0, rows, rows + start).astype(dataset.dtype)
                if dataset.refers
                else rows
            )
            start += part[""][dataset.refers] if dataset.refers else 0
        shape = tuple(0 if isinstance(d, str) else d for d in dataset.dims)
        if len({piece.shape[1:] for piece in pieces}) > 1:
            shapes = sorted({piece.shape[1:] for piece in pieces})
            raise FileError(
                name,
                f"parts with the same {dataset.dims[1:]}",
                shapes,
                "Read these parts one by one.",
            )
        out[name] = np.concatenate(pieces) if pieces else np.empty(shape, dataset.dtype)
    return out


class Parts:
    """A product written block by block by all ranks, resumable.

    product: the manifest's path (`index.h5`); parts lie in `index.parts/`.
    base: what every part depends on (digest of config sections and inputs).
    blocks: per block, what it is made of (list of shot ids).
    """

    def __init__(self, product: Path | str, kind: str, base: str, blocks: Sequence[Sequence[int]]):
        self.product, self.kind = Path(product), kind
        self.keys = [
            digest(schema.VERSION, __version__, kind, base, [int(s) for s in block])
            for block in blocks
        ]

    def done(self, block: int) -> bool:
        """Whether a valid part of this key is there already."""
        try:
            with h5py.File(part_path(self.product, block), "r") as f:
                return f.attrs.get("key") == self.keys[block]
        except OSError:
            return False

    def are_done(self) -> bool:
        """Whether every part is there already."""
        return all(map(self.done, range(len(self.keys))))

    def write(self, block: int, columns: Columns) -> None:
        write(part_path(self.product, block), self.kind, columns, key=self.keys[block])

    def read(self, block: int, names: Iterable[str] | None = None) -> dict:
        return read_part(self.product, self.kind, block, self.keys[block], names)

    def each(self, world: World, make: Callable[[int], Columns]) -> None:
        """Make every block that is not done yet, shared among the ranks. Collective."""
        for block in world.share(len(self.keys)):
            if not self.done(block):
                self.write(block, make(block))
        world.barrier()

    def finish(self, world: World, **attributes: object) -> None:
        """Write the manifest: the product is complete.

        Parts beyond it (of an older, longer run) and what a killed run was writing are removed.
        """

        def manifest() -> None:
            folder = self.product.with_suffix(".parts")
            for old in folder.glob("*.h5"):
                if old.stem.isdigit() and int(old.stem) >= len(self.keys):
                    old.unlink()
            for half in folder.glob(".*.tmp"):
                half.unlink()
            with replacing(self.product) as temporary, h5py.File(temporary, "w") as f:
                f["parts/key"] = np.array(self.keys, dtype="S16")
                stamp(f, self.kind, digest(self.keys), attributes)

        world.once(manifest)
