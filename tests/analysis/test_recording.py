"""Gain, pedestal, noise and unusable pixels from synthetic images of known ones."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from spreadflow.analysis.recording import estimates, photon_peak, tiles, unusable

SHAPE = (1, 256, 256)
ALL = np.ones(SHAPE, bool)


def background(low: float, high: float) -> np.ndarray:
    """Photons that rise across the detector."""
    return np.broadcast_to(np.linspace(low, high, SHAPE[2]), SHAPE)


def counted(seed: int, photons: np.ndarray, gain: float, readout: float, pedestal: float):
    """Whole ADU of photons that a detector counts."""
    rng = np.random.default_rng(seed)
    adu = gain * rng.poisson(photons) + rng.normal(pedestal, readout, SHAPE)
    return np.rint(adu).astype(np.int32)


@pytest.mark.parametrize(
    ("gain", "readout", "photons"), [(9.0, 2.3, 0.3), (4.0, 1.0, 0.05), (40.0, 3.0, 1.0)]
)
def test_the_one_photon_peak_is_the_gain(gain, readout, photons):
    images = [counted(seed, background(photons, photons), gain, readout, 20.0) for seed in range(3)]
    peak = photon_peak.find(images, [ALL] * 3)
    assert peak is not None
    assert peak.adu_per_photon == pytest.approx(gain, rel=0.04)
    assert peak.pedestal_adu == pytest.approx(20.0, abs=0.25)
    assert peak.readout_adu == pytest.approx(readout, rel=0.15)


@pytest.mark.parametrize(
    ("gain", "readout", "photons"), [(1.0, 1.0, 0.3), (9.0, 4.0, 0.3), (1.0, 0.0, 0.3), (5, 1, 30)]
)
def test_where_photons_are_not_resolved_there_is_no_peak(gain, readout, photons):
    """Nor where they were counted before they were written, or there is no quiet part."""
    image = counted(0, background(photons, photons), gain, readout, 20.0)
    assert photon_peak.find([image], [ALL]) is None


def test_a_brighter_half_makes_no_peak():
    image = counted(0, background(100.0, 100.0), 1.0, 1.0, 0.0)
    image[:, :, 128:] += 100
    assert photon_peak.find([image], [ALL]) is None


@pytest.mark.parametrize(("gain", "pedestal"), [(1.0, 10.0), (0.4, 0.0), (7.0, 300.0)])
def test_variance_over_mean_is_the_gain(gain, pedestal):
    photons = background(20.0, 400.0)
    images = [counted(seed, photons, gain, gain, pedestal) for seed in range(3)]
    found = estimates.estimate(images, ALL, pedestal)
    assert found.gain is not None
    assert found.gain.method == estimates.NOISE
    assert found.gain.adu_per_photon == pytest.approx(gain, rel=0.1)
    assert estimates.settle(found.gain, pedestal, gain).remarks == ()


def test_a_point_spread_is_seen_in_what_neighbours_share():
    """A Gaussian of 0.6 px takes three quarters of the variance from a pixel, and none from all."""
    rng = np.random.default_rng(2)
    photons = rng.poisson(background(100.0, 500.0)).astype(float)
    image = gaussian_filter(photons, (0, 0.6, 0.6)) * 2.0
    levels = tiles.levels(tiles.cut([image], [ALL]))
    assert levels is not None
    assert np.median(levels.shared / levels.mean) == pytest.approx(2.0, rel=0.12)
    assert levels.sharing > 3.0
    found = estimates.estimate([image], ALL, 0.0)
    settings = estimates.spot_settings(found, 0.0, 2.0)
    assert settings.min_pixels == 3
    assert settings.gain < 0.6


@pytest.mark.parametrize(
    ("low", "high", "readout"), [(0.0005, 0.0005, 2.5), (30.0, 30.0, 30.0), (28.0, 32.0, 30.0)]
)
def test_levels_that_are_nearly_the_same_do_not_tell_the_gain(low, high, readout):
    """Their slope would be that of their chance: 0.4, 2.3 and 1.5 ADU instead of 5."""
    images = [counted(seed, background(low, high), 5.0, readout, 0.0) for seed in range(3)]
    found = estimates.estimate(images, ALL, 0.0)
    assert found.gain is None
    noise = np.sqrt(25.0 * high + readout**2)
    settings = estimates.spot_settings(found, 0.0, 1.0)
    assert settings.readout_photons == pytest.approx(np.sqrt(noise**2 - 5.0 * low), rel=0.1)


def test_a_point_spread_beyond_the_lags_does_not_tell_the_gain():
    """It would be a third of it."""
    rng = np.random.default_rng(2)
    photons = rng.poisson(background(100.0, 500.0)).astype(float)
    image = gaussian_filter(photons, (0, 1.5, 1.5)) * 2.0
    assert estimates.estimate([image], ALL, 0.0).gain is None


@pytest.mark.parametrize(("relative", "low", "high"), [(0.03, 20.0, 2000.0), (0.02, 100.0, 3000.0)])
def test_pixels_of_different_gain_change_neither_gain_nor_pedestal(relative, low, high):
    """Their noise goes with the square of the level, which makes a straight line steeper by 0.4."""
    relative_gain = np.random.default_rng(9).normal(1.0, relative, SHAPE)
    photons = background(low, high)
    images = [counted(seed, photons, 1.0, 1.0, 0.0) * relative_gain for seed in range(3)]
    gain = estimates.estimate(images, ALL, 0.0).gain
    assert gain is not None and gain.offset_adu == 0.0
    assert gain.adu_per_photon == pytest.approx(1.0, abs=0.35)


def test_spots_do_not_change_the_noise():
    image = counted(5, background(20.0, 100.0), 1.0, 0.5, 0.0)
    plain = tiles.levels(tiles.cut([image], [ALL]))
    rng = np.random.default_rng(6)
    spots = image.copy()
    for fast, slow in rng.integers(2, 253, (60, 2)):
        spots[0, slow : slow + 2, fast : fast + 2] += 500
    with_spots = tiles.levels(tiles.cut([spots], [ALL]))
    assert plain is not None and with_spots is not None
    np.testing.assert_allclose(with_spots.variance, plain.variance, rtol=0.1)


def test_a_pedestal_that_no_file_states_is_found():
    """The noise vanishes a readout² below it; noise at 5 photons and more places that to 1."""
    photons = background(5.0, 300.0)
    images = [counted(seed, photons, 1.0, 1.0, 40.0) for seed in range(4)]
    found = estimates.estimate(images, ALL, 0.0)
    settled = estimates.settle(found.gain, 0.0, 1.0)
    assert settled.offset_adu == pytest.approx(39.0, abs=3.0)
    (remark,) = settled.remarks
    assert f"{settled.offset_adu:.4g} ADU" in remark and "leave open 0" in remark


def test_a_gain_that_pixels_contradict_is_named_beside_theirs():
    images = [counted(seed, background(0.3, 0.3), 9.0, 2.0, 0.0) for seed in range(2)]
    found = estimates.estimate(images, ALL, 0.0)
    settled = estimates.settle(found.gain, 0.0, 1.0)
    assert settled.adu_per_photon == pytest.approx(9.0, rel=0.05)
    (remark,) = settled.remarks
    assert "one-photon peak" in remark and "leave open 1" in remark


@pytest.mark.parametrize(("pedestal", "expected"), [(40.0, 40.0), (4.0, 0.0)])
def test_the_peak_of_no_photon_is_the_pedestal(pedestal, expected):
    """Unless it is the stated one within a photon: that of a few regions may differ so much."""
    images = [counted(seed, background(0.3, 0.3), 9.0, 2.0, pedestal) for seed in range(2)]
    found = estimates.estimate(images, ALL, 0.0)
    settled = estimates.settle(found.gain, 0.0, 9.0)
    assert settled.offset_adu == pytest.approx(expected, abs=0.5)
    assert any("the peak of no photon" in remark for remark in settled.remarks) == (expected > 0)


def test_independent_noise_needs_the_usual_threshold():
    """Windows of Poisson noise scatter as the dispersion test says: a gain of 1."""
    images = [counted(seed, background(10.0, 30.0), 1.0, 0.1, 0.0) for seed in range(4)]
    found = estimates.estimate(images, ALL, 0.0)
    assert estimates.spot_settings(found, 0.0, 1.0).gain == pytest.approx(1.1, abs=0.12)


@pytest.mark.parametrize("photons", [0.01, 1.0, 20.0])
def test_gaps_and_dead_and_hot_pixels_are_found(photons):
    """Sentinels in bands that are wider than a block too, and none among ordinary zeros."""
    images = [counted(seed, background(photons, photons), 1.0, 0.0, 0.0) for seed in range(6)]
    expected = np.zeros(SHAPE, bool)
    expected[0, 200:210] = expected[0, 100:140, 100:140] = True
    for image in images:
        image[0, 200:210] = -1
        image[0, 100:140, 100:140] = -2
        image[0, 50, 50] = 500
    found = unusable.find(images, ALL)
    np.testing.assert_array_equal(found.low, expected)
    assert {value for value, _ in found.sentinels} == {-1.0, -2.0}
    assert np.argwhere(found.hot).tolist() == [[0, 50, 50]]


def test_spots_and_ordinary_pixels_are_kept():
    images = [counted(seed, background(1.0, 50.0), 1.0, 0.5, 10.0) for seed in range(2)]
    images[0][0, 30:33, 40:43] += 200
    found = unusable.find(images, ALL)
    assert not found.all.any()
    assert found.sentinels == ()


def test_images_too_small_to_judge_say_nothing():
    small = np.ones((2, 4, 3), bool)
    found = estimates.estimate([np.full((2, 4, 3), 7, np.int32)], small, 0.0)
    assert found.gain is None and not found.unusable.all.any()
    assert estimates.settle(None, 3.0, 2.0) == estimates.Settled(3.0, 2.0, ())
