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
from spreadflow.errors import FileError, LatticeOutcome, StageWarning
from spreadflow.io import mtz, reference, store
from spreadflow.io.accepted import brought
from spreadflow.io.rows import IS_IT_TWICE
from spreadflow.log import Progress, logger, warn
from spreadflow.parallel import World
from spreadflow.physics import symmetry, unit_cell
from spreadflow.products import Cells, Merge, Reindex
from spreadflow.products.index import Reflections
from spreadflow.products.merge import Lattices
from spreadflow.units import wavelength

MAX_GROUPS = 128
"""Most groups of parts, which are added in order whatever the number of ranks: ranks beyond this
number have no work.
"""

LARGEST_SADD = 0.3
"""Relative disagreement of observations above which partialities or indices must be wrong."""

LARGEST_B_SPREAD = 10.0
"""Å²; crystals of one kind differ by a few Å² (standard deviation) in B."""

LARGEST_B = 20.0
"""Å²; a lattice's B against the mean of all beyond which its fall-off is no crystal's."""

LARGEST_CHI2 = 9.0
"""A lattice whose reflections deviate by more than 3 σ on average is not one of the others."""

UNLIKE_SIGMAS = 5.0
"""Standard deviations of ln G among lattices beyond which a scale is unlike the others."""

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

COLUMNS = (
    Reindex.shots.mean_energy_ev,
    Reindex.shots.pulse_photons,
    Reindex.lattices.shot,
    Reindex.lattices.shot_id,
    Reindex.lattices.k,
    *REFLECTIONS,
)
"""Columns that are read of a part of `reindex`."""


class Accepted(NamedTuple):
    """The accepted list of cells.h5."""

    runs: list[str]
    space_group: str
    cell: np.ndarray
    """(6,) mean of the chosen cluster, Å, degrees"""
    outcome: dict[tuple[int, int, int], int]
    """(run, shot_id, k) → LatticeOutcome, of every lattice"""
    setting: dict[tuple[int, int, int], np.ndarray]
    """(run, shot_id, k) → M (3, 3): Miller indices on the shared axes are M · those of reindex"""


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
    accepted = _accepted(cells)
    unique = merging.Unique(accepted.cell, accepted.space_group, section.d_min)
    parts = _parts(reindex, accepted.runs)
    own, reflections = _read(_groups(parts), parts, accepted, world, word)
    obs, own_lattices, counts = _select(own, reflections, section, unique, world)
    _check_used(counts, cells)
    sums = merging.Sums(obs, len(unique), world.add_up)
    scales = _scaled(obs, sums, unique, section, accepted)
    merged = merging.merge(obs, scales.intensity, scales.sigma, sums, section.min_multiplicity)
    merged = merging.with_scatter(merged, unique)
    n_merged = int(merged.n.sum())
    counts |= {"multiplicity": counts["used"] - n_merged, "used": n_merged}

    mean_energy_ev = _mean_energy(sums, own.energy_ev[own_lattices.used])
    _set_scales(own_lattices, scales)
    lattices = _gathered(own.group, own_lattices, world)

    attributes = _attributes(section, accepted, scales) | {
        "wavelength_ang": float(wavelength(mean_energy_ev)),
        "reflections": counts,
        "n_lattices_in": len(lattices),
        "inputs": _identities([*reindex, cells, section.reference]),
    }
    _check_finite(merged, section)
    suspects = absences.suspected_screws(merged, unique)
    warnings = [
        *_warnings_of_symmetry(attributes["ambiguities"], suspects),
        *_warnings_of_scales(scales),
        *_warnings_of_lattices(lattices, scales),
    ]
    attributes["warnings"] = warn(log, warnings)
    world.once(lambda: _write(out, unique, merged, lattices, attributes, section.n_bins))
    log.info("%s after %d cycles; reflections: %s", scales.error_model, scales.n_cycles, counts)
    _log_quality(log, statistics.overall(merged, unique))


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


def _warnings_of_symmetry(
    ambiguities: list[str], suspects: list[absences.Suspect]
) -> list[StageWarning]:
    """Return warnings about how lattices may be indexed, and about the space group."""
    warnings = [
        StageWarning(
            f"axial reflections {suspect.condition()} are weak, and the space group has no screw "
            f"axis along {suspect.axis}: mean I over that of their shells, of {suspect.n_weak}",
            suspect.strength,
            "about 1",
            "Is index.space_group the right one of its point group?",
        )
        for suspect in suspects
    ]
    if ambiguities:
        warnings.append(
            StageWarning(
                "lattices may be indexed in several ways, which is not resolved: the merge is as "
                "if twinned",
                f"h,k,l or {', '.join(ambiguities)}",
                "h,k,l alone",
                "Trust no intensity until each lattice's choice is known.",
            )
        )
    return warnings


def _warnings_of_scales(scales: scaling.Scaling) -> list[StageWarning]:
    """Return warnings about the refinement of scales and error model as a whole."""
    model = scales.error_model
    warnings = []
    if scales.last_change > scaling.TOLERANCE:
        warnings.append(
            StageWarning(
                f"the scales still move after {scales.n_cycles} cycles, by σ",
                scales.last_change,
                scaling.TOLERANCE,
                "Raise merge.n_cycles; look at merge.png for lattices unlike the others.",
            )
        )
    if model.sadd > LARGEST_SADD:
        warnings.append(
            StageWarning(
                "observations of one reflection disagree by a fraction of its intensity (sadd)",
                model.sadd,
                LARGEST_SADD,
                "Is the cell, the space group, the bandwidth right? Look at reindex.png.",
            )
        )
    b_spread = float(scales.spread[1])
    if b_spread > LARGEST_B_SPREAD:
        warnings.append(
            StageWarning(
                "lattices fall off with resolution very differently: standard deviation of B, Å²",
                b_spread,
                LARGEST_B_SPREAD,
                "Raise merge.d_min to where lattices carry signal.",
            )
        )
    return warnings


def _warnings_of_lattices(lattices: Lattices, scales: scaling.Scaling) -> list[StageWarning]:
    """Return warnings about single lattices, the worst named. Lattices are those of all ranks."""
    chi2 = lattices.chi2
    scale = np.log(lattices.scale)
    b = lattices.b
    beyond_scale = np.abs(scale - np.nanmean(scale)) / (UNLIKE_SIGMAS * scales.spread[0])
    kinds = (
        (chi2 / LARGEST_CHI2, chi2, LARGEST_CHI2, "deviate from what others measured: χ²"),
        (
            np.abs(b) / LARGEST_B,
            b,
            f"±{LARGEST_B:g}",
            "fall off with resolution absurdly: B, Å²",
        ),
        (
            beyond_scale,
            np.exp(scale),
            f"within {UNLIKE_SIGMAS:g} standard deviations of the others",
            "have a scale unlike the others': G",
        ),
    )
    todo = "Look at their stills; leave them out with cells if they are no crystal of this kind."
    warnings = []
    for excess, value, limit, what in kinds:
        beyond = np.flatnonzero(np.nan_to_num(excess) > 1.0)
        if not len(beyond):
            continue
        worst = beyond[np.argmax(excess[beyond])]
        identity = f"shot {lattices.shot_id[worst]}, k {lattices.k[worst]}"
        warnings.append(
            StageWarning(
                f"{len(beyond)} of {int(np.isfinite(b).sum())} lattices {what}; the worst "
                f"({identity})",
                float(value[worst]),
                limit,
                todo,
            )
        )
    return warnings


def _attributes(section: MergeSection, accepted: Accepted, scales: scaling.Scaling) -> dict:
    """Return the attributes of the product that do not depend on the counts of reflections."""
    reference = "no reference"
    if section.reference is not None:
        reference = f"mark0 against {section.reference.name}"
    cell = unit_cell.radians(accepted.cell)
    return {
        "runs": accepted.runs,
        "space_group": accepted.space_group,
        "cell": accepted.cell.tolist(),
        "d_min": section.d_min,
        "ambiguities": symmetry.ambiguities(cell, accepted.space_group),
        "scaling": reference,
        "error_model": scales.error_model._asdict(),
        "lattice_spread": dict(zip(scaling.UNKNOWNS, scales.spread.tolist(), strict=True)),
        "n_cycles": scales.n_cycles,
        "last_change": scales.last_change,
        "config": section.model_dump(mode="json"),
    }


def _accepted(path: Path) -> Accepted:
    """Return the accepted list of a cells.h5."""
    attributes = store.attributes(path, Cells)
    cells = store.read(path, Cells, [Cells.lattices, Cells.clusters.mean])
    lattices = cells.lattices
    identity_columns = (lattices.run.tolist(), lattices.shot_id.tolist(), lattices.k.tolist())
    identities = list(zip(*identity_columns, strict=True))
    return Accepted(
        attributes["runs"],
        attributes["space_group"],
        cells.clusters.mean[int(attributes["chosen"])],
        outcome=dict(zip(identities, lattices.outcome.tolist(), strict=True)),
        setting=dict(zip(identities, lattices.setting, strict=True)),
    )


class Part(NamedTuple):
    """One part of the product of one run."""

    run: int
    """number of the run in the accepted list"""
    part: store.Part[Reindex]


def _parts(reindex: list[Path], runs: list[str]) -> list[Part]:
    """Return every part, in order. Raises FileError for a run that cells.h5 does not know, or that
    is there twice.
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
        run_number = runs.index(name)
        parts += [Part(run_number, part) for part in store.parts_of(path, Reindex)]
    if not parts:
        todo = "Are there shots in these runs?"
        raise FileError(", ".join(map(str, reindex)), "parts", "none", todo)
    return parts


def _groups(parts: list[Part]) -> list[np.ndarray]:
    """Return the numbers of the parts of each group, in order."""
    n_groups = min(len(parts), MAX_GROUPS)
    return np.array_split(np.arange(len(parts)), n_groups)


def _read(
    groups: list[np.ndarray], parts: list[Part], accepted: Accepted, world: World, word: str
) -> tuple[OwnLattices, Reflections]:
    """Return the accepted lattices of this rank's groups and their reflections, whose `lattice` is
    a row of these; the result of the stage does not depend on which groups these are.
    """
    own_groups = range(world.rank, len(groups), world.size)
    own_parts = [parts[number] for group in own_groups for number in groups[group]]
    reflections = _unfilled(sum(part.part.n_rows("reflections") for part in own_parts))
    columns = reflections.as_dict()
    lattices = [NO_LATTICES]
    n_lattices = 0
    n_reflections = 0
    with Progress(word, len(groups), world, "groups") as progress:
        for group in own_groups:
            for number in groups[group].tolist():
                of_part, own = _read_part(group, parts[number], accepted)
                own.lattice += n_lattices
                rows = slice(n_reflections, n_reflections + len(own))
                for name, column in own.as_dict().items():
                    columns[name][rows] = column
                lattices.append(of_part)
                n_lattices += len(of_part.k)
                n_reflections = rows.stop
            progress.at(group + 1)
    joined = OwnLattices(*map(np.concatenate, zip(*lattices, strict=True)))
    return joined, reflections[:n_reflections]


def _unfilled(n: int) -> Reflections:
    """Return n reflections, not filled, so that they take no memory yet."""
    columns = {}
    for column in REFLECTIONS:
        empty = column.empty()
        columns[column.name] = np.empty((n, *empty.shape[1:]), empty.dtype)
    return Reflections(**columns)


def _read_part(group: int, part: Part, accepted: Accepted) -> tuple[OwnLattices, Reflections]:
    """Return the accepted lattices of one part and their reflections. Raises FileError for a
    lattice the accepted list does not know.
    """
    reindex = part.part.read(COLUMNS)
    shot_id = reindex.lattices.shot_id
    k = reindex.lattices.k
    identities = [
        (part.run, *identity) for identity in zip(shot_id.tolist(), k.tolist(), strict=True)
    ]
    outcomes = [accepted.outcome.get(identity) for identity in identities]
    if None in outcomes:
        todo = "Rerun cells on these products."
        raise FileError(part.part.manifest.path, "lattices that cells.h5 knows", "others", todo)
    is_accepted = np.array(outcomes, dtype=np.int64) == LatticeOutcome.ACCEPTED
    n_accepted = is_accepted.sum()
    shot = reindex.lattices.shot[is_accepted]
    lattices = OwnLattices(
        group=np.full(n_accepted, group),
        run=np.full(n_accepted, part.run),
        shot_id=shot_id[is_accepted],
        k=k[is_accepted],
        energy_ev=reindex.shots.mean_energy_ev[shot],
        pulse_photons=reindex.shots.pulse_photons[shot],
    )
    reflections = reindex.reflections
    if not is_accepted.all():
        reflections = reflections[is_accepted[reflections.lattice]]
    settings = [accepted.setting[identity] for identity in identities]
    setting = np.array(settings).reshape(-1, 3, 3)
    reflections.hkl = brought(reflections.hkl, setting, reflections.lattice)
    row_of_lattice = np.cumsum(is_accepted) - 1
    reflections.lattice = row_of_lattice[reflections.lattice]
    return lattices, reflections


def _select(
    own: OwnLattices,
    reflections: Reflections,
    section: MergeSection,
    unique: merging.Unique,
    world: World,
) -> tuple[merging.Observations, Lattices, dict[str, int]]:
    """Return the observations, the first columns of the lattices, and the number of reflections of
    each fate. The reflections are let go of.
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
    return obs, lattices, by_name


def _relative_photons(own: OwnLattices, world: World) -> np.ndarray:
    """Return the photons in the pulse of each lattice, (lattice,), over their mean. Collective."""
    own_sums = {}
    for number in np.unique(own.group).tolist():
        is_in_group = own.group == number
        own_sums[number] = np.array([own.pulse_photons[is_in_group].sum(), is_in_group.sum()])
    total, n_lattices = world.add_up(own_sums.items(), (2,))
    return own.pulse_photons * n_lattices / total


def _identities(paths: list[Path | None]) -> list[str]:
    """Return the identities of the files that there are."""
    return [store.identity(path) for path in paths if path is not None]


def _scaled(
    obs: merging.Observations,
    sums: merging.Sums,
    unique: merging.Unique,
    section: MergeSection,
    accepted: Accepted,
) -> scaling.Scaling:
    """Return the scales, the error model and the intensities that they are refined with.
    Collective.
    """
    return scaling.scale(
        obs,
        sums,
        unique,
        reference=_reference(section, accepted, unique),
        refine_b=section.refine_b,
        n_cycles=section.n_cycles,
    )


def _reference(
    section: MergeSection, accepted: Accepted, unique: merging.Unique
) -> np.ndarray | None:
    """Return (unique,) reference intensities, NaN where there are none. Raises FileError where none
    is among the unique reflections.
    """
    if section.reference is None:
        return None
    hkl, intensity = reference.read(
        section.reference, accepted.cell, accepted.space_group, section.d_min
    )
    values = unique.values(hkl, intensity)
    if not (values > 0).any():
        expected = f"intensities to {section.d_min:g} Å"
        todo = "Give a reference of this crystal: merge.reference."
        raise FileError(section.reference, expected, f"none of {len(hkl)}", todo)
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
