"""Parts that ranks make together: each makes pieces of a block, and when all are there they are
joined to its part.

Parts are large, so that there are few files; pieces are small, so that every rank has work. Which
pieces there were leaves no trace: a killed stage goes on from those that are finished, on any
number of ranks, which may cut what is missing in another way.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from spreadflow.errors import FileError
from spreadflow.io import store
from spreadflow.io.datasets import P
from spreadflow.parallel import World

PIECES_OF_RANK = 4
"""Pieces that each rank has, at least, where the largest are not smaller: the last to end keeps the
others waiting for a piece at most.
"""


class Piece(NamedTuple):
    """Some items of a block, such as shots, that follow each other."""

    block: int
    first: int
    """number in the block of its first item"""
    end: int
    """number after that of its last item"""


def size_of(n_items: int, n_ranks: int, largest: int) -> int:
    """Return how many items a piece shall have: `largest`, or fewer where ranks would be idle."""
    return max(1, min(largest, n_items // (PIECES_OF_RANK * n_ranks)))


def make_parts(
    parts: store.Parts[P],
    n_items: Sequence[int],
    size: int,
    make: Callable[[Piece], P],
    world: World,
) -> None:
    """Make every part that is not done yet, from pieces that are shared among the ranks.
    Collective.

    n_items: of each block; size: items of a piece, at most; make: returns a piece.
    """
    missing = parts.missing(world)
    own = {block: _finished(parts, block) for block in missing[world.rank :: world.size]}
    finished = dict(zip(missing, world.gather_blocks(own), strict=True))
    gaps = {block: _gaps(block, n_items[block], finished[block], size) for block in missing}

    pieces = [piece for block in missing for piece in gaps[block]]
    for number in world.share(len(pieces)):
        piece = pieces[number]
        tables = make(piece)
        if piece.end - piece.first == n_items[piece.block]:
            parts.write(piece.block, tables)
        else:
            store.write_part(_path(parts, piece), tables, _key(parts, piece))
    world.barrier()

    of_blocks = {block: sorted(finished[block] + gaps[block]) for block in missing}
    cut = [block for block in missing if len(of_blocks[block]) > 1]
    for number in world.share(len(cut)):
        _join(parts, of_blocks[cut[number]])
    world.barrier()


def _folder(parts: store.Parts, block: int) -> Path:
    """Return the folder of the pieces of a block."""
    return store.part_path(parts.path, block).with_suffix("")


def _path(parts: store.Parts, piece: Piece) -> Path:
    """Return the path of a piece."""
    return _folder(parts, piece.block) / f"{piece.first:06d}-{piece.end:06d}.h5"


def _key(parts: store.Parts, piece: Piece) -> str:
    """Return the key of a piece."""
    return store.digest(parts.keys[piece.block], piece.first, piece.end)


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


def _gaps(block: int, n_items: int, finished: Iterable[Piece], size: int) -> list[Piece]:
    """Return pieces of at most `size` items for those items of a block that no finished piece has.

    finished: in their order; they do not overlap.
    """
    firsts = [0]
    ends = []
    for piece in finished:
        ends.append(piece.first)
        firsts.append(piece.end)
    ends.append(n_items)
    return [
        Piece(block, first, min(first + size, end))
        for start, end in zip(firsts, ends, strict=True)
        for first in range(start, end, size)
    ]


def _join(parts: store.Parts, pieces: Sequence[Piece]) -> None:
    """Write the part of a block from all its pieces, and remove these."""
    read = [
        store.read_part(_path(parts, piece), parts.product, _key(parts, piece)) for piece in pieces
    ]
    block = pieces[0].block
    parts.write(block, parts.product.joined(read))
    shutil.rmtree(_folder(parts, block))
