"""Gain, pedestal, noise and the threshold of spots, estimated from recorded images alone.

A detector that resolves single photons has a one-photon peak, which is its gain. Otherwise the
noise of a background of m ADU above the pedestal is Poisson's: the variance of a pixel, with its
covariances with those that share its photons, is gain · m + readout².
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq, nnls

from spreadflow.analysis.recording import photon_peak, tiles, unusable
from spreadflow.analysis.recording.photon_peak import PhotonPeak
from spreadflow.analysis.recording.tiles import Levels
from spreadflow.analysis.recording.unusable import Unusable
from spreadflow.analysis.still.strong_pixels import DEFAULT_THRESHOLD

SHARED = 2.0
"""Pixels that share a photon's noise, from which a detector integrates light with a point spread:
neighbours of dead pixels are wrong too, and spots of noise have two pixels.
"""

MIN_PIXELS = (2, 3)
"""Pixels of a spot, at least: of detectors without and with such a point spread."""

N_SIGMAS = 5.0
"""Standard deviations from which a difference from what a file states is believed."""

PEAK_TOLERANCE = 0.15
"""Relative difference of the one-photon peak from a stated gain that needs no word: charge that is
shared between pixels takes as much from the peak.
"""

NOISE_TOLERANCE = 0.35
"""The same of variance over mean, which the point spread beyond two pixels, and light that is no
Poisson noise, change.
"""

LEAST_PEDESTAL = 1.0
"""Photons by which a pedestal differs from the stated one, at least, before a word is said."""

LEAST_READOUT = 0.05
"""Photons; a readout noise below that changes nothing, and none at all makes pixels without photons
infinitely certain.
"""

NOISY = 0.75
"""Quantile of the gains that spots need at the levels of the background: the brightest have few
pixels, and spots of their own.
"""

LARGEST_THRESHOLD = 100.0
"""Gain of spot finding above which no noise is looked for."""


PEAK = "the one-photon peak"
"""The method of a gain that single photons show."""

NOISE = "variance over mean"
"""The method of a gain that the noise of the background shows."""


class Gain(NamedTuple):
    """ADU per photon, as the pixels have it."""

    adu_per_photon: float
    sigma: float
    """standard deviation, ADU; what the method itself may be wrong by is not in it"""
    method: str
    """`PEAK` or `NOISE`"""
    readout_adu: float
    """standard deviation of a pixel without a photon"""
    offset_adu: float
    """the pedestal that goes with it"""


class Estimates(NamedTuple):
    """What images say of their detector."""

    gain: Gain | None
    """None where pixels do not tell it"""
    unusable: Unusable
    peak: PhotonPeak | None
    levels: Levels | None
    n_images: int


class Settled(NamedTuple):
    """Pedestal and gain to be used, and why."""

    offset_adu: float
    adu_per_photon: float
    remarks: tuple[str, ...]
    """a sentence for each number that is not the stated one, naming both"""


class SpotSettings(NamedTuple):
    """How spots are told from the noise that the images have."""

    gain: float
    """variance over mean of the photons that the dispersion test allows for"""
    min_pixels: int
    readout_photons: float


def estimate(images: Sequence[np.ndarray], usable: np.ndarray, offset_adu: float) -> Estimates:
    """Return what images (panel, slow, fast), ADU, at least one, say of their detector.

    usable: (panel, slow, fast) bool, pixels that are masked neither in the files nor for their
    values. offset_adu: the pedestal that the files state.
    """
    strange = unusable.find(images, usable)
    left = usable & ~strange.all
    masks = [left & np.isfinite(image) for image in images]
    levels = tiles.levels(tiles.cut(images, masks))
    if levels is not None and levels.sharing > SHARED:
        strange = unusable.grown(strange, usable)
    peak = photon_peak.find(images, masks)
    return Estimates(_gain(peak, levels, offset_adu), strange, peak, levels, len(images))


def _gain(peak: PhotonPeak | None, levels: Levels | None, offset_adu: float) -> Gain | None:
    """Return the gain that a one-photon peak shows, or for want of one the noise."""
    if peak is not None:
        return Gain(
            adu_per_photon=peak.adu_per_photon,
            sigma=peak.sigma,
            method=PEAK,
            readout_adu=peak.readout_adu,
            offset_adu=offset_adu,
        )
    return None if levels is None else _gain_of_noise(levels, offset_adu)


def _gain_of_noise(levels: Levels, offset_adu: float) -> Gain | None:
    """Return the slope of the noise against its level above the pedestal, each level as certain in
    proportion as the others. The pedestal is the stated one, unless the noise vanishes clearly
    above it: pixels that no photon meets have some left.
    """
    vanishing = _vanishing(levels)
    if vanishing is not None:
        level, sigma, slope = vanishing
        if level - N_SIGMAS * sigma > offset_adu + LEAST_PEDESTAL * slope:
            offset_adu = level
    above = levels.mean - offset_adu
    design = np.stack([above, np.ones(len(above))], axis=1) / levels.shared[:, None]
    (slope, readout2), _ = nnls(design, np.ones(len(above)))
    if slope <= 0:
        return None
    scatter = np.std(1.0 - design @ [slope, readout2]) / np.sqrt(len(above))
    return Gain(
        adu_per_photon=float(slope),
        sigma=float(slope * scatter),
        method=NOISE,
        readout_adu=float(np.sqrt(readout2)),
        offset_adu=float(offset_adu),
    )


def _vanishing(levels: Levels) -> tuple[float, float, float] | None:
    """Return the ADU at which the noise, followed down to lower levels, would vanish, its standard
    deviation, and the slope of the noise; None where this is nowhere above 0.

    The pedestal is higher than that, by readout² over gain.
    """
    design = np.stack([levels.mean, np.ones(len(levels.mean))], axis=1) / levels.shared[:, None]
    solution, residual, *_ = np.linalg.lstsq(design, np.ones(len(design)), rcond=None)
    slope, start = solution
    if slope <= 0 or start >= 0 or not len(residual) or len(design) < 3:
        return None
    variance = float(residual[0]) / (len(design) - 2) * np.linalg.inv(design.T @ design)
    slopes = np.array([start / slope**2, -1.0 / slope])
    sigma = float(np.sqrt(slopes @ variance @ slopes))
    return float(-start / slope), sigma, float(slope)


def settle(gain: Gain | None, offset_adu: float, adu_per_photon: float) -> Settled:
    """Return the pedestal and the gain to be used of images whose files state these: the stated
    ones, unless the pixels contradict them.
    """
    if gain is None:
        return Settled(offset_adu, adu_per_photon, ())
    remarks = []
    is_peak = gain.method == PEAK
    tolerance = PEAK_TOLERANCE if is_peak else NOISE_TOLERANCE
    used = adu_per_photon
    if abs(gain.adu_per_photon / adu_per_photon - 1.0) > tolerance:
        used = gain.adu_per_photon
        remarks.append(
            f"gain: {gain.method} says {used:.3g} ± {gain.sigma:.1g} ADU per photon, the files "
            f"state or leave open {adu_per_photon:g}"
        )
    if abs(gain.offset_adu - offset_adu) > LEAST_PEDESTAL * used:
        remarks.append(
            f"pedestal: the noise of the pixels vanishes at {gain.offset_adu:.4g} ADU, the files "
            f"state or leave open {offset_adu:g}"
        )
        offset_adu = gain.offset_adu
    return Settled(offset_adu, used, tuple(remarks))


def spot_settings(found: Estimates, offset_adu: float, adu_per_photon: float) -> SpotSettings:
    """Return how spots are told from noise, of images with this pedestal and gain.

    The dispersion test allows for six standard deviations of windows in which noise is
    independent and everywhere alike. Its gain is raised until they are six of those that the
    windows of these images have.
    """
    levels = found.levels
    gain = found.gain
    readout = 0.0 if gain is None else gain.readout_adu / adu_per_photon
    readout = max(readout, LEAST_READOUT)
    if levels is None:
        return SpotSettings(DEFAULT_THRESHOLD.gain, MIN_PIXELS[0], max(readout, 1.0))

    mean = np.maximum(levels.mean - offset_adu, 0.0) / adu_per_photon
    n_sigmas = DEFAULT_THRESHOLD.sigma_background
    highest = (levels.typical + n_sigmas * levels.scatter) * levels.variance / adu_per_photon**2
    gains = [
        _threshold(level, limit, readout)
        for level, limit in zip(mean, highest, strict=True)
        if level > 0
    ]
    is_spread = levels.sharing > SHARED
    return SpotSettings(
        gain=float(np.quantile(gains, NOISY)) if gains else DEFAULT_THRESHOLD.gain,
        min_pixels=MIN_PIXELS[int(is_spread)],
        readout_photons=readout,
    )


def _threshold(mean: float, limit: float, readout: float) -> float:
    """Return the gain with which the dispersion test's limit of a window's variance is `limit`.

    mean: photons of the window; readout: photons.
    """
    threshold = DEFAULT_THRESHOLD
    n = (2 * threshold.kernel[0] + 1) * (2 * threshold.kernel[1] + 1)

    def beyond(gain: float) -> float:
        shot_noise = gain * mean
        noise = shot_noise + readout**2
        kurtosis = gain**2 * shot_noise / (n * noise**2)
        relative = np.sqrt(2.0 / (n - 1) + kurtosis)
        return noise * (1.0 + threshold.sigma_background * relative) - limit

    least = 1e-6
    if beyond(least) >= 0:
        return least
    if beyond(LARGEST_THRESHOLD) <= 0:
        return LARGEST_THRESHOLD
    return float(brentq(beyond, least, LARGEST_THRESHOLD))
