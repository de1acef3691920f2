"""How blocks are dealt to ranks, and what is said of what each rank had."""

import numpy as np
import pytest

from spreadflow.parallel import Shares, World
from spreadflow.parallel.shares import deal


def test_every_block_is_dealt_once_and_ascending():
    costs = np.random.default_rng(1).uniform(0.0, 1.0, 23).tolist()
    for n_ranks in (1, 2, 8, 40):
        of_ranks = deal(costs, n_ranks)
        assert len(of_ranks) == n_ranks
        assert sorted(block for blocks in of_ranks for block in blocks) == list(range(23))
        assert all(blocks == sorted(blocks) for blocks in of_ranks)
    assert deal([], 3) == [[], [], []]


def test_blocks_that_cost_the_same_go_to_ranks_by_turns():
    assert deal([2.0] * 7, 3) == [[0, 3, 6], [1, 4], [2, 5]]


def test_the_costliest_block_is_alone_where_it_costs_as_much_as_all_others():
    assert deal([1.0, 2.0, 6.0, 3.0], 2) == [[2], [0, 1, 3]]


@pytest.mark.parametrize("size", [1, 4, 8])
def test_ranks_hold_about_the_same(size):
    """Blocks of 400 lattices in all, whose costs spread over a decade and are known, on 8 ranks."""
    worst = []
    for seed in range(50):
        cost = 10.0 ** np.random.default_rng(seed).uniform(0.0, 1.0, 400)
        of_blocks = cost.reshape(-1, size).sum(axis=1)
        loads = [of_blocks[blocks].sum() for blocks in deal(of_blocks.tolist(), 8)]
        worst.append(max(loads) / np.mean(loads))
    assert max(worst) < 1.10


def test_early_blocks_are_shared_too():
    rng = np.random.default_rng(2)
    costs = rng.uniform(0.9, 1.1, 128)
    is_early = np.arange(128) % 11 == 0
    of_ranks = deal(costs.tolist(), 8, is_early.tolist())
    assert sorted(int(is_early[blocks].sum()) for blocks in of_ranks) == [1] * 4 + [2] * 4
    loads = [costs[blocks].sum() for blocks in of_ranks]
    assert max(loads) < 1.02 * np.mean(loads)


def test_shares_in_figures_and_in_words():
    shares = Shares(items={"shots": [3, 5, 4]}, seconds=[1.0, 2.0, 1.5])
    assert shares.figures() == {
        "n_ranks": 3,
        "items": {"shots": {"min": 3, "median": 4.0, "mean": 4.0, "max": 5}},
        "seconds": {"min": 1.0, "median": 1.5, "mean": 1.5, "max": 2.0},
    }
    assert shares.sentence() == ("3 ranks, each: 3 to 5 shots; processor time 1 to 2 s, mean 1.5 s")
    assert "nothing new" in Shares({}, [0.1]).sentence()


def test_a_world_of_one_has_all_shares():
    world = World()
    start_s = world.busy_s
    world.count("shots", 2)
    world.count("shots", 3)
    shares = world.shares(start_s)
    assert shares.items == {"shots": [5]}
    assert shares.seconds[0] >= 0.0
    assert world.deal([1.0, 1.0]) == [0, 1]
