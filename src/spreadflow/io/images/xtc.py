"""XTC and XTC2, the formats of LCLS: events that a locator names, as psana calibrates them, and a
geometry beside them.
"""

from pathlib import Path

import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images import psana_events
from spreadflow.io.images.kept import KeptArrays
from spreadflow.io.images.layout import Layout, panels_of
from spreadflow.io.images.locator import ABOUT_LOCATORS, read_locator
from spreadflow.models import Spectrum
from spreadflow.units import energy, wavelength

UNIT_REMARK = (
    "pixels are as psana calibrates them, in ADU, or keV of detectors that switch their gain; one "
    "is taken for one photon"
)
"""What is said of the numbers of pixels."""


class XtcFile:
    """The events that a locator names: an `ImageFile`.

    layout: the geometry; None = none, which is an error, as events hold none for certain. Raises
    FileError where it is of another detector, or psana can't read the events.
    """

    trusted_range = (-np.inf, np.inf)
    pedestal = (0.0, 1.0)
    shot_ids = None

    def __init__(self, path: Path, layout: Layout | None):
        self.path = path
        locator = read_locator(path)
        if layout is None:
            todo = "Name it in the file, as `geometry = FILE`, or with --geometry."
            raise FileError(path, "a geometry, .geom or .expt", "none", todo)
        self._layout = layout
        self._modules = layout.modules
        self._offset_ang = locator.wavelength_offset
        self._events = psana_events.open_events(path, locator)
        self.detector = layout.detector
        self.remarks = [UNIT_REMARK, *layout.remarks]
        try:
            self._load()
        except FileError:
            self.close()
            raise
        except Exception as error:  # whatever psana raises
            self.close()
            raise FileError(path, "readable events", repr(error), ABOUT_LOCATORS) from None

    def _load(self) -> None:
        """Look at the first image: what it is of, and which of its pixels are good."""
        self.n_frames = self._events.n_events
        images = ((number, self._events.image(number)) for number in range(self.n_frames))
        number, image = next((pair for pair in images if pair[1] is not None), (0, None))
        if image is None:
            found = f"none in {self.n_frames} events"
            raise FileError(self.path, "images", found, "Check detector_address.")
        self._shape = np.shape(image)
        if self._modules is not None:
            stacked = _stacked(image, len(self._modules[0].size))
            self._modules = self._layout.fitted(self.path, stacked.shape)
        good = self._events.good(number)
        self.mask = self._panels(np.ones(self._shape) if good is None else good) != 0
        if self._layout.mask is not None:
            self.mask &= self._layout.mask
        self.polarization = self._events.polarization

    def frame(self, number: int, kept: KeptArrays | None = None) -> np.ndarray:
        """Return an image (panel, slow, fast) as psana calibrates it. Raises OSError where the
        detector was not read out, or not as in the first event.
        """
        try:
            image = self._events.image(number)
        except Exception as error:  # whatever psana raises
            raise OSError(repr(error)) from None
        if image is None:
            raise OSError("the detector was not read out")
        if np.shape(image) != self._shape:
            raise OSError(f"an image of shape {np.shape(image)}, not {self._shape}")
        return self._panels(image)

    def spectrum(self, number: int) -> Spectrum:
        """Return the photon energy of an event as one channel of 1 photon. Raises FileError where
        the machine states none.
        """
        expected = "a photon energy of the event"
        try:
            energy_ev = self._events.energy_ev(number)
        except Exception as error:  # whatever psana raises
            raise FileError(self.path, expected, repr(error), ABOUT_LOCATORS) from None
        if energy_ev is None or not energy_ev > 0:
            raise FileError(self.path, expected, energy_ev, "The event can't be used.")
        shifted = energy(wavelength(float(energy_ev)) + self._offset_ang)
        return Spectrum(np.array([shifted]), np.ones(1))

    def spectra(self, frames: slice) -> Spectrum:
        """Return what `spectrum` returns for many shots: energies and photons (shot, channel).
        Raises FileError.
        """
        numbers = range(self.n_frames)[frames]
        energies_ev = [self.spectrum(number).energies_ev for number in numbers]
        return Spectrum(np.reshape(energies_ev, (-1, 1)), np.ones((len(numbers), 1)))

    def close(self) -> None:
        """Leave the events."""
        self._events.close()

    def _panels(self, image: np.ndarray) -> np.ndarray:
        """Return the panels (panel, slow, fast) of an image: as a .geom says, else each module of
        it cut into panels row by row, as dxtbx numbers ASICs. Raises FileError where the geometry
        is of another detector.
        """
        slow, fast = self.detector.shape
        if self._modules is not None:
            stacked = _stacked(image, len(self._modules[0].size))
            return panels_of(stacked, self._modules, (slow, fast))
        modules = _stacked(image, 3)
        n_modules, n_slow, n_fast = modules.shape
        rows, columns = n_slow // slow, n_fast // fast
        if modules.size != self.detector.n_panels * slow * fast or n_slow % slow or n_fast % fast:
            expected = f"{self.detector.n_panels} panels of {(slow, fast)} px, as in the geometry"
            found = f"modules {modules.shape}"
            raise FileError(self.path, expected, found, "The geometry is of another detector.")
        cut = modules.reshape(n_modules, rows, slow, columns, fast).swapaxes(2, 3)
        return cut.reshape(-1, slow, fast)


def _stacked(image: np.ndarray, n_axes: int) -> np.ndarray:
    """Return an image as modules (module, slow, fast), or for 2 axes with these one above the
    other, as CrystFEL has them.
    """
    values = np.asarray(image)
    slow, fast = values.shape[-2:]
    return values.reshape(-1, fast) if n_axes == 2 else values.reshape(-1, slow, fast)
