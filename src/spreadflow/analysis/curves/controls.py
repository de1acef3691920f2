"""Is it really the metals' signal? What SPREAD must and must not find when its input is tampered
with.

All controls work on Gram matrices. A lattice with wrong Miller indices, or with another pulse's
spectrum, is the same lattice with another F in its columns. Where X is unknown, it is as free as
the quoted curves have left it, and starts from the model's again.
"""

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.curves.columns import Columns
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.expand import RefinedCurves
from spreadflow.analysis.curves.rest import LARGEST_SHARE
from spreadflow.physics.structure_factors import StructureFactors

SAME_START_SIGMA = 0.05
"""σ within which refinements from other starts agree."""

WORSE_INDEX = 5.0
"""Fall of ln L per lattice that wrong Miller indices have to bring. X, where it is unknown, takes
up most of what they do.
"""

WORSE_LABELS = 2.0
"""Fall of ln L per lattice that swapped site labels have to bring."""

ALIKE_CORRELATION = 0.3
"""Correlation between curves below which they are not alike."""

SIGNIFICANT_SIGMA = 5.0
"""Standard errors of a difference that is no accident."""

HALVES_SPREAD = (0.6, 1.4)
"""Limits of the standard deviation of the difference of half sets over its σ. Where X is unknown
there is no lower one: what the model of X has wrong is wrong in both, so that they differ by less
than their σ (0.4-0.8 in sixteen ways to halve the same lattices).
"""

SAME_SCALE = 0.05
"""ln of Σ|F|² over that of the model, up to which X is on the model's scale."""

DARK_SHARE = 1e-4
"""Channels below this share of the brightest hold nothing that could be scaled."""

WRONG_STEPS = 12
"""Steps of refinements from wrong input, at most: where they would end is of no interest."""


RISE_PER_LATTICE = "rise of −ln L per lattice"
"""What the figure of a control is that makes curves unlikely."""


class Verdict(NamedTuple):
    """What became of one control."""

    name: str
    passed: bool
    figure: float
    what: str
    """what the figure is, with its unit"""
    bar: str
    """what the figure has to be: at most 0.05"""


class Tampered(NamedTuple):
    """What columns stand for when they have been tampered with."""

    hkl: np.ndarray
    """(column, 3) Miller indices whose F they have"""
    factor: np.ndarray
    """(column,) on that F"""


def wrong_index(columns: Columns, factors: StructureFactors) -> Tampered:
    """Return the columns with F of (h, k, l + 1), or of the next l that the lattice type has."""
    along_l = np.array([0, 0, 1], dtype=np.int32)
    nodes = np.asarray(factors.hkl)
    step = next(n for n in range(1, 5) if n == 4 or (factors.rows(nodes + n * along_l) >= 0).any())
    hkl = columns.hkl + step * along_l
    return Tampered(hkl, (factors.rows(hkl) >= 0).astype(np.float64))


def other_spectrum(columns: Columns, photons: np.ndarray, others: np.ndarray) -> Tampered:
    """Return the columns as if the pulse of each lattice, which had `photons` (lattice, channel),
    had had those of another one, `others` (lattice, channel): templates are linear in them.
    """
    is_lit = photons > DARK_SHARE * photons.max(axis=1, keepdims=True)
    ratio = np.zeros(photons.shape)
    np.divide(others, photons, out=ratio, where=is_lit)
    total_of_others = np.maximum(others.sum(axis=1), 1e-300)
    of_equal_energy = ratio * (photons.sum(axis=1) / total_of_others)[:, None]
    return Tampered(columns.hkl, np.sqrt(of_equal_energy)[columns.lattice, columns.channel])


Change = Callable[[Columns, np.ndarray], Tampered]
"""(columns, (lattice,) numbers of their lattices among all) → what they stand for."""


class Trial(NamedTuple):
    """A refinement that a control needs."""

    theta: np.ndarray
    """(parameter,) of the start"""
    change: Change | None = None
    """how columns are changed first"""
    is_chosen: Callable[[np.ndarray], np.ndarray] | None = None
    """(lattice,) numbers → which of these lattices take part; None = all"""
    max_steps: int | None = None
    moves_curves: bool = True
    needs_sigma: bool = True
    """σ of the curves is asked for; otherwise information is that with X held, and there are no
    scores: to integrate X out takes longer than the refinement
    """
    right_value: float | None = None
    """what the right input was worth, where it is how much worse wrong input is that is asked for
    """


class Changes(NamedTuple):
    """What controls change, to see what becomes of the curves."""

    starts: Mapping[str, np.ndarray]
    """name → curves (site, 2, channel) from which the refinement is begun again"""
    half: np.ndarray
    """(lattice,) half set of each lattice, 0 or 1"""
    wrong_index: Change
    """gives lattices wrong indices"""
    other_spectrum: Change
    """gives lattices another pulse's spectrum"""


Refine = Callable[[Trial], RefinedCurves]
"""A refinement of the lattices, from the given start. Collective."""


def verdicts(
    refine: Refine,
    p: Parametrisation,
    best: RefinedCurves,
    changes: Changes,
    *,
    band: np.ndarray,
    sigma: np.ndarray,
) -> list[Verdict]:
    """Return the verdicts of all controls of the curves `best`.

    band: (node,) bool, nodes that are compared. sigma: (site·2·node,) of the curves.
    """
    is_compared = np.tile(band, len(sigma) // len(band))
    nodes = p.at_nodes[is_compared]
    sigma = sigma[is_compared]
    return [
        *(
            _start(refine, p, best, name, curves, nodes, sigma)
            for name, curves in changes.starts.items()
        ),
        _halves(refine, p, changes.half, nodes, is_x_known=best.rest is None),
        *_labels(refine, p, best),
        _index(refine, p, best, changes.wrong_index, band),
        _spectrum(refine, p, best, changes.other_spectrum),
        *of_rest(best),
    ]


def nearest(p: Parametrisation, curves: np.ndarray, beside: np.ndarray | None = None) -> np.ndarray:
    """Return θ whose curves are nearest to `curves` (site, 2, channel).

    beside: another θ, of which what moves no curve, the last of it, is taken; None = 0.
    """
    theta = np.linalg.lstsq(p.basis, (curves - p.reference).ravel(), rcond=None)[0]
    n_beside = int((~p.basis.any(axis=0)).sum())
    if beside is not None and n_beside:
        theta[-n_beside:] = beside[-n_beside:]
    return theta


def _start(
    refine: Refine,
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
    again = refine(Trial(nearest(p, curves), needs_sigma=False))
    pulls = nodes @ (again.theta - best.theta) / sigma
    figure = float(np.abs(pulls).max())
    return Verdict(
        name=f"start {name}",
        passed=figure <= SAME_START_SIGMA,
        figure=figure,
        what="largest distance from the quoted curves, σ",
        bar=f"at most {SAME_START_SIGMA}",
    )


def _halves(
    refine: Refine, p: Parametrisation, half: np.ndarray, nodes: np.ndarray, is_x_known: bool = True
) -> Verdict:
    """Judge the curves of one half set beside those of the other; where one has no lattices, there
    is nothing to judge by.

    half: (lattice,) 0 or 1; nodes: (value, theta) what is compared.
    """
    low, high = HALVES_SPREAD
    bar = f"{low} to {high}"
    if not is_x_known:
        low = 0.0
        bar = f"at most {high}"
    if len(np.unique(half)) < 2:
        return Verdict("half sets", False, 0.0, "of which one has no lattices", bar)
    zero = np.zeros(len(p.names))
    first = refine(Trial(zero, is_chosen=lambda numbers: half[numbers] == 0))
    second = refine(Trial(zero, is_chosen=lambda numbers: half[numbers] == 1))
    difference = nodes @ (first.theta - second.theta)
    covariance = first.fisher + second.fisher
    variance = np.einsum("ni,ij,nj->n", nodes, covariance, nodes)
    figure = float(np.std(difference / np.sqrt(variance)))
    return Verdict(
        name="half sets",
        passed=low <= figure <= high,
        figure=figure,
        what="standard deviation of their difference over its σ",
        bar=bar,
    )


def _labels(refine: Refine, p: Parametrisation, best: RefinedCurves) -> list[Verdict]:
    """Judge every pair of sites with each other's curves."""
    curves = p.curves(best.theta)
    out = []
    for a, b in combinations(range(len(curves)), 2):
        swapped = curves.copy()
        swapped[[a, b]] = curves[[b, a]]
        start = nearest(p, swapped, best.theta)
        of_swapped = refine(Trial(start, moves_curves=False, needs_sigma=False))
        worse = (of_swapped.value - best.value) / len(best.losses)
        out.append(
            Verdict(
                name=f"sites {a + 1}, {b + 1} swapped",
                passed=worse >= WORSE_LABELS,
                figure=worse,
                what=RISE_PER_LATTICE,
                bar=f"at least {WORSE_LABELS:g}",
            )
        )
    return out


def _index(
    refine: Refine, p: Parametrisation, best: RefinedCurves, index: Change, band: np.ndarray
) -> Verdict:
    """Judge the curves of lattices with wrong indices."""
    wrong = refine(_wrong(p, index, best))
    worse = (wrong.value - best.value) / len(best.losses)
    correlation = _correlation(p, wrong, best, band)
    return Verdict(
        name="h, k, l + 1",
        passed=worse > WORSE_INDEX and correlation < ALIKE_CORRELATION,
        figure=worse,
        what=f"{RISE_PER_LATTICE}, with curves that correlate by {correlation:.2f}",
        bar=f"above {WORSE_INDEX:g}, with less than {ALIKE_CORRELATION}",
    )


def _spectrum(refine: Refine, p: Parametrisation, best: RefinedCurves, spectrum: Change) -> Verdict:
    """Judge the likelihood of lattices with other pulses' spectra, in standard errors."""
    shuffled = refine(_wrong(p, spectrum, best))
    drop = shuffled.losses - best.losses
    figure = 0.0
    if len(drop) > 1:
        standard_error = drop.std(ddof=1) / np.sqrt(len(drop))
        figure = float(drop.mean() / max(standard_error, 1e-300))
    return Verdict(
        name="spectra shuffled",
        passed=figure > SIGNIFICANT_SIGMA,
        figure=figure,
        what="rise of −ln L, standard errors",
        bar=f"above {SIGNIFICANT_SIGMA:g}",
    )


def _wrong(p: Parametrisation, change: Change, best: RefinedCurves) -> Trial:
    """Return the refinement of wrong input, from the start, that says how much worse it is."""
    zero = np.zeros(len(p.names))
    return Trial(zero, change, max_steps=WRONG_STEPS, needs_sigma=False, right_value=best.value)


def of_rest(best: RefinedCurves) -> list[Verdict]:
    """Judge X, where it is unknown: whether it has come to rest on the model's scale, and how far
    from the model it is.
    """
    if best.rest is None:
        return []
    away = abs(best.rest.log_scale)
    share = best.rest.largest_share
    return [
        Verdict(
            name="scale",
            passed=away <= SAME_SCALE,
            figure=away,
            what="|ln Σ|F|²/Σ(|M|² + S)|",
            bar=f"at most {SAME_SCALE}",
        ),
        Verdict(
            name="model",
            passed=share < 0.99 * LARGEST_SHARE,
            figure=share,
            what="√S of a shell over the model's r.m.s. |X|",
            bar=f"below {LARGEST_SHARE}",
        ),
        Verdict(
            name="at rest",
            passed=best.rest.has_converged,
            figure=float(len(best.steps)),
            what="steps of curves and X",
            bar="as many as bring them to rest",
        ),
    ]


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
