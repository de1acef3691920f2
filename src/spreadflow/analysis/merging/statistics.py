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
    with np.errstate(divide="ignore"):
        edges = unique.d_min * (n_bins / np.arange(n_bins + 1.0)) ** (1.0 / 3.0)
    rows = [_row(merged, unique, shell == i) for i in range(n_bins)]
    return Bins(edges[:-1], edges[1:], *(np.array(column) for column in zip(*rows, strict=True)))


def overall(merged: Merged, unique: Unique) -> Bins:
    """Return the statistics of all reflections together."""
    row = _row(merged, unique, np.ones(len(unique), dtype=bool))
    return Bins(np.array([unique.d.max()]), np.array([unique.d_min]), *(np.array([x]) for x in row))


def _row(merged: Merged, unique: Unique, chosen: np.ndarray) -> tuple:
    measured = chosen & (merged.n > 0)
    both = measured & np.isfinite(merged.half).all(axis=1)
    plus = np.flatnonzero(both & (unique.friedel > 0))
    plus = plus[np.isfinite(merged.half[unique.mate[plus]]).all(axis=1)]
    difference = merged.half[plus] - merged.half[unique.mate[plus]]
    n = int(measured.sum())
    return (
        int(chosen.sum()),
        n,
        int(merged.n[chosen].sum()),
        float(merged.intensity[measured].mean()) if n else np.nan,
        float((merged.intensity[measured] / merged.sigma[measured]).mean()) if n else np.nan,
        correlation(*merged.half[both].T),
        int(both.sum()),
        r_split(*merged.half[both].T),
        correlation(*difference.T),
        len(plus),
    )


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return pearson's correlation coefficient; NaN for fewer than three pairs or a constant."""
    if len(x) < 3:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm > 0 else float("nan")


def r_split(x: np.ndarray, y: np.ndarray) -> float:
    """Return 2^−½ Σ|I₁ − I₂| / ½Σ(I₁ + I₂) (White et al. 2012, J. Appl. Cryst. 45, 335)."""
    total = 0.5 * (x + y).sum()
    return (
        float(np.abs(x - y).sum() / np.sqrt(2.0) / total) if len(x) and total > 0 else float("nan")
    )


def wilson_b(merged: Merged, unique: Unique, n_bins: int = 20) -> tuple[float, float]:
    """Return B (Å²) and its standard error from ln(⟨I⟩/Σf²) = const − 2 B s² in shells finer than 4
    Å (Wilson 1942).

    f are the form factors of an average protein's atoms. NaN where fewer than three shells hold
    intensity.
    """
    shell = shells(unique.d, unique.d_min, n_bins)
    usable = (merged.n > 0) & (unique.d < WILSON_D_MAX)
    count = np.bincount(shell[usable], minlength=n_bins)
    mean = np.bincount(shell[usable], merged.intensity[usable], n_bins) / np.maximum(count, 1)
    s2 = np.bincount(shell[usable], 0.25 / unique.d[usable] ** 2, n_bins) / np.maximum(count, 1)
    fit = (count >= 10) & (mean > 0)
    if fit.sum() < 3:
        return float("nan"), float("nan")
    level = np.log(mean[fit] / scattering_power(s2[fit]))
    design = np.stack([np.ones(fit.sum()), -2.0 * s2[fit]], axis=1) * np.sqrt(count[fit])[:, None]
    solution, residual, *_ = np.linalg.lstsq(design, level * np.sqrt(count[fit]), rcond=None)
    variance = residual[0] / max(fit.sum() - 2, 1) if len(residual) else 0.0
    return float(solution[1]), float(np.sqrt(variance * np.linalg.inv(design.T @ design)[1, 1]))


def scattering_power(s2: np.ndarray) -> np.ndarray:
    """Return Σ f² of an average protein residue at s² = 1/(4d²) (n,), electrons², by the tables of
    gemmi (IT 1992).
    """
    factors = {name: gemmi.Element(name).it92 for name in RESIDUE}
    squares = [
        n * np.array([factors[name].calculate_sf(x) for x in s2]) ** 2
        for name, n in RESIDUE.items()
    ]
    return np.sum(squares, axis=0)
