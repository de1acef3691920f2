"""The skeleton of a stage that works block by block: parts that are finished are kept, the others are made and counted.

A stage cuts its work into fixed blocks of shots or lattices (`Parts`, never per rank), says how the columns of one block
are computed, and writes the manifest when all blocks are there. The blocks are shared among the ranks.
"""

from collections.abc import Callable
from enum import IntEnum

import numpy as np

from spreadflow.io import store
from spreadflow.log import Progress
from spreadflow.parallel import World

MakeBlock = Callable[[int], store.Columns]
"""number of a block → the columns of its part"""


def run(parts: store.Parts, make: MakeBlock, word: str, world: World) -> None:
    """Make every block that is not finished, shared among the ranks, with a progress bar. Collective.

    word: what the progress bar and the log call the work, the word of the stage.
    """
    n_blocks = len(parts.keys)
    with Progress(word, n_blocks, world) as progress:

        def make_and_tell(block: int) -> store.Columns:
            progress.at(block)
            return make(block)

        parts.each(world, make_and_tell)
        progress.at(n_blocks)


def outcomes(parts: store.Parts, column: str, kind: type[IntEnum], world: World) -> dict[str, int]:
    """Count the outcomes of all blocks, made now or in an earlier run, by lower-case name. Collective.

    column: dataset that holds the outcomes, such as `shots/outcome`. Outcomes that did not occur are left out.
    """
    counts = np.zeros(len(kind), dtype=int)
    for block in range(world.rank, len(parts.keys), world.size):
        values = parts.read(block, [column])[column]
        counts += np.bincount(values, minlength=len(kind))
    total = sum(world.gather(counts))
    return {outcome.name.lower(): int(total[outcome]) for outcome in kind if total[outcome]}
