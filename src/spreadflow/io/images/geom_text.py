"""The text of a CrystFEL geometry file (.geom): its settings, of the whole and of each panel, with
their lines; numbers, vectors and quantities in them.

`parameter = value` is for the panels that follow, `panel/parameter = value` for one panel; a
semicolon begins a comment (crystfel_geometry(5)).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images.header_text import LONGEST_EDGE
from spreadflow.io.images.unit_names import unit_factor

LONGEST_TEXT = 2**24
"""Bytes of the longest file; one of 500 panels has a hundredth."""

MOST_PANELS = 4096
"""Panels of a detector, at most."""

ABOUT_GEOM = "See the manual of CrystFEL, crystfel_geometry(5)."
"""What to do about a file that is not as described there."""

BAD_REGION = "bad"
"""What names of regions begin with that are not to be used, and names of panels do not."""

FLAGS = ("flag_lessthan", "flag_morethan", "flag_equal")
"""Settings of which several of a name hold together: numbers that stand for bad pixels."""

SIZE = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
"""A number without its sign."""

TERM = re.compile(rf"([+-]?)\s*({SIZE})?\s*([xyz])\s*")
"""A component of a vector, such as `-0.002y`."""

NUMBER = re.compile(rf"[+-]?{SIZE}")
"""A number at the beginning of a value; its unit follows."""


class Setting(NamedTuple):
    """A value, and where it is stated."""

    where: str
    """file, line and name, for errors"""
    text: str


Settings = Mapping[str, Setting]
"""Parameter → its setting."""


class GeomText(NamedTuple):
    """The settings of a file."""

    whole: dict[str, Setting]
    """those of no panel; of several of one name, the last"""
    panels: dict[str, dict[str, Setting]]
    """of each panel, with those of the whole that stand before its first line"""
    bad: dict[str, dict[str, Setting]]
    """of each region that is not to be used"""


class Quantity(NamedTuple):
    """A number with its unit, or the dataset of an image file that holds it."""

    where: str
    """for errors"""
    number: float | None
    """in the unit; None where a dataset holds it"""
    dataset: str
    """path in the image file; empty where it is a number"""
    unit: str
    """as stated; empty where it is not"""


def read_text(path: Path) -> GeomText:
    """Return the settings of a file. Raises FileError where it can't be read, or a line is none."""
    try:
        with open(path, "rb") as file:
            raw = file.read(LONGEST_TEXT + 1)
    except OSError as error:
        raise FileError(path, "a geometry file", error, "Check the path.") from None
    return parsed(path, raw)


def parsed(path: Path, raw: bytes, first_line: int = 1) -> GeomText:
    """Return the settings in the text of a file, or in a part of it. first_line: number of the
    first line in the file. Raises FileError where it is too long, or a line is none.
    """
    if len(raw) > LONGEST_TEXT:
        raise FileError(path, f"at most {LONGEST_TEXT} bytes of text", "more", ABOUT_GEOM)
    text = GeomText({}, {}, {})
    for number, line in enumerate(raw.decode("latin-1").splitlines(), start=first_line):
        bare = line.partition(";")[0].strip()
        if bare:
            _take_up(path, number, bare, text)
    if not text.panels:
        found = f"none in {len(raw)} bytes"
        raise FileError(path, "panels, such as `p0/corner_x = -512`", found, ABOUT_GEOM)
    return text


def _take_up(path: Path, number: int, line: str, text: GeomText) -> None:
    """Take up a line. Raises FileError where it is no setting."""
    left, sign, value = (part.strip() for part in line.partition("="))
    if not sign or not left or not value:
        expected = "`parameter = value`, or a comment after a semicolon"
        raise FileError(f"{path}, line {number}", expected, repr(line), ABOUT_GEOM)
    name, slash, key = (part.strip() for part in left.rpartition("/"))
    if not slash:
        settings = text.whole
    elif name.startswith(BAD_REGION):
        settings = text.bad.setdefault(name, {})
    else:
        settings = text.panels.setdefault(name, dict(text.whole))
    if key in FLAGS and key in settings:
        value = f"{settings[key].text} {value}"
    settings[key] = Setting(f"{path}, line {number}: {left}", value)
    if len(text.panels) > MOST_PANELS:
        expected = f"at most {MOST_PANELS} panels"
        raise FileError(f"{path}, line {number}", expected, "more", ABOUT_GEOM)


def number(setting: Setting) -> float:
    """Return a finite number, also a hexadecimal one. Raises FileError."""
    try:
        value = float(int(setting.text, 16) if _is_hexadecimal(setting) else float(setting.text))
    except (ValueError, OverflowError):
        value = np.nan
    if not np.isfinite(value):
        raise FileError(setting.where, "a finite number", repr(setting.text), ABOUT_GEOM)
    return value


def numbers(setting: Setting) -> list[float]:
    """Return the finite numbers of a setting of `FLAGS`. Raises FileError."""
    return [number(setting._replace(text=word)) for word in setting.text.split()]


def _is_hexadecimal(setting: Setting) -> bool:
    """Whether a number is written as 0x2f."""
    return setting.text.lower().lstrip("+-").startswith("0x")


def positive(setting: Setting) -> float:
    """Return a positive number. Raises FileError."""
    value = number(setting)
    if value <= 0:
        raise FileError(setting.where, "a positive number", value, ABOUT_GEOM)
    return value


def pixel(setting: Setting) -> int:
    """Return the number of a pixel along an axis of the data, from 0. Raises FileError."""
    value = number(setting)
    if value != int(value) or not 0 <= value < LONGEST_EDGE * LONGEST_EDGE:
        raise FileError(setting.where, "a whole number from 0", setting.text, ABOUT_GEOM)
    return int(value)


def bits(setting: Setting) -> int:
    """Return a field of bits. Raises FileError."""
    value = number(setting)
    if value != int(value) or not 0 <= value < 2**64:
        raise FileError(setting.where, "bits, such as 0x2f", setting.text, ABOUT_GEOM)
    return int(setting.text, 16) if _is_hexadecimal(setting) else int(value)


def vector(setting: Setting) -> np.ndarray:
    """Return a vector (3,) such as `-0.0057x +0.99998y`. Raises FileError."""
    total = np.zeros(3)
    position = 0
    while position < len(setting.text):
        term = TERM.match(setting.text, position)
        if term is None or (position > 0 and not term[1]):
            break
        size = float(term[2] or 1.0)
        total["xyz".index(term[3])] += -size if term[1] == "-" else size
        position = term.end()
    if position < len(setting.text) or not np.isfinite(total).all() or not total.any():
        expected = "a vector such as `-0.0057x +0.99998y`"
        raise FileError(setting.where, expected, repr(setting.text), ABOUT_GEOM)
    return total


def quantity(setting: Setting, units: Mapping[str, float]) -> Quantity:
    """Return a number or the path of a dataset, in one of these units or none. Raises FileError."""
    words = setting.text.split()
    if words[0].startswith("/"):
        value, stated, unit = None, words[0], " ".join(words[1:])
    else:
        match = NUMBER.match(setting.text)
        value = float(match[0]) if match else np.nan
        stated, unit = "", setting.text[match.end() :].strip() if match else ""
    is_known = not unit or unit_factor(unit, units) is not None
    if not is_known or (value is not None and not np.isfinite(value)):
        expected = f"a number or the path of a dataset (/...), in {', '.join(units)}"
        raise FileError(setting.where, expected, repr(setting.text), ABOUT_GEOM)
    return Quantity(setting.where, value, stated, unit)
