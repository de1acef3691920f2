"""How long a stage takes on many ranks: a simulation of its events from what it costs on one.

Blocks are drawn one by one from a counter that the first rank holds, and every file that a rank
opens, creates or renames is an event at the storage; what all ranks do together is added up by
latency and bytes. The clock is that of the simulation: nothing here takes time.
"""

import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spreadflow.io import pieces
from spreadflow.parallel.world import MANY_RANKS

DRAW, STORE = 0, 1
"""Events: a rank wants a block; a rank has done one and stores it."""

N_FILE_OPERATIONS = 3
"""Of a block that is stored: its file is created, closed, and renamed."""

PICKLE_S = 2e-6
"""Seconds of unpacking what one rank told the others."""


class Machine(NamedTuple):
    """What ranks run on. The defaults are assumptions, but for those of the counter."""

    ranks_per_node: int = 128
    speed: float = 0.8
    """of a core while all others of the node work, over the one that was measured"""
    latency_s: float = 5e-6
    """of a message"""
    bytes_per_s: float = 2e9
    """of a message, for each rank of a full node"""
    ticket_s: float = 5e-6
    """between two tickets where all ranks are of one node, and draw from its memory"""
    looked_up_ticket_s: float = 0.01
    """the same of several nodes, where the first rank looks up from its own work"""
    served_ticket_s: float = 5e-5
    """the same where it does nothing else"""
    many_ranks: int = MANY_RANKS
    """from which on it does nothing else"""
    file_operations_per_s: float = 2e4
    """that the storage does for all ranks"""
    storage_bytes_per_s: float = 5e10
    """that it reads or writes for all ranks"""
    rank_bytes_per_s: float = 3e8
    """that a rank reads or writes alone"""
    has_image: bool = True
    """whether each node has Python and its packages in an image of its own"""


class Dealt(NamedTuple):
    """Work that ranks draw block by block, of a trial that was measured."""

    item_s: np.ndarray
    """(item,) processor time of items, such as shots: others are drawn from these"""
    largest: int
    """items of a block, at most"""
    is_cut: bool = False
    """whether blocks become smaller where ranks would be idle (`io.pieces`)"""
    bytes_per_item: float = 0.0
    """read and written"""
    n_times: int = 1
    """how often all items are gone through"""


class Costs(NamedTuple):
    """What a stage costs."""

    word: str
    start_s: float
    """processor time of a rank before it does anything"""
    n_opened: int
    """files that a rank opens or looks for until then"""
    own_s: float
    """of what every rank does, whatever their number"""
    once_s: float
    """of what the first rank does while the others wait"""
    dealt: tuple[Dealt, ...] = ()
    share_s: float = 0.0
    """of an item, of work that stays with a rank, all rounds together"""
    share_items: int = 1
    """items that stay together"""
    sums: tuple[int, float] = (0, 0.0)
    """sums over ranks, and bytes of each"""
    told: tuple[int, float] = (0, 0.0)
    """objects that ranks tell each other: how often, and bytes of an item"""
    most_items: int | None = None
    """of a stage that takes a sample, however many there are"""


class Course(NamedTuple):
    """Where the time of a stage went, s; the sum is what elapses."""

    start: float
    programs: float
    """until the storage has handed out the files of the programs"""
    work: float
    """of all ranks, over their number"""
    uneven: float
    """that the last rank works longer than the mean"""
    tickets: float
    """of the rank that ends last, for blocks"""
    storage: float
    """the same, for files and bytes"""
    sums: float
    """over ranks, and what they tell each other"""
    repeated: float
    """that every rank does, or one while the others wait"""

    @property
    def elapsed(self) -> float:
        """The time of the stage."""
        return sum(self)

    @property
    def limit(self) -> str:
        """The largest loss."""
        losses = self._asdict()
        del losses["work"]
        return max(losses, key=lambda name: losses[name])


class Drawn(NamedTuple):
    """What a simulated loop over blocks took the rank that ended last, s."""

    end: float
    tickets: float
    storage: float


def draw(
    block_s: Sequence[float], n_ranks: int, machine: Machine, n_bytes: Sequence[float]
) -> Drawn:
    """Simulate ranks that draw blocks, work on them and store them, until none is left.

    block_s: seconds of each block; n_bytes: that it reads and writes.
    """
    is_served = n_ranks >= machine.many_ranks
    ticket_s = _ticket_seconds(machine, n_ranks)
    events = [(0.0, DRAW, rank) for rank in range(is_served, n_ranks)]
    tickets = [0.0] * n_ranks
    storage = [0.0] * n_ranks
    size = [0.0] * n_ranks
    counter_free = 0.0
    files_free = 0.0
    bytes_free = 0.0
    block = 0
    last = (0.0, 0)
    while events:
        now, what, rank = heapq.heappop(events)
        if what == DRAW:
            counter_free = max(counter_free, now + machine.latency_s) + ticket_s
            answer = counter_free + machine.latency_s
            tickets[rank] += answer - now
            last = max(last, (answer, rank))
            if block < len(block_s):
                size[rank] = n_bytes[block]
                heapq.heappush(events, (answer + block_s[block], STORE, rank))
                block += 1
        else:
            files_free = max(files_free, now) + N_FILE_OPERATIONS / machine.file_operations_per_s
            bytes_free = max(bytes_free, now) + size[rank] / machine.storage_bytes_per_s
            alone = now + size[rank] / machine.rank_bytes_per_s
            end = max(files_free, bytes_free, alone)
            storage[rank] += end - now
            heapq.heappush(events, (end, DRAW, rank))
    end, rank = last
    return Drawn(end, tickets[rank], storage[rank])


def _ticket_seconds(machine: Machine, n_ranks: int) -> float:
    """Return the seconds between two tickets."""
    if n_ranks <= machine.ranks_per_node:
        return machine.ticket_s
    if n_ranks < machine.many_ranks:
        return machine.looked_up_ticket_s
    return machine.served_ticket_s


def blocks_of(dealt: Dealt, n_items: int, n_ranks: int) -> list[int]:
    """Return the number of items of each block."""
    if dealt.is_cut:
        whole = pieces.Piece(0, 0, n_items)
        cut = pieces.cut([whole], [np.ones(n_items)], n_ranks, dealt.largest)
        return [piece.end - piece.first for piece in cut]
    size = dealt.largest
    n_full, rest = divmod(n_items, size)
    return [size] * n_full + [rest] * (rest > 0)


def course(
    costs: Costs, machine: Machine, n_ranks: int, n_items: int, rng: np.random.Generator
) -> Course:
    """Return the course of a stage with so many items on so many ranks."""
    n = n_items if costs.most_items is None else min(n_items, costs.most_items)
    work, uneven, tickets, storage = _all_drawn(costs, machine, n_ranks, n, rng)
    most = math.ceil(math.ceil(n / costs.share_items) / n_ranks) * costs.share_items
    share = costs.share_s * n / n_ranks / machine.speed
    return Course(
        start=costs.start_s / machine.speed,
        programs=programs(costs, machine, n_ranks),
        work=work + share,
        uneven=uneven + costs.share_s * min(most, n) / machine.speed - share,
        tickets=tickets,
        storage=storage,
        sums=_together(costs, machine, n_ranks, n),
        repeated=(costs.own_s + costs.once_s) / machine.speed,
    )


def _all_drawn(
    costs: Costs, machine: Machine, n_ranks: int, n: int, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Return mean work of a rank, how much longer the last one works, and what tickets and storage
    take it, s, of all loops over blocks.
    """
    work = uneven = tickets = storage = 0.0
    for dealt in costs.dealt:
        sizes = blocks_of(dealt, n, n_ranks)
        item_s = rng.choice(dealt.item_s, n) / machine.speed
        first = np.cumsum([0, *sizes[:-1]])
        block_s = np.add.reduceat(item_s, first).tolist()
        n_bytes = [dealt.bytes_per_item * size for size in sizes]
        drawn = draw(block_s, n_ranks, machine, n_bytes)
        mean = sum(block_s) / n_ranks
        work += mean * dealt.n_times
        tickets += drawn.tickets * dealt.n_times
        storage += drawn.storage * dealt.n_times
        uneven += (drawn.end - mean - drawn.tickets - drawn.storage) * dealt.n_times
    return work, uneven, tickets, storage


def programs(costs: Costs, machine: Machine, n_ranks: int) -> float:
    """Return the seconds until all ranks have opened the files of their programs."""
    if machine.has_image:
        return 0.0
    return costs.n_opened * n_ranks / machine.file_operations_per_s


def _together(costs: Costs, machine: Machine, n_ranks: int, n: int) -> float:
    """Return the seconds of sums over ranks, and of objects that they tell each other."""
    if n_ranks == 1:
        return 0.0
    n_steps = math.ceil(math.log2(n_ranks))
    n_sums, sum_bytes = costs.sums
    n_told, told_bytes = costs.told
    of_sum = 2 * (n_steps * machine.latency_s + sum_bytes / machine.bytes_per_s)
    of_told = (
        n_steps * machine.latency_s + n_ranks * PICKLE_S + n * told_bytes / machine.bytes_per_s
    )
    return n_sums * of_sum + n_told * of_told
