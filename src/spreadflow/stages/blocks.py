"""The skeleton of a stage that works block by block: parts that are finished are kept, the others
are made and counted.

A stage cuts its work into fixed blocks of shots or lattices (`Parts`, never per rank), says how the
columns of a piece of a block are computed, and writes the manifest when all blocks are there. The
pieces are shared among the ranks, first come, first served; blocks that ranks hold in memory, to
come back to them, are dealt once.
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
    """what the items are, such as shots"""
    costs: Sequence[np.ndarray] | None = None
    """of the items of each block, where some are known to take longer than others"""


def run(
    parts: store.Parts[P], n_items: Sequence[int], work: PieceWork[P], title: str, world: World
) -> None:
    """Make every block that is not finished from pieces that are shared among the ranks, with a
    progress bar. Collective.

    n_items: of each block; title: what the progress bar calls the work, the word of the stage.
    """
    n_all = sum(n_items)
    firsts = list(accumulate(n_items, initial=0))
    costs = [np.ones(n) for n in n_items] if work.costs is None else work.costs
    with Progress(title, n_all, world, work.units) as progress:

        def make_and_show(piece: Piece) -> P:
            progress.at(firsts[piece.block] + piece.first)
            world.count(work.units, piece.end - piece.first)
            return work.make(piece)

        pieces.make_parts(parts, costs, work.largest, make_and_show, world)
        progress.at(n_all)


def deal(parts: store.Parts[P], table: type[Table], world: World) -> list[int]:
    """Return the finished blocks that this rank shall hold, so that all ranks hold about as many
    rows of a table. Collective.
    """
    return world.deal(_n_rows(parts, table, world))


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
    return sum(_n_rows(parts, table, world))


def _n_rows(parts: store.Parts[P], table: type[Table], world: World) -> list[int]:
    """Return the number of rows of a table in each block. Collective."""
    own = {block: brief.n_rows()[table.table_name] for block, brief in parts.briefs()}
    return world.gather_blocks(own)


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
