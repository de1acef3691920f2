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

from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from spreadflow.analysis.merging.merging import Observations, Sums

HUBER = 4.0
"""Standard deviations beyond which an observation's pull no longer grows (Huber 1964); leaves
normal errors alone.
"""

SFAC_MIN = 0.5
"""σ is never taken to be more than twice too large, so that no variance vanishes."""

EXPECTED = np.array([1.0, 0.0, 0.1**2, 0.09**2])
"""What sfac² and sfac² times sb², sadd², spart² are expected to be, before there are data."""

EXPECTED_SIGMA = np.array([0.3, 1.0, 0.05**2, 0.05**2])
"""Standard deviations of `EXPECTED`: wide beside what thousands of observations tell, and what
keeps a few tens of them from ending at an edge.
"""

DAMPING = 0.5
"""Share of a scoring step that is taken: the scales move too, and a whole step goes back and
forth.
"""

SADD_MIN = 0.03
"""No intensity of a still is taken to be better than this: with few pairs the likeliest fractional
error is often none. With many, `merging.with_scatter` brings σ back.
"""

PARTIALITY_FLOOR = 1e-6
"""Partiality below which `Terms.partial` grows no more."""


class Terms(NamedTuple):
    """The components of an observation's variance; each (observation,), photons²."""

    counting: np.ndarray
    """σ², with the photons expected in place of those counted"""
    photons: np.ndarray
    """m"""
    squared: np.ndarray
    """m²"""
    partial: np.ndarray
    """g m²"""


class ErrorModel(NamedTuple):
    """The parameters of an observation's variance."""

    sfac: float = 1.0
    sb: float = 0.0
    sadd: float = 0.0
    spart: float = 0.1

    def variance(self, terms: Terms) -> np.ndarray:
        """Return the variance, photons², (observation,)."""
        counting, photons, squared, partial = terms
        from_sb = self.sb**2 * photons
        from_sadd = self.sadd**2 * squared
        from_spart = self.spart**2 * partial
        return self.sfac**2 * (counting + from_sb + from_sadd + from_spart)


def terms(obs: Observations, k: np.ndarray, mean: np.ndarray) -> Terms:
    """Return what the variances are made of, from photons per intensity k (observation,) and mean
    intensities (unique,).
    """
    m = k * np.maximum(mean[obs.unique], 0.0)
    partiality = np.clip(obs.partiality, PARTIALITY_FLOOR, 1.0)
    g = 1.0 / partiality - 1.0 + np.log(partiality)
    return Terms(
        counting=obs.variance + m,
        photons=m,
        squared=m**2,
        partial=g * m**2,
    )


def fit(
    components: Terms,
    residual: np.ndarray,
    extra: np.ndarray,
    leverage: np.ndarray,
    has_others: np.ndarray,
    model: ErrorModel,
    sums: Sums,
) -> ErrorModel:
    """Return one step of Fisher scoring for the likelihood of the residuals from what all other
    observations say.

    components: as from `terms`; all others (observation,): residual: photons − k·(mean of the
    others); extra: variance of that mean, photons²; leverage: of the observation in its lattice's
    scale; has_others: bool, there are others that say something. The variance is linear in (sfac²,
    sfac² sb², sfac² sadd², sfac² spart²), so a scoring step is the linear regression of
    residual²/(1 − leverage) − extra on the components with weights 1/v². A residual counts as at
    most `HUBER` standard deviations. Collective.
    """
    variance = model.variance(components) + extra
    largest = HUBER**2 * variance
    square = np.minimum(residual**2 / (1.0 - leverage), largest) - extra
    scaled = [np.where(has_others, component / variance, 0.0) for component in components]

    pairs = [(i, j) for i in range(4) for j in range(i, 4)]
    products = [scaled[i] * scaled[j] for i, j in pairs]
    products += [component * square / variance for component in scaled]
    totals = sums.over_observations(*products)

    normal = np.zeros((4, 4))
    for (i, j), total in zip(pairs, totals, strict=False):
        normal[i, j] = total
        normal[j, i] = total
    return _solved(normal, totals[len(pairs) :], model)


def _solved(normal: np.ndarray, right: np.ndarray, model: ErrorModel) -> ErrorModel:
    """Return the model a part of the way to the non-negative solution of the normal equations and
    of what is expected, with sfac ≥ `SFAC_MIN` and sfac·sadd ≥ `SADD_MIN`.
    """
    precision = EXPECTED_SIGMA**-2.0
    normal = 0.5 * normal + np.diag(precision)
    right = 0.5 * right + precision * EXPECTED
    lowest = np.array([SFAC_MIN**2, 0.0, SADD_MIN**2, 0.0])
    size = np.sqrt(np.diag(normal))

    # normal = size · root · rootᵀ · size: non-negative least squares of rootᵀ x
    values, vectors = np.linalg.eigh(normal / np.outer(size, size))
    root = vectors * np.sqrt(np.maximum(values, 1e-10))
    rest = (right - normal @ lowest) / size
    target = np.linalg.solve(root, rest)
    above_lowest, _ = nnls(root.T, target)
    solution = above_lowest / size + lowest

    products = np.array([1.0, model.sb**2, model.sadd**2, model.spart**2])
    before = model.sfac**2 * products
    solution = before + DAMPING * (solution - before)
    sfac = np.sqrt(solution[0])
    sb, sadd, spart = (float(np.sqrt(x) / sfac) for x in solution[1:])
    return ErrorModel(float(sfac), sb, sadd, spart)
