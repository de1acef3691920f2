"""Scattering of water and air around the crystal, photons per pixel, in the path of a beam of one
wavelength.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.units import AVOGADRO, R_E_SQUARED_M2

STEP = 0.0005 / 8
"""Step of sin θ/λ, Å⁻¹, at which F² is tabulated for images. The points of the tables are multiples
of it: no kink of F lies between two multiples.
"""


class Material(NamedTuple):
    """An amorphous scatterer."""

    stol: tuple[float, ...]
    """sin θ/λ, Å⁻¹, of the table"""
    factor: tuple[float, ...]
    """structure factor of a molecule, electrons"""
    density: float
    """g/cm³"""
    molecular_weight: float
    """g/mol"""


WATER = Material(
    stol=(0, 0.0365, 0.07, 0.12, 0.162, 0.18, 0.2, 0.216, 0.236, 0.28, 0.3, 0.345, 0.436, 0.5),
    factor=(2.57, 2.58, 2.8, 5, 8, 7.32, 6.75, 6.75, 6.5, 4.5, 4.3, 4.36, 3.77, 3.17),
    density=1.0,
    molecular_weight=18.0,
)
"""Water: the table of the published simulations."""

AIR = Material(
    stol=(0, 0.045, 0.174, 0.35, 0.5),
    factor=(14.1, 13.5, 8.35, 4.78, 4.22),
    density=1.2e-3,
    molecular_weight=28.0,
)
"""Air, of 28 g/mol as the published runs meant; a misspelt attribute left 18 in force there, 1.56
times the scattering.
"""


def molecules_per_area(material: Material, thickness_mm: float) -> float:
    """Return the scattering molecules in the beam's path, m⁻²."""
    return thickness_mm * 1e-3 * material.density * 1e6 * AVOGADRO / material.molecular_weight


def cubics(material: Material) -> tuple[np.ndarray, np.ndarray]:
    """Return the table as cubics: lower ends (piece,) and coefficients (piece, 4) in powers of the
    distance from them.

    In each interval the cubic goes through the four nearest points, two on either side where there
    are.
    """
    x = np.array(material.stol)
    y = np.array(material.factor)
    starts = x[:-1]
    first = np.clip(np.arange(len(starts)) - 1, 0, len(x) - 4)
    pieces = []
    for start, k in zip(starts, first, strict=True):
        powers = np.vander(x[k : k + 4] - start, increasing=True)
        pieces.append(np.linalg.solve(powers, y[k : k + 4]))
    return starts, np.array(pieces)


def factor(material: Material, stol: np.ndarray) -> np.ndarray:
    """Return the structure factor of a molecule, electrons, at sin θ/λ (...), Å⁻¹: cubic within the
    table, constant beyond.
    """
    starts, pieces = cubics(material)
    stol = np.clip(stol, 0.0, material.stol[-1])
    piece = np.searchsorted(starts, stol, side="right") - 1
    powers = (stol - starts[piece])[..., None] ** np.arange(4)
    return np.einsum("...k,...k", pieces[piece], powers)


def _squares(material: Material) -> np.ndarray:
    """Return F² at the multiples of STEP up to the end of the table, electrons²."""
    n_steps = round(material.stol[-1] / STEP)
    return factor(material, STEP * np.arange(n_steps + 1)) ** 2


@jax.jit
def background(sine, efficiency, wavelength_ang, photons, water_mm, air_mm):
    """Return the expected photons (...) of a pulse of `photons` photons; the size of the beam
    cancels.

    sine: sin θ of pixels; efficiency: as of `pixel_map`. F²·r_e²·photons·molecules per
    area·efficiency, with F² of water and air together linear between multiples of STEP of sin θ/λ.
    """
    water = molecules_per_area(WATER, water_mm) * _squares(WATER)
    air = molecules_per_area(AIR, air_mm) * _squares(AIR)
    table = (R_E_SQUARED_M2 * photons * (water + air)).astype(sine.dtype)
    steps_per_sine = (1.0 / (wavelength_ang * STEP)).astype(sine.dtype)
    steps = jnp.minimum(sine * steps_per_sine, len(table) - 1)
    row = steps.astype(jnp.int32)
    low = table.at[row].get(mode="clip")
    high = table.at[row + 1].get(mode="clip")
    return efficiency * (low + (steps - row) * (high - low))
