"""Populations of cells against planted ones, NumPy and scikit-learn."""

import numpy as np
import pytest
from scipy.stats import chi2
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score

from spreadflow.analysis.merging import cells, settings
from spreadflow.errors import LatticeOutcome
from spreadflow.physics import unit_cell

MEAN = np.array([67.2, 59.8, 47.2, 90.0, 110.3, 90.0])
SHARES = [0.4, 0.2, 0.2, 0.2]
"""Of lattices in each of four settings."""

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


@pytest.mark.stage
@pytest.mark.parametrize(
    "difference", [[0.67, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0.6, 0]], ids=["a", "beta"]
)
def test_the_suggested_radius_separates_a_second_population(difference):
    """Also one that differs by an angle alone, and where a tenth of the cells are of no
    population.
    """
    noise = MEAN + np.random.default_rng(2).uniform(-2, 2, (200, 6)) * (SIGMA > 0)
    table = np.concatenate([population(1700), population(100, 1, MEAN + difference), noise])
    truth = np.repeat([0, 1], [1700, 100])
    x = cells.in_angstrom(table, ("a", "b", "c", "beta"))
    min_samples = cells.least_members(len(x))
    eps = cells.suggested_eps(x, min_samples)
    labels = cells.joined(x, cells.dbscan(x, eps, min_samples), 4.0)

    assert labels.max() == 1
    assert adjusted_rand_score(truth, labels[:1800]) >= 0.97
    assert (labels[1800:] < 0).mean() > 0.95
    assert 0.05 < eps < 0.2, "one to four standard deviations"


@pytest.mark.parametrize("p", [1, 2, 4, 6])
@pytest.mark.parametrize("n", [13, 60, 300])
def test_one_gaussian_is_one_population(n, p):
    """Whatever the number of lattices and of features; few of its lattices count as noise."""
    for seed in range(5):
        x = np.random.default_rng([n, p, seed]).standard_normal((n, p)) * 0.01
        min_samples = cells.least_members(n)
        eps = cells.suggested_eps(x, min_samples)
        labels = cells.joined(x, cells.dbscan(x, eps, min_samples), 4.0)
        assert labels.max() == 0
        assert (labels == 0).mean() >= 0.9


def test_splinters_of_a_population_are_part_of_it():
    x = np.random.default_rng(4).standard_normal((203, 2))
    x[200:] += [9.0, 0.0]
    labels = np.zeros(203, dtype=int)
    labels[x[:, 0] > 2.0] = 1
    labels[:5] = -1
    labels[200:] = 2
    together = cells.joined(x, labels, 4.0)

    assert (together[:5] == -1).all()
    assert (together[5:200] == 0).all()
    assert (together[200:] == 1).all()


def test_angles_count_as_arcs_at_their_axes():
    """0.1° of β, between a = 40 Å and c = 90 Å: √(40·90) = 60 Å away that is 0.105 Å."""
    table = np.array([[40.0, 70, 90, 90, 100.0, 90], [40.0, 70, 90, 90, 100.1, 90]])
    first, second = cells.in_angstrom(table, ("a", "beta"))
    np.testing.assert_allclose(second - first, [0.0, np.deg2rad(0.1) * 60.0], atol=1e-12)


def test_triclinic_angles_about_a_right_angle_do_not_wrap():
    """Angles of 90.4, 89.5 and 90.6° in any of the four settings that are about as near to right
    angles are one population, around the true cell.
    """
    rng = np.random.default_rng(6)
    mean = np.array([50.0, 60.0, 70.0, 90.4, 89.5, 90.6])
    turns = [np.diag(signs) for signs in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))]
    lattices = [
        settings.in_setting(
            unit_cell.radians(mean + 0.02 * rng.standard_normal(6)), turns[rng.choice(4, p=SHARES)]
        )
        for _ in range(200)
    ]
    brought = settings.common(np.array(lattices), "P 1")
    table = unit_cell.degrees(
        [settings.in_setting(*pair) for pair in zip(lattices, brought.changes, strict=True)]
    )
    x = cells.in_angstrom(table, cells.NAMES)
    labels = cells.dbscan(x, cells.suggested_eps(x, 3), 3)

    assert (labels == 0).mean() > 0.97
    np.testing.assert_allclose(table.mean(axis=0), mean, atol=0.01)


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


@pytest.mark.parametrize(
    ("n", "most", "together"), [(0, 8, 4), (7, 8, 4), (8, 8, 4), (1001, 40, 8)]
)
def test_rows_are_thinned_evenly_and_some_stay_together(n, most, together):
    rows = cells.thinned(n, most, together)
    assert len(rows) <= most and (np.diff(rows) > 0).all()
    if n <= most:
        assert rows.tolist() == list(range(n))
    else:
        assert len(rows) > 0.9 * most - together
        firsts = rows[::together]
        assert len(set(np.diff(firsts))) == 1 and rows[-1] > 0.75 * n
        assert all(first + together - 1 in rows for first in firsts)


@pytest.mark.parametrize(
    ("space_group", "names", "location", "cell"),
    [
        ("P 1", cells.NAMES, [28, 31, 34, 81, 95, 102], [28, 31, 34, 81, 95, 102]),
        ("C 1 2 1", ["a", "b", "c", "beta"], [67, 60, 47, 110], [67, 60, 47, 90, 110, 90]),
        ("P 21 21 21", ["a", "b", "c"], [117, 223, 309], [117, 223, 309, 90, 90, 90]),
        ("P 43 21 2", ["a", "c"], [40, 70], [40, 40, 70, 90, 90, 90]),
        ("P 43 21 2", ["a", "b", "c"], [40, 40.1, 70], [40, 40.1, 70, 90, 90, 90]),
        ("P 65 2 2", ["c", "b"], [130, 93], [93, 93, 130, 90, 90, 120]),
        ("R 3 :H", ["a", "c"], [60, 80], [60, 60, 80, 90, 90, 120]),
        ("R 3 :R", ["a", "alpha"], [50, 70], [50, 50, 50, 70, 70, 70]),
        ("P 21 3", ["a"], [78], [78, 78, 78, 90, 90, 90]),
    ],
)
def test_features_make_a_cell_by_symmetry(space_group, names, location, cell):
    completed = cells.completed(names, np.array(location, float), space_group)
    np.testing.assert_allclose(completed, cell, atol=1e-9)


@pytest.mark.parametrize(
    ("space_group", "names", "missing"),
    [("C 1 2 1", ["a", "b", "c"], "beta"), ("P 43 21 2", ["a"], "c"), ("P 1", ["a", "b"], "c")],
)
def test_features_that_leave_a_parameter_free_make_no_cell(space_group, names, missing):
    with pytest.raises(ValueError, match=f"says {missing}"):
        cells.completed(names, np.full(len(names), 50.0), space_group)
