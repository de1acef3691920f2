"""The product of `spread`, read for its report, and the curves that were simulated."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.curves import planning
from spreadflow.io import store
from spreadflow.io.truth import TrueCurve, true_curves
from spreadflow.products import Spread
from spreadflow.products.spread import Curves, Edges
from spreadflow.report.runs import manifest_of

KEYS = ("fp", "fdp")
"""f′ and f″ in columns and figures."""


class FittedCurves(NamedTuple):
    """The curves of one fit at their nodes, all (site, 2, node), e."""

    values: np.ndarray
    """f′ and f″"""
    sigma: np.ndarray
    """σ as quoted"""
    fisher: np.ndarray
    """σ if the model is right"""
    start: np.ndarray
    """where the fit started"""


class SpreadProduct(NamedTuple):
    """The product with its truth."""

    attributes: dict
    """attributes of the file"""
    tables: Spread
    """what the file holds"""
    sites: list[str]
    """names of the sites"""
    nodes_ev: np.ndarray
    """(node,) energies, eV"""
    fits: dict[str, FittedCurves]
    """the quoted one first"""
    edges: dict[str, Edges]
    """fit that has edges → those of its sites"""
    true: dict[str, TrueCurve]
    """site → curve that was simulated; empty where one of them is not known"""

    @property
    def quoted(self) -> FittedCurves:
        """The fit whose curves are quoted."""
        return next(iter(self.fits.values()))

    @property
    def has_unknown_x(self) -> bool:
        """Whether X was refined with the curves."""
        return self.attributes["unknown_f"] != "none"

    @property
    def compared_ev(self) -> np.ndarray:
        """(2,) the band over which curves are compared, about the edge of the table, eV."""
        element = self.attributes["elements"][0]
        return planning.compared_ev(element, self.tables.channels.energy_ev)

    @property
    def compared(self) -> np.ndarray:
        """(node,) bool: the node lies in that band."""
        low, high = self.compared_ev
        return (self.nodes_ev >= low) & (self.nodes_ev <= high)

    @property
    def true_values(self) -> np.ndarray | None:
        """(site, 2, node) f′ and f″ that were simulated, or None."""
        if not self.true:
            return None
        return np.array([self.true[site].at(self.nodes_ev) for site in self.sites])


def read(path: Path, manifests: list[Path]) -> SpreadProduct:
    """Return the product with the truth of the first run that has one."""
    tables = store.read(path, Spread)
    attributes = store.attributes(path, Spread)
    sites = attributes["sites"]
    names = attributes["fits"]
    fits = {}
    edges = {}
    for number, name in enumerate(names):
        fits[name] = _fit(tables.curves[tables.curves.fit == number], len(sites))
        of_fit = tables.edges[tables.edges.fit == number]
        if len(of_fit):
            edges[name] = of_fit
    n_nodes = len(tables.curves) // (len(fits) * len(sites))
    true = _true_curves(attributes["runs"], manifests)
    return SpreadProduct(
        attributes=attributes,
        tables=tables,
        sites=sites,
        nodes_ev=tables.curves.energy_ev[:n_nodes],
        fits=fits,
        edges=edges,
        true=true if set(sites) <= true.keys() else {},
    )


def _fit(curves: Curves, n_sites: int) -> FittedCurves:
    """Return the curves of a fit, site by site."""

    def both(fp: np.ndarray, fdp: np.ndarray) -> np.ndarray:
        return np.stack([fp.reshape(n_sites, -1), fdp.reshape(n_sites, -1)], axis=1)

    return FittedCurves(
        values=both(curves.fp, curves.fdp),
        sigma=both(curves.fp_sigma, curves.fdp_sigma),
        fisher=both(curves.fp_fisher, curves.fdp_fisher),
        start=both(curves.fp_start, curves.fdp_start),
    )


def _true_curves(runs: list[str], manifests: list[Path]) -> dict[str, TrueCurve]:
    """Return the curves of the first run that has any; empty where none has."""
    for run in runs:
        manifest = manifest_of(run, manifests)
        curves = true_curves(manifest) if manifest else {}
        if curves:
            return curves
    return {}
