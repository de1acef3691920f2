"""The reflections of accepted lattices, which ranks hold in memory: each is dealt groups of
lattices whose sums are formed together.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.merging import scaling
from spreadflow.errors import FileError
from spreadflow.io import store
from spreadflow.io.accepted import Accepted, accepted_lattices, brought
from spreadflow.io.rows import IS_IT_TWICE
from spreadflow.log import Progress
from spreadflow.parallel import World
from spreadflow.products import Column, Reindex
from spreadflow.products.index import Reflections

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

OF_RUN = (
    Reindex.shots.mean_energy_ev,
    Reindex.lattices.shot,
    Reindex.lattices.shot_id,
    Reindex.lattices.k,
    Reindex.lattices.n_sound,
)
"""Columns that are read of the manifest of `reindex`."""


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


def read(
    reindex: list[Path],
    cells: Path,
    runs: list[str],
    n_unique: int,
    wanted: tuple[Column, ...],
    world: World,
    word: str,
) -> tuple[OwnLattices, Reflections]:
    """Return the accepted lattices of this rank's groups and their reflections, whose `lattice` is
    a row of these; the result of the stage does not depend on which groups these are. Raises
    FileError. Collective.

    runs: those that `cells` knows; n_unique: unique reflections; wanted: columns of reflections.
    """
    parts = _parts(reindex, cells, runs)
    return _read(_groups(parts, n_unique), parts, wanted, world, word)


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
    """Return the accepted lattices of this rank's groups, and their reflections."""
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
