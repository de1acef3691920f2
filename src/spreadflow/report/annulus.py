"""Figures and picture of `annulus` and `wide`: how much there is to model, and what it looks
like.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from spreadflow.io import store
from spreadflow.models import Overlap, ReflectionFlag
from spreadflow.physics import symmetry
from spreadflow.report import style

ROWS = 6
"""Rows of the picture's shoeboxes."""

COLUMNS = 8
"""Columns of the picture's shoeboxes."""

TABLES = ("lattices/", "spectra/shot_id", "reflections/")
"""All but the pixels, which do not fit in memory where there are many shots."""


def make(stage: str, products: list[Path], _manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all runs, and the page."""
    table = store.read(products[0], stage, TABLES)
    told = store.attributes(products[0], stage)
    best = _strongest(table)
    counts, pixels = _pixels(products[0], stage, table, best)
    figures = _figures(table, told) | counts
    return figures, _picture(stage, table, pixels, figures)


def _strongest(table: dict) -> np.ndarray:
    """Return rows of the strongest reflections that are integrated without reserve, as many as the
    mosaic shows.
    """
    clean = np.flatnonzero(table["reflections/flags"] & ReflectionFlag.FAILED == 0)
    strength = table["reflections/intensity"][clean] / np.maximum(
        table["reflections/sigma"][clean], 1e-9
    )
    return clean[np.argsort(-strength)][: ROWS * COLUMNS]


def _pixels(
    product: Path, stage: str, table: dict, rows: np.ndarray
) -> tuple[dict, dict[int, dict[str, np.ndarray]]]:
    """Return counts of pixels, and row → pixel columns of some reflections; never more than one
    part in memory.
    """
    first = table["reflections/first_pixel"]
    size = _pixels_per_box(table)
    start = 0
    out = {}
    counts = {
        "n_pixels_valid": 0,
        "n_pixels_shared": 0,
        "n_pixels_foreign": 0,
        "n_pixels_counted": 0,
    }
    for block, key in enumerate(store.part_keys(product, stage)):
        part = store.read_part(product, stage, block, key, ["pixels/valid", "pixels/overlap"])
        valid = part["pixels/valid"]
        overlap = part["pixels/overlap"]
        end = start + part[""]["pixels"]
        counts["n_pixels_valid"] += int(valid.sum())
        counts["n_pixels_shared"] += int((overlap & Overlap.SHARED > 0).sum())
        counts["n_pixels_foreign"] += int((overlap & Overlap.FOREIGN > 0).sum())
        counts["n_pixels_counted"] += int((valid & (overlap & Overlap.LEFT_OUT == 0)).sum())
        mine = [int(row) for row in rows if start <= first[row] < end]
        if mine:
            part = store.read_part(product, stage, block, key, ["pixels/"])
        for row in mine:
            box = slice(first[row] - start, first[row] - start + size[row])
            out[row] = {
                name: part[f"pixels/{name}"][box]
                for name in ("photons", "valid", "foreground", "overlap")
            }
        start = end
    return counts, {int(row): out[int(row)] for row in rows}


def _figures(table: dict, told: dict) -> dict[str, Any]:
    run = table["lattices/run"]
    of = table["reflections/lattice"]
    n_pixels = _pixels_per_box(table)
    times = _multiplicity(table, told["space_group"])
    each = np.bincount(of, minlength=len(run))
    return {
        "n_shots": len(table["spectra/shot_id"]),
        "n_lattices": len(run),
        "n_lattices_with_reflections": len(np.unique(of)),
        "n_reflections": len(of),
        "n_unique": len(times),
        "multiplicity_mean": times.mean() if len(times) else None,
        "multiplicity": _counted(times),
        "reflections_per_lattice_median": np.median(each) if len(each) else None,
        "reflections_per_lattice": _counted(each),
        "n_strong": int((np.isfinite(table["reflections/fast_obs"])).sum()),
        "n_pixels": int(n_pixels.sum()),
        "pixels_per_reflection": float(n_pixels.mean()) if len(of) else None,
        "pixels_per_lattice": float(n_pixels.sum() / len(run)) if len(run) else None,
        "d_min": told["config"]["d_min"],
        "d_max": told["config"]["d_max"],
        "runs": {
            name: {
                "n_lattices": int((run == r).sum()),
                "n_reflections": int((run[of] == r).sum()),
                "n_pixels": int(n_pixels[run[of] == r].sum()),
            }
            for r, name in enumerate(told["runs"])
        },
    }


def _multiplicity(table: dict, space_group: str) -> np.ndarray:
    """Return (unique,) shoeboxes of each unique reflection, Friedel mates as one."""
    unique, _ = symmetry.to_asu(table["reflections/hkl"], space_group)
    return np.unique(unique, axis=0, return_counts=True)[1]


def _counted(counts: np.ndarray) -> list[dict[str, int]]:
    """Return a histogram of whole numbers: how many lie within `from` and `to`, both included."""
    if not len(counts):
        return []
    low, high = int(counts.min()), int(counts.max())
    step = -(-(high - low + 1) // style.n_bins(len(counts)))
    n = np.bincount((counts - low) // step)
    return [
        {"from": low + i * step, "to": low + (i + 1) * step - 1, "n": int(k)}
        for i, k in enumerate(n)
    ]


def _pixels_per_box(table: dict) -> np.ndarray:
    fast0, fast1, slow0, slow1 = table["reflections/bbox"].T.astype(np.int64)
    return (fast1 - fast0) * (slow1 - slow0)


def _picture(
    stage: str, table: dict, pixels: dict[int, dict[str, np.ndarray]], figures: dict
) -> Figure:
    page = style.page(
        f"{stage}: the shoeboxes from {figures['d_max']:g} to {figures['d_min']:g} Å",
        f"{style.say(figures['n_lattices'])} lattices · {style.say(figures['n_reflections'])} "
        "reflections "
        f"({style.say(figures['n_unique'])} unique) · {style.say(figures['n_pixels'])} pixels, "
        f"{style.say(figures['n_pixels_counted'])} counted",
    )
    left, right = page.subfigures(1, 2, width_ratios=[1.5, 1])  # type: ignore[misc]
    _mosaic(left, table, pixels)
    axes: Any = right.subplots(4, 1)
    _counts(axes[0], figures["reflections_per_lattice"], style.BLUE)
    axes[0].set(title="shoeboxes of each lattice", ylabel="lattices")
    _counts(axes[1], figures["multiplicity"], style.ORANGE)
    axes[1].set(title="shoeboxes of each unique reflection", ylabel="reflections", yscale="log")
    _resolution(axes[2], table)
    _strength(axes[3], table)
    return page


def _mosaic(figure: Any, table: dict, pixels: dict[int, dict[str, np.ndarray]]) -> None:
    """Draw shoeboxes, each on its own log scale."""
    axes = figure.subplots(ROWS, COLUMNS)
    figure.suptitle(
        "the strongest shoeboxes, photons on a log scale; masked in orange, not counted in blue",
        fontsize=10,
        fontweight="bold",
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, (row, box) in zip(axes.flat, pixels.items(), strict=False):
        fast0, fast1, slow0, slow1 = table["reflections/bbox"][row]
        shape = (slow1 - slow0, fast1 - fast0)
        photons = np.where(box["valid"], np.maximum(box["photons"], 1.0), np.nan)
        norm = LogNorm(
            max(1.0, float(np.nanpercentile(photons, 5))), max(2.0, float(np.nanmax(photons)))
        )
        ax.imshow(
            photons.reshape(shape), norm=norm, cmap=style.PHOTONS.with_extremes(bad=style.ORANGE)
        )
        left_out = (box["overlap"] & Overlap.LEFT_OUT > 0).reshape(shape)
        ax.imshow(
            np.ma.masked_where(~left_out, left_out), cmap=ListedColormap([style.BLUE]), alpha=0.45
        )
        slow, fast = np.nonzero(box["foreground"].reshape(shape))
        if len(slow):
            corner = (fast.min() - 0.5, slow.min() - 0.5)
            size = (float(np.ptp(fast)) + 1, float(np.ptp(slow)) + 1)
            ax.add_patch(Rectangle(corner, *size, fill=False, color=style.RED, lw=0.6))
        h, k, l = table["reflections/hkl"][row]
        ax.set_title(f"{h} {k} {l}", fontsize=6.5, fontweight="normal", loc="center", pad=2)


def _counts(axes: Any, bins: list[dict[str, int]], color: str) -> None:
    """Draw bars of `_counted`."""
    low, high, n = ([bin[name] for bin in bins] for name in ("from", "to", "n"))
    axes.bar(
        np.subtract(low, 0.5),
        n,
        width=np.subtract(high, low) + 1,
        align="edge",
        color=color,
        alpha=0.75,
    )
    style.few_ticks(axes)


def _resolution(axes: Any, table: dict) -> None:
    axes.hist(table["reflections/d"], bins=30, color=style.GREEN, alpha=0.75)
    axes.invert_xaxis()
    axes.set(title="resolution, Å", ylabel="reflections")


def _strength(axes: Any, table: dict) -> None:
    clean = table["reflections/flags"] & ReflectionFlag.FAILED == 0
    strength = table["reflections/intensity"][clean] / np.maximum(
        table["reflections/sigma"][clean], 1e-9
    )
    if not len(strength):
        style.empty(axes, "no reflection is integrated")
        return
    axes.hist(
        np.clip(strength, -3, 30), bins=np.linspace(-3, 30, 34), color=style.PURPLE, alpha=0.75
    )
    axes.set_yscale("log")
    axes.set(title=f"I/σ (median {np.median(strength):.2f})", ylabel="reflections")
