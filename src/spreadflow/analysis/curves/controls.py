"""Is it really the metals' signal? What SPREAD must and must not find when its input is tampered
with.

All controls work on Gram matrices. A lattice with wrong Miller indices, or with another pulse's
spectrum, is the same lattice with another F in its columns.
"""

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.curves import expand
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.expand import Evaluate, LatticeTerms, RefinedCurves
from spreadflow.physics.structure_factors import StructureFactors

SAME_START_SIGMA = 0.01
"""σ within which refinements from other starts agree."""

WORSE_INDEX = 1e5
"""Fall of ln L that wrong Miller indices have to bring."""

WORSE_LABELS = 2.0
"""Fall of ln L per lattice that swapped site labels have to bring."""

ALIKE_CORRELATION = 0.3
"""Correlation between curves below which they are not alike."""

SIGNIFICANT_SIGMA = 5.0
"""Standard errors of a difference that is no accident."""

HALVES_SPREAD = (0.7, 1.4)
"""Limits of the standard deviation of the difference of half sets over its σ."""

DARK_SHARE = 1e-4
"""Channels below this share of the brightest hold nothing that could be scaled."""

WRONG_CYCLES = 12
"""Cycles of refinements from wrong input, at most: where they would end is of no interest."""


class Verdict(NamedTuple):
    """What became of one control."""

    name: str
    passed: bool
    figure: float
    bar: str
    """what the figure is and has to be"""


def wrong_index(terms: LatticeTerms, factors: StructureFactors) -> LatticeTerms:
    """Return the lattice with F of (h, k, l + 1), or of the next l that the lattice type has."""
    along_l = np.array([0, 0, 1])
    for step in range(1, 4):
        rows = expand.rows(factors, terms.gram.hkl + step * along_l)
        is_there = rows >= 0
        if is_there.any():
            break
    shifted = expand.lattice(terms.gram, factors, np.maximum(rows, 0))
    return shifted._replace(
        fixed=np.where(is_there, shifted.fixed, 0.0),
        groups=np.where(is_there, shifted.groups, 0.0),
    )


def other_spectrum(terms: LatticeTerms, photons: np.ndarray, others: np.ndarray) -> LatticeTerms:
    """Return the lattice as if its pulse, which had `photons` (channel,), had had those of another
    one, `others` (channel,): templates are linear in them.
    """
    is_lit = photons > DARK_SHARE * photons.max()
    ratio = np.zeros(len(photons))
    np.divide(others, photons, out=ratio, where=is_lit)
    total_of_others = max(others.sum(), 1e-300)
    of_equal_energy = ratio * photons.sum() / total_of_others
    factor = np.sqrt(of_equal_energy)[terms.gram.channel]
    return terms._replace(fixed=factor * terms.fixed, groups=factor * terms.groups)


Change = Callable[[int, LatticeTerms], LatticeTerms]
"""(number of the lattice, lattice) → what is refined in its place."""

Evaluator = Callable[[Change | None, Callable[[int], bool] | None], Evaluate]
"""How lattices are changed, and which take part → θ → normal equations of all of them."""


def verdicts(
    evaluator: Evaluator,
    p: Parametrisation,
    best: RefinedCurves,
    *,
    starts: Mapping[str, np.ndarray],
    index: Change,
    spectrum: Change,
    band: np.ndarray,
    sigma: np.ndarray,
) -> list[Verdict]:
    """Return the verdicts of all controls of the curves `best`.

    starts: name → curves (site, 2, channel) from which the refinement is begun again. index,
    spectrum: give lattices wrong indices, and another pulse's spectrum. band: (node,) bool, nodes
    that are compared. sigma: (site·2·node,) of the curves.
    """
    is_compared = np.tile(band, len(sigma) // len(band))
    nodes = p.at_nodes[is_compared]
    sigma = sigma[is_compared]
    return [
        *(_start(evaluator, p, best, name, starts[name], nodes, sigma) for name in starts),
        _halves(evaluator, p, nodes),
        *_labels(evaluator, p, best),
        _index(evaluator, p, best, index, band),
        _spectrum(evaluator, p, best, spectrum),
    ]


def nearest(p: Parametrisation, curves: np.ndarray) -> np.ndarray:
    """Return θ whose curves are nearest to `curves` (site, 2, channel)."""
    return np.linalg.lstsq(p.basis, (curves - p.reference).ravel(), rcond=None)[0]


def _start(
    evaluator: Evaluator,
    p: Parametrisation,
    best: RefinedCurves,
    name: str,
    curves: np.ndarray,
    nodes: np.ndarray,
    sigma: np.ndarray,
) -> Verdict:
    """Judge where a refinement ends that begins from other curves (site, 2, channel).

    nodes: (value, theta) what is compared, sigma: (value,).
    """
    again = expand.refine(evaluator(None, None), p, nearest(p, curves))
    pulls = nodes @ (again.theta - best.theta) / sigma
    figure = float(np.abs(pulls).max())
    bar = f"ends within {SAME_START_SIGMA} σ of the others"
    return Verdict(f"start {name}", figure <= SAME_START_SIGMA, figure, bar)


def _halves(evaluator: Evaluator, p: Parametrisation, nodes: np.ndarray) -> Verdict:
    """Judge the curves of every other lattice beside those of the rest. nodes: (value, theta) what
    is compared.
    """
    zero = np.zeros(len(p.names))
    even = expand.refine(evaluator(None, lambda i: i % 2 == 0), p, zero)
    odd = expand.refine(evaluator(None, lambda i: i % 2 == 1), p, zero)
    difference = nodes @ (even.theta - odd.theta)
    covariance = even.fisher + odd.fisher
    variance = np.einsum("ni,ij,nj->n", nodes, covariance, nodes)
    pulls = difference / np.sqrt(variance)
    figure = float(np.std(pulls))
    low, high = HALVES_SPREAD
    bar = f"difference of half sets over its σ, {low}-{high}"
    return Verdict("half sets", low <= figure <= high, figure, bar)


def _labels(evaluator: Evaluator, p: Parametrisation, best: RefinedCurves) -> list[Verdict]:
    """Judge every pair of sites with each other's curves."""
    curves = p.curves(best.theta)
    bar = f"−ln L worse by {WORSE_LABELS:g} per lattice"
    out = []
    for a, b in combinations(range(len(curves)), 2):
        swapped = curves.copy()
        swapped[[a, b]] = curves[[b, a]]
        losses = evaluator(None, None)(nearest(p, swapped)).losses
        worse = float((losses - best.losses).mean())
        out.append(Verdict(f"sites {a + 1}, {b + 1} swapped", worse >= WORSE_LABELS, worse, bar))
    return out


def _index(
    evaluator: Evaluator, p: Parametrisation, best: RefinedCurves, index: Change, band: np.ndarray
) -> Verdict:
    """Judge the curves of lattices with wrong indices."""
    zero = np.zeros(len(p.names))
    wrong = expand.refine(evaluator(index, None), p, zero, WRONG_CYCLES)
    worse = float(wrong.losses.sum() - best.losses.sum())
    is_unlike = _correlation(p, wrong, best, band) < ALIKE_CORRELATION
    unlike = f"curves that are not alike (correlation < {ALIKE_CORRELATION})"
    bar = f"−ln L worse by {WORSE_INDEX:g}, and {unlike}"
    return Verdict("h, k, l + 1", worse > WORSE_INDEX and is_unlike, worse, bar)


def _spectrum(
    evaluator: Evaluator, p: Parametrisation, best: RefinedCurves, spectrum: Change
) -> Verdict:
    """Judge the likelihood of lattices with other pulses' spectra, in standard errors."""
    zero = np.zeros(len(p.names))
    shuffled = expand.refine(evaluator(spectrum, None), p, zero, WRONG_CYCLES)
    drop = shuffled.losses - best.losses
    figure = 0.0
    if len(drop) > 1:
        standard_error = drop.std(ddof=1) / np.sqrt(len(drop))
        figure = float(drop.mean() / max(standard_error, 1e-300))
    bar = f"−ln L worse by {SIGNIFICANT_SIGMA:g} standard errors"
    return Verdict("spectra shuffled", figure > SIGNIFICANT_SIGMA, figure, bar)


def _correlation(
    p: Parametrisation, refined: RefinedCurves, other: RefinedCurves, band: np.ndarray
) -> float:
    """Return the mean correlation of the curves of two refinements over the nodes of a band (node,)
    bool.
    """
    reference = p.reference_at_nodes.ravel()
    curves = (p.at_nodes @ refined.theta + reference).reshape(-1, len(band))
    others = (p.at_nodes @ other.theta + reference).reshape(-1, len(band))
    correlations = [
        np.corrcoef(curve[band], another[band])[0, 1]
        for curve, another in zip(curves, others, strict=True)
    ]
    return float(np.mean(correlations))
