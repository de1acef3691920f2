"""From the lattices of `spread` to what is said about the curves: parametrisations, fits, edges,
controls, outlook.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.curves import controls, dispersion, planning, smoothing
from spreadflow.analysis.curves.columns import NO_SITE_UNKNOWNS, SiteUnknowns
from spreadflow.analysis.curves.controls import Trial, Verdict
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.edges import REACH_EV, edges, metals
from spreadflow.analysis.curves.expand import RefinedCurves
from spreadflow.config import SpreadConfig, SpreadSection
from spreadflow.errors import ConfigError
from spreadflow.io.factor_files import NO_FILES, FactorFiles
from spreadflow.physics import anomalous
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.products import Spread, spread
from spreadflow.recipes import factors
from spreadflow.recipes.curve_nodes import nodes_of
from spreadflow.recipes.lattice_sums import LatticeSums

QUOTED = {"none": "free", "kramers_kronig": "kramers_kronig", "smooth": "smooth", "known": "known"}
"""`spread.restraint` → the fit whose curves are quoted."""

LATTICES_PER_UNKNOWN = 1.5
"""With at least this many lattices per unknown their scatter gives the whole covariance; with
fewer it gives one factor for all unknowns.
"""


def site_names(config: SpreadConfig) -> list[str]:
    """Return the names of the sites whose curves are refined."""
    return [site.label for site in config.structure_factors.sites]


def check(config: SpreadConfig) -> None:
    """Raise ConfigError where there is nothing to refine."""
    if not site_names(config):
        todo = "Name at least one."
        raise ConfigError("structure_factors.sites", "the metal sites", "none", todo)


def start_curves(model: StructureFactors) -> np.ndarray:
    """Return f′, f″ of the sites as the structure factors have them, (site, 2, channel)."""
    curves = model.anomalous[: model.n_sites]
    return np.stack([curves.real, curves.imag], axis=1)


def parametrisations(
    config: SpreadConfig,
    model: StructureFactors,
    energies_ev: np.ndarray,
    files: FactorFiles = NO_FILES,
    site_unknowns: SiteUnknowns = NO_SITE_UNKNOWNS,
) -> dict[str, Parametrisation]:
    """Return the unknowns and restraints of each fit, the quoted one first.

    model: structure factors whose curves are the start; energies_ev: (channel,); files: of
    `spread.known`; site_unknowns: what is unknown of sites beside their curves.
    """
    section = config.spread
    start = start_curves(model)
    nodes = nodes_of(section, energies_ev)
    free = dispersion.free(start, energies_ev, nodes)
    sigma_e = section.kramers_kronig_sigma_e
    if sigma_e:
        kramers_kronig = dispersion.toward_kramers_kronig(free, sigma_e)
    else:
        kramers_kronig = dispersion.kramers_kronig(
            start, energies_ev, nodes, line_e=section.line_sigma_e
        )
    smooth_sigma_e = (section.smooth_sigma_e[0], section.smooth_sigma_e[1])
    fits = {
        "free": free,
        "kramers_kronig": kramers_kronig,
        "smooth": dispersion.smooth(free, smooth_sigma_e),
    }
    if section.known is not None:
        elements = factors.elements(config.structure_factors, files)
        known_curves = [
            factors.curve(element, name, energies_ev, files)
            for element, name in zip(elements, section.known, strict=True)
        ]
        target = np.stack([np.real(known_curves), np.imag(known_curves)], axis=1)
        fits["known"] = dispersion.toward(free, target, section.known_sigma_e)
    quoted = QUOTED[section.restraint]
    return {
        name: dispersion.with_sites(p, site_unknowns.names, site_unknowns.sigma)
        for name, p in ({quoted: fits[quoted]} | fits).items()
    }


def curves_of(p: Parametrisation, refined: RefinedCurves | None) -> np.ndarray:
    """Return refined curves, or those of the start: (site, 2, channel) f′, f″."""
    return p.curves(np.zeros(len(p.names)) if refined is None else refined.theta)


def refine(
    lattices: LatticeSums, p: Parametrisation, before: RefinedCurves | None, limit_e: float
) -> tuple[RefinedCurves, float]:
    """Refine the curves of lattices, and X where it is unknown, from those of the cycle before, or
    from the start.

    Returns them, and how far they moved: the largest `change` of a node, in its σ. Collective.
    """
    theta = np.zeros(len(p.names)) if before is None else before.theta
    rest = None if before is None else before.rest
    refined = lattices.refine(p, Trial(theta), rest)
    return refined, change(p, refined, theta, limit_e)


def has_converged(changes: list[float], section: SpreadSection) -> bool:
    """Whether the cycles of curves and lattices end, given how far each moved the curves, in σ."""
    return changes[-1] < section.converged or len(changes) == section.max_cycles


def change(p: Parametrisation, refined: RefinedCurves, before: np.ndarray, limit_e: float) -> float:
    """Return the largest change of a node from θ `before`, in its σ, where curves are determined
    to `limit_e`.
    """
    sigma = p.sigma(refined.fisher)
    is_determined = np.zeros(sigma.shape, dtype=bool)
    is_determined[:, :, dispersion.band(sigma, limit_e)] = True
    step = p.at_nodes @ (refined.theta - before)
    moved = np.abs(step).reshape(sigma.shape) / sigma
    if is_determined.any():
        return float(moved[is_determined].max())
    return float(moved.max())


class QuotedFit(NamedTuple):
    """Refined curves, and the covariance that is quoted for them."""

    p: Parametrisation
    refined: RefinedCurves
    noise: np.ndarray
    """(theta, theta) covariance of the pixels' slope, restraints left out"""
    kind: str
    """where the noise is from: sandwich, scaled or fisher"""
    bias: np.ndarray
    """(theta,) how far smoothness has likely moved θ; zero where there is no such restraint"""

    @property
    def covariance(self) -> np.ndarray:
        """(theta, theta) mean squares of the error of θ as quoted: covariance and bias."""
        return self.errors(self.noise)

    def errors(self, noise: np.ndarray) -> np.ndarray:
        """Return the mean squares (theta, theta) of the error of θ.

        noise: (theta, theta) covariance of the pixels' slope.
        """
        return self.refined.covariance(noise) + np.outer(self.bias, self.bias)

    @property
    def largest_bias(self) -> float:
        """Largest likely bias of a node, in the σ that it would have without."""
        sigma = self.p.sigma(self.refined.covariance(self.noise)).ravel()
        return float(np.max(np.abs(self.p.at_nodes @ self.bias) / sigma))


def quoted_fit(p: Parametrisation, refined: RefinedCurves, uncertainty: str) -> QuotedFit:
    """Return refined curves with the covariance that is quoted.

    refined: with unbiased scores; uncertainty: `fisher`, or `sandwich`, from the scatter of
    lattices. With too few lattices their scatter gives no matrix, but one factor (`scaled`).
    """
    pixels = refined.of_pixels
    noise = pixels
    kind = uncertainty
    if uncertainty == "sandwich":
        noise = refined.scatter
        if len(refined.scores) < LATTICES_PER_UNKNOWN * len(refined.theta):
            fisher = refined.fisher
            factor = np.trace(fisher @ noise) / np.trace(fisher @ pixels)
            noise = max(float(factor), 1.0) * pixels
            kind = "scaled"
    bias = np.zeros_like(refined.theta)
    if p.is_smooth:
        bias = smoothing.bias(p, refined.theta, pixels, noise)
    return QuotedFit(p, refined, noise, kind, bias)


def all_fits(
    config: SpreadConfig,
    model: StructureFactors,
    refined: RefinedCurves,
    lattices: LatticeSums,
    files: FactorFiles = NO_FILES,
) -> dict[str, QuotedFit]:
    """Return the curves of every fit, the quoted one, which is `refined`, first. Collective."""
    fits: dict[str, QuotedFit] = {}
    sites = lattices.unknown.sites
    for name, p in parametrisations(config, model, lattices.energies_ev, files, sites).items():
        curves = refined
        if fits:
            first = next(iter(fits.values()))
            theta = first.refined.theta
            start = controls.nearest(p, first.p.curves(theta), theta)
            curves = lattices.refine(p, Trial(start), curves.rest)
        curves = curves._replace(scores=lattices.unbiased_scores(p, curves))
        fits[name] = quoted_fit(p, curves, config.spread.uncertainty)
    return fits


def edge_rows(
    fits: dict[str, QuotedFit], elements: list[str], energies_ev: np.ndarray
) -> spread.Edges:
    """Return the table `edges`.

    Smoothed curves have no edge that could be trusted, and sites of unlike elements no difference.
    """
    rows = []
    is_alike = np.equal.outer(elements, elements)
    shapes = metals(elements, energies_ev)
    for number, fit in enumerate(fits.values()):
        if fit.p.is_smooth:
            continue
        refined = fit.refined
        fit_edges = edges(fit.p, refined.theta, refined.of_pixels, shapes, noise=fit.noise)
        sigma = np.sqrt(np.diag(fit_edges.covariance))
        differences = np.where(is_alike, fit_edges.difference_ev, np.nan)
        errors = np.where(is_alike, fit_edges.difference_sigma_ev, np.nan)
        for site in range(len(sigma)):
            row = {
                "fit": number,
                "site": site,
                "energy_ev": fit_edges.energy_ev[site],
                "sigma_ev": sigma[site],
                "difference_ev": differences[site],
                "difference_sigma_ev": errors[site],
            }
            rows.append(row)
    return Spread.edges.from_rows(rows)


def without_edge(edges: spread.Edges, sites: list[str]) -> list[str]:
    """Return a sentence for each site that has no edge in the first fit that has any."""
    first = edges[edges.fit == edges.fit[:1]]
    names = [sites[site] for site in first.site[np.isnan(first.energy_ev)]]
    place = f"within {REACH_EV:g} eV of its metal's and within the channels"
    return [f"{name}: no edge {place}" for name in names]


def curve_rows(fits: dict[str, QuotedFit]) -> spread.Curves:
    """Return the table `curves`: each node of each site in each fit."""
    rows = []
    for number, fit in enumerate(fits.values()):
        start = fit.p.reference_at_nodes
        sigma = fit.p.sigma(fit.covariance)
        fisher = fit.p.sigma(fit.refined.fisher)
        values = start + (fit.p.at_nodes @ fit.refined.theta).reshape(start.shape)
        for site in range(len(start)):
            for node, energy in enumerate(fit.p.nodes_ev):
                row = {"fit": number, "site": site, "energy_ev": energy}
                for kind, name in enumerate(("fp", "fdp")):
                    place = site, kind, node
                    row[name] = values[place]
                    row[f"{name}_sigma"] = sigma[place]
                    row[f"{name}_fisher"] = fisher[place]
                    row[f"{name}_start"] = start[place]
                rows.append(row)
    return Spread.curves.from_rows(rows)


def starts(
    curves: np.ndarray, elements: list[str], energies_ev: np.ndarray
) -> dict[str, np.ndarray]:
    """Return curves (site, 2, channel) from which the refinement is started again, by name.

    A single site has no other to be swapped with or to be made identical to.
    """
    metal = np.stack([anomalous.site(element, "metallic", energies_ev) for element in elements])
    metallic = {"metallic": np.stack([metal.real, metal.imag], axis=1)}
    if len(curves) == 1:
        return metallic
    return metallic | {
        "swapped": np.roll(curves, 1, axis=0),
        "identical": np.broadcast_to(curves.mean(axis=0), curves.shape),
    }


def verdicts(
    fits: dict[str, QuotedFit],
    lattices: LatticeSums,
    model: StructureFactors,
    elements: list[str],
    half: np.ndarray,
    more_starts: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> list[Verdict]:
    """Return the controls of the quoted curves. Collective.

    half: (lattice,) half set of each lattice, 0 or 1; more_starts: name → curves (site, 2, channel)
    to start from again, beside those of `starts`.
    """
    fit = next(iter(fits.values()))
    p = fit.p
    curves = p.curves(fit.refined.theta)
    n = lattices.n
    photons = lattices.photons
    is_in_band = np.zeros(len(p.nodes_ev), dtype=bool)
    is_in_band[dispersion.weak_directions(p, fit.refined.of_pixels).band] = True
    changes = controls.Changes(
        starts=starts(curves, elements, p.energies_ev) | dict(more_starts),
        half=half,
        wrong_index=lambda columns, numbers: controls.wrong_index(columns, model),
        other_spectrum=lambda columns, numbers: controls.other_spectrum(
            columns, photons[numbers], photons[(numbers + n // 2) % n]
        ),
    )
    return controls.verdicts(
        lambda trial: lattices.again(p, trial, fit.refined),
        p,
        fit.refined,
        changes,
        band=is_in_band,
        sigma=p.sigma(fit.covariance).ravel(),
    )


def channel_rows(fit: QuotedFit, lattices: LatticeSums) -> spread.Channels:
    """Return the table `channels`. Collective."""
    residual, sigma = lattices.residuals(fit.p, fit.refined)
    return Spread.channels(
        energy_ev=fit.p.energies_ev,
        photons=lattices.photons.mean(axis=0),
        residual=residual,
        residual_sigma=sigma,
    )


def value_rows(fits: dict[str, QuotedFit]) -> spread.Values:
    """Return the table `values`: covariances of all values at the nodes."""
    number = []
    fisher = []
    sandwich = []
    for fit_number, fit in enumerate(fits.values()):
        at_nodes = fit.p.at_nodes
        number.append(np.full(len(at_nodes), fit_number))
        fisher.append(at_nodes @ fit.refined.fisher @ at_nodes.T)
        sandwich.append(at_nodes @ fit.errors(fit.refined.scatter) @ at_nodes.T)
    return Spread.values(
        fit=np.concatenate(number),
        fisher=np.concatenate(fisher),
        sandwich=np.concatenate(sandwich),
    )


def outlook(fits: dict[str, QuotedFit], elements: list[str]) -> dict[str, float | None]:
    """Return how many lattices like these bring σ of the quoted curves to the goal, by kind of
    curve (`fp`, `fdp`); where these are smoothed, of the first that are not. None = no number does.

    Where X is unknown it is σ of the shapes, the curves less their means over the band, as a
    constant of f′ rests on the model of X, which no lattice makes better. The information of a
    lattice is that of its pixels, reduced by the ratio of the counted to the scattered variance at
    the nodes of the band. Nodes outside it do not count: there may be no light, and the curves are
    what the restraints make them.
    """
    fit = next(fit for fit in fits.values() if not fit.p.is_smooth)
    p = fit.p
    fisher = fit.refined.fisher
    pixels = fit.refined.of_pixels
    mean_ev = float(p.energies_ev.mean())
    edges_ev = [anomalous.nearest_edge(element, mean_ev) for element in elements]
    band = np.add.outer(edges_ev, planning.BAND_EV)
    needed: dict[str, float | None] = {"fp": None, "fdp": None}
    if not planning.inside(p, band).any():
        return needed
    rows = planning.rows_of_quantities(p, band)
    for name in needed:
        of_curve = name if fit.refined.rest is None else f"shape_{name}"
        quantity = planning.QUANTITIES.index(of_curve)
        read = rows[quantity] @ fisher
        counted = np.einsum("nt,tu,nu->", read, pixels, read, optimize=True)
        scattered = np.einsum("nt,tu,nu->", read, fit.noise, read, optimize=True)
        of_lattice = counted / scattered * pixels / len(fit.refined.losses)
        n = planning.lattices_for(planning.GOAL_E, of_lattice, p, band, quantity)
        needed[name] = n if np.isfinite(n) else None
    return needed
