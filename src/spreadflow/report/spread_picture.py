"""The picture of `spread`."""

from functools import cache
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from spreadflow.physics import anomalous
from spreadflow.products.spread import Shells
from spreadflow.report import style
from spreadflow.report.spread_product import FittedCurves, SpreadProduct
from spreadflow.report.style import say

KINDS = ("f′", "f″")
"""The two parts of a curve."""

MARGIN_E = 2.0
"""How far the view reaches beyond the curves known by name, e."""

REFERENCES = {"metallic": "-.", "reduced": "--", "oxidized": ":"}
"""Curves known by name, and their lines."""

MIN_LINES = 22
"""The text has the line height of at least so many lines."""

FONT_OF_LINES = 250
"""Points of height that all lines share."""

LINE_LENGTH = 66
"""Characters in a line of the text."""

HEIGHT = 9.6
"""Height of the page, inches."""

HEIGHT_OF_X = 2.4
"""What the panels of X add to it, inches."""


class _Look(NamedTuple):
    """How a fit is drawn."""

    color: str
    label: str
    opacity: float
    """of the band of its σ"""


def kind_of_sigma(figures: dict[str, Any]) -> str:
    """Return in words where the quoted σ is from."""
    kind = figures["sigma_kind"]
    words = {
        "sandwich": f"sandwich over {figures['sigma_over']}",
        "scaled": f"Fisher's × scatter of {figures['sigma_over']}",
        "fisher": "Fisher's",
    }
    return words[kind]


def draw(stage: str, product: SpreadProduct, figures: dict, sentences: list[str]) -> Figure:
    """Return the picture. sentences: what it says in words."""
    low, high = figures["compared_ev"]
    page = style.page(
        f"{stage}: f′ and f″ of {', '.join(product.sites)}",
        f"{say(figures['n_lattices'])} lattices, {figures['d_max']:g} to {figures['d_min']:g} Å · "
        f"f′ ± {say(figures['sigma_fp'], 2)} e, f″ ± {say(figures['sigma_fdp'], 2)} e over "
        f"{low:.0f}-{high:.0f} eV ({kind_of_sigma(figures)}; bound "
        f"{say(figures['crlb_fp'], 2)}, {say(figures['crlb_fdp'], 2)}) · "
        f"{figures['n_parameters']} parameters ({figures['n_undetermined']} from restraints), "
        f"{figures['mosaicity']} mosaicity, {figures['cycles']} cycles · "
        f"{say(figures['seconds_per_lattice_per_core'], 2)} s per lattice and core",
        15.0,
        HEIGHT + HEIGHT_OF_X * product.has_unknown_x,
    )
    left, right = page.subfigures(1, 2, width_ratios=[2.1, 1])  # type: ignore[misc]
    _panels(left, product, figures)
    upper, lower = right.subfigures(2, 1, height_ratios=[1.25, 1])
    _words(upper.subplots(), figures, sentences)
    _correlation(lower, product)
    return page


def _panels(left: Any, product: SpreadProduct, figures: dict) -> None:
    """Draw curves, channels and, where it is unknown, X, from top to bottom of a figure."""
    ratios = [2.4, 1.0, 1.0] if product.has_unknown_x else [2.4, 1.0]
    top, middle, *bottom = left.subfigures(len(ratios), 1, height_ratios=ratios)
    axes = top.subplots(2, len(product.sites), squeeze=False, sharex=True)
    for site, column in enumerate(axes.T):
        for kind, ax in enumerate(column):
            _curve(ax, product, site, kind, figures)
    spectrum, residual = middle.subplots(1, 2, sharex=True)
    _spectrum(spectrum, product)
    _residual(residual, product)
    for figure in bottom:
        sizes, movement = figure.subplots(1, 2)
        _sizes_of_x(sizes, product)
        _movement(movement, product)


def _curve(axes: Any, product: SpreadProduct, site: int, kind: int, figures: dict) -> None:
    """Draw one curve with its error band, beside the true one or those that are known by name.

    kind: 0 = f′, 1 = f″.
    """
    name = product.sites[site]
    element = product.attributes["elements"][site]
    fine, curves = _references(element, product.nodes_ev[0], product.nodes_ev[-1])
    references = {known: curve.imag if kind else curve.real for known, curve in curves.items()}
    if product.true:
        true = product.true[name].at(fine)[kind]
        axes.plot(fine, true, color=style.INK, lw=1.3, label="truth")
    else:
        for label, line in REFERENCES.items():
            axes.plot(fine, references[label], line, color=style.GREY, lw=1, label=label)

    _fits(axes, product, site, kind)

    for limit in product.compared_ev:
        axes.axvline(limit, color=style.PALE, lw=1, zorder=0)
    title = f"{KINDS[kind]} of {name}, e"
    if kind == 1:
        axes.set_xlabel("eV")
        title += _edge(axes, figures["sites"][name])
    low = min(map(np.min, references.values()))
    high = max(map(np.max, references.values()))
    span_ev = product.nodes_ev[-1] - product.nodes_ev[0]
    axes.set(
        xlim=(product.nodes_ev[0] - 0.05 * span_ev, product.nodes_ev[-1] + 0.05 * span_ev),
        ylim=(low - MARGIN_E, high + MARGIN_E),
        title=title,
    )
    if kind == site == 0:
        axes.legend(fontsize=7, loc="lower left")


@cache
def _references(
    element: str, first_ev: float, last_ev: float
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return energies, eV, and f′ + i f″ of the curves known by name there: the same for all sites
    of an element.
    """
    fine = np.arange(first_ev, last_ev, 0.25)
    return fine, {name: anomalous.site(element, name, fine) for name in REFERENCES}


def _fits(axes: Any, product: SpreadProduct, site: int, kind: int) -> None:
    """Draw the quoted curve, where it started, and the one that obeys the dispersion relation."""
    related = product.fits.get("kramers_kronig")
    if related is not None and related is not product.quoted:
        look = _Look(style.ORANGE, "dispersion relation", 0.1)
        _band(axes, product.nodes_ev, related, site, kind, look)
    quoted_name = next(iter(product.fits)).replace("_", " ")
    look = _Look(style.BLUE, quoted_name, 0.22)
    _band(axes, product.nodes_ev, product.quoted, site, kind, look)
    start = product.quoted.start[site, kind]
    axes.plot(product.nodes_ev, start, color=style.GREEN, lw=0.8, ls="--", label="start")


def _band(
    axes: Any, nodes_ev: np.ndarray, fit: FittedCurves, site: int, kind: int, look: _Look
) -> None:
    """Draw a fitted curve with its σ."""
    value = fit.values[site, kind]
    low = value - fit.sigma[site, kind]
    high = value + fit.sigma[site, kind]
    axes.fill_between(nodes_ev, low, high, color=look.color, alpha=look.opacity, lw=0)
    axes.plot(nodes_ev, value, ".-", color=look.color, ms=3, lw=0.9, label=look.label)


def _edge(axes: Any, edge: dict[str, float | None]) -> str:
    """Draw E0 of a site with its σ, and return it in words; empty where there is none."""
    energy = edge["e0_ev"]
    sigma = edge["e0_sigma_ev"]
    if energy is None or sigma is None:
        return ""
    axes.axvspan(energy - sigma, energy + sigma, color=style.RED, alpha=0.2, lw=0)
    axes.axvline(energy, color=style.RED, lw=1)
    return f" (E0 = {energy:.1f} ± {sigma:.1f} eV)"


def _spectrum(axes: Any, product: SpreadProduct) -> None:
    """Draw the mean spectrum."""
    channels = product.tables.channels
    axes.fill_between(
        channels.energy_ev, channels.photons, step="mid", color=style.PURPLE, alpha=0.4, lw=0
    )
    axes.set(title="mean pulse, photons per channel", xlabel="eV", ylim=(0, None))


def _residual(axes: Any, product: SpreadProduct) -> None:
    """Draw the residual of channels whose photons say something about it."""
    channels = product.tables.channels
    known = channels[np.isfinite(channels.residual_sigma)]
    sigma = 100 * known.residual_sigma
    axes.errorbar(
        known.energy_ev,
        100 * known.residual,
        sigma,
        fmt=".",
        ms=4,
        lw=0.8,
        color=style.GREEN,
    )
    axes.axhline(0, color=style.GREY, lw=0.8)
    top = 4 * float(np.median(sigma)) if len(sigma) else 1.0
    axes.set(
        title="(data − model)/model of Bragg photons by channel, %", xlabel="eV", ylim=(-top, top)
    )


def _sizes_of_x(axes: Any, product: SpreadProduct) -> None:
    """Draw by resolution how far from the model X was assumed to be, and what the data made of
    that.
    """
    shells = product.tables.shells
    s2 = _middles(shells)
    lines = (
        (shells.model_rms, "s-", style.INK, "|X| of the model"),
        (shells.first_rms, "x--", style.GREEN, "√S at first"),
        (shells.prior_rms, "o-", style.BLUE, "√S as found"),
        (shells.a_rms, ".-", style.ORANGE, "a found, along the model"),
        (shells.b_rms, ".:", style.PURPLE, "b found, across"),
    )
    for rms, line, color, label in lines:
        axes.semilogy(s2, rms, line, ms=4, lw=1, color=color, label=label)
    axes.set(title="X in shells, r.m.s., e: assumed, and found")
    style.log_ticks(axes.yaxis)
    _label_resolution(axes, shells)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _movement(axes: Any, product: SpreadProduct) -> None:
    """Draw by resolution how far phases have moved from the start, and the correlation of |F| with
    that of the start.
    """
    shells = product.tables.shells
    s2 = _middles(shells)
    axes.plot(s2, shells.phase_moved_deg, "o-", ms=4, color=style.BLUE)
    axes.set(title="F against that of the start", ylim=(0, None))
    axes.set_ylabel("phase moved, °", color=style.BLUE)
    _label_resolution(axes, shells)
    other = axes.twinx()
    other.plot(s2, shells.correlation, "s--", ms=4, color=style.ORANGE)
    other.set_ylabel("correlation of |F|", color=style.ORANGE)
    known = shells.correlation[np.isfinite(shells.correlation)]
    lowest = known.min(initial=1.0)
    other.set_ylim(1.0 - 1.3 * max(1.0 - lowest, 0.01), 1.0)
    other.spines["right"].set_visible(True)


def _middles(shells: Shells) -> np.ndarray:
    """Return (shell,) the middle of each shell in 1/d², Å⁻²."""
    return 0.5 * (shells.d_max**-2.0 + shells.d_min**-2.0)


def _label_resolution(axes: Any, shells: Shells) -> None:
    """Label an axis of 1/d² with d."""
    d = np.append(shells.d_max[:1], shells.d_min)
    shown = d[:: max(1, len(d) // 5)]
    axes.set_xlim(d[0] ** -2.0, d[-1] ** -2.0)
    axes.set_xticks(shown**-2.0, [f"{of_edge:.2f}" for of_edge in shown])
    axes.set_xlabel("d, Å")


def _words(axes: Any, figures: dict, sentences: list[str]) -> None:
    """Write the sentences and what the controls say: what their figure is, and has to be."""
    style.without_axes(axes)
    lines = []
    if not figures["converged"]:
        sentence = f"not converged: {last_change(figures)}"
        lines = [(style.RED, line) for line in _wrapped(sentence)]
    lines += [(style.INK, line) for sentence in sentences for line in _wrapped(sentence)]
    lines += [(style.INK, line) for line in ("", "controls" if figures["controls"] else "")]
    for name, verdict in figures["verdicts"].items():
        mark, color = ("✓", style.GREEN) if verdict["passed"] else ("✗", style.RED)
        figure = f"{verdict['what']} = {say(verdict['figure'])}, should be {verdict['bar']}"
        sentence = f"{mark} {name}: {figure}"
        lines += [(color, line) for line in _wrapped(sentence)]
    n_lines = max(len(lines), MIN_LINES)
    for row, (color, text) in enumerate(lines):
        axes.text(
            0,
            1 - row / n_lines,
            text,
            color=color,
            fontsize=min(9, FONT_OF_LINES / n_lines),
            fontweight="bold" if color == style.RED else "normal",
            va="top",
            transform=axes.transAxes,
        )


def last_change(figures: dict) -> str:
    """Return in words how far the last cycle moved the curves."""
    change = figures["changes"][-1]
    return f"the last of {figures['cycles']} cycles moved f′, f″ by {change:.2g} σ"


def _wrapped(sentence: str) -> list[str]:
    """Return the lines of a sentence."""
    return wrap(sentence, LINE_LENGTH, subsequent_indent="    ")


def _correlation(figure: Any, product: SpreadProduct) -> None:
    """Draw the correlations of all values of the quoted curves."""
    quoted = product.tables.values[product.tables.values.fit == 0]
    is_sandwich = product.attributes["sigma_kinds"][0] == "sandwich"
    covariance = quoted.sandwich if is_sandwich else quoted.fisher
    sigma = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(sigma, sigma)

    axes = figure.subplots()
    image = axes.imshow(correlation, vmin=-1, vmax=1, cmap=style.RESIDUAL)
    n_nodes = len(product.nodes_ev)
    names = [f"{kind} {site}" for site in product.sites for kind in KINDS]
    middles = n_nodes * (np.arange(len(names)) + 0.5)
    axes.set_xticks(middles, names, fontsize=8)
    axes.set_yticks(middles, names, fontsize=8)
    axes.set_title("correlation of the values at the nodes")
    for line in n_nodes * np.arange(1, len(names)) - 0.5:
        axes.axvline(line, color=style.INK, lw=0.5)
        axes.axhline(line, color=style.INK, lw=0.5)
    figure.colorbar(image, ax=axes, shrink=0.7)
