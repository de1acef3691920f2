"""The only schema of the configuration: pydantic models, one section per stage, units in the names.

`load` reads YAML files (later ones overlay earlier ones), validates and fills in defaults. Unknown keys are errors.
`section` gives a stage exactly the sections it declares in `SECTIONS`, so that Snakemake reruns what depends on an
edited key and nothing else.
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
    StageConfig,
    check_ready,
    files,
    for_stage,
    load,
    parse,
    section,
    setting,
)
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
from spreadflow.config.trial import OVERLAYS, SECTIONS, Config, overlay

__all__ = [
    "OVERLAYS",
    "SECTIONS",
    "AnnulusSection",
    "BeamSection",
    "CellsSection",
    "Config",
    "CrystalSection",
    "DetectorSection",
    "IndexSection",
    "LadderSection",
    "Level0Section",
    "MergeSection",
    "MosaicSection",
    "PanelSection",
    "PixelsSection",
    "RunSection",
    "SimulateSection",
    "SimulatedShots",
    "Site",
    "SpreadSection",
    "Stage1Section",
    "StageConfig",
    "StructureFactorsSection",
    "check_ready",
    "files",
    "for_stage",
    "load",
    "overlay",
    "parse",
    "section",
    "setting",
]
