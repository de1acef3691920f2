"""Shots of LCLS-II as they are written to disk or were, by psana-2.

What is read of an event is named as psana has it: `DETECTOR.INTERFACE.METHOD`, such as
`jungfrau.raw.calib` or `timing.raw.pulseId`. Every reader goes through all events, whose large data
psana leaves on disk, and reads the images of its own blocks.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from spreadflow.errors import FileError
from spreadflow.stream.shots import Accepts, Block, Event

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
            self.image = self._named(run.image)
            self.shot_id = None if run.shot_ids is None else self._named(run.shot_ids)
            self.monitors = {name: self._named(path) for name, path in run.monitors.items()}
        except Exception as error:  # whatever psana raises
            raise FileError(where, "a run that psana-2 can read", repr(error), ABOUT) from None

    def _named(self, path: str) -> Callable[[Any], Any]:
        """Return the method that a name stands for."""
        detector, _, method = path.partition(".")
        return attrgetter(method)(self._run.Detector(detector))

    def events(self) -> Iterator[tuple[Event, Any]]:
        """Yield the events with what psana calls one."""
        for number, evt in enumerate(self._run.events()):
            shot_id = number if self.shot_id is None else int(self.shot_id(evt))
            monitors = {name: value(evt) for name, value in self.monitors.items()}
            yield Event(shot_id, number, monitors), evt


class PsanaShots:
    """The events of a run. n_shots: the first so many alone; 0 = all. Raises FileError."""

    def __init__(self, run: Run, block_shots: int, n_shots: int = 0):
        self._run = run
        self._block_shots = block_shots
        self._n_shots = n_shots
        values = _Values(run)
        images = (values.image(evt) for _, evt in values.events())
        first = next((image for image in images if image is not None), None)
        if first is None:
            raise FileError(run.experiment, f"an event with {run.image}", "none", ABOUT)
        self.shape = np.shape(first)

    def blocks(self, reader: int, n_readers: int, accepts: Accepts) -> Iterator[Block]:
        """Yield the blocks of one reader, as `Source`: those whose number is `reader` modulo
        `n_readers`. An event without an image, or with one of another shape, is not valid.
        """
        values = _Values(self._run)
        together = np.empty((self._block_shots, *self.shape), np.float32)
        events: list[Event] = []
        is_valid: list[bool] = []
        for event, evt in values.events():
            if event.number == (self._n_shots or np.inf):
                break
            if event.number // self._block_shots % n_readers != reader:
                continue
            image = values.image(evt) if accepts(event) else None
            is_valid.append(image is not None and np.shape(image) == self.shape)
            if is_valid[-1]:
                together[len(events)] = image
            events.append(event)
            if len(events) == self._block_shots:
                yield Block(events, together, np.array(is_valid, bool))
                events = []
                is_valid = []
        if events:
            yield Block(events, together[: len(events)], np.array(is_valid, bool))
