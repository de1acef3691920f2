"""Spectra of pulses: SASE (self-amplified spontaneous emission) from a random generator; recorded
ones resampled.
"""

import numpy as np

from spreadflow.models import Spectrum

WIDTH_SPREAD = 0.15
"""Relative standard deviation of the envelope's width from pulse to pulse."""

_FINE = 8
"""Steps per spike width."""

_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))


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
    total = photons * np.exp(
        _log_spread(photons_spread) * (rng.standard_normal() - 0.5 * _log_spread(photons_spread))
    )
    channel = energies_ev[1] - energies_ev[0] if len(energies_ev) > 1 else envelope_ev
    fine = max(1, int(np.ceil(_FINE * channel / spike_ev)))
    field = _field(rng, len(energies_ev) * fine, spike_ev / _FWHM * fine / channel)
    offsets = (np.arange(fine) + 0.5) / fine - 0.5
    grid = (energies_ev[:, None] + channel * offsets).ravel()
    envelope = np.exp(-0.5 * ((grid - centre) / width) ** 2) / (np.sqrt(2 * np.pi) * width)
    intensity = envelope * np.abs(field) ** 2 * channel / fine
    return Spectrum(
        np.array(energies_ev, dtype=np.float64),
        total * intensity.reshape(len(energies_ev), fine).sum(1),
    )


def edges(energies_ev: np.ndarray) -> np.ndarray:
    """Return (channel + 1,) edges of channels around ascending centres: half way between them, as
    wide outside as inside.
    """
    middle = 0.5 * (energies_ev[1:] + energies_ev[:-1])
    return np.concatenate(
        [[2 * energies_ev[0] - middle[0]], middle, [2 * energies_ev[-1] - middle[-1]]]
    )


def overlaps(energies_ev: np.ndarray, onto_ev: np.ndarray) -> np.ndarray:
    """Return (channel, channel of `onto_ev`) fraction of each channel that lies in each of the
    others; both ascending, eV.

    A single channel among the first is a line without width; a single one among the second holds
    everything.
    """
    if len(onto_ev) == 1:
        return np.ones((len(energies_ev), 1))
    low, high = edges(onto_ev)[:-1], edges(onto_ev)[1:]
    if len(energies_ev) == 1:
        return ((low <= energies_ev[:, None]) & (energies_ev[:, None] < high)).astype(np.float64)
    left = edges(energies_ev)[:-1, None]
    right = edges(energies_ev)[1:, None]
    return np.clip(np.minimum(high, right) - np.maximum(low, left), 0.0, None) / (right - left)


def resampled(spectrum: Spectrum, energies_ev: np.ndarray) -> Spectrum:
    """Return the spectrum on other channels (ascending centres, eV), shared out by overlap: photons
    are neither made nor lost.

    Those beyond the new channels are dropped: compare the sums. Channels may be unequal and in any
    order, and shared by many spectra, photons (..., channel). A negative number of photons (noise
    of a spectrometer) counts as none. Raises ValueError where energies are not finite, positive and
    distinct, or photons not finite.
    """
    energies, photons = (np.asarray(x, dtype=np.float64) for x in spectrum)
    order = np.argsort(energies)
    energies = energies[order]
    photons = np.maximum(photons[..., order], 0.0)
    if not (np.isfinite(energies).all() and (energies > 0).all() and (np.diff(energies) > 0).all()):
        raise ValueError("energies of channels that are not finite, positive and distinct")
    if not np.isfinite(photons).all():
        raise ValueError("channels whose photons are not finite")
    onto = np.asarray(energies_ev, dtype=np.float64)
    return Spectrum(onto, photons @ overlaps(energies, onto))


def _log_spread(relative: float) -> float:
    """Return standard deviation of the logarithm for a relative standard deviation."""
    return float(np.sqrt(np.log1p(relative**2)))


def _field(rng: np.random.Generator, n: int, width: float) -> np.ndarray:
    """Return (n,) complex field of unit mean intensity whose intensity correlates as a Gaussian of
    this width (steps).
    """
    reach = int(np.ceil(5 * width)) + 1
    noise = rng.standard_normal(n + 2 * reach) + 1j * rng.standard_normal(n + 2 * reach)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    return np.convolve(noise, kernel / np.sqrt(2 * (kernel**2).sum()), mode="valid")
