"""The configuration of `correlate`: the section in YAML, or a Python file of ParCorAna.

Such a file defines two dictionaries, `system_params` and `user_params`. Keys of psana-1 are
accepted and say nothing where there is no psana: `dataset` is then a file or a pattern of files,
and `src` the path of the images in HDF5 files, empty for image files of a format that is known.
"""

import runpy
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from spreadflow.config.base import explain
from spreadflow.config.correlate import CorrelateSection
from spreadflow.config.load import load
from spreadflow.config.trial import overlay
from spreadflow.errors import ConfigError

SYSTEM_KEYS = {
    "dataset": "files",
    "src": "dataset",
    "maskNdarrayCoords": "mask",
    "testMaskNdarrayCoords": "test_mask",
    "numServers": "readers",
    "serverHosts": "reader_hosts",
    "serversRoundRobin": "takes_turns",
    "times": "buffer_shots",
    "update": "update_shots",
    "delays": "delays",
    "h5output": "out",
    "testH5output": "test_out",
    "testh5output": "test_out",
    "overwrite": "overwrite",
    "numEvents": "n_shots",
    "testNumEvents": "test_shots",
}
"""Keys of `system_params` → those of the section."""

USER_KEYS = {
    "colorNdarrayCoords": "colours",
    "colorFineNdarrayCoords": "fine_colours",
    "saturatedValue": "saturated",
    "notzero": "not_zero",
}
"""Keys of `user_params` → those of the section."""

NEEDED = ("dataset", "src", "maskNdarrayCoords", "times", "delays", "h5output", "userClass")
"""Keys of `system_params` that have no default."""

WITHOUT_MEANING = {
    "psanaType",
    "psanaOptions",
    "ndarrayProducerOutKey",
    "ndarrayCalibOutKey",
    "ndarrCalibOutKey",
    "outputArrayType",
    "workerStoreDtype",
    "elementsPerWorker",
}
"""Keys that say nothing without psana: images are as the files have them, stored as float32."""

OWN_CLASSES = {
    "G2atEnd": "at_end",
    "G2onGoing": "accumulating",
    "G2IncrementalAccumulator": "accumulating",
    "G2IncrementalWindowed": "windowed",
}
"""Names of `userClass` that are calculators here."""


class Configured(NamedTuple):
    """A configuration, read."""

    section: CorrelateSection
    user_class: str | type | None = None
    system_params: dict[str, Any] = {}
    """as they stand in a Python file"""
    verbosity: str | None = None
    warnings: tuple[str, ...] = ()


def from_yaml(path: Path, changes: dict[str, Any]) -> Configured:
    """Read the section of a YAML file, with some keys replaced. Raises ConfigError."""
    section = load(path).correlate
    if section is None:
        todo = "See docs/config.md, correlate."
        raise ConfigError(path, "a section `correlate`", "none", todo)
    return Configured(_valid(path, overlay(section.model_dump(), changes)))


def read(path: Path, changes: dict[str, Any]) -> Configured:
    """Read a Python file, with some keys of the section replaced. Raises ConfigError."""
    system, user = _dictionaries(path)
    missing = [name for name in NEEDED if name not in system]
    if missing:
        todo = "docs/correlate.md has all keys."
        raise ConfigError(f"{path}: system_params", ", ".join(NEEDED), f"no {missing}", todo)
    known = {*SYSTEM_KEYS, *WITHOUT_MEANING, "userClass", "verbosity"}
    warnings = tuple(
        f"{path}: system_params: {name} is not known, and says nothing"
        for name in sorted(system.keys() - known)
    )
    keys: dict[str, Any] = {"user_params": user}
    for names, parameters in ((SYSTEM_KEYS, system), (USER_KEYS, user)):
        keys |= {
            names[name]: value
            for name, value in parameters.items()
            if name in names and (value is not None or names[name] == "out")
        }
    keys["files"] = [keys["files"]]
    keys["dataset"] = keys["dataset"] or None
    keys["delays"] = [int(delay) for delay in keys["delays"]]
    user_class = system["userClass"]
    if user_class in OWN_CLASSES:
        keys["calculator"] = OWN_CLASSES[user_class]
        user_class = None
    section = _valid(path, overlay(keys, changes))
    return Configured(section, user_class, system, system.get("verbosity"), warnings)


def _dictionaries(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a Python file; return its two dictionaries. Raises ConfigError."""
    try:
        names = runpy.run_path(str(path))
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        todo = "Correct it for Python 3, without psana."
        raise ConfigError(path, "a Python file that runs", found, todo) from error
    both = [names.get(name) for name in ("system_params", "user_params")]
    if not all(isinstance(one, dict) for one in both):
        expected = "the dictionaries system_params and user_params"
        raise ConfigError(path, expected, "one of them missing", "Define both.")
    system, user = both
    assert isinstance(system, dict)
    assert isinstance(user, dict)
    return system, user


def _valid(path: Path, keys: dict[str, Any]) -> CorrelateSection:
    """Return the section. Raises ConfigError."""
    try:
        return CorrelateSection.model_validate(keys)
    except ValidationError as error:
        raise explain(error, f"{path}: correlate", CorrelateSection) from None
