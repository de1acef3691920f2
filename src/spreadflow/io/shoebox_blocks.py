"""Packed shoeboxes, products of `annulus` and `wide`, as the stages that model pixels read them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow.io import store


class ShoeboxBlock(NamedTuple):
    """Some lattices of one part of packed shoeboxes."""

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
    """Return blocks of at most `size` lattices of one part. kind: annulus or wide."""
    blocks = []
    for part, key in enumerate(store.part_keys(path, kind)):
        columns = store.read_part(path, kind, part, key, ["lattices/shot_id", "lattices/k"])
        k = columns["lattices/k"].astype(np.uint64)
        ids = np.stack([columns["lattices/shot_id"], k], axis=1)
        for first in range(0, len(ids), size):
            rows = range(first, min(first + size, len(ids)))
            blocks.append(ShoeboxBlock(part, key, rows, ids[rows].ravel().tolist()))
    return blocks


class Recording(NamedTuple):
    """What is known of packed shoeboxes beside their pixels."""

    attributes: dict[str, Any]
    """of the product: runs, space_group, detectors and polarizations of the runs, config"""
    energies_ev: np.ndarray
    """(channel,) all channels that any pulse has"""
    energy_ev: float
    """median over the pulses of their mean energy"""
    orientations: np.ndarray
    """(lattice, 3, 3) A of all lattices, Å⁻¹"""


def read_recording(path: Path, kind: str) -> Recording:
    """Return what is known of packed shoeboxes beside their pixels. kind: annulus or wide."""
    energies = np.empty(0)
    means = []
    for part, key in enumerate(store.part_keys(path, kind)):
        spectra = store.read_part(path, kind, part, key, ["spectra/"])
        channels = spectra["spectra/energies_ev"]
        photons = spectra["spectra/photons"]
        energies = np.union1d(energies, channels)
        total = np.maximum(photons.sum(axis=1), 1e-300)
        means.append((channels * photons).sum(axis=1) / total)
    return Recording(
        attributes=store.attributes(path, kind),
        energies_ev=energies,
        energy_ev=float(np.median(np.concatenate(means))),
        orientations=store.read(path, kind, ["lattices/A"])["lattices/A"],
    )
