"""Figures and picture of `ladder`: what each rung reaches, whether it passes, and what its model
looks like.
"""

from itertools import islice
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spreadflow.analysis.pixels.rungs import RUNGS
from spreadflow.io import store
from spreadflow.products import Ladder
from spreadflow.products.ladder import Rungs
from spreadflow.report import style
from spreadflow.report.checks import Check, Summaries
from spreadflow.report.style import say

N_SAMPLES = 8
"""Shoeboxes in the picture."""

DOES_LENGTH = 52
"""Characters in a line of what a rung does."""

PASSES_LENGTH = 54
"""Characters in a line of its criterion."""

ROOM_FOR_LEGEND = 0.35
"""Room above the bars, as a share of their height."""

GAP_LINES = 0.5
"""Lines between two rungs."""

HALF_PX = 9
"""How much of a shoebox is shown to either side of its middle, px."""


def make(_stage: str, products: list[Path], _manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures of all rungs, and the picture."""
    ladder = store.read(products[0], Ladder)
    attributes = store.attributes(products[0], Ladder)
    figures = _figures(ladder, attributes)
    return figures, _picture(ladder, attributes, figures)


def headline(figures: dict[str, Any]) -> list[str]:
    """Return what to know of the figures, one fact a line."""
    rungs = figures["rungs"]
    failed = [f"rung {rung['name']} fails: {rung['why']}" for rung in rungs if not rung["passed"]]
    radial = {rung["name"]: rung["radial_rmsd_mm"] for rung in rungs}
    reached = ", ".join(f"{say(radial[name])} mm on rung {name}" for name in ("2", "3B", "4"))
    return [
        f"{figures['n_passed']} of {len(rungs)} rungs pass, "
        f"{say(figures['n_modelled'])} lattices modelled",
        *failed,
        f"radial r.m.s.d. {reached}; {say(radial['1'])} mm by spots, not turned by "
        f"{figures['misset_deg']:g}° as the rungs are",
    ]


def checks(summaries: Summaries) -> list[Check]:
    """Return the counts that must agree."""
    if "ladder" not in summaries or "annulus" not in summaries:
        return []
    n_lattices = summaries["annulus"]["n_lattices"]
    statement = "each lattice of annulus reaches ladder"
    return [Check(statement, n_lattices, summaries["ladder"]["n_lattices"])]


def _figures(ladder: Ladder, attributes: dict) -> dict[str, Any]:
    """Return figures of all rungs."""
    pixel_mm = np.array([detector["pixel_mm"] for detector in attributes["detectors"]])
    run = ladder.lattices.run
    pixel_of_lattice = pixel_mm[run] if len(run) else np.empty(0)
    rungs = {
        name: _rung(ladder.rungs[ladder.rungs.rung == number], pixel_of_lattice)
        for number, name in enumerate(attributes["rungs"])
    }

    compared = ladder.compared
    n_spots = int(compared.n_spots.sum())
    rungs["00"] |= attributes["reading"]
    rungs["1"]["n_flagged"] = int(ladder.lattices.n_flagged.sum())
    rungs["1"]["n_counted"] = int(ladder.lattices.n_counted.sum())
    rungs["2"]["n_spots"] = n_spots
    rungs["2"]["share_fell"] = compared.n_fell.sum() / n_spots if n_spots else None
    rungs["3"]["planes_apart"] = compared.planes.max(initial=0.0)
    rungs["3B"]["pixels_apart"] = compared.pixels.max(initial=0.0)

    n_modelled = attributes["n_modelled"]
    judged = [_judged(name, rungs, n_modelled) for name in rungs]
    return {
        "n_lattices": len(ladder.lattices),
        "n_modelled": n_modelled,
        "misset_deg": attributes["config"]["misset_deg"],
        "n_domains": attributes["config"]["n_domains"],
        "n_passed": sum(rung["passed"] for rung in judged),
        "rungs": judged,
    }


def _rung(sums: Rungs, pixel_mm: np.ndarray) -> dict[str, Any]:
    """Return the figures of one rung from its sums; None is what it does not have.

    pixel_mm: (lattice,).
    """
    pixel = pixel_mm[sums.lattice]
    n = sums.n.sum()
    n_pixels = sums.n_pixels.sum()
    figures: dict[str, Any] = {"n_lattices": len(sums), "n": int(n)}

    squares = {
        "radial_": sums.radial,
        "transverse_": sums.transverse,
        "": sums.radial + sums.transverse,
    }
    for name, square in squares.items():
        figures[f"{name}rmsd_mm"] = np.sqrt(square.sum() / n) if n else None
        figures[f"{name}rmsd_px"] = np.sqrt((square / pixel**2).sum() / n) if n else None

    for z, mean_name, sd_name in (
        (sums.z, "z_mean", "sigma_z"),
        (sums.z_published, "z_published_mean", "z_published"),
    ):
        mean, square = z.sum(axis=0) / n_pixels if n_pixels else (np.nan, np.nan)
        figures[mean_name] = mean
        figures[sd_name] = np.sqrt(square - mean**2)

    seconds = sums.seconds[sums.n_pixels > 0]
    figures["seconds_per_lattice"] = np.median(seconds) if len(seconds) else None
    return figures


def _judged(name: str, rungs: dict[str, dict], n_modelled: int) -> dict[str, Any]:
    """Return the figures of a rung with what it does, whether it passed, and if not, why."""
    rung = RUNGS[name]
    n_lattices = rungs[name]["n_lattices"]
    why = None
    if rung.spectrum and n_lattices < max(n_modelled, 1):
        why = f"{n_lattices} of {n_modelled} lattices have a model"
    elif not rung.test(rungs):
        why = f"not so: {rung.passes}"
    verdict = {
        "name": name,
        "passed": why is None,
        "why": why,
        "does": rung.does,
        "passes": rung.passes,
    }
    return verdict | rungs[name]


# ---------------------------------------------------------------- the picture


def _picture(ladder: Ladder, attributes: dict, figures: dict) -> Figure:
    """Draw r.m.s.d. and σ_Z of the rungs, what each does and reaches, and some shoeboxes."""
    page = style.page(
        f"ladder: {figures['n_passed']} of {len(figures['rungs'])} rungs pass",
        f"{say(figures['n_lattices'])} lattices read, {say(figures['n_modelled'])} modelled, "
        f"turned by {figures['misset_deg']:g}° before · "
        f"{figures['n_domains']} mosaic domains drawn for the model",
        height=9.0,
    )
    left, right = page.subfigures(1, 2, width_ratios=[1.25, 1])  # type: ignore[misc]
    axes: Any = left.subplots(3, 1, height_ratios=[1, 0.8, 1.5])
    _rmsd(axes[0], figures["rungs"])
    _sigma_z(axes[1], figures["rungs"])
    _list(axes[2], figures["rungs"])
    _samples(right, ladder, attributes["pictured"])
    return page


def _rmsd(axes: Any, rungs: list[dict]) -> None:
    """Draw the r.m.s.d. of the rungs that have one."""
    rungs = [rung for rung in rungs if rung["radial_rmsd_mm"] is not None]
    x = np.arange(len(rungs))
    for shift, name, color in ((-0.2, "radial", style.BLUE), (0.2, "transverse", style.ORANGE)):
        heights = [rung[f"{name}_rmsd_mm"] for rung in rungs]
        bars = axes.bar(x + shift, heights, width=0.38, color=color, label=name)
        texts = [say(rung[f"{name}_rmsd_px"], 2) for rung in rungs]
        axes.bar_label(bars, texts, fontsize=7, color=style.INK)
    axes.set_xticks(x, [rung["name"] for rung in rungs])
    axes.set_yscale("log")
    if rungs:
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** ROOM_FOR_LEGEND)
    n = max((rung["n"] for rung in rungs), default=0)
    axes.set(
        title=f"r.m.s.d. of {say(n)} centroids with I/σ ≥ 5; on the bars in pixels", ylabel="mm"
    )
    axes.legend(loc="upper right", ncols=2)


def _sigma_z(axes: Any, rungs: list[dict]) -> None:
    """Draw σ_Z of the rungs that have a model."""
    rungs = [rung for rung in rungs if rung["n_lattices"]]
    if not rungs:
        style.empty(axes, "no lattice is modelled")
        return
    x = np.arange(len(rungs))
    values = [rung["sigma_z"] for rung in rungs]
    bars = axes.bar(x, values, width=0.6, color=style.GREEN)
    axes.bar_label(bars, [f"{value:.3f}" for value in values], fontsize=7.5)
    axes.axhline(1.0, color=style.INK, lw=0.8, ls=":")
    labels = [f"{rung['name']}\n{say(rung['seconds_per_lattice'], 2)} s" for rung in rungs]
    axes.set_xticks(x, labels)
    axes.margins(y=0.15)
    axes.set(title="σ of Z, 1 where the model is right; processor time of a lattice", ylabel="σ_Z")


def _list(axes: Any, rungs: list[dict]) -> None:
    """Write what each rung does and its criterion, in as many lines as these need."""
    style.without_axes(axes)
    cells = [
        (wrap(rung["does"], DOES_LENGTH), wrap(rung["why"] or rung["passes"], PASSES_LENGTH))
        for rung in rungs
    ]
    heights = [max(map(len, of_rung)) for of_rung in cells]
    n_lines = sum(heights) + GAP_LINES * len(rungs)
    above = 0.0
    for rung, (does, passes), height in zip(rungs, cells, heights, strict=True):
        verdict = style.GREEN if rung["passed"] else style.RED
        for x, lines, color in (
            (-0.05, [rung["name"]], verdict),
            (0.01, does, style.INK),
            (0.5, passes, verdict),
        ):
            axes.text(
                x,
                1.0 - above / n_lines,
                "\n".join(lines),
                color=color,
                fontsize=7.5,
                va="top",
                linespacing=1.15,
                transform=axes.transAxes,
            )
        above += height + GAP_LINES


def _samples(figure: Any, ladder: Ladder, pictured: list[str]) -> None:
    """Draw data and models of the strongest shoebox of some lattices, each row on one log scale.

    pictured: names of the rungs whose models are drawn.
    """
    names = ["data", *(f"rung {name}" for name in pictured)]
    axes = figure.subplots()
    figure.suptitle(
        "the middle of a lattice's strongest shoebox, photons on a log scale",
        fontsize=10,
        fontweight="bold",
    )
    style.without_axes(axes)
    for column, name in enumerate(names):
        axes.text(column, 0.5, name, fontsize=8, fontweight="bold", ha="center", va="bottom")

    samples = ladder.samples
    boxes = zip(samples.bbox, samples.first_pixel, samples.hkl, strict=True)
    for row, ((fast0, fast1, slow0, slow1), first, hkl) in enumerate(islice(boxes, N_SAMPLES)):
        shape = (slow1 - slow0, fast1 - fast0)
        pixels = ladder.pixels[first : first + shape[0] * shape[1]]
        _sample(axes, -row, pixels.photons, pixels.model.T, shape)
        axes.text(-0.45, -row, "{} {} {}".format(*hkl), fontsize=6, ha="right", va="center")
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(0.5 - N_SAMPLES, 0.6), anchor="N")


def _sample(
    axes: Any, y: float, data: np.ndarray, models: np.ndarray, shape: tuple[int, int]
) -> None:
    """Draw the middle of one shoebox at y: data, then models.

    data: (pixel,), NaN = masked. models: (model, pixel). shape: (slow, fast).
    """
    scale = style.photon_scale(data)
    colors = style.PHOTONS.with_extremes(bad=style.ORANGE)
    is_valid = np.isfinite(data)
    middle = tuple(_middle(n) for n in shape)
    for column, values in enumerate([data, *models]):
        image = np.where(is_valid, np.maximum(values, 1.0), np.nan).reshape(shape)[middle]
        axes.imshow(image, norm=scale, cmap=colors, extent=style.tile(image.shape, column, y))


def _middle(n: int) -> slice:
    """Return the pixels that are shown of n in a row."""
    return slice(max(n // 2 - HALF_PX, 0), n // 2 + HALF_PX)
