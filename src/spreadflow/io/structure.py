"""Crystal structures from PDB and mmCIF files, as programs and people write them.

What can be repaired without a doubt is repaired, and said in a remark; all else is an error that
names the atom.
"""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io import pdb_rows
from spreadflow.io.same_cell import is_same_cell
from spreadflow.physics import symmetry, unit_cell
from spreadflow.physics.structure_factors import Atoms, isotropic

GZIP = b"\x1f\x8b"
"""First bytes of a compressed file."""

PLACEHOLDERS = ("DUM", "UNX")
"""Residues whose atoms stand for something unknown, whatever their element."""

ON_AXIS_ANG = 0.5
"""Distance of an atom from its symmetry mate, Å, below which both are one atom."""

MOST_OCCUPIED = 1.01
"""Occupancy of a place, all mates together, above which the file counts an atom several times."""

LARGEST_OCCUPANCY = 2.0
"""Of an atom; the refinement of heavy atoms may take it above 1."""

GIVE_MODEL = "Give a PDB or mmCIF file of the crystal."
"""What to do about a file that is no model."""


class Structure(NamedTuple):
    """What a file says of the atoms of a crystal."""

    atoms: Atoms
    remarks: list[str]
    """what was repaired, left out or not understood"""


def read(path: Path | str, cell: np.ndarray, space_group: str) -> Structure:
    """Return the atoms of the first model of a PDB or mmCIF file, compressed or not.

    cell: (6,) Å, rad; a file's own cell must agree with it to 1 % and 1°, and its space group must
    be `space_group`. Raises FileError.
    """
    structure, remarks = whole(path)
    remarks += fill_cell(structure, unit_cell.degrees(cell), space_group)
    remarks += _check_crystal(path, structure, cell, space_group)
    structure.spacegroup_hm = space_group
    structure.setup_cell_images()

    places = list(structure[0].all())
    remarks += _share_special_positions(structure.cell, places)
    atoms = [place.atom for place in places]
    to_fractional = np.array(structure.cell.frac.mat.tolist())
    columns = Atoms(
        names=np.array([atom.name for atom in atoms]),
        elements=np.array([_element(atom) for atom in atoms]),
        chains=np.array([place.chain.name for place in places]),
        residues=np.array([_number(place.residue) for place in places]),
        residue_names=np.array([place.residue.name for place in places]),
        altlocs=np.array([atom.altloc if atom.has_altloc() else "" for atom in atoms]),
        sites=np.full(len(atoms), ""),
        xyz=np.array([structure.cell.fractionalize(atom.pos).tolist() for atom in atoms]),
        occupancy=np.array([atom.occ for atom in atoms]),
        beta=np.array([_beta(atom, cell, to_fractional) for atom in atoms]),
    )
    return Structure(columns, remarks)


def whole(path: Path | str, todo: str = GIVE_MODEL) -> tuple[gemmi.Structure, list[str]]:
    """Return the structure in a file, repaired and with all copies of its first model, and remarks
    on that. Raises FileError where it has no atoms, or some that mean nothing.

    todo: what to do about a file that is no model.
    """
    text = _text(path, todo)
    structure = _parsed(path, text, todo)
    remarks: list[str] = []
    if structure.input_format == gemmi.CoorFormat.Pdb:
        text, remarks = pdb_rows.completed(path, text)
        structure = _parsed(path, text, todo)
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise FileError(path, "a model with atoms", "none", todo)
    if len(structure) > 1:
        remarks.append(f"of {len(structure)} models the first is taken")
    remarks += _complete(structure)
    _check_atoms(path, list(structure[0].all()))
    return structure, remarks


def fill_cell(structure: gemmi.Structure, cell: np.ndarray, space_group: str) -> list[str]:
    """Give a structure without a unit cell the configured one and its space group, and return a
    remark on that; none where the file has its own. cell: (6,) Å, degrees.
    """
    if structure.cell.is_crystal():
        return []
    structure.cell = gemmi.UnitCell(*cell)
    structure.spacegroup_hm = space_group
    return ["the file has no unit cell; the configured cell and space group are taken"]


def _text(path: Path | str, todo: str) -> str:
    """Return the text of a file, compressed or not. Raises FileError."""
    try:
        content = Path(path).read_bytes()
        if content.startswith(GZIP):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(path, "a PDB or mmCIF file", error, todo) from None
    return content.decode("utf-8-sig", errors="replace")


def _parsed(path: Path | str, text: str, todo: str) -> gemmi.Structure:
    """Return the structure in a text. Raises FileError."""
    try:
        return gemmi.read_structure_string(text, format=gemmi.CoorFormat.Detect)
    except (RuntimeError, ValueError) as error:
        raise FileError(path, "a PDB or mmCIF file", error, todo) from None


def _complete(structure: gemmi.Structure) -> list[str]:
    """Add the copies that MTRIX records ask for, or `_struct_ncs_oper` of mmCIF, and return a
    remark on them.
    """
    n_before = structure[0].count_atom_sites()
    structure.expand_ncs(gemmi.HowToNameCopiedChain.Short, merge_dist=0.0)
    n_added = structure[0].count_atom_sites() - n_before
    if not n_added:
        return []
    return [f"{n_added} copies of atoms by non-crystallographic symmetry are added"]


def _check_atoms(path: Path | str, places: Sequence[gemmi.CRA]) -> None:
    """Raise FileError for atoms of no element, and for numbers that are none or mean nothing."""
    unknown = [place for place in places if _is_unknown(place)]
    if unknown:
        found = f"{len(unknown)} unknown atoms, the first {_in_words(unknown[0])}"
        todo = "State its element, or leave it out; so with the others."
        raise FileError(path, "elements with known form factors", found, todo)
    for place in places:
        atom = place.atom
        is_finite = np.isfinite([*atom.pos.tolist(), atom.occ, atom.b_iso]).all()
        if not is_finite or not 0.0 <= atom.occ <= LARGEST_OCCUPANCY or atom.b_iso < 0.0:
            expected = (
                f"places, occupancies from 0 to {LARGEST_OCCUPANCY:g}, and B of 0 or more of all "
                "atoms"
            )
            found = f"{atom.pos.tolist()}, {atom.occ:g}, {atom.b_iso:g} of {_in_words(place)}"
            raise FileError(path, expected, found, "Correct its row.")


def _is_unknown(place: gemmi.CRA) -> bool:
    """Whether an atom stands for something unknown."""
    no_factors = place.atom.element.atomic_number == 0 or place.atom.element.it92 is None
    return no_factors or place.residue.name in PLACEHOLDERS


def _in_words(place: gemmi.CRA) -> str:
    """Return serial number, element, chain, residue and name of an atom."""
    atom = place.atom
    of_residue = f"{place.chain.name}/{place.residue.seqid}({place.residue.name})"
    return f"{atom.serial} ({atom.element.name}), {of_residue}/{atom.name}"


def _share_special_positions(cell: gemmi.UnitCell, places: Sequence[gemmi.CRA]) -> list[str]:
    """Divide the occupancy of atoms that lie on symmetry elements and count as several atoms there,
    and return a remark on them. cell: with its images.
    """
    shared = []
    for place in places:
        n_mates = 1 + cell.is_special_position(place.atom.pos, ON_AXIS_ANG)
        if place.atom.occ * n_mates > MOST_OCCUPIED and n_mates > 1:
            place.atom.occ /= n_mates
            shared.append(place)
    if not shared:
        return []
    return [
        f"{len(shared)} atoms on symmetry elements with too large an occupancy have their share of "
        f"it, the first {_in_words(shared[0])}: {shared[0].atom.occ:g}"
    ]


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
) -> list[str]:
    """Return remarks on what the file does not say of its crystal. Raises FileError where it is
    another one than the configuration's.
    """
    configured = unit_cell.degrees(cell)
    own = np.array(structure.cell.parameters)
    if not is_same_cell(own, configured):
        expected = f"cell {np.round(configured, 2).tolist()}, as configured"
        todo = "Correct `cell` of the section that names the model, or the file."
        raise FileError(path, expected, own.round(2).tolist(), todo)

    group = structure.find_spacegroup()
    if group is None:
        name = structure.spacegroup_hm
        return [f"the file's space group, '{name}', is not known; the configured one is taken"]
    configured_group = symmetry.group(space_group)
    if group.xhm() != configured_group.xhm():
        expected = f"space group '{space_group}', as configured"
        found = f"'{group.xhm()}'"
        todo = "Correct `space_group` of the section that names the model, or the file."
        if group.number == configured_group.number:
            found += ", the same group on other axes"
            todo = f"Transform the model, or index on its axes with {group.xhm()}."
        raise FileError(path, expected, found, todo)
    return []
