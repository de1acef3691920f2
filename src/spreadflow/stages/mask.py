"""mask: the pixels of a run that can't be used, found from many of its shots, each kind by name.

This is no stage of the workflow: what it writes is offered, and used where a manifest or a
configuration names it.
"""

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spreadflow.analysis.recording import estimates, shadows
from spreadflow.analysis.recording.estimates import Stated
from spreadflow.analysis.recording.unusable import NAMES, Kind, Unusable
from spreadflow.errors import FileError
from spreadflow.io import images, store
from spreadflow.io.images import Source
from spreadflow.models import Detector


class Request(NamedTuple):
    """What the user says."""

    manifest: Path
    n_shots: int
    """that are looked at, at most"""
    edge_px: int
    """pixels along the edges of panels that are left out"""
    out: Path


class Masked(NamedTuple):
    """What became of it."""

    figures: dict[str, Any]
    """of the JSON"""
    unusable: Unusable
    mean: np.ndarray
    """(panel, slow, fast) photons of the shots that are held"""
    detector: Detector


def run(request: Request, at: Callable[[int], None]) -> Masked:
    """Write the mask of a run and its figures. at: is called with the number of shots looked at.
    Raises FileError where no shot can be read.
    """
    source = Source(request.manifest)
    shots = _shots(source, request.n_shots, at)
    held = list(islice(shots, images.most_shots(source.detector)))
    if not held:
        todo = "Check where the images are."
        raise FileError(request.manifest, "a shot that can be read", "none", todo)
    usable = np.logical_or.reduce([np.isfinite(image) for image in held])
    stated = Stated(0.0, source.detector, source.polarization)
    found = estimates.estimate(held, usable, stated, shots)
    unusable = _with_the_rest(found.unusable, source, request.edge_px)
    images.write_mask(request.out, unusable.kinds, NAMES)

    figures = _figures(request, source, unusable)
    text = json.dumps(figures, indent=1, ensure_ascii=False)
    store.write_text(request.out.with_suffix(".json"), text + "\n")
    return Masked(figures, unusable, _mean(held), source.detector)


def _shots(source: Source, n_most: int, at: Callable[[int], None]) -> Iterator[np.ndarray]:
    """Yield the photons (panel, slow, fast) of evenly chosen shots that can be read, NaN where a
    pixel is not to be used.
    """
    for number, shot in enumerate(images.evenly(source.n_shots, n_most), 1):
        image = source.recorded(shot)
        at(number)
        if image is not None:
            yield image


def _with_the_rest(unusable: Unusable, source: Source, edge_px: int) -> Unusable:
    """Return unusable pixels with those that the manifest's mask leaves out already, so that the
    new one can take its place, and those at the edges of panels.
    """
    before = source.manifest_mask
    if before is not None:
        unusable = unusable.with_kind(Kind.MASKED, ~before)
    return unusable.with_kind(Kind.EDGE, shadows.edges(unusable.kinds.shape, edge_px))


def _mean(held: list[np.ndarray]) -> np.ndarray:
    """Return the mean of images where they hold numbers, else 0."""
    n = np.maximum(sum(np.isfinite(image).astype(np.int32) for image in held), 1)
    return sum(np.nan_to_num(image) for image in held) / n


def _figures(request: Request, source: Source, unusable: Unusable) -> dict[str, Any]:
    """Return what was found, for the JSON."""
    counts = unusable.counts()
    n_pixels = unusable.kinds.size
    return {
        "run": source.manifest.run,
        "manifest": str(request.manifest),
        "mask": str(request.out),
        "n_shots": source.n_shots,
        "n_shots_looked_at": unusable.n_images,
        "n_panels": source.detector.n_panels,
        "n_pixels": n_pixels,
        "n_masked": sum(counts.values()),
        "share_masked": sum(counts.values()) / n_pixels,
        "kinds": counts,
        "panels": _of_panels(unusable),
        "sentinels": [{"photons": value, "n_pixels": n} for value, n in unusable.sentinels],
        "undecided": list(unusable.undecided),
        "problems": source.problems,
    }


def _of_panels(unusable: Unusable) -> dict[str, list[int]]:
    """Return how many pixels of each kind the panels have, (panel,) of each kind that there is."""
    return {
        name: np.count_nonzero(unusable.kinds == code, axis=(1, 2)).tolist()
        for code, name in enumerate(NAMES)
        if code and np.any(unusable.kinds == code)
    }
