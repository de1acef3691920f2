"""Footprints: where predicted spots lie, the shoeboxes around them, and whose each pixel is.

All shoeboxes of a shot are one flat list of pixels (reflection by reflection, slow outer, fast
inner), so that every sum over shoeboxes is one product with a sparse matrix and nothing is padded.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from spreadflow.analysis.still.prediction import Predicted
from spreadflow.models import Detector
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

FREE = 0
"""The pixel is in nobody's foreground."""

OWN = 1
"""The pixel is in the foreground of the reflection."""

FOREIGN = 2
"""The pixel is in the foreground of a neighbour only."""


class Footprints(NamedTuple):
    """Rotated rectangles that hold spots, around their predicted centroids."""

    axes: np.ndarray
    """(reflection, 2, 2) rows radial, transverse in (fast, slow)"""
    half_px: np.ndarray
    """(reflection, 2) half sizes along them"""

    def distance(self, reflection: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Return how far pixels (pixel,) are from the middles of rectangles, 1 at their edges.

        reflection: (pixel,) row of the rectangle; offset: (pixel, 2) fast, slow from its middle.
        """
        along = np.einsum("pc,pkc->pk", offset, self.axes[reflection])
        return np.abs(along / self.half_px[reflection]).max(axis=1)


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


def footprints_of(predicted: Predicted, detector: Detector) -> Footprints:
    """Return the foregrounds of predicted reflections."""
    axes = radial_axes(detector, predicted.panel, predicted.fast, predicted.slow)
    half_sizes = [predicted.radial_px, predicted.transverse_px]
    half_px = EXTENT * np.stack(half_sizes, axis=-1) + MARGIN_PX
    return Footprints(axes, half_px.astype(np.float32))  # as products hold it


def at_edge(bbox: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return whether a shoebox touches its panel's edge, (reflection,) bool."""
    at_start = (bbox[:, ::2] == 0).any(axis=1)
    at_end = (bbox[:, 1::2] == shape[::-1]).any(axis=1)
    return at_start | at_end


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
    distance = footprints.distance(boxes.reflection, boxes.offset)
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
