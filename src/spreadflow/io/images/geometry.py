"""Geometry of the detector in a file of its own, in place of that in the headers of images: a DIALS
experiment list (.expt) or a CrystFEL geometry file (.geom), told by content.
"""

from pathlib import Path

from spreadflow.errors import FileError
from spreadflow.io.images.geom import Geom
from spreadflow.io.images.geom_masks import mask_files
from spreadflow.io.lattices import dials
from spreadflow.models import Detector

Geometry = Detector | Geom
"""The detector of an experiment list, or a geometry file, whose detector may depend on images."""


def read_geometry(path: Path | str) -> Geometry:
    """Return the geometry in a file. Raises FileError."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            first = file.read(100)
    except OSError as error:
        expected = "a geometry, .expt or .geom"
        raise FileError(path, expected, error, "Check the path.") from None
    return dials.read_expt(path) if first.lstrip().startswith(b"{") else Geom(path)


def files_of_geometry(path: Path | str, geometry: Geometry) -> list[Path]:
    """Return the files that a geometry consists of: its own, and those of masks that it names.
    Raises FileError for one that is missing.
    """
    masks = mask_files(geometry) if isinstance(geometry, Geom) else []
    for mask in masks:
        if not mask.is_file():
            todo = "Put it there, or correct its name."
            raise FileError(mask, f"the mask that {path} names", "no such file", todo)
    return [Path(path), *masks]
