"""The published formulas of a pixel, written out for a point: what the engines are held against."""

import math

import numpy as np

from spreadflow.models import Detector

R_E_SQUARED = 7.94079248e-30
"""r_e², m²."""


def ray_and_efficiency(
    detector: Detector, panel: int, fast: float, slow: float, polarization: float
) -> tuple[np.ndarray, float]:
    """Return the unit vector (3,) from the sample to a point, fast and slow in px, and solid angle
    × captured fraction × polarization of a pixel there.
    """
    pixel = detector.pixel_mm
    normal = np.cross(detector.fast[panel], detector.slow[panel])
    along_fast = detector.fast[panel] * fast * pixel
    along_slow = detector.slow[panel] * slow * pixel
    position = detector.origin_mm[panel] + along_fast + along_slow
    distance = math.sqrt(position @ position)
    ray = position / distance
    omega = pixel**2 * abs(detector.origin_mm[panel] @ normal) / distance**3
    path = detector.thickness_mm / abs(normal @ ray)
    capture = 1.0 - math.exp(-path / detector.attenuation_mm)
    return ray, omega * capture * kahn(ray, polarization)


def kahn(ray: np.ndarray, polarization: float) -> float:
    """Return ½(1 + cos²2θ − K cos 2ψ sin²2θ)."""
    cos2 = -ray[2]
    psi = math.atan2(ray[1], ray[0])
    return 0.5 * (1 + cos2**2 - polarization * math.cos(2 * psi) * (1 - cos2**2))


def sub_pixels(row: int, column: int, oversample: int) -> list[tuple[float, float]]:
    """Return the points (fast, slow), px, of an oversampled pixel."""
    offsets = (np.arange(oversample) + 0.5) / oversample
    return [(column + x, row + y) for y in offsets for x in offsets]
