"""How the numbers of a frame become photons: pedestal and gain, of the run and of each pixel, and
the common mode of the regions that are read out together.

photons = (ADU − offset − pedestal) / (adu_per_photon · gain) − common mode.
"""

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images import common_mode
from spreadflow.io.images.kept import KeptArrays
from spreadflow.io.images.nexus_items import BROKEN
from spreadflow.models import Detector

ABOUT_MAPS = "See docs/files.md, gains and pedestals."
"""What to do about a file of maps that can't be used."""


class PixelMaps(NamedTuple):
    """What each pixel of a detector has of its own. Arrays (panel, slow, fast) float32."""

    pedestal_adu: np.ndarray
    """in addition to the pedestal of the run"""
    gain: np.ndarray
    """factor of the ADU per photon of the run; positive and finite where the pixel is good"""
    good: np.ndarray
    """bool, the pixels whose two numbers make sense"""


def read_maps(path: Path | str, detector: Detector) -> PixelMaps:
    """Return the maps in an HDF5 file: datasets `pedestal` and `gain`, one of which may be missing,
    (panel, slow, fast) or (slow, fast).

    Pixels whose numbers are not finite, or whose gain is not positive, are not to be used. Raises
    FileError where there is no such dataset, one of another shape, or no good pixel.
    """
    path = Path(path)
    shape = (detector.n_panels, *detector.shape)
    try:
        with h5py.File(path, "r", locking=False) as f:
            stored = {name: np.asarray(f[name]) for name in ("pedestal", "gain") if name in f}
    except BROKEN as error:
        expected = "an HDF5 file with datasets `pedestal` and `gain`"
        raise FileError(path, expected, error, ABOUT_MAPS) from None
    if not stored:
        raise FileError(path, "a dataset `pedestal` or `gain`", "neither", ABOUT_MAPS)

    maps = {}
    for name, default in (("pedestal", 0.0), ("gain", 1.0)):
        values = stored.get(name, np.full(shape, default))
        panels = values[None] if values.ndim == 2 else values
        if panels.shape != shape or values.dtype.kind not in "iuf":
            found = f"{values.shape} of {values.dtype}"
            expected = f"numbers of shape {shape}"
            raise FileError(f"{path}: {name}", expected, found, ABOUT_MAPS)
        maps[name] = panels.astype(np.float32)

    good = np.isfinite(maps["pedestal"]) & np.isfinite(maps["gain"]) & (maps["gain"] > 0)
    if not good.any():
        expected = "finite pedestals and positive gains"
        raise FileError(path, expected, "not one pixel with both", ABOUT_MAPS)
    return PixelMaps(
        pedestal_adu=np.where(good, maps["pedestal"], np.float32(0)),
        gain=np.where(good, maps["gain"], np.float32(1)),
        good=good,
    )


class Photons(NamedTuple):
    """The photons of an image, and which of them count."""

    image: np.ndarray
    """(panel, slow, fast) float32 photons; 0 where the ADU are no numbers"""
    valid: np.ndarray
    """likewise bool: usable, a number and within the trusted range"""
    n_good: int
    """pixels that are valid or above the trusted range"""
    n_valid: int


class Conversion(NamedTuple):
    """How ADU become photons."""

    offset_adu: float
    """pedestal of all pixels"""
    adu_per_photon: float
    maps: PixelMaps | None = None
    """what each pixel has of its own"""
    region: tuple[int, int] | None = None
    """(slow, fast) px that share a common mode, which is taken out; None = it stays"""

    @property
    def good(self) -> np.ndarray:
        """Pixels that can be converted, as bool that broadcasts with an image."""
        return np.ones((), bool) if self.maps is None else self.maps.good

    @property
    def relative_gain(self) -> np.ndarray | None:
        """ADU per photon of each pixel over the median of all; None where it is 1."""
        if self.maps is None:
            return None
        return self.maps.gain / np.median(self.maps.gain[self.maps.good])

    def adu(self, photons: float) -> np.ndarray:
        """Return the ADU of a number of photons, of each pixel or of all."""
        scaled = photons * self.adu_per_photon
        if self.maps is None:
            return np.asarray(scaled + self.offset_adu)
        return scaled * self.maps.gain + self.offset_adu + self.maps.pedestal_adu

    def fewest_photons(self, adu: np.ndarray | float) -> float:
        """Return the photons of a number of ADU, in the good pixel where it stands for fewest. adu:
        of all pixels or of each.
        """
        if self.maps is None:
            return float((adu - self.offset_adu) / self.adu_per_photon)
        above = adu - self.offset_adu - self.maps.pedestal_adu
        photons = above / (self.adu_per_photon * self.maps.gain)
        return float(np.min(photons, where=self.maps.good, initial=np.inf))

    def photons(
        self,
        adu: np.ndarray,
        usable: np.ndarray,
        trusted_range: tuple[float, float | np.ndarray] = (-np.inf, np.inf),
        kept: KeptArrays | None = None,
    ) -> Photons:
        """Return the photons of an image, in arrays of `kept`; None = new ones.

        adu, usable: (panel, slow, fast); usable pixels within the trusted range, ADU, both ends
        included, are valid, and they alone count for the common mode.
        """
        from spreadflow.io.images import conversion_loops as loops  # Numba

        kept = KeptArrays() if kept is None else kept
        image = kept.empty("image", adu.shape, np.float32)
        valid = kept.empty("valid", adu.shape, bool)
        native = _computable(adu)
        flat = loops.Flat(native.ravel(), usable.ravel(), image.ravel(), valid.ravel())
        low, high = (np.atleast_1d(_limit(limit, native.dtype)).ravel() for limit in trusted_range)
        scale = loops.Scale(np.float32(self.offset_adu), np.float32(self.adu_per_photon))
        if self.maps is None:
            counts = loops.convert(flat, low[0], high[0], scale)
        else:
            of_pixels = self.maps.pedestal_adu.ravel(), self.maps.gain.ravel()
            counts = loops.convert_mapped(flat, low[0], high, scale, *of_pixels)
        if self.region is not None:
            common_mode.subtract(image, valid, self.region)
        return Photons(image, valid, *counts)


def is_constant(adu: np.ndarray, valid: np.ndarray) -> bool:
    """Return whether all valid pixels hold the same number. adu, valid: of one shape."""
    from spreadflow.io.images import conversion_loops  # Numba

    return bool(conversion_loops.is_constant(_computable(adu).ravel(), valid.ravel()))


def _computable(adu: np.ndarray) -> np.ndarray:
    """Return numbers in C order and a type that is compiled for: in the order of bytes of this
    machine, floats of 32 or 64 bits.
    """
    dtype = adu.dtype.newbyteorder("=")
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        dtype = np.dtype(np.float32 if dtype.itemsize < 4 else np.float64)
    return np.ascontiguousarray(adu, dtype)


def _limit(limit: float | np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return a limit in the type in which NumPy compares numbers of a type with it; an array of
    limits as it is.
    """
    return np.asarray(limit, None if np.ndim(limit) else np.result_type(dtype, limit))
