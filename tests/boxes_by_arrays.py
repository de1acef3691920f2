"""Integration as calls on whole columns of pixels, the reference of the compiled loops: what they
go through one shoebox at a time is here written as products with a sparse matrix.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

from spreadflow.analysis.still.box_loops import (
    FOREIGN,
    FREE,
    LEAST_LEVEL,
    N_CYCLES,
    N_SIGMA,
    OWN,
    PLANE_RIDGE,
)
from spreadflow.analysis.still.footprints import BORDER_PX, Footprints, footprints_of
from spreadflow.analysis.still.integration import LEAST_SHARE, LEAST_VARIANCE
from spreadflow.analysis.still.prediction import HALF_SIZE, Predicted
from spreadflow.analysis.still.tail_loops import PIXEL_VARIANCE
from spreadflow.analysis.still.tails import Tails
from spreadflow.analysis.still.variance import own_variance
from spreadflow.analysis.strength import STRONG_PIXEL
from spreadflow.models import Detector, Noise


class Boxes(NamedTuple):
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


class Pixels(NamedTuple):
    """The contents of the pixels of all shoeboxes; shapes (pixel,)."""

    counts: np.ndarray
    """photons; 0 where not valid"""
    valid: np.ndarray
    """bool, may be used"""
    saturated: np.ndarray
    """bool, above the trusted range"""
    role: np.ndarray
    """`FREE`, `OWN` or `FOREIGN`"""

    @property
    def summed(self) -> np.ndarray:
        """Pixels that make the intensity."""
        return (self.role == OWN) & self.valid

    @property
    def free(self) -> np.ndarray:
        """Pixels that show background."""
        return (self.role == FREE) & self.valid


class Light(NamedTuple):
    """Where the light of spots with tails is."""

    profile: np.ndarray
    """(pixel,) share of the light"""
    share: np.ndarray
    """(reflection,) of the light in the foreground"""
    relative_sigma: np.ndarray
    """(reflection,) of intensities, as the width of the tails is not known better"""
    noise: np.ndarray
    """(reflection,) variance of the foreground's background counts over that without tails"""


class Plane(NamedTuple):
    """Background θ·x with x = (1, fast, slow) relative to the predicted centroid."""

    level: np.ndarray
    """(pixel,) photons"""
    n: np.ndarray
    """(reflection,) background pixels that it was fitted to"""
    covariance: np.ndarray
    """(reflection, 3, 3) of θ"""


class Sums(NamedTuple):
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


class Found(NamedTuple):
    """What a shot's shoeboxes hold."""

    pixels: Pixels
    plane: Plane
    sums: Sums
    centre: np.ndarray
    """(reflection, 2) centre of mass minus the predicted centroid, px"""
    overlap: np.ndarray
    """(reflection,) fraction of the foreground that neighbours own"""


def integrate(
    image: np.ndarray,
    mask: np.ndarray,
    predicted: Predicted,
    detector: Detector,
    *,
    noise: Noise,
    saturation_photons: float = np.inf,
    point_spread: Tails | None = None,
) -> Found:
    """Return what the shoeboxes of a shot hold; arguments as of `integration.integrate`."""
    extents = footprints_of(predicted, detector)
    boxes = boxes_of(predicted, extents, detector.shape)
    role, overlap = roles(boxes, extents, detector.shape)
    address = (boxes.panel, boxes.slow, boxes.fast)
    counts = image[address].astype(np.float64)
    valid = mask[address] & np.isfinite(counts)
    saturated = counts > saturation_photons
    counts[~valid] = 0.0
    pixels = Pixels(counts, valid, saturated, role)
    light = None
    if point_spread is not None:
        profile = profiles(predicted, boxes, extents, pixels, point_spread.width_px)
        share = np.maximum(boxes.sums @ (pixels.summed * profile), LEAST_SHARE)
        kept = point_spread.kept_noise(extents.half_px)
        light = Light(profile, share, point_spread.relative_sigma(share), kept)
    plane = _fit_plane(boxes, pixels, noise, light)
    sums = _sums(boxes, pixels, plane, noise, light)
    return Found(pixels, plane, sums, _centroids(boxes, pixels, plane, noise), overlap)


def boxes_of(predicted: Predicted, footprints: Footprints, shape: tuple[int, int]) -> Boxes:
    """Return the shoeboxes around footprints on panels of this shape (slow, fast)."""
    centre = np.stack([predicted.fast, predicted.slow], axis=-1)
    reach = np.einsum("rk,rkc->rc", footprints.half_px, np.abs(footprints.axes))
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
    return Boxes(
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


def roles(
    boxes: Boxes, footprints: Footprints, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return FREE, OWN or FOREIGN per pixel, and per reflection the fraction of its foreground that
    neighbours own.
    """
    along = np.einsum("pc,pkc->pk", boxes.offset, footprints.axes[boxes.reflection])
    distance = np.abs(along / footprints.half_px[boxes.reflection]).max(axis=1)
    inside = np.flatnonzero(distance <= 1.0)

    n_slow, n_fast = shape
    row = boxes.panel.astype(np.int64) * n_slow + boxes.slow
    pixel = row * n_fast + boxes.fast
    order = np.lexsort((distance[inside], pixel[inside]))
    nearest_first = inside[order]
    claimed, first = np.unique(pixel[nearest_first], return_index=True)
    role = np.where(_contains(claimed, pixel), FOREIGN, FREE).astype(np.uint8)
    role[nearest_first[first]] = OWN

    n_inside = np.bincount(boxes.reflection[inside], minlength=len(footprints.half_px))
    n_own = boxes.sums @ (role == OWN)
    return role, 1.0 - n_own / np.maximum(n_inside, 1)


def _contains(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return whether each value is among the ordered ones, (n,) bool."""
    if not len(ordered):
        return np.zeros(len(values), dtype=bool)
    place = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return ordered[place] == values


def variance(level: np.ndarray, noise: Noise) -> np.ndarray:
    """Return the variance V = b + σ_r² + (ε b)² of pixels that expect a level b of photons."""
    level = np.maximum(level, 0.0)
    return level + noise.readout_photons**2 + (noise.calibration_error * level) ** 2


def deviation(counts: np.ndarray, level: np.ndarray, noise: Noise) -> np.ndarray:
    """Return how many standard deviations counts are from a level: above it by Anscombe's
    transform, for the long tail of few counts; below it as they are, for there is none.
    """
    level = np.maximum(level, 0.0)
    offset = 0.375 + noise.readout_photons**2
    root = np.sqrt(level + offset)

    root_of_counts = np.sqrt(np.maximum(counts, level) + offset)
    above = 2.0 * (root_of_counts - root)
    below = np.minimum(counts - level, 0.0) / root

    from_gains = np.sqrt(1.0 + noise.calibration_error**2 * level)
    return (above + below) / from_gains


def _fit_plane(boxes: Boxes, pixels: Pixels, noise: Noise, light: Light | None = None) -> Plane:
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
        off = deviation(counts, level + of_tail, noise)
        is_fitted = free & (np.abs(off) <= N_SIGMA)

        # a plane near zero would give its lowest pixels all the weight
        n = boxes.sums @ is_fitted
        at_least_one = np.maximum(n, 1)
        mean = (boxes.sums @ (is_fitted * below_tail)) / at_least_one
        least_level = np.maximum(mean, 1.0 / at_least_one) * LEAST_LEVEL
        weighted_level = np.maximum(level, least_level[boxes.reflection])
        expected = weighted_level + np.maximum(of_tail, 0.0)
        weight = is_fitted / variance(expected, noise)

        upper = boxes.sums @ (weight[:, None] * products)
        normal = upper[:, (0, 1, 2, 1, 3, 4, 2, 4, 5)].reshape(-1, 3, 3)
        weighted = weight * below_tail
        right = boxes.sums @ (weighted[:, None] * design)

        covariance = np.linalg.inv(normal + PLANE_RIDGE * np.eye(3))
        theta = np.einsum("rij,rj->ri", covariance, right)
        level = np.einsum("pi,pi->p", design, theta[boxes.reflection])
    return Plane(level, n, covariance)


def _medians(boxes: Boxes, values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return the upper median (reflection,) of each shoebox's values among the pixels marked; 0
    where there are none.
    """
    medians = np.zeros(len(boxes.bbox))
    for number in range(len(medians)):
        own = np.sort(values[among & (boxes.reflection == number)])
        medians[number] = own[len(own) // 2] if len(own) else 0.0
    return medians


def _sums(boxes: Boxes, pixels: Pixels, plane: Plane, noise: Noise, light: Light | None) -> Sums:
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
    sigma_background = np.sqrt(rest)

    from_gains = noise.calibration_error**2 * (boxes.sums @ (summed * counts**2))
    if light is not None:
        intensity = intensity / light.share
        rest = rest / light.share**2
        from_gains = from_gains / light.share**2 + (light.relative_sigma * intensity) ** 2
    own = own_variance(intensity, rest)
    return Sums(
        intensity=intensity,
        sigma=np.sqrt(rest + own + from_gains),
        sigma_background=sigma_background,
        background=below / np.maximum(n, 1),
        n=n,
    )


def _centroids(boxes: Boxes, pixels: Pixels, plane: Plane, noise: Noise) -> np.ndarray:
    """Return the centre of mass, minus the predicted centroid, of the pixels > 2 σ that are
    connected with the highest one: (reflection, 2) px.

    The highest pixel is sought in the foreground; the connected region is the data's own and may
    leave it.
    """
    signal = pixels.counts - plane.level
    sigma = np.sqrt(variance(plane.level, noise))
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


def profiles(
    predicted: Predicted, boxes: Boxes, extents: Footprints, pixels: Pixels, width: float
) -> np.ndarray:
    """Return the share of its spot's light that each pixel holds, (pixel,), for a point spread of a
    width, px; 0 where it is neither summed nor free.
    """
    sigma = np.stack([predicted.radial_px, predicted.transverse_px], axis=-1) / HALF_SIZE
    profile = np.zeros(len(pixels.counts))
    for rows, added, share in (
        (np.flatnonzero(pixels.summed), PIXEL_VARIANCE, _within),
        (np.flatnonzero(pixels.free), 2.0 * PIXEL_VARIANCE, _density),
    ):
        spread = np.sqrt(sigma**2 + added)
        arms = (spread[:, :, None] * extents.axes)[boxes.reflection[rows]]
        for radial in (-1.0, 1.0):
            for transverse in (-1.0, 1.0):
                place = boxes.offset[rows] - radial * arms[:, 0] - transverse * arms[:, 1]
                profile[rows] += 0.25 * share(place, width)
    return profile


def _corner(x: np.ndarray, y: np.ndarray, width: float) -> np.ndarray:
    """Return the integral of the point spread from 0 to x and from 0 to y."""
    return np.arctan(x * y / (width * np.sqrt(width**2 + x * x + y * y))) / (2.0 * np.pi)


def _within(place: np.ndarray, width: float) -> np.ndarray:
    """Return the share of the light that comes from places (n, 2) within the pixel about 0."""
    x0, y0 = (place - 0.5).T
    x1, y1 = (place + 0.5).T
    high = _corner(x1, y1, width) - _corner(x0, y1, width)
    low = _corner(x1, y0, width) - _corner(x0, y0, width)
    return high - low


def _density(place: np.ndarray, width: float) -> np.ndarray:
    """Return the point spread at places (n, 2), 1/px²."""
    square = width**2 + place[:, 0] ** 2 + place[:, 1] ** 2
    return width / (2.0 * np.pi) / (square * np.sqrt(square))
