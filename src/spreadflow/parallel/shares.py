"""How blocks are dealt to ranks once, and what each rank had of the work."""

import heapq
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


def deal(
    costs: Sequence[float], n_ranks: int, is_early: Sequence[bool] | None = None
) -> list[list[int]]:
    """Return the numbers of the blocks of each rank, ascending, so that all ranks have about the
    same cost: the costliest block is dealt first, each to the rank that has least so far.

    costs: of each block. is_early: (block,) those that are worked on alone for a time, and are
    dealt before all others, so that ranks share these too; None = there are none.
    """
    cost = np.asarray(costs, dtype=np.float64)
    is_late = np.zeros(len(cost), bool) if is_early is None else ~np.asarray(is_early, bool)
    of_ranks: list[list[int]] = [[] for _ in range(n_ranks)]
    loads = [(0.0, rank) for rank in range(n_ranks)]
    for block in np.lexsort((-cost, is_late)).tolist():
        load, rank = heapq.heappop(loads)
        of_ranks[rank].append(block)
        heapq.heappush(loads, (load + float(cost[block]), rank))
    return [sorted(blocks) for blocks in of_ranks]


class Shares(NamedTuple):
    """What each rank had of the work of a stage."""

    items: dict[str, list[int]]
    """what was worked on, such as `shots` → how many of them each rank had"""
    seconds: list[float]
    """of each rank: processor time, but for that in which it waited for others"""

    def figures(self) -> dict[str, Any]:
        """Return what a summary has of them."""
        return {
            "n_ranks": len(self.seconds),
            "items": {units: _over_ranks(numbers) for units, numbers in self.items.items()},
            "seconds": _over_ranks(self.seconds),
        }

    def sentence(self) -> str:
        """Return them in words, for a log."""
        seconds = _over_ranks(self.seconds)
        counts = [
            f"{min(numbers)} to {max(numbers)} {units}" for units, numbers in self.items.items()
        ]
        return (
            f"{len(self.seconds)} ranks, each: {', '.join(counts) or 'nothing new'}; processor "
            f"time {seconds['min']:.3g} to {seconds['max']:.3g} s, mean {seconds['mean']:.3g} s"
        )


def _over_ranks(values: Sequence[float]) -> dict[str, float]:
    """Return the smallest, the median, the mean and the largest of numbers of the ranks."""
    return {
        "min": min(values),
        "median": float(np.median(values)),
        "mean": float(np.mean(values)),
        "max": max(values),
    }
