"""Figures and picture of `ladder`: what each rung reaches, whether it passes, and what its model
looks like.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from spreadflow.analysis.pixels.ladder import RUNGS
from spreadflow.io import store
from spreadflow.report import style

N_SAMPLES = 8
"""Shoeboxes in the picture."""

HALF_PX = 9
"""How much of a shoebox is shown to either side of its middle, px."""


def make(stage: str, products: list[Path], _manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures of all rungs, and the page."""
    table = store.read(products[0], stage)
    told = store.attributes(products[0], stage)
    figures = _figures(table, told)
    return figures, _picture(table, told, figures)


def _figures(table: dict, told: dict) -> dict[str, Any]:
    pixel = np.array([detector["pixel_mm"] for detector in told["detectors"]])
    of_lattice = pixel[table["lattices/run"]] if len(table["lattices/run"]) else np.empty(0)
    rungs = {name: _rung(table, told["rungs"].index(name), of_lattice) for name in told["rungs"]}
    compared = {
        name: table[f"compared/{name}"] for name in ("n_spots", "n_fell", "planes", "pixels")
    }
    n_spots = int(compared["n_spots"].sum())
    rungs["00"] |= told["reading"]
    rungs["1"] |= {
        name: int(table[f"lattices/{name}"].sum()) for name in ("n_flagged", "n_counted")
    }
    rungs["2"] |= {
        "n_spots": n_spots,
        "share_fell": compared["n_fell"].sum() / n_spots if n_spots else None,
    }
    rungs["3"] |= {"planes_apart": compared["planes"].max(initial=0.0)}
    rungs["3B"] |= {"pixels_apart": compared["pixels"].max(initial=0.0)}
    listed = [_judged(name, rungs, told["n_modelled"]) for name in rungs]
    return {
        "n_lattices": len(table["lattices/k"]),
        "n_modelled": told["n_modelled"],
        "misset_deg": told["config"]["misset_deg"],
        "n_domains": told["config"]["n_domains"],
        "n_passed": sum(one["passed"] for one in listed),
        "rungs": listed,
    }


def _rung(table: dict, row: int, pixel_mm: np.ndarray) -> dict[str, Any]:
    """Return figures of one rung; None of what it does not have."""
    mine = table["rungs/rung"] == row
    of = {
        name: table[f"rungs/{name}"][mine]
        for name in ("n", "radial", "transverse", "n_pixels", "z", "z_published")
    }
    size = pixel_mm[table["rungs/lattice"][mine]]
    n = of["n"].sum()
    n_pixels = of["n_pixels"].sum()
    out: dict[str, Any] = {"n_lattices": int(mine.sum()), "n": int(n)}
    squares = {
        "radial_": of["radial"],
        "transverse_": of["transverse"],
        "": of["radial"] + of["transverse"],
    }
    for name, of_lattices in squares.items():
        out[f"{name}rmsd_mm"] = np.sqrt(of_lattices.sum() / n) if n else None
        out[f"{name}rmsd_px"] = np.sqrt((of_lattices / size**2).sum() / n) if n else None
    for name, mean_name, sd_name in (
        ("z", "z_mean", "sigma_z"),
        ("z_published", "z_published_mean", "z_published"),
    ):
        mean, square = of[name].sum(axis=0) / n_pixels if n_pixels else (np.nan, np.nan)
        out |= {mean_name: mean, sd_name: np.sqrt(square - mean**2)}
    seconds = table["rungs/seconds"][mine][of["n_pixels"] > 0]
    return out | {"seconds_per_lattice": np.median(seconds) if len(seconds) else None}


def _judged(name: str, rungs: dict[str, dict], n_modelled: int) -> dict[str, Any]:
    """Return the figures of a rung with what it does, whether it passed, and if not, why."""
    rung = RUNGS[name]
    why = None
    if rung.spectrum and (n := rungs[name]["n_lattices"]) < max(n_modelled, 1):
        why = f"{n} of {n_modelled} lattices have a model"
    elif not rung.test(rungs):
        why = f"not so: {rung.passes}"
    return {
        "name": name,
        "passed": why is None,
        "why": why,
        "does": rung.says,
        "passes": rung.passes,
    } | rungs[name]


def _picture(table: dict, told: dict, figures: dict) -> Figure:
    page = style.page(
        f"ladder: {figures['n_passed']} of {len(figures['rungs'])} rungs pass",
        f"{style.say(figures['n_lattices'])} lattices read, {style.say(figures['n_modelled'])} "
        "modelled, turned by "
        f"{figures['misset_deg']:g}° before · {figures['n_domains']} mosaic domains drawn for the "
        "model",
    )
    left, right = page.subfigures(1, 2, width_ratios=[1.25, 1])  # type: ignore[misc]
    axes: Any = left.subplots(3, 1, height_ratios=[1, 0.8, 0.9])
    _rmsd(axes[0], figures["rungs"])
    _sigma_z(axes[1], figures["rungs"])
    _list(axes[2], figures["rungs"])
    _samples(right, table, told["pictured"])
    return page


def _rmsd(axes: Any, rungs: list[dict]) -> None:
    some = [rung for rung in rungs if rung["radial_rmsd_mm"] is not None]
    at = np.arange(len(some))
    for shift, name, color in ((-0.2, "radial", style.BLUE), (0.2, "transverse", style.ORANGE)):
        heights = [rung[f"{name}_rmsd_mm"] for rung in some]
        bars = axes.bar(at + shift, heights, width=0.38, color=color, label=name)
        texts = [style.say(rung[f"{name}_rmsd_px"], 2) for rung in some]
        axes.bar_label(bars, texts, fontsize=7, color=style.INK)
    axes.set_xticks(at, [rung["name"] for rung in some])
    axes.set_yscale("log")
    axes.margins(y=0.15)
    n = max((rung["n"] for rung in some), default=0)
    axes.set(
        title=f"r.m.s.d. of {style.say(n)} centroids with I/σ ≥ 5; on the bars in pixels",
        ylabel="mm",
    )
    axes.legend(loc="upper right")


def _sigma_z(axes: Any, rungs: list[dict]) -> None:
    some = [rung for rung in rungs if rung["n_lattices"]]
    if not some:
        style.empty(axes, "no lattice is modelled")
        return
    at = np.arange(len(some))
    bars = axes.bar(at, [rung["sigma_z"] for rung in some], width=0.6, color=style.GREEN)
    axes.bar_label(bars, [f"{rung['sigma_z']:.3f}" for rung in some], fontsize=7.5)
    axes.axhline(1.0, color=style.INK, lw=0.8, ls=":")
    axes.set_xticks(
        at, [f"{rung['name']}\n{style.say(rung['seconds_per_lattice'], 2)} s" for rung in some]
    )
    axes.margins(y=0.15)
    axes.set(title="σ of Z, 1 where the model is right; processor time of a lattice", ylabel="σ_Z")


def _list(axes: Any, rungs: list[dict]) -> None:
    """Draw each rung in a line."""
    axes.set_axis_off()
    for i, rung in enumerate(rungs):
        y = 1.0 - (i + 0.5) / len(rungs)
        color = style.GREEN if rung["passed"] else style.RED
        text = rung["passes"] if rung["passed"] else rung["why"]
        for x, words, paint in (
            (-0.05, rung["name"], color),
            (0.01, rung["does"], style.INK),
            (0.42, text, color),
        ):
            axes.text(x, y, words, color=paint, fontsize=7.5, va="center", transform=axes.transAxes)


def _samples(figure: Any, table: dict, pictured: list[str]) -> None:
    """Draw data and models of the strongest shoebox of some lattices, each row on one log scale."""
    names = ["data", *(f"rung {name}" for name in pictured)]
    axes = figure.subplots(N_SAMPLES, len(names), squeeze=False)
    figure.suptitle(
        "the middle of a lattice's strongest shoebox, photons on a log scale",
        fontsize=10,
        fontweight="bold",
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, name in zip(axes[0], names, strict=True):
        ax.set_title(name, fontsize=8, loc="center")
    rows = zip(
        axes,
        table["samples/bbox"],
        table["samples/first_pixel"],
        table["samples/hkl"],
        strict=False,
    )
    for row, (fast0, fast1, slow0, slow1), first, hkl in rows:
        shape = (slow1 - slow0, fast1 - fast0)
        some = slice(first, first + shape[0] * shape[1])
        data = table["pixels/photons"][some]
        norm = LogNorm(max(1.0, float(np.nanpercentile(data, 5))), max(2.0, float(np.nanmax(data))))
        core = tuple(slice(max(n // 2 - HALF_PX, 0), n // 2 + HALF_PX) for n in shape)
        for ax, values in zip(row, [data, *table["pixels/model"][some].T], strict=True):
            image = np.where(np.isfinite(data), np.maximum(values, 1.0), np.nan).reshape(shape)[
                core
            ]
            ax.imshow(image, norm=norm, cmap=style.PHOTONS.with_extremes(bad=style.ORANGE))
        row[0].text(
            -0.03,
            0.5,
            "{} {} {}".format(*hkl),
            fontsize=6,
            ha="right",
            va="center",
            transform=row[0].transAxes,
        )
