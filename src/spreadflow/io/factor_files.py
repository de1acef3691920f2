"""The files that structure factors are made from: a model of the crystal, curves f′, f″, merged
intensities.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from spreadflow import build
from spreadflow.config import StructureFactorsSection
from spreadflow.io import curve_table, merged_intensities, structure
from spreadflow.physics import unit_cell
from spreadflow.physics.anomalous import VALENCE
from spreadflow.physics.structure_factors import Atoms


class FactorFiles(NamedTuple):
    """What the files hold. Without any, structure factors are those of a phantom with published
    curves.
    """

    atoms: Atoms | None = None
    """the model of the crystal"""
    curves: Mapping[str, curve_table.Curve] = MappingProxyType({})
    """name of a file → its table of f′, f″"""
    merged: merged_intensities.Measured | None = None
    """merged intensities"""
    remarks: Sequence[str] = ()
    """what was repaired, chosen or not understood, by file"""


NO_FILES = FactorFiles()
"""A configuration that names no files."""


def paths_of(section: StructureFactorsSection) -> list[Path]:
    """Return the files that a section names."""
    curves = curve_paths(site.curve for site in section.sites)
    named = (section.model, section.mtz, *curves)
    return [path for path in named if path is not None]


def curve_paths(names: Iterable[str]) -> list[Path]:
    """Return the files among the names of curves: those that are none of a published curve."""
    return [Path(name) for name in names if name not in VALENCE]


def read(section: StructureFactorsSection, more_curves: Iterable[str] = ()) -> FactorFiles:
    """Read the files that a section names, and those of more curves. Raises FileError."""
    assert section.space_group is not None, "filled in when a stage is handed its sections"
    cell = build.cell(section)
    names = [*(site.curve for site in section.sites), *more_curves]

    remarks = []
    atoms = None
    if section.model is not None:
        atoms, of_model = structure.read(section.model, cell, section.space_group)
        remarks += [f"{section.model}: {remark}" for remark in of_model]
    curves = {name: curve_table.read_curve(name) for name in names if name not in VALENCE}
    for name, curve in curves.items():
        remarks += [f"{name}: {remark}" for remark in curve.remarks]
    merged = None
    if section.mtz is not None and section.source != "model":
        degrees = unit_cell.degrees(cell)
        merged = merged_intensities.read(section.mtz, degrees, section.space_group)

    return FactorFiles(
        atoms=atoms,
        curves=curves,
        merged=merged,
        remarks=remarks,
    )
