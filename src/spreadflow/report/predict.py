"""Figures and picture of `predict`: which reflections are worth their pixels, and whether these are
as bright as all are.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from spreadflow.errors import PredictedOutcome
from spreadflow.io import store
from spreadflow.models import CHOSEN, Choice, ReflectionFlag
from spreadflow.products import Predict
from spreadflow.products.predict import Reflections
from spreadflow.report import style
from spreadflow.report.checks import Check, Summaries, one_outcome_each, with_images
from spreadflow.report.figures import median, outcome_counts
from spreadflow.report.style import say

N_SHELLS = 8
"""Shells of resolution, of equal numbers of reflections."""

SIGNAL = 3.0
"""I/σ from which a reflection certainly has signal."""

COLORS = {
    Choice.STRONG: style.BLUE,
    Choice.WEAK: style.GREEN,
    Choice.LEFT_OUT: style.PALE,
}
"""Colours of what becomes of the reflections in the range."""

IN_WORDS = {
    Choice.STRONG: "expected to stand out",
    Choice.WEAK: "weak, chosen by lot",
    Choice.LEFT_OUT: "weak, left out",
}
"""The same in words."""


class Bright(NamedTuple):
    """ΣI over the sum of what is expected, and its standard deviation; NaN where there are none."""

    value: float
    sigma: float


def make(stage: str, products: list[Path], _manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all runs, and the picture."""
    predict = store.read(products[0], Predict)
    attributes = store.attributes(products[0], Predict)
    shells = _shells(predict.reflections)
    figures = _figures(predict, attributes) | {"shells": shells}
    return figures, _picture(stage, predict, figures)


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


def _in_range(reflections: Reflections) -> np.ndarray:
    """Return which reflections could be chosen, (n,) bool."""
    return np.isin(reflections.choice, list(COLORS))


def _chosen(reflections: Reflections) -> np.ndarray:
    """Return which reflections were chosen, (n,) bool."""
    return np.isin(reflections.choice, CHOSEN)


def _is_integrated(reflections: Reflections) -> np.ndarray:
    """Return which reflections have intensities that may be used, (n,) bool."""
    return reflections.flags & ReflectionFlag.FAILED == 0


def _has_signal(reflections: Reflections) -> np.ndarray:
    """Return which reflections in the range certainly have signal, (n,) bool."""
    is_bright = reflections.intensity > SIGNAL * reflections.sigma
    return _in_range(reflections) & _is_integrated(reflections) & is_bright


def _figures(predict: Predict, attributes: dict) -> dict[str, Any]:
    """Return figures over all runs, with a block for each run."""
    lattices = predict.lattices
    reflections = predict.reflections
    config = attributes["config"]
    is_predicted = lattices.outcome == PredictedOutcome.PREDICTED
    is_chosen = _chosen(reflections)
    has_signal = _has_signal(reflections)
    counts = np.bincount(reflections.choice, minlength=len(Choice))
    per_lattice = np.bincount(reflections.lattice[is_chosen], minlength=len(is_predicted))
    run = lattices.run[reflections.lattice]
    return {
        "n_lattices": len(is_predicted),
        "outcomes": outcome_counts(lattices.outcome, PredictedOutcome),
        "d_min": config["d_min"],
        "d_max": config["d_max"],
        "n_reflections": len(is_chosen),
        "n_in_range": int(_in_range(reflections).sum()),
        "n_chosen": int(is_chosen.sum()),
        **{f"n_{choice.name.lower()}": int(counts[choice]) for choice in Choice},
        "chosen_per_lattice_median": median(per_lattice[is_predicted]),
        "n_signal": int(has_signal.sum()),
        "signal_chosen": float(is_chosen[has_signal].mean()) if has_signal.any() else None,
        **_spot_figures(predict, attributes),
        "scale_median": median(lattices.scale[is_predicted]),
        "seconds_per_lattice_per_core": median(lattices.seconds[is_predicted]),
        "runs": {
            name: {
                "n_lattices": int((lattices.run == number).sum()),
                "n_predicted": int((is_predicted & (lattices.run == number)).sum()),
                "n_chosen": int((is_chosen & (run == number)).sum()),
            }
            for number, name in enumerate(attributes["runs"])
        },
    }


def _offsets(predict: Predict) -> tuple[np.ndarray, np.ndarray]:
    """Return which reflections of predicted lattices have an observed spot (row,), and how far they
    are from it (row,), px.
    """
    reflections = predict.reflections
    is_predicted = predict.lattices.outcome == PredictedOutcome.PREDICTED
    has_spot = np.isfinite(reflections.fast_spot) & is_predicted[reflections.lattice]
    rows = np.flatnonzero(has_spot)
    fast = (reflections.fast_spot - reflections.fast)[rows]
    slow = (reflections.slow_spot - reflections.slow)[rows]
    return rows, np.hypot(fast, slow)


def _spot_figures(predict: Predict, attributes: dict) -> dict[str, Any]:
    """Return figures of the observed spots of predicted lattices."""
    lattices = predict.lattices
    rows, distance_px = _offsets(predict)
    pixel_mm = np.array([float(detector["pixel_mm"]) for detector in attributes["detectors"]])
    run = lattices.run[predict.reflections.lattice[rows]]
    is_predicted = lattices.outcome == PredictedOutcome.PREDICTED
    n_spots = int(lattices.n_spots[is_predicted].sum())
    return {
        "n_spots": n_spots,
        "n_matched": len(rows),
        "matched": len(rows) / n_spots if n_spots else None,
        "distance_mm_median": median(distance_px * pixel_mm[run]),
        "distance_px_median": median(distance_px),
    }


def _shells(reflections: Reflections) -> list[dict[str, Any]]:
    """Return figures of shells of equal numbers of reflections in the range, low resolution
    first.
    """
    rows = np.flatnonzero(_in_range(reflections))
    rows = rows[np.argsort(-reflections.d[rows], kind="stable")]
    return [
        _shell(reflections[of_shell])
        for of_shell in np.array_split(rows, N_SHELLS)
        if len(of_shell)
    ]


def _shell(reflections: Reflections) -> dict[str, Any]:
    """Return the figures of a shell."""
    is_chosen = _chosen(reflections)
    is_strong = reflections.choice == Choice.STRONG
    has_signal = _has_signal(reflections)
    of_all = _brightness(reflections, np.ones(len(is_chosen), bool))
    of_chosen = _brightness(reflections, is_chosen)
    of_weak = _brightness(reflections, ~is_strong)
    return {
        "d_max": float(reflections.d.max()),
        "d_min": float(reflections.d.min()),
        "n": len(is_chosen),
        "n_strong": int(is_strong.sum()),
        "n_weak": int((reflections.choice == Choice.WEAK).sum()),
        "n_signal": int(has_signal.sum()),
        "signal_chosen": float(is_chosen[has_signal].mean()) if has_signal.any() else None,
        "brightness": of_all.value,
        "brightness_sigma": of_all.sigma,
        "brightness_chosen": of_chosen.value,
        "brightness_weak": of_weak.value,
        "brightness_weak_sigma": of_weak.sigma,
    }


def _brightness(reflections: Reflections, which: np.ndarray) -> Bright:
    """Return how bright reflections are against what is expected of their resolution. σ has
    Wilson's distribution of |F|² in it.
    """
    rows = which & _is_integrated(reflections)
    expected = reflections.expected[rows].astype(np.float64)
    total = expected.sum()
    if not total > 0:
        return Bright(np.nan, np.nan)
    variance = (reflections.sigma[rows].astype(np.float64) ** 2 + expected**2).sum()
    intensity = reflections.intensity[rows].astype(np.float64).sum()
    return Bright(float(intensity / total), float(np.sqrt(variance) / total))


# ---------------------------------------------------------------- the picture


def _picture(stage: str, predict: Predict, figures: dict) -> Figure:
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
    _strengths(axes[0, 1], predict.reflections)
    _brightnesses(axes[0, 2], figures["shells"])
    _signals(axes[1, 0], figures["shells"])
    _spots(axes[1, 1], predict, figures)
    is_predicted = predict.lattices.outcome == PredictedOutcome.PREDICTED
    lattice_of_chosen = predict.reflections.lattice[_chosen(predict.reflections)]
    n_chosen = np.bincount(lattice_of_chosen, minlength=len(is_predicted))
    style.histogram(axes[1, 2], n_chosen[is_predicted], "chosen", style.BLUE)
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


def _strengths(axes: Any, reflections: Reflections) -> None:
    """Draw the distribution of expected photons over noise."""
    axes.set(title="an average reflection in their place", ylabel="reflections")
    axes.set_xlabel("expected photons / noise")
    rows = _in_range(reflections)
    if not rows.any():
        style.empty(axes, "no reflection is in the range")
        return
    ratio = reflections.expected / reflections.noise
    limited = np.clip(ratio[rows], 1e-2, 1e3)
    choice = reflections.choice[rows]
    values = [limited[choice == kind] for kind in COLORS]
    edges = np.geomspace(1e-2, 1e3, 51)
    axes.hist(values, bins=edges, stacked=True, histtype="stepfilled", color=list(COLORS.values()))
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


def _spots(axes: Any, predict: Predict, figures: dict) -> None:
    """Draw how far predictions are from their observed spots."""
    _, distance_px = _offsets(predict)
    style.histogram(axes, distance_px, "matched", style.GREEN)
    axes.set(
        title=f"{say(figures['n_matched'])} observed spots matched, of "
        f"{say(figures['n_spots'])} indexed",
        xlabel="distance from the prediction, px",
        ylabel="reflections",
    )
