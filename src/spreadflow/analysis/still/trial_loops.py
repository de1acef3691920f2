"""Compiled loops that score trial vectors of an axis by the spots, and refine them on these
(`trial_vectors`). Scores run over vectors in vector registers, as there are thousands, and sums of
the refinement over spots.
"""

import math
from typing import NamedTuple

import numpy as np

from spreadflow.physics.compiling import compiled, inlined

RIDGE = 1e-4
"""Of normal matrices, relative to their trace, where the spots span less than space."""

LEAST_RIDGE = 1e-12
"""And at least."""


CHUNK = 1024
"""Trial vectors that are scored at a time, which stay in the processor's cache."""


class Spread(NamedTuple):
    """Within what a product v·q counts as an integer: `n_sigma` standard deviations, at most
    `largest`.
    """

    across: float
    """standard deviation of q in every direction, Å⁻¹"""
    radial: float
    """fraction of |q|, along q in addition"""
    n_sigma: float
    largest: float


class Refined(NamedTuple):
    """Trial vectors after their refinement."""

    vectors: np.ndarray
    """(k, 3) Å"""
    is_integer: np.ndarray
    """(k, n) bool, which spots they turn into integers"""
    lack: np.ndarray
    """(k,) weight of the spots that chance turns into integers, less that of those that the vector
    does: small where it is good
    """


@compiled
def scores(trials, q, weights):
    """Return Σ w |v·q − round(v·q)| over the spots of each trial vector v: (m,) float32.

    trials: (3, m) float32; q: (n, 3) float32; weights: (n,) float32.
    """
    m = trials.shape[1]
    out = np.zeros(m, np.float32)
    for start in range(0, m, CHUNK):
        end = min(start + CHUNK, m)
        xs, ys, zs = trials[0, start:end], trials[1, start:end], trials[2, start:end]
        score = out[start:end]
        for spot in range(len(weights)):
            x, y, z = q[spot, 0], q[spot, 1], q[spot, 2]
            weight = weights[spot]
            for i in range(end - start):
                phase = x * xs[i] + y * ys[i] + z * zs[i]
                score[i] += weight * abs(phase - np.rint(phase))
    return out


@inlined
def _tolerance(square, phase, spread):
    """Return within what a phase counts as an integer. square: (|v| across)² of its vector."""
    sigma = math.sqrt(square + (spread.radial * phase) ** 2)
    return min(spread.n_sigma * sigma, spread.largest)


@inlined
def _step(v, q, weights, width, spread):
    """Move a vector v (3,) to the least-squares solution of the integers that it makes of spots q
    (3, n), those within the tolerance, which is at least `width`. weights: (n,).
    """
    qx, qy, qz = q[0], q[1], q[2]
    vx, vy, vz = v[0], v[1], v[2]
    square = (vx**2 + vy**2 + vz**2) * spread.across**2
    xx, yy, zz, yz, xz, xy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    gx, gy, gz = 0.0, 0.0, 0.0
    for i in range(len(weights)):
        x, y, z = qx[i], qy[i], qz[i]
        phase = vx * x + vy * y + vz * z
        residual = phase - np.rint(phase)
        tolerance = max(_tolerance(square, phase, spread), width)
        weight = weights[i] if abs(residual) < tolerance else 0.0
        wx, wy, wz = weight * x, weight * y, weight * z
        xx += wx * x
        yy += wy * y
        zz += wz * z
        yz += wy * z
        xz += wx * z
        xy += wx * y
        gx += wx * residual
        gy += wy * residual
        gz += wz * residual
    ridge = RIDGE * (xx + yy + zz) + LEAST_RIDGE
    xx += ridge
    yy += ridge
    zz += ridge

    # LDLᵀ of the normal matrix
    ly, lz = xy / xx, xz / xx
    dy = yy - ly * xy
    m = (yz - ly * xz) / dy
    dz = zz - lz * xz - m * m * dy
    by = gy - ly * gx
    bz = gz - lz * gx - m * by
    sz = bz / dz
    sy = by / dy - m * sz
    v[0] = vx - (gx / xx - ly * sy - lz * sz)
    v[1] = vy - sy
    v[2] = vz - sz


@compiled
def refined(vectors, q, weights, norm, limits, widths, spread):
    """Return vectors (k, 3) fitted to the integers that they make of spots q (3, n): `Refined`.

    weights: (n,); norm: (n,) |q|. In each round spots below one of the limits count, |q| ≤ limit,
    and the tolerance is at least one of the widths.
    """
    n = len(weights)
    out = vectors.copy()
    is_integer = np.empty((len(out), n), np.bool_)
    lack = np.zeros(len(out))
    of_round = np.empty((len(limits), n))
    for number in range(len(limits)):
        for i in range(n):
            of_round[number, i] = weights[i] if norm[i] <= limits[number] else 0.0
    for row in range(len(out)):
        v = out[row]
        for number in range(len(limits)):
            _step(v, q, of_round[number], widths[number], spread)
        square = (v[0] ** 2 + v[1] ** 2 + v[2] ** 2) * spread.across**2
        for i in range(n):
            phase = v[0] * q[0, i] + v[1] * q[1, i] + v[2] * q[2, i]
            tolerance = _tolerance(square, phase, spread)
            is_own = abs(phase - np.rint(phase)) < tolerance
            is_integer[row, i] = is_own
            lack[row] += weights[i] * (2.0 * tolerance - (1.0 if is_own else 0.0))
    return Refined(out, is_integer, lack)
