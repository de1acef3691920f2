"""A small NXmx file as this project writes it, an edit of it, and what is read of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from spreadflow.io import nexus_writer
from spreadflow.io.images.nexus import NexusFile
from spreadflow.models import Detector

N_FRAMES = 2
SHAPE = (16, 20)
ENERGIES_EV = 7100.0 + 10.0 * np.arange(5)
OFFSET_ADU = 10
ADU_PER_PHOTON = 2.0
DATA = "entry/data/data"
SENSOR = "entry/instrument/detector"
MODULE = f"{SENSOR}/module"
STEPS = f"{SENSOR}/transformations"
BEAM = "entry/instrument/beam"
CHANNELS = f"{BEAM}/incident_wavelength_1Dspectrum"
MEAN = f"{BEAM}/incident_wavelength"
DETECTOR = Detector(
    origin_mm=np.array([[-1.9, 1.7, -120.0]]),
    fast=np.array([[1.0, 0.0, 0.0]]),
    slow=np.array([[0.0, -1.0, 0.0]]),
    pixel_mm=0.2,
    shape=SHAPE,
)


class Content(NamedTuple):
    """What is read of a file."""

    photons: np.ndarray
    """(frame, panel, slow, fast)"""
    good: np.ndarray
    """likewise bool, the pixels that may be used"""
    detector: Detector
    energies_ev: np.ndarray
    """(frame, channel)"""
    spectra: np.ndarray
    """likewise, photons of the channels"""
    remarks: list[str]


def images() -> np.ndarray:
    """The frames, ADU, small enough for every type."""
    frames = np.random.default_rng(4).integers(20, 120, size=(N_FRAMES, 1, *SHAPE))
    return frames.astype(np.int32)


def spectra() -> np.ndarray:
    """The photons of the channels of each frame."""
    return np.array([[1.0, 3, 6, 3, 1], [2, 2, 5, 4, 1]])


def mask() -> np.ndarray:
    """The pixels that may be used."""
    good = np.ones((1, *SHAPE), bool)
    good[0, 3:5] = False
    return good


def write(path: Path, edit: Callable[[h5py.File], Any] | None = None) -> Content:
    """Write the file of a dialect. Returns what must be read of it."""
    stills = nexus_writer.Stills(
        images=images(),
        shot_ids=np.arange(N_FRAMES, dtype=np.uint64),
        energies_ev=ENERGIES_EV,
        photons=spectra(),
    )
    instrument = nexus_writer.Instrument(
        DETECTOR, 1000, offset_adu=OFFSET_ADU, adu_per_photon=ADU_PER_PHOTON, mask=mask()
    )
    nexus_writer.write(path, stills, instrument, compression="gzip")
    content = Content(
        photons=(images() - OFFSET_ADU) / ADU_PER_PHOTON,
        good=np.repeat(mask()[None], N_FRAMES, axis=0),
        detector=DETECTOR,
        energies_ev=np.tile(ENERGIES_EV, (N_FRAMES, 1)),
        spectra=spectra(),
        remarks=[],
    )
    if edit is None:
        return content
    with h5py.File(path, "r+") as f:
        changes = edit(f)
    return content._replace(**(changes or {}))


def read(path: Path) -> Content:
    """Return what the reader has of a file."""
    file = NexusFile(path)
    offset, gain = file.pedestal
    low, high = file.trusted_range
    frames = np.array([file.frame(number) for number in range(file.n_frames)])
    with np.errstate(invalid="ignore"):
        good = file.mask & (frames >= low) & (frames <= high)
    shots = [file.spectrum(number) for number in range(file.n_frames)]
    content = Content(
        photons=(frames - offset) / gain,
        good=good,
        detector=file.detector,
        energies_ev=np.array([shot.energies_ev for shot in shots]),
        spectra=np.array([shot.photons for shot in shots]),
        remarks=file.remarks,
    )
    file.close()
    return content


def put(f: h5py.File, name: str, value: Any, **attributes: Any) -> h5py.Dataset:
    """Put a dataset in the place of another, with its attributes and some more."""
    old = dict(f[name].attrs) if name in f else {}
    if name in f:
        del f[name]
    item = f.create_dataset(name, data=value)
    item.attrs.update(old | attributes)
    return item


def no_channels(f: h5py.File) -> None:
    """Leave the mean wavelengths only."""
    for end in ("", "_weights", "_weight"):
        del f[CHANNELS + end]
    del f[MEAN].attrs["variant"]


def only_means(f: h5py.File) -> dict[str, np.ndarray]:
    """Leave the mean wavelengths only; what is to be read then."""
    no_channels(f)
    means = (spectra() @ ENERGIES_EV) / spectra().sum(axis=1)
    return {"energies_ev": means[:, None], "spectra": np.ones((N_FRAMES, 1))}
