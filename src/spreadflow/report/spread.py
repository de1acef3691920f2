"""Figures and picture of `spread`: the curves of the sites, their errors and edges, and what the
controls say.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from spreadflow.analysis.curves import dispersion
from spreadflow.analysis.curves.edges import edges, metals
from spreadflow.analysis.curves.planning import BAND_EV
from spreadflow.errors import SpreadOutcome
from spreadflow.io import store
from spreadflow.physics import anomalous
from spreadflow.report import style, truth
from spreadflow.report.index import of_run

KINDS = ("f′", "f″")
KEYS = ("fp", "fdp")
MARGIN_E = 2.0
"""By which curves are seen beyond those known by name."""

REFERENCES = {"metallic": "-.", "reduced": "--", "oxidized": ":"}
"""Curves known by name, and their lines in the picture."""


class Fit(NamedTuple):
    """Curves at their nodes, all (site, 2, node)."""

    values: np.ndarray
    sigma: np.ndarray
    """as quoted"""
    fisher: np.ndarray
    """σ if the model is right"""
    start: np.ndarray


class Curves(NamedTuple):
    """What the product holds, by name."""

    told: dict
    table: dict
    sites: list[str]
    nodes_ev: np.ndarray
    fits: dict[str, Fit]
    """the quoted one first"""
    edges: dict[str, dict[str, np.ndarray]]
    """fit that has edges → column → (site, ...)"""
    true: dict[str, truth.Curve]
    """site → curve that was simulated; empty where one of them is not known"""

    @property
    def quoted(self) -> Fit:
        return next(iter(self.fits.values()))

    @property
    def compared_ev(self) -> np.ndarray:
        """(2,) the band over which curves are compared, about the edge of the table."""
        mean = float(self.table["channels/energy_ev"].mean())
        return anomalous.nearest_edge(self.told["elements"][0], mean) + np.array(BAND_EV)

    @property
    def compared(self) -> np.ndarray:
        """(node,) bool"""
        low, high = self.compared_ev
        return (self.nodes_ev >= low) & (self.nodes_ev <= high)

    @property
    def true_values(self) -> np.ndarray | None:
        """(site, 2, node)"""
        return (
            np.array([self.true[name].at(self.nodes_ev) for name in self.sites])
            if self.true
            else None
        )


def make(stage: str, products: list[Path], manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all runs, and the page."""
    of = _read(stage, products[0], manifests)
    figures = _counts(of) | _precision(of) | _edges(of) | _controls(of)
    return figures, _picture(stage, of, figures)


def _read(stage: str, product: Path, manifests: list[Path]) -> Curves:
    table = store.read(product, stage)
    told = store.attributes(product, stage)
    sites = told["sites"]
    fits = {}
    of_edges = {}
    for f, name in enumerate(told["fits"]):
        fits[name] = _fit(table, f, len(sites))
        if (mine := table["edges/fit"] == f).any():
            of_edges[name] = {
                path.split("/")[1]: c[mine]
                for path, c in table.items()
                if path.startswith("edges/")
            }
    nodes = table["curves/energy_ev"][: len(table["curves/fit"]) // (len(fits) * len(sites))]
    paths = [path for name in told["runs"] if (path := of_run(name, manifests))]
    true = next((curves for path in paths if (curves := truth.true_curves(path))), {})
    return Curves(
        told, table, sites, nodes, fits, of_edges, true if set(sites) <= true.keys() else {}
    )


def _fit(table: dict, f: int, n_sites: int) -> Fit:
    mine = {
        name: column[table["curves/fit"] == f]
        for name, column in table.items()
        if name.startswith("curves/")
    }
    ends = ("", "_sigma", "_fisher", "_start")
    return Fit(
        *(
            np.stack([mine[f"curves/{key}{end}"].reshape(n_sites, -1) for key in KEYS], 1)
            for end in ends
        )
    )


# ---------------------------------------------------------------- figures


def _counts(of: Curves) -> dict[str, Any]:
    """Return what went in, and how it went."""
    told = of.told
    end = of.table["lattices/outcome"]
    mine = {
        n.split("/")[1]: c[end == SpreadOutcome.USED]
        for n, c in of.table.items()
        if n.startswith("lattices/")
    }

    def median(values):
        return float(np.median(values)) if len(values) else None

    return {
        "n_lattices": len(mine["loss"]),
        "n_lattices_in": len(end),
        "outcomes": {name.name.lower(): int((end == name).sum()) for name in SpreadOutcome},
        "cycles": len(told["changes"]),
        "changes": told["changes"],
        "converged": bool(told["converged"]),
        "mosaicity": told["mosaicity"],
        "d_min": told["d_min"],
        "d_max": told["config"]["d_max"],
        "restraint": told["config"]["restraint"],
        "n_parameters": told["n_parameters"],
        "n_undetermined": told["n_undetermined"],
        "sigma_kind": told["sigma_kinds"][0],
        "sigma_z_median": median(mine["sigma_z"]),
        "model_error_median": median(mine["model_error"]),
        "loss_fall_per_lattice": float(np.mean(mine["loss_start"] - mine["loss"]))
        if len(mine["loss"])
        else None,
        "seconds_per_lattice_per_core": median(mine["seconds"]),
    }


def _rms(values: np.ndarray) -> float | None:
    return float(np.sqrt(np.mean(values**2))) if values.size else None


def _precision(of: Curves) -> dict[str, Any]:
    """Return σ, and errors where truth is known, over the band that is compared; other fits beside
    the quoted one.
    """
    known = dispersion.band(of.quoted.sigma, of.told["config"]["band_sigma_e"])
    inside = of.nodes_ev[known]
    out = {"compared_ev": of.compared_ev, "n_nodes": int(of.compared.sum())}
    out["band_ev"] = [inside[0], inside[-1]] if len(inside) else None
    out |= _of_fit(of, of.quoted) | {"pull_sd": None, "pull_mean": None}
    if (true := of.true_values) is not None and of.compared.any():
        pulls = ((of.quoted.values - true) / of.quoted.sigma)[:, :, of.compared]
        out |= {"pull_sd": float(pulls.std()), "pull_mean": float(pulls.mean())}
    goal = {key: _lattices(n) for key, n in of.told["lattices_for_goal"].items()}
    return out | {
        "lattices_for_goal": goal,
        "weak": of.told["weak"],
        "fits": {n: _row(of, n) for n in of.fits},
    }


def _of_fit(of: Curves, fit: Fit) -> dict[str, float | None]:
    """Return root mean squares over sites and nodes, e."""
    out: dict[str, float | None] = {}
    true = of.true_values
    for name, values in (
        ("rms", None if true is None else fit.values - true),
        ("crlb", fit.fisher),
    ):
        out |= {
            f"{name}_{key}": None if values is None else _rms(values[:, i][:, of.compared])
            for i, key in enumerate(KEYS)
        }
    return out | {
        f"sigma_{key}": _rms(fit.sigma[:, i][:, of.compared]) for i, key in enumerate(KEYS)
    }


def _row(of: Curves, name: str) -> dict[str, Any]:
    """Return the figures of one fit, for a table."""
    difference, sigma = _difference(of, name)
    kind = of.told["sigma_kinds"][list(of.fits).index(name)]
    return (
        {"sigma_kind": kind}
        | _of_fit(of, of.fits[name])
        | {"edge_difference_ev": difference, "edge_difference_sigma_ev": sigma}
    )


def _lattices(n: float) -> int | None:
    return int(np.ceil(n)) if np.isfinite(n) else None


def _difference(of: Curves, fit: str) -> tuple[float | None, float | None]:
    """Return E0 of the first site less that of the second, and its σ; None where there is none."""
    told = of.edges.get(fit)
    if told is None or len(of.sites) < 2:
        return None, None
    return _number(told["difference_ev"][0, 1]), _number(told["difference_sigma_ev"][0, 1])


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _edges(of: Curves) -> dict[str, Any]:
    """Return E0 of the sites: from the quoted fit, or the free one where that has none that could
    be trusted.
    """
    fit = next(iter(of.edges))
    told = of.edges[fit]
    true = _true_edges(of)
    difference, sigma = _difference(of, fit)
    each = zip(of.sites, told["energy_ev"], told["sigma_ev"], true, strict=True)
    names = ("e0_ev", "e0_sigma_ev", "true_e0_ev")
    return {
        "edges_from": fit,
        "sites": {
            site: dict(zip(names, map(_number, values), strict=True)) for site, *values in each
        },
        "edge_difference_ev": difference,
        "edge_difference_sigma_ev": sigma,
        "true_edge_difference_ev": None if difference is None else _number(true[0] - true[1]),
    }


def _true_edges(of: Curves) -> list[float]:
    """Return E0 of each site by the same estimator from the true curves, weighted as pixels weigh
    the free ones, or NaN.
    """
    if not of.true:
        return [np.nan] * len(of.sites)
    energies = of.table["channels/energy_ev"]
    p = dispersion.free(
        np.array([of.true[name].at(energies) for name in of.sites]), energies, of.nodes_ev
    )
    fisher = of.table["values/fisher"][of.table["values/fit"] == list(of.fits).index("free")]
    pixels = np.linalg.inv(fisher) - p.restraints
    found = edges(p, np.zeros(len(p.names)), pixels, metals(of.told["elements"], energies))
    return found.energy_ev.tolist()


def _controls(of: Curves) -> dict[str, Any]:
    rows = of.told["controls"]
    return {
        "controls": {row["name"]: row["passed"] for row in rows},
        "verdicts": {
            row["name"]: {key: row[key] for key in ("passed", "figure", "bar")} for row in rows
        },
    }


# ---------------------------------------------------------------- the page


def _picture(stage: str, of: Curves, figures: dict) -> Figure:
    say = style.say
    low, high = figures["compared_ev"]
    page = style.page(
        f"{stage}: f′ and f″ of {', '.join(of.sites)}",
        f"{say(figures['n_lattices'])} lattices, {figures['d_max']:g} to {figures['d_min']:g} Å · "
        f"f′ ± {say(figures['sigma_fp'], 2)} e, f″ ± {say(figures['sigma_fdp'], 2)} e over "
        f"{low:.0f}-{high:.0f} eV "
        f"({figures['sigma_kind']}; bound {say(figures['crlb_fp'], 2)}, "
        f"{say(figures['crlb_fdp'], 2)}) · "
        f"{figures['n_parameters']} parameters ({figures['n_undetermined']} from restraints), "
        f"{figures['mosaicity']} mosaicity, {figures['cycles']} cycles · "
        f"{say(figures['seconds_per_lattice_per_core'], 2)} s per lattice and core",
        15.0,
        9.6,
    )
    left, right = page.subfigures(1, 2, width_ratios=[2.1, 1])  # type: ignore[misc]
    top, bottom = left.subfigures(2, 1, height_ratios=[2.4, 1])
    axes = top.subplots(2, len(of.sites), squeeze=False, sharex=True)
    for site, column in enumerate(axes.T):
        for kind, ax in enumerate(column):
            _curve(ax, of, site, kind, figures)
    pair = bottom.subplots(1, 2, sharex=True)
    _spectrum(pair[0], of)
    _residual(pair[1], of)
    upper, lower = right.subfigures(2, 1, height_ratios=[1.25, 1])
    _verdicts(upper.subplots(), figures)
    _correlation(lower, of)
    return page


def _curve(axes: Any, of: Curves, site: int, kind: int, figures: dict) -> None:
    """Draw one curve with its error band, among the true one or those that are known by name."""
    fine = np.arange(of.nodes_ev[0], of.nodes_ev[-1], 0.25)
    named = {name: anomalous.site(of.told["elements"][site], name, fine) for name in REFERENCES}
    parts = {name: (curve.real, curve.imag)[kind] for name, curve in named.items()}
    if of.true:
        axes.plot(
            fine, of.true[of.sites[site]].at(fine)[kind], color=style.INK, lw=1.3, label="truth"
        )
    else:
        for name, line in REFERENCES.items():
            axes.plot(fine, parts[name], line, color=style.GREY, lw=1, label=name)
    also = "kramers_kronig"
    if also in of.fits and of.fits[also] is not of.quoted:
        _band(
            axes, of.nodes_ev, of.fits[also], site, kind, style.ORANGE, "dispersion relation", 0.1
        )
    _band(
        axes,
        of.nodes_ev,
        of.quoted,
        site,
        kind,
        style.BLUE,
        next(iter(of.fits)).replace("_", " "),
        0.22,
    )
    axes.plot(
        of.nodes_ev, of.quoted.start[site, kind], color=style.GREEN, lw=0.8, ls="--", label="start"
    )
    for edge in of.compared_ev:
        axes.axvline(edge, color=style.PALE, lw=1, zorder=0)
    title = f"{KINDS[kind]} of {of.sites[site]}, e"
    if kind == 1:
        axes.set_xlabel("eV")
        edge = figures["sites"][of.sites[site]]
        if (e0 := edge["e0_ev"]) is not None:
            axes.axvspan(
                e0 - edge["e0_sigma_ev"], e0 + edge["e0_sigma_ev"], color=style.RED, alpha=0.2, lw=0
            )
            axes.axvline(e0, color=style.RED, lw=1)
            title += f" (E0 = {e0:.1f} ± {edge['e0_sigma_ev']:.1f} eV)"
    low, high = min(map(np.min, parts.values())), max(map(np.max, parts.values()))
    axes.set(ylim=(low - MARGIN_E, high + MARGIN_E), title=title)
    if kind == site == 0:
        axes.legend(fontsize=7, loc="lower left")


def _band(
    axes: Any,
    nodes_ev: np.ndarray,
    fit: Fit,
    site: int,
    kind: int,
    color: str,
    label: str,
    alpha: float,
) -> None:
    value = fit.values[site, kind]
    sigma = fit.sigma[site, kind]
    axes.fill_between(nodes_ev, value - sigma, value + sigma, color=color, alpha=alpha, lw=0)
    axes.plot(nodes_ev, value, ".-", color=color, ms=3, lw=0.9, label=label)


def _spectrum(axes: Any, of: Curves) -> None:
    energies = of.table["channels/energy_ev"]
    photons = of.table["channels/photons"]
    axes.fill_between(energies, photons, step="mid", color=style.PURPLE, alpha=0.4, lw=0)
    axes.set(title="mean pulse, photons per channel", xlabel="eV", ylim=(0, None))


def _residual(axes: Any, of: Curves) -> None:
    """Draw where spectra are known to be bright enough to say anything."""
    t = {
        path.split("/")[1]: column
        for path, column in of.table.items()
        if path.startswith("channels/")
    }
    percent = 100 * t["residual"]
    sigma = 100 * t["residual_sigma"]
    fine = np.isfinite(sigma)
    axes.errorbar(
        t["energy_ev"][fine], percent[fine], sigma[fine], fmt=".", ms=4, lw=0.8, color=style.GREEN
    )
    axes.axhline(0, color=style.GREY, lw=0.8)
    top = 4 * float(np.median(sigma[fine])) if fine.any() else 1.0
    axes.set(
        title="(data − model)/model of Bragg photons by channel, %", xlabel="eV", ylim=(-top, top)
    )


def _verdicts(axes: Any, figures: dict) -> None:
    """Draw edges, what it would take, and the controls, as text."""
    axes.set_axis_off()
    lines = [
        (style.INK, text)
        for text in [*_sentences(figures), "", "controls" if figures["controls"] else ""]
    ]
    for name, verdict in figures["verdicts"].items():
        mark, color = ("✓", style.GREEN) if verdict["passed"] else ("✗", style.RED)
        lines.append((color, f"{mark} {name}: {style.say(verdict['figure'])}"))
    step = 1.0 / max(len(lines), 18)
    for row, (color, text) in enumerate(lines):
        axes.text(
            0, 1 - row * step, text, color=color, fontsize=9, va="top", transform=axes.transAxes
        )


def _sentences(f: dict) -> list[str]:
    say = style.say
    out = [
        f"E0({site}) = {style.measured(edge['e0_ev'], edge['e0_sigma_ev'], edge['true_e0_ev'])}"
        for site, edge in f["sites"].items()
    ]
    if f["edge_difference_ev"] is not None:
        names = " − ".join(f"E0({site})" for site in list(f["sites"])[:2])
        three = (
            f[name]
            for name in (
                "edge_difference_ev",
                "edge_difference_sigma_ev",
                "true_edge_difference_ev",
            )
        )
        out.append(f"{names} = {style.measured(*three)}")
    goal = f["lattices_for_goal"]
    out.append(
        f"σ of 0.1 e takes {style.about(goal['fp'])} lattices for f′, {style.about(goal['fdp'])} "
        "for f″"
    )
    if f["pull_sd"] is None:
        return out
    far = f"{say(f['rms_fp'], 2)} e, {say(f['rms_fdp'], 2)} e"
    return [*out, f"r.m.s. from truth {far}; sd of pulls {say(f['pull_sd'], 2)}"]


def _correlation(figure: Any, of: Curves) -> None:
    """Draw the correlations of all values of the quoted curves."""
    kind = "sandwich" if of.told["sigma_kinds"][0] == "sandwich" else "fisher"
    covariance = of.table[f"values/{kind}"][of.table["values/fit"] == 0]
    sigma = np.sqrt(np.diag(covariance))
    axes = figure.subplots()
    image = axes.imshow(covariance / np.outer(sigma, sigma), vmin=-1, vmax=1, cmap=style.RESIDUAL)
    size = len(of.nodes_ev)
    names = [f"{kind} {site}" for site in of.sites for kind in KINDS]
    axes.set_xticks(size * (np.arange(len(names)) + 0.5), names, fontsize=8)
    axes.set_yticks(size * (np.arange(len(names)) + 0.5), names, fontsize=8)
    axes.set_title("correlation of the values at the nodes")
    for line in size * np.arange(1, len(names)) - 0.5:
        axes.axvline(line, color=style.INK, lw=0.5)
        axes.axhline(line, color=style.INK, lw=0.5)
    figure.colorbar(image, ax=axes, shrink=0.7)
