"""Stand-ins for psana-1 and psana-2: what the reader uses of them, on events in memory.

They have the names and arguments of the two packages (psana-1 as dxtbx calls it, psana-2 4.3), and
nothing of their behaviour beyond that: events without an image or a photon energy, an event that
can't be read, and the constants of a run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np

SHAPE = (2, 4, 6)
"""(module, slow, fast)"""
LOST = 1
"""Number of the event in which the detector was not read out; the machine states no energy."""
BROKEN = 3
"""Number of the event that can't be read."""
N_EVENTS = 4
BAD = (1, 2, 3)
"""A bad pixel."""
RUN = 20
ADDRESS = "CxiDs1.0:Cspad.0"
BEFORE = 1_400_000_000
AFTER = 1_650_000_000
"""Seconds since 1970 of events with the older and the newer undulators."""


def image(number: int) -> np.ndarray | None:
    """What the detector recorded in an event."""
    if number == LOST:
        return None
    return np.random.default_rng(number).normal(3, 2, SHAPE).astype(np.float32)


def energy_ev(number: int) -> float:
    return 7120.0 + number


def good() -> np.ndarray:
    mask = np.ones(SHAPE, np.uint8)
    mask[BAD] = 0
    return mask


class _Detector:
    """A detector of psana-1 at an event, which is its number."""

    def __init__(self, address: str):
        assert address == ADDRESS

    def calib(self, event: "_Event") -> np.ndarray | None:
        return image(event.number)

    def mask(self, event: "_Event", calib: bool = False, status: bool = False) -> np.ndarray:
        assert calib and status
        return good()


class _Ebeam:
    """The machine, of psana-1."""

    def get(self, event: "_Event") -> SimpleNamespace | None:
        if event.number == LOST:
            return None
        return SimpleNamespace(ebeamPhotonEnergy=lambda: energy_ev(event.number))


class _Event:
    """An event of psana-1."""

    def __init__(self, number: int, seconds: int):
        self.number = number
        self._seconds = seconds

    def get(self, kind: object) -> SimpleNamespace:
        return SimpleNamespace(time=lambda: (self._seconds, 0))


class _Run:
    """A run of psana-1."""

    read: ClassVar[list[int]] = []
    """numbers of the events that were read"""

    def __init__(self, seconds: int):
        self._seconds = seconds

    def run(self) -> int:
        return RUN

    def env(self) -> str:
        return "environment"

    def times(self) -> list[int]:
        return list(range(N_EVENTS))

    def event(self, time: int) -> _Event:
        self.read.append(time)
        if time == BROKEN:
            raise RuntimeError("a damaged datagram")
        return _Event(time, self._seconds)


def first(seconds: int = BEFORE) -> ModuleType:
    """psana-1, with a run of this time; `calls` are what it was asked for."""
    module = ModuleType("psana")
    module.calls = []

    def data_source(text: str) -> SimpleNamespace:
        module.calls.append(text)
        return SimpleNamespace(runs=lambda: iter([_Run(seconds)]))

    def detector(address: str, environment: str | None = None) -> _Detector | _Ebeam:
        return _Ebeam() if address == "EBeam" else _Detector(address)

    module.setOption = lambda name, value: module.calls.append((name, value))
    module.DataSource = data_source
    module.Detector = detector
    module.EventId = "EventId"
    return module


class _Run2:
    """A run of psana-2, whose events are known by times in any order."""

    detnames = frozenset({"ebeam", ADDRESS})
    read = _Run.read

    def __init__(self):
        self._ts_table = None

    @contextmanager
    def build_table(self) -> Iterator[bool]:
        self._ts_table = {100 + number: {} for number in reversed(range(N_EVENTS))}
        yield True

    def event(self, time: int) -> int:
        self.read.append(time - 100)
        if time - 100 == BROKEN:
            raise OSError("a truncated file")
        return time - 100

    def Detector(self, name: str) -> SimpleNamespace:
        if name == "ebeam":
            energy = {"ebeamPhotonEnergy": lambda n: None if n == LOST else energy_ev(n)}
            return SimpleNamespace(raw=SimpleNamespace(**energy))
        assert name == ADDRESS
        raw = SimpleNamespace(calib=image, _mask_comb=lambda status, calib: good())
        return SimpleNamespace(raw=raw)


def second() -> ModuleType:
    """psana-2; `calls` are what it was asked for."""
    module = ModuleType("psana")
    module.calls = []
    module.xtc_version = 2

    def data_source(**how: object) -> SimpleNamespace:
        module.calls.append(how)
        return SimpleNamespace(runs=lambda: iter([_Run2()]))

    module.DataSource = data_source
    return module
