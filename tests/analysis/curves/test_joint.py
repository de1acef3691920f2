"""Curves together with |F| of every reflection, on Gram matrices made at random and of known
truth.
"""

import numpy as np
import pytest

from spreadflow.analysis.curves import controls, dispersion, expand, joint
from spreadflow.analysis.curves.expand import LatticeTerms
from spreadflow.analysis.curves.gram import Gram

ENERGIES = 7100.5 + np.arange(12.0)
NODES = np.arange(7101.0, 7112.0, 2.0)
N_REFLECTIONS = 9
N_NUISANCES = 3
FREE = dispersion.free(np.zeros((2, 2, 12)), ENERGIES, NODES)
THETA = np.sin(np.arange(4.0 * len(NODES)))
TRUE = FREE.curves(THETA)
"""(site, 2, channel)"""


@pytest.fixture(scope="module")
def p():
    return FREE


def lattice(
    seed: int, errors: np.ndarray, curves: np.ndarray, noise: float
) -> tuple[LatticeTerms, np.ndarray]:
    """A lattice of four shoeboxes; errors: (reflection,) relative, of F in the model."""
    rng = np.random.default_rng(seed)
    nature = np.random.default_rng(7)
    table = 40.0 * (nature.standard_normal((N_REFLECTIONS, 2)) @ [1, 1j])
    g = nature.standard_normal((2, N_REFLECTIONS, 2)) @ [1, 1j] * 8.0
    reflection = rng.choice(N_REFLECTIONS, 4, replace=False).repeat(12)
    channel = np.tile(np.arange(12), 4)
    fixed = table[reflection] + 0j
    groups = g[:, reflection]
    of_sites = groups * (curves[:, 0] + 1j * curves[:, 1])[:, channel]
    true = np.abs(fixed * (1 + errors[reflection]) + of_sites.sum(axis=0)) ** 2
    intensity = np.abs(fixed) ** 2
    change = (true - intensity).reshape(4, 12)
    T = np.abs(rng.standard_normal((4, 40, 12)))
    J = rng.standard_normal((4, 40, N_NUISANCES))
    residual = np.einsum("bpc,bc->bp", T, change) + noise * rng.standard_normal((4, 40))
    residual += J @ rng.standard_normal(N_NUISANCES)
    weight = max(noise, 1.0) ** -2.0
    normal = [weight * (t.T @ t)[np.tril_indices(12)] for t in T]
    gram = Gram(
        start=12 * np.arange(5),
        hkl=np.zeros((48, 3), dtype=int),
        channel=channel,
        intensity=intensity,
        slope=weight * np.einsum("bpc,bp->bc", T, residual).ravel(),
        cross=weight * np.einsum("bpc,bpn->bcn", T, J).reshape(48, -1),
        nuisance=weight * np.einsum("bpn,bpm->nm", J, J) + 1e-6 * np.eye(N_NUISANCES),
        score=weight * np.einsum("bpn,bp->n", J, residual),
        normal=np.concatenate(normal),
        loss=0.5 * weight * float((residual**2).sum()),
        n_pixels=160,
    )
    return LatticeTerms(gram, fixed, groups), reflection


def loss(lattices, p, theta, u):
    applied = [joint.scaled(terms, reflection, u) for terms, reflection in lattices]
    return expand.normal(applied, p, theta).losses.sum()


def refined_alone(lattices, p):
    """Curves refined without |F|."""
    terms = [of_lattice for of_lattice, _ in lattices]
    return expand.refine(lambda theta: expand.normal(terms, p, theta), p, np.zeros(len(p.names)))


def evaluator(lattices, p, sigma):
    """θ → normal equations of the curves, |F| where it is likeliest."""
    return joint.evaluator(
        lambda theta, u: joint.coupled(lattices, p, theta, u), N_REFLECTIONS, sigma
    )


def test_slopes_and_mixed_derivatives_are_differences(p):
    rng = np.random.default_rng(1)
    lattices = [lattice(i, np.zeros(N_REFLECTIONS), TRUE, 1.0) for i in range(3)]
    theta = 0.1 * rng.standard_normal(len(p.names))
    u = 0.01 * rng.standard_normal(N_REFLECTIONS)
    equations = joint.coupled(lattices, p, theta, u)
    steps = 1e-5 * np.eye(N_REFLECTIONS)
    slopes = [
        (loss(lattices, p, theta, u + s) - loss(lattices, p, theta, u - s)) / 2e-5 for s in steps
    ]
    assert equations.slopes.sum(axis=0) == pytest.approx(slopes, rel=1e-6)


def test_a_shoebox_without_columns_changes_nothing(p):
    """No channel of its reflections is bright enough to be kept."""
    terms, reflection = lattice(1, np.zeros(N_REFLECTIONS), TRUE, 1.0)
    start = np.insert(terms.gram.start, 1, terms.gram.start[1])
    more = terms._replace(gram=terms.gram._replace(start=start))
    u = np.full(N_REFLECTIONS, 0.01)
    with_it, without = (
        joint.coupled([(one, reflection)], p, 0.1 * THETA, u) for one in (more, terms)
    )
    np.testing.assert_array_equal(with_it.across, without.across)
    np.testing.assert_array_equal(with_it.hessian, without.hessian)
    np.testing.assert_array_equal(with_it.curves.hessian, without.curves.hessian)


def test_information_is_the_differences_of_slopes_where_the_model_is_right(p):
    exact = [lattice(i, np.zeros(N_REFLECTIONS), np.zeros((2, 2, 12)), 0.0) for i in range(3)]
    theta = np.zeros(len(p.names))
    u = np.zeros(N_REFLECTIONS)
    equations = joint.coupled(exact, p, theta, u)
    hessian = equations.hessian
    across = equations.across
    for i, step in enumerate(1e-6 * np.eye(N_REFLECTIONS)):
        up = joint.coupled(exact, p, theta, step)
        down = joint.coupled(exact, p, theta, -step)
        by_u = (up.slopes - down.slopes).sum(axis=0) / 2e-6
        assert by_u == pytest.approx(hessian[i], abs=1e-5 * np.abs(hessian).max())
        mixed = (up.curves.scores - down.curves.scores).sum(axis=0) / 2e-6
        assert mixed == pytest.approx(across[i], abs=1e-5 * np.abs(across).max())


def test_what_each_lattice_says_adds_up_to_what_all_say(p):
    """With reflections that follow the curves; their restraint says the rest."""
    sigma = 0.05
    errors = 0.05 * np.random.default_rng(5).standard_normal(N_REFLECTIONS)
    lattices = [lattice(i, errors, TRUE, 30.0) for i in range(8)]

    def sums(theta, u):
        return joint.coupled(lattices, p, theta, u)

    rest = joint.likeliest(sums, THETA, np.zeros(N_REFLECTIONS), sigma)
    parts = [joint.information(*of_lattice, rest, p, THETA) for of_lattice in lattices]
    of_restraint = rest.follows.T @ rest.follows / sigma**2
    hessian = evaluator(lattices, p, sigma)(THETA).hessian
    largest = np.abs(hessian).max()
    np.testing.assert_allclose(np.sum(parts, axis=0) + of_restraint, hessian, atol=1e-8 * largest)
    assert all(np.linalg.eigvalsh(part).min() > -1e-9 * largest for part in parts)


@pytest.mark.stage
def test_wrong_amplitudes_no_longer_bias_curves(p):
    errors = 0.02 * np.random.default_rng(5).standard_normal(N_REFLECTIONS)
    lattices = [lattice(i, errors, TRUE, 300.0) for i in range(60)]
    alone = refined_alone(lattices, p)
    both = expand.refine(evaluator(lattices, p, 0.02), p, np.zeros(len(p.names)))

    def pull(r):
        return (r.theta - THETA) / np.sqrt(np.diag(r.fisher))

    assert np.std(pull(alone)) > 2.0
    assert 0.6 < np.std(pull(both)) < 1.4


def test_without_freedom_it_is_the_refinement_of_curves(p):
    lattices = [lattice(i, np.zeros(N_REFLECTIONS), TRUE, 30.0) for i in range(20)]
    alone = refined_alone(lattices, p)
    held = expand.refine(evaluator(lattices, p, 1e-7), p, np.zeros(len(p.names)))
    assert held.theta == pytest.approx(alone.theta, abs=1e-5)
    assert np.diag(held.fisher) == pytest.approx(np.diag(alone.fisher), rel=1e-4)


@pytest.mark.stage
def test_the_loss_is_a_function_of_the_curves_and_the_scores_are_its_slopes(p):
    """Both are, whatever was asked for before. Second derivatives are those of Gauss-Newton, and
    not compared here.
    """
    rng = np.random.default_rng(2)
    errors = 0.1 * rng.standard_normal(N_REFLECTIONS)
    lattices = [lattice(i, errors, TRUE, 30.0) for i in range(12)]

    def fresh(theta):
        return evaluator(lattices, p, 0.05)(theta)

    theta = rng.standard_normal(len(p.names))
    used = evaluator(lattices, p, 0.05)
    used(-theta)
    losses = fresh(theta).losses
    np.testing.assert_allclose(used(theta).losses, losses, atol=1e-4)
    np.testing.assert_allclose(used(theta).losses.sum(), losses.sum(), atol=3e-7)
    scores = fresh(theta).scores.sum(axis=0)
    step = 1e-2
    for k in (0, 7, 20):
        ahead = step * np.eye(len(theta))[k]
        difference = fresh(theta + ahead).losses.sum() - fresh(theta - ahead).losses.sum()
        assert difference / (2 * step) == pytest.approx(scores[k], abs=1e-3 * np.abs(scores).max())


def test_reflections_rest_where_the_loss_with_their_restraint_is_least(p):
    rng = np.random.default_rng(3)
    sigma = 0.05
    lattices = [lattice(i, 0.1 * rng.standard_normal(N_REFLECTIONS), TRUE, 30.0) for i in range(12)]
    theta = THETA
    asked = []

    def sums(theta, u):
        asked.append(u)
        return joint.coupled(lattices, p, theta, u)

    def total(u):
        return loss(lattices, p, theta, u) + 0.5 * u @ u / sigma**2

    loss_at_rest = joint.evaluator(sums, N_REFLECTIONS, sigma)(theta).losses.sum()
    at_rest = asked[-1]
    least = total(at_rest)
    assert loss_at_rest == pytest.approx(least, rel=1e-9) and np.abs(at_rest).max() > 0.02
    for step in 1e-3 * rng.standard_normal((20, N_REFLECTIONS)):
        assert total(at_rest + step) > least


@pytest.mark.stage
def test_sites_that_are_alike_may_be_swapped(p):
    """Reflections that have moved are no sign of the sites: their curves are the same in nature."""
    alike = np.tile(THETA[: len(THETA) // 2], 2)
    errors = 0.05 * np.random.default_rng(5).standard_normal(N_REFLECTIONS)
    lattices = [lattice(i, errors, p.curves(alike), 300.0) for i in range(50)]

    best = expand.refine(evaluator(lattices, p, 0.05), p, alike)
    swapped = controls.nearest(p, p.curves(best.theta)[::-1])
    worse = evaluator(lattices, p, 0.05)(swapped).losses - best.losses
    assert 0.0 < worse.mean() < controls.WORSE_LABELS
