"""Chosen reflections of predicted lattices as DIALS reads them: predict.expt and predict.refl.

Read part by part: a column of all reflections is never in memory.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from spreadflow.errors import PredictedOutcome
from spreadflow.io import dials, reflections, store
from spreadflow.io.images import Source
from spreadflow.models import CHOSEN
from spreadflow.units import wavelength

PREDICTED, OBSERVED, INDEXED, STRONG, INTEGRATED = 1, 2, 4, 32, 256
"""Bits of the column `flags` of DIALS."""

Part = dict[str, np.ndarray]
"""Columns of a part of predict."""


def write(parts: store.Parts, sources: Sequence[Source], space_group: str) -> None:
    """Write predict.expt and predict.refl from the parts of predict, beside its product.

    sources: images of each run. The lattices whose reflections were chosen are experiments, with
    these reflections; `xyzobs.px.value` is the observed spot where there is one (`is_strong`), else
    the prediction.
    """
    stills = list(_stills(parts, sources))
    detectors = [source.detector for source in sources]
    dials.write_stills(parts.product.with_suffix(".expt"), stills, detectors, space_group)

    def pieces(of_part: Callable[[Part], np.ndarray]) -> reflections.Pieces:
        return lambda: (of_part(_chosen(part)) for part in _parts(parts))

    n_rows = sum(len(_chosen(part)["id"]) for part in _parts(parts))
    columns = {name: (kind, pieces(rows)) for name, (kind, rows) in COLUMNS.items()}
    identifiers = {number: still.identifier for number, still in enumerate(stills)}
    reflections.write(parts.product.with_suffix(".refl"), n_rows, columns, identifiers)


def _stills(parts: store.Parts, sources: Sequence[Source]) -> Iterator[dials.Still]:
    """Yield the lattices whose reflections were chosen."""
    for block in range(len(parts.keys)):
        columns = parts.read(block, ["lattices/"])
        for row in np.flatnonzero(columns["lattices/outcome"] == PredictedOutcome.PREDICTED):
            of_row = {name: column[row] for name, column in columns.items() if name}
            run = int(of_row["lattices/run"])
            source = sources[run]
            shot = of_row["lattices/shot"]
            file = source.manifest.files[source.shots["file"][shot]]
            yield dials.Still(
                identifier=f"{of_row['lattices/shot_id']:016x}-{of_row['lattices/k']}",
                image=str((source.path.parent / file.path).resolve()),
                frame=int(source.shots["frame"][shot]),
                detector=run,
                wavelength=float(wavelength(of_row["lattices/mean_energy_ev"])),
                polarization=source.polarization,
                A=of_row["lattices/A"],
            )


def _parts(parts: store.Parts) -> Iterator[Part]:
    """Yield the reflections of each part, and under `id` the number of the experiment of each
    lattice.
    """
    n_before = 0
    for block in range(len(parts.keys)):
        columns = parts.read(block, ["lattices/outcome", "reflections/"])
        is_experiment = columns["lattices/outcome"] == PredictedOutcome.PREDICTED
        numbers = n_before + np.cumsum(is_experiment) - 1
        n_before += int(is_experiment.sum())
        yield columns | {"id": numbers}


def _chosen(part: Part) -> Part:
    """Return the columns of the chosen reflections of a part by their own names, with `id`."""
    rows = np.flatnonzero(np.isin(part["reflections/choice"], CHOSEN))
    prefix = "reflections/"
    chosen = {
        name.removeprefix(prefix): column[rows]
        for name, column in part.items()
        if name.startswith(prefix)
    }
    return chosen | {"id": part["id"][chosen["lattice"]]}


def _predicted(chosen: Part) -> np.ndarray:
    """Return predicted centroids (n, 3), px; stills have no third coordinate."""
    return np.stack([chosen["fast"], chosen["slow"], np.zeros(len(chosen["fast"]))], axis=1)


def _has_spot(chosen: Part) -> np.ndarray:
    """Return which reflections have an observed spot, (n,) bool."""
    return np.isfinite(chosen["fast_spot"])


def _observed(chosen: Part) -> np.ndarray:
    """Return the observed spots (n, 3), px; predicted centroids where there is none."""
    spots = np.stack([chosen["fast_spot"], chosen["slow_spot"]], axis=1)
    centroids = _predicted(chosen)
    centroids[:, :2] = np.where(_has_spot(chosen)[:, None], spots, centroids[:, :2])
    return centroids


def _boxes(chosen: Part) -> np.ndarray:
    """Return shoeboxes (n, 6), of one frame."""
    frame = np.tile([0, 1], (len(chosen["bbox"]), 1))
    return np.concatenate([chosen["bbox"], frame], axis=1)


def _flags(chosen: Part) -> np.ndarray:
    """Return DIALS' bits of reflections (n,)."""
    of_spots = np.where(_has_spot(chosen), OBSERVED | INDEXED | STRONG, 0)
    return of_spots | PREDICTED | INTEGRATED


COLUMNS: dict[str, tuple[str, Callable[[Part], np.ndarray]]] = {
    "id": ("int", lambda chosen: chosen["id"]),
    "panel": ("std::size_t", lambda chosen: chosen["panel"]),
    "miller_index": ("cctbx::miller::index<>", lambda chosen: chosen["hkl"]),
    "xyzobs.px.value": ("vec3<double>", _observed),
    "xyzcal.px": ("vec3<double>", _predicted),
    "bbox": ("int6", _boxes),
    "delpsical.rad": ("double", lambda chosen: chosen["delta_psi_rad"]),
    "d": ("double", lambda chosen: chosen["d"]),
    "intensity.sum.value": ("double", lambda chosen: chosen["intensity"]),
    "intensity.sum.variance": ("double", lambda chosen: chosen["sigma"].astype(np.float64) ** 2),
    "is_strong": ("bool", _has_spot),
    "flags": ("std::size_t", _flags),
}
"""Name of a column in DIALS → its type, and its rows from those of predict."""
