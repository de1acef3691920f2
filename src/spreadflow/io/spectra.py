"""A bank of recorded spectra, from which a simulation takes its pulses."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images import (
    Geometry,
    ImageFile,
    geometry_of,
    is_manifest,
    open_image,
    read_manifest,
)
from spreadflow.models import Spectrum
from spreadflow.physics.spectrum import resampled

CHUNK = 256
"""Spectra read at a time: enough that the time of a call does not count, few enough to be small."""


class _Recorded(NamedTuple):
    """A spectrum of the bank: where it is, and how many photons it has."""

    file: int
    """number of its file"""
    frame: int
    """in that file"""
    photons: float
    """as recorded"""
    photons_inside: float
    """within the channels; 0 where the spectrum makes no sense"""


class Bank:
    """Spectra of an image file, or of the files of a manifest, in their order, resampled onto
    channels.

    energies_ev: (channel,) centres of the channels, eV, ascending. photons: mean of the pulses over
    the bank; None = as recorded. Spectra that make no sense (energies or photons not finite,
    energies not positive or twice the same, no photons within the channels) are left out. Memory
    does not grow with the length of the spectra. Raises FileError for a file that can't be read,
    and where no spectrum is left.
    """

    def __init__(self, path: Path | str, energies_ev: np.ndarray, photons: float | None):
        self.path = Path(path)
        self.energies_ev = np.asarray(energies_ev, dtype=np.float64)
        self._paths, self._geometry = _files(self.path)
        self._number = -1
        self._file: ImageFile | None = None
        """the one file that is open, of number _number"""
        self._places: list[tuple[int, int]] = []
        """number of the file, and frame, of each spectrum of the bank"""
        self.n_bad = 0
        """spectra left out"""
        recorded = 0.0
        inside = 0.0
        for spectrum in self._all():
            if spectrum.photons_inside > 0:
                self._places.append((spectrum.file, spectrum.frame))
                recorded = recorded + spectrum.photons
                inside = inside + spectrum.photons_inside
            else:
                self.n_bad += 1

        if not self._places:
            expected = f"a spectrum with photons within {energies_ev[0]:g}-{energies_ev[-1]:g} eV"
            todo = "Check the channels of the simulation and the file."
            raise FileError(self.path, expected, f"{self.n_bad} without", todo)

        self.lost = 1.0 - inside / recorded
        """fraction of the recorded photons beyond the channels"""
        self._scale = 1.0 if photons is None else photons * len(self) / inside

    def __len__(self) -> int:
        return len(self._places)

    def pulse(self, number: int) -> Spectrum:
        """Return the pulse of shot `number` of a run: spectrum `number` modulo their number."""
        file, frame = self._places[number % len(self)]
        recorded = self._open(file).spectrum(frame)
        energies, photons = resampled(recorded, self.energies_ev)
        return Spectrum(energies, photons * self._scale)

    def _all(self) -> Iterator[_Recorded]:
        """Yield every spectrum of the files."""
        for number in range(len(self._paths)):
            file = self._open(number)
            for start in range(0, file.n_frames, CHUNK):
                spectra = file.spectra(slice(start, start + CHUNK))
                totals = _totals(spectra, self.energies_ev)
                for frame, (photons, photons_inside) in enumerate(totals, start):
                    yield _Recorded(number, frame, photons, photons_inside)

    def _open(self, number: int) -> ImageFile:
        """Return the file of this number."""
        if number != self._number or self._file is None:
            if self._file is not None:
                self._file.close()
            self._number = number
            self._file = open_image(self._paths[number], self._geometry)
        return self._file


def _files(path: Path) -> tuple[list[Path], Geometry | None]:
    """Return the image files of a manifest, or the one file itself, and the geometry in place of
    theirs.
    """
    if not is_manifest(path):
        return [path], None
    manifest = read_manifest(path)
    return [path.parent / file.path for file in manifest.files], geometry_of(path, manifest)


def _totals(spectra: Spectrum, energies_ev: np.ndarray) -> np.ndarray:
    """Return the photons of spectra (spectrum, channel) as (spectrum, 2): all, and within other
    channels; 0 where they make no sense.
    """
    energies, photons = spectra
    if energies.ndim == 1:
        return _shared_totals(spectra, energies_ev)
    totals = []
    for own_energies, own_photons in zip(energies, photons, strict=True):
        spectrum = Spectrum(own_energies, own_photons[None])
        totals.append(_shared_totals(spectrum, energies_ev))
    return np.concatenate(totals)


def _shared_totals(spectra: Spectrum, energies_ev: np.ndarray) -> np.ndarray:
    """Return what `_totals` does for spectra that share their energies."""
    is_finite = np.isfinite(spectra.photons).all(axis=1)
    finite = np.where(is_finite[:, None], spectra.photons, 0.0)
    recorded = np.maximum(finite, 0.0).sum(axis=1)
    sound = spectra._replace(photons=finite)
    try:
        inside = resampled(sound, energies_ev).photons.sum(axis=1)
    except ValueError:
        inside = np.zeros(len(is_finite))
    return np.stack([recorded, inside], axis=1)
