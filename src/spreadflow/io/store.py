"""Products on disk: HDF5 files written by the schema, whole or in parts of fixed blocks of shots.

Every file is written under another name and renamed into place, so a file that exists is complete.
A part carries the key of its config, inputs and shots, and a checksum of each dataset; a rerun
keeps parts whose key still holds and that are sound, on any number of ranks, and a reader refuses a
part that is missing, foreign, short or damaged. The manifest carries the rows of each table of each
part, and the columns that the schema says are in it: who needs only these opens no part.
"""

import csv
import glob
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Generic, NamedTuple

import h5py
import numpy as np

from spreadflow import __version__
from spreadflow.errors import FileError
from spreadflow.io import checksums, datasets, rows
from spreadflow.io.checksums import FORMAT
from spreadflow.io.datasets import P
from spreadflow.io.new_hdf5 import new_hdf5
from spreadflow.parallel import World
from spreadflow.products import VERSION, Product, Table, Wanted

N_DIGITS = 16
"""Hexadecimal digits of a key: enough that no two of all that are ever made are equal."""

RERUN = "Rerun the stage that makes it."
"""What to do about a product that can't be read."""

MAKE_ROOM = "Check --out, permissions and free space; finished parts are kept: run it again."
"""What to do about a file that can't be written."""

KEYS = "parts/key"
"""Dataset of a manifest: the keys of the parts, in block order."""

IDENTITIES = {"shots": ("shot_id",), "lattices": ("shot_id", "k")}
"""Columns of tables that say which shot or lattice a row is: no two rows are the same."""

N_ROWS = "n_rows"
"""Attribute of a part, and group of a manifest: rows of each table, there of each part."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`: it becomes `path` when the block ends well, and is
    removed when it does not. Raises FileError where it can't be written: the disk is full, or not
    to be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise FileError(path, "a place to write to", error, MAKE_ROOM) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_unfinished(path: Path) -> None:
    """Remove what killed runs have left of a file, and of those beside it that differ in the ending
    alone.
    """
    for unfinished in path.parent.glob(f".{glob.escape(path.stem)}.*.tmp"):
        with suppress(OSError):
            unfinished.unlink()


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


def kind(path: Path | str) -> str:
    """Return the kind of a product. Raises FileError where a file is none."""
    path = Path(path)
    if path.is_file() and h5py.is_hdf5(path):
        with checksums.refusing_damage(path), h5py.File(path, "r", locking=False) as f:
            if "kind" in f.attrs:
                return str(f.attrs["kind"])
    found = "another file" if path.exists() else "nothing"
    raise FileError(path, "a product", found, RERUN)


def checksum(path: Path | str) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write(path: Path | str, product: Product, *, key: str, **attributes: object) -> None:
    """Write a product as one file. Attributes that are not numbers or strings are stored as
    JSON.
    """
    with replacing(Path(path)) as temporary, new_hdf5(temporary, libver=FORMAT) as f:
        datasets.fill(f, product, where=path)
        stamp(f, product.kind, key, attributes)


def write_part(path: Path, product: Product, key: str) -> None:
    """Write a part of a product, or a piece of one."""
    write(path, product, key=key, **{N_ROWS: product.n_rows()})


def write_text(path: Path | str, text: str) -> None:
    """Write a file of text. Raises FileError."""
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path, columns: Mapping[str, Iterable[object]]) -> None:
    """Write columns of equal length as a table of text, their names in the first line."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


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
        raise FileError(where, "a finite number", figures, datasets.NOT_FINITE)


def stamp(f: h5py.File, kind: str, key: str, attributes: Mapping[str, object]) -> None:
    """Set the root attributes that every product carries. Raises FileError where a figure is not
    finite.
    """
    check_figures(attributes, kind)
    software = f"spreadflow {__version__}"
    f.attrs.update(kind=kind, key=key, schema=VERSION, software=software)
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
        if own_kind != kind or own_version != VERSION:
            expected = f"kind '{kind}', schema {VERSION}"
            raise FileError(path, expected, f"kind {own_kind}, schema {own_version}", RERUN)
        yield f


def attributes(path: Path | str, product: type[Product]) -> dict:
    """Return the root attributes of a file. Lists, mappings and None come back from JSON; a
    string that reads 42 stays one.
    """
    with _opened(Path(path), product.kind) as f:
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


def read(path: Path | str, product: type[P], wanted: Wanted = None) -> P:
    """Return a product, or columns and tables of it, its parts joined; none is opened for what the
    manifest has. Raises FileError, also where parts have a shot or a lattice twice.
    """
    path = Path(path)
    kind = product.kind
    names = datasets.select(product, wanted)
    with _opened(path, kind) as f:
        if KEYS not in f:
            columns = {name: datasets.content(path, kind, name, f) for name in names}
            return product.from_columns(columns, _rows_of(f, product))
        here = [name for name in names if name in f]
        columns = {name: datasets.content(path, kind, name, f) for name in here}
        parts = _parts(f, product)

    described = product.described()
    elsewhere = [described[name] for name in names if name not in columns]
    if elsewhere:
        columns |= product.joined([part.read(elsewhere) for part in parts]).datasets()
    n_rows = {name: sum(part.n_rows(name) for part in parts) for name in product.declared()}
    result = product.from_columns(columns, n_rows)
    _refuse_doubles(path, result)
    return result


def _rows_of(f: h5py.File, product: type[Product]) -> dict[str, int]:
    """Return the number of rows of each table of an open file without parts."""
    return {name: len(next(iter(f[name].values()))) for name in product.declared()}


def _refuse_doubles(path: Path, product: Product) -> None:
    """Raise FileError where two rows are of the same shot, or of the same lattice."""
    for name, identity in IDENTITIES.items():
        columns = product.tables[name].as_dict() if name in product.tables else {}
        if columns.keys() >= set(identity):
            rows.refuse_doubles(f"{path}: {name}", *(columns[column] for column in identity))


def read_group(path: Path | str, product: type[Product], group: type[P]) -> P:
    """Return a group that `Parts.finish` wrote into the manifest of a product. Raises FileError."""
    path = Path(path)
    with _opened(path, product.kind) as f:
        names = group.described()
        return group.from_columns(
            {name: datasets.content(path, group.kind, name, f) for name in names}
        )


class Manifest(NamedTuple):
    """What a product says of its parts."""

    path: Path
    keys: list[str]
    """of the parts, in block order"""
    ends: dict[str, np.ndarray]
    """table → (part,) its rows in all parts up to the end of this one"""


class Part(NamedTuple, Generic[P]):
    """One part of a product."""

    manifest: Manifest
    product: type[P]
    number: int

    @property
    def key(self) -> str:
        """The key of what it was made from."""
        return self.manifest.keys[self.number]

    def rows(self, table: str) -> slice:
        """Return which rows of a table of the product are in this part."""
        ends = self.manifest.ends[table]
        return slice(int(ends[self.number - 1]) if self.number else 0, int(ends[self.number]))

    def n_rows(self, table: str) -> int:
        """Return the number of rows of a table."""
        own = self.rows(table)
        return own.stop - own.start

    def read(self, wanted: Wanted = None, into: Table | None = None) -> P:
        """Return the part, or columns and tables of it. Raises FileError where it is missing,
        damaged, foreign or short.

        into: rows of a table, which the part's are read into: its columns are those of the result.
        """
        path = part_path(self.manifest.path, self.number)
        part = read_part(path, self.product, self.key, wanted, into)
        expected = {table: self.n_rows(table) for table in self.manifest.ends}
        if part.n_rows() != expected:
            raise FileError(path, f"rows {expected}", part.n_rows(), RERUN)
        return part


class PartReader(Generic[P]):
    """Reads columns of parts, and keeps those of the last: blocks that are worked on one after the
    other are often of the same part.
    """

    def __init__(self, wanted: Wanted = None):
        """Read these columns and tables; None = all."""
        self._wanted = None if wanted is None else list(wanted)
        self._identity: tuple[Path, int] | None = None
        self._last: P | None = None

    def read(self, part: Part[P]) -> P:
        """Return the columns of a part."""
        identity = (part.manifest.path, part.number)
        if self._last is None or identity != self._identity:
            self._identity, self._last = None, None
            self._last = part.read(self._wanted)
            self._identity = identity
        return self._last


def parts_of(path: Path | str, product: type[P]) -> list[Part[P]]:
    """Return the parts of a product, in block order. None is opened. Raises FileError."""
    with _opened(Path(path), product.kind) as f:
        return _parts(f, product)


def _parts(f: h5py.File, product: type[P]) -> list[Part[P]]:
    """Return the parts that an open manifest lists."""
    path = Path(f.filename)

    def column(name: str) -> np.ndarray:
        return datasets.content(path, product.kind, name, f)

    keys = [key.decode() for key in column(KEYS)]
    ends = {table: np.cumsum(column(f"{N_ROWS}/{table}")) for table in f[N_ROWS]}
    manifest = Manifest(path, keys, ends)
    return [Part(manifest, product, number) for number in range(len(keys))]


def read_part(
    path: Path, product: type[P], key: str, wanted: Wanted = None, into: Table | None = None
) -> P:
    """Return the file of a part, as `Part.read`; the product need not be finished. Raises FileError
    where it is missing, damaged, or of another config.
    """
    kind = product.kind
    names = datasets.select(product, wanted)
    places = into.datasets() if into is not None else {}
    if not path.exists():
        raise FileError(path, "a finished part", "nothing", RERUN)
    with _opened(path, kind) as f:
        if f.attrs["key"] != key:
            found = f"key {f.attrs['key']} (another config or other inputs)"
            raise FileError(path, f"key {key}", found, RERUN)
        columns = {name: datasets.content(path, kind, name, f, places.get(name)) for name in names}
        n_rows = json.loads(f.attrs[N_ROWS])

    part = product.from_columns(columns, n_rows)
    if part.n_rows() != n_rows:
        raise FileError(path, f"rows {n_rows}", f"tables of {part.n_rows()}", checksums.REPAIR)
    return part


def part_path(product: Path, block: int) -> Path:
    """Return the path of a part of a product."""
    return Path(product).with_suffix(".parts") / f"{block:06d}.h5"


class Parts(Generic[P]):
    """A product written block by block by all ranks; a killed stage resumes it.

    path: of the manifest (`index.h5`); the parts lie in `index.parts/`. base: digest of what every
    part depends on, sections and inputs. blocks: the numbers that each is made of, such as the
    identities of its shots.
    """

    def __init__(
        self, path: Path | str, product: type[P], base: str, blocks: Sequence[Sequence[int]]
    ):
        self.path = Path(path)
        self.product = product
        self.keys = [
            digest(VERSION, __version__, product.kind, base, [int(number) for number in block])
            for block in blocks
        ]
        """the key of each part"""
        self._sound: dict[int, tuple[int, int]] = {}
        """block → size and time of the file that this rank wrote or read to its end"""
        self._briefs: dict[int, P] = {}
        """block → what the manifest will have of it"""

    def done(self, block: int) -> bool:
        """Whether a sound part of this key is there already. Each is read once, as long as its file
        stays the same.
        """
        try:
            file = self._file(block)
        except OSError:
            return False
        if self._sound.get(block) != file:
            try:
                self._note(block, self.read(block), file)
            except FileError:
                self._briefs.pop(block, None)
                return False
        return True

    def missing(self, world: World) -> list[int]:
        """Return the blocks of which no sound part is there. Each rank reads its share of those
        that are. Collective.
        """
        own = [block for block in range(world.rank, len(self.keys), world.size) if self.done(block)]
        done = {block for of_rank in world.gather(own) for block in of_rank}
        return [block for block in range(len(self.keys)) if block not in done]

    def are_done(self, world: World) -> bool:
        """Whether every part is there already. Collective."""
        return not self.missing(world)

    def write(self, block: int, part: P) -> None:
        """Write a part."""
        write_part(part_path(self.path, block), part, self.keys[block])
        self._note(block, part, self._file(block))

    def read(self, block: int, wanted: Wanted = None) -> P:
        """Return a part, as `Part.read`."""
        return read_part(part_path(self.path, block), self.product, self.keys[block], wanted)

    def briefs(self) -> Iterator[tuple[int, P]]:
        """Yield each block that this rank wrote or read to its end, and of it what the manifest
        will have.
        """
        yield from self._briefs.items()

    def finish(self, world: World, groups: Sequence[Product] = (), **attributes: object) -> None:
        """Write the manifest: the product is complete. Collective.

        groups: what else the manifest shall have. Parts beyond it, of an older,
        longer run, and what a killed run left are removed. Raises FileError where a part is
        missing.
        """
        briefs = world.collect_blocks(self._briefs)
        world.once(lambda: self._finish(briefs, groups, attributes))

    def _file(self, block: int) -> tuple[int, int]:
        """Return size and time of the file of a part."""
        status = part_path(self.path, block).stat()
        return status.st_size, status.st_mtime_ns

    def _note(self, block: int, part: P, file: tuple[int, int]) -> None:
        """Keep what the manifest will have of a block, and which file has it."""
        columns = part.datasets()
        brief = {
            path: np.array(columns[path], column.dtype)
            for path, column in self.product.described().items()
            if column.in_manifest
        }
        self._briefs[block] = self.product.from_columns(brief, part.n_rows())
        self._sound[block] = file

    def _finish(
        self, briefs: list[P], groups: Sequence[Product], attributes: Mapping[str, object]
    ) -> None:
        """Clear the folder of the parts, and write the manifest. briefs: of all blocks."""
        if len(briefs) < len(self.keys):
            expected = f"{len(self.keys)} finished parts"
            raise FileError(self.path, expected, len(briefs), RERUN)
        folder = self.path.with_suffix(".parts")
        for part in folder.glob("*.h5"):
            if part.stem.isdigit() and int(part.stem) >= len(self.keys):
                part.unlink()
        for unfinished in folder.glob(".*.tmp"):
            unfinished.unlink()
        for pieces in folder.glob("*/"):
            shutil.rmtree(pieces)

        kind = self.product.kind
        described = self.product.described()
        columns = self.product.joined(briefs).datasets()
        n_rows = [brief.n_rows() for brief in briefs]
        with replacing(self.path) as temporary, new_hdf5(temporary, libver=FORMAT) as f:
            datasets.put(f, KEYS, np.array(self.keys, dtype=f"S{N_DIGITS}"))
            for table in self.product.declared():
                of_parts = np.array([n[table] for n in n_rows], dtype=np.int64)
                datasets.put(f, f"{N_ROWS}/{table}", of_parts)
            for path, column in described.items():
                if column.in_manifest:
                    datasets.put_described(f, kind, column, columns[path])
            for group in groups:
                datasets.fill(f, group, where=self.path)
            stamp(f, kind, digest(self.keys), attributes)
