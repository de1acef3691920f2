"""How good merged intensities are, in shells of equal volume in reciprocal space; Friedel mates
separate.
"""

from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.analysis.merging.merging import Merged, Unique, shells

RESIDUE = {"C": 5.0, "N": 1.35, "O": 1.5, "H": 8.0, "S": 0.03}
"""Atoms of an average protein residue."""

WILSON_D_MAX = 4.0
"""Å; coarser than this, intensities do not fall off as independent atoms do."""

WILSON_MIN_IN_SHELL = 10
"""Reflections that a shell of the Wilson plot needs."""

WILSON_MIN_SHELLS = 3
"""Shells that a Wilson plot needs."""

MIN_PAIRS = 3
"""Pairs that a correlation needs."""


class Bins(NamedTuple):
    """One row per resolution shell, coarse to fine; shape (bin,). `overall` has one row."""

    d_max: np.ndarray
    """low-resolution edge, Å (infinite for the first)"""
    d_min: np.ndarray
    n_possible: np.ndarray
    """unique reflections, Friedel mates separate"""
    n_measured: np.ndarray
    n_observations: np.ndarray
    mean_intensity: np.ndarray
    i_over_sigma: np.ndarray
    """mean of I/σ of the merged reflections"""
    cc_half: np.ndarray
    n_pairs: np.ndarray
    r_split: np.ndarray
    cc_ano: np.ndarray
    """correlation of I(+) − I(−) between the half sets"""
    n_pairs_ano: np.ndarray


def in_bins(merged: Merged, unique: Unique, n_bins: int) -> Bins:
    """Return statistics in n_bins shells. Where a shell has too few pairs the correlation is
    NaN.
    """
    shell = shells(unique.d, unique.d_min, n_bins)
    numbers = np.arange(n_bins + 1.0)
    with np.errstate(divide="ignore"):
        inverse_volume = n_bins / numbers
    edges = unique.d_min * inverse_volume ** (1.0 / 3.0)
    rows = [_row(merged, unique, shell == i) for i in range(n_bins)]
    return _bins(edges[:-1], edges[1:], rows)


def overall(merged: Merged, unique: Unique) -> Bins:
    """Return the statistics of all reflections together."""
    everything = np.ones(len(unique), dtype=bool)
    row = _row(merged, unique, everything)
    d_max = np.array([unique.d.max()])
    d_min = np.array([unique.d_min])
    return _bins(d_max, d_min, [row])


def _bins(d_max: np.ndarray, d_min: np.ndarray, rows: list[dict[str, float]]) -> Bins:
    """Return the statistics of shells with these edges from their rows."""
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Bins(d_max=d_max, d_min=d_min, **columns)


def _row(merged: Merged, unique: Unique, chosen: np.ndarray) -> dict[str, float]:
    """Return the statistics, by their names in `Bins`, of the chosen reflections (unique,) bool."""
    is_measured = chosen & (merged.n > 0)
    intensity = merged.intensity[is_measured]
    over_sigma = intensity / merged.sigma[is_measured]
    n_measured = len(intensity)

    in_both_halves = is_measured & np.isfinite(merged.half).all(axis=1)
    halves = merged.half[in_both_halves].T
    plus = np.flatnonzero(in_both_halves & (unique.friedel > 0))
    has_mate = np.isfinite(merged.half[unique.mate[plus]]).all(axis=1)
    plus = plus[has_mate]
    differences = (merged.half[plus] - merged.half[unique.mate[plus]]).T
    return {
        "n_possible": int(chosen.sum()),
        "n_measured": n_measured,
        "n_observations": int(merged.n[chosen].sum()),
        "mean_intensity": float(intensity.mean()) if n_measured else np.nan,
        "i_over_sigma": float(over_sigma.mean()) if n_measured else np.nan,
        "cc_half": correlation(*halves),
        "n_pairs": int(in_both_halves.sum()),
        "r_split": r_split(*halves),
        "cc_ano": correlation(*differences),
        "n_pairs_ano": len(plus),
    }


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return Pearson's correlation coefficient; NaN for fewer than three pairs or a constant."""
    if len(x) < MIN_PAIRS:
        return float("nan")
    x = x - x.mean()
    y = y - y.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm > 0 else float("nan")


def r_split(x: np.ndarray, y: np.ndarray) -> float:
    """Return Rsplit of two half sets, 2^−½ Σ|I₁ − I₂| / ½Σ(I₁ + I₂) (White et al. 2012, J. Appl.
    Cryst. 45, 335); NaN where there is nothing to divide by.
    """
    total = 0.5 * (x + y).sum()
    if not len(x) or not total > 0:
        return float("nan")
    difference = np.abs(x - y).sum()
    return float(difference / np.sqrt(2.0) / total)


def wilson_b(merged: Merged, unique: Unique, n_bins: int = 20) -> tuple[float, float]:
    """Return B (Å²) and its standard error from ln(⟨I⟩/Σf²) = const − 2 B s² in shells finer than 4
    Å (Wilson 1942).

    f are the form factors of an average protein's atoms. NaN where fewer than three shells hold
    intensity.
    """
    is_usable = (merged.n > 0) & (unique.d < WILSON_D_MAX)
    shell = shells(unique.d, unique.d_min, n_bins)[is_usable]
    intensity = merged.intensity[is_usable]
    s2_of_unique = 0.25 / unique.d[is_usable] ** 2

    count = np.bincount(shell, minlength=n_bins)
    divisor = np.maximum(count, 1)
    mean = np.bincount(shell, intensity, n_bins) / divisor
    s2 = np.bincount(shell, s2_of_unique, n_bins) / divisor

    is_fitted = (count >= WILSON_MIN_IN_SHELL) & (mean > 0)
    n_fitted = is_fitted.sum()
    if n_fitted < WILSON_MIN_SHELLS:
        return float("nan"), float("nan")

    # a line through the logarithms, weighted by the number of reflections
    s2 = s2[is_fitted]
    level = np.log(mean[is_fitted] / scattering_power(s2))
    root_weight = np.sqrt(count[is_fitted])
    columns = np.stack([np.ones(n_fitted), -2.0 * s2], axis=1)
    design = columns * root_weight[:, None]
    solution, residual, *_ = np.linalg.lstsq(design, level * root_weight, rcond=None)

    freedom = max(n_fitted - 2, 1)
    variance = residual[0] / freedom if len(residual) else 0.0
    covariance = np.linalg.inv(design.T @ design)
    b_sigma = np.sqrt(variance * covariance[1, 1])
    return float(solution[1]), float(b_sigma)


def scattering_power(s2: np.ndarray) -> np.ndarray:
    """Return Σ f² of an average protein residue at s² = 1/(4d²) (n,), electrons², by the tables of
    gemmi (IT 1992).
    """
    squares = []
    for name, n_atoms in RESIDUE.items():
        factor = gemmi.Element(name).it92
        f = np.array([factor.calculate_sf(x) for x in s2])
        squares.append(n_atoms * f**2)
    return np.sum(squares, axis=0)
