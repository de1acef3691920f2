"""Which reflections and pixels an annulus of resolution holds, and which of these belong to several
shoeboxes.
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
    """Return (n,) bool: reflections with d_min ≤ d < d_max (Å).

    With `min_i_over_sigma` also integrated without failure and at least that strong. All arguments
    (n,).
    """
    inside = (d >= d_min) & (d < d_max)
    if min_i_over_sigma is None:
        return inside
    return inside & (flags & ReflectionFlag.FAILED == 0) & (i_over_sigma >= min_i_over_sigma)


def strength(intensity: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return I/σ of reflections, finite where σ is 0."""
    return intensity / np.maximum(sigma, SMALLEST_SIGMA)


def widened(bbox: np.ndarray, border: int, shape: tuple[int, int]) -> np.ndarray:
    """Return boxes (n, 4) fast0 fast1 slow0 slow1, half open, grown by `border` px and cut at the
    panel (slow, fast).
    """
    grown = np.asarray(bbox) + np.array([-border, border, -border, border])
    return np.clip(grown, 0, np.repeat(shape[::-1], 2)).astype(np.int32)


def foregrounds(bbox: np.ndarray, frame: int, shape: tuple[int, int]) -> np.ndarray:
    """Return boxes (n, 4) around what integration summed: its boxes less the frame, where the panel
    (slow, fast) cut none.
    """
    low, high = np.asarray(bbox)[:, ::2], np.asarray(bbox)[:, 1::2]
    inner = np.where(low > 0, low + frame, 0)
    outer = np.where(high < shape[::-1], high - frame, high)
    return np.stack([inner, np.maximum(inner, outer)], axis=2).reshape(-1, 4)


def addresses(panel: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Return where the pixels of boxes (n, 4) on panels (n,) lie, box after box, slow outer and
    fast inner.

    Returns the box each pixel belongs to (pixel,) and its (panel, slow, fast), each (pixel,).
    """
    width = box[:, 1] - box[:, 0]
    height = box[:, 3] - box[:, 2]
    n = width * height
    of = np.repeat(np.arange(len(box)), n)
    within = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
    slow, fast = np.divmod(within, width[of])
    return of, (np.asarray(panel)[of], box[of, 2] + slow, box[of, 0] + fast)


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


def pack(
    image: np.ndarray, mask: np.ndarray, every: Boxes, mine: np.ndarray, *, border: int, frame: int
) -> dict:
    """Cut the shoeboxes of some reflections of a shot out of its image.

    image, mask: (panel, slow, fast). mine: (n,) bool, those of `every` to cut out (m). border: px
    around the integration boxes. frame: px of these that are background. Returns `bbox` (m, 4) of
    shoeboxes, `first_pixel` (m,) and, per pixel, `photons`, `valid`, `foreground` (see
    `foregrounds`) and `overlap` (bits of models.Overlap).
    """
    taken = Boxes(*(column[mine] for column in every))
    box = widened(taken.bbox, border, image.shape[1:])
    of, where = addresses(taken.panel, box)
    _, slow, fast = where
    cores = foregrounds(every.bbox, frame, image.shape[1:])
    fast0, fast1, slow0, slow1 = cores[mine][of].T
    n = np.bincount(of, minlength=len(box))
    return {
        "bbox": box,
        "first_pixel": np.cumsum(n) - n,
        "photons": image[where],
        "valid": mask[where],
        "foreground": (fast >= fast0) & (fast < fast1) & (slow >= slow0) & (slow < slow1),
        "overlap": shared(taken, of, where, image.shape)
        | _foreign(taken.lattice[of], where, every, cores, image.shape),
    }


def shared(
    taken: Boxes, of: np.ndarray, where: tuple[np.ndarray, ...], shape: tuple[int, ...]
) -> np.ndarray:
    """Return (pixel,) SHARED and ELSEWHERE; of two shoeboxes whose centroids are equally near, the
    first has the pixel.
    """
    _, slow, fast = where
    distance = np.hypot(fast + 0.5 - taken.fast[of], slow + 0.5 - taken.slow[of])
    address = taken.lattice[of].astype(np.int64) * int(np.prod(shape)) + np.ravel_multi_index(
        where, shape
    )
    order = np.lexsort((of, distance, address))
    new = np.diff(address[order], prepend=-1) != 0
    alone = new & np.append(new[1:], True)
    out = np.empty(len(of), np.uint8)
    out[order] = np.where(alone, 0, Overlap.SHARED) | np.where(new, 0, Overlap.ELSEWHERE)
    return out


def _foreign(
    lattice: np.ndarray,
    where: tuple[np.ndarray, ...],
    every: Boxes,
    cores: np.ndarray,
    shape: tuple[int, ...],
) -> np.ndarray:
    """Return (pixel,) FOREIGN; lattice (pixel,) is whose shoebox the pixel is in, cores (n, 4) the
    foregrounds of `every`.
    """
    out = np.zeros(len(lattice), np.uint8)
    for k in np.unique(lattice):
        others = every.lattice != k
        inside = np.zeros(shape, bool)
        inside[addresses(every.panel[others], cores[others])[1]] = True
        out[(lattice == k) & inside[where]] = Overlap.FOREIGN
    return out
