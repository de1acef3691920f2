"""Compiled loops over the observations of a few lattices: what scales, the error model and the
merged intensities are summed from (`scaling`).

A loop goes twice over a lattice: what its observations say, one by one, and then sums, which run in
vector registers. Functions of one observation take numbers alone: an array handed on is counted,
which costs more than the arithmetic.

Each takes `Observed`, which does not change, `Kept`, what is kept of every observation from cycle
to cycle, and the lattices of a group, `first` to `last`. What all lattices say of each unique
reflection is a row of `uniques`, (unique, 8), so that it takes one line of the processor's cache.
Sums are formed in the order of observations.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.physics.compiling import compiled, inlined

PRIOR, PRIOR_PRECISION, MEASURED, PRECISION, EXPECTED, IS_REPEATED, TARGET, OF_SCALES = range(8)
"""Columns of `uniques`: mean and 1/variance of Wilson's distribution; mean and 1/variance of all
observations and of the mate; intensity that variances are taken from; whether more than one
observation is of the reflection itself; intensity of the reference, NaN = unknown; sum of
(1/variance)² · variance that its scale brings into each observation.
"""

N_UNKNOWNS = 5
"""Unknowns of a lattice."""

N_ERROR_SUMS = 14
"""Sums that the error model follows from: ten products of its four components, and four with the
square of the residual.
"""

LEAST_OTHERS = 1e-9
"""Share of the weight below which what remains without an observation is rounding."""

LARGEST_CHANGE_OF_LOG = 3.0
"""Largest |slopes·tilt|: beyond it, ln of a partiality is no longer linear in the tilt."""

LARGEST_LEVERAGE = 0.9
"""A lattice with hardly more observations than unknowns does not make their residuals infinite."""

HUBER = 4.0
"""Standard deviations beyond which an observation's pull no longer grows (Huber 1964); leaves
normal errors alone.
"""


class Observed(NamedTuple):
    """Observations, sorted by lattice."""

    first: np.ndarray
    """(lattice + 1,) int64, the first observation of each lattice, and the end"""
    unique: np.ndarray
    """(observation,) int32 row of `Unique`"""
    intensity: np.ndarray
    """(observation,) photons"""
    variance: np.ndarray
    """(observation,) photons², of everything but the signal's own photons"""
    factor: np.ndarray
    """(observation,) as in `merging.Observations`"""
    partial: np.ndarray
    """(observation,) g of the error model"""
    by_b: np.ndarray
    """(observation,) d ln k / d B"""
    slopes: np.ndarray
    """(observation, 3) float32, d ln k / d tilts and ln width"""


class Kept(NamedTuple):
    """What is kept of each observation from cycle to cycle; (observation,)."""

    k: np.ndarray
    """photons per intensity at the present scales"""
    precision: np.ndarray
    """1/variance that the observation brought into the intensity of its reflection"""
    leverage: np.ndarray
    """0-1: how much of the square of its residual the unknowns of lattices take away; from `step`
    to `move` the relative variance of k, which it is made of
    """
    others: np.ndarray
    """mean of what prior, mate and all other observations say about its intensity"""
    others_precision: np.ndarray
    """1/variance of that mean"""


@inlined
def _others(prior, of_prior, measured, total, own_mean, own_precision):
    """Return mean and 1/variance of what prior, mate and all other observations say about the
    intensity of an observation.

    Wilson's distribution is no Gaussian: where measurements contradict it by more than a standard
    deviation, its precision falls with the square of the contradiction.
    """
    precision = total - own_precision
    if precision <= LEAST_OTHERS * total:
        return prior, of_prior
    mean = (measured * total - own_mean * own_precision) / precision
    contradiction = (mean - prior) ** 2 * of_prior * precision / (of_prior + precision)
    of_prior /= max(contradiction, 1.0)
    both = of_prior + precision
    return (of_prior * prior + precision * mean) / both, both


@inlined
def _variance(model, m, rest, g):
    """Return the variance of an observation of m expected photons, photons².

    model: (4,) sfac² and sfac² times sb², sadd², spart².
    """
    return model[0] * (rest + m) + model[1] * m + (model[2] + model[3] * g) * m**2


@inlined
def _share(residual, variance):
    """Return the share of its weight that an observation keeps: all of it up to `HUBER` standard
    deviations from what all others say, less in proportion beyond.
    """
    if residual**2 <= HUBER**2 * variance:
        return 1.0
    return HUBER * np.sqrt(variance) / np.abs(residual)


@inlined
def _largest(first):
    """Return the number of observations of the largest lattice."""
    largest = 0
    for lattice in range(len(first) - 1):
        largest = max(largest, first[lattice + 1] - first[lattice])
    return largest


@inlined
def _dot(a, b, n):
    """Return the sum of the products of the first n elements."""
    total = 0.0
    for i in range(n):
        total += a[i] * b[i]
    return total


@compiled
def error_sums(observed, kept, uniques, model, first, last):
    """Return the sums (14,) of the normal equations of the error model, as `error_model.fit` takes
    them, and keep what the others say of each observation.

    They are those of the linear regression of residual²/(1 − leverage) − extra on the components of
    the variance with weights 1/v², v = variance + extra, extra that of the others' mean. A residual
    counts as at most `HUBER` standard deviations. An observation counts where others measured its
    reflection, not the mate alone, whose difference is in part anomalous.
    """
    bounds, unique, intensities, rests = observed[:4]
    partial = observed.partial
    ks, precisions, leverages, means, others = kept
    out = np.zeros(N_ERROR_SUMS)
    components = np.empty((5, _largest(bounds)))
    for lattice in range(first, last):
        n = 0
        for i in range(bounds[lattice], bounds[lattice + 1]):
            u = unique[i]
            k = ks[i]
            of_prior = uniques[u, PRIOR_PRECISION]
            mean, precision = _others(
                uniques[u, PRIOR],
                of_prior,
                uniques[u, MEASURED],
                uniques[u, PRECISION],
                intensities[i] / k,
                precisions[i],
            )
            means[i] = mean
            others[i] = precision
            if uniques[u, IS_REPEATED] == 0.0 or precision <= 2.0 * of_prior:
                continue
            extra = k**2 / precision
            m = k * max(uniques[u, EXPECTED], 0.0)
            variance = _variance(model, m, rests[i], partial[i]) + extra
            square = (intensities[i] - k * mean) ** 2 / (1.0 - leverages[i])
            square = min(square, HUBER**2 * variance) - extra
            scale = 1.0 / variance
            components[0, n] = (rests[i] + m) * scale
            components[1, n] = m * scale
            components[2, n] = m**2 * scale
            components[3, n] = partial[i] * m**2 * scale
            components[4, n] = square * scale
            n += 1

        place = 0
        for a in range(4):
            for b in range(a, 4):
                out[place] += _dot(components[a], components[b], n)
                place += 1
            out[10 + a] += _dot(components[a], components[4], n)
    return out


@inlined
def _inverted(matrix):
    """Invert a symmetric positive definite matrix (n, n) in place: Gauss-Jordan elimination, which
    needs no pivots there.
    """
    n = len(matrix)
    for p in range(n):
        pivot = 1.0 / matrix[p, p]
        matrix[p, p] = 1.0
        for j in range(n):
            matrix[p, j] *= pivot
        for i in range(n):
            if i != p:
                factor = matrix[i, p]
                matrix[i, p] = 0.0
                for j in range(n):
                    matrix[i, j] -= factor * matrix[p, j]


@inlined
def _fill_design(by_b, slopes, first, last, design):
    """Put the derivatives of ln k of observations first to last by the unknowns into the first
    columns of design (5, n).
    """
    for i in range(first, last):
        design[0, i - first] = 1.0
        design[1, i - first] = by_b[i]
        design[2, i - first] = slopes[i, 0]
        design[3, i - first] = slopes[i, 1]
        design[4, i - first] = slopes[i, 2]


@inlined
def _fill_scale_variance(design, covariance, out, n):
    """Put the relative variances of k of the first n observations into out. covariance: (5, 5) of
    the unknowns of the lattice.
    """
    out[:n] = 0.0
    for a in range(N_UNKNOWNS):
        for b in range(a + 1):
            factor = covariance[a, b] if a == b else 2.0 * covariance[a, b]
            for i in range(n):
                out[i] += factor * design[a, i] * design[b, i]


class Restraint(NamedTuple):
    """What is expected of the unknowns of a lattice."""

    away: np.ndarray
    """(lattice, 5) from the means of all lattices"""
    precision: np.ndarray
    """(5,) 1/variance among lattices"""


class Step(NamedTuple):
    """A step of the unknowns of all lattices, filled by `step`."""

    change: np.ndarray
    """(lattice, 5) Gauss-Newton step"""
    covariance: np.ndarray
    """(lattice, 5, 5) of the unknowns, by the observations and the spread among lattices"""


@inlined
def _to_target(k, target, robust, model, rest, g):
    """Return expected photons, weight and factor on the curvature of an observation in the step of
    its lattice towards the reference.

    The variance is that of the photons the reference expects: weights that knew the merged
    intensity would favour whatever is measured lower than the reference has it.
    """
    if np.isnan(target):
        return 0.0, 0.0, 1.0
    variance = _variance(model, k * max(target, 0.0), rest, g)
    return k * target, robust / variance, 1.0


@inlined
def _to_others(k, mean, precision, own_precision, robust, variance):
    """Return the same in the step towards the others.

    All lattices move at once, and two that share a reflection would both cover the whole distance
    between them: the curvature is multiplied by 1 + (own weight / weight of the others), at most 2,
    which bounds the step from above.
    """
    damping = 1.0 + min(1.0, own_precision / precision)
    return k * mean, 1.0 / (variance / robust + k**2 / precision), damping


@inlined
def _solve(information, pull, damping, design, n, away, precision, change, covariance):
    """Fill change (5,) and covariance (5, 5) of the unknowns of a lattice of n observations.

    information: weight·photons² of each; pull: weight·photons·residual; damping: (n,); away: (5,)
    of the unknowns from the means of all lattices, which have 1/variance `precision`.
    """
    slope = np.empty(N_UNKNOWNS)
    weighted = np.empty(n)
    for a in range(N_UNKNOWNS):
        slope[a] = _dot(pull, design[a], n) - away[a] * precision[a]
        for i in range(n):
            weighted[i] = information[i] * design[a, i]
        for b in range(a + 1):
            covariance[a, b] = _dot(weighted, design[b], n)
            covariance[b, a] = covariance[a, b]
        covariance[a, a] += precision[a]
    _inverted(covariance)

    total = max(_dot(information, design[0], n), 1e-300)
    mean_damping = max(_dot(damping, information, n) / total, 1.0)
    for a in range(N_UNKNOWNS):
        change[a] = _dot(covariance[a], slope, N_UNKNOWNS) / mean_damping


@compiled
def step(observed, kept, uniques, model, has_target, restraint, out, table, first, last):
    """Fill the step of the unknowns of each lattice, with d(photons)/d unknown = photons·design,
    and add to table (unique, 1) what `OF_SCALES` is the sum of.
    """
    bounds, unique, intensities, rests, _, partial, by_b, slopes = observed
    ks, precisions, leverages, means, others = kept
    size = _largest(bounds)
    design = np.empty((N_UNKNOWNS, size))
    information, pull, damping = np.empty(size), np.empty(size), np.empty(size)
    for lattice in range(first, last):
        start = bounds[lattice]
        n = bounds[lattice + 1] - start
        for i in range(start, start + n):
            u = unique[i]
            k = ks[i]
            mean = means[i]
            precision = others[i]
            m = k * max(uniques[u, EXPECTED], 0.0)
            variance = _variance(model, m, rests[i], partial[i])
            robust = _share(intensities[i] - k * mean, variance + k**2 / precision)
            if has_target:
                target = uniques[u, TARGET]
                photons, weight, factor = _to_target(k, target, robust, model, rests[i], partial[i])
            else:
                photons, weight, factor = _to_others(
                    k, mean, precision, precisions[i], robust, variance
                )
            information[i - start] = weight * photons**2
            pull[i - start] = weight * photons * (intensities[i] - photons)
            damping[i - start] = factor

        _fill_design(by_b, slopes, start, start + n, design)
        covariance = out.covariance[lattice]
        _solve(
            information,
            pull,
            damping,
            design,
            n,
            restraint.away[lattice],
            restraint.precision,
            out.change[lattice],
            covariance,
        )
        _fill_scale_variance(design, covariance, information, n)
        for i in range(start, start + n):
            u = unique[i]
            leverages[i] = information[i - start]
            of_scale = leverages[i] * max(uniques[u, EXPECTED], 0.0) ** 2
            table[u, 0] += precisions[i] ** 2 * of_scale


@inlined
def _log_k(unknowns, by_b, about_x, about_y, by_width):
    """Return ln(k/factor): k = G exp(−2 B s²)·factor·exp(slopes·tilt). unknowns: (5,) of the
    lattice; all others: derivatives by them.
    """
    tilt = unknowns[2] * about_x + unknowns[3] * about_y + unknowns[4] * by_width
    tilt = min(max(tilt, -LARGEST_CHANGE_OF_LOG), LARGEST_CHANGE_OF_LOG)
    return unknowns[0] + unknowns[1] * by_b + tilt


@compiled
def move(observed, kept, uniques, model, unknowns, table, first, last):
    """Take the observations to the moved unknowns (lattice, 5), and add to table (unique, 2) their
    weighted intensities, on the common scale, and weights.

    The leverage of an observation is how much of the square of its residual it loses because the
    unknowns of its lattice were fitted to it, and those of the other lattices in `_others` too.
    """
    bounds, unique, intensities, rests, factors, partial, by_b, slopes = observed
    ks, precisions, leverages, means, others = kept
    for lattice in range(first, last):
        own = unknowns[lattice]
        of_lattice = (own[0], own[1], own[2], own[3], own[4])
        for i in range(bounds[lattice], bounds[lattice + 1]):
            u = unique[i]
            k = ks[i]
            own_precision = precisions[i]
            mean = means[i]
            precision = others[i]
            expected = max(uniques[u, EXPECTED], 0.0)
            variance = _variance(model, k * expected, rests[i], partial[i])
            total = variance + k**2 / precision
            robust = _share(intensities[i] - k * mean, total)

            of_scale = leverages[i] * expected**2
            of_others = max(uniques[u, OF_SCALES] - own_precision**2 * of_scale, 0.0)
            leverage = k**2 * (of_scale + of_others / precision**2) / total
            leverages[i] = min(leverage, LARGEST_LEVERAGE)

            log_k = _log_k(of_lattice, by_b[i], slopes[i, 0], slopes[i, 1], slopes[i, 2])
            k = np.exp(log_k) * factors[i]
            variance = _variance(model, k * expected, rests[i], partial[i])
            weight = robust * k / variance
            ks[i] = k
            precisions[i] = weight * k
            table[u, 0] += intensities[i] * weight
            table[u, 1] += weight * k


@compiled
def result(observed, kept, uniques, model, covariance):
    """Return how well each observation is known, √variance in photons (observation,), larger for
    outliers, and for each lattice the mean squared deviation, in standard deviations, from what
    others measured, (lattice,); NaN where nobody else measured anything of it.
    """
    bounds, unique, intensities, rests, _, partial, by_b, slopes = observed
    ks, precisions = kept[:2]
    sigma = np.empty(len(unique))
    chi2 = np.empty(len(bounds) - 1)
    size = _largest(bounds)
    design = np.empty((N_UNKNOWNS, size))
    scale_variance = np.empty(size)
    for lattice in range(len(chi2)):
        start = bounds[lattice]
        n = bounds[lattice + 1] - start
        _fill_design(by_b, slopes, start, start + n, design)
        _fill_scale_variance(design, covariance[lattice], scale_variance, n)
        square = 0.0
        n_known = 0
        for i in range(start, start + n):
            u = unique[i]
            k = ks[i]
            of_prior = uniques[u, PRIOR_PRECISION]
            mean, precision = _others(
                uniques[u, PRIOR],
                of_prior,
                uniques[u, MEASURED],
                uniques[u, PRECISION],
                intensities[i] / k,
                precisions[i],
            )
            residual = intensities[i] - k * mean
            m = k * max(uniques[u, EXPECTED], 0.0)
            variance = _variance(model, m, rests[i], partial[i])
            total = variance + k**2 / precision
            if precision > 2.0 * of_prior:
                square += residual**2 / total
                n_known += 1
            of_scale = scale_variance[i - start] * m**2
            sigma[i] = np.sqrt(variance / _share(residual, total) ** 2 + of_scale)
        chi2[lattice] = square / n_known if n_known else np.nan
    return sigma, chi2
