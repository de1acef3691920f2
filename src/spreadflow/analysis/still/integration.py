"""Summation integration of stills: elongated foregrounds, a robust plane below them, honest σ.

All shoeboxes of a shot are one flat list of pixels (reflection by reflection, slow outer, fast
inner), so that every sum over shoeboxes is one product with a sparse matrix and nothing is padded.

Rossmann (1979) J. Appl. Cryst. 12, 225 (plane); Anscombe (1948) Biometrika 35, 246 (outliers of a
Poisson variable).
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

from spreadflow.analysis.still.prediction import Predicted
from spreadflow.models import Detector, ReflectionFlag, Reflections
from spreadflow.physics.geometry import radial_axes

EXTENT = 1.5
"""Half size of a foreground in predicted half sizes, beyond its margin. These hold 98 %; half as
much again and a pixel hold all but 1e-4, little beside the gain errors of the strongest spots. More
costs precision: the background under weak spots.
"""

MARGIN_PX = 1.0
"""Margin of a foreground around the predicted spot, px."""

BORDER_PX = 4
"""Width of the frame that the background of a shoebox is taken from, px."""

N_SIGMA = 4.0
"""Background pixels further than this from the plane, in their standard deviations, are left out.
"""

N_CYCLES = 4
"""Cycles of reweighting and outlier rejection that fit a plane."""

MIN_BACKGROUND = 12
"""Pixels a plane needs."""

MAX_OVERLAP = 0.1
"""Fraction of a foreground that neighbours may take before the reflection is flagged."""

STRONG = 5.0
"""I/σ from which an observed centroid is given."""

BRIGHT = 2.0
"""Standard deviations above background from which a pixel belongs to the spot whose centroid is
observed.
"""

LEAST_VARIANCE = 1.0
"""Photons²; least variance of an intensity: nothing is known better where nothing was counted."""

PLANE_RIDGE = 1e-8
"""Restraint of a plane that matters only where the pixels do not determine one (slope 0 ± 10⁴
photons/px).
"""

LEAST_LEVEL = 0.2
"""Fraction of a shoebox's mean background below which weights no longer follow the plane."""

ANSCOMBE = 0.375
"""Photons added to counts under the root of Anscombe's transform."""

KEY_STEP = 1 << 24
"""Distance of the keys of two reflections where one sort orders pixels by reflection, then by
value: no count that matters lies beyond ± half of it.
"""

FREE = 0
"""The pixel is in nobody's foreground."""

OWN = 1
"""The pixel is in the foreground of the reflection."""

FOREIGN = 2
"""The pixel is in the foreground of a neighbour only."""


class _Footprints(NamedTuple):
    """Rotated rectangles that hold spots, around their predicted centroids."""

    axes: np.ndarray
    """(reflection, 2, 2) rows radial, transverse in (fast, slow)"""
    half: np.ndarray
    """(reflection, 2) half sizes along them, px"""


class _Boxes(NamedTuple):
    """The pixels of all shoeboxes."""

    bbox: np.ndarray
    """(reflection, 4) int fast0 fast1 slow0 slow1, half open, within the panel"""
    is_cut: np.ndarray
    """(reflection,) the footprint reaches beyond the panel"""
    reflection: np.ndarray
    """(pixel,) row of the reflection"""
    panel: np.ndarray
    """(pixel,)"""
    slow: np.ndarray
    """(pixel,)"""
    fast: np.ndarray
    """(pixel,)"""
    offset: np.ndarray
    """(pixel, 2) fast, slow of the pixel's centre minus the predicted centroid, px"""
    sums: csr_matrix
    """(reflection, pixel) ones: `sums @ x` adds x over each shoebox"""


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
    """the part of σ that is not the signal's own, photons"""
    background: np.ndarray
    """mean under the peak, photons per pixel"""
    n: np.ndarray
    """pixels"""


class _Noise(NamedTuple):
    """The sources of a pixel's variance, V = b + σ_r² + (ε b)²."""

    readout: float
    """σ_r, photons"""
    calibration: float
    """ε"""

    def variance(self, level: np.ndarray) -> np.ndarray:
        """Return the variance of pixels that expect a level of photons."""
        level = np.maximum(level, 0.0)
        return level + self.readout**2 + (self.calibration * level) ** 2

    def deviation(self, counts: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Return how many standard deviations counts are from a level: above it by Anscombe's
        transform, for the long tail of few counts; below it as they are, for there is none.
        """
        level = np.maximum(level, 0.0)
        offset = ANSCOMBE + self.readout**2
        root = np.sqrt(level + offset)

        root_of_counts = np.sqrt(np.maximum(counts, level) + offset)
        above = 2.0 * (root_of_counts - root)
        below = np.minimum(counts - level, 0.0) / root

        from_gains = np.sqrt(1.0 + self.calibration**2 * level)
        return (above + below) / from_gains


def integrate(
    image: np.ndarray,
    mask: np.ndarray,
    predicted: Predicted,
    detector: Detector,
    *,
    saturation_photons: float = np.inf,
    calibration_error: float = 0.01,
    readout_photons: float = 1.0,
) -> Reflections:
    """Sum the photons above background of every predicted reflection of a shot.

    image: (panel, slow, fast) photons. mask: the same shape, True = may be used. predicted:
    reflections of *all* lattices of the shot, so that neighbours are known; a contested pixel goes
    to the nearer centroid (in units of the footprints). calibration_error: relative pixel-to-pixel
    gain error ε. readout_photons: σ_r of the readout noise.

    I = Σ (c - b), σ² = σ_b² + f(I) + ε² Σ c², σ_b² = Σ b + n σ_r² + (Σ x)ᵀ Cov(θ) (Σ x), sums over
    the foreground. f is the signal's own Poisson variance, I³/(I² + 4σ_b²) for I > 0: I for what
    stands out of the background's noise, nothing for what does not. With f = I, σ would follow the
    noise and means weighted by 1/σ² come out low.

    The intensity of a reflection with a bit of `ReflectionFlag.FAILED` is finite, but not to be
    used.
    """
    noise = _Noise(readout_photons, calibration_error)
    footprints = _footprints(predicted, detector)
    boxes = _boxes(predicted, footprints, detector.shape)
    role, overlap = _roles(boxes, footprints, detector.shape)

    address = (boxes.panel, boxes.slow, boxes.fast)
    counts = image[address].astype(np.float64)
    valid = mask[address] & np.isfinite(counts)
    saturated = counts > saturation_photons
    counts[~valid] = 0.0
    pixels = _Pixels(counts, valid, saturated, role)

    plane = _fit_plane(boxes, counts, (role == FREE) & valid, noise)
    sums = _sums(boxes, pixels, plane, noise)
    flags = (
        ReflectionFlag.EDGE * _at_edge(boxes.bbox, detector.shape)
        | ReflectionFlag.OVERLAP * (overlap > MAX_OVERLAP)
        | _failures(boxes, pixels, plane, sums)
    )
    observed = _centroids(boxes, pixels, plane, noise)
    is_weak = sums.intensity < STRONG * sums.sigma
    observed[is_weak | (flags & ReflectionFlag.FAILED > 0)] = np.nan
    as_predicted = [name for name in Reflections._fields if name in Predicted._fields]
    return Reflections(
        **{name: getattr(predicted, name) for name in as_predicted},
        fast_obs=predicted.fast + observed[:, 0],
        slow_obs=predicted.slow + observed[:, 1],
        intensity=sums.intensity,
        sigma=sums.sigma,
        background=sums.background,
        n_foreground=sums.n.astype(np.int32),
        bbox=boxes.bbox.astype(np.int32),
        flags=flags.astype(np.int32),
    )


def shoeboxes(predicted: Predicted, detector: Detector) -> np.ndarray:
    """Return the shoeboxes (reflection, 4) that `integrate` makes: fast0 fast1 slow0 slow1, half
    open, px.
    """
    footprints = _footprints(predicted, detector)
    return _boxes(predicted, footprints, detector.shape).bbox


# ---------------------------------------------------------------- pixels


def _footprints(predicted: Predicted, detector: Detector) -> _Footprints:
    """Return the foregrounds of predicted reflections."""
    axes = radial_axes(detector, predicted.panel, predicted.fast, predicted.slow)
    half_sizes = [predicted.radial_px, predicted.transverse_px]
    half = EXTENT * np.stack(half_sizes, axis=-1) + MARGIN_PX
    return _Footprints(axes, half)


def _at_edge(bbox: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return whether a shoebox touches its panel's edge, (reflection,) bool."""
    at_start = (bbox[:, ::2] == 0).any(axis=1)
    at_end = (bbox[:, 1::2] == shape[::-1]).any(axis=1)
    return at_start | at_end


def _failures(boxes: _Boxes, pixels: _Pixels, plane: _Plane, sums: _Sums) -> np.ndarray:
    """Return the bits of `ReflectionFlag.FAILED` of each reflection."""
    own = pixels.role == OWN
    n_lost = boxes.sums @ (own & ~pixels.valid)
    n_saturated = boxes.sums @ (own & pixels.saturated)
    is_masked = (n_lost > 0) | boxes.is_cut | (sums.n == 0)
    is_dark = sums.background * sums.n < -STRONG * sums.sigma_background
    is_without_background = (plane.n < MIN_BACKGROUND) | is_dark
    return (
        ReflectionFlag.MASKED * is_masked
        | ReflectionFlag.SATURATED * (n_saturated > 0)
        | ReflectionFlag.BACKGROUND * is_without_background
    )


def _boxes(predicted: Predicted, footprints: _Footprints, shape: tuple[int, int]) -> _Boxes:
    """Return the shoeboxes around footprints on panels of this shape (slow, fast)."""
    centre = np.stack([predicted.fast, predicted.slow], axis=-1)
    reach = np.einsum("rk,rkc->rc", footprints.half, np.abs(footprints.axes))
    limit = np.array(shape[::-1])

    low = np.floor(centre - reach).astype(int)
    high = np.ceil(centre + reach).astype(int)
    is_cut = ((low < 0) | (high > limit)).any(axis=1)
    low = np.clip(low - BORDER_PX, 0, limit - 1)
    high = np.clip(high + BORDER_PX, 1, limit)

    first, reflection, fast, slow = _listed(low, high)
    position = np.stack([fast, slow], axis=-1) + 0.5
    n_pixels = len(reflection)
    ones = np.ones(n_pixels)
    return _Boxes(
        bbox=np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=-1),
        is_cut=is_cut,
        reflection=reflection,
        panel=predicted.panel[reflection],
        slow=slow,
        fast=fast,
        offset=position - centre[reflection],
        sums=csr_matrix((ones, np.arange(n_pixels), first), shape=(len(low), n_pixels)),
    )


def _listed(
    low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the pixels of all boxes in one list, slow outer and fast inner: the first of each box
    (box + 1,), the box, fast and slow of each pixel (pixel,).

    low, high: (box, 2) fast, slow; high is not within.
    """
    width, height = (high - low).T
    n_pixels = width * height
    first = np.concatenate([[0], np.cumsum(n_pixels)])
    box = np.repeat(np.arange(len(low)), n_pixels)

    in_box = np.arange(first[-1]) - first[box]
    fast = low[box, 0] + in_box % width[box]
    slow = low[box, 1] + in_box // width[box]
    return first, box, fast, slow


def _roles(
    boxes: _Boxes, footprints: _Footprints, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return FREE, OWN or FOREIGN per pixel, and per reflection the fraction of its foreground that
    neighbours own.
    """
    along = np.einsum("pc,pkc->pk", boxes.offset, footprints.axes[boxes.reflection])
    distance = np.abs(along / footprints.half[boxes.reflection]).max(axis=1)
    inside = np.flatnonzero(distance <= 1.0)

    n_slow, n_fast = shape
    row = boxes.panel.astype(np.int64) * n_slow + boxes.slow
    pixel = row * n_fast + boxes.fast
    order = np.lexsort((distance[inside], pixel[inside]))
    nearest_first = inside[order]
    claimed, first = np.unique(pixel[nearest_first], return_index=True)
    role = np.where(_contains(claimed, pixel), FOREIGN, FREE).astype(np.uint8)
    role[nearest_first[first]] = OWN

    n_inside = np.bincount(boxes.reflection[inside], minlength=len(footprints.half))
    n_own = boxes.sums @ (role == OWN)
    return role, 1.0 - n_own / np.maximum(n_inside, 1)


def _contains(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return whether each value is among the ordered ones, (n,) bool."""
    if not len(ordered):
        return np.zeros(len(values), dtype=bool)
    place = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return ordered[place] == values


# ---------------------------------------------------------------- background


def _fit_plane(boxes: _Boxes, counts: np.ndarray, free: np.ndarray, noise: _Noise) -> _Plane:
    """Return the plane through the free pixels of each shoebox by weighted least squares, outliers
    left out.

    It starts from the median. Weights come from the plane itself: weighting by the counts instead
    would be low by about one photon.
    """
    one = np.ones((len(counts), 1))
    design = np.concatenate([one, boxes.offset], axis=1)
    products = design[:, (0, 0, 0, 1, 1, 2)] * design[:, (0, 1, 2, 1, 2, 2)]
    products = np.ascontiguousarray(products)

    level = _medians(boxes, counts, free)[boxes.reflection]
    for _ in range(N_CYCLES):
        deviation = noise.deviation(counts, level)
        is_fitted = free & (np.abs(deviation) <= N_SIGMA)

        # a plane near zero would give its lowest pixels all the weight
        n = boxes.sums @ is_fitted
        at_least_one = np.maximum(n, 1)
        mean = (boxes.sums @ (is_fitted * counts)) / at_least_one
        least_level = np.maximum(mean, 1.0 / at_least_one) * LEAST_LEVEL
        weighted_level = np.maximum(level, least_level[boxes.reflection])
        weight = is_fitted / noise.variance(weighted_level)

        upper = boxes.sums @ (weight[:, None] * products)
        normal = upper[:, (0, 1, 2, 1, 3, 4, 2, 4, 5)].reshape(-1, 3, 3)
        weighted = weight * counts
        right = boxes.sums @ (weighted[:, None] * design)

        covariance = np.linalg.inv(normal + PLANE_RIDGE * np.eye(3))
        theta = np.einsum("rij,rj->ri", covariance, right)
        level = np.einsum("pi,pi->p", design, theta[boxes.reflection])
    return _Plane(level, n, covariance)


def _medians(boxes: _Boxes, values: np.ndarray, among: np.ndarray) -> np.ndarray:
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


def own_variance(intensity: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Return the variance that the signal's own photons add to `rest`: I for strong spots, nothing
    for spots that are not there.

    I itself, counted, would make what fluctuates down look better known, and pull empty spots below
    zero.
    """
    signal = np.maximum(intensity, 0.0)
    return signal**3 / (signal**2 + 4.0 * rest)


def rest_variance(intensity: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return the variance of an integrated intensity without what `own_variance` added to it (its
    inverse).
    """
    signal = np.maximum(intensity, 0.0).astype(np.float64)

    # the larger root of 4 r² + (I² − 4 v) r − I² (v − I) = 0
    half = 0.125 * (4.0 * variance - signal**2)
    product = signal**2 * (variance - signal)
    product = np.maximum(product, -4.0 * half**2)
    return half + np.sqrt(half**2 + 0.25 * product)


def _sums(boxes: _Boxes, pixels: _Pixels, plane: _Plane, noise: _Noise) -> _Sums:
    """Return the intensities of all reflections."""
    counts = pixels.counts
    summed = pixels.summed
    n = boxes.sums @ summed
    intensity = boxes.sums @ (summed * (counts - plane.level))
    below = boxes.sums @ (summed * plane.level)

    offsets = boxes.sums @ (summed[:, None] * boxes.offset)
    lever = np.stack([n, *offsets.T], axis=-1)
    from_plane = np.einsum("ri,rij,rj->r", lever, plane.covariance, lever)
    rest = np.maximum(below, 0.0) + n * noise.readout**2 + from_plane
    rest = np.maximum(rest, LEAST_VARIANCE)

    own = own_variance(intensity, rest)
    from_gains = noise.calibration**2 * (boxes.sums @ (summed * counts**2))
    return _Sums(
        intensity=intensity,
        sigma=np.sqrt(rest + own + from_gains),
        sigma_background=np.sqrt(rest),
        background=below / np.maximum(n, 1),
        n=n,
    )


# ---------------------------------------------------------------- centroids


def _centroids(boxes: _Boxes, pixels: _Pixels, plane: _Plane, noise: _Noise) -> np.ndarray:
    """Return the centre of mass, minus the predicted centroid, of the pixels > 2 σ that are
    connected with the highest one: (reflection, 2) px.

    The highest pixel is sought in the foreground; the connected region is the data's own and may
    leave it.
    """
    signal = pixels.counts - plane.level
    sigma = np.sqrt(noise.variance(plane.level))
    height = np.where(pixels.summed, signal / sigma, -np.inf)
    order = np.lexsort((-height, boxes.reflection))
    highest = order[boxes.sums.indptr[:-1]]

    usable = pixels.valid & (pixels.role != FOREIGN)
    bright = usable & (signal > BRIGHT * sigma)
    bright[highest] = True

    label = _connected(boxes, bright)
    is_spot = bright & (label == label[highest][boxes.reflection])
    weight = np.where(is_spot, np.maximum(signal, 0.0), 0.0)

    total = boxes.sums @ weight
    weighted = boxes.sums @ (weight[:, None] * boxes.offset)
    return weighted / np.maximum(total, 1e-9)[:, None]


def _connected(boxes: _Boxes, bright: np.ndarray) -> np.ndarray:
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
