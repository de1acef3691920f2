"""Figures and picture of `predict`: which reflections are worth their pixels, and whether these are
as bright as all are.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from spreadflow.errors import PredictedOutcome
from spreadflow.io import store
from spreadflow.models import Choice
from spreadflow.products import Predict
from spreadflow.products.predict import Lattices
from spreadflow.report import predict_sums, style
from spreadflow.report.checks import Check, Summaries, one_outcome_each, with_images
from spreadflow.report.figures import median, outcome_counts
from spreadflow.report.predict_sums import SIGNAL, STRENGTHS, Sums
from spreadflow.report.style import say

COLORS = {
    Choice.STRONG: style.BLUE,
    Choice.WEAK: style.GREEN,
    Choice.LEFT_OUT: style.PALE,
}
"""Colours of what becomes of the reflections in the range, in the order of `KINDS`."""

IN_WORDS = {
    Choice.STRONG: "expected to stand out",
    Choice.WEAK: "weak, chosen by lot",
    Choice.LEFT_OUT: "weak, left out",
}
"""The same in words."""

OF_LATTICES = (
    Predict.lattices.run,
    Predict.lattices.shot_id,
    Predict.lattices.k,
    Predict.lattices.outcome,
    Predict.lattices.scale,
    Predict.lattices.n_spots,
    Predict.lattices.seconds,
)
"""Columns of all lattices."""


class Bright(NamedTuple):
    """ΣI over the sum of what is expected, and its standard deviation; NaN where there are none."""

    value: float
    sigma: float


def make(stage: str, products: list[Path], _manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all runs, and the picture."""
    path = products[0]
    attributes = store.attributes(path, Predict)
    lattices = store.read(path, Predict, OF_LATTICES).lattices
    drawn = predict_sums.drawn_tables(path, lattices)
    sums = predict_sums.summed(path, predict_sums.shell_edges(drawn.reflections))
    figures = {
        **_figures(lattices, sums, attributes),
        **_spot_figures(lattices, sums, drawn, attributes),
        "shells": [_shell(sums, number) for number in np.flatnonzero(sums.n).tolist()],
    }
    return figures, _picture(stage, lattices, sums, drawn, figures)


def headline(figures: dict[str, Any]) -> list[str]:
    """Return what to know of the figures, one fact a line."""
    chosen = style.percent(figures["signal_chosen"])
    return [
        f"{say(figures['n_lattices'])} lattices: {style.outcomes(figures)}",
        f"{say(figures['n_chosen'])} of {say(figures['n_in_range'])} reflections from "
        f"{figures['d_max']:g} to {figures['d_min']:g} Å are worth their pixels, "
        f"{say(figures['n_weak'])} of these weak ones by lot",
        f"{chosen} of those with I > {SIGNAL:g} σ are among them, though nothing was chosen by its "
        "own intensity",
        f"{say(figures['n_matched'])} observed spots ({style.percent(figures['matched'])} of those "
        f"indexed) lie where reflections are predicted, {say(figures['distance_mm_median'])} mm "
        f"({say(figures['distance_px_median'])} px) off in the median",
    ]


def checks(summaries: Summaries) -> list[Check]:
    """Return the counts that must agree."""
    if "predict" not in summaries:
        return []
    figures = summaries["predict"]
    equalities = [one_outcome_each("lattice of predict", figures, "n_lattices")]
    if "cells" in summaries:
        n_lattices = with_images(summaries, "n_in")
        statement = "each lattice of reindex reaches predict"
        equalities.append(Check(statement, n_lattices, figures["n_lattices"]))
    if "stage1" in summaries:
        n_refined = summaries["stage1"]["n_refined"]
        ends = figures["outcomes"]
        statement = "each lattice that stage 1 refined is predicted"
        n_ends = ends["predicted"] + ends["no_scale"] + ends["smeared"]
        equalities.append(Check(statement, n_refined, n_ends))
    return equalities


def _figures(lattices: Lattices, sums: Sums, attributes: dict) -> dict[str, Any]:
    """Return figures over all runs, with a block for each run."""
    config = attributes["config"]
    is_predicted = lattices.outcome == PredictedOutcome.PREDICTED
    n_signal = int(sums.n_signal.sum())
    return {
        "n_lattices": len(lattices),
        "outcomes": outcome_counts(lattices.outcome, PredictedOutcome),
        "d_min": config["d_min"],
        "d_max": config["d_max"],
        "n_reflections": int(sums.of_choice.sum()),
        "n_in_range": int(sums.n.sum()),
        "n_chosen": int(sums.n_chosen.sum()),
        **{f"n_{choice.name.lower()}": int(sums.of_choice[choice]) for choice in Choice},
        "chosen_per_lattice_median": median(sums.n_chosen[is_predicted]),
        "n_signal": n_signal,
        "signal_chosen": float(sums.n_signal_chosen.sum() / n_signal) if n_signal else None,
        "scale_median": median(lattices.scale[is_predicted]),
        "seconds_per_lattice_per_core": median(lattices.seconds[is_predicted]),
        "runs": {
            name: {
                "n_lattices": int((lattices.run == number).sum()),
                "n_predicted": int((is_predicted & (lattices.run == number)).sum()),
                "n_chosen": int(sums.n_chosen[lattices.run == number].sum()),
            }
            for number, name in enumerate(attributes["runs"])
        },
    }


def _offsets(drawn: Predict) -> tuple[np.ndarray, np.ndarray]:
    """Return which reflections of predicted lattices have an observed spot (row,), and how far they
    are from it (row,), px.
    """
    reflections = drawn.reflections
    is_predicted = drawn.lattices.outcome == PredictedOutcome.PREDICTED
    has_spot = np.isfinite(reflections.fast_spot) & is_predicted[reflections.lattice]
    rows = np.flatnonzero(has_spot)
    fast = (reflections.fast_spot - reflections.fast)[rows]
    slow = (reflections.slow_spot - reflections.slow)[rows]
    return rows, np.hypot(fast, slow)


def _spot_figures(
    lattices: Lattices, sums: Sums, drawn: Predict, attributes: dict
) -> dict[str, Any]:
    """Return figures of the observed spots of predicted lattices."""
    rows, distance_px = _offsets(drawn)
    pixel_mm = np.array([float(detector["pixel_mm"]) for detector in attributes["detectors"]])
    run = drawn.lattices.run[drawn.reflections.lattice[rows]]
    is_predicted = lattices.outcome == PredictedOutcome.PREDICTED
    n_spots = int(lattices.n_spots[is_predicted].sum())
    return {
        "n_spots": n_spots,
        "n_matched": int(sums.n_matched),
        "matched": int(sums.n_matched) / n_spots if n_spots else None,
        "distance_mm_median": median(distance_px * pixel_mm[run]),
        "distance_px_median": median(distance_px),
    }


def _shell(sums: Sums, number: int) -> dict[str, Any]:
    """Return the figures of a shell."""
    of_all, of_chosen, of_weak = (_bright(*kind) for kind in sums.brightness[number])
    n_signal = int(sums.n_signal[number])
    return {
        "d_max": float(sums.d_max[number]),
        "d_min": float(sums.d_min[number]),
        "n": int(sums.n[number]),
        "n_strong": int(sums.n_strong[number]),
        "n_weak": int(sums.n_weak[number]),
        "n_signal": n_signal,
        "signal_chosen": float(sums.n_signal_chosen[number] / n_signal) if n_signal else None,
        "brightness": of_all.value,
        "brightness_sigma": of_all.sigma,
        "brightness_chosen": of_chosen.value,
        "brightness_weak": of_weak.value,
        "brightness_weak_sigma": of_weak.sigma,
    }


def _bright(intensity: float, expected: float, variance: float) -> Bright:
    """Return how bright reflections are against what is expected. All are sums over them."""
    if not expected > 0:
        return Bright(np.nan, np.nan)
    return Bright(float(intensity / expected), float(np.sqrt(variance) / expected))


# ---------------------------------------------------------------- the picture


def _picture(stage: str, lattices: Lattices, sums: Sums, drawn: Predict, figures: dict) -> Figure:
    """Draw what was chosen, whether it is as bright as all are, and how well spots lie."""
    page = style.page(
        f"{stage}: the reflections worth their pixels, from {figures['d_max']:g} to "
        f"{figures['d_min']:g} Å",
        f"{say(figures['n_lattices'])} lattices: {style.outcomes(figures)} · "
        f"{say(figures['n_chosen'])} of {say(figures['n_in_range'])} reflections chosen, by place "
        f"and resolution alone · {style.percent(figures['signal_chosen'])} of those with "
        f"I > {SIGNAL:g} σ among them",
    )
    axes: Any = page.subplots(2, 3)
    _counts(axes[0, 0], figures["shells"])
    _strengths(axes[0, 1], sums.of_strength)
    _brightnesses(axes[0, 2], figures["shells"])
    _signals(axes[1, 0], figures["shells"])
    _spots(axes[1, 1], drawn, figures)
    is_predicted = lattices.outcome == PredictedOutcome.PREDICTED
    style.histogram(axes[1, 2], sums.n_chosen[is_predicted], "chosen", style.BLUE)
    axes[1, 2].set(title="chosen of each lattice", xlabel="reflections", ylabel="lattices")
    return page


def _names(shells: list[dict[str, Any]]) -> list[str]:
    """Return the names of shells: their high-resolution edges."""
    return [f"{shell['d_min']:.2f}" for shell in shells]


def _counts(axes: Any, shells: list[dict[str, Any]]) -> None:
    """Draw what becomes of the reflections of each shell."""
    places = np.arange(len(shells))
    strong, weak, whole = (
        np.array([shell[name] for shell in shells]) for name in ("n_strong", "n_weak", "n")
    )
    below = np.zeros(len(shells))
    heights = (strong, weak, whole - strong - weak)
    for choice, height in zip(COLORS, heights, strict=True):
        axes.bar(places, height, bottom=below, color=COLORS[choice], label=IN_WORDS[choice])
        below = below + height
    axes.set_xticks(places, _names(shells), fontsize=8)
    axes.set_ylim(0, max(whole, default=1) * 1.35)
    axes.set(title="what becomes of them", xlabel="shell to d, Å", ylabel="reflections")
    axes.legend(loc="upper left", ncols=2, fontsize=7.5)


def _strengths(axes: Any, of_strength: np.ndarray) -> None:
    """Draw the distribution of expected photons over noise. of_strength: (kind of `KINDS`, bin)
    reflections.
    """
    axes.set(title="an average reflection in their place", ylabel="reflections")
    axes.set_xlabel("expected photons / noise")
    if not of_strength.any():
        style.empty(axes, "no reflection is in the range")
        return
    above = np.cumsum(of_strength, axis=0)
    for n, below, color in zip(above, above - of_strength, COLORS.values(), strict=True):
        axes.stairs(n, STRENGTHS, baseline=below, fill=True, color=color)
    axes.set_xscale("log")


def _brightnesses(axes: Any, shells: list[dict[str, Any]]) -> None:
    """Draw ΣI over what is expected: of all, of the chosen, and of the weak ones."""
    places = np.arange(len(shells))
    level, sigma, chosen, weak, weak_sigma = (
        np.array([shell[name] for shell in shells])
        for name in (
            "brightness",
            "brightness_sigma",
            "brightness_chosen",
            "brightness_weak",
            "brightness_weak_sigma",
        )
    )
    axes.axhline(1.0, color=style.PALE, lw=1.0)
    axes.errorbar(places, level, sigma, fmt="o", mfc="none", color=style.GREY, label="all", ms=9)
    axes.plot(places, chosen, "o", color=style.BLUE, label="chosen", ms=4, zorder=3)
    axes.errorbar(
        places + 0.15, weak, weak_sigma, fmt="s", color=style.ORANGE, label="weak", ms=3, lw=0.8
    )
    axes.set_xticks(places, _names(shells), fontsize=8)
    axes.set_ylim(-1.0, 2.5)
    axes.set(title="as bright as expected? ± 1 σ", xlabel="shell to d, Å", ylabel="ΣI / Σ expected")
    axes.legend(loc="upper left", ncols=3)


def _signals(axes: Any, shells: list[dict[str, Any]]) -> None:
    """Draw the share of reflections with signal, and how many of these are chosen."""
    places = np.arange(len(shells))
    n_signal = np.array([shell["n_signal"] for shell in shells])
    n_all = np.array([shell["n"] for shell in shells])
    chosen = [100.0 * (shell["signal_chosen"] or np.nan) for shell in shells]
    axes.bar(places, 100.0 * n_signal / np.maximum(n_all, 1), color=style.PALE, label="of all")
    axes.plot(places, chosen, "o-", color=style.BLUE, label="of these, chosen")
    axes.axhline(98.0, color=style.RED, lw=0.8, ls=":")
    axes.set_xticks(places, _names(shells), fontsize=8)
    axes.set_ylim(0, 130)
    axes.set(title=f"those with I > {SIGNAL:g} σ", xlabel="shell to d, Å", ylabel="%")
    axes.legend(loc="upper left", ncols=2)


def _spots(axes: Any, drawn: Predict, figures: dict) -> None:
    """Draw how far predictions are from their observed spots."""
    _, distance_px = _offsets(drawn)
    style.histogram(axes, distance_px, "matched", style.GREEN)
    axes.set(
        title=f"{say(figures['n_matched'])} observed spots matched, of "
        f"{say(figures['n_spots'])} indexed",
        xlabel="distance from the prediction, px",
        ylabel="reflections",
    )
