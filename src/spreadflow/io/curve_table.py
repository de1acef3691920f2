"""Curves f′(E), f″(E) from tables, as programs and people write them.

What can be repaired without a doubt is repaired, and said in a remark; all else is an error that
names the row. Whether the numbers can be those of an element is for those to say who know which:
`anomalous.implausible`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.errors import FileError

COLUMNS = "three columns: energy (eV), f', f''"
"""What a table should be."""

N_COLUMNS = 3
"""Columns of a table."""

COMMENTS = re.compile("[#!%]")
"""What stands behind one of these is no number."""

SEPARATORS = " \t,;"
"""What stands between the numbers of a row."""

HIGHEST_KEV = 200.0
"""Energies of which none is above this are in keV."""

MOST_ELECTRONS = 120.0
"""More electrons than any atom has."""

CORRECT = "Correct the table."
"""What to do about a table with a row that is wrong."""


class Curve(NamedTuple):
    """A table of f′ and f″."""

    path: Path | str
    lines: np.ndarray
    """(row,) lines of the file, from 1"""
    energies_ev: np.ndarray
    """(row,) eV, rising"""
    values: np.ndarray
    """(row,) complex128 f′ + i f″, electrons"""
    remarks: list[str]
    """what was repaired"""

    def rows(self, chosen: slice) -> "Curve":
        """Return some of its rows."""
        return self._replace(
            lines=self.lines[chosen],
            energies_ev=self.energies_ev[chosen],
            values=self.values[chosen],
        )

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
            found = "; ".join([f"{first:.1f}-{last:.1f} eV", *self.remarks])
            raise FileError(self.path, expected, found, "Take a longer table, with energies in eV.")

        real = np.interp(energies_ev, self.energies_ev, self.values.real)
        imaginary = np.interp(energies_ev, self.energies_ev, self.values.imag)
        return real + 1j * imaginary


def read_curve(path: Path | str) -> Curve:
    """Return a table of three columns: energy, f′, f″.

    Repaired, with a remark: energies in keV, or falling; rows that are there twice; f″ before f′,
    as CHOOCH writes them, which is told by f′ being negative somewhere where f″ cannot be. Raises
    FileError.
    """
    lines, table = _numbers(path)
    remarks = []
    if table[:, 0].max() < HIGHEST_KEV:
        table[:, 0] *= 1000.0
        remarks.append("its energies are taken for keV")
    if np.all(np.diff(table[:, 0]) <= 0.0):
        lines = lines[::-1]
        table = table[::-1]
        remarks.append("its falling energies are turned round")
    is_repeated = np.append(False, np.all(table[1:] == table[:-1], axis=1))
    if is_repeated.any():
        remarks.append(f"{is_repeated.sum()} rows that are there twice are left out")
        lines = lines[~is_repeated]
        table = table[~is_repeated]
    if (table[:, 1] > 0.0).all() and (table[:, 2] <= 0.0).any():
        table = table[:, [0, 2, 1]]
        remarks.append("its second column is taken for f'', as the third is not positive")
    _check(path, lines, table)
    return Curve(
        path=path,
        lines=lines,
        energies_ev=table[:, 0],
        values=table[:, 1] + 1j * table[:, 2],
        remarks=remarks,
    )


def _numbers(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Return the lines (row,) and numbers (row, 3) of a table, of which lines of words may come
    before the first row. Raises FileError.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(path, f"a table of {COLUMNS}", error, CORRECT) from None
    lines = []
    rows: list[list[float | None]] = []
    for number, words in _rows(text):
        row = [_number(word) for word in words]
        is_heading = not rows and row[0] is None
        if is_heading:
            continue
        if None in row or len(row) != N_COLUMNS:
            found = f"line {number}: {' '.join(words)}"
            raise FileError(path, COLUMNS, found, CORRECT)
        lines.append(number)
        rows.append(row)
    if len(rows) < 2:
        raise FileError(path, f"rows of {COLUMNS}", f"{len(rows)} rows of numbers", CORRECT)
    return np.array(lines), np.array(rows, dtype=np.float64)


def _number(word: str) -> float | None:
    """Return a number; None for another word."""
    try:
        return float(word)
    except ValueError:
        return None


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line that is neither empty nor a comment, and its words."""
    for number, line in enumerate(text.splitlines(), start=1):
        words = COMMENTS.split(line)[0].strip(SEPARATORS)
        if words:
            yield number, re.split(f"[{SEPARATORS}]+", words)


def _check(path: Path | str, lines: np.ndarray, table: np.ndarray) -> None:
    """Raise FileError for the first row that no curve can have."""
    energies, fp, fdp = table.T
    is_falling = np.append(False, np.diff(energies) <= 0.0)
    is_wrong = {
        "numbers": ~np.isfinite(table).all(axis=1),
        "energies that rise from row to row": is_falling,
        "f'' > 0 in the third column": fdp <= 0.0,
        "f' and f'' of an atom": (np.abs(fp) > MOST_ELECTRONS) | (fdp > MOST_ELECTRONS),
    }
    for expected, wrong in is_wrong.items():
        if wrong.any():
            row = int(wrong.argmax())
            numbers = " ".join(f"{value:g}" for value in table[row])
            found = f"line {lines[row]}: {numbers}"
            raise FileError(path, f"{expected}: E (eV), f', f''", found, CORRECT)
