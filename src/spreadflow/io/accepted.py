"""The accepted lattices of a run, from the product of `cells`."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.errors import FileError, LatticeOutcome
from spreadflow.io import store
from spreadflow.products import Cells, Reindex


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
    runs = store.attributes(cells, Cells)["runs"]
    run = store.attributes(reindex, Reindex)["run"]
    of_runs = store.read(cells, Cells, [Cells.lattices]).lattices
    identity = [Reindex.lattices.shot_id, Reindex.lattices.k]
    lattices = store.read(reindex, Reindex, identity).lattices

    number = runs.index(run) if run in runs else -1
    own = of_runs[of_runs.run == number]
    is_same_shot = np.array_equal(own.shot_id, lattices.shot_id)
    if not is_same_shot or not np.array_equal(own.k, lattices.k):
        todo = "Rerun cells on all runs."
        raise FileError(cells, f"the lattices of {reindex}", "others", todo)
    return Accepted(own.outcome == LatticeOutcome.ACCEPTED, own.setting)


def brought(hkl: np.ndarray, setting: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    """Return Miller indices (n, 3) of reflections on the shared axes.

    setting: (lattice, 3, 3); lattice: (n,) row of it. Those of lattices on these axes already,
    which most are, are not touched.
    """
    is_other = (setting != np.eye(3)).any(axis=(1, 2))
    if not is_other.any():
        return hkl
    rows = np.flatnonzero(is_other[lattice])
    hkl = hkl.copy()
    hkl[rows] = np.einsum("nij,nj->ni", setting[lattice[rows]], hkl[rows])
    return hkl
