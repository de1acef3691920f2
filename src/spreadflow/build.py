"""Configuration → models, every unit converted once."""

import math

import gemmi
import numpy as np

from spreadflow.config import (
    BeamSection,
    CrystalSection,
    DetectorSection,
    NoiseSection,
    StructureFactorsSection,
)
from spreadflow.errors import ConfigError
from spreadflow.models import Detector, Noise
from spreadflow.units import DEG


def cell(section: CrystalSection | StructureFactorsSection) -> np.ndarray:
    """Return (6,) a b c (Å) α β γ (rad)."""
    assert section.cell is not None, "filled in when a stage is handed its sections"
    return np.array([*section.cell[:3], *(angle * DEG for angle in section.cell[3:])])


FEWEST_CELLS = 5
"""Along each axis of a domain: reflections of smaller ones run into each other."""


def n_cells(section: CrystalSection) -> np.ndarray:
    """Return (3,) unit cells of a mosaic domain along a, b, c: as many on each axis, of the volume
    of the domain's sphere.

    Raises ConfigError where they are too few for reflections to be apart.
    """
    sphere = math.pi / 6 * section.domain_ang**3
    n = round((sphere / gemmi.UnitCell(*section.cell).volume) ** (1 / 3))
    if n < FEWEST_CELLS:
        expected = f"a domain of {FEWEST_CELLS} unit cells along each axis, at least"
        raise ConfigError(
            "crystal.domain_ang", expected, f"{n} in {section.domain_ang:g} Å", "Enlarge it."
        )
    return np.full(3, float(n))


PUBLISHED_DOMAINS = 25
"""In the one set that every published shot has."""


def n_domains(section: CrystalSection) -> int:
    """Return domains of a set."""
    every = max(1, round(section.domains_per_crystal))
    return section.n_domains or (every if section.mosaicity == "per_shot" else PUBLISHED_DOMAINS)


def eta_rad(section: CrystalSection) -> float:
    return section.mosaic_spread_deg * DEG


def channels(section: BeamSection) -> np.ndarray:
    """Return (channel,) energies, eV."""
    return section.first_channel_ev + section.channel_ev * np.arange(section.n_channels)


def noise(section: NoiseSection) -> Noise:
    """Return the noise of pixels."""
    return Noise(section.readout_photons, section.calibration_error)


def detector(section: DetectorSection) -> Detector:
    """Return the detector as it truly stands."""
    n_slow, n_fast = section.shape
    if section.panels:
        axes = [_axes(panel.fast, panel.slow) for panel in section.panels]
        origin = np.array([panel.origin_mm for panel in section.panels])
    else:
        middle = section.beam_center_px or [n_fast / 2 + 0.5, n_slow / 2 + 0.5]
        axes = [np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])]
        origin = np.array(
            [[-middle[0] * section.pixel_mm, middle[1] * section.pixel_mm, -section.distance_mm]]
        )
    fast, slow = np.swapaxes(np.array(axes), 0, 1)
    return Detector(
        origin,
        fast,
        slow,
        section.pixel_mm,
        (n_slow, n_fast),
        section.thickness_mm,
        section.attenuation_mm,
        section.attenuation_mm if section.parallax and section.thickness_mm else None,
    )


def _axes(fast: list[float], slow: list[float]) -> np.ndarray:
    """Return unit vectors of the fast axis and, at right angles to it, of the slow axis."""
    f = np.array(fast, dtype=np.float64)
    s = np.array(slow, dtype=np.float64)
    f /= np.linalg.norm(f)
    s -= f * (f @ s)
    return np.array([f, s / np.linalg.norm(s)])


def good_pixels(section: DetectorSection, n_panels: int) -> np.ndarray:
    """Return (panel, slow, fast) bool: False in the rectangles of `bad_pixels`."""
    good = np.ones((n_panels, *section.shape), dtype=bool)
    for panel, slow0, slow1, fast0, fast1 in section.bad_pixels:
        good[panel, slow0:slow1, fast0:fast1] = False
    return good
