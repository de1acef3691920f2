"""Anomalous scattering of atoms: tables (Chantler 1995), model curves of metal sites, dispersion
relation.

Sign convention F = Σ (f0 + f' + i f'') exp(2πi h·x), f'' > 0.
"""

import numpy as np
import xraydb
from numpy.typing import ArrayLike

VALENCE = {"oxidized": 3, "reduced": 2, "metallic": 0}
"""Formal valence of the metal in the curves that are known by name."""

EDGE_SHIFT_EV = 2.0
"""Shift of the edge per unit of valence, to higher energy."""

EDGE_WIDTH_EV = 2.6
"""Standard deviation of the edge: lifetime of the hole, and near-edge structure."""

WHITE_LINE = (0.12, 8.0, 4.0)
"""Height in units of the jump, distance above the edge in eV, standard deviation in eV."""

_NEAR_EV = 60.0
"""A model curve differs from the tabulated one within this of the edge."""


def tabulated(element: str, energies_ev: ArrayLike) -> np.ndarray:
    """Return (channel,) complex f' + i f'' of the free atom."""
    energies = np.atleast_1d(np.asarray(energies_ev, dtype=np.float64))
    return np.atleast_1d(
        xraydb.f1_chantler(element, energies) + 1j * xraydb.f2_chantler(element, energies)
    )


def nearest_edge(element: str, energy_ev: float) -> float:
    """Return energy, eV, of the K or L edge of an element that is nearest to `energy_ev`."""
    edges = [
        edge.energy
        for name, edge in xraydb.xray_edges(element).items()
        if name in ("K", "L1", "L2", "L3")
    ]
    return min(edges, key=lambda edge: abs(np.log(edge / energy_ev)))


def site(element: str, curve: str, energies_ev: np.ndarray) -> np.ndarray:
    """Return (channel,) complex f' + i f'' of a metal site whose curve is known by name: a key of
    `VALENCE`.
    """
    return shifted(element, VALENCE[curve] * EDGE_SHIFT_EV, energies_ev)


def shifted(element: str, shift_ev: float, energies_ev: np.ndarray) -> np.ndarray:
    """Return (channel,) complex f' + i f'' of a metal site: the edge shifted by so many eV,
    softened, with a white line.

    f' is the dispersion integral of f'' plus what the tables hold beyond it (the relativistic part
    and the contribution of all else), which is smooth and taken from either side of the edge.
    """
    energies = np.atleast_1d(np.asarray(energies_ev, dtype=np.float64))
    edge = nearest_edge(element, float(energies.mean()))
    step = np.arange(edge - _NEAR_EV, edge + _NEAR_EV, 0.25)
    nodes = np.unique(np.concatenate([np.geomspace(edge / 50, edge * 50, 2000), step]))
    table = tabulated(element, nodes)
    absorption = _site_absorption(nodes, table.imag, edge, shift_ev)
    anchors = edge + np.array([-2.0, 2.0]) * _NEAR_EV
    smooth = tabulated(element, anchors).real - kramers_kronig(anchors, nodes, table.imag)
    real = kramers_kronig(energies, nodes, absorption) + np.polynomial.Polynomial.fit(
        anchors, smooth, 1
    )(energies)
    return real + 1j * np.interp(energies, nodes, absorption)


def _site_absorption(
    energies: np.ndarray, table: np.ndarray, edge: float, shift: float
) -> np.ndarray:
    """Return f'' of the site: the table's two sides continued towards the edge, joined by a soft
    step, plus the white line.
    """
    near = np.abs(energies - edge) < _NEAR_EV
    sides = [
        np.polynomial.Polynomial.fit(energies[fit], table[fit], 1)(energies[near])
        for fit in _sides(energies, edge)
    ]
    height, above, width = WHITE_LINE
    offset = energies[near] - edge - shift
    rise = 1.0 / (1.0 + np.exp(-np.pi / np.sqrt(3.0) * offset / EDGE_WIDTH_EV))
    line = height * np.exp(-0.5 * ((offset - above) / width) ** 2)
    out = table.copy()
    out[near] = sides[0] + (sides[1] - sides[0]) * (rise + line)
    return out


def _sides(energies: np.ndarray, edge: float) -> tuple[np.ndarray, np.ndarray]:
    """Return which energies lie just below and just above the neighbourhood of the edge."""
    far = (np.abs(energies - edge) >= _NEAR_EV) & (np.abs(energies - edge) < 6 * _NEAR_EV)
    return far & (energies < edge), far & (energies > edge)


def kramers_kronig(
    energies_ev: np.ndarray, nodes_ev: np.ndarray, absorption: np.ndarray
) -> np.ndarray:
    """Return (n, ...) f'(E) = (2/π) P∫ x f''(x) / (E² − x²) dx, f'' (m, ...) at nodes (m,) eV,
    linear between, zero beyond.

    The principal value of each linear piece f'' = α + β x is analytic, the difference between its
    ends of −½ α ln|E² − x²| − β x + ½ β E ln|(E + x)/(E − x)|; where E is a node, the logarithms of
    the two pieces that meet there cancel. Energies are > 0.
    """
    nodes = np.asarray(nodes_ev, dtype=np.float64)
    values = np.asarray(absorption, dtype=np.float64)
    slope = (np.diff(values, axis=0).T / np.diff(nodes)).T
    level = values[:-1] - (slope.T * nodes[:-1]).T
    out = np.empty((len(energies_ev), *values.shape[1:]))
    for i, energy in enumerate(np.asarray(energies_ev, dtype=np.float64)):
        gap = np.abs(energy - nodes)
        minus = np.log(np.where(gap > 1e-9, gap, 1.0))
        plus = np.log(energy + nodes)
        out[i] = -0.5 * np.diff(minus + plus) @ level
        out[i] += (0.5 * energy * np.diff(plus - minus) - np.diff(nodes)) @ slope
    return 2.0 / np.pi * out
