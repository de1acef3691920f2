"""The frames of an HDF5 file whose data a CrystFEL geometry file describes: events along an axis of
datasets, in groups of their own, or both.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import h5py
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images.geom import FRAMES, Geom
from spreadflow.io.images.layout import Layout, panels_of
from spreadflow.io.images.nexus_frames import lost_frames
from spreadflow.io.images.nexus_items import BROKEN, LARGEST, dataset, item_of, numbers, place


class Event(NamedTuple):
    """Where a frame is."""

    name: str
    """what stands in paths for %; empty where there is none"""
    frame: int
    """along the axis of frames; 0 where there is none"""


def ordered(values: np.ndarray, axes_of_data: Sequence[int]) -> np.ndarray:
    """Return a frame, or a mask of it, with its axes in the order of numbers, slow, fast.

    axes_of_data: as of `GeomPanel`; the values are without the axis of frames.
    """
    frames, *others = axes_of_data
    return np.transpose(values, [axis - (0 <= frames < axis) for axis in others])


class Frames:
    """The frames of a file. Raises FileError where a dataset is missing or of another shape."""

    def __init__(self, file: h5py.File, geom: Geom):
        self._file = file
        self._axes = geom.axes_of_data
        paths = [panel.data for panel in geom.panels]
        self._panels_of_path = {
            path: [number for number, other in enumerate(paths) if other == path]
            for path in dict.fromkeys(paths)
        }
        self.events = self._events(paths[0])
        self._lost: dict[tuple[str, int], str] = {}
        """path and index of a frame whose source is missing → why"""
        for path in self._panels_of_path:
            if self._events(path) != self.events:
                expected = f"{len(self.events)} frames in {path}, as in {paths[0]}"
                raise FileError(file.filename, expected, len(self._events(path)), "Not supported.")

    @property
    def n_frames(self) -> int:
        """The number of frames."""
        return len(self.events)

    def check_fits(self, layout: Layout) -> None:
        """Raise FileError where the panels of a layout lie beyond the frames."""
        for path, rows in self._panels_of_path.items():
            item = self.item(path, self.events[0])
            shape = self._shape(item)
            modules = [module for row, module in enumerate(layout.modules or ()) if row in rows]
            layout._replace(modules=modules).fitted(place(item), shape)

    @property
    def dtype(self) -> np.dtype:
        """The type of the pixels."""
        items = [self.item(path, self.events[0]) for path in self._panels_of_path]
        return np.result_type(*(item.dtype for item in items))

    def item(self, path: str, event: Event) -> h5py.Dataset:
        """Return the dataset of a path, for an event. Raises FileError where there is none."""
        whole = path.replace(FRAMES, event.name, 1)
        item = dataset(self._file, whole)
        if item is None:
            todo = "Correct its path in the geometry file."
            raise FileError(self._file.filename, f"a dataset {whole}", "none", todo)
        return item

    def panels(self, number: int, layout: Layout) -> np.ndarray:
        """Return the panels (panel, slow, fast) of a frame as they are stored. Raises OSError where
        they are lost or damaged.
        """
        event = self.events[number]
        shape = layout.detector.shape
        out = np.empty((layout.detector.n_panels, *shape), self.dtype)
        modules = layout.modules or ()
        for path, rows in self._panels_of_path.items():
            try:
                item = self.item(path, event)
                lost = self._why_lost(item, event)
                if lost:
                    raise OSError(lost)
                out[rows] = panels_of(self.values(item, event), [modules[r] for r in rows], shape)
            except (FileError, *BROKEN) as error:
                raise OSError(str(error)) from None
        return out

    def values(self, item: h5py.Dataset, event: Event) -> np.ndarray:
        """Return the frame of an event in a dataset that has the axes of the data, in the order
        numbers, slow, fast. Raises FileError.
        """
        frames = self._axes[0]
        if frames < 0:
            return ordered(numbers(item), self._axes)
        if frames == 0:
            return ordered(numbers(item, event.frame), self._axes)
        self._shape(item)
        return ordered(item[(*[slice(None)] * frames, event.frame)], self._axes)

    def has_frames(self, item: h5py.Dataset) -> bool:
        """Whether a dataset has the axes of the data, that of frames included."""
        frames = self._axes[0]
        n_events = 1 + max(event.frame for event in self.events)
        return frames >= 0 and item.ndim == len(self._axes) and item.shape[frames] == n_events

    def _shape(self, item: h5py.Dataset) -> tuple[int, ...]:
        """Return the shape of a frame of a dataset, axes in the order numbers, slow, fast. Raises
        FileError where it is of no frames, or of frames that no detector has.
        """
        frames, *others = self._axes
        if item.ndim != len(others) + (frames >= 0) or item.dtype.kind not in "iuf":
            names = ["?"] * (len(others) + (frames >= 0))
            names[others[-2]], names[others[-1]] = "ss", "fs"
            if frames >= 0:
                names[frames] = FRAMES
            expected = f"numbers with the dimensions {', '.join(names)} of the geometry file"
            found = f"{item.dtype} of shape {item.shape}"
            raise FileError(place(item), expected, found, "State dim0, dim1, ... as they are.")
        shape = tuple(item.shape[axis] for axis in others)
        size = int(np.prod(shape, dtype=np.float64))
        if not 0 < size <= LARGEST:
            expected = f"frames of 1 to {LARGEST} pixels"
            raise FileError(place(item), expected, shape, "It may be damaged.")
        return shape

    def _events(self, path: str) -> list[Event]:
        """Return the frames of a path. Raises FileError where there are none."""
        names = self._names(path) if FRAMES in path else [""]
        events = []
        for name in names:
            item = self.item(path, Event(name, 0))
            self._shape(item)
            n_frames = 1 if self._axes[0] < 0 else item.shape[self._axes[0]]
            events += [Event(name, index) for index in range(n_frames)]
        if not events:
            raise FileError(self._file.filename, f"frames in {path}", "none", "It may be empty.")
        return events

    def _names(self, path: str) -> list[str]:
        """Return what % may stand for in a path, in order."""
        before, _, after = path.partition(FRAMES)
        parent, _, beginning = before.rpartition("/")
        end, slash, rest = after.partition("/")
        group = item_of(self._file, parent or "/")
        if not isinstance(group, h5py.Group):
            return []
        pattern = re.compile(f"{re.escape(beginning)}(.+){re.escape(end)}")
        matches = [match for name in sorted(group) if (match := pattern.fullmatch(name))]
        return [
            match[1] for match in matches if dataset(group, f"{match[0]}{slash}{rest}") is not None
        ]

    def _why_lost(self, item: h5py.Dataset, event: Event) -> str:
        """Return why a frame has no source; empty where it has one, or needs none."""
        if self._axes[0] != 0:
            return ""
        name = str(item.name)
        if (name, -1) not in self._lost:
            self._lost[name, -1] = ""
            self._lost |= {(name, frame): why for frame, why in lost_frames(item).items()}
        return self._lost.get((name, event.frame), "")
