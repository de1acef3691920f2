"""Templates: the photons that a lattice's nodes put into its pixels per electron² of their |F|²."""

from typing import NamedTuple

import numpy as np
import scipy

from spreadflow.analysis.pixels.lattice_fit import LaidOut, Model
from spreadflow.physics import forward


def of_channels(model: Model, unknowns: np.ndarray) -> "scipy.sparse.csr_matrix":
    """Return the photons (valid pixel, node · channel) of each channel per electron² of |F|²."""
    laid_out = model.laid_out(unknowns)
    p = laid_out.parameters
    n_channels = len(p.spectrum.photons)
    rows = _rows(laid_out)
    sums = forward.by_channel(p, laid_out.rays, laid_out.pairs, rows.of_pair, len(rows.node))
    photons = sums / model.problem.oversample**2

    is_lit = (photons > 0) & rows.is_valid[:, None]
    n_lit = is_lit.sum(axis=1)
    pixel = rows.pixel.repeat(n_lit)
    column = (rows.node[:, None] * n_channels + np.arange(n_channels))[is_lit]
    shape = (len(model.problem.data.photons), n_channels * len(p.hkl))
    return scipy.sparse.csr_matrix((photons[is_lit], (pixel, column)), shape=shape)


def of_nodes(model: Model, unknowns: np.ndarray) -> "scipy.sparse.csr_matrix":
    """Return the photons (valid pixel, node) of each node per electron² of its |F|², which has to
    be the same in all channels, and positive.
    """
    laid_out = model.laid_out(unknowns)
    p = laid_out.parameters
    rows = _rows(laid_out)
    of_pairs = forward.each(p, laid_out.rays, laid_out.pairs)
    sums = np.bincount(rows.of_pair, of_pairs, len(rows.node))
    f_squared = np.asarray(p.f_squared)[rows.node, 0]
    photons = sums / f_squared / model.problem.oversample**2

    is_lit = (photons > 0) & rows.is_valid
    shape = (len(model.problem.data.photons), len(p.hkl))
    return scipy.sparse.csr_matrix(
        (photons[is_lit], (rows.pixel[is_lit], rows.node[is_lit])), shape=shape
    )


class _Rows(NamedTuple):
    """The pixels and nodes that meet; pairs of the same two add up to one row."""

    of_pair: np.ndarray
    """(pair,) row that it adds to"""
    pixel: np.ndarray
    """(row,) valid pixel; their number stands for pixels that are not valid"""
    node: np.ndarray
    """(row,)"""
    is_valid: np.ndarray
    """(row,) whether its pixel is"""


def _rows(laid_out: LaidOut) -> _Rows:
    """Return the rows that the pairs of points and clouds add up to."""
    p = laid_out.parameters
    n_nodes = len(p.hkl)
    points = laid_out.points
    node_of_pair = laid_out.pairs.cloud // len(p.mosaic.share)
    key_of_pair = points.pixel[laid_out.pairs.point] * n_nodes + node_of_pair
    keys, of_pair = np.unique(key_of_pair, return_inverse=True)
    pixel, node = np.divmod(keys, n_nodes)
    return _Rows(of_pair, pixel, node, pixel < points.n_pixels)
