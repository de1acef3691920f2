"""How all pictures look."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from cycler import cycler
from matplotlib import colormaps
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import (
    AutoLocator,
    LogFormatterSciNotation,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    ScalarFormatter,
)

from spreadflow.io.store import replacing
from spreadflow.report.layout import Layout

BLUE = "#2b6ca3"
"""Colour of what is accepted, refined or used."""

ORANGE = "#dd8a1d"
"""Colour of what is left out, and of the second of a pair of curves."""

GREEN = "#2f8f6b"
"""Colour of what was found or passed."""

RED = "#c0483f"
"""Colour of what failed, and of marks upon pictures."""

PURPLE = "#7a5aa6"
"""Colour of a further curve."""

GREY = "#8a9199"
"""Colour of what stands aside: axes, references, what was before."""

INK = "#1d2733"
"""Colour of text and of what is true."""

PALE = "#dfe3e8"
"""Colour of lines in the background."""

PHOTONS = colormaps["bone_r"]
"""Colours of counts: more photons are darker."""

RESIDUAL = colormaps["RdBu_r"]
"""Colours of what may be negative (blue) or positive (red)."""

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.formatter.useoffset": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, GREY]),
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.dpi": 110,
    "savefig.facecolor": "white",
}
"""Settings of matplotlib for all pictures."""

TITLE_IN = 0.34
"""Inches from the top of a page to the middle of its title."""

SUBTITLE_IN = 0.65
"""Inches from the top of a page to the middle of its subtitle."""

HEAD_IN = 0.84
"""Inches from the top of a page to its plots."""

TILE_EDGE = 0.78
"""Edge of a small image in a plot of many that are 1 apart."""

LINE_IN = 0.19
"""Height of a line of warnings, inches."""

CHARACTERS_PER_IN = 12.5
"""Characters of a warning in an inch of a line."""

MOST_WARNINGS = 6
"""Warnings that a picture shows."""

DPI = 120
"""Pixels of a picture to an inch."""

COMPRESSION = 1
"""Level of compression of a picture, 1 to 9: 6, the usual one, takes a quarter more time for a
sixth fewer bytes.
"""

MOST_INTERVALS = 6
"""Intervals between the ticks of an axis that has no other wish. Each tick is set and measured
several times.
"""

WIDE_RANGE = 100
"""Ratio of the limits of a logarithmic axis from which its decades alone have ticks."""

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
"""Digits of powers."""

ENDLESS = "endless"
"""Stands for a number that is out of reach."""


def page(title: str, subtitle: str, width: float = 13.0, height: float = 7.6) -> Figure:
    """Return an empty page with title and subtitle; width and height in inches."""
    figure = Figure(figsize=(width, height))
    title_y, subtitle_y = (1 - below / height for below in (TITLE_IN, SUBTITLE_IN))
    figure.text(0.015, title_y, title, fontsize=15, fontweight="bold", va="center")
    figure.text(0.015, subtitle_y, subtitle, fontsize=9.5, color=GREY, va="center")
    _lay_out_below(figure, HEAD_IN)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure (PNG). It is drawn once: `savefig` would go through all of it a second time,
    before, to lay it out. Raises FileError.
    """
    plain_ticks(figure)
    figure.dpi = DPI
    with replacing(path) as temporary:
        canvas = FigureCanvasAgg(figure)
        canvas.print_png(temporary, pil_kwargs={"compress_level": COMPRESSION})


def warn(figure: Figure, sentences: Sequence[str]) -> None:
    """Write warnings in red between the head of a page and its plots, which move down: the page
    grows. Those beyond `MOST_WARNINGS` are counted.
    """
    width, height = figure.get_size_inches()
    length = int(CHARACTERS_PER_IN * width)
    lines = [
        line
        for sentence in sentences[:MOST_WARNINGS]
        for line in wrap(f"warning: {sentence}", length, subsequent_indent="    ")
    ]
    n_others = len(sentences) - MOST_WARNINGS
    if n_others > 0:
        lines.append(f"and {n_others} more: see the summary")
    if not lines:
        return
    taller = height + LINE_IN * len(lines)
    for text in figure.texts:
        x, y = text.get_position()
        text.set_position((x, 1 - (1 - y) * height / taller))
    figure.set_size_inches(width, taller)
    for number, line in enumerate(lines):
        y = 1 - (HEAD_IN + LINE_IN * (number + 0.5)) / taller
        figure.text(0.015, y, line, fontsize=9, fontweight="bold", color=RED, va="center")
    _lay_out_below(figure, HEAD_IN + LINE_IN * len(lines))


def _lay_out_below(figure: Figure, head_in: float) -> None:
    """Give the plots of a page what is below its head, which is so many inches high."""
    top = 1 - head_in / figure.get_figheight()
    rect = (0.01, 0.01, 0.98, top - 0.01)
    figure.set_layout_engine(Layout(w_pad=0.08, h_pad=0.08, rect=rect))


def say(value: Any, digits: int = 3) -> str:
    """Return a number for people, with so many significant digits and spaces between thousands; an
    en dash for None and NaN.
    """
    is_nan = value != value
    if value is None or is_nan:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int | np.integer):
        return f"{value:,}".replace(",", " ")
    if not 10**digits <= abs(value) < 1e7:
        return f"{value:.{digits}g}"
    return f"{value:,.0f}".replace(",", " ")


def about(n: int | None) -> str:
    """Return a large number to two digits; None is out of reach."""
    if n is None:
        return ENDLESS
    two_digits = float(f"{n:.2g}")
    return say(int(two_digits))


def percent(share: float | None) -> str:
    """Return a share in per cent; an en dash for None."""
    return "–" if share is None else f"{100 * share:.4g} %"


def outcomes(figures: dict[str, Any]) -> str:
    """Return the outcomes of a stage with their counts, without those that did not happen."""
    return ", ".join(
        f"{say(n)} {name.replace('_', ' ')}" for name, n in figures["outcomes"].items() if n
    )


def measured(value: float | None, sigma: float | None, true: float | None) -> str:
    """Return an energy with its σ, eV, and the true one where it is known."""
    text = "none found" if value is None else f"{value:.2f} ± {sigma:.2f} eV"
    return text if true is None else f"{text} (truth {true:.2f})"


def empty(axes: Any, text: str) -> None:
    """Say in place of a plot why there is none."""
    axes.text(0.5, 0.5, text, ha="center", va="center", color=GREY, transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def without_axes(axes: Any) -> None:
    """Leave away frame, axes and ticks: ticks that nobody sees are laid out all the same."""
    axes.set(xticks=[], yticks=[])
    axes.set_axis_off()


def tile(
    shape: tuple[int, ...], x: float, y: float, width: float = TILE_EDGE, height: float = TILE_EDGE
) -> tuple[float, float, float, float]:
    """Return the extent of a small image, (slow, fast) pixels, whose middle lies at x and y of a
    plot that holds many of them. A plot for each would take longer than all that it shows.

    width, height: the most that it may take.
    """
    n_slow, n_fast = shape
    pixel = min(width / n_fast, height / n_slow)
    half_width = 0.5 * n_fast * pixel
    half_height = 0.5 * n_slow * pixel
    return (x - half_width, x + half_width, y - half_height, y + half_height)


def photon_scale(photons: np.ndarray) -> LogNorm:
    """Return a log scale for the photons of a shoebox; NaN = masked."""
    low = max(1.0, float(np.nanpercentile(photons, 5)))
    high = max(2.0, float(np.nanmax(photons)))
    return LogNorm(low, high)


def histogram(axes: Any, values: np.ndarray, label: str, color: str) -> None:
    """Draw a histogram from 0 to a little beyond the 98th percentile, with the median as a line;
    what lies farther out is in the last bin.
    """
    values = np.asarray(values)[np.isfinite(values)]
    if not len(values):
        return
    most = float(np.percentile(values, 98))
    top = max(most * 1.1, 1e-9)
    edges = np.linspace(0, top, n_bins(len(values)) + 1)
    axes.hist(
        np.clip(values, 0, top),
        bins=edges,
        histtype="stepfilled",
        color=color,
        alpha=0.65,
        label=label,
    )
    axes.axvline(np.median(values), color=color, lw=1.5)
    few_ticks(axes)


def few_ticks(axes: Any, n: int = 4) -> None:
    """Set few enough ticks to read, with whole numbers on the axis of counts."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=n))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


class Powers(LogFormatterSciNotation):
    """Labels of a logarithmic axis as plain text, such as 10³. To set the first formula of a
    process, as matplotlib's own labels are, takes a quarter of a second.
    """

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the label of a tick at x."""
        formula = super().__call__(x, pos)
        text = formula.removeprefix(r"$\mathdefault{").removesuffix("}$").replace(r"\times", "×")
        number, _, power = text.partition("^")
        return number + power.strip("{}").translate(RAISED)


def plain_ticks(figure: Figure) -> None:
    """Set few ticks where axes of a figure have matplotlib's own, and label logarithmic ones by
    `Powers`.
    """
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if type(axis.get_major_locator()) is AutoLocator:
                axis.set_major_locator(MaxNLocator(MOST_INTERVALS, steps=[1, 2, 2.5, 5, 10]))
            low, high = sorted(axis.get_view_interval())
            if axis.get_scale() == "log" and high >= WIDE_RANGE * low:
                axis.set_minor_locator(NullLocator())
            major = axis.get_major_formatter()
            minor = axis.get_minor_formatter()
            if type(major) is LogFormatterSciNotation:
                axis.set_major_formatter(Powers())
            if type(minor) is LogFormatterSciNotation:
                axis.set_minor_formatter(Powers(labelOnlyBase=minor.labelOnlyBase))


def log_ticks(*log_axes: Axis) -> None:
    """Label logarithmic axes, whose limits are final, so that no two labels lie upon each other: at
    whole decades; where there are less than two, also at their middle; or at a few even numbers.
    """
    for axis in log_axes:
        axis.set_minor_formatter(NullFormatter())
        low, high = sorted(axis.get_view_interval())
        if high >= 100 * low:
            continue
        axis.set_major_locator(MaxNLocator(3) if high < 5 * low else LogLocator(subs=(1.0, 3.0)))
        axis.set_major_formatter(ScalarFormatter())


def n_bins(n: int) -> int:
    """Return the number of bins for a histogram of n values."""
    return int(np.clip(2 * np.sqrt(n), 8, 40))


def point_size(n: int) -> float:
    """Return the size of the points of a scatter of n, in points: the fewer, the larger."""
    return float(np.clip(60 / max(n, 1) ** 0.5, 2.0, 8.0))


def opacity(n: int) -> float:
    """Return the opacity of the points of a scatter of n, so that few are seen and many show where
    they are dense.
    """
    return float(np.clip(30 / max(n, 1) ** 0.5, 0.1, 0.8))


def bars(axes: Any, names: list[str], counts: Sequence[int | None], colors: list[str]) -> None:
    """Draw horizontal bars, the first on top, each with its count; None is out of reach and has no
    bar.
    """
    n_bars = len(names)
    y = np.arange(n_bars)[::-1]
    lengths = [n or 0 for n in counts]
    axes.barh(y, lengths, color=colors, height=0.7)
    axes.set_yticks(y, names)
    axes.set_ylim(min(-0.5, n_bars - 6.5), n_bars - 0.5)
    longest = max([*lengths, 1])
    axes.set_xlim(0, longest * 1.18)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    for height, n, length in zip(y, counts, lengths, strict=True):
        text = ENDLESS if n is None else say(int(n))
        axes.text(length, height, f" {text}", va="center", fontsize=8.5)
