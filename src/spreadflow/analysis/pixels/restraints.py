"""What is known of a lattice beside its pixels: normal restraints of what stage 1 refines.

Weak restraints about the start hold unknowns of which the pixels say nothing. Restraints that a
user supplies replace them. A supplied one is centred at parameters, so that it stays where it is
when a fit starts elsewhere.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis import orientation_matrix
from spreadflow.analysis.pixels import solve
from spreadflow.models import Parameters
from spreadflow.physics import geometry

Unknown = str
"""A kind of unknown: scale, rotation, cell, n_cells, eta, distance or wavelength."""

SIGMAS = {
    "scale": 5.0,
    "rotation": 0.02,
    "cell": 0.01,
    "n_cells": 1.0,
    "eta": 1.5,
    "distance": 1.0,
    "wavelength": 0.01,
}
"""Standard deviations of the weak restraints about the start: ln, rad, strain, ln, ln, mm,
relative.
"""


class Restraints(NamedTuple):
    """Restraints that a user supplies, by kind of unknown; unknowns of a kind are independent and
    have the same σ.
    """

    about: Parameters
    """where they are centred; if its scale is NaN, the scale's centre is where the fit starts"""
    sigmas: dict[Unknown, float]
    """in the units of `SIGMAS`; kinds that are not free are passed over"""

    def only(self, *kinds: Unknown) -> "Restraints":
        """Return the restraints of some kinds of unknowns."""
        sigmas = {name: sigma for name, sigma in self.sigmas.items() if name in kinds}
        return self._replace(sigmas=sigmas)


def restraint(
    slices: dict[Unknown, slice],
    start: Parameters,
    frame: orientation_matrix.CrystalFrame,
    supplied: Restraints | None,
) -> solve.Restraint:
    """Return the restraint of unknowns at `slices`, which are counted from `start` and `frame`: the
    supplied ones, and weak ones for the other kinds.

    This holds to first order: a rotation by v about the centre is taken as one by v + centre about
    the start, of the same σ in any direction.
    """
    n = max((columns.stop for columns in slices.values()), default=0)
    centre = np.zeros(n)
    sigma = np.empty(n)
    centres = counted(start, frame, supplied.about) if supplied else {}
    for name, columns in slices.items():
        if supplied is None or name not in supplied.sigmas:
            sigma[columns] = SIGMAS[name]
            continue
        sigma[columns] = supplied.sigmas[name]
        values = centres[name]
        has_each = len(values) == columns.stop - columns.start
        centre[columns] = values if has_each else values.mean()
    return solve.Restraint(np.nan_to_num(centre), sigma**-2)


def counted(
    start: Parameters, frame: orientation_matrix.CrystalFrame, target: Parameters
) -> dict[Unknown, np.ndarray]:
    """Return the unknowns (n,) of each kind, counted from `start` and `frame`, that lead to the
    parameters `target`; n_cells has one for each of three axes, eta for each of its values.
    """
    A = target.crystal.A
    old = start.crystal
    new = target.crystal
    away = orientation_matrix.coordinates(frame, A)

    origin_mm = start.detector.origin_mm[0]
    normal = geometry.shifted(start.detector, 0.0, 0.0, 1.0).origin_mm[0] - origin_mm
    distance_mm = (target.detector.origin_mm[0] - origin_mm) @ normal
    volume_ratio = np.linalg.det(frame.metric) / np.linalg.det(A.T @ A)

    return {
        "scale": np.atleast_1d(np.log(target.scale / start.scale)),
        "rotation": away[:3],
        "cell": away[3:],
        "n_cells": np.log(new.n_cells / old.n_cells),
        "eta": np.atleast_1d(np.log(new.eta_rad / old.eta_rad)),
        "distance": np.atleast_1d(distance_mm),
        "wavelength": np.atleast_1d(volume_ratio ** (1 / 6) - 1.0),
    }
