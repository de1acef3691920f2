"""Images of runs: manifests, the shots that they name, and the readers of image files."""

from spreadflow.io.images.formats import ImageFile, format_of, open_image
from spreadflow.io.images.geometry import Geometry, read_geometry
from spreadflow.io.images.kept import KeptArrays
from spreadflow.io.images.manifest import (
    DetectorSettings,
    Manifest,
    ManifestFile,
    StatedSensor,
    check_manifest,
    expand,
    geometry_of,
    is_manifest,
    read_manifest,
    shot_id,
    write_manifest,
)
from spreadflow.io.images.sample import Sample, evenly, most_shots, read_sample, write_mask
from spreadflow.io.images.source import Source, open_indexed, open_source, read_again, read_mask

__all__ = [
    "DetectorSettings",
    "Geometry",
    "ImageFile",
    "KeptArrays",
    "Manifest",
    "ManifestFile",
    "Sample",
    "Source",
    "StatedSensor",
    "check_manifest",
    "evenly",
    "expand",
    "format_of",
    "geometry_of",
    "is_manifest",
    "most_shots",
    "open_image",
    "open_indexed",
    "open_source",
    "read_again",
    "read_geometry",
    "read_manifest",
    "read_mask",
    "read_sample",
    "shot_id",
    "write_manifest",
    "write_mask",
]
