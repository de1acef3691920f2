"""Gram matrices as rows of the tables of product `gram`, and back."""

import numpy as np

from spreadflow import products
from spreadflow.analysis.curves.gram import Gram
from spreadflow.errors import SpreadOutcome
from spreadflow.products import Children
from spreadflow.recipes.gram import ExpandedLattice


def unused(n_unknowns: int, n_channels: int) -> products.Gram:
    """Return the tables of a lattice that is not used: a row of `lattices`, and no columns."""
    return products.Gram(
        lattices=products.Gram.lattices.blank(unknown=n_unknowns, channel=n_channels),
        columns=products.Gram.columns.blank(0, unknown=n_unknowns),
    )


def used(lattice: ExpandedLattice, unknowns: list[str]) -> products.Gram:
    """Return the tables of a lattice that is used, without what says which one it is, how it ended
    and what it took.

    unknowns: names of the unknowns that any lattice has.
    """
    assert lattice.gram is not None and lattice.start is not None, "only of lattices that are used"
    padded = _padded(lattice.gram, lattice.unknowns, unknowns)
    n_columns = len(padded.channel)
    n_boxes = len(padded.start) - 1
    row = lattice.start._asdict() | {
        "photons": lattice.photons,
        "loss": padded.loss,
        "score": padded.score,
        "nuisance": padded.nuisance,
        "n_pixels": padded.n_pixels,
        "model_error": lattice.model_error,
        "sigma_z": lattice.sigma_z,
    }
    assert lattice.boxes is not None, "of every lattice that is used"
    return products.Gram(
        lattices=products.Gram.lattices.from_rows([row]),
        boxes=products.Gram.boxes(
            lattice=np.zeros(n_boxes, dtype=int),
            n_columns=np.diff(padded.start),
            **lattice.boxes.as_dict(),
        ),
        columns=products.Gram.columns(
            lattice=np.zeros(n_columns, dtype=int),
            hkl=padded.hkl,
            channel=padded.channel,
            intensity=padded.intensity,
            slope=padded.slope,
            cross=padded.cross,
        ),
        triangles=products.Gram.triangles(value=padded.normal),
    )


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


def grams_of(part: products.Gram) -> list[tuple[int, Gram]]:
    """Return row of `lattices` and Gram of every lattice of a part that is used: views of the part,
    as copies of all lattices would be as large as all parts.
    """
    boxes_of = Children(part.boxes.lattice)
    columns_of = Children(part.columns.lattice)
    lattices = part.lattices
    n_columns = part.boxes.n_columns.astype(np.int64)
    n_values = n_columns * (n_columns + 1) // 2
    triangles = np.concatenate([[0], np.cumsum(n_values)])
    grams = []
    for row in np.flatnonzero(lattices.outcome == SpreadOutcome.USED).tolist():
        boxes = _stretch(boxes_of[row])
        columns = part.columns[_stretch(columns_of[row])]
        lattice_gram = Gram(
            start=np.concatenate([[0], np.cumsum(n_columns[boxes])]),
            hkl=columns.hkl,
            channel=columns.channel,
            intensity=columns.intensity,
            slope=columns.slope,
            cross=columns.cross,
            nuisance=lattices.nuisance[row],
            score=lattices.score[row],
            normal=part.triangles.value[triangles[boxes.start] : triangles[boxes.stop]],
            loss=lattices.loss[row],
            n_pixels=lattices.n_pixels[row],
        )
        grams.append((row, lattice_gram))
    return grams


def _stretch(rows: np.ndarray) -> slice:
    """Return rows (n,) that follow each other."""
    return slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)
