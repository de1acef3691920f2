"""Which reflections a still shows, and where: polychromatic, mosaic, finite crystals. Equations in
docs/physics.md.

Everything happens in the scattering plane of a node q = A h: x = q·ŝ0 along the beam, y > 0 across
it. The node is a cloud of covariance Σ = σ_q²·1 + (η w)²·(|q|²·1 − q qᵀ), w uniform on (0, 1): the
size of a domain and its rotation. At energy E the Ewald sphere cuts the cloud: the cut's weight is
the density of the cloud along the sphere's normal, its centre the conditional mean of the cloud on
the sphere.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.still import cloud_loops
from spreadflow.analysis.still.cloud_loops import Pulse, Reach
from spreadflow.models import Array, Detector, Spectrum
from spreadflow.physics import geometry, response, symmetry, unit_cell
from spreadflow.physics.lattice_factor import SIZE_SIGMA
from spreadflow.units import HC_EV_ANGSTROM

_ABSCISSAE, _QUADRATURE = np.polynomial.legendre.leggauss(6)

NODES = 0.5 * (_ABSCISSAE + 1.0)
"""Quadrature points over w: domains turn about uniform axes by normal angles, which is a mixture of
Gaussians of standard deviation η w per axis.
"""

WEIGHTS = 0.5 * _QUADRATURE
"""Weights of the quadrature points; they sum to 1."""

N_CHANNELS = 32
"""Channels a spectrum is compressed to, so that every shot has the same shape."""

FAINTEST_CHANNEL = 1e-4
"""Channels with a smaller fraction of the strongest one's photons are dropped."""

N_SIGMA = 4.0
"""Standard deviations of a node within which the Ewald sphere must come for a reflection."""

HALF_SIZE = 2.33
"""Standard deviations of the rays within which all but 1 % of a spot lies on either side."""

_RAY_STEP = 1e-4
"""Rad; step of the finite difference that tells px per rad."""


class MosaicLattice(NamedTuple):
    """A lattice and what smears its nodes: all that prediction knows of a crystal."""

    A: Array
    """(3, 3) conventional reciprocal matrix, Å⁻¹"""
    eta_rad: Array | float
    """() r.m.s. total rotation of the mosaic domains, rad"""
    domain_ang: Array | float
    """() edge of a mosaic domain, Å"""


class Centroids(NamedTuple):
    """The spots of nodes, wherever the detector stands. Shapes are (n,) unless stated otherwise."""

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
    """Reflections that a lattice shows on the detector. Columns of shape (reflection,) as in
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
    slopes: np.ndarray
    """(reflection, 3) derivatives of ln(partiality · lorentz), as from `recorded_slopes`"""


def compress(spectrum: Spectrum, n_channels: int = N_CHANNELS) -> Spectrum:
    """Return the live part of a spectrum in `n_channels` channels; photons and their mean energy
    are conserved.

    The shape is static: channels that are not used hold no photons.
    """
    energies = np.asarray(spectrum.energies_ev, dtype=np.float64)
    photons = np.clip(np.asarray(spectrum.photons, dtype=np.float64), 0.0, None)
    is_live = photons > FAINTEST_CHANNEL * photons.max()
    energies = energies[is_live]
    photons = photons[is_live]

    above_first = energies - energies[0]
    if len(energies) <= n_channels:
        channel = np.arange(len(energies))
    else:
        width = max(above_first[-1] / n_channels, 1e-9) * (1.0 + 1e-9)
        channel = (above_first / width).astype(int)

    total = np.bincount(channel, photons, n_channels)
    weighted = np.bincount(channel, photons * energies, n_channels)
    is_used = total > 0
    mean = weighted / np.where(is_used, total, 1.0)
    overall_mean = photons @ energies / photons.sum()
    return Spectrum(
        energies_ev=np.where(is_used, mean, overall_mean),
        photons=total,
    )


# ---------------------------------------------------------------- nodes


def size_sigma(domain_ang):
    """Return the standard deviation of a node in reciprocal space, Å⁻¹, for domains of this edge,
    Å.
    """
    return SIZE_SIGMA / domain_ang


def in_plane(q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the coordinates of nodes q (n, 3) in their scattering planes: x along the beam (n,), y
    across it (n,), and the unit vector of the latter (n, 2) in the lab's x, y.
    """
    across = q[:, :2]
    y2 = (across**2).sum(axis=1)
    y = np.sqrt(np.maximum(y2, 1e-24))
    return -q[:, 2], y, across / y[:, None]


def pulse_of(spectrum: Spectrum) -> Pulse:
    """Return the channels of a spectrum that hold photons, as the compiled loops take them."""
    energies = np.asarray(spectrum.energies_ev, dtype=np.float64)
    photons = np.asarray(spectrum.photons, dtype=np.float64)
    is_live = photons > 0
    return Pulse(
        k=energies[is_live] / HC_EV_ANGSTROM,
        energy_ev=energies[is_live],
        fraction=photons[is_live] / photons.sum(),
        nodes=NODES,
        weights=WEIGHTS,
    )


def unit_ray(along: np.ndarray, across: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Return the unit vectors (n, 3), lab frame, of rays with components along and across (n,) in
    their scattering planes; axis: (n, 2) as from `in_plane`.
    """
    norm = np.hypot(along, across)
    sideways = axis * (across / norm)[:, None]
    return np.concatenate([sideways, (-along / norm)[:, None]], axis=1)


def delta_psi(q: np.ndarray, energy_ev: float) -> np.ndarray:
    """Return the rotation of nodes q (n, 3) from the Ewald sphere of `energy_ev`, rad:
    asin(−q·ŝ0/|q|) − asin(|q| λ/2), (n,).
    """
    x, y, _ = in_plane(q)
    g = np.hypot(x, y)
    node = np.arcsin(np.clip(-x / g, -1.0, 1.0))
    sine_of_sphere = 0.5 * g * HC_EV_ANGSTROM / energy_ev
    return node - np.arcsin(np.clip(sine_of_sphere, 0.0, 1.0))


def centroids_of(lattice: MosaicLattice, hkl: np.ndarray, spectrum: Spectrum) -> Centroids:
    """Return the spots of nodes hkl (n, 3) in a pulse.

    Valid while a node is far smaller than its distance from the origin (small angles, plane Ewald
    sphere over the node).
    """
    q = hkl @ np.asarray(lattice.A).T
    x, y, axis = in_plane(q)
    eta_rad = float(lattice.eta_rad)
    sigma_q = float(size_sigma(lattice.domain_ang))
    spot = cloud_loops.clouds(x, y, eta_rad, sigma_q, pulse_of(spectrum))

    g = np.hypot(x, y)
    wavelength = HC_EV_ANGSTROM / spot.energy_ev
    sine = np.clip(0.5 * g * wavelength, 0.0, 1.0)
    cosine = np.sqrt(1.0 - sine**2)

    # pdf_n of a node on the Ewald sphere; pdf_ψ = |q| cos θ pdf_n
    turned = ((eta_rad * NODES) * (g * cosine)[:, None]) ** 2
    norm = np.sqrt(2 * np.pi * (sigma_q**2 + turned))
    on_sphere = (WEIGHTS / norm).sum(axis=1)

    return Centroids(
        s1=unit_ray(spot.along, spot.across, axis),
        energy_ev=spot.energy_ev,
        delta_psi=delta_psi(q, float(spectrum.mean_energy_ev)),
        partiality=np.exp(spot.log_density) / on_sphere,
        lorentz=wavelength**3 / (2 * sine * cosine) * on_sphere * g * cosine,
        sigma_radial=np.sqrt(spot.variance_radial),
        sigma_transverse=np.sqrt(spot.variance_transverse),
    )


def recorded_slopes(lattice: MosaicLattice, hkl: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """Return how ln(partiality · lorentz) of nodes hkl (n, 3) changes, (n, 3): by rotations of the
    lattice about the lab's x and y (1/rad), and by ln of the width of its nodes, of mosaic spread
    and domain size alike.

    A rotation about the beam changes nothing.
    """
    x, y, axis = in_plane(hkl @ np.asarray(lattice.A).T)
    sigma_q = float(size_sigma(lattice.domain_ang))
    slopes = cloud_loops.slopes(x, y, float(lattice.eta_rad), sigma_q, pulse_of(spectrum))
    by_x, by_y, by_eta, by_size = slopes.log_density_by.T
    tilted = by_x * y - by_y * x
    return np.stack([-axis[:, 1] * tilted, axis[:, 0] * tilted, by_eta + by_size], axis=1)


def padded(n: int, least: int = 64) -> int:
    """Return the power of two, at least `least`, that n rows are padded to: few shapes, few
    compiled programs.
    """
    return max(least, 1 << (int(n) - 1).bit_length()) if n else least


def padded_rows(rows: np.ndarray, fill: float = 1.0) -> np.ndarray:
    """Return rows (n, ...) padded with `fill` to `padded(n)` rows."""
    n = len(rows)
    shape = (padded(n), *rows.shape[1:])
    out = np.full(shape, fill, dtype=np.float64)
    out[:n] = rows
    return out


# ---------------------------------------------------------------- reflections


def candidates(
    lattice: MosaicLattice, spectrum: Spectrum, space_group: str, d_min: float
) -> np.ndarray:
    """Return the Miller indices (n, 3) whose nodes come within `N_SIGMA` of their standard
    deviations (mosaic spread, size) of the Ewald sphere of a channel with photons.
    """
    # the spheres of the highest and the lowest energy
    live = np.asarray(spectrum.energies_ev)[np.asarray(spectrum.photons) > 0]
    reach = Reach(
        half_shortest=0.5 * HC_EV_ANGSTROM / float(live.max()),
        half_longest=0.5 * HC_EV_ANGSTROM / float(live.min()),
        eta=float(lattice.eta_rad),
        sigma_q=float(size_sigma(lattice.domain_ang)),
        n_sigma=N_SIGMA,
        longest_q=1.0 / d_min,
    )
    A = np.ascontiguousarray(lattice.A, dtype=np.float64)
    hkl = cloud_loops.reached(A, unit_cell.largest_indices(A, d_min), reach)
    return hkl[~symmetry.is_centring_absent(hkl, space_group)]


def predict(
    lattice: MosaicLattice,
    spectrum: Spectrum,
    detector: Detector,
    *,
    space_group: str,
    d_min: float,
    polarization: float = 1.0,
    partiality_min: float = 1e-3,
) -> Predicted:
    """Return every reflection to d_min (Å) that is recorded to at least `partiality_min` and meets
    a panel, ordered by hkl.
    """
    spectrum = compress(spectrum)
    hkl = candidates(lattice, spectrum, space_group, d_min)
    spots = centroids_of(lattice, hkl, spectrum)
    panel, fast, slow = geometry.intersect(detector, spots.s1)

    rows = np.flatnonzero((spots.partiality >= partiality_min) & (panel >= 0))
    rows = rows[np.lexsort(hkl[rows].T[::-1])]
    hkl = hkl[rows]
    spots = Centroids(*(column[rows] for column in spots))
    panel = panel[rows]
    fast = fast[rows]
    slow = slow[rows]

    radial, transverse = pixels_per_rad(detector, spots.s1, panel, fast, slow)
    placed = at_places(lattice, hkl, spots, (panel, fast, slow), spectrum, detector, polarization)
    return placed._replace(
        radial_px=HALF_SIZE * spots.sigma_radial * radial,
        transverse_px=HALF_SIZE * spots.sigma_transverse * transverse,
    )


def at_places(
    lattice: MosaicLattice,
    hkl: np.ndarray,
    spots: Centroids,
    places: tuple[np.ndarray, np.ndarray, np.ndarray],
    spectrum: Spectrum,
    detector: Detector,
    polarization: float,
) -> Predicted:
    """Return reflections at places on the detector, with boxes of no size.

    hkl: (n, 3); spots: as `centroids_of` has them; places: (n,) panel, fast and slow, px; spectrum:
    compressed.
    """
    panel, fast, slow = places
    normals = geometry.normals(detector)[panel]
    capture = response.captured(spots.s1.T, normals.T, response.depth(detector))
    nothing = np.zeros(len(hkl))
    return Predicted(
        hkl=hkl,
        d=unit_cell.spacing(lattice.A, hkl),
        panel=panel,
        fast=fast,
        slow=slow,
        energy_ev=spots.energy_ev,
        delta_psi_rad=spots.delta_psi,
        partiality=spots.partiality,
        lorentz=spots.lorentz,
        polarization=response.kahn(spots.s1.T, polarization),
        capture=np.asarray(capture),
        radial_px=nothing,
        transverse_px=nothing,
        slopes=recorded_slopes(lattice, hkl, spectrum),
    )


def pixels_per_rad(
    detector: Detector, s1: np.ndarray, panel, fast, slow
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many px rays s1 (n, 3) that meet (panel, fast, slow) move per rad in the
    scattering plane and across it.
    """
    across = np.stack([-s1[:, 1], s1[:, 0], np.zeros(len(s1))], axis=1)
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-12)
    in_plane = np.cross(across, s1)

    def per_rad(axis: np.ndarray) -> np.ndarray:
        moved = s1 + _RAY_STEP * axis
        to_fast, to_slow = geometry.on_panel(detector, panel, moved)
        distance = np.hypot(to_fast - fast, to_slow - slow)
        return distance / _RAY_STEP

    return per_rad(in_plane), per_rad(across)
