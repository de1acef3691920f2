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

_TYPES: dict[str, tuple[str, tuple[int, ...]]] = {
    "bool": ("?", ()),
    "int": ("<i4", ()),
    "std::size_t": ("<u8", ()),
    "double": ("<f8", ()),
    "vec2<double>": ("<f8", (2,)),
    "vec3<double>": ("<f8", (3,)),
    "int6": ("<i4", (6,)),
    "cctbx::miller::index<>": ("<i4", (3,)),
}
_TODO = "Take a reflection table as DIALS 2 or later writes it."


class Table(NamedTuple):
    """Some columns of a reflection table."""

    columns: dict[str, np.ndarray]
    """name → (reflection, ...)"""
    identifiers: dict[int, str]
    """number in column `id` → identifier of its experiment; may be empty"""

    def is_of(self, identifier: str, number: int) -> np.ndarray:
        """Return which reflections are of an experiment, (reflection,) bool.

        That is the one with this identifier; where there are no identifiers, the one of this
        number.
        """
        if identifier and self.identifiers:
            number = next((n for n, name in self.identifiers.items() if name == identifier), -1)
        return self.columns["id"] == number


def read(path: Path | str, names: tuple[str, ...]) -> Table:
    """Return columns `id` and `names` of a reflection table. Raises FileError for what is none and
    for missing columns.
    """
    path = Path(path)
    try:
        kind, version, table = msgpack.unpackb(path.read_bytes(), strict_map_key=False)
        data = table["data"]
        n = int(table["nrows"])
        if (kind, version) != ("dials::af::reflection_table", 1):
            raise FileError(
                path, "a DIALS reflection table of version 1", f"{kind} {version}", _TODO
            )
        identifiers = {
            int(number): str(name) for number, name in table.get("identifiers", {}).items()
        }
    except OSError as error:
        raise FileError(path, "a reflection table (.refl)", error, "Check the path.") from None
    except (ValueError, KeyError, TypeError, AttributeError, msgpack.UnpackException) as error:
        raise FileError(
            path, "a DIALS reflection table (MessagePack)", repr(error), _TODO
        ) from None
    return Table({name: _column(path, data, name, n) for name in ("id", *names)}, identifiers)


def _column(path: Path, data: dict, name: str, n: int) -> np.ndarray:
    """Return (n, ...) of one column."""
    try:
        kind, (rows, content) = data[name]
        dtype, shape = _TYPES[kind]
        values = np.frombuffer(content, dtype).reshape(rows, *shape)
    except (KeyError, ValueError, TypeError) as error:
        raise FileError(
            f"{path}: column {name}", f"{n} rows of a type DIALS gives it", repr(error), _TODO
        ) from None
    if rows != n:
        raise FileError(f"{path}: column {name}", f"{n} rows", rows, _TODO)
    return values
