"""Shots of LCLS-II as they are written to disk or were, by psana-2.

What is read of an event is named as psana has it: `DETECTOR.INTERFACE.METHOD`, such as
`jungfrau.raw.calib` or `timing.raw.pulseId`. Every reader goes through all events, whose large data
psana leaves on disk, and reads the images of its own blocks.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from spreadflow.errors import FileError
from spreadflow.stream.shots import Accepts, Block, Event, Filling, Unreadable

TO_INSTALL = "Install it: pip install psana. XTC of psana-1: docs/files.md, XTC."
"""What to do where psana-2 is missing."""

ABOUT = "Check correlate.psana, dataset, shot_ids and monitors."
"""What to do where it can't read what is named."""


class Run(NamedTuple):
    """Which events are read, and what of them."""

    experiment: str
    run: int
    folder: str | None
    """of the files; None = where psana looks for them"""
    is_live: bool
    """whether it is still being written"""
    image: str
    shot_ids: str | None
    """None = they are counted"""
    monitors: Mapping[str, str]


class _Values:
    """What is read of the events of a run, by name."""

    def __init__(self, run: Run):
        os.environ.setdefault("PS_PARALLEL", "none")  # else psana uses our ranks as its own
        where = f"exp={run.experiment}, run={run.run}"
        try:
            import psana
        except Exception as error:  # outside its environment psana-1 raises more than ImportError
            raise FileError(where, "psana-2", error, TO_INSTALL) from None
        if getattr(psana, "xtc_version", 1) != 2:
            raise FileError(where, "psana-2", "psana-1", TO_INSTALL)
        folder = {"dir": run.folder} if run.folder else {}
        live = {"live": True} if run.is_live else {}
        try:
            source = psana.DataSource(exp=run.experiment, run=run.run, **folder, **live)
            self._run = next(iter(source.runs()))
            self._image = self._named(run.image)
            self._shot_id = None if run.shot_ids is None else self._named(run.shot_ids)
            self._monitors = {name: self._named(path) for name, path in run.monitors.items()}
        except Exception as error:  # whatever psana raises
            raise FileError(where, "a run that psana-2 can read", repr(error), ABOUT) from None

    def _named(self, path: str) -> Callable[[Any], Any]:
        """Return the method that a name stands for."""
        detector, _, method = path.partition(".")
        return attrgetter(method)(self._run.Detector(detector))

    def events(self) -> Iterator[tuple[int, Any]]:
        """Yield the numbers of the events, with what psana calls one."""
        yield from enumerate(self._run.events())

    def event(self, number: int, evt: Any) -> Event:
        """Return the shot of an event. Raises Unreadable."""
        with _reading():
            shot_id = number if self._shot_id is None else int(self._shot_id(evt))
            return Event(shot_id, number, {name: v(evt) for name, v in self._monitors.items()})

    def image(self, evt: Any) -> np.ndarray:
        """Return the image of an event. Raises Unreadable."""
        with _reading():
            image = self._image(evt)
            if image is None:
                raise Unreadable("the detector was not read out")
            return np.asarray(image)


@contextmanager
def _reading() -> Iterator[None]:
    """Raise Unreadable in place of whatever psana raises."""
    try:
        yield
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(repr(error)) from None


class PsanaShots:
    """The events of a run. n_shots: the first so many alone; 0 = all. Raises FileError where none
    has an image.
    """

    def __init__(self, run: Run, block_shots: int, n_shots: int = 0):
        self._run = run
        self._block_shots = block_shots
        self._n_shots = n_shots
        self.shape = self._first_shape(_Values(run))

    def _first_shape(self, values: _Values) -> tuple[int, ...]:
        """Return the shape of the first image. Raises FileError."""
        why: object = "no event"
        for _, evt in values.events():
            try:
                return values.image(evt).shape
            except Unreadable as error:
                why = error
        expected = f"an event with {self._run.image}"
        raise FileError(self._run.experiment, expected, why, ABOUT)

    def blocks(self, reader: int, n_readers: int, accepts: Accepts) -> Iterator[Block]:
        """Yield the blocks of one reader, as `Source`: those whose number is `reader` modulo
        `n_readers`. An event without an image, or with one of another shape, is not valid.
        """
        values = _Values(self._run)
        filling = Filling(self._block_shots, self.shape)
        for number, evt in values.events():
            if number == (self._n_shots or np.inf):
                break
            if number // self._block_shots % n_readers != reader:
                continue
            try:
                event = values.event(number, evt)
            except Unreadable as error:
                filling.lose(number, error)
            else:
                filling.add(event, accepts, partial(self._read, values, evt))
            if filling.is_full:
                yield filling.block()
        if len(filling):
            yield filling.block()

    def _read(self, values: _Values, evt: Any, image: np.ndarray) -> None:
        """Set an array to the image of an event. Raises Unreadable."""
        pixels = values.image(evt)
        if pixels.shape != self.shape:
            raise Unreadable(f"its image has shape {pixels.shape}, not {self.shape}")
        image[:] = pixels
