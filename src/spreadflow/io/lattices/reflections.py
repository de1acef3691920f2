"""DIALS reflection tables (.refl), read and written without DIALS.

MessagePack: an array of "dials::af::reflection_table", version 1, and a map of `nrows`,
`identifiers` (number in column `id` → identifier of the experiment) and `data`: column → [type,
[rows, little-endian bytes]].
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgpack
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io import store
from spreadflow.io.lattices.dials import refuse_pickle
from spreadflow.products import Children

KIND = "dials::af::reflection_table"
"""First word of a table."""

TYPES: dict[str, tuple[str, tuple[int, ...]]] = {
    "bool": ("?", ()),
    "int": ("<i4", ()),
    "std::size_t": ("<u8", ()),
    "double": ("<f8", ()),
    "vec2<double>": ("<f8", (2,)),
    "vec3<double>": ("<f8", (3,)),
    "int6": ("<i4", (6,)),
    "cctbx::miller::index<>": ("<i4", (3,)),
}
"""Type of a column as DIALS names it → type and shape of a row."""

LARGEST = 2**32 - 1
"""Bytes of a column at most: MessagePack counts them in four bytes."""

TODO = "Take a reflection table as DIALS 2 or later writes it."
"""What to do about a file that is no reflection table."""


@dataclass(frozen=True)
class Table:
    """The columns of a reflection table that were asked for."""

    columns: dict[str, np.ndarray]
    """name → (reflection, ...)"""
    identifiers: dict[int, str]
    """number in column `id` → identifier of its experiment; may be empty"""

    def rows_of(self, identifier: str, number: int) -> np.ndarray:
        """Return the rows of an experiment: those of its identifier, or those of its number where
        it or the table has no identifiers.
        """
        if identifier and self.identifiers:
            number = self._numbers.get(identifier, -1)
        return self._rows[number]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Identifier of an experiment → its number."""
        return {identifier: number for number, identifier in self.identifiers.items()}

    @cached_property
    def _rows(self) -> Children:
        """Number of an experiment → its rows."""
        return Children(self.columns["id"])


def read(path: Path | str, names: tuple[str, ...], more: tuple[str, ...] = ()) -> Table:
    """Return the columns `id` and `names` of a reflection table, and those of `more` that it has.
    Raises FileError where the file is none, or lacks columns of `names`.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        refuse_pickle(path, content)
        kind, version, table = msgpack.unpackb(content, strict_map_key=False)
        data = table["data"]
        n_rows = int(table["nrows"])
        if (kind, version) != (KIND, 1):
            expected = "a DIALS reflection table of version 1"
            raise FileError(path, expected, f"{kind} {version}", TODO)
        named = table.get("identifiers", {})
        identifiers = {int(number): str(name) for number, name in named.items()}
    except OSError as error:
        raise FileError(path, "a reflection table (.refl)", error, "Check the path.") from None
    except (ValueError, KeyError, TypeError, AttributeError, msgpack.UnpackException) as error:
        expected = "a DIALS reflection table (MessagePack)"
        raise FileError(path, expected, repr(error), TODO) from None
    wanted = ("id", *names, *(name for name in more if name in data))
    columns = {name: _column(path, data, name, n_rows) for name in wanted}
    return Table(columns, identifiers)


def _column(path: Path, data: dict, name: str, n_rows: int) -> np.ndarray:
    """Return one column, (row, ...). Raises FileError unless it has `n_rows` of them."""
    where = f"{path}: column {name}"
    try:
        kind, (n_stored, content) = data[name]
        dtype, shape = TYPES[kind]
        values = np.frombuffer(content, dtype).reshape(n_stored, *shape)
    except (KeyError, ValueError, TypeError) as error:
        expected = f"{n_rows} rows of a type DIALS gives it"
        raise FileError(where, expected, repr(error), TODO) from None

    if n_stored != n_rows:
        raise FileError(where, f"{n_rows} rows", n_stored, TODO)
    return values


def write(
    path: Path | str,
    n_rows: int,
    kinds: Mapping[str, str],
    pieces: Iterable[Mapping[str, np.ndarray]],
    identifiers: Mapping[int, str],
) -> None:
    """Write a reflection table that is never in memory as a whole.

    kinds: name of a column → its type as DIALS names it; pieces: the rows in order, some at a time,
    by column; identifiers: number in column `id` → identifier of its experiment. Raises FileError
    where a column is too large for a table.
    """
    pack = msgpack.Packer(autoreset=True)
    with store.replacing(Path(path)) as temporary, open(temporary, "wb") as file:
        file.write(pack.pack_array_header(3) + pack.pack(KIND) + pack.pack(1))
        file.write(pack.pack_map_header(3))
        file.write(pack.pack("identifiers") + pack.pack(dict(identifiers)))
        file.write(pack.pack("nrows") + pack.pack(n_rows))
        file.write(pack.pack("data") + pack.pack_map_header(len(kinds)))
        places: dict[str, int] = {}
        for name, kind in kinds.items():
            n_bytes = n_rows * _bytes_of_row(kind)
            if n_bytes > LARGEST:
                todo = "Make a trial of fewer runs, or choose fewer reflections."
                raise FileError(f"{path}: {name}", f"at most {LARGEST} bytes", n_bytes, todo)
            file.write(pack.pack(name) + pack.pack_array_header(2) + pack.pack(kind))
            file.write(pack.pack_array_header(2) + pack.pack(n_rows))
            file.write(b"\xc6" + n_bytes.to_bytes(4, "big"))
            places[name] = file.tell()
            file.seek(n_bytes, os.SEEK_CUR)
        file.truncate()
        for piece in pieces:
            for name, rows in piece.items():
                dtype, _ = TYPES[kinds[name]]
                file.seek(places[name])
                places[name] += file.write(np.ascontiguousarray(rows, dtype).tobytes())


def _bytes_of_row(kind: str) -> int:
    """Return the size of a row of a column of this type."""
    dtype, shape = TYPES[kind]
    return np.dtype(dtype).itemsize * int(np.prod(shape, dtype=int))
