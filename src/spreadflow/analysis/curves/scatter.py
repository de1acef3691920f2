"""How far the lattices show each reflection brighter or dimmer than their models do.

What a model has wrong of a lattice's mosaicity makes all channels of a reflection brighter, or
dimmer, by a factor of its own; left alone, that would pass for X. The factor is 1 + s, s normal
with a standard deviation that all reflections share, the *scatter*; s is integrated out of the Gram
matrices. The scatter is found by scoring, after the restricted maximum likelihood of Patterson &
Thompson (1971, Biometrika 58, 545): the slope of −ln L by s has, where the scatter is right, the
variance IᵀGI less what X and lattice have followed.
"""

from collections.abc import Sequence

import numpy as np

from spreadflow.analysis.curves import loops
from spreadflow.analysis.curves.columns import Columns
from spreadflow.analysis.curves.expand import complex_curves
from spreadflow.analysis.curves.objective import Point, Problem

SMALLEST_WEIGHT = 1e-300
"""Weight of what lattices say, below which they say nothing."""

FIRST = 0.1
"""Scatter with which the search for it begins."""

RELAXATION = 0.5
"""Share of the change that lattices ask for, which is made at a time: X follows, and asks for less.
"""

LARGEST = 1.0
"""Scatter beyond which lattices have no model: it grows no further."""

SMALLEST_CHANGE = 0.003
"""Change of the scatter that no longer counts."""


BANDS_EV = (np.inf, 16.0, 4.0)
"""Widths, eV, of the bands of energy in which models of a spot are wrong by one factor, level by
level. Of the mosaicity of the demo, taken for a continuous one, bands of 3-6 eV are likelier than
others beside the whole spot, and a level in between is likelier still.
"""


def n_channels(energies_ev: np.ndarray) -> np.ndarray:
    """Return the channels (level,) of a band, 0 = all. energies_ev: (channel,)"""
    channel_ev = float(np.median(np.diff(energies_ev)))
    widths = np.array(BANDS_EV)
    is_whole = ~np.isfinite(widths)
    n = np.maximum(np.round(np.where(is_whole, 0.0, widths) / channel_ev), 1.0)
    return np.where(is_whole, 0, n).astype(np.int64)


def first_scatter() -> np.ndarray:
    """Return the scatter (level,) with which the search for it begins."""
    return np.full(len(BANDS_EV), FIRST)


def no_scatter() -> np.ndarray:
    """Return the scatter (level,) of lattices whose models are right."""
    return np.zeros(len(BANDS_EV))


def in_words(scatter: Sequence[float]) -> str:
    """Return a scatter (level,) in words, such as "5 %, 20 % in bands of 4 eV"."""
    widths = [f" in bands of {width:g} eV" if np.isfinite(width) else "" for width in BANDS_EV]
    return ", ".join(
        f"{100.0 * value:.0f} %{width}" for value, width in zip(scatter, widths, strict=True)
    )


def scattered(columns: Columns, scatter: np.ndarray, energies_ev: np.ndarray) -> Columns:
    """Return the columns of lattices whose reflections scatter about their models.

    scatter: (level,) standard deviations of factors; energies_ev: (channel,). The parabola of a
    shoebox is that with the factors where they are likeliest.
    """
    if not scatter.any():
        return columns
    bands = n_channels(energies_ev)
    normal, slope, cross, shared, score, loss = loops.scattered(columns, scatter**2, bands)
    held = np.linalg.inv(np.linalg.inv(columns.held) - shared)
    return columns._replace(
        normal=normal, slope=slope, cross=cross, held=held, score=score, loss=loss
    )


def likelier(problem: Problem, point: Point, scatter: np.ndarray) -> np.ndarray:
    """Return the scatter (level,) that all lattices ask for in place of the one that they have.
    Collective.

    problem: its columns scatter already; point: where curves and X are.
    """
    excess, weight = loops.of_factors(
        problem.columns,
        complex_curves(problem.p.curves(point.theta)),
        point.x,
        problem.of_sites(point.theta),
        point.slopes,
        point.covariance,
        n_channels(problem.p.energies_ev),
    )
    total = problem.add(np.concatenate([excess, weight.ravel()]))
    excess, weight = total[: len(excess)], total[len(excess) :].reshape(weight.shape)
    size = np.sqrt(np.maximum(np.diag(weight), SMALLEST_WEIGHT))
    change = np.linalg.pinv(weight / np.outer(size, size), hermitian=True) @ (excess / size) / size
    return np.sqrt(np.clip(scatter**2 + RELAXATION * change, 0.0, LARGEST**2))
