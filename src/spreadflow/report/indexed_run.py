"""The product of `index` or `reindex` of one run, as its figures and pictures need it."""

from pathlib import Path
from typing import Any

import numpy as np

from spreadflow.config import IndexSection
from spreadflow.io import store
from spreadflow.io.truth import true_detector
from spreadflow.models import Detector
from spreadflow.physics import geometry
from spreadflow.products import Column, Index, Reindex
from spreadflow.products.index import Spots
from spreadflow.report import style
from spreadflow.report.runs import manifest_of
from spreadflow.units import wavelength

OF_SHOTS = (
    Index.shots.shot_id,
    Index.shots.outcome,
    Index.shots.n_spots,
    Index.shots.n_refused,
    Index.shots.mean_energy_ev,
    Index.shots.psf_fwhm_mm,
    Index.shots.seconds,
)
"""Columns of shots that are read of all parts together."""

OF_LATTICES = (
    Index.lattices.shot,
    Index.lattices.shot_id,
    Index.lattices.k,
    Index.lattices.eta_rad,
    Index.lattices.domain_estimated_ang,
    Index.lattices.n_indexed,
    Index.lattices.rmsd_radial_mm,
    Index.lattices.rmsd_transverse_mm,
    Index.lattices.n_rmsd,
    Index.lattices.shift_mm,
    Index.lattices.share_signal,
    Index.lattices.significance,
    Index.lattices.d_min,
)
"""The same of lattices."""


class IndexedRun:
    """The product of one run: small columns of all shots and lattices, and its parts, of which one
    at a time is in memory.
    """

    def __init__(self, stage: str, path: Path, manifests: list[Path]):
        product = Reindex if stage == "reindex" else Index
        self.parts = store.parts_of(path, product)
        read = store.read(path, product, [*OF_SHOTS, *OF_LATTICES])
        self.shots = read.shots
        """columns `OF_SHOTS`"""
        self.lattices = read.lattices
        """columns `OF_LATTICES`"""
        self.n_reflections = len(read.reflections)
        attributes = store.attributes(path, product)
        self.name = str(attributes["run"])
        self.section = IndexSection.model_validate(attributes["config"])
        self.bandwidth = attributes.get("bandwidth")
        self.detector = Detector.from_json(attributes["detector"])
        self.has_images = "manifest" in attributes
        """whether there are any; where they are is another question"""
        self.manifest = manifest_of(self.name, manifests)
        self.is_simulated = self.manifest is not None and true_detector(self.manifest) is not None

    def tables_of(self, shot: int) -> tuple[Index, int]:
        """Return all tables of the part that a shot is in, and its row there."""
        for part in self.parts:
            rows = part.rows("shots")
            if rows.start <= shot < rows.stop:
                return part.read(), shot - rows.start
        raise IndexError(f"run {self.name} has no shot {shot}")

    def positions_mm(self, spots: Spots) -> np.ndarray:
        """Return (spot, 3) where spots are in the lab, mm."""
        return geometry.position(self.detector, spots.panel, spots.fast, spots.slow)


def concatenated(runs: list[IndexedRun], column: Column) -> np.ndarray:
    """Return a column of the shots or lattices of all runs, one after another."""
    tables = [run.shots if column.table.table_name == "shots" else run.lattices for run in runs]
    return np.concatenate([table.as_dict()[column.name] for table in tables])


def pixels_mm(runs: list[IndexedRun]) -> np.ndarray:
    """Return (lattice,) the edge of a pixel for each lattice of all runs, mm."""
    edges = [run.detector.pixel_mm for run in runs]
    return np.repeat(edges, [len(run.lattices) for run in runs])


def resolution(position_mm: np.ndarray, energy_ev: np.ndarray | float) -> np.ndarray:
    """Return d (n,), Å, of places (n, 3) in the lab, mm, at photon energies (n,), or one."""
    length = np.linalg.norm(position_mm, axis=-1)
    sine2 = 0.5 * (1 + position_mm[..., 2] / length)  # sin²θ: the beam goes along −z
    with np.errstate(divide="ignore"):
        return wavelength(energy_ev) / (2 * np.sqrt(np.maximum(sine2, 0.0)))


def rings(axes: Any, run: IndexedRun, tables: Index, row: int, size: float = 22.0) -> None:
    """Draw a ring around each predicted reflection of all lattices of a shot; weak ones are
    smaller.

    axes: in mm. tables, row: the part that the shot is in, and its row there. size: of a ring,
    square points.
    """
    colors = (style.RED, style.PURPLE, style.ORANGE)
    for number, lattice in enumerate(np.flatnonzero(tables.lattices.shot == row)):
        reflections = tables.reflections[tables.reflections.lattice == lattice]
        strong = reflections.intensity > 3 * reflections.sigma
        position = geometry.position(
            run.detector, reflections.panel, reflections.fast, reflections.slow
        )
        x, y, _ = position.T
        color = colors[number % len(colors)]
        look: dict[str, Any] = {"facecolors": "none", "edgecolors": color}
        axes.scatter(x[strong], y[strong], s=size, linewidths=0.8, label="I > 3 σ", **look)
        axes.scatter(x[~strong], y[~strong], s=0.36 * size, linewidths=0.3, label="weaker", **look)
