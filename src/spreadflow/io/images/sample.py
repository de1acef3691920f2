"""A few shots of many image files, as they are stored, from which a detector is judged."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.errors import FileError
from spreadflow.io import store
from spreadflow.io.images.formats import ImageFile, open_image
from spreadflow.io.images.geometry import Geometry
from spreadflow.io.images.source import sound_spectrum
from spreadflow.io.new_hdf5 import new_hdf5
from spreadflow.models import Detector

MOST_SHOTS = 10
"""Shots that are read."""

MOST_PIXELS = 40_000_000
"""Pixels of all of them together, which bounds the memory they take."""


class Sample(NamedTuple):
    """Some shots of image files, and what the first file's header says of all."""

    frames: list[np.ndarray]
    """each (panel, slow, fast) ADU"""
    n_shots: int
    """in the files from which these were chosen"""
    usable: np.ndarray
    """(panel, slow, fast) bool, neither masked nor below the trusted range"""
    detector: Detector
    trusted_range: tuple[float, float]
    pedestal: tuple[float, float]
    """pedestal (ADU) and gain (ADU per photon) as stated, 0 and 1 where they are not"""
    polarization: float | None
    energies_ev: np.ndarray
    """(shot,) mean photon energy; NaN where none is stated"""
    n_channels: int
    """of the spectra: 1 where there is but a wavelength, 0 without"""
    remarks: list[str]


def read_sample(paths: Sequence[Path], geometry: Geometry | None = None) -> Sample:
    """Return evenly chosen shots of image files, at least one of them. geometry: in place of the
    headers'. Raises FileError where no shot can be read.
    """
    with closing(open_image(paths[0], geometry)) as file:
        n_most = most_shots(file.detector)
    chosen = [paths[n] for n in evenly(len(paths), n_most)]
    samples = []
    for path in chosen:
        with closing(open_image(path, geometry)) as file:
            sample = _of_file(path, file, -(-n_most // len(chosen)))
        samples += [] if sample is None else [sample]
    if not samples:
        todo = "Check where the images are."
        raise FileError(paths[0], "a shot that can be read", "none", todo)

    first = samples[0]
    same = [sample for sample in samples if sample.usable.shape == first.usable.shape]
    return first._replace(
        frames=[frame for sample in same for frame in sample.frames],
        n_shots=sum(sample.n_shots for sample in samples),
        usable=np.logical_and.reduce([sample.usable for sample in same]),
        energies_ev=np.concatenate([sample.energies_ev for sample in same]),
    )


def most_shots(detector: Detector) -> int:
    """Return how many shots of a detector are held in memory to judge it, at most."""
    n_pixels = detector.n_panels * int(np.prod(detector.shape))
    return max(1, min(MOST_SHOTS, MOST_PIXELS // n_pixels))


def _of_file(path: Path, file: ImageFile, n_most: int) -> Sample | None:
    """Return evenly chosen shots of one file, those that can be read; None where none can be."""
    frames = []
    energies_ev = []
    n_channels = 0
    for number in evenly(file.n_frames, n_most):
        try:
            frames.append(file.frame(number))
        except OSError:
            continue
        spectrum = sound_spectrum(file, number, path)
        if isinstance(spectrum, str):
            energies_ev.append(np.nan)
            continue
        energies_ev.append(float(spectrum.mean_energy_ev))
        n_channels = max(n_channels, len(spectrum.energies_ev))
    if not frames:
        return None
    low, _ = file.trusted_range
    usable = np.logical_and.reduce([file.mask, *(frame >= low for frame in frames)])
    return Sample(
        frames=frames,
        n_shots=file.n_frames,
        usable=usable,
        detector=file.detector,
        trusted_range=file.trusted_range,
        pedestal=file.pedestal,
        polarization=file.polarization,
        energies_ev=np.array(energies_ev),
        n_channels=n_channels,
        remarks=file.remarks,
    )


def evenly(n: int, n_most: int) -> list[int]:
    """Return at most so many of n numbers from 0, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, n_most)).round().astype(int)).tolist()


def write_mask(path: Path, kinds: np.ndarray, names: Sequence[str]) -> None:
    """Write a file that `read_mask` reads. kinds: (panel, slow, fast) uint8, 0 = may be used, else
    what is wrong with a pixel; names: of all kinds, in order, which the dataset's attribute `kinds`
    keeps.
    """
    with store.replacing(path) as temporary, new_hdf5(temporary) as file:
        dataset = file.create_dataset("mask", data=kinds.astype(np.uint8), compression="gzip")
        dataset.attrs["kinds"] = list(names)
