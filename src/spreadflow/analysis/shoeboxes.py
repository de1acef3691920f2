"""Which reflections and pixels an annulus of resolution holds."""

import numpy as np

from spreadflow.models import ReflectionFlag


def chosen(
    d: np.ndarray,
    i_over_sigma: np.ndarray,
    flags: np.ndarray,
    *,
    d_min: float,
    d_max: float,
    min_i_over_sigma: float | None = None,
) -> np.ndarray:
    """(n,) bool: reflections with d_min ≤ d < d_max (Å).

    With `min_i_over_sigma` also integrated without failure and at least that strong. All arguments (n,).
    """
    inside = (d >= d_min) & (d < d_max)
    if min_i_over_sigma is None:
        return inside
    return inside & (flags & ReflectionFlag.FAILED == 0) & (i_over_sigma >= min_i_over_sigma)


def widened(bbox: np.ndarray, border: int, shape: tuple[int, int]) -> np.ndarray:
    """Boxes (n, 4) fast0 fast1 slow0 slow1, half open, grown by `border` px and cut at the panel (slow, fast)."""
    grown = np.asarray(bbox) + np.array([-border, border, -border, border])
    return np.clip(grown, 0, np.repeat(shape[::-1], 2)).astype(np.int32)


def addresses(panel: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Where the pixels of boxes (n, 4) on panels (n,) lie, box after box, slow outer and fast inner.

    Returns the box each pixel belongs to (pixel,) and its (panel, slow, fast), each (pixel,).
    """
    width, height = box[:, 1] - box[:, 0], box[:, 3] - box[:, 2]
    n = width * height
    of = np.repeat(np.arange(len(box)), n)
    within = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
    slow, fast = np.divmod(within, width[of])
    return of, (np.asarray(panel)[of], box[of, 2] + slow, box[of, 0] + fast)


def pack(image: np.ndarray, mask: np.ndarray, panel: np.ndarray, bbox: np.ndarray, border: int) -> dict:
    """Cut the shoeboxes of one shot out of its image.

    image, mask: (panel, slow, fast); panel (n,); bbox (n, 4) integration boxes, px. Returns `bbox` (n, 4) of the
    shoeboxes, `first_pixel` (n,) and, per pixel, `photons`, `valid` and `foreground` (inside the integration box).
    """
    box = widened(bbox, border, image.shape[1:])
    of, where = addresses(panel, box)
    _, slow, fast = where
    fast0, fast1, slow0, slow1 = np.asarray(bbox)[of].T
    n = np.bincount(of, minlength=len(box))
    return {
        "bbox": box,
        "first_pixel": np.cumsum(n) - n,
        "photons": image[where],
        "valid": mask[where],
        "foreground": (fast >= fast0) & (fast < fast1) & (slow >= slow0) & (slow < slow1),
    }
