"""pack: shoeboxes of the reflections that `predict` chose, in few files that are mapped into
memory, so that no later stage opens an image.

A block is as many shots of `predict` of one run, in their order, as hold `pack.block_lattices`
lattices; its pieces are a few shots. Datasets and attributes are those of `annulus` and `wide`.
"""

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
"""Shots whose pixels are cut out together, before they are written."""

CARRIED = ("runs", "space_group", "detectors", "polarizations")
"""Attributes of predict that shoeboxes carry on."""


class PredictedShots(NamedTuple):
    """Shots of one part of the product of predict that hold predicted lattices."""

    part: store.Part[Predict]
    run: int
    rows: np.ndarray
    """of the predicted lattices in the part"""
    shot: int
    """number in the run of a shot of theirs"""
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
        cuttings = [
            _cutting(section, shots, reader.read(shots.part), sources[shots.run], n_channels)
            for shots in blocks[piece.block][piece.first : piece.end]
        ]
        return Pack.joined([cutting.cut_out(of_shots, Pack) for of_shots in cuttings])

    work = skeleton.PieceWork(make, largest=1, units="groups of shots")
    skeleton.run_pieces(parts, [len(block) for block in blocks], work, word, world)
    limits = {name: attributes["config"][name] for name in ("d_min", "d_max")}
    parts.finish(
        world,
        **shoebox_blocks.recorded(parts, world),
        config=section.model_dump(mode="json") | limits,
        **{name: attributes[name] for name in CARRIED},
    )
    n_lattices = sum(len(shots.rows) for shots in predicted)
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


def _predicted_shots(predict: Path) -> list[PredictedShots]:
    """Return the shots of predict with predicted lattices, a few at a time."""
    described = Predict.lattices
    wanted = [described.run, described.outcome, described.shot, described.shot_id]
    lattices = store.read(predict, Predict, wanted).lattices
    predicted = []
    for part in store.parts_of(predict, Predict):
        own = lattices[part.rows("lattices")]
        is_predicted = own.outcome == PredictedOutcome.PREDICTED
        number = np.where(is_predicted, own.shot // LARGEST_PIECE, -1)
        for number_of_shots in np.unique(number[number >= 0]):
            rows = np.flatnonzero(number == number_of_shots)
            predicted.append(
                PredictedShots(
                    part=part,
                    run=int(own.run[rows[0]]),
                    rows=rows,
                    shot=int(own.shot[rows[0]]),
                    shot_id=int(own.shot_id[rows[0]]),
                )
            )
    return predicted


def _blocks(predicted: list[PredictedShots], size: int) -> list[list[PredictedShots]]:
    """Return shots that follow each other, as many of a run together as hold `size` lattices; those
    that hold more stand alone.
    """
    blocks: list[list[PredictedShots]] = []
    n_lattices = 0
    for shots in predicted:
        is_other_run = blocks and blocks[-1][-1].run != shots.run
        if not blocks or is_other_run or n_lattices + len(shots.rows) > size:
            blocks.append([])
            n_lattices = 0
        blocks[-1].append(shots)
        n_lattices += len(shots.rows)
    return blocks


def _ids(block: list[PredictedShots]) -> list[int]:
    """Return what tells shots from others: part, and row of their first lattice in it."""
    return [number for shots in block for number in (shots.part.number, int(shots.rows[0]))]


def _most_channels(sources: list[Source], predicted: list[PredictedShots]) -> int:
    """Return the largest number of channels of the runs' spectra, from the last shots of each."""
    last_of_run = {shots.run: shots for shots in predicted}
    return max(
        cutting.n_channels(sources[run], shots.shot, shots.shot_id)
        for run, shots in last_of_run.items()
    )


def _cutting(
    section: PackSection,
    shots: PredictedShots,
    predict: Predict,
    source: Source,
    n_channels: int,
) -> Cutting:
    """Return what is cut out for some shots. predict: their part."""
    reflections = predict.reflections
    is_of_shots = np.zeros(len(predict.lattices), dtype=bool)
    is_of_shots[shots.rows] = True
    is_chosen = np.isin(reflections.choice, CHOSEN)
    return Cutting(
        source=source,
        run=shots.run,
        lattices=predict.lattices,
        reflections=reflections,
        chosen_lattices=shots.rows,
        is_chosen=is_chosen & is_of_shots[reflections.lattice],
        border_px=section.border_px,
        n_channels=n_channels,
    )
