"""Materials of sensors: how far photons get in them."""

from spreadflow.units import energy

DENSITIES = {"Si": 2.33, "CdTe": 5.85, "GaAs": 5.32}
"""Density of the materials that sensors are made of, g/cm³."""

NAMES = {
    "si": "Si",
    "silicon": "Si",
    "cdte": "CdTe",
    "cadmium telluride": "CdTe",
    "gaas": "GaAs",
    "gallium arsenide": "GaAs",
}
"""Materials by the names that files have for them, in small letters."""

TABULATED_EV = (1e3, 1e5)
"""Energies between which attenuation is looked up."""


def attenuation_mm(material: str, wavelength: float) -> float:
    """Return the attenuation length of a sensor at a wavelength (Å), mm: photoabsorption and
    scattering (Elam, Ravel & Sieber 2002). 0 = not known: neither material nor energy is beyond the
    tables.
    """
    lowest, highest = TABULATED_EV
    if material not in DENSITIES or not energy(highest) <= wavelength <= energy(lowest):
        return 0.0
    import xraydb  # which takes a second, and few detectors state their sensor

    per_cm = xraydb.material_mu(material, energy(wavelength), density=DENSITIES[material])
    return float(10 / per_cm)
