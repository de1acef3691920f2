"""The picture of `stage2`."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spreadflow.products import Stage2
from spreadflow.products.merge import Bins
from spreadflow.products.stage2 import Cycles, Merged
from spreadflow.report import style
from spreadflow.report.style import say

LEAST_RANGE_OF_Z = 0.2
"""The axis of r.m.s. deviations reaches at least so far from 1, to either side: less is no fault of
the model that matters.
"""

LEGEND_SHARE = 0.35
"""Share of the height of the cycles' plot that its legend has, above all lines."""


def draw(stage2: Stage2, figures: dict[str, Any]) -> Figure:
    """Draw agreement and strength beside the merge, how well pixels are explained, the cycles, and
    peaks.
    """
    page = style.page(
        "stage2: one intensity for each unique reflection, from the pixels of all lattices",
        f"{say(figures['n_lattices'])} lattices · {say(figures['n_reflections'])} reflections · "
        f"{figures['cycles']} cycles, the last moved I by {say(figures['change'])} σ · "
        f"scatter among lattices {say(figures['scatter'])} · CC½ {say(figures['cc_half'])} "
        f"(merge {say(figures['cc_half_merge'])})",
    )
    by_resolution, others = page.subplots(2, 3)
    panels = zip(by_resolution, (_correlations, _strength, _pixels), strict=True)
    for axes, draw_panel in panels:
        draw_panel(axes, stage2)
        _resolution_axis(axes, stage2.bins)
    _against_merge(others[0], stage2.merged)
    _cycles(others[1], stage2.cycles)
    _peaks(others[2], figures)
    return page


def _inverse_square_d(bins: Bins) -> np.ndarray:
    """Return (bin,) the middle of each resolution bin in 1/d², Å⁻²."""
    return 0.5 * (bins.d_max**-2.0 + bins.d_min**-2.0)


def _resolution_axis(axes: Any, bins: Bins) -> None:
    """Label an axis of 1/d² with d."""
    edges = bins.d_min
    shown = edges[:: max(1, len(edges) // 5)]
    axes.set_xticks(shown**-2.0, [f"{d:.2f}" for d in shown])
    axes.set_xlabel("d, Å")


def _correlations(axes: Any, stage2: Stage2) -> None:
    """Draw CC½ and CC ano by resolution, solid, beside the merge's, dashed."""
    s2 = _inverse_square_d(stage2.bins)
    ours = stage2.bins
    of_merge = stage2.merge_bins
    for values, values_of_merge, color, label in (
        (ours.cc_half, of_merge.cc_half, style.BLUE, "CC½"),
        (ours.cc_ano, of_merge.cc_ano, style.ORANGE, "CC ano"),
    ):
        axes.plot(s2, values, "o-", ms=4, color=color, label=label)
        axes.plot(s2, values_of_merge, "--", color=color, label=f"{label}, merge")
    axes.axhline(0, color=style.PALE, lw=0.8)
    lowest = min(-0.3, axes.get_ylim()[0])
    axes.set(title="half sets against each other", ylim=(lowest, 1.03))
    axes.legend(ncols=2)


def _strength(axes: Any, stage2: Stage2) -> None:
    """Draw I/σ by resolution beside the merge's."""
    s2 = _inverse_square_d(stage2.bins)
    axes.plot(s2, stage2.bins.i_over_sigma, "o-", ms=4, color=style.GREEN, label="stage 2")
    axes.plot(s2, stage2.merge_bins.i_over_sigma, "--", color=style.GREEN, label="merge")
    axes.set(title="⟨I/σ⟩", ylim=(0, 1.1 * max(axes.dataLim.y1, 1e-9)))
    axes.legend()


def _pixels(axes: Any, stage2: Stage2) -> None:
    """Draw r.m.s. deviations of pixels by resolution: 1 where the model is right."""
    s2 = _inverse_square_d(stage2.bins)
    sigma_z = stage2.shells.sigma_z
    axes.plot(s2, sigma_z, "o-", ms=4, color=style.PURPLE)
    axes.axhline(1, color=style.INK, lw=0.8)
    away = np.abs(np.nan_to_num(sigma_z, nan=1.0) - 1.0)
    farthest = max(LEAST_RANGE_OF_Z, 1.1 * away.max(initial=0.0))
    limits = (max(0.0, 1.0 - farthest), 1.0 + farthest)
    axes.set(title="Z of the pixels: r.m.s. (data − model)/σ", ylim=limits)


def _against_merge(axes: Any, merged: Merged) -> None:
    """Draw intensities against those of the merge, whose scale is another where the refinement did
    not start from these.
    """
    x = merged.merge
    y = merged.intensity
    is_shown = (np.nan_to_num(x) > 0) & (y > 0)
    axes.set_title("intensity, against that of the merge")
    if not is_shown.any():
        style.empty(axes, "no reflection is in both")
        return
    x = x * np.median(y[is_shown] / x[is_shown])
    axes.loglog(x[is_shown], y[is_shown], ".", ms=3, alpha=0.25, mew=0)
    limits = np.percentile(np.concatenate([x[is_shown], y[is_shown]]), [0.5, 99.9])
    axes.plot(limits, limits, color=style.INK, lw=0.8)
    axes.set(xlim=limits, ylim=limits, aspect="equal", xlabel="merge, scaled", ylabel="stage 2")
    style.log_ticks(axes.xaxis, axes.yaxis)


def _cycles(axes: Any, cycles: Cycles) -> None:
    """Draw what the cycles changed."""
    number = np.arange(1, len(cycles) + 1)
    series = (
        (cycles.change, "change of I, σ", style.BLUE),
        (cycles.scatter, "scatter among lattices", style.ORANGE),
        (cycles.spread, "spread of ln volume", style.GREEN),
        (cycles.model_error, "error of a pixel's model", style.PURPLE),
    )
    for values, label, color in series:
        axes.semilogy(number, np.maximum(values, 1e-4), "o-", color=color, label=label)
    low, high = axes.get_ylim()
    highest = low * (high / low) ** (1 / (1 - LEGEND_SHARE))
    axes.set(title="cycles", xlabel="cycle", xticks=number, ylim=(low, highest))
    axes.legend(loc="upper right")


def _peaks(axes: Any, figures: dict[str, Any]) -> None:
    """Draw the heights of the anomalous difference map at the sites, beside the merge's."""
    axes.set_title("anomalous difference map at the sites, σ")
    sites = list(figures["sites"])
    if not sites:
        style.empty(axes, "no site, or no model to phase the map with")
        return
    place = np.arange(len(sites))
    for shift, name, color, label in (
        (-0.2, "height", style.BLUE, "stage 2"),
        (0.2, "height_merge", style.GREY, "merge"),
    ):
        heights = [figures["sites"][site][name] or 0.0 for site in sites]
        axes.bar(place + shift, heights, 0.4, color=color, label=label)
    axes.set_xticks(place, sites)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.15 * (high - low))  # the legend has a row of its own
    axes.legend(loc="upper center", ncols=2)
