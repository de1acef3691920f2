"""Shoeboxes of simulated lattices made directly, without images: for benchmarks and for planning an experiment."""

from functools import partial
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.pixels import lattice_fit, point_spread, shoeboxes
from spreadflow.analysis.still import integration, prediction
from spreadflow.models import Mosaic, Parameters, Pixels, Shoeboxes
from spreadflow.physics import forward, layout, rotation, unit_cell
from spreadflow.physics.background import background
from spreadflow.recipes.still import NOISE, ORIENTATION, Simulator
from spreadflow.units import HC_EV_ANGSTROM, wavelength


class Patch(NamedTuple):
    """The shoeboxes of one simulated lattice and what is true of them."""

    shoeboxes: Shoeboxes
    predicted: prediction.Predicted
    """the reflections they are of"""
    parameters: Parameters
    """A is the mean over the mosaic domains, whose rotations count from it; all nodes that the pulse may light"""
    bragg: np.ndarray
    """(pixel,) expected photons of the lattice, after the point spread"""
    background: np.ndarray
    """(pixel,) expected photons of water and air, after the point spread"""


class Outline(NamedTuple):
    """Where the shoeboxes of one simulated lattice lie."""

    parameters: Parameters
    """A is the mean over the mosaic domains, whose rotations count from it; all nodes that the pulse may light"""
    predicted: prediction.Predicted
    """the reflections"""
    panel: np.ndarray
    """(box,) int32"""
    bbox: np.ndarray
    """(box, 4) int32, as in Shoeboxes"""


def outline(
    simulator: Simulator, number: int, *, d_min: float, d_max: float, border_px: int = 3
) -> Outline:
    """Of all reflections with d_min ≤ d < d_max (Å), boxes of an integration that knows the lattice and a border."""
    true = _parameters(simulator, number)
    found = _predicted(simulator, true, d_min, d_max)
    bbox = integration.shoeboxes(found, simulator.detector)
    bbox = shoeboxes.widened(bbox, border_px, simulator.detector.shape)
    return Outline(true, found, found.panel.astype(np.int32), bbox)


def patch(
    simulator: Simulator, number: int, *, d_min: float, d_max: float, border_px: int = 3
) -> Patch:
    """Shoeboxes of all reflections with d_min ≤ d < d_max (Å) of a shot with one lattice, whose id is `number`.

    Orientation, pulse and mosaic domains are those of that shot's still; noise has the same distribution, but not the
    same numbers. The boxes are those of an integration that knows the lattice, `border_px` wider. Saturation is left
    out; of what the point spread takes farther than its kernel reaches, the lattice's share.
    """
    true, found, panel, bbox = outline(
        simulator, number, d_min=d_min, d_max=d_max, border_px=border_px
    )
    shape = simulator.detector.shape
    reach = 0 if simulator.kernel is None else len(simulator.kernel) // 2
    wide = Shoeboxes(
        found.hkl.astype(np.int32),
        panel,
        shoeboxes.widened(bbox, reach, shape),
        np.empty(0),
        np.empty(0),
    )
    photons = _bragg(simulator, true, wide)
    behind = background_photons(simulator, true, lattice_fit.points(wide))
    rng = simulator.rng(NOISE, number)
    gain = simulator.gain[shoeboxes.addresses(panel, wide.bbox)[1]]
    spread = partial(_spread, simulator.kernel, wide.bbox, bbox)
    afar = _afar(simulator, true)[shoeboxes.addresses(panel, bbox)[1][0]]
    counts = _read_out(
        simulator, rng, spread(_counted(simulator, rng, photons + behind) * gain) + afar
    )
    valid = simulator.good[shoeboxes.addresses(panel, bbox)[1]]
    boxes = wide._replace(bbox=bbox, photons=counts, valid=valid)
    return Patch(boxes, found, true, spread(photons), spread(behind) + afar)


def _parameters(simulator: Simulator, number: int) -> Parameters:
    """Of the only lattice of a shot, A and rotations from the mean over its domains."""
    pulse = simulator.pulse(number, number)
    (spread,) = simulator.mosaics(number, 1)
    A = rotation.random(simulator.rng(ORIENTATION, number)) @ unit_cell.reciprocal(simulator.cell)
    middle = rotation.mean(spread.rotations)
    centred = Mosaic(spread.rotations @ middle.T, spread.width, spread.share)
    return simulator.parameters(pulse, middle @ A, centred)


def _predicted(
    simulator: Simulator, true: Parameters, d_min: float, d_max: float
) -> prediction.Predicted:
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
    every = boxes._replace(valid=np.ones(boxes.n_pixels.sum(), dtype=bool))
    return lattice_fit.means(every, oversample, len(photons)) @ photons


def background_photons(simulator: Simulator, true: Parameters, points: Pixels) -> np.ndarray:
    """(pixel,) expected photons of water and air."""
    n = len(points.fast)
    pixels = layout.filled(points, 1 << 14)
    rays = forward.rays(simulator.detector, simulator.beam.polarization, pixels)
    sine = 0.5 * HC_EV_ANGSTROM * np.sqrt(sum(np.asarray(t) ** 2 for t in rays.turn))
    pulse = true.spectrum
    paths = (simulator.section.water_mm, simulator.section.air_mm)
    mean = wavelength(pulse.mean_energy_ev)
    total = pulse.photons.sum()
    return np.asarray(background(sine, np.asarray(rays.efficiency), mean, total, *paths))[:n]


def _counted(simulator: Simulator, rng: np.random.Generator, photons: np.ndarray) -> np.ndarray:
    """(pixel,) counts of expected photons."""
    if flicker := simulator.section.flicker:
        photons = np.maximum(1.0 + flicker * rng.standard_normal(len(photons)), 0.0) * photons
    return rng.poisson(photons)


def _spread(
    kernel: np.ndarray | None, wide: np.ndarray, bbox: np.ndarray, photons: np.ndarray
) -> np.ndarray:
    """(pixel,) photons in boxes (box, 4), given those in wider ones before the point spread."""
    if kernel is None:
        return photons
    out = []
    start = 0
    for (fast0, fast1, slow0, slow1), inner in zip(wide, bbox, strict=True):
        stop = start + (fast1 - fast0) * (slow1 - slow0)
        image = point_spread.spread(
            photons[start:stop].reshape(slow1 - slow0, fast1 - fast0), kernel
        )
        rows, columns = (
            slice(inner[2] - slow0, inner[3] - slow0),
            slice(inner[0] - fast0, inner[1] - fast0),
        )
        out.append(image[rows, columns].ravel())
        start = stop
    return np.concatenate([np.empty(0), *out])


def _afar(simulator: Simulator, true: Parameters) -> np.ndarray:
    """(panel,) expected photons of each pixel from beyond the kernel's reach: what it leaves out, evenly."""
    if simulator.kernel is None:
        return np.zeros(simulator.detector.n_panels)
    return (1.0 - simulator.kernel.sum()) * simulator.expected(true.spectrum, [])[0].mean(
        axis=(1, 2)
    )


def _read_out(simulator: Simulator, rng: np.random.Generator, photons: np.ndarray) -> np.ndarray:
    """(pixel,) what a reader makes of photons counted, amplified and spread: read out, divided by the nominal gain."""
    d = simulator.section
    adu = photons * d.quantum_gain + d.readout_adu * rng.standard_normal(len(photons))
    return (np.rint(adu) / d.quantum_gain).astype(np.float32)
