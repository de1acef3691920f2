"""The Gram matrices of many lattices, column after column, in arrays that compiled loops can read.

F of a column is what its node scatters beside the sites' f′ and f″, and the sites' share. The first
is the model's, X_model, and what the model has wrong, a + ib along the model's own direction e: X =
X_model + e·(a + ib), with the same a and b for all symmetry mates of a reflection, and a − ib for
their Friedel mates.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.curves.gram import Gram
from spreadflow.physics.structure_factors import StructureFactors

SMALLEST_F = 1e-9
"""|F|, electrons, below which F has no direction."""


class Scattering(NamedTuple):
    """What F of columns is made of, if no model is wrong."""

    fixed: np.ndarray
    """(column,) complex128: F without the sites' f′ and f″"""
    groups: np.ndarray
    """(column, site) complex128: g of each site"""
    direction: np.ndarray
    """(column,) complex128: e, that of what has no energy dependence, as the node has it"""

    def times(self, factor: np.ndarray) -> "Scattering":
        """Return F times a factor (column,)."""
        return Scattering(
            factor * self.fixed, factor[:, None] * self.groups, factor * self.direction
        )


def scattering(factors: StructureFactors, node: np.ndarray, channel: np.ndarray) -> Scattering:
    """Return what F of nodes is made of in channels; node: (column,) rows of `factors`, whose
    channels are those that `channel` (column,) counts.
    """
    nodes, back = np.unique(node, return_inverse=True)
    of_sites = np.asarray(factors.groups)[: factors.n_sites, nodes].T
    return Scattering(
        fixed=factors.without_sites(nodes)[back, channel],
        groups=of_sites[back],
        direction=directions(factors, nodes)[back],
    )


def directions(factors: StructureFactors, node: np.ndarray) -> np.ndarray:
    """Return the direction (n,) of what has no energy dependence in F of nodes (n,)."""
    base = np.asarray(factors.rest)[node]
    return base / np.maximum(np.abs(base), SMALLEST_F)


BY_COLUMN = (
    "hkl",
    "channel",
    "fixed",
    "groups",
    "along",
    "across",
    "site_slopes",
    "reflection",
    "intensity",
    "slope",
    "cross",
)
"""Fields of `Columns` that have a row for each column."""

BY_LATTICE = ("held", "score", "loss", "is_used")
"""Those that have one for each lattice."""


class SiteUnknowns(NamedTuple):
    """What is unknown of sites beside their curves, such as their place and B."""

    names: tuple[str, ...] = ()
    site: np.ndarray = np.zeros(0, dtype=np.int64)
    """(site unknown,) number of its site"""
    slopes: np.ndarray = np.zeros((0, 0), dtype=np.complex128)
    """(site unknown, node) derivatives of g of its site"""
    sigma: np.ndarray = np.zeros(0)
    """(site unknown,) standard deviations about the model"""
    origin: np.ndarray = np.zeros(0)
    """(site unknown,) values at which g and its derivatives are taken"""

    def of_nodes(self, node: np.ndarray) -> np.ndarray:
        """Return the derivatives (n, site unknown) of nodes (n,)."""
        if not self.names:
            return np.zeros((len(node), 0), dtype=np.complex128)
        return np.ascontiguousarray(self.slopes[:, node].T)


NO_SITE_UNKNOWNS = SiteUnknowns()
"""Sites of which the curves alone are unknown."""


class Columns(NamedTuple):
    """Columns of the Gram matrices of some lattices, and what else is known of these."""

    hkl: np.ndarray
    """(column, 3) int32"""
    channel: np.ndarray
    """(column,) int32"""
    fixed: np.ndarray
    """(column,) complex128: F without the sites' f′ and f″ as the model has it"""
    groups: np.ndarray
    """(column, site) complex128: g of each site"""
    along: np.ndarray
    """(column,) complex128: derivative of F by a; 0 where a is not unknown"""
    across: np.ndarray
    """(column,) complex128: derivative of F by b; 0 where b is not unknown"""
    site_slopes: np.ndarray
    """(column, site unknown) complex128: derivatives of g of its site by each unknown of sites"""
    site_of: np.ndarray
    """(site unknown,) number of its site"""
    reflection: np.ndarray
    """(column,) int32: number of the unique reflection"""
    intensity: np.ndarray
    """(column,) |F|² that the matrices were expanded about"""
    slope: np.ndarray
    """(column,) fall of −ln L by |F|²"""
    cross: np.ndarray
    """(column, unknown) information that |F|² and what stage 1 refines share"""
    first_column: np.ndarray
    """(box + 1,) first column of each shoebox"""
    first_value: np.ndarray
    """(box + 1,) first value of each shoebox's triangle"""
    normal: np.ndarray
    """float32: lower triangles of the shoeboxes' matrices, row by row"""
    first_box: np.ndarray
    """(lattice + 1,) first shoebox of each lattice"""
    held: np.ndarray
    """(lattice, unknown, unknown) covariance of what stage 1 refines, |F|² held"""
    score: np.ndarray
    """(lattice, unknown) fall of −ln L by what stage 1 refines"""
    loss: np.ndarray
    """(lattice,) −ln L where they were expanded"""
    is_used: np.ndarray
    """(lattice,) bool: whether the lattice takes part"""

    @property
    def lattice(self) -> np.ndarray:
        """(column,) number of the lattice"""
        return np.repeat(np.arange(len(self.loss)), np.diff(self.first_column[self.first_box]))

    def only(self, lattice: int) -> "Columns":
        """Return the columns of one lattice."""
        first, last = self.first_box[lattice : lattice + 2]
        first_column = self.first_column[first : last + 1]
        first_value = self.first_value[first : last + 1]
        own = slice(first_column[0], first_column[-1])
        one = slice(lattice, lattice + 1)
        return self._replace(
            **{name: getattr(self, name)[own] for name in BY_COLUMN},
            **{name: getattr(self, name)[one] for name in BY_LATTICE},
            first_column=first_column - first_column[0],
            first_value=first_value - first_value[0],
            normal=self.normal[first_value[0] : first_value[-1]],
            first_box=np.array([0, last - first]),
        )

    def of_model(self) -> "Columns":
        """Return the columns with X and sites of the model, as if all were of one reflection."""
        nothing = np.zeros(len(self.fixed), dtype=np.complex128)
        return self._replace(
            along=nothing,
            across=nothing,
            site_slopes=np.zeros((len(self.fixed), 0), dtype=np.complex128),
            site_of=np.zeros(0, dtype=np.int64),
            reflection=np.zeros(len(self.fixed), dtype=np.int32),
        )

    def with_sites(self, sites: SiteUnknowns, node: np.ndarray) -> "Columns":
        """Return the columns with more unknowns of sites; node: (column,)."""
        return self._replace(site_slopes=sites.of_nodes(node), site_of=np.asarray(sites.site))

    def with_rest(
        self, e: np.ndarray, reflection: np.ndarray, is_mate: np.ndarray, freedom: np.ndarray
    ) -> "Columns":
        """Return the columns with X unknown.

        e: (column,) direction; reflection: (column,) numbers of unique reflections; is_mate:
        (column,) bool, of Friedel mates; freedom: (reflection,) unknowns of a reflection: 2 where X
        is complex, 1 where it is real, 0 where it is the model's.
        """
        free = freedom[reflection]
        return self._replace(
            reflection=reflection.astype(np.int32),
            along=np.where(free > 0, e, 0.0),
            across=np.where(free > 1, np.where(is_mate, -1j, 1j) * e, 0.0),
        )


def columns(grams: Sequence[Gram], own: Scattering) -> Columns:
    """Return the columns of lattices from their Gram matrices and what F of all their columns is
    made of; X is not unknown. A rank may hold none.
    """
    n_lattices = len(grams)
    n_unknowns = len(grams[0].score) if grams else 0
    sizes = _joined([np.diff(gram.start) for gram in grams], np.int64)
    n_boxes = np.array([len(gram.start) - 1 for gram in grams], dtype=np.int64)
    nuisance = np.array([gram.nuisance for gram in grams])
    nuisance = nuisance.reshape(n_lattices, n_unknowns, n_unknowns)
    nothing = np.zeros(len(own.fixed), dtype=np.complex128)
    return Columns(
        hkl=_joined([gram.hkl for gram in grams], np.int32, 3),
        channel=_joined([gram.channel for gram in grams], np.int32),
        fixed=own.fixed,
        groups=np.ascontiguousarray(own.groups),
        along=nothing,
        across=nothing,
        site_slopes=np.zeros((len(nothing), 0), dtype=np.complex128),
        site_of=np.zeros(0, dtype=np.int64),
        reflection=np.zeros(len(nothing), dtype=np.int32),
        intensity=_joined([gram.intensity for gram in grams], np.float64),
        slope=_joined([gram.slope for gram in grams], np.float64),
        cross=_joined([gram.cross for gram in grams], np.float64, n_unknowns),
        first_column=_firsts(sizes),
        first_value=_firsts(sizes * (sizes + 1) // 2),
        normal=_joined([gram.normal for gram in grams], np.float32),
        first_box=_firsts(n_boxes),
        held=np.linalg.inv(nuisance),
        score=np.array([gram.score for gram in grams]).reshape(n_lattices, n_unknowns),
        loss=np.array([gram.loss for gram in grams], dtype=np.float64),
        is_used=np.ones(n_lattices, dtype=bool),
    )


def of_lattices(grams: Sequence[Gram], factors: StructureFactors) -> Columns:
    """Return the columns of lattices with F of a model. Raises ValueError where it lacks a node."""
    hkl = _joined([gram.hkl for gram in grams], np.int32, 3)
    channel = _joined([gram.channel for gram in grams], np.int32)
    node = factors.rows(hkl)
    if (node < 0).any():
        raise ValueError(f"no structure factor of {hkl[node < 0][0].tolist()}")
    return columns(grams, scattering(factors, node, channel))


def _joined(arrays: Sequence[np.ndarray], dtype: type, *shape: int) -> np.ndarray:
    """Return arrays (n, *shape) one after the other."""
    every = np.concatenate([np.empty((0, *shape), dtype=dtype), *arrays])
    return np.ascontiguousarray(every, dtype=dtype)


def _firsts(sizes: np.ndarray) -> np.ndarray:
    """Return where each of parts of these sizes starts, and where the last ends."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
