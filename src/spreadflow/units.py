"""Physical constants and the conversions done at the edges: config in, files out.

Inside, everything is Å, Å⁻¹, eV, rad, mm and photons.
"""

import math

HC_EV_ANGSTROM = 12398.4197386
"""H·c in eV Å (CODATA 2018), the value dxtbx uses."""

R_E_SQUARED_M2 = 7.94079248e-30
"""Square of the classical electron radius as nanoBragg has it, m²."""

AVOGADRO = 6.02214076e23

DEG = math.pi / 180.0
"""Multiply degrees by this to get radians."""

MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


def wavelength(energy_ev):
    """Return wavelength in Å of photons of `energy_ev` eV (scalar or array)."""
    return HC_EV_ANGSTROM / energy_ev


def energy(wavelength_ang):
    """Return photon energy in eV at `wavelength_ang` Å (scalar or array)."""
    return HC_EV_ANGSTROM / wavelength_ang
