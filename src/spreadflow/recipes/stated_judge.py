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
from spreadflow.physics import geometry
from spreadflow.recipes.shot import is_new
from spreadflow.recipes.target_axes import as_indices, on_target

NEARLY_WHOLE = 1e-6
"""Difference of an index from a whole number that is rounding alone."""


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
    axes: str = ""
    """Miller indices of the run in those of the file, where it is on other axes"""


def judge(
    stated: Sequence[StatedLattice], section: IndexSection
) -> tuple[list[Judged], list[StatedLattice]]:
    """Return what becomes of the lattices of a shot, as far as its pulse and its peaks do not
    decide it, and the lattices on the configured axes.
    """
    ends = [_judge(number, one, section) for number, one in enumerate(stated)]
    judged = [end for end, _ in ends]
    lattices = [lattice for _, lattice in ends]
    return _without_duplicates(judged, lattices, section), lattices


def _judge(
    number: int, stated: StatedLattice, section: IndexSection
) -> tuple[Judged, StatedLattice]:
    """Return what becomes of a lattice as far as neither others nor the pulse decide it, and the
    lattice on the configured axes where it can be brought there.
    """
    lattice = stated.lattice
    judged = Judged(AdoptOutcome.ADOPTED, stated.line, number)
    if not np.isfinite(lattice.A).all() or not np.linalg.det(lattice.A) > 0:
        why = "its axes are no right-handed basis"
        return judged._replace(outcome=AdoptOutcome.UNREADABLE, why=why), stated
    operations = gemmi.symops_from_hall(lattice.hall)
    is_class_known = len(operations.sym_ops) > 1  # streams are read without their rotations
    brought = on_target(lattice.A, operations, section, is_class_known=is_class_known)
    if brought.outcome != AdoptOutcome.ADOPTED:
        why = brought.why or f"Hall symbol '{lattice.hall}' on no axes of {section.space_group}"
        return judged._replace(outcome=brought.outcome, why=why), stated
    if brought.axes is not None:
        judged = judged._replace(axes=as_indices(brought.axes))
        stated = _on_axes(stated, brought.A, brought.axes)
        lattice = stated.lattice
    if not np.isfinite(lattice.wavelength):
        why = "its pulse has no energy"
        return judged._replace(outcome=AdoptOutcome.LOST_SHOT, why=why), stated
    agree = _agreeing(lattice)
    judged = judged._replace(n_reflections=len(agree), n_agree=int(agree.sum()))
    why = f"{judged.n_agree} of {judged.n_reflections} reflections agree"
    if judged.n_reflections < section.min_indexed:
        return judged._replace(outcome=AdoptOutcome.NOT_PAIRED, why=why), stated
    if 2 * judged.n_agree < judged.n_reflections:
        return judged._replace(outcome=AdoptOutcome.OTHER_INDICES, why=why), stated
    return judged, stated


def _on_axes(stated: StatedLattice, A: np.ndarray, axes: np.ndarray) -> StatedLattice:
    """Return a lattice on other axes (3, 3), without the columns of ours, which are of the stated
    ones. An index that is no whole one there is not indexed.
    """
    reflections = stated.lattice.reflections
    hkl = reflections.hkl @ axes
    whole = hkl.round().astype(reflections.hkl.dtype)
    is_whole = (np.abs(hkl - whole) < NEARLY_WHOLE).all(axis=1, keepdims=True)
    lattice = stated.lattice._replace(
        A=A, reflections=reflections._replace(hkl=np.where(is_whole, whole, 0))
    )
    return stated._replace(lattice=lattice, own={}, own_reflections={})


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
