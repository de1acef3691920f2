"""Merged intensities as MTZ, and reference intensities from MTZ files or models."""

from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.config import rotations_and_centring
from spreadflow.errors import FileError
from spreadflow.io.same_cell import is_same_cell
from spreadflow.io.store import replacing

K_SOL = 0.35
"""Flat bulk solvent of a reference model, electrons/Å³, as the published scaling has it."""

B_SOL = 46.0
"""B of that solvent, Å²."""

OVERSAMPLING = 1.5
"""Points of the map of a model's density in half a period of its finest waves: gemmi's default."""

MASK_SPACING_ANG = 0.6
"""Spacing of the points of the solvent mask, Å, where a third of d_min is not finer."""

INTENSITIES = ("IMEAN", "I", "Iobs", "I-obs", "IOBS")
"""Labels of a reference's intensities in order of preference; any other column of type J is taken
after them.
"""

AMPLITUDES = ("F", "FP", "FOBS", "F-obs", "FC", "FMODEL")
"""The same of its amplitudes, where it has no intensities; any other column of type F is taken
after them.
"""

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

GIVE_MERGED = "Give an MTZ file of merged intensities."
"""What to do about a file without merged intensities."""

GIVE_REFERENCE = "Give reference intensities, or a model."
"""What to do about a file that is no reference."""


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
    with σ, too. A centric reflection has I(+) and no I(−).

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

    mtz = gemmi.Mtz(with_base=True)
    mtz.title = f"Merged {content}, Friedel mates separate"
    mtz.spacegroup = gemmi.find_spacegroup_by_name(space_group)
    mtz.set_cell_for_all(gemmi.UnitCell(*cell))
    dataset = mtz.add_dataset("merged")
    dataset.project_name = PROJECT
    dataset.crystal_name = "crystal"
    dataset.wavelength = wavelength
    for label, kind in types.items():
        mtz.add_column(label, kind)
    mtz.set_data(columns)
    mtz.ensure_asu()
    mtz.sort()
    if history:
        mtz.history = [history]
    with replacing(Path(path)) as temporary:
        mtz.write_to_file(str(temporary))


def _rows(merged: MergedTable) -> np.ndarray:
    """Return the (unique, 11) float32 table of indices and columns, one row per asu index."""
    indices = np.unique(merged.hkl, axis=0)
    intensity = _by_side(merged, merged.intensity)
    sigma = _by_side(merged, merged.sigma)
    n = np.nan_to_num(_by_side(merged, merged.n))
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


class Measured(NamedTuple):
    """Merged intensities; the Friedel mate of an acentric reflection has the negative index."""

    hkl: np.ndarray
    """(n, 3) int32"""
    intensity: np.ndarray
    """(n,) on the file's scale"""
    sigma: np.ndarray
    """(n,)"""


def read_merged(path: Path | str, cell: np.ndarray, space_group: str) -> Measured:
    """Return I(+) and I(−) of an MTZ file as `write_merged` writes it; where a file has neither,
    its mean I for both mates.

    cell: (6,) Å, degrees, that of the model; the file's must agree to 1 % and 1°. Raises FileError.
    """
    try:
        file = gemmi.read_mtz_file(str(path))
    except (OSError, RuntimeError, ValueError) as error:
        raise FileError(path, "a readable MTZ file", error, GIVE_MERGED) from None
    _check_crystal(path, file, cell, space_group)

    data = gemmi.Intensities()
    try:
        data.import_mtz(file, gemmi.DataType.MergedAM)
    except (RuntimeError, ValueError) as error:
        raise FileError(path, "merged intensities with σ", error, GIVE_MERGED) from None

    hkl = np.array(data.miller_array)
    intensity = np.array(data.value_array)
    sigma = np.array(data.sigma_array)
    if data.type == gemmi.DataType.Anomalous:
        is_minus = np.array(data.isign_array)[:, None] < 0
        return Measured(np.where(is_minus, -hkl, hkl), intensity, sigma)
    both = np.concatenate([hkl, -hkl])
    return Measured(both, np.tile(intensity, 2), np.tile(sigma, 2))


def _check_crystal(path: Path | str, file: gemmi.Mtz, cell: np.ndarray, space_group: str) -> None:
    """Raise FileError where the file's crystal is another one than the configuration's."""
    todo = "Make them agree."
    group = gemmi.find_spacegroup_by_name(space_group)
    own_group = file.spacegroup
    is_same = own_group and rotations_and_centring(own_group) == rotations_and_centring(group)
    if not is_same:
        expected = f"the point group and centring of '{space_group}'"
        found = "none" if own_group is None else f"'{own_group.xhm()}'"
        raise FileError(path, expected, found, todo)

    own = np.array(file.cell.parameters)
    if not is_same_cell(own, cell):
        expected = f"cell {np.round(cell, 2).tolist()}, as configured"
        raise FileError(path, expected, np.round(own, 2).tolist(), todo)


def read_reference(
    path: Path | str, cell: np.ndarray, space_group: str, d_min: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return reference intensities: hkl (n, 3) int32 in the CCP4 asu and I (n,), Friedel mates
    averaged.

    From an MTZ file (intensities, else squared amplitudes) or a model (PDB, mmCIF: squared
    structure factors with flat bulk solvent). cell: (6,) Å, degrees, that of the lattices. Raises
    FileError when the file cannot be read, has another Laue group or another cell.
    """
    path = Path(path)
    if not path.exists():
        raise FileError(path, "a reference (MTZ, PDB or mmCIF)", "nothing", GIVE_REFERENCE)
    try:
        is_mtz = path.suffix.lower() == ".mtz"
        reference = _from_mtz(path) if is_mtz else _from_model(path, d_min)
    except (RuntimeError, ValueError, IndexError) as error:
        expected = "a readable MTZ, PDB or mmCIF file"
        raise FileError(path, expected, error, GIVE_REFERENCE) from None
    group = reference.group
    configured = gemmi.find_spacegroup_by_name(space_group)
    if group is None or _laue_class(group) != _laue_class(configured):
        expected = f"the Laue group and centring of '{space_group}'"
        found = "none" if group is None else group.xhm()
        raise FileError(path, expected, f"'{found}'", GIVE_REFERENCE)
    if not is_same_cell(reference.cell, cell):
        expected = f"cell {np.round(cell, 2).tolist()} to 1 % and 1°, that of the lattices"
        raise FileError(path, expected, np.round(reference.cell, 2).tolist(), GIVE_REFERENCE)
    return _averaged(configured, reference.hkl, reference.intensity)


def _laue_class(group: gemmi.SpaceGroup) -> tuple[str, str]:
    """Return what two groups must share for their averaged intensities to be the same."""
    return group.laue_str(), group.centring_type()


def _averaged(
    group: gemmi.SpaceGroup, hkl: np.ndarray, intensity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the finite intensities averaged over equivalent reflections, as `read_reference`."""
    is_finite = np.isfinite(intensity)
    hkl = hkl[is_finite].astype(np.int32)
    intensity = intensity[is_finite]

    cell = gemmi.UnitCell(10, 10, 10, 90, 90, 90)  # only the indices matter
    data = gemmi.Intensities()
    data.set_data(cell, group, hkl, intensity, np.ones(len(intensity)))
    data.merge_in_place(gemmi.DataType.Mean)

    return np.array(data.miller_array, dtype=np.int32), np.array(data.value_array)


class Reference(NamedTuple):
    """A reference as its file has it."""

    group: gemmi.SpaceGroup | None
    cell: np.ndarray
    """(6,) Å, degrees"""
    hkl: np.ndarray
    """(n, 3)"""
    intensity: np.ndarray
    """(n,)"""


def _from_mtz(path: Path) -> Reference:
    """Return the reference in an MTZ file: its preferred column."""
    mtz = gemmi.read_mtz_file(str(path))
    columns = {column.label: column for column in mtz.columns}

    intensities = [label for label in INTENSITIES if label in columns]
    intensities += [column.label for column in mtz.columns if column.type == "J"]

    amplitudes = [label for label in AMPLITUDES if label in columns]
    amplitudes += [column.label for column in mtz.columns if column.type == "F"]

    preferred = intensities + amplitudes
    if not preferred:
        raise ValueError(f"no intensities or amplitudes among {', '.join(columns)}")

    values = np.array(columns[preferred[0]].array, dtype=np.float64)
    intensity = values if intensities else values**2
    cell = np.array(mtz.cell.parameters)
    return Reference(mtz.spacegroup, cell, mtz.make_miller_array(), intensity)


def _from_model(path: Path, d_min: float) -> Reference:
    """Return the reference that a model makes: |F_atoms + F_solvent|² in its own cell."""
    structure = gemmi.read_structure(str(path))
    structure.setup_entities()
    group = gemmi.find_spacegroup_by_name(structure.spacegroup_hm)

    calculator = gemmi.DensityCalculatorX()
    calculator.d_min = d_min
    calculator.rate = OVERSAMPLING
    calculator.set_refmac_compatible_blur(structure[0])
    calculator.set_grid_cell_and_spacegroup(structure)
    calculator.put_model_density_on_grid(structure[0])
    density = gemmi.transform_map_to_f_phi(calculator.grid, half_l=True)
    atoms = density.prepare_asu_data(dmin=d_min, unblur=calculator.blur, with_sys_abs=False)

    mask = gemmi.FloatGrid()
    mask.setup_from(structure, spacing=min(MASK_SPACING_ANG, d_min / 3))
    masker = gemmi.SolventMasker(gemmi.AtomicRadiiSet.Cctbx)
    masker.put_mask_on_float_grid(mask, structure[0])
    filled = gemmi.transform_map_to_f_phi(mask, half_l=True)
    solvent = filled.prepare_asu_data(dmin=d_min, with_sys_abs=False)

    s_squared = 0.25 * np.asarray(atoms.make_1_d2_array())
    f_atoms = np.asarray(atoms.value_array)
    f_solvent = np.asarray(solvent.value_array)
    f = f_atoms + K_SOL * np.exp(-B_SOL * s_squared) * f_solvent
    cell = np.array(structure.cell.parameters)
    return Reference(group, cell, np.asarray(atoms.miller_array), np.abs(f) ** 2)
