"""The shots of a run: a manifest names the image files, `Source` reads them one at a time.

A file that is missing, truncated or not the one the manifest describes costs its own shots, which
end as `Outcome.UNREADABLE`, and nothing else: the manifest knows how many there are.
"""

import glob
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import h5py
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from spreadflow.config import IndexSection
from spreadflow.errors import FileError, Outcome
from spreadflow.io import schema, store
from spreadflow.io.nexus import NexusFile
from spreadflow.models import Detector, Shot, Spectrum

MIN_VALID = 0.1
"""A shot with a smaller fraction of usable pixels is MASKED."""


class ManifestFile(BaseModel):
    """One image file."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    path: str
    """relative to the manifest, or absolute"""
    n_frames: PositiveInt
    """shots in the file"""
    size: int
    """bytes"""
    sha256: str
    """checksum, verified by `spreadflow manifest --check`"""


class Manifest(BaseModel):
    """The image files of one run and how their numbers become photons."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    version: Literal[1] = 1
    """of this format"""
    run: str
    """name of the run; part of every shot_id"""
    offset_adu: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """pedestal: photons = (ADU - offset_adu) / adu_per_photon"""
    adu_per_photon: PositiveFloat = 1.0
    """gain"""
    polarization: Annotated[float, Field(ge=-1, le=1)] = 1.0
    """Kahn's K, -1 to 1: +1 is polarized along the lab x axis"""
    mask: str | None = None
    """HDF5 file, path as for `files`, whose dataset `mask` is non-zero where a pixel is not to be
    used
    """
    files: list[ManifestFile]
    """in the order of the shots"""


def shot_id(run: str, filename: str, frame: int) -> int:
    """Return 64-bit identity of a shot: hash of run, file name (without folders) and frame."""
    text = f"{run}\0{Path(filename).name}\0{frame}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def write_manifest(
    out: Path | str,
    run: str,
    images: Iterable[Path | str],
    *,
    offset_adu: float | None = None,
    adu_per_photon: float | None = None,
    polarization: float = 1.0,
    mask: Path | str | None = None,
    checksums: Mapping[str, str] | None = None,
) -> Manifest:
    """Describe image files, in this order, at `out`. Offset and gain: None = as the files state,
    else 0 and 1.

    checksums: those already known, by file name; the others are computed here. Raises FileError for
    a file that can't be read, differs in geometry, offset or gain, or has the name of another.
    """
    out = Path(out)
    paths = [Path(p) for p in images]
    if not paths:
        raise FileError(out, "at least one image file", "none", "Check the pattern.")
    first: tuple | None = None
    files: list[ManifestFile] = []
    known = checksums or {}
    names = set[str]()
    for path in paths:
        if path.name in names:
            raise FileError(
                path,
                "file names that differ within a run",
                "the same name twice",
                "Make it another run.",
            )
        with NexusFile(path) as f:
            mine = (*f.pedestal, f.detector)
            n_frames = f.n_frames
        first = first or mine
        if mine[:2] != first[:2] or not _same_geometry(mine[2], first[2]):
            todo = "Make one manifest, and one run, for each setting of the detector."
            raise FileError(
                path, f"geometry, offset and gain as in {paths[0]}", "a difference", todo
            )
        names.add(path.name)
        size = path.stat().st_size
        sha256 = known.get(path.name) or store.checksum(path)
        files.append(
            ManifestFile(
                path=_relative(path, out.parent), n_frames=n_frames, size=size, sha256=sha256
            )
        )
    assert first is not None
    try:
        manifest = Manifest(
            run=run,
            offset_adu=first[0] if offset_adu is None else offset_adu,
            adu_per_photon=first[1] if adu_per_photon is None else adu_per_photon,
            polarization=polarization,
            mask=None if mask is None else _relative(Path(mask), out.parent),
            files=files,
        )
    except ValidationError as error:
        raise _explain(error, out) from None
    with store.replacing(out) as temporary:
        temporary.write_text(manifest.model_dump_json(indent=1) + "\n")
    return manifest


def expand(patterns: Sequence[str]) -> list[Path]:
    """Return files that match the patterns, sorted within each, none twice."""
    return [
        Path(p)
        for p in dict.fromkeys(p for pattern in patterns for p in sorted(glob.glob(pattern)))
    ]


def _relative(path: Path, folder: Path) -> str:
    path = path.absolute()
    folder = folder.absolute()
    return os.path.relpath(path, folder) if path.is_relative_to(folder) else str(path)


def _same_geometry(a: Detector, b: Detector) -> bool:
    return a.shape == b.shape and all(
        np.shape(x) == np.shape(y) and np.allclose(x, y, rtol=0, atol=1e-6)
        for x, y in zip(a[:4], b[:4], strict=True)
    )


def read_manifest(path: Path | str) -> Manifest:
    """Read and validate a manifest. Raises FileError."""
    path = Path(path)
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise FileError(path, "a manifest", error, "Write it with `spreadflow manifest`.") from None
    except ValidationError as error:
        raise _explain(error, path) from None


def _explain(error: ValidationError, path: Path) -> FileError:
    first = error.errors()[0]
    where = f"{path}: {'.'.join(str(x) for x in first['loc']) or '(whole file)'}"
    expected = f"a manifest of version 1, {first['msg'].removeprefix('Input should be ')}"
    return FileError(
        where, expected, repr(first["input"])[:80], "Write it with `spreadflow manifest`."
    )


def check_manifest(path: Path | str) -> None:
    """Raise FileError naming every file of a manifest that is missing, of another size, or
    changed.
    """
    path = Path(path)
    wrong = []
    for file in read_manifest(path).files:
        image = path.parent / file.path
        if not image.exists():
            wrong.append(f"{image} is missing")
        elif image.stat().st_size != file.size:
            wrong.append(f"{image} has {image.stat().st_size} bytes, not {file.size}")
        elif store.checksum(image) != file.sha256:
            wrong.append(f"{image} has another checksum")
    if wrong:
        raise FileError(
            path,
            "files as described",
            "; ".join(wrong),
            "Restore them or write the manifest again.",
        )


def read_mask(path: Path | str) -> np.ndarray:
    """Return dataset `mask` of an HDF5 file as (panel, slow, fast) bool, True = good (stored zero;
    NaN is not). FileError.
    """
    try:
        with h5py.File(path, "r") as f:
            good = np.asarray(f["mask"][()]) == 0
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            path, "an HDF5 file with a dataset `mask`", error, "See docs/files.md, masks."
        ) from None
    if good.ndim not in (2, 3):
        raise FileError(
            path,
            "a mask (panel, slow, fast) or (slow, fast)",
            good.shape,
            "See docs/files.md, masks.",
        )
    return good[None] if good.ndim == 2 else good


class Source:
    """The shots of a run as `models.Shot`.

    geometry: the detector to use instead of the one in the files. mask: a file of `read_mask`,
    added to the files' own. saturation_photons: upper end of the trusted range; None = as in the
    files. Raises FileError where the manifest, the geometry or a mask can't be used at all.
    """

    def __init__(
        self,
        manifest: Path | str,
        *,
        geometry: Detector | None = None,
        mask: Path | str | None = None,
        saturation_photons: float | None = None,
    ):
        self.path = Path(manifest)
        self.manifest = read_manifest(manifest)
        self.problems: list[str] = []
        """one line for each file or frame that could not be read, for the log"""
        self.shots = _shots(self.manifest)
        """columns shot_id (uint64), file, frame (int32): one row per shot"""
        self._saturation_photons = saturation_photons
        self._number = -1
        self._file: NexusFile | None = None
        """the one file that is open, of number _number"""
        self._extra = np.ones((), bool)
        self._detector: Detector | None = None
        self._detector = self._find_detector(geometry)
        masks = [self.path.parent / self.manifest.mask] if self.manifest.mask else []
        masks += [Path(mask)] if mask is not None else []
        self._extra = self._join_masks(masks)
        self.identity = store.digest(
            self.manifest.model_dump(exclude={"files", "mask"}),
            [(Path(f.path).name, f.n_frames, f.sha256) for f in self.manifest.files],
            [store.checksum(m) for m in masks],
        )
        """changes with the content of the images, masks and manifest, not with the folder they lie
        in
        """

    @property
    def n_shots(self) -> int:
        return len(self.shots["shot_id"])

    @property
    def detector(self) -> Detector:
        assert self._detector is not None
        return self._detector

    @property
    def polarization(self) -> float:
        """Kahn's K along the lab x axis."""
        return self.manifest.polarization

    def read(self, i: int) -> Shot | Outcome:
        """Return shot i, or why there is none: UNREADABLE, BAD_SPECTRUM, MASKED, EMPTY (the first
        that holds).
        """
        file = int(self.shots["file"][i])
        frame = int(self.shots["frame"][i])
        images = self._open(file)
        if images is None:
            return Outcome.UNREADABLE
        try:
            adu = images.frame(frame)
        except (OSError, RuntimeError) as error:
            self._report(f"{images.path}, frame {frame}: {error}")
            return Outcome.UNREADABLE
        spectrum = _checked(images, frame)
        if spectrum is None:
            return Outcome.BAD_SPECTRUM
        low, high = images.trusted_range
        if self._saturation_photons is not None:
            high = (
                self._saturation_photons * self.manifest.adu_per_photon + self.manifest.offset_adu
            )
        finite = np.isfinite(adu) if adu.dtype.kind == "f" else None
        good = images.mask & self._extra & (adu >= low)
        good = good if finite is None else good & finite
        n_good = np.count_nonzero(good)
        if n_good < MIN_VALID * good.size:
            return Outcome.MASKED
        valid = good & (adu <= high)
        n_valid = np.count_nonzero(valid)
        if n_valid and not np.any(
            valid & (adu != adu[np.unravel_index(valid.argmax(), valid.shape)])
        ):
            return Outcome.EMPTY
        image = adu.astype(np.float32)
        image -= np.float32(self.manifest.offset_adu)
        image /= np.float32(self.manifest.adu_per_photon)
        if finite is not None:
            image[~finite] = 0
        saturation = (high - self.manifest.offset_adu) / self.manifest.adu_per_photon
        return Shot(
            int(self.shots["shot_id"][i]),
            image,
            valid,
            spectrum,
            (n_good - n_valid) / n_good,
            saturation,
        )

    def spectrum(self, i: int) -> Spectrum | None:
        """Return the spectrum of shot i without its image; None where it can't be read or makes no
        sense.
        """
        images = self._open(int(self.shots["file"][i]))
        return None if images is None else _checked(images, int(self.shots["frame"][i]))

    def _open(self, number: int) -> NexusFile | None:
        """Return the file of this number, or None (and a line in `problems`) where it is not what
        the manifest says.
        """
        if number != self._number:
            if self._file is not None:
                self._file.close()
            self._number, self._file = number, self._opened(number)
        return self._file

    def _opened(self, number: int) -> NexusFile | None:
        entry = self.manifest.files[number]
        path = self.path.parent / entry.path
        try:
            if path.exists() and path.stat().st_size != entry.size:
                found = f"{path.stat().st_size} bytes"
                raise FileError(
                    path,
                    f"{entry.size} bytes",
                    found,
                    "Restore the file or write the manifest again.",
                )
            file = NexusFile(path)
            if file.n_frames != entry.n_frames:
                file.close()
                raise FileError(
                    path, f"{entry.n_frames} frames", file.n_frames, "Write the manifest again."
                )
            if self._detector is not None and not _fits(file.detector, self._detector):
                file.close()
                raise FileError(
                    path,
                    _shape(self._detector),
                    _shape(file.detector),
                    "Not the detector of this run.",
                )
        except FileError as error:
            self._report(str(error))
            return None
        return file

    def _report(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def _find_detector(self, geometry: Detector | None) -> Detector:
        """Return the given geometry, checked against the first file that opens, or that file's
        own.
        """
        header = None
        for number in range(len(self.manifest.files)):
            file = self._open(number)
            if file is not None:
                header = file.detector
                break
        if header is None and geometry is None:
            raise FileError(
                self.path, "at least one readable image file", "none", "Check where the images are."
            )
        if header is not None and geometry is not None and not _fits(header, geometry):
            raise FileError(
                self.path,
                f"a geometry for {_shape(header)}",
                _shape(geometry),
                "Not of this detector.",
            )
        detector = header if geometry is None else geometry
        assert detector is not None
        return detector

    def _join_masks(self, paths: Sequence[Path]) -> np.ndarray:
        good = np.ones((), bool)
        for path in paths:
            mask = read_mask(path)
            expected = (self.detector.n_panels, *self.detector.shape)
            if mask.shape != expected:
                raise FileError(
                    path,
                    f"a mask of shape {expected}",
                    mask.shape,
                    "The mask is of another detector.",
                )
            good = good & mask
        return good


def _shots(manifest: Manifest) -> dict[str, np.ndarray]:
    counts = [f.n_frames for f in manifest.files]
    frames = [frame for n in counts for frame in range(n)]
    numbers = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    names = [manifest.files[k].path for k in numbers]
    ids = [shot_id(manifest.run, name, frame) for name, frame in zip(names, frames, strict=True)]
    return {
        "shot_id": np.array(ids, np.uint64),
        "file": numbers,
        "frame": np.array(frames, np.int32),
    }


def _fits(a: Detector, b: Detector) -> bool:
    return a.n_panels == b.n_panels and tuple(a.shape) == tuple(b.shape)


def _shape(detector: Detector) -> str:
    return f"{detector.n_panels} panels of {tuple(detector.shape)} px"


def _checked(images: NexusFile, frame: int) -> Spectrum | None:
    """Return the spectrum of a frame, negative weights (noise of a spectrometer) set to 0; None
    where it makes no sense.
    """
    try:
        energies, photons = images.spectrum(frame)
    except (FileError, KeyError, OSError, ValueError):
        return None
    photons = np.maximum(photons, 0.0)  # keeps NaN
    sound = (
        np.isfinite(energies).all()
        and (energies > 0).all()
        and np.isfinite(photons).all()
        and photons.sum() > 0
    )
    return Spectrum(energies, photons) if sound else None


def truth(manifest: Path | str) -> dict[str, np.ndarray] | None:
    """Return columns of schema 'truth' over the files of a run that can be opened; None where the
    run was not simulated.

    Only summaries and tests call this. `shots/shot_id` is the id a `Source` of this manifest gives.
    """
    path = Path(manifest)
    parts = []
    described = read_manifest(path)
    for file in described.files:
        try:
            images = NexusFile(path.parent / file.path)
        except FileError:
            continue
        with images:
            if images.truth is None or images.shot_ids is None:
                return None
            part = store.tables(images.truth, "truth")
            ours = {
                int(old): shot_id(described.run, file.path, k)
                for k, old in enumerate(images.shot_ids)
            }
            ids = [ours[int(old)] for old in part["shots/shot_id"]]
            parts.append(part | {"shots/shot_id": np.array(ids, np.uint64)})
    return store.joined("truth", schema.FILES["truth"], parts) if parts else None


def open_source(
    manifest: Path | str, section: IndexSection, detector: Detector | None = None
) -> Source:
    """Return the shots of a manifest with a section's mask and trusted range. detector: instead of
    the headers'.
    """
    return Source(
        manifest,
        geometry=detector,
        mask=section.mask,
        saturation_photons=section.saturation_photons,
    )
