"""HDF5 files of images that a CrystFEL geometry file describes (CXI, of LCLS, SACLA and European
XFEL): nothing in them is understood but what that file names.
"""

from collections.abc import Mapping
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (h5py decompresses with the filters that it brings)
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images import geom_text
from spreadflow.io.images.geom import FRAMES, Geom, factor_of
from spreadflow.io.images.geom_frames import Frames
from spreadflow.io.images.geom_masks import Masks
from spreadflow.io.images.geom_text import ABOUT_GEOM, Quantity
from spreadflow.io.images.geom_values import Values
from spreadflow.io.images.kept import KeptArrays
from spreadflow.io.images.nexus_items import BROKEN, numbers, place
from spreadflow.io.images.unit_names import ANGSTROM, EV, unit_factor
from spreadflow.models import Spectrum
from spreadflow.units import energy

LONGEST_IN_M = 1e-6
"""Wavelengths below this are in m, whatever their unit: others in Å are far above it."""


class CrystfelFile:
    """An HDF5 file and the geometry file that describes it: an `ImageFile`. Raises FileError where
    they don't fit, or either makes no sense.
    """

    polarization = None
    shot_ids = None

    def __init__(self, path: Path | str, geom: Geom):
        self.path = Path(path)
        self._geom = geom
        try:  # without locks, which shared file systems often refuse
            self._file = h5py.File(self.path, "r", locking=False)
        except (OSError, RuntimeError) as error:
            expected = "a readable HDF5 file"
            raise FileError(self.path, expected, error, "Check that it is complete.") from None
        try:
            self._load()
        except FileError:
            self.close()
            raise
        except BROKEN as error:
            self.close()
            expected = f"an HDF5 file as {geom.path} describes it"
            raise FileError(self.path, expected, error, ABOUT_GEOM) from None

    def _load(self) -> None:
        """Find the frames, and read what the geometry file names."""
        geom = self._geom
        self._frames = Frames(self._file, geom)
        self.n_frames = self._frames.n_frames
        self._layout = geom.layout(self.path, self._file, None)
        self._frames.check_fits(self._layout)
        self.detector = self._layout.detector
        self._masks = Masks(geom, self._frames)
        self.mask = self._masks.good
        self._energies_ev = _energies_ev(geom, self._frames)
        self._values = Values(geom, _typical(self._energies_ev), self._frames.dtype)
        self.pedestal = self._values.pedestal
        self.trusted_range = self._values.trusted_range

    @property
    def remarks(self) -> list[str]:
        """What the geometry file leaves open and was assumed, or lacks: a sentence each."""
        lacks = []
        if self._energies_ev is None:
            lacks.append(f"{self._geom.path.name}: neither photon_energy nor wavelength")
        return [*self._layout.remarks, *self._masks.remarks, *self._values.remarks, *lacks]

    def frame(self, number: int, kept: KeptArrays | None = None) -> np.ndarray:
        """Return an image (panel, slow, fast), ADU, in the type it is stored in; as float where
        pixels are flagged, which are NaN, and as photons where gains differ between panels. Raises
        OSError where it is lost or damaged.
        """
        image = self._values.applied(self._frames.panels(number, self._layout))
        try:
            good = self._masks.of_frame(number)
        except (FileError, *BROKEN) as error:
            raise OSError(str(error)) from None
        if good is not None and not good.all():
            image = image.astype(np.result_type(image.dtype, np.float32))
            image[~good] = np.nan
        return image

    def spectrum(self, number: int) -> Spectrum:
        """Return the photon energy of a shot as one channel of 1 photon. Raises FileError where
        none is stated.
        """
        energies_ev, photons = self.spectra(slice(number, number + 1))
        return Spectrum(energies_ev.reshape(-1), photons[0])

    def spectra(self, frames: slice) -> Spectrum:
        """Return what `spectrum` returns for many shots: energies and photons (shot, channel).
        Raises FileError.
        """
        if self._energies_ev is None:
            expected = "photon_energy or wavelength in the geometry file"
            raise FileError(self._geom.path, expected, "none", ABOUT_GEOM)
        energies_ev = self._energies_ev[frames, None]
        return Spectrum(energies_ev, np.ones(energies_ev.shape))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _typical(energies_ev: np.ndarray | None) -> float | None:
    """Return the median of the energies that make sense; None where there are none."""
    if energies_ev is None:
        return None
    sound = energies_ev[np.isfinite(energies_ev) & (energies_ev > 0)]
    return float(np.median(sound)) if len(sound) else None


def _energies_ev(geom: Geom, frames: Frames) -> np.ndarray | None:
    """Return the photon energy of each frame, eV; None where it is not stated. Raises FileError."""
    setting = geom.setting("photon_energy")
    if setting is not None:
        return _values(geom_text.quantity(setting, EV), frames, EV)
    setting = geom.setting("wavelength")
    if setting is None:
        return None
    lengths = _values(geom_text.quantity(setting, ANGSTROM), frames, ANGSTROM)
    lengths = np.where(lengths < LONGEST_IN_M, lengths * ANGSTROM["m"], lengths)
    with np.errstate(divide="ignore"):
        return energy(lengths)


def _values(stated: Quantity, frames: Frames, units: Mapping[str, float]) -> np.ndarray:
    """Return a quantity of each frame, in the unit of factor 1 where its own is known. Raises
    FileError for a number that is not positive, and for a dataset of another number of values than
    frames.
    """
    if stated.number is not None:
        if stated.number <= 0:
            raise FileError(stated.where, "a positive number", stated.number, ABOUT_GEOM)
        return np.full(frames.n_frames, stated.number * (unit_factor(stated.unit, units) or 1.0))
    values = []
    names = list(dict.fromkeys(event.name for event in frames.events))
    for name in names if FRAMES in stated.dataset else names[:1]:
        of_name = [event for event in frames.events if event.name == name]
        n_frames = len(of_name) if FRAMES in stated.dataset else frames.n_frames
        item = frames.item(stated.dataset, of_name[0])
        own = numbers(item).astype(float).ravel() * factor_of(stated, item, units)
        if len(own) not in (1, n_frames):
            expected = f"1 or {n_frames} values, as {stated.where} names them"
            raise FileError(place(item), expected, len(own), ABOUT_GEOM)
        values.append(np.broadcast_to(own, n_frames))
    return np.concatenate(values)
