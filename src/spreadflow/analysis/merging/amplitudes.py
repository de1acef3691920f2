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
    """The scale of intensities, I = k exp(−2 B/4d²) |F|²."""

    k: float
    """unit of the intensities per electron²"""
    b: float
    """Å²"""


class MergedIntensities(NamedTuple):
    """Intensities of unique reflections, Friedel mates apart."""

    hkl: np.ndarray
    """(n, 3) the mate of an acentric reflection has the negative index"""
    intensity: np.ndarray
    """(n,)"""
    sigma: np.ndarray
    """(n,)"""


def scale(intensity: np.ndarray, sigma: np.ndarray, f_squared: np.ndarray, d: np.ndarray) -> Scale:
    """Return the scale by linear least squares of ln(ΣI/Σ|F|²) in shells on 1/4d².

    All (reflection,); negative intensities belong to them. d: Å.

    The variance of a shell of n is 1/n (a model whose |F|² are wrong) + Σσ²/(ΣI)². Shells with ΣI ≤
    0 say nothing. Raises ValueError where fewer than two shells are left.
    """
    shell = merging.shells(d, float(d.min(initial=np.inf)), N_SHELLS)
    columns = (np.ones(len(d)), intensity, f_squared, sigma**2, 0.25 / d**2)
    sums = np.array([np.bincount(shell, column, N_SHELLS) for column in columns])
    n, data, model, *_ = sums
    is_good = (n >= MIN_IN_SHELL) & (data > 0) & (model > 0)
    if is_good.sum() < 2:
        raise ValueError(f"{len(d)} common reflections")

    n, data, model, variance, stol2 = sums[:, is_good]
    sigma_of_log = np.sqrt(1.0 / n + variance / data**2)
    line = np.polynomial.Polynomial.fit(
        stol2 / n,
        np.log(data / model),
        1,
        w=1.0 / sigma_of_log,
        domain=[0, 1],
        window=[0, 1],
    )
    level, slope = line.coef
    return Scale(float(np.exp(level)), -0.5 * float(slope))


def measured(
    model: StructureFactors,
    cell: np.ndarray,
    space_group: str,
    data: MergedIntensities,
    *,
    channel: int,
    min_i_over_sigma: float,
    complete: bool,
) -> StructureFactors:
    """Return exp(−B/4d²)·(t·X + S) of the nodes with I ≥ min_i_over_sigma·σ, I and σ of the mean of
    Friedel mates.

    X: F without the sites' f′ and f″; S: theirs; t: `factor`. cell: (6,) Å, rad, of the model.
    channel: that of the energy of the data. complete: all other nodes as well, with t = 1; without
    it they are left out. Raises ValueError where too few reflections are common to model and data.
    """
    d = unit_cell.spacing(unit_cell.reciprocal(cell), model.hkl)
    nearly_all = float(d.min()) * (1.0 - 1e-9)  # the last node, too
    unique = merging.Unique(unit_cell.degrees(cell), space_group, nearly_all)
    own = unique.rows(model.hkl)
    intensity, sigma = _of_nodes(data, unique, own)

    F, X = _with_and_without_sites(model, channel)
    S = F - X
    is_known = np.isfinite(intensity) & (sigma > 0) & (np.abs(X) > 0)
    fitted = scale(intensity[is_known], sigma[is_known], np.abs(F[is_known]) ** 2, d[is_known])
    wilson = np.exp(-fitted.b * 0.25 / d**2)

    terms = [intensity, sigma**2, np.abs(X) ** 2, (np.conj(X) * S).real, np.abs(S) ** 2]
    n, means = _means_of_pairs(np.where(is_known, terms, np.nan), own, unique.mate)
    is_strong = _is_strong(means[0], means[1], n, min_i_over_sigma)
    mean_intensity, _, without, cross, sites = means[:, is_strong]
    f_squared = mean_intensity / (fitted.k * wilson[is_strong] ** 2)
    t = np.ones(len(F))
    t[is_strong] = factor(f_squared, without, cross, sites)
    return _scaled(model, wilson, t, slice(None) if complete else is_strong)


def _with_and_without_sites(model: StructureFactors, channel: int) -> tuple[np.ndarray, np.ndarray]:
    """Return F of all nodes in one channel, (node,), and F without the sites' f′ and f″."""
    nodes = np.arange(len(model.hkl))
    curves = model.anomalous[:, [channel]]
    in_channel = model._replace(anomalous=curves)
    with_sites = in_channel.at(nodes)
    without_sites = in_channel.without_sites(nodes)
    return with_sites[:, 0], without_sites[:, 0]


def _of_nodes(
    data: MergedIntensities, unique: merging.Unique, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return intensity and σ of nodes, (node,), NaN where they were not measured. own: (node,) rows
    of `unique`.
    """
    row = unique.rows(data.hkl)
    is_unique = row >= 0
    values = np.full((2, len(unique) + 1), np.nan)  # one row more, for nodes that are absent
    values[:, row[is_unique]] = np.array([data.intensity, data.sigma])[:, is_unique]
    intensity, sigma = values[:, own]
    return intensity, sigma


def _is_strong(
    intensity: np.ndarray, variance: np.ndarray, n: np.ndarray, min_i_over_sigma: float
) -> np.ndarray:
    """Return whether the mean of n intensities with this mean variance exceeds so many of its σ,
    (node,) bool.
    """
    sigma = np.sqrt(variance / np.maximum(n, 1))
    return (n > 0) & (intensity >= min_i_over_sigma * sigma)


def _scaled(
    model: StructureFactors, wilson: np.ndarray, t: np.ndarray, keep: slice | np.ndarray
) -> StructureFactors:
    """Return the model's nodes to keep with exp(−B/4d²)·(t·X + S) for F. wilson, t: (node,)."""
    n_sites = model.n_sites
    fixed = wilson * t
    of_sites = wilson * model.groups[:n_sites]
    of_others = fixed * model.groups[n_sites:]
    return model._replace(
        hkl=model.hkl[keep],
        rest=(fixed * model.rest)[keep],
        groups=np.concatenate([of_sites, of_others])[:, keep],
    )


def factor(
    f_squared: np.ndarray, without: np.ndarray, cross: np.ndarray, sites: np.ndarray
) -> np.ndarray:
    """Return the real t (n,) nearest to 1 with ⟨|t·X + S|²⟩ = f_squared (n,), or, where there is
    none, the t that comes nearest to it.

    without, cross, sites: (n,) means of |X|² > 0, Re(X* S) and |S|².
    """
    discriminant = cross**2 - without * (sites - f_squared)
    root = np.sqrt(np.maximum(discriminant, 0.0))
    return (np.copysign(root, without + cross) - cross) / without


def _means_of_pairs(
    terms: np.ndarray, own: np.ndarray, mate: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many of a node and its Friedel mate are known, (node,), and the means of terms
    (term, node) over these.

    terms: NaN = not known, alike for equivalents. own: (node,) rows of `merging.Unique`, mate: its
    mates.
    """
    nobody = len(mate)
    is_known = np.isfinite(terms[0])
    unique = np.full((len(terms), nobody + 1), np.nan)
    unique[:, own[is_known]] = terms[:, is_known]

    mate_or_nobody = np.append(np.where(mate < 0, nobody, mate), nobody)
    pairs = np.stack([own, mate_or_nobody[own]])
    both = unique[:, pairs]
    n = np.isfinite(both[0]).sum(axis=0)
    total = np.nansum(both, axis=1)
    return n, total / np.maximum(n, 1)
