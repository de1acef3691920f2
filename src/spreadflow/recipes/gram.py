"""One lattice on its way to the curves: from packed shoeboxes to its Gram matrices, and to rows and
back.
"""

from typing import Any, NamedTuple

import numpy as np

from spreadflow.analysis.curves import expand, gram
from spreadflow.analysis.curves.gram import Gram
from spreadflow.analysis.pixels import lattice_fit
from spreadflow.config import SpreadSection, Stage1Section
from spreadflow.errors import RefinedOutcome, SpreadOutcome
from spreadflow.io import schema
from spreadflow.models import Mosaic
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.recipes.lattice import PackedLattice, RunModel, Start, refine_lattice

LATTICE_FIELDS = ("loss", "score", "nuisance", "n_pixels")
"""Fields of a Gram that are columns of its row of `lattices`."""

COLUMN_FIELDS = ("hkl", "intensity", "slope", "cross")
"""Fields of a Gram that are columns of its rows of `columns`, as they are; its channel is one of
the product's.
"""

Tables = dict[str, dict[str, Any]]
"""Table → column → rows."""


class LatticeGram(NamedTuple):
    """What became of a lattice: its outcome, why where it is not used, and its rows where it is."""

    outcome: SpreadOutcome
    why: str
    tables: Tables


def blank_tables(n_unknowns: int, n_channels: int) -> Tables:
    """Return the tables of a lattice that is not used: a row of `lattices`, and no columns."""
    sizes: dict[Any, int] = {"unknown": n_unknowns, "channel": n_channels, "columns": 0}
    tables: Tables = {"lattices": {}, "columns": {}}
    for path, dataset in schema.FILES["gram"].items():
        table, name = path.split("/")
        if table in tables:
            dims = dataset.dims[1:] if table == "lattices" else dataset.dims
            shape = [sizes.get(size, size) for size in dims]
            fill = np.nan if dataset.dtype == "float64" else 0
            tables[table][name] = np.full(shape, fill)
    return tables


def with_curves(factors: StructureFactors, curves: np.ndarray) -> StructureFactors:
    """Return structure factors with other f′, f″ (site, 2, channel) of their sites."""
    others = factors.anomalous[factors.n_sites :]
    sites = curves[:, 0] + 1j * curves[:, 1]
    return factors._replace(anomalous=np.concatenate([sites, others]))


def expand_lattice(
    packed: PackedLattice,
    mosaic: Mosaic,
    model: RunModel,
    pixels: Stage1Section,
    section: SpreadSection,
    start: Start,
    unknowns: list[str],
) -> LatticeGram:
    """Refine a lattice from where it ended last, and return its rows of the tables of schema
    `gram`.

    pixels: how lattices are modelled; unknowns: names of those that any lattice has.
    """
    fit = refine_lattice(packed, mosaic, model, pixels, start)
    if fit.problem is None or fit.refined is None or fit.outcome == RefinedOutcome.LOST:
        return LatticeGram(SpreadOutcome.LOST, fit.why, {})
    problem = fit.problem
    refined = fit.refined
    point = refined.fit.point
    crystal = refined.parameters.crystal
    model_error = section.model_error
    if model_error is None:
        model_error = gram.model_error(
            point.model, point.bragg, problem.data.photons, problem.noise
        )
    refined_model = lattice_fit.Model(
        lattice_fit.moved(problem, refined.parameters), tuple(pixels.refine), pixels.n_cells_axes
    )
    own = gram.gram(refined_model, point.planes, model_error=model_error)
    lattice_gram = padded(own, refined.names, unknowns)
    channels = np.flatnonzero(np.isin(model.energies_ev, packed.spectrum.energies_ev))
    photons = np.zeros(len(model.energies_ev))
    photons[channels] = packed.spectrum.photons
    n_columns = len(lattice_gram.channel)
    n_boxes = len(lattice_gram.start) - 1
    row = {
        "A": crystal.A,
        "n_cells": crystal.n_cells,
        "eta_rad": crystal.eta_rad,
        "scale": refined.parameters.scale,
        **{name: getattr(lattice_gram, name) for name in LATTICE_FIELDS},
        "photons": photons,
        "model_error": model_error,
        "sigma_z": lattice_fit.sigma_z(point, problem.data, problem.noise),
    }
    columns = {name: getattr(lattice_gram, name) for name in COLUMN_FIELDS}
    columns["channel"] = channels[lattice_gram.channel]
    columns["lattice"] = np.zeros(n_columns, dtype=int)
    boxes = {
        "n_columns": np.diff(lattice_gram.start),
        "lattice": np.zeros(n_boxes, dtype=int),
    }
    tables: Tables = {
        "lattices": row,
        "boxes": boxes,
        "columns": columns,
        "triangles": {"value": lattice_gram.normal},
    }
    return LatticeGram(SpreadOutcome.USED, "", tables)


def padded(own: Gram, names: list[str], unknowns: list[str]) -> Gram:
    """Return a Gram with places for all unknowns; those that the lattice has not are held by their
    restraint.
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


def grams(columns: dict[str, np.ndarray]) -> list[tuple[int, Gram]]:
    """Return row of `lattices` and Gram of every lattice of a part that is used."""
    lattice_of_box = columns["boxes/lattice"]
    lattice_of_column = columns["columns/lattice"]
    n_columns = columns["boxes/n_columns"].astype(np.int64)
    triangles = np.concatenate([[0], np.cumsum(n_columns * (n_columns + 1) // 2)])
    rows = np.flatnonzero(columns["lattices/outcome"] == SpreadOutcome.USED)
    out = []
    for row in rows:
        boxes = np.flatnonzero(lattice_of_box == row)
        first, last = (boxes[0], boxes[-1] + 1) if len(boxes) else (0, 0)
        is_own = lattice_of_column == row
        lattice_gram = Gram(
            start=np.concatenate([[0], np.cumsum(n_columns[boxes])]),
            normal=columns["triangles/value"][triangles[first] : triangles[last]],
            channel=columns["columns/channel"][is_own],
            **{name: columns[f"columns/{name}"][is_own] for name in COLUMN_FIELDS},
            **{name: columns[f"lattices/{name}"][row] for name in LATTICE_FIELDS},
        )
        out.append((int(row), lattice_gram))
    return out


def lattice_terms(lattice_gram: Gram, factors: StructureFactors) -> expand.LatticeTerms:
    """Return a Gram with what F of its columns is made of. Raises ValueError where the factors lack
    one of its nodes.
    """
    rows = expand.rows(factors, lattice_gram.hkl)
    if (rows < 0).any():
        missing = lattice_gram.hkl[rows < 0][0].tolist()
        raise ValueError(f"no structure factor of {missing}")
    return expand.lattice(lattice_gram, factors, rows)
