"""Pixels that can't be used, found from images, each kind by name.

Gaps and dead pixels show in a single image: a still has nothing darker than its background. Hot,
stuck and noisy pixels show in what a pixel does over many images, as no spot stays where it is.
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from itertools import chain
from typing import NamedTuple

import numpy as np
import scipy

from spreadflow.analysis.recording import blocks, shadows
from spreadflow.analysis.recording.history import LIMIT, History
from spreadflow.analysis.recording.rings import Rings
from spreadflow.analysis.recording.shadows import Light

TOO_LOW = 8.0
"""Standard deviations of the mean of the images below which a pixel is too low."""

LEAST_LOW = 3.0
"""Standard deviations of one image by which it is, at least: small deviations that many images
establish are differences of gain.
"""

DEAF = 0.25
"""Of the light around it, less than which a pixel shows: that is no difference of gain either."""

SURELY_LOW = 6.0
"""Standard deviations of the mean of the images below which it shows less."""

FEWEST_FOR_HOT = 4
"""Images from which hot pixels are told from spots."""

MANY = 6
"""Images in which a hot pixel is too high: in most of them, and in so many where there are."""

MOST = 0.5
"""Share of the images in which a hot pixel is too high."""

FEWEST_FOR_STUCK = 4
"""Images from which a pixel that never changes is looked for."""

CHANCE = 1e-7
"""Of a good pixel to be taken for one that never changes, or for a noisy one."""

FEWEST_FOR_NOISY = 30
"""Images from which noisy pixels are judged."""

NOISIER = 4.0
"""Variance of a noisy pixel, at least, in that of those around it."""

MOST_JUDGED = 0.9
"""Share of the pixels in which shadows are judged, below which a word is said."""

MOST_SPOTTY = 0.03
"""Share of the images in which spots may hit a pixel anywhere."""

SPOTTIER = 3.0
"""Times as often as the pixels of its block a good pixel may be hit."""

FEWEST_ALIKE = 10
"""Pixels that hold the same number, from which this may stand for no measurement."""

MOST_NEGATIVE = 3
"""Negative whole numbers that stand for something: where noise is negative, there are more."""

APART = 3
"""Steps above a number that stands for something, within which hardly any pixel is."""

SHARE_BETWEEN = 1e-3
"""Pixels within these over those with the number, at most."""

SHARE_ALIKE = 0.8
"""Share of the pixels with a negative number that hold it in all images, or beside another one in
the only image.
"""

GROWTH = np.ones((1, 3, 3), bool)
"""Neighbours (panel, slow, fast) of a pixel."""


class Kind(IntEnum):
    """What is wrong with a pixel."""

    GOOD = 0
    MASKED = 1
    """it was masked before"""
    GAP = 2
    """it holds a number that stands for no measurement"""
    DEAD = 3
    """far darker than those around it"""
    STUCK = 4
    """it never changes, and those around it do"""
    HOT = 5
    """far brighter than those around it in most images"""
    NOISY = 6
    """it varies more than those around it"""
    SHADOW = 7
    """in a region that is far darker than the rest of its ring"""
    BESIDE = 8
    """beside a pixel that is missing, whose light it shares"""
    EDGE = 9
    """at an edge of its panel"""


NAMES = tuple(kind.name.lower() for kind in Kind)
"""Names of the kinds, in their order."""


class Unusable(NamedTuple):
    """Pixels that can't be used, besides those that the files mask."""

    kinds: np.ndarray
    """(panel, slow, fast) uint8, of `Kind`"""
    sentinels: tuple[tuple[float, int], ...]
    """ADU that stand for no measurement, and in how many pixels of the first image"""
    n_images: int
    undecided: tuple[str, ...] = ()
    """what the images do not tell, a sentence each"""

    @property
    def all(self) -> np.ndarray:
        """(panel, slow, fast) bool"""
        return self.kinds != Kind.GOOD

    def count(self, *kinds: Kind) -> int:
        """Return how many pixels are of some kinds."""
        return int(np.count_nonzero(np.isin(self.kinds, kinds)))

    def counts(self) -> dict[str, int]:
        """Return how many pixels are of each kind but the good ones, by its name."""
        n = np.bincount(self.kinds.ravel(), minlength=len(NAMES))
        return dict(zip(NAMES[1:], n[1:].tolist(), strict=True))

    def with_kind(self, kind: Kind, where: np.ndarray) -> "Unusable":
        """Return the same with the good pixels among some (panel, slow, fast) bool of a kind."""
        kinds = np.where((self.kinds == Kind.GOOD) & where, np.uint8(kind), self.kinds)
        return self._replace(kinds=kinds)


def find(
    images: Sequence[np.ndarray],
    usable: np.ndarray,
    place: Rings,
    later: Iterable[np.ndarray] = (),
) -> tuple[Unusable, History]:
    """Return the pixels that can't be used, but for what light tells (`judged_by_light`), and what
    all pixels did.

    images: (panel, slow, fast) ADU, at least one, NaN where it is not to be used; later: more of
    them, one at a time. usable: (panel, slow, fast) bool, those that are not masked already. place:
    of the pixels.
    """
    first = History(usable, usable)
    for image in images:
        first.add(image)
    low = _is_low(first)
    sentinels = _sentinels(images, usable, low)
    gaps = np.zeros(usable.shape, bool)
    for value, _ in sentinels:
        gaps |= usable & (images[0] == value)

    history = History(usable & ~gaps, usable & ~low & ~gaps)
    for image in chain(images, later):
        history.add(image)
    kinds = np.zeros(usable.shape, np.uint8)
    kinds[_is_noisy(history)] = Kind.NOISY
    kinds[_is_stuck(history, place)] = Kind.STUCK
    kinds[_is_hot(history)] = Kind.HOT
    kinds[_is_low(history)] = Kind.DEAD
    kinds[gaps] = Kind.GAP
    return Unusable(kinds, sentinels, history.n_images, _undecided(history.n_images)), history


def _is_low(history: History) -> np.ndarray:
    """Return the pixels (panel, slow, fast) that are too low in the mean of the images."""
    limit = max(TOO_LOW / np.sqrt(history.n_images), LEAST_LOW)
    return history.usable & (history.lowness < -limit)


def _is_hot(history: History) -> np.ndarray:
    """Return the pixels (panel, slow, fast) that are too high in most images."""
    needed = np.maximum(MOST * history.n, np.minimum(history.n, MANY))
    return history.usable & (history.n >= FEWEST_FOR_HOT) & (history.n_high >= needed)


def _is_stuck(history: History, place: Rings) -> np.ndarray:
    """Return the pixels (panel, slow, fast) that never change, where a good one would.

    Of two images, the numbers of a good pixel differ as often as those of the pixels of its block,
    or of its ring where a whole block is stuck. Its likeliest number then has a probability of √(1
    − share) at most, and n images after the first all have it with that to the n at most.
    """
    share = history.share_changed
    of_block = blocks.trimmed_means(share, history.sound)
    usual = np.maximum(of_block, place.means(share, history.sound)[place.number])
    n = history.n.astype(np.float32)
    with np.errstate(divide="ignore"):
        log_chance = 0.5 * (n - 1.0) * np.log1p(-np.minimum(usual, 1.0))
    is_constant = history.usable & (n >= FEWEST_FOR_STUCK) & (history.n_changes == 0)
    return is_constant & (log_chance < np.log(CHANCE))


def _is_noisy(history: History) -> np.ndarray:
    """Return the pixels (panel, slow, fast) that vary more than those around them, or are too high
    in more images than spots explain.

    The squares of limited deviations are between 0 and `LIMIT`²; by Bernstein's inequality their
    mean over n images exceeds that of good pixels, v, by t with a probability of at most exp(−n t²
    / (2 L² v + 2 L² t / 3)).
    """
    variance = history.variance
    usual = blocks.trimmed_means(variance, history.sound)
    n = np.maximum(history.n.astype(np.float32), 1)
    a = -np.log(CHANCE) * LIMIT**2 / n
    excess = a / 3.0 + np.sqrt((a / 3.0) ** 2 + 2.0 * a * usual)
    varies = variance > np.maximum(NOISIER * usual, usual + excess)
    is_judged = history.usable & (history.n >= FEWEST_FOR_NOISY)
    return is_judged & (varies | _is_flickering(history, n))


def _is_flickering(history: History, n: np.ndarray) -> np.ndarray:
    """Return the pixels (panel, slow, fast) that are too high in more images than spots explain. n:
    images, float.

    Where spots hit a pixel in a share p of the images, it is hit in a share x of n of them with a
    probability of at most exp(−n (x ln x/p + (1 − x) ln (1 − x)/(1 − p))), by Chernoff's
    inequality.
    """
    share = history.n_high / n
    of_spots = SPOTTIER * blocks.trimmed_means(share, history.sound)
    of_spots = np.clip(of_spots, MOST_SPOTTY, 0.5)
    x = np.clip(share, of_spots, 1.0 - 1e-6)
    divergence = x * np.log(x / of_spots) + (1.0 - x) * np.log((1.0 - x) / (1.0 - of_spots))
    return n * divergence > -np.log(CHANCE)


def _undecided(n_images: int) -> tuple[str, ...]:
    """Return what so many images do not tell, a sentence each."""
    needed = {
        "hot pixels": FEWEST_FOR_HOT,
        "stuck pixels": FEWEST_FOR_STUCK,
        "noisy pixels": FEWEST_FOR_NOISY,
    }
    return tuple(
        f"{name} are not looked for: {n_images} shots do not tell them, {fewest} may"
        for name, fewest in needed.items()
        if n_images < fewest
    )


def judged_by_light(unusable: Unusable, history: History, light: Light, place: Rings) -> Unusable:
    """Return the same with shadows, and with pixels that show little of the light around them.

    light: of the pixels of a history. Dark pixels in a shadow or at its rim are of the shadow, as
    blocks there are partly lit.
    """
    kinds = unusable.kinds.copy()
    pedestal = history.adu - light.adu
    of_block = history.level - pedestal
    limit = SURELY_LOW / np.sqrt(np.maximum(history.n, 1))
    is_deaf = history.usable & (history.deviation < -limit) & (light.adu < DEAF * of_block)
    kinds[is_deaf & np.isin(kinds, (Kind.GOOD, Kind.STUCK))] = Kind.DEAD

    is_lit = np.isin(kinds, (Kind.GOOD, Kind.DEAD, Kind.STUCK)) & history.usable
    dark, judged = shadows.find(light, is_lit, place)
    kinds[dark] = Kind.SHADOW
    is_dark = np.isin(kinds, (Kind.DEAD, Kind.STUCK))
    kinds[shadows.around(dark) & is_dark] = Kind.SHADOW
    share = float(np.mean(judged[is_lit])) if is_lit.any() else 0.0
    undecided = unusable.undecided
    if share < MOST_JUDGED:
        where = f"in {share:.0%} of the pixels"
        why = "elsewhere it is too dim for the noise, or for how much pedestals differ"
        undecided += (f"shadows are looked for {where}: {why}",)
    return unusable._replace(kinds=kinds, undecided=undecided)


def grown(unusable: Unusable, usable: np.ndarray) -> Unusable:
    """Return the same with the neighbours of pixels that are missing, which share their photons or
    were interpolated with them. usable: (panel, slow, fast) bool, as for `find`.
    """
    missing = np.isin(unusable.kinds, (Kind.GAP, Kind.DEAD, Kind.STUCK)) | ~usable
    beside = scipy.ndimage.binary_dilation(missing, GROWTH) & usable
    return unusable.with_kind(Kind.BESIDE, beside)


def _sentinels(
    images: Sequence[np.ndarray], usable: np.ndarray, low: np.ndarray
) -> tuple[tuple[float, int], ...]:
    """Return the numbers that stand for no measurement, and how many pixels of the first image hold
    them.

    They are held by low pixels, and there is nothing between them and the ADU of the others; or
    they are the only negative ones, and always held by the same pixels.
    """
    image = images[0]
    usable = usable & np.isfinite(image)
    numbers, counts = np.unique(image[usable], return_counts=True)
    held_by_low, counts_low = np.unique(image[low & usable], return_counts=True)
    of_low = held_by_low[counts_low >= FEWEST_ALIKE]
    apart = [value for value in of_low if _is_apart(value, numbers, counts)]

    negative = numbers[(numbers < 0) & (counts >= FEWEST_ALIKE)]
    is_whole = not np.any(numbers != np.rint(numbers))
    if not is_whole or np.count_nonzero(numbers < 0) > MOST_NEGATIVE:
        negative = negative[:0]
    kept = [value for value in negative if _is_kept(value, images, usable)]
    count_of = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    return tuple((float(value), count_of[float(value)]) for value in sorted({*apart, *kept}))


def _is_apart(value: float, numbers: np.ndarray, counts: np.ndarray) -> bool:
    """Whether hardly any pixel holds a number little above a value. numbers, counts: (number,)
    ascending, and pixels that hold them.
    """
    steps = np.diff(numbers[:1000])
    step = 1.0 if not len(steps) else float(np.median(steps))
    is_between = (numbers > value) & (numbers <= value + APART * step)
    n_alike = counts[np.searchsorted(numbers, value)]
    return bool(counts[is_between].sum() <= SHARE_BETWEEN * n_alike)


def _is_kept(value: float, images: Sequence[np.ndarray], usable: np.ndarray) -> bool:
    """Whether the same pixels hold a value in all images; of one image, whether they are beside
    each other.
    """
    first, *others = (usable & (image == value) for image in images)
    if others:
        alike = np.logical_and.reduce([first, *others])
    else:
        beside = np.zeros(first.shape, bool)
        for axis in (1, 2):
            for shift in (-1, 1):
                beside |= np.roll(first, shift, axis)
        alike = first & beside
    return bool(np.count_nonzero(alike) >= SHARE_ALIKE * np.count_nonzero(first))
