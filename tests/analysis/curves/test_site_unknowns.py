"""Place and B of sites refined with curves and X: what was planted is found."""

import numpy as np
import pytest

import drawn
from spreadflow.analysis.curves import controls, dispersion, objective
from spreadflow.analysis.curves import rest as rests
from spreadflow.analysis.curves.controls import Trial
from spreadflow.recipes.gram import with_curves, with_rest

PLANTED = np.array([[0.12, -0.05, 0.03, 8.0], [-0.06, 0.1, -0.08, -5.0]])
"""Shift, Å, and change of B, Å², of each site."""

N_CYCLES = 3
"""Cycles of lattices that are expanded anew; the first one is far off."""


def planted(wrong) -> drawn.Drawn:
    """The crystal whose sites are elsewhere in nature, and have another B."""
    _, groups = drawn.moved_sites(wrong.crystal, PLANTED)
    return wrong.crystal._replace(groups=groups)


def refined(crystal, n, seed, sigma):
    """Curves, X and sites after cycles of lattices, with the parametrisation and the last sums."""
    values = np.zeros_like(PLANTED)
    about = None
    before = None
    for cycle in range(N_CYCLES):
        sites, groups = drawn.moved_sites(crystal, values, sigma)
        here = crystal._replace(factors=crystal.factors._replace(groups=groups))
        p = dispersion.with_sites(crystal.p, sites.names, sites.sigma)
        grams, pulses = crystal.lattices(n, seed, about=about)
        sums = drawn.sums(here, grams, pulses, "complex", cycle == 0, sites)
        start = np.zeros(len(p.names)) if before is None else before.theta
        before = sums.refine(p, Trial(start), None if before is None else before.rest)
        values = before.theta[-PLANTED.size :].reshape(PLANTED.shape)
        _, groups = drawn.moved_sites(crystal, values)
        moved = crystal.factors._replace(groups=groups)
        about = with_curves(moved, p.curves(before.theta))
        about = with_rest(about, before.rest, crystal.space_group)
    return p, before, sums


@pytest.mark.stage
def test_shift_and_b_of_sites_are_found_with_x_unknown(wrong):
    """Within 3 σ, and far from the model; so are the curves."""
    crystal = planted(wrong)
    p, fit, _ = refined(crystal, 60, 3, (0.3, 0.3, 0.3, 10.0))
    assert fit.rest.has_converged
    n = PLANTED.size
    found = fit.theta[-n:]
    sigma = np.sqrt(np.diag(fit.fisher))[-n:]
    assert np.abs((found - PLANTED.ravel()) / sigma).max() < 3.0
    of_places = np.arange(n) % 4 < 3
    assert sigma[of_places].max() < 0.05 and sigma[~of_places].max() < 3.5
    assert np.abs(found / sigma).max() > 5.0
    true = np.append(crystal.theta, PLANTED)
    pulls = p.at_nodes @ (fit.theta - true) / p.sigma(fit.fisher).ravel()
    assert 0.6 < np.sqrt(np.mean(pulls**2)) < 1.4


def test_gradient_by_sites_is_that_of_differences(wrong, few):
    """Away from the origin, where g is taken."""
    crystal = planted(wrong)
    sites, groups = drawn.moved_sites(crystal, 0.5 * PLANTED)
    here = crystal._replace(factors=crystal.factors._replace(groups=groups))
    p = dispersion.with_sites(crystal.p, sites.names, sites.sigma)
    problem = drawn.problem(drawn.sums(here, *few, "complex", sites=sites), p)
    prior = rests.prior(problem.rest, np.array([64.0]))
    rng = np.random.default_rng(1)
    theta = np.append(0.1 * rng.standard_normal(len(crystal.theta)), 0.7 * PLANTED)
    x = np.where(problem.rest.is_unknown, 4.0 * rng.standard_normal((problem.rest.n, 2)), 0.0)
    point = objective.point(problem, theta, x, prior)
    for number in range(len(theta) - PLANTED.size, len(theta)):
        step = 1e-4 * np.eye(len(theta))[number]
        ends = [
            objective.point(problem, theta + sign * step, x, prior, point.held).value
            for sign in (1, -1)
        ]
        slope = (ends[0] - ends[1]) / 2e-4
        assert point.by_theta[number] == pytest.approx(slope, rel=1e-5, abs=1e-3)


def test_nearest_curves_keep_the_sites_where_they_are(wrong):
    sites, _ = drawn.moved_sites(wrong.crystal, PLANTED)
    p = dispersion.with_sites(wrong.crystal.p, sites.names, sites.sigma)
    theta = np.append(wrong.crystal.theta, PLANTED)
    swapped = p.curves(theta)[::-1]
    there = controls.nearest(p, swapped, theta)
    np.testing.assert_array_equal(there[-PLANTED.size :], PLANTED.ravel())
    np.testing.assert_allclose(p.curves(there), swapped, atol=1e-9)
    assert not controls.nearest(p, swapped)[-PLANTED.size :].any()
    own = wrong.crystal.p
    np.testing.assert_array_equal(
        controls.nearest(own, swapped, wrong.crystal.theta), there[: -PLANTED.size]
    )
