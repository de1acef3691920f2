"""Footprints: where predicted spots lie, the shoeboxes around them, and whose each pixel is.

All shoeboxes of a shot are one flat list of pixels (reflection by reflection, slow outer, fast
inner), which compiled loops go through (`box_loops`).
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.still import box_loops
from spreadflow.analysis.still.box_loops import Boxes
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


class Bounds(NamedTuple):
    """Where shoeboxes are."""

    bbox: np.ndarray
    """(reflection, 4) int fast0 fast1 slow0 slow1, half open, within the panel"""
    is_cut: np.ndarray
    """(reflection,) the footprint reaches beyond the panel"""


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


def bounds_of(predicted: Predicted, footprints: Footprints, shape: tuple[int, int]) -> Bounds:
    """Return the shoeboxes around footprints on panels of this shape (slow, fast)."""
    centre = np.stack([predicted.fast, predicted.slow], axis=-1)
    reach = np.einsum("rk,rkc->rc", footprints.half_px, np.abs(footprints.axes))
    limit = np.array(shape[::-1])

    low = np.floor(centre - reach).astype(int)
    high = np.ceil(centre + reach).astype(int)
    is_cut = ((low < 0) | (high > limit)).any(axis=1)
    low = np.clip(low - BORDER_PX, 0, limit - 1)
    high = np.clip(high + BORDER_PX, 1, limit)
    bbox = np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=-1)
    return Bounds(bbox, is_cut)


def boxes_of(
    panel: np.ndarray, centre: np.ndarray, footprints: Footprints, bbox: np.ndarray
) -> Boxes:
    """Return shoeboxes with the footprints within them, as the compiled loops take them.

    panel: (reflection,); centre: (reflection, 2) predicted fast, slow, px; bbox: (reflection, 4) as
    in `Bounds`.
    """
    widths = bbox[:, 1::2] - bbox[:, ::2]
    return Boxes(
        bbox=np.asarray(bbox, dtype=np.int64),
        first=np.concatenate([[0], np.cumsum(widths[:, 0] * widths[:, 1], dtype=np.int64)]),
        panel=np.asarray(panel, dtype=np.int64),
        centre=np.asarray(centre, dtype=np.float64),
        axes=np.ascontiguousarray(footprints.axes),
        half_px=footprints.half_px.astype(np.float64),
    )


def roles(boxes: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """Return FREE, OWN or FOREIGN per pixel, and per reflection the fraction of its foreground that
    neighbours own.
    """
    order = np.lexsort((boxes.bbox[:, 2], boxes.panel))
    role, n_inside, n_own = box_loops.roles(boxes, order)
    return role, 1.0 - n_own / np.maximum(n_inside, 1)
