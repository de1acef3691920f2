"""Measured amplitudes on a model: what is known of the data comes back, what they lack is the model's."""

import numpy as np
import pytest

from spreadflow.analysis import amplitudes
from spreadflow.analysis.merging import Unique
from spreadflow.physics import lattice, phantom
from spreadflow.physics.structure_factors import StructureFactors, perturbed, structure_factors

CELL, GROUP = lattice.radians([31.0, 31.0, 42.0, 90.0, 90.0, 90.0]), "P 41 21 2"
CURVES = {"FE1": np.array([-6.0 + 0.5j, -8.0 + 2.0j]), "FE2": np.array([-7.0 + 0.6j, -6.0 + 3.8j])}
K, B = 0.04, 7.0
HOW = {"channel": 1, "min_i_over_sigma": 1.0}


def model(atoms) -> StructureFactors:
    return structure_factors(atoms, CELL, GROUP, d_min=2.5, sites=CURVES, others={})


@pytest.fixture(scope="module")
def true() -> StructureFactors:
    return model(phantom.build(CELL, GROUP, 3))


@pytest.fixture(scope="module")
def wrong() -> StructureFactors:
    return model(perturbed(np.random.default_rng(1), phantom.build(CELL, GROUP, 3), CELL, CURVES)[0])


def merged(f: StructureFactors, noise: float = 0.0) -> dict[str, np.ndarray]:
    """k exp(−2 B/4d²) |F|² of channel 1 in the asymmetric unit, mates apart; of one reflection in ten none."""
    unique, rng = Unique(lattice.degrees(CELL), GROUP, 2.5), np.random.default_rng(0)
    hkl = (np.where(unique.friedel < 0, -1, 1)[:, None] * unique.hkl)[rng.random(len(unique)) > 0.1]
    row = {tuple(h): i for i, h in enumerate(f.hkl.tolist())}
    size = np.abs(f.at(np.array([row[tuple(h)] for h in hkl.tolist()]))[:, 1]) ** 2
    stol2 = 0.25 / lattice.spacing(lattice.reciprocal(CELL), hkl) ** 2
    intensity = K * np.exp(-2 * B * stol2) * size
    sigma = np.full(len(hkl), max(noise, 1e-9) * intensity.mean())
    return {"hkl": hkl, "intensity": intensity + sigma * rng.normal(size=len(hkl)), "sigma": sigma}


def of(f: StructureFactors) -> np.ndarray:
    return f.at(np.arange(len(f.hkl)))


def test_scale_and_b_come_back_from_noisy_data_of_a_wrong_model(true, wrong):
    rng, size = np.random.default_rng(2), np.abs(of(wrong)[:, 1]) ** 2
    d = lattice.spacing(lattice.reciprocal(CELL), true.hkl)
    right = np.abs(of(true)[:, 1]) ** 2 * K * np.exp(-2 * B * 0.25 / d**2)
    sigma = np.full(len(d), right.mean())
    exact = amplitudes.scale(size * K * np.exp(-2 * B * 0.25 / d**2), 0 * sigma, size, d)
    assert (exact.k, exact.b) == (pytest.approx(K, rel=0.02), pytest.approx(B, abs=0.3))
    found = amplitudes.scale(right + sigma * rng.normal(size=len(d)), sigma, np.abs(of(true)[:, 1]) ** 2, d)
    assert (found.k, found.b) == (pytest.approx(K, rel=0.1), pytest.approx(B, abs=1.5))


def test_perfect_data_on_a_wrong_model_have_the_true_amplitudes_and_the_wrong_phases(true, wrong):
    """Of all equivalents and of both mates, in the energy of the data; elsewhere in the ratio the model gives."""
    f = amplitudes.measured(wrong, CELL, GROUP, **merged(true), **HOW, complete=False)
    row = {tuple(h): i for i, h in enumerate(true.hkl.tolist())}
    same = np.array([row[tuple(h)] for h in f.hkl.tolist()])
    d = lattice.spacing(lattice.reciprocal(CELL), f.hkl)
    size, right = np.abs(of(f)[:, 1]), np.abs(of(true)[same, 1]) * np.exp(-B * 0.25 / d**2)
    level = np.median(size / right)
    np.testing.assert_allclose(size, level * right, atol=1e-4 * size.mean())  # sums over atoms are in float32
    assert level == pytest.approx(1.0, abs=0.1), "electrons, to the k of a wrong model"
    assert 0.85 * len(true.hkl) < len(f.hkl) < 0.93 * len(true.hkl)
    scaled = of(f) / of(wrong)[same]
    np.testing.assert_allclose(scaled.imag, 0.0, atol=1e-9 * np.abs(scaled).max())
    np.testing.assert_allclose(scaled[:, 0], scaled[:, 1], rtol=1e-9)


def test_what_was_not_measured_is_the_model_scaled_to_the_data(true):
    data = merged(true, noise=0.5)
    f = amplitudes.measured(true, CELL, GROUP, **data, **HOW, complete=True)
    np.testing.assert_array_equal(f.hkl, true.hkl)
    strong = data["intensity"] >= data["sigma"]
    kept = amplitudes.measured(true, CELL, GROUP, **{k: v[strong] for k, v in data.items()}, **HOW, complete=False)
    alone = amplitudes.measured(true, CELL, GROUP, **data, **HOW, complete=False)
    np.testing.assert_array_equal(alone.hkl, kept.hkl)
    filled = np.setdiff1d(np.arange(len(f.hkl)), np.flatnonzero((f.hkl[:, None] == alone.hkl).all(axis=2).any(axis=1)))
    d = lattice.spacing(lattice.reciprocal(CELL), f.hkl[filled])
    ratio = of(f)[filled, 1] / of(true)[filled, 1]
    found = -np.polyfit(0.25 / d**2, np.log(ratio.real), 1)
    assert found[0] == pytest.approx(B, abs=1.0) and found[1] == pytest.approx(0.0, abs=1e-9)


def test_data_of_another_crystal_have_no_scale(true):
    with pytest.raises(ValueError, match="0 common reflections"):
        amplitudes.measured(
            true, CELL, GROUP, hkl=np.array([[90, 0, 0]]), intensity=np.ones(1), sigma=np.ones(1), **HOW, complete=True
        )
