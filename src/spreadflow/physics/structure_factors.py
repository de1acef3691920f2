"""Structure factors of a model, kept factored: F(h, E) = F_rest(h) + Σ_s g_s(h)·(f'_s(E) + i
f''_s(E)).

g_s(h) = Σ_atoms occupancy · exp(−hᵀβh) · exp(2πi h·x) over the atoms of group s in the whole cell:
a named site, or all other atoms of an element. F_rest holds all f0 (IT92) and the flat bulk solvent
k_sol exp(−B_sol/4d²) F_mask (Jiang & Brünger 1994). Conventional axes, both Friedel mates.
"""

from collections.abc import Mapping
from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.models import Array
from spreadflow.physics import miller, symmetry, unit_cell

CHUNK_HKL = 4096
"""Nodes summed at a time: few sizes, few compiled programs."""

CHUNK_ATOMS = 256
"""Atoms summed at a time: what they need stays in the cache."""

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


class Atoms(NamedTuple):
    """Atoms of the asymmetric unit."""

    names: np.ndarray
    """(atom,) str, as in the model: CA, FE1"""
    elements: np.ndarray
    """(atom,) str: C, Fe"""
    chains: np.ndarray
    """(atom,) str: A; of mmCIF files the authors' names"""
    residues: np.ndarray
    """(atom,) str, number and insertion code: 201, 203A; empty where the file has none"""
    residue_names: np.ndarray
    """(atom,) str: FES"""
    altlocs: np.ndarray
    """(atom,) str, alternative position: B; empty where there is but one"""
    sites: np.ndarray
    """(atom,) str, name of the site that the atom belongs to; empty where it belongs to none"""
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

    def rows(self, hkl: np.ndarray) -> np.ndarray:
        """Return the rows (n,) of nodes (n, 3); −1 where there is none."""
        return miller.rows(np.asarray(self.hkl), hkl)

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Return F (len(rows), channel), complex, of nodes given by row, electrons."""
        return self.rest[rows, None] + self.groups[:, rows].T @ self.anomalous

    def squared(self, rows: np.ndarray) -> np.ndarray:
        """Return |F|² (len(rows), channel) of nodes given by row, electrons²."""
        f1 = self.anomalous.real
        f2 = self.anomalous.imag
        return f_squared(self.rest[rows, None], self.groups[:, rows], f1, f2)

    def without_sites(self, rows: np.ndarray) -> np.ndarray:
        """Return F without the named sites' f' and f'' (len(rows), channel), complex, electrons."""
        others = slice(self.n_sites, None)
        return self.rest[rows, None] + self.groups[others, rows].T @ self.anomalous[others]


def f_squared(fixed: Array, groups: Array, f1: Array, f2: Array) -> Array:
    """Return |fixed + Σ_s groups_s·(f'_s + i f''_s)|² (node, channel), electrons², in real
    arithmetic, which XLA fuses.

    fixed: (node, channel) or (node, 1) complex; groups: (site, node) complex; f1, f2: (site,
    channel) f' and f''. NumPy in, NumPy out; with JAX differentiable in all of them.
    """
    real = fixed.real
    imaginary = fixed.imag
    for g, f1_of_site, f2_of_site in zip(groups, f1, f2, strict=True):
        g_real = g.real[:, None]
        g_imaginary = g.imag[:, None]
        real = real + g_real * f1_of_site - g_imaginary * f2_of_site
        imaginary = imaginary + g_imaginary * f1_of_site + g_real * f2_of_site
    return real * real + imaginary * imaginary


def isotropic(b: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Return β (n, 3, 3) of isotropic B (n,), Å²: exp(−hᵀβh) = exp(−B/4d²)."""
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
    """Return the structure factors of every node to d_min, Å. cell: (6,) Å, rad.

    sites: name of a site → (channel,) f' + i f'' of its atoms. others: element → (channel,)
    f' + i f'' of its atoms that are no site (0 where not given); a single number holds for all
    channels. k_sol: e/Å³; b_sol: Å². Raises ValueError for a site without atoms.
    """
    for name in sites:
        if name not in atoms.sites:
            raise ValueError(f"the model has no atom of site '{name}'")
    nodes = unit_cell.all_indices(unit_cell.reciprocal(cell), d_min)
    nodes = nodes[~symmetry.is_centring_absent(nodes, space_group)]
    equivalents = _representatives(nodes, space_group)
    unique = equivalents.unique
    stol2 = 0.25 / unit_cell.spacing(unit_cell.reciprocal(cell), unique) ** 2

    members = _groups(atoms, sites, others)
    rest = np.zeros(len(nodes), dtype=np.complex128)
    groups = np.zeros((len(members), len(nodes)), dtype=np.complex128)
    for group, (is_member, _) in zip(groups, members, strict=True):
        for element in np.unique(atoms.elements[is_member]):
            chosen = _pick(atoms, is_member & (atoms.elements == element))
            g = equivalents.spread_out(geometric(chosen, unique, space_group))
            rest += g * form_factor(element, stol2)[equivalents.row]
            group += g
    if k_sol:
        mask = mask_transform(atoms, cell, space_group, nodes, d_min)
        rest += k_sol * np.exp(-b_sol * stol2[equivalents.row]) * mask

    curves = np.broadcast_arrays(np.zeros(1), *(curve for _, curve in members))[1:]
    return StructureFactors(
        hkl=nodes,
        rest=rest,
        groups=groups,
        anomalous=np.array(curves, dtype=np.complex128),
        n_sites=len(sites),
    )


def _groups(
    atoms: Atoms, sites: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the groups of atoms that scatter alike, the sites first: which atoms (atom,) bool, and
    their f' + i f''.
    """
    is_site = np.isin(atoms.sites, list(sites))
    groups = [(atoms.sites == name, curve) for name, curve in sites.items()]
    for element in np.unique(atoms.elements[~is_site]):
        is_member = ~is_site & (atoms.elements == element)
        groups.append((is_member, others.get(str(element), np.zeros(1))))
    return groups


def perturbed(
    rng: np.random.Generator,
    atoms: Atoms,
    cell: np.ndarray,
    xyz_ang: float = WRONG_XYZ_ANG,
    missing: float = WRONG_MISSING,
) -> tuple[Atoms, float]:
    """Return a model that is wrong as refined ones are, and its k_sol: B + 10 %, k_sol 0.35, atoms
    moved, some of them missing.

    xyz_ang: r.m.s. length of the displacements, which are normal and isotropic, Å; missing:
    fraction of the atoms. Atoms of sites move but are never missing.
    """
    moves = rng.normal(scale=xyz_ang / np.sqrt(3.0), size=atoms.xyz.shape)
    others = np.flatnonzero(atoms.sites == "")
    absent = rng.choice(others, round(missing * len(others)), replace=False)
    xyz = atoms.xyz + moves @ np.linalg.inv(unit_cell.orthogonalization(cell)).T
    wrong = atoms._replace(xyz=xyz, beta=WRONG_B * atoms.beta)
    return Atoms(*(np.delete(column, absent, axis=0) for column in wrong)), WRONG_K_SOL


def _pick(atoms: Atoms, which: np.ndarray) -> Atoms:
    """Return some of the atoms. which: (atom,) bool."""
    return Atoms(*(column[which] for column in atoms))


def form_factor(element: str, stol2: np.ndarray) -> np.ndarray:
    """Return f0 of the neutral atom (IT92), electrons, at (sin θ/λ)², Å⁻²."""
    table = gemmi.Element(str(element)).it92
    if table is None:
        raise ValueError(f"no form factor for element '{element}'")
    return table.c + np.exp(-np.outer(stol2, table.b)) @ np.array(table.a)


def _operations(space_group: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the rotations (op, 3, 3) and translations (op, 3) of fractional coordinates, and the
    number of centring vectors.
    """
    ops = symmetry.group(space_group).operations()
    rotations = np.array([op.rot for op in ops.sym_ops], dtype=np.int64)
    translations = np.array([op.tran for op in ops.sym_ops], dtype=np.float64)
    denominator = gemmi.Op.DEN
    return rotations // denominator, translations / denominator, len(ops.cen_ops)


class _Equivalents(NamedTuple):
    """Nodes as symmetry mates, Friedel mates included, of unique ones.

    F(h) = F(hR)·exp(2πi h·t), and F(−h) = F(h)* where atoms scatter without phase shift.
    """

    unique: np.ndarray
    """(m, 3) one node of each set of equivalents"""
    row: np.ndarray
    """(node,) row in `unique`"""
    is_friedel_mate: np.ndarray
    """(node,) whether the node is equivalent to −h of the unique one"""
    phase: np.ndarray
    """(node,) complex phase factor exp(2πi h·t)"""

    def spread_out(self, values: np.ndarray) -> np.ndarray:
        """Return sums (node,) over atoms without phase shift from those of unique nodes (m,)."""
        of_nodes = values[self.row]
        return np.where(self.is_friedel_mate, np.conj(of_nodes), of_nodes) * self.phase


def _representatives(hkl: np.ndarray, space_group: str) -> _Equivalents:
    """Return nodes hkl (node, 3) as mates of unique ones: of all equivalents of a node, the one of
    the smallest key.
    """
    rotations, translations, _ = _operations(space_group)
    smallest = np.full(len(hkl), np.iinfo(np.int64).max)
    is_friedel_mate = np.zeros(len(hkl), dtype=bool)
    phase = np.ones(len(hkl), dtype=np.complex128)
    size = 4 * int(np.abs(hkl).max(initial=1)) + 1
    places = np.array([size * size, size, 1])
    for rotation, translation in zip(rotations, translations, strict=True):
        turned = hkl.astype(np.int64) @ rotation
        for sign in (1, -1):
            key = ((sign * turned + size // 2) @ places).astype(np.int64)
            is_smaller = key < smallest
            smallest[is_smaller] = key[is_smaller]
            is_friedel_mate[is_smaller] = sign < 0
            phase[is_smaller] = np.exp(2j * np.pi * (hkl[is_smaller] @ translation))
    keys, row = np.unique(smallest, return_inverse=True)
    digits = np.stack([keys // size**2, keys // size % size, keys % size], axis=1)
    return _Equivalents(
        unique=digits - size // 2, row=row, is_friedel_mate=is_friedel_mate, phase=phase
    )


def geometric(atoms: Atoms, hkl: np.ndarray, space_group: str) -> np.ndarray:
    """Return g(h) (n,), complex, of nodes (n, 3): Σ over the atoms of the whole cell of
    occupancy·exp(−hᵀβh)·exp(2πi h·x).
    """
    from spreadflow.physics import atom_sums  # JAX

    rotations, translations, n_centring = _operations(space_group)
    xyz = np.einsum("oij,aj->oai", rotations, atoms.xyz) + translations[:, None]
    beta = np.einsum("oij,ajk,olk->oail", rotations, atoms.beta, rotations)
    entries = [beta[..., i, j] * (1 if i == j else 2) for i, j in atom_sums.PAIRS]
    weight = np.broadcast_to(n_centring * atoms.occupancy, xyz.shape[:2])

    xyz = _padded(np.mod(xyz, 1.0).reshape(-1, 3), CHUNK_ATOMS)
    six = _padded(np.stack(entries, axis=-1).reshape(-1, 6), CHUNK_ATOMS)
    weight = _padded(weight.reshape(-1, 1), CHUNK_ATOMS)[:, 0]
    nodes = _padded(np.asarray(hkl, dtype=np.float64), CHUNK_HKL)
    total = np.zeros(len(nodes), dtype=np.complex128)
    for start in range(0, len(nodes), CHUNK_HKL):
        rows = slice(start, start + CHUNK_HKL)
        for first in range(0, len(weight), CHUNK_ATOMS):
            block = slice(first, first + CHUNK_ATOMS)
            sums = atom_sums.sum_over_block(nodes[rows], xyz[block], six[block], weight[block])
            real, imaginary = map(np.asarray, sums)
            total[rows] += real + 1j * imaginary
    return total[: len(hkl)]


def geometric_slopes(
    atoms: Atoms, cell: np.ndarray, hkl: np.ndarray, space_group: str
) -> np.ndarray:
    """Return the derivatives (5, n), complex, of g(h) of a few atoms at nodes hkl (n, 3): by a
    common shift along x, y, z (Å, orthogonal axes with x along a), by B (Å²) and by ln occupancy.

    cell: (6,) Å, rad. Each symmetry copy turns its phase by 2πi hR·dx.
    """
    rotations, translations, n_centring = _operations(space_group)
    to_fractional = np.linalg.inv(unit_cell.orthogonalization(cell))
    hkl = np.asarray(hkl, dtype=np.float64)
    out = np.zeros((5, len(hkl)), dtype=np.complex128)
    for rotation, translation in zip(rotations, translations, strict=True):
        turned = hkl @ rotation
        phase = hkl @ translation
        for xyz, beta, occupancy in zip(atoms.xyz, atoms.beta, atoms.occupancy, strict=True):
            exponent = np.einsum("ni,ij,nj->n", turned, beta, turned)
            wave = np.exp(2j * np.pi * (turned @ xyz + phase) - exponent)
            g = n_centring * occupancy * wave
            out[:3] += 2j * np.pi * (turned @ to_fractional).T * g
            out[4] += g
    out[3] = -0.25 / unit_cell.spacing(unit_cell.reciprocal(cell), hkl) ** 2 * out[4]
    return out


def _padded(rows: np.ndarray, multiple: int) -> np.ndarray:
    """Return rows with zeros up to a multiple."""
    return np.pad(rows, ((0, -len(rows) % multiple), (0, 0)))


def mask_transform(
    atoms: Atoms,
    cell: np.ndarray,
    space_group: str,
    hkl: np.ndarray,
    d_min: float,
    step: float = 0.25,
) -> np.ndarray:
    """Return the Fourier transform (n,), complex, of the bulk-solvent mask at hkl (n, 3), on a grid
    of step·d_min.
    """
    model = _gemmi_model(atoms, cell)
    grid = gemmi.FloatGrid()
    grid.set_unit_cell(gemmi.UnitCell(*unit_cell.degrees(cell)))
    grid.spacegroup = symmetry.group(space_group)
    grid.set_size_from_spacing(step * d_min, gemmi.GridSizeRounding.Up)
    masker = gemmi.SolventMasker(gemmi.AtomicRadiiSet.Cctbx)
    masker.rprobe = SOLVENT_RADIUS
    masker.rshrink = SOLVENT_SHRINK
    masker.put_mask_on_float_grid(grid, model)
    transform = gemmi.transform_map_to_f_phi(grid, half_l=False)
    values = transform.get_value_by_hkl(np.asarray(hkl, dtype=np.int32))
    return np.array(values, dtype=np.complex128)


def _gemmi_model(atoms: Atoms, cell: np.ndarray) -> gemmi.Model:
    """Return the atoms as a gemmi model of one residue (elements, places and occupancies only)."""
    model = gemmi.Model(1)
    chain = gemmi.Chain("A")
    residue = gemmi.Residue()
    places = atoms.xyz @ unit_cell.orthogonalization(cell).T
    for element, place, occupancy in zip(atoms.elements, places, atoms.occupancy, strict=True):
        atom = gemmi.Atom()
        atom.element = gemmi.Element(str(element))
        atom.pos = gemmi.Position(*place)
        atom.occ = occupancy
        residue.add_atom(atom)
    chain.add_residue(residue)
    model.add_chain(chain)
    return model
