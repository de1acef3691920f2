"""DIALS reflection tables (.refl), read without DIALS.

MessagePack: an array of "dials::af::reflection_table", version 1, and a map of `nrows`,
`identifiers` (number in column `id` → identifier of the experiment) and `data`: column → [type,
[rows, little-endian bytes]].
"""

from pathlib import Path
from typing import NamedTuple

import msgpack
import numpy as np

from spreadflow.errors import FileError

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

TODO = "Take a reflection table as DIALS 2 or later writes it."
"""What to do about a file that is no reflection table."""


class Table(NamedTuple):
    """The columns of a reflection table that were asked for."""

    columns: dict[str, np.ndarray]
    """name → (reflection, ...)"""
    identifiers: dict[int, str]
    """number in column `id` → identifier of its experiment; may be empty"""

    def is_of(self, identifier: str, number: int) -> np.ndarray:
        """Return which reflections belong to an experiment, (reflection,) bool.

        It is the experiment with this identifier; where there are no identifiers, the one with this
        number.
        """
        if identifier and self.identifiers:
            numbers = [n for n, name in self.identifiers.items() if name == identifier]
            number = numbers[0] if numbers else -1
        return self.columns["id"] == number


def read(path: Path | str, names: tuple[str, ...]) -> Table:
    """Return the columns `id` and `names` of a reflection table. Raises FileError where the file is
    none, or has no such columns.
    """
    path = Path(path)
    try:
        kind, version, table = msgpack.unpackb(path.read_bytes(), strict_map_key=False)
        data = table["data"]
        n_rows = int(table["nrows"])
        if (kind, version) != ("dials::af::reflection_table", 1):
            expected = "a DIALS reflection table of version 1"
            raise FileError(path, expected, f"{kind} {version}", TODO)
        named = table.get("identifiers", {})
        identifiers = {int(number): str(name) for number, name in named.items()}
    except OSError as error:
        raise FileError(path, "a reflection table (.refl)", error, "Check the path.") from None
    except (ValueError, KeyError, TypeError, AttributeError, msgpack.UnpackException) as error:
        expected = "a DIALS reflection table (MessagePack)"
        raise FileError(path, expected, repr(error), TODO) from None
    columns = {name: _column(path, data, name, n_rows) for name in ("id", *names)}
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
