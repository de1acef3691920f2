"""Mean, variance and correlation of pixels in small squares of images, tile by tile.

A plane is subtracted from each tile, which leaves noise alone where nothing but a smooth background
was recorded. It also takes a part of the noise away, and makes what is left correlate: both are
linear in the correlations that the noise had, and undone exactly.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

EDGE = 8
"""Pixels along an edge of a tile: about the window of spot finding."""

LAGS = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1), (2, 2))
"""Distances (slow, fast) of pixels whose noise may be the same photons', px, in either direction.
"""

N_LEVELS = 16
"""Groups of tiles by their mean, equally many in each."""

MOST_TILES = 400_000
"""Tiles that are looked at, evenly chosen: their statistics are known to a percent."""

LARGEST_RESIDUAL = 6.0
"""Standard deviations beyond which a pixel is no background, and its tile is left out."""

N_PASSES = 6
"""Times that a group's variance is taken from the tiles without such pixels."""

QUANTILES = (0.5, 0.9)
"""Of the tiles' variances, from which their scatter is taken: spots are in fewer than a tenth."""

GAUSSIAN_QUANTILE = 1.2816
"""Standard deviations between these in a Gaussian distribution."""


class Levels(NamedTuple):
    """The noise of background pixels at several levels of it; each (level,), ascending."""

    mean: np.ndarray
    """ADU"""
    variance: np.ndarray
    """of a pixel, ADU²"""
    shared: np.ndarray
    """sum of the covariances of a pixel with itself and those around it, ADU²: the variance a pixel
    would have if no photon lit its neighbours
    """
    far: np.ndarray
    """share of `shared` that is of the largest lags: what lies beyond them is not in it"""
    typical: np.ndarray
    """median of the variances of single tiles, relative to `variance`"""
    scatter: np.ndarray
    """standard deviation of the variances of single tiles, relative to `variance`, but for spots"""

    @property
    def sharing(self) -> float:
        """How many pixels share the noise of one: 1 where neighbours are independent."""
        return float(np.median(self.shared / self.variance))

    @property
    def range(self) -> float:
        """How far the levels are apart: the variance of their means over that which noise alone
        gives the means of tiles.
        """
        return float(np.var(self.mean) / (np.median(self.shared) / EDGE**2))


def _kept() -> np.ndarray:
    """Return the matrix (pixel, pixel) that takes a plane from the pixels of a tile."""
    slow, fast = np.mgrid[:EDGE, :EDGE].reshape(2, -1)
    planes = np.stack([np.ones(EDGE**2), slow, fast], axis=1)
    return np.eye(EDGE**2) - planes @ np.linalg.pinv(planes)


def _is_apart(slow: int, fast: int) -> np.ndarray:
    """Return which pixels of a tile are so far from which others, (pixel, pixel) bool."""
    places = np.mgrid[:EDGE, :EDGE].reshape(2, -1)
    apart = np.abs(places[:, :, None] - places[:, None, :])
    return (apart[0] == slow) & (apart[1] == fast)


def _response(kept: np.ndarray) -> np.ndarray:
    """Return how products at each lag, without the planes, come of those that the noise has at each
    lag, (lag, lag).
    """
    pairs = [_is_apart(*lag) for lag in LAGS]
    columns = []
    for of_noise in pairs:
        left = kept @ of_noise @ kept
        columns.append([left[pair].mean() for pair in pairs])
    return np.array(columns).T


_KEPT = _kept()
_RESPONSE = _response(_KEPT)
_N_PAIRS = np.array([(1 if slow == 0 else 2) * (1 if fast == 0 else 2) for slow, fast in LAGS])
"""Pixels at each lag from one."""
_IS_FAR = np.array([max(lag) for lag in LAGS]) == np.max(LAGS)


def cut(images: Sequence[np.ndarray], usable: Sequence[np.ndarray]) -> np.ndarray:
    """Return the tiles (tile, pixel) of images (panel, slow, fast) in which all pixels are usable;
    evenly chosen where there are many.
    """
    of_images = []
    for image, may_be_used in zip(images, usable, strict=True):
        whole = _tiles(may_be_used).all(axis=1)
        of_images.append(_tiles(image)[whole])
    tiles = np.concatenate(of_images)
    every = -(-len(tiles) // MOST_TILES)
    return tiles[:: max(every, 1)].astype(np.float64)


def _tiles(image: np.ndarray) -> np.ndarray:
    """Return an image (panel, slow, fast) as tiles (tile, pixel), without what is left over."""
    n_panels, n_slow, n_fast = image.shape
    rows = n_slow // EDGE
    columns = n_fast // EDGE
    whole = image[:, : rows * EDGE, : columns * EDGE]
    blocks = whole.reshape(n_panels, rows, EDGE, columns, EDGE)
    return blocks.transpose(0, 1, 3, 2, 4).reshape(-1, EDGE**2)


def levels(tiles: np.ndarray) -> Levels | None:
    """Return the noise of tiles (tile, pixel), ADU; None where there are too few for `N_LEVELS`
    groups or all are constant.
    """
    if len(tiles) < 2 * N_LEVELS:
        return None
    mean = tiles.mean(axis=1)
    noise = tiles @ _KEPT
    rows = [
        _level(mean[group], noise[group]) for group in np.array_split(np.argsort(mean), N_LEVELS)
    ]
    varied = [row for row in rows if row is not None]
    return Levels(*map(np.array, zip(*varied, strict=True))) if varied else None


def _level(mean: np.ndarray, noise: np.ndarray) -> tuple[float, ...] | None:
    """Return the row of `Levels` of a group of tiles: their means (tile,) and what is left of their
    pixels (tile, pixel). None where nothing varies.
    """
    n_free = EDGE**2 - 3
    of_tiles = (noise * noise).sum(axis=1) / n_free
    largest = np.abs(noise).max(axis=1)
    variance = np.median(of_tiles) or of_tiles.mean()
    is_quiet = np.ones(len(mean), bool)
    for _ in range(N_PASSES):
        if variance <= 0:
            return None
        is_quiet = largest < LARGEST_RESIDUAL * np.sqrt(variance)
        if not is_quiet.any():
            return None
        variance = of_tiles[is_quiet].mean()
    if variance <= 0:
        return None

    products = _products(noise[is_quiet].reshape(-1, EDGE, EDGE))
    covariances = np.linalg.solve(_RESPONSE, products)
    shared = _N_PAIRS * covariances
    typical, high = np.quantile(of_tiles / variance, QUANTILES)
    return (
        float(mean[is_quiet].mean()),
        float(covariances[0]),
        float(shared.sum()),
        float(shared[_IS_FAR].sum() / shared.sum()),
        float(typical),
        float((high - typical) / GAUSSIAN_QUANTILE),
    )


def _products(noise: np.ndarray) -> np.ndarray:
    """Return the mean product of pixels of the same tile at each lag, (lag,). noise: (tile, slow,
    fast).
    """
    means = []
    for slow, fast in LAGS:
        first = noise[:, : EDGE - slow, : EDGE - fast]
        falling = np.mean(first * noise[:, slow:, fast:])
        rising = np.mean(noise[:, : EDGE - slow, fast:] * noise[:, slow:, : EDGE - fast])
        means.append(0.5 * (falling + rising))
    return np.array(means)
