"""E0 of metal sites from refined curves, by what the pixels alone say about them.

The curve of a site is taken to be that of a metal of its element, shifted in energy and by
constants of f' and of f'': these are hardly determined, and a table's may be off.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.physics import anomalous

TABLE_E = 0.02
"""Error of tabulated curves at each node, e: pixels are not trusted beyond it."""

EMPTY_SHARE = 1e-9
"""Directions in which pixels hold less information than this, relative to the best, say nothing."""

REACH_EV = 15.0
"""Largest shift of an edge that is looked for, eV."""

MAX_STEPS = 50
"""Steps of the fit of edges, at most."""

SMALLEST_STEP_EV = 1e-5
"""Steps below this end the fit of edges, eV."""

MARGIN_EV = 25.0
"""How far the shape of a metal goes beyond the channels at either end, eV."""


class Edges(NamedTuple):
    """Where the edges of the sites are: each site is its shape, shifted in energy and by constants
    of f' and of f''.

    A site has none, NaN, where the best shift is the largest that was tried, or leads out of the
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
        """(site, site) standard deviations of these differences, eV."""
        variance = np.diag(self.covariance)
        of_difference = variance[:, None] + variance - 2.0 * self.covariance
        return np.sqrt(np.maximum(of_difference, 0.0))


def metals(elements: Sequence[str], energies_ev: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return shapes to compare edges with: energies (n,) eV, which go beyond the channels
    (channel,), and the metals' curves (site, n).
    """
    first = energies_ev[0] - MARGIN_EV
    last = energies_ev[-1] + MARGIN_EV
    fine = np.arange(first, last, 0.25)
    return fine, np.array([anomalous.site(element, "metallic", fine) for element in elements])


class Comparison(NamedTuple):
    """Curves and the shapes that their edges are compared with: all that pixels do not change."""

    p: Parametrisation
    energies_ev: np.ndarray
    """(n,) of the shapes"""
    curves: np.ndarray
    """(site, n) shapes f' + i f''"""
    slopes: np.ndarray
    """(site, n) derivatives of the shapes by a shift to higher energy"""
    from_nodes: np.ndarray
    """(theta, value at a node) θ of curves by their values at the nodes"""
    from_channels: np.ndarray
    """(theta, value) θ of curves by their values in all channels"""

    def moved(self, shift_ev: np.ndarray) -> np.ndarray:
        """Return the shapes (site, 2, channel) shifted by (site,) eV."""
        return self._at_channels(self.curves, shift_ev)

    def by_shift(self, shift_ev: np.ndarray) -> np.ndarray:
        """Return the derivatives (site, 2, channel) of shifted shapes by the shifts (site,) eV."""
        return self._at_channels(self.slopes, shift_ev)

    def _at_channels(self, of_sites: np.ndarray, shift_ev: np.ndarray) -> np.ndarray:
        """Return curves (site, n) shifted by (site,) eV, in the channels (site, 2, channel)."""
        shifted = [
            np.interp(self.p.energies_ev - shift, self.energies_ev, curve)
            for shift, curve in zip(shift_ev, of_sites, strict=True)
        ]
        values = np.array(shifted)
        return np.stack([values.real, values.imag], axis=1)


def comparison(p: Parametrisation, shapes: tuple[np.ndarray, np.ndarray]) -> Comparison:
    """Return what the edges of curves are compared with.

    shapes: energies (n,) eV, 0.25 eV apart or closer, which go 15 eV beyond the channels at either
    end, and f' + i f'' of each site (site, n). Raises ValueError for a parametrisation restrained
    to smoothness.
    """
    if p.is_smooth:
        raise ValueError(
            "edges: smoothness has moved the edges of these curves by up to 0.6 eV: refine without "
            "it"
        )
    energies_ev, curves = shapes
    return Comparison(
        p=p,
        energies_ev=energies_ev,
        curves=curves,
        slopes=-np.gradient(curves, energies_ev, axis=1),
        from_nodes=np.linalg.pinv(p.at_nodes),
        from_channels=np.linalg.pinv(p.basis),
    )


def edges(
    p: Parametrisation,
    theta: np.ndarray,
    pixels: np.ndarray,
    shapes: tuple[np.ndarray, np.ndarray],
    *,
    noise: np.ndarray | None = None,
) -> Edges:
    """Return E0 of each site, as `compared`; shapes: see `comparison`."""
    return compared(comparison(p, shapes), theta, pixels, noise=noise)


def compared(
    shapes: Comparison,
    theta: np.ndarray,
    pixels: np.ndarray,
    *,
    noise: np.ndarray | None = None,
) -> Edges:
    """Return E0 of each site from what the pixels alone say: the pull of the restraints is taken
    out of θ again.

    theta: (theta,) where the slopes of pixels and restraints cancel. pixels: (theta, theta)
    information without restraints. noise: (theta, theta) covariance of the pixels' slope,
    restraints left out, from which errors are taken; without it the model of the pixels is taken to
    be right, and it is `pixels`.

    b = pixels @ θ + slope of the restraints is what the pixels say. Its covariance is `pixels`, in
    dark directions, too: nothing needs to be inverted, and a dispersion relation between nodes does
    no harm. Gauss-Newton finds the minimum of (b − pixels @ θ(curves))ᵀ V⁻¹ (…), θ(curves) being
    the projection of the shifted shapes onto the parametrisation; V is the sum of `pixels` and of
    an error of the tables at each node.
    """
    p = shapes.p
    slope = p.rows.T @ (p.precision * (p.rows @ theta - p.target))
    of_table = TABLE_E * pixels @ shapes.from_nodes
    systematic = of_table @ of_table.T

    # least squares in the directions in which V holds anything, where it is the unit matrix
    values, vectors = np.linalg.eigh(pixels + systematic)
    is_lit = values > EMPTY_SHARE * values.max()
    whitened = vectors[:, is_lit] / np.sqrt(values[is_lit])
    design = whitened.T @ pixels @ shapes.from_channels
    right = whitened.T @ (pixels @ theta + slope) + design @ p.reference.ravel()
    shift, offset, jacobian = _shifted(design, right, shapes)

    gain = np.linalg.pinv(jacobian)[: len(shift)] @ whitened.T
    variance = (pixels if noise is None else noise) + systematic
    covariance = gain @ variance @ gain.T
    steepest = [_steepest(shapes.energies_ev, curve) for curve in shapes.curves]
    energy = np.array(steepest) + shift

    is_outside = (energy < p.energies_ev[0]) | (energy > p.energies_ev[-1])
    has_none = (np.abs(shift) >= REACH_EV) | is_outside
    for of_site in (shift, energy, offset, covariance, covariance.T):
        of_site[has_none] = np.nan
    return Edges(shift, covariance, energy, offset)


def _shifted(
    design: np.ndarray, right: np.ndarray, shapes: Comparison
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solve design (n, value) @ curves = right (n,) by least squares for shifts (site,) and offsets
    (site, 2), and return them with the derivatives of design @ curves.

    The fit starts at the best of steps of 1 eV, site by site.
    """
    n_sites = len(shapes.curves)
    constants = design.reshape(len(design), 2 * n_sites, -1).sum(axis=2)
    to_constants = np.linalg.pinv(constants)
    design_alone = design - constants @ (to_constants @ design)
    right_alone = right - constants @ (to_constants @ right)

    shift = np.zeros(n_sites)
    for site in np.eye(n_sites):
        trials = shift + np.arange(-REACH_EV, REACH_EV + 1.0)[:, None] * site
        values = [shapes.moved(trial).ravel() for trial in trials]
        left = right_alone - values @ design_alone.T
        shift = trials[np.square(left).sum(axis=1).argmin()]

    for _ in range(MAX_STEPS):
        slope = shapes.by_shift(shift).reshape(n_sites, -1)
        by_site = design.reshape(len(design), n_sites, -1)
        by_shift = np.einsum("nsv,sv->ns", by_site, slope)
        jacobian = np.hstack([by_shift, constants])
        left = right - design @ shapes.moved(shift).ravel()
        solution = np.linalg.lstsq(jacobian, left)[0]
        step = np.clip(solution[:n_sites], -1.0, 1.0)
        if np.abs(step).max() < SMALLEST_STEP_EV:
            break
        shift = np.clip(shift + step, -REACH_EV, REACH_EV)
    return shift, solution[n_sites:].reshape(n_sites, 2), jacobian


def _steepest(energies_ev: np.ndarray, curve: np.ndarray) -> float:
    """Return the energy, eV, at which f'' of a curve (n,) is steepest: the vertex of a parabola
    through the largest slope and its neighbours on a grid of 0.5 eV.
    """
    grid = np.arange(energies_ev[0], energies_ev[-1], 0.5)
    fdp = np.interp(grid, energies_ev, curve.imag)
    slope = np.gradient(fdp)
    largest = int(slope[1:-1].argmax()) + 1
    around = slice(largest - 1, largest + 2)
    parabola = np.polynomial.Polynomial.fit(grid[around], slope[around], 2)
    return float(parabola.deriv().roots()[0])
