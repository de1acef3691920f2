"""From the integrated reflections of many lattices to one intensity per unique reflection.

Friedel mates are separate unique reflections throughout. Observations are flat columns; every sum
over them is formed per fixed group of lattices and the groups are added in order, so that the
answer does not depend on who holds them.
"""

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.analysis.still.integration import rest_variance
from spreadflow.physics import symmetry

CHUNK = 2**22
"""Numbers (groups × unique reflections) that are added across ranks at a time."""

N_SHELLS = 20
"""Resolution shells of equal volume for Wilson's prior and the best partiality."""

Add = Callable[[Mapping[int, np.ndarray], int], np.ndarray]
"""Sum of equally shaped arrays over groups, in group order (`parallel.World.sum`)."""


class Unique:
    """The unique reflections a space group allows, in the CCP4 asymmetric unit, Friedel mates
    apart.

    hkl: (unique, 3) int32 asu indices, a mate under the index of I(+). friedel: (unique,) int8: +1
    for I(+), −1 for I(−), 0 centric. d: (unique,) Å in the given cell. Systematic absences are not
    among them.
    """

    def __init__(self, cell: np.ndarray, space_group: str, d_min: float):
        """Number the reflections. cell: (6,) a b c (Å) α β γ (degrees)."""
        self.d_min = d_min
        self.cell, self.space_group = gemmi.UnitCell(*cell), symmetry.group(space_group)
        hkl = np.asarray(
            gemmi.make_miller_array(self.cell, self.space_group, d_min), dtype=np.int32
        )
        centric = np.asarray(self.space_group.operations().centric_flag_array(hkl), dtype=bool)
        self.hkl = np.concatenate([hkl, hkl[~centric]])
        self.friedel = np.where(np.concatenate([centric, centric[~centric]]), 0, 1).astype(np.int8)
        self.friedel[len(hkl) :] = -1
        self.d = np.asarray(self.cell.calculate_d_array(self.hkl), dtype=np.float64)
        self.mate = np.full(len(self.hkl), -1)
        """(unique,) row of the Friedel mate, −1 for centric ones"""
        self.mate[: len(hkl)][~centric] = np.arange(len(hkl), len(self.hkl))
        self.mate[len(hkl) :] = np.flatnonzero(~centric)
        self._grid = self._fill_grid()
        self.shell = shells(self.d, d_min)
        """(unique,) one of N_SHELLS"""

    def __len__(self) -> int:
        return len(self.hkl)

    def _fill_grid(self) -> np.ndarray:
        """Return row of every Miller index in the resolution sphere, −1 where there is none."""
        ops = np.array([op.rot for op in self.space_group.operations().sym_ops]) // gemmi.Op.DEN
        sign = np.where(self.friedel < 0, -1, 1)[:, None]
        equivalents = [sign * (self.hkl @ r) for r in ops]
        self._limits = np.max([np.abs(e).max(axis=0, initial=0) for e in equivalents], axis=0)
        grid = np.full(2 * self._limits + 1, -1, dtype=np.int32)
        rows = np.arange(len(self))
        centric = self.friedel == 0
        for e in equivalents:
            grid[tuple((e + self._limits).T)] = rows
            grid[tuple((self._limits - e[centric]).T)] = rows[centric]
        return grid

    def rows(self, hkl: np.ndarray) -> np.ndarray:
        """Return (n,) rows of Miller indices (n, 3) as observed; −1 for those that are absent or
        beyond the resolution.
        """
        inside = (np.abs(hkl) <= self._limits).all(axis=1)
        return np.where(
            inside, self._grid[tuple((np.where(inside[:, None], hkl, 0) + self._limits).T)], -1
        )

    def values(self, hkl: np.ndarray, value: np.ndarray) -> np.ndarray:
        """Return (unique,) value of each reflection and of its mate, from values (n,) of indices
        (n, 3); NaN = none given.
        """
        row = self.rows(hkl)
        out = np.full(len(self), np.nan)
        out[row[row >= 0]] = np.asarray(value)[row >= 0]
        return np.where(np.isnan(out) & (self.mate >= 0), out[self.mate], out)


def shells(d: np.ndarray, d_min: float, n: int = N_SHELLS) -> np.ndarray:
    """Return number of the shell, of n with equal volume in reciprocal space from 1/d = 0 to
    1/d_min, of each d (Å).
    """
    return np.minimum((n * (d_min / np.asarray(d, dtype=np.float64)) ** 3).astype(np.int64), n - 1)


class Observations(NamedTuple):
    """Reflections to be merged, sorted by lattice, and which lattice and group they belong to."""

    lattice: np.ndarray
    """(observation,) number of the lattice, ascending"""
    group: np.ndarray
    """(lattice,) fixed group of lattices this one belongs to (what is added, in order)"""
    half: np.ndarray
    """(lattice,) half set, 0 or 1"""
    unique: np.ndarray
    """(observation,) row of `Unique`"""
    s2: np.ndarray
    """(observation,) 1/(4d²), Å⁻²"""
    intensity: np.ndarray
    """(observation,) photons"""
    variance: np.ndarray
    """(observation,) photons², of everything but the signal's own photons: those expected come on
    top
    """
    factor: np.ndarray
    """(observation,) polarization · capture · Lorentz · partiality: intensity = G exp(−2 B s²) ·
    factor · I
    """
    partiality: np.ndarray
    """(observation,) partiality relative to the best at its resolution (`best_partiality`), 0-1"""

    @property
    def n_lattices(self) -> int:
        return len(self.group)


class Fate(IntEnum):
    """How a reflection of an accepted lattice ends. Exactly one each."""

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


class Merged(NamedTuple):
    """One row per row of `Unique`."""

    intensity: np.ndarray
    """(unique,) weighted mean; NaN = not measured"""
    sigma: np.ndarray
    """(unique,) (Σ weights)^−½"""
    half: np.ndarray
    """(unique, 2) weighted means of the two half sets; NaN = not measured"""
    n: np.ndarray
    """(unique,) int64 observations"""


def add_in_order(parts: Mapping[int, np.ndarray], n_groups: int) -> np.ndarray:
    """Return the `Add` of a single process."""
    total = np.zeros_like(parts[min(parts)])
    for group in range(n_groups):
        if group in parts:
            total = total + parts[group]
    return total


class Sums:
    """Sums over all observations, on whichever rank they are, that do not depend on who holds which
    group.

    n_unique: rows of `Unique`; n_groups: groups of all ranks.
    """

    def __init__(self, obs: Observations, n_unique: int, n_groups: int, add: Add = add_in_order):
        self.n_unique, self.n_groups, self._add = n_unique, n_groups, add
        self._lattice, self._lattice_group, self._n_lattices = (
            obs.lattice,
            obs.group,
            obs.n_lattices,
        )
        slots, self._slot = np.unique(
            obs.unique.astype(np.int64) * n_groups + obs.group[obs.lattice], return_inverse=True
        )
        self._slot_unique, self._slot_group = slots // n_groups, slots % n_groups
        self._own, self._slot_own = np.unique(self._slot_group, return_inverse=True)

    def by_unique(self, *columns: np.ndarray) -> np.ndarray:
        """Return (column, unique) sums of columns (observation,) over all observations of a unique
        reflection. Collective.
        """
        local = np.stack(
            [np.bincount(self._slot, c, minlength=len(self._slot_unique)) for c in columns], axis=1
        )
        out = np.empty((self.n_unique, len(columns)))
        step = max(1, CHUNK // (self.n_groups * len(columns)))
        for first in range(0, self.n_unique, step):
            last = min(first + step, self.n_unique)
            here = slice(*np.searchsorted(self._slot_unique, [first, last]))
            rows = np.zeros((len(self._own), last - first, len(columns)))
            rows[self._slot_own[here], self._slot_unique[here] - first] = local[here]
            out[first:last] = self._add(
                dict(zip(self._own.tolist(), rows, strict=True)), self.n_groups
            )
        return out.T

    def over_observations(self, *columns: np.ndarray) -> np.ndarray:
        """Return (column,) sums of columns (observation,) over everything. Collective."""
        return self.over_lattices(*(self.by_lattice(c) for c in columns))

    def over_lattices(self, *columns: np.ndarray) -> np.ndarray:
        """Return (column,) sums of columns (lattice,) over all lattices. Collective."""
        table = np.stack(
            [np.bincount(self._lattice_group, c, minlength=self.n_groups) for c in columns], axis=1
        )
        return self._add(
            {g: table[g] for g in np.unique(self._lattice_group).tolist()}, self.n_groups
        )

    def by_lattice(self, column: np.ndarray) -> np.ndarray:
        """Return (lattice,) sums of a column (observation,) over the reflections of each lattice
        this rank holds.
        """
        return np.bincount(self._lattice, column, minlength=self._n_lattices)


def best_partiality(
    partiality: np.ndarray,
    shell: np.ndarray,
    group: np.ndarray,
    n_groups: int,
    add: Add = add_in_order,
) -> np.ndarray:
    """Return (shell,) the 97 % quantile of partialities in each resolution shell: what a node right
    on the sphere records.

    A pulse is broad for nodes at high angle, and even the best of them then meets only a part of
    it. partiality, shell, group: (reflection,). From a histogram of 1 % steps. Collective.
    """
    n_shells, n_steps = N_SHELLS, 100
    step = np.minimum((partiality * n_steps).astype(np.int64), n_steps - 1)
    own, row = np.unique(group, return_inverse=True)
    cells = (row * n_shells + shell) * n_steps + step
    counts = np.bincount(cells, minlength=len(own) * n_shells * n_steps).reshape(
        len(own), n_shells, n_steps
    )
    nothing = {0: np.zeros((n_shells, n_steps))}  # also of who holds no reflection
    total = add(
        nothing | {int(g): c.astype(np.float64) for g, c in zip(own, counts, strict=True)}, n_groups
    )
    above = total.sum(axis=1, keepdims=True) - total.cumsum(axis=1)
    return (above > 0.03 * total.sum(axis=1, keepdims=True)).sum(axis=1) / n_steps + 1.0 / n_steps


def select(
    table: Mapping[str, np.ndarray],
    group: np.ndarray,
    half: np.ndarray,
    unique: Unique,
    *,
    partiality_min: float,
    min_reflections: int,
    n_groups: int,
    add: Add = add_in_order,
) -> tuple[Observations, np.ndarray, np.ndarray]:
    """Return the observations to merge, how many of each lattice (lattice,), and the `Fate` of
    every reflection.

    table: columns (reflection,) of `models.Reflections` by name, `lattice` (row of group and half),
    and `failed`, bool; group, half: (lattice,) as in `Observations`, for all lattices. Lattices
    without observations are left out of the result, whose lattice numbers count the others.
    Collective.
    """
    at = table["lattice"].astype(np.int64)
    hkl = table["hkl"].astype(np.int32)
    row = unique.rows(hkl)
    d = np.asarray(unique.cell.calculate_d_array(hkl), dtype=np.float64)
    partiality = table["partiality"].astype(np.float64)
    factor = partiality * table["polarization"] * table["capture"] * table["lorentz"]
    valid = (
        np.isfinite(table["intensity"]) & np.isfinite(factor) & (table["sigma"] > 0) & (factor > 0)
    )
    fate = np.where(row < 0, Fate.ABSENT, Fate.USED)
    fate[d < unique.d_min] = Fate.RESOLUTION
    fate[table["failed"] | ~valid] = Fate.FAILED
    good = np.flatnonzero(fate == Fate.USED)
    shell = unique.shell[row[good]]
    relative = np.zeros(len(at))
    relative[good] = (
        partiality[good]
        / best_partiality(partiality[good], shell, group[at[good]], n_groups, add)[shell]
    )
    fate[good[relative[good] < partiality_min]] = Fate.PARTIALITY
    count = np.bincount(at[fate == Fate.USED], minlength=len(group))
    used = count >= max(min_reflections, 1)
    fate[(fate == Fate.USED) & ~used[at]] = Fate.FEW
    keep = np.flatnonzero(fate == Fate.USED)
    keep = keep[np.argsort(at[keep], kind="stable")]
    obs = Observations(
        lattice=(np.cumsum(used) - 1)[at[keep]],
        group=group[used],
        half=half[used],
        unique=row[keep],
        s2=0.25 / d[keep] ** 2,
        intensity=table["intensity"][keep].astype(np.float64),
        variance=rest_variance(
            table["intensity"][keep], table["sigma"][keep].astype(np.float64) ** 2
        ),
        factor=factor[keep],
        partiality=np.minimum(relative[keep], 1.0),
    )
    return obs, np.where(used, count, 0), fate


def half_sets(shot_id: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Return (lattice,) 0 or 1 from the lattice's identity alone (SplitMix64 finalizer; Steele, Lea
    & Flood 2014).
    """
    with np.errstate(over="ignore"):
        x = shot_id.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15) * (
            k.astype(np.uint64) + np.uint64(1)
        )
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x & np.uint64(1)).astype(np.int8)


def merge(
    obs: Observations,
    intensity: np.ndarray,
    sigma: np.ndarray,
    sums: Sums,
    min_multiplicity: int = 1,
) -> Merged:
    """Return inverse-variance weighted means, overall and of the half sets.

    intensity, sigma: (observation,) on the common scale. What is measured fewer than
    `min_multiplicity` times counts as not measured. Collective through `sums`.
    """
    weight = 1.0 / sigma**2
    first = np.where(obs.half[obs.lattice] == 0, weight, 0.0)
    second = weight - first
    columns = (first, second, first * intensity, second * intensity, np.ones(len(weight)))
    w0, w1, wi0, wi1, n = np.where(
        (total := sums.by_unique(*columns))[-1] >= min_multiplicity, total, 0.0
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        half = np.stack([wi0 / w0, wi1 / w1], axis=1)
        return Merged((wi0 + wi1) / (w0 + w1), (w0 + w1) ** -0.5, half, n.astype(np.int64))
