"""Lattices that stand for all others in pictures, and where a figure needs single values, not sums.

Medians over reflections, and points of a scatter, would need all of them in memory. They are those
of `MOST_LATTICES` lattices: all where there are no more, else as many, drawn by their identities:
the same however often, in whatever parts and by however many ranks a product was written.
"""

from typing import TypeVar

import numpy as np

from spreadflow.analysis import identity_hash
from spreadflow.products import Predict, Stage1

P = TypeVar("P", Predict, Stage1)

MOST_LATTICES = 1000
"""Lattices of a product that are drawn, at most: medians over their reflections are within a
hundredth of a standard deviation of those over all.
"""


def are_drawn(shot_id: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Return which lattices (lattice,) stand for all, (lattice,) bool."""
    n = len(k)
    drawn = np.ones(n, dtype=bool)
    if n > MOST_LATTICES:
        lots = identity_hash.uniform(0, shot_id, k)
        drawn[np.argsort(lots, kind="stable")[MOST_LATTICES:]] = False
    return drawn


def of_drawn(tables: P, drawn: np.ndarray) -> P:
    """Return the drawn lattices of a part and their reflections. drawn: (lattice,) bool."""
    reflections = tables.reflections[drawn[tables.reflections.lattice]]
    row = np.cumsum(drawn) - 1
    reflections.lattice = row[reflections.lattice]
    return type(tables)(lattices=tables.lattices[drawn], reflections=reflections)
