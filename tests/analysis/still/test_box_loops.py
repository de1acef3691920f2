"""Compiled integration against the same equations on whole columns of pixels."""

import numpy as np
import pytest

import boxes_by_arrays
from spreadflow.analysis.still import tail_loops
from spreadflow.analysis.still.integration import integrate
from spreadflow.analysis.still.prediction import Predicted
from spreadflow.analysis.still.tails import Tails
from spreadflow.models import Detector, Noise, ReflectionFlag

SHAPE = (300, 260)
DETECTOR = Detector(
    origin_mm=np.array([[-26.0, 30.0, -100.0], [30.0, 30.0, -100.0]]),
    fast=np.array([[1.0, 0.0, 0.0], [0.98, 0.199, 0.0]]),
    slow=np.array([[0.0, -1.0, 0.0], [0.199, -0.98, 0.0]]),
    pixel_mm=np.float64(0.2),
    shape=SHAPE,
)
NOISE = Noise(readout_photons=0.7, calibration_error=0.01)
SATURATION = 2000.0


def drawn(rng, n: int) -> Predicted:
    """Return n predictions anywhere on two panels, many over one another or over an edge."""
    columns = {name: np.zeros(n) for name in Predicted._fields}
    columns |= {
        "panel": rng.integers(0, 2, n).astype(np.int32),
        "fast": rng.uniform(0.0, SHAPE[1], n),
        "slow": rng.uniform(0.0, SHAPE[0], n),
        "radial_px": rng.uniform(0.5, 5.0, n),
        "transverse_px": rng.uniform(0.5, 2.0, n),
    }
    return Predicted(**columns)


def image_of(rng, predicted: Predicted) -> tuple[np.ndarray, np.ndarray]:
    """Return an image of spots on a sloping background, and a mask with holes: pixels that hold
    anything, a shadow, NaN beneath some of it.
    """
    level = np.geomspace(0.05, 30.0, SHAPE[1])[None, None]
    image = rng.poisson(np.broadcast_to(level, (2, *SHAPE))).astype(np.float32)
    photons = rng.poisson(10.0 ** rng.uniform(0.0, 4.5, len(predicted.fast)))
    owner = np.repeat(np.arange(len(photons)), photons)
    fast = np.floor(predicted.fast[owner] + rng.normal(scale=1.2, size=len(owner))).astype(int)
    slow = np.floor(predicted.slow[owner] + rng.normal(scale=0.8, size=len(owner))).astype(int)
    is_on = (fast >= 0) & (fast < SHAPE[1]) & (slow >= 0) & (slow < SHAPE[0])
    np.add.at(image, (predicted.panel[owner[is_on]], slow[is_on], fast[is_on]), 1.0)
    image += rng.normal(scale=0.7, size=image.shape).astype(np.float32)
    mask = rng.uniform(size=image.shape) > 0.01
    mask[0, 100:140, 60:90] = False
    mask[1, :, 130] = False
    image[~mask & (rng.uniform(size=mask.shape) < 0.5)] = np.nan
    return image, mask


@pytest.mark.parametrize("point_spread", [None, Tails(0.5, 0.02)])
@pytest.mark.parametrize("n", [60, 400])
def test_loops_equal_arrays(n, point_spread):
    """Boxes cut at edges, masked, saturated, without background, beneath one another."""
    rng = np.random.default_rng(31)
    predicted = drawn(rng, n)
    image, mask = image_of(rng, predicted)
    shot = (image, mask, predicted, DETECTOR)
    recorded = {"noise": NOISE, "saturation_photons": SATURATION}
    expected = boxes_by_arrays.integrate(*shot, **recorded, point_spread=point_spread)
    options = {} if point_spread is None else {"point_spread": point_spread}
    found = integrate(*shot, **recorded, **options)

    determined = expected.plane.n >= 3
    assert determined.mean() > 0.9
    sigma = expected.sums.sigma
    difference = (found.intensity - expected.sums.intensity) / sigma
    assert np.abs(difference[determined]).max() < 1e-9
    np.testing.assert_allclose(found.sigma[determined], sigma[determined], rtol=1e-10)
    background = expected.sums.background
    np.testing.assert_allclose(found.background[determined], background[determined], atol=1e-9)
    assert np.array_equal(found.n_foreground, expected.sums.n)
    is_seen = np.isfinite(found.fast_obs)
    assert is_seen.sum() > n / 10
    centre = np.stack([found.fast_obs - predicted.fast, found.slow_obs - predicted.slow], axis=1)
    np.testing.assert_allclose(centre[is_seen], expected.centre[is_seen], atol=1e-9)
    is_overlap = (found.flags & ReflectionFlag.OVERLAP) > 0
    assert np.array_equal(is_overlap, expected.overlap > 0.1)
    if n > 100:
        seen = np.bitwise_or.reduce(found.flags)
        for kind in (ReflectionFlag.MASKED, ReflectionFlag.SATURATED, ReflectionFlag.BACKGROUND):
            assert seen & kind, "the shot has all kinds of boxes"


def test_a_box_does_not_depend_on_the_others():
    """The sums of a shoebox are its own, to the last digit, whichever reflections are beside it."""
    rng = np.random.default_rng(32)
    predicted = drawn(rng, 40)
    image, mask = image_of(rng, predicted)
    spread = predicted._replace(
        panel=np.zeros(40, np.int32),
        fast=np.tile(np.arange(25.0, 260.0, 50.0), 8),
        slow=np.repeat(np.arange(20.0, 300.0, 36.0), 5),
    )
    together = integrate(image, mask, spread, DETECTOR, noise=NOISE)
    every_third = Predicted(*(column[::3] for column in spread))
    alone = integrate(image, mask, every_third, DETECTOR, noise=NOISE)
    assert np.array_equal(together.intensity[::3], alone.intensity)
    assert np.array_equal(together.sigma[::3], alone.sigma)


def test_the_light_of_a_spot_is_all_there():
    """Profiles over a wide patch of summed pixels hold all light but that of the far tails."""
    fast, slow = np.meshgrid(np.arange(-60, 61), np.arange(-60, 61))
    n = fast.size
    pixels = tail_loops.SpotPixels(
        counts=np.zeros(n),
        offset=np.stack([fast.ravel(), slow.ravel()], axis=1) + 0.2,
        first=np.array([0, n]),
        own=np.ones(n, bool),
        free=np.zeros(n, bool),
        axes=np.array([[[0.6, 0.8], [-0.8, 0.6]]]),
        sigma=np.array([[2.0, 0.7]]),
    )
    width = 0.4
    profile = tail_loops.profiles(pixels, width)
    beyond = 1.0 - profile.sum()
    assert beyond == pytest.approx(width * 4 * np.sqrt(2) / (2 * np.pi) / 60.5, rel=0.02)
    centre = profile @ pixels.offset / profile.sum()
    np.testing.assert_allclose(centre, 0.0, atol=0.05)
