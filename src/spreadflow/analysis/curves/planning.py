"""How well curves will be known from so many lattices, given what one lattice says: σ of f', f'',
their shapes and constants, and of the edges.

Information adds up over lattices. With that of one, H, and that of the restraints, R, both brought
to diagonal form at once, the covariance (n H + R)⁻¹ of any number n of lattices is a sum over
modes. σ falls as 1/√n where the pixels rule, and stays where the restraints do.

H is a mean over m lattices. Some say ten times more than others, and the inverse of a mean over few
is too large, as that of a Wishart matrix is, m/(m − k) times on average: k comes from the variance
that either half of them predicts.

Where X is unknown, the information of a lattice depends on how many others share its reflections.
σ is that with X known, times a factor: that of lattices that stand for so many (`population`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy

from spreadflow.analysis.curves import dispersion, edges
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.physics import anomalous

GOAL_E = 0.1
"""σ small enough to tell oxidation states apart, e."""

BAND_EV = (-12.0, 28.0)
"""Range about an element's tabulated edge over whose nodes σ is averaged, eV."""

MAX_LATTICES = 1e9
"""A goal that needs more lattices than this counts as out of reach."""

RESTRAINTS = ("free", "kramers_kronig")
"""Ways in which f' and f'' depend on each other."""

QUANTITIES = ("fp", "fdp", "shape_fp", "shape_fdp", "constant_fp", "constant_fdp")
"""What σ are of: f', f'' at the nodes of the band; what is left when the mean of each curve over
these is taken off; and that mean.
"""


class Outlook(NamedTuple):
    """σ of curves against the number n of lattices: σ²(n) = Σ share / (1 + n gain), a mean over
    sites and nodes.
    """

    gain: np.ndarray
    """(mode,) information of one lattice, in units of that of the restraints"""
    share: np.ndarray
    """(quantity, mode) each mode's share of the mean variance of each of `QUANTITIES` without
    pixels, e²
    """

    def sigma(self, n: np.ndarray | float) -> np.ndarray:
        """Return σ (quantity, ...), e, root mean squares over sites and nodes, for n (...)
        lattices.
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
        """Return σ (quantity, ...), e, for n (...) lattices.

        The variance is corrected by 1 − k/m = r/(2r − 1), r being that of halves over that of all.
        """
        variance, first, second = (outlook.sigma(n) ** 2 for outlook in self)
        of_halves = 0.5 * (first + second)
        ratio = np.maximum(of_halves / variance, 1.0)
        corrected = variance * ratio / (2.0 * ratio - 1.0)
        return np.sqrt(corrected)


class XUnknown(NamedTuple):
    """σ of curves against the number of lattices where X is unknown."""

    known: Halves
    """with X known"""
    lattices: np.ndarray
    """(n,) numbers of lattices, ascending"""
    factor: np.ndarray
    """(quantity, n) how much larger σ is with X unknown"""

    def sigma(self, n: np.ndarray | float) -> np.ndarray:
        """Return σ (quantity, ...), e, for n (...) lattices, no more than the last of the numbers.

        Between numbers the factor goes as a power of n; below the first it is that of the first.
        """
        asked = np.log(np.asarray(n, dtype=np.float64))
        log_n = np.log(self.lattices)
        log_factor = [np.interp(asked, log_n, np.log(of_one)) for of_one in self.factor]
        return self.known.sigma(n) * np.exp(log_factor)


def outlook(information: np.ndarray, p: Parametrisation, band_ev: np.ndarray) -> Outlook:
    """Return σ against the number of lattices.

    information: (theta, theta) of one lattice, restraints left out. band_ev: the nodes that count,
    see `inside`.
    """
    values, modes = scipy.linalg.eigh(information, p.restraints)
    share = [np.square(rows @ modes).mean(axis=0) for rows in rows_of_quantities(p, band_ev)]
    return Outlook(np.maximum(values, 0.0), np.array(share))


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


def compared_ev(element: str, energies_ev: np.ndarray) -> np.ndarray:
    """Return the band over which curves are compared, its first and last energy (2,), eV.

    element: the first site's; energies_ev: (channel,).
    """
    return anomalous.nearest_edge(element, float(energies_ev.mean())) + np.array(BAND_EV)


def rows_of_quantities(p: Parametrisation, band_ev: np.ndarray) -> list[np.ndarray]:
    """Return the rows (row, theta) with which values of each of `QUANTITIES` are read from θ."""
    is_inside = inside(p, band_ev)
    of_curves = p.at_nodes.reshape(*is_inside.shape, -1)
    values = []
    shapes = []
    constants = []
    for kind in range(2):
        of_sites = [of_curves[s, kind][is_inside[s, kind]] for s in range(len(is_inside))]
        means = [rows.mean(axis=0, keepdims=True) for rows in of_sites]
        values.append(np.concatenate(of_sites))
        less = [rows - mean for rows, mean in zip(of_sites, means, strict=True)]
        shapes.append(np.concatenate(less))
        constants.append(np.concatenate(means))
    return [*values, *shapes, *constants]


def sigma_from(
    n: float, information: np.ndarray, p: Parametrisation, band_ev: np.ndarray
) -> np.ndarray:
    """Return σ (quantity,), e, of n lattices with the information (theta, theta) of one: that of
    `outlook`, for one number alone.
    """
    root = np.linalg.cholesky(n * information + p.restraints)
    whitened = [
        scipy.linalg.solve_triangular(root, rows.T, lower=True)
        for rows in rows_of_quantities(p, band_ev)
    ]
    return np.sqrt([np.square(columns).sum(axis=0).mean() for columns in whitened])


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
    """Return the least number of lattices that brings σ of one of `QUANTITIES`, by its place, down
    to `sigma_e`; inf where none does.

    information, band_ev: see `outlook`.
    """
    return reached(outlook(information, p, band_ev), sigma_e, kind)


def reached(outlook: Outlook | Halves | XUnknown, sigma_e: float, kind: int) -> float:
    """Return the least number of lattices with σ of one of `QUANTITIES`, by its place, as small as
    `sigma_e`; inf where none has. With X unknown none counts beyond the numbers that are known.
    """
    most = MAX_LATTICES
    if isinstance(outlook, XUnknown):
        most = float(outlook.lattices[-1])

    def excess(log_n: float) -> float:
        sigma = outlook.sigma(np.exp(log_n))[kind]
        return float(np.log(sigma / sigma_e))

    first = 0.0
    last = np.log(most)
    if excess(first) <= 0.0:
        return 1.0
    if excess(last) >= 0.0:
        return np.inf
    return float(np.exp(scipy.optimize.brentq(excess, first, last)))


def edge_sigma(n: float, information: np.ndarray, shapes: edges.Comparison) -> np.ndarray:
    """Return σ (site, site), eV, of the differences of edges from n lattices, on the diagonal that
    of the edges themselves.

    The errors of tables that `edges.compared` assumes do not fall with more lattices.
    """
    no_change = np.zeros(len(shapes.p.names))
    of_sites = edges.compared(shapes, no_change, n * information)
    sigma = np.sqrt(np.diag(of_sites.covariance))
    return of_sites.difference_sigma_ev + np.diag(sigma)


class Scope(NamedTuple):
    """Which curves, and what is asked about them."""

    reference: np.ndarray
    """(site, 2, channel) e"""
    energies_ev: np.ndarray
    """(channel,)"""
    band_ev: np.ndarray
    """the nodes that count, see `inside`"""
    shapes: tuple[np.ndarray, np.ndarray]
    """of the metals, see `edges.comparison`"""
    pairs: Sequence[tuple[int, int]]
    """sites whose edges are compared"""
    lattices: Sequence[float]
    """numbers of lattices, ascending"""
    grids_ev: Sequence[float]
    """distances of nodes, eV"""
    line_e: float
    """how well the line of f' is known with the dispersion relation, see
    `dispersion.kramers_kronig`
    """

    def parametrisations(self) -> Iterator[tuple[float, str, Parametrisation]]:
        """Yield each grid with each of `RESTRAINTS`."""
        for grid_ev in self.grids_ev:
            at = (self.reference, self.energies_ev, nodes(self.energies_ev, grid_ev))
            yield grid_ev, "free", dispersion.free(*at)
            yield grid_ev, "kramers_kronig", dispersion.kramers_kronig(*at, line_e=self.line_e)


class Information(NamedTuple):
    """Information (value, value) of a lattice about the curves' values, where reflections are
    shared with so many others.
    """

    known: np.ndarray
    """with X known"""
    unknown: Mapping[float, np.ndarray]
    """error of the model → with X unknown"""

    def times(self, factor: float) -> "Information":
        """Return a multiple of it."""
        unknown = {error: factor * matrix for error, matrix in self.unknown.items()}
        return Information(factor * self.known, unknown)


class Row(NamedTuple):
    """How well curves are known for one energy grid and restraint."""

    model_error: float | None
    """standard deviation of X about the model's, relative to the r.m.s. |X| of a shell; None = X is
    known
    """
    grid_ev: float
    """distance of nodes, eV"""
    restraint: str
    sigma_e: np.ndarray
    """(quantity, n) for each number of lattices, root mean square over sites and nodes of the
    band
    """
    sigma_edge_difference_ev: np.ndarray
    """(n,) root mean square over pairs of sites; NaN where there is none"""
    enough: np.ndarray
    """(quantity,) the least number with σ as small as the goal; inf where none has"""


def table(information: np.ndarray, shared: Sequence[Information], scope: Scope) -> Iterator[Row]:
    """Yield a row for each grid and restraint, with X known and for each error of its model.

    information: (2, curve · channel, the same), means over either half of the lattices, of the
    hessian of `expand.expand`; shared: for each number of lattices, empty where X is known.
    """
    lattices = np.asarray(scope.lattices, dtype=np.float64)
    errors = list(shared[0].unknown) if shared else []
    for grid_ev, name, p in scope.parametrisations():
        of_theta = p.basis.T @ information @ p.basis
        outlook = halves(of_theta, p, scope.band_ev)
        shapes = edges.comparison(p, scope.shapes)
        of_edges = _edges(shapes, [of_theta.mean(axis=0)] * len(lattices), scope)
        yield _row(None, grid_ev, name, outlook, lattices, of_edges)
        if not errors:
            continue
        known = [p.basis.T @ of_one.known @ p.basis for of_one in shared]
        first = _sigmas(p, known, scope)
        first_edges = _edges(shapes, known, scope)
        for error in errors:
            unknown = [p.basis.T @ of_one.unknown[error] @ p.basis for of_one in shared]
            factor = _sigmas(p, unknown, scope) / first
            x_unknown = XUnknown(outlook, lattices, factor)
            edge_sigma_ev = of_edges * _edges(shapes, unknown, scope) / first_edges
            yield _row(error, grid_ev, name, x_unknown, lattices, edge_sigma_ev)


def _row(
    error: float | None,
    grid_ev: float,
    restraint: str,
    outlook: Halves | XUnknown,
    lattices: np.ndarray,
    edge_sigma_ev: np.ndarray,
) -> Row:
    """Return a row of the table."""
    return Row(
        model_error=error,
        grid_ev=grid_ev,
        restraint=restraint,
        sigma_e=outlook.sigma(lattices),
        sigma_edge_difference_ev=edge_sigma_ev,
        enough=np.array([reached(outlook, GOAL_E, k) for k in range(len(QUANTITIES))]),
    )


def _sigmas(p: Parametrisation, information: Sequence[np.ndarray], scope: Scope) -> np.ndarray:
    """Return σ (quantity, n) for each number of lattices, given what one of so many says."""
    each = zip(scope.lattices, information, strict=False)
    return np.array([sigma_from(n, of_one, p, scope.band_ev) for n, of_one in each]).T


def _edges(shapes: edges.Comparison, information: Sequence[np.ndarray], scope: Scope) -> np.ndarray:
    """Return σ (n,), eV, of the differences of edges for each number of lattices, given what one of
    so many says; NaN without pairs of sites.
    """
    if not scope.pairs:
        return np.full(len(scope.lattices), np.nan)
    each = zip(scope.lattices, information, strict=True)
    return np.array([_of_pairs(edge_sigma(n, of_one, shapes), scope.pairs) for n, of_one in each])


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
