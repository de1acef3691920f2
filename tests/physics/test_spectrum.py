"""Pulses: the moments the configuration asks for, and the statistics of chaotic light."""

import numpy as np
import pytest

from spreadflow.physics import spectrum

HOW = {"energy_ev": 7120.0, "envelope_ev": 11.0, "jitter_ev": 6.0, "spike_ev": 0.6, "photons": 1e12}
CHANNELS = 7000.5 + np.arange(240)


@pytest.fixture(scope="module")
def pulses() -> np.ndarray:
    return np.array(
        [
            spectrum.pulse(np.random.default_rng([1, i]), CHANNELS, photons_spread=0.25, **HOW).photons
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
    """Fine channels: intensities negative-exponential, correlated as a Gaussian whose FWHM is the spike width."""
    fine = 7119.0 + 0.1 * np.arange(200)
    rows = np.array(
        [
            spectrum.pulse(np.random.default_rng(i), fine, photons_spread=0.0, **(HOW | {"jitter_ev": 0.0})).photons
            for i in range(2000)
        ]
    )
    middle = rows[:, 20:180] / rows[:, 20:180].mean(axis=0)
    assert middle.var() == pytest.approx(1.0, rel=0.08)
    shifted = [((middle[:, 30] - 1) * (middle[:, 30 + k] - 1)).mean() for k in range(8)]
    sigma = 0.6 / np.sqrt(8 * np.log(2))
    np.testing.assert_allclose(shifted, np.exp(-0.5 * (0.1 * np.arange(8) / sigma) ** 2), atol=0.15)


def test_one_channel_and_one_seed():
    one = spectrum.pulse(np.random.default_rng(1), np.array([7120.0]), photons_spread=0.0, **HOW)
    assert one.photons.shape == (1,) and one.photons[0] > 0
    a, b = (spectrum.pulse(np.random.default_rng(7), CHANNELS, photons_spread=0.25, **HOW) for _ in range(2))
    np.testing.assert_array_equal(a.photons, b.photons)
