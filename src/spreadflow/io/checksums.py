"""Datasets that carry a checksum of their content, so that what is read is what was written.

HDF5 guards its own structure from version 1.10 of the format on, not the numbers themselves.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from spreadflow.errors import FileError

N_DIGITS = 16
"""Hexadecimal digits of a checksum."""

CHECKSUM = "sha256"
"""Attribute of a dataset: the checksum of its content."""

FORMAT = ("v110", "v110")
"""Versions of HDF5's format in which its own structure has checksums."""

REPAIR = "Rerun the stage that makes it: of its parts, those that are sound are kept."
"""What to do about a file that is damaged."""

DAMAGES = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)
"""What h5py raises where the structure of a file is damaged."""


def checksum(data: np.ndarray) -> str:
    """Return the checksum of the content of a dataset."""
    plain = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return hashlib.sha256(plain.data).hexdigest()[:N_DIGITS]


def check(path: Path, name: str, data: np.ndarray, expected: str) -> None:
    """Raise FileError where the content of a dataset of a file is not what was written.

    expected: its checksum, as the file has it.
    """
    found = checksum(data)
    if found != expected:
        raise FileError(f"{path}: {name}", f"checksum {expected}", found, REPAIR)


@contextmanager
def refusing_damage(path: Path) -> Iterator[None]:
    """Raise FileError where HDF5 can't make sense of a file that the block reads."""
    try:
        yield
    except DAMAGES as error:
        found = " ".join(str(error).split()) or type(error).__name__
        raise FileError(path, "a sound HDF5 file", found, REPAIR) from error


def of_dataset(dataset: h5py.h5d.DatasetID) -> str:
    """Return the checksum that a dataset carries."""
    text = np.empty((), h5py.string_dtype())
    h5py.h5a.open(dataset, CHECKSUM.encode()).read(text)
    return text.item().decode()
