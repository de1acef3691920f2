"""NXmx stills with per-shot spectra, read (NeXus definition NXmx; McStas frame).

A file may hold any chain of translations and rotations, one or many modules, frames in one dataset
or several files, channels shared or per shot. `nexus_writer` writes such files.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import h5py
import hdf5plugin  # noqa: F401  (h5py decompresses with the filters that it brings)
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images import nexus_geometry, nexus_pixels
from spreadflow.io.images.kept import KeptArrays
from spreadflow.io.images.layout import Layout, panels_of
from spreadflow.io.images.nexus_frames import Stack, stacks
from spreadflow.io.images.nexus_geometry import Module
from spreadflow.io.images.nexus_items import (
    ABOUT_FILES,
    BROKEN,
    children,
    dataset,
    first,
    numbers,
    place,
    text,
)
from spreadflow.io.images.nexus_spectra import Spectra
from spreadflow.models import Spectrum
from spreadflow.units import wavelength

TURNED = (
    "data_size is in the order fast, slow: understood as such, as it fits the frames in no other"
)
"""What is said of modules whose sizes are turned."""

NOT_NXMX = "HDF5 of another kind is read with a CrystFEL geometry file: --geometry FILE."
"""What to do about HDF5 that is not NXmx."""

FLAT = "no NXdetector_module: taken as one panel that faces the beam, by distance and beam centre"
"""What is said of detectors without modules."""


class NexusFile:
    """One NXmx file, open for reading: an `ImageFile`.

    layout: what stands in place of the header's geometry. Raises FileError where the file is
    missing, truncated or not NXmx, or either geometry is none.
    """

    def __init__(self, path: Path | str, layout: Layout | None = None):
        self.path = Path(path)
        self._layout = layout
        try:  # without locks, which shared file systems often refuse
            self._file = h5py.File(self.path, "r", locking=False)
        except (OSError, RuntimeError) as error:
            expected = "a readable NXmx HDF5 file"
            raise FileError(self.path, expected, error, "Check that it is complete.") from None
        try:
            self._load()
        except FileError:
            self.close()
            raise
        except BROKEN as error:
            self.close()
            raise FileError(self.path, "a complete NXmx file", error, ABOUT_FILES) from None

    def _load(self) -> None:
        """Find the groups of the file, and read what its header says."""
        entry = _entry(self._file)
        instrument = first(children(entry, "NXinstrument"), "NXinstrument", entry)
        layout = self._layout
        recording = _recording(entry, instrument, layout)
        self._stack = recording.stack
        self._sensor = recording.sensor
        self._modules = recording.modules
        self._remarks = [*recording.remarks, *(layout.remarks if layout else ())]
        self.n_frames = self._stack.n_frames
        self._spectra = Spectra(entry, instrument, self.n_frames)
        if layout is None:
            self.detector = nexus_geometry.detector(self._sensor, self._modules, self._wavelength)
        else:
            self.detector = layout.detector_with(
                lambda: nexus_geometry.matter(self._sensor, self._wavelength)
            )

        groups = (recording.group, self._sensor)
        self._calibration = nexus_pixels.Calibration(groups, self._stack)
        self.pedestal = self._calibration.pedestal
        self._stated_limits = nexus_pixels.limits(self._sensor, self._stack)
        self._masks = nexus_pixels.Masks(self._sensor, self._stack)
        self.mask = ~self._panels(self._masks.is_bad)
        if layout is not None and layout.mask is not None:
            self.mask = self.mask & layout.mask
        self.polarization = self._spectra.polarization()
        self.shot_ids = _shot_ids(entry, self.n_frames)

    def _wavelength(self) -> float:
        """Return the wavelength of the first frame that has one, Å; no finite one where none is
        known.
        """
        for number in range(self.n_frames):
            with suppress(FileError), np.errstate(all="ignore"):
                length = float(wavelength(self.spectrum(number).mean_energy_ev))
                if np.isfinite(length):
                    return length
        return np.inf

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @cached_property
    def _limits(self) -> nexus_pixels.Limits:
        """Which numbers of the pixels are trusted; a frame or two are looked at where the file does
        not say.
        """
        return nexus_pixels.without_gaps(self._stack, self._stated_limits)

    @property
    def trusted_range(self) -> tuple[float, float]:
        """The lowest and the highest trusted number of a frame, both inclusive; infinite where not
        stated.
        """
        limits = self._limits
        if not self._calibration.varies:
            return limits.low, limits.high
        return -np.inf, self._calibration.highest(limits.high)

    @property
    def remarks(self) -> list[str]:
        """What the file leaves open and was assumed, or lacks: a sentence each, without a path."""
        try:
            self._spectra.of_frames(slice(0, 1))
        except FileError as error:
            reason = str(error).replace(f"{self.path}:", "")
            wavelength = [f"no wavelength can be read: {reason}"]
        else:
            wavelength = []
        of_frames = [*self._remarks, *self._stack.remarks]
        of_frames += dict.fromkeys(self._stack.lost.values())
        return [*of_frames, *self._limits.remarks, *self._spectra.remarks, *wavelength]

    def frame(self, number: int, kept: KeptArrays | None = None) -> np.ndarray:
        """Return an image (panel, slow, fast), ADU, in the type it is stored in; as float where
        offset or scaling vary, which are applied then, and where pixels of it alone are not to be
        used, which are NaN. Raises OSError where it is damaged. kept: arrays that it is read into.
        """
        stored = self._stack.frame(number, kept)
        try:
            is_bad = self._masks.of_frame(number)
            adu = self._calibrated(stored, number) if self._calibration.varies else stored
        except (FileError, *BROKEN) as error:
            raise OSError(str(error)) from None
        if np.isfinite(self._limits.highest_sound):
            is_gap = stored > self._limits.highest_sound
            is_bad = is_gap if is_bad is None else is_bad | is_gap
        if is_bad is not None and is_bad.any():
            adu = adu.astype(np.result_type(adu.dtype, np.float32))
            adu[is_bad] = np.nan
        return self._panels(adu)

    def _calibrated(self, stored: np.ndarray, number: int) -> np.ndarray:
        """Return a frame after offset and scaling: NaN where the stored number is below the trusted
        range, and above that of the frames where it is above.
        """
        limits = self._limits
        adu = self._calibration.applied(stored, number)
        adu[stored < limits.low] = np.nan
        over = stored > limits.high
        adu[over] = np.nextafter(self._calibration.highest(limits.high), np.inf)
        return adu

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
        return self._spectra.of_frames(frames)

    def _panels(self, stored: np.ndarray) -> np.ndarray:
        """Return (panel, slow, fast) of an array shaped like one frame."""
        shape = self.detector.shape
        if len(self._modules) == 1 and stored.size == np.prod(shape):
            return stored.reshape(1, *shape)
        return panels_of(stored, self._modules, shape)


class _Recording(NamedTuple):
    """Frames, and the detector that recorded them."""

    sensor: h5py.Group
    group: h5py.Group
    """of the frames"""
    stack: Stack
    modules: list[Module]
    """as they lie in the frames"""
    remarks: list[str]
    """what was assumed of them"""


def _entry(file: h5py.File) -> h5py.Group:
    """Return the entry of definition NXmx: the file's default where it has several. Raises
    FileError.
    """
    entries = [entry for entry in children(file, "NXentry") if _is_nxmx(entry)]
    default = text(file.attrs.get("default")).strip("/")
    entries.sort(key=lambda entry: entry.name != f"/{default}")
    if not entries:
        raise FileError(place(file), "a NXentry of definition NXmx", "none", NOT_NXMX)
    return entries[0]


def stored_shot_ids(path: Path) -> np.ndarray | None:
    """Return the identities (frame,) that a file gives its shots, without the rest of its header,
    which takes longer by far; None where it has none. Raises FileError where it can't be opened or
    is no NXmx.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            entry = _entry(file)
            item = dataset(entry, "shots/shot_id")
            return None if item is None else _shot_ids(entry, item.size)
    except BROKEN as error:
        raise FileError(path, "a complete NXmx file", error, ABOUT_FILES) from None


def is_nexus(file: h5py.File) -> bool:
    """Whether a file has an entry of definition NXmx, or one that is read as such."""
    return any(_is_nxmx(entry) for entry in children(file, "NXentry"))


def _is_nxmx(entry: h5py.Group) -> bool:
    """Whether an entry is of definition NXmx, or a master file of older Dectris detectors, which
    state none.
    """
    definition = text(dataset(entry, "definition")).strip()
    instruments = [] if definition else children(entry, "NXinstrument")
    sensors = [sensor for group in instruments for sensor in children(group, "NXdetector")]
    return definition == "NXmx" or any("detectorSpecific" in sensor for sensor in sensors)


def _recording(entry: h5py.Group, instrument: h5py.Group, layout: Layout | None) -> _Recording:
    """Return the frames that fit the modules of a detector, and these. layout: in place of the
    header's. Raises FileError where none do.
    """
    sensors = children(instrument, "NXdetector")
    first(sensors, "NXdetector", instrument)
    stated = {sensor: _stated_modules(sensor, layout) for sensor in sensors}
    known = [sensor for sensor in sensors if stated[sensor]]
    known = known or [sensor for sensor in sensors if nexus_geometry.is_flat(sensor) or layout]
    first(known, "NXdetector_module", sensors[0])
    problems: list[FileError] = []
    shapes: list[tuple[int, ...]] = []
    for group, stack in stacks(entry, known):
        if isinstance(stack, FileError):
            problems.append(stack)
            continue
        shapes.append(stack.datasets[0].shape)
        for sensor in known:
            try:
                recording = _fitted(sensor, stated[sensor], group, stack, layout)
            except FileError as error:
                problems.append(error)
                continue
            if recording is not None:
                others = [f"{other.name} is left out" for other in known if other != sensor]
                return recording._replace(remarks=[*recording.remarks, *others])
    raise problems[0] if problems else _no_frames(list(stated.values()), shapes, entry)


def _stated_modules(sensor: h5py.Group, layout: Layout | None) -> list[Module]:
    """Return the modules of a detector; none where another layout takes their place, or they can't
    be read and it has those of the file. Raises FileError where there is no other layout.
    """
    if layout is None:
        return nexus_geometry.stated_modules(sensor)
    try:
        return [] if layout.modules else nexus_geometry.stated_modules(sensor)
    except FileError:
        return []


def _fitted(
    sensor: h5py.Group,
    stated: Sequence[Module],
    group: h5py.Group,
    stack: Stack,
    layout: Layout | None,
) -> _Recording | None:
    """Return frames with the modules of a detector as they lie in them; None where they don't
    fit. Raises FileError where a layout does not.
    """
    if not stack.n_frames:
        return None
    shape = stack.frame_shape
    if layout is not None:
        return _Recording(sensor, group, stack, _laid_out(group, stated, stack, layout), [])
    if not stated:
        whole = nexus_geometry.frame_as_modules(shape)
        return None if len(whole) > 1 else _Recording(sensor, group, stack, whole, [FLAT])
    modules = nexus_geometry.fitted(stated, shape, stack.n_frames)
    if modules is None:
        return None
    is_turned = modules[0].size[-2:] != stated[0].size[-2:]
    return _Recording(sensor, group, stack, modules, [TURNED] if is_turned else [])


def _laid_out(
    group: h5py.Group, stated: Sequence[Module], stack: Stack, layout: Layout
) -> list[Module]:
    """Return the panels of a layout in frames: those that it states, else those of the file, else
    the planes of a frame. Raises FileError where they are not those of its detector.
    """
    shape = stack.frame_shape
    if layout.modules is not None:
        return layout.fitted(place(group), shape)
    modules = nexus_geometry.fitted(stated, shape, stack.n_frames) if stated else None
    modules = modules or nexus_geometry.frame_as_modules(shape)
    for module in modules:
        layout.check_panels(place(group), (len(modules), *module.size[-2:]))
    return modules


def _no_frames(
    stated: Sequence[Sequence[Module]], shapes: Sequence[tuple[int, ...]], entry: h5py.Group
) -> FileError:
    """Return the error that no frames fit the modules."""
    sizes = sorted({module.size for modules in stated for module in modules})
    expected = f"frames (n, slow, fast) or (n, panel, slow, fast) that hold modules of {sizes} once"
    found = f"data of shape {', '.join(map(str, shapes))}" if shapes else "no data"
    return FileError(place(entry), expected, found, "Correct data_origin and data_size.")


def _shot_ids(entry: h5py.Group, n_frames: int) -> np.ndarray | None:
    """Return the (frame,) identities that a file gives its shots; None where it has none."""
    item = dataset(entry, "shots/shot_id")
    if item is None or item.shape != (n_frames,) or item.dtype.kind not in "iu":
        return None
    return numbers(item).astype(np.uint64)
