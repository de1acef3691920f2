"""NXmx stills with per-shot spectra, written and read (NeXus definition NXmx; McStas frame).

Written files follow what nxvalidate, nxmx, DIALS and our own reader all accept: variable-length
strings, absolute `depends_on`, one frame = one chunk, the spectrum as a `variant` of the mean
wavelength under both names of its weights. Read files may hold any chain of translations and
rotations, one or many modules, channels shared or per shot.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import hdf5plugin
import numpy as np

from spreadflow import __version__
from spreadflow.errors import FileError
from spreadflow.io import store
from spreadflow.models import Detector, Spectrum
from spreadflow.physics.geometry import beam_center, distances_mm
from spreadflow.physics.rotation import from_vector
from spreadflow.units import DEG, energy, wavelength

LAB_FROM_MCSTAS = np.diag([-1.0, 1.0, -1.0])
"""Its own inverse."""

UNDERLOAD_ADU = -100
"""Below zero, so that readout noise on a small offset stays inside the trusted range."""

SURFACE_MM = 0.001
"""Stated sensor thickness: photons count where they hit the surface, so a reader's parallax must
vanish.
"""

GARBAGE = b"spreadflow: this frame was lost"
"""No filter takes this for a compressed frame."""

_MM = {"mm": 1.0, "m": 1e3, "cm": 10.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "nm": 1e-6}
_ANGSTROM = {"angstrom": 1.0, "angstroms": 1.0, "Å": 1.0, "nm": 10.0, "pm": 0.01, "m": 1e10}
_RADIAN = {"rad": 1.0, "radian": 1.0, "radians": 1.0, "deg": DEG, "degree": DEG, "degrees": DEG}


# ---------------------------------------------------------------- writing


def write(
    path: Path | str,
    frames: Iterable[np.ndarray],
    *,
    shot_ids: np.ndarray,
    detector: Detector,
    energies_ev: np.ndarray,
    photons: np.ndarray,
    mask: np.ndarray | None = None,
    saturation_adu: int,
    offset_adu: int = 0,
    adu_per_photon: float = 1.0,
    polarization: float = 1.0,
    beam_size_mm: float | None = None,
    compression: str = "bitshuffle-lz4",
    start_time: str = "1970-01-01T00:00:00Z",
    truth: Callable[[], Mapping[str, np.ndarray]] | Mapping[str, np.ndarray] | None = None,
    true_detector: Detector | None = None,
    true_curves: Mapping[str, np.ndarray] | None = None,
    corrupt: Sequence[int] = (),
    attributes: Mapping[str, object] | None = None,
) -> None:
    """Write one file of n stills; the same arguments give the same bytes.

    frames: n images (panel, slow, fast) int32, ADU. shot_ids: (n,) uint64. energies_ev: (m,)
    channels; photons: (n, m). mask: (panel, slow, fast), True = good. polarization: Kahn's K along
    the lab x axis. compression: `bitshuffle-lz4` or `gzip`. truth: columns of schema 'truth', or a
    function that gives them once the frames are written, kept in the group /truth with
    true_detector, which is where the detector was while `detector` is what the header says, and
    true_curves: atom → (m,) f' + i f'' of a site. corrupt: frames whose stored bytes are replaced
    by garbage, so that reading them fails. attributes: of the file's root.
    """
    with store.replacing(Path(path)) as temporary, h5py.File(temporary, "w") as f:
        f.attrs.update(NX_class="NXroot", default="entry", software=f"spreadflow {__version__}")
        store.put_attributes(f, attributes or {})
        entry = _group(f, "entry", "NXentry", default="data")
        _put(entry, "definition", "NXmx")
        _put(entry, "start_time", start_time)
        _put(entry, "end_time_estimated", start_time)
        source = _group(entry, "source", "NXsource")
        _put(source, "name", "simulated SASE source", short_name="simulated")
        _put(source, "type", "Free-Electron Laser")
        sample = _group(entry, "sample", "NXsample")
        _put(sample, "name", "crystals in random orientation")
        _put(sample, "depends_on", ".")
        instrument = _group(entry, "instrument", "NXinstrument")
        _put(instrument, "name", "stills instrument", short_name="stills")
        _put(_group(entry, "shots", "NXcollection"), "shot_id", np.asarray(shot_ids, np.uint64))
        _write_beam(
            instrument,
            np.asarray(energies_ev, float),
            np.asarray(photons, float),
            polarization,
            beam_size_mm,
        )
        _write_detector(instrument, detector, mask, saturation_adu)
        data = _group(entry, "data", "NXdata", signal="data")
        _write_frames(data, frames, len(photons), detector, compression, corrupt)
        _put(data, "data_offset", -float(offset_adu))
        _put(data, "data_scaling_factor", 1 / adu_per_photon)
        if truth is not None:
            store.fill(f.create_group("truth"), "truth", truth() if callable(truth) else truth)
            store.put_attributes(f["truth"], {"detector": (true_detector or detector)._asdict()})
            if true_curves is not None:
                _write_curves(f["truth"], np.asarray(energies_ev, float), true_curves)


def _write_curves(
    truth: h5py.Group, energies_ev: np.ndarray, curves: Mapping[str, np.ndarray]
) -> None:
    sites = np.repeat(np.arange(len(curves)), len(energies_ev))
    every = np.concatenate([np.empty(0), *curves.values()])
    columns = {
        "site": sites,
        "energy_ev": np.tile(energies_ev, len(curves)),
        "fp": every.real,
        "fdp": every.imag,
    }
    store.fill(truth, "true_curves", {f"curves/{name}": column for name, column in columns.items()})
    store.put_attributes(truth, {"sites": list(curves)})


def _put(group: h5py.Group, name: str, value: Any, **attributes: Any) -> h5py.Dataset:
    item = group.create_dataset(name, data=value)
    item.attrs.update(attributes)
    return item


def _group(parent: h5py.Group, name: str, nx_class: str, **attributes: Any) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs.update(NX_class=nx_class, **attributes)
    return group


def _axis(
    group: h5py.Group, name: str, value: float, kind: str, vector, depends_on: str, offset=(0, 0, 0)
) -> str:
    """Return one step of a transformation chain, mm or degrees. Returns its absolute path."""
    item = _put(
        group, name, np.array([float(value)]), units="mm" if kind == "translation" else "deg"
    )
    item.attrs.update(transformation_type=kind, depends_on=depends_on, offset_units="mm")
    item.attrs["vector"] = np.asarray(vector, float) + 0.0  # no negative zeros
    item.attrs["offset"] = np.asarray(offset, float) + 0.0
    return item.name


def _write_beam(
    instrument: h5py.Group,
    energies_ev: np.ndarray,
    photons: np.ndarray,
    polarization: float,
    size_mm: float | None,
) -> None:
    beam = _group(instrument, "beam", "NXbeam")
    name = "incident_wavelength_1Dspectrum"
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = wavelength((photons @ energies_ev) / photons.sum(axis=1))
    _put(beam, "incident_wavelength", mean, units="angstrom", variant=name)
    _put(beam, name, wavelength(energies_ev), units="angstrom")
    weights = _put(beam, f"{name}_weights", photons)
    beam[f"{name}_weight"] = weights  # the deprecated name, the only one older readers know
    _put(beam, "total_flux", photons.sum(axis=1), units="Hz")
    _put(beam, "incident_polarization_stokes", np.array([1.0, polarization, 0.0, 0.0]))
    if size_mm is not None:
        _put(beam, "incident_beam_size", np.array([size_mm, size_mm]), units="mm")
        _put(beam, "profile", "rectangular")


def _write_detector(
    instrument: h5py.Group, detector: Detector, mask: np.ndarray | None, saturation_adu: int
) -> None:
    d = _group(instrument, "detector", "NXdetector")
    pixel = float(detector.pixel_mm)
    fast0, slow0 = beam_center(detector)
    _put(d, "description", "simulated integrating detector")
    _put(d, "count_time", 1.0, units="s")
    _put(d, "saturation_value", int(saturation_adu))
    _put(d, "underload_value", UNDERLOAD_ADU)
    _put(
        d, "sensor_material", "Si"
    )  # readers know few materials; it has no effect at this thickness
    thickness = _put(d, "sensor_thickness", SURFACE_MM, units="mm")
    thickness.attrs.update(
        capture_thickness_mm=float(detector.thickness_mm),
        capture_attenuation_mm=float(detector.attenuation_mm),
    )
    _put(d, "x_pixel_size", pixel, units="mm")
    _put(d, "y_pixel_size", pixel, units="mm")
    _put(d, "distance", distances_mm(detector)[0], units="mm")
    _put(d, "distance_derived", distances_mm(detector)[0], units="mm")
    _put(d, "beam_center_x", fast0[0], units="pixels")
    _put(d, "beam_center_y", slow0[0], units="pixels")
    bad = (
        np.zeros((detector.n_panels, *detector.shape), np.uint32)
        if mask is None
        else (~mask).astype(np.uint32)
    )
    bad = bad[0] if detector.n_panels == 1 else bad
    d.create_dataset("pixel_mask", data=bad, compression="gzip", compression_opts=4, shuffle=True)

    origins = detector.origin_mm @ LAB_FROM_MCSTAS
    rail_mm = origins[0, 2]
    steps = _group(d, "transformations", "NXtransformations")
    rail = _axis(steps, "AXIS_RAIL", rail_mm, "translation", (0, 0, 1), ".")
    head = _axis(steps, "AXIS_D0", 0.0, "rotation", (0, 0, -1), rail)
    _put(d, "depends_on", head)
    for panel, origin in enumerate(origins):
        one = detector.n_panels == 1
        m = _group(d, "module" if one else f"module_{panel:03d}", "NXdetector_module")
        _put(m, "data_origin", np.array([0, 0] if one else [panel, 0, 0]))
        _put(m, "data_size", np.array(detector.shape if one else (1, *detector.shape)))
        at = _axis(
            m, "module_offset", 0.0, "translation", (1, 0, 0), head, origin - [0, 0, rail_mm]
        )
        _axis(
            m,
            "fast_pixel_direction",
            pixel,
            "translation",
            detector.fast[panel] @ LAB_FROM_MCSTAS,
            at,
        )
        _axis(
            m,
            "slow_pixel_direction",
            pixel,
            "translation",
            detector.slow[panel] @ LAB_FROM_MCSTAS,
            at,
        )


def _write_frames(
    data: h5py.Group,
    frames: Iterable[np.ndarray],
    n: int,
    detector: Detector,
    compression: str,
    corrupt: Sequence[int],
) -> None:
    if compression == "bitshuffle-lz4":
        packed: Mapping = hdf5plugin.Bitshuffle(cname="lz4")
    else:
        packed = {"compression": "gzip", "compression_opts": 4, "shuffle": True}
    shape = detector.shape if detector.n_panels == 1 else (detector.n_panels, *detector.shape)
    stack = data.create_dataset("data", (n, *shape), np.int32, chunks=(1, *shape), **packed)
    for i, frame in zip(range(n), frames, strict=True):
        stack[i] = frame.reshape(shape)
    for i in corrupt:
        stack.id.write_direct_chunk((i, *[0] * len(shape)), GARBAGE)


# ---------------------------------------------------------------- reading


class _Module(NamedTuple):
    where: tuple[slice, ...]
    """hyperslab of one frame that is this panel"""
    origin_mm: np.ndarray
    fast: np.ndarray
    slow: np.ndarray
    pixel_mm: float

    @property
    def shape(self) -> tuple[int, int]:
        slow, fast = self.where[-2:]
        return slow.stop - slow.start, fast.stop - fast.start


class NexusFile:
    """One NXmx file, open for reading. Raises FileError where the file is missing, truncated or not
    NXmx.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        try:
            self._file = h5py.File(
                self.path, "r", locking=False
            )  # shared file systems often refuse locks
        except OSError as error:
            raise FileError(
                self.path, "a readable NXmx HDF5 file", error, "Check that it is complete."
            ) from None
        try:
            self._load()
        except FileError:
            self.close()
            raise
        except (KeyError, OSError, RuntimeError, ValueError, IndexError) as error:
            self.close()
            raise FileError(
                self.path, "a complete NXmx file", error, "See docs/files.md, image files."
            ) from None

    def _load(self) -> None:
        entries = [
            e for e in _children(self._file, "NXentry") if _text(e.get("definition")) == "NXmx"
        ]
        entry = self._only(entries, "NXentry of definition NXmx", self._file)
        instrument = self._only(_children(entry, "NXinstrument"), "NXinstrument", entry)
        self._sensor = self._only(_children(instrument, "NXdetector"), "NXdetector", instrument)
        beams = [
            b for g in (instrument, *_children(entry, "NXsample")) for b in _children(g, "NXbeam")
        ]
        self._beam = self._only(beams, "NXbeam", instrument)
        self._group = self._only(_children(entry, "NXdata"), "NXdata", entry)
        self._data = self._group[_text(self._group.attrs.get("signal", "data"))]
        if self._data.ndim not in (3, 4):
            raise FileError(
                self._data.name,
                "frames (n, slow, fast) or (n, panel, slow, fast)",
                self._data.shape,
                "",
            )
        self._modules = [self._module(m) for m in _children(self._sensor, "NXdetector_module")]
        self._only(self._modules[:1], "NXdetector_module", self._sensor)
        self.n_frames = len(self._data)
        self.detector = self._detector()
        self.mask = self._mask()
        self.shot_ids = entry["shots/shot_id"][()] if "shots/shot_id" in entry else None

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "NexusFile":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def trusted_range(self) -> tuple[float, float]:
        """(lowest, highest) trusted ADU, both inclusive."""
        d = self._sensor
        return _number(d, "underload_value", -np.inf), _number(d, "saturation_value", np.inf)

    @property
    def pedestal(self) -> tuple[float, float]:
        """(offset_adu, adu_per_photon) as the file states them, 0 and 1 where it does not."""
        return 0.0 - _number(self._group, "data_offset", 0.0), 1 / _number(
            self._group, "data_scaling_factor", 1.0
        )

    @property
    def truth(self) -> h5py.Group | None:
        """What a simulation knows of these shots."""
        return self._file.get("truth")

    def frame(self, i: int) -> np.ndarray:
        """Return frame i (panel, slow, fast), ADU, in the type it is stored in. Raises OSError
        where it is damaged.
        """
        return self._panels(self._data[i])

    def spectrum(self, i: int) -> Spectrum:
        """Return spectrum of frame i as stored, energies ascending; one channel of 1 photon where
        none was recorded.
        """
        energies, photons = self.spectra(slice(i, i + 1))
        return Spectrum(energies.reshape(-1), photons[0])

    def spectra(self, frames: slice) -> Spectrum:
        """Return what `spectrum` returns for many frames: photons (frame, channel), energies
        (channel,) where shared, or as photons.
        """
        item, weights = self._spectrum_items()
        if weights is None:  # no spectrum: the wavelength of the shot, or of all
            lengths = item[()].reshape(1) if item.size == 1 else item[()].reshape(-1, 1)[frames]
            photons = np.ones(1)
        else:
            lengths = np.atleast_1d(item[frames] if item.ndim == 2 else item[()])
            photons = np.atleast_1d(weights[frames] if weights.ndim == 2 else weights[()]).astype(
                float
            )
            if lengths.shape[-1] != photons.shape[-1]:
                found = photons.shape[-1]
                raise FileError(
                    weights.name,
                    f"{lengths.shape[-1]} weights",
                    found,
                    "One weight for each channel.",
                )
        with np.errstate(divide="ignore"):
            energies = energy(lengths.astype(float) * self._unit(item, _ANGSTROM))
        order = np.argsort(energies, axis=-1)
        shape = len(range(self.n_frames)[frames]), energies.shape[-1]
        photons = np.broadcast_to(photons, shape)
        rows = np.broadcast_to(order, shape)
        return Spectrum(
            np.take_along_axis(energies, order, -1), np.take_along_axis(photons, rows, -1)
        )

    def _spectrum_items(self) -> tuple[h5py.Dataset, h5py.Dataset | None]:
        """Return wavelengths of the channels and their weights; the shots' own wavelengths and None
        where there are none.
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
            raise FileError(
                item.name, f"1 or {self.n_frames} wavelengths", item.shape, "Spectra need weights."
            )
        return item, None

    def _only(self, found: list, what: str, where: h5py.Group) -> Any:
        if not found:
            raise FileError(
                f"{self.path}:{where.name}", f"a {what}", "none", "This is not an NXmx file."
            )
        return found[0]

    def _unit(self, item: h5py.Dataset, known: dict[str, float], attribute: str = "units") -> float:
        unit = _text(item.attrs.get(attribute, item.attrs.get("units")))
        if unit not in known:
            raise FileError(
                f"{self.path}:{item.name}",
                f"units among {', '.join(known)}",
                repr(unit),
                "Correct it.",
            )
        return known[unit]

    def _affine(self, item: h5py.Dataset, move: bool = True) -> np.ndarray:
        """Return (4, 4) matrix of one transformation, mm; `move=False` leaves out its own
        displacement.
        """
        kind = _text(item.attrs.get("transformation_type"))
        vector = np.asarray(item.attrs["vector"], float)
        values = np.atleast_1d(item[()])
        if np.ptp(values) > 0:
            raise FileError(
                f"{self.path}:{item.name}", "one value for all frames", values, "Split the file."
            )
        out = np.eye(4)
        if "offset" in item.attrs and np.any(item.attrs["offset"]):
            out[:3, 3] = np.asarray(item.attrs["offset"], float) * self._unit(
                item, _MM, "offset_units"
            )
        if values[0] and kind == "rotation":
            out[:3, :3] = from_vector(
                vector / np.linalg.norm(vector) * values[0] * self._unit(item, _RADIAN)
            )
        elif values[0] and move:
            out[:3, 3] += vector * values[0] * self._unit(item, _MM)
        return out

    def _placed(self, item: h5py.Dataset) -> np.ndarray:
        """Return (4, 4): from the frame of a pixel direction to McStas, along its chain (T = T3 T2
        T1).
        """
        total = self._affine(item, move=False)
        for _ in range(100):
            target = _text(item.attrs.get("depends_on", "."))
            if target == ".":
                return total
            item = item.parent[target]
            total = self._affine(item) @ total
        raise FileError(
            f"{self.path}:{item.name}", "a chain that ends", "a circle of depends_on", "Correct it."
        )

    def _module(self, module: h5py.Group) -> _Module:
        fast, slow = module["fast_pixel_direction"], module["slow_pixel_direction"]
        sizes = [np.ravel(x[()])[0] * self._unit(x, _MM) for x in (fast, slow)]
        if abs(sizes[0] - sizes[1]) > 1e-6 * sizes[0]:
            raise FileError(
                f"{self.path}:{module.name}", "square pixels", f"{sizes} mm", "Not supported."
            )
        axes = [LAB_FROM_MCSTAS @ self._placed(x)[:3, :3] @ x.attrs["vector"] for x in (fast, slow)]
        corner = np.ravel(module["data_origin"][()]).astype(int)
        edges = zip(corner, np.ravel(module["data_size"][()]).astype(int), strict=True)
        return _Module(
            tuple(slice(int(a), int(a + n)) for a, n in edges),
            LAB_FROM_MCSTAS @ self._placed(fast)[:3, 3] + 0.0,
            axes[0] / np.linalg.norm(axes[0]) + 0.0,
            axes[1] / np.linalg.norm(axes[1]) + 0.0,
            float(sizes[0]),
        )

    def _detector(self) -> Detector:
        origin_mm = np.array([m.origin_mm for m in self._modules])
        sizes = {m.shape for m in self._modules}
        if len(sizes) > 1 or len({round(m.pixel_mm, 9) for m in self._modules}) > 1:
            raise FileError(
                self.path, "modules of equal shape and pixel size", sizes, "Not supported."
            )
        if origin_mm[:, 2].mean() >= 0:
            raise FileError(
                self.path,
                "a detector downstream (McStas z > 0)",
                origin_mm,
                "Check the rail's sign.",
            )
        sensor = self._sensor.get("sensor_thickness")
        stated = {} if sensor is None else sensor.attrs
        return Detector(
            origin_mm,
            np.array([m.fast for m in self._modules]),
            np.array([m.slow for m in self._modules]),
            self._modules[0].pixel_mm,
            sizes.pop(),
            float(stated.get("capture_thickness_mm", 0.0)),
            float(stated.get("capture_attenuation_mm", 0.0)),
        )

    def _panels(self, whole: np.ndarray) -> np.ndarray:
        """Return (panel, slow, fast) of an array shaped like one frame."""
        if len(self._modules) == 1 and whole.size == np.prod(self.detector.shape):
            return whole.reshape(1, *self.detector.shape)
        return np.stack([whole[m.where].reshape(self.detector.shape) for m in self._modules])

    def _mask(self) -> np.ndarray:
        bad = np.zeros(self._data.shape[1:], bool)
        for name, item in self._sensor.items():
            if name == "pixel_mask" or name.startswith("pixel_mask_"):
                if item.shape != bad.shape:
                    raise FileError(
                        f"{self.path}:{item.name}",
                        f"shape {bad.shape}",
                        item.shape,
                        "Correct the mask.",
                    )
                bad |= item[()] != 0
        return ~self._panels(bad)


def _text(value: Any) -> str:
    """Return a NeXus string, of fixed or variable length, dataset or attribute; '' where there is
    none.
    """
    if isinstance(value, h5py.Dataset):
        value = value[()]
    if isinstance(value, np.ndarray):
        value = value.ravel()[0] if value.size else ""
    return value.decode() if isinstance(value, bytes) else str(value) if value is not None else ""


def _children(group: h5py.Group, nx_class: str) -> list[h5py.Group]:
    groups = (group.get(name) for name in group)
    return [
        g
        for g in groups
        if isinstance(g, h5py.Group) and _text(g.attrs.get("NX_class")) == nx_class
    ]


def _number(group: h5py.Group, name: str, default: float) -> float:
    item = group.get(name)
    return default if item is None else float(np.ravel(item[()])[0])
