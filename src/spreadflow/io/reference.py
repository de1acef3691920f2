"""Reference intensities that scales are taken against, from merged data or from models."""

from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io import merged_intensities, structure
from spreadflow.io.same_cell import check_crystal

K_SOL = 0.35
"""Flat bulk solvent of a reference model, electrons/Å³, as the published scaling has it."""

B_SOL = 46.0
"""B of that solvent, Å²."""

OVERSAMPLING = 1.5
"""Points of the map of a model's density in half a period of its finest waves: gemmi's default."""

MASK_SPACING_ANG = 0.6
"""Spacing of the points of the solvent mask, Å, where a third of d_min is not finer."""

GIVE_REFERENCE = "Give reference intensities, or a model."
"""What to do about a file that is no reference."""


class Reference(NamedTuple):
    """Reference intensities, Friedel mates averaged."""

    hkl: np.ndarray
    """(n, 3) int32, CCP4 asymmetric unit"""
    intensity: np.ndarray
    """(n,) on a scale of its own"""
    remarks: list[str]
    """what was repaired in a model"""


def read(path: Path | str, cell: np.ndarray, space_group: str, d_min: float) -> Reference:
    """Return the merged intensities of a file (`merged_intensities`), or those of a model (PDB,
    mmCIF): squared structure factors with flat bulk solvent, to d_min.

    cell: (6,) Å, degrees, that of the lattices. Raises FileError when the file can't be read, has
    another Laue group or another cell.
    """
    path = Path(path)
    if not path.exists():
        raise FileError(path, "a reference (MTZ, PDB or mmCIF)", "nothing", GIVE_REFERENCE)
    try:
        if not merged_intensities.is_reflection_file(path):
            return _of_model(path, cell, space_group, d_min)
    except (OSError, EOFError, RuntimeError, ValueError, IndexError) as error:
        expected = "a readable MTZ, PDB or mmCIF file"
        raise FileError(path, expected, error, GIVE_REFERENCE) from None
    means = merged_intensities.read_means(path, cell, space_group)
    return Reference(means.hkl, means.intensity, [])


def _of_model(path: Path, cell: np.ndarray, space_group: str, d_min: float) -> Reference:
    """Return the reference that a model makes: |F_atoms + F_solvent|² in its own cell."""
    model, remarks = structure.whole(path, GIVE_REFERENCE)
    model.setup_entities()
    remarks += structure.fill_cell(model, cell, space_group)
    own_cell = np.array(model.cell.parameters)
    check_crystal(path, model.find_spacegroup(), own_cell, cell, space_group)

    calculator = gemmi.DensityCalculatorX()
    calculator.d_min = d_min
    calculator.rate = OVERSAMPLING
    calculator.set_refmac_compatible_blur(model[0])
    calculator.set_grid_cell_and_spacegroup(model)
    calculator.put_model_density_on_grid(model[0])
    density = gemmi.transform_map_to_f_phi(calculator.grid, half_l=True)
    atoms = density.prepare_asu_data(dmin=d_min, unblur=calculator.blur, with_sys_abs=False)

    mask = gemmi.FloatGrid()
    mask.setup_from(model, spacing=min(MASK_SPACING_ANG, d_min / 3))
    masker = gemmi.SolventMasker(gemmi.AtomicRadiiSet.Cctbx)
    masker.put_mask_on_float_grid(mask, model[0])
    filled = gemmi.transform_map_to_f_phi(mask, half_l=True)
    solvent = filled.prepare_asu_data(dmin=d_min, with_sys_abs=False)

    s_squared = 0.25 * np.asarray(atoms.make_1_d2_array())
    f_atoms = np.asarray(atoms.value_array)
    f_solvent = np.asarray(solvent.value_array)
    f = f_atoms + K_SOL * np.exp(-B_SOL * s_squared) * f_solvent
    return Reference(np.array(atoms.miller_array, dtype=np.int32), np.abs(f) ** 2, remarks)
