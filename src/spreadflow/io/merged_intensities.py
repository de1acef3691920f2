"""Merged intensities or amplitudes of other programs, from MTZ files or structure factors in mmCIF
(SF-CIF of the PDB).
"""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io import merged_columns
from spreadflow.io.merged_columns import Choice, Column, Kind
from spreadflow.io.same_cell import check_crystal
from spreadflow.physics import symmetry

GIVE_MERGED = "Give merged intensities or amplitudes: an MTZ file, or structure factors in mmCIF."
"""What to do about a file without them."""

MERGE = (
    "Give one row for each unique reflection (its Friedel mate may have another): merge it first, "
    "for instance with `gemmi merge --anom`, AIMLESS or dials.merge."
)
"""What to do about unmerged data, and about tables that go over equivalent reflections."""

MTZ_MAGIC = b"MTZ "
"""What an MTZ file begins with."""

REFLECTION_TAGS = (b"_refln.index_h", b"_diffrn_refln.index_h")
"""What an mmCIF file with reflections has, merged and unmerged."""

NOT_OBSERVED = ("x", "<", "-")
"""Values of `_refln.status` of what was left out: unreliable, too weak, systematically absent."""


class Measured(NamedTuple):
    """Merged intensities; the Friedel mate of an acentric reflection has the negative index."""

    hkl: np.ndarray
    """(n, 3) int32, CCP4 asymmetric unit and its mate"""
    intensity: np.ndarray
    """(n,) on the file's scale"""
    sigma: np.ndarray
    """(n,) NaN = unknown"""


class _Table(NamedTuple):
    """What a file holds."""

    path: Path
    hkl: np.ndarray
    """(row, 3) int32"""
    columns: Sequence[Column]
    values: np.ndarray
    """(row, column) float64, NaN = none"""


def is_reflection_file(path: Path) -> bool:
    """Whether a file is an MTZ file or has reflections in mmCIF, whatever its name. Raises
    OSError.
    """
    content = _content(path)
    return content.startswith(MTZ_MAGIC) or any(tag in content for tag in REFLECTION_TAGS)


def read(path: Path | str, cell: np.ndarray, space_group: str) -> Measured:
    """Return merged intensities with σ, Friedel mates apart where they are in the file; where it
    has their mean alone, that for both. Amplitudes are squared where there are no intensities.

    cell: (6,) Å, degrees, that of the crystal. Raises FileError where the file can't be read, is of
    another cell, Laue group or centring, is not merged, or has no σ.
    """
    table = _read_table(Path(path), cell, space_group)
    choice = _chosen(table, merged_columns.MATES_FIRST)
    if None in choice.sigmas:
        found = f"none of {_labels(table, choice)}"
        raise FileError(path, "standard deviations", found, "Give merged intensities with σ.")
    measured = _measured(table, choice, space_group)
    is_known = measured.sigma > 0
    if not is_known.any():
        found = f"none greater than 0 of {_labels(table, choice)}"
        raise FileError(path, "standard deviations", found, "Give merged intensities with σ.")
    known = Measured(*(column[is_known] for column in measured))
    return known if len(choice.values) == 2 else _of_both_mates(known, space_group)


def read_means(path: Path | str, cell: np.ndarray, space_group: str) -> Measured:
    """Return merged intensities, Friedel mates averaged: in the asymmetric unit. Those of the file
    are, if they have σ, weighted by them.

    Arguments and errors are those of `read`; σ need not be known.
    """
    table = _read_table(Path(path), cell, space_group)
    choice = _chosen(table, merged_columns.MEAN_FIRST)
    measured = _measured(table, choice, space_group)
    has_sigmas = bool((measured.sigma > 0).all())

    data = gemmi.Intensities()
    any_cell = gemmi.UnitCell(10, 10, 10, 90, 90, 90)  # only the indices matter
    sigma = measured.sigma if has_sigmas else np.ones(len(measured.hkl))
    group = symmetry.group(space_group)
    data.set_data(any_cell, group, measured.hkl, measured.intensity, sigma)
    data.merge_in_place(gemmi.DataType.Mean)

    merged_sigma = np.array(data.sigma_array)
    return Measured(
        hkl=np.array(data.miller_array, dtype=np.int32),
        intensity=np.array(data.value_array),
        sigma=merged_sigma if has_sigmas else np.full(len(merged_sigma), np.nan),
    )


def _content(path: Path) -> bytes:
    """Return the bytes of a file, unpacked where it is packed. Raises OSError."""
    content = path.read_bytes()
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def _read_table(path: Path, cell: np.ndarray, space_group: str) -> _Table:
    """Return the reflections of a file, checked to be merged and of the crystal."""
    expected = "merged intensities: an MTZ file, or structure factors in mmCIF"
    if not path.exists():
        raise FileError(path, expected, "nothing", GIVE_MERGED)
    try:
        if not is_reflection_file(path):
            raise FileError(path, expected, "neither", GIVE_MERGED)
        file, is_observed = _as_mtz(path)
        group = file.spacegroup
        own_cell = np.array(file.cell.parameters)
        columns = [Column(column.label, column.type) for column in file.columns]
        values = np.array(file.array, dtype=np.float64)[is_observed]
        of_indices = [column.type == "H" for column in columns]
        table = _Table(path, values[:, of_indices].astype(np.int32), columns, values)
    except (OSError, EOFError, RuntimeError, ValueError, IndexError) as error:
        found = str(error) or "a broken file"
        raise FileError(path, expected, found, GIVE_MERGED) from None

    batches = [column.label for column in table.columns if column.type == "B"]
    if batches or len(file.batches):
        found = f"unmerged observations ({', '.join(batches) or 'batches'})"
        raise FileError(path, "merged intensities", found, MERGE)
    check_crystal(path, group, own_cell, cell, space_group)
    return table


def _as_mtz(path: Path) -> tuple[gemmi.Mtz, np.ndarray]:
    """Return a file as an MTZ table, and which of its rows (row,) were observed. Of mmCIF it is the
    first block with merged reflections. Raises FileError where there are unmerged ones alone.
    """
    content = _content(path)
    if content.startswith(MTZ_MAGIC):
        file = gemmi.read_mtz_file(str(path))
        return file, np.ones(file.nreflections, dtype=bool)

    document = gemmi.cif.read_string(content)
    blocks = [block for block in gemmi.as_refln_blocks(document) if block]
    merged = [block for block in blocks if block.is_merged()]
    if not merged:
        found = f"unmerged observations alone (blocks {[block.block.name for block in blocks]})"
        raise FileError(path, "merged intensities", found, MERGE)
    file = gemmi.CifToMtz().convert_block_to_mtz(merged[0])
    status = list(merged[0].block.find_values("_refln.status"))
    is_observed = ~np.isin(status, NOT_OBSERVED)
    return file, is_observed if len(status) else np.ones(file.nreflections, dtype=bool)


def _chosen(table: _Table, kinds: Sequence[Kind]) -> Choice:
    """Return the columns to take. Raises FileError where there are none."""
    choice = merged_columns.chosen(table.columns, kinds)
    if choice is None:
        listed = ", ".join(f"{column.label} ({column.type})" for column in table.columns)
        expected = "a column of intensities (type J or K) or amplitudes (F or G)"
        raise FileError(table.path, expected, listed, GIVE_MERGED)
    return choice


def _labels(table: _Table, choice: Choice) -> str:
    """Return the labels of the columns that are taken."""
    return ", ".join(table.columns[number].label for number in choice.values)


def _measured(table: _Table, choice: Choice, space_group: str) -> Measured:
    """Return the finite values of the columns, as intensities. Raises FileError where there are
    none, or several of one reflection.
    """
    unknown = np.full(len(table.hkl), np.nan)
    sides = [table.values[:, number] for number in choice.values]
    sigmas = [unknown if number is None else table.values[:, number] for number in choice.sigmas]
    if choice.is_amplitude:
        sigmas = [2.0 * values * sigma for values, sigma in zip(sides, sigmas, strict=True)]
        sides = [values**2 for values in sides]
    if len(sides) == 2:
        sides, sigmas = _centric_once(table.hkl, sides, sigmas, space_group)

    hkl = np.concatenate([table.hkl, -table.hkl][: len(sides)])
    intensity = np.concatenate(sides)
    sigma = np.concatenate(sigmas)
    is_finite = np.isfinite(intensity)
    if not is_finite.any():
        raise FileError(table.path, f"values of {_labels(table, choice)}", "none", GIVE_MERGED)

    asu, friedel = symmetry.to_asu(hkl[is_finite], space_group)
    signed = np.where(friedel < 0, -1, 1)[:, np.newaxis] * asu
    n_unique = len(np.unique(signed, axis=0))
    if n_unique < len(signed):
        found = f"{len(signed)} values of {n_unique} unique reflections: unmerged, or equivalents"
        raise FileError(table.path, "merged intensities", found, MERGE)
    return Measured(signed.astype(np.int32), intensity[is_finite], sigma[is_finite])


def _centric_once(
    hkl: np.ndarray, sides: Sequence[np.ndarray], sigmas: Sequence[np.ndarray], space_group: str
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return values and σ of (+) and (−), (row,) each, centric reflections in (+) alone: there as
    the mean where a file has them in both.
    """
    is_centric = symmetry.is_centric(hkl, space_group)

    def once(columns: Sequence[np.ndarray]) -> list[np.ndarray]:
        plus, minus = columns
        minus_or_plus = np.where(np.isnan(minus), plus, minus)
        plus_or_minus = np.where(np.isnan(plus), minus, plus)
        mean = 0.5 * (plus_or_minus + minus_or_plus)
        return [np.where(is_centric, mean, plus), np.where(is_centric, np.nan, minus)]

    return once(sides), once(sigmas)


def _of_both_mates(measured: Measured, space_group: str) -> Measured:
    """Return values of a single column for each Friedel mate: as they are where the column has
    mates in rows of their own, else each for both.
    """
    is_acentric = ~symmetry.is_centric(measured.hkl, space_group)
    mates = Measured(*(column[is_acentric] for column in measured))
    mates = mates._replace(hkl=-mates.hkl)
    both = Measured(*map(np.concatenate, zip(measured, mates, strict=True)))
    has_rows_of_mates = len(np.unique(both.hkl, axis=0)) < len(both.hkl)
    return measured if has_rows_of_mates else both
