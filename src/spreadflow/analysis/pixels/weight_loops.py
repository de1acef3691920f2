"""Compiled loops over the templates of a lattice, a sparse matrix (pixel, node)."""

from typing import NamedTuple

import numpy as np

from spreadflow.physics.compiling import compiled


class LitPixels(NamedTuple):
    """Templates row by row, and what is known of each pixel while planes and scale are fixed."""

    ends: np.ndarray
    """(pixel + 1,) int32, where the row of each pixel begins, and the end"""
    node: np.ndarray
    """(entry,) int32"""
    template: np.ndarray
    """(entry,) float32, photons"""
    counted: np.ndarray
    """(pixel,) photons, readout variance added, never negative"""
    background: np.ndarray
    """(pixel,) photons of the planes, readout variance added"""
    counting_share: np.ndarray
    """(pixel,) the variance of counting over that of the pixel: 1 where there is no other"""


@compiled
def observed(lit: LitPixels, factor, weight):
    """Return Σ factor·template·counting_share·counted/model (node,) over the pixels, where the
    model is that of weights (node,).
    """
    out = np.zeros(len(weight))
    for i in range(len(lit.counted)):
        first = lit.ends[i]
        end = lit.ends[i + 1]
        bragg = 0.0
        for n in range(first, end):
            bragg += lit.template[n] * weight[lit.node[n]]
        model = factor * bragg + lit.background[i]
        ratio = factor * lit.counting_share[i] * lit.counted[i] / model
        for n in range(first, end):
            out[lit.node[n]] += lit.template[n] * ratio
    return out
