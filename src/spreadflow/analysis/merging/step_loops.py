"""Compiled loop over the observations of lattices, as in `loops`: a step of their unknowns."""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.matrix_loops import invert
from spreadflow.analysis.merging.loops import (
    CHUNK,
    EXPECTED,
    EXTRA,
    MEAN,
    N_ROWS,
    OTHERS,
    PHOTONS,
    ROW,
    SCALE_VARIANCE,
    TARGET,
    WORK,
    fill_scale_variance,
    gather,
    judge,
    share_kept,
    variance_of,
)
from spreadflow.physics.compiling import compiled, inlined

N_UNKNOWNS = 5
"""Unknowns of a lattice."""

INFORMATION, PULL, DAMPING = (WORK + ROW * row for row in range(3))
"""Where the rows of a step begin: weight·photons²; weight·photons·residual; information times the
factor on the curvature.
"""


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
def _to_target(intensities, rests, partial, ks, model, chunked):
    """Put information, pull and damping of a chunk into `chunked` for the step of its lattice
    towards the reference, which was gathered as `EXTRA`.

    The variance is that of the photons the reference expects: weights that knew the merged
    intensity would favour whatever is measured lower than the reference has it.
    """
    for j in range(len(ks)):
        k = np.float64(ks[j])
        rest = np.float64(rests[j])
        g = np.float64(partial[j])
        variance = variance_of(model, k * chunked[PHOTONS + j], rest, g)
        total = variance + k * k / chunked[OTHERS + j]
        robust = share_kept(intensities[j] - k * chunked[MEAN + j], total)
        target = chunked[EXTRA + j]
        is_known = not np.isnan(target)
        target = target if is_known else 0.0
        photons = k * target
        of_target = variance_of(model, k * max(target, 0.0), rest, g)
        weight = robust / of_target if is_known else 0.0
        chunked[INFORMATION + j] = weight * photons * photons
        chunked[PULL + j] = weight * photons * (intensities[j] - photons)
        chunked[DAMPING + j] = weight * photons * photons


@inlined
def _to_others(intensities, rests, partial, ks, precisions, model, chunked):
    """Put the same into `chunked` for the step towards the others.

    All lattices move at once, and two that share a reflection would both cover the whole distance
    between them: the curvature is multiplied by 1 + (own weight / weight of the others), at most 2,
    which bounds the step from above.
    """
    for j in range(len(ks)):
        k = np.float64(ks[j])
        others = chunked[OTHERS + j]
        extra = k * k / others
        variance = variance_of(
            model, k * chunked[PHOTONS + j], np.float64(rests[j]), np.float64(partial[j])
        )
        photons = k * chunked[MEAN + j]
        residual = intensities[j] - photons
        robust = share_kept(residual, variance + extra)
        weight = robust / (variance + extra * robust)
        information = weight * photons * photons
        chunked[INFORMATION + j] = information
        chunked[PULL + j] = weight * photons * residual
        chunked[DAMPING + j] = information * (1.0 + min(1.0, precisions[j] / others))


@inlined
def _add_to_equations(by_b, slopes, chunked, slope, information):
    """Add the equations of a chunk to slope (5,) and to the upper half of information (5, 5), and
    return what its damping·information adds up to.
    """
    gg = gb = gx = gy = gw = bb = bx = by = bw = xx = xy = xw = yy = yw = ww = 0.0
    g_pull = b_pull = x_pull = y_pull = w_pull = damped = 0.0
    for j in range(len(by_b)):
        g = chunked[INFORMATION + j]
        pull = chunked[PULL + j]
        b = np.float64(by_b[j])
        x = np.float64(slopes[j, 0])
        y = np.float64(slopes[j, 1])
        w = np.float64(slopes[j, 2])
        of_b = g * b
        of_x = g * x
        of_y = g * y
        of_w = g * w
        gg += g
        gb += of_b
        gx += of_x
        gy += of_y
        gw += of_w
        bb += of_b * b
        bx += of_b * x
        by += of_b * y
        bw += of_b * w
        xx += of_x * x
        xy += of_x * y
        xw += of_x * w
        yy += of_y * y
        yw += of_y * w
        ww += of_w * w
        g_pull += pull
        b_pull += pull * b
        x_pull += pull * x
        y_pull += pull * y
        w_pull += pull * w
        damped += chunked[DAMPING + j]
    rows = (gg, gb, gx, gy, gw, bb, bx, by, bw, xx, xy, xw, yy, yw, ww)
    pulls = (g_pull, b_pull, x_pull, y_pull, w_pull)
    place = 0
    for row in range(N_UNKNOWNS):
        slope[row] += pulls[row]
        for column in range(row, N_UNKNOWNS):
            information[row, column] += rows[place]
            place += 1
    return damped


@inlined
def _solve(slope, damped, away, precision, change, covariance):
    """Fill change (5,) of the unknowns of a lattice, and make their covariance (5, 5) of their
    information, of which the upper half is there.

    slope, damped: as from `_add_to_equations`; away: (5,) of the unknowns from the means of all
    lattices, which have 1/variance `precision`.
    """
    mean_damping = max(damped / max(covariance[0, 0], 1e-300), 1.0)
    for a in range(N_UNKNOWNS):
        slope[a] -= away[a] * precision[a]
        covariance[a, a] += precision[a]
        for b in range(a):
            covariance[a, b] = covariance[b, a]
    invert(covariance)
    for a in range(N_UNKNOWNS):
        total = 0.0
        for b in range(N_UNKNOWNS):
            total += covariance[a, b] * slope[b]
        change[a] = total / mean_damping


@compiled
def step(observed, kept, uniques, model, has_target, restraint, out, table, first, last):
    """Fill the step of the unknowns of each lattice, with d(photons)/d unknown = photons·design,
    and add to table (unique, 1) what `OF_SCALES` is the sum of.
    """
    bounds = observed.first
    chunked = np.empty(N_ROWS * ROW)
    slope = np.empty(N_UNKNOWNS)
    for lattice in range(first, last):
        slope[:] = 0.0
        damped = 0.0
        covariance = out.covariance[lattice]
        covariance[:] = 0.0
        for start in range(bounds[lattice], bounds[lattice + 1], CHUNK):
            chunk = slice(start, min(start + CHUNK, bounds[lattice + 1]))
            intensities = observed.intensity[chunk]
            rests = observed.variance[chunk]
            partial = observed.partial[chunk]
            ks = kept.k[chunk]
            precisions = kept.precision[chunk]
            gather(uniques, observed.unique[chunk], TARGET, chunked)
            judge(intensities, ks, precisions, chunked)
            if has_target:
                _to_target(intensities, rests, partial, ks, model, chunked)
            else:
                _to_others(intensities, rests, partial, ks, precisions, model, chunked)
            damped += _add_to_equations(
                observed.by_b[chunk], observed.slopes[chunk], chunked, slope, covariance
            )

        _solve(
            slope,
            damped,
            restraint.away[lattice],
            restraint.precision,
            out.change[lattice],
            covariance,
        )
        for start in range(bounds[lattice], bounds[lattice + 1], CHUNK):
            chunk = slice(start, min(start + CHUNK, bounds[lattice + 1]))
            unique = observed.unique[chunk]
            precisions = kept.precision[chunk]
            leverages = kept.leverage[chunk]
            fill_scale_variance(observed.by_b[chunk], observed.slopes[chunk], covariance, chunked)
            for j in range(len(unique)):
                u = unique[j]
                leverages[j] = chunked[SCALE_VARIANCE + j]
                expected = max(uniques[u, EXPECTED], 0.0)
                table[u, 0] += np.float64(precisions[j]) ** 2 * leverages[j] * expected**2


@compiled
def totals(observed, kept, uniques):
    """Return the photons of each lattice, counted and expected, (lattice, 2)."""
    bounds = observed.first
    out = np.zeros((len(bounds) - 1, 2))
    for lattice in range(len(out)):
        photons = 0.0
        expected = 0.0
        for i in range(bounds[lattice], bounds[lattice + 1]):
            photons += np.float64(observed.intensity[i])
            expected += np.float64(kept.k[i]) * max(uniques[observed.unique[i], EXPECTED], 0.0)
        out[lattice, 0] = photons
        out[lattice, 1] = expected
    return out
