"""Compiled sums over clouds against JAX: values, derivatives, and the nodes that are reached."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clouds_by_jax
from spreadflow.analysis.orientation_matrix import crystal_frame, linearized, matrix
from spreadflow.analysis.still import cloud_loops, prediction
from spreadflow.analysis.still.prediction import MosaicLattice
from spreadflow.models import Detector, Spectrum
from spreadflow.physics import geometry, rotation, symmetry, unit_cell

ENERGIES = np.linspace(7080.0, 7160.0, 24)
CELL = unit_cell.radians([67.2, 59.8, 47.2, 90.0, 110.3, 90.0])


def spectrum_of(rng) -> Spectrum:
    """Return a pulse of spikes, some channels without photons."""
    photons = rng.exponential(size=len(ENERGIES)) * np.exp(-(((ENERGIES - 7120) / 20) ** 2))
    photons[3] = 0.0
    return Spectrum(ENERGIES, photons)


def nodes_of(rng, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y (n,) of nodes within a degree of the Ewald sphere."""
    theta = np.arcsin(0.5 / 1.741 * rng.uniform(0.05, 0.5, n) * 1.741**2)
    angle = theta + rng.normal(scale=3e-3, size=n)
    g = 2.0 * np.sin(theta) / 1.741
    return -g * np.sin(angle), g * np.cos(angle)


@pytest.mark.stage
@pytest.mark.parametrize(("eta", "domain"), [(9e-4, 2500.0), (5e-3, 300.0), (1e-9, 800.0)])
def test_rays_and_their_derivatives(eta, domain):
    rng = np.random.default_rng(21)
    spectrum = spectrum_of(rng)
    x, y = nodes_of(rng, 40)
    sigma_q = prediction.size_sigma(domain)
    energies, photons = jnp.asarray(spectrum.energies_ev), jnp.asarray(spectrum.photons)

    def spot(unknowns):
        x, y, ln_eta, ln_sigma = unknowns
        eta, sigma = jnp.exp(ln_eta), jnp.exp(ln_sigma)
        of_node = clouds_by_jax.spot(x[None], y[None], eta, sigma, energies, photons)
        return jnp.stack([column[0] for column in of_node])

    unknowns = np.stack([x, y, np.full(40, np.log(eta)), np.full(40, np.log(sigma_q))], axis=1)
    expected = np.asarray(jax.vmap(spot)(unknowns))
    by_unknowns = np.asarray(jax.vmap(jax.jacfwd(spot))(unknowns))

    pulse = prediction.pulse_of(spectrum)
    clouds = cloud_loops.clouds(x, y, eta, sigma_q, pulse)
    for found, column in zip(clouds, expected.T, strict=True):
        np.testing.assert_allclose(found, column, rtol=1e-9)
    slopes = cloud_loops.slopes(x, y, eta, sigma_q, pulse)
    np.testing.assert_allclose(slopes.along, expected[:, 0], rtol=1e-12)
    np.testing.assert_allclose(slopes.across, expected[:, 1], rtol=1e-12)
    for found, row in ((slopes.along_by, 0), (slopes.across_by, 1), (slopes.log_density_by, 3)):
        scale = np.abs(by_unknowns[:, row]).max(axis=0)
        np.testing.assert_allclose(found / scale, by_unknowns[:, row] / scale, atol=1e-9)


@pytest.mark.stage
@pytest.mark.parametrize("angle", [0.0, 1e-3, 0.02, 2.0])
def test_the_derivative_of_the_orientation_matrix(angle):
    rng = np.random.default_rng(22)
    A = rotation.random(rng) @ unit_cell.reciprocal(unit_cell.radians([40, 50, 60, 80, 95, 105]))
    frame = crystal_frame(A, "P 1")
    p = np.concatenate([angle * np.array([0.6, -0.48, 0.64]), 1e-2 * rng.normal(size=6), [-7.0]])
    expected = np.asarray(jax.jacfwd(lambda p: matrix(frame, p))(jnp.asarray(p)))[:, :, :-1]
    found, by_p = linearized(frame, p)
    np.testing.assert_allclose(found, matrix(frame, p), atol=1e-15)
    np.testing.assert_allclose(np.moveaxis(by_p, 0, 2), expected, atol=1e-14)


@pytest.mark.stage
@pytest.mark.parametrize("parallax_mm", [None, 0.2])
def test_how_rays_move_on_a_panel(parallax_mm):
    detector = Detector(
        origin_mm=np.array([[-90.0, 80.0, -140.0], [10.0, 80.0, -150.0]]),
        fast=np.array([[np.cos(0.1), 0.0, np.sin(0.1)], [1.0, 0.0, 0.0]]),
        slow=np.array([[0.0, -1.0, 0.0], [0.0, -1.0, 0.0]]),
        pixel_mm=np.float64(0.15),
        shape=(1000, 1000),
        thickness_mm=0.5,
        parallax_mm=parallax_mm,
    )
    rng = np.random.default_rng(23)
    panel = rng.integers(0, 2, 30)
    pixel = rng.uniform(0, 1000, (2, 30))
    s1 = geometry.direction(detector, panel, *pixel)
    changes = np.cross(s1, rng.normal(size=(2, 30, 3)))

    def position(s1):
        return jnp.stack(geometry.on_panel(detector, panel, s1), axis=-1)

    found, moves = geometry.on_panel_moved(detector, panel, s1, changes)
    np.testing.assert_allclose(found, np.stack(pixel, axis=1), rtol=1e-6)
    for change, moved in zip(changes, moves, strict=True):
        _, expected = jax.jvp(position, (jnp.asarray(s1),), (jnp.asarray(change),))
        np.testing.assert_allclose(moved, expected, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize(
    ("cell", "group", "d_min", "eta"),
    [
        (CELL, "C 1 2 1", 2.4, 9e-4),
        (CELL, "C 1 2 1", 3.0, 8e-3),
        (unit_cell.radians([20.0, 21.0, 22.0, 90.0, 90.0, 90.0]), "P 1", 0.8, 1e-3),
    ],
)
def test_candidates_are_all_nodes_near_a_sphere(cell, group, d_min, eta):
    """Also those shorter than half a wavelength, which no sphere meets."""
    rng = np.random.default_rng(24)
    lattice = MosaicLattice(rotation.random(rng) @ unit_cell.reciprocal(cell), eta, 700.0)
    spectrum = spectrum_of(rng)
    nodes = unit_cell.all_indices(lattice.A, d_min)
    nodes = nodes[~symmetry.is_centring_absent(nodes, group)]
    q = nodes @ lattice.A.T
    g = np.linalg.norm(q, axis=1)
    angle = np.arcsin(q[:, 2] / g)
    live = ENERGIES[spectrum.photons > 0]
    least, most = (
        np.arcsin(np.minimum(0.5 * g * 12398.419843320026 / energy, 1.0))
        for energy in (live.max(), live.min())
    )
    of_size = prediction.size_sigma(700.0) / (g * np.maximum(np.cos(most), 0.1))
    reach = prediction.N_SIGMA * np.hypot(eta, of_size)
    expected = nodes[(angle > least - reach) & (angle < most + reach)]
    found = prediction.candidates(lattice, spectrum, group, d_min)
    assert len(found) > 20
    assert np.array_equal(found, expected)
