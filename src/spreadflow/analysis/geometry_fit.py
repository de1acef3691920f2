"""Level 0: one detector for all lattices, moved as a body; every crystal is eliminated by its Schur
complement.

Global unknowns d: shift along panel 0's fast and slow axes (mm), away from the sample (mm), tilts
about the fast and the slow axis (rad). A turn about the beam is a turn of all crystals and stays as
it is. Local unknowns: those of `centroid_fit`. Each lattice adds its reduced normal equations to
one small flat array, so that ranks sum little. `geometry_joint` makes the passes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.analysis.least_squares import eliminate
from spreadflow.analysis.orientation_matrix import crystal_frame, turn
from spreadflow.analysis.still import centroid_fit, refinement
from spreadflow.analysis.still.centroid_fit import CentroidModel, Observed
from spreadflow.analysis.still.prediction import MosaicLattice, padded_rows
from spreadflow.models import Detector, Spectrum, Spots
from spreadflow.physics import geometry

Total = Callable[[dict[int, np.ndarray]], np.ndarray]
"""Sum of equally shaped arrays held per block, over all blocks, here and elsewhere."""

NAMES = ("shift_fast_mm", "shift_slow_mm", "distance_mm", "tilt_fast_rad", "tilt_slow_rad")
"""The global unknowns, in this order."""

GROUPS = {"shift": (0, 1), "distance": (2,), "tilt": (3, 4)}
"""Numbers of the global unknowns that are refined together."""

MAX_STEPS = 10
"""Steps of the detector in one pass, at most."""

SMALL_STEP = 0.02
"""A step below this many σ ends the iteration."""

PARTIALITY_MIN = 0.1
"""Reflections recorded less than this take no part: few domains make them, and their radius follows
those few.
"""

LEAST_FREEDOM = 0.2
"""Share of a lattice's residuals that its own unknowns leave free, at least, where the scatter of
its spots is corrected for them.
"""


class Member(NamedTuple):
    """One lattice in the joint refinement."""

    model: CentroidModel
    p: np.ndarray
    """(m,) its unknowns: rotation, strains, ln η"""
    observed: Observed

    @property
    def lattice(self) -> MosaicLattice:
        """The lattice as refined so far."""
        return self.model.lattice(self.p)

    @property
    def n_valid(self) -> int:
        """Spots that count."""
        return int(self.observed.valid.sum())


class Eliminated(NamedTuple):
    """How a lattice follows the detector: δp = start − slope·δd."""

    start: np.ndarray
    """(m,)"""
    slope: np.ndarray
    """(m, n_free)"""


class Counts(NamedTuple):
    """Numbers of a lattice that are summed over all lattices."""

    squares: float
    """sum of the weighted squared residuals"""
    freedom: float
    """residuals less its own unknowns"""
    lattices: float
    """1"""
    weight: float
    """sum of the weights, of both residuals of each spot"""
    bend: float
    """by how much the curvature of the loss falls short of the sum of the weights"""


class Solution(NamedTuple):
    """One step of the detector and how well it is known."""

    step: np.ndarray
    """(n_free,) mm, rad"""
    covariance: np.ndarray
    """(n_free, n_free) from the scatter of gradients and the true curvature of the loss (Huber's
    sandwich): holds whatever the σ of the spots are. The larger of two: by the scatter of the
    lattices, which holds though the errors within a lattice go together; and by that of the spots,
    as a dozen lattices tell little about their own scatter
    """
    chi2: float
    """sum of the weighted squared residuals"""
    freedom: int
    """residuals less all local unknowns"""


def member(
    lattice: MosaicLattice,
    hkl: np.ndarray,
    spots: Spots,
    spectrum: Spectrum,
    detector: Detector,
    space_group: str,
) -> Member:
    """Return a lattice with the indexed ones (hkl ≠ 0) of its shot's spots, ready to take part."""
    observed = centroid_fit.observe(
        lattice, hkl, spots, spectrum, detector, partiality_min=PARTIALITY_MIN
    )
    frame = crystal_frame(lattice.A, space_group)
    model = CentroidModel(frame, spectrum, lattice.domain_ang)
    return Member(model, model.start(lattice.eta_rad), observed)


# ---------------------------------------------------------------- the detector


def moved(detector: Detector, d) -> Detector:
    """Return the detector tilted by d[3:] about the point where the beam meets panel 0's plane,
    then shifted by d[:3].
    """
    fast = detector.fast[0]
    slow = detector.slow[0]
    normal = geometry.normals(detector)[0]
    height = (detector.origin_mm[0] * normal).sum()
    cosine = (geometry.S0 * normal).sum()
    pivot = geometry.S0 * height / cosine

    tilt = turn(d[3] * fast + d[4] * slow)

    away_from_sample = normal * jnp.sign(height)
    shift = d[0] * fast + d[1] * slow + d[2] * away_from_sample
    return detector._replace(
        origin_mm=(detector.origin_mm - pivot) @ tilt.T + pivot + shift,
        fast=detector.fast @ tilt.T,
        slow=detector.slow @ tilt.T,
    )


def placed(detector: Detector, d: np.ndarray) -> Detector:
    """Return `moved`, as NumPy."""
    there = moved(detector, d)
    return there._replace(
        origin_mm=np.asarray(there.origin_mm),
        fast=np.asarray(there.fast),
        slow=np.asarray(there.slow),
    )


# ---------------------------------------------------------------- normal equations


def _linearized(
    detector: Detector, d: np.ndarray, member: Member
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return residuals (spot, 2), px, and minus their derivatives by p (spot, 2, m) and by d (spot,
    2, 5).
    """
    model, p, observed = member
    terms = centroid_fit.residuals(placed(detector, d), model, p, observed)
    n = len(terms.s1)
    panel = padded_rows(observed.panel, 0).astype(np.int32)
    position_by_d = np.asarray(_position_by_d(detector, d, panel, padded_rows(terms.s1)))[:n]
    by_d = np.einsum("sij,sjk->sik", observed.axes, position_by_d)
    return terms.offset, terms.offset_by_p, by_d


@jax.jit
def _position_by_d(detector: Detector, d, panel, s1):
    """Return the derivatives (n, 2, 5), px, by d of where panels (n,) record rays s1 (n, 3). Shapes
    are static.
    """

    def position_of(d):
        return jnp.stack(geometry.on_panel(moved(detector, d), panel, s1), axis=-1)

    return jax.jacfwd(position_of)(d)


def partials(
    detector: Detector, d, members: Sequence[Member], free: list[int]
) -> tuple[np.ndarray, list[Eliminated]]:
    """Return reduced normal equations of some lattices at detector unknowns d (5,), those in `free`
    refined.

    Returns a flat float64 array, to be summed over all lattices and handed to `solve`, and what
    `back` needs.
    """
    n_free = len(free)
    total = np.zeros(_n_sums(n_free))
    eliminated = []
    for member in members:
        part, local = _reduced(detector, d, member, free)
        total += part
        eliminated.append(local)
    return total, eliminated


def _n_sums(n_free: int) -> int:
    """Return the length of what a lattice adds to the reduced normal equations."""
    return 3 * n_free**2 + n_free + len(Counts._fields)


class _NormalEquations(NamedTuple):
    """Hessian and gradient of a lattice's loss by the free unknowns of the detector, then by its
    own, restraints included.
    """

    hessian: np.ndarray
    """(n_free + m, n_free + m)"""
    gradient: np.ndarray
    """(n_free + m,)"""
    of_spots: np.ndarray
    """(spot, n_free + m) what each spot adds to the gradient; 0 where it is not valid"""
    counts: Counts


def _reduced(
    detector: Detector, d, member: Member, free: list[int]
) -> tuple[np.ndarray, Eliminated]:
    """Return s = H_dd − H_dl H_ll⁻¹ H_ld and g = g_d − H_dl H_ll⁻¹ g_l of a lattice, with the outer
    products of g and of what its spots add to it, in one flat array; and how the lattice follows
    the detector. One without valid spots, or whose numbers are not finite, adds nothing and stays
    where it is.
    """
    n = len(free)
    n_local = len(member.p)
    stays = Eliminated(np.zeros(n_local), np.zeros((n_local, n)))
    if member.n_valid == 0:
        return np.zeros(_n_sums(n)), stays
    H, g, of_spots, counts = _normal_equations(detector, d, member, free)

    without_lattice = eliminate(H, g[:, None], n)
    slope = without_lattice.coupling
    reduced = without_lattice.right[:, 0]

    of_lattice = np.outer(reduced, reduced)
    reduced_spots = of_spots[:, :n] - of_spots[:, n:] @ slope
    share_of_unknowns = 0.5 * n_local / member.n_valid
    within = reduced_spots.T @ reduced_spots / max(1.0 - share_of_unknowns, LEAST_FREEDOM)
    S = without_lattice.information
    part = np.concatenate([S.ravel(), of_lattice.ravel(), within.ravel(), reduced, counts])
    if not np.isfinite(part).all():
        return np.zeros_like(part), stays
    return part, Eliminated(-without_lattice.own[:, 0], slope)


def _normal_equations(detector: Detector, d, member: Member, free: list[int]) -> _NormalEquations:
    """Return the normal equations of a lattice by the free unknowns of the detector and its own."""
    observed = member.observed
    offset, by_p, by_d = (np.asarray(x) for x in _linearized(detector, d, member))
    z2 = (offset**2 / observed.variance).sum(axis=1)
    weight = centroid_fit.student(z2)[1] * observed.valid

    jacobian = np.concatenate([by_d[:, :, free], by_p], axis=2)
    scaled = jacobian * (weight[:, None] / observed.variance)[:, :, None]
    H = np.einsum("sam,san->mn", scaled, jacobian)
    of_spots = -np.einsum("sam,sa->sm", scaled, offset)
    g = of_spots.sum(axis=0)

    n = len(free)
    ln_eta = np.log(refinement.ETA_PRIOR_RAD)
    centre, precision = centroid_fit.prior(member.model.frame, ln_eta, refinement.ETA_PRIOR_LOG)
    H[n:, n:] += np.diag(precision)
    g[n:] += precision * (member.p - centre)
    counts = Counts(
        squares=weight @ z2,
        freedom=2.0 * member.n_valid - len(member.p),
        lattices=1.0,
        weight=2.0 * weight.sum(),
        bend=centroid_fit.bend(z2) @ observed.valid,
    )
    return _NormalEquations(H, g, of_spots, counts)


def solve(total: np.ndarray, n_free: int) -> Solution:
    """Return the Gauss-Newton step of the detector from partials summed over all lattices."""
    n = n_free
    S, of_lattices, of_spots = total[: 3 * n * n].reshape(3, n, n)
    g = total[3 * n * n : 3 * n * n + n]
    counts = Counts(*total[3 * n * n + n :])
    inverse = np.linalg.inv(S)
    small_sample = counts.lattices / max(counts.lattices - n, 1.0)
    curvature = 1.0 - counts.bend / counts.weight
    by_scatter = [
        inverse @ scatter @ inverse / curvature**2
        for scatter in (small_sample * of_lattices, of_spots)
    ]
    return Solution(
        step=-inverse @ g,
        covariance=_larger(*by_scatter),
        chi2=counts.squares,
        freedom=int(counts.freedom),
    )


def _larger(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the covariance with the larger variances of two (n, n), and their mean correlation."""
    sigma = np.sqrt(np.maximum(np.diag(a), np.diag(b)))
    both = a + b
    of_both = np.sqrt(np.diag(both))
    return both * np.outer(sigma / of_both, sigma / of_both)


def back(
    members: Sequence[Member], eliminated: Sequence[Eliminated], step: np.ndarray
) -> list[Member]:
    """Return the lattices after the detector's step."""
    return [
        member._replace(p=member.p + local.start - local.slope @ step)
        for member, local in zip(members, eliminated, strict=True)
    ]


def iterate(
    detector: Detector,
    d: np.ndarray,
    members: dict[int, list[Member]],
    free: list[int],
    total: Total,
) -> tuple[np.ndarray, dict[int, list[Member]], Solution, int]:
    """Take Gauss-Newton steps of detector and lattices from d (5,) until the detector stands still.

    members: block → lattices. Returns d, the lattices, the last step's solution and the number of
    steps.
    """
    n_steps = 0
    while n_steps < MAX_STEPS:
        n_steps += 1
        sums = {}
        eliminated = {}
        for block, in_block in members.items():
            sums[block], eliminated[block] = partials(detector, d, in_block, free)
        solution = solve(total(sums), len(free))
        members = {
            block: back(in_block, eliminated[block], solution.step)
            for block, in_block in members.items()
        }

        d = d.copy()
        d[free] += solution.step
        sigma = np.sqrt(np.diag(solution.covariance))
        if np.all(np.abs(solution.step) < SMALL_STEP * sigma):
            break
    return d, members, solution, n_steps


def normalized(detector: Detector, d, member: Member) -> np.ndarray:
    """Return residuals (valid spot, 2), radial and transverse, in units of their σ."""
    offset = np.asarray(_linearized(detector, d, member)[0])
    in_sigma = offset / np.sqrt(member.observed.variance)
    return in_sigma[member.observed.valid]


def own_move(detector: Detector, d, member: Member, free: list[int]) -> float:
    """Return the squared distance, in σ², between the detector at d (5,) and the one that a lattice
    alone asks for; NaN where its numbers are not finite.
    """
    part, _ = _reduced(detector, d, member, free)
    if not part.any():
        return np.nan
    n = len(free)
    S = part[: n * n].reshape(n, n)
    g = part[3 * n * n : 3 * n * n + n]
    return float(g @ np.linalg.pinv(S) @ g)
