"""Level 0: one detector for all lattices, moved as a body; every crystal is eliminated by its Schur
complement.

Global unknowns d: shift along panel 0's fast and slow axes (mm), away from the sample (mm), tilts
about the fast and the slow axis (rad). A turn about the beam is a turn of all crystals and stays as
it is. Local unknowns: those of `refinement`. Each lattice adds its reduced normal equations to one
small flat array, so that ranks sum little.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import chi2
from sklearn.covariance import MinCovDet

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.analysis.still import refinement
from spreadflow.analysis.still.refinement import Frame, Observed, Pulse
from spreadflow.models import Detector, Spots
from spreadflow.physics import geometry

Total = Callable[[dict[int, np.ndarray]], np.ndarray]
Pool = Callable[[dict[int, Any]], list]
EMPTY = np.zeros((0, 2))
NAMES = ("shift_fast_mm", "shift_slow_mm", "distance_mm", "tilt_fast_rad", "tilt_slow_rad")
"""The global unknowns, in this order."""

GROUPS = {"shift": (0, 1), "distance": (2,), "tilt": (3, 4)}
MAX_STEPS = 10
SMALL_STEP = 0.02
"""A step below this many σ ends the iteration."""

POOLED = 20_000
"""Residuals the robust cut is estimated from."""

TOLERANCE_PX = 3.0
"""Spots further than this from every prediction are of no lattice."""

PARTIALITY_MIN = 0.1
"""Reflections recorded less than this take no part: few domains make them, and their radius follows
those few.
"""


class IndexedLattice(NamedTuple):
    """A lattice as indexing left it."""

    A: np.ndarray
    eta_rad: float
    hkl: np.ndarray
    """(spot, 3) of the spots in no other lattice"""
    spots: Spots
    pulse: Pulse


class Member(NamedTuple):
    """One lattice in the joint refinement."""

    frame: Frame
    p: np.ndarray
    """(m,) its unknowns: rotation, strains, ln η"""
    observed: Observed
    pulse: Pulse

    @property
    def A(self) -> np.ndarray:
        """(3, 3) Å⁻¹"""
        return np.asarray(refinement.matrix(self.frame, self.p))

    @property
    def eta_rad(self) -> float:
        return float(np.exp(self.p[-1]))


class Eliminated(NamedTuple):
    """What gives a lattice's step once the detector's is known: δp = start − slope·δd."""

    start: np.ndarray
    slope: np.ndarray


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
    precision: np.ndarray
    limit: float
    """squared Mahalanobis distance"""


def member(
    A: np.ndarray,
    eta_rad: float,
    hkl: np.ndarray,
    spots: Spots,
    *,
    detector: Detector,
    pulse: Pulse,
    space_group: str,
) -> Member:
    """Return a lattice with the indexed ones (hkl ≠ 0) of its shot's spots, ready to take part."""
    observed = refinement.observe(
        A,
        eta_rad,
        hkl,
        spots,
        detector=detector,
        pulse=pulse,
        model_px=refinement.MODEL_PX,
        least=PARTIALITY_MIN,
    )
    frame = refinement.frame(A, space_group)
    p = np.zeros(4 + len(frame.strains))
    p[-1] = np.log(eta_rad)
    return Member(frame, p, observed, pulse)


def moved(detector: Detector, d) -> Detector:
    """Return the detector tilted by d[3:] about the point where the beam meets panel 0's plane,
    then shifted by d[:3].
    """
    f = detector.fast[0]
    s = detector.slow[0]
    normal = geometry.normals(detector)[0]
    height = (detector.origin_mm[0] * normal).sum()
    pivot = geometry.S0 * height / (geometry.S0 * normal).sum()
    turn = refinement.turn(d[3] * f + d[4] * s)
    away = normal * jnp.sign(height)
    move = d[0] * f + d[1] * s + d[2] * away
    return detector._replace(
        origin_mm=(detector.origin_mm - pivot) @ turn.T + pivot + move,
        fast=detector.fast @ turn.T,
        slow=detector.slow @ turn.T,
    )


def placed(detector: Detector, d: np.ndarray) -> Detector:
    """Return `moved`, as NumPy."""
    there = moved(detector, d)
    return there._replace(
        origin_mm=np.asarray(there.origin_mm),
        fast=np.asarray(there.fast),
        slow=np.asarray(there.slow),
    )


@jax.jit
def _linearized(detector: Detector, d, frame: Frame, p, observed: Observed, pulse: Pulse):
    """Return residuals (spot, 2), px, and minus their derivatives by p (spot, 2, m) and by d (spot,
    2, 5).
    """
    residual, by_p, *_ = refinement.residuals(moved(detector, d), frame, p, observed, pulse)
    s1 = refinement.rays(frame, p, observed.hkl, pulse)

    def place(d):
        return jnp.stack(geometry.on_panel(moved(detector, d), observed.panel, s1), axis=-1)

    return (
        residual,
        by_p,
        (observed.axes[:, :, :, None] * jax.jacfwd(place)(d)[:, None, :, :]).sum(axis=2),
    )


def partials(
    detector: Detector, d, members: Sequence[Member], free: list[int]
) -> tuple[np.ndarray, list[Eliminated]]:
    """Return reduced normal equations of some lattices at detector unknowns d (5,), those in `free`
    refined.

    Returns a flat float64 array, to be summed over all lattices and handed to `solve`, and what
    `back` needs.
    """
    total = np.zeros(2 * len(free) ** 2 + len(free) + 3)
    eliminated = []
    for one in members:
        part, gone = _reduced(detector, d, one, free)
        total += part
        eliminated.append(gone)
    return total, eliminated


def _reduced(detector: Detector, d, one: Member, free: list[int]) -> tuple[np.ndarray, Eliminated]:
    """Return s = H_dd − H_dl H_ll⁻¹ H_ld and g = g_d − H_dl H_ll⁻¹ g_l of a lattice, with the outer
    product of g.
    """
    residual, by_p, by_d = (np.asarray(x) for x in _linearized(detector, d, *one))
    z2 = (residual**2 / one.observed.variance).sum(axis=1)
    weight = refinement.student(z2)[1] * one.observed.valid
    jacobian = np.concatenate([by_d[:, :, free], by_p], axis=2)
    scaled = jacobian * (weight[:, None] / one.observed.variance)[:, :, None]
    H = np.einsum("sam,san->mn", scaled, jacobian)
    g = -np.einsum("sam,sa->m", scaled, residual)
    centre, precision = refinement.prior(
        one.frame, np.log(refinement.ETA_PRIOR_RAD), refinement.ETA_PRIOR_LOG
    )
    n = len(free)
    H[n:, n:] += np.diag(precision)
    g[n:] += precision * (one.p - centre)
    local = np.linalg.solve(H[n:, n:], np.concatenate([H[n:, :n], g[n:, None]], axis=1))
    S = H[:n, :n] - H[:n, n:] @ local[:, :n]
    reduced = g[:n] - H[:n, n:] @ local[:, n]
    sums = [weight @ z2, 2.0 * np.count_nonzero(one.observed.valid) - len(one.p), 1.0]
    part = np.concatenate([S.ravel(), np.outer(reduced, reduced).ravel(), reduced, sums])
    if not np.isfinite(
        part
    ).all():  # a lattice that left all sense takes no part and stays where it is
        return np.zeros_like(part), Eliminated(np.zeros(len(one.p)), np.zeros((len(one.p), n)))
    return part, Eliminated(-local[:, n], local[:, :n])


def solve(total: np.ndarray, n_free: int) -> Solution:
    """Return the Gauss-Newton step of the detector from partials summed over all lattices."""
    n = n_free
    S, meat = total[: 2 * n * n].reshape(2, n, n)
    g = total[2 * n * n : -3]
    squares, count, lattices = total[-3:]
    inverse = np.linalg.inv(S)
    few = lattices / max(lattices - n, 1.0)
    return Solution(-inverse @ g, few * inverse @ meat @ inverse, float(squares), int(count))


def back(
    members: Sequence[Member], eliminated: Sequence[Eliminated], step: np.ndarray
) -> list[Member]:
    """Return the lattices after the detector's step."""
    return [
        m._replace(p=m.p + e.start - e.slope @ step)
        for m, e in zip(members, eliminated, strict=True)
    ]


def iterate(
    detector: Detector,
    d: np.ndarray,
    members: dict[int, list[Member]],
    free: list[int],
    total: Total,
) -> tuple[np.ndarray, dict[int, list[Member]], Solution, int]:
    """Return Gauss-Newton steps of detector and lattices from d (5,) until the detector stands
    still.

    members: block → lattices; total: sums arrays held per block over all blocks, here and
    elsewhere. Returns d, the lattices, the last step's solution and the number of steps.
    """
    steps = 0
    while steps < MAX_STEPS:
        steps += 1
        parts = {b: partials(detector, d, some, free) for b, some in members.items()}
        solution = solve(total({b: part for b, (part, _) in parts.items()}), len(free))
        members = {b: back(some, parts[b][1], solution.step) for b, some in members.items()}
        d = d.copy()
        d[free] += solution.step
        if np.all(np.abs(solution.step) < SMALL_STEP * np.sqrt(np.diag(solution.covariance))):
            break
    return d, members, solution, steps


def normalized(detector: Detector, d, one: Member) -> np.ndarray:
    """Return (valid spot, 2) residuals, radial and transverse, in units of their σ."""
    residual = np.asarray(_linearized(detector, d, *one)[0])
    return (residual / np.sqrt(one.observed.variance))[one.observed.valid]


def robust_cut(z: np.ndarray, probability: float) -> Cut:
    """Return the ellipse that holds `probability` of pooled residuals z (n, 2), were they normal.

    Minimum covariance determinant (Rousseeuw & Van Driessen 1999) with a fixed seed: the same on
    every rank.
    """
    found = MinCovDet(random_state=0).fit(z)
    return Cut(found.location_, np.linalg.inv(found.covariance_), float(chi2.ppf(probability, 2)))


def reject(detector: Detector, d, one: Member, cut: Cut) -> Member:
    """Return the lattice with the spots beyond the cut no longer valid."""
    away = normalized(detector, d, one) - cut.centre
    valid = one.observed.valid.copy()
    valid[valid] = np.einsum("si,ij,sj->s", away, cut.precision, away) <= cut.limit
    return one._replace(observed=one.observed._replace(valid=valid))


class Joint:
    """The joint refinement: blocks of lattices, and the one detector that all blocks, here and
    elsewhere, share.

    found: block → lattices held here. free: numbers of the refined `NAMES`. total: sums arrays held
    per block over all blocks; pool: lists objects held per block, of all blocks. Both give every
    holder of blocks the same.
    """

    def __init__(
        self, found, detector: Detector, space_group: str, free: list[int], total: Total, pool: Pool
    ):
        self.found: dict[int, list[IndexedLattice]] = found
        self.detector, self.space_group, self.free = detector, space_group, free
        self.total, self.pool = total, pool
        self.d, self.steps, self.n_used, self.n_outliers = np.zeros(len(NAMES)), 0, 0, 0
        self.listed = {b: [_listed(x) for x in some] for b, some in found.items()}
        self.before = self._rmsd()

    def placed(self) -> Detector:
        """Return the detector as refined so far."""
        return placed(self.detector, self.d)

    def refine(self, probability: float) -> None:
        """Make one pass: index anew, refine, reject the spots outside the ellipse of this
        probability, refine.
        """
        members = self._iterate(
            {b: [self._member(x) for x in some] for b, some in self.found.items()}
        )
        z = {b: self._residuals(some) for b, some in members.items()}
        share = max(8, POOLED // len(self.pool({b: 0 for b in z})))
        pooled = self.pool({b: rows[:: 1 + len(rows) // share] for b, rows in z.items()})
        cut = robust_cut(np.concatenate(pooled), probability)
        kept = {
            b: [reject(self.detector, self.d, m, cut) for m in some] for b, some in members.items()
        }
        counts = self.total({b: np.array([_valid(members[b]), _valid(kept[b])]) for b in members})
        self.n_used, self.n_outliers = int(counts[1]), int(counts[0] - counts[1])
        members = self._iterate(kept)
        for b, some in members.items():
            pairs = zip(self.found[b], some, strict=True)
            self.found[b] = [x._replace(A=m.A, eta_rad=m.eta_rad) for x, m in pairs]

    def _residuals(self, members: list[Member]) -> np.ndarray:
        rows = np.concatenate([normalized(self.detector, self.d, m) for m in members] or [EMPTY])
        return rows[np.isfinite(rows).all(axis=1)]

    def _member(self, x: IndexedLattice) -> Member:
        where: dict[str, Any] = {
            "detector": self.placed(),
            "pulse": x.pulse,
            "space_group": self.space_group,
        }
        hkl = refinement.assign(x.A, x.eta_rad, x.spots, tolerance_px=TOLERANCE_PX, **where)
        return member(x.A, x.eta_rad, hkl, x.spots, **where)

    def _iterate(self, members: dict[int, list[Member]]) -> dict[int, list[Member]]:
        self.d, members, self.solution, steps = iterate(
            self.detector, self.d, members, self.free, self.total
        )
        self.steps += steps
        return members

    def _rmsd(self) -> dict[str, Any]:
        """Return r.m.s.d. over the spots with I/σ ≥ 5 as they were indexed: the same list before
        and after.
        """
        sums = {}
        where = self.placed()
        for b, some in self.found.items():
            away = [
                refinement.offsets(x.A, x.eta_rad, hkl, x.spots, detector=where, pulse=x.pulse)
                for x, hkl in zip(some, self.listed[b], strict=True)
            ]
            rows = np.concatenate(away or [EMPTY])
            sums[b] = np.array([*(rows**2).sum(axis=0), len(rows)])
        radial, transverse, n = self.total(sums)
        px = np.sqrt(np.array([radial, transverse]) / max(n, 1.0))
        size = float(self.detector.pixel_mm)
        keys = ("radial_px", "transverse_px", "radial_mm", "transverse_mm")
        return dict(zip(keys, [*px.tolist(), *(px * size).tolist()], strict=True)) | {"n": int(n)}

    def figures(self) -> dict[str, Any]:
        """Return plain numbers, units in the names; σ is 0 for what was not refined."""
        covariance = self.solution.covariance
        sigma = np.zeros(len(self.d))
        sigma[self.free] = np.sqrt(np.diag(covariance))
        return {
            "shift_mm": self.d[:2].tolist(),
            "shift_sigma_mm": sigma[:2].tolist(),
            "distance_mm": float(geometry.distances_mm(self.placed())[0]),
            "distance_sigma_mm": float(sigma[2]),
            "distance_change_mm": float(self.d[2]),
            "tilt_rad": self.d[3:].tolist(),
            "tilt_sigma_rad": sigma[3:].tolist(),
            "refined": [NAMES[i] for i in self.free],
            "correlation": (covariance / np.outer(sigma[self.free], sigma[self.free])).tolist(),
            "n_reflections": self.n_used,
            "n_outliers": self.n_outliers,
            "chi2_reduced": self.solution.chi2 / max(self.solution.freedom, 1),
            "steps": self.steps,
            "rmsd_before": self.before,
            "rmsd_after": self._rmsd(),
        }


def _listed(x: IndexedLattice) -> np.ndarray:
    """Return (spot, 3) indices of the spots that count in the r.m.s.d.; 0 0 0 = does not."""
    strong = x.spots.intensity >= refinement.I_OVER_SIGMA * x.spots.sigma
    return np.where(strong[:, None], x.hkl, 0)


def _valid(members: list[Member]) -> int:
    return sum(int(m.observed.valid.sum()) for m in members)
