"""Crystal structures and scattering curves from files: PDB, mmCIF, tables of three columns."""

from pathlib import Path

import gemmi
import numpy as np

from spreadflow.errors import FileError
from spreadflow.physics import unit_cell
from spreadflow.physics.structure_factors import Atoms, isotropic


def read(path: Path | str, cell: np.ndarray, space_group: str) -> Atoms:
    """Atoms of the first model of a PDB or mmCIF file, in the given cell (6,) Å, rad.

    A file's own cell must agree to 1 % and 1°, and its space group must be the given one. Raises FileError.
    """
    try:
        structure = gemmi.read_structure(str(path))
    except (OSError, RuntimeError, ValueError) as error:
        raise FileError(path, "a PDB or mmCIF file", error, "Check crystal.model.") from None
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise FileError(path, "a model with atoms", "none", "Check crystal.model.")
    _check_crystal(path, structure, cell, space_group)
    gemmi_cell = (
        structure.cell if structure.cell.is_crystal() else gemmi.UnitCell(*unit_cell.degrees(cell))
    )
    atoms = [cra.atom for cra in structure[0].all()]
    unknown = {atom.name for atom in atoms if atom.element.it92 is None}
    if unknown:
        raise FileError(
            path,
            "elements with known form factors",
            sorted(unknown),
            "Name the elements in the file.",
        )
    to_fractional = np.array(gemmi_cell.frac.mat.tolist())
    return Atoms(
        np.array([atom.name for atom in atoms]),
        np.array(
            ["H" if atom.element.name == "D" else atom.element.name for atom in atoms]
        ),  # the same for X-rays
        np.array([gemmi_cell.fractionalize(atom.pos).tolist() for atom in atoms]),
        np.array([atom.occ for atom in atoms]),
        np.array([_beta(atom, cell, to_fractional) for atom in atoms]),
    )


def _beta(atom: gemmi.Atom, cell: np.ndarray, to_fractional: np.ndarray) -> np.ndarray:
    """(3, 3) β: 2π² U on reciprocal axes where the atom is anisotropic, else that of its B."""
    if not atom.aniso.nonzero():
        return isotropic(np.array([atom.b_iso]), cell)[0]
    return 2 * np.pi**2 * to_fractional @ np.array(atom.aniso.as_mat33().tolist()) @ to_fractional.T


def _check_crystal(
    path: Path | str, structure: gemmi.Structure, cell: np.ndarray, space_group: str
) -> None:
    """Raise FileError where the file's crystal is another one than the configuration's."""
    found = structure.find_spacegroup()
    if found is not None and found.xhm() != gemmi.find_spacegroup_by_name(space_group).xhm():
        raise FileError(
            path,
            f"space group '{space_group}' (crystal.space_group)",
            found.xhm(),
            "Make them agree.",
        )
    if structure.cell.is_crystal():
        mine = unit_cell.degrees(cell)
        theirs = np.array(structure.cell.parameters)
        if np.any(np.abs(theirs - mine) > np.array([*(0.01 * mine[:3]), 1.0, 1.0, 1.0])):
            expected = f"cell {np.round(mine, 2).tolist()} (crystal.cell)"
            raise FileError(path, expected, theirs.round(2).tolist(), "Make them agree.")


def read_curve(path: Path | str, energies_ev: np.ndarray) -> np.ndarray:
    """(channel,) complex f' + i f'' at the given energies, from a table of E (eV), f', f''; linear between its rows."""
    try:
        table = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise FileError(
            path, "a table of three columns: energy (eV), f', f''", error, "Check crystal.sites."
        ) from None
    finite = np.isfinite(table).all()
    if table.shape[1] != 3 or len(table) < 2 or not finite or np.any(np.diff(table[:, 0]) <= 0):
        found = f"{table.shape[1]} columns, {len(table)} rows{'' if finite else ', not all of them numbers'}"
        raise FileError(
            path, "three columns with rising energies: E (eV), f', f''", found, "Correct the table."
        )
    if energies_ev.min() < table[0, 0] or energies_ev.max() > table[-1, 0]:
        expected = f"a table that covers {energies_ev.min():.1f}-{energies_ev.max():.1f} eV"
        raise FileError(
            path, expected, f"{table[0, 0]:.1f}-{table[-1, 0]:.1f} eV", "Take a longer table."
        )
    real, imaginary = (np.interp(energies_ev, table[:, 0], table[:, i]) for i in (1, 2))
    return real + 1j * imaginary
