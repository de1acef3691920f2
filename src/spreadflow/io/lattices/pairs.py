"""Pairs of files that DIALS writes: an experiment list (.expt) and its reflections (.refl)."""

from pathlib import Path

import numpy as np

from spreadflow.io.lattices.dials import ExperimentList
from spreadflow.io.lattices.indexed import IndexedLattice, IndexedLattices, IndexedReflections
from spreadflow.io.lattices.reflections import Table, read

COLUMNS = ("miller_index", "panel", "xyzobs.px.value")
"""Columns that a reflection table must have."""

MORE_COLUMNS = (
    "xyzcal.px",
    "intensity.sum.value",
    "intensity.sum.variance",
    "background.mean",
    "xyzobs.px.variance",
)
"""Columns that are read where a table has them."""


class Pair(IndexedLattices):
    """The lattices of an experiment list with their reflections. Raises FileError where a file is
    none.
    """

    def __init__(self, expt: Path | str, refl: Path | str):
        self._experiments = ExperimentList(expt)
        self._table = read(refl, COLUMNS, MORE_COLUMNS)

    def __len__(self) -> int:
        return len(self._experiments)

    def __getitem__(self, number: int) -> IndexedLattice:
        """Return a lattice. Raises FileError for an experiment that is no lattice of one shot."""
        experiment = self._experiments[number]
        rows = self._table.rows_of(experiment.identifier, number)
        return IndexedLattice(
            identifier=experiment.identifier,
            image=experiment.image,
            frame=experiment.frame,
            A=experiment.A,
            hall=experiment.hall,
            wavelength=experiment.wavelength,
            detector=experiment.detector,
            reflections=_reflections(self._table, rows),
        )


def _reflections(table: Table, rows: np.ndarray) -> IndexedReflections:
    """Return some rows of a table. rows: their numbers."""
    columns = {name: column[rows] for name, column in table.columns.items()}
    observed = columns["xyzobs.px.value"]
    predicted = columns.get("xyzcal.px")
    variance_obs = columns.get("xyzobs.px.variance")
    variance = columns.get("intensity.sum.variance")
    return IndexedReflections(
        hkl=columns["miller_index"],
        panel=columns["panel"],
        fast_obs=observed[:, 0],
        slow_obs=observed[:, 1],
        variance_obs=None if variance_obs is None else variance_obs[:, :2],
        fast=None if predicted is None else predicted[:, 0],
        slow=None if predicted is None else predicted[:, 1],
        intensity=columns.get("intensity.sum.value"),
        sigma=None if variance is None else np.sqrt(np.maximum(variance, 0.0)),
        background=columns.get("background.mean"),
    )
