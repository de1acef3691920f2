"""Datasets that are stored as they are and mapped into memory when they are read, each checked once
against the checksum that its product keeps of it.

Reading costs what is touched, and many ranks of a node share the pages.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np

from spreadflow.errors import FileError

KINDS = frozenset({"pack"})
"""Kinds of files whose datasets are stored so."""

SMALLEST = 65536
"""Bytes from which a dataset is mapped: smaller ones are read, as a page costs as much."""

N_DIGITS = 16
"""Hexadecimal digits of a checksum."""

CHECKSUM = "sha256"
"""Attribute of a dataset in a part: the checksum of its content."""

_sound: set[tuple] = set()
"""Datasets that this process has checked: file, its size and time, name, checksum."""


def checksum(data: np.ndarray) -> str:
    """Return the checksum of the content of a dataset."""
    plain = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return hashlib.sha256(plain.data).hexdigest()[:N_DIGITS]


def content(dataset: h5py.Dataset) -> np.ndarray:
    """Return a dataset of an open file, read or mapped; a mapped one can't be written to, and
    outlives the file.
    """
    offset = dataset.id.get_offset()
    if offset is None or dataset.nbytes < SMALLEST:
        return dataset[()]
    return np.memmap(
        dataset.file.filename, dataset.dtype, mode="r", offset=offset, shape=dataset.shape
    )


def checksums(part: Path, names: Iterable[str]) -> list[str]:
    """Return the checksums that a finished part carries of its datasets."""
    with h5py.File(part, "r") as f:
        return [str(f[name].attrs[CHECKSUM]) for name in names]


def check(part: Path, name: str, data: np.ndarray, expected: str, todo: str) -> None:
    """Raise FileError where the content of a dataset is not what it was when its product was
    finished. Each is checked once, as long as its file stays the same.

    expected: its checksum, as the product has it.
    """
    status = part.stat()
    identity = (str(part), status.st_size, status.st_mtime_ns, name, expected)
    if identity in _sound:
        return
    found = checksum(data)
    if found != expected:
        raise FileError(f"{part}: {name}", f"checksum {expected}", found, todo)
    _sound.add(identity)
