"""Packed shoeboxes, products of `annulus`, `wide` and `pack`, as the stages that model pixels read
them.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow.io import store

SMALLEST_TOTAL = 1e-300
"""Photons that a pulse is taken to have at least: one without any divides nothing by zero."""


class ShoeboxBlock(NamedTuple):
    """Lattices that are worked on together: a range of those in one part of packed shoeboxes."""

    part: int
    """number of the part"""
    key: str
    """key of the part"""
    lattices: range
    """rows of the lattices in the part"""
    ids: list[int]
    """shot_id and k of each lattice, one after the other"""

    def identities(self) -> list[tuple[int, int]]:
        """Return shot_id and k of each lattice."""
        return list(zip(self.ids[::2], self.ids[1::2], strict=True))

    def read(self, path: Path, kind: str) -> dict[str, np.ndarray]:
        """Return all columns of the part that the lattices are in."""
        return store.read_part(path, kind, self.part, self.key)


def blocks_of(path: Path, kind: str, size: int) -> list[ShoeboxBlock]:
    """Return blocks of at most `size` lattices of one part. kind: annulus, wide or pack."""
    blocks = []
    for part, key in enumerate(store.part_keys(path, kind)):
        columns = store.read_part(path, kind, part, key, ["lattices/shot_id", "lattices/k"])
        k = columns["lattices/k"].astype(np.uint64)
        ids = np.stack([columns["lattices/shot_id"], k], axis=1)

        n_lattices = len(ids)
        for first in range(0, n_lattices, size):
            rows = range(first, min(first + size, n_lattices))
            blocks.append(
                ShoeboxBlock(part=part, key=key, lattices=rows, ids=ids[rows].ravel().tolist())
            )
    return blocks


class Recording(NamedTuple):
    """What is known of packed shoeboxes beside their pixels."""

    attributes: dict[str, Any]
    """those of the product: runs, space_group, detectors and polarizations of the runs, config"""
    energies_ev: np.ndarray
    """(channel,) all channels that any pulse has"""
    photons: np.ndarray
    """(channel,) of all pulses together"""
    energy_ev: float
    """median over the pulses of their mean energy"""
    orientations: np.ndarray
    """(lattice, 3, 3) A of all lattices, Å⁻¹"""


def read_recording(path: Path, kind: str) -> Recording:
    """Return what is known of packed shoeboxes beside their pixels. kind: annulus, wide or pack."""
    all_energies: np.ndarray = np.empty(0)
    all_photons: np.ndarray = np.empty(0)
    mean_energies = []
    for part, key in enumerate(store.part_keys(path, kind)):
        spectra = store.read_part(path, kind, part, key, ["spectra/"])
        energies = spectra["spectra/energies_ev"]
        photons = spectra["spectra/photons"]

        in_part = np.unique(np.append(all_energies, energies))
        of_part = np.concatenate([all_photons, np.maximum(photons, 0.0).ravel()])
        place = np.searchsorted(in_part, np.concatenate([all_energies, energies.ravel()]))
        all_photons = np.bincount(place, of_part, len(in_part))
        all_energies = in_part.astype(np.float64)
        total = np.maximum(photons.sum(axis=1), SMALLEST_TOTAL)
        mean_energies.append((energies * photons).sum(axis=1) / total)

    return Recording(
        attributes=store.attributes(path, kind),
        energies_ev=all_energies,
        photons=all_photons,
        energy_ev=float(np.median(np.concatenate(mean_energies))),
        orientations=store.read(path, kind, ["lattices/A"])["lattices/A"],
    )
