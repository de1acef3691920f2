"""One lattice refined against its pixels, from the packed shoeboxes of an annulus on.

Nothing here reads or writes files, or knows of ranks.
"""

from typing import Any, NamedTuple

import numpy as np

from spreadflow import build
from spreadflow.analysis import orientation_matrix
from spreadflow.analysis.least_squares import Unsolvable
from spreadflow.analysis.pixels import held_out, lattice_fit, point_spread, restraints
from spreadflow.analysis.pixels.restraints import Unknown
from spreadflow.config import RecordingSection, Stage1Section
from spreadflow.errors import FileError, RefinedOutcome
from spreadflow.models import (
    Crystal,
    Detector,
    Mosaic,
    Overlap,
    Parameters,
    Shoeboxes,
    Spectrum,
    pixel_counts,
)
from spreadflow.physics import geometry, noise, symmetry, unit_cell
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.products.annulus import Annulus, Reflections
from spreadflow.units import DEG

LARGEST_TURN_RAD = 0.5 * DEG
"""A lattice that turns by more is not the one that was indexed."""

LARGEST_SCALE_SIGMA = 1.0
"""Standard deviation of ln scale above which the photons do not determine the scale."""

RERUN = "Rerun annulus, or wide, and the stages after it."
"""What to do about shoeboxes whose parts do not belong together."""

KERNEL_PX = 10
"""Half size of the kernel of the point spread, px; light that spreads farther is background."""

FEWEST_CELLS = 5.0
"""Fewest unit cells along an axis of a domain at the start of a fit: the model does not hold for
fewer.
"""

FITTED = (RefinedOutcome.REFINED, RefinedOutcome.NOT_CONVERGED)
"""Outcomes of lattices whose numbers and reflections are written."""


class PackedLattice(NamedTuple):
    """A lattice as an annulus holds it."""

    A: np.ndarray
    """(3, 3) Å⁻¹, as it was predicted with"""
    eta_rad: float
    """mosaic spread that it was predicted with"""
    domain_ang: float
    """size of its domains that it was predicted with, Å"""
    spectrum: Spectrum
    boxes: Shoeboxes
    """valid: may be used, holds this lattice's photons alone, and is in no nearer shoebox"""
    recorded: np.ndarray
    """(pixel,) bool: may be used, whosever photons it holds"""
    reflections: Reflections


class RunModel(NamedTuple):
    """What the lattices of a run share."""

    factors: StructureFactors
    """structure factors; their channels are `energies_ev`"""
    energies_ev: np.ndarray
    """(channel,) all channels that any pulse has"""
    space_group: str
    detector: Detector
    polarization: float
    """Kahn's K along the lab x axis"""
    recording: RecordingSection
    """how its shots were recorded"""

    def channels(self, spectrum: Spectrum) -> np.ndarray:
        """Return the rows (n,) of `energies_ev` that the channels of a pulse are. Raises FileError
        where one is none of them.
        """
        own = np.asarray(spectrum.energies_ev)
        rows = np.minimum(np.searchsorted(self.energies_ev, own), len(self.energies_ev) - 1)
        is_apart = self.energies_ev[rows] != own
        if is_apart.any():
            expected = f"{len(self.energies_ev)} channels that are common to all pulses"
            raise FileError("spectra", expected, f"another at {own[is_apart][0]} eV", RERUN)
        return rows


class Start(NamedTuple):
    """Where an earlier refinement of a lattice ended: the next one starts there."""

    A: np.ndarray
    n_cells: np.ndarray
    eta_axes_rad: np.ndarray
    """(3,) by axis of the crystal; all the same where η is one"""
    scale: float


class LatticeFit(NamedTuple):
    """A lattice after its fit; `problem` and `refined` are None where none was possible."""

    outcome: RefinedOutcome
    why: str = ""
    """a few words, where the outcome is not as it should be"""
    problem: lattice_fit.Problem | None = None
    refined: lattice_fit.RefinedLattice | None = None
    held_out_gain: float = np.nan
    """by how much −ln L of shoeboxes that were not fitted is expected to be lower with orientation
    and cell of the pixels than with those of the spots; NaN = not compared
    """


def unpack(
    shoeboxes: Annulus, row: int, d_min: float = 0.0, d_max: float = np.inf
) -> PackedLattice:
    """Return the lattice of a row of a part of packed shoeboxes, with its reflections of d_min ≤ d
    < d_max (Å).
    """
    # reflections are in the order of their lattices
    lattice_of = shoeboxes.reflections.lattice
    first, end = np.searchsorted(lattice_of, np.array([row, row + 1], lattice_of.dtype))
    reflections = shoeboxes.reflections[first:end]
    reflections = reflections[(reflections.d >= d_min) & (reflections.d < d_max)]

    n_pixels = pixel_counts(reflections.bbox)
    first_pixel = np.repeat(reflections.first_pixel - np.cumsum(n_pixels) + n_pixels, n_pixels)
    pixels = first_pixel + np.arange(n_pixels.sum())
    recorded = shoeboxes.pixels.valid[pixels]
    boxes = Shoeboxes(
        hkl=reflections.hkl,
        panel=reflections.panel,
        bbox=reflections.bbox,
        photons=shoeboxes.pixels.photons[pixels],
        valid=recorded & (shoeboxes.pixels.overlap[pixels] & Overlap.LEFT_OUT == 0),
    )
    lattices = shoeboxes.lattices
    spectra = shoeboxes.spectra
    pulse = lattices.spectrum[row]
    return PackedLattice(
        A=lattices.A[row],
        eta_rad=lattices.eta_rad[row],
        domain_ang=lattices.domain_ang[row],
        spectrum=without_padding(Spectrum(spectra.energies_ev[pulse], spectra.photons[pulse])),
        boxes=boxes,
        recorded=recorded,
        reflections=reflections,
    )


def without_padding(spectrum: Spectrum) -> Spectrum:
    """Return a spectrum without the empty channels that pad those of a product, and without
    negative photons.
    """
    energies = np.asarray(spectrum.energies_ev)
    is_rising = np.append(np.diff(energies) > 0, False)
    n_channels = 1 + int(np.argmin(is_rising))
    photons = np.asarray(spectrum.photons, dtype=np.float64)[:n_channels]
    return Spectrum(energies[:n_channels], np.maximum(photons, 0.0))


def start_of(lattice: PackedLattice, mosaic: Mosaic, model: RunModel) -> Parameters:
    """Return the parameters that a fit begins with: the orientation and cell of the prediction, and
    all nodes that the pulse may light.

    N is that of a domain of the size that the prediction had; η is that of the prediction, or of a
    learned mosaicity.
    """
    volume = unit_cell.volume(unit_cell.cell_of(lattice.A))
    n_cells = np.full(3, max(lattice.domain_ang / volume ** (1 / 3), FEWEST_CELLS))
    eta_rad = lattice.eta_rad if mosaic.eta_rad is None else mosaic.eta_rad
    channels = model.channels(lattice.spectrum)
    factors = model.factors._replace(anomalous=model.factors.anomalous[:, channels])
    whole = Parameters(
        crystal=Crystal(lattice.A, n_cells, np.float64(eta_rad)),
        mosaic=mosaic,
        scale=np.float64(1.0),
        beam_mm=model.recording.beam_size_mm,
        spectrum=lattice.spectrum,
        polarization=model.polarization,
        detector=model.detector,
        hkl=factors.hkl,
        f_squared=np.broadcast_to(1.0, (len(factors.hkl), len(channels))),
    )
    rows = lattice_fit.reachable(whole, lattice.boxes)
    return whole._replace(hkl=factors.hkl[rows], f_squared=factors.squared(rows))


def problem_of(
    lattice: PackedLattice,
    mosaic: Mosaic,
    model: RunModel,
    section: Stage1Section,
    start: Start | None = None,
) -> lattice_fit.Problem:
    """Return a lattice and its pixels, their point spread undone.

    start: where an earlier refinement ended; without it the lattice starts where prediction has it.
    """
    boxes = lattice.boxes
    recording = model.recording
    own_noise = build.noise(recording)
    if recording.psf_fwhm_mm:
        make_kernel = noise.POINT_SPREADS[recording.psf]
        kernel = make_kernel(recording.psf_fwhm_mm, float(model.detector.pixel_mm), KERNEL_PX)
        boxes = point_spread.undone(boxes, lattice.recorded, kernel)
        readout_photons = own_noise.readout_photons * point_spread.growth(kernel)
        own_noise = own_noise._replace(readout_photons=readout_photons)
    if start is None:
        parameters = start_of(lattice, mosaic, model)
    else:
        parameters = start_of(lattice._replace(A=start.A), mosaic, model)
    indexed = parameters._replace(crystal=parameters.crystal._replace(A=lattice.A))
    if start is not None:
        crystal = Crystal(start.A, start.n_cells, start.eta_axes_rad)
        parameters = parameters._replace(crystal=crystal, scale=start.scale)
    problem = lattice_fit.problem(
        with_eta_axes(parameters, section),
        model.space_group,
        boxes,
        own_noise,
        section.oversample,
    )
    return problem._replace(restraints=restraints_of(section, indexed, model.space_group))


def with_eta_axes(parameters: Parameters, section: Stage1Section) -> Parameters:
    """Return parameters whose η is by axis where it is refined so, and one elsewhere."""
    is_by_axis = section.eta_axes == 3 and parameters.mosaic.has_eta
    eta_axes_rad = parameters.crystal.eta_axes_rad
    eta_rad = eta_axes_rad if is_by_axis else eta_axes_rad[0]
    return parameters._replace(crystal=parameters.crystal._replace(eta_rad=eta_rad))


def restraints_of(
    section: Stage1Section, indexed: Parameters, space_group: str
) -> restraints.Restraints | None:
    """Return what the configuration knows of a lattice beside its pixels, or None where it knows
    nothing.

    indexed: the lattice where fits start; it supplies the centres that the configuration leaves
    out. To first order: σ of N and η are those of ln N and ln η times the value they are centred
    at.
    """
    configured = section.restraints
    if not configured.by_name():
        return None
    crystal = indexed.crystal
    frame = orientation_matrix.crystal_frame(crystal.A, space_group)
    if configured.cell is not None and configured.cell.centre is not None:
        frame = frame._replace(metric=_metric(configured.cell.centre, space_group))
    stretch = configured.wavelength.centre if configured.wavelength else 0.0
    A = orientation_matrix.at_start(frame) / (1.0 + stretch)
    n_cells = crystal.n_cells
    if configured.n_cells and configured.n_cells.centre:
        n_cells = np.full(3, configured.n_cells.centre)
    eta_rad = np.float64(crystal.eta_rad)
    if configured.eta and configured.eta.centre:
        eta_rad = np.float64(configured.eta.centre * DEG)
    scale = np.float64(np.nan)
    if configured.scale and configured.scale.centre:
        scale = np.float64(configured.scale.centre)
    shift_mm = configured.distance.centre if configured.distance else 0.0
    units = {"rotation": DEG, "n_cells": 1.0 / n_cells[0], "eta": DEG / eta_rad}
    centre = indexed._replace(
        crystal=Crystal(A, n_cells, eta_rad),
        scale=scale,
        detector=geometry.shifted(indexed.detector, 0.0, 0.0, shift_mm),
    )
    sigmas = {
        name: restraint.sigma * units.get(name, 1.0)
        for name, restraint in configured.by_name().items()
    }
    return restraints.Restraints(centre, sigmas)


def _metric(cell: list[float], space_group: str) -> np.ndarray:
    """Return the reciprocal metric (3, 3) of a cell a b c (Å) α β γ (degrees)."""
    B = unit_cell.reciprocal(symmetry.constrain_cell(unit_cell.radians(cell), space_group))
    return B.T @ B


def refine_lattice(
    lattice: PackedLattice,
    mosaic: Mosaic,
    model: RunModel,
    section: Stage1Section,
    start: Start | None = None,
) -> LatticeFit:
    """Refine a lattice against its pixels. A lattice that cannot be refined has an outcome, and
    raises nothing.

    start: where an earlier refinement ended; the fit searches only near it.
    """
    free = tuple(section.refine)
    try:
        problem = problem_of(lattice, mosaic, model, section, start)
        n_strains = len(problem.frame.strains)
        sizes = unknowns_of(section, mosaic, n_strains)
        n_boxes = int((np.diff(problem.data.start) > 0).sum())
        if n_boxes <= sum(sizes.values()):
            return LatticeFit(RefinedOutcome.TOO_FEW, f"{n_boxes} shoeboxes")
        refined = lattice_fit.refine(
            problem,
            free,
            is_rough=start is None,
            **_fit_settings(section),
        )
    except Unsolvable as error:
        return LatticeFit(RefinedOutcome.LOST, str(error))
    outcome, why = _judge(problem, refined)
    return LatticeFit(outcome, why, problem, refined)


def unknowns_of(section: Stage1Section, mosaic: Mosaic, n_strains: int) -> dict[Unknown, int]:
    """Return how many unknowns a lattice has of each kind that is refined."""
    free = tuple(section.refine)
    return lattice_fit.unknowns(free, mosaic, n_strains, section.n_cells_axes, section.eta_axes)


def _fit_settings(section: Stage1Section) -> dict[str, Any]:
    """Return what `lattice_fit.refine` is told of the configuration."""
    return {
        "n_axes": section.n_cells_axes,
        "target": section.target,
        "minimizer": section.minimizer,
        "n_iterations": section.max_iterations,
    }


def likelier(fit: LatticeFit, section: Stage1Section) -> LatticeFit:
    """Return a fit that began at the prediction if shoeboxes that were not fitted are expected to
    be likelier with it, else the one that leaves orientation and cell as the spots had them.

    A fit stays as it is where nothing of these is free, or where they are restrained: what is known
    of them is then not the spots' alone.
    """
    free = tuple(section.refine)
    can_be_held = set(free) & set(held_out.OF_SPOTS)
    is_restrained = bool(can_be_held & set(section.restraints.by_name()))
    if not can_be_held or is_restrained or fit.outcome not in FITTED:
        return fit
    problem = fit.problem
    refined = fit.refined
    assert problem is not None and refined is not None, "of every lattice that was fitted"
    try:
        of_spots = held_out.with_spots(
            problem,
            refined,
            free,
            **_fit_settings(section),
        )
        gain = held_out.gain(refined, of_spots)
    except Unsolvable:
        return fit
    fit = fit._replace(held_out_gain=gain)
    if gain > 0:
        return fit
    outcome, why = _judge(problem, of_spots)
    return fit._replace(outcome=outcome, why=why, refined=of_spots)


def _judge(
    problem: lattice_fit.Problem, refined: lattice_fit.RefinedLattice
) -> tuple[RefinedOutcome, str]:
    """Return the outcome of a fit, and why where it is not refined."""
    A = refined.parameters.crystal.A
    sigma = np.sqrt(np.diag(refined.fisher))
    is_finite = np.isfinite(A).all() and np.isfinite(sigma).all()
    if not (is_finite and np.isfinite(refined.fit.point.loss)):
        return RefinedOutcome.LOST, "no finite solution"
    turn = np.linalg.norm(misset(problem, refined))
    if turn > LARGEST_TURN_RAD:
        return RefinedOutcome.LOST, f"turned by {turn / DEG:.2f}°"
    sigma_of = dict(zip(refined.names, sigma, strict=True))
    if sigma_of.get("scale", 0.0) > LARGEST_SCALE_SIGMA:
        return RefinedOutcome.LOST, "no scale"
    if not refined.fit.is_converged:
        return RefinedOutcome.NOT_CONVERGED, refined.fit.ending.value
    return RefinedOutcome.REFINED, ""


def misset(problem: lattice_fit.Problem, refined: lattice_fit.RefinedLattice) -> np.ndarray:
    """Return the rotation vector (3,) from the orientation at the start, lab frame, rad."""
    return orientation_matrix.coordinates(problem.frame, refined.parameters.crystal.A)[:3]


def start_after(fit: LatticeFit) -> Start:
    """Return where a fit ended, for the next one to start there."""
    assert fit.refined is not None, "only of lattices that were fitted"
    parameters = fit.refined.parameters
    crystal = parameters.crystal
    return Start(crystal.A, crystal.n_cells, crystal.eta_axes_rad, parameters.scale)
