"""The shots of a run: a manifest names the image files, `Source` reads them one at a time.

A file that is missing, truncated or not the one the manifest describes costs its own shots, which
end as `Outcome.UNREADABLE`, and nothing else: the manifest knows how many there are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from spreadflow.config import IndexSection
from spreadflow.errors import FileError, Outcome
from spreadflow.io import store
from spreadflow.io.images.conversion import Conversion, is_constant, read_maps
from spreadflow.io.images.formats import ImageFile, open_image
from spreadflow.io.images.geometry import files_of_geometry
from spreadflow.io.images.kept import KeptArrays
from spreadflow.io.images.manifest import (
    DataFile,
    Manifest,
    ManifestFile,
    geometry_of,
    read_manifest,
    shot_id,
)
from spreadflow.io.panels import sensor_of, with_sensor
from spreadflow.io.supplied_spectra import SuppliedSpectra
from spreadflow.models import Detector, Shot, Spectrum
from spreadflow.physics.spectrum import gaussian
from spreadflow.products import Reindex
from spreadflow.units import wavelength

MIN_VALID = 0.1
"""A shot with a smaller fraction of usable pixels is MASKED."""

ABOUT_MASKS = "See docs/files.md, masks."
"""What to do about a file that is no mask."""


def read_mask(path: Path | str) -> np.ndarray:
    """Return the mask in an HDF5 file as (panel, slow, fast) bool, True = the pixel may be used.

    The dataset `mask` is zero where a pixel may be used; NaN is not zero. Raises FileError.
    """
    try:
        with h5py.File(path, "r", locking=False) as f:
            good = np.asarray(f["mask"][()]) == 0
    except (OSError, KeyError, TypeError, AttributeError) as error:
        expected = "an HDF5 file with a dataset `mask`"
        raise FileError(path, expected, error, ABOUT_MASKS) from None
    if good.ndim not in (2, 3):
        expected = "a mask (panel, slow, fast) or (slow, fast)"
        raise FileError(path, expected, good.shape, ABOUT_MASKS)
    return good[None] if good.ndim == 2 else good


class _Pixels(NamedTuple):
    """What all shots of a file have in common."""

    usable: np.ndarray
    """(panel, slow, fast) bool, masked neither by the file nor for the run"""
    low: float
    """lower end of the trusted range, ADU"""
    high: float | np.ndarray
    """upper end of the trusted range, ADU, of all pixels or of each"""
    saturation_photons: float
    """upper end of the trusted range"""


class Source:
    """The shots of a run as `models.Shot`.

    geometry: the detector to use instead of that of the manifest or in the files. mask: a file of
    `read_mask`, added to the files' own. saturation_photons: upper end of the trusted range; None =
    as in the files. spectra: those that take the place of the files' own. Raises FileError where
    the manifest, the geometry or a mask can't be used at all.
    """

    def __init__(
        self,
        manifest: Path | str,
        *,
        geometry: Detector | None = None,
        mask: Path | str | None = None,
        saturation_photons: float | None = None,
        spectra: SuppliedSpectra | None = None,
    ):
        self.path = Path(manifest)
        self.manifest = read_manifest(manifest)
        self.problems: list[str] = []
        """for the log, a line for each file that can not be read, or the first frame of it that can
        not, and each cause
        """
        self._reported: set[tuple[Path, str]] = set()
        """what was among the problems before"""
        self.causes: dict[int, str] = {}
        """number of a shot that was read → why it can not be used, without the path of its file"""
        self.shots = _shots(self.manifest)
        """columns shot_id (uint64), file, frame (int32): one row per shot"""
        self.spectra = spectra
        self._saturation_photons = saturation_photons
        self._geometry = geometry_of(manifest, self.manifest)
        geometry_files: list[Path] = []
        if self.manifest.geometry is not None and self._geometry is not None:
            named = self.path.parent / self.manifest.geometry
            geometry_files = files_of_geometry(named, self._geometry)
        self._number = -1
        self._why_not_open = ""
        """what is wrong with the file of number _number"""
        self._file: ImageFile | None = None
        """the one file that is open, of number _number"""
        self._pixels: _Pixels | None = None
        """of that file; None = not known yet"""
        self._detector: Detector | None = None
        self._detector = self._find_detector(geometry)

        masks = [self.path.parent / self.manifest.mask] if self.manifest.mask else []
        masks += [Path(mask)] if mask is not None else []
        self._conversion = self._find_conversion()
        self._relative_gain = self._conversion.relative_gain
        self._extra_mask = self._join_masks(masks) & self._conversion.good
        self.identity = self._identity(masks, geometry_files)
        """changes with the content of the images, masks, spectra and manifest, not with the folder
        they lie in
        """

    @property
    def n_shots(self) -> int:
        return len(self.shots["shot_id"])

    @property
    def detector(self) -> Detector:
        """The detector of all shots: that of the headers, or the one in its place."""
        assert self._detector is not None
        return self._detector

    @property
    def polarization(self) -> float:
        """Kahn's K along the lab x axis."""
        return self.manifest.polarization

    def read(self, i: int, kept: KeptArrays | None = None) -> Shot | Outcome:
        """Return shot i, or why there is none: UNREADABLE, BAD_SPECTRUM, MASKED, EMPTY (the first
        that holds), with the cause in `causes`.

        kept: arrays that image and mask of the shot are in, so that they last until another is read
        into the same; None = new ones, which are the caller's.
        """
        file = self._open(int(self.shots["file"][i]))
        if file is None:
            return self._lost(i, Outcome.UNREADABLE, self._why_not_open)
        adu = self._frame_of(file, i, kept)
        if isinstance(adu, str):
            return self._lost(i, Outcome.UNREADABLE, adu)
        spectrum = self._spectrum_of(file, i)
        if isinstance(spectrum, str):
            return self._lost(i, Outcome.BAD_SPECTRUM, spectrum)

        pixels = self._pixels_of(file)
        trusted_range = (pixels.low, pixels.high)
        image, valid, n_good, n_valid = self._conversion.photons(
            adu, pixels.usable, trusted_range, kept
        )
        if n_good < MIN_VALID * valid.size:
            cause = _why_masked(1 - float(np.mean(pixels.usable)), 1 - n_good / valid.size)
            return self._lost(i, Outcome.MASKED, cause)
        if n_valid and is_constant(adu, valid):
            value = float(adu[valid][0])
            return self._lost(i, Outcome.EMPTY, f"every pixel that may be used is {value:g}")
        return Shot(
            shot_id=int(self.shots["shot_id"][i]),
            image=image,
            mask=valid,
            spectrum=spectrum,
            saturated_fraction=(n_good - n_valid) / n_good,
            saturation_photons=pixels.saturation_photons,
            relative_gain=self._relative_gain,
        )

    def recorded(self, i: int) -> np.ndarray | None:
        """Return the photons (panel, slow, fast) of shot i as its detector is judged by them: NaN
        where a pixel is masked, below the trusted range or no number; overloads and the common mode
        are left. None where it can't be read, or all its pixels hold the same number.
        """
        file = self._open(int(self.shots["file"][i]))
        adu = None if file is None else self._frame_of(file, i)
        if file is None or not isinstance(adu, np.ndarray):
            return None
        pixels = self._pixels_of(file)
        conversion = self._conversion._replace(region=None)
        image, good, n_good, _ = conversion.photons(adu, pixels.usable, (pixels.low, np.inf))
        if not n_good or is_constant(adu, good):
            return None
        image[~good] = np.nan
        return image

    @property
    def manifest_mask(self) -> np.ndarray | None:
        """The pixels that the mask of the manifest leaves, (panel, slow, fast) bool; None where it
        names none.
        """
        named = self.manifest.mask
        return None if named is None else read_mask(self.path.parent / named)

    def spectrum(self, i: int) -> Spectrum | None:
        """Return the spectrum of shot i without its image: the one supplied, with the photons that
        the file states, else the file's own, as wide as the manifest says where there is but a
        wavelength; None where it can't be read or makes no sense.
        """
        number = int(self.shots["file"][i])
        file = self._open(number)
        spectrum = None if file is None else self._spectrum_of(file, i)
        return spectrum if isinstance(spectrum, Spectrum) else None

    def _pixels_of(self, file: ImageFile) -> _Pixels:
        """Return what all shots of the open file, one of which was read, have in common."""
        if self._pixels is None:
            low, highest = file.trusted_range
            high: float | np.ndarray = highest
            if self._saturation_photons is not None:
                high = self._conversion.adu(self._saturation_photons)
            self._pixels = _Pixels(
                usable=file.mask & self._extra_mask if self._extra_mask.ndim else file.mask,
                low=low,
                high=high,
                saturation_photons=self._conversion.fewest_photons(high),
            )
        return self._pixels

    def _frame_of(
        self, file: ImageFile, i: int, kept: KeptArrays | None = None
    ) -> np.ndarray | str:
        """Return the image of shot i, ADU, or why there is none (and a line in `problems`). file:
        that of the shot; kept: arrays that it may be read into.
        """
        frame = int(self.shots["frame"][i])
        try:
            return file.frame(frame, kept)
        except OSError as error:
            path = self._path_of(int(self.shots["file"][i]))
            cause = _cause(error, path)
            self._report(f"{path}, frame {frame}: {error}", (path, cause))
            return cause

    def _spectrum_of(self, file: ImageFile, i: int) -> Spectrum | str:
        """Return the spectrum of shot i, as `spectrum`, or why there is none. file: that of the
        shot.
        """
        path = self._path_of(int(self.shots["file"][i]))
        recorded = sound_spectrum(file, int(self.shots["frame"][i]), path)
        if self.spectra is not None:
            photons = 1.0 if isinstance(recorded, str) else float(recorded.photons.sum())
            recorded = self.spectra.spectrum(int(self.shots["shot_id"][i]), photons) or recorded
        bandwidth = self.manifest.bandwidth
        if isinstance(recorded, str) or bandwidth is None or len(recorded.energies_ev) > 1:
            return recorded
        (energy,) = recorded.energies_ev
        (photons,) = recorded.photons
        return gaussian(float(energy), bandwidth * float(energy), float(photons))

    def _path_of(self, number: int) -> Path:
        """Return the path of a file of the manifest."""
        return self.path.parent / self.manifest.files[number].path

    def _open(self, number: int) -> ImageFile | None:
        """Return the file of this number, or None (and a line in `problems`) where it is not what
        the manifest says.
        """
        if number != self._number:
            if self._file is not None:
                self._file.close()
            self._number = number
            self._pixels = None
            self._file = self._open_checked(number)
        return self._file

    def _open_checked(self, number: int) -> ImageFile | None:
        """Return a file newly opened, or None (and a line in `problems`), as `_open`."""
        path = self._path_of(number)
        entry = self.manifest.files[number]
        file = None
        try:
            for described in (entry, *entry.data_files):
                _check_size(self.path.parent / described.path, described)
            file = open_image(path, self._geometry)
            _check_content(path, entry, file, self._detector)
        except FileError as error:
            self._why_not_open = _cause(error, path)
            self._report(str(error), (path, self._why_not_open))
            if file is not None:
                file.close()
            return None
        return file

    def _lost(self, i: int, outcome: Outcome, cause: str) -> Outcome:
        """Return the outcome of shot i, and keep its cause."""
        self.causes[i] = cause
        return outcome

    def _report(self, problem: str, what: tuple[Path, str]) -> None:
        """Keep a problem for the log; once for what it is, a file and a cause."""
        if what not in self._reported:
            self._reported.add(what)
            self.problems.append(problem)

    def _find_detector(self, geometry: Detector | None) -> Detector:
        """Return `geometry`, checked against the first file that opens, or that file's own where it
        is None.
        """
        header = self._first_header()
        if geometry is None:
            if header is None:
                expected = "at least one readable image file"
                found = f"none: {self.problems[0]}" if self.problems else "none"
                raise FileError(self.path, expected, found, "Check where the images are.")
            return self._with_sensor(header)
        if header is not None and not _fits(header, geometry):
            expected = f"a geometry for {_shape(header)}"
            raise FileError(self.path, expected, _shape(geometry), "Not of this detector.")
        return geometry

    def _with_sensor(self, header: Detector) -> Detector:
        """Return a detector with the sensor that the manifest states, if it states one, at the
        energy of the first spectrum that can be read.
        """
        stated = self.manifest.sensor
        if stated is None:
            return header
        spectra = (self.spectrum(i) for i in range(self.n_shots))
        first = next((spectrum for spectrum in spectra if spectrum is not None), None)
        mean_wavelength = np.inf if first is None else wavelength(first.mean_energy_ev)
        sensor = sensor_of(stated.material, stated.thickness_mm, float(mean_wavelength))
        return with_sensor(header, sensor)

    def _first_header(self) -> Detector | None:
        """Return the detector of the first file that opens, or None where none does."""
        for number in range(len(self.manifest.files)):
            file = self._open(number)
            if file is not None:
                return file.detector
        return None

    def _identity(self, masks: Sequence[Path], geometry_files: Sequence[Path]) -> str:
        """Return the digest of the run. masks, geometry_files: those that its pixels and detector
        are from.
        """
        maps = self.manifest.calibration
        described_elsewhere = {"files", "mask", "calibration", "geometry", "remarks"}
        return store.digest(
            self.manifest.model_dump(exclude=described_elsewhere),
            [_content_of(file) for file in self.manifest.files],
            [store.checksum(mask) for mask in masks],
            *([] if maps is None else [store.checksum(self.path.parent / maps)]),
            *([list(map(store.checksum, geometry_files))] if geometry_files else []),
            *([] if self.spectra is None else [self.spectra.identity]),
        )

    def _find_conversion(self) -> Conversion:
        """Return how ADU become photons. Raises FileError for maps of another detector."""
        maps = self.manifest.calibration
        return Conversion(
            self.manifest.offset_adu,
            self.manifest.adu_per_photon,
            None if maps is None else read_maps(self.path.parent / maps, self.detector),
            self.manifest.common_mode,
        )

    def _join_masks(self, paths: Sequence[Path]) -> np.ndarray:
        """Return the pixels that all masks leave, as bool that broadcasts with an image. Raises
        FileError for one of another detector.
        """
        expected = (self.detector.n_panels, *self.detector.shape)
        good = np.ones((), bool)
        for path in paths:
            mask = read_mask(path)
            if mask.shape != expected:
                todo = "The mask is of another detector."
                raise FileError(path, f"a mask of shape {expected}", mask.shape, todo)
            good = good & mask
        return good


def _shots(manifest: Manifest) -> dict[str, np.ndarray]:
    """Return the columns of `Source.shots`."""
    ids = []
    numbers = []
    frames = []
    for number, file in enumerate(manifest.files):
        for frame in range(file.n_frames):
            ids.append(shot_id(manifest.run, file.path, frame))
            numbers.append(number)
            frames.append(frame)
    return {
        "shot_id": np.array(ids, np.uint64),
        "file": np.array(numbers, np.int32),
        "frame": np.array(frames, np.int32),
    }


def _content_of(file: ManifestFile) -> tuple[str | int, ...]:
    """Return what tells the content of an image file, and of those that it leads to, from other
    content.
    """
    of_others = sorted(data_file.sha256 for data_file in file.data_files)
    return (Path(file.path).name, file.n_frames, file.sha256, *of_others)


def _check_size(path: Path, entry: DataFile) -> None:
    """Raise FileError where a file is there, and not of the size that the manifest says."""
    if not path.exists():
        return
    size = path.stat().st_size
    if size != entry.size:
        todo = "Restore the file or write the manifest again."
        raise FileError(path, f"{entry.size} bytes", f"{size} bytes", todo)


def _check_content(
    path: Path, entry: ManifestFile, file: ImageFile, detector: Detector | None
) -> None:
    """Raise FileError where a file has other frames than the manifest says, or panels than the run
    has.
    """
    if file.n_frames != entry.n_frames:
        todo = "Write the manifest again."
        raise FileError(path, f"{entry.n_frames} frames", file.n_frames, todo)
    if detector is not None and not _fits(file.detector, detector):
        todo = "Not the detector of this run."
        raise FileError(path, _shape(detector), _shape(file.detector), todo)


def _fits(a: Detector, b: Detector) -> bool:
    """Whether two detectors have as many panels of the same shape."""
    return a.n_panels == b.n_panels and tuple(a.shape) == tuple(b.shape)


def _shape(detector: Detector) -> str:
    """Return the panels of a detector in words."""
    return f"{detector.n_panels} panels of {tuple(detector.shape)} px"


def _why_masked(masked: float, lost: float) -> str:
    """Return what made too many pixels unusable: shares of those that are masked, and of all that
    are lost.
    """
    return (
        f"{masked:.0%} of the pixels are masked, {lost:.0%} with those that are below the trusted "
        "range or no numbers"
    )


def _cause(error: Exception, path: Path) -> str:
    """Return an error without the path of its file, so that it is the same for many files."""
    text = str(error).replace(f"{path}:", "")
    return text.replace(str(path), "the file").strip()


def sound_spectrum(file: ImageFile, frame: int, path: Path) -> Spectrum | str:
    """Return the spectrum of a frame, negative weights (noise of a spectrometer) set to 0; where it
    makes no sense, why. path: of the file.
    """
    try:
        energies, photons = file.spectrum(frame)
    except FileError as error:
        return _cause(error, path)

    photons = np.maximum(photons, 0.0)  # keeps NaN

    if not (np.isfinite(energies).all() and (energies > 0).all()):
        return "wavelengths that are not finite and positive"
    with np.errstate(over="ignore"):
        total = photons.sum()  # not finite where a channel is not
    if not 0 < total < np.inf:
        return "a spectrum without photons, or of numbers that are not finite"
    return Spectrum(energies, photons)


def open_source(
    manifest: Path | str,
    section: IndexSection,
    detector: Detector | None = None,
    spectra: SuppliedSpectra | None = None,
) -> Source:
    """Return the shots of a manifest with a section's mask and trusted range. detector, spectra:
    instead of the files'.
    """
    return Source(
        manifest,
        geometry=detector,
        mask=section.mask,
        saturation_photons=section.saturation_photons,
        spectra=spectra,
    )


def open_indexed(manifest: Path | str, reindex: Path, detector: Detector | None = None) -> Source:
    """Return the shots of a manifest as a product of reindex was made from them: with its mask, its
    trusted range, and the spectra that were adopted with its lattices. detector: instead of the
    headers'. Raises FileError.
    """
    attributes = store.attributes(reindex, Reindex)
    section = IndexSection.model_validate(attributes["config"])
    identity = attributes.get("spectra")
    spectra = None if identity is None else SuppliedSpectra(reindex, identity)
    return open_source(manifest, section, detector, spectra)


def read_again(source: Source, number: int, shot_id: int) -> Shot:
    """Return a shot that an earlier stage could read. Raises FileError where it has changed since.

    number: of the shot in its run.
    """
    shot = source.read(number)
    if isinstance(shot, Outcome):
        found = shot.name.lower()
    elif shot.shot_id != shot_id:
        found = f"shot {shot.shot_id:016x}"
    else:
        return shot
    where = f"shot {number} of the run"
    raise FileError(where, f"shot {shot_id:016x} as in reindex", found, "Rerun reindex.")
