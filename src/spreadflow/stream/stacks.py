"""Shots in stacks of images, one after the other: HDF5 datasets, or image files of any format."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import h5py
import hdf5plugin
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images import open_image
from spreadflow.stream.shots import Accepts, Block, Event, slices

assert hdf5plugin.PLUGIN_PATH  # its import is what lets HDF5 decompress

BROKEN = (OSError, KeyError, RuntimeError, TypeError, ValueError)
"""What HDF5 raises where a file is damaged or not as expected."""


class Stack(Protocol):
    """The images of a file."""

    @property
    def n_shots(self) -> int:
        """Their number."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one of them."""

    def read(self, number: int, image: np.ndarray) -> None:
        """Set a float32 array to one of them. Raises OSError where it is damaged."""


class DatasetStack:
    """The images in an HDF5 dataset (shot, ...). Raises FileError where there is none."""

    def __init__(self, path: Path, dataset: str):
        try:
            self._images = h5py.File(path, "r", locking=False)[dataset]
            self.n_shots, *shape = self._images.shape
        except BROKEN as error:
            expected = f"an HDF5 file with images in {dataset}"
            raise FileError(path, expected, error, "Check correlate.dataset.") from None
        self.shape = tuple(shape)

    def read(self, number: int, image: np.ndarray) -> None:
        """Set an array to the numbers of an image as they are stored."""
        self._images.read_direct(image, np.s_[number])


class FileStack:
    """The images of a file that `io.images` reads, in photons as its header states them; NaN where
    it masks a pixel. Raises FileError.
    """

    def __init__(self, path: Path):
        self._file = open_image(path)
        self.n_shots = self._file.n_frames
        self.shape = self._file.mask.shape
        self._offset_adu, self._adu_per_photon = self._file.pedestal

    def read(self, number: int, image: np.ndarray) -> None:
        """Set an array to an image in photons."""
        photons = (self._file.frame(number) - self._offset_adu) / self._adu_per_photon
        image[:] = np.where(self._file.mask, photons, np.nan)


class Stacks:
    """Shots in the images of several files. dataset: of HDF5 files; None = image files of a format
    that is known. shot_ids: dataset of int64 ids in each file; None = shots are counted through all
    files. n_shots: the first so many alone; 0 = all. Raises FileError.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        dataset: str | None,
        shot_ids: str | None,
        block_shots: int,
        n_shots: int = 0,
    ):
        if not paths:
            todo = "Check correlate.files."
            raise FileError("correlate.files", "at least one file", "none", todo)
        self._paths = paths
        self._open = _opener(dataset)
        self._block_shots = block_shots
        self._number = 0
        """of the file that is open"""
        self._stack: Stack = self._open(paths[0])
        self.shape = self._stack.shape
        stacks = [self._stack, *map(self._open, paths[1:])]
        self._bounds = np.cumsum([0, *(stack.n_shots for stack in stacks)])
        for path, stack in zip(paths, stacks, strict=True):
            if stack.shape != self.shape:
                expected = f"images of shape {self.shape}, as in {paths[0]}"
                raise FileError(path, expected, stack.shape, "Correlate one detector at a time.")
        n_all = int(self._bounds[-1])
        self.n_shots = min(n_shots or n_all, n_all)
        self.shot_ids = np.arange(n_all)
        if shot_ids is not None:
            numbers = np.diff(self._bounds)
            ids = [_ids(path, shot_ids, n) for path, n in zip(paths, numbers, strict=True)]
            self.shot_ids = np.concatenate(ids)

    def blocks(self, reader: int, n_readers: int, accepts: Accepts) -> Iterator[Block]:
        """Yield the blocks of one reader, as `Source`. All are in the same memory: to get as much
        anew takes as long as to read it.
        """
        n_together = min(self._block_shots, self.n_shots)
        together = np.empty((n_together, *self.shape), np.float32)
        for part in slices(self.n_shots, self._block_shots, reader, n_readers):
            ids = self.shot_ids[part]
            images = together[: len(ids)]
            is_valid = np.zeros(len(ids), bool)
            for i, shot_id in enumerate(ids.tolist()):
                number = part.start + i
                if accepts(Event(shot_id, number)):
                    is_valid[i] = self._read(number, images[i])
            yield Block(ids, images, is_valid)

    def _read(self, number: int, image: np.ndarray) -> bool:
        """Set the image of a shot; whether it could be read."""
        file = int(np.searchsorted(self._bounds, number, side="right")) - 1
        if file != self._number:
            self._stack = self._open(self._paths[file])
            self._number = file
        try:
            self._stack.read(number - int(self._bounds[file]), image)
        except OSError:
            return False
        return True


def _opener(dataset: str | None) -> Callable[[Path], Stack]:
    """Return what opens a file of images."""
    return FileStack if dataset is None else lambda path: DatasetStack(path, dataset)


def _ids(path: Path, dataset: str, n_shots: int) -> np.ndarray:
    """Return the ids of the shots in a file. Raises FileError."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            ids = np.asarray(file[dataset][()])
    except BROKEN as error:
        expected = f"an HDF5 file with {dataset}"
        raise FileError(path, expected, error, "Check correlate.shot_ids.") from None
    if ids.shape != (n_shots,) or ids.dtype.kind not in "iu":
        found = f"{ids.dtype} of shape {ids.shape}"
        expected = f"{n_shots} whole numbers in {dataset}, one for each image"
        raise FileError(path, expected, found, "Check correlate.shot_ids.")
    return ids.astype(np.int64)
