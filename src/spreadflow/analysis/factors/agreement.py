"""How near intensities are to others that are taken for right."""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.factors import french_wilson
from spreadflow.analysis.merging.merging import N_SHELLS, Unique
from spreadflow.analysis.merging.statistics import correlation

N_OF_R = 5
"""Ranges of resolution, of equal numbers of reflections, in which R is given."""

N_TENTHS = 10
"""Parts of the reflections, by strength, whose pulls are told apart."""


class Agreement(NamedTuple):
    """How near intensities are to reference ones."""

    n: int
    """reflections"""
    r_f: float
    """Σ|F − F_ref|/ΣF_ref, F after French & Wilson, on the scale that suits F best"""
    r_of_shells: list[float]
    """the same from fine to coarse resolution, on that scale"""
    cc_ano: float
    """correlation of F(+) − F(−)"""
    n_pairs: int
    """mates of these"""
    pull_sd: list[float]
    """standard deviation of (I − I_ref)/σ, in tenths of I_ref/σ, weakest first"""


def agreement(
    unique: Unique,
    intensity: np.ndarray,
    sigma: np.ndarray,
    reference: np.ndarray,
    is_chosen: np.ndarray,
) -> Agreement:
    """Compare intensities and their σ > 0 with reference ones ≥ 0, on chosen reflections; all
    (reflection,).
    """
    rows = np.flatnonzero(is_chosen)
    F_reference = np.sqrt(reference)
    factor = _scale(intensity[rows], F_reference[rows])
    scaled = intensity[rows] / factor
    scaled_sigma = sigma[rows] / factor
    shell = unique.shell[rows]
    means = french_wilson.shell_means(scaled, np.ones(len(rows), dtype=bool), shell, N_SHELLS)
    is_centric = unique.friedel[rows] == 0
    expected = french_wilson.posterior(scaled, scaled_sigma, means[shell], is_centric)
    F = np.full(len(unique), np.nan)
    F[rows] = expected.amplitude
    F *= (F_reference[rows] @ F_reference[rows]) / (F[rows] @ F_reference[rows])

    by_resolution = rows[np.argsort(unique.d[rows], kind="stable")]
    plus = rows[unique.friedel[rows] > 0]
    plus = plus[is_chosen[unique.mate[plus]]]
    mate = unique.mate[plus]
    pull = (scaled - reference[rows]) / scaled_sigma
    by_strength = np.argsort(reference[rows] / scaled_sigma, kind="stable")
    return Agreement(
        n=len(rows),
        r_f=_r(F[rows], F_reference[rows]),
        r_of_shells=[
            _r(F[part], F_reference[part]) for part in np.array_split(by_resolution, N_OF_R)
        ],
        cc_ano=correlation(F[plus] - F[mate], F_reference[plus] - F_reference[mate]),
        n_pairs=len(plus),
        pull_sd=[float(np.std(pull[part])) for part in np.array_split(by_strength, N_TENTHS)],
    )


def _scale(intensity: np.ndarray, F_reference: np.ndarray) -> float:
    """Return the scale of intensities on reference amplitudes (n,), that of amplitudes by least
    squares: it is not that of the strongest reflections.
    """
    F = np.sqrt(np.maximum(intensity, 0.0))
    return float((F @ F_reference) / (F_reference @ F_reference)) ** 2


def _r(F: np.ndarray, F_reference: np.ndarray) -> float:
    """Return R of amplitudes (n,); NaN of none."""
    total = F_reference.sum()
    return float(np.abs(F - F_reference).sum() / total) if total > 0 else float("nan")
