"""Detectors as trees of panels, as DIALS has them in experiment lists (.expt): read and written.

A panel's axes and origin are relative to its parent in the hierarchy (dxtbx: local frame). Where a
detector has no groups, trees written here have one level below the laboratory frame: a panel's
numbers are laboratory numbers, digit by digit. Else a group's frame is that of its first panel, in
the middle of its panels.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.panels import THINNEST_MM, Sensor, check, levels_of
from spreadflow.models import Detector
from spreadflow.physics import geometry

N_DECIMALS = 12
"""Decimals, in mm, to which pixel sizes of panels must agree."""

SURFACE = "SimplePxMmStrategy"
"""What DIALS calls spots that lie where rays meet the surface."""

PARALLAX = "ParallaxCorrectedPxMmStrategy"
"""What DIALS calls spots that lie at the depth at which the sensor absorbs."""

Numbers = Iterable[float]
"""A few numbers, in a tuple or an array."""


TRUSTED_RANGE = (-100.0, 2e9)
"""ADU; trusted range of detectors of which none is known."""


class _Axes(NamedTuple):
    """Where a panel is, in some frame."""

    fast: np.ndarray
    slow: np.ndarray
    origin_mm: np.ndarray


# ---------------------------------------------------------------- writing


def detector_tree(
    detector: Detector, trusted_range: tuple[float, float], material: str
) -> dict[str, Any]:
    """Return a detector as the file has it. material: of its sensor; empty = not known."""
    numbers = np.arange(detector.n_panels)
    axes = [_lab_axes(detector, n) for n in range(detector.n_panels)]
    if detector.levels is not None:
        axes = _local_axes(detector, detector.levels[-1], axes)
    panels = [
        _panel(axes[n], detector, trusted_range, material, n) for n in range(detector.n_panels)
    ]
    laboratory = _group_keys("Detector", np.eye(4))
    levels = () if detector.levels is None else tuple(detector.levels)
    children = _children(detector, numbers, levels, np.eye(4))
    return {"panels": panels, "hierarchy": laboratory | {"children": children}}


def _children(
    detector: Detector, panels: np.ndarray, levels: tuple[np.ndarray, ...], parent: np.ndarray
) -> list[dict[str, Any]]:
    """Return what is below a node: panels, or groups of the first of some levels.

    parent: (4, 4) from the frame of the node to the laboratory.
    """
    if not levels:
        return [{"panel": int(panel)} for panel in panels]
    level, *below = levels
    nodes = []
    for group in np.unique(level[panels]):
        of_group = panels[level[panels] == group]
        frame = _group_frame(detector, of_group)
        keys = _group_keys(f"group{group}", np.linalg.inv(parent) @ frame)
        children = _children(detector, of_group, tuple(below), frame)
        nodes.append(keys | {"children": children})
    return nodes


def _group_frame(detector: Detector, panels: np.ndarray) -> np.ndarray:
    """Return the (4, 4) transformation from the frame of a group of panels to the laboratory."""
    n_slow, n_fast = detector.shape
    middles = geometry.position(
        detector, panels, np.full(len(panels), n_fast / 2), np.full(len(panels), n_slow / 2)
    )
    first = panels[0]
    normal = np.cross(detector.fast[first], detector.slow[first])
    frame = np.eye(4)
    frame[:3, 0] = detector.fast[first]
    frame[:3, 1] = np.cross(normal, detector.fast[first])
    frame[:3, 2] = normal
    frame[:3, :3] /= np.linalg.norm(frame[:3, :3], axis=0)
    frame[:3, 3] = middles.mean(axis=0)
    return frame


def _local_axes(detector: Detector, smallest: np.ndarray, axes: list[_Axes]) -> list[_Axes]:
    """Return where panels are in the frames of their smallest groups, (panel,) numbers. axes: in
    the laboratory.
    """
    local = list(axes)
    for group in np.unique(smallest):
        panels = np.flatnonzero(smallest == group)
        to_group = np.linalg.inv(_group_frame(detector, panels))
        turn = to_group[:3, :3]
        for n in panels:
            fast, slow, origin = axes[n]
            local[n] = _Axes(turn @ fast, turn @ slow, turn @ origin + to_group[:3, 3])
    return local


def _lab_axes(detector: Detector, panel: int) -> _Axes:
    """Return where a panel is in the laboratory."""
    return _Axes(detector.fast[panel], detector.slow[panel], detector.origin_mm[panel])


def _group_keys(name: str, frame: np.ndarray) -> dict[str, Any]:
    """Return the keys of a node of the hierarchy. frame: (4, 4) to that of its parent."""
    fast, slow, _, origin = frame[:3].T
    no_sensor = _sensor_keys(
        size=(0, 0), pixel_mm=(0, 0), trusted_range=(0, 0), sensor=Sensor(), material=""
    )
    return _frame_keys(name, "", fast=fast, slow=slow, origin=origin) | no_sensor


def _panel(
    axes: _Axes,
    detector: Detector,
    trusted_range: tuple[float, float],
    material: str,
    panel: int,
) -> dict[str, Any]:
    """Return a panel as the file has it, with axes relative to its parent."""
    slow, fast = detector.shape
    pixel_mm = float(detector.pixel_mm)
    frame = _frame_keys(
        name=f"panel{panel}",
        kind="SENSOR_PAD",
        fast=axes.fast,
        slow=axes.slow,
        origin=axes.origin_mm,
    )
    sensor = _sensor_keys(
        size=(fast, slow),
        pixel_mm=(pixel_mm, pixel_mm),
        trusted_range=trusted_range,
        sensor=Sensor(
            float(detector.thickness_mm),
            float(detector.attenuation_mm),
            has_parallax=detector.parallax_mm is not None,
        ),
        material=material,
    )
    return frame | sensor


def _frame_keys(
    name: str, kind: str, fast: Numbers, slow: Numbers, origin: Numbers
) -> dict[str, Any]:
    """Return the keys that say where a panel, or a level of the hierarchy, is."""
    return {
        "name": name,
        "type": kind,
        "fast_axis": [float(x) for x in fast],
        "slow_axis": [float(x) for x in slow],
        "origin": [float(x) for x in origin],
    }


def _sensor_keys(
    size: Numbers,
    pixel_mm: Numbers,
    trusted_range: Numbers,
    sensor: Sensor,
    material: str,
) -> dict[str, Any]:
    """Return the keys that say what a panel is. size, pixel_mm: (fast, slow)."""
    return {
        "raw_image_offset": [0, 0],
        "image_size": [int(n) for n in size],
        "pixel_size": [float(x) for x in pixel_mm],
        "trusted_range": [float(x) for x in trusted_range],
        "thickness": sensor.thickness_mm,
        "material": material,
        "mu": 1 / sensor.attenuation_mm if sensor.attenuation_mm else 0.0,
        "identifier": "",
        "mask": [],
        "gain": 1.0,
        "pedestal": 0.0,
        "px_mm_strategy": {"type": PARALLAX if sensor.has_parallax else SURFACE},
    }


# ---------------------------------------------------------------- reading


def detector_of(path: Path, tree: dict) -> Detector:
    """Return a detector in the lab frame. Raises FileError for one that is not supported."""
    panels = tree["panels"]
    leaves: dict[int, _Leaf] = {}
    if "hierarchy" in tree:
        leaves |= _leaves(tree["hierarchy"], np.eye(4), panels)
    for number, panel in enumerate(panels):
        leaves.setdefault(number, _Leaf(_local_frame(panel), ()))
    in_order = [leaves[number] for number in range(len(panels))]

    kinds = {_kind(panel) for panel in panels}
    pixel_fast, pixel_slow = panels[0]["pixel_size"]
    if len(kinds) != 1 or pixel_fast != pixel_slow:
        expected = "panels of equal shape with square, equal pixels"
        raise FileError(path, expected, sorted(kinds), "Not supported.")

    lab = np.array([leaf.frame for leaf in in_order])
    fast, slow = panels[0]["image_size"]
    stated_mm = panels[0].get("thickness", 0.0)
    thickness_mm = 0.0 if 0.0 <= stated_mm < THINNEST_MM else stated_mm
    mu = panels[0].get("mu", 0.0)
    strategy = panels[0].get("px_mm_strategy", {}).get("type")
    has_parallax = strategy == PARALLAX and thickness_mm > 0 and mu > 0
    whole = Detector(
        origin_mm=lab[:, :3, 3],
        fast=lab[:, :3, 0],
        slow=lab[:, :3, 1],
        pixel_mm=pixel_fast,
        shape=(slow, fast),
        thickness_mm=thickness_mm,
        attenuation_mm=1 / mu if mu else 0.0,
        parallax_mm=1 / mu if has_parallax else None,
        levels=levels_of([leaf.branch for leaf in in_order]),
    )
    check(path, whole)
    return whole


def _kind(panel: dict) -> tuple:
    """Return what the panels of a detector must share: shape and sizes of a pixel."""
    sizes_mm = (round(size, N_DECIMALS) for size in panel["pixel_size"])
    return (tuple(panel["image_size"]), *sizes_mm)


def _local_frame(node: dict) -> np.ndarray:
    """Return the (4, 4) transformation from the frame of a node (fast, slow, normal) to that of its
    parent, mm.
    """
    frame = np.eye(4)
    fast, slow, normal, origin = frame[:3].T
    fast[:] = node.get("fast_axis", (1, 0, 0))
    slow[:] = node.get("slow_axis", (0, 1, 0))
    normal[:] = np.cross(fast, slow)
    origin[:] = node.get("origin", (0, 0, 0))
    return frame


class _Leaf(NamedTuple):
    """A panel in its hierarchy."""

    frame: np.ndarray
    """(4, 4) to the laboratory"""
    branch: tuple[int, ...]
    """numbers of the nodes that lead to it, each among its siblings"""


def _leaves(
    node: dict, parent: np.ndarray, panels: list[dict], branch: tuple[int, ...] = ()
) -> Iterator[tuple[int, _Leaf]]:
    """Yield the number and the place of every panel below a node."""
    frame = parent @ _local_frame(node)
    for number, child in enumerate(node["children"]):
        if "panel" in child:
            panel = child["panel"]
            yield panel, _Leaf(frame @ _local_frame(panels[panel]), branch)
        else:
            yield from _leaves(child, frame, panels, (*branch, number))
