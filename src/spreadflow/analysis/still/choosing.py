"""Which predicted reflections of a lattice are worth their pixels: by geometry and the mean
intensity of their resolution alone.

A reflection chosen by its own intensity would make the chosen ones brighter than their resolution
is. What it may depend on is the photons that an average reflection would have in its place, and the
noise of its background.
"""

from typing import NamedTuple

import numpy as np
import scipy

from spreadflow.analysis import identity_hash
from spreadflow.models import Choice, ReflectionFlag, Reflections, Spots

IN_SHELL = 1000
"""Nodes of a shell of resolution, whose mean |F|² is then known to some per cent."""

MOST_SHELLS = 60
"""Shells of resolution at most: |F|² has no finer structure."""

FEWEST = 10
"""Intensities that the scale of a lattice needs."""

N_CYCLES = 20
"""Cycles of weights and outliers that find the scale of a lattice."""

N_SIGMA = 6.0
"""Standard deviations beyond which an intensity says nothing of the scale. The tail of Wilson's
distribution beyond it holds 0.7 % of the intensity.
"""

LEAST_NOISE = 1.0
"""Photons; least noise of a reflection, as in integration."""

PANEL_DISTANCE_PX = 1e6
"""Distance of panels where spots are matched: far more than any tolerance."""


class ShellMeans(NamedTuple):
    """Mean |F|² as a smooth function of resolution."""

    s2: np.ndarray
    """(shell,) mean 1/d², Å⁻², ascending"""
    log_mean: np.ndarray
    """(shell,) ln of the mean |F|², electron²"""

    def at(self, d: np.ndarray) -> np.ndarray:
        """Return the mean |F|² at spacings d (n,), Å, electron²."""
        return np.exp(np.interp(1.0 / np.asarray(d) ** 2, self.s2, self.log_mean))


def shell_means(d: np.ndarray, f_squared: np.ndarray) -> ShellMeans:
    """Return the mean of |F|² (node,), electron², of nodes with spacings d (node,), Å, in shells of
    equal numbers. Shells without any |F|² are left out.
    """
    n_shells = int(np.clip(len(d) // IN_SHELL, 1, MOST_SHELLS))
    s2 = 1.0 / d**2
    shells = np.array_split(np.argsort(s2, kind="stable"), n_shells)
    middles = np.array([s2[shell].mean() for shell in shells])
    means = np.array([f_squared[shell].mean() for shell in shells])
    has_any = means > 0
    return ShellMeans(middles[has_any], np.log(means[has_any]))


def of_average(reflections: Reflections, means: ShellMeans) -> np.ndarray:
    """Return |F|² · polarization · capture · lorentz · partiality (n,) of average reflections in
    the place of these: their photons, but for the scale of the lattice.
    """
    geometry = reflections.lorentz * reflections.partiality
    response = reflections.polarization * reflections.capture
    return means.at(reflections.d) * geometry * response


def is_sound(reflections: Reflections) -> np.ndarray:
    """Return which reflections were integrated without failure or overlap, (n,) bool."""
    return reflections.flags & (ReflectionFlag.FAILED | ReflectionFlag.OVERLAP) == 0


class LatticeScale(NamedTuple):
    """How many photons a lattice diffracts."""

    value: float
    """photons over the photons `of_average`; NaN where the intensities do not tell"""
    of_others: np.ndarray
    """(n,) the same without the reflection's own intensity"""


def lattice_scale(
    reflections: Reflections, average: np.ndarray, usable: np.ndarray
) -> LatticeScale:
    """Return the scale of a lattice by weighted least squares of its intensities on what average
    reflections would have, and for each reflection the scale that all others say.

    average: (n,) as from `of_average`; usable: (n,) bool, those that take part.

    Intensities scatter about K·average with variance rest + K·average + (K·average)²: background,
    photons, and Wilson's distribution of |F|². Those further off than N_SIGMA are left out.
    """
    intensity = reflections.intensity.astype(np.float64)
    rest = np.maximum(reflections.sigma_background.astype(np.float64), LEAST_NOISE) ** 2
    nothing = LatticeScale(np.nan, np.full(len(average), np.nan))
    taking_part = usable & (average > 0)
    if taking_part.sum() < FEWEST:
        return nothing
    scale = max(intensity[taking_part].sum(), 0.0) / average[taking_part].sum()
    for _ in range(N_CYCLES):
        expected = scale * average
        variance = rest + expected + expected**2
        is_near = (intensity - expected) ** 2 <= N_SIGMA**2 * variance
        weight = (taking_part & is_near) / variance
        products = weight * average * intensity
        squares = weight * average**2
        if (weight > 0).sum() < FEWEST or products.sum() <= 0:
            return nothing
        scale = products.sum() / squares.sum()
    others = np.maximum(products.sum() - products, 0.0) / (squares.sum() - squares)
    return LatticeScale(float(scale), others)


def noise(reflections: Reflections, readout_photons: float) -> np.ndarray:
    """Return the standard deviation (n,), photons, that the intensities of reflections have without
    photons of their own: of the counts of background below them, of the readout, and of the plane
    that is fitted to the rest of their boxes.
    """
    fast0, fast1, slow0, slow1 = reflections.bbox.T.astype(np.float64)
    n_own = reflections.n_foreground.astype(np.float64)
    n_around = np.maximum((fast1 - fast0) * (slow1 - slow0) - n_own, 1.0)
    of_pixel = np.maximum(reflections.background, 0.0) + readout_photons**2
    variance = n_own * of_pixel * (1.0 + n_own / n_around)
    return np.sqrt(np.maximum(variance, LEAST_NOISE**2))


class Rule(NamedTuple):
    """What reflections are chosen by."""

    d_max: float
    """Å; of those at lower resolution none is taken"""
    min_expected: float
    """least photons that are expected, in units of the noise"""
    weak_fraction: float
    """share of the others that is kept"""


def choose(
    rule: Rule, d: np.ndarray, expected: np.ndarray, noise: np.ndarray, drawn: np.ndarray
) -> np.ndarray:
    """Return what becomes of the reflections of a lattice, (n,) `models.Choice`.

    d: (n,) Å; expected: (n,) photons of an average reflection; noise: (n,) photons; drawn: (n,)
    numbers that are uniform on [0, 1) and know nothing of the reflection but its identity.
    """
    kept = np.where(drawn < rule.weak_fraction, Choice.WEAK, Choice.LEFT_OUT)
    is_strong = expected >= rule.min_expected * noise
    chosen = np.where(is_strong, Choice.STRONG, kept)
    return np.where(d < rule.d_max, chosen, Choice.OUTSIDE).astype(np.uint8)


def lots(seed: int, shot_id: int, k: int, hkl: np.ndarray) -> np.ndarray:
    """Return a number (n,), uniform on [0, 1), for each reflection hkl (n, 3) of lattice k of a
    shot.
    """
    ones = np.ones(len(hkl), dtype=np.uint64)
    return identity_hash.uniform(seed, np.uint64(shot_id) * ones, np.uint64(k) * ones, *hkl.T)


def matched(reflections: Reflections, spots: Spots, tolerance_px: float) -> np.ndarray:
    """Return the row of the observed spot of each reflection (n,), or −1.

    Each spot goes to the nearest reflection within the tolerance, and of several spots a reflection
    has the nearest one. reflections: those of all lattices of a shot, so that no lattice takes the
    spots of another.
    """
    rows = np.full(len(reflections.fast), -1)
    if not len(rows) or not len(spots.fast):
        return rows
    predicted = _places(reflections.panel, reflections.fast, reflections.slow)
    observed = _places(spots.panel, spots.fast, spots.slow)
    distance, nearest = scipy.spatial.cKDTree(predicted).query(
        observed, distance_upper_bound=tolerance_px
    )
    farthest_first = np.argsort(-distance, kind="stable")
    within = farthest_first[np.isfinite(distance[farthest_first])]
    rows[nearest[within]] = within
    return rows


def _places(panel: np.ndarray, fast: np.ndarray, slow: np.ndarray) -> np.ndarray:
    """Return (n, 3) fast, slow and panel as lengths, px."""
    return np.stack([fast, slow, PANEL_DISTANCE_PX * np.asarray(panel)], axis=1)
