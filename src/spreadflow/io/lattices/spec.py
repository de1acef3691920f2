"""Spec files: which lattices another program indexed, as diffBragg's `exp_ref_spec_file` has them.

One lattice a line, in columns: `.expt .refl [spectrum.lam] [number of the experiment]`. Names with
blanks stand in double quotes; a word that begins with # and what follows it are a comment.
"""

import shlex
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from spreadflow.errors import FileError


class SpecLine(NamedTuple):
    """One line: an experiment list and its reflection table."""

    line: int
    """number in the file, from 1"""
    expt: Path
    refl: Path
    experiment: int | None
    """number in the .expt, from 0"""
    spectrum: Path | None
    """the .lam file of its pulse, where the line names one"""


def read(path: Path | str) -> list[SpecLine]:
    """Return the lines of a spec file but those without a word; relative names start at its folder.
    Raises FileError.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise FileError(path, "a spec file", error, "Check the path.") from None

    words = [(number, _words(path, number, line)) for number, line in enumerate(lines, 1)]
    parsed = [_parse(path, number, columns) for number, columns in words if columns]
    if not parsed:
        raise FileError(path, "a line for each lattice", "none", "Write `.expt .refl` on each.")
    return parsed


def _words(path: Path, number: int, line: str) -> list[str]:
    """Return the words of a line, without its comment. Raises FileError where a quote is open."""
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split = True
    lexer.quotes = '"'
    lexer.escape = lexer.commenters = ""
    try:
        return list(takewhile(lambda word: not word.startswith("#"), lexer))
    except ValueError:
        where = f"{path}, line {number}"
        raise FileError(where, "quotes in pairs", line.strip(), "Close the quotes.") from None


def _parse(path: Path, line: int, words: list[str]) -> SpecLine:
    """Return a line from its words. Raises FileError where they are not the columns."""
    optional = words[2:]
    numbers = [int(word) for word in optional if word.isdecimal()]
    spectra = [word for word in optional if word.endswith(".lam")]

    in_order = [*spectra[:1], *map(str, numbers)]
    if len(words) < 2 or len(numbers) > 1 or optional != in_order:
        columns = "columns `.expt .refl [spectrum.lam] [number of the experiment]`"
        raise FileError(f"{path}, line {line}", columns, " ".join(words), "Correct the line.")

    return SpecLine(
        line=line,
        expt=path.parent / words[0],
        refl=path.parent / words[1],
        experiment=numbers[0] if numbers else None,
        spectrum=path.parent / spectra[0] if spectra else None,
    )
