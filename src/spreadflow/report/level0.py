"""Figures and picture of `level0`: where the detector is, how well that is known, and what it
mended.

The stage leaves its figures in `level0.fit.json` beside `level0.expt`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from spreadflow.errors import FileError
from spreadflow.io.images import Source
from spreadflow.io.lattices.dials import read_expt
from spreadflow.io.truth import true_detector
from spreadflow.models import Detector
from spreadflow.physics import geometry
from spreadflow.report import laboratory, style
from spreadflow.report.checks import Check, Summaries, one_outcome_each
from spreadflow.report.style import say

UM = 1e3
"""µm in a mm."""

ARROW_MM = 15.0
"""Length, on the detector, of the arrow of the group that moved farthest."""


def make(_stage: str, products: list[Path], manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures of the joint refinement, and the picture."""
    path = products[0].with_suffix(".fit.json")
    try:
        fit = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise FileError(path, "the figures of level0 (JSON)", error, "Rerun level0.") from None
    figures = fit | _against_truth(manifests)
    detector = read_expt(products[0]) if figures.get("rigid_groups") else None
    return figures, _picture(figures, detector)


def headline(figures: dict[str, Any]) -> list[str]:
    """Return what to know of the figures, one fact a line."""
    shifts = zip(figures["shift_mm"], figures["shift_sigma_mm"], strict=True)
    shift = ", ".join(f"{UM * value:+.1f} ± {UM * sigma:.1f}" for value, sigma in shifts)
    lines = [
        f"detector shifted by ({shift}) µm along fast and slow",
        f"distance {figures['distance_mm']:.4f} ± {figures['distance_sigma_mm']:.4f} mm "
        f"(header {figures['header_distance_mm']:.4f} mm)",
        f"{say(figures['n_in'])} lattices: {style.outcomes(figures)}",
    ]
    if figures.get("rigid_groups"):
        lines.append(_of_groups(figures["rigid_groups"]))
    if figures.get("true_shift_mm") is not None:
        true_shift = ", ".join(f"{UM * value:+.1f}" for value in figures["true_shift_mm"])
        lines.append(f"truth: ({true_shift}) µm, {figures['true_distance_mm']:.4f} mm")
    return lines


def _of_groups(groups: list[dict[str, Any]]) -> str:
    """Return how far rigid groups moved, in words."""
    lengths = _lengths(groups)
    farthest = int(lengths.argmax())
    first = groups[farthest]["panels"][0]
    mean = np.sqrt(np.mean(lengths**2))
    return (
        f"{len(groups)} rigid groups beside it shifted by {UM * mean:.1f} µm (r.m.s.), the one of "
        f"panel {first} by {UM * lengths[farthest]:.1f} µm"
    )


def _lengths(groups: list[dict[str, Any]]) -> np.ndarray:
    """Return how far groups were shifted in the plane of the detector, (group,) mm."""
    return np.array([np.hypot(*group["shift_mm"]) for group in groups])


def checks(summaries: Summaries) -> list[Check]:
    """Return the counts that must agree."""
    figures = summaries.get("level0")
    return [one_outcome_each("lattice of level0", figures, "n_in")] if figures else []


def _against_truth(manifests: list[Path]) -> dict[str, Any]:
    """Return true shift and distance from the first run whose truth is known."""
    for manifest in manifests:
        true = true_detector(manifest)
        if true is not None:
            shift, distance = _true_shift(true, Source(manifest).detector)
            return {"true_shift_mm": shift, "true_distance_mm": distance}
    return {"true_shift_mm": None, "true_distance_mm": None}


def _true_shift(true: Detector, header: Detector) -> tuple[list[float], float]:
    """Return how far the true detector lies from where the header says, (fast, slow) along panel
    0's axes, and its true distance, all in mm.
    """
    moved = true.origin_mm[0] - header.origin_mm[0]
    fast = float(moved @ header.fast[0])
    slow = float(moved @ header.slow[0])
    distance = float(geometry.distances_mm(true)[0])
    return [fast, slow], distance


# ---------------------------------------------------------------- the picture


def _picture(figures: dict, detector: Detector | None) -> Figure:
    """Draw the shift with its errors, r.m.s.d. before and after, the distance, correlations; of
    rigid groups, where they moved and how well their spots fit.

    detector: as refined, where it has such groups.
    """
    fast, slow = (UM * shift for shift in figures["shift_mm"])
    page = style.page(
        "level0: where the detector is",
        f"shift ({fast:+.1f}, {slow:+.1f}) µm along fast and slow · "
        f"distance {figures['distance_mm']:.4f} mm (header {figures['header_distance_mm']:.4f}) · "
        f"{say(figures['n_lattices'])} lattices · "
        f"{say(figures['n_reflections'])} reflections, {say(figures['n_outliers'])} rejected",
        height=7.6 if detector is None else 12.6,
    )
    rows: list[Any] = [["shift", "rmsd"], ["shift", "distance"], ["shift", "correlation"]]
    heights = [1, 0.8, 1.2]
    if detector is not None:
        rows.append(["groups", "fits"])
        heights.append(3.0)
    axes = page.subplot_mosaic(rows, height_ratios=heights)
    if detector is not None:
        _groups(axes["groups"], figures["rigid_groups"], detector)
        _fits(axes["fits"], figures["rigid_groups"])
    _shift(axes["shift"], figures)
    _rmsd(axes["rmsd"], figures["rmsd_before"], figures["rmsd_after"])
    _distance(axes["distance"], figures)
    _correlation(axes["correlation"], figures)
    return page


def _groups(axes: Any, groups: list[dict[str, Any]], detector: Detector) -> None:
    """Draw the panels, and an arrow for the shift of each group, much enlarged."""
    laboratory.panels(axes, detector)
    n_slow, n_fast = detector.shape
    numbers = np.arange(detector.n_panels)
    middles = geometry.position(
        detector, numbers, np.full(len(numbers), n_fast / 2), np.full(len(numbers), n_slow / 2)
    )
    along = np.array([detector.fast[0], detector.slow[0]])
    farthest = max(_lengths(groups).max(), 1e-9)
    for group in groups:
        x, y, _ = middles[group["panels"]].mean(axis=0)
        n = group["rmsd_after"]["n"]
        lab = np.array(group["shift_mm"]) @ along * ARROW_MM / farthest
        color = style.BLUE if n else style.GREY
        arrow = {"arrowstyle": "->", "color": color, "lw": 1.4, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (x + lab[0], y + lab[1]), (x, y), arrowprops=arrow)
        axes.plot(x, y, ".", color=color, ms=4)
    title = f"shifts of {len(groups)} rigid groups; the longest arrow is {UM * farthest:.0f} µm"
    axes.set_title(title)


def _fits(axes: Any, groups: list[dict[str, Any]]) -> None:
    """Draw the r.m.s.d. of each group's spots before and after, both directions together."""
    numbers = np.arange(len(groups))
    for when, color in (("before", style.GREY), ("after", style.BLUE)):
        rows = [group[f"rmsd_{when}"] for group in groups]
        values = [
            np.hypot(row["radial_px"], row["transverse_px"]) if row["n"] else np.nan for row in rows
        ]
        axes.plot(numbers, values, "o", ms=5, color=color, label=when)
    axes.set_ylim(bottom=0)
    axes.set(
        title="r.m.s.d. of the spots of each group, px",
        xlabel="group, in the order of its first panel",
    )
    axes.legend(loc="best")


def _shift(axes: Any, figures: dict) -> None:
    """Draw the header at the origin, the refined shift with its 1 σ and 3 σ ellipses, the truth."""
    x, y = UM * np.array(figures["shift_mm"])
    sigma = UM * np.array(figures["shift_sigma_mm"])
    axes.plot(0, 0, "o", ms=6, color=style.GREY, label="header")
    arrow = {"arrowstyle": "->", "color": style.BLUE, "lw": 1.2}
    axes.annotate("", (x, y), (0, 0), arrowprops=arrow)
    for n_sigmas in (1, 3):
        size = 2 * n_sigmas * sigma
        axes.add_patch(Ellipse((x, y), *size, fill=False, color=style.BLUE, lw=1))
    axes.plot(x, y, ".", color=style.BLUE, label="refined, 1 σ and 3 σ")
    if figures["true_shift_mm"] is not None:
        true = UM * np.array(figures["true_shift_mm"])
        axes.plot(*true, "+", ms=14, mew=2, color=style.RED, label="truth")
    axes.axhline(0, color=style.PALE, lw=0.8, zorder=0)
    axes.axvline(0, color=style.PALE, lw=0.8, zorder=0)
    axes.margins(0.2)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(title="shift of the detector", xlabel="fast, µm", ylabel="slow, µm")
    axes.legend(loc="best")


def _distance(axes: Any, figures: dict) -> None:
    """Draw the distance of the header, the refined one with its 3 σ, and the truth, each in a line
    of its own.
    """
    header = figures["header_distance_mm"]
    sigma = figures["distance_sigma_mm"] or 0.0
    lines = [("header", header, style.GREY), ("refined, 3 σ", figures["distance_mm"], style.BLUE)]
    if figures["true_distance_mm"] is not None:
        lines.append(("truth", figures["true_distance_mm"], style.RED))
    for row, (_, distance, color) in enumerate(lines):
        moved = UM * (distance - header)
        error = 3 * UM * sigma if color == style.BLUE else None
        axes.errorbar(moved, -row, xerr=error, fmt="o", ms=6, color=color, capsize=4)
        text = f"{distance:.4f} mm"
        axes.annotate(
            text, (moved, -row), (0, 6), textcoords="offset points", ha="center", fontsize=8
        )
    axes.axvline(0, color=style.PALE, lw=0.8, zorder=0)
    axes.set_yticks([-row for row in range(len(lines))], [name for name, _, _ in lines])
    axes.set_ylim(0.4 - len(lines), 0.8)
    axes.margins(x=0.25)
    moved = UM * (figures["distance_mm"] - header)
    title = f"distance: {moved:+.1f} ± {UM * sigma:.1f} µm from the header's"
    axes.set(title=title, xlabel="µm from the header's distance")


def _rmsd(axes: Any, before: dict, after: dict) -> None:
    """Draw the root mean square of observed − predicted, before and after, of the same
    reflections.
    """
    y = np.array([1.0, 0.0])
    for rmsd, offset, color, label in (
        (before, 0.18, style.GREY, "before"),
        (after, -0.18, style.BLUE, "after"),
    ):
        values = [rmsd["radial_px"], rmsd["transverse_px"]]
        axes.barh(y + offset, values, height=0.32, color=color, label=label)
        for value, height in zip(values, y + offset, strict=True):
            axes.text(value, height, f" {value:.3f}", va="center", fontsize=8)
    axes.set_yticks(y, ["radial", "transverse"])
    axes.margins(x=0.15)
    axes.set(title=f"r.m.s.d. of {say(before['n'])} reflections, px")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _correlation(axes: Any, figures: dict) -> None:
    """Draw the correlations of the refined parameters; over the whole width, which their names need
    beside each other.
    """
    names = [
        name.removesuffix("_mm").removesuffix("_rad").replace("_", " ")
        for name in figures["refined"]
    ]
    matrix = np.array(figures["correlation"])
    axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(matrix):
        color = "white" if abs(value) > 0.6 else style.INK
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_title("correlations of the refined")
