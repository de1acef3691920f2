"""One shot, from its pixels to the integrated reflections of its lattices."""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis import indexing, integration, prediction, refinement, spots
from spreadflow.config import IndexSection
from spreadflow.errors import Outcome
from spreadflow.models import Detector, Lattice, Reflections, Shot, Spots
from spreadflow.physics import lattice
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


def index(shot: Shot, section: IndexSection, detector: Detector, polarization: float) -> Result:
    """Everything between the pixels of a shot and its integrated reflections."""
    energy = float(shot.spectrum.mean_energy_ev)
    if shot.saturated_fraction > section.saturated_fraction_max:
        return Result(Outcome.SATURATED, energy)
    found = _find_spots(shot, section, detector, energy)
    if len(found.fast) < section.spots.min_spots:
        return Result(Outcome.BLANK, energy, found)
    if len(found.fast) > section.spots.max_spots:
        return Result(Outcome.OVERFLOW, energy, found)
    lattices = _find_lattices(found, shot, section, detector, energy)
    if not lattices:
        return Result(Outcome.NO_LATTICE, energy, found)
    reflections, of = _integrate(shot, section, detector, polarization, lattices)
    return Result(Outcome.INDEXED, energy, found, tuple(lattices), reflections, of)


def _find_spots(shot: Shot, section: IndexSection, detector: Detector, energy: float) -> Spots:
    """Spots within the resolution range."""
    how = section.spots.model_dump(exclude={"d_min", "d_max", "min_spots", "max_spots"})
    found = spots.find(shot.image, shot.mask, readout_photons=section.readout_photons, **how)
    d = spots.resolution(detector, energy, found)
    return spots.select(found, (d >= (section.spots.d_min or 0.0)) & (d <= (section.spots.d_max or np.inf)))


def _find_lattices(found: Spots, shot: Shot, section: IndexSection, detector: Detector, energy: float) -> list[Lattice]:
    """Lattices one after the other, each refined before the next is looked for among the spots it leaves."""
    q = (direction(detector, found.panel, found.fast, found.slow) - S0) / wavelength(energy)
    weights = np.sqrt(np.minimum(found.intensity / found.sigma, 50.0))
    free = np.ones(len(q), dtype=bool)
    lattices: list[Lattice] = []
    while len(lattices) < section.max_lattices:
        candidates = indexing.find_lattices(
            q[free],
            weights[free],
            lattice.radians(section.cell),
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
            detector=detector,
            spectrum=shot.spectrum,
            space_group=section.space_group,
            eta_rad=None if section.mosaic_spread_deg is None else section.mosaic_spread_deg * DEG,
            domain_ang=section.domain_ang,
        )
        if refined is None or not _acceptable(refined, lattices, section, detector):
            break
        lattices.append(_over_all_spots(refined, free))
        free &= ~lattices[-1].hkl.any(axis=1)
    return lattices


def _acceptable(refined: Lattice, others: list[Lattice], section: IndexSection, detector: Detector) -> bool:
    """Enough spots, close enough, a cell within the tolerances of the target, and no lattice found before."""
    rmsd_px = np.hypot(refined.rmsd_radial_mm, refined.rmsd_transverse_mm) / float(detector.pixel_mm)
    away = np.abs(refined.cell - lattice.radians(section.cell))
    return bool(
        np.count_nonzero(refined.hkl.any(axis=1)) >= section.min_indexed
        and rmsd_px <= section.rmsd_max_px
        and np.all(away[:3] <= section.length_tolerance * np.array(section.cell[:3]))
        and np.all(away[3:] <= section.angle_tolerance_deg * DEG)
        and all(misorientation(refined.A, other.A, section.space_group) > SAME_RAD for other in others)
    )


def _over_all_spots(refined: Lattice, free: np.ndarray) -> Lattice:
    """The lattice with its per-spot columns spread over all spots of the shot."""
    hkl, used = np.zeros((len(free), 3), dtype=np.int32), np.zeros(len(free), dtype=bool)
    hkl[free], used[free] = refined.hkl, refined.used
    return refined._replace(hkl=hkl, used=used)


def _integrate(
    shot: Shot, section: IndexSection, detector: Detector, polarization: float, lattices: list[Lattice]
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
    predicted = prediction.Predicted(*(np.concatenate(columns) for columns in zip(*each, strict=True)))
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
