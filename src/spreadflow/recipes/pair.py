"""A lattice that another program indexed, with its reflections: whether it can be adopted."""

from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.analysis.still import indexing
from spreadflow.config import IndexSection
from spreadflow.errors import AdoptOutcome
from spreadflow.io.lattices.indexed import IndexedLattice
from spreadflow.io.lattices.shot_finder import Rule
from spreadflow.models import Detector
from spreadflow.physics import geometry
from spreadflow.recipes.target_axes import as_indices, on_target


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
    rule: Rule = Rule.PATH
    """by which the image was found among those of the run"""
    axes: str = ""
    """Miller indices of the run in those of the experiment, where it is on other axes"""


def judge(line: Line, lattice: IndexedLattice, detector: Detector, section: IndexSection) -> Line:
    """Return the line with its outcome, as far as neither other lines nor the image decide it.

    detector: that of the run.
    """
    distance = geometry.corner_distance_px(lattice.detector, detector)
    line = line._replace(corner_distance_px=distance)
    if line.shot < 0:
        why = f"{lattice.image}, frame {lattice.frame}"
        return line._replace(outcome=AdoptOutcome.NO_SHOT, why=why)
    line = _paired_with_target(line, lattice, section)
    if line.outcome == AdoptOutcome.ADOPTED:
        line = _paired(line, lattice, section.min_indexed)
    return line if line.outcome == AdoptOutcome.ADOPTED else line._replace(A=None)


def _paired_with_target(line: Line, lattice: IndexedLattice, section: IndexSection) -> Line:
    """Return the line with A on the axes of the configured cell, or with the outcome that says why
    it can't be brought there.
    """
    lattice_on = on_target(lattice.A, gemmi.symops_from_hall(lattice.hall), section)
    if lattice_on.outcome == AdoptOutcome.OTHER_GROUP:
        why = f"Hall symbol '{lattice.hall}' on no axes of {section.space_group}"
        return line._replace(outcome=AdoptOutcome.OTHER_GROUP, why=why)
    return line._replace(
        outcome=lattice_on.outcome,
        why=lattice_on.why,
        A=lattice_on.A,
        axes=as_indices(lattice_on.axes),
    )


def _paired(line: Line, lattice: IndexedLattice, min_indexed: int) -> Line:
    """Return the line if enough reflections of the lattice lie where its A puts their Miller
    indices, or with the outcome that says why not.
    """
    rows = lattice.reflections
    fast, slow = rows.positions()
    is_indexed = rows.hkl.any(axis=1) & np.isfinite(fast) & np.isfinite(slow)
    is_indexed &= rows.panel < lattice.detector.n_panels
    s1 = geometry.direction(
        lattice.detector, rows.panel[is_indexed], fast[is_indexed], slow[is_indexed]
    )
    q = (s1 - geometry.S0) / lattice.wavelength
    agree = indexing.agreeing(lattice.A, rows.hkl[is_indexed], q)
    line = line._replace(n_reflections=len(agree), n_agree=int(agree.sum()))
    why = f"{line.n_agree} of {line.n_reflections} reflections agree"
    if line.n_reflections < min_indexed:
        return line._replace(outcome=AdoptOutcome.NOT_PAIRED, why=why)
    if 2 * line.n_agree < line.n_reflections:
        return line._replace(outcome=AdoptOutcome.OTHER_INDICES, why=why)
    return line


def unmistakable(lines: list[Line]) -> list[Line]:
    """Return the lines; those whose image was found by an ambiguous name become NO_SHOT.

    A name, or its stem, is ambiguous if experiments name several files of it: it is unknown whose
    image it is.
    """
    files: dict[tuple[Rule, str], set[Path]] = {}
    for line in lines:
        if line.image is not None:
            for rule in (Rule.NAME, Rule.STEM):
                files.setdefault((rule, rule.key(line.image)), set()).add(line.image.resolve())
    out = []
    for line in lines:
        if line.image is not None and line.rule != Rule.PATH:
            key = line.rule.key(line.image)
            if len(files[line.rule, key]) > 1:
                why = f"{line.image} is none of the run's, and experiments name several files {key}"
                line = line._replace(outcome=AdoptOutcome.NO_SHOT, why=why, shot=-1, A=None)
        out.append(line)
    return out
