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


class _Spot(NamedTuple):
    """The rays of a node in its scattering plane, each (n,)."""

    along: Array
    """component of the mean ray along the beam, not normalized"""
    across: Array
    """component of the mean ray across the beam"""
    energy_ev: Array
    """mean over the diffracted photons"""
    log_density: Array
    """ln Σ_E f_E pdf_n, ln Å"""
    variance_radial: Array
    """of the rays' angle in the plane, rad²"""
    variance_transverse: Array
    """of the rays' angle across the plane, rad²"""


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


def _in_plane(q):
    """Return the coordinates of nodes q (n, 3) in their scattering planes: x along the beam (n,), y
    across it (n,), and the unit vector of the latter (n, 2) in the lab's x, y.
    """
    across = q[:, :2]
    x = -q[:, 2]
    y2 = q[:, 0] ** 2 + q[:, 1] ** 2
    y = jnp.sqrt(jnp.maximum(y2, 1e-24))
    axis = across / y[:, None]
    return x, y, axis


def _spot(x, y, eta, sigma_q, energies, photons) -> _Spot:
    """Return the rays of nodes at (x, y) (n,), as sums over channels and quadrature points.

    Intermediate arrays are (n, quadrature point, channel): long rows vectorize.
    """
    x = x[:, None, None]
    y = y[:, None, None]
    fraction = (photons / photons.sum()) * WEIGHTS[:, None]

    k = energies / HC_EV_ANGSTROM
    tilt = (eta * NODES[:, None]) ** 2
    g2 = x**2 + y**2
    cut = _cut(x, y, k, tilt, sigma_q)
    density, top = _density(fraction, cut.excess, cut.variance)
    total = density.sum(axis=(1, 2))

    def mean(value):
        return (density * value).sum(axis=(1, 2)) / total

    ray_x, ray_y = _rays_of_cut(x, y, k, tilt, sigma_q, cut)
    mean_x = mean(ray_x)
    mean_y = mean(ray_y)

    # between the cuts, in the plane; and within each cut, in the plane and across it
    between = (mean_x[:, None, None] * ray_y - mean_y[:, None, None] * ray_x) ** 2
    across_plane = tilt * g2 + sigma_q**2
    within = sigma_q**2 * across_plane / cut.variance / k**2
    return _Spot(
        along=mean_x,
        across=mean_y,
        energy_ev=mean(energies),
        log_density=jnp.log(total) + top[:, 0, 0],
        variance_radial=mean(between + within),
        variance_transverse=mean(across_plane / k**2),
    )


class _Cut(NamedTuple):
    """The cuts of Ewald spheres with the clouds of nodes; each field broadcasts to (n, quadrature
    point, channel).
    """

    normal_x: Array
    """normal of the sphere at the node, along the beam"""
    normal_y: Array
    """and across it"""
    excess: Array
    """ε, distance of the node from the sphere, > 0 outside, Å⁻¹"""
    along_normal: Array
    """component of q, Å⁻¹"""
    variance: Array
    """of the cloud along the normal, Å⁻²"""


def _cut(x, y, k, tilt, sigma_q) -> _Cut:
    """Return the cuts of spheres of radius k (channel,) with nodes at (x, y), each (n, 1, 1).

    tilt: (quadrature point, 1) variance of the domains' rotation about an axis, rad².
    """
    length = jnp.sqrt((k + x) ** 2 + y**2)
    normal_x = (k + x) / length
    normal_y = y / length
    along_normal = normal_x * x + normal_y * y
    g2 = x**2 + y**2
    return _Cut(
        normal_x=normal_x,
        normal_y=normal_y,
        excess=length - k,
        along_normal=along_normal,
        variance=sigma_q**2 + tilt * (g2 - along_normal**2),
    )


def _rays_of_cut(x, y, k, tilt, sigma_q, cut: _Cut) -> tuple[Array, Array]:
    """Return the rays to the mean of the cloud where the sphere cuts it, δq = −Σ n ε/σ_n² from the
    node, in units of k: along the beam and across it. Arguments are those of `_cut`.
    """
    g2 = x**2 + y**2
    step = -cut.excess / cut.variance
    turned_x = tilt * (g2 * cut.normal_x - x * cut.along_normal)
    turned_y = tilt * (g2 * cut.normal_y - y * cut.along_normal)
    shift_x = step * (sigma_q**2 * cut.normal_x + turned_x)
    shift_y = step * (sigma_q**2 * cut.normal_y + turned_y)
    return (k + x + shift_x) / k, (y + shift_y) / k


def _density(fraction, excess, variance):
    """Return f_E w pdf_n(ε), divided by e^t, and t, the largest exponent of each node (n, 1, 1).

    fraction: (quadrature point, channel) of the photons, times the weight; excess: ε; variance: of
    the cloud along the normal. Dividing keeps nodes far from the sphere from vanishing.
    """
    exponent = -0.5 * excess**2 / variance
    with_photons = jnp.where(fraction > 0, exponent, -jnp.inf)
    largest = with_photons.max(axis=(1, 2), keepdims=True)
    top = jax.lax.stop_gradient(largest)

    relative = jnp.maximum(exponent - top, -200.0)
    gaussian = jnp.exp(relative)
    norm = jnp.sqrt(2 * jnp.pi * variance)
    return fraction * gaussian / norm, top


def _unit_ray(spot: _Spot, axis):
    """Return the mean unit rays (n, 3), lab frame; axis: (n, 2) as from `_in_plane`."""
    norm = jnp.sqrt(spot.along**2 + spot.across**2)
    sine = spot.across / norm
    cosine = spot.along / norm
    across = axis * sine[:, None]
    along = -cosine[:, None]
    return jnp.concatenate([across, along], axis=1)


def rays(q, eta_rad, sigma_q, spectrum: Spectrum):
    """Return the mean unit rays (n, 3) of nodes q (n, 3), Å⁻¹; differentiable in q and η.

    sigma_q: Å⁻¹, as from `size_sigma`.
    """
    x, y, axis = _in_plane(q)
    spot = _spot(x, y, eta_rad, sigma_q, spectrum.energies_ev, spectrum.photons)
    return _unit_ray(spot, axis)


def delta_psi(q, energy_ev):
    """Return the rotation of nodes q (n, 3) from the Ewald sphere of `energy_ev`, rad:
    asin(−q·ŝ0/|q|) − asin(|q| λ/2), (n,).
    """
    x, y, _ = _in_plane(q)
    g = jnp.sqrt(x**2 + y**2)

    sine_of_node = jnp.clip(-x / g, -1.0, 1.0)
    node = jnp.arcsin(sine_of_node)

    sine_of_sphere = 0.5 * g * HC_EV_ANGSTROM / energy_ev
    sphere = jnp.arcsin(jnp.clip(sine_of_sphere, 0.0, 1.0))
    return node - sphere


@jax.jit
def centroids(lattice: MosaicLattice, hkl, spectrum: Spectrum) -> Centroids:
    """Return the spots of nodes hkl (n, 3) in a pulse. Shapes are static.

    Valid while a node is far smaller than its distance from the origin (small angles, plane Ewald
    sphere over the node).
    """
    q = hkl @ lattice.A.T
    x, y, axis = _in_plane(q)
    sigma_q = size_sigma(lattice.domain_ang)
    spot = _spot(x, y, lattice.eta_rad, sigma_q, spectrum.energies_ev, spectrum.photons)

    g = jnp.sqrt(x**2 + y**2)
    wavelength = HC_EV_ANGSTROM / spot.energy_ev
    sine = jnp.clip(0.5 * g * wavelength, 0.0, 1.0)
    cosine = jnp.sqrt(1.0 - sine**2)

    # pdf_n of a node on the Ewald sphere; pdf_ψ = |q| cos θ pdf_n
    turned = ((lattice.eta_rad * NODES) * (g * cosine)[:, None]) ** 2
    norm = jnp.sqrt(2 * jnp.pi * (sigma_q**2 + turned))
    on_sphere = (WEIGHTS / norm).sum(1)

    return Centroids(
        s1=_unit_ray(spot, axis),
        energy_ev=spot.energy_ev,
        delta_psi=delta_psi(q, spectrum.mean_energy_ev),
        partiality=jnp.exp(spot.log_density) / on_sphere,
        lorentz=wavelength**3 / (2 * sine * cosine) * on_sphere * g * cosine,
        sigma_radial=jnp.sqrt(spot.variance_radial),
        sigma_transverse=jnp.sqrt(spot.variance_transverse),
    )


def centroids_of(lattice: MosaicLattice, hkl: np.ndarray, spectrum: Spectrum) -> Centroids:
    """Return `centroids` of any number of nodes hkl (n, 3), as NumPy."""
    n = len(hkl)
    spots = centroids(lattice, padded_rows(hkl), spectrum)
    columns = [np.asarray(column) for column in spots]
    return Centroids(*(column[:n] for column in columns))


@jax.jit
def _recorded_slopes(lattice: MosaicLattice, hkl, spectrum: Spectrum):
    """Return `recorded_slopes` of nodes hkl (n, 3). Shapes are static."""

    def log_recorded(changes):
        about_x, about_y, log_width = changes
        q = hkl @ lattice.A.T
        turned_x = q[:, 0] + about_y * q[:, 2]
        turned_y = q[:, 1] - about_x * q[:, 2]
        turned_z = q[:, 2] + about_x * q[:, 1] - about_y * q[:, 0]
        x, y, _ = _in_plane(jnp.stack([turned_x, turned_y, turned_z], axis=1))

        wider = jnp.exp(log_width)
        sigma_q = wider * size_sigma(lattice.domain_ang)
        eta = wider * lattice.eta_rad
        return _spot(x, y, eta, sigma_q, spectrum.energies_ev, spectrum.photons).log_density

    return jax.jacfwd(log_recorded)(jnp.zeros(3))


def recorded_slopes(lattice: MosaicLattice, hkl: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """Return how ln(partiality · lorentz) of nodes hkl (n, 3) changes, (n, 3): by rotations of the
    lattice about the lab's x and y (1/rad), and by ln of the width of its nodes, of mosaic spread
    and domain size alike.

    A rotation about the beam changes nothing.
    """
    return np.asarray(_recorded_slopes(lattice, padded_rows(hkl), spectrum))[: len(hkl)]


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
    hkl = unit_cell.all_indices(lattice.A, d_min)
    q = hkl @ lattice.A.T
    g = np.linalg.norm(q, axis=1)
    node = np.arcsin(np.clip(q[:, 2] / g, -1.0, 1.0))

    # the angles at which the spheres of the highest and the lowest energy lie
    live = spectrum.energies_ev[np.asarray(spectrum.photons) > 0]
    lowest, highest = (
        np.arcsin(np.minimum(0.5 * g * HC_EV_ANGSTROM / energy, 1.0))
        for energy in (live.max(), live.min())
    )

    depth = g * np.maximum(np.cos(highest), 0.1)
    of_size = size_sigma(lattice.domain_ang) / depth
    reach = N_SIGMA * np.hypot(lattice.eta_rad, of_size)
    is_reached = (node > lowest - reach) & (node < highest + reach)
    hkl = hkl[is_reached]
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
    normals = geometry.normals(detector)[panel]
    capture = response.captured(spots.s1.T, normals.T, response.depth(detector))
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
        radial_px=HALF_SIZE * spots.sigma_radial * radial,
        transverse_px=HALF_SIZE * spots.sigma_transverse * transverse,
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
