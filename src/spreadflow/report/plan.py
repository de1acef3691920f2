"""The report of `spreadflow plan`: figures, picture, and a table for the terminal."""

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
    ("sigma_shape_fp_e", "free", "σ of the shape of f′, e"),
    ("sigma_shape_fdp_e", "free", "σ of the shape of f″, e"),
    ("sigma_constant_fp_e", "free", "σ of the constant of f′, e"),
    ("sigma_fp_e", "kramers_kronig", "σ(f′) with the dispersion relation, e"),
    ("sigma_fdp_e", "kramers_kronig", "σ(f″) with the dispersion relation, e"),
    ("sigma_edge_difference_ev", "free", "σ of the difference of edges, eV"),
)
"""Figure, restraint and title of each panel of the picture."""

RESTRAINTS = ("free", "kramers_kronig")
"""Restraints, the usual one first."""

COLUMNS = (
    "sigma_shape_fp_e",
    "sigma_shape_fdp_e",
    "sigma_constant_fp_e",
    "sigma_edge_difference_ev",
)
"""σ in the terminal's table."""

Row = dict[str, Any]
"""Figures of one case, range, error of the model, grid and restraint."""


def run(figures: dict[str, Any], out: Path) -> None:
    """Write `out` (JSON) and its picture (PNG), and print a table."""
    figures = figures | {"sentence": sentence(figures)}
    with matplotlib.rc_context(style.STYLE):
        summary.write(figures, _picture(figures), out)
    console = Console()
    console.print(_table(figures))
    console.print(f"{figures['sentence']}\n{out}, {out.with_suffix('.png')}")


def sentence(figures: dict[str, Any]) -> str:
    """Return how many lattices bring the shape of f′ to the goal, for the first case and error of
    the model, the widest range and the usual nodes.
    """
    rows = figures["rows"]
    first = rows[0]
    grid = _usual_grid(rows)
    alike = [row for row in rows if _case(row) == _case(first) and row["grid_ev"] == grid]
    error = _usual_error(rows)
    free, related = _pair(alike, error)
    name = _case_name(rows, first)
    words = [name] if name else []
    words += [f"{free['d_min']:g}-{free['d_max']:g} Å", f"nodes every {grid:g} eV"]
    if error is not None:
        words.append(f"model of F wrong by {error:g}")
    text = (
        f"σ of the shape of f′ reaches {figures['goal_e']:g} e at {_lattices(free)} lattices "
        f"({', '.join(words)}), with the dispersion relation at {_lattices(related)}"
    )
    if error is None:
        return f"{text}."
    known_free, known_related = _pair(alike, None)
    return (
        f"{text}; were the model right, at {_lattices(known_free)} and {_lattices(known_related)}."
    )


def _pair(rows: list[Row], error: float | None) -> tuple[Row, Row]:
    """Return the rows of the widest range for an error of the model, without and with the
    dispersion relation.
    """
    chosen = [row for row in rows if row["model_error"] == error]
    free = _widest([row for row in chosen if row["restraint"] == "free"])
    related = _widest([row for row in chosen if row["restraint"] == "kramers_kronig"])
    return free, related


def _lattices(row: Row) -> str:
    """Return in words how many lattices bring the shape of f′ to the goal."""
    return about(_whole(row["lattices_shape_fp"]))


def _usual_error(rows: list[Row]) -> float | None:
    """Return the first error of the model; None where X is known."""
    return next((row["model_error"] for row in rows if row["model_error"] is not None), None)


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
    """Return a line for each case, range, error of the model and grid."""
    rows = figures["rows"]
    number = figures["lattices"].index(LATTICES_OF_TABLE)
    has_cases = bool(_case_name(rows, rows[0]))
    goal = f"{figures['goal_e']:g} e"
    table = Table(
        title=f"σ from {LATTICES_OF_TABLE} lattices; those that bring the shape of f′ to {goal}",
        title_justify="left",
    )
    names = ["Å", "nodes, eV", "model", "f′, e", "f″, e", "f′ mean, e", "ΔE0, eV"]
    names += ["lattices", "K.-K."]
    for name in ["N", "PSF, mm", *names] if has_cases else names:
        table.add_column(name, justify="right", no_wrap="," not in name)
    restraints = [[row for row in rows if row["restraint"] == name] for name in RESTRAINTS]
    for free, related in zip(*restraints, strict=True):
        case = map(say, _case(free)) if has_cases else ()
        error = free["model_error"]
        table.add_row(
            *case,
            f"{free['d_min']:g}-{free['d_max']:g}",
            f"{free['grid_ev']:g}",
            "right" if error is None else f"{error:g}",
            *(say(free[key][number], 2) for key in COLUMNS),
            _lattices(free),
            _lattices(related),
        )
    return table


# ---------------------------------------------------------------- the picture


def _picture(figures: dict[str, Any]) -> Figure:
    """Draw σ against the number of lattices, for the first case; and the cases side by side."""
    rows = figures["rows"]
    elements = zip(figures["sites"], figures["elements"], strict=True)
    sites = ", ".join(f"{site} ({element})" for site, element in elements)
    bands = ", ".join(sorted({f"{low:g}-{high:g} eV" for low, high in figures["bands_ev"]}))
    page = style.page("plan", sentence(figures), height=8.6)
    about_sites = f"sites {sites}; r.m.s. over nodes {bands}"
    page.text(0.985, 0.955, about_sites, fontsize=9.5, color=style.GREY, va="center", ha="right")
    panels = page.subplots(2, 3)
    first_case = [row for row in rows if _case(row) == _case(rows[0])]
    for axes, (key, restraint, title) in zip(panels.flat, PANELS, strict=True):
        _lines(axes, figures, [row for row in first_case if row["restraint"] == restraint], key)
        axes.set(title=title, xlabel="lattices")
    page.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    if _case_name(rows, rows[0]):
        _cases(panels[1, 2], figures)
    return page


def _lines(axes: Any, figures: dict[str, Any], rows: list[Row], key: str) -> None:
    """Draw σ against lattices, with a colour for each range; the goal, and 1/√n.

    Strokes tell grids apart, or errors of the model at the usual grid where there are several of
    these. Where the model is right is drawn thin, for the widest range and the usual grid.
    """
    n = np.array(figures["lattices"], dtype=float)
    usual = _usual_error(rows)
    shown = [row for row in rows if (row["model_error"] is None) == (usual is None)]
    has_errors = len({row["model_error"] for row in shown}) > 1
    stroke_of = "grid_ev"
    if has_errors:
        stroke_of = "model_error"
        shown = [row for row in shown if row["grid_ev"] == _usual_grid(rows)]
    ranges = dict.fromkeys(map(_range, shown))
    kinds = dict.fromkeys(row[stroke_of] for row in shown)
    palette = style.STYLE["axes.prop_cycle"].by_key()["color"]
    colors = dict(zip(ranges, palette, strict=False))
    strokes = dict(zip(kinds, LINE_STYLES, strict=False))
    for row in shown:
        kind = row[stroke_of]
        unit = "wrong" if has_errors else "eV"
        label = f"{row['d_min']:g}-{row['d_max']:g} Å, {kind:g} {unit}"
        axes.plot(n, row[key], color=colors.get(_range(row)), ls=strokes.get(kind), label=label)
    if usual is not None:
        at_grid = [row for row in rows if row["grid_ev"] == _usual_grid(rows)]
        known = _widest([row for row in at_grid if row["model_error"] is None])
        axes.plot(n, known[key], color=style.INK, lw=0.8, label="model right")
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
    wanted = ((d_min, d_max), grid, "free", _usual_error(rows))
    alike = [
        row
        for row in rows
        if (_range(row), row["grid_ev"], row["restraint"], row["model_error"]) == wanted
    ]
    names = [_case_name(rows, row) for row in alike]
    counts = [_whole(row["lattices_shape_fp"]) for row in alike]
    style.bars(axes, names, counts, [style.BLUE] * len(alike))
    axes.set_title(
        f"lattices for {figures['goal_e']:g} e in f′, {d_min:g}-{d_max:g} Å, {grid:g} eV"
    )
