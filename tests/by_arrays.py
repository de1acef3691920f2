"""Scaling as calls on whole columns of observations, the reference of the compiled loops: what they
go through one observation at a time is here written as equations of arrays.
"""

from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.merging import error_model, intensity_estimates, scaling
from spreadflow.analysis.merging.error_model import PARTIALITY_FLOOR, ErrorModel
from spreadflow.analysis.merging.loops import HUBER, LARGEST_CHANGE_OF_LOG, LARGEST_LEVERAGE
from spreadflow.analysis.merging.merging import Observations, Sums, Unique
from spreadflow.analysis.merging.scaling import (
    EXPECTED_SPREAD,
    RELAXATION,
    STEP_MAX,
    TOLERANCE,
    UNKNOWNS,
    Scaling,
)

PAIRS = tuple(combinations_with_replacement(range(len(UNKNOWNS)), 2))
"""Pairs of unknowns that a symmetric matrix has elements of."""


class Terms(NamedTuple):
    """The components of an observation's variance; each (observation,), photons²."""

    counting: np.ndarray
    """σ², with the photons expected in place of those counted"""
    photons: np.ndarray
    """m"""
    squared: np.ndarray
    """m²"""
    partial: np.ndarray
    """g m²"""


def variance_of(model: ErrorModel, terms: Terms) -> np.ndarray:
    """Return the variance, photons², (observation,)."""
    from_sb = model.sb**2 * terms.photons
    from_sadd = model.sadd**2 * terms.squared
    from_spart = model.spart**2 * terms.partial
    return model.sfac**2 * (terms.counting + from_sb + from_sadd + from_spart)


def terms_of(obs: Observations, k: np.ndarray, mean: np.ndarray) -> Terms:
    """Return what the variances are made of, from photons per intensity k (observation,) and mean
    intensities (unique,).
    """
    m = k * np.maximum(mean[obs.unique], 0.0)
    partiality = np.clip(obs.partiality, PARTIALITY_FLOOR, 1.0)
    g = 1.0 / partiality - 1.0 + np.log(partiality)
    return Terms(
        counting=obs.variance + m,
        photons=m,
        squared=m**2,
        partial=g * m**2,
    )


def fit_error_model(
    components: Terms,
    residual: np.ndarray,
    extra: np.ndarray,
    leverage: np.ndarray,
    has_others: np.ndarray,
    model: ErrorModel,
    sums: Sums,
) -> ErrorModel:
    """Return one step of Fisher scoring for the likelihood of the residuals from what all other
    observations say.

    components: as from `terms`; all others (observation,): residual: photons − k·(mean of the
    others); extra: variance of that mean, photons²; leverage: of the observation in its lattice's
    scale; has_others: bool, there are others that say something. The variance is linear in (sfac²,
    sfac² sb², sfac² sadd², sfac² spart²), so a scoring step is the linear regression of
    residual²/(1 − leverage) − extra on the components with weights 1/v². A residual counts as at
    most `HUBER` standard deviations. Collective.
    """
    variance = variance_of(model, components) + extra
    largest = HUBER**2 * variance
    square = np.minimum(residual**2 / (1.0 - leverage), largest) - extra
    scaled = [np.where(has_others, component / variance, 0.0) for component in components]

    pairs = [(i, j) for i in range(4) for j in range(i, 4)]
    products = [scaled[i] * scaled[j] for i, j in pairs]
    products += [component * square / variance for component in scaled]
    totals = sums.by_unique(*products).sum(axis=1)
    return error_model.fit(totals)


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
    design: np.ndarray
    """(observation, 5) d ln k / d unknown, stored column by column"""
    is_repeated: np.ndarray
    """(observation,) bool: another observation is of the same reflection, not of its mate, whose
    difference is in part anomalous
    """
    target: np.ndarray | None
    """(unique,) intensity of the reference on the scale of the data, NaN = unknown; None = no
    reference
    """


class _State(NamedTuple):
    """The parameters, which change from cycle to cycle."""

    unknowns: np.ndarray
    """(lattice, 5)"""
    variance: np.ndarray
    """(lattice, 5) of the unknowns"""
    model: ErrorModel
    prior: _Estimate
    """(unique,) Wilson's"""
    measured: _Estimate
    """(unique,) the mate and all observations"""
    expected: np.ndarray
    """(unique,) intensity by prior, mate and all observations, from which variances are"""
    own: _Estimate
    """(observation,) what the observation itself brought into the posterior"""
    robust: np.ndarray
    """(observation,) 0-1: the share of its weight that an observation keeps"""
    spread: np.ndarray
    """(5,) standard deviations of the unknowns among lattices"""
    leverage: np.ndarray
    """(observation,) 0-1: how much of the square of its residual the unknowns of lattices take away
    """
    scale_variance: np.ndarray
    """(observation,) relative variance of k, from that of the unknowns"""
    past: tuple = ()
    """as in `scaling`"""


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
    """Scale and tilt every lattice, alternating with merging and the error model.

    reference: (unique,) intensities the scales are taken against instead of the merged ones (mark0:
    the slope through the origin; NaN = unknown). Without a reference mean ln G and mean B are 0.
    Cycles end when ln G moves by less than `tolerance` of its standard deviation, r.m.s. Collective
    through `sums`.
    """
    photons, factor = sums.by_unique(obs.intensity, obs.factor)
    prior = intensity_estimates.wilson_prior(photons, factor, unique)
    target, ratio = (None, 1.0) if reference is None else scaling._target(obs, sums, reference)
    by_b = -2.0 * obs.s2 if refine_b else np.zeros(len(obs.s2))
    design = np.asfortranarray(np.column_stack([np.ones(len(obs.s2)), by_b, obs.slopes]))
    (count,) = sums.by_unique(np.ones(len(obs.unique)))
    data = _Data(obs, sums, unique, design, count[obs.unique] > 1, target)
    zeros = np.zeros(len(obs.lattice))
    state = _State(
        unknowns=np.zeros((obs.n_lattices, len(UNKNOWNS))),
        variance=np.ones((obs.n_lattices, len(UNKNOWNS))),
        model=ErrorModel(),
        prior=prior,
        measured=_Estimate(np.zeros(len(unique)), np.zeros(len(unique))),
        expected=prior.mean,
        own=_Estimate(zeros, zeros),
        robust=np.ones(len(zeros)),
        spread=EXPECTED_SPREAD,
        leverage=zeros,
        scale_variance=zeros,
    )
    change = np.inf
    cycle = 0
    while cycle < n_cycles and change > tolerance:
        state, change = _cycle(data, state, is_first=cycle == 0)
        cycle += 1

    return _result(data, state, ratio)._replace(n_cycles=cycle, last_change=change)


def _result(data: _Data, state: _State, ratio: float) -> Scaling:
    """Return the scales as they are, before any cycle is counted. ratio: of the scale of the raw
    photons to the reference's.
    """
    obs = data.obs
    k = _photons_per_intensity(data, state)
    others = _without_own(state, obs.unique)
    of_model = variance_of(state.model, terms_of(obs, k, state.expected))
    share = _share_kept(obs, k, of_model, others)
    m = k * np.maximum(state.expected[obs.unique], 0.0)
    variance = of_model / share**2 + state.scale_variance * m**2

    on_reference = k * ratio
    unknowns = state.unknowns.copy()
    unknowns[:, 0] += np.log(ratio)
    return Scaling(
        unknowns=unknowns,
        sigmas=np.sqrt(state.variance),
        spread=state.spread,
        error_model=state.model,
        intensity=obs.intensity / on_reference,
        sigma=np.sqrt(variance) / on_reference,
        chi2=_chi2(data, state, k, of_model, others),
        n_cycles=0,
        last_change=np.inf,
    )


def _cycle(data: _Data, state: _State, is_first: bool) -> tuple[_State, float]:
    """Judge every observation by the others, move the error model and the scales, merge.

    Returns the new state, and the r.m.s. change of ln G in its standard deviations.
    """
    obs = data.obs
    sums = data.sums
    k = _photons_per_intensity(data, state)
    terms = terms_of(obs, k, state.expected)
    others = _without_own(state, obs.unique)
    residual = obs.intensity - k * others.mean
    extra = k**2 / others.precision
    if not is_first:
        has_others = data.is_repeated & _has_others(others, state, obs.unique)
        model = fit_error_model(
            terms, residual, extra, state.leverage, has_others, state.model, sums
        )
        state = state._replace(model=model)

    variance = variance_of(state.model, terms)
    state = state._replace(robust=_share_kept(obs, k, variance, others))

    if data.target is None:
        step = _step_to_others(data, state, k, variance, others)
    else:
        step = _step_to_target(data, data.target, state, k)
    leverage = _leverage(data, state, step.scale_variance, k, variance, others)
    change, past = step.change, ()
    if not is_first and data.target is None:
        change, past = scaling.extrapolated(sums, state.past, state.unknowns, change, step.variance)
    moved = state._replace(
        unknowns=state.unknowns + change,
        past=past,
        variance=step.variance,
        leverage=leverage,
        scale_variance=step.scale_variance,
    )
    moved = moved._replace(spread=scaling._spread(data, moved))
    (mean_square,) = scaling._mean(data, step.change[:, :1] ** 2 / step.variance[:, :1])
    return _merge(data, moved), float(np.sqrt(mean_square))


def _photons_per_intensity(data: _Data, state: _State) -> np.ndarray:
    """Return k = G exp(−2 B s²)·factor·exp(slopes·tilt), (observation,)."""
    unknowns = state.unknowns[data.obs.lattice]
    of_scale = (data.design[:, :2] * unknowns[:, :2]).sum(axis=1)
    of_tilt = (data.design[:, 2:] * unknowns[:, 2:]).sum(axis=1)
    of_tilt = np.clip(of_tilt, -LARGEST_CHANGE_OF_LOG, LARGEST_CHANGE_OF_LOG)
    return np.exp(of_scale + of_tilt) * data.obs.factor


def _by_lattice(obs: Observations, column: np.ndarray) -> np.ndarray:
    """Return sums of a column (observation,) over the reflections of each lattice, (lattice,)."""
    return np.bincount(obs.lattice, column, minlength=obs.n_lattices)


def _share_kept(obs: Observations, k, variance, others: _Estimate) -> np.ndarray:
    """Return the share of its weight that each observation keeps, (observation,): all of it up to
    `HUBER` standard deviations from what all others say, less in proportion beyond.
    """
    residual = obs.intensity - k * others.mean
    limit = HUBER * np.sqrt(variance + k**2 / others.precision)
    return np.minimum(1.0, limit / np.maximum(np.abs(residual), 1e-300))


def _has_others(others: _Estimate, state: _State, unique: np.ndarray) -> np.ndarray:
    """Return whether other observations say anything about each one, (observation,) bool."""
    return others.precision > 2.0 * state.prior.precision[unique]


def _chi2(data: _Data, state: _State, k, variance, others: _Estimate) -> np.ndarray:
    """Return the mean squared deviation of each lattice from what others measured, (lattice,)."""
    obs = data.obs
    has_others = _has_others(others, state, obs.unique)
    square = (obs.intensity - k * others.mean) ** 2 / (variance + k**2 / others.precision)
    total = _by_lattice(obs, np.where(has_others, square, 0.0))
    count = _by_lattice(obs, has_others.astype(np.float64))
    return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)


def _with_prior(prior: _Estimate, measured: _Estimate) -> _Estimate:
    """Return what prior and measurements say together.

    Wilson's distribution is no Gaussian: where measurements contradict it by more than a standard
    deviation, its precision falls with the square of the contradiction.
    """
    is_measured = measured.precision > 0
    precision = np.where(is_measured, measured.precision, 1.0)
    difference = np.where(is_measured, measured.mean - prior.mean, 0.0)
    contradiction = difference**2 / (1.0 / prior.precision + 1.0 / precision)
    of_prior = prior.precision / np.maximum(contradiction, 1.0)

    total = of_prior + measured.precision
    mean = (of_prior * prior.mean + measured.precision * measured.mean) / total
    return _Estimate(mean, total)


def _without_own(state: _State, unique: np.ndarray) -> _Estimate:
    """Return what the prior, the mate and all other observations say about the intensity of each
    observation, (observation,). unique: row of the intensity.
    """
    own = state.own
    total = state.measured.precision[unique]
    weighted = state.measured.mean[unique] * total - own.mean * own.precision
    precision = total - own.precision
    precision = np.where(precision > 1e-9 * total, precision, 0.0)
    mean = weighted / np.where(precision > 0, precision, 1.0)
    prior = _Estimate(*(column[unique] for column in state.prior))
    return _with_prior(prior, _Estimate(mean, precision))


def _merge(data: _Data, state: _State) -> _State:
    """Return the state with prior and posterior of all intensities at the present scales."""
    obs = data.obs
    k = _photons_per_intensity(data, state)
    variance = variance_of(state.model, terms_of(obs, k, state.expected))
    own = _Estimate(
        mean=obs.intensity / k,
        precision=state.robust * k**2 / variance,
    )
    weighted, precision = data.sums.by_unique(own.mean * own.precision, own.precision)

    is_measured = precision > 0
    divisor = np.where(is_measured, precision, 1.0)
    merged = np.where(is_measured, weighted / divisor, 0.0)
    prior = intensity_estimates.wilson_prior(merged, is_measured, data.unique, 1.0 / divisor)
    mate = intensity_estimates.of_mates(_Estimate(merged, precision), prior, data.unique)
    total = mate.precision + precision
    mean = (mate.mean * mate.precision + weighted) / np.where(total > 0, total, 1.0)
    measured = _Estimate(mean, total)
    return state._replace(
        prior=prior,
        measured=measured,
        expected=intensity_estimates.expected_of(_with_prior(prior, measured), mate, data.unique),
        own=own,
    )


def _leverage(
    data: _Data, state: _State, scale_variance, k, variance, others: _Estimate
) -> np.ndarray:
    """Return how much of the square of its residual each observation loses, (observation,), because
    the unknowns of its lattice were fitted to it, and those of the other lattices in `others` too.
    """
    unique = data.obs.unique
    of_scale = scale_variance * np.maximum(state.expected[unique], 0.0) ** 2
    weighted = state.own.precision**2 * of_scale
    (total,) = data.sums.by_unique(weighted)
    of_others = np.maximum(total[unique] - weighted, 0.0) / others.precision**2
    share = k**2 * (of_scale + of_others) / (variance + k**2 / others.precision)
    return np.minimum(share, LARGEST_LEVERAGE)


class _Step(NamedTuple):
    """A step of all lattices' unknowns."""

    change: np.ndarray
    """(lattice, 5)"""
    variance: np.ndarray
    """(lattice, 5) of the unknowns, by the observations and the spread among lattices"""
    scale_variance: np.ndarray
    """(observation,) relative variance of k"""


def _step_to_others(data: _Data, state: _State, k, variance, others: _Estimate) -> _Step:
    """Return the step towards what the others say, of mean 0.

    All lattices move at once, and two that share a reflection would both cover the whole distance
    between them: the curvature is multiplied by 1 + (own weight / weight of the others), at most 2,
    which bounds the step from above.
    """
    total_variance = variance / state.robust + k**2 / others.precision
    relative_weight = state.own.precision / others.precision
    damping = 1.0 + np.minimum(1.0, relative_weight)
    step = _step(data, state, k * others.mean, 1.0 / total_variance, damping)

    change = RELAXATION * step.change
    change[:, :2] -= scaling._mean(data, change[:, :2])
    return step._replace(change=change)


def _step_to_target(data: _Data, target: np.ndarray, state: _State, k) -> _Step:
    """Return the step towards the reference.

    The variance is that of the photons the reference expects: weights that knew the merged
    intensity would favour whatever is measured lower than the reference has it.
    """
    unique = data.obs.unique
    mean = np.nan_to_num(target)
    variance = variance_of(state.model, terms_of(data.obs, k, mean))
    is_unknown = np.isnan(target)[unique]
    weight = np.where(is_unknown, 0.0, state.robust / variance)
    return _step(data, state, k * mean[unique], weight, 1.0)


def _step(data: _Data, state: _State, photons, weight, damping) -> _Step:
    """Return the Gauss-Newton step of all unknowns, with d(photons)/d unknown = photons·design.

    photons, weight, damping: (observation,) expected photons, 1/variance, factor on the curvature,
    of which a lattice takes the mean.
    """
    design = data.design
    n = len(UNKNOWNS)
    information = weight * photons**2
    pull = weight * photons * (data.obs.intensity - photons)
    restraint = state.spread**-2.0
    away = state.unknowns - scaling._mean_unknowns(data, state)

    slope = np.stack([_by_lattice(data.obs, pull * column) for column in design.T], axis=1)
    slope -= away * restraint
    hessian = np.empty((len(slope), n, n))
    for i, j in PAIRS:
        hessian[:, i, j] = _by_lattice(data.obs, information * design[:, i] * design[:, j])
        hessian[:, j, i] = hessian[:, i, j]
    hessian += np.diag(restraint)

    covariance = np.linalg.inv(hessian)
    total = np.maximum(_by_lattice(data.obs, information), 1e-300)
    mean_damping = np.maximum(_by_lattice(data.obs, damping * information) / total, 1.0)
    change = (covariance @ slope[:, :, None])[:, :, 0] / mean_damping[:, None]

    scale_variance = np.zeros(len(design))
    for i, j in PAIRS:
        times = 1.0 if i == j else 2.0
        of_pair = times * covariance[:, i, j]
        scale_variance += of_pair[data.obs.lattice] * design[:, i] * design[:, j]
    return _Step(
        np.clip(change, -STEP_MAX, STEP_MAX),
        np.diagonal(covariance, axis1=1, axis2=2),
        scale_variance,
    )
