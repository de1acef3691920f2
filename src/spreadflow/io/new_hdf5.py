"""New HDF5 files on disks that may be full.

Where a write fails, HDF5 fails again when it closes what is open, and ends the process with a
segmentation fault. Here it meets a file that takes everything; the first error is raised when HDF5
is done.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py


class _Sink(io.FileIO):
    """A new file that keeps the first error of writing instead of raising it."""

    def __init__(self, path: Path):
        super().__init__(path, "w+")
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all bytes, or none after an error."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while self.error is None and len(rest):
                rest = rest[super().write(rest) or 0 :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Give the file a size, if it can have it."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


@contextmanager
def new_hdf5(path: Path, **how: Any) -> Iterator[h5py.File]:
    """Yield a new file, open for writing. Raises OSError where it can't be opened, or is not on the
    disk as a whole when the block ends.

    how: arguments of h5py.
    """
    with _Sink(path) as sink:
        try:
            with h5py.File(sink, "w", locking=False, **how) as f:
                yield f
        finally:
            if sink.error is not None:
                raise sink.error
