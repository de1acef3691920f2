"""The one-photon peak: where a detector resolves single photons, quiet pixels hold none or one, and
the histogram of their ADU has a peak for each.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

from spreadflow.units import MAD_TO_SIGMA

EDGE = 32
"""Pixels along an edge of a region, in which the pedestal is taken to be the same."""

FEWEST_PIXELS = 256
"""Usable pixels of a region whose histogram is looked at."""

QUIETEST = 0.2
"""Quantile of the widths of the regions' pedestals: photons widen them."""

AS_QUIET = 1.25
"""Widths, over this quantile, up to which regions count as quiet. Where all are alike, all are:
the narrowest would be those whose pedestal happens to be put too low.
"""

NEAREST = 2.5
"""Widths of the pedestal from which a second peak is one, rather than a tail of the first."""

FARTHEST = 60.0
"""Widths of the pedestal within which the second peak is looked for."""

BINS_PER_WIDTH = 4.0
"""Bins in a standard deviation of the pedestal."""

LEAST_CONTRAST = 1.1
"""A peak is at least so much higher than the valley before it."""

N_SIGMAS = 5.0
"""Standard deviations, of counts, by which it is higher."""

TENTH = 0.2513
"""Standard deviations of a Gaussian in which a tenth of it lies."""

DENSEST = 0.6
"""Relative length of this interval below which there are several peaks."""

WINDOW = 2.0
"""Widths around the pedestal whose pixels' mean it is."""

N_STEPS = 3
"""Times that they are averaged anew: each leaves a quarter of the error."""

COUNTED = 0.5
"""ADU of noise of pixels that are whole numbers, below which photons were counted beforehand."""


class PhotonPeak(NamedTuple):
    """What the histogram of quiet pixels says."""

    adu_per_photon: float
    """from the peak of no photon to that of one"""
    sigma: float
    """standard deviation of that, ADU"""
    pedestal_adu: float
    """median over the quiet regions of the peak of no photon"""
    pedestal_sigma: float
    """standard deviation of these, as of most of them, ADU: how wrong one pedestal is for all"""
    readout_adu: float
    """standard deviation of a pixel without a photon"""
    centres: np.ndarray
    """(bin,) ADU above the pedestal"""
    counts: np.ndarray
    """(bin,) pixels of quiet regions"""


def find(images: Sequence[np.ndarray], usable: Sequence[np.ndarray]) -> PhotonPeak | None:
    """Return the one-photon peak of images (panel, slow, fast), ADU; None where there is none: the
    detector integrates, photons are counted already, or no part of it is quiet.
    """
    regions = [
        region
        for image, may_be_used in zip(images, usable, strict=True)
        for region in _regions(image, may_be_used)
    ]
    if not regions:
        return None
    pedestals = np.array([_pedestal(region) for region in regions])
    level, width = pedestals.T
    is_one_peak = np.isfinite(width)
    if np.mean(is_one_peak) < QUIETEST:
        return None
    limit = AS_QUIET * np.quantile(width[is_one_peak], QUIETEST)
    quiet = np.flatnonzero(width <= limit)
    readout = float(np.median(width[quiet]))
    is_counted = readout <= COUNTED and all(_is_whole(image) for image in images)
    if readout <= 0 or is_counted:
        return None
    heights = [regions[n] - level[n] for n in quiet]
    centres, above, below = _histograms(heights, readout)
    place = _second_peak(centres, above - below, above + below, readout)
    if place is None or not _is_in_most(heights, place[0], readout):
        return None
    return PhotonPeak(
        adu_per_photon=place[0],
        sigma=place[1],
        pedestal_adu=float(np.median(level[quiet])),
        pedestal_sigma=float(
            MAD_TO_SIGMA * np.median(np.abs(level[quiet] - np.median(level[quiet])))
        ),
        readout_adu=readout,
        centres=centres,
        counts=above,
    )


def _histograms(
    heights: list[np.ndarray], width: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return middles of bins (bin,), ADU, and how many pixels are so far above the pedestals, and
    below them. heights: (pixel,) of each region, above its own pedestal; width: of a pedestal.
    """
    step = width / BINS_PER_WIDTH
    edges = np.arange(0.0, FARTHEST * width, step)
    together = np.concatenate(heights)
    above, _ = np.histogram(together, edges)
    below, _ = np.histogram(-together, edges)
    return edges[:-1] + 0.5 * step, above.astype(float), below.astype(float)


def _regions(image: np.ndarray, usable: np.ndarray) -> list[np.ndarray]:
    """Return the usable pixels of each region of an image (panel, slow, fast) that has enough."""
    _, n_slow, n_fast = image.shape
    regions = []
    for panel, may_be_used in zip(image, usable, strict=True):
        for slow in range(0, n_slow, EDGE):
            for fast in range(0, n_fast, EDGE):
                part = np.s_[slow : slow + EDGE, fast : fast + EDGE]
                pixels = panel[part][may_be_used[part]]
                if len(pixels) >= FEWEST_PIXELS:
                    regions.append(_continuous(pixels))
    return regions


def _continuous(pixels: np.ndarray) -> np.ndarray:
    """Return ADU (pixel,), whole numbers spread over the bins that they stand for, so that few are
    equal.
    """
    if not _is_whole(pixels):
        return pixels.astype(np.float64)
    return pixels + np.random.default_rng(0).uniform(-0.5, 0.5, len(pixels))


def _is_whole(pixels: np.ndarray) -> bool:
    """Whether all ADU are whole numbers; those that are no numbers do not count."""
    return pixels.dtype.kind in "iu" or not np.any(np.abs(pixels - np.rint(pixels)) > 0)


def _pedestal(region: np.ndarray) -> tuple[float, float]:
    """Return the ADU of most pixels (pixel,) of a region, and the standard deviation of the noise
    around it; NaN where they are in several peaks.

    It is looked for from the middle of the narrowest interval that holds a third of the pixels, by
    the mean of those around it. A tenth of them lie much denser than the noise only where that
    interval spans several peaks.
    """
    ordered = np.sort(region)
    start, _ = _narrowest(ordered, len(ordered) // 3)
    level = float(ordered[start : start + len(ordered) // 3].mean())
    width = _width_below(ordered, level)
    _, length = _narrowest(ordered, len(ordered) // 10)
    if length <= DENSEST * TENTH * width:
        return level, np.nan
    for _ in range(N_STEPS):
        around = ordered[np.abs(ordered - level) <= WINDOW * width]
        level = float(around.mean())
    return level, _width_below(ordered, level)


def _width_below(ordered: np.ndarray, level: float) -> float:
    """Return the standard deviation of a Gaussian with the pixels (pixel,), sorted, up to a level:
    those above it may hold photons.
    """
    return float(MAD_TO_SIGMA * np.median(level - ordered[ordered <= level]))


def _narrowest(ordered: np.ndarray, n_inside: int) -> tuple[int, float]:
    """Return where the narrowest interval starts that holds so many of the sorted ADU, and its
    length.
    """
    lengths = ordered[n_inside:] - ordered[:-n_inside]
    start = int(np.argmin(lengths))
    return start, float(lengths[start])


def _is_in_most(heights: list[np.ndarray], distance: float, width: float) -> bool:
    """Whether most regions by themselves have more pixels so far above their pedestal than below:
    parts of an image that are brighter as a whole make a peak of all regions only.
    """
    above = np.array([np.count_nonzero(np.abs(one - distance) < width) for one in heights])
    below = np.array([np.count_nonzero(np.abs(one + distance) < width) for one in heights])
    return bool(np.median((above - below) - np.sqrt(above + below)) > 0)


def _second_peak(
    centres: np.ndarray, excess: np.ndarray, noise: np.ndarray, width: float
) -> tuple[float, float] | None:
    """Return how far the peak of one photon is from the pedestal, and the standard deviation of
    that; None where there is none.

    excess: (bin,) counts at distances `centres` above the pedestal, less those as far below it;
    noise: (bin,) variance of these; width: standard deviation of the pedestal.
    """
    step = centres[1] - centres[0]
    blur = max(0.5 * width / step, 0.5)
    smooth = scipy.ndimage.gaussian_filter1d(excess, blur)
    smooth_sigma = np.sqrt(
        scipy.ndimage.gaussian_filter1d(noise, blur) / (2.0 * np.sqrt(np.pi) * blur)
    )
    beyond = int(np.searchsorted(centres, NEAREST * width))
    lowest_before = np.minimum.accumulate(smooth[beyond:])
    rises = smooth[beyond:] - LEAST_CONTRAST * np.maximum(lowest_before, 0.0)
    peak = beyond + int(np.argmax(rises))
    valley = beyond + int(np.argmin(smooth[beyond : peak + 1]))
    if rises[peak - beyond] <= N_SIGMAS * max(smooth_sigma[peak], smooth_sigma[valley]):
        return None

    around = np.abs(centres - centres[peak]) <= width
    place = centres[peak]
    if np.count_nonzero(around) > 3:
        bend, slope, _ = np.polyfit(centres[around] - centres[peak], smooth[around], 2)
        if bend < 0:
            place += float(np.clip(-slope / (2.0 * bend), -width, width))
    n_photons = max(float(excess[around].sum()), 1.0)
    sigma = np.hypot(width / np.sqrt(n_photons), step / np.sqrt(12.0))
    return float(place), float(sigma)
