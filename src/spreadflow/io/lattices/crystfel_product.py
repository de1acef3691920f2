"""Products of ours as CrystFEL streams, with the geometry file: index and reindex with all that
merging takes of them, stage1 and predict as far as CrystFEL has words for them.

Parts are read one after the other. Reflections that failed are left out, as CrystFEL does, and so
are shots that could not be read.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np

from spreadflow.config import IndexSection
from spreadflow.errors import FileError, Outcome
from spreadflow.io import store
from spreadflow.io.images import Source, open_indexed, open_source
from spreadflow.io.images.geom_writer import geom_of
from spreadflow.io.lattices.indexed import IndexedLattice, IndexedReflections
from spreadflow.io.lattices.product import ProductLattices
from spreadflow.io.lattices.stated import OwnColumns, ShotName, StatedLattice, StatedShot
from spreadflow.io.lattices.stream_writer import TargetCell, write_header, write_shot
from spreadflow.models import Detector, ReflectionFlag, Spots
from spreadflow.physics import symmetry, unit_cell
from spreadflow.physics.spectrum import FWHM
from spreadflow.products import Children, Index, Reindex, Table
from spreadflow.units import energy, wavelength

OF_SHOTS = ("shot_id", "file", "frame", "reason", "n_spots", "n_lattices", "mean_energy_ev")
OF_SPOTS = ("shot", "panel", "fast", "slow", "intensity")
OF_LATTICES = ("shot", "shot_id", "k", "A")
OF_REFLECTIONS = ("lattice", "hkl", "panel", "fast", "slow", "intensity", "sigma", "background")
"""Columns that a stream has words for, or that follow from others; the rest are written as ours."""


class StreamContent(NamedTuple):
    """The shots of a product, and what they share."""

    detector: Detector
    energy_ev: float
    """about that of the shots"""
    target: TargetCell
    shots: Iterable[tuple[ShotName, StatedShot]]


def export(product: Path, out: Path, images: Sequence[Path] = ()) -> list[Path]:
    """Write a product as `out`.stream and .geom, and return these. images: manifests of its runs,
    where they were moved. Raises FileError.
    """
    is_indexed = store.kind(product) in ("index", "reindex")
    shots = _indexed(product, images) if is_indexed else _lattices(product, images)
    stream, geom = (out.with_name(f"{out.name}{ending}") for ending in (".stream", ".geom"))
    with store.replacing(stream) as temporary, open(temporary, "w", encoding="utf-8") as file:
        write_header(file, shots.detector, shots.energy_ev, shots.target)
        for number, (name, shot) in enumerate(shots.shots, start=1):
            write_shot(file, number, name, shot, shots.detector, shots.target.space_group)
    store.write_text(geom, geom_of(shots.detector, energy_ev=shots.energy_ev))
    return [stream, geom]


# ---------------------------------------------------------------- index and reindex


def _indexed(path: Path, images: Sequence[Path]) -> StreamContent:
    """Return the shots of a product of index or reindex."""
    product = Reindex if store.kind(path) == "reindex" else Index
    attributes = store.attributes(path, product)
    section = IndexSection.model_validate(attributes["config"])
    detector = Detector.from_json(attributes["detector"])
    shots = store.read(path, product, [product.shots.mean_energy_ev]).shots
    is_read = np.isfinite(shots.mean_energy_ev)
    if not is_read.any():
        raise FileError(path, "shots that were read", "none", "Look at the summary of the stage.")
    source = _source(path, attributes, section, images)
    return StreamContent(
        detector,
        float(np.median(shots.mean_energy_ev[is_read])),
        TargetCell(section.space_group, section.cell),
        _stated_shots(path, product, attributes, source),
    )


def _source(
    path: Path, attributes: dict, section: IndexSection, images: Sequence[Path]
) -> Source | None:
    """Return the images that a product was made from; None where it was made without."""
    manifest = images[0] if images else attributes.get("manifest")
    if manifest is None:
        return None
    if store.kind(path) == "reindex":
        return open_indexed(manifest, path)
    return open_source(manifest, section)


def _stated_shots(
    path: Path, product: type[Index], attributes: dict, source: Source | None
) -> Iterator[tuple[ShotName, StatedShot]]:
    """Yield the shots that were read."""
    if source is None:
        files = [Path(name) for name in attributes["images"]]
    else:
        folder = source.path.parent
        files = [(folder / file.path).resolve() for file in source.manifest.files]
    detector = Detector.from_json(attributes["detector"])
    hall = symmetry.group(attributes["config"]["space_group"]).hall
    for part in store.parts_of(path, product):
        first = part.rows("shots").start
        content = part.read()
        of_shots = _OfShots(content, detector, hall)
        for row in np.flatnonzero(np.isfinite(content.shots.mean_energy_ev)).tolist():
            frame = int(content.shots.frame[row])
            event = "" if frame >= 0 else f"{content.shots.shot_id[row]:016x}//"
            image = files[content.shots.file[row]]
            name = ShotName(str(image), frame, event, int(content.shots.n_lattices[row]))
            bandwidth = None if source is None else _bandwidth(source, first + row)
            yield name, of_shots.stated(row, name, bandwidth)


def _bandwidth(source: Source, number: int) -> float | None:
    """Return the relative full width at half maximum of a Gaussian as wide as the spectrum of a
    shot; None where it has one energy, or is no longer there.
    """
    spectrum = source.spectrum(number)
    if spectrum is None or len(spectrum.energies_ev) == 1:
        return None
    share = np.asarray(spectrum.photons) / np.sum(spectrum.photons)
    mean = float(spectrum.mean_energy_ev)
    variance = float(share @ (np.asarray(spectrum.energies_ev) - mean) ** 2)
    return float(FWHM * np.sqrt(max(variance, 0.0)) / mean)


class _OfShots:
    """The rows of a part by shot and by lattice."""

    def __init__(self, content: Index, detector: Detector, hall: str):
        """Take a part. hall: symbol of the space group."""
        self._content = content
        self._detector = detector
        self._hall = hall
        self._spots = Children(content.spots.shot)
        self._lattices = Children(content.lattices.shot)
        self._reflections = Children(content.reflections.lattice)

    def stated(self, row: int, name: ShotName, bandwidth: float | None) -> StatedShot:
        """Return a shot. row: of it in the part."""
        content = self._content
        shots = content.shots
        rows = self._lattices[row]
        spots = content.spots[self._spots[row]]
        columns = spots.as_dict()
        own_spots = _own(spots, OF_SPOTS)
        first = int(rows[0]) if len(rows) else 0
        own_spots["lattice"] = np.where(spots.lattice >= 0, spots.lattice - first, -1)
        return StatedShot(
            energy_ev=float(shots.mean_energy_ev[row]),
            bandwidth=bandwidth,
            is_hit=shots.outcome[row] != Outcome.BLANK,
            spots=Spots(**{name: columns[name] for name in Spots._fields}),
            lattices=[self._lattice(int(number), row, name) for number in rows],
            own=_own(shots[[row]], (*OF_SHOTS, "seconds")),
            own_spots=own_spots,
        )

    def _lattice(self, number: int, shot: int, name: ShotName) -> StatedLattice:
        """Return a lattice. number, shot: rows of it and its shot in the part."""
        content = self._content
        reflections = content.reflections[self._reflections[number]]
        sound = reflections[reflections.flags & ReflectionFlag.FAILED == 0]
        d_min = float(content.lattices.d_min[number])
        return StatedLattice(
            line=number + 1,
            lattice=IndexedLattice(
                identifier="",
                image=Path(name.image),
                frame=name.frame,
                A=content.lattices.A[number],
                hall=self._hall,
                wavelength=float(wavelength(content.shots.mean_energy_ev[shot])),
                detector=self._detector,
                reflections=IndexedReflections(
                    hkl=sound.hkl,
                    panel=sound.panel,
                    fast=sound.fast,
                    slow=sound.slow,
                    intensity=sound.intensity,
                    sigma=sound.sigma,
                    background=sound.background,
                ),
            ),
            is_saturated=reflections.flags & ReflectionFlag.SATURATED > 0,
            d_min=d_min if 0 < d_min < np.inf else None,
            own=_own(content.lattices[[number]], OF_LATTICES),
            own_reflections=_own(sound, OF_REFLECTIONS),
        )


def _own(table: Table, stated: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the columns of a table that a stream has no words for."""
    return {name: rows for name, rows in table.as_dict().items() if name not in stated}


# ---------------------------------------------------------------- other products


def _lattices(path: Path, images: Sequence[Path]) -> StreamContent:
    """Return the shots of the lattices of a product of stage1 or predict. Raises FileError for
    lattices of several detectors, as a stream has one.
    """
    lattices = ProductLattices(path, images=images)
    first = next(iter(lattices), None)
    if first is None:
        raise FileError(path, "lattices to be written", "none", "Look at the summary of the stage.")
    operations = gemmi.symops_from_hall(first.hall)
    group = gemmi.find_spacegroup_by_ops(operations)
    cell = unit_cell.degrees(unit_cell.cell_of(first.A)).tolist()
    return StreamContent(
        first.detector,
        float(energy(first.wavelength)),
        TargetCell(group.xhm(), cell),
        _by_shot(path, lattices, first.detector),
    )


def _by_shot(
    path: Path, lattices: Iterable[IndexedLattice], detector: Detector
) -> Iterator[tuple[ShotName, StatedShot]]:
    """Yield shots of lattices that follow each other."""
    by_shot = groupby(lattices, key=lambda lattice: (lattice.image, lattice.frame))
    for (image, frame), of_shot in by_shot:
        own = list(of_shot)
        if any(lattice.detector is not detector for lattice in own):
            todo = "Export one run at a time, refined without its distance."
            raise FileError(path, "lattices of one detector", "several", todo)
        shot = StatedShot(
            energy_ev=float(energy(own[0].wavelength)),
            bandwidth=None,
            is_hit=True,
            spots=None,
            lattices=[_stated(lattice) for lattice in own],
            own={},
            own_spots={},
        )
        yield ShotName(str(image), frame, "", len(own)), shot


def _stated(lattice: IndexedLattice) -> StatedLattice:
    """Return a lattice without columns of ours."""
    nothing: OwnColumns = {}
    is_saturated = np.zeros(len(lattice.reflections.hkl), bool)
    return StatedLattice(0, lattice, is_saturated, None, nothing, nothing)
