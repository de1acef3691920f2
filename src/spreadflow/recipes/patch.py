"""Shoeboxes of simulated lattices made directly, without images: for benchmarks and for planning an
experiment.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.pixels import lattice_fit, point_spread, shoeboxes
from spreadflow.analysis.still import integration, prediction
from spreadflow.models import Mosaic, Parameters, Pixels, Shoeboxes
from spreadflow.physics import forward, layout, pair_tables, rotation, unit_cell
from spreadflow.physics.background import background
from spreadflow.physics.padding import to_few_sizes
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.products.annulus import Reflections
from spreadflow.recipes.lattice import PackedLattice, RunModel
from spreadflow.recipes.still import NOISE, ORIENTATION, Simulator
from spreadflow.units import HC_EV_ANGSTROM, wavelength

SMALLEST_TABLE = 1 << 14
"""Points that tables are padded to, at least: few sizes, few compiled programs."""


class Patch(NamedTuple):
    """The shoeboxes of one simulated lattice, and their truth."""

    shoeboxes: Shoeboxes
    predicted: prediction.Predicted
    """the reflections they are of"""
    parameters: Parameters
    """A is the mean over the mosaic domains, whose rotations count from it; it has all nodes that
    the pulse may light
    """
    bragg: np.ndarray
    """(pixel,) expected photons of the lattice, after the point spread"""
    background: np.ndarray
    """(pixel,) expected photons of water and air, after the point spread"""


class Outline(NamedTuple):
    """Where the shoeboxes of one simulated lattice lie."""

    parameters: Parameters
    """A is the mean over the mosaic domains, whose rotations count from it; all nodes that the
    pulse may light
    """
    predicted: prediction.Predicted
    """the reflections"""
    panel: np.ndarray
    """(box,) int32"""
    bbox: np.ndarray
    """(box, 4) int32, as in Shoeboxes"""


def outline(
    simulator: Simulator, number: int, *, d_min: float, d_max: float, border_px: int = 3
) -> Outline:
    """Return the shoeboxes of all reflections with d_min ≤ d < d_max (Å) of a shot with one
    lattice.

    They are those of an integration that knows the lattice, `border_px` wider. number: of the shot.
    """
    true = _parameters(simulator, number)
    predicted = _predicted(simulator, true, d_min, d_max)
    bbox = integration.shoeboxes(predicted, simulator.detector)
    bbox = shoeboxes.widened(bbox, border_px, simulator.detector.shape)
    return Outline(true, predicted, predicted.panel.astype(np.int32), bbox)


def patch(
    simulator: Simulator, number: int, *, d_min: float, d_max: float, border_px: int = 3
) -> Patch:
    """Return the shoeboxes of all reflections with d_min ≤ d < d_max (Å) of a shot with one
    lattice.

    number: of the shot, whose orientation, pulse and mosaic domains the lattice has; its noise has
    the same distribution, but not the same numbers. The boxes are those of `outline`. Two things
    are left out: saturation, and the lattice's share of the light that the point spread carries
    beyond its kernel.
    """
    place = outline(simulator, number, d_min=d_min, d_max=d_max, border_px=border_px)
    true = place.parameters
    reach = 0 if simulator.kernel is None else len(simulator.kernel) // 2
    wide = Shoeboxes(
        hkl=place.predicted.hkl.astype(np.int32),
        panel=place.panel,
        bbox=shoeboxes.widened(place.bbox, reach, simulator.detector.shape),
        photons=np.empty(0),
        valid=np.empty(0),
    )
    bragg = _bragg(simulator, true, wide)
    scattered = background_photons(simulator, true, lattice_fit.points(wide))
    rng = simulator.rng(NOISE, number)
    gain = simulator.gain[shoeboxes.addresses(place.panel, wide.bbox)[1]]

    def spread_out(photons: np.ndarray) -> np.ndarray:
        return _spread_out(simulator.kernel, wide.bbox, place.bbox, photons)

    pixels = shoeboxes.addresses(place.panel, place.bbox)[1]
    from_afar = _from_afar(simulator, true)[pixels[0]]
    counts = _count(simulator, rng, bragg + scattered) * gain
    photons = _read_out(simulator, rng, spread_out(counts) + from_afar)
    boxes = wide._replace(bbox=place.bbox, photons=photons, valid=simulator.good[pixels])
    return Patch(
        shoeboxes=boxes,
        predicted=place.predicted,
        parameters=true,
        bragg=spread_out(bragg),
        background=spread_out(scattered) + from_afar,
    )


def packed_lattice(simulated: Patch, d_max: float = np.inf) -> PackedLattice:
    """Return a simulated lattice as `annulus` would hold it, predicted with its true parameters.

    d_max: only reflections with d < d_max (Å).
    """
    boxes = simulated.shoeboxes
    true = simulated.parameters
    predicted = simulated.predicted
    is_chosen = predicted.d < d_max
    volume = 1.0 / np.linalg.det(true.crystal.A)
    chosen = boxes.chosen(is_chosen)
    reflections = Reflections(
        hkl=chosen.hkl,
        d=predicted.d[is_chosen],
        panel=chosen.panel,
        fast=predicted.fast[is_chosen],
        slow=predicted.slow[is_chosen],
        bbox=chosen.bbox,
    )
    return PackedLattice(
        A=true.crystal.A,
        eta_rad=float(true.crystal.eta_rms_rad),
        domain_ang=float(true.crystal.n_cells[0] * volume ** (1 / 3)),
        spectrum=true.spectrum,
        boxes=chosen,
        recorded=chosen.valid,
        reflections=reflections,
    )


def run_model(simulator: Simulator, factors: StructureFactors) -> RunModel:
    """Return the model of a simulated run's pixels with such structure factors, in the channels of
    its pulses.
    """
    return RunModel(
        factors=factors,
        energies_ev=simulator.energies,
        space_group=simulator.crystal.space_group,
        detector=simulator.detector,
        polarization=simulator.beam.polarization,
        recording=simulator.recording,
    )


def _parameters(simulator: Simulator, number: int) -> Parameters:
    """Return the only lattice of a shot, A and rotations counted from the mean over its domains."""
    pulse = simulator.pulse(number, number)
    (mosaic,) = simulator.mosaics(number, 1)
    turn = rotation.random(simulator.rng(ORIENTATION, number))
    A = turn @ unit_cell.reciprocal(simulator.cell)
    mean = rotation.mean(mosaic.rotations)
    centred = Mosaic(mosaic.rotations @ mean.T, mosaic.width, mosaic.share)
    return simulator.parameters(pulse, mean @ A, centred)


def _predicted(
    simulator: Simulator, true: Parameters, d_min: float, d_max: float
) -> prediction.Predicted:
    """Return the reflections that are predicted from the true lattice."""
    crystal = true.crystal
    domain_ang = float((crystal.n_cells * simulator.cell[:3]).mean())
    predicted = prediction.predict(
        prediction.MosaicLattice(crystal.A, float(crystal.eta_rms_rad), domain_ang),
        true.spectrum,
        simulator.detector,
        space_group=simulator.crystal.space_group,
        d_min=d_min,
        polarization=simulator.beam.polarization,
    )
    is_chosen = predicted.d < d_max
    return prediction.Predicted(*(column[is_chosen] for column in predicted))


def _bragg(simulator: Simulator, true: Parameters, boxes: Shoeboxes) -> np.ndarray:
    """Return the expected photons (pixel,) of a lattice, sampled as the simulation says.

    `adaptive` is as fine as it can be.
    """
    oversample = simulator.rendering.oversample
    if oversample == "adaptive":
        oversample = layout.FINEST
    hkl, f_squared = to_few_sizes((true.hkl, true.f_squared))
    true = true._replace(hkl=hkl, f_squared=f_squared)
    points, pairs = layout.within(true, boxes.panel, boxes.bbox, oversample=oversample)
    photons = forward.sums(true, to_few_sizes(points, SMALLEST_TABLE), pairs, "float64")[0]
    all_valid = boxes._replace(valid=np.ones(boxes.n_pixels.sum(), dtype=bool))
    return lattice_fit.means(all_valid, oversample, len(photons)) @ photons


def background_photons(simulator: Simulator, true: Parameters, points: Pixels) -> np.ndarray:
    """Return the expected photons (pixel,) of water and air."""
    pixels = to_few_sizes(points, SMALLEST_TABLE)
    rays = pair_tables.rays(simulator.detector, simulator.beam.polarization, pixels)
    squares = [np.asarray(component) ** 2 for component in rays.turn]
    sine = 0.5 * HC_EV_ANGSTROM * np.sqrt(sum(squares))
    pulse = true.spectrum
    photons = background(
        sine,
        np.asarray(rays.efficiency),
        wavelength(pulse.mean_energy_ev),
        pulse.photons.sum(),
        simulator.section.water_mm,
        simulator.section.air_mm,
    )
    return np.asarray(photons)[: len(points.fast)]


def _count(simulator: Simulator, rng: np.random.Generator, photons: np.ndarray) -> np.ndarray:
    """Return counts (pixel,) of expected photons."""
    flicker = simulator.section.flicker
    if flicker:
        factor = 1.0 + flicker * rng.standard_normal(len(photons))
        photons = np.maximum(factor, 0.0) * photons
    return rng.poisson(photons)


def _spread_out(
    kernel: np.ndarray | None, wide: np.ndarray, bbox: np.ndarray, photons: np.ndarray
) -> np.ndarray:
    """Return photons (pixel,) in boxes (box, 4), given those in wider ones before the point
    spread.
    """
    if kernel is None:
        return photons
    pieces = [np.empty(0)]
    first = 0
    for (fast0, fast1, slow0, slow1), inner in zip(wide, bbox, strict=True):
        shape = (slow1 - slow0, fast1 - fast0)
        n_pixels = shape[0] * shape[1]
        image = point_spread.spread(photons[first : first + n_pixels].reshape(shape), kernel)
        rows = slice(inner[2] - slow0, inner[3] - slow0)
        columns = slice(inner[0] - fast0, inner[1] - fast0)
        pieces.append(image[rows, columns].ravel())
        first += n_pixels
    return np.concatenate(pieces)


def _from_afar(simulator: Simulator, true: Parameters) -> np.ndarray:
    """Return the expected photons (panel,) that each pixel has from beyond the kernel's reach: the
    light that the kernel leaves out, spread evenly over the panel.
    """
    if simulator.kernel is None:
        return np.zeros(simulator.detector.n_panels)
    lost = 1.0 - simulator.kernel.sum()
    return lost * simulator.expected(true.spectrum, [])[0].mean(axis=(1, 2))


def _read_out(simulator: Simulator, rng: np.random.Generator, photons: np.ndarray) -> np.ndarray:
    """Return recorded photons (pixel,), given those that were counted, amplified and spread.

    They are read out with noise, and divided by the nominal gain.
    """
    section = simulator.section
    noise = simulator.readout_adu * rng.standard_normal(len(photons))
    adu = photons * section.quantum_gain + noise
    return (np.rint(adu) / section.quantum_gain).astype(np.float32)
