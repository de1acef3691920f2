"""The bandwidth of pulses without a spectrum: a planted one found again, and none where there is
none.
"""

import numpy as np
import pytest

from spreadflow.analysis.still import bandwidth, prediction
from spreadflow.analysis.still.prediction import MosaicLattice
from spreadflow.models import Detector, Spectrum, Spots
from spreadflow.physics import rotation, unit_cell
from spreadflow.physics.spectrum import gaussian

CELL = unit_cell.radians([70.0, 70.0, 110.0, 90.0, 90.0, 90.0])
ENERGY_EV = 7120.0
DETECTOR = Detector(
    origin_mm=np.array([[-100.0, 100.0, -110.0]]),
    fast=np.array([[1.0, 0.0, 0.0]]),
    slow=np.array([[0.0, -1.0, 0.0]]),
    pixel_mm=np.array(0.1),
    shape=(2000, 2000),
)
SINGLE = Spectrum(np.array([ENERGY_EV]), np.ones(1))


def estimate(pulse: Spectrum, eta_rad: float, n: int = 6) -> bandwidth.Bandwidth | None:
    """Return the estimate from n lattices in a pulse, whose orientations are known."""
    total = np.zeros(bandwidth.N_SUMS)
    for seed in range(n):
        rng = np.random.default_rng(seed)
        A = rotation.random(rng) @ unit_cell.reciprocal(CELL)
        lattice = MosaicLattice(A, eta_rad, 3000.0)
        seen = prediction.predict(
            lattice, pulse, DETECTOR, space_group="P 41 21 2", d_min=2.0, partiality_min=0.1
        )
        n_spots = len(seen.hkl)
        spots = Spots(
            panel=seen.panel,
            fast=seen.fast + 0.2 * rng.normal(size=n_spots),
            slow=seen.slow + 0.2 * rng.normal(size=n_spots),
            **{name: np.ones(n_spots) for name in Spots._fields[3:]},
        )
        total += bandwidth.sums(lattice, seen.hkl, spots, prediction.compress(SINGLE), DETECTOR)
    return bandwidth.estimate(total)


@pytest.mark.parametrize("eta_rad", [3e-4, 9e-4])
@pytest.mark.parametrize("fwhm", [0.002, 0.004])
def test_a_planted_bandwidth_is_found(fwhm, eta_rad):
    """Whatever the mosaicity, within a fifth."""
    width = estimate(gaussian(ENERGY_EV, fwhm * ENERGY_EV, 1.0), eta_rad)
    assert width is not None
    assert width.fwhm == pytest.approx(fwhm, rel=0.2)
    assert width.sigma < 0.1 * fwhm
    assert width.n_lattices == 6


def test_a_single_energy_has_none():
    width = estimate(SINGLE, 9e-4)
    assert width is not None
    assert width.fwhm < max(3 * width.sigma, 2e-4)


def test_two_lattices_are_too_few():
    assert estimate(SINGLE, 9e-4, n=2) is None
