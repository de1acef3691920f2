"""Merged intensities, and the observations that were merged, as MTZ tables and files."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.io.store import replacing
from spreadflow.physics import symmetry

PROJECT = "spreadflow"
"""Name of the project in files that are written."""

TYPES = {
    "IMEAN": "J",
    "SIGIMEAN": "Q",
    "I(+)": "K",
    "SIGI(+)": "M",
    "I(-)": "K",
    "SIGI(-)": "M",
    "N(+)": "I",
    "N(-)": "I",
}
"""Label → type of the columns that are written, after the indices."""

AMPLITUDE_TYPES = {
    "F": "F",
    "SIGF": "Q",
    "F(+)": "G",
    "SIGF(+)": "L",
    "F(-)": "G",
    "SIGF(-)": "L",
    "DANO": "D",
    "SIGDANO": "Q",
}
"""The same of amplitudes, after those of intensities."""

ISYM_TYPES = {"M/ISYM": "Y"}
"""The same of the column that says how indices were brought to the asymmetric unit."""

OBSERVATION_TYPES = {
    "BATCH": "B",
    "I": "J",
    "SIGI": "Q",
    "XDET": "R",
    "YDET": "R",
    "FRACTIONCALC": "R",
}
"""The same of observations."""

LONGEST_TITLE = 70
"""Characters of the title of a batch."""

MOST_BATCHES = 2**24
"""Batches have numbers up to this, as columns are in single precision."""


class MergedTable(NamedTuple):
    """Merged intensities as they are written, Friedel mates in rows of their own."""

    hkl: np.ndarray
    """(row, 3) CCP4 asymmetric unit"""
    friedel: np.ndarray
    """(row,) +1, −1 (under the index of its mate) or 0 for a centric reflection"""
    intensity: np.ndarray
    """(row,)"""
    sigma: np.ndarray
    """(row,)"""
    n: np.ndarray
    """(row,) observations"""


class Observations(NamedTuple):
    """Observations on the scale of the merged intensities."""

    hkl: np.ndarray
    """(row, 3) as observed"""
    batch: np.ndarray
    """(row,) row of the batch"""
    intensity: np.ndarray
    """(row,)"""
    sigma: np.ndarray
    """(row,)"""
    fast: np.ndarray
    """(row,) on its panel, px"""
    slow: np.ndarray
    """(row,) on its panel, px"""
    partiality: np.ndarray
    """(row,) recorded fraction, 0-1"""


class Batch(NamedTuple):
    """A lattice, which has a batch of its own."""

    title: str
    """at most `LONGEST_TITLE` characters"""
    wavelength: float
    """Å"""
    cell: np.ndarray
    """(6,) Å, degrees"""


class Amplitudes(NamedTuple):
    """Amplitudes of the same rows."""

    amplitude: np.ndarray
    """(row,) NaN = none"""
    amplitude_sigma: np.ndarray
    """(row,)"""


def write_merged(
    path: Path | str,
    merged: MergedTable,
    amplitudes: Amplitudes | None = None,
    *,
    cell: np.ndarray,
    space_group: str,
    wavelength: float,
    history: str = "",
) -> None:
    """Write IMEAN, I(+), I(−) with σ and counts; where there are amplitudes, F, F(+), F(−) and DANO
    with σ, too. A centric reflection has I(+) and no I(−), and what was not measured has no count:
    programs that take mates together find the same reflections in intensities and counts.

    IMEAN and F are the inverse-variance weighted means of the mates; DANO is F(+) − F(−) where both
    are known. cell: (6,) Å, degrees; wavelength: Å.
    """
    columns = _rows(merged)
    types = TYPES
    content = "intensities"
    if amplitudes is not None:
        columns = np.column_stack([columns, _amplitude_rows(merged, amplitudes)])
        types = TYPES | AMPLITUDE_TYPES
        content = "intensities and amplitudes"

    mtz = _empty("merged", cell, space_group, wavelength)
    mtz.title = f"Merged {content}, Friedel mates separate"
    for label, kind in types.items():
        mtz.add_column(label, kind)
    mtz.set_data(columns)
    mtz.ensure_asu()
    mtz.sort()
    if history:
        mtz.history = [history]
    save(mtz, path)


def _empty(name: str, cell: np.ndarray, space_group: str, wavelength: float) -> gemmi.Mtz:
    """Return a table of indices without rows, with a data set of this name."""
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = symmetry.group(space_group)
    mtz.set_cell_for_all(gemmi.UnitCell(*cell))
    dataset = mtz.add_dataset(name)
    dataset.project_name = PROJECT
    dataset.crystal_name = "crystal"
    for each in mtz.datasets:
        each.wavelength = wavelength  # of indices as well: some programs take the first one
    return mtz


def save(mtz: gemmi.Mtz, path: Path | str) -> None:
    """Write a table to a file. Raises FileError."""
    content = mtz.write_to_bytes()  # gemmi itself does not notice that the disk is full
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(content)


def _rows(merged: MergedTable) -> np.ndarray:
    """Return the (unique, 11) float32 table of indices and columns, one row per asu index."""
    indices = np.unique(merged.hkl, axis=0)
    intensity = _by_side(merged, merged.intensity)
    sigma = _by_side(merged, merged.sigma)
    n = _by_side(merged, merged.n)
    columns = [*_mean(intensity, sigma), *_with_sigma(intensity, sigma), n[:, 0], n[:, 1]]
    return np.column_stack([indices, *columns]).astype(np.float32)


def _amplitude_rows(merged: MergedTable, amplitudes: Amplitudes) -> np.ndarray:
    """Return the (unique, 8) float32 columns of the amplitudes, in the rows of `_rows`."""
    amplitude = _by_side(merged, amplitudes.amplitude)
    is_known = np.isfinite(amplitude)
    sigma = np.where(is_known, _by_side(merged, amplitudes.amplitude_sigma), np.nan)
    difference = amplitude[:, 0] - amplitude[:, 1]
    difference_sigma = np.hypot(sigma[:, 0], sigma[:, 1])
    columns = [
        *_mean(amplitude, sigma),
        *_with_sigma(amplitude, sigma),
        difference,
        difference_sigma,
    ]
    return np.column_stack(columns).astype(np.float32)


def _by_side(merged: MergedTable, values: np.ndarray) -> np.ndarray:
    """Return values (row,) as (unique, 2), those of (+) and of (−), in order of the indices; NaN =
    none.
    """
    indices, row = np.unique(merged.hkl, axis=0, return_inverse=True)
    side = (np.asarray(merged.friedel) < 0).astype(int)
    table = np.full((len(indices), 2), np.nan)
    table[row.ravel(), side] = values
    return table


def _with_sigma(values: np.ndarray, sigma: np.ndarray) -> list[np.ndarray]:
    """Return the columns of (+), its σ, (−), its σ, from values and σ (unique, 2)."""
    return [values[:, 0], sigma[:, 0], values[:, 1], sigma[:, 1]]


def _mean(values: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the inverse-variance weighted means (unique,) of values and σ (unique, 2), and their
    σ; a missing value has σ NaN, as have means of none.
    """
    weight = np.nan_to_num(1.0 / sigma**2)
    total_weight = weight.sum(axis=1)
    total_weight = np.where(total_weight > 0, total_weight, np.nan)
    mean = (weight * np.nan_to_num(values)).sum(axis=1) / total_weight
    return mean, total_weight**-0.5


def unmerged(
    observations: Observations,
    batches: Sequence[Batch],
    *,
    cell: np.ndarray,
    space_group: str,
    wavelength: float,
    history: str = "",
    is_in_asu: bool = True,
) -> gemmi.Mtz:
    """Return observations as a table with a batch for each lattice, from 1 on. Indices are in the
    asymmetric unit, with M/ISYM that says which operation brought each there (odd: it is I(+));
    where they are not to be, they are as observed, without M/ISYM.

    M is 0, as no observation is to be added to another. batches: at most `MOST_BATCHES`; cell: (6,)
    Å, degrees; wavelength: Å.
    """
    indices = [observations.hkl]
    types = OBSERVATION_TYPES
    if is_in_asu:
        indices = [*symmetry.in_asu(observations.hkl, space_group)]
        types = ISYM_TYPES | OBSERVATION_TYPES
    columns = [*indices, observations.batch + 1, *observations[2:]]
    table = np.column_stack(columns).astype(np.float32)
    n_keys = 3 + len(indices)
    order = np.lexsort(table[:, n_keys - 1 :: -1].T)

    mtz = _empty("unmerged", cell, space_group, wavelength)
    mtz.title = "Scaled observations, not merged"
    for label, kind in types.items():
        mtz.add_column(label, kind)
    mtz.set_data(table[order])
    mtz.sort_order = [*range(1, n_keys + 1), 0][:5]
    for number, batch in enumerate(batches, 1):
        mtz.batches.append(_header(number, batch, mtz.datasets[-1].id))
    if history:
        mtz.history = [history]
    return mtz


def _header(number: int, batch: Batch, dataset_id: int) -> gemmi.Mtz.Batch:
    """Return the header of a batch."""
    header = gemmi.Mtz.Batch()
    header.number = number
    header.title = batch.title
    header.wavelength = batch.wavelength
    header.cell = gemmi.UnitCell(*batch.cell)
    header.dataset_id = dataset_id
    return header
