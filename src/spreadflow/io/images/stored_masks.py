"""Masks of HDF5 files, unpacked once where one file after the other stores the same: unpacking
takes longer than reading a frame.
"""

import hashlib
from itertools import product

import h5py
import numpy as np

from spreadflow.io.images.nexus_items import numbers

N_HELD = 2
"""Masks that are held: a file may have two."""

LEAST_RATIO = 4
"""How much less a mask takes as it is stored, at least, for its stored bytes to be compared."""

_held: dict[bytes, np.ndarray] = {}
"""digest of a mask as it is stored → where it is not zero, read-only; the last ones"""


def is_nonzero(item: h5py.Dataset) -> np.ndarray:
    """Return where a mask is not zero, bool of its shape, which is not to be written to. Raises
    FileError where it holds no numbers, or what h5py raises where it is damaged.

    Masks are the same where all that HDF5 makes their numbers of is, to the last byte.
    """
    key = _digest(item)
    if key is None:
        return numbers(item) != 0
    is_bad = _held.pop(key, None)
    if is_bad is None:
        is_bad = numbers(item) != 0
        is_bad.flags.writeable = False
    _held[key] = is_bad
    while len(_held) > N_HELD:
        del _held[next(iter(_held))]
    return is_bad


def _digest(item: h5py.Dataset) -> bytes | None:
    """Return the digest of a dataset as it is stored, all that its numbers follow from; None where
    that would not save time, or parts of it are not stored at all.
    """
    if item.chunks is None or item.is_virtual:
        return None
    if item.id.get_storage_size() * LEAST_RATIO > item.nbytes:
        return None
    steps = [range(0, length, step) for length, step in zip(item.shape, item.chunks, strict=True)]
    if item.id.get_num_chunks() != np.prod([len(along) for along in steps]):
        return None
    layout = item.id.get_create_plist()
    filters = [layout.get_filter(number) for number in range(layout.get_nfilters())]
    digest = hashlib.sha256(repr((item.shape, item.dtype.str, item.chunks, filters)).encode())
    for corner in product(*steps):
        filter_mask, stored = item.id.read_direct_chunk(corner)
        digest.update(b"%d %d " % (filter_mask, len(stored)))
        digest.update(stored)
    return digest.digest()
