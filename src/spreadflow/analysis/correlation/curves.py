"""g2 against delay for pixels of a colour, from sums over partners.

A pixel's products are divided by those of the mean earlier and the mean later value of all pixels
of its fine colour; g2 of a colour is the mean of these ratios over its pixels.

A pixel that happens to be bright has large products, and raises the means that they are divided by:
its part in the scatter of g2 is its ratio less what it takes from those of its fine colour. Of a
pixel that has the fine colour, but not the colour, the latter alone is left.
"""

from typing import NamedTuple

import numpy as np
import scipy

from spreadflow.analysis.correlation.sums import Sums


class Curve(NamedTuple):
    """g2 of a colour."""

    colour: int
    n_pixels: int
    delays: np.ndarray
    """(delay,) int64 of those with partners"""
    g2: np.ndarray
    """(delay,)"""
    covariance: np.ndarray
    """(delay, delay) of g2, from the scatter over pixels; NaN where there is but one"""

    @property
    def sigma(self) -> np.ndarray:
        """(delay,) standard deviations of g2."""
        return np.sqrt(np.diag(self.covariance))


class Decay(NamedTuple):
    """An exponential fitted to a curve: base + contrast · exp(−2 rate · delay)."""

    base: float
    contrast: float
    rate: float
    """Γ, per unit of the shot id"""
    sigmas: tuple[float, float, float]
    """standard deviations of base, contrast and rate"""

    def at(self, delays: np.ndarray) -> np.ndarray:
        """Return the exponential at some delays."""
        return _decay(delays, self.base, self.contrast, self.rate)


def curves(sums: Sums, colours: np.ndarray, fine_colours: np.ndarray) -> list[Curve]:
    """Return the curve of each colour that has pixels, ascending. colours, fine_colours: (pixel,)
    int, 0 = none: a pixel without a colour counts in the mean of its fine colour. Bad pixels count
    in none.
    """
    is_used = (fine_colours > 0) & (sums.is_bad == 0)
    places = np.flatnonzero(sums.counts)
    fine = np.where(is_used, fine_colours, 0)
    ratios, excess = np.empty((2, len(places), len(colours)))
    for i, place in enumerate(places.tolist()):
        n = sums.counts[place]
        past, future = sums.past[place] / n, sums.future[place] / n
        mean_past, mean_future = (_means(values, fine)[fine] for values in (past, future))
        ratios[i] = sums.g2[place] / n / (mean_past * mean_future)
        excess[i] = past / mean_past + future / mean_future - 2
    found = []
    for colour in np.unique(colours[is_used & (colours > 0)]).tolist():
        is_own = is_used & (colours == colour)
        own = ratios[:, is_own]
        covariance = np.full((len(own), len(own)), np.nan)
        if own.shape[1] > 1:
            shares = np.array([_means(np.where(is_own, row, 0.0), fine) for row in ratios])
            covariance = _covariance(
                own, excess, shares.reshape(len(own), fine.max() + 1), fine, is_own
            )
        delays = sums.delays[places]
        found.append(Curve(colour, own.shape[1], delays, own.mean(axis=1), covariance))
    return found


def _covariance(
    own: np.ndarray, excess: np.ndarray, shares: np.ndarray, fine: np.ndarray, is_own: np.ndarray
) -> np.ndarray:
    """Return the covariance (delay, delay) of g2 of a colour. own: (delay, own pixel) ratios;
    excess: (delay, pixel) of the values over their means; shares: (delay, fine colour) mean ratio
    that pixels of the colour have in a fine colour; fine: (pixel,) fine colours, 0 = none.
    """
    n_pixels = own.shape[1]
    parts = own - shares[:, fine[is_own]] * excess[:, is_own]
    has_share = (shares != 0).any(axis=0) & (np.arange(shares.shape[1]) > 0)
    is_other = ~is_own & has_share[fine]
    others = shares[:, fine[is_other]] * excess[:, is_other]
    return np.atleast_2d(np.cov(parts)) / n_pixels + others @ others.T / n_pixels**2


def _means(values: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return the mean of values (pixel,) over the pixels of each colour, (colour,) from 0."""
    return np.bincount(colours, values) / np.maximum(np.bincount(colours), 1)


def fit_decay(curve: Curve) -> Decay | None:
    """Return the exponential that fits a curve best, each delay by its own σ; the σ of the result
    take into account that delays go together. None where nothing can be fitted.
    """
    sigma = curve.sigma
    if len(curve.delays) < 4 or not (np.isfinite(sigma) & (sigma > 0)).all():
        return None
    start = (1.0, max(curve.g2[0] - 1, 1e-3), 0.5 / np.median(curve.delays))
    try:
        best, _ = scipy.optimize.curve_fit(_decay, curve.delays, curve.g2, start, sigma)
    except RuntimeError:
        return None
    weighted = _slopes(curve.delays, *best) / sigma[:, None] ** 2
    inverse = np.linalg.pinv(_slopes(curve.delays, *best).T @ weighted)
    covariance = inverse @ weighted.T @ curve.covariance @ weighted @ inverse
    base, contrast, rate = map(float, best)
    sigma_base, sigma_contrast, sigma_rate = np.sqrt(np.diag(covariance)).tolist()
    return Decay(base, contrast, rate, (sigma_base, sigma_contrast, sigma_rate))


def _decay(delays: np.ndarray, base: float, contrast: float, rate: float) -> np.ndarray:
    """Return base + contrast · exp(−2 rate · delay)."""
    return base + contrast * np.exp(-2 * rate * delays)


def _slopes(delays: np.ndarray, _base: float, contrast: float, rate: float) -> np.ndarray:
    """Return (delay, 3) derivatives of `_decay` by base, contrast and rate."""
    decayed = np.exp(-2 * rate * delays)
    return np.stack([np.ones_like(decayed), decayed, -2 * delays * contrast * decayed], axis=1)
