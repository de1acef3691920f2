"""A run of stills with spots and a water ring, on two panels with planted dead, stuck, hot and
noisy pixels, a beam stop and a nozzle.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from spreadflow.io import images, nexus_writer
from spreadflow.models import Detector

SHAPE = (2, 256, 256)
DETECTOR = Detector(
    origin_mm=np.array([[-52.2, 25.6, -80.0], [0.0, 25.6, -80.0]]),
    fast=np.tile([1.0, 0.0, 0.0], (2, 1)),
    slow=np.tile([0.0, -1.0, 0.0], (2, 1)),
    pixel_mm=np.float64(0.2),
    shape=SHAPE[1:],
)
OFFSET_ADU = 10
GAIN = 2.0
READOUT_ADU = 2.0
N_EACH = 40
"""Planted pixels of each kind."""


class Run(NamedTuple):
    """A run and what is wrong with its detector; (panel, slow, fast) bool."""

    manifest: Path
    defects: dict[str, np.ndarray]
    penumbra: np.ndarray
    """within 2 px of the rim of a shadow"""
    rings: np.ndarray
    """the water ring"""


def _places() -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of all pixels, mm."""
    panel, slow, fast = np.indices(SHAPE)
    x = DETECTOR.origin_mm[panel, 0] + (fast + 0.5) * 0.2
    y = DETECTOR.origin_mm[panel, 1] - (slow + 0.5) * 0.2
    return x, y


def _light() -> tuple[np.ndarray, np.ndarray]:
    """Return the photons of a pulse without shadows, and the radius of pixels, mm."""
    x, y = _places()
    radius = np.hypot(x, y)
    distance2 = radius**2 + 80.0**2
    polarization = 0.5 * (1 + 80.0**2 / distance2 - (x**2 - y**2) / distance2)
    return (2.0 + 10.0 * np.exp(-(((radius - 28.0) / 7.0) ** 2))) * polarization, radius


def _shade() -> tuple[np.ndarray, np.ndarray]:
    """Return the transmission of a beam stop and a nozzle, and their rims."""
    x, y = _places()
    across = np.abs(y - 0.3 * x)
    inside = {"stop": np.hypot(x, y) / 0.2 - 20, "nozzle": (across - 3.0) / 0.2}
    is_along = x > 10.0
    shade = np.ones(SHAPE)
    shade[inside["stop"] < 0] = 0.05
    shade[(inside["nozzle"] < 0) & is_along] = 0.2
    rim = np.abs(inside["stop"]) < 2
    rim |= (np.abs(inside["nozzle"]) < 2) & (x > 9.0)
    rim |= (across < 3.4) & (np.abs(x - 10.0) < 0.5)
    return shade, rim


def _still(rng: np.random.Generator, light: np.ndarray) -> np.ndarray:
    """Return the expected photons of a shot: light of a pulse, and spots."""
    expected = light * rng.uniform(0.5, 1.5)
    n_spots = 150
    panel = rng.integers(0, SHAPE[0], n_spots)
    slow, fast = rng.integers(3, SHAPE[1] - 3, (2, n_spots))
    steps = np.arange(-3, 4)
    profile = np.exp(-0.5 * (steps[:, None] ** 2 + steps**2)) / (2 * np.pi)
    for n, photons in enumerate(10 ** rng.uniform(1.5, 3.5, n_spots)):
        box = (panel[n], slice(slow[n] - 3, slow[n] + 4), slice(fast[n] - 3, fast[n] + 4))
        expected[box] += photons * profile
    return expected


def write(folder: Path, n_shots: int, *, is_flawed: bool, seed: int = 5) -> Run:
    """Write a run; without a flaw if not `is_flawed`."""
    rng = np.random.default_rng(seed)
    light, radius = _light()
    shade, rim = _shade() if is_flawed else (np.ones(SHAPE), np.zeros(SHAPE, bool))
    names = ("dead", "deaf", "stuck", "hot", "noisy", "flickering") if is_flawed else ()
    lit = np.flatnonzero((shade == 1) & ~rim)
    chosen = rng.choice(lit, (len(names), N_EACH), replace=False)
    places = {name: np.unravel_index(own, SHAPE) for name, own in zip(names, chosen, strict=True)}
    frames = []
    for _ in range(n_shots):
        expected = _still(rng, light) * shade
        adu = GAIN * rng.poisson(expected) + rng.normal(OFFSET_ADU, READOUT_ADU, SHAPE)
        frames.append(_with_flaws(rng, adu, places))
    stills = nexus_writer.Stills(
        images=frames,
        shot_ids=np.arange(n_shots, dtype=np.uint64),
        energies_ev=np.array([7100.0]),
        photons=np.full((n_shots, 1), 1e10),
    )
    instrument = nexus_writer.Instrument(
        DETECTOR, saturation_adu=60_000, offset_adu=OFFSET_ADU, adu_per_photon=GAIN
    )
    nexus_writer.write(folder / "run.h5", stills, instrument)
    images.write_manifest(folder / "manifest.json", "run", [folder / "run.h5"])
    defects = {"shadow": shade < 1}
    for name, place in places.items():
        defects[name] = np.zeros(SHAPE, bool)
        defects[name][place] = True
    return Run(folder / "manifest.json", defects, rim, np.abs(radius - 28.0) < 7.0)


def _with_flaws(
    rng: np.random.Generator, adu: np.ndarray, places: dict[str, tuple[np.ndarray, ...]]
) -> np.ndarray:
    """Return the ADU of a frame as flawed pixels have it, int32."""
    if places:
        adu[places["dead"]] = OFFSET_ADU
        adu[places["deaf"]] = rng.normal(OFFSET_ADU, READOUT_ADU, N_EACH)
        adu[places["stuck"]] = np.arange(N_EACH) % 8 + OFFSET_ADU + 4
        adu[places["hot"]] += 60.0 + 50.0 * np.arange(N_EACH)
        adu[places["noisy"]] += rng.normal(0.0, 40.0, N_EACH)
        adu[places["flickering"]] += 300.0 * (rng.uniform(size=N_EACH) < 0.3)
    return np.rint(adu).astype(np.int32)
