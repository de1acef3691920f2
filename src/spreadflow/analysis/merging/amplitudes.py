"""Structure factors with measured amplitudes: merged intensities on a model's scale, its phases and
its sites.

⟨I⟩ = k exp(−2 B/4d²) ⟨|F|²⟩ of shells, F the model's at the energy of the data, gives k and B. I/k
then is |F|² in electrons², and the model scaled to the data is F exp(−B/4d²). Curves of sites are
the model's guess, and so data change X, what scatters without them, alone: t·X, t real and one for
Friedel mates, whose difference is left to the curves.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.merging import merging
from spreadflow.physics import unit_cell
from spreadflow.physics.structure_factors import StructureFactors

N_SHELLS = 20
"""Shells of equal volume that the scale is found on."""

MIN_IN_SHELL = 10
"""Reflections that make a shell."""


class Scale(NamedTuple):
    """I = k exp(−2 B/4d²) |F|²."""

    k: float
    b: float
    """Å²"""


def scale(intensity: np.ndarray, sigma: np.ndarray, f_squared: np.ndarray, d: np.ndarray) -> Scale:
    """Return linear least squares of ln(ΣI/Σ|F|²) in shells on 1/4d². All (reflection,); negative
    intensities belong to them.

    The variance of a shell of n is 1/n (a model whose |F|² are wrong) + Σσ²/(ΣI)². Shells with ΣI ≤
    0 say nothing. Raises ValueError where fewer than two shells are left.
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
        stol2[good] / n[good],
        np.log(data[good] / model[good]),
        1,
        w=weight,
        domain=[0, 1],
        window=[0, 1],
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
    """Return exp(−B/4d²)·(t·X + S) of the nodes with I ≥ min_i_over_sigma·σ, I and σ of the mean of
    Friedel mates.

    X: F without the sites' f′ and f″; S: theirs; t: `factor`. hkl (n, 3), intensity, sigma (n,):
    merged; the mate of an acentric reflection has the negative index. cell: (6,) Å, rad, of the
    model. channel: that of the energy of the data. complete: all other nodes as well, with t = 1;
    without it they are left out. Raises ValueError where too few reflections are common to model
    and data.
    """
    d = unit_cell.spacing(unit_cell.reciprocal(cell), model.hkl)
    nodes = np.arange(len(model.hkl))
    unique = merging.Unique(
        unit_cell.degrees(cell), space_group, float(d.min()) * (1.0 - 1e-9)
    )  # the last one, too
    row = unique.rows(hkl)
    own = unique.rows(model.hkl)
    values = np.full((2, len(unique) + 1), np.nan)  # one row more, for nodes that are absent
    values[:, row[row >= 0]] = np.array([intensity, sigma])[:, row >= 0]
    value, error = values[:, own]
    at_data = model._replace(anomalous=model.anomalous[:, [channel]])
    X = at_data.without_sites(nodes)[:, 0]
    F = at_data.at(nodes)[:, 0]
    known = np.isfinite(value) & (error > 0) & (np.abs(X) > 0)
    found = scale(value[known], error[known], np.abs(F[known]) ** 2, d[known])
    wilson = np.exp(-found.b * 0.25 / d**2)
    terms = np.array(
        [value, error**2, np.abs(X) ** 2, (np.conj(X) * (F - X)).real, np.abs(F - X) ** 2]
    )
    n, (value, variance, *of_model) = _of_pairs(np.where(known, terms, np.nan), own, unique.mate)
    strong = (n > 0) & (value >= min_i_over_sigma * np.sqrt(variance / np.maximum(n, 1)))
    t = np.ones(len(nodes))
    t[strong] = factor(
        value[strong] / (found.k * wilson[strong] ** 2), *(term[strong] for term in of_model)
    )
    keep = slice(None) if complete else strong
    fixed = wilson * t
    groups = np.concatenate(
        [wilson * model.groups[: model.n_sites], fixed * model.groups[model.n_sites :]]
    )
    return model._replace(
        hkl=model.hkl[keep], rest=(fixed * model.rest)[keep], groups=groups[:, keep]
    )


def factor(
    measured: np.ndarray, without: np.ndarray, cross: np.ndarray, sites: np.ndarray
) -> np.ndarray:
    """Return (n,) real t nearest to 1 with ⟨|t·X + S|²⟩ = measured (n,), or, where none is, the t
    that comes nearest to it.

    without, cross, sites: (n,) means of |X|² > 0, Re(X* S) and |S|².
    """
    root = np.sqrt(np.maximum(cross**2 - without * (sites - measured), 0.0))
    return (np.copysign(root, without + cross) - cross) / without


def _of_pairs(
    terms: np.ndarray, own: np.ndarray, mate: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (node,) how many of a node and its Friedel mate are known, and means of the terms
    (term, node) over these.

    terms: NaN = not known, alike for equivalents. own: (node,) rows of `merging.Unique`, mate: its
    mates.
    """
    nobody = len(mate)
    unique = np.full((len(terms), nobody + 1), np.nan)
    some = np.isfinite(terms[0])
    unique[:, own[some]] = terms[:, some]
    both = unique[:, np.stack([own, np.append(np.where(mate < 0, nobody, mate), nobody)[own]])]
    n = np.isfinite(both[0]).sum(axis=0)
    return n, np.nansum(both, axis=1) / np.maximum(n, 1)
