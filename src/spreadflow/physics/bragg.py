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


def add(image: np.ndarray, parameters: Parameters, *, oversample: int | None = 1) -> SimulatedSpots:
    """Add the expected photons of a lattice to an image (panel, slow, fast), in place; shoeboxes
    that overlap add up.

    oversample: points along each edge of a pixel; None = as many as each reflection needs. Returns
    the reflections that got photons. Detector shape and image shape must agree.
    """
    hkl, f_squared = to_few_sizes((np.asarray(parameters.hkl), np.asarray(parameters.f_squared)))
    parameters = parameters._replace(hkl=hkl, f_squared=f_squared)
    footprints, points, rays, pairs = layout.lay_out(parameters, oversample)
    total, first_moment, middle_ev = sums(parameters, rays, pairs)

    # a point holds its share of a pixel
    n_points = footprints.n_points
    share = np.repeat(1.0 / footprints.oversample**2, n_points)
    photons = total * share
    first_moment = first_moment * share
    fast = points.fast.astype(np.int64)
    slow = points.slow.astype(np.int64)
    pixel = np.ravel_multi_index((points.panel, slow, fast), image.shape)
    np.add.at(image.reshape(-1), pixel, photons.astype(image.dtype))

    footprint = np.repeat(np.arange(len(n_points)), n_points)

    def by_footprint(values: np.ndarray) -> np.ndarray:
        return np.bincount(footprint, values, len(n_points))

    photons_of = by_footprint(photons)
    fast_moment = by_footprint(photons * (fast + 0.5))
    slow_moment = by_footprint(photons * (slow + 0.5))
    energy_moment = by_footprint(first_moment)
    lit = np.flatnonzero(photons_of > 0)
    return SimulatedSpots(
        hkl=hkl[footprints.node[lit]],
        panel=footprints.panel[lit].astype(np.int32),
        photons=photons_of[lit],
        fast=fast_moment[lit] / photons_of[lit],
        slow=slow_moment[lit] / photons_of[lit],
        energy_ev=middle_ev + energy_moment[lit] / photons_of[lit],
    )
