"""The frames of an NXmx file as one stack, read across the files that hold them, and which of them
have lost their source.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images.data_files import ANY_NUMBER, ITSELF, source_file
from spreadflow.io.images.kept import KeptArrays
from spreadflow.io.images.nexus_items import (
    ABOUT_FILES,
    BROKEN,
    LARGEST,
    children,
    dataset,
    item_of,
    numbers,
    place,
    text,
)

UNLIMITED = 2**62
"""Frames from which on a source is one that may grow: any number that it has is right."""

PART = re.compile(r"data_\d+$")
"""Names of the links to data files in the master files of Dectris detectors."""

RESTORE = "Restore the file beside this one."
"""What to do where a link leads to no file."""


class Stack(NamedTuple):
    """Frames of one shape, in one dataset or several, one after another."""

    datasets: tuple[h5py.Dataset, ...]
    name: str
    """of the dataset, or of the first of several: that of what belongs to it"""
    lost: dict[int, str]
    """frame → why its pixels are not there: its source is missing"""
    remarks: tuple[str, ...] = ()
    """what is missing and costs no known frame"""
    is_single: bool = False
    """whether the dataset is one frame, without an axis of frames"""

    @property
    def n_frames(self) -> int:
        """The number of frames, lost ones included."""
        return 1 if self.is_single else sum(len(item) for item in self.datasets)

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """The shape of a frame."""
        shape = self.datasets[0].shape
        return tuple(shape) if self.is_single else tuple(shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """The type of the pixels."""
        return np.result_type(*(item.dtype for item in self.datasets))

    def frame(self, number: int, kept: KeptArrays | None = None) -> np.ndarray:
        """Return a frame as it is stored, in an array of `kept`; None = a new one. Raises OSError
        where it is lost or damaged.
        """
        if number in self.lost:
            raise OSError(self.lost[number])
        try:
            if self.is_single:
                return numbers(self.datasets[0])
            for item in self.datasets:
                if number < len(item):
                    return _read(item, number, kept)
                number -= len(item)
        except (FileError, *BROKEN) as error:  # of h5py, where a filter fails
            raise OSError(str(error)) from None
        raise OSError(f"no frame {number}")


def _read(item: h5py.Dataset, number: int, kept: KeptArrays | None) -> np.ndarray:
    """Return a frame of a dataset. Raises FileError, or what h5py raises."""
    shape = item.shape[1:]
    if kept is None or item.dtype.kind not in "iuf" or np.prod(shape, dtype=float) > LARGEST:
        return numbers(item, number)
    frame = kept.empty("adu", shape, item.dtype)
    item.read_direct(frame, np.s_[number])
    return frame


def stacks(
    entry: h5py.Group, sensors: Sequence[h5py.Group]
) -> Iterator[tuple[h5py.Group, Stack | FileError]]:
    """Return what may be the frames, likeliest first, each with its group: the NXdata that the
    entry names as its default, other NXdata, and the data of detectors; an error in place of frames
    whose files are missing.
    """
    groups = children(entry, "NXdata")
    default = text(entry.attrs.get("default"))
    groups.sort(key=lambda group: group.name != f"{entry.name}/{default}")
    for group in [*groups, *sensors]:
        try:
            stack = _stack(group)
        except FileError as error:
            yield group, error
            continue
        if stack is not None:
            yield group, stack


def _stack(group: h5py.Group) -> Stack | None:
    """Return the frames of a group: its signal, or data_000001 and so on; None where it has none.
    Raises FileError.
    """
    item = _signal(group)
    if item is not None:
        if not 2 <= item.ndim <= 4 or item.dtype.kind not in "iuf":
            return None
        _check_size(item, item.shape if item.ndim == 2 else item.shape[1:])
        return Stack((item,), Path(item.name).name, lost_frames(item), is_single=item.ndim == 2)
    names = sorted(name for name in group if PART.match(name))
    if names:
        return _of_parts(group, names)
    signal = text(group.attrs.get("signal"))
    if signal in group and item_of(group, signal) is None:
        raise FileError(place(group), f"the file of {signal}", _target(group, signal), RESTORE)
    return None


def _signal(group: h5py.Group) -> h5py.Dataset | None:
    """Return the signal of a group: as its attribute names it, as an attribute of its own says, or
    the dataset `data`.
    """
    name = text(group.attrs.get("signal")) or "data"
    if PART.match(name):  # the first of several
        return None
    named = dataset(group, name)
    if named is not None:
        return named
    for name in group:
        item = dataset(group, name)
        if item is not None and text(item.attrs.get("signal")) == "1":
            return item
    return None


def _of_parts(group: h5py.Group, names: Sequence[str]) -> Stack:
    """Return frames that go on from dataset to dataset. Raises FileError where one is missing
    before the last that is there, or has frames of another shape.
    """
    items = [(name, dataset(group, name)) for name in names]
    there = [number for number, (_, item) in enumerate(items) if item is not None]
    n_parts = there[-1] + 1 if there else 0
    if len(there) < max(n_parts, 1):
        missing = next(name for name, item in items if item is None)
        expected = f"the file of {missing}"
        raise FileError(place(group), expected, _target(group, missing), RESTORE)
    parts = [item for _, item in items if item is not None]
    shape = parts[0].shape[1:]
    for part in parts:
        if part.ndim not in (3, 4) or part.shape[1:] != shape or part.dtype.kind not in "iuf":
            expected = f"frames of shape {shape}"
            raise FileError(place(part), expected, f"{part.shape} of {part.dtype}", ABOUT_FILES)
    _check_size(parts[0], shape)
    lost: dict[int, str] = {}
    start = 0
    for part in parts:
        lost |= {start + number: why for number, why in lost_frames(part).items()}
        start += len(part)
    remarks = tuple(
        f"{name} is left out: {_target(group, name)}" for name, item in items if item is None
    )
    return Stack(tuple(parts), "data", lost, remarks)


def _target(group: h5py.Group, name: str) -> str:
    """Return where a link leads that leads nowhere."""
    link = group.get(name, getlink=True)
    file = getattr(link, "filename", None)
    return f"no file {file}" if file else f"no {getattr(link, 'path', name)}"


def _check_size(item: h5py.Dataset, shape: Sequence[int]) -> None:
    """Raise FileError for frames that no detector has: the header may be damaged."""
    size = int(np.prod(shape, dtype=np.float64))
    if not 0 < size <= LARGEST:
        expected = f"frames of 1 to {LARGEST} pixels"
        raise FileError(place(item), expected, shape, "It may be damaged.")


# ---------------------------------------------------------------- frames without a source


class _Part(NamedTuple):
    """Frames of a virtual dataset that come from one dataset."""

    first: int
    end: int
    """of these frames; not included"""
    source: str
    """file, as the virtual dataset names it"""
    name: str
    """of the dataset in it"""
    source_end: int
    """frames that the dataset has to have"""


def lost_frames(item: h5py.Dataset) -> dict[int, str]:
    """Return which frames of a dataset have no source, and why. A virtual dataset reads as fill
    values where its source is missing.
    """
    if not item.is_virtual or item.ndim == 2:
        return {}
    n_frames = len(item)
    is_covered = np.zeros(n_frames, bool)
    lost: dict[int, str] = {}
    lengths: dict[tuple[str, str], int | str] = {}
    for part in _parts(item):
        is_covered[part.first : part.end] = True
        if ANY_NUMBER in part.source:
            continue
        key = (part.source, part.name)
        if key not in lengths:
            lengths[key] = _length(item, part)
        length = lengths[key]
        if isinstance(length, str):
            lost |= dict.fromkeys(range(part.first, part.end), length)
        elif length < part.source_end:
            why = f"its source {part.source} has {length} frames of {part.source_end}"
            n_missing = part.source_end - length
            lost |= dict.fromkeys(range(max(part.first, part.end - n_missing), part.end), why)
    why = "no source in the virtual dataset"
    return lost | dict.fromkeys(np.flatnonzero(~is_covered).tolist(), why)


def _parts(item: h5py.Dataset) -> Iterator[_Part]:
    """Return the parts of a virtual dataset."""
    n_frames = len(item)
    for mapping in item.virtual_sources():
        first, last = (int(bound[0]) for bound in mapping.vspace.get_select_bounds())
        end = min(last + 1, n_frames)
        if mapping.src_space.get_select_type() == h5py.h5s.SEL_ALL:
            source_end = end - first
        else:
            source_end = int(mapping.src_space.get_select_bounds()[1][0]) + 1
        yield _Part(
            first=first,
            end=end,
            source=mapping.file_name,
            name=mapping.dset_name,
            source_end=0 if source_end > UNLIMITED else source_end,
        )


def _length(item: h5py.Dataset, part: _Part) -> int | str:
    """Return how many frames the source of a part has, or why it can't be read."""
    if part.source == ITSELF:
        source = dataset(item.file, part.name)
        return f"its source {part.name} is missing" if source is None else _n_frames(source, item)
    path = source_file(Path(item.file.filename).parent, part.source)
    if path is None:
        return f"its source {part.source} is missing"
    try:
        with h5py.File(path, "r", locking=False) as file:
            source = item_of(file, part.name)
            if isinstance(source, h5py.Dataset):
                return _n_frames(source, item)
    except BROKEN as error:
        return f"its source {part.source} can't be read: {error}"
    return f"its source {part.source} has no dataset {part.name}"


def _n_frames(source: h5py.Dataset, item: h5py.Dataset) -> int:
    """Return the frames of a source; enough where it is one, without an axis of frames."""
    return len(source) if source.ndim == item.ndim else UNLIMITED
