"""pack: shoeboxes of the reflections that `predict` chose, in few files that are mapped into
memory, so that no later stage opens an image.

A block is as many parts of `predict` of one run, in their order, as hold `pack.block_lattices`
lattices. Datasets and attributes are those of `annulus` and `wide`.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow.config import PackConfig, PackSection
from spreadflow.errors import FileError, PredictedOutcome
from spreadflow.io import datasets, schema, shoebox_blocks, store
from spreadflow.io.images import Source, open_indexed
from spreadflow.log import logger
from spreadflow.models import CHOSEN
from spreadflow.parallel import World
from spreadflow.stages import blocks as skeleton
from spreadflow.stages import cutting
from spreadflow.stages.cutting import Cutting

IDENTITY = ("lattices/run", "lattices/outcome", "lattices/shot", "lattices/shot_id")
"""Datasets of predict that say which lattices a part holds."""

CUT = ("lattices/", *cutting.REFLECTION_COLUMNS, "reflections/choice")
"""Datasets of predict that shoeboxes are cut out by."""


CARRIED = ("runs", "space_group", "detectors", "polarizations")
"""Attributes of predict that shoeboxes carry on."""


class PredictedPart(NamedTuple):
    """One part of the product of predict that holds predicted lattices."""

    part: store.Part
    run: int
    n_lattices: int
    """predicted ones"""
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
    attributes = store.attributes(predict, "predict")
    sources = _open(images, reindex, attributes, predict)
    predicted = _predicted_parts(predict)
    last_of_run = {part.run: part for part in predicted}
    n_channels = max(
        cutting.n_channels(sources[run], part.shot, part.shot_id)
        for run, part in last_of_run.items()
    )
    blocks = _blocks(predicted, section.block_lattices)
    identities = [*(source.identity for source in sources), store.identity(predict)]
    key = store.digest(section.model_dump(mode="json"), identities)
    parts = store.Parts(out, word, key, [[part.part.number for part in block] for block in blocks])

    def make(number: int) -> dict[str, np.ndarray]:
        pieces = [_piece(section, part, sources[part.run], n_channels) for part in blocks[number]]
        return datasets.joined("pack", schema.FILES["pack"], pieces)

    skeleton.run(parts, make, word, world)
    limits = {name: attributes["config"][name] for name in ("d_min", "d_max")}
    parts.finish(
        world,
        **shoebox_blocks.recorded(parts, world),
        config=section.model_dump(mode="json") | limits,
        **{name: attributes[name] for name in CARRIED},
    )
    log.info("%d lattices in %d parts", sum(part.n_lattices for part in predicted), len(blocks))


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


def _predicted_parts(predict: Path) -> list[PredictedPart]:
    """Return the parts of predict with predicted lattices."""
    columns = store.read(predict, "predict", IDENTITY)
    is_predicted = columns["lattices/outcome"] == PredictedOutcome.PREDICTED
    parts = []
    for part in store.parts_of(predict, "predict"):
        own = part.rows("lattices")
        rows = own.start + np.flatnonzero(is_predicted[own])
        if len(rows):
            parts.append(
                PredictedPart(
                    part=part,
                    run=int(columns["lattices/run"][rows[0]]),
                    n_lattices=len(rows),
                    shot=int(columns["lattices/shot"][rows[0]]),
                    shot_id=int(columns["lattices/shot_id"][rows[0]]),
                )
            )
    return parts


def _blocks(parts: list[PredictedPart], size: int) -> list[list[PredictedPart]]:
    """Return parts that follow each other, as many of a run together as hold `size` lattices; one
    that holds more stands alone.
    """
    blocks: list[list[PredictedPart]] = []
    n_lattices = 0
    for part in parts:
        is_other_run = blocks and blocks[-1][-1].run != part.run
        if not blocks or is_other_run or n_lattices + part.n_lattices > size:
            blocks.append([])
            n_lattices = 0
        blocks[-1].append(part)
        n_lattices += part.n_lattices
    return blocks


def _piece(
    section: PackSection, part: PredictedPart, source: Source, n_channels: int
) -> dict[str, Any]:
    """Return the shoeboxes of one part of predict, as one piece for `datasets.joined`."""
    columns = part.part.read(CUT)
    is_predicted = columns["lattices/outcome"] == PredictedOutcome.PREDICTED
    shoeboxes = cutting.cut_out(
        Cutting(
            source=source,
            run=part.run,
            columns=columns,
            lattices=np.flatnonzero(is_predicted),
            is_chosen=np.isin(columns["reflections/choice"], CHOSEN),
            border_px=section.border_px,
            n_channels=n_channels,
        )
    )
    tables: dict[str, dict[str, np.ndarray]] = {}
    for path, column in shoeboxes.items():
        table, name = path.split("/")
        tables.setdefault(table, {})[name] = column
    return datasets.piece("pack", tables)
