"""Summation integration of stills: elongated foregrounds, a robust plane below them, honest σ.

Rossmann (1979) J. Appl. Cryst. 12, 225 (plane); Anscombe (1948) Biometrika 35, 246 (outliers of a
Poisson variable).
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from spreadflow.analysis.still import pixel_noise, tails
from spreadflow.analysis.still.footprints import (
    FOREIGN,
    FREE,
    OWN,
    Boxes,
    Footprints,
    at_edge,
    boxes_of,
    footprints_of,
    roles,
)
from spreadflow.analysis.still.pixel_noise import PLANE_RIDGE
from spreadflow.analysis.still.prediction import HALF_SIZE, Predicted
from spreadflow.analysis.still.tails import NO_TAILS, SpotPixels, Tails
from spreadflow.analysis.still.variance import own_variance
from spreadflow.analysis.strength import STRONG_PIXEL, STRONG_SPOT
from spreadflow.models import Detector, Noise, ReflectionFlag, Reflections

N_SIGMA = 4.0
"""Background pixels further than this from the plane, in their standard deviations, are left out.
"""

N_CYCLES = 4
"""Cycles of reweighting and outlier rejection that fit a plane."""

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

LEAST_LEVEL = 0.2
"""Fraction of a shoebox's mean background below which weights no longer follow the plane."""

KEY_STEP = 1 << 24
"""Distance of the keys of two reflections where one sort orders pixels by reflection, then by
value: no count that matters lies beyond ± half of it.
"""


class _Pixels(NamedTuple):
    """The contents of the pixels of all shoeboxes; shapes (pixel,)."""

    counts: np.ndarray
    """photons; 0 where not valid"""
    valid: np.ndarray
    """bool, may be used"""
    saturated: np.ndarray
    """bool, above the trusted range"""
    role: np.ndarray
    """FREE, OWN or FOREIGN"""

    @property
    def summed(self) -> np.ndarray:
        """Pixels that make the intensity."""
        return (self.role == OWN) & self.valid

    @property
    def free(self) -> np.ndarray:
        """Pixels that show background."""
        return (self.role == FREE) & self.valid


class _Light(NamedTuple):
    """Where the light of spots with tails is."""

    profile: np.ndarray
    """(pixel,) share of the light"""
    share: np.ndarray
    """(reflection,) of the light in the foreground"""
    relative_sigma: np.ndarray
    """(reflection,) of intensities, as the width of the tails is not known better"""
    noise: np.ndarray
    """(reflection,) variance of the foreground's background counts over that without tails"""


class _Plane(NamedTuple):
    """Background θ·x with x = (1, fast, slow) relative to the predicted centroid."""

    level: np.ndarray
    """(pixel,) photons"""
    n: np.ndarray
    """(reflection,) background pixels that it was fitted to"""
    covariance: np.ndarray
    """(reflection, 3, 3) of θ"""


class _Sums(NamedTuple):
    """Sums over foregrounds; shapes (reflection,)."""

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
    n: np.ndarray
    """pixels"""


class _Gathered(NamedTuple):
    """The reflections of a shot with the pixels of their shoeboxes."""

    predicted: Predicted
    footprints: Footprints
    boxes: Boxes
    pixels: _Pixels
    overlap: np.ndarray
    """(reflection,) fraction of the foreground that neighbours own"""
    shape: tuple[int, int]
    """(slow, fast) pixels of a panel"""
    noise: Noise

    def spot_pixels(self) -> SpotPixels:
        """Return the pixels, and how the light of the reflections lies in them without tails."""
        half_sizes = [self.predicted.radial_px, self.predicted.transverse_px]
        return SpotPixels(
            offset=self.boxes.offset,
            spot=self.boxes.reflection,
            sums=self.boxes.sums,
            own=self.pixels.summed,
            free=self.pixels.free,
            axes=self.footprints.axes,
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
    spots = gathered.spot_pixels()
    point_spread = tails.learned(spots, gathered.pixels.counts, without.background, strength, noise)
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
    boxes = boxes_of(predicted, footprints, detector.shape)
    role, overlap = roles(boxes, footprints, detector.shape)

    address = (boxes.panel, boxes.slow, boxes.fast)
    counts = image[address].astype(np.float64)
    valid = mask[address] & np.isfinite(counts)
    saturated = counts > saturation_photons
    counts[~valid] = 0.0
    pixels = _Pixels(counts, valid, saturated, role)
    return _Gathered(predicted, footprints, boxes, pixels, overlap, detector.shape, noise)


def _integrated(gathered: _Gathered, point_spread: Tails) -> Reflections:
    """Return the intensities of gathered reflections whose spots have these tails."""
    predicted, footprints, boxes, pixels, overlap, shape, noise = gathered
    light = _light(gathered, point_spread) if point_spread.width_px else None
    plane = _fit_plane(boxes, pixels, noise, light)
    sums = _sums(boxes, pixels, plane, noise, light)
    flags = (
        ReflectionFlag.EDGE * at_edge(boxes.bbox, shape)
        | ReflectionFlag.OVERLAP * (overlap > MAX_OVERLAP)
        | _failures(boxes, pixels, plane, sums)
    )
    observed = _centroids(boxes, pixels, plane, noise)
    is_weak = sums.intensity < STRONG_SPOT * sums.sigma
    observed[is_weak | (flags & ReflectionFlag.FAILED > 0)] = np.nan
    as_predicted = [name for name in Reflections._fields if name in Predicted._fields]
    return Reflections(
        **{name: getattr(predicted, name) for name in as_predicted},
        fast_obs=predicted.fast + observed[:, 0],
        slow_obs=predicted.slow + observed[:, 1],
        intensity=sums.intensity,
        sigma=sums.sigma,
        sigma_background=sums.sigma_background,
        background=sums.background,
        n_foreground=sums.n.astype(np.int32),
        bbox=boxes.bbox.astype(np.int32),
        half_px=footprints.half_px,
        flags=flags.astype(np.int32),
    )


def _light(gathered: _Gathered, point_spread: Tails) -> _Light:
    """Return where the light of the reflections' spots is, which have these tails."""
    profile = point_spread.profiles(gathered.spot_pixels())
    share = gathered.boxes.sums @ (gathered.pixels.summed * profile)
    share = np.maximum(share, LEAST_SHARE)
    noise = point_spread.kept_noise(gathered.footprints.half_px)
    return _Light(profile, share, point_spread.relative_sigma(share), noise)


def shoeboxes(predicted: Predicted, detector: Detector) -> np.ndarray:
    """Return the shoeboxes (reflection, 4) that `integrate` makes: fast0 fast1 slow0 slow1, half
    open, px.
    """
    footprints = footprints_of(predicted, detector)
    return boxes_of(predicted, footprints, detector.shape).bbox


# ---------------------------------------------------------------- pixels


def _failures(boxes: Boxes, pixels: _Pixels, plane: _Plane, sums: _Sums) -> np.ndarray:
    """Return the bits of `ReflectionFlag.FAILED` of each reflection."""
    own = pixels.role == OWN
    n_lost = boxes.sums @ (own & ~pixels.valid)
    n_saturated = boxes.sums @ (own & pixels.saturated)
    is_masked = (n_lost > 0) | boxes.is_cut | (sums.n == 0)
    is_dark = sums.background * sums.n < -DARK * sums.sigma_empty
    is_without_background = (plane.n < MIN_BACKGROUND) | is_dark
    return (
        ReflectionFlag.MASKED * is_masked
        | ReflectionFlag.SATURATED * (n_saturated > 0)
        | ReflectionFlag.BACKGROUND * is_without_background
    )


# ---------------------------------------------------------------- background


def _fit_plane(boxes: Boxes, pixels: _Pixels, noise: Noise, light: _Light | None = None) -> _Plane:
    """Return the plane through the free pixels of each shoebox by weighted least squares, outliers
    left out.

    It starts from the median. Weights come from the plane itself: weighting by the counts instead
    would be low by about one photon. Tails are those of the intensity above the plane before.
    """
    counts, free = pixels.counts, pixels.free
    one = np.ones((len(counts), 1))
    design = np.concatenate([one, boxes.offset], axis=1)
    products = design[:, (0, 0, 0, 1, 1, 2)] * design[:, (0, 1, 2, 1, 2, 2)]
    products = np.ascontiguousarray(products)

    level = _medians(boxes, counts, free)[boxes.reflection]
    of_tail = 0.0
    below_tail = counts
    for _ in range(N_CYCLES):
        if light is not None:
            intensity = boxes.sums @ (pixels.summed * (counts - level)) / light.share
            of_tail = intensity[boxes.reflection] * light.profile
            below_tail = counts - of_tail
        deviation = pixel_noise.deviation(counts, level + of_tail, noise)
        is_fitted = free & (np.abs(deviation) <= N_SIGMA)

        # a plane near zero would give its lowest pixels all the weight
        n = boxes.sums @ is_fitted
        at_least_one = np.maximum(n, 1)
        mean = (boxes.sums @ (is_fitted * below_tail)) / at_least_one
        least_level = np.maximum(mean, 1.0 / at_least_one) * LEAST_LEVEL
        weighted_level = np.maximum(level, least_level[boxes.reflection])
        expected = weighted_level + np.maximum(of_tail, 0.0)
        weight = is_fitted / pixel_noise.variance(expected, noise)

        upper = boxes.sums @ (weight[:, None] * products)
        normal = upper[:, (0, 1, 2, 1, 3, 4, 2, 4, 5)].reshape(-1, 3, 3)
        weighted = weight * below_tail
        right = boxes.sums @ (weighted[:, None] * design)

        covariance = np.linalg.inv(normal + PLANE_RIDGE * np.eye(3))
        theta = np.einsum("rij,rj->ri", covariance, right)
        level = np.einsum("pi,pi->p", design, theta[boxes.reflection])
    return _Plane(level, n, covariance)


def _medians(boxes: Boxes, values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return the median (reflection,) of each shoebox's values among the pixels marked; 0 where
    there are none.
    """
    reflection = boxes.reflection[among]
    step = float(KEY_STEP)
    limited = np.clip(values[among], -KEY_STEP / 2, KEY_STEP / 2 - 1)
    keys = np.sort(reflection * step + limited)

    n = np.bincount(reflection, minlength=len(boxes.bbox))
    middle = np.cumsum(n) - n + n // 2
    with_pixels = np.flatnonzero(n)
    medians = np.zeros(len(n))
    medians[with_pixels] = keys[middle[with_pixels]] - with_pixels * step
    return medians


# ---------------------------------------------------------------- intensities


def _sums(
    boxes: Boxes, pixels: _Pixels, plane: _Plane, noise: Noise, light: _Light | None
) -> _Sums:
    """Return the intensities of all reflections. light: as spots with tails have it."""
    counts = pixels.counts
    summed = pixels.summed
    n = boxes.sums @ summed
    intensity = boxes.sums @ (summed * (counts - plane.level))
    below = boxes.sums @ (summed * plane.level)

    offsets = boxes.sums @ (summed[:, None] * boxes.offset)
    lever = np.stack([n, *offsets.T], axis=-1)
    from_plane = np.einsum("ri,rij,rj->r", lever, plane.covariance, lever)
    from_counts = np.maximum(below, 0.0)
    if light is not None:
        from_counts = from_counts * light.noise
    rest = from_counts + n * noise.readout_photons**2 + from_plane
    rest = np.maximum(rest, LEAST_VARIANCE)
    sigma_empty = np.sqrt(rest)

    from_gains = noise.calibration_error**2 * (boxes.sums @ (summed * counts**2))
    if light is not None:
        intensity = intensity / light.share
        rest = rest / light.share**2
        from_gains = from_gains / light.share**2 + (light.relative_sigma * intensity) ** 2
    own = own_variance(intensity, rest)
    return _Sums(
        intensity=intensity,
        sigma=np.sqrt(rest + own + from_gains),
        sigma_background=np.sqrt(rest + from_gains),
        sigma_empty=sigma_empty,
        background=below / np.maximum(n, 1),
        n=n,
    )


# ---------------------------------------------------------------- centroids


def _centroids(boxes: Boxes, pixels: _Pixels, plane: _Plane, noise: Noise) -> np.ndarray:
    """Return the centre of mass, minus the predicted centroid, of the pixels > 2 σ that are
    connected with the highest one: (reflection, 2) px.

    The highest pixel is sought in the foreground; the connected region is the data's own and may
    leave it.
    """
    signal = pixels.counts - plane.level
    sigma = np.sqrt(pixel_noise.variance(plane.level, noise))
    height = np.where(pixels.summed, signal / sigma, -np.inf)
    order = np.lexsort((-height, boxes.reflection))
    highest = order[boxes.sums.indptr[:-1]]

    usable = pixels.valid & (pixels.role != FOREIGN)
    bright = usable & (signal > STRONG_PIXEL * sigma)
    bright[highest] = True

    label = _connected(boxes, bright)
    is_spot = bright & (label == label[highest][boxes.reflection])
    weight = np.where(is_spot, np.maximum(signal, 0.0), 0.0)

    total = boxes.sums @ weight
    weighted = boxes.sums @ (weight[:, None] * boxes.offset)
    return weighted / np.maximum(total, 1e-9)[:, None]


def _connected(boxes: Boxes, bright: np.ndarray) -> np.ndarray:
    """Return the number of the connected component (4 neighbours, within a shoebox) of each pixel;
    pixels that are not bright stand alone.
    """
    fast0, fast1, _, slow1 = boxes.bbox[boxes.reflection].T
    has_right = boxes.fast + 1 < fast1
    has_below = boxes.slow + 1 < slow1
    to_right = np.ones_like(fast1)
    to_below = fast1 - fast0

    edges = []
    for step, has_neighbour in ((to_right, has_right), (to_below, has_below)):
        here = np.flatnonzero(bright & has_neighbour)
        there = here + step[here]
        pairs = np.stack([here, there])
        edges.append(pairs[:, bright[there]])

    here, there = np.concatenate(edges, axis=1)
    n_pixels = len(bright)
    is_linked = np.ones(len(here))
    graph = coo_matrix((is_linked, (here, there)), shape=(n_pixels, n_pixels))
    return connected_components(graph, directed=False)[1]
