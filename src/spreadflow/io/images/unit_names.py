"""Units by the names that files have for them, spelled in any way."""

import unicodedata
from collections.abc import Mapping

from spreadflow.units import DEG

MM = {
    "mm": 1.0,
    "millimeter": 1.0,
    "millimetre": 1.0,
    "m": 1e3,
    "meter": 1e3,
    "metre": 1e3,
    "cm": 10.0,
    "um": 1e-3,
    "µm": 1e-3,
    "micron": 1e-3,
    "micrometer": 1e-3,
    "nm": 1e-6,
}
"""Units of lengths that are understood, in mm; in capitals or plural too."""

ANGSTROM = {"angstrom": 1.0, "Å": 1.0, "A": 1.0, "nm": 10.0, "pm": 0.01, "um": 1e4, "m": 1e10}
"""Units of wavelengths that are understood, in Å; in capitals or plural too."""

EV = {"eV": 1.0, "keV": 1e3, "J": 1 / 1.602176634e-19}
"""Units of photon energies that are understood, in eV; in capitals too."""

RADIAN = {"rad": 1.0, "radian": 1.0, "deg": DEG, "degree": DEG, "°": DEG}
"""Units of angles that are understood, in rad; in capitals or plural too."""


def _spelling(unit: str) -> str:
    """Return a unit as it is compared: without blanks, capitals, accents of fonts and plural."""
    plain = unicodedata.normalize("NFKC", unit).strip().casefold()
    return plain[:-1] if len(plain) > 2 and plain.endswith("s") else plain


def unit_factor(unit: str, units: Mapping[str, float]) -> float | None:
    """Return the factor of a unit, spelled in any way; None where it is not understood."""
    factors = {_spelling(name): factor for name, factor in units.items()}
    return factors.get(_spelling(unit))
