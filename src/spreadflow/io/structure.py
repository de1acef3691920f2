"""Crystal structures and scattering curves from files: PDB, mmCIF, tables of three columns."""

from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.same_cell import is_same_cell
from spreadflow.physics import unit_cell
from spreadflow.physics.structure_factors import Atoms, isotropic


def read(path: Path | str, cell: np.ndarray, space_group: str) -> Atoms:
    """Return the atoms of the first model of a PDB or mmCIF file.

    cell: (6,) Å, rad; a file's own cell must agree with it to 1 % and 1°, and its space group must
    be `space_group`. Raises FileError.
    """
    structure = _read_structure(path)
    _check_crystal(path, structure, cell, space_group)
    own_cell = structure.cell
    if not own_cell.is_crystal():
        own_cell = gemmi.UnitCell(*unit_cell.degrees(cell))

    places = list(structure[0].all())
    atoms = [place.atom for place in places]
    without_factors = {atom.name for atom in atoms if atom.element.it92 is None}
    if without_factors:
        expected = "elements with known form factors"
        todo = "Name the elements in the file."
        raise FileError(path, expected, sorted(without_factors), todo)

    to_fractional = np.array(own_cell.frac.mat.tolist())
    return Atoms(
        names=np.array([atom.name for atom in atoms]),
        elements=np.array([_element(atom) for atom in atoms]),
        chains=np.array([place.chain.name for place in places]),
        residues=np.array([_number(place.residue) for place in places]),
        residue_names=np.array([place.residue.name for place in places]),
        altlocs=np.array([atom.altloc if atom.has_altloc() else "" for atom in atoms]),
        sites=np.full(len(atoms), ""),
        xyz=np.array([own_cell.fractionalize(atom.pos).tolist() for atom in atoms]),
        occupancy=np.array([atom.occ for atom in atoms]),
        beta=np.array([_beta(atom, cell, to_fractional) for atom in atoms]),
    )


def _read_structure(path: Path | str) -> gemmi.Structure:
    """Return a structure with at least one atom. Raises FileError."""
    todo = "Give a PDB or mmCIF file of the crystal."
    try:
        structure = gemmi.read_structure(str(path))
    except (OSError, RuntimeError, ValueError) as error:
        raise FileError(path, "a PDB or mmCIF file", error, todo) from None
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise FileError(path, "a model with atoms", "none", todo)
    return structure


def _element(atom: gemmi.Atom) -> str:
    """Return the element of an atom; deuterium is hydrogen for X-rays."""
    return "H" if atom.element.name == "D" else atom.element.name


def _number(residue: gemmi.Residue) -> str:
    """Return the number and insertion code of a residue; empty where the file has none."""
    return "" if residue.seqid.num is None else str(residue.seqid)


def _beta(atom: gemmi.Atom, cell: np.ndarray, to_fractional: np.ndarray) -> np.ndarray:
    """Return β (3, 3): 2π² U on reciprocal axes where the atom is anisotropic, else that of its
    B.
    """
    if not atom.aniso.nonzero():
        b = np.array([atom.b_iso])
        return isotropic(b, cell)[0]
    u = np.array(atom.aniso.as_mat33().tolist())
    return 2 * np.pi**2 * to_fractional @ u @ to_fractional.T


def _check_crystal(
    path: Path | str, structure: gemmi.Structure, cell: np.ndarray, space_group: str
) -> None:
    """Raise FileError where the file's crystal is another one than the configuration's."""
    todo = "Make them agree."
    group = structure.find_spacegroup()
    configured_group = gemmi.find_spacegroup_by_name(space_group)
    if group is not None and group.xhm() != configured_group.xhm():
        expected = f"space group '{space_group}', as configured"
        raise FileError(path, expected, group.xhm(), todo)

    if structure.cell.is_crystal():
        configured = unit_cell.degrees(cell)
        own = np.array(structure.cell.parameters)
        if not is_same_cell(own, configured):
            expected = f"cell {np.round(configured, 2).tolist()}, as configured"
            raise FileError(path, expected, own.round(2).tolist(), todo)


class Curve(NamedTuple):
    """A table of f′ and f″."""

    path: Path | str
    energies_ev: np.ndarray
    """(row,) eV, rising"""
    values: np.ndarray
    """(row,) complex128 f′ + i f″, electrons"""

    def at(self, energies_ev: np.ndarray) -> np.ndarray:
        """Return f′ + i f″ at energies (channel,), linear between rows. Raises FileError beyond the
        table.
        """
        first = self.energies_ev[0]
        last = self.energies_ev[-1]
        lowest = energies_ev.min()
        highest = energies_ev.max()
        if lowest < first or highest > last:
            expected = f"a table that covers {lowest:.1f}-{highest:.1f} eV"
            found = f"{first:.1f}-{last:.1f} eV"
            raise FileError(self.path, expected, found, "Take a longer table.")

        real = np.interp(energies_ev, self.energies_ev, self.values.real)
        imaginary = np.interp(energies_ev, self.energies_ev, self.values.imag)
        return real + 1j * imaginary


def read_curve(path: Path | str) -> Curve:
    """Return a table of three columns: energy (eV), f′, f″. Raises FileError."""
    todo = "Correct the table."
    try:
        table = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        expected = "a table of three columns: energy (eV), f', f''"
        raise FileError(path, expected, error, todo) from None

    n_rows, n_columns = table.shape
    is_finite = np.isfinite(table).all()
    is_rising = not np.any(np.diff(table[:, 0]) <= 0)
    if n_columns != 3 or n_rows < 2 or not is_finite or not is_rising:
        found = f"{n_columns} columns, {n_rows} rows"
        if not is_finite:
            found += ", not all of them numbers"
        expected = "three columns with rising energies: E (eV), f', f''"
        raise FileError(path, expected, found, todo)

    return Curve(path, energies_ev=table[:, 0], values=table[:, 1] + 1j * table[:, 2])
