"""Rows of atoms in PDB files of others: numbers that are none are refused, and elements are
completed where their columns are blank or shifted.

Columns 77-78 hold the element. Where they do not, the name of the atom does, in columns 13-16, but
not always in one way: by convention the element ends in column 14, so that calcium is `CA` in
column 13 and a carbon CA in column 14, and many programs write all names from column 13, or all
from 14. A name that can be read in two ways, FE1 as iron or fluorine, is an error.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import gemmi

from spreadflow.errors import FileError

RECORDS = ("ATOM  ", "HETATM")
"""First six columns of the rows of atoms."""

NUMBERS = {
    "x": slice(30, 38),
    "y": slice(38, 46),
    "z": slice(46, 54),
    "occupancy": slice(54, 60),
    "B": slice(60, 66),
}
"""Columns of numbers."""

ELEMENT = slice(76, 78)
"""Columns of the element."""

AFTER_B = 66
"""First column after those of B: a shifted element is somewhere behind."""

SELENIUM = ("MSE", "SEC")
"""Residues of protein whose atom SE is selenium."""

FILL_IN = "State its element in columns 77-78."
"""What to do about an atom without one."""


class Row(NamedTuple):
    """The row of an atom."""

    number: int
    """of the line, from 1"""
    text: str

    @property
    def name(self) -> str:
        """Its name as it stands in four columns."""
        return self.text[12:16].ljust(4)

    @property
    def residue_name(self) -> str:
        """Of its residue."""
        return self.text[17:20].strip()

    @property
    def residue(self) -> str:
        """Chain, number and insertion code of its residue."""
        return f"{self.text[21:22].strip()}/{self.text[22:27].strip()}"

    @property
    def is_named_in_one_way(self) -> bool:
        """Whether its residue is one of protein, nucleic acid or water, whose atoms all have names
        of C, H, N, O, P or S, and of selenium.
        """
        residue = gemmi.find_tabulated_residue(self.residue_name)
        return residue.is_standard() or residue.is_water() or self.residue_name in SELENIUM

    def __str__(self) -> str:
        return f"line {self.number}, {self.residue}({self.residue_name})/{self.name.strip()}"


def completed(path: Path | str, text: str) -> tuple[str, list[str]]:
    """Return the text of a PDB file with the element of every atom in its columns, and what was
    completed, in words. Raises FileError for a number that is none, and for an atom whose element
    neither the columns nor the name tell.
    """
    lines = text.splitlines()
    rows = list(_rows(lines))
    for row in rows:
        _check_numbers(path, row)
    silent = [row for row in rows if _stated(row) is None]
    if not silent:
        return text, []

    sizes = Counter(row.residue for row in rows)
    is_left_aligned = any(_is_left_aligned(row) for row in rows)
    elements = [_named(path, row, sizes[row.residue], is_left_aligned) for row in silent]
    for row, element in zip(silent, elements, strict=True):
        lines[row.number - 1] = f"{row.text[:AFTER_B].ljust(ELEMENT.start)}{element:>2}"
    remark = (
        f"columns 77-78 of {len(silent)} atoms are blank or shifted; their elements are those of "
        f"their names, the first in {silent[0]}: {elements[0]}"
    )
    return "\n".join(lines) + "\n", [remark]


def _rows(lines: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of atoms."""
    for number, line in enumerate(lines, start=1):
        if line.startswith(RECORDS):
            yield Row(number, line)


def _check_numbers(path: Path | str, row: Row) -> None:
    """Raise FileError where the columns of a number hold none."""
    for name, columns in NUMBERS.items():
        field = row.text[columns]
        try:
            is_number = math.isfinite(float(field))
        except ValueError:
            is_number = False
        if not is_number:
            expected = f"{name} in columns {columns.start + 1}-{columns.stop}"
            todo = "Correct the row: columns of PDB files are fixed."
            raise FileError(path, expected, f"'{field}' in {row}", todo)


def _stated(row: Row) -> str | None:
    """Return what columns 77-78 state, an element or not; None where they are blank, or where a
    word is there that reaches beyond them.
    """
    for word in re.finditer("[A-Za-z]+", row.text):
        if word.end() > ELEMENT.start and word.start() < ELEMENT.stop:
            is_inside = word.start() >= ELEMENT.start and word.end() <= ELEMENT.stop
            return word.group() if is_inside else None
    return None


def _is_left_aligned(row: Row) -> bool:
    """Whether a name begins in column 13 that should begin in 14."""
    is_short = len(row.name.strip()) < len(row.name)
    return is_short and row.name[0].isalpha() and row.is_named_in_one_way


def _named(path: Path | str, row: Row, n_atoms: int, is_left_aligned: bool) -> str:
    """Return the element that the name of an atom tells. n_atoms: of its residue; is_left_aligned:
    whether names of the file begin in column 13. Raises FileError where it tells none, or two.
    """
    readings = _readings(row.name.strip())
    if row.is_named_in_one_way and readings:
        return "SE" if "SE" in readings and row.residue_name in SELENIUM else readings[0]
    if n_atoms == 1 and row.residue_name.rstrip("0123456789") in readings:
        return row.residue_name.rstrip("0123456789")
    shifted = [
        reading for reading in readings if reading in row.text[AFTER_B:].upper().split()[-1:]
    ]
    if shifted:
        return shifted[0]
    is_by_convention = row.name[0].isalpha() and row.name[3] == " " and not is_left_aligned
    if len(readings) == 2 and is_by_convention:
        return readings[1]
    if len(readings) != 1:
        found = f"none; the name could be of {' or '.join(readings) or 'no element'}, in {row}"
        raise FileError(path, "an element in columns 77-78", found, FILL_IN)
    return readings[0]


def _readings(name: str) -> list[str]:
    """Return the elements that a name may begin with, of one letter and of two."""
    letters = name.lstrip("0123456789").upper()
    heads = dict.fromkeys((letters[:1], letters[:2]))
    return [head for head in heads if gemmi.Element(head).atomic_number > 0]
