"""pack: shoeboxes of the reflections that `predict` chose, in few files that are mapped into
memory, so that no later stage opens an image.

A block is as many shots of `predict` of one run, in their order, as hold `pack.block_lattices`
lattices; its pieces are a few shots. Datasets and attributes are those of `annulus` and `wide`.
"""

from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow.config import PackConfig, PackSection
from spreadflow.errors import FileError, PredictedOutcome
from spreadflow.io import shoebox_blocks, store
from spreadflow.io.images import Source, open_indexed
from spreadflow.io.pieces import Piece
from spreadflow.log import logger
from spreadflow.models import CHOSEN
from spreadflow.parallel import World
from spreadflow.products import Annulus, Pack, Predict, index
from spreadflow.stages import blocks as skeleton
from spreadflow.stages import cutting
from spreadflow.stages.cutting import Cutting

LARGEST_PIECE = 8
"""Shots that a rank cuts out before it writes them."""

CARRIED = ("runs", "space_group", "detectors", "polarizations")
"""Attributes of predict that shoeboxes carry on."""


class PredictedShot(NamedTuple):
    """A shot that holds predicted lattices."""

    part: store.Part[Predict]
    """of the product of predict, that which has it"""
    run: int
    rows: np.ndarray
    """of its predicted lattices in the part"""
    number: int
    """in its run"""
    shot_id: int


def run(
    config: PackConfig,
    *,
    images: list[Path],
    reindex: list[Path],
    predict: Path,
    out: Path,
    world: World,
    word: str = "pack",
) -> None:
    """Write <word>.h5 with its parts.

    images, reindex: manifest and product of each run, in the order of predict's runs.
    """
    section = config.pack
    log = logger(word, world)
    attributes = store.attributes(predict, Predict)
    sources = _open(images, reindex, attributes, predict)
    predicted = _predicted_shots(predict)
    n_channels = _most_channels(sources, predicted)
    blocks = _blocks(predicted, section.block_lattices)
    identities = [*(source.identity for source in sources), store.identity(predict)]
    key = store.digest(section.model_dump(mode="json"), identities)
    parts: store.Parts[Annulus] = store.Parts(out, Pack, key, [_ids(block) for block in blocks])
    reader: store.PartReader[Predict] = store.PartReader(
        [Predict.lattices, index.Reflections, Predict.reflections.choice]
    )

    def make(piece: Piece) -> Annulus:
        shots = blocks[piece.block][piece.first : piece.end]
        cuttings = [
            _cutting(section, list(of_part), reader, sources, n_channels)
            for _, of_part in groupby(shots, key=lambda shot: shot.part.number)
        ]
        return Pack.joined([cutting.cut_out(of_part, Pack) for of_part in cuttings])

    work = skeleton.PieceWork(make, LARGEST_PIECE, "shots")
    skeleton.run(parts, [len(block) for block in blocks], work, word, world)
    limits = {name: attributes["config"][name] for name in ("d_min", "d_max")}
    parts.finish(
        world,
        **shoebox_blocks.recorded(parts, world),
        config=section.model_dump(mode="json") | limits,
        **{name: attributes[name] for name in CARRIED},
    )
    n_lattices = sum(len(shot.rows) for shot in predicted)
    log.info("%d lattices in %d parts", n_lattices, len(blocks))


def _open(
    images: list[Path], reindex: list[Path], attributes: dict[str, Any], predict: Path
) -> list[Source]:
    """Return the images of each run, read as reindex read them. attributes: of predict."""
    sources = [
        open_indexed(manifest, product) for manifest, product in zip(images, reindex, strict=True)
    ]
    runs = [source.manifest.run for source in sources]
    if runs != attributes["runs"]:
        todo = "Give --images in the order of the runs."
        raise FileError(predict, f"the runs {', '.join(runs)}", attributes["runs"], todo)
    return sources


def _predicted_shots(predict: Path) -> list[PredictedShot]:
    """Return the shots of predict with predicted lattices, in their order."""
    described = Predict.lattices
    wanted = [described.run, described.outcome, described.shot, described.shot_id]
    lattices = store.read(predict, Predict, wanted).lattices
    predicted = []
    for part in store.parts_of(predict, Predict):
        own = lattices[part.rows("lattices")]
        is_predicted = own.outcome == PredictedOutcome.PREDICTED
        for number in np.unique(own.shot[is_predicted]).tolist():
            rows = np.flatnonzero(is_predicted & (own.shot == number))
            predicted.append(
                PredictedShot(
                    part=part,
                    run=int(own.run[rows[0]]),
                    rows=rows,
                    number=number,
                    shot_id=int(own.shot_id[rows[0]]),
                )
            )
    return predicted


def _blocks(predicted: list[PredictedShot], size: int) -> list[list[PredictedShot]]:
    """Return shots that follow each other, as many of a run together as hold `size` lattices; those
    that hold more stand alone.
    """
    blocks: list[list[PredictedShot]] = []
    n_lattices = 0
    for shot in predicted:
        is_other_run = blocks and blocks[-1][-1].run != shot.run
        if not blocks or is_other_run or n_lattices + len(shot.rows) > size:
            blocks.append([])
            n_lattices = 0
        blocks[-1].append(shot)
        n_lattices += len(shot.rows)
    return blocks


def _ids(block: list[PredictedShot]) -> list[int]:
    """Return what tells shots from others: part, and row of their first lattice in it."""
    return [number for shot in block for number in (shot.part.number, int(shot.rows[0]))]


def _most_channels(sources: list[Source], predicted: list[PredictedShot]) -> int:
    """Return the largest number of channels of the runs' spectra, from the last shot of each."""
    last_of_run = {shot.run: shot for shot in predicted}
    return max(
        cutting.n_channels(sources[run], shot.number, shot.shot_id)
        for run, shot in last_of_run.items()
    )


def _cutting(
    section: PackSection,
    shots: list[PredictedShot],
    reader: store.PartReader[Predict],
    sources: list[Source],
    n_channels: int,
) -> Cutting:
    """Return what is cut out for some shots of one part."""
    run = shots[0].run
    predict = reader.read(shots[0].part)
    reflections = predict.reflections
    rows = np.concatenate([shot.rows for shot in shots])
    is_of_shots = np.zeros(len(predict.lattices), dtype=bool)
    is_of_shots[rows] = True
    is_chosen = np.isin(reflections.choice, CHOSEN)
    return Cutting(
        source=sources[run],
        run=run,
        lattices=predict.lattices,
        reflections=reflections,
        chosen_lattices=rows,
        is_chosen=is_chosen & is_of_shots[reflections.lattice],
        border_px=section.border_px,
        n_channels=n_channels,
    )
