"""The point spread of a detector that acts on what was counted, and how it is undone.

What a pixel has counted is independent of its neighbours; light that spreads afterwards makes them
share their noise. Undoing the spread brings independent counts back, and with them a likelihood
that is a sum over pixels, Fisher σ that are right, and a model that needs no point spread. The
price is readout noise, which grows.
"""

import numpy as np
import scipy

from spreadflow.models import Shoeboxes

FILL_PX = 1.0
"""Standard deviation of the weights with which neighbours fill in for a pixel that recorded
nothing, px.
"""

WAVES = 64
"""Frequencies along each axis over which the growth of noise is averaged."""


def spread(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return an image (slow, fast) after a point spread; beyond its edges it is taken as dark."""
    return scipy.ndimage.convolve(image, kernel, mode="constant")


def undone(boxes: Shoeboxes, recorded: np.ndarray, kernel: np.ndarray) -> Shoeboxes:
    """Return the shoeboxes as they were before a point spread.

    recorded: (pixel,) bool, whether the pixel holds what the detector measured, valid or not.
    kernel: symmetric, (2 radius + 1, 2 radius + 1); what it leaves out comes back evenly. Pixels
    that recorded nothing are filled in from their neighbours, and each shoebox is taken to go on
    beyond its edges as its mirror image. Pixels filled in, and those beside them, are not valid.
    """
    photons = np.empty(len(recorded))
    valid = boxes.valid & recorded
    for box in range(len(boxes.panel)):
        pixels = boxes.of_box(box)
        measured = boxes.image(box, recorded)
        image = _filled(boxes.image(box, boxes.photons), measured)

        waves_slow, waves_fast = (np.pi * np.arange(edge) / edge for edge in image.shape)
        transfer = _transfer(kernel, waves_slow, waves_fast)
        transfer[0, 0] = 1.0

        photons[pixels] = scipy.fft.idctn(scipy.fft.dctn(image) / transfer).ravel()
        valid[pixels] &= ~scipy.ndimage.binary_dilation(~measured, border_value=1).ravel()
    return boxes._replace(photons=photons, valid=valid)


def growth(kernel: np.ndarray) -> float:
    """Return the factor by which undoing a point spread makes the standard deviation of readout
    noise grow.
    """
    waves = np.pi * (np.arange(WAVES) + 0.5) / WAVES
    noise_power = _transfer(kernel, waves, waves) ** -2.0
    return float(np.sqrt(noise_power.mean()))


def _transfer(kernel: np.ndarray, slow: np.ndarray, fast: np.ndarray) -> np.ndarray:
    """Return the factors (slow, fast) that a symmetric kernel multiplies cosines by; slow, fast:
    their frequencies, rad per pixel.
    """
    offset = np.arange(len(kernel)) - len(kernel) // 2
    along_slow = np.cos(np.outer(slow, offset))
    along_fast = np.cos(np.outer(offset, fast))
    return along_slow @ kernel @ along_fast


def _filled(image: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return the image with Gaussian means of nearby measured pixels where none was measured."""
    if measured.all():
        return image
    weight = (
        scipy.ndimage.gaussian_filter(measured.astype(np.float64), FILL_PX, truncate=12.0) + 1e-30
    )
    weighted = scipy.ndimage.gaussian_filter(np.where(measured, image, 0.0), FILL_PX, truncate=12.0)
    return np.where(measured, image, weighted / weight)
