"""Figures of `spread`: the curves of the sites, their errors and edges, and what the controls
say.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spreadflow.analysis.curves import dispersion
from spreadflow.analysis.curves.edges import edges, metals
from spreadflow.errors import SpreadOutcome
from spreadflow.products.spread import SITE_UNITS
from spreadflow.report import spread_picture, spread_product
from spreadflow.report.checks import Check, Summaries, one_outcome_each
from spreadflow.report.figures import median, outcome_counts, root_mean_square
from spreadflow.report.spread_product import KEYS, FittedCurves, SpreadProduct
from spreadflow.report.style import about, measured, say


def make(stage: str, products: list[Path], manifests: list[Path]) -> tuple[dict, Figure]:
    """Return figures over all runs, and the picture."""
    product = spread_product.read(products[0], manifests)
    figures = _counts(product) | _precision(product) | _edges(product) | _controls(product)
    figures |= _x(product) | {"site_unknowns": _site_unknowns(product)}
    sentences = _sentences(figures)
    return figures, spread_picture.draw(stage, product, figures, sentences)


def headline(figures: dict[str, Any]) -> list[str]:
    """Return what to know of the figures, one fact a line."""
    low, high = figures["compared_ev"]
    goal = figures["lattices_for_goal"]
    controls = figures["controls"]
    lines = [
        f"f′ ± {say(figures['sigma_fp'], 2)} e, f″ ± {say(figures['sigma_fdp'], 2)} e "
        f"(σ: {spread_picture.kind_of_sigma(figures)}) over {low:.0f}-{high:.0f} eV from "
        f"{say(figures['n_lattices'])} lattices ({figures['mosaicity']} mosaicity)",
        *_constants(figures),
        *_x_in_words(figures),
        *_sites_in_words(figures),
        _difference_of_edges(figures) or ", ".join(_edge_of_each_site(figures)),
        f"0.1 e would take {about(goal['fp'])} lattices for f′, {about(goal['fdp'])} for f″",
    ]
    if not figures["converged"]:
        lines.insert(0, f"not converged: {spread_picture.last_change(figures)}")
    if controls:
        failed = ", ".join(name for name, passed in controls.items() if not passed)
        passed = f"controls: {sum(controls.values())} of {len(controls)} passed"
        lines.append(f"{passed}; not: {failed}" if failed else passed)
    return [*(line for line in lines if line), *_error_from_truth(figures)]


def _sentences(figures: dict[str, Any]) -> list[str]:
    """Return what the picture says in words."""
    goal = figures["lattices_for_goal"]
    sentences = _edge_of_each_site(figures)
    difference = _difference_of_edges(figures)
    if difference:
        sentences.append(difference)
    sentences.append(
        f"σ of 0.1 e takes {about(goal['fp'])} lattices for f′, {about(goal['fdp'])} for f″"
    )
    of_sites = _sites_in_words(figures)
    return [
        *sentences,
        *_constants(figures),
        *_x_in_words(figures),
        *of_sites,
        *_error_from_truth(figures),
    ]


def _constants(figures: dict[str, Any]) -> list[str]:
    """Return in words that X takes up a constant of f′; nothing where X is that of the model."""
    if figures["unknown_f"] == "none" or not figures["n_nodes"]:
        return []
    constants = ", ".join(
        f"± {say(figures['constant_sigma_fp'][site], 2)} e ({site})" for site in figures["sites"]
    )
    shapes = (
        f"f′ ± {say(figures['shape_sigma_fp'], 2)} e, f″ ± {say(figures['shape_sigma_fdp'], 2)} e"
    )
    return [f"f′ is known up to a constant: {constants}", f"without their means: {shapes}"]


def _x_in_words(figures: dict[str, Any]) -> list[str]:
    """Return in words what the data made of X; nothing where it is that of the model."""
    if figures["unknown_f"] == "none":
        return []
    widths = [say(width, 2) for width in figures["prior_rms_by_shell"]]
    range_of_widths = widths[0] if len(widths) == 1 else f"{widths[0]} to {widths[-1]}"
    sentences = [
        f"X of {say(figures['n_reflections'])} reflections {figures['unknown_f']}: √S "
        f"{range_of_widths} e, phases of F moved by {say(figures['phase_moved_deg'], 2)}°, "
        f"ln scale {say(figures['log_scale'][-1], 2)}",
        f"spots brighter or dimmer than their models by {say(figures['scatter'], 2)}",
    ]
    cost = figures["cost_of_x"]
    if cost is not None:
        of_both = f"{say(cost['fp'], 3)} (f′), {say(cost['fdp'], 3)} (f″)"
        sentences.append(f"σ of shapes {of_both} times those of X known")
    return sentences


def _sites_in_words(figures: dict[str, Any]) -> list[str]:
    """Return in words what was refined of sites beside their curves; nothing where nothing was."""
    sites = [
        ", ".join(
            f"{site} {name} {value:+.2g} ± {sigma:.2g}{SITE_UNITS[name]}"
            for name, (value, sigma) in of_site.items()
        )
        for site, of_site in figures["site_unknowns"].items()
    ]
    return [f"sites, off the model by: {'; '.join(sites)}"] if sites else []


def _edge_of_each_site(figures: dict[str, Any]) -> list[str]:
    """Return E0 of each site in words."""
    return [
        f"E0({site}) = {measured(edge['e0_ev'], edge['e0_sigma_ev'], edge['true_e0_ev'])}"
        for site, edge in figures["sites"].items()
    ]


def _difference_of_edges(figures: dict[str, Any]) -> str:
    """Return the difference of the first two edges in words; empty where there is none."""
    difference = figures["edge_difference_ev"]
    if difference is None:
        return ""
    names = " − ".join(f"E0({site})" for site in list(figures["sites"])[:2])
    sigma = figures["edge_difference_sigma_ev"]
    return f"{names} = {measured(difference, sigma, figures['true_edge_difference_ev'])}"


def _error_from_truth(figures: dict[str, Any]) -> list[str]:
    """Return how far the curves are from the truth, in words; nothing where it is not known."""
    if figures["pull_sd"] is None:
        return []
    errors = f"{say(figures['rms_fp'], 2)} e, {say(figures['rms_fdp'], 2)} e"
    shapes = f"{say(figures['shape_rms_fp'], 2)} e, {say(figures['shape_rms_fdp'], 2)} e"
    pulls = f"sd of pulls {say(figures['pull_sd'], 2)}"
    return [f"r.m.s. from truth {errors}; of shapes {shapes}; {pulls}"]


def checks(summaries: Summaries) -> list[Check]:
    """Return the counts that must agree."""
    if "spread" not in summaries:
        return []
    figures = summaries["spread"]
    outcomes = figures["outcomes"]
    equalities = [
        one_outcome_each("lattice of spread", figures, "n_lattices_in"),
        Check("those used make the curves", outcomes["used"], figures["n_lattices"]),
    ]
    shoeboxes = figures["shoeboxes"]
    if shoeboxes in summaries:
        n_lattices = summaries[shoeboxes]["n_lattices"]
        statement = f"each lattice of {shoeboxes} reaches spread"
        equalities.append(Check(statement, n_lattices, figures["n_lattices_in"]))
    if "stage1" in summaries and shoeboxes == "wide":
        n_refined = summaries["stage1"]["n_refined"]
        n_tried = figures["n_lattices_in"] - outcomes["not_refined"]
        statement = "each lattice refined by stage1 is tried in spread"
        equalities.append(Check(statement, n_refined, n_tried))
    return equalities


# ---------------------------------------------------------------- figures


def _counts(product: SpreadProduct) -> dict[str, Any]:
    """Return what went in, and how it went."""
    attributes = product.attributes
    lattices = product.tables.lattices
    outcome = lattices.outcome
    used = lattices[outcome == SpreadOutcome.USED]
    n_used = len(used)
    fall = used.loss_start - used.loss
    return {
        "n_lattices": n_used,
        "shoeboxes": attributes["config"]["shoeboxes"],
        "n_lattices_in": len(outcome),
        "outcomes": outcome_counts(outcome, SpreadOutcome),
        "cycles": len(attributes["changes"]),
        "changes": attributes["changes"],
        "converged": bool(attributes["converged"]),
        "mosaicity": attributes["mosaicity"],
        "d_min": attributes["d_min"],
        "d_max": attributes["config"]["d_max"],
        "restraint": attributes["config"]["restraint"],
        "n_parameters": attributes["n_parameters"],
        "n_undetermined": attributes["n_undetermined"],
        "sigma_kind": attributes["sigma_kinds"][0],
        "sigma_over": attributes["sigma_over"],
        "sigma_z_median": median(used.sigma_z),
        "model_error_median": median(used.model_error),
        "loss_fall_per_lattice": float(np.mean(fall)) if n_used else None,
        "seconds_per_lattice_per_core": median(used.seconds),
    }


def _precision(product: SpreadProduct) -> dict[str, Any]:
    """Return σ, and errors where the truth is known, over the band that is compared; other fits
    beside the quoted one.
    """
    attributes = product.attributes
    quoted = product.quoted
    is_known = dispersion.band(quoted.sigma, attributes["config"]["band_sigma_e"])
    known_ev = product.nodes_ev[is_known]
    figures = {
        "compared_ev": product.compared_ev,
        "n_nodes": int(product.compared.sum()),
        "band_ev": [known_ev[0], known_ev[-1]] if len(known_ev) else None,
    }
    quoted_name = next(iter(product.fits))
    figures |= _errors(product, quoted) | _apart(product, quoted_name)
    figures |= {"pull_sd": None, "pull_mean": None}
    true = product.true_values
    if true is not None and product.compared.any():
        pulls = ((quoted.values - true) / quoted.sigma)[:, :, product.compared]
        figures |= {"pull_sd": float(pulls.std()), "pull_mean": float(pulls.mean())}
    goal = attributes["lattices_for_goal"]
    return figures | {
        "lattices_for_goal": {
            key: None if n is None else int(np.ceil(n)) for key, n in goal.items()
        },
        "weak": attributes["weak"],
        "fits": {name: _figures_of_fit(product, name) for name in product.fits},
    }


def _errors(product: SpreadProduct, fit: FittedCurves) -> dict[str, float | None]:
    """Return root mean squares over sites and nodes, e, of errors, of their bound, and of σ."""
    true = product.true_values
    error = None if true is None else fit.values - true
    figures: dict[str, float | None] = {}
    for name, values in (("rms", error), ("crlb", fit.fisher), ("sigma", fit.sigma)):
        for kind, key in enumerate(KEYS):
            rms = None
            if values is not None:
                rms = root_mean_square(values[:, kind][:, product.compared])
            figures[f"{name}_{key}"] = rms
    return figures


def _apart(product: SpreadProduct, name: str) -> dict[str, Any]:
    """Return constants and shapes of a fit, e: σ, and errors where the truth is known."""
    number = list(product.fits).index(name)
    constants = product.tables.constants
    columns = constants[constants.fit == number].as_dict()
    values = product.fits[name].values[:, :, product.compared]
    error = np.full_like(values, np.nan)
    if product.true_values is not None:
        error = values - product.true_values[:, :, product.compared]
    figures: dict[str, Any] = {}
    for kind, key in enumerate(KEYS):
        means = [_mean(of_site) for of_site in error[:, kind]]
        shapes = error[:, kind] - np.array(means)[:, None]
        moved = columns[key] - columns[f"{key}_start"]
        sigma = columns[f"{key}_sigma"]
        figures |= {
            f"shape_rms_{key}": _finite(root_mean_square(shapes)),
            f"shape_sigma_{key}": _finite(root_mean_square(columns[f"{key}_shape_sigma"])),
            f"constant_{key}": {
                site: {"value": _finite(moved[row]), "error": _finite(means[row])}
                for row, site in enumerate(product.sites)
            },
            f"constant_sigma_{key}": {
                site: _finite(sigma[row]) for row, site in enumerate(product.sites)
            },
        }
    return figures


def _mean(values: np.ndarray) -> float:
    """Return the mean; NaN where there is no value."""
    return float(values.mean()) if len(values) else np.nan


def _figures_of_fit(product: SpreadProduct, name: str) -> dict[str, Any]:
    """Return the figures of one fit, for a table."""
    difference, sigma = _edge_difference(product, name)
    number = list(product.fits).index(name)
    return {
        "sigma_kind": product.attributes["sigma_kinds"][number],
        **_errors(product, product.fits[name]),
        **_apart(product, name),
        "edge_difference_ev": difference,
        "edge_difference_sigma_ev": sigma,
    }


def _finite(value: float | None) -> float | None:
    """Return a number, or None if it is not finite, or none."""
    return float(value) if value is not None and np.isfinite(value) else None


def _edge_difference(product: SpreadProduct, fit: str) -> tuple[float | None, float | None]:
    """Return E0 of the first site less that of the second, and its σ; None where there is none."""
    edges_of_fit = product.edges.get(fit)
    if edges_of_fit is None or len(product.sites) < 2:
        return None, None
    difference = edges_of_fit.difference_ev[0, 1]
    sigma = edges_of_fit.difference_sigma_ev[0, 1]
    return _finite(difference), _finite(sigma)


def _edges(product: SpreadProduct) -> dict[str, Any]:
    """Return E0 of the sites: from the quoted fit, or the free one where the quoted one has none
    that could be trusted.
    """
    fit = next(iter(product.edges))
    edges_of_fit = product.edges[fit]
    true = _true_edges(product)
    sites = {}
    for row, site in enumerate(product.sites):
        sites[site] = {
            "e0_ev": _finite(edges_of_fit.energy_ev[row]),
            "e0_sigma_ev": _finite(edges_of_fit.sigma_ev[row]),
            "true_e0_ev": _finite(true[row]),
        }
    difference, sigma = _edge_difference(product, fit)
    return {
        "edges_from": fit,
        "sites": sites,
        "edge_difference_ev": difference,
        "edge_difference_sigma_ev": sigma,
        "true_edge_difference_ev": None if difference is None else _finite(true[0] - true[1]),
    }


def _true_edges(product: SpreadProduct) -> list[float]:
    """Return E0 of each site by the same estimator from the true curves, or NaN; nodes have the
    weights that pixels gave those of the free fit.
    """
    if not product.true:
        return [np.nan] * len(product.sites)
    energies = product.tables.channels.energy_ev
    curves = np.array([product.true[site].at(energies) for site in product.sites])
    parametrisation = dispersion.free(curves, energies, product.nodes_ev)
    free = list(product.fits).index("free")
    values = product.tables.values
    fisher = values.fisher[values.fit == free]
    pixels = np.linalg.inv(fisher) - parametrisation.restraints
    no_change = np.zeros(len(parametrisation.names))
    shapes = metals(product.attributes["elements"], energies)
    return edges(parametrisation, no_change, pixels, shapes).energy_ev.tolist()


def _x(product: SpreadProduct) -> dict[str, Any]:
    """Return what was assumed of X and what the data made of it."""
    attributes = product.attributes
    reflections = product.tables.reflections
    weight = reflections.f
    moved = weight @ np.abs(reflections.phase_deg)
    return {
        "unknown_f": attributes["unknown_f"],
        "n_reflections": len(weight) if product.has_unknown_x else None,
        "prior_rms_by_shell": product.tables.shells.prior_rms.tolist(),
        "log_scale": attributes["log_scale"],
        "cost_of_x": attributes["cost_of_x"],
        "scatter": attributes["scatter"],
        "x_at_rest": bool(attributes["x_at_rest"]) if product.has_unknown_x else None,
        "phase_moved_deg": float(moved / weight.sum()) if product.has_unknown_x else None,
    }


def _site_unknowns(product: SpreadProduct) -> dict[str, dict[str, list[float]]]:
    """Return what was refined of each site beside its curves, and its σ, by name."""
    names = product.attributes["site_unknowns"]
    sites = product.tables.sites
    out: dict[str, dict[str, list[float]]] = {}
    for site, unknown, value, sigma in zip(
        sites.site, sites.unknown, sites.value, sites.sigma, strict=True
    ):
        of_site = out.setdefault(product.sites[site], {})
        of_site[names[unknown]] = [float(value), float(sigma)]
    return out


def _controls(product: SpreadProduct) -> dict[str, Any]:
    """Return which controls passed, with their figures, what these are, and bars."""
    controls = product.attributes["controls"]
    return {
        "controls": {control["name"]: control["passed"] for control in controls},
        "verdicts": {
            control["name"]: {key: control[key] for key in ("passed", "figure", "what", "bar")}
            for control in controls
        },
    }
