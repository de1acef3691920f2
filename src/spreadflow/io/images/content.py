"""Bytes of image files of one shot, which may be compressed with gzip as a whole."""

import gzip
import zlib
from pathlib import Path

from spreadflow.errors import FileError

GZIP = b"\x1f\x8b"
"""First bytes of a gzip file."""

LARGEST_FILE = 2**29
"""Bytes of the largest file that is read whole: seven times the largest detector, uncompressed."""


def beginning(path: Path, n_bytes: int) -> bytes:
    """Return the first bytes of a file, of its content where it is compressed with gzip. Raises
    OSError where it can't be read.
    """
    with open(path, "rb") as file:
        first = file.read(n_bytes)
    if not first.startswith(GZIP):
        return first
    try:
        with gzip.open(path) as file:
            return file.read(n_bytes)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return first


def whole(path: Path) -> bytes:
    """Return the content of a file, decompressed where it is gzip. Raises FileError where it can't
    be read or is larger than an image file can be.
    """
    try:
        with open(path, "rb") as file:
            is_compressed = file.read(len(GZIP)) == GZIP
        with gzip.open(path) if is_compressed else open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(path, "a readable file", error, "Check that it is complete.") from None
    if len(content) > LARGEST_FILE:
        expected = f"an image file of at most {LARGEST_FILE} bytes"
        raise FileError(path, expected, "a larger one", "Check that it is an image.")
    return content
