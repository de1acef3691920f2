"""σ against the number of lattices."""

from itertools import pairwise

import numpy as np
import pytest

from spreadflow.analysis.curves import dispersion, planning
from spreadflow.analysis.curves.edges import edges
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


def mine(made: np.ndarray, p: dispersion.Parametrisation) -> np.ndarray:
    return p.basis.T @ made @ p.basis


@pytest.mark.parametrize("restraint", list(planning.RESTRAINTS))
@pytest.mark.parametrize("n", [0, 3, 700])
def test_inverse(restraint, n):
    """Root mean squares of the diagonal of (n H + R)⁻¹ in the nodes of the band, and no other
    node's.
    """
    p = planning.RESTRAINTS[restraint](CURVES, ENERGIES, planning.nodes(ENERGIES, 2.0))
    made = mine(information(1), p)
    sigma = p.sigma(np.linalg.inv(n * made + p.restraints))
    inside = (p.nodes_ev >= 7100) & (p.nodes_ev <= 7140)
    expected = np.sqrt((sigma[:, :, inside] ** 2).mean(axis=(0, 2)))
    np.testing.assert_allclose(planning.outlook(made, p, BAND).sigma(n), expected, rtol=1e-8)


def test_root_of_n():
    """Where pixels rule, four times the lattices halve σ; without lattices σ is that of the
    restraints.
    """
    p = dispersion.free(CURVES, ENERGIES, planning.nodes(ENERGIES, 2.0))
    known = planning.outlook(mine(information(2), p), p, BAND)
    np.testing.assert_allclose(known.sigma(1e7) / known.sigma(4e7), 2.0, rtol=1e-3)
    np.testing.assert_allclose(known.sigma(0), dispersion.PRIOR_E, rtol=1e-9)


def test_lattices_for():
    """So many reach it, fewer do not; no number does where a node of the band is dark."""
    p = dispersion.free(CURVES, ENERGIES, planning.nodes(ENERGIES, 2.0))
    made = mine(information(3), p)
    for kind in range(2):
        n = planning.lattices_for(0.1, made, p, BAND, kind)
        assert planning.outlook(made, p, BAND).sigma(n)[kind] == pytest.approx(0.1, rel=1e-6)
    assert planning.lattices_for(5.1, made, p, BAND) == 1
    dark = np.tile(ENERGIES < 7120, 4)
    assert planning.lattices_for(0.1, mine(information(3, dark), p), p, BAND) == np.inf
    assert (
        planning.lattices_for(0.1, mine(information(3, dark), p), p, np.array([7100.0, 7112.0]))
        < 1e6
    )


def test_few():
    """A mean over few pixels is corrected to within 5 % of what it tends to; equal halves need no
    correction.
    """
    p = dispersion.free(CURVES, ENERGIES, planning.nodes(ENERGIES, 4.0))
    n = len(p.names)
    m = 4 * len(p.names)
    rows = np.random.default_rng(8).standard_normal((2, m // 2, n))
    made = np.einsum("hmt,hmu->htu", rows, rows) / (m // 2)
    known = planning.halves(made, p, BAND)
    truth = planning.outlook(np.eye(n), p, BAND).sigma(1e6)
    assert (known.whole.sigma(1e6) > 1.1 * truth).all()
    np.testing.assert_allclose(known.sigma(1e6), truth, rtol=0.05)
    same = planning.halves(np.stack([made.mean(axis=0)] * 2), p, BAND)
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


def rows(made: np.ndarray, pairs=((0, 1),), grids=(1.0, 2.0, 4.0)) -> list[planning.Row]:
    fine = np.arange(7060.0, 7180.0, 0.25)
    shapes = (fine, np.array([anomalous.shifted("Fe", 0.0, fine)] * 2))
    how = {"lattices": [100, 10_000], "grids_ev": grids, "pairs": pairs}
    return list(planning.table(np.stack([made, made]), CURVES, ENERGIES, BAND, shapes, **how))


@pytest.mark.stage
def test_order():
    """A finer grid is never better, a dispersion relation never worse; nor is more information."""
    few = rows(information(4))
    for restraint in planning.RESTRAINTS:
        of = [row for row in few if row.restraint == restraint]
        for finer, coarser in pairwise(of):
            assert (
                finer.sigma_fp_e > coarser.sigma_fp_e
            ).all() and finer.lattices_fp > coarser.lattices_fp
    for free, related in zip(few[::2], few[1::2], strict=True):
        assert (related.sigma_fp_e < free.sigma_fp_e).all()
    for less, more in zip(few, rows(information(4) + information(5)), strict=True):
        assert (more.sigma_fp_e < less.sigma_fp_e).all() and (
            more.sigma_fdp_e < less.sigma_fdp_e
        ).all()
        assert (more.sigma_edge_difference_ev < less.sigma_edge_difference_ev).all()
        assert more.lattices_fp < less.lattices_fp and more.lattices_fdp < less.lattices_fdp


@pytest.mark.stage
def test_edges():
    """The scatter of edges refined from drawn pixels is what was told; without pairs there is
    nothing to tell.
    """
    p = dispersion.free(CURVES, ENERGIES, planning.nodes(ENERGIES, 2.0))
    made = mine(information(6), p)
    n = 20_000
    fine = np.arange(7060.0, 7180.0, 0.25)
    shapes = (fine, np.array([anomalous.shifted("Fe", 0.0, fine)] * 2))
    told = planning.edge_sigma(n, made, p, shapes)
    fisher = np.linalg.inv(n * made + p.restraints)
    rng = np.random.default_rng(7)
    root = np.linalg.cholesky(n * made)
    found = [
        edges(p, fisher @ root @ rng.standard_normal(len(root)), n * made, shapes)
        for _ in range(60)
    ]
    scatter = np.std([e.shift_ev[0] - e.shift_ev[1] for e in found])
    assert told[0, 1] == pytest.approx(told[1, 0]) and told[0, 0] > 0
    assert scatter < 1.3 * told[0, 1]
    assert np.isnan(rows(information(6), pairs=())[0].sigma_edge_difference_ev).all()
