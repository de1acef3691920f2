"""Tails: light that a point spread takes out of the foregrounds of spots and puts into their
backgrounds.

A fibre-optic taper or a phosphor spreads what a pixel has counted by g/2π (g² + r²)^(−3/2) (Holton
et al. 2012), whose share beyond r is g/√(g² + r²): a fifth, three pixels off, where g is half a
pixel. How wide it is shows in the backgrounds around the strong spots of a shot, which light up as
r⁻³. A point spread without tails leaves nothing there, and foregrounds hold it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from spreadflow.analysis.still import pixel_noise
from spreadflow.models import Noise
from spreadflow.units import MAD_TO_SIGMA

START_PX = 0.3
"""Width from which the search starts, px."""

NARROWEST_PX = 0.003
"""Width at which the search ends, px: a thousandth of the light is beyond a foreground."""

LEAST_PX = 0.03
"""Width below which there is no point spread, px: a hundredth of the light is beyond a foreground,
and the tails that crystals of few cells have of their own are not told from it.
"""

N_SIGMA = 4.0
"""Standard deviations above which a width is believed; and beyond which a pixel is left out."""

N_CYCLES = 4
"""Steps of the search; it begins within a factor of three."""

LEAST_SPOTS = 8
"""Spots that a width is learned from, at least."""

MOST_SPOTS = 24
"""And at most, the strongest: each tells a width of half a pixel to a tenth, however strong, as few
domains make spots unlike their prediction.
"""

STRONG = 10.0
"""I/σ from which a spot has tails to see."""

SHAPE = 0.03
"""Relative error of the width of a shot, whose spots are all unlike their prediction in the same
way.
"""

DERIVATIVE = 0.02
"""Step of finite differences relative to the width."""

LEAST_VARIANCE = 1e-3
"""Photons², of a pixel; so that nothing is divided by zero."""

LEAST_INFORMATION = 1e-12
"""Of a spot about the width, px⁻²; so that nothing is divided by zero."""

PIXEL_VARIANCE = 1.0 / 12.0
"""Of a place within a pixel, px²."""


class SpotPixels(NamedTuple):
    """The pixels around some spots, and how the light of these would lie without a point spread."""

    offset: np.ndarray
    """(pixel, 2) fast, slow of the pixel's centre minus the spot's, px"""
    spot: np.ndarray
    """(pixel,) number of the spot"""
    sums: csr_matrix
    """(spot, pixel) ones"""
    own: np.ndarray
    """(pixel,) bool, summed for the spot"""
    free: np.ndarray
    """(pixel,) bool, may show background"""
    axes: np.ndarray
    """(spot, 2, 2) rows radial, transverse in (fast, slow)"""
    sigma: np.ndarray
    """(spot, 2) standard deviations of the spot along them, px"""


class Tails(NamedTuple):
    """The point spread of a detector."""

    width_px: float
    """g; 0 = there is none"""
    sigma_px: float
    """its standard deviation"""

    def profiles(self, pixels: SpotPixels) -> np.ndarray:
        """Return the share of its spot's light that each pixel holds, (pixel,); 0 where it is
        neither summed nor free.
        """
        return _profiles(pixels, self.width_px)

    def relative_sigma(self, share: np.ndarray) -> np.ndarray:
        """Return the relative standard deviation that the width brings to intensities of which a
        share (n,) is summed: what is lost goes with the width.
        """
        return (1.0 - share) / share * self.sigma_px / self.width_px

    def kept_noise(self, half: np.ndarray) -> np.ndarray:
        """Return the variance of the background's counts, summed over rectangles with half sizes
        (n, 2) px, over that without a point spread: (n,).

        Pixels share their noise. A count adds the share w of its light that falls within; the mean
        of w² is the share that the point spread applied twice, which is one of twice the width,
        leaves of light that comes from anywhere within.
        """
        abscissae, weights = np.polynomial.legendre.leggauss(3)
        kept = np.zeros(len(half))
        for x, weight_x in zip(abscissae, weights, strict=True):
            for y, weight_y in zip(abscissae, weights, strict=True):
                place = 0.5 * (1.0 + np.array([x, y])) * half
                kept += 0.25 * weight_x * weight_y * _within(place, half, 2.0 * self.width_px)
        return kept


NO_TAILS = Tails(0.0, 0.0)
"""Those of a detector without point spread."""


def learned(
    pixels: SpotPixels,
    counts: np.ndarray,
    background: np.ndarray,
    strength: np.ndarray,
    noise: Noise,
) -> Tails:
    """Return the point spread that the backgrounds of the strongest spots show.

    counts: (pixel,) photons; background: (spot,) photons per pixel under it, about; strength:
    (spot,) I/σ, 0 where a spot does not count. Each spot has a plane below it, and an intensity
    that its foreground tells: what is left of its background is the width's alone. That of the shot
    is the median over the spots, and its standard deviation that of their scatter.
    """
    order = np.argsort(-strength, kind="stable")[:MOST_SPOTS]
    order = order[strength[order] > STRONG]
    if len(order) < LEAST_SPOTS:
        return NO_TAILS
    spots = np.sort(order)
    picked, rows = _of_spots(pixels, spots)
    counts = counts[rows]
    level = background[spots][picked.spot]
    width = START_PX
    for cycle in range(N_CYCLES):
        is_used = picked.free
        if cycle:
            is_used = is_used & (np.abs(pixel_noise.deviation(counts, level, noise)) <= N_SIGMA)
        weight = is_used / np.maximum(pixel_noise.variance(level, noise), LEAST_VARIANCE)
        more = DERIVATIVE * width
        profiles = np.stack([_profiles(picked, width), _profiles(picked, width + more)], axis=1)
        rest, wider, level = _residuals(picked, counts, profiles, weight)
        by_width = (wider - rest) / more

        information = np.maximum(picked.sums @ (weight * by_width**2), LEAST_INFORMATION)
        gradient = picked.sums @ (weight * by_width * rest)
        steps = -gradient / information
        step = float(np.median(steps))
        width = width + step
        if width <= NARROWEST_PX:
            return NO_TAILS
    deviation = MAD_TO_SIGMA * np.median(np.abs(steps - step))
    sigma = float(np.hypot(deviation * np.sqrt(0.5 * np.pi / len(steps)), SHAPE * width))
    return Tails(width, sigma) if width > max(LEAST_PX, N_SIGMA * sigma) else NO_TAILS


def _of_spots(pixels: SpotPixels, spots: np.ndarray) -> tuple[SpotPixels, np.ndarray]:
    """Return the pixels of some spots (ascending), and their rows."""
    first = pixels.sums.indptr
    n_pixels = np.diff(first)[spots]
    number = np.repeat(np.arange(len(spots)), n_pixels)
    starts = np.concatenate([[0], np.cumsum(n_pixels)])
    rows = np.arange(starts[-1]) + (first[spots] - starts[:-1])[number]
    ones = np.ones(len(rows))
    picked = SpotPixels(
        offset=pixels.offset[rows],
        spot=number,
        sums=csr_matrix((ones, np.arange(len(rows)), starts), shape=(len(spots), len(rows))),
        own=pixels.own[rows],
        free=pixels.free[rows],
        axes=pixels.axes[spots],
        sigma=pixels.sigma[spots],
    )
    return picked, rows


# ---------------------------------------------------------------- profiles


def _corner(x: np.ndarray, y: np.ndarray, width: float) -> np.ndarray:
    """Return the integral of the point spread from 0 to x and from 0 to y."""
    return np.arctan(x * y / (width * np.sqrt(width**2 + x * x + y * y))) / (2.0 * np.pi)


def _within(place: np.ndarray, half: np.ndarray, width: float) -> np.ndarray:
    """Return the share of the light that comes from places (n, 2) within rectangles about 0 with
    half sizes `half` (n, 2) or ().
    """
    x0, y0 = (place - half).T
    x1, y1 = (place + half).T
    high = _corner(x1, y1, width) - _corner(x0, y1, width)
    low = _corner(x1, y0, width) - _corner(x0, y0, width)
    return high - low


def _profiles(pixels: SpotPixels, width: float) -> np.ndarray:
    """Return the share of its spot's light that each pixel holds, (pixel,).

    Light spreads from the middle of the pixel that it was counted in. A spot is four points, which
    have its second moments. A summed pixel is integrated over, a free one has the density in its
    middle, as light from over a pixel has it.
    """
    own = np.flatnonzero(pixels.own)
    free = np.flatnonzero(pixels.free)
    profiles = np.zeros(len(pixels.spot))
    profiles[own] = _mean_over_spot(
        pixels, own, PIXEL_VARIANCE, lambda place: _within(place, np.array(0.5), width)
    )
    profiles[free] = _mean_over_spot(
        pixels, free, 2.0 * PIXEL_VARIANCE, lambda place: _density(place, width)
    )
    return profiles


def _density(place: np.ndarray, width: float) -> np.ndarray:
    """Return the point spread at places (n, 2), 1/px²."""
    square = width**2 + place[:, 0] ** 2 + place[:, 1] ** 2
    return width / (2.0 * np.pi) / (square * np.sqrt(square))


def _mean_over_spot(
    pixels: SpotPixels,
    rows: np.ndarray,
    variance: float,
    share: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Return the mean of `share` over the points of each pixel's spot, (row,).

    variance: px², added to those of the spots; share: of places (row, 2) relative to a point.
    """
    deviation = np.sqrt(pixels.sigma**2 + variance)
    arms = (deviation[:, :, None] * pixels.axes)[pixels.spot[rows]]
    offset = pixels.offset[rows]
    total = np.zeros(len(rows))
    for radial in (-1.0, 1.0):
        for transverse in (-1.0, 1.0):
            total += share(offset - radial * arms[:, 0] - transverse * arms[:, 1])
    return 0.25 * total


# ---------------------------------------------------------------- search


def _residuals(
    pixels: SpotPixels, counts: np.ndarray, profiles: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what counts have that planes and tails do not, (pixel,), with either of two profiles
    (pixel, 2), and the level that the first expects.

    weight: (pixel,) of those that the planes are fitted to.
    """
    design = np.concatenate([np.ones((len(counts), 1)), pixels.offset], axis=1)
    columns = np.concatenate([counts[:, None], profiles], axis=1)
    weighted = weight[:, None] * design
    normal = np.stack([pixels.sums @ (weighted * column[:, None]) for column in design.T], axis=2)
    right = np.stack([pixels.sums @ (weighted * column[:, None]) for column in columns.T], axis=2)
    planes = np.linalg.solve(normal + pixel_noise.PLANE_RIDGE * np.eye(3), right)[pixels.spot]
    above = columns - np.einsum("pi,pij->pj", design, planes)

    summed = pixels.sums @ (pixels.own[:, None] * above)
    intensity = (summed[:, :1] / np.maximum(summed[:, 1:], 1e-3))[pixels.spot]
    rest = above[:, :1] - intensity * above[:, 1:]
    return rest[:, 0], rest[:, 1], counts - rest[:, 0]
