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
    Level0Section,
    MergeSection,
    MosaicSection,
    PixelsSection,
    Stage1Section,
)
from spreadflow.config.load import (
    check_ready,
    files,
    for_stage,
    load,
    parse,
    section,
    setting,
)
from spreadflow.config.predict import PredictSection
from spreadflow.config.simulation import (
    BeamSection,
    CrystalSection,
    DetectorSection,
    PanelSection,
    RunSection,
    SimulatedShots,
    SimulateSection,
    Site,
    StructureFactorsSection,
)
from spreadflow.config.spread import SpreadSection
from spreadflow.config.stages import (
    STAGE_CONFIGS,
    AnnulusConfig,
    CellsConfig,
    IndexConfig,
    LadderConfig,
    Level0Config,
    MergeConfig,
    MosaicConfig,
    PredictConfig,
    ReindexConfig,
    SimulateConfig,
    SpreadConfig,
    Stage1Config,
    WideConfig,
)
from spreadflow.config.trial import OVERLAYS, Config, overlay

__all__ = [
    "OVERLAYS",
    "STAGE_CONFIGS",
    "AnnulusConfig",
    "AnnulusSection",
    "BeamSection",
    "CellsConfig",
    "CellsSection",
    "Config",
    "CrystalSection",
    "DetectorSection",
    "IndexConfig",
    "IndexSection",
    "LadderConfig",
    "LadderSection",
    "Level0Config",
    "Level0Section",
    "MergeConfig",
    "MergeSection",
    "MosaicConfig",
    "MosaicSection",
    "PanelSection",
    "PixelsSection",
    "PredictConfig",
    "PredictSection",
    "ReindexConfig",
    "RunSection",
    "SimulateConfig",
    "SimulateSection",
    "SimulatedShots",
    "Site",
    "SpreadConfig",
    "SpreadSection",
    "Stage1Config",
    "Stage1Section",
    "StructureFactorsSection",
    "WideConfig",
    "check_ready",
    "files",
    "for_stage",
    "load",
    "overlay",
    "parse",
    "section",
    "setting",
]
