"""Which shot of a run the image of a lattice is."""

from collections import Counter
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.io.images import ManifestFile


class Rule(Enum):
    """How the file of an image is looked up among those of a run. The first that applies does."""

    PATH = "path"
    """it is the file"""
    NAME = "name"
    """it is no longer there, and one file of the run has its name"""
    STEM = "stem"
    """one file of the run has its name but for the ending: it is the same image in another format
    """

    def key(self, image: Path) -> str:
        """Return what the file and that of the run have in common."""
        return {"path": str(image), "name": image.name, "stem": image.stem}[self.value]


class Place(NamedTuple):
    """Where an image is in a run."""

    shot: int
    """number in the run; -1 = it is none of the run's"""
    rule: Rule
    """by which its file was found, or was looked up last"""


class ShotFinder:
    """Finds the shots of a run by file and frame."""

    def __init__(self, folder: Path, files: Sequence[ManifestFile]):
        """Number the shots of a run. folder: that of its manifest; files: those that it names."""
        paths = [(folder / file.path).resolve() for file in files]
        self._by_path = {path: number for number, path in enumerate(paths)}
        self._by_key = {rule: _unique(paths, rule) for rule in (Rule.NAME, Rule.STEM)}
        self._first_shots = np.cumsum([0, *(file.n_frames for file in files)])

    def find(self, image: Path, frame: int) -> Place:
        """Return where an image is.

        A name or a stem that several files of the run have is none. A file that is there is not
        looked up by its name: one of the same name elsewhere is another.
        """
        file, rule = self._file(image)
        if file < 0:
            return Place(-1, rule)
        first, end = self._first_shots[file : file + 2]
        has_frame = 0 <= frame < end - first
        return Place(int(first + frame) if has_frame else -1, rule)

    def _file(self, image: Path) -> tuple[int, Rule]:
        """Return the number of a file of the run, -1 for none, and the rule."""
        path = image.resolve()
        if path in self._by_path:
            return self._by_path[path], Rule.PATH
        by_name = self._by_key[Rule.NAME].get(image.name)
        if by_name is not None:
            return (-1, Rule.PATH) if image.exists() else (by_name, Rule.NAME)
        return self._by_key[Rule.STEM].get(image.stem, -1), Rule.STEM


def _unique(paths: Sequence[Path], rule: Rule) -> dict[str, int]:
    """Return the numbers of files by what a rule looks at, of those that no other shares."""
    keys = [rule.key(path) for path in paths]
    counts = Counter(keys)
    return {key: number for number, key in enumerate(keys) if counts[key] == 1}
