"""The modules of an NXmx detector: which pixels of a frame are theirs, and where they are in the
laboratory, along any chain of translations and rotations (McStas frame).
"""

import posixpath
from collections.abc import Sequence
from typing import NamedTuple

import h5py
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images.nexus_items import (
    ABOUT_FILES,
    LARGEST,
    MM,
    RADIAN,
    children,
    dataset,
    item_of,
    number,
    numbers,
    place,
    text,
    unit_factor,
    unit_of,
)
from spreadflow.models import Detector
from spreadflow.physics.rotation import from_vector

LAB_FROM_MCSTAS = np.diag([-1.0, 1.0, -1.0])
"""From the McStas frame to the laboratory frame; its own inverse."""

LONGEST_CHAIN = 100
"""Transformations of a chain; a longer one is taken for a circle."""

PIXEL_SIZES = ("x_pixel_size", "y_pixel_size")
"""Datasets of a detector with the edges of its pixels."""

BEAM_CENTRE = ("beam_center_x", "beam_center_y")
"""Datasets with the place of the direct beam, fast and slow, px."""

DISTANCES = ("detector_distance", "distance")
"""Datasets, one of which is the distance of the detector."""

SQUARE_TOLERANCE = 1e-6
"""Relative difference of the two edges of a pixel that counts as square."""

RIGHT_ANGLE_TOLERANCE = 1e-4
"""Largest cosine of the angle between the axes of a panel: files state vectors to a few digits."""


class Place(NamedTuple):
    """The pixels of a module as its `data_origin` and `data_size` have them."""

    corner: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def slices(self) -> tuple[slice, ...]:
        """Its pixels in a frame."""
        pairs = zip(self.corner, self.size, strict=True)
        return tuple(slice(start, start + length) for start, length in pairs)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether it lies within a frame of this shape."""
        return len(shape) == len(self.size) and all(
            start >= 0 and length > 0 and start + length <= edge
            for start, length, edge in zip(self.corner, self.size, shape, strict=True)
        )

    def turned(self) -> "Place":
        """Return it with its size in the order fast, slow, as some writers have it."""
        *others, fast, slow = self.size
        return self._replace(size=(*others, slow, fast))

    def of_one_panel(self, shape: Sequence[int], n_frames: int) -> "Place":
        """Return it without an axis of frames, or with one of a single panel, as the shape of a
        frame asks for.
        """
        has_more_axes = len(self.size) == len(shape) + 1
        if has_more_axes and self.corner[0] == 0 and self.size[0] in (1, n_frames):
            return Place(self.corner[1:], self.size[1:])
        if len(self.size) == len(shape) - 1 and shape[0] == 1:
            return Place((0, *self.corner), (1, *self.size))
        return self


def places(sensor: h5py.Group) -> list[Place]:
    """Return the pixels of the modules of a detector, in the order of their names; none where it
    has no modules. Raises FileError.
    """
    return [_place_of(group) for group in children(sensor, "NXdetector_module")]


def is_flat(sensor: h5py.Group) -> bool:
    """Whether a detector has neither modules nor a chain of transformations, but states pixel size,
    beam centre and distance, as the master files of older Dectris detectors do.
    """
    has_all = all(dataset(sensor, name) is not None for name in (*PIXEL_SIZES, *BEAM_CENTRE))
    has_distance = any(dataset(sensor, name) is not None for name in DISTANCES)
    return has_all and has_distance and "depends_on" not in sensor


def frame_as_module(shape: Sequence[int]) -> list[Place] | None:
    """Return a frame as one module; None where it has several panels."""
    has_one_panel = len(shape) == 2 or shape[0] == 1
    return [Place((0,) * len(shape), tuple(shape))] if has_one_panel else None


def _place_of(group: h5py.Group) -> Place:
    """Return the pixels of a module. Raises FileError."""
    rows = []
    for name in ("data_origin", "data_size"):
        item = dataset(group, name)
        if item is None:
            raise FileError(place(group), f"a dataset {name}", "none", ABOUT_FILES)
        values = numbers(item).ravel()
        is_whole = (np.abs(values) < LARGEST) & (values == np.round(values))
        if not is_whole.all() or not 2 <= len(values) <= 4:
            raise FileError(place(item), "2 to 4 whole numbers", values, ABOUT_FILES)
        rows.append(tuple(values.astype(int).tolist()))
    corner, size = rows
    if len(corner) != len(size):
        found = f"{len(corner)} and {len(size)}"
        raise FileError(place(group), "as many origins as sizes", found, ABOUT_FILES)
    return Place(corner, size)


def fitted(stated: Sequence[Place], shape: Sequence[int], n_frames: int) -> list[Place] | None:
    """Return modules as they lie in frames of a shape: as stated, or with sizes in the order fast,
    slow; None where they don't fit either way, or overlap.
    """
    plain = [one.of_one_panel(shape, n_frames) for one in stated]
    for candidate in (plain, [one.turned() for one in plain]):
        if all(one.fits(shape) for one in candidate) and not _overlap(candidate):
            return candidate
    return None


def _overlap(modules: Sequence[Place]) -> bool:
    """Whether two of the modules have a pixel in common."""
    start = np.array([module.corner for module in modules])
    end = start + np.array([module.size for module in modules])
    is_before = start[:, None] < end[None]
    in_common = (is_before & is_before.transpose(1, 0, 2)).all(axis=2)
    return bool(np.count_nonzero(in_common) > len(modules))


def detector(sensor: h5py.Group, modules: Sequence[Place]) -> Detector:
    """Return the detector that modules make up, which lie in a frame as `fitted` says. Raises
    FileError for one that is not supported, or not in its place.
    """
    shapes = {module.size[-2:] for module in modules}
    known: dict[str, np.ndarray] = {}
    panels = [_panel(group, sensor, known) for group in children(sensor, "NXdetector_module")]
    panels = panels or [_flat_panel(sensor)]
    pixels_mm = {round(panel.pixel_mm, 9) for panel in panels}
    if len(shapes) > 1 or len(pixels_mm) > 1:
        expected = "modules of equal shape and pixel size"
        found = f"{sorted(shapes)} px of {sorted(pixels_mm)} mm"
        raise FileError(place(sensor), expected, found, "Not supported.")
    (shape,) = shapes
    thickness = dataset(sensor, "sensor_thickness")
    capture = {} if thickness is None else thickness.attrs
    whole = Detector(
        origin_mm=np.array([panel.origin_mm for panel in panels]),
        fast=np.array([panel.fast for panel in panels]),
        slow=np.array([panel.slow for panel in panels]),
        pixel_mm=panels[0].pixel_mm,
        shape=(int(shape[0]), int(shape[1])),
        thickness_mm=float(capture.get("capture_thickness_mm", 0.0)),
        attenuation_mm=float(capture.get("capture_attenuation_mm", 0.0)),
    )
    _check(whole, sensor)
    return whole


def _check(whole: Detector, sensor: h5py.Group) -> None:
    """Raise FileError for a detector whose numbers are not finite, with axes that are not at right
    angles, or with a panel that is not downstream.
    """
    vectors = np.concatenate([whole.origin_mm, whole.fast, whole.slow])
    if not np.isfinite(vectors).all():
        raise FileError(place(sensor), "a finite geometry", whole.origin_mm, ABOUT_FILES)
    cosine = np.abs((whole.fast * whole.slow).sum(axis=1)).max()
    if cosine > RIGHT_ANGLE_TOLERANCE:
        expected = "fast and slow pixel directions at right angles"
        found = f"{np.degrees(np.arccos(min(cosine, 1.0))):.3g}°"
        raise FileError(place(sensor), expected, found, "Correct the vectors.")
    slow, fast = whole.shape
    half_mm = 0.5 * float(whole.pixel_mm)
    centres = whole.origin_mm + half_mm * (fast * whole.fast + slow * whole.slow)
    if centres[:, 2].max() >= 0:
        expected = "a detector downstream (McStas z > 0)"
        found = f"a panel at z = {-centres[:, 2].max():g} mm"
        todo = "Check the rail's sign, and that depends_on names it."
        raise FileError(place(sensor), expected, found, todo)


class _Panel(NamedTuple):
    """Where a module is in the laboratory."""

    origin_mm: np.ndarray
    """(3,) outer corner of pixel (0, 0)"""
    fast: np.ndarray
    """(3,) unit vector"""
    slow: np.ndarray
    """(3,) unit vector"""
    pixel_mm: float


def _panel(group: h5py.Group, sensor: h5py.Group, known: dict[str, np.ndarray]) -> _Panel:
    """Return where a module is. Raises FileError where its pixels are not square. known: as of
    `_frame_of`.
    """
    fast, slow = (_step_of(group, f"{axis}_pixel_direction") for axis in ("fast", "slow"))
    edges_mm = [_value(item) * unit_of(item, MM) for item in (fast, slow)]
    sizes_mm = np.abs(edges_mm)
    if not sizes_mm.min() > 0 or np.ptp(sizes_mm) > SQUARE_TOLERANCE * sizes_mm[0]:
        raise FileError(place(group), "square pixels", f"{edges_mm} mm", "Not supported.")
    chain_fast, chain_slow = (
        _frame_of(_below(item, sensor), sensor, known) @ _transformation(item, moves=False)
        for item in (fast, slow)
    )
    return _Panel(
        origin_mm=LAB_FROM_MCSTAS @ chain_fast[:3, 3] + 0.0,  # no negative zeros
        fast=_direction(fast, chain_fast, np.sign(edges_mm[0])),
        slow=_direction(slow, chain_slow, np.sign(edges_mm[1])),
        pixel_mm=float(sizes_mm[0]),
    )


def _flat_panel(sensor: h5py.Group) -> _Panel:
    """Return where a detector without modules is: it faces the beam, x along fast, y against slow.
    Raises FileError where its pixels are not square.
    """
    edges_mm = []
    for name in PIXEL_SIZES:
        edges_mm.append(number(sensor, name, np.nan) * unit_of(sensor[name], MM))
    if not min(edges_mm) > 0 or abs(edges_mm[1] - edges_mm[0]) > SQUARE_TOLERANCE * edges_mm[0]:
        raise FileError(place(sensor), "square pixels", f"{edges_mm} mm", "Not supported.")
    fast, slow = (number(sensor, name, np.nan) * edges_mm[0] for name in BEAM_CENTRE)
    name = next(name for name in DISTANCES if dataset(sensor, name) is not None)
    distance_mm = number(sensor, name, np.nan) * unit_of(sensor[name], MM)
    return _Panel(
        origin_mm=np.array([-fast, slow, -distance_mm]),
        fast=np.array([1.0, 0.0, 0.0]),
        slow=np.array([0.0, -1.0, 0.0]),
        pixel_mm=edges_mm[0],
    )


def _step_of(group: h5py.Group, name: str) -> h5py.Dataset:
    """Return a step of a module. Raises FileError where there is none."""
    item = dataset(group, name)
    if item is None:
        raise FileError(place(group), f"a dataset {name}", "none", ABOUT_FILES)
    return item


def _value(item: h5py.Dataset) -> float:
    """Return the one value of a step. Raises FileError."""
    values = numbers(item).ravel()
    if not len(values) or not np.isfinite(values).all():
        raise FileError(place(item), "a finite number", values, ABOUT_FILES)
    if np.ptp(values.astype(float)) > 0:
        raise FileError(place(item), "one value for all frames", values, "Split the file.")
    return float(values[0])


def _vector(item: h5py.Dataset, attribute: str) -> np.ndarray:
    """Return a vector (3,) of a step's attributes. Raises FileError."""
    vector = np.ravel(np.asarray(item.attrs.get(attribute, ()), float))
    if len(vector) != 3 or not np.isfinite(vector).all():
        expected = f"three finite numbers in {attribute}"
        raise FileError(place(item), expected, vector, ABOUT_FILES)
    return vector


def _axis(item: h5py.Dataset) -> np.ndarray:
    """Return the unit vector of a step. Raises FileError."""
    vector = _vector(item, "vector")
    length = np.linalg.norm(vector)
    if not length > 0:
        raise FileError(place(item), "a vector with a length", vector, ABOUT_FILES)
    return vector / length


def _direction(item: h5py.Dataset, chain: np.ndarray, sign: float) -> np.ndarray:
    """Return the unit vector of a pixel direction in the laboratory; sign: of its pixel size."""
    return sign * (LAB_FROM_MCSTAS @ chain[:3, :3] @ _axis(item)) + 0.0


def _frame_of(
    item: h5py.Dataset | None, sensor: h5py.Group, known: dict[str, np.ndarray], depth: int = 0
) -> np.ndarray:
    """Return the (4, 4) transformation, mm, from the frame that a step makes to McStas, along its
    chain (T = T1 T2 T3 from the last to the first). Raises FileError.

    item: None for McStas itself. known: transformations of steps by name, which are added to.
    """
    if item is None:
        return np.eye(4)
    if depth > LONGEST_CHAIN:
        raise FileError(place(item), "a chain that ends", "a circle of depends_on", "Correct it.")
    name = str(item.name)
    if name not in known:
        below = _frame_of(_below(item, sensor), sensor, known, depth + 1)
        known[name] = below @ _transformation(item)
    return known[name]


def _below(item: h5py.Dataset, sensor: h5py.Group) -> h5py.Dataset | None:
    """Return the step that a step depends on, None for the last one.

    What a module leaves open: its pixel directions rest on its `module_offset` where it has one,
    and the module on the `depends_on` of the detector.
    """
    target = text(item.attrs.get("depends_on"))
    is_of_module = text(item.parent.attrs.get("NX_class")) == "NXdetector_module"
    if not target and is_of_module:
        offset = dataset(item.parent, "module_offset")
        if offset is not None and offset != item:
            return offset
        target = text(item_of(sensor, "depends_on"))
        return _resolved(target, item, sensor)
    return _resolved(target, item, sensor)


def _resolved(target: str, item: h5py.Dataset, sensor: h5py.Group) -> h5py.Dataset | None:
    """Return the step of a path, None for `.`: absolute, or relative to the item, the detector or
    its transformations. Raises FileError.
    """
    if target in ("", "."):
        return None
    folders = (item.parent.name, sensor.name, f"{sensor.name}/transformations", "/")
    for folder in folders:
        step = item_of(item.file, posixpath.normpath(posixpath.join(folder, target)))
        if isinstance(step, h5py.Dataset):
            return step
    raise FileError(place(item), "depends_on of a step", repr(target), "There is no such item.")


def _transformation(item: h5py.Dataset, moves: bool = True) -> np.ndarray:
    """Return the (4, 4) matrix of one transformation, mm; without its own displacement where it
    does not move.
    """
    matrix = np.eye(4)
    if "offset" in item.attrs:
        offset = _vector(item, "offset")
        if offset.any():
            matrix[:3, 3] = offset * unit_of(item, MM, "offset_units")
    value = _value(item)
    if not value or not moves:
        return matrix
    if _is_rotation(item):
        matrix[:3, :3] = from_vector(_axis(item) * value * unit_of(item, RADIAN))
    else:
        matrix[:3, 3] += _vector(item, "vector") * value * unit_of(item, MM)
    return matrix


def _is_rotation(item: h5py.Dataset) -> bool:
    """Whether a step turns rather than moves: by its type or, where it states none, its unit.
    Raises FileError for another type.
    """
    kind = text(item.attrs.get("transformation_type")).strip().lower()
    if kind not in ("", "rotation", "translation"):
        raise FileError(place(item), "a translation or rotation", repr(kind), ABOUT_FILES)
    unit = text(item.attrs.get("units"))
    return kind == "rotation" or (not kind and unit_factor(unit, RADIAN) is not None)
