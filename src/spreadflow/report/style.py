"""How all pictures look, and the still they share."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from cycler import cycler
from matplotlib import colormaps
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, PowerNorm
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
from matplotlib.transforms import Affine2D

from spreadflow.io.store import replacing
from spreadflow.models import Detector, Shot
from spreadflow.physics import geometry
from spreadflow.report.layout import Layout
from spreadflow.units import wavelength

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

DIFFUSE = 0.22
"""Darkness of the strongest background of a still; the strongest spot has 1."""

AROUND = 9
"""Blocks along an edge of the square whose median is the background of the one in its middle: of
every other block, for a third of the time that all of them take.
"""

RINGS_ANG = (4.0, 3.0, 2.5, 2.1, 1.8)
"""Resolution rings on a still, Å."""

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


def still(axes: Any, shot: Shot, detector: Detector, blocks: int = 480) -> None:
    """Draw what stands out of one shot, dark, over its diffuse background, pale.

    Panels lie where they are in the lab (mm, x to the right), with resolution rings. blocks: along
    a panel's long edge.
    """
    photons = np.where(shot.mask, shot.image, np.nan)
    panels = [_excess(image, blocks) for image in photons]
    brightest = max(1.0, *(float(np.percentile(background, 99.5)) for _, background in panels))
    darkness = PowerNorm(0.5, 3.5, 40.0, clip=True)
    n_slow, n_fast = detector.shape
    for number, (excess, background) in enumerate(panels):
        diffuse = DIFFUSE * np.minimum(background / brightest, 1.0)
        axes.imshow(
            np.maximum(darkness(excess), diffuse),
            vmin=0,
            vmax=1,
            cmap=PHOTONS,
            extent=(0, n_fast, n_slow, 0),
            transform=_to_lab(detector, number) + axes.transData,
            interpolation="nearest",
        )
    _view(axes, detector)
    _rings(axes, shot, detector)


def overlay(axes: Any, colors: np.ndarray, detector: Detector) -> None:
    """Draw colours (panel, slow, fast, red green blue opacity), uint8, over panels of `still`."""
    n_slow, n_fast = detector.shape
    for number, of_panel in enumerate(colors):
        if of_panel[..., 3].any():
            axes.imshow(
                of_panel,
                extent=(0, n_fast, n_slow, 0),
                transform=_to_lab(detector, number) + axes.transData,
                interpolation="nearest",
            )
    _view(axes, detector)


def panels(axes: Any, detector: Detector) -> None:
    """Draw the outlines of the panels where they are in the lab, mm."""
    for corners in _corners(detector).reshape(-1, 4, 3):
        x, y, _ = corners[[0, 1, 3, 2, 0]].T
        axes.plot(x, y, color=PALE, lw=0.6)
    _view(axes, detector)


def extent_mm(detector: Detector) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return from where to where a detector is in the lab, along x and along y, mm."""
    corners = _corners(detector)
    left, bottom, _ = corners.min(axis=0)
    right, top, _ = corners.max(axis=0)
    return (left, right), (bottom, top)


def _view(axes: Any, detector: Detector) -> None:
    """Show the whole detector, in mm."""
    x_mm, y_mm = extent_mm(detector)
    axes.set_xlim(*x_mm)
    axes.set_ylim(*y_mm)
    axes.set_aspect("equal")
    axes.set_xlabel("x, mm")
    axes.set_ylabel("y, mm")


def _to_lab(detector: Detector, panel: int) -> Affine2D:
    """Return the map from (fast, slow) of a panel, px, to x and y in the lab, mm."""
    fast = detector.fast[panel][:2] * detector.pixel_mm
    slow = detector.slow[panel][:2] * detector.pixel_mm
    origin = detector.origin_mm[panel]
    x = [fast[0], slow[0], origin[0]]
    y = [fast[1], slow[1], origin[1]]
    return Affine2D([x, y, [0, 0, 1]])


def _excess(image: np.ndarray, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what stands out of an image, and its background, both (block, block).

    The excess is the photons of 3 × 3 pixels above the background around them, in their σ: the best
    of each block of k × k pixels, so that spots survive the size of the picture. The background is
    in photons per pixel.

    image: (slow, fast), NaN = masked; a block without a pixel is NaN.
    """
    n_slow, n_fast = image.shape
    k = max(1, -(-max(image.shape) // blocks))
    n_rows = -(-n_slow // k)
    n_columns = -(-n_fast // k)
    padded = np.full((n_rows * k, n_columns * k), np.nan, dtype=np.float32)
    padded[:n_slow, :n_fast] = image
    valid = np.isfinite(padded)

    def tiled(pixels: np.ndarray) -> np.ndarray:
        return pixels.reshape(n_rows, k, n_columns, k)

    n = tiled(valid).sum(axis=(1, 3))
    photons = np.where(valid, padded, 0)
    total = tiled(photons).sum(axis=(1, 3))
    mean = total / np.maximum(n, 1)
    mean[n == 0] = np.median(mean)
    background = np.maximum(_median_around(mean), 0)

    level = background.repeat(k, axis=0).repeat(k, axis=1)
    sigma = np.sqrt(level + 1)
    deviation = np.where(valid, (padded - level) / sigma, 0)
    excess = tiled(_sum_around(deviation) / 3).max(axis=(1, 3))
    return np.where(n > 0, excess, np.nan), background


def _median_around(blocks: np.ndarray) -> np.ndarray:
    """Return the median of the blocks around each one (row, column), mirrored at the edges."""
    mirrored = np.pad(blocks, AROUND // 2, mode="symmetric")
    around = np.lib.stride_tricks.sliding_window_view(mirrored, (AROUND, AROUND))[..., ::2, ::2]
    return np.median(around.reshape(*blocks.shape, -1), axis=-1, overwrite_input=True)


def _sum_around(pixels: np.ndarray) -> np.ndarray:
    """Return the sum of the 3 × 3 pixels around each one (slow, fast), mirrored at the edges."""
    mirrored = np.pad(pixels, 1, mode="symmetric")
    of_three = mirrored[:-2] + mirrored[1:-1] + mirrored[2:]
    return of_three[:, :-2] + of_three[:, 1:-1] + of_three[:, 2:]


def _corners(detector: Detector) -> np.ndarray:
    """Return (panel · 4, 3) lab positions of the panels' corners, mm."""
    n_slow, n_fast = detector.shape
    panel = np.repeat(np.arange(detector.n_panels), 4)
    fast = np.tile([0.0, n_fast, 0.0, n_fast], detector.n_panels)
    slow = np.tile([0.0, 0.0, n_slow, n_slow], detector.n_panels)
    return geometry.position(detector, panel, fast, slow)


def _rings(axes: Any, shot: Shot, detector: Detector) -> None:
    """Draw circles of constant resolution, at the shot's mean energy, where they meet a panel."""
    for d in RINGS_ANG:
        sine = wavelength(shot.spectrum.mean_energy_ev) / (2 * d)
        if sine >= 1:
            continue
        x, y = _ring(detector, 2 * np.arcsin(sine))
        axes.plot(x, y, color=BLUE, lw=0.7, alpha=0.6)
        on_panel = np.isfinite(y)
        top = np.where(on_panel, y, -np.inf).argmax()
        highest_label = np.dot((0.02, 0.98), axes.get_ylim())
        if on_panel.any() and y[top] < highest_label:
            axes.text(
                x[top],
                y[top],
                f"{d:g} Å",
                fontsize=7,
                color=BLUE,
                ha="center",
                va="bottom",
                clip_on=True,
            )


def _ring(detector: Detector, two_theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y, mm, of points of a scattering cone; NaN where they miss the panels."""
    azimuth = np.linspace(0, 2 * np.pi, 721)
    x = np.sin(two_theta) * np.cos(azimuth)
    y = np.sin(two_theta) * np.sin(azimuth)
    z = np.full(len(azimuth), -np.cos(two_theta))
    panel, fast, slow = geometry.intersect(detector, np.stack([x, y, z], axis=1))
    position = geometry.position(detector, np.maximum(panel, 0), fast, slow)
    position[panel < 0] = np.nan
    return position[:, 0], position[:, 1]
