"""HDF5 files that are written to disks that may be full.

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
    """A file that keeps the first error of writing instead of raising it. mode: as of `open`."""

    def __init__(self, path: Path, mode: str):
        super().__init__(path, mode)
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
    with _whole(_Sink(path, "w+"), "w", how) as f:
        yield f


@contextmanager
def longer_hdf5(path: Path, **how: Any) -> Iterator[h5py.File]:
    """Yield a file that there is, open for what is added to it, as `new_hdf5` does."""
    with _whole(_Sink(path, "r+"), "r+", how) as f:
        yield f


@contextmanager
def _whole(sink: _Sink, mode: str, how: dict[str, Any]) -> Iterator[h5py.File]:
    """Yield the HDF5 file in a sink. Raises OSError where it is not written as a whole."""
    with sink:
        try:
            with h5py.File(sink, mode, locking=False, **how) as f:
                yield f
        finally:
            if sink.error is not None:
                raise sink.error
