"""The simulation of many ranks has the answers that are known without it."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

MODEL = Path(__file__).parents[2] / "benchmarks" / "rank_model.py"


@pytest.fixture(scope="module")
def model():
    """The benchmark's module."""
    spec = importlib.util.spec_from_file_location("rank_model", MODEL)
    module = importlib.util.module_from_spec(spec)
    sys.modules["rank_model"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def free(model):
    """A machine on which nothing costs anything but work."""
    return model.Machine(
        speed=1.0,
        latency_s=0.0,
        bytes_per_s=np.inf,
        ticket_s=0.0,
        looked_up_ticket_s=0.0,
        served_ticket_s=0.0,
        many_ranks=10**6,
        file_operations_per_s=np.inf,
        storage_bytes_per_s=np.inf,
        rank_bytes_per_s=np.inf,
    )


@pytest.mark.parametrize(("n_ranks", "rounds"), [(1, 10), (3, 4), (10, 1), (1000, 1)])
def test_equal_blocks_take_as_many_rounds_as_there_are(model, free, n_ranks, rounds):
    drawn = model.draw([2.0] * 10, n_ranks, free, [0.0] * 10)
    assert drawn == (2.0 * rounds, 0.0, 0.0)


def test_blocks_that_are_drawn_end_within_one_of_the_mean(model, free):
    block_s = np.random.default_rng(1).lognormal(size=500).tolist()
    for n_ranks in (2, 7, 64):
        end = model.draw(block_s, n_ranks, free, [0.0] * 500).end
        assert sum(block_s) / n_ranks <= end <= sum(block_s) / n_ranks + max(block_s)


def test_a_counter_hands_out_no_more_than_it_can(model, free):
    """Blocks without work: each ticket after the other, and one in vain for each rank."""
    slow = free._replace(ticket_s=1e-3)
    drawn = model.draw([0.0] * 500, 100, slow, [0.0] * 500)
    assert drawn.end == pytest.approx(600 * 1e-3)
    assert model.draw([1.0] * 500, 100, slow, [0.0] * 500).end == pytest.approx(5.1, abs=0.01)


def test_the_counter_is_asked_as_ranks_ask_it(model, free):
    """In memory on a node; of several nodes while the first rank works, or while it does not."""
    slow = free._replace(
        ranks_per_node=4, many_ranks=8, looked_up_ticket_s=1.0, served_ticket_s=0.1
    )
    ends = [model.draw([0.0] * 12, n, slow, [0.0] * 12).end for n in (4, 7, 8)]
    assert ends == pytest.approx([0.0, 12 + 7, 0.1 * (12 + 7)])
    assert model.draw([1.0] * 14, 8, slow._replace(served_ticket_s=0.0), [0.0] * 14).end == 2.0


def test_a_storage_takes_no_more_than_it_can(model, free):
    shared = free._replace(storage_bytes_per_s=100.0)
    drawn = model.draw([1.0] * 40, 40, shared, [50.0] * 40)
    assert drawn == (1.0 + 40 * 50.0 / 100.0, 0.0, pytest.approx(20.0))
    alone = free._replace(rank_bytes_per_s=10.0)
    assert model.draw([1.0] * 40, 40, alone, [50.0] * 40).end == 6.0
    files = free._replace(file_operations_per_s=model.N_FILE_OPERATIONS / 0.5)
    assert model.draw([1.0] * 40, 40, files, [50.0] * 40).end == pytest.approx(1.0 + 40 * 0.5)


def test_a_block_waits_for_those_alone_that_were_stored_before(model, free):
    """The first rank draws a long block, the second many short ones: their files are small."""
    slow = free._replace(storage_bytes_per_s=100.0)
    drawn = model.draw([10.0] + [1.0] * 9, 2, slow, [1.0] * 10)
    assert drawn.end == pytest.approx(10.01, abs=0.02)


@pytest.fixture
def costs(model):
    """A stage that deals out shots of a second, keeps lattices and adds up."""
    return model.Costs(
        word="stage1",
        start_s=2.0,
        n_opened=1000,
        own_s=3.0,
        once_s=1.0,
        dealt=(model.Dealt(item_s=np.ones(3), largest=8, is_cut=True),),
        share_s=0.5,
        share_items=10,
        sums=(4, 1e6),
    )


def test_on_one_rank_nothing_is_lost(model, free, costs):
    course = model.course(costs, free, 1, 100, np.random.default_rng(1))
    assert course.work == pytest.approx(100 * 1.5)
    assert course.repeated + course.start == 6.0
    assert course.elapsed == pytest.approx(156.0)


def test_losses_are_named(model, free, costs):
    """On 64 ranks 100 shots are one block each, and ten lattices stay together."""
    rng = np.random.default_rng(1)
    course = model.course(costs, free, 64, 100, rng)
    assert course.work == pytest.approx(100 * 1.5 / 64)
    assert course.uneven == pytest.approx((2 - 100 / 64) + (10 * 0.5 - 50 / 64))
    assert course.limit == "uneven"

    network = free._replace(latency_s=0.1, bytes_per_s=1e6)
    sums = model.course(costs, network, 64, 100, rng).sums
    assert sums == pytest.approx(4 * 2 * (6 * 0.1 + 1.0))

    busy = free._replace(has_image=False, file_operations_per_s=1e3)
    course = model.course(costs, busy, 64, 100, rng)
    assert course.programs == pytest.approx(64.0)
    assert course.limit == "programs"


def test_a_sample_does_not_grow(model, free, costs):
    few = costs._replace(most_items=10)
    rng = np.random.default_rng(1)
    assert model.course(few, free, 1, 10, rng) == model.course(few, free, 1, 1000, rng)
