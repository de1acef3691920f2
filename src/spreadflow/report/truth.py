"""Lattices and reflections of `index` and `reindex` beside those that were simulated."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spreadflow.models import ReflectionFlag
from spreadflow.physics import miller, symmetry, unit_cell
from spreadflow.products import KINDS, Children, Index, Truth
from spreadflow.products.index import Reflections, Spots
from spreadflow.products.truth import Reflections as TrueReflections
from spreadflow.units import DEG

SINGLE, BLANK, DOUBLE = (KINDS.index(kind) for kind in ("single", "blank", "double"))
"""Kinds of simulated shots."""

RIGHT_RAD = 1.0 * DEG
"""A lattice is the simulated one if it is turned from it by less than this, rad."""

BRIGHT_SHARE = 0.1
"""A simulated reflection explains a spot if it has at least this share of the spot's photons."""

STRONG_SIGMAS = 3
"""A simulated reflection is strong, and should be predicted, if it exceeds this many σ."""


class Match(NamedTuple):
    """Lattices of a product beside the simulated ones of their shots."""

    kind: np.ndarray
    """(shot,) kind that was simulated; −1 = this shot has no truth"""
    row: np.ndarray
    """(lattice,) row in the truth's lattices, each at most once; −1 = none was left in this shot"""
    angle: np.ndarray
    """(lattice,) misorientation, rad; NaN where row is −1"""
    to_truth: np.ndarray
    """(lattice, 3, 3) integers: simulated hkl = to_truth · hkl of the product"""

    @property
    def right(self) -> np.ndarray:
        """(lattice,) bool: the lattice is the simulated one."""
        return (self.row >= 0) & (np.nan_to_num(self.angle, nan=np.inf) < RIGHT_RAD)


class MatchedRun(NamedTuple):
    """Product and truth of a run, or of a part of it, and which of their lattices belong
    together.
    """

    product: Index
    truth: Truth
    match: Match

    @property
    def kind_of_lattice(self) -> np.ndarray:
        """(lattice,) kind of the lattice's shot; −1 = the shot has no truth."""
        return self.match.kind[self.product.lattices.shot]

    @property
    def right_on_singles(self) -> np.ndarray:
        """Rows of the right lattices of shots with one crystal."""
        return np.flatnonzero(self.match.right & (self.kind_of_lattice == SINGLE))

    @property
    def true_reflections(self) -> Children:
        """Rows of the simulated reflections of each simulated lattice."""
        return Children(self.truth.reflections.lattice)

    @property
    def predicted_reflections(self) -> Children:
        """Rows of the product's reflections of each of its lattices."""
        return Children(self.product.reflections.lattice)


def match(product: Index, truth: Truth, space_group: str) -> Match:
    """Return the lattices of a product, each with the closest simulated one of its shot; the
    closest pairs are made first.
    """
    row_of_shot = {int(shot_id): row for row, shot_id in enumerate(truth.shots.shot_id)}
    true_shot = np.array(
        [row_of_shot.get(int(shot_id), -1) for shot_id in product.shots.shot_id], dtype=int
    )
    kind = np.full(len(true_shot), -1)
    if row_of_shot:
        kind = np.where(true_shot >= 0, truth.shots.kind[true_shot].astype(int), -1)

    n_lattices = len(product.lattices)
    matched = Match(
        kind=kind,
        row=np.full(n_lattices, -1),
        angle=np.full(n_lattices, np.nan),
        to_truth=np.tile(np.eye(3, dtype=int), (n_lattices, 1, 1)),
    )
    shot_of_lattice = true_shot[product.lattices.shot] if n_lattices else np.empty(0, int)
    lattices_of = Children(shot_of_lattice)
    true_lattices_of = Children(truth.lattices.shot)
    for shot in np.unique(shot_of_lattice[shot_of_lattice >= 0]).tolist():
        rows = lattices_of[shot]
        true_rows = true_lattices_of[shot]
        _match_shot(matched, rows, true_rows, product.lattices.A, truth.lattices.A, space_group)
    return matched


def match_lattices(shot_ids: np.ndarray, A: np.ndarray, truth: Truth, space_group: str) -> Match:
    """Return lattices with the closest simulated ones of their shots, as `match`.

    shot_ids: (lattice,). A: (lattice, 3, 3) Å⁻¹.
    """
    shots, shot = np.unique(shot_ids, return_inverse=True)
    product = Index(shots=Index.shots(shot_id=shots), lattices=Index.lattices(shot=shot, A=A))
    return match(product, truth, space_group)


def _match_shot(
    matched: Match,
    rows: np.ndarray,
    true_rows: np.ndarray,
    A: np.ndarray,
    true_A: np.ndarray,
    space_group: str,
) -> None:
    """Enter the pairs of one shot into `matched`, the closest first.

    rows, true_rows: of the shot's lattices in A (lattice, 3, 3) and true_A, both Å⁻¹.
    """
    angle = np.array(
        [
            [
                symmetry.misorientation(A[row], true_A[true_row], space_group)
                for true_row in true_rows
            ]
            for row in rows
        ]
    )
    while angle.size and np.isfinite(angle).any():
        i, j = np.unravel_index(np.nanargmin(angle), angle.shape)
        row = rows[i]
        true_row = true_rows[j]
        matched.row[row] = true_row
        matched.angle[row] = angle[i, j]
        matched.to_truth[row] = symmetry.same_indices(A[row], true_A[true_row], space_group)
        angle[i, :] = np.inf
        angle[:, j] = np.inf


# ---------------------------------------------------------------- figures of a run


def counts(run: MatchedRun) -> dict:
    """Return how many lattices were found on shots of each kind."""
    shot = run.product.lattices.shot
    kind = run.match.kind
    right = run.match.right
    n_lattices = np.bincount(shot, minlength=len(kind))
    n_right = np.bincount(shot[right], minlength=len(kind))
    is_single = kind == SINGLE
    is_blank = kind == BLANK
    is_double = kind == DOUBLE
    return {
        "n_singles": int(is_single.sum()),
        "n_singles_indexed": int((n_right[is_single] >= 1).sum()),
        "n_blanks": int(is_blank.sum()),
        "n_blanks_with_lattice": int((n_lattices > 0)[is_blank].sum()),
        "n_doubles": int(is_double.sum()),
        "n_doubles_both": int((n_right[is_double] >= 2).sum()),
        "n_lattices_wrong": int((~right & (run.kind_of_lattice >= 0)).sum()),
    }


def orientations(matches: Sequence[Match]) -> dict:
    """Return the misorientation, degrees, of all lattices of some runs that have a partner."""
    angles = [match.angle[match.row >= 0] for match in matches]
    angle = np.rad2deg(np.concatenate(angles))
    median, p95 = np.percentile(angle, [50, 95]) if len(angle) else (None, None)
    return {"misorientation_deg_median": median, "misorientation_deg_p95": p95}


def indices(run: MatchedRun) -> dict:
    """Return the share of spots with the right Miller index: that of the nearest simulated
    reflection that is bright enough for the spot.
    """
    product, truth, matched = run
    n_right = 0
    n_spots = 0
    true_reflections = run.true_reflections
    spots_of_lattice = Children(product.spots.lattice)
    for lattice in np.flatnonzero(matched.row >= 0).tolist():
        spots = spots_of_lattice[lattice]
        reflections = true_reflections[int(matched.row[lattice])]
        n_spots += len(spots)
        panel_of_spot = product.spots.panel[spots]
        panel_of_reflection = truth.reflections.panel[reflections]
        for panel in np.unique(panel_of_spot):
            on_panel = spots[panel_of_spot == panel]
            candidates = reflections[panel_of_reflection == panel]
            hkl = product.spots.hkl[on_panel] @ matched.to_truth[lattice].T
            n_right += _n_right(product.spots, truth.reflections, on_panel, candidates, hkl)
    return {"n_spots_indexed": n_spots, "miller_right": n_right / n_spots if n_spots else None}


def _n_right(
    spots: Spots,
    reflections: TrueReflections,
    rows: np.ndarray,
    true_rows: np.ndarray,
    hkl: np.ndarray,
) -> int:
    """Return how many spots of one panel have the Miller index of the nearest simulated reflection
    that is bright enough.

    rows, true_rows: the spots and reflections. hkl: (spot, 3), in the truth's setting.
    """
    true_positions = _positions(reflections, true_rows)
    photons = reflections.photons[true_rows]
    true_hkl = reflections.hkl[true_rows]
    positions = _positions(spots, rows)
    intensities = spots.intensity[rows]
    if not len(true_rows):
        return 0
    distance = np.linalg.norm(true_positions - positions[:, None], axis=-1)
    distance[photons < BRIGHT_SHARE * intensities[:, None]] = np.inf
    nearest = distance.argmin(axis=1)
    has_neighbour = np.isfinite(distance.min(axis=1))
    is_right = (true_hkl[nearest] == hkl).all(axis=1)
    return int((is_right & has_neighbour).sum())


def pulls(run: MatchedRun) -> np.ndarray:
    """Return (n,) (I − I_true)/σ of the unflagged reflections of the right lattices on shots with
    one crystal.
    """
    reflections = run.product.reflections
    parts = [np.empty(0)]
    for rows, true_rows in _common_reflections(run):
        is_clean = reflections.flags[rows] == 0
        true_intensity = run.truth.reflections.photons[true_rows]
        difference = reflections.intensity[rows] - true_intensity
        pull = difference / reflections.sigma[rows]
        parts.append(pull[is_clean])
    return np.concatenate(parts)


def recall(run: MatchedRun, d_min: float, shape: tuple[int, int]) -> dict:
    """Return the share of strong simulated reflections, on the panel and with d ≥ d_min, that were
    predicted.

    σ² = I_true + the background variance of the nearest predicted reflection of the lattice.
    """
    product, _, matched = run
    n_strong = 0
    n_predicted = 0
    true_reflections = run.true_reflections
    predicted_reflections = run.predicted_reflections
    for lattice, (_, common) in zip(run.right_on_singles, _common_reflections(run), strict=True):
        true_rows = true_reflections[matched.row[lattice]]
        predicted = predicted_reflections[lattice]
        is_integrated = product.reflections.flags[predicted] & ReflectionFlag.FAILED == 0
        predicted = predicted[is_integrated]
        if not len(predicted):
            continue
        strong = _is_strong(run, true_rows, predicted)
        strong &= _is_in_view(run.truth, int(matched.row[lattice]), true_rows, d_min, shape)
        n_strong += int(strong.sum())
        n_predicted += int(np.isin(true_rows[strong], common).sum())
    return {
        "n_strong_true": n_strong,
        "prediction_recall": n_predicted / n_strong if n_strong else None,
    }


def _is_strong(run: MatchedRun, true_rows: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return (reflection,) whether simulated reflections of a lattice exceed `STRONG_SIGMAS` σ."""
    reflections = run.product.reflections
    true_reflections = run.truth.reflections
    places = _positions(reflections, predicted)
    true_places = _positions(true_reflections, true_rows)
    distance = (places**2).sum(axis=1) - 2 * true_places @ places.T  # squared, but for a constant
    neighbours = predicted[distance.argmin(axis=1)]
    photons = true_reflections.photons[true_rows]
    sigma = np.sqrt(photons + reflections.sigma_background[neighbours] ** 2)
    return photons > STRONG_SIGMAS * sigma


def _is_in_view(
    truth: Truth, lattice: int, rows: np.ndarray, d_min: float, shape: tuple[int, int]
) -> np.ndarray:
    """Return (reflection,) whether simulated reflections of a lattice lie on the panel and have
    d ≥ d_min.

    shape: (slow, fast) pixels of the panel.
    """
    d = unit_cell.spacing(truth.lattices.A[lattice], truth.reflections.hkl[rows])
    fast, slow = _positions(truth.reflections, rows).T
    on_panel = (fast >= 0) & (fast < shape[1]) & (slow >= 0) & (slow < shape[0])
    return (d >= d_min) & on_panel


def _common_reflections(run: MatchedRun) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return, for each right lattice of a shot with one crystal, the rows of the reflections that
    both tables have: in the product and in the truth.
    """
    product, truth, matched = run
    true_reflections = run.true_reflections
    predicted_reflections = run.predicted_reflections
    common = []
    for lattice in run.right_on_singles:
        rows = predicted_reflections[lattice]
        true_rows = true_reflections[matched.row[lattice]]
        hkl = product.reflections.hkl[rows] @ matched.to_truth[lattice].T
        partner = miller.rows(truth.reflections.hkl[true_rows], hkl)
        has_partner = partner >= 0
        common.append((rows[has_partner], true_rows[partner[has_partner]]))
    return common


def _positions(table: Spots | Reflections | TrueReflections, rows: np.ndarray) -> np.ndarray:
    """Return (row, 2) fast and slow, px."""
    return np.stack([table.fast[rows], table.slow[rows]], axis=1)
