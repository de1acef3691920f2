"""How likely pixels are under a model: the loss −ln L of each pixel, its score, and the information
it holds.

Normal: the variance is the model's, V = m + σ_r² + (c m)²: counting, readout, and gains known to c.
The term ½ ln V is in the loss, so that the model cannot buy a better fit with a larger variance.
Poisson: data and model shifted by σ_r².
"""

from typing import Literal, NamedTuple

import numpy as np

Target = Literal["normal", "poisson"]
FLOOR = 1e-3
"""Photons, below which a model without readout noise is as good as dark."""


class Noise(NamedTuple):
    """What beside counting makes pixels differ from their expectation."""

    readout_photons: float
    """standard deviation of the readout, photons"""
    calibration: float
    """relative standard deviation of the gains"""


class Pixelwise(NamedTuple):
    """Of each pixel (n,)."""

    loss: np.ndarray
    """−ln L, without the terms no model changes"""
    score: np.ndarray
    """d loss/d model"""
    information: np.ndarray
    """expected second derivative of the loss by the model (Fisher)"""


def variance(model: np.ndarray, noise: Noise) -> np.ndarray:
    """Return (n,) variance of pixels that expect `model` photons."""
    m = _counted(model, noise)
    return m + noise.readout_photons**2 + (noise.calibration * m) ** 2


def _counted(model: np.ndarray, noise: Noise) -> np.ndarray:
    """Return (n,) photons that variances are of: the model's; below `_dark` they go to zero as a
    hyperbola.

    Where there is no background planes are as often below zero as above: a fit passes there, and
    −ln L has no edge.
    """
    dark = _dark(noise)
    return np.maximum(model, dark / (2.0 - np.minimum(model, dark) / dark))


def _dark(noise: Noise) -> float:
    return max(0.25 * noise.readout_photons**2, FLOOR)


def pixelwise(
    data: np.ndarray, model: np.ndarray, noise: Noise, target: Target = "normal"
) -> Pixelwise:
    """Return loss of data (n,) under a model (n,), photons."""
    away = data - model
    m = _counted(model, noise)
    dark = _dark(noise)
    if target == "poisson":
        readout = noise.readout_photons**2
        lit = np.maximum(model, dark)
        shifted = lit + readout
        below = model - lit  # where the loss goes on as a parabola
        loss = shifted - (data + readout) * np.log(shifted) - below * (away + 0.5 * below) / shifted
        return Pixelwise(loss, -away / shifted, 1.0 / shifted)
    v = variance(model, noise)
    slope = np.minimum(m / dark, 1.0) ** 2 * (1.0 + 2.0 * noise.calibration**2 * m)
    square = away**2 / v
    loss = 0.5 * (np.log(2.0 * np.pi * v) + square)
    return Pixelwise(
        loss, (0.5 * slope * (1.0 - square) - away) / v, 1.0 / v + 0.5 * (slope / v) ** 2
    )
