"""Wavelengths and spectra of NXmx as others write them: dialects, as in `nexus_dialects`."""

from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

from nexus_file import (
    BEAM,
    CHANNELS,
    ENERGIES_EV,
    MEAN,
    N_FRAMES,
    no_channels,
    only_means,
    put,
    spectra,
)
from spreadflow.units import energy, wavelength


def wavelengths_in(unit: str | None, factor: float) -> Callable[[h5py.File], dict]:
    """Return the dialect with mean wavelengths alone, in a unit."""

    def edit(f: h5py.File) -> dict[str, Any]:
        content = only_means(f)
        item = put(f, MEAN, f[MEAN][()] * factor)
        if unit is None:
            del item.attrs["units"]
            return content | {"remarks": ["incident_wavelength has no units"]}
        item.attrs["units"] = unit
        return content

    return edit


def beam_in_the_sample(f: h5py.File) -> None:
    """The beam of the instrument has a size only."""
    f.move(BEAM, "entry/sample/beam")
    group = f.create_group(BEAM)
    group.attrs["NX_class"] = "NXbeam"
    group["extent"] = np.array([3.0, 3.0])
    group["energy"] = 1e-3  # of the pulse
    group["energy"].attrs["units"] = "J"


def energies_with_weights(unit: str, factor: float) -> Callable[[h5py.File], None]:
    """Return the dialect with energies in place of wavelengths, in a unit."""

    def edit(f: h5py.File) -> None:
        energies, weights = energy(f[CHANNELS][()]) * factor, f[f"{CHANNELS}_weights"][()]
        no_channels(f)
        del f[MEAN]
        f[f"{BEAM}/incident_energy"] = energies
        f[f"{BEAM}/incident_energy"].attrs["units"] = unit
        f[f"{BEAM}/incident_energy_weights"] = weights

    return edit


def energy_of_a_monochromator(f: h5py.File) -> dict[str, np.ndarray]:
    no_channels(f)
    del f[MEAN]
    group = f.create_group("entry/instrument/monochromator")
    group.attrs["NX_class"] = "NXmonochromator"
    group["energy"] = 7120.0
    group["energy"].attrs["units"] = "eV"
    return {"energies_ev": np.full((N_FRAMES, 1), 7120.0), "spectra": np.ones((N_FRAMES, 1))}


def one_wavelength(f: h5py.File) -> dict[str, np.ndarray]:
    no_channels(f)
    put(f, MEAN, wavelength(7120.0))
    return {"energies_ev": np.full((N_FRAMES, 1), 7120.0), "spectra": np.ones((N_FRAMES, 1))}


def channels_for_each_shot(f: h5py.File) -> dict[str, np.ndarray]:
    own = ENERGIES_EV + np.array([[0.0], [3.0]])
    put(f, CHANNELS, wavelength(own))
    return {"energies_ev": own}


def rising_wavelengths(f: h5py.File) -> None:
    put(f, CHANNELS, f[CHANNELS][()][::-1])
    for end in ("_weights", "_weight"):
        put(f, CHANNELS + end, spectra()[:, ::-1])


def weights_for_all(f: h5py.File) -> dict[str, np.ndarray]:
    for end in ("_weights", "_weight"):
        put(f, CHANNELS + end, spectra()[0])
    return {"spectra": np.tile(spectra()[0], (N_FRAMES, 1))}


def channels_without_variant(f: h5py.File) -> None:
    channels, weights = f[CHANNELS][()], f[f"{CHANNELS}_weights"][()]
    no_channels(f)
    put(f, MEAN, channels)
    f[f"{MEAN}_weights"] = weights


def weight_of_old(f: h5py.File) -> None:
    del f[f"{CHANNELS}_weights"]


def spectrum_group(f: h5py.File) -> None:
    """The spectrum is a group of its own."""
    channels, weights = f[CHANNELS][()], f[f"{CHANNELS}_weights"][()]
    no_channels(f)
    group = f.create_group(f"{BEAM}/incident_wavelength_spectrum")
    group.attrs.update(NX_class="NXdata", signal="photons", axes=["shot", "length"])
    group["length"] = channels
    group["length"].attrs["units"] = "angstrom"
    group["photons"] = weights


DIALECTS: dict[str, Callable[[h5py.File], Any]] = {
    edit.__name__: edit
    for edit in (
        beam_in_the_sample,
        energy_of_a_monochromator,
        one_wavelength,
        channels_for_each_shot,
        rising_wavelengths,
        weights_for_all,
        channels_without_variant,
        weight_of_old,
        spectrum_group,
    )
}
DIALECTS |= {
    f"wavelengths in {unit}": wavelengths_in(unit, factor)
    for unit, factor in (
        ("Angstrom", 1.0),
        ("ANGSTROMS", 1.0),
        ("\u212b", 1.0),
        ("\u00c5", 1.0),
        ("A", 1.0),
        ("nm", 0.1),
        ("m", 1e-10),
        (None, 1.0),
    )
}
DIALECTS |= {
    f"energies in {unit}": energies_with_weights(unit, factor)
    for unit, factor in (("eV", 1.0), ("ev", 1.0), ("keV", 1e-3), ("J", 1.602176634e-19))
}
"""Dialects by name."""
