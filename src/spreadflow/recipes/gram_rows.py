"""Gram matrices as rows of the tables of schema `gram`, and back."""

from typing import Any

import numpy as np

from spreadflow.analysis.curves.gram import Gram
from spreadflow.errors import SpreadOutcome
from spreadflow.io.rows import blank
from spreadflow.recipes.gram import ExpandedLattice

LATTICE_FIELDS = ("loss", "score", "nuisance", "n_pixels")
"""Fields of a Gram that are columns of its row of `lattices`."""

COLUMN_FIELDS = ("hkl", "channel", "intensity", "slope", "cross")
"""Fields of a Gram that are columns of its rows of `columns`."""

Tables = dict[str, dict[str, Any]]
"""Table → column → rows; a lattice's own row of `lattices` is column → value."""


def blank_tables(n_unknowns: int, n_channels: int) -> Tables:
    """Return the tables of a lattice that is not used: a row of `lattices`, and no columns."""
    lattice = blank("gram", "lattices", unknown=n_unknowns, channel=n_channels)
    column = blank("gram", "columns", unknown=n_unknowns)
    no_columns = {name: value[np.newaxis][:0] for name, value in column.items()}
    return {"lattices": lattice, "columns": no_columns}


def tables_of(lattice: ExpandedLattice, unknowns: list[str]) -> Tables:
    """Return the tables of a lattice that is used.

    unknowns: names of the unknowns that any lattice has.
    """
    assert lattice.gram is not None and lattice.start is not None, "only of lattices that are used"
    padded = _padded(lattice.gram, lattice.unknowns, unknowns)
    n_columns = len(padded.channel)
    n_boxes = len(padded.start) - 1
    row = lattice.start._asdict()
    row |= {name: getattr(padded, name) for name in LATTICE_FIELDS}
    row |= {name: getattr(lattice, name) for name in ("photons", "model_error", "sigma_z")}
    columns = {name: getattr(padded, name) for name in COLUMN_FIELDS}
    columns["lattice"] = np.zeros(n_columns, dtype=int)
    assert lattice.boxes is not None, "of every lattice that is used"
    boxes = lattice.boxes | {
        "n_columns": np.diff(padded.start),
        "lattice": np.zeros(n_boxes, dtype=int),
    }
    return {
        "lattices": row,
        "boxes": boxes,
        "columns": columns,
        "triangles": {"value": padded.normal},
    }


def _padded(own: Gram, names: tuple[str, ...], unknowns: list[str]) -> Gram:
    """Return a Gram with places for all unknowns.

    A unit restraint holds each unknown that the lattice does not have.
    """
    places = [unknowns.index(name) for name in names]
    n = len(unknowns)
    nuisance = np.eye(n)
    nuisance[np.ix_(places, places)] = own.nuisance
    score = np.zeros(n)
    score[places] = own.score
    cross = np.zeros((len(own.cross), n))
    cross[:, places] = own.cross
    return own._replace(nuisance=nuisance, score=score, cross=cross)


def grams_of(columns: dict[str, np.ndarray]) -> list[tuple[int, Gram]]:
    """Return row of `lattices` and Gram of every lattice of a part that is used."""
    lattice_of_box = columns.boxes.lattice
    lattice_of_column = columns.columns.lattice
    n_columns = columns.boxes.n_columns.astype(np.int64)
    n_values = n_columns * (n_columns + 1) // 2
    triangles = np.concatenate([[0], np.cumsum(n_values)])
    grams = []
    for row in np.flatnonzero(columns.lattices.outcome == SpreadOutcome.USED):
        boxes = np.flatnonzero(lattice_of_box == row)
        first, last = (boxes[0], boxes[-1] + 1) if len(boxes) else (0, 0)
        is_own = lattice_of_column == row
        lattice_gram = Gram(
            start=np.concatenate([[0], np.cumsum(n_columns[boxes])]),
            normal=columns.triangles.value[triangles[first] : triangles[last]],
            **{name: columns[f"columns/{name}"][is_own] for name in COLUMN_FIELDS},
            **{name: columns[f"lattices/{name}"][row] for name in LATTICE_FIELDS},
        )
        grams.append((int(row), lattice_gram))
    return grams
