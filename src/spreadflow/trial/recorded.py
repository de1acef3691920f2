"""Files that recorded runs are read from beside their images, as their manifests name them. The
images themselves are what a manifest describes, by size and checksum.
"""

import json
import re
from functools import cache
from pathlib import Path

NAMED = ("geometry", "mask", "calibration")
"""Keys of a manifest that name a file, absolute or relative to the manifest."""

MASK_FILE = re.compile(r"^[^;\n=]*\bmask\d?_file\s*=\s*([^;\n]+)", re.MULTILINE)
"""A line of a CrystFEL geometry file that names a mask, relative to it."""


def files_beside(manifest: Path) -> list[str]:
    """Return the files that a manifest names beside the images, and the masks that its geometry
    names. What is not there is left out, as is all where there is no manifest: the stages say so.
    """
    try:
        files = _named(manifest, manifest.stat().st_mtime_ns)
    except (OSError, ValueError):
        return []
    return [str(file) for file in files if file.is_file()]


@cache
def _named(manifest: Path, _: int) -> tuple[Path, ...]:
    """Return the files that a manifest and its geometry name, none twice; read once for each time
    at which the manifest was written. Raises OSError or ValueError where it can't be read.
    """
    content = json.loads(manifest.read_bytes())
    if not isinstance(content, dict):
        return ()
    names = {key: content[key] for key in NAMED if isinstance(content.get(key), str)}
    paths = {key: manifest.parent / name for key, name in names.items()}
    files = list(paths.values())
    if "geometry" in paths and paths["geometry"].is_file():
        geometry = paths["geometry"]
        text = geometry.read_text("latin-1")
        files += [geometry.parent / name.strip() for name in MASK_FILE.findall(text)]
    return tuple(dict.fromkeys(files))
