"""The accepted lattices of a run, from the product of `cells`."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.errors import FileError, LatticeOutcome
from spreadflow.io import store

IDENTITY = ("lattices/shot_id", "lattices/k")
"""Columns that say which lattice a row is of."""


class Accepted(NamedTuple):
    """What `cells` says of the lattices of a run."""

    is_accepted: np.ndarray
    """(lattice,) bool"""
    setting: np.ndarray
    """(lattice, 3, 3) int, M: Miller indices on the axes that all lattices share are M · those of
    reindex
    """


def accepted_lattices(cells: Path, reindex: Path) -> Accepted:
    """Return which lattices of a run's reindex product are accepted, and on which axes.

    cells: product of `cells`; reindex: product of the run. Raises FileError where the two do not
    belong together.
    """
    runs = store.attributes(cells, "cells")["runs"]
    run = store.attributes(reindex, "reindex")["run"]
    names = ["lattices/run", "lattices/outcome", "lattices/setting", *IDENTITY]
    columns = store.read(cells, "cells", names)
    lattices = store.read(reindex, "reindex", IDENTITY)

    number = runs.index(run) if run in runs else -1
    is_of_run = columns["lattices/run"] == number
    own = {name: column[is_of_run] for name, column in columns.items()}
    if not all(np.array_equal(own[name], lattices[name]) for name in IDENTITY):
        todo = "Rerun cells on all runs."
        raise FileError(cells, f"the lattices of {reindex}", "others", todo)
    is_accepted = own["lattices/outcome"] == LatticeOutcome.ACCEPTED
    return Accepted(is_accepted, own["lattices/setting"])


def brought(hkl: np.ndarray, setting: np.ndarray) -> np.ndarray:
    """Return Miller indices (n, 3) on the shared axes; setting: (n, 3, 3) that of their lattice."""
    return np.einsum("nij,nj->ni", setting, hkl)
