"""A lattice without its pixels: the parabola of its Gram matrices is the one of the pixels."""

from itertools import pairwise

import numpy as np
import pytest

from spreadflow.analysis.curves import gram
from spreadflow.analysis.pixels import lattice_fit, restraints, solve
from spreadflow.analysis.pixels.likelihood import Noise, variance


def columns_of(made: gram.Gram, model: lattice_fit.Model) -> np.ndarray:
    """(column,) in the templates of all nodes and channels."""
    nodes = {tuple(h): i for i, h in enumerate(np.asarray(model.problem.start.hkl).tolist())}
    rows = np.array([nodes[tuple(h)] for h in made.hkl.tolist()])
    return rows * model.problem.start.f_squared.shape[1] + made.channel


def by_pixels(
    model, planes, made: gram.Gram, y: np.ndarray, u: np.ndarray | None, model_error: float
) -> float:
    """½ Σ (data − model)²/V + ½ Σ u²/σ² over all pixels; planes and, where u is not given, unknowns
    that suit best.
    """
    of = model.problem
    data = model.problem.data
    bragg, jacobian = model(np.zeros(model.n_unknowns))
    expected = bragg + solve.backgrounds(planes, data)
    weight = 1.0 / (variance(expected, of.noise) + (model_error * bragg) ** 2)
    templates = model.templates(np.zeros(model.n_unknowns))
    column = columns_of(made, model)
    brighter = np.zeros(len(bragg))
    rows = []
    targets = []
    for box, (a, b) in enumerate(pairwise(data.start)):
        mine = slice(made.start[box], made.start[box + 1])
        brighter[a:b] = templates[a:b][:, column[mine]] @ y[mine]
    n = model.n_unknowns
    n_boxes = len(data.start) - 1
    design = np.zeros((len(bragg), n + 3 * n_boxes))
    design[:, :n] = jacobian
    for box, (a, b) in enumerate(pairwise(data.start)):
        design[a:b, n + 3 * box : n + 3 * box + 3] = data.plane[a:b]
        own = data.plane[a:b].T @ (weight[a:b, None] * data.plane[a:b])
        rows += [
            np.sqrt(solve.RIDGE * np.trace(own))
        ] * 3  # the ridge of a plane is a weak restraint
    target = np.sqrt(weight) * (data.photons - expected - brighter)
    weak = np.diag(np.concatenate([1.0 / model.filled(restraints.SIGMAS), rows]))
    if u is not None:
        target = target - np.sqrt(weight) * (jacobian @ u)
        design[:, :n], weak[:n, :n] = 0.0, np.eye(n)
        targets = [0.5 * np.sum((u / model.filled(restraints.SIGMAS)) ** 2)]
    every = np.concatenate([np.sqrt(weight)[:, None] * design, weak])
    said = np.concatenate([target, np.zeros(len(weak))])
    left = said - every @ np.linalg.lstsq(every, said)[0]
    return 0.5 * float(left @ left) + sum(targets)


def loss(made: gram.Gram, y: np.ndarray, u: np.ndarray) -> float:
    """As the class says."""
    done, quadratic = 0, 0.0
    for a, b in pairwise(made.start):
        G = np.zeros((b - a, b - a))
        G[np.tril_indices(b - a)] = made.normal[done : (done := done + (b - a) * (b - a + 1) // 2)]
        G = G + np.tril(G, -1).T
        quadratic += 0.5 * y[a:b] @ G @ y[a:b]
    linear = made.loss - made.slope @ y - made.score @ u
    return linear + quadratic + y @ made.cross @ u + 0.5 * u @ made.nuisance @ u


def test_what_is_known_beside_the_pixels_is_part_of_the_parabola(patched):
    """In place of the weak restraints, about where it is told."""
    model = patched.models[0]
    planes = patched.planes[0]
    rng = np.random.default_rng(1)
    about = model.parameters(np.array([0.1, 2e-4, -1e-4, 3e-4]))
    knowing = lattice_fit.Model(
        model.problem._replace(
            restraints=restraints.Restraints(about, {"scale": 0.05, "rotation": 2e-4})
        ),
        model.free,
    )
    weak = gram.gram(model, planes)
    known = gram.gram(knowing, planes)
    for _ in range(3):
        u = np.array([0.1, 3e-4, 3e-4, 3e-4]) * rng.standard_normal(4)
        more = knowing.restraint().loss(u) - model.restraint().loss(u)
        y = np.zeros(len(weak.slope))
        assert loss(known, y, u) - loss(weak, y, u) == pytest.approx(more, abs=1e-6)
        assert knowing.restraint().loss(u) == pytest.approx(
            0.5 * ((u[0] - 0.1) / 0.05) ** 2
            + 0.5 * np.sum(((u[1:] - [2e-4, -1e-4, 3e-4]) / 2e-4) ** 2),
            rel=1e-4,
        )


@pytest.mark.stage
@pytest.mark.parametrize("model_error", [0.0, 0.1])
def test_the_parabola_is_that_of_the_pixels(patched, model_error):
    """For any |F|² of the columns, and any scale and rotation or those that suit it best."""
    rng = np.random.default_rng(0)
    model = patched.models[0]
    planes = patched.planes[0]
    made = gram.gram(model, planes, model_error=model_error)
    assert len(made.slope) > 150 and made.n_pixels > 1000
    for size in (0.0, 0.05, 0.5):
        y = size * made.intensity * rng.standard_normal(len(made.slope))
        u = 0.1 * size * np.array([1.0, 1e-3, 1e-3, 1e-3]) * rng.standard_normal(4)
        assert loss(made, y, u) == pytest.approx(
            by_pixels(model, planes, made, y, u, model_error), rel=1e-6
        )
        best = np.linalg.solve(made.nuisance, made.score - made.cross.T @ y)
        assert loss(made, y, best) == pytest.approx(
            by_pixels(model, planes, made, y, None, model_error), rel=1e-6
        )


def test_columns_are_the_channels_that_light_a_shoebox(patched):
    """Whole runs of channels of a reflection; what is left out is dimmer than told."""
    model = patched.models[1]
    made = gram.gram(model, patched.planes[1])
    templates = model.templates(np.zeros(4)).toarray()
    intensity = np.asarray(model.problem.start.f_squared).ravel()
    column = columns_of(made, model)
    for box, (a, b) in enumerate(pairwise(model.problem.data.start)):
        mine = column[made.start[box] : made.start[box + 1]]
        photons = templates[a:b].sum(axis=0) * intensity
        assert np.delete(photons, mine).max() <= gram.DIM
        np.testing.assert_allclose(
            made.intensity[made.start[box] : made.start[box + 1]], intensity[mine]
        )
        for node in np.unique(mine // 20):
            channels = mine[mine // 20 == node] % 20
            np.testing.assert_array_equal(np.diff(channels), 1)


def test_groups_of_shoeboxes_add_up(patched):
    model = patched.models[2]
    planes = patched.planes[2]
    some = np.arange(len(planes)) % 3 == 0
    whole = gram.gram(model, planes)
    one, other = gram.grams(model, planes, [some, ~some])
    restraint = np.diag(1.0 / model.filled(restraints.SIGMAS) ** 2)
    assert one.loss + other.loss == pytest.approx(whole.loss)
    np.testing.assert_allclose(one.nuisance + other.nuisance - restraint, whole.nuisance)
    np.testing.assert_allclose(one.score + other.score, whole.score)
    assert one.n_pixels + other.n_pixels == whole.n_pixels and len(one.normal) + len(
        other.normal
    ) == len(whole.normal)


def test_an_error_of_the_model_is_found_in_residuals():
    """Of known size, drawn; none where there is none."""
    rng = np.random.default_rng(3)
    noise = Noise(1.0, 0.01)
    bragg = rng.gamma(1.0, 300.0, 40_000)
    model = bragg + 10.0
    drawn = rng.standard_normal((2, len(model)))
    photons = model + drawn[0] * np.sqrt(variance(model, noise))
    assert gram.model_error(model, bragg, photons, noise) < 0.02
    assert gram.model_error(
        model, bragg, photons + 0.15 * bragg * drawn[1], noise
    ) == pytest.approx(0.15, rel=0.05)
