"""Datasets that are stored as they are and mapped into memory when they are read, each checked once
against the checksum that it carries.

Reading costs what is touched, and many ranks of a node share the pages.
"""

from pathlib import Path

import h5py
import numpy as np

from spreadflow.io import checksums

KINDS = frozenset({"pack"})
"""Kinds of files whose datasets are stored so."""

SMALLEST = 65536
"""Bytes from which a dataset is mapped: smaller ones are read, as a page costs as much."""

_sound: set[tuple] = set()
"""Datasets that this process has checked: file, its size and time, name, checksum."""


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


def check(path: Path, name: str, data: np.ndarray, expected: str) -> None:
    """Raise FileError where the content of a dataset is not what was written. Each is checked once,
    as long as its file stays the same.

    expected: its checksum, as the file has it.
    """
    status = path.stat()
    identity = (str(path), status.st_size, status.st_mtime_ns, name, expected)
    if identity not in _sound:
        checksums.check(path, name, data, expected)
        _sound.add(identity)
