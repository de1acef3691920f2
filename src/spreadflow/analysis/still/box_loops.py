"""Compiled loops over the pixels of shoeboxes: whose each pixel is, the plane below a spot, the
sums over its foreground, and its centroid (`integration`).

The pixels of all shoeboxes are one flat list, box after box, slow outer and fast inner, of which
`first` (box + 1,) says where each begins. A loop takes one box after the other, whose few hundred
pixels stay in the processor's cache. Sums are formed in the order of pixels.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.matrix_loops import invert
from spreadflow.physics.compiling import compiled, inlined

FREE = 0
"""The pixel is in nobody's foreground."""

OWN = 1
"""The pixel is in the foreground of the reflection."""

FOREIGN = 2
"""The pixel is in the foreground of a neighbour only."""

N_SIGMA = 4.0
"""Background pixels further than this from the plane, in their standard deviations, are left out.
"""

N_CYCLES = 4
"""Cycles of reweighting and outlier rejection that fit a plane."""

LEAST_LEVEL = 0.2
"""Fraction of a shoebox's mean background below which weights no longer follow the plane."""

PLANE_RIDGE = 1e-8
"""Restraint of the plane of a background, which matters only where the pixels do not determine one
(slope 0 ± 10⁴ photons/px).
"""

ANSCOMBE = 0.375
"""Photons added to counts under the root of Anscombe's transform."""


class Boxes(NamedTuple):
    """Where shoeboxes and the footprints within them are."""

    bbox: np.ndarray
    """(box, 4) int64 fast0 fast1 slow0 slow1, half open, within the panel"""
    first: np.ndarray
    """(box + 1,) int64 the first pixel of each box in the list of all, and the end"""
    panel: np.ndarray
    """(box,)"""
    centre: np.ndarray
    """(box, 2) predicted centroid fast, slow, px"""
    axes: np.ndarray
    """(box, 2, 2) of the footprint, rows radial, transverse in (fast, slow)"""
    half_px: np.ndarray
    """(box, 2) half sizes of the footprint along them"""


class Pixels(NamedTuple):
    """The contents of the pixels of all shoeboxes; shapes (pixel,)."""

    counts: np.ndarray
    """float64 photons; 0 where not valid"""
    valid: np.ndarray
    """bool, may be used"""
    saturated: np.ndarray
    """bool, above the trusted range"""
    role: np.ndarray
    """uint8 `FREE`, `OWN` or `FOREIGN`"""


class Variances(NamedTuple):
    """The noise of a pixel."""

    readout: float
    """σ_r², photons²"""
    gain: float
    """ε², the square of the relative error of the gains"""


class Light(NamedTuple):
    """Where the light of spots is; all of it in their foregrounds where they have no tails."""

    has_tails: bool
    profile: np.ndarray
    """(pixel,) share of the light of its spot that a pixel holds; (0,) without tails"""
    share: np.ndarray
    """(box,) of the light in the foreground"""


class Sums(NamedTuple):
    """Sums over the pixels of each box, (box,) unless stated otherwise."""

    n_fitted: np.ndarray
    """background pixels that the plane was fitted to"""
    n: np.ndarray
    """pixels of the foreground that may be used"""
    n_lost: np.ndarray
    """pixels of the foreground that may not"""
    n_saturated: np.ndarray
    """pixels of the foreground above the trusted range"""
    above: np.ndarray
    """photons of the foreground above the plane"""
    below: np.ndarray
    """photons of the plane under the foreground"""
    squares: np.ndarray
    """sum of the squares of the foreground's counts, photons²"""
    of_plane: np.ndarray
    """variance that the plane brings into the intensity, photons²"""
    centre: np.ndarray
    """(box, 2) centre of mass of the spot minus the predicted centroid, px"""


# ---------------------------------------------------------------- pixels


@compiled
def gathered(image, mask, boxes, saturation):
    """Return counts, and whether pixels are valid and saturated, of the pixels of all boxes:
    columns of `Pixels`.

    image: (panel, slow, fast) photons; mask: the same shape, True = may be used; saturation:
    photons above which a pixel is saturated.
    """
    bbox, first, panel = boxes[:3]
    n_pixels = first[-1]
    counts = np.empty(n_pixels)
    valid = np.empty(n_pixels, np.bool_)
    saturated = np.empty(n_pixels, np.bool_)
    place = 0
    for box in range(len(bbox)):
        fast0, fast1, slow0, slow1 = bbox[box]
        for slow in range(slow0, slow1):
            row = image[panel[box], slow]
            of_row = mask[panel[box], slow]
            for fast in range(fast0, fast1):
                value = np.float64(row[fast])
                is_valid = of_row[fast] and np.isfinite(value)
                saturated[place] = value > saturation
                valid[place] = is_valid
                counts[place] = value if is_valid else 0.0
                place += 1
    return counts, valid, saturated


@inlined
def _footprint(boxes, box):
    """Return the footprint of a box as numbers: centroid, axes and half sizes."""
    one = boxes.axes[box, 0]
    other = boxes.axes[box, 1]
    centre = boxes.centre[box]
    half = boxes.half_px[box]
    return centre[0], centre[1], one[0], one[1], other[0], other[1], half[0], half[1]


@inlined
def _distance(footprint, fast, slow):
    """Return how far the middle of a pixel is from the centroid of a box, in half sizes of its
    footprint: at most 1 within it.
    """
    centre_fast, centre_slow, a, b, c, d, half_radial, half_transverse = footprint
    x = fast + 0.5 - centre_fast
    y = slow + 0.5 - centre_slow
    return max(np.abs(x * a + y * b) / half_radial, np.abs(x * c + y * d) / half_transverse)


@compiled
def roles(boxes, order):
    """Return the role (pixel,) of each pixel, how many pixels are in the footprint of each box, and
    how many of them it owns, (box,).

    A contested pixel belongs to the nearest centroid, in half sizes of the footprints. order:
    (box,) boxes by panel, then by their first row.
    """
    bbox, first, panel = boxes[:3]
    role = np.empty(first[-1], np.uint8)
    n_inside = np.zeros(len(bbox))
    place = 0
    for box in range(len(bbox)):
        footprint = _footprint(boxes, box)
        fast0, fast1, slow0, slow1 = bbox[box]
        for slow in range(slow0, slow1):
            for fast in range(fast0, fast1):
                is_inside = _distance(footprint, fast, slow) <= 1.0
                role[place] = OWN if is_inside else FREE
                n_inside[box] += is_inside
                place += 1

    n_own = n_inside.copy()
    for i in range(len(order)):
        one = order[i]
        for j in range(i + 1, len(order)):
            other = order[j]
            if panel[other] != panel[one] or bbox[other, 2] >= bbox[one, 3]:
                break
            _contest(boxes, one, other, role, n_own)
    return role, n_inside, n_own


@inlined
def _contest(boxes, one, other, role, n_own):
    """Take from two boxes the pixels that are the other's: role (pixel,) and n_own (box,) change.

    A pixel within both footprints belongs to the nearer centroid, and to the first box where both
    are as near.
    """
    bbox, first = boxes[:2]
    fast0 = max(bbox[one, 0], bbox[other, 0])
    fast1 = min(bbox[one, 1], bbox[other, 1])
    slow0 = max(bbox[one, 2], bbox[other, 2])
    slow1 = min(bbox[one, 3], bbox[other, 3])
    of_one = _footprint(boxes, one)
    of_other = _footprint(boxes, other)
    for slow in range(slow0, slow1):
        for fast in range(fast0, fast1):
            to_one = _distance(of_one, fast, slow)
            to_other = _distance(of_other, fast, slow)
            if to_one > 1.0 and to_other > 1.0:
                continue
            is_first = to_one < to_other or (to_one == to_other and one < other)
            loser = other if is_first else one
            width = bbox[loser, 1] - bbox[loser, 0]
            place = first[loser] + (slow - bbox[loser, 2]) * width + fast - bbox[loser, 0]
            n_own[loser] -= role[place] == OWN
            role[place] = FOREIGN


@inlined
def variance(level, variances):
    """Return the variance V = b + σ_r² + (ε b)² of pixels that expect a level b of photons."""
    level = max(level, 0.0)
    return level + variances.readout + variances.gain * level**2


@inlined
def is_near(counts, level, variances):
    """Return whether counts are within `N_SIGMA` standard deviations of a level: above it by
    Anscombe's transform, for the long tail of few counts; below it as they are, for there is none.

    With o = 3/8 + σ_r² and g² = 1 + ε² b this is 2 √(c + o) − 2 √(b + o) ≤ N g above, and
    b − c ≤ N g √(b + o) below: −r ≤ c − b ≤ r + N² g²/4, r = N g √(b + o).
    """
    level = max(level, 0.0)
    middle = N_SIGMA**2 / 8.0 * (1.0 + variances.gain * level)
    reach = np.sqrt(8.0 * middle * (level + ANSCOMBE + variances.readout))
    return np.abs(counts - level - middle) <= reach + middle


@compiled
def weights(counts, free, level, variances, least, rejects):
    """Return the weights (pixel,) of free pixels that expect a level (pixel,) of photons: 1 over
    their variance, which is at least `least`; 0 of outliers, where `rejects`, and of other pixels.
    """
    out = np.zeros(len(counts))
    for i in range(len(counts)):
        if free[i] and (not rejects or is_near(counts[i], level[i], variances)):
            out[i] = 1.0 / max(variance(level[i], variances), least)
    return out


@inlined
def _list_pixels(boxes, pixels, box, own, free):
    """List the valid pixels of a box that are its own, and the free ones: x, y (px from the
    predicted centroid), counts and number in the list of all pixels are put into own (4, n) and
    free (4, n). Returns how many these are, and how many of the foreground are not valid, and how
    many saturated.
    """
    fast0, fast1, slow0, slow1 = boxes.bbox[box]
    place = boxes.first[box]
    n_own, n_free, n_lost, n_saturated = 0, 0, 0, 0
    for slow in range(slow0, slow1):
        y = slow + 0.5 - boxes.centre[box, 1]
        for fast in range(fast0, fast1):
            x = fast + 0.5 - boxes.centre[box, 0]
            role = pixels.role[place]
            is_valid = pixels.valid[place]
            if role == OWN:
                n_saturated += pixels.saturated[place]
                n_lost += not is_valid
                own[0, n_own] = x
                own[1, n_own] = y
                own[2, n_own] = pixels.counts[place]
                own[3, n_own] = place
                n_own += is_valid
            elif role == FREE and is_valid:
                free[0, n_free] = x
                free[1, n_free] = y
                free[2, n_free] = pixels.counts[place]
                free[3, n_free] = place
                n_free += 1
            place += 1
    return n_own, n_free, n_lost, n_saturated


@inlined
def _median(values, n, work):
    """Return the upper median of the first n values, 0 of none, by Hoare's selection in work."""
    if n == 0:
        return 0.0
    for i in range(n):
        work[i] = values[i]
    middle = n // 2
    low = 0
    high = n - 1
    while low < high:
        pivot = work[(low + high) // 2]
        i = low
        j = high
        while i <= j:
            while work[i] < pivot:
                i += 1
            while pivot < work[j]:
                j -= 1
            if i <= j:
                work[i], work[j] = work[j], work[i]
                i += 1
                j -= 1
        if middle <= j:
            high = j
        elif middle >= i:
            low = i
        else:
            break
    return work[middle]


@inlined
def _choose(free, n, tail, theta, variances, level, chosen):
    """Choose those of the n free pixels that a plane is fitted to: those near the plane theta (3,)
    with the spot's tail on it. level (n,) and chosen (n,), 1 or 0, are filled; returns the sum of
    `chosen`, and of the counts below the tail over it.
    """
    x = free[0]
    y = free[1]
    counts = free[2]
    flat = theta[0]
    by_x = theta[1]
    by_y = theta[2]
    n_chosen = 0.0
    total = 0.0
    for i in range(n):
        plane = flat + by_x * x[i] + by_y * y[i]
        own_tail = tail[i]
        is_chosen = 1.0 if is_near(counts[i], plane + own_tail, variances) else 0.0
        level[i] = plane
        chosen[i] = is_chosen
        n_chosen += is_chosen
        total += is_chosen * (counts[i] - own_tail)
    return n_chosen, total


@inlined
def _fit(free, n, tail, chosen, level, least, variances, theta, covariance):
    """Fit a plane to the chosen pixels by weighted least squares: theta (3,) and its covariance
    (3, 3) are filled. Weights are those of the plane before, level (n,), which counts as `least`
    photons where it is lower.
    """
    x = free[0]
    y = free[1]
    counts = free[2]
    s, sx, sy, sxx, sxy, syy, r, rx, ry = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(n):
        expected = max(level[i], least) + max(tail[i], 0.0)
        weight = chosen[i] / variance(expected, variances)
        wx = weight * x[i]
        wy = weight * y[i]
        below = counts[i] - tail[i]
        s += weight
        sx += wx
        sy += wy
        sxx += wx * x[i]
        sxy += wx * y[i]
        syy += wy * y[i]
        r += weight * below
        rx += wx * below
        ry += wy * below
    covariance[0, 0] = s + PLANE_RIDGE
    covariance[1, 1] = sxx + PLANE_RIDGE
    covariance[2, 2] = syy + PLANE_RIDGE
    covariance[0, 1] = covariance[1, 0] = sx
    covariance[0, 2] = covariance[2, 0] = sy
    covariance[1, 2] = covariance[2, 1] = sxy
    invert(covariance)
    for a in range(3):
        theta[a] = covariance[a, 0] * r + covariance[a, 1] * rx + covariance[a, 2] * ry


@inlined
def _above(own, n, theta):
    """Return the sum of the n counts own (4, n), as from `_list_pixels`, above a plane, and of the
    plane.
    """
    above = 0.0
    below = 0.0
    for i in range(n):
        level = theta[0] + theta[1] * own[0, i] + theta[2] * own[1, i]
        above += own[2, i] - level
        below += level
    return above, below


@inlined
def _plane(free, own, counted, light, box, variances, work, theta, covariance):
    """Fit the plane of the background of a box, outliers left out: theta (3,) and its covariance
    are filled. Returns the number of pixels it was fitted to.

    free, own: the free pixels and those of the foreground, as from `_list_pixels`, and `counted`
    how many they are. work: (3, ...). It starts from the median. Weights come from the plane
    itself: weighting by the counts instead would be low by about one photon. Tails are those of the
    intensity above the plane before.
    """
    n, n_own = counted
    tail = work[0]
    level = work[1]
    chosen = work[2]
    tail[:n] = 0.0
    theta[:] = 0.0
    theta[0] = _median(free[2], n, level)
    n_fitted = 0.0
    for _ in range(N_CYCLES):
        if light.has_tails:
            intensity = _above(own, n_own, theta)[0] / light.share[box]
            for i in range(n):
                tail[i] = intensity * light.profile[int(free[3, i])]
        n_fitted, total = _choose(free, n, tail, theta, variances, level, chosen)
        # a plane near zero would give its lowest pixels all the weight
        at_least_one = max(n_fitted, 1.0)
        least = LEAST_LEVEL * max(total / at_least_one, 1.0 / at_least_one)
        _fit(free, n, tail, chosen, level, least, variances, theta, covariance)
    return n_fitted


@compiled
def summed(boxes, pixels, light, variances, strong):
    """Return `Sums` of all boxes: the plane below each, what its foreground holds above and below
    the plane, and its centroid, of pixels more than `strong` standard deviations above the plane.
    """
    n_boxes = len(boxes.bbox)
    largest = 0
    for box in range(n_boxes):
        largest = max(largest, boxes.first[box + 1] - boxes.first[box])
    own = np.empty((4, largest))
    free = np.empty((4, largest))
    work = np.empty((3, largest))
    to_do = np.empty((2, largest), np.int64)
    theta = np.empty(3)
    covariance = np.empty((3, 3))
    out = np.zeros((8, n_boxes))
    centre = np.zeros((n_boxes, 2))
    for box in range(n_boxes):
        n_own, n_free, out[2, box], out[3, box] = _list_pixels(boxes, pixels, box, own, free)
        counted = (n_free, n_own)
        out[0, box] = _plane(free, own, counted, light, box, variances, work, theta, covariance)
        out[1, box] = n_own
        out[4, box], out[5, box] = _above(own, n_own, theta)
        out[6, box], out[7, box] = _squares(own, n_own, covariance)
        start = _highest(own, n_own, theta, variances)
        if start >= 0:
            x, y = _find_centre(boxes, pixels, box, theta, variances, strong, start, to_do)
            centre[box, 0] = x
            centre[box, 1] = y
    return Sums(out[0], out[1], out[2], out[3], out[4], out[5], out[6], out[7], centre)


@inlined
def _squares(own, n, covariance):
    """Return the sum of the squares of the n counts own (4, n), and the variance of the sum of a
    plane over their pixels.
    """
    squares = 0.0
    sx = 0.0
    sy = 0.0
    for i in range(n):
        squares += own[2, i] ** 2
        sx += own[0, i]
        sy += own[1, i]
    lever = (float(n), sx, sy)
    of_plane = 0.0
    for a in range(3):
        for b in range(3):
            of_plane += lever[a] * covariance[a, b] * lever[b]
    return squares, of_plane


@inlined
def _highest(own, n, theta, variances):
    """Return the number, in the list of all pixels, of the one of the n own (4, n) that is the most
    standard deviations above the plane; −1 of none.
    """
    best = -np.inf
    place = -1
    for i in range(n):
        level = theta[0] + theta[1] * own[0, i] + theta[2] * own[1, i]
        height = (own[2, i] - level) / np.sqrt(variance(level, variances))
        if height > best:
            best = height
            place = int(own[3, i])
    return place


@inlined
def _find_centre(boxes, pixels, box, theta, variances, strong, start, work):
    """Return the centre of mass, minus the predicted centroid, of the pixels more than `strong`
    standard deviations above the plane that are connected with pixel `start` (4 neighbours) and not
    a neighbour's, px.

    start: number in the list of all pixels. work: (2, n) int64, the box's pixels still to be looked
    at, and whether each was visited.
    """
    counts, valid, _, role = pixels
    fast0, fast1, slow0, slow1 = boxes.bbox[box]
    width = fast1 - fast0
    height = slow1 - slow0
    first = boxes.first[box]
    to_do, visited = work
    visited[: width * height] = 0
    visited[start - first] = 1
    to_do[0] = start - first
    n = 1
    total, total_x, total_y = 0.0, 0.0, 0.0
    while n:
        n -= 1
        row, column = divmod(to_do[n], width)
        place = first + row * width + column
        x = fast0 + column + 0.5 - boxes.centre[box, 0]
        y = slow0 + row + 0.5 - boxes.centre[box, 1]
        level = theta[0] + theta[1] * x + theta[2] * y
        signal = counts[place] - level
        is_bright = signal > strong * np.sqrt(variance(level, variances))
        is_usable = valid[place] and role[place] != FOREIGN
        if place != start and not (is_bright and is_usable):
            continue
        weight = max(signal, 0.0)
        total += weight
        total_x += weight * x
        total_y += weight * y
        for to_row, to_column in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            r = row + to_row
            c = column + to_column
            if 0 <= r < height and 0 <= c < width and not visited[r * width + c]:
                visited[r * width + c] = 1
                to_do[n] = r * width + c
                n += 1
    return total_x / max(total, 1e-9), total_y / max(total, 1e-9)
