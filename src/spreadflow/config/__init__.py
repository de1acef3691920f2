"""The only schema of the configuration: pydantic models, one section per stage, units in the names.

`load` reads YAML files (later ones overlay earlier ones), validates and fills in defaults. Unknown
keys are errors. `section` gives a stage exactly the sections that its class in `stages` declares,
so that Snakemake reruns what depends on an edited key and nothing else.
"""

from spreadflow.config.analysis import (
    AnnulusSection,
    CellsSection,
    IndexSection,
    LadderSection,
    MergeSection,
    MosaicSection,
    PixelsSection,
    Stage1Section,
)
from spreadflow.config.base import rotations_and_centring
from spreadflow.config.level0 import ImportedSection, Level0Section, RigidGroupsSection
from spreadflow.config.load import (
    check_ready,
    files,
    for_stage,
    load,
    parse,
    read,
    section,
    setting,
)
from spreadflow.config.predict import PackSection, PredictSection
from spreadflow.config.recording import NoiseSection, RecordingSection
from spreadflow.config.simulation import (
    BeamSection,
    CrystalSection,
    DetectorSection,
    LatticesSection,
    PanelSection,
    RunSection,
    SimulatedShots,
    SimulateSection,
    Site,
    StructureFactorsSection,
)
from spreadflow.config.spread import SpreadSection
from spreadflow.config.stage2 import Stage2Section
from spreadflow.config.stages import (
    STAGE_CONFIGS,
    AdoptConfig,
    AnnulusConfig,
    CellsConfig,
    IndexConfig,
    LadderConfig,
    Level0Config,
    MergeConfig,
    MosaicConfig,
    PackConfig,
    PredictConfig,
    ReindexConfig,
    SimulateConfig,
    SpreadConfig,
    Stage1Config,
    Stage2Config,
    WideConfig,
)
from spreadflow.config.trial import OVERLAYS, Config, overlay

__all__ = [
    "OVERLAYS",
    "STAGE_CONFIGS",
    "AdoptConfig",
    "AnnulusConfig",
    "AnnulusSection",
    "BeamSection",
    "CellsConfig",
    "CellsSection",
    "Config",
    "CrystalSection",
    "DetectorSection",
    "ImportedSection",
    "IndexConfig",
    "IndexSection",
    "LadderConfig",
    "LadderSection",
    "LatticesSection",
    "Level0Config",
    "Level0Section",
    "MergeConfig",
    "MergeSection",
    "MosaicConfig",
    "MosaicSection",
    "NoiseSection",
    "PackConfig",
    "PackSection",
    "PanelSection",
    "PixelsSection",
    "PredictConfig",
    "PredictSection",
    "RecordingSection",
    "ReindexConfig",
    "RigidGroupsSection",
    "RunSection",
    "SimulateConfig",
    "SimulateSection",
    "SimulatedShots",
    "Site",
    "SpreadConfig",
    "SpreadSection",
    "Stage1Config",
    "Stage1Section",
    "Stage2Config",
    "Stage2Section",
    "StructureFactorsSection",
    "WideConfig",
    "check_ready",
    "files",
    "for_stage",
    "load",
    "overlay",
    "parse",
    "read",
    "rotations_and_centring",
    "section",
    "setting",
]
