"""Lattices whose pixels are linear in intensities and in what lattices have of their own: the truth
of the equations that stage 2 solves, and the same equations in full matrices.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.factors.equations import Batch

DIRECTION = np.array([1.0, 0.0, 0.0])
"""The first unknown of a lattice is ln of its volume."""


class Planted(NamedTuple):
    """Lattices and their truth."""

    batch: Batch
    intensity: np.ndarray
    """(reflection,) the true ones"""
    rows: np.ndarray
    """(observation, reflection + lattice · unknown) derivatives of observations in units of σ"""
    residual: np.ndarray
    """(observation,) data − model at the expansion, in units of σ"""
    column: np.ndarray
    """(observation,) column of the batch"""


def lattices(
    n_lattices: int = 12,
    n_reflections: int = 30,
    n_columns: int = 14,
    *,
    seed: int = 0,
    spread: float = 0.1,
    scatter: float = 0.0,
    relative_sigma: float = 0.05,
    common: float | None = None,
) -> Planted:
    """Return lattices that each record some reflections in shoeboxes of one or two columns, with
    four pixels a shoebox.

    spread: of ln volume; scatter: relative, of what lattices show of a reflection; relative_sigma:
    of a pixel's share of an intensity; common: the last unknown of all lattices; None = each has
    its own.
    """
    rng = np.random.default_rng(seed)
    truth = 100.0 * rng.exponential(size=n_reflections) + 20.0
    expanded = truth * (1.0 + 0.02 * rng.standard_normal(n_reflections))
    n_unknowns = len(DIRECTION)
    n_all = n_reflections + n_lattices * n_unknowns
    volumes = spread * rng.standard_normal(n_lattices)
    pieces: dict[str, list] = {name: [] for name in Batch._fields}
    rows = []
    residuals = []
    columns_of = []
    first = 0
    for lattice in range(n_lattices):
        unique = rng.choice(n_reflections, n_columns, replace=False)
        shown = truth[unique] * (1.0 + scatter * rng.standard_normal(n_columns))
        unknowns = np.array([volumes[lattice], *(0.01 * rng.standard_normal(2))])
        if common is not None:
            unknowns[-1] = common
        sizes = np.tile([1, 2], n_columns // 3 + 1)
        sizes = sizes[: np.searchsorted(np.cumsum(sizes), n_columns) + 1]
        sizes[-1] -= sizes.sum() - n_columns
        nuisance = 0.01 * np.eye(n_unknowns)
        score = np.zeros(n_unknowns)
        loss = 0.0
        column = 0
        for size in sizes:
            own = slice(column, column + size)
            T = rng.uniform(0.2, 1.0, (4, size))
            sigma = relative_sigma * (T @ expanded[unique[own]])
            by_intensity = T / sigma[:, None]
            bragg = (T @ expanded[unique[own]]) / sigma
            by_unknown = np.column_stack([bragg, bragg[:, None] * rng.standard_normal((4, 2))])
            change = by_intensity @ (shown[own] - expanded[unique[own]])
            residual = change + by_unknown @ unknowns + rng.standard_normal(4)
            pieces["normal"].append((by_intensity.T @ by_intensity)[np.tril_indices(size)])
            pieces["slope"].append(by_intensity.T @ residual)
            pieces["cross"].append(by_intensity.T @ by_unknown)
            nuisance += by_unknown.T @ by_unknown
            score += by_unknown.T @ residual
            loss += 0.5 * residual @ residual
            row = np.zeros((4, n_all))
            row[:, unique[own]] = by_intensity
            place = n_reflections + lattice * n_unknowns
            row[:, place : place + n_unknowns] = by_unknown
            rows.append(row)
            residuals.append(residual)
            columns_of.append(first + np.arange(own.start, own.stop))
            column += size
        first += n_columns
        pieces["lattice"].append(np.full(n_columns, lattice))
        pieces["unique"].append(unique)
        pieces["sizes"].append(sizes)
        pieces["intensity"].append(expanded[unique])
        pieces["nuisance"].append(nuisance[None])
        pieces["score"].append(score[None])
        pieces["loss"].append([loss])
        pieces["log_volume"].append([0.0])
    batch = Batch(**{name: np.concatenate(piece) for name, piece in pieces.items()})
    return Planted(
        batch, truth, np.concatenate(rows), np.concatenate(residuals), np.concatenate(columns_of)
    )


def full(planted: Planted, spread: float, scatter: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix and the right-hand side of all unknowns at the expansion, scatter of each
    column among them: intensities first, then lattices, then columns.

    scatter: (reflection,).
    """
    batch = planted.batch
    n_columns = len(batch.unique)
    n_reflections = len(planted.intensity)
    by_column = np.zeros((len(planted.residual), n_columns))
    row = 0
    first = 0
    for size in batch.sizes:
        own = np.arange(first, first + size)
        pixels = slice(row, row + 4)
        by_column[pixels, own] = planted.rows[pixels][:, batch.unique[own]]
        row += 4
        first += size
    design = np.concatenate([planted.rows, by_column], axis=1)
    n_lattices = len(batch.loss)
    own = 0.01 + np.array([1.0, 0.0, 0.0]) / spread**2
    precision = np.concatenate(
        [np.zeros(n_reflections), np.tile(own, n_lattices), scatter[batch.unique] ** -2.0]
    )
    return design.T @ design + np.diag(precision), design.T @ planted.residual
