"""Parts that are made of pieces: the same whatever the pieces, what is finished is kept, and ranks
are done at the same time.
"""

import heapq

import numpy as np
import pytest

from spreadflow.io import pieces, store
from spreadflow.io.pieces import Piece
from spreadflow.parallel import World
from spreadflow.products import Index

BLOCKS = [range(10), range(10, 17)]
"""Shots of each block."""

COSTS = [np.ones(len(block)) for block in BLOCKS]


@pytest.fixture
def make(filled):
    """A function that makes a piece: a shot has as many spots as its number says,
    which refer to it.
    """

    def part(piece: Piece) -> Index:
        ids = np.array(BLOCKS[piece.block][piece.first : piece.end])
        planted = {
            "shots/shot_id": ids,
            "spots/shot": np.repeat(np.arange(len(ids)), ids),
            "spots/fast": np.arange(ids.sum()) + 0.5,
            "spots/lattice": np.full(ids.sum(), -1),
        }
        return filled("index", {"shots": len(ids), "spots": ids.sum()}, planted)

    return part


def parts_at(folder) -> store.Parts[Index]:
    return store.Parts(folder / "index.h5", Index, "base", BLOCKS)


def finished(folder, size: int, make) -> Index:
    parts = parts_at(folder)
    pieces.make_parts(parts, COSTS, size, make, World())
    parts.finish(World())
    return store.read(folder / "index.h5", Index)


@pytest.mark.stage
def test_what_the_pieces_were_leaves_no_trace(tmp_path, make):
    whole = finished(tmp_path / "whole", 100, make)
    assert whole.spots.shot.tolist() == np.repeat(np.arange(17), np.arange(17)).tolist()
    for size in (1, 3, 10):
        found = finished(tmp_path / str(size), size, make)
        for name, column in whole.datasets().items():
            if name != "spots/fast":
                np.testing.assert_array_equal(found.datasets()[name], column, err_msg=name)
        left = sorted(path.name for path in (tmp_path / str(size) / "index.parts").iterdir())
        assert left == ["000000.h5", "000001.h5"]


def test_a_killed_stage_goes_on_from_its_pieces(tmp_path, make):
    """Cut in another way the second time, as other numbers of ranks do."""
    begun = []

    def killed(piece: Piece):
        if len(begun) == 4:
            raise KeyboardInterrupt
        begun.append(piece)
        return make(piece)

    with pytest.raises(KeyboardInterrupt):
        pieces.make_parts(parts_at(tmp_path), COSTS, 3, killed, World())
    assert begun == [Piece(0, 0, 3), Piece(0, 3, 6), Piece(0, 6, 9), Piece(0, 9, 10)]

    folder = tmp_path / "index.parts/000000"
    damaged = folder / "000003-000006.h5"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    (folder / "000009-000010.h5").unlink()
    sound = folder / "000006-000009.h5"
    before = sound.stat().st_mtime_ns
    again = []

    def make_again(piece: Piece):
        assert sound.stat().st_mtime_ns == before
        again.append(piece)
        return make(piece)

    found = finished(tmp_path, 2, make_again)
    of_first = [piece for piece in again if piece.block == 0]
    assert of_first == [Piece(0, 3, 5), Piece(0, 5, 6), Piece(0, 9, 10)]
    assert found.shots.shot_id.tolist() == list(range(17))
    assert found.spots.shot.tolist() == np.repeat(np.arange(17), np.arange(17)).tolist()
    assert not folder.exists()


def test_pieces_of_other_inputs_are_made_again(tmp_path, make):
    other = store.Parts(tmp_path / "index.h5", Index, "another", BLOCKS)
    with pytest.raises(KeyboardInterrupt):
        pieces.make_parts(other, COSTS, 4, _dies_at(make, Piece(0, 8, 10)), World())
    assert len(list((tmp_path / "index.parts/000000").iterdir())) == 2
    found = finished(tmp_path, 5, make)
    assert found.shots.shot_id.tolist() == list(range(17))


def _dies_at(make, last: Piece):
    def make_or_die(piece: Piece) -> Index:
        if piece == last:
            raise KeyboardInterrupt
        return make(piece)

    return make_or_die


def test_pieces_are_as_large_as_ranks_allow():
    gaps = [Piece(0, 0, 100), Piece(2, 30, 60)]
    costs = [np.ones(100), np.empty(0), np.ones(60)]

    def sizes(n_ranks: int) -> list[int]:
        return [piece.end - piece.first for piece in pieces.cut(gaps, costs, n_ranks, 8)]

    assert sizes(1) == [8] * 12 + [4] + [8] * 3 + [6], "nobody waits for a single rank"
    assert sizes(64) == [1] * 130
    of_four = sizes(4)
    assert sum(of_four) == 130
    assert of_four[:8] == [8] * 8
    assert of_four[-8:] == [1] * 8


def test_pieces_follow_what_their_items_cost():
    costs = [np.array([1.0, 0.01, 0.01, 0.01, 1.0, 1.0, 0.01, 0.01])]
    cut = pieces.cut([Piece(0, 0, 8)], costs, 3, 8)
    assert [(piece.first, piece.end) for piece in cut[:3]] == [(0, 1), (1, 4), (4, 5)]
    assert [piece.first for piece in cut[1:]] == [piece.end for piece in cut[:-1]]


@pytest.mark.parametrize("size", [8, 256], ids=["small parts", "large parts"])
def test_ranks_are_done_at_the_same_time(size):
    """400 shots, whose costs nobody knows beforehand and which spread over a decade, on 8 ranks by
    the clock of a simulation: who is free takes the next piece.
    """
    worst = []
    for seed in range(50):
        cost = 10.0 ** np.random.default_rng(seed).uniform(0.0, 1.0, 400)
        firsts = range(0, 400, size)
        blocks = [cost[first : first + size] for first in firsts]
        gaps = [Piece(number, 0, len(block)) for number, block in enumerate(blocks)]
        cut = pieces.cut(gaps, [np.ones(len(block)) for block in blocks], 8, 8)
        clocks = [0.0] * 8
        for piece in cut:
            time = heapq.heappop(clocks)
            heapq.heappush(clocks, time + blocks[piece.block][piece.first : piece.end].sum())
        assert sum(clocks) == pytest.approx(cost.sum()), "every shot is done"
        worst.append(max(clocks) / np.mean(clocks))
    assert max(worst) < 1.10
