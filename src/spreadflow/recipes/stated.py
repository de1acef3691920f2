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

from spreadflow.analysis.still import bandwidth, evidence, indexing, prediction
from spreadflow.analysis.still.integration import LEAST_VARIANCE
from spreadflow.analysis.still.prediction import MosaicLattice, Predicted
from spreadflow.analysis.strength import STRONG_SPOT
from spreadflow.config import IndexSection
from spreadflow.errors import AdoptOutcome, FileError, Outcome
from spreadflow.io.lattices.indexed import IndexedLattice
from spreadflow.io.lattices.stated import OwnColumns, StatedLattice, StatedShot
from spreadflow.models import Detector, Lattice, ReflectionFlag, Reflections, Spectrum, Spots
from spreadflow.physics import geometry, miller, response, symmetry, unit_cell
from spreadflow.physics.spectrum import gaussian
from spreadflow.products import Reindex, Table
from spreadflow.recipes.shot import Result, hold_lattices, is_near_target, is_new, tables_of

PEAK_VARIANCE_PX2 = 0.1
"""Variance of observed places that are stated without theirs: those of spots of a few pixels."""


class Run(NamedTuple):
    """What the shots of a run share."""

    section: IndexSection
    detector: Detector
    bandwidth: float | None
    """relative full width at half maximum of pulses whose file states none; None = one energy"""
    polarization: float | None
    """Kahn's K along the lab x axis; None = as stated"""


class Judged(NamedTuple):
    """What becomes of a lattice."""

    outcome: AdoptOutcome
    line: int
    """number of its line in the file"""
    number: int
    """in its shot, as stated"""
    why: str = ""
    n_reflections: int = 0
    n_agree: int = 0
    k: int = -1
    """in the product"""


class End(NamedTuple):
    """What became of the lattices of a shot."""

    lattices: list[Judged]
    n_doubtful: int
    """reflections whose σ is smaller than counting their photons allows"""
    n_strong: int
    """reflections that are strong enough for that to be asked"""
    bandwidth_sums: np.ndarray | None
    """as from `bandwidth.sums`, of lattices in a pulse of one energy; None = of another"""


def take(shot: StatedShot, identity: dict[str, Any], run: Run) -> tuple[Reindex, End]:
    """Return the rows of a shot, and what became of its lattices.

    identity: those columns of its row of `shots` that were known before it was read. Raises
    FileError where columns of ours are none.
    """
    if shot.spots is None:
        shot = shot._replace(spots=_strong(shot.lattices))
    judged = [_judge(n, stated, run) for n, stated in enumerate(shot.lattices)]
    judged = _without_duplicates(judged, shot.lattices, run.section)
    if not (np.isfinite(shot.energy_ev) and shot.energy_ev > 0):
        judged = _ended(judged, AdoptOutcome.LOST_SHOT, "its pulse has no energy")
        why = "no photon energy is stated"
        result = Result(Outcome.BAD_SPECTRUM, why, spots=shot.spots)
        return _taken(result, shot, judged, identity, None)
    spectrum = _spectrum(shot, run.bandwidth)
    pulse = Result(
        Outcome.NO_LATTICE,
        mean_energy_ev=float(spectrum.mean_energy_ev),
        pulse_photons=float(np.sum(spectrum.photons)),
        spots=shot.spots,
    )
    good = [shot.lattices[one.number] for one in judged if one.outcome == AdoptOutcome.ADOPTED]
    held = _mosaic(good, shot.spots, spectrum, run)
    unknown = iter([lattice is None for lattice in held])
    judged = [
        one._replace(outcome=AdoptOutcome.UNKNOWN_MOSAICITY, why=f"{len(shot.spots.fast)} peaks")
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
    rows = [_reflections(stated, lattice, spectrum, shot.spots, run) for stated, lattice in known]
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
        sums = _bandwidth_sums(result.lattices, shot.spots, spectrum, run.detector)
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


def _strong(stated: Sequence[StatedLattice]) -> Spots:
    """Return as peaks the strong reflections of lattices that have an observed place."""
    spots = [Spots(*(np.empty(0, dtype) for dtype in ("i4", *["f8"] * 6, "i4")))]
    for one in stated:
        rows = one.lattice.reflections
        if rows.fast_obs is None or rows.slow_obs is None:
            continue
        assert rows.intensity is not None and rows.sigma is not None, "readers see to that"
        is_seen = np.isfinite(rows.fast_obs) & np.isfinite(rows.slow_obs)
        own = is_seen & (rows.sigma > 0) & (rows.intensity >= STRONG_SPOT * rows.sigma)
        n = int(own.sum())
        spots.append(
            Spots(
                panel=rows.panel[own].astype(np.int32),
                fast=rows.fast_obs[own],
                slow=rows.slow_obs[own],
                variance_fast=np.full(n, PEAK_VARIANCE_PX2),
                variance_slow=np.full(n, PEAK_VARIANCE_PX2),
                intensity=rows.intensity[own],
                sigma=rows.sigma[own],
                n_pixels=np.zeros(n, np.int32),
            )
        )
    return Spots(*map(np.concatenate, zip(*spots, strict=True)))


def _judge(number: int, stated: StatedLattice, run: Run) -> Judged:
    """Return what becomes of a lattice as far as neither others nor the pulse decide it."""
    section = run.section
    lattice = stated.lattice
    judged = Judged(AdoptOutcome.ADOPTED, stated.line, number)
    if not np.isfinite(lattice.A).all() or not np.linalg.det(lattice.A) > 0:
        why = "its axes are no right-handed basis"
        return judged._replace(outcome=AdoptOutcome.UNREADABLE, why=why)
    if not _has_symmetry(lattice, section.space_group):
        why = f"symmetry '{lattice.space_group}'"
        return judged._replace(outcome=AdoptOutcome.OTHER_GROUP, why=why)
    cell = unit_cell.cell_of(lattice.A)
    if not is_near_target(cell, section):
        why = " ".join(f"{x:.2f}" for x in unit_cell.degrees(cell))
        return judged._replace(outcome=AdoptOutcome.OTHER_CELL, why=why)
    agree = _agreeing(lattice)
    judged = judged._replace(n_reflections=len(agree), n_agree=int(agree.sum()))
    why = f"{judged.n_agree} of {judged.n_reflections} reflections agree"
    if judged.n_reflections < section.min_indexed:
        return judged._replace(outcome=AdoptOutcome.NOT_PAIRED, why=why)
    if 2 * judged.n_agree < judged.n_reflections:
        return judged._replace(outcome=AdoptOutcome.OTHER_INDICES, why=why)
    return judged


def _has_symmetry(lattice: IndexedLattice, space_group: str) -> bool:
    """Whether a lattice has the centring of our group and, where it states any, its rotations."""
    ours = symmetry.group(space_group).operations()
    has_rotations = len(lattice.operations.sym_ops) > 1
    return ours.has_same_centring(lattice.operations) and (
        not has_rotations or ours.has_same_rotations(lattice.operations)
    )


def _agreeing(lattice: IndexedLattice) -> np.ndarray:
    """Return which reflections are predicted where A puts their Miller index, (n,) bool."""
    rows = lattice.reflections
    fast, slow = (rows.fast_obs, rows.slow_obs) if rows.fast is None else (rows.fast, rows.slow)
    is_there = rows.hkl.any(axis=1)
    if fast is None or slow is None or not np.isfinite(lattice.wavelength):
        return np.zeros(is_there.sum(), bool)
    s1 = geometry.direction(lattice.detector, rows.panel[is_there], fast[is_there], slow[is_there])
    q = (s1 - geometry.S0) / lattice.wavelength
    return indexing.agreeing(lattice.A, rows.hkl[is_there], q)


def _without_duplicates(
    judged: list[Judged], stated: Sequence[StatedLattice], section: IndexSection
) -> list[Judged]:
    """Return the lattices; each that an earlier one of the shot is, too, becomes DUPLICATE."""
    others: list[np.ndarray] = []
    ended = []
    for one in judged:
        A = stated[one.number].lattice.A
        if one.outcome == AdoptOutcome.ADOPTED:
            if is_new(A, others, section):
                others.append(A)
            else:
                one = one._replace(outcome=AdoptOutcome.DUPLICATE)
        ended.append(one)
    return ended


def _ended(judged: list[Judged], outcome: AdoptOutcome, why: str) -> list[Judged]:
    """Return the lattices; those that could be adopted have another outcome."""
    return [
        one._replace(outcome=outcome, why=why) if one.outcome == AdoptOutcome.ADOPTED else one
        for one in judged
    ]


def _spectrum(shot: StatedShot, configured: float | None) -> Spectrum:
    """Return the pulse of a shot."""
    bandwidth = shot.bandwidth or configured
    if bandwidth is None:
        return Spectrum(np.array([shot.energy_ev]), np.array([1.0]))
    return gaussian(shot.energy_ev, bandwidth * shot.energy_ev, 1.0)


def _mosaic(
    stated: Sequence[StatedLattice], spots: Spots, spectrum: Spectrum, run: Run
) -> list[Lattice | None]:
    """Return lattices with their mosaicity and their spots, A as it is; None where the mosaicity
    can't be known.
    """
    section = run.section
    supplied = [one.lattice.A for one in stated]
    lattices = hold_lattices(supplied, spots, spectrum, section, run.detector)
    out: list[Lattice | None] = []
    for one, held in zip(stated, lattices, strict=True):
        n_indexed = np.count_nonzero(held.hkl.any(axis=1))
        is_known = "eta_rad" in one.own or section.mosaic_spread_deg is not None
        if not is_known and n_indexed < section.min_indexed:
            out.append(None)
            continue
        A = one.lattice.A
        mosaic = {
            name: float(one.own[name][0, 0]) if name in one.own else getattr(held, name)
            for name in ("eta_rad", "domain_ang")
        }
        out.append(held._replace(A=A, cell=unit_cell.cell_of(A), **mosaic))
    return out


def _reflections(
    stated: StatedLattice, lattice: Lattice, spectrum: Spectrum, spots: Spots, run: Run
) -> tuple[Reflections, evidence.Evidence]:
    """Return the reflections of a lattice as stated, with what is recorded of each worked out, and
    what they say of the lattice.
    """
    rows = stated.lattice.reflections
    kept = np.flatnonzero(rows.hkl.any(axis=1))
    polarization = run.polarization
    if polarization is None:
        polarization = stated.lattice.polarization
    predicted = _predicted(stated, kept, lattice, spectrum, run.detector, polarization)
    assert rows.intensity is not None and rows.sigma is not None, "readers see to that"
    intensity = rows.intensity[kept]
    sigma = rows.sigma[kept]
    spot = miller.rows(lattice.hkl, predicted.hkl)
    is_strong = (spot >= 0) & (intensity >= STRONG_SPOT * sigma)
    of_spots = [np.append(getattr(spots, axis), np.nan) for axis in ("fast", "slow")]
    fast_obs, slow_obs = (np.where(is_strong, column[spot], np.nan) for column in of_spots)
    nothing = np.zeros(len(kept))
    as_predicted = [name for name in Reflections._fields if name in Predicted._fields]
    reflections = Reflections(
        **{name: getattr(predicted, name) for name in as_predicted},
        fast_obs=fast_obs,
        slow_obs=slow_obs,
        intensity=intensity,
        sigma=sigma,
        sigma_background=_without_own_photons(intensity, sigma),
        background=nothing if rows.background is None else rows.background[kept],
        n_foreground=nothing.astype(np.int32),
        bbox=np.zeros((len(kept), 4), np.int32),
        half_px=np.zeros((len(kept), 2), np.float32),
        flags=np.where(stated.is_saturated[kept], ReflectionFlag.SATURATED, 0).astype(np.int32),
    )
    weighed = evidence.weigh(predicted, evidence.strengths(reflections), spot >= 0, np.empty(0))
    return reflections, weighed._replace(
        n_by_chance=np.nan,
        significance=np.nan,
        d_min=stated.d_min or weighed.d_min,
    )


def _predicted(
    stated: StatedLattice,
    kept: np.ndarray,
    lattice: Lattice,
    spectrum: Spectrum,
    detector: Detector,
    polarization: float,
) -> Predicted:
    """Return some of the stated reflections at their stated places, with what is recorded of each.
    kept: rows.
    """
    rows = stated.lattice.reflections
    hkl = rows.hkl[kept].astype(np.int32)
    mosaic = MosaicLattice(lattice.A, float(lattice.eta_rad), float(lattice.domain_ang))
    compressed = prediction.compress(spectrum)
    spots = prediction.centroids_of(mosaic, hkl, compressed)
    panel = rows.panel[kept].astype(np.int32)
    if rows.fast is None or rows.slow is None:
        fast, slow = geometry.on_panel(detector, panel, spots.s1)
    else:
        fast, slow = rows.fast[kept], rows.slow[kept]
    normals = geometry.normals(detector)[panel]
    capture = response.captured(spots.s1.T, normals.T, response.depth(detector))
    nothing = np.zeros(len(kept))
    return Predicted(
        hkl=hkl,
        d=unit_cell.spacing(lattice.A, hkl),
        panel=panel,
        fast=fast,
        slow=slow,
        energy_ev=spots.energy_ev,
        delta_psi_rad=spots.delta_psi,
        partiality=spots.partiality,
        lorentz=spots.lorentz,
        polarization=response.kahn(spots.s1.T, polarization),
        capture=np.asarray(capture),
        radial_px=nothing,
        transverse_px=nothing,
        slopes=prediction.recorded_slopes(mosaic, hkl, compressed),
    )


def _without_own_photons(intensity: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return the part of σ that is not from the number of a reflection's own photons: programs add
    the variance I of these, and merging adds that of the photons expected.
    """
    variance = sigma**2 - np.maximum(intensity, 0.0)
    is_known = sigma > 0
    return np.where(is_known, np.sqrt(np.maximum(variance, LEAST_VARIANCE)), 0.0)


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
) -> tuple[Reindex, End]:
    """Return the rows of a shot, columns of ours in place of what was worked out."""
    tables = tables_of(result, identity, Reindex)
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
    return tables, End(judged, n_doubtful, n_strong, bandwidth_sums)


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
