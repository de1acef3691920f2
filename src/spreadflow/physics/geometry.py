"""Rays and panels. NumPy and JAX arrays alike; lab frame of `models`, mm and px.

Pixel position: r = origin + fast·(f·pixel) + slow·(s·pixel), with f, s in px and pixel centres at
+0.5. Between rays and pixels lies the depth at which the sensor absorbs, where the detector has a
`parallax_mm`.
"""

import numpy as np

from spreadflow.models import Detector
from spreadflow.physics import parallax

S0 = np.array([0.0, 0.0, -1.0])
"""Direction of the beam in the lab frame, without unit."""


def position(detector: Detector, panel, fast, slow):
    """Return the lab positions (..., 3), mm, of pixel coordinates (fast, slow) on the surface of
    panels, all of shape (...).
    """
    fast_mm = (fast * detector.pixel_mm)[..., None]
    slow_mm = (slow * detector.pixel_mm)[..., None]
    along_fast = detector.fast[panel] * fast_mm
    along_slow = detector.slow[panel] * slow_mm
    return detector.origin_mm[panel] + along_fast + along_slow


def direction(detector: Detector, panel, fast, slow):
    """Return the unit vectors (..., 3) of the rays that are recorded at pixel coordinates."""
    r = position(detector, panel, fast, slow)
    if detector.parallax_mm is not None:
        normal = normals(detector)[panel]
        components, of_normal = ([v[..., j] for j in range(3)] for v in (r, normal))
        height = (r * normal).sum(axis=-1)
        below, _ = parallax.deepened(detector, components, of_normal, height)
        r = r.__array_namespace__().stack(below, axis=-1)
    return r / (r * r).sum(axis=-1, keepdims=True) ** 0.5


def normals(detector: Detector):
    """Return the unit normals (panel, 3), pointing to the side of fast × slow."""
    f = detector.fast
    s = detector.slow

    def component(i: int):
        return f[..., i - 2] * s[..., i - 1] - f[..., i - 1] * s[..., i - 2]

    axes = np.eye(3)
    return sum(component(i)[..., None] * axes[i] for i in range(3))


def distances_mm(detector: Detector):
    """Return the shortest distance (panel,) from the sample to each panel's plane, mm."""
    return np.abs((detector.origin_mm * normals(detector)).sum(axis=-1))


def on_panel(detector: Detector, panel, s1):
    """Return the pixel coordinates (fast, slow) where the planes of panels (...) record rays s1
    (..., 3): the inverse of `direction`.

    They may lie beyond the panel's edges, and behind the sample: the caller checks (`intersect`
    does both).
    """
    origin = detector.origin_mm[panel]
    fast_axis = detector.fast[panel]
    slow_axis = detector.slow[panel]
    normal = normals(detector)[panel]
    along = (s1 * normal).sum(axis=-1)
    scale = _height(detector, (origin * normal).sum(axis=-1), s1, along) / along
    offset = s1 * scale[..., None] - origin
    fast = (offset * fast_axis).sum(axis=-1) / detector.pixel_mm
    slow = (offset * slow_axis).sum(axis=-1) / detector.pixel_mm
    return fast, slow


def on_panel_moved(
    detector: Detector, panel: np.ndarray, s1: np.ndarray, changes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return where panels (n,) record unit rays s1 (n, 3), as (n, 2) fast, slow, px; and how that
    moves with changes (k, n, 3) of the rays that leave their length, (k, n, 2) px (NumPy).
    """
    origin = detector.origin_mm[panel]
    axes = np.stack([detector.fast[panel], detector.slow[panel]], axis=1)
    normal = normals(detector)[panel]
    along = (s1 * normal).sum(axis=-1)
    surface_mm = (origin * normal).sum(axis=-1)
    height = _height(detector, surface_mm, s1, along)
    scale = height / along
    position = np.einsum("nax,nx->na", axes, s1 * scale[:, None] - origin)

    along_by = np.einsum("nx,knx->kn", normal, changes)
    height_by = 0.0
    if detector.parallax_mm is not None:
        step = parallax.COSINE_STEP
        higher, lower = (
            parallax.reached(detector, surface_mm, along + h, np.ones(len(along)))
            for h in (step, -step)
        )
        height_by = (higher - lower) / (2.0 * step)
    scale_by = (height_by - scale) / along * along_by
    moved = changes * scale[:, None] + s1 * scale_by[:, :, None]
    moves = np.einsum("nax,knx->kna", axes, moved)
    return position / detector.pixel_mm, moves / detector.pixel_mm


def _height(detector: Detector, surface_mm, s1, along):
    """Return the height along the normal, mm, at which rays s1 (..., 3) are recorded. surface_mm:
    height of the panel; along: component of the rays along the normal.
    """
    if detector.parallax_mm is None:
        return surface_mm
    return parallax.reached(detector, surface_mm, along, (s1 * s1).sum(axis=-1) ** 0.5)


def intersect(detector: Detector, s1: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return panel, fast, slow, each (n,), where panels record rays s1 (n, 3); panel −1 where none
    does (NumPy).
    """
    n_slow, n_fast = detector.shape
    panel = np.full(len(s1), -1, dtype=np.int32)
    fast = np.full(len(s1), np.nan)
    slow = np.full(len(s1), np.nan)
    for number, normal in enumerate(normals(detector)):
        origin = detector.origin_mm[number]
        with np.errstate(divide="ignore", invalid="ignore"):
            along = s1 @ normal
            scale = _height(detector, origin @ normal, s1, along) / along
            offset = s1 * scale[:, None] - origin
            f = offset @ detector.fast[number] / detector.pixel_mm
            s = offset @ detector.slow[number] / detector.pixel_mm
            is_on_panel = (f >= 0) & (f < n_fast) & (s >= 0) & (s < n_slow)
            hit = (scale > 0) & is_on_panel & (panel < 0)
        panel[hit] = number
        fast[hit] = f[hit]
        slow[hit] = s[hit]
    return panel, fast, slow


def beam_center(detector: Detector) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates (fast, slow), each (panel,), px, where the direct beam meets the plane
    of each panel, maybe off the panel.
    """
    n = detector.n_panels
    return on_panel(detector, np.arange(n), np.broadcast_to(S0, (n, 3)))


def radial_axes(
    detector: Detector, panel: np.ndarray, fast: np.ndarray, slow: np.ndarray
) -> np.ndarray:
    """Return axes (n, 2, 2) at pixel coordinates: the rows are unit vectors, in (fast, slow), along
    the radius from the beam centre and across it.
    """
    beam_fast, beam_slow = beam_center(detector)
    radius = np.stack([fast - beam_fast[panel], slow - beam_slow[panel]], axis=-1)
    length = np.linalg.norm(radius, axis=-1, keepdims=True)
    radial = radius / np.maximum(length, 1e-12)
    transverse = np.stack([-radial[:, 1], radial[:, 0]], axis=-1)
    return np.stack([radial, transverse], axis=1)


def shifted(detector: Detector, fast_mm, slow_mm, distance_mm) -> Detector:
    """Return the detector moved as a whole, by mm along panel 0's fast and slow axes and away from
    the sample.
    """
    normal = np.cross(detector.fast[0], detector.slow[0])
    away = normal * np.sign((normal * detector.origin_mm[0]).sum())
    move_in_plane = fast_mm * detector.fast[0] + slow_mm * detector.slow[0]
    move = move_in_plane + distance_mm * away
    return detector._replace(origin_mm=detector.origin_mm + move)


def corner_distance_px(one: Detector, other: Detector) -> float:
    """Return the largest distance between the same corner of two detectors' panels, px; infinite
    where the panels differ in number or shape.
    """
    if one.n_panels != other.n_panels or tuple(one.shape) != tuple(other.shape):
        return np.inf
    n_slow, n_fast = one.shape
    slow, fast = np.meshgrid([0.0, n_slow], [0.0, n_fast])
    panels = np.repeat(np.arange(one.n_panels), 4)
    fast = np.tile(fast.ravel(), one.n_panels)
    slow = np.tile(slow.ravel(), one.n_panels)
    corners = [position(detector, panels, fast, slow) for detector in (one, other)]
    distances = np.linalg.norm(corners[0] - corners[1], axis=1)
    return float(distances.max() / float(other.pixel_mm))
