"""The picture of `index` and `reindex`: a still, what became of the shots and how well the spots
fit; or, without a lattice, a still as it failed and what would help.
"""

from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spreadflow.errors import Outcome
from spreadflow.io.images.source import open_source
from spreadflow.models import Shot
from spreadflow.products import Index
from spreadflow.report import index_course_picture, laboratory, style
from spreadflow.report.index_sums import Counted
from spreadflow.report.indexed_run import IndexedRun, concatenated, pixels_mm, rings
from spreadflow.report.style import say

MOST_SPOTS = 3000
"""Spots of a failed still that have a ring, the brightest ones."""

MOST_LINES = 18
"""Lines of text in the space of one panel."""

MOST_REASONS = 5
"""Reasons in it, the most frequent ones."""

LINE_LENGTH = 90
"""Characters in a line of text."""

LENGTH_ON_STILL = 60
"""Characters in a line of it upon the still."""


def draw(stage: str, runs: list[IndexedRun], counted: Counted, figures: dict) -> Figure:
    """Return the picture."""
    if not figures["n_lattices"]:
        return _failed(stage, runs, counted, figures)
    page = style.page(
        f"{stage}: from spots to lattices",
        f"{say(figures['n_indexed'])} of {say(figures['n_hits'])} hits indexed · "
        f"{say(figures['n_lattices'])} lattices · "
        f"r.m.s.d. {say(figures['radial_rmsd_px'], 2)} px radial, "
        f"{say(figures['transverse_rmsd_px'], 2)} px transverse over "
        f"{say(figures['n_rmsd'])} reflections · "
        f"{say(figures['seconds_per_shot_per_core'])} s per shot and core",
        14.5,
        13.4,
    )
    axes = page.subplot_mosaic(
        [
            ["still", "still", "outcomes", "scatter"],
            ["still", "still", "rmsd", "truth"],
            ["rates", "spots", "energy", "resolution"],
            ["sum", "panels", "panels", "by_resolution"],
        ],
        width_ratios=[1, 1, 0.9, 0.9],
    )
    _still(axes["still"], runs)
    _outcomes(axes["outcomes"], figures)
    _scatter(axes["scatter"], counted.differences)
    _rmsd(axes["rmsd"], runs)
    _truth(axes["truth"], runs, counted)
    index_course_picture.over_shots(axes, runs, counted, figures)
    index_course_picture.resolution_of_lattices(axes["resolution"], runs)
    index_course_picture.by_panel(axes["panels"], figures)
    return page


def _failed(stage: str, runs: list[IndexedRun], counted: Counted, figures: dict) -> Figure:
    """Return the picture of shots none of which has a lattice."""
    page = style.page(
        f"{stage}: no lattice",
        f"none of {say(figures['n_shots'])} shots indexed: {style.outcomes(figures)} · "
        f"{say(figures['n_spots'])} spots · "
        f"{say(figures['seconds_per_shot_per_core'])} s per shot and core",
        14.5,
        11.4,
    )
    axes = page.subplot_mosaic(
        [
            ["still", "still", "outcomes", "by_resolution"],
            ["still", "still", "words", "words"],
            ["rates", "spots", "energy", "sum"],
        ],
        width_ratios=[1, 1, 0.9, 0.9],
    )
    _failed_still(axes["still"], runs)
    _outcomes(axes["outcomes"], figures)
    _words(axes["words"], figures)
    index_course_picture.over_shots(axes, runs, counted, figures)
    return page


# ---------------------------------------------------------------- without a lattice


def failed_shot(runs: list[IndexedRun]) -> tuple[IndexedRun, int]:
    """Return run and number of the shot that shows how shots failed: the one with most spots among
    those that ended as most of those with spots did; the first one where none has spots.
    """
    outcomes = concatenated(runs, Index.shots.outcome)
    with_spots = outcomes[concatenated(runs, Index.shots.n_spots) > 0]
    if not len(with_spots):
        return runs[0], 0
    usual = np.bincount(with_spots).argmax()
    shots = [run.shots for run in runs]
    most = [np.where(of_run.outcome == usual, of_run.n_spots, -1) for of_run in shots]
    best = int(np.argmax([of_run.max(initial=-1) for of_run in most]))
    return runs[best], int(most[best].argmax())


def _failed_still(axes: Any, runs: list[IndexedRun]) -> None:
    """Draw a shot that failed, with a ring around each of its brightest spots."""
    run, row = failed_shot(runs)
    if not len(run.shots):
        style.empty(axes, "no shots")
        return
    outcome = Outcome(run.shots.outcome[row])
    shot = _read(run, row)
    laboratory.panels(axes, run.detector)
    if isinstance(shot, Shot):
        laboratory.still(axes, shot, run.detector)
    tables, row_in_part = run.tables_of(row)
    spots = tables.spots[tables.spots.shot == row_in_part]
    brightest = np.argsort(-spots.intensity, kind="stable")[:MOST_SPOTS]
    x, y, _ = run.positions_mm(spots[brightest]).T
    size = float(np.clip(20000 / max(len(x), 1), 6, 40))
    axes.scatter(x, y, s=size, facecolors="none", edgecolors=style.RED, linewidths=0.6)
    which = say(len(spots))
    if len(x) < len(spots):
        which = f"the brightest {say(len(x))} of {which}"
    name = outcome.name.lower().replace("_", " ")
    axes.set_title(f"run {run.name}, shot {row} ({name}): {which} spots")
    if not isinstance(shot, Shot):
        axes.text(
            0.5,
            0.5,
            "\n".join(wrap(shot, LENGTH_ON_STILL)),
            ha="center",
            va="center",
            color=style.GREY,
            transform=axes.transAxes,
        )


def _read(run: IndexedRun, row: int) -> Shot | str:
    """Return a shot, or in words why there is no image of it."""
    if run.manifest is None:
        return "images not given"
    source = open_source(run.manifest, run.section, run.detector)
    shot = source.read(row)
    if isinstance(shot, Outcome):
        return source.causes.get(row) or shot.name.lower().replace("_", " ")
    return shot


def _words(axes: Any, figures: dict) -> None:
    """Write why shots were not indexed, and what would help."""
    style.without_axes(axes)
    lines = [("bold", style.INK, "why shots are not indexed")]
    for cause in figures["reasons"][:MOST_REASONS]:
        name = cause["outcome"].replace("_", " ")
        sentence = f"{say(cause['n_shots'])} {name}: {cause['reason']}"
        lines += [("normal", style.RED, line) for line in wrap(sentence, LINE_LENGTH)]
    lines += [("normal", style.INK, ""), ("bold", style.INK, "what would help")]
    for sentence in figures["advice"]:
        lines += [("normal", style.INK, line) for line in wrap(sentence, LINE_LENGTH)]
    if len(lines) > MOST_LINES:
        lines[MOST_LINES - 1 :] = [("normal", style.GREY, "… more in the summary")]
    for row, (weight, color, text) in enumerate(lines):
        axes.text(
            0.0,
            1 - row / MOST_LINES,
            text,
            color=color,
            fontsize=9,
            fontweight=weight,
            va="top",
            transform=axes.transAxes,
        )


# ---------------------------------------------------------------- with lattices


def _outcomes(axes: Any, figures: dict) -> None:
    """Draw how often each outcome happened."""
    counts = {name: n for name, n in figures["outcomes"].items() if n}
    special = {"indexed": style.GREEN, "no_lattice": style.ORANGE, "overflow": style.RED}
    colors = [special.get(name, style.GREY) for name in counts]
    names = [name.replace("_", " ") for name in counts]
    style.bars(axes, names, list(counts.values()), colors)
    axes.set_title(f"how shots ended, of {say(figures['n_shots'])}")


def _still(axes: Any, runs: list[IndexedRun]) -> None:
    """Draw the shot whose first lattice explains most spots, with the predictions of all its
    lattices as rings.
    """
    best = max(runs, key=lambda run: run.lattices.n_indexed.max(initial=0))
    lattices = best.lattices
    row = int(lattices.shot[lattices.n_indexed.argmax()])
    tables, row_in_part = best.tables_of(row)
    shot = _read(best, row)
    what = "photons"
    if isinstance(shot, Shot):
        laboratory.still(axes, shot, best.detector)
    elif best.has_images:
        style.empty(axes, f"shot {row}: {shot}")
        return
    else:
        what = "peaks"
        laboratory.panels(axes, best.detector)
        x, y, _ = best.positions_mm(tables.spots[tables.spots.shot == row_in_part]).T
        axes.plot(x, y, ".", ms=3, color=style.INK, mew=0, label="peaks")
    rings(axes, best, tables, row_in_part)
    axes.legend(
        loc="lower right",
        fontsize=7.5,
        frameon=True,
        framealpha=0.8,
        edgecolor="none",
        title="predicted",
    )
    axes.set_title(f"run {best.name}, shot {row}: {what} and predictions")


def _scatter(axes: Any, difference: np.ndarray) -> None:
    """Draw the distances of observed from predicted centroids (n, 2), px, and their median."""
    axes.set_title("observed − predicted, px")
    if not len(difference):
        style.empty(axes, "no reflection with I ≥ 5 σ")
        return
    limit = max(1.0, float(np.percentile(np.abs(difference), 98)))
    opacity = max(0.08, min(0.5, 800 / len(difference)))
    axes.axhline(0, color=style.PALE, lw=0.8)
    axes.axvline(0, color=style.PALE, lw=0.8)
    axes.plot(*difference.T, ".", ms=2.5, alpha=opacity, color=style.BLUE, mew=0)
    axes.plot(*np.median(difference, axis=0), "+", ms=12, mew=2, color=style.RED, label="median")
    axes.set(
        xlim=(-limit, limit),
        ylim=(-limit, limit),
        aspect="equal",
        xlabel="radial",
        ylabel="transverse",
    )
    axes.legend(loc="upper right")


def _rmsd(axes: Any, runs: list[IndexedRun]) -> None:
    """Draw histograms of the lattices' r.m.s.d."""
    pixel_mm = pixels_mm(runs)
    radial = concatenated(runs, Index.lattices.rmsd_radial_mm) / pixel_mm
    transverse = concatenated(runs, Index.lattices.rmsd_transverse_mm) / pixel_mm
    style.histogram(axes, radial, "radial", style.ORANGE)
    style.histogram(axes, transverse, "transverse", style.BLUE)
    axes.set(title="r.m.s.d. of each lattice", xlabel="px", ylabel="lattices")
    axes.legend(loc="upper right")


def _truth(axes: Any, runs: list[IndexedRun], counted: Counted) -> None:
    """Draw the misorientation where the truth is known, else the mosaicity."""
    if counted.compared:
        angle = np.rad2deg(np.concatenate([part.match.angle for part in counted.compared]))
        style.histogram(axes, angle, "misorientation", style.GREEN)
        axes.set(title="misorientation from truth", xlabel="degrees", ylabel="lattices")
        return
    eta = np.rad2deg(concatenated(runs, Index.lattices.eta_rad))
    style.histogram(axes, eta, "mosaic spread", style.GREEN)
    axes.set(title="mosaic spread η of each lattice", xlabel="degrees", ylabel="lattices")
