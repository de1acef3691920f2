"""Anomalous scattering of atoms: tables (Chantler 1995), model curves of metal sites, dispersion
relation.

Sign convention F = Σ (f0 + f' + i f'') exp(2πi h·x), f'' > 0.
"""

import numpy as np
from numpy.typing import ArrayLike

VALENCE = {"oxidized": 3, "reduced": 2, "metallic": 0}
"""Formal valence of the metal in the curves that are known by name."""

EDGE_SHIFT_EV = 2.0
"""Shift of the edge per unit of valence, to higher energy, eV."""

EDGE_WIDTH_EV = 2.6
"""Standard deviation of the edge, eV: lifetime of the hole, and near-edge structure."""

WHITE_LINE = (0.12, 8.0, 4.0)
"""The white line's height in units of the jump of f'', its distance above the edge, eV, and its
standard deviation, eV.
"""

_NEAR_EV = 60.0
"""Distance from the edge, eV, within which a model curve differs from the tabulated one."""

_EDGES = ("K", "L1", "L2", "L3")
"""Edges that a beam may be tuned to."""

_MOVED_EV = 25.0
"""How far, eV, chemistry and calibration may move what a table has: an edge, first of all."""

_FP_MARGIN = (15.0, 8.0)
"""How far, e, f' of a site may be below and above all that the table has within this distance: a
white line makes it deeper, and f1 = Z + f' is higher by more.
"""

_FDP_FACTORS = (0.5, 4.0)
"""Factors on the least and the most f'' that the table has within this distance: a white line makes
it larger.
"""

_SPAN = 50
"""Factor below and above the edge over which the dispersion integral runs."""


def tabulated(element: str, energies_ev: ArrayLike) -> np.ndarray:
    """Return f' + i f'' (channel,), complex, of the free atom."""
    import xraydb  # with a database

    energies = np.atleast_1d(np.asarray(energies_ev, dtype=np.float64))
    f1 = xraydb.f1_chantler(element, energies)
    f2 = xraydb.f2_chantler(element, energies)
    return np.atleast_1d(f1 + 1j * f2)


def limits(element: str, energies_ev: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the most f' + i f'' (channel,), complex, that an atom of an element may
    have, whatever it is bound to: wide near its edges, where these move, narrow far from them.
    """
    shifts = np.linspace(-_MOVED_EV, _MOVED_EV, 21)
    nearby = np.add.outer(energies_ev, shifts)
    table = tabulated(element, nearby.ravel()).reshape(nearby.shape)
    fp = table.real
    fdp = table.imag
    below, above = _FP_MARGIN
    least, most = _FDP_FACTORS
    low = fp.min(axis=1) - below + 1j * least * fdp.min(axis=1)
    high = fp.max(axis=1) + above + 1j * most * fdp.max(axis=1)
    return low, high


def nearest_edge(element: str, energy_ev: float) -> float:
    """Return the energy, eV, of the K or L edge of an element that is nearest to `energy_ev`."""
    import xraydb  # with a database

    edges = xraydb.xray_edges(element)
    energies = [edges[name].energy for name in _EDGES if name in edges]
    return min(energies, key=lambda energy: abs(np.log(energy / energy_ev)))


def site(element: str, curve: str, energies_ev: np.ndarray) -> np.ndarray:
    """Return f' + i f'' (channel,), complex, of a metal site whose curve is known by name: a key of
    `VALENCE`.
    """
    return shifted(element, VALENCE[curve] * EDGE_SHIFT_EV, energies_ev)


def shifted(element: str, shift_ev: float, energies_ev: np.ndarray) -> np.ndarray:
    """Return f' + i f'' (channel,), complex, of a metal site: the edge shifted by so many eV,
    softened, with a white line.

    f' is the dispersion integral of f'' plus what the tables hold beyond it (the relativistic part
    and the contribution of all else), which is smooth and taken from either side of the edge.
    """
    energies = np.atleast_1d(np.asarray(energies_ev, dtype=np.float64))
    edge = nearest_edge(element, float(energies.mean()))
    coarse = np.geomspace(edge / _SPAN, edge * _SPAN, 2000)
    fine = np.arange(edge - _NEAR_EV, edge + _NEAR_EV, 0.25)
    nodes = np.unique(np.concatenate([coarse, fine]))
    table = tabulated(element, nodes)
    f2 = _site_absorption(nodes, table.imag, edge, shift_ev)

    anchors = edge + np.array([-2.0, 2.0]) * _NEAR_EV
    integral = kramers_kronig(anchors, nodes, table.imag)
    beyond = tabulated(element, anchors).real - integral
    line = np.polynomial.Polynomial.fit(anchors, beyond, 1)
    f1 = kramers_kronig(energies, nodes, f2) + line(energies)
    return f1 + 1j * np.interp(energies, nodes, f2)


def _site_absorption(
    energies: np.ndarray, table: np.ndarray, edge: float, shift: float
) -> np.ndarray:
    """Return f'' of the site: the table's two sides continued towards the edge, joined by a soft
    step, plus the white line.
    """
    is_near = np.abs(energies - edge) < _NEAR_EV
    below, above = (
        np.polynomial.Polynomial.fit(energies[side], table[side], 1)(energies[is_near])
        for side in _sides(energies, edge)
    )
    height, distance, width = WHITE_LINE
    offset = energies[is_near] - edge - shift
    step = 1.0 / (1.0 + np.exp(-np.pi / np.sqrt(3.0) * offset / EDGE_WIDTH_EV))
    white_line = height * np.exp(-0.5 * ((offset - distance) / width) ** 2)
    absorption = table.copy()
    absorption[is_near] = below + (above - below) * (step + white_line)
    return absorption


def _sides(energies: np.ndarray, edge: float) -> tuple[np.ndarray, np.ndarray]:
    """Return which energies lie just below and just above the neighbourhood of the edge."""
    distance = np.abs(energies - edge)
    is_beside = (distance >= _NEAR_EV) & (distance < 6 * _NEAR_EV)
    return is_beside & (energies < edge), is_beside & (energies > edge)


def kramers_kronig(
    energies_ev: np.ndarray, nodes_ev: np.ndarray, absorption: np.ndarray
) -> np.ndarray:
    """Return f'(E) = (2/π) P∫ x f''(x) / (E² − x²) dx, (n, ...), of f'' (m, ...) at nodes (m,) eV,
    linear between them, zero beyond.

    The principal value of each linear piece f'' = α + β x is analytic, the difference between its
    ends of −½ α ln|E² − x²| − β x + ½ β E ln|(E + x)/(E − x)|; where E is a node, the logarithms of
    the two pieces that meet there cancel. Energies are > 0.
    """
    nodes = np.asarray(nodes_ev, dtype=np.float64)
    values = np.asarray(absorption, dtype=np.float64)
    beta = (np.diff(values, axis=0).T / np.diff(nodes)).T
    alpha = values[:-1] - (beta.T * nodes[:-1]).T
    integral = np.empty((len(energies_ev), *values.shape[1:]))
    for i, energy in enumerate(np.asarray(energies_ev, dtype=np.float64)):
        gap = np.abs(energy - nodes)
        log_minus = np.log(np.where(gap > 1e-9, gap, 1.0))
        log_plus = np.log(energy + nodes)
        of_alpha = -0.5 * np.diff(log_minus + log_plus)
        of_beta = 0.5 * energy * np.diff(log_plus - log_minus) - np.diff(nodes)
        integral[i] = of_alpha @ alpha
        integral[i] += of_beta @ beta
    return 2.0 / np.pi * integral
