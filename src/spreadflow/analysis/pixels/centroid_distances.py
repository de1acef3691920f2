"""How far modelled centroids of `stage1` lie from observed ones."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spreadflow.errors import RefinedOutcome
from spreadflow.models import Detector
from spreadflow.physics import geometry
from spreadflow.products import Stage1


class CentroidDistances(NamedTuple):
    """Model minus observed centroids of strong reflections, along the radius and across it."""

    rows: np.ndarray
    """(n,) rows of the reflections"""
    px: dict[str, np.ndarray]
    """before, after, floor → (n, 2) radial and transverse distance, px; `floor` is what noise alone
    would leave were the model true
    """
    pixel_mm: np.ndarray
    """(n,) edge of a pixel, mm"""

    def rms(
        self, name: str, axis: int, unit: str = "mm", rows: np.ndarray | slice = slice(None)
    ) -> float | None:
        """Return a root mean square.

        name: before, after or floor. axis: 0 radial, 1 transverse. rows: of these distances.
        """
        scale = self.pixel_mm[rows] if unit == "mm" else 1.0
        values = self.px[name][rows, axis] * scale
        is_known = np.isfinite(values)
        return float(np.sqrt(np.mean(values[is_known] ** 2))) if is_known.any() else None


def centroid_distances(stage1: Stage1, detectors: Sequence[Detector]) -> CentroidDistances:
    """Return the distances of reflections of refined lattices that have observed centroids; which
    have them was decided before refinement. detectors: of the runs.
    """
    reflections = stage1.reflections
    lattice = reflections.lattice
    is_refined = stage1.lattices.outcome[lattice] == RefinedOutcome.REFINED
    is_observed = np.isfinite(reflections.fast_obs) & np.isfinite(reflections.fast)
    run = stage1.lattices.run[lattice]
    rows_of_run = [
        np.flatnonzero(is_observed & is_refined & (run == number))
        for number in range(len(detectors))
    ]
    rows = np.concatenate(rows_of_run)

    pixel_mm = []
    axes = []
    for detector, run_rows in zip(detectors, rows_of_run, strict=True):
        panel = reflections.panel[run_rows]
        fast = reflections.fast_before[run_rows]
        slow = reflections.slow_before[run_rows]
        axes.append(geometry.radial_axes(detector, panel, fast, slow))
        pixel_mm.append(np.full(len(run_rows), float(detector.pixel_mm)))
    radial_axes = np.concatenate(axes)

    def places(fast: np.ndarray, slow: np.ndarray) -> np.ndarray:
        return np.stack([fast[rows], slow[rows]], axis=1)

    def radial_and_transverse(vectors: np.ndarray) -> np.ndarray:
        return np.einsum("nij,nj->ni", radial_axes, vectors)

    observed = places(reflections.fast_obs, reflections.slow_obs)
    before = places(reflections.fast_before, reflections.slow_before)
    after = places(reflections.fast, reflections.slow)
    floor = places(reflections.fast_floor, reflections.slow_floor)
    return CentroidDistances(
        rows=rows,
        px={
            "before": radial_and_transverse(before - observed),
            "after": radial_and_transverse(after - observed),
            "floor": radial_and_transverse(floor),
        },
        pixel_mm=np.concatenate(pixel_mm),
    )
