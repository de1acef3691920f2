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

    @property
    def shot_ids(self) -> np.ndarray:
        """(shot,) int64 times of the shots."""
        return np.array([event.shot_id for event in self.events], np.int64)


Accepts = Callable[[Event], bool]
"""Whether the image of a shot shall be read."""


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
