"""Figures and picture of `stage1`: how well the pixels of each lattice are explained, and what
became of it.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spreadflow.errors import RefinedOutcome
from spreadflow.io import images as io_images
from spreadflow.io import store
from spreadflow.models import Detector
from spreadflow.physics import geometry
from spreadflow.report import style, truth
from spreadflow.report.index import of_run
from spreadflow.units import DEG

COLUMNS = 7
"""Shoeboxes in the mosaic."""

TABLES = ("lattices/", "reflections/")


def make(stage: str, products: list[Path], manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all runs, and the page."""
    table = store.read(products[0], stage, TABLES)
    told = store.attributes(products[0], stage)
    distances = _distances(table, [Detector.from_json(d) for d in told["detectors"]])
    against = _against_truth(table, told, manifests)
    figures = _figures(table, told) | _residuals(table, distances) | _of_truth(against, told)
    return figures, _picture(stage, products[0], table, distances, against, figures)


def _figures(table: dict, told: dict) -> dict[str, Any]:
    end = table["lattices/outcome"]
    mine = _of_refined(table)

    def median(name):
        return float(np.median(mine[name])) if len(mine[name]) else None

    n = len(mine["loss_after"])
    fitted = np.isin(end, (RefinedOutcome.REFINED, RefinedOutcome.NOT_CONVERGED))
    better = table["lattices/loss_after"] <= table["lattices/loss_before"]
    return {
        "n_lattices": len(end),
        "n_refined": int((end == RefinedOutcome.REFINED).sum()),
        "outcomes": {name.name.lower(): int((end == name).sum()) for name in RefinedOutcome},
        "n_worse": int((fitted & ~better).sum()),
        "mosaicity": told["config"]["mosaicity"],
        "uncertainty": told["config"]["uncertainty"],
        "n_reflections": len(table["reflections/d"]),
        "n_pixels": int(table["lattices/n_pixels"].sum()),
        "sigma_z_median": median("sigma_z"),
        "n_evaluations_median": median("n_evaluations"),
        "loss_fall_median": float(np.median(mine["loss_before"] - mine["loss_after"]))
        if n
        else None,
        "n_cells_median": np.median(mine["n_cells"], axis=0).tolist() if n else None,
        "eta_deg_median": float(np.median(mine["eta_rad"]) / DEG) if n else None,
        "misset_deg_median": float(np.median(np.linalg.norm(mine["misset_rad"], axis=1)) / DEG)
        if n
        else None,
        "seconds_per_lattice_per_core": float(np.median(table["lattices/seconds"]))
        if len(end)
        else None,
        "seconds_mean": float(table["lattices/seconds"].mean()) if len(end) else None,
    }


def _of_refined(table: dict) -> dict[str, np.ndarray]:
    """Return columns of the lattices whose fit ended well."""
    keep = table["lattices/outcome"] == RefinedOutcome.REFINED
    return {
        name.split("/")[1]: column[keep]
        for name, column in table.items()
        if name.startswith("lattices/")
    }


class Distances:
    """Model minus observed centroids of the strong reflections, along the radius and across it."""

    def __init__(self, rows: np.ndarray, by_name: dict[str, np.ndarray], pixel_mm: np.ndarray):
        self.rows, self.px, self.pixel_mm = rows, by_name, pixel_mm

    def rms(
        self, name: str, axis: int, unit: str = "mm", some: np.ndarray | slice = slice(None)
    ) -> float | None:
        """Return name: before, after or floor; axis: 0 radial, 1 transverse."""
        values = self.px[name][some, axis] * (self.pixel_mm[some] if unit == "mm" else 1.0)
        values = values[np.isfinite(values)]
        return float(np.sqrt(np.mean(values**2))) if len(values) else None


def _distances(table: dict, detectors: list[Detector]) -> Distances:
    """Return distances of the reflections of refined lattices that have observed centroids, which
    were chosen before refinement.
    """
    t = {
        name.split("/")[1]: column
        for name, column in table.items()
        if name.startswith("reflections/")
    }
    refined = table["lattices/outcome"][t["lattice"]] == RefinedOutcome.REFINED
    run = table["lattices/run"][t["lattice"]]
    seen = np.isfinite(t["fast_obs"]) & np.isfinite(t["fast"]) & refined
    rows = np.concatenate([np.flatnonzero(seen & (run == r)) for r in range(len(detectors))])
    pixel = np.concatenate(
        [np.full((seen & (run == r)).sum(), float(d.pixel_mm)) for r, d in enumerate(detectors)]
    )
    axes = np.concatenate(
        [
            geometry.radial_axes(
                d, *(t[name][seen & (run == r)] for name in ("panel", "fast_before", "slow_before"))
            )
            for r, d in enumerate(detectors)
        ]
    )

    def pair(end):
        return np.stack([t[f"fast{end}"][rows], t[f"slow{end}"][rows]], axis=1)

    vectors = {
        "before": pair("_before") - pair("_obs"),
        "after": pair("") - pair("_obs"),
        "floor": pair("_floor"),
    }
    return Distances(
        rows, {name: np.einsum("nij,nj->ni", axes, v) for name, v in vectors.items()}, pixel
    )


def _residuals(table: dict, distances: Distances) -> dict[str, Any]:
    """Return root mean squares in mm and px."""
    out: dict[str, Any] = {"n_rmsd": len(distances.rows)}
    for axis, direction in enumerate(("radial", "transverse")):
        for unit in ("mm", "px"):
            out[f"{direction}_rmsd_{unit}"] = distances.rms("after", axis, unit)
            out[f"{direction}_rmsd_{unit}_before"] = distances.rms("before", axis, unit)
            out[f"{direction}_floor_{unit}"] = distances.rms("floor", axis, unit)
    absolute = np.abs(distances.px["after"][:, 0] * distances.pixel_mm)
    return out | {"radial_median_mm": float(np.median(absolute)) if len(absolute) else None}


# ---------------------------------------------------------------- beside a simulation's truth


def _against_truth(table: dict, told: dict, manifests: list[Path]) -> truth.Refinement | None:
    """Return refined lattices beside what was simulated, of all runs whose truth is there."""
    paths = [of_run(name, manifests) for name in told["runs"]]
    found = [io_images.truth(path) if path else None for path in paths]
    return truth.refinement(table, told, found)


def _of_truth(against: truth.Refinement | None, told: dict) -> dict[str, Any]:
    """Return what only a simulation can tell."""
    if against is None or not len(against.angle):
        return {"misorientation_deg_median": None, "pull_sd": None}
    quoted = against.pulls[told["config"]["uncertainty"]]

    def sd(pulls):
        return {n: float(p.std()) if len(p) > 1 else None for n, p in pulls.items()}

    return {
        "misorientation_deg_median": float(np.median(against.angle) / DEG),
        "misorientation_deg_before_median": float(np.median(against.angle_before) / DEG),
        "n_truth": len(against.angle),
        "pull_sd": sd(quoted),
        "pull_mean": {
            name: float(pull.mean()) if len(pull) else None for name, pull in quoted.items()
        },
        "pull_sd_fisher": sd(against.pulls["fisher"]),
    } | {
        f"{name}_over_true_median": float(np.median(against.ratios[name]))
        for name in quoted
        if name in against.ratios
    }


# ---------------------------------------------------------------- the page


def _picture(
    stage: str,
    product: Path,
    table: dict,
    distances: Distances,
    against: truth.Refinement | None,
    figures: dict,
) -> Figure:
    say = style.say
    page = style.page(
        f"{stage}: lattices against their pixels ({figures['mosaicity']} mosaicity)",
        f"{say(figures['n_refined'])} of {say(figures['n_lattices'])} lattices refined · radial "
        "r.m.s.d. "
        f"{say(figures['radial_rmsd_mm'])} mm ({say(figures['radial_rmsd_px'])} px) over "
        f"{say(figures['n_rmsd'])} "
        f"reflections, {say(figures['radial_floor_mm'])} mm where the model were true · "
        f"σ_Z {say(figures['sigma_z_median'])} · "
        f"{say(figures['seconds_per_lattice_per_core'], 2)} s per lattice and core",
        14.5,
        9.6,
    )
    top, bottom = page.subfigures(2, 1, height_ratios=[1.05, 1])  # type: ignore[misc]
    _mosaic(top, *_samples(stage, product, table))
    axes: Any = bottom.subplots(2, 3)
    _by_resolution(axes[0, 0], table, distances)
    _sigma_z(axes[0, 1], _of_refined(table)["sigma_z"])
    _delta_psi(axes[0, 2], table)
    _mosaicity(axes[1, 0], table, against)
    _misset(axes[1, 1], table, against)
    _pulls(axes[1, 2], against, figures["uncertainty"])
    return page


def _samples(
    stage: str, product: Path, table: dict
) -> tuple[list[dict[str, np.ndarray]], list[str]]:
    """Return images of the first shoeboxes that were kept, and their titles; parts are read until
    there are enough.
    """
    boxes: list[dict[str, np.ndarray]] = []
    titles: list[str] = []
    for block, key in enumerate(store.part_keys(product, stage)):
        part = store.read_part(
            product, stage, block, key, ["samples/", "sample_pixels/", "reflections/hkl"]
        )
        for row, (f0, f1, s0, s1), first in zip(
            part["samples/reflection"],
            part["samples/bbox"],
            part["samples/first_pixel"],
            strict=True,
        ):
            some = slice(first, first + (f1 - f0) * (s1 - s0))
            names = ("data", "model", "background", "z")
            boxes.append(
                {n: part[f"sample_pixels/{n}"][some].reshape(s1 - s0, f1 - f0) for n in names}
            )
            titles.append(" ".join(map(str, part["reflections/hkl"][row])))
        if len(boxes) >= COLUMNS:
            break
    return boxes[:COLUMNS], titles[:COLUMNS]


def _mosaic(figure: Any, boxes: list[dict[str, np.ndarray]], titles: list[str]) -> None:
    """Draw data, model and residual of shoeboxes, one below the other; data and model on one log
    scale.
    """
    figure.suptitle(
        "data, model (photons, log scale) and residual (from −5 σ, blue, to 5 σ, red)",
        fontsize=10,
        fontweight="bold",
    )
    axes = figure.subplots(3, COLUMNS, squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for name, row in zip(("data", "model", "residual"), axes, strict=True):
        row[0].set_ylabel(name)
    for column, (box, title) in enumerate(zip(boxes, titles, strict=True)):
        low = max(1.0, 0.7 * float(np.nanmedian(box["background"])))
        norm = LogNorm(low, max(2 * low, float(np.nanmax(box["model"], initial=2 * low))))
        gaps = style.PHOTONS.with_extremes(bad=style.PALE)
        for ax, name in zip(axes[:2, column], ("data", "model"), strict=True):
            ax.imshow(np.maximum(box[name], low), norm=norm, cmap=gaps)
        axes[2, column].imshow(box["z"], norm=Normalize(-5, 5), cmap=style.RESIDUAL)
        axes[0, column].set_title(title, fontsize=7, fontweight="normal", loc="center", pad=2)


def _by_resolution(axes: Any, table: dict, distances: Distances) -> None:
    axes.set_title("r.m.s.d. by resolution, mm")
    if len(distances.rows) < 20:
        style.empty(axes, "too few reflections with I ≥ 5 σ")
        return
    d = table["reflections/d"][distances.rows]
    edges = np.quantile(d, np.linspace(0, 1, 7))
    bins = [np.flatnonzero((d >= low) & (d <= high)) for low, high in pairwise(edges)]
    middle = [float(np.median(d[rows])) for rows in bins]
    for axis, color, direction in ((0, style.ORANGE, "radial"), (1, style.BLUE, "transverse")):
        for name, line in (("before", ":"), ("after", "-"), ("floor", "--")):
            values = [distances.rms(name, axis, some=rows) for rows in bins]
            label = {"before": "spots", "after": "pixels", "floor": "noise"}[name]
            axes.plot(
                middle, values, line, color=color, marker=".", ms=4, label=f"{direction}, {label}"
            )
    axes.invert_xaxis()
    axes.set(xlabel="d, Å", ylim=(0, 1.5 * axes.get_ylim()[1]))
    axes.legend(fontsize=6.5, ncols=2, loc="upper left")


def _sigma_z(axes: Any, values: np.ndarray) -> None:
    axes.set_title("σ_Z of each lattice")
    if not len(values):
        style.empty(axes, "no lattice was refined")
        return
    axes.hist(values, bins=style.n_bins(len(values)), color=style.PURPLE, alpha=0.65)
    axes.axvline(np.median(values), color=style.PURPLE, lw=1.5)
    axes.axvline(1.0, color=style.GREY, lw=1, ls=":")
    axes.set_ylabel("lattices")
    style.few_ticks(axes)


def _delta_psi(axes: Any, table: dict) -> None:
    """Draw mean change of Δψ of the strong reflections, and its spread, on each panel."""
    axes.set_title("Δψ of strong reflections by panel, degrees")
    strong = np.isfinite(table["reflections/fast_obs"])
    panel = table["reflections/panel"][strong]
    if not len(panel):
        style.empty(axes, "no reflection with I ≥ 5 σ")
        return
    panels = np.unique(panel)
    for name, shift, color in (("before_", -0.15, style.GREY), ("", 0.15, style.GREEN)):
        psi = np.rad2deg(table[f"reflections/delta_psi_{name}rad"][strong])
        mean = [psi[panel == p].mean() for p in panels]
        sd = [psi[panel == p].std() for p in panels]
        axes.errorbar(
            panels + shift,
            mean,
            sd,
            fmt="o",
            ms=4,
            color=color,
            label="before" if name else "after",
        )
    axes.axhline(0, color=style.PALE, lw=0.8)
    axes.set(
        xlabel="panel (mean and standard deviation)", xlim=(panels.min() - 0.6, panels.max() + 0.6)
    )
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.legend()


def _mosaicity(axes: Any, table: dict, against: truth.Refinement | None) -> None:
    """Draw N against η, with the truth's."""
    mine = _of_refined(table)
    axes.plot(
        mine["n_cells"].mean(axis=1),
        mine["eta_rad"] / DEG,
        ".",
        color=style.BLUE,
        alpha=0.6,
        label="refined",
    )
    if against is not None and len(against.angle):
        axes.plot(*against.true_mosaicity.T, "+", ms=12, mew=2, color=style.RED, label="truth")
    axes.set(
        title="domains and mosaic spread", xlabel="N, unit cells along an axis", ylabel="η, degrees"
    )
    axes.legend()


def _misset(axes: Any, table: dict, against: truth.Refinement | None) -> None:
    """Draw misorientation where truth is known, else how far lattices turned."""
    if against is None or not len(against.angle):
        turned = np.linalg.norm(_of_refined(table)["misset_rad"], axis=1)
        style.histogram(axes, turned / DEG, "turned", style.GREEN)
        axes.set(title="turned by stage 1", xlabel="degrees", ylabel="lattices")
        return
    style.histogram(axes, against.angle_before / DEG, "spots", style.GREY)
    style.histogram(axes, against.angle / DEG, "pixels", style.GREEN)
    axes.set(title="misorientation from truth", xlabel="degrees", ylabel="lattices")
    axes.legend()


def _pulls(axes: Any, against: truth.Refinement | None, uncertainty: str) -> None:
    """Draw (found − true)/σ of each kind of parameter."""
    axes.set_title(f"pulls, σ of {'the sandwich' if uncertainty == 'sandwich' else 'Fisher'}")
    if against is None or not len(against.angle):
        style.empty(axes, "not a simulation")
        return
    pulls = against.pulls[uncertainty]
    axes.boxplot(list(pulls.values()), showfliers=False, medianprops={"color": style.RED})
    axes.set_xticks(
        range(1, len(pulls) + 1), [name.replace("_", " ") for name in pulls], fontsize=8
    )
    for level in (-1, 1):
        axes.axhline(level, color=style.GREY, lw=0.8, ls=":")
