"""Spec files: which lattices another program indexed, as diffBragg's `exp_ref_spec_file` has them.

One lattice a line, in columns: `.expt .refl [spectrum.lam] [number of the experiment]`.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images import ManifestFile


class SpecLine(NamedTuple):
    """One line: an experiment list and its reflection table."""

    line: int
    """number in the file, from 1"""
    expt: Path
    refl: Path
    experiment: int | None
    """number in the .expt, from 0"""
    spectrum: Path | None
    """the .lam file of its pulse, where the line names one"""


def read(path: Path | str) -> list[SpecLine]:
    """Return the lines of a spec file but the empty ones; relative names start at its folder.
    Raises FileError.
    """
    path = Path(path)
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise FileError(path, "a spec file", error, "Check the path.") from None

    words = [(number, line.split()) for number, line in enumerate(lines, 1)]
    parsed = [_parse(path, number, columns) for number, columns in words if columns]
    if not parsed:
        raise FileError(path, "a line for each lattice", "none", "Write `.expt .refl` on each.")
    return parsed


def _parse(path: Path, line: int, words: list[str]) -> SpecLine:
    """Return a line from its words. Raises FileError where they are not the columns."""
    optional = words[2:]
    numbers = [int(word) for word in optional if word.isdecimal()]
    spectra = [word for word in optional if word.endswith(".lam")]

    in_order = [*spectra[:1], *map(str, numbers)]
    if len(words) < 2 or len(numbers) > 1 or optional != in_order:
        columns = "columns `.expt .refl [spectrum.lam] [number of the experiment]`"
        raise FileError(f"{path}, line {line}", columns, " ".join(words), "Correct the line.")

    return SpecLine(
        line=line,
        expt=path.parent / words[0],
        refl=path.parent / words[1],
        experiment=numbers[0] if numbers else None,
        spectrum=path.parent / spectra[0] if spectra else None,
    )


class ShotFinder:
    """Finds the shots of a run by file and frame."""

    def __init__(self, folder: Path, files: Sequence[ManifestFile]):
        """Number the shots of a run. folder: that of its manifest; files: those that it names."""
        paths = [(folder / file.path).resolve() for file in files]
        counts = Counter(path.name for path in paths)

        self._by_path: dict[Path, int] = {}
        self._by_name: dict[str, int] = {}
        for number, path in enumerate(paths):
            self._by_path[path] = number
            if counts[path.name] == 1:
                self._by_name[path.name] = number

        n_frames = [file.n_frames for file in files]
        self._first_shots = np.cumsum([0, *n_frames])

    def number(self, image: Path, frame: int) -> tuple[int, bool]:
        """Return the number of a shot in the run, or −1, and whether its file was looked up by the
        name alone.

        A file that is no longer where the experiment says is looked up by its name, unless the run
        has several of that name.
        """
        path = image.resolve()
        is_there = path in self._by_path or image.exists()
        file = self._by_path.get(path, -1) if is_there else self._by_name.get(image.name, -1)
        if file < 0:
            return -1, not is_there

        first, end = self._first_shots[file : file + 2]
        has_frame = 0 <= frame < end - first
        shot = int(first + frame) if has_frame else -1
        return shot, not is_there
