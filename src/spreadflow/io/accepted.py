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
    own = {name: column[is_of_run] for name, column in columns.items()}
    if not all(np.array_equal(own[name], lattices[name]) for name in IDENTITY):
        todo = "Rerun cells on all runs."
        raise FileError(cells, f"the lattices of {reindex}", "others", todo)
    return own["lattices/outcome"] == LatticeOutcome.ACCEPTED
