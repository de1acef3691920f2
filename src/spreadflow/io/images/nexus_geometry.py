"""The modules of an NXmx detector: which pixels of a frame are theirs, and where they are in the
laboratory, along any chain of translations and rotations (McStas frame).
"""

import posixpath
from collections.abc import Callable, Sequence
from typing import NamedTuple

import h5py
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io import panels
from spreadflow.io.images.nexus_items import (
    ABOUT_FILES,
    LARGEST,
    children,
    dataset,
    item_of,
    number,
    numbers,
    place,
    text,
    unit_of,
)
from spreadflow.io.images.unit_names import MM, RADIAN, unit_factor
from spreadflow.models import Detector
from spreadflow.physics import sensors
from spreadflow.physics.rotation import from_vector

LAB_FROM_MCSTAS = np.diag([-1.0, 1.0, -1.0])
"""From the McStas frame to the laboratory frame; its own inverse."""

CAPTURE_THICKNESS = "capture_thickness_mm"
"""Attribute of `sensor_thickness` with the thickness of a simulated sensor."""

CAPTURE_ATTENUATION = "capture_attenuation_mm"
"""Attribute with its attenuation length."""

CAPTURE_PARALLAX = "capture_parallax"
"""Attribute that says whether spots lie at the depth at which it absorbs."""

PIXEL_SIZES = ("x_pixel_size", "y_pixel_size")
"""Datasets of a detector with the edges of its pixels."""

BEAM_CENTRE = ("beam_center_x", "beam_center_y")
"""Datasets with the place of the direct beam, fast and slow, px."""

DISTANCES = ("detector_distance", "distance")
"""Datasets, one of which is the distance of the detector."""


class Module(NamedTuple):
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

    def turned(self) -> "Module":
        """Return it with its size in the order fast, slow, as some writers have it."""
        *others, fast, slow = self.size
        return self._replace(size=(*others, slow, fast))

    def of_one_panel(self, shape: Sequence[int], n_frames: int) -> "Module":
        """Return it without an axis of frames, or with one of a single panel, as the shape of a
        frame asks for.
        """
        has_more_axes = len(self.size) == len(shape) + 1
        if has_more_axes and self.corner[0] == 0 and self.size[0] in (1, n_frames):
            return Module(self.corner[1:], self.size[1:])
        if len(self.size) == len(shape) - 1 and shape[0] == 1:
            return Module((0, *self.corner), (1, *self.size))
        return self


def stated_modules(sensor: h5py.Group) -> list[Module]:
    """Return the pixels of the modules of a detector, in the order of their names; none where it
    has no modules. Raises FileError.
    """
    return [_module(group) for group in children(sensor, "NXdetector_module")]


def is_flat(sensor: h5py.Group) -> bool:
    """Whether a detector has neither modules nor a chain of transformations, but states pixel size,
    beam centre and distance, as the master files of older Dectris detectors do.
    """
    has_all = all(dataset(sensor, name) is not None for name in (*PIXEL_SIZES, *BEAM_CENTRE))
    has_distance = any(dataset(sensor, name) is not None for name in DISTANCES)
    return has_all and has_distance and "depends_on" not in sensor


def frame_as_modules(shape: Sequence[int]) -> list[Module]:
    """Return each plane of a frame as a module."""
    if len(shape) == 2:
        return [Module((0, 0), tuple(shape))]
    return [Module((number, 0, 0), (1, *shape[1:])) for number in range(shape[0])]


def _module(group: h5py.Group) -> Module:
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
    return Module(corner, size)


def fitted(stated: Sequence[Module], shape: Sequence[int], n_frames: int) -> list[Module] | None:
    """Return modules as they lie in frames of a shape: as stated, or with sizes in the order fast,
    slow; None where they don't fit either way, or overlap.
    """
    plain = [one.of_one_panel(shape, n_frames) for one in stated]
    for candidate in (plain, [one.turned() for one in plain]):
        if all(one.fits(shape) for one in candidate) and not overlap(candidate):
            return candidate
    return None


def overlap(modules: Sequence[Module]) -> bool:
    """Whether two of the modules have a pixel in common."""
    start = np.array([module.corner for module in modules])
    end = start + np.array([module.size for module in modules])
    is_before = start[:, None] < end[None]
    in_common = (is_before & is_before.transpose(1, 0, 2)).all(axis=2)
    return bool(np.count_nonzero(in_common) > len(modules))


def detector(
    sensor: h5py.Group, modules: Sequence[Module], wavelength: Callable[[], float]
) -> Detector:
    """Return the detector that modules make up, which lie in a frame as `fitted` says. Raises
    FileError for one that is not supported, or not in its place.

    wavelength: returns that of the first frame, Å, where the sensor's matter has to be known.
    """
    shapes = [(module.size[-2], module.size[-1]) for module in modules]
    groups = children(sensor, "NXdetector_module")
    if groups:
        known: dict[str, np.ndarray] = {}
        pairs = zip(groups, shapes, strict=True)
        stated = [_panel(group, shape, sensor, known) for group, shape in pairs]
    else:
        stated = [_flat_panel(sensor, shapes[0])]
    whole = panels.detector(place(sensor), stated, matter(sensor, wavelength))
    return whole._replace(levels=panels.levels_of([_branch(group, sensor) for group in groups]))


def _branch(group: h5py.Group, sensor: h5py.Group) -> list[str]:
    """Return the names of the steps that a module rests on, the first that of the laboratory."""
    names = []
    item = _below(_step_of(group, "fast_pixel_direction"), sensor)
    while item is not None:
        names.append(str(item.name))
        item = _below(item, sensor)
    return names[::-1]


def matter(sensor: h5py.Group, wavelength: Callable[[], float]) -> panels.Sensor:
    """Return what captures the photons: as this project's files state it, else by
    `sensor_thickness` and `sensor_material`. Raises FileError for a thickness that is no length.
    """
    item = dataset(sensor, "sensor_thickness")
    if item is None:
        return panels.Sensor()
    if CAPTURE_THICKNESS in item.attrs:
        return panels.Sensor(
            thickness_mm=float(item.attrs[CAPTURE_THICKNESS]),
            attenuation_mm=float(item.attrs.get(CAPTURE_ATTENUATION, 0.0)),
            has_parallax=bool(item.attrs.get(CAPTURE_PARALLAX, False)),
        )
    material = text(dataset(sensor, "sensor_material"))
    thickness = number(sensor, "sensor_thickness", 0.0)
    if material.lower() not in sensors.NAMES or not thickness:
        return panels.Sensor()
    return panels.sensor_of(material, thickness * unit_of(item, MM), wavelength())


def _panel(
    group: h5py.Group, shape: tuple[int, int], sensor: h5py.Group, known: dict[str, np.ndarray]
) -> panels.Panel:
    """Return where a module of a shape is. Raises FileError. known: as of `_frame_of`."""
    origins_mm = []
    steps_mm = []
    for axis in ("fast", "slow"):
        item = _step_of(group, f"{axis}_pixel_direction")
        below = _frame_of(_below(item, sensor), sensor, known)
        chain = LAB_FROM_MCSTAS @ (below @ _transformation(item, moves=False))[:3]
        origins_mm.append(chain[:, 3])
        steps_mm.append(chain[:, :3] @ _axis(item) * _value(item) * unit_of(item, MM))
    return panels.Panel(
        origin_mm=origins_mm[0], fast_mm=steps_mm[0], slow_mm=steps_mm[1], shape=shape
    )


def _flat_panel(sensor: h5py.Group, shape: tuple[int, int]) -> panels.Panel:
    """Return where a detector without modules is: it faces the beam. Raises FileError."""
    edges_mm = [number(sensor, name, np.nan) * unit_of(sensor[name], MM) for name in PIXEL_SIZES]
    beam_px = [number(sensor, name, np.nan) for name in BEAM_CENTRE]
    name = next(name for name in DISTANCES if dataset(sensor, name) is not None)
    distance_mm = number(sensor, name, np.nan) * unit_of(sensor[name], MM)
    beam_mm = (beam_px[0] * edges_mm[0], beam_px[1] * edges_mm[1])
    return panels.upright(beam_mm, distance_mm, (edges_mm[0], edges_mm[1]), shape)


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


def _frame_of(
    item: h5py.Dataset | None, sensor: h5py.Group, known: dict[str, np.ndarray], depth: int = 0
) -> np.ndarray:
    """Return the (4, 4) transformation, mm, from the frame that a step makes to McStas, along its
    chain (T = T1 T2 T3 from the last to the first). Raises FileError.

    item: None for McStas itself. known: transformations of steps by name, which are added to.
    """
    if item is None:
        return np.eye(4)
    if depth > panels.LONGEST_CHAIN:
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
