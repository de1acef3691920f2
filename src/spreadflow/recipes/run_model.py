"""What the lattices of a run share when their pixels are modelled: structure factors, detector,
beam.
"""

from collections.abc import Sequence

import numpy as np

from spreadflow import build
from spreadflow.config import (
    LadderConfig,
    MosaicConfig,
    NoiseSection,
    SpreadConfig,
    Stage1Config,
    Stage2Config,
    StructureFactorsSection,
    rotations_and_centring,
)
from spreadflow.errors import ConfigError
from spreadflow.io.factor_files import NO_FILES, FactorFiles
from spreadflow.io.shoebox_blocks import Recording
from spreadflow.models import Detector
from spreadflow.physics import symmetry, unit_cell
from spreadflow.recipes.factors import factors
from spreadflow.recipes.lattice import RunModel
from spreadflow.recipes.still import PERTURBATION

CELL_TOLERANCE = 0.05
"""Largest difference between the lattices' median cell and that of the structure factors: relative
for edges, rad for angles.
"""

PixelConfig = LadderConfig | MosaicConfig | Stage1Config | Stage2Config | SpreadConfig
"""The configuration of a stage that models pixels."""


def run_models(
    config: PixelConfig, recording: Recording, word: str, files: FactorFiles = NO_FILES
) -> list[RunModel]:
    """Return what the lattices of each run share. word: the stage that asks. Raises ConfigError,
    FileError.
    """
    attributes = recording.attributes
    section = config.structure_factors
    _check_crystal(section, recording, f"{word}.structure_factors")
    rng = np.random.default_rng([config.seed, 0, PERTURBATION])
    shared = factors(section, recording.energies_ev, recording.energy_ev, rng, files)
    check_runs(config.recordings, len(attributes["runs"]))
    return [
        RunModel(
            factors=shared,
            energies_ev=recording.energies_ev,
            space_group=attributes["space_group"],
            detector=Detector.from_json(detector),
            polarization=polarization,
            recording=of_run,
        )
        for detector, polarization, of_run in zip(
            attributes["detectors"], attributes["polarizations"], config.recordings, strict=True
        )
    ]


def check_runs(recordings: Sequence[NoiseSection], n_runs: int) -> None:
    """Raise ConfigError where the configuration has other runs than there are."""
    if len(recordings) != n_runs:
        todo = "Give the configuration that the trial was made with."
        raise ConfigError("runs", f"the {n_runs} runs of the trial", len(recordings), todo)


def _check_crystal(section: StructureFactorsSection, recording: Recording, where: str) -> None:
    """Raise ConfigError where the structure factors are not those of the lattices' crystal. where:
    key of the section.
    """
    assert section.space_group is not None, "filled in when a stage is handed its sections"
    indexed_in = recording.attributes["space_group"]
    both = [symmetry.group(name) for name in (section.space_group, indexed_in)]
    if len(set(map(rotations_and_centring, both))) > 1:
        expected = f"a space group with the centring and point group of {indexed_in}, as indexed"
        todo = "Give the model's, or index in it."
        raise ConfigError(f"{where}.space_group", expected, section.space_group, todo)
    cell = np.median([unit_cell.cell_of(A) for A in recording.orientations], axis=0)
    configured = build.cell(section)
    edges_differ = np.abs(cell / configured - 1.0)[:3] > CELL_TOLERANCE
    angles_differ = np.abs(cell - configured)[3:] > CELL_TOLERANCE
    if edges_differ.any() or angles_differ.any():
        lattices = np.round(unit_cell.degrees(cell), 2).tolist()
        expected = f"about the cell of the lattices, {lattices}"
        todo = "Give the model that belongs to these crystals."
        raise ConfigError(f"{where}.cell", expected, section.cell, todo)
    d_min = recording.attributes["config"]["d_min"]
    if d_min < section.d_min:
        expected = f"at most the d_min of the shoeboxes, {d_min:g} Å"
        todo = "Lower it, or narrow their range."
        raise ConfigError(f"{where}.d_min", expected, section.d_min, todo)
