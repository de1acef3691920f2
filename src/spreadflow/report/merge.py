"""Figures and picture of `merge`: how well the merged intensities agree with themselves."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spreadflow.analysis.merging.statistics import correlation, r_split
from spreadflow.io import store
from spreadflow.report import style


def make(stage: str, products: list[Path], _manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures of the merged table, and the page."""
    table = store.read(products[0], stage)
    told = store.attributes(products[0], stage)
    figures = _figures(table, told)
    return figures, _picture(table, figures)


def anomalous(table: dict) -> np.ndarray:
    """Return (n, 2) I(+) − I(−) in each half set, of the reflections whose mates are in both."""
    sign = table["merged/friedel"]
    half = table["merged/half"]
    hkl = [tuple(h) for h in table["merged/hkl"].tolist()]
    complete = np.isfinite(half).all(axis=1)
    minus = {hkl[row]: row for row in np.flatnonzero((sign < 0) & complete)}
    rows = [
        (row, minus[hkl[row]]) for row in np.flatnonzero((sign > 0) & complete) if hkl[row] in minus
    ]
    plus, mates = np.array(rows, dtype=int).reshape(-1, 2).T
    return half[plus] - half[mates]


def _figures(table: dict, told: dict) -> dict[str, Any]:
    n = table["merged/n"]
    first, second = table["merged/half"][np.isfinite(table["merged/half"]).all(axis=1)].T
    difference = anomalous(table)
    n_possible = int(table["bins/n_possible"].sum())
    n_measured = int(table["bins/n_measured"].sum())
    out: dict[str, Any] = {
        "n_lattices": int(table["lattices/used"].sum()),
        "n_observations": int(n.sum()),
        "n_possible": n_possible,
        "n_measured": n_measured,
        "completeness": n_measured / n_possible if n_possible else None,
        "multiplicity": float(n.sum() / n_measured) if n_measured else None,
        "cc_half": correlation(first, second),
        "n_pairs": len(first),
        "r_split": r_split(first, second),
        "cc_ano": correlation(*difference.T),
        "n_pairs_ano": len(difference),
    }
    standard = ("kind", "key", "schema", "software", "time", "config", "inputs", "runs")
    out |= {name: value for name, value in told.items() if name not in (*standard, *out)}
    out["bins"] = [
        {
            name: table[f"bins/{name}"][row]
            for name in sorted(n.split("/")[1] for n in table if n.startswith("bins/"))
        }
        for row in range(len(table["bins/d_min"]))
    ]
    return out


def _picture(table: dict, figures: dict) -> Figure:
    page = style.page(
        "merge: one intensity for each unique reflection",
        f"{style.say(figures['n_lattices'])} lattices · {style.say(figures['n_observations'])} "
        "observations · "
        f"completeness {style.say(figures['completeness'])} · multiplicity "
        f"{style.say(figures['multiplicity'])} · "
        f"CC½ {style.say(figures['cc_half'])} ({style.say(figures['n_pairs'])} pairs) · "
        f"Rsplit {style.say(figures['r_split'])} · CC ano {style.say(figures['cc_ano'])}",
    )
    axes = page.subplots(2, 3)
    s2 = 0.5 * (table["bins/d_max"] ** -2.0 + table["bins/d_min"] ** -2.0)
    for name, label, color in (("cc_half", "CC½", style.BLUE), ("cc_ano", "CC ano", style.ORANGE)):
        axes[0, 0].plot(s2, table[f"bins/{name}"], "o-", ms=4, color=color, label=label)
    axes[0, 0].axhline(0, color=style.PALE, lw=0.8)
    axes[0, 0].set(
        title="half sets against each other", ylim=(min(-0.3, axes[0, 0].get_ylim()[0]), 1.03)
    )
    axes[0, 0].legend()
    axes[0, 1].plot(s2, table["bins/i_over_sigma"], "o-", ms=4, color=style.GREEN)
    axes[0, 1].set(title="⟨I/σ⟩ of merged intensities", ylim=(0, 1.1 * axes[0, 1].dataLim.y1))
    complete = table["bins/n_measured"] / np.maximum(table["bins/n_possible"], 1)
    axes[0, 2].plot(s2, complete, "o-", ms=4, color=style.BLUE)
    axes[0, 2].set(title="completeness (blue), multiplicity (orange)", ylim=(0, 1.05))
    twin = axes[0, 2].twinx()
    multiplicity = table["bins/n_observations"] / np.maximum(table["bins/n_measured"], 1)
    twin.plot(s2, multiplicity, "s--", ms=3.5, color=style.ORANGE)
    twin.set_ylim(0, 1.15 * max(multiplicity.max(initial=0.0), 1.0))
    for ax in axes[0]:
        _resolution_axis(ax, table)
    _halves(axes[1, 0], table)
    _deviations(axes[1, 1], table)
    _scales(axes[1, 2], table)
    return page


def _resolution_axis(axes: Any, table: dict) -> None:
    """Draw 1/d² below, labelled with d."""
    edges = table["bins/d_min"]
    shown = edges[:: max(1, len(edges) // 5)]
    axes.set_xticks(shown**-2.0, [f"{d:.2f}" for d in shown])
    axes.set_xlabel("d, Å")


def _halves(axes: Any, table: dict) -> None:
    half = table["merged/half"]
    x, y = half[(half > 0).all(axis=1)].T
    axes.set_title("intensity in the two half sets")
    if not len(x):
        style.empty(axes, "no reflection is in both half sets")
        return
    axes.loglog(x, y, ".", ms=3, alpha=0.25, mew=0)
    limits = np.percentile(np.concatenate([x, y]), [0.5, 99.9])
    axes.plot(limits, limits, color=style.INK, lw=0.8)
    axes.set(xlim=limits, ylim=limits, aspect="equal", xlabel="half set 0", ylabel="half set 1")


def _deviations(axes: Any, table: dict) -> None:
    """Draw (I₁ − I₂)/2σ: a unit Gaussian where the error model is right and the half sets weigh the
    same.
    """
    half = table["merged/half"]
    deviation = (half[:, 0] - half[:, 1]) / (2 * table["merged/sigma"])
    deviation = deviation[np.isfinite(deviation)]
    axes.set_title("normalised deviation of half sets")
    if not len(deviation):
        style.empty(axes, "no reflection is in both half sets")
        return
    edges = np.linspace(-5, 5, 101)
    axes.hist(
        np.clip(deviation, -5, 5),
        np.linspace(-5, 5, style.n_bins(len(deviation)) + 1),
        density=True,
        color=style.BLUE,
        alpha=0.65,
        label="(I₁ − I₂) / 2σ",
    )
    axes.plot(
        edges,
        np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi),
        color=style.INK,
        lw=1,
        label="unit Gaussian",
    )
    beyond = int((np.abs(deviation) > 5).sum())
    axes.set(xlabel=f"end bins: {style.say(beyond)} of {style.say(len(deviation))} lie beyond ±5")
    axes.legend(loc="upper right")


def _scales(axes: Any, table: dict) -> None:
    used = table["lattices/used"]
    axes.semilogy(
        table["lattices/b"][used], table["lattices/scale"][used], ".", ms=4, alpha=0.5, mew=0
    )
    axes.set(title="scale and B of each lattice", xlabel="B, Å²", ylabel="G")
