"""What `mask` prints and draws: how many pixels of which kind can't be used, and where they are."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb

from spreadflow.analysis.recording.unusable import NAMES, Unusable
from spreadflow.models import Detector, Shot, Spectrum
from spreadflow.physics import geometry
from spreadflow.report import laboratory, style
from spreadflow.report.style import say

COLORS = {
    "masked": style.GREY,
    "gap": style.INK,
    "dead": style.BLUE,
    "stuck": style.GREEN,
    "hot": style.RED,
    "noisy": style.ORANGE,
    "shadow": style.PURPLE,
    "beside": "#6fb1e0",
    "edge": "#b8a03a",
}
"""Colours of the kinds in the picture."""

MEANINGS = {
    "masked": "masked before",
    "gap": "a number that stands for no measurement",
    "dead": "far darker than those around",
    "stuck": "never changes",
    "hot": "far brighter than those around, in most shots",
    "noisy": "varies more than those around",
    "shadow": "in a region far darker than its ring",
    "beside": "beside a missing pixel, whose light it shares",
    "edge": "at an edge of its panel",
}
"""What the kinds are, in words."""

MOST_POINTS = 3000
"""Pixels of a kind that are drawn as points, which single pixels need to be seen."""

OPACITY = 0.75
"""Of regions of a kind."""


def text(figures: dict[str, Any]) -> list[str]:
    """Return what was found, one fact a line, and how to use it."""
    lines = [
        f"{figures['run']}: {say(figures['n_shots_looked_at'])} of {say(figures['n_shots'])} shots "
        f"looked at, {say(figures['n_pixels'])} pixels on {say(figures['n_panels'])} panels"
    ]
    for name, n in figures["kinds"].items():
        share = n / figures["n_pixels"]
        lines.append(f"  {name:8}{say(n):>12}  {share:9.4%}  {MEANINGS[name]}")
    for sentinel in figures["sentinels"]:
        lines.append(f"  {say(sentinel['photons'])} photons stand for no measurement")
    lines += [f"  undecided: {sentence}" for sentence in figures["undecided"]]
    lines += [f"  {problem}" for problem in figures["problems"]]
    own = Path(figures["mask"]).absolute()
    lines.append(f'To use it, set "mask": "{own}" in {figures["manifest"]}, or `index.mask`.')
    return lines


def draw(
    figures: dict[str, Any], unusable: Unusable, mean: np.ndarray, detector: Detector, out: Path
) -> None:
    """Write the picture: the panels with each kind in a colour, and how many there are."""
    with matplotlib.rc_context(style.STYLE):
        subtitle = (
            f"{say(figures['n_shots_looked_at'])} of {say(figures['n_shots'])} shots looked at; "
            f"{figures['share_masked']:.3%} of the pixels can't be used"
        )
        figure = style.page(f"mask of {figures['run']}", subtitle)
        style.warn(figure, figures["undecided"])
        of_panels, of_kinds = figure.subplots(1, 2, width_ratios=[1.7, 1.0])
        good = unusable.kinds == 0
        shot = Shot(0, mean.astype(np.float32), good, Spectrum(np.ones(1), np.ones(1)), 0.0)
        laboratory.still(of_panels, shot, detector)
        _draw_kinds(of_panels, unusable, detector)
        of_panels.set_title("the mean of some shots, and the pixels that can't be used")
        names = list(figures["kinds"])
        counts = list(figures["kinds"].values())
        style.bars(of_kinds, names, counts, [COLORS[name] for name in names])
        of_kinds.set_title("pixels of each kind")
        style.save(figure, out)


def _draw_kinds(axes: Any, unusable: Unusable, detector: Detector) -> None:
    """Draw the pixels of all kinds over a still: regions as they are, few pixels as points too."""
    laboratory.overlay(axes, _colored(unusable.kinds), detector)
    for code, name in enumerate(NAMES):
        panel, slow, fast = np.nonzero(unusable.kinds == code)
        if not code or not 0 < len(panel) <= MOST_POINTS:
            continue
        x, y, _ = geometry.position(detector, panel, fast + 0.5, slow + 0.5).T
        axes.plot(x, y, ".", color=COLORS[name], ms=style.point_size(len(panel)), mew=0)


def _colored(kinds: np.ndarray) -> np.ndarray:
    """Return the colours of pixels (panel, slow, fast, red green blue opacity), uint8; good ones
    are transparent.
    """
    table = np.zeros((len(NAMES), 4))
    for code, name in enumerate(NAMES):
        if code:
            table[code] = [*to_rgb(COLORS[name]), OPACITY]
    return np.rint(255 * table).astype(np.uint8)[kinds]
