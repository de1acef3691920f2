"""YAML files → the validated configuration, and of that to each stage what it declares."""

import json
import os
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from spreadflow.config.base import Section, explain
from spreadflow.config.recording import RecordingSection
from spreadflow.config.simulation import NAMED_CURVES, LatticesSection, StructureFactorsSection
from spreadflow.config.stages import STAGE_CONFIGS
from spreadflow.config.trial import OVERLAYS, OVERLAYS_OF, Config, overlay
from spreadflow.errors import ConfigError, FileError
from spreadflow.folders import lowest_existing

WILDCARD = set("{}\n\r")
"""Letters that no path of a workflow may have."""


def parse(tree: dict, where: object = "config") -> Config:
    """Validate a nested dictionary. Raises ConfigError."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise explain(error, where, Config) from None


class _Loader(yaml.SafeLoader):
    """YAML without its traps: a key twice, of which the last would count, and 1:30 as 90."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Return a mapping. Raises ConstructorError where it has a key twice."""
        names = set()
        for key, _ in node.value:
            if key.value in names:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} twice", key.start_mark
                )
            if isinstance(key, yaml.ScalarNode):
                names.add(key.value)
        return super().construct_mapping(node, deep)

    def plain_number(self, node: yaml.ScalarNode) -> int | float:
        """Return a number. Raises ConstructorError for one in sixties."""
        if ":" in node.value:
            problem = f"{node.value}, which YAML takes for a number in sixties"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        is_whole = node.tag.endswith(":int")
        return self.construct_yaml_int(node) if is_whole else self.construct_yaml_float(node)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.plain_number)


def read(path: Path | str) -> dict:
    """Return the sections that a YAML file has, not validated. Raises ConfigError."""
    try:
        layer = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        todo = "Check the path and the indentation."
        raise ConfigError(path, "a readable YAML file", error, todo) from None
    if not isinstance(layer, dict):
        found = type(layer).__name__
        todo = "See config/config.yaml."
        raise ConfigError(path, "a YAML mapping of sections", found, todo)
    return layer


def load(*paths: Path | str, changes: dict | None = None) -> Config:
    """Read YAML files, later ones over earlier ones and `changes` over all, and validate. Raises
    ConfigError.
    """
    tree: dict = {}
    for path in paths:
        tree = overlay(tree, read(path))
    where = paths[-1] if paths else "config"
    return parse(overlay(tree, changes or {}), where)


def setting(text: str) -> dict:
    """Return the nested dictionary of one key from the text `section.key=value`, the value in
    YAML. Raises ConfigError.
    """
    key, equals, value = text.partition("=")
    words = key.strip().split(".")
    if not equals or not all(words):
        todo = "For example beam.photons=5e11."
        raise ConfigError("--set", "section.key=value", repr(text), todo)
    try:
        tree = yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}", "a value in YAML", error, "Correct it.") from None
    for word in reversed(words):
        tree = {word: tree}
    return tree


def _lattices(key: str, section: LatticesSection | None) -> dict[str, Path | None]:
    """Return the files of lattices of another program. key: where the configuration has them."""
    if section is None:
        return {}
    numbered = {f"{key}.files.{number}": path for number, path in enumerate(section.paths)}
    return {f"{key}.geometry": section.geometry, **numbered}


def files(config: Config) -> dict[str, Path]:
    """Return the files that the configuration names: key → path."""
    named: dict[str, Path | None] = {
        "beam.spectra": config.beam.spectra,
        "index.mask": config.index.mask,
        "reindex.mask": config.resolved("reindex").mask,
        "level0.from": config.level0.from_file,
        **_lattices("level0.imported", config.level0.imported),
        "cells.from": config.cells.from_file,
        "merge.reference": config.merge.reference,
        "stage1.domains": config.stage1.domains,
    }
    for name, run in config.runs.items():
        named[f"runs.{name}.images"] = run.images
        named[f"runs.{name}.spec"] = run.spec
        named |= _lattices(f"runs.{name}.lattices", run.lattices)
        if run.correlate is not None:
            for key, path in config.correlate_of(name).files_named.items():
                named[f"runs.{name}.correlate.{key}"] = path

    for number, curve in enumerate(config.spread.known or []):
        named[f"spread.known.{number}"] = _curve_file(curve)

    overlays = [key for key in OVERLAYS if key.endswith(".structure_factors")]
    for key in ("structure_factors", *overlays):
        factors: StructureFactorsSection = config.resolved(key)
        named[f"{key}.model"] = factors.model
        named[f"{key}.mtz"] = factors.mtz
        for number, site in enumerate(factors.sites):
            named[f"{key}.sites.{number}.curve"] = _curve_file(site.curve)

    return {key: path for key, path in named.items() if path is not None}


def _curve_file(curve: str) -> Path | None:
    """Return the file that a curve is read from, or None for one that no file needs to hold."""
    return None if curve in NAMED_CURVES else Path(curve)


def check_ready(config: Config, where: object = "config") -> None:
    """Raise where a trial could not run: ConfigError without a run or for a path that Snakemake
    does not take, FileError for a named file that does not exist, or a folder that can't be made.

    What the trial itself writes need not be there yet. Snakemake does not notice that a file is
    missing as long as what was made from it is still there.
    """
    if not config.runs:
        raise ConfigError(f"{where}: runs", "at least one run", "none", "See config/README.md.")
    named = files(config)
    for key, path in {"data": config.data, "results": config.results, **named}.items():
        if WILDCARD & set(str(path)):
            expected = "a path without braces and line breaks, which Snakemake takes for wildcards"
            raise ConfigError(f"{where}: {key}", expected, repr(str(path)), "Take another name.")
    _check_places(config, where)
    own_merge = config.results / config.trial / "merge.mtz"
    for key, path in named.items():
        if path == own_merge or path.is_file():
            continue
        is_manifest = key.endswith(".images")
        todo = "Write it with `spreadflow manifest`." if is_manifest else "Check the path."
        raise FileError(f"{where}: {key}", "an existing file", path, todo)


def _check_places(config: Config, where: object) -> None:
    """Raise FileError where the folders of a new trial, and of its simulated images, can't be made.
    A trial that is there may be finished, and needs no place.
    """
    trial = config.results / config.trial
    is_simulated = any(run.simulate for run in config.runs.values())
    for key, folder in {"results": trial, "data": config.data}.items():
        if os.path.exists(folder) or (key == "data" and not is_simulated):
            continue
        above = lowest_existing(folder)
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            expected = f"a place for {folder}"
            found = f"{above}, where nothing can be made"
            raise FileError(f"{where}: {key}", expected, found, "Name another folder.")


def section(config: Config, stage: str, run: str | None = None) -> str:
    """Return the sections that a stage reads as JSON: the `params` of its rule and the argument of
    its command.

    A stage that works on one run gets the recording of that one, and `simulate` also its shots, and
    no other run's.
    """
    parts: dict[str, Any] = {}
    part: Any
    for name, field in STAGE_CONFIGS[stage].model_fields.items():
        match name:
            case "shots":
                part = _simulated_shots(config, run)
            case "recording":
                part = _cut(_recording(config, run), field.annotation)
            case "lattices":
                part = config.runs[run].lattices if run in config.runs else None
            case "correlate":
                part = config.correlate_of(run)
            case "recordings":
                (model,) = get_args(field.annotation)
                part = [_cut(config.recording_of(one), model) for one in config.pictured_runs]
            case _:
                part = config.resolved(key_of(stage, name))
        if isinstance(part, Section):
            part = part.model_dump(mode="json", by_alias=True)
        parts[name] = part
    return json.dumps(parts, sort_keys=True)


def _cut(recording: RecordingSection, model: Any) -> dict[str, Any]:
    """Return the keys of a recording that a stage reads. model: class of these."""
    return recording.model_dump(mode="json", include=set(model.model_fields))


def _recording(config: Config, run: str | None) -> RecordingSection:
    """Return how a run was recorded: as all runs where none is named. Raises ConfigError where none
    is named and they differ.
    """
    if run in config.runs:
        return config.recording_of(run)
    own = [name for name, section in config.runs.items() if section.recording]
    if run is None and own:
        expected = f"the name of the run, with --run: {', '.join(own)} has its own recording"
        raise ConfigError("runs", expected, "none", "See config/README.md.")
    return config.recording


def key_of(stage: str, name: str) -> str:
    """Return the key of a section as a stage sees it: that of the overlay, where it has one."""
    overlay_key = f"{OVERLAYS_OF.get(stage, stage)}.{name}"
    return overlay_key if overlay_key in OVERLAYS else name


def _simulated_shots(config: Config, run: str | None) -> Section:
    """Return the shots of a simulated run. Raises ConfigError where the run is not simulated."""
    shots = config.runs[run].simulate if run in config.runs else None
    if shots is None:
        simulated = [name for name, section in config.runs.items() if section.simulate]
        names = ", ".join(simulated) or "none"
        expected = f"a simulated run (there are: {names})"
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
