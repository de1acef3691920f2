"""Shadows: connected regions of a detector that get far less light than the rest of their ring.

The mean of many images, or of one where it is bright, is averaged over small boxes and compared
with most of the ring about the beam that it lies in. Less light has less noise, too: pedestals of
panels may be wrong, and no pedestal changes that. Where the whole inside of the rings is dark,
behind a beam stop, it is compared with the first rings outside.
"""

from typing import NamedTuple

import numpy as np
import scipy

from spreadflow.analysis.recording.rings import Rings

DARK = 0.5
"""Of the light of its ring, less than which is a shadow."""

MOST = 0.75
"""Quantile of the boxes of a ring that is taken for its light: shadows may cover more than half."""

N_SIGMAS = 5.0
"""Standard deviations of a box by which the light of its ring exceeds that of a shadow."""

PEDESTAL_SIGMAS = 3.0
"""Standard deviations of the pedestals by which it does, too."""

BOXES = (3, 5, 7, 9, 11, 15)
"""Edges of boxes, px; the smallest that tells shadows in most of the detector is taken."""

JUDGED = 0.9
"""Share of the pixels in which it does."""

QUIET = 0.7
"""Of the noise that the light of its ring has, less than which a shadow has."""

WRONG_BY = 10.0
"""Readout noises of a pixel that a pedestal may be wrong by, at most."""

SURELY_QUIET = 4.0
"""Standard deviations by which it has less."""

KURTOSIS = 4.0
"""Of the noise, as good as any: that of few photons is not Gaussian."""

SMALLEST = 64
"""Pixels of a shadow, at least."""

HALF = 0.5
"""Quantile of the noise of a ring that is taken for it."""

ON_A_PANEL = np.zeros((3, 3, 3), bool)
"""Pixels (panel, slow, fast) that are connected with the one in the middle."""
ON_A_PANEL[1] = True

FEWEST_RINGS = 2
"""Rings of a shadow in the middle, at least."""

PENUMBRA = np.ones((1, 5, 5), bool)
"""Pixels (panel, slow, fast) about a shadow in which a dark pixel belongs to it."""


class Light(NamedTuple):
    """What pixels got of light, and what is known of its noise."""

    adu: np.ndarray
    """(panel, slow, fast) mean above the pedestal"""
    noise: np.ndarray
    """(panel, slow, fast) variance of a pixel, ADU², whatever its pedestal"""
    n_images: np.ndarray
    """(panel, slow, fast) that the mean is over"""
    adu_per_photon: float
    readout_adu: float
    """of a pixel in one image"""
    pedestal_sigma: float
    """of the pedestals of parts of the detector, ADU"""


class Shadows(NamedTuple):
    """Pixels in shadow, and those of which it can be judged."""

    dark: np.ndarray
    """(panel, slow, fast) bool"""
    judged: np.ndarray
    """(panel, slow, fast) bool, usable, and its ring bright enough"""


def find(light: Light, usable: np.ndarray, place: Rings) -> Shadows:
    """Return the shadows. usable: (panel, slow, fast) bool, pixels whose light counts."""
    relative = light.adu / place.factor
    box = _box(light, relative, usable, place)
    smooth = _smoothed(relative, usable, box)
    light_of_rings = without_the_middle(place.quantiles(smooth, usable, MOST))
    expected = light_of_rings[place.number] * place.factor
    judged = usable & _is_judged(light, expected, box)
    is_dark = judged & (smooth * place.factor < DARK * expected)
    return Shadows(_confirmed(light, is_dark, expected, usable, place), judged)


def _box(light: Light, relative: np.ndarray, usable: np.ndarray, place: Rings) -> int:
    """Return the edge of the boxes, px."""
    expected = place.means(relative, usable)[place.number] * place.factor
    for box in BOXES:
        judged = _is_judged(light, expected, box)[usable]
        if judged.size and np.mean(judged) >= JUDGED:
            return box
    return BOXES[-1]


def _is_judged(light: Light, expected: np.ndarray, box: int) -> np.ndarray:
    """Return where (panel, slow, fast) a shadow would be far below the expected light, ADU, and
    this above the noise of a pixel, below which a pedestal may be wrong, and above what pedestals
    are known to differ by.
    """
    n = np.maximum(light.n_images, 1) * box**2
    variance = (light.adu_per_photon * np.maximum(expected, 0.0) + light.readout_adu**2) / n
    difference = (1.0 - DARK) * expected
    is_bright = expected > light.readout_adu
    is_bright &= difference > PEDESTAL_SIGMAS * light.pedestal_sigma
    return is_bright & (difference > N_SIGMAS * np.sqrt(variance))


def _smoothed(relative: np.ndarray, usable: np.ndarray, box: int) -> np.ndarray:
    """Return the mean over the usable pixels of the box around each pixel (panel, slow, fast)."""
    size = (1, box, box)
    total = scipy.ndimage.uniform_filter(np.where(usable, relative, 0.0), size, mode="constant")
    share = scipy.ndimage.uniform_filter(usable.astype(np.float32), size, mode="constant")
    return total / np.maximum(share, 1e-6)


def without_the_middle(light: np.ndarray) -> np.ndarray:
    """Return the light (ring,) that there would be without a shadow over the middle of all rings:
    in these, that of the first rings outside.

    The middle is dark if no ring of it has half the light of any ring from its edge to twice its
    radius. Light that falls smoothly towards the beam, as that of water does, has no such edge; and
    behind a bright, thin ring it is as dark as before it.
    """
    for edge in range(len(light) // 2, FEWEST_RINGS - 1, -1):
        outside = _lit(light[edge + 1 : 2 * edge + 2])
        inside = _lit(light[:edge])
        if len(inside) and len(outside) and inside.max() < DARK * outside.min():
            expected = light.copy()
            expected[: edge + 1] = outside[0]
            return expected
    return light


def _lit(light: np.ndarray) -> np.ndarray:
    """Return the light of those rings that have usable pixels."""
    return light[np.isfinite(light)]


def _confirmed(
    light: Light, dark: np.ndarray, lit: np.ndarray, usable: np.ndarray, place: Rings
) -> np.ndarray:
    """Return the dark pixels (panel, slow, fast) of connected regions that are large enough, and
    whose noise is that of little light, or which lack more of it than a pedestal may be wrong by.
    lit: (panel, slow, fast) light without shadows, ADU.
    """
    of_light = (light.noise - light.readout_adu**2) / place.factor
    of_rings = place.quantiles(_smoothed(of_light, usable, BOXES[-1]), usable, HALF)
    usual = without_the_middle(of_rings)[place.number]

    label, n_regions = scipy.ndimage.label(dark, ON_A_PANEL)
    region = label[dark]
    size = np.bincount(region, minlength=n_regions + 1)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(region, values[dark], n_regions + 1) / np.maximum(size, 1)

    noise = mean(of_light * place.factor)
    expected = mean(usual * place.factor)
    n_measured = np.maximum(size * mean(light.n_images), 1)
    sigma = (expected + light.readout_adu**2) * np.sqrt(KURTOSIS / n_measured)
    is_quiet = (noise < QUIET * expected) & (expected - noise > SURELY_QUIET * sigma)
    lacks_much = mean(lit - light.adu) > WRONG_BY * light.readout_adu
    is_shadow = (size >= SMALLEST) & (is_quiet | lacks_much)
    is_shadow[0] = False
    return is_shadow[label]


def edges(shape: tuple[int, ...], width: int) -> np.ndarray:
    """Return the pixels (panel, slow, fast) within so many of an edge of their panel."""
    is_edge = np.ones(shape, bool)
    if width:
        is_edge[:, width:-width, width:-width] = False
    else:
        is_edge[:] = False
    return is_edge


def around(dark: np.ndarray) -> np.ndarray:
    """Return shadows with their penumbra, (panel, slow, fast) bool."""
    return scipy.ndimage.binary_dilation(dark, PENUMBRA)
