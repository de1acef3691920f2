"""Wavelengths, spectra and polarization of NXmx files: wherever an NXbeam may state them, as
wavelengths or energies, one for all shots, one for each, or channels with weights.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import h5py
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images import polarization
from spreadflow.io.images.nexus_items import (
    ABOUT_FILES,
    BROKEN,
    children,
    dataset,
    numbers,
    place,
    text,
    unit_of,
)
from spreadflow.io.images.unit_names import ANGSTROM, EV, unit_factor
from spreadflow.models import Spectrum
from spreadflow.units import energy

LIKELY_ANGSTROM = (0.05, 30.0)
"""Wavelengths that are taken for Å where the file states no unit."""

LIKELY_EV = (400.0, 250e3)
"""Photon energies that are taken for eV where the file states no unit."""

LONGEST_VARIANTS = 10
"""Datasets that may name one another as variants; more are taken for a circle."""


class _Quantity(NamedTuple):
    """What the channels of a spectrum are stated in."""

    name: str
    """of the dataset"""
    units: dict[str, float]
    likely: tuple[float, float]
    """values that are taken for its usual unit where there is none"""
    usual: str
    """that unit"""


QUANTITIES = {
    "NXbeam": (
        _Quantity("incident_wavelength", ANGSTROM, LIKELY_ANGSTROM, "Å"),
        _Quantity("incident_energy", EV, LIKELY_EV, "eV"),
    ),
    "NXmonochromator": (
        _Quantity("wavelength", ANGSTROM, LIKELY_ANGSTROM, "Å"),
        _Quantity("energy", EV, LIKELY_EV, "eV"),
    ),
}
"""Of each class of groups, in the order in which they are looked for."""


class _Items(NamedTuple):
    """Where the spectra of a file are."""

    quantity: _Quantity
    channels: h5py.Dataset
    """wavelengths or energies"""
    weights: h5py.Dataset | None
    """photons of the channels; None where there are only wavelengths"""


class Spectra:
    """The spectra of the n_frames shots of a file. entry, instrument: groups of the file."""

    def __init__(self, entry: h5py.Group, instrument: h5py.Group, n_frames: int):
        self._entry = entry
        self._instrument = instrument
        self._n_frames = n_frames
        self.remarks: list[str] = []
        """what the file leaves open, and what was assumed"""

    def of_frames(self, frames: slice) -> Spectrum:
        """Return the spectra of some frames: photons (frame, channel), energies (channel,) where
        shared, or as photons; ascending. Raises FileError.
        """
        try:
            return self._sorted(frames)
        except FileError:
            raise
        except BROKEN as error:
            raise FileError(place(self._entry), "readable spectra", error, ABOUT_FILES) from None

    def polarization(self) -> float | None:
        """Return Kahn's K along the lab x axis, mean of the shots, as the Stokes vectors of the
        beam have it; None where none are stated, or they make no sense (a remark).
        """
        name = "incident_polarization_stokes"
        items = [dataset(beam, name) for beam in self._beams()]
        stated = [item for item in items if item is not None]
        if not stated:
            return None
        kahn, remarks = polarization.along_x(name, _shares(stated[0]))
        self.remarks += remarks
        return kahn

    def _remark(self, remark: str) -> None:
        """Keep a remark, once."""
        if remark not in self.remarks:
            self.remarks.append(remark)

    def _beams(self) -> list[h5py.Group]:
        """Return the groups that may state the beam, in the order in which they are asked."""
        beams = children(self._instrument, "NXbeam")
        for sample in children(self._entry, "NXsample"):
            beams += children(sample, "NXbeam")
        beams += children(self._entry, "NXbeam")
        return beams + children(self._instrument, "NXmonochromator")

    def _sorted(self, frames: slice) -> Spectrum:
        """Return the spectra of some frames, as `of_frames`."""
        energies, photons = self._channels(frames)
        order = np.argsort(energies, axis=-1)
        n_frames = len(range(self._n_frames)[frames])
        shape = (n_frames, energies.shape[-1])
        photons = np.broadcast_to(photons, shape)
        order_of_photons = np.broadcast_to(order, shape)
        return Spectrum(
            energies_ev=np.take_along_axis(energies, order, -1),
            photons=np.take_along_axis(photons, order_of_photons, -1),
        )

    def _channels(self, frames: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return energies (eV) and photons of the channels of some frames in the order in which
        they are stored: each (channel,) or (frame, channel).
        """
        items = self._items
        if items.weights is None:  # no spectrum: the wavelength of the shot, or of all
            stored = numbers(items.channels)
            values = stored.reshape(1) if stored.size == 1 else stored.reshape(-1, 1)[frames]
            photons = np.ones(1)
        else:
            values = self._rows(items.channels, frames)
            photons = self._rows(items.weights, frames).astype(float)
            n_channels = values.shape[-1]
            n_weights = photons.shape[-1]
            if n_weights != n_channels:
                where = place(items.weights)
                todo = "One weight for each channel."
                raise FileError(where, f"{n_channels} weights", n_weights, todo)
        scaled = values.astype(float) * self._unit(items.channels, items.quantity)
        if items.quantity.units is EV:
            return scaled, photons
        with np.errstate(divide="ignore"):
            return energy(scaled), photons

    def _unit(self, item: h5py.Dataset, quantity: _Quantity) -> float:
        """Return the factor of an item's unit; 1 where none is stated and values are as usual.
        Raises FileError.
        """
        if "units" in item.attrs or not item.size:
            return unit_of(item, quantity.units)
        low, high = quantity.likely
        value = float(np.ravel(item[(0,) * item.ndim])[0])
        if not low <= value <= high:
            return unit_of(item, quantity.units)
        self._remark(f"{quantity.name} has no units: taken as {quantity.usual}")
        return 1.0

    def _rows(self, item: h5py.Dataset, frames: slice) -> np.ndarray:
        """Return the rows of some frames where a dataset has a row for each, else all of it. Raises
        FileError for another number of rows.
        """
        if item.ndim > 2 or (item.ndim == 2 and item.shape[0] not in (1, self._n_frames)):
            expected = f"channels, or {self._n_frames} rows of channels"
            raise FileError(place(item), expected, item.shape, ABOUT_FILES)
        has_rows = item.ndim == 2 and item.shape[0] == self._n_frames
        stored = numbers(item, frames) if has_rows else numbers(item)
        return stored if has_rows else stored.reshape(-1)

    @cached_property
    def _items(self) -> _Items:
        """Return where the spectra are: the first group that has channels with weights, else the
        first that has wavelengths or energies. Raises FileError where there is none.
        """
        beams = self._beams()
        all_items = [items for beam in beams for items in _items_of(beam)]
        if not all_items:
            expected = "incident_wavelength or incident_energy in an NXbeam"
            names = ", ".join(str(beam.name) for beam in beams)
            found = f"none in {names}" if beams else "no NXbeam"
            raise FileError(place(self._entry), expected, found, ABOUT_FILES)
        with_weights = [items for items in all_items if items.weights is not None]
        chosen = (with_weights or all_items)[0]
        item = chosen.channels
        if chosen.weights is None and item.size not in (1, self._n_frames):
            expected = f"1 or {self._n_frames} wavelengths"
            raise FileError(place(item), expected, item.shape, "Spectra need weights.")
        return chosen


def _shares(item: h5py.Dataset) -> np.ndarray:
    """Return the shares of the light, (vector, 2), as `polarization.along_x` takes them, of Stokes
    vectors; NaN where these are none.
    """
    stokes = numbers(item).astype(float)
    if stokes.shape[-1:] != (4,) or not stokes.size:
        return np.full((1, 2), np.nan)
    stokes = stokes.reshape(-1, 4)
    with np.errstate(invalid="ignore", divide="ignore"):
        return stokes[:, 1:3] / stokes[:, :1]


def _items_of(beam: h5py.Group) -> Iterator[_Items]:
    """Return the wavelengths and energies that a group has, with the weights of the variant that
    has them; then those of a spectrum in a group of its own.
    """
    quantities = QUANTITIES[text(beam.attrs.get("NX_class"))]
    for quantity in quantities:
        own = dataset(beam, quantity.name)
        if own is None:
            continue
        for name in _variants(beam, own, quantity.name):
            weights = _weights_of(beam, name)
            if weights is not None:
                yield _Items(quantity, beam[name], weights)
                break
        else:
            yield _Items(quantity, own, None)
    for group in children(beam, "NXdata"):
        axes = np.ravel(group.attrs.get("axes", ()))
        channels = dataset(group, text(axes[-1])) if len(axes) else None
        weights = dataset(group, text(group.attrs.get("signal")))
        if channels is not None and weights is not None:
            is_energy = unit_factor(text(channels.attrs.get("units")), EV) is not None
            yield _Items(quantities[int(is_energy)], channels, weights)


def _variants(beam: h5py.Group, item: h5py.Dataset, name: str) -> Sequence[str]:
    """Return the name of a dataset, and of those that it names as its variants, one after the
    other.
    """
    names = [name]
    for _ in range(LONGEST_VARIANTS):
        name = text(item.attrs.get("variant"))
        variant = dataset(beam, name) if name else None
        if variant is None or name in names:
            break
        names.append(name)
        item = variant
    return names


def _weights_of(beam: h5py.Group, name: str) -> h5py.Dataset | None:
    """Return the weights of channels, under either name; None where there are none."""
    weights = dataset(beam, f"{name}_weights")
    return dataset(beam, f"{name}_weight") if weights is None else weights
