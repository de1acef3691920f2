"""The lattices of another program that level 0 takes in place of those of `index`: read block by
block, each rank its own. How many spots a shot has is not known before it is read.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.geometry_joint import IndexedLattice
from spreadflow.config import ImportedSection
from spreadflow.errors import Level0Outcome
from spreadflow.io.lattices.listed import Listed
from spreadflow.io.lattices.stated import StatedShot
from spreadflow.models import Detector
from spreadflow.parallel import World
from spreadflow.recipes import imported
from spreadflow.recipes.imported import ImportedRun


class Imported(NamedTuple):
    """Lattices that may take part."""

    own: dict[int, list[IndexedLattice]]
    """those of this rank's blocks, by number of the block"""
    outcomes: dict[int, np.ndarray]
    """(`Level0Outcome`,) of all lattices of these blocks"""
    run: ImportedRun
    files: list[Path]


def read(
    section: ImportedSection,
    fewest: int,
    shots_of_block: Callable[[Detector], int],
    world: World,
) -> Imported:
    """Return the lattices of files with at least `fewest` spots each. Raises FileError. Collective.

    shots_of_block: detector → number of shots.
    """
    listed = Listed("level0", section.paths, section)
    size = shots_of_block(listed.detector)
    n_shots = len(listed.names)
    blocks = [range(n_shots)[first : first + size] for first in range(0, n_shots, size)]
    shots = {
        number: [(row, listed.read(row)) for row in blocks[number]]
        for number in world.deal([len(block) for block in blocks])
    }
    space_group = section.space_group or _space_group(listed, shots, world)
    run = ImportedRun(section, listed.detector, space_group)
    own: dict[int, list[IndexedLattice]] = {}
    outcomes: dict[int, np.ndarray] = {}
    for number, of_block in shots.items():
        own[number], outcomes[number] = _enough(of_block, listed, run, fewest)
    return Imported(own, outcomes, run, listed.files)


def _space_group(
    listed: Listed, shots: dict[int, list[tuple[int, StatedShot]]], world: World
) -> str:
    """Return the space group that all lattices share. Raises FileError. Collective."""
    own = {
        stated.lattice.hall.strip()
        for of_block in shots.values()
        for _, shot in of_block
        for stated in shot.lattices
    }
    halls = {hall for of_rank in world.gather(sorted(own)) for hall in of_rank}
    return imported.space_group_of(", ".join(map(str, listed.files)), halls)


def _enough(
    shots: list[tuple[int, StatedShot]], listed: Listed, run: ImportedRun, fewest: int
) -> tuple[list[IndexedLattice], np.ndarray]:
    """Return the lattices of some shots, by their numbers, that have enough spots, and how many end
    as each `Level0Outcome`. Raises FileError where files do not belong together.
    """
    kept = []
    outcomes = np.zeros(len(Level0Outcome))
    for number, shot in shots:
        if not shot.energy_ev > 0:
            outcomes[Level0Outcome.NO_SPECTRUM] += len(shot.lattices)
            continue
        for stated in shot.lattices:
            rows = stated.lattice.reflections
            imported.check_panels(listed.file(number), rows, run.detector)
        shot_id = int(listed.columns["shot_id"][number])
        lattices = imported.lattices_of(shot, shot_id, listed.file_number(number), run)
        enough = [x for x in lattices if len(x.hkl) >= fewest]
        outcomes[Level0Outcome.USED] += len(enough)
        outcomes[Level0Outcome.TOO_FEW] += len(lattices) - len(enough)
        kept += enough
    return kept, outcomes
