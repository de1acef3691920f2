"""Populations of cells against planted ones, NumPy and scikit-learn."""

import numpy as np
import pytest
from scipy.stats import chi2
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score

from spreadflow.analysis.merging import cells
from spreadflow.errors import LatticeOutcome

MEAN = np.array([67.2, 59.8, 47.2, 90.0, 110.3, 90.0])
SIGMA = np.array([0.045, 0.036, 0.031, 0.0, 0.051, 0.0])


def population(n: int, seed: int = 0, mean=MEAN) -> np.ndarray:
    """Return Gaussian cells (n, 6) with correlated a and c."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, 6))
    z[:, 2] = 0.6 * z[:, 0] + 0.8 * z[:, 2]
    return mean + z * SIGMA


@pytest.mark.parametrize("names", [("a", "b", "c"), ("a", "b", "c", "beta")])
def test_a_second_population_is_separated(names):
    """Planted: 5 % of the lattices with a 1 % longer a, among noise."""
    longer = MEAN * [1.01, 1, 1, 1, 1, 1]
    table = np.concatenate([population(1900), population(100, 1, longer)])
    truth = np.repeat([0, 1], [1900, 100])
    labels = cells.dbscan(cells.features(table, names), 0.2, 3)

    assert adjusted_rand_score(truth, labels) >= 0.98
    assert (labels[truth == 0] == 0).mean() > 0.98, "the largest cluster comes first"


def test_dbscan_is_sklearns_where_points_are_sparse():
    x = np.random.default_rng(3).uniform(0, 4, (300, 3))
    x[::3, 1] += 20
    ours = cells.dbscan(x, 0.6, 3)
    theirs = DBSCAN(eps=0.6, min_samples=3).fit(x).labels_

    assert len(np.unique(theirs)) > 5
    assert adjusted_rand_score(theirs, ours) > 0.999
    assert ((ours < 0) == (theirs < 0)).all()


@pytest.mark.stage
def test_covariance_is_numpys_without_outliers_and_with_them():
    """5 % of NumPy's covariance of the clean sample, also where a fifth of the points are far
    away.
    """
    clean = cells.features(population(4000), ("a", "b", "c"))
    expected = np.cov(clean, rowvar=False)
    sigma = np.sqrt(np.diag(expected))
    tolerance = 0.05 * np.outer(sigma, sigma)

    far_away = clean[:1000] + np.array([0.6, -0.4, 0.5])
    dirty = np.concatenate([clean, far_away])
    for x in (clean, dirty):
        location, covariance = cells.robust(x)
        difference = np.abs(covariance - expected)
        assert (difference <= tolerance).all()
        assert np.allclose(location, clean.mean(axis=0), atol=0.003)


@pytest.mark.stage
@pytest.mark.parametrize("p", [1, 2, 3, 6])
def test_rejection_rate_of_a_gaussian(p):
    """The Mahalanobis cut at 2 rejects what χ² with p degrees of freedom says (4 standard
    errors).
    """
    n = 20000
    x = np.random.default_rng(p).standard_normal((n, p)) * np.arange(1, p + 1.0)
    location, covariance = cells.robust(x)
    distance = cells.mahalanobis(x, location, covariance)
    rate = (distance > 2.0).mean()
    expected = chi2.sf(4.0, p)

    tolerance = 4 * np.sqrt(expected / n) + 0.03 * expected
    assert abs(rate - expected) < tolerance


@pytest.mark.stage
@pytest.mark.parametrize(
    ("n", "limit"), [(8, 0.02), (24, 0.005), (32, 0.01), (48, 0.005), (96, 0.003)]
)
def test_few_lattices_are_not_rejected_for_being_few(n, limit):
    """A Gaussian of three features loses 0.11 % beyond 4 σ; a covariance that shrinks to the core
    loses 10 % of 24.
    """
    rng = np.random.default_rng(n)
    is_beyond = []
    for _ in range(40):
        x = rng.standard_normal((n, 3))
        location, covariance = cells.robust(x)
        is_beyond.append(cells.mahalanobis(x, location, covariance) > 4.0)

    assert np.mean(is_beyond) < limit


def test_robust_is_deterministic_and_stands_few_or_equal_points():
    x = cells.features(population(50), ("a", "b", "c"))
    first = cells.robust(x)
    second = cells.robust(x)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)

    three = x[:3]
    equal = np.repeat(x[:1], 40, axis=0)
    for few in (three, equal):
        location, covariance = cells.robust(few)
        assert np.allclose(location, np.median(few, axis=0), atol=1e-6)
        assert (np.linalg.eigvalsh(covariance) > 0).all()


@pytest.mark.parametrize(
    ("space_group", "expected"),
    [
        ("P 1", ["a", "b", "c", "alpha", "beta", "gamma"]),
        ("C 1 2 1", ["a", "b", "c", "beta"]),
        ("A 1 1 2", ["a", "b", "c", "gamma"]),
        ("P 21 21 21", ["a", "b", "c"]),
        ("P 41 21 2", ["a", "c"]),
        ("P 63", ["a", "c"]),
        ("R 3:R", ["a", "alpha"]),
        ("F 2 3", ["a"]),
    ],
)
def test_features_the_symmetry_leaves_free(space_group, expected):
    """The number of free cell parameters of each crystal system (International Tables A)."""
    assert cells.independent(cells.NAMES, space_group) == expected


def test_tetragonal_cells_have_a_covariance():
    """a = b exactly: the filter works on a and c."""
    z = np.random.default_rng(5).standard_normal((200, 2)) * [0.2, 0.5]
    a = 107.0 + z[:, 0]
    c = 304.0 + z[:, 1]
    right = np.full(200, 90.0)
    table = np.stack([a, a, c, right, right, right], axis=1)
    names = cells.independent(("a", "b", "c"), "P 41 21 2")
    labels = cells.dbscan(cells.features(table, names), 0.6, 3)
    clusters = cells.describe(table, names, labels, 4.0)
    sigma = np.sqrt(np.diag(clusters.covariance[0]))

    assert np.allclose(sigma, [0.2, 0.5], rtol=0.2)
    assert np.allclose(clusters.mean[0], [107, 107, 304, 90, 90, 90], atol=0.1)


def test_each_lattice_has_one_outcome():
    labels = np.array([0, 0, 1, -1, -1])
    distance = np.array([1.0, 9.0, 1.0, 9.0, 1.0])
    found = cells.outcomes(labels, distance, 0, 4.0)
    end = LatticeOutcome

    assert found.tolist() == [
        end.ACCEPTED,
        end.CELL_OUTLIER,
        end.OTHER_CLUSTER,
        end.NOISE,
        end.ACCEPTED,
    ]
