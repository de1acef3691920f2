"""Simulated lattices that several benchmarks share: threads, a clock, pixels, models and starts.

Lattices are those of config/config.yaml, made directly as shoeboxes. Import this module first: it
sets the number of threads, which NumPy and XLA read when they start.
"""

import os

from spreadflow.trial.threads import THREAD_CAPS

os.environ |= dict.fromkeys(THREAD_CAPS, "1")
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import resource
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from spreadflow import config
from spreadflow.analysis.merging.merging import Unique
from spreadflow.analysis.pixels.lattice_fit import Problem
from spreadflow.analysis.pixels.mosaic_learning import LearnedMosaic, learn
from spreadflow.config import Stage1Section
from spreadflow.io.curve_table import Curve
from spreadflow.io.factor_files import FactorFiles
from spreadflow.io.merged_intensities import Measured
from spreadflow.models import Mosaic, Parameters
from spreadflow.physics import phantom, rotation
from spreadflow.physics.mosaic import continuous
from spreadflow.physics.structure_factors import Atoms, StructureFactors, perturbed
from spreadflow.recipes import curves, factors, patch, sites
from spreadflow.recipes.lattice import PackedLattice, RunModel, Start
from spreadflow.recipes.still import PERTURBATION, Simulator
from spreadflow.units import DEG

CONFIG = Path(__file__).parents[1] / "config" / "config.yaml"
"""Configuration of the lattices, beam and detector."""

FREE: Final = ("scale", "rotation", "cell", "n_cells", "eta")
"""What stage 1 refines."""

D_MIN = 2.1
"""High-resolution edge of all lattices, Å."""

D_MAX_ANNULUS = 2.5
"""Low-resolution edge of the annulus, Å."""

D_MAX_WIDEST = 20.0
"""Low-resolution edge of what a lattice learns its own domains from, Å."""

FINE = {"shape": [3840, 3840], "pixel_mm": 0.0885}
"""A detector with pixels of half the edge."""

FINEST_ALONE = 1.0
"""Step of the last grid where a lattice learns alone, in angular widths of a domain."""

MERGED_ERRORS = {"merged": 0.02, "merged, 4 %": 0.04}
"""Kind of structure factors → relative error of the merged intensities that they come from."""

WRONG_MODELS = {"twice as wrong": (0.2, 0.1), "20 % missing": (0.1, 0.2)}
"""Kind of structure factors → r.m.s. displacement of the model's atoms, Å, and the fraction that is
missing.
"""

NO_POINT_SPREAD = ("fiber", 0.0)
"""Shape and width (mm) of the point spread where there is none."""


def user_cpu() -> float:
    """Return the user-CPU seconds of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


class Data(NamedTuple):
    """How lattices are simulated."""

    mosaicity: str = "continuous"
    """continuous, domains or per_shot"""
    detector: str = "coarse"
    """coarse, as configured, or fine"""
    oversample: int = 1
    """squares along each edge of a pixel, of data and model"""
    psf: tuple[str, float] = NO_POINT_SPREAD
    """shape of the point spread, and its width, mm"""
    photons: float = 1.0
    """in a pulse, relative to the configured number"""


PLAIN = Data()
"""The lattices whose structure factors, curves and spectra are those of all others."""


@cache
def simulator(data: Data) -> Simulator:
    """Return the simulator of the lattices."""
    base = config.load(CONFIG)
    shape, fwhm_mm = data.psf
    detector = FINE if data.detector == "fine" else {}
    recording = {"psf": shape, "psf_fwhm_mm": fwhm_mm}
    assert base.beam.photons is not None
    updates = {
        "crystal": base.crystal.model_copy(update={"mosaicity": data.mosaicity}),
        "detector": base.detector.model_copy(update=detector),
        "recording": base.recording.model_copy(update=recording),
        "beam": base.beam.model_copy(update={"photons": data.photons * base.beam.photons}),
        "simulate": base.simulate.model_copy(update={"oversample": data.oversample}),
        "runs": {"bench": config.RunSection(simulate=config.SimulatedShots(n_single=1))},
    }
    sections = config.section(base.model_copy(update=updates), "simulate", "bench")
    return Simulator(config.for_stage(sections, "simulate"))


@lru_cache(1)
def simulated(
    data: Data, number: int, d_min: float = D_MIN, d_max: float = D_MAX_ANNULUS
) -> patch.Patch:
    """Return the shoeboxes of a lattice, d_min ≤ d < d_max, Å."""
    return patch.patch(simulator(data), number, d_min=d_min, d_max=d_max)


# ---------------------------------------------------------------- models


@cache
def model_factors(kind: str, with_true_curves: bool = True) -> StructureFactors:
    """Return F of a model: `right`, `perturbed`, or of a kind of `WRONG_MODELS` or `MERGED_ERRORS`.

    with_true_curves: of the sites; otherwise both have the mean of the true ones.
    """
    updates: dict = {}
    atoms = None
    merged = None
    if kind == "perturbed":
        updates["perturb"] = True
    if kind in WRONG_MODELS:
        atoms, k_sol = wrong_atoms(*WRONG_MODELS[kind])
        updates |= {"model": Path("wrong.pdb"), "k_sol": k_sol}
    if kind in MERGED_ERRORS:
        updates |= {"source": "merged", "mtz": Path("merged.mtz")}
        merged = merged_intensities(MERGED_ERRORS[kind])
    return _factors(updates, FactorFiles(atoms=atoms, merged=merged), with_true_curves)


def with_amplitudes(merged: Measured) -> StructureFactors:
    """Return F of a perturbed model with merged intensities, where there are any; both sites have
    the mean of the true curves.
    """
    updates = {"perturb": True, "source": "model_completed", "mtz": Path("merged.mtz")}
    return _factors(updates, FactorFiles(merged=merged), with_true_curves=False)


def _factors(updates: dict, files: FactorFiles, with_true_curves: bool) -> StructureFactors:
    """Return F as configured, with updates of the section."""
    simulation = simulator(PLAIN)
    section = simulation.config.structure_factors
    sites_of_model = section.sites
    if files.atoms is not None:  # of a model, a list of atoms shares a curve, as the phantom's do
        sites_of_model = [one.model_copy(update={"atom": [one.atom]}) for one in sites_of_model]
    if not with_true_curves:
        mean = true_curves().mean(axis=0)
        curve = Curve(
            "mean", np.arange(len(mean[0])), simulation.energies, mean[0] + 1j * mean[1], []
        )
        files = files._replace(curves={"mean": curve})
        sites_of_model = [one.model_copy(update={"curve": "mean"}) for one in sites_of_model]
    return factors.factors(
        section.model_copy(update=updates | {"sites": sites_of_model}),
        simulation.energies,
        simulation.beam.energy_ev,
        simulation.rng(PERTURBATION),
        files,
    )


def wrong_atoms(xyz_ang: float, missing: float) -> tuple[Atoms, float]:
    """Return the atoms of a model that is wrong by other amounts than `perturbed`, and its k_sol;
    see `structure_factors.perturbed`.
    """
    simulation = simulator(PLAIN)
    section = simulation.config.structure_factors
    crystal = simulation.crystal
    atoms = phantom.build(simulation.cell, crystal.space_group, section.phantom_seed)
    of_sites = sites.assign(section, atoms)
    return perturbed(simulation.rng(PERTURBATION), of_sites, simulation.cell, xyz_ang, missing)


def true_curves() -> np.ndarray:
    """Return the true curves (site, 2, channel): f′, f″."""
    return curves.start_curves(simulator(PLAIN).factors)


def merged_intensities(error: float) -> Measured:
    """Return the true intensities at the mean energy, Friedel mates apart, with relative errors."""
    simulation = simulator(PLAIN)
    crystal = simulation.crystal
    true = simulation.factors
    d_min = simulation.config.structure_factors.d_min
    unique = Unique(np.array(crystal.cell), crystal.space_group, d_min)
    hkl = np.where(unique.friedel < 0, -1, 1)[:, None] * unique.hkl
    row_of = {tuple(index): row for row, index in enumerate(true.hkl.tolist())}
    rows = np.array([row_of[tuple(index)] for index in hkl.tolist()])
    channel = np.abs(simulation.energies - simulation.beam.energy_ev).argmin()
    intensity = true.squared(rows)[:, channel]
    sigma = error * intensity
    noise = np.random.default_rng(3).standard_normal(len(intensity))
    return Measured(hkl, intensity + sigma * noise, sigma)


def run_model(data: Data, kind: str = "right", with_true_curves: bool = True) -> RunModel:
    """Return what the models of all lattices share. The arguments are those of `model_factors`."""
    return patch.run_model(simulator(data), model_factors(kind, with_true_curves))


def pixels_section(data: Data) -> Stage1Section:
    """Return how the pixels of lattices are modelled."""
    return Stage1Section(refine=list(FREE), oversample=data.oversample)


def mosaic_of(kind: str, made: patch.Patch) -> Mosaic:
    """Return the mosaicity of a model: `continuous`, or `domains`, those of the truth."""
    return continuous() if kind == "continuous" else made.parameters.mosaic


# ---------------------------------------------------------------- starts


def true_start(true: Parameters) -> Start:
    """Return the start of a fit at the truth."""
    crystal = true.crystal
    return Start(crystal.A, crystal.n_cells, crystal.eta_rad, true.scale)


def off_start(true: PackedLattice, number: int, off_deg: float | None = None) -> PackedLattice:
    """Return a lattice, predicted with the truth, as if it had been predicted with something else.

    off_deg: None for 0.003° about each axis, N within 20 % and η within 35 %; else so far about a
    random axis, with N ± 30 % and η ± 50 %. Fits take the scale from the pixels.
    """
    rng = np.random.default_rng([2, number])
    away = rng.standard_normal(3)
    rng.uniform(-0.5, 0.5)  # keeps the starts those of all tables: the scale was drawn here
    if off_deg is None:
        turn = 0.003 * DEG * away
        n_factor = rng.uniform(0.8, 1.2)
        eta_factor = rng.uniform(0.65, 1.35)
    else:
        turn = off_deg * DEG * away / np.linalg.norm(away)
        n_factor = rng.choice([0.7, 1.3])
        eta_factor = rng.choice([0.5, 1.5])
    return true._replace(
        A=rotation.from_vector(turn) @ true.A,
        domain_ang=n_factor * true.domain_ang,
        eta_rad=eta_factor * true.eta_rad,
    )


# ---------------------------------------------------------------- domains


def learn_together(problems: Sequence[Problem]) -> LearnedMosaic:
    """Return the domains that lattices share; problems: start at their continuous fits."""
    eta_rad = float(np.median([problem.start.crystal.eta_rad for problem in problems]))
    return learn(problems, eta_rad=eta_rad)


def learn_alone(problem: Problem, number: int) -> LearnedMosaic:
    """Return the domains of a lattice by itself; problem: starts at its continuous fit."""
    eta_rad = float(problem.start.crystal.eta_rad)
    return learn([problem], eta_rad=eta_rad, seeds=[(0, number)], fine=FINEST_ALONE)
