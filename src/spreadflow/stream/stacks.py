"""Shots in stacks of images, one after the other: HDF5 datasets, or image files of any format.

A file that can't be opened counts as one shot, which is dropped: nobody knows how many it has.
Files may be followed while they are written: the last one may grow, as HDF5 lets it in the mode for
a single writer and many readers (SWMR), and more may come, renamed into place when they are whole.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import h5py
import hdf5plugin
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images import ImageFile, expand, open_image
from spreadflow.models import Detector
from spreadflow.stream.shots import Accepts, Block, Event, Filling, Unreadable

assert hdf5plugin.PLUGIN_PATH  # its import is what lets HDF5 decompress

BROKEN = (OSError, KeyError, RuntimeError, TypeError, ValueError)
"""What HDF5 raises where a file is damaged or not as expected."""

LOOK_S = 0.05
"""Seconds between looks at files that are followed: short beside the time that a block of shots
takes to come.
"""


class Datasets(NamedTuple):
    """What is read of each file."""

    images: str | None
    """(shot, ...) images in HDF5; None = a file of a format that is known"""
    shot_ids: str | None = None
    """(shot,) whole numbers; None = shots are counted through all files"""
    monitors: Mapping[str, str] = {}
    """name → (shot, ...) what else was recorded with them"""


class Stack(Protocol):
    """The images of a file."""

    @property
    def n_shots(self) -> int:
        """Their number, by now."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one of them."""

    def read(self, number: int, image: np.ndarray) -> None:
        """Set a float32 array to one of them. Raises OSError where it is damaged."""


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset. Raises as HDF5 does where there is none, and TypeError for a group."""
    item = file[name]
    if not isinstance(item, h5py.Dataset):
        raise TypeError("a group")
    return item


class DatasetStack:
    """The images in an HDF5 dataset (shot, ...). Raises FileError where there is none."""

    def __init__(self, path: Path, dataset: str, may_grow: bool = False):
        try:
            self._file = h5py.File(path, "r", locking=False, swmr=may_grow)
            self._images = _dataset(self._file, dataset)
            if self._images.ndim < 2 or self._images.dtype.kind not in "iufb":
                raise TypeError(f"{self._images.dtype} of shape {self._images.shape}")
        except BROKEN as error:
            expected = f"an HDF5 file with images in {dataset}, (shot, ...) numbers"
            raise FileError(path, expected, error, "Check correlate.dataset.") from None
        self.shape = self._images.shape[1:]
        self._may_grow = may_grow

    @property
    def n_shots(self) -> int:
        """Their number, by now."""
        if self._may_grow:
            self._images.refresh()
        return len(self._images)

    def read(self, number: int, image: np.ndarray) -> None:
        """Set an array to the numbers of an image as they are stored."""
        self._images.read_direct(image, np.s_[number])


class FileStack:
    """The images of a file that `io.images` reads, in photons as its header states them; NaN where
    it masks a pixel. Raises FileError.
    """

    def __init__(self, path: Path):
        self.header = open_image(path)
        self.n_shots = self.header.n_frames
        self.shape = self.header.mask.shape
        self._offset_adu, self._adu_per_photon = self.header.pedestal

    def read(self, number: int, image: np.ndarray) -> None:
        """Set an array to an image in photons."""
        photons = (self.header.frame(number) - self._offset_adu) / self._adu_per_photon
        image[:] = np.where(self.header.mask, photons, np.nan)


class _Beside:
    """What stands beside the images of a file, by name: ids and monitors. Raises FileError where it
    is not there, or not of each shot.
    """

    IDS = "shot_ids"
    """Stands for the ids: no monitor has this name"""

    def __init__(self, path: Path, datasets: Datasets, may_grow: bool):
        named = dict(datasets.monitors)
        if datasets.shot_ids is not None:
            named[self.IDS] = datasets.shot_ids
        self._path = path
        self._may_grow = may_grow
        self._columns: dict[str, h5py.Dataset] = {}
        file = None
        for name, dataset in named.items():
            try:
                file = file or h5py.File(path, "r", locking=False, swmr=may_grow)
                self._columns[name] = _dataset(file, dataset)
                len(self._columns[name])
            except BROKEN as error:
                raise self._wrong(name, f"an HDF5 file with {dataset}", error) from None
        ids = self._columns.get(self.IDS)
        if ids is not None and (ids.ndim != 1 or ids.dtype.kind not in "iu"):
            found = f"{ids.dtype} of shape {ids.shape}"
            raise self._wrong(self.IDS, f"whole numbers in {datasets.shot_ids}", found)
        if ids is not None:
            with suppress(*BROKEN):  # what is damaged costs its shots, when they are read
                self._times(ids[:1])

    def check(self, n_shots: int) -> None:
        """Raise FileError where it is of another number of shots."""
        for name, column in self._columns.items():
            if len(column) != n_shots:
                raise self._wrong(
                    name, f"one in {column.name} for each of {n_shots} images", column
                )

    def n_shots(self, n_images: int) -> int:
        """Return of how many of the images it is there."""
        for column in self._columns.values():
            if self._may_grow:
                column.refresh()
            n_images = min(n_images, len(column))
        return n_images

    def events(self, part: slice, first: int) -> Iterator[Event]:
        """Yield the shots in a range of the file. first: number of the first of them. Raises
        FileError.
        """
        read = {name: column[part] for name, column in self._columns.items()}
        ids = self._times(read.pop(self.IDS)) if self.IDS in read else None
        for i in range(part.stop - part.start):
            shot_id = first + i if ids is None else int(ids[i])
            yield Event(shot_id, first + i, {name: values[i] for name, values in read.items()})

    def _times(self, ids: np.ndarray) -> np.ndarray:
        """Return ids as int64. Raises FileError where one is larger."""
        largest = np.iinfo(np.int64).max
        if np.any(ids > largest):
            raise self._wrong(self.IDS, f"whole numbers up to {largest}", ids.max())
        return ids.astype(np.int64)

    def _wrong(self, name: str, expected: str, found: Any) -> FileError:
        """Return the error of what is not as expected."""
        key = name if name == self.IDS else f"monitors.{name}"
        return FileError(self._path, expected, found, f"Check correlate.{key}.")


class _Opened:
    """A file of shots. may_grow: whether shots may be added to it."""

    def __init__(self, path: Path, datasets: Datasets, may_grow: bool):
        self.path = path
        self.images = _stack(path, datasets.images, may_grow)
        self.beside = _Beside(path, datasets, may_grow)
        if not may_grow:
            self.beside.check(self.images.n_shots)

    @property
    def n_shots(self) -> int:
        """The number of its shots, by now."""
        return self.beside.n_shots(self.images.n_shots)


def _stack(path: Path, dataset: str | None, may_grow: bool) -> Stack:
    """Return the images of a file. Raises FileError."""
    return FileStack(path) if dataset is None else DatasetStack(path, dataset, may_grow)


class Stacks:
    """Shots in the images of files. patterns: of their names; the files of each are sorted.
    n_shots: the first so many alone; 0 = all. follow_s: seconds without a new shot after which all
    have come; 0 = all are there. Files that are followed are read in the order of their names, in
    which they have to come. Raises FileError where none can be opened.
    """

    def __init__(
        self,
        patterns: Sequence[str],
        datasets: Datasets,
        block_shots: int,
        n_shots: int = 0,
        follow_s: float = 0.0,
    ):
        self._patterns = list(patterns)
        self._datasets = datasets
        self._block_shots = block_shots
        self._most = n_shots
        self._follow_s = follow_s
        self._paths: list[Path] = []
        self._bounds = [0]
        """number of the first shot of each file, and of all shots by now"""
        self._last: _Opened | None = None
        """the last file"""
        self._current: _Opened | None = None
        """the file that is read"""
        self._unopened: dict[Path, FileError] = {}
        """what is wrong with the files that have come after the last one that could be opened: they
        may not be whole yet
        """
        self._are_all_there = False
        self._wait(self._has_begun)
        if self._last is None:
            todo = "Check correlate.files."
            raise FileError(", ".join(patterns) or "correlate.files", "a file", "none", todo)
        self.shape: tuple[int, ...] = self._last.images.shape
        self._header: ImageFile | None = getattr(self._last.images, "header", None)
        """a file, where its format is known"""

    @property
    def n_shots(self) -> int:
        """The number of shots, by now."""
        return min(self._most or self._bounds[-1], self._bounds[-1])

    @property
    def detector(self) -> Detector | None:
        """That of the images, where their format is known."""
        return None if self._header is None else self._header.detector

    @property
    def energy_ev(self) -> float | None:
        """Mean energy of the photons of a shot; None where the format of images is not known."""
        return None if self._header is None else float(self._header.spectrum(0).mean_energy_ev)

    def blocks(self, reader: int, n_readers: int, accepts: Accepts) -> Iterator[Block]:
        """Yield the blocks of one reader, as `Source`: those whose number is `reader` modulo
        `n_readers`.
        """
        n_together = self._block_shots
        if not self._follow_s:
            n_together = min(n_together, self.n_shots)
        filling = Filling(n_together, self.shape)
        first = reader * self._block_shots
        while (end := self._up_to(first + self._block_shots)) > first:
            for number, event in enumerate(self._events(first, end), first):
                if isinstance(event, Unreadable):
                    filling.lose(number, event)
                else:
                    filling.add(event, accepts, partial(self._read, number))
            yield filling.block()
            first += n_readers * self._block_shots

    def _up_to(self, number: int) -> int:
        """Return the number of shots, no more than `number`, when there are as many or all have
        come.
        """
        self._wait(lambda: self.n_shots >= number)
        return min(self.n_shots, number)

    def _has_begun(self) -> bool:
        """Whether there is a file to follow."""
        return bool(self._follow_s) and self._last is not None

    def _wait(self, is_enough: Callable[[], bool]) -> None:
        """Look at the files until there is enough, or all have come: those that can't be opened by
        then are damaged. Raises FileError where none can be opened.
        """
        newest = time.monotonic()
        while not self._are_all_there and not is_enough():
            n_before = self._bounds[-1]
            self._look()
            now = time.monotonic()
            if self._bounds[-1] > n_before:
                newest = now
            has_all = bool(self._most) and self._bounds[-1] >= self._most
            self._are_all_there = has_all or now - newest >= self._follow_s
            if not self._are_all_there and not is_enough():
                time.sleep(LOOK_S)
        if self._are_all_there:
            if self._unopened and self._last is None:
                raise next(iter(self._unopened.values()))
            self._count_damaged()

    def _look(self) -> None:
        """Find out which files there are, and how many shots they have. Raises FileError."""
        new = self._new_paths()
        if self._last is not None:  # only now: it grows no more once another one has come
            self._bounds[-1] = self._bounds[-2] + self._last.n_shots
        self._unopened = {}
        for path in new:
            try:
                opened = self._opened(path)
            except FileError as error:
                self._unopened[path] = error
                continue
            if self._last is not None and opened.images.shape != self._last.images.shape:
                expected = f"images of shape {self._last.images.shape}, as in {self._last.path}"
                todo = "Correlate one detector at a time."
                raise FileError(path, expected, opened.images.shape, todo)
            self._count_damaged()  # a file is whole before the next one comes
            self._last = opened
            self._count(path, opened.n_shots)

    def _count_damaged(self) -> None:
        """Count a shot for each file that can't be opened."""
        for path in self._unopened:
            self._count(path, 1)
        self._unopened = {}

    def _count(self, path: Path, n_shots: int) -> None:
        """Count the shots of a file."""
        self._paths.append(path)
        self._bounds.append(self._bounds[-1] + n_shots)

    def _new_paths(self) -> list[Path]:
        """Return the files that have come, in order. Raises FileError where one of them belongs
        before those that are known.
        """
        known = set(self._paths)
        paths = expand(self._patterns)
        is_new = [path not in known for path in paths]
        new = [path for path, is_one in zip(paths, is_new, strict=True) if is_one]
        if not all(is_new[len(paths) - len(new) :]):
            expected = f"a name that comes after that of {self._paths[-1]}"
            todo = "Number files in the order in which they come."
            raise FileError(new[0], expected, "one that comes before", todo)
        return new

    def _opened(self, path: Path) -> _Opened:
        """Return a file, open. Raises FileError."""
        return _Opened(path, self._datasets, may_grow=bool(self._follow_s))

    def _file(self, number: int) -> _Opened:
        """Return the file of a number, open. Raises FileError."""
        path = self._paths[number]
        if self._current is None or path != self._current.path:
            is_last = self._last is not None and path == self._last.path
            self._current = self._last if is_last else self._opened(path)
        assert self._current is not None
        return self._current

    def _events(self, first: int, end: int) -> Iterator[Event | Unreadable]:
        """Yield the shots in a range, or why nothing of them can be read."""
        while first < end:
            file = int(np.searchsorted(self._bounds, first, side="right")) - 1
            stop = min(end, self._bounds[file + 1])
            part = slice(first - self._bounds[file], stop - self._bounds[file])
            try:
                yield from list(self._file(file).beside.events(part, first))
            except (FileError, *BROKEN) as error:
                yield from [Unreadable(_cause(self._paths[file], error))] * (stop - first)
            first = stop

    def _read(self, number: int, image: np.ndarray) -> None:
        """Set an array to the image of a shot. Raises Unreadable."""
        file = int(np.searchsorted(self._bounds, number, side="right")) - 1
        try:
            self._file(file).images.read(number - self._bounds[file], image)
        except (FileError, *BROKEN) as error:
            raise Unreadable(_cause(self._paths[file], error)) from None


def _cause(path: Path, error: Exception) -> str:
    """Return why shots of a file can't be read."""
    return str(error) if isinstance(error, FileError) else f"{path}: {error}"
