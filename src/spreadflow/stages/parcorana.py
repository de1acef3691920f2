"""The configuration of `correlate`: the section in YAML, or a Python file of ParCorAna.

Such a file defines two dictionaries, `system_params` and `user_params`. Keys of psana-1 are
accepted and have no effect: `dataset` is a file or a pattern of files, and `src` the path of the
images in HDF5 files, empty for image files of a format that is known; or both name a run and a
detector of psana-2. Modules beside the file may be imported; so may ParCorAna and psana, for which
there are stand-ins.
"""

import runpy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from spreadflow.config.correlate import CorrelateSection, valid
from spreadflow.config.load import load
from spreadflow.errors import ConfigError
from spreadflow.stages.correlation_callbacks import load_class
from spreadflow.stages.parcorana_modules import OWN_CLASSES, standing_in

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
    "rate_hz": "rate_hz",
}
"""Keys of `system_params` → those of the section; the last one is not of ParCorAna."""

USER_KEYS = {
    "colorNdarrayCoords": "colours",
    "colorFineNdarrayCoords": "fine_colours",
    "saturatedValue": "saturated",
    "notzero": "not_zero",
}
"""Keys of `user_params` → those of the section."""

NEEDED = ("dataset", "src", "maskNdarrayCoords", "times", "delays", "h5output", "userClass")
"""Keys of `system_params` that have no default."""

WITHOUT_MEANING = (
    "psanaType",
    "psanaOptions",
    "ndarrayProducerOutKey",
    "ndarrayCalibOutKey",
    "ndarrCalibOutKey",
    "outputArrayType",
    "workerStoreDtype",
    "elementsPerWorker",
)
"""Keys without effect: images are as the files have them, stored as float32."""

USER_WITHOUT_MEANING = (
    "LLD",
    "debug_plot",
    "iX",
    "iY",
    "ipimb_srcs",
    "ipimb_threshold_lower",
    "plot_colors",
    "print_delay_curves",
    "psmon_plot",
    "psmon_port",
)
"""Keys of `user_params` that our own classes take no notice of; a user's class may."""

VERBOSITIES = ("debug", "info", "warning", "error", "critical")
"""Of the log; capital letters are as good."""

ABOUT = "docs/callbacks.md has all keys."
"""What to do about a key."""


class Configured(NamedTuple):
    """A configuration, read."""

    section: CorrelateSection
    user_class: str | type | None = None
    system_params: Mapping[str, Any] = {}
    """as they stand in a Python file"""
    verbosity: str | None = None
    warnings: tuple[str, ...] = ()


def from_yaml(path: Path, changes: dict[str, Any], dataset: str | None = None) -> Configured:
    """Read the section of a YAML file, with some keys replaced. dataset: as of ParCorAna, in place
    of what the section says about where shots come from. Raises ConfigError.
    """
    section = load(path).correlate
    if section is None:
        todo = "See docs/config.md, correlate."
        raise ConfigError(path, "a section `correlate`", "none", todo)
    keys = _stated(section)
    if dataset is not None:
        source = NO_SOURCE | _source("-d", dataset, section.dataset)
        if bool(source["psana"]) != bool(section.psana):
            source |= {"shot_ids": None, "monitors": {}}  # they are named in another way
        keys |= source
    return Configured(valid(path, keys | changes))


NO_SOURCE: dict[str, Any] = {"files": [], "psana": None, "simulated": None, "stream": None}
"""Keys of where shots come from."""


def _stated(section: CorrelateSection) -> dict[str, Any]:
    """Return the keys that are configured, without the defaults of the others."""
    return {name: getattr(section, name) for name in section.model_fields_set}


def read(path: Path, changes: dict[str, Any], dataset: str | None = None) -> Configured:
    """Read a Python file, with some keys of the section replaced. dataset: in place of its own.
    Raises ConfigError.
    """
    with _importing(path):
        system, user = _dictionaries(path)
        if dataset is not None:
            system = system | {"dataset": dataset}
        user_class = _user_class(path, system)
    keys: dict[str, Any] = {"user_params": user}
    for names, parameters in ((SYSTEM_KEYS, system), (USER_KEYS, user)):
        keys |= {
            names[name]: value
            for name, value in parameters.items()
            if name in names and (value is not None or names[name] == "out")
        }
    where = f"{path}: system_params.dataset"
    keys |= _source(where, keys.pop("files"), keys.pop("dataset"))
    keys["delays"] = _whole_numbers(path, keys["delays"])
    return Configured(
        section=valid(path, keys | changes),
        user_class=user_class,
        system_params=system,
        verbosity=_verbosity(path, system),
        warnings=tuple(_warnings(path, system, user, user_class)),
    )


def _source(where: object, dataset: Any, src: Any) -> dict[str, Any]:
    """Return the keys of where shots come from, and of what images are: files, or a run of LCLS-II.
    Raises ConfigError.
    """
    words = dict(word.partition("=")[::2] for word in str(dataset).split(":"))
    if not {"exp", "run"} <= set(words):
        return {"files": [dataset], "dataset": src or None}
    if "(" in str(src) or not words["run"].isdigit():
        expected = "one run, and a detector by its name, as psana-2 has it"
        todo = "Of psana-1, name a locator as dataset: docs/files.md, XTC."
        raise ConfigError(where, expected, f"{dataset}, {src}", todo)
    psana = {"experiment": words["exp"], "run": int(words["run"]), "is_live": "live" in words}
    if "dir" in words:
        psana["folder"] = words["dir"]
    image = f"{src}.raw.calib" if src and "." not in src else src
    return {"psana": psana, "dataset": image or None}


def _warnings(
    path: Path, system: dict[str, Any], user: dict[str, Any], user_class: type
) -> Iterator[str]:
    """Yield a sentence about the keys without effect: unknown ones, and those of psana-1."""
    known = {*SYSTEM_KEYS, *WITHOUT_MEANING, "userClass", "verbosity"}
    for name in sorted(system.keys() - known):
        yield f"{path}: system_params: {name} is not known, and has no effect"
    unused = [name for name in WITHOUT_MEANING if name in system]
    if unused:
        why = "images are as their files have them, and are stored as float32"
        yield f"{path}: system_params: {', '.join(unused)} have no effect here: {why}"
    of_viewer = [name for name in USER_WITHOUT_MEANING if name in user]
    if of_viewer and user_class in OWN_CLASSES.values():
        why = f"{user_class.__name__} neither draws nor asks for other detectors"
        yield f"{path}: user_params: {', '.join(of_viewer)} have no effect here: {why}"


@contextmanager
def _importing(path: Path) -> Iterator[None]:
    """Let what a Python file imports be found for a while: modules beside it, and stand-ins."""
    folder = str(path.absolute().parent)
    sys.path.insert(0, folder)
    try:
        with standing_in():
            yield
    finally:
        sys.path.remove(folder)


def _dictionaries(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a Python file; return its two dictionaries, complete. Raises ConfigError."""
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
    missing = [name for name in NEEDED if name not in system]
    if missing:
        raise ConfigError(f"{path}: system_params", ", ".join(NEEDED), f"no {missing}", ABOUT)
    return system, user


def _user_class(path: Path, system: dict[str, Any]) -> type:
    """Return the class that a file names, or one of our own of this name. Raises ConfigError."""
    named = system["userClass"]
    if isinstance(named, str):
        return OWN_CLASSES.get(named) or load_class(named)
    if not isinstance(named, type):
        where = f"{path}: system_params.userClass"
        raise ConfigError(where, "a class or the name of one", repr(named), ABOUT)
    return named


def _whole_numbers(path: Path, delays: Any) -> list[int]:
    """Return delays as a list. Raises ConfigError."""
    try:
        return [int(delay) for delay in delays]
    except (TypeError, ValueError):
        where = f"{path}: system_params.delays"
        raise ConfigError(where, "a list of whole numbers", repr(delays), ABOUT) from None


def _verbosity(path: Path, system: dict[str, Any]) -> str | None:
    """Return which messages the log has. Raises ConfigError."""
    verbosity = system.get("verbosity")
    if verbosity is None or str(verbosity).lower() in VERBOSITIES:
        return verbosity
    where = f"{path}: system_params.verbosity"
    raise ConfigError(where, f"one of {', '.join(VERBOSITIES)}", repr(verbosity), ABOUT)
