"""Measured amplitudes on a model: what is known of the data comes back, what they lack is the
model's.
"""

import numpy as np
import pytest

from spreadflow.analysis.merging import amplitudes
from spreadflow.analysis.merging.amplitudes import MergedIntensities
from spreadflow.analysis.merging.merging import Unique
from spreadflow.physics import phantom, unit_cell
from spreadflow.physics.structure_factors import StructureFactors, perturbed, structure_factors

CELL = unit_cell.radians([31.0, 31.0, 42.0, 90.0, 90.0, 90.0])
GROUP = "P 41 21 2"
CURVES = {"FE1": np.array([-6.0 + 0.5j, -8.0 + 2.0j]), "FE2": np.array([-7.0 + 0.6j, -6.0 + 3.8j])}
K, B = 0.04, 7.0
HOW = {"channel": 1, "min_i_over_sigma": 1.0}


def model(atoms) -> StructureFactors:
    """Return F of atoms to 2.5 Å."""
    return structure_factors(atoms, CELL, GROUP, d_min=2.5, sites=CURVES, others={})


@pytest.fixture(scope="module")
def true() -> StructureFactors:
    return model(phantom.build(CELL, GROUP, 3))


@pytest.fixture(scope="module")
def wrong() -> StructureFactors:
    atoms = phantom.build(CELL, GROUP, 3)
    moved, _ = perturbed(np.random.default_rng(1), atoms, CELL)
    return model(moved)


def merged(f: StructureFactors, noise: float = 0.0, missing: float = 0.1) -> MergedIntensities:
    """Return k exp(−2 B/4d²) |F|² of channel 1 in the asymmetric unit, mates apart, some of them
    missing.
    """
    rng = np.random.default_rng(0)
    unique = Unique(unit_cell.degrees(CELL), GROUP, 2.5)
    sign = np.where(unique.friedel < 0, -1, 1)
    is_measured = rng.random(len(unique)) >= missing
    hkl = (sign[:, None] * unique.hkl)[is_measured]

    f_squared = np.abs(f.at(rows_of(f, hkl))[:, 1]) ** 2
    intensity = K * np.exp(-2 * B * stol_squared(hkl)) * f_squared
    sigma = np.full(len(hkl), max(noise, 1e-9) * intensity.mean())
    measured = intensity + sigma * rng.normal(size=len(hkl))
    return MergedIntensities(hkl, measured, sigma)


def stol_squared(hkl: np.ndarray) -> np.ndarray:
    """Return (sin θ/λ)² = 1/4d² of Miller indices, Å⁻²."""
    return 0.25 / unit_cell.spacing(unit_cell.reciprocal(CELL), hkl) ** 2


def rows_of(f: StructureFactors, hkl: np.ndarray) -> np.ndarray:
    """Return the nodes that have Miller indices (n, 3)."""
    row = {}
    for i, h in enumerate(f.hkl.tolist()):
        row[tuple(h)] = i
    return np.array([row[tuple(h)] for h in hkl.tolist()])


def values(f: StructureFactors) -> np.ndarray:
    """Return F of all nodes, (node, channel)."""
    return f.at(np.arange(len(f.hkl)))


def scaled_to_data(f: StructureFactors, data: MergedIntensities, complete: bool = False):
    """Return F with the amplitudes of the data."""
    return amplitudes.measured(f, CELL, GROUP, data, **HOW, complete=complete)


@pytest.mark.stage
def test_scale_and_b_come_back_from_noisy_data_of_a_wrong_model(true, wrong):
    rng = np.random.default_rng(2)
    d = unit_cell.spacing(unit_cell.reciprocal(CELL), true.hkl)
    k = K * np.exp(-2 * B * 0.25 / d**2)
    f_wrong = np.abs(values(wrong)[:, 1]) ** 2
    f_true = np.abs(values(true)[:, 1]) ** 2

    exact = amplitudes.scale(k * f_wrong, np.zeros(len(d)), f_wrong, d)

    assert exact.k == pytest.approx(K, rel=0.02)
    assert exact.b == pytest.approx(B, abs=0.3)

    sigma = np.full(len(d), (k * f_true).mean())
    noisy = k * f_true + sigma * rng.normal(size=len(d))
    found = amplitudes.scale(noisy, sigma, f_true, d)
    assert found.k == pytest.approx(K, rel=0.1)
    assert found.b == pytest.approx(B, abs=1.5)


@pytest.mark.stage
def test_perfect_data_on_a_wrong_model_have_the_true_amplitudes_and_the_models_sites(true, wrong):
    """Mates' mean is the data's in the energy of the data; what scatters without sites keeps its
    phase.
    """
    f = scaled_to_data(wrong, merged(true, missing=0.0))
    rows = np.arange(len(f.hkl))
    same = rows_of(true, f.hkl)
    sites = f.groups[: f.n_sites] / wrong.groups[: f.n_sites, same]
    stol2 = stol_squared(f.hkl)
    line = np.polynomial.Polynomial.fit(stol2, np.log(sites[0].real), 1)
    wilson = np.exp(line(stol2))

    np.testing.assert_allclose(sites, np.broadcast_to(wilson, sites.shape), rtol=1e-6)

    X = f.without_sites(rows)[:, 0]
    before = wrong.without_sites(same)[:, 0]
    t = (X / before / wilson).real
    np.testing.assert_allclose(X, t * wilson * before, atol=1e-6 * np.abs(X).max())
    mate = rows_of(f, -f.hkl)
    np.testing.assert_allclose(t[mate], t, rtol=1e-6)

    def pairs(size):
        return size[:, 1] ** 2 + size[mate, 1] ** 2

    reached = pairs(np.abs(values(f)))
    right = pairs(np.abs(values(true)[same]) * np.exp(-B * stol2)[:, None])
    level = np.median(reached / right)
    assert level == pytest.approx(1.0, abs=0.2), "electrons, to the k of a wrong model"
    off = (reached / level - right) / right.mean()
    assert off.min() > -1e-3
    assert (off < 1e-3).mean() > 0.98, "where it is not reached the sites alone scatter more"


@pytest.mark.parametrize("error", [0.0, 0.02])
def test_curves_leave_a_wrong_start_of_the_data(true, error):
    """Amplitudes of one energy tell nothing of f″ of another, of Bijvoet differences, or of how f′
    runs.
    """
    start = np.array([[-7.0 + 1.4j, -6.5 + 1.2j]] * 2)
    wrong_start = true._replace(anomalous=np.concatenate([start, true.anomalous[2:]]))
    data = merged(true, missing=0.0)
    rng = np.random.default_rng(5)
    relative = 1.0 + error * rng.standard_normal(len(data.hkl))
    data = data._replace(intensity=data.intensity * relative)
    f = scaled_to_data(wrong_start, data)
    found = np.stack([fitted(f, true, channel) for channel in (0, 1)], axis=-1)
    away = found - true.anomalous[:2]

    assert np.abs((start - true.anomalous[:2]).imag).max() > 1.8
    assert np.abs(away.imag).max() < 0.3 + 5 * error
    assert np.abs(np.diff(away.real)).max() < 0.1 + 5 * error, (
        "f' is off by the start's error at the energy of the data"
    )


def fitted(f: StructureFactors, true: StructureFactors, channel: int) -> np.ndarray:
    """Return f' + i f'' (site,) with which the |F|² of f are the true ones in crystals of B,
    weights 1/|F|².
    """
    n_sites = f.n_sites
    same = rows_of(true, f.hkl)
    wilson = np.exp(-B * stol_squared(f.hkl))
    data = np.abs(wilson * true.at(same)[:, channel]) ** 2
    weight = 1.0 / np.maximum(data, 0.05 * data.mean())

    X = f.without_sites(np.arange(len(f.hkl)))[:, 0]
    g = f.groups[:n_sites]
    curve = f.anomalous[:n_sites, channel]
    for _ in range(10):
        F = X + curve @ g
        residual = data - np.abs(F) ** 2
        slope = 2.0 * np.conj(F) * g
        D = np.concatenate([slope.real, -slope.imag])
        weighted = D * weight

        step = np.linalg.solve(weighted @ D.T, weighted @ residual)
        curve = curve + step[:n_sites] + 1j * step[n_sites:]
    return curve


def test_the_factor_is_the_one_nearest_to_one():
    rng = np.random.default_rng(0)
    X, S = (rng.standard_normal((40, 2)) @ [1, 1j] for _ in range(2))
    t = rng.uniform(0.5, 1.5, 40)
    cross = (np.conj(X) * S).real
    terms = (np.abs(X) ** 2, cross, np.abs(S) ** 2)
    data = np.abs(t * X + S) ** 2
    found = amplitudes.factor(data, *terms)

    np.testing.assert_allclose(np.abs(found * X + S) ** 2, data, rtol=1e-9)

    vertex = -terms[1] / terms[0]
    is_nearest = (t > vertex) == (vertex < 1)
    np.testing.assert_allclose(found, np.where(is_nearest, t, 2 * vertex - t), rtol=1e-9)
    np.testing.assert_allclose(amplitudes.factor(0.0 * data, *terms), vertex, rtol=1e-12)


@pytest.mark.stage
def test_what_was_not_measured_is_the_model_scaled_to_the_data(true):
    data = merged(true, noise=0.5)
    f = scaled_to_data(true, data, complete=True)

    np.testing.assert_array_equal(f.hkl, true.hkl)

    # the reflections with strong data, from means of mates formed here
    alone = scaled_to_data(true, data)
    unique = Unique(unit_cell.degrees(CELL), GROUP, 2.5)
    mates = np.full((2, len(unique)), np.nan)
    mates[0, unique.rows(data.hkl)] = data.intensity
    mates[1] = np.where(unique.mate < 0, np.nan, mates[0, unique.mate])
    n = np.isfinite(mates).sum(axis=0)
    total = np.nansum(mates, axis=0)
    is_strong = (n > 0) & (total >= np.sqrt(n) * data.sigma[0])
    own = unique.rows(true.hkl)
    np.testing.assert_array_equal(alone.hkl, true.hkl[(own >= 0) & is_strong[own]])

    # all others are the model's
    filled = np.setdiff1d(np.arange(len(f.hkl)), rows_of(f, alone.hkl))
    ratio = values(f)[filled, 1] / values(true)[filled, 1]
    slope, level = np.polyfit(stol_squared(f.hkl[filled]), np.log(ratio.real), 1)
    assert -slope == pytest.approx(B, abs=1.0)
    assert level == pytest.approx(0.0, abs=1e-9)


def test_data_of_another_crystal_have_no_scale(true):
    elsewhere = MergedIntensities(np.array([[90, 0, 0]]), np.ones(1), np.ones(1))
    with pytest.raises(ValueError, match="0 common reflections"):
        scaled_to_data(true, elsewhere, complete=True)
