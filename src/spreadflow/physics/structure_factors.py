"""Structure factors of a model, kept factored: F(h, E) = F_rest(h) + Σ_s g_s(h)·(f'_s(E) + i
f''_s(E)).

g_s(h) = Σ_atoms occupancy · exp(−hᵀβh) · exp(2πi h·x) over the atoms of group s in the whole cell:
a named site, or all other atoms of an element. F_rest holds all f0 (IT92) and the flat bulk solvent
k_sol exp(−B_sol/4d²) F_mask (Jiang & Brünger 1994). Conventional axes, both Friedel mates.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import gemmi
import jax
import jax.numpy as jnp
import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Array
from spreadflow.physics import symmetry, unit_cell

CHUNK_HKL = 4096
CHUNK_ATOMS = 256
UNROLL = 8
SOLVENT_RADIUS = 1.11
"""Radius of the probe that finds the solvent mask, Å: that of the published programs."""

SOLVENT_SHRINK = 0.9
"""Distance by which the mask is shrunk back after the probe, Å."""

WRONG_B = 1.1
"""Factor on B of a perturbed model."""

WRONG_K_SOL = 0.35
"""k_sol of a perturbed model, e/Å³."""

WRONG_XYZ_ANG = 0.1
"""R.m.s. length of the displacements of a perturbed model's atoms, Å."""

WRONG_MISSING = 0.05
"""Fraction of the atoms that a perturbed model lacks."""

_PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


class Atoms(NamedTuple):
    """Atoms of the asymmetric unit."""

    names: np.ndarray
    """(atom,) str, as in the model: CA, FE1"""
    elements: np.ndarray
    """(atom,) str: C, Fe"""
    xyz: np.ndarray
    """(atom, 3) fractional coordinates"""
    occupancy: np.ndarray
    """(atom,) as in PDB files: an atom that n operations leave in place has 1/n of its share at
    most
    """
    beta: np.ndarray
    """(atom, 3, 3) dimensionless: the temperature factor is exp(−hᵀβh)"""


class StructureFactors(NamedTuple):
    """F of every node to a resolution, in a form that costs nothing per energy."""

    hkl: Array
    """(node, 3) int32, conventional axes, both Friedel mates, centring absences left out"""
    rest: Array
    """(node,) complex128, electrons: all that does not depend on energy"""
    groups: Array
    """(group, node) complex128: g of each kind of anomalous atom, the named sites first, then the
    other elements
    """
    anomalous: Array
    """(group, channel) complex128: f' + i f'', electrons"""
    n_sites: int = 0
    """so many of the groups are named sites"""

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Return (len(rows), channel) complex F of nodes given by row."""
        return self.rest[rows, None] + self.groups[:, rows].T @ self.anomalous

    def squared(self, rows: np.ndarray) -> np.ndarray:
        """Return (len(rows), channel) |F|² of nodes given by row, electrons²."""
        return f_squared(
            self.rest[rows, None], self.groups[:, rows], self.anomalous.real, self.anomalous.imag
        )

    def without_sites(self, rows: np.ndarray) -> np.ndarray:
        """Return (len(rows), channel) complex: what the named sites' f', f'' are added to."""
        others = slice(self.n_sites, None)
        return self.rest[rows, None] + self.groups[others, rows].T @ self.anomalous[others]


def f_squared(fixed: Array, groups: Array, f1: Array, f2: Array) -> Array:
    """Return (node, channel) |fixed + Σ_s groups_s·(f'_s + i f''_s)|², electrons², in real
    arithmetic, which XLA fuses.

    fixed: (node, channel) or (node, 1) complex; groups: (site, node) complex; f1, f2: (site,
    channel) f' and f''. NumPy in, NumPy out; with JAX differentiable in all of them.
    """
    real = fixed.real
    imaginary = fixed.imag
    for g, up, across in zip(groups, f1, f2, strict=True):
        a = g.real[:, None]
        b = g.imag[:, None]
        real = real + a * up - b * across
        imaginary = imaginary + b * up + a * across
    return real * real + imaginary * imaginary


def isotropic(b: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Return (n, 3, 3) β of isotropic B (n,), Å²: exp(−hᵀβh) = exp(−B/4d²)."""
    reciprocal = unit_cell.reciprocal(cell)
    return 0.25 * np.asarray(b)[:, None, None] * (reciprocal.T @ reciprocal)


def structure_factors(
    atoms: Atoms,
    cell: np.ndarray,
    space_group: str,
    *,
    d_min: float,
    sites: Mapping[str, np.ndarray],
    others: Mapping[str, np.ndarray],
    k_sol: float = 0.0,
    b_sol: float = 0.0,
) -> StructureFactors:
    """Return structure factors of every node to d_min, Å. cell: (6,) Å, rad.

    sites: atom name → (channel,) f' + i f'' of the atoms of that name. others: element → (channel,)
    f' + i f'' of its atoms that are no site (0 where not given); a single number holds for all
    channels. Raises ValueError for a site the model does not have.
    """
    for name in sites:
        if name not in atoms.names:
            raise ValueError(f"the model has no atom '{name}'")
    nodes = unit_cell.all_indices(unit_cell.reciprocal(cell), d_min)
    nodes = nodes[~symmetry.is_centring_absent(nodes, space_group)]
    unique, back, conjugate, phase = _representatives(nodes, space_group)
    stol2 = 0.25 / unit_cell.spacing(unit_cell.reciprocal(cell), unique) ** 2
    is_site = np.isin(atoms.names, list(sites))
    members = [(atoms.names == name, curve) for name, curve in sites.items()]
    for element in np.unique(atoms.elements[~is_site]):
        members.append(
            (~is_site & (atoms.elements == element), others.get(str(element), np.zeros(1)))
        )
    rest = np.zeros(len(nodes), dtype=np.complex128)
    groups = np.zeros((len(members), len(nodes)), dtype=np.complex128)
    for g, (chosen, _) in zip(groups, members, strict=True):
        for element in np.unique(atoms.elements[chosen]):
            some = geometric(
                _pick(atoms, chosen & (atoms.elements == element)), unique, space_group
            )
            spread = np.where(conjugate, np.conj(some[back]), some[back]) * phase
            rest += spread * form_factor(element, stol2)[back]
            g += spread
    if k_sol:
        rest += (
            k_sol
            * np.exp(-b_sol * stol2[back])
            * mask_transform(atoms, cell, space_group, nodes, d_min)
        )
    curves = np.array(
        np.broadcast_arrays(np.zeros(1), *(curve for _, curve in members))[1:], dtype=np.complex128
    )
    return StructureFactors(nodes, rest, groups, curves, len(sites))


def perturbed(
    rng: np.random.Generator, atoms: Atoms, cell: np.ndarray, sites: Collection[str]
) -> tuple[Atoms, float]:
    """Return a model that is wrong as refined ones are, and its k_sol: B + 10 %, k_sol 0.35, atoms
    moved, 5 % of them missing.

    Displacements are normal and isotropic, 0.1 Å r.m.s. in length (0.058 Å along each axis). Atoms
    named in `sites` move but are never missing.
    """
    moves = rng.normal(scale=WRONG_XYZ_ANG / np.sqrt(3.0), size=atoms.xyz.shape)
    others = np.flatnonzero(~np.isin(atoms.names, list(sites)))
    lost = rng.choice(others, round(WRONG_MISSING * len(others)), replace=False)
    xyz = atoms.xyz + moves @ np.linalg.inv(unit_cell.orthogonalization(cell)).T
    wrong = atoms._replace(xyz=xyz, beta=WRONG_B * atoms.beta)
    return Atoms(*(np.delete(column, lost, axis=0) for column in wrong)), WRONG_K_SOL


def _pick(atoms: Atoms, which: np.ndarray) -> Atoms:
    return Atoms(*(column[which] for column in atoms))


def form_factor(element: str, stol2: np.ndarray) -> np.ndarray:
    """Return f0 of the neutral atom (IT92), electrons, at (sin θ/λ)², Å⁻²."""
    table = gemmi.Element(str(element)).it92
    if table is None:
        raise ValueError(f"no form factor for element '{element}'")
    return table.c + np.exp(-np.outer(stol2, table.b)) @ np.array(table.a)


def _operations(space_group: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Return rotations (op, 3, 3), translations (op, 3) of fractional coordinates, and the number
    of centring vectors.
    """
    ops = symmetry.group(space_group).operations()
    turns = np.array([op.rot for op in ops.sym_ops], dtype=np.int64) // gemmi.Op.DEN
    shifts = np.array([op.tran for op in ops.sym_ops], dtype=np.float64) / gemmi.Op.DEN
    return turns, shifts, len(ops.cen_ops)


def _representatives(hkl: np.ndarray, space_group: str):
    """Return one node of each set of equivalents, Friedel mates included.

    Returns unique (m, 3), and for each node its row in `unique`, whether it is a mate of it, and
    the phase factor: F(h) = F(hR)·exp(2πi h·t), F'(−h) = F'(h)* where atoms scatter without phase
    shift.
    """
    turns, shifts, _ = _operations(space_group)
    best = np.full(len(hkl), np.iinfo(np.int64).max)
    conjugate = np.zeros(len(hkl), dtype=bool)
    phase = np.ones(len(hkl), dtype=np.complex128)
    size = 4 * int(np.abs(hkl).max(initial=1)) + 1
    for turn, shift in zip(turns, shifts, strict=True):
        turned = hkl.astype(np.int64) @ turn
        for sign in (1, -1):
            key = ((sign * turned + size // 2) @ np.array([size * size, size, 1])).astype(np.int64)
            better = key < best
            best[better], conjugate[better] = key[better], sign < 0
            phase[better] = np.exp(2j * np.pi * (hkl[better] @ shift))
    keys, back = np.unique(best, return_inverse=True)
    unique = np.stack([keys // size**2, keys // size % size, keys % size], axis=1) - size // 2
    return unique, back, conjugate, phase


def geometric(atoms: Atoms, hkl: np.ndarray, space_group: str) -> np.ndarray:
    """Return (n,) complex g(h) of nodes (n, 3): Σ over the atoms of the whole cell of
    occupancy·exp(−hᵀβh)·exp(2πi h·x).
    """
    turns, shifts, n_centring = _operations(space_group)
    xyz = np.einsum("oij,aj->oai", turns, atoms.xyz) + shifts[:, None]
    beta = np.einsum("oij,ajk,olk->oail", turns, atoms.beta, turns)
    six = np.stack([beta[..., i, j] * (1 if i == j else 2) for i, j in _PAIRS], axis=-1)
    weight = np.broadcast_to(n_centring * atoms.occupancy, xyz.shape[:2])
    columns = (
        _filled(np.mod(xyz, 1.0).reshape(-1, 3), CHUNK_ATOMS),
        _filled(six.reshape(-1, 6), CHUNK_ATOMS),
    )
    weights = _filled(weight.reshape(-1, 1), CHUNK_ATOMS)
    padded = _filled(np.asarray(hkl, dtype=np.float64), CHUNK_HKL)
    total = np.zeros(len(padded), dtype=np.complex128)
    for start in range(0, len(padded), CHUNK_HKL):
        some = slice(start, start + CHUNK_HKL)
        for first in range(0, len(weights), CHUNK_ATOMS):
            block = slice(first, first + CHUNK_ATOMS)
            real, imaginary = _sum_over_atoms(
                padded[some], columns[0][block], columns[1][block], weights[block, 0]
            )
            total[some] += np.asarray(real) + 1j * np.asarray(imaginary)
    return total[: len(hkl)]


def _filled(rows: np.ndarray, multiple: int) -> np.ndarray:
    """Return rows padded with zeros to a multiple."""
    return np.pad(rows, ((0, -len(rows) % multiple), (0, 0)))


def _half_turn_series() -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients in x² of cos(πx) and sin(πx)/x on |x| ≤ ½, to 1e-8 (least squares at
    Chebyshev nodes).
    """
    x = 0.5 * np.cos(np.pi * (np.arange(200) + 0.5) / 200)

    def fit(y):
        return np.polynomial.Polynomial.fit(x**2, y, 5, domain=[0, 1], window=[0, 1]).coef

    return fit(np.cos(np.pi * x)).astype(np.float32), fit(np.sin(np.pi * x) / x).astype(np.float32)


_COS, _SIN = _half_turn_series()


def _phase(turns):
    """Return cos and sin of 2π·turns, |turns| ≤ ½, in arithmetic that vectorises (the library's
    float32 functions do not).
    """
    t2 = turns * turns
    cosine = jnp.float32(_COS[-1])
    sine = jnp.float32(_SIN[-1])
    for c, s in zip(_COS[-2::-1], _SIN[-2::-1], strict=True):
        cosine = cosine * t2 + c
        sine = sine * t2 + s
    sine = sine * turns
    return 1.0 - 2.0 * sine * sine, 2.0 * sine * cosine


@jax.jit
def _sum_over_atoms(hkl, xyz, beta, weight):
    """Return real and imaginary parts (n,) float32 of the sum over one block of atoms; phases
    reduced to a turn in float64.
    """
    h = hkl[:, 0]
    k = hkl[:, 1]
    l = hkl[:, 2]
    products = [jnp.float32(a * b) for a, b in ((h, h), (k, k), (l, l), (h, k), (h, l), (k, l))]
    xyz, beta, weight = (
        a.reshape(-1, UNROLL, *a.shape[1:]) for a in (xyz, jnp.float32(beta), jnp.float32(weight))
    )

    def step(n, sums):
        real, imaginary = sums
        for u in range(UNROLL):
            turns = h * xyz[n, u, 0] + k * xyz[n, u, 1] + l * xyz[n, u, 2]
            cosine, sine = _phase(jnp.float32(turns - jnp.round(turns)))
            exponent = sum(p * beta[n, u, i] for i, p in enumerate(products))
            size = weight[n, u] * jnp.exp(-exponent)
            real = real + size * cosine
            imaginary = imaginary + size * sine
        return real, imaginary

    zero = jnp.zeros(len(hkl), dtype=jnp.float32)
    return jax.lax.fori_loop(0, len(weight), step, (zero, zero))


def mask_transform(
    atoms: Atoms,
    cell: np.ndarray,
    space_group: str,
    hkl: np.ndarray,
    d_min: float,
    step: float = 0.25,
) -> np.ndarray:
    """Return (n,) complex Fourier transform of the bulk-solvent mask at hkl (n, 3), on a grid of
    step·d_min.
    """
    model = _gemmi_model(atoms, cell)
    grid = gemmi.FloatGrid()
    grid.set_unit_cell(gemmi.UnitCell(*unit_cell.degrees(cell)))
    grid.spacegroup = symmetry.group(space_group)
    grid.set_size_from_spacing(step * d_min, gemmi.GridSizeRounding.Up)
    masker = gemmi.SolventMasker(gemmi.AtomicRadiiSet.Cctbx)
    masker.rprobe, masker.rshrink = SOLVENT_RADIUS, SOLVENT_SHRINK
    masker.put_mask_on_float_grid(grid, model)
    transform = gemmi.transform_map_to_f_phi(grid, half_l=False)
    return np.array(
        transform.get_value_by_hkl(np.asarray(hkl, dtype=np.int32)), dtype=np.complex128
    )


def _gemmi_model(atoms: Atoms, cell: np.ndarray) -> gemmi.Model:
    """Return the atoms as a gemmi model of one residue (names, elements and places only)."""
    model = gemmi.Model(1)
    chain = gemmi.Chain("A")
    residue = gemmi.Residue()
    places = atoms.xyz @ unit_cell.orthogonalization(cell).T
    for element, place, occupancy in zip(atoms.elements, places, atoms.occupancy, strict=True):
        atom = gemmi.Atom()
        atom.element, atom.pos, atom.occ = (
            gemmi.Element(str(element)),
            gemmi.Position(*place),
            occupancy,
        )
        residue.add_atom(atom)
    chain.add_residue(residue)
    model.add_chain(chain)
    return model
