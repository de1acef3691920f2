"""How likely pixels are under a model: the loss −ln L of each pixel, its score, and the information
it holds.

There are two targets. `normal` takes the variance from the model, V = m + σ_r² + (c m)²: counting,
readout, and gains known to c. The term ½ ln V is in the loss, so that the model cannot buy a better
fit with a larger variance. `poisson` shifts data and model by σ_r².
"""

from typing import Literal, NamedTuple

import numpy as np

from spreadflow.models import Noise

Target = Literal["normal", "poisson"]

FLOOR = 1e-3
"""Photons below which a model without readout noise is as good as dark."""


class Pixelwise(NamedTuple):
    """The loss and its derivatives by the model of each pixel (n,)."""

    loss: np.ndarray
    """−ln L, without the terms that no model changes"""
    score: np.ndarray
    """d loss/d model"""
    information: np.ndarray
    """expected second derivative of the loss by the model (Fisher)"""


def variance(model: np.ndarray, noise: Noise) -> np.ndarray:
    """Return the variance (n,) of pixels that are expected to hold `model` (n,) photons."""
    counted = _counted(model, noise)
    return counted + noise.readout_photons**2 + (noise.calibration_error * counted) ** 2


def _counted(model: np.ndarray, noise: Noise) -> np.ndarray:
    """Return the photons (n,) whose counting noise a pixel has: the model's, never negative.

    Below `dark` they go to zero as a hyperbola. Where there is no background, planes come out
    below zero as often as above, so that fits pass there, and −ln L must have no edge.
    """
    limit = dark(noise)
    return np.maximum(model, limit / (2.0 - np.minimum(model, limit) / limit))


def dark(noise: Noise) -> float:
    """Return the photons below which a pixel counts as dark."""
    return max(0.25 * noise.readout_photons**2, FLOOR)


def pixelwise(
    data: np.ndarray, model: np.ndarray, noise: Noise, target: Target = "normal"
) -> Pixelwise:
    """Return how likely `data` (n,) are under `model` (n,), both in photons."""
    if target == "poisson":
        return _poisson(data, model, noise)
    return _normal(data, model, noise)


def _poisson(data: np.ndarray, model: np.ndarray, noise: Noise) -> Pixelwise:
    """Return Poisson's loss; where the model is dark, it goes on as a parabola."""
    residual = data - model
    readout = noise.readout_photons**2
    lit = np.maximum(model, dark(noise))
    shifted = lit + readout
    below = model - lit
    parabola = below * (residual + 0.5 * below) / shifted
    loss = shifted - (data + readout) * np.log(shifted) - parabola
    return Pixelwise(loss, score=-residual / shifted, information=1.0 / shifted)


def _normal(data: np.ndarray, model: np.ndarray, noise: Noise) -> Pixelwise:
    """Return the normal loss, whose variance is the model's."""
    residual = data - model
    counted = _counted(model, noise)
    v = variance(model, noise)

    slope_of_counted = np.minimum(counted / dark(noise), 1.0) ** 2
    slope_of_v = slope_of_counted * (1.0 + 2.0 * noise.calibration_error**2 * counted)

    square = residual**2 / v
    loss = 0.5 * (np.log(2.0 * np.pi * v) + square)
    score = (0.5 * slope_of_v * (1.0 - square) - residual) / v
    information = 1.0 / v + 0.5 * (slope_of_v / v) ** 2
    return Pixelwise(loss, score, information)
