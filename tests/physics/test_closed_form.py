"""The closed form of the mosaic spread against many rotations drawn at random, in reciprocal space
around nodes.
"""

import numpy as np
import pytest

from spreadflow.models import Crystal, Mosaic
from spreadflow.physics import mosaic, rotation, unit_cell
from spreadflow.physics.clouds import clouds as clouds_of
from spreadflow.physics.lattice_factor import GAUSS
from spreadflow.units import DEG

N_DRAWS = 400_000
CRYSTALS = {
    "monoclinic": ((67.2, 59.8, 47.2, 90, 110.3, 90), (57, 57, 57), (12, -7, 9)),
    "low order": ((67.2, 59.8, 47.2, 90, 110.3, 90), (57, 57, 57), (3, 1, -2)),
    "long axis": ((89.0, 89.0, 271.0, 90, 90, 120), (31, 31, 31), (20, 15, 30)),
    "flat domain": ((79.1, 79.1, 38.4, 90, 90, 90), (30, 31, 60), (-14, 22, 8)),
}
"""cell (Å, degrees), N, node"""
BY_AXIS = np.array([0.03, 0.05, 0.09]) * DEG
"""η by axis of the crystal, rad"""


@pytest.fixture(scope="module", params=[0.03, 0.1, 0.3])
def drawn(request) -> tuple[float, np.ndarray]:
    """η in degrees and rotations of domains."""
    rng = np.random.default_rng([11, int(1000 * request.param)])
    return request.param, mosaic.domain_rotations(rng, N_DRAWS, request.param * DEG)


def around(crystal: Crystal, hkl: np.ndarray) -> np.ndarray:
    """(8, 3) the node first, then points off it along q, across it and both, in widths of the
    cloud.
    """
    q = crystal.A @ hkl
    along = q / np.linalg.norm(q)
    across = np.cross(along, [0.8, 0.5, 0.3])
    across /= np.linalg.norm(across)
    third = np.cross(along, across)
    own = np.sqrt(GAUSS / 4 * ((crystal.A / crystal.n_cells) ** 2).sum() / 3)
    wide = np.sqrt(own**2 + (crystal.eta_rad * np.linalg.norm(q)) ** 2 / 3)
    offsets = [
        0 * along,
        own * along,
        -2 * own * along,
        0.5 * wide * across,
        wide * across,
        2 * wide * third,
    ]
    return q + np.array([*offsets, own * along + wide * third, 3 * wide * across])


def sampled(
    crystal: Crystal, hkl: np.ndarray, turns: np.ndarray, p: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the rotations of |F_latt|²/ΠN² of a domain at points p (n, 3), and the noise of the
    mean.
    """
    inverse = np.linalg.inv(crystal.A) * crystal.n_cells[:, None]
    values = []
    for point in p:
        away = (turns.transpose(0, 2, 1) @ point) @ inverse.T - crystal.n_cells * hkl
        values.append(np.exp(-2 / 0.63 * (away**2).sum(axis=1)))
    return np.mean(values, axis=1), np.std(values, axis=1) / np.sqrt(len(turns))


def closed(crystal: Crystal, mosaicity: Mosaic, hkl: np.ndarray, p: np.ndarray) -> np.ndarray:
    """|F_latt|²/ΠN² at points p (n, 3) from the clouds of the closed form."""
    cloud = clouds_of(crystal, mosaicity, hkl[None])
    x, y, z = (p[:, i, None] - np.asarray(cloud.q[i]) for i in range(3))
    xx, yy, zz, yz, xz, xy = map(np.asarray, cloud.precision)
    diagonal = xx * x * x + yy * y * y + zz * z * z
    exponent = 0.5 * diagonal + yz * y * z + xz * x * z + xy * x * y
    values = np.asarray(cloud.amplitude) * np.exp(-exponent)
    squares = values.sum(axis=1)
    return squares / np.prod(crystal.n_cells) ** 2


@pytest.mark.stage
@pytest.mark.parametrize("name", CRYSTALS)
def test_is_the_mean_over_many_rotations(drawn, name):
    """Within 1 % of the peak, 8 nodes of the quadrature to η = 0.1° and 16 beyond; and within the
    draws' noise.
    """
    eta, turns = drawn
    cell, n_cells, hkl = CRYSTALS[name]
    A = rotation.random(np.random.default_rng(5)) @ unit_cell.reciprocal(unit_cell.radians(cell))
    crystal = Crystal(A, np.array(n_cells, dtype=np.float64), np.float64(eta * DEG))
    p = around(crystal, np.array(hkl))
    mean, noise = sampled(crystal, np.array(hkl), turns, p)
    mosaicity = mosaic.continuous(8 if eta < 0.2 else 16)
    in_closed_form = closed(crystal, mosaicity, np.array(hkl), p)
    assert noise.max() < 0.007 * mean[0], "the draws must be able to tell"
    assert np.abs(in_closed_form - mean).max() < 0.01 * mean[0]
    assert (np.abs(in_closed_form - mean) < 4 * noise + 0.001 * mean[0]).all()


def test_without_spread_every_node_of_the_quadrature_is_the_domain_itself():
    cell, n_cells, hkl = CRYSTALS["monoclinic"]
    crystal = Crystal(
        unit_cell.reciprocal(unit_cell.radians(cell)), np.array(n_cells, float), np.float64(0.0)
    )
    p = around(crystal, np.array(hkl))
    one_domain, _ = sampled(crystal, np.array(hkl), np.eye(3)[None], p)
    in_closed_form = closed(crystal, mosaic.continuous(8), np.array(hkl), p)
    np.testing.assert_allclose(in_closed_form, one_domain, rtol=1e-9)


@pytest.mark.parametrize("eta_deg", [0.03, 0.1, 0.2, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("name", CRYSTALS)
def test_as_many_widths_as_a_crystal_needs_hold_its_peaks(name, eta_deg):
    """Within 1 % of what 300 give, at the node, where the error of the quadrature is largest."""
    cell, n_cells, hkl = CRYSTALS[name]
    A = unit_cell.reciprocal(unit_cell.radians(cell))
    crystal = Crystal(A, np.array(n_cells, dtype=np.float64), np.float64(eta_deg * DEG))
    n = mosaic.n_widths(crystal, 1 / np.linalg.norm(A @ hkl))

    def peak(n_widths: int) -> float:
        clouds = clouds_of(crystal, mosaic.continuous(n_widths), np.array([hkl]))
        return np.asarray(clouds.amplitude).sum()

    assert peak(n) == pytest.approx(peak(300), rel=0.01) and n >= 8


# ---------------------------------------------------------------- η by axis of the crystal


def turned_crystal(name: str, eta_rad) -> tuple[Crystal, np.ndarray, np.ndarray]:
    """A crystal of the table, its node, and its axes (3, 3) as columns: those of the PDB's
    orthogonalization, turned with the crystal.
    """
    cell, n_cells, hkl = CRYSTALS[name]
    U = rotation.random(np.random.default_rng(5))
    A = U @ unit_cell.reciprocal(unit_cell.radians(cell))
    return Crystal(A, np.array(n_cells, dtype=np.float64), eta_rad), np.array(hkl), U


@pytest.mark.stage
@pytest.mark.parametrize("name", CRYSTALS)
def test_with_a_spread_by_axis_it_is_the_mean_over_many_rotations(name):
    """Rotation vectors are η w z along each axis, w uniform and z normal."""
    crystal, hkl, U = turned_crystal(name, 2 * BY_AXIS)
    rng = np.random.default_rng(12)
    along_axes = rng.random((N_DRAWS, 1)) * rng.standard_normal((N_DRAWS, 3)) * crystal.eta_rad
    turns = rotation.from_vector(along_axes @ U.T)
    of_one_eta = crystal._replace(eta_rad=crystal.eta_rms_rad)
    p = around(of_one_eta, hkl)
    mean, noise = sampled(crystal, hkl, turns, p)
    mosaicity = mosaic.continuous(16)
    in_closed_form = closed(crystal, mosaicity, hkl, p)
    assert np.abs(in_closed_form - mean).max() < 0.01 * mean[0]
    assert (np.abs(in_closed_form - mean) < 4 * noise + 0.001 * mean[0]).all()
    isotropic = closed(of_one_eta, mosaicity, hkl, p)
    assert np.abs(isotropic - mean).max() > 0.02 * mean[0], "the axes must matter"


@pytest.mark.parametrize("name", CRYSTALS)
def test_equal_spreads_by_axis_are_one_spread(name):
    crystal, hkl, _ = turned_crystal(name, np.float64(0.05 * DEG))
    by_axis = crystal._replace(eta_rad=crystal.eta_axes_rad)
    rng = np.random.default_rng(6)
    domains = Mosaic(rotation.random(rng)[None], np.array([0.7]), np.ones(1))
    for mosaicity in (mosaic.continuous(), domains):
        one = clouds_of(crystal, mosaicity, hkl[None])
        other = clouds_of(by_axis, mosaicity, hkl[None])
        for column, like in zip(one.precision, other.precision, strict=True):
            np.testing.assert_allclose(like, column, rtol=1e-9, atol=1e-9 * one.precision[0].max())
        np.testing.assert_allclose(other.amplitude, one.amplitude, rtol=1e-9)


def covariance(crystal: Crystal, hkl: np.ndarray) -> np.ndarray:
    """(3, 3) of the cloud of one component of width 1."""
    one_width = Mosaic(np.eye(3)[None], np.ones(1), np.ones(1))
    (xx,), (yy,), (zz,), (yz,), (xz,), (xy,) = clouds_of(crystal, one_width, hkl[None]).precision
    return np.linalg.inv(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]))


def test_a_spread_about_two_equal_axes_knows_the_third_alone():
    """Σ about an axis n: η² (|q|² − q qᵀ) + (η₃² − η²) (n × q)(n × q)ᵀ. n is c*, whatever a is."""
    eta, third = BY_AXIS[[0, 2]]
    crystal, hkl, U = turned_crystal("monoclinic", np.array([eta, eta, third]))
    q = crystal.A @ hkl
    c_star = crystal.A[:, 2] / np.linalg.norm(crystal.A[:, 2])
    np.testing.assert_allclose(U[:, 2], c_star, atol=1e-12)
    away = np.cross(c_star, q)
    expected = eta**2 * (q @ q * np.eye(3) - np.outer(q, q))
    expected += (third**2 - eta**2) * np.outer(away, away)
    of_size = covariance(crystal._replace(eta_rad=np.zeros(3)), hkl)
    found = covariance(crystal, hkl) - of_size
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_a_spread_by_axis_turns_with_the_crystal():
    crystal, hkl, _ = turned_crystal("monoclinic", BY_AXIS)
    turn = rotation.random(np.random.default_rng(8))
    turned = covariance(crystal._replace(A=turn @ crystal.A), hkl)
    expected = turn @ covariance(crystal, hkl) @ turn.T
    np.testing.assert_allclose(turned, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_one_spread_of_three_is_that_of_the_total_rotation():
    """r.m.s. of the mixture's rotation vectors, ∫dw w² η² over all three axes."""
    crystal, _, _ = turned_crystal("monoclinic", BY_AXIS)
    one_width = mosaic.continuous(16)
    mean_square = (one_width.share @ one_width.width**2) * (BY_AXIS**2).sum()
    assert crystal.eta_rms_rad == pytest.approx(np.sqrt(mean_square), rel=1e-12)
    assert crystal._replace(eta_rad=np.float64(1e-3)).eta_rms_rad == 1e-3
