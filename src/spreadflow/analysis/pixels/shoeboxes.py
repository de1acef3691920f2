"""Which reflections and pixels an annulus of resolution holds, and which of these pixels belong to
several shoeboxes.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.models import Overlap, ReflectionFlag

SMALLEST_SIGMA = 1e-9
"""Floor of σ(I), photons, where I/σ is formed."""


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


def strength(intensity: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return I/σ of reflections (n,), finite where σ is 0."""
    return intensity / np.maximum(sigma, SMALLEST_SIGMA)


def widened(bbox: np.ndarray, border: int, shape: tuple[int, int]) -> np.ndarray:
    """Return boxes (n, 4) fast0 fast1 slow0 slow1, half open, grown by `border` px and cut at the
    edges of the panel; shape: (slow, fast) of it.
    """
    n_slow, n_fast = shape
    grown = np.asarray(bbox) + np.array([-border, border, -border, border])
    limits = np.array([n_fast, n_fast, n_slow, n_slow])
    return np.clip(grown, 0, limits).astype(np.int32)


def foregrounds(bbox: np.ndarray, frame: int, shape: tuple[int, int]) -> np.ndarray:
    """Return boxes (n, 4) around the pixels that integration summed: its boxes less their frame,
    which is missing where the panel cuts the box. shape: (slow, fast) of the panel.
    """
    low = np.asarray(bbox)[:, ::2]
    high = np.asarray(bbox)[:, 1::2]
    first = np.where(low > 0, low + frame, 0)
    last = np.where(high < shape[::-1], high - frame, high)
    last = np.maximum(first, last)
    return np.stack([first, last], axis=2).reshape(-1, 4)


def addresses(panel: np.ndarray, bbox: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Return where the pixels of boxes (n, 4) on panels (n,) lie, box after box, slow outer and
    fast inner: the box each pixel belongs to (pixel,), and its (panel, slow, fast), each (pixel,).
    """
    fast0, fast1, slow0, slow1 = np.asarray(bbox).T
    width = fast1 - fast0
    n = width * (slow1 - slow0)
    box = np.repeat(np.arange(len(n)), n)

    # pixels are counted through each box by itself
    first = np.cumsum(n) - n
    within = np.arange(n.sum()) - first[box]
    slow, fast = np.divmod(within, width[box])
    return box, (np.asarray(panel)[box], slow0[box] + slow, fast0[box] + fast)


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
    """(pixel,) bool, see `foregrounds`"""
    overlap: np.ndarray
    """(pixel,) bits of `models.Overlap`"""


def pack(
    image: np.ndarray,
    mask: np.ndarray,
    boxes: Boxes,
    selected: np.ndarray,
    *,
    border: int,
    frame: int,
) -> CutShoeboxes:
    """Cut the shoeboxes of selected reflections of a shot out of its image.

    image, mask: (panel, slow, fast). boxes: all of the shot (n). selected: (n,) bool, which of them
    to cut out. border: px around the integration boxes. frame: how many px of these are background.
    """
    chosen_boxes = Boxes(*(column[selected] for column in boxes))
    bbox = widened(chosen_boxes.bbox, border, image.shape[1:])
    box, address = addresses(chosen_boxes.panel, bbox)
    n = np.bincount(box, minlength=len(bbox))

    _, slow, fast = address
    cores = foregrounds(boxes.bbox, frame, image.shape[1:])
    fast0, fast1, slow0, slow1 = cores[selected][box].T
    is_foreground = (fast >= fast0) & (fast < fast1) & (slow >= slow0) & (slow < slow1)

    overlap = shared(chosen_boxes, box, address, image.shape)
    overlap |= _foreign(chosen_boxes.lattice[box], address, boxes, cores, image.shape)
    return CutShoeboxes(
        bbox=bbox,
        first_pixel=np.cumsum(n) - n,
        photons=image[address],
        valid=mask[address],
        foreground=is_foreground,
        overlap=overlap,
    )


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
    lattice: np.ndarray,
    address: tuple[np.ndarray, ...],
    boxes: Boxes,
    cores: np.ndarray,
    shape: tuple[int, ...],
) -> np.ndarray:
    """Return the bit FOREIGN of each pixel (pixel,): it is in the foreground of another lattice.

    lattice: (pixel,) whose shoebox the pixel is in; cores: (n, 4) the foregrounds of `boxes`.
    """
    out = np.zeros(len(lattice), np.uint8)
    for k in np.unique(lattice):
        others = boxes.lattice != k
        is_core = np.zeros(shape, bool)
        is_core[addresses(boxes.panel[others], cores[others])[1]] = True
        out[(lattice == k) & is_core[address]] = Overlap.FOREIGN
    return out
