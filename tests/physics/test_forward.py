"""Compiled loops over pairs, against the function that JAX differentiates and against NumPy."""

import jax
import numpy as np
import pytest

from spreadflow.models import Crystal, Detector, Parameters, Spectrum
from spreadflow.physics import (
    differentiable,
    exponential_loops,
    forward,
    layout,
    mosaic,
    pair_loops,
    rotation,
)
from spreadflow.physics.pair_tables import WINDOW, Pairs
from spreadflow.units import DEG

BY_AXIS = np.array([0.03, 0.05, 0.09]) * DEG
"""η by axis of the crystal, rad"""


def lattice(n_channels: int, *, eta_rad=0.05 * DEG, edge_px: float = 0.0) -> Parameters:
    """Return a lattice before two panels; its channels are closer to each other at high energies
    if there are 31.
    """
    rng = np.random.default_rng(4)
    step = np.full(n_channels - 1, 60.0 / n_channels)
    if n_channels == 31:
        step *= np.linspace(1.5, 0.5, n_channels - 1)
    energies = 7090.0 + np.concatenate([[0.0], np.cumsum(step)])
    pulse = Spectrum(energies, 1e12 / n_channels * rng.exponential(size=n_channels))
    turn = rotation.random(np.random.default_rng(3))
    crystal = Crystal(turn / 50.0, np.array([40.0, 36.0, 48.0]), np.float64(eta_rad))
    if np.ndim(eta_rad):
        crystal = crystal._replace(eta_rad=eta_rad)
    turned = rotation.from_vector(np.array([[0.02, -0.01, 0.03], [-0.03, 0.02, -0.01]]))
    detector = Detector(
        origin_mm=np.array([[-20.0, 20.0, -60.0], [0.5, 20.3, -59.0]]),
        fast=turned[:, :, 0],
        slow=-turned[:, :, 1],
        pixel_mm=0.2,
        shape=(200, 100),
        thickness_mm=0.032,
        attenuation_mm=0.017,
    )
    mosaicity = mosaic.continuous(3)
    hkl = np.stack(np.meshgrid(*3 * [np.arange(-12, 13)]), axis=-1).reshape(-1, 3)
    hkl = hkl[hkl.any(axis=1)].astype(np.int32)
    hkl = rng.permutation(hkl[layout.reached(crystal, mosaicity, hkl, pulse)])[:40]
    f_squared = 1e4 * rng.exponential(size=(len(hkl), n_channels))
    return Parameters(
        crystal=crystal,
        mosaic=mosaicity,
        scale=90.0,
        beam_mm=0.003,
        spectrum=pulse,
        polarization=0.8,
        detector=detector,
        hkl=hkl,
        f_squared=f_squared,
        edge_px=edge_px,
    )


def test_exponential_is_that_of_numpy():
    y = np.concatenate([np.linspace(-707.9, 700.0, 100_001), [0.0, -1e-300, 1e-9]])
    ours = np.array([exponential_loops.exp(one) for one in y])
    np.testing.assert_allclose(ours, np.exp(y), rtol=2e-14)
    assert exponential_loops.exp(-708.1) == exponential_loops.exp(-np.inf) == 0.0
    assert np.isnan(exponential_loops.exp(np.nan))


@pytest.mark.stage
def test_what_is_not_a_number_is_seen():
    """In a ray as in a |F|²: nothing makes zero of it."""
    p = lattice(100)
    _, _, rays, pairs = layout.lay_out(p)
    broken = rays.copy()
    broken[pairs.point[0], 0] = np.nan
    bad_factor = p._replace(f_squared=p.f_squared * np.where(np.arange(100) == 50, np.nan, 1.0))
    every = np.eye(13)
    row = np.arange(len(rays))
    for changed, ours in ((p, broken), (bad_factor, rays)):
        assert np.isnan(forward.sums(changed, ours, pairs)[0]).any()
        photons, derivatives = forward.by_crystal(changed, ours, pairs, every, row)
        assert np.isnan(photons).any() and np.isnan(derivatives).any()


@pytest.mark.stage
@pytest.mark.parametrize("n_channels", [1, 31, 100, 1000])
@pytest.mark.parametrize("edge_px", [0.0, 0.5])
def test_photons_are_those_of_the_differentiable_function(n_channels, edge_px):
    """So are the sums by channel, by pair and of the energy; on two panels."""
    p = lattice(n_channels, edge_px=edge_px)
    _, pixels, rays, pairs = layout.lay_out(p)
    expected = np.asarray(differentiable.photons(p, pixels, pairs))
    close = {"rtol": 0.0, "atol": 1e-12 * expected.max()}
    assert all(expected[pixels.panel == panel].max() > 0 for panel in (0, 1))

    total, first_moment, middle = forward.sums(p, rays, pairs)
    np.testing.assert_allclose(total, expected, **close)
    of_each = np.bincount(pairs.point, forward.each(p, rays, pairs), len(rays))
    np.testing.assert_allclose(of_each, expected, **close)

    node = pairs.cloud // 3
    templates = forward.by_channel(p, rays, pairs, np.arange(len(node)), len(node))
    of_channels = templates * np.asarray(p.f_squared)[node]
    single = {"rtol": 0.0, "atol": 1e-6 * expected.max()}
    of_points = np.bincount(pairs.point, of_channels.sum(axis=1), len(rays))
    np.testing.assert_allclose(of_points, expected, **single)
    x = p.spectrum.energies_ev - middle
    moments = np.bincount(pairs.point, of_channels @ x, len(rays))
    largest = expected.max() * max(1.0, np.abs(x).max())
    np.testing.assert_allclose(first_moment, moments, rtol=0, atol=1e-6 * largest)


@pytest.mark.stage
@pytest.mark.parametrize(("n_channels", "eta_rad"), [(31, 0.05 * DEG), (100, BY_AXIS)])
def test_derivatives_are_those_of_the_differentiable_function(n_channels, eta_rad):
    """By each parameter of the crystal, and along directions, for pixels of several points."""
    p = lattice(n_channels, eta_rad=eta_rad)
    _, pixels, rays, pairs = layout.lay_out(p)
    every = np.eye(12 + np.size(eta_rad))
    row = np.arange(len(rays))
    photons, derivatives = forward.by_crystal(p, rays, pairs, every, row)

    by_leaf = jax.jacfwd(lambda c: differentiable.photons(p._replace(crystal=c), pixels, pairs))
    expected = [np.reshape(leaf, (len(rays), -1)) for leaf in jax.jit(by_leaf)(p.crystal)]
    columns = np.concatenate(expected, axis=1)
    assert (np.abs(columns).max(axis=0) > 0).all()
    for ours, theirs in zip(derivatives.T, columns.T, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())

    directions = np.random.default_rng(2).standard_normal((len(every), 3))
    of_four = forward.by_crystal(p, rays, pairs, directions, row // 4)
    for ours, of_points in zip(of_four, (photons, derivatives @ directions), strict=True):
        theirs = np.add.reduceat(of_points, row[::4], axis=0)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())


@pytest.mark.parametrize("n_channels", [1, 31, 100, 1000])
def test_pairs_cover_each_channel_whose_exponent_matters(n_channels):
    rng = np.random.default_rng(5)
    x = np.sort(rng.uniform(-30.0, 30.0, n_channels)) if n_channels == 31 else np.arange(n_channels)
    x = x - 0.5 * (x[0] + x[-1])
    energies = 7000.0 + x
    first = n_channels // 10
    last = n_channels - first
    turn = np.array([0.0, 1e-3, 1e-4])
    rays = np.concatenate(
        [turn + 1e-6 * rng.standard_normal((2000, 3)), np.ones((2000, 1))], axis=1
    )
    clouds = np.zeros((3, 10))
    clouds[:, :3] = 7000.0 * turn + 1e-3 * rng.standard_normal((3, 3))
    clouds[:, 3:6] = np.array([1e4, 3e4, 1e5])[:, None]
    cut = np.array([20.0, 40.0, 0.0])
    pieces = pair_loops.Pieces(
        *np.array([[0, 50, 40, 40, 0], [7, 50, 20, 10, 1], [0, 9, 9, 9, 2]]).T
    )
    ticks = layout._ticks(energies, first, last)
    rows, n = pair_loops.matching(rays, clouds, cut, 7000.0, pieces, ticks)
    pairs = Pairs(*rows[:n].T)
    assert (pairs.channel >= first).all() and (pairs.channel < last).all()

    exponent = np.zeros((len(rays), len(clouds), n_channels))
    for axis in range(3):
        offset = rays[:, None, [axis]] * energies - clouds[:, [axis]]
        exponent += 0.5 * clouds[:, [3 + axis]] * offset**2
    matters = exponent < cut[:, None]  # (point, cloud, channel)
    matters[:, :, :first] = False
    matters[:, :, last:] = False
    reached = np.zeros((2000, 3), dtype=bool)
    reached[(50 * np.arange(40)[:, None] + np.arange(40)), 0] = True
    reached[(7 + 50 * np.arange(10)[:, None] + np.arange(20)), 1] = True
    matters &= reached[:, :, None]

    covered = np.zeros((2000, 3, n_channels + WINDOW), dtype=int)
    for window in range(WINDOW):
        np.add.at(covered, (pairs.point, pairs.cloud, pairs.channel + window), 1)
    assert matters.any() and (covered[:, :, :n_channels] >= matters).all()
    assert covered.max() == 1
    at_most = matters.sum() + 2 * (WINDOW + 2) * len(pairs.point)
    assert covered.sum() <= at_most
    # nothing far from what matters is listed
    centre_is_far = exponent.min(axis=2) > cut
    assert not covered.any(axis=2)[centre_is_far & ~matters.any(axis=2)].any()
