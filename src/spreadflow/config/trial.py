"""The whole configuration: which sections there are, and which lie over others."""

import os
from pathlib import Path
from typing import Annotated, Any

import gemmi
from pydantic import AfterValidator, Field, ValidationError, model_validator

from spreadflow.config.analysis import (
    AnnulusSection,
    CellsSection,
    IndexSection,
    LadderSection,
    MergeSection,
    MosaicSection,
    Stage1Section,
)
from spreadflow.config.base import (
    Inconsistent,
    Section,
    Seed,
    check_cell_fits_group,
    first_error,
    rotations_and_centring,
)
from spreadflow.config.correlate import CorrelateSection
from spreadflow.config.level0 import Level0Section
from spreadflow.config.predict import PackSection, PredictSection
from spreadflow.config.recording import RecordingSection
from spreadflow.config.simulation import (
    BeamSection,
    CrystalSection,
    DetectorSection,
    RunSection,
    SimulateSection,
    StructureFactorsSection,
)
from spreadflow.config.spread import SpreadSection
from spreadflow.config.stage2 import Stage2Section

OVERLAYS_OF = {"predict": "stage1", "stage2": "stage1", "spread": "stage1"}
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


FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=200)]
"""A name that is that of a folder too: neither hidden, nor an option, nor another folder's."""

OWN_FOLDERS = ("logs", "benchmarks")
"""Folders of a trial beside those of its runs."""

OWN_ENDINGS = (".h5", ".parts", ".gram", ".cycles", ".json", ".html")
"""Endings of files and folders of a trial beside the folders of its runs."""


def _run_name(name: str) -> str:
    """Return the name of a run as it is. Raises ValueError for one of the trial's own."""
    if name in OWN_FOLDERS or name.endswith(OWN_ENDINGS):
        raise ValueError(
            f"none of {', '.join(OWN_FOLDERS)} and no name with the ending of a product"
        )
    return name


RunName = Annotated[FolderName, AfterValidator(_run_name)]
"""Name of a run, whose folder lies in that of the trial."""

TARGET = ("space_group", "cell")
"""Keys of `index` that say which crystals are looked for."""

MODELS = ("structure_factors", *(key for key in OVERLAYS if key.endswith(".structure_factors")))
"""Sections of structure factors: that of all stages, and those of single ones over it."""


def overlay(base: dict, top: dict) -> dict:
    """Return `top` laid over `base`, dictionaries merged key by key, everything else replaced."""
    merged = dict(base)
    for key, value in top.items():
        is_nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = overlay(merged[key], value) if is_nested else value
    return merged


def _is_within(path: str, folder: str) -> bool:
    """Whether an absolute path is that of a folder, or of something in it."""
    return os.path.commonpath([path, folder]) == folder


WIDE_DEFAULTS = {"d_max": 20.0}
"""The keys in which `wide` differs from `annulus` where it is not configured: a lower resolution.
"""


def _wide(keys: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of `wide`, completed."""
    return WIDE_DEFAULTS | keys


class Config(Section):
    """Everything. One section per stage plus `trial`, `runs`, `seed` and where things lie."""

    trial: FolderName = "trial"
    """name of this way to analyse: folder below `results`"""
    seed: Seed = 1
    """of everything random"""
    data: Path = Path("data")
    """folder of the runs' images"""
    results: Path = Path("results")
    """folder of the trials"""
    runs: dict[RunName, RunSection] = {}
    """name → run"""
    crystal: CrystalSection = CrystalSection.defaults()
    """the crystals that are simulated"""
    structure_factors: StructureFactorsSection = StructureFactorsSection.defaults()
    """where F(hkl, E) comes from"""
    beam: BeamSection = BeamSection.defaults()
    """the pulses that are simulated"""
    detector: DetectorSection = DetectorSection.defaults()
    """the detector that is simulated"""
    recording: RecordingSection = RecordingSection.defaults()
    """how shots were recorded; `runs.RUN.recording` overlays it for one run"""
    simulate: SimulateSection = SimulateSection.defaults()
    """how images are computed and stored"""
    index: IndexSection = IndexSection.defaults()
    """spots → lattices → integrated reflections"""
    reindex: dict[str, Any] = {}
    """keys of `index` that differ in `reindex`"""
    level0: Level0Section = Level0Section.defaults()
    """one detector shift and distance from all lattices"""
    cells: CellsSection = CellsSection.defaults()
    """clusters of unit cells; the accepted list"""
    merge: MergeSection = MergeSection.defaults()
    """scales and merged intensities"""
    annulus: AnnulusSection = AnnulusSection.defaults()
    """shoebox pixels within a resolution annulus"""
    wide: Annotated[dict[str, Any], AfterValidator(_wide)] = WIDE_DEFAULTS
    """keys of `annulus` that differ in `wide`, the shoeboxes of a wider range"""
    ladder: LadderSection = LadderSection.defaults()
    """the regression series on the pixels"""
    mosaic: MosaicSection = MosaicSection.defaults()
    """the distribution of mosaic domains, learned from the pixels where `stage1.mosaicity` is
    `learned`
    """
    stage1: Stage1Section = Stage1Section.defaults()
    """each lattice refined against its pixels"""
    predict: PredictSection = PredictSection.defaults()
    """the reflections that are worth their pixels"""
    pack: PackSection = PackSection.defaults()
    """the pixels of these, for what comes after"""
    stage2: Stage2Section = Stage2Section.defaults()
    """one intensity for each unique reflection from all pixels"""
    spread: SpreadSection = SpreadSection.defaults()
    """f′(E) and f″(E) of every metal site"""
    correlate: CorrelateSection | None = None
    """pixels correlated in time, by `spreadflow correlate`, or of the runs that say so"""

    @model_validator(mode="after")
    def _whole(self):
        """Check what spans sections. Raises Inconsistent."""
        self._check_target()
        self._check_overlays()
        self._check_group_of_model()
        self._check_folders()
        self._check_own_products()
        self._check_ranges()
        self._check_curves()
        self._check_restrained_cell()
        self._check_names_of_runs()
        return self

    @property
    def is_recorded(self) -> bool:
        """Whether there are runs of crystals, and none of them is simulated: nothing is known of
        the crystals but what is configured.
        """
        runs = [self.runs[name] for name in self.crystal_runs]
        return bool(runs) and not any(run.simulate for run in runs)

    @property
    def crystal_runs(self) -> list[str]:
        """The runs of crystals: all but those that are correlated in time."""
        return [name for name, run in self.runs.items() if run.correlate is None]

    @property
    def pictured_runs(self) -> list[str]:
        """The runs of crystals that have images."""
        return [name for name in self.crystal_runs if self.runs[name].lattices is None]

    def _check_target(self) -> None:
        """Raise Inconsistent where the crystals in recorded images would be taken for those of a
        simulation.
        """
        if not self.is_recorded:
            return
        stated = self.index.model_fields_set | self.reindex.keys()
        missing = [f"index.{name}" for name in TARGET if name not in stated]
        if missing:
            run = self.crystal_runs[0]
            expected = (
                f"{' and '.join(missing)} of the crystals of run '{run}': recorded ones have no "
                "default"
            )
            raise Inconsistent(missing[0], expected, "none")

    def _check_group_of_model(self) -> None:
        """Raise Inconsistent where a model of the crystals in recorded images has other rotations
        or another centring than they are indexed with.
        """
        if not self.is_recorded:
            return
        indexed = self.resolved("reindex").space_group
        for key in MODELS:
            group = self.resolved(key).space_group
            both = [gemmi.find_spacegroup_by_name(name) for name in (group, indexed)]
            if len(set(map(rotations_and_centring, both))) > 1:
                expected = (
                    f"a space group with the centring and point group of {indexed}, as indexed"
                )
                raise Inconsistent(f"{key}.space_group", expected, group)

    def _check_overlays(self) -> None:
        """Raise Inconsistent where a section with its overlays is not valid."""
        for key in ("structure_factors", *OVERLAYS):
            try:
                self.resolved(key)
            except (ValidationError, Inconsistent) as error:
                model = type(self._laid(OVERLAYS.get(key, key)))
                below, expected, found = first_error(error, model)
                raise Inconsistent(f"{key}.{below}", expected, found) from None

        for run in self.runs:
            try:
                self.recording_of(run)
            except ValidationError as error:
                below, expected, found = first_error(error, RecordingSection)
                raise Inconsistent(f"runs.{run}.recording.{below}", expected, found) from None

        for run in self.runs:
            self._check_correlate(run)

    def _check_correlate(self, run: str) -> None:
        """Raise Inconsistent where a run can't be correlated as it is configured."""
        if self.runs[run].correlate is None:
            return
        try:
            section = self.correlate_of(run)
        except (ValidationError, Inconsistent) as error:
            below, expected, found = first_error(error, CorrelateSection)
            raise Inconsistent(f"runs.{run}.correlate.{below}", expected, found) from None
        if section.names_shots:
            where = f"runs.{run}.correlate"
            raise Inconsistent(where, "none but the images of the run", "other shots")

    def _check_folders(self) -> None:
        """Raise Inconsistent where trials would lie among the images of runs, or these in the
        trial.
        """
        data, results = map(os.path.abspath, (self.data, self.results))
        if _is_within(results, data):
            expected = f"a folder that is neither `data`, {self.data}, nor within it"
            raise Inconsistent("results", expected, self.results)
        trial = os.path.join(results, self.trial)
        if _is_within(data, trial):
            expected = f"a folder that is not within that of the trial, {self.results / self.trial}"
            raise Inconsistent("data", expected, self.data)

    def _check_own_products(self) -> None:
        """Raise Inconsistent where a trial would read what it writes."""
        expected = "a copy of the file that this trial itself writes"
        folder = self.results / self.trial
        cells = self.cells.from_file
        if cells == folder / "cells.h5":
            raise Inconsistent("cells.from", expected, cells)
        is_simulated = any(run.simulate for run in self.runs.values())
        mtz = self.structure_factors.mtz
        if is_simulated and mtz == folder / "merge.mtz":
            raise Inconsistent("structure_factors.mtz", expected, mtz)

    def _check_ranges(self) -> None:
        """Raise Inconsistent where a stage would reach beyond the resolution of the one before."""
        finest = self.resolved("reindex").d_min
        for key in ("annulus", "wide"):
            d_min = self.resolved(key).d_min
            if d_min < finest:
                expected = f"at least reindex.d_min, {finest}: no other reflections are predicted"
                raise Inconsistent(f"{key}.d_min", expected, d_min)
        ranges = {"wide": "wide", "pack": "predict"}
        key = ranges[self.spread.shoeboxes]
        finest = self.resolved(key).d_min
        if self.spread.d_max <= finest:
            expected = f"more than {key}.d_min, {finest}"
            raise Inconsistent("spread.d_max", expected, self.spread.d_max)

    def _check_curves(self) -> None:
        """Raise Inconsistent where the known curves are not one for each site."""
        known = self.spread.known
        names = [site.label for site in self.resolved("stage1.structure_factors").sites]
        if known is not None and len(known) != len(names):
            expected = f"{len(names)} curves, one for each of {', '.join(names)}"
            raise Inconsistent("spread.known", expected, known)

    def _check_restrained_cell(self) -> None:
        """Raise Inconsistent where stage 1 restrains the cell to one that the group forbids."""
        restraint = self.stage1.restraints.cell
        if restraint is None or restraint.centre is None:
            return
        try:
            check_cell_fits_group(restraint.centre, self.resolved("reindex").space_group)
        except Inconsistent as error:
            key = "stage1.restraints.cell.centre"
            raise Inconsistent(key, error.expected, error.found) from None

    def _check_names_of_runs(self) -> None:
        """Raise Inconsistent where a stage is to take runs that are not there, or not indexed."""
        for stage in ("level0", "cells"):
            for run in getattr(self, stage).runs or []:
                if run not in self.crystal_runs:
                    expected = f"names among runs: {', '.join(self.crystal_runs)}"
                    raise Inconsistent(f"{stage}.runs", expected, run)
        for run in self.level0.runs or []:
            if self.runs[run].spec or self.runs[run].lattices:
                found = f"{run}, whose lattices are another program's"
                raise Inconsistent("level0.runs", "runs that are indexed here", found)

    def resolved(self, key: str) -> Any:
        """Return the section or overlay `key`, complete: laid over the section below it, and with
        the values of `stage1`, and of `crystal` or, where no run is simulated, `reindex`, where it
        has null.
        """
        if key == "correlate":
            return self.correlate_of(None)
        section = self._laid(key)
        if isinstance(section, StructureFactorsSection):
            return section.of_crystal(self._laid("reindex") if self.is_recorded else self.crystal)
        return section.of_stage1(self.stage1) if isinstance(section, MosaicSection) else section

    def recording_of(self, run: str) -> RecordingSection:
        """Return how the shots of a run were recorded: its own keys laid over `recording`."""
        keys = overlay(self.recording.model_dump(), self.runs[run].recording)
        return RecordingSection.model_validate(keys)

    def correlate_of(self, run: str | None) -> CorrelateSection:
        """Return how a run is correlated: its own keys laid over `correlate`; None = any run."""
        keys = {} if self.correlate is None else self.correlate.model_dump()
        own = self.runs[run].correlate if run in self.runs else None
        return CorrelateSection.model_validate(overlay(keys, own or {}))

    def _laid(self, key: str) -> Any:
        """Return a section or overlay as `resolved` does, with null where nothing is configured."""
        section: Any = self
        for word in key.split("."):
            section = getattr(section, word)
        if key not in OVERLAYS:
            return section
        base = self._laid(OVERLAYS[key])
        return type(base).model_validate(overlay(base.model_dump(), section))
