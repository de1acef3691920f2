"""The runs of a trial: their manifests, and the truth of those that were simulated."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from spreadflow.io import images
from spreadflow.io.truth import read_truth
from spreadflow.products import Truth

MOST_RUNS = 8
"""Runs whose truth is kept in memory from picture to picture."""


def manifest_of(run: str, manifests: Sequence[Path]) -> Path | None:
    """Return the manifest of a run, or None where it is not among these."""
    return next((path for path in manifests if images.read_manifest(path).run == run), None)


@lru_cache(MOST_RUNS)
def truth_in(manifest: Path) -> Truth | None:
    """Return the truth of the run of a manifest, or None where it was not simulated. It is read
    once for the pictures of all stages: nobody may change it.
    """
    return read_truth(manifest)


def truth_of(run: str, manifests: Sequence[Path]) -> Truth | None:
    """Return the truth of a run, or None where it was not simulated or has no manifest among
    these.
    """
    manifest = manifest_of(run, manifests)
    return truth_in(manifest) if manifest else None
