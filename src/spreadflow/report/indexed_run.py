"""The product of `index` or `reindex` of one run, as its figures and pictures need it."""

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow.config import IndexSection
from spreadflow.io import store
from spreadflow.models import Detector
from spreadflow.physics import geometry
from spreadflow.products import Column, Index, Reindex
from spreadflow.report import style, truth
from spreadflow.report.runs import manifest_of, truth_in
from spreadflow.units import wavelength


class Compared(NamedTuple):
    """What only a simulation tells of a run, as functions of `report.truth` return it."""

    counts: dict[str, int]
    indices: dict[str, Any]
    recall: dict[str, Any]
    pulls: np.ndarray


class IndexedRun:
    """The product of one run and, where it was simulated, its truth."""

    def __init__(self, stage: str, path: Path, manifests: list[Path]):
        product = Reindex if stage == "reindex" else Index
        self.product = store.read(path, product)
        attributes = store.attributes(path, product)
        self.name = str(attributes["run"])
        self.section = IndexSection.model_validate(attributes["config"])
        self.bandwidth = attributes.get("bandwidth")
        self.detector = Detector.from_json(attributes["detector"])
        self.has_images = "manifest" in attributes
        """whether there are any; where they are is another question"""
        self.manifest = manifest_of(self.name, manifests)
        simulated = truth_in(self.manifest) if self.manifest else None
        self.matched: truth.MatchedRun | None = None
        if simulated is not None:
            match = truth.match(self.product, simulated, self.section.space_group)
            self.matched = truth.MatchedRun(self.product, simulated, match)

    @cached_property
    def compared(self) -> Compared | None:
        """What only a simulation tells of the run; None where it was not simulated."""
        matched = self.matched
        if matched is None:
            return None
        return Compared(
            counts=truth.counts(matched),
            indices=truth.indices(matched),
            recall=truth.recall(matched, self.section.d_min, self.detector.shape),
            pulls=truth.pulls(matched),
        )

    def spot_positions_mm(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return (spot, 3) where spots are in the lab, mm. rows: the spots; by default all."""
        spots = self.product.spots[rows]
        return geometry.position(self.detector, spots.panel, spots.fast, spots.slow)

    def spot_resolutions(self) -> np.ndarray:
        """Return d (spot,), Å, at the mean energy of the shot of each spot."""
        energy = self.product.shots.mean_energy_ev[self.product.spots.shot]
        return resolution(self.spot_positions_mm(), energy)

    def differences_px(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (n, 2) observed − predicted of strong reflections, radial and transverse, px, and
        the panel (n,) of each.
        """
        reflections = self.product.reflections
        strong = reflections[np.isfinite(reflections.fast_obs) & (reflections.flags == 0)]
        fast_difference = strong.fast_obs - strong.fast
        slow_difference = strong.slow_obs - strong.slow
        difference = np.stack([fast_difference, slow_difference], axis=1)
        axes = geometry.radial_axes(self.detector, strong.panel, strong.fast, strong.slow)
        return np.einsum("nij,nj->ni", axes, difference), strong.panel


def concatenated(runs: list[IndexedRun], column: Column) -> np.ndarray:
    """Return a column of all runs, one after another."""
    tables = [run.product.tables[column.table.table_name] for run in runs]
    return np.concatenate([table.as_dict()[column.name] for table in tables])


def pixels_mm(runs: list[IndexedRun]) -> np.ndarray:
    """Return (lattice,) the edge of a pixel for each lattice of all runs, mm."""
    edges = [run.detector.pixel_mm for run in runs]
    return np.repeat(edges, [len(run.product.lattices) for run in runs])


def resolution(position_mm: np.ndarray, energy_ev: np.ndarray | float) -> np.ndarray:
    """Return d (n,), Å, of places (n, 3) in the lab, mm, at photon energies (n,), or one."""
    length = np.linalg.norm(position_mm, axis=-1)
    sine2 = 0.5 * (1 + position_mm[..., 2] / length)  # sin²θ: the beam goes along −z
    with np.errstate(divide="ignore"):
        return wavelength(energy_ev) / (2 * np.sqrt(np.maximum(sine2, 0.0)))


def rings(axes: Any, run: IndexedRun, row: int, size: float = 22.0) -> None:
    """Draw a ring around each predicted reflection of all lattices of a shot; weak ones are
    smaller.

    axes: in mm. row: of the shot. size: of a ring, square points.
    """
    colors = (style.RED, style.PURPLE, style.ORANGE)
    for number, lattice in enumerate(np.flatnonzero(run.product.lattices.shot == row)):
        in_lattice = run.product.reflections.lattice == lattice
        reflections = run.product.reflections[in_lattice]
        strong = reflections.intensity > 3 * reflections.sigma
        position = geometry.position(
            run.detector, reflections.panel, reflections.fast, reflections.slow
        )
        x, y, _ = position.T
        color = colors[number % len(colors)]
        look: dict[str, Any] = {"facecolors": "none", "edgecolors": color}
        axes.scatter(x[strong], y[strong], s=size, linewidths=0.8, label="I > 3 σ", **look)
        axes.scatter(x[~strong], y[~strong], s=0.36 * size, linewidths=0.3, label="weaker", **look)
