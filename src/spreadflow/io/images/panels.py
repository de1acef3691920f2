"""Panels as headers state them, checked and put together as a detector."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spreadflow.errors import FileError
from spreadflow.models import Detector

TOLERANCE = 1e-4
"""Largest scalar product of the two axes of a panel that count as perpendicular."""

SQUARE_TOLERANCE = 1e-5
"""Relative difference of the edges of pixels that count as equal."""

ABOUT_GEOMETRY = "Correct the geometry in the header."
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
    """attenuation length at the wavelength of the shot"""


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


def detector(where: object, panels: Sequence[Panel], sensor: Sensor | None = None) -> Detector:
    """Return the detector that panels make up. where: the file, for errors. Raises FileError where
    they are not finite, rectangular, downstream, or differ in shape or pixel size.
    """
    sensor = sensor or Sensor()
    origin_mm = np.array([panel.origin_mm for panel in panels], float)
    steps_mm = np.array([(panel.fast_mm, panel.slow_mm) for panel in panels], float)
    if not (np.isfinite(origin_mm).all() and np.isfinite(steps_mm).all()):
        raise FileError(where, "finite positions of panels", "others", ABOUT_GEOMETRY)

    sizes_mm = np.linalg.norm(steps_mm, axis=-1)
    shapes = {panel.shape for panel in panels}
    is_equal = np.ptp(sizes_mm) <= SQUARE_TOLERANCE * sizes_mm.max()
    if sizes_mm.min() <= 0 or not is_equal or len(shapes) > 1:
        expected = "panels of equal shape, and square pixels of equal size"
        found = f"shapes {sorted(shapes)}, pixels of {sizes_mm.min():g} to {sizes_mm.max():g} mm"
        raise FileError(where, expected, found, "Not supported.")

    axes = steps_mm / sizes_mm[..., None]
    cosines = np.abs(np.sum(axes[:, 0] * axes[:, 1], axis=-1))
    if cosines.max() > TOLERANCE:
        found = f"an angle of {np.degrees(np.arccos(cosines.max())):.3f}°"
        raise FileError(where, "perpendicular axes of each panel", found, ABOUT_GEOMETRY)

    shape = shapes.pop()
    to_centre = np.array(shape[::-1])[:, None] / 2
    centres_mm = origin_mm + np.sum(steps_mm * to_centre, axis=1)
    if centres_mm[:, 2].mean() >= 0:
        found = f"one {centres_mm[:, 2].mean():g} mm towards the source"
        raise FileError(where, "a detector downstream of the sample", found, ABOUT_GEOMETRY)
    return Detector(
        origin_mm=origin_mm + 0.0,  # no negative zeros
        fast=axes[:, 0] + 0.0,
        slow=axes[:, 1] + 0.0,
        pixel_mm=float(sizes_mm.mean()) if np.ptp(sizes_mm) else float(sizes_mm[0, 0]),
        shape=shape,
        thickness_mm=sensor.thickness_mm,
        attenuation_mm=sensor.attenuation_mm,
    )
