"""Is it really the metals' signal? What SPREAD must and must not find when its input is tampered
with.

All of it works on Gram matrices. A lattice with the Miller indices of its neighbours, or with
another pulse's spectrum, is the same lattice with another F in its columns.
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
"""Fall of ln L with wrong Miller indices."""

WORSE_LABELS = 2.0
"""The same with swapped site labels, per lattice."""

ALIKE_CORRELATION = 0.3
"""Correlation between curves below which they are not alike."""

SIGNIFICANT_SIGMA = 5.0
"""Standard errors of a difference that is no accident."""

HALVES_SPREAD = 0.7, 1.4
"""Spread of the difference of half sets over its σ."""

DARK_SHARE = 1e-4
"""Of the brightest channel: those below hold nothing that could be scaled."""


WRONG_CYCLES = 12
"""Of refinements from wrong input, at most: what they would end at is of no interest."""


class Verdict(NamedTuple):
    """One control."""

    name: str
    passed: bool
    figure: float
    bar: str
    """what the figure is and has to be"""


def wrong_index(of: LatticeTerms, factors: StructureFactors) -> LatticeTerms:
    """Return the lattice with F of (h, k, l + 1), or the next l that the lattice type has."""
    along = np.array([0, 0, 1])
    for step in range(1, 4):
        rows = expand.rows(factors, of.gram.hkl + step * along)
        if (rows >= 0).any():
            break
    made = expand.lattice(of.gram, factors, np.maximum(rows, 0))
    return made._replace(
        fixed=np.where(rows >= 0, made.fixed, 0.0), groups=np.where(rows >= 0, made.groups, 0.0)
    )


def other_spectrum(of: LatticeTerms, photons: np.ndarray, others: np.ndarray) -> LatticeTerms:
    """Return the lattice as if the pulse had had the photons (channel,) of another one: templates
    are linear in them.
    """
    ratio = np.divide(
        others, photons, out=np.zeros(len(photons)), where=photons > DARK_SHARE * photons.max()
    )
    factor = np.sqrt(ratio * photons.sum() / max(others.sum(), 1e-300))[of.gram.channel]
    return of._replace(fixed=factor * of.fixed, groups=factor * of.groups)


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
    """Return all controls of curves `best`. starts: name → curves (site, 2, channel) the refinement
    is begun from again.

    index, spectrum: make lattices with wrong indices, and with another pulse's spectrum; band:
    (node,) bool; sigma: (site·2·node,) of the curves.
    """
    here = np.tile(band, len(sigma) // len(band))
    nodes = p.at_nodes[here]
    out = []
    for name, curves in starts.items():
        again = expand.refine(evaluator(None, None), p, nearest(p, curves))
        off = float(np.abs(nodes @ (again.theta - best.theta) / sigma[here]).max())
        out.append(
            Verdict(
                f"start {name}",
                off <= SAME_START_SIGMA,
                off,
                f"ends within {SAME_START_SIGMA} σ of the others",
            )
        )
    out += _halves(evaluator, p, nodes)
    out += _labels(evaluator, p, best)
    wrong = expand.refine(evaluator(index, None), p, np.zeros(len(p.names)), WRONG_CYCLES)
    worse = float(wrong.losses.sum() - best.losses.sum())
    unlike = f"curves that are not alike (correlation < {ALIKE_CORRELATION})"
    bar = f"−ln L worse by {WORSE_INDEX:g}, and {unlike}"
    alike = _alike(p, wrong, best, band)
    out.append(
        Verdict("h, k, l + 1", worse > WORSE_INDEX and alike < ALIKE_CORRELATION, worse, bar)
    )
    shuffled = expand.refine(evaluator(spectrum, None), p, np.zeros(len(p.names)), WRONG_CYCLES)
    drop = shuffled.losses - best.losses
    errors = (
        float(drop.mean() / max(drop.std(ddof=1) / np.sqrt(len(drop)), 1e-300))
        if len(drop) > 1
        else 0.0
    )
    bar = f"−ln L worse by {SIGNIFICANT_SIGMA:g} standard errors"
    return [*out, Verdict("spectra shuffled", errors > SIGNIFICANT_SIGMA, errors, bar)]


def nearest(p: Parametrisation, curves: np.ndarray) -> np.ndarray:
    """Return θ whose curves are nearest to `curves` (site, 2, channel)."""
    return np.linalg.lstsq(p.basis, (curves - p.reference).ravel(), rcond=None)[0]


def _halves(evaluator: Evaluator, p: Parametrisation, nodes: np.ndarray) -> list[Verdict]:
    """Return curves of every other lattice against those of the rest. nodes: (value, theta) what is
    compared.
    """
    zero = np.zeros(len(p.names))
    parity = (lambda i: i % 2 == 0, lambda i: i % 2 == 1)
    even, odd = (expand.refine(evaluator(None, some), p, zero) for some in parity)
    variance = np.einsum("ni,ij,nj->n", nodes, even.fisher + odd.fisher, nodes)
    figure = float(np.std(nodes @ (even.theta - odd.theta) / np.sqrt(variance)))
    bar = f"difference of half sets over its σ, {HALVES_SPREAD[0]}-{HALVES_SPREAD[1]}"
    return [Verdict("half sets", HALVES_SPREAD[0] <= figure <= HALVES_SPREAD[1], figure, bar)]


def _labels(evaluator: Evaluator, p: Parametrisation, best: RefinedCurves) -> list[Verdict]:
    """Return every pair of sites with each other's curves."""
    curves = p.curves(best.theta)
    out = []
    for a, b in combinations(range(len(curves)), 2):
        swapped = curves.copy()
        swapped[[a, b]] = curves[[b, a]]
        losses = evaluator(None, None)(nearest(p, swapped)).losses
        worse = float((losses - best.losses).mean())
        bar = f"−ln L worse by {WORSE_LABELS:g} per lattice"
        out.append(Verdict(f"sites {a + 1}, {b + 1} swapped", worse >= WORSE_LABELS, worse, bar))
    return out


def _alike(p: Parametrisation, one: RefinedCurves, other: RefinedCurves, band: np.ndarray) -> float:
    """Return mean correlation of the curves of two refinements over the nodes of a band (node,)
    bool.
    """
    shape = (-1, len(band))
    pairs = zip(
        *(
            (p.at_nodes @ r.theta + p.reference_at_nodes.ravel()).reshape(shape)
            for r in (one, other)
        ),
        strict=True,
    )
    return float(np.mean([np.corrcoef(a[band], b[band])[0, 1] for a, b in pairs]))
