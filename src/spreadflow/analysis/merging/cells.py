"""Populations of unit cells: DBSCAN clusters, a robust Gaussian for each, and the Mahalanobis
filter.

Cells are (n, 6) a b c (Å) α β γ (degrees). In distances between cells an angle counts as the arc
that it makes at the geometric mean of its two axes, in Å. Covariances are in the units of cells;
Mahalanobis distances do not depend on units.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

from spreadflow.errors import LatticeOutcome
from spreadflow.physics import symmetry, unit_cell
from spreadflow.physics.unit_cell import NAMES
from spreadflow.units import MAD_TO_SIGMA

SMALLEST_DIFFERENCE = 1e-4
"""Å or degrees: differences of cells below this mean nothing, and keep a covariance from being
singular.
"""

LEAST_SHARE = 0.005
"""Share of the lattices that makes a cluster, if nothing else is asked for, and
"""

LEAST_MEMBERS = 3
"""the number of them that it takes at least."""

_EQUAL = 1e-6
"""Å or degrees; parameters of two cells that symmetry makes equal differ by less."""

_REACHED = 0.98
"""Share of a Gaussian's lattices that have enough neighbours within the suggested radius."""

_SPARSE = 2000
"""Lattices, at most, whose neighbours are sought for the radius."""

MOST_CLUSTERED = 10000
"""Lattices, at most, that clusters are sought among."""

_QUANTILE = 0.999
"""Quantile of χ² beyond which a point does not count in the reweighted covariance."""

_START = 3000
"""Points, at most, that the minimum covariance determinant starts from."""

_SMALL = 8.0
"""The determinant of few points is too small (Pison et al. 2002): it is widened by 1 + 8 p/n
(measured).
"""

_MAX_REWEIGHTINGS = 50
"""Rounds of reweighting; some ten are enough."""


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
    probes = _triclinic_cells(space_group)
    columns: list[np.ndarray] = []
    free = []
    for name in names:
        column = probes[:, NAMES.index(name)]
        is_fixed = abs(column[1] - column[0]) <= _EQUAL
        is_another = any(np.allclose(column, other) for other in columns)
        if not is_fixed and not is_another:
            columns.append(column)
            free.append(name)
    return free


def completed(names: Sequence[str], location: np.ndarray, space_group: str) -> np.ndarray:
    """Return the cell (6,), Å and degrees, that has these features (feature,), and everything else
    as the lattice symmetry has it. Raises ValueError where it leaves a parameter free that is no
    feature.
    """
    probes = _triclinic_cells(space_group)
    known = dict(zip(names, location.tolist(), strict=True))
    cell = np.empty(6)
    for name, column in zip(NAMES, probes.T, strict=True):
        is_fixed = abs(column[1] - column[0]) <= _EQUAL
        equal = [other for other in known if np.allclose(column, probes[:, NAMES.index(other)])]
        if name not in known and not is_fixed and not equal:
            raise ValueError(f"nothing that says {name}: {', '.join(names)} of {space_group}")
        of_symmetry = column[0] if is_fixed else known[equal[0]]
        cell[NAMES.index(name)] = known.get(name, of_symmetry)
    return cell


def _triclinic_cells(space_group: str) -> np.ndarray:
    """Return what the symmetry of the lattice makes of two triclinic cells, (2, 6)."""
    triclinic = (
        [51.0, 62.0, 73.0, 81.0, 97.0, 104.0],
        [83.0, 58.0, 66.0, 101.0, 84.0, 77.0],
    )
    constrained = [
        symmetry.constrain_cell(unit_cell.radians(cell), space_group) for cell in triclinic
    ]
    return np.array([unit_cell.degrees(cell) for cell in constrained])


def features(cells: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return the named columns of cells (n, 6): (n, feature)."""
    columns = [NAMES.index(name) for name in names]
    return np.asarray(cells, dtype=np.float64)[:, columns]


def in_angstrom(cells: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return the named columns of cells (n, 6) as lengths (n, feature), Å: differences of angles as
    arcs at the geometric mean of the two axes.
    """
    a, b, c = np.median(cells[:, :3], axis=0)
    arcs = np.deg2rad(np.sqrt([b * c, a * c, a * b]))
    scales = np.concatenate([np.ones(3), arcs])
    return features(cells * scales, names)


def thinned(n: int, most: int, together: int = 1) -> np.ndarray:
    """Return at most `most` of n row numbers, evenly spread; as many of them `together` follow each
    other.
    """
    every = max(1, -(-n // most))
    firsts = np.arange(0, n, every * together)
    rows = (firsts[:, np.newaxis] + np.arange(together)).ravel()
    return rows[rows < n][:most]


def least_members(n: int) -> int:
    """Return how many of n lattices make a cluster."""
    return max(LEAST_MEMBERS, int(np.ceil(LEAST_SHARE * n)))


def neighbour_distances(x: np.ndarray, min_samples: int) -> np.ndarray:
    """Return, in order, how far from points x (n, feature) as many lie as make a cluster: the
    `min_samples`-th nearest, itself included.

    Of many points 2000 are asked, for the same share of them. Empty where there are fewer than
    `min_samples` points.
    """
    rows = thinned(len(x), _SPARSE)
    n_neighbours = max(2, round(min_samples * len(rows) / max(len(x), 1)))
    if len(rows) < n_neighbours:
        return np.empty(0)
    squared = np.zeros((len(rows), len(rows)))
    for feature in x[rows].T:
        squared += (feature[:, None] - feature) ** 2
    return np.sort(np.sqrt(np.partition(squared, n_neighbours - 1, axis=1)[:, n_neighbours - 1]))


def suggested_eps(x: np.ndarray, min_samples: int) -> float:
    """Return the radius within which 98 % of a Gaussian's points have enough neighbours, from
    points x (n, feature).

    `neighbour_distances` go with density^(−1/p), and the density of a Gaussian with exp(−χ²/2): the
    radius is their median times the ratio of 98 % quantile and median that this gives. The median
    does not care how far those points are that belong to no population.
    """
    distances = neighbour_distances(x, min_samples)
    if not len(distances):
        return SMALLEST_DIFFERENCE
    n_features = x.shape[1]
    middle, outer = scipy.special.chdtri(n_features, [0.5, 1.0 - _REACHED])
    ratio = np.exp((outer - middle) / (2 * n_features))
    return max(float(np.median(distances) * ratio), SMALLEST_DIFFERENCE)


def dbscan(x: np.ndarray, eps: float, min_samples: int) -> np.ndarray:
    """Return the clusters (n,) of points x (n, feature) by DBSCAN (Ester et al. 1996), the largest
    first; −1 = noise.

    Points that share a box of eps/4 are replaced by their mean with their number as its weight:
    exact where points are sparse, and without the n² list of neighbours where 100 000 lattices
    share one cell.
    """
    from sklearn.cluster import DBSCAN

    if not len(x):
        return np.empty(0, dtype=np.int32)
    corner = np.floor(x / (eps / 4))
    _, box, weight = np.unique(corner, axis=0, return_inverse=True, return_counts=True)
    box = box.ravel()
    total = np.stack([np.bincount(box, column) for column in x.T], axis=1)
    mean = total / weight[:, None]

    scan = DBSCAN(eps=eps, min_samples=min_samples)
    of_boxes = scan.fit(mean, sample_weight=weight)
    return _largest_first(of_boxes.labels_[box])


def _largest_first(label: np.ndarray) -> np.ndarray:
    """Return clusters (n,) numbered by their sizes; −1 = noise."""
    size = np.bincount(label[label >= 0])
    rank = np.empty(len(size) + 1, dtype=np.int32)
    rank[np.argsort(-size, kind="stable")] = np.arange(len(size))
    rank[-1] = -1
    return rank[label]


def joined(x: np.ndarray, labels: np.ndarray, mahalanobis_max: float) -> np.ndarray:
    """Return clusters (n,), of which those whose centre lies within the cut of a larger one have
    become part of it: splinters of its sparse rim.

    x: (n, feature); labels: (n,) of `dbscan`.
    """
    n_clusters = labels.max(initial=-1) + 1
    if not n_clusters:
        return labels
    centres = np.array([np.median(x[labels == k], axis=0) for k in range(n_clusters)])
    whose = np.arange(n_clusters)
    for large in range(n_clusters):
        if whose[large] == large:
            location, covariance = robust(x[labels == large])
            is_within = mahalanobis(centres, location, covariance) <= mahalanobis_max
            is_smaller = (whose == np.arange(n_clusters)) & (np.arange(n_clusters) > large)
            whose[is_within & is_smaller] = large
    _, numbers = np.unique(whose, return_inverse=True)
    return _largest_first(np.where(labels >= 0, numbers[labels], -1))


def robust(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a robust mean (p,) and covariance (p, p) of x (n, p), by the reweighted minimum
    covariance determinant.

    Rousseeuw & Van Driessen (1999) on three quarters of at most 3000 points, then reweighted with a
    hard cut at the 99.9 % quantile of χ² until the same points are kept; consistent for a Gaussian.
    The cut is wide because a narrow one shrinks to the core of a small sample. Fewer than 10 p
    points: medians and scaled median deviations, widened.
    """
    n, p = x.shape
    widening = 1 + _SMALL * p / n
    least = SMALLEST_DIFFERENCE**2 * np.eye(p)
    if n < 10 * p:
        location = np.median(x, axis=0)
        deviation = np.median(np.abs(x - location), axis=0)
        sigma = MAD_TO_SIGMA * deviation
        return location, widening * np.diag(sigma**2) + least

    location, covariance = _minimum_determinant(x)
    covariance = widening * covariance
    cut = scipy.special.chdtri(p, 1.0 - _QUANTILE)
    consistency = _QUANTILE / scipy.special.chdtr(p + 2, cut)
    counts = np.zeros(n, dtype=bool)
    for _ in range(_MAX_REWEIGHTINGS):
        within = mahalanobis(x, location, covariance) ** 2 <= cut
        if (within == counts).all():
            break
        counts = within
        location = x[counts].mean(axis=0)
        core = np.cov(x[counts], rowvar=False).reshape(p, p)
        covariance = consistency * core + least
    return location, covariance


def _minimum_determinant(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (p,) and covariance (p, p) of the three quarters of x (n, p), thinned out, whose
    covariance has the least determinant.
    """
    from sklearn.covariance import MinCovDet

    scale = np.maximum(np.std(x, axis=0), SMALLEST_DIFFERENCE)
    noise = np.random.default_rng(0).standard_normal(x.shape)
    jittered = x + SMALLEST_DIFFERENCE * noise  # equal cells have no determinant

    every = -(-len(x) // _START)
    thinned = (jittered / scale)[::every]
    estimator = MinCovDet(support_fraction=0.75, random_state=0)
    start = estimator.fit(thinned)
    location = start.location_ * scale
    covariance = start.covariance_ * np.outer(scale, scale)
    return location, covariance


def mahalanobis(x: np.ndarray, location: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return the distances (n,) √((x − location)ᵀ covariance⁻¹ (x − location)) of x (n, p)."""
    root = np.linalg.cholesky(covariance)
    white = np.linalg.solve(root, (x - location).T)
    return np.sqrt((white**2).sum(axis=0))


def describe(
    cells: np.ndarray, names: Sequence[str], labels: np.ndarray, mahalanobis_max: float
) -> Clusters:
    """Return the Gaussian of each cluster of `labels` (n,)."""
    x = features(cells, names)
    n_clusters = labels.max(initial=-1) + 1
    p = len(names)
    n = np.zeros(n_clusters, dtype=int)
    mean = np.zeros((n_clusters, 6))
    location = np.zeros((n_clusters, p))
    covariance = np.zeros((n_clusters, p, p))
    for k in range(n_clusters):
        is_member = labels == k
        members = x[is_member]
        location[k], covariance[k] = robust(members)
        is_inlier = mahalanobis(members, location[k], covariance[k]) <= mahalanobis_max
        n[k] = len(members)
        mean[k] = cells[is_member][is_inlier].mean(axis=0)
    return Clusters(n, mean, location, covariance)


def distances(cells: np.ndarray, names: Sequence[str], clusters: Clusters) -> np.ndarray:
    """Return the Mahalanobis distances of cells (n, 6) from each cluster, (n, cluster)."""
    x = features(cells, names)
    gaussians = zip(clusters.location, clusters.covariance, strict=True)
    columns = [mahalanobis(x, location, covariance) for location, covariance in gaussians]
    return np.stack(columns, axis=1)


def nearest(distance: np.ndarray, mahalanobis_max: float) -> np.ndarray:
    """Return the nearest cluster (n,), −1 beyond the cut: for lattices among which no cluster was
    searched. distance: (n, cluster).
    """
    is_near = distance.min(axis=1) <= mahalanobis_max
    return np.where(is_near, distance.argmin(axis=1), -1)


def outcomes(
    labels: np.ndarray, distance: np.ndarray, chosen: int, mahalanobis_max: float
) -> np.ndarray:
    """Return the LatticeOutcome (n,) of each lattice: accepted are those within the cut of the
    chosen cluster that belong to no other.

    labels: (n,) cluster; distance: (n,) from the chosen cluster.
    """
    in_other = (labels >= 0) & (labels != chosen)
    beyond = np.where(labels == chosen, LatticeOutcome.CELL_OUTLIER, LatticeOutcome.NOISE)
    outcome = np.where(distance <= mahalanobis_max, LatticeOutcome.ACCEPTED, beyond)
    return np.where(in_other, LatticeOutcome.OTHER_CLUSTER, outcome).astype(np.uint8)
