"""How well curves will be known from so many lattices, given what one lattice says: σ of f', f''
and of the edges.

Information adds up over lattices, so one number of lattices is as good as all others: with the
information of one, H, and that of the restraints, R, both brought to diagonal form at once, the
covariance (n H + R)⁻¹ of n lattices is a sum over modes. σ falls as 1/√n where the pixels rule, and
stays where the restraints do.

H is a mean over m lattices. Some say ten times more than others, and the inverse of a mean over few
is too large, as that of a Wishart matrix is, m/(m − k) times on average: k comes from the variance
that either half of them predicts.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import brentq

from spreadflow.analysis.curves import dispersion
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.edges import edges

GOAL_E = 0.1
"""σ that tells oxidation states apart, e."""

BAND_EV = (-12.0, 28.0)
"""About an element's tabulated edge: nodes over which σ is averaged."""

MAX_LATTICES = 1e9
"""Lattices: what more would be needed for is out of reach."""

RESTRAINTS = {"free": dispersion.free, "kramers_kronig": dispersion.kramers_kronig}
"""How f' and f'' hang together, by name."""


class Outlook(NamedTuple):
    """σ of curves against the number of lattices: σ²(n) = Σ share / (1 + n gain), a mean over sites
    and nodes.
    """

    gain: np.ndarray
    """(mode,) information of one lattice, in units of that of the restraints"""
    share: np.ndarray
    """(2, mode) e²: of the mean variance of f' and of f''"""

    def sigma(self, n: np.ndarray | float) -> np.ndarray:
        """Return (2, ...) e, root mean square over sites and nodes of f' and of f'', for n (...)
        lattices.
        """
        left = 1.0 / (1.0 + np.multiply.outer(np.asarray(n, dtype=np.float64), self.gain))
        return np.sqrt(np.moveaxis(left @ self.share.T, -1, 0))


class Halves(NamedTuple):
    """The same from a mean over few lattices, free of most of its bias."""

    whole: Outlook
    first: Outlook
    second: Outlook

    def sigma(self, n: np.ndarray | float) -> np.ndarray:
        """Return (2, ...) e. With r the variance of halves over that of all, and 1 − k/m = r/(2r −
        1).
        """
        every, *halves = (of.sigma(n) ** 2 for of in self)
        ratio = np.maximum(0.5 * sum(halves) / every, 1.0)
        return np.sqrt(every * ratio / (2.0 * ratio - 1.0))


def outlook(information: np.ndarray, p: Parametrisation, band_ev: np.ndarray) -> Outlook:
    """Return information: (theta, theta) of one lattice, restraints left out. band_ev: nodes that
    count, as for `inside`.
    """
    values, modes = eigh(information, p.restraints)
    chosen = inside(p, band_ev)
    moved = np.square(p.at_nodes @ modes).reshape(*chosen.shape, -1)
    share = [moved[:, kind][chosen[:, kind]].mean(axis=0) for kind in range(2)]
    return Outlook(np.maximum(values, 0.0), np.array(share))


def halves(information: np.ndarray, p: Parametrisation, band_ev: np.ndarray) -> Halves:
    """Return information: (2, theta, theta), means over either half of the lattices; the rest as
    for `outlook`.
    """
    return Halves(*(outlook(some, p, band_ev) for some in (information.mean(axis=0), *information)))


def inside(p: Parametrisation, band_ev: np.ndarray) -> np.ndarray:
    """Return (site, 2, node) bool: nodes from the first to the second energy of the band, (2,) or
    of each site (site, 2).
    """
    low, high = np.moveaxis(np.broadcast_to(band_ev, (len(p.reference), 2)), 1, 0)[:, :, None, None]
    each = (p.nodes_ev >= low) & (p.nodes_ev <= high)
    return np.broadcast_to(each, (*p.reference.shape[:2], len(p.nodes_ev)))


def lattices_for(
    sigma_e: float, information: np.ndarray, p: Parametrisation, band_ev: np.ndarray, kind: int = 0
) -> float:
    """Return the least number of lattices with σ of f' (kind 0) or f'' (1) as small as `sigma_e`;
    inf where none has.

    information, band_ev: see `outlook`.
    """
    return reached(outlook(information, p, band_ev), sigma_e, kind)


def reached(known: Outlook | Halves, sigma_e: float, kind: int) -> float:
    """Return the figure where σ is known."""

    def above(log_n):
        return float(np.log(known.sigma(np.exp(log_n))[kind] / sigma_e))

    first = 0.0
    last = np.log(MAX_LATTICES)
    if above(first) <= 0.0:
        return 1.0
    return float(np.exp(brentq(above, first, last))) if above(last) < 0.0 else np.inf


def edge_sigma(
    n: float, information: np.ndarray, p: Parametrisation, shapes: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return (site, site) eV: σ of the differences of edges from n lattices; on the diagonal that
    of the edges themselves.

    shapes: see `edges.edges`. The errors of tables that it assumes are not less with more lattices.
    """
    found = edges(p, np.zeros(len(p.names)), n * information, shapes)
    return found.difference_sigma_ev + np.diag(np.sqrt(np.diag(found.covariance)))


class Row(NamedTuple):
    """How well curves are known for one energy grid and restraint."""

    grid_ev: float
    """distance of nodes"""
    restraint: str
    sigma_fp_e: np.ndarray
    """(n,) for each number of lattices, root mean square over sites and nodes of the band"""
    sigma_fdp_e: np.ndarray
    """(n,)"""
    sigma_edge_difference_ev: np.ndarray
    """(n,) root mean square over pairs of sites; NaN where there is none"""
    lattices_fp: float
    """the least number with σ(f') as small as the goal; inf where none has"""
    lattices_fdp: float


def table(
    information: np.ndarray,
    reference: np.ndarray,
    energies_ev: np.ndarray,
    band_ev: np.ndarray,
    shapes: tuple[np.ndarray, np.ndarray],
    *,
    lattices: Sequence[float],
    grids_ev: Sequence[float],
    pairs: Sequence[tuple[int, int]],
) -> Iterator[Row]:
    """Yield rows for each grid and restraint.

    information: (2, curve · channel, the same), means over either half of the lattices, of what
    `spread.expand` has; reference: (site, 2, channel) e. pairs: of sites whose edges are compared.
    """
    for grid_ev in grids_ev:
        for name, make in RESTRAINTS.items():
            p = make(reference, energies_ev, nodes(energies_ev, grid_ev))
            mine = p.basis.T @ information @ p.basis
            known = halves(mine, p, band_ev)
            fp, fdp = known.sigma(np.asarray(lattices))
            apart = [
                _of_pairs(edge_sigma(n, mine.mean(axis=0), p, shapes), pairs) if pairs else np.nan
                for n in lattices
            ]
            yield Row(
                grid_ev,
                name,
                fp,
                fdp,
                np.array(apart),
                *(reached(known, GOAL_E, kind) for kind in range(2)),
            )


def _of_pairs(sigma_ev: np.ndarray, pairs: Sequence[tuple[int, int]]) -> float:
    return float(np.sqrt(np.mean([sigma_ev[pair] ** 2 for pair in pairs])))


def nodes(energies_ev: np.ndarray, grid_ev: float) -> np.ndarray:
    """Return (node,) eV, from the first channel (channel,) as far as channels go, each on the
    channel that is nearest.

    Nodes between channels know much less: an alternation from node to node is not seen half way.
    """
    if not len(energies_ev):
        return np.empty(0)
    wanted = np.arange(energies_ev[0], energies_ev[-1] + 1e-6, grid_ev)
    return energies_ev[np.unique(np.abs(np.subtract.outer(wanted, energies_ev)).argmin(axis=1))]
