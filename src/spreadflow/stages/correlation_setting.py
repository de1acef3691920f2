"""What all ranks of `correlate` derive from what the user says."""

import json
from collections.abc import Mapping
from logging import Logger
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import yaml

from spreadflow.analysis.correlation.delays import spaced
from spreadflow.analysis.correlation.multi_tau import delays_of
from spreadflow.analysis.correlation.two_time import Labels, labels_of
from spreadflow.callbacks import RoleParams
from spreadflow.config.correlate import CorrelateSection, DelaysSection, valid
from spreadflow.errors import ConfigError
from spreadflow.io.colours import Pixels, check_test_mask, read_pixels
from spreadflow.log import logger
from spreadflow.parallel import World
from spreadflow.stages import correlation_callbacks
from spreadflow.stages.correlation_callbacks import ABOUT, Callbacks, load_class
from spreadflow.stages.correlation_memory import pixel_bytes
from spreadflow.stages.correlation_source import source_of
from spreadflow.stream.shots import Source

MOST_WASTED = 0.01
"""Share of the mask's pixels without a colour that needs no word."""


class Request(NamedTuple):
    """What the user says."""

    section: CorrelateSection
    user_class: str | type | None = None
    """in place of the section's"""
    system_params: Mapping[str, Any] = {}
    """as a configuration of ParCorAna has them; {} = from the section"""
    is_test: bool = False
    """whether a few pixels of a few shots are correlated alone"""
    verbosity: str | None = None
    """of the log: debug, info, warning, error; None = info"""
    images: Path | None = None
    """manifest of the run that is correlated; None = the shots that the section names"""


class Setting(NamedTuple):
    """What all ranks derive from it."""

    section: CorrelateSection
    user_class: Any
    """a class, or None"""
    system_params: Mapping[str, Any]
    source: Source
    pixels: Pixels
    delays: np.ndarray
    """(delay,) int64"""
    log: Logger

    @property
    def labels(self) -> Labels:
        """The labels of the pixels."""
        return labels_of(self.pixels.colours, self.pixels.fine_colours)

    def callbacks(self, is_alternate: bool = False) -> Callbacks:
        """Return the callbacks of a rank, whatever its roles are."""
        return correlation_callbacks.make(
            self.user_class,
            self.section.user_params,
            self.system_params,
            RoleParams(self.log, self.pixels.mask),
            is_alternate,
        )


def checked(request: Request, world: World) -> str:
    """Return the configuration as YAML, and below it what follows from it. Raises FileError or
    ConfigError where it makes no sense.
    """
    setting = setting_of(request, world)
    section = setting.section
    setting.callbacks()
    if section.test_mask is not None:
        check_test_mask(section.test_mask, setting.source.shape)
    keys = json.loads(json.dumps(section.model_dump(), default=str))
    if setting.user_class is not None:
        keys["user_class"] = f"{setting.user_class.__module__}:{setting.user_class.__qualname__}"
    n_pixels = len(setting.pixels.places)
    of_pixel = pixel_bytes(section, len(setting.delays))
    return (
        f"{yaml.safe_dump({'correlate': keys}, sort_keys=False)}"
        f"# images {setting.source.shape}, of which {n_pixels} pixels are correlated in "
        f"{len(setting.pixels.distinct_colours)} colours\n"
        f"# {len(setting.delays)} delays, {setting.delays[0]} to {setting.delays[-1]}\n"
        f"# memory: {n_pixels * of_pixel.worker / 1e9:.3g} GB in all workers together, "
        f"{n_pixels * of_pixel.viewer / 1e9:.3g} GB in the viewer"
    )


def setting_of(request: Request, world: World) -> Setting:
    """Return what all ranks derive from the request. Raises FileError or ConfigError."""
    log = logger("correlate", world)
    if world.rank == 0:
        log.setLevel((request.verbosity or "info").upper())
    named = request.user_class or request.section.user_class
    user_class = None if named is None else load_class(named)
    section = _section(request, user_class)
    source = source_of(section, request.images)
    if request.is_test and section.test_mask is not None:
        check_test_mask(section.test_mask, source.shape)
    pixels = read_pixels(source.shape, section.mask, section.colours, section.fine_colours)
    wasted = 1 - len(pixels.places) / pixels.n_masked_in
    if wasted > MOST_WASTED and world.rank == 0:
        log.warning("%.0f %% of the mask's pixels have no colour: left out", 100 * wasted)
    delays = _delays(section)
    system_params = dict(request.system_params) or _system_params(section)
    system_params["delays"] = delays.tolist()
    system_params["times"] = section.buffer_shots
    return Setting(section, user_class, system_params, source, pixels, delays, log)


def _section(request: Request, user_class: Any) -> CorrelateSection:
    """Return the section with what the test and the user's class change in it. Raises ConfigError
    where the class asks for a calculator that there is not, or that fits no other key.
    """
    section = request.section
    changes: dict[str, Any] = {}
    if request.is_test:
        changes["mask"] = section.test_mask or section.mask
        changes["n_shots"] = section.test_shots
        changes["two_time"] = None
    n_shots = changes.get("n_shots", section.n_shots)
    if n_shots:
        changes["buffer_shots"] = min(section.buffer_shots, n_shots)
    if user_class is not None and getattr(user_class, "calculator", None) is not None:
        changes["calculator"] = user_class.calculator
        calculators = get_args(CorrelateSection.model_fields["calculator"].annotation)
        if user_class.calculator not in calculators:
            where = f"{user_class.__name__}.calculator"
            raise ConfigError(where, f"one of {calculators}", user_class.calculator, ABOUT)
    return valid("with what the user's class asks for", dict(section) | changes)


def _system_params(section: CorrelateSection) -> dict[str, Any]:
    """Return the parameters that a user's class is handed, also by their names in ParCorAna."""
    parameters = section.model_dump(mode="json", exclude={"user_params", "simulated"})
    parameters["update"] = section.update_shots
    parameters["numServers"] = section.readers
    return {name: value for name, value in parameters.items() if value is not None}


def _delays(section: CorrelateSection) -> np.ndarray:
    """Return the delays (delay,) int64, distinct and ascending."""
    if section.calculator == "multi_tau":
        return delays_of(section.n_levels, section.n_lags)
    if isinstance(section.delays, DelaysSection):
        steps = section.delays
        return spaced(steps.start, steps.stop, steps.num, steps.spacing == "log")
    return np.unique(np.array(section.delays, np.int64))
