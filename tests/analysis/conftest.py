"""What the analysis tests share."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from lab import kept
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
    """What pixels know about the curves of two sites, and draws of what they say."""

    energies_ev: np.ndarray
    """(channel,)"""
    hessian: np.ndarray
    """(site·2·channel, the same) information about the curves (site, 2, channel)"""
    root: np.ndarray
    """root @ rootᵀ = hessian"""

    def said(self, curves: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """hessian @ (where −ln L is least): of the true curves, and with noise if there is a
        generator.
        """
        noise = 0.0 if rng is None else self.root @ rng.standard_normal(self.root.shape[1])
        return self.hessian @ curves.ravel() + noise

    def refined(self, p, said: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """θ of the least −ln L with its restraints, and the pixels' information about θ."""
        of = p.basis.T @ self.hessian @ p.basis
        side = p.basis.T @ (said - self.hessian @ p.reference.ravel()) + p.rows.T @ (
            p.precision * p.target
        )
        return np.linalg.solve(of + p.restraints, side), of


@pytest.fixture(scope="session")
def curve_pixels() -> CurvePixels:
    """400 spots of 12 pixels: each sees 1.5 eV (σ) of a pulse of 26 eV FWHM; hardly any light at
    the ends.
    """
    rng = np.random.default_rng(0)
    energies = np.arange(100) + 7070.5
    at = 7120.0 + 13.0 * rng.standard_normal(400)[:, None] + np.arange(12) - 5.5
    light = np.exp(-0.25 * ((energies - 7120.0) / 11.0) ** 2)
    sees = 0.1 * light * np.exp(-0.5 * ((energies - at[:, :, None]) / 1.5) ** 2)
    rows = (rng.standard_normal((400, 1, 4, 1)) * sees[:, :, None]).reshape(4800, 400)
    return CurvePixels(energies, rows.T @ rows, rows.T)


class Drawn(NamedTuple):
    """Lattices of a body-centred crystal with two sites, made as numbers: what is true, and what
    the start is.
    """

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
        return _zip([self._lattice(rng, excess) for _ in range(n)])

    def _lattice(self, rng: np.random.Generator, excess: float) -> tuple[LatticeTerms, np.ndarray]:
        """Ten shoeboxes of 25 pixels of variance 1, in which a spot of five channels moves; scale 3
        % off.
        """
        centre = rng.uniform(-8, 8)
        true = self.p.curves(self.theta)
        pulse = np.exp(-0.5 * ((self.energies_ev - 7120.0 - centre) / 9.0) ** 2) * rng.gamma(
            2.0, size=12
        )
        rows = rng.choice(len(self.factors.hkl), 10, replace=False)
        right = self.factors._replace(anomalous=true[:, 0] + 1j * true[:, 1])
        pieces = [self._box(rng, row, right, pulse, excess) for row in rows]
        normal, slope, cross, others, channel, intensity = zip(*pieces, strict=True)
        left = np.sum(others, axis=0)
        made = Gram(
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
        return expand.lattice(made, self.factors, rows.repeat(5)), pulse

    def _box(self, rng, row, right: StructureFactors, pulse: np.ndarray, excess: float) -> tuple:
        channel = rng.integers(0, 8) + np.arange(5)
        place = np.arange(25)[:, None] - rng.uniform(6, 10) - 2.0 * np.arange(5)
        photons = 3e-3 * pulse[channel] * np.exp(-0.5 * (place / 1.5) ** 2)
        intensity = self.factors.squared(np.array([row]))[0, channel]
        bright = photons @ intensity
        data = photons @ (right.squared(np.array([row]))[0, channel] - intensity) + 0.03 * bright
        others = np.column_stack([bright, data + np.sqrt(excess) * rng.standard_normal(25)])
        cross = photons.T @ others
        normal = (photons.T @ photons)[np.tril_indices(5)].astype(np.float32)
        return normal, cross[:, 1], cross[:, :1], others.T @ others, channel, intensity


def _zip(pairs: list) -> tuple[list, np.ndarray]:
    return [pair[0] for pair in pairs], np.array([pair[1] for pair in pairs])


@pytest.fixture(scope="session")
def drawn() -> Drawn:
    rng = np.random.default_rng(1)
    energies = 7109.0 + 2.0 * np.arange(12)
    hkl = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    hkl = hkl[(hkl.sum(axis=1) % 2 == 0) & hkl.any(axis=1)].astype(np.int32)
    rest = 30.0 * rng.standard_normal((2, len(hkl)))
    groups = 2.0 * np.exp(2j * np.pi * hkl @ np.array([[0.13, 0.37], [0.21, 0.09], [0.31, 0.24]])).T
    start, true = (
        np.array([anomalous.site("Fe", n, energies) for n in names])
        for names in (("metallic",) * 2, TRUE)
    )
    factors = StructureFactors(hkl, rest[0] + 1j * rest[1], groups, start, 2)

    def as_curves(f):
        return np.stack([f.real, f.imag], axis=1)

    p = dispersion.free(as_curves(start), energies, energies[::2])
    return Drawn(factors, p, controls.nearest(p, as_curves(true)))


TRUE = ("oxidized", "reduced")
"""curves of the two sites of made lattices"""
BRIGHT = {"photons": 4e12}
"""pulses, so that few lattices say much"""


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
    return kept("patched", lambda: _make_patched(packed_run), *modules, also=also)


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
        begun = patch.parameters._replace(f_squared=start.squared(rows))
        of = lattice_fit.problem(begun, "P 1", patch.shoeboxes, Noise(1.0, 0.0), 1)
        model = lattice_fit.Model(of, ("scale", "rotation"))
        models.append(model)
        planes.append(
            lattice_fit.planes_and_scale(model.photons(np.zeros(4)), of.data, of.noise)[1]
        )
    true = np.stack([factors.anomalous[:2].real, factors.anomalous[:2].imag], axis=1)
    return Patched(start, true, energies, models, planes)
