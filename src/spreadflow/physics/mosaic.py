"""How the mosaic domains of a lattice are turned, and the clouds they make of every node of the
reciprocal lattice.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Array, Crystal, Mosaic
from spreadflow.physics import rotation
from spreadflow.physics.lattice_factor import GAUSS, SIZE_SIGMA

N_WIDTHS = 8
"""Gaussians of the continuous distribution where none are asked for: enough for small mosaicity."""

WIDE_ENOUGH = ((12.0, 8), (45.0, 16), (150.0, 32))
"""How far η moves a node, at most, in standard deviations of its cloud, and the number of Gaussians
that hold the distribution within 1 % of its peak up to there.
"""

N_WIDTHS_LARGEST = 64
"""Gaussians of the continuous distribution beyond the last row of `WIDE_ENOUGH`."""

_ENTRIES = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


class Clouds(NamedTuple):
    """Gaussian clouds amplitude·exp(−½(p − q)ᵀM(p − q)) of |F_latt|² in reciprocal space, one for
    each node and component of the mosaicity.

    All are of shape (node · component,), the components of a node side by side.
    """

    q: tuple[Array, ...]
    """centre, Å⁻¹"""
    precision: tuple[Array, ...]
    """M = Σ⁻¹, Å²: xx yy zz yz xz xy"""
    amplitude: Array
    """|F_latt|² at the centre times the component's share"""


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


@jax.jit
def clouds(
    crystal: Crystal, mosaic: Mosaic, hkl: Array, blur: Sequence[Array] = (0.0,) * 6
) -> Clouds:
    """Return the clouds of nodes hkl (node, 3) in the lab frame: centre q = R A h, covariance Σ =
    R A D (R A)ᵀ + (η w)²(|q|²·1 − q qᵀ) + blur.

    D = diag(0.63/4N²) is that of a domain's Gaussian lattice factor. A component of width w turns
    every node by a Gaussian of η w about each axis (small angles); it lowers the cloud as it widens
    it. Where η is by axis, w² [q]ₓ R S Rᵀ [q]ₓᵀ takes the place of the second term, S that of
    `_tilt_tensor`. blur: xx yy zz yz xz xy, each (node,) or a number, Å⁻²; it keeps the photons of
    a cloud. Valid for N ≥ 5.
    """
    q, sigma_0, sigma_tilt = _gaussians(crystal, mosaic, hkl)
    sigma_blur = [jnp.reshape(entry, (-1, 1)) for entry in blur]
    terms = zip(sigma_0, sigma_tilt, sigma_blur, strict=True)
    sigma = [size + tilted + blurred for size, tilted, blurred in terms]
    cofactors, determinant = inverse(sigma)
    _, determinant_0 = inverse(sigma_0)
    lowering = jnp.sqrt(determinant_0 / determinant)
    cells_of_domain = jnp.prod(crystal.n_cells)
    amplitude = cells_of_domain**2 * mosaic.share * lowering

    def by_cloud(column: Array) -> Array:
        return jnp.broadcast_to(column, q[0].shape).reshape(-1)

    return Clouds(
        q=tuple(by_cloud(component) for component in q),
        precision=tuple(by_cloud(cofactor / determinant) for cofactor in cofactors),
        amplitude=by_cloud(amplitude),
    )


@jax.jit
def cloud_changes(crystal: Crystal, mosaic: Mosaic, hkl: Array) -> Array:
    """Return how the clouds of nodes hkl (node, 3) change with a crystal: (cloud, 10, parameter).

    That is ln(N_a N_b N_c |det A|), which the photons of a cloud are proportional to; q; and Σ as
    xx/2 yy/2 zz/2 yz xz xy, so that ½ tr(Q dΣ) is the sum over the products with those of Q.
    Parameters are A row by row, N, and η or η by axis. A blur is taken as constant.
    """

    def columns(crystal: Crystal) -> Array:
        q, sigma_0, sigma_tilt = _gaussians(crystal, mosaic, hkl)
        log_height = jnp.log(jnp.prod(crystal.n_cells) * jnp.abs(jnp.linalg.det(crystal.A)))
        terms = zip((0.5, 0.5, 0.5, 1.0, 1.0, 1.0), sigma_0, sigma_tilt, strict=True)
        sigma = [factor * (size + tilted) for factor, size, tilted in terms]
        every = [jnp.broadcast_to(column, q[0].shape) for column in (log_height, *q, *sigma)]
        return jnp.stack(every, axis=-1).reshape(-1, len(every))

    by_crystal = jax.jacfwd(columns)(crystal)
    n_clouds = len(hkl) * len(mosaic.share)
    return jnp.concatenate([leaf.reshape(n_clouds, 10, -1) for leaf in by_crystal], axis=-1)


def _gaussians(
    crystal: Crystal, mosaic: Mosaic, hkl: Array
) -> tuple[list[Array], list[Array], list[Array]]:
    """Return the centres q of clouds, and the two terms of Σ that are not the blur, xx yy zz yz xz
    xy; each (node, component) or (component,).
    """
    RA = _turned_reciprocal(mosaic.rotations, crystal.A)
    h = hkl.astype(jnp.float64)[:, :, None]
    q = [sum(RA[i][m] * h[:, m] for m in range(3)) for i in range(3)]
    sigma_0 = _sigma_of_size(RA, crystal.n_cells)
    return q, sigma_0, _sigma_of_tilt(crystal, mosaic, q, dot(q, q))


def _turned_reciprocal(R: Array, A: Array) -> list[list[Array]]:
    """Return R A as rows of elements (component,). R: (component, 3, 3); A: (3, 3)."""

    def element(i: int, j: int) -> Array:
        return sum(R[:, i, m] * A[m, j] for m in range(3))

    return [[element(i, j) for j in range(3)] for i in range(3)]


def _sigma_of_size(RA: list[list[Array]], n_cells: Array) -> list[Array]:
    """Return Σ₀ = R A D (R A)ᵀ, xx yy zz yz xz xy, each (component,): the size of a domain."""

    def entry(i: int, j: int) -> Array:
        D = [GAUSS / 4 / n_cells[m] ** 2 for m in range(3)]
        return sum(RA[i][m] * RA[j][m] * D[m] for m in range(3))

    return symmetric(entry)


def _sigma_of_tilt(
    crystal: Crystal, mosaic: Mosaic, q: list[Array], q_squared: Array
) -> list[Array]:
    """Return what the turns of a domain add to Σ, xx yy zz yz xz xy, each (node, component)."""
    if jnp.ndim(crystal.eta_rad):
        S = _turned_tilt_tensor(crystal, mosaic)
        arms = _cross_matrix(q)
        return symmetric(lambda i, j: mosaic.width**2 * dot(arms[i], times(S, arms[j])))

    tilt = (crystal.eta_rad * mosaic.width) ** 2

    def entry(i: int, j: int) -> Array:
        identity = q_squared if i == j else 0.0
        return tilt * (identity - q[i] * q[j])

    return symmetric(entry)


# ---------------------------------------------------------------- η by axis of the crystal


def crystal_axes(A: Array) -> list[list[Array]]:
    """Return the axes about which η is told where it is told by axis, each as three components in
    the lab frame: x along a, y = z × x, z along c*, those of the PDB convention. A: (3, 3).
    """
    b_star = [A[i, 1] for i in range(3)]
    c_star = [A[i, 2] for i in range(3)]
    x = _unit(_cross(b_star, c_star))
    z = _unit(c_star)
    return [x, _cross(z, x), z]


def _tilt_tensor(axes: list[list[Array]], eta_rad: Array) -> list[Array]:
    """Return S = Σ η² u uᵀ, rad²: the covariance of the rotation vectors of a component of width 1,
    xx yy zz yz xz xy. axes: three unit vectors u by component; eta_rad: (3,).
    """

    def entry(i: int, j: int) -> Array:
        return sum(eta_rad[m] ** 2 * axes[m][i] * axes[m][j] for m in range(3))

    return symmetric(entry)


def _turned_tilt_tensor(crystal: Crystal, mosaic: Mosaic) -> list[Array]:
    """Return R S Rᵀ, xx yy zz yz xz xy, each (component,), of a crystal whose η is by axis."""
    R = mosaic.rotations
    axes = crystal_axes(crystal.A)
    turned = [[dot([R[:, i, m] for m in range(3)], axis) for i in range(3)] for axis in axes]
    return _tilt_tensor(turned, crystal.eta_rad)


def _cross_matrix(q: Sequence[Array]) -> list[list[Array]]:
    """Return the columns of [q]ₓ, which are q × x, q × y and q × z, each by component."""
    x, y, z = q
    zero = jnp.zeros_like(x)
    return [[zero, z, -y], [-z, zero, x], [y, -x, zero]]


def _cross(u: Sequence[Array], v: Sequence[Array]) -> list[Array]:
    """Return u × v of vectors that are sequences of three arrays, their components."""
    return [
        u[1] * v[2] - u[2] * v[1],
        u[2] * v[0] - u[0] * v[2],
        u[0] * v[1] - u[1] * v[0],
    ]


def _unit(v: Sequence[Array]) -> list[Array]:
    """Return the unit vector along v."""
    length = jnp.sqrt(dot(v, v))
    return [component / length for component in v]


# ---------------------------------------------------------------- vectors and matrices by component


def symmetric(entry: Callable[[int, int], Array]) -> list[Array]:
    """Return xx yy zz yz xz xy of the symmetric matrix with the elements entry(i, j)."""
    return [entry(i, j) for i, j in _ENTRIES]


def dot(u, v):
    """Return u·v of vectors that are sequences of three arrays, their components."""
    return u[0] * v[0] + u[1] * v[1] + u[2] * v[2]


def times(s, v):
    """Return the product, by component, of a symmetric matrix xx yy zz yz xz xy and a vector."""
    xx, yy, zz, yz, xz, xy = s
    return [
        dot((xx, xy, xz), v),
        dot((xy, yy, yz), v),
        dot((xz, yz, zz), v),
    ]


def inverse(s):
    """Return the cofactors and the determinant of a symmetric matrix, both matrices as xx yy zz yz
    xz xy: the inverse is the one over the other.
    """
    xx, yy, zz, yz, xz, xy = s
    cofactors = [
        yy * zz - yz * yz,
        xx * zz - xz * xz,
        xx * yy - xy * xy,
        xy * xz - xx * yz,
        xy * yz - yy * xz,
        xz * yz - zz * xy,
    ]
    determinant = xx * cofactors[0] + xy * cofactors[5] + xz * cofactors[4]
    return cofactors, determinant


def merged(mosaic: Mosaic, step_rad: float) -> Mosaic:
    """Return the mosaicity with the components in each cell of a grid of rotation vectors merged
    into one of their mean and mean variance.

    Good where domains are wider than the cells: the distribution then differs from the old one
    within a domain only.
    """
    assert mosaic.eta_rad is not None, "the unit of its widths"
    eta = float(mosaic.eta_rad)
    vector = rotation.vector(mosaic.rotations)
    cell = np.floor(vector / step_rad + 0.25)  # nodes of a grid are in no cell's wall
    _, index = np.unique(cell, axis=0, return_inverse=True)
    index = index.ravel()

    share = np.bincount(index, mosaic.share)
    weighted = [np.bincount(index, mosaic.share * component) for component in vector.T]
    centre = np.stack(weighted, axis=1) / share[:, None]
    scatter = ((vector - centre[index]) ** 2).sum(axis=1) / 3.0
    variance = scatter + (eta * mosaic.width) ** 2
    mean_variance = np.bincount(index, mosaic.share * variance) / share
    return mosaic._replace(
        rotations=rotation.from_vector(centre),
        width=np.sqrt(mean_variance) / eta,
        share=share,
    )
