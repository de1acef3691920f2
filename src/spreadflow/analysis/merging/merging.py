"""From the integrated reflections of many lattices to one intensity per unique reflection.

Friedel mates are separate unique reflections throughout. Observations are flat columns; every sum
over them is formed per fixed group of lattices and the groups are added in order, so that the
answer does not depend on who holds them.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.physics import symmetry

N_SHELLS = 20
"""Resolution shells of equal volume for Wilson's prior and the best partiality."""

ANOMALOUS = 0.1
"""Relative standard deviation between the intensities of Friedel mates of average strength: some
times what metals in a protein cause, so that a mate says little more than what scales need.
"""

PRIOR_FREEDOM = 5.0
"""Degrees of freedom that the error model counts for beside the scatter of a reflection's own
observations: with few of them σ follows the model, with a contradiction the contradiction.
"""

Add = Callable[[Iterable[tuple[int, np.ndarray]], tuple[int, ...]], np.ndarray]
"""Sum of the arrays, all of one shape, of groups in ascending order; the next may be in the memory
of the last (`parallel.World.add_up`).
"""


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
        self.cell = gemmi.UnitCell(*cell)
        self.space_group = symmetry.group(space_group)
        in_asu = gemmi.make_miller_array(self.cell, self.space_group, d_min)
        hkl = np.asarray(in_asu, dtype=np.int32)
        operations = self.space_group.operations()
        is_centric = np.asarray(operations.centric_flag_array(hkl), dtype=bool)

        # all of the asymmetric unit, then the mates of those that are not centric
        n_plus = len(hkl)
        acentric = np.flatnonzero(~is_centric)
        self.hkl = np.concatenate([hkl, hkl[acentric]])
        self.friedel = np.full(len(self.hkl), -1, dtype=np.int8)
        self.friedel[:n_plus] = np.where(is_centric, 0, 1)
        self.mate = np.full(len(self.hkl), -1)
        """(unique,) row of the Friedel mate, −1 for centric ones"""
        self.mate[acentric] = np.arange(n_plus, len(self.hkl))
        self.mate[n_plus:] = acentric

        self.d = self.spacing(self.hkl)
        self.shell = shells(self.d, d_min)
        """(unique,) one of N_SHELLS"""
        self.grid = self._fill_grid()
        """row of every Miller index in the resolution sphere, from −`limits` on; −1 = absent"""

    def __len__(self) -> int:
        return len(self.hkl)

    def _fill_grid(self) -> np.ndarray:
        """Return the row of every Miller index in the resolution sphere, −1 where there is none."""
        operations = self.space_group.operations().sym_ops
        rotations = np.array([operation.rot for operation in operations]) // gemmi.Op.DEN
        sign = np.where(self.friedel < 0, -1, 1)
        signed = sign[:, None] * self.hkl
        equivalents = [signed @ rotation for rotation in rotations]
        largest = [np.abs(hkl).max(axis=0, initial=0) for hkl in equivalents]
        self.limits = np.max(largest, axis=0)
        """(3,) largest Miller indices"""

        grid = np.full(2 * self.limits + 1, -1, dtype=np.int32)
        rows = np.arange(len(self))
        is_centric = self.friedel == 0
        for hkl in equivalents:
            place = self.limits + hkl
            opposite = self.limits - hkl[is_centric]
            grid[tuple(place.T)] = rows
            grid[tuple(opposite.T)] = rows[is_centric]
        return grid

    def rows(self, hkl: np.ndarray) -> np.ndarray:
        """Return the rows (n,) of Miller indices (n, 3) as observed; −1 for those that are absent
        or beyond the resolution.
        """
        is_inside = (np.abs(hkl) <= self.limits).all(axis=1)
        hkl_inside = np.where(is_inside[:, None], hkl, 0)
        place = hkl_inside + self.limits
        row = self.grid[tuple(place.T)]
        return np.where(is_inside, row, -1)

    def spacing(self, hkl: np.ndarray) -> np.ndarray:
        """Return d (n,), Å, of Miller indices (n, 3) in the given cell."""
        return np.asarray(self.cell.calculate_d_array(hkl), dtype=np.float64)

    def values(self, hkl: np.ndarray, value: np.ndarray) -> np.ndarray:
        """Return the value of each reflection (unique,), where it has none that of its mate, from
        values (n,) of indices (n, 3); NaN = neither.
        """
        row = self.rows(hkl)
        is_unique = row >= 0
        out = np.full(len(self), np.nan)
        out[row[is_unique]] = np.asarray(value)[is_unique]
        takes_mates = np.isnan(out) & (self.mate >= 0)
        return np.where(takes_mates, out[self.mate], out)


def shells(d: np.ndarray, d_min: float, n: int = N_SHELLS) -> np.ndarray:
    """Return the number of the shell of each d (Å), of n shells of equal volume in reciprocal space
    from 1/d = 0 to 1/d_min.
    """
    d = np.asarray(d, dtype=np.float64)
    volume = (d_min / d) ** 3
    number = (n * volume).astype(np.int64)
    return np.minimum(number, n - 1)


class Observations(NamedTuple):
    """Reflections to be merged, sorted by lattice, and which lattice and group they belong to.

    Numbers of observations are in single precision, as they were read: there are millions.
    """

    lattice: np.ndarray
    """(observation,) number of the lattice, ascending"""
    group: np.ndarray
    """(lattice,) fixed group of lattices this one belongs to, ascending: what is added, in order"""
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
    """(observation,) pulse · polarization · capture · Lorentz · partiality: intensity = G exp(−2 B
    s²) · factor · I
    """
    partiality: np.ndarray
    """(observation,) partiality relative to the best at its resolution, 0-1
    (`selection.best_partiality`)
    """
    slopes: np.ndarray
    """(observation, 3) derivatives of ln factor by rotations of the lattice about x and y, 1/rad,
    and by ln of the width of its nodes
    """

    @property
    def n_lattices(self) -> int:
        return len(self.group)


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
    chi2: np.ndarray
    """(unique,) Σ ((I − mean)/σ)² of its observations"""


def add_in_order(blocks: Iterable[tuple[int, np.ndarray]], shape: tuple[int, ...]) -> np.ndarray:
    """Return the sum of a single process's arrays: its `Add`."""
    total = np.zeros(shape)
    for _, array in blocks:
        total += array
    return total


class Sums:
    """Sums over all observations, on whichever rank they are, that do not depend on who holds which
    group.

    n_unique: rows of `Unique`.
    """

    def __init__(self, obs: Observations, n_unique: int, add: Add = add_in_order):
        self.n_unique = n_unique
        self.counts = np.ones(obs.n_lattices, dtype=bool)
        """(lattice,) whether it is in the sums"""
        self._add = add
        self._unique = obs.unique
        groups, first = np.unique(obs.group, return_index=True)
        self._first_lattice = [*first.tolist(), obs.n_lattices]
        self._first_row = np.searchsorted(obs.lattice, self._first_lattice)
        ends = self._first_lattice[1:]
        self._groups = list(zip(groups.tolist(), first.tolist(), ends, strict=True))
        """number of each group, its first lattice and the end"""

    def of_every(self, n: int) -> "Sums":
        """Return the same sums over the groups alone whose numbers n divides."""
        subset = copy.copy(self)
        subset._groups = [group for group in self._groups if group[0] % n == 0]
        subset.counts = np.zeros_like(self.counts)
        for _, first, end in subset._groups:
            subset.counts[first:end] = True
        return subset

    def of_groups(
        self, sums: Callable[[int, int], np.ndarray], shape: tuple[int, ...]
    ) -> np.ndarray:
        """Return the sum of what `sums` returns, of this shape, of the lattices of each group, from
        the first to the end. Collective.
        """
        tables = ((group, sums(first, last)) for group, first, last in self._groups)
        return self._add(tables, shape)

    def by_unique_of_groups(
        self, fill: Callable[[np.ndarray, int, int], None], n_columns: int
    ) -> np.ndarray:
        """Return sums by unique reflection (column, unique), of which `fill` adds to a table
        (unique, column) what the lattices of a group have, from the first to the end. Collective.
        """
        table = np.empty((self.n_unique, n_columns))

        def filled(first: int, last: int) -> np.ndarray:
            table[:] = 0.0
            fill(table, first, last)
            return table

        return self.of_groups(filled, table.shape).T

    def by_rows(
        self, columns: Callable[[slice], Sequence[np.ndarray]], n_columns: int
    ) -> np.ndarray:
        """Return sums over all observations of each unique reflection, (column, unique), of columns
        that a function has for a slice of the observations. Collective.
        """
        first_row = dict(zip(self._first_lattice, self._first_row.tolist(), strict=True))

        def fill(table: np.ndarray, first: int, last: int) -> None:
            rows = slice(first_row[first], first_row[last])
            unique = self._unique[rows]
            for place, column in enumerate(columns(rows)):
                table[:, place] = np.bincount(unique, column, minlength=self.n_unique)

        return self.by_unique_of_groups(fill, n_columns)

    def by_unique(self, *columns: np.ndarray) -> np.ndarray:
        """Return sums of columns (observation,) over all observations of each unique reflection:
        (column, unique). Collective.
        """
        return self.by_rows(lambda rows: [column[rows] for column in columns], len(columns))

    def over_lattices(self, *columns: np.ndarray) -> np.ndarray:
        """Return sums of columns (lattice,) over all lattices: (column,). Collective."""
        table = np.stack(columns)
        return self.of_groups(lambda first, last: table[:, first:last].sum(axis=1), (len(columns),))


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

    def columns(rows: slice) -> tuple[np.ndarray, ...]:
        of_rows = intensity[rows].astype(np.float64)
        weight = sigma[rows].astype(np.float64) ** -2.0
        first = np.where(obs.half[obs.lattice[rows]] == 0, weight, 0.0)
        second = weight - first
        squares = weight * of_rows**2
        return first, second, first * of_rows, second * of_rows, squares, np.ones(len(weight))

    totals = sums.by_rows(columns, 6)
    is_measured = totals[-1] >= min_multiplicity
    w0, w1, wi0, wi1, wii, n = np.where(is_measured, totals, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (wi0 + wi1) / (w0 + w1)
        return Merged(
            intensity=mean,
            sigma=(w0 + w1) ** -0.5,
            half=np.stack([wi0 / w0, wi1 / w1], axis=1),
            n=n.astype(np.int64),
            chi2=np.maximum(wii - (wi0 + wi1) * np.nan_to_num(mean), 0.0),
        )


def with_scatter(merged: Merged, unique: Unique) -> Merged:
    """Return merged intensities with the σ that the scatter of their observations calls for.

    The factor, the same for Friedel mates, is that of a t distribution, √((ν + χ²)/(ν + degrees of
    freedom)) with ν = `PRIOR_FREEDOM`. χ² is that of the observations about their means, and of the
    difference of mates as far as it is not anomalous.
    """
    mate = unique.mate
    has_mate = (mate >= 0) & (merged.n > 0) & (merged.n[mate] > 0)
    difference = merged.intensity - merged.intensity[mate]
    strength = 0.5 * np.maximum(merged.intensity + merged.intensity[mate], 0.0)
    variance = merged.sigma**2 + merged.sigma[mate] ** 2 + (ANOMALOUS * strength) ** 2
    of_mates = np.where(has_mate, difference**2 / np.where(has_mate, variance, 1.0), 0.0)

    chi2 = merged.chi2 + np.where(has_mate, merged.chi2[mate] + of_mates, 0.0)
    n_observations = merged.n + np.where(has_mate, merged.n[mate], 0)
    freedom = np.maximum(n_observations - 1, 0)
    factor = np.sqrt((PRIOR_FREEDOM + chi2) / (PRIOR_FREEDOM + freedom))
    return merged._replace(sigma=merged.sigma * factor)
