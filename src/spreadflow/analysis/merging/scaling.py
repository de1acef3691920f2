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


class Scaling(NamedTuple):
    """What `scale` found. Lattices and observations are those handed in (this rank's)."""

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


class _Known(NamedTuple):
    """What is known of intensities: mean and 1/variance, each (unique,) or (observation,)."""

    mean: np.ndarray
    precision: np.ndarray


class _Data(NamedTuple):
    """What does not change from cycle to cycle."""

    obs: Observations
    sums: Sums
    unique: Unique
    refine_b: bool
    target: np.ndarray | None
    """(unique,) intensity of the reference on the scale of the data, NaN = unknown; None = no
    reference
    """


class _State(NamedTuple):
    log_g: np.ndarray
    b: np.ndarray
    model: ErrorModel
    prior: _Known
    """(unique,) Wilson's"""
    posterior: _Known
    """(unique,) prior and all observations"""
    own: _Known
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
    tolerance: float = 1e-4,
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
    none = np.zeros(len(obs.lattice))
    n = obs.n_lattices
    state = _State(
        np.zeros(n), np.zeros(n), ErrorModel(), prior, prior, _Known(none, none), none + 1.0, none
    )
    change = np.inf
    cycle = 0
    while cycle < n_cycles and change > tolerance:
        state, change = _cycle(data, state, first=cycle == 0)
        cycle += 1
    k = _photons_per_intensity(obs, state)
    variance = state.model.variance(error_model.terms(obs, k, state.posterior.mean))
    k = k * ratio
    log_g = state.log_g + np.log(ratio)
    sigma = np.sqrt(variance / state.robust) / k
    return Scaling(log_g, state.b, state.model, obs.intensity / k, sigma, cycle, change)


def _cycle(data: _Data, state: _State, first: bool) -> tuple[_State, float]:
    """Judge every observation by the others, move the error model and the scales, merge."""
    obs = data.obs
    sums = data.sums
    k = _photons_per_intensity(obs, state)
    parts = error_model.terms(obs, k, state.posterior.mean)
    others = _without_own(state, obs.unique)
    residual = obs.intensity - k * others.mean
    extra = k**2 / others.precision
    if not first:
        measured = others.precision > 2.0 * state.prior.precision[obs.unique]
        state = state._replace(
            model=error_model.fit(
                parts, residual, extra, state.leverage, measured, state.model, sums
            )
        )
    variance = state.model.variance(parts)
    robust = HUBER * np.sqrt(variance + extra) / np.maximum(np.abs(residual), 1e-300)
    state = state._replace(robust=np.minimum(1.0, robust))
    if data.target is None:
        step, leverage = _step_to_others(data, state, k, variance, others)
    else:
        step, leverage = _step_to_target(data, data.target, state, k)
    moved = state._replace(
        log_g=state.log_g + step[:, 0], b=state.b + step[:, 1], leverage=leverage
    )
    square, count = sums.over_lattices(step[:, 0] ** 2, np.ones(len(step)))
    return _merge(data, moved), float(np.sqrt(square / count))


def _photons_per_intensity(obs: Observations, state: _State) -> np.ndarray:
    """Return (observation,) k."""
    return np.exp(state.log_g[obs.lattice] - 2.0 * state.b[obs.lattice] * obs.s2) * obs.factor


def _without_own(state: _State, unique: np.ndarray) -> _Known:
    """Return (observation,) what the prior and all other observations say about each observation's
    intensity.
    """
    total = state.posterior.precision[unique]
    precision = np.maximum(total - state.own.precision, 1e-9 * total)
    mean = (state.posterior.mean[unique] * total - state.own.mean * state.own.precision) / precision
    return _Known(mean, precision)


def _merge(data: _Data, state: _State) -> _State:
    """Return the state with prior and posterior of all intensities at the present scales."""
    obs = data.obs
    k = _photons_per_intensity(obs, state)
    variance = state.model.variance(error_model.terms(obs, k, state.posterior.mean))
    own = _Known(obs.intensity / k, state.robust * k**2 / variance)
    weighted, precision = data.sums.by_unique(own.mean * own.precision, own.precision)
    measured = precision > 0
    merged = np.where(measured, weighted / np.where(measured, precision, 1.0), 0.0)
    prior = _prior(merged, measured, data.unique)
    total = prior.precision + precision
    posterior = _Known((prior.mean * prior.precision + weighted) / total, total)
    return state._replace(prior=prior, posterior=posterior, own=own)


def _step_to_others(
    data: _Data, state: _State, k, variance, others: _Known
) -> tuple[np.ndarray, np.ndarray]:
    """Return (lattice, 2) step towards what the others say, of mean 0, and the leverage.

    All lattices move at once, and two that share a reflection would both cover the whole distance
    between them: the curvature is multiplied by 1 + (own weight / weight of the others), at most 2,
    which bounds the step from above.
    """
    weight = 1.0 / (variance / state.robust + k**2 / others.precision)
    damping = 1.0 + np.minimum(1.0, state.own.precision / others.precision)
    step, leverage = _step(data, k * others.mean, weight, damping, state.b)
    return step - data.sums.over_lattices(*step.T) / data.sums.over_lattices(
        np.ones(len(step))
    ), leverage


def _step_to_target(
    data: _Data, target: np.ndarray, state: _State, k
) -> tuple[np.ndarray, np.ndarray]:
    """Return (lattice, 2) step towards the reference, and the leverage.

    The variance is that of the photons the reference expects: weights that knew the merged
    intensity would favour whatever is measured lower than the reference has it.
    """
    mean = np.nan_to_num(target)
    variance = state.model.variance(error_model.terms(data.obs, k, mean))
    weight = np.where(np.isnan(target)[data.obs.unique], 0.0, state.robust / variance)
    return _step(data, k * mean[data.obs.unique], weight, 1.0, state.b)


def _step(data: _Data, photons, weight, damping, b) -> tuple[np.ndarray, np.ndarray]:
    """Return (lattice, 2) Gauss-Newton step of ln G and B, with d(photons)/d ln G = photons,
    d(photons)/dB = −2 s² photons.

    photons, weight, damping: (observation,) expected photons, 1/variance, factor on the curvature.
    Also returns the leverage (observation,), the diagonal of the hat matrix of each lattice's
    regression.
    """
    obs = data.obs
    sums = data.sums
    arm = -2.0 * data.obs.s2
    pull = weight * photons * (obs.intensity - photons)
    information = weight * photons**2
    curvature = damping * information
    h00, h01, h11 = (sums.by_lattice(c) for c in (curvature, curvature * arm, curvature * arm**2))
    g0 = sums.by_lattice(pull)
    g1 = sums.by_lattice(pull * arm) - b * B_RESTRAINT**-2
    h00 = np.maximum(h00, 1e-300)
    if data.refine_b:
        h11 = h11 + B_RESTRAINT**-2
        det = h00 * h11 - h01**2
        c00 = h11 / det
        c01 = -h01 / det
        c11 = h00 / det
    else:
        c00 = 1.0 / h00
        c01 = np.zeros_like(h00)
        c11 = np.zeros_like(h00)
    step = np.stack([c00 * g0 + c01 * g1, c01 * g0 + c11 * g1], axis=1)
    at = obs.lattice
    leverage = information * (c00[at] + 2.0 * c01[at] * arm + c11[at] * arm**2)
    return np.clip(step, -STEP_MAX, STEP_MAX), np.minimum(leverage, 0.9)


def _prior(total: np.ndarray, count: np.ndarray, unique: Unique) -> _Known:
    """Return Wilson's (1949) distribution of intensities in each shell, mean Σ total / Σ count, for
    every unique reflection.

    The variance is mean² for acentric and 2 mean² for centric reflections.
    """
    total, count = (np.bincount(unique.shell, column) for column in (total, count))
    overall = max(total.sum(), 0.0) / count.sum()
    mean = np.maximum(total / np.where(count > 0, count, 1.0), 1e-3 * overall)[unique.shell]
    return _Known(mean, 1.0 / (np.where(unique.friedel == 0, 2.0, 1.0) * mean**2))


def _target(obs: Observations, sums: Sums, reference: np.ndarray) -> tuple[np.ndarray, float]:
    """Return (unique,) the reference brought to the scale of the raw photons, and the factor this
    took.
    """
    here = reference[obs.unique]
    known = ~np.isnan(here)
    expected, photons = sums.over_observations(
        np.where(known, here, 0.0) * obs.factor, known * obs.intensity
    )
    return reference * (photons / expected), photons / expected
