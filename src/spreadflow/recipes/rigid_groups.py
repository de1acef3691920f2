"""Which panels of a detector move together, as the configuration asks for."""

import math

import numpy as np

from spreadflow.analysis.detector_moves import RigidGroups
from spreadflow.config import RigidGroupsSection
from spreadflow.errors import ConfigError
from spreadflow.models import Detector

KEY = "level0.rigid_groups.which"
"""Where the configuration says it."""


def rigid_groups(detector: Detector, section: RigidGroupsSection) -> RigidGroups | None:
    """Return the groups that move beside the detector, None where it is one body. Raises
    ConfigError where it has no such groups.
    """
    if section.which == "detector":
        return None
    return RigidGroups(
        group_of_panel=_group_of_panel(detector, section.which),
        refined=section.refine,
        sigma_mm=section.shift_sigma_mm,
        sigma_rad=math.radians(section.turn_sigma_deg),
    )


def _group_of_panel(detector: Detector, which: str | list[list[int]]) -> np.ndarray:
    """Return the number of the group of each panel, (panel,)."""
    if isinstance(which, list):
        return _listed(detector, which)
    if which == "panels":
        return np.arange(detector.n_panels)
    if detector.levels is None:
        todo = "Choose panels, or list the panels of each group."
        raise ConfigError(KEY, f"{which} of a detector with groups", "a file without any", todo)
    return np.asarray(detector.levels[0 if which == "quadrants" else -1])


def _listed(detector: Detector, lists: list[list[int]]) -> np.ndarray:
    """Return the number of the group of each panel; those not listed are the last group."""
    group_of_panel = np.full(detector.n_panels, len(lists))
    for group, panels in enumerate(lists):
        for panel in panels:
            if panel >= detector.n_panels or group_of_panel[panel] < len(lists):
                expected = f"each of the panels 0 to {detector.n_panels - 1} once at most"
                raise ConfigError(KEY, expected, f"panel {panel} in list {group}", "Correct it.")
            group_of_panel[panel] = group
    return np.unique(group_of_panel, return_inverse=True)[1]
