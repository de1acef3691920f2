"""Pickles of other programs read as records: nothing of what a pickle names is imported or called.

A pickle is a program that may call whatever it can name. Here every name on a list stands for a
class that keeps what it is called with, and any other name ends the reading. Arrays, numbers and
types of NumPy are among the names; `value` makes arrays of their records.
"""

import pickle
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

ARRAYS = frozenset(
    f"numpy.{core}.{name}"
    for core in ("core", "_core")
    for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
) | {"numpy.ndarray", "numpy.dtype", "_codecs.encode"}
"""What pickles of arrays name, before NumPy 2 and since, and with protocol 2 for their bytes."""

PLAIN_TYPE = re.compile(r"[<>|][iufb][1248]")
"""Byte order, kind and size of numbers that are in the bytes of an array: no object among them."""


class Record:
    """What a pickle makes of something that it names."""

    name = ""
    arguments: tuple
    """that it is called with"""
    state: Any
    """that it is given after it was made"""

    def __new__(cls, *arguments: Any) -> "Record":
        """Keep the arguments."""
        record = super().__new__(cls)
        record.arguments = arguments
        record.state = None
        return record

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state


class _Unpickler(pickle.Unpickler):
    """An unpickler of records."""

    def __init__(self, file: Any, names: Collection[str]):
        """Read a file. names: whole names of what it may name."""
        super().__init__(file, encoding="latin1")  # bytes of Python 2 as they are
        self._classes = {name: type("Record", (Record,), {"name": name}) for name in names}

    def find_class(self, module: str, name: str) -> type[Record]:
        """Return what stands for a name. Raises UnpicklingError for one that is not on the list."""
        whole = f"{module}.{name}"
        if whole not in self._classes:
            raise pickle.UnpicklingError(f"the name {whole}")
        return self._classes[whole]


def read(path: Path, names: Collection[str]) -> Any:
    """Return the content of a pickle, what it names as records. Raises UnpicklingError or
    ValueError where it is none, or has a name that is neither of an array nor on the list.
    """
    with open(path, "rb") as file:
        try:
            return _Unpickler(file, {*names, *ARRAYS}).load()
        except pickle.UnpicklingError:
            raise
        except Exception as error:  # whatever bytes that are no pickle lead to
            raise ValueError(f"no pickle: {error}") from None


def value(content: Any) -> np.ndarray:
    """Return the array of a record of an array or a number, or of a list of numbers. Raises
    ValueError where it is none of numbers.
    """
    try:
        if isinstance(content, list | tuple):
            return np.array([value(item) for item in content])
        if not isinstance(content, Record):
            return np.array(content, dtype=np.float64)
        if content.name.endswith(".scalar"):
            dtype, raw = content.arguments
            return np.frombuffer(_bytes(raw), _dtype(dtype))[0]
        if content.name.endswith("._frombuffer"):
            raw, dtype, shape, order = content.arguments
        else:
            _, shape, dtype, is_fortran, raw = content.state
            order = "F" if is_fortran else "C"
        return np.frombuffer(_bytes(raw), _dtype(dtype)).reshape(shape, order=order)
    except (TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"no array of numbers: {error}") from None


def _dtype(record: Record) -> np.dtype:
    """Return a type of numbers. Raises ValueError where it is another one."""
    name = f"{record.state[1]}{record.arguments[0]}"
    if not PLAIN_TYPE.fullmatch(name):
        raise ValueError(f"an array of type {name}")
    return np.dtype(name)


def _bytes(raw: bytes | bytearray | str | Record) -> bytes | bytearray:
    """Return bytes, also those that Python 2 wrote, and those that stand in text."""
    content = raw.arguments[0] if isinstance(raw, Record) else raw
    return content.encode("latin1") if isinstance(content, str) else content
