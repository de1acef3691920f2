"""Scales of lattices without a reference, and what their predicted partialities got wrong:
photons = k·I with k = G exp(−2 B s²)·factor·exp(slopes·tilt), s = 1/(2d).

Block coordinate descent on the profile likelihood (the unique intensities eliminated): a lattice is
fitted to what all others say about its reflections, I₋ with variance V₋, and the weight of a
reflection is 1/(v + k² V₋). Before anything is measured I₋ is Wilson's distribution in the shell,
so a reflection nobody else has seen still says a little, and nothing depends on the multiplicity
being high. What was measured of the Friedel mate counts too, as far as anomalous differences allow.

A lattice has five unknowns: ln G, B, rotations about x and y and ln of the width of its nodes, the
last three as changes from the refinement of its spots (post-refinement, with ln k linear in all of
them). Each is normally distributed among lattices, with a standard deviation that is found from the
lattices themselves (MacKay 1992, Neural Comput. 4, 415): a lattice whose few reflections do not
tell its B gets that of the others.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.merging import error_model, loops, step_loops
from spreadflow.analysis.merging.error_model import ErrorModel
from spreadflow.analysis.merging.intensity_estimates import (
    Estimate,
    expected_of,
    of_mates,
    wilson_prior,
    with_prior,
)
from spreadflow.analysis.merging.merging import Observations, Sums, Unique
from spreadflow.units import DEG

UNKNOWNS = ("log_g", "b", "about_x", "about_y", "log_width")
"""Unknowns of a lattice: ln G, B (Å²), rotations (rad), ln of the width of its nodes."""

EXPECTED_SPREAD = np.array([0.5, 3.0, 0.005 * DEG, 0.005 * DEG, 0.1])
"""Standard deviations of the unknowns among lattices, before anything is known about them."""

N_EXPECTED = 1.0
"""Number of lattices that `EXPECTED_SPREAD` counts for."""

LEAST_SPREAD = np.array([0.02, 0.1, 1e-4 * DEG, 1e-4 * DEG, 1e-3])
"""Least standard deviations of the unknowns: they decide nothing below, and must not vanish."""

HAS_MEAN = np.array([True, True, False, False, True])
"""Whether an unknown has a mean among lattices other than 0; those of ln G and B are taken off."""

STEP_MAX = np.array([1.0, 10.0, 0.01 * DEG, 0.01 * DEG, 0.2])
"""Largest change of the unknowns in one cycle."""

TOLERANCE = 1e-2
"""Cycles end when a step of ln G is shorter than this many standard deviations, r.m.s. over
lattices. As steps anticipate the next ones, scales are then about three such steps from where they
would end, a few hundredths of their standard deviations.
"""

START_EVERY = 11
"""Where observations are many, only every so manieth group is scaled at first."""

LEAST_AT_START = 10.0
"""Observations of a reflection at the start, on average, from which on its intensities are worth
their time.
"""

LARGEST_START = 0.2
"""Share of all observations up to which a start is worth its time; of few groups it has more."""

LARGEST_FIRST_LOG_G = 3.0
"""Largest |ln G| that the photons of a lattice are believed as a whole."""

START_TOLERANCE = 0.1
"""`TOLERANCE` of the start: a reflection has fewer observations there, of larger deviations."""

RELAXATION = 0.8
"""Share of a step towards the others that is taken: two lattices that share their strongest
reflections would otherwise go back and forth.
"""

N_PAST = 3
"""Cycles whose steps towards the others are extrapolated from. Steps of all lattices and the
intensities that they move follow each other slowly, by a seventh a cycle where reflections were
measured few times.
"""

LEAST_DIFFERENCE = 1e-6
"""Differences of steps that are this nearly parallel are taken as one, relative to their squares.
"""


class Scaling(NamedTuple):
    """The scales of lattices. Lattices and observations are those handed in (this rank's)."""

    unknowns: np.ndarray
    """(lattice, 5) `UNKNOWNS`"""
    sigmas: np.ndarray
    """(lattice, 5) their standard deviations"""
    spread: np.ndarray
    """(5,) standard deviations among lattices"""
    error_model: ErrorModel
    intensity: np.ndarray
    """(observation,) I on the common scale"""
    sigma: np.ndarray
    """(observation,) its standard deviation by the error model and by the unknowns of its lattice;
    larger for outliers
    """
    chi2: np.ndarray
    """(lattice,) mean squared deviation, in standard deviations, from what others measured; NaN
    where nobody else measured anything of it
    """
    n_cycles: int
    last_change: float
    """r.m.s. step of ln G in the last cycle, not extrapolated, in its standard deviations"""

    @property
    def log_g(self) -> np.ndarray:
        """(lattice,) ln G"""
        return self.unknowns[:, 0]

    @property
    def b(self) -> np.ndarray:
        """(lattice,) B, Å²"""
        return self.unknowns[:, 1]


class _Data(NamedTuple):
    """The data, which do not change from cycle to cycle."""

    observed: loops.Observed
    sums: Sums
    unique: Unique
    has_target: bool
    """whether there is a reference"""


class Past(NamedTuple):
    """A cycle that has been; each (lattice, 5)."""

    unknowns: np.ndarray
    """at its start"""
    change: np.ndarray
    """the step from there, not extrapolated"""


class _State(NamedTuple):
    """The parameters, which change from cycle to cycle."""

    unknowns: np.ndarray
    """(lattice, 5)"""
    covariance: np.ndarray
    """(lattice, 5, 5) of the unknowns"""
    model: ErrorModel
    spread: np.ndarray
    """(5,) standard deviations of the unknowns among lattices"""
    uniques: np.ndarray
    """(unique, 8) columns as `loops` has them"""
    kept: loops.Kept
    """changed in place"""
    past: tuple[Past, ...] = ()
    """the last cycles, the first one apart, from which steps are extrapolated"""

    @property
    def variance(self) -> np.ndarray:
        """(lattice, 5) of the unknowns."""
        return np.diagonal(self.covariance, axis1=1, axis2=2)


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
    Cycles end when a step of ln G, not extrapolated, is shorter than `tolerance` of its standard
    deviation, r.m.s. Collective through `sums`.
    """
    target, ratio = None, 1.0
    if reference is not None:
        target, ratio = _target(obs, sums, reference)
    data = _Data(_observed(obs, refine_b), sums, unique, target is not None)
    n = (obs.n_lattices, len(UNKNOWNS))
    state = _State(
        unknowns=np.zeros(n),
        covariance=np.tile(np.diag(EXPECTED_SPREAD**2), (obs.n_lattices, 1, 1)),
        model=ErrorModel(),
        spread=EXPECTED_SPREAD,
        uniques=_uniques(obs, sums, unique, target),
        kept=loops.Kept(np.array(obs.factor), *np.zeros((2, len(obs.unique)), obs.factor.dtype)),
    )
    subset = data._replace(sums=sums.of_every(START_EVERY))
    if _is_worth_a_start(data, subset):
        state = _converged(subset, state, n_cycles, START_TOLERANCE).state
        state = _with_scales(data, state, ~subset.sums.counts)
    found = _converged(data, state, n_cycles, tolerance)
    result = _result(data, found.state, ratio)
    return result._replace(n_cycles=found.n_cycles, last_change=found.last_change)


def _is_worth_a_start(data: _Data, subset: _Data) -> bool:
    """Return whether to find the scales of a subset of the data first. Collective."""
    of_lattices = np.diff(data.observed.first)
    (n_all,) = data.sums.over_lattices(of_lattices)
    (n_some,) = subset.sums.over_lattices(of_lattices)
    is_enough = n_some >= LEAST_AT_START * len(data.unique)
    return bool(is_enough and n_some <= LARGEST_START * n_all and not data.has_target)


def _with_scales(data: _Data, state: _State, is_new: np.ndarray) -> _State:
    """Return the state with ln G of new lattices from the photons of all their reflections, of mean
    0, before a step weighs them. is_new: (lattice,). Collective.
    """
    photons, expected = step_loops.totals(data.observed, state.kept, state.uniques).T
    limits = np.exp([-LARGEST_FIRST_LOG_G, LARGEST_FIRST_LOG_G])
    ratio = np.divide(photons, expected, out=np.ones_like(photons), where=expected > 0)
    log_g = np.where(is_new, np.log(np.clip(ratio, *limits)), 0.0)
    total, n_new = data.sums.over_lattices(log_g, is_new)
    log_g[is_new] -= total / n_new

    unknowns = state.unknowns.copy()
    unknowns[:, 0] += log_g
    k = state.kept.k
    k *= np.repeat(np.exp(log_g).astype(k.dtype), np.diff(data.observed.first))
    return state._replace(unknowns=unknowns)


class _Cycles(NamedTuple):
    """Cycles that have been, as in `Scaling`."""

    state: _State
    n_cycles: int
    last_change: float


def _converged(data: _Data, state: _State, n_cycles: int, tolerance: float) -> _Cycles:
    """Return the state after cycles, as many as `scale` says."""
    state = state._replace(past=())
    change = np.inf
    cycle = 0
    while cycle < n_cycles and change > tolerance:
        state, change = _cycle(data, state, is_first=cycle == 0)
        cycle += 1
    return _Cycles(state, cycle, change)


def _observed(obs: Observations, refine_b: bool) -> loops.Observed:
    """Return the observations as loops take them. refine_b: whether B is an unknown at all."""
    bounds = np.arange(obs.n_lattices + 1)
    dtype = obs.intensity.dtype
    by_b = np.multiply(obs.s2, -2.0, dtype=dtype) if refine_b else np.zeros(len(obs.s2), dtype)
    return loops.Observed(
        first=np.searchsorted(obs.lattice, bounds),
        unique=np.ascontiguousarray(obs.unique, np.int32),
        intensity=np.ascontiguousarray(obs.intensity),
        variance=np.ascontiguousarray(obs.variance, dtype),
        factor=np.ascontiguousarray(obs.factor, dtype),
        partial=error_model.partial(obs.partiality).astype(dtype),
        by_b=by_b,
        slopes=np.ascontiguousarray(obs.slopes, np.float32),
    )


def _uniques(
    obs: Observations, sums: Sums, unique: Unique, target: np.ndarray | None
) -> np.ndarray:
    """Return what is known of each unique reflection before any cycle, as loops take it. target:
    (unique,) intensity of the reference on the scale of the data, NaN = unknown.
    """
    one = np.broadcast_to(1.0, len(obs.unique))
    photons, factor, count = sums.by_unique(obs.intensity, obs.factor, one)
    prior = wilson_prior(photons, factor, unique)
    uniques = np.zeros((len(unique), 8))
    uniques[:, loops.PRIOR] = prior.mean
    uniques[:, loops.PRIOR_PRECISION] = prior.precision
    uniques[:, loops.EXPECTED] = prior.mean
    uniques[:, loops.IS_REPEATED] = count > 1
    uniques[:, loops.TARGET] = np.nan if target is None else target
    return uniques


def _result(data: _Data, state: _State, ratio: float) -> Scaling:
    """Return the scales as they are, before any cycle is counted. ratio: of the scale of the raw
    photons to the reference's.
    """
    squares = state.model.squares
    sigma, chi2 = loops.result(data.observed, state.kept, state.uniques, squares, state.covariance)
    on_reference = state.kept.k
    on_reference *= ratio
    sigma /= on_reference
    unknowns = state.unknowns.copy()
    unknowns[:, 0] += np.log(ratio)
    return Scaling(
        unknowns=unknowns,
        sigmas=np.sqrt(state.variance),
        spread=state.spread,
        error_model=state.model,
        intensity=np.divide(data.observed.intensity, on_reference, out=on_reference),
        sigma=sigma,
        chi2=chi2,
        n_cycles=0,
        last_change=np.inf,
    )


def _cycle(data: _Data, state: _State, is_first: bool) -> tuple[_State, float]:
    """Judge every observation by the others, move the error model and the scales, merge.

    Returns the new state, and the r.m.s. step of ln G, not extrapolated, in standard deviations.
    """
    if not is_first:
        state = state._replace(model=_error_model(data, state))
    change, covariance = _step(data, state)
    moved = state._replace(covariance=covariance)
    (mean_square,) = _mean(data, change[:, :1] ** 2 / moved.variance[:, :1])
    if not (is_first or data.has_target):
        change, past = extrapolated(data.sums, state.past, state.unknowns, change, moved.variance)
        moved = moved._replace(past=past)
    is_moved = data.sums.counts[:, None]
    moved = moved._replace(unknowns=state.unknowns + np.where(is_moved, change, 0.0))
    moved = moved._replace(spread=_spread(data, moved))
    return _merge(data, moved), float(np.sqrt(mean_square))


def extrapolated(
    sums: Sums,
    past: tuple[Past, ...],
    unknowns: np.ndarray,
    change: np.ndarray,
    variance: np.ndarray,
) -> tuple[np.ndarray, tuple[Past, ...]]:
    """Return a change of the unknowns that anticipates the next ones, and the cycles to go on from.
    Collective.

    Anderson's (1965, J. ACM 12, 547) mixing: the combination of the last cycles whose step is the
    shortest, in standard deviations, and from there that step. Where a step is longer than that of
    the cycle before, what was is forgotten. All (lattice, 5): unknowns, the step from there, and
    the variances of the unknowns.
    """
    past = (*past, Past(unknowns, change))[-N_PAST:]
    pairs = list(pairwise(past))
    steps = [change, *(after.change - before.change for before, after in pairs)]
    moves = [after.unknowns - before.unknowns for before, after in pairs]
    weighted = [step / variance for step in steps]
    products = [np.einsum("lu,lu->l", step, other) for step in steps for other in weighted]
    n = len(steps)
    gram = sums.over_lattices(*products).reshape(n, n)
    if n == 1:
        return change, past
    # |change − difference|² is the square of the step of the cycle before
    if gram[0, 0] > gram[0, 0] - 2.0 * gram[0, -1] + gram[-1, -1]:
        return change, past[-1:]

    shares, *_ = np.linalg.lstsq(gram[1:, 1:], gram[1:, 0], rcond=LEAST_DIFFERENCE)
    anticipated = change.copy()
    for share, move, step in zip(shares, moves, steps[1:], strict=True):
        anticipated -= share * (move + step)
    anticipated = np.clip(anticipated, -STEP_MAX, STEP_MAX)
    mean = sums.over_lattices(*anticipated[:, :2].T, np.ones(len(anticipated)))
    anticipated[:, :2] -= mean[:2] / mean[2]
    return anticipated, past


def _error_model(data: _Data, state: _State) -> ErrorModel:
    """Return the error model one step further."""
    squares = state.model.squares

    def of_group(first: int, last: int) -> np.ndarray:
        return loops.error_sums(data.observed, state.kept, state.uniques, squares, first, last)

    return error_model.fit(data.sums.of_groups(of_group, (loops.N_ERROR_SUMS,)))


def _merge(data: _Data, state: _State) -> _State:
    """Return the state with prior and posterior of all intensities at the present scales."""
    uniques = state.uniques
    squares = state.model.squares

    def add(table: np.ndarray, first: int, last: int) -> None:
        loops.move(data.observed, state.kept, uniques, squares, state.unknowns, table, first, last)

    weighted, precision = data.sums.by_unique_of_groups(add, 2)
    is_measured = precision > 0
    divisor = np.where(is_measured, precision, 1.0)
    merged = np.where(is_measured, weighted / divisor, 0.0)
    prior = wilson_prior(merged, is_measured, data.unique, 1.0 / divisor)
    mate = of_mates(Estimate(merged, precision), prior, data.unique)
    total = mate.precision + precision
    mean = (mate.mean * mate.precision + weighted) / np.where(total > 0, total, 1.0)
    measured = Estimate(mean, total)

    uniques = uniques.copy()
    uniques[:, loops.PRIOR] = prior.mean
    uniques[:, loops.PRIOR_PRECISION] = prior.precision
    uniques[:, loops.MEASURED] = mean
    uniques[:, loops.PRECISION] = total
    uniques[:, loops.EXPECTED] = expected_of(with_prior(prior, measured), mate, data.unique)
    return state._replace(uniques=uniques)


def _mean_unknowns(data: _Data, state: _State) -> np.ndarray:
    """Return the means of the unknowns over all lattices, (5,); 0 for those that have none."""
    return np.where(HAS_MEAN, _mean(data, state.unknowns), 0.0)


def _mean(data: _Data, values: np.ndarray) -> np.ndarray:
    """Return the means of columns of values (lattice, n) over all lattices, (n,). Collective."""
    n_lattices = data.sums.over_lattices(np.ones(len(values)))
    return data.sums.over_lattices(*values.T) / n_lattices


def _spread(data: _Data, state: _State) -> np.ndarray:
    """Return the standard deviations of the unknowns among lattices, (5,), one step nearer to the
    likeliest: squares over the number of lattices whose data tell the unknown.
    """
    away = state.unknowns - _mean_unknowns(data, state)
    well_determined = 1.0 - np.minimum(state.variance / state.spread**2, 1.0)
    squares = data.sums.over_lattices(*(away**2).T)
    n_determined = data.sums.over_lattices(*well_determined.T)
    expected = (squares + N_EXPECTED * EXPECTED_SPREAD**2) / (n_determined + N_EXPECTED)
    return np.maximum(np.sqrt(expected), LEAST_SPREAD)


def _step(data: _Data, state: _State) -> tuple[np.ndarray, np.ndarray]:
    """Return the change of the unknowns (lattice, 5), towards what the others say of mean 0, and
    their covariance (lattice, 5, 5). `OF_SCALES` of the state is filled.
    """
    n_lattices = len(state.unknowns)
    restraint = step_loops.Restraint(
        away=state.unknowns - _mean_unknowns(data, state), precision=state.spread**-2.0
    )
    out = step_loops.Step(change=np.zeros((n_lattices, len(UNKNOWNS))), covariance=state.covariance)
    common = (data.observed, state.kept, state.uniques, state.model.squares, data.has_target)

    def add(table: np.ndarray, first: int, last: int) -> None:
        step_loops.step(*common, restraint, out, table, first, last)

    (state.uniques[:, loops.OF_SCALES],) = data.sums.by_unique_of_groups(add, 1)
    change = np.clip(out.change, -STEP_MAX, STEP_MAX)
    if not data.has_target:
        change *= RELAXATION
        change[:, :2] -= _mean(data, change[:, :2])
    return change, out.covariance


def _target(obs: Observations, sums: Sums, reference: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the reference (unique,) brought to the scale of the raw photons, and the factor this
    took.
    """
    is_known = ~np.isnan(reference)
    photons, factor = sums.by_unique(obs.intensity, obs.factor)
    expected = reference[is_known] @ factor[is_known]
    photons = photons[is_known].sum()
    ratio = photons / expected
    return reference * ratio, ratio
