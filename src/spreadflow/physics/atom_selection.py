"""Which atoms of a model a selection means: the name of an atom, or gemmi's selection, as
`//A/201/FE1:B` (model, chain, residue number with insertion code, name, alternative position).
"""

import gemmi
import numpy as np

from spreadflow.physics.structure_factors import Atoms

SYNTAX = "/([:;"
"""A selection without any of these is the name of an atom."""

ORDINARY = ("C", "H", "N", "O", "P", "S")
"""Elements of which whole macromolecules consist."""


def chosen(atoms: Atoms, selection: str) -> np.ndarray:
    """Return the atoms that a selection means, (atom,) bool. Raises ValueError for one that cannot
    be understood.
    """
    if not any(mark in selection for mark in SYNTAX):
        return atoms.names == selection
    is_chosen = np.zeros(len(atoms.names), dtype=bool)
    parsed = _parse(selection)
    structure = _structure(atoms)  # gemmi's models are gone with their structure
    for model in parsed.models(structure):
        for chain in parsed.chains(model):
            for residue in parsed.residues(chain):
                for atom in parsed.atoms(residue):
                    is_chosen[atom.serial] = True
    return is_chosen


def _parse(selection: str) -> gemmi.Selection:
    """Return a selection as gemmi understands it. Raises ValueError where it does not, and for the
    part after `;`, which tells what atoms are like and not which they are.
    """
    if ";" in selection:
        raise ValueError(f"'{selection}' has a part after ';'")
    try:
        return gemmi.Selection(selection)
    except RuntimeError as error:
        raise ValueError(str(error)) from None


def _structure(atoms: Atoms) -> gemmi.Structure:
    """Return the atoms as gemmi's structure: who they are, and their rows as serial numbers."""
    model = gemmi.Model(1)
    columns = (atoms.chains, atoms.residues, atoms.residue_names, atoms.names, atoms.altlocs)
    identities = zip(*(column.tolist() for column in columns), strict=True)
    for row, (chain_name, number, residue_name, name, altloc) in enumerate(identities):
        chain = gemmi.Chain(chain_name)
        residue = gemmi.Residue()
        residue.name = residue_name
        if number:
            residue.seqid = _sequence_id(number)
        atom = gemmi.Atom()
        atom.serial = row
        atom.name = name
        atom.element = gemmi.Element(str(atoms.elements[row]))
        atom.altloc = altloc or "\0"
        residue.add_atom(atom)
        chain.add_residue(residue)
        model.add_chain(chain)
    structure = gemmi.Structure()
    structure.add_model(model)
    return structure


def _sequence_id(residue: str) -> gemmi.SeqId:
    """Return a residue's number and insertion code; gemmi itself makes 203a of 203A."""
    if residue[-1:].isdigit():
        return gemmi.SeqId(int(residue), " ")
    return gemmi.SeqId(int(residue[:-1]), residue[-1])


def distinct(atoms: Atoms, is_chosen: np.ndarray) -> list[str]:
    """Return the selection of each of the chosen atoms (atom,) bool, in their order. Alternative
    positions of an atom are one atom, also where the residues at that number have two names.
    """
    rows = np.flatnonzero(is_chosen)
    selections = [f"//{atoms.chains[row]}/{atoms.residues[row]}/{atoms.names[row]}" for row in rows]
    return list(dict.fromkeys(selections))


def has_namesakes(atoms: Atoms, is_chosen: np.ndarray) -> bool:
    """Whether several of the chosen atoms (atom,) bool have one chain, number, name and alternative
    position.
    """
    columns = (atoms.chains, atoms.residues, atoms.names, atoms.altlocs)
    identities = list(zip(*(column[is_chosen].tolist() for column in columns), strict=True))
    return len(set(identities)) < len(identities)


def is_special(atoms: Atoms) -> np.ndarray:
    """Return which atoms (atom,) bool are neither of protein nor of nucleic acid or water by their
    element: the metals first of all.
    """
    return ~np.isin(atoms.elements, ORDINARY)
