"""What every source of shots offers: the next block, with shot ids, images and monitors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np


class Event(NamedTuple):
    """A shot before its image is read."""

    shot_id: int
    """its time, in units of the source's own clock"""
    number: int
    """its place in the source, in order of arrival"""
    monitors: Mapping[str, Any] = {}
    """what else was recorded with it, by name: a number or an array"""


class Block(NamedTuple):
    """Shots in order of arrival."""

    events: Sequence[Event]
    """the shots; their ids may have gaps, come twice or out of order"""
    images: np.ndarray
    """(shot, ...) float32, each in the shape of the detector; anything where not valid, and as soon
    as the next block is asked for
    """
    is_valid: np.ndarray
    """(shot,) bool, False where a shot was refused or can not be read"""
    problems: Sequence[str] = ()
    """for the log: why shots can't be read, each cause once in all blocks of a reader"""

    @property
    def shot_ids(self) -> np.ndarray:
        """(shot,) int64 times of the shots."""
        return np.array([event.shot_id for event in self.events], np.int64)


Accepts = Callable[[Event], bool]
"""Whether the image of a shot shall be read."""


class Unreadable(Exception):
    """Why a shot can't be read: it is dropped and counted, and those after it are read."""


MOST_CAUSES = 20
"""Causes of shots that can't be read that a reader logs: a person is to read them."""


class Filling:
    """A block that is filled with one shot after the other. All blocks lie in the same memory: to
    get as much anew takes as long as to read it. n_shots: of a block, at most.
    """

    def __init__(self, n_shots: int, shape: tuple[int, ...]):
        self._images = np.empty((n_shots, *shape), np.float32)
        self._events: list[Event] = []
        self._is_valid: list[bool] = []
        self._problems: list[str] = []
        self._causes: set[str] = set()
        """those among the problems of all blocks"""

    def __len__(self) -> int:
        """Return the number of its shots."""
        return len(self._events)

    @property
    def is_full(self) -> bool:
        """Whether no other shot fits in."""
        return len(self) == len(self._images)

    def add(self, event: Event, accepts: Accepts, read: Callable[[np.ndarray], None]) -> None:
        """Add a shot. read: sets an array to its image, and raises Unreadable where it can't; it is
        called where the shot is accepted.
        """
        is_valid = accepts(event)
        if is_valid:
            try:
                read(self._images[len(self)])
            except Unreadable as error:
                is_valid = False
                self._note(event.number, error)
        self._events.append(event)
        self._is_valid.append(is_valid)

    def lose(self, number: int, why: Unreadable) -> None:
        """Add a shot of which nothing can be read, not even its id."""
        self._note(number, why)
        self._events.append(Event(number, number))
        self._is_valid.append(False)

    def block(self) -> Block:
        """Return the block, and begin the next one."""
        is_valid = np.array(self._is_valid, bool)
        block = Block(self._events, self._images[: len(self)], is_valid, self._problems)
        self._events, self._is_valid, self._problems = [], [], []
        return block

    def _note(self, number: int, why: Unreadable) -> None:
        """Keep a cause for the log, once, and not too many."""
        cause = str(why)
        if cause in self._causes or len(self._causes) == MOST_CAUSES:
            return
        self._causes.add(cause)
        last = "; other causes are not logged" if len(self._causes) == MOST_CAUSES else ""
        self._problems.append(f"shot {number} can't be read, and is dropped: {cause}{last}")


class Source(Protocol):
    """Shots that several readers share: of each block, one reads the images."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image."""

    def blocks(self, reader: int, n_readers: int, accepts: Accepts) -> Iterator[Block]:
        """Yield the blocks of one reader, of several that share the shots between them."""


def each(source: Source) -> Iterator[tuple[Event, np.ndarray]]:
    """Yield the shots of a source that can be read with their images, which last until the next
    one.
    """
    for block in source.blocks(0, 1, lambda _event: True):
        for i in np.flatnonzero(block.is_valid).tolist():
            yield block.events[i], block.images[i]


def slices(n_shots: int, block_shots: int, reader: int, n_readers: int) -> Iterator[slice]:
    """Yield the blocks of one reader among shots that are counted: those whose number is `reader`
    modulo `n_readers`.
    """
    for first in range(reader * block_shots, n_shots, n_readers * block_shots):
        yield slice(first, min(first + block_shots, n_shots))
