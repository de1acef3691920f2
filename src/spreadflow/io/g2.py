"""Files of G2: results by update, in the layout that scripts for ParCorAna read, and their sums.

A file is `<name>.inprogress` until all shots are through. It is closed between updates: what was
published stays readable whatever happens to the ranks.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spreadflow import __version__
from spreadflow.analysis.correlation.curves import Curve
from spreadflow.analysis.correlation.sums import Sums
from spreadflow.errors import FileError
from spreadflow.io.colours import Pixels

SCHEMA = 1
"""Version of what this adds to the older layout: sums, counts, pixels."""

NOT_COMPARED = (
    "h5output",
    "testH5output",
    "testh5output",
    "numServers",
    "out",
    "test_out",
    "readers",
    "overwrite",
)
"""Parameters in which two calculations of the same may differ."""

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


def in_progress(path: Path) -> Path:
    """Return where a file lies as long as it is not finished."""
    return path.with_name(f"{path.name}.inprogress")


class G2File:
    """A file that results are written to. Raises FileError where there is one of this name, unless
    it may be replaced, or one in progress.
    """

    def __init__(self, path: Path, is_replacing: bool):
        self.path = path
        self._temporary = in_progress(path)
        if path.exists() and not is_replacing:
            raise FileError(path, "no file of this name", "one", "Use --overwrite or remove it.")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with h5py.File(self._temporary, "x", libver=("v110", "v110")) as file:
                file.attrs["schema"] = SCHEMA
                file.attrs["software"] = f"spreadflow {__version__}"
        except OSError as error:
            todo = "Another run writes it, or one that was killed left it: remove or rename it."
            expected = "no file of this name, in a folder that can be written"
            raise FileError(self._temporary, expected, error, todo) from None

    @contextmanager
    def open(self) -> Iterator[h5py.File]:
        """Open the file for writing, for a while."""
        with h5py.File(self._temporary, "r+") as file:
            yield file

    def finish(self) -> None:
        """Give the file its name."""
        os.replace(self._temporary, self.path)


def write_parameters(
    file: h5py.File, system: Mapping[str, Any], user: Mapping[str, Any], pixels: Pixels
) -> None:
    """Write what was configured, a dataset for each parameter, and which pixels are correlated."""
    for group, parameters in (("system_params", system), ("user_params", user)):
        for name, value in parameters.items():
            path = f"system/{group}/{name}"
            try:
                file[path] = value
            except (TypeError, ValueError):
                file[path] = json.dumps(value, default=str)
    file["system/pixels"] = pixels.places
    file["system/image_shape"] = pixels.shape
    file["system/colours"] = pixels.colours
    file["system/fine_colours"] = pixels.fine_colours
    file.require_group("user")


def write_update(
    group: h5py.Group, last_shot_id: int, sums: Sums, curves: Sequence[Curve], pixels: Pixels
) -> bool:
    """Write the results of an update; whether there were none of the same shot before. Arrays in
    the shape of the detector are means over partners, 0 elsewhere; `sums` are not divided.
    """
    name = f"G2_results_at_{last_shot_id:06d}"
    if name in group:
        return False
    update = group.create_group(name)
    update["delays"] = sums.delays
    update["delay_counts"] = sums.counts
    update["is_bad"] = sums.is_bad
    has_partners = sums.counts > 0
    for curve in curves:
        for suffix, values in (("", curve.g2), ("_sigma", curve.sigma)):
            column = np.zeros(len(sums.delays))
            column[has_partners] = values
            update[f"delay_curve{suffix}_color_{curve.colour}"] = column
    n = np.maximum(sums.counts, 1)
    for array, values in (("G2", sums.g2), ("IF", sums.future), ("IP", sums.past)):
        update[f"sums/{array}"] = values
        for i, delay in enumerate(sums.delays):
            image = np.zeros(pixels.shape, np.float32)
            image.ravel()[pixels.places] = values[i] / n[i]
            update[f"{array}/delay_{delay:06d}"] = image
    return True


def read_sums(path: Path, name: str | None = None) -> Sums:
    """Return the sums of an update of a file. name: of its group; None = the last. Raises FileError."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            update = file["user"][name or max(file["user"], key=_shot_of)]
            return Sums(
                delays=update["delays"][()],
                counts=update["delay_counts"][()],
                g2=update["sums/G2"][()],
                past=update["sums/IP"][()],
                future=update["sums/IF"][()],
                is_bad=update["is_bad"][()],
            )
    except (OSError, KeyError, ValueError) as error:
        expected = "an output of `spreadflow correlate` with an update"
        raise FileError(path, expected, error, "Correlate again.") from None


def _shot_of(name: str) -> int:
    """Return the shot id in the name of an update."""
    return int(name.rpartition("_")[2])


def differences(first: Path, second: Path, largest: float) -> tuple[float, list[str]]:
    """Return the largest relative difference between numbers of two files, and a line for each
    dataset that only one has, or that differs by more than `largest`. What is no number in one alone
    differs; what stands for how the results were formed is not compared. Raises FileError.
    """
    mine, theirs = (_datasets(path) for path in (first, second))
    lines = [f"{path}: only in one of them" for path in sorted(mine.keys() ^ theirs.keys())]
    worst = 0.0
    for path in sorted(mine.keys() & theirs.keys()):
        difference = _difference(mine[path], theirs[path])
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


def _difference(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest relative difference of two arrays; infinity where they can't be compared."""
    if mine.shape != theirs.shape or mine.dtype.kind not in "iufb":
        are_equal = mine.shape == theirs.shape and bool(np.all(mine == theirs))
        return 0.0 if are_equal else np.inf
    mine, theirs = mine.astype(np.float64), theirs.astype(np.float64)
    if np.any(np.isfinite(mine) != np.isfinite(theirs)):
        return np.inf
    both = np.isfinite(mine)
    size = np.maximum(np.maximum(np.abs(mine[both]), np.abs(theirs[both])), TINY)
    return float(np.max(np.abs(mine[both] - theirs[both]) / size, initial=0.0))
