"""The product of `index` or `reindex` of one run, as its figures and pictures need it."""

from pathlib import Path
from typing import Any

import numpy as np

from spreadflow.config import IndexSection
from spreadflow.io import store
from spreadflow.io.truth import read_truth
from spreadflow.models import Detector
from spreadflow.physics import geometry
from spreadflow.report import style, truth
from spreadflow.report.figures import columns
from spreadflow.report.runs import manifest_of
from spreadflow.units import wavelength


class IndexedRun:
    """The product of one run and, where it was simulated, its truth."""

    def __init__(self, stage: str, product: Path, manifests: list[Path]):
        self.table = store.read(product, stage)
        attributes = store.attributes(product, stage)
        self.name = str(attributes["run"])
        self.section = IndexSection.model_validate(attributes["config"])
        self.bandwidth = attributes.get("bandwidth")
        self.detector = Detector.from_json(attributes["detector"])
        self.manifest = manifest_of(self.name, manifests)
        simulated = read_truth(self.manifest) if self.manifest else None
        self.matched: truth.MatchedRun | None = None
        if simulated is not None:
            match = truth.match(self.table, simulated, self.section.space_group)
            self.matched = truth.MatchedRun(self.table, simulated, match)

    def spot_positions_mm(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return (spot, 3) where spots are in the lab, mm. rows: the spots; by default all."""
        spots = columns(self.table, "spots", rows)
        return geometry.position(self.detector, spots["panel"], spots["fast"], spots["slow"])

    def spot_resolutions(self) -> np.ndarray:
        """Return d (spot,), Å, at the mean energy of the shot of each spot."""
        energy = self.table.shots.mean_energy_ev[self.table.spots.shot]
        return resolution(self.spot_positions_mm(), energy)

    def differences_px(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (n, 2) observed − predicted of strong reflections, radial and transverse, px, and
        the panel (n,) of each.
        """
        table = self.table
        is_observed = np.isfinite(table.reflections.fast_obs) & (table.reflections.flags == 0)
        reflections = columns(table, "reflections", is_observed)
        fast = reflections["fast"]
        slow = reflections["slow"]
        fast_difference = reflections["fast_obs"] - fast
        slow_difference = reflections["slow_obs"] - slow
        difference = np.stack([fast_difference, slow_difference], axis=1)
        axes = geometry.radial_axes(self.detector, reflections["panel"], fast, slow)
        return np.einsum("nij,nj->ni", axes, difference), reflections["panel"]


def concatenated(runs: list[IndexedRun], column: str) -> np.ndarray:
    """Return a column of all runs, one after another."""
    return np.concatenate([run.table[column] for run in runs])


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
    table = run.table
    colors = (style.RED, style.PURPLE, style.ORANGE)
    for number, lattice in enumerate(np.flatnonzero(table.lattices.shot == row)):
        in_lattice = table.reflections.lattice == lattice
        intensity = table.reflections.intensity[in_lattice]
        strong = intensity > 3 * table.reflections.sigma[in_lattice]
        panel = table.reflections.panel[in_lattice]
        fast = table.reflections.fast[in_lattice]
        slow = table.reflections.slow[in_lattice]
        x, y, _ = geometry.position(run.detector, panel, fast, slow).T
        color = colors[number % len(colors)]
        look: dict[str, Any] = {"facecolors": "none", "edgecolors": color}
        axes.scatter(x[strong], y[strong], s=size, linewidths=0.8, label="I > 3 σ", **look)
        axes.scatter(x[~strong], y[~strong], s=0.36 * size, linewidths=0.3, label="weaker", **look)
