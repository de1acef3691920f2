"""Level 0: one detector for all lattices, moved as a body; every crystal is eliminated by its Schur
complement.

Global unknowns d: shift along panel 0's fast and slow axes (mm), away from the sample (mm), tilts
about the fast and the slow axis (rad). A turn about the beam is a turn of all crystals and stays as
it is. Local unknowns: those of `centroid_fit`. Each lattice adds its reduced normal equations to
one small flat array, so that ranks sum little.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import chi2
from sklearn.covariance import MinCovDet

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.analysis.orientation_matrix import crystal_frame, turn
from spreadflow.analysis.still import centroid_fit, refinement
from spreadflow.analysis.still.centroid_fit import CentroidModel, Observed
from spreadflow.analysis.still.prediction import MosaicLattice
from spreadflow.models import Detector, Spectrum, Spots
from spreadflow.physics import geometry

Total = Callable[[dict[int, np.ndarray]], np.ndarray]
"""Sum of equally shaped arrays held per block, over all blocks, here and elsewhere."""

Pool = Callable[[dict[int, Any]], list]
"""List of objects held per block, of all blocks, here and elsewhere."""

NAMES = ("shift_fast_mm", "shift_slow_mm", "distance_mm", "tilt_fast_rad", "tilt_slow_rad")
"""The global unknowns, in this order."""

GROUPS = {"shift": (0, 1), "distance": (2,), "tilt": (3, 4)}
"""Numbers of the global unknowns that are refined together."""

MAX_STEPS = 10
"""Steps of the detector in one pass, at most."""

SMALL_STEP = 0.02
"""A step below this many σ ends the iteration."""

POOLED = 20_000
"""Residuals the robust cut is estimated from."""

LEAST_POOLED = 8
"""Residuals each block contributes to the robust cut at least, if it has them."""

TOLERANCE_PX = 3.0
"""Spots further than this from every prediction are of no lattice."""

PARTIALITY_MIN = 0.1
"""Reflections recorded less than this take no part: few domains make them, and their radius follows
those few.
"""


class IndexedLattice(NamedTuple):
    """A lattice as indexing left it."""

    lattice: MosaicLattice
    hkl: np.ndarray
    """(spot, 3) 0 0 0 = not of this lattice"""
    spots: Spots
    """those in no other lattice"""
    spectrum: Spectrum
    """compressed, as by `prediction.compress`"""


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


class Solution(NamedTuple):
    """One step of the detector and how well it is known."""

    step: np.ndarray
    """(n_free,) mm, rad"""
    covariance: np.ndarray
    """(n_free, n_free) from the scatter of the lattices' gradients (Huber's sandwich, each lattice
    a cluster): holds whatever the σ of the spots are, and though the errors within a lattice go
    together
    """
    chi2: float
    """sum of the weighted squared residuals"""
    freedom: int
    """residuals less all local unknowns"""


class Cut(NamedTuple):
    """An ellipse in the plane of normalized residuals."""

    centre: np.ndarray
    """(2,) radial, transverse"""
    precision: np.ndarray
    """(2, 2) inverse covariance"""
    limit: float
    """squared Mahalanobis distance"""


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


@jax.jit
def _linearized(detector: Detector, d, member: Member):
    """Return residuals (spot, 2), px, and minus their derivatives by p (spot, 2, m) and by d (spot,
    2, 5).
    """
    model, p, observed = member
    residuals = centroid_fit.residuals(moved(detector, d), model, p, observed)
    s1 = centroid_fit.rays(model, p, observed.hkl)

    def position_of(d):
        return jnp.stack(geometry.on_panel(moved(detector, d), observed.panel, s1), axis=-1)

    position_by_d = jax.jacfwd(position_of)(d)
    by_d = (observed.axes[:, :, :, None] * position_by_d[:, None, :, :]).sum(axis=2)
    return residuals.offset, residuals.offset_by_p, by_d


def partials(
    detector: Detector, d, members: Sequence[Member], free: list[int]
) -> tuple[np.ndarray, list[Eliminated]]:
    """Return reduced normal equations of some lattices at detector unknowns d (5,), those in `free`
    refined.

    Returns a flat float64 array, to be summed over all lattices and handed to `solve`, and what
    `back` needs.
    """
    n_free = len(free)
    total = np.zeros(2 * n_free**2 + n_free + 3)
    eliminated = []
    for member in members:
        part, local = _reduced(detector, d, member, free)
        total += part
        eliminated.append(local)
    return total, eliminated


def _reduced(
    detector: Detector, d, member: Member, free: list[int]
) -> tuple[np.ndarray, Eliminated]:
    """Return s = H_dd − H_dl H_ll⁻¹ H_ld and g = g_d − H_dl H_ll⁻¹ g_l of a lattice, with the outer
    product of g, in one flat array; and how the lattice follows the detector.
    """
    n = len(free)
    n_local = len(member.p)
    H, g, squares = _normal_equations(detector, d, member, free)

    coupling = H[n:, :n]
    right = np.concatenate([coupling, g[n:, None]], axis=1)
    solved = np.linalg.solve(H[n:, n:], right)
    slope = solved[:, :n]
    step = solved[:, n]
    S = H[:n, :n] - H[:n, n:] @ slope
    reduced = g[:n] - H[:n, n:] @ step

    outer = np.outer(reduced, reduced)
    freedom = 2.0 * np.count_nonzero(member.observed.valid) - n_local
    part = np.concatenate([S.ravel(), outer.ravel(), reduced, [squares, freedom, 1.0]])
    if not np.isfinite(part).all():
        # a lattice that left all sense takes no part and stays where it is
        stays = Eliminated(np.zeros(n_local), np.zeros((n_local, n)))
        return np.zeros_like(part), stays
    return part, Eliminated(-step, slope)


def _normal_equations(
    detector: Detector, d, member: Member, free: list[int]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return Hessian and gradient of a lattice's loss by the free unknowns of the detector, then by
    its own, restraints included; and the sum of its weighted squared residuals.
    """
    observed = member.observed
    offset, by_p, by_d = (np.asarray(x) for x in _linearized(detector, d, member))
    z2 = (offset**2 / observed.variance).sum(axis=1)
    weight = centroid_fit.student(z2)[1] * observed.valid

    jacobian = np.concatenate([by_d[:, :, free], by_p], axis=2)
    scaled = jacobian * (weight[:, None] / observed.variance)[:, :, None]
    H = np.einsum("sam,san->mn", scaled, jacobian)
    g = -np.einsum("sam,sa->m", scaled, offset)

    n = len(free)
    ln_eta = np.log(refinement.ETA_PRIOR_RAD)
    centre, precision = centroid_fit.prior(member.model.frame, ln_eta, refinement.ETA_PRIOR_LOG)
    H[n:, n:] += np.diag(precision)
    g[n:] += precision * (member.p - centre)
    return H, g, weight @ z2


def solve(total: np.ndarray, n_free: int) -> Solution:
    """Return the Gauss-Newton step of the detector from partials summed over all lattices."""
    n = n_free
    S, outer = total[: 2 * n * n].reshape(2, n, n)
    g = total[2 * n * n : -3]
    squares, freedom, n_lattices = total[-3:]
    inverse = np.linalg.inv(S)
    small_sample = n_lattices / max(n_lattices - n, 1.0)
    return Solution(
        step=-inverse @ g,
        covariance=small_sample * inverse @ outer @ inverse,
        chi2=float(squares),
        freedom=int(freedom),
    )


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


# ---------------------------------------------------------------- outliers


def normalized(detector: Detector, d, member: Member) -> np.ndarray:
    """Return residuals (valid spot, 2), radial and transverse, in units of their σ."""
    offset = np.asarray(_linearized(detector, d, member)[0])
    in_sigma = offset / np.sqrt(member.observed.variance)
    return in_sigma[member.observed.valid]


def robust_cut(z: np.ndarray, probability: float) -> Cut:
    """Return the ellipse that holds `probability` of pooled residuals z (n, 2), were they normal.

    Minimum covariance determinant (Rousseeuw & Van Driessen 1999) with a fixed seed: the same on
    every rank.
    """
    robust = MinCovDet(random_state=0).fit(z)
    return Cut(
        centre=robust.location_,
        precision=np.linalg.inv(robust.covariance_),
        limit=float(chi2.ppf(probability, 2)),
    )


def reject(detector: Detector, d, member: Member, cut: Cut) -> Member:
    """Return the lattice with the spots beyond the cut no longer valid."""
    from_centre = normalized(detector, d, member) - cut.centre
    distance2 = np.einsum("si,ij,sj->s", from_centre, cut.precision, from_centre)
    valid = member.observed.valid.copy()
    valid[valid] = distance2 <= cut.limit
    return member._replace(observed=member.observed._replace(valid=valid))


# ---------------------------------------------------------------- the joint refinement


class Joint:
    """The joint refinement: blocks of lattices, and the one detector that all blocks, here and
    elsewhere, share.

    indexed: block → lattices held here. free: numbers of the refined `NAMES`. total and pool give
    every holder of blocks the same.
    """

    def __init__(
        self,
        indexed: dict[int, list[IndexedLattice]],
        detector: Detector,
        space_group: str,
        free: list[int],
        total: Total,
        pool: Pool,
    ):
        self.indexed = indexed
        self.detector = detector
        self.space_group = space_group
        self.free = free
        self.total = total
        self.pool = pool
        self.d = np.zeros(len(NAMES))
        self.steps = 0
        self.n_used = 0
        self.n_outliers = 0
        self.listed = {
            block: [refinement.of_strong_spots(x.hkl, x.spots) for x in in_block]
            for block, in_block in indexed.items()
        }
        self.before = self._rmsd()

    def placed(self) -> Detector:
        """Return the detector as refined so far."""
        return placed(self.detector, self.d)

    def refine(self, probability: float) -> None:
        """Make one pass: index anew, refine, reject the spots outside the ellipse of this
        probability, refine.
        """
        detector = self.placed()
        members = {
            block: [self._member(x, detector) for x in in_block]
            for block, in_block in self.indexed.items()
        }
        members = self._iterate(members)
        members = self._reject(members, probability)
        members = self._iterate(members)
        self.indexed = {
            block: [
                x._replace(lattice=member.lattice)
                for x, member in zip(self.indexed[block], in_block, strict=True)
            ]
            for block, in_block in members.items()
        }

    def _member(self, indexed: IndexedLattice, detector: Detector) -> Member:
        """Return a lattice with its spots indexed anew on a detector."""
        lattice, _, spots, spectrum = indexed
        hkl = refinement.assign(
            lattice,
            spots,
            spectrum,
            detector,
            space_group=self.space_group,
            tolerance_px=TOLERANCE_PX,
        )
        return member(lattice, hkl, spots, spectrum, detector, self.space_group)

    def _iterate(self, members: dict[int, list[Member]]) -> dict[int, list[Member]]:
        """Refine detector and lattices, and return the latter."""
        self.d, members, self.solution, n_steps = iterate(
            self.detector, self.d, members, self.free, self.total
        )
        self.steps += n_steps
        return members

    def _reject(
        self, members: dict[int, list[Member]], probability: float
    ) -> dict[int, list[Member]]:
        """Return the lattices without the spots outside the ellipse of this probability, and count
        both kinds.
        """
        cut = robust_cut(self._pooled(members), probability)
        left = {
            block: [reject(self.detector, self.d, member, cut) for member in in_block]
            for block, in_block in members.items()
        }
        n_valid = {
            block: np.array([_n_valid(members[block]), _n_valid(left[block])]) for block in members
        }
        before, after = self.total(n_valid)
        self.n_used = int(after)
        self.n_outliers = int(before - after)
        return left

    def _pooled(self, members: dict[int, list[Member]]) -> np.ndarray:
        """Return normalized residuals (n, 2) of all blocks, of each about as many."""
        n_blocks = len(self.pool(dict.fromkeys(members, 0)))
        share = max(LEAST_POOLED, POOLED // n_blocks)
        samples = {}
        for block, in_block in members.items():
            residuals = self._residuals(in_block)
            every = 1 + len(residuals) // share
            samples[block] = residuals[::every]
        return np.concatenate(self.pool(samples))

    def _residuals(self, members: list[Member]) -> np.ndarray:
        """Return the finite normalized residuals (n, 2) of some lattices."""
        of_members = [normalized(self.detector, self.d, member) for member in members]
        rows = np.concatenate([np.zeros((0, 2)), *of_members])
        is_finite = np.isfinite(rows).all(axis=1)
        return rows[is_finite]

    def _rmsd(self) -> dict[str, Any]:
        """Return the r.m.s.d. over the spots with I/σ ≥ 5 as they were indexed: the same list
        before and after.
        """
        detector = self.placed()
        sums = {}
        for block, in_block in self.indexed.items():
            offsets = [
                centroid_fit.offsets(x.lattice, hkl, x.spots, x.spectrum, detector)
                for x, hkl in zip(in_block, self.listed[block], strict=True)
            ]
            rows = np.concatenate(offsets or [np.zeros((0, 2))])
            sums[block] = np.array([*(rows**2).sum(axis=0), len(rows)])
        *squares, n = self.total(sums)
        radial, transverse = np.sqrt(np.array(squares) / max(n, 1.0))
        pixel_mm = float(self.detector.pixel_mm)
        return {
            "radial_px": float(radial),
            "transverse_px": float(transverse),
            "radial_mm": float(radial * pixel_mm),
            "transverse_mm": float(transverse * pixel_mm),
            "n": int(n),
        }

    def figures(self) -> dict[str, Any]:
        """Return plain numbers, units in the names; σ is 0 for what was not refined."""
        covariance = self.solution.covariance
        sigma = np.zeros(len(self.d))
        sigma[self.free] = np.sqrt(np.diag(covariance))
        correlation = covariance / np.outer(sigma[self.free], sigma[self.free])
        return {
            "shift_mm": self.d[:2].tolist(),
            "shift_sigma_mm": sigma[:2].tolist(),
            "distance_mm": float(geometry.distances_mm(self.placed())[0]),
            "distance_sigma_mm": float(sigma[2]),
            "distance_change_mm": float(self.d[2]),
            "tilt_rad": self.d[3:].tolist(),
            "tilt_sigma_rad": sigma[3:].tolist(),
            "refined": [NAMES[i] for i in self.free],
            "correlation": correlation.tolist(),
            "n_reflections": self.n_used,
            "n_outliers": self.n_outliers,
            "chi2_reduced": self.solution.chi2 / max(self.solution.freedom, 1),
            "steps": self.steps,
            "rmsd_before": self.before,
            "rmsd_after": self._rmsd(),
        }


def _n_valid(members: list[Member]) -> int:
    """Return how many spots of some lattices count."""
    return sum(member.n_valid for member in members)
