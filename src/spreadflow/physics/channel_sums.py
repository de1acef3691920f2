"""Sums over the channels of a pulse under the Gaussian that a cloud is along the energy, for many
pairs of a point and a cloud at once, and their derivatives.

The exponent of a pair is ½(a₂x² + 2a₁x + a₀), x = E − middle. Its floor and its centre −a₁/a₂ are
formed in float64, after which the sum over channels may run in float32.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Array
from spreadflow.physics.pair_tables import WINDOW, Parabola


def moments(
    parabola: Parabola,
    x: Array,
    strength: Array,
    channel: Array,
    start: Array,
    order: int,
) -> tuple[list[Array], Array]:
    """Return m_n = Σ strength·exp(−½(a₂x² + 2a₁x + a₀))·uⁿ for n < order, and the centre:
    u = x − centre.

    The centre is −a₁/a₂. Sums are over `WINDOW` channels, from row `channel` of x and row `start`
    of the strengths on.
    """
    centre = parabola.centre
    curvature = 0.5 * parabola.a2

    def add_channel(j, sums):
        u = x[channel + j] - centre
        term = strength[start + j] * jnp.exp(-curvature * u * u)
        larger = []
        for total in sums:
            larger.append(total + term)
            term = term * u
        return tuple(larger)

    zeros = (jnp.zeros_like(centre),) * order
    sums = jax.lax.fori_loop(0, WINDOW, add_channel, zeros)
    height = jnp.exp(-parabola.floor)
    return [height * total for total in sums], centre


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def channel_sum(parabola, x, strength, channel, start):
    """Return Σ over a window of channels of strength·exp(−½(a₂x² + 2a₁x + a₀)), (pair,); float64 of
    sums in `dtype`.

    The arguments are those of `moments`.
    """
    (m0,), _ = moments(parabola, x, strength, channel, start, 1)
    return m0


@partial(channel_sum.defjvp, symbolic_zeros=True)
def _channel_sum_jvp(channel, start, primals, tangents):
    """Return the sum and its change, −½(da₂ Σx² + 2 da₁ Σx + da₀ Σ1) + Σ dstrength exp(…) −
    Σ(a₂x + a₁) dx.
    """
    parabola, x, strength = primals
    dparabola, dx, dstrength = tangents
    (m0, m1, m2), centre = moments(parabola, x, strength, channel, start, 3)
    sum_x = m1 + centre * m0
    sum_x2 = m2 + centre * (2.0 * m1 + centre * m0)
    gradients = (-0.5 * sum_x2, -sum_x, -0.5 * m0)
    change = jnp.zeros_like(m0)
    for gradient, tangent in zip(gradients, dparabola, strict=True):
        if not _is_zero(tangent):
            change += gradient * tangent
    if not _is_zero(dstrength):
        change += _linear(parabola, x, channel, start, dstrength, None)
    if not _is_zero(dx):
        change += _linear(parabola, x, channel, start, strength, dx)
    return m0, change


def _is_zero(tangent) -> bool:
    """Whether a tangent is known to be zero when the derivative is traced."""
    return isinstance(tangent, SymbolicZero)


def _linear(parabola, x, channel, start, strength, dx):
    """Return what a change of the strengths (dx None) or of the energies of channels does; linear
    in it, so that JAX can transpose it.
    """
    a2, a1, a0 = parabola

    def add_channel(total, j):
        xj = x[channel + j]
        exponent = 0.5 * (a2 * xj * xj + 2.0 * a1 * xj + a0)
        term = strength[start + j] * jnp.exp(-exponent)
        if dx is not None:
            slope = a2 * xj + a1
            term = -term * slope * dx[channel + j]
        return total + term, None

    total, _ = jax.lax.scan(add_channel, jnp.zeros_like(a0), jnp.arange(WINDOW))
    return total
