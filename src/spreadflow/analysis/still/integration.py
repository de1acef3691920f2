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

N_CYCLES = 4
"""Of reweighting and outlier rejection."""

MIN_BACKGROUND = 12
"""Pixels a plane needs."""

MAX_OVERLAP = 0.1
"""Fraction of a foreground that neighbours may take before the reflection is flagged."""

STRONG = 5.0
"""I/σ from which an observed centroid is given."""

EXTENT = 1.5
"""Half size of a foreground in predicted standard deviations, beyond its margin."""

MARGIN_PX = 1.0
"""Margin of a foreground around the predicted spot, px."""

BORDER_PX = 4
"""Width of the frame that the background of a shoebox is taken from, px."""

FREE = 0
"""The pixel is in nobody's foreground."""

OWN = 1
"""The pixel is in the foreground of the reflection."""

FOREIGN = 2
"""The pixel is in the foreground of a neighbour only."""


class _Boxes(NamedTuple):
    """The pixels of all shoeboxes."""

    bbox: np.ndarray
    """(reflection, 4) int fast0 fast1 slow0 slow1, half open, within the panel"""
    reflection: np.ndarray
    """(pixel,) row of the reflection"""
    panel: np.ndarray
    slow: np.ndarray
    fast: np.ndarray
    offset: np.ndarray
    """(pixel, 2) fast, slow of the pixel's centre minus the predicted centroid, px"""
    sums: csr_matrix
    """(reflection, pixel) ones: `sums @ x` adds x over each shoebox"""


class _Plane(NamedTuple):
    """Background θ·x with x = (1, fast, slow) relative to the predicted centroid."""

    level: np.ndarray
    """(pixel,) photons"""
    n: np.ndarray
    """(reflection,) background pixels that were kept"""
    covariance: np.ndarray
    """(reflection, 3, 3) of θ"""


class _Noise(NamedTuple):
    """What makes a pixel's variance: V = b + σ_r² + (ε b)²."""

    readout: float
    calibration: float

    def variance(self, level: np.ndarray) -> np.ndarray:
        level = np.maximum(level, 0.0)
        return level + self.readout**2 + (self.calibration * level) ** 2

    def deviation(self, counts: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Return standard deviations of counts from a level: above it by Anscombe's transform, for
        the long tail of few counts; below it as they are, for there is none.
        """
        level = np.maximum(level, 0.0)
        offset = 0.375 + self.readout**2
        above = 2.0 * (np.sqrt(np.maximum(counts, level) + offset) - np.sqrt(level + offset))
        below = np.minimum(counts - level, 0.0) / np.sqrt(level + offset)
        return (above + below) / np.sqrt(1.0 + self.calibration**2 * level)


def integrate(
    image: np.ndarray,
    mask: np.ndarray,
    predicted: Predicted,
    *,
    detector: Detector,
    saturation_photons: float = np.inf,
    calibration_error: float = 0.01,
    readout_photons: float = 1.0,
    extent: float = 1.5,
    margin_px: float = 1.0,
    border_px: int = BORDER_PX,
    n_sigma: float = 4.0,
) -> Reflections:
    """Sum the photons above background of every predicted reflection of a shot.

    image: (panel, slow, fast) photons. mask: same, True = may be used. predicted: reflections of
    *all* lattices of the shot, so that neighbours are known; a contested pixel goes to the nearer
    centroid (in units of the footprints). calibration_error: relative pixel-to-pixel gain error ε.
    readout_photons: σ_r of the readout noise. extent, margin_px: the foreground reaches extent ·
    (predicted half size) + margin from the centroid. Predicted half sizes hold 98 %; half as much
    again and a pixel hold all but 1e-4, little beside the gain errors of the strongest spots. More
    costs precision: the background under weak spots. border_px: width of the frame the background
    is taken from. n_sigma: background pixels further than this from the plane, after Anscombe's
    transform, are left out.

    I = Σ (c - b), σ² = σ_b² + f(I) + ε² Σ c², σ_b² = Σ b + n σ_r² + (Σ x)ᵀ Cov(θ) (Σ x), sums over
    the foreground. f is the signal's own Poisson variance, I³/(I² + 4σ_b²) for I > 0: I for what
    stands out of the background's noise, nothing for what does not. With f = I, σ would follow the
    noise and means weighted by 1/σ² come out low.

    The intensity of a reflection with a bit of `ReflectionFlag.FAILED` is finite, but not to be
    used.
    """
    noise = _Noise(readout_photons, calibration_error)
    axes, half = _footprints(predicted, detector, extent, margin_px)
    boxes, cut = _boxes(predicted, axes, half, border_px, detector.shape)
    role, overlap = _roles(boxes, axes, half, detector.shape)

    counts = image[boxes.panel, boxes.slow, boxes.fast].astype(np.float64)
    valid = mask[boxes.panel, boxes.slow, boxes.fast] & np.isfinite(counts)
    saturated = (role == OWN) & (counts > saturation_photons)
    counts[~valid] = 0.0
    plane = _fit_plane(boxes, counts, (role == FREE) & valid, noise, n_sigma)
    summed = (role == OWN) & valid
    intensity, sigma, sigma_b, background = _sums(boxes, counts, summed, plane, noise)

    n = boxes.sums @ summed
    flags = (
        ReflectionFlag.EDGE * _at_edge(boxes.bbox, detector.shape)
        | ReflectionFlag.MASKED * ((boxes.sums @ ((role == OWN) & ~valid) > 0) | cut | (n == 0))
        | ReflectionFlag.SATURATED * (boxes.sums @ saturated > 0)
        | ReflectionFlag.OVERLAP * (overlap > MAX_OVERLAP)
        | ReflectionFlag.BACKGROUND
        * ((plane.n < MIN_BACKGROUND) | (background * n < -STRONG * sigma_b))
    )
    above = counts - plane.level
    spread = np.sqrt(noise.variance(plane.level))
    observed = _centroids(boxes, above, spread, summed, valid & (role != FOREIGN))
    observed[(intensity < STRONG * sigma) | (flags & ReflectionFlag.FAILED > 0)] = np.nan
    return Reflections(
        **{
            name: getattr(predicted, name)
            for name in Reflections._fields
            if name in Predicted._fields
        },
        fast_obs=predicted.fast + observed[:, 0],
        slow_obs=predicted.slow + observed[:, 1],
        intensity=intensity,
        sigma=sigma,
        background=background,
        n_foreground=n.astype(np.int32),
        bbox=boxes.bbox.astype(np.int32),
        flags=flags.astype(np.int32),
    )


def shoeboxes(predicted: Predicted, detector: Detector) -> np.ndarray:
    """Return (reflection, 4) fast0 fast1 slow0 slow1, half open, px: the shoeboxes that `integrate`
    makes.
    """
    axes, half = _footprints(predicted, detector, EXTENT, MARGIN_PX)
    return _boxes(predicted, axes, half, BORDER_PX, detector.shape)[0].bbox


def _footprints(predicted: Predicted, detector: Detector, extent: float, margin_px: float):
    """Return rotated rectangles that hold spots: (reflection, 2, 2) rows radial, transverse;
    (reflection, 2) half sizes.
    """
    axes = radial_axes(detector, predicted.panel, predicted.fast, predicted.slow)
    return axes, extent * np.stack(
        [predicted.radial_px, predicted.transverse_px], axis=-1
    ) + margin_px


def _at_edge(bbox: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return (reflection,) bool: the shoebox touches the panel's edge."""
    return (bbox[:, ::2] == 0).any(axis=1) | (bbox[:, 1::2] == shape[::-1]).any(axis=1)


def _boxes(
    predicted, axes, half, border_px: int, shape: tuple[int, int]
) -> tuple[_Boxes, np.ndarray]:
    """Return shoeboxes around the rotated rectangles, and whether a rectangle reaches beyond the
    panel.

    axes: (reflection, 2, 2) rows radial, transverse in (fast, slow). half: (reflection, 2) px along
    them.
    """
    centre = np.stack([predicted.fast, predicted.slow], axis=-1)
    reach = np.einsum("rk,rkc->rc", half, np.abs(axes))
    limit = np.array(shape[::-1])
    low, high = np.floor(centre - reach).astype(int), np.ceil(centre + reach).astype(int)
    cut = ((low < 0) | (high > limit)).any(axis=1)
    low, high = np.clip(low - border_px, 0, limit - 1), np.clip(high + border_px, 1, limit)
    width, height = (high - low).T
    first = np.concatenate([[0], np.cumsum(width * height)])
    reflection = np.repeat(np.arange(len(low)), width * height)
    k = np.arange(first[-1]) - first[reflection]
    fast, slow = (
        low[reflection, 0] + k % width[reflection],
        low[reflection, 1] + k // width[reflection],
    )
    offset = np.stack([fast, slow], axis=-1) + 0.5 - centre[reflection]
    sums = csr_matrix((np.ones(len(k)), np.arange(len(k)), first), shape=(len(low), len(k)))
    bbox = np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=-1)
    return _Boxes(bbox, reflection, predicted.panel[reflection], slow, fast, offset, sums), cut


def _roles(boxes: _Boxes, axes, half, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return FREE, OWN or FOREIGN per pixel, and per reflection the fraction of its foreground that
    neighbours own.
    """
    along = np.einsum("pc,pkc->pk", boxes.offset, axes[boxes.reflection])
    distance = np.abs(along / half[boxes.reflection]).max(axis=1)
    inside = np.flatnonzero(distance <= 1.0)
    pixel = (boxes.panel.astype(np.int64) * shape[0] + boxes.slow) * shape[1] + boxes.fast
    nearest_first = inside[np.lexsort((distance[inside], pixel[inside]))]
    taken, first = np.unique(pixel[nearest_first], return_index=True)
    role = np.where(_contains(taken, pixel), FOREIGN, FREE).astype(np.uint8)
    role[nearest_first[first]] = OWN
    claimed = np.bincount(boxes.reflection[inside], minlength=len(half))
    owned = boxes.sums @ (role == OWN)
    return role, 1.0 - owned / np.maximum(claimed, 1)


def _contains(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return (n,) bool: whether each value is among the ordered ones."""
    if not len(ordered):
        return np.zeros(len(values), dtype=bool)
    return ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values


def _fit_plane(boxes: _Boxes, counts, free, noise: _Noise, n_sigma: float) -> _Plane:
    """Return weighted least squares plane through the free pixels, weights from the plane itself,
    outliers left out.

    Starts from the median. Weighting by the counts instead of the model would be low by about one
    photon.
    """
    design = np.concatenate([np.ones((len(counts), 1)), boxes.offset], axis=1)
    pairs = np.ascontiguousarray(design[:, (0, 0, 0, 1, 1, 2)] * design[:, (0, 1, 2, 1, 2, 2)])
    level = _medians(boxes, counts, free)[boxes.reflection]
    for _ in range(N_CYCLES):
        kept = free & (np.abs(noise.deviation(counts, level)) <= n_sigma)
        n = boxes.sums @ kept
        mean = (boxes.sums @ (kept * counts)) / np.maximum(n, 1)
        floor = (np.maximum(mean, 1.0 / np.maximum(n, 1)) * 0.2)[boxes.reflection]
        weight = kept / noise.variance(np.maximum(level, floor))
        normal = (boxes.sums @ (weight[:, None] * pairs))[:, (0, 1, 2, 1, 3, 4, 2, 4, 5)].reshape(
            -1, 3, 3
        )
        right = boxes.sums @ ((weight * counts)[:, None] * design)
        # a ridge that only matters where the pixels do not determine a plane (slope 0 ± 10⁴
        # photons/px)
        covariance = np.linalg.inv(normal + 1e-8 * np.eye(3))
        theta = np.einsum("rij,rj->ri", covariance, right)
        level = np.einsum("pi,pi->p", design, theta[boxes.reflection])
    return _Plane(level, n, covariance)


def _medians(boxes: _Boxes, values, among) -> np.ndarray:
    """Return (reflection,) median of each shoebox's values among the pixels marked; 0 where there
    are none.
    """
    reflection = boxes.reflection[among]
    step = (
        1 << 24
    )  # one key sorts by reflection, then by value: no count that matters lies beyond ± 2²³
    values = np.sort(reflection * float(step) + np.clip(values[among], -step / 2, step / 2 - 1))
    n = np.bincount(reflection, minlength=len(boxes.bbox))
    some = np.flatnonzero(n)
    out = np.zeros(len(n))
    out[some] = values[(np.cumsum(n) - n + n // 2)[some]] - some * float(step)
    return out


def own_variance(intensity: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Return variance the signal's own photons add to `rest`: I for strong spots, nothing for spots
    that are not there.

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
    half = 0.125 * (4.0 * variance - signal**2)
    return half + np.sqrt(
        half**2 + 0.25 * np.maximum(signal**2 * (variance - signal), -4.0 * half**2)
    )


def _sums(boxes: _Boxes, counts, summed, plane: _Plane, noise: _Noise) -> tuple[np.ndarray, ...]:
    """Return intensity, σ, the part of σ that is not the signal's own, and mean background under
    the peak.
    """
    n = boxes.sums @ summed
    intensity = boxes.sums @ (summed * (counts - plane.level))
    below = boxes.sums @ (summed * plane.level)
    lever = np.stack([n, *(boxes.sums @ (summed[:, None] * boxes.offset)).T], axis=-1)
    from_plane = np.einsum("ri,rij,rj->r", lever, plane.covariance, lever)
    variance = np.maximum(below, 0.0) + n * noise.readout**2 + from_plane
    variance = np.maximum(
        variance, 1.0
    )  # one photon: nothing is known better where nothing was counted
    own = own_variance(intensity, variance)
    gain = noise.calibration**2 * (boxes.sums @ (summed * counts**2))
    return intensity, np.sqrt(variance + own + gain), np.sqrt(variance), below / np.maximum(n, 1)


def _centroids(boxes: _Boxes, above, sigma, summed, usable) -> np.ndarray:
    """Return (reflection, 2) centre of mass minus predicted centroid, px, of the pixels > 2σ
    connected with the highest one.

    The highest pixel is sought in the foreground; the connected region is the data's own and may
    leave it.
    """
    top = np.where(summed, above / sigma, -np.inf)
    order = np.lexsort((-top, boxes.reflection))
    seed = order[boxes.sums.indptr[:-1]]
    strong = usable & (above > 2.0 * sigma)
    strong[seed] = True
    width = (boxes.bbox[:, 1] - boxes.bbox[:, 0])[boxes.reflection]
    right = boxes.fast + 1 < boxes.bbox[boxes.reflection, 1]
    down = boxes.slow + 1 < boxes.bbox[boxes.reflection, 3]
    edges = []
    for step, possible in ((np.ones_like(width), right), (width, down)):
        here = np.flatnonzero(strong & possible)
        there = here + step[here]
        edges.append(np.stack([here, there])[:, strong[there]])
    here, there = np.concatenate(edges, axis=1)
    n = len(above)
    _, label = connected_components(
        coo_matrix((np.ones(len(here)), (here, there)), shape=(n, n)), directed=False
    )
    weight = np.where(
        strong & (label == label[seed][boxes.reflection]), np.maximum(above, 0.0), 0.0
    )
    total = boxes.sums @ weight
    return (boxes.sums @ (weight[:, None] * boxes.offset)) / np.maximum(total, 1e-9)[:, None]
