"""X of the unique reflections: its prior, and what the data make of it."""

import numpy as np
import pytest

import drawn
from spreadflow.analysis.curves import rest as rests
from spreadflow.physics import symmetry


@pytest.fixture(scope="module")
def rest(wrong, few):
    return drawn.sums(wrong.crystal, *few, "complex").rest


def in_shells(rest, n_shells):
    """The same reflections in so many shells."""
    return rest._replace(shell=np.arange(rest.n) * n_shells // rest.n)


def test_prior_of_acentric_and_centric_reflections(rest):
    """S is the mean |X − X_model|², of centrics in a alone; twice as large on an axis."""
    prior = rests.prior(rest, np.array([64.0]))
    operations = symmetry.group("P 21 21 21").operations()
    epsilon = np.asarray(operations.epsilon_factor_array(rest.hkl), dtype=float)
    np.testing.assert_allclose(prior.variance, 64.0 * epsilon)
    assert set(epsilon) == {1.0, 2.0}
    mean_square = np.where(rest.is_unknown, 1.0 / prior.precision, 0.0).sum(axis=1)
    np.testing.assert_allclose(mean_square, prior.variance)


def test_real_x_has_a_prior_relative_to_itself(wrong, few):
    rest = drawn.sums(wrong.crystal, *few, "real").rest
    prior = rests.prior(rest, np.array([0.01]))
    sigma = 1.0 / np.sqrt(prior.precision[:, 0])
    np.testing.assert_allclose(sigma, 0.1 * np.abs(rest.model), rtol=1e-6)


@pytest.mark.parametrize("n_shells", [1, 3])
def test_variance_rests_where_expectation_maximisation_does(rest, n_shells):
    """S = mean of a² + b² + tr C over the reflections that were seen, those with less freedom or
    more weight counted as what they are.
    """
    rest = in_shells(rest, n_shells)
    rng = np.random.default_rng(5)
    planted = np.linspace(5.0, 12.0, n_shells) ** 2
    prior = rests.prior(rest, planted)
    information = rng.lognormal(-3.0, 2.0, (rest.n, 2))
    is_seen = rng.uniform(size=rest.n) < 0.8
    noise = rng.standard_normal((rest.n, 2)) / np.sqrt(information)
    x_true = rng.standard_normal((rest.n, 2)) / np.sqrt(prior.precision)
    x = information / (information + prior.precision) * (x_true + noise)
    variance = 3.0 * planted
    n_steps = 0
    while True:
        prior = rests.prior(rest, variance)
        C = 1.0 / (information + prior.precision)
        covariance = np.column_stack([C[:, 0], np.zeros(rest.n), C[:, 1]])
        new = rests.next_variance(rest, x, covariance, prior, is_seen)
        if np.abs(np.log(new / variance)).max() < 1e-12:
            break
        variance = new
        n_steps += 1
        assert n_steps < 300

    n_unknown = rest.is_unknown.sum(axis=1, keepdims=True)
    counts = rest.is_unknown & is_seen[:, None]
    of_each = np.where(counts, n_unknown * (x**2 + C) / rest.weight[:, None], 0.0).sum(axis=1)
    for shell in range(n_shells):
        own = rest.shell == shell
        expected = of_each[own].sum() / counts[own].sum()
        assert variance[shell] == pytest.approx(expected, rel=1e-9)
    assert np.abs(np.log(variance / planted)).max() < 0.6


def test_variance_changes_no_more_than_twofold_and_neither_vanishes_nor_swallows_the_model(rest):
    """Where nothing was seen it stays."""
    x = np.zeros((rest.n, 2))
    prior = rests.prior(rest, np.array([64.0]))
    covariance = 0.5 / prior.precision[:, [0, 0, 1]] * [1.0, 0.0, 1.0]
    seen = np.ones(rest.n, dtype=bool)
    assert rests.next_variance(rest, x, covariance, prior, seen) == pytest.approx([32.0])
    assert rests.next_variance(rest, x + 1e3, covariance, prior, seen) == pytest.approx([128.0])
    assert rests.next_variance(rest, x, covariance, prior, ~seen) == pytest.approx([64.0])
    mean_square = np.mean(np.abs(rest.model) ** 2 / rest.weight)
    smallest = 1e-4 * mean_square
    largest = 0.25 * mean_square
    wide = rests.prior(rest, np.array([0.9 * largest]))
    assert rests.next_variance(rest, x + 1e3, covariance, wide, seen) == pytest.approx([largest])
    tiny = rests.prior(rest, np.array([smallest]))
    assert rests.next_variance(rest, x, covariance, tiny, seen) == pytest.approx([smallest])


def test_the_first_variance_is_a_share_of_the_model(rest):
    (variance,) = rests.first_variance(rest)
    mean_square = np.mean(np.abs(rest.model) ** 2 / rest.weight)
    assert variance == pytest.approx(0.15**2 * mean_square)


def test_shells_go_from_low_to_high_resolution(wrong):
    factors = wrong.crystal.factors
    hkl = np.repeat(wrong.hkl, 4, axis=0)
    light = np.ones(12)
    rest = rests.rest(factors, hkl, wrong.crystal.cell, "P 21 21 21", light, "complex")
    assert rest.n_shells == len(hkl) // rests.PER_SHELL == 2
    assert np.bincount(rest.shell).min() >= rests.PER_SHELL
    assert rest.d[rest.shell == 0].min() >= rest.d[rest.shell == 1].max()
    means = rest.by_shell(rest.d, np.ones(rest.n, dtype=bool))
    np.testing.assert_allclose(means, [rest.d[rest.shell == k].mean() for k in (0, 1)])


def test_where_asking_again_and_again_ends_is_anticipated(rest):
    """In each shell by itself, from the second asking on."""
    rest = rest._replace(shell=np.arange(rest.n) % 3)
    start = rests.first_variance(rest)
    ends = start * [1.5, 0.6, 1.0]
    shares = np.array([0.7, 0.4, 0.5])

    def asked(variance):
        return rests.Asked(variance, ends * (variance / ends) ** shares)

    first = asked(start)
    np.testing.assert_array_equal(rests.anticipated(rest, first, None), first.next_variance)
    second = asked(first.next_variance)
    np.testing.assert_allclose(rests.anticipated(rest, second, first), ends, rtol=1e-9)


def test_no_more_than_a_fivefold_change_is_anticipated_nor_one_beyond_what_is_believed(rest):
    """S that falls by the same share each time, as where the model is right, has no end to be
    anticipated.
    """
    start = rests.first_variance(rest)
    before = rests.Asked(start, 0.9 * start)
    now = rests.Asked(0.9 * start, 0.9**2 * start)
    np.testing.assert_allclose(rests.anticipated(rest, now, before), 0.9**6 * start)

    before = rests.Asked(start, 0.6 * start)
    now = rests.Asked(0.6 * start, 0.36 * start)
    halved = 0.6 / rests.MAX_FACTOR * start
    np.testing.assert_allclose(rests.anticipated(rest, now, before), halved)

    tiny = rests.first_variance(rest, rests.SMALLEST_SHARE)
    before = rests.Asked(2.0 * tiny, 1.5 * tiny)
    now = rests.Asked(1.2 * tiny, 0.9 * tiny)
    np.testing.assert_allclose(rests.anticipated(rest, now, before), tiny)
