"""How a detector moves in rigid groups: rigid motions of each, and none of the whole beside the
detector's own.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from spreadflow.analysis import detector_moves
from spreadflow.analysis.detector_moves import N_BODY, N_OWN, RigidGroups
from spreadflow.models import Detector
from spreadflow.physics import geometry, rotation

GROUP_OF_PANEL = np.array([0, 0, 1, 1, 2, 0])
EVERYTHING = ("shift", "distance", "tilt", "turn")


def detector() -> Detector:
    """Return six panels strewn about the beam, none quite across it."""
    rng = np.random.default_rng(5)
    turns = rotation.from_vector(0.05 * rng.normal(size=(6, 3)))
    return Detector(
        origin_mm=rng.normal(size=(6, 3)) * (60, 60, 3) - (0, 0, 120),
        fast=turns[:, :, 0],
        slow=-turns[:, :, 1],
        pixel_mm=np.array(0.1),
        shape=(200, 300),
    )


def groups(*refined: str, sigma_mm: float = 0.3) -> RigidGroups:
    return RigidGroups(GROUP_OF_PANEL, refined, sigma_mm, sigma_rad=0.005)


def corners(x: Detector) -> np.ndarray:
    """Return the lab positions (panel, 4, 3) of all corners, mm."""
    slow, fast = np.meshgrid([0.0, x.shape[0]], [0.0, x.shape[1]])
    panel = np.repeat(np.arange(x.n_panels), 4)
    args = (np.tile(fast.ravel(), x.n_panels), np.tile(slow.ravel(), x.n_panels))
    return geometry.position(x, panel, *args).reshape(x.n_panels, 4, 3)


def test_a_group_moves_as_a_body_and_alone():
    d = np.zeros(N_BODY + 3 * N_OWN)
    d[N_BODY + N_OWN : N_BODY + 2 * N_OWN] = (0.3, -0.2, 0.1, 0.01, -0.02, 0.03)
    before = corners(detector())
    after = corners(detector_moves.placed(detector(), d, GROUP_OF_PANEL))
    is_moved = GROUP_OF_PANEL == 1
    np.testing.assert_allclose(after[~is_moved], before[~is_moved], atol=1e-12)
    inner = [x[is_moved].reshape(-1, 3) for x in (before, after)]
    between = [np.linalg.norm(x[:, None] - x, axis=-1) for x in inner]
    np.testing.assert_allclose(*between, atol=1e-10)

    # the middle moves by the shift alone, along the axes of panel 0
    middle = inner[1].mean(axis=0) - inner[0].mean(axis=0)
    normal = np.cross(detector().fast[0], detector().slow[0])
    away = normal * np.sign(normal @ detector().origin_mm[0])
    expected = 0.3 * detector().fast[0] - 0.2 * detector().slow[0] + 0.1 * away
    np.testing.assert_allclose(middle, expected, atol=1e-10)


@pytest.mark.parametrize(("refined", "small"), [(("shift", "turn"), 0.01), (EVERYTHING, 1e-5)])
def test_groups_on_the_whole_neither_move_nor_turn(refined, small):
    """To first order: sums of displacements, and of their moments. Shifts in the plane of panels
    that are tilted against each other make up no motion of the whole exactly.
    """
    moves = detector_moves.moves_of(detector(), ("shift", "distance"), groups(*refined))
    rng = np.random.default_rng(1)
    d = 1e-6 * moves.basis[:, len(moves.body) :] @ rng.normal(size=moves.basis.shape[1] - 3)
    assert np.abs(d).max() > 0
    before = corners(detector()).reshape(-1, 3)
    after = corners(detector_moves.placed(detector(), d, GROUP_OF_PANEL)).reshape(-1, 3)
    moved = after - before
    normal = np.cross(detector().fast[0], detector().slow[0])
    in_plane = moved - np.outer(moved @ normal, normal)
    size = np.linalg.norm(moved, axis=1).sum()
    assert np.linalg.norm(in_plane.sum(axis=0)) < small * size
    assert abs(np.cross(before, moved).sum(axis=0) @ normal) < small * size * 100
    if "distance" in refined:
        assert np.linalg.norm(np.cross(before, moved).sum(axis=0)) < small * size * 100


@pytest.mark.parametrize(
    ("refined", "n_free"), [(("shift", "turn"), 2 + 9 - 3), (EVERYTHING, 2 + 18 - 6)]
)
def test_what_is_refined_is_counted(refined, n_free):
    """Two of the detector, those of three groups, less the motions of the whole."""
    moves = detector_moves.moves_of(detector(), ("shift",), groups(*refined))
    assert moves.basis.shape == (N_BODY + 3 * N_OWN, n_free)
    assert moves.n_groups == 3
    is_held = ~moves.basis.any(axis=1)
    for kind in set(EVERYTHING) - set(refined):
        for n in detector_moves.KINDS[kind]:
            assert is_held[N_BODY + n :: N_OWN].all()


@pytest.mark.parametrize("parallax_mm", [None, 0.2])
def test_derivatives_of_positions_equal_finite_differences(parallax_mm):
    """By the detector, and by the group that the spot is on; at a place that is not the file's."""
    x = detector()._replace(thickness_mm=0.5, parallax_mm=parallax_mm)
    rng = np.random.default_rng(2)
    sizes = np.array([0.1, 0.1, 0.1, 1e-3, 1e-3, 1e-3])
    d = np.concatenate([sizes[:5], *(sizes * rng.normal(size=6) for _ in range(3))])
    panel = np.arange(6, dtype=np.int32)
    s1 = geometry.direction(x, panel, np.full(6, 90.0), np.full(6, 150.0))
    by_moves = np.asarray(detector_moves.spots_by_moves(x, d, GROUP_OF_PANEL, panel, s1))

    def positions(d):
        there = detector_moves.placed(x, d, GROUP_OF_PANEL)
        return jnp.stack(geometry.on_panel(there, panel, s1), axis=-1)

    for k in range(N_BODY + 3 * N_OWN):
        step = 1e-5 * np.eye(len(d))[k]
        difference = np.asarray(positions(d + step) - positions(d - step)) / 2e-5
        group, own = divmod(k - N_BODY, N_OWN)
        is_on = group == GROUP_OF_PANEL if k >= N_BODY else np.ones(6, bool)
        column = N_BODY + own if k >= N_BODY else k
        expected = np.where(is_on[:, None], by_moves[:, :, column], 0.0)
        np.testing.assert_allclose(difference, expected, rtol=2e-5, atol=2e-4)
