"""Chosen reflections of predicted lattices as DIALS reads them: predict.expt and predict.refl.

Read part by part: a column of all reflections is never in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from spreadflow.errors import PredictedOutcome
from spreadflow.io import store
from spreadflow.io.images import Source
from spreadflow.io.lattices import dials_writer, reflections
from spreadflow.models import CHOSEN
from spreadflow.products import Predict
from spreadflow.products.predict import Reflections
from spreadflow.units import wavelength

PREDICTED, OBSERVED, INDEXED, STRONG, INTEGRATED = 1, 2, 4, 32, 256
"""Bits of the column `flags` of DIALS."""


def write(parts: store.Parts[Predict], sources: Sequence[Source], space_group: str) -> None:
    """Write predict.expt and predict.refl from the parts of predict, beside its product.

    sources: images of each run. The lattices whose reflections were chosen are experiments, with
    these reflections; `xyzobs.px.value` is the observed spot where there is one (`is_strong`), else
    the prediction.
    """
    stills = list(_stills(parts, sources))
    detectors = [source.detector for source in sources]
    dials_writer.write_stills(parts.path.with_suffix(".expt"), stills, detectors, space_group)

    def pieces(of_part: Callable[[_Chosen], np.ndarray]) -> reflections.Pieces:
        return lambda: (of_part(chosen) for chosen in _chosen(parts))

    n_rows = sum(len(chosen.experiment) for chosen in _chosen(parts))
    columns = {name: (kind, pieces(rows)) for name, (kind, rows) in COLUMNS.items()}
    identifiers = {number: still.identifier for number, still in enumerate(stills)}
    reflections.write(parts.path.with_suffix(".refl"), n_rows, columns, identifiers)


def _stills(parts: store.Parts[Predict], sources: Sequence[Source]) -> Iterator[dials_writer.Still]:
    """Yield the lattices whose reflections were chosen."""
    for block in range(len(parts.keys)):
        lattices = parts.read(block, [Predict.lattices]).lattices
        for row in np.flatnonzero(lattices.outcome == PredictedOutcome.PREDICTED):
            run = int(lattices.run[row])
            source = sources[run]
            shot = lattices.shot[row]
            file = source.manifest.files[source.shots["file"][shot]]
            yield dials_writer.Still(
                identifier=f"{lattices.shot_id[row]:016x}-{lattices.k[row]}",
                image=str((source.path.parent / file.path).resolve()),
                frame=int(source.shots["frame"][shot]),
                detector=run,
                wavelength=float(wavelength(lattices.mean_energy_ev[row])),
                polarization=source.polarization,
                A=lattices.A[row],
            )


class _Chosen(NamedTuple):
    """Chosen reflections of a part."""

    experiment: np.ndarray
    """(n,) number of the experiment of each"""
    rows: Reflections


def _chosen(parts: store.Parts[Predict]) -> Iterator[_Chosen]:
    """Yield the chosen reflections of each part."""
    n_before = 0
    for block in range(len(parts.keys)):
        part = parts.read(block, [Predict.lattices.outcome, Predict.reflections])
        is_experiment = part.lattices.outcome == PredictedOutcome.PREDICTED
        numbers = n_before + np.cumsum(is_experiment) - 1
        n_before += int(is_experiment.sum())
        rows = part.reflections[np.isin(part.reflections.choice, CHOSEN)]
        yield _Chosen(numbers[rows.lattice], rows)


def _predicted(chosen: _Chosen) -> np.ndarray:
    """Return predicted centroids (n, 3), px; stills have no third coordinate."""
    rows = chosen.rows
    return np.stack([rows.fast, rows.slow, np.zeros(len(rows))], axis=1)


def _has_spot(chosen: _Chosen) -> np.ndarray:
    """Return which reflections have an observed spot, (n,) bool."""
    return np.isfinite(chosen.rows.fast_spot)


def _observed(chosen: _Chosen) -> np.ndarray:
    """Return the observed spots (n, 3), px; predicted centroids where there is none."""
    spots = np.stack([chosen.rows.fast_spot, chosen.rows.slow_spot], axis=1)
    centroids = _predicted(chosen)
    centroids[:, :2] = np.where(_has_spot(chosen)[:, None], spots, centroids[:, :2])
    return centroids


def _boxes(chosen: _Chosen) -> np.ndarray:
    """Return shoeboxes (n, 6), of one frame."""
    frame = np.tile([0, 1], (len(chosen.rows), 1))
    return np.concatenate([chosen.rows.bbox, frame], axis=1)


def _flags(chosen: _Chosen) -> np.ndarray:
    """Return DIALS' bits of reflections (n,)."""
    of_spots = np.where(_has_spot(chosen), OBSERVED | INDEXED | STRONG, 0)
    return of_spots | PREDICTED | INTEGRATED


def _variance(chosen: _Chosen) -> np.ndarray:
    """Return the variances of the intensities (n,)."""
    return chosen.rows.sigma.astype(np.float64) ** 2


COLUMNS: dict[str, tuple[str, Callable[[_Chosen], np.ndarray]]] = {
    "id": ("int", lambda chosen: chosen.experiment),
    "panel": ("std::size_t", lambda chosen: chosen.rows.panel),
    "miller_index": ("cctbx::miller::index<>", lambda chosen: chosen.rows.hkl),
    "xyzobs.px.value": ("vec3<double>", _observed),
    "xyzcal.px": ("vec3<double>", _predicted),
    "bbox": ("int6", _boxes),
    "delpsical.rad": ("double", lambda chosen: chosen.rows.delta_psi_rad),
    "d": ("double", lambda chosen: chosen.rows.d),
    "intensity.sum.value": ("double", lambda chosen: chosen.rows.intensity),
    "intensity.sum.variance": ("double", _variance),
    "is_strong": ("bool", _has_spot),
    "flags": ("std::size_t", _flags),
}
"""Name of a column in DIALS → its type, and its rows from those of predict."""
