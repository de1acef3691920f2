"""Scores of reflections, X integrated out: an X that is not at rest does not change them."""

import numpy as np

import drawn
from spreadflow.analysis.curves import objective, refinement
from spreadflow.analysis.curves.curvature import curvature
from spreadflow.analysis.curves.refinement import How, Priors, Start
from spreadflow.analysis.curves.rest import prior


def test_an_x_that_is_not_at_rest_leaves_the_curves_where_they_were(wrong, few):
    """Where curves and X rest, scores of all reflections and restraints cancel. With X moved away
    they still do, but for what Gauss and Newton leave out; with the slopes at X as it is they do
    not.
    """
    grams, pulses = few
    sums = drawn.sums(wrong.crystal, grams[:6], pulses[:6], "complex")
    problem = drawn.problem(sums, wrong.crystal.p)
    rest = problem.rest
    p = problem.p
    priors = Priors(np.full(rest.n_shells, 64.0))
    start = Start(np.zeros(len(p.names)), np.zeros((rest.n, 2)), priors)
    at_rest = refinement.refine(problem, start, How(learns_priors=False, n_alone=2))
    point = at_rest.point
    known = prior(rest, at_rest.priors.variance)
    rng = np.random.default_rng(5)
    sigma = np.sqrt(point.covariance[:, [0, 2]])
    moved = np.where(rest.is_unknown, 0.1 * sigma * rng.standard_normal((rest.n, 2)), 0.0)
    restraints = p.rows.T @ (p.precision * (p.rows @ point.theta - p.target))

    def left(x, is_following):
        """The sum of all slopes, in σ of the curves."""
        there = objective.point(problem, point.theta, x, known)
        matrix = curvature(problem, there, known)
        without_x = refinement.without_x(matrix)
        follow = without_x.follow if is_following else np.zeros_like(without_x.follow)
        total = objective.scores(problem, there, follow).sum(axis=0) + restraints
        covariance = np.linalg.inv(without_x.information + p.restraints)
        return np.sqrt(total @ covariance @ total)

    assert left(point.x, True) < 0.2
    assert left(point.x + moved, True) < 0.02 * left(point.x + moved, False)
