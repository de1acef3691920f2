"""Trial vectors of an axis: scored by the spots, refined on them, the best kept.

A direct lattice vector v turns every spot q of its lattice into an integer v·q. An observed q is
uncertain by `Errors.across` Å⁻¹ in every direction and by `Errors.radial`·|q| more along itself, so
that errors of v·q grow with the axis.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.still import trial_loops
from spreadflow.analysis.still.search_space import Grid
from spreadflow.analysis.still.trial_loops import Refined, Spread

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
    refined = _refine_vectors(start, q, weights, grid.q_max, errors)
    order = np.argsort(refined.lack, kind="stable")
    v = refined.vectors[order]
    is_integer = refined.is_integer[order]

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
    q32 = np.ascontiguousarray(q, dtype=np.float32)
    return trial_loops.scores(trials, q32, weights.astype(np.float32))


def _refine_vectors(
    v: np.ndarray, q: np.ndarray, weights: np.ndarray, q_first: float, errors: Errors
) -> Refined:
    """Return vectors (k, 3) fitted by least squares to the integers that they make of spots, first
    of those with |q| < q_first, then of ever more.
    """
    norm = np.linalg.norm(q, axis=1)
    last = norm.max()
    growing = np.geomspace(q_first, max(last, q_first * 1.01), len(WIDTHS) - 1)
    limits = np.append(growing, last * 1.01)
    spread = Spread(errors.across, errors.radial, N_SIGMA, LARGEST_TOLERANCE)
    rows = np.ascontiguousarray(q.T)
    vectors = np.ascontiguousarray(v, dtype=np.float64)
    return trial_loops.refined(vectors, rows, weights, norm, limits, np.array(WIDTHS), spread)
