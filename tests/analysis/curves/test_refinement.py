"""Curves and X refined together: what was planted is found, whatever the start and the gauge."""

import numpy as np
import pytest

import drawn
from spreadflow.analysis.curves import controls, objective, refinement
from spreadflow.analysis.curves import rest as rests
from spreadflow.analysis.curves.controls import Trial
from spreadflow.analysis.curves.curvature import curvature
from spreadflow.analysis.curves.refinement import How, Priors, Start
from spreadflow.physics import miller
from spreadflow.recipes.gram import with_curves, with_rest

N = 60
"""Lattices of a set."""

N_SETS = 10
"""Sets that are drawn to see how errors scatter."""


def refined(crystal, n, seed, kind="complex", n_cycles=2):
    """Curves after cycles of lattices that are expanded about F of the cycle before, and the
    lattices of the last one.
    """
    about = None
    before = None
    for cycle in range(n_cycles):
        grams, pulses = crystal.lattices(n, seed, about=about)
        sums = drawn.sums(crystal, grams, pulses, kind, is_held=cycle == 0)
        start = np.zeros(len(crystal.p.names)) if before is None else before.theta
        before = sums.refine(crystal.p, Trial(start), None if before is None else before.rest)
        about = with_curves(crystal.factors, crystal.p.curves(before.theta))
        about = with_rest(about, before.rest, crystal.space_group)
    return before, sums


@pytest.fixture(scope="module")
def found(wrong):
    """Curves and X of 60 lattices whose model is wrong."""
    return refined(wrong.crystal, N, 3)


def pulls(crystal, fit, covariance=None):
    """(value at a node,) errors of curves over their σ."""
    sigma = crystal.p.sigma(fit.fisher if covariance is None else covariance)
    return crystal.p.at_nodes @ (fit.theta - crystal.theta) / sigma.ravel()


def test_curves_of_a_wrong_model_are_found_within_their_errors(wrong, found):
    """With X of the model they are 20 σ off; X is nearer to that of nature, by as much as it
    should.
    """
    fit, _ = found
    assert fit.rest.has_converged
    assert 0.6 < np.sqrt(np.mean(pulls(wrong.crystal, fit) ** 2)) < 1.4
    assert np.abs(pulls(wrong.crystal, fit)).max() < 3.5
    alone, _ = refined(wrong.crystal, N, 3, "none")
    assert np.sqrt(np.mean(pulls(wrong.crystal, alone) ** 2)) > 8.0
    assert np.median(wrong.crystal.p.sigma(fit.fisher)) < 0.4

    assert np.sqrt(fit.rest.variance) == pytest.approx([8.0], rel=0.2)
    row = miller.rows(wrong.hkl, fit.rest.hkl)
    is_unknown = np.isfinite(fit.rest.sigma)
    off = np.where(is_unknown, fit.rest.x - wrong.x[row], 0.0)
    assert np.sum(off**2) < 0.5 * np.sum(wrong.x[row] ** 2)
    assert abs(fit.rest.log_scale) < 0.05
    assert fit.rest.largest_share == pytest.approx(8.0 / 38.0, rel=0.25)


@pytest.mark.stage
def test_errors_over_many_sets_are_as_large_as_their_sigma():
    """Curves have no bias, nor have their means, where the common scale and the constants of f′
    would show; √S is that of nature.
    """
    crystal = drawn.orthorhombic()
    p = crystal.p
    mean = np.kron(np.eye(4), np.full((1, len(p.nodes_ev)), 1.0 / len(p.nodes_ev))) @ p.at_nodes
    by_fisher = []
    by_scatter = []
    of_means = []
    widths = []
    for seed in range(N_SETS):
        of_set = drawn.wrong(crystal, 8.0, seed).crystal
        fit, _ = refined(of_set, N, seed + 3)
        assert fit.rest.has_converged
        by_fisher.append(pulls(of_set, fit))
        by_scatter.append(pulls(of_set, fit, fit.covariance(fit.scatter)))
        sigma = np.sqrt(np.diag(mean @ fit.fisher @ mean.T))
        of_means.append(mean @ (fit.theta - of_set.theta) / sigma)
        widths.append(np.sqrt(fit.rest.variance[0]))
    assert np.sqrt(np.mean(np.square(by_fisher))) == pytest.approx(1.0, abs=0.2)
    assert np.sqrt(np.mean(np.square(by_scatter))) == pytest.approx(1.0, abs=0.2)
    assert np.sqrt(np.mean(np.square(of_means))) == pytest.approx(1.0, abs=0.3)
    assert np.abs(np.mean(of_means, axis=0)).max() < 3.0 / np.sqrt(N_SETS)
    assert np.mean(widths) == pytest.approx(8.0, abs=0.4)


def test_any_start_ends_at_the_same_curves(wrong, found):
    """Metallic and swapped curves, X of the model, S as it was found: within what ends a
    refinement.
    """
    fit, sums = found
    p = wrong.crystal.p
    sigma = p.sigma(fit.fisher).ravel()
    swapped = controls.nearest(p, p.curves(fit.theta)[::-1])
    for start in (np.zeros(len(p.names)), swapped):
        again = sums.again(p, Trial(start), fit)
        assert again.rest.has_converged
        assert np.abs(p.at_nodes @ (again.theta - fit.theta) / sigma).max() < 0.05
        assert again.value == pytest.approx(fit.value, abs=0.05)
        assert again.rest.variance == pytest.approx(fit.rest.variance)


def in_other_units(crystal, grams, share):
    """X of the model, g and f0 of `share` times the size, and lattices of share⁻² times the
    scale.
    """
    factors = crystal.factors
    smaller = factors._replace(rest=share * factors.rest, groups=share * factors.groups)
    brighter = [
        gram._replace(
            intensity=share**2 * gram.intensity,
            slope=gram.slope / share**2,
            cross=gram.cross / share**2,
            normal=(gram.normal.astype(float) / share**4).astype(np.float32),
        )
        for gram in grams
    ]
    return crystal._replace(factors=smaller), brighter


@pytest.mark.parametrize("is_held", [True, False])
def test_curves_do_not_depend_on_the_scale_of_f(wrong, few, is_held):
    """A change of units: Φ is another by a constant, and S follows."""
    p = wrong.crystal.p
    share = 0.9
    of_both = []
    for own, grams, factor in (
        (wrong.crystal, few[0], 1.0),
        (*in_other_units(wrong.crystal, few[0], share), share),
    ):
        problem = drawn.problem(drawn.sums(own, grams, few[1], "complex", is_held), p)
        variance = rests.first_variance(problem.rest)
        prior = rests.prior(problem.rest, variance)
        points = []
        for seed in range(2):
            rng = np.random.default_rng(seed)
            x = np.where(problem.rest.is_unknown, rng.standard_normal((problem.rest.n, 2)), 0.0)
            theta = 0.1 * rng.standard_normal(len(p.names))
            points.append(objective.point(problem, theta, 5.0 * factor * x, prior))
        one, other = points
        matrix = curvature(problem, one, prior)
        of_both.append(
            [
                one.value - other.value,
                one.by_theta,
                factor * one.by_x,
                refinement.without_x(matrix).information,
                rests.next_variance(problem.rest, one.x, one.covariance, prior, one.is_seen)
                / variance,
                one.log_scale - other.log_scale,
            ]
        )
    for ours, theirs in zip(*of_both, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6 * np.abs(theirs).max())


@pytest.mark.stage
def test_curves_are_refined_to_the_same_whatever_the_scale_of_f(wrong, monkeypatch):
    """Until nothing moves any more, as rounding leads along other paths."""
    monkeypatch.setattr(refinement, "SMALLEST_FALL", 1e-14)
    monkeypatch.setattr(refinement, "STEP_TOLERANCE", 1e-9)
    crystal = wrong.crystal
    grams, pulses = crystal.lattices(30, 4)
    start = Trial(np.zeros(len(crystal.p.names)), max_steps=150)
    one, other = (
        drawn.sums(own, of_lattices, pulses, "complex", is_held=True).refine(crystal.p, start)
        for own, of_lattices in ((crystal, grams), in_other_units(crystal, grams, 0.9))
    )
    np.testing.assert_allclose(other.theta, one.theta, rtol=0, atol=1e-5)
    np.testing.assert_allclose(other.rest.variance, 0.81 * one.rest.variance, rtol=1e-5)
    np.testing.assert_allclose(other.fisher, one.fisher, atol=1e-5 * np.abs(one.fisher).max())


def test_information_without_x_is_that_of_full_matrices(wrong, few):
    """The Schur complement: what is left of curves where X follows them."""
    of_lattices = drawn.problem(drawn.sums(wrong.crystal, *few, "complex"), wrong.crystal.p)
    rest = of_lattices.rest
    prior = rests.prior(rest, np.array([64.0]))
    theta = np.zeros(len(of_lattices.p.names))
    here = objective.point(of_lattices, theta, np.zeros((rest.n, 2)), prior)
    matrix = curvature(of_lattices, here, prior)
    of_x = matrix.of_x(np.eye(2 * rest.n))
    expected = matrix.curves - matrix.mixed.T @ np.linalg.solve(of_x, matrix.mixed)
    without = refinement.without_x(matrix)
    off = without.information - expected
    np.testing.assert_allclose(off, 0.0, atol=1e-5 * np.abs(expected).max())
    root = np.linalg.cholesky(expected + of_lattices.p.restraints)
    of_sigma = np.linalg.eigvalsh(np.linalg.solve(root, np.linalg.solve(root, off).T))
    assert np.abs(of_sigma).max() < 1e-4
    np.testing.assert_allclose(
        of_x @ without.follow, matrix.mixed, atol=1e-4 * np.abs(matrix.mixed).max()
    )
    held = np.linalg.eigvalsh(np.linalg.solve(root, np.linalg.solve(root, matrix.curves).T))
    assert held.max() > 3.0, "X costs something"


def test_x_that_is_far_off_comes_to_rest(wrong, few):
    """Some of it at F = 0, where there is no slope; few lattices, S held."""
    of_lattices = drawn.problem(drawn.sums(wrong.crystal, *few, "complex"), wrong.crystal.p)
    rest = of_lattices.rest
    rng = np.random.default_rng(6)
    x = np.where(rest.is_unknown, 15.0 * rng.standard_normal((rest.n, 2)), 0.0)
    x[::5, 0] = -np.abs(rest.model[::5])
    variance = np.array([64.0])
    theta = np.zeros(len(of_lattices.p.names))
    start = objective.point(of_lattices, theta, x, rests.prior(rest, variance))
    how = How(learns_priors=False, max_steps=60)
    at_rest = refinement.refine(of_lattices, Start(theta, x, Priors(variance)), how)
    assert at_rest.has_converged
    assert at_rest.point.value < start.value - 1e4
    slopes = np.abs(at_rest.point.by_x) * np.sqrt(at_rest.point.covariance[:, [0, 2]])
    assert slopes.max() < 0.1
    np.testing.assert_array_equal(at_rest.priors.variance, variance)


@pytest.mark.parametrize("kind", ["complex", "real"])
def test_reflections_near_zero_come_to_rest(wrong, kind):
    """A model that has next to nothing of every sixth reflection: no parabola about it is good for
    more than a part of its step.
    """
    crystal = wrong.crystal
    asu = wrong.hkl[::6]
    weak = miller.rows(asu, drawn.unique(crystal)) >= 0
    rest = np.where(weak, 0.01 * crystal.factors.rest, crystal.factors.rest)
    crystal = crystal._replace(factors=crystal.factors._replace(rest=rest))
    grams, pulses = crystal.lattices(N // 2, 5)
    sums = drawn.sums(crystal, grams, pulses, kind, is_held=True)
    fit = sums.refine(crystal.p, Trial(np.zeros(len(crystal.p.names))))
    assert fit.rest.has_converged
    assert fit.steps[-1] < 0.02


def test_real_x_is_that_of_the_modulus(wrong, few):
    """Without freedom it is the refinement of curves alone; its curves rest where Φ does."""
    crystal = wrong.crystal
    p = crystal.p
    start = Trial(np.zeros(len(p.names)))
    sums = drawn.sums(crystal, *few, "real")
    fit = sums.refine(p, start)
    problem = drawn.problem(sums, p)
    point = objective.point(
        problem, fit.theta, fit.rest.x, rests.prior(sums.rest, np.array([0.01]))
    )
    assert np.abs(p.at_nodes @ (fit.fisher @ point.by_theta)).max() < 0.05
    np.testing.assert_array_equal(fit.rest.x[:, 1], 0.0)
    assert fit.rest.variance == pytest.approx([0.01])

    sums.unknown = sums.unknown._replace(sigma=1e-7)
    held = sums.refine(p, start)
    alone = drawn.sums(crystal, *few, "none").refine(p, start)
    sigma = p.sigma(alone.fisher).ravel()
    assert np.abs(p.at_nodes @ (held.theta - alone.theta) / sigma).max() < 0.05
    np.testing.assert_allclose(np.diag(held.fisher), np.diag(alone.fisher), rtol=5e-3)


def test_only_x_moves_where_curves_are_held(wrong, found):
    fit, sums = found
    again = sums.again(wrong.crystal.p, Trial(fit.theta, moves_curves=False), fit)
    np.testing.assert_array_equal(again.theta, fit.theta)
    assert again.rest.has_converged
    assert again.value == pytest.approx(fit.value, abs=0.05)


@pytest.mark.stage
def test_wrong_input_ends_where_its_rise_is_known(wrong, found):
    """Right input is refined to its end all the same."""
    fit, sums = found
    zero = np.zeros(len(wrong.crystal.p.names))

    def ended(change, right_value):
        trial = Trial(zero, change, needs_sigma=False, right_value=right_value)
        return sums.again(wrong.crystal.p, trial, fit)

    def index(columns, numbers):
        return controls.wrong_index(columns, sums.factors)

    early = ended(index, fit.value)
    late = ended(index, None)
    assert len(early.steps) < len(late.steps)
    assert late.value <= early.value
    assert early.value - fit.value == pytest.approx(late.value - fit.value, rel=0.15)
    assert not early.rest.has_converged
    right = ended(None, fit.value)
    assert right.rest.has_converged
    assert right.value == pytest.approx(fit.value, abs=1.0)


def test_wrong_moduli_no_longer_bias_curves():
    """Phases are the model's, moduli are 2 % off, and known to be."""
    crystal = drawn.orthorhombic()
    rest = crystal.factors.rest
    of_asu, number = np.unique(drawn.unique(crystal), axis=0, return_inverse=True)
    off = 0.02 * np.random.default_rng(5).standard_normal(len(of_asu))
    crystal = crystal._replace(rest=rest * (1.0 + off[number.ravel()]))
    grams, pulses = crystal.lattices(N, 8, about=crystal.nature)
    start = Trial(np.zeros(len(crystal.p.names)))
    alone = drawn.sums(crystal, grams, pulses, "none").refine(crystal.p, start)
    sums = drawn.sums(crystal, grams, pulses, "real")
    sums.unknown = sums.unknown._replace(sigma=0.02)
    both = sums.refine(crystal.p, start)
    assert both.rest.has_converged
    assert np.std(pulls(crystal, alone)) > 2.0
    assert 0.6 < np.std(pulls(crystal, both)) < 1.4


@pytest.mark.stage
def test_sites_that_are_alike_may_be_swapped(wrong):
    """X that has moved is no sign of the sites: their curves are the same in nature."""
    theta = wrong.crystal.theta
    alike = wrong.crystal._replace(theta=np.tile(theta[: len(theta) // 2], 2))
    fit, sums = refined(alike, N, 3)
    p = alike.p
    swapped = controls.nearest(p, p.curves(fit.theta)[::-1])
    worse = sums.again(p, Trial(swapped, moves_curves=False), fit).value - fit.value
    assert 0.0 < worse < controls.WORSE_LABELS * N
