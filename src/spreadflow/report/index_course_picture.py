"""Panels of the picture of `index` and `reindex`: over the shots as they were taken, over the
detector, and over the resolution.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap, PowerNorm
from matplotlib.ticker import MaxNLocator

from spreadflow.errors import Outcome
from spreadflow.models import Detector
from spreadflow.products import Index
from spreadflow.report import laboratory, style
from spreadflow.report.index_sums import Counted
from spreadflow.report.indexed_run import IndexedRun, concatenated
from spreadflow.report.style import say

COLORS = {
    Outcome.BLANK: style.GREY,
    Outcome.NO_LATTICE: style.ORANGE,
    Outcome.OVERFLOW: style.RED,
    Outcome.INDEXED: style.GREEN,
}
"""Colours of the outcomes of shots with spots."""

WIDE_RANGE = 30
"""Ratio of the most to the fewest spots from which they are drawn on a log scale."""

SUMS = ListedColormap(colormaps["magma_r"](np.linspace(0.25, 1.0, 256)))
"""Colours of numbers of spots: one can be seen upon white."""


def over_shots(
    axes: Mapping[str, Any], runs: list[IndexedRun], counted: Counted, figures: dict
) -> None:
    """Draw the panels that every picture has: rates, spots and energy over the shots, the sum of
    the spots on the detector, and their numbers by resolution.
    """
    _rates(axes["rates"], figures)
    _spots(axes["spots"], runs)
    _energy(axes["energy"], runs, figures)
    _sum(axes["sum"], runs[-1].detector, counted)
    _by_resolution(axes["by_resolution"], figures)


def _rates(axes: Any, figures: dict) -> None:
    """Draw the rate of hits and of indexed shots over the number of the shot."""
    axes.set_title("rates over the shots")
    bins = figures["by_shot"]
    if not bins:
        style.empty(axes, "no shots")
        return
    edges = [bins[0]["first"], *(of_bin["last"] + 1 for of_bin in bins)]
    hits, indexed = (
        [of_bin[key] / of_bin["n_shots"] for of_bin in bins] for key in ("n_hits", "n_indexed")
    )
    axes.stairs(indexed, edges, fill=True, color=style.GREEN, alpha=0.5, label="indexed")
    axes.stairs(hits, edges, baseline=None, color=style.BLUE, lw=1.6, label="hits")
    axes.set(xlabel="number of the shot", ylim=(-0.02, 1.25), yticks=np.arange(0, 1.1, 0.2))
    axes.legend(loc="upper left", ncols=2)
    _shot_axis(axes)


def _spots(axes: Any, runs: list[IndexedRun]) -> None:
    """Draw the number of spots of each shot, in the colours of the outcomes."""
    axes.set_title("spots of each shot")
    outcome = concatenated(runs, Index.shots.outcome)
    n_spots = concatenated(runs, Index.shots.n_spots)
    number = np.arange(len(outcome))
    for end, color in COLORS.items():
        rows = (outcome == end) & (n_spots > 0)
        if rows.any():
            name = end.name.lower().replace("_", " ")
            size = style.point_size(len(number))
            axes.plot(number[rows], n_spots[rows], ".", color=color, ms=size, label=name)
    if not axes.lines:
        style.empty(axes, "no shot has a spot")
        return
    axes.set(xlabel="number of the shot")
    most = n_spots.max()
    if most > WIDE_RANGE * n_spots[n_spots > 0].min():
        axes.set(yscale="log", ylim=(0.7 * n_spots[n_spots > 0].min(), 5 * most))
    else:
        axes.set_ylim(0, 1.3 * most)
    axes.legend(loc="upper left", ncols=2)
    _shot_axis(axes)


def _energy(axes: Any, runs: list[IndexedRun], figures: dict) -> None:
    """Draw the mean energy of each shot, as its file states it, and the mean of all."""
    axes.set_title("energy that files state, eV")
    mean = figures["energy_mean_ev"]
    if mean is None:
        style.empty(axes, "no energy was read")
        return
    energy = concatenated(runs, Index.shots.mean_energy_ev)
    size = style.point_size(len(energy))
    axes.plot(np.arange(len(energy)), energy, ".", color=style.PURPLE, ms=size)
    axes.axhline(mean, color=style.INK, lw=0.8, ls="--")
    spread = say(figures["energy_sd_ev"], 2)
    axes.set(xlabel="number of the shot")
    axes.text(
        0.02,
        0.97,
        f"mean {mean:.1f}, from shot to shot ± {spread}",
        fontsize=8,
        va="top",
        transform=axes.transAxes,
    )
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.2 * (high - low))
    _shot_axis(axes)


def _shot_axis(axes: Any) -> None:
    """Set few whole numbers on the axis of shots."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))


def _sum(axes: Any, detector: Detector, counted: Counted) -> None:
    """Draw how many spots of all shots there are in places of the detector."""
    axes.set_title("sum of the spots of all shots")
    laboratory.panels(axes, detector)
    if not counted.sums.of_panel.any():
        style.empty(axes, "no spots")
        return
    x, y = counted.bins.x_mm, counted.bins.y_mm
    step = x[1] - x[0]
    counts = np.where(counted.sums.of_place > 0, counted.sums.of_place, np.nan)
    most = max(2.0, float(np.nanmax(counts, initial=1.0)))
    scale = PowerNorm(0.5, 1, most)
    mesh = axes.pcolormesh(x, y, counts.T, norm=scale, cmap=SUMS, rasterized=True)
    label = f"spots in {step:.2g} × {step:.2g} mm"
    ticks = MaxNLocator(nbins=6, integer=True)
    axes.figure.colorbar(mesh, ax=axes, shrink=0.75, label=label, ticks=ticks)


def _by_resolution(axes: Any, figures: dict) -> None:
    """Draw the number of spots in shells of resolution, and that of noise on every pixel."""
    axes.set_title("spots by resolution")
    shells = figures["by_resolution"]
    if not shells or not figures["n_spots"]:
        style.empty(axes, "no spots")
        return
    edges = [shells[0]["d_max"] ** -2.0, *(shell["d_min"] ** -2.0 for shell in shells)]
    for key, look in (
        ("n_spots", {"fill": True, "color": style.BLUE, "alpha": 0.65, "label": "spots"}),
        ("n_by_area", {"color": style.INK, "ls": "--", "label": "if spread as pixels are"}),
    ):
        axes.stairs([shell[key] for shell in shells], edges, **look)
    shown = np.linspace(edges[0], edges[-1], 6)[1:]
    axes.set_xticks(shown, [f"{s2**-0.5:.2f}" for s2 in shown])
    axes.set(xlabel="d, Å", ylabel="spots")
    axes.margins(y=0.25)
    axes.legend(loc="upper right")


def resolution_of_lattices(axes: Any, runs: list[IndexedRun]) -> None:
    """Draw the resolution to which each lattice carries signal."""
    axes.set_title("resolution of each lattice")
    d = concatenated(runs, Index.lattices.d_min)
    d = d[np.isfinite(d)]
    if not len(d):
        style.empty(axes, "nothing was predicted")
        return
    axes.hist(d, bins=style.n_bins(len(d)), histtype="stepfilled", color=style.BLUE, alpha=0.65)
    axes.axvline(np.median(d), color=style.BLUE, lw=1.5)
    axes.invert_xaxis()
    axes.set(xlabel="d, Å", ylabel="lattices")
    style.few_ticks(axes)


def by_panel(axes: Any, figures: dict) -> None:
    """Draw the r.m.s.d. of strong reflections on each panel."""
    axes.set_title("r.m.s.d. of strong reflections by panel, px")
    panels = [of_panel for of_panel in figures["by_panel"] if of_panel["n_rmsd"]]
    if not panels:
        style.empty(axes, "no reflection with I ≥ 5 σ")
        return
    number = np.array([of_panel["panel"] for of_panel in panels])
    for key, color, shift in (("radial", style.ORANGE, -0.2), ("transverse", style.BLUE, 0.2)):
        heights = [of_panel[f"{key}_rmsd_px"] for of_panel in panels]
        axes.bar(number + shift, heights, width=0.4, color=color, label=key)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
    axes.set(xlabel="panel", xlim=(number.min() - 0.9, number.max() + 0.9))
    axes.margins(y=0.25)
    axes.legend(loc="upper right", ncols=2)
