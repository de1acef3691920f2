"""The loop over shoeboxes against the same least squares with matrices."""

import numpy as np
import pytest

from spreadflow.analysis import least_squares
from spreadflow.analysis.pixels import lattice_fit, solve
from spreadflow.analysis.pixels.likelihood import variance
from spreadflow.models import Noise


def with_matrices(bragg, data: solve.Data, noise: Noise, n_rounds: int, counted):
    """Factor and planes, every step a product of matrices."""
    model = np.maximum(data.photons, 1.0)
    for _ in range(n_rounds):
        planes = []
        top = bottom = 0.0
        for first, end in zip(data.start, data.start[1:], strict=False):
            P = data.plane[first:end]
            W = np.diag(1.0 / variance(model[first:end], noise))
            normal = least_squares.regular(P.T @ W @ P)
            both = np.stack([data.photons[first:end], bragg[first:end]], axis=1)
            planes.append(np.linalg.solve(normal, P.T @ W @ both))
            above, bragg_above = (both - P @ planes[-1]).T
            weight = counted[first:end] * np.diag(W)
            top += weight @ (above * bragg_above)
            bottom += weight @ bragg_above**2
        factor = max(top / bottom, 1e-3)
        rest = np.array([one[:, 0] - factor * one[:, 1] for one in planes])
        model = factor * bragg + solve.backgrounds(rest, data)
    return factor, rest


@pytest.mark.parametrize("noise", [Noise(1.0, 0.01), Noise(0.0, 0.0)])
@pytest.mark.parametrize("n_rounds", [1, 2, 4])
def test_planes_and_scale_are_those_of_matrices(noise, n_rounds):
    rng = np.random.default_rng(4)
    start = np.array([0, 50, 50, 51, 120])  # a box without pixels, and one with a single one
    plane = np.column_stack([np.ones(120), rng.uniform(-1, 1, (120, 2))])
    bragg = rng.exponential(20.0, size=120)
    photons = rng.poisson(1.7 * bragg + 3.0) + rng.normal(0.0, 1.0, size=120)
    data = solve.Data(photons, plane, start)
    counted = (rng.random(120) < 0.8).astype(float)
    factor, planes = lattice_fit.planes_and_scale(bragg, data, noise, n_rounds, counted)
    expected_factor, expected = with_matrices(bragg, data, noise, n_rounds, counted)
    assert factor == pytest.approx(expected_factor, rel=1e-9)
    np.testing.assert_allclose(planes, expected, rtol=1e-5, atol=1e-6)
