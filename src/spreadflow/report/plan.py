"""The report of `spreadflow plan`: figures, picture, and a table for the terminal."""

from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from spreadflow.report import style, summary
from spreadflow.report.style import about, say

HEADLINE_EV = 2.0
"""The sentence is about the grid of nodes whose step is nearest to this, eV."""

LATTICES_OF_TABLE = 1000
"""Lattices of the σ in the terminal's table."""

LINE_STYLES = ("-", "--", ":", "-.")
"""Strokes of the grids."""

PANELS = (
    ("sigma_fp_e", "free", "σ(f′), each node for itself, e"),
    ("sigma_fdp_e", "free", "σ(f″), each node for itself, e"),
    ("sigma_fp_e", "kramers_kronig", "σ(f′) with the dispersion relation, e"),
    ("sigma_edge_difference_ev", "free", "σ of the difference of edges, eV"),
)
"""Figure, restraint and title of each panel of the picture."""

Row = dict[str, Any]
"""Figures of one case, range, grid and restraint."""


def run(figures: dict[str, Any], out: Path) -> None:
    """Write `out` (JSON) and its picture (PNG), and print a table."""
    figures = figures | {"sentence": sentence(figures)}
    with matplotlib.rc_context(style.STYLE):
        summary.write(figures, _picture(figures), out)
    console = Console()
    console.print(_table(figures))
    console.print(f"{figures['sentence']}\n{out}, {out.with_suffix('.png')}")


def sentence(figures: dict[str, Any]) -> str:
    """Return how many lattices reach the goal, for the first case, the widest range and the usual
    nodes.
    """
    rows = figures["rows"]
    first = rows[0]
    grid = _usual_grid(rows)
    alike = [row for row in rows if _case(row) == _case(first) and row["grid_ev"] == grid]
    free = _widest([row for row in alike if row["restraint"] == "free"])
    related = _widest([row for row in alike if row["restraint"] == "kramers_kronig"])
    name = _case_name(rows, first)
    case = f"{name}, " if name else ""
    return (
        f"σ(f′) reaches {figures['goal_e']:g} e at {about(_whole(free['lattices_fp']))} lattices "
        f"({case}{free['d_min']:g}-{free['d_max']:g} Å, nodes every {grid:g} eV), "
        f"with the dispersion relation at {about(_whole(related['lattices_fp']))}."
    )


def _usual_grid(rows: list[Row]) -> float:
    """Return the step of the grid nearest to the usual one, eV."""
    return min({row["grid_ev"] for row in rows}, key=lambda grid: abs(grid - HEADLINE_EV))


def _widest(rows: list[Row]) -> Row:
    """Return the row of the widest range of resolution."""
    return max(rows, key=lambda row: row["d_max"] - row["d_min"])


def _whole(n: float) -> int | None:
    """Return a number of lattices, or None if it is out of reach."""
    return round(n) if np.isfinite(n) else None


def _case(row: Row) -> tuple[float, float]:
    """Return what tells cases apart: N, and the width of the point spread, mm."""
    return row["n_cells"], row["psf_fwhm_mm"]


def _range(row: Row) -> tuple[float, float]:
    """Return d_min and d_max, Å."""
    return row["d_min"], row["d_max"]


def _case_name(rows: list[Row], row: Row) -> str:
    """Return the case of a row in words; empty where there is only one."""
    if len({_case(other) for other in rows}) == 1:
        return ""
    point_spread = f"PSF {row['psf_fwhm_mm']:g} mm" if row["psf_fwhm_mm"] else "no PSF"
    return f"N {row['n_cells']}, {point_spread}"


def _table(figures: dict[str, Any]) -> Table:
    """Return a line for each case, range and grid."""
    rows = figures["rows"]
    number = figures["lattices"].index(LATTICES_OF_TABLE)
    has_cases = bool(_case_name(rows, rows[0]))
    table = Table(
        title=f"σ from {LATTICES_OF_TABLE} lattices; lattices for σ(f′) of {figures['goal_e']:g} e",
        title_justify="left",
    )
    names = ["Å", "nodes, eV", "σ(f′), e", "σ(f″), e", "σ(ΔE0), eV", "lattices", "with K.-K."]
    for name in ["N", "PSF, mm", *names] if has_cases else names:
        table.add_column(name, justify="right")
    for _, pair in groupby(rows, key=lambda row: (*_case(row), *_range(row), row["grid_ev"])):
        free, related = pair
        case = map(say, _case(free)) if has_cases else ()
        sigmas = (
            say(free[f"sigma_{name}"][number], 2)
            for name in ("fp_e", "fdp_e", "edge_difference_ev")
        )
        table.add_row(
            *case,
            f"{free['d_min']:g}-{free['d_max']:g}",
            f"{free['grid_ev']:g}",
            *sigmas,
            about(_whole(free["lattices_fp"])),
            about(_whole(related["lattices_fp"])),
        )
    return table


# ---------------------------------------------------------------- the picture


def _picture(figures: dict[str, Any]) -> Figure:
    """Draw σ against the number of lattices, for the first case; and the cases side by side."""
    rows = figures["rows"]
    elements = zip(figures["sites"], figures["elements"], strict=True)
    sites = ", ".join(f"{site} ({element})" for site, element in elements)
    bands = ", ".join(sorted({f"{low:g}-{high:g} eV" for low, high in figures["bands_ev"]}))
    subtitle = f"{sentence(figures)}   Sites {sites}; r.m.s. over nodes {bands}"
    page = style.page("plan", subtitle, height=8.6)
    panels = page.subplots(2, 2)
    first_case = [row for row in rows if _case(row) == _case(rows[0])]
    for axes, (key, restraint, title) in zip(panels.flat, PANELS, strict=True):
        shown = [row for row in first_case if row["restraint"] == restraint]
        _lines(axes, figures, shown, key)
        axes.set(title=title, xlabel="lattices")
    panels[0, 0].legend(loc="lower left", ncols=2)
    if _case_name(rows, rows[0]):
        _cases(panels[1, 1], figures)
    return page


def _lines(axes: Any, figures: dict[str, Any], rows: list[Row], key: str) -> None:
    """Draw σ against lattices, with a colour for each range and a stroke for each grid; the goal,
    and 1/√n.
    """
    n = np.array(figures["lattices"], dtype=float)
    ranges = dict.fromkeys(map(_range, rows))
    grids = dict.fromkeys(row["grid_ev"] for row in rows)
    palette = style.STYLE["axes.prop_cycle"].by_key()["color"]
    colors = dict(zip(ranges, palette, strict=False))
    strokes = dict(zip(grids, LINE_STYLES, strict=False))
    for row in rows:
        grid = row["grid_ev"]
        label = f"{row['d_min']:g}-{row['d_max']:g} Å, {grid:g} eV"
        color = colors.get(_range(row))
        axes.plot(n, row[key], color=color, ls=strokes.get(grid), label=label)
    highest = np.nanmax([row[key] for row in rows])
    inverse_root = 1.4 * highest * np.sqrt(n[0] / n)
    axes.plot(n, inverse_root, color=style.PALE, zorder=0, lw=3)
    if key.endswith("_e"):
        axes.axhline(figures["goal_e"], color=style.INK, lw=0.8, ls=(0, (2, 2)))
    axes.set(xscale="log", yscale="log")
    axes.grid(color=style.PALE, lw=0.6)


def _cases(axes: Any, figures: dict[str, Any]) -> None:
    """Draw the lattices that each case takes to the goal, in place of the edges."""
    axes.clear()
    rows = figures["rows"]
    d_min, d_max = _range(_widest(rows))
    grid = _usual_grid(rows)
    alike = [
        row
        for row in rows
        if _range(row) == (d_min, d_max) and row["grid_ev"] == grid and row["restraint"] == "free"
    ]
    names = [_case_name(rows, row) for row in alike]
    counts = [_whole(row["lattices_fp"]) for row in alike]
    style.bars(axes, names, counts, [style.BLUE] * len(alike))
    axes.set_title(
        f"lattices for σ(f′) of {figures['goal_e']:g} e, {d_min:g}-{d_max:g} Å, {grid:g} eV"
    )
