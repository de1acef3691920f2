"""Locators: text files that name events of LCLS, `key = value` in each line, as cctbx.xfel and
dxtbx have them. A number sign begins a comment; the value None is as no line.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from spreadflow.errors import FileError
from spreadflow.io.images import content

FIRST_KEY = re.compile(rb"^[ \t]*(experiment|data_source)[ \t]*=", re.MULTILINE)
"""A line by which a locator is known."""

NOTHING = ("", "None", "False", "0")
"""Values that are as if the line were not there."""

PASSED_OVER = ("mode", "cspad.", "jungfrau.", "rayonix.")
"""Beginnings of keys that say how dxtbx reads events, or what it makes geometry of."""

ABOUT_LOCATORS = "See docs/files.md, XTC."
"""What to do about a locator that is not as described there."""


class Locator(NamedTuple):
    """The events that a file names; empty texts where psana is to choose."""

    experiment: str = ""
    run: tuple[int, ...] = ()
    detector_address: str = ""
    """the detector, by name or address"""
    data_source: str = ""
    """in the words of psana-1, in place of experiment and runs"""
    dir: str = ""
    """folder of the XTC files"""
    calib_dir: str = ""
    """folder of the constants, of psana-1"""
    n_events: int | None = None
    """the first so many; None = all"""
    geometry: str = ""
    """.expt or .geom, relative to the locator"""
    wavelength_offset: float = 0.0
    """Å, added to the wavelength that the machine states"""


def is_locator(beginning: bytes) -> bool:
    """Whether a file that begins so is a locator."""
    return b"\0" not in beginning and FIRST_KEY.search(beginning) is not None


def read_locator(path: Path) -> Locator:
    """Return the events that a file names. Raises FileError for a line that makes no sense, and
    where experiment, run or detector_address is missing.
    """
    settings: dict[str, Any] = {}
    for line in content.whole(path).decode("latin-1").splitlines():
        key, sign, value = (part.strip() for part in line.partition("#")[0].partition("="))
        value = value.strip("\"'")
        is_empty = not key if not sign else value in NOTHING
        if is_empty or key.startswith(PASSED_OVER):
            continue
        if not sign or key not in Locator._fields or key in settings:
            expected = f"lines `key = value`, each once, of {', '.join(Locator._fields)}"
            raise FileError(path, expected, repr(line), "Leave it out: it is not understood.")
        settings[key] = _read_value(path, key, value)

    locator = Locator()._replace(**settings)
    has_events = bool(locator.data_source or (locator.experiment and locator.run))
    if not has_events or not locator.detector_address:
        expected = "experiment, run and detector_address"
        raise FileError(path, expected, ", ".join(settings) or "none", ABOUT_LOCATORS)
    return locator


def _read_value(path: Path, key: str, value: str) -> str | float | tuple[int, ...]:
    """Return a value in the type of its key. Raises FileError."""
    forms = {"run": r"\d{1,9}([\s,]+\d{1,9})*", "n_events": r"\d{1,9}"}
    forms["wavelength_offset"] = r"[+-]?\d*\.?\d+"
    if re.fullmatch(forms.get(key, ".*"), value, re.ASCII) is None:
        raise FileError(f"{path}: {key}", "numbers", repr(value), ABOUT_LOCATORS)
    if key == "run":
        return tuple(int(number) for number in re.split(r"[\s,]+", value))
    if key == "n_events":
        return int(value)
    return float(value) if key == "wavelength_offset" else value
