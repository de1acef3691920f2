"""Level 0: one detector for all lattices, moved as a body and, where asked for, in rigid groups of
panels; every crystal is eliminated by its Schur complement.

Global unknowns d are those of `detector_moves`. Local unknowns: those of `centroid_fit`. Each
lattice adds its reduced normal equations, by the unknowns of the detector and of the groups that
its spots are on, to one flat array, so that ranks sum little. `geometry_steps` takes the steps.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from spreadflow.analysis import detector_moves
from spreadflow.analysis.detector_moves import N_BODY, N_OWN, Moves, Position
from spreadflow.analysis.least_squares import eliminate
from spreadflow.analysis.orientation_matrix import crystal_frame
from spreadflow.analysis.still import centroid_fit, refinement
from spreadflow.analysis.still.centroid_fit import CentroidModel, Observed
from spreadflow.analysis.still.prediction import MosaicLattice, padded_rows
from spreadflow.models import Detector, Spectrum, Spots

Total = Callable[[dict[int, np.ndarray]], np.ndarray]
"""Sum of equally shaped arrays held per block, over all blocks, here and elsewhere."""

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
    loss: float
    """negative log likelihood, with the restraints of the lattice"""


class Solution(NamedTuple):
    """One step of the detector and how well it is known."""

    step: np.ndarray
    """(unknown,) mm, rad"""
    covariance: np.ndarray
    """(unknown, unknown) from the scatter of gradients and the true curvature of the loss (Huber's
    sandwich): holds whatever the σ of the spots are; a restraint counts as a measurement. The
    larger of two: by the scatter of the lattices, which holds though the errors within a lattice go
    together; and by that of the spots, as a dozen lattices tell little about their own scatter, and
    fewer than there are unknowns nothing of some
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


# ---------------------------------------------------------------- normal equations


class Linearized(NamedTuple):
    """Residuals of the spots of a lattice, and minus their derivatives."""

    offset: np.ndarray
    """(spot, 2) px, radial and transverse"""
    by_p: np.ndarray
    """(spot, 2, m)"""
    by_d: np.ndarray
    """(spot, 2, column)"""
    columns: np.ndarray
    """(column,) numbers in d: of the detector, and of the groups that the spots are on"""


def linearized(position: Position, member: Member) -> Linearized:
    """Return the residuals of a lattice and how they change."""
    model, p, observed = member
    terms = centroid_fit.residuals(position.detector, model, p, observed)
    n = len(terms.s1)
    file, moves, d, _ = position
    panel = padded_rows(observed.panel, 0).astype(np.int32)
    s1 = padded_rows(terms.s1)
    moved = detector_moves.spots_by_moves(file, d, moves.group_of_panel, panel, s1)
    by_moves = np.einsum("sij,sjk->sik", observed.axes, np.asarray(moved)[:n])
    by_body = by_moves[:, :, :N_BODY]
    if moves.group_of_panel is None:
        return Linearized(terms.offset, terms.offset_by_p, by_body, np.arange(N_BODY))

    groups, number = np.unique(moves.group_of_panel[observed.panel], return_inverse=True)
    by_groups = np.zeros((n, 2, len(groups), N_OWN))
    by_groups[np.arange(n), :, number] = by_moves[:, :, N_BODY:]
    return Linearized(
        offset=terms.offset,
        by_p=terms.offset_by_p,
        by_d=np.concatenate([by_body, by_groups.reshape(n, 2, -1)], axis=2),
        columns=np.append(np.arange(N_BODY), detector_moves.numbers_of_groups(groups)),
    )


class Sums(NamedTuple):
    """What lattices add up to, as views of one flat array."""

    information: np.ndarray
    """(unknown, unknown) reduced"""
    of_lattices: np.ndarray
    """(unknown, unknown) outer products of the gradients of lattices"""
    of_spots: np.ndarray
    """(unknown, unknown) outer products of what spots add to the gradients"""
    gradient: np.ndarray
    """(unknown,) reduced"""
    counts: np.ndarray
    """as `Counts`"""


def n_sums(n_unknowns: int) -> int:
    """Return the length of the flat array."""
    return 3 * n_unknowns**2 + n_unknowns + len(Counts._fields)


def sums_of(flat: np.ndarray, n_unknowns: int) -> Sums:
    """Return the views of a flat array."""
    n = n_unknowns
    information, of_lattices, of_spots = flat[: 3 * n * n].reshape(3, n, n)
    return Sums(
        information=information,
        of_lattices=of_lattices,
        of_spots=of_spots,
        gradient=flat[3 * n * n : 3 * n * n + n],
        counts=flat[3 * n * n + n :],
    )


def partials(position: Position, members: Sequence[Member]) -> np.ndarray:
    """Return the reduced normal equations of some lattices: a flat float64 array as of `Sums`, to
    be summed over all lattices and handed to `solve`. A lattice without valid spots, or whose
    numbers are not finite, adds nothing.
    """
    n_unknowns = len(position.d)
    flat = np.zeros(n_sums(n_unknowns))
    total = sums_of(flat, n_unknowns)
    for member in members:
        reduced = _reduced(position, member)
        if reduced is None:
            continue
        part, columns = reduced
        square = np.ix_(columns, columns)
        total.information[square] += part.information
        total.of_lattices[square] += part.of_lattices
        total.of_spots[square] += part.of_spots
        total.gradient[columns] += part.gradient
        total.counts[:] += part.counts
    return flat


class _NormalEquations(NamedTuple):
    """Hessian and gradient of a lattice's loss by the unknowns of the detector that it depends on,
    then by its own, restraints of the latter included.
    """

    hessian: np.ndarray
    """(column + m, column + m)"""
    gradient: np.ndarray
    """(column + m,)"""
    of_spots: np.ndarray
    """(spot, column + m) what each spot adds to the gradient; 0 where it is not valid"""
    counts: Counts
    columns: np.ndarray
    """(column,)"""


def _reduced(position: Position, member: Member) -> tuple[Sums, np.ndarray] | None:
    """Return s = H_dd − H_dl H_ll⁻¹ H_ld and g = g_d − H_dl H_ll⁻¹ g_l of a lattice, with the outer
    products of g and of what its spots add to it, by the columns it depends on; and the numbers of
    these in d. None for one without valid spots, or whose numbers are not finite.
    """
    if member.n_valid == 0:
        return None
    H, g, of_spots, counts, columns = _normal_equations(position, member)
    n = len(columns)
    without_lattice = eliminate(H, g[:, None], n)
    slope = without_lattice.coupling
    reduced = without_lattice.right[:, 0]

    reduced_spots = of_spots[:, :n] - of_spots[:, n:] @ slope
    share_of_unknowns = 0.5 * len(member.p) / member.n_valid
    within = reduced_spots.T @ reduced_spots / max(1.0 - share_of_unknowns, LEAST_FREEDOM)
    part = Sums(
        information=without_lattice.information,
        of_lattices=np.outer(reduced, reduced),
        of_spots=within,
        gradient=reduced,
        counts=np.array(counts),
    )
    if not all(np.isfinite(array).all() for array in part):
        return None
    return part, columns


def _normal_equations(position: Position, member: Member) -> _NormalEquations:
    """Return the normal equations of a lattice by the unknowns of the detector and its own."""
    observed = member.observed
    offset, by_p, by_d, columns = linearized(position, member)
    z2 = (offset**2 / observed.variance).sum(axis=1)
    loss, weight = centroid_fit.student(z2)
    weight = weight * observed.valid

    jacobian = np.concatenate([by_d, by_p], axis=2)
    n_all = jacobian.shape[2]
    scaled = jacobian * (weight[:, None] / observed.variance)[:, :, None]
    H = scaled.reshape(-1, n_all).T @ jacobian.reshape(-1, n_all)
    of_spots = -np.einsum("sam,sa->sm", scaled, offset)
    g = of_spots.sum(axis=0)

    n = len(columns)
    ln_eta = np.log(refinement.ETA_PRIOR_RAD)
    centre, precision = centroid_fit.prior(member.model.frame, ln_eta, refinement.ETA_PRIOR_LOG)
    H[n:, n:] += np.diag(precision)
    away = member.p - centre
    g[n:] += precision * away
    counts = Counts(
        squares=weight @ z2,
        freedom=2.0 * member.n_valid - len(member.p),
        lattices=1.0,
        weight=2.0 * weight.sum(),
        bend=centroid_fit.bend(z2) @ observed.valid,
        loss=loss @ observed.valid + 0.5 * precision @ away**2,
    )
    return _NormalEquations(H, g, of_spots, counts, columns)


class Equations(NamedTuple):
    """Normal equations of the unknowns that are refined, the coordinates along `Moves.basis`."""

    of_data: np.ndarray
    """(free, free)"""
    of_restraint: np.ndarray
    """(free, free)"""
    gradient: np.ndarray
    """(free,) of the loss, restraints included"""
    loss: float
    """likewise"""


def equations(total: np.ndarray, moves: Moves, d: np.ndarray) -> Equations:
    """Return the normal equations at d (unknown,), of partials summed over all lattices."""
    basis = moves.basis
    sums = sums_of(total, len(d))
    counts = Counts(*sums.counts)
    return Equations(
        of_data=basis.T @ sums.information @ basis,
        of_restraint=basis.T @ (moves.precision[:, None] * basis),
        gradient=basis.T @ (sums.gradient + moves.precision * d),
        loss=float(counts.loss + 0.5 * moves.precision @ d**2),
    )


def solve(total: np.ndarray, moves: Moves, d: np.ndarray) -> Solution:
    """Return the Gauss-Newton step of the detector from d (unknown,), of partials summed over all
    lattices.
    """
    basis = moves.basis
    sums = sums_of(total, len(d))
    counts = Counts(*sums.counts)
    of_data, of_restraint, gradient, _ = equations(total, moves, d)
    step = -np.linalg.inv(of_data + of_restraint) @ gradient

    curvature = 1.0 - counts.bend / counts.weight
    inverse = basis @ np.linalg.inv(curvature * of_data + of_restraint)
    n = basis.shape[1]
    share_of_unknowns = n / max(counts.freedom, 1.0)
    scatters = [sums.of_spots / max(1.0 - share_of_unknowns, LEAST_FREEDOM)]
    if counts.lattices >= n:
        scatters.append(counts.lattices / max(counts.lattices - n, 1.0) * sums.of_lattices)
    covariances = [
        inverse @ (basis.T @ scatter @ basis + of_restraint) @ inverse.T for scatter in scatters
    ]
    return Solution(
        step=basis @ step,
        covariance=_larger(covariances[0], covariances[-1]),
        chi2=counts.squares,
        freedom=int(counts.freedom),
    )


def _larger(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the covariance with the larger variances of two (n, n), and their mean correlation."""
    sigma = np.sqrt(np.maximum(np.diag(a), np.diag(b)))
    both = a + b
    of_both = np.sqrt(np.diag(both))
    factor = sigma / np.where(of_both > 0, of_both, 1.0)
    return both * np.outer(factor, factor)


def normalized(position: Position, member: Member) -> np.ndarray:
    """Return residuals (valid spot, 2), radial and transverse, in units of their σ."""
    observed = member.observed
    terms = centroid_fit.residuals(position.detector, member.model, member.p, observed)
    in_sigma = terms.offset / np.sqrt(observed.variance)
    return in_sigma[observed.valid]


def panel_sums(position: Position, members: Sequence[Member]) -> np.ndarray:
    """Return sums over the valid spots of lattices on each panel, (panel, 4): of their number, of
    the residuals along fast and slow, px, and of the squares of both.
    """
    sums = np.zeros((position.detector.n_panels, 4))
    for model, p, observed in members:
        terms = centroid_fit.residuals(position.detector, model, p, observed)
        along_panel = np.einsum("sij,si->sj", observed.axes, terms.offset)
        is_good = observed.valid & np.isfinite(along_panel).all(axis=1)
        residuals = along_panel[is_good]
        squares = (residuals**2).sum(axis=1)
        rows = np.column_stack([np.ones(len(residuals)), residuals, squares])
        np.add.at(sums, observed.panel[is_good], rows)
    return sums


def own_move(position: Position, member: Member) -> float:
    """Return the squared distance, in σ², between the detector and the one, moved as a body, that a
    lattice alone asks for; NaN where its numbers are not finite.
    """
    reduced = _reduced(position, member)
    if reduced is None:
        return np.nan
    body = position.moves.body
    part, _ = reduced
    S = part.information[np.ix_(body, body)]
    g = part.gradient[body]
    return float(g @ np.linalg.pinv(S) @ g)
