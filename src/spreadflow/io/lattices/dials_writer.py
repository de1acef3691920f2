"""DIALS experiment lists (.expt) written without DIALS, with the detectors of `hierarchy`."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow.io import store
from spreadflow.io.hierarchy import TRUSTED_RANGE, detector_tree
from spreadflow.io.lattices.dials import LENGTH_SIGMA
from spreadflow.models import Detector


class Still(NamedTuple):
    """A lattice of a still, to be written as an experiment."""

    identifier: str
    """that its reflections carry too"""
    image: str
    """the file; relative names are of the list's folder"""
    frame: int
    """in that file"""
    detector: int
    """number of its detector"""
    wavelength: float
    """of the beam, Å"""
    polarization: float
    """Kahn's K along the lab x axis"""
    A: np.ndarray
    """(3, 3) columns a*, b*, c* in the lab frame, Å⁻¹"""
    hall: str
    """Hall symbol of its space group"""


def write_expt(
    path: Path | str,
    detector: Detector,
    *,
    wavelength: float,
    polarization: float = 1.0,
    trusted_range: tuple[float, float] = TRUSTED_RANGE,
    material: str = "",
    length_sigma: float | None = None,
) -> None:
    """Write one experiment with a beam and the detector.

    wavelength: Å. polarization: Kahn's K along the lab x axis. trusted_range: ADU. material: of the
    sensor; empty = not known. length_sigma: relative standard deviation of the distance, for
    `read_length_sigma`; other programs do not look for it.

    Floats are written so that they read back bit by bit; the attenuation length is kept as `mu`. No
    parallax correction is asked of a reader.
    """
    experiments = _experiment_list(
        experiment=[{"__id__": "Experiment", "identifier": "", "beam": 0, "detector": 0}],
        beam=[_beam(wavelength, polarization)],
        detector=[detector_tree(detector, trusted_range, material)],
    )
    if length_sigma is not None:
        experiments[LENGTH_SIGMA] = float(length_sigma)
    store.write_text(path, json.dumps(experiments, indent=2) + "\n")


def write_stills(
    path: Path | str, stills: Iterable[Still], detectors: Iterable[tuple[Detector, str]]
) -> None:
    """Write an experiment for each lattice; those of one shot, which follow each other, share beam
    and image. detectors: each with the material of its sensor; empty = not known.
    """
    lists: dict[str, list] = {"experiment": [], "beam": [], "imageset": [], "crystal": []}
    last = None
    for number, still in enumerate(stills):
        shot = (still.image, still.frame)
        if shot != last:
            lists["beam"].append(_beam(still.wavelength, still.polarization))
            lists["imageset"].append(_imageset(still))
            last = shot
        lists["crystal"].append(_crystal(still))
        of_shot = len(lists["beam"]) - 1
        lists["experiment"].append(
            {
                "__id__": "Experiment",
                "identifier": still.identifier,
                "beam": of_shot,
                "detector": still.detector,
                "crystal": number,
                "imageset": of_shot,
            }
        )
    trees = [detector_tree(detector, TRUSTED_RANGE, material) for detector, material in detectors]
    store.write_text(path, json.dumps(_experiment_list(**lists, detector=trees)) + "\n")


def _experiment_list(**lists: list) -> dict[str, Any]:
    """Return an experiment list of which some lists are filled."""
    names = (
        "experiment",
        "imageset",
        "beam",
        "detector",
        "goniometer",
        "scan",
        "crystal",
        "profile",
        "scaling_model",
    )
    return {"__id__": "ExperimentList", **{name: lists.get(name, []) for name in names}}


def _imageset(still: Still) -> dict[str, Any]:
    """Return the one image of a still."""
    return {
        "__id__": "ImageSet",
        "images": [still.image],
        "single_file_indices": [still.frame],
        "mask": "",
        "gain": "",
        "pedestal": "",
        "dx": "",
        "dy": "",
        "params": {},
    }


def _crystal(still: Still) -> dict[str, Any]:
    """Return a crystal."""
    direct = np.linalg.inv(still.A)
    axes = {f"real_space_{name}": axis.tolist() for name, axis in zip("abc", direct, strict=True)}
    return {"__id__": "crystal", **axes, "space_group_hall_symbol": still.hall}


def _beam(wavelength: float, polarization: float) -> dict[str, Any]:
    """Return a beam along the lab z axis."""
    return {
        "__id__": "monochromatic",
        "direction": [0.0, 0.0, 1.0],
        "wavelength": float(wavelength),
        "divergence": 0.0,
        "sigma_divergence": 0.0,
        "polarization_normal": [0.0, 1.0, 0.0],
        "polarization_fraction": (1 + polarization) / 2,
        "flux": 0.0,
        "transmission": 1.0,
    }
