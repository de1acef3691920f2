"""How all pictures look, and the still they share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from cycler import cycler
from matplotlib import colormaps
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Affine2D
from scipy.ndimage import median_filter, uniform_filter

from spreadflow.models import Detector, Shot
from spreadflow.physics import geometry
from spreadflow.units import wavelength

BLUE = "#2b6ca3"
ORANGE = "#dd8a1d"
GREEN = "#2f8f6b"
RED = "#c0483f"
PURPLE = "#7a5aa6"
GREY = "#8a9199"
PHOTONS = colormaps["bone_r"]
RESIDUAL = colormaps["RdBu_r"]
DIFFUSE = 0.22
"""Darkness of the strongest background of a still, where the strongest spot has 1."""

INK = "#1d2733"
PALE = "#dfe3e8"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
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
RINGS_ANG = (4.0, 3.0, 2.5, 2.1, 1.8)


def page(title: str, subtitle: str, width: float = 13.0, height: float = 7.6) -> Figure:
    """Return an empty page with its headline."""
    layout = ConstrainedLayoutEngine(rect=(0.01, 0.01, 0.98, 0.89), w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(width, height), layout=layout)
    figure.text(0.015, 0.955, title, fontsize=15, fontweight="bold", va="center")
    figure.text(0.015, 0.915, subtitle, fontsize=9.5, color=GREY, va="center")
    return figure


ENDLESS = "endless"
"""In place of a number that is out of reach."""


def say(value: Any, digits: int = 3) -> str:
    """Return a number for people: `digits` significant ones, thousands apart; an en dash for None
    and NaN.
    """
    if value is None or value != value:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int | np.integer):
        return f"{value:,}".replace(",", " ")
    if not 10**digits <= abs(value) < 1e7:
        return f"{value:.{digits}g}"
    return f"{value:,.0f}".replace(",", " ")


def about(n: int | None) -> str:
    """Return a large number to two digits; what None stands for is out of reach."""
    return ENDLESS if n is None else say(int(float(f"{n:.2g}")))


def measured(value: float | None, sigma: float | None, true: float | None) -> str:
    """Return an energy with its σ, and the true one where it is known; None is told as missing."""
    found = "none found" if value is None else f"{value:.2f} ± {sigma:.2f} eV"
    return found if true is None else f"{found} (truth {true:.2f})"


def empty(axes: Any, text: str) -> None:
    """Say in place of a plot why there is none."""
    axes.text(0.5, 0.5, text, ha="center", va="center", color=GREY, transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def histogram(axes: Any, values: np.ndarray, label: str, color: str) -> None:
    """Draw histogram from 0 to the 98th percentile, with the median as a line; what lies beyond is
    in the last bin.
    """
    values = np.asarray(values)[np.isfinite(values)]
    if not len(values):
        return
    top = max(float(np.percentile(values, 98)) * 1.1, 1e-9)
    edges = np.linspace(0, top, n_bins(len(values)) + 1)
    axes.hist(np.clip(values, 0, top), bins=edges, color=color, alpha=0.65, label=label)
    axes.axvline(np.median(values), color=color, lw=1.5)
    few_ticks(axes)


def few_ticks(axes: Any, n: int = 4) -> None:
    """Draw few enough ticks to read; whole numbers on the axis of counts."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=n))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def n_bins(n: int) -> int:
    """Return bins of a histogram of n numbers."""
    return int(np.clip(2 * np.sqrt(n), 8, 40))


def bars(axes: Any, names: list[str], counts: Sequence[int | None], colors: list[str]) -> None:
    """Draw horizontal bars, the first on top, each with its count; what None stands for is out of
    reach, and has no bar.
    """
    y = np.arange(len(names))[::-1]
    lengths = [n or 0 for n in counts]
    axes.barh(y, lengths, color=colors, height=0.7)
    axes.set_yticks(y, names)
    axes.set_ylim(min(-0.5, len(names) - 6.5), len(names) - 0.5)
    axes.set_xlim(0, max([*lengths, 1]) * 1.18)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    for at, n, length in zip(y, counts, lengths, strict=True):
        axes.text(
            length, at, f" {ENDLESS if n is None else say(int(n))}", va="center", fontsize=8.5
        )


def still(axes: Any, shot: Shot, detector: Detector, blocks: int = 480) -> None:
    """Draw what stands out of one shot, dark, over its diffuse background, pale.

    Panels lie where they are in the lab (mm, x to the right), with resolution rings. blocks: along
    a panel's long edge.
    """
    parts = [
        _excess(np.where(shot.mask[p], shot.image[p], np.nan), blocks)
        for p in range(detector.n_panels)
    ]
    brightest = max(1.0, *(float(np.percentile(background, 99.5)) for _, background in parts))
    spots = PowerNorm(0.5, 3.5, 40.0, clip=True)
    for p, (excess, background) in enumerate(parts):
        x, y = detector.fast[p][:2] * detector.pixel_mm, detector.slow[p][:2] * detector.pixel_mm
        place = Affine2D(
            [
                [x[0], y[0], detector.origin_mm[p][0]],
                [x[1], y[1], detector.origin_mm[p][1]],
                [0, 0, 1],
            ]
        )
        n_slow, n_fast = detector.shape
        axes.imshow(
            np.maximum(spots(excess), DIFFUSE * np.minimum(background / brightest, 1.0)),
            vmin=0,
            vmax=1,
            cmap=PHOTONS,
            extent=(0, n_fast, n_slow, 0),
            transform=place + axes.transData,
            interpolation="nearest",
        )
    corners = _corners(detector)
    axes.set_xlim(corners[:, 0].min(), corners[:, 0].max())
    axes.set_ylim(corners[:, 1].min(), corners[:, 1].max())
    axes.set_aspect("equal")
    axes.set_xlabel("x, mm")
    axes.set_ylabel("y, mm")
    _rings(axes, shot, detector)


def _excess(image: np.ndarray, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the best of k × k pixels, so that spots survive the picture's size: photons in 3 × 3
    pixels above the background around them, in their σ; and that background, photons per pixel.
    Both (block, block).

    image: (slow, fast), NaN = masked; a block without a pixel is NaN.
    """
    k = max(1, -(-max(image.shape) // blocks))
    rows, columns = (-(-n // k) * k for n in image.shape)
    padded = np.full((rows, columns), np.nan, dtype=np.float32)
    padded[: image.shape[0], : image.shape[1]] = image
    valid = np.isfinite(padded)

    def tiled(array):
        return array.reshape(rows // k, k, columns // k, k)

    n, total = (tiled(array).sum(axis=(1, 3)) for array in (valid, np.where(valid, padded, 0)))
    mean = total / np.maximum(n, 1)
    mean[n == 0] = np.median(mean)
    background = np.maximum(median_filter(mean, size=9), 0)
    level = background.repeat(k, axis=0).repeat(k, axis=1)
    deviation = np.where(valid, (padded - level) / np.sqrt(level + 1), 0)
    return np.where(
        n > 0, tiled(3 * uniform_filter(deviation, 3)).max(axis=(1, 3)), np.nan
    ), background


def _corners(detector: Detector) -> np.ndarray:
    """Return (panel · 4, 3) lab positions of the panels' corners, mm."""
    n_slow, n_fast = detector.shape
    panel = np.repeat(np.arange(detector.n_panels), 4)
    fast = np.tile([0.0, n_fast, 0.0, n_fast], detector.n_panels)
    slow = np.tile([0.0, 0.0, n_slow, n_slow], detector.n_panels)
    return geometry.position(detector, panel, fast, slow)


def _rings(axes: Any, shot: Shot, detector: Detector) -> None:
    """Draw circles of constant resolution at the shot's mean energy, where they meet a panel."""
    azimuth = np.linspace(0, 2 * np.pi, 721)
    for d in RINGS_ANG:
        sine = wavelength(shot.spectrum.mean_energy_ev) / (2 * d)
        if sine >= 1:
            continue
        two_theta = 2 * np.arcsin(sine)
        ring = np.sin(two_theta)
        s1 = np.stack(
            [ring * np.cos(azimuth), ring * np.sin(azimuth), np.full(721, -np.cos(two_theta))],
            axis=1,
        )
        panel, fast, slow = geometry.intersect(detector, s1)
        r = geometry.position(detector, np.maximum(panel, 0), fast, slow)
        r[panel < 0] = np.nan
        axes.plot(r[:, 0], r[:, 1], color=BLUE, lw=0.7, alpha=0.6)
        seen = np.isfinite(r[:, 1])
        top = np.where(seen, r[:, 1], -np.inf).argmax()
        if seen.any() and r[top, 1] < np.dot((0.02, 0.98), axes.get_ylim()):
            axes.text(
                r[top, 0],
                r[top, 1],
                f"{d:g} Å",
                fontsize=7,
                color=BLUE,
                ha="center",
                va="bottom",
                clip_on=True,
            )
