"""The compiled loops of spot finding do what operations on arrays do, to the last bit where sums
are exact.
"""

import numpy as np
import pytest

import strong_by_arrays
from spreadflow.analysis.still import spots, strong_loops, strong_pixels
from spreadflow.analysis.still.strong_pixels import DispersionThreshold, Panels


def image(rng, shape, background=3.0, readout=0.0) -> np.ndarray:
    """Return panels of Poisson background with a spot in each, some of them at edges."""
    photons = rng.poisson(background, shape) + readout * rng.normal(size=shape)
    for panel in range(shape[0]):
        slow, fast = rng.integers(0, shape[1]), rng.integers(0, shape[2])
        photons[panel, slow : slow + 2, fast : fast + 3] += rng.choice([40.0, 300.0, 1e5])
    return photons.astype(np.float32)


def check(photons, mask, threshold=strong_pixels.DEFAULT_THRESHOLD, gain=None) -> int:
    """Compare loops with arrays, and return how many pixels are strong."""
    panels = Panels(photons, mask, threshold, gain)
    strong, role = strong_pixels.find(panels)
    arrays = strong_by_arrays.PaddedPanels(photons, mask, threshold, gain)
    expected, is_background = strong_by_arrays.find(arrays)

    panel, fast, slow = panels.coordinates(strong)
    place = np.stack([panel, slow - 0.5, fast - 0.5], axis=1)
    np.testing.assert_array_equal(place, strong_by_arrays.place(arrays, expected))

    roles = strong_loops.VALID | strong_loops.BESIDE
    found = (role & roles) == strong_loops.VALID
    np.testing.assert_array_equal(found, strong_by_arrays.on_panels(arrays, is_background))

    moments = strong_loops.window_moments(panels.frame, panels.settings, role, strong)
    by_arrays = strong_by_arrays.window_moments(arrays, expected, is_background)
    np.testing.assert_array_equal(moments[:, :6], by_arrays[:, :6])
    np.testing.assert_allclose(moments[:, 6:], by_arrays[:, 6:], rtol=1e-13, atol=1e-9)
    return len(strong)


@pytest.mark.parametrize("kernel", [(4, 4), (1, 3), (6, 2)])
@pytest.mark.parametrize("readout", [0.0, 0.8])
@pytest.mark.parametrize("is_mapped", [False, True])
def test_strong_pixels_are_those_of_arrays(kernel, readout, is_mapped):
    """Six panels: some of their pixels masked, or all, with junk in them, and one wholly dark."""
    rng = np.random.default_rng(kernel)
    photons = image(rng, (6, 37, 53), readout=readout)
    mask = rng.random(photons.shape) > 0.03
    mask[2] = False
    mask[3, 10:20] = False
    photons[~mask] = rng.choice([np.nan, np.inf, -7.0, 9e9], np.count_nonzero(~mask))
    photons[4] = 0.0
    gain = rng.uniform(0.5, 2.0, photons.shape).astype(np.float32) if is_mapped else None
    threshold = DispersionThreshold(readout_photons=0.5, kernel=kernel, sigma_background=3.0)
    assert check(photons, mask, threshold, gain) >= 10


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 40), (2, 40, 3), (3, 5, 8), (1, 9, 9)])
def test_panels_may_be_smaller_than_the_window(shape):
    rng = np.random.default_rng(shape)
    threshold = DispersionThreshold(readout_photons=0.3, sigma_background=2.0)
    for _ in range(5):
        photons = image(rng, shape, background=0.5)
        check(photons, np.ones(shape, bool), threshold)


def test_many_strong_pixels_and_none():
    """More than the loops make room for at first; every pixel the same; nothing valid."""
    rng = np.random.default_rng(3)
    photons = rng.poisson(2.0, (1, 180, 180)).astype(np.float32)
    photons[:, ::6, ::6] += 500.0
    photons[:, ::6, 1::6] += 400.0
    mask = np.ones(photons.shape, bool)
    assert check(photons, mask, DispersionThreshold(kernel=(2, 2))) > 1500
    assert check(np.full((1, 30, 30), 7.0, np.float32), mask[:, :30, :30]) == 0
    assert check(photons, ~mask) == 0


def test_the_bound_loses_no_pixel():
    """Counts up to a million beside each other: float32 sums of windows are off, and the pixels
    that are strong by float64 are found all the same.
    """
    rng = np.random.default_rng(4)
    slope = np.exp(rng.uniform(0.0, 14.0, (1, 60, 1))) * np.ones((1, 1, 90))
    photons = rng.poisson(slope).astype(np.float32)
    mask = rng.random(photons.shape) > 0.01
    settings = DispersionThreshold(readout_photons=0.1, sigma_background=0.01, sigma_strong=0.5)
    assert check(photons, mask, settings) > 100


def test_images_are_taken_in_any_order_of_bytes_and_axes():
    """Views, as of a panel that was turned, and numbers of 64 bits are spots as their copies."""
    rng = np.random.default_rng(5)
    photons = image(rng, (2, 40, 60))
    mask = np.ones(photons.shape, bool)
    expected = spots.find(photons, mask)
    turned = np.asfortranarray(photons.astype(np.float64))
    found = spots.find(turned, np.asfortranarray(mask))
    for column, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(column, other)
