"""Scales of lattices without a reference: photons = k·I with k = G exp(−2 B s²)·factor, s = 1/(2d).

Block coordinate descent on the profile likelihood (the unique intensities eliminated): a lattice is
fitted to what all others say about its reflections, I₋ with variance V₋, and the weight of a
reflection is 1/(v + k² V₋). Before anything is measured I₋ is Wilson's distribution in the shell,
so a reflection nobody else has seen still says a little, and nothing depends on the multiplicity
being high.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.merging import error_model
from spreadflow.analysis.merging.error_model import HUBER, ErrorModel
from spreadflow.analysis.merging.merging import Observations, Sums, Unique

B_RESTRAINT = 10.0
"""Standard deviation of B among lattices, Å²: decides only where a lattice says nothing about its B
"""

STEP_MAX = np.array([1.0, 10.0])
"""Largest change of ln G and of B (Å²) in one cycle."""

TOLERANCE = 1e-4
"""Cycles end when ln G moves by less than this, r.m.s. over lattices."""

LARGEST_LEVERAGE = 0.9
"""A lattice with hardly more observations than unknowns does not make their residuals infinite."""

LEAST_SHELL_MEAN = 1e-3
"""Least mean intensity of a shell in Wilson's prior, relative to the mean of all."""


class Scaling(NamedTuple):
    """The scales of lattices. Lattices and observations are those handed in (this rank's)."""

    log_g: np.ndarray
    """(lattice,) ln G"""
    b: np.ndarray
    """(lattice,) B, Å²"""
    error_model: ErrorModel
    intensity: np.ndarray
    """(observation,) I on the common scale"""
    sigma: np.ndarray
    """(observation,) its standard deviation by the error model; larger for outliers"""
    n_cycles: int
    last_change: float
    """r.m.s. change of ln G in the last cycle"""


class _Estimate(NamedTuple):
    """Intensities and how well they are known; each (unique,) or (observation,)."""

    mean: np.ndarray
    precision: np.ndarray
    """1/variance"""


class _Data(NamedTuple):
    """The data, which do not change from cycle to cycle."""

    obs: Observations
    sums: Sums
    unique: Unique
    refine_b: bool
    target: np.ndarray | None
    """(unique,) intensity of the reference on the scale of the data, NaN = unknown; None = no
    reference
    """


class _State(NamedTuple):
    """The parameters, which change from cycle to cycle."""

    log_g: np.ndarray
    """(lattice,)"""
    b: np.ndarray
    """(lattice,) Å²"""
    model: ErrorModel
    prior: _Estimate
    """(unique,) Wilson's"""
    posterior: _Estimate
    """(unique,) prior and all observations"""
    own: _Estimate
    """(observation,) what the observation itself brought into the posterior"""
    robust: np.ndarray
    """(observation,) 0-1: the share of its weight that an observation keeps"""
    leverage: np.ndarray
    """(observation,) 0-1: how much of its residual the observation's own lattice scale takes away
    """


def scale(
    obs: Observations,
    sums: Sums,
    unique: Unique,
    *,
    reference: np.ndarray | None = None,
    refine_b: bool = True,
    n_cycles: int = 20,
    tolerance: float = TOLERANCE,
) -> Scaling:
    """Scale every lattice, alternating with merging and the error model.

    reference: (unique,) intensities the scales are taken against instead of the merged ones (mark0:
    the slope through the origin; NaN = unknown). Without a reference mean ln G and mean B are 0.
    Cycles end when ln G moves by less than `tolerance` r.m.s. Collective through `sums`.
    """
    photons, factor = sums.by_unique(obs.intensity, obs.factor)
    prior = _prior(photons, factor, unique)
    target, ratio = (None, 1.0) if reference is None else _target(obs, sums, reference)
    data = _Data(obs, sums, unique, refine_b, target)
    zeros = np.zeros(len(obs.lattice))
    state = _State(
        log_g=np.zeros(obs.n_lattices),
        b=np.zeros(obs.n_lattices),
        model=ErrorModel(),
        prior=prior,
        posterior=prior,
        own=_Estimate(zeros, zeros),
        robust=np.ones(len(zeros)),
        leverage=zeros,
    )
    change = np.inf
    cycle = 0
    while cycle < n_cycles and change > tolerance:
        state, change = _cycle(data, state, is_first=cycle == 0)
        cycle += 1

    k = _photons_per_intensity(obs, state)
    variance = state.model.variance(error_model.terms(obs, k, state.posterior.mean))
    k = k * ratio
    return Scaling(
        log_g=state.log_g + np.log(ratio),
        b=state.b,
        error_model=state.model,
        intensity=obs.intensity / k,
        sigma=np.sqrt(variance / state.robust) / k,
        n_cycles=cycle,
        last_change=change,
    )


def _cycle(data: _Data, state: _State, is_first: bool) -> tuple[_State, float]:
    """Judge every observation by the others, move the error model and the scales, merge.

    Returns the new state, and the r.m.s. change of ln G.
    """
    obs = data.obs
    sums = data.sums
    k = _photons_per_intensity(obs, state)
    terms = error_model.terms(obs, k, state.posterior.mean)
    others = _without_own(state, obs.unique)
    residual = obs.intensity - k * others.mean
    extra = k**2 / others.precision
    if not is_first:
        has_others = others.precision > 2.0 * state.prior.precision[obs.unique]
        model = error_model.fit(
            terms, residual, extra, state.leverage, has_others, state.model, sums
        )
        state = state._replace(model=model)

    variance = state.model.variance(terms)
    limit = HUBER * np.sqrt(variance + extra)
    robust = np.minimum(1.0, limit / np.maximum(np.abs(residual), 1e-300))
    state = state._replace(robust=robust)

    if data.target is None:
        step, leverage = _step_to_others(data, state, k, variance, others)
    else:
        step, leverage = _step_to_target(data, data.target, state, k)
    log_g_step, b_step = step.T
    moved = state._replace(
        log_g=state.log_g + log_g_step,
        b=state.b + b_step,
        leverage=leverage,
    )
    square, count = sums.over_lattices(log_g_step**2, np.ones(len(step)))
    return _merge(data, moved), float(np.sqrt(square / count))


def _photons_per_intensity(obs: Observations, state: _State) -> np.ndarray:
    """Return k = G exp(−2 B s²)·factor, (observation,)."""
    log_g = state.log_g[obs.lattice]
    b = state.b[obs.lattice]
    return np.exp(log_g - 2.0 * b * obs.s2) * obs.factor


def _without_own(state: _State, unique: np.ndarray) -> _Estimate:
    """Return what the prior and all other observations say about the intensity of each observation,
    (observation,). unique: row of the intensity.
    """
    own = state.own
    total = state.posterior.precision[unique]
    weighted = state.posterior.mean[unique] * total
    precision = np.maximum(total - own.precision, 1e-9 * total)
    mean = (weighted - own.mean * own.precision) / precision
    return _Estimate(mean, precision)


def _merge(data: _Data, state: _State) -> _State:
    """Return the state with prior and posterior of all intensities at the present scales."""
    obs = data.obs
    k = _photons_per_intensity(obs, state)
    variance = state.model.variance(error_model.terms(obs, k, state.posterior.mean))
    own = _Estimate(
        mean=obs.intensity / k,
        precision=state.robust * k**2 / variance,
    )
    weighted, precision = data.sums.by_unique(own.mean * own.precision, own.precision)

    is_measured = precision > 0
    divisor = np.where(is_measured, precision, 1.0)
    merged = np.where(is_measured, weighted / divisor, 0.0)
    prior = _prior(merged, is_measured, data.unique)
    total = prior.precision + precision
    mean = (prior.mean * prior.precision + weighted) / total
    posterior = _Estimate(mean, total)
    return state._replace(prior=prior, posterior=posterior, own=own)


def _step_to_others(
    data: _Data, state: _State, k, variance, others: _Estimate
) -> tuple[np.ndarray, np.ndarray]:
    """Return the step (lattice, 2) towards what the others say, of mean 0, and the leverage.

    All lattices move at once, and two that share a reflection would both cover the whole distance
    between them: the curvature is multiplied by 1 + (own weight / weight of the others), at most 2,
    which bounds the step from above.
    """
    total_variance = variance / state.robust + k**2 / others.precision
    relative_weight = state.own.precision / others.precision
    damping = 1.0 + np.minimum(1.0, relative_weight)
    step, leverage = _step(data, k * others.mean, 1.0 / total_variance, damping, state.b)

    n_lattices = data.sums.over_lattices(np.ones(len(step)))
    mean_step = data.sums.over_lattices(*step.T) / n_lattices
    return step - mean_step, leverage


def _step_to_target(
    data: _Data, target: np.ndarray, state: _State, k
) -> tuple[np.ndarray, np.ndarray]:
    """Return the step (lattice, 2) towards the reference, and the leverage.

    The variance is that of the photons the reference expects: weights that knew the merged
    intensity would favour whatever is measured lower than the reference has it.
    """
    unique = data.obs.unique
    mean = np.nan_to_num(target)
    variance = state.model.variance(error_model.terms(data.obs, k, mean))
    is_unknown = np.isnan(target)[unique]
    weight = np.where(is_unknown, 0.0, state.robust / variance)
    return _step(data, k * mean[unique], weight, 1.0, state.b)


def _step(data: _Data, photons, weight, damping, b) -> tuple[np.ndarray, np.ndarray]:
    """Return the Gauss-Newton step (lattice, 2) of ln G and B, with d(photons)/d ln G = photons and
    d(photons)/dB = −2 s² photons.

    photons, weight, damping: (observation,) expected photons, 1/variance, factor on the curvature.
    Also returns the leverage (observation,), the diagonal of the hat matrix of each lattice's
    regression.
    """
    obs = data.obs
    arm = -2.0 * obs.s2
    pull = weight * photons * (obs.intensity - photons)
    information = weight * photons**2
    curvature = damping * information
    c00, c01, c11 = _covariance(data, curvature, arm)

    g0 = data.sums.by_lattice(pull)
    g1 = data.sums.by_lattice(pull * arm) - b * B_RESTRAINT**-2
    log_g_step = c00 * g0 + c01 * g1
    b_step = c01 * g0 + c11 * g1
    step = np.stack([log_g_step, b_step], axis=1)

    own = obs.lattice
    spread = c00[own] + 2.0 * c01[own] * arm + c11[own] * arm**2
    leverage = np.minimum(information * spread, LARGEST_LEVERAGE)
    return np.clip(step, -STEP_MAX, STEP_MAX), leverage


def _covariance(
    data: _Data, curvature: np.ndarray, arm: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the inverse of each lattice's Hessian, its elements 00, 01, 11 each (lattice,).

    curvature: (observation,) information about ln G; arm: (observation,) dk/dB / dk/d ln G. Where B
    is not refined its elements are 0.
    """
    h00 = np.maximum(data.sums.by_lattice(curvature), 1e-300)
    if not data.refine_b:
        zero = np.zeros_like(h00)
        return 1.0 / h00, zero, zero
    h01 = data.sums.by_lattice(curvature * arm)
    h11 = data.sums.by_lattice(curvature * arm**2) + B_RESTRAINT**-2
    determinant = h00 * h11 - h01**2
    return h11 / determinant, -h01 / determinant, h00 / determinant


def _prior(total: np.ndarray, count: np.ndarray, unique: Unique) -> _Estimate:
    """Return Wilson's (1949) distribution of intensities in each shell, mean Σ total / Σ count, for
    every unique reflection. total, count: (unique,).

    The variance is mean² for acentric and 2 mean² for centric reflections.
    """
    shell_total = np.bincount(unique.shell, total)
    shell_count = np.bincount(unique.shell, count)
    overall = max(shell_total.sum(), 0.0) / shell_count.sum()

    divisor = np.where(shell_count > 0, shell_count, 1.0)
    shell_mean = shell_total / divisor
    shell_mean = np.maximum(shell_mean, LEAST_SHELL_MEAN * overall)
    mean = shell_mean[unique.shell]
    relative_variance = np.where(unique.friedel == 0, 2.0, 1.0)
    return _Estimate(mean, 1.0 / (relative_variance * mean**2))


def _target(obs: Observations, sums: Sums, reference: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the reference (unique,) brought to the scale of the raw photons, and the factor this
    took.
    """
    intensity = reference[obs.unique]
    is_known = ~np.isnan(intensity)
    expected, photons = sums.over_observations(
        np.where(is_known, intensity, 0.0) * obs.factor,
        is_known * obs.intensity,
    )
    ratio = photons / expected
    return reference * ratio, ratio
