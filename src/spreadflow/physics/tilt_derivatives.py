"""Derivatives of photons by what the turns of mosaic domains add to the covariance of clouds.

With one η that share is (η w)² (|q|²·1 − q qᵀ); with η by axis, w² [q]ₓ R S Rᵀ [q]ₓᵀ, S that of
`mosaic.tilt_tensor`. Photons change with a cloud by Y·dq + ½ tr(Q dΣ).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Array, Crystal, Mosaic
from spreadflow.physics.mosaic import (
    cross_matrix,
    crystal_axes,
    dot,
    symmetric,
    tilt_tensor,
    times,
    turned_back,
    turned_tilt_tensor,
)


class TiltDerivatives(NamedTuple):
    """What the turns of domains add to the derivatives of pairs. All of shape (pair,)."""

    by_q: list[Array]
    """3: (η w)² (tr Q · q − Q q); or w² m, with v·m = tr([v]ₓ R S Rᵀ [q]ₓᵀ Q) for any v"""
    by_tilt: tuple[Array, ...]
    """1: by η, η w² (tr Q · |q|² − qᵀQq); or 6: T = w² Rᵀ [q]ₓᵀ Q [q]ₓ R, of which the change of
    photons is ½ tr(T dS)
    """


def of_pairs(
    crystal: Crystal, mosaic: Mosaic, component: Array, q: list[Array], Q: list[Array]
) -> TiltDerivatives:
    """Return what the tilt adds to the derivatives of pairs, from their component of the mosaicity
    (pair,), centre q and Q, of `forward`.
    """
    if jnp.ndim(crystal.eta_rad):
        return _of_pairs_by_axis(crystal, mosaic, component, q, Q)
    eta = crystal.eta_rad
    Qq = times(Q, q)
    trace = Q[0] + Q[1] + Q[2]
    eta_w2 = eta * (mosaic.width**2)[component]
    away = [trace * q[i] - Qq[i] for i in range(3)]
    return TiltDerivatives(
        by_q=[eta * eta_w2 * away[i] for i in range(3)],
        by_tilt=(eta_w2 * (trace * dot(q, q) - dot(q, Qq)),),
    )


def _of_pairs_by_axis(
    crystal: Crystal, mosaic: Mosaic, component: Array, q: list[Array], Q: list[Array]
) -> TiltDerivatives:
    """Return `of_pairs` where η is by axis."""
    w2 = (mosaic.width**2)[component]
    S = [entry[component] for entry in turned_tilt_tensor(crystal, mosaic)]
    arms = cross_matrix(q)
    Q_arms = [times(Q, arm) for arm in arms]

    # m is the antisymmetric part of R S Rᵀ [q]ₓᵀ Q, whose columns these are
    columns = [times(S, [Q_arm[j] for Q_arm in Q_arms]) for j in range(3)]
    m = [
        columns[2][1] - columns[1][2],
        columns[0][2] - columns[2][0],
        columns[1][0] - columns[0][1],
    ]
    T = symmetric(lambda i, j: w2 * dot(arms[i], Q_arms[j]))
    R = mosaic.rotations
    R_columns = [[R[:, i, j][component] for i in range(3)] for j in range(3)]
    return TiltDerivatives(
        by_q=[w2 * part for part in m],
        by_tilt=tuple(turned_back(T, R_columns)),
    )


def by_axes(crystal: Crystal, T: Array) -> tuple[Array, Array]:
    """Return the derivatives (point, 9) by A, as its axes turn with it, and (point, 3) by η, where
    η is by axis. T: (point, 6), sums over pairs of `TiltDerivatives.by_tilt`.
    """
    S_by_A, S_by_eta = jax.jacfwd(_tilt_tensor, (0, 1))(crystal.A, crystal.eta_rad)
    half_T = T * np.array([0.5, 0.5, 0.5, 1.0, 1.0, 1.0])  # elements off the diagonal count twice
    return half_T @ S_by_A.reshape(6, 9), half_T @ S_by_eta


def _tilt_tensor(A: Array, eta_rad: Array) -> Array:
    """Return S (6,), rad², of a crystal whose η is by axis."""
    return jnp.stack(tilt_tensor(crystal_axes(A), eta_rad))
