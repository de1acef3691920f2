"""The steps of level 0: damped ones of the detector, after each of which every lattice is refined
by itself where the detector now is.

A lattice may follow the detector far from linearly: where a pulse's spectrum ends, and where few
domains reach a reflection. Steps that take lattices along by their slopes alone do not come to rest
on real stills; those that are taken here make the loss of all lattices fall, each one.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis import detector_moves, geometry_fit
from spreadflow.analysis.detector_moves import Position
from spreadflow.analysis.geometry_fit import Member, Solution, Total
from spreadflow.analysis.least_squares import Damping, Ending, Limits, levenberg_marquardt
from spreadflow.analysis.still import centroid_fit, refinement
from spreadflow.analysis.still.centroid_fit import Restraint
from spreadflow.models import Detector

MAX_STEPS = 30
"""Steps of the detector in one refinement, at most."""

SMALL_STEP = 0.1
"""A step below this many σ, of all unknowns together, is not taken."""

LEAST_GAIN = 1e-6
"""A lattice is at rest when its loss falls by less: that of all lattices is compared after each
step of the detector.
"""

HELD = 1e12
"""Precision of the restraint that keeps the edge of domains, of its logarithm."""

DAMPING = Damping(first=0.0, least=0.0, least_after_rise=1e-3, largest=1e3)
"""How steps of the detector are damped."""


class JointPoint(NamedTuple):
    """A detector with lattices at rest on it, and the normal equations of all."""

    position: Position
    members: dict[int, list[Member]]
    """block → lattices"""
    total: np.ndarray
    """of `partials`, over all lattices"""
    loss: float
    hessian: np.ndarray
    """(free, free)"""
    gradient: np.ndarray
    """(free,)"""
    nuisance_gain: float = 0.0
    """lattices are at rest"""


class Rest(NamedTuple):
    """Where a refinement ended."""

    position: Position
    members: dict[int, list[Member]]
    solution: Solution
    n_steps: int
    is_converged: bool


def refine(position: Position, members: dict[int, list[Member]], total: Total) -> Rest:
    """Return where detector and lattices come to rest. Raises Unsolvable. Collective.

    members: block → lattices.
    """

    def moved(point: JointPoint, step: np.ndarray, _: float) -> JointPoint:
        there = point.position
        d = there.d + there.moves.basis @ step
        return _point(detector_moves.position(there.file, there.moves, d), point.members, total)

    start = _point(position, members, total)
    limits = Limits(n_evaluations=1 + MAX_STEPS, smallest_promise=0.5 * SMALL_STEP**2)
    point, n_evaluations, ending = levenberg_marquardt(start, moved, DAMPING, limits)
    return Rest(
        position=point.position,
        members=point.members,
        solution=geometry_fit.solve(point.total, point.position.moves, point.position.d),
        n_steps=n_evaluations - 1,
        is_converged=ending == Ending.CONVERGED,
    )


def _point(position: Position, members: dict[int, list[Member]], total: Total) -> JointPoint:
    """Return a detector with lattices refined on it."""
    at_rest = {
        block: [refined(member, position.detector) for member in in_block]
        for block, in_block in members.items()
    }
    summed = total(
        {block: geometry_fit.partials(position, in_block) for block, in_block in at_rest.items()}
    )
    equations = geometry_fit.equations(summed, position.moves, position.d)
    return JointPoint(
        position=position,
        members=at_rest,
        total=summed,
        loss=equations.loss,
        hessian=equations.of_data + equations.of_restraint,
        gradient=equations.gradient,
    )


def refined(member: Member, detector: Detector) -> Member:
    """Return a lattice at rest on a detector. One without valid spots, or whose numbers are not
    finite, stays where it is.
    """
    if member.n_valid == 0:
        return member
    ln_eta = np.log(refinement.ETA_PRIOR_RAD)
    centre, precision = centroid_fit.prior(member.model.frame, ln_eta, refinement.ETA_PRIOR_LOG)
    ln_domain = np.log(member.model.domain_ang)
    restraint = Restraint(
        centre=np.append(centre, ln_domain),
        precision=np.append(precision, HELD),
        sigma_psi=np.full(len(member.observed.hkl), np.inf),
    )
    point = centroid_fit.fit(
        detector,
        member.model,
        np.append(member.p, ln_domain),
        member.observed,
        restraint,
        least_gain=LEAST_GAIN,
    )
    return member._replace(p=point.p[:-1])
