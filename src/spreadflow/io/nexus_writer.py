"""NXmx stills with per-shot spectra, written as a simulation makes them.

Files are what nxvalidate, nxmx, DIALS and our own reader all accept: variable-length strings,
absolute `depends_on`, one frame = one chunk, the spectrum as a `variant` of the mean wavelength
under both names of its weights.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import hdf5plugin
import numpy as np

from spreadflow import __version__
from spreadflow.io import store
from spreadflow.io.images.nexus_geometry import (
    CAPTURE_ATTENUATION,
    CAPTURE_PARALLAX,
    CAPTURE_THICKNESS,
    LAB_FROM_MCSTAS,
)
from spreadflow.io.new_hdf5 import new_hdf5
from spreadflow.io.truth import FileTruth, write_truth
from spreadflow.models import Detector
from spreadflow.physics.geometry import beam_center, distances_mm
from spreadflow.units import wavelength

UNDERLOAD_ADU = -100
"""Lower end of the trusted range. Below zero, so that readout noise on a small offset stays inside.
"""

SURFACE_MM = 0.001
"""Stated sensor thickness where photons count at the surface, so that a reader's parallax
vanishes.
"""

GARBAGE = b"spreadflow: this frame was lost"
"""What is stored of a corrupt frame. No filter takes this for a compressed frame."""

START_TIME = "1970-01-01T00:00:00Z"
"""When all recordings began: simulated ones have no time, and equal ones equal bytes."""

COMPRESSIONS: dict[str, Mapping[str, Any]] = {
    "bitshuffle-lz4": hdf5plugin.Bitshuffle(cname="lz4"),
    "gzip": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
}
"""Name of a compression → arguments of h5py that choose it."""

SPECTRUM = "incident_wavelength_1Dspectrum"
"""The dataset of the channels' wavelengths; that of the mean wavelength names it as its variant."""


class Instrument(NamedTuple):
    """What recorded the shots of a file: detector and beam."""

    detector: Detector
    """as the header says"""
    saturation_adu: int
    """upper end of the trusted range, inclusive"""
    offset_adu: int = 0
    """pedestal"""
    adu_per_photon: float = 1.0
    """gain"""
    mask: np.ndarray | None = None
    """(panel, slow, fast) bool, True = the pixel may be used; None = all"""
    polarization: float = 1.0
    """Kahn's K along the lab x axis"""
    beam_size_mm: float | None = None
    """edge of the square beam; None = not stated"""


class Stills(NamedTuple):
    """The n shots of a file."""

    images: Iterable[np.ndarray]
    """n images (panel, slow, fast) int32, ADU, taken one by one"""
    shot_ids: np.ndarray
    """(n,) uint64"""
    energies_ev: np.ndarray
    """(channel,) ascending, shared by the shots"""
    photons: np.ndarray
    """(n, channel) spectra"""
    corrupt: Sequence[int] = ()
    """frames whose stored bytes are replaced by garbage, so that reading them fails"""


def write(
    path: Path | str,
    stills: Stills,
    instrument: Instrument,
    *,
    truth: FileTruth | None = None,
    compression: str = "bitshuffle-lz4",
    attributes: Mapping[str, object] | None = None,
) -> None:
    """Write one image file; the same arguments give the same bytes.

    truth: of a simulation, kept apart in the group /truth. compression: `bitshuffle-lz4` or `gzip`.
    attributes: of the file's root.
    """
    energies_ev = np.asarray(stills.energies_ev, float)
    photons = np.asarray(stills.photons, float)
    shot_ids = np.asarray(stills.shot_ids, np.uint64)
    with store.replacing(Path(path)) as temporary, new_hdf5(temporary) as f:
        f.attrs.update(NX_class="NXroot", default="entry", software=f"spreadflow {__version__}")
        store.put_attributes(f, attributes or {})
        entry = _write_entry(f)
        parent = _group(entry, "instrument", "NXinstrument")
        _put(parent, "name", "stills instrument", short_name="stills")
        _put(_group(entry, "shots", "NXcollection"), "shot_id", shot_ids)
        _write_beam(parent, energies_ev, photons, instrument)
        _write_detector(parent, instrument)

        data = _group(entry, "data", "NXdata", signal="data")
        _write_frames(data, stills, instrument.detector, COMPRESSIONS[compression])
        _put(data, "data_offset", -float(instrument.offset_adu))
        _put(data, "data_scaling_factor", 1 / instrument.adu_per_photon)
        if truth is not None:
            write_truth(f, truth, energies_ev)


def _put(group: h5py.Group, name: str, value: Any, **attributes: Any) -> h5py.Dataset:
    """Create a dataset with attributes."""
    item = group.create_dataset(name, data=value)
    item.attrs.update(attributes)
    return item


def _group(parent: h5py.Group, name: str, nx_class: str, **attributes: Any) -> h5py.Group:
    """Create a group of a NeXus class with attributes."""
    group = parent.create_group(name)
    group.attrs.update(NX_class=nx_class, **attributes)
    return group


def _write_entry(f: h5py.File) -> h5py.Group:
    """Create the entry of the file, with the source and the sample."""
    entry = _group(f, "entry", "NXentry", default="data")
    _put(entry, "definition", "NXmx")
    _put(entry, "start_time", START_TIME)
    _put(entry, "end_time_estimated", START_TIME)
    source = _group(entry, "source", "NXsource")
    _put(source, "name", "simulated SASE source", short_name="simulated")
    _put(source, "type", "Free-Electron Laser")
    sample = _group(entry, "sample", "NXsample")
    _put(sample, "name", "crystals in random orientation")
    _put(sample, "depends_on", ".")
    return entry


def _write_beam(
    parent: h5py.Group, energies_ev: np.ndarray, photons: np.ndarray, instrument: Instrument
) -> None:
    """Write the spectra: energies_ev (channel,), photons (shot, channel)."""
    beam = _group(parent, "beam", "NXbeam")
    total = photons.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = wavelength((photons @ energies_ev) / total)

    _put(beam, "incident_wavelength", mean, units="angstrom", variant=SPECTRUM)
    _put(beam, SPECTRUM, wavelength(energies_ev), units="angstrom")
    weights = _put(beam, f"{SPECTRUM}_weights", photons)
    beam[f"{SPECTRUM}_weight"] = weights  # the deprecated name, the only one older readers know
    _put(beam, "total_flux", total, units="Hz")

    stokes = np.array([1.0, instrument.polarization, 0.0, 0.0])
    _put(beam, "incident_polarization_stokes", stokes)
    size_mm = instrument.beam_size_mm
    if size_mm is not None:
        _put(beam, "incident_beam_size", np.array([size_mm, size_mm]), units="mm")
        _put(beam, "profile", "rectangular")


def _write_detector(parent: h5py.Group, instrument: Instrument) -> None:
    """Write the detector: its sensor, its mask and where its panels are."""
    detector = instrument.detector
    group = _group(parent, "detector", "NXdetector")
    _put(group, "description", "simulated integrating detector")
    _put(group, "count_time", 1.0, units="s")
    _put(group, "saturation_value", int(instrument.saturation_adu))
    _put(group, "underload_value", UNDERLOAD_ADU)
    _write_sensor(group, detector)

    pixel_mm = float(detector.pixel_mm)
    distance_mm = distances_mm(detector)[0]
    fast, slow = beam_center(detector)
    _put(group, "x_pixel_size", pixel_mm, units="mm")
    _put(group, "y_pixel_size", pixel_mm, units="mm")
    _put(group, "distance", distance_mm, units="mm")
    _put(group, "distance_derived", distance_mm, units="mm")
    _put(group, "beam_center_x", fast[0], units="pixels")
    _put(group, "beam_center_y", slow[0], units="pixels")

    _write_mask(group, detector, instrument.mask)
    _write_modules(group, detector)


def _write_sensor(group: h5py.Group, detector: Detector) -> None:
    """Write what the sensor is made of. Readers know few materials; at the thickness of a surface
    it has no effect.
    """
    has_parallax = detector.parallax_mm is not None
    stated_mm = float(detector.thickness_mm) if has_parallax else SURFACE_MM
    _put(group, "sensor_material", "Si")
    thickness = _put(group, "sensor_thickness", stated_mm, units="mm")
    thickness.attrs[CAPTURE_THICKNESS] = float(detector.thickness_mm)
    thickness.attrs[CAPTURE_ATTENUATION] = float(detector.attenuation_mm)
    if has_parallax:
        thickness.attrs[CAPTURE_PARALLAX] = True


def _frame_shape(detector: Detector) -> tuple[int, int]:
    """Return the shape of a frame as it is written: panels one above the other, as DIALS has known
    them for longer than an axis of panels.
    """
    slow, fast = detector.shape
    return (detector.n_panels * slow, fast)


def _write_mask(group: h5py.Group, detector: Detector, mask: np.ndarray | None) -> None:
    """Write the mask, non-zero where a pixel is not to be used, shaped like a frame."""
    shape = _frame_shape(detector)
    if mask is None:
        is_bad = np.zeros(shape, np.uint32)
    else:
        is_bad = (~mask).astype(np.uint32).reshape(shape)

    group.create_dataset("pixel_mask", data=is_bad, **COMPRESSIONS["gzip"])


def _write_modules(group: h5py.Group, detector: Detector) -> None:
    """Write the panels as modules, on a common rail along the beam."""
    origins = detector.origin_mm @ LAB_FROM_MCSTAS
    rail_mm = origins[0, 2]

    steps = _group(group, "transformations", "NXtransformations")
    rail = _write_step(steps, "AXIS_RAIL", "translation", (0, 0, 1), ".", value=rail_mm)
    head = _write_step(steps, "AXIS_D0", "rotation", (0, 0, -1), rail)
    _put(group, "depends_on", head)
    for panel, origin in enumerate(origins):
        _write_module(group, detector, panel, head, origin - [0, 0, rail_mm])


def _write_module(
    group: h5py.Group, detector: Detector, panel: int, head: str, offset_mm: np.ndarray
) -> None:
    """Write one panel. head: path of the step that it hangs on; offset_mm: from there, McStas."""
    name = "module" if detector.n_panels == 1 else f"module_{panel:03d}"
    module = _group(group, name, "NXdetector_module")
    _put(module, "data_origin", np.array([panel * detector.shape[0], 0]))
    _put(module, "data_size", np.array(detector.shape))

    place = _write_step(module, "module_offset", "translation", (1, 0, 0), head, offset=offset_mm)
    pixel_mm = float(detector.pixel_mm)
    for name, axes in (("fast", detector.fast), ("slow", detector.slow)):
        direction = axes[panel] @ LAB_FROM_MCSTAS
        item = f"{name}_pixel_direction"
        _write_step(module, item, "translation", direction, place, value=pixel_mm)


def _write_step(
    group: h5py.Group,
    name: str,
    kind: str,
    vector: Sequence[float] | np.ndarray,
    depends_on: str,
    *,
    value: float = 0.0,
    offset: Sequence[float] | np.ndarray = (0, 0, 0),
) -> str:
    """Write one step of a transformation chain, mm or degrees. Returns its absolute path.

    kind: translation or rotation. depends_on: path of the step below, `.` for none.
    """
    units = "mm" if kind == "translation" else "deg"
    item = _put(group, name, np.array([float(value)]), units=units)
    item.attrs.update(transformation_type=kind, depends_on=depends_on, offset_units="mm")
    item.attrs["vector"] = np.asarray(vector, float) + 0.0  # no negative zeros
    item.attrs["offset"] = np.asarray(offset, float) + 0.0
    return item.name


def _write_frames(
    data: h5py.Group, stills: Stills, detector: Detector, compression: Mapping[str, Any]
) -> None:
    """Write the images, one chunk each. Raises ValueError unless there are as many as spectra."""
    n_frames = len(stills.photons)
    shape = _frame_shape(detector)
    stack = data.create_dataset(
        "data", (n_frames, *shape), np.int32, chunks=(1, *shape), **compression
    )

    for number, image in zip(range(n_frames), stills.images, strict=True):
        stack[number] = image.reshape(shape)
    for number in stills.corrupt:
        stack.id.write_direct_chunk((number, *[0] * len(shape)), GARBAGE)
