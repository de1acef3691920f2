"""Factors of the reflections of a lattice: integrated out as if written out, and found."""

import numpy as np
import pytest

import drawn
from spreadflow.analysis.curves import loops, scatter
from spreadflow.analysis.curves.controls import Trial

SCATTER = 0.3


def parabola(columns, lattice, y, u):
    """−ln L of a lattice where its |F|² are y off and its unknown is u off."""
    only = columns.only(lattice)
    loss = only.loss[0] - only.slope @ y - only.score[0] @ u + y @ only.cross @ u
    loss += 0.5 * u @ np.linalg.inv(only.held[0]) @ u
    return loss + 0.5 * y @ dense(only) @ y


def dense(columns):
    """(column, column) matrix of all shoeboxes of a lattice."""
    n = len(columns.fixed)
    out = np.zeros((n, n))
    for box, first in enumerate(columns.first_column[:-1]):
        size = columns.first_column[box + 1] - first
        own = np.zeros((size, size))
        values = columns.normal[columns.first_value[box] : columns.first_value[box + 1]]
        own[np.tril_indices(size)] = values
        own = own + np.tril(own, -1).T
        out[first : first + size, first : first + size] = own
    return out


def factors_of(columns):
    """(column, factor) I of the columns that a factor 1 + s makes brighter."""
    box = np.repeat(np.arange(len(columns.first_column) - 1), np.diff(columns.first_column))
    is_next = np.diff(columns.channel, prepend=-9) == 1
    run = np.cumsum(~is_next | (np.diff(columns.reflection, prepend=-1) != 0))
    names = np.stack([box, run], axis=1)
    masks = [(names == name).all(axis=1) for name in np.unique(names, axis=0)]
    return np.array(masks).T * columns.intensity[:, None]


def test_factors_are_integrated_out(wrong, few):
    """Minus the logarithm of the integral over all factors of a lattice, written out."""
    sums = drawn.sums(wrong.crystal, *few, "complex")
    lattice = 4
    columns = scatter.scattered(sums.columns, SCATTER)
    only = sums.columns.only(lattice)
    of_factors = factors_of(only)
    n = of_factors.shape[1]
    rng = np.random.default_rng(1)
    for _ in range(3):
        y = 0.1 * only.intensity * rng.standard_normal(len(only.intensity))
        u = 0.05 * rng.standard_normal(1)
        G = dense(only)
        slope = of_factors.T @ (only.slope - G @ y - only.cross @ u)
        information = of_factors.T @ G @ of_factors + SCATTER**-2.0 * np.eye(n)
        expected = parabola(sums.columns, lattice, y, u)
        expected -= 0.5 * slope @ np.linalg.solve(information, slope)
        expected += 0.5 * np.linalg.slogdet(information)[1] + n * np.log(SCATTER)
        got = parabola(columns, lattice, y, u)
        assert got == pytest.approx(expected, abs=1e-3 * n)


def test_no_scatter_is_the_same_lattices(wrong, few):
    sums = drawn.sums(wrong.crystal, *few, "complex")
    assert scatter.scattered(sums.columns, 0.0) is sums.columns


def test_x_of_all_energies_is_followed(wrong, few):
    """A factor that its reflection has taken up says next to nothing: one lattice, X free."""
    sums = drawn.sums(wrong.crystal, *few, "complex")
    columns = sums.columns._replace(is_used=np.arange(12) == 3)
    n = sums.rest.n
    f = wrong.crystal.factors.anomalous
    x = np.zeros((n, 2))
    sites = np.zeros(0)
    known = loops.information(columns, f, x, sites, n)
    slopes = np.ones(len(columns.fixed))
    free, held = (
        loops.of_factors(columns, f, x, sites, slopes, covariance(known, precision))[1]
        for precision in (1e-9, 1e9)
    )
    assert 0.0 < free < 0.01 * held


def covariance(information, precision):
    """(reflection, 3) of a and b."""
    aa, ab, bb = information[:, 0] + precision, information[:, 1], information[:, 2] + precision
    return np.stack([bb, -ab, aa], axis=1) / (aa * bb - ab**2)[:, None]


@pytest.mark.stage
@pytest.mark.parametrize("true", [0.3, 0.0])
def test_scatter_is_found(wrong, true):
    """With X and curves unknown; curves are as far off as σ says, and so is X."""
    crystal = wrong.crystal
    grams, pulses = crystal.lattices(150, 5, scatter=true, about=crystal.nature)
    sums = drawn.sums(crystal, grams, pulses, "complex", is_held=True)
    fit = sums.refine(crystal.p, Trial(np.zeros(len(crystal.p.names))))
    assert fit.rest.has_converged
    np.testing.assert_allclose(fit.rest.scatter, true, atol=0.05)
    np.testing.assert_allclose(np.sqrt(fit.rest.variance), 8.0, rtol=0.1)
    pulls = (fit.theta - crystal.theta) / np.sqrt(np.diag(fit.fisher))
    assert 0.5 < pulls.std() < 1.4
