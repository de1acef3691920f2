"""Headers of mini CBF: comments with the settings of a Pilatus or Eiger detector (PILATUS_1.2)."""

import re

import gemmi
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images.header_text import ABOUT_HEADERS
from spreadflow.io.images.one_shot import Header
from spreadflow.io.images.unit_names import MM, unit_factor
from spreadflow.io.panels import Sensor, detector, sensor_of, upright
from spreadflow.models import Detector
from spreadflow.physics.sensors import NAMES

CONTENTS = "_array_data.header_contents"
"""The item that holds the comments."""

Comments = dict[str, list[str]]
"""Key → the words after it."""


def is_mini(block: gemmi.cif.Block) -> bool:
    """Whether a header describes the detector in comments."""
    return block.find_value(CONTENTS) is not None


def read(where: object, block: gemmi.cif.Block, shape: tuple[int, int], dtype: np.dtype) -> Header:
    """Return what the comments of a header state.

    where: the file, for errors. shape: (slow, fast) of the image, and dtype its type. Raises
    FileError where a setting is missing or makes no sense.
    """
    comments = _comments(gemmi.cif.as_string(block.find_value(CONTENTS)))
    lengths = np.zeros(0)
    if "Wavelength" in comments:
        lengths = np.array(_numbers(where, comments, "Wavelength", 1))
        if lengths[0] <= 0:
            raise FileError(where, "a positive Wavelength", lengths[0], "Correct the header.")
    return Header(
        detector=lambda: _detector(where, comments, shape, lengths),
        shape=(1, *shape),
        wavelengths=lengths,
        weights=np.ones(len(lengths)),
        trusted_range=(0.0, _cutoff(where, comments)),
        gaps=_gaps(dtype),
    )


def _detector(
    where: object, comments: Comments, shape: tuple[int, int], lengths: np.ndarray
) -> Detector:
    """Return the detector that comments describe. shape: (slow, fast) of the image. lengths:
    wavelengths, Å. Raises FileError.
    """
    fast_mm, slow_mm = _lengths(where, comments, "Pixel_size", 2)
    (distance_mm,) = _lengths(where, comments, "Detector_distance", 1)
    beam_px = _numbers(where, comments, "Beam_xy", 2)
    if comments.get("Detector_2theta") and _numbers(where, comments, "Detector_2theta", 1)[0]:
        found = comments["Detector_2theta"][0]
        raise FileError(where, "Detector_2theta 0", found, "Not supported.")
    beam_mm = (beam_px[0] * fast_mm, beam_px[1] * slow_mm)
    panel = upright(beam_mm, distance_mm, (fast_mm, slow_mm), shape)
    return detector(where, [panel], _sensor(where, comments, lengths))


def _comments(contents: str) -> Comments:
    """Return the settings in the comments: the first word of each line is the key, and `sensor`
    that of the line that describes it.
    """
    comments: Comments = {}
    for line in contents.splitlines():
        words = re.split(r"[\s#:=,()]+", line.strip(" #\t\r"))
        if len(words) > 1:
            comments.setdefault(words[0], words[1:])
        if {"sensor", "thickness"} <= set(words):
            comments.setdefault("sensor", words)
    return comments


def _numbers(where: object, comments: Comments, key: str, n: int) -> list[float]:
    """Return the numbers of a setting, of which there have to be n. Raises FileError."""
    values = []
    for word in comments.get(key, []):
        try:
            values.append(float(word))
        except ValueError:
            continue
    if len(values) < n or not np.isfinite(values[:n]).all():
        found = " ".join(comments[key]) if key in comments else "none"
        raise FileError(f"{where}: {key}", f"{n} finite numbers", found, ABOUT_HEADERS)
    return values[:n]


def _lengths(where: object, comments: Comments, key: str, n: int) -> list[float]:
    """Return the positive lengths of a setting, mm. Raises FileError."""
    values = _numbers(where, comments, key, n)
    factor = unit_factor(comments[key][-1], MM)
    if factor is None or min(values) <= 0:
        expected = f"positive lengths in {', '.join(MM)}"
        raise FileError(f"{where}: {key}", expected, " ".join(comments[key]), ABOUT_HEADERS)
    return [value * factor for value in values]


def _cutoff(where: object, comments: Comments) -> float:
    """Return the highest count that is trusted; infinite where it is not stated."""
    if "Count_cutoff" not in comments:
        return np.inf
    return _numbers(where, comments, "Count_cutoff", 1)[0]


def _gaps(dtype: np.dtype) -> tuple[float, ...]:
    """Return the counts that mark gaps and bad pixels above the trusted range: the two largest of
    an unsigned type. Those of signed types are negative.
    """
    if dtype.kind != "u":
        return ()
    largest = np.iinfo(dtype).max
    return (largest, largest - 1)


def _sensor(where: object, comments: Comments, lengths: np.ndarray) -> Sensor:
    """Return the sensor of `Silicon sensor, thickness 0.000320 m`, at the wavelength (Å); one that
    captures everything where they are not stated.
    """
    words = comments.get("sensor", [])
    is_stated = "sensor" in words and "thickness" in words
    material = " ".join(words[: words.index("sensor")]).lower() if is_stated else ""
    if material not in NAMES or not len(lengths):
        return Sensor()
    place = words.index("thickness") + 1
    (thickness_mm,) = _lengths(where, {"thickness": words[place:]}, "thickness", 1)
    return sensor_of(material, thickness_mm, float(lengths[0]))
