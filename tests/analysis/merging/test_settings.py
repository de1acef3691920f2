"""Lattices of one crystal in several settings come out in one; settings that no cell tells apart
are left alone.
"""

import numpy as np
import pytest

from spreadflow.analysis.merging import settings
from spreadflow.physics import symmetry, unit_cell

SCATTER = np.array([0.05, 0.05, 0.05, 0.05, 0.05, 0.05])
"""Å and degrees"""

CASES = {
    "β near a right angle": ("P 1 21 1", [60.0, 50.0, 80.0, 90.0, 90.4, 90.0], 2),
    "a about c": ("P 1 21 1", [60.0, 50.0, 60.5, 90.0, 100.4, 90.0], 2),
    "triclinic angles about 90°": ("P 1", [40.0, 50.0, 60.0, 88.5, 91.5, 92.0], 4),
    "b about c": ("P 21 21 21", [50.0, 60.0, 62.0, 90.0, 90.0, 90.0], 2),
}


def mixed(group, cell, n=200, seed=0):
    """Cells (n, 6), Å and rad, that scatter about one, of which a third are in other settings; and
    which.
    """
    rng = np.random.default_rng(seed)
    possible = settings.changes(unit_cell.radians(cell), group)
    which = rng.integers(0, len(possible), n) * (rng.random(n) < 0.4)
    cells = []
    for number in which:
        scattered = unit_cell.radians(np.array(cell) + SCATTER * rng.normal(size=6))
        constrained = symmetry.constrain_cell(scattered, group)
        cells.append(settings.in_setting(constrained, possible[number]))
    return np.array(cells), which


def test_changes_of_basis_keep_the_group():
    for group, cell, n in CASES.values():
        assert len(settings.changes(unit_cell.radians(cell), group)) == n
    for group, cell in (
        ("C 1 2 1", [67.2, 59.8, 47.2, 90.0, 110.3, 90.0]),
        ("P 41 21 2", [92.0, 92.0, 41.0, 90.0, 90.0, 90.0]),
    ):
        (only,) = settings.changes(unit_cell.radians(cell), group)
        np.testing.assert_array_equal(only, np.eye(3))


@pytest.mark.parametrize("case", CASES)
def test_lattices_of_one_crystal_share_a_setting(case):
    group, cell, _ = CASES[case]
    cells, which = mixed(group, cell)
    brought = settings.common(cells, group)

    assert (brought.is_changed == (which > 0)).all()
    assert not brought.is_ambiguous
    for own, change in zip(cells, brought.changes, strict=True):
        difference = unit_cell.degrees(settings.in_setting(own, change)) - cell
        assert np.abs(difference).max() < 0.3
        assert np.linalg.det(change).round() == 1


def test_a_reference_decides_whatever_most_lattices_have():
    group, cell, _ = CASES["a about c"]
    cells, which = mixed(group, cell)
    swapped = unit_cell.radians([60.5, 50.0, 60.0, 90.0, 100.4, 90.0])
    brought = settings.common(cells, group, swapped)
    assert (brought.is_changed == (which == 0)).all()


def test_settings_of_one_cell_are_left_alone():
    """β is a right angle within the scatter: nothing tells h, k, l from −h, −k, l."""
    cells, _ = mixed("P 1 21 1", [60.0, 50.0, 80.0, 90.0, 90.0, 90.0])
    brought = settings.common(cells, "P 1 21 1")
    assert brought.is_ambiguous
    assert not brought.is_changed.any()


def test_another_crystal_form_stays_as_it_is():
    cells, _ = mixed("P 1 21 1", [60.0, 50.0, 80.0, 90.0, 91.0, 90.0], n=60)
    others, _ = mixed("P 1 21 1", [60.0, 53.0, 80.0, 90.0, 89.0, 90.0], n=20, seed=1)
    brought = settings.common(np.concatenate([cells, others]), "P 1 21 1")
    assert not brought.is_changed[60:].any()


def test_indices_and_matrix_of_another_setting_are_the_same_nodes():
    cell = unit_cell.radians([60.0, 50.0, 60.5, 90.0, 100.4, 90.0])
    change = settings.changes(cell, "P 1 21 1")[1]
    A = unit_cell.reciprocal(cell)
    hkl = np.array([[1, 2, 3], [-4, 0, 5]])
    moved = A @ np.linalg.inv(change.T)
    np.testing.assert_allclose(moved @ (change.T @ hkl.T), A @ hkl.T, atol=1e-15)
    expected = settings.in_setting(cell, change)
    np.testing.assert_allclose(unit_cell.cell_of(moved), expected, rtol=1e-12)
