"""The point spread of a detector that acts on what was counted, and how it is undone.

What a pixel has counted is independent of its neighbours; light that spreads afterwards makes them
share their noise. Undoing the spread brings independent counts back, and with them a likelihood
that is a sum over pixels, σ of Fisher that are right, and a model that needs no point spread. What
it costs is readout noise, which grows.
"""

import numpy as np
from scipy.fft import dctn, idctn
from scipy.ndimage import binary_dilation, gaussian_filter
from scipy.signal import fftconvolve

from spreadflow.models import Shoeboxes

FILL_PX = 1.0
"""Standard deviation of the weights with which neighbours fill in for a pixel that recorded nothing
"""

WAVES = 64
"""Frequencies along each axis over which the growth of noise is averaged."""


def spread(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return an image (slow, fast) after a point spread, dark beyond its edges."""
    return fftconvolve(image, kernel, mode="same")


def undone(boxes: Shoeboxes, recorded: np.ndarray, kernel: np.ndarray) -> Shoeboxes:
    """Return the shoeboxes before a point spread.

    recorded: (pixel,) bool, the pixel holds what the detector measured, whether valid or not.
    kernel: symmetric, (2 radius + 1, 2 radius + 1); what it leaves out comes back evenly. Pixels
    that recorded nothing are filled in by their neighbours, and around a shoebox a mirror image is
    taken to go on. Pixels made up, and those beside them, are not valid.
    """
    photons = np.empty(len(recorded))
    valid = boxes.valid & recorded
    ends = np.cumsum(boxes.n_pixels)
    for (fast0, fast1, slow0, slow1), end, n in zip(boxes.bbox, ends, boxes.n_pixels, strict=True):
        some = slice(end - n, end)
        shape = (slow1 - slow0, fast1 - fast0)
        transfer = _transfer(kernel, *(np.pi * np.arange(edge) / edge for edge in shape))
        transfer[0, 0] = 1.0
        seen = recorded[some].reshape(shape)
        photons[some] = idctn(
            dctn(_filled(boxes.photons[some].reshape(shape), seen)) / transfer
        ).ravel()
        valid[some] &= ~binary_dilation(~seen, border_value=1).ravel()
    return boxes._replace(photons=photons, valid=valid)


def growth(kernel: np.ndarray) -> float:
    """Return the factor by which undoing a point spread makes the standard deviation of readout
    noise grow.
    """
    waves = np.pi * (np.arange(WAVES) + 0.5) / WAVES
    return float(np.sqrt((_transfer(kernel, waves, waves) ** -2.0).mean()))


def _transfer(kernel: np.ndarray, slow: np.ndarray, fast: np.ndarray) -> np.ndarray:
    """Return (slow, fast) what a symmetric kernel multiplies cosines of these frequencies by, rad
    per pixel.
    """
    at = np.arange(len(kernel)) - len(kernel) // 2
    return np.cos(np.outer(slow, at)) @ kernel @ np.cos(np.outer(at, fast))


def _filled(image: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return the image with means of what is seen nearby where nothing is; weights are Gaussian."""
    if seen.all():
        return image
    weight = gaussian_filter(seen.astype(np.float64), FILL_PX, truncate=12.0) + 1e-30
    return np.where(
        seen, image, gaussian_filter(np.where(seen, image, 0.0), FILL_PX, truncate=12.0) / weight
    )
