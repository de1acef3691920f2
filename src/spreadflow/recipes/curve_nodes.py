"""The energies of the nodes of the curves, on the channels that there are."""

import numpy as np

from spreadflow.analysis.curves import planning
from spreadflow.config import SpreadSection
from spreadflow.errors import ConfigError

STEP_TOLERANCE_EV = 1e-6
"""Amount, eV, by which the step of the nodes may fall below the spacing of the channels: energies
are rounded.
"""


def check_range(section: SpreadSection, energies_ev: np.ndarray) -> np.ndarray:
    """Return the energies, eV, of channels (channel,) that are within the range of the curves.
    Raises ConfigError where they are fewer than two.
    """
    first, last = energies_ev[0], energies_ev[-1]
    low, high = section.range_ev or (first, last)
    within = energies_ev[(energies_ev >= low) & (energies_ev <= high)]
    if len(within) < 2:
        expected = f"a range with channels of the spectra, {first:g}-{last:g} eV"
        raise ConfigError("spread.range_ev", expected, section.range_ev, "Correct it.")
    return within


def nodes_of(section: SpreadSection, energies_ev: np.ndarray) -> np.ndarray:
    """Return the nodes (node,), eV: on channels (channel,), from the first one within the range.
    Raises ConfigError.
    """
    within = check_range(section, energies_ev)
    channel_ev = np.median(np.diff(energies_ev))
    if section.step_ev < channel_ev - STEP_TOLERANCE_EV:
        expected = f"at least the distance of channels, {channel_ev:g} eV"
        todo = "Raise it: pixels know nothing in between."
        raise ConfigError("spread.step_ev", expected, section.step_ev, todo)
    nodes = planning.nodes(within, section.step_ev)
    if len(nodes) < 2:
        expected = f"at least two nodes within {within[0]:g}-{within[-1]:g} eV"
        todo = "Lower it, or widen spread.range_ev."
        raise ConfigError("spread.step_ev", expected, section.step_ev, todo)
    return nodes
