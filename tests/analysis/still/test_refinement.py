"""One lattice refined: derivatives, symmetry, and the truth found again on spots of turned, finite
domains.
"""

import numpy as np
import pytest
from scipy.stats import norm

from spreadflow.analysis.still import prediction, refinement
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
    """(2 n, 3, 3) turned domains: uniform axes, normal angles of standard deviation η, each with
    its opposite.
    """
    rng = np.random.default_rng(8)
    axes = rng.normal(size=(n, 3))
    axes *= (
        ETA
        * norm.ppf((np.arange(n) + 0.5) / n / 2)[:, None]
        / np.linalg.norm(axes, axis=1, keepdims=True)
    )
    return rotation.from_vector(np.concatenate([axes, -axes]))


def crystal(group: str, seed: int) -> np.ndarray:
    return rotation.random(np.random.default_rng(seed)) @ unit_cell.reciprocal(
        unit_cell.radians(CELLS[group])
    )


def still(A, group, n_spots=90, d_min=2.2, seed=0) -> tuple[np.ndarray, Spots]:
    """Indices and spots of the strongest reflections: domain by domain, each without any mosaic
    spread.
    """
    rng = np.random.default_rng(seed)
    pulse = prediction.compress(PULSE)
    how = {"spectrum": PULSE, "detector": DETECTOR, "space_group": group, "d_min": d_min}
    hkl = prediction.predict(A, ETA, DOMAIN, **how).hkl
    padded = prediction.padded_rows(hkl)
    photons, s1 = 0.0, 0.0
    for turn in turns():
        one = prediction.centroids(turn @ A, 1e-9, DOMAIN, padded, pulse.energies_ev, pulse.photons)
        share = np.nan_to_num(np.asarray(one.partiality * one.lorentz))[: len(hkl), None]
        photons = photons + share
        s1 = s1 + share * np.nan_to_num(np.asarray(one.s1))[: len(hkl)]
    photons = photons[:, 0] * rng.exponential(size=len(hkl))
    best = np.argsort(-photons)[:n_spots]
    panel, fast, slow = geometry.intersect(DETECTOR, s1[best])
    on = panel >= 0
    fast, slow = (x[on] + NOISE_PX * rng.normal(size=on.sum()) for x in (fast, slow))
    variance = np.full(on.sum(), NOISE_PX**2)
    intensity = photons[best][on]
    size = np.full(on.sum(), 9)
    return hkl[best][on], Spots(
        panel[on], fast, slow, variance, variance, intensity, intensity / 20, size
    )


def wrong(A, degrees: float, strain: float, group: str, seed=3) -> np.ndarray:
    """A turned about a random axis, its cell changed at random as far as the space group allows."""
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=3)
    frame = refinement.frame(A, group)
    p = np.zeros(4 + len(frame.strains))
    p[:3] = np.deg2rad(degrees) * axis / np.linalg.norm(axis)
    p[3:-1] = strain * rng.uniform(-1, 1, size=len(frame.strains))
    return np.asarray(refinement.matrix(frame, p))


@pytest.mark.parametrize(
    ("group", "n_free"), [("P 1", 6), ("C 1 2 1", 4), ("P 43 21 2", 2), ("R 3 :H", 2), ("F 2 3", 1)]
)
def test_strains_keep_the_lattice_symmetry(group, n_free):
    A = crystal(group, 1)
    frame = refinement.frame(A, group)
    assert len(frame.strains) == n_free
    np.testing.assert_allclose(refinement.matrix(frame, np.zeros(4 + n_free)), A, atol=1e-15)
    cell = unit_cell.cell_of(wrong(A, 20.0, 0.02, group))
    np.testing.assert_allclose(symmetry.constrain_cell(cell, group), cell, rtol=1e-10)
    assert np.abs(cell / unit_cell.radians(CELLS[group]) - 1).max() > 1e-3


@pytest.mark.stage
def test_derivatives_equal_finite_differences():
    A = wrong(crystal("P 1", 2), 0.02, 0.0, "P 1")
    hkl, spots = still(A, "P 1", n_spots=40)
    live = prediction.compress(PULSE)
    pulse = refinement.Pulse(live.energies_ev, live.photons, DOMAIN)
    frame = refinement.frame(A, "P 1")
    observed = refinement.observe(A, ETA, hkl, spots, detector=DETECTOR, pulse=pulse, model_px=0.05)
    p = np.append(np.random.default_rng(1).normal(size=9) * 1e-4, np.log(ETA))

    def at(p):
        return refinement.residuals(DETECTOR, frame, p, observed, pulse)

    _, by_p, _, psi_by_p = at(p)
    for k in range(10):
        step = np.eye(10)[k] * (1e-7 if k < 9 else 1e-4)
        up = at(p + step)
        down = at(p - step)
        scale = 2 * step.sum()
        np.testing.assert_allclose(
            (down[0] - up[0]) / scale, by_p[:, :, k], atol=2e-6 * np.abs(by_p[:, :, k]).max()
        )
        np.testing.assert_allclose((up[2] - down[2]) / scale, psi_by_p[:, k], atol=1e-7)


def refine(A, hkl, spots, group, **how):
    how |= {"detector": DETECTOR, "spectrum": PULSE, "space_group": group, "domain_ang": DOMAIN}
    return refinement.refine(A, hkl, spots, **how)


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
    right = found.hkl.any(axis=1)
    np.testing.assert_array_equal(found.hkl[right], hkl[right])
    assert right.sum() >= 0.98 * (n - len(moved)) and found.used[right].mean() > 0.9
    px = float(DETECTOR.pixel_mm)
    assert found.rmsd_transverse_mm < 0.15 * px and found.rmsd_radial_mm < 0.3 * px


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
    assert refine(A, np.where(np.arange(len(hkl))[:, None] < 7, hkl, 0), spots, "C 1 2 1") is None
    assert refine(A, np.roll(hkl, 1, axis=0), spots, "C 1 2 1", tolerance_px=0.5) is None, (
        "indices of other spots"
    )
