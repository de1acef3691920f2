"""The sums of structure factors over the atoms of a cell, by JAX: exponentials by the million.

`structure_factors` imports this where it sums: the other half of it holds tables alone.
"""

import jax
import jax.numpy as jnp
import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)

UNROLL = 8
"""Atoms added in one step of the loop."""

PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
"""Elements of β in the order in which they are summed."""


def _half_turn_series() -> tuple[np.ndarray, np.ndarray]:
    """Return the coefficients in x² of cos(πx) and sin(πx)/x on |x| ≤ ½, to 1e-8 (least squares at
    Chebyshev nodes).
    """
    x = 0.5 * np.cos(np.pi * (np.arange(200) + 0.5) / 200)

    def fit(y: np.ndarray) -> np.ndarray:
        series = np.polynomial.Polynomial.fit(x**2, y, 5, domain=[0, 1], window=[0, 1])
        return series.coef.astype(np.float32)

    return fit(np.cos(np.pi * x)), fit(np.sin(np.pi * x) / x)


_COS, _SIN = _half_turn_series()


def _phase(turns):
    """Return cos and sin of 2π·turns, |turns| ≤ ½, in arithmetic that vectorises (the library's
    float32 functions do not).
    """
    t2 = turns * turns
    cosine = jnp.float32(_COS[-1])
    sine = jnp.float32(_SIN[-1])
    for c, s in zip(_COS[-2::-1], _SIN[-2::-1], strict=True):
        cosine = cosine * t2 + c
        sine = sine * t2 + s
    sine = sine * turns
    return 1.0 - 2.0 * sine * sine, 2.0 * sine * cosine


@jax.jit
def sum_over_block(hkl, xyz, beta, weight):
    """Return the real and imaginary parts (n,) float32 of the sum over one block of atoms; phases
    are reduced to a turn in float64.

    hkl: (n, 3); xyz: (atom, 3); beta: (atom, 6) in the order of `PAIRS`; weight: (atom,).
    """
    h = hkl[:, 0]
    k = hkl[:, 1]
    l = hkl[:, 2]
    indices = (h, k, l)
    products = [jnp.float32(indices[i] * indices[j]) for i, j in PAIRS]

    def unrolled(column):
        return column.reshape(-1, UNROLL, *column.shape[1:])

    xyz = unrolled(xyz)
    beta = unrolled(jnp.float32(beta))
    weight = unrolled(jnp.float32(weight))

    def add_atoms(n, sums):
        real, imaginary = sums
        for u in range(UNROLL):
            x, y, z = xyz[n, u]
            turns = h * x + k * y + l * z
            within_half = jnp.float32(turns - jnp.round(turns))
            cosine, sine = _phase(within_half)
            exponent = sum(product * beta[n, u, i] for i, product in enumerate(products))
            height = weight[n, u] * jnp.exp(-exponent)
            real = real + height * cosine
            imaginary = imaginary + height * sine
        return real, imaginary

    zero = jnp.zeros(len(hkl), dtype=jnp.float32)
    return jax.lax.fori_loop(0, len(weight), add_atoms, (zero, zero))
