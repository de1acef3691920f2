"""Populations of unit cells: DBSCAN clusters, a robust Gaussian for each, and the Mahalanobis
filter.

Cells are (n, 6) a b c (Å) α β γ (degrees); one degree counts as one Å, as in the published
workflow.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import chi2
from sklearn.cluster import DBSCAN
from sklearn.covariance import MinCovDet

from spreadflow.errors import LatticeOutcome
from spreadflow.physics import symmetry, unit_cell

NAMES = ("a", "b", "c", "alpha", "beta", "gamma")
SMALLEST_DIFFERENCE = 1e-4
"""Å or degrees: differences of cells below this mean nothing, and keep a covariance from being
singular.
"""

_QUANTILE = 0.999
_START = 3000
_SMALL = 8.0
"""The determinant of few points is too small (Pison et al. 2002): it is widened by 1 + 8 p/n
(measured).
"""


class Clusters(NamedTuple):
    """Gaussian populations of cells, the largest first."""

    n: np.ndarray
    """(cluster,) lattices"""
    mean: np.ndarray
    """(cluster, 6) mean cell of the members that are no outliers"""
    location: np.ndarray
    """(cluster, feature) robust mean"""
    covariance: np.ndarray
    """(cluster, feature, feature) robust covariance"""


def independent(names: Sequence[str], space_group: str) -> list[str]:
    """Return the features that the lattice symmetry leaves free: no right angles, no b of a
    tetragonal lattice beside its a.
    """
    triclinic = np.array(
        [[51.0, 62.0, 73.0, 81.0, 97.0, 104.0], [83.0, 58.0, 66.0, 101.0, 84.0, 77.0]]
    )
    probes = np.array(
        [
            unit_cell.degrees(symmetry.constrain_cell(unit_cell.radians(c), space_group))
            for c in triclinic
        ]
    )
    columns: list[np.ndarray] = []
    kept = []
    for name in names:
        column = probes[:, NAMES.index(name)]
        if abs(np.diff(column)[0]) > 1e-6 and not any(
            np.allclose(column, other) for other in columns
        ):
            columns.append(column)
            kept.append(name)
    return kept


def features(cells: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return (n, feature) columns of the cells."""
    return np.asarray(cells, dtype=np.float64)[:, [NAMES.index(name) for name in names]]


def dbscan(x: np.ndarray, eps: float, min_samples: int) -> np.ndarray:
    """Return (n,) labels of DBSCAN (Ester et al. 1996), the largest cluster first; −1 = noise.

    Points that share a box of eps/4 are replaced by their mean with their number as its weight:
    exact where points are sparse, and without the n² list of neighbours where 100 000 lattices
    share one cell.
    """
    if not len(x):
        return np.empty(0, dtype=np.int32)
    _, box, weight = np.unique(
        np.floor(x / (eps / 4)), axis=0, return_inverse=True, return_counts=True
    )
    box = box.ravel()
    mean = np.stack([np.bincount(box, column) for column in x.T], axis=1) / weight[:, None]
    labels = DBSCAN(eps=eps, min_samples=min_samples).fit(mean, sample_weight=weight).labels_[box]
    n = np.bincount(labels[labels >= 0])
    rank = np.empty(len(n) + 1, dtype=np.int32)
    rank[np.argsort(-n, kind="stable")] = np.arange(len(n))
    rank[-1] = -1
    return rank[labels]


def robust(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return robust mean (p,) and covariance (p, p) of x (n, p): the reweighted minimum covariance
    determinant.

    Rousseeuw & Van Driessen (1999) on three quarters of at most 3000 points, then reweighted with a
    hard cut at the 99.9 % quantile of χ² until the same points are kept; consistent for a Gaussian.
    The cut is wide because a narrow one shrinks to the core of a small sample. Fewer than 10 p
    points: medians and scaled median deviations, widened.
    """
    n, p = x.shape
    widened = 1 + _SMALL * p / n
    if n < 10 * p:
        location = np.median(x, axis=0)
        covariance = widened * np.diag((1.4826 * np.median(np.abs(x - location), axis=0)) ** 2)
        return location, covariance + SMALLEST_DIFFERENCE**2 * np.eye(p)
    scale = np.maximum(np.std(x, axis=0), SMALLEST_DIFFERENCE)
    jitter = SMALLEST_DIFFERENCE * np.random.default_rng(0).standard_normal(
        x.shape
    )  # equal cells have no determinant
    start = MinCovDet(support_fraction=0.75, random_state=0).fit(
        ((x + jitter) / scale)[:: -(-n // _START)]
    )
    location = start.location_ * scale
    covariance = widened * start.covariance_ * np.outer(scale, scale)
    cut = chi2.ppf(_QUANTILE, p)
    consistency = _QUANTILE / chi2.cdf(cut, p + 2)
    kept = np.zeros(n, dtype=bool)
    for _ in range(50):
        now = mahalanobis(x, location, covariance) ** 2 <= cut
        if (now == kept).all():
            break
        kept = now
        location = x[kept].mean(axis=0)
        covariance = consistency * np.cov(x[kept], rowvar=False).reshape(
            p, p
        ) + SMALLEST_DIFFERENCE**2 * np.eye(p)
    return location, covariance


def mahalanobis(x: np.ndarray, location: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return (n,) distances √((x − location)ᵀ covariance⁻¹ (x − location)) of x (n, p)."""
    white = np.linalg.solve(np.linalg.cholesky(covariance), (x - location).T)
    return np.sqrt((white**2).sum(axis=0))


def describe(
    cells: np.ndarray, names: Sequence[str], labels: np.ndarray, mahalanobis_max: float
) -> Clusters:
    """Return the Gaussian of each cluster of `labels` (n,)."""
    x = features(cells, names)
    rows = []
    for k in range(labels.max(initial=-1) + 1):
        mine = labels == k
        location, covariance = robust(x[mine])
        inside = mahalanobis(x[mine], location, covariance) <= mahalanobis_max
        rows.append((mine.sum(), cells[mine][inside].mean(axis=0), location, covariance))
    p = len(names)
    empty = (np.empty(0, int), np.empty((0, 6)), np.empty((0, p)), np.empty((0, p, p)))
    return (
        Clusters(*(np.array(column) for column in zip(*rows, strict=True)))
        if rows
        else Clusters(*empty)
    )


def distances(cells: np.ndarray, names: Sequence[str], clusters: Clusters) -> np.ndarray:
    """Return (n, cluster) Mahalanobis distances of cells (n, 6)."""
    x = features(cells, names)
    pairs = zip(clusters.location, clusters.covariance, strict=True)
    return np.stack(
        [mahalanobis(x, location, covariance) for location, covariance in pairs], axis=1
    )


def nearest(distance: np.ndarray, mahalanobis_max: float) -> np.ndarray:
    """Return (n,) label of the nearest cluster, −1 beyond the cut: for lattices no cluster was
    searched among.
    """
    return np.where(distance.min(axis=1) <= mahalanobis_max, distance.argmin(axis=1), -1)


def outcomes(
    labels: np.ndarray, distance: np.ndarray, chosen: int, mahalanobis_max: float
) -> np.ndarray:
    """Return (n,) LatticeOutcome: accepted are those within the cut of the chosen cluster that
    belong to no other.

    labels (n,); distance (n,) from the chosen cluster.
    """
    other = (labels >= 0) & (labels != chosen)
    beyond = np.where(labels == chosen, LatticeOutcome.CELL_OUTLIER, LatticeOutcome.NOISE)
    out = np.where(distance <= mahalanobis_max, LatticeOutcome.ACCEPTED, beyond)
    return np.where(other, LatticeOutcome.OTHER_CLUSTER, out).astype(np.uint8)
