"""A shot as another program states it, without its image, as rows of a product of `reindex`.

Intensity and σ are as stated. What merging needs beside them, how much of a reflection is recorded
and by which factors, is worked out from A, the pulse, the detector and the mosaicity, as for
images. The mosaicity comes from the file, where it has columns of ours, from the configuration, or
from the places of the peaks, A being held; where all three are silent, the lattice is not adopted:
a partiality is not invented.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from spreadflow.analysis.still import bandwidth
from spreadflow.analysis.still.prediction import MosaicLattice
from spreadflow.analysis.strength import STRONG_SPOT
from spreadflow.errors import AdoptOutcome, FileError, Outcome
from spreadflow.io.lattices.stated import OwnColumns, StatedLattice, StatedShot
from spreadflow.models import Detector, Lattice, Reflections, Spectrum, Spots
from spreadflow.physics.spectrum import gaussian
from spreadflow.products import Reindex, Table
from spreadflow.recipes import stated_judge
from spreadflow.recipes.shot import Result
from spreadflow.recipes.shot_rows import tables_of
from spreadflow.recipes.stated_judge import Judged
from spreadflow.recipes.stated_reflections import (
    StatedRun,
    peaks_of,
    reflections_of,
    with_mosaicity,
)


class ShotEnd(NamedTuple):
    """What became of the lattices of a shot."""

    lattices: list[Judged]
    n_doubtful: int
    """reflections whose σ is smaller than counting their photons allows"""
    n_strong: int
    """reflections that are strong enough for that to be asked"""
    bandwidth_sums: np.ndarray | None
    """as from `bandwidth.sums`, of lattices in a pulse of one energy; None = of another"""


def take(shot: StatedShot, identity: dict[str, Any], run: StatedRun) -> tuple[Reindex, ShotEnd]:
    """Return the rows of a shot, and what became of its lattices.

    identity: those columns of its row of `shots` that were known before it was read. Raises
    FileError where columns of ours are none.
    """
    spots = peaks_of(shot.lattices) if shot.spots is None else shot.spots
    judged, lattices = stated_judge.judge(shot.lattices, run.section)
    is_on_other_axes = any(one.axes for one in judged)  # than columns of ours, if there are any
    own_spots = {} if is_on_other_axes else shot.own_spots
    shot = shot._replace(lattices=lattices, own_spots=own_spots)
    if not (np.isfinite(shot.energy_ev) and shot.energy_ev > 0):
        why = "no photon energy is stated"
        result = Result(Outcome.BAD_SPECTRUM, why, spots=spots)
        return _taken(result, shot, judged, identity, None)
    spectrum = spectrum_of(shot, run.bandwidth)
    pulse = Result(
        Outcome.NO_LATTICE,
        mean_energy_ev=shot.energy_ev,
        pulse_photons=1.0,
        spots=spots,
    )
    good = [shot.lattices[one.number] for one in judged if one.outcome == AdoptOutcome.ADOPTED]
    held = with_mosaicity(good, spots, spectrum, run)
    unknown = iter([lattice is None for lattice in held])
    judged = [
        one._replace(outcome=AdoptOutcome.UNKNOWN_MOSAICITY, why=f"{len(spots.fast)} peaks")
        if one.outcome == AdoptOutcome.ADOPTED and next(unknown)
        else one
        for one in judged
    ]
    known = [
        (stated, lattice) for stated, lattice in zip(good, held, strict=True) if lattice is not None
    ]
    if not known:
        result = _without_lattice(pulse, shot)
        return _taken(result, shot, judged, identity, None)
    rows = [reflections_of(stated, lattice, spectrum, spots, run) for stated, lattice in known]
    n_rows = [len(reflections.hkl) for reflections, _ in rows]
    result = pulse._replace(
        outcome=Outcome.INDEXED,
        lattices=tuple(lattice for _, lattice in known),
        reflections=Reflections(
            *map(np.concatenate, zip(*(reflections for reflections, _ in rows), strict=True))
        ),
        reflection_lattice=np.repeat(np.arange(len(rows)), n_rows),
        evidences=tuple(of_lattice for _, of_lattice in rows),
    )
    sums = None
    if len(spectrum.energies_ev) == 1:
        sums = _bandwidth_sums(result.lattices, spots, spectrum, run.detector)
    return _taken(result, shot, judged, identity, sums)


def _bandwidth_sums(
    lattices: Sequence[Lattice], spots: Spots, spectrum: Spectrum, detector: Detector
) -> np.ndarray:
    """Return what the lattices of a shot say of the bandwidth."""
    of_lattices = [
        bandwidth.sums(
            MosaicLattice(lattice.A, lattice.eta_rad, lattice.domain_ang),
            lattice.hkl,
            spots,
            spectrum,
            detector,
        )
        for lattice in lattices
    ]
    return np.sum(of_lattices, axis=0)


def spectrum_of(shot: StatedShot, configured: float | None) -> Spectrum:
    """Return the pulse of a shot."""
    bandwidth = configured or shot.bandwidth
    if bandwidth is None:
        return Spectrum(np.array([shot.energy_ev]), np.array([1.0]))
    return gaussian(shot.energy_ev, bandwidth * shot.energy_ev, 1.0)


def _without_lattice(pulse: Result, shot: StatedShot) -> Result:
    """Return how a shot ends that has no lattice."""
    if shot.lattices:
        return pulse._replace(reason="none of its lattices can be adopted: see adopt.h5")
    if "outcome" in shot.own:
        outcome = Outcome(int(shot.own["outcome"][0, 0]))
        return pulse._replace(outcome=outcome, reason="no lattice, as stated")
    if not shot.is_hit:
        return pulse._replace(outcome=Outcome.BLANK, reason="no hit, as stated")
    return pulse._replace(reason="no lattice, as stated")


def _taken(
    result: Result,
    shot: StatedShot,
    judged: list[Judged],
    identity: dict[str, Any],
    bandwidth_sums: np.ndarray | None,
) -> tuple[Reindex, ShotEnd]:
    """Return the rows of a shot, columns of ours in place of what was worked out."""
    tables = tables_of(result, identity, Reindex)
    assert isinstance(tables, Reindex)
    adopted = [one for one in judged if one.outcome == AdoptOutcome.ADOPTED]
    judged = [one._replace(k=adopted.index(one)) if one in adopted else one for one in judged]
    stated = [shot.lattices[one.number] for one in adopted]
    n_doubtful, n_strong = _doubtful(tables)
    _put(tables.shots, shot.own, leaving=("outcome",))
    if len(adopted) == len(shot.lattices):
        _put(tables.spots, shot.own_spots)
    if stated:
        _put(tables.lattices, _joined([one.own for one in stated]))
        _put(tables.reflections, _joined([_kept(one) for one in stated]))
    return tables, ShotEnd(judged, n_doubtful, n_strong, bandwidth_sums)


def _kept(stated: StatedLattice) -> OwnColumns:
    """Return the columns of ours of the reflections that have an index."""
    kept = stated.lattice.reflections.hkl.any(axis=1)
    return {name: column[kept] for name, column in stated.own_reflections.items()}


def _joined(columns: Sequence[OwnColumns]) -> OwnColumns:
    """Return the rows of all, of the columns that all have."""
    names = set.intersection(*(set(of_one) for of_one in columns))
    return {name: np.concatenate([of_one[name] for of_one in columns]) for name in names}


def _put(table: Table, own: Mapping[str, np.ndarray], leaving: Sequence[str] = ()) -> None:
    """Put columns of ours into a table. Raises FileError where they do not fit."""
    described = table.described()
    for name, rows in own.items():
        if name in described and name not in leaving:
            shape = (len(table), *(int(dim) for dim in described[name].shape))
            if rows.size != math.prod(shape):
                expected = f"{shape} numbers, as docs/files.md has it"
                raise FileError(f"column {name}", expected, rows.shape, "Export it again.")
            table.put(name, rows.reshape(shape).astype(described[name].dtype))


def _doubtful(tables: Reindex) -> tuple[int, int]:
    """Return how many reflections have a σ below that of counting half of their photons, and how
    many are strong enough for the question.
    """
    reflections = tables.reflections
    is_strong = reflections.intensity > STRONG_SPOT**2
    is_doubtful = is_strong & (reflections.sigma**2 < 0.5 * reflections.intensity)
    return int(is_doubtful.sum()), int(is_strong.sum())
