"""Expected Bragg photons of one lattice, summed over the (cloud, point, channels) that can hold any.

photons(point) = r_e²·scale/beam² Σ_clouds amplitude Σ_E photons_E |F(h, E)|² exp(−½ (p − q)ᵀM(p − q)) · efficiency,
p = (ŝ − ŝ0)·E/hc. For one point and cloud the exponent is a parabola in E, ½(a₂x² + 2a₁x + a₀) with x = E − middle:
three numbers in float64, after which the sum over channels may run in float32. All derivatives but those by the
photons of a channel follow from three moments of x.
"""

from collections.abc import Iterator
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
"""channels summed at a time, from the first that matters on"""
BLOCK = 1 << 16
"""pairs worked on at a time: bounds the memory"""
STEP = 1 << 13
"""the same where derivatives are formed: what is worked on stays in the cache"""


class Pairs(NamedTuple):
    """Which cloud may put photons of which channels on which point. All int32 of shape (pair,).

    A pair stands for `WINDOW` channels; where more matter there are more pairs. To fill up to a static shape: a
    channel equal to the number of channels, beyond which nothing shines.
    """

    point: Array
    """row of the points"""
    cloud: Array
    """row of the node · number of components + component"""
    channel: Array
    """the first channel"""


class Rays(NamedTuple):
    """Where points look. Arrays of shape (point,)."""

    turn: tuple[Array, ...]
    """(ŝ − ŝ0)/hc, so that p = turn·E, Å⁻¹/eV"""
    efficiency: Array
    """solid angle × captured fraction × polarization"""


def rays(detector: Detector, polarization, pixels: Pixels) -> Rays:
    """Rays from the sample to points of the detector."""

    def axis(a):
        return [a[:, j][pixels.panel] for j in range(3)]

    origin, fast, slow, normal = map(
        axis,
        map(
            jnp.asarray,
            (detector.origin_mm, detector.fast, detector.slow, geometry.normals(detector)),
        ),
    )
    f = pixels.fast * detector.pixel_mm
    s = pixels.slow * detector.pixel_mm
    place = [o + a * f + b * s for o, a, b in zip(origin, fast, slow, strict=True)]
    distance = jnp.sqrt(place[0] ** 2 + place[1] ** 2 + place[2] ** 2)
    ray = [p / distance for p in place]
    made = efficiency(
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
    return Rays(tuple(c / HC_EV_ANGSTROM for c in (x, y, jnp.where(z < 0, across, 1.0 + z))), made)


def photons(parameters: Parameters, pixels: Pixels, pairs: Pairs, *, dtype="float64"):
    """(point,) expected photons of `pixels`, from the `pairs` of `layout`. Pure; differentiable in every float leaf.

    A point stands for a whole pixel. dtype: of the sums over channels; everything else is float64. Derivatives by the
    crystal and the scale alone, forward or reverse, cost about as much as the photons themselves.
    """
    crystal, scale = jax.tree.map(
        lambda a: jnp.asarray(a, dtype=jnp.float64), (parameters.crystal, parameters.scale)
    )
    apart: dict[str, Any] = {"crystal": (), "scale": ()}
    return _photons(crystal, scale, parameters._replace(**apart), pixels, pairs, dtype)


@partial(jax.custom_jvp, nondiff_argnums=(5,))
def _photons(crystal, scale, others, pixels, pairs, dtype):
    return _plain(crystal, scale, others, pixels, pairs, dtype)


def _plain(crystal, scale, others, pixels, pairs, dtype):
    """Photons, to be differentiated step by step."""
    ray, cloud, channels = _tables(others._replace(crystal=crystal, scale=scale), pixels)
    each = _in_blocks(lambda some: _of_pairs(ray, cloud, channels, some, dtype), pairs)
    return jax.ops.segment_sum(each, pairs.point, len(pixels.fast))


@partial(_photons.defjvp, symbolic_zeros=True)
def _photons_jvp(dtype, primals, tangents):
    """By the crystal and the scale alone: one pass; else step by step."""
    crystal, scale, others, pixels, pairs = primals
    moved = [
        not isinstance(t, SymbolicZero) for t in jax.tree.leaves(tangents[2:], is_leaf=_is_zero)
    ]
    if any(moved):
        return jax.jvp(
            partial(_plain, dtype=dtype),
            primals,
            jax.tree.map(_instantiated, tangents, is_leaf=_is_zero),
        )
    total, *by = _by_crystal(others._replace(crystal=crystal, scale=scale), pixels, pairs, dtype)
    change = jnp.zeros_like(total)
    for gradient, tangent in zip(
        (*by, (total / scale)[:, None]), (*tangents[0], tangents[1]), strict=True
    ):
        if not isinstance(tangent, SymbolicZero):
            change += gradient @ jnp.reshape(tangent, -1)
    return total, change


def _is_zero(leaf) -> bool:
    return isinstance(leaf, SymbolicZero)


def _instantiated(tangent):
    """Zeros in place of a symbolic zero (of no size for integers)."""
    if not isinstance(tangent, SymbolicZero):
        return tangent
    return (
        np.zeros(tangent.shape, tangent.dtype)
        if tangent.dtype == jax.dtypes.float0
        else jnp.zeros_like(tangent)
    )


def sums(parameters: Parameters, pixels: Pixels, pairs: Pairs, dtype="float32"):
    """(point,) expected photons, and photons times E − middle (eV); block by block, for any number of pairs.

    The same as `photons` in bounded memory and one compiled program, without derivatives.
    """
    ray, cloud, channels = _tables(parameters, pixels)
    total = jnp.zeros(len(pixels.fast))
    first = jnp.zeros(len(pixels.fast))
    for some in _blocks(pairs, BLOCK, len(parameters.spectrum.photons)):
        total, first = _add_block(ray, cloud, channels, some, total, first, dtype)
    return np.asarray(total), np.asarray(first), float(channels.middle)


def each(parameters: Parameters, pixels: Pixels, pairs: Pairs, dtype="float32") -> np.ndarray:
    """(pair,) expected photons of every pair by itself; block by block as `sums`."""
    tables = _tables(parameters, pixels)
    found = [
        _of_block(*tables, some, dtype)
        for some in _blocks(pairs, BLOCK, len(parameters.spectrum.photons))
    ]
    return np.concatenate([np.empty(0), *map(np.asarray, found)])[: len(pairs.point)]


def by_channel(
    parameters: Parameters,
    pixels: Pixels,
    pairs: Pairs,
    row: np.ndarray,
    n_rows: int,
    dtype="float32",
) -> np.ndarray:
    """(n_rows, channel) photons of every channel per electron² of |F|², sums over the pairs of each row.

    row: (pair,). Block by block as `sums`.
    """
    n = len(parameters.spectrum.photons)
    tables = _tables(parameters._replace(f_squared=jnp.ones((1, n))), pixels)
    total = jnp.zeros((1 << int(np.ceil(np.log2(max(n_rows, 64)))), n + WINDOW), dtype)
    for start, some in zip(range(0, len(row), STEP), _blocks(pairs, STEP, n), strict=True):
        rows = row[start : start + STEP]
        total = _add_channels(*tables, some, np.pad(rows, (0, STEP - len(rows))), total, dtype)
    return np.asarray(total)[:n_rows, :n]


@partial(jax.jit, static_argnames="dtype", donate_argnames="total")
def _add_channels(ray, cloud, channels, pairs, row, total, dtype):
    a2, a1, a0 = exponents(ray, cloud, channels.middle, pairs.point, pairs.cloud)
    centre = -a1 / a2
    height = (
        ray.efficiency[pairs.point]
        * cloud.amplitude[pairs.cloud]
        * jnp.exp(-0.5 * (a0 + a1 * centre))
    )
    curvature, middle, height, x, strength = (
        a.astype(dtype) for a in (0.5 * a2, centre, height, channels.x, channels.strength)
    )
    at = jnp.minimum(pairs.channel[:, None] + jnp.arange(WINDOW), total.shape[1] - 1)
    u = x[at] - middle[:, None]
    return total.at[row[:, None], at].add(
        height[:, None] * strength[at] * jnp.exp(-curvature[:, None] * u * u)
    )


def _blocks(pairs: Pairs, size: int, dark: int) -> Iterator[Pairs]:
    """Blocks of pairs of one size, the last filled up with pairs of the channel `dark`."""
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
    """Return the tables that pairs are looked up in: rays of points, clouds of nodes, channels of the spectrum.

    They are three programs and not one: each is compiled for its own few sizes, not for all their combinations.
    """
    ray = compiled_rays(parameters.detector, parameters.polarization, pixels)
    return ray, averaged(parameters), _compiled_channels(parameters)


def averaged(parameters: Parameters) -> Clouds:
    """Return the clouds of all nodes as squares of `edge_px` see them: blurred by what lies within a square.

    The mean of a Gaussian over a square is nearly that with a Gaussian of its second moments, edge²/12
    along each axis of the panel; the cut of a cloud is blurred by it when the cloud is. Steps on a panel
    are steps of p = (ŝ − ŝ0)/λ, here at the middle of the spectrum, at the mean over domains, and on the
    panel whose centre is nearest to the ray.
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
    k = 0.5 * (ends_ev[0] + ends_ev[1]) / HC_EV_ANGSTROM
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
    a2, a1, a0 = exponents(ray, cloud, channels.middle, pairs.point, pairs.cloud)
    at = _start(cloud, channels, pairs)
    (m0, m1), centre = moments(
        a2, a1, a0, channels.x, channels.strength, pairs.channel, at, dtype, 2
    )
    height = ray.efficiency[pairs.point] * cloud.amplitude[pairs.cloud]

    def add(column, value):
        return column + jax.ops.segment_sum(height * value, pairs.point, len(column))

    return add(total, m0), add(first, m1 + centre * m0)


class Channels(NamedTuple):
    """The spectrum times |F|², with empty channels behind the last so that a window never reaches beyond the end."""

    middle: Array
    """() eV; x = E − middle"""
    x: Array
    """(channel + WINDOW,) eV"""
    strength: Array
    """(node · (channel + WINDOW),) photons per unit of the cloud"""

    @classmethod
    def of(cls, parameters: Parameters) -> "Channels":
        energies, fluence = (jnp.asarray(a, dtype=jnp.float64) for a in parameters.spectrum)
        middle = jax.lax.stop_gradient(0.5 * (energies[0] + energies[-1]))
        fluence = R_E_SQUARED_M2 * parameters.scale / (parameters.beam_mm * 1e-3) ** 2 * fluence
        strength = jnp.pad(fluence * parameters.f_squared, ((0, 0), (0, WINDOW)))
        return cls(middle, jnp.pad(energies - middle, (0, WINDOW)), strength.reshape(-1))


_compiled_channels = jax.jit(Channels.of)


def _in_blocks(function, pairs: Pairs):
    """function(pairs) in blocks of `BLOCK` pairs; the number of pairs is a multiple of it, or smaller."""
    if len(pairs.point) <= BLOCK:
        return function(pairs)
    blocks = jax.tree.map(lambda column: column.reshape(-1, BLOCK), pairs)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), jax.lax.map(function, blocks))


def _of_pairs(ray: Rays, cloud: Clouds, channels: Channels, pairs: Pairs, dtype):
    """(pair,) photons."""
    a2, a1, a0 = exponents(ray, cloud, channels.middle, pairs.point, pairs.cloud)
    at = _start(cloud, channels, pairs)
    total = channel_sum(a2, a1, a0, channels.x, channels.strength, pairs.channel, at, dtype)
    return ray.efficiency[pairs.point] * cloud.amplitude[pairs.cloud] * total


_of_block = partial(jax.jit, static_argnames="dtype")(_of_pairs)


def _start(cloud: Clouds, channels: Channels, pairs: Pairs):
    """(pair,) where the window of a pair begins in `channels.strength`."""
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


def by_crystal(parameters: Parameters, pixels: Pixels, pairs: Pairs, dtype="float64") -> ByCrystal:
    """What `photons` and its derivatives by the crystal are; block by block as `sums`, NumPy."""
    ray, cloud, channels = _tables(parameters, pixels)
    total = tuple(jnp.zeros(len(pixels.fast)) for _ in range(17))
    for some in _blocks(pairs, STEP, len(parameters.spectrum.photons)):
        total = _add_derivatives(parameters, ray, cloud, channels, some, total, dtype)
    return ByCrystal(*map(np.asarray, _gathered(parameters.crystal, total)))


@partial(jax.jit, static_argnames="dtype", donate_argnames="total")
def _add_derivatives(parameters, ray, cloud, channels, pairs, total, dtype):
    each = _pair_derivatives(parameters, ray, cloud, channels, pairs, dtype)
    return tuple(
        t + jax.ops.segment_sum(e, pairs.point, len(t)) for t, e in zip(total, each, strict=True)
    )


def _by_crystal(parameters: Parameters, pixels: Pixels, pairs: Pairs, dtype) -> ByCrystal:
    """The same, to be traced."""
    ray, cloud, channels = _tables(parameters, pixels)
    each = _in_blocks(
        lambda some: _pair_derivatives(parameters, ray, cloud, channels, some, dtype), pairs
    )
    return _gathered(
        parameters.crystal, [jax.ops.segment_sum(e, pairs.point, len(pixels.fast)) for e in each]
    )


def _pair_derivatives(
    parameters: Parameters, ray: Rays, cloud: Clouds, channels: "Channels", pairs: Pairs, dtype
):
    """17 columns (pair,): Rᵀu hᵀ row by row, RᵀQR as xx yy zz yz xz xy, photons, derivative by η.

    With y = M(p − q), Y = Σ y and Q = Σ (y yᵀ − M) over channels, weighted: d photons = u·dq + ½ tr(Q dΣ₀) + d ln of
    the height of a cloud without tilt; u = Y and the derivative by q of the tilt; q and Σ as in `mosaic.clouds`.
    """
    mosaic = parameters.mosaic
    eta = parameters.crystal.eta_rad
    height = ray.efficiency[pairs.point] * cloud.amplitude[pairs.cloud]
    t, d, precision = _looked_up(ray, cloud, channels.middle, pairs.point, pairs.cloud)
    along = times(precision, t)
    away = times(precision, d)
    a = dot(along, t), dot(along, d), dot(away, d)
    at = _start(cloud, channels, pairs)
    sums, centre = moments(*a, channels.x, channels.strength, pairs.channel, at, dtype, 3)
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
    column = [[mosaic.rotations[:, i, j][component] for i in range(3)] for j in range(3)]
    turned = [times(Q, c) for c in column]
    h = [jnp.asarray(parameters.hkl, dtype=jnp.float64)[:, j][node] for j in range(3)]
    return (
        *(dot(column[i], u) * h[j] for i in range(3) for j in range(3)),
        *symmetric(lambda i, j: dot(column[i], turned[j])),
        m0,
        tilt * (trace * dot(q, q) - dot(q, Qq)),
    )


@jax.jit
def _gathered(crystal: Crystal, columns) -> ByCrystal:
    """The derivatives of points from the sums over their pairs."""
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


def _looked_up(ray: Rays, cloud: Clouds, middle, point, of_cloud):
    """Of pairs: turn, turn·middle − q, and M."""
    turn = [c[point] for c in ray.turn]
    away = [t * middle - q[of_cloud] for t, q in zip(turn, cloud.q, strict=True)]
    return turn, away, [m[of_cloud] for m in cloud.precision]


def exponents(ray: Rays, cloud: Clouds, middle, point, of_cloud):
    """a₂, a₁, a₀ (pair,) of ½(p − q)ᵀM(p − q) = ½(a₂x² + 2a₁x + a₀), p = turn·(middle + x)."""
    t, d, precision = _looked_up(ray, cloud, middle, point, of_cloud)
    along = times(precision, t)
    return dot(along, t), dot(along, d), dot(times(precision, d), d)


def moments(a2, a1, a0, x, strength, channel, at, dtype, order: int):
    """Σ strength·exp(−½(a₂x² + 2a₁x + a₀))·uⁿ for n < order (float64) and the centre: u = x − centre, centre = −a₁/a₂.

    Over `WINDOW` channels from row `channel` of x and row `at` of the strengths on.
    """
    centre = -a1 / a2
    floor = 0.5 * (a0 + a1 * centre)
    curvature, middle, x, strength = (a.astype(dtype) for a in (0.5 * a2, centre, x, strength))

    def step(j, sums):
        u = x[channel + j] - middle
        part = strength[at + j] * jnp.exp(-curvature * u * u)
        out = []
        for total in sums:
            out.append(total + part)
            part = part * u
        return tuple(out)

    sums = jax.lax.fori_loop(0, WINDOW, step, (jnp.zeros_like(middle),) * order)
    height = jnp.exp(-floor)
    return [height * total.astype(jnp.float64) for total in sums], centre


@partial(jax.custom_jvp, nondiff_argnums=(5, 6, 7))
def channel_sum(a2, a1, a0, x, strength, channel, at, dtype):
    """(pair,) Σ over a window of channels of strength·exp(−½(a₂x² + 2a₁x + a₀)), float64 of sums in `dtype`."""
    return moments(a2, a1, a0, x, strength, channel, at, dtype, 1)[0][0]


@partial(channel_sum.defjvp, symbolic_zeros=True)
def _channel_sum_jvp(channel, at, dtype, primals, tangents):
    """d = −½(da₂ Σx² + 2 da₁ Σx + da₀ Σ1) + Σ dstrength exp(…) − Σ(a₂x + a₁) dx."""
    a2, a1, a0, x, strength = primals
    (m0, m1, m2), centre = moments(a2, a1, a0, x, strength, channel, at, dtype, 3)
    first = m1 + centre * m0
    second = m2 + centre * (2.0 * m1 + centre * m0)
    change = jnp.zeros_like(m0)
    for by, tangent in zip((-0.5 * second, -first, -0.5 * m0), tangents[:3], strict=True):
        if not isinstance(tangent, SymbolicZero):
            change += by * tangent
    dx, dstrength = tangents[3:]
    if not isinstance(dstrength, SymbolicZero):
        change += _linear(a2, a1, a0, x, channel, at, dstrength, None)
    if not isinstance(dx, SymbolicZero):
        change += _linear(a2, a1, a0, x, channel, at, strength, dx)
    return m0, change


def _linear(a2, a1, a0, x, channel, at, strength, dx):
    """What a change of the strengths (dx None) or of the energies of channels does; linear in it, so JAX transposes."""

    def step(total, j):
        at_x = x[channel + j]
        part = strength[at + j] * jnp.exp(-0.5 * (a2 * at_x * at_x + 2.0 * a1 * at_x + a0))
        return total + (part if dx is None else -part * (a2 * at_x + a1) * dx[channel + j]), None

    return jax.lax.scan(step, jnp.zeros_like(a0), jnp.arange(WINDOW))[0]
