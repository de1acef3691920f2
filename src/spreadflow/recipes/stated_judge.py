"""Whether lattices that another program states, without their images, can be adopted."""

from collections.abc import Sequence
from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.analysis.still import indexing
from spreadflow.config import IndexSection
from spreadflow.errors import AdoptOutcome
from spreadflow.io.lattices.indexed import IndexedLattice
from spreadflow.io.lattices.stated import StatedLattice
from spreadflow.physics import geometry, symmetry, unit_cell
from spreadflow.recipes.shot import is_near_target, is_new


class Judged(NamedTuple):
    """What becomes of a lattice."""

    outcome: AdoptOutcome
    line: int
    """number of its line in the file"""
    number: int
    """in its shot, as stated"""
    why: str = ""
    n_reflections: int = 0
    n_agree: int = 0
    k: int = -1
    """in the product"""


def judge(stated: Sequence[StatedLattice], section: IndexSection) -> list[Judged]:
    """Return what becomes of the lattices of a shot, as far as its pulse and its peaks do not
    decide it.
    """
    judged = [_judge(number, one, section) for number, one in enumerate(stated)]
    return _without_duplicates(judged, stated, section)


def _judge(number: int, stated: StatedLattice, section: IndexSection) -> Judged:
    """Return what becomes of a lattice as far as neither others nor the pulse decide it."""
    lattice = stated.lattice
    judged = Judged(AdoptOutcome.ADOPTED, stated.line, number)
    if not np.isfinite(lattice.A).all() or not np.linalg.det(lattice.A) > 0:
        why = "its axes are no right-handed basis"
        return judged._replace(outcome=AdoptOutcome.UNREADABLE, why=why)
    if not _has_symmetry(lattice.hall, section.space_group):
        why = f"Hall symbol '{lattice.hall}'"
        return judged._replace(outcome=AdoptOutcome.OTHER_GROUP, why=why)
    cell = unit_cell.cell_of(lattice.A)
    if not is_near_target(cell, section):
        why = " ".join(f"{x:.2f}" for x in unit_cell.degrees(cell))
        return judged._replace(outcome=AdoptOutcome.OTHER_CELL, why=why)
    if not np.isfinite(lattice.wavelength):
        why = "its pulse has no energy"
        return judged._replace(outcome=AdoptOutcome.LOST_SHOT, why=why)
    agree = _agreeing(lattice)
    judged = judged._replace(n_reflections=len(agree), n_agree=int(agree.sum()))
    why = f"{judged.n_agree} of {judged.n_reflections} reflections agree"
    if judged.n_reflections < section.min_indexed:
        return judged._replace(outcome=AdoptOutcome.NOT_PAIRED, why=why)
    if 2 * judged.n_agree < judged.n_reflections:
        return judged._replace(outcome=AdoptOutcome.OTHER_INDICES, why=why)
    return judged


def _has_symmetry(hall: str, space_group: str) -> bool:
    """Whether the group of a Hall symbol has the centring of ours and, where it has any rotations,
    the Laue class.
    """
    operations = gemmi.symops_from_hall(hall)
    ours = symmetry.group(space_group).operations()
    if not np.array_equal(symmetry.centring(operations), symmetry.centring(ours)):
        return False
    is_centring_alone = len(operations.sym_ops) == 1
    rotations = symmetry.laue_rotations(operations)
    return is_centring_alone or np.array_equal(rotations, symmetry.point_group(space_group))


def _agreeing(lattice: IndexedLattice) -> np.ndarray:
    """Return which reflections are predicted where A puts their Miller index, (n,) bool."""
    rows = lattice.reflections
    fast, slow = (rows.fast_obs, rows.slow_obs) if rows.fast is None else (rows.fast, rows.slow)
    is_there = rows.hkl.any(axis=1)
    if fast is None or slow is None:
        return np.zeros(is_there.sum(), bool)
    s1 = geometry.direction(lattice.detector, rows.panel[is_there], fast[is_there], slow[is_there])
    q = (s1 - geometry.S0) / lattice.wavelength
    return indexing.agreeing(lattice.A, rows.hkl[is_there], q)


def _without_duplicates(
    judged: list[Judged], stated: Sequence[StatedLattice], section: IndexSection
) -> list[Judged]:
    """Return the lattices; each that an earlier one of the shot is, too, becomes DUPLICATE."""
    others: list[np.ndarray] = []
    out = []
    for one in judged:
        A = stated[one.number].lattice.A
        if one.outcome == AdoptOutcome.ADOPTED:
            if is_new(A, others, section):
                others.append(A)
            else:
                one = one._replace(outcome=AdoptOutcome.DUPLICATE)
        out.append(one)
    return out
