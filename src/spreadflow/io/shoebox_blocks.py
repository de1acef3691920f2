"""Packed shoeboxes, products of `annulus`, `wide` and `pack`, as the stages that model pixels read
them.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow.errors import FileError
from spreadflow.io import store
from spreadflow.parallel import World
from spreadflow.products import SHOEBOXES, Annulus, Pulses

SMALLEST_TOTAL = 1e-300
"""Photons that a pulse is taken to have at least: one without any divides nothing by zero."""


class ShoeboxBlock(NamedTuple):
    """Lattices that are worked on together: a range of those in one part of packed shoeboxes."""

    part: store.Part[Annulus]
    lattices: range
    """rows of the lattices in the part"""
    ids: list[int]
    """shot_id and k of each lattice, one after the other"""
    reader: store.PartReader[Annulus]
    """that of all blocks of the product: those that follow each other are often of one part"""

    def identities(self) -> list[tuple[int, int]]:
        """Return shot_id and k of each lattice."""
        return list(zip(self.ids[::2], self.ids[1::2], strict=True))

    def read(self) -> Annulus:
        """Return the part that the lattices are in. Raises FileError where its reflections are not
        in the order of their lattices.
        """
        part = self.reader.read(self.part)
        if (np.diff(part.reflections.lattice) < 0).any():
            path = store.part_path(self.part.manifest.path, self.part.number)
            raise FileError(path, "reflections in the order of lattices", "others", store.RERUN)
        return part


def blocks_of(path: Path, kind: str, size: int) -> list[ShoeboxBlock]:
    """Return blocks of at most `size` lattices of one part. kind: annulus, wide or pack."""
    product = SHOEBOXES[kind]
    lattices = store.read(path, product, [product.lattices.shot_id, product.lattices.k]).lattices
    ids = np.stack([lattices.shot_id, lattices.k.astype(np.uint64)], axis=1)
    blocks = []
    reader = store.PartReader[Annulus]()
    for part in store.parts_of(path, product):
        own = part.rows("lattices")
        for first in range(own.start, own.stop, size):
            end = min(first + size, own.stop)
            rows = range(first - own.start, end - own.start)
            blocks.append(ShoeboxBlock(part, rows, ids[first:end].ravel().tolist(), reader))
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
    """Return what is known of packed shoeboxes beside their pixels; no part is opened.

    kind: annulus, wide or pack.
    """
    product = SHOEBOXES[kind]
    attributes = store.attributes(path, product)
    pulses = store.read_group(path, product, Pulses).pulses
    return Recording(
        attributes=attributes,
        energies_ev=pulses.energies_ev,
        photons=pulses.photons,
        energy_ev=attributes["energy_ev"],
        orientations=store.read(path, product, [product.lattices.A]).lattices.A,
    )


class _Light(NamedTuple):
    """The spectra of some pulses."""

    energies_ev: np.ndarray
    """(channel,) all channels that any of them has"""
    photons: np.ndarray
    """(channel,) of all together"""
    mean_ev: np.ndarray
    """(pulse,) mean energy of each"""


def recorded(parts: store.Parts[Annulus], world: World) -> dict[str, Any]:
    """Return what `Parts.finish` writes of all pulses into the manifest of packed shoeboxes: the
    group `pulses`, and the median of the pulses' mean energies. Collective.
    """
    own = {}
    for block in range(world.rank, len(parts.keys), world.size):
        spectra = parts.read(block, [parts.product.spectra]).spectra
        own[block] = _light(spectra.energies_ev, spectra.photons)
    of_blocks = world.gather_blocks(own)
    energies_ev, photons = _together(
        np.concatenate([block.energies_ev for block in of_blocks]),
        np.concatenate([block.photons for block in of_blocks]),
    )
    pulses = Pulses(pulses=Pulses.pulses(energies_ev=energies_ev, photons=photons))
    energy_ev = float(np.median(np.concatenate([block.mean_ev for block in of_blocks])))
    return {"groups": [pulses], "energy_ev": energy_ev}


def _light(energies_ev: np.ndarray, photons: np.ndarray) -> _Light:
    """Return spectra together. energies_ev, photons: (pulse, channel)."""
    total = np.maximum(photons.sum(axis=1), SMALLEST_TOTAL)
    mean_ev = (energies_ev * photons).sum(axis=1) / total
    together = _together(energies_ev.ravel(), np.maximum(photons, 0.0).ravel())
    return _Light(*together, mean_ev)


def _together(energies_ev: np.ndarray, photons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the different energies (n,), ascending, and the photons at each."""
    different, place = np.unique(energies_ev, return_inverse=True)
    return different, np.bincount(place, photons, len(different))
