"""Compiled loops over the observations of a few lattices: what scales, the error model and the
merged intensities are summed from (`scaling`).

A loop takes the observations of a lattice chunk by chunk: what is known of their reflections is
gathered into `chunked`, and everything else runs over it in vector registers. The rows of `chunked`
follow each other at a constant distance, so that the compiler sees that they do not overlap; for
arrays that it can't tell apart it uses these registers only where there are a few in a loop.
Functions take arrays where they go over a chunk, and numbers where they look at one observation: an
array handed on is counted, which costs more than the arithmetic of one.

Each takes `Observed`, which does not change, `Kept`, what is kept of every observation from cycle
to cycle, and the lattices of a group, `first` to `last`. Arithmetic is in double precision; what is
kept of an observation may be in single precision, as its photons are: memory delivers it more
slowly than it is computed, so what the others say of it is formed anew where it is needed. What all
lattices say of each unique reflection is a row of `uniques`, (unique, 8), so that it takes one line
of the processor's cache.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.physics.compiling import compiled, inlined
from spreadflow.physics.exponential_loops import exp

PRIOR, PRIOR_PRECISION, MEASURED, PRECISION, EXPECTED, IS_REPEATED, TARGET, OF_SCALES = range(8)
"""Columns of `uniques`: mean and 1/variance of Wilson's distribution; mean and 1/variance of all
observations and of the mate; intensity that variances are taken from; whether more than one
observation is of the reflection itself; intensity of the reference, NaN = unknown; sum of
(1/variance)² · variance that its scale brings into each observation.
"""

CHUNK = 256
"""Most observations of a lattice that are gone over at once: they stay in the nearest cache."""

ROW = CHUNK + 8
"""Distance of the rows of `chunked`; no power of two, as these would meet in the same lines of the
cache.
"""

MEAN, PRIOR_ROW, TOTAL_MEAN, OTHERS, PHOTONS, EXTRA = (ROW * row for row in range(6))
"""Where the rows of `chunked` begin: mean of what prior, mate and all other observations say,
before that of the prior; precision of the prior; mean of all; 1/variance of the others' mean,
before that of all; expected intensity; another column of `uniques`.
"""

WORK = 6 * ROW
"""Where further rows of `chunked` begin, which each loop uses as it needs."""

N_ROWS = 9
"""Rows of `chunked`."""

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
    """(observation,) photons, float32 or float64, as all others but `unique` and `slopes`"""
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
    """What is kept of each observation from cycle to cycle; (observation,), of the type of its
    intensity.
    """

    k: np.ndarray
    """photons per intensity at the present scales"""
    precision: np.ndarray
    """1/variance that the observation brought into the intensity of its reflection"""
    leverage: np.ndarray
    """0-1: how much of the square of its residual the unknowns of lattices take away; from `step`
    to `move` the relative variance of k, which it is made of
    """


@inlined
def gather(uniques, unique, extra, chunked):
    """Put what is known of the reflections of a chunk into `chunked`. extra: another column of
    `uniques`.
    """
    for j in range(len(unique)):
        u = unique[j]
        chunked[MEAN + j] = uniques[u, PRIOR]
        chunked[PRIOR_ROW + j] = uniques[u, PRIOR_PRECISION]
        chunked[TOTAL_MEAN + j] = uniques[u, MEASURED]
        chunked[OTHERS + j] = uniques[u, PRECISION]
        chunked[PHOTONS + j] = max(uniques[u, EXPECTED], 0.0)
        chunked[EXTRA + j] = uniques[u, extra]


@inlined
def judge(intensities, ks, precisions, chunked):
    """Put mean and 1/variance of what prior, mate and all other observations say about the
    intensities of a chunk into `chunked`, gathered.

    Wilson's distribution is no Gaussian: where measurements contradict it by more than a standard
    deviation, its precision falls with the square of the contradiction.
    """
    for j in range(len(ks)):
        prior = chunked[MEAN + j]
        of_prior = chunked[PRIOR_ROW + j]
        total = chunked[OTHERS + j]
        own = np.float64(precisions[j])
        precision = total - own
        is_measured = precision > LEAST_OTHERS * total
        precision = precision if is_measured else 0.0
        weighted = chunked[TOTAL_MEAN + j] * total - np.float64(intensities[j]) / ks[j] * own
        mean = weighted / (precision if is_measured else 1.0)
        difference = mean - prior if is_measured else 0.0
        contradiction = difference * difference * of_prior * precision / (of_prior + precision)
        of_prior /= max(contradiction, 1.0)
        both = of_prior + precision
        chunked[MEAN + j] = (of_prior * prior + precision * mean) / both if is_measured else prior
        chunked[OTHERS + j] = both


@inlined
def variance_of(model, m, rest, g):
    """Return the variance of an observation of m expected photons, photons².

    model: (4,) sfac² and sfac² times sb², sadd², spart².
    """
    return model[0] * (rest + m) + model[1] * m + (model[2] + model[3] * g) * m * m


@inlined
def share_kept(residual, variance):
    """Return the share of its weight that an observation keeps: all of it up to `HUBER` standard
    deviations from what all others say, less in proportion beyond.
    """
    square = residual * residual
    limit = HUBER**2 * variance
    return np.sqrt(limit / square) if square > limit else 1.0


@compiled
def error_sums(observed, kept, uniques, model, first, last):
    """Return the sums (14,) of the normal equations of the error model, as `error_model.fit` takes
    them.

    They are those of the linear regression of residual²/(1 − leverage) − extra on the components of
    the variance with weights 1/v², v = variance + extra, extra that of the others' mean. A residual
    counts as at most `HUBER` standard deviations. An observation counts where others measured its
    reflection, not the mate alone, whose difference is in part anomalous.
    """
    out = np.zeros(N_ERROR_SUMS)
    chunked = np.empty(N_ROWS * ROW)
    end = observed.first[last]
    for start in range(observed.first[first], end, CHUNK):
        chunk = slice(start, min(start + CHUNK, end))
        intensities = observed.intensity[chunk]
        rests = observed.variance[chunk]
        ks = kept.k[chunk]
        gather(uniques, observed.unique[chunk], IS_REPEATED, chunked)
        judge(intensities, ks, kept.precision[chunk], chunked)
        _fill_residuals(
            intensities, rests, observed.partial[chunk], ks, kept.leverage[chunk], model, chunked
        )
        _add_error_sums(rests, observed.partial[chunk], ks, chunked, out)
    return out


SCALE, SQUARE = (WORK + ROW * row for row in range(2))
"""Where the rows of the error model begin: 1/variance, 0 where an observation does not count;
square of its residual over the variance.
"""


@inlined
def _fill_residuals(intensities, rests, partial, ks, leverages, model, chunked):
    """Put weights and residuals of a chunk for the error model into `chunked`."""
    for j in range(len(ks)):
        k = np.float64(ks[j])
        precision = chunked[OTHERS + j]
        is_used = (chunked[EXTRA + j] != 0.0) & (precision > 2.0 * chunked[PRIOR_ROW + j])
        extra = k * k / precision
        m = k * chunked[PHOTONS + j]
        variance = variance_of(model, m, np.float64(rests[j]), np.float64(partial[j])) + extra
        residual = intensities[j] - k * chunked[MEAN + j]
        square = residual * residual / (1.0 - leverages[j])
        square = min(square, HUBER**2 * variance) - extra
        scale = 1.0 / variance if is_used else 0.0
        chunked[SCALE + j] = scale
        chunked[SQUARE + j] = square * scale


@inlined
def _add_error_sums(rests, partial, ks, chunked, out):
    """Add the products of the components of the variances of a chunk, and of each with the square
    of the residual, to out (14,).
    """
    aa = ab = ac = ad = bb = bc = bd = cc = cd = dd = 0.0
    as_ = bs = cs = ds = 0.0
    for j in range(len(ks)):
        scale = chunked[SCALE + j]
        square = chunked[SQUARE + j]
        m = np.float64(ks[j]) * chunked[PHOTONS + j]
        a = (np.float64(rests[j]) + m) * scale
        b = m * scale
        c = m * b
        d = np.float64(partial[j]) * c
        aa += a * a
        ab += a * b
        ac += a * c
        ad += a * d
        bb += b * b
        bc += b * c
        bd += b * d
        cc += c * c
        cd += c * d
        dd += d * d
        as_ += a * square
        bs += b * square
        cs += c * square
        ds += d * square
    sums = (aa, ab, ac, ad, bb, bc, bd, cc, cd, dd, as_, bs, cs, ds)
    for place in range(N_ERROR_SUMS):
        out[place] += sums[place]


SCALE_VARIANCE = WORK
"""Where the row of relative variances of k begins."""


@inlined
def fill_scale_variance(by_b, slopes, covariance, chunked):
    """Put the relative variances of k of a chunk into `chunked`. covariance: (5, 5)
    of the unknowns of the lattice.
    """
    gg, gb, gx, gy, gw = covariance[0]
    bb, bx, by, bw = covariance[1, 1:]
    xx, xy, xw = covariance[2, 2:]
    yy, yw = covariance[3, 3:]
    ww = covariance[4, 4]
    for j in range(len(by_b)):
        b = np.float64(by_b[j])
        x = np.float64(slopes[j, 0])
        y = np.float64(slopes[j, 1])
        w = np.float64(slopes[j, 2])
        of_g = gg + 2.0 * (gb * b + gx * x + gy * y + gw * w)
        of_b = b * (bb * b + 2.0 * (bx * x + by * y + bw * w))
        of_x = x * (xx * x + 2.0 * (xy * y + xw * w))
        of_y = y * (yy * y + 2.0 * yw * w)
        chunked[SCALE_VARIANCE + j] = of_g + of_b + of_x + of_y + ww * w * w


NEW_K, WEIGHTED, WEIGHT = (WORK + ROW * row for row in range(3))
"""Where the rows of a move begin: k, before that its logarithm; weighted intensity, before that the
share of the weight that is kept; weight on the common scale.
"""


@inlined
def _fill_leverages(intensities, rests, partial, ks, precisions, leverages, model, chunked):
    """Make leverages of the relative variances of k, where the table's `OF_SCALES` was gathered as
    `EXTRA`, and put the share of its weight that each observation keeps into `chunked`.
    """
    for j in range(len(ks)):
        k = np.float64(ks[j])
        expected = chunked[PHOTONS + j]
        variance = variance_of(model, k * expected, np.float64(rests[j]), np.float64(partial[j]))
        others = chunked[OTHERS + j]
        total = variance + k * k / others
        chunked[WEIGHTED + j] = share_kept(intensities[j] - k * chunked[MEAN + j], total)

        own = np.float64(precisions[j])
        of_scale = leverages[j] * expected * expected
        of_others = max(chunked[EXTRA + j] - own * own * of_scale, 0.0)
        leverage = k * k * (of_scale + of_others / (others * others)) / total
        leverages[j] = min(leverage, LARGEST_LEVERAGE)


@inlined
def _fill_log_k(by_b, slopes, unknowns, chunked):
    """Put ln(k/factor) of a chunk into `chunked`: k = G exp(−2 B s²)·factor·exp(slopes·tilt).
    unknowns: (5,) of the lattice.
    """
    log_g, b, about_x, about_y, log_width = unknowns
    for j in range(len(by_b)):
        tilt = about_x * slopes[j, 0] + about_y * slopes[j, 1] + log_width * slopes[j, 2]
        tilt = min(max(tilt, -LARGEST_CHANGE_OF_LOG), LARGEST_CHANGE_OF_LOG)
        chunked[NEW_K + j] = log_g + b * by_b[j] + tilt


@inlined
def _weigh(intensities, rests, partial, ks, precisions, model, chunked):
    """Put the new k of a chunk in `chunked` and the weights that follow into ks and precisions, and
    into `chunked` weighted intensities and weights.
    """
    for j in range(len(ks)):
        ks[j] = chunked[NEW_K + j]
    for j in range(len(ks)):
        k = np.float64(ks[j])
        rest = np.float64(rests[j])
        variance = variance_of(model, k * chunked[PHOTONS + j], rest, np.float64(partial[j]))
        precisions[j] = chunked[WEIGHTED + j] * k * k / variance
    for j in range(len(ks)):
        own = np.float64(precisions[j])
        chunked[WEIGHTED + j] = np.float64(intensities[j]) / ks[j] * own
        chunked[WEIGHT + j] = own


@compiled
def move(observed, kept, uniques, model, unknowns, table, first, last):
    """Take the observations to the moved unknowns (lattice, 5), and add to table (unique, 2) their
    weighted intensities, on the common scale, and weights.

    The leverage of an observation is how much of the square of its residual it loses because the
    unknowns of its lattice were fitted to it, and those of the other lattices in `judge` too.
    """
    bounds = observed.first
    chunked = np.empty(N_ROWS * ROW)
    for lattice in range(first, last):
        own = unknowns[lattice]
        of_lattice = (own[0], own[1], own[2], own[3], own[4])
        for start in range(bounds[lattice], bounds[lattice + 1], CHUNK):
            chunk = slice(start, min(start + CHUNK, bounds[lattice + 1]))
            unique = observed.unique[chunk]
            intensities = observed.intensity[chunk]
            rests = observed.variance[chunk]
            factors = observed.factor[chunk]
            partial = observed.partial[chunk]
            ks = kept.k[chunk]
            precisions = kept.precision[chunk]
            gather(uniques, unique, OF_SCALES, chunked)
            judge(intensities, ks, precisions, chunked)
            leverages = kept.leverage[chunk]
            _fill_leverages(intensities, rests, partial, ks, precisions, leverages, model, chunked)
            _fill_log_k(observed.by_b[chunk], observed.slopes[chunk], of_lattice, chunked)
            for j in range(len(ks)):
                chunked[NEW_K + j] = exp(chunked[NEW_K + j]) * factors[j]
            _weigh(intensities, rests, partial, ks, precisions, model, chunked)
            for j in range(len(ks)):
                u = unique[j]
                table[u, 0] += chunked[WEIGHTED + j]
                table[u, 1] += chunked[WEIGHT + j]


@inlined
def _fill_sigma(intensities, rests, partial, ks, model, sigma, chunked):
    """Put σ of a chunk into sigma, √variance in photons, from the relative variances of k in
    `chunked`, and return the sum of the squares of deviations, in standard deviations, from what
    others measured, and the number of observations where they did.
    """
    total_square = 0.0
    n_known = 0.0
    for j in range(len(ks)):
        k = np.float64(ks[j])
        others = chunked[OTHERS + j]
        residual = intensities[j] - k * chunked[MEAN + j]
        m = k * chunked[PHOTONS + j]
        variance = variance_of(model, m, np.float64(rests[j]), np.float64(partial[j]))
        total = variance + k * k / others
        share = share_kept(residual, total)
        sigma[j] = np.sqrt(variance / (share * share) + chunked[SCALE_VARIANCE + j] * m * m)
        is_known = others > 2.0 * chunked[PRIOR_ROW + j]
        total_square += residual * residual / total if is_known else 0.0
        n_known += 1.0 if is_known else 0.0
    return total_square, n_known


@compiled
def result(observed, kept, uniques, model, covariance):
    """Return how well each observation is known, √variance in photons (observation,), larger for
    outliers, and for each lattice the mean squared deviation, in standard deviations, from what
    others measured, (lattice,); NaN where nobody else measured anything of it.
    """
    bounds = observed.first
    chunked = np.empty(N_ROWS * ROW)
    sigma = np.empty_like(observed.intensity)
    chi2 = np.empty(len(bounds) - 1)
    for lattice in range(len(chi2)):
        square = 0.0
        n_known = 0.0
        for start in range(bounds[lattice], bounds[lattice + 1], CHUNK):
            chunk = slice(start, min(start + CHUNK, bounds[lattice + 1]))
            intensities = observed.intensity[chunk]
            rests = observed.variance[chunk]
            partial = observed.partial[chunk]
            ks = kept.k[chunk]
            gather(uniques, observed.unique[chunk], TARGET, chunked)
            judge(intensities, ks, kept.precision[chunk], chunked)
            fill_scale_variance(
                observed.by_b[chunk], observed.slopes[chunk], covariance[lattice], chunked
            )
            deviations = _fill_sigma(intensities, rests, partial, ks, model, sigma[chunk], chunked)
            square += deviations[0]
            n_known += deviations[1]
        chi2[lattice] = square / n_known if n_known else np.nan
    return sigma, chi2
