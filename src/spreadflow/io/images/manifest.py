"""Manifests: the image files of a run, described so that what became of them is noticed."""

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from spreadflow.errors import FileError
from spreadflow.io import store
from spreadflow.io.images.conversion import read_maps
from spreadflow.io.images.data_files import data_files
from spreadflow.io.images.formats import named_geometry, open_image
from spreadflow.io.images.geometry import Geometry, read_geometry
from spreadflow.models import Detector

GEOMETRY = ("origin_mm", "fast", "slow", "pixel_mm")
"""The fields of a detector in which the files of a manifest must agree."""

GEOMETRY_TOLERANCES = (0.01, 1e-6, 1e-6, 1e-6)
"""Largest difference of these fields between files, mm or of unit vectors: of origins that of the
encoders of distances, else that of rounding.
"""

GAIN_TOLERANCE = 0.01
"""Largest relative difference of gains between files: that of photon energies, from which some are.
"""

POLARIZATION_TOLERANCE = 0.02
"""Largest difference of Kahn's K between files, or from what is used, that needs no word."""

MOST_REMARKS = 10
"""Remarks about the files that a manifest keeps; more are counted."""

LONGEST_SHOWN = 80
"""Letters of a wrong value that an error shows."""

JSON_OBJECT = re.compile(rb'\s*\{\s*["}]')
"""The beginning of a JSON object; a header of SMV begins with a brace too, and has no quotes."""

HOW_TO_WRITE = "Write it with `spreadflow manifest`."
"""What to do about a manifest that is none."""


class DataFile(BaseModel):
    """A file that an image file leads to."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: str
    """relative to the manifest, or absolute"""
    size: int
    """bytes"""
    sha256: str
    """checksum, verified by `spreadflow manifest --check`"""


class ManifestFile(DataFile):
    """One image file."""

    n_frames: Annotated[int, Field(gt=0, le=1_000_000)]
    """shots in the file"""
    data_files: list[DataFile] = []
    """the files that it leads to, by external links or as sources of virtual datasets, with
    `path`, `size` and `sha256` each
    """


class StatedSensor(BaseModel):
    """The sensor of a detector."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    material: Literal["Si", "CdTe", "GaAs"]
    """what it is made of"""
    thickness_mm: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """0 = everything is captured at the surface"""


class Manifest(BaseModel):
    """The image files of one run and how their numbers become photons."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: Literal[1] = 1
    """of this format"""
    run: str
    """name of the run; part of every shot_id"""
    offset_adu: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """pedestal: photons = (ADU - offset_adu) / adu_per_photon"""
    adu_per_photon: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """gain"""
    polarization: Annotated[float, Field(ge=-1, le=1)] = 1.0
    """Kahn's K, -1 to 1: +1 is polarized along the lab x axis"""
    bandwidth: Annotated[float, Field(gt=0, lt=0.2)] | None = None
    """relative full width at half maximum of the pulses' energies, where files state a wavelength
    and no spectrum; null = a single energy
    """
    sensor: StatedSensor | None = None
    """what the sensor is made of, in place of what files state; null = as they state it"""
    calibration: str | None = None
    """HDF5 file, path as for `files`, with what each pixel has of its own: `pedestal`, ADU in
    addition to `offset_adu`, and `gain`, a factor of `adu_per_photon`
    """
    common_mode: tuple[PositiveInt, PositiveInt] | None = None
    """(slow, fast) pixels of the regions in which the peak of the dark pixels is brought to 0 in
    each image; null = it stays where it is
    """
    geometry: str | None = None
    """DIALS experiment list (.expt) or CrystFEL geometry file (.geom), path as for `files`, in
    place of the geometry in the headers, whose sensor stays where it states none; HDF5 that is no
    NXmx is read as a .geom says alone
    """
    mask: str | None = None
    """HDF5 file, path as for `files`, whose dataset `mask` is non-zero where a pixel is not to be
    used
    """
    remarks: list[str] = []
    """what the files leave open and was assumed, or say otherwise than the manifest"""
    files: list[ManifestFile]
    """in the order of the shots"""

    @property
    def material(self) -> str:
        """What the sensor is made of; empty where this says nothing of it."""
        return "" if self.sensor is None else self.sensor.material


class _Header(NamedTuple):
    """What a manifest needs to know of an image file."""

    pedestal: tuple[float, float]
    """pedestal (ADU) and gain (ADU per photon)"""
    detector: Detector
    n_frames: int
    polarization: float | None
    """Kahn's K; None where not stated"""
    remarks: list[str]


class DetectorSettings(NamedTuple):
    """What a manifest says of a detector beside its geometry; None = as the files state it, or
    nothing.
    """

    sensor: StatedSensor | None = None
    calibration: Path | str | None = None
    """file of `conversion.read_maps`"""
    common_mode: tuple[int, int] | None = None
    """(slow, fast) px of the regions with a common mode that is taken out"""


NOTHING_STATED = DetectorSettings()
"""As the files state it."""


def shot_id(run: str, filename: str, frame: int | str) -> int:
    """Return the 64-bit identity of a shot: a hash of run, file name without folders, frame by its
    number or its name.
    """
    text = f"{run}\0{Path(filename).name}\0{frame}"
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big")


def write_manifest(
    out: Path | str,
    run: str,
    images: Iterable[Path | str],
    *,
    offset_adu: float | None = None,
    adu_per_photon: float | None = None,
    polarization: float | None = None,
    bandwidth: float | None = None,
    geometry: Path | str | None = None,
    mask: Path | str | None = None,
    settings: DetectorSettings = NOTHING_STATED,
    checksums: Mapping[str, str] | None = None,
) -> Manifest:
    """Describe image files, in this order, at `out`.

    offset_adu, adu_per_photon, polarization: None = as the files state, else 0, 1 and 1. geometry:
    .expt or .geom in place of the headers'; None = the one that the files name, if any. checksums:
    file name → one that was computed before; the others are computed here. Raises FileError for a
    file that can't be read, differs in geometry, offset, gain or polarization, or has the name of
    another, and for maps of another detector.
    """
    out = Path(out)
    paths = [Path(path) for path in images]
    if not paths:
        raise FileError(out, "at least one image file", "none", "Check the pattern.")
    _check_names(out, paths)
    geometry = geometry or _named_geometry(paths)
    instead = None if geometry is None else read_geometry(geometry)
    headers = [_read_header(path, instead) for path in paths]
    _check_settings(paths, headers)
    if settings.calibration is not None:
        read_maps(settings.calibration, headers[0].detector)

    stated = _stated(headers[0])
    supplied = {
        "offset_adu": offset_adu,
        "adu_per_photon": adu_per_photon,
        "polarization": polarization,
    }
    used = stated | {name: own for name, own in supplied.items() if own is not None}
    remarks = _differences(used, stated)
    remarks += [remark for header in headers for remark in header.remarks]
    known = {path: checksums[path.name] for path in paths if checksums and path.name in checksums}
    files = [
        _describe(path, header.n_frames, out.parent, known)
        for path, header in zip(paths, headers, strict=True)
    ]
    try:
        manifest = Manifest(
            run=run,
            offset_adu=used["offset_adu"],
            adu_per_photon=used["adu_per_photon"],
            polarization=used["polarization"],
            bandwidth=bandwidth,
            sensor=settings.sensor,
            calibration=_relative_or_none(settings.calibration, out.parent),
            common_mode=settings.common_mode,
            geometry=_relative_or_none(geometry, out.parent),
            mask=_relative_or_none(mask, out.parent),
            remarks=_few(remarks),
            files=files,
        )
    except ValidationError as error:
        raise _explain(error, out) from None

    store.write_text(out, manifest.model_dump_json(indent=1) + "\n")
    return manifest


def _stated(header: _Header) -> dict[str, float]:
    """Return what a header says of the numbers of its pixels, under the names of the manifest's
    fields; where it does not say, 0, 1 and 1.
    """
    offset_adu, adu_per_photon = header.pedestal
    polarization = 1.0 if header.polarization is None else header.polarization
    return {
        "offset_adu": offset_adu,
        "adu_per_photon": adu_per_photon,
        "polarization": polarization,
    }


def _differences(used: Mapping[str, float], stated: Mapping[str, float]) -> list[str]:
    """Return a sentence about each number that is used in place of what files state."""
    return [
        f"{name}: {value:g} is used in place of {stated[name]:g}, which the files state or leave "
        "open"
        for name, value in used.items()
        if not np.isclose(value, stated[name])
    ]


def _few(remarks: Sequence[str]) -> list[str]:
    """Return remarks, none twice; where there are many, the first of them and how many more. Names
    in damaged files may hold what is no text.
    """
    printable = [remark.encode(errors="backslashreplace").decode() for remark in remarks]
    different = list(dict.fromkeys(printable))
    kept = different[:MOST_REMARKS]
    n_more = len(different) - len(kept)
    return [*kept, f"and {n_more} more remarks of this kind"] if n_more else kept


def _check_names(manifest: Path, paths: Iterable[Path]) -> None:
    """Raise FileError where two files of a manifest have the same name: shots are known by it."""
    names = set[str]()
    for path in paths:
        if path.name in names:
            expected = "file names that differ within a run"
            found = f"{path.name} twice"
            raise FileError(manifest, expected, found, "Make it another run.")
        names.add(path.name)


def _named_geometry(paths: Sequence[Path]) -> Path | None:
    """Return the geometry that image files name; None where they name none. Raises FileError where
    they name several.
    """
    named = {path: named_geometry(path) for path in paths}
    for path, geometry in named.items():
        if geometry != named[paths[0]]:
            expected = f"the geometry of {paths[0]}, {named[paths[0]] or 'none'}"
            raise FileError(path, expected, geometry or "none", "Name one with --geometry.")
    return named[paths[0]]


def _read_header(path: Path, geometry: Geometry | None) -> _Header:
    """Return the header of an image file. geometry: in place of its own. Raises FileError."""
    with closing(open_image(path, geometry)) as file:
        return _Header(file.pedestal, file.detector, file.n_frames, file.polarization, file.remarks)


def _check_settings(paths: Sequence[Path], headers: Sequence[_Header]) -> None:
    """Raise FileError where a file was recorded with another setting than the first."""
    first = headers[0]
    for path, header in zip(paths[1:], headers[1:], strict=True):
        polarizations = [one.polarization or 0.0 for one in (header, first)]
        offsets_adu, gains = zip(header.pedestal, first.pedestal, strict=True)
        is_same = offsets_adu[0] == offsets_adu[1]
        is_same &= bool(np.isclose(*gains, rtol=GAIN_TOLERANCE))
        is_same &= abs(polarizations[0] - polarizations[1]) <= POLARIZATION_TOLERANCE
        is_same &= (header.polarization is None) == (first.polarization is None)
        if not is_same or not _same_geometry(header.detector, first.detector):
            expected = f"geometry, offset, gain and polarization as in {paths[0]}"
            todo = "Make one manifest, and one run, for each setting of the detector."
            raise FileError(path, expected, "a difference", todo)


def _same_geometry(a: Detector, b: Detector) -> bool:
    """Whether two detectors have their pixels in the same places."""
    if a.shape != b.shape:
        return False
    pairs = [(getattr(a, name), getattr(b, name)) for name in GEOMETRY]
    return all(
        np.shape(x) == np.shape(y) and np.allclose(x, y, rtol=0, atol=tolerance)
        for (x, y), tolerance in zip(pairs, GEOMETRY_TOLERANCES, strict=True)
    )


def _describe(path: Path, n_frames: int, folder: Path, checksums: dict[Path, str]) -> ManifestFile:
    """Return the entry of an image file in a manifest in `folder`. checksums: those that are known;
    others join them.
    """
    described = [
        _describe_data(data_file, folder, checksums) for data_file in [path, *data_files(path)]
    ]
    own = described[0].model_dump()
    return ManifestFile(**own, n_frames=n_frames, data_files=described[1:])


def _describe_data(path: Path, folder: Path, checksums: dict[Path, str]) -> DataFile:
    """Return the entry of a file, as `_describe`: that of several image files is read once."""
    if path not in checksums:
        checksums[path] = store.checksum(path)
    size = path.stat().st_size
    return DataFile(path=_relative(path, folder), size=size, sha256=checksums[path])


def _relative_or_none(path: Path | str | None, folder: Path) -> str | None:
    """Return `_relative`, or None where there is no path."""
    return None if path is None else _relative(Path(path), folder)


def _relative(path: Path, folder: Path) -> str:
    """Return a path relative to a folder where it lies below it, else the absolute one."""
    path = path.absolute()
    folder = folder.absolute()
    return os.path.relpath(path, folder) if path.is_relative_to(folder) else str(path)


def expand(patterns: Sequence[str]) -> list[Path]:
    """Return the files that match the patterns, sorted within each, none twice."""
    names: list[str] = []
    for pattern in patterns:
        names += sorted(glob.glob(pattern))
    return [Path(name) for name in dict.fromkeys(names)]


def is_manifest(path: Path) -> bool:
    """Whether a file begins as a manifest does, a JSON object, rather than as an image file."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return JSON_OBJECT.match(file.read(100)) is not None


def read_manifest(path: Path | str) -> Manifest:
    """Return a manifest, validated. Raises FileError."""
    path = Path(path)
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise FileError(path, "a manifest", error, HOW_TO_WRITE) from None
    except ValidationError as error:
        raise _explain(error, path) from None
    _check_names(path, (Path(file.path) for file in manifest.files))
    return manifest


def geometry_of(path: Path | str, manifest: Manifest) -> Geometry | None:
    """Return the geometry in place of the headers' in a run. path: of the manifest. Raises
    FileError where it can't be read.
    """
    return (
        None if manifest.geometry is None else read_geometry(Path(path).parent / manifest.geometry)
    )


def _explain(error: ValidationError, path: Path) -> FileError:
    """Return the first mistake in a manifest as one sentence."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"])) or "(whole file)"
    allowed = first["msg"].removeprefix("Input should be ")
    expected = f"a manifest of version 1, {allowed}"
    found = repr(first["input"])[:LONGEST_SHOWN]
    return FileError(f"{path}: {key}", expected, found, HOW_TO_WRITE)


def check_manifest(path: Path | str) -> None:
    """Raise FileError that names every file of a manifest, or that these lead to, that is missing,
    of another size, or changed.
    """
    path = Path(path)
    wrong = []
    described: dict[str, DataFile] = {}
    for entry in read_manifest(path).files:
        described |= {file.path: file for file in (entry, *entry.data_files)}
    for file in described.values():
        image = path.parent / file.path
        if not image.exists():
            wrong.append(f"{image} is missing")
        elif image.stat().st_size != file.size:
            wrong.append(f"{image} has {image.stat().st_size} bytes, not {file.size}")
        elif store.checksum(image) != file.sha256:
            wrong.append(f"{image} has another checksum")

    if wrong:
        todo = "Restore them or write the manifest again."
        raise FileError(path, "files as described", "; ".join(wrong), todo)
