"""What the numbers in pixels mean by a CrystFEL geometry file: gain, saturation, and numbers that
stand for bad pixels.
"""

import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images import geom_text
from spreadflow.io.images.geom import Geom, GeomPanel
from spreadflow.io.images.nexus_pixels import nearer_zero

NO_GAIN = "neither adu_per_photon nor adu_per_eV: one ADU is taken for one photon"
"""What is said of a file without a gain."""


class Values:
    """What the numbers of a frame mean.

    energy_ev: of the photons, None where it is not known. dtype: of the pixels as stored. Raises
    FileError for numbers that make no sense.
    """

    def __init__(self, geom: Geom, energy_ev: float | None, dtype: np.dtype):
        self.remarks: list[str] = []
        """what was assumed"""
        self.gains = np.array([self._gain(geom, row, energy_ev) for row in range(len(geom.panels))])
        self.highest = _of_panels(geom, "max_adu", np.inf)
        self._low = -np.inf
        if dtype.kind in "iu":
            info = np.iinfo(dtype)
            self.highest = np.minimum(self.highest, nearer_zero(info.max, 1))
            self._low = nearer_zero(info.min, 1) if info.min < 0 else -np.inf
        flags = [[_numbers(panel, key) for panel in geom.panels] for key in geom_text.FLAGS]
        below, above, self._flagged = flags
        self._least = np.array([max(values, default=-np.inf) for values in below])
        self._most = np.array([min(values, default=np.inf) for values in above])
        self._varies = bool(np.ptp(self.gains) or len(set(self.highest.tolist())) > 1)

    @property
    def pedestal(self) -> tuple[float, float]:
        """The pedestal (ADU) and the gain (ADU per photon) of what `applied` returns."""
        return 0.0, 1.0 if self._varies else float(self.gains[0])

    @property
    def trusted_range(self) -> tuple[float, float]:
        """The lowest and the highest trusted number of what `applied` returns."""
        if not self._varies:
            return self._low, float(self.highest[0])
        return -np.inf, self._highest_photons

    @property
    def _highest_photons(self) -> float:
        """The highest trusted number of photons in any panel."""
        return float((self.highest / self.gains).max())

    def applied(self, stored: np.ndarray) -> np.ndarray:
        """Return a frame (panel, slow, fast) with NaN for numbers that stand for bad pixels; where
        gains or saturation differ between panels as photons, those of saturated pixels above the
        trusted range.
        """
        least, most, highest, gains = (
            values[:, None, None] for values in (self._least, self._most, self.highest, self.gains)
        )
        is_bad = (stored < least) | (stored > most)
        for panel, flagged in enumerate(self._flagged):
            if flagged:
                is_bad[panel] |= np.isin(stored[panel], flagged)
        if self._varies:
            is_bad |= stored < self._low
            over = stored > highest
            stored = stored / gains
            stored[over] = np.nextafter(self._highest_photons, np.inf)
        if is_bad.any():
            stored = stored.astype(np.result_type(stored.dtype, np.float32))
            stored[is_bad] = np.nan
        return stored

    def _gain(self, geom: Geom, row: int, energy_ev: float | None) -> float:
        """Return the ADU per photon of a panel. Raises FileError."""
        settings = geom.panels[row].settings
        if "adu_per_photon" in settings:
            return geom_text.positive(settings["adu_per_photon"])
        if "adu_per_eV" not in settings:
            self.remarks = [f"{geom.path.name}: {NO_GAIN}"]
            return 1.0
        setting = settings["adu_per_eV"]
        if energy_ev is None:
            expected = "a photon energy beside adu_per_eV"
            raise FileError(setting.where, expected, "none", "State adu_per_photon.")
        return geom_text.positive(setting) * energy_ev


def _numbers(panel: GeomPanel, key: str) -> list[float]:
    """Return the numbers of a setting of a panel, none where there is none. Raises FileError."""
    return geom_text.numbers(panel.settings[key]) if key in panel.settings else []


def _of_panels(geom: Geom, key: str, default: float) -> np.ndarray:
    """Return a number of each panel (panel,). Raises FileError."""
    values = []
    for panel in geom.panels:
        value = geom_text.number(panel.settings[key]) if key in panel.settings else default
        values.append(value)
    return np.array(values)
