"""F(hkl, E) as the configuration wants it: from a model, right or perturbed, or from merged intensities."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from spreadflow import build
from spreadflow.analysis.merging import amplitudes
from spreadflow.config import StructureFactorsSection
from spreadflow.errors import ConfigError, FileError
from spreadflow.io import mtz, structure
from spreadflow.physics import anomalous, phantom, unit_cell
from spreadflow.physics.structure_factors import (
    Atoms,
    StructureFactors,
    perturbed,
    structure_factors,
)


def factors(
    section: StructureFactorsSection,
    energies_ev: np.ndarray,
    energy_ev: float,
    rng: np.random.Generator,
) -> StructureFactors:
    """F of the section in the channels `energies_ev` (channel,).

    energy_ev: where merged amplitudes hold, the mean energy of the beam they were measured with; rng: of the
    perturbation. Raises ConfigError, FileError.
    """
    model = _of_model(section, energies_ev, rng)
    return (
        model if section.source == "model" else _with_data(section, model, energies_ev, energy_ev)
    )


def files(section: StructureFactorsSection) -> list[Path]:
    """Those that the section names."""
    curves = curve_files(site.curve for site in section.sites)
    return [path for path in (section.model, section.mtz, *curves) if path is not None]


def curve_files(names: Iterable[str]) -> list[Path]:
    """Those of some curves that are not known by name."""
    return [Path(name) for name in names if name not in anomalous.VALENCE]


def _of_model(
    section: StructureFactorsSection, energies_ev: np.ndarray, rng: np.random.Generator
) -> StructureFactors:
    cell = build.cell(section)
    group = _space_group(section)
    k_sol = section.k_sol
    atoms = _atoms(section)
    of_sites = zip(section.sites, _elements(section, atoms), strict=True)
    sites = {site.atom: curve(element, site.curve, energies_ev) for site, element in of_sites}
    if section.perturb:
        atoms, k_sol = perturbed(rng, atoms, cell, sites)
    elements = [str(element) for element in np.unique(atoms.elements)]
    made = structure_factors(
        atoms,
        cell,
        group,
        d_min=section.d_min,
        sites=sites,
        others={element: anomalous.tabulated(element, energies_ev) for element in elements},
        k_sol=k_sol,
        b_sol=section.b_sol,
    )
    if len(made.hkl) == 0:
        expected = f"a resolution at which the cell {section.cell} has reflections"
        raise ConfigError("structure_factors.d_min", expected, section.d_min, "Lower it.")
    return made


def _space_group(section: StructureFactorsSection) -> str:
    assert section.space_group is not None, "filled in when a stage is handed its sections"
    return section.space_group


def _atoms(section: StructureFactorsSection) -> Atoms:
    cell = build.cell(section)
    group = _space_group(section)
    if section.model is None:
        return phantom.build(cell, group, section.phantom_seed)
    return structure.read(section.model, cell, group)


def elements(section: StructureFactorsSection) -> list[str]:
    """Of each site. Raises ConfigError where the model has no such atom."""
    return _elements(section, _atoms(section))


def _elements(section: StructureFactorsSection, atoms: Atoms) -> list[str]:
    out = []
    for i, site in enumerate(section.sites):
        found = np.unique(atoms.elements[atoms.names == site.atom])
        if len(found) != 1:
            where = f"structure_factors.sites.{i}.atom"
            of = f"{len(found)} elements of that name"
            raise ConfigError(where, f"an atom '{site.atom}' in the model", of, "Correct it.")
        out.append(str(found[0]))
    return out


def curve(element: str, name: str, energies_ev: np.ndarray) -> np.ndarray:
    """(channel,) f' + i f'' of a site of that element: a curve known by name, or a file's."""
    if name in anomalous.VALENCE:
        return anomalous.site(element, name, energies_ev)
    return structure.read_curve(name, energies_ev)


def _with_data(
    section: StructureFactorsSection,
    model: StructureFactors,
    energies_ev: np.ndarray,
    energy_ev: float,
) -> StructureFactors:
    """The model's F with the merged amplitudes."""
    assert section.mtz is not None, "checked with the configuration"
    cell = build.cell(section)
    group = _space_group(section)
    data = mtz.read_merged(section.mtz, unit_cell.degrees(cell), group)
    try:
        return amplitudes.measured(
            model,
            cell,
            group,
            **data._asdict(),
            channel=int(np.abs(energies_ev - energy_ev).argmin()),
            min_i_over_sigma=section.min_i_over_sigma,
            complete=section.source == "model_completed",
        )
    except ValueError as error:
        expected = (
            f"enough reflections in common with the model to {section.d_min} Å to find their scale"
        )
        todo = "Check structure_factors.mtz and structure_factors.d_min."
        raise FileError(section.mtz, expected, error, todo) from None
