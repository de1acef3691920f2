"""Merged intensities as MTZ, and reference intensities from MTZ files or models."""

from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.store import replacing

K_SOL = 0.35
"""Flat bulk solvent of a reference model, electrons/Å³, as the published scaling has it."""

B_SOL = 46.0
"""B of that solvent, Å²."""

INTENSITIES, AMPLITUDES = (
    ("IMEAN", "I", "Iobs", "I-obs", "IOBS"),
    ("F", "FP", "FOBS", "F-obs", "FC", "FMODEL"),
)
"""Labels a reference may have, in order of preference; any other column of type J, then F, is taken
after them.
"""

_COLUMNS = {
    "IMEAN": "J",
    "SIGIMEAN": "Q",
    "I(+)": "K",
    "SIGI(+)": "M",
    "I(-)": "K",
    "SIGI(-)": "M",
    "N(+)": "I",
    "N(-)": "I",
}


def write_merged(
    path: Path | str,
    *,
    hkl: np.ndarray,
    friedel: np.ndarray,
    intensity: np.ndarray,
    sigma: np.ndarray,
    n: np.ndarray,
    cell: np.ndarray,
    space_group: str,
    wavelength: float,
    project: str = "spreadflow",
    history: str = "",
) -> None:
    """Write IMEAN, I(+), I(−) with σ and counts.

    hkl: (row, 3) CCP4 asymmetric unit; friedel: (row,) +1, −1 (under the index of its mate) or 0
    centric; intensity, sigma, n: (row,). A centric reflection has I(+) and no I(−). cell: (6,) Å,
    degrees; wavelength: Å.
    """
    mtz = gemmi.Mtz(with_base=True)
    mtz.title = "Merged intensities, Friedel mates separate"
    mtz.spacegroup = gemmi.find_spacegroup_by_name(space_group)
    mtz.set_cell_for_all(gemmi.UnitCell(*cell))
    dataset = mtz.add_dataset("merged")
    dataset.project_name, dataset.crystal_name, dataset.wavelength = project, "crystal", wavelength
    for label, kind in _COLUMNS.items():
        mtz.add_column(label, kind)
    mtz.set_data(_rows(hkl, friedel, intensity, sigma, n))
    mtz.ensure_asu()
    mtz.sort()
    if history:
        mtz.history = [history]
    with replacing(Path(path)) as temporary:
        mtz.write_to_file(str(temporary))


def _rows(hkl, friedel, intensity, sigma, n) -> np.ndarray:
    """Return (unique, 11) float32 table of the columns, one row per asu index."""
    indices, row = np.unique(hkl, axis=0, return_inverse=True)
    row = row.ravel()
    value, error, count = (np.full((len(indices), 2), fill) for fill in (np.nan, np.nan, 0.0))
    side = (np.asarray(friedel) < 0).astype(int)
    value[row, side], error[row, side], count[row, side] = intensity, sigma, n
    weight = np.nan_to_num(1.0 / error**2)
    mean = (weight * np.nan_to_num(value)).sum(axis=1) / weight.sum(axis=1)
    columns = [
        mean,
        weight.sum(axis=1) ** -0.5,
        value[:, 0],
        error[:, 0],
        value[:, 1],
        error[:, 1],
        *count.T,
    ]
    return np.column_stack([indices, *columns]).astype(np.float32)


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
        raise FileError(
            path, "a readable MTZ file", error, "Give an MTZ file of merged intensities."
        ) from None
    group = gemmi.find_spacegroup_by_name(space_group)
    if file.spacegroup is None or _class_of(file.spacegroup) != _class_of(group):
        found = "none" if file.spacegroup is None else f"'{file.spacegroup.xhm()}'"
        raise FileError(
            path, f"the point group and centring of '{space_group}'", found, "Make them agree."
        )
    off = np.abs(np.array(file.cell.parameters) - cell)
    if np.any(off > np.array([*(0.01 * cell[:3]), 1.0, 1.0, 1.0])):
        expected = f"cell {np.round(cell, 2).tolist()}, as configured"
        raise FileError(
            path, expected, np.round(file.cell.parameters, 2).tolist(), "Make them agree."
        )
    data = gemmi.Intensities()
    try:
        data.import_mtz(file, gemmi.DataType.MergedAM)
    except (RuntimeError, ValueError) as error:
        raise FileError(
            path, "merged intensities with σ", error, "Give an MTZ file of merged intensities."
        ) from None
    hkl = np.array(data.miller_array)
    columns = (np.array(data.value_array), np.array(data.sigma_array))
    if data.type == gemmi.DataType.Anomalous:
        return Measured(np.where(np.array(data.isign_array)[:, None] < 0, -hkl, hkl), *columns)
    return Measured(np.concatenate([hkl, -hkl]), *(np.tile(column, 2) for column in columns))


def _class_of(group: gemmi.SpaceGroup) -> tuple[str, str]:
    """Return what two descriptions must share for their indices and Friedel mates to be the
    same.
    """
    return group.point_group_hm(), group.centring_type()


def read_reference(
    path: Path | str, space_group: str, d_min: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return reference intensities: hkl (n, 3) int32 in the CCP4 asu and I (n,), Friedel mates
    averaged.

    From an MTZ file (intensities, else squared amplitudes) or a model (PDB, mmCIF: squared
    structure factors with flat bulk solvent). Raises FileError when the file cannot be read or has
    another Laue group.
    """
    path = Path(path)
    if not path.exists():
        raise FileError(
            path,
            "a reference (MTZ, PDB or mmCIF)",
            "nothing",
            "Give reference intensities, or a model.",
        )
    try:
        mtz = path.suffix.lower() == ".mtz"
        group, hkl, intensity = _from_mtz(path) if mtz else _from_model(path, d_min)
    except (RuntimeError, ValueError, IndexError) as error:
        raise FileError(
            path,
            "a readable MTZ, PDB or mmCIF file",
            error,
            "Give reference intensities, or a model.",
        ) from None
    expected = gemmi.find_spacegroup_by_name(space_group)
    if (
        group is None
        or group.laue_str() != expected.laue_str()
        or group.centring_type() != expected.centring_type()
    ):
        found = "none" if group is None else group.xhm()
        raise FileError(
            path,
            f"the Laue group and centring of '{space_group}'",
            f"'{found}'",
            "Give reference intensities, or a model.",
        )
    known = np.isfinite(intensity)
    data = gemmi.Intensities()
    cell = gemmi.UnitCell(10, 10, 10, 90, 90, 90)  # only the indices matter
    data.set_data(
        cell, expected, hkl[known].astype(np.int32), intensity[known], np.ones(known.sum())
    )
    data.merge_in_place(gemmi.DataType.Mean)
    return np.array(data.miller_array, dtype=np.int32), np.array(data.value_array)


def _from_mtz(path: Path):
    """Return space group, hkl and intensities of the preferred column."""
    mtz = gemmi.read_mtz_file(str(path))
    labels = {c.label: c for c in mtz.columns}
    wanted = [name for name in INTENSITIES if name in labels] + [
        c.label for c in mtz.columns if c.type == "J"
    ]
    squared = [name for name in AMPLITUDES if name in labels] + [
        c.label for c in mtz.columns if c.type == "F"
    ]
    if not wanted + squared:
        raise ValueError(f"no intensities or amplitudes among {', '.join(labels)}")
    values = np.array((labels[(wanted + squared)[0]]).array, dtype=np.float64)
    return mtz.spacegroup, mtz.make_miller_array(), values if wanted else values**2


def _from_model(path: Path, d_min: float):
    """Return space group, hkl and |F_atoms + F_solvent|² of a model in its own cell."""
    structure = gemmi.read_structure(str(path))
    structure.setup_entities()
    group = gemmi.find_spacegroup_by_name(structure.spacegroup_hm)
    calculator = gemmi.DensityCalculatorX()
    calculator.d_min, calculator.rate = d_min, 1.5
    calculator.set_refmac_compatible_blur(structure[0])
    calculator.set_grid_cell_and_spacegroup(structure)
    calculator.put_model_density_on_grid(structure[0])
    atoms = gemmi.transform_map_to_f_phi(calculator.grid, half_l=True).prepare_asu_data(
        dmin=d_min, unblur=calculator.blur, with_sys_abs=False
    )
    mask = gemmi.FloatGrid()
    mask.setup_from(structure, spacing=min(0.6, d_min / 3))
    gemmi.SolventMasker(gemmi.AtomicRadiiSet.Cctbx).put_mask_on_float_grid(mask, structure[0])
    solvent = gemmi.transform_map_to_f_phi(mask, half_l=True).prepare_asu_data(
        dmin=d_min, with_sys_abs=False
    )
    s2 = 0.25 * np.asarray(atoms.make_1_d2_array())
    f = np.asarray(atoms.value_array) + K_SOL * np.exp(-B_SOL * s2) * np.asarray(
        solvent.value_array
    )
    return group, np.asarray(atoms.miller_array), np.abs(f) ** 2
