"""Spectra of pulses: SASE (self-amplified spontaneous emission) from a random generator; recorded
ones resampled; which channels hold light.
"""

import numpy as np

from spreadflow.models import Spectrum

WIDTH_SPREAD = 0.15
"""Relative standard deviation of the envelope's width from pulse to pulse."""

DARK_SHARE = 1e-12
"""Fraction of the photons of a pulse beyond which a channel counts as dark, at either end."""

GAUSSIAN_CHANNELS = 31
"""Channels of a Gaussian pulse: odd, so that one is at its middle, and few enough that none are put
together for prediction.
"""

GAUSSIAN_REACH = 3.0
"""Standard deviations to either side that a Gaussian pulse holds: all but 0.3 % of its photons."""

_FINE = 8
"""Steps of the field to a spike's width, at least."""

FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))
"""Full width at half maximum of a Gaussian, in standard deviations."""


def gaussian(energy_ev: float, fwhm_ev: float, photons: float) -> Spectrum:
    """Return a pulse whose mean spectrum is a Gaussian of this full width at half maximum, cut off
    at `GAUSSIAN_REACH` standard deviations.
    """
    from_middle = np.linspace(-GAUSSIAN_REACH, GAUSSIAN_REACH, GAUSSIAN_CHANNELS)
    shares = np.exp(-0.5 * from_middle**2)
    energies_ev = energy_ev + fwhm_ev / FWHM * from_middle
    return Spectrum(energies_ev, photons * shares / shares.sum())


def pulse(
    rng: np.random.Generator,
    energies_ev: np.ndarray,
    *,
    energy_ev: float,
    envelope_ev: float,
    jitter_ev: float,
    spike_ev: float,
    photons: float,
    photons_spread: float,
) -> Spectrum:
    """Return one pulse: chaotic light under a Gaussian envelope (Saldin, Schneidmiller & Yurkov,
    1998).

    The field is white complex Gaussian noise smoothed over a spike, so that intensities are
    negative-exponential and correlate over `spike_ev` (FWHM). The envelope's centre moves by
    `jitter_ev`, its width by `WIDTH_SPREAD`, the photons of the pulse by `photons_spread`
    (log-normal), on top of the gamma distribution of the sum over its spikes. energies_ev:
    (channel,) centres of equal channels, eV; photons beyond them are lost. `envelope_ev` is the
    standard deviation of a pulse's mean spectrum.
    """
    centre = energy_ev + jitter_ev * rng.standard_normal()
    width = envelope_ev * np.exp(WIDTH_SPREAD * rng.standard_normal())
    log_spread = _log_spread(photons_spread)
    total = photons * np.exp(log_spread * (rng.standard_normal() - 0.5 * log_spread))

    n_channels = len(energies_ev)
    channel_ev = energies_ev[1] - energies_ev[0] if n_channels > 1 else envelope_ev
    n_steps = max(1, int(np.ceil(_FINE * channel_ev / spike_ev)))
    spike_steps = spike_ev / FWHM * n_steps / channel_ev
    field = _field(rng, n_channels * n_steps, spike_steps)

    offsets = (np.arange(n_steps) + 0.5) / n_steps - 0.5
    step_ev = (energies_ev[:, None] + channel_ev * offsets).ravel()
    gaussian = np.exp(-0.5 * ((step_ev - centre) / width) ** 2)
    envelope = gaussian / (np.sqrt(2 * np.pi) * width)
    intensity = envelope * np.abs(field) ** 2 * channel_ev / n_steps
    per_channel = intensity.reshape(n_channels, n_steps).sum(1)
    return Spectrum(np.array(energies_ev, dtype=np.float64), total * per_channel)


def _log_spread(relative: float) -> float:
    """Return the standard deviation of the logarithm for a relative standard deviation."""
    return float(np.sqrt(np.log1p(relative**2)))


def _field(rng: np.random.Generator, n: int, width: float) -> np.ndarray:
    """Return a complex field (n,) of unit mean intensity, whose intensity correlates as a Gaussian
    of this width (steps).
    """
    reach = int(np.ceil(5 * width)) + 1
    n_noise = n + 2 * reach
    noise = rng.standard_normal(n_noise) + 1j * rng.standard_normal(n_noise)
    steps = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (steps / width) ** 2)
    unit_intensity = np.sqrt(2 * (kernel**2).sum())
    return np.convolve(noise, kernel / unit_intensity, mode="valid")


def lit(spectrum: Spectrum) -> tuple[int, int]:
    """Return the first channel with light, and one past the last.

    Raises ValueError where energies do not ascend.
    """
    if not (np.diff(spectrum.energies_ev) > 0).all():
        raise ValueError("spectrum.energies_ev: channels in ascending order")
    sums = np.cumsum(spectrum.photons)
    edges_of_light = [DARK_SHARE * sums[-1], (1.0 - DARK_SHARE) * sums[-1]]
    first, last = np.searchsorted(sums, edges_of_light)
    return int(first), min(int(last) + 1, len(sums))


def edges(energies_ev: np.ndarray) -> np.ndarray:
    """Return the edges (channel + 1,) of channels around ascending centres: half way between them,
    and the outermost as far outside of a centre as inside.
    """
    middle = 0.5 * (energies_ev[1:] + energies_ev[:-1])
    first = 2 * energies_ev[0] - middle[0]
    last = 2 * energies_ev[-1] - middle[-1]
    return np.concatenate([[first], middle, [last]])


def overlaps(energies_ev: np.ndarray, onto_ev: np.ndarray) -> np.ndarray:
    """Return which fraction of each channel lies in each of the channels `onto_ev`, (channel,
    channel of `onto_ev`); both ascending, eV.

    A single channel among the first is a line without width; a single one among the second holds
    everything.
    """
    if len(onto_ev) == 1:
        return np.ones((len(energies_ev), 1))
    low = edges(onto_ev)[:-1]
    high = edges(onto_ev)[1:]
    if len(energies_ev) == 1:
        is_inside = (low <= energies_ev[:, None]) & (energies_ev[:, None] < high)
        return is_inside.astype(np.float64)
    left = edges(energies_ev)[:-1, None]
    right = edges(energies_ev)[1:, None]
    shared_ev = np.minimum(high, right) - np.maximum(low, left)
    return np.clip(shared_ev, 0.0, None) / (right - left)


def resampled(spectrum: Spectrum, energies_ev: np.ndarray) -> Spectrum:
    """Return the spectrum on other channels (ascending centres, eV), shared out by overlap: photons
    are neither made nor lost.

    Photons beyond the new channels are dropped: compare the sums. The spectrum's own channels may
    be unequal and in any order, and shared by many spectra, photons (..., channel). A negative
    number of photons (noise of a spectrometer) counts as none. Raises ValueError where energies are
    not finite, positive and distinct, or photons not finite.
    """
    energies, photons = (np.asarray(column, dtype=np.float64) for column in spectrum)
    order = np.argsort(energies)
    energies = energies[order]
    photons = np.maximum(photons[..., order], 0.0)
    is_ascending = (energies > 0).all() and (np.diff(energies) > 0).all()
    if not (np.isfinite(energies).all() and is_ascending):
        raise ValueError("energies of channels that are not finite, positive and distinct")
    if not np.isfinite(photons).all():
        raise ValueError("channels whose photons are not finite")
    onto = np.asarray(energies_ev, dtype=np.float64)
    return Spectrum(onto, photons @ overlaps(energies, onto))
