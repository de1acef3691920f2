"""Which device each rank computes on; ranks under a launcher are in tests/mpi."""

from spreadflow.stages.devices import Place, sentence


def test_ranks_are_counted_by_the_devices_they_see():
    two_nodes = [Place(rank, "gpu", "A100", rank % 2, 2) for rank in (0, 1, 2, 0, 1)]
    assert sentence(two_nodes) == "ranks by device: gpu 0 of 2: 3, gpu 1 of 2: 2 (A100; nodes: 2)"
    bound = [
        Place(rank, "gpu", kind, 0, 1) for rank, kind in ((0, "A100"), (1, "A100"), (0, "H200"))
    ]
    assert sentence(bound) == "ranks by device: gpu 0 of 1: 3 (A100, H200; nodes: 2)"
