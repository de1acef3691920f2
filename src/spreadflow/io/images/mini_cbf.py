"""Headers of mini CBF: comments with the settings of a Pilatus or Eiger detector (PILATUS_1.2)."""

import re

import gemmi
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images.imgcif import ABOUT_CBF
from spreadflow.io.images.one_shot import Header
from spreadflow.io.images.panels import Sensor, detector, upright
from spreadflow.physics.sensors import attenuation_mm

CONTENTS = "_array_data.header_contents"
"""The item that holds the comments."""

MM = {"m": 1e3, "mm": 1.0}
"""Units of lengths that are understood, in mm."""

SENSORS = {"silicon": "Si", "si": "Si", "cdte": "CdTe", "cadmium": "CdTe", "gaas": "GaAs"}
"""Materials of sensors by the word that stands for them, in small letters."""

Settings = dict[str, list[str]]
"""Key → the words after it."""


def is_mini(block: gemmi.cif.Block) -> bool:
    """Whether a header describes the detector in comments."""
    return block.find_value(CONTENTS) is not None


def read(where: object, block: gemmi.cif.Block, shape: tuple[int, int], dtype: np.dtype) -> Header:
    """Return what the comments of a header state.

    where: the file, for errors. shape: (slow, fast) of the image, and dtype its type. Raises
    FileError where a setting is missing or makes no sense.
    """
    settings = _settings(gemmi.cif.as_string(block.find_value(CONTENTS)))
    fast_mm, slow_mm = _lengths(where, settings, "Pixel_size", 2)
    (distance_mm,) = _lengths(where, settings, "Detector_distance", 1)
    beam_px = _numbers(where, settings, "Beam_xy", 2)
    if settings.get("Detector_2theta") and _numbers(where, settings, "Detector_2theta", 1)[0]:
        found = settings["Detector_2theta"][0]
        raise FileError(where, "Detector_2theta 0", found, "Not supported.")

    lengths = np.zeros(0)
    if "Wavelength" in settings:
        lengths = np.array(_numbers(where, settings, "Wavelength", 1))
        if lengths[0] <= 0:
            raise FileError(where, "a positive Wavelength", lengths[0], "Correct the header.")
    beam_mm = (beam_px[0] * fast_mm, beam_px[1] * slow_mm)
    panel = upright(beam_mm, distance_mm, (fast_mm, slow_mm), shape)
    return Header(
        detector=detector(where, [panel], _sensor(where, settings, lengths)),
        wavelengths=lengths,
        weights=np.ones(len(lengths)),
        trusted_range=(0.0, _cutoff(where, settings)),
        gaps=_gaps(dtype),
    )


def _settings(contents: str) -> Settings:
    """Return the settings of the comments: the first word of each line is the key, and `sensor`
    that of the line that describes it.
    """
    settings: Settings = {}
    for line in contents.splitlines():
        words = re.split(r"[\s#:=,()]+", line.strip(" #\t\r"))
        if len(words) > 1:
            settings.setdefault(words[0], words[1:])
        if {"sensor", "thickness"} <= set(words):
            settings.setdefault("sensor", words)
    return settings


def _numbers(where: object, settings: Settings, key: str, n: int) -> list[float]:
    """Return the numbers of a setting, of which there have to be n. Raises FileError."""
    values = []
    for word in settings.get(key, []):
        try:
            values.append(float(word))
        except ValueError:
            continue
    if len(values) < n or not np.isfinite(values[:n]).all():
        found = " ".join(settings[key]) if key in settings else "none"
        raise FileError(f"{where}: {key}", f"{n} finite numbers", found, ABOUT_CBF)
    return values[:n]


def _lengths(where: object, settings: Settings, key: str, n: int) -> list[float]:
    """Return the positive lengths of a setting, mm. Raises FileError."""
    values = _numbers(where, settings, key, n)
    unit = settings[key][-1]
    if unit not in MM or min(values) <= 0:
        expected = f"positive lengths in {' or '.join(MM)}"
        raise FileError(f"{where}: {key}", expected, " ".join(settings[key]), ABOUT_CBF)
    return [value * MM[unit] for value in values]


def _cutoff(where: object, settings: Settings) -> float:
    """Return the highest count that is trusted; infinite where it is not stated."""
    if "Count_cutoff" not in settings:
        return np.inf
    return _numbers(where, settings, "Count_cutoff", 1)[0]


def _gaps(dtype: np.dtype) -> tuple[float, ...]:
    """Return the counts that mark gaps and bad pixels above the trusted range: the two largest of
    an unsigned type. Those of signed types are negative.
    """
    if dtype.kind != "u":
        return ()
    largest = np.iinfo(dtype).max
    return (largest, largest - 1)


def _sensor(where: object, settings: Settings, lengths: np.ndarray) -> Sensor:
    """Return the sensor of `Silicon sensor, thickness 0.000320 m`, at the wavelength (Å); one that
    captures everything where they are not stated.
    """
    words = settings.get("sensor", [])
    material = SENSORS.get(words[0].lower() if words else "")
    if material is None or not len(lengths):
        return Sensor()
    place = words.index("thickness") + 1
    (thickness_mm,) = _lengths(where, {"thickness": words[place:]}, "thickness", 1)
    return Sensor(thickness_mm, attenuation_mm(material, float(lengths[0])))
