"""The skeleton of a stage that works block by block: parts that are finished are kept, the others
are made and counted.

A stage cuts its work into fixed blocks of shots or lattices (`Parts`, never per rank), says how the
columns of one block are computed, and writes the manifest when all blocks are there. The blocks are
shared among the ranks.
"""

import time
from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow.config import IndexSection
from spreadflow.errors import Outcome
from spreadflow.io import schema, store
from spreadflow.io.images import Source
from spreadflow.log import Progress, logger
from spreadflow.parallel import World
from spreadflow.recipes.shot import Result, index, tables_of

MakeBlock = Callable[[int], store.Columns]
"""Number of a block → the columns of its part."""


def run(parts: store.Parts, make: MakeBlock, title: str, world: World) -> None:
    """Make every block that is not finished, shared among the ranks, with a progress bar.
    Collective.

    title: what the progress bar calls the work, the word of the stage.
    """
    n_blocks = len(parts.keys)
    with Progress(title, n_blocks, world) as progress:

        def make_and_show(block: int) -> store.Columns:
            progress.at(block)
            return make(block)

        parts.each(world, make_and_show)
        progress.at(n_blocks)


def outcomes(parts: store.Parts, column: str, kind: type[IntEnum], world: World) -> dict[str, int]:
    """Count the outcomes of all blocks, made now or in an earlier run, by lower-case name; 0 for
    those that did not occur. Collective.

    column: dataset that holds the outcomes, such as `shots/outcome`.
    """
    counts = np.zeros(len(kind), dtype=int)
    for block in range(world.rank, len(parts.keys), world.size):
        values = parts.read(block, [column])[column]
        counts += np.bincount(values, minlength=len(kind))
    total = sum(world.gather(counts))
    return {outcome.name.lower(): int(total[outcome]) for outcome in kind}


def in_words(counts: Mapping[str, int]) -> str:
    """Return counts as a log says them: `3 refined, 1 lost`."""
    return ", ".join(f"{n} {name}" for name, n in counts.items() if n)


def all_rows(parts: store.Parts, table: str) -> dict[str, np.ndarray]:
    """Return a table of all blocks as columns by name."""
    names = [name for name in schema.FILES[parts.kind] if name.startswith(f"{table}/")]
    pieces = [parts.read(block, [f"{table}/"]) for block in range(len(parts.keys))]
    columns = store.joined(parts.kind, names, pieces)
    return {name.split("/")[1]: column for name, column in columns.items()}


# ---------------------------------------------------------------- the product of shots


class ShotProduct(NamedTuple):
    """A product of `index`, `reindex` or `adopt`."""

    path: Path
    kind: str
    """schema"""
    word: str
    """stage that writes it"""


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
    its lattices, where these are not to be looked for.
    """
    log = logger(product.word, world)
    config = section.model_dump(mode="json")
    size = section.block_shots
    shots = np.arange(source.n_shots)
    of_blocks = np.array_split(shots, range(size, source.n_shots, size))
    ids = [source.shots["shot_id"][block].tolist() for block in of_blocks]
    parts = store.Parts(product.path, product.kind, store.digest(config, inputs), ids)

    def make(block: int) -> store.Columns:
        pieces = [_index_shot(section, source, int(i), supplied) for i in of_blocks[block]]
        for problem in source.problems:
            log.warning("%s", problem)
        source.problems.clear()
        return store.joined(product.kind, schema.FILES[product.kind], pieces)

    run(parts, make, product.word, world)
    counts = outcomes(parts, "shots/outcome", Outcome, world)
    parts.finish(
        world,
        config=config,
        inputs=inputs,
        manifest=str(source.path),
        run=source.manifest.run,
        detector=source.detector._asdict(),
        outcomes={name: n for name, n in counts.items() if n},
    )
    log.info("%d shots: %s", source.n_shots, in_words(counts))


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
