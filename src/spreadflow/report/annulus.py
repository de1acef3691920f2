"""Figures and picture of `annulus`, `wide` and `pack`: how much there is to model, and what it
looks like.
"""

from collections import Counter
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
from spreadflow.report.drawn import are_drawn
from spreadflow.report.style import say

ROWS = 6
"""Rows of the picture's shoeboxes."""

COLUMNS = 8
"""Columns of the picture's shoeboxes."""

SHADE = 0.45
"""Opacity of the blue upon pixels that are not counted."""

N_SHELLS = 30
"""Shells in which reflections are counted, of equal width in d."""

STRENGTHS = np.linspace(-3, 30, 34)
"""Edges of the bins of I/σ; what lies beyond is in the first or the last."""

IDENTITY = (Annulus.lattices.run, Annulus.lattices.shot_id, Annulus.lattices.k)
"""Columns of all lattices."""

WANTED = (
    Annulus.reflections.lattice,
    Annulus.reflections.hkl,
    Annulus.reflections.d,
    Annulus.reflections.fast_obs,
    Annulus.reflections.intensity,
    Annulus.reflections.sigma,
    Annulus.reflections.flags,
    Annulus.reflections.bbox,
    Annulus.pixels.valid,
    Annulus.pixels.overlap,
)
"""Columns that figures are made of, beside those of all lattices."""


class Box(NamedTuple):
    """A shoebox of the picture."""

    hkl: np.ndarray
    bbox: np.ndarray
    pixels: Pixels


class Place(NamedTuple):
    """Where a strong reflection is."""

    strength: float
    """its I/σ"""
    part: int
    row: int
    """of the part"""


class Sums(NamedTuple):
    """What is known of the reflections and pixels of some parts."""

    n_reflections: np.ndarray
    """(lattice,)"""
    n_pixels: np.ndarray
    """(lattice,)"""
    n_strong: int
    """reflections with an observed centroid"""
    pixels: np.ndarray
    """(4,) pixels by their use, as `USES`"""
    of_shell: np.ndarray
    """(`N_SHELLS`,) reflections from d_min to d_max"""
    of_strength: np.ndarray
    """reflections that are integrated, in bins of `STRENGTHS`"""
    strengths: np.ndarray
    """I/σ of those of drawn lattices"""


USES = ("n_pixels_valid", "n_pixels_shared", "n_pixels_foreign", "n_pixels_counted")
"""What pixels are counted by."""


def make(stage: str, products: list[Path], _manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all runs, and the picture. Never more than one part is in memory."""
    path = products[0]
    product = SHOEBOXES[stage]
    attributes = store.attributes(path, product)
    parts = store.parts_of(path, product)
    read = store.read(path, product, [*IDENTITY, Annulus.spectra.shot_id])
    drawn = are_drawn(read.lattices.shot_id, read.lattices.k)
    of_parts = []
    n_of_unique = Counter[tuple[int, ...]]()
    strongest: list[Place] = []
    for part in parts:
        tables = part.read(WANTED)
        of_parts.append(_sums(tables, drawn[part.rows("lattices")], attributes["config"]))
        unique, _ = symmetry.to_asu(tables.reflections.hkl, attributes["space_group"])
        n_of_unique.update(map(tuple, unique.tolist()))
        strongest = _strongest([*strongest, *_places(part.number, tables.reflections)])
    sums = _together(of_parts)
    multiplicity = np.array(list(n_of_unique.values()), dtype=int)
    figures = _figures(read, sums, multiplicity, attributes)
    boxes = [_box(parts[place.part], place.row) for place in strongest]
    return figures, _picture(stage, sums, boxes, figures)


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


def _sums(tables: Annulus, drawn: np.ndarray, section: dict[str, Any]) -> Sums:
    """Return what is known of the reflections and pixels of a part. drawn: (lattice,) bool."""
    reflections = tables.reflections
    lattice = reflections.lattice
    rows, strength = _strengths(reflections)
    n_pixels = np.bincount(lattice, pixel_counts(reflections.bbox), len(drawn))
    return Sums(
        n_reflections=np.bincount(lattice, minlength=len(drawn)),
        n_pixels=n_pixels.astype(int),
        n_strong=int(np.isfinite(reflections.fast_obs).sum()),
        pixels=_pixel_counts(tables.pixels.valid, tables.pixels.overlap),
        of_shell=_in_bins(reflections.d, _shells(section)),
        of_strength=_in_bins(strength, STRENGTHS),
        strengths=strength[drawn[lattice[rows]]],
    )


def _strengths(reflections: Reflections) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the reflections whose intensities may be used, and I/σ of each."""
    rows = np.flatnonzero(reflections.flags & ReflectionFlag.FAILED == 0)
    return rows, i_over_sigma(reflections.intensity[rows], reflections.sigma[rows])


def _places(part: int, reflections: Reflections) -> list[Place]:
    """Return where the strongest reflections of a part are that are integrated without reserve, as
    many as the picture shows.
    """
    rows, strength = _strengths(reflections)
    first = np.argsort(-strength, kind="stable")[: ROWS * COLUMNS]
    return [Place(float(strength[n]), part, int(rows[n])) for n in first]


def _strongest(places: list[Place]) -> list[Place]:
    """Return the strongest of some reflections, as many as the picture shows."""
    return sorted(places, key=lambda place: -place.strength)[: ROWS * COLUMNS]


def _together(parts: list[Sums]) -> Sums:
    """Return what is known of all parts."""
    return Sums(
        n_reflections=np.concatenate([part.n_reflections for part in parts]),
        n_pixels=np.concatenate([part.n_pixels for part in parts]),
        n_strong=sum(part.n_strong for part in parts),
        pixels=np.sum([part.pixels for part in parts], axis=0),
        of_shell=np.sum([part.of_shell for part in parts], axis=0),
        of_strength=np.sum([part.of_strength for part in parts], axis=0),
        strengths=np.concatenate([part.strengths for part in parts]),
    )


def _shells(section: dict[str, Any]) -> np.ndarray:
    """Return the edges of the shells in which reflections are counted, Å, ascending."""
    return np.linspace(section["d_min"], section["d_max"], N_SHELLS + 1)


def _in_bins(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return how many values are in each bin; those beyond are in the first and the last."""
    return np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]


def _box(part: store.Part[Annulus], row: int) -> Box:
    """Return a shoebox of a part."""
    tables = part.read([Annulus.reflections, Annulus.pixels])
    bbox = tables.reflections.bbox[row]
    first = int(tables.reflections.first_pixel[row])
    end = first + int(pixel_counts(bbox[None])[0])
    # a copy of these alone: not all pixels of the part stay in memory
    return Box(tables.reflections.hkl[row], bbox, tables.pixels[np.arange(first, end)])


def _pixel_counts(valid: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """Return how many of some pixels (pixel,) are of each of `USES`. overlap: bits of `Overlap`."""
    is_own = overlap & Overlap.LEFT_OUT == 0
    uses = (valid, overlap & Overlap.SHARED > 0, overlap & Overlap.FOREIGN > 0, valid & is_own)
    return np.array([np.count_nonzero(use) for use in uses])


def _figures(
    annulus: Annulus, sums: Sums, multiplicity: np.ndarray, attributes: dict
) -> dict[str, Any]:
    """Return figures over all runs, with a block for each run, but for those of single pixels.

    annulus: lattices and spectra of all parts. multiplicity: (unique reflection,) shoeboxes of
    each, Friedel mates as one.
    """
    run = annulus.lattices.run
    n_lattices = len(run)
    n_reflections = int(sums.n_reflections.sum())
    n_pixels = int(sums.n_pixels.sum())
    return {
        "n_shots": len(annulus.spectra),
        "n_lattices": n_lattices,
        "n_lattices_with_reflections": int(np.count_nonzero(sums.n_reflections)),
        "n_reflections": n_reflections,
        "n_unique": len(multiplicity),
        "multiplicity_mean": multiplicity.mean() if len(multiplicity) else None,
        "multiplicity": _histogram(multiplicity),
        "reflections_per_lattice_median": np.median(sums.n_reflections) if n_lattices else None,
        "reflections_per_lattice": _histogram(sums.n_reflections),
        "n_strong": sums.n_strong,
        "n_pixels": n_pixels,
        "pixels_per_reflection": n_pixels / n_reflections if n_reflections else None,
        "pixels_per_lattice": n_pixels / n_lattices if n_lattices else None,
        "d_min": attributes["config"]["d_min"],
        "d_max": attributes["config"]["d_max"],
        "runs": {
            name: {
                "n_lattices": int((run == number).sum()),
                "n_reflections": int(sums.n_reflections[run == number].sum()),
                "n_pixels": int(sums.n_pixels[run == number].sum()),
            }
            for number, name in enumerate(attributes["runs"])
        },
        **dict(zip(USES, sums.pixels.tolist(), strict=True)),
    }


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


def _picture(stage: str, sums: Sums, boxes: list[Box], figures: dict) -> Figure:
    """Draw the strongest shoeboxes, and how many there are of what."""
    page = style.page(
        f"{stage}: the shoeboxes from {figures['d_max']:g} to {figures['d_min']:g} Å",
        f"{say(figures['n_lattices'])} lattices · {say(figures['n_reflections'])} reflections "
        f"({say(figures['n_unique'])} unique) · {say(figures['n_pixels'])} pixels, "
        f"{say(figures['n_pixels_counted'])} counted",
    )
    left, right = page.subfigures(1, 2, width_ratios=[1.5, 1])  # type: ignore[misc]
    _shoeboxes(left, boxes)
    axes: Any = right.subplots(4, 1)
    _bars(axes[0], figures["reflections_per_lattice"], style.BLUE)
    axes[0].set(title="shoeboxes of each lattice", ylabel="lattices")
    _bars(axes[1], figures["multiplicity"], style.ORANGE)
    axes[1].set(title="shoeboxes of each unique reflection", ylabel="reflections", yscale="log")
    _resolution(axes[2], sums.of_shell, figures)
    _strength(axes[3], sums)
    return page


def _shoeboxes(figure: Any, boxes: list[Box]) -> None:
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
    for number, box in enumerate(boxes):
        slow, fast = divmod(number, COLUMNS)
        _shoebox(axes, box, fast, -slow)
    axes.set(xlim=(-0.5, COLUMNS - 0.5), ylim=(0.5 - ROWS, 0.62), anchor="N")


def _shoebox(axes: Any, box: Box, x: float, y: float) -> None:
    """Draw the photons of one shoebox, what is not counted, and a frame about its foreground.

    x, y: its middle, in distances from one to the next.
    """
    pixels = box.pixels
    fast0, fast1, slow0, slow1 = box.bbox.tolist()
    shape = (slow1 - slow0, fast1 - fast0)
    photons = np.where(pixels.valid, np.maximum(pixels.photons, 1.0), np.nan)
    scale = style.photon_scale(photons)
    colors = style.PHOTONS.with_extremes(bad=style.ORANGE)(scale(np.ma.masked_invalid(photons)))
    is_left_out = pixels.overlap & Overlap.LEFT_OUT > 0
    blue = np.array(to_rgb(style.BLUE))
    colors[is_left_out, :3] += SHADE * (blue - colors[is_left_out, :3])

    extent = left, right, _, top = style.tile(shape, x, y)
    pixel = (right - left) / shape[1]
    axes.imshow(colors.reshape(*shape, 4), extent=extent)
    title = "{} {} {}".format(*box.hkl)
    axes.text(x, top + 0.02, title, fontsize=6.5, ha="center", va="bottom", clip_on=True)

    slow, fast = np.nonzero(pixels.foreground.reshape(shape))
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


def _resolution(axes: Any, n: np.ndarray, figures: dict) -> None:
    """Draw how many reflections lie at each resolution. n: (shell,)."""
    axes.stairs(n, _shells(figures), fill=True, color=style.GREEN, alpha=0.75)
    axes.invert_xaxis()
    axes.set(title="resolution, Å", ylabel="reflections")


def _strength(axes: Any, sums: Sums) -> None:
    """Draw the distribution of I/σ."""
    if not sums.of_strength.any():
        style.empty(axes, "no reflection is integrated")
        return
    axes.stairs(sums.of_strength, STRENGTHS, fill=True, color=style.PURPLE, alpha=0.75)
    axes.set_yscale("log")
    axes.set(title=f"I/σ (median {np.median(sums.strengths):.2f})", ylabel="reflections")
