"""Figures and picture of `mosaic`: what was learned, how held-out shoeboxes judge it, and what is
true.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spreadflow import models
from spreadflow.errors import LearnedOutcome
from spreadflow.io import store
from spreadflow.physics import rotation
from spreadflow.physics.mosaic import continuous
from spreadflow.products import Children, Mosaic
from spreadflow.products.mosaic import Components, Rounds
from spreadflow.report import style, truth_of_fits
from spreadflow.report.checks import Check, Summaries, one_outcome_each
from spreadflow.report.figures import median, outcome_counts
from spreadflow.report.runs import truth_of
from spreadflow.report.style import say
from spreadflow.units import DEG

PLANES = ((0, 1), (0, 2), (1, 2))
"""Lab axes of the planes in which a distribution is seen, each along the third axis."""

EXTENT = 3.2
"""Distance, in η, out to which distributions are compared and drawn."""

POINTS = 161
"""Points across a picture of a distribution."""

MAX_CROSSES = 200
"""True domains are marked in the picture if there are no more than this."""

DRAWN_SIGMA = 0.15
"""Blur of a picture where that of a true domain is not known, in η."""

COLORS = [style.GREEN, style.BLUE, style.GREY, style.RED]
"""Colours of the outcomes."""


class Distribution(NamedTuple):
    """Gaussians of rotation vectors, lab frame."""

    centre: np.ndarray
    """(component, 3) rad"""
    sigma: np.ndarray
    """(component,) rad, about each axis"""
    share: np.ndarray
    """(component,) sums to 1"""


class ComparedSet(NamedTuple):
    """A learned set that is used, the continuous distribution of the same η, and the truth of the
    lattices from which the set was learned.
    """

    gain: float
    """fall of −ln L of the held-out shoeboxes"""
    eta_rad: float
    """η of the set, rad"""
    from_pixels: Distribution
    """the distribution that was learned"""
    smooth: Distribution
    """the continuous distribution"""
    true: Distribution | None
    """what was simulated; None where that is not known"""
    blur_rad: float
    """angular standard deviation of one domain at the highest resolution; 0 where the truth is not
    known
    """


def make(stage: str, products: list[Path], manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all runs, and the picture."""
    product = store.read(products[0], Mosaic)
    attributes = store.attributes(products[0], Mosaic)
    truths = [truth_of(run, manifests, has_domains=True) for run in attributes["runs"]]
    true = truth_of_fits.mosaics(product, attributes, truths)
    components_of = Children(product.components.set)
    sets = [
        _compared(product, number, product.components[components_of[number]], true.get(number))
        for number in np.flatnonzero(product.sets.is_better).tolist()
    ]
    figures = _figures(product, attributes) | _distances(sets)
    return figures, _picture(stage, product, sets, figures)


def headline(figures: dict[str, Any]) -> list[str]:
    """Return what to know of the figures, one fact a line."""
    scope = figures["scope"].replace("_", " ")
    lines = [
        f"{say(figures['n_lattices'])} lattices: {style.outcomes(figures)} "
        f"({scope}, from {figures['shoeboxes']})",
        f"−ln L of held-out shoeboxes {say(figures['held_out_continuous'], 6)} with the continuous "
        f"distribution, {say(figures['held_out_gain'])} less with "
        f"{say(figures['n_components'])} components; η {say(figures['eta_deg'])}°",
        f"{say(figures['seconds_per_lattice_per_core'], 2)} s per lattice and core",
    ]
    if figures["distance_to_truth"] is not None:
        distance = say(figures["distance_to_truth"], 2)
        smooth = say(figures["distance_to_truth_continuous"], 2)
        lines.append(f"∫|p − truth| of the distribution {distance}; continuous: {smooth}")
    return lines


def checks(summaries: Summaries) -> list[Check]:
    """Return the counts that must agree."""
    if "mosaic" not in summaries:
        return []
    figures = summaries["mosaic"]
    equalities = [one_outcome_each("lattice of mosaic", figures, "n_lattices")]
    if "annulus" in summaries:
        n_lattices = summaries["annulus"]["n_lattices"]
        statement = "each lattice of annulus reaches mosaic"
        equalities.append(Check(statement, n_lattices, figures["n_lattices"]))
    return equalities


def _compared(
    product: Mosaic, number: int, components: Components, true: truth_of_fits.TrueMosaic | None
) -> ComparedSet:
    """Return the set of this number and components beside continuous and true distributions."""
    sets = product.sets
    eta = float(sets.eta_rad[number])
    from_pixels = Distribution(
        centre=components.rotation_rad,
        sigma=eta * components.width,
        share=components.share,
    )
    return ComparedSet(
        gain=float(sets.held_out_continuous[number] - sets.held_out[number]),
        eta_rad=eta,
        from_pixels=from_pixels,
        smooth=_distribution(continuous()._replace(eta_rad=eta)),
        true=_distribution(true.mosaic) if true else None,
        blur_rad=true.domain_rad if true else 0.0,
    )


def _distribution(mosaic: models.Mosaic) -> Distribution:
    """Return the distribution of a mosaicity with its own η."""
    return Distribution(
        centre=rotation.vector(np.asarray(mosaic.rotations)),
        sigma=mosaic.eta_rad * mosaic.width,
        share=mosaic.share,
    )


def _figures(product: Mosaic, attributes: dict) -> dict[str, Any]:
    """Return figures over all lattices and sets."""
    sets = product.sets
    outcome = product.lattices.outcome
    is_taught = np.isin(outcome, (LearnedOutcome.LEARNED, LearnedOutcome.CONTINUOUS))
    n_sets = len(sets)
    before = sets.held_out_continuous
    after = sets.held_out
    set_of_round = product.rounds.set
    is_last_round = np.diff(set_of_round, append=n_sets) > 0
    n_components = np.bincount(product.components.set, minlength=n_sets)
    return {
        "n_lattices": len(outcome),
        "outcomes": outcome_counts(outcome, LearnedOutcome),
        "scope": attributes["config"]["scope"],
        "shoeboxes": attributes["shoeboxes"],
        "n_taught": int(is_taught.sum()),
        "n_sets": n_sets,
        "n_sets_better": int(sets.is_better.sum()),
        "n_components": median(n_components[sets.is_better]),
        "eta_deg": median(sets.eta_rad / DEG),
        "n_rounds": median(np.bincount(set_of_round, minlength=n_sets)),
        "step_deg": median(product.rounds.step_rad[is_last_round] / DEG),
        "held_out_continuous": float(before.sum()),
        "held_out_learned": float(after.sum()),
        "held_out_gain": float((before - after).sum()),
        "held_out_gain_least": float((before - after).min()) if n_sets else None,
        "seconds_per_lattice_per_core": median(product.lattices.seconds[is_taught]),
    }


def _distances(sets: list[ComparedSet]) -> dict[str, float | None]:
    """Return the median distances from the truth, over the sets whose truth is known."""
    distances = []
    smooth_distances = []
    for compared in sets:
        true = compared.true
        if true is not None:
            eta = compared.eta_rad
            blur = compared.blur_rad
            distances.append(_distance(compared.from_pixels, true, eta, blur))
            smooth_distances.append(_distance(compared.smooth, true, eta, blur))
    return {
        "distance_to_truth": median(distances),
        "distance_to_truth_continuous": median(smooth_distances),
    }


def _distance(p: Distribution, q: Distribution, eta_rad: float, blur_rad: float) -> float:
    """Return ∫|p − q|, 0 to 2, of two distributions as spots show them: seen along an axis and
    blurred by the size of a domain. The mean over three axes.
    """
    sums = []
    for plane in PLANES:
        p_in_plane = _projected(p, plane, eta_rad, blur_rad)
        q_in_plane = _projected(q, plane, eta_rad, blur_rad)
        sums.append(np.abs(p_in_plane - q_in_plane).sum())
    return float(np.mean(sums))


def _projected(
    distribution: Distribution, plane: tuple[int, int], eta_rad: float, blur_rad: float
) -> np.ndarray:
    """Return a distribution in a plane of rotation vectors, (POINTS, POINTS), the second axis
    upwards; it sums to 1.
    """
    grid = eta_rad * np.linspace(-EXTENT, EXTENT, POINTS)
    sigma = np.hypot(distribution.sigma, blur_rad)

    def gaussians(axis: int) -> np.ndarray:
        distance = (grid[:, None] - distribution.centre[:, axis]) / sigma
        return np.exp(-0.5 * distance**2) / sigma

    first, second = map(gaussians, plane)
    density = (second * distribution.share) @ first.T
    return density / density.sum()


# ---------------------------------------------------------------- the picture


def _picture(stage: str, product: Mosaic, sets: list[ComparedSet], figures: dict) -> Figure:
    """Draw the distribution of the set that gained most, and how all sets were learned."""
    scope = figures["scope"]
    against_truth = ""
    if figures["distance_to_truth"] is not None:
        distance = say(figures["distance_to_truth"], 2)
        smooth = say(figures["distance_to_truth_continuous"], 2)
        against_truth = f" · ∫|learned − true| {distance}, continuous {smooth}"
    page = style.page(
        f"{stage}: how mosaic domains are turned ({scope.replace('_', ' ')})",
        f"learned from the pixels of {say(figures['n_taught'])} of {say(figures['n_lattices'])} "
        f"lattices ({figures['shoeboxes']}) · {say(figures['n_components'])} components, "
        f"η {say(figures['eta_deg'])}° · held-out −ln L {say(figures['held_out_gain'])} below "
        f"that of the continuous distribution{against_truth}",
    )
    left, right = page.subfigures(1, 2, width_ratios=[2.5, 1])  # type: ignore[misc]
    best = max(sets, key=lambda compared: compared.gain, default=None)
    _distributions(left, best, scope)
    axes: Any = right.subplots(3, 1, height_ratios=[1.2, 1, 0.8])
    _course(axes[0], product)
    _nodes(axes[1], product.rounds)
    names = [name.replace("_", " ") for name in figures["outcomes"]]
    style.bars(axes[2], names, list(figures["outcomes"].values()), COLORS)
    axes[2].set_title("lattices")
    return page


def _distributions(figure: Any, best: ComparedSet | None, scope: str) -> None:
    """Draw the learned distribution above, the true or else the continuous one below, along the
    three lab axes.
    """
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    if best is None:
        for ax in axes.flat:
            style.empty(ax, "nothing was learned")
        return
    which = "" if scope == "shared" else "; the lattice that gained most"
    below = "continuous" if best.true is None else "true"
    crosses = "" if best.true is None else "; its domains as crosses"
    figure.suptitle(
        f"rotation vectors, degrees: learned (above{which}) and {below} (below{crosses})",
        fontsize=10,
        fontweight="bold",
    )
    for column, plane in zip(axes.T, PLANES, strict=True):
        _plane(column, best, plane)


def _plane(axes: Any, best: ComparedSet, plane: tuple[int, int]) -> None:
    """Draw the learned and the other distribution in one plane, on one scale."""
    blur = best.blur_rad or DRAWN_SIGMA * best.eta_rad
    edge = EXTENT * best.eta_rad / DEG
    images = [
        _projected(distribution, plane, best.eta_rad, blur)
        for distribution in (best.from_pixels, best.true or best.smooth)
    ]
    top = max(map(np.max, images))
    for ax, image in zip(axes, images, strict=True):
        ax.imshow(
            image,
            origin="lower",
            extent=(-edge, edge, -edge, edge),
            cmap=style.PHOTONS,
            norm=PowerNorm(0.5, 0, top),  # faint domains count too
        )
        _crosses(ax, best.true, plane)
        ax.set(xlim=(-edge, edge), ylim=(-edge, edge))
    horizontal, vertical = ("xyz"[axis] for axis in plane)
    along = "xyz"[3 - sum(plane)]
    upper, lower = axes
    upper.set_title(f"seen along {along}", fontweight="normal", loc="center")
    lower.set_xlabel(f"about {horizontal}")
    upper.set_ylabel(f"about {vertical}")
    lower.set_ylabel(f"about {vertical}")


def _crosses(axes: Any, true: Distribution | None, plane: tuple[int, int]) -> None:
    """Mark true domains where they are points, and few."""
    if true is None or true.sigma.any() or len(true.share) > MAX_CROSSES:
        return
    x, y = true.centre[:, plane].T / DEG
    axes.plot(x, y, "+", color=style.RED, ms=5, mew=0.8, alpha=0.8)


def _course(axes: Any, product: Mosaic) -> None:
    """Draw −ln L of the held-out shoeboxes after every round, less that of the continuous
    distribution.
    """
    axes.set_title("−ln L held out, by round")
    sets = product.sets
    if not len(sets):
        style.empty(axes, "no lattice was fitted")
        return
    rounds_of = Children(product.rounds.set)
    for number, start in enumerate(sets.held_out_continuous):
        loss = np.append(0.0, product.rounds.held_out[rounds_of[number]] - start)
        color = style.GREEN if sets.is_better[number] else style.GREY
        axes.plot(np.arange(len(loss)), loss, "o-", ms=3, lw=1, color=color, alpha=0.7)
    axes.axhline(0, color=style.GREY, lw=0.8, ls=":")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="round (0: continuous)", ylabel="less is better")


def _nodes(axes: Any, rounds: Rounds) -> None:
    """Draw how many nodes the grid had, and how many were kept, against its step."""
    axes.set_title("nodes, by step of the grid")
    step = rounds.step_rad / DEG
    look = {"ms": 4, "alpha": 0.6}
    axes.semilogy(step, rounds.n_grid, "o", color=style.GREY, label="of the grid", **look)
    axes.semilogy(step, rounds.n_nodes, "o", color=style.BLUE, label="kept", **look)
    axes.set_xlim(1.1 * step.max(initial=1e-3), 0)
    axes.set_xlabel("degrees")
    axes.legend()
