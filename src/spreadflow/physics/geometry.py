"""Rays and panels. NumPy and JAX arrays alike; lab frame of `models`, mm and px.

Pixel position: r = origin + fast·(f·pixel) + slow·(s·pixel), with f, s in px and pixel centres at
+0.5.
"""

import numpy as np

from spreadflow.models import Detector

S0 = np.array([0.0, 0.0, -1.0])
"""Direction of the beam."""


def position(detector: Detector, panel, fast, slow):
    """Return lab position (..., 3) in mm of pixel coordinates (fast, slow) on panels (all of shape
    (...)).
    """
    size = detector.pixel_mm
    return (
        detector.origin_mm[panel]
        + detector.fast[panel] * (fast * size)[..., None]
        + detector.slow[panel] * (slow * size)[..., None]
    )


def direction(detector: Detector, panel, fast, slow):
    """Return unit vector (..., 3) from the sample to pixel coordinates."""
    r = position(detector, panel, fast, slow)
    return r / (r * r).sum(axis=-1, keepdims=True) ** 0.5


def normals(detector: Detector):
    """Return (panel, 3) unit normals, pointing to the side of fast × slow."""
    f = detector.fast
    s = detector.slow
    turned = [f[..., i - 2] * s[..., i - 1] - f[..., i - 1] * s[..., i - 2] for i in range(3)]
    return sum(t[..., None] * axis for t, axis in zip(turned, np.eye(3), strict=True))


def distances_mm(detector: Detector):
    """Return (panel,) shortest distance from the sample to each panel's plane, mm."""
    return np.abs((detector.origin_mm * normals(detector)).sum(axis=-1))


def on_panel(detector: Detector, panel, s1):
    """Return pixel coordinates (fast, slow) where rays s1 (..., 3) meet the planes of the given
    panels (...).

    Unbounded, and blind to the side of the ray: the caller checks (`intersect` does both).
    """
    origin = detector.origin_mm[panel]
    fast = detector.fast[panel]
    slow = detector.slow[panel]
    normal = normals(detector)[panel]
    scale = (origin * normal).sum(axis=-1) / (s1 * normal).sum(axis=-1)
    offset = s1 * scale[..., None] - origin
    f = (offset * fast).sum(axis=-1) / detector.pixel_mm
    s = (offset * slow).sum(axis=-1) / detector.pixel_mm
    return f, s


def intersect(detector: Detector, s1: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return panel, fast, slow (each (n,)) where rays s1 (n, 3) hit a panel; panel −1 where none is
    hit (NumPy).
    """
    n_slow, n_fast = detector.shape
    panel = np.full(len(s1), -1, dtype=np.int32)
    fast, slow = np.full(len(s1), np.nan), np.full(len(s1), np.nan)
    for p in range(detector.n_panels):
        with np.errstate(divide="ignore", invalid="ignore"):
            along = s1 @ normals(detector)[p]
            scale = (detector.origin_mm[p] @ normals(detector)[p]) / along
            offset = s1 * scale[:, None] - detector.origin_mm[p]
            f = offset @ detector.fast[p] / detector.pixel_mm
            s = offset @ detector.slow[p] / detector.pixel_mm
            hit = (scale > 0) & (f >= 0) & (f < n_fast) & (s >= 0) & (s < n_slow) & (panel < 0)
        panel[hit], fast[hit], slow[hit] = p, f[hit], s[hit]
    return panel, fast, slow


def beam_center(detector: Detector) -> tuple[np.ndarray, np.ndarray]:
    """Return (fast, slow), each (panel,), px where the direct beam meets the plane of each panel
    (maybe off the panel).
    """
    n = detector.n_panels
    return on_panel(detector, np.arange(n), np.broadcast_to(S0, (n, 3)))


def radial_axes(
    detector: Detector, panel: np.ndarray, fast: np.ndarray, slow: np.ndarray
) -> np.ndarray:
    """Return (n, 2, 2): rows are unit vectors, in (fast, slow), along the radius from the beam
    centre and across it.
    """
    f0, s0 = beam_center(detector)
    d = np.stack([fast - f0[panel], slow - s0[panel]], axis=-1)
    radial = d / np.maximum(np.linalg.norm(d, axis=-1, keepdims=True), 1e-12)
    return np.stack([radial, np.stack([-radial[:, 1], radial[:, 0]], axis=-1)], axis=1)


def shifted(detector: Detector, fast_mm, slow_mm, distance_mm) -> Detector:
    """Return the detector moved as a whole along panel 0's fast and slow axes and away from the
    sample by mm.
    """
    normal = np.cross(detector.fast[0], detector.slow[0])
    normal = normal * np.sign((normal * detector.origin_mm[0]).sum())
    move = fast_mm * detector.fast[0] + slow_mm * detector.slow[0] + distance_mm * normal
    return detector._replace(origin_mm=detector.origin_mm + move)
