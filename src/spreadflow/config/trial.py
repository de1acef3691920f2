"""The whole configuration: which sections there are, and which lie over others."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, NonNegativeInt, ValidationError, model_validator

from spreadflow.config.analysis import (
    AnnulusSection,
    CellsSection,
    IndexSection,
    LadderSection,
    Level0Section,
    MergeSection,
    MosaicSection,
    Stage1Section,
)
from spreadflow.config.base import Inconsistent, Section, check_cell_fits_group, first
from spreadflow.config.simulation import (
    BeamSection,
    CrystalSection,
    DetectorSection,
    RunSection,
    SimulateSection,
    StructureFactorsSection,
)
from spreadflow.config.spread import SpreadSection

OVERLAYS_OF = {"spread": "stage1"}
"""Stage → the stage whose overlays it has, too."""

OVERLAYS = {
    "reindex": "index",
    "wide": "annulus",
    "ladder.structure_factors": "structure_factors",
    "stage1.structure_factors": "structure_factors",
    "mosaic.structure_factors": "stage1.structure_factors",
}
"""Keys that lie over a section → that section, itself complete; STAGE.SECTION is how STAGE alone
sees SECTION.
"""


def overlay(base: dict, top: dict) -> dict:
    """Return `top` laid over `base`, dictionaries merged key by key, everything else replaced."""
    out = dict(base)
    for key, value in top.items():
        nested = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = overlay(out[key], value) if nested else value
    return out


WIDE_DEFAULTS = {"d_max": 20.0}
"""Of `wide`, where nothing else is said."""


def _wide(keys: dict[str, Any]) -> dict[str, Any]:
    return WIDE_DEFAULTS | keys


class Config(Section):
    """Everything. One section per stage plus `trial`, `runs`, `seed` and where things lie."""

    trial: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] = "trial"
    """name of this way to analyse: folder below `results`"""
    seed: NonNegativeInt = 1
    """of everything random"""
    data: Path = Path("data")
    """folder of the runs' images"""
    results: Path = Path("results")
    """folder of the trials"""
    runs: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")], RunSection] = {}
    """name → run"""
    crystal: CrystalSection = CrystalSection()
    """the crystals that are simulated"""
    structure_factors: StructureFactorsSection = StructureFactorsSection()
    """where F(hkl, E) comes from"""
    beam: BeamSection = BeamSection()
    """the pulses that are simulated"""
    detector: DetectorSection = DetectorSection()
    """the detector that is simulated"""
    simulate: SimulateSection = SimulateSection()
    """how images are computed and stored"""
    index: IndexSection = IndexSection()
    """spots → lattices → integrated reflections"""
    reindex: dict[str, Any] = {}
    """keys of `index` that differ in `reindex`"""
    level0: Level0Section = Level0Section()
    """one detector shift and distance from all lattices"""
    cells: CellsSection = CellsSection()
    """clusters of unit cells; the accepted list"""
    merge: MergeSection = MergeSection()
    """scales and merged intensities"""
    annulus: AnnulusSection = AnnulusSection()
    """shoebox pixels within a resolution annulus"""
    wide: Annotated[dict[str, Any], AfterValidator(_wide)] = WIDE_DEFAULTS
    """keys of `annulus` that differ in `wide`, the shoeboxes of a wider range"""
    ladder: LadderSection = LadderSection()
    """the regression series on the pixels"""
    mosaic: MosaicSection = MosaicSection()
    """the distribution of mosaic domains, learned from the pixels where `stage1.mosaicity` is
    `learned`
    """
    stage1: Stage1Section = Stage1Section()
    """each lattice refined against its pixels"""
    spread: SpreadSection = SpreadSection()
    """f′(E) and f″(E) of every metal site"""

    @model_validator(mode="after")
    def _whole(self):
        for key in ("structure_factors", *OVERLAYS):
            try:
                self.resolved(key)
            except (ValidationError, Inconsistent) as error:
                below, expected, found = first(error, type(self._laid(OVERLAYS.get(key, key))))
                raise Inconsistent(f"{key}.{below}", expected, found) from None
        if self.cells.from_file == self.results / self.trial / "cells.h5":
            raise Inconsistent(
                "cells.from",
                "a copy of the file that this trial itself writes",
                self.cells.from_file,
            )
        simulates = any(run.simulate for run in self.runs.values())
        mtz = self.structure_factors.mtz
        if simulates and mtz == self.results / self.trial / "merge.mtz":
            raise Inconsistent(
                "structure_factors.mtz", "a copy of the file that this trial itself writes", mtz
            )
        finest = self.resolved("reindex").d_min
        for key in ("annulus", "wide"):
            if (d_min := self.resolved(key).d_min) < finest:
                expected = f"at least reindex.d_min, {finest}: no other reflections are predicted"
                raise Inconsistent(f"{key}.d_min", expected, d_min)
        if self.spread.d_max <= (d_min := self.resolved("wide").d_min):
            raise Inconsistent("spread.d_max", f"more than wide.d_min, {d_min}", self.spread.d_max)
        if (cell := self.stage1.restraints.cell) is not None and cell.centre is not None:
            try:
                check_cell_fits_group(cell.centre, self.resolved("reindex").space_group)
            except Inconsistent as error:
                raise Inconsistent(
                    "stage1.restraints.cell.centre", error.expected, error.found
                ) from None
        for stage in ("level0", "cells"):
            for run in getattr(self, stage).runs or []:
                if run not in self.runs:
                    raise Inconsistent(
                        f"{stage}.runs", f"names among runs: {', '.join(self.runs)}", run
                    )
        if told := [run for run in self.level0.runs or [] if self.runs[run].spec]:
            raise Inconsistent(
                "level0.runs", "runs that are indexed here", f"{told[0]}, which has a spec file"
            )
        return self

    def resolved(self, key: str) -> Any:
        """Return the section or overlay `key`, complete: over the section below; what is null is as
        in `crystal`, `stage1`.
        """
        section = self._laid(key)
        if isinstance(section, StructureFactorsSection):
            return section.of_crystal(self.crystal)
        return section.of_stage1(self.stage1) if isinstance(section, MosaicSection) else section

    def _laid(self, key: str) -> Any:
        """Return a section or overlay as `resolved` does, with null where nothing is configured."""
        section: Any = self
        for word in key.split("."):
            section = getattr(section, word)
        if key not in OVERLAYS:
            return section
        base = self._laid(OVERLAYS[key])
        return type(base).model_validate(overlay(base.model_dump(), section))
