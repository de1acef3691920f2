"""Expected Bragg photons of one lattice, summed over the (cloud, point, channels) that can hold
any.

photons(point) = r_e²·scale/beam² Σ_clouds amplitude Σ_E photons_E |F(h, E)|² exp(−½ (p − q)ᵀM(p −
q)) · efficiency, p = (ŝ − ŝ0)·E/hc. For one point and cloud the exponent is a parabola in E, ½(a₂x²
+ 2a₁x + a₀) with x = E − middle: three numbers in float64, after which the sum over channels may
run in float32. All derivatives but those by the photons of a channel follow from three moments of
x.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Array, Crystal, Detector, Parameters, Pixels
from spreadflow.physics import geometry
from spreadflow.physics.mosaic import GAUSS, Clouds, clouds, dot, symmetric, times
from spreadflow.physics.response import depth, efficiency
from spreadflow.units import HC_EV_ANGSTROM, R_E_SQUARED_M2

WINDOW = 32
"""Channels summed at a time, from the first that matters on."""

BLOCK = 1 << 16
"""Pairs worked on at a time: bounds the memory."""

STEP = 1 << 13
"""Pairs worked on at a time where derivatives are formed: what is worked on stays in the cache."""


class Pairs(NamedTuple):
    """Which cloud may put photons of which channels on which point. All int32 of shape (pair,).

    A pair stands for `WINDOW` channels; where more matter there are more pairs. To fill up to a
    static shape: a channel equal to the number of channels, beyond which nothing shines.
    """

    point: Array
    """row of the points"""
    cloud: Array
    """row of the node · number of components + component"""
    channel: Array
    """the first channel"""


class Rays(NamedTuple):
    """Rays from the sample to points. Arrays of shape (point,)."""

    turn: tuple[Array, ...]
    """(ŝ − ŝ0)/hc, so that p = turn·E, Å⁻¹/eV"""
    efficiency: Array
    """solid angle × captured fraction × polarization"""


def rays(detector: Detector, polarization: Array, pixels: Pixels) -> Rays:
    """Return the rays from the sample to points of the detector."""

    def of_points(vectors: Array) -> list[Array]:
        return [vectors[:, j][pixels.panel] for j in range(3)]

    origin = of_points(jnp.asarray(detector.origin_mm))
    fast = of_points(jnp.asarray(detector.fast))
    slow = of_points(jnp.asarray(detector.slow))
    normal = of_points(jnp.asarray(geometry.normals(detector)))
    f = pixels.fast * detector.pixel_mm
    s = pixels.slow * detector.pixel_mm
    position = [o + a * f + b * s for o, a, b in zip(origin, fast, slow, strict=True)]
    distance = jnp.sqrt(position[0] ** 2 + position[1] ** 2 + position[2] ** 2)
    ray = [p / distance for p in position]
    photons_per_flux = efficiency(
        ray,
        distance,
        normal,
        detector.pixel_mm,
        closest_mm=abs(sum(o * n for o, n in zip(origin, normal, strict=True))),
        depth=depth(detector),
        polarization=polarization,
    )
    x, y, z = ray
    across = (x * x + y * y) / (1.0 - z)
    z_change = jnp.where(z < 0, across, 1.0 + z)
    turn = tuple(c / HC_EV_ANGSTROM for c in (x, y, z_change))
    return Rays(turn, photons_per_flux)


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
    ray, cloud, channels = _tables(others._replace(crystal=crystal, scale=scale), pixels)

    def of_block(block: Pairs) -> Array:
        return _of_pairs(ray, cloud, channels, block, dtype)

    of_pairs = _in_blocks(of_block, pairs)
    return jax.ops.segment_sum(of_pairs, pairs.point, len(pixels.fast))


@partial(_photons.defjvp, symbolic_zeros=True)
def _photons_jvp(dtype, primals, tangents):
    """Differentiate by the crystal and the scale in one pass, by anything else step by step."""
    crystal, scale, others, pixels, pairs = primals
    leaves = jax.tree.leaves(tangents[2:], is_leaf=_is_zero)
    if not all(_is_zero(leaf) for leaf in leaves):
        stepwise = partial(_photons_stepwise, dtype=dtype)
        return jax.jvp(stepwise, primals, jax.tree.map(_instantiated, tangents, is_leaf=_is_zero))
    total, *gradients = _by_crystal(
        others._replace(crystal=crystal, scale=scale), pixels, pairs, dtype
    )
    gradients.append((total / scale)[:, None])
    changes = (*tangents[0], tangents[1])
    change = jnp.zeros_like(total)
    for gradient, tangent in zip(gradients, changes, strict=True):
        if not _is_zero(tangent):
            change += gradient @ jnp.reshape(tangent, -1)
    return total, change


def _is_zero(leaf) -> bool:
    return isinstance(leaf, SymbolicZero)


def _instantiated(tangent):
    """Return zeros in place of a symbolic zero (of no size for integers)."""
    if not _is_zero(tangent):
        return tangent
    if tangent.dtype == jax.dtypes.float0:
        return np.zeros(tangent.shape, tangent.dtype)
    return jnp.zeros_like(tangent)


def sums(
    parameters: Parameters, pixels: Pixels, pairs: Pairs, dtype: str = "float32"
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return expected photons (point,), photons times E − middle (eV), and the middle; for any
    number of pairs.

    That is `photons` block by block, in bounded memory and one compiled program, without
    derivatives.
    """
    ray, cloud, channels = _tables(parameters, pixels)
    total = jnp.zeros(len(pixels.fast))
    first = jnp.zeros(len(pixels.fast))
    n_channels = len(parameters.spectrum.photons)
    for block in _blocks(pairs, BLOCK, n_channels):
        total, first = _add_block(ray, cloud, channels, block, total, first, dtype)
    return np.asarray(total), np.asarray(first), float(channels.middle)


def each(
    parameters: Parameters, pixels: Pixels, pairs: Pairs, dtype: str = "float32"
) -> np.ndarray:
    """Return the expected photons (pair,) of every pair by itself, block by block as `sums`."""
    tables = _tables(parameters, pixels)
    n_channels = len(parameters.spectrum.photons)
    photons_of_blocks = [
        np.asarray(_of_block(*tables, block, dtype)) for block in _blocks(pairs, BLOCK, n_channels)
    ]
    return np.concatenate([np.empty(0), *photons_of_blocks])[: len(pairs.point)]


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
    tables = _tables(unit, pixels)
    n_padded = 1 << int(np.ceil(np.log2(max(n_rows, 64))))
    total = jnp.zeros((n_padded, n_channels + WINDOW), dtype)
    blocks = _blocks(pairs, STEP, n_channels)
    for start, block in zip(range(0, len(row), STEP), blocks, strict=True):
        rows = row[start : start + STEP]
        rows = np.pad(rows, (0, STEP - len(rows)))
        total = _add_channels(*tables, block, rows, total, dtype)
    return np.asarray(total)[:n_rows, :n_channels]


@partial(jax.jit, static_argnames="dtype", donate_argnames="total")
def _add_channels(ray, cloud, channels, pairs, row, total, dtype):
    """Add the photons of each channel of the pairs' windows to the rows of `total`."""
    a2, a1, a0 = exponents(ray, cloud, channels.middle, pairs.point, pairs.cloud)
    centre = -a1 / a2
    peak = jnp.exp(-0.5 * (a0 + a1 * centre))
    height = ray.efficiency[pairs.point] * cloud.amplitude[pairs.cloud] * peak
    curvature, middle, height, x, strength = (
        column.astype(dtype) for column in (0.5 * a2, centre, height, channels.x, channels.strength)
    )
    channel = jnp.minimum(pairs.channel[:, None] + jnp.arange(WINDOW), total.shape[1] - 1)
    u = x[channel] - middle[:, None]
    gaussian = jnp.exp(-curvature[:, None] * u * u)
    return total.at[row[:, None], channel].add(height[:, None] * strength[channel] * gaussian)


def _blocks(pairs: Pairs, size: int, dark: int) -> Iterator[Pairs]:
    """Yield blocks of pairs of one size, the last one filled up with pairs of the channel
    `dark`.
    """
    for start in range(0, len(pairs.point), size):
        block = [column[start : start + size] for column in pairs]
        fill = (0, size - len(block[0]))
        yield Pairs(
            np.pad(block[0], fill),
            np.pad(block[1], fill),
            np.pad(block[2], fill, constant_values=dark),
        )


compiled_rays = jax.jit(rays)
"""`rays`, compiled once for each number of points."""


def _tables(parameters: Parameters, pixels: Pixels) -> "tuple[Rays, Clouds, Channels]":
    """Return the tables that pairs are looked up in: rays of points, clouds of nodes, channels of
    the spectrum.

    They are three programs and not one: each is compiled for its own few sizes, not for all their
    combinations.
    """
    ray = compiled_rays(parameters.detector, parameters.polarization, pixels)
    return ray, averaged(parameters), _compiled_channels(parameters)


def averaged(parameters: Parameters) -> Clouds:
    """Return the clouds of all nodes as squares of `edge_px` see them: blurred by what lies within
    a square.

    The mean of a Gaussian over a square is nearly that with a Gaussian of its second moments,
    edge²/12 along each axis of the panel; the cut of a cloud is blurred by it when the cloud is.
    Steps on a panel are steps of p = (ŝ − ŝ0)/λ, here at the middle of the spectrum, at the mean
    over domains, and on the panel whose centre is nearest to the ray.
    """
    energies = parameters.spectrum.energies_ev
    return _averaged(
        parameters.crystal,
        parameters.mosaic,
        parameters.detector,
        parameters.hkl,
        parameters.edge_px,
        (energies[0], energies[-1]),
    )


@jax.jit
def _averaged(crystal, mosaic, detector, hkl, edge_px, ends_ev) -> Clouds:
    """Return `averaged` from what it depends on alone. ends_ev: first and last channel."""
    k = 0.5 * (ends_ev[0] + ends_ev[1]) / HC_EV_ANGSTROM  # wave number, Å⁻¹
    hkl = jnp.asarray(hkl)
    share = mosaic.share / jnp.sum(mosaic.share)
    turn = jnp.einsum("c,cij->ij", share, mosaic.rotations)
    ray = hkl @ (turn @ jnp.asarray(crystal.A)).T + k * geometry.S0
    ray = ray / jnp.linalg.norm(ray, axis=1, keepdims=True)
    slow, fast = detector.shape
    panel = jnp.arange(len(detector.origin_mm))
    toward = geometry.direction(
        jax.tree.map(jnp.asarray, detector), panel, 0.5 * fast + 0.0 * panel, 0.5 * slow
    )
    nearest = jnp.argmax(ray @ toward.T, axis=1)
    normal = geometry.normals(detector)
    distance = (jnp.asarray(detector.origin_mm) * normal).sum(axis=1)[nearest]
    across = jnp.asarray(normal)[nearest]
    cosine = (ray * across).sum(axis=1)
    step = edge_px * detector.pixel_mm * k * cosine / distance
    out = (across - cosine[:, None] * ray).T
    s = ray.T
    blur = symmetric(lambda i, j: step**2 / 12 * ((i == j) - s[i] * s[j] - out[i] * out[j]))
    return clouds(crystal, mosaic, hkl, blur)


@partial(jax.jit, static_argnames="dtype", donate_argnames=("total", "first"))
def _add_block(ray, cloud, channels, pairs, total, first, dtype):
    """Add the photons of a block of pairs, and photons times x, to those of their points."""
    a2, a1, a0 = exponents(ray, cloud, channels.middle, pairs.point, pairs.cloud)
    start = _window_start(cloud, channels, pairs)
    (m0, m1), centre = moments(
        a2, a1, a0, channels.x, channels.strength, pairs.channel, start, dtype, 2
    )
    height = ray.efficiency[pairs.point] * cloud.amplitude[pairs.cloud]

    def add(column: Array, value: Array) -> Array:
        return column + jax.ops.segment_sum(height * value, pairs.point, len(column))

    return add(total, m0), add(first, m1 + centre * m0)


class Channels(NamedTuple):
    """The spectrum times |F|², with empty channels behind the last so that a window never reaches
    beyond the end.
    """

    middle: Array
    """() eV; x = E − middle"""
    x: Array
    """(channel + WINDOW,) eV"""
    strength: Array
    """(node · (channel + WINDOW),) photons per unit of the cloud"""

    @classmethod
    def of(cls, parameters: Parameters) -> "Channels":
        """Return the channels of a lattice."""
        energies, fluence = (
            jnp.asarray(column, dtype=jnp.float64) for column in parameters.spectrum
        )
        middle = jax.lax.stop_gradient(0.5 * (energies[0] + energies[-1]))
        fluence = R_E_SQUARED_M2 * parameters.scale / (parameters.beam_mm * 1e-3) ** 2 * fluence
        strength = jnp.pad(fluence * parameters.f_squared, ((0, 0), (0, WINDOW)))
        x = jnp.pad(energies - middle, (0, WINDOW))
        return cls(middle, x, strength.reshape(-1))


_compiled_channels = jax.jit(Channels.of)


def _in_blocks(function: Callable[[Pairs], Any], pairs: Pairs) -> Any:
    """Return function(pairs) in blocks of `BLOCK` pairs; the number of pairs is a multiple of it,
    or smaller.
    """
    if len(pairs.point) <= BLOCK:
        return function(pairs)
    blocks = jax.tree.map(lambda column: column.reshape(-1, BLOCK), pairs)
    of_blocks = jax.lax.map(function, blocks)
    return jax.tree.map(lambda column: column.reshape(-1, *column.shape[2:]), of_blocks)


def _of_pairs(ray: Rays, cloud: Clouds, channels: Channels, pairs: Pairs, dtype: str) -> Array:
    """Return the photons (pair,) of pairs."""
    a2, a1, a0 = exponents(ray, cloud, channels.middle, pairs.point, pairs.cloud)
    start = _window_start(cloud, channels, pairs)
    total = channel_sum(a2, a1, a0, channels.x, channels.strength, pairs.channel, start, dtype)
    return ray.efficiency[pairs.point] * cloud.amplitude[pairs.cloud] * total


_of_block = partial(jax.jit, static_argnames="dtype")(_of_pairs)


def _window_start(cloud: Clouds, channels: Channels, pairs: Pairs) -> Array:
    """Return where the window of each pair starts in `channels.strength`, (pair,)."""
    width = len(channels.x)
    n_components = len(cloud.amplitude) * width // len(channels.strength)
    return pairs.cloud // n_components * width + pairs.channel


class ByCrystal(NamedTuple):
    """Photons and their derivatives by the crystal."""

    photons: Array
    """(point,)"""
    A: Array
    """(point, 9) by A, row by row"""
    n_cells: Array
    """(point, 3)"""
    eta_rad: Array
    """(point, 1)"""


N_COLUMNS = 17
"""Columns of the derivatives of a pair: 9 for A, 6 for N, photons, η."""


def by_crystal(
    parameters: Parameters, pixels: Pixels, pairs: Pairs, dtype: str = "float64"
) -> ByCrystal:
    """Return `photons` and its derivatives by the crystal; block by block as `sums`, NumPy."""
    ray, cloud, channels = _tables(parameters, pixels)
    total = tuple(jnp.zeros(len(pixels.fast)) for _ in range(N_COLUMNS))
    for block in _blocks(pairs, STEP, len(parameters.spectrum.photons)):
        total = _add_derivatives(parameters, ray, cloud, channels, block, total, dtype)
    return ByCrystal(*map(np.asarray, _gathered(parameters.crystal, total)))


@partial(jax.jit, static_argnames="dtype", donate_argnames="total")
def _add_derivatives(parameters, ray, cloud, channels, pairs, total, dtype):
    """Add the columns of a block of pairs to those of their points."""
    columns = _pair_derivatives(parameters, ray, cloud, channels, pairs, dtype)
    return tuple(
        of_points + jax.ops.segment_sum(column, pairs.point, len(of_points))
        for of_points, column in zip(total, columns, strict=True)
    )


def _by_crystal(parameters: Parameters, pixels: Pixels, pairs: Pairs, dtype: str) -> ByCrystal:
    """Return `by_crystal` in a form that JAX can trace."""
    ray, cloud, channels = _tables(parameters, pixels)

    def of_block(block: Pairs) -> tuple[Array, ...]:
        return _pair_derivatives(parameters, ray, cloud, channels, block, dtype)

    columns = _in_blocks(of_block, pairs)
    n_points = len(pixels.fast)
    of_points = [jax.ops.segment_sum(column, pairs.point, n_points) for column in columns]
    return _gathered(parameters.crystal, of_points)


def _pair_derivatives(
    parameters: Parameters,
    ray: Rays,
    cloud: Clouds,
    channels: Channels,
    pairs: Pairs,
    dtype: str,
) -> tuple[Array, ...]:
    """Return 17 columns (pair,): Rᵀu hᵀ row by row, RᵀQR as xx yy zz yz xz xy, photons, derivative
    by η.

    With y = M(p − q), Y = Σ y and Q = Σ (y yᵀ − M) over channels, weighted: d photons = u·dq + ½
    tr(Q dΣ₀) + d ln of the height of a cloud without tilt; u = Y and the derivative by q of the
    tilt; q and Σ as in `mosaic.clouds`.
    """
    mosaic = parameters.mosaic
    eta = parameters.crystal.eta_rad
    height = ray.efficiency[pairs.point] * cloud.amplitude[pairs.cloud]
    t, d, precision = _looked_up(ray, cloud, channels.middle, pairs.point, pairs.cloud)
    along = times(precision, t)
    away = times(precision, d)
    a2 = dot(along, t)
    a1 = dot(along, d)
    a0 = dot(away, d)
    start = _window_start(cloud, channels, pairs)
    sums, centre = moments(
        a2, a1, a0, channels.x, channels.strength, pairs.channel, start, dtype, 3
    )
    m0, m1, m2 = (height * m for m in sums)
    y = [v + centre * w for v, w in zip(away, along, strict=True)]
    Y = [m0 * v + m1 * w for v, w in zip(y, along, strict=True)]
    Q = symmetric(
        lambda i, j: (
            m0 * y[i] * y[j] + m1 * (y[i] * along[j] + along[i] * y[j]) + m2 * along[i] * along[j]
        )
    )
    Q = [value - m0 * m for value, m in zip(Q, precision, strict=True)]
    q = [c[pairs.cloud] for c in cloud.q]
    component = pairs.cloud % len(mosaic.share)
    node = pairs.cloud // len(mosaic.share)
    Qq = times(Q, q)
    trace = Q[0] + Q[1] + Q[2]
    tilt = eta * (mosaic.width**2)[component]
    u = [v + eta * tilt * (trace * c - w) for v, c, w in zip(Y, q, Qq, strict=True)]
    R_columns = [[mosaic.rotations[:, i, j][component] for i in range(3)] for j in range(3)]
    QR = [times(Q, column) for column in R_columns]
    hkl = jnp.asarray(parameters.hkl, dtype=jnp.float64)
    h = [hkl[:, j][node] for j in range(3)]
    by_A = [dot(R_columns[i], u) * h[j] for i in range(3) for j in range(3)]
    by_n = symmetric(lambda i, j: dot(R_columns[i], QR[j]))
    by_eta = tilt * (trace * dot(q, q) - dot(q, Qq))
    return (*by_A, *by_n, m0, by_eta)


@jax.jit
def _gathered(crystal: Crystal, columns) -> ByCrystal:
    """Return the derivatives of points from the sums over their pairs."""
    W = columns[:9]
    P = columns[9:15]
    total, by_eta = columns[15:]
    A = crystal.A
    D = GAUSS / 4 / crystal.n_cells**2
    inverted = jnp.linalg.inv(A)
    PA = [times(P, [A[i, j] for i in range(3)]) for j in range(3)]
    by_A = [
        W[3 * i + j] + PA[j][i] * D[j] + total * inverted[j, i] for i in range(3) for j in range(3)
    ]
    by_n = [
        (total - D[j] * sum(A[i, j] * PA[j][i] for i in range(3))) / crystal.n_cells[j]
        for j in range(3)
    ]
    return ByCrystal(total, jnp.stack(by_A, axis=1), jnp.stack(by_n, axis=1), by_eta[:, None])


def _looked_up(ray: Rays, cloud: Clouds, middle: Array, point: Array, cloud_row: Array):
    """Return turn, d = turn·middle − q, and M of pairs, each by component."""
    turn = [c[point] for c in ray.turn]
    d = [t * middle - q[cloud_row] for t, q in zip(turn, cloud.q, strict=True)]
    return turn, d, [m[cloud_row] for m in cloud.precision]


def exponents(
    ray: Rays, cloud: Clouds, middle: Array, point: Array, cloud_row: Array
) -> tuple[Array, Array, Array]:
    """Return a₂, a₁, a₀ (pair,) of ½(p − q)ᵀM(p − q) = ½(a₂x² + 2a₁x + a₀), p = turn·(middle + x).

    point, cloud_row: (pair,) rows of the points and the clouds.
    """
    t, d, precision = _looked_up(ray, cloud, middle, point, cloud_row)
    along = times(precision, t)
    return dot(along, t), dot(along, d), dot(times(precision, d), d)


def moments(a2, a1, a0, x, strength, channel, start, dtype, order: int):
    """Return Σ strength·exp(−½(a₂x² + 2a₁x + a₀))·uⁿ for n < order (float64) and the centre: u = x
    − centre.

    The centre is −a₁/a₂. Sums are over `WINDOW` channels, from row `channel` of x and row `start`
    of the strengths on.
    """
    centre = -a1 / a2
    floor = 0.5 * (a0 + a1 * centre)
    curvature, middle, x, strength = (
        column.astype(dtype) for column in (0.5 * a2, centre, x, strength)
    )

    def add_channel(j, sums):
        u = x[channel + j] - middle
        part = strength[start + j] * jnp.exp(-curvature * u * u)
        out = []
        for total in sums:
            out.append(total + part)
            part = part * u
        return tuple(out)

    sums = jax.lax.fori_loop(0, WINDOW, add_channel, (jnp.zeros_like(middle),) * order)
    height = jnp.exp(-floor)
    return [height * total.astype(jnp.float64) for total in sums], centre


@partial(jax.custom_jvp, nondiff_argnums=(5, 6, 7))
def channel_sum(a2, a1, a0, x, strength, channel, start, dtype):
    """Return Σ over a window of channels of strength·exp(−½(a₂x² + 2a₁x + a₀)), (pair,); float64 of
    sums in `dtype`.
    """
    return moments(a2, a1, a0, x, strength, channel, start, dtype, 1)[0][0]


@partial(channel_sum.defjvp, symbolic_zeros=True)
def _channel_sum_jvp(channel, start, dtype, primals, tangents):
    """Return d = −½(da₂ Σx² + 2 da₁ Σx + da₀ Σ1) + Σ dstrength exp(…) − Σ(a₂x + a₁) dx."""
    a2, a1, a0, x, strength = primals
    (m0, m1, m2), centre = moments(a2, a1, a0, x, strength, channel, start, dtype, 3)
    first = m1 + centre * m0
    second = m2 + centre * (2.0 * m1 + centre * m0)
    change = jnp.zeros_like(m0)
    for by, tangent in zip((-0.5 * second, -first, -0.5 * m0), tangents[:3], strict=True):
        if not _is_zero(tangent):
            change += by * tangent
    dx, dstrength = tangents[3:]
    if not _is_zero(dstrength):
        change += _linear(a2, a1, a0, x, channel, start, dstrength, None)
    if not _is_zero(dx):
        change += _linear(a2, a1, a0, x, channel, start, strength, dx)
    return m0, change


def _linear(a2, a1, a0, x, channel, start, strength, dx):
    """Return what a change of the strengths (dx None) or of the energies of channels does; linear
    in it, so JAX transposes.
    """

    def step(total, j):
        at_x = x[channel + j]
        part = strength[start + j] * jnp.exp(-0.5 * (a2 * at_x * at_x + 2.0 * a1 * at_x + a0))
        return total + (part if dx is None else -part * (a2 * at_x + a1) * dx[channel + j]), None

    return jax.lax.scan(step, jnp.zeros_like(a0), jnp.arange(WINDOW))[0]
