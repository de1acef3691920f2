"""annulus, and wide: shoeboxes of accepted lattices between two resolutions, packed so that later
stages open no image.

The two words are one stage: the section of `wide` overlays that of `annulus`. The blocks are those
of `reindex` that have an accepted lattice.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.pixels import shoeboxes
from spreadflow.config import AnnulusConfig, AnnulusSection, WideConfig
from spreadflow.errors import ConfigError, FileError
from spreadflow.io import store
from spreadflow.io.accepted import accepted_lattices, brought
from spreadflow.io.images import Source, open_indexed
from spreadflow.log import logger
from spreadflow.parallel import World
from spreadflow.stages import blocks as skeleton
from spreadflow.stages import cutting
from spreadflow.stages.cutting import Cutting


class AcceptedBlock(NamedTuple):
    """One part of a run's reindex product that holds accepted lattices."""

    run: int
    """number of the run"""
    part: int
    key: str
    first_shot: int
    """number in the run of the part's first shot"""
    is_accepted: np.ndarray
    """(lattice of the part,) bool"""
    setting: np.ndarray
    """(lattice of the part, 3, 3) as in `Accepted`"""
    shot_ids: list[int]
    """shots with accepted lattices"""


class Run(NamedTuple):
    """The images and reflections of a run."""

    source: Source
    reindex: Path


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
    attributes = [store.attributes(path, "reindex") for path in reindex]
    runs = [
        Run(open_indexed(path, product), product)
        for path, product in zip(images, reindex, strict=True)
    ]
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
    n_channels = _most_channels(runs, blocks)
    identities = [of_run.source.identity for of_run in runs]
    identities += [store.identity(path) for path in [*reindex, cells]]
    key = store.digest(section.model_dump(mode="json"), identities)
    parts = store.Parts(out, word, key, [block.shot_ids for block in blocks])

    def make(number: int) -> dict[str, np.ndarray]:
        block = blocks[number]
        return _columns(section, block, runs[block.run], n_channels)

    skeleton.run(parts, make, word, world)
    if not skeleton.n_rows(parts, "reflections", world):
        todo = f"Mind {word}.d_min, {word}.d_max and what else chooses reflections."
        raise FileError(cells, "reflections in the range", "none of any lattice", todo)
    parts.finish(
        world,
        config=section.model_dump(mode="json"),
        runs=[of_run["run"] for of_run in attributes],
        space_group=attributes[0]["config"]["space_group"],
        detectors=[of_run["detector"] for of_run in attributes],
        polarizations=[of_run.source.polarization for of_run in runs],
    )
    log.info("%d blocks of %d runs", len(blocks), len(runs))


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
    blocks = []
    first_shot = 0
    first_lattice = 0
    for part, key in enumerate(store.part_keys(reindex, "reindex")):
        columns = store.read_part(reindex, "reindex", part, key, ["lattices/shot_id"])
        n_rows = columns[""]
        own = slice(first_lattice, first_lattice + n_rows["lattices"])
        of_part = accepted.is_accepted[own]
        if of_part.any():
            shot_ids = np.unique(columns["lattices/shot_id"][of_part])
            block = AcceptedBlock(
                run=run,
                part=part,
                key=key,
                first_shot=first_shot,
                is_accepted=of_part,
                setting=accepted.setting[own],
                shot_ids=[int(shot_id) for shot_id in shot_ids],
            )
            blocks.append(block)
        first_shot += n_rows["shots"]
        first_lattice += n_rows["lattices"]
    return blocks


def _most_channels(runs: list[Run], blocks: list[AcceptedBlock]) -> int:
    """Return the largest number of channels of the runs' spectra, from the last block of each."""
    last_of_run = {block.run: block for block in blocks}
    return max(_n_channels(runs[block.run], block) for block in last_of_run.values())


def _n_channels(run: Run, block: AcceptedBlock) -> int:
    """Return the number of channels of the spectra of a run."""
    names = ["lattices/shot", "lattices/shot_id"]
    columns = store.read_part(run.reindex, "reindex", block.part, block.key, names)
    row = int(np.argmax(block.is_accepted))
    number = block.first_shot + columns["lattices/shot"][row]
    return cutting.n_channels(run.source, number, columns["lattices/shot_id"][row])


def _columns(
    section: AnnulusSection, block: AcceptedBlock, run: Run, n_channels: int
) -> dict[str, np.ndarray]:
    """Return the columns of the part of one block."""
    names = ["lattices/", "reflections/"]
    columns = store.read_part(run.reindex, "reindex", block.part, block.key, names)
    _bring_to_shared_axes(columns, block.setting)
    columns["lattices/shot"] = block.first_shot + columns["lattices/shot"]
    return cutting.cut_out(
        Cutting(
            source=run.source,
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
    A = columns["lattices/A"].copy()
    A[is_changed] = A[is_changed] @ np.linalg.inv(setting[is_changed])
    columns["lattices/A"] = A
    of_reflection = setting[columns["reflections/lattice"]]
    columns["reflections/hkl"] = brought(columns["reflections/hkl"], of_reflection)


def _chosen(section: AnnulusSection, block: AcceptedBlock, columns: dict) -> np.ndarray:
    """Return which reflections of the part are of an accepted lattice and in the annulus,
    (reflection,) bool.
    """
    is_in_annulus = shoeboxes.chosen(
        columns["reflections/d"],
        shoeboxes.strength(columns["reflections/intensity"], columns["reflections/sigma"]),
        columns["reflections/flags"],
        d_min=section.d_min,
        d_max=section.d_max,
        min_i_over_sigma=section.min_i_over_sigma,
    )
    return block.is_accepted[columns["reflections/lattice"]] & is_in_annulus
