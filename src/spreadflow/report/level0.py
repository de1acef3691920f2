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
from spreadflow.models import Detector
from spreadflow.physics import geometry
from spreadflow.report import style
from spreadflow.report.truth import true_detector

UM = 1e3
"""µm per mm."""


def make(_stage: str, products: list[Path], manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures of the joint refinement, and the page."""
    path = products[0].with_suffix(".fit.json")
    try:
        fit = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise FileError(path, "the figures of level0 (JSON)", error, "Rerun level0.") from None
    figures = fit | against_truth(manifests)
    return figures, _picture(figures)


def against_truth(manifests: list[Path]) -> dict[str, Any]:
    """Return true shift and distance in the first run whose truth is known."""
    for manifest in manifests:
        true = true_detector(manifest)
        if true is not None:
            shift, distance = difference(true, Source(manifest).detector)
            return {"true_shift_mm": shift, "true_distance_mm": distance}
    return {"true_shift_mm": None, "true_distance_mm": None}


def difference(true: Detector, header: Detector) -> tuple[list[float], float]:
    """Return (fast, slow) in mm by which the true detector is moved along panel 0's axes, and its
    true distance, mm.
    """
    moved = true.origin_mm[0] - header.origin_mm[0]
    shift = [float(moved @ header.fast[0]), float(moved @ header.slow[0])]
    return shift, float(geometry.distances_mm(true)[0])


def _picture(figures: dict) -> Figure:
    fast, slow = (UM * x for x in figures["shift_mm"])
    before = figures["rmsd_before"]
    after = figures["rmsd_after"]
    page = style.page(
        "level0: where the detector is",
        f"shift ({fast:+.1f}, {slow:+.1f}) µm along fast and slow · distance "
        f"{figures['distance_mm']:.4f} mm · "
        f"{style.say(figures['n_lattices'])} lattices · {style.say(figures['n_reflections'])} "
        "reflections, "
        f"{style.say(figures['n_outliers'])} rejected",
    )
    axes = page.subplot_mosaic(
        [["shift", "rmsd"], ["shift", "distance"], ["shift", "correlation"]],
        height_ratios=[1, 0.8, 1.2],
    )
    _shift(axes["shift"], figures)
    _rmsd(axes["rmsd"], before, after)
    _distance(axes["distance"], figures)
    _correlation(axes["correlation"], figures)
    return page


def _shift(axes: Any, figures: dict) -> None:
    """Draw the header at the origin, the refined shift with its 1 σ and 3 σ ellipses, the truth."""
    x, y = UM * np.array(figures["shift_mm"])
    sigma = UM * np.array(figures["shift_sigma_mm"])
    axes.plot(0, 0, "o", ms=6, color=style.GREY, label="files")
    axes.annotate(
        "", (x, y), (0, 0), arrowprops={"arrowstyle": "->", "color": style.BLUE, "lw": 1.2}
    )
    for n in (1, 3):
        axes.add_patch(Ellipse((x, y), *(2 * n * sigma), fill=False, color=style.BLUE, lw=1))
    axes.plot(x, y, ".", color=style.BLUE, label="refined, 1 σ and 3 σ")
    if figures["true_shift_mm"] is not None:
        axes.plot(
            *(UM * np.array(figures["true_shift_mm"])),
            "+",
            ms=14,
            mew=2,
            color=style.RED,
            label="truth",
        )
    axes.axhline(0, color=style.PALE, lw=0.8, zorder=0)
    axes.axvline(0, color=style.PALE, lw=0.8, zorder=0)
    axes.margins(0.2)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(title="shift of the detector", xlabel="fast, µm", ylabel="slow, µm")
    axes.legend(loc="best")


def _distance(axes: Any, figures: dict) -> None:
    sigma = UM * (figures["distance_sigma_mm"] or 0.0)
    axes.errorbar(0, 0, xerr=3 * sigma, fmt="o", color=style.BLUE, capsize=4, label="refined, 3 σ")
    if figures["true_distance_mm"] is not None:
        away = UM * (figures["true_distance_mm"] - figures["distance_mm"])
        axes.plot(away, 0, "+", ms=14, mew=2, color=style.RED, label="truth")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.margins(0.25)
    axes.set(
        title=f"distance: {figures['distance_mm']:.4f} mm", xlabel="µm from the refined distance"
    )
    axes.legend(loc="upper right")


def _rmsd(axes: Any, before: dict, after: dict) -> None:
    """Draw root mean square of observed − predicted of the same reflections before and after."""
    y = np.array([1.0, 0.0])
    for told, at, color, label in (
        (before, 0.18, style.GREY, "before"),
        (after, -0.18, style.BLUE, "after"),
    ):
        values = [told["radial_px"], told["transverse_px"]]
        axes.barh(y + at, values, height=0.32, color=color, label=label)
        for value, height in zip(values, y + at, strict=True):
            axes.text(value, height, f" {value:.3f}", va="center", fontsize=8)
    axes.set_yticks(y, ["radial", "transverse"])
    axes.margins(x=0.15)
    axes.set(title=f"r.m.s.d. of {style.say(before['n'])} reflections, px")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _correlation(axes: Any, figures: dict) -> None:
    """Draw correlations of the refined parameters."""
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
    axes.set_title("correlations")
