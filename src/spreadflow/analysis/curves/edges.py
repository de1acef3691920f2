"""E0 of metal sites from refined curves, by what the pixels alone say about them.

The curve of a site is taken for a known one of its element, shifted in energy and by constants of
f' and of f'': these are hardly determined, and a table's may be off.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.physics import anomalous

TABLE_E = 0.02
"""Error of tabulated curves at each node, e: pixels are not believed beyond it."""

EMPTY_SHARE = 1e-9
"""Directions in which pixels hold less information than this, relative to the best, say nothing."""

REACH_EV = 15.0
"""Largest shift of an edge that is looked for, eV."""

MAX_STEPS = 50
"""Steps to the fit of an edge, at most."""


MARGIN_EV = 25.0
"""By which the shape of a metal is wider than the channels."""


class Edges(NamedTuple):
    """Where the edges of the sites are: each site is its shape, shifted in energy and by constants
    of f' and of f''.

    NaN for a site that has none: the best shift is the largest that was tried, or leads out of the
    channels.
    """

    shift_ev: np.ndarray
    """(site,) of the site against its shape, to higher energy"""
    covariance: np.ndarray
    """(site, site) of the shifts, eV²"""
    energy_ev: np.ndarray
    """(site,) E0: the steepest point of the shape's f'', shifted"""
    offset_e: np.ndarray
    """(site, 2) constants of f' and f''"""

    @property
    def difference_ev(self) -> np.ndarray:
        """(site, site) E0 of the first less that of the second, for sites of one shape."""
        return self.shift_ev[:, None] - self.shift_ev

    @property
    def difference_sigma_ev(self) -> np.ndarray:
        """(site, site)"""
        variance = np.diag(self.covariance)
        return np.sqrt(np.maximum(variance[:, None] + variance - 2.0 * self.covariance, 0.0))


def metals(elements: Sequence[str], energies_ev: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return shapes to compare edges with: energies (n,) eV, wider than the channels (channel,),
    metals' curves (site, n).
    """
    fine = np.arange(energies_ev[0] - MARGIN_EV, energies_ev[-1] + MARGIN_EV, 0.25)
    return fine, np.array([anomalous.site(element, "metallic", fine) for element in elements])


def edges(
    p: Parametrisation,
    theta: np.ndarray,
    pixels: np.ndarray,
    shapes: tuple[np.ndarray, np.ndarray],
    *,
    noise: np.ndarray | None = None,
) -> Edges:
    """Return E0 of each site from what the pixels alone say: the pull of the restraints is taken
    out of θ again.

    theta: (theta,) where the slopes of pixels and restraints cancel. pixels: (theta, theta)
    information without restraints. shapes: energies (n,) eV, 0.25 eV apart or closer and 15 eV
    wider than the channels at either end, and f' + i f'' of each site (site, n). noise: (theta,
    theta) covariance of the pixels' slope, restraints left out, to take errors from; otherwise the
    model of the pixels is taken to be right, and it is `pixels`.

    b = pixels @ θ + slope of the restraints is what the pixels say. Its covariance is `pixels`, in
    directions that are dark, too: nothing needs to be inverted, and a dispersion relation between
    nodes does no harm. Gauss-Newton finds the minimum of (b − pixels @ θ(curves))ᵀ V⁻¹ (…),
    θ(curves) being the projection of the shifted shapes onto the parametrisation; V is `pixels` and
    an error of the tables at each node.

    Raises ValueError for a parametrisation restrained to smoothness.
    """
    if p.is_smooth:
        raise ValueError(
            "edges: smoothness has moved the edges of these curves by up to 0.6 eV: refine without "
            "it"
        )
    slope = p.rows.T @ (p.precision * (p.rows @ theta - p.target))
    table = TABLE_E * pixels @ np.linalg.pinv(p.at_nodes)
    systematic = table @ table.T
    values, vectors = np.linalg.eigh(pixels + systematic)
    known = values > EMPTY_SHARE * values.max()
    white = vectors[:, known] / np.sqrt(values[known])
    seen = white.T @ pixels @ np.linalg.pinv(p.basis)
    said = white.T @ (pixels @ theta + slope) + seen @ p.reference.ravel()
    shift, offset, jacobian = _shifted(seen, said, p, shapes)
    gain = np.linalg.pinv(jacobian)[: len(shift)] @ white.T
    covariance = gain @ ((pixels if noise is None else noise) + systematic) @ gain.T
    energy = np.array([_steepest(shapes[0], curve) for curve in shapes[1]]) + shift
    none = (np.abs(shift) >= REACH_EV) | (energy < p.energies_ev[0]) | (energy > p.energies_ev[-1])
    shift[none], energy[none], offset[none], covariance[none], covariance[:, none] = (np.nan,) * 5
    return Edges(shift, covariance, energy, offset)


def _shifted(
    seen: np.ndarray, said: np.ndarray, p: Parametrisation, shapes: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return least squares of seen @ curves = said (n,): shifts (site,), offsets (site, 2),
    derivatives of the residuals.

    Starts at the best of steps of 1 eV, site by site.
    """
    n_sites = len(p.reference)
    constants = seen.reshape(len(seen), 2 * n_sites, -1).sum(axis=2)
    flat = np.eye(len(seen)) - constants @ np.linalg.pinv(constants)

    def at(shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return residuals (n,) without offsets, and derivatives (n, site + site·2) of seen @
        curves.
        """
        value, slope = _moved(shapes, p.energies_ev, shift)
        by_shift = (seen * slope.ravel()).reshape(len(seen), n_sites, -1).sum(axis=2)
        return said - seen @ value.ravel(), np.hstack([by_shift, constants])

    shift = np.zeros(n_sites)
    for site in np.eye(n_sites):
        trials = [shift + trial * site for trial in np.arange(-REACH_EV, REACH_EV + 1.0)]
        shift = min(trials, key=lambda trial: float(np.square(flat @ at(trial)[0]).sum()))
    for _ in range(MAX_STEPS):
        left, jacobian = at(shift)
        found = np.linalg.lstsq(jacobian, left)[0]
        step = np.clip(found[:n_sites], -1.0, 1.0)
        if np.abs(step).max() < 1e-5:
            break
        shift = np.clip(shift + step, -REACH_EV, REACH_EV)
    return shift, found[n_sites:].reshape(n_sites, 2), jacobian


def _moved(
    shapes: tuple[np.ndarray, np.ndarray], energies_ev: np.ndarray, shift_ev: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (site, 2, channel) of the shapes shifted by (site,) eV, and their derivatives by the
    shifts.
    """
    value, slope = (
        np.array(
            [
                np.interp(energies_ev - shift, shapes[0], curve)
                for shift, curve in zip(shift_ev, of, strict=True)
            ]
        )
        for of in (shapes[1], -np.gradient(shapes[1], shapes[0], axis=1))
    )
    return np.stack([value.real, value.imag], axis=1), np.stack([slope.real, slope.imag], axis=1)


def _steepest(energies_ev: np.ndarray, curve: np.ndarray) -> float:
    """Return eV, of f'': the vertex of a parabola through the largest slope and its neighbours on a
    grid of 0.5 eV.
    """
    grid = np.arange(energies_ev[0], energies_ev[-1], 0.5)
    slope = np.gradient(np.interp(grid, energies_ev, curve.imag))
    at = int(slope[1:-1].argmax()) + 1
    return float(
        np.polynomial.Polynomial.fit(grid[at - 1 : at + 2], slope[at - 1 : at + 2], 2)
        .deriv()
        .roots()[0]
    )
