"""Compiled loops over the pixels around spots with tails: how the light of a spot lies in them, and
what is left of their counts without plane and tail (`tails`).
"""

from typing import NamedTuple

import numpy as np

from spreadflow.physics.compiling import compiled, inlined

PIXEL_VARIANCE = 1.0 / 12.0
"""Of a place within a pixel, px²."""

LEAST_LIGHT = 1e-3
"""Share of its light in a spot's pixels, so that nothing is divided by zero."""


class SpotPixels(NamedTuple):
    """The pixels around some spots, and how the light of these would lie without a point spread."""

    counts: np.ndarray
    """(pixel,) photons"""
    offset: np.ndarray
    """(pixel, 2) fast, slow of the pixel's centre minus the spot's, px"""
    first: np.ndarray
    """(spot + 1,) the first pixel of each spot, and the end"""
    own: np.ndarray
    """(pixel,) bool, summed for the spot"""
    free: np.ndarray
    """(pixel,) bool, may show background"""
    axes: np.ndarray
    """(spot, 2, 2) rows radial, transverse in (fast, slow)"""
    sigma: np.ndarray
    """(spot, 2) standard deviations of the spot along them, px"""


@inlined
def _corner(x, y, width):
    """Return the integral of the point spread from 0 to x and from 0 to y."""
    return np.arctan(x * y / (width * np.sqrt(width**2 + x * x + y * y))) / (2.0 * np.pi)


@inlined
def _within(x, y, width):
    """Return the share of the light from a place (x, y) in the pixel about 0."""
    high = _corner(x + 0.5, y + 0.5, width) - _corner(x - 0.5, y + 0.5, width)
    low = _corner(x + 0.5, y - 0.5, width) - _corner(x - 0.5, y - 0.5, width)
    return high - low


@inlined
def _density(x, y, width):
    """Return the point spread at a place (x, y), 1/px²."""
    square = width**2 + x**2 + y**2
    return width / (2.0 * np.pi) / (square * np.sqrt(square))


@inlined
def _points(axes, sigma, variance):
    """Return the four points (4, 2), px, that a spot is: they have its second moments, with
    `variance` px² added. axes: (2, 2); sigma: (2,).
    """
    points = np.empty((4, 2))
    radial = np.sqrt(sigma[0] ** 2 + variance)
    transverse = np.sqrt(sigma[1] ** 2 + variance)
    for j in range(2):
        for i in range(4):
            to_radial = radial if i < 2 else -radial
            to_transverse = transverse if i % 2 else -transverse
            points[i, j] = to_radial * axes[0, j] + to_transverse * axes[1, j]
    return points


@compiled
def profiles(pixels, width):
    """Return the share of its spot's light that each pixel holds, (pixel,), for a point spread of a
    width, px; 0 where it is neither summed nor free.

    Light spreads from the middle of the pixel that it was counted in. A summed pixel is integrated
    over, a free one has the density in its middle, as light from over a pixel has it.
    """
    out = np.zeros(len(pixels.counts))
    for spot in range(len(pixels.sigma)):
        axes = pixels.axes[spot]
        sigma = pixels.sigma[spot]
        of_own = _points(axes, sigma, PIXEL_VARIANCE)
        of_free = _points(axes, sigma, 2.0 * PIXEL_VARIANCE)
        for i in range(pixels.first[spot], pixels.first[spot + 1]):
            x, y = pixels.offset[i]
            total = 0.0
            if pixels.own[i]:
                for point in range(4):
                    total += _within(x - of_own[point, 0], y - of_own[point, 1], width)
            elif pixels.free[i]:
                for point in range(4):
                    total += _density(x - of_free[point, 0], y - of_free[point, 1], width)
            out[i] = 0.25 * total
    return out


@compiled
def plane_sums(pixels, columns, weight):
    """Return the normal matrices (spot, 3, 3) of planes below spots, and the right sides (spot, 3,
    3) of three columns (3, pixel), the last axis that of the columns. weight: (pixel,).
    """
    n_spots = len(pixels.sigma)
    normal = np.zeros((n_spots, 3, 3))
    right = np.zeros((n_spots, 3, 3))
    for spot in range(n_spots):
        for i in range(pixels.first[spot], pixels.first[spot + 1]):
            design = (1.0, pixels.offset[i, 0], pixels.offset[i, 1])
            for a in range(3):
                weighted = weight[i] * design[a]
                for b in range(3):
                    normal[spot, a, b] += weighted * design[b]
                    right[spot, a, b] += weighted * columns[b, i]
    return normal, right


@compiled
def residuals(pixels, columns, planes):
    """Return what counts have that planes and tails do not, with either of two profiles, as two
    rows (2, pixel).

    columns: (3, pixel) counts and two profiles; planes: (spot, 3, 3) below them, the last axis that
    of the columns. Each spot has the intensity that its own pixels tell.
    """
    above = np.empty(columns.shape)
    rest = np.empty((2, columns.shape[1]))
    own = np.empty(3)
    for spot in range(len(planes)):
        plane = planes[spot]
        first = pixels.first[spot]
        last = pixels.first[spot + 1]
        for j in range(3):
            own[j] = 0.0
            for i in range(first, last):
                x, y = pixels.offset[i]
                above[j, i] = columns[j, i] - plane[0, j] - plane[1, j] * x - plane[2, j] * y
                own[j] += above[j, i] if pixels.own[i] else 0.0
        for j in range(2):
            intensity = own[0] / max(own[1 + j], LEAST_LIGHT)
            for i in range(first, last):
                rest[j, i] = above[0, i] - intensity * above[1 + j, i]
    return rest
