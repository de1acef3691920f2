"""The unique reflections of a crystal, and few lattices that meet them as often as many would.

What X costs the curves depends on how often a reflection is met, and in how many ways: lattices
that share a reflection find the same X in other channels. m lattices stand for N where there are
m/N of the crystal's reflections, with the resolutions and |F| of all: each is then met as often
as one of all reflections is by N. So columns of simulated lattices are handed to other
reflections, of like |F| and at like places, and the information of a lattice is that of one among
N. Where a lattice would meet a reflection again and again, the number of reflections falls no
more: the priors, of which N lattices have fewer than so few reflections do, are weakened instead.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy

from spreadflow.analysis.curves import columns as of_grams
from spreadflow.analysis.curves import dispersion, objective, refinement
from spreadflow.analysis.curves import rest as rests
from spreadflow.analysis.curves.columns import (
    NO_SITE_UNKNOWNS,
    SMALLEST_F,
    Columns,
    Scattering,
)
from spreadflow.analysis.curves.curvature import Curvature, curvature
from spreadflow.analysis.curves.objective import Problem
from spreadflow.analysis.curves.planning import Information
from spreadflow.analysis.curves.rest import Prior, Rest
from spreadflow.physics import symmetry, unit_cell
from spreadflow.physics.structure_factors import StructureFactors

N_LATTICES = 96
"""Lattices that stand for many, about: they are copies of those that were simulated."""

MAX_RUNS = 30_000
"""Reflections of all these lattices, at most: beyond it there are fewer copies."""

PER_LATTICE = 8
"""Reflections for each that a lattice meets, at least."""

PER_BIN = 100
"""Reflections of a bin of resolution, at least."""

MAX_BINS = 10
"""Bins of resolution, at most."""

NEIGHBOURS = 4.0
"""Reflections, or simulated columns where these are fewer, of like |F|, to either side: to one of
them a column is handed by lot, so that the numbers of meetings are Poisson's.
"""

MAX_ELIMINATED = 5000
"""Unknowns of X, at most, that are eliminated: of more, conjugate gradients are faster."""

MOST_SCALED = 2.0
"""Factor, at most, by which F of a reflection is scaled to the |F| of the column handed to it."""


class Population(NamedTuple):
    """The unique reflections of a crystal in a range of resolution, Friedel mates as one."""

    hkl: np.ndarray
    """(reflection, 3) in the asymmetric unit"""
    d: np.ndarray
    """(reflection,) Å"""
    kind: np.ndarray
    """(reflection,) equal where symmetry gives as many equivalents: those are met equally often"""
    modulus: np.ndarray
    """(reflection,) |F|, a mean over energies, electrons"""
    cell: np.ndarray
    """(6,) Å, rad"""
    space_group: str

    @property
    def n(self) -> int:
        """Number of reflections."""
        return len(self.hkl)

    def within(self, d_min: float, d_max: float) -> "Population":
        """Return the reflections with d_min ≤ d < d_max, Å."""
        is_within = (self.d >= d_min) & (self.d < d_max)
        return self._replace(
            hkl=self.hkl[is_within],
            d=self.d[is_within],
            kind=self.kind[is_within],
            modulus=self.modulus[is_within],
        )


def population(
    factors: StructureFactors, cell: np.ndarray, space_group: str, d_min: float, d_max: float
) -> Population:
    """Return the unique reflections with d_min ≤ d < d_max, Å."""
    every = np.asarray(factors.hkl)
    d = unit_cell.spacing(unit_cell.reciprocal(cell), every)
    within = every[(d >= d_min) & (d < d_max)]
    asu, _ = symmetry.to_asu(within, space_group)
    hkl = np.unique(asu, axis=0)
    return _reflections(factors, hkl, cell, space_group)


def _reflections(
    factors: StructureFactors, hkl: np.ndarray, cell: np.ndarray, space_group: str
) -> Population:
    """Return what a population knows of reflections hkl (n, 3)."""
    operations = symmetry.group(space_group).operations()
    indices = np.asarray(hkl, dtype=np.int32)
    is_centric = np.asarray(operations.centric_flag_array(indices), dtype=bool)
    epsilon = np.asarray(operations.epsilon_factor_array(indices), dtype=int)
    squares = factors.squared(factors.rows(hkl))
    return Population(
        hkl=hkl,
        d=unit_cell.spacing(unit_cell.reciprocal(cell), hkl),
        kind=2 * epsilon + is_centric,
        modulus=np.sqrt(np.asarray(squares).mean(axis=1)),
        cell=cell,
        space_group=space_group,
    )


class Size(NamedTuple):
    """How many lattices, and reflections, stand for some number of lattices."""

    n_copies: int
    """of the simulated lattices"""
    n_reflections: float
    """of the crystal that they meet"""


def size(columns: Columns, crystal: Population, n_lattices: float) -> Size:
    """Return how many stand for `n_lattices`; columns: of the simulated lattices.

    From some number of lattices on it is the same for all.
    """
    n_simulated = len(columns.loss)
    n_runs = len(_runs(columns, crystal.space_group).first)
    n_wanted = min(N_LATTICES, int(n_lattices))
    n_copies = max(1, min(n_wanted // n_simulated, MAX_RUNS // n_runs))
    met_as_often = crystal.n * n_copies * n_simulated / n_lattices
    wanted = max(met_as_often, PER_LATTICE * n_runs / n_simulated)
    return Size(n_copies, min(wanted, crystal.n))


class FewLattices(NamedTuple):
    """Lattices that meet reflections as often as some number of lattices would."""

    columns: Columns
    rest: Rest
    weakening: float
    """factor on S of the prior for each lattice that they stand for: how much less there is of it
    for each of them
    """


def few_lattices(
    columns: Columns,
    factors: StructureFactors,
    crystal: Population,
    light: np.ndarray,
    size: Size,
    unknown: str,
) -> FewLattices:
    """Return lattices that stand for many.

    columns: of the simulated lattices, expanded at `factors`; light: (channel,) photons of the mean
    pulse; unknown: what of X is unknown, of `rest.FREEDOM`.
    """
    rng = np.random.default_rng(len(columns.loss))
    runs = _runs(columns, crystal.space_group)
    n_copies = size.n_copies
    share = size.n_reflections / crystal.n
    of_runs = _reflections(factors, runs.hkl, crystal.cell, crystal.space_group)
    chosen, number = _handed_out(rng, crystal, of_runs, share, n_copies)

    hkl = crystal.hkl[chosen]
    reflection = np.repeat(number, np.tile(runs.size, n_copies))
    is_mate = np.tile(np.repeat(runs.is_mate, runs.size), n_copies)
    many = _copies(columns, n_copies)
    own = _scattering(factors, many, np.where(is_mate[:, None], -1, 1) * hkl[reflection])
    many = many._replace(fixed=own.fixed, groups=own.groups)
    rest = rests.rest(factors, hkl, crystal.cell, crystal.space_group, light, unknown)
    return FewLattices(
        columns=many.with_rest(own.direction, reflection, is_mate, rest.freedom),
        rest=rest,
        weakening=len(chosen) / (len(many.loss) * crystal.n),
    )


def _scattering(factors: StructureFactors, columns: Columns, hkl: np.ndarray) -> Scattering:
    """Return what F of columns is made of if they are of reflections hkl (column, 3), scaled to the
    |F|² that they have.
    """
    own = of_grams.scattering(factors, factors.rows(hkl), columns.channel)
    curves = np.asarray(factors.anomalous)[: factors.n_sites]
    F = own.fixed + np.einsum("cs,sc->c", own.groups, curves[:, columns.channel])
    scale = np.sqrt(columns.intensity) / np.maximum(np.abs(F), SMALLEST_F)
    return own.times(np.clip(scale, 1.0 / MOST_SCALED, MOST_SCALED))


class _Runs(NamedTuple):
    """The columns of a reflection in a shoebox, of which each follows the other."""

    first: np.ndarray
    """(run,) first column"""
    size: np.ndarray
    """(run,) columns"""
    hkl: np.ndarray
    """(run, 3) in the asymmetric unit"""
    is_mate: np.ndarray
    """(run,) bool, of Friedel mates"""


def _runs(columns: Columns, space_group: str) -> _Runs:
    """Return the runs of all lattices."""
    is_first = np.zeros(len(columns.hkl), dtype=bool)
    is_first[columns.first_column[:-1][np.diff(columns.first_column) > 0]] = True
    is_first[1:] |= np.any(columns.hkl[1:] != columns.hkl[:-1], axis=1)
    first = np.flatnonzero(is_first)
    asu, friedel = symmetry.to_asu(columns.hkl[first], space_group)
    size = np.diff(np.append(first, len(columns.hkl)))
    return _Runs(first, size, asu, friedel < 0)


def _handed_out(
    rng: np.random.Generator, crystal: Population, runs: Population, share: float, n_copies: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a share of the crystal's reflections (chosen,), and which of these each run of each
    copy is handed (copy·run,).

    Runs are of a bin: reflections with as many equivalents, of like resolution. Those of a bin are
    met equally often: the place of a run among all, by |F|, is that of its reflection, or nearly.
    """
    number = np.zeros((n_copies, runs.n), dtype=np.int64)
    chosen: list[np.ndarray] = []
    n_chosen = 0
    for of_crystal, of_runs in _bins(crystal, runs, share):
        size = max(1, round(share * len(of_crystal)))
        drawn = rng.choice(of_crystal, size, replace=False)
        chosen.append(drawn[np.argsort(crystal.modulus[drawn])])
        place = np.argsort(np.argsort(runs.modulus[of_runs])) + 0.5
        spacing = size / len(of_runs)
        reach = min(NEIGHBOURS * max(spacing, 1.0), 0.5 * size)
        lot = rng.uniform(-reach, reach, (n_copies, len(of_runs)))
        moved = np.abs(place * spacing + lot)
        moved = size - np.abs(size - moved)
        number[:, of_runs] = n_chosen + np.clip(moved.astype(int), 0, size - 1)
        n_chosen += size
    return np.concatenate(chosen), number.ravel()


def _bins(
    crystal: Population, runs: Population, share: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the reflections of each bin, and the runs of it; bins without runs are left out."""
    for kind in np.unique(runs.kind):
        of_crystal = np.flatnonzero(crystal.kind == kind)
        of_runs = np.flatnonzero(runs.kind == kind)
        n_bins = int(np.clip(share * len(of_crystal) / PER_BIN, 1, MAX_BINS))
        inner = np.quantile(crystal.d[of_crystal], np.arange(1, n_bins) / n_bins)
        bin_of_crystal = np.searchsorted(inner, crystal.d[of_crystal])
        bin_of_runs = np.searchsorted(inner, runs.d[of_runs])
        for number in np.unique(bin_of_runs):
            yield of_crystal[bin_of_crystal == number], of_runs[bin_of_runs == number]


def _copies(columns: Columns, n: int) -> Columns:
    """Return lattices n times; the matrices of shoeboxes are there once."""

    def firsts(first: np.ndarray) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(np.tile(np.diff(first), n))])

    def repeated(array: np.ndarray) -> np.ndarray:
        return np.tile(array, (n, *(1,) * (array.ndim - 1)))

    once = {"normal": columns.normal}
    places = {name: firsts(getattr(columns, name)) for name in ("first_column", "first_box")}
    values = {"first_value": np.append(np.tile(columns.first_value[:-1], n), len(columns.normal))}
    special = once | places | values
    arrays = columns._asdict().items()
    return Columns(**{name: special.get(name, repeated(array)) for name, array in arrays})


def expansion(lattices: FewLattices, curves: np.ndarray, energies_ev: np.ndarray) -> Curvature:
    """Return the second derivatives of −ln L by the values of curves and by X of few lattices, at
    these curves (site, 2, channel) and the model's X, with some prior of X.
    """
    p = dispersion.free(curves, energies_ev, energies_ev)
    rest = lattices.rest
    problem = Problem(
        columns=lattices.columns,
        rest=rest,
        p=p,
        scale=-1,
        is_integrated=False,
        start_square=0.0,
        site_origin=NO_SITE_UNKNOWNS.origin,
        scale_sigma=np.inf,
        add=lambda array: array,
    )
    prior = rests.prior(rest, rests.first_variance(rest))
    at_model = np.zeros((rest.n, 2))
    here = objective.point(problem, np.zeros(len(p.names)), at_model, prior)
    return curvature(problem, here, prior)


def lattice_information(
    lattices: FewLattices, matrix: Curvature, numbers: Sequence[float], errors: Sequence[float]
) -> list[Information]:
    """Return what a lattice says about the values of curves where `lattices` stand for each of some
    numbers of lattices.

    matrix: their `expansion`; errors: standard deviations of X about the model's, relative to the
    r.m.s. |X| of a shell.
    """
    rest = lattices.rest
    n = len(lattices.columns.loss)
    priors = [
        rests.prior(rest, number * lattices.weakening * rests.first_variance(rest, error))
        for number in numbers
        for error in errors
    ]
    without_x = (matrix_of_prior / n for matrix_of_prior in _without_x(matrix, priors))
    return [
        Information(matrix.curves / n, dict(zip(errors, without_x, strict=False))) for _ in numbers
    ]


def _without_x(matrix: Curvature, priors: Sequence[Prior]) -> Iterator[np.ndarray]:
    """Yield what pixels say about curves (parameter, parameter), X integrated out, with each prior
    of X.

    Where there is little of X, it is eliminated, so that what no prior changes is worked out once.
    """
    if len(matrix.mixed) > MAX_ELIMINATED:
        for prior in priors:
            yield refinement.without_x(matrix.with_prior(prior)).information
        return
    cross = matrix.cross.toarray()
    by_x = matrix.shoeboxes.toarray() - cross.T @ cross
    for prior in priors:
        with_prior = by_x.copy()
        with_prior[np.diag_indices_from(by_x)] += prior.precision.ravel()
        root = scipy.linalg.cholesky(with_prior.T, lower=True, overwrite_a=True, check_finite=False)
        rooted = scipy.linalg.solve_triangular(root, matrix.mixed, lower=True, check_finite=False)
        yield matrix.curves - rooted.T @ rooted
