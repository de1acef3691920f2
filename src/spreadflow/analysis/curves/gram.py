"""What the pixels of one lattice say about |F(hkl, E)|²: everything SPREAD needs of them, and no
pixels.

With the weights fixed, a pixel that expects Σ T·|F|² + plane is linear in |F|² of each channel. Its
part of −ln L is then a parabola, which the Gram matrix TᵀWT of a shoebox's templates holds exactly
once the plane is eliminated. What stage 1 refines (scale, rotation, cell, N, η) is kept beside it
to first order, and eliminated when curves are refined.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from spreadflow.analysis.pixels import lattice_fit, solve
from spreadflow.analysis.pixels.likelihood import Noise, variance
from spreadflow.analysis.pixels.solve import Restraint

DIM = 1e-3
"""Photons in a shoebox below which a channel of a reflection is left as the model has it."""


class Gram(NamedTuple):
    """The parabola of one lattice. Columns are channels of reflections, shoebox after shoebox.

    −ln L = loss − slopeᵀy − scoreᵀu + ½ yᵀ(normal)y + yᵀ(cross)u + ½ uᵀ(nuisance)u, y the change of
    |F|² from `intensity` and u that of what stage 1 refines; planes, and all terms no model
    changes, are left out.
    """

    start: np.ndarray
    """(box + 1,) first column of each shoebox, and the number of columns"""
    hkl: np.ndarray
    """(column, 3) int32"""
    channel: np.ndarray
    """(column,) int32: of the lattice's spectrum"""
    intensity: np.ndarray
    """(column,) |F|² that the templates were weighted with, electrons²"""
    slope: np.ndarray
    """(column,)"""
    cross: np.ndarray
    """(column, unknown)"""
    nuisance: np.ndarray
    """(unknown, unknown), restraints included"""
    score: np.ndarray
    """(unknown,)"""
    normal: np.ndarray
    """float32: the lower triangle of each shoebox's matrix, row by row, shoebox after shoebox"""
    loss: float
    n_pixels: int


def gram(model: lattice_fit.Model, planes: np.ndarray, *, model_error: float = 0.0) -> Gram:
    """Return the Gram of a model whose unknowns are zero where it starts, and planes (box, 3).

    model_error: standard deviation of the model of a pixel, relative to its Bragg photons; it
    lowers the weights.
    """
    return grams(model, planes, [np.ones(len(planes), dtype=bool)], model_error=model_error)[0]


def grams(
    model: lattice_fit.Model,
    planes: np.ndarray,
    groups: Sequence[np.ndarray],
    *,
    model_error: float = 0.0,
) -> list[Gram]:
    """Return the Grams of groups of shoeboxes (box,) bool, such as ranges of resolution, each as if
    there were no others.
    """
    problem = model.problem
    data = problem.data
    bragg, jacobian = model(np.zeros(model.n_unknowns))
    expected = bragg + solve.backgrounds(planes, data)
    weight = 1.0 / (variance(expected, problem.noise) + (model_error * bragg) ** 2)
    photons = model.templates(np.zeros(model.n_unknowns))
    start = problem.start
    others = np.column_stack([jacobian, data.photons - expected])
    intensity = np.asarray(start.f_squared, dtype=np.float64)
    boxes = [
        _box(photons[a:b], others[a:b], data.plane[a:b], weight[a:b], intensity)
        for a, b in pairwise(data.start)
    ]
    shared = (np.asarray(start.hkl, dtype=np.int32), intensity, model.restraint())
    n_pixels = np.diff(data.start)
    return [
        _joined([boxes[i] for i in np.flatnonzero(some)], int(n_pixels[some].sum()), *shared)
        for some in groups
    ]


class _Box(NamedTuple):
    """The blocks of one shoebox, plane eliminated."""

    column: np.ndarray
    normal: np.ndarray
    cross: np.ndarray
    """(column, unknown + 1): the last with the residual"""
    others: np.ndarray
    """(unknown + 1, unknown + 1)"""


def _joined(
    boxes: list[_Box], n_pixels: int, hkl: np.ndarray, intensity: np.ndarray, restraint: Restraint
) -> Gram:
    """Return hkl (node, 3), intensity (node, channel)."""
    n = len(restraint.centre)
    n_channels = intensity.shape[1]
    column = np.concatenate([np.empty(0, dtype=np.int64), *(box.column for box in boxes)])
    left = sum((box.others for box in boxes), np.zeros((n + 1, n + 1)))
    return Gram(
        start=np.cumsum([0, *(len(box.column) for box in boxes)]),
        hkl=hkl[column // n_channels],
        channel=(column % n_channels).astype(np.int32),
        intensity=intensity.ravel()[column],
        slope=np.concatenate([np.empty(0), *(box.cross[:, n] for box in boxes)]),
        cross=np.concatenate([np.empty((0, n)), *(box.cross[:, :n] for box in boxes)]),
        nuisance=left[:n, :n] + np.diag(restraint.precision),
        score=left[:n, n] + restraint.precision * restraint.centre,
        normal=np.concatenate([np.empty(0, dtype=np.float32), *(box.normal for box in boxes)]),
        loss=0.5 * float(left[n, n]) + restraint.loss(0.0),
        n_pixels=n_pixels,
    )


def _box(
    photons: csr_matrix,
    others: np.ndarray,
    plane: np.ndarray,
    weight: np.ndarray,
    intensity: np.ndarray,
) -> _Box:
    """Return photons: (pixel, node · channel) of the shoebox; others: (pixel, unknown + 1);
    intensity: (node, channel).
    """
    met, at = np.unique(photons.indices, return_inverse=True)
    node, back = np.unique(met // intensity.shape[1], return_inverse=True)
    bright = np.zeros((len(node), intensity.shape[1]))
    bright[back, met % intensity.shape[1]] = np.bincount(at, photons.data, len(met))
    kept = _lit(bright * intensity[node] > DIM)
    column = node[kept // intensity.shape[1]] * intensity.shape[1] + kept % intensity.shape[1]
    lit = np.diff(photons.indptr) > 0
    n = len(column)
    T = photons[lit][:, column].toarray()
    rest = np.concatenate([others, plane], axis=1)
    weighted = weight[:, None] * rest
    across = T.T @ weighted[lit]
    square = T.T @ (weight[lit, None] * T)
    left = rest.T @ weighted
    own = left[-3:, -3:] + solve.RIDGE * (np.trace(left[-3:, -3:]) + 1e-12) * np.eye(3)
    plane_across = np.concatenate([across[:, -3:], left[:-3, -3:]])
    moved = plane_across @ np.linalg.solve(own, plane_across.T)
    square = square - moved[:n, :n]
    across = across[:, :-3] - moved[:n, n:]
    left = left[:-3, :-3] - moved[n:, n:]
    return _Box(column, square[np.tril_indices(n)].astype(np.float32), across, left)


def _lit(bright: np.ndarray) -> np.ndarray:
    """Return columns from the first to the last bright channel of each node (node, channel)."""
    before, after = (np.logical_or.accumulate(b, axis=1) for b in (bright, bright[:, ::-1]))
    return np.flatnonzero(before & after[:, ::-1])


def model_error(model: np.ndarray, bragg: np.ndarray, photons: np.ndarray, noise: Noise) -> float:
    """Return standard deviation of a modelled pixel relative to its Bragg photons, from residuals;
    all (pixel,).

    e² of the variance V + (e·Bragg)² that gives the residuals their size, by moments.
    """
    v = variance(model, noise)
    worth = (bragg / v) ** 2
    return float(
        np.sqrt(max(worth @ ((photons - model) ** 2 - v), 0.0) / max(worth @ bragg**2, 1e-300))
    )
