"""Distributions of domain rotations with fewer components, which differ little from the old ones.

Components are Gaussians of rotation vectors, equally wide about each axis. Two of them are merged
at a time, the pair that changes the distribution least (Runnalls 2007).
"""

from typing import NamedTuple

import numpy as np

from spreadflow.models import Mosaic
from spreadflow.physics import rotation


class _Gaussians(NamedTuple):
    """Gaussians of rotation vectors, some of which others have taken in. Shape (component, …)."""

    centre: np.ndarray
    """(component, 3) rad"""
    variance: np.ndarray
    """rad², about each axis"""
    share: np.ndarray
    """0 of those that others have taken in"""


def reduced(mosaic: Mosaic, n_components: int, blur_rad: float) -> Mosaic:
    """Return the mosaicity with so many components, or with all that have a share if these are
    fewer. Shares, means and mean variances are those of the components that were merged.

    Of all pairs, those are merged whose loss is least: a bound of how far the Kullback-Leibler
    divergence from the old distribution grows, both blurred. blur_rad: angular standard deviation
    within which nobody can tell domains apart, > 0.
    """
    assert mosaic.eta_rad is not None, "the unit of its widths"
    unit = float(mosaic.eta_rad)
    has_share = mosaic.share > 0.0
    gaussians = _Gaussians(
        centre=rotation.vector(mosaic.rotations[has_share]),
        variance=(unit * mosaic.width[has_share]) ** 2 + blur_rad**2,
        share=mosaic.share[has_share],
    )
    _merge_pairs(gaussians, len(gaussians.share) - n_components)

    is_left = gaussians.share > 0.0
    own_variance = np.maximum(gaussians.variance[is_left] - blur_rad**2, 0.0)
    return mosaic._replace(
        rotations=rotation.from_vector(gaussians.centre[is_left]),
        width=np.sqrt(own_variance) / unit,
        share=gaussians.share[is_left],
    )


def _merge_pairs(gaussians: _Gaussians, n_pairs: int) -> None:
    """Merge the pair whose loss is least, so many times. Changes the arrays."""
    rows = np.arange(len(gaussians.share))
    losses = np.array([_losses(gaussians, row) for row in range(len(rows))])
    partner = losses.argmin(axis=1)
    loss = losses[rows, partner]
    for _ in range(n_pairs):
        row = int(loss.argmin())
        other = int(partner[row])
        _merge(gaussians, row, other)
        losses[other] = np.inf
        losses[:, other] = np.inf
        losses[row] = _losses(gaussians, row)
        losses[:, row] = losses[row]

        changed = (partner == row) | (partner == other) | (losses[row] < loss)
        changed[[row, other]] = True
        partner[changed] = losses[changed].argmin(axis=1)
        loss[changed] = losses[changed, partner[changed]]


def _losses(gaussians: _Gaussians, row: int) -> np.ndarray:
    """Return the loss (component,) where each is merged with the one of a row; infinite for itself
    and those that are no longer there.
    """
    variance = gaussians.variance
    share = gaussians.share
    losses = 1.5 * (
        (share[row] + share) * np.log(_merged_variance(gaussians, row, slice(None)))
        - share[row] * np.log(variance[row])
        - share * np.log(variance)
    )
    losses[share == 0.0] = np.inf
    losses[row] = np.inf
    return losses


def _merged_variance(gaussians: _Gaussians, row: int, others: int | slice) -> np.ndarray:
    """Return the mean variance about an axis of a component together with each of others."""
    centre, variance, share = gaussians
    total = share[row] + share[others]
    square = ((centre[others] - centre[row]) ** 2).sum(axis=-1)
    between = share[row] * share[others] * square / (3.0 * total**2)
    return (share[row] * variance[row] + share[others] * variance[others]) / total + between


def _merge(gaussians: _Gaussians, row: int, other: int) -> None:
    """Merge a component into that of a row."""
    centre, variance, share = gaussians
    total = share[row] + share[other]
    variance[row] = _merged_variance(gaussians, row, other)
    centre[row] = (share[row] * centre[row] + share[other] * centre[other]) / total
    share[row] = total
    share[other] = 0.0
