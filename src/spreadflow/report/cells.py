"""Figures and picture of `cells`: the populations of unit cells and what the filter keeps."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from spreadflow.analysis.merging import cells
from spreadflow.errors import LatticeOutcome
from spreadflow.io import images as io_images
from spreadflow.io import store
from spreadflow.physics import unit_cell
from spreadflow.report import style

NAMES = ("a", "b", "c", "α", "β", "γ")
COLORS = {
    LatticeOutcome.NOISE: style.GREY,
    LatticeOutcome.OTHER_CLUSTER: style.ORANGE,
    LatticeOutcome.CELL_OUTLIER: style.RED,
    LatticeOutcome.ACCEPTED: style.BLUE,
}


def make(stage: str, products: list[Path], manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all lattices of all runs, and the page."""
    table = store.read(products[0], stage)
    told = store.attributes(products[0], stage)
    figures = _figures(table, told, manifests)
    return figures, _picture(table, told, figures)


def _figures(table: dict, told: dict, manifests: list[Path]) -> dict[str, Any]:
    outcome = table["lattices/outcome"]
    run = table["lattices/run"]
    kept = table["lattices/cell"][outcome == LatticeOutcome.ACCEPTED]
    accepted = outcome == LatticeOutcome.ACCEPTED
    truths = [t for t in map(io_images.truth, manifests) if t is not None and len(t["lattices/A"])]
    true = (
        np.concatenate([[unit_cell.cell_of(A) for A in t["lattices/A"]] for t in truths])
        if truths
        else None
    )
    return {
        "n_in": len(outcome),
        "n_kept": int(accepted.sum()),
        "outcomes": {end.name.lower(): int((outcome == end).sum()) for end in LatticeOutcome},
        "n_clusters": len(table["clusters/n"]),
        "mean": kept.mean(axis=0) if len(kept) else None,
        "sd": kept.std(axis=0) if len(kept) else None,
        "true_mean": None if true is None else unit_cell.degrees(true).mean(axis=0),
        "space_group": told["space_group"],
        "features": told["features"],
        "location": table["clusters/location"][told["chosen"]],
        "covariance": table["clusters/covariance"][told["chosen"]],
        "runs": {
            name: {"n_in": int((run == r).sum()), "n_kept": int((accepted & (run == r)).sum())}
            for r, name in enumerate(told["runs"])
        },
    }


def _picture(table: dict, told: dict, figures: dict) -> Figure:
    free = [cells.NAMES.index(name) for name in cells.independent(cells.NAMES, told["space_group"])]
    pairs = list(combinations(free[:3], 2))
    mean = figures["mean"]
    text = " ".join(f"{value:.3f}" for value in mean) if mean is not None else "–"
    page = style.page(
        "cells: which lattices are the crystal form of interest",
        f"{style.say(figures['n_kept'])} of {style.say(figures['n_in'])} lattices accepted · mean "
        f"cell {text} "
        f"(Å, degrees) · clusters: {figures['n_clusters']} · {figures['space_group']}",
    )
    top, bottom = page.subfigures(2, 1, height_ratios=[1.25, 1])  # type: ignore[misc]
    axes = top.subplots(1, len(pairs) + 1, squeeze=False)[0]
    for ax, pair in zip(axes, pairs, strict=False):
        _scatter(ax, table, told, pair)
    if pairs:
        axes[0].legend(loc="best", markerscale=1.5)
    ends = {end: figures["outcomes"][end.name.lower()] for end in LatticeOutcome}
    names = [end.name.lower().replace("_", " ") for end in ends]
    style.bars(axes[-1], names, list(ends.values()), [COLORS[end] for end in ends])
    axes[-1].set_title(f"how {style.say(figures['n_in'])} lattices ended")
    for ax, column in zip(bottom.subplots(1, len(free), squeeze=False)[0], free, strict=True):
        _histogram(ax, table, figures, column)
    return page


def _view(values: np.ndarray, accepted: np.ndarray) -> tuple[float, float]:
    """Return limits that show all accepted lattices and most others."""
    inner = values[accepted] if accepted.any() else values
    low, high = np.percentile(values, [2, 98])
    low, high = min(low, inner.min()), max(high, inner.max())
    margin = 0.08 * max(high - low, 1e-3)
    return low - margin, high + margin


def _scatter(axes: Any, table: dict, told: dict, pair: tuple[int, int]) -> None:
    """Draw lattices in the plane of two cell lengths, with the 2 σ and 4 σ ellipses of the chosen
    cluster.
    """
    x, y = (table["lattices/cell"][:, column] for column in pair)
    outcome = table["lattices/outcome"]
    for end, color in COLORS.items():
        mine = outcome == end
        if mine.any():
            size = float(np.clip(3000 / len(outcome), 2, 16))
            axes.scatter(
                x[mine],
                y[mine],
                s=size,
                color=color,
                alpha=0.7,
                lw=0,
                label=end.name.lower().replace("_", " "),
            )
    accepted = outcome == LatticeOutcome.ACCEPTED
    limits = [_view(values, accepted) for values in (x, y)]
    names = [cells.NAMES[column] for column in pair]
    if set(names) <= set(told["features"]):
        rows = [told["features"].index(name) for name in names]
        centre = table["clusters/location"][told["chosen"]][rows]
        covariance = table["clusters/covariance"][told["chosen"]][np.ix_(rows, rows)]
        spread, axis = np.linalg.eigh(covariance)
        tilt = np.rad2deg(np.arctan2(axis[1, 1], axis[0, 1]))
        for sigmas in (2, 4):
            size = 2 * sigmas * np.sqrt(spread[::-1])
            axes.add_patch(Ellipse(centre, *size, angle=tilt, fill=False, color=style.INK, lw=0.9))
        reach = 4.3 * np.sqrt(np.diag(covariance))
        limits = [
            (min(v[0], c - r), max(v[1], c + r))
            for v, c, r in zip(limits, centre, reach, strict=True)
        ]
    axes.set(xlim=limits[0], ylim=limits[1])
    axes.set(xlabel=f"{NAMES[pair[0]]}, Å", ylabel=f"{NAMES[pair[1]]}, Å")
    axes.locator_params("x", nbins=4)


def _histogram(axes: Any, table: dict, figures: dict, column: int) -> None:
    values = table["lattices/cell"][:, column]
    accepted = table["lattices/outcome"] == LatticeOutcome.ACCEPTED
    low, high = _view(values, accepted)
    edges = np.linspace(low, high, style.n_bins(len(values)) + 1)
    axes.hist(
        [values[accepted], values[~accepted]], edges, stacked=True, color=[style.BLUE, style.ORANGE]
    )
    if figures["true_mean"] is not None:
        axes.axvline(figures["true_mean"][column], color=style.INK, lw=1, ls="--", label="truth")
        axes.legend(loc="upper right")
    axes.set(xlabel=f"{NAMES[column]}, {'Å' if column < 3 else 'degrees'}", ylabel="lattices")
    style.few_ticks(axes, 3)
    if figures["mean"] is not None:
        axes.set_title(f"{figures['mean'][column]:.3f} ± {figures['sd'][column]:.3f}")
