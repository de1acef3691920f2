"""Spectra that a spec file supplies: as its `.lam` files hold them, and as `adopt` keeps them
beside its product, for all stages that open the images.
"""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io import store
from spreadflow.models import Spectrum
from spreadflow.products import Spectra
from spreadflow.units import energy

COLUMNS = "two columns, separated by a comma: wavelength (Å), weight"
"""What a row of a .lam file holds."""


def read_lam(path: Path | str) -> Spectrum:
    """Return the spectrum of a .lam file of diffBragg; its photons, which are shares of the pulse,
    add up to 1.

    Lines that begin with # are comments. Rows may be in any order; negative weights, noise of a
    spectrometer, count as 0. Raises FileError.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise FileError(path, "a spectrum", error, "Check the path.") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            rows.append(_row(f"{path}, line {number}", line))
    wavelengths, weights = np.array(rows).reshape(-1, 2).T
    weights = np.maximum(weights, 0.0)
    energies_ev, order = np.unique(energy(wavelengths), return_index=True)
    if not weights.any() or len(energies_ev) < len(weights):
        found = f"{len(weights)} rows, {len(energies_ev)} wavelengths, sum {weights.sum():g}"
        expected = "a positive weight, and each wavelength once"
        raise FileError(path, expected, found, "Correct the file.")
    return Spectrum(energies_ev, weights[order] / weights.sum())


def _row(where: str, line: str) -> tuple[float, float]:
    """Return wavelength and weight of a row. Raises FileError."""
    try:
        wavelength, weight = map(float, line.split(","))
        is_sound = 0 < wavelength < np.inf and np.isfinite(weight)
    except ValueError:
        is_sound = False
    if not is_sound:
        raise FileError(where, COLUMNS, line, "Correct the line.")
    return wavelength, weight


def path_of(reindex: Path) -> Path:
    """Return where the spectra lie that were adopted with a product of reindex."""
    return reindex.with_suffix(".spectra.h5")


def write(reindex: Path, files: Mapping[int, Path]) -> None:
    """Write the spectra of shots beside a product of reindex. files: shot_id → its .lam file.
    Raises FileError.
    """
    spectra = [read_lam(path) for path in files.values()]
    supplied = Spectra(
        shots=Spectra.shots(
            shot_id=np.array(list(files), dtype=np.uint64),
            n_channels=np.array([len(spectrum.photons) for spectrum in spectra]),
        ),
        channels=Spectra.channels(
            energy_ev=np.concatenate([spectrum.energies_ev for spectrum in spectra]),
            share=np.concatenate([spectrum.photons for spectrum in spectra]),
        ),
    )
    columns = supplied.datasets().values()
    key = store.digest(*(np.ascontiguousarray(column).tobytes() for column in columns))
    store.write(path_of(reindex), supplied, key=key)


class SuppliedSpectra:
    """The spectra beside a product of reindex. Raises FileError where they are not there, or others
    than `identity` says.
    """

    def __init__(self, reindex: Path, identity: str | None = None):
        self.path = path_of(reindex)
        self.identity = store.identity(self.path)
        if identity not in (None, self.identity):
            expected = f"the spectra that {reindex} was made with, {identity}"
            raise FileError(self.path, expected, self.identity, "Rerun adopt.")
        shots = store.read(self.path, Spectra, [Spectra.shots]).shots
        n_channels = shots.n_channels
        ends = np.cumsum(n_channels)
        rows = map(slice, ends - n_channels, ends)
        self._rows = dict(zip(shots.shot_id.tolist(), rows, strict=True))
        self.most_channels = int(n_channels.max())
        """channels of the longest of the spectra"""

    def spectrum(self, shot_id: int, photons: float) -> Spectrum | None:
        """Return the spectrum of a shot with so many photons, None where none was supplied."""
        if shot_id not in self._rows:
            return None
        rows = self._rows[shot_id]
        with h5py.File(self.path, "r", locking=False) as f:
            energies_ev = f[Spectra.channels.energy_ev.path][rows]
            return Spectrum(energies_ev, photons * f[Spectra.channels.share.path][rows])
