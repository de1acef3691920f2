"""The skeleton of a stage that works block by block: parts that are finished are kept, the others
are made and counted.

A stage cuts its work into fixed blocks of shots or lattices (`Parts`, never per rank), says how the
columns of one block are computed, and writes the manifest when all blocks are there. The blocks are
shared among the ranks.
"""

from collections.abc import Callable, Mapping
from enum import IntEnum

import numpy as np

from spreadflow.io import schema, store
from spreadflow.log import Progress
from spreadflow.parallel import World

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


def n_rows(parts: store.Parts, table: str, world: World) -> int:
    """Return the number of rows of a table over all blocks. Collective."""
    own = 0
    for block in range(world.rank, len(parts.keys), world.size):
        own += parts.read(block, [])[""][table]
    return sum(world.gather(own))


def in_words(counts: Mapping[str, int]) -> str:
    """Return the counts above 0 in the words of a log, such as `3 refined, 1 lost`."""
    phrases = [f"{n} {name}" for name, n in counts.items() if n]
    return ", ".join(phrases)


def all_rows(parts: store.Parts, table: str) -> dict[str, np.ndarray]:
    """Return a table of all blocks as columns by name."""
    prefix = f"{table}/"
    names = [name for name in schema.FILES[parts.kind] if name.startswith(prefix)]
    pieces = [parts.read(block, [prefix]) for block in range(len(parts.keys))]
    columns = store.joined(parts.kind, names, pieces)
    return {name.split("/")[1]: column for name, column in columns.items()}
