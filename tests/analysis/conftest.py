"""What the analysis tests share."""

from typing import NamedTuple

import numpy as np
import pytest


class CurvePixels(NamedTuple):
    """What pixels know about the curves of two sites, and draws of what they say."""

    energies_ev: np.ndarray
    """(channel,)"""
    hessian: np.ndarray
    """(site·2·channel, the same) information about the curves (site, 2, channel)"""
    root: np.ndarray
    """root @ rootᵀ = hessian"""

    def said(self, curves: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """hessian @ (where −ln L is least): of the true curves, and with noise if there is a generator."""
        noise = 0.0 if rng is None else self.root @ rng.standard_normal(self.root.shape[1])
        return self.hessian @ curves.ravel() + noise

    def refined(self, p, said: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """θ of the least −ln L with its restraints, and the pixels' information about θ."""
        of = p.basis.T @ self.hessian @ p.basis
        side = p.basis.T @ (said - self.hessian @ p.reference.ravel()) + p.rows.T @ (p.precision * p.target)
        return np.linalg.solve(of + p.restraints, side), of


@pytest.fixture(scope="session")
def curve_pixels() -> CurvePixels:
    """400 spots of 12 pixels: each sees 1.5 eV (σ) of a pulse of 26 eV FWHM; hardly any light at the ends."""
    rng = np.random.default_rng(0)
    energies = np.arange(100) + 7070.5
    at = 7120.0 + 13.0 * rng.standard_normal(400)[:, None] + np.arange(12) - 5.5
    light = np.exp(-0.25 * ((energies - 7120.0) / 11.0) ** 2)
    sees = 0.1 * light * np.exp(-0.5 * ((energies - at[:, :, None]) / 1.5) ** 2)
    rows = (rng.standard_normal((400, 1, 4, 1)) * sees[:, :, None]).reshape(4800, 400)
    return CurvePixels(energies, rows.T @ rows, rows.T)
