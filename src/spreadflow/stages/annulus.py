"""annulus, and wide: shoeboxes of accepted lattices between two resolutions, packed so that later
stages open no image.

The two words are one stage: the section of `wide` overlays that of `annulus`. A block is a few
shots of one part of `reindex`, as far as they have accepted lattices: their pixels are read and
modelled together.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.pixels import shoeboxes
from spreadflow.config import AnnulusConfig, AnnulusSection, WideConfig
from spreadflow.errors import ConfigError, FileError
from spreadflow.io import shoebox_blocks, store
from spreadflow.io.accepted import accepted_lattices, brought
from spreadflow.io.images import Source, open_indexed
from spreadflow.log import logger
from spreadflow.parallel import World
from spreadflow.products import Reindex
from spreadflow.stages import blocks as skeleton
from spreadflow.stages import cutting
from spreadflow.stages.cutting import Cutting

SHOTS_OF_BLOCK = 8
"""Shots of a block: their pixels are in memory together, here and where they are modelled."""

READ = ("lattices/", "reflections/")
"""Tables of reindex that are read."""


class AcceptedBlock(NamedTuple):
    """Shots of one part of a run's reindex product that have accepted lattices."""

    run: int
    """number of the run"""
    part: store.Part
    is_accepted: np.ndarray
    """(lattice of the part,) bool, those of the shots of the block"""
    setting: np.ndarray
    """(lattice of the part, 3, 3) as in `Accepted`"""
    shot_ids: list[int]
    """shots with accepted lattices"""


def run(
    config: AnnulusConfig | WideConfig,
    *,
    images: list[Path],
    reindex: list[Path],
    cells: Path,
    out: Path,
    world: World,
    word: str = "annulus",
) -> None:
    """Write <word>.h5 with its parts. images, reindex: manifest and product of each run, in the
    same order.
    """
    section = getattr(config, word)
    log = logger(word, world)
    attributes = [store.attributes(path, Reindex) for path in reindex]
    sources = [open_indexed(path, product) for path, product in zip(images, reindex, strict=True)]
    finest = max(of_run["config"]["d_min"] for of_run in attributes)
    _check(section, word, finest)
    blocks = [
        block
        for run_number, path in enumerate(reindex)
        for block in _blocks(run_number, path, cells)
    ]
    if not blocks:
        todo = "Look at cells.png; mind cells.mahalanobis_max."
        raise FileError(cells, "accepted lattices", "none", todo)
    n_channels = _most_channels(sources, blocks)
    identities = [source.identity for source in sources]
    identities += [store.identity(path) for path in [*reindex, cells]]
    key = store.digest(section.model_dump(mode="json"), identities)
    parts = store.Parts(out, word, key, [block.shot_ids for block in blocks])

    reader = store.PartReader(READ)

    def make(number: int) -> dict[str, np.ndarray]:
        block = blocks[number]
        columns = reader.read(block.part)
        return _columns(section, block, columns, sources[block.run], n_channels)

    skeleton.run(parts, make, word, world)
    if not skeleton.n_rows(parts, "reflections", world):
        todo = f"Mind {word}.d_min, {word}.d_max and what else chooses reflections."
        raise FileError(cells, "reflections in the range", "none of any lattice", todo)
    parts.finish(
        world,
        **shoebox_blocks.recorded(parts, world),
        config=section.model_dump(mode="json"),
        runs=[of_run["run"] for of_run in attributes],
        space_group=attributes[0]["config"]["space_group"],
        detectors=[of_run["detector"] for of_run in attributes],
        polarizations=[source.polarization for source in sources],
    )
    log.info("%d blocks of %d runs", len(blocks), len(sources))


def _check(section: AnnulusSection, word: str, finest: float) -> None:
    """Raise ConfigError where reflections are wanted that reindex did not predict. finest: its
    d_min, Å.
    """
    if section.d_min < finest:
        expected = f"at least {finest:g} Å, to which reindex predicted reflections"
        todo = "Raise it, or lower reindex.d_min and rerun."
        raise ConfigError(f"{word}.d_min", expected, section.d_min, todo)


def _blocks(run: int, reindex: Path, cells: Path) -> list[AcceptedBlock]:
    """Return the blocks of one run with accepted lattices."""
    accepted = accepted_lattices(cells, reindex)
    columns = store.read(reindex, Reindex, [Reindex.lattices.shot, Reindex.lattices.shot_id])
    blocks = []
    for part in store.parts_of(reindex, Reindex):
        own = part.rows("lattices")
        shot = columns.lattices.shot[own] - part.rows("shots").start
        number = np.where(accepted.is_accepted[own], shot // SHOTS_OF_BLOCK, -1)
        for number_of_block in np.unique(number[number >= 0]):
            is_accepted = number == number_of_block
            shot_ids = np.unique(columns.lattices.shot_id[own][is_accepted])
            block = AcceptedBlock(
                run=run,
                part=part,
                is_accepted=is_accepted,
                setting=accepted.setting[own],
                shot_ids=shot_ids.tolist(),
            )
            blocks.append(block)
    return blocks


def _most_channels(sources: list[Source], blocks: list[AcceptedBlock]) -> int:
    """Return the largest number of channels of the runs' spectra, from the last block of each."""
    last_of_run = {block.run: block for block in blocks}
    return max(_n_channels(sources[block.run], block) for block in last_of_run.values())


def _n_channels(source: Source, block: AcceptedBlock) -> int:
    """Return the number of channels of the spectra of a run."""
    columns = block.part.read(["lattices/shot", "lattices/shot_id"])
    row = int(np.argmax(block.is_accepted))
    number = block.part.rows("shots").start + columns.lattices.shot[row]
    return cutting.n_channels(source, number, columns.lattices.shot_id[row])


def _columns(
    section: AnnulusSection,
    block: AcceptedBlock,
    columns: dict[str, np.ndarray],
    source: Source,
    n_channels: int,
) -> dict[str, np.ndarray]:
    """Return the columns of the part of one block. columns: of its part of reindex."""
    _bring_to_shared_axes(columns, block.setting)
    columns.lattices.shot = block.part.rows("shots").start + columns.lattices.shot
    return cutting.cut_out(
        Cutting(
            source=source,
            run=block.run,
            columns=columns,
            lattices=np.flatnonzero(block.is_accepted),
            is_chosen=_chosen(section, block, columns),
            border_px=section.border_px,
            n_channels=n_channels,
        )
    )


def _bring_to_shared_axes(columns: dict[str, np.ndarray], setting: np.ndarray) -> None:
    """Bring A and Miller indices of a part to the axes that all lattices share. setting: (lattice
    of the part, 3, 3).
    """
    is_changed = (setting != np.eye(3)).any(axis=(1, 2))
    if not is_changed.any():
        return
    A = columns.lattices.A.copy()
    A[is_changed] = A[is_changed] @ np.linalg.inv(setting[is_changed])
    columns.lattices.A = A
    of_reflection = setting[columns.reflections.lattice]
    columns.reflections.hkl = brought(columns.reflections.hkl, of_reflection)


def _chosen(section: AnnulusSection, block: AcceptedBlock, columns: dict) -> np.ndarray:
    """Return which reflections of the part are of an accepted lattice and in the annulus,
    (reflection,) bool.
    """
    is_in_annulus = shoeboxes.chosen(
        columns.reflections.d,
        shoeboxes.strength(columns.reflections.intensity, columns.reflections.sigma),
        columns.reflections.flags,
        d_min=section.d_min,
        d_max=section.d_max,
        min_i_over_sigma=section.min_i_over_sigma,
    )
    return block.is_accepted[columns.reflections.lattice] & is_in_annulus
