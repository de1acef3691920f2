"""What the analysis tests share."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from lab import cached
from spreadflow.analysis.curves import controls, dispersion, expand
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.expand import LatticeTerms
from spreadflow.analysis.curves.gram import Gram
from spreadflow.analysis.pixels import lattice_fit
from spreadflow.analysis.pixels.likelihood import Noise
from spreadflow.config import for_stage, parse, section
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


class Drawn(NamedTuple):
    """Lattices of a body-centred crystal with two sites, drawn as numbers."""

    factors: StructureFactors
    """of the start"""
    p: Parametrisation
    theta: np.ndarray
    """(theta,) of the true curves"""

    @property
    def energies_ev(self) -> np.ndarray:
        return self.p.energies_ev

    def lattices(
        self, n: int, seed: int, excess: float = 1.0
    ) -> tuple[list[LatticeTerms], np.ndarray]:
        """n lattices and the photons of their pulses (lattice, channel). excess: variance of a
        pixel over its own.
        """
        rng = np.random.default_rng(seed)
        lattices = []
        pulses = []
        for _ in range(n):
            terms, pulse = self._lattice(rng, excess)
            lattices.append(terms)
            pulses.append(pulse)
        return lattices, np.array(pulses)

    def _lattice(self, rng: np.random.Generator, excess: float) -> tuple[LatticeTerms, np.ndarray]:
        """Ten shoeboxes of 25 pixels of variance 1, in which a spot of five channels moves; scale 3
        % off.
        """
        centre = rng.uniform(-8, 8)
        true = self.p.curves(self.theta)
        envelope = np.exp(-0.5 * ((self.energies_ev - 7120.0 - centre) / 9.0) ** 2)
        pulse = envelope * rng.gamma(2.0, size=12)
        rows = rng.choice(len(self.factors.hkl), 10, replace=False)
        right = self.factors._replace(anomalous=true[:, 0] + 1j * true[:, 1])
        boxes = [self._box(rng, row, right, pulse, excess) for row in rows]
        normal, slope, cross, others, channel, intensity = zip(*boxes, strict=True)
        left = np.sum(others, axis=0)
        gram = Gram(
            start=np.arange(0, 51, 5),
            hkl=self.factors.hkl[rows].repeat(5, axis=0),
            channel=np.concatenate(channel).astype(np.int32),
            intensity=np.concatenate(intensity),
            slope=np.concatenate(slope),
            cross=np.concatenate(cross),
            nuisance=left[:1, :1] + 0.04,
            score=left[:1, 1],
            normal=np.concatenate(normal),
            loss=0.5 * left[1, 1],
            n_pixels=250,
        )
        return expand.lattice(gram, self.factors, rows.repeat(5)), pulse

    def _box(self, rng, row, right: StructureFactors, pulse: np.ndarray, excess: float) -> tuple:
        """A shoebox's share of `Gram`: normal, slope, cross, others, channel, intensity."""
        channel = rng.integers(0, 8) + np.arange(5)
        centres = rng.uniform(6, 10) + 2.0 * np.arange(5)
        place = np.arange(25)[:, None] - centres
        photons = 3e-3 * pulse[channel] * np.exp(-0.5 * (place / 1.5) ** 2)
        intensity = self.factors.squared(np.array([row]))[0, channel]
        true_intensity = right.squared(np.array([row]))[0, channel]
        bright = photons @ intensity
        expected = photons @ (true_intensity - intensity) + 0.03 * bright
        residual = expected + np.sqrt(excess) * rng.standard_normal(25)
        others = np.column_stack([bright, residual])
        cross = photons.T @ others
        normal = (photons.T @ photons)[np.tril_indices(5)].astype(np.float32)
        return normal, cross[:, 1], cross[:, :1], others.T @ others, channel, intensity


TRUE = ("oxidized", "reduced")
"""Curves of the two sites of drawn lattices."""

BRIGHT = {"photons": 4e12}
"""Pulses so bright that few lattices say much."""


@pytest.fixture(scope="session")
def drawn() -> Drawn:
    rng = np.random.default_rng(1)
    energies = 7109.0 + 2.0 * np.arange(12)
    hkl = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    is_there = (hkl.sum(axis=1) % 2 == 0) & hkl.any(axis=1)
    hkl = hkl[is_there].astype(np.int32)
    real, imaginary = 30.0 * rng.standard_normal((2, len(hkl)))
    positions = np.array([[0.13, 0.37], [0.21, 0.09], [0.31, 0.24]])
    groups = 2.0 * np.exp(2j * np.pi * hkl @ positions).T
    start, true = (
        np.array([anomalous.site("Fe", name, energies) for name in names])
        for names in (("metallic", "metallic"), TRUE)
    )
    factors = StructureFactors(hkl, real + 1j * imaginary, groups, start, 2)
    p = dispersion.free(as_curves(start), energies, energies[::2])
    return Drawn(factors, p, controls.nearest(p, as_curves(true)))


def as_curves(complex_curves: np.ndarray) -> np.ndarray:
    """(site, 2, channel) of f' + i f'' (site, channel)."""
    return np.stack([complex_curves.real, complex_curves.imag], axis=1)


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
        rows = expand.rows(factors, np.asarray(patch.parameters.hkl))
        of_metal = patch.parameters._replace(f_squared=start.squared(rows))
        problem = lattice_fit.problem(of_metal, "P 1", patch.shoeboxes, Noise(1.0, 0.0))
        model = lattice_fit.Model(problem, ("scale", "rotation"))
        bragg = model.photons(np.zeros(model.n_unknowns))
        models.append(model)
        planes.append(lattice_fit.planes_and_scale(bragg, problem.data, problem.noise)[1])
    return Patched(start, as_curves(factors.anomalous[:2]), energies, models, planes)
