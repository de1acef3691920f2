"""The observations that are merged, on their common scale: those of accepted lattices, as a merge
takes them and as they are exported.
"""

from logging import Logger
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.analysis import identity_hash
from spreadflow.analysis.merging import merging, scaling, selection
from spreadflow.analysis.merging.selection import Fate
from spreadflow.config import MergeSection
from spreadflow.errors import FileError
from spreadflow.io import reference, store
from spreadflow.log import logger
from spreadflow.parallel import World
from spreadflow.products import Cells, Column, Merge
from spreadflow.products.index import Reflections
from spreadflow.products.merge import Lattices
from spreadflow.stages import accepted_reflections
from spreadflow.stages.accepted_reflections import OwnLattices

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


class Crystal(NamedTuple):
    """What cells.h5 says of all lattices."""

    runs: list[str]
    space_group: str
    cell: np.ndarray
    """(6,) mean of the chosen cluster, Å, degrees"""


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
    columns = tuple(dict.fromkeys((*REFLECTIONS, *keep)))
    own, reflections = accepted_reflections.read(
        reindex, cells, crystal.runs, len(unique), columns, world, word
    )
    kept = Reflections(**{column.name: getattr(reflections, column.name) for column in keep})
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


def inputs_of(section: MergeSection, reindex: list[Path], cells: Path) -> list[str]:
    """Return the identities of the files that observations and their scales are from."""
    paths = [*reindex, cells, section.reference]
    return [store.identity(path) for path in paths if path is not None]


def _check_used(counts: dict[str, int], cells: Path) -> None:
    """Raise FileError where no reflection is left to merge. counts: reflections of each fate."""
    if counts["used"] == 0:
        todo = "Look at reindex.png and merge.d_min."
        raise FileError(cells, "reflections to merge", f"none: {counts}", todo)


def _crystal(path: Path) -> Crystal:
    """Return what a cells.h5 says of all lattices."""
    attributes = store.attributes(path, Cells)
    clusters = store.read(path, Cells, [Cells.clusters.mean]).clusters
    cell = clusters.mean[int(attributes["chosen"])]
    return Crystal(attributes["runs"], attributes["space_group"], cell)


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
