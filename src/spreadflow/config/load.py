"""YAML files → the validated configuration, and of that to each stage what it declares."""

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from spreadflow.config.base import Section, explain
from spreadflow.config.simulation import NAMED_CURVES
from spreadflow.config.stages import STAGE_CONFIGS
from spreadflow.config.trial import OVERLAYS, OVERLAYS_OF, Config, overlay
from spreadflow.errors import ConfigError, FileError


def parse(tree: dict, where: object = "config") -> Config:
    """Validate a nested dictionary. Raises ConfigError."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise explain(error, where, Config) from None


def load(*paths: Path | str, changes: dict | None = None) -> Config:
    """Read YAML files, later ones over earlier ones and `changes` over all, and validate. Raises
    ConfigError.
    """
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
    """Return the nested dictionary of one key, told as `section.key=value` (YAML). Raises
    ConfigError.
    """
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
    """Return the files the configuration names: key → path."""
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
    """Raise where a trial could not run: ConfigError without a run, FileError for a named file that
    does not exist.

    What the trial itself makes need not be there yet. Snakemake would not tell of a missing file as
    long as what was made from it is still there.
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
    """Return the sections that a stage reads as JSON: the `params` of its rule and the argument of
    its command.

    `simulate` also gets the shots of the one run it makes, and no other run's.
    """
    parts: dict[str, Any] = {}
    for name in STAGE_CONFIGS[stage].model_fields:
        if name == "shots":
            parts[name] = _shots_of(config, run)
        else:
            overlay_key = f"{OVERLAYS_OF.get(stage, stage)}.{name}"
            parts[name] = config.resolved(overlay_key if overlay_key in OVERLAYS else name)
    plain = {
        name: part.model_dump(mode="json", by_alias=True) if isinstance(part, Section) else part
        for name, part in parts.items()
    }
    return json.dumps(plain, sort_keys=True)


def _shots_of(config: Config, run: str | None) -> Section:
    """Return the shots of a simulated run. Raises ConfigError where the run is none."""
    shots = config.runs[run].simulate if run in config.runs else None
    if shots is None:
        simulated = [name for name, section in config.runs.items() if section.simulate]
        expected = f"a simulated run (there are: {', '.join(simulated) or 'none'})"
        raise ConfigError("runs", expected, repr(run), "Check the run's name.")
    return shots


def for_stage(text: str, stage: str, run: str | None = None) -> Any:
    """Return the sections of a stage, an instance of its class in `STAGE_CONFIGS`. Raises
    ConfigError.

    text: the JSON that `section` wrote, or the path of a YAML file, of which the sections are
    taken.
    """
    if not text.lstrip().startswith("{"):
        text = section(load(text), stage, run)
    model = STAGE_CONFIGS[stage]
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise explain(error, f"--config of {stage}", model) from None
