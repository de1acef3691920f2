"""The runs of a trial: their manifests, and the truth of those that were simulated."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from spreadflow.io import images
from spreadflow.io.images import Manifest
from spreadflow.io.truth import read_truth, truth_of_files
from spreadflow.products import Table, Truth

MOST_RUNS = 8
"""Runs whose truth is kept in memory from picture to picture."""

MOST_PARTS = 8
"""Parts of products, of the shots of which the whole truth is kept in memory."""


def manifest_of(run: str, manifests: Sequence[Path]) -> Path | None:
    """Return the manifest of a run, or None where it is not among these."""
    return next((path for path in manifests if images.read_manifest(path).run == run), None)


@lru_cache(MOST_RUNS)
def truth_in(manifest: Path, *, has_domains: bool = False) -> Truth | None:
    """Return the true shots and lattices of the run of a manifest, or None where it was not
    simulated. They are read once for the pictures of all stages: nobody may change them.

    has_domains: with their mosaic domains.
    """
    tables: list[type[Table]] = [Truth.shots, Truth.lattices]
    return read_truth(manifest, [*tables, Truth.domains] if has_domains else tables)


def truth_of(run: str, manifests: Sequence[Path], *, has_domains: bool = False) -> Truth | None:
    """Return the truth of a run as `truth_in`, or None where it was not simulated or has no
    manifest among these.
    """
    manifest = manifest_of(run, manifests)
    return truth_in(manifest, has_domains=has_domains) if manifest else None


@lru_cache(MOST_PARTS)
def whole_truth(manifest: Path, files: tuple[int, ...]) -> Truth:
    """Return the truth of the shots of some image files of a simulated run, with that of its
    reflections; empty where none of them can be opened. Nobody may change it.

    files: their numbers in the manifest.
    """
    stated = _stated(manifest)
    entries = [stated.files[number] for number in files]
    return truth_of_files(manifest.parent, stated.run, entries) or Truth()


@lru_cache(MOST_RUNS)
def _stated(manifest: Path) -> Manifest:
    """Return what a manifest says."""
    return images.read_manifest(manifest)
