"""The runs of a trial: their manifests, and what the files of a simulated run tell of its truth."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io import images, schema
from spreadflow.io.nexus import NexusFile
from spreadflow.models import Detector


def manifest_of(run: str, manifests: Sequence[Path]) -> Path | None:
    """Return the manifest of a run, or None where it is not among these."""
    return next((path for path in manifests if images.read_manifest(path).run == run), None)


def truth_of(run: str, manifests: Sequence[Path]) -> dict[str, np.ndarray] | None:
    """Return the truth (columns of schema 'truth') of a run, or None where it was not simulated or
    has no manifest among these.
    """
    manifest = manifest_of(run, manifests)
    return images.truth(manifest) if manifest else None


class TrueCurve(NamedTuple):
    """f' + i f'' of a simulated site."""

    energies_ev: np.ndarray
    """(channel,)"""
    values: np.ndarray
    """(channel,) complex128, e"""

    def at(self, energies_ev: np.ndarray) -> np.ndarray:
        """Return (2, n) f' and f'' at some energies, linear between channels."""
        parts = (self.values.real, self.values.imag)
        return np.array([np.interp(energies_ev, self.energies_ev, part) for part in parts])


def true_curves(manifest: Path) -> dict[str, TrueCurve]:
    """Return the curve of each site of a simulated run; empty where they are not known."""
    return _read_truth(manifest, _curves) or {}


def true_detector(manifest: Path) -> Detector | None:
    """Return where the detector of a simulated run truly was, or None where that is not known."""
    detector = _read_truth(manifest, lambda group: group.attrs.get("detector"))
    return None if detector is None else Detector.from_json(json.loads(detector))


def _curves(group: h5py.Group) -> dict[str, TrueCurve] | None:
    """Return the curve of each site from a file's truth, or None where it holds none."""
    if "curves" not in group:
        return None
    site, energy, fp, fdp = (group[name][()] for name in schema.FILES["true_curves"])
    names = json.loads(group.attrs["sites"])
    values = fp + 1j * fdp
    return {
        name: TrueCurve(energy[site == number], values[site == number])
        for number, name in enumerate(names)
    }


def _read_truth(manifest: Path, read: Callable[[h5py.Group], Any]) -> Any:
    """Return what `read` finds in the truth of a run's first file that can be opened; None where
    that has no truth.
    """
    for entry in images.read_manifest(manifest).files:
        try:
            file = NexusFile(manifest.parent / entry.path)
        except FileError:
            continue
        with file:
            return None if file.truth is None else read(file.truth)
    return None
