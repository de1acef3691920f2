"""What `spreadflow plan` found: figures, picture, and a table for the terminal."""

from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from spreadflow.report import style, summary

HEADLINE_EV = 2.0
"""The sentence is about the grid nearest to this."""

LATTICES_OF_TABLE = 1000
"""Lattices of the σ in the terminal's table."""

LINE_STYLES = {0: "-", 1: "--", 2: ":", 3: "-."}


def run(told: dict[str, Any], out: Path) -> None:
    """Write `out` (JSON) and its picture (PNG), and print a table."""
    told = told | {"sentence": sentence(told)}
    with matplotlib.rc_context(style.STYLE):
        summary.write(told, _picture(told), out)
    console = Console()
    console.print(_table(told))
    console.print(f"{told['sentence']}\n{out}, {out.with_suffix('.png')}")


def sentence(told: dict[str, Any]) -> str:
    """Return how many lattices reach the goal, of the first case, with the widest range and the
    usual nodes.
    """
    first = told["rows"][0]
    grid = min({row["grid_ev"] for row in told["rows"]}, key=lambda grid: abs(grid - HEADLINE_EV))
    some = [row for row in told["rows"] if _case(row) == _case(first) and row["grid_ev"] == grid]
    free, related = (
        max(
            (row for row in some if row["restraint"] == name),
            key=lambda row: row["d_max"] - row["d_min"],
        )
        for name in ("free", "kramers_kronig")
    )
    case = f"{named}, " if (named := _named(told["rows"], first)) else ""
    return (
        f"σ(f′) reaches {told['goal_e']:g} e at {style.about(_whole(free['lattices_fp']))} "
        "lattices "
        f"({case}{free['d_min']:g}-{free['d_max']:g} Å, nodes every {grid:g} eV), "
        f"with the dispersion relation at {style.about(_whole(related['lattices_fp']))}."
    )


def _whole(n: float) -> int | None:
    return round(n) if np.isfinite(n) else None


def _case(row: dict[str, Any]) -> tuple[float, float]:
    return row["n_cells"], row["psf_fwhm_mm"]


def _range(row: dict[str, Any]) -> tuple[float, float]:
    return row["d_min"], row["d_max"]


def _named(rows: list[dict[str, Any]], row: dict[str, Any]) -> str:
    """Return the case of a row, in words, where there are several."""
    if len({_case(other) for other in rows}) == 1:
        return ""
    spread = f"PSF {row['psf_fwhm_mm']:g} mm" if row["psf_fwhm_mm"] else "no PSF"
    return f"N {row['n_cells']}, {spread}"


def _table(told: dict[str, Any]) -> Table:
    """Return a line for each case, range and grid."""
    rows = told["rows"]
    at = told["lattices"].index(LATTICES_OF_TABLE)
    several = bool(_named(rows, rows[0]))
    table = Table(
        title=f"σ from {LATTICES_OF_TABLE} lattices; lattices for σ(f′) of {told['goal_e']:g} e",
        title_justify="left",
    )
    names = [*(["N", "PSF, mm"] * several), "Å", "nodes, eV", "σ(f′), e", "σ(f″), e", "σ(ΔE0), eV"]
    for name in [*names, "lattices", "with K.-K."]:
        table.add_column(name, justify="right")
    for _, pair in groupby(rows, key=lambda row: (*_case(row), *_range(row), row["grid_ev"])):
        free, related = pair
        where = [
            *(map(style.say, _case(free)) if several else []),
            f"{free['d_min']:g}-{free['d_max']:g}",
        ]
        sigmas = (
            style.say(free[f"sigma_{name}"][at], 2)
            for name in ("fp_e", "fdp_e", "edge_difference_ev")
        )
        reached = (style.about(_whole(row["lattices_fp"])) for row in (free, related))
        table.add_row(*where, f"{free['grid_ev']:g}", *sigmas, *reached)
    return table


def _picture(told: dict[str, Any]) -> Figure:
    rows = told["rows"]
    named = ", ".join(
        f"{site} ({element})" for site, element in zip(told["sites"], told["elements"], strict=True)
    )
    bands = ", ".join(sorted({f"{low:g}-{high:g} eV" for low, high in told["bands_ev"]}))
    page = style.page(
        "plan", f"{sentence(told)}   Sites {named}; r.m.s. over nodes {bands}", height=8.6
    )
    panels = page.subplots(2, 2)
    of_first = [row for row in rows if _case(row) == _case(rows[0])]
    for axes, (key, restraint, title) in zip(
        panels.flat,
        (
            ("sigma_fp_e", "free", "σ(f′), each node for itself, e"),
            ("sigma_fdp_e", "free", "σ(f″), each node for itself, e"),
            ("sigma_fp_e", "kramers_kronig", "σ(f′) with the dispersion relation, e"),
            ("sigma_edge_difference_ev", "free", "σ of the difference of edges, eV"),
        ),
        strict=True,
    ):
        _lines(axes, told, [row for row in of_first if row["restraint"] == restraint], key)
        axes.set(title=title, xlabel="lattices")
    panels[0, 0].legend(loc="lower left", ncols=2)
    if _named(rows, rows[0]):
        _cases(panels[1, 1], told)
    return page


def _lines(axes: Any, told: dict[str, Any], rows: list[dict[str, Any]], key: str) -> None:
    """Draw σ against lattices, a colour for each range, a stroke for each grid; the goal, and
    1/√n.
    """
    n = np.array(told["lattices"], dtype=float)
    colors = dict(
        zip(
            dict.fromkeys(map(_range, rows)),
            style.STYLE["axes.prop_cycle"].by_key()["color"],
            strict=False,
        )
    )
    strokes = dict(
        zip(dict.fromkeys(row["grid_ev"] for row in rows), LINE_STYLES.values(), strict=False)
    )
    for row in rows:
        label = f"{row['d_min']:g}-{row['d_max']:g} Å, {row['grid_ev']:g} eV"
        axes.plot(
            n, row[key], color=colors.get(_range(row)), ls=strokes.get(row["grid_ev"]), label=label
        )
    highest = np.nanmax([row[key] for row in rows])
    axes.plot(n, 1.4 * highest * np.sqrt(n[0] / n), color=style.PALE, zorder=0, lw=3)
    if key.endswith("_e"):
        axes.axhline(told["goal_e"], color=style.INK, lw=0.8, ls=(0, (2, 2)))
    axes.set(xscale="log", yscale="log")
    axes.grid(color=style.PALE, lw=0.6)


def _cases(axes: Any, told: dict[str, Any]) -> None:
    """Draw lattices to the goal of each case, in place of the edges."""
    axes.clear()
    rows = told["rows"]
    widest = max(map(_range, rows), key=lambda ends: ends[1] - ends[0])
    grid = min({row["grid_ev"] for row in rows}, key=lambda grid: abs(grid - HEADLINE_EV))
    some = [
        row
        for row in rows
        if _range(row) == widest and row["grid_ev"] == grid and row["restraint"] == "free"
    ]
    counts = [_whole(row["lattices_fp"]) for row in some]
    style.bars(axes, [_named(rows, row) for row in some], counts, [style.BLUE] * len(some))
    axes.set_title(
        f"lattices for σ(f′) of {told['goal_e']:g} e, {widest[0]:g}-{widest[1]:g} Å, {grid:g} eV"
    )
