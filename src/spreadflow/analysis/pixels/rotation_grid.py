"""Distributions of domain rotations as non-negative weights on a grid of rotation vectors."""

from typing import NamedTuple

import numpy as np

from spreadflow.models import Mosaic
from spreadflow.physics import rotation
from spreadflow.physics.padding import to_few_sizes

NODE_WIDTH = 0.5
"""Standard deviation of a node's own Gaussian, in steps of its grid."""


class Grid(NamedTuple):
    """Rotation vectors that are multiples of a step; weights sum to 1."""

    step: float
    """rad"""
    place: np.ndarray
    """(node, 3) int: the rotation vector in steps"""
    weight: np.ndarray
    """(node,)"""


def _cube(n: int) -> np.ndarray:
    """Return the integer vectors ((2n + 1)³, 3) from −n to n in each component."""
    along = np.arange(-n, n + 1)
    components = np.meshgrid(along, along, along, indexing="ij")
    return np.stack(components, axis=-1).reshape(-1, 3)


def ball(radius: float, step: float, eta_rad: float) -> Grid:
    """Return the nodes within a radius, rad, with the weights of the continuous distribution."""
    n_steps = int(np.ceil(radius / step))
    place = _cube(n_steps)
    square = (place**2).sum(axis=1) * step**2

    # the axis is uniform, so that the density of rotation vectors falls as 1/r²
    gaussian = np.exp(-0.5 * square / eta_rad**2)
    density = gaussian / (square + 0.5 * step**2)

    is_inside = square <= radius**2
    weight = density[is_inside]
    return Grid(step, place[is_inside], weight / weight.sum())


def heaviest(weight: np.ndarray, negligible: float) -> np.ndarray:
    """Return the nodes (n,) without the lightest, which together hold the share `negligible` of the
    weight (node,).

    n is 2ᵏ or 1.5·2ᵏ where there are as many nodes: few programs have to be compiled.
    """
    order, n = _lightest_last(weight, negligible)
    n_filled = len(to_few_sizes(np.empty(n), 16))
    return np.sort(order[:n_filled])


def _lightest_last(weight: np.ndarray, negligible: float) -> tuple[np.ndarray, int]:
    """Return the nodes (node,) from the heaviest on, and how many are left without the lightest."""
    order = np.argsort(-weight, kind="stable")
    together = np.cumsum(weight[order])
    enough = (1.0 - negligible) * weight.sum()
    return order, int(np.searchsorted(together, enough)) + 1


def finer(grid: Grid, step: float, negligible: float) -> Grid:
    """Return the same distribution on the nodes of a finer grid around the old ones: weights
    interpolated linearly, without the lightest, which together hold the share `negligible`.
    """
    ratio = round(grid.step / step)
    around = _cube(ratio - 1)
    hats = 1.0 - np.abs(around) / ratio
    parts = np.prod(hats, axis=1) / ratio**3

    # every old node hands parts of its weight to the new nodes around it
    places = ratio * grid.place[:, None] + around
    weights = grid.weight[:, None] * parts
    place, node = np.unique(places.reshape(-1, 3), axis=0, return_inverse=True)
    weight = np.bincount(node.ravel(), weights.ravel())

    order, n = _lightest_last(weight, negligible)
    rows = np.sort(order[:n])
    weight = weight[rows]
    return Grid(step, place[rows], weight / weight.sum())


def mosaic(grid: Grid, eta_rad: float) -> Mosaic:
    """Return the distribution that a grid stands for; eta_rad: the unit of its widths."""
    return Mosaic(
        rotations=rotation.from_vector(grid.step * grid.place),
        width=np.full(len(grid.weight), NODE_WIDTH * grid.step / eta_rad),
        share=grid.weight,
        eta_rad=np.float64(eta_rad),
    )
