"""Pixels that can't be used, found from images: dead ones, gaps, numbers that stand for no
measurement, and hot ones.

A pixel is compared with the median of the block around it, in units of how far the pixels of the
block are from that. What is far too low in the mean of the images is dead or in a gap; a still has
nothing darker than its background. What is far too high in all of several images is hot: no spot
stays where it is.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import binary_dilation

EDGE = 16
"""Pixels along an edge of a block."""

TOO_LOW = 8.0
"""Standard deviations of the mean of the images below which a pixel is too low."""

LEAST_LOW = 3.0
"""Standard deviations of one image by which it is, at least: small deviations that many images
establish are differences of gain.
"""

TOO_HIGH = 6.0
"""Standard deviations above which a pixel is too high, if it is in every image."""

FEWEST_FOR_HOT = 4
"""Images from which hot pixels are told from spots."""

LEAST_STEP = 0.1
"""Of the smallest difference of two ADU: the least standard deviation that low pixels are measured
with. Where photons are counted, nearly all pixels of a block may be 0.
"""

FEWEST_ALIKE = 10
"""Pixels that hold the same number, from which this may stand for no measurement."""

MOST_NEGATIVE = 3
"""Negative whole numbers that stand for something: where noise is negative, there are more."""

APART = 3
"""Steps above a number that stands for something, within which hardly any pixel is."""

SHARE_BETWEEN = 1e-3
"""Pixels within these over those with the number, at most."""

SHARE_ALIKE = 0.8
"""Share of the pixels with a negative number that hold it in all images, or beside another one in
the only image.
"""

MAD = 1.4826
"""Standard deviation of a Gaussian over the median distance from its middle."""

GROWTH = np.ones((1, 3, 3), bool)
"""Neighbours (panel, slow, fast) of a pixel."""


class Unusable(NamedTuple):
    """Pixels that can't be used, besides those that the files mask."""

    low: np.ndarray
    """(panel, slow, fast) bool, dead or in a gap"""
    hot: np.ndarray
    """(panel, slow, fast) bool"""
    sentinels: tuple[tuple[float, int], ...]
    """ADU that stand for no measurement, and in how many pixels of the first image"""

    @property
    def all(self) -> np.ndarray:
        """(panel, slow, fast) bool"""
        return self.low | self.hot


def find(images: Sequence[np.ndarray], usable: np.ndarray) -> Unusable:
    """Return the pixels that can't be used. images: (panel, slow, fast) ADU, at least one; usable:
    (panel, slow, fast) bool, those that are not masked already.
    """
    total = np.zeros(usable.shape)
    for image in images:
        total += _strangeness(image, usable, LEAST_STEP)
    mean = total / len(images)
    low = usable & (mean < -max(TOO_LOW / np.sqrt(len(images)), LEAST_LOW))
    sentinels = _sentinels(images, usable, low)
    for value, _ in sentinels:
        low |= usable & (images[0] == value)

    left = usable & ~low
    hot = left & (len(images) >= FEWEST_FOR_HOT)
    if hot.any():
        for image in images:
            hot &= _strangeness(image, left, 1.0) > TOO_HIGH
    return Unusable(low, hot, sentinels)


def _strangeness(image: np.ndarray, usable: np.ndarray, least: float) -> np.ndarray:
    """Return how many standard deviations each pixel (panel, slow, fast) is above its block; 0
    where it is not usable. least: standard deviation, in steps of the ADU, that is taken at least.
    """
    is_number = usable & np.isfinite(image)
    level, scatter = _blocks(image, is_number)
    step = 1.0 if image.dtype.kind in "iu" else float(np.median(scatter)) or 1.0
    away = np.where(is_number, image - level, 0.0)
    return away / np.maximum(scatter, least * step)


def grown(unusable: Unusable, usable: np.ndarray) -> Unusable:
    """Return the same with the neighbours of low pixels, which share their photons or were
    interpolated with them. usable: (panel, slow, fast) bool, as for `find`.
    """
    wider = binary_dilation(unusable.low | ~usable, GROWTH) & usable
    return unusable._replace(low=wider, hot=unusable.hot & ~wider)


def _blocks(image: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the median of the block around each pixel (panel, slow, fast), and the standard
    deviation of its pixels around it, as of most of them. Blocks without usable pixels have 0.
    """
    n_panels, n_slow, n_fast = image.shape
    missing = ((0, 0), (0, -n_slow % EDGE), (0, -n_fast % EDGE))
    values = np.pad(np.where(usable, image, np.nan).astype(np.float32), missing, mode="symmetric")
    rows, columns = values.shape[1] // EDGE, values.shape[2] // EDGE
    blocks = values.reshape(n_panels, rows, EDGE, columns, EDGE).transpose(0, 1, 3, 2, 4)
    blocks = blocks.reshape(n_panels, rows, columns, EDGE**2)
    level = _median(blocks)
    scatter = MAD * _median(np.abs(blocks - level[..., None]))

    def spread(x: np.ndarray) -> np.ndarray:
        of_pixels = np.repeat(np.repeat(x, EDGE, axis=1), EDGE, axis=2)
        return of_pixels[:, :n_slow, :n_fast]

    return spread(level), spread(scatter)


def _median(x: np.ndarray) -> np.ndarray:
    """Return the median along the last axis of those that are numbers; 0 of none."""
    ordered = np.sort(x, axis=-1)  # NaN are last
    n = np.count_nonzero(np.isfinite(x), axis=-1, keepdims=True)
    middle = np.take_along_axis(ordered, np.maximum(n // 2, 0).clip(max=x.shape[-1] - 1), axis=-1)
    return np.where(n > 0, middle, 0.0)[..., 0]


def _sentinels(
    images: Sequence[np.ndarray], usable: np.ndarray, low: np.ndarray
) -> tuple[tuple[float, int], ...]:
    """Return the numbers that stand for no measurement, and how many pixels of the first image hold
    them.

    They are held by low pixels, and there is nothing between them and the ADU of the others; or
    they are the only negative ones, and always held by the same pixels.
    """
    image = images[0]
    numbers, counts = np.unique(image[usable], return_counts=True)
    held_by_low, counts_low = np.unique(image[low], return_counts=True)
    of_low = held_by_low[counts_low >= FEWEST_ALIKE]
    apart = [value for value in of_low if _is_apart(value, numbers, counts)]

    negative = numbers[(numbers < 0) & (counts >= FEWEST_ALIKE)]
    is_whole = not np.any(numbers != np.rint(numbers))
    if not is_whole or np.count_nonzero(numbers < 0) > MOST_NEGATIVE:
        negative = negative[:0]
    kept = [value for value in negative if _is_kept(value, images, usable)]
    count_of = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    return tuple((float(value), count_of[float(value)]) for value in sorted({*apart, *kept}))


def _is_apart(value: float, numbers: np.ndarray, counts: np.ndarray) -> bool:
    """Whether hardly any pixel holds a number little above a value. numbers, counts: (number,)
    ascending, and pixels that hold them.
    """
    steps = np.diff(numbers[:1000])
    step = 1.0 if not len(steps) else float(np.median(steps))
    is_between = (numbers > value) & (numbers <= value + APART * step)
    n_alike = counts[np.searchsorted(numbers, value)]
    return bool(counts[is_between].sum() <= SHARE_BETWEEN * n_alike)


def _is_kept(value: float, images: Sequence[np.ndarray], usable: np.ndarray) -> bool:
    """Whether the same pixels hold a value in all images; of one image, whether they are beside
    each other.
    """
    first, *others = (usable & (image == value) for image in images)
    if others:
        alike = np.logical_and.reduce([first, *others])
    else:
        beside = np.zeros(first.shape, bool)
        for axis in (1, 2):
            for shift in (-1, 1):
                beside |= np.roll(first, shift, axis)
        alike = first & beside
    return bool(np.count_nonzero(alike) >= SHARE_ALIKE * np.count_nonzero(first))
