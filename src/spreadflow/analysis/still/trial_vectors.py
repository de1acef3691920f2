"""Trial vectors of an axis: scored by the spots, refined on them, the best kept.

A direct lattice vector v turns every spot q of its lattice into an integer v·q. An observed q is
uncertain by `Errors.across` Å⁻¹ in every direction and by `Errors.radial`·|q| more along itself, so
that errors of v·q grow with the axis.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.still.search_space import Grid

N_SEARCH = 128
"""Spots that score trial vectors."""

N_LOWEST = 16
"""Spots that score trial vectors at least, those of lowest resolution."""

SAME_VECTOR = 0.03
"""Relative distance below which two trial vectors are one."""

N_SIGMA = 3.0
"""Standard deviations within which a spot is at a node."""

LARGEST_TOLERANCE = 0.25
"""Half of all phases are this close to an integer: what is known no better says nothing."""

WIDTHS = (0.3, 0.25, 0.2, 0.15, 0.0)
"""Least tolerance of the phase in each round of refining vectors: the first ones are far off."""

_CHUNK = 2048
"""Trial vectors that are scored at a time, which bounds the memory they take."""


class Errors(NamedTuple):
    """How well the observed q are known: standard deviations, and a limit."""

    across: float = 5e-4
    """Å⁻¹, across q and along it: geometry, centroid"""
    radial: float = 1e-3
    """fraction of |q|, along q in addition: bandwidth"""
    hkl_tolerance: float = 0.3
    """largest |h − round(h)| on any primitive axis of an indexed spot"""


USUAL_ERRORS = Errors()
"""Errors of XFEL stills with a bandwidth of some 0.1 % and a geometry right to half a pixel."""


def search(
    grid: Grid,
    frame: np.ndarray,
    q: np.ndarray,
    weights: np.ndarray,
    errors: Errors,
    n_refined: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best trial vectors of a grid, refined, and (k, n) bool, which spots they turn into
    integers; the best vector first, at most n_refined.

    frame: (3, 3) axes of the grid as columns. The best vector is that which turns the most weight
    into integers beyond what chance gives. Duplicates, also of opposite sign, are dropped.
    """
    used = _leading(q, weights, grid.q_max)
    score = _score(grid.vectors, q[used] @ frame, weights[used])
    n_first = min(n_refined, len(score) - 1)
    best = np.argpartition(score, n_first)[:n_refined]

    start = (frame @ grid.vectors[:, best]).T
    v, is_integer = _refine_vectors(start, q, weights, grid.q_max, errors)

    tolerance = _tolerance(v, v @ q.T, errors)
    by_chance = 2.0 * tolerance @ weights
    lack = by_chance - is_integer @ weights
    order = np.argsort(lack, kind="stable")
    v = v[order]
    is_integer = is_integer[order]

    length2 = (v * v).sum(axis=1)
    distance2 = length2[:, None] + length2 - 2.0 * np.abs(v @ v.T)
    is_same = distance2 < (SAME_VECTOR**2) * length2
    is_distinct = ~np.tril(is_same, -1).any(axis=1)
    return v[is_distinct], is_integer[is_distinct]


def _leading(q: np.ndarray, weights: np.ndarray, q_max: float) -> np.ndarray:
    """Return the indices of the `N_SEARCH` heaviest spots below q_max, or of those among the lowest
    few where hardly any are below it.
    """
    norm = np.linalg.norm(q, axis=1)
    n_few = min(len(norm), N_LOWEST)
    lowest_few = np.sort(norm)[n_few - 1]
    limit = max(q_max, lowest_few)

    low = np.flatnonzero(norm <= limit)
    heaviest_first = np.argsort(-weights[low], kind="stable")
    return low[heaviest_first[:N_SEARCH]]


def _score(trials: np.ndarray, q: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Σ w |v·q − round(v·q)| over the spots, small where v is good, of each trial vector v:
    (m,) float32.

    trials: (3, m) float32; q: (n, 3); weights: (n,).
    """
    q32 = q.astype(np.float32)
    w32 = weights.astype(np.float32)
    n_trials = trials.shape[1]

    scores = np.empty(n_trials, dtype=np.float32)
    for start in range(0, n_trials, _CHUNK):
        part = slice(start, start + _CHUNK)
        phase = q32 @ trials[:, part]
        phase -= np.rint(phase)
        scores[part] = w32 @ np.abs(phase, out=phase)
    return scores


def _tolerance(v: np.ndarray, phase: np.ndarray, errors: Errors) -> np.ndarray:
    """Return within what v·q counts as an integer, (k, n): three of its standard deviations, but at
    most a quarter.

    v: (k, 3) trial vectors; phase: (k, n) the products v·q.
    """
    length = np.linalg.norm(v, axis=1)
    from_across = (length * errors.across)[:, None]
    from_radial = errors.radial * phase
    sigma = np.hypot(from_across, from_radial)
    return np.minimum(N_SIGMA * sigma, LARGEST_TOLERANCE)


def _refine_vectors(
    v: np.ndarray, q: np.ndarray, weights: np.ndarray, q_first: float, errors: Errors
) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors (k, 3) fitted by least squares to the integers that they make of spots, first
    of those with |q| < q_first, then of ever more; and (k, n) bool, which spots are integers within
    the tolerance at the end.
    """
    norm = np.linalg.norm(q, axis=1)
    last = norm.max()
    growing = np.geomspace(q_first, max(last, q_first * 1.01), len(WIDTHS) - 1)
    limits = np.append(growing, last * 1.01)
    pairs = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
    products = np.stack([q[:, i] * q[:, j] for i, j in pairs], axis=1)

    for limit, width in zip(limits, WIDTHS, strict=True):
        phase = v @ q.T
        residual = phase - np.rint(phase)
        tolerance = np.maximum(_tolerance(v, phase, errors), width)
        is_integer = np.abs(residual) < tolerance
        weight = is_integer * (weights * (norm <= limit))

        normal = _normal_matrices(weight @ products)
        gradient = (weight * residual) @ q
        step = np.linalg.solve(normal, gradient[:, :, None])
        v = v - step[:, :, 0]

    phase = v @ q.T
    residual = phase - np.rint(phase)
    return v, np.abs(residual) < _tolerance(v, phase, errors)


def _normal_matrices(sums: np.ndarray) -> np.ndarray:
    """Return symmetric matrices (k, 3, 3) from their elements (k, 6) xx, yy, zz, yz, xz, xy, with a
    ridge where the spots span less than space.
    """
    xx, yy, zz, yz, xz, xy = sums.T
    trace = xx + yy + zz
    ridge = 1e-4 * trace + 1e-12
    rows = [
        [xx + ridge, xy, xz],
        [xy, yy + ridge, yz],
        [xz, yz, zz + ridge],
    ]
    return np.array(rows).transpose(2, 0, 1)
