"""Curves f'(E), f''(E) of metal sites from few unknowns: nodes, restraints, dispersion relation.

The pixels speak about curves (site, 2, channel), [:, 0] = f', [:, 1] = f'', in electrons, flattened
in this order. The unknowns θ are deviations from reference curves, linear between nodes: errors of
interpolating an edge, which the reference has, are of second order. Deviations fall to zero one
step beyond either end of the nodes, in the curves and in the dispersion integral alike: a channel
half a step beyond has half of the end node's deviation.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from spreadflow.physics import anomalous

PRIOR_E = 5.0
"""Standard deviation, e, of the weak prior of every unknown about the reference: binds only what
pixels do not know.
"""

LIMIT_E = 0.5
"""σ below which a value of a curve counts as known, e."""

ALTERNATING = -0.5
"""Mean correlation of neighbours below which errors are said to alternate."""

KINDS = ("f'", "f''")


class Parametrisation(NamedTuple):
    """curves = reference + basis @ θ, in electrons, and normal restraints of θ: ½ Σ precision (rows
    @ θ − target)².
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
    """(theta,) eV, where an unknown belongs; NaN where it belongs to a whole curve"""
    names: tuple[str, ...]
    """of the unknowns"""
    is_smooth: bool = False
    """restrained to smoothness: edges are not to be read from it"""

    def curves(self, theta: np.ndarray) -> np.ndarray:
        """Return (site, 2, channel) e of the unknowns (theta,)."""
        return self.reference + (self.basis @ theta).reshape(self.reference.shape)

    def sigma(self, covariance: np.ndarray) -> np.ndarray:
        """Return (site, 2, node) standard deviations, e, for the covariance (theta, theta) of θ."""
        variance = np.einsum("nt,tu,nu->n", self.at_nodes, covariance, self.at_nodes, optimize=True)
        return np.sqrt(variance).reshape(*self.reference.shape[:2], -1)

    @property
    def restraints(self) -> np.ndarray:
        """(theta, theta) information of the restraints."""
        return self.rows.T @ (self.precision[:, None] * self.rows)

    @property
    def reference_at_nodes(self) -> np.ndarray:
        """(site, 2, node) e, interpolated."""
        return _at(self.nodes_ev, self.energies_ev, self.reference)


def free(
    reference: np.ndarray, energies_ev: np.ndarray, nodes_ev: np.ndarray, prior_e: float = PRIOR_E
) -> Parametrisation:
    """Return deviations of f' and f'' at the nodes (node,) eV, each for itself. reference: (site,
    2, channel) e.
    """
    names = [f"{kind} at {energy:g} eV" for kind in KINDS for energy in nodes_ev]
    ev = np.tile(nodes_ev, 2)
    return _site_by_site(
        lambda e: np.kron(np.eye(2), hats(e, nodes_ev)),
        ev,
        names,
        reference,
        energies_ev,
        nodes_ev,
        prior_e,
    )


def kramers_kronig(
    reference: np.ndarray, energies_ev: np.ndarray, nodes_ev: np.ndarray, prior_e: float = PRIOR_E
) -> Parametrisation:
    """Return deviations of f'' at the nodes; those of f' are their dispersion integral and a
    straight line, for each site.

    The line, c0 + c1·(E − middle)/(half the range of the nodes), is where the tables may be wrong
    about what lies beyond the nodes. The reference's own f' and f'' have to be a pair, tails
    included, as those of `anomalous` are.
    """
    middle = 0.5 * (nodes_ev[0] + nodes_ev[-1])
    half = 0.5 * (nodes_ev[-1] - nodes_ev[0])

    def site(energies: np.ndarray) -> np.ndarray:
        line = np.column_stack([np.ones(len(energies)), (energies - middle) / half])
        return np.block(
            [[dispersion(energies, nodes_ev), line], [hats(energies, nodes_ev), 0.0 * line]]
        )

    names = [*(f"f'' at {energy:g} eV" for energy in nodes_ev), "constant of f'", "slope of f'"]
    ev = np.append(nodes_ev, [np.nan, np.nan])
    return _site_by_site(site, ev, names, reference, energies_ev, nodes_ev, prior_e)


def _site_by_site(
    site: Callable[[np.ndarray], np.ndarray],
    theta_ev: np.ndarray,
    names: list[str],
    reference: np.ndarray,
    energies_ev: np.ndarray,
    nodes_ev: np.ndarray,
    prior_e: float,
) -> Parametrisation:
    """Return sites that know nothing of each other, under the weak prior.

    site: energies (n,) → (2·n, theta of a site) f' and f'' for each unknown of a site; theta_ev,
    names: of a site.
    """
    n_sites = len(reference)
    each = np.eye(n_sites)
    unknowns = np.eye(n_sites * len(names))
    return Parametrisation(
        reference=reference,
        basis=np.kron(each, site(energies_ev)),
        rows=unknowns,
        target=np.zeros(len(unknowns)),
        precision=np.full(len(unknowns), prior_e**-2.0),
        energies_ev=energies_ev,
        nodes_ev=nodes_ev,
        at_nodes=np.kron(each, site(nodes_ev)),
        theta_ev=np.tile(theta_ev, n_sites),
        names=tuple(f"site {s}: {name}" for s in range(n_sites) for name in names),
    )


def smooth(
    p: Parametrisation,
    sigma_e: tuple[float, float] = (0.1, 0.2),
    mean_e: tuple[float, float] = (0.0, 0.03),
) -> Parametrisation:
    """Restrain each curve itself, not its deviation: steps from node to node are those of a random
    walk.

    sigma_e, mean_e: of (f', f'') over 1 eV (Sauter et al. 2020, Acta D76, 176); over Δ eV the mean
    grows with Δ and the variance with Δ. It widens edges: `edges` refuses it.
    """
    step = np.diff(p.nodes_ev)
    start = p.reference_at_nodes
    differences = np.diff(np.eye(len(p.nodes_ev)), axis=0)
    rows = np.kron(np.eye(2 * len(p.reference)), differences) @ p.at_nodes
    target = np.asarray(mean_e)[:, None] * step - start @ differences.T
    precision = np.broadcast_to(1.0 / (np.asarray(sigma_e)[:, None] ** 2 * step), target.shape)
    return _restrained(p, rows, target, precision)._replace(is_smooth=True)


def toward(p: Parametrisation, known: np.ndarray, sigma_e: ArrayLike) -> Parametrisation:
    """Restrain each node to curves `known` (site, 2, channel) e. sigma_e: broadcast to (site, 2,
    node).
    """
    target = _at(p.nodes_ev, p.energies_ev, known - p.reference)
    return _restrained(
        p, p.at_nodes, target, np.broadcast_to(np.asarray(sigma_e) ** -2.0, target.shape)
    )


def toward_kramers_kronig(p: Parametrisation, sigma_e: float = 0.05) -> Parametrisation:
    """Restrain deviations of f' to the dispersion integral of those of f'', a straight line of each
    site aside.

    sigma_e: of each node, the error of tables. The line is projected out: nothing is said about it.
    """
    k = len(p.nodes_ev)
    line = np.linalg.qr(
        np.column_stack([np.ones(k), p.nodes_ev - p.nodes_ev.mean()]), mode="complete"
    )[0]
    site = line[:, 2:].T @ np.column_stack([np.eye(k), -dispersion(p.nodes_ev, p.nodes_ev)])
    rows = np.kron(np.eye(len(p.reference)), site) @ p.at_nodes
    return _restrained(p, rows, np.zeros(len(rows)), np.full(len(rows), sigma_e**-2.0))


def _restrained(
    p: Parametrisation, rows: np.ndarray, target: np.ndarray, precision: np.ndarray
) -> Parametrisation:
    return p._replace(
        rows=np.concatenate([p.rows, rows]),
        target=np.append(p.target, target),
        precision=np.append(p.precision, precision),
    )


def hats(energies_ev: np.ndarray, nodes_ev: np.ndarray) -> np.ndarray:
    """Return (n, node) weights of the nodes' values at the energies (n,), linear between nodes and
    to zero a step beyond.
    """
    beyond = _extended(nodes_ev)
    return np.column_stack(
        [np.interp(energies_ev, beyond, hat) for hat in np.eye(len(beyond))[1:-1]]
    )


def dispersion(energies_ev: np.ndarray, nodes_ev: np.ndarray) -> np.ndarray:
    """Return (n, node) f' at the energies (n,) for f'' = 1 at one node: the dispersion integral of
    each of `hats`.
    """
    beyond = _extended(nodes_ev)
    return anomalous.kramers_kronig(energies_ev, beyond, np.eye(len(beyond))[:, 1:-1])


def _extended(nodes_ev: np.ndarray) -> np.ndarray:
    """Return (node + 2,) with a step more at either end."""
    return np.concatenate(
        [[2 * nodes_ev[0] - nodes_ev[1]], nodes_ev, [2 * nodes_ev[-1] - nodes_ev[-2]]]
    )


def _at(to_ev: np.ndarray, from_ev: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return (site, 2, to) of curves (site, 2, from)."""
    return np.array([[np.interp(to_ev, from_ev, curve) for curve in site] for site in values])


class Weakness(NamedTuple):
    """What the pixels say little about. σ are those of the restrained fit if its model is right, in
    electrons.
    """

    band: slice
    """nodes known to the limit in all curves; all nodes where there are fewer than two"""
    dark: np.ndarray
    """(site, 2, node) bool: too little light, pixels would not know the value to the limit if all
    else were known
    """
    constant: np.ndarray
    """(site, 2) σ of the mean over the band"""
    constant_alone: np.ndarray
    """(site, 2) the same if all else were known, the shape of the curve, too"""
    neighbours: np.ndarray
    """(site, 2) mean correlation of neighbouring nodes of the band; near −1, errors alternate from
    node to node
    """
    n_undetermined: int
    """directions of θ known from restraints more than from pixels"""

    def sentences(self, nodes_ev: np.ndarray, limit_e: float = LIMIT_E) -> list[str]:
        """Return one for each thing that a reader of the curves should know."""
        out = []
        for (site, kind), correlation in np.ndenumerate(self.neighbours):
            curve = f"{KINDS[kind]} of site {site}"
            dark = self.dark[site, kind]
            constant = self.constant[site, kind]
            if dark.any():
                at = ", ".join(f"{nodes_ev[a]:g} to {nodes_ev[b - 1]:g}" for a, b in _runs(dark))
                out.append(
                    f"{curve}: too little light at {dark.sum()} of {len(dark)} nodes ({at} eV)"
                )
            if correlation < ALTERNATING:
                out.append(
                    f"{curve}: errors alternate from node to node (correlation {correlation:.2f})"
                )
            if constant > limit_e:
                alone = self.constant_alone[site, kind]
                out.append(
                    f"{curve}: its mean is known to {constant:.2g} e only ({alone:.2g} e if all "
                    "else were known)"
                )
        return out


def weak_directions(p: Parametrisation, pixels: np.ndarray, limit_e: float = LIMIT_E) -> Weakness:
    """Return what the information `pixels` (theta, theta) leaves open, restraints left out.
    limit_e: σ up to which a value is known, e.

    Where all else is known, what is left of θ is the direction that moves the value and, as far as
    the parametrisation can, nothing else.
    """
    whole = pixels + p.restraints
    n_sites, _, _ = p.reference.shape
    covariance = np.linalg.inv(whole)
    inside = band(p.sigma(covariance), limit_e)
    if inside.stop - inside.start < 2:
        inside = slice(0, len(p.nodes_ev))
    moves = np.linalg.pinv(p.at_nodes)
    read = p.at_nodes.reshape(2 * n_sites, -1, len(whole))
    constants = moves.reshape(len(whole), 2 * n_sites, -1)[:, :, inside].sum(axis=2)
    own = [rows @ covariance @ rows.T for rows in read[:, inside]]
    root = np.linalg.inv(np.linalg.cholesky(whole))

    def by_curve(values):
        return np.reshape(values, (n_sites, 2, *np.shape(values)[1:]))

    return Weakness(
        band=inside,
        dark=(_alone(p.at_nodes, moves, pixels) > limit_e).reshape(n_sites, 2, -1),
        constant=by_curve(np.sqrt([block.mean() for block in own])),
        constant_alone=by_curve(_alone(read[:, inside].mean(axis=1), constants, whole)),
        neighbours=by_curve([_neighbours(block) for block in own]),
        n_undetermined=int((np.linalg.eigvalsh(root @ pixels @ root.T) < 0.5).sum()),
    )


def _alone(read: np.ndarray, moves: np.ndarray, information: np.ndarray) -> np.ndarray:
    """Return (n,) σ of the values read (n, theta) where θ may move along the directions (theta, n)
    alone, one for each.
    """
    known = np.einsum("tn,tu,un->n", moves, information, moves, optimize=True)
    return np.abs(np.einsum("nt,tn->n", read, moves)) / np.sqrt(
        np.maximum(known, np.finfo(float).tiny)
    )


def band(sigma: np.ndarray, limit_e: float = LIMIT_E) -> slice:
    """Return the longest run of nodes at which σ (site, 2, node) of all curves is below the limit,
    e; may be empty.
    """
    runs = _runs(np.all(sigma < limit_e, axis=(0, 1)))
    return slice(*max(runs, key=lambda run: run[1] - run[0], default=(0, 0)))


def _runs(true: np.ndarray) -> list[tuple[int, int]]:
    """Return first and last + 1 of each run of what is true."""
    ends = np.flatnonzero(np.diff(np.concatenate([[0], true.astype(int), [0]])))
    return list(zip(ends[::2].tolist(), ends[1::2].tolist(), strict=True))


def _neighbours(covariance: np.ndarray) -> float:
    """Return mean correlation of each with the next."""
    sigma = np.sqrt(np.diag(covariance))
    return float((np.diag(covariance, 1) / (sigma[1:] * sigma[:-1])).mean())
