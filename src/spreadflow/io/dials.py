"""DIALS ExperimentList JSON (.expt), without DIALS: a detector written and read, experiments read.

In these files a panel's axes and origin are relative to its parent in the hierarchy (dxtbx: local
frame). Files written here have one level below the laboratory frame: a panel's numbers are
laboratory numbers, digit by digit.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gemmi
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io import store
from spreadflow.models import Detector

_TODO = "Take an experiment list as DIALS or `spreadflow level0` writes it."


def write_expt(
    path: Path | str,
    detector: Detector,
    *,
    wavelength: float,
    polarization: float = 1.0,
    trusted_range: tuple[float, float] = (-100.0, 2e9),
) -> None:
    """Write one experiment with a beam and the detector.

    wavelength: Å. polarization: Kahn's K along the lab x axis. trusted_range: ADU. Floats are
    written so that they read back bit by bit; the attenuation length is kept as `mu`. No parallax
    correction is asked of a reader.
    """
    panels = [_panel(detector, p, trusted_range) for p in range(detector.n_panels)]
    root = _frame_keys("Detector", "", (1, 0, 0), (0, 1, 0), (0, 0, 0)) | _sensor_keys(
        (0, 0), (0, 0), (0, 0), 0, 0, ""
    )
    experiments = {
        "__id__": "ExperimentList",
        "experiment": [{"__id__": "Experiment", "identifier": "", "beam": 0, "detector": 0}],
        "imageset": [],
        "beam": [_beam(wavelength, polarization)],
        "detector": [
            {
                "panels": panels,
                "hierarchy": root | {"children": [{"panel": p} for p in range(len(panels))]},
            }
        ],
        "goniometer": [],
        "scan": [],
        "crystal": [],
        "profile": [],
        "scaling_model": [],
    }
    with store.replacing(Path(path)) as temporary:
        temporary.write_text(json.dumps(experiments, indent=2) + "\n")


def _beam(wavelength: float, polarization: float) -> dict[str, Any]:
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


def _panel(detector: Detector, p: int, trusted_range: tuple[float, float]) -> dict[str, Any]:
    slow, fast = detector.shape
    pixel = float(detector.pixel_mm)
    mu = 1 / detector.attenuation_mm if detector.attenuation_mm else 0.0
    frame = _frame_keys(
        f"panel{p}", "SENSOR_PAD", detector.fast[p], detector.slow[p], detector.origin_mm[p]
    )
    return frame | _sensor_keys(
        (fast, slow), (pixel, pixel), trusted_range, detector.thickness_mm, mu, "Si"
    )


def _frame_keys(name: str, kind: str, fast, slow, origin) -> dict[str, Any]:
    axes = {"fast_axis": fast, "slow_axis": slow, "origin": origin}
    return {"name": name, "type": kind} | {
        key: [float(x) for x in value] for key, value in axes.items()
    }


def _sensor_keys(
    size, pixel, trusted, thickness: float, mu: float, material: str
) -> dict[str, Any]:
    return {
        "raw_image_offset": [0, 0],
        "image_size": [int(n) for n in size],
        "pixel_size": [float(x) for x in pixel],
        "trusted_range": [float(x) for x in trusted],
        "thickness": float(thickness),
        "material": material,
        "mu": float(mu),
        "identifier": "",
        "mask": [],
        "gain": 1.0,
        "pedestal": 0.0,
        "px_mm_strategy": {"type": "SimplePxMmStrategy"},
    }


def read_expt(path: Path | str) -> Detector:
    """Return the detector of an experiment list, in the lab frame, hierarchies resolved.

    Raises FileError where the file is none, has several detectors, a tilted beam, or panels that
    differ in shape.
    """
    path = Path(path)
    with _explained(path, "a detector"):
        tree = _tree(path)
        used = {e["detector"] for e in tree["experiment"]}
        if len(used) != 1:
            raise FileError(
                path, "experiments that share one detector", f"{len(used)} detectors", _TODO
            )
        for beam in tree["beam"]:
            _check_direction(path, beam)
        return _detector(path, tree["detector"][used.pop()])


class Experiment(NamedTuple):
    """One lattice of a still, as DIALS indexed it."""

    identifier: str
    """that the reflections of this lattice carry too; may be empty"""
    image: Path
    """the file, as the list names it; relative names are of the list's folder"""
    frame: int
    """in that file"""
    A: np.ndarray
    """(3, 3) columns a*, b*, c* in the lab frame, Å⁻¹"""
    hall: str
    """Hall symbol of the space group"""
    wavelength: float
    """of the beam, Å"""
    detector: Detector


class ExperimentList:
    """The experiments of a file, one read when it is asked for. Raises FileError where the file is
    none.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._detectors: dict[int, Detector] = {}
        with _explained(self.path, "experiments"):
            self._tree = _tree(self.path)
            self._n = len(self._tree["experiment"])

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, n: int) -> Experiment:
        """Return raises FileError for one without crystal, beam, detector or a single image."""
        where = f"{self.path}, experiment {n}"
        with _explained(where, "a crystal, a beam, a detector and an image"):
            told = self._tree["experiment"][n]
            crystal, beam, images = (
                self._tree[name][told[name]] for name in ("crystal", "beam", "imageset")
            )
            _check_direction(where, beam)
            if len(images["images"]) != 1:
                raise FileError(
                    where, "one image", f"{len(images['images'])} in its imageset", _TODO
                )
            return Experiment(
                str(told.get("identifier", "")),
                self.path.parent / images["images"][0],
                int((images.get("single_file_indices") or [0])[0]),
                _reciprocal(where, crystal),
                _hall(where, crystal),
                float(beam["wavelength"]),
                self._detector(told["detector"]),
            )

    def _detector(self, number: int) -> Detector:
        if number not in self._detectors:
            self._detectors[number] = _detector(self.path, self._tree["detector"][number])
        return self._detectors[number]


@contextmanager
def _explained(where: object, needed: str) -> Iterator[None]:
    """Yield what a file without the keys, or of another kind, raises becomes one FileError."""
    try:
        yield
    except OSError as error:
        raise FileError(where, "an experiment list (.expt)", error, "Check the path.") from None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise FileError(
            where, f"a DIALS ExperimentList with {needed}", repr(error), _TODO
        ) from None


def _tree(path: Path) -> dict[str, Any]:
    tree = json.loads(path.read_text())
    if tree["__id__"] != "ExperimentList":
        raise FileError(path, "a DIALS ExperimentList", tree["__id__"], _TODO)
    return tree


def _check_direction(where: object, beam: dict) -> None:
    if not np.allclose(beam["direction"], [0, 0, 1], atol=1e-9):
        todo = "Refine the detector, not the direction of the beam."
        raise FileError(where, "a beam along the lab z axis", beam["direction"], todo)


def _reciprocal(where: object, crystal: dict) -> np.ndarray:
    """Return (3, 3) A of a crystal's direct axes."""
    basis = np.array([crystal[f"real_space_{axis}"] for axis in "abc"], dtype=np.float64).T
    if basis.shape != (3, 3) or not np.isfinite(basis).all() or not np.linalg.det(basis) > 0:
        raise FileError(
            where, "axes real_space_a, b, c of a right-handed crystal", basis.T.tolist(), _TODO
        )
    return np.linalg.inv(basis).T


def _hall(where: object, crystal: dict) -> str:
    hall = str(crystal["space_group_hall_symbol"])
    try:
        gemmi.symops_from_hall(hall)
    except (RuntimeError, ValueError):
        raise FileError(where, "a Hall symbol of a space group", repr(hall), _TODO) from None
    return hall


def _detector(path: Path, tree: dict) -> Detector:
    panels = tree["panels"]
    frames = dict(_placed(tree["hierarchy"], np.eye(4), panels)) if "hierarchy" in tree else {}
    for p, panel in enumerate(panels):
        frames.setdefault(p, _local(panel))
    kinds = {(tuple(p["image_size"]), *(round(x, 12) for x in p["pixel_size"])) for p in panels}
    if len(kinds) != 1 or panels[0]["pixel_size"][0] != panels[0]["pixel_size"][1]:
        raise FileError(
            path, "panels of equal shape with square, equal pixels", sorted(kinds), "Not supported."
        )
    lab = np.array([frames[p] for p in range(len(panels))])
    fast, slow = panels[0]["image_size"]
    mu = panels[0].get("mu", 0.0)
    return Detector(
        lab[:, :3, 3],
        lab[:, :3, 0],
        lab[:, :3, 1],
        panels[0]["pixel_size"][0],
        (slow, fast),
        panels[0].get("thickness", 0.0),
        1 / mu if mu else 0.0,
    )


def _local(node: dict) -> np.ndarray:
    """Return (4, 4): from the node's frame (fast, slow, normal) to its parent's, mm."""
    out = np.eye(4)
    out[:3, 0] = node.get("fast_axis", (1, 0, 0))
    out[:3, 1] = node.get("slow_axis", (0, 1, 0))
    out[:3, 2] = np.cross(out[:3, 0], out[:3, 1])
    out[:3, 3] = node.get("origin", (0, 0, 0))
    return out


def _placed(node: dict, parent: np.ndarray, panels: list[dict]):
    """Yield (panel number, lab frame) of every panel below a node."""
    frame = parent @ _local(node)
    for child in node["children"]:
        if "panel" in child:
            yield child["panel"], frame @ _local(panels[child["panel"]])
        else:
            yield from _placed(child, frame, panels)
