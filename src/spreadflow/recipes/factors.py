"""F(hkl, E) as the configuration wants it: from a model, right or perturbed, or from merged
intensities.

The contents of files are handed in; `io/factor_files.py` reads them.
"""

import numpy as np

from spreadflow import build
from spreadflow.analysis.merging import amplitudes
from spreadflow.config import StructureFactorsSection
from spreadflow.errors import ConfigError, FileError
from spreadflow.io.factor_files import NO_FILES, FactorFiles
from spreadflow.physics import anomalous, phantom
from spreadflow.physics.structure_factors import (
    Atoms,
    StructureFactors,
    perturbed,
    structure_factors,
)
from spreadflow.recipes import sites


def factors(
    section: StructureFactorsSection,
    energies_ev: np.ndarray,
    energy_ev: float,
    rng: np.random.Generator,
    files: FactorFiles = NO_FILES,
) -> StructureFactors:
    """Return F of a section in the channels `energies_ev` (channel,).

    energy_ev: energy at which merged amplitudes hold, the mean energy of the beam they were
    measured with; rng: random stream of the perturbation; files: contents of the files that the
    section names. Raises ConfigError, FileError.
    """
    model = _of_model(section, energies_ev, rng, files)
    if section.source == "model":
        return model
    return _with_data(section, model, energies_ev, energy_ev, files)


def _of_model(
    section: StructureFactorsSection,
    energies_ev: np.ndarray,
    rng: np.random.Generator,
    files: FactorFiles,
) -> StructureFactors:
    """Return F of the atoms, right or perturbed."""
    cell = build.cell(section)
    k_sol = section.k_sol
    atoms = _atoms(section, files)
    of_sites = zip(section.sites, sites.elements(section, atoms), strict=True)
    curves = {
        site.label: curve(element, site.curve, energies_ev, files) for site, element in of_sites
    }
    if section.perturb:
        atoms, k_sol = perturbed(rng, atoms, cell)
    elements = [str(element) for element in np.unique(atoms.elements)]
    model = structure_factors(
        atoms,
        cell,
        _space_group(section),
        d_min=section.d_min,
        sites=curves,
        others={element: anomalous.tabulated(element, energies_ev) for element in elements},
        k_sol=k_sol,
        b_sol=section.b_sol,
    )
    if len(model.hkl) == 0:
        expected = f"a resolution at which the cell {section.cell} has reflections"
        raise ConfigError("structure_factors.d_min", expected, section.d_min, "Lower it.")
    return model


def _space_group(section: StructureFactorsSection) -> str:
    """Return the space group of the crystal."""
    assert section.space_group is not None, "filled in when a stage is handed its sections"
    return section.space_group


def _atoms(section: StructureFactorsSection, files: FactorFiles) -> Atoms:
    """Return the atoms of the model, or those of a phantom where there is none, with the names of
    their sites. Raises ConfigError.
    """
    if section.model is None:
        atoms = phantom.build(build.cell(section), _space_group(section), section.phantom_seed)
    else:
        assert files.atoms is not None, "the model was not read"
        atoms = files.atoms
    return sites.assign(section, atoms)


def elements(section: StructureFactorsSection, files: FactorFiles = NO_FILES) -> list[str]:
    """Return the element of each site. Raises ConfigError where a site is not one."""
    return sites.elements(section, _atoms(section, files))


def places(
    section: StructureFactorsSection, files: FactorFiles = NO_FILES
) -> dict[str, np.ndarray]:
    """Return the fractional coordinates (atom, 3) of the atoms of each site, by its label."""
    atoms = _atoms(section, files)
    return {site.label: atoms.xyz[atoms.sites == site.label] for site in section.sites}


def curve(
    element: str, name: str, energies_ev: np.ndarray, files: FactorFiles = NO_FILES
) -> np.ndarray:
    """Return f′ + i f″ of a site of an element, (channel,): a published curve, or a file's."""
    if name in anomalous.VALENCE:
        return anomalous.site(element, name, energies_ev)
    return files.curves[name].at(energies_ev)


def _with_data(
    section: StructureFactorsSection,
    model: StructureFactors,
    energies_ev: np.ndarray,
    energy_ev: float,
    files: FactorFiles,
) -> StructureFactors:
    """Return the model's F with the merged amplitudes. Raises FileError where these have nothing in
    common with it.
    """
    assert section.mtz is not None, "checked with the configuration"
    assert files.merged is not None, "the merged intensities were not read"
    try:
        return amplitudes.measured(
            model,
            build.cell(section),
            _space_group(section),
            amplitudes.MergedIntensities(*files.merged),
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
