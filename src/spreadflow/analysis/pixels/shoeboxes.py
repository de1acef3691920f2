"""Which reflections and pixels an annulus of resolution holds, and which of these pixels belong to
several shoeboxes.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.still import footprints
from spreadflow.analysis.still.box_loops import OWN
from spreadflow.analysis.still.footprints import Footprints
from spreadflow.models import Overlap, ReflectionFlag, pixel_places


def chosen(
    d: np.ndarray,
    i_over_sigma: np.ndarray,
    flags: np.ndarray,
    *,
    d_min: float,
    d_max: float,
    min_i_over_sigma: float | None = None,
) -> np.ndarray:
    """Return which reflections are chosen, (n,) bool: those with d_min ≤ d < d_max (Å).

    With `min_i_over_sigma` they have to be integrated without failure, too, and at least that
    strong. d: (n,) Å; i_over_sigma: (n,); flags: (n,) bits of `models.ReflectionFlag`.
    """
    inside = (d >= d_min) & (d < d_max)
    if min_i_over_sigma is None:
        return inside
    return inside & (flags & ReflectionFlag.FAILED == 0) & (i_over_sigma >= min_i_over_sigma)


def widened(bbox: np.ndarray, border: int, shape: tuple[int, int]) -> np.ndarray:
    """Return boxes (n, 4) fast0 fast1 slow0 slow1, half open, grown by `border` px and cut at the
    edges of the panel; shape: (slow, fast) of it.
    """
    n_slow, n_fast = shape
    grown = np.asarray(bbox) + np.array([-border, border, -border, border])
    limits = np.array([n_fast, n_fast, n_slow, n_slow])
    return np.clip(grown, 0, limits).astype(np.int32)


def addresses(panel: np.ndarray, bbox: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Return where the pixels of boxes (n, 4) on panels (n,) lie, box after box, slow outer and
    fast inner: the box each pixel belongs to (pixel,), and its (panel, slow, fast), each (pixel,).
    """
    box, slow, fast = pixel_places(bbox)
    return box, (np.asarray(panel)[box], slow, fast)


class Boxes(NamedTuple):
    """Integrated reflections of all lattices of one shot."""

    lattice: np.ndarray
    """(n,)"""
    panel: np.ndarray
    """(n,)"""
    fast: np.ndarray
    """(n,) predicted centroid, px"""
    slow: np.ndarray
    """(n,) px"""
    bbox: np.ndarray
    """(n, 4) integration box, px"""


class CutShoeboxes(NamedTuple):
    """Shoeboxes cut out of an image, and their pixels, one shoebox after the other."""

    bbox: np.ndarray
    """(shoebox, 4) px"""
    first_pixel: np.ndarray
    """(shoebox,) its first pixel"""
    photons: np.ndarray
    """(pixel,)"""
    valid: np.ndarray
    """(pixel,) bool, as the mask has it"""
    foreground: np.ndarray
    """(pixel,) bool, in the foreground: what integration summed"""
    overlap: np.ndarray
    """(pixel,) bits of `models.Overlap`"""


def pack(
    image: np.ndarray,
    mask: np.ndarray,
    boxes: Boxes,
    foregrounds: Footprints,
    selected: np.ndarray,
    *,
    border: int,
) -> CutShoeboxes:
    """Cut the shoeboxes of selected reflections of a shot out of its image.

    image, mask: (panel, slow, fast). boxes, foregrounds: all of the shot (n). selected: (n,) bool,
    which of them to cut out. border: px around the integration boxes.
    """
    chosen_boxes = Boxes(*(column[selected] for column in boxes))
    bbox = widened(chosen_boxes.bbox, border, image.shape[1:])
    box, address = addresses(chosen_boxes.panel, bbox)
    n = np.bincount(box, minlength=len(bbox))
    pixel = np.ravel_multi_index(address, image.shape)

    of_spots = _of_spots(boxes, foregrounds, image.shape)
    overlap = shared(chosen_boxes, box, address, image.shape)
    overlap |= _foreign(chosen_boxes.lattice[box], pixel, of_spots, boxes.lattice)
    return CutShoeboxes(
        bbox=bbox,
        first_pixel=np.cumsum(n) - n,
        photons=image[address],
        valid=mask[address],
        foreground=_is_own(np.flatnonzero(selected)[box], pixel, of_spots, image.size),
        overlap=overlap,
    )


class _SpotPixels(NamedTuple):
    """The pixels of foregrounds; one that is in several is there as often."""

    reflection: np.ndarray
    """(n,) row"""
    pixel: np.ndarray
    """(n,) number in the image"""
    is_own: np.ndarray
    """(n,) bool: in no foreground whose reflection is nearer, so that integration summed it"""


def _of_spots(boxes: Boxes, foregrounds: Footprints, shape: tuple[int, ...]) -> _SpotPixels:
    """Return the pixels of foregrounds. shape: (panel, slow, fast) of the image."""
    reflection, address = addresses(boxes.panel, boxes.bbox)
    _, slow, fast = address
    middle = np.stack([boxes.fast, boxes.slow], axis=1)
    offset = np.stack([fast, slow], axis=1) + 0.5 - middle[reflection]
    role, _ = footprints.roles(
        footprints.boxes_of(boxes.panel, middle, foregrounds, np.asarray(boxes.bbox))
    )
    is_own = role == OWN
    is_inside = is_own | (foregrounds.distance(reflection, offset) <= 1.0)
    pixel = np.ravel_multi_index(address, shape)
    return _SpotPixels(reflection[is_inside], pixel[is_inside], is_own[is_inside])


def _is_own(
    reflection: np.ndarray, pixel: np.ndarray, of_spots: _SpotPixels, n_pixels: int
) -> np.ndarray:
    """Return whether each pixel (pixel,) of a reflection's shoebox is what integration summed.

    n_pixels: of the image.
    """
    own = of_spots.reflection[of_spots.is_own] * n_pixels + of_spots.pixel[of_spots.is_own]
    return np.isin(reflection * n_pixels + pixel, own)


def shared(
    boxes: Boxes, box: np.ndarray, address: tuple[np.ndarray, ...], shape: tuple[int, ...]
) -> np.ndarray:
    """Return the bits SHARED and ELSEWHERE of `models.Overlap` of each pixel (pixel,).

    A pixel in several shoeboxes of a lattice counts in the one whose centroid is nearest, in the
    first of two that are equally near. box, address: of the pixels, see `addresses`; shape: (panel,
    slow, fast) of the image.
    """
    _, slow, fast = address
    distance = np.hypot(fast + 0.5 - boxes.fast[box], slow + 0.5 - boxes.slow[box])

    # pixels of a lattice with the same key are the same pixel of the image
    n_pixels = int(np.prod(shape))
    key = boxes.lattice[box].astype(np.int64) * n_pixels + np.ravel_multi_index(address, shape)
    order = np.lexsort((box, distance, key))
    is_first = np.diff(key[order], prepend=-1) != 0
    is_alone = is_first & np.append(is_first[1:], True)

    out = np.empty(len(box), np.uint8)
    shared_bit = np.where(is_alone, 0, Overlap.SHARED)
    elsewhere_bit = np.where(is_first, 0, Overlap.ELSEWHERE)
    out[order] = shared_bit | elsewhere_bit
    return out


def _foreign(
    lattice: np.ndarray, pixel: np.ndarray, of_spots: _SpotPixels, lattice_of: np.ndarray
) -> np.ndarray:
    """Return the bit FOREIGN of each pixel (pixel,): it is in the foreground of another lattice.

    lattice: (pixel,) whose shoebox the pixel is in; lattice_of: (reflection,).
    """
    out = np.zeros(len(lattice), np.uint8)
    lattice_of_spot = lattice_of[of_spots.reflection]
    for k in np.unique(lattice):
        own = np.flatnonzero(lattice == k)
        is_foreign = np.isin(pixel[own], of_spots.pixel[lattice_of_spot != k])
        out[own[is_foreign]] = Overlap.FOREIGN
    return out
