"""Figures and picture of `merge`: how well the merged intensities agree with themselves."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spreadflow.analysis.merging.statistics import correlation, r_split
from spreadflow.io import store
from spreadflow.products import Merge
from spreadflow.products.merge import Bins, Lattices, Merged
from spreadflow.report import style
from spreadflow.report.checks import Check, Summaries
from spreadflow.report.style import percent, say

STANDARD_ATTRIBUTES = ("kind", "key", "schema", "software", "time", "config", "inputs", "runs")
"""Attributes that every product has; the others of `merge` are figures."""

FEWEST_PAIRS = 20
"""Pairs of half sets without which no line is drawn through the correlation of a shell."""

SHELL_KEYS = (
    "d_max",
    "d_min",
    "n_observations",
    "n_measured",
    "n_possible",
    "completeness",
    "multiplicity",
    "mean_intensity",
    "i_over_sigma",
    "cc_half",
    "n_pairs",
    "r_split",
    "cc_ano",
    "n_pairs_ano",
)
"""Figures of a shell of resolution, in the order in which they are shown."""

SHELL_HEAD = (
    "to Å",
    "obs.",
    "unique",
    "% of all",
    "mult.",
    "I/σ",
    "CC½",
    "pairs",
    "Rsplit",
    "CC ano",
    "pairs",
)
"""Head of the table of shells."""

WIDEST_DEVIATION = 5
"""Normalised deviations beyond this are drawn in the end bins."""


def make(_stage: str, products: list[Path], _manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures of the merged table, and the picture."""
    merge = store.read(products[0], Merge)
    figures = _figures(merge, store.attributes(products[0], Merge))
    return figures, _picture(merge, figures)


def headline(figures: dict[str, Any]) -> list[str]:
    """Return what to know of the figures, one fact a line."""
    return [
        f"{say(figures['n_observations'])} observations of {say(figures['n_lattices'])} lattices, "
        f"scaled with {figures['scaling']}",
        f"completeness {percent(figures['completeness'])}, "
        f"multiplicity {say(figures['multiplicity'])}",
        f"CC½ {say(figures['cc_half'])} ({say(figures['n_pairs'])} pairs), "
        f"Rsplit {say(figures['r_split'])}, CC ano {say(figures['cc_ano'])}",
        f"Wilson B {say(figures['wilson_b'])} Å²",
    ]


def checks(summaries: Summaries) -> list[Check]:
    """Return the counts that must agree."""
    figures = summaries.get("merge", {})
    if "cells" not in summaries or "n_lattices_in" not in figures:
        return []
    n_kept = summaries["cells"]["n_kept"]
    return [Check("each lattice kept reaches merge", n_kept, figures["n_lattices_in"])]


def _anomalous_differences(merged: Merged) -> np.ndarray:
    """Return (n, 2) I(+) − I(−) in each half set, of the reflections whose mates are in both."""
    sign = merged.friedel
    half = merged.half
    hkl = [tuple(index) for index in merged.hkl.tolist()]
    is_complete = np.isfinite(half).all(axis=1)
    minus_rows = np.flatnonzero((sign < 0) & is_complete)
    plus_rows = np.flatnonzero((sign > 0) & is_complete)
    minus_of_hkl = {hkl[row]: row for row in minus_rows}
    plus = np.array([row for row in plus_rows if hkl[row] in minus_of_hkl], dtype=int)
    minus = np.array([minus_of_hkl[hkl[row]] for row in plus], dtype=int)
    return half[plus] - half[minus]


def _figures(merge: Merge, attributes: dict) -> dict[str, Any]:
    """Return figures of the merged table, by resolution too, and those that the stage left."""
    n = merge.merged.n
    half = merge.merged.half
    first, second = half[np.isfinite(half).all(axis=1)].T
    difference = _anomalous_differences(merge.merged)
    n_possible = int(merge.bins.n_possible.sum())
    n_measured = int(merge.bins.n_measured.sum())
    figures: dict[str, Any] = {
        "n_lattices": int(merge.lattices.used.sum()),
        "n_observations": int(n.sum()),
        "n_possible": n_possible,
        "n_measured": n_measured,
        "completeness": n_measured / n_possible if n_possible else None,
        "multiplicity": float(n.sum() / n_measured) if n_measured else None,
        "i_over_sigma": float(np.mean(merge.merged.intensity / merge.merged.sigma))
        if len(n)
        else None,
        "cc_half": correlation(first, second),
        "n_pairs": len(first),
        "r_split": r_split(first, second),
        "cc_ano": correlation(*difference.T),
        "n_pairs_ano": len(difference),
    }
    no_figures = {*STANDARD_ATTRIBUTES, *figures}
    figures |= {name: value for name, value in attributes.items() if name not in no_figures}
    figures["bins"] = _shells(merge.bins)
    return figures


def _completeness(bins: Bins) -> np.ndarray:
    """Return (bin,) the share of possible reflections that was measured."""
    return bins.n_measured / np.maximum(bins.n_possible, 1)


def _multiplicity(bins: Bins) -> np.ndarray:
    """Return (bin,) observations of each reflection measured."""
    return bins.n_observations / np.maximum(bins.n_measured, 1)


def _shells(bins: Bins) -> list[dict[str, Any]]:
    """Return the figures of each shell of resolution, coarse to fine."""
    figures = bins.as_dict() | {
        "completeness": _completeness(bins),
        "multiplicity": _multiplicity(bins),
    }
    return [{key: figures[key][row] for key in SHELL_KEYS} for row in range(len(bins))]


def shell_table(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the table of shells in words: its head, a row for each shell, and one for all."""
    rows: list[tuple[str, ...]] = [SHELL_HEAD]
    for shell in [*figures["bins"], figures]:
        completeness = shell["completeness"]
        rows.append(
            (
                "all" if shell is figures else f"{shell['d_min']:.2f}",
                say(shell["n_observations"]),
                say(shell["n_measured"]),
                "–" if completeness is None else f"{100 * completeness:.1f}",
                say(shell["multiplicity"]),
                say(shell["i_over_sigma"]),
                say(shell["cc_half"]),
                say(shell["n_pairs"]),
                say(shell["r_split"]),
                say(shell["cc_ano"]),
                say(shell["n_pairs_ano"]),
            )
        )
    return rows


# ---------------------------------------------------------------- the picture


def _picture(merge: Merge, figures: dict) -> Figure:
    """Draw agreement, strength and completeness by resolution; half sets, deviations and scales."""
    page = style.page(
        "merge: one intensity for each unique reflection",
        f"{say(figures['n_lattices'])} lattices · {say(figures['n_observations'])} observations · "
        f"completeness {percent(figures['completeness'])} · "
        f"multiplicity {say(figures['multiplicity'])} · "
        f"CC½ {say(figures['cc_half'])} ({say(figures['n_pairs'])} pairs) · "
        f"Rsplit {say(figures['r_split'])} · CC ano {say(figures['cc_ano'])}",
    )
    by_resolution, others = page.subplots(2, 3)
    for ax, draw in zip(by_resolution, (_correlations, _strength, _counts), strict=True):
        draw(ax, merge.bins)
        _resolution_axis(ax, merge.bins)
    _halves(others[0], merge.merged)
    _deviations(others[1], merge.merged)
    _scales(others[2], merge.lattices)
    return page


def _inverse_square_d(bins: Bins) -> np.ndarray:
    """Return (bin,) the middle of each resolution bin in 1/d², Å⁻²."""
    return 0.5 * (bins.d_max**-2.0 + bins.d_min**-2.0)


def _correlations(axes: Any, bins: Bins) -> None:
    """Draw CC½ and CC ano by resolution with their standard errors; those of few pairs are hollow,
    and no line leads to them.
    """
    s2 = _inverse_square_d(bins)
    for value, n, color, label in (
        (bins.cc_half, bins.n_pairs, style.BLUE, "CC½"),
        (bins.cc_ano, bins.n_pairs_ano, style.ORANGE, "CC ano"),
    ):
        error = (1 - value**2) / np.sqrt(np.maximum(n - 1, 1))
        is_sure = n >= FEWEST_PAIRS
        line = np.where(is_sure, value, np.nan)
        axes.errorbar(s2, line, error, fmt="o-", ms=4, color=color, elinewidth=0.8, label=label)
        few = np.where(is_sure, np.nan, value)
        axes.plot(s2, few, "o", ms=4, color=color, mfc="none")
    axes.plot([], [], "o", ms=4, color=style.GREY, mfc="none", label=f"of < {FEWEST_PAIRS} pairs")
    axes.axhline(0, color=style.PALE, lw=0.8)
    lowest = min(-0.3, axes.get_ylim()[0])
    axes.set(title="half sets against each other", ylim=(max(lowest, -1.03), 1.03))
    axes.set_ylabel("correlation")
    axes.legend()


def _strength(axes: Any, bins: Bins) -> None:
    """Draw I/σ by resolution."""
    s2 = _inverse_square_d(bins)
    axes.plot(s2, bins.i_over_sigma, "o-", ms=4, color=style.GREEN)
    axes.set(title="⟨I/σ⟩ of merged intensities", ylim=(0, 1.1 * max(axes.dataLim.y1, 1.0)))


def _counts(axes: Any, bins: Bins) -> None:
    """Draw completeness and multiplicity by resolution."""
    s2 = _inverse_square_d(bins)
    multiplicity = _multiplicity(bins)
    axes.plot(s2, _completeness(bins), "o-", ms=4, color=style.BLUE)
    axes.set(title="completeness and multiplicity", ylim=(0, 1.05))
    axes.set_ylabel("completeness", color=style.BLUE)
    twin = axes.twinx()
    twin.set_ylabel("multiplicity", color=style.ORANGE)
    twin.plot(s2, multiplicity, "s--", ms=3.5, color=style.ORANGE)
    twin.set_ylim(0, 1.15 * max(multiplicity.max(initial=0.0), 1.0))


def _resolution_axis(axes: Any, bins: Bins) -> None:
    """Label an axis of 1/d² with d."""
    edges = bins.d_min
    shown = edges[:: max(1, len(edges) // 5)]
    axes.set_xticks(shown**-2.0, [f"{d:.2f}" for d in shown])
    axes.set_xlabel("d, Å")


def _halves(axes: Any, merged: Merged) -> None:
    """Draw the intensities of one half set against those of the other."""
    half = merged.half
    x, y = half[(half > 0).all(axis=1)].T
    axes.set_title("intensity in the two half sets")
    if not len(x):
        style.empty(axes, "no reflection is in both half sets")
        return
    axes.loglog(x, y, ".", ms=style.point_size(len(x)), alpha=style.opacity(len(x)), mew=0)
    limits = np.percentile(np.concatenate([x, y]), [0.5, 99.9]) * [0.7, 1.4]
    axes.plot(limits, limits, color=style.INK, lw=0.8)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    style.log_ticks(axes.xaxis, axes.yaxis)
    axes.set(xlabel="I of half set 0, on the merge's scale", ylabel="I of half set 1, the same")


def _deviations(axes: Any, merged: Merged) -> None:
    """Draw (I₁ − I₂)/2σ: a unit Gaussian where the error model is right and both half sets have
    the same weight.
    """
    half = merged.half
    difference = half[:, 0] - half[:, 1]
    deviation = difference / (2 * merged.sigma)
    deviation = deviation[np.isfinite(deviation)]
    axes.set_title("normalised deviation of half sets")
    if not len(deviation):
        style.empty(axes, "no reflection is in both half sets")
        return
    edge = WIDEST_DEVIATION
    axes.hist(
        np.clip(deviation, -edge, edge),
        np.linspace(-edge, edge, style.n_bins(len(deviation)) + 1),
        density=True,
        histtype="stepfilled",
        color=style.BLUE,
        alpha=0.65,
        label="(I₁ − I₂) / 2σ",
    )
    x = np.linspace(-edge, edge, 101)
    gaussian = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    axes.plot(x, gaussian, color=style.INK, lw=1, label="unit Gaussian")
    n_beyond = int((np.abs(deviation) > edge).sum())
    axes.set(xlabel=f"end bins: {say(n_beyond)} of {say(len(deviation))} lie beyond ±{edge}")
    axes.legend(loc="upper right")


def _scales(axes: Any, lattices: Lattices) -> None:
    """Draw scale against B of the lattices."""
    used = lattices[lattices.used]
    scale = used.scale
    axes.set_title("scale and B of each lattice")
    if not len(scale):
        style.empty(axes, "no lattice took part")
        return
    look = {"ms": style.point_size(len(scale)), "alpha": style.opacity(len(scale)), "mew": 0}
    axes.semilogy(used.b, scale, ".", **look)
    style.log_ticks(axes.yaxis)
    axes.set(xlabel="B, Å²", ylabel="G, relative to the mean lattice")
