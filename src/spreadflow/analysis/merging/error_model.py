"""The variance of an integrated intensity, and its parameters from the data themselves.

With photons expected m = k·I, k = G exp(−2 B s²)·factor:

v = sfac² (σ² + sb² m + (sadd² + spart² g) m²),   g = 1/p − 1 + ln p,   p = partiality / the best
at this resolution.

The first three terms are those of Evans (2011, Acta D67, 282) as cctbx.xfel.merge has them (ev11),
here in photons, where they mean something. The last is what a model of few unknowns does not know
of a crystal: n mosaic domains of which the share p reflects make p uncertain by the fraction
1/√(n p). What of 1/p is linear in ln p is like a wrong orientation or width, which are refined
against the merged intensities, and is left out. σ² has the photons expected in place of those
counted: otherwise what fluctuates down counts for more.
"""

from itertools import product
from typing import NamedTuple

import numpy as np

SFAC_MIN = 0.5
"""σ is never taken to be more than twice too large, so that no variance vanishes."""

EXPECTED = np.array([1.0, 0.0, 0.1**2, 0.09**2])
"""What sfac² and sfac² times sb², sadd², spart² are expected to be, before there are data."""

EXPECTED_SIGMA = np.array([0.3, 1.0, 0.05**2, 0.05**2])
"""Standard deviations of `EXPECTED`: wide beside what thousands of observations tell, and what
keeps a few tens of them from ending at an edge.
"""

SADD_MIN = 0.03
"""No intensity of a still is taken to be better than this: with few pairs the likeliest fractional
error is often none. With many, `merging.with_scatter` brings σ back.
"""

PARTIALITY_FLOOR = 1e-6
"""Partiality below which g grows no more."""


class ErrorModel(NamedTuple):
    """The parameters of an observation's variance."""

    sfac: float = 1.0
    sb: float = 0.0
    sadd: float = 0.0
    spart: float = 0.1

    @property
    def squares(self) -> tuple[float, float, float, float]:
        """sfac², and sfac² times sb², sadd², spart²: the variance is linear in them."""
        sfac2 = self.sfac**2
        return sfac2, sfac2 * self.sb**2, sfac2 * self.sadd**2, sfac2 * self.spart**2


def partial(partiality: np.ndarray) -> np.ndarray:
    """Return g (observation,) of partialities relative to the best."""
    p = np.clip(partiality, PARTIALITY_FLOOR, 1.0)
    return 1.0 / p - 1.0 + np.log(p)


def fit(totals: np.ndarray) -> ErrorModel:
    """Return one step of Fisher scoring for the likelihood of the residuals from what all other
    observations say.

    totals: (14,) sums over all observations (`loops.error_sums`).
    """
    normal = np.zeros((4, 4))
    upper = np.triu_indices(4)
    normal[upper] = totals[:10]
    normal.T[upper] = totals[:10]
    return _solved(normal, totals[10:])


def _solved(normal: np.ndarray, right: np.ndarray) -> ErrorModel:
    """Return the non-negative solution of the normal equations and of what is expected, with
    sfac ≥ `SFAC_MIN` and sfac·sadd ≥ `SADD_MIN`.
    """
    precision = EXPECTED_SIGMA**-2.0
    normal = 0.5 * normal + np.diag(precision)
    right = 0.5 * right + precision * EXPECTED
    lowest = np.array([SFAC_MIN**2, 0.0, SADD_MIN**2, 0.0])
    size = np.sqrt(np.diag(normal))

    values, vectors = np.linalg.eigh(normal / np.outer(size, size))
    scaled = (vectors * np.maximum(values, 1e-10)) @ vectors.T
    rest = (right - normal @ lowest) / size
    solution = non_negative(scaled, rest) / size + lowest

    sfac = np.sqrt(solution[0])
    sb, sadd, spart = (float(np.sqrt(x) / sfac) for x in solution[1:])
    return ErrorModel(float(sfac), sb, sadd, spart)


def non_negative(normal: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the x ≥ 0 that makes x·normal·x/2 − right·x least, of a few unknowns (n,): the best of
    all choices of unknowns that are 0. normal: (n, n) positive definite.

    SciPy's solver takes a quarter of a second to import.
    """
    best = np.zeros(len(right))
    least = 0.0
    for choice in product((False, True), repeat=len(right)):
        free = np.flatnonzero(choice)
        x = np.zeros(len(right))
        x[free] = np.linalg.solve(normal[np.ix_(free, free)], right[free])
        value = -0.5 * float(right @ x)
        if (x >= 0.0).all() and value < least:
            best, least = x, value
    return best
