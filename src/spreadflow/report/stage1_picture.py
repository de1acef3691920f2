"""The picture of `stage1`."""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spreadflow.analysis.pixels.centroid_distances import CentroidDistances
from spreadflow.errors import RefinedOutcome
from spreadflow.io import store
from spreadflow.products import Stage1
from spreadflow.products.stage1 import Lattices, Reflections
from spreadflow.report import style
from spreadflow.report.style import say
from spreadflow.report.truth_of_fits import Refinement
from spreadflow.units import DEG

N_SAMPLES = 7
"""Shoeboxes in the picture."""

SAMPLE_DISTANCE = 1.75
"""Distance from one shoebox to the next, over that from its data to its model."""

CRYSTAL_AXES = ("a", "c* × a", "c*")
"""Axes about which η is told, those of `physics.clouds.crystal_axes`."""

FEWEST_DISTANCES = 20
"""Centroids without which r.m.s.d. are not drawn by resolution."""


class Sample(NamedTuple):
    """The pixels of one shoebox and its Miller index."""

    hkl: tuple[int, int, int]
    images: dict[str, np.ndarray]
    """data, model, background, z → (slow, fast); NaN = masked"""


def read_samples(path: Path) -> list[Sample]:
    """Return the first shoeboxes that the stage kept; parts are read until there are enough."""
    samples: list[Sample] = []
    for part in store.parts_of(path, Stage1):
        stage1 = part.read([Stage1.samples, Stage1.sample_pixels, Stage1.reflections.hkl])
        boxes = zip(
            stage1.reflections.hkl[stage1.samples.reflection].tolist(),
            stage1.samples.bbox,
            stage1.samples.first_pixel,
            strict=True,
        )
        for (h, k, l), (fast0, fast1, slow0, slow1), first in boxes:
            shape = (slow1 - slow0, fast1 - fast0)
            pixels = stage1.sample_pixels[first : first + shape[0] * shape[1]]
            images = {name: column.reshape(shape) for name, column in pixels.as_dict().items()}
            samples.append(Sample((h, k, l), images))
        if len(samples) >= N_SAMPLES:
            break
    return samples[:N_SAMPLES]


class Shown(NamedTuple):
    """What the picture is made of."""

    lattices: Lattices
    """all of them"""
    reflections: Reflections
    """of drawn lattices"""
    distances: CentroidDistances
    """of these"""
    samples: list[Sample]


def draw(stage: str, shown: Shown, against: Refinement | None, figures: dict) -> Figure:
    """Return the picture. against: the truth, None where it is not known."""
    if against is not None and not len(against.angle):
        against = None
    page = style.page(
        f"{stage}: lattices against their pixels ({figures['mosaicity']} mosaicity)",
        f"{say(figures['n_refined'])} of {say(figures['n_lattices'])} lattices refined · "
        f"radial r.m.s.d. {say(figures['radial_rmsd_mm'])} mm "
        f"({say(figures['radial_rmsd_px'])} px) over {say(figures['n_rmsd'])} reflections, "
        f"{say(figures['radial_floor_mm'])} mm where the model were true · "
        f"σ_Z {say(figures['sigma_z_median'])} · "
        f"{say(figures['seconds_per_lattice_per_core'], 2)} s per lattice and core",
        14.5,
        9.6,
    )
    why = why_worse(figures)
    if why:
        page.supxlabel(why, x=0.015, ha="left", fontsize=9.5, color=style.RED)
    top, bottom = page.subfigures(2, 1, height_ratios=[1.05, 1])  # type: ignore[misc]
    _samples(top, shown.samples)
    axes: Any = bottom.subplots(2, 3)
    refined = shown.lattices[shown.lattices.outcome == RefinedOutcome.REFINED]
    distances = shown.distances
    _by_resolution(axes[0, 0], shown.reflections.d[distances.rows], distances)
    _sigma_z(axes[0, 1], refined.sigma_z)
    _delta_psi(axes[0, 2], shown.reflections)
    _mosaicity(axes[1, 0], refined, against)
    _misset(axes[1, 1], refined, against)
    _pulls(axes[1, 2], against, figures["uncertainty"])
    return page


def why_worse(figures: dict) -> str:
    """Return why centroids or orientations of the pixels are farther off than those of the spots;
    empty where they are not.
    """
    by_spots = figures["radial_rmsd_mm_before"]
    by_pixels = figures["radial_rmsd_mm"]
    angle = figures["misorientation_deg_median"]
    is_farther = by_pixels is not None and by_pixels > by_spots
    is_turned = angle is not None and angle > figures["misorientation_deg_before_median"]
    if not (is_farther or is_turned):
        return ""
    phrases = []
    if is_farther:
        phrases.append(
            "Centroids: those that spots predict were fitted to the observed ones, those of the "
            "model of the pixels were not."
        )
    if is_turned:
        phrases.append("Orientations: those of the pixels are not the mean of all domains.")
    cause = (
        "A model with another mosaicity than the crystals' explains the pixels best when it is "
        "centred on the domains that reflect."
    )
    if figures["mosaicity"] == "continuous":
        cause += " A few domains are no smooth cloud: stage1.mosaicity: learned."
    return "why pixels look worse than spots. {}\n{}".format(" ".join(phrases), cause)


def _samples(figure: Any, samples: list[Sample]) -> None:
    """Draw data, model and residual of shoeboxes, one below the other."""
    figure.suptitle(
        "data, model (photons, log scale) and residual (from −5 σ, blue, to 5 σ, red)",
        fontsize=10,
        fontweight="bold",
    )
    axes = figure.subplots()
    style.without_axes(axes)
    label = {"rotation": "vertical", "ha": "right", "va": "center"}
    for row, name in enumerate(("data", "model", "residual")):
        axes.text(-0.85, -row, name, **label)
    for number, sample in enumerate(samples):
        _sample(axes, sample, number * SAMPLE_DISTANCE)
    right = (N_SAMPLES - 1) * SAMPLE_DISTANCE
    axes.set(xlim=(-1.0, right + 0.8), ylim=(-2.5, 0.62), aspect="equal")


def _sample(axes: Any, sample: Sample, x: float) -> None:
    """Draw one shoebox at x: data and model on one log scale, and the residual."""
    images = sample.images
    background = float(np.nanmedian(images["background"]))
    low = max(1.0, 0.7 * background)
    brightest = float(np.nanmax(images["model"], initial=2 * low))
    high = max(2 * low, brightest)
    norm = LogNorm(low, high)
    colors = style.PHOTONS.with_extremes(bad=style.PALE)
    shape = images["z"].shape
    for row, name in enumerate(("data", "model")):
        photons = np.maximum(images[name], low)
        axes.imshow(photons, norm=norm, cmap=colors, extent=_tile(shape, x, row))
    residual = {"norm": Normalize(-5, 5), "cmap": style.RESIDUAL}
    axes.imshow(images["z"], extent=_tile(shape, x, 2), **residual)
    title = " ".join(map(str, sample.hkl))
    top = _tile(shape, x, 0)[3]
    axes.text(x, top + 0.03, title, fontsize=7, ha="center", va="bottom")


def _tile(shape: tuple[int, int], x: float, row: int) -> tuple[float, float, float, float]:
    """Return where an image of a shoebox, (slow, fast) pixels, is drawn."""
    return style.tile(shape, x, -row, width=1.6, height=0.9)


def _by_resolution(axes: Any, d: np.ndarray, distances: CentroidDistances) -> None:
    """Draw the r.m.s.d. of centroids in six bins of equal number. d: (distance,) Å."""
    axes.set_title("r.m.s.d. by resolution, mm")
    if len(distances.rows) < FEWEST_DISTANCES:
        style.empty(axes, "too few reflections with I ≥ 5 σ")
        return
    edges = np.quantile(d, np.linspace(0, 1, 7))
    bins = [np.flatnonzero((d >= low) & (d <= high)) for low, high in pairwise(edges)]
    middle = [float(np.median(d[rows])) for rows in bins]
    for axis, color, direction in ((0, style.ORANGE, "radial"), (1, style.BLUE, "transverse")):
        for name, line, source in (
            ("before", ":", "spots"),
            ("after", "-", "pixels"),
            ("floor", "--", "true model"),
        ):
            values = [distances.rms(name, axis, rows=rows) for rows in bins]
            label = f"{direction}, {source}"
            axes.plot(middle, values, line, color=color, marker=".", ms=4, label=label)
    axes.invert_xaxis()
    axes.set(xlabel="d, Å", ylim=(0, 1.5 * axes.get_ylim()[1]))
    axes.legend(fontsize=6.5, ncols=2, loc="upper left")


def _sigma_z(axes: Any, values: np.ndarray) -> None:
    """Draw the distribution of σ_Z over the refined lattices."""
    axes.set_title("σ_Z of each lattice")
    if not len(values):
        style.empty(axes, "no lattice was refined")
        return
    axes.hist(
        values,
        bins=style.n_bins(len(values)),
        histtype="stepfilled",
        color=style.PURPLE,
        alpha=0.65,
    )
    axes.axvline(np.median(values), color=style.PURPLE, lw=1.5)
    axes.axvline(1.0, color=style.GREY, lw=1, ls=":")
    axes.set_ylabel("lattices")
    style.few_ticks(axes)


def _delta_psi(axes: Any, reflections: Reflections) -> None:
    """Draw mean and standard deviation of Δψ of the strong reflections on each panel, before and
    after.
    """
    axes.set_title("Δψ of strong reflections by panel, degrees")
    is_strong = np.isfinite(reflections.fast_obs)
    panel = reflections.panel[is_strong]
    if not len(panel):
        style.empty(axes, "no reflection with I ≥ 5 σ")
        return
    panels = np.unique(panel)
    for psi_rad, shift, color, label in (
        (reflections.delta_psi_before_rad, -0.15, style.GREY, "before"),
        (reflections.delta_psi_rad, 0.15, style.GREEN, "after"),
    ):
        psi = np.rad2deg(psi_rad[is_strong])
        mean = [psi[panel == p].mean() for p in panels]
        sd = [psi[panel == p].std() for p in panels]
        axes.errorbar(panels + shift, mean, sd, fmt="o", ms=4, color=color, label=label)
    axes.axhline(0, color=style.PALE, lw=0.8)
    axes.set(
        xlabel="panel (mean and standard deviation)", xlim=(panels.min() - 0.6, panels.max() + 0.6)
    )
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.legend()


def _mosaicity(axes: Any, refined: Lattices, against: Refinement | None) -> None:
    """Draw η against N of the refined lattices, and the truth."""
    n_cells = refined.n_cells.mean(axis=1)
    by_axis = refined.eta_axes_rad / DEG
    if np.ptp(by_axis, axis=1).any():
        colors = (style.BLUE, style.GREEN, style.ORANGE)
        for eta, color, name in zip(by_axis.T, colors, CRYSTAL_AXES, strict=True):
            axes.plot(n_cells, eta, ".", color=color, alpha=0.6, label=f"about {name}")
    else:
        eta = refined.eta_rad / DEG
        axes.plot(n_cells, eta, ".", color=style.BLUE, alpha=0.6, label="refined")
    if against is not None:
        axes.plot(*against.true_mosaicity.T, "+", ms=12, mew=2, color=style.RED, label="truth")
    axes.set(
        title="domains and mosaic spread", xlabel="N, unit cells along an axis", ylabel="η, degrees"
    )
    axes.legend()


def _misset(axes: Any, refined: Lattices, against: Refinement | None) -> None:
    """Draw the misorientation where the truth is known, else how far lattices turned."""
    if against is None:
        turned = np.linalg.norm(refined.misset_rad, axis=1)
        style.histogram(axes, turned / DEG, "turned", style.GREEN)
        axes.set(title="turned by stage 1", xlabel="degrees", ylabel="lattices")
        return
    style.histogram(axes, against.angle_before / DEG, "spots", style.GREY)
    style.histogram(axes, against.angle / DEG, "pixels", style.GREEN)
    axes.set(title="misorientation from truth", xlabel="degrees", ylabel="lattices")
    axes.legend()


def _pulls(axes: Any, against: Refinement | None, uncertainty: str) -> None:
    """Draw (refined − true)/σ of each kind of unknown."""
    kind = "the sandwich" if uncertainty == "sandwich" else "Fisher"
    axes.set_title(f"pulls, σ of {kind}")
    if against is None:
        style.empty(axes, "not a simulation")
        return
    pulls = against.pulls[uncertainty]
    axes.boxplot(list(pulls.values()), showfliers=False, medianprops={"color": style.RED})
    names = [name.replace("_", " ") for name in pulls]
    axes.set_xticks(range(1, len(pulls) + 1), names, fontsize=8)
    for level in (-1, 1):
        axes.axhline(level, color=style.GREY, lw=0.8, ls=":")
