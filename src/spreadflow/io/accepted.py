"""The accepted lattices of a run, from the product of `cells`."""

from pathlib import Path

import numpy as np

from spreadflow.errors import FileError, LatticeOutcome
from spreadflow.io import store

IDENTITY = ("lattices/shot_id", "lattices/k")
"""Columns that say which lattice a row is of."""


def accepted_lattices(cells: Path, reindex: Path) -> np.ndarray:
    """Return which lattices of a run's reindex product are accepted, (lattice,) bool.

    cells: product of `cells`; reindex: product of the run. Raises FileError where the two do not
    belong together.
    """
    runs = store.attributes(cells, "cells")["runs"]
    run = store.attributes(reindex, "reindex")["run"]
    columns = store.read(cells, "cells", ["lattices/run", "lattices/outcome", *IDENTITY])
    lattices = store.read(reindex, "reindex", IDENTITY)

    number = runs.index(run) if run in runs else -1
    is_of_run = columns["lattices/run"] == number
    is_same = [np.array_equal(columns[name][is_of_run], lattices[name]) for name in IDENTITY]
    if not all(is_same):
        raise FileError(cells, f"the lattices of {reindex}", "others", "Rerun cells on all runs.")
    return columns["lattices/outcome"][is_of_run] == LatticeOutcome.ACCEPTED
