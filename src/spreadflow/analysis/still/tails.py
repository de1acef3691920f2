"""Tails: light that a point spread takes out of the foregrounds of spots and puts into their
backgrounds.

A fibre-optic taper or a phosphor spreads what a pixel has counted by g/2π (g² + r²)^(−3/2) (Holton
et al. 2012), whose share beyond r is g/√(g² + r²): a fifth, three pixels off, where g is half a
pixel. How wide it is shows in the backgrounds around the strong spots of a shot, which light up as
r⁻³. A point spread without tails leaves nothing there, and foregrounds hold it.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.still import box_loops, tail_loops
from spreadflow.analysis.still.box_loops import PLANE_RIDGE, Variances
from spreadflow.analysis.still.tail_loops import SpotPixels
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
"""Standard deviations above which a width is believed."""

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


class Tails(NamedTuple):
    """The point spread of a detector."""

    width_px: float
    """g; 0 = there is none"""
    sigma_px: float
    """its standard deviation"""

    def profiles(self, pixels: SpotPixels) -> tuple[np.ndarray, np.ndarray]:
        """Return the share of its spot's light that each pixel holds, (pixel,), 0 where it is
        neither summed nor free; and that of the summed ones together, (spot,).
        """
        profile = tail_loops.profiles(pixels, self.width_px)
        return profile, np.add.reduceat(pixels.own * profile, pixels.first[:-1])

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


def telling(strength: np.ndarray) -> np.ndarray:
    """Return the spots, ascending, that a width is learned from; none of too few.

    strength: (spot,) I/σ, 0 where a spot does not count.
    """
    order = np.argsort(-strength, kind="stable")[:MOST_SPOTS]
    spots = np.sort(order[strength[order] > STRONG])
    return spots if len(spots) >= LEAST_SPOTS else spots[:0]


def learned(pixels: SpotPixels, background: np.ndarray, noise: Noise) -> Tails:
    """Return the point spread that the backgrounds of strong spots show.

    background: (spot,) photons per pixel under it, about. Each spot has a plane below it, and an
    intensity that its foreground tells: what is left of its background is the width's alone. That
    of the shot is the median over the spots, and its standard deviation that of their scatter.
    """
    starts = pixels.first[:-1]
    variances = Variances(float(noise.readout_photons) ** 2, float(noise.calibration_error) ** 2)
    level = np.repeat(background, np.diff(pixels.first))
    width = START_PX
    for cycle in range(N_CYCLES):
        weight = box_loops.weights(
            pixels.counts, pixels.free, level, variances, LEAST_VARIANCE, cycle > 0
        )
        more = DERIVATIVE * width
        narrow = tail_loops.profiles(pixels, width)
        wide = tail_loops.profiles(pixels, width + more)
        columns = np.stack([pixels.counts, narrow, wide])
        normal, right = tail_loops.plane_sums(pixels, columns, weight)
        planes = np.linalg.solve(normal + PLANE_RIDGE * np.eye(3), right)
        rest, wider = tail_loops.residuals(pixels, columns, planes)
        level = pixels.counts - rest
        by_width = (wider - rest) / more

        information = np.add.reduceat(weight * by_width**2, starts)
        gradient = np.add.reduceat(weight * by_width * rest, starts)
        steps = -gradient / np.maximum(information, LEAST_INFORMATION)
        step = float(np.median(steps))
        width = width + step
        if width <= NARROWEST_PX:
            return NO_TAILS
    deviation = MAD_TO_SIGMA * np.median(np.abs(steps - step))
    sigma = float(np.hypot(deviation * np.sqrt(0.5 * np.pi / len(steps)), SHAPE * width))
    return Tails(width, sigma) if width > max(LEAST_PX, N_SIGMA * sigma) else NO_TAILS


def _within(place: np.ndarray, half: np.ndarray, width: float) -> np.ndarray:
    """Return the share of the light that comes from places (n, 2) within rectangles about 0 with
    half sizes `half` (n, 2).
    """
    x0, y0 = (place - half).T
    x1, y1 = (place + half).T
    high = _corner(x1, y1, width) - _corner(x0, y1, width)
    low = _corner(x1, y0, width) - _corner(x0, y0, width)
    return high - low


def _corner(x: np.ndarray, y: np.ndarray, width: float) -> np.ndarray:
    """Return the integral of the point spread from 0 to x and from 0 to y."""
    return np.arctan(x * y / (width * np.sqrt(width**2 + x * x + y * y))) / (2.0 * np.pi)
