"""One shot, from its pixels to the integrated reflections of its lattices."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from spreadflow.analysis.still import indexing, integration, prediction, refinement, spots
from spreadflow.config import IndexSection
from spreadflow.errors import Outcome
from spreadflow.models import Detector, Lattice, Reflections, Shot, Spots
from spreadflow.physics import unit_cell
from spreadflow.physics.geometry import S0, direction
from spreadflow.physics.symmetry import misorientation
from spreadflow.units import DEG, wavelength

SAME_RAD = 1.0 * DEG
"""two lattices of a shot closer than this are one crystal"""


class Result(NamedTuple):
    """What came of one shot."""

    outcome: Outcome
    mean_energy_ev: float = np.nan
    spots: Spots | None = None
    lattices: tuple[Lattice, ...] = ()
    reflections: Reflections | None = None
    """of all lattices"""
    reflection_lattice: np.ndarray = np.empty(0, dtype=int)
    """(reflection,) number of its lattice"""


def index(
    shot: Shot,
    section: IndexSection,
    detector: Detector,
    polarization: float,
    told: Sequence[np.ndarray] | None = None,
) -> Result:
    """Everything between the pixels of a shot and its integrated reflections.

    told: A (3, 3) of its lattices where they are known and not to be looked for.
    """
    energy = float(shot.spectrum.mean_energy_ev)
    if shot.saturated_fraction > section.saturated_fraction_max:
        return Result(Outcome.SATURATED, energy)
    found = _find_spots(shot, section, detector, energy)
    if told is None and len(found.fast) < section.spots.min_spots:
        return Result(Outcome.BLANK, energy, found)
    if told is None and len(found.fast) > section.spots.max_spots:
        return Result(Outcome.OVERFLOW, energy, found)
    if told is None:
        lattices = _find_lattices(found, shot, section, detector, energy)
    else:
        lattices = _take_lattices(told, found, shot, section, detector)
    if not lattices:
        return Result(Outcome.NO_LATTICE, energy, found)
    reflections, of = _integrate(shot, section, detector, polarization, lattices)
    return Result(Outcome.INDEXED, energy, found, tuple(lattices), reflections, of)


def _find_spots(shot: Shot, section: IndexSection, detector: Detector, energy: float) -> Spots:
    """Spots within the resolution range."""
    how = section.spots.model_dump(exclude={"d_min", "d_max", "min_spots", "max_spots"})
    found = spots.find(shot.image, shot.mask, readout_photons=section.readout_photons, **how)
    d = spots.resolution(detector, energy, found)
    return spots.select(
        found, (d >= (section.spots.d_min or 0.0)) & (d <= (section.spots.d_max or np.inf))
    )


def _find_lattices(
    found: Spots, shot: Shot, section: IndexSection, detector: Detector, energy: float
) -> list[Lattice]:
    """Lattices one after the other, each refined before the next is looked for among the spots it leaves."""
    q = (direction(detector, found.panel, found.fast, found.slow) - S0) / wavelength(energy)
    weights = np.sqrt(np.minimum(found.intensity / found.sigma, 50.0))
    free = np.ones(len(q), dtype=bool)
    lattices: list[Lattice] = []
    while len(lattices) < section.max_lattices:
        candidates = indexing.find_lattices(
            q[free],
            weights[free],
            unit_cell.radians(section.cell),
            section.space_group,
            length_tolerance=section.length_tolerance,
            angle_tolerance=section.angle_tolerance_deg * DEG,
            n_directions=section.n_directions,
            max_lattices=1,
            min_indexed=section.min_indexed,
            min_fraction=section.min_fraction_indexed,
        )
        if not candidates:
            break
        refined = refinement.refine(
            candidates[0].A,
            candidates[0].hkl,
            spots.select(found, free),
            **_refinement(shot, section, detector),
        )
        if refined is None or not _acceptable(refined, lattices, section, detector):
            break
        lattices.append(_over_all_spots(refined, free))
        free &= ~lattices[-1].hkl.any(axis=1)
    return lattices


def _acceptable(
    refined: Lattice, others: list[Lattice], section: IndexSection, detector: Detector
) -> bool:
    """Enough spots, close enough, a cell within the tolerances of the target, and no lattice found before."""
    rmsd_px = np.hypot(refined.rmsd_radial_mm, refined.rmsd_transverse_mm) / float(
        detector.pixel_mm
    )
    return bool(
        np.count_nonzero(refined.hkl.any(axis=1)) >= section.min_indexed
        and rmsd_px <= section.rmsd_max_px
        and is_near_target(refined.cell, section)
        and is_new(refined.A, [other.A for other in others], section)
    )


def is_near_target(cell: np.ndarray, section: IndexSection) -> bool:
    """Whether a cell (6,) (rad) is within the tolerances of the target."""
    away = np.abs(cell - unit_cell.radians(section.cell))
    lengths = away[:3] <= section.length_tolerance * np.array(section.cell[:3])
    return bool(np.all(lengths) and np.all(away[3:] <= section.angle_tolerance_deg * DEG))


def is_new(A: np.ndarray, others: Sequence[np.ndarray], section: IndexSection) -> bool:
    """Whether A (3, 3) is another crystal than the other lattices of its shot."""
    return all(misorientation(A, other, section.space_group) > SAME_RAD for other in others)


def _take_lattices(
    told: Sequence[np.ndarray], found: Spots, shot: Shot, section: IndexSection, detector: Detector
) -> list[Lattice]:
    """The lattices that are known, each with its spots among those the ones before leave."""
    free = np.ones(len(found.fast), dtype=bool)
    lattices: list[Lattice] = []
    for A in told:
        mine = spots.select(found, free)
        none = np.zeros((len(mine.fast), 3), dtype=np.int32)
        how = _refinement(shot, section, detector)
        held = refinement.refine(A, none, mine, **how, min_indexed=0, hold=True)
        assert held is not None  # no spots are needed
        lattices.append(_over_all_spots(held, free))
        free &= ~lattices[-1].hkl.any(axis=1)
    return lattices


def _refinement(shot: Shot, section: IndexSection, detector: Detector) -> dict[str, Any]:
    """What refinement knows of all lattices of a shot."""
    return {
        "detector": detector,
        "spectrum": shot.spectrum,
        "space_group": section.space_group,
        "eta_rad": None if section.mosaic_spread_deg is None else section.mosaic_spread_deg * DEG,
        "domain_ang": section.domain_ang,
    }


def _over_all_spots(refined: Lattice, free: np.ndarray) -> Lattice:
    """The lattice with its per-spot columns spread over all spots of the shot."""
    hkl = np.zeros((len(free), 3), dtype=np.int32)
    used = np.zeros(len(free), dtype=bool)
    hkl[free], used[free] = refined.hkl, refined.used
    return refined._replace(hkl=hkl, used=used)


def _integrate(
    shot: Shot,
    section: IndexSection,
    detector: Detector,
    polarization: float,
    lattices: list[Lattice],
) -> tuple[Reflections, np.ndarray]:
    """Reflections of all lattices, which must know of each other's, and the number of the lattice of each."""
    each = [
        prediction.predict(
            found.A,
            float(found.eta_rad),
            float(found.domain_ang),
            spectrum=shot.spectrum,
            detector=detector,
            space_group=section.space_group,
            d_min=section.d_min,
            polarization=polarization,
        )
        for found in lattices
    ]
    predicted = prediction.Predicted(
        *(np.concatenate(columns) for columns in zip(*each, strict=True))
    )
    reflections = integration.integrate(
        shot.image,
        shot.mask,
        predicted,
        detector=detector,
        saturation_photons=shot.saturation_photons,
        calibration_error=section.calibration_error,
        readout_photons=section.readout_photons,
    )
    return reflections, np.repeat(np.arange(len(each)), [len(p.hkl) for p in each])
