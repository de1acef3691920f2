"""Curves from few unknowns: the dispersion integral against a numerical one and an exact pair,
restraints, weakness.
"""

import numpy as np
import pytest

from spreadflow.analysis.curves import dispersion
from spreadflow.physics import anomalous

ENERGIES = np.arange(100) + 7070.5
NODES = {step: np.arange(7070.0, 7171.0, step) for step in (1.0, 2.0, 4.0)}
BUILDERS = [dispersion.free, dispersion.kramers_kronig]


def stacked(*curves: np.ndarray) -> np.ndarray:
    """(site, 2, channel) of complex curves."""
    return np.stack([np.real(curves), np.imag(curves)], axis=1)


def sites(energies: np.ndarray) -> np.ndarray:
    return stacked(*(anomalous.site("Fe", name, energies) for name in ("oxidized", "reduced")))


REFERENCE = sites(ENERGIES).mean(axis=0)[None].repeat(2, axis=0)


def oscillator(energies: np.ndarray, centre: float, width: float) -> np.ndarray:
    """f' + i f'' of E²·s/(E² − E0² + iΓE) with f'' > 0, 3.6 e at its highest."""
    strength = 3.6 * width / centre
    return np.conj(strength * energies**2 / (energies**2 - centre**2 + 1j * width * energies))


@pytest.mark.parametrize("energy", [7069.0, 7070.0, 7088.0, 7099.4, 7108.0, 7109.3])
@pytest.mark.parametrize("node", [0, 9, 25])
def test_the_dispersion_integral_of_a_node_is_that_of_numerical_integration(energy, node):
    """P∫ by subtracting the pole: symmetric about it, ∫(g(x) − g(E))/(E − x) dx."""
    nodes = NODES[4.0]
    x = energy + 150.0 * np.linspace(-1.0, 1.0, 400001)
    x = 0.5 * (x[1:] + x[:-1])

    def g(x):
        hat = np.maximum(0.0, 1.0 - np.abs(x - nodes[node]) / 4.0)
        return x / (energy + x) * hat

    integrand = (g(x) - g(energy)) / (energy - x)
    numerical = 2.0 / np.pi * np.sum(integrand) * (x[1] - x[0])
    integral = dispersion.dispersion(np.array([energy]), nodes)
    assert integral[0, node] == pytest.approx(numerical, abs=1e-5)


@pytest.mark.parametrize(("width", "step"), [(12.0, 1.0), (20.0, 2.0), (30.0, 4.0)])
def test_an_oscillator_whose_resonance_moved_by_2_ev(width, step):
    """The reference is the pair before; f'' at the nodes gives f' after to 0.02 e, but for the
    tails' straight line.
    """
    reference, truth = (stacked(oscillator(ENERGIES, centre, width)) for centre in (7119.0, 7121.0))
    p = dispersion.kramers_kronig(reference, ENERGIES, NODES[step])
    after = oscillator(NODES[step], 7121.0, width).imag
    before = oscillator(NODES[step], 7119.0, width).imag
    recovered = p.curves(np.append(after - before, [0.0, 0.0]))
    left = (truth - recovered)[0, 0]
    tails = np.polynomial.Polynomial.fit(ENERGIES, left, 1)
    assert np.abs(truth - reference)[0, 0].max() > 0.25
    assert np.abs(left - tails(ENERGIES)).max() < 0.02


def test_the_oscillator_is_recovered_from_pixels(curve_pixels):
    reference, truth = (
        stacked(*[oscillator(ENERGIES, centre, 20.0)] * 2) for centre in (7119.0, 7121.0)
    )
    p = dispersion.kramers_kronig(reference, ENERGIES, NODES[2.0])
    theta, _ = curve_pixels.refined(p, curve_pixels.slope(truth))
    band = (ENERGIES > 7100.0) & (ENERGIES < 7140.0)
    assert np.abs(p.curves(theta) - truth)[:, :, band].max() < 0.02


@pytest.mark.parametrize("build", BUILDERS)
def test_unknowns_are_where_their_names_say(build):
    p = build(REFERENCE, ENERGIES, NODES[2.0])
    theta = np.array([float(name == "site 1: f'' at 7112 eV") for name in p.names])
    moved = p.curves(theta) - REFERENCE
    np.testing.assert_allclose(moved[1, 1, 40:44], [0.25, 0.75, 0.75, 0.25])
    assert np.abs(moved[1, 1]).sum() == pytest.approx(2.0) and not moved[0].any()
    node = p.nodes_ev.searchsorted(7112.0)
    assert (p.at_nodes @ theta).reshape(2, 2, -1)[1, 1, node] == 1.0
    assert p.theta_ev[theta.argmax()] == 7112.0
    assert len(p.names) == len(theta) == p.basis.shape[1]


def test_a_straight_line_is_exact_between_nodes_and_ends_a_step_beyond():
    nodes = np.array([7080.0, 7081.0, 7085.0, 7089.0])
    energies = np.array([7078.0, 7079.0, 7079.5, 7080.0, 7083.3, 7089.0, 7091.0, 7093.0, 7099.0])
    expected = [0.0, 0.0, 0.5, 1.0, 4.3, 10.0, 5.0, 0.0, 0.0]
    line = dispersion.hats(energies, nodes) @ (nodes - 7079.0)
    np.testing.assert_allclose(line, expected, atol=1e-9)


@pytest.mark.stage
@pytest.mark.parametrize(
    "restrain", [lambda p: p, dispersion.toward_kramers_kronig, dispersion.smooth]
)
@pytest.mark.parametrize("build", BUILDERS)
def test_errors_are_as_large_as_their_sigma(curve_pixels, build, restrain):
    """θ drawn from the restraints, noise from the pixels: pulls at every node, dark ones included,
    are normal.
    """
    p = restrain(build(REFERENCE, ENERGIES, NODES[4.0]))
    prior = np.linalg.inv(p.restraints)
    centre = prior @ p.rows.T @ (p.precision * p.target)
    root = np.linalg.cholesky(prior)
    rng = np.random.default_rng(1)
    pulls = []
    for _ in range(60):
        truth = centre + root @ rng.standard_normal(len(centre))
        theta, pixels = curve_pixels.refined(p, curve_pixels.slope(p.curves(truth), rng))
        sigma = p.sigma(np.linalg.inv(pixels + p.restraints))
        pulls.append((p.at_nodes @ (theta - truth)).reshape(sigma.shape) / sigma)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.06)
    assert abs(np.mean(pulls)) < 0.05


def test_smoothness_of_a_ramp_is_that_of_steps_of_1_ev_on_any_grid():
    """½ Σ (slope − mean)²/σ² over 1 eV steps from first to last node, whether reference or
    deviation has the ramp.
    """
    ramp = np.array([[[0.1], [0.05]], [[-0.2], [0.03]]]) * (ENERGIES - 7120.0)
    expected = 0.5 * 84.0 * ((0.1**2 + 0.2**2) / 0.1**2 + 0.02**2 / 0.2**2)
    for nodes in (
        np.arange(7080.0, 7165.0, 1.0),
        np.arange(7080.0, 7165.0, 4.0),
        np.array([7080.0, 7095.0, 7164.0]),
    ):
        first = ramp[:, :, :1]
        slope = ramp[:, :, 1:2] - first
        at_nodes = first + slope * (nodes - ENERGIES[0])
        for reference, theta in ((ramp, 0.0 * at_nodes), (0.0 * ramp, at_nodes)):
            weak = dispersion.free(reference, ENERGIES, nodes)
            p = dispersion.smooth(weak)
            n = len(weak.rows)
            away = p.rows[n:] @ theta.ravel() - p.target[n:]
            cost = 0.5 * p.precision[n:] @ away**2
            assert cost == pytest.approx(expected, rel=1e-9)


def test_toward_known_states_weighs_as_a_measurement(curve_pixels):
    """Without light a node is where the restraints say; with it, restraint and pixels are weighted
    by variances.
    """
    free = dispersion.free(REFERENCE, ENERGIES, NODES[4.0], prior_e=1e4)
    p = dispersion.toward(free, sites(ENERGIES), 0.3)
    dark = np.linalg.solve(p.restraints, p.rows.T @ (p.precision * p.target))
    at_nodes = p.reference_at_nodes + (p.at_nodes @ dark).reshape(2, 2, -1)
    # interpolated between channels
    np.testing.assert_allclose(at_nodes, sites(NODES[4.0]), atol=0.06)
    np.testing.assert_allclose(p.sigma(np.linalg.inv(p.restraints)), 0.3, rtol=1e-6)


def test_a_pair_costs_nothing_and_what_is_none_costs_what_tables_say():
    nodes = NODES[2.0]
    weak = dispersion.free(REFERENCE, ENERGIES, nodes)
    p = dispersion.toward_kramers_kronig(weak, 0.05)
    n = len(weak.rows)
    rng = np.random.default_rng(3)
    hard = dispersion.kramers_kronig(REFERENCE, ENERGIES, nodes)
    pair = hard.at_nodes @ rng.standard_normal(len(hard.names))
    np.testing.assert_allclose(p.rows[n:] @ pair, 0.0, atol=1e-9)
    wrong = 0.05 * rng.standard_normal((400, 2, 2, len(nodes)))
    wrong[:, :, 1] = 0.0
    away = wrong.reshape(400, -1) @ p.rows[n:].T
    cost = away**2 @ p.precision[n:]
    assert cost.mean() == pytest.approx(2 * (len(nodes) - 2), rel=0.03)


def test_the_penalty_gains_on_the_real_part_and_less_than_the_parametrisation(curve_pixels):
    """As strong as can be it leaves pairs only; these still have an f' linear between nodes, which
    no hat's f' is.
    """
    plain = dispersion.free(REFERENCE, ENERGIES, NODES[4.0])
    soft = dispersion.toward_kramers_kronig(plain, 1e-4)
    hard = dispersion.kramers_kronig(REFERENCE, ENERGIES, NODES[4.0])
    slope = curve_pixels.slope(sites(ENERGIES), np.random.default_rng(4))
    sigmas = []
    for p in (plain, soft, hard):
        theta, pixels = curve_pixels.refined(p, slope)
        sigmas.append(p.sigma(np.linalg.inv(pixels + p.restraints))[:, :, 8:18])
        away = (p.curves(theta) - sites(ENERGIES)).reshape(2, 2, -1)[:, :, 33:67]
        ratio = (away**2).mean(axis=2) / (sigmas[-1] ** 2).mean(axis=2)
        assert np.sqrt(ratio).max() < 2.0
    loose, tight, tightest = sigmas
    assert (tightest < tight).all() and (tight <= 1.001 * loose).all()
    assert (tight[:, 0] < 0.6 * loose[:, 0]).all() and (tightest[:, 0] < 0.5 * loose[:, 0]).all()


def test_the_band_is_the_longest_run_in_which_all_curves_are_known():
    sigma = np.full((2, 2, 10), 0.3)
    sigma[0, 1, 2] = 0.6
    sigma[1, 0, 8] = 0.5
    assert dispersion.band(sigma) == slice(3, 8)
    assert dispersion.band(sigma, 0.2) == slice(0, 0)
    assert dispersion.band(sigma, 0.7) == slice(0, 10)


def test_dark_nodes_open_constants_and_alternation_are_reported():
    """All nodes are known to 0.1 e, but two to 10 e only; one curve is so up to a constant, and one
    is blurred.
    """
    p = dispersion.free(REFERENCE, ENERGIES, NODES[4.0])
    k = 26
    pixels = 100.0 * np.eye(4 * k)
    pixels[[3, 4], [3, 4]] = 1e-2
    second = slice(k, 2 * k)
    pixels[second, second] -= 100.0 / k
    apart = np.abs(np.subtract.outer(np.arange(k), np.arange(k)))
    pixels[3 * k :, 3 * k :] = 300.0 * np.exp(-0.5 * (apart / 1.5) ** 2)
    weak = dispersion.weak_directions(p, pixels)
    np.testing.assert_array_equal(np.argwhere(weak.dark), [[0, 0, 3], [0, 0, 4]])
    assert weak.constant[0, 1] == pytest.approx(5.0 / np.sqrt(k), rel=0.2)
    assert weak.constant[1, 0] < 0.03
    assert weak.constant_alone[0, 1] == pytest.approx(5.0 / np.sqrt(k), rel=0.2)
    assert abs(weak.neighbours[1, 0]) < 1e-6 and weak.neighbours[1, 1] < -0.5
    assert weak.n_undetermined == 3, "two nodes and a constant"
    sentences = weak.sentences(p.nodes_ev)
    subjects = [sentence.split(":")[0] for sentence in sentences]
    assert subjects == ["f' of site 0", "f'' of site 0", "f'' of site 1"]
    assert "2 of 26 nodes (7082 to 7086 eV)" in sentences[0]


@pytest.mark.parametrize("build", BUILDERS)
def test_what_is_known_alone_is_known_better(curve_pixels, build):
    """Directions not restrained by anything else hold less information; the dark ends of the
    spectrum are found.
    """
    p = build(REFERENCE, ENERGIES, NODES[2.0])
    pixels = p.basis.T @ curve_pixels.hessian @ p.basis
    weak = dispersion.weak_directions(p, pixels)
    assert (weak.constant_alone <= weak.constant).all()
    assert not weak.dark[:, :, 20:30].any() and weak.dark[:, 1, 1].all()
    shares = np.linalg.eigvals(np.linalg.solve(pixels + p.restraints, pixels)).real
    assert weak.n_undetermined == (shares < 0.5).sum()
