"""Where stage 2 starts: N and η of lattices, and intensities of a merge."""

import numpy as np
import pytest

from spreadflow.recipes import intensities
from spreadflow.recipes.lattice import Start

UNKNOWNS = ["scale", "rotation_1", "n_cells", "eta"]


def test_values_that_their_sigmas_explain_are_drawn_to_the_common_one():
    rng = np.random.default_rng(0)
    sigma = np.full(400, 0.1)
    noise_alone = 3.0 + sigma * rng.standard_normal(400)
    drawn = intensities.drawn_together(noise_alone, sigma)
    assert np.std(drawn) < 0.3 * np.std(noise_alone)
    spread_out = noise_alone + 0.5 * rng.standard_normal(400)
    kept = intensities.drawn_together(spread_out, sigma)
    assert np.std(kept) == pytest.approx(np.std(spread_out), rel=0.1)
    unknown = intensities.drawn_together(np.append(spread_out, 9.0), np.append(sigma, np.nan))
    assert unknown[-1] == 9.0


def test_common_factors_multiply_n_and_eta():
    start = Start(np.eye(3), np.array([50.0, 60.0, 70.0]), np.full(3, 1e-3), 2.0)
    assert intensities.is_shared(UNKNOWNS).tolist() == [False, False, True, True]
    assert intensities.volume_direction(UNKNOWNS).tolist() == [1.0, 0.0]
    changed = intensities.with_factors(start, UNKNOWNS, np.log([2.0, 0.5]))
    np.testing.assert_allclose(changed.n_cells, [100.0, 120.0, 140.0])
    np.testing.assert_allclose(changed.eta_axes_rad, 5e-4)
    assert changed.scale == 2.0
    by_axis = ["scale", "n_cells_1", "n_cells_2", "n_cells_3", "eta_1", "eta_2", "eta_3"]
    factors = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    changed = intensities.with_factors(start, by_axis, np.log(factors))
    np.testing.assert_allclose(changed.n_cells, [50.0, 120.0, 210.0])
    np.testing.assert_allclose(changed.eta_axes_rad, 1e-3 * factors[3:])


def test_moves_bring_lattices_to_what_is_common():
    rng = np.random.default_rng(1)
    n_cells = np.exp(4.0 + 0.05 * rng.standard_normal((300, 1))) * np.ones(3)
    eta = np.exp(-7.0 + 0.6 * rng.standard_normal((300, 1))) * np.ones(3)
    sigma = np.tile([0.1, 1e-5, 0.05, 0.1], (300, 1))
    moves = intensities.moves_together(UNKNOWNS, n_cells, eta, sigma)
    assert moves.shape == (300, 2)
    moved = np.log(n_cells[:, 0]) + moves[:, 0]
    assert np.std(moved) < 0.02
    assert np.std(np.log(eta[:, 0]) + moves[:, 1]) == pytest.approx(0.6, rel=0.15)
    assert intensities.moves_together(["scale"], n_cells, eta, sigma[:, :1]).shape == (300, 0)
