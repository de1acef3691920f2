"""A lattice without its pixels: the parabola of its Gram matrices is the one of the pixels."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest

from spreadflow.analysis.curves import gram
from spreadflow.analysis.least_squares import RIDGE
from spreadflow.analysis.pixels import lattice_fit, restraints, solve
from spreadflow.analysis.pixels.likelihood import variance
from spreadflow.analysis.pixels.templates import of_channels, of_nodes
from spreadflow.models import Noise


def columns_of(one: gram.Gram, model: lattice_fit.Model) -> np.ndarray:
    """(column,) of a Gram in the templates of all nodes and channels."""
    start = model.problem.start
    n_channels = start.f_squared.shape[1]
    node_of = {tuple(index): node for node, index in enumerate(np.asarray(start.hkl).tolist())}
    nodes = np.array([node_of[tuple(index)] for index in one.hkl.tolist()])
    return nodes * n_channels + one.channel


class Pixels(NamedTuple):
    """The pixels of a lattice as least squares of unknowns and planes."""

    residual: np.ndarray
    """(pixel,) data − model"""
    weight: np.ndarray
    """(pixel,)"""
    jacobian: np.ndarray
    """(pixel, unknown)"""
    planes: np.ndarray
    """(pixel, 3·box)"""
    weak: np.ndarray
    """(unknown + 3·box,) 1/σ of weak restraints; the ridge of a plane is one"""


def pixels_of(
    model: lattice_fit.Model, planes: np.ndarray, one: gram.Gram, y: np.ndarray, model_error: float
) -> Pixels:
    """The pixels of a lattice, |F|² of the columns changed by y."""
    problem = model.problem
    data = problem.data
    at_start = np.zeros(model.n_unknowns)
    bragg, jacobian = model(at_start)
    expected = bragg + solve.backgrounds(planes, data)
    weight = 1.0 / (variance(expected, problem.noise) + (model_error * bragg) ** 2)
    templates = of_channels(model, at_start)
    column = columns_of(one, model)
    brighter = np.zeros(len(bragg))
    of_planes = np.zeros((len(bragg), 3 * (len(data.start) - 1)))
    ridges = []
    for box, (a, b) in enumerate(pairwise(data.start)):
        own = slice(one.start[box], one.start[box + 1])
        plane = data.plane[a:b]
        brighter[a:b] = templates[a:b][:, column[own]] @ y[own]
        of_planes[a:b, 3 * box : 3 * box + 3] = plane
        information = plane.T @ (weight[a:b, None] * plane)
        ridges += np.sqrt(RIDGE * np.diag(information)).tolist()
    weak = np.concatenate([1.0 / model.filled(restraints.SIGMAS), ridges])
    return Pixels(data.photons - expected - brighter, weight, jacobian, of_planes, weak)


def least_squares(design: np.ndarray, pixels: Pixels, weak: np.ndarray, target: np.ndarray):
    """The least ½ Σ (target − design)²/V + ½ Σ weak² unknown²."""
    root = np.sqrt(pixels.weight)
    rows = np.concatenate([root[:, None] * design, np.diag(weak)])
    right = np.concatenate([root * target, np.zeros(len(weak))])
    left = right - rows @ np.linalg.lstsq(rows, right)[0]
    return 0.5 * float(left @ left)


def loss_of_pixels(pixels: Pixels, u: np.ndarray | None) -> float:
    """½ Σ (data − model)²/V + ½ Σ u²/σ² over all pixels; planes and, where u is None, unknowns that
    suit best.
    """
    if u is None:
        design = np.hstack([pixels.jacobian, pixels.planes])
        return least_squares(design, pixels, pixels.weak, pixels.residual)
    n = len(u)
    target = pixels.residual - pixels.jacobian @ u
    of_restraints = 0.5 * np.sum((u * pixels.weak[:n]) ** 2)
    return least_squares(pixels.planes, pixels, pixels.weak[n:], target) + of_restraints


def loss(one: gram.Gram, y: np.ndarray, u: np.ndarray) -> float:
    """−ln L as `Gram` has it."""
    first = 0
    quadratic = 0.0
    for a, b in pairwise(one.start):
        last = first + (b - a) * (b - a + 1) // 2
        G = np.zeros((b - a, b - a))
        G[np.tril_indices(b - a)] = one.normal[first:last]
        G = G + np.tril(G, -1).T
        quadratic += 0.5 * y[a:b] @ G @ y[a:b]
        first = last
    linear = one.loss - one.slope @ y - one.score @ u
    return linear + quadratic + y @ one.cross @ u + 0.5 * u @ one.nuisance @ u


def test_restraints_that_are_supplied_are_part_of_the_parabola(patched):
    """In place of the weak restraints, about where they are centred."""
    model = patched.models[0]
    planes = patched.planes[0]
    rng = np.random.default_rng(1)
    centre = np.array([0.1, 2e-4, -1e-4, 3e-4])
    sigma = np.array([0.05, 2e-4, 2e-4, 2e-4])
    supplied = restraints.Restraints(model.parameters(centre), {"scale": 0.05, "rotation": 2e-4})
    problem = model.problem._replace(restraints=supplied)
    restrained = lattice_fit.Model(problem, model.free)
    without = gram.gram(model, planes)
    with_it = gram.gram(restrained, planes)
    y = np.zeros(len(without.slope))
    for _ in range(3):
        u = np.array([0.1, 3e-4, 3e-4, 3e-4]) * rng.standard_normal(4)
        of_restraint = restrained.restraint().loss(u)
        more = of_restraint - model.restraint().loss(u)
        assert loss(with_it, y, u) - loss(without, y, u) == pytest.approx(more, abs=1e-6)
        expected = 0.5 * np.sum(((u - centre) / sigma) ** 2)
        assert of_restraint == pytest.approx(expected, rel=1e-4)


@pytest.mark.stage
@pytest.mark.parametrize("model_error", [0.0, 0.1])
def test_the_parabola_is_that_of_the_pixels(patched, model_error):
    """For any |F|² of the columns, and any scale and rotation or those that suit it best."""
    rng = np.random.default_rng(0)
    model = patched.models[0]
    planes = patched.planes[0]
    one = gram.gram(model, planes, model_error=model_error)
    assert len(one.slope) > 150 and one.n_pixels > 1000
    for size in (0.0, 0.05, 0.5):
        y = size * one.intensity * rng.standard_normal(len(one.slope))
        u = 0.1 * size * np.array([1.0, 1e-3, 1e-3, 1e-3]) * rng.standard_normal(4)
        pixels = pixels_of(model, planes, one, y, model_error)
        assert loss(one, y, u) == pytest.approx(loss_of_pixels(pixels, u), rel=1e-6)
        best = np.linalg.solve(one.nuisance, one.score - one.cross.T @ y)
        assert loss(one, y, best) == pytest.approx(loss_of_pixels(pixels, None), rel=1e-6)


def test_columns_are_the_channels_that_light_a_shoebox(patched):
    """They are whole runs of channels of a reflection; what is left out is dimmer than `DIM`."""
    model = patched.models[1]
    problem = model.problem
    one = gram.gram(model, patched.planes[1])
    templates = of_channels(model, np.zeros(4)).toarray()
    intensity = np.asarray(problem.start.f_squared).ravel()
    column = columns_of(one, model)
    for box, (a, b) in enumerate(pairwise(problem.data.start)):
        own = slice(one.start[box], one.start[box + 1])
        of_box = column[own]
        photons = templates[a:b].sum(axis=0) * intensity
        assert np.delete(photons, of_box).max() <= gram.DIM
        np.testing.assert_allclose(one.intensity[own], intensity[of_box])
        nodes, channels = np.divmod(of_box, 20)
        for node in np.unique(nodes):
            np.testing.assert_array_equal(np.diff(channels[nodes == node]), 1)


@pytest.fixture
def flat(patched):
    """A model whose |F|² are the same in all channels."""
    problem = patched.models[0].problem
    f_squared = np.asarray(problem.start.f_squared)
    mean = np.maximum(f_squared.mean(axis=1, keepdims=True), 1.0)
    start = problem.start._replace(f_squared=np.broadcast_to(mean, f_squared.shape))
    return lattice_fit.Model(problem._replace(start=start), patched.models[0].free)


def test_templates_of_nodes_are_those_of_channels_together(flat):
    at_start = np.zeros(flat.n_unknowns)
    n_channels = len(flat.problem.start.spectrum.photons)
    by_channel = of_channels(flat, at_start).toarray()
    together = by_channel.reshape(len(by_channel), -1, n_channels).sum(axis=2)
    of_node = of_nodes(flat, at_start).toarray()
    np.testing.assert_allclose(of_node, together, rtol=1e-4, atol=1e-6 * together.max())
    f_squared = np.asarray(flat.problem.start.f_squared)[:, 0]
    np.testing.assert_allclose(of_node @ f_squared, flat.photons(at_start), rtol=1e-4, atol=1e-3)


def test_a_flat_reflection_is_one_column(flat, patched):
    """The columns of its channels added up: the same parabola in what is common to them."""
    planes = patched.planes[0]
    typical = np.asarray(flat.problem.start.f_squared)[:, 0]
    one = gram.gram(flat, planes, typical=typical)
    many = gram.gram(flat, planes)
    assert len(one.slope) < 0.2 * len(many.slope)
    u = np.array([0.01, 1e-5, 1e-5, 1e-5])
    shift = 0.02
    by_one = loss(one, shift * one.intensity, u)
    by_many = loss(many, shift * many.intensity, u)
    assert by_one - one.loss == pytest.approx(by_many - many.loss, rel=1e-3)


def test_groups_of_shoeboxes_add_up(patched):
    model = patched.models[2]
    planes = patched.planes[2]
    is_first = np.arange(len(planes)) % 3 == 0
    whole = gram.gram(model, planes)
    first, second = gram.grams(model, planes, [is_first, ~is_first])
    restraint = np.diag(1.0 / model.filled(restraints.SIGMAS) ** 2)
    assert first.loss + second.loss == pytest.approx(whole.loss)
    np.testing.assert_allclose(first.nuisance + second.nuisance - restraint, whole.nuisance)
    np.testing.assert_allclose(first.score + second.score, whole.score)
    assert first.n_pixels + second.n_pixels == whole.n_pixels
    assert len(first.normal) + len(second.normal) == len(whole.normal)


def test_an_error_of_the_model_is_found_in_residuals():
    """One of known size is drawn; none is found where there is none."""
    rng = np.random.default_rng(3)
    noise = Noise(1.0, 0.01)
    bragg = rng.gamma(1.0, 300.0, 40_000)
    model = bragg + 10.0
    of_pixel, of_model = rng.standard_normal((2, len(model)))
    photons = model + of_pixel * np.sqrt(variance(model, noise))
    wrong = photons + 0.15 * bragg * of_model
    assert gram.model_error(model, bragg, photons, noise) < 0.02
    assert gram.model_error(model, bragg, wrong, noise) == pytest.approx(0.15, rel=0.05)


def test_moved_photons_make_none():
    """The weights are the inverse of the covariance, and where errors are large an intensity is
    that of a summation.
    """
    rng = np.random.default_rng(2)
    bragg = rng.uniform(1.0, 50.0, 12)
    counted = bragg + 3.0
    error = 0.4
    own = 1.0 / (counted + (error * bragg) ** 2)
    weights = gram._moved(own, error, bragg)
    square = bragg**2
    covariance = np.diag(1.0 / own) - error**2 * np.outer(square, square) / square.sum()
    inverse = np.diag(weights.weight) + np.outer(weights.together, weights.together)
    np.testing.assert_allclose(inverse @ covariance, np.eye(12), atol=1e-10)
    assert gram._moved(own, 0.0, bragg).together is None

    error = 1e4
    own = 1.0 / (counted + (error * bragg) ** 2)
    weights = gram._moved(own, error, bragg)
    data = rng.permutation(bragg)
    inverse = np.diag(weights.weight) + np.outer(weights.together, weights.together)
    intensity = (bragg @ inverse @ data) / (bragg @ inverse @ bragg)
    assert intensity == pytest.approx(data.sum() / bragg.sum(), rel=1e-4)
