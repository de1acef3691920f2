"""Shots of LCLS-II, by a stand-in for psana-2 that has its names and arguments."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from spreadflow.errors import FileError
from spreadflow.stream.psana2 import PsanaShots, Run

SHAPE = (2, 4, 6)
N_EVENTS = 11
LOST = 3
"""Number of the event in which the detector was not read out."""

RUN = Run(
    experiment="mfx1",
    run=20,
    folder="/data",
    is_live=True,
    image="jungfrau.raw.calib",
    shot_ids="timing.raw.pulseId",
    monitors={"pulse_energy": "gmd.raw.milliJoulesPerPulse"},
)


def image(number: int) -> np.ndarray | None:
    """What the detector recorded in an event."""
    return None if number == LOST else np.full(SHAPE, number, np.float64)


@pytest.fixture
def psana(monkeypatch) -> ModuleType:
    """The stand-in: an event is its number. `calls` is what it was asked for, `read` are the events
    whose images were read.
    """
    module = ModuleType("psana")
    module.xtc_version = 2
    module.calls = []
    module.read = []

    def calib(evt: int) -> np.ndarray | None:
        module.read.append(evt)
        return image(evt)

    detectors = {
        "jungfrau": {"calib": calib},
        "timing": {"pulseId": lambda evt: 1000 + 13 * evt},
        "gmd": {"milliJoulesPerPulse": lambda evt: evt / 2},
    }

    def detector(name: str) -> SimpleNamespace:
        return SimpleNamespace(raw=SimpleNamespace(**detectors[name]))

    def data_source(**how: object) -> SimpleNamespace:
        module.calls.append(how)
        run = SimpleNamespace(Detector=detector, events=lambda: iter(range(N_EVENTS)))
        return SimpleNamespace(runs=lambda: iter([run]))

    module.DataSource = data_source
    monkeypatch.setitem(sys.modules, "psana", module)
    return module


@pytest.mark.parametrize("n_readers", [1, 2])
def test_readers_share_the_events_by_blocks(psana, n_readers):
    source = PsanaShots(RUN, block_shots=4)
    assert source.shape == SHAPE
    assert psana.calls[0] == {"exp": "mfx1", "run": 20, "dir": "/data", "live": True}
    found = {}
    for reader in range(n_readers):
        for block in source.blocks(reader, n_readers, lambda _event: True):
            assert block.events[0].number // 4 % n_readers == reader
            for event, pixels, is_valid in zip(
                block.events, block.images, block.is_valid, strict=True
            ):
                found[event.number] = (event, pixels.copy(), is_valid)
    assert sorted(found) == list(range(N_EVENTS))
    for number, (event, pixels, is_valid) in found.items():
        assert event.shot_id == 1000 + 13 * number
        assert event.monitors == {"pulse_energy": number / 2}
        assert is_valid == (number != LOST)
        assert number == LOST or (pixels == number).all()


def test_the_image_of_a_refused_event_is_not_read(psana):
    source = PsanaShots(RUN, block_shots=4, n_shots=9)
    psana.read.clear()
    blocks = list(source.blocks(0, 1, lambda event: event.monitors["pulse_energy"] >= 3))
    assert [len(block.events) for block in blocks] == [4, 4, 1]
    assert psana.read == [6, 7, 8]


BROKEN, UNTIMED, OTHER = 4, 5, 6
"""Numbers of events whose image, whose time and whose shape is not as of the others."""


@pytest.fixture
def broken_psana(psana, monkeypatch) -> ModuleType:
    """The stand-in with events that can't be read."""

    def calib(evt: int) -> np.ndarray | None:
        if evt in (0, BROKEN):
            raise RuntimeError("no constants")
        return np.ones(3) if evt == OTHER else image(evt)

    detectors = {
        "jungfrau": {"calib": calib},
        "timing": {"pulseId": lambda evt: None if evt == UNTIMED else evt},
        "gmd": {"milliJoulesPerPulse": lambda evt: evt / 2},
    }

    def data_source(**_how: object) -> SimpleNamespace:
        def detector(name: str) -> SimpleNamespace:
            return SimpleNamespace(raw=SimpleNamespace(**detectors[name]))

        run = SimpleNamespace(Detector=detector, events=lambda: iter(range(N_EVENTS)))
        return SimpleNamespace(runs=lambda: iter([run]))

    monkeypatch.setattr(psana, "DataSource", data_source)
    return psana


def test_an_event_that_can_not_be_read_is_dropped_and_says_why(broken_psana):
    (block,) = PsanaShots(RUN, block_shots=20).blocks(0, 1, lambda _event: True)
    lost = [0, LOST, BROKEN, UNTIMED, OTHER]
    np.testing.assert_array_equal(np.flatnonzero(~block.is_valid), lost)
    assert len(block.problems) == len(lost) - 1  # of two events the cause is the same
    assert "no constants" in block.problems[0]
    assert "shape (3,)" in block.problems[-1]


def test_where_no_event_has_an_image_there_is_an_error(broken_psana, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "N_EVENTS", 1)
    with pytest.raises(FileError, match=r"expected an event with jungfrau\.raw\.calib; .*no const"):
        PsanaShots(RUN, 4)


def test_without_psana_or_what_is_named_there_is_one_error(psana, monkeypatch):
    with pytest.raises(FileError, match="a run that psana-2 can read"):
        PsanaShots(RUN._replace(image="epix.raw.calib"), 4)
    psana.xtc_version = 1
    with pytest.raises(FileError, match="expected psana-2; found psana-1"):
        PsanaShots(RUN, 4)
    monkeypatch.setitem(sys.modules, "psana", None)
    with pytest.raises(FileError, match="pip install psana"):
        PsanaShots(RUN, 4)
