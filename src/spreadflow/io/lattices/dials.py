"""DIALS ExperimentList JSON (.expt), read without DIALS: experiments, with the detectors of
`hierarchy`.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gemmi
import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.hierarchy import detector_of
from spreadflow.models import Detector
from spreadflow.physics import geometry

TODO = "Take an experiment list as DIALS or `spreadflow level0` writes it."
"""What to do about a file that is no experiment list."""

SEQUENCES = ("ImageSequence", "ImageSweep")
"""What DIALS calls, and called until 2019, an imageset whose images are numbered by scans; others
list theirs.
"""

PARTS = ("crystal", "beam", "detector")
"""What an experiment must have to be a lattice of a still."""

SAME_DETECTOR_PX = 0.01
"""Distance of corresponding panel corners up to which two detectors are the same."""

PICKLE = b"\x80"
"""First byte of Python's pickles, as DIALS wrote its tables until 2019; no list or table of today
begins with it.
"""

LENGTH_SIGMA = "spreadflow_length_sigma"
"""Key of a file for the relative standard deviation of the detector's distance."""


def read_length_sigma(path: Path | str) -> float | None:
    """Return the relative standard deviation that the detector's distance gives all lengths of
    cells, None where the file does not say.
    """
    path = Path(path)
    with _explained(path, "a detector"):
        sigma = json.loads(path.read_text(encoding="utf-8")).get(LENGTH_SIGMA)
        return None if sigma is None else float(sigma)


def read_expt(path: Path | str) -> Detector:
    """Return the detector of an experiment list, in the lab frame, hierarchies resolved.

    Several detectors that are the same, within `SAME_DETECTOR_PX`, are one. Raises FileError where
    the file is none, has several others, a tilted beam, or panels that differ in shape.
    """
    path = Path(path)
    with _explained(path, "a detector"):
        tree = _tree(path)
        numbers = sorted({experiment["detector"] for experiment in tree["experiment"]})
        for beam in tree["beam"]:
            _check_beam(path, beam)
        detectors = [detector_of(path, tree["detector"][number]) for number in numbers]
    if not detectors:
        raise FileError(path, "experiments with a detector", "no experiment", TODO)
    for number, other in zip(numbers, detectors, strict=True):
        away_px = geometry.corner_distance_px(other, detectors[0])
        if away_px > SAME_DETECTOR_PX:
            expected = "experiments that share one detector"
            found = f"detector {number} with a panel {away_px:.3g} px from that of the first"
            raise FileError(path, expected, found, TODO)
    return detectors[0]


class Experiment(NamedTuple):
    """One lattice of a still, as DIALS indexed it."""

    identifier: str
    """that the reflections of this lattice carry too; may be empty"""
    image: Path
    """the file, as the list names it; relative names are of the list's folder. The list itself
    where it names none, as some of 2017
    """
    frame: int
    """in that file; number of the experiment in a list without images"""
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
        """Return an experiment. Raises FileError for one without crystal, beam or detector, or with
        several images.
        """
        where = f"{self.path}, experiment {n}"
        with _explained(where, "a crystal, a beam and a detector"):
            experiment = self._tree["experiment"][n]
            missing = [part for part in PARTS if part not in experiment]
            if missing:
                expected = f"an experiment with {', '.join(PARTS)}"
                todo = "Take the list as indexing or refinement wrote it."
                raise FileError(where, expected, f"one without {', '.join(missing)}", todo)
            crystal = self._tree["crystal"][experiment["crystal"]]
            beam = self._tree["beam"][experiment["beam"]]
            _check_beam(where, beam)
            image, frame = self._image(where, n, experiment)
            return Experiment(
                identifier=str(experiment.get("identifier", "")),
                image=image,
                frame=frame,
                A=_reciprocal(where, crystal),
                hall=_hall(where, crystal),
                wavelength=float(beam["wavelength"]),
                detector=self._detector(experiment["detector"]),
            )

    def _image(self, where: str, n: int, experiment: dict[str, Any]) -> tuple[Path, int]:
        """Return the file and the frame of an experiment. Raises FileError for several images."""
        if "imageset" not in experiment:
            return self.path, n
        imageset = self._tree["imageset"][experiment["imageset"]]
        if imageset.get("__id__") in SEQUENCES:
            scan = self._tree["scan"][experiment["scan"]]
            image, frame = _image_of_sequence(where, imageset["template"], scan)
        else:
            image, frame = _image_of_set(where, imageset)
        return self.path.parent / image, frame

    def _detector(self, number: int) -> Detector:
        """Return a detector of the list, read once; the same object for all that are the same."""
        if number not in self._detectors:
            new = detector_of(self.path, self._tree["detector"][number])
            self._detectors[number] = next(
                (
                    known
                    for known in self._detectors.values()
                    if geometry.corner_distance_px(new, known) <= SAME_DETECTOR_PX
                ),
                new,
            )
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
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        expected = f"a DIALS ExperimentList with {needed}"
        raise FileError(where, expected, repr(error), TODO) from None


def _tree(path: Path) -> dict[str, Any]:
    """Return the content of an experiment list. Raises FileError where it is something else."""
    content = path.read_bytes()
    refuse_pickle(path, content)
    tree = json.loads(content)
    if tree["__id__"] != "ExperimentList":
        raise FileError(path, "a DIALS ExperimentList", tree["__id__"], TODO)
    return tree


def refuse_pickle(path: Path, content: bytes) -> None:
    """Raise FileError for a file of DIALS 1, which only DIALS can read. content: of the file."""
    if content.startswith(PICKLE):
        todo = (
            "Convert it once, in dials.python: from dials.array_family import flex; "
            f"flex.reflection_table.from_file('{path.name}').as_file('{path.stem}.refl')."
        )
        raise FileError(path, "a file of DIALS 2 or later", "a pickle, as DIALS 1 wrote", todo)


def _check_beam(where: object, beam: dict) -> None:
    """Raise FileError where a beam is tilted, or has a wavelength that is none."""
    length = beam.get("wavelength")
    if length is not None and not 0 < length < np.inf:
        raise FileError(where, "a beam with a positive wavelength", length, TODO)
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
