"""Items of a NeXus file, read with care: texts, numbers, units, groups of a class. What is not as
it should be is a FileError that names the item.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import h5py
import numpy as np

from spreadflow.errors import FileError
from spreadflow.units import DEG

T = TypeVar("T")

MM = {
    "mm": 1.0,
    "millimeter": 1.0,
    "millimetre": 1.0,
    "m": 1e3,
    "meter": 1e3,
    "metre": 1e3,
    "cm": 10.0,
    "um": 1e-3,
    "µm": 1e-3,
    "micron": 1e-3,
    "micrometer": 1e-3,
    "nm": 1e-6,
}
"""Units of lengths that are understood, in mm; in capitals or plural too."""

ANGSTROM = {"angstrom": 1.0, "Å": 1.0, "A": 1.0, "nm": 10.0, "pm": 0.01, "um": 1e4, "m": 1e10}
"""Units of wavelengths that are understood, in Å; in capitals or plural too."""

EV = {"eV": 1.0, "keV": 1e3, "J": 1 / 1.602176634e-19}
"""Units of photon energies that are understood, in eV; in capitals too."""

RADIAN = {"rad": 1.0, "radian": 1.0, "deg": DEG, "degree": DEG, "°": DEG}
"""Units of angles that are understood, in rad; in capitals or plural too."""

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


def _spelling(unit: str) -> str:
    """Return a unit as it is compared: without blanks, capitals, accents of fonts and plural."""
    plain = unicodedata.normalize("NFKC", unit).strip().casefold()
    return plain[:-1] if len(plain) > 2 and plain.endswith("s") else plain


def unit_factor(unit: str, units: Mapping[str, float]) -> float | None:
    """Return the factor of a unit, spelled in any way; None where it is not understood."""
    factors = {_spelling(name): factor for name, factor in units.items()}
    return factors.get(_spelling(unit))


def unit_of(item: h5py.Dataset, units: Mapping[str, float], attribute: str = "units") -> float:
    """Return the factor of an item's unit. Raises FileError for a unit that is not understood."""
    unit = text(item.attrs.get(attribute, item.attrs.get("units")))
    factor = unit_factor(unit, units)
    if factor is None:
        expected = f"units among {', '.join(units)}"
        raise FileError(place(item), expected, repr(unit) if unit else "none", "Correct it.")
    return factor
