"""One lattice on its way to the curves: from packed shoeboxes to Gram matrices and back from a file. No ranks."""

from typing import Any

import numpy as np

from spreadflow.analysis.curves import expand, gram
from spreadflow.analysis.curves.gram import Gram
from spreadflow.analysis.pixels import lattice_fit
from spreadflow.config import SpreadSection, Stage1Section
from spreadflow.errors import RefinedOutcome, SpreadOutcome
from spreadflow.io import schema
from spreadflow.models import Mosaic
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.recipes import lattice as pixelfit

TOLD = ("loss", "score", "nuisance", "n_pixels")
"""fields of a Gram that are columns of its row of `lattices`"""


def blank(n_unknowns: int, n_channels: int) -> dict[str, dict[str, Any]]:
    """The tables of a lattice that is not used: a row of `lattices`, and no columns."""
    sizes: dict[Any, int] = {"unknown": n_unknowns, "channel": n_channels, "columns": 0}
    out: dict[str, dict[str, Any]] = {"lattices": {}, "columns": {}}
    for path, dataset in schema.FILES["gram"].items():
        table, name = path.split("/")
        if table in out:
            shape = [sizes.get(n, n) for n in dataset.dims[table == "lattices" :]]
            out[table][name] = np.full(shape, np.nan if dataset.dtype == "float64" else 0)
    return out


def with_curves(factors: StructureFactors, curves: np.ndarray) -> StructureFactors:
    """The structure factors with other f′, f″ (site, 2, channel) of their sites."""
    others = factors.anomalous[factors.n_sites :]
    return factors._replace(anomalous=np.concatenate([curves[:, 0] + 1j * curves[:, 1], others]))


def tables(
    packed: pixelfit.PackedLattice,
    mosaic: Mosaic,
    given: pixelfit.RunModel,
    how: Stage1Section,
    section: SpreadSection,
    near: pixelfit.Start,
    names: list[str],
) -> tuple[SpreadOutcome, str, dict[str, dict[str, Any]]]:
    """What becomes of a lattice, why, and its rows of the tables of schema `gram`; names: of the unknowns there are."""
    ended = pixelfit.refine(packed, mosaic, given, how, near)
    if ended.of is None or ended.refined is None or ended.outcome == RefinedOutcome.LOST:
        return SpreadOutcome.LOST, ended.why, {}
    refined = ended.refined
    of = ended.of
    point = refined.fit.point
    crystal = refined.parameters.crystal
    error = section.model_error
    if error is None:
        error = gram.model_error(point.model, point.bragg, of.data.photons, of.noise)
    model = lattice_fit.Model(
        lattice_fit.moved(of, refined.parameters), tuple(how.refine), how.n_cells_axes
    )
    made = padded(gram.gram(model, point.planes, model_error=error), refined.names, names)
    of_pulse = np.flatnonzero(np.isin(given.energies_ev, packed.spectrum.energies_ev))
    photons = np.zeros(len(given.energies_ev))
    photons[of_pulse] = packed.spectrum.photons
    row = {
        "A": crystal.A,
        "n_cells": crystal.n_cells,
        "eta_rad": crystal.eta_rad,
        "scale": refined.parameters.scale,
    }
    row |= {name: getattr(made, name) for name in TOLD} | {"photons": photons, "model_error": error}
    row["sigma_z"] = lattice_fit.sigma_z(point, of.data, of.noise)
    columns = {name: getattr(made, name) for name in ("hkl", "intensity", "slope", "cross")}
    columns |= {
        "channel": of_pulse[made.channel],
        "lattice": np.zeros(len(made.channel), dtype=int),
    }
    boxes = {"n_columns": np.diff(made.start), "lattice": np.zeros(len(made.start) - 1, dtype=int)}
    return (
        SpreadOutcome.USED,
        "",
        {"lattices": row, "boxes": boxes, "columns": columns, "triangles": {"value": made.normal}},
    )


def padded(made: Gram, names: list[str], every: list[str]) -> Gram:
    """The same with places for all unknowns; those that are none of the lattice's are held by their restraint."""
    at = [every.index(name) for name in names]
    n = len(every)
    nuisance = np.eye(n)
    score = np.zeros(n)
    cross = np.zeros((len(made.cross), n))
    nuisance[np.ix_(at, at)], score[at], cross[:, at] = made.nuisance, made.score, made.cross
    return made._replace(nuisance=nuisance, score=score, cross=cross)


def grams(columns: dict) -> list[tuple[int, Gram]]:
    """Row of `lattices` and Gram of every lattice of a part that is used."""
    out = []
    used = columns["lattices/outcome"] == SpreadOutcome.USED
    of_box = columns["boxes/lattice"]
    of_column = columns["columns/lattice"]
    size = columns["boxes/n_columns"].astype(np.int64)
    ends = np.concatenate([[0], np.cumsum(size * (size + 1) // 2)])
    for i in np.flatnonzero(used):
        boxes = np.flatnonzero(of_box == i)
        mine = of_column == i
        first, last = (boxes[0], boxes[-1] + 1) if len(boxes) else (0, 0)
        fields = {
            name: columns[f"columns/{name}"][mine]
            for name in ("hkl", "channel", "intensity", "slope", "cross")
        }
        fields |= {name: columns[f"lattices/{name}"][i] for name in TOLD}
        start = np.concatenate([[0], np.cumsum(size[boxes])])
        out.append(
            (
                int(i),
                Gram(
                    start=start,
                    normal=columns["triangles/value"][ends[first] : ends[last]],
                    **fields,
                ),
            )
        )
    return out


def lattice(made: Gram, factors: StructureFactors) -> expand.LatticeTerms:
    """Ready for curves. Raises ValueError where the structure factors lack a node that the Gram has."""
    rows = expand.rows(factors, made.hkl)
    if (rows < 0).any():
        raise ValueError(f"no structure factor of {made.hkl[rows < 0][0].tolist()}")
    return expand.lattice(made, factors, rows)
