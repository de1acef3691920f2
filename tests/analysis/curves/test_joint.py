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
N_REFLECTIONS, N_NUISANCES = 9, 3
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
    """A lattice of four shoeboxes; errors: (reflection,) of F in nature, which the model does not
    know.
    """
    rng = np.random.default_rng(seed)
    nature = np.random.default_rng(7)
    table = 40.0 * (nature.standard_normal((N_REFLECTIONS, 2)) @ [1, 1j])
    g = nature.standard_normal((2, N_REFLECTIONS, 2)) @ [1, 1j] * 8.0
    which = rng.choice(N_REFLECTIONS, 4, replace=False)
    reflection = which.repeat(12)
    channel = np.tile(np.arange(12), 4)
    fixed = table[reflection] + 0j
    groups = g[:, reflection]
    f = curves[:, 0] + 1j * curves[:, 1]
    true = np.abs(fixed * (1 + errors[reflection]) + (groups * f[:, channel]).sum(axis=0)) ** 2
    intensity = np.abs(fixed) ** 2
    T = np.abs(rng.standard_normal((4, 40, 12)))
    J = rng.standard_normal((4, 40, N_NUISANCES))
    residual = np.einsum(
        "bpc,bc->bp", T, (true - intensity).reshape(4, 12)
    ) + noise * rng.standard_normal((4, 40))
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


def losses(made, p, theta, u):
    return expand.normal([joint.scaled(of, r, u) for of, r in made], p, theta).losses.sum()


def test_slopes_and_mixed_derivatives_are_differences(p):
    rng = np.random.default_rng(1)
    made = [lattice(i, np.zeros(N_REFLECTIONS), TRUE, 1.0) for i in range(3)]
    theta = 0.1 * rng.standard_normal(len(p.names))
    u = 0.01 * rng.standard_normal(N_REFLECTIONS)
    at = joint.coupled(made, p, theta, u)
    step = 1e-5 * np.eye(N_REFLECTIONS)
    slopes = [(losses(made, p, theta, u + s) - losses(made, p, theta, u - s)) / 2e-5 for s in step]
    assert at.slopes.sum(axis=0) == pytest.approx(slopes, rel=1e-6)


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
    at = joint.coupled(exact, p, theta, u)
    for i in range(N_REFLECTIONS):
        h = np.zeros(N_REFLECTIONS)
        h[i] = 1e-6
        up, down = (joint.coupled(exact, p, theta, s * h) for s in (1, -1))
        scale = np.abs(at.hessian).max()
        assert (up.slopes - down.slopes).sum(axis=0) / 2e-6 == pytest.approx(
            at.hessian[i], abs=1e-5 * scale
        )
        mixed = (up.curves.scores - down.curves.scores).sum(axis=0) / 2e-6
        assert mixed == pytest.approx(at.across[i], abs=1e-5 * np.abs(at.across).max())


@pytest.mark.stage
def test_wrong_amplitudes_no_longer_bias_curves(p):
    errors = 0.02 * np.random.default_rng(5).standard_normal(N_REFLECTIONS)
    made = [lattice(i, errors, TRUE, 300.0) for i in range(60)]
    alone = expand.refine(
        lambda theta: expand.normal([of for of, _ in made], p, theta), p, np.zeros(len(p.names))
    )

    def sums(theta, u):
        return joint.coupled(made, p, theta, u)

    both = expand.refine(joint.evaluator(sums, N_REFLECTIONS, 0.02), p, np.zeros(len(p.names)))

    def pull(r):
        return (r.theta - THETA) / np.sqrt(np.diag(r.fisher))

    assert np.std(pull(alone)) > 2.0
    assert 0.6 < np.std(pull(both)) < 1.4


def test_without_freedom_it_is_the_refinement_of_curves(p):
    made = [lattice(i, np.zeros(N_REFLECTIONS), TRUE, 30.0) for i in range(20)]
    alone = expand.refine(
        lambda theta: expand.normal([of for of, _ in made], p, theta), p, np.zeros(len(p.names))
    )

    def sums(theta, u):
        return joint.coupled(made, p, theta, u)

    held = expand.refine(joint.evaluator(sums, N_REFLECTIONS, 1e-7), p, np.zeros(len(p.names)))
    assert held.theta == pytest.approx(alone.theta, abs=1e-5)
    assert np.diag(held.fisher) == pytest.approx(np.diag(alone.fisher), rel=1e-4)


@pytest.mark.stage
def test_the_loss_is_a_function_of_the_curves_and_the_scores_are_its_slopes(p):
    """Whatever was asked for before. Second derivatives are those of Gauss-Newton: nothing is told
    of them here.
    """
    rng = np.random.default_rng(2)
    errors = 0.1 * rng.standard_normal(N_REFLECTIONS)
    made = [lattice(i, errors, TRUE, 30.0) for i in range(12)]

    def sums(theta, u):
        return joint.coupled(made, p, theta, u)

    def fresh(theta):
        return joint.evaluator(sums, N_REFLECTIONS, 0.05)(theta)

    theta = rng.standard_normal(len(p.names))
    used = joint.evaluator(sums, N_REFLECTIONS, 0.05)
    used(-theta)
    np.testing.assert_allclose(used(theta).losses, fresh(theta).losses, atol=1e-4)
    np.testing.assert_allclose(used(theta).losses.sum(), fresh(theta).losses.sum(), atol=3e-7)
    scores = fresh(theta).scores.sum(axis=0)
    step = 1e-2
    for k in (0, 7, 20):
        ahead = step * np.eye(len(theta))[k]
        slope = (fresh(theta + ahead).losses.sum() - fresh(theta - ahead).losses.sum()) / (2 * step)
        assert slope == pytest.approx(scores[k], abs=1e-3 * np.abs(scores).max())


def test_reflections_rest_where_the_loss_with_their_restraint_is_least(p):
    rng = np.random.default_rng(3)
    sigma = 0.05
    made = [lattice(i, 0.1 * rng.standard_normal(N_REFLECTIONS), TRUE, 30.0) for i in range(12)]
    theta = THETA
    asked = []

    def sums(theta, u):
        asked.append(u)
        return joint.coupled(made, p, theta, u)

    def total(u):
        return losses(made, p, theta, u) + 0.5 * u @ u / sigma**2

    found = joint.evaluator(sums, N_REFLECTIONS, sigma)(theta).losses.sum()
    least = total(asked[-1])
    assert found == pytest.approx(least, rel=1e-9) and np.abs(asked[-1]).max() > 0.02
    for step in 1e-3 * rng.standard_normal((20, N_REFLECTIONS)):
        assert total(asked[-1] + step) > least


@pytest.mark.stage
def test_sites_that_are_alike_may_be_swapped(p):
    """Reflections that have moved are no sign of the sites: their curves are the same in nature."""
    alike = np.tile(THETA[: len(THETA) // 2], 2)
    errors = 0.05 * np.random.default_rng(5).standard_normal(N_REFLECTIONS)
    made = [lattice(i, errors, p.curves(alike), 300.0) for i in range(50)]

    def evaluator():
        return joint.evaluator(lambda at, u: joint.coupled(made, p, at, u), N_REFLECTIONS, 0.05)

    best = expand.refine(evaluator(), p, alike)
    swapped = controls.nearest(p, p.curves(best.theta)[::-1])
    worse = evaluator()(swapped).losses - best.losses
    assert 0.0 < worse.mean() < controls.WORSE_LABELS
