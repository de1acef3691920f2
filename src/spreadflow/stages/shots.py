"""The product of the shots of a run: what `index`, `reindex` and `adopt` write, block by block."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow.config import IndexSection
from spreadflow.errors import Outcome
from spreadflow.io import schema, store
from spreadflow.io.images import Source
from spreadflow.log import logger
from spreadflow.parallel import World
from spreadflow.recipes.shot import Result, index, tables_of
from spreadflow.stages import blocks as skeleton


class ShotProduct(NamedTuple):
    """A product of `index`, `reindex` or `adopt`."""

    path: Path
    kind: str
    """schema"""
    word: str
    """stage that writes it"""
    length_sigma: float | None = None
    """relative standard deviation that the detector's distance gives all lengths of cells; None
    where it is not known
    """


def index_shots(
    product: ShotProduct,
    section: IndexSection,
    source: Source,
    inputs: dict[str, Any],
    world: World,
    supplied: Mapping[int, list[np.ndarray]] | None = None,
) -> None:
    """Write the product of the shots of a run, block by block. Collective.

    inputs: identities of what it is made from; supplied: number of a shot in its run → A (3, 3) of
    its lattices, where these are given and need not be searched for.
    """
    log = logger(product.word, world)
    config = section.model_dump(mode="json")
    size = section.block_shots
    shots = np.arange(source.n_shots)
    of_blocks = np.array_split(shots, range(size, source.n_shots, size))
    ids = [source.shots["shot_id"][block].tolist() for block in of_blocks]
    key = store.digest(config, inputs)
    parts = store.Parts(product.path, product.kind, key, ids)

    def make(block: int) -> store.Columns:
        pieces = [_index_shot(section, source, int(i), supplied) for i in of_blocks[block]]
        for problem in source.problems:
            log.warning("%s", problem)
        source.problems.clear()
        return store.joined(product.kind, schema.FILES[product.kind], pieces)

    skeleton.run(parts, make, product.word, world)
    counts = skeleton.outcomes(parts, "shots/outcome", Outcome, world)
    parts.finish(
        world,
        config=config,
        inputs=inputs,
        manifest=str(source.path),
        run=source.manifest.run,
        detector=source.detector._asdict(),
        length_sigma=product.length_sigma,
        outcomes={name: n for name, n in counts.items() if n},
    )
    log.info("%d shots: %s", source.n_shots, skeleton.in_words(counts))


def _index_shot(
    section: IndexSection,
    source: Source,
    number: int,
    supplied: Mapping[int, list[np.ndarray]] | None,
) -> dict:
    """Return all rows of a shot, as one piece for `store.joined`."""
    start = time.process_time()
    lattices = None if supplied is None else supplied.get(number, [])
    if lattices == []:
        result = Result(Outcome.NOT_SUPPLIED)
    else:
        shot = source.read(number)
        if isinstance(shot, Outcome):
            result = Result(shot)
        else:
            result = index(shot, section, source.detector, source.polarization, lattices)
    identity = {name: column[number] for name, column in source.shots.items()}
    identity["seconds"] = time.process_time() - start
    return store.piece("index", tables_of(result, identity))
