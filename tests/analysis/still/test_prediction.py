"""The predictor against limits, against a brute-force sum over domains, energies and directions,
and against itself.
"""

import numpy as np
import pytest
from scipy.stats import norm

from spreadflow.analysis.still import prediction
from spreadflow.analysis.still.prediction import MosaicLattice
from spreadflow.models import Detector, Spectrum
from spreadflow.physics import rotation, symmetry, unit_cell
from spreadflow.units import HC_EV_ANGSTROM

EDGE = 60.0
ONE = Spectrum(np.array([7120.0]), np.array([1.0]))


def near_bragg(hkl, psi: float, seed: int = 1) -> np.ndarray:
    """Return A (3, 3) of a cubic crystal with node hkl rotated by psi inside the Ewald sphere of
    7120 eV.
    """
    rng = np.random.default_rng(seed)
    length = np.linalg.norm(hkl)
    direction = np.array(hkl) / length

    # where the node shall be
    g = length / EDGE
    azimuth = rng.uniform(0, 2 * np.pi)
    up = np.arcsin(0.5 * g * HC_EV_ANGSTROM / 7120.0) + psi
    x = np.cos(up) * np.cos(azimuth)
    y = np.cos(up) * np.sin(azimuth)
    goal = np.array([x, y, np.sin(up)])

    # the turn that brings it there, and any about the node
    axis = np.cross(direction, goal)
    axis /= np.linalg.norm(axis)
    turn = rotation.from_vector(axis * np.arccos(direction @ goal))
    about_node = rotation.from_vector(goal * rng.uniform(0, 2 * np.pi))
    return about_node @ turn / EDGE


def centroids(A, eta, domain, hkl, spectrum):
    return prediction.centroids_of(MosaicLattice(A, eta, domain), np.array(hkl, float), spectrum)


@pytest.mark.parametrize("psi", [-2e-3, 0.0, 1e-3])
def test_rotation_alone_is_the_smallest_rotation_onto_the_sphere(psi):
    """Huge domains: the ray of the node turned by −ψ in its scattering plane (the predictor of
    DIALS for stills).
    """
    A = near_bragg((7, 5, 3), psi)
    hkl = (7, 5, 3)
    found = centroids(A, 5e-3, 1e7, [hkl], ONE)
    q = A @ hkl
    s0 = np.array([0, 0, -7120.0 / HC_EV_ANGSTROM])
    axis = np.cross(q, s0)
    turned = rotation.from_vector(axis / np.linalg.norm(axis) * psi) @ q

    assert abs(np.linalg.norm(s0 + turned) / np.linalg.norm(s0) - 1) < 1e-12, "on the sphere"
    expected = (s0 + turned) / np.linalg.norm(s0 + turned)
    np.testing.assert_allclose(found.s1[0], expected, atol=1e-6)  # ψ² is left out
    np.testing.assert_allclose(found.delta_psi, psi, atol=1e-12)


def test_size_alone_is_the_nearest_point_of_the_sphere():
    A = near_bragg((7, 5, 3), 1e-3)
    hkl = (7, 5, 3)
    found = centroids(A, 1e-9, 500.0, [hkl], ONE)
    s1 = A @ hkl + [0, 0, -7120.0 / HC_EV_ANGSTROM]

    np.testing.assert_allclose(found.s1[0], s1 / np.linalg.norm(s1), atol=1e-7)


def turned_nodes(q, eta, n_turns=600):
    """Return the node q (3,) in domains turned about random axes by normal angles: (n_turns, 3)."""
    axes = np.random.default_rng(0).normal(size=(n_turns, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    quantiles = (np.arange(n_turns) + 0.5) / n_turns
    angles = norm.ppf(quantiles) * eta
    turns = rotation.from_vector(axes * angles[:, None])
    return turns @ q


def rays_around(s1, grid):
    """Return unit rays (n, 3) on a square grid of angles about s1 (3,)."""
    s1 = s1 / np.linalg.norm(s1)
    across = np.cross(s1, [0, 0, 1.0])
    across /= np.linalg.norm(across)
    in_plane = np.cross(across, s1)

    radial = grid[:, None, None] * in_plane
    transverse = grid[None, :, None] * across
    rays = s1 + radial + transverse
    rays = rays.reshape(-1, 3)
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


def brute_force(A, hkl, eta, domain, spectrum, n_grid=41):
    """Return photons / |F|² (unpolarized), mean ray and mean energy by a plain sum over directions,
    channels and domains.
    """
    nodes = turned_nodes(A @ hkl, eta)
    grid = np.linspace(-6e-3, 6e-3, n_grid)
    rays = rays_around(A @ hkl + [0, 0, -7120.0 / HC_EV_ANGSTROM], grid)
    solid_angle = (grid[1] - grid[0]) ** 2
    reach = 8 * prediction.size_sigma(domain)

    total = 0.0
    mean = np.zeros(3)
    energy = 0.0
    fractions = spectrum.photons / spectrum.photons.sum()
    for e, fraction in zip(spectrum.energies_ev, fractions, strict=True):
        q = (rays - [0, 0, -1.0]) * e / HC_EV_ANGSTROM
        off_shell = np.linalg.norm(q, axis=1) - np.linalg.norm(nodes[0])
        is_lit = np.abs(off_shell) < reach
        r2 = (((q[is_lit, None] - nodes) * domain) ** 2).sum(axis=-1)
        share = np.zeros(len(rays))
        share[is_lit] = fraction * np.exp(-2 * r2 / 0.63).mean(axis=1) * solid_angle
        total += share.sum()
        mean += share @ rays
        energy += e * share.sum()
    return total, mean / np.linalg.norm(mean), energy / total


@pytest.mark.parametrize(("hkl", "psi"), [((3, 2, 1), 0.0), ((9, 4, 2), 4e-4), ((16, 8, 7), -8e-4)])
def test_photons_centroid_and_energy_equal_a_brute_force_sum(hkl, psi):
    """Photons = |F|² · lorentz · partiality · ∫L d³q, for the Gaussian lattice factor and turned
    domains.
    """
    A = near_bragg(hkl, psi)
    eta = 8e-4
    domain = 1500.0
    energies = np.arange(7100.0, 7141.0, 4.0)
    spectrum = Spectrum(
        energies, np.exp(-(((energies - 7116) / 12) ** 2)) * (1 + 0.5 * np.cos(energies))
    )
    photons, s1, energy = brute_force(A, hkl, eta, domain, spectrum)
    found = centroids(A, eta, domain, [hkl], spectrum)
    volume = (np.pi * 0.63 / 2) ** 1.5 / domain**3

    np.testing.assert_allclose(found.lorentz * found.partiality * volume, photons, rtol=0.04)
    np.testing.assert_allclose(found.energy_ev, energy, atol=0.3)
    np.testing.assert_allclose(found.s1[0], s1, atol=4e-5)  # 0.03 px of the demo


def test_compressing_keeps_photons_and_their_mean_energy():
    rng = np.random.default_rng(2)
    full = Spectrum(np.arange(7070.5, 7170.5), rng.exponential(size=100))
    small = prediction.compress(full)

    assert len(small.photons) == prediction.N_CHANNELS
    np.testing.assert_allclose(small.photons.sum(), full.photons.sum())
    np.testing.assert_allclose(small.mean_energy_ev, full.mean_energy_ev, rtol=1e-12)
    one = prediction.compress(ONE)
    assert one.photons.sum() == 1 and one.mean_energy_ev == 7120.0


PULSE = Spectrum(np.arange(7100.0, 7140.0), np.exp(-(((np.arange(40) - 20) / 9.0) ** 2)))
WIDE = Detector(
    np.array([[-60.0, 60.0, -120.0]]),
    np.array([[1.0, 0, 0]]),
    np.array([[0, -1.0, 0]]),
    np.array(0.1),
    (1200, 1200),
)
CELLS = {
    "P 1": [40.0, 50.0, 60.0, 80.0, 95.0, 105.0],
    "C 1 2 1": [67.2, 59.8, 47.2, 90.0, 110.3, 90.0],
    "F 2 3": [110.0, 110.0, 110.0, 90.0, 90.0, 90.0],
}


def crystal(group: str, seed: int = 4) -> np.ndarray:
    B = unit_cell.reciprocal(unit_cell.radians(CELLS[group]))
    return rotation.random(np.random.default_rng(seed)) @ B


def predict(group, detector):
    lattice = MosaicLattice(crystal(group), 9e-4, 2000.0)
    return prediction.predict(lattice, PULSE, detector, space_group=group, d_min=2.5)


def test_capture_is_that_of_the_sensor_under_the_spot():
    """1 − exp(−thickness/(attenuation cos)) with the cosine from distance and radius; all without a
    sensor.
    """
    found = predict("C 1 2 1", WIDE._replace(thickness_mm=0.032, attenuation_mm=0.017))
    radius = np.hypot(found.fast - 600, found.slow - 600) * 0.1
    path = 32 * np.hypot(radius, 120.0) / 120.0

    np.testing.assert_allclose(found.capture, 1 - np.exp(-path / 17))
    assert (predict("C 1 2 1", WIDE).capture == 1).all()


@pytest.mark.stage
@pytest.mark.parametrize("group", ["P 1", "C 1 2 1", "F 2 3"])
def test_pruning_loses_no_reflection(group):
    """The same reflections as from all nodes, none pruned."""
    A = crystal(group)
    found = predict(group, WIDE)
    hkl = unit_cell.all_indices(A, 2.5)
    hkl = hkl[~symmetry.is_centring_absent(hkl, group)]
    spots = centroids(A, 9e-4, 2000.0, hkl, prediction.compress(PULSE))
    on_panel = np.abs(spots.s1[:, :2] / spots.s1[:, 2:]).max(1) < 0.5
    recorded = hkl[(spots.partiality >= 1e-3) & on_panel]
    expected = {tuple(h) for h in recorded}

    assert {tuple(h) for h in found.hkl} == expected
    assert len(expected) > 30
    assert np.all(found.d >= 2.5)
    assert np.all(found.radial_px > 0)
    assert np.all(found.transverse_px > 0)


def test_panels_of_a_cut_detector_show_what_the_whole_one_shows():
    halves = Detector(
        np.array([[-60.0, 60.0, -120.0], [-60.0, 0.0, -120.0]]),
        WIDE.fast.repeat(2, axis=0),
        WIDE.slow.repeat(2, axis=0),
        WIDE.pixel_mm,
        (600, 1200),
    )
    whole = predict("C 1 2 1", WIDE)
    cut = predict("C 1 2 1", halves)

    np.testing.assert_array_equal(whole.hkl, cut.hkl)
    np.testing.assert_allclose(whole.slow, cut.slow + 600 * cut.panel, atol=1e-9)
    for name in ("fast", "radial_px", "transverse_px", "lorentz"):
        np.testing.assert_allclose(getattr(whole, name), getattr(cut, name), rtol=1e-6)


@pytest.mark.stage
def test_slopes_are_differences_of_what_is_recorded():
    """Of ln(partiality · lorentz), by small rotations about x and y and by wider nodes; a rotation
    about the beam changes nothing.
    """
    A = crystal("C 1 2 1")
    lattice = MosaicLattice(A, 9e-4, 2000.0)
    found = predict("C 1 2 1", WIDE)
    spectrum = prediction.compress(PULSE)
    assert len(found.hkl) > 30

    def log_recorded(about=(0.0, 0.0, 0.0), log_width=0.0):
        turned = MosaicLattice(
            rotation.from_vector(np.array(about)) @ A,
            lattice.eta_rad * np.exp(log_width),
            lattice.domain_ang * np.exp(-log_width),
        )
        spots = prediction.centroids_of(turned, found.hkl, spectrum)
        return np.log(spots.partiality * spots.lorentz)

    def slope(step, **change):
        up, down = (
            log_recorded(**{name: sign * np.array(value) for name, value in change.items()})
            for sign in (1.0, -1.0)
        )
        return (up - down) / (2.0 * step)

    h = 1e-7
    by_rotation = [slope(h, about=h * axis) for axis in np.eye(3)]
    by_width = slope(1e-4, log_width=1e-4)
    expected = np.stack([*by_rotation[:2], by_width], axis=1)
    size = np.abs(expected).max(axis=0)
    np.testing.assert_allclose(found.slopes / size, expected / size, atol=2e-3)
    assert np.abs(by_rotation[2]).max() < 1e-3 * size[0]
