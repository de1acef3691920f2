"""Panels as headers state them, checked and put together as a detector."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from spreadflow.errors import FileError
from spreadflow.models import Detector
from spreadflow.physics import sensors

RIGHT_ANGLE_TOLERANCE = 1e-4
"""Largest scalar product of the two axes of a panel that count as perpendicular."""

THINNEST_MM = 0.005
"""Sensors that are said to be thinner, mm, are surfaces: no detector has such a one, and files of
simulations state it so that readers correct for neither capture nor parallax.
"""

UNIT_TOLERANCE = 1e-4
"""Difference from 1 of the length of axes that count as unit vectors."""

SQUARE_TOLERANCE = 1e-5
"""Relative difference of the edges of pixels that count as equal."""

LONGEST_CHAIN = 100
"""Links of a chain of axes that places a panel; a longer one is taken for a circle."""

ABOUT_GEOMETRY = "Check the vectors, the sign of the distance, and the chain of axes in the header."
"""What to do about a detector that can't be."""


class Panel(NamedTuple):
    """One panel in the laboratory frame."""

    origin_mm: np.ndarray
    """(3,) outer corner of pixel (0, 0)"""
    fast_mm: np.ndarray
    """(3,) from a pixel to the next along the fast axis"""
    slow_mm: np.ndarray
    """(3,) from a pixel to the next along the slow axis"""
    shape: tuple[int, int]
    """(slow, fast) pixels"""


class Sensor(NamedTuple):
    """What the pixels capture photons with."""

    thickness_mm: float = 0.0
    """0 = not known: captures everything"""
    attenuation_mm: float = 0.0
    """attenuation length at the wavelength of the shot; 0 = not known"""
    has_parallax: bool = False
    """whether spots lie at the depth at which it absorbs, rather than at its surface"""


def sensor_of(material: str, thickness_mm: float, wavelength: float) -> Sensor:
    """Return a sensor of a material at a wavelength (Å), with its parallax; one that captures
    everything at its surface where the material or the wavelength is not known, or where it is
    thinner than sensors are (`THINNEST_MM`).

    material: in any spelling of `sensors.NAMES`.
    """
    symbol = sensors.NAMES.get(material.strip().lower(), "")
    length_mm = sensors.attenuation_mm(symbol, wavelength)
    known = thickness_mm >= THINNEST_MM and length_mm > 0
    return Sensor(thickness_mm, length_mm, has_parallax=True) if known else Sensor()


def upright(
    beam_mm: tuple[float, float],
    distance_mm: float,
    pixels_mm: tuple[float, float],
    shape: tuple[int, int],
) -> Panel:
    """Return a panel across the beam, whose fast axis is x and whose rows go down.

    beam_mm: (fast, slow) where the beam meets it, from the outer corner of pixel (0, 0). pixels_mm:
    edges (fast, slow) of a pixel. shape: (slow, fast) pixels.
    """
    fast, slow = beam_mm
    return Panel(
        origin_mm=np.array([-fast, slow, -distance_mm]),
        fast_mm=np.array([pixels_mm[0], 0.0, 0.0]),
        slow_mm=np.array([0.0, -pixels_mm[1], 0.0]),
        shape=shape,
    )


def levels_of(branches: Sequence[Sequence[Hashable]]) -> np.ndarray | None:
    """Return the levels of a hierarchy, as of `Detector.levels`, from the branch that each panel is
    on: what names its groups, the largest first, without the panel itself.

    Levels on which all panels are in one group, or each by itself, say nothing; None where all are
    such.
    """
    depth = max((len(branch) for branch in branches), default=0)
    levels: list[list[int]] = []
    for level in range(1, depth + 1):
        numbers: dict[Hashable, int] = {}
        row = [numbers.setdefault(tuple(branch[:level]), len(numbers)) for branch in branches]
        if 1 < len(numbers) < len(branches) and row not in levels:
            levels.append(row)
    return np.array(levels) if levels else None


def detector(where: object, panels: Sequence[Panel], sensor: Sensor | None = None) -> Detector:
    """Return the detector that panels make up. where: the file, for errors. Raises FileError where
    they differ in shape or pixel size, or as `check`.
    """
    sensor = sensor or Sensor()
    origin_mm = np.array([panel.origin_mm for panel in panels], float)
    steps_mm = np.array([(panel.fast_mm, panel.slow_mm) for panel in panels], float)
    shape = _shape(where, panels)
    pixel_mm = _pixel_mm(where, steps_mm)
    axes = steps_mm / np.linalg.norm(steps_mm, axis=-1, keepdims=True)
    whole = Detector(
        origin_mm=origin_mm + 0.0,  # no negative zeros
        fast=axes[:, 0] + 0.0,
        slow=axes[:, 1] + 0.0,
        pixel_mm=pixel_mm,
        shape=shape,
    )
    whole = with_sensor(whole, sensor)
    check(where, whole)
    return whole


def with_sensor(whole: Detector, sensor: Sensor) -> Detector:
    """Return a detector whose panels have a sensor."""
    return whole._replace(
        thickness_mm=sensor.thickness_mm,
        attenuation_mm=sensor.attenuation_mm,
        parallax_mm=sensor.attenuation_mm if sensor.has_parallax else None,
    )


def check(where: object, whole: Detector) -> None:
    """Raise FileError for a detector whose numbers are not finite, without pixels, with a panel
    whose axes are not perpendicular unit vectors, or which is not downstream of the sample. where:
    the file.
    """
    axes = np.stack([whole.fast, whole.slow], axis=1)
    if not (np.isfinite(whole.origin_mm).all() and np.isfinite(axes).all()):
        raise FileError(where, "finite positions of panels", "others", ABOUT_GEOMETRY)
    if min(whole.shape) < 1:
        raise FileError(where, "pixels along both axes of panels", whole.shape, ABOUT_GEOMETRY)
    if not 0 < whole.pixel_mm < np.inf:
        raise FileError(where, "pixels with an edge", f"{whole.pixel_mm} mm", ABOUT_GEOMETRY)
    lengths_mm = (whole.thickness_mm, whole.attenuation_mm)
    if not all(0 <= length_mm < np.inf for length_mm in lengths_mm):
        expected = "a thickness and an attenuation length of the sensor, not negative"
        raise FileError(where, expected, f"{lengths_mm} mm", ABOUT_GEOMETRY)

    lengths = np.linalg.norm(axes, axis=-1)
    if np.abs(lengths - 1).max() > UNIT_TOLERANCE:
        found = f"{lengths.min():g} to {lengths.max():g}"
        raise FileError(where, "axes of panels of length 1", found, ABOUT_GEOMETRY)
    cosine = np.abs(np.sum(axes[:, 0] * axes[:, 1], axis=-1)).max()
    if cosine > RIGHT_ANGLE_TOLERANCE:
        found = f"an angle of {np.degrees(np.arccos(min(cosine, 1.0))):.3f}°"
        raise FileError(where, "perpendicular axes of each panel", found, ABOUT_GEOMETRY)
    _check_downstream(where, whole)


def _check_downstream(where: object, whole: Detector) -> None:
    """Raise FileError where the centre of a panel is not downstream of the sample."""
    slow, fast = whole.shape
    half_mm = float(whole.pixel_mm) / 2
    height_mm = (whole.origin_mm + half_mm * (fast * whole.fast + slow * whole.slow))[:, 2]
    number = int(height_mm.argmax())
    if height_mm[number] >= 0:
        expected = "a detector downstream of the sample"
        found = f"panel {number}, {height_mm[number]:g} mm towards the source"
        raise FileError(where, expected, found, ABOUT_GEOMETRY)


def _shape(where: object, panels: Sequence[Panel]) -> tuple[int, int]:
    """Return the shape that all panels share. Raises FileError."""
    shapes = {panel.shape for panel in panels}
    if len(shapes) > 1:
        expected = "panels of equal shape"
        raise FileError(where, expected, sorted(shapes), "Not supported.")
    return shapes.pop()


def _pixel_mm(where: object, steps_mm: np.ndarray) -> float:
    """Return the edge of all pixels, mm. steps_mm: (panel, 2, 3). Raises FileError where they
    differ or are no lengths.
    """
    sizes_mm = np.linalg.norm(steps_mm, axis=-1)
    smallest, largest = sizes_mm.min(), sizes_mm.max()
    if not 0 < smallest <= largest < np.inf or largest - smallest > SQUARE_TOLERANCE * largest:
        found = f"{smallest:g} to {largest:g} mm"
        raise FileError(where, "square pixels of equal size", found, "Not supported.")
    return float(sizes_mm[0, 0])
