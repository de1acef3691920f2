"""Figures and picture of `annulus`, `wide` and `pack`: how much there is to model, and what it
looks like.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from spreadflow.analysis.strength import i_over_sigma
from spreadflow.io import store
from spreadflow.models import Overlap, ReflectionFlag, pixel_counts
from spreadflow.physics import symmetry
from spreadflow.products import SHOEBOXES, Annulus
from spreadflow.products.annulus import Pixels, Reflections
from spreadflow.report import style
from spreadflow.report.checks import Check, Summaries, with_images
from spreadflow.report.style import say

ROWS = 6
"""Rows of the picture's shoeboxes."""

COLUMNS = 8
"""Columns of the picture's shoeboxes."""

SHADE = 0.45
"""Opacity of the blue upon pixels that are not counted."""

Boxes = dict[int, Pixels]
"""Row of a reflection → its pixels."""


def make(stage: str, products: list[Path], _manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all runs, and the picture."""
    product = SHOEBOXES[stage]
    attributes = store.attributes(products[0], product)
    # all but the pixels, which do not fit in memory where there are many shots
    annulus = store.read(
        products[0], product, [Annulus.lattices, Annulus.spectra.shot_id, Annulus.reflections]
    )
    rows = _strongest(annulus.reflections)
    counts, boxes = _pixels(store.parts_of(products[0], product), annulus.reflections, rows)
    figures = _figures(annulus, attributes) | counts
    return figures, _picture(stage, annulus.reflections, boxes, figures)


def headline(figures: dict[str, Any]) -> list[str]:
    """Return what to know of the figures, one fact a line."""
    return [
        f"{say(figures['n_reflections'])} reflections of {say(figures['n_lattices'])} lattices, "
        f"{figures['d_max']:g} to {figures['d_min']:g} Å",
        f"{say(figures['n_pixels'])} pixels",
    ]


def checks(summaries: Summaries) -> list[Check]:
    """Return the counts that must agree."""
    equalities = []
    if "cells" in summaries:
        n_kept = with_images(summaries, "n_kept")
        equalities = [
            Check(f"each lattice kept reaches {stage}", n_kept, summaries[stage]["n_lattices"])
            for stage in ("annulus", "wide")
            if stage in summaries
        ]
    if "predict" in summaries and "pack" in summaries:
        predict = summaries["predict"]
        pack = summaries["pack"]
        n_predicted = predict["outcomes"]["predicted"]
        equalities += [
            Check("each predicted lattice reaches pack", n_predicted, pack["n_lattices"]),
            Check("each chosen reflection is packed", predict["n_chosen"], pack["n_reflections"]),
        ]
    return equalities


def _strength_of(reflections: Reflections, rows: np.ndarray) -> np.ndarray:
    """Return (row,) I/σ of reflections."""
    return i_over_sigma(reflections.intensity[rows], reflections.sigma[rows])


def _strongest(reflections: Reflections) -> np.ndarray:
    """Return the rows of the strongest reflections that are integrated without reserve, as many as
    the picture shows.
    """
    clean = _integrated(reflections)
    strongest_first = np.argsort(-_strength_of(reflections, clean))
    return clean[strongest_first][: ROWS * COLUMNS]


def _integrated(reflections: Reflections) -> np.ndarray:
    """Return the rows of the reflections whose intensities may be used."""
    return np.flatnonzero(reflections.flags & ReflectionFlag.FAILED == 0)


def _pixels(
    parts: list[store.Part[Annulus]], reflections: Reflections, rows: np.ndarray
) -> tuple[dict[str, int], Boxes]:
    """Return counts of pixels, and the pixels of some reflections; never more than one part is in
    memory.

    rows: of the reflections, in the order in which they are returned.
    """
    first = reflections.first_pixel
    size = pixel_counts(reflections.bbox)
    names = ("n_pixels_valid", "n_pixels_shared", "n_pixels_foreign", "n_pixels_counted")
    counts = dict.fromkeys(names, 0)
    boxes: Boxes = {}
    for part in parts:
        pixels = part.read([Annulus.pixels.valid, Annulus.pixels.overlap]).pixels
        own = part.rows("pixels")
        for name, n in _pixel_counts(pixels.valid, pixels.overlap).items():
            counts[name] += n

        rows_of_part = [int(row) for row in rows if own.start <= first[row] < own.stop]
        if rows_of_part:
            pixels = part.read([Annulus.pixels]).pixels
        for row in rows_of_part:
            first_of_box = first[row] - own.start
            boxes[row] = pixels[first_of_box + np.arange(size[row])]  # a copy of these alone
    return counts, {int(row): boxes[int(row)] for row in rows}


def _pixel_counts(valid: np.ndarray, overlap: np.ndarray) -> dict[str, int]:
    """Return the counts of some pixels (pixel,). overlap: bits of `Overlap`."""
    is_own = overlap & Overlap.LEFT_OUT == 0
    return {
        "n_pixels_valid": int(valid.sum()),
        "n_pixels_shared": int((overlap & Overlap.SHARED > 0).sum()),
        "n_pixels_foreign": int((overlap & Overlap.FOREIGN > 0).sum()),
        "n_pixels_counted": int((valid & is_own).sum()),
    }


def _figures(annulus: Annulus, attributes: dict) -> dict[str, Any]:
    """Return figures over all runs, with a block for each run, but for those of single pixels."""
    run = annulus.lattices.run
    lattice = annulus.reflections.lattice
    n_lattices = len(run)
    n_reflections = len(lattice)
    n_pixels = pixel_counts(annulus.reflections.bbox)
    multiplicity = _multiplicity(annulus.reflections.hkl, attributes["space_group"])
    per_lattice = np.bincount(lattice, minlength=n_lattices)
    return {
        "n_shots": len(annulus.spectra),
        "n_lattices": n_lattices,
        "n_lattices_with_reflections": len(np.unique(lattice)),
        "n_reflections": n_reflections,
        "n_unique": len(multiplicity),
        "multiplicity_mean": multiplicity.mean() if len(multiplicity) else None,
        "multiplicity": _histogram(multiplicity),
        "reflections_per_lattice_median": np.median(per_lattice) if n_lattices else None,
        "reflections_per_lattice": _histogram(per_lattice),
        "n_strong": int(np.isfinite(annulus.reflections.fast_obs).sum()),
        "n_pixels": int(n_pixels.sum()),
        "pixels_per_reflection": float(n_pixels.mean()) if n_reflections else None,
        "pixels_per_lattice": float(n_pixels.sum() / n_lattices) if n_lattices else None,
        "d_min": attributes["config"]["d_min"],
        "d_max": attributes["config"]["d_max"],
        "runs": {
            name: {
                "n_lattices": int((run == number).sum()),
                "n_reflections": int((run[lattice] == number).sum()),
                "n_pixels": int(n_pixels[run[lattice] == number].sum()),
            }
            for number, name in enumerate(attributes["runs"])
        },
    }


def _multiplicity(hkl: np.ndarray, space_group: str) -> np.ndarray:
    """Return (unique,) shoeboxes of each unique reflection, Friedel mates as one. hkl: (n, 3)."""
    unique, _ = symmetry.to_asu(hkl, space_group)
    return np.unique(unique, axis=0, return_counts=True)[1]


def _histogram(counts: np.ndarray) -> list[dict[str, int]]:
    """Return a histogram of whole numbers: how many, `n`, lie between `from` and `to`, both
    included.
    """
    if not len(counts):
        return []
    low = int(counts.min())
    high = int(counts.max())
    step = -(-(high - low + 1) // style.n_bins(len(counts)))
    bins = []
    for i, n in enumerate(np.bincount((counts - low) // step)):
        start = low + i * step
        bins.append({"from": start, "to": start + step - 1, "n": int(n)})
    return bins


# ---------------------------------------------------------------- the picture


def _picture(stage: str, reflections: Reflections, boxes: Boxes, figures: dict) -> Figure:
    """Draw the strongest shoeboxes, and how many there are of what."""
    page = style.page(
        f"{stage}: the shoeboxes from {figures['d_max']:g} to {figures['d_min']:g} Å",
        f"{say(figures['n_lattices'])} lattices · {say(figures['n_reflections'])} reflections "
        f"({say(figures['n_unique'])} unique) · {say(figures['n_pixels'])} pixels, "
        f"{say(figures['n_pixels_counted'])} counted",
    )
    left, right = page.subfigures(1, 2, width_ratios=[1.5, 1])  # type: ignore[misc]
    _shoeboxes(left, reflections, boxes)
    axes: Any = right.subplots(4, 1)
    _bars(axes[0], figures["reflections_per_lattice"], style.BLUE)
    axes[0].set(title="shoeboxes of each lattice", ylabel="lattices")
    _bars(axes[1], figures["multiplicity"], style.ORANGE)
    axes[1].set(title="shoeboxes of each unique reflection", ylabel="reflections", yscale="log")
    _resolution(axes[2], reflections)
    _strength(axes[3], reflections)
    return page


def _shoeboxes(figure: Any, reflections: Reflections, boxes: Boxes) -> None:
    """Draw shoeboxes in rows, each on its own log scale: all in one plot, as 48 take half a second
    to lay out.
    """
    axes = figure.subplots()
    figure.suptitle(
        "the strongest shoeboxes, photons on a log scale; masked in orange, not counted in blue",
        fontsize=10,
        fontweight="bold",
    )
    style.without_axes(axes)
    for number, (row, box) in enumerate(boxes.items()):
        slow, fast = divmod(number, COLUMNS)
        fast0, fast1, slow0, slow1 = reflections.bbox[row]
        title = "{} {} {}".format(*reflections.hkl[row])
        _shoebox(axes, box, (slow1 - slow0, fast1 - fast0), Place(fast, -slow, title))
    axes.set(xlim=(-0.5, COLUMNS - 0.5), ylim=(0.5 - ROWS, 0.62), anchor="N")


class Place(NamedTuple):
    """Where a shoebox is drawn: its middle, in distances from one to the next, and what stands
    above it.
    """

    x: float
    y: float
    title: str


def _shoebox(axes: Any, box: Pixels, shape: tuple[int, int], place: Place) -> None:
    """Draw the photons of one shoebox, what is not counted, and a frame about its foreground.

    shape: (slow, fast).
    """
    photons = np.where(box.valid, np.maximum(box.photons, 1.0), np.nan)
    scale = style.photon_scale(photons)
    colors = style.PHOTONS.with_extremes(bad=style.ORANGE)(scale(np.ma.masked_invalid(photons)))
    is_left_out = box.overlap & Overlap.LEFT_OUT > 0
    blue = np.array(to_rgb(style.BLUE))
    colors[is_left_out, :3] += SHADE * (blue - colors[is_left_out, :3])

    extent = left, right, _, top = style.tile(shape, place.x, place.y)
    pixel = (right - left) / shape[1]
    axes.imshow(colors.reshape(*shape, 4), extent=extent)
    axes.text(
        place.x, top + 0.02, place.title, fontsize=6.5, ha="center", va="bottom", clip_on=True
    )

    slow, fast = np.nonzero(box.foreground.reshape(shape))
    if len(slow):
        corner = (left + fast.min() * pixel, top - (slow.max() + 1) * pixel)
        width = float(np.ptp(fast) + 1) * pixel
        height = float(np.ptp(slow) + 1) * pixel
        frame = Rectangle(corner, width, height, fill=False, color=style.RED, lw=0.6)
        axes.add_patch(frame)


def _bars(axes: Any, bins: list[dict[str, int]], color: str) -> None:
    """Draw what `_histogram` returned."""
    low, high, n = ([bin[name] for bin in bins] for name in ("from", "to", "n"))
    edges = np.append(low, np.add(high[-1:], 1)) - 0.5
    axes.stairs(n, edges, fill=True, color=color, alpha=0.75)
    style.few_ticks(axes)


def _resolution(axes: Any, reflections: Reflections) -> None:
    """Draw how many reflections lie at each resolution."""
    axes.hist(reflections.d, bins=30, histtype="stepfilled", color=style.GREEN, alpha=0.75)
    axes.invert_xaxis()
    axes.set(title="resolution, Å", ylabel="reflections")


def _strength(axes: Any, reflections: Reflections) -> None:
    """Draw the distribution of I/σ."""
    strength = _strength_of(reflections, _integrated(reflections))
    if not len(strength):
        style.empty(axes, "no reflection is integrated")
        return
    edges = np.linspace(-3, 30, 34)
    axes.hist(
        np.clip(strength, -3, 30), bins=edges, histtype="stepfilled", color=style.PURPLE, alpha=0.75
    )
    axes.set_yscale("log")
    axes.set(title=f"I/σ (median {np.median(strength):.2f})", ylabel="reflections")
