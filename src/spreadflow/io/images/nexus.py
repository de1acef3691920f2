"""NXmx stills with per-shot spectra, read (NeXus definition NXmx; McStas frame).

A file may hold any chain of translations and rotations, one or many modules, channels shared or per
shot. `nexus_writer` writes such files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import hdf5plugin  # noqa: F401  (h5py decompresses with the filters that it brings)
import numpy as np

from spreadflow.errors import FileError
from spreadflow.models import Detector, Spectrum
from spreadflow.physics.rotation import from_vector
from spreadflow.units import DEG, energy

LAB_FROM_MCSTAS = np.diag([-1.0, 1.0, -1.0])
"""From the McStas frame to the laboratory frame; its own inverse."""

MM = {"mm": 1.0, "m": 1e3, "cm": 10.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "nm": 1e-6}
"""Units of lengths that are understood, in mm."""

ANGSTROM = {"angstrom": 1.0, "angstroms": 1.0, "Å": 1.0, "nm": 10.0, "pm": 0.01, "m": 1e10}
"""Units of wavelengths that are understood, in Å."""

RADIAN = {"rad": 1.0, "radian": 1.0, "radians": 1.0, "deg": DEG, "degree": DEG, "degrees": DEG}
"""Units of angles that are understood, in rad."""

LONGEST_CHAIN = 100
"""Transformations of a chain; a longer one is taken for a circle."""

SQUARE_TOLERANCE = 1e-6
"""Relative difference of the two edges of a pixel that counts as square."""

ABOUT_FILES = "See docs/files.md, image files."
"""What to do about a file that is not as described there."""


class NexusFile:
    """One NXmx file, open for reading: an `ImageFile`. Raises FileError where the file is missing,
    truncated or not NXmx.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        try:  # without locks, which shared file systems often refuse
            self._file = h5py.File(self.path, "r", locking=False)
        except OSError as error:
            expected = "a readable NXmx HDF5 file"
            raise FileError(self.path, expected, error, "Check that it is complete.") from None
        try:
            self._load()
        except FileError:
            self.close()
            raise
        except (KeyError, OSError, RuntimeError, ValueError, IndexError) as error:
            self.close()
            raise FileError(self.path, "a complete NXmx file", error, ABOUT_FILES) from None

    def _load(self) -> None:
        """Find the groups of the file, and read what its header says."""
        entries = _children(self._file, "NXentry")
        entries = [entry for entry in entries if _text(entry.get("definition")) == "NXmx"]
        entry = _first(entries, "NXentry of definition NXmx", self._file)

        instrument = _first(_children(entry, "NXinstrument"), "NXinstrument", entry)
        self._sensor = _first(_children(instrument, "NXdetector"), "NXdetector", instrument)
        beams = _children(instrument, "NXbeam")
        for sample in _children(entry, "NXsample"):
            beams += _children(sample, "NXbeam")
        self._beam = _first(beams, "NXbeam", instrument)

        self._group = _first(_children(entry, "NXdata"), "NXdata", entry)
        signal = _text(self._group.attrs.get("signal", "data"))
        self._data = self._group[signal]
        if self._data.ndim not in (3, 4):
            expected = "frames (n, slow, fast) or (n, panel, slow, fast)"
            raise FileError(_place(self._data), expected, self._data.shape, ABOUT_FILES)
        self.n_frames = len(self._data)

        modules = _children(self._sensor, "NXdetector_module")
        _first(modules, "NXdetector_module", self._sensor)
        self._modules = [_module(group) for group in modules]
        self.detector = _detector(self.path, self._modules, self._sensor)
        self.mask = self._read_mask()
        shot_ids = entry.get("shots/shot_id")
        self.shot_ids = None if shot_ids is None else shot_ids[()]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def trusted_range(self) -> tuple[float, float]:
        """The lowest and the highest trusted ADU, both inclusive; infinite where not stated."""
        lowest = _number(self._sensor, "underload_value", -np.inf)
        highest = _number(self._sensor, "saturation_value", np.inf)
        return lowest, highest

    @property
    def pedestal(self) -> tuple[float, float]:
        """The pedestal (ADU) and the gain (ADU per photon); 0 and 1 where not stated."""
        offset = _number(self._group, "data_offset", 0.0)
        photons_per_adu = _number(self._group, "data_scaling_factor", 1.0)
        return 0.0 - offset, 1 / photons_per_adu

    def frame(self, number: int) -> np.ndarray:
        """Return an image (panel, slow, fast), ADU, in the type it is stored in. Raises OSError
        where it is damaged.
        """
        try:
            stored = self._data[number]
        except RuntimeError as error:  # of h5py, where a filter fails
            raise OSError(str(error)) from None
        return self._panels(stored)

    def spectrum(self, number: int) -> Spectrum:
        """Return the spectrum of a shot as stored, energies ascending; one channel of 1 photon
        where none was recorded. Raises FileError.
        """
        energies, photons = self.spectra(slice(number, number + 1))
        return Spectrum(energies.reshape(-1), photons[0])

    def spectra(self, frames: slice) -> Spectrum:
        """Return what `spectrum` returns for many frames: photons (frame, channel), energies
        (channel,) where shared, or as photons. Raises FileError.
        """
        try:
            return self._sorted_spectra(frames)
        except (OSError, KeyError, ValueError) as error:
            raise FileError(self.path, "readable spectra", error, ABOUT_FILES) from None

    def _sorted_spectra(self, frames: slice) -> Spectrum:
        """Return the spectra of some frames, as `spectra`."""
        lengths, photons = self._channels(frames)
        with np.errstate(divide="ignore"):
            energies = energy(lengths)
        order = np.argsort(energies, axis=-1)

        n_frames = len(range(self.n_frames)[frames])
        shape = (n_frames, energies.shape[-1])
        photons = np.broadcast_to(photons, shape)
        order_of_photons = np.broadcast_to(order, shape)
        return Spectrum(
            energies_ev=np.take_along_axis(energies, order, -1),
            photons=np.take_along_axis(photons, order_of_photons, -1),
        )

    def _channels(self, frames: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return wavelengths (Å) and photons of the channels of some frames as they are stored:
        each (channel,) or (frame, channel).
        """
        item, weights = self._spectrum_items()
        if weights is None:  # no spectrum: the wavelength of the shot, or of all
            stored = item[()]
            lengths = stored.reshape(1) if item.size == 1 else stored.reshape(-1, 1)[frames]
            photons = np.ones(1)
        else:
            lengths = _rows(item, frames)
            photons = _rows(weights, frames).astype(float)
            n_channels = lengths.shape[-1]
            n_weights = photons.shape[-1]
            if n_weights != n_channels:
                todo = "One weight for each channel."
                raise FileError(_place(weights), f"{n_channels} weights", n_weights, todo)

        wavelengths = lengths.astype(float) * _unit(item, ANGSTROM)
        return wavelengths, photons

    def _spectrum_items(self) -> tuple[h5py.Dataset, h5py.Dataset | None]:
        """Return the datasets of the channels' wavelengths and of their weights; the shots' own
        wavelengths and None where there are no channels.
        """
        name = "incident_wavelength"
        while True:
            weights = self._beam.get(f"{name}_weights", self._beam.get(f"{name}_weight"))
            if weights is not None:
                return self._beam[name], weights
            variant = _text(self._beam[name].attrs.get("variant"))
            if variant not in self._beam or variant == name:
                break
            name = variant

        item = self._beam["incident_wavelength"]
        if item.size not in (1, self.n_frames):
            expected = f"1 or {self.n_frames} wavelengths"
            raise FileError(_place(item), expected, item.shape, "Spectra need weights.")
        return item, None

    def _panels(self, stored: np.ndarray) -> np.ndarray:
        """Return (panel, slow, fast) of an array shaped like one frame."""
        shape = self.detector.shape
        has_one_panel = len(self._modules) == 1
        if has_one_panel and stored.size == np.prod(shape):
            return stored.reshape(1, *shape)
        panels = [stored[module.place] for module in self._modules]
        return np.stack([panel.reshape(shape) for panel in panels])

    def _read_mask(self) -> np.ndarray:
        """Return the pixels that no mask of the file excludes, (panel, slow, fast) bool."""
        shape = self._data.shape[1:]
        is_bad = np.zeros(shape, bool)
        for name, item in self._sensor.items():
            if name != "pixel_mask" and not name.startswith("pixel_mask_"):
                continue
            if item.shape != shape:
                raise FileError(_place(item), f"shape {shape}", item.shape, "Correct the mask.")
            is_bad |= item[()] != 0
        return ~self._panels(is_bad)


# ---------------------------------------------------------------- where the modules are


class _Module(NamedTuple):
    """One panel: its pixels in a frame, and where it is in the laboratory."""

    place: tuple[slice, ...]
    """of its pixels in a frame"""
    origin_mm: np.ndarray
    """(3,) outer corner of pixel (0, 0)"""
    fast: np.ndarray
    """(3,) unit vector"""
    slow: np.ndarray
    """(3,) unit vector"""
    pixel_mm: float

    @property
    def shape(self) -> tuple[int, int]:
        """(slow, fast) pixels."""
        slow, fast = self.place[-2:]
        return slow.stop - slow.start, fast.stop - fast.start


def _detector(path: Path, modules: Sequence[_Module], sensor: h5py.Group) -> Detector:
    """Return the detector that modules make up. Raises FileError for one that is not supported."""
    origin_mm = np.array([module.origin_mm for module in modules])
    shapes = {module.shape for module in modules}
    pixels_mm = {round(module.pixel_mm, 9) for module in modules}
    if len(shapes) > 1 or len(pixels_mm) > 1:
        expected = "modules of equal shape and pixel size"
        raise FileError(path, expected, shapes, "Not supported.")
    if origin_mm[:, 2].mean() >= 0:
        expected = "a detector downstream (McStas z > 0)"
        raise FileError(path, expected, origin_mm, "Check the rail's sign.")

    thickness = sensor.get("sensor_thickness")
    capture = {} if thickness is None else thickness.attrs
    return Detector(
        origin_mm=origin_mm,
        fast=np.array([module.fast for module in modules]),
        slow=np.array([module.slow for module in modules]),
        pixel_mm=modules[0].pixel_mm,
        shape=shapes.pop(),
        thickness_mm=float(capture.get("capture_thickness_mm", 0.0)),
        attenuation_mm=float(capture.get("capture_attenuation_mm", 0.0)),
    )


def _module(group: h5py.Group) -> _Module:
    """Return a module. Raises FileError where its pixels are not square."""
    fast = group["fast_pixel_direction"]
    slow = group["slow_pixel_direction"]
    sizes_mm = [_pixel_mm(fast), _pixel_mm(slow)]
    if abs(sizes_mm[0] - sizes_mm[1]) > SQUARE_TOLERANCE * sizes_mm[0]:
        raise FileError(_place(group), "square pixels", f"{sizes_mm} mm", "Not supported.")

    corner = np.ravel(group["data_origin"][()]).astype(int)
    size = np.ravel(group["data_size"][()]).astype(int)
    edges = zip(corner.tolist(), (corner + size).tolist(), strict=True)
    origin = _to_mcstas(fast)[:3, 3]
    return _Module(
        place=tuple(slice(first, end) for first, end in edges),
        origin_mm=LAB_FROM_MCSTAS @ origin + 0.0,  # no negative zeros
        fast=_direction(fast),
        slow=_direction(slow),
        pixel_mm=float(sizes_mm[0]),
    )


def _pixel_mm(direction: h5py.Dataset) -> float:
    """Return the edge of a pixel along a direction."""
    return np.ravel(direction[()])[0] * _unit(direction, MM)


def _direction(item: h5py.Dataset) -> np.ndarray:
    """Return the unit vector of a pixel direction in the laboratory."""
    turn = _to_mcstas(item)[:3, :3]
    axis = LAB_FROM_MCSTAS @ turn @ item.attrs["vector"]
    return axis / np.linalg.norm(axis) + 0.0


def _to_mcstas(item: h5py.Dataset) -> np.ndarray:
    """Return the (4, 4) transformation, mm, from the frame of a pixel direction to McStas, along
    its chain (T = T3 T2 T1).
    """
    total = _transformation(item, moves=False)
    for _ in range(LONGEST_CHAIN):
        target = _text(item.attrs.get("depends_on", "."))
        if target == ".":
            return total
        item = item.parent[target]
        total = _transformation(item) @ total
    raise FileError(_place(item), "a chain that ends", "a circle of depends_on", "Correct it.")


def _transformation(item: h5py.Dataset, moves: bool = True) -> np.ndarray:
    """Return the (4, 4) matrix of one transformation, mm; without its own displacement where it
    does not move.
    """
    kind = _text(item.attrs.get("transformation_type"))
    vector = np.asarray(item.attrs["vector"], float)
    values = np.atleast_1d(item[()])
    if np.ptp(values) > 0:
        raise FileError(_place(item), "one value for all frames", values, "Split the file.")

    value = values[0]
    matrix = np.eye(4)
    offset = np.asarray(item.attrs.get("offset", 0.0), float)
    if offset.any():
        matrix[:3, 3] = offset * _unit(item, MM, "offset_units")
    if value and kind == "rotation":
        axis = vector / np.linalg.norm(vector)
        matrix[:3, :3] = from_vector(axis * value * _unit(item, RADIAN))
    elif value and moves:
        matrix[:3, 3] += vector * value * _unit(item, MM)
    return matrix


# ---------------------------------------------------------------- items of HDF5


def _first(items: Sequence[Any], what: str, parent: h5py.Group) -> Any:
    """Return the first of the items that were found in a group. Raises FileError where there are
    none.
    """
    if not items:
        raise FileError(_place(parent), f"a {what}", "none", "This is not an NXmx file.")
    return items[0]


def _place(item: h5py.Group | h5py.Dataset) -> str:
    """Return where an item is, for an error: file and path in it."""
    return f"{item.file.filename}:{item.name}"


def _unit(item: h5py.Dataset, units: dict[str, float], attribute: str = "units") -> float:
    """Return the factor of an item's unit. Raises FileError for a unit that is not understood."""
    unit = _text(item.attrs.get(attribute, item.attrs.get("units")))
    if unit not in units:
        expected = f"units among {', '.join(units)}"
        raise FileError(_place(item), expected, repr(unit), "Correct it.")
    return units[unit]


def _text(value: Any) -> str:
    """Return a NeXus string, of fixed or variable length, dataset or attribute; '' where there is
    none.
    """
    if isinstance(value, h5py.Dataset):
        value = value[()]
    if isinstance(value, np.ndarray):
        value = value.ravel()[0] if value.size else ""
    if isinstance(value, bytes):
        return value.decode()
    return "" if value is None else str(value)


def _children(group: h5py.Group, nx_class: str) -> list[h5py.Group]:
    """Return the groups of a NeXus class in a group."""
    children = []
    for name in group:
        item = group.get(name)  # None for a link to nowhere
        if isinstance(item, h5py.Group) and _text(item.attrs.get("NX_class")) == nx_class:
            children.append(item)
    return children


def _rows(item: h5py.Dataset, frames: slice) -> np.ndarray:
    """Return the rows of some frames where a dataset has a row for each, else all of it."""
    stored = item[frames] if item.ndim == 2 else item[()]
    return np.atleast_1d(stored)


def _number(group: h5py.Group, name: str, default: float) -> float:
    """Return the number in a dataset, or the default where there is no such dataset."""
    item = group.get(name)
    if item is None:
        return default
    return float(np.ravel(item[()])[0])
