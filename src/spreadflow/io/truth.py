"""What only a simulation knows of its shots: the group /truth of the image files that it writes.

`simulate` writes it; summaries and tests read it, no stage of the analysis does.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from spreadflow import products
from spreadflow.errors import FileError
from spreadflow.io import datasets, images, store
from spreadflow.io.images import ManifestFile, nexus
from spreadflow.models import Detector
from spreadflow.products import Table, Truth

GROUP = "truth"
"""Name of the group in an image file."""


class TrueIntensities(NamedTuple):
    """|F|² of a simulated crystal over the mean of some pulses."""

    hkl: np.ndarray
    """(n, 3) unique reflections, Friedel mates apart"""
    f_squared: np.ndarray
    """(n,) electrons²"""


NO_INTENSITIES = TrueIntensities(np.empty((0, 3), dtype=np.int16), np.empty(0))
"""Those of a file that states none."""


class FileTruth(NamedTuple):
    """The truth of the shots of one image file."""

    shots: Callable[[], Truth]
    """gives the truth of the shots; called once the images are written: some is known then"""
    detector: Detector
    """where the detector was, whatever the header says"""
    curves: Mapping[str, np.ndarray]
    """atom → (channel,) f′ + i f″ of a site, electrons"""
    intensities: TrueIntensities = NO_INTENSITIES


def write_truth(f: h5py.File, truth: FileTruth, energies_ev: np.ndarray) -> None:
    """Write the truth into an image file. energies_ev: (channel,) of the curves."""
    group = f.create_group(GROUP)
    datasets.fill(group, truth.shots())
    store.put_attributes(group, {"detector": truth.detector._asdict()})

    values = np.concatenate([np.empty(0), *truth.curves.values()])
    n_sites = len(truth.curves)
    curves = products.TrueCurves.curves(
        site=np.repeat(np.arange(n_sites), len(energies_ev)),
        energy_ev=np.tile(energies_ev, n_sites),
        fp=values.real,
        fdp=values.imag,
    )
    datasets.fill(group, products.TrueCurves(curves=curves))

    intensities = products.TrueIntensities.intensities(**truth.intensities._asdict())
    datasets.fill(group, products.TrueIntensities(intensities=intensities))
    store.put_attributes(group, {"sites": list(truth.curves)})


class TrueCurve(NamedTuple):
    """f′ + i f″ of a simulated site."""

    energies_ev: np.ndarray
    """(channel,)"""
    values: np.ndarray
    """(channel,) complex128, electrons"""

    def at(self, energies_ev: np.ndarray) -> np.ndarray:
        """Return (2, n) f′ and f″ at n energies, linear between channels."""
        fp = np.interp(energies_ev, self.energies_ev, self.values.real)
        fdp = np.interp(energies_ev, self.energies_ev, self.values.imag)
        return np.array([fp, fdp])


def read_truth(manifest: Path | str, tables: Collection[type[Table]] | None = None) -> Truth | None:
    """Return the truth of the shots over the files of a run that can be opened; None where the run
    was not simulated.

    tables: those of it that are read, `Truth.shots` among them; None = all. `shots.shot_id` is the
    identity that a `Source` of this manifest gives.
    """
    manifest = Path(manifest)
    stated = images.read_manifest(manifest)
    return truth_of_files(manifest.parent, stated.run, stated.files, tables)


def truth_of_files(
    folder: Path,
    run: str,
    files: Sequence[ManifestFile],
    tables: Collection[type[Table]] | None = None,
) -> Truth | None:
    """Return the truth of the shots of some files of a run, as `read_truth`.

    folder: of the manifest. files: of those of it.
    """
    parts = []
    for path, stored_ids in _opening(folder, files):
        with _opened(path) as group:
            if group is None or stored_ids is None:
                return None
            part = datasets.product_in(group, Truth, tables)

        identities = {}
        for frame, stored_id in enumerate(stored_ids):
            identities[int(stored_id)] = images.shot_id(run, path.name, frame)
        shot_ids = [identities[int(stored_id)] for stored_id in part.shots.shot_id]
        part.shots.shot_id = np.array(shot_ids, np.uint64)
        parts.append(part)
    return Truth.joined(parts) if parts else None


def true_curves(manifest: Path) -> dict[str, TrueCurve]:
    """Return the curve of each site of a simulated run, by its name; none where the run was not
    simulated.
    """
    for path, _ in _files(manifest):
        with _opened(path) as group:
            return {} if group is None else _curves(group)
    return {}


def true_intensities(manifest: Path) -> TrueIntensities | None:
    """Return the intensities of the crystals of a run, over the mean pulse of its first file; None
    where the run was not simulated.
    """
    for path, _ in _files(manifest):
        with _opened(path) as group:
            if group is None or "intensities" not in group:
                return None
            intensities = datasets.product_in(group, products.TrueIntensities).intensities
            return TrueIntensities(intensities.hkl, intensities.f_squared)
    return None


def _curves(group: h5py.Group) -> dict[str, TrueCurve]:
    """Return the curve of each site."""
    sites = datasets.product_in(group, products.TrueCurves).curves
    names = json.loads(group.attrs["sites"])
    curves = {}
    for number, name in enumerate(names):
        of_site = sites[sites.site == number]
        curves[name] = TrueCurve(of_site.energy_ev, of_site.fp + 1j * of_site.fdp)
    return curves


def true_detector(manifest: Path) -> Detector | None:
    """Return where the detector of a run truly was; None where the run was not simulated."""
    for path, _ in _files(manifest):
        with _opened(path) as group:
            if group is None:
                return None
            return Detector.from_json(json.loads(group.attrs["detector"]))
    return None


def _files(manifest: Path) -> Iterator[tuple[Path, np.ndarray | None]]:
    """Yield the image files of a run that can be opened, each with the identities that it gives its
    shots.
    """
    yield from _opening(manifest.parent, images.read_manifest(manifest).files)


def _opening(
    folder: Path, files: Sequence[ManifestFile]
) -> Iterator[tuple[Path, np.ndarray | None]]:
    """Yield those of some files of a manifest that can be opened, as `_files`."""
    for entry in files:
        path = folder / entry.path
        if not path.is_file():
            continue
        shot_ids = None
        if h5py.is_hdf5(path):
            try:
                shot_ids = nexus.stored_shot_ids(path)
            except FileError:
                continue
        yield path, shot_ids


@contextmanager
def _opened(path: Path) -> Iterator[h5py.Group | None]:
    """Yield the truth of an image file, or None where it has none, as files of experiments."""
    if not h5py.is_hdf5(path):
        yield None
        return
    with h5py.File(path, "r", locking=False) as f:
        yield f.get(GROUP)
