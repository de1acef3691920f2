"""The clouds that the mosaicity of a lattice makes of every node of the reciprocal lattice.

This is the half of `mosaic` that takes JAX: those who only say how domains are turned do without.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Array, Crystal, Mosaic
from spreadflow.physics.lattice_factor import GAUSS

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
