"""An experiment and its reflections that another program indexed: whether the lattice can be
adopted.
"""

from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.analysis.still import indexing
from spreadflow.config import IndexSection
from spreadflow.errors import AdoptOutcome
from spreadflow.io.lattices.dials import Experiment
from spreadflow.io.lattices.reflections import Table
from spreadflow.models import Detector
from spreadflow.physics import geometry, symmetry, unit_cell
from spreadflow.recipes.shot import is_near_target

COLUMNS = ("miller_index", "panel", "xyzobs.px.value")
"""Columns of a reflection table that are read."""


class Line(NamedTuple):
    """What a line of the spec file comes to."""

    outcome: AdoptOutcome
    why: str = ""
    experiment: int = -1
    """number of the experiment in its .expt"""
    shot: int = -1
    """number in the run"""
    n_reflections: int = 0
    n_agree: int = 0
    A: np.ndarray | None = None
    """(3, 3) Å⁻¹, where the lattice is adopted"""
    corner_distance_px: float = 0.0
    """how far the farthest corner of a panel is from that of the run's detector"""
    image: Path | None = None
    """as the experiment has it"""
    is_by_name: bool = False
    """the image was found by its name alone"""


def judge(
    line: Line,
    experiment: Experiment,
    reflections: Table,
    detector: Detector,
    section: IndexSection,
) -> Line:
    """Return the line with its outcome, as far as neither other lines nor the image decide it.

    detector: that of the run.
    """
    distance = corner_distance_px(experiment.detector, detector)
    line = line._replace(corner_distance_px=distance)
    if line.shot < 0:
        why = f"{experiment.image}, frame {experiment.frame}"
        return line._replace(outcome=AdoptOutcome.NO_SHOT, why=why)
    if not _has_symmetry(experiment.hall, section.space_group):
        why = f"Hall symbol '{experiment.hall}'"
        return line._replace(outcome=AdoptOutcome.OTHER_GROUP, why=why)
    cell = unit_cell.cell_of(experiment.A)
    if not is_near_target(cell, section):
        why = " ".join(f"{x:.2f}" for x in unit_cell.degrees(cell))
        return line._replace(outcome=AdoptOutcome.OTHER_CELL, why=why)
    return _paired(line, experiment, reflections, section.min_indexed)


def _paired(line: Line, experiment: Experiment, table: Table, min_indexed: int) -> Line:
    """Return the line with A if enough of the experiment's reflections lie where A puts their
    Miller indices, or with the outcome that says why not.
    """
    hkl, panel, position = (table.columns[name] for name in COLUMNS)
    is_own = table.is_of(experiment.identifier, line.experiment)
    is_indexed = hkl.any(axis=1) & np.isfinite(position).all(axis=1)
    is_on_panel = panel < experiment.detector.n_panels
    rows = is_own & is_indexed & is_on_panel
    fast = position[rows, 0]
    slow = position[rows, 1]
    s1 = geometry.direction(experiment.detector, panel[rows], fast, slow)
    q = (s1 - geometry.S0) / experiment.wavelength
    agree = indexing.agreeing(experiment.A, hkl[rows], q)
    line = line._replace(n_reflections=len(agree), n_agree=int(agree.sum()))
    why = f"{line.n_agree} of {line.n_reflections} reflections agree"
    if line.n_reflections < min_indexed:
        return line._replace(outcome=AdoptOutcome.NOT_PAIRED, why=why)
    if 2 * line.n_agree < line.n_reflections:
        return line._replace(outcome=AdoptOutcome.OTHER_INDICES, why=why)
    return line._replace(A=experiment.A)


def unmistakable(lines: list[Line]) -> list[Line]:
    """Return the lines; those whose image was found by an ambiguous name become NO_SHOT.

    A name is ambiguous if experiments name it in several folders: it is unknown whose image it is.
    """
    folders: dict[str, set[Path]] = {}
    for line in lines:
        if line.image is not None:
            folders.setdefault(line.image.name, set()).add(line.image.resolve().parent)
    out = []
    for line in lines:
        if line.is_by_name and line.image is not None and len(folders[line.image.name]) > 1:
            name = line.image.name
            why = f"{line.image} is gone, and experiments name {name} in several folders"
            line = line._replace(outcome=AdoptOutcome.NO_SHOT, why=why, shot=-1, A=None)
        out.append(line)
    return out


def corner_distance_px(one: Detector, other: Detector) -> float:
    """Return the largest distance between the same corner of two detectors' panels, px; infinite
    where the panels differ in number or shape.
    """
    if one.n_panels != other.n_panels or tuple(one.shape) != tuple(other.shape):
        return np.inf
    n_slow, n_fast = one.shape
    slow, fast = np.meshgrid([0.0, n_slow], [0.0, n_fast])
    panels = np.repeat(np.arange(one.n_panels), 4)
    fast = np.tile(fast.ravel(), one.n_panels)
    slow = np.tile(slow.ravel(), one.n_panels)
    corners = [geometry.position(detector, panels, fast, slow) for detector in (one, other)]
    distances = np.linalg.norm(corners[0] - corners[1], axis=1)
    return float(distances.max() / float(other.pixel_mm))


def _has_symmetry(hall: str, space_group: str) -> bool:
    """Whether the group of a Hall symbol has the symmetry of ours; a still knows nothing of screw
    axes.
    """
    operations = gemmi.symops_from_hall(hall)
    ours = symmetry.group(space_group).operations()
    return ours.has_same_rotations(operations) and ours.has_same_centring(operations)
