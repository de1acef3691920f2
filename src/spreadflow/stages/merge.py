"""merge: one intensity for each unique reflection from the accepted lattices. Writes merge.h5 and
merge.mtz.
"""

from logging import Logger
from pathlib import Path

import numpy as np

from spreadflow.analysis.merging import absences, merging, scaling, statistics
from spreadflow.config import MergeConfig, MergeSection
from spreadflow.errors import FileError
from spreadflow.io import mtz, store
from spreadflow.log import logger, warn
from spreadflow.parallel import World
from spreadflow.physics import symmetry, unit_cell
from spreadflow.products import Merge
from spreadflow.products.merge import Lattices
from spreadflow.recipes import merge_checks
from spreadflow.stages import scaled_observations
from spreadflow.stages.scaled_observations import Crystal
from spreadflow.units import wavelength


def run(
    config: MergeConfig,
    *,
    reindex: list[Path],
    cells: Path,
    out: Path,
    world: World,
    word: str = "merge",
) -> None:
    """Scale, fit the error model, merge, write the product, and say how good it is."""
    section = config.merge
    log = logger(word, world)
    out = Path(out)
    scaled = scaled_observations.scale(
        section, reindex=reindex, cells=cells, world=world, word=word
    )
    crystal, own, own_lattices, counts, unique, obs, sums, scales, _ = scaled
    merged = merging.merge(obs, scales.intensity, scales.sigma, sums, section.min_multiplicity)
    merged = merging.with_scatter(merged, unique)
    n_merged = int(merged.n.sum())
    counts |= {"multiplicity": counts["used"] - n_merged, "used": n_merged}

    mean_energy_ev = _mean_energy(sums, own.energy_ev[own_lattices.used])
    _set_scales(own_lattices, scales)
    lattices = _gathered(own.group, own_lattices, world)

    attributes = _attributes(section, crystal, scales) | {
        "wavelength_ang": float(wavelength(mean_energy_ev)),
        "reflections": counts,
        "n_lattices_in": len(lattices),
        "inputs": scaled_observations.inputs_of(section, reindex, cells),
    }
    _check_finite(merged, section)
    suspects = absences.suspected_screws(merged, unique)
    warnings = [
        *merge_checks.of_symmetry(attributes["ambiguities"], suspects),
        *merge_checks.of_scales(scales),
        *merge_checks.of_lattices(lattices, scales),
    ]
    attributes["warnings"] = warn(log, warnings)
    world.once(lambda: _write(out, unique, merged, lattices, attributes, section.n_bins))
    log.info("%s after %d cycles; reflections: %s", scales.error_model, scales.n_cycles, counts)
    _log_quality(log, statistics.overall(merged, unique))


def _log_quality(log: Logger, overall: statistics.Bins) -> None:
    """Log how well the half sets agree. overall: statistics in one bin."""
    words = "CC1/2 %.4f of %d pairs, Rsplit %.4f"
    log.info(words, overall.cc_half[0], overall.n_pairs[0], overall.r_split[0])


def _check_finite(merged: merging.Merged, section: MergeSection) -> None:
    """Raise FileError where a measured intensity or its σ is no number."""
    is_measured = merged.n > 0
    is_finite = np.isfinite(merged.intensity) & np.isfinite(merged.sigma)
    n_lost = int((is_measured & ~is_finite).sum())
    if n_lost or not is_measured.any():
        found = f"{n_lost} of {int(is_measured.sum())} that are not"
        todo = "Look at reindex.png; does merge.reference belong to this crystal?"
        where = section.reference or "merged intensities"
        raise FileError(where, "finite intensities", found, todo)


def _attributes(section: MergeSection, crystal: Crystal, scales: scaling.Scaling) -> dict:
    """Return the attributes of the product that do not depend on the counts of reflections."""
    reference = "no reference"
    if section.reference is not None:
        reference = f"mark0 against {section.reference.name}"
    cell = unit_cell.radians(crystal.cell)
    return {
        "runs": crystal.runs,
        "space_group": crystal.space_group,
        "cell": crystal.cell.tolist(),
        "d_min": section.d_min,
        "ambiguities": symmetry.ambiguities(cell, crystal.space_group),
        "scaling": reference,
        "error_model": scales.error_model._asdict(),
        "lattice_spread": dict(zip(scaling.UNKNOWNS, scales.spread.tolist(), strict=True)),
        "n_cycles": scales.n_cycles,
        "last_change": scales.last_change,
        "config": section.model_dump(mode="json"),
    }


def _mean_energy(sums: merging.Sums, energies_ev: np.ndarray) -> float:
    """Return the mean over used lattices of their pulses' energies (used lattice,), eV.
    Collective.
    """
    energy, n_used = sums.over_lattices(energies_ev, np.ones(len(energies_ev)))
    return energy / n_used


def _set_scales(lattices: Lattices, scales: scaling.Scaling) -> None:
    """Add what was refined of the lattices, NaN where one is not used."""

    def of_all(of_used: np.ndarray) -> np.ndarray:
        column = np.full((len(lattices), *of_used.shape[1:]), np.nan)
        column[lattices.used] = of_used
        return column

    lattices.scale = of_all(np.exp(scales.log_g))
    lattices.b = of_all(scales.b)
    lattices.tilt_rad = of_all(scales.unknowns[:, 2:4])
    lattices.log_width = of_all(scales.unknowns[:, 4])
    lattices.chi2 = of_all(scales.chi2)


def _gathered(group: np.ndarray, lattices: Lattices, world: World) -> Lattices:
    """Return the lattices of all ranks, in order of the groups."""
    own_pieces = {
        int(number): Merge(lattices=lattices[group == number]) for number in np.unique(group)
    }
    return Merge.joined(world.gather_blocks(own_pieces)).lattices


def _write(
    out: Path,
    unique: merging.Unique,
    merged: merging.Merged,
    lattices: Lattices,
    attributes: dict,
    n_bins: int,
) -> None:
    """Write merge.mtz, then merge.h5."""
    of_unique = Merge.merged(hkl=unique.hkl, friedel=unique.friedel, **merged._asdict())
    measured = of_unique[merged.n > 0]
    columns = measured.as_dict()
    mtz.write_merged(
        out.with_suffix(".mtz"),
        mtz.MergedTable(**{name: columns[name] for name in mtz.MergedTable._fields}),
        cell=np.array(attributes["cell"]),
        space_group=attributes["space_group"],
        wavelength=attributes["wavelength_ang"],
        history=f"spreadflow merge, scaling: {attributes['scaling']}",
    )
    bins = Merge.bins(**statistics.in_bins(merged, unique, n_bins)._asdict())
    product = Merge(merged=measured, lattices=lattices, bins=bins)
    b, sigma = statistics.wilson_b(merged, unique)
    key = store.digest(attributes["config"], attributes["inputs"])
    store.write(out, product, key=key, wilson_b=b, wilson_b_sigma=sigma, **attributes)
