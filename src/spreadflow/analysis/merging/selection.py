"""Which reflections of accepted lattices are merged, what is known of each by itself, and how the
others end.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.merging import selection_loops
from spreadflow.analysis.merging.merging import N_SHELLS, Add, Observations, Unique, add_in_order
from spreadflow.products.index import Reflections

N_PARTIALITY_STEPS = 100
"""Steps of the histogram of partialities."""

BEST_FRACTION = 0.03
"""Fraction of a shell's reflections that the best partiality leaves above itself."""


class Fate(IntEnum):
    """How a reflection of an accepted lattice ends; each has exactly one."""

    USED = 0
    FAILED = 1
    """flagged, or without a positive σ or expectation"""
    RESOLUTION = 2
    """beyond the resolution limit in the mean cell"""
    ABSENT = 3
    """systematically absent"""
    PARTIALITY = 4
    """recorded too little"""
    FEW = 5
    """in a lattice with too few others"""
    MULTIPLICITY = 6
    """of a unique reflection measured too few times"""


class Lattices(NamedTuple):
    """Lattices whose reflections are to be merged; (lattice,)."""

    group: np.ndarray
    """as in `Observations`"""
    half: np.ndarray
    """as in `Observations`"""
    pulse: np.ndarray
    """photons of the pulse over their mean"""


def best_partiality(
    partiality: np.ndarray,
    shell: np.ndarray,
    lattice: np.ndarray,
    group: np.ndarray,
    add: Add = add_in_order,
) -> np.ndarray:
    """Return the 97 % quantile of partialities in each resolution shell, what a node right on the
    sphere records: (shell,).

    A pulse is broad for nodes at high angle, and even the best of them then meets only a part of
    it. partiality, shell, lattice: (reflection,), shell int8, −1 = does not count; group:
    (lattice,). From a histogram of 1 % steps. Collective.
    """
    n_steps = N_PARTIALITY_STEPS
    own_groups, number = np.unique(group, return_inverse=True)
    shape = (len(own_groups), N_SHELLS, n_steps)
    counts = np.zeros(shape, dtype=np.int64)
    selection_loops.count_partialities(partiality, shell, lattice, number, counts)
    histograms = zip(own_groups.tolist(), counts, strict=True)
    total = add(histograms, shape[1:])

    n_in_shell = total.sum(axis=1, keepdims=True)
    n_above = n_in_shell - total.cumsum(axis=1)
    is_below = n_above > BEST_FRACTION * n_in_shell
    return is_below.sum(axis=1) / n_steps + 1.0 / n_steps


class _Judged(NamedTuple):
    """What is known of each reflection by itself; (reflection,)."""

    unique: np.ndarray
    """row of `Unique`"""
    s2: np.ndarray
    """as in `Observations`"""
    factor: np.ndarray
    """as in `Observations`"""
    fate: np.ndarray
    """`Fate` whatever the others are; USED where there is none"""


def select(
    reflections: Reflections,
    lattices: Lattices,
    unique: Unique,
    *,
    partiality_min: float,
    min_reflections: int,
    add: Add = add_in_order,
) -> tuple[Observations, np.ndarray, np.ndarray]:
    """Return the observations to merge, how many of each lattice (lattice,), and the `Fate` of
    every reflection.

    reflections: `lattice`, row of lattices; hkl, partiality, lorentz, polarization, capture,
    slopes, intensity, sigma_background, flags. Its columns are let go of on the way, for want of
    memory. Lattices without observations are left out of the result, whose lattice numbers count
    the others. Collective.
    """
    group = lattices.group
    judged = _judge(reflections, lattices.pulse, unique)
    fate = judged.fate
    columns = reflections.as_dict()
    for name in ("hkl", "lorentz", "polarization", "capture", "flags"):
        del columns[name]

    # partialities are judged by the best at their resolution
    lattice = reflections.lattice
    shell = unique.shell.astype(np.int8)
    of_shell = np.where(fate == Fate.USED, shell[judged.unique], np.int8(-1))
    best = best_partiality(reflections.partiality, of_shell, lattice, group, add)
    n_good = np.zeros(len(group), np.int64)
    selection_loops.judge_partialities(
        reflections.partiality, of_shell, lattice, partiality_min * best, fate, n_good
    )

    # a lattice with too few observations is left out as a whole
    is_used = n_good >= max(min_reflections, 1)
    if not is_used.all():
        fate[(fate == Fate.USED) & ~is_used[lattice]] = Fate.FEW

    rows = used_rows(fate, lattice)
    number = (np.cumsum(is_used) - 1).astype(np.int32)
    row = judged.unique[rows]
    partiality = columns.pop("partiality")[rows] / best.astype(np.float32)[shell[row]]
    observations = Observations(
        lattice=number[columns.pop("lattice")[rows]],
        group=group[is_used],
        half=lattices.half[is_used],
        unique=row,
        s2=judged.s2[rows],
        intensity=columns.pop("intensity")[rows].astype(np.float32, copy=False),
        variance=columns.pop("sigma_background")[rows].astype(np.float32, copy=False) ** 2,
        factor=judged.factor[rows],
        partiality=np.minimum(partiality, 1.0, out=partiality),
        slopes=columns.pop("slopes").take(rows, axis=0),
    )
    return observations, np.where(is_used, n_good, 0), fate


def used_rows(fate: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    """Return the row of the reflection that each observation comes from, (observation,), from the
    fate and the lattice of each reflection.
    """
    rows = np.flatnonzero(fate == Fate.USED)
    if (np.diff(lattice) < 0).any():
        rows = rows[np.argsort(lattice[rows], kind="stable")]
    return rows


def _judge(reflections: Reflections, pulse: np.ndarray, unique: Unique) -> _Judged:
    """Return what is known of each reflection by itself. pulse: (lattice,)."""
    n = len(reflections)
    judged = _Judged(
        unique=np.empty(n, np.int32),
        s2=np.empty(n, np.float32),
        factor=np.empty(n, np.float32),
        fate=np.empty(n, np.uint8),
    )
    unique_rows = selection_loops.UniqueRows(
        grid=unique.grid,
        limits=unique.limits,
        metric=np.array(unique.cell.reciprocal_metric_tensor().as_mat33().tolist()),
        largest=1.0 / unique.d_min**2,
    )
    described = Reflections.described()
    columns = reflections.as_dict()
    read = selection_loops.ReflectionColumns(
        **{
            name: np.ascontiguousarray(columns[name], described[name].dtype)
            for name in selection_loops.ReflectionColumns._fields
        }
    )
    selection_loops.fill_judged(read, pulse, unique_rows, *judged)
    return judged
