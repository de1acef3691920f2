"""Parts that are made of pieces: the same whatever the pieces, and what is finished is kept."""

import numpy as np
import pytest

from spreadflow.io import pieces, store
from spreadflow.io.pieces import Piece
from spreadflow.parallel import World
from spreadflow.products import Index

BLOCKS = [range(10), range(10, 17)]
"""Shots of each block."""

N_SHOTS = [len(block) for block in BLOCKS]


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
    pieces.make_parts(parts, N_SHOTS, size, make, World())
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
        pieces.make_parts(parts_at(tmp_path), N_SHOTS, 3, killed, World())
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
        pieces.make_parts(other, N_SHOTS, 4, _dies_at(make, Piece(0, 8, 10)), World())
    assert len(list((tmp_path / "index.parts/000000").iterdir())) == 2
    found = finished(tmp_path, 5, make)
    assert found.shots.shot_id.tolist() == list(range(17))


def _dies_at(make, last: Piece):
    def make_or_die(piece: Piece) -> Index:
        if piece == last:
            raise KeyboardInterrupt
        return make(piece)

    return make_or_die


@pytest.mark.parametrize(
    ("n_items", "n_ranks", "expected"), [(100_000, 64, 8), (110, 64, 1), (110, 4, 6), (3, 1, 1)]
)
def test_pieces_are_as_large_as_ranks_allow(n_items, n_ranks, expected):
    assert pieces.size_of(n_items, n_ranks, 8) == expected
