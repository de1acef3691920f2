"""What is known of unique intensities while lattices are scaled: before anything is measured, from
measurements, from those of the Friedel mate, and from all together.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.merging.merging import ANOMALOUS, Unique

LARGEST_RELATIVE_VARIANCE = 100.0
"""Intensities of a shell do not vary more than this, in units of Wilson's variance."""

LEAST_SHELL_MEAN = 1e-3
"""Least mean intensity of a shell in Wilson's prior, relative to the mean of all."""


class Estimate(NamedTuple):
    """Intensities and how well they are known; each (unique,)."""

    mean: np.ndarray
    precision: np.ndarray
    """1/variance"""


def wilson_prior(
    total: np.ndarray, count: np.ndarray, unique: Unique, variance: np.ndarray | None = None
) -> Estimate:
    """Return Wilson's (1949) distribution of intensities in each shell, mean Σ total / Σ count, for
    every unique reflection. total, count: (unique,).

    The variance is mean² for acentric and 2 mean² for centric reflections, and more in a shell
    whose intensities vary more, as those of low orders do. variance: (unique,) of `total`, where
    that is known.
    """
    shell_total = np.bincount(unique.shell, total)
    shell_count = np.bincount(unique.shell, count)
    overall = max(shell_total.sum(), 0.0) / shell_count.sum()

    divisor = np.where(shell_count > 0, shell_count, 1.0)
    shell_mean = shell_total / divisor
    shell_mean = np.maximum(shell_mean, LEAST_SHELL_MEAN * overall)
    mean = shell_mean[unique.shell]
    relative_variance = np.where(unique.friedel == 0, 2.0, 1.0)
    if variance is not None:
        square = np.where(count > 0, (total - mean) ** 2 - variance, 0.0) / mean**2
        expected = np.where(count > 0, relative_variance, 0.0)
        of_shell = np.bincount(unique.shell, square) / np.maximum(
            np.bincount(unique.shell, expected), 1.0
        )
        of_shell = np.clip(of_shell, 1.0, LARGEST_RELATIVE_VARIANCE)
        relative_variance = relative_variance * of_shell[unique.shell]
    return Estimate(mean, 1.0 / (relative_variance * mean**2))


def with_prior(prior: Estimate, measured: Estimate) -> Estimate:
    """Return what prior and measurements say together.

    Wilson's distribution is no Gaussian: where measurements contradict it by more than a standard
    deviation, its precision falls with the square of the contradiction.
    """
    is_measured = measured.precision > 0
    precision = np.where(is_measured, measured.precision, 1.0)
    difference = np.where(is_measured, measured.mean - prior.mean, 0.0)
    contradiction = difference**2 / (1.0 / prior.precision + 1.0 / precision)
    of_prior = prior.precision / np.maximum(contradiction, 1.0)

    total = of_prior + measured.precision
    mean = (of_prior * prior.mean + measured.precision * measured.mean) / total
    return Estimate(mean, total)


def of_mates(merged: Estimate, prior: Estimate, unique: Unique) -> Estimate:
    """Return what the observations of its Friedel mate say about each reflection, (unique,); of
    precision 0 where the mate was not measured. merged: of all observations of each reflection.

    Differences go with the square root of the intensity, so that those of weak reflections are
    relatively large. The intensity is the mean of both where both were measured: of two mates the
    one that fluctuated down would otherwise seem to be known better, and the other to be wild.
    """
    has_mate = (unique.mate >= 0) & (merged.precision[unique.mate] > 0)
    mean = np.where(has_mate, merged.mean[unique.mate], 0.0)
    precision = np.where(has_mate, merged.precision[unique.mate], 1.0)
    of_both = np.where(merged.precision > 0, 0.5 * (mean + merged.mean), mean)
    strength = np.maximum(of_both, 0.0)
    anomalous = ANOMALOUS**2 * strength * np.maximum(strength, prior.mean)
    variance = 1.0 / precision + anomalous
    return Estimate(mean, has_mate / variance)


def expected_of(posterior: Estimate, mate: Estimate, unique: Unique) -> np.ndarray:
    """Return the intensities that variances are taken from, (unique,): those of the posterior, and
    where both Friedel mates were measured the mean of both.

    Of two mates the one that fluctuated down would otherwise have the smaller σ, and win.
    """
    of_mate = posterior.mean[unique.mate]
    return np.where(mate.precision > 0, 0.5 * (posterior.mean + of_mate), posterior.mean)
