"""Curves f'(E), f''(E) of metal sites from few unknowns: nodes, restraints, dispersion relation.

The pixels speak about curves (site, 2, channel), [:, 0] = f', [:, 1] = f'', in electrons, flattened in this order.
The unknowns θ are deviations from reference curves, linear between nodes: errors of interpolating an edge, which the
reference has, are of second order. Deviations fall to zero one step beyond either end of the nodes, in the curves and
in the dispersion integral alike: a channel half a step beyond has half of the end node's deviation.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from spreadflow.physics import anomalous

PRIOR_E = 5.0
"""standard deviation, e, of the weak prior of every unknown about the reference: binds only what pixels do not know"""
KINDS = ("f'", "f''")


class Parametrisation(NamedTuple):
    """curves = reference + basis @ θ, in electrons, and normal restraints of θ: ½ Σ precision (rows @ θ − target)²."""

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
        """(site, 2, channel) e of the unknowns (theta,)."""
        return self.reference + (self.basis @ theta).reshape(self.reference.shape)

    @property
    def reference_at_nodes(self) -> np.ndarray:
        """(site, 2, node) e, interpolated."""
        return _at(self.nodes_ev, self.energies_ev, self.reference)


def free(
    reference: np.ndarray, energies_ev: np.ndarray, nodes_ev: np.ndarray, prior_e: float = PRIOR_E
) -> Parametrisation:
    """Deviations of f' and f'' at the nodes (node,) eV, each for itself. reference: (site, 2, channel) e."""
    names = [f"{kind} at {energy:g} eV" for kind in KINDS for energy in nodes_ev]
    ev = np.tile(nodes_ev, 2)
    return _site_by_site(
        lambda e: np.kron(np.eye(2), hats(e, nodes_ev)), ev, names, reference, energies_ev, nodes_ev, prior_e
    )


def kramers_kronig(
    reference: np.ndarray, energies_ev: np.ndarray, nodes_ev: np.ndarray, prior_e: float = PRIOR_E
) -> Parametrisation:
    """Deviations of f'' at the nodes; those of f' are their dispersion integral and a straight line, for each site.

    The line, c0 + c1·(E − middle)/(half the range of the nodes), is where the tables may be wrong about what lies
    beyond the nodes. The reference's own f' and f'' have to be a pair, tails included, as those of `anomalous` are.
    """
    middle, half = 0.5 * (nodes_ev[0] + nodes_ev[-1]), 0.5 * (nodes_ev[-1] - nodes_ev[0])

    def site(energies: np.ndarray) -> np.ndarray:
        line = np.column_stack([np.ones(len(energies)), (energies - middle) / half])
        return np.block([[dispersion(energies, nodes_ev), line], [hats(energies, nodes_ev), 0.0 * line]])

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
    """Sites that know nothing of each other, under the weak prior.

    site: energies (n,) → (2·n, theta of a site) f' and f'' for each unknown of a site; theta_ev, names: of a site.
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
    p: Parametrisation, sigma_e: tuple[float, float] = (0.1, 0.2), mean_e: tuple[float, float] = (0.0, 0.03)
) -> Parametrisation:
    """Restrain each curve itself, not its deviation: steps from node to node are those of a random walk.

    sigma_e, mean_e: of (f', f'') over 1 eV (Sauter et al. 2020, Acta D76, 176); over Δ eV the mean grows with Δ and the
    variance with Δ. It widens edges: `edges` refuses it.
    """
    step, start = np.diff(p.nodes_ev), p.reference_at_nodes
    differences = np.diff(np.eye(len(p.nodes_ev)), axis=0)
    rows = np.kron(np.eye(2 * len(p.reference)), differences) @ p.at_nodes
    target = np.asarray(mean_e)[:, None] * step - start @ differences.T
    precision = np.broadcast_to(1.0 / (np.asarray(sigma_e)[:, None] ** 2 * step), target.shape)
    return _restrained(p, rows, target, precision)._replace(is_smooth=True)


def toward(p: Parametrisation, known: np.ndarray, sigma_e: ArrayLike) -> Parametrisation:
    """Restrain each node to curves `known` (site, 2, channel) e. sigma_e: broadcast to (site, 2, node)."""
    target = _at(p.nodes_ev, p.energies_ev, known - p.reference)
    return _restrained(p, p.at_nodes, target, np.broadcast_to(np.asarray(sigma_e) ** -2.0, target.shape))


def toward_kramers_kronig(p: Parametrisation, sigma_e: float = 0.05) -> Parametrisation:
    """Restrain deviations of f' to the dispersion integral of those of f'', a straight line of each site aside.

    sigma_e: of each node, the error of tables. The line is projected out: nothing is said about it.
    """
    k = len(p.nodes_ev)
    line = np.linalg.qr(np.column_stack([np.ones(k), p.nodes_ev - p.nodes_ev.mean()]), mode="complete")[0]
    site = line[:, 2:].T @ np.column_stack([np.eye(k), -dispersion(p.nodes_ev, p.nodes_ev)])
    rows = np.kron(np.eye(len(p.reference)), site) @ p.at_nodes
    return _restrained(p, rows, np.zeros(len(rows)), np.full(len(rows), sigma_e**-2.0))


def _restrained(p: Parametrisation, rows: np.ndarray, target: np.ndarray, precision: np.ndarray) -> Parametrisation:
    return p._replace(
        rows=np.concatenate([p.rows, rows]),
        target=np.append(p.target, target),
        precision=np.append(p.precision, precision),
    )


def hats(energies_ev: np.ndarray, nodes_ev: np.ndarray) -> np.ndarray:
    """(n, node) weights of the nodes' values at the energies (n,), linear between nodes and to zero a step beyond."""
    beyond = _extended(nodes_ev)
    return np.column_stack([np.interp(energies_ev, beyond, hat) for hat in np.eye(len(beyond))[1:-1]])


def dispersion(energies_ev: np.ndarray, nodes_ev: np.ndarray) -> np.ndarray:
    """(n, node) f' at the energies (n,) for f'' = 1 at one node: the dispersion integral of each of `hats`."""
    beyond = _extended(nodes_ev)
    return anomalous.kramers_kronig(energies_ev, beyond, np.eye(len(beyond))[:, 1:-1])


def _extended(nodes_ev: np.ndarray) -> np.ndarray:
    """(node + 2,) with a step more at either end."""
    return np.concatenate([[2 * nodes_ev[0] - nodes_ev[1]], nodes_ev, [2 * nodes_ev[-1] - nodes_ev[-2]]])


def _at(to_ev: np.ndarray, from_ev: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(site, 2, to) of curves (site, 2, from)."""
    return np.array([[np.interp(to_ev, from_ev, curve) for curve in site] for site in values])
