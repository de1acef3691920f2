"""F(hkl, E) as the configuration wants it: from a model, right or perturbed, or from merged
intensities.

The contents of files are handed in; `io/factor_files.py` reads them.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from spreadflow import build
from spreadflow.analysis.curves.columns import SiteUnknowns
from spreadflow.analysis.merging import amplitudes
from spreadflow.config import StructureFactorsSection
from spreadflow.errors import ConfigError, FileError
from spreadflow.io.curve_table import Curve
from spreadflow.io.factor_files import NO_FILES, FactorFiles
from spreadflow.physics import anomalous, phantom, unit_cell
from spreadflow.physics.structure_factors import (
    Atoms,
    StructureFactors,
    geometric_slopes,
    isotropic,
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


SITE_UNKNOWNS = {"place": ("x", "y", "z"), "b": ("B",), "occupancy": ("ln occupancy",)}
"""What may be unknown of a site → names of its unknowns, in the order of `geometric_slopes`."""


def site_unknown_names(kinds: Collection[str]) -> list[str]:
    """Return the names of a site's unknowns, of the kinds that are unknown of sites."""
    return [name for kind, names in SITE_UNKNOWNS.items() if kind in kinds for name in names]


N_SITE_UNKNOWNS = sum(map(len, SITE_UNKNOWNS.values()))
"""How many unknowns a site has, if all are."""


class MovedSites(NamedTuple):
    """Sites whose place, B or occupancy is unknown, where these have some value."""

    unknowns: SiteUnknowns
    groups: np.ndarray
    """(site, node) g of the sites"""


def moved_sites(
    section: StructureFactorsSection,
    model: StructureFactors,
    sigmas: Mapping[str, float],
    rng: np.random.Generator,
    files: FactorFiles = NO_FILES,
    origin: np.ndarray | None = None,
) -> MovedSites:
    """Return the sites of a model with what is unknown of them beside their curves at `origin`
    (site unknown,); None = as the model has them.

    sigmas: of `SITE_UNKNOWNS`, standard deviations about the model: Å, Å², relative; rng: that of
    `factors`, from its beginning.
    """
    cell = build.cell(section)
    atoms = _atoms(section, files)
    if section.perturb:
        atoms, _ = perturbed(rng, atoms, cell)
    rows = {
        name: row
        for row, (kind, name) in enumerate(
            (kind, name) for kind, names in SITE_UNKNOWNS.items() for name in names
        )
        if kind in sigmas
    }
    sigma = [sigmas[kind] for kind in SITE_UNKNOWNS if kind in sigmas for _ in SITE_UNKNOWNS[kind]]
    n_sites = len(section.sites)
    values = np.zeros((n_sites, N_SITE_UNKNOWNS))
    if origin is not None:
        values[:, list(rows.values())] = origin.reshape(n_sites, -1)
    groups = []
    slopes = []
    for site, value in zip(section.sites, values, strict=True):
        of_site = Atoms(*(column[atoms.sites == site.label] for column in atoms))
        moved = _moved(of_site, cell, value)
        of_all = geometric_slopes(moved, cell, model.hkl, _space_group(section))
        groups.append(of_all[-1])
        slopes.append(of_all[list(rows.values())])
    unknowns = SiteUnknowns(
        names=tuple(f"site {site}: {name}" for site in range(n_sites) for name in rows),
        site=np.repeat(np.arange(n_sites), len(rows)),
        slopes=np.concatenate(slopes),
        sigma=np.tile(sigma, n_sites),
        origin=values[:, list(rows.values())].ravel(),
    )
    return MovedSites(unknowns, np.array(groups))


def _moved(atoms: Atoms, cell: np.ndarray, value: np.ndarray) -> Atoms:
    """Return atoms after a shift (Å), a change of B (Å²) and of ln occupancy, (5,)."""
    shift = np.linalg.inv(unit_cell.orthogonalization(cell)) @ value[:3]
    return atoms._replace(
        xyz=atoms.xyz + shift,
        beta=atoms.beta + isotropic(value[3:4], cell),
        occupancy=atoms.occupancy * np.exp(value[4]),
    )


def curve(
    element: str, name: str, energies_ev: np.ndarray, files: FactorFiles = NO_FILES
) -> np.ndarray:
    """Return f′ + i f″ of a site of an element, (channel,): a published curve, or a file's. Raises
    FileError where that is of no such element.
    """
    if name in anomalous.VALENCE:
        return anomalous.site(element, name, energies_ev)
    table = files.curves[name]
    values = table.at(energies_ev)
    _check_is_of(element, table, energies_ev)
    return values


def _check_is_of(element: str, table: Curve, energies_ev: np.ndarray) -> None:
    """Raise FileError for the first row of a table that is no f′, f″ of an element, among those
    that its values at energies (channel,) rest on.
    """
    first = int(np.searchsorted(table.energies_ev, energies_ev.min(), side="right")) - 1
    last = int(np.searchsorted(table.energies_ev, energies_ev.max(), side="left"))
    table = table.rows(slice(first, last + 1))
    low, high = anomalous.limits(element, table.energies_ev)
    for name, part in (("f'", np.real), ("f''", np.imag)):
        value = part(table.values)
        is_wrong = (value < part(low)) | (value > part(high))
        if is_wrong.any():
            row = int(is_wrong.argmax())
            at = f"line {table.lines[row]}, {table.energies_ev[row]:g} eV"
            expected = (
                f"{name} of {element}, {part(low)[row]:.2f} to {part(high)[row]:.2f} e, in {at}"
            )
            found = "; ".join([f"{value[row]:g}", *table.remarks])
            todo = "Correct the table: energy (eV), f' without the atomic number, f''."
            raise FileError(table.path, expected, found, todo)


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
