"""Curves from Gram matrices: derivatives, what was planted, honest errors."""

import numpy as np
import pytest

from spreadflow.analysis.curves import dispersion, expand
from spreadflow.analysis.curves.gram import gram

STEP = 1e-4
"""of curves, electrons, for differences"""


@pytest.fixture(scope="module")
def lattices(patched):
    """Of the simulated shoeboxes."""
    made = [
        gram(model, planes) for model, planes in zip(patched.models, patched.planes, strict=True)
    ]
    return [
        expand.lattice(one, patched.factors, expand.rows(patched.factors, one.hkl)) for one in made
    ]


def evaluator(lattices, p):
    return lambda theta: expand.normal(lattices, p, theta)


def free(patched, step_ev=4.0):
    """From the metal's curves."""
    nodes = np.arange(patched.energies_ev[0] + 1.5, patched.energies_ev[-1], step_ev)
    start = np.empty_like(patched.true)
    start[:, 0], start[:, 1] = (
        patched.factors.anomalous[:2].real,
        patched.factors.anomalous[:2].imag,
    )
    return dispersion.free(start, patched.energies_ev, nodes)


@pytest.mark.stage
def test_nodes_are_found_in_any_order(patched):
    every = patched.factors.hkl
    some = np.random.default_rng(0).permutation(len(every))[:50]
    np.testing.assert_array_equal(expand.rows(patched.factors, every[some]), some)
    assert expand.rows(patched.factors, np.array([[90, 0, 0], every[3]])).tolist() == [-1, 3]


def test_the_loss_is_that_of_the_gram_with_other_structure_factors(patched, lattices):
    """The templates' |F|² replaced, and scale and rotation where they suit best: a dense sum."""
    of = lattices[0]
    made = lattices[0].gram
    F = patched.factors._replace(anomalous=_with(patched.factors, patched.true))
    rows = expand.rows(patched.factors, made.hkl)
    y = F.squared(rows)[np.arange(len(rows)), made.channel] - made.intensity
    every = np.zeros((len(y), len(y)))
    done = 0
    for a, b in zip(made.start[:-1], made.start[1:], strict=True):
        G = np.zeros((b - a, b - a))
        G[np.tril_indices(b - a)] = made.normal[done : (done := done + (b - a) * (b - a + 1) // 2)]
        every[a:b, a:b] = G + np.tril(G, -1).T
    left = made.score - made.cross.T @ y
    expected = (
        made.loss
        - made.slope @ y
        + 0.5 * y @ every @ y
        - 0.5 * left @ np.linalg.solve(made.nuisance, left)
    )
    found = expand.expand(of, patched.true)
    assert found.losses[0] == pytest.approx(expected, rel=1e-10)
    assert found.losses[0] < expand.expand(of, free(patched).reference).losses[0], (
        "the truth is likelier"
    )


def _with(factors, curves):
    return np.concatenate([curves[:, 0] + 1j * curves[:, 1], factors.anomalous[2:]])


def test_gradient_is_the_derivative_of_the_loss(patched, lattices):
    p = free(patched)
    rng = np.random.default_rng(1)
    theta = rng.standard_normal(len(p.names))
    made = expand.normal(lattices[:3], p, theta)

    def at(t):
        return expand.normal(lattices[:3], p, t).losses

    for direction in rng.standard_normal((6, len(theta))):
        slopes = (at(theta + STEP * direction) - at(theta - STEP * direction)) / (2 * STEP)
        np.testing.assert_allclose(
            made.scores @ direction, slopes, rtol=1e-5, atol=1e-5 * np.abs(slopes).max()
        )


def test_hessian_is_the_derivative_of_the_gradient_where_the_model_explains_the_data(
    patched, lattices
):
    """Data replaced by what the curves expect: there Gauss-Newton's matrix is the whole second
    derivative.
    """
    p = free(patched)
    rng = np.random.default_rng(2)
    theta = 0.5 * rng.standard_normal(len(p.names))
    explained = [_explained(of, p.curves(theta)) for of in lattices[:3]]
    made = expand.normal(explained, p, theta)
    np.testing.assert_allclose(made.scores, 0.0, atol=1e-6 * np.sqrt(np.diag(made.hessian)).max())
    np.testing.assert_allclose(
        made.hessian, made.hessian.T, rtol=0, atol=1e-12 * np.abs(made.hessian).max()
    )

    def at(t):
        return expand.normal(explained, p, t).scores.sum(axis=0)

    steps = STEP * np.eye(len(theta))
    found = np.array([(at(theta + step) - at(theta - step)) / (2 * STEP) for step in steps])
    np.testing.assert_allclose(found, made.hessian, rtol=0, atol=1e-5 * np.abs(made.hessian).max())


def _explained(of, curves):
    y = np.abs(expand.derivatives(of, curves)[0]) ** 2 - of.gram.intensity
    zero = of._replace(gram=of.gram._replace(slope=np.zeros(len(y)), score=np.zeros(4)))
    one = zero.gram
    done = 0
    pulled = np.empty(len(y))
    for a, b in zip(one.start[:-1], one.start[1:], strict=True):
        G = np.zeros((b - a, b - a))
        G[np.tril_indices(b - a)] = one.normal[done : (done := done + (b - a) * (b - a + 1) // 2)]
        pulled[a:b] = (G + np.tril(G, -1).T) @ y[a:b]
    return of._replace(gram=one._replace(slope=pulled, score=y @ one.cross))


def test_planted_curves_are_found_within_their_errors(patched, lattices):
    """Twelve simulated lattices, from the metal's curves: 40 values, and their −ln L below that of
    the truth.
    """
    p = free(patched)
    found = expand.refine(evaluator(lattices, p), p, np.zeros(len(p.names)))
    sigma = p.sigma(found.fisher)
    nodes = p.nodes_ev
    true = np.array(
        [[np.interp(nodes, patched.energies_ev, curve) for curve in site] for site in patched.true]
    )
    values = p.reference_at_nodes + (p.at_nodes @ found.theta).reshape(true.shape)
    pulls = (values - true) / sigma
    assert (
        np.median(sigma) < 1.5
        and 0.7 < np.sqrt(np.mean(pulls**2)) < 1.35
        and np.abs(pulls).max() < 4
    )
    begun = expand.normal(lattices, p, np.zeros(len(p.names))).losses.sum()
    assert found.losses.sum() < begun - 50
    slope, information = expand.residuals(lattices, p.curves(found.theta))
    before, _ = expand.residuals(lattices, p.reference)
    assert np.sum(slope**2 / information) < np.sum(before**2 / information)
    assert np.all(np.abs(slope / np.sqrt(information)) < 4)


def test_channels_have_no_residual_where_the_model_explains_the_data(patched, lattices):
    """Nor where a scale that is off explains it; another curve in one channel shows."""
    curves = patched.true
    explained = [_explained(of, curves) for of in lattices[:3]]
    slope, information = expand.residuals(explained, curves)
    assert np.abs(slope / np.sqrt(information)).max() < 1e-6
    off = np.array([0.05, 0.0, 0.0, 0.0])
    scaled = [of._replace(gram=_scaled(of.gram, off)) for of in explained]
    np.testing.assert_allclose(
        expand.residuals(scaled, curves)[0], slope, atol=1e-4 * np.sqrt(information).max()
    )
    changed = curves.copy()
    changed[:, 0, 9] += 3.0
    slope, information = expand.residuals(explained, changed)
    assert np.abs(slope / np.sqrt(information)).max() > 0.4


def _scaled(gram, off):
    """As if unknowns were off."""
    return gram._replace(
        slope=gram.slope + gram.cross @ off, score=gram.score + gram.nuisance @ off
    )


def test_any_start_ends_at_the_same_curves(drawn):
    lattices = drawn.lattices(40, 2)[0]
    p = drawn.p
    ends = [
        expand.refine(evaluator(lattices, p), p, factor * drawn.theta) for factor in (0.0, 1.0, 2.0)
    ]
    sigma = np.sqrt(np.diag(ends[0].fisher))
    for end in ends[1:]:
        np.testing.assert_allclose(end.theta, ends[0].theta, rtol=0, atol=0.01 * sigma.min())
        assert 1 <= len(end.steps) <= 6 and end.steps[-1] < 0.1 * end.steps[0]


def test_parts_of_lattices_join_to_the_whole(drawn):
    lattices = drawn.lattices(7, 3)[0]
    p = drawn.p
    theta = 0.5 * drawn.theta
    whole = expand.normal(lattices, p, theta)
    made = expand.joined(
        [expand.normal(part, p, theta) for part in (lattices[:3], [], lattices[3:])]
    )
    for one, other in zip(made, whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.stage
@pytest.mark.parametrize("excess", [1.0, 3.0])
def test_the_sandwich_is_honest_and_fisher_is_where_weights_are_right(drawn, excess):
    """Pixels that scatter as they should, and with three times the variance that the weights stand
    for.
    """
    lattices = drawn.lattices(250, 4, excess)[0]
    p = drawn.p
    found = expand.refine(evaluator(lattices, p), p, np.zeros(len(p.names)))
    ratio = np.diag(found.sandwich) / np.diag(found.fisher)
    assert ratio.mean() == pytest.approx(excess, rel=0.1)
    off = found.theta - drawn.theta
    chi2 = off @ np.linalg.solve(found.sandwich, off)
    assert abs(chi2 - len(off)) < 4 * np.sqrt(2 * len(off))
    assert off @ found.hessian @ off == pytest.approx(excess * len(off), rel=0.9)


@pytest.mark.stage
def test_a_value_that_no_pixel_knows_has_the_sigma_of_its_prior(drawn):
    """A node far beyond all light, and a site that no reflection sees: not zero, though no lattice
    moves them.
    """
    energies = drawn.energies_ev
    start = drawn.p.reference
    p = dispersion.free(
        start, energies, np.append(energies[::2], energies[-1] + 50.0 + 20.0 * np.arange(2))
    )
    lattices = drawn.lattices(60, 6)[0]
    unseen = [of._replace(groups=of.groups * np.array([[1.0], [0.0]])) for of in lattices]
    for of, dark in ((lattices, np.s_[:, :, -1]), (unseen, np.s_[1])):
        found = expand.refine(evaluator(of, p), p, np.zeros(len(p.names)))
        fisher = p.sigma(found.fisher)
        sigma = p.sigma(found.sandwich)
        np.testing.assert_allclose(fisher[dark], dispersion.PRIOR_E, rtol=0.02)
        np.testing.assert_allclose(sigma[dark], fisher[dark], rtol=0.05)
    assert (sigma[0, :, 1:5] < 3.0).all(), "of the site that is seen"


def test_a_restraint_pulls_as_hard_as_it_says(drawn):
    """Toward the truth: values move there, more where pixels know less."""
    lattices = drawn.lattices(20, 5)[0]
    true = drawn.p.curves(drawn.theta)
    found = expand.refine(evaluator(lattices, drawn.p), drawn.p, np.zeros(len(drawn.theta)))
    p = dispersion.toward(drawn.p, true, 1e-3)
    tight = expand.refine(evaluator(lattices, p), p, np.zeros(len(drawn.theta)))
    loose = expand.refine(
        evaluator(lattices, p := dispersion.toward(drawn.p, true, 0.5)),
        p,
        np.zeros(len(drawn.theta)),
    )
    off = [np.abs(end.theta - drawn.theta) for end in (tight, loose, found)]
    assert off[0].max() < 5e-3 and off[0].mean() < off[1].mean() < off[2].mean()
    assert np.all(np.diag(tight.fisher) < np.diag(loose.fisher)) and np.all(
        np.diag(loose.fisher) < np.diag(found.fisher)
    )


@pytest.mark.parametrize("where", ["first", "last"])
def test_a_shoebox_without_light_says_nothing(patched, lattices, where):
    of = lattices[0]
    start = of.gram.start
    dark = of._replace(
        gram=of.gram._replace(
            start=np.insert(
                start, 0 if where == "first" else len(start), start[-1 * (where == "last")]
            )
        )
    )
    for one, other in zip(
        expand.expand(dark, patched.true), expand.expand(of, patched.true), strict=True
    ):
        np.testing.assert_array_equal(one, other)
