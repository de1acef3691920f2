"""One lattice refined: derivatives, symmetry, and the truth found again on spots of turned, finite
domains.
"""

import numpy as np
import pytest
from scipy.stats import norm

from spreadflow.analysis.orientation_matrix import (
    at_start,
    coordinates,
    crystal_frame,
    matrix,
    recentred,
)
from spreadflow.analysis.still import centroid_fit, prediction, refinement
from spreadflow.analysis.still.prediction import MosaicLattice
from spreadflow.models import Detector, Spectrum, Spots
from spreadflow.physics import geometry, rotation, symmetry, unit_cell

DETECTOR = Detector(
    np.array([[-120.0, 120.0, -140.0]]),
    np.array([[1.0, 0, 0]]),
    np.array([[0, -1.0, 0]]),
    np.array(0.2),
    (1200, 1200),
)
PULSE = Spectrum(np.arange(7090.0, 7150.0), np.exp(-(((np.arange(60) - 30) / 12.0) ** 2)))
CELLS = {
    "P 1": [40.0, 50.0, 60.0, 80.0, 95.0, 105.0],
    "C 1 2 1": [67.2, 59.8, 47.2, 90.0, 110.3, 90.0],
    "P 43 21 2": [78.0, 78.0, 38.0, 90.0, 90.0, 90.0],
    "R 3 :H": [80.0, 80.0, 100.0, 90.0, 90.0, 120.0],
    "F 2 3": [110.0, 110.0, 110.0, 90.0, 90.0, 90.0],
}
ETA = 9e-4
DOMAIN = 2500.0
NOISE_PX = 0.08


def turns(n: int = 40) -> np.ndarray:
    """Return the rotations (2 n, 3, 3) of domains: uniform axes, normal angles of standard
    deviation η, each with its opposite.
    """
    axes = np.random.default_rng(8).normal(size=(n, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    quantiles = (np.arange(n) + 0.5) / n / 2
    angles = ETA * norm.ppf(quantiles)
    vectors = axes * angles[:, None]
    return rotation.from_vector(np.concatenate([vectors, -vectors]))


def crystal(group: str, seed: int) -> np.ndarray:
    """Return A (3, 3) of a crystal in a random orientation."""
    B = unit_cell.reciprocal(unit_cell.radians(CELLS[group]))
    return rotation.random(np.random.default_rng(seed)) @ B


def still(A, group, n_spots=90, d_min=2.2, seed=0) -> tuple[np.ndarray, Spots]:
    """Return indices and spots of the strongest reflections, summed over domains of which each has
    no mosaic spread.
    """
    rng = np.random.default_rng(seed)
    spectrum = prediction.compress(PULSE)
    lattice = MosaicLattice(A, ETA, DOMAIN)
    hkl = prediction.predict(lattice, PULSE, DETECTOR, space_group=group, d_min=d_min).hkl
    photons = np.zeros((len(hkl), 1))
    s1 = np.zeros((len(hkl), 3))
    for turn in turns():
        domain = MosaicLattice(turn @ A, 1e-9, DOMAIN)
        spots = prediction.centroids_of(domain, hkl, spectrum)
        share = np.nan_to_num(spots.partiality * spots.lorentz)[:, None]
        photons += share
        s1 += share * np.nan_to_num(spots.s1)

    intensity = photons[:, 0] * rng.exponential(size=len(hkl))
    best = np.argsort(-intensity)[:n_spots]
    panel, fast, slow = geometry.intersect(DETECTOR, s1[best])
    on = panel >= 0
    n_on = on.sum()
    variance = np.full(n_on, NOISE_PX**2)
    observed = Spots(
        panel=panel[on],
        fast=fast[on] + NOISE_PX * rng.normal(size=n_on),
        slow=slow[on] + NOISE_PX * rng.normal(size=n_on),
        variance_fast=variance,
        variance_slow=variance,
        intensity=intensity[best][on],
        sigma=intensity[best][on] / 20,
        n_pixels=np.full(n_on, 9),
    )
    return hkl[best][on], observed


def wrong(A, degrees: float, strain: float, group: str, seed=3) -> np.ndarray:
    """Return A turned about a random axis, its cell changed at random as far as the space group
    allows.
    """
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=3)
    frame = crystal_frame(A, group)
    rotation_vector = np.deg2rad(degrees) * axis / np.linalg.norm(axis)
    strains = strain * rng.uniform(-1, 1, size=len(frame.strains))
    return np.asarray(matrix(frame, np.concatenate([rotation_vector, strains])))


@pytest.mark.parametrize(
    ("group", "n_free"), [("P 1", 6), ("C 1 2 1", 4), ("P 43 21 2", 2), ("R 3 :H", 2), ("F 2 3", 1)]
)
def test_strains_keep_the_lattice_symmetry(group, n_free):
    A = crystal(group, 1)
    frame = crystal_frame(A, group)

    assert len(frame.strains) == n_free
    np.testing.assert_allclose(matrix(frame, np.zeros(3 + n_free)), A, atol=1e-15)

    moved = wrong(A, 20.0, 0.02, group)
    about = recentred(frame, moved)
    np.testing.assert_allclose(at_start(about), moved, atol=1e-15)
    np.testing.assert_allclose(coordinates(about, moved), 0.0, atol=1e-12)

    cell = unit_cell.cell_of(moved)
    np.testing.assert_allclose(symmetry.constrain_cell(cell, group), cell, rtol=1e-10)
    assert np.abs(cell / unit_cell.radians(CELLS[group]) - 1).max() > 1e-3


@pytest.mark.stage
def test_derivatives_equal_finite_differences():
    A = wrong(crystal("P 1", 2), 0.02, 0.0, "P 1")
    hkl, spots = still(A, "P 1", n_spots=40)
    spectrum = prediction.compress(PULSE)
    model = centroid_fit.CentroidModel(crystal_frame(A, "P 1"), spectrum, DOMAIN)
    lattice = MosaicLattice(A, ETA, DOMAIN)
    observed = centroid_fit.observe(lattice, hkl, spots, spectrum, DETECTOR)
    p = np.append(np.random.default_rng(1).normal(size=9) * 1e-4, np.log(ETA))

    def residuals(p):
        return centroid_fit.residuals(DETECTOR, model, p, observed)

    expected = residuals(p)
    for k in range(10):
        step = np.eye(10)[k] * (1e-7 if k < 9 else 1e-4)
        up = residuals(p + step)
        down = residuals(p - step)
        scale = 2 * step.sum()
        by_p = expected.offset_by_p[:, :, k]
        tolerance = 2e-6 * np.abs(by_p).max()
        np.testing.assert_allclose((down.offset - up.offset) / scale, by_p, atol=tolerance)
        psi_by_p = (up.delta_psi - down.delta_psi) / scale
        np.testing.assert_allclose(psi_by_p, expected.delta_psi_by_p[:, k], atol=1e-7)


def refine(A, hkl, spots, group, **settings):
    settings = refinement.Settings(group, DOMAIN, **settings)
    return refinement.refine(A, hkl, spots, PULSE, DETECTOR, settings)


@pytest.mark.stage
@pytest.mark.parametrize("group", ["P 1", "C 1 2 1", "P 43 21 2"])
def test_truth_is_found_again(group):
    """From 0.3° and 0.3 % off, with one spot in ten wrong."""
    A = crystal(group, 5)
    hkl, spots = still(A, group)
    n = len(hkl)
    rng = np.random.default_rng(6)
    moved = rng.choice(n, n // 10, replace=False)
    spots.fast[moved] = rng.uniform(0, 1200, size=len(moved))

    found = refine(wrong(A, 0.3, 0.003, group), hkl, spots, group)

    assert np.rad2deg(symmetry.misorientation(found.A, A, group)) < 0.006
    np.testing.assert_allclose(found.cell, unit_cell.radians(CELLS[group]), rtol=5e-4)
    assert 0.7 < found.eta_rad / ETA < 1.4
    assert not found.hkl[moved].any(axis=1).sum() > 1, "a wrong spot may hit a node by chance"

    is_indexed = found.hkl.any(axis=1)
    np.testing.assert_array_equal(found.hkl[is_indexed], hkl[is_indexed])
    assert is_indexed.sum() >= 0.98 * (n - len(moved))
    assert found.used[is_indexed].mean() > 0.9
    px = float(DETECTOR.pixel_mm)
    assert found.rmsd_transverse_mm < 0.15 * px
    assert found.rmsd_radial_mm < 0.3 * px


@pytest.mark.stage
def test_header_error_is_found_with_the_lattice():
    """The header is off by 1.5 px: free, the shift is found and nothing else notices; held, the
    lattice turns and spots leave it.
    """
    group = "P 43 21 2"
    A = crystal(group, 5)
    hkl, spots = still(A, group)
    error_mm = np.array([0.26, -0.17])
    fast, slow = error_mm / float(DETECTOR.pixel_mm)
    there = spots._replace(fast=spots.fast - fast, slow=spots.slow - slow)
    start = wrong(A, 0.2, 0.002, group)

    free = refine(start, hkl, there, group, shift_sigma_mm=0.3)
    np.testing.assert_allclose(free.shift_mm, error_mm, atol=0.01)
    assert np.rad2deg(symmetry.misorientation(free.A, A, group)) < 0.006
    np.testing.assert_allclose(free.cell, unit_cell.radians(CELLS[group]), rtol=5e-4)
    assert free.rmsd_transverse_mm < 0.15 * float(DETECTOR.pixel_mm)

    held = refine(start, hkl, there, group)
    assert held is None or (
        not held.shift_mm.any() and np.rad2deg(symmetry.misorientation(held.A, A, group)) > 0.03
    )


def test_spots_not_indexed_at_first_join():
    A = crystal("C 1 2 1", 7)
    hkl, spots = still(A, "C 1 2 1")
    few = np.where(np.arange(len(hkl))[:, None] < 25, hkl, 0)
    found = refine(wrong(A, 0.2, 0.002, "C 1 2 1"), few, spots, "C 1 2 1")

    assert np.all(found.hkl == hkl, axis=1).mean() > 0.98


def test_given_mosaic_spread_is_kept():
    A = crystal("C 1 2 1", 7)
    hkl, spots = still(A, "C 1 2 1")
    found = refine(A, hkl, spots, "C 1 2 1", eta_rad=5e-4)

    np.testing.assert_allclose(found.eta_rad, 5e-4, rtol=1e-4)


def test_too_few_spots_are_no_lattice():
    A = crystal("C 1 2 1", 7)
    hkl, spots = still(A, "C 1 2 1")
    few = np.where(np.arange(len(hkl))[:, None] < 7, hkl, 0)

    assert refine(A, few, spots, "C 1 2 1") is None
    of_other_spots = np.roll(hkl, 1, axis=0)
    assert refine(A, of_other_spots, spots, "C 1 2 1", tolerance_px=0.5) is None


@pytest.mark.stage
def test_domains_are_estimated_not_assumed():
    """From domains five times too large or too small; the cell does not notice."""
    A = crystal("C 1 2 1", 7)
    hkl, spots = still(A, "C 1 2 1", n_spots=120)
    for factor in (5.0, 0.2):
        settings = refinement.Settings("C 1 2 1", factor * DOMAIN)
        found = refinement.refine(A, hkl, spots, PULSE, DETECTOR, settings)
        assert 0.6 < found.domain_ang / DOMAIN < 1.7
        assert found.domain_estimated_ang == found.domain_ang
        np.testing.assert_allclose(found.cell, unit_cell.radians(CELLS["C 1 2 1"]), rtol=1e-3)
    kept = refine(A, hkl, spots, "C 1 2 1")
    assert kept.domain_ang == DOMAIN != kept.domain_estimated_ang
