"""Crystals with two sites, and their lattices drawn as numbers: Gram matrices of known truth."""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.curves import columns, controls, dispersion
from spreadflow.analysis.curves.columns import NO_SITE_UNKNOWNS, Columns, SiteUnknowns
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.gram import Gram
from spreadflow.analysis.curves.objective import Problem
from spreadflow.physics import anomalous, symmetry, unit_cell
from spreadflow.physics.structure_factors import (
    Atoms,
    StructureFactors,
    geometric_slopes,
    isotropic,
)
from spreadflow.recipes.lattice_sums import LatticeSums, Unknown

N_PIXELS = 25
"""Pixels of a shoebox, of variance 1."""

N_BOXES = 10
"""Shoeboxes of a lattice."""

SCALE = 1.03
"""Scale of the pixels over that which they were expanded with."""

SCALE_SIGMA = 5.0
"""Standard deviation of the ln scale that stage 1 knows."""

SITE_OCCUPANCY = 0.8
"""Occupancy of the sites of `orthorhombic`."""

TRUE = ("oxidized", "reduced")
"""Curves of the two sites."""

ENERGIES = 7109.0 + 2.0 * np.arange(12)


class Nature(NamedTuple):
    """What lattices are drawn from."""

    factors: StructureFactors
    excess: float
    """variance of a pixel over its own"""
    scatter: float
    """standard deviation of factors of reflections"""

    def brightness(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """How bright n reflections of a shoebox are, relative to models."""
        if self.scatter == 0.0:
            return np.ones(n)
        return 1.0 + self.scatter * rng.standard_normal(n)


class Drawn(NamedTuple):
    """A crystal with two sites, whose lattices are drawn."""

    factors: StructureFactors
    """of the model, with the curves of the start"""
    rest: np.ndarray
    """(node,) complex128: F without the sites' f′ and f″ in nature"""
    p: Parametrisation
    theta: np.ndarray
    """(theta,) of the true curves"""
    space_group: str
    cell: np.ndarray
    """(6,) Å, rad"""
    n_shared: int = 0
    """shoeboxes of a lattice with a second reflection; in the first it is the Friedel mate"""
    groups: np.ndarray | None = None
    """(site, node) g of the sites in nature; None = as the model has it"""

    @property
    def energies_ev(self) -> np.ndarray:
        return self.p.energies_ev

    @property
    def nature(self) -> StructureFactors:
        """The true structure factors."""
        true = self.p.curves(self.theta)
        return self.factors._replace(
            rest=self.rest,
            groups=self.factors.groups if self.groups is None else self.groups,
            anomalous=true[:, 0] + 1j * true[:, 1],
        )

    def lattices(
        self,
        n: int,
        seed: int,
        *,
        excess: float = 1.0,
        about: StructureFactors | None = None,
        scatter: float = 0.0,
    ) -> tuple[list[Gram], np.ndarray]:
        """n lattices and the photons of their pulses (lattice, channel). excess: variance of a
        pixel over its own; about: F that their matrices are expanded about, None = the model's;
        scatter: of reflections about their models.
        """
        rng = np.random.default_rng(seed)
        nature = Nature(self.nature, excess, scatter)
        own = [self._lattice(rng, nature, about or self.factors) for _ in range(n)]
        return [gram for gram, _ in own], np.array([pulse for _, pulse in own])

    def columns(self, grams: list[Gram]) -> Columns:
        """The columns of lattices, X being the model's."""
        return columns.of_lattices(grams, self.factors)

    def _lattice(
        self, rng: np.random.Generator, nature: "Nature", about: StructureFactors
    ) -> tuple[Gram, np.ndarray]:
        """Ten shoeboxes, in each of which a spot of five channels moves; scale 3 % off."""
        centre = rng.uniform(-8, 8)
        envelope = np.exp(-0.5 * ((self.energies_ev - 7120.0 - centre) / 9.0) ** 2)
        pulse = envelope * rng.gamma(2.0, size=12)
        is_there = np.abs(self.factors.rest) > 1e-6
        nodes = rng.choice(np.flatnonzero(is_there), N_BOXES + self.n_shared, replace=False)
        rows = [[node] for node in nodes[:N_BOXES]]
        for box in range(self.n_shared):
            mate = self.factors.rows(-self.factors.hkl[rows[box]])[0]
            rows[box].append(nodes[N_BOXES + box] if box else mate)
        boxes = [self._box(rng, np.array(of_box), nature, about, pulse) for of_box in rows]
        normal, slope, cross, others, channel, intensity = zip(*boxes, strict=True)
        left = np.sum(others, axis=0)
        gram = Gram(
            start=np.cumsum([0, *map(len, channel)]),
            hkl=self.factors.hkl[np.concatenate(rows)].repeat(5, axis=0),
            channel=np.concatenate(channel).astype(np.int32),
            intensity=np.concatenate(intensity),
            slope=np.concatenate(slope),
            cross=np.concatenate(cross),
            nuisance=left[:1, :1] + SCALE_SIGMA**-2.0,
            score=left[:1, 1],
            normal=np.concatenate(normal),
            loss=0.5 * left[1, 1],
            n_pixels=N_BOXES * N_PIXELS,
        )
        return gram, pulse

    def _box(
        self,
        rng: np.random.Generator,
        rows: np.ndarray,
        nature: "Nature",
        about: StructureFactors,
        pulse: np.ndarray,
    ) -> tuple:
        """A shoebox's share of `Gram`: normal, slope, cross, others, channel, intensity. about: F
        that the share is expanded about.
        """
        n = len(rows)
        channel = (rng.integers(0, 8, n)[:, None] + np.arange(5)).ravel()
        centres = (rng.uniform(6, 10, n)[:, None] + 2.0 * np.arange(5)).ravel()
        place = np.arange(N_PIXELS)[:, None] - centres
        photons = 3e-3 * pulse[channel] * np.exp(-0.5 * (place / 1.5) ** 2)
        row = rows.repeat(5)
        true_intensity, intensity = (
            np.abs(factors.at(row)[np.arange(5 * n), channel]) ** 2
            for factors in (nature.factors, about)
        )
        true_intensity = true_intensity * nature.brightness(rng, n).repeat(5)
        bright = photons @ intensity
        expected = photons @ (SCALE * true_intensity - intensity)
        residual = expected + np.sqrt(nature.excess) * rng.standard_normal(N_PIXELS)
        others = np.column_stack([bright, residual])
        cross = photons.T @ others
        normal = (photons.T @ photons)[np.tril_indices(5 * n)].astype(np.float32)
        return normal, cross[:, 1], cross[:, :1], others.T @ others, channel, intensity


def as_curves(complex_curves: np.ndarray) -> np.ndarray:
    """(site, 2, channel) of f' + i f'' (site, channel)."""
    return np.stack([complex_curves.real, complex_curves.imag], axis=1)


def _of_model(
    hkl: np.ndarray, rest: np.ndarray, groups: np.ndarray, space_group: str, cell: list[float]
) -> Drawn:
    """A crystal whose model is right but for its curves, which are the metal's."""
    start, true = (
        np.array([anomalous.site("Fe", name, ENERGIES) for name in names])
        for names in (("metallic", "metallic"), TRUE)
    )
    p = dispersion.free(as_curves(start), ENERGIES, ENERGIES[::2])
    return Drawn(
        factors=StructureFactors(hkl.astype(np.int32), rest, groups, start, 2),
        rest=rest,
        p=p,
        theta=controls.nearest(p, as_curves(true)),
        space_group=space_group,
        cell=unit_cell.radians(cell),
    )


def _all_indices() -> np.ndarray:
    """(node, 3) Miller indices to ±4, but for 0, 0, 0."""
    hkl = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return hkl[hkl.any(axis=1)]


def body_centred() -> Drawn:
    """A triclinic crystal with a body-centred cell, F drawn node by node."""
    rng = np.random.default_rng(1)
    hkl = _all_indices()
    hkl = hkl[hkl.sum(axis=1) % 2 == 0]
    real, imaginary = 30.0 * rng.standard_normal((2, len(hkl)))
    positions = np.array([[0.13, 0.37], [0.21, 0.09], [0.31, 0.24]])
    groups = 2.0 * np.exp(2j * np.pi * hkl @ positions).T
    cell = [20.0, 22.0, 24.0, 85.0, 95.0, 100.0]
    return _of_model(hkl, real + 1j * imaginary, groups, "I 1", cell)


def orthorhombic() -> Drawn:
    """A crystal of P 21 21 21, F of its atoms: some reflections are centric, and some absent."""
    hkl = _all_indices()
    positions = _positions()
    phase = np.zeros((len(hkl), len(positions)), dtype=np.complex128)
    for op in symmetry.group("P 21 21 21").operations():
        moved = np.array([op.apply_to_xyz(xyz.tolist()) for xyz in positions])
        phase += np.exp(2j * np.pi * hkl @ moved.T)
    rest = 6.0 * phase[:, 2:].sum(axis=1)
    groups = np.ascontiguousarray(SITE_OCCUPANCY * phase[:, :2].T)
    right = _of_model(hkl, rest, groups, "P 21 21 21", [19.0, 23.0, 27.0, 90.0, 90.0, 90.0])
    return right._replace(n_shared=3)


def _positions() -> np.ndarray:
    """(14, 3) fractional coordinates of its atoms, the two sites first."""
    return np.random.default_rng(2).uniform(size=(14, 3))


def moved_sites(
    crystal: Drawn, values: np.ndarray, sigma: tuple[float, ...] = (0.1, 0.1, 0.1, 1.0)
) -> tuple[SiteUnknowns, np.ndarray]:
    """Place (Å) and B (Å²) of each site of `orthorhombic` as unknowns at `values` (site, 4), and g
    (site, node) of the sites there.
    """
    n_sites = len(values)
    places = _positions()[:n_sites] @ np.diag(crystal.cell[:3])
    slopes = []
    groups = []
    for place, value in zip(places, values, strict=True):
        atoms = Atoms(
            *[np.array([""])] * 7,
            xyz=(place + value[:3])[None] / crystal.cell[:3],
            occupancy=np.array([SITE_OCCUPANCY]),
            beta=isotropic(value[3:], crystal.cell),
        )
        of_site = geometric_slopes(atoms, crystal.cell, crystal.factors.hkl, crystal.space_group)
        slopes.append(of_site[:4])
        groups.append(of_site[4])
    unknowns = SiteUnknowns(
        names=tuple(f"site {site}: {name}" for site in range(n_sites) for name in "xyzB"),
        site=np.repeat(np.arange(n_sites), 4),
        slopes=np.concatenate(slopes),
        sigma=np.tile(sigma, n_sites),
        origin=values.ravel(),
    )
    return unknowns, np.array(groups)


class Wrong(NamedTuple):
    """A crystal whose model is wrong."""

    crystal: Drawn
    hkl: np.ndarray
    """(reflection, 3) unique ones"""
    x: np.ndarray
    """(reflection, 2) a and b of nature"""
    variance: float
    """S, electrons²"""


def wrong(crystal: Drawn, sigma_e: float, seed: int = 0) -> Wrong:
    """The crystal with X in nature that scatters by `sigma_e` about the model's.

    Equivalents share it; Friedel mates have its conjugate; that of centric reflections has the
    model's phase or the opposite one.
    """
    rng = np.random.default_rng(seed)
    factors = crystal.factors
    operations = symmetry.group(crystal.space_group).operations()
    asu, friedel = symmetry.to_asu(factors.hkl, crystal.space_group)
    hkl, number = np.unique(asu, axis=0, return_inverse=True)
    is_centric = np.asarray(operations.centric_flag_array(hkl), dtype=bool)
    epsilon = np.asarray(operations.epsilon_factor_array(hkl), dtype=float)
    x = sigma_e * np.sqrt(0.5 * epsilon)[:, None] * rng.standard_normal((len(hkl), 2))
    x[is_centric] *= [np.sqrt(2.0), 0.0]
    e = factors.rest / np.maximum(np.abs(factors.rest), 1e-9)
    own = x[number.ravel()] @ [1.0, 1j]
    change = e * np.where(friedel < 0, np.conj(own), own)
    return Wrong(crystal._replace(rest=factors.rest + change), hkl, x, sigma_e**2)


def sums(
    crystal: Drawn,
    grams: list[Gram],
    pulses: np.ndarray,
    kind: str,
    is_held: bool = False,
    sites: SiteUnknowns = NO_SITE_UNKNOWNS,
) -> LatticeSums:
    """The lattices, with X unknown as `kind` says. Their only unknown is ln scale."""
    unknown = Unknown(
        kind=kind,
        cell=crystal.cell,
        space_group=crystal.space_group,
        sigma=0.1,
        sites=sites,
        is_held=is_held,
    )
    return LatticeSums(
        grams,
        crystal.factors,
        pulses,
        crystal.energies_ev,
        unknowns=["scale"],
        unknown=unknown,
    )


def problem(of_lattices: LatticeSums, p: Parametrisation) -> Problem:
    """What curves and X of lattices are judged by."""
    assert of_lattices.rest is not None, "X is unknown"
    return of_lattices._problem(of_lattices.columns, of_lattices.rest, p)


def with_nodes(crystal: Drawn, nodes_ev: np.ndarray) -> Drawn:
    """The crystal with curves that are free at other nodes. Its true curves are the same where the
    nodes are all channels.
    """
    true = crystal.p.curves(crystal.theta)
    p = dispersion.free(crystal.p.reference, ENERGIES, nodes_ev)
    return crystal._replace(p=p, theta=controls.nearest(p, true))


def unique(crystal: Drawn) -> np.ndarray:
    """(node, 3) Miller indices of the unique reflections that the nodes are equivalent to."""
    return symmetry.to_asu(crystal.factors.hkl, crystal.space_group)[0]
