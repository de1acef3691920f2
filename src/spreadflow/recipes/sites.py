"""Which atoms of a model the configured sites mean."""

from collections.abc import Sequence

import numpy as np

from spreadflow.config import StructureFactorsSection
from spreadflow.config.simulation import Site
from spreadflow.errors import ConfigError
from spreadflow.physics import atom_selection
from spreadflow.physics.structure_factors import Atoms

MAX_ATOMS = 12
"""Largest number of atoms that a message lists."""


def assign(section: StructureFactorsSection, atoms: Atoms) -> Atoms:
    """Return the atoms, each with the label of its site.

    Of a model, a site is one atom, with all its alternative positions unless the selection names
    one, or the atoms of a list of selections. Of the phantom, it is all atoms that are selected.
    Raises ConfigError for a site of no atom, of several that no list says to share a curve, of two
    elements, of no occupancy, or with an atom of another site.
    """
    labels = np.full(len(atoms.names), "", dtype=object)
    for number, site in enumerate(section.sites):
        where = f"structure_factors.sites.{number}.atom"
        is_chosen = _chosen(where, site, atoms)
        if section.model is not None and isinstance(site.atom, str):
            _check_is_one(where, site.atom, atoms, is_chosen)
        _check_scatters(where, atoms, is_chosen)
        is_taken = is_chosen & (labels != "")
        if is_taken.any():
            other = labels[is_taken][0]
            found = f"{_in_words(atom_selection.distinct(atoms, is_taken))} of the site {other}"
            raise ConfigError(where, "atoms of no other site", found, "Select other atoms.")
        labels[is_chosen] = site.label
    return atoms._replace(sites=labels.astype(str))


def elements(section: StructureFactorsSection, atoms: Atoms) -> list[str]:
    """Return the element of each site among atoms with their sites."""
    return [str(atoms.elements[atoms.sites == site.label][0]) for site in section.sites]


def _chosen(where: str, site: Site, atoms: Atoms) -> np.ndarray:
    """Return the atoms of a site, (atom,) bool. Raises ConfigError for a selection that cannot be
    understood, or of no atom.
    """
    is_chosen = np.zeros(len(atoms.names), dtype=bool)
    for selection in site.selections:
        try:
            is_selected = atom_selection.chosen(atoms, selection)
        except ValueError as error:
            expected = "the name of an atom (FE1) or gemmi's selection (//A/201/FE1:B)"
            raise ConfigError(where, expected, error, "Correct it.") from None
        if not is_selected.any():
            special = atom_selection.distinct(atoms, atom_selection.is_special(atoms))
            found = f"no atom '{selection}'"
            todo = (
                f"Atoms other than {', '.join(atom_selection.ORDINARY)}: "
                f"{_in_words(special) or 'none'}."
            )
            raise ConfigError(where, "an atom of the model", found, todo)
        is_chosen |= is_selected
    return is_chosen


def _check_is_one(where: str, selection: str, atoms: Atoms, is_chosen: np.ndarray) -> None:
    """Raise ConfigError where a selection means several atoms, also where these have one name and
    no alternative positions.
    """
    expected = "one atom, or a list of selections whose atoms share the curve"
    distinct = atom_selection.distinct(atoms, is_chosen)
    if atom_selection.has_namesakes(atoms, is_chosen):
        found = f"several atoms that the model calls {_in_words(distinct)}"
        todo = f"Give them other chains or numbers in the model, or select all as [{selection!r}]."
        raise ConfigError(where, expected, found, todo)
    if len(distinct) > 1:
        found = f"{len(distinct)} atoms '{selection}': {_in_words(distinct)}"
        todo = f"Select one of them, or all as [{selection!r}]."
        raise ConfigError(where, expected, found, todo)


def _check_scatters(where: str, atoms: Atoms, is_chosen: np.ndarray) -> None:
    """Raise ConfigError where the atoms of a site are of several elements, or have no occupancy."""
    names = _in_words(atom_selection.distinct(atoms, is_chosen))
    of_site = np.unique(atoms.elements[is_chosen])
    if len(of_site) > 1:
        found = f"{', '.join(of_site)}: {names}"
        raise ConfigError(where, "atoms of one element", found, "Select those of one curve.")
    if not atoms.occupancy[is_chosen].any():
        found = f"occupancy 0: {names}"
        todo = "Correct the model, or leave the site out: it does not scatter."
        raise ConfigError(where, "atoms that are there", found, todo)


def _in_words(selections: Sequence[str]) -> str:
    """Return the first selections of a list, and how many more there are."""
    n_more = len(selections) - MAX_ATOMS
    words = ", ".join(selections[:MAX_ATOMS])
    return f"{words} and {n_more} more" if n_more > 0 else words
