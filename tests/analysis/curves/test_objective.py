"""Φ of curves and X: its gradient by differences, its second derivatives in full matrices, and what
leaves it unchanged.
"""

from itertools import pairwise

import numpy as np
import pytest

import drawn
from spreadflow.analysis.curves import loops, objective
from spreadflow.analysis.curves import rest as rests
from spreadflow.analysis.curves.curvature import curvature
from spreadflow.analysis.curves.expand import NO_SITES, complex_curves

SIGMA_E = 8.0
"""√S, electrons."""


def problem(wrong, few, kind="complex", is_held=False):
    """What curves and X of a few lattices are judged by."""
    sums = drawn.sums(wrong.crystal, *few, kind, is_held)
    return drawn.problem(sums, wrong.crystal.p)


def prior_of(rest, kind="complex"):
    """The prior of X, of √S = 8 e, or of 10 % of |X|."""
    return rests.prior(rest, np.full(rest.n_shells, SIGMA_E**2 if kind == "complex" else 0.01))


def somewhere(of_lattices, seed=1):
    """θ and X that nothing singles out."""
    rng = np.random.default_rng(seed)
    rest = of_lattices.rest
    theta = rng.standard_normal(len(of_lattices.p.names))
    x = np.where(rest.is_unknown, 5.0 * rng.standard_normal((rest.n, 2)), 0.0)
    return theta, x


def slope(function, step):
    """Derivative of a function of one number at 0, from differences of fourth order."""
    near = function(step) - function(-step)
    far = function(2.0 * step) - function(-2.0 * step)
    return (8.0 * near - far) / (12.0 * step)


CASES = [("complex", False), ("complex", True), ("real", False)]


@pytest.mark.parametrize(("kind", "is_held"), CASES)
def test_gradient_is_the_derivative_of_the_objective(wrong, few, kind, is_held):
    """By curves and by a and b, what is held in a step being held."""
    of_lattices = problem(wrong, few, kind, is_held)
    rest = of_lattices.rest
    prior = prior_of(rest, kind)
    theta, x = somewhere(of_lattices)
    here = objective.point(of_lattices, theta, x, prior)

    def value(theta, x):
        return objective.point(of_lattices, theta, x, prior, here.held).value

    rng = np.random.default_rng(2)
    for _ in range(3):
        d_theta = rng.standard_normal(len(theta))
        d_x = np.where(rest.is_unknown, rng.standard_normal(x.shape), 0.0)
        by_theta = slope(lambda t, d=d_theta: value(theta + t * d, x), 3e-3)
        by_x = slope(lambda t, d=d_x: value(theta, x + t * d), 3e-3)
        size_theta = np.abs(here.by_theta) @ np.abs(d_theta)
        size_x = np.sum(np.abs(here.by_x * d_x))
        assert here.by_theta @ d_theta == pytest.approx(by_theta, rel=1e-7, abs=1e-7 * size_theta)
        assert np.sum(here.by_x * d_x) == pytest.approx(by_x, rel=1e-7, abs=1e-7 * size_x)


def test_each_of_its_terms_has_the_gradient_of_what_it_is_worth(wrong, few):
    """Determinants, pulls and arcs are small beside −ln L, and would be lost in its rounding."""
    of_lattices = problem(wrong, few)
    likeliest = of_lattices._replace(is_integrated=False)
    rest = of_lattices.rest
    prior = prior_of(rest)
    theta, x = somewhere(of_lattices)
    rng = np.random.default_rng(3)
    d_theta = rng.standard_normal(len(theta))
    d_x = np.where(rest.is_unknown, rng.standard_normal(x.shape), 0.0)
    here = objective.point(of_lattices, theta, x, prior)
    others = objective.point(likeliest, theta, x, prior)
    no_arc = here.held._replace(arc=np.zeros(rest.n))
    assert here.held.arc.max() > 0.9 and here.held.pulls.min() > 1.0

    for held in (here.held, no_arc):

        def terms(t, held=held):
            moved = (theta + t * d_theta, x + t * d_x, prior, held)
            pair = (objective.point(one, *moved) for one in (of_lattices, likeliest))
            with_them, without = pair
            return with_them.value - without.value

        own = objective.point(of_lattices, theta, x, prior, held)
        gradient = (own.by_theta - others.by_theta) @ d_theta
        gradient += np.sum((own.by_x - others.by_x) * d_x)
        assert gradient == pytest.approx(slope(terms, 3e-3), rel=1e-6)


def test_a_shoebox_without_columns_changes_nothing(wrong, few):
    """No channel of its reflections is bright enough to be kept; first, in between and last."""
    grams, pulses = few
    start = grams[1].start
    more = np.array([start[0], *start[:3], *start[2:], start[-1]])
    with_it = [grams[0], grams[1]._replace(start=more), *grams[2:]]
    of_both = []
    for own in (grams, with_it):
        of_lattices = problem(wrong, (own, pulses))
        theta, x = somewhere(of_lattices)
        prior = prior_of(of_lattices.rest)
        here = objective.point(of_lattices, theta, x, prior)
        matrix = curvature(of_lattices, here, prior)
        v = np.arange(x.size) * 1.0
        of_both.append(
            [here.value, here.by_theta, here.by_x, matrix.curves, matrix.mixed, matrix.of_x(v)]
        )
    for ours, theirs in zip(*of_both, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("is_held", [True, False])
def test_scores_of_reflections_add_up_to_the_gradient_by_curves(wrong, few, is_held):
    """Restraints left out; a reflection that nobody recorded has none."""
    of_lattices = problem(wrong, few, is_held=is_held)
    p = of_lattices.p
    theta, x = somewhere(of_lattices)
    is_used = np.arange(12) > 6
    some = of_lattices._replace(columns=of_lattices.columns._replace(is_used=is_used))
    here = objective.point(some, theta, x, prior_of(some.rest))
    no_follow = np.zeros((2 * some.rest.n, len(p.names)))
    scores = objective.scores(some, here, no_follow)
    total = scores.sum(axis=0) + p.restraints @ theta
    np.testing.assert_allclose(total, here.by_theta, atol=1e-9 * np.abs(scores).sum(axis=0).max())
    assert 0 < here.is_seen.sum() < some.rest.n
    np.testing.assert_array_equal(scores[~here.is_seen], 0.0)


def at_scale(columns, c):
    """Columns as they are expanded with templates of c⁻² the size, about |F|² of c² the size."""
    return columns._replace(
        intensity=columns.intensity * c**2,
        slope=columns.slope / c**2,
        cross=columns.cross / c**2,
        normal=(columns.normal.astype(float) / c**4).astype(np.float32),
    )


def test_the_determinant_falls_as_the_common_scale_rises(wrong, few):
    """F → c F, curves and all: lattices' scales follow as c⁻², and B of X as c⁻² does. Its share in
    dΦ/d ln c is −Σ tr(C B), and not +: expanded anew at each c, and by the pulls on ln scale.
    """
    crystal = wrong.crystal
    every = drawn.with_nodes(crystal, crystal.energies_ev)
    of_lattices = problem(wrong._replace(crystal=every), few)._replace(scale_sigma=np.inf)
    rest = of_lattices.rest
    prior = prior_of(rest)
    p = every.p
    start = np.zeros(len(p.names))
    x = np.zeros((rest.n, 2))

    def scaled(c):
        theta = ((c - 1.0) * p.reference).ravel()
        longer = (c - 1.0) * np.abs(rest.model)
        return theta, np.column_stack([longer, np.zeros(rest.n)])

    def anew(t):
        c = np.exp(t)
        theta, x_scaled = scaled(c)
        f = complex_curves(p.curves(theta))
        columns = at_scale(of_lattices.columns, c)
        point = objective.point(of_lattices._replace(columns=columns), theta, x_scaled, prior)
        B = loops.information(columns, f, x_scaled, NO_SITES, rest.n)
        aa, ab, bb = (B[:, :3] + prior.precision[:, [0, 0, 1]] * [1.0, 0.0, 1.0]).T
        return 0.5 * np.log(aa * bb - ab**2).sum(), point.losses

    here = objective.point(of_lattices, start, x, prior)
    no_arc = here.held._replace(arc=np.zeros(rest.n))
    with_terms = objective.point(of_lattices, start, x, prior, no_arc)
    likeliest = objective.point(of_lattices._replace(is_integrated=False), start, x, prior)
    d_theta, d_x = (moved / 1e-6 for moved in scaled(1.0 + 1e-6))
    by_gradient = (with_terms.by_theta - likeliest.by_theta) @ d_theta
    by_gradient += np.sum((with_terms.by_x - likeliest.by_x) * d_x)
    determined = here.held.pulls.sum()
    assert determined > 0.5 * rest.is_unknown.sum()
    assert slope(lambda t: anew(t)[0], 0.02) == pytest.approx(-determined, rel=1e-4)
    assert by_gradient == pytest.approx(-determined, rel=1e-4)
    np.testing.assert_allclose(anew(0.1)[1], anew(0.0)[1], rtol=1e-4)


def in_full(of_lattices, theta, x):
    """Second derivatives of −ln L (parameter + 2·reflection, the same) by Gauss and Newton, and
    those by X with lattices held.
    """
    columns = of_lattices.columns
    p = of_lattices.p
    n = of_lattices.rest.n
    f = complex_curves(p.curves(theta))
    F = loops.structure_factors(columns, f, x, NO_SITES)
    number = np.arange(len(F))
    n_sites, n_channels = f.shape
    by_value = np.zeros((len(F), n_sites, 2, n_channels))
    by_value[number, :, 0, columns.channel] = 2.0 * (np.conj(F)[:, None] * columns.groups).real
    by_value[number, :, 1, columns.channel] = 2.0 * (np.conj(F)[:, None] * 1j * columns.groups).real
    J = np.zeros((len(F), 2 * n))
    J[number, 2 * columns.reflection] = 2.0 * (np.conj(F) * columns.along).real
    J[number, 2 * columns.reflection + 1] = 2.0 * (np.conj(F) * columns.across).real
    A = np.column_stack([by_value.reshape(len(F), -1) @ p.basis, J])
    G = np.zeros((len(F), len(F)))
    place = 0
    for first, last in pairwise(columns.first_column):
        size = last - first
        triangle = np.zeros((size, size))
        count = size * (size + 1) // 2
        triangle[np.tril_indices(size)] = columns.normal[place : place + count]
        place += count
        G[first:last, first:last] = triangle + np.tril(triangle, -1).T
    G *= np.outer(columns.is_used[columns.lattice], columns.is_used[columns.lattice])
    eliminated = G.copy()
    for lattice in np.flatnonzero(columns.is_used):
        own = np.flatnonzero(columns.lattice == lattice)
        cross = columns.cross[own]
        eliminated[np.ix_(own, own)] -= cross @ columns.held[lattice] @ cross.T
    return A.T @ eliminated @ A, J.T @ G @ J


@pytest.fixture(scope="module")
def curved(wrong, few):
    """Lattices of which one is left out, their curvature, and the same in full matrices."""
    of_lattices = problem(wrong, few)
    is_used = np.arange(12) != 4
    of_lattices = of_lattices._replace(columns=of_lattices.columns._replace(is_used=is_used))
    prior = prior_of(of_lattices.rest)
    theta, x = somewhere(of_lattices)
    here = objective.point(of_lattices, theta, x, prior)
    matrix = curvature(of_lattices, here, prior)
    return of_lattices, prior, matrix, *in_full(of_lattices, theta, x)


def test_curvature_is_that_of_full_matrices(curved):
    """With pairs in a shoebox, Friedel mates among them, and lattices eliminated."""
    of_lattices, prior, matrix, full, of_boxes = curved
    n_theta = len(of_lattices.p.names)
    by_x = matrix.of_x(np.eye(2 * of_lattices.rest.n))
    own = by_x - np.diag(prior.precision.ravel())
    pairs = [
        (matrix.curves, full[:n_theta, :n_theta]),
        (matrix.mixed, full[n_theta:, :n_theta]),
        (own, full[n_theta:, n_theta:]),
    ]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10 * np.abs(theirs).max())
    np.testing.assert_allclose(by_x, by_x.T, rtol=0, atol=1e-12 * np.abs(by_x).max())
    assert np.linalg.eigvalsh(own).min() > -1e-7 * np.abs(own).max(), (
        "never below that of the prior"
    )
    blocks = of_boxes.reshape(-1, 2, of_boxes.shape[0] // 2, 2)
    diagonal = np.einsum("hihj->hij", blocks)
    np.testing.assert_allclose(
        matrix.blocks - prior.precision[:, :, None] * np.eye(2),
        diagonal,
        atol=1e-10 * diagonal.max(),
    )


def test_what_bends_a_reflection_beyond_its_parabola(wrong, few):
    """By differences of the gradient, where lattices are known so well that they do not follow: the
    second derivatives of −ln L, of ½ ln det(B + P), in which B grows with |F|², and of the arc.
    """
    of_lattices = problem(wrong, few)._replace(scale_sigma=np.inf)
    stiff = of_lattices.columns._replace(held=1e-12 * of_lattices.columns.held)
    of_lattices = of_lattices._replace(columns=stiff)
    rest = of_lattices.rest
    prior = prior_of(rest)
    theta, x = somewhere(of_lattices)
    here = objective.point(of_lattices, theta, x, prior)
    matrix = curvature(of_lattices, here, prior)
    second = matrix.blocks + here.bend

    def gradient(h, k, t):
        moved = x.copy()
        moved[h, k] += t
        return objective.point(of_lattices, theta, moved, prior, here.held).by_x[h]

    chosen = np.flatnonzero(here.is_seen)[::9]
    assert {1, 2} == set(rest.freedom[chosen])
    for h in chosen:
        for k in range(rest.freedom[h]):
            expected = slope(lambda t, h=h, k=k: gradient(h, k, t), 1e-2)
            tolerance = 1e-6 * np.abs(matrix.blocks[h]).max()
            np.testing.assert_allclose(
                second[h, k] * rest.is_unknown[h], expected, rtol=1e-5, atol=tolerance
            )


def test_a_real_constant_of_a_site_is_x_and_an_imaginary_one_is_not(wrong, few):
    """X → X − c g, f′ + c is the same F; with f″ + c it would have to break Friedel's law."""
    crystal = drawn.with_nodes(wrong.crystal, wrong.crystal.energies_ev)
    of_lattices = problem(wrong._replace(crystal=crystal), few)
    rest = of_lattices.rest
    prior = prior_of(rest)
    p = crystal.p
    theta, x = somewhere(of_lattices)
    losses = objective.point(of_lattices, theta, x, prior).losses
    constants = np.array([1.3, -0.7])
    change = np.conj(rest.along) * (rest.groups @ constants)
    moved = x - np.column_stack([change.real, change.imag])
    kinds = np.array([[[1.0], [0.0]], [[0.0], [1.0]]])
    for kind, factor in zip(kinds, (1.0, 1j), strict=True):
        by_constant = (constants[:, None, None] * kind * np.ones(p.reference.shape)).ravel()
        own = np.conj(rest.along) * (rest.groups @ (factor * constants))
        moved = np.where(rest.is_unknown, x - np.column_stack([own.real, own.imag]), x)
        after = objective.point(of_lattices, theta + by_constant, moved, prior).losses
        is_same = np.abs(after - losses).max() < 1e-9 * np.abs(losses).max()
        assert is_same == (factor == 1.0)
