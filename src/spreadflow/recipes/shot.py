"""One shot, from its pixels to the integrated reflections of its lattices."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spreadflow import build
from spreadflow.analysis.still import (
    evidence,
    indexing,
    integration,
    prediction,
    refinement,
    search_space,
    spots,
)
from spreadflow.analysis.still.evidence import Evidence
from spreadflow.analysis.still.prediction import MosaicLattice, Predicted
from spreadflow.analysis.still.strong_pixels import DispersionThreshold
from spreadflow.analysis.still.tails import Tails
from spreadflow.config import IndexSection, NoiseSection
from spreadflow.errors import Outcome
from spreadflow.models import (
    Detector,
    Lattice,
    Noise,
    ReflectionFlag,
    Reflections,
    Shot,
    Spectrum,
    Spots,
)
from spreadflow.physics import miller, unit_cell
from spreadflow.physics.geometry import S0, direction
from spreadflow.physics.point_spreads import FIBRE_SHAPE
from spreadflow.physics.symmetry import misorientation
from spreadflow.units import DEG, wavelength

LARGEST_WEIGHT_SQUARED = 50.0
"""I/σ, the square of a spot's weight in indexing, above which weights stay the same: bright spots
are placed no better.
"""

HEADER_SIGMA_MM = 0.3
"""Mm; how far headers are off, along each edge of the detector: one or two pixels are usual before
the first refinement of the geometry.
"""

LARGEST_ETA_RAD = 0.5 * DEG
"""Mosaic spread beyond which a lattice is none: wrong ones explain everything by smearing all nodes
over the image, and their shoeboxes would not fit into memory.
"""


class Result(NamedTuple):
    """What came of one shot."""

    outcome: Outcome
    reason: str = ""
    """why it is not indexed, in words that are the same for all shots with the same cause"""
    mean_energy_ev: float = np.nan
    pulse_photons: float = np.nan
    spots: Spots | None = None
    lattices: tuple[Lattice, ...] = ()
    reflections: Reflections | None = None
    """of all lattices"""
    reflection_lattice: np.ndarray = np.empty(0, dtype=int)
    """(reflection,) number of its lattice"""
    evidences: tuple[Evidence, ...] = ()
    """what speaks for each lattice"""
    n_refused: int = 0
    """lattices that spots were found for, and whose predictions carry no signal"""
    psf_fwhm_mm: float = 0.0
    """full width of the point spread that the tails of its spots show; 0 = none"""


class _Integrated(NamedTuple):
    """The reflections of all lattices of a shot, and what they say of these."""

    reflections: Reflections
    lattice: np.ndarray
    """(reflection,) number of its lattice"""
    evidences: tuple[Evidence, ...]
    point_spread: Tails
    """tails of the spots"""


def index(
    shot: Shot,
    section: IndexSection,
    recording: NoiseSection,
    detector: Detector,
    polarization: float,
    supplied: Sequence[np.ndarray] | None = None,
    *,
    is_refined: bool = True,
) -> Result:
    """Take a shot from its pixels to its integrated reflections.

    supplied: A (3, 3) of its lattices, where these are given and need not be searched for.
    is_refined: the detector is where it is said to be; else the shot's first lattice finds how far
    it is off.
    """
    energy = float(shot.spectrum.mean_energy_ev)
    photons = float(shot.spectrum.photons.sum())
    if shot.saturated_fraction > section.saturated_fraction_max:
        reason = f"more than {section.saturated_fraction_max:.2%} of the pixels are overloads"
        return Result(Outcome.SATURATED, reason, energy, photons)
    all_spots = _find_spots(shot, section, recording, detector)
    lost = Result(Outcome.NO_LATTICE, "", energy, photons, all_spots)
    if supplied is None:
        outcome, reason = _too_few_or_many(len(all_spots.fast), section)
        if reason:
            return lost._replace(outcome=outcome, reason=reason)
        sigma_mm = 0.0 if is_refined else HEADER_SIGMA_MM
        lattices = _find_lattices(all_spots, shot, section, detector, sigma_mm)
    else:
        lattices = hold_lattices(supplied, all_spots, shot.spectrum, section, detector)
    if not lattices:
        return lost._replace(reason="no lattice near the target explains enough spots")
    noise = build.noise(recording)
    integrated = _integrate(shot, section, noise, detector, polarization, lattices)
    n_refused = 0
    if supplied is None:
        enough = [of_lattice.is_enough for of_lattice in integrated.evidences]
        n_refused = enough.count(False)
        if n_refused == len(lattices):
            reason = "lattices that explain spots have no signal where they predict it"
            return lost._replace(reason=reason, n_refused=n_refused)
        if n_refused:
            lattices = [
                lattice for lattice, is_enough in zip(lattices, enough, strict=True) if is_enough
            ]
            integrated = _integrate(shot, section, noise, detector, polarization, lattices)
    return Result(
        outcome=Outcome.INDEXED,
        mean_energy_ev=energy,
        pulse_photons=photons,
        spots=all_spots,
        lattices=tuple(lattices),
        reflections=_within_limits(integrated),
        reflection_lattice=integrated.lattice,
        evidences=integrated.evidences,
        n_refused=n_refused,
        psf_fwhm_mm=integrated.point_spread.width_px * float(detector.pixel_mm) / FIBRE_SHAPE,
    )


def _too_few_or_many(n_spots: int, section: IndexSection) -> tuple[Outcome, str]:
    """Return how a shot ends whose spots are too few or too many for lattices, and why; INDEXED and
    '' where they are neither.
    """
    settings = section.spots
    if n_spots < settings.min_spots:
        return Outcome.BLANK, f"fewer than {settings.min_spots} spots"
    if n_spots > settings.max_spots:
        return Outcome.OVERFLOW, f"more than {settings.max_spots} spots: is the gain right?"
    return Outcome.INDEXED, ""


def _find_spots(
    shot: Shot, section: IndexSection, recording: NoiseSection, detector: Detector
) -> Spots:
    """Return the spots within the resolution range."""
    settings = section.spots
    threshold = DispersionThreshold(
        gain=recording.gain,
        readout_photons=recording.readout_photons,
        kernel=(settings.kernel[0], settings.kernel[1]),
        sigma_background=settings.sigma_background,
        sigma_strong=settings.sigma_strong,
        global_threshold=settings.global_threshold,
    )
    found = spots.find(
        shot.image,
        shot.mask,
        threshold,
        shot.relative_gain,
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
    )
    d = spots.resolution(detector, float(shot.spectrum.mean_energy_ev), found)
    d_min = settings.d_min or 0.0
    d_max = settings.d_max or np.inf
    return spots.select(found, (d >= d_min) & (d <= d_max))


def _find_lattices(
    all_spots: Spots,
    shot: Shot,
    section: IndexSection,
    detector: Detector,
    shift_sigma_mm: float,
) -> list[Lattice]:
    """Find lattices one after the other: each is refined before the next is searched for among the
    spots that are left.

    shift_sigma_mm: how far the detector may be off, in each direction. The first lattice finds it,
    the others keep to that.
    """
    there = detector
    weights = np.sqrt(np.minimum(all_spots.intensity / all_spots.sigma, LARGEST_WEIGHT_SQUARED))
    target = target_of_section(section)
    settings = _refinement_settings(section)
    first = settings._replace(shift_sigma_mm=shift_sigma_mm)
    is_free = np.ones(len(weights), dtype=bool)
    lattices: list[Lattice] = []
    while len(lattices) < section.max_lattices:
        q = _reciprocal(all_spots, there, shot)
        candidates = indexing.find_lattices(
            q[is_free],
            weights[is_free],
            target,
            max_lattices=1,
            min_indexed=section.min_indexed,
            min_fraction=section.min_fraction_indexed,
        )
        if not candidates:
            break
        refined = refinement.refine(
            candidates[0].A,
            candidates[0].hkl,
            spots.select(all_spots, is_free),
            shot.spectrum,
            there,
            settings if lattices else first,
        )
        if refined is None or not _is_acceptable(refined, lattices, section, detector):
            break
        if lattices:
            refined = refined._replace(shift_mm=lattices[0].shift_mm)
        there = refinement.moved(detector, refined.shift_mm)
        lattices.append(_over_all_spots(refined, is_free))
        is_free &= ~lattices[-1].hkl.any(axis=1)
    return lattices


def _reciprocal(all_spots: Spots, detector: Detector, shot: Shot) -> np.ndarray:
    """Return the reciprocal vectors (spot, 3) of spots at the mean energy of their pulse, Å⁻¹."""
    s1 = direction(detector, all_spots.panel, all_spots.fast, all_spots.slow)
    return (s1 - S0) / wavelength(float(shot.spectrum.mean_energy_ev))


def _is_acceptable(
    refined: Lattice, others: list[Lattice], section: IndexSection, detector: Detector
) -> bool:
    """Whether a lattice has enough spots, close enough, a cell near the target and a mosaic spread
    that crystals have, and was not found before.
    """
    rmsd_mm = np.hypot(refined.rmsd_radial_mm, refined.rmsd_transverse_mm)
    n_indexed = np.count_nonzero(refined.hkl.any(axis=1))
    return bool(
        n_indexed >= section.min_indexed
        and rmsd_mm / float(detector.pixel_mm) <= section.rmsd_max_px
        and refined.eta_rad <= LARGEST_ETA_RAD
        and is_near_target(refined.cell, section)
        and is_new(refined.A, [other.A for other in others], section)
    )


def target_of_section(section: IndexSection) -> search_space.Target:
    """Return the lattice that a section expects, and how far the true one may be away."""
    return search_space.target_of(
        unit_cell.radians(section.cell),
        section.space_group,
        length_tolerance=section.length_tolerance,
        angle_tolerance=section.angle_tolerance_deg * DEG,
        n_directions=section.n_directions,
    )


def is_near_target(cell: np.ndarray, section: IndexSection) -> bool:
    """Whether a cell (6,) (Å, rad) is within the tolerances of the target."""
    difference = np.abs(cell - unit_cell.radians(section.cell))
    edges = np.array(section.cell[:3])
    lengths = difference[:3] <= section.length_tolerance * edges
    angles = difference[3:] <= section.angle_tolerance_deg * DEG
    return bool(np.all(lengths) and np.all(angles))


def is_new(A: np.ndarray, others: Sequence[np.ndarray], section: IndexSection) -> bool:
    """Whether A (3, 3) is another crystal than the other lattices of its shot."""
    turns = [misorientation(A, other, section.space_group) for other in others]
    return all(turn > indexing.SAME_CRYSTAL_RAD for turn in turns)


def hold_lattices(
    supplied: Sequence[np.ndarray],
    all_spots: Spots,
    spectrum: Spectrum,
    section: IndexSection,
    detector: Detector,
) -> list[Lattice]:
    """Return the supplied lattices as they are, each with its spots among those that the lattices
    before it left.
    """
    is_free = np.ones(len(all_spots.fast), dtype=bool)
    settings = _refinement_settings(section)
    lattices: list[Lattice] = []
    for A in supplied:
        left = spots.select(all_spots, is_free)
        held = refinement.hold(A, left, spectrum, detector, settings)
        lattices.append(_over_all_spots(held, is_free))
        is_free &= ~lattices[-1].hkl.any(axis=1)
    return lattices


def _refinement_settings(section: IndexSection) -> refinement.Settings:
    """Return how all lattices of a run are refined."""
    eta_rad = None
    if section.mosaic_spread_deg is not None:
        eta_rad = section.mosaic_spread_deg * DEG
    return refinement.Settings(section.space_group, section.domain_ang, eta_rad)


def _over_all_spots(refined: Lattice, is_free: np.ndarray) -> Lattice:
    """Return the lattice with its columns of spots spread over all spots of the shot."""
    hkl = np.zeros((len(is_free), 3), dtype=np.int32)
    used = np.zeros(len(is_free), dtype=bool)
    hkl[is_free] = refined.hkl
    used[is_free] = refined.used
    return refined._replace(hkl=hkl, used=used)


def _integrate(
    shot: Shot,
    section: IndexSection,
    noise: Noise,
    detector: Detector,
    polarization: float,
    lattices: list[Lattice],
) -> _Integrated:
    """Return the reflections of all lattices, and what they say of these.

    All are integrated together, as neighbours must not lie in each other's background.
    """
    there = refinement.moved(detector, lattices[0].shift_mm)
    of_lattices = [
        prediction.predict(
            MosaicLattice(lattice.A, float(lattice.eta_rad), float(lattice.domain_ang)),
            shot.spectrum,
            there,
            space_group=section.space_group,
            d_min=section.d_min,
            polarization=polarization,
        )
        for lattice in lattices
    ]
    reflections, point_spread = integration.integrate_and_learn(
        shot.image,
        shot.mask,
        joined(of_lattices),
        there,
        noise=noise,
        saturation_photons=shot.saturation_photons,
    )
    lattice_of = numbers(of_lattices)
    controls = [
        _control(shot, noise, there, of_lattices, angle, point_spread)
        for angle in evidence.CONTROL_TURNS_RAD
    ]
    z = evidence.strengths(reflections)
    evidences = []
    for number, (lattice, predicted) in enumerate(zip(lattices, of_lattices, strict=True)):
        own = lattice_of == number
        is_spot = miller.rows(lattice.hkl, predicted.hkl) >= 0
        control = np.concatenate([of_turn[number] for of_turn in controls])
        evidences.append(evidence.weigh(predicted, z[own], is_spot, control))
    return _Integrated(reflections, lattice_of, tuple(evidences), point_spread)


def joined(of_lattices: list[Predicted]) -> Predicted:
    """Return the reflections of some lattices as one list."""
    return Predicted(*map(np.concatenate, zip(*of_lattices, strict=True)))


def numbers(of_lattices: list[Predicted]) -> np.ndarray:
    """Return the number of the lattice of each of their reflections."""
    n_reflections = [len(predicted.hkl) for predicted in of_lattices]
    return np.repeat(np.arange(len(of_lattices)), n_reflections)


def _control(
    shot: Shot,
    noise: Noise,
    detector: Detector,
    of_lattices: list[Predicted],
    angle_rad: float,
    point_spread: Tails,
) -> list[np.ndarray]:
    """Return the strengths of predictions of each lattice, turned about the beam.

    point_spread: as the spots of the shot show it.
    """
    elsewhere = [evidence.turned(predicted, detector, angle_rad) for predicted in of_lattices]
    if not any(len(predicted.hkl) for predicted in elsewhere):
        return [np.empty(0)] * len(of_lattices)
    reflections = integration.integrate(
        shot.image,
        shot.mask,
        joined(elsewhere),
        detector,
        noise=noise,
        saturation_photons=shot.saturation_photons,
        point_spread=point_spread,
    )
    lattice_of = numbers(elsewhere)
    z = evidence.strengths(reflections)
    return [z[lattice_of == number] for number in range(len(of_lattices))]


def _within_limits(integrated: _Integrated) -> Reflections:
    """Return the reflections, those beyond the resolution of their lattice flagged."""
    reflections = integrated.reflections
    limits = np.array([of_lattice.d_min for of_lattice in integrated.evidences])
    is_beyond = reflections.d < limits[integrated.lattice]
    flags = reflections.flags | np.where(is_beyond, ReflectionFlag.BEYOND, 0)
    return reflections._replace(flags=flags.astype(np.int32))
