"""level0: where the detector is, from all lattices of `index`. Writes level0.expt, and
level0.fit.json beside it.

There are two passes, so that spots are indexed and weighted once more with the detector at its
refined position. Blocks are a few shots of a part of `index`; ranks keep their lattices in memory,
and are dealt blocks by the number of their spots.
"""

import json
import shutil
from collections import Counter
from logging import Logger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow.analysis import detector_moves, geometry_fit
from spreadflow.analysis.geometry_joint import IndexedLattice, Joint, LatticeIdentity, LeftOut
from spreadflow.analysis.still import prediction
from spreadflow.config import ImportedSection, IndexSection, Level0Config, Level0Section
from spreadflow.errors import FileError, Level0Outcome
from spreadflow.io import store
from spreadflow.io.images import Source
from spreadflow.io.lattices import dials, dials_writer
from spreadflow.log import Progress, logger, warn
from spreadflow.models import Detector, Spectrum
from spreadflow.parallel import World
from spreadflow.products import Children, Index
from spreadflow.recipes import advice, level0_checks
from spreadflow.recipes.rigid_groups import rigid_groups
from spreadflow.recipes.shot import peaks
from spreadflow.stages import imported_lattices
from spreadflow.stages.blocks import in_words
from spreadflow.units import wavelength

PASSES = 2
"""Refinements of the detector: the second one indexes the spots anew at the refined position."""

LEAST_SHOTS_OF_BLOCK = 4
"""Shots of a block, at least."""

MOST_BYTES_PER_SHOT = 100_000
"""Bytes of the sums of a block for each of its shots: the sums of all blocks are kept."""


class Block(NamedTuple):
    """Shots of one part of the product of one run."""

    run: int
    """number of the run"""
    part: store.Part[Index]
    shots: range
    """rows of its shots in the part"""


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
            _shared(index, [store.attributes(path, Index) for path in index])
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
    beam = {"wavelength": wavelength(mean_energy_ev), "polarization": lattices.polarization}
    world.once(lambda: _write(out, joint.placed, beam, figures))
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
    attributes = [store.attributes(path, Index) for path in index]
    detector, space_group = _shared(index, attributes)
    sources = [Source(of_run["manifest"]) for of_run in attributes]
    blocks = _blocks(index, _shots_of_block(detector, section))
    own, own_outcomes = _read(index, blocks, sources, section, world)
    outcomes = world.sum(own_outcomes)
    if outcomes[Level0Outcome.USED] == 0:
        raise _no_lattice(index, attributes, section)
    return Lattices(
        own=own,
        outcomes=outcomes,
        detector=detector,
        space_group=space_group,
        runs=[str(of_run["run"]) for of_run in attributes],
        target=attributes[0]["config"]["cell"],
        polarization=sources[0].polarization,
    )


def _imported(section: Level0Section, files: ImportedSection, world: World) -> Lattices:
    """Return the lattices of another program. Raises FileError where none may take part.
    Collective.
    """

    def shots_of_block(detector: Detector) -> int:
        return _shots_of_block(detector, section)

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


def _no_lattice(index: list[Path], attributes: list[dict], section: Level0Section) -> FileError:
    """Return the error where no lattice may take part: how the shots ended, and what would help."""
    counts = Counter[str]()
    for of_run in attributes:
        counts.update(of_run.get("outcomes", {}))
    shots = in_words(counts)
    todo = "Look at index.png. "
    failures = advice.prevailing(counts)
    if failures:
        of_index = IndexSection.model_validate(attributes[0]["config"])
        todo += advice.todo(failures[0], of_index, "index")
    else:
        todo += "Lower level0.min_reflections, or index more spots."
    found = f"none with {section.min_reflections} spots or more; shots: {shots}"
    return FileError(", ".join(map(str, index)), "lattices", found, todo)


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


def _blocks(index: list[Path], n_shots_of_block: int) -> list[Block]:
    """Return the blocks of all runs, in order."""
    blocks = []
    for run_number, path in enumerate(index):
        for part in store.parts_of(path, Index):
            n_shots = part.n_rows("shots")
            for first in range(0, n_shots, n_shots_of_block):
                shots = range(first, min(first + n_shots_of_block, n_shots))
                blocks.append(Block(run_number, part, shots))
    return blocks


def _read(
    index: list[Path],
    blocks: list[Block],
    sources: list[Source],
    section: Level0Section,
    world: World,
) -> tuple[dict[int, list[IndexedLattice]], dict[int, np.ndarray]]:
    """Return the lattices of this rank's blocks that may take part, and how many end as each
    `Level0Outcome`, by number of the block. Collective.
    """
    spectra = [_Spectra(source) for source in sources]
    reader = store.PartReader[Index]([Index.shots.shot_id, Index.spots, Index.lattices])
    lattices = {}
    outcomes = {}
    for number in world.deal(_costs(index, blocks, section)):
        block = blocks[number]
        part = reader.read(block.part)
        lattices[number], outcomes[number] = _lattices(block, part, spectra[block.run], section)
    return _limited(lattices, outcomes, section, world)


def _costs(index: list[Path], blocks: list[Block], section: Level0Section) -> list[float]:
    """Return what each block costs: the indexed spots of its lattices, as far as these may take
    part.
    """
    wanted = [Index.lattices.shot, Index.lattices.n_indexed]
    of_runs = [store.read(path, Index, wanted).lattices for path in index]
    limit = section.max_lattices
    n_of_runs: list[np.ndarray] = []
    for lattices in of_runs:
        is_enough = lattices.n_indexed >= section.min_reflections
        if limit is not None:
            is_enough &= np.cumsum(is_enough) <= limit
            limit -= int(is_enough.sum())
        n_of_runs.append(np.bincount(lattices.shot, lattices.n_indexed * is_enough))
    costs = []
    for block in blocks:
        first = block.part.rows("shots").start
        shots = slice(first + block.shots.start, first + block.shots.stop)
        costs.append(float(n_of_runs[block.run][shots].sum()))
    return costs


def _limited(
    lattices: dict[int, list[IndexedLattice]],
    outcomes: dict[int, np.ndarray],
    section: Level0Section,
    world: World,
) -> tuple[dict[int, list[IndexedLattice]], dict[int, np.ndarray]]:
    """Return the lattices of this rank, those beyond `max_lattices` as SURPLUS. Collective."""
    kept = _at_most(lattices, section.max_lattices, world)
    world.count("lattices", sum(map(len, kept.values())))
    for number, of_block in outcomes.items():
        n_kept = len(kept[number])
        of_block[Level0Outcome.SURPLUS] = of_block[Level0Outcome.USED] - n_kept
        of_block[Level0Outcome.USED] = n_kept
    return kept, outcomes


def _write(out: Path, detector: Detector, beam: dict[str, Any], figures: dict[str, Any]) -> None:
    """Write level0.fit.json, then level0.expt. Raises FileError where a figure is not finite."""
    store.check_figures(figures, out)
    store.write_text(out.with_suffix(".fit.json"), json.dumps(figures, indent=2) + "\n")
    length_sigma = figures["distance_sigma_mm"] / figures["distance_mm"] or None
    dials_writer.write_expt(out, detector, **beam, length_sigma=length_sigma)


def _copy(frozen: Path, out: Path) -> None:
    """Copy the frozen detector to the product."""
    with store.replacing(out) as temporary:
        shutil.copyfile(frozen, temporary)


def _shared(index: list[Path], attributes: list[dict]) -> tuple[Detector, str]:
    """Return the detector and space group that all runs were indexed with. Raises FileError where
    they differ.
    """
    detector = attributes[0]["detector"]
    space_group = attributes[0]["config"]["space_group"]
    for path, of_run in zip(index, attributes, strict=True):
        if of_run["detector"] != detector:
            todo = "Refine runs of one detector position together: level0.runs."
            raise FileError(path, f"the detector of {index[0]}", "another one", todo)
        group_of_run = of_run["config"]["space_group"]
        if group_of_run != space_group:
            raise FileError(path, "one space group", group_of_run, "Index all runs alike.")
    return Detector.from_json(detector), space_group


class _Spectra:
    """Spectra of a run by shot_id."""

    def __init__(self, source: Source):
        self.source = source
        shot_ids = source.shots["shot_id"]
        self.rows = {int(shot_id): row for row, shot_id in enumerate(shot_ids)}

    def of_shot(self, shot_id: int) -> Spectrum | None:
        """Return the spectrum of a shot, None where it cannot be read. Raises FileError where the
        run has no such shot.
        """
        row = self.rows.get(int(shot_id))
        if row is None:
            todo = "Index the run again."
            raise FileError(self.source.path, f"shot {shot_id}", "no such shot", todo)
        return self.source.spectrum(row)


def _lattices(
    block: Block, part: Index, spectra: _Spectra, section: Level0Section
) -> tuple[list[IndexedLattice], np.ndarray]:
    """Return the lattices of one block with enough spots and a readable spectrum, each with its
    spots and those of its shot that have no lattice; and how many there are of each
    `Level0Outcome`. part: that of index which has its shots.
    """
    spots_of_shots = Children(part.spots.shot)
    lattices = []
    outcomes = np.zeros(len(Level0Outcome))
    for n, shot in enumerate(part.lattices.shot.tolist()):
        if shot not in block.shots:
            continue
        shot_id = int(part.shots.shot_id[shot])
        spectrum = spectra.of_shot(shot_id)
        of_shot = part.spots[spots_of_shots[shot]]
        spots = of_shot[(of_shot.lattice == n) | (of_shot.lattice == -1)]
        if spectrum is None:
            outcomes[Level0Outcome.NO_SPECTRUM] += 1
            continue
        if np.count_nonzero(spots.hkl.any(axis=1)) < section.min_reflections:
            outcomes[Level0Outcome.TOO_FEW] += 1
            continue
        outcomes[Level0Outcome.USED] += 1
        lattice = prediction.MosaicLattice(
            A=part.lattices.A[n],
            eta_rad=float(part.lattices.eta_rad[n]),
            domain_ang=float(part.lattices.domain_ang[n]),
        )
        identity = LatticeIdentity(block.run, shot_id, int(part.lattices.k[n]))
        of_pulse = prediction.compress(spectrum)
        lattices.append(IndexedLattice(identity, lattice, spots.hkl, peaks(spots), of_pulse))
    return lattices, outcomes


def _at_most(
    own_lattices: dict[int, list[IndexedLattice]], limit: int | None, world: World
) -> dict[int, list[IndexedLattice]]:
    """Return those of this rank's lattices that are among the first `limit` of all blocks.
    Collective.
    """
    if limit is None:
        return own_lattices
    own_sizes = {number: len(lattices) for number, lattices in own_lattices.items()}
    n_before = np.cumsum([0, *world.gather_blocks(own_sizes)])
    return {
        number: lattices[: max(limit - int(n_before[number]), 0)]
        for number, lattices in own_lattices.items()
    }


def _energy(lattices: list[IndexedLattice]) -> np.ndarray:
    """Return the sum of the mean energies of some lattices' pulses, eV, (1,)."""
    return np.array([sum(float(x.spectrum.mean_energy_ev) for x in lattices)])
