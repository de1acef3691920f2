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
from spreadflow.io.truth import true_detector
from spreadflow.models import Detector
from spreadflow.physics import geometry
from spreadflow.report import style
from spreadflow.report.checks import Check, Summaries, one_outcome_each
from spreadflow.report.style import say

UM = 1e3
"""µm in a mm."""


def make(_stage: str, products: list[Path], manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures of the joint refinement, and the picture."""
    path = products[0].with_suffix(".fit.json")
    try:
        fit = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise FileError(path, "the figures of level0 (JSON)", error, "Rerun level0.") from None
    figures = fit | _against_truth(manifests)
    return figures, _picture(figures)


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
    if figures.get("true_shift_mm") is not None:
        true_shift = ", ".join(f"{UM * value:+.1f}" for value in figures["true_shift_mm"])
        lines.append(f"truth: ({true_shift}) µm, {figures['true_distance_mm']:.4f} mm")
    return lines


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


def _picture(figures: dict) -> Figure:
    """Draw the shift with its errors, r.m.s.d. before and after, the distance, correlations."""
    fast, slow = (UM * shift for shift in figures["shift_mm"])
    page = style.page(
        "level0: where the detector is",
        f"shift ({fast:+.1f}, {slow:+.1f}) µm along fast and slow · "
        f"distance {figures['distance_mm']:.4f} mm (header {figures['header_distance_mm']:.4f}) · "
        f"{say(figures['n_lattices'])} lattices · "
        f"{say(figures['n_reflections'])} reflections, {say(figures['n_outliers'])} rejected",
    )
    axes = page.subplot_mosaic(
        [["shift", "rmsd"], ["shift", "distance"], ["shift", "correlation"]],
        height_ratios=[1, 0.8, 1.2],
    )
    _shift(axes["shift"], figures)
    _rmsd(axes["rmsd"], figures["rmsd_before"], figures["rmsd_after"])
    _distance(axes["distance"], figures)
    _correlation(axes["correlation"], figures)
    return page


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
    """Draw the correlations of the refined parameters."""
    names = [
        name.removesuffix("_mm").removesuffix("_rad").replace("_", " ")
        for name in figures["refined"]
    ]
    matrix = np.array(figures["correlation"])
    axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(matrix):
        color = "white" if abs(value) > 0.6 else style.INK
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_title("correlations of the refined")
