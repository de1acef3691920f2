"""Structure factors with measured amplitudes: merged intensities on a model's scale, its phases and energy dependence.

⟨I⟩ = k exp(−2 B/4d²) ⟨|F|²⟩ of shells, F the model's at the energy of the data, gives k and B. I/k then is |F|² in
electrons², and the model scaled to the data is F exp(−B/4d²).
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis import merging
from spreadflow.physics import lattice
from spreadflow.physics.structure_factors import StructureFactors

N_SHELLS, MIN_IN_SHELL = 20, 10
"""shells of equal volume the scale is found on, and reflections that make one"""


class Scale(NamedTuple):
    """I = k exp(−2 B/4d²) |F|²."""

    k: float
    b: float
    """Å²"""


def scale(intensity: np.ndarray, sigma: np.ndarray, f_squared: np.ndarray, d: np.ndarray) -> Scale:
    """Linear least squares of ln(ΣI/Σ|F|²) in shells on 1/4d². All (reflection,); negative intensities belong to them.

    The variance of a shell of n is 1/n (a model whose |F|² are wrong) + Σσ²/(ΣI)². Shells with ΣI ≤ 0 say nothing.
    Raises ValueError where fewer than two shells are left.
    """
    shell = merging.shells(d, float(d.min(initial=np.inf)), N_SHELLS)
    n, data, model, variance, stol2 = (
        np.bincount(shell, weights, N_SHELLS)
        for weights in (np.ones(len(d)), intensity, f_squared, sigma**2, 0.25 / d**2)
    )
    good = (n >= MIN_IN_SHELL) & (data > 0) & (model > 0)
    if good.sum() < 2:
        raise ValueError(f"{len(d)} common reflections")
    weight = 1.0 / np.sqrt(1.0 / n[good] + variance[good] / data[good] ** 2)
    line = np.polynomial.Polynomial.fit(
        stol2[good] / n[good], np.log(data[good] / model[good]), 1, w=weight, domain=[0, 1], window=[0, 1]
    )
    level, slope = line.coef
    return Scale(float(np.exp(level)), -0.5 * float(slope))


def measured(
    model: StructureFactors,
    cell: np.ndarray,
    space_group: str,
    *,
    hkl: np.ndarray,
    intensity: np.ndarray,
    sigma: np.ndarray,
    channel: int,
    min_i_over_sigma: float,
    complete: bool,
) -> StructureFactors:
    """F(h, E)·√(I/k)/|F(h, E_data)| of the nodes with I ≥ min_i_over_sigma·σ.

    hkl (n, 3), intensity, sigma (n,): merged; the mate of an acentric reflection has the negative index. cell: (6,) Å,
    rad, of the model. channel: that of E_data. complete: all other nodes as well, as F(h, E)·exp(−B/4d²); without it
    they are left out. Raises ValueError where too few reflections are common to model and data.
    """
    d = lattice.spacing(lattice.reciprocal(cell), model.hkl)
    unique = merging.Unique(lattice.degrees(cell), space_group, float(d.min()))
    row, own = unique.rows(hkl), unique.rows(model.hkl)
    values = np.full((2, len(unique) + 1), np.nan)  # one row more, for nodes that are absent
    values[:, row[row >= 0]] = np.array([intensity, sigma])[:, row >= 0]
    value, error = values[:, own]
    squared = np.abs(model._replace(anomalous=model.anomalous[:, [channel]]).at(np.arange(len(d)))[:, 0]) ** 2
    known = np.isfinite(value) & (error > 0) & (squared > 0)
    found = scale(value[known], error[known], squared[known], d[known])
    strong = known & (np.nan_to_num(value) >= min_i_over_sigma * np.nan_to_num(error))
    factor = np.exp(-found.b * 0.25 / d**2)
    factor[strong] = np.sqrt(value[strong] / found.k / squared[strong])
    keep = slice(None) if complete else strong
    hkl, rest, groups = model.hkl[keep], (factor * model.rest)[keep], (factor * model.groups)[:, keep]
    return model._replace(hkl=hkl, rest=rest, groups=groups)
