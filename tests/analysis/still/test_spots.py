"""Spot finding: synthetic spots on flat Poisson backgrounds, and simulated stills of another
program.
"""

import json

import h5py
import numpy as np
import pytest

from spreadflow.analysis.still import spots
from spreadflow.models import Detector
from spreadflow.physics import geometry
from spreadflow.units import wavelength


def _grid(n: int, spacing: int, rng: np.random.Generator) -> np.ndarray:
    """(m, 2) positions (fast, slow), at random within the pixel in the middle of each square."""
    middle = np.arange(spacing // 2, n - spacing // 2, spacing, dtype=float)
    fast, slow = np.meshgrid(middle, middle)
    return np.stack([fast.ravel(), slow.ravel()], axis=1) + rng.uniform(size=(fast.size, 2))


def _image(rng, n, background, centres=(), photons=0.0, width=0.7, readout=1.0) -> np.ndarray:
    """(1, n, n) Gaussian spots of r.m.s. `width` px on a flat background, with Poisson and readout
    noise.
    """
    expected = np.full((n, n), float(background))
    for fast, slow in centres:
        s0 = int(slow) - 5
        f0 = int(fast) - 5
        fine = (np.arange(110) + 0.5) / 10
        profile = [
            np.exp(-((fine + x0 - x) ** 2) / 2 / width**2).reshape(11, 10).sum(1)
            for x0, x in ((s0, slow), (f0, fast))
        ]
        box = np.outer(*profile)
        expected[s0 : s0 + 11, f0 : f0 + 11] += photons * box / box.sum()
    return (rng.poisson(expected) + readout * rng.normal(size=expected.shape))[None].astype(
        np.float32
    )


def _match(found, centres) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each centre to the nearest spot, and which spot."""
    d = np.hypot(found.fast - centres[:, :1], found.slow - centres[:, 1:])
    return d.min(axis=1), d.argmin(axis=1)


@pytest.mark.parametrize(
    ("background", "photons"), [(0.1, 100.0), (1.0, 100.0), (10.0, 200.0), (100.0, 800.0)]
)
def test_spots_are_found_where_they_are(background, photons):
    rng = np.random.default_rng(1)
    centres = _grid(500, 25, rng)
    image = _image(rng, 500, background, centres, photons)
    found = spots.find(image, np.ones(image.shape, dtype=bool))
    distance, index = _match(found, centres)
    assert (distance < 1.0).mean() > 0.99
    assert len(found.panel) <= 1.01 * len(centres)
    pull = np.concatenate(
        [
            (found.fast[index] - centres[:, 0]) / np.sqrt(found.variance_fast[index]),
            (found.slow[index] - centres[:, 1]) / np.sqrt(found.variance_slow[index]),
        ]
    )
    assert abs(pull.mean()) < 0.15
    assert 0.8 < pull.std() < 1.25
    # the ring of one pixel around the strong ones holds nearly all of the spot
    excess = (found.intensity[index] - photons) / found.sigma[index]
    assert -1.0 < excess.mean() < 0.3
    assert 0.7 < excess.std() < 1.4


@pytest.mark.parametrize("background", [0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("readout", [0.0, 1.0])
def test_noise_makes_no_spots(background, readout):
    image = _image(np.random.default_rng(2), 1400, background, readout=readout)
    found = spots.find(image, np.ones(image.shape, dtype=bool), readout_photons=readout)
    assert len(found.panel) <= 1  # of 2 million pixels


def test_a_very_strong_pixel_reaches_no_further_than_its_window():
    rng = np.random.default_rng(3)
    centres = _grid(200, 20, rng)
    image = _image(rng, 200, 5.0, centres, 150.0)
    mask = np.ones(image.shape, dtype=bool)
    before = spots.find(image, mask)
    strong = image.copy()
    strong[0, 100:102, 100:102] = 7e9
    after = spots.find(strong, mask)
    far = (np.abs(before.fast - 101) > 10) | (np.abs(before.slow - 101) > 10)
    far_after = (np.abs(after.fast - 101) > 10) | (np.abs(after.slow - 101) > 10)
    for x, y in zip(spots.select(before, far), spots.select(after, far_after), strict=True):
        np.testing.assert_array_equal(x, y)
    near = spots.select(after, ~far_after)
    peak = np.argmax(near.intensity)
    assert near.intensity[peak] == pytest.approx(2.8e10, rel=1e-3)
    assert (near.fast[peak], near.slow[peak]) == pytest.approx((101.0, 101.0), abs=1e-3)


def test_a_weak_neighbour_of_a_strong_spot_is_seen():
    rng = np.random.default_rng(4)
    image = _image(rng, 60, 5.0, [(30.5, 30.5)], 1e6, width=0.5) + _image(
        rng, 60, 0.0, [(37.2, 31.4)], 200.0, readout=0
    )
    found = spots.find(image, np.ones(image.shape, dtype=bool))
    distance, _ = _match(found, np.array([[30.5, 30.5], [37.2, 31.4]]))
    assert (distance < 0.5).all()


def test_masked_pixels_do_not_exist():
    rng = np.random.default_rng(5)
    centres = _grid(200, 20, rng)
    image = _image(rng, 200, 5.0, centres, 300.0)
    mask = np.ones(image.shape, dtype=bool)
    mask[0, :, 95:110] = False
    mask[0, 50, 50] = False
    image[~mask] = np.nan
    a = spots.find(image, mask)
    image[~mask] = 1e9
    b = spots.find(image, mask)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)
    assert not ((a.fast > 95) & (a.fast < 110)).any()
    inside = (centres[:, 0] < 90) | (centres[:, 0] > 115)
    distance, _ = _match(a, centres[inside])
    assert (distance < 1.0).mean() > 0.98


def test_panels_are_apart():
    rng = np.random.default_rng(6)
    one = _image(rng, 100, 2.0, [(93.2, 50.5)], 500.0)
    two = _image(rng, 100, 2.0, [(20.3, 93.4), (50.5, 6.2)], 500.0)
    both = np.concatenate([one, two])
    mask = np.ones(both.shape, dtype=bool)
    found = spots.find(both, mask)
    assert found.panel.tolist() == [0, 1, 1]
    for p, image in enumerate((one, two)):
        alone = spots.find(image, mask[:1])
        np.testing.assert_allclose(found.fast[found.panel == p], alone.fast)
        np.testing.assert_allclose(found.intensity[found.panel == p], alone.intensity)


def test_nothing_is_found_in_nothing():
    image = np.zeros((1, 50, 50), dtype=np.float32)
    assert len(spots.find(image, np.ones(image.shape, dtype=bool)).panel) == 0
    assert len(spots.find(image, np.zeros(image.shape, dtype=bool)).panel) == 0
    image[0, 20:22, 20] = 5.0  # without readout noise, on a background of exactly zero
    assert len(spots.find(image, np.ones(image.shape, dtype=bool), readout_photons=0.0).panel) == 1


def test_resolution_is_bragg():
    detector = Detector(
        np.array([[0.0, 0.0, -100.0]]),
        np.array([[1.0, 0, 0]]),
        np.array([[0.0, -1, 0]]),
        0.1,
        (900, 900),
    )
    image = np.zeros((1, 900, 900), dtype=np.float32)
    image[0, 600:602, 800:802] = 1000.0
    found = spots.find(image, np.ones(image.shape, dtype=bool))
    two_theta = np.arctan(np.hypot(80.1, 60.1) / 100.0)
    expected = wavelength(7120.0) / (2.0 * np.sin(two_theta / 2.0))
    np.testing.assert_allclose(spots.resolution(detector, 7120.0, found), [expected], rtol=1e-6)


def test_spots_of_another_simulator_lie_on_its_lattice(shared_data):
    """nanoBragg stills: nearly every spot is where the true matrix and geometry put one, to a
    fraction of a pixel.
    """
    folder = shared_data / "nanobragg_c2"
    truth = json.loads((folder / "truth.json").read_text())
    with h5py.File(folder / "stills.nxs") as file:
        image = file["entry/data/data"][4:5].astype(np.float32) - truth["adc_offset"]
        mask = file["entry/instrument/detector/pixel_mask"][()][None] == 0
    found = spots.find(image, mask)
    assert 80 <= len(found.panel) <= 100
    origin = np.array([truth["true_panel_origin_mm"]])
    detector = Detector(
        origin, np.array([[1.0, 0, 0]]), np.array([[0.0, -1, 0]]), 0.177, (1920, 1920)
    )
    A = np.array(truth["images"][4]["lattices"][0]["A"])
    s1 = geometry.direction(detector, found.panel, found.fast, found.slow)
    q = (s1 - geometry.S0) / wavelength(truth["images"][4]["mean_energy_eV"])
    h = np.linalg.solve(A, q.T).T
    miss = np.linalg.norm(q - np.rint(h) @ A.T, axis=1)
    assert (miss < 1.5e-3).mean() > 0.97
    assert (np.rint(h)[miss < 1.5e-3][:, :2].sum(axis=1) % 2 == 0).all()


def test_a_sloping_background_does_not_pull_the_centroids():
    """Known answer: on the flank of a water ring a level background would shift these by 0.1 px
    towards the ring.
    """
    rng = np.random.default_rng(7)
    centres = _grid(500, 25, rng)
    slope = 0.4 * np.arange(500)
    image = _image(rng, 500, 0.0, centres, 1200.0, readout=0.0) + rng.poisson(
        60.0 + slope, (1, 500, 500)
    )
    found = spots.find(image.astype(np.float32), np.ones(image.shape, dtype=bool))
    distance, index = _match(found, centres)
    near = distance < 1.0
    assert near.mean() > 0.98
    for axis, position in enumerate((found.fast, found.slow)):
        offset = position[index][near] - centres[near, axis]
        assert abs(offset.mean()) < 3.0 * offset.std() / np.sqrt(near.sum()) + 0.003
