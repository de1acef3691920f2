"""What the analysis tests share."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import drawn as drawn_lattices
from drawn import Drawn, as_curves
from lab import cached
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.pixels import lattice_fit
from spreadflow.config import for_stage, parse, section
from spreadflow.models import Noise
from spreadflow.physics import anomalous
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.recipes import patch as patches
from spreadflow.recipes import still


class CurvePixels(NamedTuple):
    """What pixels know about the curves of two sites, and draws of their slopes."""

    energies_ev: np.ndarray
    """(channel,)"""
    hessian: np.ndarray
    """(site·2·channel, the same) information about the curves (site, 2, channel)"""
    root: np.ndarray
    """root @ rootᵀ = hessian"""

    def slope(self, curves: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """hessian @ (where −ln L is least): of the true curves, and with noise if there is a
        generator.
        """
        noise = 0.0 if rng is None else self.root @ rng.standard_normal(self.root.shape[1])
        return self.hessian @ curves.ravel() + noise

    def refined(self, p: Parametrisation, slope: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """θ of the least −ln L with its restraints, and the pixels' information about θ."""
        pixels = p.basis.T @ self.hessian @ p.basis
        of_pixels = p.basis.T @ (slope - self.hessian @ p.reference.ravel())
        of_restraints = p.rows.T @ (p.precision * p.target)
        theta = np.linalg.solve(pixels + p.restraints, of_pixels + of_restraints)
        return theta, pixels


@pytest.fixture(scope="session")
def curve_pixels() -> CurvePixels:
    """400 spots of 12 pixels: each sees 1.5 eV (σ) of a pulse of 26 eV FWHM; hardly any light at
    the ends.
    """
    rng = np.random.default_rng(0)
    energies = np.arange(100) + 7070.5
    centres = 7120.0 + 13.0 * rng.standard_normal(400)[:, None]
    energy_of_pixel = centres + np.arange(12) - 5.5
    light = np.exp(-0.25 * ((energies - 7120.0) / 11.0) ** 2)
    window = np.exp(-0.5 * ((energies - energy_of_pixel[:, :, None]) / 1.5) ** 2)
    signs = rng.standard_normal((400, 1, 4, 1))
    rows = signs * (0.1 * light * window)[:, :, None]
    rows = rows.reshape(4800, 400)
    return CurvePixels(energies, rows.T @ rows, rows.T)


BRIGHT = {"photons": 4e12}
"""Pulses so bright that few lattices say much."""


@pytest.fixture(scope="session")
def drawn() -> Drawn:
    """A body-centred crystal whose model is right."""
    return drawn_lattices.body_centred()


class Patched(NamedTuple):
    """Simulated shoeboxes, and the model of their pixels with curves that are not the true ones."""

    factors: StructureFactors
    """with the metal's curves"""
    true: np.ndarray
    """(site, 2, channel)"""
    energies_ev: np.ndarray
    models: list[lattice_fit.Model]
    planes: list[np.ndarray]


@pytest.fixture(scope="session")
def patched(packed_run) -> Patched:
    """Twelve lattices, orientation, cell and mosaic domains known; scale and rotation are unknowns
    about the truth.
    """
    modules = ("spreadflow.recipes.patch", "spreadflow.analysis.pixels.lattice_fit")
    also = Path(__file__).read_text() + repr(packed_run.tree)
    return cached("patched", lambda: _make_patched(packed_run), *modules, also=also)


def _make_patched(packed_run) -> Patched:
    tree = packed_run.tree | {"beam": packed_run.tree["beam"] | BRIGHT}
    simulator = still.Simulator(for_stage(section(parse(tree), "simulate", "r"), "simulate"))
    factors = simulator.factors
    energies = simulator.energies
    metal = factors.anomalous.copy()
    metal[:2] = anomalous.site("Fe", "metallic", energies)
    start = factors._replace(anomalous=metal)
    models = []
    planes = []
    for number in range(1, 13):
        patch = patches.patch(simulator, number, d_min=2.6, d_max=4.0)
        rows = factors.rows(np.asarray(patch.parameters.hkl))
        of_metal = patch.parameters._replace(f_squared=start.squared(rows))
        problem = lattice_fit.problem(of_metal, "P 1", patch.shoeboxes, Noise(1.0, 0.0))
        model = lattice_fit.Model(problem, ("scale", "rotation"))
        bragg = model.photons(np.zeros(model.n_unknowns))
        models.append(model)
        planes.append(lattice_fit.planes_and_scale(bragg, problem.data, problem.noise)[1])
    return Patched(start, as_curves(factors.anomalous[:2]), energies, models, planes)
