"""Parts that ranks make together: each makes pieces of a block, and when all are there they are
joined to its part.

Parts are large, so that there are few files; pieces are small, the last ones most, so that every
rank has work until the end. Which pieces there were leaves no trace: a killed stage goes on from
those that are finished, on any number of ranks, which may cut what is missing in another way.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.errors import FileError
from spreadflow.io import store
from spreadflow.io.datasets import P
from spreadflow.parallel import World

PIECES_OF_RANK = 2
"""Each piece is at most this part of what a rank has of the work that is left: the last pieces are
small, so that no rank waits long for the others.
"""


class Piece(NamedTuple):
    """Some items of a block, such as shots, that follow each other."""

    block: int
    first: int
    """number in the block of its first item"""
    end: int
    """number after that of its last item"""


def cut(
    gaps: Iterable[Piece], costs: Sequence[np.ndarray], n_ranks: int, largest: int
) -> list[Piece]:
    """Return what is to be done as pieces, in the order in which ranks shall take them: of at most
    `largest` items, and of fewer and fewer where ranks would wait for each other.

    costs: of the items of each block.
    """
    left = sum(float(costs[gap.block][gap.first : gap.end].sum()) for gap in gaps)
    pieces = []
    for gap in gaps:
        first = gap.first
        while first < gap.end:
            most = left / (PIECES_OF_RANK * n_ranks) if n_ranks > 1 else np.inf
            of_items = costs[gap.block][first : min(first + largest, gap.end)].cumsum()
            n_items = max(1, int(np.searchsorted(of_items, most, side="right")))
            pieces.append(Piece(gap.block, first, first + n_items))
            left -= float(of_items[n_items - 1])
            first += n_items
    return pieces


def make_parts(
    parts: store.Parts[P],
    costs: Sequence[np.ndarray],
    largest: int,
    make: Callable[[Piece], P],
    world: World,
) -> None:
    """Make every part that is not done yet, from pieces that are shared among the ranks.
    Collective.

    costs: of the items of each block, of which only the ratios count; largest: items of a piece, at
    most; make: returns a piece.
    """
    missing = parts.missing(world)
    own = {block: _finished(parts, block) for block in missing[world.rank :: world.size]}
    finished = dict(zip(missing, world.gather_blocks(own), strict=True))
    gaps = [gap for block in missing for gap in _gaps(block, len(costs[block]), finished[block])]

    pieces = cut(gaps, costs, world.size, largest)
    for number in world.share(len(pieces)):
        piece = pieces[number]
        tables = make(piece)
        if piece.end - piece.first == len(costs[piece.block]):
            parts.write(piece.block, tables)
        else:
            store.write_part(_path(parts, piece), tables, _key(parts, piece))
    world.barrier()

    of_blocks = finished
    for piece in pieces:
        of_blocks[piece.block].append(piece)
    in_pieces = [block for block in missing if len(of_blocks[block]) > 1]
    for number in world.share(len(in_pieces)):
        _join(parts, sorted(of_blocks[in_pieces[number]]))
    world.barrier()


def _folder(parts: store.Parts, block: int) -> Path:
    """Return the folder of the pieces of a block."""
    return store.part_path(parts.path, block).with_suffix("")


def _path(parts: store.Parts, piece: Piece) -> Path:
    """Return the path of a piece."""
    return _folder(parts, piece.block) / f"{piece.first:06d}-{piece.end:06d}.h5"


def _key(parts: store.Parts, piece: Piece) -> str:
    """Return the key of a piece."""
    return store.digest(parts.keys[piece.block], "piece", piece.first, piece.end)


def _finished(parts: store.Parts, block: int) -> list[Piece]:
    """Return the sound pieces of a block that are there, in their order; others are removed."""
    pieces = []
    for path in sorted(_folder(parts, block).glob("[0-9]*.h5")):
        first, _, end = path.stem.partition("-")
        piece = Piece(block, int(first), int(end))
        try:
            store.read_part(path, parts.product, _key(parts, piece))
        except FileError:
            path.unlink()
        else:
            pieces.append(piece)
    return pieces


def _gaps(block: int, n_items: int, finished: Iterable[Piece]) -> list[Piece]:
    """Return those items of a block that no finished piece has, in as few pieces as there can be.

    finished: in their order; they do not overlap.
    """
    firsts = [0]
    ends = []
    for piece in finished:
        ends.append(piece.first)
        firsts.append(piece.end)
    ends.append(n_items)
    between = zip(firsts, ends, strict=True)
    return [Piece(block, first, end) for first, end in between if first < end]


def _join(parts: store.Parts, pieces: Sequence[Piece]) -> None:
    """Write the part of a block from all its pieces, and remove these."""
    read = [
        store.read_part(_path(parts, piece), parts.product, _key(parts, piece)) for piece in pieces
    ]
    block = pieces[0].block
    parts.write(block, parts.product.joined(read))
    shutil.rmtree(_folder(parts, block))
