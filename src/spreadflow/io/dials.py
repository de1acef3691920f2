"""DIALS ExperimentList JSON (.expt), without DIALS: detectors and experiments written and read.

In these files a panel's axes and origin are relative to its parent in the hierarchy (dxtbx: local
frame). Files written here have one level below the laboratory frame: a panel's numbers are
laboratory numbers, digit by digit.
"""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gemmi
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io import store
from spreadflow.io.panels import THINNEST_MM, Sensor, check
from spreadflow.models import Detector
from spreadflow.physics import symmetry

TODO = "Take an experiment list as DIALS or `spreadflow level0` writes it."
"""What to do about a file that is no experiment list."""

N_DECIMALS = 12
"""Decimals, in mm, to which pixel sizes of panels must agree."""

SURFACE = "SimplePxMmStrategy"
"""What DIALS calls spots that lie where rays meet the surface."""

PARALLAX = "ParallaxCorrectedPxMmStrategy"
"""What DIALS calls spots that lie at the depth at which the sensor absorbs."""

SEQUENCE = "ImageSequence"
"""What DIALS calls an imageset whose images are numbered by scans; others list theirs."""

LENGTH_SIGMA = "spreadflow_length_sigma"
"""Key of a file for the relative standard deviation of the detector's distance."""

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


def write_stills(
    path: Path | str, stills: Iterable[Still], detectors: Iterable[Detector], space_group: str
) -> None:
    """Write an experiment for each lattice; those of one shot, which follow each other, share beam
    and image. space_group: any name gemmi knows.
    """
    hall = symmetry.group(space_group).hall
    lists: dict[str, list] = {"experiment": [], "beam": [], "imageset": [], "crystal": []}
    last = None
    for number, still in enumerate(stills):
        shot = (still.image, still.frame)
        if shot != last:
            lists["beam"].append(_beam(still.wavelength, still.polarization))
            lists["imageset"].append(_imageset(still))
            last = shot
        lists["crystal"].append(_crystal(still.A, hall))
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


def _crystal(A: np.ndarray, hall: str) -> dict[str, Any]:
    """Return a crystal; hall: symbol of its space group."""
    direct = np.linalg.inv(A)
    axes = {f"real_space_{name}": axis.tolist() for name, axis in zip("abc", direct, strict=True)}
    return {"__id__": "crystal", **axes, "space_group_hall_symbol": hall}


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


def read_length_sigma(path: Path | str) -> float | None:
    """Return the relative standard deviation that the detector's distance gives all lengths of
    cells, None where the file does not say.
    """
    path = Path(path)
    with _explained(path, "a detector"):
        sigma = json.loads(path.read_text()).get(LENGTH_SIGMA)
        return None if sigma is None else float(sigma)


def read_expt(path: Path | str) -> Detector:
    """Return the detector of an experiment list, in the lab frame, hierarchies resolved.

    Raises FileError where the file is none, has several detectors, a tilted beam, or panels that
    differ in shape.
    """
    path = Path(path)
    with _explained(path, "a detector"):
        tree = _tree(path)
        numbers = {experiment["detector"] for experiment in tree["experiment"]}
        if len(numbers) != 1:
            expected = "experiments that share one detector"
            raise FileError(path, expected, f"{len(numbers)} detectors", TODO)

        for beam in tree["beam"]:
            _check_direction(path, beam)
        return _detector(path, tree["detector"][numbers.pop()])


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

    @property
    def gain(self) -> float | None:
        """The gain of the first panel, ADU per photon; None where it is 1, as where nobody has set
        it. Raises FileError.
        """
        with _explained(self.path, "a detector"):
            gain = float(self._tree["detector"][0]["panels"][0].get("gain", 1.0))
        return gain if gain > 0 and gain != 1.0 else None

    def __getitem__(self, n: int) -> Experiment:
        """Return an experiment. Raises FileError for one without crystal, beam, detector or a
        single image.
        """
        where = f"{self.path}, experiment {n}"
        with _explained(where, "a crystal, a beam, a detector and an image"):
            experiment = self._tree["experiment"][n]
            crystal = self._tree["crystal"][experiment["crystal"]]
            beam = self._tree["beam"][experiment["beam"]]
            imageset = self._tree["imageset"][experiment["imageset"]]
            _check_direction(where, beam)

            if imageset.get("__id__") == SEQUENCE:
                scan = self._tree["scan"][experiment["scan"]]
                image, frame = _image_of_sequence(where, imageset["template"], scan)
            else:
                image, frame = _image_of_set(where, imageset)
            return Experiment(
                identifier=str(experiment.get("identifier", "")),
                image=self.path.parent / image,
                frame=frame,
                A=_reciprocal(where, crystal),
                hall=_hall(where, crystal),
                wavelength=float(beam["wavelength"]),
                detector=self._detector(experiment["detector"]),
            )

    def _detector(self, number: int) -> Detector:
        """Return a detector of the list, read once."""
        if number not in self._detectors:
            tree = self._tree["detector"][number]
            self._detectors[number] = _detector(self.path, tree)
        return self._detectors[number]


def _image_of_set(where: str, imageset: dict[str, Any]) -> tuple[str, int]:
    """Return the file and the frame of an imageset. Raises FileError for several images."""
    images = imageset["images"]
    if len(images) != 1:
        raise FileError(where, "one image", f"{len(images)} in its imageset", TODO)
    frames = imageset.get("single_file_indices") or [0]
    return str(images[0]), int(frames[0])


def _image_of_sequence(where: str, template: str, scan: dict[str, Any]) -> tuple[str, int]:
    """Return the file and the frame of the one image of a scan, as dials.ssx_index writes stills.
    Raises FileError for several images.

    template: the file of all images, or names of files with number signs for the number of each.
    """
    first, last = map(int, scan["image_range"])
    if first != last:
        raise FileError(where, "one image", f"{first} to {last} in its scan", TODO)
    numbered = re.sub("#+", lambda signs: f"{first:0{len(signs[0])}}", template)
    return numbered, 0 if numbered != template else first - 1


@contextmanager
def _explained(where: object, needed: str) -> Iterator[None]:
    """Run the block; what it raises for a file without the keys, or of another kind, becomes one
    FileError.
    """
    try:
        yield
    except OSError as error:
        raise FileError(where, "an experiment list (.expt)", error, "Check the path.") from None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        expected = f"a DIALS ExperimentList with {needed}"
        raise FileError(where, expected, repr(error), TODO) from None


def _tree(path: Path) -> dict[str, Any]:
    """Return the content of an experiment list. Raises FileError where it is other JSON."""
    tree = json.loads(path.read_text())
    if tree["__id__"] != "ExperimentList":
        raise FileError(path, "a DIALS ExperimentList", tree["__id__"], TODO)
    return tree


def _check_direction(where: object, beam: dict) -> None:
    """Raise FileError where a beam is tilted."""
    if not np.allclose(beam["direction"], [0, 0, 1], atol=1e-9):
        todo = "Refine the detector, not the direction of the beam."
        raise FileError(where, "a beam along the lab z axis", beam["direction"], todo)


def _reciprocal(where: object, crystal: dict) -> np.ndarray:
    """Return (3, 3) A of a crystal's direct axes."""
    axes = [crystal[f"real_space_{name}"] for name in "abc"]
    rows = np.array(axes, dtype=np.float64)
    is_basis = rows.shape == (3, 3) and np.isfinite(rows).all()
    if not is_basis or not np.linalg.det(rows.T) > 0:
        expected = "axes real_space_a, b, c of a right-handed crystal"
        raise FileError(where, expected, rows.tolist(), TODO)
    return np.linalg.inv(rows.T).T


def _hall(where: object, crystal: dict) -> str:
    """Return the Hall symbol of a crystal's space group."""
    hall = str(crystal["space_group_hall_symbol"])
    try:
        gemmi.symops_from_hall(hall)
    except (RuntimeError, ValueError):
        raise FileError(where, "a Hall symbol of a space group", repr(hall), TODO) from None
    return hall


def _detector(path: Path, tree: dict) -> Detector:
    """Return a detector in the lab frame. Raises FileError for one that is not supported."""
    panels = tree["panels"]
    frames: dict[int, np.ndarray] = {}
    if "hierarchy" in tree:
        frames |= _lab_frames(tree["hierarchy"], np.eye(4), panels)
    for number, panel in enumerate(panels):
        frames.setdefault(number, _local_frame(panel))

    kinds = {_kind(panel) for panel in panels}
    pixel_fast, pixel_slow = panels[0]["pixel_size"]
    if len(kinds) != 1 or pixel_fast != pixel_slow:
        expected = "panels of equal shape with square, equal pixels"
        raise FileError(path, expected, sorted(kinds), "Not supported.")

    lab = np.array([frames[number] for number in range(len(panels))])
    fast, slow = panels[0]["image_size"]
    stated_mm = panels[0].get("thickness", 0.0)
    thickness_mm = 0.0 if 0.0 <= stated_mm < THINNEST_MM else stated_mm
    mu = panels[0].get("mu", 0.0)
    strategy = panels[0].get("px_mm_strategy", {}).get("type")
    has_parallax = strategy == PARALLAX and thickness_mm > 0 and mu > 0
    whole = Detector(
        origin_mm=lab[:, :3, 3],
        fast=lab[:, :3, 0],
        slow=lab[:, :3, 1],
        pixel_mm=pixel_fast,
        shape=(slow, fast),
        thickness_mm=thickness_mm,
        attenuation_mm=1 / mu if mu else 0.0,
        parallax_mm=1 / mu if has_parallax else None,
    )
    check(path, whole)
    return whole


def _kind(panel: dict) -> tuple:
    """Return what the panels of a detector must share: shape and sizes of a pixel."""
    sizes_mm = (round(size, N_DECIMALS) for size in panel["pixel_size"])
    return (tuple(panel["image_size"]), *sizes_mm)


def _local_frame(node: dict) -> np.ndarray:
    """Return the (4, 4) transformation from the frame of a node (fast, slow, normal) to that of its
    parent, mm.
    """
    frame = np.eye(4)
    fast, slow, normal, origin = frame[:3].T
    fast[:] = node.get("fast_axis", (1, 0, 0))
    slow[:] = node.get("slow_axis", (0, 1, 0))
    normal[:] = np.cross(fast, slow)
    origin[:] = node.get("origin", (0, 0, 0))
    return frame


def _lab_frames(
    node: dict, parent: np.ndarray, panels: list[dict]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number and the frame in the laboratory of every panel below a node."""
    frame = parent @ _local_frame(node)
    for child in node["children"]:
        if "panel" in child:
            panel = child["panel"]
            yield panel, frame @ _local_frame(panels[panel])
        else:
            yield from _lab_frames(child, frame, panels)
