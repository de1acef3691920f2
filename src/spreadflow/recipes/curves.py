"""From the lattices of `spread` to what is told of the curves: parametrisations, fits, edges, controls, files."""

import csv
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.curves import controls, dispersion, expand, planning
from spreadflow.analysis.curves.controls import Verdict
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.edges import REACH_EV, edges, metals
from spreadflow.analysis.curves.expand import RefinedCurves
from spreadflow.config import SpreadConfig
from spreadflow.errors import ConfigError
from spreadflow.io import store
from spreadflow.physics import anomalous
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.recipes import factors
from spreadflow.recipes.lattices import Lattices

QUOTED = {"none": "free", "kramers_kronig": "kramers_kronig", "smooth": "smooth", "known": "known"}
"""`spread.restraint` → fit"""
ENOUGH = 1.5
"""lattices per unknown from which on their scatter gives the whole covariance; with fewer, one factor for all"""


def site_names(config: SpreadConfig) -> list[str]:
    return [site.atom for site in config.structure_factors.sites]


def check(config: SpreadConfig) -> None:
    """Raise ConfigError where there is nothing to refine, or other numbers of sites and of known curves."""
    sites = site_names(config)
    known = config.spread.known
    if not sites:
        raise ConfigError(
            "structure_factors.sites", "the metal sites", "none", "Name at least one."
        )
    if known is not None and len(known) != len(sites):
        raise ConfigError(
            "spread.known",
            f"{len(sites)} curves, one for each of {', '.join(sites)}",
            known,
            "Correct it.",
        )


def _nodes(config: SpreadConfig, energies_ev: np.ndarray) -> np.ndarray:
    """(node,) eV: on channels, from the first within the range."""
    section = config.spread
    apart = np.median(np.diff(energies_ev))
    if section.step_ev < apart - 1e-6:
        expected = f"at least the distance of channels, {apart:g} eV"
        raise ConfigError(
            "spread.step_ev", expected, section.step_ev, "Raise it: pixels know nothing in between."
        )
    low, high = section.range_ev or (energies_ev[0], energies_ev[-1])
    nodes = planning.nodes(
        energies_ev[(energies_ev >= low) & (energies_ev <= high)], section.step_ev
    )
    if len(nodes) < 2:
        expected = f"at least two nodes within {low:g}-{high:g} eV"
        raise ConfigError(
            "spread.step_ev", expected, section.step_ev, "Lower it, or widen spread.range_ev."
        )
    return nodes


def parametrisations(
    config: SpreadConfig, of: StructureFactors, energies_ev: np.ndarray
) -> dict[str, Parametrisation]:
    """Fit → unknowns and restraints, the quoted one first. energies_ev: (channel,)."""
    section = config.spread
    curves = of.anomalous[: of.n_sites]
    start = np.stack([curves.real, curves.imag], axis=1)
    nodes = _nodes(config, energies_ev)
    free = dispersion.free(start, energies_ev, nodes)
    sigma = section.kramers_kronig_sigma_e
    out = {
        "free": free,
        "kramers_kronig": dispersion.toward_kramers_kronig(free, sigma)
        if sigma
        else dispersion.kramers_kronig(start, energies_ev, nodes),
        "smooth": dispersion.smooth(free, (section.smooth_sigma_e[0], section.smooth_sigma_e[1])),
    }
    if section.known is not None:
        pairs = zip(factors.elements(config.structure_factors), section.known, strict=True)
        known = [factors.curve(element, name, energies_ev) for element, name in pairs]
        towards = np.stack([np.real(known), np.imag(known)], axis=1)
        out["known"] = dispersion.toward(free, towards, section.known_sigma_e)
    quoted = QUOTED[section.restraint]
    return {quoted: out[quoted]} | out


def change(p: Parametrisation, refined: RefinedCurves, before: np.ndarray, limit_e: float) -> float:
    """Largest change of a node from θ `before`, in its σ, where the curves are determined to `limit_e`."""
    sigma = p.sigma(refined.fisher)
    some = np.zeros(sigma.shape, dtype=bool)
    some[:, :, dispersion.band(sigma, limit_e)] = True
    moved = np.abs(p.at_nodes @ (refined.theta - before)).reshape(sigma.shape) / sigma
    return float(moved[some].max() if some.any() else moved.max())


class QuotedFit(NamedTuple):
    """A fit, and how well it is said to be known."""

    p: Parametrisation
    refined: RefinedCurves
    noise: np.ndarray
    """(theta, theta) covariance of the pixels' slope, restraints left out"""
    kind: str
    """where that is from: sandwich, scaled or fisher"""

    @property
    def covariance(self) -> np.ndarray:
        """(theta, theta) as quoted."""
        return self.refined.covariance(self.noise)


def told(p: Parametrisation, refined: RefinedCurves, uncertainty: str) -> QuotedFit:
    """The covariance that is quoted. With too few lattices their scatter gives no matrix, but one factor (`scaled`)."""
    fisher = refined.fisher
    pixels = refined.of_pixels
    scatter = refined.scatter
    if uncertainty == "fisher":
        return QuotedFit(p, refined, pixels, "fisher")
    if len(refined.scores) >= ENOUGH * len(refined.theta):
        return QuotedFit(p, refined, scatter, "sandwich")
    factor = np.trace(fisher @ scatter) / np.trace(fisher @ pixels)
    return QuotedFit(p, refined, max(float(factor), 1.0) * pixels, "scaled")


def all_fits(
    config: SpreadConfig, of: StructureFactors, refined: RefinedCurves, lattices: Lattices
) -> dict[str, QuotedFit]:
    """Fit → curves, the quoted one, which is `refined`, first. Collective."""
    out: dict[str, QuotedFit] = {}
    for name, p in parametrisations(config, of, lattices.energies_ev).items():
        if out:
            first = next(iter(out.values()))
            near = controls.nearest(p, first.p.curves(first.refined.theta))
            made = expand.refine(lattices.evaluator(p), p, near)
        else:
            made = refined
        out[name] = told(p, made, config.spread.uncertainty)
    return out


def edge_rows(
    fits: dict[str, QuotedFit], elements: list[str], energies_ev: np.ndarray
) -> list[dict]:
    """Rows of the table `edges`; smoothed curves have none that could be trusted, unlike elements no difference."""
    out = []
    alike = np.equal.outer(elements, elements)
    for f, fit in enumerate(fits.values()):
        if fit.p.is_smooth:
            continue
        shapes = metals(elements, energies_ev)
        made = edges(fit.p, fit.refined.theta, fit.refined.of_pixels, shapes, noise=fit.noise)
        sigma = np.sqrt(np.diag(made.covariance))
        differences = (
            np.where(alike, d, np.nan) for d in (made.difference_ev, made.difference_sigma_ev)
        )
        for site, (difference, error) in enumerate(zip(*differences, strict=True)):
            row = {
                "fit": f,
                "site": site,
                "energy_ev": made.energy_ev[site],
                "sigma_ev": sigma[site],
            }
            out.append(row | {"difference_ev": difference, "difference_sigma_ev": error})
    return out


def without_edge(rows: list[dict], sites: list[str]) -> list[str]:
    """A sentence for each site that has no edge in the first fit that has any. rows: as of `edge_rows`."""
    none = [
        sites[row["site"]]
        for row in rows
        if row["fit"] == rows[0]["fit"] and np.isnan(row["energy_ev"])
    ]
    return [
        f"{site}: no edge within {REACH_EV:g} eV of its metal's and within the channels"
        for site in none
    ]


def curve_rows(fits: dict[str, QuotedFit]) -> list[dict]:
    """Rows of the table `curves`."""
    out = []
    for f, fit in enumerate(fits.values()):
        start = fit.p.reference_at_nodes
        sigma = fit.p.sigma(fit.covariance)
        fisher = fit.p.sigma(fit.refined.fisher)
        values = start + (fit.p.at_nodes @ fit.refined.theta).reshape(start.shape)
        for site in range(len(start)):
            for node, energy in enumerate(fit.p.nodes_ev):
                row = {"fit": f, "site": site, "energy_ev": energy}
                for kind, name in enumerate(("fp", "fdp")):
                    at = site, kind, node
                    row |= {
                        name: values[at],
                        f"{name}_sigma": sigma[at],
                        f"{name}_fisher": fisher[at],
                    }
                    row[f"{name}_start"] = start[at]
                out.append(row)
    return out


def starts(
    curves: np.ndarray, elements: list[str], energies_ev: np.ndarray
) -> dict[str, np.ndarray]:
    """Curves (site, 2, channel) to begin from again; a single site has none to swap with, nor to be like."""
    metal = np.stack([anomalous.site(element, "metallic", energies_ev) for element in elements])
    out = {"metallic": np.stack([metal.real, metal.imag], axis=1)}
    if len(curves) == 1:
        return out
    return out | {
        "swapped": np.roll(curves, 1, axis=0),
        "identical": np.broadcast_to(curves.mean(axis=0), curves.shape),
    }


def verdicts(
    fits: dict[str, QuotedFit], lattices: Lattices, of: StructureFactors, elements: list[str]
) -> list[Verdict]:
    """The controls of the quoted curves. Collective."""
    fit = next(iter(fits.values()))
    p = fit.p
    curves = fit.p.curves(fit.refined.theta)
    n = lattices.n
    photons = lattices.rows["photons"][lattices.used]
    sigma = p.sigma(fit.covariance)
    inside = np.zeros(len(p.nodes_ev), dtype=bool)
    inside[dispersion.weak_directions(p, fit.refined.of_pixels).band] = True
    return controls.verdicts(
        partial(lattices.evaluator, p),
        p,
        fit.refined,
        starts=starts(curves, elements, p.energies_ev),
        index=lambda i, lattice: controls.wrong_index(lattice, of),
        spectrum=lambda i, lattice: controls.other_spectrum(
            lattice, photons[i], photons[(i + n // 2) % n]
        ),
        band=inside,
        sigma=sigma.ravel(),
    )


def channel_rows(fit: QuotedFit, lattices: Lattices) -> dict[str, np.ndarray]:
    """The table `channels`. Collective."""
    residual, sigma = lattices.residuals(fit.p.curves(fit.refined.theta))
    photons = lattices.rows["photons"][lattices.used].mean(axis=0)
    return {
        "energy_ev": fit.p.energies_ev,
        "photons": photons,
        "residual": residual,
        "residual_sigma": sigma,
    }


def columns(rows: list[dict]) -> dict[str, np.ndarray]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def value_rows(fits: dict[str, QuotedFit]) -> dict[str, np.ndarray]:
    """The table `values`: covariances of all values at the nodes."""
    out: dict[str, list] = {"fit": [], "fisher": [], "sandwich": []}
    for f, fit in enumerate(fits.values()):
        out["fit"].append(np.full(len(fit.p.at_nodes), f))
        for name in ("fisher", "sandwich"):
            out[name].append(fit.p.at_nodes @ getattr(fit.refined, name) @ fit.p.at_nodes.T)
    return {name: np.concatenate(blocks) for name, blocks in out.items()}


def outlook(fit: QuotedFit, elements: list[str]) -> dict[str, float]:
    """How many lattices like these take σ to the goal, by kind of curve.

    What a lattice says is the pixels' information, less as its noise shows to be more than that at the nodes of the
    band: elsewhere it may be dark, and curves are what restraints say.
    """
    p = fit.p
    fisher = fit.refined.fisher
    pixels = fit.refined.of_pixels
    at = [anomalous.nearest_edge(element, float(p.energies_ev.mean())) for element in elements]
    band = np.add.outer(at, planning.BAND_EV)
    right, noisy = (np.square(p.sigma(fisher @ noise @ fisher)) for noise in (pixels, fit.noise))
    out = {}
    inside = planning.inside(p, band)
    for kind, name in enumerate(("fp", "fdp")):
        factor = right[:, kind].sum(where=inside[:, kind]) / noisy[:, kind].sum(
            where=inside[:, kind]
        )
        each = factor * pixels / len(fit.refined.scores)
        out[name] = planning.lattices_for(planning.GOAL_E, each, p, band, kind)
    return out


def write_csv(
    path: Path, table: dict[str, np.ndarray], fits: dict[str, str], sites: list[str]
) -> None:
    """The table `curves`, a line for each node, with names. fits: name → where its σ are from."""
    kinds = list(fits.items())
    named = table | {
        "fit": [kinds[f][0] for f in table["fit"]],
        "site": [sites[s] for s in table["site"]],
    }
    named |= {"sigma_kind": [kinds[f][1] for f in table["fit"]]}
    with store.replacing(path) as temporary, open(temporary, "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(named)
        writer.writerows(zip(*named.values(), strict=True))
