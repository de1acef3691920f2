"""Summation integration of stills: elongated foregrounds, a robust plane below them, honest σ.

Rossmann (1979) J. Appl. Cryst. 12, 225 (plane); Anscombe (1948) Biometrika 35, 246 (outliers of a
Poisson variable).
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.still import box_loops, tails
from spreadflow.analysis.still.box_loops import (
    FOREIGN,
    FREE,
    OWN,
    Boxes,
    Light,
    Pixels,
    Sums,
    Variances,
)
from spreadflow.analysis.still.footprints import (
    at_edge,
    bounds_of,
    boxes_of,
    footprints_of,
    roles,
)
from spreadflow.analysis.still.prediction import HALF_SIZE, Predicted
from spreadflow.analysis.still.tails import NO_TAILS, SpotPixels, Tails
from spreadflow.analysis.still.variance import own_variance
from spreadflow.analysis.strength import STRONG_PIXEL, STRONG_SPOT
from spreadflow.models import Detector, Noise, ReflectionFlag, Reflections

MIN_BACKGROUND = 12
"""Pixels a plane needs."""

MAX_OVERLAP = 0.1
"""Fraction of a foreground that neighbours may take before the reflection is flagged."""

DARK = 5.0
"""Standard deviations below zero at which a background is none."""

LEAST_VARIANCE = 1.0
"""Photons²; least variance of an intensity: nothing is known better where nothing was counted."""

LEAST_SHARE = 0.1
"""Of a spot's light in its foreground: with less, a neighbour has most of it, and it is flagged."""


class _Spread(NamedTuple):
    """What tails do to the intensities of spots; shapes (reflection,)."""

    share: np.ndarray
    """of the light in the foreground"""
    relative_sigma: np.ndarray
    """of intensities, as the width of the tails is not known better"""
    noise: np.ndarray
    """variance of the foreground's background counts over that without tails"""


class _Intensities(NamedTuple):
    """What foregrounds say; shapes (reflection,)."""

    intensity: np.ndarray
    """photons above background"""
    sigma: np.ndarray
    """photons"""
    sigma_background: np.ndarray
    """the part of σ that is not from the number of the signal's own photons"""
    sigma_empty: np.ndarray
    """that of the sum of pixels which is from background and readout alone, photons"""
    background: np.ndarray
    """mean under the peak, photons per pixel"""


class _Gathered(NamedTuple):
    """The reflections of a shot with the pixels of their shoeboxes."""

    predicted: Predicted
    boxes: Boxes
    is_cut: np.ndarray
    """(reflection,) the footprint reaches beyond the panel"""
    pixels: Pixels
    overlap: np.ndarray
    """(reflection,) fraction of the foreground that neighbours own"""
    shape: tuple[int, int]
    """(slow, fast) pixels of a panel"""
    noise: Noise

    def spot_pixels(self, rows: np.ndarray) -> SpotPixels:
        """Return the pixels of some reflections, and how their light lies in them without tails."""
        boxes = self.boxes
        first = boxes.first[rows]
        n_pixels = boxes.first[rows + 1] - first
        starts = np.concatenate([[0], np.cumsum(n_pixels)])
        spot = np.repeat(np.arange(len(rows)), n_pixels)
        in_box = np.arange(starts[-1]) - starts[spot]
        fast0, fast1, slow0, _ = boxes.bbox[rows[spot]].T
        width = fast1 - fast0
        position = np.stack([fast0 + in_box % width, slow0 + in_box // width], axis=-1) + 0.5
        pixels = first[spot] + in_box
        role = np.where(self.pixels.valid, self.pixels.role, FOREIGN)[pixels]
        half_sizes = [self.predicted.radial_px[rows], self.predicted.transverse_px[rows]]
        return SpotPixels(
            counts=self.pixels.counts[pixels],
            offset=position - boxes.centre[rows[spot]],
            first=starts,
            own=role == OWN,
            free=role == FREE,
            axes=boxes.axes[rows],
            sigma=np.stack(half_sizes, axis=-1) / HALF_SIZE,
        )


def integrate(
    image: np.ndarray,
    mask: np.ndarray,
    predicted: Predicted,
    detector: Detector,
    *,
    noise: Noise,
    saturation_photons: float = np.inf,
    point_spread: Tails = NO_TAILS,
) -> Reflections:
    """Sum the photons above background of every predicted reflection of a shot.

    image: (panel, slow, fast) photons. mask: the same shape, True = may be used. predicted:
    reflections of *all* lattices of the shot, so that neighbours are known; a contested pixel goes
    to the nearer centroid (in units of the footprints). noise: σ_r of the readout, and relative
    error ε of the gains. point_spread: the tails of spots.

    I = Σ (c - b), σ² = σ_b² + f(I) + ε² Σ c², σ_b² = Σ b + n σ_r² + (Σ x)ᵀ Cov(θ) (Σ x), sums over
    the foreground. f is the signal's own Poisson variance, I³/(I² + 4σ_b²) for I > 0: I for what
    stands out of the background's noise, nothing for what does not. With f = I, σ would follow the
    noise and means weighted by 1/σ² come out low. Where spots have tails, the background is what
    is left without them, and I and σ are over the share of the light that the foreground holds.

    The intensity of a reflection with a bit of `ReflectionFlag.FAILED` is finite, but not to be
    used.
    """
    gathered = _gathered(image, mask, predicted, detector, saturation_photons, noise)
    return _integrated(gathered, point_spread)


def integrate_and_learn(
    image: np.ndarray,
    mask: np.ndarray,
    predicted: Predicted,
    detector: Detector,
    *,
    noise: Noise,
    saturation_photons: float = np.inf,
) -> tuple[Reflections, Tails]:
    """Return the reflections of a shot as from `integrate`, and the tails of its spots, which the
    strong ones show.
    """
    gathered = _gathered(image, mask, predicted, detector, saturation_photons, noise)
    without = _integrated(gathered, NO_TAILS)
    strength = np.where(without.flags == 0, without.intensity / without.sigma, 0.0)
    spots = tails.telling(strength)
    if not len(spots):
        return without, NO_TAILS
    point_spread = tails.learned(gathered.spot_pixels(spots), without.background[spots], noise)
    return (_integrated(gathered, point_spread) if point_spread.width_px else without), point_spread


def _gathered(
    image: np.ndarray,
    mask: np.ndarray,
    predicted: Predicted,
    detector: Detector,
    saturation_photons: float,
    noise: Noise,
) -> _Gathered:
    """Return the reflections with the pixels of their shoeboxes; arguments as of `integrate`."""
    footprints = footprints_of(predicted, detector)
    bbox, is_cut = bounds_of(predicted, footprints, detector.shape)
    centre = np.stack([predicted.fast, predicted.slow], axis=-1)
    boxes = boxes_of(predicted.panel, centre, footprints, bbox)
    role, overlap = roles(boxes)
    counts, valid, saturated = box_loops.gathered(image, mask, boxes, float(saturation_photons))
    pixels = Pixels(counts, valid, saturated, role)
    return _Gathered(predicted, boxes, is_cut, pixels, overlap, detector.shape, noise)


def _integrated(gathered: _Gathered, point_spread: Tails) -> Reflections:
    """Return the intensities of gathered reflections whose spots have these tails."""
    predicted, boxes, _, pixels, overlap, shape, noise = gathered
    light, spread = _light(gathered, point_spread)
    variances = Variances(float(noise.readout_photons) ** 2, float(noise.calibration_error) ** 2)
    sums = box_loops.summed(boxes, pixels, light, variances, STRONG_PIXEL)
    found = _intensities(sums, noise, spread)
    flags = (
        ReflectionFlag.EDGE * at_edge(boxes.bbox, shape)
        | ReflectionFlag.OVERLAP * (overlap > MAX_OVERLAP)
        | _failures(gathered, sums, found)
    )
    observed = sums.centre
    is_weak = found.intensity < STRONG_SPOT * found.sigma
    observed[is_weak | (flags & ReflectionFlag.FAILED > 0)] = np.nan
    as_predicted = [name for name in Reflections._fields if name in Predicted._fields]
    return Reflections(
        **{name: getattr(predicted, name) for name in as_predicted},
        fast_obs=predicted.fast + observed[:, 0],
        slow_obs=predicted.slow + observed[:, 1],
        intensity=found.intensity,
        sigma=found.sigma,
        sigma_background=found.sigma_background,
        background=found.background,
        n_foreground=sums.n.astype(np.int32),
        bbox=boxes.bbox.astype(np.int32),
        half_px=boxes.half_px.astype(np.float32),
        flags=flags.astype(np.int32),
    )


def _light(gathered: _Gathered, point_spread: Tails) -> tuple[Light, _Spread | None]:
    """Return where the light of the reflections' spots is, which have these tails, and what the
    tails do to intensities; None of spots without tails.
    """
    n = len(gathered.boxes.bbox)
    if not point_spread.width_px:
        return Light(False, np.empty(0), np.ones(n)), None
    profile, share = point_spread.profiles(gathered.spot_pixels(np.arange(n)))
    share = np.maximum(share, LEAST_SHARE)
    noise = point_spread.kept_noise(gathered.boxes.half_px)
    spread = _Spread(share, point_spread.relative_sigma(share), noise)
    return Light(True, profile, share), spread


def shoeboxes(predicted: Predicted, detector: Detector) -> np.ndarray:
    """Return the shoeboxes (reflection, 4) that `integrate` makes: fast0 fast1 slow0 slow1, half
    open, px.
    """
    footprints = footprints_of(predicted, detector)
    return bounds_of(predicted, footprints, detector.shape).bbox


def _failures(gathered: _Gathered, sums: Sums, found: _Intensities) -> np.ndarray:
    """Return the bits of `ReflectionFlag.FAILED` of each reflection."""
    is_masked = (sums.n_lost > 0) | gathered.is_cut | (sums.n == 0)
    is_dark = sums.below < -DARK * found.sigma_empty
    is_without_background = (sums.n_fitted < MIN_BACKGROUND) | is_dark
    return (
        ReflectionFlag.MASKED * is_masked
        | ReflectionFlag.SATURATED * (sums.n_saturated > 0)
        | ReflectionFlag.BACKGROUND * is_without_background
    )


def _intensities(sums: Sums, noise: Noise, spread: _Spread | None) -> _Intensities:
    """Return the intensities of all reflections. spread: of spots with tails."""
    intensity = sums.above
    from_counts = np.maximum(sums.below, 0.0)
    if spread is not None:
        from_counts = from_counts * spread.noise
    rest = from_counts + sums.n * noise.readout_photons**2 + sums.of_plane
    rest = np.maximum(rest, LEAST_VARIANCE)
    sigma_empty = np.sqrt(rest)

    from_gains = noise.calibration_error**2 * sums.squares
    if spread is not None:
        intensity = intensity / spread.share
        rest = rest / spread.share**2
        from_gains = from_gains / spread.share**2 + (spread.relative_sigma * intensity) ** 2
    own = own_variance(intensity, rest)
    return _Intensities(
        intensity=intensity,
        sigma=np.sqrt(rest + own + from_gains),
        sigma_background=np.sqrt(rest + from_gains),
        sigma_empty=sigma_empty,
        background=sums.below / np.maximum(sums.n, 1),
    )
