"""Figures and picture of `cells`: the populations of unit cells and what the filter keeps."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from spreadflow.analysis.merging import cells
from spreadflow.errors import LatticeOutcome
from spreadflow.io import store
from spreadflow.physics import unit_cell
from spreadflow.products import Cells
from spreadflow.products.cells import Clusters, Lattices
from spreadflow.report import style
from spreadflow.report.checks import Check, Summaries, one_outcome_each
from spreadflow.report.figures import outcome_counts
from spreadflow.report.runs import truth_in
from spreadflow.report.style import say

NAMES = ("a", "b", "c", "α", "β", "γ")
"""Names of the cell parameters in the picture."""

COLORS = {
    LatticeOutcome.NOISE: style.GREY,
    LatticeOutcome.OTHER_CLUSTER: style.ORANGE,
    LatticeOutcome.CELL_OUTLIER: style.RED,
    LatticeOutcome.ACCEPTED: style.BLUE,
}
"""Colours of the outcomes; later ones are drawn above earlier ones."""

REACH_SIGMAS = 4.3
"""How much of a cluster is in view at least, to either side of its centre, σ."""

LARGE_SHARE = 0.02
"""Share of the lattices from which a cluster is in view."""


def make(_stage: str, products: list[Path], manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all lattices of all runs, and the picture."""
    product = store.read(products[0], Cells)
    attributes = store.attributes(products[0], Cells)
    figures = _figures(product, attributes, manifests)
    return figures, _picture(product, attributes, figures)


def headline(figures: dict[str, Any]) -> list[str]:
    """Return what to know of the figures, one fact a line."""
    lines = [
        f"{say(figures['n_kept'])} of {say(figures['n_in'])} lattices accepted "
        f"({style.outcomes(figures)})"
    ]
    if figures["mean"] is not None:
        mean = " ".join(f"{value:.3f}" for value in figures["mean"])
        lines.append(f"mean cell {mean} (Å, degrees)")
    if figures["n_clusters"] > 1:
        lines += [_population(figures, number) for number in range(figures["n_clusters"])]
    if figures["forbidden_strain"] is not None:
        lines.append(
            f"against the symmetry of {figures['space_group']}, spots ask for a change of lengths "
            f"of {100 * figures['forbidden_strain']:.4f} ± "
            f"{100 * figures['forbidden_strain_sigma']:.4f} %"
        )
    if figures["length_sigma"]:
        share = f"{say(100 * figures['length_sigma'], 2)} %"
        lines.append(f"all lengths have a common error of {share}, by the detector's distance")
    return lines


def _population(figures: dict[str, Any], number: int) -> str:
    """Return what to know of one of several clusters."""
    cluster = figures["clusters"][number]
    mean = " ".join(f"{value:.3f}" for value in cluster["mean"])
    sigma = " ".join(f"{say(float(s), 2)}" for s in np.sqrt(np.diag(cluster["covariance"])))
    features = ", ".join(NAMES[cells.NAMES.index(name)] for name in figures["features"])
    which = " (accepted)" if number == figures["chosen"] else ""
    return (
        f"cluster {number}{which}: {say(cluster['n'])} lattices of {mean}, "
        f"σ of {features}: {sigma} (Å, degrees)"
    )


def checks(summaries: Summaries) -> list[Check]:
    """Return the counts that must agree."""
    figures = summaries.get("cells")
    if not figures:
        return []
    equalities = []
    if "reindex" in summaries:
        n_lattices = summaries["reindex"]["n_lattices"]
        statement = "each lattice of reindex reaches cells"
        equalities.append(Check(statement, n_lattices, figures["n_in"]))
    n_accepted = figures["outcomes"]["accepted"]
    return [
        *equalities,
        one_outcome_each("lattice of cells", figures, "n_in"),
        Check("those accepted are kept", n_accepted, figures["n_kept"]),
    ]


def _figures(product: Cells, attributes: dict, manifests: list[Path]) -> dict[str, Any]:
    """Return figures over all lattices, with a block for each run."""
    clusters = product.clusters
    outcome = product.lattices.outcome
    run = product.lattices.run
    is_accepted = outcome == LatticeOutcome.ACCEPTED
    cell = product.lattices.cell[is_accepted]
    return {
        "n_in": len(outcome),
        "n_kept": int(is_accepted.sum()),
        "outcomes": outcome_counts(outcome, LatticeOutcome),
        "n_other_setting": int((product.lattices.setting != np.eye(3)).any(axis=(1, 2)).sum()),
        "n_clusters": len(clusters),
        "clusters": [
            {"n": int(n), "mean": mean, "covariance": covariance}
            for n, mean, covariance in zip(
                clusters.n, clusters.mean, clusters.covariance, strict=True
            )
        ],
        "chosen": attributes["chosen"],
        "eps_ang": attributes["eps_ang"],
        "is_eps_suggested": attributes["config"]["eps_ang"] is None,
        "min_samples": attributes["min_samples"],
        "mean": cell.mean(axis=0) if len(cell) else None,
        "sd": cell.std(axis=0) if len(cell) else None,
        "length_sigma": attributes.get("length_sigma"),
        "forbidden_strain": (attributes["forbidden_strain"] or {}).get("size"),
        "forbidden_strain_sigma": (attributes["forbidden_strain"] or {}).get("sigma"),
        "true_mean": _true_mean(manifests),
        "space_group": attributes["space_group"],
        "features": attributes["features"],
        "location": clusters.location[attributes["chosen"]],
        "covariance": clusters.covariance[attributes["chosen"]],
        "runs": {
            name: {
                "n_in": int((run == number).sum()),
                "n_kept": int((is_accepted & (run == number)).sum()),
            }
            for number, name in enumerate(attributes["runs"])
        },
    }


def _true_mean(manifests: list[Path]) -> np.ndarray | None:
    """Return (6,) the mean simulated cell, Å and degrees, or None where none is known."""
    true_cells: list[np.ndarray] = []
    for truth in map(truth_in, manifests):
        if truth is not None:
            true_cells += map(unit_cell.cell_of, truth.lattices.A)
    if not true_cells:
        return None
    return unit_cell.degrees(np.array(true_cells)).mean(axis=0)


# ---------------------------------------------------------------- the picture


def _picture(product: Cells, attributes: dict, figures: dict) -> Figure:
    """Draw lattices in the planes of two cell lengths, their outcomes, and each free parameter."""
    independent = cells.independent(cells.NAMES, attributes["space_group"])
    free = [cells.NAMES.index(name) for name in independent]
    pairs = _pairs(free)
    mean = "–"
    if figures["mean"] is not None:
        mean = " ".join(f"{value:.3f}" for value in figures["mean"])
    page = style.page(
        "cells: which lattices are the crystal form of interest",
        f"{say(figures['n_kept'])} of {say(figures['n_in'])} lattices accepted · "
        f"mean cell {mean} (Å, degrees) · "
        f"clusters: {figures['n_clusters']} · {figures['space_group']}",
    )
    top, bottom = page.subfigures(2, 1, height_ratios=[1.25, 1])  # type: ignore[misc]
    axes = top.subplots(1, len(pairs) + 2, squeeze=False)[0]
    for ax, pair in zip(axes, pairs, strict=False):
        _scatter(ax, product, attributes, pair)
    if pairs:
        axes[0].legend(loc="best", markerscale=1.5)

    _neighbours(axes[-2], product.lattices, attributes)
    counts = figures["outcomes"]
    names = [name.replace("_", " ") for name in counts]
    colors = [COLORS[outcome] for outcome in LatticeOutcome]
    style.bars(axes[-1], names, list(counts.values()), colors)
    axes[-1].set_title("how lattices ended")

    histograms = bottom.subplots(1, len(free), squeeze=False)[0]
    for ax, column in zip(histograms, free, strict=True):
        _histogram(ax, product.lattices, figures, column)
    return page


def _pairs(free: list[int]) -> list[tuple[int, int]]:
    """Return the planes of cell parameters that are drawn: few, and each parameter in one of
    them.
    """
    if len(free) == 3:
        return [(free[0], free[1]), (free[0], free[2])]
    return list(zip(free[::2], free[1::2], strict=False))


def _neighbours(axes: Any, lattices: Lattices, attributes: dict) -> None:
    """Draw how far enough neighbours of a lattice are to make a cluster, in order, and the radius
    within which they have to be.
    """
    if attributes["eps_ang"] is None:
        style.empty(axes, "clusters are those\nof a frozen file")
        return
    searched = attributes["config"]["runs"] or attributes["runs"]
    numbers = [number for number, name in enumerate(attributes["runs"]) if name in searched]
    is_searched = np.isin(lattices.run, numbers)
    x = cells.in_angstrom(lattices.cell[is_searched], attributes["features"])
    distances = cells.neighbour_distances(x, attributes["min_samples"])
    share = np.linspace(0, 100, len(distances))
    axes.semilogy(share, np.maximum(distances, cells.SMALLEST_DIFFERENCE), color=style.BLUE)
    source = "suggested" if attributes["config"]["eps_ang"] is None else "set"
    axes.axhline(attributes["eps_ang"], color=style.INK, lw=1, ls="--")
    axes.set_title(f"eps {say(attributes['eps_ang'])} Å, {source}")
    n_others = attributes["min_samples"] - 1
    axes.set(xlabel="lattices, %", ylabel=f"radius that holds {n_others} others, Å")


def _view(values: np.ndarray, accepted: np.ndarray) -> tuple[float, float]:
    """Return limits that show all accepted lattices and most of the others."""
    inner = values[accepted] if accepted.any() else values
    low, high = np.percentile(values, [2, 98])
    low = min(low, inner.min())
    high = max(high, inner.max())
    margin = 0.08 * max(high - low, 1e-3)
    return low - margin, high + margin


def _scatter(axes: Any, product: Cells, attributes: dict, pair: tuple[int, int]) -> None:
    """Draw lattices in the plane of two cell parameters, with the clusters; the chosen one and
    large ones are in view.

    pair: columns of the cell.
    """
    x, y = (product.lattices.cell[:, column] for column in pair)
    outcome = product.lattices.outcome
    _points(axes, x, y, outcome)

    accepted = outcome == LatticeOutcome.ACCEPTED
    limits = np.array([_view(values, accepted) for values in (x, y)])
    features = attributes["features"]
    names = [cells.NAMES[column] for column in pair]
    if set(names) <= set(features):
        rows = [features.index(name) for name in names]
        for number in range(len(product.clusters)):
            rim = _cluster(axes, product.clusters, attributes, rows, number)
            is_large = product.clusters.n[number] > LARGE_SHARE * len(outcome)
            if is_large or number == attributes["chosen"]:
                limits[:, 0] = np.minimum(limits[:, 0], rim[0])
                limits[:, 1] = np.maximum(limits[:, 1], rim[1])
    axes.set(xlim=limits[0], ylim=limits[1])
    axes.set(xlabel=_label(pair[0]), ylabel=_label(pair[1]))
    axes.locator_params("x", nbins=4)


def _cluster(
    axes: Any, clusters: Clusters, attributes: dict, rows: list[int], number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the 2 σ and 4 σ ellipses of a cluster, with its number where there are several, and
    return the corners (2,) of a view that shows them. rows: of the two features.
    """
    is_chosen = number == attributes["chosen"]
    color = style.INK if is_chosen else COLORS[LatticeOutcome.OTHER_CLUSTER]
    centre = clusters.location[number][rows]
    covariance = clusters.covariance[number][np.ix_(rows, rows)]
    _ellipses(axes, centre, covariance, color)
    reach = REACH_SIGMAS * np.sqrt(np.diag(covariance))
    if len(clusters) > 1:
        top = (centre[0], centre[1] + reach[1])
        axes.annotate(str(number), top, color=color, ha="center")
    return centre - reach, centre + 1.2 * reach


def _label(column: int) -> str:
    """Return name and unit of a cell parameter."""
    return f"{NAMES[column]}, {'Å' if column < 3 else 'degrees'}"


def _points(axes: Any, x: np.ndarray, y: np.ndarray, outcome: np.ndarray) -> None:
    """Draw lattices in the colours of their outcomes; the more there are, the smaller."""
    size = float(np.clip(3000 / max(len(outcome), 1), 2, 16))
    for end, color in COLORS.items():
        rows = np.flatnonzero(outcome == end)
        if len(rows):
            label = end.name.lower().replace("_", " ")
            axes.scatter(x[rows], y[rows], s=size, color=color, alpha=0.7, lw=0, label=label)


def _ellipses(axes: Any, centre: np.ndarray, covariance: np.ndarray, color: str) -> None:
    """Draw the 2 σ and 4 σ ellipses of a covariance (2, 2)."""
    variances, directions = np.linalg.eigh(covariance)
    longest = directions[:, 1]
    tilt = np.rad2deg(np.arctan2(longest[1], longest[0]))
    x, y = centre
    for n_sigmas in (2, 4):
        size = 2 * n_sigmas * np.sqrt(variances[::-1])
        ellipse = Ellipse((x, y), *size, angle=tilt, fill=False, color=color, lw=0.9, zorder=3)
        axes.add_patch(ellipse)


def _histogram(axes: Any, lattices: Lattices, figures: dict, column: int) -> None:
    """Draw the distribution of one cell parameter; accepted lattices below, the others above."""
    values = lattices.cell[:, column]
    accepted = lattices.outcome == LatticeOutcome.ACCEPTED
    low, high = _view(values, accepted)
    edges = np.linspace(low, high, style.n_bins(len(values)) + 1)
    stacks = [values[accepted], values[~accepted]]
    axes.hist(stacks, edges, stacked=True, histtype="stepfilled", color=[style.BLUE, style.ORANGE])
    if figures["true_mean"] is not None:
        axes.axvline(figures["true_mean"][column], color=style.INK, lw=1, ls="--", label="truth")
        axes.legend(loc="upper right")
    axes.set(xlabel=_label(column), ylabel="lattices")
    style.few_ticks(axes, 3)
    if figures["mean"] is not None:
        axes.set_title(f"{figures['mean'][column]:.3f} ± {figures['sd'][column]:.3f}")
