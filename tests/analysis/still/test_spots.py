"""Spot finding: synthetic spots on flat Poisson backgrounds, and simulated stills of another
program.
"""

import json

import h5py
import numpy as np
import pytest

from spreadflow.analysis.still import spots
from spreadflow.analysis.still.strong_pixels import DispersionThreshold
from spreadflow.models import Detector
from spreadflow.physics import geometry
from spreadflow.units import wavelength


def everywhere(image: np.ndarray) -> np.ndarray:
    """Return a mask of the image in which every pixel is valid."""
    return np.ones(image.shape, dtype=bool)


def _grid(n: int, spacing: int, rng: np.random.Generator) -> np.ndarray:
    """Return (m, 2) positions (fast, slow), at random within the pixel in the middle of each
    square.
    """
    margin = spacing // 2
    middle = np.arange(margin, n - margin, spacing, dtype=float)
    fast, slow = np.meshgrid(middle, middle)
    corners = np.stack([fast.ravel(), slow.ravel()], axis=1)
    return corners + rng.uniform(size=(fast.size, 2))


def _image(rng, n, background, centres=(), photons=0.0, width=0.7, readout=1.0) -> np.ndarray:
    """Return an image (1, n, n) of Gaussian spots of r.m.s. `width` px on a flat background, with
    Poisson and readout noise.
    """
    expected = np.full((n, n), float(background))
    for fast, slow in centres:
        first_slow = int(slow) - 5
        first_fast = int(fast) - 5
        along_slow = _profile(slow - first_slow, width)
        along_fast = _profile(fast - first_fast, width)
        box = np.outer(along_slow, along_fast)
        rows = slice(first_slow, first_slow + 11)
        columns = slice(first_fast, first_fast + 11)
        expected[rows, columns] += photons * box / box.sum()
    image = rng.poisson(expected) + readout * rng.normal(size=expected.shape)
    return image[None].astype(np.float32)


def _profile(centre: float, width: float) -> np.ndarray:
    """Return a Gaussian integrated over each of 11 pixels, as the sum of ten points in each."""
    points = (np.arange(110) + 0.5) / 10
    distance2 = (points - centre) ** 2
    values = np.exp(-distance2 / 2 / width**2)
    return values.reshape(11, 10).sum(1)


def _match(found, centres) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance of each centre to the nearest spot, and which spot that is."""
    fast = found.fast - centres[:, :1]
    slow = found.slow - centres[:, 1:]
    distance = np.hypot(fast, slow)
    return distance.min(axis=1), distance.argmin(axis=1)


@pytest.mark.parametrize(
    ("background", "photons"), [(0.1, 100.0), (1.0, 100.0), (10.0, 200.0), (100.0, 800.0)]
)
def test_spots_are_found_where_they_are(background, photons):
    rng = np.random.default_rng(1)
    centres = _grid(500, 25, rng)
    image = _image(rng, 500, background, centres, photons)
    found = spots.find(image, everywhere(image))
    distance, index = _match(found, centres)

    assert (distance < 1.0).mean() > 0.99
    assert len(found.panel) <= 1.01 * len(centres)

    offset_fast = found.fast[index] - centres[:, 0]
    offset_slow = found.slow[index] - centres[:, 1]
    pull_fast = offset_fast / np.sqrt(found.variance_fast[index])
    pull_slow = offset_slow / np.sqrt(found.variance_slow[index])
    pull = np.concatenate([pull_fast, pull_slow])
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
    threshold = DispersionThreshold(readout_photons=readout)
    found = spots.find(image, everywhere(image), threshold)

    assert len(found.panel) <= 1  # of 2 million pixels


def test_a_very_strong_pixel_reaches_no_further_than_its_window():
    rng = np.random.default_rng(3)
    centres = _grid(200, 20, rng)
    image = _image(rng, 200, 5.0, centres, 150.0)
    mask = everywhere(image)
    before = spots.find(image, mask)
    strong = image.copy()
    strong[0, 100:102, 100:102] = 7e9
    after = spots.find(strong, mask)
    far = (np.abs(before.fast - 101) > 10) | (np.abs(before.slow - 101) > 10)
    far_after = (np.abs(after.fast - 101) > 10) | (np.abs(after.slow - 101) > 10)
    for x, y in zip(spots.select(before, far), spots.select(after, far_after), strict=True):
        np.testing.assert_array_equal(x, y)

    beside = spots.select(after, ~far_after)
    peak = np.argmax(beside.intensity)

    assert beside.intensity[peak] == pytest.approx(2.8e10, rel=1e-3)
    assert (beside.fast[peak], beside.slow[peak]) == pytest.approx((101.0, 101.0), abs=1e-3)


def test_a_weak_neighbour_of_a_strong_spot_is_seen():
    rng = np.random.default_rng(4)
    strong = _image(rng, 60, 5.0, [(30.5, 30.5)], 1e6, width=0.5)
    weak = _image(rng, 60, 0.0, [(37.2, 31.4)], 200.0, readout=0)
    image = strong + weak
    found = spots.find(image, everywhere(image))
    distance, _ = _match(found, np.array([[30.5, 30.5], [37.2, 31.4]]))

    assert (distance < 0.5).all()


def test_masked_pixels_do_not_exist():
    rng = np.random.default_rng(5)
    centres = _grid(200, 20, rng)
    image = _image(rng, 200, 5.0, centres, 300.0)
    mask = everywhere(image)
    mask[0, :, 95:110] = False
    mask[0, 50, 50] = False
    image[~mask] = np.nan
    found = spots.find(image, mask)
    image[~mask] = 1e9
    again = spots.find(image, mask)
    for column, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(column, other)

    assert not ((found.fast > 95) & (found.fast < 110)).any()
    inside = (centres[:, 0] < 90) | (centres[:, 0] > 115)
    distance, _ = _match(found, centres[inside])
    assert (distance < 1.0).mean() > 0.98


@pytest.mark.parametrize("first", [1, 2])
def test_spots_cut_by_an_edge_know_how_far_they_may_be_off(first):
    """Columns that are missing from the first or second beside a spot's middle pull its centroid
    by up to half a pixel, which its σ has to say; those that are far from it change nothing.
    """
    rng = np.random.default_rng(1)
    centres = _grid(400, 20, rng)
    image = _image(rng, 400, 3.0, centres, 400.0, width=0.9)
    whole = spots.find(image, everywhere(image))
    mask = everywhere(image)
    for fast, slow in np.floor(centres).astype(int):
        mask[0, slow - 6 : slow + 7, fast + first : fast + 8] = False
    cut = spots.find(image, mask)
    assert len(cut.fast) == len(whole.fast) == len(centres)

    def pulls(found):
        position = np.stack([found.fast, found.slow], axis=1)
        distance = np.linalg.norm(position[:, None] - centres, axis=2)
        error = found.fast - centres[distance.argmin(axis=1), 0]
        return np.sqrt(np.mean(error**2 / found.variance_fast))

    assert pulls(whole) == pytest.approx(1.0, abs=0.15)
    assert pulls(cut) < 1.15
    assert np.median(cut.sigma / cut.intensity) > 1.1 * np.median(whole.sigma / whole.intensity)


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


@pytest.mark.parametrize("is_mapped", [False, True])
def test_small_panels_in_one_band_are_as_alone(is_mapped):
    """Forty panels of 30 × 20 px, some wholly masked, with gains of their own or without."""
    rng = np.random.default_rng(8)
    images = rng.poisson(3.0, (40, 30, 20)).astype(np.float32)
    for panel in range(40):
        slow, fast = rng.integers(0, 28), rng.integers(0, 18)
        images[panel, slow : slow + 2, fast : fast + 2] += 80.0
    mask = everywhere(images)
    mask[::7] = False
    images[::7] = np.nan
    gain = rng.uniform(0.5, 2.0, images.shape).astype(np.float32) if is_mapped else None
    found = spots.find(images, mask, relative_gain=gain)

    assert set(found.panel) == set(range(40)) - set(range(0, 40, 7))
    for panel in range(40):
        own = None if gain is None else gain[panel : panel + 1]
        alone = spots.find(images[panel : panel + 1], mask[panel : panel + 1], relative_gain=own)
        here = spots.select(found, found.panel == panel)._replace(panel=alone.panel)
        for column, other in zip(here, alone, strict=True):
            np.testing.assert_array_equal(column, other)


def test_nothing_is_found_in_nothing():
    image = np.zeros((1, 50, 50), dtype=np.float32)
    assert len(spots.find(image, everywhere(image)).panel) == 0
    assert len(spots.find(image, np.zeros(image.shape, dtype=bool)).panel) == 0
    image[0, 20:22, 20] = 5.0
    noiseless = DispersionThreshold(readout_photons=0.0)  # on a background of exactly zero
    assert len(spots.find(image, everywhere(image), noiseless).panel) == 1


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
    found = spots.find(image, everywhere(image))
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
    shot = truth["images"][4]
    A = np.array(shot["lattices"][0]["A"])
    s1 = geometry.direction(detector, found.panel, found.fast, found.slow)
    q = (s1 - geometry.S0) / wavelength(shot["mean_energy_eV"])

    hkl = np.rint(np.linalg.solve(A, q.T).T)
    on_node = np.linalg.norm(q - hkl @ A.T, axis=1) < 1.5e-3
    assert on_node.mean() > 0.97
    assert (hkl[on_node][:, :2].sum(axis=1) % 2 == 0).all(), "the centring of C 1 2 1"


def test_a_sloping_background_does_not_pull_the_centroids():
    """Known answer: on the flank of a water ring a level background would shift these by 0.1 px
    towards the ring.
    """
    rng = np.random.default_rng(7)
    centres = _grid(500, 25, rng)
    signal = _image(rng, 500, 0.0, centres, 1200.0, readout=0.0)
    flank = 60.0 + 0.4 * np.arange(500)
    image = signal + rng.poisson(flank, (1, 500, 500))
    found = spots.find(image.astype(np.float32), everywhere(image))
    distance, index = _match(found, centres)
    is_found = distance < 1.0

    assert is_found.mean() > 0.98

    for axis, position in enumerate((found.fast, found.slow)):
        offset = position[index][is_found] - centres[is_found, axis]
        standard_error = offset.std() / np.sqrt(is_found.sum())
        assert abs(offset.mean()) < 3.0 * standard_error + 0.003


def test_readout_noise_follows_the_gain_of_each_pixel():
    """Half a panel has a tenth of the gain, and ten times the readout noise in photons: no spots of
    it where the gains are known, many where they are not; real spots on either half are found.
    """
    rng = np.random.default_rng(7)
    n = 120
    gain = np.ones((1, n, n))
    gain[:, :, n // 2 :] = 0.1
    centres = [(30.4, 60.2), (90.3, 60.7)]
    image = _image(rng, n, 0.5, centres, photons=600.0, readout=0.0)
    image += (0.4 / gain * rng.normal(size=gain.shape)).astype(np.float32)
    threshold = DispersionThreshold(readout_photons=0.4, sigma_strong=4.0)
    known = spots.find(image, everywhere(image), threshold, gain)
    unknown = spots.find(image, everywhere(image), threshold)

    assert len(known.fast) == 2
    np.testing.assert_allclose(np.sort(known.fast), [30.4, 90.3], atol=0.3)
    assert known.sigma[known.fast > 60] > 1.3 * known.sigma[known.fast < 60]
    assert len(unknown.fast) > 20
    same = spots.find(image, everywhere(image), threshold, np.ones((1, n, n)))
    for column, other in zip(same, unknown, strict=True):
        np.testing.assert_allclose(column, other, rtol=1e-6)
