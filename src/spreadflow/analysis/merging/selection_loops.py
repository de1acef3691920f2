"""Compiled loops over all reflections of accepted lattices: which unique reflection each is of,
whether it can be merged at all, and how large partialities are (`selection.select`).
"""

from typing import NamedTuple

import numpy as np

from spreadflow.models import ReflectionFlag
from spreadflow.physics.compiling import compiled

USED, FAILED, RESOLUTION, ABSENT, PARTIALITY = range(5)
"""The first of `selection.Fate`, in its order."""

FAILURES = int(ReflectionFlag.FAILED)
"""Bits of flags that no reflection to be merged has."""

SMALLEST_FACTOR = 1e-20
"""Expectation, as `factor` of `merging.Observations`, up to which a reflection has none, Å³/rad:
its photons divided by less would be no number in single precision.
"""


class ReflectionColumns(NamedTuple):
    """Columns of `products.index.Reflections`; (reflection,)."""

    lattice: np.ndarray
    hkl: np.ndarray
    partiality: np.ndarray
    lorentz: np.ndarray
    polarization: np.ndarray
    capture: np.ndarray
    intensity: np.ndarray
    sigma_background: np.ndarray
    flags: np.ndarray


class UniqueRows(NamedTuple):
    """Which row of `merging.Unique` a Miller index has, and its resolution."""

    grid: np.ndarray
    """row of every Miller index from −limits to limits, −1 = none"""
    limits: np.ndarray
    """(3,)"""
    metric: np.ndarray
    """(3, 3) of the reciprocal cell, Å⁻²"""
    largest: float
    """1/d² of the resolution limit, Å⁻²"""


@compiled
def fill_judged(read, pulse, unique, rows, s2, factors, fates):
    """Fill rows of `Unique` (−1 = none), 1/(4d²), factors and fates, (reflection,), as in
    `merging.Observations` and `selection.Fate`. pulse: (lattice,).
    """
    grid = unique.grid
    metric = unique.metric
    most_h, most_k, most_l = unique.limits
    for i in range(len(rows)):
        h = read.hkl[i, 0]
        k = read.hkl[i, 1]
        l = read.hkl[i, 2]
        row = -1
        if abs(h) <= most_h and abs(k) <= most_k and abs(l) <= most_l:
            row = grid[h + most_h, k + most_k, l + most_l]
        across = h * k * metric[0, 1] + h * l * metric[0, 2] + k * l * metric[1, 2]
        square = h * h * metric[0, 0] + k * k * metric[1, 1] + l * l * metric[2, 2] + 2.0 * across
        of_ray = np.float64(read.polarization[i]) * read.capture[i] * read.lorentz[i]
        factor = read.partiality[i] * pulse[read.lattice[i]] * of_ray

        fate = USED if row >= 0 else ABSENT
        if square > unique.largest:
            fate = RESOLUTION
        is_finite = np.isfinite(read.intensity[i]) and np.isfinite(factor)
        is_valid = is_finite and read.sigma_background[i] > 0.0 and factor > SMALLEST_FACTOR
        if not is_valid or (read.flags[i] & FAILURES) != 0:
            fate = FAILED
        rows[i] = row
        s2[i] = 0.25 * square
        factors[i] = factor
        fates[i] = fate


@compiled
def count_partialities(partiality, shell, lattice, group, counts):
    """Add reflections to a histogram (group, shell, step) of partialities from 0 to 1.

    partiality, shell, lattice: (reflection,), shell −1 = does not count; group: (lattice,) number
    in the histogram.
    """
    n_steps = counts.shape[2]
    for i in range(len(partiality)):
        if shell[i] >= 0:
            number = int(np.float64(partiality[i]) * n_steps)
            counts[group[lattice[i]], shell[i], min(number, n_steps - 1)] += 1


@compiled
def judge_partialities(partiality, shell, lattice, least, fates, n_good):
    """Set the fate of reflections recorded too little, and count the others of each lattice.

    partiality, shell, lattice: as in `count_partialities`; least: (shell,) partiality; fates:
    (reflection,); n_good: (lattice,) counts, zero.
    """
    for i in range(len(partiality)):
        if shell[i] >= 0:
            if partiality[i] < least[shell[i]]:
                fates[i] = PARTIALITY
            else:
                n_good[lattice[i]] += 1
