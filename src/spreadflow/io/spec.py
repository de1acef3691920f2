"""Spec files: which lattices somebody else indexed, as diffBragg's `exp_ref_spec_file` has them.

One lattice a line, in columns: `.expt .refl [spectrum.lam] [number of the experiment]`.
"""

from pathlib import Path
from typing import NamedTuple

from spreadflow.errors import FileError


class Pair(NamedTuple):
    """One line."""

    line: int
    """from 1"""
    expt: Path
    refl: Path
    experiment: int | None
    """number in the .expt, from 0"""
    has_spectrum: bool
    """the line names a spectrum, too"""


def read(path: Path | str) -> list[Pair]:
    """The lines of a spec file, empty ones left out; relative names are of its folder. Raises FileError."""
    path = Path(path)
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise FileError(path, "a spec file", error, "Check the path.") from None
    pairs = [
        _pair(path, number, words)
        for number, line in enumerate(lines, 1)
        if (words := line.split())
    ]
    if not pairs:
        raise FileError(path, "a line for each lattice", "none", "Write `.expt .refl` on each.")
    return pairs


def _pair(path: Path, line: int, words: list[str]) -> Pair:
    numbers = [int(word) for word in words[2:] if word.isdecimal()]
    spectra = [word for word in words[2:] if word.endswith(".lam")]
    if len(words) < 2 or len(numbers) > 1 or words[2:] != [*spectra[:1], *map(str, numbers)]:
        columns = "columns `.expt .refl [spectrum.lam] [number of the experiment]`"
        raise FileError(f"{path}, line {line}", columns, " ".join(words), "Correct the line.")
    expt, refl = (path.parent / word for word in words[:2])
    return Pair(line, expt, refl, numbers[0] if numbers else None, bool(spectra))
