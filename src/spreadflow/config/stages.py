"""The configuration of each stage: exactly the sections that it reads, validated.

The fields of a class are the sections that Snakemake tracks for the stage: an edited key reruns the
stages whose class holds its section, and what depends on them.

`recording` is that of the one run that a stage works on, `recordings` are those of all runs, in
their order; a stage gets no other keys of them than its class names.
"""

from spreadflow.config.analysis import (
    AnnulusSection,
    CellsSection,
    IndexSection,
    LadderSection,
    MergeSection,
    MosaicSection,
    Stage1Section,
)
from spreadflow.config.base import Section
from spreadflow.config.correlate import CorrelateSection
from spreadflow.config.level0 import Level0Section
from spreadflow.config.predict import PackSection, PredictSection
from spreadflow.config.recording import NoiseSection, RecordingSection
from spreadflow.config.simulation import (
    BeamSection,
    CrystalSection,
    DetectorSection,
    LatticesSection,
    SimulatedShots,
    SimulateSection,
    StructureFactorsSection,
)
from spreadflow.config.spread import SpreadSection
from spreadflow.config.stage2 import Stage2Section


class SimulateConfig(Section):
    """What `simulate` reads."""

    seed: int
    crystal: CrystalSection
    structure_factors: StructureFactorsSection
    beam: BeamSection
    detector: DetectorSection
    recording: RecordingSection
    simulate: SimulateSection
    shots: SimulatedShots
    """the shots of the one run that is simulated, from `runs.<run>.simulate`"""


class IndexConfig(Section):
    """What `index` reads."""

    index: IndexSection
    recording: NoiseSection


class Level0Config(Section):
    """What `level0` reads."""

    level0: Level0Section


class ReindexConfig(Section):
    """What `reindex` reads."""

    reindex: IndexSection
    recording: NoiseSection


class AdoptConfig(ReindexConfig):
    """What `adopt` reads."""

    lattices: LatticesSection | None = None
    """of the one run that it works on, where it has no images"""


class CellsConfig(Section):
    """What `cells` reads."""

    cells: CellsSection


class MergeConfig(Section):
    """What `merge` reads."""

    merge: MergeSection


class AnnulusConfig(Section):
    """What `annulus` reads."""

    annulus: AnnulusSection


class WideConfig(Section):
    """What `wide` reads."""

    wide: AnnulusSection


class LadderConfig(Section):
    """What `ladder` reads."""

    seed: int
    structure_factors: StructureFactorsSection
    recordings: list[RecordingSection]
    ladder: LadderSection


class MosaicConfig(Section):
    """What `mosaic` reads."""

    seed: int
    structure_factors: StructureFactorsSection
    recordings: list[RecordingSection]
    mosaic: MosaicSection


class Stage1Config(Section):
    """What `stage1` reads."""

    seed: int
    structure_factors: StructureFactorsSection
    recordings: list[RecordingSection]
    stage1: Stage1Section


class PredictConfig(Section):
    """What `predict` reads."""

    seed: int
    structure_factors: StructureFactorsSection
    recordings: list[NoiseSection]
    predict: PredictSection


class PackConfig(Section):
    """What `pack` reads."""

    pack: PackSection


class Stage2Config(Section):
    """What `stage2` reads."""

    seed: int
    structure_factors: StructureFactorsSection
    recordings: list[RecordingSection]
    stage1: Stage1Section
    stage2: Stage2Section


class SpreadConfig(Section):
    """What `spread` reads."""

    seed: int
    structure_factors: StructureFactorsSection
    recordings: list[RecordingSection]
    stage1: Stage1Section
    spread: SpreadSection


class CorrelateConfig(Section):
    """What `correlate` reads."""

    correlate: CorrelateSection
    """of the one run that it works on"""


STAGE_CONFIGS: dict[str, type[Section]] = {
    "simulate": SimulateConfig,
    "index": IndexConfig,
    "level0": Level0Config,
    "adopt": AdoptConfig,
    "reindex": ReindexConfig,
    "cells": CellsConfig,
    "merge": MergeConfig,
    "annulus": AnnulusConfig,
    "wide": WideConfig,
    "ladder": LadderConfig,
    "mosaic": MosaicConfig,
    "stage1": Stage1Config,
    "predict": PredictConfig,
    "pack": PackConfig,
    "stage2": Stage2Config,
    "spread": SpreadConfig,
    "correlate": CorrelateConfig,
}
"""The configuration of each stage, in the order of the workflow."""
