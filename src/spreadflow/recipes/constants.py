"""Curves taken apart into a constant and a shape, each with its σ.

Where X is unknown it takes up a constant of f′: X − c g and f′ + c are the same F. What pixels say
about the shape of a curve, and about f″, does not suffer. Means are over the band in which curves
are compared.
"""

from typing import Any

import numpy as np

from spreadflow.analysis.curves import planning
from spreadflow.products import Spread, spread
from spreadflow.recipes.curves import QuotedFit

KINDS = ("fp", "fdp")
"""f′ and f″ in names of columns."""


def constant_rows(fits: dict[str, QuotedFit], element: str) -> spread.Constants:
    """Return the table `constants`: each site in each fit. element: of the first site.

    All figures are NaN where no node lies in the band.
    """
    rows = []
    for number, fit in enumerate(fits.values()):
        p = fit.p
        low, high = planning.compared_ev(element, p.energies_ev)
        is_compared = (p.nodes_ev >= low) & (p.nodes_ev <= high)
        start = p.reference_at_nodes[:, :, is_compared]
        read = p.at_nodes.reshape(*p.reference_at_nodes.shape, -1)[:, :, is_compared]
        for site in range(len(start)):
            row: dict[str, Any] = {"fit": number, "site": site}
            for kind, name in enumerate(KINDS):
                figures = _apart(read[site, kind], fit)
                first = _mean(start[site, kind])
                row[f"{name}_start"] = first
                row[name] = first + figures["mean"]
                row[f"{name}_sigma"] = figures["sigma"]
                row[f"{name}_shape_sigma"] = figures["shape_sigma"]
            rows.append(row)
    return Spread.constants.from_rows(rows)


def cost_of_x(fit: QuotedFit, element: str) -> dict[str, float] | None:
    """Return how many times larger σ of the shapes of f′ and f″ is than if X were known, root mean
    squares over the sites, both as Fisher has them; None where X is that of the model.

    element: of the first site.
    """
    rest = fit.refined.rest
    if rest is None or rest.with_x_held is None:
        return None
    p = fit.p
    band_ev = planning.compared_ev(element, p.energies_ev)
    if not planning.inside(p, band_ev).any():
        return None
    known = np.linalg.inv(rest.with_x_held + p.restraints)
    shapes = planning.rows_of_quantities(p, band_ev)[2:4]
    cost = {}
    for name, rows in zip(KINDS, shapes, strict=True):
        variances = [
            _variances(rows, covariance).mean() for covariance in (fit.refined.fisher, known)
        ]
        cost[name] = float(np.sqrt(variances[0] / variances[1]))
    return cost


def _apart(read: np.ndarray, fit: QuotedFit) -> dict[str, float]:
    """Return the mean of a curve's deviations at nodes, its σ, and the r.m.s. σ of what is left of
    these when the mean is taken off. read: (node, theta) deviations = read @ θ.
    """
    if not len(read):
        return dict.fromkeys(("mean", "sigma", "shape_sigma"), np.nan)
    mean = read.mean(axis=0)
    variances = _variances(read - mean, fit.covariance)
    return {
        "mean": float(mean @ fit.refined.theta),
        "sigma": float(np.sqrt(mean @ fit.covariance @ mean)),
        "shape_sigma": float(np.sqrt(max(variances.mean(), 0.0))),
    }


def _variances(rows: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return the variances (row,) of rows (row, theta) @ θ."""
    return np.einsum("nt,tu,nu->n", rows, covariance, rows, optimize=True)


def _mean(values: np.ndarray) -> float:
    """Return the mean; NaN where there is no value."""
    return float(values.mean()) if len(values) else np.nan
