"""Stills and panels, drawn where they are in the laboratory."""

from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.transforms import Affine2D

from spreadflow.models import Detector, Shot
from spreadflow.physics import geometry
from spreadflow.report import style
from spreadflow.units import wavelength

DIFFUSE = 0.22
"""Darkness of the strongest background of a still; the strongest spot has 1."""

AROUND = 9
"""Blocks along an edge of the square whose median is the background of the one in its middle: of
every other block, for a third of the time that all of them take.
"""

RINGS_ANG = (4.0, 3.0, 2.5, 2.1, 1.8)
"""Resolution rings on a still, Å."""


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
            cmap=style.PHOTONS,
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
        axes.plot(x, y, color=style.PALE, lw=0.6)
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
        axes.plot(x, y, color=style.BLUE, lw=0.7, alpha=0.6)
        on_panel = np.isfinite(y)
        top = np.where(on_panel, y, -np.inf).argmax()
        highest_label = np.dot((0.02, 0.98), axes.get_ylim())
        if on_panel.any() and y[top] < highest_label:
            axes.text(
                x[top],
                y[top],
                f"{d:g} Å",
                fontsize=7,
                color=style.BLUE,
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
