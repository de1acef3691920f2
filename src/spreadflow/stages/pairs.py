"""One line of a spec file: its experiment and reflections read, found among the shots of a run, and judged."""

from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.analysis.still import indexing
from spreadflow.config import IndexSection
from spreadflow.errors import AdoptOutcome, FileError
from spreadflow.io import dials, reflections, spec
from spreadflow.io.images import Source
from spreadflow.models import Detector
from spreadflow.physics import geometry, symmetry, unit_cell
from spreadflow.recipes.shot import is_near_target

COLUMNS = ("miller_index", "panel", "xyzobs.px.value")


class Line(NamedTuple):
    """What a line of the spec file tells."""

    outcome: AdoptOutcome
    why: str = ""
    experiment: int = -1
    shot: int = -1
    """number in the run"""
    n_reflections: int = 0
    n_agree: int = 0
    A: np.ndarray | None = None
    """(3, 3) Å⁻¹, where the lattice is adopted"""
    apart_px: float = 0.0
    """how far the farthest corner of a panel is from that of the run's detector"""
    image: Path | None = None
    """as the experiment has it"""
    is_by_name: bool = False
    """the image was found by its name alone"""


class Reader:
    """Reads lines one after the other; a file that many of them name is opened once where they follow each other."""

    def __init__(self, section: IndexSection, source: Source):
        self._section, self._detector, self._shots = section, source.detector, _Shots(source)
        self._experiments = lru_cache(maxsize=1)(dials.ExperimentList)
        self._table = lru_cache(maxsize=1)(lambda path: reflections.read(path, COLUMNS))

    def read(self, pair: spec.Pair) -> Line:
        """One line read and judged, but for other lines and for the image."""
        try:
            listed = self._experiments(pair.expt)
            n = pair.experiment or 0
            if n >= len(listed) or (pair.experiment is None and len(listed) > 1):
                return Line(
                    AdoptOutcome.NO_EXPERIMENT, f"{pair.expt} has {len(listed)} experiments"
                )
            experiment = listed[n]
            table = self._table(pair.refl)
        except FileError as error:
            return Line(AdoptOutcome.UNREADABLE, str(error))
        shot, is_by_name = self._shots.number(experiment.image, experiment.frame)
        line = Line(
            AdoptOutcome.ADOPTED,
            experiment=n,
            shot=shot,
            image=experiment.image,
            is_by_name=is_by_name,
        )
        line = line._replace(apart_px=_apart_px(experiment.detector, self._detector))
        cell = unit_cell.cell_of(experiment.A)
        if line.shot < 0:
            why = f"{experiment.image}, frame {experiment.frame}"
            return line._replace(outcome=AdoptOutcome.NO_SHOT, why=why)
        if not _is_of_group(experiment.hall, self._section.space_group):
            return line._replace(
                outcome=AdoptOutcome.OTHER_GROUP, why=f"Hall symbol '{experiment.hall}'"
            )
        if not is_near_target(cell, self._section):
            why = " ".join(f"{x:.2f}" for x in unit_cell.degrees(cell))
            return line._replace(outcome=AdoptOutcome.OTHER_CELL, why=why)
        return _paired(line, experiment, table, self._section.min_indexed)


class _Shots:
    """Finds the shots of a run by file and frame."""

    def __init__(self, source: Source):
        paths = [(source.path.parent / file.path).resolve() for file in source.manifest.files]
        self._by_path = {path: n for n, path in enumerate(paths)}
        names = Counter(path.name for path in paths)
        self._by_name = {path.name: n for n, path in enumerate(paths) if names[path.name] == 1}
        self._first = np.cumsum([0, *(file.n_frames for file in source.manifest.files)])

    def number(self, image: Path, frame: int) -> tuple[int, bool]:
        """Number in the run, or -1, and whether the file's name alone tells.

        A file that is no longer where the experiment has it is known by its name, where no other has it.
        """
        known = image.resolve() in self._by_path or image.exists()
        file = (
            self._by_path.get(image.resolve(), -1) if known else self._by_name.get(image.name, -1)
        )
        is_there = file >= 0 and 0 <= frame < self._first[file + 1] - self._first[file]
        return int(self._first[file] + frame) if is_there else -1, not known


def unmistakable(lines: list[Line]) -> list[Line]:
    """Lines whose image was found by a name that experiments have in several folders are NO_SHOT: whose is it?"""
    folders: dict[str, set[Path]] = {}
    for line in lines:
        if line.image is not None:
            folders.setdefault(line.image.name, set()).add(line.image.resolve().parent)
    out = []
    for line in lines:
        if line.is_by_name and line.image is not None and len(folders[line.image.name]) > 1:
            why = f"{line.image} is gone, and experiments name {line.image.name} in several folders"
            line = line._replace(outcome=AdoptOutcome.NO_SHOT, why=why, shot=-1, A=None)
        out.append(line)
    return out


def _paired(
    line: Line, experiment: dials.Experiment, table: reflections.Table, min_indexed: int
) -> Line:
    """The line with A, where the experiment's reflections lie where A puts their Miller indices."""
    hkl, panel, position = (table.columns[name] for name in COLUMNS)
    mine = (
        table.of(experiment.identifier, line.experiment)
        & hkl.any(axis=1)
        & np.isfinite(position).all(axis=1)
    )
    mine &= panel < experiment.detector.n_panels
    s1 = geometry.direction(experiment.detector, panel[mine], position[mine, 0], position[mine, 1])
    agree = indexing.agreeing(experiment.A, hkl[mine], (s1 - geometry.S0) / experiment.wavelength)
    line = line._replace(n_reflections=len(agree), n_agree=int(agree.sum()))
    why = f"{line.n_agree} of {line.n_reflections} reflections agree"
    if line.n_reflections < min_indexed:
        return line._replace(outcome=AdoptOutcome.NOT_PAIRED, why=why)
    if 2 * line.n_agree < line.n_reflections:
        return line._replace(outcome=AdoptOutcome.OTHER_INDICES, why=why)
    return line._replace(A=experiment.A)


def _apart_px(a: Detector, b: Detector) -> float:
    """How far the farthest corners of two detectors' panels are apart, px; infinite where these differ in shape."""
    if a.n_panels != b.n_panels or tuple(a.shape) != tuple(b.shape):
        return np.inf
    slow, fast = (side.ravel() for side in np.meshgrid([0.0, a.shape[0]], [0.0, a.shape[1]]))
    panels = np.repeat(np.arange(a.n_panels), 4)
    at = (
        geometry.position(d, panels, np.tile(fast, a.n_panels), np.tile(slow, a.n_panels))
        for d in (a, b)
    )
    return float(np.linalg.norm(np.subtract(*at), axis=1).max() / float(b.pixel_mm))


def _is_of_group(hall: str, name: str) -> bool:
    """Whether the lattice of the Hall symbol's group has the symmetry of ours; a still tells no screw axes."""
    theirs = gemmi.symops_from_hall(hall)
    ours = symmetry.group(name).operations()
    return ours.has_same_rotations(theirs) and ours.has_same_centring(theirs)
