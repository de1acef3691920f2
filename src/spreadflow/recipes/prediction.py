"""The reflections of the lattices of a shot as stage 1 refined these, and which of them are worth
their pixels.

Nothing here reads or writes files, or knows of ranks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spreadflow import build
from spreadflow.analysis.still import choosing, integration, prediction
from spreadflow.analysis.still.choosing import Rule, ShellMeans
from spreadflow.analysis.still.prediction import MosaicLattice, Predicted
from spreadflow.config import IndexSection, PredictConfig, PredictSection
from spreadflow.errors import ConfigError, PredictedOutcome
from spreadflow.io.factor_files import FactorFiles
from spreadflow.models import Choice, Detector, Noise, Reflections, Shot, Spots
from spreadflow.physics import geometry, unit_cell
from spreadflow.products import predict
from spreadflow.recipes.factors import factors
from spreadflow.recipes.shot import joined, numbers
from spreadflow.recipes.still import PERTURBATION


class KnownLattice(NamedTuple):
    """A lattice of a shot, before its reflections are predicted."""

    k: int
    """number in its shot"""
    lattice: MosaicLattice
    """as stage 1 refined it, or else as in reindex"""
    outcome: PredictedOutcome
    """PREDICTED where it is stage 1's; for others, why it is not"""
    distance_mm: float = 0.0
    """by how much stage 1 moved the detector away for it"""

    @property
    def is_refined(self) -> bool:
        """Whether it is stage 1's."""
        return self.outcome == PredictedOutcome.PREDICTED


class Recording(NamedTuple):
    """How the shots of a run were recorded, and how `reindex` integrated them."""

    section: IndexSection
    detector: Detector
    polarization: float
    noise: Noise


class PredictedShot(NamedTuple):
    """The reflections of all lattices of a shot."""

    reflections: Reflections
    lattice: np.ndarray
    """(reflection,) number of the lattice in the shot's list"""
    expected: np.ndarray
    """(reflection,) photons of an average reflection in its place; NaN = of a neighbour"""
    noise: np.ndarray
    """(reflection,) standard deviation without photons of its own, photons"""
    choice: np.ndarray
    """(reflection,) `models.Choice`"""
    spot: np.ndarray
    """(reflection,) row of its observed spot, −1 = none"""
    scales: list[float]
    """photons over |F|² · polarization · capture · lorentz · partiality, of each lattice; NaN where
    it is not known
    """
    outcomes: list[PredictedOutcome]
    """of each lattice"""


def mean_intensities(config: PredictConfig, energy_ev: float, files: FactorFiles) -> ShellMeans:
    """Return the mean |F|² of the structure factors by resolution.

    energy_ev: mean energy of the pulses; files: contents of the files that the section names.
    Raises ConfigError where they do not reach the resolution that is predicted.
    """
    section = config.structure_factors
    if section.d_min > config.predict.d_min:
        expected = f"at most predict.d_min, {config.predict.d_min:g} Å"
        todo = "Lower it, or raise predict.d_min."
        raise ConfigError("stage1.structure_factors.d_min", expected, section.d_min, todo)
    rng = np.random.default_rng([config.seed, 0, PERTURBATION])
    model = factors(section, np.array([energy_ev]), energy_ev, rng, files)
    d = unit_cell.spacing(unit_cell.reciprocal(build.cell(section)), model.hkl)
    f_squared = np.asarray(model.squared(np.arange(len(model.hkl))))
    return choosing.shell_means(d, f_squared[:, 0])


def predict_shot(
    shot: Shot,
    lattices: Sequence[KnownLattice],
    spots: Spots,
    means: ShellMeans,
    config: PredictConfig,
    recording: Recording,
) -> PredictedShot:
    """Return the reflections of the lattices of a shot, integrated together and chosen.

    spots: observed ones of the shot; means: mean |F|² by resolution.
    """
    section = config.predict
    rule = Rule(section.d_max, section.min_expected, section.weak_fraction)
    of_lattices = [_predicted(shot, known, section, recording) for known in lattices]
    lattice_of = numbers(of_lattices)
    reflections, _ = integration.integrate_and_learn(
        shot.image,
        shot.mask,
        joined(of_lattices),
        recording.detector,
        noise=recording.noise,
        saturation_photons=shot.saturation_photons,
    )
    n = len(lattice_of)
    expected = np.full(n, np.nan)
    choice = np.full(n, Choice.NEIGHBOUR, np.uint8)
    noise = choosing.noise(reflections, recording.noise.readout_photons)
    scales = [np.nan] * len(lattices)
    outcomes = [known.outcome for known in lattices]
    for number, known in enumerate(lattices):
        if not known.is_refined:
            continue
        rows = np.flatnonzero(lattice_of == number)
        own = Reflections(*(column[rows] for column in reflections))
        average = choosing.of_average(own, means)
        usable = choosing.is_sound(own) & (own.d < section.d_max)
        scales[number], of_others = choosing.lattice_scale(own, average, usable)
        if np.isnan(scales[number]):
            outcomes[number] = PredictedOutcome.NO_SCALE
            continue
        expected[rows] = of_others * average
        drawn = choosing.lots(config.seed, shot.shot_id, known.k, own.hkl)
        choice[rows] = choosing.choose(rule, own.d, expected[rows], noise[rows], drawn)
    return PredictedShot(
        reflections=reflections,
        lattice=lattice_of,
        expected=expected,
        noise=noise,
        choice=choice,
        spot=choosing.matched(reflections, spots, section.match_px),
        scales=scales,
        outcomes=outcomes,
    )


def _predicted(
    shot: Shot, known: KnownLattice, section: PredictSection, recording: Recording
) -> Predicted:
    """Return the reflections of a lattice."""
    return prediction.predict(
        known.lattice,
        shot.spectrum,
        geometry.shifted(recording.detector, 0.0, 0.0, known.distance_mm),
        space_group=recording.section.space_group,
        d_min=section.d_min,
        polarization=recording.polarization,
    )


def reflection_rows(predicted: PredictedShot, spots: Spots) -> predict.Reflections:
    """Return the rows of `reflections` of a shot."""

    def of_spot(coordinate: np.ndarray) -> np.ndarray:
        observed = np.append(np.asarray(coordinate, dtype=np.float64), np.nan)
        return np.where(predicted.spot >= 0, observed[predicted.spot], np.nan)

    return predict.Reflections(
        lattice=predicted.lattice,
        **predicted.reflections._asdict(),
        expected=predicted.expected,
        noise=predicted.noise,
        choice=predicted.choice,
        fast_spot=of_spot(spots.fast),
        slow_spot=of_spot(spots.slow),
    )
