"""Readers of image files: a second one serves the shots of a run as NXmx files do; a file that no
reader knows is one clear error.
"""

import gzip
from pathlib import Path

import h5py
import numpy as np
import pytest

from spreadflow.errors import FileError, Outcome
from spreadflow.io import images, spectra
from spreadflow.io.images import ImageFile, KeptArrays, formats, manifest, source
from spreadflow.models import Detector, Shot, Spectrum

SHAPE = (2, 6, 5)
DETECTOR = Detector(
    origin_mm=np.array([[-1.0, 1.0, -100.0], [1.2, 1.0, -100.0]]),
    fast=np.tile([1.0, 0.0, 0.0], (2, 1)),
    slow=np.tile([0.0, -1.0, 0.0], (2, 1)),
    pixel_mm=0.1,
    shape=SHAPE[1:],
)
ENERGY_EV = 7120.0


class MemoryFile:
    """Two frames in memory, of one wavelength and without spectra; the second is damaged."""

    def __init__(self, path: Path):
        self.n_frames = 2
        self.detector = DETECTOR
        self.mask = np.ones(SHAPE, bool)
        self.mask[0, 0, 0] = False
        self.trusted_range = (0.0, 100.0)
        self.pedestal = (3.0, 2.0)
        self.polarization = None
        self.remarks: list[str] = []
        self.shot_ids = None
        self.is_open = True
        self._seed = sum(path.name.encode())

    def frame(self, number: int, kept: KeptArrays | None = None) -> np.ndarray:
        if number == 1:
            raise OSError("this frame was lost")
        return np.random.default_rng(self._seed).integers(0, 120, SHAPE).astype(np.uint16)

    def spectrum(self, number: int) -> Spectrum:
        return Spectrum(np.array([ENERGY_EV]), np.ones(1))

    def spectra(self, frames: slice) -> Spectrum:
        n_frames = len(range(self.n_frames)[frames])
        return Spectrum(np.array([ENERGY_EV]), np.ones((n_frames, 1)))

    def close(self) -> None:
        self.is_open = False


@pytest.fixture
def opened(monkeypatch) -> list[MemoryFile]:
    """The files that were opened, all of the format that is kept in memory."""
    files: list[MemoryFile] = []

    def open_image(path: Path | str, geometry: Detector | None = None) -> ImageFile:
        files.append(MemoryFile(Path(path)))
        return files[-1]

    for module in (manifest, source, spectra):
        monkeypatch.setattr(module, "open_image", open_image)
    return files


@pytest.fixture
def run(opened, tmp_path) -> Path:
    """The manifest of two such files."""
    paths = [tmp_path / name for name in ("a.mem", "b.mem")]
    for path in paths:
        path.write_bytes(b"the images are in memory")
    images.write_manifest(tmp_path / "manifest.json", "r", paths)
    return tmp_path / "manifest.json"


def test_a_manifest_describes_files_of_any_format(opened, run):
    described = images.read_manifest(run)
    assert [file.n_frames for file in described.files] == [2, 2]
    assert (described.offset_adu, described.adu_per_photon) == (3.0, 2.0)
    assert not any(file.is_open for file in opened)


def test_shots_of_another_format_are_photons_with_mask_and_spectrum(opened, run):
    shots = images.Source(run)
    adu = MemoryFile(Path("b.mem")).frame(0)
    shot = shots.read(2)
    assert isinstance(shot, Shot)
    assert np.array_equal(shot.image, (adu.astype(np.float32) - 3) / 2)

    is_masked = (adu > 100) | (np.arange(adu.size).reshape(SHAPE) == 0)
    assert np.array_equal(shot.mask, ~is_masked)
    assert shot.shot_id == images.shot_id("r", "b.mem", 0)
    assert (shot.spectrum.energies_ev, shot.spectrum.photons) == (ENERGY_EV, 1.0)
    assert shot.saturation_photons == (100 - 3) / 2
    assert shots.detector is DETECTOR
    assert shots.spectrum(0).mean_energy_ev == ENERGY_EV


def test_a_damaged_frame_of_another_format_costs_itself(opened, run):
    shots = images.Source(run)
    unreadable = [shots.read(i) is Outcome.UNREADABLE for i in range(shots.n_shots)]
    assert unreadable == [False, True, False, True]
    assert [problem.rpartition("/")[2] for problem in shots.problems] == [
        "a.mem, frame 1: this frame was lost",
        "b.mem, frame 1: this frame was lost",
    ]
    assert sum(file.is_open for file in opened) == 1


def test_a_bank_takes_spectra_of_another_format(opened, run):
    bank = spectra.Bank(run, ENERGY_EV + np.arange(-2.0, 3.0), 1e9)
    assert len(bank) == 4
    assert bank.n_bad == 0
    assert bank.pulse(3).photons.tolist() == [0, 0, 1e9, 0, 0]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"SIMPLE=T / a FITS file", r"found a file that begins with b'SIMPLE=T / a FIT'"),
        (gzip.compress(b"SIMPLE=T", mtime=0), r"found a file that begins with b'SIMPLE=T'"),
        (b"\x1f\x8b not gzip", r"found a file that begins with b'.x1f.x8b not gzip'"),
        (b"", r"found an empty file"),
        (None, r"expected an image file; found .*No such file"),
    ],
)
def test_a_file_that_no_reader_knows_is_one_clear_error(tmp_path, content, found):
    path = tmp_path / "x.cbf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileError, match=found) as caught:
        images.open_image(path)
    if content is not None:
        assert ", ".join(formats.FORMATS) in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_an_hdf5_file_of_something_else_is_one_clear_error(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as f:
        f["numbers"] = np.arange(3)
    with pytest.raises(FileError, match=r"x\.h5:/: expected a NXentry of definition NXmx"):
        images.open_image(tmp_path / "x.h5")


def test_an_unknown_file_costs_its_own_shots(opened, run, monkeypatch):
    """Only the reader of the second file is missing."""
    monkeypatch.setattr(source, "open_image", _only_the_first)
    shots = images.Source(run)
    assert [isinstance(shots.read(i), Shot) for i in range(4)] == [True, False, False, False]
    assert "b.mem: expected an image file in a format that can be read" in shots.problems[-1]


def _only_the_first(path: Path, geometry: Detector | None = None) -> ImageFile:
    return MemoryFile(path) if path.name == "a.mem" else formats.open_image(path)
