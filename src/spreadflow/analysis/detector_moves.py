"""How a detector moves: as a body, and in rigid groups of panels beside it.

Unknowns d: five of the detector (`NAMES`), then six of each group: the same, and a turn about the
normal. All are along the axes of panel 0 in the file. The detector tilts about the point where the
beam meets the plane of panel 0; a group tilts and turns about the middle of its panels. A turn of
the whole detector about the beam is a turn of all crystals, and no unknown.

The mean motion of all groups is the detector's, by definition: groups move so that the pixels on
the whole neither move nor turn, as far as groups could imitate that. What is refined are the
coordinates along `Moves.basis`, each of whose columns does so.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.analysis.orientation_matrix import turn
from spreadflow.models import Array, Detector
from spreadflow.physics import geometry

NAMES = ("shift_fast_mm", "shift_slow_mm", "distance_mm", "tilt_fast_rad", "tilt_slow_rad")
"""The unknowns of the detector, in this order."""

N_BODY = len(NAMES)
"""How many the detector has as a body."""

N_OWN = N_BODY + 1
"""How many a group has: the last one is its turn about the normal, rad."""

KINDS = {"shift": (0, 1), "distance": (2,), "tilt": (3, 4), "turn": (5,)}
"""Numbers of the unknowns that are refined together, of the detector or of a group."""

LENGTHS = 3
"""The first unknowns are lengths, mm; the others angles, rad."""

IMITATED = 0.5
"""Cosine, between displacements of the pixels, from which on groups imitate a motion of the whole:
1 for one that their unknowns make up, 0.01 for a tilt of the whole by shifts in its plane.
"""


class RigidGroups(NamedTuple):
    """Panels that move together, and how freely."""

    group_of_panel: np.ndarray
    """(panel,) int, number of the group; every panel is in one"""
    refined: Collection[str]
    """`KINDS` of the unknowns of groups"""
    sigma_mm: float
    """standard deviation of shifts and distances about where the file has a group"""
    sigma_rad: float
    """standard deviation of turns and tilts"""


class Moves(NamedTuple):
    """What moves in a refinement."""

    group_of_panel: Array | None
    """(panel,) int; None = the detector is one body"""
    body: list[int]
    """numbers of the refined unknowns of the detector"""
    basis: np.ndarray
    """(unknown, free) what is refined: the columns of the detector, then those of groups"""
    precision: np.ndarray
    """(unknown,) of the restraint towards the file, 1/mm², 1/rad²; 0 = none"""

    @property
    def n_groups(self) -> int:
        """Rigid groups; 0 where the detector is one body."""
        return (len(self.basis) - N_BODY) // N_OWN


class Position(NamedTuple):
    """A detector after a move."""

    file: Detector
    """where it was"""
    moves: Moves
    d: np.ndarray
    """(unknown,)"""
    detector: Detector
    """where it is, NumPy"""


def moves_of(
    detector: Detector, refined: Collection[str], groups: RigidGroups | None = None
) -> Moves:
    """Return what moves: these `KINDS` of the detector, and those of its groups."""
    body = [n for kind, numbers in KINDS.items() if kind in refined for n in numbers if n < N_BODY]
    of_body = np.eye(N_BODY)[:, body]
    if groups is None:
        return Moves(None, body, of_body, np.zeros(N_BODY))

    group_of_panel = np.asarray(groups.group_of_panel)
    n_groups = int(group_of_panel.max()) + 1
    of_groups = _inner_motions(detector, group_of_panel, n_groups, groups.refined)
    sigma = np.full(N_OWN, groups.sigma_rad)
    sigma[:LENGTHS] = groups.sigma_mm
    basis = np.zeros((N_BODY + len(of_groups), len(body) + of_groups.shape[1]))
    basis[:N_BODY, : len(body)] = of_body
    basis[N_BODY:, len(body) :] = of_groups
    precision = np.concatenate([np.zeros(N_BODY), np.tile(sigma**-2, n_groups)])
    return Moves(group_of_panel, body, basis, precision)


def _inner_motions(
    detector: Detector, group_of_panel: np.ndarray, n_groups: int, refined: Collection[str]
) -> np.ndarray:
    """Return the motions of groups (6 · group, free) that have nothing in common with a motion of
    the whole which groups can imitate. Motions are compared by the displacements of all corners.
    """
    by_own = np.asarray(_corners_by(detector, np.zeros(N_OWN * n_groups), group_of_panel))
    in_one_group = np.zeros_like(group_of_panel)
    by_whole = np.asarray(_corners_by(detector, np.zeros(N_OWN), in_one_group))

    kinds = [n for kind, numbers in KINDS.items() if kind in refined for n in numbers]
    free = [N_OWN * group + n for group in range(n_groups) for n in kinds]
    displacements, units = np.linalg.qr(by_own[:, free])
    whole, _ = np.linalg.qr(by_whole)
    _, cosines, directions = np.linalg.svd(whole.T @ displacements)
    n_imitated = int(np.count_nonzero(cosines > IMITATED))
    motions = np.zeros((N_OWN * n_groups, len(free) - n_imitated))
    motions[free] = np.linalg.solve(units, directions[n_imitated:].T)
    return motions


def _corners_by(detector: Detector, own: np.ndarray, group_of_panel: np.ndarray):
    """Return the derivatives (3 · corner, unknown) of the corners of all panels by the unknowns of
    groups.
    """
    n_slow, n_fast = detector.shape
    panel = np.repeat(np.arange(detector.n_panels), 4)
    fast = np.tile([0.0, n_fast, 0.0, n_fast], detector.n_panels)
    slow = np.tile([0.0, 0.0, n_slow, n_slow], detector.n_panels)

    def corners(own):
        d = jnp.concatenate([jnp.zeros(N_BODY), own])
        return geometry.position(moved(detector, d, group_of_panel), panel, fast, slow).ravel()

    return jax.jacfwd(corners)(own)


# ---------------------------------------------------------------- moving


class _Frame(NamedTuple):
    """What moves are counted along and about."""

    fast: Array
    """(3,)"""
    slow: Array
    """(3,)"""
    away: Array
    """(3,) normal, away from the sample"""
    pivot: Array
    """(3,) mm"""

    def turned(self, v):
        """Return the rotation matrix of tilts about fast and slow, and a turn, (3,) rad."""
        return turn(v[0] * self.fast + v[1] * self.slow + v[2] * self.away)

    def shifted(self, v):
        """Return the lab vector of a shift along fast, slow and away, (3,) mm."""
        return v[0] * self.fast + v[1] * self.slow + v[2] * self.away


def _frame(detector: Detector) -> _Frame:
    """Return the frame of panel 0."""
    normal = geometry.normals(detector)[0]
    height = (detector.origin_mm[0] * normal).sum()
    cosine = (geometry.S0 * normal).sum()
    return _Frame(
        fast=detector.fast[0],
        slow=detector.slow[0],
        away=normal * jnp.sign(height),
        pivot=geometry.S0 * height / cosine,
    )


def _moved(frame: _Frame, panels: Detector, d, own, centres) -> Detector:
    """Return panels moved by `own` (panel, 6) about `centres` (panel, 3), then by d (5,) as one."""
    angles = own[:, LENGTHS:]
    turns = jax.vmap(frame.turned)(angles)
    shifts = jax.vmap(frame.shifted)(own[:, :LENGTHS])
    origin = jnp.einsum("pij,pj->pi", turns, panels.origin_mm - centres) + centres + shifts
    fast = jnp.einsum("pij,pj->pi", turns, panels.fast)
    slow = jnp.einsum("pij,pj->pi", turns, panels.slow)

    tilt = frame.turned(jnp.append(d[LENGTHS:], 0.0))
    return panels._replace(
        origin_mm=(origin - frame.pivot) @ tilt.T + frame.pivot + frame.shifted(d[:LENGTHS]),
        fast=fast @ tilt.T,
        slow=slow @ tilt.T,
    )


def _own(detector: Detector, d, group_of_panel) -> tuple[Array, Array]:
    """Return the unknowns (panel, 6) of each panel's group, and the middle of its panels, mm."""
    if group_of_panel is None:
        n = detector.n_panels
        return jnp.zeros((n, N_OWN)), jnp.zeros((n, 3))
    n_groups = (len(d) - N_BODY) // N_OWN
    n_slow, n_fast = detector.shape
    panels = np.arange(detector.n_panels)
    middles = geometry.position(detector, panels, 0.5 * n_fast, 0.5 * n_slow)
    total = jnp.zeros((n_groups, 3)).at[group_of_panel].add(middles)
    n_panels = jnp.zeros(n_groups).at[group_of_panel].add(1.0)
    own = jnp.reshape(d[N_BODY:], (n_groups, N_OWN))
    return own[group_of_panel], (total / n_panels[:, None])[group_of_panel]


@jax.jit
def moved(detector: Detector, d, group_of_panel=None) -> Detector:
    """Return the detector after a move: of its groups, then of the whole, which is first tilted,
    then shifted.

    d: (5,) or (5 + 6 · group,); group_of_panel: (panel,), where there are groups.
    """
    own, centres = _own(detector, d, group_of_panel)
    return _moved(_frame(detector), detector, d[:N_BODY], own, centres)


def placed(detector: Detector, d: np.ndarray, group_of_panel: Array | None = None) -> Detector:
    """Return `moved`, as NumPy."""
    there = moved(detector, d, group_of_panel)
    return detector._replace(
        origin_mm=np.asarray(there.origin_mm),
        fast=np.asarray(there.fast),
        slow=np.asarray(there.slow),
    )


def position(file: Detector, moves: Moves, d: np.ndarray) -> Position:
    """Return where a move takes the detector of the file."""
    return Position(file, moves, d, placed(file, d, moves.group_of_panel))


@jax.jit
def spots_by_moves(detector: Detector, d, group_of_panel, panel, s1):
    """Return the derivatives (n, 2, 11), px, of where panels (n,) record rays s1 (n, 3): by the
    unknowns of the detector, then by those of the spot's own group. Shapes are static.
    """
    frame = _frame(detector)
    own, centres = _own(detector, d, group_of_panel)
    of_spots = detector._replace(
        origin_mm=detector.origin_mm[panel],
        fast=detector.fast[panel],
        slow=detector.slow[panel],
    )

    def positions(step):
        there = _moved(
            frame, of_spots, d[:N_BODY] + step[:N_BODY], own[panel] + step[N_BODY:], centres[panel]
        )
        return jnp.stack(geometry.on_panel(there, jnp.arange(len(s1)), s1), axis=-1)

    return jax.jacfwd(positions)(jnp.zeros(N_BODY + N_OWN))


def numbers_of_groups(groups: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the numbers (6 · group,) of the unknowns of some groups."""
    first = N_BODY + N_OWN * np.asarray(groups, dtype=int)
    return (first[:, None] + np.arange(N_OWN)).ravel()
