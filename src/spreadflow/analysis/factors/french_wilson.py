"""Amplitudes from intensities that may be negative: French & Wilson (1978) Acta Cryst. A34, 517.

The intensity of a reflection is known with a normal error, and its prior is Wilson's with the mean
of its resolution. Means over the posterior are formed by quadrature.
"""

from typing import NamedTuple

import numpy as np

N_POINTS = 200
"""Points of the quadrature along √I."""

N_SIGMAS = 8.0
"""Standard deviations of an intensity out to which its posterior is followed."""

LARGEST_MEAN = 30.0
"""Means of the prior out to which a posterior is followed, at most."""

CHUNK = 4096
"""Reflections worked on at a time: bounds the memory."""


class Posterior(NamedTuple):
    """Means over the posterior; all (reflection,)."""

    intensity: np.ndarray
    amplitude: np.ndarray
    amplitude_sigma: np.ndarray


def posterior(
    intensity: np.ndarray, sigma: np.ndarray, mean: np.ndarray, is_centric: np.ndarray
) -> Posterior:
    """Return what intensities and amplitudes are expected to be.

    All (reflection,): intensity and its σ > 0, the mean > 0 of Wilson's distribution, and whether
    that is the one of centric reflections.
    """
    n_chunks = 1 + len(intensity) // CHUNK
    chunks = zip(
        np.array_split(intensity, n_chunks),
        np.array_split(sigma, n_chunks),
        np.array_split(mean, n_chunks),
        np.array_split(is_centric, n_chunks),
        strict=True,
    )
    pieces = [_posterior(*chunk) for chunk in chunks]
    return Posterior(*map(np.concatenate, zip(*pieces, strict=True)))


def _posterior(
    intensity: np.ndarray, sigma: np.ndarray, mean: np.ndarray, is_centric: np.ndarray
) -> Posterior:
    """Return `posterior` of a chunk.

    In F = √I the prior's density is ∝ F exp(−F²/mean) (acentric) or exp(−F²/(2 mean)) (centric).
    """
    lowest = np.sqrt(np.maximum(intensity - N_SIGMAS * sigma, 0.0))
    beyond = np.maximum(intensity, 0.0) + LARGEST_MEAN * mean
    reached = np.minimum(intensity + N_SIGMAS * sigma, beyond)
    highest = np.sqrt(np.maximum(reached, N_SIGMAS * np.minimum(sigma, mean)))
    steps = (np.arange(N_POINTS) + 0.5) / N_POINTS
    F = lowest[:, None] + (highest - lowest)[:, None] * steps

    I = F**2
    log = -0.5 * ((intensity[:, None] - I) / sigma[:, None]) ** 2
    per_mean = I / mean[:, None]
    log += np.where(is_centric[:, None], -0.5 * per_mean, np.log(F) - per_mean)
    weight = np.exp(log - log.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)

    amplitude = (weight * F).sum(axis=1)
    expected = (weight * I).sum(axis=1)
    variance = (weight * (F - amplitude[:, None]) ** 2).sum(axis=1)
    return Posterior(expected, amplitude, np.sqrt(variance))


def shell_means(
    intensity: np.ndarray, is_known: np.ndarray, shell: np.ndarray, n_shells: int
) -> np.ndarray:
    """Return the mean of known intensities (reflection,) in each shell (shell,), > 0; a shell
    without any has that of the nearest one.

    is_known, shell: (reflection,).
    """
    n = np.bincount(shell[is_known], minlength=n_shells)
    total = np.bincount(shell[is_known], intensity[is_known], n_shells)
    is_good = (n > 0) & (total > 0)
    if not is_good.any():
        return np.ones(n_shells)
    rows = np.flatnonzero(is_good)
    nearest = rows[np.abs(np.subtract.outer(np.arange(n_shells), rows)).argmin(axis=1)]
    return (total / np.maximum(n, 1))[nearest]
