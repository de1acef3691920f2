"""Figures and picture of `mosaic`: what was learned, how held-out shoeboxes judge it, and what is
true.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spreadflow.errors import LearnedOutcome
from spreadflow.io import images as io_images
from spreadflow.io import store
from spreadflow.models import Mosaic
from spreadflow.physics import rotation
from spreadflow.physics.mosaic import continuous
from spreadflow.report import style, truth
from spreadflow.report.index import of_run
from spreadflow.units import DEG

PLANES = ((0, 1), (0, 2), (1, 2))
"""Lab axes of the plane in which a distribution is seen, along the third."""

EXTENT = 3.2
"""Distance, in η, out to which distributions are drawn."""

POINTS = 161
"""Points across a picture of a distribution."""

MARKED = 200
"""Domains that are marked in the picture, at most."""


class Distribution(NamedTuple):
    """Gaussians of rotation vectors, lab frame."""

    centre: np.ndarray
    """(component, 3) rad"""
    sigma: np.ndarray
    """(component,) rad, about each axis"""
    share: np.ndarray
    """(component,) sums to 1"""

    @classmethod
    def of(cls, mosaic: Mosaic) -> "Distribution":
        """Return the distribution of a mosaicity with its η."""
        return cls(
            rotation.vector(np.asarray(mosaic.rotations)),
            mosaic.eta_rad * mosaic.width,
            mosaic.share,
        )


class Beside(NamedTuple):
    """A set that is used, the continuous distribution of the same η, and the truth of the lattices
    that taught it.
    """

    gain: float
    """fall of −ln L of the held-out shoeboxes"""
    eta_rad: float
    learned: Distribution
    smooth: Distribution
    true: Distribution | None
    blur_rad: float
    """angular standard deviation of one domain at the highest resolution; 0 where truth is not
    known
    """


def make(stage: str, products: list[Path], manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all runs, and the page."""
    table = store.read(products[0], stage)
    told = store.attributes(products[0], stage)
    paths = [of_run(name, manifests) for name in told["runs"]]
    true = truth.mosaics(table, told, [io_images.truth(path) if path else None for path in paths])
    rows = _rows(table, "components")
    sets = [
        _beside(table, n, rows[n], true.get(n))
        for n in np.flatnonzero(table["sets/is_better"]).tolist()
    ]
    figures = _figures(table, told) | _distances(sets)
    return figures, _picture(stage, table, sets, figures)


def _rows(table: dict, of: str) -> list[slice]:
    """Return rows of each set in the table components or rounds, which are in the order of sets."""
    edges = np.searchsorted(table[f"{of}/set"], np.arange(len(table["sets/eta_rad"]) + 1))
    return [slice(a, b) for a, b in pairwise(edges)]


def _beside(table: dict, n: int, rows: slice, true: truth.TrueMosaic | None) -> Beside:
    eta = float(table["sets/eta_rad"][n])
    centre, width, share = (
        table[f"components/{name}"][rows] for name in ("rotation_rad", "width", "share")
    )
    gain = float(table["sets/held_out_continuous"][n] - table["sets/held_out"][n])
    smooth = Distribution.of(continuous()._replace(eta_rad=eta))
    known = None if true is None else Distribution.of(true.mosaic)
    return Beside(
        gain,
        eta,
        Distribution(centre, eta * width, share),
        smooth,
        known,
        true.domain_rad if true else 0.0,
    )


def _figures(table: dict, told: dict) -> dict[str, Any]:
    end = table["lattices/outcome"]
    better = table["sets/is_better"]
    taught = np.isin(end, (LearnedOutcome.LEARNED, LearnedOutcome.CONTINUOUS))
    before = table["sets/held_out_continuous"]
    after = table["sets/held_out"]
    of = table["rounds/set"]
    last = np.diff(of, append=len(better)) > 0

    def median(values):
        return float(np.median(values)) if len(values) else None

    return {
        "n_lattices": len(end),
        "outcomes": {name.name.lower(): int((end == name).sum()) for name in LearnedOutcome},
        "scope": told["config"]["scope"],
        "shoeboxes": told["shoeboxes"],
        "n_taught": int(taught.sum()),
        "n_sets": len(better),
        "n_sets_better": int(better.sum()),
        "n_components": median(np.bincount(table["components/set"], minlength=len(better))[better]),
        "eta_deg": median(table["sets/eta_rad"] / DEG),
        "n_rounds": median(np.bincount(of, minlength=len(better))),
        "step_deg": median(table["rounds/step_rad"][last] / DEG),
        "held_out_continuous": float(before.sum()),
        "held_out_learned": float(after.sum()),
        "held_out_gain": float((before - after).sum()),
        "held_out_gain_least": float((before - after).min()) if len(better) else None,
        "seconds_per_lattice_per_core": median(table["lattices/seconds"][taught]),
    }


def _distances(sets: list[Beside]) -> dict[str, float | None]:
    """Return medians over the sets that are used, where truth is known."""
    known = [(one, one.true) for one in sets if one.true is not None]
    far = [distance(one.learned, true, one.eta_rad, one.blur_rad) for one, true in known]
    smooth = [distance(one.smooth, true, one.eta_rad, one.blur_rad) for one, true in known]

    def median(values):
        return float(np.median(values)) if values else None

    return {"distance_to_truth": median(far), "distance_to_truth_continuous": median(smooth)}


def distance(one: Distribution, other: Distribution, eta_rad: float, blur_rad: float) -> float:
    """Return ∫|p − q|, 0 to 2, of two distributions as spots have them: along an axis, blurred by a
    domain. Mean over axes.
    """
    pairs = [
        [seen(spread, plane, eta_rad, blur_rad) for spread in (one, other)] for plane in PLANES
    ]
    return float(np.mean([np.abs(p - q).sum() for p, q in pairs]))


def seen(
    spread: Distribution, plane: tuple[int, int], eta_rad: float, blur_rad: float
) -> np.ndarray:
    """Return (POINTS, POINTS) the distribution in a plane of rotation vectors, the second axis
    upwards; sums to 1.
    """
    grid = eta_rad * np.linspace(-EXTENT, EXTENT, POINTS)
    sigma = np.hypot(spread.sigma, blur_rad)
    first, second = (
        np.exp(-0.5 * ((grid[:, None] - spread.centre[:, i]) / sigma) ** 2) / sigma for i in plane
    )
    out = (second * spread.share) @ first.T
    return out / out.sum()


# ---------------------------------------------------------------- the page


def _picture(stage: str, table: dict, sets: list[Beside], figures: dict) -> Figure:
    say = style.say
    also = ""
    if figures["distance_to_truth"] is not None:
        also = f" · ∫|learned − true| {say(figures['distance_to_truth'], 2)}, continuous "
        also += say(figures["distance_to_truth_continuous"], 2)
    page = style.page(
        f"{stage}: how mosaic domains are turned ({figures['scope'].replace('_', ' ')})",
        f"learned from the pixels of {say(figures['n_taught'])} of {say(figures['n_lattices'])} "
        "lattices "
        f"({figures['shoeboxes']}) · {say(figures['n_components'])} components, η "
        f"{say(figures['eta_deg'])}° · "
        f"held-out −ln L {say(figures['held_out_gain'])} below that of the continuous "
        f"distribution{also}",
    )
    left, right = page.subfigures(1, 2, width_ratios=[2.5, 1])  # type: ignore[misc]
    _distributions(left, max(sets, key=lambda one: one.gain, default=None), figures["scope"])
    axes: Any = right.subplots(3, 1, height_ratios=[1.2, 1, 0.8])
    _course(axes[0], table)
    _nodes(axes[1], table)
    style.bars(
        axes[2],
        [n.replace("_", " ") for n in figures["outcomes"]],
        [*figures["outcomes"].values()],
        COLORS,
    )
    axes[2].set_title("lattices")
    return page


COLORS = [style.GREEN, style.BLUE, style.GREY, style.RED]
"""Of the outcomes."""


def _distributions(figure: Any, one: Beside | None, scope: str) -> None:
    """Draw learned above, true or else continuous below, along the three lab axes."""
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    if one is None:
        for ax in axes.flat:
            style.empty(ax, "nothing was learned")
        return
    which = "" if scope == "shared" else "; the lattice that gained most"
    below = "continuous" if one.true is None else "true"
    crosses = "" if one.true is None else "; its domains as crosses"
    figure.suptitle(
        f"rotation vectors, degrees: learned (above{which}) and {below} (below{crosses})",
        fontsize=10,
        fontweight="bold",
    )
    blur = one.blur_rad or 0.15 * one.eta_rad
    edge = EXTENT * one.eta_rad / DEG
    for column, plane in zip(axes.T, PLANES, strict=True):
        images = [
            seen(spread, plane, one.eta_rad, blur)
            for spread in (one.learned, one.true or one.smooth)
        ]
        for ax, image in zip(column, images, strict=True):
            top = max(map(np.max, images))
            # faint domains count too
            norm = PowerNorm(0.5, 0, top)
            ax.imshow(
                image,
                origin="lower",
                extent=(-edge, edge, -edge, edge),
                cmap=style.PHOTONS,
                norm=norm,
            )
            if one.true is not None and not one.true.sigma.any() and len(one.true.share) <= MARKED:
                at = one.true.centre[:, plane] / DEG
                ax.plot(*at.T, "+", color=style.RED, ms=5, mew=0.8, alpha=0.8)
            ax.set(xlim=(-edge, edge), ylim=(-edge, edge))
        column[0].set_title(
            f"seen along {'xyz'[3 - sum(plane)]}", fontweight="normal", loc="center"
        )
        column[1].set_xlabel(f"about {'xyz'[plane[0]]}")
        column[0].set_ylabel(f"about {'xyz'[plane[1]]}")
        column[1].set_ylabel(f"about {'xyz'[plane[1]]}")


def _course(axes: Any, table: dict) -> None:
    """Draw −ln L of the held-out shoeboxes after every round, from that of the continuous
    distribution.
    """
    axes.set_title("−ln L held out, by round")
    sets = table["sets/held_out_continuous"]
    if not len(sets):
        style.empty(axes, "no lattice was fitted")
        return
    for n, (smooth, rows) in enumerate(zip(sets, _rows(table, "rounds"), strict=True)):
        after = table["rounds/held_out"][rows] - smooth
        color = style.GREEN if table["sets/is_better"][n] else style.GREY
        axes.plot(
            np.arange(len(after) + 1),
            np.append(0.0, after),
            "o-",
            ms=3,
            lw=1,
            color=color,
            alpha=0.7,
        )
    axes.axhline(0, color=style.GREY, lw=0.8, ls=":")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="round (0: continuous)", ylabel="less is better")


def _nodes(axes: Any, table: dict) -> None:
    """Draw nodes of the grid and those kept, against its step."""
    axes.set_title("nodes, by step of the grid")
    step = table["rounds/step_rad"] / DEG
    axes.semilogy(
        step, table["rounds/n_grid"], "o", ms=4, color=style.GREY, alpha=0.6, label="of the grid"
    )
    axes.semilogy(
        step, table["rounds/n_nodes"], "o", ms=4, color=style.BLUE, alpha=0.6, label="kept"
    )
    axes.set_xlim(1.1 * step.max(initial=1e-3), 0)
    axes.set_xlabel("degrees")
    axes.legend()
