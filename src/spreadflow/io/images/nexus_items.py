"""Items of a NeXus file, read with care: texts, numbers, units, groups of a class. What is not as
it should be is a FileError that names the item.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import h5py
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images.unit_names import unit_factor

T = TypeVar("T")

BROKEN = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What h5py and NumPy raise on files whose structure is damaged, or not what it should be."""

LARGEST = 2**28
"""Numbers of a dataset that are read at once; the frames of the largest detectors have a sixteenth
of that, and a damaged header may claim any.
"""

ABOUT_FILES = "See docs/files.md, image files."
"""What to do about a file that is not as described there."""


def first(items: Sequence[T], what: str, parent: h5py.Group) -> T:
    """Return the first of the items that were found in a group. Raises FileError where there are
    none.
    """
    if not items:
        raise FileError(place(parent), f"a {what}", "none", "This is not an NXmx file.")
    return items[0]


def place(item: h5py.Group | h5py.Dataset) -> str:
    """Return where an item is, for an error: file and path in it."""
    return f"{item.file.filename}:{item.name}"


def text(value: Any) -> str:
    """Return a NeXus string, of fixed or variable length, dataset or attribute; '' where there is
    none.
    """
    if isinstance(value, h5py.Dataset):
        value = value[()]
    if isinstance(value, np.ndarray):
        value = value.ravel()[0] if value.size else ""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.decode("latin-1")
    return "" if value is None else str(value)


def children(group: h5py.Group, nx_class: str) -> list[h5py.Group]:
    """Return the groups of a NeXus class in a group."""
    groups = []
    for name in group:
        item = item_of(group, name)
        if isinstance(item, h5py.Group) and text(item.attrs.get("NX_class")) == nx_class:
            groups.append(item)
    return groups


def item_of(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """Return an item of a group; None where there is none, or a link to nowhere."""
    try:
        return group.get(name)
    except (OSError, RuntimeError, KeyError):
        return None


def dataset(group: h5py.Group, name: str) -> h5py.Dataset | None:
    """Return a dataset of a group; None where there is no dataset of that name."""
    item = item_of(group, name)
    return item if isinstance(item, h5py.Dataset) else None


def numbers(item: h5py.Dataset, selection: Any = ()) -> np.ndarray:
    """Return the numbers of a dataset, or of a part of it. Raises FileError where they are none, or
    too many to be true.

    selection: of the first axis, or () for all.
    """
    if item.dtype.kind not in "biuf":
        raise FileError(place(item), "numbers", f"type {item.dtype}", ABOUT_FILES)
    size = item.size or 0
    n_rows = item.shape[0] if item.shape else 1
    if isinstance(selection, int):
        size = size // max(n_rows, 1)
    elif isinstance(selection, slice):
        size = size // max(n_rows, 1) * len(range(n_rows)[selection])
    if size > LARGEST:
        raise FileError(place(item), f"at most {LARGEST} numbers", size, "It may be damaged.")
    return np.asarray(item[selection])


def number(group: h5py.Group, name: str, default: float) -> float:
    """Return the one finite number in a dataset, or the default where there is no such dataset.
    Raises FileError for several that differ, or what is no number.
    """
    item = dataset(group, name)
    if item is None:
        return default
    values = np.unique(numbers(item))
    if len(values) != 1 or not np.isfinite(values[0]):
        found = f"{len(values)} different" if len(values) > 1 else f"{values}"
        raise FileError(place(item), "a single finite number", found, ABOUT_FILES)
    return float(values[0])


def unit_of(item: h5py.Dataset, units: Mapping[str, float], attribute: str = "units") -> float:
    """Return the factor of an item's unit. Raises FileError for a unit that is not understood."""
    unit = text(item.attrs.get(attribute, item.attrs.get("units")))
    factor = unit_factor(unit, units)
    if factor is None:
        expected = f"units among {', '.join(units)}"
        raise FileError(place(item), expected, repr(unit) if unit else "none", "Correct it.")
    return factor
