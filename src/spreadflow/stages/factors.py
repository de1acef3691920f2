"""F(hkl, E) as the configuration wants it: from a model, right or perturbed, or from merged intensities."""

import numpy as np

from spreadflow import build
from spreadflow.analysis import amplitudes
from spreadflow.config import CrystalSection, Site, StageConfig
from spreadflow.errors import ConfigError, FileError
from spreadflow.io import mtz, structure
from spreadflow.physics import anomalous, lattice, phantom
from spreadflow.physics.structure_factors import Atoms, StructureFactors, perturbed, structure_factors


def factors(config: StageConfig, rng: np.random.Generator) -> StructureFactors:
    """Of sections `crystal`, `structure_factors`, `beam`; rng: of the perturbation. Raises ConfigError, FileError."""
    model = _of_model(config, rng)
    return model if config.structure_factors.source == "model" else _with_data(config, model)


def _of_model(config: StageConfig, rng: np.random.Generator) -> StructureFactors:
    section, cell, energies = config.crystal, build.cell(config.crystal), build.channels(config.beam)
    atoms, k_sol = _atoms(section, cell), section.k_sol
    sites = {site.atom: _curve(i, site, atoms, energies) for i, site in enumerate(section.sites)}
    if config.structure_factors.perturb:
        atoms, k_sol = perturbed(rng, atoms, cell, sites)
    elements = [str(element) for element in np.unique(atoms.elements)]
    return structure_factors(
        atoms,
        cell,
        section.space_group,
        d_min=section.d_min,
        sites=sites,
        others={element: anomalous.tabulated(element, energies) for element in elements},
        k_sol=k_sol,
        b_sol=section.b_sol,
    )


def _atoms(section: CrystalSection, cell: np.ndarray) -> Atoms:
    if section.model is None:
        return phantom.build(cell, section.space_group, section.phantom_seed)
    return structure.read(section.model, cell, section.space_group)


def _curve(i: int, site: Site, atoms: Atoms, energies: np.ndarray) -> np.ndarray:
    """(channel,) f' + i f'' of a site. Raises ConfigError where the model has no such atom."""
    elements = np.unique(atoms.elements[atoms.names == site.atom])
    if len(elements) != 1:
        found = f"{len(elements)} elements of that name"
        raise ConfigError(f"crystal.sites.{i}.atom", f"an atom '{site.atom}' in the model", found, "Correct it.")
    if site.curve in anomalous.VALENCE:
        return anomalous.site(str(elements[0]), site.curve, energies)
    return structure.read_curve(site.curve, energies)


def _with_data(config: StageConfig, model: StructureFactors) -> StructureFactors:
    """The model's F with the merged amplitudes, which are taken to be those at the mean energy of the beam."""
    section, crystal, cell = config.structure_factors, config.crystal, build.cell(config.crystal)
    assert section.mtz is not None, "checked with the configuration"
    data = mtz.read_merged(section.mtz, lattice.degrees(cell), crystal.space_group)
    try:
        return amplitudes.measured(
            model,
            cell,
            crystal.space_group,
            **data._asdict(),
            channel=int(np.abs(build.channels(config.beam) - config.beam.energy_ev).argmin()),
            min_i_over_sigma=section.min_i_over_sigma,
            complete=section.source == "model_completed",
        )
    except ValueError as error:
        expected = f"enough reflections in common with the model to {crystal.d_min} Å to find their scale"
        raise FileError(section.mtz, expected, error, "Check structure_factors.mtz and crystal.d_min.") from None
