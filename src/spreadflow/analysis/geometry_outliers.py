"""What takes no part in the position of the detector: spots far from their prediction, and lattices
that are unlike the others.

A false lattice, or one that is a degree off, has spots near its predictions by chance alone. Many
of them lie beyond the ellipse that holds the spots of all lattices, the others fill it evenly, and
they ask for a detector of their own.
"""

from typing import NamedTuple

import numpy as np
import scipy

from spreadflow.models import Array
from spreadflow.units import MAD_TO_SIGMA

MOST_BEYOND = 0.5
"""Share of its spots beyond the ellipse above which a lattice is false: of a true one a few in a
hundred are, and of spots strewn evenly over the tolerance nearly all.
"""

BEYOND_RATIO = 2.0
"""Ratio to the median share of all lattices up to which no lattice is false, where σ fit so badly
that many spots of all lattices are beyond.
"""

N_DEVIATIONS = 6.0
"""Robust standard deviations above the median of all lattices, of the logarithm, at which a lattice
is unlike the others.
"""

LEAST_RATIO = 4.0
"""Ratio to the median of all lattices up to which no lattice is unlike them, however alike these
are: residuals twice as large still tell where the detector is.
"""

MOVE_PROBABILITY = 1.0 - 1e-9
"""χ² quantile, scaled so that the median is that of all lattices, up to which the detector that a
lattice alone asks for is like the others': true ones are beyond 1 - 1e-6 at times, as the median of
ten lattices is known to a third.
"""

FEWEST_COMPARED = 4
"""Lattices from which on medians are trusted to tell which one is unlike the others."""


class Cut(NamedTuple):
    """An ellipse in the plane of normalized residuals."""

    centre: np.ndarray
    """(2,) radial, transverse"""
    precision: np.ndarray
    """(2, 2) inverse covariance"""
    limit: float
    """squared Mahalanobis distance"""

    def distance2(self, z: np.ndarray) -> np.ndarray:
        """Return squared Mahalanobis distances (n,) of normalized residuals z (n, 2)."""
        from_centre = z - self.centre
        return np.einsum("si,ij,sj->s", from_centre, self.precision, from_centre)


class Evidence(NamedTuple):
    """What tells whether a lattice is like the others; numbers, or one for each lattice (n,)."""

    inside: Array | float
    """its spots inside the ellipse"""
    beyond: Array | float
    """share of its spots beyond the ellipse"""
    size: Array | float
    """median squared Mahalanobis distance of its spots"""
    move: Array | float
    """squared distance, in σ², between the detector that it alone asks for and that of all"""


class Limits(NamedTuple):
    """How few spots a lattice may have, and the largest other evidence."""

    inside: float
    beyond: float
    size: float
    move: float


TOO_MUCH = (
    "share of its spots beyond the ellipse of all",
    "median squared residual in σ²",
    "squared distance of its own detector from that of all in σ²",
)
"""What the last fields of `Evidence` are, in words."""


def robust_cut(z: np.ndarray, probability: float) -> Cut:
    """Return the ellipse that holds `probability` of pooled residuals z (n, 2), were they normal.

    Minimum covariance determinant (Rousseeuw & Van Driessen 1999) with a fixed seed: the same on
    every rank.
    """
    from sklearn.covariance import MinCovDet

    robust = MinCovDet(random_state=0).fit(z)
    return Cut(
        centre=robust.location_,
        precision=np.linalg.inv(robust.covariance_),
        limit=float(scipy.special.chdtri(2, 1.0 - probability)),
    )


def limits(evidence: Evidence, n_free: int, fewest: int) -> Limits:
    """Return the limits of one of these lattices.

    evidence: of all lattices, (n,). n_free: unknowns of the detector. fewest: spots that a lattice
    needs inside the ellipse.
    """
    beyond = np.asarray(evidence.beyond)
    size = np.asarray(evidence.size)
    move = np.asarray(evidence.move)
    is_finite = np.isfinite(size) & np.isfinite(move) & (size > 0)
    if np.count_nonzero(is_finite) < FEWEST_COMPARED:
        return Limits(fewest, MOST_BEYOND, np.inf, np.inf)
    return Limits(
        inside=fewest,
        beyond=max(MOST_BEYOND, BEYOND_RATIO * float(np.median(beyond[is_finite]))),
        size=_largest_size(size[is_finite]),
        move=_largest_move(move[is_finite], n_free),
    )


def _largest_size(size: np.ndarray) -> float:
    """Return the largest of positive values (n,) that is like the others by the median and the
    median deviation of their logarithms.
    """
    logarithms = np.log(size)
    centre = np.median(logarithms)
    deviation = MAD_TO_SIGMA * np.median(np.abs(logarithms - centre))
    return float(np.exp(centre + max(N_DEVIATIONS * deviation, np.log(LEAST_RATIO))))


def _largest_move(move: np.ndarray, n_free: int) -> float:
    """Return the largest of squared distances (n,) that is like the others, were they χ² of n_free
    degrees of freedom but for a factor.
    """
    factor = np.median(move) / scipy.special.chdtri(n_free, 0.5)
    return float(factor * scipy.special.chdtri(n_free, 1.0 - MOVE_PROBABILITY))


def panel_share(sums: np.ndarray) -> float:
    """Return which share of the squared residuals comes of panels whose spots lie to one side, from
    sums (panel, 4) of spots, residuals along two axes and squares: 0 where these scatter evenly.

    Of n spots without such an offset the mean has 1/n of their variance, which is taken off.
    """
    n, fast, slow, squares = sums[sums[:, 0] > 1].T
    if not squares.sum() > 0:
        return 0.0
    mean2 = (fast**2 + slow**2) / n**2
    of_scatter = (squares / n - mean2) / (n - 1.0)
    return float(max((n * (mean2 - of_scatter)).sum() / squares.sum(), 0.0))


def reasons(evidence: Evidence, limits: Limits) -> list[str]:
    """Return what is wrong with a lattice, with its value and the limit: nothing where it is like
    the others. evidence: of one lattice.
    """
    wrong = []
    if evidence.inside < limits.inside:
        wrong.append(
            f"spots inside the ellipse of all: {evidence.inside:g} (at least {limits.inside:g})"
        )
    for what, value, limit in zip(TOO_MUCH, evidence[1:], limits[1:], strict=True):
        if value > limit:
            wrong.append(f"{what}: {value:.3g} (at most {limit:.3g})")
    return wrong
