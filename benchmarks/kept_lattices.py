"""Lattices as reindex leaves them, made once and kept in a folder, for all benchmarks that refine
them together.
"""

import os
import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np

import lattices
from lattices import D_MAX_ANNULUS, D_MIN, Data
from spreadflow.analysis.still import integration, prediction
from spreadflow.models import Mosaic, Noise
from spreadflow.products.index import Reflections
from spreadflow.recipes import patch
from spreadflow.recipes.lattice import PackedLattice

FORMAT = 2
"""Of the files: lattices that were kept in another one are made again."""


class Simulation(NamedTuple):
    """How lattices are simulated; their mosaicity is the 25 domains."""

    d_min: float = D_MIN
    d_max: float = D_MAX_ANNULUS
    photons: float = 1.0
    """in a pulse, relative to the configured number"""

    @property
    def data(self) -> Data:
        """What models share with them."""
        return Data("domains", photons=self.photons)


class Made(NamedTuple):
    """A lattice: its pixels, and its reflections as integrated."""

    packed: PackedLattice
    """as it was predicted, off the truth"""
    mosaic: Mosaic
    """the true one"""
    reflections: Reflections
    """what is merged of them"""
    pulse_photons: float


def make(simulation: Simulation, folder: Path, number: int) -> Made:
    """Return a lattice, kept in a folder from the first time on."""
    d_min, d_max, photons = simulation
    path = folder / f"{FORMAT}_{photons:g}_{d_min:g}_{d_max:g}_{number}.pickle"
    if path.exists():
        return pickle.loads(path.read_bytes())
    true = lattices.simulated(simulation.data, number, d_min, d_max)
    packed = lattices.off_start(patch.packed_lattice(true), number)
    made = Made(
        packed=packed,
        mosaic=true.parameters.mosaic,
        reflections=integrated(simulation, packed, true),
        pulse_photons=float(true.parameters.spectrum.photons.sum()),
    )
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_bytes(pickle.dumps(made))
    unfinished.replace(path)
    return made


def integrated(simulation: Simulation, packed: PackedLattice, true: patch.Patch) -> Reflections:
    """Return the reflections of a lattice, integrated where it was predicted."""
    simulator = lattices.simulator(simulation.data)
    detector = simulator.detector
    crystal = true.parameters.crystal
    predicted = prediction.predict(
        prediction.MosaicLattice(
            packed.A,
            float(crystal.eta_rad),
            float((crystal.n_cells * simulator.cell[:3]).mean()),
        ),
        packed.spectrum,
        detector,
        space_group=simulator.crystal.space_group,
        d_min=simulation.d_min,
        polarization=simulator.beam.polarization,
    )
    is_chosen = predicted.d < simulation.d_max
    image = np.zeros((detector.n_panels, *detector.shape), dtype=np.float32)
    mask = np.zeros(image.shape, dtype=bool)
    boxes = packed.boxes
    last = np.cumsum(boxes.n_pixels)
    for box, end in enumerate(last):
        pixels = slice(end - boxes.n_pixels[box], end)
        fast0, fast1, slow0, slow1 = boxes.bbox[box]
        place = boxes.panel[box], slice(slow0, slow1), slice(fast0, fast1)
        shape = (slow1 - slow0, fast1 - fast0)
        image[place] = boxes.photons[pixels].reshape(shape)
        mask[place] = boxes.valid[pixels].reshape(shape)
    reflections = integration.integrate(
        image,
        mask,
        prediction.Predicted(*(column[is_chosen] for column in predicted)),
        detector,
        noise=Noise(1.0, 0.01),
    )
    return Reflections(
        lattice=np.zeros(len(reflections.d), dtype=np.int32),
        hkl=reflections.hkl,
        partiality=reflections.partiality,
        lorentz=reflections.lorentz,
        polarization=reflections.polarization,
        capture=reflections.capture,
        slopes=reflections.slopes,
        intensity=reflections.intensity,
        sigma=reflections.sigma,
        flags=reflections.flags,
    )
