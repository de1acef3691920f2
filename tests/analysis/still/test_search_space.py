"""Reduction and tolerance boxes: gemmi's Niggli cells, and cells drawn from within the
tolerances.
"""

import gemmi
import numpy as np
import pytest

from spreadflow.analysis.still import search_space
from spreadflow.physics import symmetry, unit_cell

CELLS = [
    ((67.2, 59.8, 47.2, 90, 110.3, 90), "C 1 2 1"),
    ((107, 107, 304, 90, 90, 90), "P 41 21 2"),
    ((41, 52, 63, 78, 99, 107), "P 1"),
    ((120, 120, 120, 90, 90, 90), "F 4 3 2"),
    ((90, 90, 140, 90, 90, 120), "R 3 2:H"),
    ((92, 92, 130, 90, 90, 120), "P 61 2 2"),
    ((35, 60, 120, 90, 140, 90), "P 1 21 1"),
    ((52, 60, 47, 90, 101, 90), "I 1 2 1"),
]


@pytest.mark.parametrize(("cell", "space_group"), CELLS)
def test_reduced_axes_are_niggli(cell, space_group):
    """The three lengths are those of gemmi's Niggli reduction; volume and hand stay the same."""
    conventional = unit_cell.orthogonalization(unit_cell.radians(cell))
    basis = conventional @ symmetry.primitive(space_group)
    reduced = basis @ search_space._reduce(basis)
    gruber = gemmi.GruberVector(gemmi.UnitCell(*cell), space_group[0])
    gruber.niggli_reduce()
    expected = gruber.get_cell().parameters[:3]

    np.testing.assert_allclose(np.linalg.norm(reduced, axis=0), expected, rtol=1e-6)
    assert np.linalg.det(reduced) == pytest.approx(np.linalg.det(basis), rel=1e-9)


@pytest.mark.parametrize(("cell", "space_group"), CELLS)
def test_the_grids_reach_every_cell_within_the_tolerances(cell, space_group):
    """For each order of axes some trial vector is within two grid steps of each axis of any
    permitted cell.
    """
    cell = symmetry.constrain_cell(unit_cell.radians(cell), space_group)
    target = search_space.target_of(cell, space_group, n_directions=4096)
    primitive = unit_cell.orthogonalization(cell) @ target.primitive
    to_reduced = target.primitive @ search_space._reduce(primitive)

    rng = np.random.default_rng(1)
    tolerances = np.append(0.05 * cell[:3], [np.deg2rad(5.0)] * 3)
    for _ in range(5):
        shift = rng.uniform(-0.95, 0.95, 6) * tolerances
        permitted = symmetry.constrain_cell(cell + shift, space_group)
        basis = unit_cell.orthogonalization(permitted) @ to_reduced
        for plan, order in zip(target.plans, search_space.CYCLIC_ORDERS, strict=True):
            _check_reached(plan, *basis[:, order].T)


def _check_reached(plan, one, two, three):
    """Assert that some trial vector of a plan is near each of three axes."""
    assert plan.lengths[0] <= np.linalg.norm(one) <= plan.lengths[1]
    across = np.eye(3)[np.argmin(np.abs(one))]
    in_ring = search_space.axes_frame(one, across).T @ two
    in_box = search_space.axes_frame(one, two).T @ three
    both_halves = np.concatenate([plan.shell.vectors, -plan.shell.vectors], axis=1)
    for grid, vectors, axis in (
        (plan.shell, both_halves, one),
        (plan.ring, plan.ring.vectors, in_ring),
        (plan.box, plan.box.vectors, in_box),
    ):
        step = search_space.PHASE / grid.q_max
        distance = np.linalg.norm(vectors - axis[:, None], axis=0)
        assert distance.min() < 1.5 * step


def test_symmetry_leaves_nothing_to_search_where_it_decides():
    """Tetragonal: the box of the third axis is long along c only; monoclinic: wide across c as
    well.
    """
    square = search_space.target_of(
        unit_cell.radians((107, 107, 304, 90, 90, 90)),
        "P 41 21 2",
        angle_tolerance=0.09,
        n_directions=1000,
    )
    size = np.ptp(square.plans[0].box.vectors, axis=1)

    assert size[2] > 30.0
    assert max(size[:2]) < 20.0  # twice the error of a found axis, 1.5° of 304 Å
