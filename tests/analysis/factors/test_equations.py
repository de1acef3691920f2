"""Equations of intensities against full matrices of everything, scatter and lattices included."""

import numpy as np
import pytest

from planted import DIRECTION, full, lattices
from spreadflow.analysis.factors import equations, scatter, shared, sigmas, solution
from spreadflow.analysis.factors.solution import Marginal, Restraint, VolumePrior
from spreadflow.analysis.scoring import better

SPREAD = 0.1


def add(array):
    return array


def marginal_of(planted, spread=SPREAD, relative=0.05, restraint=None):
    about = planted.batch.intensity
    expanded = np.ones(len(planted.intensity))
    expanded[planted.batch.unique] = about
    of_scatter = relative * expanded + 1e-9
    eq = equations.equations(planted.batch, expanded, of_scatter)
    return Marginal(eq, VolumePrior(DIRECTION, 0.0, spread), add, restraint), of_scatter


def eliminated(planted, spread, of_scatter):
    """M, its right-hand side, and the whole solution, from full matrices."""
    A, b = full(planted, spread, of_scatter)
    n = len(planted.intensity)
    others = np.linalg.solve(A[n:, n:], np.column_stack([A[n:, :n], b[n:]]))
    M = A[:n, :n] - A[:n, n:] @ others[:, :-1]
    return M, b[:n] - A[:n, n:] @ others[:, -1], np.linalg.solve(A, b)


def test_intensities_and_lattices_are_those_of_full_matrices():
    planted = lattices()
    marginal, of_scatter = marginal_of(planted)
    M, right, everything = eliminated(planted, SPREAD, of_scatter)
    n = len(right)
    np.testing.assert_allclose([marginal(unit) for unit in np.eye(n)], M, atol=1e-9 * M.max())
    np.testing.assert_allclose(marginal.slope(), right, rtol=1e-8)
    np.testing.assert_allclose(marginal.information(), np.diag(M), rtol=1e-9)
    change, n_iterations = marginal.solved(marginal.slope())
    np.testing.assert_allclose(change, everything[:n], rtol=1e-6, atol=1e-6)
    assert n_iterations <= 2 * n
    of_lattices = everything[n : n + planted.batch.score.size].reshape(planted.batch.score.shape)
    np.testing.assert_allclose(marginal.unknowns(change), of_lattices, rtol=1e-5, atol=1e-7)


def test_loss_is_that_of_the_best_lattices_and_scatter():
    planted = lattices()
    marginal, of_scatter = marginal_of(planted)
    A, b = full(planted, SPREAD, of_scatter)
    n = len(planted.intensity)
    y = 0.03 * planted.intensity * np.random.default_rng(1).standard_normal(n)
    rest = np.linalg.solve(A[n:, n:], b[n:] - A[n:, :n] @ y)
    x = np.concatenate([y, rest])
    expected = planted.batch.loss.sum() - b @ x + 0.5 * x @ A @ x
    point = marginal.equations.intensity + y
    assert solution.loss(marginal, point) == pytest.approx(expected, rel=1e-9)


def test_batches_and_halves_add_up():
    planted = lattices()
    whole, of_scatter = marginal_of(planted)
    about = whole.equations.intensity
    is_first = np.arange(len(planted.batch.loss)) % 3 == 0
    parts = [
        equations.equations(equations.chosen(planted.batch, which), about, of_scatter)
        for which in (is_first, ~is_first)
    ]
    both = equations.joined(parts)
    np.testing.assert_allclose(both.slope, whole.equations.slope, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(both.n_seen, whole.equations.n_seen)
    np.testing.assert_allclose(
        both.normal.toarray(), whole.equations.normal.toarray(), rtol=1e-9, atol=1e-15
    )
    again = Marginal(both, whole_prior(), add)
    np.testing.assert_allclose(again.slope(), whole.slope(), rtol=1e-8, atol=1e-10)
    nothing = equations.equations(equations.no_lattices(3), about, of_scatter)
    assert len(equations.joined([*parts, nothing]).loss) == len(planted.batch.loss)


def whole_prior():
    return VolumePrior(DIRECTION, 0.0, SPREAD)


def test_restraints_hold_intensities():
    planted = lattices()
    n = len(planted.intensity)
    target = 1.1 * planted.intensity
    tight = Restraint(target, np.full(n, 1e12))
    marginal, _ = marginal_of(planted, restraint=tight)
    change, _ = marginal.solved(marginal.slope())
    is_seen = marginal.is_seen
    held = (marginal.equations.intensity + change)[is_seen]
    np.testing.assert_allclose(held, target[is_seen], rtol=1e-6)


def test_sigma_is_the_diagonal_of_the_inverse_without_the_common_scale():
    planted = lattices(40, 60, 20, seed=3)
    marginal, of_scatter = marginal_of(planted)
    M, *_ = eliminated(planted, SPREAD, of_scatter)
    intensity = planted.intensity
    weight = marginal.diagonal * intensity
    hold = 1e6 * np.outer(weight, weight) / (weight @ intensity)
    exact = np.sqrt(np.diag(np.linalg.inv(M + hold)))
    of_lattices = equations.parabolas(planted.batch, marginal.equations.intensity, of_scatter)
    precision = np.outer(DIRECTION, DIRECTION) / SPREAD**2
    errors = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        slopes = sigmas.draws(
            planted.batch, of_lattices, marginal.held, precision, rng, len(intensity)
        )
        errors.append(sigmas.sigmas(marginal, slopes, intensity) / exact - 1.0)
    assert np.std(errors) < 0.06
    assert abs(np.mean(errors)) < 0.03


def test_slopes_that_are_drawn_have_the_covariance_of_the_matrix():
    planted = lattices(6, 8, 5, seed=5)
    marginal, of_scatter = marginal_of(planted)
    M, *_ = eliminated(planted, SPREAD, of_scatter)
    of_lattices = equations.parabolas(planted.batch, marginal.equations.intensity, of_scatter)
    precision = np.outer(DIRECTION, DIRECTION) / SPREAD**2
    rng = np.random.default_rng(0)
    slopes = np.concatenate(
        [
            sigmas.draws(planted.batch, of_lattices, marginal.held, precision, rng, len(M))
            for _ in range(200)
        ]
    )
    size = np.sqrt(np.diag(M))
    np.testing.assert_allclose(
        np.cov(slopes.T) / np.outer(size, size), M / np.outer(size, size), atol=0.06
    )


def test_spread_of_volumes_is_found():
    for spread in (0.05, 0.4):
        planted = lattices(200, 60, 20, seed=7, spread=spread)
        expanded = np.ones(60)
        expanded[planted.batch.unique] = planted.batch.intensity
        eq = equations.equations(planted.batch, expanded, np.full(60, 1e-6))
        found = solution.solve(eq, DIRECTION, add, n_rounds=20)
        assert found.prior.spread == pytest.approx(spread, rel=0.15)
        scale = (found.intensity @ planted.intensity) / (planted.intensity @ planted.intensity)
        np.testing.assert_allclose(found.intensity / scale, planted.intensity, rtol=0.06)


@pytest.mark.parametrize("relative", [0.0, 0.08, 0.2])
def test_scatter_among_lattices_is_found(relative):
    planted = lattices(120, 60, 20, seed=11, spread=0.05, scatter=relative)
    n = len(planted.intensity)
    about = np.ones(n)
    about[planted.batch.unique] = planted.batch.intensity
    fraction = 0.02
    for _ in range(8):
        of_scatter = np.hypot(fraction, 1e-4) * about
        eq = equations.equations(planted.batch, about, of_scatter)
        solved = solution.solve(eq, DIRECTION, add)
        of_lattices = equations.parabolas(planted.batch, about, of_scatter)
        found = scatter.evidence(planted.batch, of_lattices, solved, about, eq.normal.diagonal())
        fraction = better(fraction, found)
    assert fraction == pytest.approx(relative, abs=0.02)


LAST = np.array([False, False, True])
"""The last unknown of a lattice is the one that is shared."""


def test_held_unknowns_are_those_of_full_matrices():
    """−ln L of the lattices where their last unknown has a value, the others where they suit
    best.
    """
    planted = lattices()
    whole, of_scatter = marginal_of(planted)
    about = whole.equations.intensity
    value = np.array([0.02])
    batch = equations.held(planted.batch, LAST, value)
    eq = equations.equations(batch, about, of_scatter)
    held = Marginal(eq, VolumePrior(DIRECTION[:2], 0.0, SPREAD), add)
    A, b = full(planted, SPREAD, of_scatter)
    n = len(planted.intensity)
    n_lattices = len(planted.batch.loss)
    is_held = np.zeros(len(b), dtype=bool)
    is_held[n + 2 : n + 3 * n_lattices : 3] = True
    is_free = ~is_held
    is_free[:n] = False
    x = np.zeros(len(b))
    x[is_held] = value
    x[is_free] = np.linalg.solve(A[np.ix_(is_free, is_free)], (b - A @ x)[is_free])
    expected = planted.batch.loss.sum() - b @ x + 0.5 * x @ A @ x
    assert solution.loss(held, about) == pytest.approx(expected, rel=1e-9)


def test_shapes_say_nothing_once_they_are_left_out():
    """What an unknown shares with pixels beside intensities: neither slope nor information."""
    planted = lattices()
    free = equations.without_shapes(planted.batch, LAST)
    shape = planted.batch._replace(
        score=planted.batch.score + np.array([0.0, 0.0, 40.0]),
        nuisance=planted.batch.nuisance + np.diag([0.0, 0.0, 9.0]),
    )
    again = equations.without_shapes(shape, LAST)
    np.testing.assert_allclose(again.score, free.score)
    np.testing.assert_allclose(again.nuisance, free.nuisance)
    assert (np.linalg.eigvalsh(free.nuisance) > -1e-6).all()
    np.testing.assert_array_equal(free.nuisance[:, :2, :2], planted.batch.nuisance[:, :2, :2])
    nothing = np.zeros(3, dtype=bool)
    same = equations.without_shapes(planted.batch, nothing)
    np.testing.assert_array_equal(same.score, planted.batch.score)


@pytest.mark.parametrize("common", [-0.05, 0.0, 0.03])
def test_a_common_factor_is_found_from_intensities_that_agree(common):
    """Whatever the shapes say: they are told that it is 0.3."""
    planted = lattices(150, 60, 20, seed=13, spread=0.05, common=common, scatter=0.03)
    wrong = 0.3 * planted.batch.nuisance[:, :, 2]
    batch = planted.batch._replace(score=planted.batch.score + wrong * LAST)
    about = np.ones(60)
    about[batch.unique] = batch.intensity
    of_scatter = 0.03 * about
    free = equations.without_shapes(batch, LAST)
    value = np.zeros(1)
    for _ in range(2):
        eq = equations.equations(equations.held(free, LAST, value), about, of_scatter)
        solved = solution.solve(eq, DIRECTION[:2], add)
        marginal = Marginal(eq, solved.prior, add)
        of_lattices = equations.parabolas(free, about, of_scatter)
        sums = shared.shared_sums(
            free,
            of_lattices,
            LAST,
            value,
            marginal.held,
            solved.unknowns,
            solved.intensity - about,
        )
        value = value + shared.shared_step(marginal, shared.added(sums, add), 1e-6)
    assert value[0] == pytest.approx(common, abs=0.004)
