"""The joint refinement of level 0: passes over all lattices, of which those that are unlike the
others are left out.

Blocks of lattices are held by several ranks; what all blocks share, the detector, is the same for
every one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from spreadflow.analysis import (
    detector_moves,
    geometry_fit,
    geometry_outliers,
    geometry_steps,
)
from spreadflow.analysis.detector_moves import N_BODY, N_OWN, NAMES, Moves, Position
from spreadflow.analysis.geometry_fit import Member, Total
from spreadflow.analysis.geometry_outliers import Cut, Evidence
from spreadflow.analysis.still import centroid_fit, refinement
from spreadflow.analysis.still.prediction import MosaicLattice
from spreadflow.models import Detector, Spectrum, Spots
from spreadflow.physics import geometry, unit_cell

Pool = Callable[[dict[int, Any]], list]
"""List of objects held per block, of all blocks, here and elsewhere."""

POOLED = 20_000
"""Residuals the robust cut is estimated from."""

LEAST_POOLED = 8
"""Residuals each block contributes to the robust cut at least, if it has them."""

TOLERANCE_PX = 3.0
"""Spots further than this from every prediction are of no lattice."""


class LatticeIdentity(NamedTuple):
    """Which lattice it is."""

    run: int
    """number of the run"""
    shot_id: int
    k: int


class LeftOut(NamedTuple):
    """A lattice that takes no part in the position of the detector."""

    identity: LatticeIdentity
    reasons: list[str]
    """what is wrong with it, with its value and the limit"""


class IndexedLattice(NamedTuple):
    """A lattice as indexing left it."""

    identity: LatticeIdentity
    lattice: MosaicLattice
    hkl: np.ndarray
    """(spot, 3) 0 0 0 = not of this lattice"""
    spots: Spots
    """those in no other lattice"""
    spectrum: Spectrum
    """compressed, as by `prediction.compress`"""


def evidence(position: Position, member: Member, cut: Cut) -> Evidence:
    """Return what tells whether a lattice is like the others; NaN where it has no valid spots or
    its numbers are not finite.
    """
    if member.n_valid == 0:
        return Evidence(0.0, np.nan, np.nan, np.nan)
    distance2 = cut.distance2(geometry_fit.normalized(position, member))
    is_inside = distance2 <= cut.limit
    return Evidence(
        inside=float(is_inside.sum()),
        beyond=float(np.mean(~is_inside)),
        size=float(np.median(distance2)),
        move=geometry_fit.own_move(position, member),
    )


def without(member: Member, is_out: np.ndarray) -> Member:
    """Return the lattice with some of its valid spots no longer valid: is_out (valid spot,)."""
    valid = member.observed.valid.copy()
    valid[valid] = ~is_out
    return member._replace(observed=member.observed._replace(valid=valid))


def reject(position: Position, member: Member, cut: Cut) -> Member:
    """Return the lattice with the spots beyond the cut no longer valid."""
    distance2 = cut.distance2(geometry_fit.normalized(position, member))
    return without(member, ~(distance2 <= cut.limit))


class Joint:
    """The joint refinement: blocks of lattices, and the one detector that all blocks, here and
    elsewhere, share.

    indexed: block → lattices held here. moves: what is refined. total and pool give every holder
    of blocks the same. fewest: spots that a lattice needs.
    """

    def __init__(
        self,
        indexed: dict[int, list[IndexedLattice]],
        detector: Detector,
        space_group: str,
        moves: Moves,
        total: Total,
        pool: Pool,
        fewest: int,
    ):
        self.indexed = indexed
        self.start = indexed
        self.space_group = space_group
        self.total = total
        self.pool = pool
        self.fewest = fewest
        self.position = detector_moves.position(detector, moves, np.zeros(len(moves.basis)))
        self.steps = 0
        self.is_converged = False
        self.n_used = 0
        self.n_outliers = 0
        self.left_out: list[LeftOut] = []
        self.is_kept = {block: [True] * len(in_block) for block, in_block in indexed.items()}
        self.listed = {
            block: [refinement.of_strong_spots(x.hkl, x.spots) for x in in_block]
            for block, in_block in indexed.items()
        }
        self.before = self._squares()

    @property
    def placed(self) -> Detector:
        """The detector as refined so far."""
        return self.position.detector

    def refine(self, probability: float) -> None:
        """Make one pass: index anew, refine, leave out lattices that are unlike the others, reject
        the spots outside the ellipse of this probability, refine. A lattice that is left out stays
        out.
        """
        detector = self.placed
        members = {
            block: [self._member(x, detector) for x in in_block]
            for block, in_block in self.indexed.items()
        }
        members = self._iterate(self._kept(members))
        self._judge(members, probability)
        members = self._kept(members)
        members = self._reject(members, self._cut(members, probability))
        members = self._iterate(members)
        self.members = members
        self.indexed = {
            block: [
                x._replace(lattice=member.lattice)
                for x, member in zip(self.indexed[block], in_block, strict=True)
            ]
            for block, in_block in members.items()
        }

    def _kept(self, members: dict[int, list[Member]]) -> dict[int, list[Member]]:
        """Return the lattices, those that are left out without valid spots."""
        return {
            block: [
                member if is_kept else without(member, np.ones(member.n_valid, bool))
                for member, is_kept in zip(in_block, self.is_kept[block], strict=True)
            ]
            for block, in_block in members.items()
        }

    def _cut(self, members: dict[int, list[Member]], probability: float) -> Cut:
        """Return the ellipse that holds the residuals of all lattices."""
        return geometry_outliers.robust_cut(self._pooled(members), probability)

    def _member(self, indexed: IndexedLattice, detector: Detector) -> Member:
        """Return a lattice with its spots indexed anew on a detector."""
        lattice = indexed.lattice
        spots = indexed.spots
        spectrum = indexed.spectrum
        hkl = refinement.assign(
            lattice,
            spots,
            spectrum,
            detector,
            space_group=self.space_group,
            tolerance_px=TOLERANCE_PX,
        )
        return geometry_fit.member(lattice, hkl, spots, spectrum, detector, self.space_group)

    def _iterate(self, members: dict[int, list[Member]]) -> dict[int, list[Member]]:
        """Refine detector and lattices, and return the latter."""
        rest = geometry_steps.refine(self.position, members, self.total)
        self.position = rest.position
        self.solution = rest.solution
        self.is_converged = rest.is_converged
        self.steps += rest.n_steps
        return rest.members

    def _judge(self, members: dict[int, list[Member]], probability: float) -> None:
        """Leave out the lattices that are unlike the others. members: with valid spots, but for
        those that were left out before.
        """
        cut = self._cut(members, probability)
        own = {
            block: [evidence(self.position, member, cut) for member in in_block]
            for block, in_block in members.items()
        }
        pooled = np.array([row for in_block in self.pool(own) for row in in_block])
        n_body = len(self.position.moves.body)
        largest = geometry_outliers.limits(Evidence(*pooled.T), n_body, self.fewest)
        left_out: dict[int, list[LeftOut]] = {}
        for block, in_block in own.items():
            left_out[block] = []
            for row, (x, of_lattice) in enumerate(zip(self.indexed[block], in_block, strict=True)):
                reasons = geometry_outliers.reasons(of_lattice, largest)
                if reasons and self.is_kept[block][row]:
                    self.is_kept[block][row] = False
                    left_out[block].append(LeftOut(x.identity, reasons))
        self.left_out += [lattice for in_block in self.pool(left_out) for lattice in in_block]

    def _reject(self, members: dict[int, list[Member]], cut: Cut) -> dict[int, list[Member]]:
        """Return the lattices without spots beyond the cut, and count the spots that stay and those
        beyond.
        """
        left = {}
        counts = {}
        for block, in_block in members.items():
            left[block] = [reject(self.position, member, cut) for member in in_block]
            n_spots = sum(member.n_valid for member in in_block)
            counts[block] = np.array([n_spots, sum(member.n_valid for member in left[block])])
        before, after = self.total(counts)
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
        of_members = [geometry_fit.normalized(self.position, member) for member in members]
        rows = np.concatenate([np.zeros((0, 2)), *of_members])
        is_finite = np.isfinite(rows).all(axis=1)
        return rows[is_finite]

    def _squares(self) -> dict[int, np.ndarray]:
        """Return sums of squared offsets, px², radial and transverse, and the number of spots, of
        each lattice on each group of panels: block → (lattice, group, 3). They are over the spots
        with I/σ ≥ 5 as they were indexed: the same list before and after.
        """
        detector = self.placed
        moves = self.position.moves
        squares = {}
        for block, in_block in self.indexed.items():
            squares[block] = np.zeros((len(in_block), max(moves.n_groups, 1), 3))
            for row, hkl, x in zip(squares[block], self.listed[block], in_block, strict=True):
                offsets = centroid_fit.offsets(x.lattice, hkl, x.spots, x.spectrum, detector)
                group = np.zeros(len(offsets), dtype=int)
                if moves.group_of_panel is not None:
                    group = moves.group_of_panel[x.spots.panel[hkl.any(axis=1)]]
                np.add.at(row[:, :2], group, offsets**2)
                np.add.at(row[:, 2], group, 1.0)
        return squares

    def _by_group(self, squares: dict[int, np.ndarray]) -> np.ndarray:
        """Return the sums (group, 3) over the lattices that take part of those of `_squares`."""
        return self.total(
            {
                block: of_lattices[self.is_kept[block]].sum(axis=0)
                for block, of_lattices in squares.items()
            }
        )

    def _rmsd(self, sums: np.ndarray) -> dict[str, Any]:
        """Return the r.m.s.d. from sums (3,) of squares, radial and transverse, and spots."""
        *squared, n = sums
        radial, transverse = np.sqrt(np.array(squared) / max(n, 1.0))
        pixel_mm = float(self.placed.pixel_mm)
        return {
            "radial_px": float(radial),
            "transverse_px": float(transverse),
            "radial_mm": float(radial * pixel_mm),
            "transverse_mm": float(transverse * pixel_mm),
            "n": int(n),
        }

    def _growth(self) -> tuple[float, float]:
        """Return by how much the lengths of the cells of the lattices that take part grew, relative
        (cube root of the volume), and the standard deviation of this mean.
        """
        sums = {}
        for block, in_block in self.indexed.items():
            sums[block] = np.zeros(3)
            pairs = zip(self.start[block], in_block, self.is_kept[block], strict=True)
            for before, after, is_kept in pairs:
                if is_kept:
                    determinants = np.linalg.det([before.lattice.A, after.lattice.A])
                    growth = np.log(determinants[0] / determinants[1]) / 3.0
                    sums[block] += 1.0, growth, growth**2
        n, total, squares = self.total(sums)
        n = max(n, 1.0)
        mean = total / n
        variance = max(squares / n - mean**2, 0.0)
        return float(mean), float(np.sqrt(variance / max(n - 1.0, 1.0)))

    def _cell(self) -> list[float]:
        """Return the mean cell of the lattices that take part, Å and degrees."""
        sums = {}
        for block, in_block in self.indexed.items():
            sums[block] = np.zeros(7)
            for x, is_kept in zip(in_block, self.is_kept[block], strict=True):
                if is_kept:
                    cell = unit_cell.degrees(unit_cell.cell_of(x.lattice.A))
                    sums[block] += 1.0, *cell
        n, *total = self.total(sums)
        return (np.array(total) / max(n, 1.0)).tolist()

    def figures(self) -> dict[str, Any]:
        """Return plain numbers, units in the names; σ is 0 for what was not refined."""
        sigma = np.sqrt(np.diag(self.solution.covariance))
        d = self.position.d
        body = self.position.moves.body
        covariance = self.solution.covariance[np.ix_(body, body)]
        correlation = covariance / np.outer(sigma[body], sigma[body])
        growth, growth_sigma = self._growth()
        before, after = (self._by_group(squares) for squares in (self.before, self._squares()))
        return {
            "shift_mm": d[:2].tolist(),
            "shift_sigma_mm": sigma[:2].tolist(),
            "header_distance_mm": float(geometry.distances_mm(self.position.file)[0]),
            "distance_mm": float(geometry.distances_mm(self.placed)[0]),
            "distance_sigma_mm": float(sigma[2]),
            "distance_change_mm": float(d[2]),
            "tilt_rad": d[3:N_BODY].tolist(),
            "tilt_sigma_rad": sigma[3:N_BODY].tolist(),
            "refined": [NAMES[i] for i in body],
            "correlation": correlation.tolist(),
            "cell": self._cell(),
            "cell_growth": growth,
            "cell_growth_sigma": growth_sigma,
            "n_reflections": self.n_used,
            "n_outliers": self.n_outliers,
            "chi2_reduced": self.solution.chi2 / max(self.solution.freedom, 1),
            "steps": self.steps,
            "is_converged": self.is_converged,
            "rmsd_before": self._rmsd(before.sum(axis=0)),
            "rmsd_after": self._rmsd(after.sum(axis=0)),
            "panel_share": self._panel_share(),
            "rigid_groups": self._group_figures(sigma, before, after),
        }

    def _panel_share(self) -> float:
        """Return which share of the squared residuals is that of panels which lie beside where they
        are refined to.
        """
        sums = {
            block: geometry_fit.panel_sums(self.position, in_block)
            for block, in_block in self.members.items()
        }
        return geometry_outliers.panel_share(self.total(sums))

    def _group_figures(
        self, sigma: np.ndarray, before: np.ndarray, after: np.ndarray
    ) -> list[dict[str, Any]]:
        """Return the numbers of each group. sigma: (unknown,); before, after: as `_by_group`."""
        group_of_panel = self.position.moves.group_of_panel
        if group_of_panel is None:
            return []
        own, own_sigma = (x[N_BODY:].reshape(-1, N_OWN) for x in (self.position.d, sigma))
        return [
            {
                "panels": np.flatnonzero(group_of_panel == group).tolist(),
                "shift_mm": own[group, :2].tolist(),
                "shift_sigma_mm": own_sigma[group, :2].tolist(),
                "distance_change_mm": float(own[group, 2]),
                "distance_sigma_mm": float(own_sigma[group, 2]),
                "tilt_rad": own[group, 3:N_BODY].tolist(),
                "tilt_sigma_rad": own_sigma[group, 3:N_BODY].tolist(),
                "turn_rad": float(own[group, N_BODY]),
                "turn_sigma_rad": float(own_sigma[group, N_BODY]),
                "rmsd_before": self._rmsd(before[group]),
                "rmsd_after": self._rmsd(after[group]),
            }
            for group in range(len(own))
        ]
