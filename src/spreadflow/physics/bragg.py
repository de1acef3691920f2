"""Bragg photons of a lattice on whole images: laid out, summed where there can be any, added to the
background.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.models import Parameters
from spreadflow.physics import layout
from spreadflow.physics.forward import sums
from spreadflow.physics.padding import to_few_sizes


class SimulatedSpots(NamedTuple):
    """What each reflection puts on each panel it meets. Shape (spot,)."""

    hkl: np.ndarray
    """(spot, 3) int32"""
    panel: np.ndarray
    """int32"""
    photons: np.ndarray
    """expected photons"""
    fast: np.ndarray
    """centroid, px"""
    slow: np.ndarray
    """px"""
    energy_ev: np.ndarray
    """mean energy of these photons, eV"""


def add(
    image: np.ndarray, parameters: Parameters, *, oversample: int | None = 1, dtype: str = "float32"
) -> SimulatedSpots:
    """Add the expected photons of a lattice to an image (panel, slow, fast), in place; shoeboxes
    that overlap add up.

    oversample: points along each edge of a pixel; None = as many as each reflection needs. dtype:
    of the sums over channels. Returns the reflections that got photons. Detector shape and image
    shape must agree.
    """
    hkl, f_squared = to_few_sizes((np.asarray(parameters.hkl), np.asarray(parameters.f_squared)))
    parameters = parameters._replace(hkl=hkl, f_squared=f_squared)
    footprints, pixels, pairs = layout.lay_out(parameters, oversample)
    n_points = footprints.n_points
    box, weight = (
        np.repeat(a, n_points) for a in (np.arange(len(n_points)), 1.0 / footprints.oversample**2)
    )
    total, first, middle = sums(parameters, to_few_sizes(pixels), pairs, dtype)
    photons = total[: len(box)] * weight
    first = first[: len(box)] * weight
    fast, slow = pixels.fast.astype(np.int64), pixels.slow.astype(np.int64)
    flat = (pixels.panel * np.int64(image.shape[1]) + slow) * image.shape[2] + fast
    np.add.at(image.reshape(-1), flat, photons.astype(image.dtype))
    moments = (photons, photons * (fast + 0.5), photons * (slow + 0.5), first)
    sums_of = np.stack([np.bincount(box, m, len(n_points)) for m in moments])
    lit = np.flatnonzero(sums_of[0] > 0)
    means = sums_of[1:, lit] / sums_of[0, lit]
    panel = footprints.panel[lit].astype(np.int32)
    return SimulatedSpots(
        hkl[footprints.node[lit]], panel, sums_of[0, lit], means[0], means[1], middle + means[2]
    )
