"""What `correlate mask` prints and draws: mean, masks and colours, and how to use them."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps

from spreadflow.report import style
from spreadflow.report.style import say

LONGEST_EDGE = 700
"""Pixels along an edge of an array as it is drawn."""

PANELS = {
    "mean": "the mean of the shots",
    "mask": "the mask, and the pixels for tests in red",
    "colours": "colours: a curve each",
    "fine_colours": "fine colours: a mean intensity each",
}
"""What is drawn, and its title."""


def text(figures: dict[str, Any], base: Path, is_named_so: dict[str, Path]) -> list[str]:
    """Return what was written, one fact a line, and the keys that use it. is_named_so: key of
    `correlate` → file.
    """
    lines = [
        f"mean of {say(figures['n_shots'])} shots; {say(figures['n_used'])} of "
        f"{say(figures['n_pixels'])} pixels have a colour, by {figures['by']}"
    ]
    for colour, one in figures["colours"].items():
        q = f", q = {one['q_per_ang']:.4g} Å⁻¹" if "q_per_ang" in one else ""
        lines.append(f"  colour {colour}: {say(one['n'])} pixels, mean {say(one['mean'])}{q}")
    if "n_shared" in figures:
        lines.append(
            f"image {figures['image_shape']}: {say(figures['n_shared'])} of its pixels have "
            f"several of the detector's, {say(figures['n_gaps'])} within the detector none "
            f"({base.name}.json lists them)"
        )
    lines.append("To use them:")
    lines.append("correlate:")
    lines += [f"  {key}: {path.absolute()}" for key, path in is_named_so.items()]
    return lines


def draw(arrays: dict[str, np.ndarray], title: str, out: Path) -> None:
    """Write the picture of mean, mask and colours."""
    with matplotlib.rc_context(style.STYLE):
        n_used = int(np.count_nonzero(arrays["mask"]))
        figure = style.page(f"masks and colours of {title}", f"{say(n_used)} pixels are correlated")
        for axes, (name, words) in zip(figure.subplots(2, 2).ravel(), PANELS.items(), strict=True):
            _draw(axes, arrays, name)
            axes.set_title(words)
        style.save(figure, out)


def draw_array(array: np.ndarray, title: str, out: Path) -> None:
    """Write the picture of one image."""
    with matplotlib.rc_context(style.STYLE):
        figure = style.page(title, f"shape {array.shape}")
        axes = figure.subplots()
        shown = axes.imshow(_shown(array), cmap=style.PHOTONS, interpolation="nearest")
        figure.colorbar(shown, ax=axes)
        style.save(figure, out)


def _draw(axes: Any, arrays: dict[str, np.ndarray], name: str) -> None:
    """Draw one of the arrays."""
    image = _shown(arrays[name])
    if name == "mean":
        top = float(np.percentile(image, 99.5))
        axes.imshow(image, cmap=style.PHOTONS, vmin=0, vmax=max(top, 1e-9), interpolation="nearest")
    elif name == "mask":
        axes.imshow(image, cmap=style.PHOTONS, vmin=0, vmax=2, interpolation="nearest")
        row, column = np.nonzero(_flat(arrays["test_mask"]))
        step = _step(arrays[name])
        axes.plot(column / step, row / step, ".", color=style.RED, ms=4, mew=0)
    else:
        colours = np.ma.masked_equal(image, 0)
        axes.imshow(colours, cmap=colormaps["nipy_spectral"], interpolation="nearest")
    style.without_axes(axes)


def _flat(array: np.ndarray) -> np.ndarray:
    """Return an array as an image: its panels one above the other."""
    return array.reshape(-1, array.shape[-1])


def _step(array: np.ndarray) -> int:
    """Return which pixels of an array are drawn: each so many-th."""
    return -(-max(_flat(array).shape) // LONGEST_EDGE)


def _shown(array: np.ndarray) -> np.ndarray:
    """Return an array as it is drawn."""
    step = _step(array)
    return _flat(array)[::step, ::step]
