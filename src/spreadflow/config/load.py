"""YAML files → the validated configuration, and of that to each stage what it declares."""

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

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
from spreadflow.config.base import Section, explain
from spreadflow.config.simulation import (
    NAMED_CURVES,
    BeamSection,
    CrystalSection,
    DetectorSection,
    SimulatedShots,
    SimulateSection,
    StructureFactorsSection,
)
from spreadflow.config.spread import SpreadSection
from spreadflow.config.trial import LIKE, OVERLAYS, SECTIONS, Config, overlay
from spreadflow.errors import ConfigError, FileError


def parse(tree: dict, where: object = "config") -> Config:
    """Validate a nested dictionary. Raises ConfigError."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise explain(error, where, Config) from None


def load(*paths: Path | str, changes: dict | None = None) -> Config:
    """Read YAML files, later ones over earlier ones and `changes` over all, and validate. Raises ConfigError."""
    tree: dict = {}
    for path in paths:
        try:
            layer = yaml.safe_load(Path(path).read_text()) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(
                path, "a readable YAML file", error, "Check the path and the indentation."
            ) from None
        if not isinstance(layer, dict):
            raise ConfigError(
                path, "a YAML mapping of sections", type(layer).__name__, "See config/config.yaml."
            )
        tree = overlay(tree, layer)
    return parse(overlay(tree, changes or {}), paths[-1] if paths else "config")


def setting(text: str) -> dict:
    """The nested dictionary of one key, told as `section.key=value` (YAML). Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not equals or not all(words := key.strip().split(".")):
        raise ConfigError(
            "--set", "section.key=value", repr(text), "For example beam.photons=5e11."
        )
    try:
        tree = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}", "a value in YAML", error, "Correct it.") from None
    for word in reversed(words):
        tree = {word: tree}
    return tree


def files(config: Config) -> dict[str, Path]:
    """The files the configuration names: key → path."""
    named = {
        "beam.spectra": config.beam.spectra,
        "index.mask": config.index.mask,
        "reindex.mask": config.resolved("reindex").mask,
        "level0.from": config.level0.from_file,
        "cells.from": config.cells.from_file,
        "merge.reference": config.merge.reference,
        "stage1.domains": config.stage1.domains,
    }
    named |= {f"runs.{run}.images": keys.images for run, keys in config.runs.items()}
    named |= {f"runs.{run}.spec": keys.spec for run, keys in config.runs.items()}
    known = {f"spread.known.{i}": curve for i, curve in enumerate(config.spread.known or [])}
    named |= {where: Path(curve) for where, curve in known.items() if curve not in NAMED_CURVES}
    for key in (
        "structure_factors",
        *(key for key in OVERLAYS if key.endswith(".structure_factors")),
    ):
        of = config.resolved(key)
        named |= {f"{key}.model": of.model, f"{key}.mtz": of.mtz}
        curves = {f"{key}.sites.{i}.curve": site.curve for i, site in enumerate(of.sites)}
        named |= {
            where: Path(curve) for where, curve in curves.items() if curve not in NAMED_CURVES
        }
    return {key: path for key, path in named.items() if path is not None}


def check_ready(config: Config) -> None:
    """Raise where a trial could not run: ConfigError without a run, FileError for a named file that does not exist.

    What the trial itself makes need not be there yet. Snakemake would not tell of a missing file as long as what was
    made from it is still there.
    """
    if not config.runs:
        raise ConfigError("config: runs", "at least one run", "none", "See config/README.md.")
    made = config.results / config.trial / "merge.mtz"
    for key, path in files(config).items():
        if path != made and not path.is_file():
            todo = (
                "Write it with `spreadflow manifest`."
                if key.endswith(".images")
                else "Check the path."
            )
            raise FileError(f"config: {key}", "an existing file", path, todo)


def section(config: Config, stage: str, run: str | None = None) -> str:
    """JSON of exactly the sections `stage` reads: the `params` of its rule and the argument of its command.

    `simulate` also gets the shots of the one run it makes, and no other run's.
    """
    own = {name: f"{LIKE.get(stage, stage)}.{name}" for name in SECTIONS[stage]}
    given = {name: config.resolved(key if key in OVERLAYS else name) for name, key in own.items()}
    if stage == "simulate":
        if run not in config.runs or config.runs[run].simulate is None:
            simulated = ", ".join(r for r, s in config.runs.items() if s.simulate) or "none"
            raise ConfigError(
                "runs",
                f"a simulated run (there are: {simulated})",
                repr(run),
                "Check the run's name.",
            )
        given["shots"] = config.runs[run].simulate

    def plain(part):
        return part.model_dump(mode="json", by_alias=True) if isinstance(part, Section) else part

    return json.dumps({name: plain(part) for name, part in given.items()}, sort_keys=True)


ABSENT: Any = None
"""a section that a stage does not read (typed so that stages need not ask)"""


class StageConfig(Section):
    """The sections of one stage, validated (attributes of sections not handed over are None)."""

    seed: int = ABSENT
    crystal: CrystalSection = ABSENT
    structure_factors: StructureFactorsSection = ABSENT
    beam: BeamSection = ABSENT
    detector: DetectorSection = ABSENT
    simulate: SimulateSection = ABSENT
    shots: SimulatedShots = ABSENT
    index: IndexSection = ABSENT
    level0: Level0Section = ABSENT
    reindex: IndexSection = ABSENT
    cells: CellsSection = ABSENT
    merge: MergeSection = ABSENT
    annulus: AnnulusSection = ABSENT
    wide: AnnulusSection = ABSENT
    ladder: LadderSection = ABSENT
    mosaic: MosaicSection = ABSENT
    stage1: Stage1Section = ABSENT
    spread: SpreadSection = ABSENT


def for_stage(text: str, stage: str, run: str | None = None) -> StageConfig:
    """Parse `--config`: the JSON that `section` wrote, or a path to a YAML file of which the sections are taken."""
    if not text.lstrip().startswith("{"):
        text = section(load(text), stage, run)
    try:
        config = StageConfig.model_validate_json(text)
    except ValidationError as error:
        raise explain(error, f"--config of {stage}", StageConfig) from None
    if missing := [name for name in SECTIONS[stage] if getattr(config, name) is None]:
        raise ConfigError(
            f"--config of {stage}",
            f"the sections {', '.join(missing)}",
            "none of them",
            "Add them.",
        )
    return config
