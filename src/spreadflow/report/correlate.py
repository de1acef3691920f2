"""Report of `correlate`: the curves of each run, and what became of its shots."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spreadflow.analysis.correlation import curves as correlation
from spreadflow.analysis.correlation.curves import Decay
from spreadflow.io import g2
from spreadflow.report import style
from spreadflow.report.style import say

FIGURES = (
    "n_events",
    "n_dropped",
    "n_duplicates",
    "n_late",
    "n_pixels",
    "n_delays",
    "contrast",
    "rate_hz",
    "rate_sigma_hz",
)
"""Figures of a run, as they stand beside its product."""

MOST_CURVES = 8
"""Curves that are drawn of a run."""

MOST_RUNS = 4
"""Runs that are drawn."""


class Curve(NamedTuple):
    """g2 of a colour."""

    colour: int
    delays_s: np.ndarray
    g2: np.ndarray
    sigma: np.ndarray


def make(stage: str, products: list[Path], images: list[Path]) -> tuple[dict[str, Any], Figure]:
    """Return figures and picture of the products of the runs."""
    runs = {path.parent.name: _figures(path) for path in products}
    curves = {path.parent.name: _curves(path) for path in products}
    sums = ("n_events", "n_dropped", "n_duplicates", "n_late")
    figures = {key: sum(run[key] for run in runs.values()) for key in sums}
    return figures | {"runs": runs}, _picture(figures, curves)


def headline(figures: dict[str, Any]) -> list[str]:
    """Return what to know, a line each."""
    lines = [
        f"{say(figures['n_events'])} shots correlated, {say(figures['n_dropped'])} dropped, "
        f"{say(figures['n_duplicates'])} twice, {say(figures['n_late'])} too late"
    ]
    for name, run in figures["runs"].items():
        rates = [
            f"{colour}: {say(rate)} ± {say(run['rate_sigma_hz'][colour], 2)} Hz"
            for colour, rate in list(run["rate_hz"].items())[:MOST_CURVES]
        ]
        lines.append(
            f"{name}: {say(run['n_pixels'])} pixels; Γ of colour {', '.join(rates) or '–'}"
        )
    return lines


def _figures(path: Path) -> dict[str, Any]:
    """Return the figures of a run."""
    figures = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return {key: figures[key] for key in FIGURES}


def _curves(path: Path) -> list[Curve]:
    """Return the curves of the last update of a run; none where the user's class published."""
    with h5py.File(path, "r", locking=False) as file:
        last = g2.last_update(file)
        if last is None:
            return []
        rate_hz = float(file["system"].attrs["rate_hz"])
        has_partners = last["delay_counts"][()] > 0
        delays_s = last["delays"][()][has_partners] / rate_hz
        beginning = "delay_curve_color_"
        colours = sorted(int(n.removeprefix(beginning)) for n in last if n.startswith(beginning))
        return [
            Curve(
                colour,
                delays_s,
                last[f"{beginning}{colour}"][()][has_partners],
                last[f"delay_curve_sigma_color_{colour}"][()][has_partners],
            )
            for colour in colours
        ]


def draw(
    curves: Sequence[correlation.Curve],
    decays: Sequence[Decay | None],
    rate_hz: float,
    words: str,
    out: Path,
) -> None:
    """Write the picture of curves and of the exponentials that fit them. rate_hz: units of the shot
    id in a second; words: what to say about all.
    """
    with matplotlib.rc_context(style.STYLE):
        page = style.page(out.stem, words)
        axes = page.subplots()
        for curve, decay in list(zip(curves, decays, strict=True))[:MOST_CURVES]:
            delays_s = curve.delays / rate_hz
            _draw_curve(axes, Curve(curve.colour, delays_s, curve.g2, curve.sigma))
            if decay is not None:
                color = axes.lines[-1].get_color()
                axes.plot(delays_s, decay.at(curve.delays), "-", lw=0.8, color=color, alpha=0.6)
        _finish(axes)
        style.save(page, out)


def _draw_curve(axes: Axes, curve: Curve) -> None:
    """Draw g2 with its errors against the delay."""
    label = f"colour {curve.colour}"
    axes.errorbar(curve.delays_s, curve.g2, curve.sigma, fmt=".-", lw=1, label=label)


def _finish(axes: Axes) -> None:
    """Label axes of curves."""
    axes.set_xscale("log")
    axes.set(xlabel="delay, s", ylabel="g2")
    axes.legend()


def _picture(figures: dict[str, Any], curves: dict[str, list[Curve]]) -> Figure:
    """Draw g2 against the delay for each run."""
    subtitle = f"{say(figures['n_events'])} shots · {say(figures['n_dropped'])} dropped"
    page = style.page("correlate: pixels with themselves at later times", subtitle)
    drawn = list(curves.items())[:MOST_RUNS]
    for axes, (name, of_run) in zip(
        page.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True
    ):
        axes.set_title(name)
        if not of_run:
            style.empty(axes, "published by\nthe user's class")
            continue
        for curve in of_run[:MOST_CURVES]:
            _draw_curve(axes, curve)
        _finish(axes)
    return page
