"""Normal equations of the intensities of unique reflections, from the Gram matrices of lattices.

−ln L of a lattice is a parabola in the intensities of its reflections and in what stage 1 refines
of it (`curves.gram`). The latter is eliminated lattice by lattice, so that the equations are those
of intensities alone: M = G − Cᵀ N⁻¹ C, G the sum of the shoeboxes' matrices, C what lattices and
intensities share, N what is known of the lattices. M itself is never formed: G is sparse, and
Cᵀ N⁻¹ C is applied lattice by lattice.

What a lattice shows of a reflection scatters about its intensity beyond the noise of the pixels:
|F|² changes with the energy, and no model of a crystal is right. That scatter is one more unknown
of each column with a normal prior, and is eliminated first.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy

from spreadflow.analysis import least_squares


class Batch(NamedTuple):
    """The Gram matrices of some lattices, column after column, lattice after lattice.

    Columns are reflections, each flat in energy; the other fields are those of `curves.gram.Gram`.
    """

    lattice: np.ndarray
    """(column,) row of the lattice, rising"""
    unique: np.ndarray
    """(column,) number of the unique reflection"""
    sizes: np.ndarray
    """(box,) columns of each shoebox"""
    intensity: np.ndarray
    slope: np.ndarray
    cross: np.ndarray
    """(column, unknown)"""
    normal: np.ndarray
    nuisance: np.ndarray
    """(lattice, unknown, unknown)"""
    score: np.ndarray
    """(lattice, unknown)"""
    loss: np.ndarray
    """(lattice,)"""
    log_volume: np.ndarray
    """(lattice,) ln of the unit cells that each lattice has in the beam"""


class Boxes(NamedTuple):
    """Shoeboxes of one size n, their scatter eliminated."""

    columns: np.ndarray
    """(box, n) columns of the batch"""
    normal: np.ndarray
    """(box, n, n)"""


class Parabolas(NamedTuple):
    """−ln L of the lattices of a batch about some intensities, scatter eliminated."""

    boxes: list[Boxes]
    slope: np.ndarray
    """(column,) fall of −ln L by I"""
    cross: np.ndarray
    """(column, unknown)"""
    nuisance: np.ndarray
    """(lattice, unknown, unknown)"""
    score: np.ndarray
    """(lattice, unknown)"""
    loss: np.ndarray
    """(lattice,)"""

    @property
    def information(self) -> np.ndarray:
        """(column,) what each column says about I, lattices held: the diagonal of `normal`."""
        out = np.empty(len(self.slope))
        for columns, normal in self.boxes:
            out[columns] = np.einsum("bii->bi", normal)
        return out


class Equations(NamedTuple):
    """The normal equations of the lattices that one rank holds, about some intensities."""

    intensity: np.ndarray
    """(reflection,) about which −ln L is expanded"""
    slope: np.ndarray
    """(reflection,) fall of −ln L by I, lattices held"""
    normal: "scipy.sparse.csr_matrix"
    """(reflection, reflection) G"""
    cross: "scipy.sparse.csr_matrix"
    """(lattice · unknown, reflection) C"""
    nuisance: np.ndarray
    """(lattice, unknown, unknown) N"""
    score: np.ndarray
    """(lattice, unknown) fall of −ln L by what stage 1 refines"""
    loss: np.ndarray
    """(lattice,) −ln L at the expansion"""
    log_volume: np.ndarray
    """(lattice,) ln of the unit cells that each lattice has in the beam, at the expansion"""
    n_seen: np.ndarray
    """(reflection,) lattices that recorded it"""


def chosen(batch: Batch, is_chosen: np.ndarray) -> Batch:
    """Return the lattices of a batch that are chosen, (lattice,) bool."""
    of_column = is_chosen[batch.lattice]
    first_column = np.cumsum(batch.sizes) - batch.sizes
    has_columns = batch.sizes > 0
    of_box = np.zeros(len(batch.sizes), dtype=bool)
    of_box[has_columns] = of_column[first_column[has_columns]]
    n_values = batch.sizes * (batch.sizes + 1) // 2
    number = np.cumsum(is_chosen) - 1
    return Batch(
        lattice=number[batch.lattice[of_column]],
        sizes=batch.sizes[of_box],
        normal=batch.normal[np.repeat(of_box, n_values)],
        **{
            name: getattr(batch, name)[of_column]
            for name in ("unique", "intensity", "slope", "cross")
        },
        **{
            name: getattr(batch, name)[is_chosen]
            for name in ("nuisance", "score", "loss", "log_volume")
        },
    )


def without_shapes(batch: Batch, is_shared: np.ndarray) -> Batch:
    """Return a batch in which shapes of spots say nothing about some unknowns of its lattices:
    these act through the intensities that they give alone. is_shared: (unknown,) bool.

    What a lattice knows of its unknowns, N, is CᵀG⁻¹C, which intensities would take up, and the
    rest, which is that of the shapes.
    """
    n_lattices = len(batch.loss)
    rest = np.concatenate([batch.cross, batch.slope[:, None]], axis=1)
    taken_up = np.zeros((*batch.cross.shape, rest.shape[1]))
    for columns, normal in boxes_of(batch):
        by_intensity = least_squares.solve(least_squares.regular(normal), rest[columns])
        taken_up[columns] = batch.cross[columns][:, :, :, None] * by_intensity[:, :, None, :]
    sums = by_lattice(taken_up, batch.lattice, n_lattices)
    either = is_shared[:, None] | is_shared
    nuisance = np.where(either, sums[:, :, :-1], batch.nuisance)
    score = np.where(is_shared, sums[:, :, -1], batch.score)
    return batch._replace(nuisance=0.5 * (nuisance + nuisance.transpose(0, 2, 1)), score=score)


def held(batch: Batch, is_shared: np.ndarray, value: np.ndarray) -> Batch:
    """Return a batch whose lattices have some unknowns no more: they are held where they have such
    values (shared,). is_shared: (unknown,) bool.
    """
    own = ~is_shared
    by_shared = batch.nuisance[:, :, is_shared] @ value
    loss = (0.5 * by_shared - batch.score)[:, is_shared] @ value
    return batch._replace(
        slope=batch.slope - batch.cross[:, is_shared] @ value,
        cross=batch.cross[:, own],
        nuisance=batch.nuisance[:, own][:, :, own],
        score=(batch.score - by_shared)[:, own],
        loss=batch.loss + loss,
    )


def no_lattices(n_unknowns: int) -> Batch:
    """Return a batch without lattices, as a rank without any holds it."""
    return Batch(
        lattice=np.empty(0, dtype=np.int64),
        unique=np.empty(0, dtype=np.int64),
        sizes=np.empty(0, dtype=np.int64),
        intensity=np.empty(0),
        slope=np.empty(0),
        cross=np.empty((0, n_unknowns)),
        normal=np.empty(0),
        nuisance=np.empty((0, n_unknowns, n_unknowns)),
        score=np.empty((0, n_unknowns)),
        loss=np.empty(0),
        log_volume=np.empty(0),
    )


def boxes_of(batch: Batch) -> Iterator[Boxes]:
    """Yield the matrices of a batch, those of shoeboxes of one size together."""
    first_column = np.cumsum(batch.sizes) - batch.sizes
    n_values = batch.sizes * (batch.sizes + 1) // 2
    first_value = np.cumsum(n_values) - n_values
    for n in np.unique(batch.sizes[batch.sizes > 0]).tolist():
        own = np.flatnonzero(batch.sizes == n)
        row, column = np.tril_indices(n)
        values = batch.normal[first_value[own, None] + np.arange(len(row))]
        normal = np.empty((len(own), n, n))
        normal[:, row, column] = values
        normal[:, column, row] = values
        yield Boxes(first_column[own, None] + np.arange(n), normal)


def parabolas(batch: Batch, intensity: np.ndarray, scatter: np.ndarray) -> Parabolas:
    """Return −ln L of the lattices of a batch about `intensity` (reflection,).

    scatter: (reflection,) standard deviation of what a lattice shows of a reflection about its
    intensity, beside what stage 1 refines; > 0.
    """
    n_lattices, n_unknowns = batch.score.shape
    about = intensity[batch.unique]
    away = about - batch.intensity
    precision = scatter[batch.unique] ** -2.0
    slope = batch.slope.copy()
    cross = batch.cross.copy()
    of_columns = np.zeros((len(away), n_unknowns, n_unknowns + 1))
    losses = np.zeros(len(away))
    boxes = []
    for columns, normal in boxes_of(batch):
        pulled = np.einsum("bij,bj->bi", normal, away[columns])
        losses[columns] = (0.5 * pulled - batch.slope[columns]) * away[columns]
        rest = np.concatenate(
            [batch.cross[columns], (batch.slope[columns] - pulled)[:, :, None]], axis=2
        )
        free = _without_scatter(normal, rest, precision[columns])
        of_columns[columns] = rest[:, :, :-1, None] * free.taken[:, :, None, :]
        losses[columns] -= 0.5 * rest[:, :, -1] * free.taken[:, :, -1]
        cross[columns] = free.rest[:, :, :-1]
        slope[columns] = free.rest[:, :, -1]
        boxes.append(Boxes(columns, free.normal))

    explained = by_lattice(of_columns, batch.lattice, n_lattices)
    moved = by_lattice(away[:, None] * batch.cross, batch.lattice, n_lattices)
    return Parabolas(
        boxes=boxes,
        slope=slope,
        cross=cross,
        nuisance=batch.nuisance - explained[:, :, :-1],
        score=batch.score - moved - explained[:, :, -1],
        loss=batch.loss + by_lattice(losses, batch.lattice, n_lattices),
    )


class _WithoutScatter(NamedTuple):
    """Shoeboxes of one size, the scatter of their columns eliminated."""

    normal: np.ndarray
    """(box, n, n)"""
    rest: np.ndarray
    """(box, n, unknown + 1) cross, and last the slope"""
    taken: np.ndarray
    """(box, n, unknown + 1) what the scatter takes of the rest"""


def _without_scatter(
    normal: np.ndarray, rest: np.ndarray, precision: np.ndarray
) -> _WithoutScatter:
    """Return the matrices (box, n, n) and the rest (box, n, unknown + 1) of shoeboxes without the
    scatter of their columns, of which precision (box, n) is known.
    """
    held = np.linalg.inv(normal + _diagonal(precision))
    taken = held @ rest
    return _WithoutScatter(normal - normal @ held @ normal, rest - normal @ taken, taken)


def _diagonal(values: np.ndarray) -> np.ndarray:
    """Return diagonal matrices (n, m, m) of values (n, m)."""
    return values[:, :, None] * np.eye(values.shape[1])


def by_lattice(columns: np.ndarray, lattice: np.ndarray, n_lattices: int) -> np.ndarray:
    """Return sums (lattice, ...) of columns (column, ...) over those of each lattice; lattice:
    (column,), rising.
    """
    out = np.zeros((n_lattices, *columns.shape[1:]))
    if len(lattice):
        rows, first = np.unique(lattice, return_index=True)
        out[rows] = np.add.reduceat(columns, first, axis=0)
    return out


def equations(batch: Batch, intensity: np.ndarray, scatter: np.ndarray) -> Equations:
    """Return the equations of the lattices of a batch; the arguments are those of `parabolas`."""
    of_lattices = parabolas(batch, intensity, scatter)
    n = len(intensity)
    n_lattices, n_unknowns = batch.score.shape
    rows = []
    columns = []
    values = []
    for boxes in of_lattices.boxes:
        unique = batch.unique[boxes.columns]
        rows.append(np.broadcast_to(unique[:, :, None], boxes.normal.shape).ravel())
        columns.append(np.broadcast_to(unique[:, None, :], boxes.normal.shape).ravel())
        values.append(boxes.normal.ravel())
    nothing = np.empty(0, dtype=np.int64)
    place = (np.concatenate([nothing, *rows]), np.concatenate([nothing, *columns]))
    normal = scipy.sparse.csr_matrix((np.concatenate([np.empty(0), *values]), place), shape=(n, n))

    unknown = batch.lattice[:, None] * n_unknowns + np.arange(n_unknowns)
    reflection = np.broadcast_to(batch.unique[:, None], unknown.shape)
    place = (unknown.ravel(), reflection.ravel())
    cross = scipy.sparse.csr_matrix(
        (of_lattices.cross.ravel(), place), shape=(n_lattices * n_unknowns, n)
    )
    recorded = np.unique(batch.lattice * n + batch.unique) % n
    return Equations(
        intensity=intensity,
        slope=np.bincount(batch.unique, of_lattices.slope, n),
        normal=normal,
        cross=cross,
        nuisance=of_lattices.nuisance,
        score=of_lattices.score,
        loss=of_lattices.loss,
        log_volume=batch.log_volume,
        n_seen=np.bincount(recorded, minlength=n),
    )


def joined(parts: Iterable[Equations]) -> Equations:
    """Return the equations of the lattices of all parts, at least one, in their order, about the
    same intensities. Parts are added as they come, so that they need not all be in memory.
    """
    iterator = iter(parts)
    total = next(iterator)
    pieces = [_of_lattices(total)]
    for part in iterator:
        pieces.append(_of_lattices(part))
        total = total._replace(
            slope=total.slope + part.slope,
            normal=total.normal + part.normal,
            n_seen=total.n_seen + part.n_seen,
        )
    columns = {name: [piece[name] for piece in pieces] for name in pieces[0]}
    cross = scipy.sparse.csr_matrix(scipy.sparse.vstack(columns.pop("cross")))
    return total._replace(
        cross=cross, **{name: np.concatenate(column) for name, column in columns.items()}
    )


def _of_lattices(part: Equations) -> dict[str, Any]:
    """Return what equations hold by lattice."""
    names = ("cross", "nuisance", "score", "loss", "log_volume")
    return {name: getattr(part, name) for name in names}
