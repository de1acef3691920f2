"""Files of G2: results by update, in the layout that scripts for ParCorAna read, and their sums.

A file is `<name>.inprogress` until all shots are through. It is closed between updates: what was
published stays readable whatever happens to the ranks.
"""

import glob
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from spreadflow import __version__
from spreadflow.callbacks import ARRAYS
from spreadflow.errors import FileError
from spreadflow.io.checksums import checksum
from spreadflow.io.colours import Pixels
from spreadflow.io.new_hdf5 import longer_hdf5, new_hdf5

FORMAT = ("v108", "v108")
"""Versions of HDF5's format: the last one in which a file is not marked while it is written to.
Nobody could open a file with this mark after its writer was killed.
"""

SCHEMA = 2
"""Version of what this adds to the older layout: sums, counts, pixels, and how they were formed."""

NOT_COMPARED = (
    "h5output",
    "testH5output",
    "testh5output",
    "numServers",
    "out",
    "picture",
    "test_out",
    "readers",
    "overwrite",
    "entry_identifier",
    "start_time",
)
"""What two calculations of the same may differ in."""

COMPRESSED = {"compression": "gzip", "compression_opts": 1}
"""How images of few pixels are written: higher levels take longer, and save little."""

SPARSE = 0.25
"""Share of an image's pixels below which it is one of few: noise in all pixels takes gzip long."""

MERGED = "merged_checksums"
"""Attribute: checksums of the outputs that were merged into one."""

TINY = 1e-30
"""Floor of the numbers that a difference is relative to."""


def resolved(name: str, clock: float | None = None) -> Path:
    """Return the path that a name means: %T is the time as yyyymmddhhmmss, %C the first number of
    three digits of which there is no file yet, finished or in progress. clock: seconds since the
    epoch; None = now.
    """
    name = name.replace("%T", time.strftime("%Y%m%d%H%M%S", time.localtime(clock)))
    if "%C" not in name:
        return Path(name)
    for number in range(1000):
        path = Path(name.replace("%C", f"{number:03d}"))
        if not path.exists() and not in_progress(path).exists():
            return path
    raise FileError(name, "a free number below 1000", "none", "Remove old files.")


def latest(name: str) -> Path:
    """Return the latest finished file that a name stands for. Raises FileError where there is
    none.
    """
    pattern = glob.escape(name).replace("%T", "[0-9]" * 14).replace("%C", "[0-9]" * 3)
    paths = [Path(path) for path in glob.glob(pattern)]
    if not paths:
        raise FileError(name, "an output of `spreadflow correlate`", "none", "Write it.")
    return max(paths, key=lambda path: path.stat().st_mtime_ns)


def in_progress(path: Path) -> Path:
    """Return where a file lies as long as it is not finished."""
    return path.with_name(f"{path.name}.inprogress")


class How(NamedTuple):
    """How sums are formed: those that are formed in another way do not add up."""

    calculator: str
    rate_hz: float
    not_zero: float
    saturated: float


class Stored(NamedTuple):
    """The last update of a file."""

    path: Path
    how: How
    pixels: Pixels
    last_shot_id: int
    shots: dict[str, int]
    """what became of the shots"""
    delays: np.ndarray
    """(delay,) int64"""
    counts: np.ndarray
    """(delay,) int64 partners"""
    is_bad: np.ndarray
    """(pixel,) int8"""
    arrays: dict[str, np.ndarray]
    """`ARRAYS`, (delay, pixel) float64"""
    merged: tuple[str, ...]
    """checksums of the outputs that were merged into it; () = none were"""

    @property
    def checksums(self) -> tuple[str, ...]:
        """Checksums of the outputs that it was merged from, or its own; () = it has no partners."""
        if self.merged or not self.counts.any():
            return self.merged
        own = [self.pixels.places, *(self.arrays[name] for name in ARRAYS)]
        return (checksum(np.concatenate([one.ravel().view(np.uint8) for one in own])),)


class G2File:
    """A file that results are written to. Raises FileError where there is one of this name, unless
    it may be replaced, or one in progress.
    """

    def __init__(self, path: Path, is_replacing: bool):
        self.path = path
        self._temporary = in_progress(path)
        if path.exists() and not is_replacing:
            raise FileError(path, "no file of this name", "one", "Use --overwrite or remove it.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.touch(exist_ok=False)
            with new_hdf5(self._temporary, libver=FORMAT) as file:
                file.attrs["schema"] = SCHEMA
                file.attrs["software"] = f"spreadflow {__version__}"
        except OSError as error:
            todo = "Another run writes it, or one that was killed left it: remove or rename it."
            expected = "no file of this name, in a folder that can be written"
            raise FileError(self._temporary, expected, error, todo) from None

    @contextmanager
    def open(self) -> Iterator[h5py.File]:
        """Open the file for writing, for a while. Raises FileError where the disk does not take
        it. What the block itself raises stays as it is: it may be a user's class.
        """
        of_block: OSError | None = None
        try:
            with longer_hdf5(self._temporary, libver=FORMAT) as file:
                try:
                    yield file
                except OSError as error:
                    of_block = error
                    raise
        except OSError as error:
            if error is of_block:
                raise
            todo = "Make room. What was published before is in the file."
            raise FileError(self._temporary, "a place to write to", error, todo) from None

    def finish(self) -> None:
        """Give the file its name."""
        os.replace(self._temporary, self.path)


def write_parameters(
    file: h5py.File,
    how: How,
    system: Mapping[str, Any],
    user: Mapping[str, Any],
    pixels: Pixels,
) -> None:
    """Write what was configured, a dataset for each parameter, which pixels are correlated, and
    how. Scripts for ParCorAna expect mask and colours themselves in place of the files' names.
    """
    images = {
        "system/system_params/maskNdarrayCoords": pixels.mask.astype(np.int8),
        "system/user_params/colorNdarrayCoords": pixels.image(pixels.colours),
        "system/user_params/colorFineNdarrayCoords": pixels.image(pixels.fine_colours),
    }
    for path, image in images.items():
        file.create_dataset(path, data=image, compression="gzip")
    for group, parameters in (("system_params", system), ("user_params", user)):
        for name, value in parameters.items():
            path = f"system/{group}/{name}"
            if path in images:
                continue
            try:
                file[path] = value
            except (TypeError, ValueError):
                file[path] = json.dumps(value, default=str)
    file["system/pixels"] = pixels.places
    file["system/image_shape"] = pixels.shape
    file["system/colours"] = pixels.colours
    file["system/fine_colours"] = pixels.fine_colours
    file["system"].attrs.update(how._asdict(), n_masked_in=pixels.n_masked_in)
    file.require_group("user")


def write_merged(file: h5py.File, checksums: Sequence[str]) -> None:
    """Write of which outputs a file was merged."""
    file["system"].attrs[MERGED] = list(checksums)


def update_name(last_shot_id: int) -> str:
    """Return the name of an update."""
    return f"G2_results_at_{last_shot_id:06d}"


def write_update(
    group: h5py.Group,
    last_shot_id: int,
    shots: Mapping[str, int],
    columns: Mapping[str, np.ndarray],
    arrays: Mapping[str, np.ndarray],
    pixels: Pixels,
) -> h5py.Group:
    """Write the results of an update; return its group. One of the same last shot is replaced: it
    has fewer shots.

    shots: what became of them. columns: written as they are; `delays` and `delay_counts`, (delay,),
    are among them. arrays: (delay, pixel) sums over partners. They are kept as `sums`, and divided
    by their number in the shape of an image, 0 where a pixel is not correlated. Images of few
    pixels are compressed.
    """
    how = COMPRESSED if len(pixels.places) < SPARSE * math.prod(pixels.shape) else {}
    name = update_name(last_shot_id)
    if name in group:
        del group[name]
    update = group.create_group(name)
    update.attrs.update(shots, last_shot_id=last_shot_id)
    for column, values in columns.items():
        update[column] = values
    n = np.maximum(columns["delay_counts"], 1)
    for array, sums in arrays.items():
        update[f"sums/{array}"] = sums
        for i, delay in enumerate(columns["delays"]):
            means = (sums[i] / n[i]).astype(np.float32)
            update.create_dataset(f"{array}/delay_{delay:06d}", data=pixels.image(means), **how)
    return update


def read_last(path: Path) -> Stored:
    """Return the last update of a file. Raises FileError where it is no file of this version, or
    one whose results are a user's own.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            return _stored(path, file)
    except (OSError, KeyError, TypeError, ValueError) as error:
        expected = f"a finished output of `spreadflow correlate` with G2, of schema {SCHEMA}"
        todo = "Correlate again with this version."
        raise FileError(path, expected, error, todo) from None


def last_update(file: h5py.File) -> h5py.Group | None:
    """Return the update of most shots in a file; None where there is none, or a user's class has
    published.
    """
    updates = [group for group in file["user"].values() if "n_shots" in group.attrs]
    return max(updates, key=lambda update: update.attrs["n_shots"], default=None)


def _stored(path: Path, file: h5py.File) -> Stored:
    """Return the last update of an open file. Raises as HDF5 does where something is missing."""
    if file.attrs["schema"] != SCHEMA:
        raise ValueError(f"schema {file.attrs['schema']}")
    system = file["system"]
    last = last_update(file)
    if last is None:
        raise ValueError("no update")
    shots = {name: int(value) for name, value in last.attrs.items()}
    return Stored(
        path=path,
        how=How(*(system.attrs[name] for name in How._fields)),
        pixels=Pixels(
            shape=tuple(system["image_shape"][()].tolist()),
            places=system["pixels"][()],
            colours=system["colours"][()],
            fine_colours=system["fine_colours"][()],
            n_masked_in=int(system.attrs["n_masked_in"]),
        ),
        last_shot_id=shots.pop("last_shot_id"),
        shots=shots,
        delays=last["delays"][()],
        counts=last["delay_counts"][()],
        is_bad=last["is_bad"][()],
        arrays={name: last[f"sums/{name}"][()] for name in ARRAYS},
        merged=tuple(system.attrs.get(MERGED, ())),
    )


def differences(first: Path, second: Path, largest: float) -> tuple[float, list[str]]:
    """Return the largest relative difference between numbers of two files, and a line for each
    dataset that only one has, or that differs by more than `largest`. What is no finite number
    has to be the same in both; what stands for how the results were formed is not compared. Raises
    FileError.
    """
    a, b = (_datasets(path) for path in (first, second))
    lines = [f"{path}: only in one of them" for path in sorted(a.keys() ^ b.keys())]
    worst = 0.0
    for path in sorted(a.keys() & b.keys()):
        difference = _difference(a[path], b[path])
        worst = max(worst, difference)
        if difference > largest:
            lines.append(f"{path}: differs by {difference:.3g}, relative")
    return worst, lines


def _datasets(path: Path) -> dict[str, np.ndarray]:
    """Return the datasets of a file by path. Raises FileError."""
    found: dict[str, np.ndarray] = {}

    def keep(name: str, item: h5py.Group | h5py.Dataset) -> None:
        last = name.rpartition("/")[2]
        if isinstance(item, h5py.Dataset) and last not in NOT_COMPARED:
            found[name] = np.asarray(item[()])

    try:
        with h5py.File(path, "r", locking=False) as file:
            file.visititems(keep)
    except OSError as error:
        raise FileError(path, "an output of `spreadflow correlate`", error, "Write it.") from None
    return found


def _difference(first: np.ndarray, second: np.ndarray) -> float:
    """Return the largest relative difference; infinity where they can't be compared."""
    if first.shape != second.shape or first.dtype.kind not in "iufb":
        are_equal = first.shape == second.shape and bool(np.all(first == second))
        return 0.0 if are_equal else np.inf
    is_number = np.isfinite(first)
    both = first[~is_number], second[~is_number]
    if np.any(is_number != np.isfinite(second)) or not np.array_equal(*both, equal_nan=True):
        return np.inf
    a, b = (values[is_number].astype(np.float64) for values in (first, second))
    size = np.maximum(np.maximum(np.abs(a), np.abs(b)), TINY)
    return float(np.max(np.abs(a - b) / size, initial=0.0))
