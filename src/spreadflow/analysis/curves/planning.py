"""How well curves will be known from so many lattices, given what one lattice says: σ of f', f''
and of the edges.

Information adds up over lattices. With that of one, H, and that of the restraints, R, both brought
to diagonal form at once, the covariance (n H + R)⁻¹ of any number n of lattices is a sum over
modes. σ falls as 1/√n where the pixels rule, and stays where the restraints do.

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
"""σ small enough to tell oxidation states apart, e."""

BAND_EV = (-12.0, 28.0)
"""Range about an element's tabulated edge over whose nodes σ is averaged, eV."""

MAX_LATTICES = 1e9
"""A goal that needs more lattices than this counts as out of reach."""

RESTRAINTS = {"free": dispersion.free, "kramers_kronig": dispersion.kramers_kronig}
"""Ways in which f' and f'' depend on each other, by name."""


class Outlook(NamedTuple):
    """σ of curves against the number n of lattices: σ²(n) = Σ share / (1 + n gain), a mean over
    sites and nodes.
    """

    gain: np.ndarray
    """(mode,) information of one lattice, in units of that of the restraints"""
    share: np.ndarray
    """(2, mode) each mode's share of the mean variance of f' and of f'' without pixels, e²"""

    def sigma(self, n: np.ndarray | float) -> np.ndarray:
        """Return σ (2, ...), e, of f' and of f'', root mean squares over sites and nodes, for n
        (...) lattices.
        """
        gains = np.multiply.outer(np.asarray(n, dtype=np.float64), self.gain)
        left = 1.0 / (1.0 + gains)
        variance = left @ self.share.T
        return np.sqrt(np.moveaxis(variance, -1, 0))


class Halves(NamedTuple):
    """σ of curves against the number of lattices, from a mean over few lattices, with most of its
    bias taken out.
    """

    whole: Outlook
    first: Outlook
    second: Outlook

    def sigma(self, n: np.ndarray | float) -> np.ndarray:
        """Return σ (2, ...), e, of f' and of f'' for n (...) lattices.

        The variance is corrected by 1 − k/m = r/(2r − 1), r being that of halves over that of all.
        """
        variance, first, second = (outlook.sigma(n) ** 2 for outlook in self)
        of_halves = 0.5 * (first + second)
        ratio = np.maximum(of_halves / variance, 1.0)
        corrected = variance * ratio / (2.0 * ratio - 1.0)
        return np.sqrt(corrected)


def outlook(information: np.ndarray, p: Parametrisation, band_ev: np.ndarray) -> Outlook:
    """Return σ against the number of lattices.

    information: (theta, theta) of one lattice, restraints left out. band_ev: the nodes that count,
    see `inside`.
    """
    values, modes = eigh(information, p.restraints)
    is_inside = inside(p, band_ev)
    squares = np.square(p.at_nodes @ modes)
    by_node = squares.reshape(*is_inside.shape, -1)
    fp, fdp = (by_node[:, kind][is_inside[:, kind]] for kind in range(2))
    share = np.array([fp.mean(axis=0), fdp.mean(axis=0)])
    return Outlook(np.maximum(values, 0.0), share)


def halves(information: np.ndarray, p: Parametrisation, band_ev: np.ndarray) -> Halves:
    """Return σ against the number of lattices, corrected.

    information: (2, theta, theta), means over either half of the lattices; the rest as for
    `outlook`.
    """
    return Halves(
        whole=outlook(information.mean(axis=0), p, band_ev),
        first=outlook(information[0], p, band_ev),
        second=outlook(information[1], p, band_ev),
    )


def inside(p: Parametrisation, band_ev: np.ndarray) -> np.ndarray:
    """Return which nodes lie in a band, (site, 2, node) bool; band_ev: its first and last energy,
    eV, (2,) or those of each site (site, 2).
    """
    n_sites = len(p.reference)
    nodes_ev = p.nodes_ev
    low, high = np.broadcast_to(band_ev, (n_sites, 2)).T
    is_above = nodes_ev >= low[:, None, None]
    is_below = nodes_ev <= high[:, None, None]
    return np.broadcast_to(is_above & is_below, (n_sites, 2, len(nodes_ev)))


def lattices_for(
    sigma_e: float, information: np.ndarray, p: Parametrisation, band_ev: np.ndarray, kind: int = 0
) -> float:
    """Return the least number of lattices that brings σ of f' (kind 0) or f'' (1) down to
    `sigma_e`; inf where none does.

    information, band_ev: see `outlook`.
    """
    return reached(outlook(information, p, band_ev), sigma_e, kind)


def reached(outlook: Outlook | Halves, sigma_e: float, kind: int) -> float:
    """Return the least number of lattices with σ of f' (kind 0) or f'' (1) as small as `sigma_e`;
    inf where none has.
    """

    def excess(log_n: float) -> float:
        sigma = outlook.sigma(np.exp(log_n))[kind]
        return float(np.log(sigma / sigma_e))

    first = 0.0
    last = np.log(MAX_LATTICES)
    if excess(first) <= 0.0:
        return 1.0
    if excess(last) >= 0.0:
        return np.inf
    return float(np.exp(brentq(excess, first, last)))


def edge_sigma(
    n: float, information: np.ndarray, p: Parametrisation, shapes: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return σ (site, site), eV, of the differences of edges from n lattices, on the diagonal that
    of the edges themselves.

    shapes: see `edges.edges`. The errors of tables that it assumes do not fall with more lattices.
    """
    of_sites = edges(p, np.zeros(len(p.names)), n * information, shapes)
    sigma = np.sqrt(np.diag(of_sites.covariance))
    return of_sites.difference_sigma_ev + np.diag(sigma)


class Row(NamedTuple):
    """How well curves are known for one energy grid and restraint."""

    grid_ev: float
    """distance of nodes, eV"""
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
    """the least number with σ(f'') as small as the goal"""


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
    """Yield a row for each grid and restraint.

    information: (2, curve · channel, the same), means over either half of the lattices, of the
    hessian of `expand.expand`. reference: (site, 2, channel) e. pairs: of sites whose edges are
    compared.
    """
    for grid_ev in grids_ev:
        for name, make in RESTRAINTS.items():
            p = make(reference, energies_ev, nodes(energies_ev, grid_ev))
            of_theta = p.basis.T @ information @ p.basis
            whole = of_theta.mean(axis=0)
            outlook = halves(of_theta, p, band_ev)
            fp, fdp = outlook.sigma(np.asarray(lattices))
            edge_differences = [
                _of_pairs(edge_sigma(n, whole, p, shapes), pairs) if pairs else np.nan
                for n in lattices
            ]
            yield Row(
                grid_ev=grid_ev,
                restraint=name,
                sigma_fp_e=fp,
                sigma_fdp_e=fdp,
                sigma_edge_difference_ev=np.array(edge_differences),
                lattices_fp=reached(outlook, GOAL_E, 0),
                lattices_fdp=reached(outlook, GOAL_E, 1),
            )


def _of_pairs(sigma_ev: np.ndarray, pairs: Sequence[tuple[int, int]]) -> float:
    """Return the root mean square of σ (site, site) over pairs of sites."""
    variances = [sigma_ev[pair] ** 2 for pair in pairs]
    return float(np.sqrt(np.mean(variances)))


def nodes(energies_ev: np.ndarray, grid_ev: float) -> np.ndarray:
    """Return nodes (node,), eV, from the first channel (channel,) as far as channels go, each on
    the nearest channel.

    Nodes between channels would be determined much less: pixels do not see an alternation from node
    to node half way between them.
    """
    if not len(energies_ev):
        return np.empty(0)
    wanted = np.arange(energies_ev[0], energies_ev[-1] + 1e-6, grid_ev)
    away = np.abs(np.subtract.outer(wanted, energies_ev))
    nearest = np.unique(away.argmin(axis=1))
    return energies_ev[nearest]
