"""Expected Bragg photons of one lattice, summed over the (cloud, point, channels) that can hold
any.

photons(point) = r_e²·scale/beam² Σ_clouds amplitude Σ_E photons_E |F(h, E)|² exp(−½ (p − q)ᵀM(p −
q)) · efficiency, p = (ŝ − ŝ0)·E/hc. All derivatives but those by the photons of a channel follow
from three moments of the energy (`channel_sums`).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Array, Crystal, Parameters, Pixels
from spreadflow.physics import tilt_derivatives
from spreadflow.physics.channel_sums import channel_sum, is_zero, moments
from spreadflow.physics.mosaic import GAUSS, dot, symmetric, times, turned_back
from spreadflow.physics.pair_tables import (
    BLOCK,
    WINDOW,
    Pairs,
    Parabola,
    Tables,
    exponents,
    pair_geometry,
    tables_of,
    window_start,
)

STEP = 1 << 13
"""Pairs worked on at a time where derivatives are formed: what is worked on stays in the cache."""


# ---------------------------------------------------------------- photons


def photons(parameters: Parameters, pixels: Pixels, pairs: Pairs, *, dtype: str = "float64"):
    """Return the expected photons (point,) of pixels, from the pairs of `layout`. Pure;
    differentiable in every float leaf.

    A point stands for a whole pixel. dtype: of the sums over channels; everything else is float64.
    Derivatives by the crystal and the scale alone, forward or reverse, cost about as much as the
    photons themselves.
    """
    crystal, scale = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype=jnp.float64), (parameters.crystal, parameters.scale)
    )
    left_out: dict[str, Any] = {"crystal": (), "scale": ()}
    return _photons(crystal, scale, parameters._replace(**left_out), pixels, pairs, dtype)


@partial(jax.custom_jvp, nondiff_argnums=(5,))
def _photons(crystal, scale, others, pixels, pairs, dtype):
    return _photons_stepwise(crystal, scale, others, pixels, pairs, dtype)


def _photons_stepwise(crystal, scale, others, pixels, pairs, dtype):
    """Return the photons in steps that JAX can differentiate one by one."""
    tables = tables_of(others._replace(crystal=crystal, scale=scale), pixels)

    def photons_of_block(block: Pairs) -> Array:
        return _pair_photons(tables, block, dtype)

    of_pairs = _in_blocks(photons_of_block, pairs)
    return jax.ops.segment_sum(of_pairs, pairs.point, len(pixels.fast))


@partial(_photons.defjvp, symbolic_zeros=True)
def _photons_jvp(dtype, primals, tangents):
    """Differentiate by the crystal and the scale in one pass, by anything else step by step."""
    crystal, scale, others, pixels, pairs = primals
    crystal_change, scale_change, *other_changes = tangents
    leaves = jax.tree.leaves(other_changes, is_leaf=is_zero)
    if not all(is_zero(leaf) for leaf in leaves):
        stepwise = partial(_photons_stepwise, dtype=dtype)
        changes = jax.tree.map(_instantiated, tangents, is_leaf=is_zero)
        return jax.jvp(stepwise, primals, changes)

    parameters = others._replace(crystal=crystal, scale=scale)
    total, *gradients = _by_crystal(parameters, pixels, pairs, dtype)
    gradients.append((total / scale)[:, None])
    change = jnp.zeros_like(total)
    for gradient, tangent in zip(gradients, (*crystal_change, scale_change), strict=True):
        if not is_zero(tangent):
            change += gradient @ jnp.reshape(tangent, -1)
    return total, change


def _instantiated(tangent):
    """Return zeros in place of a symbolic zero (of no size for integers)."""
    if not is_zero(tangent):
        return tangent
    if tangent.dtype == jax.dtypes.float0:
        return np.zeros(tangent.shape, tangent.dtype)
    return jnp.zeros_like(tangent)


def _in_blocks(function: Callable[[Pairs], Any], pairs: Pairs) -> Any:
    """Return function(pairs) in blocks of `BLOCK` pairs; the number of pairs is a multiple of it,
    or smaller.
    """
    if len(pairs.point) <= BLOCK:
        return function(pairs)
    blocks = jax.tree.map(lambda column: column.reshape(-1, BLOCK), pairs)
    results = jax.lax.map(function, blocks)
    return jax.tree.map(lambda column: column.reshape(-1, *column.shape[2:]), results)


def _pair_photons(tables: Tables, pairs: Pairs, dtype: str) -> Array:
    """Return the photons (pair,) of pairs."""
    x = tables.channels.x
    strength = tables.channels.strength
    parabola = _parabolas(tables, pairs)
    start = window_start(tables, pairs)
    total = channel_sum(parabola, x, strength, pairs.channel, start, dtype)
    return _height(tables, pairs) * total


def _parabolas(tables: Tables, pairs: Pairs) -> Parabola:
    """Return the exponents of pairs along the energy."""
    middle = tables.channels.middle
    return exponents(tables.ray, tables.cloud, middle, pairs.point, pairs.cloud)


def _height(tables: Tables, pairs: Pairs) -> Array:
    """Return the photons (pair,) of pairs at exponent 0, per unit of a channel's strength."""
    return tables.ray.efficiency[pairs.point] * tables.cloud.amplitude[pairs.cloud]


# ---------------------------------------------------------------- any number of pairs, in blocks


def sums(
    parameters: Parameters, pixels: Pixels, pairs: Pairs, dtype: str = "float32"
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return expected photons (point,), photons times E − middle (eV), and the middle; for any
    number of pairs.

    That is `photons` block by block, in bounded memory and one compiled program, without
    derivatives.
    """
    tables = tables_of(parameters, pixels)
    total = jnp.zeros(len(pixels.fast))
    first_moment = jnp.zeros(len(pixels.fast))
    n_channels = len(parameters.spectrum.photons)
    for block in _blocks(pairs, BLOCK, n_channels):
        total, first_moment = _add_block(tables, block, total, first_moment, dtype)
    return np.asarray(total), np.asarray(first_moment), float(tables.channels.middle)


@partial(jax.jit, static_argnames="dtype", donate_argnames=("total", "first_moment"))
def _add_block(tables: Tables, pairs: Pairs, total, first_moment, dtype):
    """Add the photons of a block of pairs, and photons times x, to those of their points."""
    x = tables.channels.x
    strength = tables.channels.strength
    parabola = _parabolas(tables, pairs)
    start = window_start(tables, pairs)
    (m0, m1), centre = moments(parabola, x, strength, pairs.channel, start, dtype, 2)
    height = _height(tables, pairs)

    def add(column: Array, value: Array) -> Array:
        return column + jax.ops.segment_sum(height * value, pairs.point, len(column))

    return add(total, m0), add(first_moment, m1 + centre * m0)


def each(
    parameters: Parameters, pixels: Pixels, pairs: Pairs, dtype: str = "float32"
) -> np.ndarray:
    """Return the expected photons (pair,) of every pair by itself, block by block as `sums`."""
    tables = tables_of(parameters, pixels)
    results = [np.empty(0)]
    for block in _blocks(pairs, BLOCK, len(parameters.spectrum.photons)):
        results.append(np.asarray(_compiled_pair_photons(tables, block, dtype)))
    return np.concatenate(results)[: len(pairs.point)]


_compiled_pair_photons = partial(jax.jit, static_argnames="dtype")(_pair_photons)


def by_channel(
    parameters: Parameters,
    pixels: Pixels,
    pairs: Pairs,
    row: np.ndarray,
    n_rows: int,
    dtype: str = "float32",
) -> np.ndarray:
    """Return photons of every channel per electron² of |F|², sums over the pairs of each row:
    (n_rows, channel).

    row: (pair,). Block by block as `sums`.
    """
    n_channels = len(parameters.spectrum.photons)
    unit = parameters._replace(f_squared=jnp.ones((1, n_channels)))
    tables = tables_of(unit, pixels)
    n_padded = 1 << int(np.ceil(np.log2(max(n_rows, 64))))
    total = jnp.zeros((n_padded, n_channels + WINDOW), dtype)
    blocks = _blocks(pairs, STEP, n_channels)
    for start, block in zip(range(0, len(row), STEP), blocks, strict=True):
        rows = row[start : start + STEP]
        rows = np.pad(rows, (0, STEP - len(rows)))
        total = _add_channels(tables, block, rows, total, dtype)
    return np.asarray(total)[:n_rows, :n_channels]


@partial(jax.jit, static_argnames="dtype", donate_argnames="total")
def _add_channels(tables: Tables, pairs: Pairs, row, total, dtype):
    """Add the photons of each channel of the pairs' windows to the rows of `total`."""
    channels = tables.channels
    parabola = _parabolas(tables, pairs)
    peak = jnp.exp(-parabola.floor)
    height = _height(tables, pairs) * peak
    curvature, centre, height, x, strength = (
        column.astype(dtype)
        for column in (0.5 * parabola.a2, parabola.centre, height, channels.x, channels.strength)
    )
    last = total.shape[1] - 1
    channel = jnp.minimum(pairs.channel[:, None] + jnp.arange(WINDOW), last)
    u = x[channel] - centre[:, None]
    gaussian = jnp.exp(-curvature[:, None] * u * u)
    return total.at[row[:, None], channel].add(height[:, None] * strength[channel] * gaussian)


def _blocks(pairs: Pairs, size: int, dark: int) -> Iterator[Pairs]:
    """Yield blocks of pairs of one size, the last one filled up with pairs of the channel
    `dark`.
    """
    for start in range(0, len(pairs.point), size):
        block = Pairs(*(column[start : start + size] for column in pairs))
        missing = (0, size - len(block.point))
        yield Pairs(
            point=np.pad(block.point, missing),
            cloud=np.pad(block.cloud, missing),
            channel=np.pad(block.channel, missing, constant_values=dark),
        )


# ---------------------------------------------------------------- derivatives by the crystal


class ByCrystal(NamedTuple):
    """Photons and their derivatives by the crystal."""

    photons: Array
    """(point,)"""
    A: Array
    """(point, 9) by A, row by row"""
    n_cells: Array
    """(point, 3)"""
    eta_rad: Array
    """(point, 1), or (point, 3) where η is by axis"""


class CrystalSums(NamedTuple):
    """What the derivatives by the crystal are made of, of a pair or summed over the pairs of a
    point. With Y and Q of `_cloud_derivatives`; all of shape (pair,) or (point,).
    """

    W: tuple[Array, ...]
    """9: Rᵀu hᵀ row by row, u = Y + `TiltDerivatives.by_q`"""
    P: tuple[Array, ...]
    """6: RᵀQR as xx yy zz yz xz xy"""
    photons: Array
    by_tilt: tuple[Array, ...]
    """1 or 6: `TiltDerivatives.by_tilt`"""


def by_crystal(
    parameters: Parameters, pixels: Pixels, pairs: Pairs, dtype: str = "float64"
) -> ByCrystal:
    """Return `photons` and its derivatives by the crystal; block by block as `sums`, NumPy."""
    tables = tables_of(parameters, pixels)
    n_points = len(pixels.fast)
    n_tilts = 6 if np.ndim(parameters.crystal.eta_rad) else 1
    total = CrystalSums(
        W=tuple(jnp.zeros(n_points) for _ in range(9)),
        P=tuple(jnp.zeros(n_points) for _ in range(6)),
        photons=jnp.zeros(n_points),
        by_tilt=tuple(jnp.zeros(n_points) for _ in range(n_tilts)),
    )
    for block in _blocks(pairs, STEP, len(parameters.spectrum.photons)):
        total = _add_derivatives(parameters, tables, block, total, dtype)
    return ByCrystal(*map(np.asarray, _gathered(parameters.crystal, total)))


@partial(jax.jit, static_argnames="dtype", donate_argnames="total")
def _add_derivatives(parameters, tables, pairs, total, dtype):
    """Add the columns of a block of pairs to those of their points."""
    columns = _pair_derivatives(parameters, tables, pairs, dtype)

    def add(sum_of_points: Array, column: Array) -> Array:
        return sum_of_points + jax.ops.segment_sum(column, pairs.point, len(sum_of_points))

    return jax.tree.map(add, total, columns)


def _by_crystal(parameters: Parameters, pixels: Pixels, pairs: Pairs, dtype: str) -> ByCrystal:
    """Return `by_crystal` in a form that JAX can trace."""
    tables = tables_of(parameters, pixels)

    def derivatives_of_block(block: Pairs) -> CrystalSums:
        return _pair_derivatives(parameters, tables, block, dtype)

    columns = _in_blocks(derivatives_of_block, pairs)
    n_points = len(pixels.fast)
    total = jax.tree.map(lambda column: jax.ops.segment_sum(column, pairs.point, n_points), columns)
    return _gathered(parameters.crystal, total)


def _pair_derivatives(
    parameters: Parameters, tables: Tables, pairs: Pairs, dtype: str
) -> CrystalSums:
    """Return what each pair adds to the derivatives by the crystal; q and Σ as in `mosaic.clouds`.

    d photons = u·dq + ½ tr(Q dΣ₀) + d ln of the height of a cloud without tilt: u holds Y and the
    derivative by q of the tilt's share of Σ.
    """
    mosaic = parameters.mosaic
    m0, Y, Q = _cloud_derivatives(tables, pairs, dtype)
    q = [component[pairs.cloud] for component in tables.cloud.q]
    component = pairs.cloud % len(mosaic.share)
    node = pairs.cloud // len(mosaic.share)
    R = mosaic.rotations
    R_columns = [[R[:, i, j][component] for i in range(3)] for j in range(3)]
    tilt = tilt_derivatives.of_pairs(parameters.crystal, mosaic, component, q, Q)
    u = [Y[i] + tilt.by_q[i] for i in range(3)]
    hkl = jnp.asarray(parameters.hkl, dtype=jnp.float64)
    h = [hkl[:, j][node] for j in range(3)]
    return CrystalSums(
        W=tuple(dot(R_columns[i], u) * h[j] for i in range(3) for j in range(3)),
        P=tuple(turned_back(Q, R_columns)),
        photons=m0,
        by_tilt=tilt.by_tilt,
    )


def _cloud_derivatives(
    tables: Tables, pairs: Pairs, dtype: str
) -> tuple[Array, list[Array], list[Array]]:
    """Return photons, Y and Q of pairs, all (pair,): Y by component, Q as xx yy zz yz xz xy.

    They give the change of the photons with the cloud: d photons = Y·dq + ½ tr(Q dΣ), its height
    held constant. Y = Σ M(p − q) and Q = Σ (M(p − q)(p − q)ᵀM − M) are sums over channels weighted
    by their photons, where M(p − q) = y + u v: y is that at the centre of the parabola, v = Mt.
    """
    channels = tables.channels
    k = _height(tables, pairs)
    t, d, M = pair_geometry(tables.ray, tables.cloud, channels.middle, pairs.point, pairs.cloud)
    v = times(M, t)
    Md = times(M, d)
    parabola = Parabola(a2=dot(v, t), a1=dot(v, d), a0=dot(Md, d))
    start = window_start(tables, pairs)
    moments_of_u, centre = moments(
        parabola, channels.x, channels.strength, pairs.channel, start, dtype, 3
    )
    m0, m1, m2 = (k * moment for moment in moments_of_u)

    y = [Md[i] + centre * v[i] for i in range(3)]
    Y = [m0 * y[i] + m1 * v[i] for i in range(3)]

    def weighted_product(i: int, j: int) -> Array:
        constant = m0 * y[i] * y[j]
        linear = m1 * (y[i] * v[j] + v[i] * y[j])
        quadratic = m2 * v[i] * v[j]
        return constant + linear + quadratic

    products = symmetric(weighted_product)
    Q = [product - m0 * entry for product, entry in zip(products, M, strict=True)]
    return m0, Y, Q


@jax.jit
def _gathered(crystal: Crystal, sums: CrystalSums) -> ByCrystal:
    """Return the derivatives of points from the sums over their pairs."""
    A = crystal.A
    D = GAUSS / 4 / crystal.n_cells**2
    inverse_A = jnp.linalg.inv(A)
    PA = [times(sums.P, [A[i, j] for i in range(3)]) for j in range(3)]

    def by_A(i: int, j: int) -> Array:
        of_centre = sums.W[3 * i + j]
        of_size = PA[j][i] * D[j]
        of_volume = sums.photons * inverse_A[j, i]
        return of_centre + of_size + of_volume

    def by_n(j: int) -> Array:
        APA = sum(A[i, j] * PA[j][i] for i in range(3))
        return (sums.photons - D[j] * APA) / crystal.n_cells[j]

    with_tilt_held = ByCrystal(
        photons=sums.photons,
        A=jnp.stack([by_A(i, j) for i in range(3) for j in range(3)], axis=1),
        n_cells=jnp.stack([by_n(j) for j in range(3)], axis=1),
        eta_rad=jnp.stack(sums.by_tilt, axis=1),
    )
    if jnp.ndim(crystal.eta_rad) == 0:
        return with_tilt_held
    of_axes, by_eta = tilt_derivatives.by_axes(crystal, with_tilt_held.eta_rad)
    return with_tilt_held._replace(A=with_tilt_held.A + of_axes, eta_rad=by_eta)
