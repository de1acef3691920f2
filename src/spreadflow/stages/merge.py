"""merge: one intensity for each unique reflection from the accepted lattices. Writes merge.h5 and
merge.mtz.
"""

from logging import Logger
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.analysis import identity_hash
from spreadflow.analysis.merging import absences, merging, scaling, selection, statistics
from spreadflow.analysis.merging.selection import Fate
from spreadflow.config import MergeConfig, MergeSection
from spreadflow.errors import FileError
from spreadflow.io import mtz, reference, store
from spreadflow.io.accepted import Accepted, accepted_lattices, brought
from spreadflow.io.rows import IS_IT_TWICE
from spreadflow.log import Progress, logger, warn
from spreadflow.parallel import World
from spreadflow.physics import symmetry, unit_cell
from spreadflow.products import Cells, Column, Merge, Reindex
from spreadflow.products.index import Reflections
from spreadflow.products.merge import Lattices
from spreadflow.recipes import merge_checks
from spreadflow.units import wavelength

MAX_GROUPS = 128
"""Most groups of lattices, which are added in order whatever the number of ranks: ranks beyond this
number have no work.
"""

MOST_OF_FEW = 64
"""Most groups that few parts are cut into: enough for several on each of 8 ranks."""

LEAST_OF_UNIQUE = 0.03
"""Reflections of a group of fewer lattices than a part has, over the number of unique ones: sums by
unique reflection are cleared and added for each group.
"""

REFLECTIONS = (
    Reflections.lattice,
    Reflections.hkl,
    Reflections.partiality,
    Reflections.lorentz,
    Reflections.polarization,
    Reflections.capture,
    Reflections.slopes,
    Reflections.intensity,
    Reflections.sigma_background,
    Reflections.flags,
)
"""Columns of reflections that are merged."""

OF_RUN = (
    Reindex.shots.mean_energy_ev,
    Reindex.lattices.shot,
    Reindex.lattices.shot_id,
    Reindex.lattices.k,
    Reindex.lattices.n_sound,
)
"""Columns that are read of the manifest of `reindex`."""


class Crystal(NamedTuple):
    """What cells.h5 says of all lattices."""

    runs: list[str]
    space_group: str
    cell: np.ndarray
    """(6,) mean of the chosen cluster, Å, degrees"""


class OwnLattices(NamedTuple):
    """The accepted lattices of this rank's groups; (lattice,)."""

    group: np.ndarray
    """ascending"""
    run: np.ndarray
    """number of the run in the accepted list"""
    shot_id: np.ndarray
    k: np.ndarray
    energy_ev: np.ndarray
    """mean of the pulse"""
    pulse_photons: np.ndarray


NO_LATTICES = OwnLattices(
    group=np.empty(0, np.int64),
    run=np.empty(0, np.int64),
    shot_id=np.empty(0, np.uint64),
    k=np.empty(0, np.int64),
    energy_ev=np.empty(0),
    pulse_photons=np.empty(0),
)
"""Those of a rank without groups."""


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
    scaled = scale(section, reindex=reindex, cells=cells, world=world, word=word)
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
        "inputs": identities([*reindex, cells, section.reference]),
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


class Scaled(NamedTuple):
    """The observations to merge on their common scale. Lattices and observations are this
    rank's.
    """

    crystal: Crystal
    own: OwnLattices
    lattices: Lattices
    """of the same rows, first columns"""
    counts: dict[str, int]
    """reflections of each fate, of all ranks"""
    unique: merging.Unique
    observations: merging.Observations
    sums: merging.Sums
    scales: scaling.Scaling
    kept: Reflections
    """the columns asked for of each observation"""


def scale(
    section: MergeSection,
    *,
    reindex: list[Path],
    cells: Path,
    world: World,
    word: str,
    keep: tuple[Column, ...] = (),
) -> Scaled:
    """Read the reflections of accepted lattices, select those to merge and scale them. Collective.

    keep: columns of reflections that are kept of each observation. Raises FileError.
    """
    crystal = _crystal(cells)
    unique = merging.Unique(crystal.cell, crystal.space_group, section.d_min)
    parts = _parts(reindex, cells, crystal.runs)
    columns = tuple(dict.fromkeys((*REFLECTIONS, *keep)))
    groups = _groups(parts, len(unique))
    own, reflections = _read(groups, parts, columns, world, word)
    read = reflections.as_dict()
    kept = Reflections(**{column.name: read[column.name] for column in keep})
    lattice = reflections.lattice if keep else np.empty(0, np.int64)
    obs, lattices, counts, fate = _select(own, reflections, section, unique, world)
    _check_used(counts, cells)
    sums = merging.Sums(obs, len(unique), world.add_up)
    return Scaled(
        crystal=crystal,
        own=own,
        lattices=lattices,
        counts=counts,
        unique=unique,
        observations=obs,
        sums=sums,
        scales=_scaled(obs, sums, unique, section, crystal, logger(word, world)),
        kept=kept[selection.used_rows(fate, lattice)] if keep else kept,
    )


def _check_used(counts: dict[str, int], cells: Path) -> None:
    """Raise FileError where no reflection is left to merge. counts: reflections of each fate."""
    if counts["used"] == 0:
        todo = "Look at reindex.png and merge.d_min."
        raise FileError(cells, "reflections to merge", f"none: {counts}", todo)


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


def _crystal(path: Path) -> Crystal:
    """Return what a cells.h5 says of all lattices."""
    attributes = store.attributes(path, Cells)
    clusters = store.read(path, Cells, [Cells.clusters.mean]).clusters
    cell = clusters.mean[int(attributes["chosen"])]
    return Crystal(attributes["runs"], attributes["space_group"], cell)


class Run(NamedTuple):
    """What is known of the lattices of a run before its parts are opened."""

    number: int
    """in the list of cells.h5"""
    reindex: Reindex
    """columns `OF_RUN`"""
    accepted: Accepted


class Part(NamedTuple):
    """One part of the product of one run."""

    run: Run
    part: store.Part[Reindex]


def _parts(reindex: list[Path], cells: Path, runs: list[str]) -> list[Part]:
    """Return every part, in order. Raises FileError for a run that cells.h5 does not know, of other
    lattices than it knows, or that is there twice.
    """
    parts: list[Part] = []
    names: list[str] = []
    for path in reindex:
        name = str(store.attributes(path, Reindex)["run"])
        if name not in runs:
            expected = f"one of the runs of cells.h5 ({', '.join(runs)})"
            raise FileError(path, expected, name, "Rerun cells on all runs.")
        if name in names:
            raise FileError(path, "each run once", f"{name} again", IS_IT_TWICE)
        names.append(name)
        of_run = store.read(path, Reindex, OF_RUN)
        run = Run(runs.index(name), of_run, accepted_lattices(cells, path))
        parts += [Part(run, part) for part in store.parts_of(path, Reindex)]
    if not parts:
        todo = "Are there shots in these runs?"
        raise FileError(", ".join(map(str, reindex)), "parts", "none", todo)
    return parts


class Groups(NamedTuple):
    """Lattices whose sums are formed together: those of some parts, or some of one part."""

    of_parts: list[np.ndarray]
    """of each part (accepted lattice,) the number of its group, ascending"""
    costs: np.ndarray
    """(group,) its reflections, about"""


def _groups(parts: list[Part], n_unique: int) -> Groups:
    """Return the groups of accepted lattices, the same on any number of ranks."""
    most = max(MOST_OF_FEW // len(parts), 1)
    n_rows = np.array([part.part.n_rows("reflections") for part in parts])
    n_of_parts = np.clip(n_rows / (LEAST_OF_UNIQUE * n_unique), 1, most).astype(int)
    n_all = int(n_of_parts.sum())
    together = np.array_split(np.arange(n_all), min(n_all, MAX_GROUPS))
    group = np.repeat(np.arange(len(together)), [len(numbers) for numbers in together])

    firsts = np.cumsum(n_of_parts) - n_of_parts
    of_parts = []
    costs = np.zeros(len(together))
    for (run, part), first, n in zip(parts, firsts.tolist(), n_of_parts.tolist(), strict=True):
        rows = part.rows("lattices")
        n_sound = run.reindex.lattices.n_sound[rows][run.accepted.is_accepted[rows]]
        place = np.arange(len(n_sound)) * n // max(len(n_sound), 1)
        of_parts.append(group[first + place])
        costs += np.bincount(of_parts[-1], n_sound, len(costs))
    return Groups(of_parts, costs)


def _read(
    groups: Groups, parts: list[Part], wanted: tuple[Column, ...], world: World, word: str
) -> tuple[OwnLattices, Reflections]:
    """Return the accepted lattices of this rank's groups and their reflections, whose `lattice` is
    a row of these; the result of the stage does not depend on which groups these are. wanted:
    columns of reflections.
    """
    is_early = np.arange(len(groups.costs)) % scaling.START_EVERY == 0
    own_groups = world.deal(groups.costs.tolist(), is_early.tolist())
    is_own = [np.isin(of_part, own_groups) for of_part in groups.of_parts]
    own_parts = [number for number in range(len(parts)) if is_own[number].any()]
    n_rows = sum(parts[number].part.n_rows("reflections") for number in own_parts)
    reflections = _unfilled(wanted, n_rows)
    lattices = [NO_LATTICES]
    n_lattices = 0
    n_reflections = 0
    with Progress(word, len(parts), world, "parts") as progress:
        for number in own_parts:
            end = n_reflections + parts[number].part.n_rows("reflections")
            own = reflections[n_reflections:end]
            group = np.where(is_own[number], groups.of_parts[number], -1)
            of_part, n_kept = _read_part(group, parts[number], wanted, own)
            own.lattice[:n_kept] += n_lattices
            lattices.append(of_part)
            n_lattices += len(of_part.k)
            n_reflections += n_kept
            progress.at(number + 1)
    world.count("lattices", n_lattices)
    joined = OwnLattices(*map(np.concatenate, zip(*lattices, strict=True)))
    return joined, reflections[:n_reflections]


def _unfilled(wanted: tuple[Column, ...], n: int) -> Reflections:
    """Return columns of n reflections, not filled, so that they take no memory yet."""
    columns = {}
    for column in wanted:
        empty = column.empty()
        columns[column.name] = np.empty((n, *empty.shape[1:]), empty.dtype)
    return Reflections(**columns)


def _read_part(
    group: np.ndarray, part: Part, wanted: tuple[Column, ...], reflections: Reflections
) -> tuple[OwnLattices, int]:
    """Read the reflections of one part into as many rows, those of this rank's lattices first.
    Return these lattices, and the number of their reflections.

    group: (accepted lattice,) −1 = of another rank.
    """
    run, of_run = part
    in_part = of_run.rows("lattices")
    is_own = run.accepted.is_accepted[in_part].copy()
    is_own[is_own] = group >= 0
    own = run.reindex.lattices[in_part][is_own]
    reindex = of_run.read([Reindex.shots.pulse_photons, *wanted], into=reflections)
    lattices = OwnLattices(
        group=group[group >= 0],
        run=np.full(len(own), run.number),
        shot_id=own.shot_id,
        k=own.k,
        energy_ev=run.reindex.shots.mean_energy_ev[own.shot],
        pulse_photons=reindex.shots.pulse_photons[own.shot - of_run.rows("shots").start],
    )

    n_kept = len(reflections)
    if not is_own.all():
        is_kept = is_own[reflections.lattice]
        n_kept = int(is_kept.sum())
        for column in reflections.as_dict().values():
            column[:n_kept] = column[is_kept]
    kept = reflections[:n_kept]
    kept.hkl[:] = brought(kept.hkl, run.accepted.setting[in_part], kept.lattice)
    row_of_lattice = np.cumsum(is_own) - 1
    kept.lattice[:] = row_of_lattice[kept.lattice]
    return lattices, n_kept


def _select(
    own: OwnLattices,
    reflections: Reflections,
    section: MergeSection,
    unique: merging.Unique,
    world: World,
) -> tuple[merging.Observations, Lattices, dict[str, int], np.ndarray]:
    """Return the observations, the first columns of the lattices, the number of reflections of each
    fate, and the fate of each. The reflections are let go of.
    """
    obs, n, fate = selection.select(
        reflections,
        selection.Lattices(
            group=own.group,
            half=identity_hash.half_sets(own.shot_id),
            pulse=_relative_photons(own, world),
        ),
        unique,
        partiality_min=section.partiality_min,
        min_reflections=section.min_reflections,
        add=world.add_up,
    )
    own_counts = np.bincount(fate, minlength=len(Fate))
    counts = world.sum({world.rank: own_counts})
    lattices = Merge.lattices(run=own.run, shot_id=own.shot_id, k=own.k, n=n, used=n > 0)
    by_name = {end.name.lower(): int(counts[end]) for end in Fate}
    return obs, lattices, by_name, fate


def _relative_photons(own: OwnLattices, world: World) -> np.ndarray:
    """Return the photons in the pulse of each lattice, (lattice,), over their mean in its run:
    files of a run may state them in a unit of their own, or not at all. Collective.
    """
    n_runs = max(world.gather(int(own.run.max(initial=-1)))) + 1
    own_sums = {}
    for number in np.unique(own.group).tolist():
        of_runs = [(own.group == number) & (own.run == run) for run in range(n_runs)]
        photons = [own.pulse_photons[is_of_run].sum() for is_of_run in of_runs]
        own_sums[number] = np.array([photons, np.sum(of_runs, axis=1)])
    total, n_lattices = world.add_up(own_sums.items(), (2, n_runs))
    return own.pulse_photons * n_lattices[own.run] / total[own.run]


def identities(paths: list[Path | None]) -> list[str]:
    """Return the identities of the files that there are."""
    return [store.identity(path) for path in paths if path is not None]


def _scaled(
    obs: merging.Observations,
    sums: merging.Sums,
    unique: merging.Unique,
    section: MergeSection,
    crystal: Crystal,
    log: Logger,
) -> scaling.Scaling:
    """Return the scales, the error model and the intensities that they are refined with.
    Collective.
    """
    return scaling.scale(
        obs,
        sums,
        unique,
        reference=_reference(section, crystal, unique, log),
        refine_b=section.refine_b,
        n_cycles=section.n_cycles,
    )


def _reference(
    section: MergeSection, crystal: Crystal, unique: merging.Unique, log: Logger
) -> np.ndarray | None:
    """Return (unique,) reference intensities, NaN where there are none. Raises FileError where none
    is among the unique reflections.
    """
    if section.reference is None:
        return None
    path = section.reference
    stated = reference.read(path, crystal.cell, crystal.space_group, section.d_min)
    for remark in stated.remarks:
        log.info("%s: %s", path, remark)
    values = unique.values(stated.hkl, stated.intensity)
    if not (values > 0).any():
        expected = f"intensities to {section.d_min:g} Å"
        todo = "Give a reference of this crystal: merge.reference."
        raise FileError(path, expected, f"none of {len(stated.hkl)}", todo)
    return values


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
