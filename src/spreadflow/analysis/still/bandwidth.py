"""The bandwidth of pulses without a recorded spectrum, from where their spots lie.

A pulse of one energy is assumed, and lattices are refined with it. A node that lies Δψ from its
Ewald sphere then diffracts because domains are turned by −Δψ, and its ray stays where it is; or
because the pulse holds the energy that fits, and its ray turns by 2 Δψ. So half of the turn of the
ray, times Δψ, is (σ_E/E tan θ)² in the mean over reflections, whatever the mosaicity. The size of
domains, and which reflections are found, change this by up to a fifth.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.still import prediction
from spreadflow.analysis.still.prediction import MosaicLattice
from spreadflow.models import Detector, Spectrum, Spots
from spreadflow.physics import geometry
from spreadflow.physics.spectrum import FWHM

N_SUMS = 6
"""Numbers that `sums` returns."""

FEWEST_LATTICES = 3
"""Lattices from whose scatter a standard deviation is taken."""


class Bandwidth(NamedTuple):
    """Full width at half maximum of the pulses' energies, were these Gaussian, over their mean."""

    fwhm: float
    """relative; 0 where the spots ask for less than none"""
    sigma: float
    """standard deviation, from the scatter between lattices"""
    n_lattices: int


def sums(
    lattice: MosaicLattice,
    hkl: np.ndarray,
    spots: Spots,
    spectrum: Spectrum,
    detector: Detector,
) -> np.ndarray:
    """Return what a lattice adds to the sums of `estimate`, (`N_SUMS`,).

    hkl: (spot, 3), 0 0 0 = not of this lattice. spectrum: one channel, that the lattice was refined
    with.
    """
    rows = np.flatnonzero(hkl.any(axis=1))
    panel = spots.panel[rows]
    predicted = prediction.centroids_of(lattice, hkl[rows], spectrum)
    fast, slow = geometry.on_panel(detector, panel, predicted.s1)
    radial = geometry.radial_axes(detector, panel, fast, slow)[:, 0]
    away = np.stack([spots.fast[rows] - fast, spots.slow[rows] - slow], axis=1)
    px_per_rad, _ = prediction.pixels_per_rad(detector, predicted.s1, panel, fast, slow)
    half_turn = 0.5 * (away * radial).sum(axis=1) / px_per_rad

    cosine_2theta = -predicted.s1[:, 2]
    tan2 = (1.0 - cosine_2theta) / (1.0 + cosine_2theta)
    product = float(half_turn @ predicted.delta_psi)
    design = float(tan2.sum())
    if not len(rows) or not np.isfinite(product + design):
        return np.zeros(N_SUMS)
    return np.array([product, design, product**2, product * design, design**2, 1.0])


def estimate(total: np.ndarray) -> Bandwidth | None:
    """Return the bandwidth from `sums` added over lattices; None from fewer than
    `FEWEST_LATTICES`.
    """
    product, design, product2, cross, design2, n = total
    if n < FEWEST_LATTICES or design <= 0:
        return None
    variance = product / design
    scatter = product2 - 2 * variance * cross + variance**2 * design2
    sigma_of_variance = np.sqrt(max(scatter, 0.0) * n / (n - 1)) / design
    relative = np.sqrt(max(variance, 0.0))
    sigma = sigma_of_variance / (2 * max(relative, np.sqrt(sigma_of_variance)))
    return Bandwidth(float(FWHM * relative), float(FWHM * sigma), int(n))
