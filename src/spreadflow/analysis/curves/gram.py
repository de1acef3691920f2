"""What the pixels of one lattice say about |F(hkl, E)|²: everything SPREAD needs of them, and no
pixels.

With fixed weights, −ln L of a pixel that is expected to hold Σ T·|F|² + plane is a parabola in |F|²
of each channel. The Gram matrix TᵀWT of a shoebox's templates holds it exactly once the plane is
eliminated. What stage 1 refines (scale, rotation, cell, N, η) is kept beside it to first order, and
eliminated when curves are refined.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import scipy

from spreadflow.analysis.least_squares import RIDGE, eliminate, regular
from spreadflow.analysis.pixels import lattice_fit, solve, templates
from spreadflow.analysis.pixels.likelihood import variance
from spreadflow.analysis.pixels.solve import Restraint
from spreadflow.models import Noise

DIM = 1e-3
"""Photons in a shoebox below which a channel of a reflection is left as the model has it."""


SMALLEST_LEFT = 1e-9
"""Share of the variance of a sum of pixels that counting always leaves."""


class Gram(NamedTuple):
    """The parabola of one lattice. Its columns are channels of reflections, shoebox after shoebox.

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
    """−ln L where |F|² and what stage 1 refines are those of the model"""
    n_pixels: int

    def matrices(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield the columns of each shoebox, and its matrix (n, n)."""
        first = 0
        for start, stop in pairwise(self.start):
            n = stop - start
            last = first + n * (n + 1) // 2
            yield slice(start, stop), _square(self.normal[first:last], n)
            first = last


@cache
def _triangle(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the lower triangle of an (n, n) matrix."""
    return np.tril_indices(n)


def _square(triangle: np.ndarray, n: int) -> np.ndarray:
    """Return the symmetric matrix (n, n) with this lower triangle."""
    out = np.empty((n, n))
    row, column = _triangle(n)
    out[row, column] = triangle
    out[column, row] = triangle
    return out


def gram(
    model: lattice_fit.Model,
    planes: np.ndarray,
    *,
    model_error: float = 0.0,
    typical: np.ndarray | None = None,
) -> Gram:
    """Return the Gram of a model whose unknowns are zero where it starts, and of planes (box, 3).

    model_error: standard deviation of the model of a pixel, relative to its Bragg photons; it
    lowers the weights. typical: as in `grams`.
    """
    every = np.ones(len(planes), dtype=bool)
    return grams(model, planes, [every], model_error=model_error, typical=typical)[0]


def grams(
    model: lattice_fit.Model,
    planes: np.ndarray,
    groups: Sequence[np.ndarray],
    *,
    model_error: float = 0.0,
    typical: np.ndarray | None = None,
) -> list[Gram]:
    """Return the Grams of groups of shoeboxes (box,) bool, such as ranges of resolution, each as if
    there were no others.

    typical: (node,) |F|² as reflections have it at their resolution, where |F|² of a node is one
    column for all channels (channel 0); it says which columns are bright enough to be kept. Errors
    of the model then move photons from pixel to pixel of a shoebox, but make none (`_moved`). None
    = each channel is a column, |F|² of the model says which are kept, and errors of pixels are
    independent.
    """
    problem = model.problem
    data = problem.data
    start = problem.start
    at_start = np.zeros(model.n_unknowns)
    bragg, jacobian = model(at_start)
    expected = bragg + solve.backgrounds(planes, data)
    weight = 1.0 / (variance(expected, problem.noise) + (model_error * bragg) ** 2)
    others = np.column_stack([jacobian, data.photons - expected])
    intensity = np.asarray(start.f_squared, dtype=np.float64)
    if typical is None:
        photons = templates.of_channels(model, at_start)
        brightness = intensity
    else:
        photons = templates.of_nodes(model, at_start)
        intensity = intensity[:, :1]
        brightness = np.zeros(intensity.shape)
        brightness[: len(typical), 0] = typical
    boxes = []
    for first, last in pairwise(data.start):
        pixels = slice(first, last)
        of_box = _Weights(weight[pixels])
        if typical is not None:
            of_box = _moved(weight[pixels], model_error, bragg[pixels])
        boxes.append(_box(photons[pixels], others[pixels], data.plane[pixels], of_box, brightness))

    n_pixels = np.diff(data.start)
    hkl = np.asarray(start.hkl, dtype=np.int32)
    restraint = model.restraint()
    return [
        _joined(
            [boxes[box] for box in np.flatnonzero(is_in_group)],
            int(n_pixels[is_in_group].sum()),
            hkl,
            intensity,
            restraint,
        )
        for is_in_group in groups
    ]


def of_a_share(whole: Gram, left_out: float) -> Gram:
    """Return the Gram of shoeboxes that were chosen by lot and stand for all: what it says once the
    lattice is eliminated is that of all shoeboxes, times the share, but for chance.

    left_out: the share of shoeboxes that were not chosen. What the lattice takes from columns is a
    sum over pairs of shoeboxes, with the inverse of a sum over shoeboxes: among chosen ones pairs
    of two count too little against those of one with itself. Of these so much is put back.
    """
    if left_out == 0.0:
        return whole
    held = np.linalg.inv(whole.nuisance)
    triangles = []
    for columns, matrix in whole.matrices():
        cross = whole.cross[columns]
        raised = matrix + left_out * cross @ held @ cross.T
        triangles.append(raised[_triangle(len(raised))])
    return whole._replace(normal=_concatenated(triangles, (0,)).astype(np.float32))


class _Weights(NamedTuple):
    """The inverse of the covariance of the pixels of a shoebox: diag(weight) + together
    togetherᵀ.
    """

    weight: np.ndarray
    """(pixel,)"""
    together: np.ndarray | None = None
    """(pixel,) None = the pixels are independent"""


def _moved(weight: np.ndarray, model_error: float, bragg: np.ndarray) -> _Weights:
    """Return the weights of pixels where errors of the model move photons among them, but make
    none.

    weight: (pixel,) 1/(V + (e·Bragg)²); bragg: (pixel,). The errors are independent, with standard
    deviation e·Bragg, but for their sum, which is 0: their covariance is e²(diag(B²) −
    B² B²ᵀ/ΣB²). Where they are all that counts, the intensity is the sum of the photons over that
    of the template, as in an integration by summation, whatever the shape of the spot.
    """
    square = bragg**2
    total = square.sum()
    if model_error == 0.0 or total <= 0.0:
        return _Weights(weight)
    shared = model_error * square / np.sqrt(total)
    left = 1.0 - shared @ (weight * shared)
    return _Weights(weight, weight * shared / np.sqrt(max(left, SMALLEST_LEFT)))


class _Box(NamedTuple):
    """The blocks of one shoebox, its plane eliminated."""

    column: np.ndarray
    """(column,) node · channel"""
    normal: np.ndarray
    """lower triangle, row by row"""
    cross: np.ndarray
    """(column, unknown + 1): the last with the residual"""
    others: np.ndarray
    """(unknown + 1, unknown + 1)"""


def _joined(
    boxes: list[_Box], n_pixels: int, hkl: np.ndarray, intensity: np.ndarray, restraint: Restraint
) -> Gram:
    """Return the Gram of some shoeboxes; hkl: (node, 3), intensity: (node, channel)."""
    n = len(restraint.centre)
    column = _concatenated([box.column for box in boxes], (0,), np.int64)
    others = sum((box.others for box in boxes), np.zeros((n + 1, n + 1)))
    node, channel = np.divmod(column, intensity.shape[1])
    return Gram(
        start=np.cumsum([0, *(len(box.column) for box in boxes)]),
        hkl=hkl[node],
        channel=channel.astype(np.int32),
        intensity=intensity.ravel()[column],
        slope=_concatenated([box.cross[:, n] for box in boxes], (0,)),
        cross=_concatenated([box.cross[:, :n] for box in boxes], (0, n)),
        nuisance=others[:n, :n] + np.diag(restraint.precision),
        score=others[:n, n] + restraint.precision * restraint.centre,
        normal=_concatenated([box.normal for box in boxes], (0,), np.float32),
        loss=0.5 * float(others[n, n]) + restraint.loss(0.0),
        n_pixels=n_pixels,
    )


def _concatenated(
    arrays: list[np.ndarray], shape: tuple[int, ...], dtype: type = np.float64
) -> np.ndarray:
    """Return arrays one after the other; shape, dtype: what there is where there are none."""
    return np.concatenate([np.empty(shape, dtype=dtype), *arrays])


def _box(
    photons: "scipy.sparse.csr_matrix",
    others: np.ndarray,
    plane: np.ndarray,
    weights: _Weights,
    brightness: np.ndarray,
) -> _Box:
    """Return the blocks of a shoebox.

    photons: (pixel, node · channel) templates; others: (pixel, unknown + 1) derivatives and the
    residual; plane: (pixel, 3); brightness: (node, channel) |F|² that says which columns are kept.
    """
    column = _columns(photons, brightness)
    n = len(column)
    is_lit = np.diff(photons.indptr) > 0
    T = photons[is_lit][:, column].toarray()
    rest = np.concatenate([others, plane], axis=1)
    weighted = weights.weight[:, None] * rest
    normal = T.T @ (weights.weight[is_lit, None] * T)
    cross = T.T @ weighted[is_lit]
    among_rest = rest.T @ weighted
    if weights.together is not None:
        T_together = T.T @ weights.together[is_lit]
        rest_together = rest.T @ weights.together
        normal += np.outer(T_together, T_together)
        cross += np.outer(T_together, rest_together)
        among_rest += np.outer(rest_together, rest_together)

    # the plane, the last three of the rest, is eliminated
    whole = np.block([[normal, cross], [cross.T, among_rest]])
    left = eliminate(whole, whole[:, :0], len(whole) - 3, RIDGE).information
    return _Box(
        column=column,
        normal=left[:n, :n][np.tril_indices(n)].astype(np.float32),
        cross=left[:n, n:],
        others=left[n:, n:],
    )


def _columns(photons: "scipy.sparse.csr_matrix", brightness: np.ndarray) -> np.ndarray:
    """Return the columns (node · channel) of a shoebox's templates (pixel, node · channel) that are
    bright enough to be kept; brightness: (node, channel) |F|².
    """
    n_channels = brightness.shape[1]
    used, entry = np.unique(photons.indices, return_inverse=True)
    node_of_used, channel_of_used = np.divmod(used, n_channels)
    node, row_of_used = np.unique(node_of_used, return_inverse=True)
    sums = np.zeros((len(node), n_channels))
    sums[row_of_used, channel_of_used] = np.bincount(entry, photons.data, len(used))

    is_bright = sums * brightness[node] > DIM
    row, channel = np.divmod(_lit(is_bright), n_channels)
    return node[row] * n_channels + channel


def _lit(is_bright: np.ndarray) -> np.ndarray:
    """Return the columns from the first to the last bright channel of each node; is_bright: (node,
    channel) bool.
    """
    is_after_first = np.logical_or.accumulate(is_bright, axis=1)
    is_before_last = np.logical_or.accumulate(is_bright[:, ::-1], axis=1)[:, ::-1]
    return np.flatnonzero(is_after_first & is_before_last)


def model_error(model: np.ndarray, bragg: np.ndarray, photons: np.ndarray, noise: Noise) -> float:
    """Return the standard deviation e of a modelled pixel relative to its Bragg photons, from
    residuals; model, bragg, photons: (pixel,) photons.

    The variance V + (e·Bragg)² gives the residuals their size; e² is found by moments.
    """
    v = variance(model, noise)
    weight = (bragg / v) ** 2
    excess = weight @ ((photons - model) ** 2 - v)
    bragg_squared = weight @ bragg**2
    return float(np.sqrt(max(excess, 0.0) / max(bragg_squared, 1e-300)))


def shape_error(point: solve.Point, problem: lattice_fit.Problem) -> float:
    """Return what `model_error` returns of a fit, where the brightness of each reflection is not
    held against the model: only where its photons lie.

    The residuals are those that are left when each shoebox has the Bragg photons and the plane that
    suit it best.
    """
    data = problem.data
    v = variance(point.model, problem.noise)
    columns = np.column_stack([point.bragg, data.plane])
    weighted = columns / v[:, None]
    sizes = np.diff(data.start)
    normal = solve.by_box(weighted, columns, data.start)
    inverse = np.linalg.inv(regular(normal))
    residual = data.photons - point.model
    best = inverse @ solve.by_box(weighted, residual[:, None], data.start)
    left = residual - np.einsum("pi,pi->p", columns, best[:, :, 0].repeat(sizes, axis=0))
    of_fit = np.einsum("pi,pij,pj->p", columns, inverse.repeat(sizes, axis=0), columns)

    weight = (point.bragg / v) ** 2
    excess = weight @ (left**2 - v + np.minimum(of_fit, v))
    bragg_squared = weight @ point.bragg**2
    return float(np.sqrt(max(excess, 0.0) / max(bragg_squared, 1e-300)))
