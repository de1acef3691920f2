"""How the mosaic domains of a lattice are turned. The clouds that they make of nodes are in
`clouds`.
"""

import numpy as np

from spreadflow.models import Crystal, Mosaic
from spreadflow.physics import rotation
from spreadflow.physics.lattice_factor import SIZE_SIGMA

N_WIDTHS = 8
"""Gaussians of the continuous distribution where none are asked for: enough for small mosaicity."""

WIDE_ENOUGH = ((12.0, 8), (45.0, 16), (150.0, 32))
"""How far η moves a node, at most, in standard deviations of its cloud, and the number of Gaussians
that hold the distribution within 1 % of its peak up to there.
"""

N_WIDTHS_LARGEST = 64
"""Gaussians of the continuous distribution beyond the last row of `WIDE_ENOUGH`."""


def domains(rotations: np.ndarray) -> Mosaic:
    """Return the mosaicity of discrete domains with these rotations (n, 3, 3), all of the same
    size.
    """
    n = len(rotations)
    return Mosaic(
        rotations=np.asarray(rotations, dtype=np.float64),
        width=np.zeros(n),
        share=np.full(n, 1.0 / n),
    )


def n_widths(crystal: Crystal, d_min: float) -> int:
    """Return how many Gaussians the continuous distribution needs for nodes to d_min, Å."""
    real_space = np.linalg.inv(np.asarray(crystal.A))
    longest_axis = np.linalg.norm(real_space, axis=1).max()
    cloud_sigma = SIZE_SIGMA * longest_axis**-1 / float(np.max(crystal.n_cells))
    ratio = float(np.max(crystal.eta_rad)) / d_min / cloud_sigma
    for largest_ratio, n in WIDE_ENOUGH:
        if ratio <= largest_ratio:
            return n
    return N_WIDTHS_LARGEST


def continuous(n_widths: int = N_WIDTHS) -> Mosaic:
    """Return the continuous mosaicity: axes uniform, angles normal of standard deviation η.

    The density of the rotation vector, ∝ exp(−r²/2η²)/r², is ∫dw over (0, 1) of Gaussians of
    standard deviation η w about each axis: exactly a mixture, whose integral is summed at
    Gauss-Legendre nodes. With η by axis the Gaussians have standard deviation η w about each axis
    of the crystal: angles about any one axis are still normal, but axes are no longer uniform.
    """
    x, weights = np.polynomial.legendre.leggauss(n_widths)
    return Mosaic(
        rotations=np.broadcast_to(np.eye(3), (n_widths, 3, 3)),
        width=0.5 * (x + 1.0),
        share=0.5 * weights,
    )


def domain_rotations(rng: np.random.Generator, n: int, eta_rad: float) -> np.ndarray:
    """Return the rotations (n, 3, 3) of mosaic domains in the lab frame: axes uniform, angles
    normal of standard deviation η.
    """
    axes = rng.standard_normal((n, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    angles = eta_rad * rng.standard_normal(n)
    return rotation.from_vector(axes * angles[:, None])
