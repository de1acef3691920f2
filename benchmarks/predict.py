"""Are chosen reflections as bright as all are, and is what has signal among them?

Lattices of config/config.yaml in random orientations, each with its own SASE pulse, are predicted;
their intensities are drawn from the true |F|² with the noise of background and photons, and
reflections are chosen as the stage `predict` does: by the mean |F|² of a model, right or perturbed,
with a scale from the drawn intensities. Without images. Beside it stands a choice by brightness, of
as many reflections: all with I > 5 σ, and the brightest of the others.

With `--product` the same of a finished product of `predict`, whose crystals have to be those of
config/config.yaml, as the demo's are.
"""

import argparse
import os
from pathlib import Path
from typing import Any, NamedTuple

from spreadflow.trial.threads import THREAD_CAPS

os.environ |= dict.fromkeys(THREAD_CAPS, "1")  # before NumPy and XLA start

import numpy as np

import recorded
from spreadflow import config
from spreadflow.analysis.still import choosing, integration, prediction
from spreadflow.analysis.still.choosing import Rule, ShellMeans
from spreadflow.analysis.still.footprints import footprints_of
from spreadflow.analysis.still.prediction import MosaicLattice, Predicted
from spreadflow.analysis.still.variance import own_variance
from spreadflow.config import PredictSection
from spreadflow.io import store
from spreadflow.io.factor_files import NO_FILES
from spreadflow.models import CHOSEN, Choice, ReflectionFlag, Reflections
from spreadflow.physics import rotation, unit_cell
from spreadflow.products import Predict
from spreadflow.recipes.prediction import mean_intensities
from spreadflow.recipes.still import ORIENTATION, Simulator
from spreadflow.units import DEG

CONFIG = Path(__file__).parents[1] / "config" / "config.yaml"

ETA_RAD = 0.05 * DEG
"""Mosaic spread."""

DOMAIN_ANG = 4000.0
"""Edge of a mosaic domain, Å."""

SCALE = 8e-5
"""Photons over |F|²·polarization·capture·lorentz·partiality in the demo, for a pulse of 10¹²."""

PHOTONS = 1e12
"""Photons of that pulse."""

READOUT = 1.0
"""Photons."""

N_SHELLS = 8
"""Shells of resolution, of equal numbers of reflections."""

BARS = {"signal_chosen": 0.98, "brightness": 0.02}
"""Least share of reflections with I > 3 σ that is chosen; largest deviation of the brightness."""


class Row(NamedTuple):
    """A kind of experiment."""

    pulse: float
    """photons over those of the demo"""
    perturb: bool
    """whether the model's |F|² are wrong"""


ROWS = {
    "as the demo": Row(1.0, perturb=False),
    "wrong model": Row(1.0, perturb=True),
    "pulses 1/20": Row(0.05, perturb=False),
    "pulses 1/20, wrong model": Row(0.05, perturb=True),
}


class Drawn(NamedTuple):
    """Reflections of a lattice, with intensities drawn from the true |F|²."""

    reflections: Reflections
    relative: np.ndarray
    """(reflection,) true |F|² over the mean of its resolution"""


class World:
    """What the lattices of all rows share."""

    def __init__(self) -> None:
        """Read the configuration and make the true |F|²."""
        tree = config.load(CONFIG, changes={"runs": {"r": {"simulate": {"n_single": 1}}}})
        self.tree = tree.model_dump(mode="json", by_alias=True)
        simulate = config.for_stage(config.section(tree, "simulate", "r"), "simulate")
        self.simulator = Simulator(simulate)
        pulse = self.simulator.pulse(1, 0)
        image, _ = self.simulator.expected(pulse, [])
        self.background = image * PHOTONS / pulse.photons.sum()
        self.truth = self.simulator.factors
        self.row_of = {tuple(hkl): row for row, hkl in enumerate(self.truth.hkl.tolist())}
        self.true_means = self.means(perturb=False)

    def means(self, *, perturb: bool) -> ShellMeans:
        """Return the mean |F|² of the model, right or wrong."""
        changes = {"stage1": {"structure_factors": {"perturb": perturb}}}
        whole = config.parse(config.overlay(self.tree, changes))
        of_stage = config.for_stage(config.section(whole, "predict"), "predict")
        return mean_intensities(of_stage, self.simulator.beam.energy_ev, NO_FILES)

    def f_squared(self, hkl: np.ndarray) -> np.ndarray:
        """Return the true |F|² of reflections hkl (n, 3), mean over the channels."""
        rows = np.array([self.row_of[tuple(index)] for index in hkl.tolist()])
        return np.asarray(self.truth.squared(rows)).mean(axis=1)

    def relative(self, hkl: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Return the true |F|² (n,) over the mean of its resolution."""
        return self.f_squared(hkl) / self.true_means.at(d)

    def lattice(self, number: int, pulse_factor: float) -> Drawn:
        """Return the reflections of a lattice, with the photons of its pulse times a factor."""
        simulator = self.simulator
        pulse = simulator.pulse(number, number)
        rng = simulator.rng(ORIENTATION, number)
        A = rotation.random(rng) @ unit_cell.reciprocal(simulator.cell)
        predicted = prediction.predict(
            MosaicLattice(A, ETA_RAD, DOMAIN_ANG),
            pulse,
            simulator.detector,
            space_group=simulator.crystal.space_group,
            d_min=PredictSection().d_min,
        )
        photons = pulse.photons.sum() * pulse_factor / PHOTONS
        f_squared = self.f_squared(predicted.hkl)
        geometry = predicted.lorentz * predicted.partiality
        true = SCALE * photons * f_squared * geometry * predicted.polarization * predicted.capture
        reflections = self.integrated(predicted, photons)
        rest = choosing.noise(reflections, READOUT) ** 2
        intensity = true + rng.normal(size=len(true)) * np.sqrt(rest + true)
        sigma = np.sqrt(rest + own_variance(intensity, rest))
        relative = f_squared / self.true_means.at(predicted.d)
        return Drawn(reflections._replace(intensity=intensity, sigma=sigma), relative)

    def integrated(self, predicted: Predicted, photons: float) -> Reflections:
        """Return reflections without intensities, below them the background of a pulse with so many
        photons, those of the demo being 1.
        """
        detector = self.simulator.detector
        n = len(predicted.hkl)
        pixels = (predicted.panel, predicted.slow.astype(int), predicted.fast.astype(int))
        half = footprints_of(predicted, detector).half_px
        columns = dict.fromkeys(Reflections._fields, np.zeros(n))
        columns |= {
            name: column
            for name, column in predicted._asdict().items()
            if name in Reflections._fields
        }
        columns |= {
            "background": self.background[pixels] * photons,
            "n_foreground": np.rint(4.0 * half.prod(axis=1)),
            "bbox": integration.shoeboxes(predicted, detector),
            "flags": np.zeros(n, int),
        }
        return Reflections(**columns)


def measure(world: World, row: Row, n_lattices: int) -> dict[str, Any]:
    """Return the figures of a row."""
    section = PredictSection()
    rule = Rule(section.d_max, section.min_expected, section.weak_fraction)
    means = world.means(perturb=row.perturb)
    columns: dict[str, list] = {name: [] for name in ("d", "relative", "choice", "i_over_sigma")}
    for number in range(n_lattices):
        drawn = world.lattice(number, row.pulse)
        own = drawn.reflections
        average = choosing.of_average(own, means)
        scale = choosing.lattice_scale(own, average, own.d < section.d_max)
        if not np.isfinite(scale.value):
            continue
        noise = choosing.noise(own, READOUT)
        lots = choosing.lots(1, number, 0, own.hkl)
        choice = choosing.choose(rule, own.d, scale.of_others * average, noise, lots)
        strength = own.intensity / own.sigma
        values = (own.d, drawn.relative, choice, strength)
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    table = {name: np.concatenate(column) for name, column in columns.items()}
    inside = table["choice"] != Choice.OUTSIDE
    table = {name: column[inside] for name, column in table.items()}
    return {"n_lattices": len(columns["d"])} | _figures(table)


def of_product(world: World, path: Path) -> dict[str, Any]:
    """Return the figures of the reflections in the range of a product, integrated from images."""
    reflections = store.read(path, Predict, [Predict.reflections]).reflections
    is_in_range = reflections.choice < Choice.OUTSIDE
    is_integrated = reflections.flags & ReflectionFlag.FAILED == 0
    chosen = reflections[is_in_range & is_integrated]
    table = {
        "d": chosen.d,
        "choice": chosen.choice,
        "i_over_sigma": chosen.intensity / chosen.sigma,
        "relative": world.relative(chosen.hkl, chosen.d),
    }
    return {"n_lattices": len(np.unique(chosen.lattice))} | _figures(table)


def _figures(table: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the figures of all reflections in the range."""
    is_chosen = np.isin(table["choice"], CHOSEN)
    is_bright = table["i_over_sigma"] > np.quantile(table["i_over_sigma"], 1.0 - is_chosen.mean())
    is_bright |= table["i_over_sigma"] > 5.0
    has_signal = table["i_over_sigma"] > 3.0
    order = np.argsort(-table["d"])
    shells = []
    for rows in np.array_split(order, N_SHELLS):
        chosen = rows[is_chosen[rows]]
        mean = table["relative"][rows].mean()
        sigma = table["relative"][rows].std() * np.sqrt(1 / len(chosen) - 1 / len(rows))
        shells.append(
            {
                "d_min": float(table["d"][rows].min()),
                "n": len(rows),
                "n_chosen": len(chosen),
                "brightness": float(table["relative"][chosen].mean() / mean),
                "sigma": float(sigma / mean),
                "by_brightness": float(table["relative"][rows[is_bright[rows]]].mean() / mean),
                "signal_chosen": float(is_chosen[rows][has_signal[rows]].mean()),
            }
        )
    deviations = [abs(shell["brightness"] - 1.0) for shell in shells]
    return {
        "share_chosen": float(is_chosen.mean()),
        "share_signal": float(has_signal.mean()),
        "signal_chosen": float(is_chosen[has_signal].mean()),
        "largest_deviation": max(deviations),
        "shells": shells,
    }


def _print(name: str, figures: dict[str, Any]) -> None:
    """Print the figures of a row."""
    print(
        f"\n{name}: {figures['n_lattices']} lattices, {figures['share_chosen']:.1%} of reflections "
        f"chosen; of the {figures['share_signal']:.1%} with I > 3 σ {figures['signal_chosen']:.2%} "
        f"(bar {BARS['signal_chosen']:.0%}); brightness off by {figures['largest_deviation']:.4f} "
        f"at most (bar {BARS['brightness']})"
    )
    print("   to d      n  chosen  I/<I> chosen : all       ±   by brightness   I > 3 σ chosen")
    for shell in figures["shells"]:
        print(
            f"  {shell['d_min']:5.2f} {shell['n']:6d} {shell['n_chosen']:7d} "
            f"{shell['brightness']:20.4f} {shell['sigma']:7.4f} {shell['by_brightness']:15.3f} "
            f"{shell['signal_chosen']:16.2%}"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lattices", type=int, default=1500)
    parser.add_argument("--product", type=Path, help="predict.h5 of a finished trial")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    world = World()
    figures: dict[str, Any] = {}
    for name, row in ROWS.items():
        figures[name] = measure(world, row, arguments.lattices)
        _print(name, figures[name])
    if arguments.product:
        name = str(arguments.product)
        figures[name] = of_product(world, arguments.product)
        _print(name, figures[name])
    if arguments.json:
        recorded.save(arguments.json, "predict", figures)


if __name__ == "__main__":
    main()
