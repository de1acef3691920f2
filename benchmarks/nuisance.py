"""Stills without a crystal: is a lattice found where there is none, and is nothing integrated as
nothing?

Blanks are the background of the test bed (bed.yaml) as its detector records it. Nuisance shots have
on top what real ones have: rings of ice, smooth or in grains, bright spots of salt, dead rows and
columns, hot pixels, the shadow of a beam stop and its arm. Nothing is masked. Each shot is indexed
as `index` does it; then reflections of a random orientation are predicted and integrated on the
blanks, where the truth of each is 0.
"""

import bed_chain  # first: it sets threads before NumPy and XLA start  # isort: skip

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recorded import save
from spreadflow import build, config
from spreadflow.analysis.still.integration import integrate
from spreadflow.analysis.still.prediction import MosaicLattice, predict
from spreadflow.config import IndexSection
from spreadflow.errors import Outcome
from spreadflow.models import Shot, Spectrum
from spreadflow.physics import rotation, unit_cell
from spreadflow.recipes import shot
from spreadflow.recipes.still import Simulator
from spreadflow.units import wavelength

ICE_D_ANG = (3.90, 3.67, 3.44, 2.67, 2.25, 2.07)
"""Spacings of the rings of hexagonal ice."""

ICE_WIDTH = 0.0015
"""Standard deviation of a ring in 1/d, Å⁻¹: two to three pixels."""

ICE_HEIGHT = (0.5, 5.0)
"""Height of a ring, times the background there: the least and the most."""

N_GRAINS = 150
"""Spots of grainy rings."""

GRAIN_PHOTONS = 400.0
"""Median photons of a grain; log-normal by a factor e."""

SALT_CELL_ANG = 5.64
"""Edge of the cubic cell of sodium chloride."""

SALT_PHOTONS = 3e4
"""Median photons of a spot of salt; log-normal by a factor e."""

N_SALT = 80
"""Grains of salt in a shot."""

SPOT_PX = 1.2
"""Standard deviation of the spots of grains and salt."""

N_DEAD = 4
"""Dead rows, and as many dead columns, of a shot; they read 0."""

N_HOT = 400
"""Hot pixels of a shot, half of them in pairs."""

HOT_ADU = (100, 1_000_000)
"""What a hot pixel reads: the least and the most, uniform in the logarithm."""

STOP_PX = 70.0
"""Radius of the beam stop's shadow."""

ARM_PX = 15.0
"""Half width of its arm."""

SHADOW = 0.03
"""Share of the photons that pass it."""

INTEGRATED_BAR = 0.1
"""Bar of the mean pull of what is integrated on blanks."""


class Exposure(NamedTuple):
    """A shot without a crystal before it is recorded."""

    rng: np.random.Generator
    photons: np.ndarray
    """(panel, slow, fast) expected"""
    pulse: Spectrum
    simulator: Simulator


# ---------------------------------------------------------------- what disturbs


def ice(exposure: Exposure) -> np.ndarray:
    """Return photons with rings of ice: smooth, or in grains."""
    rng, photons, pulse, simulator = exposure
    inverse_d = 2 * simulator.pixels[1] / wavelength(float(pulse.mean_energy_ev))
    is_grainy = rng.random() < 0.5
    image = photons.copy()
    for d in ICE_D_ANG:
        on_ring = np.exp(-0.5 * ((inverse_d - 1 / d) / ICE_WIDTH) ** 2)
        if is_grainy:
            places = np.argwhere(on_ring > 0.5)
            chosen = places[rng.integers(0, len(places), N_GRAINS // len(ICE_D_ANG))]
            spots = chosen[:, 1:] + rng.random((len(chosen), 2))
            _add_spots(image, spots, GRAIN_PHOTONS * np.exp(rng.standard_normal(len(chosen))))
        else:
            image += rng.uniform(*ICE_HEIGHT) * on_ring * photons
    return image


def salt(exposure: Exposure) -> np.ndarray:
    """Return photons with the spots of some grains of salt."""
    rng, photons, pulse, simulator = exposure
    image = photons.copy()
    B = np.eye(3) / SALT_CELL_ANG
    for _ in range(N_SALT):
        spots = predict(
            MosaicLattice(rotation.random(rng) @ B, 0.005, 500.0),
            pulse,
            simulator.detector,
            space_group="F m -3 m",
            d_min=1.2,
        )
        places = np.stack([spots.slow, spots.fast], axis=1)
        _add_spots(image, places, SALT_PHOTONS * np.exp(rng.standard_normal(len(places))))
    return image


def shadow(exposure: Exposure) -> np.ndarray:
    """Return photons with the shadow of a beam stop and its arm."""
    rng, photons, _, _ = exposure
    _, n_slow, n_fast = photons.shape
    slow, fast = np.ogrid[:n_slow, :n_fast]
    x = fast - 0.5 * n_fast
    y = slow - 0.5 * n_slow
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    is_arm = (along > 0) & (np.abs(across) < ARM_PX)
    is_dark = is_arm | (x**2 + y**2 < STOP_PX**2)
    return np.where(is_dark, SHADOW * photons, photons).astype(photons.dtype)


def _add_spots(image: np.ndarray, places: np.ndarray, photons: np.ndarray) -> None:
    """Add round spots to an image of one panel. places: (spot, 2) slow, fast, px."""
    reach = int(np.ceil(4 * SPOT_PX))
    offsets = np.arange(-reach, reach + 1)
    for (slow, fast), n_photons in zip(places, photons, strict=True):
        rows = int(slow) + offsets
        columns = int(fast) + offsets
        square = (rows[:, None] + 0.5 - slow) ** 2 + (columns + 0.5 - fast) ** 2
        spot = n_photons * np.exp(-0.5 * square / SPOT_PX**2) / (2 * np.pi * SPOT_PX**2)
        on_rows = (rows >= 0) & (rows < image.shape[1])
        on_columns = (columns >= 0) & (columns < image.shape[2])
        image[0, rows[on_rows][:, None], columns[on_columns]] += spot[on_rows][:, on_columns]


def dead_lines(rng: np.random.Generator, adu: np.ndarray) -> np.ndarray:
    """Return a frame with dead rows and columns."""
    frame = adu.copy()
    frame[0, rng.integers(0, frame.shape[1], N_DEAD)] = 0
    frame[0, :, rng.integers(0, frame.shape[2], N_DEAD)] = 0
    return frame


def hot_pixels(rng: np.random.Generator, adu: np.ndarray) -> np.ndarray:
    """Return a frame with hot pixels, alone and in pairs."""
    frame = adu.copy()
    low, high = np.log(HOT_ADU)
    slow = rng.integers(0, frame.shape[1], N_HOT)
    fast = rng.integers(0, frame.shape[2] - 1, N_HOT)
    n_pairs = N_HOT // 4
    slow[:n_pairs] = slow[n_pairs : 2 * n_pairs]
    fast[:n_pairs] = fast[n_pairs : 2 * n_pairs] + 1
    frame[0, slow, fast] = np.exp(rng.uniform(low, high, N_HOT)).astype(frame.dtype)
    return frame


ON_PHOTONS: dict[str, Callable[[Exposure], np.ndarray]] = {
    "ice": ice,
    "salt": salt,
    "shadow": shadow,
}
"""What disturbs the light."""

ON_FRAMES: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    "dead rows": dead_lines,
    "hot pixels": hot_pixels,
}
"""What disturbs the frame."""

NUISANCES = (*ON_PHOTONS, *ON_FRAMES)
"""Names of all, of which a nuisance shot has one."""


# ---------------------------------------------------------------- shots


def simulator() -> Simulator:
    """Return the simulator of the shots."""
    changes = {"runs": {"nuisance": {"simulate": {"n_single": 0, "n_blank": 1}}}}
    settings = config.load(bed_chain.BED, changes=changes)
    return Simulator(config.for_stage(config.section(settings, "simulate", "nuisance"), "simulate"))


def recorded(simulator: Simulator, number: int, kind: str) -> Shot:
    """Return shot `number`, a blank or with what disturbs it."""
    rng = np.random.default_rng([3, number])
    pulse = simulator.pulse(number, number)
    photons, _ = simulator.expected(pulse, [])
    if kind in ON_PHOTONS:
        photons = ON_PHOTONS[kind](Exposure(rng, photons, pulse, simulator))
    adu = simulator.frame(number, photons)
    if kind in ON_FRAMES:
        adu = ON_FRAMES[kind](rng, adu)
    section = simulator.section
    image = (adu - section.offset_adu).astype(np.float32) / np.float32(section.quantum_gain)
    return Shot(number, image, simulator.good, pulse, 0.0)


def integrated(still: Shot, section: IndexSection, simulator: Simulator) -> np.ndarray:
    """Return I/σ of the unflagged reflections of a random orientation, to the resolution to which
    reflections are predicted: no choice is made by what the pixels hold.
    """
    rng = np.random.default_rng([4, still.shot_id])
    A = rotation.random(rng) @ unit_cell.reciprocal(unit_cell.radians(section.cell))
    crystal = simulator.crystal
    predicted = predict(
        MosaicLattice(A, build.eta_rad(crystal), crystal.domain_ang),
        still.spectrum,
        simulator.detector,
        space_group=section.space_group,
        d_min=section.d_min,
    )
    reflections = integrate(
        still.image,
        still.mask,
        predicted,
        simulator.detector,
        noise=build.noise(simulator.recording),
    )
    is_clean = reflections.flags == 0
    return (reflections.intensity / reflections.sigma)[is_clean]


def measure(n_blanks: int, n_nuisances: int) -> dict:
    """Return how the shots of each kind ended, and the pulls on blanks."""
    simulation = simulator()
    section = config.load(bed_chain.BED).index
    detector = simulation.header
    kinds = ["blank"] * n_blanks
    kinds += [NUISANCES[number % len(NUISANCES)] for number in range(n_nuisances)]
    outcomes: dict[str, Counter] = {kind: Counter() for kind in dict.fromkeys(kinds)}
    n_lattices: Counter = Counter()
    pulls = [np.empty(0)]
    for number, kind in enumerate(kinds):
        still = recorded(simulation, number, kind)
        result = shot.index(
            still, section, simulation.recording, detector, simulation.beam.polarization
        )
        outcomes[kind][Outcome(result.outcome).name.lower()] += 1
        n_lattices[kind] += len(result.lattices)
        if kind == "blank":
            pulls.append(integrated(still, section, simulation))
    pull = np.concatenate(pulls)
    return {
        "outcomes": {kind: dict(counts) for kind, counts in outcomes.items()},
        "n_lattices": {kind: n_lattices[kind] for kind in outcomes},
        "n_integrated": len(pull),
        "pull_mean": float(pull.mean()) if len(pull) else None,
        "pull_sd": float(pull.std()) if len(pull) else None,
    }


def report(figures: dict) -> None:
    """Print the figures beside their bars."""
    print(f"{'shots':14}{'n':>6}{'lattices':>10}   bar   outcomes")
    for kind, counts in figures["outcomes"].items():
        words = ", ".join(f"{n} {name}" for name, n in counts.items())
        print(
            f"{kind:14}{sum(counts.values()):>6}{figures['n_lattices'][kind]:>10}     0   {words}"
        )
    if figures["n_integrated"]:
        print(
            f"I/sigma of {figures['n_integrated']} reflections that are not there: mean "
            f"{figures['pull_mean']:+.4f} (bar: within {INTEGRATED_BAR:g} of 0), "
            f"sd {figures['pull_sd']:.3f}"
        )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blanks", type=int, default=1000)
    parser.add_argument("--nuisances", type=int, default=200)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    figures = measure(args.blanks, args.nuisances)
    report(figures)
    if args.json:
        save(args.json, "nuisance", figures)


if __name__ == "__main__":
    main()
