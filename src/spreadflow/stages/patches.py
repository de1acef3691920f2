"""Shoeboxes of simulated lattices made directly, without images: for benchmarks and for planning an experiment."""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis import integration, lattice_fit, prediction, shoeboxes
from spreadflow.errors import ConfigError
from spreadflow.models import Mosaic, Parameters, Pixels, Shoeboxes
from spreadflow.physics import forward, lattice, layout, rotation
from spreadflow.physics.background import background
from spreadflow.stages.still import NOISE, ORIENTATION, Simulator
from spreadflow.units import HC_EV_ANGSTROM, wavelength


class Patch(NamedTuple):
    """The shoeboxes of one simulated lattice and what is true of them."""

    shoeboxes: Shoeboxes
    predicted: prediction.Predicted
    """the reflections they are of"""
    parameters: Parameters
    """A is the mean over the mosaic domains, whose rotations count from it; all nodes that the pulse may light"""
    bragg: np.ndarray
    """(pixel,) expected photons of the lattice"""
    background: np.ndarray
    """(pixel,) expected photons of water and air"""


def patch(simulator: Simulator, number: int, *, d_min: float, d_max: float, border_px: int = 3) -> Patch:
    """Shoeboxes of all reflections with d_min ≤ d < d_max (Å) of a shot with one lattice, whose id is `number`.

    Orientation, pulse and mosaic domains are those of that shot's still; noise has the same distribution, but not the
    same numbers. The boxes are those of an integration that knows the lattice, `border_px` wider. Saturation is left
    out. Raises ConfigError where light spreads between pixels, for which an image is needed.
    """
    if simulator.kernel is not None:
        width = simulator.section.psf_fwhm_mm
        raise ConfigError("detector.psf_fwhm_mm", "0 where no images are made", width, "Simulate images instead.")
    true = _parameters(simulator, number)
    found = _predicted(simulator, true, d_min, d_max)
    panel, bbox = found.panel.astype(np.int32), integration.shoeboxes(found, simulator.detector)
    bbox = shoeboxes.widened(bbox, border_px, simulator.detector.shape)
    where = shoeboxes.addresses(panel, bbox)[1]
    boxes = Shoeboxes(found.hkl.astype(np.int32), panel, bbox, np.zeros(len(where[0])), simulator.good[where])
    photons, behind = _bragg(simulator, true, boxes), _background(simulator, true, lattice_fit.points(boxes))
    counts = _counted(simulator, number, photons + behind, simulator.gain[where])
    return Patch(boxes._replace(photons=counts), found, true, photons, behind)


def _parameters(simulator: Simulator, number: int) -> Parameters:
    """Of the only lattice of a shot, A and rotations from the mean over its domains."""
    pulse, (spread,) = simulator.pulse(number, number), simulator.mosaics(number, 1)
    A = rotation.random(simulator.rng(ORIENTATION, number)) @ lattice.reciprocal(simulator.cell)
    middle = rotation.mean(spread.rotations)
    centred = Mosaic(spread.rotations @ middle.T, spread.width, spread.share)
    return simulator.parameters(pulse, middle @ A, centred)


def _predicted(simulator: Simulator, true: Parameters, d_min: float, d_max: float) -> prediction.Predicted:
    """What prediction finds, knowing what is true."""
    crystal = true.crystal
    found = prediction.predict(
        crystal.A,
        float(crystal.eta_rad),
        float((crystal.n_cells * simulator.cell[:3]).mean()),
        spectrum=true.spectrum,
        detector=simulator.detector,
        space_group=simulator.crystal.space_group,
        d_min=d_min,
        polarization=simulator.beam.polarization,
    )
    return prediction.Predicted(*(column[found.d < d_max] for column in found))


def _bragg(simulator: Simulator, true: Parameters, boxes: Shoeboxes) -> np.ndarray:
    """(pixel,) expected photons of a lattice, sampled as the simulation says; `adaptive` is as fine as it can be."""
    how = simulator.how.oversample
    oversample = layout.FINEST if how == "adaptive" else how
    hkl, f_squared = layout.filled((true.hkl, true.f_squared))
    true = true._replace(hkl=hkl, f_squared=f_squared)
    points, pairs = layout.within(true, boxes.panel, boxes.bbox, oversample=oversample)
    photons = forward.sums(true, layout.filled(points, 1 << 14), pairs, "float64")[0]
    every = boxes._replace(valid=np.ones(len(boxes.valid), dtype=bool))
    return lattice_fit.means(every, oversample, len(photons)) @ photons


def _background(simulator: Simulator, true: Parameters, points: Pixels) -> np.ndarray:
    """(pixel,) expected photons of water and air."""
    n, pixels = len(points.fast), layout.filled(points, 1 << 14)
    rays = forward.rays(simulator.detector, simulator.beam.polarization, pixels)
    sine = 0.5 * HC_EV_ANGSTROM * np.sqrt(sum(np.asarray(t) ** 2 for t in rays.turn))
    pulse, paths = true.spectrum, (simulator.section.water_mm, simulator.section.air_mm)
    mean, total = wavelength(pulse.mean_energy_ev), pulse.photons.sum()
    return np.asarray(background(sine, np.asarray(rays.efficiency), mean, total, *paths))[:n]


def _counted(simulator: Simulator, number: int, photons: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """(pixel,) what a reader makes of expected photons: counted, amplified, read out, divided by the nominal gain."""
    rng, d = simulator.rng(NOISE, number), simulator.section
    if d.flicker:
        photons = np.maximum(1.0 + d.flicker * rng.standard_normal(len(photons)), 0.0) * photons
    adu = rng.poisson(photons) * gain * d.quantum_gain + d.readout_adu * rng.standard_normal(len(photons))
    return (np.rint(adu) / d.quantum_gain).astype(np.float32)
