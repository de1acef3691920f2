"""The skeleton of a stage that works block by block: parts that are finished are kept, the others
are made and counted.

A stage cuts its work into fixed blocks of shots or lattices (`Parts`, never per rank), says how the
columns of one block, or of a piece of it, are computed, and writes the manifest when all blocks are
there. The blocks, or their pieces, are shared among the ranks.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from itertools import accumulate
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from spreadflow.io import pieces, store
from spreadflow.io.datasets import P
from spreadflow.io.pieces import Piece
from spreadflow.log import Progress
from spreadflow.parallel import World
from spreadflow.products import Column, Table

T = TypeVar("T", bound=Table)


class PieceWork(NamedTuple, Generic[P]):
    """How the pieces of blocks are made."""

    make: Callable[[Piece], P]
    """which piece of a block → its tables"""
    largest: int
    """items of a piece, at most"""
    units: str
    """what the items are, in the words of the progress bar"""


def run(parts: store.Parts[P], make: Callable[[int], P], title: str, world: World) -> None:
    """Make every block that is not finished, shared among the ranks, with a progress bar.
    Collective.

    make: number of a block → its part; title: what the progress bar calls the work, the word of the
    stage.
    """
    n_blocks = len(parts.keys)
    with Progress(title, n_blocks, world) as progress:

        def make_and_show(block: int) -> P:
            progress.at(block)
            return make(block)

        parts.each(world, make_and_show)
        progress.at(n_blocks)


def run_pieces(
    parts: store.Parts[P], n_items: Sequence[int], work: PieceWork[P], title: str, world: World
) -> None:
    """Make every block that is not finished from pieces that are shared among the ranks, with a
    progress bar. Collective.

    n_items: of each block; title: what the progress bar calls the work, the word of the stage.
    """
    n_all = sum(n_items)
    firsts = list(accumulate(n_items, initial=0))
    size = pieces.size_of(n_all, world.size, work.largest)
    with Progress(title, n_all, world, work.units) as progress:

        def make_and_show(piece: Piece) -> P:
            progress.at(firsts[piece.block] + piece.first)
            return work.make(piece)

        pieces.make_parts(parts, n_items, size, make_and_show, world)
        progress.at(n_all)


def outcomes(
    parts: store.Parts[P], column: Column, kind: type[IntEnum], world: World
) -> dict[str, int]:
    """Count the outcomes of all blocks, made now or in an earlier run, by lower-case name; 0 for
    those that did not occur. Collective.

    column: that which holds the outcomes, such as `Index.shots.outcome`; the manifest has it.
    """
    own = {
        block: np.bincount(brief.datasets()[column.path], minlength=len(kind))
        for block, brief in parts.briefs()
    }
    total = sum(world.gather_blocks(own), np.zeros(len(kind), dtype=int))
    return {outcome.name.lower(): int(total[outcome]) for outcome in kind}


def n_rows(parts: store.Parts[P], table: type[Table], world: World) -> int:
    """Return the number of rows of a table over all blocks. Collective."""
    own = {block: brief.n_rows()[table.table_name] for block, brief in parts.briefs()}
    return sum(world.gather_blocks(own))


def in_words(counts: Mapping[str, int]) -> str:
    """Return the counts above 0 in the words of a log, such as `3 refined, 1 lost`."""
    phrases = [f"{n} {name}" for name, n in counts.items() if n]
    return ", ".join(phrases)


def all_rows(
    parts: store.Parts[P], table: type[T], world: World, *, is_for_first: bool = False
) -> T:
    """Return a table of all blocks; each rank reads its share. Collective.

    is_for_first: only the first rank gets the rows.
    """
    own = {
        block: parts.read(block, [table])
        for block in range(world.rank, len(parts.keys), world.size)
    }
    read: list[P] = world.collect_blocks(own) if is_for_first else world.gather_blocks(own)
    rows = parts.product.joined(read).tables[table.table_name]
    assert isinstance(rows, table)
    return rows
