"""Which reflections a still shows, and where: polychromatic, mosaic, finite crystals. Equations in
docs/physics.md.

Everything happens in the scattering plane of a node q = A h: x = q·ŝ0 along the beam, y > 0 across
it. The node is a cloud of covariance Σ = σ_q²·1 + (η w)²·(|q|²·1 − q qᵀ), w uniform on (0, 1): the
size of a domain and its rotation. At energy E the Ewald sphere cuts the cloud: the cut's weight is
the density of the cloud along the sphere's normal, its centre the conditional mean of the cloud on
the sphere.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Array, Detector, Spectrum
from spreadflow.physics import geometry, response, symmetry, unit_cell
from spreadflow.physics.mosaic import SIZE_SIGMA
from spreadflow.units import HC_EV_ANGSTROM

_X, _W = np.polynomial.legendre.leggauss(6)
NODES, WEIGHTS = 0.5 * (_X + 1.0), 0.5 * _W
"""Quadrature over w: domains turn about uniform axes by normal angles = Gaussians of standard
deviation η w per axis.
"""

N_CHANNELS = 32
"""Channels a spectrum is compressed to, so that every shot has the same shape."""


class Centroids(NamedTuple):
    """What the spot of each node is like, wherever the detector stands. Shapes (n,) unless told."""

    s1: Array
    """(n, 3) mean unit vector of the diffracted rays"""
    energy_ev: Array
    """mean energy of the diffracted photons, eV"""
    delta_psi: Array
    """rotation from the Ewald sphere of the pulse's mean energy, rad; > 0 inside the sphere"""
    partiality: Array
    """Σ_E f_E pdf_ψ(Δψ_E) / pdf_ψ(0)"""
    lorentz: Array
    """λ³/sin 2θ · pdf_ψ(0), Å³/rad"""
    sigma_radial: Array
    """standard deviation of the rays' angle in the scattering plane, rad"""
    sigma_transverse: Array
    """standard deviation of the rays' angle across it, rad"""


class Predicted(NamedTuple):
    """Reflections a lattice shows on the detector. Columns of shape (reflection,) as in
    `models.Reflections`.
    """

    hkl: np.ndarray
    d: np.ndarray
    panel: np.ndarray
    fast: np.ndarray
    slow: np.ndarray
    energy_ev: np.ndarray
    delta_psi_rad: np.ndarray
    partiality: np.ndarray
    lorentz: np.ndarray
    polarization: np.ndarray
    capture: np.ndarray
    radial_px: np.ndarray
    """half size along the radius that holds all but ~1 % of the spot on either side, px (no pixel
    or margin added)
    """
    transverse_px: np.ndarray
    """half size across the radius, px"""


def compress(spectrum: Spectrum, n_channels: int = N_CHANNELS) -> Spectrum:
    """Return the live part of a spectrum in `n_channels` channels; photons and their mean energy
    are conserved.

    Channels below 1e-4 of the strongest are dropped. Static shape: unused channels hold no photons.
    """
    energies = np.asarray(spectrum.energies_ev, dtype=np.float64)
    photons = np.clip(np.asarray(spectrum.photons, dtype=np.float64), 0.0, None)
    live = photons > 1e-4 * photons.max()
    energies = energies[live]
    photons = photons[live]
    width = max((energies[-1] - energies[0]) / n_channels, 1e-9) * (1.0 + 1e-9)
    bins = (
        np.arange(len(energies))
        if len(energies) <= n_channels
        else ((energies - energies[0]) / width).astype(int)
    )
    total = np.bincount(bins, photons, n_channels)
    first = np.bincount(bins, photons * energies, n_channels)
    mean = photons @ energies / photons.sum()
    return Spectrum(np.where(total > 0, first / np.where(total > 0, total, 1.0), mean), total)


def _cloud(x, y, eta, sigma_q, energies, photons):
    """Return sums over channels and w-nodes for nodes at (x, y) (n,). Returns the mean ray (along
    s0, across it), the mean energy, ln Σ f pdf_n, and the two angular variances. Inside: (n,
    w-node, channel), for long rows vectorize.
    """
    x, y = x[:, None, None], y[:, None, None]
    k = energies / HC_EV_ANGSTROM
    fraction = (photons / photons.sum()) * WEIGHTS[:, None]
    length = jnp.sqrt((k + x) ** 2 + y**2)
    nx = (k + x) / length
    ny = y / length
    excess = length - k
    tilt = (eta * NODES[:, None]) ** 2
    g2 = x**2 + y**2
    along = nx * x + ny * y
    across = tilt * g2 + sigma_q**2
    variance = sigma_q**2 + tilt * (g2 - along**2)
    exponent = -0.5 * excess**2 / variance
    top = jax.lax.stop_gradient(
        jnp.where(fraction > 0, exponent, -jnp.inf).max(axis=(1, 2), keepdims=True)
    )
    density = (
        fraction * jnp.exp(jnp.maximum(exponent - top, -200.0)) / jnp.sqrt(2 * jnp.pi * variance)
    )
    total = density.sum(axis=(1, 2))

    def mean(value):
        return (density * value).sum(axis=(1, 2)) / total

    step = -excess / variance
    sx = (k + x + step * (sigma_q**2 * nx + tilt * (g2 * nx - x * along))) / k
    sy = (y + step * (sigma_q**2 * ny + tilt * (g2 * ny - y * along))) / k
    cx = mean(sx)
    cy = mean(sy)
    spread = (
        cx[:, None, None] * sy - cy[:, None, None] * sx
    ) ** 2 + sigma_q**2 * across / variance / k**2
    return (
        cx,
        cy,
        mean(energies),
        jnp.log(total) + top[:, 0, 0],
        (mean(spread), mean(across / k**2)),
    )


def _split(q):
    """Return q (n, 3) → x along the beam, y across it, and the unit vector of the latter, (n, 2) in
    the lab's x, y.
    """
    y = jnp.sqrt(jnp.maximum(q[:, 0] ** 2 + q[:, 1] ** 2, 1e-24))
    return -q[:, 2], y, q[:, :2] / y[:, None]


def rays(q, eta_rad, sigma_q, energies_ev, photons):
    """Return (n, 3) mean unit rays of nodes q (n, 3), Å⁻¹; differentiable in q and η. σ_q (Å⁻¹) as
    from `size_sigma`.
    """
    x, y, axis = _split(q)
    cx, cy, *_ = _cloud(x, y, eta_rad, sigma_q, energies_ev, photons)
    norm = jnp.sqrt(cx**2 + cy**2)
    return jnp.concatenate([axis * (cy / norm)[:, None], -(cx / norm)[:, None]], axis=1)


def delta_psi(q, energy_ev):
    """Return (n,) rotation of nodes q (n, 3) from the Ewald sphere of `energy_ev`, rad:
    asin(−q·ŝ0/|q|) − asin(|q| λ/2).
    """
    x, y, _ = _split(q)
    g = jnp.sqrt(x**2 + y**2)
    return jnp.arcsin(jnp.clip(-x / g, -1.0, 1.0)) - jnp.arcsin(
        jnp.clip(0.5 * g * HC_EV_ANGSTROM / energy_ev, 0.0, 1.0)
    )


def size_sigma(domain_ang):
    """Return standard deviation of a node in reciprocal space for a domain of this edge, Å⁻¹."""
    return SIZE_SIGMA / domain_ang


@jax.jit
def centroids(A, eta_rad, domain_ang, hkl, energies_ev, photons) -> Centroids:
    """Return spots of nodes hkl (n, 3) of lattice A (3, 3), Å⁻¹, in a pulse (channel,). Shapes are
    static; vmap over lattices.

    eta_rad: r.m.s. total rotation of the domains; domain_ang: their edge, Å. Valid while a node is
    far smaller than its distance from the origin (small angles, plane Ewald sphere over the node).
    """
    q = hkl @ A.T
    x, y, axis = _split(q)
    sigma_q = size_sigma(domain_ang)
    cx, cy, energy, log_density, (radial, transverse) = _cloud(
        x, y, eta_rad, sigma_q, energies_ev, photons
    )
    norm = jnp.sqrt(cx**2 + cy**2)
    s1 = jnp.concatenate([axis * (cy / norm)[:, None], -(cx / norm)[:, None]], axis=1)
    g = jnp.sqrt(x**2 + y**2)
    wavelength = HC_EV_ANGSTROM / energy
    sine = jnp.clip(0.5 * g * wavelength, 0.0, 1.0)
    cosine = jnp.sqrt(1.0 - sine**2)
    at_bragg = (
        WEIGHTS
        / jnp.sqrt(2 * jnp.pi * (sigma_q**2 + ((eta_rad * NODES) * (g * cosine)[:, None]) ** 2))
    ).sum(1)
    return Centroids(
        s1,
        energy,
        delta_psi(q, (energies_ev * photons).sum() / photons.sum()),
        jnp.exp(log_density) / at_bragg,
        wavelength**3 / (2 * sine * cosine) * at_bragg * g * cosine,
        jnp.sqrt(radial),
        jnp.sqrt(transverse),
    )


def padded(n: int, least: int = 64) -> int:
    """Return the power of two, at least `least`, that n rows are padded to: few shapes, few
    compiled programs.
    """
    return max(least, 1 << (int(n) - 1).bit_length()) if n else least


def padded_rows(rows: np.ndarray, fill: float = 1.0) -> np.ndarray:
    """Return rows (n, ...) padded with `fill` to `padded(n)` rows."""
    out = np.full((padded(len(rows)), *rows.shape[1:]), fill, dtype=np.float64)
    out[: len(rows)] = rows
    return out


def candidates(
    A: np.ndarray,
    eta_rad: float,
    domain_ang: float,
    spectrum: Spectrum,
    space_group: str,
    d_min: float,
) -> np.ndarray:
    """Return (n, 3) Miller indices whose node comes within 4 σ (mosaic, size) of a live Ewald
    sphere.
    """
    hkl = unit_cell.all_indices(A, d_min)
    q = hkl @ A.T
    g = np.linalg.norm(q, axis=1)
    live = spectrum.energies_ev[np.asarray(spectrum.photons) > 0]
    node = np.arcsin(np.clip(q[:, 2] / g, -1.0, 1.0))
    low, high = (
        np.arcsin(np.minimum(0.5 * g * HC_EV_ANGSTROM / e, 1.0)) for e in (live.max(), live.min())
    )
    reach = 4.0 * np.hypot(eta_rad, size_sigma(domain_ang) / (g * np.maximum(np.cos(high), 0.1)))
    hkl = hkl[(node > low - reach) & (node < high + reach)]
    return hkl[~symmetry.is_centring_absent(hkl, space_group)]


def predict(
    A: np.ndarray,
    eta_rad: float,
    domain_ang: float,
    *,
    spectrum: Spectrum,
    detector: Detector,
    space_group: str,
    d_min: float,
    polarization: float = 1.0,
    partiality_min: float = 1e-3,
) -> Predicted:
    """Return every reflection to d_min (Å) recorded to at least `partiality_min` that meets a
    panel, ordered by hkl.
    """
    spectrum = compress(spectrum)
    hkl = candidates(A, eta_rad, domain_ang, spectrum, space_group, d_min)
    spots = centroids(
        A, eta_rad, domain_ang, padded_rows(hkl), spectrum.energies_ev, spectrum.photons
    )
    spots = Centroids(*(np.asarray(column)[: len(hkl)] for column in spots))
    panel, fast, slow = geometry.intersect(detector, spots.s1)
    keep = np.flatnonzero((spots.partiality >= partiality_min) & (panel >= 0))
    keep = keep[np.lexsort(hkl[keep].T[::-1])]
    spots = Centroids(*(column[keep] for column in spots))
    panel = panel[keep]
    fast = fast[keep]
    slow = slow[keep]
    radial, transverse = pixels_per_rad(detector, spots.s1, panel, fast, slow)
    return Predicted(
        hkl[keep],
        unit_cell.spacing(A, hkl[keep]),
        panel,
        fast,
        slow,
        spots.energy_ev,
        spots.delta_psi,
        spots.partiality,
        spots.lorentz,
        response.kahn(spots.s1.T, polarization),
        np.asarray(
            response.captured(
                spots.s1.T, geometry.normals(detector)[panel].T, response.depth(detector)
            )
        ),
        2.33 * spots.sigma_radial * radial,
        2.33 * spots.sigma_transverse * transverse,
    )


def pixels_per_rad(
    detector: Detector, s1: np.ndarray, panel, fast, slow
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many px rays s1 (n, 3) that meet (panel, fast, slow) move per rad in the
    scattering plane and across it.
    """
    across = np.stack([-s1[:, 1], s1[:, 0], np.zeros(len(s1))], axis=1)
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-12)
    step = 1e-4
    radial, transverse = (
        geometry.on_panel(detector, panel, s1 + step * axis)
        for axis in (np.cross(across, s1), across)
    )

    def size(at):
        return np.hypot(at[0] - fast, at[1] - slow) / step

    return size(radial), size(transverse)
