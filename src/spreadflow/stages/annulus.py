"""annulus, and wide: shoeboxes of accepted lattices between two resolutions, packed so that later
stages open no image.

The two words are one stage: the section of `wide` overlays that of `annulus`. A block is a few
shots of one part of `reindex`, as far as they have accepted lattices: their pixels are modelled
together.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.pixels import shoeboxes
from spreadflow.analysis.strength import i_over_sigma
from spreadflow.config import AnnulusConfig, AnnulusSection, WideConfig
from spreadflow.errors import ConfigError, FileError
from spreadflow.io import shoebox_blocks, store
from spreadflow.io.accepted import accepted_lattices, brought
from spreadflow.io.images import Source, open_indexed
from spreadflow.io.pieces import Piece
from spreadflow.log import logger
from spreadflow.parallel import World
from spreadflow.products import SHOEBOXES, Annulus, Reindex
from spreadflow.products.index import Lattices, Reflections
from spreadflow.stages import blocks as skeleton
from spreadflow.stages import cutting
from spreadflow.stages.cutting import Cutting

SHOTS_OF_BLOCK = 8
"""Shots of a block: their pixels are in memory together where they are modelled."""


class AcceptedBlock(NamedTuple):
    """Shots of one part of a run's reindex product that have accepted lattices."""

    run: int
    """number of the run"""
    part: store.Part[Reindex]
    is_accepted: np.ndarray
    """(lattice of the part,) bool, those of the shots of the block"""
    setting: np.ndarray
    """(lattice of the part, 3, 3) as in `Accepted`"""
    shots: np.ndarray
    """rows in the part of the shots with accepted lattices, ascending"""
    shot_ids: list[int]
    """of these shots, ascending"""


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
    product = SHOEBOXES[word]
    parts = store.Parts(out, product, key, [block.shot_ids for block in blocks])
    reader: store.PartReader[Reindex] = store.PartReader([Reindex.lattices, Reindex.reflections])

    def make(piece: Piece) -> Annulus:
        block = blocks[piece.block]
        part = reader.read(block.part)
        is_of_piece = np.isin(part.lattices.shot, block.shots[piece.first : piece.end])
        shots = block._replace(is_accepted=block.is_accepted & is_of_piece)
        of_shots = _cutting(section, shots, part, sources[block.run], n_channels)
        return cutting.cut_out(of_shots, product)

    work = skeleton.PieceWork(make, SHOTS_OF_BLOCK, "shots")
    skeleton.run(parts, [len(block.shots) for block in blocks], work, word, world)
    if not skeleton.n_rows(parts, product.reflections, world):
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
    wanted = [Reindex.lattices.shot, Reindex.lattices.shot_id]
    lattices = store.read(reindex, Reindex, wanted).lattices
    blocks = []
    for part in store.parts_of(reindex, Reindex):
        rows = part.rows("lattices")
        own = lattices[rows]
        shot = own.shot - part.rows("shots").start
        number = np.where(accepted.is_accepted[rows], shot // SHOTS_OF_BLOCK, -1)
        for number_of_block in np.unique(number[number >= 0]):
            is_accepted = number == number_of_block
            block = AcceptedBlock(
                run=run,
                part=part,
                is_accepted=is_accepted,
                setting=accepted.setting[rows],
                shots=np.unique(shot[is_accepted]),
                shot_ids=np.unique(own.shot_id[is_accepted]).tolist(),
            )
            blocks.append(block)
    return blocks


def _most_channels(sources: list[Source], blocks: list[AcceptedBlock]) -> int:
    """Return the largest number of channels of the runs' spectra, from the last block of each."""
    last_of_run = {block.run: block for block in blocks}
    return max(_n_channels(sources[block.run], block) for block in last_of_run.values())


def _n_channels(source: Source, block: AcceptedBlock) -> int:
    """Return the number of channels of the spectra of a run."""
    lattices = block.part.read([Reindex.lattices.shot, Reindex.lattices.shot_id]).lattices
    row = int(np.argmax(block.is_accepted))
    number = block.part.rows("shots").start + lattices.shot[row]
    return cutting.n_channels(source, number, lattices.shot_id[row])


def _cutting(
    section: AnnulusSection,
    block: AcceptedBlock,
    reindex: Reindex,
    source: Source,
    n_channels: int,
) -> Cutting:
    """Return what is cut out for a block, or some shots of it. reindex: its part."""
    lattices, reflections = _on_shared_axes(reindex, block.setting)
    lattices.shot = block.part.rows("shots").start + lattices.shot
    return Cutting(
        source=source,
        run=block.run,
        lattices=lattices,
        reflections=reflections,
        chosen_lattices=np.flatnonzero(block.is_accepted),
        is_chosen=_chosen(section, block, reflections),
        border_px=section.border_px,
        n_channels=n_channels,
    )


def _on_shared_axes(reindex: Reindex, setting: np.ndarray) -> tuple[Lattices, Reflections]:
    """Return new tables of a part, A and Miller indices on the axes that all lattices share.

    setting: (lattice of the part, 3, 3).
    """
    lattices = reindex.lattices[:]
    reflections = reindex.reflections[:]
    is_changed = (setting != np.eye(3)).any(axis=(1, 2))
    if is_changed.any():
        A = lattices.A.copy()
        A[is_changed] = A[is_changed] @ np.linalg.inv(setting[is_changed])
        lattices.A = A
        reflections.hkl = brought(reflections.hkl, setting, reflections.lattice)
    return lattices, reflections


def _chosen(section: AnnulusSection, block: AcceptedBlock, reflections: Reflections) -> np.ndarray:
    """Return which reflections of the part are of an accepted lattice and in the annulus,
    (reflection,) bool.
    """
    is_in_annulus = shoeboxes.chosen(
        reflections.d,
        i_over_sigma(reflections.intensity, reflections.sigma),
        reflections.flags,
        d_min=section.d_min,
        d_max=section.d_max,
        min_i_over_sigma=section.min_i_over_sigma,
    )
    return block.is_accepted[reflections.lattice] & is_in_annulus
