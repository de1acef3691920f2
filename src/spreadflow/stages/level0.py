"""level0: where the detector is, from all lattices of `index`. Writes level0.expt, and
level0.fit.json beside it.

There are two passes, so that spots are indexed and weighted once more with the detector at its
refined position.
"""

import json
import shutil
from functools import partial
from logging import Logger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow.analysis import detector_moves, geometry_fit
from spreadflow.analysis.geometry_joint import IndexedLattice, Joint, LeftOut
from spreadflow.config import ImportedSection, Level0Config, Level0Section
from spreadflow.errors import FileError, Level0Outcome
from spreadflow.io import store
from spreadflow.io.lattices import dials, dials_writer
from spreadflow.log import Progress, logger, warn
from spreadflow.models import Detector
from spreadflow.parallel import World
from spreadflow.products import Index
from spreadflow.recipes import level0_checks
from spreadflow.recipes.rigid_groups import rigid_groups
from spreadflow.stages import imported_lattices, indexed_lattices
from spreadflow.stages.blocks import in_words
from spreadflow.stages.indexed_lattices import among_first
from spreadflow.units import wavelength

PASSES = 2
"""Refinements of the detector: the second one indexes the spots anew at the refined position."""

LEAST_SHOTS_OF_BLOCK = 4
"""Shots of a block, at least."""

MOST_BYTES_PER_SHOT = 100_000
"""Bytes of the sums of a block for each of its shots: the sums of all blocks are kept."""


class Lattices(NamedTuple):
    """The lattices that say where the detector is, and what they share."""

    own: dict[int, list[IndexedLattice]]
    """those of this rank's blocks, by number of the block"""
    outcomes: np.ndarray
    """(`Level0Outcome`,) of all lattices, before the joint refinement"""
    detector: Detector
    space_group: str
    runs: list[str]
    """their names"""
    target: list[float] | None
    """cell of `index`, Å and degrees; None where lattices are imported"""
    polarization: float
    material: str
    """of the detector's sensor; empty = not known"""


def run(
    config: Level0Config,
    *,
    index: list[Path] | None,
    out: Path,
    world: World,
    word: str = "level0",
) -> None:
    """Refine the detector that all runs of `index`, or imported lattices, share, or copy a frozen
    one.
    """
    section = config.level0
    log = logger(word, world)
    out = Path(out)
    if section.from_file:
        if index:
            indexed_lattices.shared(index, [store.attributes(path, Index) for path in index])
        frozen = Path(section.from_file)
        dials.read_expt(frozen)
        world.once(lambda: _copy(frozen, out))
        log.info("detector taken from %s", frozen)
        return
    lattices = _lattices_of(section, index, world)
    joint = _joint(lattices, section, world)
    with Progress(word, PASSES, world, "passes") as progress:
        for n_done in range(PASSES):
            joint.refine(section.outlier_probability)
            progress.at(n_done + 1)
    figures = _figures(joint, lattices.outcomes, lattices.runs)
    warnings = level0_checks.warnings_of(figures, lattices.target, section.rigid_groups)
    figures["warnings"] = warn(log, warnings)
    (energy,) = world.sum({number: _energy(of_block) for number, of_block in lattices.own.items()})
    mean_energy_ev = energy / lattices.outcomes[Level0Outcome.USED]
    described = {
        "wavelength": wavelength(mean_energy_ev),
        "polarization": lattices.polarization,
        "material": lattices.material,
    }
    world.once(lambda: _write(out, joint.placed, described, figures))
    _log_result(log, figures)


def _lattices_of(section: Level0Section, index: list[Path] | None, world: World) -> Lattices:
    """Return the lattices of `index`, or those of another program. Raises FileError where there are
    none. Collective.
    """
    if section.imported is not None:
        return _imported(section, section.imported, world)
    if not index:
        todo = "Name the products of index (--index), or lattices in level0.imported."
        raise FileError("level0", "lattices", "none", todo)
    shots_of_block = partial(_shots_of_block, section=section)
    read = indexed_lattices.read(index, section, shots_of_block, world)
    own, own_outcomes = _limited(read.own, read.outcomes, section, world)
    outcomes = world.sum(own_outcomes)
    if outcomes[Level0Outcome.USED] == 0:
        raise indexed_lattices.no_lattice(index, read.attributes, section)
    return Lattices(
        own=own,
        outcomes=outcomes,
        detector=read.detector,
        space_group=read.space_group,
        runs=[str(of_run["run"]) for of_run in read.attributes],
        target=read.attributes[0]["config"]["cell"],
        polarization=read.polarization,
        material=read.material,
    )


def _imported(section: Level0Section, files: ImportedSection, world: World) -> Lattices:
    """Return the lattices of another program. Raises FileError where none may take part.
    Collective.
    """
    shots_of_block = partial(_shots_of_block, section=section)
    read = imported_lattices.read(files, section.min_reflections, shots_of_block, world)
    own, own_outcomes = _limited(read.own, read.outcomes, section, world)
    outcomes = world.sum(own_outcomes)
    if outcomes[Level0Outcome.USED] == 0:
        found = f"none with {section.min_reflections} spots or more"
        todo = "Lower level0.min_reflections; do the files belong together?"
        raise FileError(", ".join(map(str, read.files)), "lattices", found, todo)
    return Lattices(
        own=own,
        outcomes=outcomes,
        detector=read.run.detector,
        space_group=read.run.space_group,
        runs=[str(path) for path in read.files],
        target=None,
        polarization=1.0 if files.polarization is None else files.polarization,
        material="",
    )


def _joint(lattices: Lattices, section: Level0Section, world: World) -> Joint:
    """Return the joint refinement of lattices at its start. Collective."""
    groups = rigid_groups(lattices.detector, section.rigid_groups)
    detector = lattices.detector
    if isinstance(section.rigid_groups.which, list) and groups is not None:
        detector = detector._replace(levels=groups.group_of_panel[None])
    return Joint(
        lattices.own,
        detector,
        lattices.space_group,
        detector_moves.moves_of(detector, section.refine, groups),
        world.sum,
        world.gather_blocks,
        section.min_reflections,
    )


def _shots_of_block(detector: Detector, section: Level0Section) -> int:
    """Return the number of shots of a block: the more, the larger the sums of a block are."""
    groups = rigid_groups(detector, section.rigid_groups)
    n_groups = 0 if groups is None else int(groups.group_of_panel.max()) + 1
    n_unknowns = detector_moves.N_BODY + detector_moves.N_OWN * n_groups
    n_bytes = 8 * geometry_fit.n_sums(n_unknowns)
    return max(LEAST_SHOTS_OF_BLOCK, -(-n_bytes // MOST_BYTES_PER_SHOT))


def _limited(
    lattices: dict[int, list[IndexedLattice]],
    outcomes: dict[int, np.ndarray],
    section: Level0Section,
    world: World,
) -> tuple[dict[int, list[IndexedLattice]], dict[int, np.ndarray]]:
    """Return the lattices of this rank that are among the first `max_lattices` of all, and the
    outcomes with the others as SURPLUS. Collective.
    """
    own_sizes = {number: len(of_block) for number, of_block in lattices.items()}
    n_kept = among_first(np.array(world.gather_blocks(own_sizes)), section.max_lattices)
    kept = {number: of_block[: n_kept[number]] for number, of_block in lattices.items()}
    world.count("lattices", sum(map(len, kept.values())))
    for number, of_block in outcomes.items():
        of_block[Level0Outcome.SURPLUS] = of_block[Level0Outcome.USED] - n_kept[number]
        of_block[Level0Outcome.USED] = n_kept[number]
    return kept, outcomes


def _figures(joint: Joint, outcomes: np.ndarray, names: list[str]) -> dict[str, Any]:
    """Return the figures of the product. outcomes: lattices of each `Level0Outcome` before the
    joint refinement; names: of the runs.
    """
    left_out = [_named(lattice, names) for lattice in joint.left_out]
    counts = {end.name.lower(): int(outcomes[end]) for end in Level0Outcome}
    counts["used"] -= len(left_out)
    counts["unlike"] += len(left_out)
    return {
        "n_in": int(outcomes.sum()),
        "n_lattices": counts["used"],
        "outcomes": counts,
        "left_out": left_out,
        **joint.figures(),
    }


def _named(lattice: LeftOut, names: list[str]) -> dict[str, Any]:
    """Return which lattice was left out and why. names: of the runs."""
    run, shot_id, k = lattice.identity
    why = "; ".join(lattice.reasons)
    return {"run": names[run], "shot_id": shot_id, "k": k, "why": why}


def _log_result(log: Logger, figures: dict[str, Any]) -> None:
    """Log where the detector is, what it rests on, and each lattice that was left out."""
    for lattice in figures["left_out"]:
        log.info("left out: lattice %(k)d of shot %(shot_id)d, run %(run)s: %(why)s", lattice)
    log.info(
        "shift %s mm, distance %.4f ± %.4f mm (header %.4f mm); lattices: %s",
        figures["shift_mm"],
        figures["distance_mm"],
        figures["distance_sigma_mm"],
        figures["header_distance_mm"],
        in_words(figures["outcomes"]),
    )


def _write(
    out: Path, detector: Detector, described: dict[str, Any], figures: dict[str, Any]
) -> None:
    """Write level0.fit.json, then level0.expt. described: what `write_expt` writes beside the
    detector. Raises FileError where a figure is not finite.
    """
    store.check_figures(figures, out)
    store.write_text(out.with_suffix(".fit.json"), json.dumps(figures, indent=2) + "\n")
    length_sigma = figures["distance_sigma_mm"] / figures["distance_mm"] or None
    dials_writer.write_expt(out, detector, **described, length_sigma=length_sigma)


def _copy(frozen: Path, out: Path) -> None:
    """Copy the frozen detector to the product."""
    with store.replacing(out) as temporary:
        shutil.copyfile(frozen, temporary)


def _energy(lattices: list[IndexedLattice]) -> np.ndarray:
    """Return the sum of the mean energies of some lattices' pulses, eV, (1,)."""
    return np.array([sum(float(x.spectrum.mean_energy_ev) for x in lattices)])
