"""Factors of the reflections of a lattice: integrated out as if written out, and found."""

import numpy as np
import pytest

import drawn
from spreadflow.analysis.curves import loops, scatter
from spreadflow.analysis.curves.controls import Trial

BANDS = scatter.n_channels(drawn.ENERGIES)

SCATTER = np.array([0.2, 0.3, 0.4])


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
    """(column, factor) I of the columns that a factor 1 + s makes brighter, and (factor,) its
    level.
    """
    box = np.repeat(np.arange(len(columns.first_column) - 1), np.diff(columns.first_column))
    is_next = np.diff(columns.channel, prepend=-9) == 1
    run = np.cumsum(~is_next | (np.diff(columns.reflection, prepend=-1) != 0))
    labels = []
    levels = []
    for level, n in enumerate(BANDS):
        part = columns.channel // n if n else np.zeros_like(columns.channel)
        names = np.stack([box, run, part], axis=1)
        for name in np.unique(names, axis=0):
            labels.append((names == name).all(axis=1))
            levels.append(level)
    return np.array(labels).T * columns.intensity[:, None], np.array(levels)


def test_bands_are_of_whole_channels():
    np.testing.assert_array_equal(BANDS, [0, 8, 2])
    np.testing.assert_array_equal(scatter.n_channels(np.arange(3) * 20.0), [0, 1, 1])


def test_factors_are_integrated_out(wrong, few):
    """Minus the logarithm of the integral over all factors of a lattice, written out."""
    sums = drawn.sums(wrong.crystal, *few, "complex")
    lattice = 4
    columns = scatter.scattered(sums.columns, SCATTER, drawn.ENERGIES)
    only = sums.columns.only(lattice)
    of_factors, level = factors_of(only)
    rng = np.random.default_rng(1)
    for _ in range(3):
        y = 0.1 * only.intensity * rng.standard_normal(len(only.intensity))
        u = 0.05 * rng.standard_normal(1)
        G = dense(only)
        slope = of_factors.T @ (only.slope - G @ y - only.cross @ u)
        information = of_factors.T @ G @ of_factors + np.diag(SCATTER[level] ** -2.0)
        expected = parabola(sums.columns, lattice, y, u)
        expected -= 0.5 * slope @ np.linalg.solve(information, slope)
        expected += 0.5 * np.linalg.slogdet(information)[1] + np.log(SCATTER[level]).sum()
        got = parabola(columns, lattice, y, u)
        assert got == pytest.approx(expected, abs=1e-3 * len(level))


def test_no_scatter_is_the_same_lattices(wrong, few):
    sums = drawn.sums(wrong.crystal, *few, "complex")
    assert scatter.scattered(sums.columns, scatter.no_scatter(), drawn.ENERGIES) is sums.columns


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
    whole = np.zeros(1, dtype=int)
    weights = [
        loops.of_factors(columns, f, x, sites, slopes, covariance(known, precision), whole)[1]
        for precision in (1e-9, 1e9)
    ]
    assert 0.0 < weights[0][0, 0] < 0.01 * weights[1][0, 0]


def covariance(information, precision):
    """(reflection, 3) of a and b."""
    aa, ab, bb = information[:, 0] + precision, information[:, 1], information[:, 2] + precision
    return np.stack([bb, -ab, aa], axis=1) / (aa * bb - ab**2)[:, None]


@pytest.mark.stage
@pytest.mark.parametrize("true", [(0.2, 0.3, 0.4), (0.0, 0.0, 0.0)])
def test_scatter_is_found(wrong, true):
    """With X and curves unknown; curves are as far off as σ says, and so is X."""
    crystal = wrong.crystal
    grams, pulses = crystal.lattices(150, 4, scatter=true, about=crystal.nature)
    sums = drawn.sums(crystal, grams, pulses, "complex", is_held=True)
    fit = sums.refine(crystal.p, Trial(np.zeros(len(crystal.p.names))))
    assert fit.rest.has_converged
    np.testing.assert_allclose(fit.rest.scatter, true, atol=0.05)
    np.testing.assert_allclose(np.sqrt(fit.rest.variance), 8.0, rtol=0.05)
    pulls = (fit.theta - crystal.theta) / np.sqrt(np.diag(fit.fisher))
    assert 0.5 < pulls.std() < 1.4
