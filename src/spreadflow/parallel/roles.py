"""Ranks with different work: readers send pixels to workers, a master says whose turn it is, a
viewer publishes what the workers have.

A block of shots crosses the network once, in one collective of its reader and all workers, of which
each owns some of the pixels. Readers read ahead by a block. The viewer receives in its main thread
and publishes in another: it holds up nobody until two results wait to be published. Where all are
interrupted, the viewer first finishes what it is publishing. Without MPI one process has all roles,
and does the same in the same order.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np

from spreadflow.errors import RanksError
from spreadflow.parallel.world import World

BLOCK, UPDATE, END = 1, 2, 3
"""What the master says: a block comes, results are wanted, all is over."""

READY_TAG, GO_TAG, ORDER_TAG, RESULT_TAG = 1, 2, 3, 4
"""Tags of messages: from reader to master and back, from master and from workers to the viewer."""

N_HEAD = 5
"""Numbers at the head of a message: what, who, shots, dropped shots, last shot id."""

FEWEST_RANKS = 4
"""A viewer, a master, a reader and a worker."""

MOST_WAITING = 2
"""Results that wait to be published before the workers have to."""

LONGEST_NAP_S = 0.002
"""Seconds between looks at a message that is awaited: an idle rank leaves its core to others."""


class Packet(NamedTuple):
    """A block of shots as it is sent."""

    shot_ids: np.ndarray
    """(shot,) int64"""
    pixels: np.ndarray
    """flat float32: for each worker (shot, pixel) of its own pixels"""
    n_dropped: int
    """shots that were read or refused since the packet before, and are not sent"""


class Result(NamedTuple):
    """What a worker has at an update."""

    values: np.ndarray
    """(array, delay, pixel) float64"""
    numbers: np.ndarray
    """(number,) int64, the same for all workers"""
    flags: np.ndarray
    """(pixel,) int8"""
    totals: np.ndarray = np.zeros(0)
    """(total,) float64 sums over the pixels, which those of other workers are added to"""


class Update(NamedTuple):
    """How far the shots have come when results are published."""

    n_shots: int
    """that were sent to the workers"""
    n_dropped: int
    """that were not"""
    last_shot_id: int
    """of those that were sent"""
    is_last: bool


class Reader(Protocol):
    """What a reader does."""

    def packets(self, number: int, n_readers: int) -> Iterator[Packet]:
        """Yield the blocks of reader `number`, none of more shots than agreed."""


class Worker(Protocol):
    """What a worker does."""

    def take(self, shot_ids: np.ndarray, pixels: np.ndarray) -> None:
        """Take in a block of shots. pixels: (shot, pixel) float32 of its own pixels."""

    def result(self) -> Result:
        """Return what it has."""


class Viewer(Protocol):
    """What the viewer does."""

    def publish(self, update: Update, results: Sequence[Result]) -> None:
        """Publish the results of all workers, in their order."""


class Builders(NamedTuple):
    """What builds who does the work of a role, on the ranks that have it."""

    reader: Callable[[], Reader]
    worker: Callable[[int], Worker]
    """of the worker of a number"""
    viewer: Callable[[], Viewer]


class Agreement(NamedTuple):
    """What all roles know beforehand."""

    widths: list[int]
    """pixels of each worker"""
    block_shots: int
    """most shots of a block"""
    update_shots: int
    """shots between updates; 0 = only at the end"""
    takes_turns: bool
    """whether readers take turns, else the earliest of their next blocks comes first"""
    n_arrays: int
    n_delays: int
    n_numbers: int
    n_totals: int = 0


class Assignment(NamedTuple):
    """The ranks of each role."""

    viewer: int
    master: int
    readers: tuple[int, ...]
    workers: tuple[int, ...]
    idle: tuple[int, ...] = ()
    """those without a role"""


def assign(
    hosts: Sequence[str], n_readers: int, n_pixels: int, reader_hosts: Sequence[str] = ()
) -> Assignment:
    """Return who does what. hosts: of each rank. Readers are taken from one host after the other,
    so that no network card serves all of them; the first rank is kept for the viewer. A worker has
    a pixel at least: ranks beyond are idle.

    reader_hosts: the only hosts that readers may be at; () = any. Raises RanksError where there are
    too few ranks.
    """
    if n_readers < 1 or len(hosts) < n_readers + FEWEST_RANKS - 1:
        expected = f"{FEWEST_RANKS - 1} ranks and as many as there are readers, {n_readers}"
        todo = "Start more ranks, or one without a launcher."
        raise RanksError("correlate", expected, f"{len(hosts)} ranks", todo)
    by_host: dict[str, list[int]] = {}
    for rank, host in enumerate(hosts):
        if rank > 0 and (not reader_hosts or host in reader_hosts):
            by_host.setdefault(host, []).append(rank)
    in_turn = sorted(
        (place, number, rank)
        for number, ranks in enumerate(by_host.values())
        for place, rank in enumerate(ranks)
    )
    readers = tuple(sorted(rank for _, _, rank in in_turn[:n_readers]))
    if len(readers) < n_readers:
        found = f"{len(readers)} ranks at {', '.join(reader_hosts)}"
        todo = "Name more hosts, or fewer readers."
        raise RanksError("correlate", f"{n_readers} ranks for readers", found, todo)
    others = [rank for rank in range(len(hosts)) if rank not in readers]
    workers, idle = others[2 : 2 + n_pixels], others[2 + n_pixels :]
    return Assignment(others[0], others[1], readers, tuple(workers), tuple(idle))


def widths_of(n_pixels: int, n_workers: int) -> list[int]:
    """Return how many pixels each worker owns: they differ by one at most."""
    return np.diff(n_pixels * np.arange(n_workers + 1) // n_workers).tolist()


class _Updates:
    """When results are due, by the shots that were sent."""

    def __init__(self, every: int):
        self._every = every
        self.n_shots = 0
        self.n_dropped = 0
        self.last_shot_id = 0

    def sent(self, n_shots: int, n_dropped: int, last_shot_id: int) -> bool:
        """Count a block; whether results are due."""
        before = self.n_shots
        self.n_shots += n_shots
        self.n_dropped += n_dropped
        if n_shots:
            self.last_shot_id = last_shot_id
        return bool(self._every) and before // self._every < self.n_shots // self._every

    def update(self, is_last: bool) -> Update:
        """Return the update that is due now."""
        return Update(self.n_shots, self.n_dropped, self.last_shot_id, is_last)


def work(
    world: World, assignment: Assignment | None, builders: Builders, agreed: Agreement
) -> None:
    """Do the work of this rank until all shots are through. Collective. assignment: None = this
    process has all roles.
    """
    if assignment is None:
        _work_alone(builders, agreed)
        return
    comms = _Communicators(world, assignment)
    with _ending_with_the_viewer(comms):
        if world.rank == assignment.viewer:
            _work_as_viewer(builders.viewer(), comms, agreed)
        elif world.rank == assignment.master:
            _work_as_master(comms, agreed)
        elif world.rank in assignment.readers:
            _work_as_reader(builders.reader(), comms, agreed)
        elif world.rank in assignment.workers:
            _work_as_worker(builders.worker(assignment.workers.index(world.rank)), comms, agreed)
        comms.end()


def _work_alone(builders: Builders, agreed: Agreement) -> None:
    """Do the work of all roles in one process."""
    worker = builders.worker(0)
    updates = _Updates(agreed.update_shots)
    with _publishing(builders.viewer(), most_waiting=0) as publisher:
        for packet in builders.reader().packets(0, 1):
            n = len(packet.shot_ids)
            if n:
                worker.take(packet.shot_ids, packet.pixels.reshape(n, -1))
            last_shot_id = int(packet.shot_ids[-1]) if n else 0
            if updates.sent(n, packet.n_dropped, last_shot_id):
                publisher.put(updates.update(is_last=False), [worker.result()])
        publisher.put(updates.update(is_last=True), [worker.result()])


class _Communicators:
    """The communicators of the roles."""

    def __init__(self, world: World, assignment: Assignment):
        comm = world.communicator
        self.all = comm
        self.assignment = assignment
        self.orders = self._among(comm, (assignment.master, *assignment.workers))
        """the master and the workers"""
        self.data = [
            self._among(comm, (reader, *assignment.workers)) for reader in assignment.readers
        ]
        """each reader and the workers"""
        self.number = (
            assignment.readers.index(world.rank) if world.rank in assignment.readers else -1
        )
        """of this rank among the readers"""
        self._end: Any = None
        """the request of `end`"""

    def end(self) -> None:
        """Wait, asleep, until all ranks are here. Collective; may be begun again where it was
        interrupted.
        """
        if self._end is None:
            self._end = self.all.Ibarrier()
        _await(self._end)

    @staticmethod
    def _among(comm: Any, ranks: tuple[int, ...]) -> Any:
        """Return a communicator of some ranks, in this order; null on the others. Collective."""
        from mpi4py import MPI

        is_in = comm.rank in ranks
        return comm.Split(0 if is_in else MPI.UNDEFINED, ranks.index(comm.rank) if is_in else 0)


def _await(request: Any, look: Callable[[], None] = lambda: None) -> None:
    """Wait for a message, asleep most of the time. look: is called between looks at it."""
    nap_s = 1e-5
    while not request.Test():
        time.sleep(nap_s)
        nap_s = min(2 * nap_s, LONGEST_NAP_S)
        look()


@contextmanager
def _ending_with_the_viewer(comms: _Communicators) -> Iterator[None]:
    """Where all ranks are interrupted in this block, have them wait for each other: the first one
    to leave would end the viewer in the middle of what it publishes.
    """
    try:
        yield
    except KeyboardInterrupt:
        comms.end()
        raise


def _message(agreed: Agreement) -> np.ndarray:
    """Return an empty message of the master or a reader: its head and the ids of the shots."""
    return np.zeros(N_HEAD + agreed.block_shots, np.int64)


def _work_as_reader(reader: Reader, comms: _Communicators, agreed: Agreement) -> None:
    """Read blocks, one ahead, and send them when it is this reader's turn."""
    from mpi4py import MPI

    master = comms.assignment.master
    data = comms.data[comms.number]
    packets = reader.packets(comms.number, len(comms.assignment.readers))
    packet = next(packets, None)
    while packet is not None:
        n = len(packet.shot_ids)
        message = _message(agreed)
        last_shot_id = packet.shot_ids[-1] if n else 0
        message[:N_HEAD] = (BLOCK, comms.number, n, packet.n_dropped, last_shot_id)
        message[N_HEAD : N_HEAD + n] = packet.shot_ids
        announced = comms.all.Isend(message, master, READY_TAG)
        ahead = next(packets, None)
        _await(announced)
        _await(comms.all.Irecv(np.empty(0, np.int64), master, GO_TAG))
        sizes = [0, *(n * width for width in agreed.widths)]
        own = np.empty(0, np.float32)
        _await(data.Iscatterv([packet.pixels, sizes, MPI.FLOAT], own, root=0))
        packet = ahead
    message = _message(agreed)
    message[0] = END
    _await(comms.all.Isend(message, master, READY_TAG))


def _work_as_master(comms: _Communicators, agreed: Agreement) -> None:
    """Say whose block comes, and when results are wanted."""
    updates = _Updates(agreed.update_shots)
    for message in _in_turn(comms, agreed):
        _await(comms.orders.Ibcast(message, root=0))
        _await(comms.all.Isend(np.empty(0, np.int64), _rank_of(comms, message), GO_TAG))
        _, _, n, n_dropped, last_shot_id = message[:N_HEAD].tolist()
        if updates.sent(n, n_dropped, last_shot_id):
            _order(comms, agreed, UPDATE, updates.update(is_last=False))
    _order(comms, agreed, END, updates.update(is_last=True))


def _rank_of(comms: _Communicators, message: np.ndarray) -> int:
    """Return the rank of the reader that a message is from."""
    return comms.assignment.readers[message[1]]


def _order(comms: _Communicators, agreed: Agreement, what: int, update: Update) -> None:
    """Ask workers and viewer for an update, the last one where all is over."""
    message = _message(agreed)
    message[:N_HEAD] = (what, 0, update.n_shots, update.n_dropped, update.last_shot_id)
    to_viewer = comms.all.Isend(message, comms.assignment.viewer, ORDER_TAG)
    _await(comms.orders.Ibcast(message, root=0))
    _await(to_viewer)


def _in_turn(comms: _Communicators, agreed: Agreement) -> Iterator[np.ndarray]:
    """Yield the messages of readers with a block in the order in which the blocks shall be sent."""
    readers = comms.assignment.readers
    waiting = {}
    for number in range(len(readers)):
        message = _message(agreed)
        waiting[number] = (message, comms.all.Irecv(message, readers[number], READY_TAG))
    turn = 0
    while waiting:
        if agreed.takes_turns:
            while turn not in waiting:
                turn = (turn + 1) % len(readers)
            chosen = turn
            turn = (turn + 1) % len(readers)
            _await(waiting[chosen][1])
        else:
            for _, request in waiting.values():
                _await(request)
            chosen = min(waiting, key=lambda number: waiting[number][0][N_HEAD])
        message = waiting.pop(chosen)[0]
        if message[0] == END:
            continue
        following = _message(agreed)
        waiting[chosen] = (following, comms.all.Irecv(following, readers[chosen], READY_TAG))
        yield message


def _work_as_worker(worker: Worker, comms: _Communicators, agreed: Agreement) -> None:
    """Take in blocks, and send what there is when it is wanted."""
    from mpi4py import MPI

    viewer = comms.assignment.viewer
    width = agreed.widths[comms.orders.rank - 1]
    message = _message(agreed)
    kept = np.empty(agreed.block_shots * width, np.float32)
    sent: list[Any] = []
    while message[0] != END:
        _await(comms.orders.Ibcast(message, root=0))
        if message[0] == BLOCK:
            number, n = message[1:3].tolist()
            pixels = kept[: n * width]
            _await(comms.data[number].Iscatterv(None, [pixels, MPI.FLOAT], root=0))
            if n:
                worker.take(message[N_HEAD : N_HEAD + n], pixels.reshape(n, width))
            continue
        for request in sent:
            _await(request)
        result = worker.result()
        sent = [comms.all.Isend(part, viewer, RESULT_TAG + i) for i, part in enumerate(result)]
    for request in sent:
        _await(request)


def _work_as_viewer(viewer: Viewer, comms: _Communicators, agreed: Agreement) -> None:
    """Receive results, and have them published by a thread of their own."""
    message = _message(agreed)
    with _publishing(viewer, MOST_WAITING) as publisher:
        while message[0] != END:
            request = comms.all.Irecv(message, comms.assignment.master, ORDER_TAG)
            _await(request, publisher.check)
            results = _received(comms, agreed, publisher)
            n_shots, n_dropped, last_shot_id = message[2:N_HEAD].tolist()
            update = Update(n_shots, n_dropped, last_shot_id, bool(message[0] == END))
            publisher.put(update, results)


def _received(comms: _Communicators, agreed: Agreement, publisher: "_Publisher") -> list[Result]:
    """Receive the results of all workers."""
    results = []
    for rank, width in zip(comms.assignment.workers, agreed.widths, strict=True):
        result = Result(
            values=np.empty((agreed.n_arrays, agreed.n_delays, width)),
            numbers=np.empty(agreed.n_numbers, np.int64),
            flags=np.empty(width, np.int8),
            totals=np.empty(agreed.n_totals),
        )
        for i, part in enumerate(result):
            _await(comms.all.Irecv(part, rank, RESULT_TAG + i), publisher.check)
        results.append(result)
    return results


class _Publisher:
    """Publishes results in their order in a thread. most_waiting: results that may wait when `put`
    returns, beside the one that is published; 0 = it is published, too.
    """

    def __init__(self, viewer: Viewer, thread: ThreadPoolExecutor, most_waiting: int):
        self._viewer = viewer
        self._thread = thread
        self._most = most_waiting + 1 if most_waiting else 0
        self._unpublished: deque[Future] = deque()

    def check(self) -> None:
        """Raise the error of a publication that failed."""
        while self._unpublished and self._unpublished[0].done():
            self._unpublished.popleft().result()

    def put(self, update: Update, results: list[Result]) -> None:
        """Hand over results; wait where too many wait already. Raises as `check`."""
        self._unpublished.append(self._thread.submit(self._viewer.publish, update, results))
        self.wait(self._most)

    def wait(self, most: int = 0) -> None:
        """Wait until no more than so many are unpublished. Raises as `check`."""
        while len(self._unpublished) > most:
            self._unpublished[0].result()
            self._unpublished.popleft()

    def drop(self) -> None:
        """Drop what waits, and finish what is being published."""
        futures.wait([one for one in self._unpublished if not one.cancel()])


@contextmanager
def _publishing(viewer: Viewer, most_waiting: int) -> Iterator[_Publisher]:
    """Provide a publisher; in the end wait until it has published all that it was handed. Where the
    block is broken off, what it is publishing is finished, and what waits is dropped. Results are
    waited for, not their thread: an interrupted wait for a thread counts it as ended.
    """
    with ThreadPoolExecutor(1) as thread:
        publisher = _Publisher(viewer, thread, most_waiting)
        try:
            yield publisher
            publisher.wait()
        except BaseException:
            publisher.drop()
            raise
