"""A bank of recorded spectra, from which a simulation takes its pulses."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io import images
from spreadflow.io.nexus import NexusFile
from spreadflow.models import Spectrum
from spreadflow.physics.spectrum import resampled

CHUNK = 256
"""Spectra read at a time."""


class Bank:
    """Spectra of an NXmx file, or of the files of a manifest, in their order, resampled onto
    channels.

    energies_ev: (channel,) centres of the channels, eV, ascending. photons: mean of the pulses over
    the bank; None = as recorded. Spectra that make no sense (energies or photons not finite,
    energies not positive or twice the same, no photons within the channels) are left out. Memory
    does not grow with the length of the spectra. Raises FileError for a file that can't be read,
    and where no spectrum is left.
    """

    def __init__(self, path: Path | str, energies_ev: np.ndarray, photons: float | None):
        self.path, self.energies_ev = Path(path), np.asarray(energies_ev, dtype=np.float64)
        self._paths = _files(self.path)
        self._number = -1
        self._file: NexusFile | None = None
        """the one file that is open, of number _number"""
        self._rows: list[tuple[int, int]] = []
        recorded = inside = 0.0
        self.n_bad = 0
        """spectra left out"""
        for number, frame, before, after in self._all():
            if after > 0:
                self._rows.append((number, frame))
                recorded = recorded + before
                inside = inside + after
            else:
                self.n_bad += 1
        if not self._rows:
            expected = f"a spectrum with photons within {energies_ev[0]:g}-{energies_ev[-1]:g} eV"
            raise FileError(
                self.path,
                expected,
                f"{self.n_bad} without",
                "Check the channels of the simulation and the file.",
            )
        self.lost = 1.0 - inside / recorded
        """fraction of the recorded photons beyond the channels"""
        self._scale = 1.0 if photons is None else photons * len(self) / inside

    def __len__(self) -> int:
        return len(self._rows)

    def pulse(self, number: int) -> Spectrum:
        """Return the pulse of shot `number` of a run: spectrum `number` modulo their number."""
        file, frame = self._rows[number % len(self)]
        energies, photons = resampled(self._open(file).spectrum(frame), self.energies_ev)
        return Spectrum(energies, photons * self._scale)

    def _all(self) -> Iterator[tuple[int, int, float, float]]:
        """Yield file, frame, photons recorded and within the channels (0 where it makes no sense)
        of each spectrum.
        """
        for number in range(len(self._paths)):
            file = self._open(number)
            for start in range(0, file.n_frames, CHUNK):
                try:
                    energies, photons = file.spectra(slice(start, start + CHUNK))
                except (OSError, KeyError, ValueError) as error:
                    raise FileError(
                        file.path, "readable spectra", error, "See docs/files.md, image files."
                    ) from None
                shared = energies.ndim == 1
                pieces = (
                    [(energies, photons)]
                    if shared
                    else zip(energies, photons[:, None], strict=True)
                )
                sums = [_photons(Spectrum(*piece), self.energies_ev) for piece in pieces]
                for i, (before, after) in enumerate(np.concatenate(sums)):
                    yield number, start + i, before, after

    def _open(self, number: int) -> NexusFile:
        """Return the file of this number."""
        if number != self._number or self._file is None:
            if self._file is not None:
                self._file.close()
            self._number, self._file = number, NexusFile(self._paths[number])
        return self._file


def _files(path: Path) -> list[Path]:
    """Return the image files of a manifest, or the one file itself."""
    if not path.is_file() or h5py.is_hdf5(path):
        return [path]
    return [path.parent / file.path for file in images.read_manifest(path).files]


def _photons(spectra: Spectrum, energies_ev: np.ndarray) -> np.ndarray:
    """Return (spectrum, 2) photons of spectra (spectrum, channel), all and within the channels; 0
    where they make no sense.
    """
    finite = np.isfinite(spectra.photons).all(axis=1)
    sound = spectra._replace(photons=np.where(finite[:, None], spectra.photons, 0.0))
    try:
        within = resampled(sound, energies_ev).photons.sum(axis=1)
    except ValueError:
        within = np.zeros(len(finite))
    return np.stack([np.maximum(sound.photons, 0.0).sum(axis=1), within], axis=1)
