"""What sets of lattices say about curves, and how far these are from the truth.

A set is a parabola in the curves of all channels about those that were refined from it. The curves
of several sets in any parametrisation follow from their parabolas, without their lattices.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import lattices
from spreadflow.analysis.curves import dispersion, edges, expand
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.expand import Normal, RefinedCurves
from spreadflow.physics import anomalous
from spreadflow.recipes import curves

BAND_EV = (7100.0, 7140.0)
"""First and last node that is scored, eV."""

STEP_EV = 2.0
"""Distance of the nodes, eV."""

VALENCES = ("oxidized", "reduced")
"""The true states of the two sites."""

ELEMENTS = ["Fe", "Fe"]
"""The elements of the sites."""


class Set(NamedTuple):
    """A set of lattices."""

    curves: np.ndarray
    """(site, 2, channel) refined from them"""
    normal: Normal
    """in the values of all channels, about these"""

    def at(self, curves: np.ndarray, p: Parametrisation) -> Normal:
        """Return the normal equations in θ about other curves (site, 2, channel)."""
        here = self.normal
        away = (curves - self.curves).ravel()
        scores = here.scores + here.hessian @ away / len(here.losses)
        mean_scores = 0.5 * (here.scores + scores)
        return Normal(
            losses=here.losses + mean_scores @ away,
            scores=scores @ p.basis,
            hessian=p.basis.T @ here.hessian @ p.basis,
        )


def parametrisation(
    step_ev: float = STEP_EV,
    make: Callable = dispersion.free,
    start: np.ndarray | None = None,
) -> Parametrisation:
    """Return deviations from the start at nodes so far apart, each on a channel.

    start: (site, 2, channel); None = the mean of the true curves for both sites.
    """
    energies = lattices.simulator(lattices.PLAIN).energies
    if start is None:
        start = curves.start_curves(lattices.model_factors("right", with_true_curves=False))
    channels = round(step_ev / (energies[1] - energies[0]))
    return make(start, energies, energies[::channels])


def solved(sets: list[Set], p: Parametrisation) -> RefinedCurves:
    """Return the curves of all sets in a parametrisation."""

    def evaluate(theta: np.ndarray) -> Normal:
        return expand.joined([one.at(p.curves(theta), p) for one in sets])

    return expand.refine(evaluate, p, np.zeros(len(p.names)))


class Scored(NamedTuple):
    """Errors and their σ over the nodes of the band, (site, 2, node) e."""

    error: np.ndarray
    fisher: np.ndarray
    sandwich: np.ndarray


def scored(p: Parametrisation, fit: RefinedCurves) -> Scored:
    """Compare curves with the truth."""
    low, high = BAND_EV
    is_scored = (p.nodes_ev >= low) & (p.nodes_ev <= high)
    true = p._replace(reference=lattices.true_curves()).reference_at_nodes
    deviation = (p.at_nodes @ fit.theta).reshape(true.shape)
    error = deviation + p.reference_at_nodes - true
    return Scored(
        error=error[..., is_scored],
        fisher=p.sigma(fit.fisher)[..., is_scored],
        sandwich=p.sigma(fit.sandwich)[..., is_scored],
    )


def rms(values: np.ndarray) -> dict[str, float]:
    """Return the root mean square of f′ and of f″ over (…, site, 2, node)."""
    mean_squares = {
        "fp": np.mean(values[..., 0, :] ** 2),
        "fdp": np.mean(values[..., 1, :] ** 2),
    }
    return {kind: float(np.sqrt(value)) for kind, value in mean_squares.items()}


def figures(p: Parametrisation, fits: list[RefinedCurves]) -> dict:
    """Return the figures of fits to equal numbers of lattices, pooled. Pairs are f′, f″."""
    scores = [scored(p, fit) for fit in fits]
    error, fisher, sandwich = (np.array(values) for values in zip(*scores, strict=True))
    out: dict = {"n_lattices": len(fits[0].losses), "n_sets": len(fits)}
    out |= {f"rms_{kind}": value for kind, value in rms(error).items()}
    out |= {f"crlb_{kind}": value for kind, value in rms(fisher).items()}
    for name, sigma in (("fisher", fisher), ("sandwich", sandwich)):
        pulls = np.moveaxis(error / sigma, -2, 0).reshape(2, -1)
        out[f"pull_sd_{name}"] = pulls.std(axis=1).tolist()
        out[f"pull_mean_{name}"] = pulls.mean(axis=1).tolist()
    return out | {"sigma_sandwich": list(rms(sandwich).values())}


def edge(p: Parametrisation, fits: list[RefinedCurves]) -> dict:
    """Return E0(oxidized) − E0(reduced) of several fits; the shape is that of the metal."""
    shapes = edges.metals(ELEMENTS, p.energies_ev)
    values = []
    sigmas = []
    scatters = []
    for fit in fits:
        plain = edges.edges(p, fit.theta, fit.of_pixels, shapes)
        honest = edges.edges(p, fit.theta, fit.of_pixels, shapes, noise=fit.scatter)
        values.append(plain.difference_ev[0, 1])
        sigmas.append(plain.difference_sigma_ev[0, 1])
        scatters.append(honest.difference_sigma_ev[0, 1])
    sigma = np.array(sigmas)
    sandwich = np.array(scatters)
    oxidized, reduced = (anomalous.VALENCE[name] for name in VALENCES)
    error = np.array(values) - (oxidized - reduced) * anomalous.EDGE_SHIFT_EV
    return {
        "error_ev": error.tolist(),
        "sigma_ev": float(sigma.mean()),
        "sigma_sandwich_ev": float(sandwich.mean()),
        "bias_ev": float(error.mean()),
        "bias_sigma_ev": float(sigma.mean() / np.sqrt(len(error))),
        "worst_pull": float(np.abs(error / sigma).max()),
        "pull_sandwich": float(np.sqrt(np.mean((error / sandwich) ** 2))),
    }


def interpolation(sets: list[Set], p: Parametrisation) -> dict:
    """Return the r.m.s. error of linear pieces at the nodes, were there no noise: part of the
    errors above.
    """
    noiseless = []
    for one in sets:
        normal = one.normal._replace(scores=np.zeros_like(one.normal.scores))
        noiseless.append(Set(lattices.true_curves(), normal))
    error = scored(p, solved(noiseless, p)).error
    return {f"interpolation_{kind}": value for kind, value in rms(error).items()}


def summed(groups: list[list[Set]], p: Parametrisation) -> dict:
    """Return all figures of groups of sets in a parametrisation."""
    fits = [solved(group, p) for group in groups]
    return figures(p, fits) | interpolation(groups[0], p) | {"edge": edge(p, fits)}


def grouped(sets: list[Set], n_lattices: int) -> list[list[Set]]:
    """Return groups of sets, each of so many lattices."""
    size = n_lattices // len(sets[0].normal.losses)
    return [sets[first : first + size] for first in range(0, len(sets) - size + 1, size)]


def table(sets: list[Set], sizes: tuple[int, ...]) -> dict:
    """Return the figures of sets by themselves and in groups of so many lattices, in all
    parametrisations.
    """
    free = parametrisation()
    kramers_kronig = parametrisation(make=dispersion.kramers_kronig)
    coarse = parametrisation(2 * STEP_EV)
    alone = [[one] for one in sets]
    out = summed(alone, free)
    out["Kramers-Kronig"] = summed(alone, kramers_kronig)
    out["gain_kramers_kronig"] = out["crlb_fp"] / out["Kramers-Kronig"]["crlb_fp"]
    out["4 eV"] = summed(alone, coarse)
    for n in sizes:
        groups = grouped(sets, n)
        if groups:
            out[f"of {n}"] = summed(groups, free)
            out[f"of {n}, 4 eV"] = summed(groups, coarse)
            out[f"of {n}, Kramers-Kronig"] = summed(groups, kramers_kronig)
    return out
