"""validate: what an image file is, what the chain reads from it, and each trap with its remedy.

This is no stage of the workflow: it looks at files before one begins.
"""

from pathlib import Path
from typing import Any, NamedTuple

import hdf5plugin
import numpy as np

from spreadflow.analysis.recording import estimates
from spreadflow.analysis.recording.estimates import Estimates, Settled
from spreadflow.io import images
from spreadflow.io.images import Geometry, Sample
from spreadflow.models import Detector, Shot, Spectrum
from spreadflow.physics import geometry
from spreadflow.units import wavelength

MANIFEST = "spreadflow manifest"
"""What takes the place of what a file states."""

MOST_SATURATED = 1e-3
"""Share of the pixels above the trusted range that needs no word."""


class Trap(NamedTuple):
    """What would go wrong without a word, and what to do about it."""

    name: str
    found: str
    remedy: str


class Examined(NamedTuple):
    """An image file, looked at."""

    figures: dict[str, Any]
    """of the summary: what is documented as JSON"""
    traps: list[Trap]
    shot: Shot
    """its first one, as the chain reads it with the remedies"""
    detector: Detector
    estimates: Estimates


def examine(path: Path, geometry: Geometry | None = None) -> Examined:
    """Return what a file is. geometry: in place of its header's. Raises FileError where it can't be
    read.
    """
    kind = images.format_of(path, geometry)
    sample = images.read_sample([path], geometry)
    offset_adu, adu_per_photon = sample.pedestal
    found = estimates.estimate(sample.frames, sample.usable, offset_adu)
    settled = estimates.settle(found.gain, offset_adu, adu_per_photon)
    shot = _shot(sample, found, settled)
    figures = {
        "file": str(path),
        "format": kind,
        **_of_header(sample),
        **_of_pixels(sample, found, settled),
    }
    traps = _traps(sample, found, settled)
    if kind.startswith("NXmx"):
        traps += _of_other_programs()
    figures["traps"] = [trap._asdict() for trap in traps]
    return Examined(figures, traps, shot, sample.detector, found)


def _shot(sample: Sample, found: Estimates, settled: Settled) -> Shot:
    """Return the first shot in photons, with everything masked that can't be used."""
    frame = sample.frames[0]
    low, high = sample.trusted_range
    good = sample.usable & ~found.unusable.all & np.isfinite(frame) & (frame >= low)
    photons = (frame - settled.offset_adu) / settled.adu_per_photon
    energy_ev = sample.energies_ev[0]
    return Shot(
        shot_id=0,
        image=np.where(np.isfinite(photons), photons, 0.0).astype(np.float32),
        mask=good & (frame <= high),
        spectrum=Spectrum(np.array([energy_ev]), np.ones(1)),
        saturated_fraction=float(np.mean(frame[good] > high)) if good.any() else 0.0,
    )


def _of_header(sample: Sample) -> dict[str, Any]:
    """Return what the header states."""
    detector = sample.detector
    energies_ev = sample.energies_ev[np.isfinite(sample.energies_ev)]
    figures = {
        "n_shots": sample.n_shots,
        "n_shots_looked_at": len(sample.frames),
        "n_panels": detector.n_panels,
        "panel_px": list(map(int, detector.shape)),
        "pixel_mm": float(detector.pixel_mm),
        "distance_mm": float(np.mean(geometry.distances_mm(detector))),
        "beam_centre": _beam(detector),
        "sensor_mm": float(detector.thickness_mm) or None,
        "energy_ev": _range(energies_ev),
        "resolution_ang": None,
        "spectrum": _spectrum(sample),
        "polarization": sample.polarization,
        "trusted_range_adu": [_finite(limit) for limit in sample.trusted_range],
        "stated_offset_adu": sample.pedestal[0],
        "stated_adu_per_photon": sample.pedestal[1],
        "remarks": sample.remarks,
    }
    if len(energies_ev):
        figures["resolution_ang"] = _finest(detector, float(energies_ev[0]))
    return figures


def _beam(detector: Detector) -> dict[str, Any]:
    """Return where the beam meets the panel that it is nearest to the middle of."""
    fast, slow = geometry.beam_center(detector)
    n_slow, n_fast = detector.shape
    panel = int(np.argmin(np.hypot(fast - n_fast / 2, slow - n_slow / 2)))
    return {"panel": panel, "fast_slow_px": [float(fast[panel]), float(slow[panel])]}


def _range(energies_ev: np.ndarray) -> list[float] | None:
    """Return the lowest and the highest energy, eV; None of none."""
    if not len(energies_ev):
        return None
    return [float(energies_ev.min()), float(energies_ev.max())]


def _finite(limit: float) -> float | None:
    """Return a limit, None where there is none."""
    return float(limit) if np.isfinite(limit) else None


def _finest(detector: Detector, energy_ev: float) -> float:
    """Return the resolution at the corner that is farthest from the beam, Å."""
    slow, fast = detector.shape
    panels = np.repeat(np.arange(detector.n_panels), 4)
    corners = np.tile([[0, 0], [fast, 0], [0, slow], [fast, slow]], (detector.n_panels, 1))
    s1 = geometry.direction(detector, panels, corners[:, 0], corners[:, 1])
    return float(wavelength(energy_ev) / np.linalg.norm(s1 - geometry.S0, axis=-1).max())


def _spectrum(sample: Sample) -> str:
    """Return what is recorded of the pulses, in words."""
    if not sample.n_channels:
        return "neither a spectrum nor a wavelength"
    if sample.n_channels == 1:
        return "a wavelength a shot, no spectrum"
    return f"{sample.n_channels} channels a shot"


def _of_pixels(sample: Sample, found: Estimates, settled: Settled) -> dict[str, Any]:
    """Return what the pixels say."""
    gain = found.gain
    spots = estimates.spot_settings(found, settled.offset_adu, settled.adu_per_photon)
    return {
        "masked": float(1.0 - sample.usable.mean()),
        "n_dead": int(found.unusable.low.sum()),
        "n_hot": int(found.unusable.hot.sum()),
        "sentinels": [{"adu": value, "n_pixels": n} for value, n in found.unusable.sentinels],
        "measured_adu_per_photon": None if gain is None else gain.adu_per_photon,
        "measured_adu_per_photon_sigma": None if gain is None else gain.sigma,
        "measured_by": None if gain is None else gain.method,
        "used_adu_per_photon": settled.adu_per_photon,
        "used_offset_adu": settled.offset_adu,
        "readout_photons": spots.readout_photons,
        "spots_gain": spots.gain,
        "spots_min_pixels": spots.min_pixels,
    }


def _traps(sample: Sample, found: Estimates, settled: Settled) -> list[Trap]:
    """Return what would go wrong with a file."""
    traps = []
    for remark in settled.remarks:
        name, _, what = remark.partition(": ")
        option = f"--adu-per-photon {settled.adu_per_photon:.4g}"
        if name == "pedestal":
            option = f"--offset-adu {settled.offset_adu:.4g}"
        traps.append(Trap(name, what, f"{MANIFEST} {option}"))
    if sample.n_channels == 0:
        remedy = "Files have to state a wavelength; convert them."
        traps.append(Trap("wavelength", "none is stated: BAD_SPECTRUM for every shot", remedy))
    if sample.n_channels == 1:
        assumed = estimates.ASSUMED_BANDWIDTH
        remedy = f"{MANIFEST} --bandwidth {assumed:g}, or what `index` says of the spots"
        traps.append(Trap("bandwidth", "a wavelength alone: a single energy is assumed", remedy))
    if found.unusable.all.any():
        what = f"{int(found.unusable.all.sum())} pixels are dead, hot or in gaps, and not masked"
        traps.append(Trap("mask", what, "`spreadflow start` writes a mask of them"))
    for value, n_pixels in found.unusable.sentinels:
        what = f"{value:g} stands for no measurement, in {n_pixels} pixels that no mask names"
        traps.append(Trap("sentinel", what, "`spreadflow start` writes a mask of them"))
    if not np.isfinite(sample.trusted_range[1]):
        remedy = "index.saturation_photons"
        traps.append(Trap("trusted range", "no upper end: overloads count as they are", remedy))
    share = _saturated(sample)
    if share > MOST_SATURATED:
        remedy = "Look at the picture: is the upper end of the trusted range right?"
        traps.append(Trap("overloads", f"{share:.2%} of the pixels", remedy))
    if sample.polarization is None:
        what = "not stated: the beam is taken to be polarized along x"
        traps.append(Trap("polarization", what, f"{MANIFEST} --polarization K"))
    return traps


def _saturated(sample: Sample) -> float:
    """Return the largest share of the usable pixels of a shot above the trusted range."""
    high = sample.trusted_range[1]
    if not sample.usable.any():
        return 0.0
    return max(float(np.mean(frame[sample.usable] > high)) for frame in sample.frames)


def _of_other_programs() -> list[Trap]:
    """Return what other programs need to read the same file."""
    what = "pixels compressed with bitshuffle or LZ4 need a filter that DIALS of Debian lacks"
    remedy = f"export HDF5_PLUGIN_PATH={hdf5plugin.PLUGIN_PATH}"
    return [Trap("compression", what, remedy)]
