"""Pulses: the moments the configuration asks for, and the statistics of chaotic light."""

import numpy as np
import pytest
from scipy import stats

from spreadflow.models import Spectrum
from spreadflow.physics import spectrum

HOW = {"energy_ev": 7120.0, "envelope_ev": 11.0, "jitter_ev": 6.0, "spike_ev": 0.6, "photons": 1e12}
CHANNELS = 7000.5 + np.arange(240)


@pytest.fixture(scope="module")
def pulses() -> np.ndarray:
    return np.array(
        [
            spectrum.pulse(
                np.random.default_rng([1, i]), CHANNELS, photons_spread=0.25, **HOW
            ).photons
            for i in range(1500)
        ]
    )


def test_moments(pulses):
    total = pulses.sum(axis=1)
    centroid = pulses @ CHANNELS / total
    assert total.mean() == pytest.approx(1e12, rel=0.03)
    assert total.std() / total.mean() == pytest.approx(0.25, rel=0.15)  # plus what the spikes add
    assert centroid.mean() == pytest.approx(7120.0, abs=0.6)
    assert centroid.std() == pytest.approx(6.0, rel=0.1)
    width = np.sqrt(np.mean(pulses @ CHANNELS**2 / total - centroid**2))
    assert width == pytest.approx(11.0, rel=0.06)


def test_spikes_are_those_of_chaotic_light():
    """Fine channels: intensities negative-exponential, correlated as a Gaussian whose FWHM is the
    spike width.
    """
    fine = 7119.0 + 0.1 * np.arange(200)
    rows = np.array(
        [
            spectrum.pulse(
                np.random.default_rng(i), fine, photons_spread=0.0, **(HOW | {"jitter_ev": 0.0})
            ).photons
            for i in range(2000)
        ]
    )
    middle = rows[:, 20:180] / rows[:, 20:180].mean(axis=0)
    assert middle.var() == pytest.approx(1.0, rel=0.08)
    shifted = [((middle[:, 30] - 1) * (middle[:, 30 + k] - 1)).mean() for k in range(8)]
    sigma = 0.6 / np.sqrt(8 * np.log(2))
    np.testing.assert_allclose(shifted, np.exp(-0.5 * (0.1 * np.arange(8) / sigma) ** 2), atol=0.15)


def test_gaussian_pulse():
    """Mean, full width at half maximum and photons are those asked for."""
    pulse = spectrum.gaussian(7120.0, 21.0, 1e12)
    assert pulse.photons.sum() == pytest.approx(1e12)
    assert pulse.mean_energy_ev == pytest.approx(7120.0)
    half = 0.5 * pulse.photons.max()
    edges = np.interp([half], pulse.photons[:16], pulse.energies_ev[:16])
    assert 2 * (7120.0 - edges[0]) == pytest.approx(21.0, rel=0.01)


def test_one_channel_and_one_seed():
    one = spectrum.pulse(np.random.default_rng(1), np.array([7120.0]), photons_spread=0.0, **HOW)
    assert one.photons.shape == (1,) and one.photons[0] > 0
    a, b = (
        spectrum.pulse(np.random.default_rng(7), CHANNELS, photons_spread=0.25, **HOW)
        for _ in range(2)
    )
    np.testing.assert_array_equal(a.photons, b.photons)


def test_photons_of_a_pulse_follow_the_gamma_distribution_of_its_modes(monkeypatch):
    """Few modes, all within the channels: relative variance 1/M, M = √(1 + 2 envelope²/spike σ²),
    and the shape.
    """
    monkeypatch.setattr(spectrum, "WIDTH_SPREAD", 0.0)
    how = HOW | {"envelope_ev": 3.0, "spike_ev": 2.5, "jitter_ev": 0.0, "photons": 1.0}
    channels = 7105.0 + 0.5 * np.arange(61)
    rows = (
        spectrum.pulse(np.random.default_rng([2, i]), channels, photons_spread=0.0, **how)
        for i in range(4000)
    )
    total = np.array([row.photons.sum() for row in rows])
    m = np.sqrt(1 + 2 * (3.0 / (2.5 / np.sqrt(8 * np.log(2)))) ** 2)
    assert total.mean() == pytest.approx(1.0, abs=4 / np.sqrt(4000 * m))
    assert 1 / total.var() == pytest.approx(m, rel=0.1)
    assert stats.kstest(total, stats.gamma(m, scale=1 / m).cdf).statistic < 0.03


def test_one_fine_channel_is_negative_exponential():
    fine = 7119.0 + 0.05 * np.arange(40)
    how = HOW | {"jitter_ev": 0.0, "envelope_ev": 1e3}
    one = [
        spectrum.pulse(np.random.default_rng([3, i]), fine, photons_spread=0.0, **how).photons[20]
        for i in range(3000)
    ]
    assert stats.kstest(np.array(one) / np.mean(one), "expon").statistic < 0.03


UNEQUAL = np.array([7100.0, 7101.0, 7103.0, 7106.0, 7110.0])


def test_resampling_keeps_what_it_should():
    photons = np.array([1.0, 5.0, 0.0, 7.0, 2.0])
    same = spectrum.resampled(Spectrum(UNEQUAL, photons), UNEQUAL)
    np.testing.assert_allclose(same.photons, photons, rtol=1e-14)
    whole = spectrum.resampled(Spectrum(UNEQUAL, photons), 7090.0 + 0.7 * np.arange(50))
    assert whole.photons.sum() == pytest.approx(15.0, rel=1e-14)
    shuffled = spectrum.resampled(
        Spectrum(UNEQUAL[::-1], photons[::-1]), 7090.0 + 0.7 * np.arange(50)
    )
    np.testing.assert_array_equal(shuffled.photons, whole.photons)


def test_channels_are_split_and_joined():
    """Channels of 2 eV from 7100 to 7108 on channels of 1 eV and of 4 eV, and half way beyond the
    range.
    """
    pairs = Spectrum(np.array([7101.0, 7103.0, 7105.0, 7107.0]), np.array([4.0, 8.0, 2.0, 6.0]))
    split = spectrum.resampled(pairs, 7100.5 + np.arange(8))
    np.testing.assert_allclose(split.photons, [2, 2, 4, 4, 1, 1, 3, 3], rtol=1e-12)
    np.testing.assert_allclose(
        spectrum.resampled(pairs, np.array([7102.0, 7106.0])).photons, [12, 8], rtol=1e-12
    )
    np.testing.assert_allclose(
        spectrum.resampled(pairs, np.array([7107.5, 7108.5])).photons, [3, 0], rtol=1e-12
    )
    np.testing.assert_allclose(
        spectrum.resampled(pairs, np.array([7000.0])).photons, [20], rtol=1e-12
    )
    assert split.mean_energy_ev == pytest.approx(pairs.mean_energy_ev, rel=1e-12)


def test_a_line_and_noise_below_zero():
    channels = 7100.0 + np.arange(4)
    np.testing.assert_array_equal(
        spectrum.resampled(Spectrum([7101.2], [9.0]), channels).photons, [0, 9, 0, 0]
    )
    np.testing.assert_array_equal(
        spectrum.resampled(Spectrum([6000.0], [9.0]), channels).photons, 0
    )
    noisy = spectrum.resampled(Spectrum(channels, np.array([-1.0, 2.0, -0.5, 3.0])), channels)
    np.testing.assert_array_equal(noisy.photons, [0, 2, 0, 3])


@pytest.mark.parametrize(
    ("energies", "photons"),
    [
        ([7100, 7100, 7101], [1, 1, 1]),
        ([7100, np.nan], [1, 1]),
        ([-1, 1], [1, 1]),
        ([7100, 7101], [1, np.inf]),
    ],
    ids=["twice the same", "NaN", "negative", "infinite"],
)
def test_channels_that_make_no_sense(energies, photons):
    with pytest.raises(ValueError, match="not finite"):
        spectrum.resampled(Spectrum(np.array(energies, float), np.array(photons, float)), UNEQUAL)
