"""The lattices of `index` that level 0 takes. Blocks are a few shots of a part of `index`; ranks
keep their lattices in memory, and are dealt blocks by the number of their spots.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow.analysis.geometry_joint import IndexedLattice, LatticeIdentity
from spreadflow.analysis.still import prediction
from spreadflow.config import IndexSection, Level0Section
from spreadflow.errors import FileError, Level0Outcome
from spreadflow.io import store
from spreadflow.io.images import Source
from spreadflow.models import Detector, Spectrum
from spreadflow.parallel import World
from spreadflow.products import Children, Index
from spreadflow.recipes import advice
from spreadflow.recipes.shot_rows import peaks
from spreadflow.stages.blocks import in_words


class Block(NamedTuple):
    """Shots of one part of the product of one run."""

    run: int
    """number of the run"""
    part: store.Part[Index]
    shots: range
    """rows of its shots in the part"""


class Indexed(NamedTuple):
    """Lattices that may take part."""

    own: dict[int, list[IndexedLattice]]
    """those of this rank's blocks, by number of the block"""
    outcomes: dict[int, np.ndarray]
    """(`Level0Outcome`,) of all lattices of these blocks"""
    attributes: list[dict[str, Any]]
    """of each product of `index`"""
    detector: Detector
    space_group: str
    polarization: float
    material: str
    """of the detector's sensor; empty = not known"""


def read(
    index: list[Path],
    section: Level0Section,
    shots_of_block: Callable[[Detector], int],
    world: World,
) -> Indexed:
    """Return the lattices with enough spots and a readable spectrum. Raises FileError where the
    runs do not belong together. Collective.

    shots_of_block: detector → number of shots.
    """
    attributes = [store.attributes(path, Index) for path in index]
    detector, space_group = shared(index, attributes)
    sources = [Source(of_run["manifest"]) for of_run in attributes]
    spectra = [_Spectra(source) for source in sources]
    blocks = _blocks(index, shots_of_block(detector))
    reader = store.PartReader[Index]([Index.shots.shot_id, Index.spots, Index.lattices])
    own: dict[int, list[IndexedLattice]] = {}
    outcomes: dict[int, np.ndarray] = {}
    for number in world.deal(_costs(index, blocks, section)):
        block = blocks[number]
        part = reader.read(block.part)
        own[number], outcomes[number] = _lattices(block, part, spectra[block.run], section)
    return Indexed(
        own=own,
        outcomes=outcomes,
        attributes=attributes,
        detector=detector,
        space_group=space_group,
        polarization=sources[0].polarization,
        material=sources[0].manifest.material,
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


def _costs(index: list[Path], blocks: list[Block], section: Level0Section) -> list[float]:
    """Return what each block costs, about: the indexed spots of its lattices that have enough, as
    far as these are among the first that are wanted.
    """
    wanted = [Index.lattices.shot, Index.lattices.n_indexed]
    of_runs = []
    for path in index:
        lattices = store.read(path, Index, wanted).lattices
        is_enough = lattices.n_indexed >= section.min_reflections
        weights = (is_enough, is_enough * lattices.n_indexed)
        of_runs.append(np.array([np.bincount(lattices.shot, weight) for weight in weights]))
    of_blocks = np.zeros((2, len(blocks)))
    for number, block in enumerate(blocks):
        first = block.part.rows("shots").start
        shots = slice(first + block.shots.start, first + block.shots.stop)
        of_blocks[:, number] = of_runs[block.run][:, shots].sum(axis=1)
    n_lattices, n_spots = of_blocks
    n_kept = among_first(n_lattices, section.max_lattices)
    return (n_spots * n_kept / np.maximum(n_lattices, 1)).tolist()


def among_first(n_of_blocks: np.ndarray, limit: int | None) -> np.ndarray:
    """Return how many items of each block (block,) are among the first `limit` of all; None = all
    are.
    """
    if limit is None:
        return n_of_blocks
    n_before = np.cumsum(n_of_blocks) - n_of_blocks
    return np.clip(limit - n_before, 0, n_of_blocks)


def no_lattice(index: list[Path], attributes: list[dict], section: Level0Section) -> FileError:
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


def shared(index: list[Path], attributes: list[dict]) -> tuple[Detector, str]:
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
