"""Anomalous difference maps of small crystals whose F(+) and F(−) are summed atom by atom."""

from typing import NamedTuple

import numpy as np
import pytest

from spreadflow.analysis.factors.anomalous_map import ELSEWHERE_ANG, NoMap, site_peaks
from spreadflow.analysis.merging.merging import Unique
from spreadflow.physics import symmetry

CRYSTALS = {
    "P 21 21 21": np.array([26.0, 29.0, 24.0, 90.0, 90.0, 90.0]),
    "C 1 2 1": np.array([34.0, 22.0, 27.0, 90.0, 111.0, 90.0]),
}
"""Space group → cell; the first has centric reflections in three zones."""

SITES = np.array([[0.213, 0.147, 0.318], [0.081, 0.302, 0.143]])
"""Fractional coordinates of two absorbing atoms."""

F2 = np.array([4.0, 2.0])
"""Their f″."""


class Reflections(NamedTuple):
    """The reflections of a crystal, as they would be without noise."""

    unique: Unique
    factors: np.ndarray
    """(unique,) complex, of a mate F(−h)"""
    sigma: np.ndarray
    """(unique,)"""

    @property
    def amplitude(self) -> np.ndarray:
        return np.abs(self.factors)

    def peaks(self, amplitude: np.ndarray, sigma: np.ndarray | None = None, xyz=SITES):
        sigma = self.sigma if sigma is None else sigma
        return site_peaks(self.unique, amplitude, sigma, self.factors, xyz)

    def noisy(self, sigma: np.ndarray | float) -> np.ndarray:
        noise = np.random.default_rng(4).standard_normal(len(self.unique))
        return self.amplitude + sigma * noise


def make(space_group: str) -> Reflections:
    """Sum 150 atoms of the asymmetric unit and their mates; B is 15 Å²."""
    unique = Unique(CRYSTALS[space_group], space_group, 2.4)
    rng = np.random.default_rng(1)
    xyz = np.concatenate([SITES, rng.random((150, 3))])
    scattering = np.full(len(xyz), 7.0 + 0.0j)
    scattering[:2] = 22.0 + 1j * F2
    hkl = np.where(unique.friedel < 0, -1, 1)[:, None] * unique.hkl
    factors = np.zeros(len(unique), dtype=np.complex128)
    for operation in symmetry.group(space_group).operations():
        mates = np.array([operation.apply_to_xyz(place) for place in xyz.tolist()])
        factors += np.exp(2j * np.pi * (hkl @ mates.T)) @ scattering
    factors *= np.exp(-15.0 * 0.25 / unique.d**2)
    return Reflections(unique, factors, np.full(len(unique), 0.1))


@pytest.fixture(scope="module", params=CRYSTALS)
def crystal(request) -> Reflections:
    return make(request.param)


@pytest.fixture(scope="module")
def orthorhombic() -> Reflections:
    return make("P 21 21 21")


def is_mate(crystal: Reflections, xyz: np.ndarray, site: np.ndarray, within: float) -> bool:
    """Whether a place lies within so many Å of a site or one of its symmetry mates."""
    operations = crystal.unique.space_group.operations()
    basis = np.array(crystal.unique.cell.orth.mat.tolist())
    mates = np.array([operation.apply_to_xyz(site.tolist()) for operation in operations])
    away = mates - xyz
    away -= np.round(away)
    return bool(np.linalg.norm(away @ basis.T, axis=1).min() < within)


def test_sites_are_the_highest_peaks(crystal):
    peaks = crystal.peaks(crystal.amplitude)

    assert (peaks.at_site > 8.0).all()
    assert (peaks.highest >= peaks.at_site).all()
    assert (peaks.highest < 1.1 * peaks.at_site).all()
    assert peaks.elsewhere < 0.6 * peaks.highest.min()
    assert peaks.at_site[0] / peaks.at_site[1] == pytest.approx(F2[0] / F2[1], rel=0.2)
    assert not any(is_mate(crystal, peaks.elsewhere_xyz, site, ELSEWHERE_ANG) for site in SITES)


def fourier_sum(crystal: Reflections, xyz: np.ndarray) -> np.ndarray:
    """Sum Δ sin(φ − 2π h·x) over pairs of mates and operations at places (n, 3), without a grid."""
    plus = np.flatnonzero(crystal.unique.friedel > 0)
    minus = crystal.unique.mate[plus]
    difference = crystal.amplitude[plus] - crystal.amplitude[minus]
    phase = np.angle(crystal.factors[plus] + np.conj(crystal.factors[minus]))
    total = np.zeros(len(xyz))
    for operation in crystal.unique.space_group.operations():
        mates = np.array([operation.apply_to_xyz(place) for place in xyz.tolist()])
        turns = 2 * np.pi * crystal.unique.hkl[plus] @ mates.T
        total += difference @ np.sin(phase[:, None] - turns)
    return total


def test_heights_are_those_of_the_fourier_sum(crystal):
    random = np.random.default_rng(7).random((1500, 3))
    is_away = [
        not any(is_mate(crystal, place, site, ELSEWHERE_ANG) for site in SITES) for place in random
    ]
    rms = np.sqrt(np.mean(fourier_sum(crystal, random[is_away]) ** 2))
    peaks = crystal.peaks(crystal.amplitude)

    assert peaks.n_dropped <= 2
    np.testing.assert_allclose(peaks.at_site, fourier_sum(crystal, SITES) / rms, rtol=0.06)


def test_phase_is_that_of_both_mates(crystal):
    """The model's mates may be exchanged."""
    mate = crystal.unique.mate
    conjugate = np.conj(crystal.factors)
    exchanged = np.where(mate >= 0, conjugate[mate], crystal.factors)
    peaks = site_peaks(crystal.unique, crystal.amplitude, crystal.sigma, exchanged, SITES)

    np.testing.assert_allclose(peaks.at_site, crystal.peaks(crystal.amplitude).at_site, rtol=1e-5)


def test_swapped_mates_turn_the_map_over(crystal):
    mate = crystal.unique.mate
    swapped = np.where(mate >= 0, crystal.amplitude[mate], crystal.amplitude)

    np.testing.assert_allclose(
        crystal.peaks(swapped).at_site, -crystal.peaks(crystal.amplitude).at_site, rtol=1e-4
    )


def test_mates_of_a_site_are_as_high(crystal):
    operation = list(crystal.unique.space_group.operations())[-1]
    mates = np.array([operation.apply_to_xyz(site) for site in SITES.tolist()])
    peaks = crystal.peaks(crystal.amplitude)
    of_mates = crystal.peaks(crystal.amplitude, xyz=mates + np.array([0, 1, -2]))

    np.testing.assert_allclose(of_mates.at_site, peaks.at_site, rtol=1e-3)
    np.testing.assert_allclose(of_mates.highest, peaks.highest, rtol=0.02)
    assert of_mates.elsewhere == pytest.approx(peaks.elsewhere, rel=1e-3)


def test_an_atom_that_is_no_site_is_the_highest_elsewhere(crystal):
    peaks = crystal.peaks(crystal.amplitude, xyz=SITES[1:])

    assert is_mate(crystal, peaks.elsewhere_xyz, SITES[0], 0.5)
    assert peaks.elsewhere > 1.5 * peaks.highest[0]


def test_noise_lowers_peaks(crystal):
    heights = [crystal.peaks(crystal.noisy(sigma)).highest[0] for sigma in (0.0, 3.0, 6.0, 60.0)]

    assert heights == sorted(heights, reverse=True)
    assert heights[-1] < 0.3 * heights[0]


def test_only_acentric_reflections_with_both_mates_count(orthorhombic):
    unique = orthorhombic.unique
    amplitude = orthorhombic.amplitude.copy()
    plus = np.flatnonzero(unique.friedel > 0)
    amplitude[plus[:5]] = np.nan
    sigma = orthorhombic.sigma.copy()
    sigma[unique.mate[plus[5:9]]] = np.nan
    amplitude[unique.friedel == 0] = 1e6
    peaks = orthorhombic.peaks(amplitude, sigma)

    assert peaks.n_pairs + peaks.n_dropped == len(plus) - 9


def test_differences_too_large_are_dropped(orthorhombic):
    right = orthorhombic.peaks(orthorhombic.amplitude)
    amplitude = orthorhombic.amplitude.copy()
    plus = np.flatnonzero(orthorhombic.unique.friedel > 0)
    amplitude[plus[::100]] += 1000.0
    peaks = orthorhombic.peaks(amplitude)

    assert peaks.n_dropped >= len(plus[::100])
    np.testing.assert_allclose(peaks.at_site, right.at_site, rtol=0.06)


def test_differences_too_uncertain_are_dropped_whatever_the_scale_of_sigma(orthorhombic):
    """A tenth of the reflections are noise."""
    is_poor = np.random.default_rng(5).random(len(orthorhombic.unique)) < 0.1
    sigma = np.where(is_poor, 60.0, 1.0)
    amplitude = orthorhombic.noisy(sigma)
    peaks = orthorhombic.peaks(amplitude, sigma)
    without = orthorhombic.peaks(np.where(is_poor, np.nan, amplitude), sigma)
    too_large = orthorhombic.peaks(amplitude, 50.0 * sigma)

    np.testing.assert_allclose(peaks.at_site, without.at_site, rtol=1e-5)
    np.testing.assert_allclose(too_large.at_site, without.at_site, rtol=1e-5)


def test_scale_of_the_amplitudes_does_not_matter(orthorhombic):
    peaks = orthorhombic.peaks(orthorhombic.amplitude)
    scaled = orthorhombic.peaks(1e-3 * orthorhombic.amplitude, 1e-3 * orthorhombic.sigma)

    np.testing.assert_allclose(scaled.highest, peaks.highest, rtol=1e-4)


def test_tables_without_differences_are_refused(orthorhombic):
    unique = orthorhombic.unique
    with pytest.raises(NoMap, match="both Friedel mates"):
        orthorhombic.peaks(np.where(unique.friedel < 0, np.nan, orthorhombic.amplitude))
    with pytest.raises(NoMap, match="equal"):
        orthorhombic.peaks(np.ones(len(unique)))
