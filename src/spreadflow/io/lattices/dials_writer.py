"""DIALS experiment lists (.expt) written without DIALS.

The hierarchy of a detector has one level below the laboratory frame: a panel's numbers are
laboratory numbers, digit by digit.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow.io import store
from spreadflow.io.lattices.dials import LENGTH_SIGMA, PARALLAX, SURFACE
from spreadflow.io.panels import Sensor
from spreadflow.models import Detector

Numbers = Iterable[float]
"""A few numbers, in a tuple or an array."""

TRUSTED_RANGE = (-100.0, 2e9)
"""ADU; trusted range of detectors of which none is known."""


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
    length_sigma: float | None = None,
) -> None:
    """Write one experiment with a beam and the detector.

    wavelength: Å. polarization: Kahn's K along the lab x axis. trusted_range: ADU. Floats are
    written so that they read back bit by bit; the attenuation length is kept as `mu`. No parallax
    correction is asked of a reader. length_sigma: relative standard deviation of the distance, for
    `read_length_sigma`; other programs do not look for it.
    """
    experiments = _experiment_list(
        experiment=[{"__id__": "Experiment", "identifier": "", "beam": 0, "detector": 0}],
        beam=[_beam(wavelength, polarization)],
        detector=[_detector_tree(detector, trusted_range)],
    )
    if length_sigma is not None:
        experiments[LENGTH_SIGMA] = float(length_sigma)
    with store.replacing(Path(path)) as temporary:
        temporary.write_text(json.dumps(experiments, indent=2) + "\n")


def write_stills(path: Path | str, stills: Iterable[Still], detectors: Iterable[Detector]) -> None:
    """Write an experiment for each lattice; those of one shot, which follow each other, share beam
    and image.
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
    trees = [_detector_tree(detector, TRUSTED_RANGE) for detector in detectors]
    with store.replacing(Path(path)) as temporary:
        temporary.write_text(json.dumps(_experiment_list(**lists, detector=trees)) + "\n")


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


def _detector_tree(detector: Detector, trusted_range: tuple[float, float]) -> dict[str, Any]:
    """Return a detector as the file has it."""
    panels = [_panel(detector, panel, trusted_range) for panel in range(detector.n_panels)]
    laboratory = _frame_keys("Detector", "", fast=(1, 0, 0), slow=(0, 1, 0), origin=(0, 0, 0))
    no_sensor = _sensor_keys(
        size=(0, 0), pixel_mm=(0, 0), trusted_range=(0, 0), sensor=Sensor(), material=""
    )
    children = [{"panel": panel} for panel in range(detector.n_panels)]
    return {"panels": panels, "hierarchy": laboratory | no_sensor | {"children": children}}


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


def _panel(detector: Detector, panel: int, trusted_range: tuple[float, float]) -> dict[str, Any]:
    """Return a panel as the file has it."""
    slow, fast = detector.shape
    pixel_mm = float(detector.pixel_mm)
    frame = _frame_keys(
        name=f"panel{panel}",
        kind="SENSOR_PAD",
        fast=detector.fast[panel],
        slow=detector.slow[panel],
        origin=detector.origin_mm[panel],
    )
    sensor = _sensor_keys(
        size=(fast, slow),
        pixel_mm=(pixel_mm, pixel_mm),
        trusted_range=trusted_range,
        sensor=Sensor(
            float(detector.thickness_mm),
            float(detector.attenuation_mm),
            has_parallax=detector.parallax_mm is not None,
        ),
        material="Si",
    )
    return frame | sensor


def _frame_keys(
    name: str, kind: str, fast: Numbers, slow: Numbers, origin: Numbers
) -> dict[str, Any]:
    """Return the keys that say where a panel, or a level of the hierarchy, is."""
    return {
        "name": name,
        "type": kind,
        "fast_axis": [float(x) for x in fast],
        "slow_axis": [float(x) for x in slow],
        "origin": [float(x) for x in origin],
    }


def _sensor_keys(
    size: Numbers,
    pixel_mm: Numbers,
    trusted_range: Numbers,
    sensor: Sensor,
    material: str,
) -> dict[str, Any]:
    """Return the keys that say what a panel is. size, pixel_mm: (fast, slow)."""
    return {
        "raw_image_offset": [0, 0],
        "image_size": [int(n) for n in size],
        "pixel_size": [float(x) for x in pixel_mm],
        "trusted_range": [float(x) for x in trusted_range],
        "thickness": sensor.thickness_mm,
        "material": material,
        "mu": 1 / sensor.attenuation_mm if sensor.attenuation_mm else 0.0,
        "identifier": "",
        "mask": [],
        "gain": 1.0,
        "pedestal": 0.0,
        "px_mm_strategy": {"type": PARALLAX if sensor.has_parallax else SURFACE},
    }
