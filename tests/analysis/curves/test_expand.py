"""Curves from Gram matrices: derivatives, what was planted, honest errors."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from spreadflow.analysis.curves import columns, dispersion, expand
from spreadflow.analysis.curves.gram import gram
from spreadflow.recipes.lattice_sums import LatticeSums

STEP = 1e-4
"""Step of curves for differences, electrons."""


@pytest.fixture(scope="module")
def grams(patched):
    """The simulated shoeboxes, reduced."""
    pairs = zip(patched.models, patched.planes, strict=True)
    return [gram(model, planes) for model, planes in pairs]


@pytest.fixture(scope="module")
def lattices(patched, grams):
    """The columns of all of them."""
    return columns.of_lattices(grams, patched.factors)


def refined(lattices, p, theta=None):
    """Curves refined from the reference, or from θ."""
    start = np.zeros(len(p.names)) if theta is None else theta
    return expand.refine(lambda theta: expand.normal(lattices, p, theta), p, start)


def free(patched, step_ev=4.0):
    """Deviations from the metal's curves."""
    energies = patched.energies_ev
    metal = patched.factors.anomalous[:2]
    start = np.stack([metal.real, metal.imag], axis=1)
    return dispersion.free(start, energies, np.arange(energies[0] + 1.5, energies[-1], step_ev))


def dense(one) -> np.ndarray:
    """(column, column) all matrices of a Gram, from their triangles."""
    out = np.zeros((len(one.slope), len(one.slope)))
    first = 0
    for a, b in pairwise(one.start):
        size = (b - a) * (b - a + 1) // 2
        triangle = np.zeros((b - a, b - a))
        triangle[np.tril_indices(b - a)] = one.normal[first : first + size]
        out[a:b, a:b] = triangle + np.tril(triangle, -1).T
        first += size
    return out


@pytest.mark.stage
def test_nodes_are_found_in_any_order(patched):
    factors = patched.factors
    rows = np.random.default_rng(0).permutation(len(factors.hkl))[:50]
    np.testing.assert_array_equal(factors.rows(factors.hkl[rows]), rows)
    missing = np.array([[90, 0, 0], factors.hkl[3]])
    assert factors.rows(missing).tolist() == [-1, 3]


def test_a_node_that_the_model_lacks_is_said(drawn):
    grams, _ = drawn.lattices(1, 1)
    elsewhere = grams[0]._replace(hkl=np.add(grams[0].hkl, [0, 0, 1]))
    with pytest.raises(ValueError, match=r"no structure factor of \["):
        drawn.columns([elsewhere])


def test_the_loss_is_that_of_the_gram_with_other_structure_factors(patched, grams):
    """The templates' |F|² replaced, and scale and rotation where they suit best: a dense sum."""
    one = grams[0]
    true = patched.factors._replace(anomalous=_with(patched.factors, patched.true))
    rows = patched.factors.rows(one.hkl)
    y = true.squared(rows)[np.arange(len(rows)), one.channel] - one.intensity
    left = one.score - one.cross.T @ y
    parabola = one.loss - one.slope @ y + 0.5 * y @ dense(one) @ y
    expected = parabola - 0.5 * left @ np.linalg.solve(one.nuisance, left)
    of_one = columns.of_lattices([one], patched.factors)
    (loss,) = expand.expand(of_one, patched.true).losses
    (loss_of_metal,) = expand.expand(of_one, free(patched).reference).losses
    assert loss == pytest.approx(expected, rel=1e-10)
    assert loss < loss_of_metal, "the truth is likelier"


def _with(factors, curves):
    return np.concatenate([curves[:, 0] + 1j * curves[:, 1], factors.anomalous[2:]])


def test_gradient_is_the_derivative_of_the_loss(patched, grams):
    p = free(patched)
    lattices = columns.of_lattices(grams[:3], patched.factors)
    rng = np.random.default_rng(1)
    theta = rng.standard_normal(len(p.names))
    scores = expand.normal(lattices, p, theta).scores

    def losses(t):
        return expand.normal(lattices, p, t).losses

    for direction in rng.standard_normal((6, len(theta))):
        step = STEP * direction
        slopes = (losses(theta + step) - losses(theta - step)) / (2 * STEP)
        tolerance = 1e-5 * np.abs(slopes).max()
        np.testing.assert_allclose(scores @ direction, slopes, rtol=1e-5, atol=tolerance)


def test_hessian_is_the_derivative_of_the_gradient_where_the_model_explains_the_data(
    patched, grams
):
    """Data replaced by what the curves expect: there Gauss-Newton's matrix is the whole second
    derivative.
    """
    p = free(patched)
    rng = np.random.default_rng(2)
    theta = 0.5 * rng.standard_normal(len(p.names))
    explained = _explained(patched, grams[:3], p.curves(theta))
    _, scores, hessian = expand.normal(explained, p, theta)
    largest = np.abs(hessian).max()
    np.testing.assert_allclose(scores, 0.0, atol=1e-6 * np.sqrt(np.diag(hessian)).max())
    np.testing.assert_allclose(hessian, hessian.T, rtol=0, atol=1e-12 * largest)

    def gradient(t):
        return expand.normal(explained, p, t).scores.sum(axis=0)

    steps = STEP * np.eye(len(theta))
    differences = [gradient(theta + step) - gradient(theta - step) for step in steps]
    by_differences = np.array(differences) / (2 * STEP)
    np.testing.assert_allclose(by_differences, hessian, rtol=0, atol=1e-5 * largest)


def _explained(patched, grams, curves):
    """The columns of lattices whose data are what the curves expect."""
    out = []
    for one in grams:
        right = patched.factors._replace(anomalous=_with(patched.factors, curves))
        rows = right.rows(one.hkl)
        y = right.squared(rows)[np.arange(len(rows)), one.channel] - one.intensity
        out.append(one._replace(slope=dense(one) @ y, score=y @ one.cross))
    return columns.of_lattices(out, patched.factors)


def _residuals(lattices, patched, curves):
    """(channel,) (data − model)/σ of the Bragg photons."""
    photons = np.zeros((len(lattices.loss), len(patched.energies_ev)))
    sums = LatticeSums([], patched.factors, photons, patched.energies_ev)
    sums.columns = lattices
    p = free(patched)._replace(reference=curves)
    at_reference = SimpleNamespace(theta=np.zeros(len(p.names)), rest=None)
    residual, sigma = sums.residuals(p, at_reference)
    return residual / sigma


def test_planted_curves_are_found_within_their_errors(patched, lattices):
    """Twelve simulated lattices, from the metal's curves: 40 values, and their −ln L below that of
    the truth.
    """
    p = free(patched)
    fit = refined(lattices, p)
    sigma = p.sigma(fit.fisher)
    true = p._replace(reference=patched.true).reference_at_nodes
    values = p.reference_at_nodes + (p.at_nodes @ fit.theta).reshape(true.shape)
    pulls = (values - true) / sigma
    assert np.median(sigma) < 1.5 and 0.7 < np.sqrt(np.mean(pulls**2)) < 1.35
    assert np.abs(pulls).max() < 4
    before = expand.normal(lattices, p, np.zeros(len(p.names)))
    assert fit.losses.sum() < before.losses.sum() - 50
    after = _residuals(lattices, patched, p.curves(fit.theta))
    before = _residuals(lattices, patched, p.reference)
    assert np.sum(after**2) < np.sum(before**2)
    assert np.all(np.abs(after) < 4)


def test_channels_have_no_residual_where_the_model_explains_the_data(patched, grams):
    """Nor where a scale that is off explains it; another curve in one channel shows."""
    curves = patched.true
    explained = _explained(patched, grams[:3], curves)
    residual = _residuals(explained, patched, curves)
    assert np.abs(residual).max() < 1e-6
    off = np.array([0.05, 0.0, 0.0, 0.0])
    scaled = explained._replace(
        slope=explained.slope + explained.cross @ off,
        score=explained.score + np.linalg.inv(explained.held) @ off,
    )
    np.testing.assert_allclose(_residuals(scaled, patched, curves), residual, atol=1e-4)
    changed = curves.copy()
    changed[:, 0, 9] += 3.0
    assert np.abs(_residuals(explained, patched, changed)).max() > 0.4


@pytest.mark.stage
def test_any_start_ends_at_the_same_curves(drawn):
    lattices = drawn.columns(drawn.lattices(40, 2)[0])
    p = drawn.p
    first, *others = (refined(lattices, p, f * drawn.theta) for f in (0.0, 1.0, 2.0))
    sigma = np.sqrt(np.diag(first.fisher))
    for end in others:
        np.testing.assert_allclose(end.theta, first.theta, rtol=0, atol=0.01 * sigma.min())
        assert 1 <= len(end.steps) <= 6 and end.steps[-1] < 0.1 * end.steps[0]


def test_parts_of_lattices_join_to_the_whole(drawn):
    """One that holds none is no exception."""
    grams, _ = drawn.lattices(7, 3)
    p = drawn.p
    theta = 0.5 * drawn.theta
    whole = expand.normal(drawn.columns(grams), p, theta)
    shares = (grams[:3], [], grams[3:])
    parts = [expand.normal(drawn.columns(share), p, theta) for share in shares]
    for column, expected in zip(expand.joined(parts), whole, strict=True):
        np.testing.assert_allclose(column, expected, rtol=1e-12)


@pytest.mark.stage
@pytest.mark.parametrize("excess", [1.0, 3.0])
def test_the_sandwich_is_honest_and_fisher_is_where_weights_are_right(drawn, excess):
    """Pixels that scatter as they should, and with three times the variance that the weights stand
    for. Lattices are expanded about the true curves, as in the last of the cycles.
    """
    grams, _ = drawn.lattices(250, 4, excess=excess, about=drawn.nature)
    lattices = drawn.columns(grams)
    fit = refined(lattices, drawn.p)
    ratio = np.diag(fit.sandwich) / np.diag(fit.fisher)
    assert ratio.mean() == pytest.approx(excess, rel=0.1)
    off = fit.theta - drawn.theta
    n = len(off)
    chi2 = off @ np.linalg.solve(fit.sandwich, off)
    assert abs(chi2 - n) < 4 * np.sqrt(2 * n)
    assert off @ fit.hessian @ off == pytest.approx(excess * n, rel=0.9)


@pytest.mark.stage
def test_a_value_that_no_pixel_determines_has_the_sigma_of_its_prior(drawn):
    """A node far beyond all light, and a site that no reflection sees: not zero, though no lattice
    moves them.
    """
    energies = drawn.energies_ev
    far = energies[-1] + 50.0 + 20.0 * np.arange(2)
    p = dispersion.free(drawn.p.reference, energies, np.append(energies[::2], far))
    lattices = drawn.columns(drawn.lattices(60, 6)[0])
    without_second = lattices._replace(groups=lattices.groups * [1.0, 0.0])
    for chosen, dark in ((lattices, np.s_[:, :, -1]), (without_second, np.s_[1])):
        fit = refined(chosen, p)
        fisher = p.sigma(fit.fisher)
        sigma = p.sigma(fit.sandwich)
        np.testing.assert_allclose(fisher[dark], dispersion.PRIOR_E, rtol=0.02)
        np.testing.assert_allclose(sigma[dark], fisher[dark], rtol=0.05)
    assert (sigma[0, :, 1:5] < 3.0).all(), "of the site that reflections see"


def test_a_restraint_pulls_as_hard_as_it_says(drawn):
    """Toward the truth: values move there, more where pixels say less."""
    lattices = drawn.columns(drawn.lattices(20, 5)[0])
    true = drawn.p.curves(drawn.theta)
    tight, loose, unrestrained = (
        refined(lattices, p)
        for p in (
            dispersion.toward(drawn.p, true, 1e-3),
            dispersion.toward(drawn.p, true, 0.5),
            drawn.p,
        )
    )
    off = [np.abs(fit.theta - drawn.theta) for fit in (tight, loose, unrestrained)]
    assert off[0].max() < 5e-3 and off[0].mean() < off[1].mean() < off[2].mean()
    variances = [np.diag(fit.fisher) for fit in (tight, loose, unrestrained)]
    assert np.all(variances[0] < variances[1]) and np.all(variances[1] < variances[2])


@pytest.mark.parametrize("where", ["first", "last"])
def test_a_shoebox_without_light_says_nothing(patched, grams, where):
    start = grams[0].start
    more = [start[0], *start] if where == "first" else [*start, start[-1]]
    dark = grams[0]._replace(start=np.array(more))
    with_it, without = (
        expand.expand(columns.of_lattices([one], patched.factors), patched.true)
        for one in (dark, grams[0])
    )
    for column, expected in zip(with_it, without, strict=True):
        np.testing.assert_array_equal(column, expected)


def test_a_lattice_that_is_not_used_says_nothing(drawn):
    """The others say what they say without it."""
    grams, _ = drawn.lattices(5, 7)
    p = drawn.p
    kept = np.array([0, 2, 3])
    every = drawn.columns(grams)
    some = expand.normal(every._replace(is_used=np.isin(np.arange(5), kept)), p, drawn.theta)
    alone = expand.normal(drawn.columns([grams[i] for i in kept]), p, drawn.theta)
    np.testing.assert_allclose(some.losses[kept], alone.losses, rtol=1e-12)
    np.testing.assert_allclose(some.scores[kept], alone.scores, rtol=1e-12)
    np.testing.assert_allclose(some.hessian, alone.hessian, rtol=1e-12)
    np.testing.assert_array_equal(some.scores[[1, 4]], 0.0)
