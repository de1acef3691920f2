"""Events of LCLS by psana, which has two generations under one name: psana-1 reads XTC, psana-2
reads XTC2. This module alone knows either. Both are used one event at a time, by its number, in one
process; whatever they raise comes through.
"""

import os
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images.locator import ABOUT_LOCATORS, Locator

TO_INSTALL = (
    "Install psana: for XTC2 `pip install psana`, for XTC `conda install -c conda-forge psana`."
)
"""What to do where it is missing."""

VERTICAL_SINCE = datetime(2020, 7, 1, tzinfo=UTC).timestamp()
"""Since when the undulators of hard X-rays at LCLS polarize along y, s since 1970."""


class XtcEvents:
    """The events of XTC files, by psana-1."""

    def __init__(self, psana: Any, locator: Locator):
        if locator.calib_dir:
            psana.setOption("psana.calib-dir", locator.calib_dir)
        runs = ",".join(map(str, locator.run))
        folder = f":dir={locator.dir}" if locator.dir else ""
        source = locator.data_source or f"exp={locator.experiment}:run={runs}:idx{folder}"
        self._psana = psana
        self._event = lru_cache(maxsize=1)(self._read_event)
        self._source = psana.DataSource(source)
        events = [(run, time) for run in self._source.runs() for time in run.times()]
        self._events = events[: locator.n_events]
        self.n_events = len(self._events)
        self._address = locator.detector_address
        self._detectors: dict[int, Any] = {}
        self._ebeam = psana.Detector("EBeam")

    @property
    def polarization(self) -> float:
        """Kahn's K along the lab x axis, by the date of the first event."""
        seconds, _ = self._event(0).get(self._psana.EventId).time()
        return -1.0 if seconds >= VERTICAL_SINCE else 1.0

    def image(self, number: int) -> np.ndarray | None:
        """Return what the detector recorded, calibrated: (slow, fast), or modules of such; None
        where it was not read out.
        """
        return self._detector(number).calib(self._event(number))

    def good(self, number: int) -> np.ndarray | None:
        """Return which pixels of `image` may be used; None where that is not known."""
        return self._detector(number).mask(self._event(number), calib=True, status=True)

    def energy_ev(self, number: int) -> float | None:
        """Return the photon energy that the machine states; None where it states none."""
        ebeam = self._ebeam.get(self._event(number))
        return None if ebeam is None else ebeam.ebeamPhotonEnergy()

    def close(self) -> None:
        """Forget the events, whose files psana closes."""
        self._events = []

    def _read_event(self, number: int) -> Any:
        """Return an event, whose pixels and energy are asked for one after the other."""
        run, time = self._events[number]
        return run.event(time)

    def _detector(self, number: int) -> Any:
        """Return the detector, with the constants of the run of an event."""
        run, _ = self._events[number]
        key = run.run()
        if key not in self._detectors:
            self._detectors[key] = self._psana.Detector(self._address, run.env())
        return self._detectors[key]


class Xtc2Events:
    """The events of XTC2 files, by psana-2; methods as of `XtcEvents`."""

    polarization = -1.0
    """Kahn's K along the lab x axis: all are of later years"""

    def __init__(self, psana: Any, locator: Locator):
        self._event = lru_cache(maxsize=1)(self._read_event)
        folder = {"dir": locator.dir} if locator.dir else {}
        self._source = psana.DataSource(exp=locator.experiment, run=locator.run[0], **folder)
        self._run = next(iter(self._source.runs()))
        self._table = ExitStack()
        self._table.enter_context(self._run.build_table())
        self._times = sorted(self._run._ts_table)[: locator.n_events]
        self.n_events = len(self._times)
        self._detector = self._run.Detector(locator.detector_address)
        has_energies = "ebeam" in self._run.detnames
        self._ebeam = self._run.Detector("ebeam") if has_energies else None

    def image(self, number: int) -> np.ndarray | None:
        return self._detector.raw.calib(self._event(number))

    def good(self, number: int) -> np.ndarray | None:
        has_mask = hasattr(self._detector.raw, "_mask_comb")  # not every kind of detector has
        return self._detector.raw._mask_comb(status=True, calib=True) if has_mask else None

    def energy_ev(self, number: int) -> float | None:
        if self._ebeam is None:
            return None
        return self._ebeam.raw.ebeamPhotonEnergy(self._event(number))

    def close(self) -> None:
        self._table.close()

    def _read_event(self, number: int) -> Any:
        return self._run.event(self._times[number])


def open_events(where: object, locator: Locator) -> XtcEvents | Xtc2Events:
    """Return the events of a locator, by the psana that is installed. where: the locator, for
    errors. Raises FileError where there is none, or it can't read them.
    """
    os.environ.setdefault("PS_PARALLEL", "none")  # else psana-2 uses our ranks as its own
    try:
        import psana
    except Exception as error:  # outside its environment psana-1 raises more than ImportError
        raise FileError(where, "psana, which reads files of LCLS", error, TO_INSTALL) from None
    is_second = getattr(psana, "xtc_version", 1) == 2
    if is_second and (len(locator.run) != 1 or locator.data_source or locator.calib_dir):
        expected = "experiment and one run, without data_source and calib_dir, for psana-2"
        raise FileError(where, expected, "others", ABOUT_LOCATORS)
    try:
        return Xtc2Events(psana, locator) if is_second else XtcEvents(psana, locator)
    except Exception as error:
        expected = f"a run that psana-{2 if is_second else 1} can read"
        raise FileError(where, expected, repr(error), ABOUT_LOCATORS) from None
