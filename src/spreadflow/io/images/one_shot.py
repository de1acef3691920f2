"""Image files of one shot: what their headers state, and the `ImageFile` that serves it.

Readers of formats that hold one image a file, such as `cbf` and `smv`, return a `OneShotFile`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images.kept import KeptArrays
from spreadflow.io.images.layout import Layout, panels_of
from spreadflow.io.panels import Sensor
from spreadflow.models import Detector, Spectrum
from spreadflow.units import energy


class Header(NamedTuple):
    """What the header of an image file states."""

    detector: Callable[[], Detector]
    """returns it in the laboratory frame; raises FileError"""
    shape: tuple[int, int, int]
    """(panel, slow, fast)"""
    sensor: Callable[[], Sensor]
    """returns that of the detector; raises FileError"""
    wavelengths: np.ndarray
    """(channel,) Å; none where it is not stated"""
    weights: np.ndarray
    """(channel,) photons of each wavelength: 1 where there is but one"""
    trusted_range: tuple[float, float] = (-np.inf, np.inf)
    """lowest and highest trusted ADU, both inclusive"""
    pedestal: tuple[float, float] = (0.0, 1.0)
    """pedestal (ADU) and gain (ADU per photon)"""
    gaps: tuple[float, ...] = ()
    """ADU that say that a pixel was not read, within the trusted range or above it"""
    polarization: float | None = None
    """Kahn's K along the lab x axis; None where it is not stated"""
    remarks: Sequence[str] = ()
    """what it leaves open and was assumed"""


class OneShotFile:
    """One image file of one shot: an `ImageFile`.

    header: what it states. decode: returns the image (panel, slow, fast), ADU; raises OSError where
    it is damaged. layout: what stands in place of the header's geometry. Raises FileError where
    either makes no sense.
    """

    n_frames = 1
    shot_ids = None

    def __init__(
        self,
        path: Path,
        header: Header,
        decode: Callable[[], np.ndarray],
        layout: Layout | None = None,
    ):
        self.path = path
        if layout is None:
            self.detector = header.detector()
        else:
            self.detector = layout.detector_with(header.sensor)
        self._layout = layout
        self._modules = None
        if layout is not None and layout.modules is not None:
            self._modules = layout.fitted(path, header.shape)
        elif layout is not None:
            layout.check_panels(path, header.shape)
        self.trusted_range = header.trusted_range
        self.pedestal = header.pedestal
        self.polarization = header.polarization
        self._header = header
        self._decode = decode
        self._image: np.ndarray | None = None

    @property
    def remarks(self) -> list[str]:
        """What the header leaves open and was assumed, or lacks: a sentence each."""
        lacks = [] if len(self._header.wavelengths) else ["the header states no wavelength"]
        of_layout = () if self._layout is None else self._layout.remarks
        return [*self._header.remarks, *of_layout, *lacks]

    @property
    def mask(self) -> np.ndarray:
        """The pixels that were read, (panel, slow, fast) bool. Raises OSError where the image is
        damaged and its gaps are marked by their values.
        """
        good = np.ones((self.detector.n_panels, *self.detector.shape), bool)
        if self._layout is not None and self._layout.mask is not None:
            good &= self._layout.mask
        gaps = self._header.gaps
        return good & ~np.isin(self.frame(0), gaps) if gaps else good

    def frame(self, number: int, kept: KeptArrays | None = None) -> np.ndarray:
        """Return the image (panel, slow, fast), ADU, in the type it is stored in. Raises OSError
        where it is damaged.
        """
        if self._image is None:
            image = self._decode()
            if self._modules is not None:
                image = panels_of(image, self._modules, self.detector.shape)
            self._image = image
        return self._image

    def spectrum(self, number: int) -> Spectrum:
        """Return the wavelengths that the header states as channels, energies (eV) ascending.
        Raises FileError where it states none.
        """
        lengths = self._header.wavelengths
        if not len(lengths):
            todo = "Correct the header, or state the spectra otherwise."
            raise FileError(self.path, "a wavelength in the header", "none", todo)
        order = np.argsort(-lengths)
        return Spectrum(energy(lengths[order]), self._header.weights[order])

    def spectra(self, frames: slice) -> Spectrum:
        """Return what `spectrum` returns for a slice of the one shot: photons (shot, channel).
        Raises FileError.
        """
        energies, photons = self.spectrum(0)
        n_frames = len(range(self.n_frames)[frames])
        return Spectrum(energies, np.tile(photons, (n_frames, 1)))

    def close(self) -> None:
        """Forget the image."""
        self._image = None
