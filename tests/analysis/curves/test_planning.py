"""σ against the number of lattices."""

from itertools import pairwise

import numpy as np
import pytest

from spreadflow.analysis.curves import dispersion, planning
from spreadflow.analysis.curves.edges import comparison, edges
from spreadflow.physics import anomalous

ENERGIES = np.arange(7090.5, 7150.0)
BAND = np.array([7100.0, 7140.0])
CURVES = np.stack(
    [[c.real, c.imag] for c in (anomalous.shifted("Fe", shift, ENERGIES) for shift in (0.0, 2.0))]
)


def information(seed: int, weight: np.ndarray | float = 1.0) -> np.ndarray:
    """(curve · channel, the same) of a lattice whose pixels mix channels, sites, f' and f''."""
    n = CURVES.size
    rows = np.random.default_rng(seed).standard_normal((3 * n, n)) * np.broadcast_to(weight, n)
    return rows.T @ rows * 1e-3 / (3 * n)


MAKERS = {"free": dispersion.free, "kramers_kronig": dispersion.kramers_kronig}
"""Parametrisation of each restraint."""


def in_theta(of_curves: np.ndarray, p: dispersion.Parametrisation) -> np.ndarray:
    """Information about the unknowns of a parametrisation."""
    return p.basis.T @ of_curves @ p.basis


@pytest.mark.parametrize("restraint", list(planning.RESTRAINTS))
@pytest.mark.parametrize("n", [0, 3, 700])
def test_inverse(restraint, n):
    """Root mean squares of the diagonal of (n H + R)⁻¹ in the nodes of the band, and no other
    node's; shapes and constants are parts of it.
    """
    p = MAKERS[restraint](CURVES, ENERGIES, planning.nodes(ENERGIES, 2.0))
    of_lattice = in_theta(information(1), p)
    sigma = p.sigma(np.linalg.inv(n * of_lattice + p.restraints))
    inside = (p.nodes_ev >= 7100) & (p.nodes_ev <= 7140)
    expected = np.sqrt((sigma[:, :, inside] ** 2).mean(axis=(0, 2)))
    found = planning.outlook(of_lattice, p, BAND).sigma(n)
    np.testing.assert_allclose(found[:2], expected, rtol=1e-8)
    np.testing.assert_allclose(found[2:4] ** 2 + found[4:] ** 2, expected**2, rtol=1e-8)
    np.testing.assert_allclose(planning.sigma_from(n, of_lattice, p, BAND), found, rtol=1e-8)


def test_shapes_and_constants():
    """Of draws: the scatter of the mean over the band of each curve, and of what is left."""
    p = dispersion.free(CURVES, ENERGIES, planning.nodes(ENERGIES, 4.0))
    of_lattice = in_theta(information(9), p)
    covariance = np.linalg.inv(1e5 * of_lattice + p.restraints)
    rng = np.random.default_rng(10)
    draws = rng.multivariate_normal(np.zeros(len(p.names)), covariance, 4000)
    values = (draws @ p.at_nodes.T).reshape(4000, 2, 2, -1)
    values = values[..., (p.nodes_ev >= 7100) & (p.nodes_ev <= 7140)]
    constants = values.mean(axis=3)
    shapes = values - constants[..., None]
    found = planning.outlook(of_lattice, p, BAND).sigma(1e5)
    np.testing.assert_allclose(found[2:4], np.sqrt((shapes**2).mean(axis=(0, 1, 3))), rtol=0.05)
    np.testing.assert_allclose(found[4:], np.sqrt((constants**2).mean(axis=(0, 1))), rtol=0.05)


def test_without_x():
    """σ is that with X known times a factor, a power of n between numbers of lattices; more of them
    than are known of do not count.
    """
    p = dispersion.free(CURVES, ENERGIES, planning.nodes(ENERGIES, 4.0))
    of_lattice = in_theta(information(11), p)
    known = planning.halves(np.stack([of_lattice, of_lattice]), p, BAND)
    lattices = np.array([100.0, 1000.0, 10_000.0])
    factor = np.full((6, 1), 1.2) * [1.0, 1.5, 3.0]
    x_unknown = planning.XUnknown(known, lattices, factor)
    np.testing.assert_allclose(x_unknown.sigma(lattices), known.sigma(lattices) * factor)
    np.testing.assert_allclose(x_unknown.sigma(30.0), 1.2 * known.sigma(30.0))
    middle = 1.2 * np.sqrt(1.5) * known.sigma(np.sqrt(1e5))
    np.testing.assert_allclose(x_unknown.sigma(np.sqrt(1e5)), middle)

    least = float(x_unknown.sigma(lattices[-1])[0])
    n = planning.reached(x_unknown, 1.01 * least, 0)
    assert x_unknown.sigma(n)[0] == pytest.approx(1.01 * least)
    assert planning.reached(x_unknown, 0.99 * least, 0) == np.inf


def test_root_of_n():
    """Where pixels rule, four times the lattices halve σ; without lattices σ is that of the
    restraints.
    """
    p = dispersion.free(CURVES, ENERGIES, planning.nodes(ENERGIES, 2.0))
    outlook = planning.outlook(in_theta(information(2), p), p, BAND)
    np.testing.assert_allclose(outlook.sigma(1e7) / outlook.sigma(4e7), 2.0, rtol=1e-3)
    np.testing.assert_allclose(outlook.sigma(0)[:2], dispersion.PRIOR_E, rtol=1e-9)


def test_lattices_for():
    """So many reach it, fewer do not; no number does where a node of the band is dark."""
    p = dispersion.free(CURVES, ENERGIES, planning.nodes(ENERGIES, 2.0))
    of_lattice = in_theta(information(3), p)
    outlook = planning.outlook(of_lattice, p, BAND)
    for kind in range(2):
        n = planning.lattices_for(0.1, of_lattice, p, BAND, kind)
        assert outlook.sigma(n)[kind] == pytest.approx(0.1, rel=1e-6)
    assert planning.lattices_for(5.1, of_lattice, p, BAND) == 1

    is_lit = np.tile(ENERGIES < 7120, 4)
    half_dark = in_theta(information(3, is_lit), p)
    assert planning.lattices_for(0.1, half_dark, p, BAND) == np.inf
    assert planning.lattices_for(0.1, half_dark, p, np.array([7100.0, 7112.0])) < 1e6


def test_few():
    """A mean over few pixels is corrected to within 5 % of what it tends to; equal halves need no
    correction.
    """
    p = dispersion.free(CURVES, ENERGIES, planning.nodes(ENERGIES, 4.0))
    n = len(p.names)
    n_pixels = 2 * n
    rows = np.random.default_rng(8).standard_normal((2, n_pixels, n))
    of_halves = np.einsum("hmt,hmu->htu", rows, rows) / n_pixels
    outlook = planning.halves(of_halves, p, BAND)
    truth = planning.outlook(np.eye(n), p, BAND).sigma(1e6)
    assert (outlook.whole.sigma(1e6) > 1.1 * truth).all()
    np.testing.assert_allclose(outlook.sigma(1e6), truth, rtol=0.05)
    mean = of_halves.mean(axis=0)
    same = planning.halves(np.stack([mean, mean]), p, BAND)
    np.testing.assert_allclose(same.sigma(100.0), same.whole.sigma(100.0), rtol=1e-12)


def test_own_band():
    """Each site has its own nodes."""
    p = dispersion.free(CURVES, ENERGIES, planning.nodes(ENERGIES, 2.0))
    inside = planning.inside(p, np.array([[7100.0, 7104.0], [7130.0, 7140.0]]))
    assert p.nodes_ev[inside[0, 0]].tolist() == [7100.5, 7102.5]
    assert p.nodes_ev[inside[1, 1]].tolist() == [7130.5, 7132.5, 7134.5, 7136.5, 7138.5]


def test_nodes():
    """On channels, the nearest ones where the grid has others."""
    coarse = 7090.5 + 2.0 * np.arange(8)
    np.testing.assert_array_equal(planning.nodes(coarse, 4.0), coarse[::2])
    np.testing.assert_array_equal(planning.nodes(coarse, 5.0), coarse[[0, 2, 5]])
    gap = np.append(coarse, coarse + 200.0)
    np.testing.assert_array_equal(planning.nodes(gap, 2.0), gap)
    assert len(planning.nodes(coarse[:0], 2.0)) == 0


FINE = np.arange(7060.0, 7180.0, 0.25)
SHAPES = (FINE, np.array([anomalous.shifted("Fe", 0.0, FINE)] * 2))


def rows(of_lattice: np.ndarray, pairs=((0, 1),), shared=()) -> list[planning.Row]:
    """The rows of a table for three grids; either half of the lattices has the same information."""
    scope = planning.Scope(
        reference=CURVES,
        energies_ev=ENERGIES,
        band_ev=BAND,
        shapes=SHAPES,
        pairs=pairs,
        lattices=[100, 10_000],
        grids_ev=(1.0, 2.0, 4.0),
        line_e=5.0,
    )
    return list(planning.table(np.stack([of_lattice, of_lattice]), shared, scope))


@pytest.mark.stage
def test_order():
    """A finer grid is never better, a dispersion relation never worse; nor is more information."""
    few = rows(information(4))
    for restraint in planning.RESTRAINTS:
        by_grid = [row for row in few if row.restraint == restraint]
        for finer, coarser in pairwise(by_grid):
            assert (finer.sigma_e[:2] > coarser.sigma_e[:2]).all()
            assert finer.enough[0] > coarser.enough[0]
    for free, related in zip(few[::2], few[1::2], strict=True):
        assert (related.sigma_e[:2] < free.sigma_e[:2]).all()
    for less, more in zip(few, rows(information(4) + information(5)), strict=True):
        assert (more.sigma_e < less.sigma_e).all()
        assert (more.sigma_edge_difference_ev < less.sigma_edge_difference_ev).all()
        assert (more.enough[:2] < less.enough[:2]).all()


@pytest.mark.stage
def test_rows_without_x():
    """Half of the information with X unknown: σ is larger by √2 where pixels rule, whatever the
    information of the lattices that tell so.
    """
    other = information(12)
    half = planning.Information(other, {0.1: other, 0.3: 0.5 * other})
    table = rows(information(4), shared=[half, half])
    assert [row.model_error for row in table[:3]] == [None, 0.1, 0.3]
    for known, same, more in zip(table[::3], table[1::3], table[2::3], strict=True):
        assert {known.restraint, known.grid_ev} == {more.restraint, more.grid_ev}
        np.testing.assert_allclose(same.sigma_e, known.sigma_e, rtol=1e-9)
        np.testing.assert_allclose(
            more.sigma_e[:, -1], np.sqrt(2.0) * known.sigma_e[:, -1], rtol=0.1
        )
        assert (more.sigma_edge_difference_ev > 1.1 * known.sigma_edge_difference_ev).all()
        assert more.enough[2] > known.enough[2]


@pytest.mark.stage
def test_edges():
    """The scatter of edges refined from drawn pixels is what was foretold; without pairs there is
    nothing to foretell.
    """
    p = dispersion.free(CURVES, ENERGIES, planning.nodes(ENERGIES, 2.0))
    of_lattice = in_theta(information(6), p)
    n = 20_000
    sigma = planning.edge_sigma(n, of_lattice, comparison(p, SHAPES))
    pixels = n * of_lattice
    fisher = np.linalg.inv(pixels + p.restraints)
    root = np.linalg.cholesky(pixels)
    rng = np.random.default_rng(7)
    differences = []
    for _ in range(60):
        theta = fisher @ root @ rng.standard_normal(len(root))
        differences.append(edges(p, theta, pixels, SHAPES).difference_ev[0, 1])
    assert sigma[0, 1] == pytest.approx(sigma[1, 0]) and sigma[0, 0] > 0
    assert np.std(differences) < 1.3 * sigma[0, 1]
    assert np.isnan(rows(information(6), pairs=())[0].sigma_edge_difference_ev).all()
