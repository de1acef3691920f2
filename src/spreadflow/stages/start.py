"""start: from image files to a manifest and a configuration that works, with what the images say of
their detector.

This is no stage of the workflow: it writes what the workflow begins with.
"""

import json
from pathlib import Path
from typing import NamedTuple

from spreadflow.analysis.recording import estimates
from spreadflow.analysis.recording.estimates import Estimates, Settled, SpotSettings, Stated
from spreadflow.analysis.recording.unusable import NAMES
from spreadflow.config import parse
from spreadflow.errors import ConfigError, FileError
from spreadflow.io import images, store
from spreadflow.io.images import Manifest, Sample

FEW_SHOTS = 10
"""Shots of a run, fewer than which two lattices have to be enough for a population of cells."""

FOR_FEW = (
    "cells:",
    "  # these shots are few: two lattices that are alike are a population",
    "  min_samples: 2",
)
"""Lines of their configuration."""


class Request(NamedTuple):
    """What the user says."""

    images: list[Path]
    run: str
    data: Path
    """folder of the runs"""
    config: Path
    """the file to write"""
    cell: list[float] | None
    """a b c (Å) α β γ (degrees)"""
    space_group: str | None
    geometry: Path | None = None
    """.expt or .geom in place of the headers'"""


class Started(NamedTuple):
    """What was written, and what the user should know."""

    manifest: Path
    config: Path
    remarks: list[str]
    missing: list[str]
    """keys that the user has to set before the first job"""


def run(request: Request) -> Started:
    """Write manifest, mask and configuration of a run. Raises FileError where an image can't be
    read, or the configuration, or a run of this name with other images, is there already;
    ConfigError for a cell, group or name that is none.
    """
    if request.config.exists():
        todo = "Remove it, or name another with --config."
        raise FileError(request.config, "no file of this name", "one", todo)
    parse({"trial": request.run}, "--run")
    _check_other_images(request)
    crystal = _checked_crystal(request)
    geometry = request.geometry
    instead = None if geometry is None else images.read_geometry(geometry)
    sample = images.read_sample(request.images, instead)
    offset_adu, adu_per_photon = sample.pedestal
    stated = Stated(offset_adu, sample.detector, sample.polarization)
    found = estimates.estimate(sample.frames, sample.usable, stated)
    settled = estimates.settle(found.gain, offset_adu, adu_per_photon)
    spots = estimates.spot_settings(found, settled.offset_adu, settled.adu_per_photon)

    folder = request.data / request.run
    mask = None
    if found.unusable.all.any():
        mask = folder / "mask.h5"
        images.write_mask(mask, found.unusable.kinds, NAMES)
    manifest = images.write_manifest(
        folder / "manifest.json",
        request.run,
        request.images,
        offset_adu=settled.offset_adu,
        adu_per_photon=settled.adu_per_photon,
        bandwidth=estimates.ASSUMED_BANDWIDTH if sample.n_channels == 1 else None,
        geometry=geometry,
        mask=mask,
    )
    remarks = _remarks(sample, found, settled, manifest)
    n_shots = sum(file.n_frames for file in manifest.files)
    text = _config_text(request, crystal, spots, n_shots, remarks)
    store.write_text(request.config, text)
    missing = [key for key, value in crystal.items() if value is None]
    return Started(folder / "manifest.json", request.config, remarks, missing)


def _check_other_images(request: Request) -> None:
    """Raise FileError where a run of this name has other images."""
    path = request.data / request.run / "manifest.json"
    if not path.exists():
        return
    own = {image.resolve() for image in request.images}
    there = {(path.parent / file.path).resolve() for file in images.read_manifest(path).files}
    if there != own:
        found = f"{len(there - own)} others of {len(there)}"
        todo = "Name another run with --run, or remove it."
        raise FileError(path, "the same images, as a run of this name is there", found, todo)


def _checked_crystal(request: Request) -> dict[str, list[float] | str | None]:
    """Return the target's space group and cell, None where not stated. Raises ConfigError."""
    stated = {"space_group": request.space_group, "cell": request.cell}
    if None in stated.values():
        if any(stated.values()):
            expected = "both, or neither, which are then to be set in the configuration"
            where = "--cell, --space-group"
            raise ConfigError(where, expected, "one of them", "Give the other one too.")
        return stated
    checked = parse({"index": stated}, "--cell, --space-group")
    return {name: getattr(checked.index, name) for name in stated}


def _remarks(sample: Sample, found: Estimates, settled: Settled, manifest: Manifest) -> list[str]:
    """Return what was found, assumed, or differs from what the files state, a sentence each."""
    remarks = list(settled.remarks)
    if found.gain is None:
        remarks.append("gain: the pixels don't tell it; what the files state is taken")
    elif not any(remark.startswith("gain") for remark in remarks):
        remarks.append(
            f"gain: {manifest.adu_per_photon:g} ADU per photon, as stated or for want of a "
            f"statement; {found.gain.method} says {found.gain.adu_per_photon:.3g}"
        )
    counts = {name: n for name, n in found.unusable.counts().items() if n}
    if counts:
        listed = ", ".join(f"{n} {name}" for name, n in counts.items())
        remarks.append(f"mask: pixels are left out: {listed}")
    remarks += [f"mask: {undecided}" for undecided in found.unusable.undecided]
    for value, n_pixels in found.unusable.sentinels:
        remarks.append(f"mask: {value:g} stands for no measurement, in {n_pixels} pixels")
    if manifest.bandwidth is not None:
        remarks.append(
            f"bandwidth: ASSUMED to be {manifest.bandwidth:g} of the energy (FWHM), as the files "
            "state a wavelength and no spectrum; `index` says what the spots show"
        )
    if not sample.n_channels:
        remarks.append("wavelength: the files state none; nothing can be indexed without")
    return [*remarks, *(f"files: {remark}" for remark in sample.remarks)]


def _config_text(
    request: Request,
    crystal: dict[str, list[float] | str | None],
    spots: SpotSettings,
    n_shots: int,
    remarks: list[str],
) -> str:
    """Return the configuration as commented YAML. n_shots: of the run."""
    path = (request.data / request.run / "manifest.json").as_posix()
    lines = [
        "# Written by `spreadflow start` from the images alone. What is left out has its default",
        "# (`spreadflow config` prints all keys).",
        *(f"# - {remark}" for remark in remarks),
        _line("trial", request.run),
        _line("data", request.data.as_posix()),
        _line("runs", {request.run: {"images": path}}),
        "index:",
    ]
    for name, value in crystal.items():
        if value is None:
            lines.append(f"  # {name}: SET THIS: of the crystals in the images")
        else:
            lines.append(f"  {_line(name, value)}")
    lines += [
        "  # no fraction of the spots is asked for: a lattice must explain more than chance would,",
        "  # and its predictions must carry signal where no spot was found",
        "  min_fraction_indexed: 0.0",
        "  spots:",
        "    # of a spot; where photons are shared between neighbours, noise makes pairs",
        f"    min_pixels: {spots.min_pixels}",
        *(FOR_FEW if n_shots < FEW_SHOTS else ()),
        "recording:",
        "  # six standard deviations of the dispersion test are those of these images' windows",
        f"  gain: {spots.gain:.3g}",
        "  # noise of a pixel without photons",
        f"  {_line('readout_photons', round(spots.readout_photons, 3))}",
        "# Stages that model pixels run where the structure of the crystals is known:",
        "# structure_factors: {model: model.pdb, sites: [{atom: //A/201/FE1, curve: oxidized}]}",
    ]
    return "\n".join(lines) + "\n"


def _line(key: str, value: object) -> str:
    """Return a key and its value as a line of YAML (JSON is YAML)."""
    return f"{key}: {json.dumps(value, ensure_ascii=False)}"
