"""What a point spread takes out of foregrounds: known widths are recovered, known photons too."""

import numpy as np
import pytest

from spreadflow.analysis.still.integration import integrate, integrate_and_learn
from spreadflow.analysis.still.prediction import HALF_SIZE, Predicted
from spreadflow.analysis.still.tails import NO_TAILS, Tails
from spreadflow.models import Detector, Noise, ReflectionFlag
from spreadflow.physics import noise, point_spreads
from spreadflow.physics.geometry import radial_axes

pytestmark = pytest.mark.stage

SHAPE = (600, 600)
PIXEL_MM = 0.2
FWHM_MM = 0.16
DETECTOR = Detector(
    origin_mm=np.array([[-60.0, 60.0, -100.0]]),
    fast=np.array([[1.0, 0.0, 0.0]]),
    slow=np.array([[0.0, -1.0, 0.0]]),
    pixel_mm=np.float64(PIXEL_MM),
    shape=SHAPE,
)
KERNELS = {
    "none": None,
    "fibre": point_spreads.fibre_kernel(FWHM_MM, PIXEL_MM, 30),
    "gauss": point_spreads.gauss_kernel(FWHM_MM, PIXEL_MM, 10),
}
WIDTH_PX = {"none": 0.0, "fibre": point_spreads.FIBRE_SHAPE * FWHM_MM / PIXEL_MM, "gauss": 0.0}
"""g of a fibre; what has no tails has none"""


def predictions(rng) -> Predicted:
    """Return reflections anywhere within the pixels of a grid, of many sizes."""
    axis = np.arange(30.0, SHAPE[0] - 30.0, 30.0)
    fast, slow = (nodes.ravel() + rng.uniform(size=nodes.size) for nodes in np.meshgrid(axis, axis))
    n = len(fast)
    columns = {name: np.zeros(n) for name in Predicted._fields}
    columns |= {
        "panel": np.zeros(n, np.int32),
        "fast": fast,
        "slow": slow,
        "radial_px": HALF_SIZE * rng.uniform(0.4, 2.0, n),
        "transverse_px": HALF_SIZE * rng.uniform(0.3, 0.7, n),
    }
    return Predicted(**columns)


def still(rng, predicted: Predicted, photons, kernel, *, level: float = 40.0) -> np.ndarray:
    """Return an image (1, slow, fast) of spots on a flat background; what is counted is spread."""
    n = rng.poisson(photons)
    owner = np.repeat(np.arange(len(n)), n)
    sigma = np.stack([predicted.radial_px, predicted.transverse_px], axis=1) / HALF_SIZE
    axes = radial_axes(DETECTOR, predicted.panel, predicted.fast, predicted.slow)
    along = rng.normal(size=(len(owner), 2)) * sigma[owner]
    fast, slow = np.einsum("pk,pkc->cp", along, axes[owner])
    fast = np.floor(fast + predicted.fast[owner]).astype(int)
    slow = np.floor(slow + predicted.slow[owner]).astype(int)
    image = rng.poisson(level, SHAPE).astype(np.float32)
    np.add.at(image, (slow, fast), 1.0)
    if kernel is not None:
        image = noise.spread_out(image[None], kernel)[0]
    return (image + rng.normal(size=SHAPE))[None].astype(np.float32)


NOISE = Noise(readout_photons=1.0, calibration_error=0.0)


def seen_on(image: np.ndarray, predicted: Predicted):
    """Return reflections and tails of a still."""
    valid = np.ones_like(image, dtype=bool)
    return integrate_and_learn(image, valid, predicted, DETECTOR, noise=NOISE)


@pytest.mark.parametrize("name", KERNELS)
def test_photons_are_unbiased_whatever_the_point_spread(name):
    rng = np.random.default_rng(3)
    pulls, sizes = [], []
    for _ in range(2):
        predicted = predictions(rng)
        photons = rng.permutation(np.geomspace(1.0, 3e4, len(predicted.fast)))
        found, seen = seen_on(still(rng, predicted, photons, KERNELS[name]), predicted)
        assert not (found.flags & ReflectionFlag.FAILED).any()
        assert seen.width_px == pytest.approx(WIDTH_PX[name], rel=0.05)
        pulls.append((found.intensity - photons) / found.sigma)
        sizes.append(found.n_foreground)
    pull = np.concatenate(pulls)
    assert abs(pull.mean()) <= 0.1
    assert 0.8 < pull.std() < 1.1

    is_large = np.concatenate(sizes) > np.median(sizes)
    means = [pull[is_large].mean(), pull[~is_large].mean()]
    assert np.abs(means).max() < 0.25, "the share that is lost goes with the size of the spot"


def test_nothing_changes_where_spots_have_no_tails():
    rng = np.random.default_rng(4)
    predicted = predictions(rng)
    photons = np.full(len(predicted.fast), 3000.0)
    image = still(rng, predicted, photons, None)
    found, seen = seen_on(image, predicted)

    assert seen == NO_TAILS
    same = integrate(image, np.ones_like(image, bool), predicted, DETECTOR, noise=NOISE)
    for one, other in zip(found, same, strict=True):
        np.testing.assert_array_equal(one, other)


def test_few_or_faint_spots_show_no_tails():
    rng = np.random.default_rng(5)
    few = Predicted(*(column[:6] for column in predictions(rng)))
    many = predictions(rng)
    for predicted, photons in ((few, 3e4), (many, 100.0)):
        expected = np.full(len(predicted.fast), photons)
        _, seen = seen_on(still(rng, predicted, expected, KERNELS["fibre"]), predicted)
        assert seen == NO_TAILS


def test_two_spots_unlike_the_others_do_not_make_tails():
    rng = np.random.default_rng(6)
    predicted = predictions(rng)
    photons = np.full(len(predicted.fast), 2000.0)
    photons[:2] = 1e5
    image = still(rng, predicted, photons, None)
    for row in range(2):
        fast, slow = int(predicted.fast[row]), int(predicted.slow[row])
        image[0, slow - 6 : slow + 7, fast - 6 : fast + 7] += 60.0
    assert seen_on(image, predicted)[1] == NO_TAILS


def test_noise_that_is_shared_is_kept_in_part():
    """The variance of sums over a rectangle of white noise after a point spread."""
    half = np.array([[3.5, 2.5]])
    rng = np.random.default_rng(7)
    image = noise.spread_out(rng.normal(size=(1, 600, 600)).astype(np.float32), KERNELS["fibre"])
    blocks = image[0].reshape(-1, 600)[:600, :595].reshape(120, 5, 85, 7).sum(axis=(1, 3))
    kept = Tails(WIDTH_PX["fibre"], 0.0).kept_noise(half)[0]
    assert blocks.var() / 35.0 == pytest.approx(kept, rel=0.07)
