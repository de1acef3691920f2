"""Figures and picture of `annulus`: how much there is to model, and what it looks like."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from spreadflow.io import store
from spreadflow.models import ReflectionFlag
from spreadflow.physics import symmetry
from spreadflow.report import style

ROWS, COLUMNS = 6, 8
"""of the mosaic of shoeboxes"""
TABLES = ("lattices/", "spectra/shot_id", "reflections/")
"""all but the pixels, which do not fit in memory where there are many shots"""


def make(stage: str, products: list[Path], _manifests: list[Path]) -> tuple[dict, Figure]:
    """Figures over all runs, and the page."""
    table, told = store.read(products[0], stage, TABLES), store.attributes(products[0], stage)
    best = _strongest(table)
    n_valid, pixels = _pixels(products[0], stage, table, best)
    figures = _figures(table, told, n_valid)
    return figures, _picture(table, pixels, figures)


def _strongest(table: dict) -> np.ndarray:
    """Rows of the strongest reflections that are integrated without reserve, as many as the mosaic shows."""
    clean = np.flatnonzero(table["reflections/flags"] & ReflectionFlag.FAILED == 0)
    strength = table["reflections/intensity"][clean] / np.maximum(table["reflections/sigma"][clean], 1e-9)
    return clean[np.argsort(-strength)][: ROWS * COLUMNS]


def _pixels(product: Path, stage: str, table: dict, rows: np.ndarray) -> tuple[int, dict[int, dict[str, np.ndarray]]]:
    """How many pixels are valid, and row → pixel columns of some reflections; never more than one part in memory."""
    first, size = table["reflections/first_pixel"], _pixels_per_box(table)
    n_valid, start, out = 0, 0, {}
    for block, key in enumerate(store.part_keys(product, stage)):
        part = store.read_part(product, stage, block, key, ["pixels/valid"])
        n_valid, end = n_valid + int(part["pixels/valid"].sum()), start + part[""]["pixels"]
        mine = [int(row) for row in rows if start <= first[row] < end]
        if mine:
            part = store.read_part(product, stage, block, key, ["pixels/"])
        for row in mine:
            box = slice(first[row] - start, first[row] - start + size[row])
            out[row] = {name: part[f"pixels/{name}"][box] for name in ("photons", "valid", "foreground")}
        start = end
    return n_valid, {int(row): out[int(row)] for row in rows}


def _figures(table: dict, told: dict, n_valid: int) -> dict[str, Any]:
    run, of = table["lattices/run"], table["reflections/lattice"]
    unique, _ = symmetry.to_asu(table["reflections/hkl"], told["space_group"])
    n_pixels = _pixels_per_box(table)
    return {
        "n_shots": len(table["spectra/shot_id"]),
        "n_lattices": len(run),
        "n_lattices_with_reflections": len(np.unique(of)),
        "n_reflections": len(of),
        "n_unique": len(np.unique(unique, axis=0)),
        "n_pixels": int(n_pixels.sum()),
        "n_pixels_valid": n_valid,
        "pixels_per_reflection": float(n_pixels.mean()) if len(of) else None,
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


def _pixels_per_box(table: dict) -> np.ndarray:
    fast0, fast1, slow0, slow1 = table["reflections/bbox"].T.astype(np.int64)
    return (fast1 - fast0) * (slow1 - slow0)


def _picture(table: dict, pixels: dict[int, dict[str, np.ndarray]], figures: dict) -> Figure:
    page = style.page(
        f"annulus: the shoeboxes from {figures['d_max']:g} to {figures['d_min']:g} Å",
        f"{style.say(figures['n_lattices'])} lattices · {style.say(figures['n_reflections'])} reflections "
        f"({style.say(figures['n_unique'])} unique) · {style.say(figures['n_pixels'])} pixels",
    )
    left, right = page.subfigures(1, 2, width_ratios=[1.5, 1])  # type: ignore[misc]
    _mosaic(left, table, pixels)
    axes: Any = right.subplots(3, 1)
    n = np.bincount(table["reflections/lattice"], minlength=figures["n_lattices"])
    style.histogram(axes[0], n, "", style.BLUE)
    axes[0].set(title="reflections of each lattice", ylabel="lattices")
    _resolution(axes[1], table)
    _strength(axes[2], table)
    return page


def _mosaic(figure: Any, table: dict, pixels: dict[int, dict[str, np.ndarray]]) -> None:
    """Shoeboxes, each on its own log scale."""
    axes = figure.subplots(ROWS, COLUMNS)
    figure.suptitle(
        "the strongest shoeboxes, photons on a log scale, masked pixels in orange", fontsize=10, fontweight="bold"
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, (row, box) in zip(axes.flat, pixels.items(), strict=False):
        fast0, fast1, slow0, slow1 = table["reflections/bbox"][row]
        shape = (slow1 - slow0, fast1 - fast0)
        photons = np.where(box["valid"], np.maximum(box["photons"], 1.0), np.nan)
        norm = LogNorm(max(1.0, float(np.nanpercentile(photons, 5))), max(2.0, float(np.nanmax(photons))))
        ax.imshow(photons.reshape(shape), norm=norm, cmap=style.PHOTONS.with_extremes(bad=style.ORANGE))
        foreground = box["foreground"].reshape(shape)
        slow, fast = np.nonzero(foreground)
        corner, width, height = (fast.min() - 0.5, slow.min() - 0.5), float(np.ptp(fast)) + 1, float(np.ptp(slow)) + 1
        ax.add_patch(Rectangle(corner, width, height, fill=False, color=style.RED, lw=0.6))
        h, k, l = table["reflections/hkl"][row]
        ax.set_title(f"{h} {k} {l}", fontsize=6.5, fontweight="normal", loc="center", pad=2)


def _resolution(axes: Any, table: dict) -> None:
    A = table["lattices/A"][table["reflections/lattice"]]
    d = 1 / np.linalg.norm(np.einsum("nij,nj->ni", A, table["reflections/hkl"]), axis=1)
    axes.hist(d, bins=30, color=style.GREEN, alpha=0.75)
    axes.invert_xaxis()
    axes.set(title="resolution, Å", ylabel="reflections")


def _strength(axes: Any, table: dict) -> None:
    clean = table["reflections/flags"] & ReflectionFlag.FAILED == 0
    strength = table["reflections/intensity"][clean] / np.maximum(table["reflections/sigma"][clean], 1e-9)
    if not len(strength):
        style.empty(axes, "no reflection is integrated")
        return
    axes.hist(np.clip(strength, -3, 30), bins=np.linspace(-3, 30, 34), color=style.PURPLE, alpha=0.75)
    axes.set_yscale("log")
    axes.set(title=f"I/σ (median {np.median(strength):.2f})", ylabel="reflections")
