"""What is known of a lattice beside its pixels: normal restraints of what stage 1 refines.

Weak ones about the start keep unknowns of which the pixels say nothing. What a user knows replaces
them, and is told as the parameters it is centred at, so that it stays where it is when a fit starts
elsewhere.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis import orientation_matrix
from spreadflow.analysis.pixels import solve
from spreadflow.models import Parameters
from spreadflow.physics import geometry

Unknown = str
"""Scale, rotation, cell, n_cells, eta, distance, wavelength."""

SIGMAS = {
    "scale": 5.0,
    "rotation": 0.02,
    "cell": 0.01,
    "n_cells": 1.0,
    "eta": 1.5,
    "distance": 1.0,
    "wavelength": 0.01,
}
"""Standard deviations of the weak restraints about the start: ln, rad, strain, ln, ln, mm, relative
"""


class Restraints(NamedTuple):
    """Restraints that are given: kinds of unknowns, each independent and as well known as the
    others of its kind.
    """

    about: Parameters
    """where they are centred; a scale that is NaN: where the fit starts"""
    sigmas: dict[Unknown, float]
    """in the units of `SIGMAS`; kinds that are not free are passed over"""

    def only(self, *kinds: Unknown) -> "Restraints":
        """Return the restraints of some kinds of unknowns."""
        return self._replace(
            sigmas={name: sigma for name, sigma in self.sigmas.items() if name in kinds}
        )


def restraint(
    slices: dict[Unknown, slice],
    start: Parameters,
    frame: orientation_matrix.CrystalFrame,
    known: Restraints | None,
) -> solve.Restraint:
    """Return the restraint of unknowns at `slices`, counted from `start` and `frame`: the supplied
    one, for the others the weak ones.

    To first order: a rotation by v from the centre is one by v + centre from the start, of the same
    σ in any direction.
    """
    n = max((some.stop for some in slices.values()), default=0)
    centre = np.zeros(n)
    sigma = np.empty(n)
    at = counted(start, frame, known.about) if known else {}
    for name, some in slices.items():
        is_given = known is not None and name in known.sigmas
        sigma[some] = known.sigmas[name] if known is not None and is_given else SIGMAS[name]
        if is_given:
            centre[some] = at[name] if len(at[name]) == some.stop - some.start else at[name].mean()
    return solve.Restraint(np.nan_to_num(centre), sigma**-2)


def counted(
    start: Parameters, frame: orientation_matrix.CrystalFrame, to: Parameters
) -> dict[Unknown, np.ndarray]:
    """Return unknowns (n,) of each kind, counted from `start` and `frame`, that make `to`; n_cells
    of three axes.
    """
    A = to.crystal.A
    old = start.crystal
    new = to.crystal
    away = orientation_matrix.coordinates(frame, A)
    normal = (
        geometry.shifted(start.detector, 0.0, 0.0, 1.0).origin_mm[0] - start.detector.origin_mm[0]
    )
    return {
        "scale": np.atleast_1d(np.log(to.scale / start.scale)),
        "rotation": away[:3],
        "cell": away[3:],
        "n_cells": np.log(new.n_cells / old.n_cells),
        "eta": np.atleast_1d(np.log(new.eta_rad / old.eta_rad)),
        "distance": np.atleast_1d(
            (to.detector.origin_mm[0] - start.detector.origin_mm[0]) @ normal
        ),
        "wavelength": np.atleast_1d(
            (np.linalg.det(frame.metric) / np.linalg.det(A.T @ A)) ** (1 / 6) - 1.0
        ),
    }
