"""Expected Bragg photons of each component of a mosaicity by itself, in pixels of rectangles."""

import numpy as np
import scipy

from spreadflow.models import Mosaic, Parameters, Shoeboxes
from spreadflow.physics import component_loops, forward, layout
from spreadflow.physics.cloud_boxes import boxes_of, follow
from spreadflow.physics.component_loops import PixelBoxes, PixelGrid, Reaches
from spreadflow.physics.pair_tables import rays_by_point

BATCH = 64
"""Components whose clouds are computed at a time: by programs compiled for one number of them."""


def by_component(
    parameters: Parameters, boxes: Shoeboxes, oversample: int, reach: float
) -> "scipy.sparse.csr_matrix":
    """Return the Bragg photons (valid pixel, component) of a lattice if one component had all
    domains, float32.

    oversample: points along each edge of a pixel, which are averaged; reach: standard deviations
    out to which clouds are followed.
    """
    places = layout.rectangles(boxes.panel, boxes.bbox, oversample)
    points = layout.points(places)
    rays = rays_by_point(parameters.detector, parameters.polarization, points)
    mosaic = parameters.mosaic
    n = len(mosaic.share)
    batches = []
    for first in range(0, n, BATCH):
        numbers = np.arange(first, first + BATCH)
        batch = np.minimum(numbers, n - 1)
        # what fills the last batch up has no photons
        is_new = (numbers < n).astype(np.float64)
        alone = Mosaic(mosaic.rotations[batch], mosaic.width[batch], is_new)
        of_batch = parameters._replace(mosaic=alone)
        batches.append(_of_batch(of_batch, rays, boxes, oversample, reach))
    whole = scipy.sparse.hstack(batches, format="csr")
    parts = (whole.data, whole.indices, whole.indptr)
    return scipy.sparse.csr_matrix(parts, shape=(whole.shape[0], n))


def _of_batch(
    parameters: Parameters, rays: np.ndarray, boxes: Shoeboxes, oversample: int, reach: float
) -> "scipy.sparse.csr_matrix":
    """Return the photons (valid pixel, component) of all components; rays: (point, 4)."""
    followed = follow(parameters, reach)
    reached = boxes_of(followed, parameters.detector)
    reached_pixels = PixelBoxes(
        reached.panel, reached.fast0, reached.fast1, reached.slow0, reached.slow1
    )
    fast0, fast1, slow0, slow1 = np.ascontiguousarray(boxes.bbox.T, dtype=np.int64)
    panel = np.asarray(boxes.panel, dtype=np.int64)
    tables = forward.tables_of_clouds(parameters, rays, followed.cloud)
    ticks = layout.ticks_of(parameters.spectrum)
    values, components, ends = component_loops.by_component(
        tables,
        ticks,
        component_loops.channel_sums(tables, ticks, len(parameters.spectrum.photons)),
        Reaches(followed.cut, reached.cloud, reached_pixels),
        PixelGrid(
            PixelBoxes(panel, fast0, fast1, slow0, slow1), np.asarray(boxes.valid), oversample
        ),
    )
    shape = (len(ends) - 1, len(parameters.mosaic.share))
    return scipy.sparse.csr_matrix((values, components, ends), shape=shape)
