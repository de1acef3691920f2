"""Gain, pedestal, noise and the threshold of spots, estimated from recorded images alone.

A detector that resolves single photons has a one-photon peak, which is its gain. Otherwise the
noise of a background of m ADU above the pedestal is Poisson's: the variance of a pixel, with its
covariances with those that share its photons, is gain · m + readout².
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import scipy

from spreadflow.analysis.recording import photon_peak, tiles, unusable
from spreadflow.analysis.recording.history import History
from spreadflow.analysis.recording.photon_peak import PhotonPeak
from spreadflow.analysis.recording.rings import Rings, rings_of
from spreadflow.analysis.recording.shadows import Light
from spreadflow.analysis.recording.tiles import Levels
from spreadflow.analysis.recording.unusable import Unusable
from spreadflow.analysis.still.strong_pixels import DEFAULT_THRESHOLD
from spreadflow.models import Detector

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

LEAST_RANGE = 10.0
"""Variance of the levels over that which noise alone gives them, from which the slope of the noise
is believed: of levels that are nearly the same it is that of their chance, and too small.
"""

LARGEST_FAR = 1.0 / 3.0
"""Share of the noise that is of the largest lags, up to which what lies beyond them may be left
out: of a Gaussian point spread of 0.9 px, a seventh of the gain.
"""

LARGEST_BEND = 0.1
"""Share of the noise at the highest level that goes with its square, up to which the noise is a
straight line, followed down to where it vanishes.
"""

BEND_SIGMAS = 2.0
"""Standard deviations from which it is seen: a line through a bend is worse than one too free."""

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

ASSUMED_BANDWIDTH = 0.003
"""Relative FWHM of pulses whose spectra are not recorded: self-amplified spontaneous emission of
hard X-rays has 0.2 to 0.5 %.
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


class Stated(NamedTuple):
    """What files state of their images."""

    offset_adu: float
    """the pedestal"""
    detector: Detector
    polarization: float | None
    """Kahn's K along the lab x axis; None = not stated, and taken to be 1"""


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


def estimate(
    images: Sequence[np.ndarray],
    usable: np.ndarray,
    stated: Stated,
    later: Iterable[np.ndarray] = (),
) -> Estimates:
    """Return what images (panel, slow, fast), ADU, at least one, say of their detector.

    usable: (panel, slow, fast) bool, pixels that are masked neither in the files nor for their
    values. later: more images, one at a time, which only the unusable pixels are judged by.
    """
    polarization = 1.0 if stated.polarization is None else stated.polarization
    place = rings_of(stated.detector, polarization)
    strange, history = unusable.find(images, usable, place, later)
    left = usable & ~strange.all
    masks = [left & np.isfinite(image) for image in images]
    levels = tiles.levels(tiles.cut(images, masks))
    peak = photon_peak.find(images, masks)
    gain = _gain(peak, levels, stated.offset_adu)
    pedestal_sigma = 0.0 if peak is None else peak.pedestal_sigma
    strange = _judged_by_light(strange, history, gain, pedestal_sigma, place)
    if levels is not None and levels.sharing > SHARED:
        strange = unusable.grown(strange, usable)
    return Estimates(gain, strange, peak, levels, history.n_images)


def _judged_by_light(
    strange: Unusable, history: History, gain: Gain | None, pedestal_sigma: float, place: Rings
) -> Unusable:
    """Return unusable pixels with those that light tells, where photons and pedestal are known.
    pedestal_sigma: of the pedestals of parts of the detector, ADU.
    """
    if gain is None:
        undecided = "shadows are not looked for: the pixels don't tell the gain"
        return strange._replace(undecided=(*strange.undecided, undecided))
    light = Light(
        adu=history.adu - gain.offset_adu,
        noise=history.noise,
        n_images=history.n,
        adu_per_photon=gain.adu_per_photon,
        readout_adu=gain.readout_adu,
        pedestal_sigma=pedestal_sigma,
    )
    return unusable.judged_by_light(strange, history, light, place)


def _gain(peak: PhotonPeak | None, levels: Levels | None, offset_adu: float) -> Gain | None:
    """Return the gain that a one-photon peak shows, or for want of one the noise. The pedestal is
    the stated one, unless the peak of no photon is a photon away from it.
    """
    if peak is not None:
        is_away = abs(peak.pedestal_adu - offset_adu) > LEAST_PEDESTAL * peak.adu_per_photon
        return Gain(
            adu_per_photon=peak.adu_per_photon,
            sigma=peak.sigma,
            method=PEAK,
            readout_adu=peak.readout_adu,
            offset_adu=peak.pedestal_adu if is_away else offset_adu,
        )
    return None if levels is None else _gain_of_noise(levels, offset_adu)


def _gain_of_noise(levels: Levels, offset_adu: float) -> Gain | None:
    """Return the slope of the noise against its level above the pedestal, each level as certain in
    proportion as the others; None where the levels do not tell it. The pedestal is the stated one,
    unless the noise vanishes clearly above it: pixels that no photon meets have some left.
    """
    brighter = levels.far[len(levels.far) // 2 :]
    if levels.range < LEAST_RANGE or float(np.median(brighter)) > LARGEST_FAR:
        return None
    is_bent = _is_bent(levels)
    vanishing = None if is_bent else _vanishing(levels)
    if vanishing is not None:
        level, sigma, slope = vanishing
        if level - N_SIGMAS * sigma > offset_adu + LEAST_PEDESTAL * slope:
            offset_adu = level
    design = _design(levels, offset_adu)[:, : 3 if is_bent else 2]
    parameters, _ = scipy.optimize.nnls(design, np.ones(len(design)))
    slope, readout2 = parameters[:2]
    sigma = _sigmas(design, parameters)[0]
    if sigma >= NOISE_TOLERANCE * slope:
        return None
    return Gain(
        adu_per_photon=float(slope),
        sigma=float(sigma),
        method=NOISE,
        readout_adu=float(np.sqrt(readout2)),
        offset_adu=float(offset_adu),
    )


def _design(levels: Levels, offset_adu: float) -> np.ndarray:
    """Return what photons, readout and differences of gain between pixels bring to the noise of
    each level, over that noise, (level, 3): the level above the pedestal, 1, and its square.
    """
    above = levels.mean - offset_adu
    return np.stack([above, np.ones(len(above)), above**2], axis=1) / levels.shared[:, None]


def _is_bent(levels: Levels) -> bool:
    """Whether the noise grows faster than its level, as that of pixels of different gains does."""
    design = _design(levels, 0.0)
    parameters, *_ = np.linalg.lstsq(design, np.ones(len(design)), rcond=None)
    bend = parameters[2]
    is_seen = bend > BEND_SIGMAS * _sigmas(design, parameters)[2]
    return bool(is_seen and bend * design[-1, 2] > LARGEST_BEND)


def _sigmas(design: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Return the standard deviations (parameter,) of a fit of 1 by a design (level, parameter), by
    the scatter of the levels around it; those that are 0 are at their limit, and certain.
    """
    is_free = parameters != 0
    size = np.linalg.norm(design, axis=0)
    free = (design / size)[:, is_free]
    variance = np.sum((1.0 - design @ parameters) ** 2) / max(len(free) - free.shape[1], 1)
    sigmas = np.zeros(len(parameters))
    sigmas[is_free] = np.sqrt(variance * np.diag(np.linalg.pinv(free.T @ free)))
    return sigmas / size


def _vanishing(levels: Levels) -> tuple[float, float, float] | None:
    """Return the ADU at which the noise, followed down to lower levels, would vanish, its standard
    deviation, and the slope of the noise; None where this is nowhere above 0.

    The pedestal is higher than that, by readout² over gain.
    """
    design = _design(levels, 0.0)[:, :2]
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
        what = "the peak of no photon is" if is_peak else "the noise of the pixels vanishes"
        remarks.append(
            f"pedestal: {what} at {gain.offset_adu:.4g} ADU, the files state or leave open "
            f"{offset_adu:g}"
        )
        offset_adu = gain.offset_adu
    return Settled(offset_adu, used, tuple(remarks))


def spot_settings(found: Estimates, offset_adu: float, adu_per_photon: float) -> SpotSettings:
    """Return how spots are told from noise, of images with this pedestal and gain.

    The dispersion test allows for six standard deviations of windows in which noise is
    independent and everywhere alike. Its gain is raised until they are six of those that the
    windows of these images have. Where the images do not tell the gain, the readout noise is what
    photons of this gain leave of the least of the noise.
    """
    levels = found.levels
    if levels is None:
        readout = 1.0 if found.gain is None else found.gain.readout_adu / adu_per_photon
        return SpotSettings(DEFAULT_THRESHOLD.gain, MIN_PIXELS[0], max(readout, 1.0))

    mean = np.maximum(levels.mean - offset_adu, 0.0) / adu_per_photon
    variance = levels.variance / adu_per_photon**2
    readout2 = float(np.min(variance - mean))
    if found.gain is not None:
        readout2 = (found.gain.readout_adu / adu_per_photon) ** 2
    readout = float(np.sqrt(max(readout2, LEAST_READOUT**2)))
    n_sigmas = DEFAULT_THRESHOLD.sigma_background
    highest = (levels.typical + n_sigmas * levels.scatter) * variance
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
    return float(scipy.optimize.brentq(beyond, least, LARGEST_THRESHOLD))
