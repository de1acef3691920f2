"""What each pixel did in many images: sums that single spots change little, formed image by image.

A pixel is compared with the median of the block around it, in units of how far the pixels of the
block are from that, so that brighter and dimmer pulses count alike.
"""

import numpy as np

from spreadflow.analysis.recording import blocks

LIMIT = 4.0
"""Standard deviations to which deviations are cut before their squares are added: a spot then
weighs no more in a sum than any other pixel that is high.
"""

TOO_HIGH = 6.0
"""Standard deviations above which a pixel is too high in an image."""

LEAST_STEP = 0.1
"""Of the smallest difference of two ADU: the least standard deviation that low pixels are measured
with. Where photons are counted, nearly all pixels of a block may be 0.
"""


class History:
    """Sums over images; arrays (panel, slow, fast)."""

    def __init__(self, usable: np.ndarray, sound: np.ndarray):
        """usable: (panel, slow, fast) bool, the pixels that are looked at; sound: likewise, those
        of them that others are compared with.
        """
        shape = usable.shape
        self.usable = usable
        self.sound = sound
        self.n_images = 0
        self.n = np.zeros(shape, np.uint16)
        """images in which the pixel holds a number"""
        self.n_high = np.zeros(shape, np.uint16)
        """images in which it is too high"""
        self.n_changes = np.zeros(shape, np.uint16)
        """images in which it holds another number than at first"""
        self._first = np.full(shape, np.nan, np.float32)
        self._lowness = np.zeros(shape, np.float32)
        self._deviation = np.zeros(shape, np.float32)
        self._squares = np.zeros(shape, np.float32)
        self._level = np.zeros(shape, np.float32)
        self._adu = np.zeros(shape, np.float32)
        self._noise = np.zeros(shape, np.float32)

    def add(self, image: np.ndarray) -> None:
        """Add an image (panel, slow, fast), ADU."""
        is_number = self.usable & np.isfinite(image)
        level, scatter = blocks.levels(image, is_number & self.sound)
        step = np.float32(blocks.step(image, is_number, scatter))
        adu = np.where(is_number, image, level).astype(np.float32)
        away = adu - level
        self._lowness += away / np.maximum(scatter, np.float32(LEAST_STEP) * step)
        sigma = np.maximum(scatter, step)
        away /= sigma
        self.n_images += 1
        self.n += is_number
        self.n_high += away > TOO_HIGH
        np.clip(away, -LIMIT, LIMIT, out=away)
        self._noise += _of_neighbours(adu, is_number, LIMIT * sigma)
        self._deviation += away
        self._squares += away * away
        self._level += np.where(is_number, level, 0.0)
        self._adu += np.where(is_number, np.minimum(adu, level + LIMIT * sigma), 0.0)
        self._first = np.where(np.isnan(self._first) & is_number, adu, self._first)
        self.n_changes += is_number & (adu != self._first)

    def _mean(self, total: np.ndarray) -> np.ndarray:
        """Return a sum over the images in which a pixel holds a number; 0 where in none."""
        return total / np.maximum(self.n, 1)

    @property
    def lowness(self) -> np.ndarray:
        """Mean of how many standard deviations a pixel is above its block."""
        return self._mean(self._lowness)

    @property
    def deviation(self) -> np.ndarray:
        """The same, each image's limited, and with a standard deviation of a step at least."""
        return self._mean(self._deviation)

    @property
    def variance(self) -> np.ndarray:
        """Variance of the limited deviations."""
        return np.maximum(self._mean(self._squares) - self.deviation**2, 0.0)

    @property
    def level(self) -> np.ndarray:
        """Mean of the level around a pixel, ADU."""
        return self._mean(self._level)

    @property
    def adu(self) -> np.ndarray:
        """Mean of a pixel, ADU, without what stands out of the level around it."""
        return self._mean(self._adu)

    @property
    def noise(self) -> np.ndarray:
        """Variance of a pixel, ADU², as the next one of its row shows it, whatever the pedestal."""
        return self._mean(self._noise)

    @property
    def share_changed(self) -> np.ndarray:
        """Share of the images after the first in which a pixel holds another number."""
        return self.n_changes / np.maximum(self.n.astype(np.float32) - 1, 1)


def _of_neighbours(adu: np.ndarray, is_number: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Return half the square of the difference of each pixel (panel, slow, fast) from the next one
    of its row, at most that of a limit, ADU; 0 where one of the two is no number.
    """
    both = is_number[..., :-1] & is_number[..., 1:]
    difference = np.diff(adu, axis=-1)
    np.clip(difference, -limit[..., :-1], limit[..., :-1], out=difference)
    noise = np.zeros(adu.shape, np.float32)
    noise[..., :-1] = np.where(both, 0.5 * difference * difference, 0.0)
    noise[..., -1] = noise[..., -2]
    return noise
