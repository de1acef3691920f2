"""Curves f'(E), f''(E) of metal sites from few unknowns: nodes, restraints, dispersion relation.

Pixels hold information about curves (site, 2, channel), [:, 0] = f', [:, 1] = f'', in electrons,
flattened in this order. The unknowns θ are deviations from reference curves, linear between nodes.
As the reference has the edge, errors of interpolating it are of second order. Deviations fall to
zero one step beyond either end of the nodes, in the curves and in the dispersion integral alike: a
channel half a step beyond has half of the end node's deviation.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from spreadflow.physics import anomalous

PRIOR_E = 5.0
"""Standard deviation, e, of the weak prior of every unknown about the reference: it binds only what
pixels do not determine.
"""

LIMIT_E = 0.5
"""σ below which a value of a curve counts as known, e."""

ALTERNATING = -0.5
"""Mean correlation of neighbouring nodes below which errors are reported to alternate."""

KINDS = ("f'", "f''")
"""The curves of a site, by their position in an array."""


class Parametrisation(NamedTuple):
    """Curves = reference + basis @ θ, in electrons, and normal restraints of θ, whose share of
    −ln L is ½ Σ precision (rows @ θ − target)².
    """

    reference: np.ndarray
    """(site, 2, channel) e"""
    basis: np.ndarray
    """(site·2·channel, theta)"""
    rows: np.ndarray
    """(prior, theta)"""
    target: np.ndarray
    """(prior,) e"""
    precision: np.ndarray
    """(prior,) e⁻²"""
    energies_ev: np.ndarray
    """(channel,) eV"""
    nodes_ev: np.ndarray
    """(node,) eV, ascending"""
    at_nodes: np.ndarray
    """(site·2·node, theta) deviations at the nodes = at_nodes @ θ"""
    theta_ev: np.ndarray
    """(theta,) eV, the node an unknown belongs to; NaN where it belongs to a whole curve"""
    names: tuple[str, ...]
    """of the unknowns"""
    is_smooth: bool = False
    """restrained to smoothness: edges are not to be read from it"""

    def curves(self, theta: np.ndarray) -> np.ndarray:
        """Return the curves (site, 2, channel), e, of unknowns (theta,)."""
        return self.reference + (self.basis @ theta).reshape(self.reference.shape)

    def sigma(self, covariance: np.ndarray) -> np.ndarray:
        """Return standard deviations (site, 2, node), e, for a covariance (theta, theta) of θ."""
        rows = self.at_nodes
        variance = np.einsum("nt,tu,nu->n", rows, covariance, rows, optimize=True)
        return np.sqrt(variance).reshape(len(self.reference), 2, -1)

    @property
    def restraints(self) -> np.ndarray:
        """(theta, theta) information of the restraints."""
        return self.rows.T @ (self.precision[:, None] * self.rows)

    @property
    def reference_at_nodes(self) -> np.ndarray:
        """(site, 2, node) e, the reference interpolated."""
        return _at(self.nodes_ev, self.energies_ev, self.reference)


def free(
    reference: np.ndarray, energies_ev: np.ndarray, nodes_ev: np.ndarray, prior_e: float = PRIOR_E
) -> Parametrisation:
    """Return the parametrisation whose unknowns are deviations of f' and f'' at the nodes (node,)
    eV, each for itself. reference: (site, 2, channel) e; energies_ev: (channel,).
    """

    def basis(energies: np.ndarray) -> np.ndarray:
        return np.kron(np.eye(2), hats(energies, nodes_ev))

    site = _Site(
        basis=basis,
        theta_ev=np.tile(nodes_ev, 2),
        names=[f"{kind} at {energy:g} eV" for kind in KINDS for energy in nodes_ev],
    )
    return _site_by_site(site, reference, energies_ev, nodes_ev, prior_e)


def kramers_kronig(
    reference: np.ndarray,
    energies_ev: np.ndarray,
    nodes_ev: np.ndarray,
    prior_e: float = PRIOR_E,
    line_e: float | None = None,
) -> Parametrisation:
    """Return the parametrisation whose unknowns are deviations of f'' at the nodes; those of f' are
    their dispersion integral and a straight line, for each site.

    The line, c0 + c1·(E − middle)/(half the range of the nodes), stands for what the tables may
    have wrong beyond the nodes. line_e: standard deviation of c0 and c1, e; None = `prior_e`. Where
    X is unknown, the pixels say nothing about c0. The reference's own f' and f'' have to be a pair,
    tails included, as those of `anomalous` are. The other arguments are those of `free`.
    """
    first = nodes_ev[0]
    last = nodes_ev[-1]
    middle = 0.5 * (first + last)
    half = 0.5 * (last - first)

    def basis(energies: np.ndarray) -> np.ndarray:
        line = np.column_stack([np.ones(len(energies)), (energies - middle) / half])
        fp = [dispersion(energies, nodes_ev), line]
        fdp = [hats(energies, nodes_ev), 0.0 * line]
        return np.block([fp, fdp])

    at_nodes = [f"f'' at {energy:g} eV" for energy in nodes_ev]
    site = _Site(
        basis=basis,
        theta_ev=np.append(nodes_ev, [np.nan, np.nan]),
        names=[*at_nodes, "constant of f'", "slope of f'"],
    )
    p = _site_by_site(site, reference, energies_ev, nodes_ev, prior_e)
    if line_e is None:
        return p
    is_line = np.isnan(p.theta_ev)
    return p._replace(precision=np.where(is_line, line_e**-2.0, p.precision))


class _Site(NamedTuple):
    """The unknowns of one site."""

    basis: Callable[[np.ndarray], np.ndarray]
    """energies (n,) → f' and f'' (2·n, theta) for each unknown"""
    theta_ev: np.ndarray
    """(theta,) eV, see `Parametrisation`"""
    names: list[str]


def _site_by_site(
    site: _Site,
    reference: np.ndarray,
    energies_ev: np.ndarray,
    nodes_ev: np.ndarray,
    prior_e: float,
) -> Parametrisation:
    """Return the parametrisation of sites that are independent, under the weak prior."""
    n_sites = len(reference)
    n_theta = n_sites * len(site.names)
    each_site = np.eye(n_sites)
    return Parametrisation(
        reference=reference,
        basis=np.kron(each_site, site.basis(energies_ev)),
        rows=np.eye(n_theta),
        target=np.zeros(n_theta),
        precision=np.full(n_theta, prior_e**-2.0),
        energies_ev=energies_ev,
        nodes_ev=nodes_ev,
        at_nodes=np.kron(each_site, site.basis(nodes_ev)),
        theta_ev=np.tile(site.theta_ev, n_sites),
        names=tuple(f"site {s}: {name}" for s in range(n_sites) for name in site.names),
    )


def with_sites(p: Parametrisation, names: Sequence[str], sigma: np.ndarray) -> Parametrisation:
    """Return a parametrisation with more unknowns, the last of θ, which move no curve: what is
    unknown of sites beside these. sigma: (site unknown,) standard deviations about zero.
    """
    n = len(names)
    if n == 0:
        return p

    def wider(matrix: np.ndarray) -> np.ndarray:
        return np.pad(matrix, ((0, 0), (0, n)))

    own = np.eye(n, len(p.names) + n, len(p.names))
    return p._replace(
        basis=wider(p.basis),
        rows=np.concatenate([wider(p.rows), own]),
        target=np.append(p.target, np.zeros(n)),
        precision=np.append(p.precision, np.asarray(sigma) ** -2.0),
        at_nodes=wider(p.at_nodes),
        theta_ev=np.append(p.theta_ev, np.full(n, np.nan)),
        names=(*p.names, *names),
    )


def smooth(
    p: Parametrisation,
    sigma_e: tuple[float, float] = (0.1, 0.2),
    mean_e: tuple[float, float] = (0.0, 0.03),
) -> Parametrisation:
    """Restrain the steps of each curve from node to node, not those of its deviation, to those of a
    random walk.

    sigma_e, mean_e: of the steps of (f', f'') over 1 eV (Sauter et al. 2020, Acta D76, 176); over Δ
    eV both mean and variance grow with Δ. It widens edges: `edges` refuses it.
    """
    step_ev = np.diff(p.nodes_ev)
    differences = np.diff(np.eye(len(p.nodes_ev)), axis=0)
    each_curve = np.eye(2 * len(p.reference))
    rows = np.kron(each_curve, differences) @ p.at_nodes

    of_reference = p.reference_at_nodes @ differences.T
    target = np.asarray(mean_e)[:, None] * step_ev - of_reference
    variance = np.asarray(sigma_e)[:, None] ** 2 * step_ev
    precision = np.broadcast_to(1.0 / variance, target.shape)
    return _restrained(p, rows, target, precision)._replace(is_smooth=True)


def toward(p: Parametrisation, curves: np.ndarray, sigma_e: ArrayLike) -> Parametrisation:
    """Restrain each node to curves (site, 2, channel), e. sigma_e: broadcast to (site, 2, node)."""
    target = _at(p.nodes_ev, p.energies_ev, curves - p.reference)
    precision = np.asarray(sigma_e) ** -2.0
    of_each = np.broadcast_to(precision, target.shape)
    return _restrained(p, p.at_nodes, target, of_each)


def toward_kramers_kronig(p: Parametrisation, sigma_e: float = 0.05) -> Parametrisation:
    """Restrain deviations of f' to the dispersion integral of those of f'', a straight line of each
    site aside.

    sigma_e: of each node, the error of tables. The line is projected out, and so not restrained.
    """
    nodes = p.nodes_ev
    n = len(nodes)
    lines = np.column_stack([np.ones(n), nodes - nodes.mean()])
    rotated, _ = np.linalg.qr(lines, mode="complete")
    no_line = rotated[:, 2:].T
    fp_less_integral = np.column_stack([np.eye(n), -dispersion(nodes, nodes)])
    of_site = no_line @ fp_less_integral

    each_site = np.eye(len(p.reference))
    rows = np.kron(each_site, of_site) @ p.at_nodes
    n_rows = len(rows)
    return _restrained(p, rows, np.zeros(n_rows), np.full(n_rows, sigma_e**-2.0))


def _restrained(
    p: Parametrisation, rows: np.ndarray, target: np.ndarray, precision: np.ndarray
) -> Parametrisation:
    """Return a parametrisation with more restraints."""
    return p._replace(
        rows=np.concatenate([p.rows, rows]),
        target=np.append(p.target, target),
        precision=np.append(p.precision, precision),
    )


def hats(energies_ev: np.ndarray, nodes_ev: np.ndarray) -> np.ndarray:
    """Return the weights (n, node) of the nodes' values at energies (n,): linear between nodes, and
    to zero a step beyond.
    """
    beyond = _extended(nodes_ev)
    unit_vectors = np.eye(len(beyond))[1:-1]
    return np.column_stack([np.interp(energies_ev, beyond, unit) for unit in unit_vectors])


def dispersion(energies_ev: np.ndarray, nodes_ev: np.ndarray) -> np.ndarray:
    """Return f' (n, node) at energies (n,) for f'' = 1 at one node: the dispersion integral of each
    of `hats`.
    """
    beyond = _extended(nodes_ev)
    return anomalous.kramers_kronig(energies_ev, beyond, np.eye(len(beyond))[:, 1:-1])


def _extended(nodes_ev: np.ndarray) -> np.ndarray:
    """Return the nodes (node + 2,) with one more at either end, a step away."""
    before = 2 * nodes_ev[0] - nodes_ev[1]
    after = 2 * nodes_ev[-1] - nodes_ev[-2]
    return np.concatenate([[before], nodes_ev, [after]])


def _at(to_ev: np.ndarray, from_ev: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return curves (site, 2, to) interpolated from curves (site, 2, from)."""
    return np.array([[np.interp(to_ev, from_ev, curve) for curve in site] for site in values])


class Weakness(NamedTuple):
    """What the pixels say little about. σ are those of the restrained fit, if its model is right,
    in electrons.
    """

    band: slice
    """nodes determined to the limit in all curves; all nodes where there are fewer than two"""
    dark: np.ndarray
    """(site, 2, node) bool: there is too little light, so that pixels would not determine the value
    to the limit even if all else were known
    """
    constant: np.ndarray
    """(site, 2) σ of the mean over the band"""
    constant_alone: np.ndarray
    """(site, 2) σ of that mean if all else were known, the shape of the curve, too"""
    neighbours: np.ndarray
    """(site, 2) mean correlation of neighbouring nodes of the band; near −1, errors alternate from
    node to node
    """
    n_undetermined: int
    """directions of θ that restraints determine more than pixels do"""

    def sentences(self, nodes_ev: np.ndarray, limit_e: float = LIMIT_E) -> list[str]:
        """Return a sentence for each thing that a reader of the curves should know."""
        out = []
        for (site, kind), correlation in np.ndenumerate(self.neighbours):
            curve = f"{KINDS[kind]} of site {site}"
            dark = self.dark[site, kind]
            constant = self.constant[site, kind]
            if dark.any():
                ranges = [f"{nodes_ev[a]:g} to {nodes_ev[b - 1]:g}" for a, b in _runs(dark)]
                n_dark = f"{dark.sum()} of {len(dark)} nodes ({', '.join(ranges)} eV)"
                out.append(f"{curve}: too little light at {n_dark}")
            if correlation < ALTERNATING:
                how_much = f"(correlation {correlation:.2f})"
                out.append(f"{curve}: errors alternate from node to node {how_much}")
            if constant > limit_e:
                alone = f"({self.constant_alone[site, kind]:.2g} e if all else were known)"
                out.append(f"{curve}: its mean is known to {constant:.2g} e only {alone}")
        return out


def weak_directions(p: Parametrisation, pixels: np.ndarray, limit_e: float = LIMIT_E) -> Weakness:
    """Return what the information of pixels leaves open.

    pixels: (theta, theta) information without restraints; limit_e: σ up to which a value counts as
    determined, e. Where all else is taken as known, what is left of θ is the direction that moves
    the value and, as far as the parametrisation can, nothing else.
    """
    whole = pixels + p.restraints
    n_theta = len(whole)
    n_sites = len(p.reference)
    n_curves = 2 * n_sites
    covariance = np.linalg.inv(whole)
    inside = band(p.sigma(covariance), limit_e)
    if inside.stop - inside.start < 2:
        inside = slice(0, len(p.nodes_ev))

    # how values at the nodes are read from θ, and the directions of θ that move them
    read = p.at_nodes.reshape(n_curves, -1, n_theta)[:, inside]
    moves = np.linalg.pinv(p.at_nodes)
    constants = moves.reshape(n_theta, n_curves, -1)[:, :, inside].sum(axis=2)
    is_dark = _alone(p.at_nodes, moves, pixels) > limit_e

    of_curves = [rows @ covariance @ rows.T for rows in read]
    constant = np.sqrt([block.mean() for block in of_curves])
    constant_alone = _alone(read.mean(axis=1), constants, whole)
    neighbours = np.array([_neighbours(block) for block in of_curves])

    # shares of the pixels in the information, by direction
    root = np.linalg.inv(np.linalg.cholesky(whole))
    shares = np.linalg.eigvalsh(root @ pixels @ root.T)
    return Weakness(
        band=inside,
        dark=is_dark.reshape(n_sites, 2, -1),
        constant=constant.reshape(n_sites, 2),
        constant_alone=constant_alone.reshape(n_sites, 2),
        neighbours=neighbours.reshape(n_sites, 2),
        n_undetermined=int((shares < 0.5).sum()),
    )


def _alone(read: np.ndarray, moves: np.ndarray, information: np.ndarray) -> np.ndarray:
    """Return σ (n,) of values that are read by rows (n, theta) where θ may move along the
    directions (theta, n) alone, one for each.
    """
    along = np.einsum("tn,tu,un->n", moves, information, moves, optimize=True)
    along = np.maximum(along, np.finfo(float).tiny)
    change = np.einsum("nt,tn->n", read, moves)
    return np.abs(change) / np.sqrt(along)


def band(sigma: np.ndarray, limit_e: float = LIMIT_E) -> slice:
    """Return the longest run of nodes at which σ (site, 2, node) of all curves is below the limit,
    e; it may be empty.
    """
    is_below = np.all(sigma < limit_e, axis=(0, 1))
    longest = slice(0, 0)
    for first, last in _runs(is_below):
        if last - first > longest.stop - longest.start:
            longest = slice(first, last)
    return longest


def _runs(is_true: np.ndarray) -> list[tuple[int, int]]:
    """Return first and last + 1 of each run of True."""
    padded = np.concatenate([[0], is_true.astype(int), [0]])
    ends = np.flatnonzero(np.diff(padded)).tolist()
    firsts = ends[::2]
    lasts = ends[1::2]
    return list(zip(firsts, lasts, strict=True))


def _neighbours(covariance: np.ndarray) -> float:
    """Return the mean correlation of each value with the next; covariance: (n, n)."""
    sigma = np.sqrt(np.diag(covariance))
    correlations = np.diag(covariance, 1) / (sigma[1:] * sigma[:-1])
    return float(correlations.mean())
