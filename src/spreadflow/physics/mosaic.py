"""How the mosaic domains of a lattice are turned, and the clouds they make of every node of the
reciprocal lattice.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Array, Crystal, Mosaic
from spreadflow.physics import rotation

GAUSS = 0.63
"""F_latt = N_a N_b N_c exp(−Σ(N Δh)²/0.63)."""

N_WIDTHS = 8
"""Gaussians of the continuous distribution, where not told."""

WIDE_ENOUGH = ((12.0, 8), (45.0, 16), (150.0, 32))
"""How far η moves a node, in its own standard deviations, and the Gaussians that hold it within 1 %
of the peak.
"""


_ENTRIES = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


class Clouds(NamedTuple):
    """Gaussian clouds amplitude·exp(−½(p − q)ᵀM(p − q)) of |F_latt|² in reciprocal space, one per
    node and component.

    All of shape (node · component,), the components of a node side by side.
    """

    q: tuple[Array, ...]
    """centre, Å⁻¹"""
    precision: tuple[Array, ...]
    """M = Σ⁻¹, Å²: xx yy zz yz xz xy"""
    amplitude: Array
    """|F_latt|² at the centre times the component's share"""


def domains(rotations: np.ndarray) -> Mosaic:
    """Return given domains (n, 3, 3), as many cells in each."""
    n = len(rotations)
    return Mosaic(np.asarray(rotations, dtype=np.float64), np.zeros(n), np.full(n, 1.0 / n))


def n_widths(crystal: Crystal, d_min: float) -> int:
    """Return how many Gaussians the continuous distribution needs for nodes to d_min, Å."""
    own = (
        np.sqrt(GAUSS / 4)
        * np.linalg.norm(np.linalg.inv(np.asarray(crystal.A)), axis=1).max() ** -1
    )
    ratio = float(crystal.eta_rad) / d_min / (own / float(np.max(crystal.n_cells)))
    return next((n for top, n in WIDE_ENOUGH if ratio <= top), 64)


def continuous(n_widths: int = N_WIDTHS) -> Mosaic:
    """Return axes uniform, angles normal of standard deviation η: exactly a mixture, w uniform on
    (0, 1), of Gaussians.

    The density of the rotation vector, ∝ exp(−r²/2η²)/r², is ∫dw of Gaussians of standard deviation
    η w per axis; the integral by Gauss-Legendre.
    """
    x, weights = np.polynomial.legendre.leggauss(n_widths)
    return Mosaic(np.broadcast_to(np.eye(3), (n_widths, 3, 3)), 0.5 * (x + 1.0), 0.5 * weights)


def domain_rotations(rng: np.random.Generator, n: int, eta_rad: float) -> np.ndarray:
    """Return (n, 3, 3) rotations of mosaic domains in the lab frame: axes uniform, angles normal of
    standard deviation η.
    """
    axes = rng.standard_normal((n, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    return rotation.from_vector(axes * (eta_rad * rng.standard_normal(n))[:, None])


@jax.jit
def clouds(
    crystal: Crystal, mosaic: Mosaic, hkl: Array, blur: Sequence[Array] = (0.0,) * 6
) -> Clouds:
    """Return clouds of nodes hkl (node, 3) in the lab frame: q = R A h, Σ = R A D (R A)ᵀ + (η
    w)²(|q|²·1 − q qᵀ) + blur.

    D = diag(0.63/4N²): a domain of Gaussian lattice factor. A component of width w turns every node
    by a Gaussian of η w about each axis (small angles); it lowers the cloud as it widens it. Valid
    for N ≥ 5. blur: xx yy zz yz xz xy, each (node,) or a number, Å⁻²; it keeps the photons of a
    cloud.
    """
    n_cells = crystal.n_cells
    R = mosaic.rotations
    A = crystal.A
    turned = [[sum(R[:, i, m] * A[m, j] for m in range(3)) for j in range(3)] for i in range(3)]
    own = symmetric(
        lambda i, j: sum(
            turned[i][m] * turned[j][m] * (GAUSS / 4 / n_cells[m] ** 2) for m in range(3)
        )
    )
    h = hkl.astype(jnp.float64)[:, :, None]
    q = [sum(turned[i][m] * h[:, m] for m in range(3)) for i in range(3)]
    tilt = (crystal.eta_rad * mosaic.width) ** 2
    square = dot(q, q)
    turning = symmetric(lambda i, j: tilt * ((square if i == j else 0.0) - q[i] * q[j]))
    more = [jnp.reshape(b, (-1, 1)) for b in blur]
    total = [a + b + c for a, b, c in zip(own, turning, more, strict=True)]
    cofactors, determinant = inverse(total)
    growth = jnp.sqrt(inverse(own)[1] / determinant)
    height = (n_cells[0] * n_cells[1] * n_cells[2]) ** 2 * mosaic.share * growth

    def flat(a):
        return jnp.broadcast_to(a, square.shape).reshape(-1)

    return Clouds(
        tuple(map(flat, q)), tuple(flat(c / determinant) for c in cofactors), flat(height)
    )


def symmetric(entry):
    """Return xx yy zz yz xz xy of a symmetric matrix, entry(i, j)."""
    return [entry(i, j) for i, j in _ENTRIES]


def dot(u, v):
    """Return u·v, component-wise: vectors are sequences of three arrays."""
    return u[0] * v[0] + u[1] * v[1] + u[2] * v[2]


def times(s, v):
    """Return symmetric matrix xx yy zz yz xz xy times a vector."""
    xx, yy, zz, yz, xz, xy = s
    return [dot((xx, xy, xz), v), dot((xy, yy, yz), v), dot((xz, yz, zz), v)]


def inverse(s):
    """Return cofactors (in the same order) and determinant of a symmetric matrix xx yy zz yz xz
    xy.
    """
    xx, yy, zz, yz, xz, xy = s
    cofactors = [
        yy * zz - yz * yz, xx * zz - xz * xz, xx * yy - xy * xy,
        xy * xz - xx * yz, xy * yz - yy * xz, xz * yz - zz * xy,
    ]  # fmt: skip
    return cofactors, xx * cofactors[0] + xy * cofactors[5] + xz * cofactors[4]


def merged(mosaic: Mosaic, step_rad: float) -> Mosaic:
    """Return a mosaicity with one component for each cell of a grid of rotation vectors, of its
    mean and mean variance.

    Good where domains are wider than the cells: the distribution then differs from the old one
    within a domain only.
    """
    assert mosaic.eta_rad is not None, "the unit of its widths"
    vector = rotation.vector(mosaic.rotations)
    unit = float(mosaic.eta_rad)
    cell = np.floor(vector / step_rad + 0.25)  # nodes of a grid are in no cell's wall
    n = np.unique(cell, axis=0, return_inverse=True)[1].ravel()
    share = np.bincount(n, mosaic.share)
    centre = np.stack([np.bincount(n, mosaic.share * v) for v in vector.T], axis=1) / share[:, None]
    apart = ((vector - centre[n]) ** 2).sum(axis=1) / 3.0 + (unit * mosaic.width) ** 2
    width = np.sqrt(np.bincount(n, mosaic.share * apart) / share) / unit
    return mosaic._replace(rotations=rotation.from_vector(centre), width=width, share=share)
