"""Sums over the reflections of `predict`. They are formed part by part: no two parts are in memory
together.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.errors import PredictedOutcome
from spreadflow.io import store
from spreadflow.models import CHOSEN, Choice, ReflectionFlag
from spreadflow.products import Predict
from spreadflow.products.predict import Lattices, Reflections
from spreadflow.report.drawn import are_drawn, of_drawn

KINDS = (Choice.STRONG, Choice.WEAK, Choice.LEFT_OUT)
"""What becomes of the reflections in the range."""

N_SHELLS = 8
"""Shells of resolution, of equal numbers of reflections."""

SIGNAL = 3.0
"""I/σ from which a reflection certainly has signal."""

DRAWN = (
    Predict.lattices.run,
    Predict.lattices.outcome,
    Predict.reflections.lattice,
    Predict.reflections.d,
    Predict.reflections.fast,
    Predict.reflections.slow,
    Predict.reflections.fast_spot,
    Predict.reflections.slow_spot,
    Predict.reflections.choice,
)
"""Columns of drawn lattices."""

SUMMED = (
    Predict.lattices.outcome,
    Predict.reflections.lattice,
    Predict.reflections.d,
    Predict.reflections.intensity,
    Predict.reflections.sigma,
    Predict.reflections.flags,
    Predict.reflections.expected,
    Predict.reflections.noise,
    Predict.reflections.fast_spot,
    Predict.reflections.choice,
)
"""Columns that sums are formed of."""

STRENGTHS = np.geomspace(1e-2, 1e3, 51)
"""Edges of the bins of expected photons over noise; what lies beyond is in the first or the last.
"""


class Sums(NamedTuple):
    """Sums over the reflections of some parts; shells are of those in the range."""

    n_chosen: np.ndarray
    """(lattice,) reflections chosen of each"""
    of_choice: np.ndarray
    """(`Choice`,) reflections"""
    of_strength: np.ndarray
    """(kind of `KINDS`, bin of `STRENGTHS`) reflections in the range"""
    n_matched: int
    """reflections of predicted lattices with an observed spot"""
    n: np.ndarray
    """(shell,) reflections"""
    n_strong: np.ndarray
    """(shell,) those expected to stand out"""
    n_weak: np.ndarray
    """(shell,) weak ones that are chosen"""
    n_signal: np.ndarray
    """(shell,) those that certainly have signal"""
    n_signal_chosen: np.ndarray
    """(shell,) those of them that are chosen"""
    brightness: np.ndarray
    """(shell, 3, 3) of all, of the chosen, and of the weak ones: ΣI, Σ of what is expected, Σσ²"""
    d_max: np.ndarray
    """(shell,) Å"""
    d_min: np.ndarray
    """(shell,) Å"""


def drawn_tables(path: Path, lattices: Lattices) -> Predict:
    """Return columns `DRAWN` of the drawn lattices. lattices: all of them."""
    drawn = are_drawn(lattices.shot_id, lattices.k)
    return Predict.joined(
        [
            of_drawn(part.read(DRAWN), drawn[part.rows("lattices")])
            for part in store.parts_of(path, Predict)
        ]
    )


def shell_edges(reflections: Reflections) -> np.ndarray:
    """Return d of the first reflection of each shell but the first, Å, descending: the shells have
    equal numbers of reflections in the range.
    """
    d = np.sort(reflections.d[_in_range(reflections)])[::-1]
    return np.array([shell[0] for shell in np.array_split(d, N_SHELLS)[1:] if len(shell)])


def summed(path: Path, edges: np.ndarray) -> Sums:
    """Return the sums over all parts. edges: of the shells, descending."""
    return _together([_of_part(part.read(SUMMED), edges) for part in store.parts_of(path, Predict)])


def _of_part(predict: Predict, edges: np.ndarray) -> Sums:
    """Return the sums over a part."""
    lattices = predict.lattices
    reflections = predict.reflections
    is_chosen = _chosen(reflections)
    is_predicted = lattices.outcome == PredictedOutcome.PREDICTED
    has_spot = np.isfinite(reflections.fast_spot) & is_predicted[reflections.lattice]
    ranged = reflections[_in_range(reflections)]
    strength = np.clip(ranged.expected / ranged.noise, STRENGTHS[0], STRENGTHS[-1])
    return Sums(
        n_chosen=np.bincount(reflections.lattice[is_chosen], minlength=len(lattices)),
        of_choice=np.bincount(reflections.choice, minlength=len(Choice)),
        of_strength=np.array(
            [np.histogram(strength[ranged.choice == kind], STRENGTHS)[0] for kind in KINDS]
        ),
        n_matched=int(np.count_nonzero(has_spot)),
        **_of_shells(ranged, np.searchsorted(-edges, -ranged.d, side="right"), len(edges) + 1),
    )


def _of_shells(ranged: Reflections, shell: np.ndarray, n_shells: int) -> dict[str, np.ndarray]:
    """Return the sums over shells. ranged: reflections in the range. shell: that of each."""
    is_chosen = _chosen(ranged)
    is_strong = ranged.choice == Choice.STRONG
    has_signal = _has_signal(ranged)
    everything = np.ones(len(shell), dtype=bool)

    def count(which: np.ndarray) -> np.ndarray:
        return np.bincount(shell[which], minlength=n_shells)

    d_max = np.full(n_shells, -np.inf)
    d_min = np.full(n_shells, np.inf)
    np.maximum.at(d_max, shell, ranged.d)
    np.minimum.at(d_min, shell, ranged.d)
    kinds = (everything, is_chosen, ~is_strong)
    return {
        "n": count(everything),
        "n_strong": count(is_strong),
        "n_weak": count(ranged.choice == Choice.WEAK),
        "n_signal": count(has_signal),
        "n_signal_chosen": count(has_signal & is_chosen),
        "brightness": np.stack(
            [_brightness(ranged, which, shell, n_shells) for which in kinds], axis=1
        ),
        "d_max": d_max,
        "d_min": d_min,
    }


def _brightness(
    reflections: Reflections, which: np.ndarray, shell: np.ndarray, n_shells: int
) -> np.ndarray:
    """Return (shell, 3) ΣI, Σ of what is expected of their resolution, and Σσ² of some reflections
    that are integrated. σ has Wilson's distribution of |F|² in it.
    """
    rows = which & _is_integrated(reflections)
    intensity, expected, sigma = (
        column[rows].astype(np.float64)
        for column in (reflections.intensity, reflections.expected, reflections.sigma)
    )
    columns = (intensity, expected, sigma**2 + expected**2)
    return np.stack([np.bincount(shell[rows], column, n_shells) for column in columns], axis=1)


def _together(parts: list[Sums]) -> Sums:
    """Return the sums over all parts."""
    joins: dict[str, Callable] = {"n_chosen": np.concatenate, "d_max": np.max, "d_min": np.min}
    columns = {}
    for name in Sums._fields:
        join = joins.get(name, np.sum)
        columns[name] = join([getattr(part, name) for part in parts], axis=0)
    return Sums(**columns)


def _in_range(reflections: Reflections) -> np.ndarray:
    """Return which reflections could be chosen, (n,) bool."""
    return np.isin(reflections.choice, KINDS)


def _chosen(reflections: Reflections) -> np.ndarray:
    """Return which reflections were chosen, (n,) bool."""
    return np.isin(reflections.choice, CHOSEN)


def _is_integrated(reflections: Reflections) -> np.ndarray:
    """Return which reflections have intensities that may be used, (n,) bool."""
    return reflections.flags & ReflectionFlag.FAILED == 0


def _has_signal(reflections: Reflections) -> np.ndarray:
    """Return which reflections certainly have signal, (n,) bool."""
    is_bright = reflections.intensity > SIGNAL * reflections.sigma
    return _is_integrated(reflections) & is_bright
