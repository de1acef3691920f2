"""Compiled loops over the Gram matrices of lattices: the sums from which curves and X follow.

Each takes `Columns`, the curves f (site, channel) = f′ + i f″, X's deviations x (reflection, 2) =
(a, b), and the unknowns of sites (site unknown,). |F|² of a column changes by 2 Re(F* dF). The
columns of a reflection in a shoebox follow one another (a *run*); two runs may be of the same
reflection (Friedel mates).
"""

import numpy as np

from spreadflow.analysis.scoring import LARGEST_SQUARE, LEAST_LEFT, MEAN_OF_SQUARES
from spreadflow.physics.compiling import compiled, inlined


@inlined
def structure_factors(columns, f, x, sites):
    """Return F (column,), complex."""
    n_sites = columns.groups.shape[1]
    F = np.empty(len(columns.fixed), np.complex128)
    for i in range(len(F)):
        r = columns.reflection[i]
        total = columns.fixed[i] + columns.along[i] * x[r, 0] + columns.across[i] * x[r, 1]
        for s in range(n_sites):
            total += columns.groups[i, s] * f[s, columns.channel[i]]
        for e in range(len(sites)):
            slope = columns.site_slopes[i, e] * sites[e]
            total += slope * f[columns.site_of[e], columns.channel[i]]
        F[i] = total
    return F


@inlined
def _derivatives(columns, F, first, last):
    """Return the derivatives (2, n) of |F|² by a and b of columns first to last."""
    J = np.empty((2, last - first))
    for i in range(first, last):
        J[0, i - first] = 2.0 * (np.conj(F[i]) * columns.along[i]).real
        J[1, i - first] = 2.0 * (np.conj(F[i]) * columns.across[i]).real
    return J


@inlined
def _group(columns, i, s, sites):
    """Return g of a site in a column."""
    g = columns.groups[i, s]
    for e in range(len(sites)):
        if columns.site_of[e] == s:
            g += columns.site_slopes[i, e] * sites[e]
    return g


@inlined
def _by_curves(columns, F, sites, first, last):
    """Return the derivatives (2·site, n) of |F|² by f′ and f″ of each site."""
    n_sites = columns.groups.shape[1]
    D = np.empty((2 * n_sites, last - first))
    for i in range(first, last):
        for s in range(n_sites):
            product = 2.0 * np.conj(F[i]) * _group(columns, i, s, sites)
            D[2 * s, i - first] = product.real
            D[2 * s + 1, i - first] = -product.imag
    return D


@inlined
def _square(columns, box):
    """Return the matrix (n, n) of a shoebox."""
    n = columns.first_column[box + 1] - columns.first_column[box]
    G = np.empty((n, n))
    place = columns.first_value[box]
    for i in range(n):
        for j in range(i + 1):
            value = np.float64(columns.normal[place])
            G[i, j] = value
            G[j, i] = value
            place += 1
    return G


@inlined
def _shoeboxes(columns):
    """Return lattice, shoebox, its first column and the end (shoebox, 4), of those shoeboxes of the
    lattices that take part which have columns.
    """
    out = np.empty((len(columns.first_column), 4), np.int64)
    n = 0
    for lattice in range(len(columns.loss)):
        for box in range(columns.first_box[lattice], columns.first_box[lattice + 1]):
            first = columns.first_column[box]
            last = columns.first_column[box + 1]
            if columns.is_used[lattice] and first < last:
                out[n, 0] = lattice
                out[n, 1] = box
                out[n, 2] = first
                out[n, 3] = last
                n += 1
    return out[:n]


@inlined
def _runs(columns, first, last):
    """Return the first column of each run among columns first to last, counted from first, and
    their number.
    """
    starts = [0]
    for i in range(first + 1, last):
        is_next = columns.channel[i] == columns.channel[i - 1] + 1
        if not is_next or columns.reflection[i] != columns.reflection[i - 1]:
            starts.append(i - first)
    starts.append(last - first)
    return starts


@compiled
def information(columns, f, x, sites, n_reflections):
    """Return what shoeboxes say about a and b of each reflection, (reflection, 6): Σ JᵀGJ, its
    elements aa, ab, bb; Σ GJ, its elements a, b; and Σ G. Lattices are held.
    """
    F = structure_factors(columns, f, x, sites)
    out = np.zeros((n_reflections, 6))
    for _, box, _, _ in _shoeboxes(columns):
        _add_information(columns, F, box, out)
    return out


@inlined
def _add_information(columns, F, box, out):
    """Add what a shoebox says about a and b to `out` (reflection, 6)."""
    first = columns.first_column[box]
    last = columns.first_column[box + 1]
    J = _derivatives(columns, F, first, last)
    place = columns.first_value[box]
    for i in range(last - first):
        r = columns.reflection[first + i]
        along = 0.0
        across = 0.0
        total = 0.0
        for j in range(i + 1):
            if columns.reflection[first + j] == r:
                value = columns.normal[place + j]
                along += value * J[0, j]
                across += value * J[1, j]
                total += value
        # each pair twice, but for the diagonal
        own = columns.normal[place + i]
        out[r, 0] += J[0, i] * (2.0 * along - own * J[0, i])
        out[r, 1] += J[0, i] * across + J[1, i] * along - own * J[0, i] * J[1, i]
        out[r, 2] += J[1, i] * (2.0 * across - own * J[1, i])
        out[r, 3] += along + (total - own) * J[0, i]
        out[r, 4] += across + (total - own) * J[1, i]
        out[r, 5] += 2.0 * total - own
        place += i + 1


@compiled
def forces(columns, f, x, sites, covariance, scale, held_pulls):
    """Return −ln L of each lattice, its ln scale's pull, and the force on F of each column.

    covariance: (reflection, 3) C of a and b, elements aa, ab, bb, for the term ½ ln det; zero where
    that is left out. scale: number of the unknown ln scale, −1 where lattices have none.
    held_pulls: (lattice,) pulls N that each ln scale is under; empty where they are those of this
    point, Σ tr(C_h B_h,l). Returns losses (lattice,), without ½ ln det; the pulls of this point;
    W (column,) complex: −ln L + ½ Σ ln det changes by Σ 2 Re(W* dF); and the slopes (column,) by
    |F|² of −ln L alone.
    """
    F = structure_factors(columns, f, x, sites)
    n_lattices = len(columns.loss)
    n_unknowns = columns.cross.shape[1]
    losses = np.zeros(n_lattices)
    pulls = np.zeros(n_lattices)
    W = np.zeros(len(F), np.complex128)
    slopes = np.zeros(len(F))
    y = np.empty(len(F))
    for i in range(len(F)):
        y[i] = F[i].real ** 2 + F[i].imag ** 2 - columns.intensity[i]
    for lattice in range(n_lattices):
        if not columns.is_used[lattice]:
            continue
        loss = columns.loss[lattice]
        score = columns.score[lattice].copy()
        first_box = columns.first_box[lattice]
        last_box = columns.first_box[lattice + 1]
        for box in range(first_box, last_box):
            first = columns.first_column[box]
            last = columns.first_column[box + 1]
            n = last - first
            if n == 0:
                continue
            G = _square(columns, box)
            J = _derivatives(columns, F, first, last)
            for i in range(n):
                r = columns.reflection[first + i]
                pulled = 0.0
                along = 0.0
                across = 0.0
                for j in range(n):
                    pulled += G[i, j] * y[first + j]
                    if columns.reflection[first + j] == r:
                        along += G[i, j] * J[0, j]
                        across += G[i, j] * J[1, j]
                column = first + i
                slopes[column] = pulled - columns.slope[column]
                loss += (0.5 * pulled - columns.slope[column]) * y[column]
                by_a = covariance[r, 0] * along + covariance[r, 1] * across
                by_b = covariance[r, 1] * along + covariance[r, 2] * across
                pulls[lattice] += J[0, i] * by_a + J[1, i] * by_b
                W[column] = by_a * columns.along[column] + by_b * columns.across[column]
                for u in range(n_unknowns):
                    score[u] -= y[column] * columns.cross[column, u]
        if scale >= 0:
            score[scale] -= held_pulls[lattice] if len(held_pulls) else pulls[lattice]
        response = columns.held[lattice] @ score
        losses[lattice] = loss - 0.5 * (score @ response)
        for column in range(columns.first_column[first_box], columns.first_column[last_box]):
            for u in range(n_unknowns):
                slopes[column] += columns.cross[column, u] * response[u]
            W[column] += slopes[column] * F[column]
    return losses, pulls, W, slopes


@compiled
def scores(columns, W, f, sites, row, n_rows):
    """Return the gradients by the curves' values (row, 2·site, channel) and by the unknowns of
    sites (row, site unknown) of forces W (column,), summed over the columns of each row.

    row: (column,) int.
    """
    n_sites = columns.groups.shape[1]
    by_value = np.zeros((n_rows, 2 * n_sites, f.shape[1]))
    by_site = np.zeros((n_rows, len(sites)))
    for i in range(len(W)):
        for s in range(n_sites):
            product = 2.0 * np.conj(_group(columns, i, s, sites)) * W[i]
            by_value[row[i], 2 * s, columns.channel[i]] += product.real
            by_value[row[i], 2 * s + 1, columns.channel[i]] += product.imag
        for e in range(len(sites)):
            slope = columns.site_slopes[i, e] * f[columns.site_of[e], columns.channel[i]]
            by_site[row[i], e] += 2.0 * (np.conj(slope) * W[i]).real
    return by_value, by_site


@compiled
def by_curves(columns, f, x, sites):
    """Return the second derivatives of −ln L by the curves' values, lattices held, less their
    transpose: (channel, 2·site, 2·site, channel), to which the transpose is to be added; and what
    they share with lattices, (lattice, unknown, channel, 2·site).

    The channels of a run follow one another, so that its products run in vector registers.
    """
    F = structure_factors(columns, f, x, sites)
    n_channels = f.shape[1]
    n_curves = 2 * columns.groups.shape[1]
    n_unknowns = columns.cross.shape[1]
    curves = np.zeros((n_channels, n_curves, n_curves, n_channels))
    shared = np.zeros((len(columns.loss), n_unknowns, n_channels, n_curves))
    weighted = np.empty(n_channels)
    for lattice, box, first, last in _shoeboxes(columns):
        D = _by_curves(columns, F, sites, first, last)
        starts = _runs(columns, first, last)
        place = columns.first_value[box]
        for i in range(last - first):
            channel = columns.channel[first + i]
            for u in range(n_unknowns):
                for s in range(n_curves):
                    shared[lattice, u, channel, s] += columns.cross[first + i, u] * D[s, i]
            for run in range(len(starts) - 1):
                start = starts[run]
                n = min(starts[run + 1], i + 1) - start
                if n <= 0:
                    break
                normal = columns.normal[place + start : place + start + n]
                begin = columns.channel[first + start]
                for t in range(n_curves):
                    by_curve = D[t, start : start + n]
                    for j in range(n):
                        weighted[j] = normal[j] * by_curve[j]
                    if start + n == i + 1:
                        weighted[n - 1] *= 0.5
                    for s in range(n_curves):
                        row = curves[channel, s, t, begin : begin + n]
                        slope = D[s, i]
                        for j in range(n):
                            row[j] += slope * weighted[j]
            place += i + 1
    return curves, shared


@inlined
def _n_pairs(columns):
    """Return how many pairs of runs the shoeboxes have, and how many runs."""
    pairs = 0
    runs = 0
    for _, _, first, last in _shoeboxes(columns):
        n = len(_runs(columns, first, last)) - 1
        pairs += n * n
        runs += n
    return pairs, runs


@compiled
def by_rest(columns, f, x, sites, n_reflections):
    """Return the second derivatives of −ln L by a and b, lattices held, and what a and b share with
    curves and lattices.

    They are: with the curves' values, (reflection, 2, channel, 2·site); of pairs of runs in a
    shoebox, their reflections (pair, 2) and blocks (pair, 2, 2); of runs, lattice and reflection
    (run, 2), and what they share with what stage 1 refines, (run, 2, unknown).
    """
    F = structure_factors(columns, f, x, sites)
    n_curves = 2 * columns.groups.shape[1]
    n_unknowns = columns.cross.shape[1]
    n_pair, n_run = _n_pairs(columns)
    mixed = np.zeros((n_reflections, 2, f.shape[1], n_curves))
    pair_reflections = np.zeros((n_pair, 2), np.int64)
    pair_blocks = np.zeros((n_pair, 2, 2))
    run_places = np.zeros((n_run, 2), np.int64)
    run_cross = np.zeros((n_run, 2, n_unknowns))
    pair = 0
    run = 0
    for lattice, box, first, last in _shoeboxes(columns):
        G = _square(columns, box)
        J = _derivatives(columns, F, first, last)
        D = _by_curves(columns, F, sites, first, last)
        starts = _runs(columns, first, last)
        for a in range(len(starts) - 1):
            r = columns.reflection[first + starts[a]]
            run_places[run, 0] = lattice
            run_places[run, 1] = r
            along = np.zeros(last - first)
            across = np.zeros(last - first)
            for j in range(starts[a], starts[a + 1]):
                for i in range(last - first):
                    along[i] += G[j, i] * J[0, j]
                    across[i] += G[j, i] * J[1, j]
                for u in range(n_unknowns):
                    run_cross[run, 0, u] += J[0, j] * columns.cross[first + j, u]
                    run_cross[run, 1, u] += J[1, j] * columns.cross[first + j, u]
            run += 1
            for i in range(last - first):
                channel = columns.channel[first + i]
                for s in range(n_curves):
                    mixed[r, 0, channel, s] += along[i] * D[s, i]
                    mixed[r, 1, channel, s] += across[i] * D[s, i]
            for b in range(len(starts) - 1):
                block = pair_blocks[pair]
                for i in range(starts[b], starts[b + 1]):
                    block[0, 0] += along[i] * J[0, i]
                    block[0, 1] += along[i] * J[1, i]
                    block[1, 0] += across[i] * J[0, i]
                    block[1, 1] += across[i] * J[1, i]
                pair_reflections[pair, 0] = r
                pair_reflections[pair, 1] = columns.reflection[first + starts[b]]
                pair += 1
    return mixed, pair_reflections, pair_blocks, run_places, run_cross


@compiled
def by_sites(columns, f, x, sites, n_reflections):
    """Return the second derivatives of −ln L by the unknowns of sites, lattices held, and what
    these share with all else: (site unknown, site unknown); with the curves' values, (site unknown,
    channel, 2·site); with a and b, (reflection, 2, site unknown); with what stage 1 refines,
    (lattice, unknown, site unknown).
    """
    F = structure_factors(columns, f, x, sites)
    n_channels = f.shape[1]
    n_curves = 2 * columns.groups.shape[1]
    n_unknowns = columns.cross.shape[1]
    n_site = len(sites)
    own = np.zeros((n_site, n_site))
    with_curves = np.zeros((n_site, n_channels, n_curves))
    with_rest = np.zeros((n_reflections, 2, n_site))
    with_lattices = np.zeros((len(columns.loss), n_unknowns, n_site))
    for lattice, box, first, last in _shoeboxes(columns):
        G = _square(columns, box)
        J = _derivatives(columns, F, first, last)
        D = _by_curves(columns, F, sites, first, last)
        E = np.empty((last - first, n_site))
        for i in range(last - first):
            for e in range(n_site):
                fe = f[columns.site_of[e], columns.channel[first + i]]
                slope = columns.site_slopes[first + i, e] * fe
                E[i, e] = 2.0 * (np.conj(F[first + i]) * slope).real
        for i in range(last - first):
            r = columns.reflection[first + i]
            channel = columns.channel[first + i]
            for e in range(n_site):
                pulled = 0.0
                for j in range(last - first):
                    pulled += G[i, j] * E[j, e]
                for d in range(n_site):
                    own[e, d] += pulled * E[i, d]
                for s in range(n_curves):
                    with_curves[e, channel, s] += pulled * D[s, i]
                with_rest[r, 0, e] += pulled * J[0, i]
                with_rest[r, 1, e] += pulled * J[1, i]
                for u in range(n_unknowns):
                    with_lattices[lattice, u, e] += columns.cross[first + i, u] * E[i, e]
    return own, with_curves, with_rest, with_lattices


@compiled
def residuals(columns, f, x, sites, slopes):
    """Return the sums (2, channel) of −slope·|F|² and of normal·|F|⁴ over the columns of a channel,
    normal being the diagonal of the shoeboxes' matrices.

    slopes: (column,) of −ln L by |F|². The first over the second is (data − model)/model of a
    channel's Bragg photons if all else is right.
    """
    F = structure_factors(columns, f, x, sites)
    out = np.zeros((2, f.shape[1]))
    for box in range(len(columns.first_column) - 1):
        place = columns.first_value[box]
        first = columns.first_column[box]
        for i in range(columns.first_column[box + 1] - first):
            column = first + i
            intensity = F[column].real ** 2 + F[column].imag ** 2
            out[0, columns.channel[column]] -= intensity * slopes[column]
            out[1, columns.channel[column]] += intensity**2 * columns.normal[place + i]
            place += i + 1
    return out


@inlined
def _along_intensities(columns, slope, cross, G, first, start, end):
    """Return what a shoebox says where all |F|² of a run grow by the same share: v = G I (n,), Iᵀv,
    the fall of −ln L, and what it shares with what stage 1 refines (unknown,).

    slope, cross: of all columns; G: (n, n) of the shoebox; first: its first column; start, end: of
    the run, counted from it.
    """
    v = np.zeros(len(G))
    shared = np.zeros(cross.shape[1])
    known = 0.0
    fall = 0.0
    for j in range(start, end):
        intensity = columns.intensity[first + j]
        fall += slope[first + j] * intensity
        for i in range(len(G)):
            v[i] += G[j, i] * intensity
        for u in range(len(shared)):
            shared[u] += cross[first + j, u] * intensity
    for j in range(start, end):
        known += v[j] * columns.intensity[first + j]
    return v, known, fall, shared


@compiled
def scattered(columns, square):
    """Return the parabolas of lattices with a factor 1 + s of each run where it is likeliest.

    square: variance of s. Returns normal, slope, cross, what is to be taken off the information of
    what stage 1 refines (lattice, unknown, unknown), score and loss, of all lattices.
    """
    n_unknowns = columns.cross.shape[1]
    normal = columns.normal.copy()
    slope = columns.slope.copy()
    cross = columns.cross.copy()
    score = columns.score.copy()
    loss = columns.loss.copy()
    shared = np.zeros((len(loss), n_unknowns, n_unknowns))
    for lattice, box, first, last in _shoeboxes(columns):
        n = last - first
        G = _square(columns, box)
        starts = _runs(columns, first, last)
        for run in range(len(starts) - 1):
            start, end = starts[run], starts[run + 1]
            v, known, fall, t = _along_intensities(columns, slope, cross, G, first, start, end)
            weight = square / (1.0 + square * known)
            for i in range(n):
                weighted = weight * v[i]
                for j in range(n):
                    G[i, j] -= weighted * v[j]
                slope[first + i] -= fall * weighted
                for u in range(n_unknowns):
                    cross[first + i, u] -= weighted * t[u]
            for u in range(n_unknowns):
                score[lattice, u] -= weight * fall * t[u]
                for w in range(n_unknowns):
                    shared[lattice, u, w] += weight * t[u] * t[w]
            loss[lattice] += 0.5 * (np.log(1.0 + square * known) - weight * fall**2)
        place = columns.first_value[box]
        for i in range(n):
            for j in range(i + 1):
                normal[place] = G[i, j]
                place += 1
    return normal, slope, cross, shared, score, loss


@compiled
def of_factors(columns, f, x, sites, slopes, covariance):
    """Return what lattices say about the variance of factors 1 + s of runs: Σ P (z² − 1) and Σ P².

    P is the variance of the slope of −ln L by s, once X of the reflection and the lattice have
    followed; z² is the square of the slope over it, at most `LARGEST_SQUARE`, over the mean of what
    is so limited. slopes: (column,) of −ln L by |F|²; covariance: (reflection, 3) of a and b.
    """
    F = structure_factors(columns, f, x, sites)
    excess = 0.0
    information = 0.0
    for lattice, box, first, last in _shoeboxes(columns):
        G = _square(columns, box)
        J = _derivatives(columns, F, first, last)
        starts = _runs(columns, first, last)
        for run in range(len(starts) - 1):
            start, end = starts[run], starts[run + 1]
            r = columns.reflection[first + start]
            v, known, slope, t = _along_intensities(
                columns, slopes, columns.cross, G, first, start, end
            )
            along = 0.0
            across = 0.0
            for i in range(last - first):
                if columns.reflection[first + i] == r:
                    along += v[i] * J[0, i]
                    across += v[i] * J[1, i]
            variance = known - t @ (columns.held[lattice] @ t)
            variance -= along * (covariance[r, 0] * along + covariance[r, 1] * across)
            variance -= across * (covariance[r, 1] * along + covariance[r, 2] * across)
            if variance > LEAST_LEFT * known:
                square = min(slope**2 / variance, LARGEST_SQUARE) / MEAN_OF_SQUARES
                excess += variance * (square - 1.0)
                information += variance**2
    return excess, information
